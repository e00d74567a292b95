//! Encoders that compute a hash instead of a model.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use plm_core::{
    BoxError, Column, Dtype, EncodedBatch, Encoder, EncoderLoader, EncoderSpec, OutputKind,
    OutputSpec, PackedBatch, Per, Rank, Ticket, TokenMap,
};

use crate::{EncoderFault, Gate, Injected, Poison, SplitMix64};

/// A token map in the order of ESM-2's alphabet, with BOS 0 and EOS 2.
pub fn fake_tokens() -> TokenMap {
    TokenMap::new(
        b"LAGVSERTIDPKQNFYMHWCXBUZO.-".iter().copied().zip(4..),
        Some(0),
        Some(2),
    )
}

/// The row that a [`FakeEncoder`] gives for a sequence: `[width]`, values in `[-1, 1)`.
///
/// If one residue differs, all values differ. A wider row starts with the values of a narrower one.
///
/// # Panics
/// If a residue is not in [`fake_tokens`].
pub fn fake_vector(residues: &[u8], width: usize) -> Vec<f32> {
    vector_of_tokens(&token_ids_of(residues), width)
}

/// The token ids of a sequence, with BOS and EOS.
fn token_ids_of(residues: &[u8]) -> Vec<u32> {
    let tokens = fake_tokens();
    let residue_ids = residues.iter().map(|&residue| {
        tokens
            .token_id(residue)
            .expect("the residue is in the fake alphabet")
    });
    tokens
        .bos()
        .into_iter()
        .chain(residue_ids)
        .chain(tokens.eos())
        .collect()
}

fn vector_of_tokens(token_ids: &[u32], width: usize) -> Vec<f32> {
    let digest = token_ids.iter().fold(0, |digest, &token_id| {
        SplitMix64::new(digest ^ u64::from(token_id)).next_u64()
    });
    let mut random = SplitMix64::new(digest);
    (0..width)
        .map(|_| (random.next_f64() * 2.0 - 1.0) as f32)
        .collect()
}

/// The rows that a [`FakeEncoder`] gives for a sequence in an output per residue or per pair of
/// residues: `[rows, width]`. If one residue differs, all rows differ, and so do any two rows.
///
/// # Panics
/// If a residue is not in [`fake_tokens`].
pub fn fake_rows(residues: &[u8], per: Per, width: usize) -> Vec<f32> {
    rows_of_tokens(&token_ids_of(residues), per, width)
}

/// The values of a sequence in an output: `[rows, width]`.
fn rows_of_tokens(token_ids: &[u32], per: Per, width: usize) -> Vec<f32> {
    if per == Per::Sequence {
        return vector_of_tokens(token_ids, width);
    }
    // All tokens but BOS and EOS are residues.
    let rows = per.rows(token_ids.len() as u32 - 2) as u32;
    let row = |row| vector_of_tokens(&[token_ids, &[row]].concat(), width);
    (0..rows).flat_map(row).collect()
}

/// Loads a [`FakeEncoder`] for each rank, with the faults that the rank was given.
///
/// ```
/// use plm_core::{EncoderLoader, Rank};
/// use plm_testkit::{EncoderFault, FakeLoader};
///
/// let loader = FakeLoader::new(8).fault(Rank(1), EncoderFault::FailLoad);
/// assert!(loader.load(Rank(0)).is_ok());
/// assert!(loader.load(Rank(1)).is_err());
/// ```
#[derive(Clone, Debug)]
pub struct FakeLoader {
    spec: EncoderSpec,
    faults: HashMap<Rank, EncoderFault>,
    nan_for: Vec<Vec<u32>>,
    poison: Vec<(Vec<u32>, Poison)>,
    survives_in_f32: bool,
    gate: Gate,
    /// How often each rank's encoder has failed.
    failures: Arc<Mutex<HashMap<Rank, usize>>>,
}

impl FakeLoader {
    /// A loader of encoders without faults, with one output: `[num_sequences, width]`, f32.
    pub fn new(width: usize) -> Self {
        let output = OutputSpec {
            pooling: "hash of all tokens".to_owned(),
            special_tokens: "included".to_owned(),
            ..OutputSpec::new(OutputKind::Mean, 0, width)
        };
        Self {
            spec: EncoderSpec {
                model: "fake".to_owned(),
                weights_digest: "none:0".to_owned(),
                adapter_digest: None,
                outputs: vec![output],
                dtype: Dtype::F32,
                backend: "cpu".to_owned(),
                tokens: fake_tokens(),
            },
            faults: HashMap::new(),
            nan_for: Vec::new(),
            poison: Vec::new(),
            survives_in_f32: false,
            failures: Arc::default(),
            gate: Gate::default(),
        }
    }

    /// Adds an output to the encoders, in f16 or f32. One with one row per sequence has the same
    /// values as the first; the others have [`fake_rows`].
    pub fn output(mut self, kind: OutputKind, width: usize, dtype: Dtype) -> Self {
        self.spec.outputs.push(OutputSpec {
            dtype,
            ..OutputSpec::new(kind, 0, width)
        });
        self
    }

    /// Gives a rank a fault.
    pub fn fault(mut self, rank: Rank, fault: EncoderFault) -> Self {
        self.faults.insert(rank, fault);
        self
    }

    /// Makes every encoder give a NaN for this sequence.
    pub fn nan_for(mut self, residues: &[u8]) -> Self {
        self.nan_for.push(self.token_ids(residues));
        self
    }

    /// Makes every encoder of every rank fail on this sequence. The rank can then load another.
    pub fn poison(mut self, residues: &[u8], poison: Poison) -> Self {
        self.poison.push((self.token_ids(residues), poison));
        self
    }

    /// Makes encoders survive poison in f32.
    pub fn survives_in_f32(mut self) -> Self {
        self.survives_in_f32 = true;
        self
    }

    fn token_ids(&self, residues: &[u8]) -> Vec<u32> {
        let tokens = &self.spec.tokens;
        let residue_ids = residues
            .iter()
            .filter_map(|&residue| tokens.token_id(residue));
        tokens
            .bos()
            .into_iter()
            .chain(residue_ids)
            .chain(tokens.eos())
            .collect()
    }

    /// How often a rank's encoder has failed.
    fn failures(&self, rank: Rank) -> usize {
        let failures = self.failures.lock();
        let failures = failures.unwrap_or_else(PoisonError::into_inner);
        failures.get(&rank).copied().unwrap_or_default()
    }

    fn has_failed(&self, rank: Rank) {
        let failures = self.failures.lock();
        let mut failures = failures.unwrap_or_else(PoisonError::into_inner);
        *failures.entry(rank).or_default() += 1;
    }

    /// The gate that hanging faults wait for.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }
}

impl EncoderLoader for FakeLoader {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        let fault = self.faults.get(&rank).copied();
        match fault {
            Some(EncoderFault::FailLoad) => return Err(Injected::error("the device is not there")),
            Some(EncoderFault::PanicLoad) => panic!("the loader panicked on cue"),
            Some(EncoderFault::HangLoad) => self.gate.wait(),
            Some(EncoderFault::FailThenHangLoad { .. }) if self.failures(rank) > 0 => {
                self.gate.wait();
            }
            Some(
                EncoderFault::FailEncode { .. }
                | EncoderFault::PanicEncode { .. }
                | EncoderFault::TooFewRows { .. }
                | EncoderFault::WrongWidth { .. },
            ) if self.failures(rank) > 0 => return Err(Injected::error("the device is gone")),
            _ => {}
        }
        Ok(Box::new(FakeEncoder {
            loader: self,
            rank,
            fault,
            calls: 0,
        }))
    }
}

/// An encoder whose vectors are [`fake_vector`]s.
#[derive(Debug)]
pub struct FakeEncoder<'a> {
    loader: &'a FakeLoader,
    rank: Rank,
    fault: Option<EncoderFault>,
    calls: usize,
}

impl Encoder for FakeEncoder<'_> {
    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        let batch = &**ticket.batch();
        let call = self.calls;
        self.calls += 1;
        let mut num_sequences = batch.num_sequences();
        let mut wider = 0;
        match self.fault {
            Some(EncoderFault::FailEncode { at } | EncoderFault::FailThenHangLoad { at })
                if at == call =>
            {
                self.loader.has_failed(self.rank);
                return Err(Injected::error("the device failed"));
            }
            Some(EncoderFault::FailTwice { at })
                if at == call && self.loader.failures(self.rank) < 2 =>
            {
                self.loader.has_failed(self.rank);
                return Err(Injected::error("the device failed for now"));
            }
            Some(EncoderFault::OutOfMemory { over }) if num_sequences > over => {
                return Err(Injected::error("there is no room for so many"));
            }
            Some(EncoderFault::PanicEncode { at }) if at == call => {
                self.loader.has_failed(self.rank);
                panic!("the encoder panicked on cue")
            }
            Some(EncoderFault::HangEncode { at }) if at == call => self.loader.gate.wait(),
            Some(EncoderFault::TooFewRows { at }) if at == call => {
                self.loader.has_failed(self.rank);
                num_sequences -= 1;
            }
            Some(EncoderFault::WrongWidth { at }) if at == call => {
                self.loader.has_failed(self.rank);
                wider = 1;
            }
            Some(EncoderFault::Slow { each }) => thread::sleep(each),
            _ => {}
        }
        for (token_ids, poison) in &self.loader.poison {
            if sequences(batch).any(|sequence| sequence == token_ids) {
                match poison {
                    Poison::Error => return Err(Injected::error("the device met poison")),
                    Poison::Panic => panic!("the encoder met poison"),
                    Poison::Hang => self.loader.gate.wait(),
                }
            }
        }
        self.columns(batch, num_sequences, wider)
    }

    fn encode_in_f32(&mut self, batch: &PackedBatch) -> Result<Option<EncodedBatch>, BoxError> {
        if !self.loader.survives_in_f32 {
            return Ok(None);
        }
        self.columns(batch, batch.num_sequences(), 0).map(Some)
    }
}

/// The token ids of each sequence.
fn sequences(batch: &PackedBatch) -> impl Iterator<Item = &[u32]> {
    let ends = batch.cu_seqlens().windows(2);
    ends.map(|ends| &batch.token_ids()[ends[0] as usize..ends[1] as usize])
}

impl FakeEncoder<'_> {
    fn columns(
        &self,
        batch: &PackedBatch,
        num_sequences: usize,
        wider: usize,
    ) -> Result<EncodedBatch, BoxError> {
        let outputs = self.loader.spec.outputs.iter();
        let columns = outputs.map(|output| {
            let width = output.width + wider;
            let mut column = Column::empty(width, output.dtype, num_sequences);
            for token_ids in sequences(batch).take(num_sequences) {
                let mut vector = rows_of_tokens(token_ids, output.per(), width);
                if (self.loader.nan_for.iter()).any(|nan_for| nan_for == token_ids) {
                    vector[0] = f32::NAN;
                }
                column.push(vector.into_iter());
            }
            column
        });
        Ok(EncodedBatch::new(columns.collect()))
    }
}
