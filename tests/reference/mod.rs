//! Float64 reference values from Hugging Face transformers (`goldens/make_goldens.py`,
//! `goldens/make_esmc_goldens.py`) and peft (`adapters/make_adapters.py`), and the comparison of a
//! model with them.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_core::{
    Column, Dtype, Layer, OutputKind, OutputSet, OutputSpec, PackedBatch, Packer, RowId,
};
use plm_encoder::{FamilyCheckpoint, Model};
use plm_fleet::checkpoint::{Adapter, ModelFiles};
use safetensors::SafeTensors;

/// The relative error that f32 arithmetic may cause, per vector or matrix:
/// ||ours - reference|| / ||reference||.
const TOLERANCE: f64 = 2e-5;

/// The least residues of each band of lengths. Errors are reported for each band.
const BANDS: [usize; 4] = [1, 50, 200, 500];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens")
}

pub(crate) fn plm_tiny() -> Set<plm_esm2::Checkpoint> {
    Set::new(
        "plm-tiny",
        plm_esm2::Checkpoint::plm_tiny(),
        "real_banded.fasta",
        "plm-tiny.safetensors",
    )
}

pub(crate) fn random(name: &'static str) -> Set<plm_esm2::Checkpoint> {
    let checkpoint = plm_esm2::Checkpoint::open(folder().join(name));
    let checkpoint = checkpoint.expect("the checkpoint opens");
    Set::new(
        name,
        checkpoint,
        "banded.fasta",
        &format!("{name}/goldens.safetensors"),
    )
}

/// The model of heads of 64 with an adapter. Only its means are known.
pub(crate) fn adapted() -> Set<plm_esm2::Checkpoint> {
    let adapter = Adapter::open(folder().join("../adapters/hd64")).expect("the adapter opens");
    let files = ModelFiles::open(&folder().join("hd64"), |_| None).expect("the files are there");
    let checkpoint = plm_esm2::Checkpoint::of_files(&files.with_adapter(Arc::new(adapter)));
    Set::new(
        "hd64 with an adapter",
        checkpoint.expect("the adapter fits"),
        "banded.fasta",
        "../adapters/hd64/goldens.safetensors",
    )
}

pub(crate) fn esmc(name: &'static str) -> Set<plm_esmc::Checkpoint> {
    let checkpoint = plm_esmc::Checkpoint::open(folder().join("esmc").join(name));
    let checkpoint = checkpoint.expect("the checkpoint opens");
    // The layouts of one model share its goldens.
    let model = name.strip_suffix("-esm").unwrap_or(name);
    let goldens = format!("esmc/{model}/goldens.safetensors");
    Set::new(name, checkpoint, "banded.fasta", &goldens)
}

/// A checkpoint of a family, sequences, and the reference's outputs for them.
pub(crate) struct Set<C> {
    pub(crate) name: &'static str,
    pub(crate) checkpoint: C,
    sequences: Vec<String>,
    goldens: HashMap<String, Vec<f64>>,
}

impl<C: FamilyCheckpoint> Set<C> {
    fn new(name: &'static str, checkpoint: C, fasta: &str, goldens: &str) -> Self {
        let fasta = fs::read_to_string(folder().join(fasta)).expect("the sequences are there");
        let goldens = fs::read(folder().join(goldens)).expect("the goldens are there");
        Self {
            name,
            checkpoint,
            sequences: fasta
                .split('>')
                .skip(1)
                .map(|record| record.lines().skip(1).collect())
                .collect(),
            goldens: numbers(&goldens),
        }
    }

    fn golden(&self, sequence: usize, what: &str) -> Option<&[f64]> {
        self.goldens
            .get(&format!("{sequence}.{what}"))
            .map(Vec::as_slice)
    }

    fn batch(&self, sequences: &[usize]) -> PackedBatch {
        let tokens = self.checkpoint.tokens();
        let mut packer = Packer::new(&tokens, 1 << 20);
        for &sequence in sequences {
            let residues = self.sequences[sequence].as_bytes();
            packer
                .push(RowId(sequence as u64), residues)
                .expect("it is in the alphabet");
        }
        packer.finish()
    }

    /// Compares each sequence by itself, then all of them packed.
    fn batches(&self) -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..self.sequences.len()).collect();
        let mut batches: Vec<Vec<usize>> = all.iter().map(|&sequence| vec![sequence]).collect();
        batches.push(all);
        batches
    }

    /// Every output of every layer.
    pub(crate) fn everything(&self) -> OutputSet {
        let num_layers = self.checkpoint.sizes().num_layers as i32;
        let has_contacts = self.checkpoint.heads().contacts.is_ok();
        let kinds = OutputKind::ALL.into_iter();
        let kinds = kinds.filter(|&kind| kind != OutputKind::Contacts || has_contacts);
        OutputSet::new(kinds, (0..=num_layers).map(Layer))
    }

    /// Compares every output of a model in f32, of every layer. Returns the worst error, in words.
    pub(crate) fn assert_equal_in_f32(&self, model: &Model) -> String {
        let everything = self.everything().with_residues_dtype(Dtype::F32);
        let specs = model.output_specs(&everything).expect("the model has all");
        let mut worst = Worst::default();
        for sequences in self.batches() {
            let batch = self.batch(&sequences);
            let columns = model.forward(&batch, &everything).expect("the batch runs");
            let ends = batch.cu_seqlens().windows(2);
            for (position, (&sequence, ends)) in sequences.iter().zip(ends).enumerate() {
                let tokens = ends[0] as usize..ends[1] as usize;
                let ids = self
                    .golden(sequence, "input_ids")
                    .expect("every sequence has ids");
                let own: Vec<f64> = batch.token_ids()[tokens.clone()]
                    .iter()
                    .map(|&id| f64::from(id))
                    .collect();
                assert_eq!(
                    own, ids,
                    "token ids of sequence {sequence} of {}",
                    self.name
                );
                for (column, spec) in columns.iter().zip(&specs) {
                    if let Some(golden) = self.golden_of(sequence, spec) {
                        worst.note(&spec.name(), sequence, &column.sequence(position), golden);
                    }
                }
            }
        }
        let compared: Vec<&str> = worst.0.iter().map(|(what, ..)| what.as_str()).collect();
        for spec in &specs {
            let is_known = spec.kind != OutputKind::Bos || self.golden_of(0, spec).is_some();
            assert_eq!(
                compared.contains(&spec.name().as_str()),
                is_known,
                "{}",
                spec.name()
            );
        }
        worst.assert_within(TOLERANCE, self.name)
    }

    /// Compares the means of every layer of a model in f32.
    pub(crate) fn assert_means_equal_in_f32(&self, model: &Model) {
        let layers = (0..=self.checkpoint.sizes().num_layers as i32).map(Layer);
        let means = OutputSet::new([OutputKind::Mean], layers);
        let specs = model.output_specs(&means).expect("the model has all");
        let columns = model.forward(&self.all(), &means).expect("the batch runs");
        let mut worst = Worst::default();
        for (column, spec) in columns.iter().zip(&specs) {
            for sequence in 0..column.num_sequences() {
                let golden = self.golden_of(sequence, spec).expect("it is known");
                worst.note(&spec.name(), sequence, &column.sequence(sequence), golden);
            }
        }
        worst.assert_within(TOLERANCE, self.name);
    }

    /// The reference's values of an output, if it has them for this sequence.
    pub(crate) fn golden_of(&self, sequence: usize, spec: &OutputSpec) -> Option<&[f64]> {
        let sizes = self.checkpoint.sizes();
        let is_last = spec.layer == sizes.num_layers;
        let of_layer = |what| {
            let all = self.golden(sequence, what)?;
            let numbers = all.len() / (sizes.num_layers + 1);
            Some(&all[spec.layer * numbers..][..numbers])
        };
        match spec.kind {
            OutputKind::Mean => of_layer("mean"),
            OutputKind::Max => of_layer("max"),
            // Some sets have that of the last layer alone.
            OutputKind::Bos => {
                let bos = self.golden(sequence, "bos")?;
                match bos.len() == sizes.hidden_size {
                    true => is_last.then_some(bos),
                    false => of_layer("bos"),
                }
            }
            OutputKind::Residues if is_last && self.golden(0, "residues").is_some() => {
                self.golden(sequence, "residues")
            }
            OutputKind::Residues => of_layer("hidden"),
            OutputKind::Logits => self.golden(sequence, "logits"),
            OutputKind::Contacts => self.golden(sequence, "contacts"),
        }
    }

    /// Packs all sequences into one batch.
    pub(crate) fn all(&self) -> PackedBatch {
        let all: Vec<usize> = (0..self.sequences.len()).collect();
        self.batch(&all)
    }

    /// Compares the vectors that a model in `dtype` gave for [`all`](Self::all) with the reference.
    pub(crate) fn worst_cosines(&self, vectors: &Column, dtype: Dtype) -> Cosines {
        let sizes = self.checkpoint.sizes();
        let before_last_layer = sizes.num_layers * sizes.hidden_size;
        let mut worst = BANDS.map(|_| (1.0, 0));
        for sequence in 0..vectors.num_sequences() {
            let golden = &self
                .golden(sequence, "mean")
                .expect("every sequence has means")[before_last_layer..];
            let residues = self.sequences[sequence].len();
            let band = BANDS.partition_point(|&first| first <= residues) - 1;
            // A NaN counts as the worst.
            let cosine = cosine(&vectors.sequence(sequence), golden).max(-1.0);
            if cosine < worst[band].0 {
                worst[band] = (cosine, residues);
            }
        }
        Cosines {
            what: format!("{} in {dtype}", self.name),
            bound: if dtype == Dtype::Int8 { 0.999 } else { 0.9999 },
            worst,
        }
    }
}

/// The lowest cosine of each band of lengths, and the number of residues of that sequence.
pub(crate) struct Cosines {
    what: String,
    bound: f64,
    worst: [(f64, usize); BANDS.len()],
}

impl Cosines {
    pub(crate) fn is_close(&self) -> bool {
        self.worst.iter().all(|&(cosine, _)| cosine >= self.bound)
    }
}

impl fmt::Display for Cosines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worst cosines of {}:", self.what)?;
        for (first, (cosine, residues)) in BANDS.iter().zip(self.worst) {
            write!(f, " from {first} residues {cosine:.6} (at {residues})")?;
        }
        Ok(())
    }
}

/// The largest error of each kind.
#[derive(Default)]
struct Worst(Vec<(String, f64, usize)>);

impl Worst {
    fn note(&mut self, what: &str, sequence: usize, ours: &[f32], golden: &[f64]) {
        let error = relative_error(ours, golden);
        match self.0.iter_mut().find(|(kind, ..)| kind == what) {
            Some((_, worst, whose)) => {
                if error.is_nan() || error > *worst {
                    (*worst, *whose) = (error, sequence);
                }
            }
            None => self.0.push((what.to_owned(), error, sequence)),
        }
    }

    fn assert_within(&self, tolerance: f64, name: &str) -> String {
        let mut report = format!("the worst relative errors of {name}, {tolerance:e} allowed:");
        for (what, error, sequence) in &self.0 {
            write!(report, "\n{what}: {error:.1e} at sequence {sequence}").expect("strings grow");
        }
        assert!(
            self.0.iter().all(|&(_, error, _)| error <= tolerance),
            "{report}"
        );
        let worst = self.0.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let (what, error, _) = worst.expect("something was compared");
        format!("the worst relative error of {name}: {error:.1e}, of {what}")
    }
}

fn relative_error(ours: &[f32], golden: &[f64]) -> f64 {
    assert_eq!(ours.len(), golden.len());
    let difference: f64 = ours
        .iter()
        .zip(golden)
        .map(|(&a, b)| (f64::from(a) - b).powi(2))
        .sum();
    (difference / golden.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

pub(crate) fn cosine(ours: &[f32], golden: &[f64]) -> f64 {
    let dot: f64 = ours
        .iter()
        .zip(golden)
        .map(|(&a, b)| f64::from(a) * b)
        .sum();
    let ours: f64 = ours.iter().map(|&a| f64::from(a).powi(2)).sum();
    let golden: f64 = golden.iter().map(|b| b * b).sum();
    dot / (ours * golden).sqrt()
}

/// All tensors of a safetensors file.
fn numbers(file: &[u8]) -> HashMap<String, Vec<f64>> {
    let file = SafeTensors::deserialize(file).expect("the goldens are safetensors");
    let tensors = file.tensors().into_iter().map(|(name, tensor)| {
        let bytes = tensor.data();
        let values = match tensor.dtype() {
            safetensors::Dtype::I64 => {
                let words = bytes.as_chunks::<8>().0;
                words
                    .iter()
                    .map(|&word| i64::from_le_bytes(word) as f64)
                    .collect()
            }
            safetensors::Dtype::F32 => {
                let words = bytes.as_chunks::<4>().0;
                words
                    .iter()
                    .map(|&word| f64::from(f32::from_le_bytes(word)))
                    .collect()
            }
            other => panic!("{name} is {other}"),
        };
        (name, values)
    });
    tensors.collect()
}
