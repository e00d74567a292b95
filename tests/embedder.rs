//! Embeddings without files: the bits of a run, in order or as they come, whatever fails.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use plm_fleet::core::{BoxError, Encoder, EncoderLoader, EncoderSpec, Rank};
use plm_fleet::{
    BatchTimeout, Dtype, Embedder, EmbedderConfig, EmbeddingsFile, Error, LaneConfig, Layer,
    LongSequences, Model, Outcome, OutputKind, OutputSet, PlanConfig, RunConfig, SequenceError,
    run_multi_gpu_inference,
};
use plm_testkit::{EncoderFault, FakeLoader, Poison, fake_vector, random_residues, within};

/// Far more than any case here takes, also on a busy machine.
const WATCHDOG: Duration = Duration::from_secs(120);

fn plan() -> PlanConfig {
    PlanConfig::builder()
        .max_batch_tokens(100)
        .max_residues(30)
        .long_sequences(LongSequences::Window {
            overlap_residues: 8,
        })
        .build()
        .unwrap()
}

fn config(devices: &str) -> EmbedderConfig {
    EmbedderConfig {
        devices: devices.parse().unwrap(),
        plan: plan(),
        ..EmbedderConfig::default()
    }
}

fn fake(loader: FakeLoader) -> Model {
    Model::Loader(Arc::new(loader))
}

/// Proteins of 5 to 44 residues. Every seventh comes again.
fn proteins(count: u64) -> Vec<(String, String)> {
    let protein = |number: u64| {
        let seed = match number % 7 {
            0 => number / 14,
            _ => number,
        };
        let residues = random_residues(seed, 5 + (seed * 13 % 40) as usize);
        (format!("p{number}"), String::from_utf8(residues).unwrap())
    };
    (0..count).map(protein).collect()
}

#[test]
fn the_values_are_those_of_a_run_bit_for_bit_and_in_the_order_of_the_input() {
    let proteins = proteins(120);
    let scratch = tempfile::tempdir().unwrap();
    let input = scratch.path().join("in.fasta");
    let records = proteins
        .iter()
        .map(|(id, residues)| format!(">{id}\n{residues}\n"));
    fs::write(&input, records.collect::<String>()).unwrap();
    let kinds = |all: &[OutputKind]| OutputSet::new(all.to_vec(), [Layer(3), Layer::LAST]);
    let windows = kinds(&OutputKind::ALL[..5]);
    // Contacts can't be put together from windows.
    let truncated = PlanConfig::builder().max_batch_tokens(100).max_residues(30);
    let contacts = kinds(&[OutputKind::Contacts, OutputKind::Residues]);
    let contacts = contacts.with_residues_dtype(Dtype::F32);
    for (plan, outputs) in [(plan(), windows), (truncated.build().unwrap(), contacts)] {
        let out = tempfile::tempdir().unwrap();
        let run = RunConfig {
            devices: "cpu".parse().unwrap(),
            outputs: Some(outputs.clone()),
            plan: plan.clone(),
            ..RunConfig::default()
        };
        run_multi_gpu_inference([&input], &Model::PlmTiny, out.path(), &run).unwrap();
        let file = EmbeddingsFile::open(out.path().join("embeddings.h5")).unwrap();
        for devices in ["cpu", "cpu:2"] {
            let config = EmbedderConfig {
                outputs: Some(outputs.clone()),
                plan: plan.clone(),
                ..config(devices)
            };
            equals_a_run(&proteins, &file, &config);
        }
    }
}

/// Asserts that an embedder gives what the file of a run has of these proteins.
fn equals_a_run(proteins: &[(String, String)], file: &EmbeddingsFile, config: &EmbedderConfig) {
    let ids = file.ids().unwrap();
    let embedder = Embedder::new(&Model::PlmTiny, config).unwrap();
    let embedded: Vec<_> = embedder.embed(proteins.to_vec()).collect();
    let given: Vec<&String> = embedded.iter().map(|(id, _)| id).collect();
    assert!(given.iter().copied().eq(&ids), "in order");
    for (position, output) in embedder.outputs().iter().enumerate() {
        let stored = file.read_column(position, 0..proteins.len()).unwrap();
        for (row, (id, embedding)) in embedded.iter().enumerate() {
            let column = &embedding.as_ref().unwrap().columns[position];
            assert_eq!(column.dtype(), stored.dtype());
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits);
            let (ours, theirs) = (bits(column.sequence(0)), bits(stored.sequence(row)));
            assert!(ours.eq(theirs), "{id}, {}", output.name());
        }
    }
    let outcomes = embedded
        .iter()
        .map(|(_, embedding)| embedding.as_ref().unwrap().outcome);
    let long = [Outcome::Windowed, Outcome::Truncated];
    assert!(outcomes.clone().any(|outcome| long.contains(&outcome)));

    // The same encoders, another call, another order.
    let again: BTreeMap<_, _> = embedder.embed(proteins.to_vec()).as_they_come().collect();
    assert_eq!(again.len(), 120);
    for (id, embedding) in embedded {
        assert_eq!(again[&id], embedding);
    }
}

#[test]
fn residues_and_contacts_come_with_their_rows() {
    let loader = FakeLoader::new(4)
        .output(OutputKind::Residues, 3, Dtype::F16)
        .output(OutputKind::Contacts, 1, Dtype::F32);
    let embedder = Embedder::new(&fake(loader), &config("cpu:2")).unwrap();
    let embedding = embedder.embed_one("MKVLAAG").unwrap();
    let shapes = embedding
        .columns
        .iter()
        .map(|column| (column.offsets()[1], column.width()));
    assert_eq!(Vec::from_iter(shapes), [(1, 4), (7, 3), (49, 1)]);
    assert_eq!(embedding.columns[1].dtype(), Dtype::F16);
    let long = "MKVLAAGSTE".repeat(4);
    let error = embedder.embed_one(long).unwrap_err();
    let expected = SequenceError::PairsOfWindows {
        output: OutputKind::Contacts,
        residue_count: 40,
        max_residues: 30,
    };
    assert_eq!(error, expected);
}

#[test]
fn the_order_may_be_given_up_on_the_way() {
    within(WATCHDOG, || {
        let embedder = Embedder::new(&fake(FakeLoader::new(4)), &config("cpu:2")).unwrap();
        let mut embeddings = embedder.embed(proteins(300));
        let first: Vec<_> = embeddings.by_ref().take(50).collect();
        let rest: Vec<_> = embeddings.as_they_come().collect();
        let ids: BTreeMap<_, _> = first.into_iter().chain(rest).collect();
        assert_eq!(ids.len(), 300);
    });
}

#[test]
fn an_input_without_end_is_taken_only_as_far_as_there_is_room() {
    within(WATCHDOG, || {
        for any_order in [false, true] {
            let embedder = Embedder::new(&fake(FakeLoader::new(4)), &config("cpu:2")).unwrap();
            let pulled = AtomicUsize::new(0);
            let endless = (0_u64..).map(|number| {
                pulled.fetch_add(1, Ordering::Relaxed);
                (number, random_residues(number, 18))
            });
            let mut embeddings = embedder.embed(endless);
            if any_order {
                embeddings = embeddings.as_they_come();
            }
            assert_eq!(pulled.load(Ordering::Relaxed), 0, "nothing was asked for");
            // 8 batches of 100 tokens for each of 2 ranks, in sequences of 20 tokens.
            let most = 80;
            for given in 1..500 {
                let (_, embedded) = embeddings.next().unwrap();
                assert!(embedded.is_ok());
                if given % 100 == 0 {
                    // However long the caller takes.
                    thread::sleep(Duration::from_millis(20));
                }
                let ahead = pulled.load(Ordering::Relaxed) - given;
                assert!(ahead <= most, "{ahead} are in it");
            }
            // Dropped here, with most of them on their way.
            drop(embeddings);
            assert_eq!(
                embedder.embed_one("MK").unwrap().values(0),
                fake_vector(b"MK", 4)
            );
        }
    });
}

#[test]
fn an_input_of_errors_alone_is_taken_only_as_far_too() {
    let embedder = Embedder::new(&fake(FakeLoader::new(4)), &config("cpu")).unwrap();
    let pulled = AtomicUsize::new(0);
    let endless = (0..).map(|number: u32| {
        pulled.fetch_add(1, Ordering::Relaxed);
        (number, "")
    });
    let first = embedder.embed(endless).next().unwrap();
    assert_eq!(first, (0, Err(SequenceError::Empty)));
    assert!(pulled.load(Ordering::Relaxed) <= 1 << 16);
}

#[test]
fn a_sequence_that_has_no_values_says_why_and_ends_nothing() {
    let plan = PlanConfig::builder()
        .max_residues(10)
        .long_sequences(LongSequences::Skip);
    let config = EmbedderConfig {
        plan: plan.build().unwrap(),
        ..config("cpu:2")
    };
    let loader = FakeLoader::new(4)
        .nan_for(b"MKNAN")
        .poison(b"MKPKSN", Poison::Panic);
    let embedder = Embedder::new(&fake(loader), &config).unwrap();
    let sequences = [
        "MKV",
        "",
        "mk-vl*",
        "MK7",
        "MKVLAAGSTEM",
        "MKNAN",
        "MKPKSN",
        "MJ",
        "\u{2014}",
        "G",
    ];
    let embedded = embedder.embed(sequences.into_iter().enumerate());
    let told: Vec<String> = embedded
        .map(|(number, embedded)| match embedded {
            Ok(embedding) => format!("{number} has {}", embedding.residue_count),
            Err(error) => format!("{number}: {error}"),
        })
        .collect();
    let expected = [
        "0 has 3",
        "1: it has no residues",
        "2 has 5",
        "3: '7' after 2 residues is no residue",
        "4: its 11 residues are over max_residues 10",
        "5: the model gave NaN in dimension 0 of its vector",
        "6: encoders fail on it, also alone: the encoder met poison",
        "7 has 2",
        "8: '\u{2014}' after 0 residues is no residue",
        "9 has 1",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_device_that_fails_is_survived_by_the_others() {
    within(WATCHDOG, || {
        for fault in [
            EncoderFault::FailEncode { at: 1 },
            EncoderFault::PanicLoad,
            EncoderFault::HangEncode { at: 2 },
        ] {
            let loader = FakeLoader::new(4).fault(Rank(0), fault);
            let gate = loader.gate();
            let lanes = LaneConfig::builder()
                .batch_timeout(BatchTimeout::Fixed(Duration::from_millis(1_500)));
            let config = EmbedderConfig {
                lanes: lanes.build().unwrap(),
                ..config("cpu:2")
            };
            let embedder = Embedder::new(&fake(loader), &config).unwrap();
            // Until the rank has failed, and once more.
            let mut failed_before = 0;
            while failed_before == 0 {
                failed_before = embedder.failed_ranks().len();
                for (id, embedded) in embedder.embed(proteins(300)) {
                    assert!(embedded.is_ok(), "{id} after {fault:?}");
                }
            }
            assert_eq!(embedder.failed_ranks().len(), 1, "{fault:?}");
            gate.open();
        }
    });
}

#[test]
fn if_all_devices_fail_every_sequence_is_told() {
    within(WATCHDOG, || {
        let fault = EncoderFault::FailEncode { at: 3 };
        let loader = FakeLoader::new(4)
            .fault(Rank(0), fault)
            .fault(Rank(1), fault);
        let embedder = Embedder::new(&fake(loader), &config("cpu:2")).unwrap();
        let embedded: Vec<_> = embedder.embed(proteins(500)).collect();
        assert_eq!(embedded.len(), 500);
        let ended = embedded.iter().filter(|(_, embedded)| embedded.is_err());
        for (_, error) in ended.clone() {
            let error = error.as_ref().unwrap_err().to_string();
            assert!(error.contains("the device failed"), "{error}");
        }
        assert!(ended.count() > 0);
        let later = embedder.embed_one("MKV").unwrap_err();
        assert!(matches!(later, SequenceError::Ended { .. }));
        assert_eq!(embedder.failed_ranks().len(), 2);
    });
}

#[test]
fn a_model_that_no_device_loads_is_an_error_at_once() {
    let loader = FakeLoader::new(4).fault(Rank(0), EncoderFault::FailLoad);
    let error = Embedder::new(&fake(loader), &config("cpu")).unwrap_err();
    assert!(matches!(error, Error::Coordinator(_)));
    assert!(
        error.to_string().contains("the device is not there"),
        "{error}"
    );
}

/// A loader that counts how often it was asked for an encoder.
struct Counting(FakeLoader, Arc<AtomicUsize>);

impl EncoderLoader for Counting {
    fn spec(&self) -> &EncoderSpec {
        self.0.spec()
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.load(rank)
    }
}

#[test]
fn any_number_of_threads_share_encoders_that_are_loaded_once() {
    fn is_shared<T: Send + Sync>(_: &T) {}

    within(WATCHDOG, || {
        let loads = Arc::new(AtomicUsize::new(0));
        let loader = Counting(FakeLoader::new(4), Arc::clone(&loads));
        let embedder = Embedder::new(&Model::Loader(Arc::new(loader)), &config("cpu:2")).unwrap();
        is_shared(&embedder);
        thread::scope(|scope| {
            for client in 0..8 {
                let embedder = &embedder;
                scope.spawn(move || {
                    for request in 0..40 {
                        let residues = random_residues(client * 1_000 + request, 9);
                        let embedding = embedder.embed_one(&residues).unwrap();
                        assert_eq!(embedding.values(0), fake_vector(&residues, 4));
                    }
                });
            }
        });
        assert_eq!(loads.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn dropping_it_early_ends_even_if_a_device_hangs() {
    within(WATCHDOG, || {
        let loader = FakeLoader::new(4).fault(Rank(0), EncoderFault::HangEncode { at: 0 });
        let gate = loader.gate();
        let lanes = LaneConfig::builder().stop_grace(Duration::from_millis(50));
        let config = EmbedderConfig {
            lanes: lanes.build().unwrap(),
            ..config("cpu:2")
        };
        let embedder = Embedder::new(&fake(loader), &config).unwrap();
        let mut embeddings = embedder.embed(proteins(100)).as_they_come();
        assert!(embeddings.next().unwrap().1.is_ok());
        drop(embeddings);
        drop(embedder);
        gate.open();
    });
}
