//! Models by name, against a hub on the loopback that fails on cue.

mod answers;
mod broken;
mod cache;
mod python;
mod refused;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plm_hub::{Error, Hub, HubConfig, Snapshot, Wanted, WeightFiles};
use plm_testkit::{FakeHub, SplitMix64};
use tempfile::TempDir;

const NAME: &str = "facebook/toy";
const COMMIT: &str = "c731040fcd8d73dceaa04b0a8e6329b345b0f5df";
const CONFIG: &[u8] = br#"{"model_type": "toy"}"#;

/// What a caller reads in these tests.
fn wanted() -> Wanted {
    Wanted {
        what: "model",
        config: "config.json",
        texts: vec!["vocab.txt"],
        weights: vec![WeightFiles {
            single: "model.safetensors",
            index: Some("model.safetensors.index.json"),
        }],
    }
}

/// A hub with a model of this many bytes, and an empty cache.
struct Scene {
    hub: FakeHub,
    scratch: TempDir,
    weights: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        Self::with_weights(100_000)
    }

    fn with_weights(bytes: usize) -> Self {
        let mut random = SplitMix64::new(7);
        let weights: Vec<u8> = (0..bytes).map(|_| random.next_u64() as u8).collect();
        let hub = FakeHub::start();
        let files: [(&str, &[u8]); 5] = [
            ("README.md", b"a toy"),
            ("config.json", CONFIG),
            ("model.safetensors", &weights),
            ("pytorch_model.bin", b"a pickle"),
            ("vocab.txt", b"<cls>\n"),
        ];
        hub.put(NAME, COMMIT, &["main", "refs/pr/1"], &files);
        Self {
            hub,
            scratch: tempfile::tempdir().unwrap(),
            weights,
        }
    }

    fn config(&self) -> HubConfig {
        let mut config = HubConfig::new(self.cache());
        config.endpoint = self.hub.endpoint().to_owned();
        config.timeout = Duration::from_secs(2);
        config.pause = Duration::from_millis(1);
        config
    }

    fn cache(&self) -> PathBuf {
        self.scratch.path().join("cache")
    }

    fn repository(&self) -> PathBuf {
        self.cache().join("models--facebook--toy")
    }

    fn find(&self) -> Result<Snapshot, Error> {
        self.find_as(NAME)
    }

    fn find_as(&self, name: &str) -> Result<Snapshot, Error> {
        Hub::new(self.config()).find(&name.parse().unwrap(), &wanted())
    }

    /// What the offline hub finds, which asks nobody.
    fn cached(&self) -> Option<Snapshot> {
        Hub::new(self.config()).cached(&NAME.parse().unwrap(), &wanted())
    }

    /// Asserts that a snapshot is the model, and that nothing else was fetched.
    #[track_caller]
    fn assert_whole(&self, snapshot: &Snapshot) {
        assert_eq!(snapshot.commit, COMMIT);
        assert_eq!(
            names(&snapshot.dir),
            ["config.json", "model.safetensors", "vocab.txt"]
        );
        let read = |file: &str| fs::read(snapshot.dir.join(file)).unwrap();
        assert_eq!(read("config.json"), CONFIG);
        assert!(read("model.safetensors") == self.weights, "other weights");
        let blobs = names(&self.repository().join("blobs"));
        assert!(
            !blobs.iter().any(|name| name.contains("incomplete")),
            "{blobs:?}"
        );
    }
}

/// The names in a directory, sorted; none if it is not there.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}
