//! A directory belongs to a run of its inputs, weights and settings. Names of folders do not
//! matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_core::{BoxError, Encoder, EncoderLoader, EncoderSpec, Rank};
use plm_esm2::Checkpoint;
use plm_fleet::{
    Devices, EmbeddingsFile, Error, Model, Part, PlanConfig, RunConfig, RunReport, aggregate_parts,
    run_multi_gpu_inference, verify_run,
};
use plm_testkit::{FakeLoader, random_residues};

/// Some proteins, a checkpoint, and a folder for their runs.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        let record = |row| {
            let residues = random_residues(row, 20 + row as usize);
            format!(">p{row}\n{}\n", String::from_utf8(residues).unwrap())
        };
        let fasta: String = (0..12).map(record).collect();
        fs::write(desk.path("in.fasta"), fasta).unwrap();
        Checkpoint::plm_tiny().save(desk.path("first")).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, model: &Model, out: &str, config: &RunConfig) -> Result<RunReport, Error> {
        run_multi_gpu_inference([self.path("in.fasta")], model, self.path(out), config)
    }

    fn file(&self, out: &str) -> Vec<u8> {
        fs::read(self.path(out).join("embeddings.h5")).unwrap()
    }

    fn model(&self, folder: &str) -> Model {
        Model::Checkpoint(self.path(folder))
    }

    /// Renames the model's folder.
    fn rename_model(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }
}

fn config() -> RunConfig {
    RunConfig {
        devices: Devices::CPU,
        plan: PlanConfig::builder().max_batch_tokens(80).build().unwrap(),
        ..RunConfig::default()
    }
}

fn part(index: u32) -> RunConfig {
    RunConfig {
        part: Part::new(index, 2).unwrap(),
        ..config()
    }
}

fn model_in(file: &Path) -> String {
    let file = EmbeddingsFile::open(file.join("embeddings.h5")).unwrap();
    file.provenance().model.clone()
}

#[test]
fn a_run_goes_on_whose_models_folder_was_renamed() {
    let desk = Desk::new();
    desk.run(&desk.model("first"), "whole", &config()).unwrap();

    desk.run(&desk.model("first"), "parts", &part(0)).unwrap();
    desk.rename_model("first", "second");
    let report = desk.run(&desk.model("second"), "parts", &part(1)).unwrap();
    assert_eq!(report.model, "first");
    aggregate_parts(desk.path("parts"), &[]).unwrap();
    verify_run(desk.path("parts")).unwrap();
    assert!(desk.file("parts") == desk.file("whole"));

    // A finished run also counts as finished.
    let again = desk.run(&desk.model("second"), "whole", &config()).unwrap();
    assert_eq!(again.model, "first");
    assert_eq!(model_in(&desk.path("whole")), "first");
}

#[test]
fn parts_that_knew_the_model_by_several_names_are_one_run() {
    let desk = Desk::new();
    desk.run(&desk.model("first"), "one", &part(0)).unwrap();
    desk.rename_model("first", "second");
    desk.run(&desk.model("second"), "two", &part(1)).unwrap();
    let parts = [desk.path("one"), desk.path("two")];
    let report = aggregate_parts(desk.path("all"), &parts).unwrap();
    verify_run(desk.path("all")).unwrap();
    assert_eq!(report.model, "first");
    assert_eq!(model_in(&desk.path("all")), "first");

    desk.rename_model("second", "first");
    desk.run(&desk.model("first"), "whole", &config()).unwrap();
    assert!(desk.file("all") == desk.file("whole"));
}

/// [`FakeLoader`]'s encoders under the name of another model.
struct Another(FakeLoader, EncoderSpec);

impl Another {
    fn model(change: impl FnOnce(&mut EncoderSpec)) -> Model {
        let fake = FakeLoader::new(8);
        let mut spec = fake.spec().clone();
        change(&mut spec);
        let loader: Arc<dyn EncoderLoader> = Arc::new(Self(fake, spec));
        Model::from(loader)
    }
}

impl EncoderLoader for Another {
    fn spec(&self) -> &EncoderSpec {
        &self.1
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        self.0.load(rank)
    }
}

#[test]
fn what_decides_vectors_is_not_mixed_and_a_name_decides_none() {
    let desk = Desk::new();
    desk.run(&Another::model(|_| ()), "out", &config()).unwrap();
    let file = desk.file("out");
    let renamed = Another::model(|spec| spec.model = "other".to_owned());
    desk.run(&renamed, "out", &config()).unwrap();

    type Change = fn(&mut EncoderSpec);
    let changes: [(&str, Change); 6] = [
        ("weights", |spec| spec.weights_digest = "none:1".to_owned()),
        ("adapter", |spec| {
            spec.adapter_digest = Some("none:1".to_owned());
        }),
        ("layer", |spec| spec.outputs[0].layer = 1),
        ("pooling", |spec| {
            spec.outputs[0].pooling = "maximum".to_owned();
        }),
        ("special_tokens", |spec| {
            spec.outputs[0].special_tokens = "excluded".to_owned();
        }),
        ("backend", |spec| spec.backend = "cuda".to_owned()),
    ];
    for (field, change) in changes {
        let refused = desk
            .run(&Another::model(change), "out", &config())
            .unwrap_err();
        assert!(matches!(refused, Error::OtherRun { .. }), "{refused}");
        assert!(refused.to_string().contains(field), "{refused}");
    }
    assert!(desk.file("out") == file);
}

#[test]
fn provenance_says_what_the_loader_says() {
    let desk = Desk::new();
    let composition = Another::model(|spec| {
        spec.outputs[0].pooling = "fractions of residues".to_owned();
        spec.outputs[0].special_tokens = "none".to_owned();
    });
    desk.run(&composition, "custom", &config()).unwrap();
    desk.run(&desk.model("first"), "esm2", &config()).unwrap();
    let words = |out: &str| {
        let file = EmbeddingsFile::open(desk.path(out).join("embeddings.h5")).unwrap();
        let output = &file.outputs()[0];
        (output.pooling.clone(), output.special_tokens.clone())
    };
    let both = |pooling: &str, special: &str| (pooling.to_owned(), special.to_owned());
    assert_eq!(words("custom"), both("fractions of residues", "none"));
    assert_eq!(words("esm2"), both("mean over residues", "excluded"));
}
