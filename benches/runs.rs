//! The arguments, the input and the model that benches of whole runs share.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use plm_core::{
    BoxError, Column, Dtype, EncodedBatch, Encoder, EncoderLoader, EncoderSpec, OutputSet,
    OutputSpec, PackedBatch, Per, Rank, Ticket, ValuePool, Values, f16,
};
use plm_esm2::{Checkpoint, ModelShape, RELEASED, token_map};
use plm_fleet::{Devices, Model, PlanConfig};
use plm_testkit::{SplitMix64, lognormal_residue_counts, random_residues, uniform_residue_counts};
use tempfile::TempDir;

/// The settings of a bench from its command line, `SHAPE DTYPE DEVICES [WORKLOAD [N [DIRECTORY]]]`,
/// and its files.
pub(crate) struct Setup {
    shape: &'static ModelShape,
    pub(crate) dtype: Dtype,
    pub(crate) devices: String,
    /// Dropping this removes the directory.
    pub(crate) scratch: TempDir,
    pub(crate) fasta: PathBuf,
}

impl Setup {
    /// Reads the command line, and writes a FASTA file of N proteins. Gives `None` without
    /// arguments.
    pub(crate) fn from_arguments(default_count: usize) -> Result<Option<Self>, BoxError> {
        // Cargo adds an argument of its own.
        let arguments: Vec<String> = std::env::args()
            .skip(1)
            .filter(|word| word != "--bench")
            .collect();
        let [shape, dtype, devices, rest @ ..] = &arguments[..] else {
            return Ok(None);
        };
        let shape = RELEASED
            .iter()
            .find(|released| released.name.contains(&format!("_{shape}_")))
            .ok_or("SHAPE is one of 8M, 35M, 150M, 650M, 3B and 15B")?;
        let count = rest
            .get(1)
            .map_or(Ok(default_count), |count| count.parse())?;
        let residue_counts = match rest.first().map_or("a", String::as_str) {
            "a" => uniform_residue_counts(1, count, 90..=166),
            "b" => lognormal_residue_counts(
                2,
                count,
                (290.0, (2.0 * (360.0_f64 / 290.0).ln()).sqrt()),
                30..=1_022,
            ),
            _ => return Err("WORKLOAD is one of a and b".into()),
        };
        let parent = rest.get(2).map_or_else(std::env::temp_dir, PathBuf::from);
        let scratch = tempfile::tempdir_in(parent)?;
        let fasta = scratch.path().join("proteins.fasta");
        write_fasta(&fasta, &residue_counts)?;
        Ok(Some(Self {
            shape,
            dtype: dtype.parse()?,
            devices: devices.clone(),
            scratch,
            fasta,
        }))
    }

    /// The tokens per second of stand-ins, if the bench uses them.
    pub(crate) fn stand_in_rate(&self) -> Result<Option<f64>, BoxError> {
        let rate = self.devices.strip_prefix("stand-in:");
        Ok(rate.map(str::parse).transpose()?)
    }

    /// The model: stand-ins, or a checkpoint of random f32 weights. `outputs` are those of a
    /// stand-in; a checkpoint gives what the run's configuration asks for.
    pub(crate) fn model(&self, outputs: &OutputSet) -> Result<Model, BoxError> {
        if let Some(rate) = self.stand_in_rate()? {
            let stand_in = StandIn::new(self.shape, self.dtype, rate, outputs)?;
            return Ok(Model::Loader(Arc::new(stand_in)));
        }
        let checkpoint = self.scratch.path().join(self.shape.name);
        if !checkpoint.exists() {
            Checkpoint::random(self.shape, 1).save(&checkpoint)?;
        }
        Ok(Model::Checkpoint(checkpoint))
    }
}

fn write_fasta(path: &Path, residue_counts: &[u32]) -> Result<(), BoxError> {
    let mut fasta = String::new();
    for (row, &residue_count) in (0..).zip(residue_counts) {
        let residues = String::from_utf8(random_residues(row, residue_count as usize))?;
        writeln!(fasta, ">protein_{row}\n{residues}")?;
    }
    Ok(std::fs::write(path, fasta)?)
}

/// Loads encoders that take as long as a GPU. They use the CPU only to copy random values.
struct StandIn {
    spec: EncoderSpec,
    tokens_per_second: f64,
    /// Random values, which stand-ins copy: [`POOL_VALUES`] of them.
    pool: Pool,
}

struct Pool {
    f32: Vec<f32>,
    f16: Vec<f16>,
}

/// More than a processor's caches hold, so that a copy reads memory.
const POOL_VALUES: usize = 1 << 26;

impl StandIn {
    fn new(
        shape: &ModelShape,
        dtype: Dtype,
        tokens_per_second: f64,
        outputs: &OutputSet,
    ) -> Result<Self, BoxError> {
        let outputs = outputs.resolve(shape.num_layers)?.into_iter();
        let residues_dtype = OutputSet::default().residues_dtype();
        let outputs = outputs.map(|(kind, layer)| OutputSpec {
            dtype: match kind.per() {
                Per::Sequence => Dtype::F32,
                Per::Residue | Per::Pair => residues_dtype,
            },
            pooling: "random numbers".to_owned(),
            ..OutputSpec::new(kind, layer, shape.hidden_size)
        });
        let outputs: Vec<OutputSpec> = outputs.collect();
        let values = |dtype| match outputs.iter().any(|output| output.dtype == dtype) {
            true => POOL_VALUES,
            false => 0,
        };
        let mut random = SplitMix64::new(1);
        let mut number = || random.next_f64() as f32;
        let pool = Pool {
            f32: (0..values(Dtype::F32)).map(|_| number()).collect(),
            f16: (0..values(Dtype::F16))
                .map(|_| f16::from_f32(number()))
                .collect(),
        };
        Ok(Self {
            spec: EncoderSpec {
                model: format!("stand-in for {}", shape.name),
                weights_digest: "none:0".to_owned(),
                adapter_digest: None,
                outputs,
                dtype,
                backend: "cpu".to_owned(),
                tokens: token_map(),
            },
            tokens_per_second,
            pool,
        })
    }
}

/// Copies `count` values from a pool, from any place on, into memory that has none yet.
fn copied<T: Copy>(pool: &[T], start: u64, count: usize, mut values: Vec<T>) -> Vec<T> {
    let mut from = start as usize % pool.len();
    while values.len() < count {
        let more = (count - values.len()).min(pool.len() - from);
        values.extend_from_slice(&pool[from..from + more]);
        from = 0;
    }
    values
}

impl EncoderLoader for StandIn {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn load(&self, _rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        Ok(Box::new(StandInEncoder {
            loader: self,
            submitted: 0,
            free: Instant::now(),
            ends: VecDeque::new(),
            memory: ValuePool::default(),
        }))
    }
}

struct StandInEncoder<'a> {
    loader: &'a StandIn,
    submitted: u64,
    /// All submitted batches are done at this time.
    free: Instant,
    /// Each batch that was submitted and not finished is done at its time here.
    ends: VecDeque<Instant>,
    /// The memory of columns, which the writer gives back.
    memory: ValuePool,
}

impl Encoder for StandInEncoder<'_> {
    fn submit(&mut self, batch: &Arc<PackedBatch>) -> Ticket {
        let seconds = batch.total_tokens() as f64 / self.loader.tokens_per_second;
        self.free = self.free.max(Instant::now()) + Duration::from_secs_f64(seconds);
        self.ends.push_back(self.free);
        self.submitted += 1;
        Ticket::new(self.submitted, Arc::clone(batch))
    }

    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        let end = self.ends.pop_front().expect("the ticket was given");
        let StandIn { spec, pool, .. } = self.loader;
        let memory = &self.memory;
        let mut columns = Vec::new();
        for (output, place) in spec.outputs.iter().zip(ticket.number()..) {
            let mut offsets = vec![0];
            offsets.extend(ticket.batch().residue_counts().scan(0, |rows, residues| {
                *rows += output.per().rows(residues);
                Some(*rows)
            }));
            let count = offsets[offsets.len() - 1] as usize * output.width;
            // Batches start at places that differ by no round number.
            let start = place * 1_000_003;
            let values = match output.dtype {
                Dtype::F16 => Values::F16(copied(&pool.f16, start, count, memory.f16(count))),
                _ => Values::F32(copied(&pool.f32, start, count, memory.f32(count))),
            };
            let column = Column::with_offsets(output.width, offsets, values)?;
            columns.push(column.in_pool(memory));
        }
        thread::sleep(end.saturating_duration_since(Instant::now()));
        Ok(EncodedBatch::new(columns))
    }
}

/// The plan's settings that the program has on these devices.
pub(crate) fn plan(devices: &Devices) -> Result<PlanConfig, BoxError> {
    let plan = PlanConfig::builder().max_batch_tokens(devices.max_batch_tokens()?);
    Ok(plan.build()?)
}
