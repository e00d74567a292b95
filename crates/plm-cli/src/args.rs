//! What a person types.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use plm_fleet::{
    BadRecordPolicy, Devices, Dtype, DuplicatePolicy, IndexConfig, Input, Model, Part,
    SegmentConfig,
};

/// Embed protein FASTA files with ESM-2: one vector per protein, one HDF5 file, input order.
#[derive(Debug, Parser)]
#[command(
    name = "plm-fleet",
    version,
    after_help = EXIT_CODES,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Say more on standard error (twice: everything).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done: every record is embedded, or left out by a policy you chose
  1  failed: nothing stands under a final name; the message says what to do
  2  the command line is wrong
  3  refused before anything was computed: the input, the model, OUT, or the room on its disk
  4  done, but some records failed: ledger.tsv, or for a part the last words, name them and say why
  130, 143  stopped by SIGINT (Ctrl-C) or SIGTERM; the same command goes on

Signals to embed:
  SIGINT, SIGTERM  once: keeps what is computed and ends within seconds; twice: ends at once
  SIGUSR1          prints how far it is";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Embed every protein of some FASTA files into OUT/embeddings.h5
    Embed(EmbedArgs),
    /// Only index FASTA files: find every problem in seconds, before any computing
    Index(IndexArgs),
    /// Merge the parts that `embed --shard i/N` made into OUT/embeddings.h5
    Aggregate(AggregateArgs),
    /// Read every byte of a finished run and check it
    Verify(VerifyArgs),
    /// Say what this program, a model, a run or an embeddings file is
    Info(InfoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    pub(crate) index: IndexArgs,

    /// A directory with a Hugging Face ESM-2 checkpoint (config.json, model.safetensors), or plm-tiny, the small
    /// demonstration model inside this program
    #[arg(long, default_value = "plm-tiny", value_name = "DIR|plm-tiny")]
    pub(crate) model: Model,

    /// What computes: auto, cpu, cpu:N (N ranks share the cores) or cuda:0,1
    #[arg(long, default_value = "auto")]
    pub(crate) devices: Devices,

    /// The model's number format; auto is f16 on GPUs and f32 on the CPU, where bf16 and f16 round the weights and
    /// bring no speed. int8 is the fastest, on H100s and H200s alone, and the least exact (docs/numerics.md)
    #[arg(long, default_value = "auto", value_name = "auto|f32|bf16|f16|int8", value_parser = parse_dtype)]
    pub(crate) dtype: ModelDtype,

    /// The number format of the embeddings in the file
    #[arg(long, default_value = "f32", value_name = "f32|f16", value_parser = parse_embeddings_dtype)]
    pub(crate) embeddings_dtype: Dtype,

    /// Tokens in one batch, two special tokens per sequence included; the same for all parts of a run. A longer protein is a
    /// batch by itself [default: 33792 on GPUs, 16384 on the CPU]
    #[arg(long, value_name = "N")]
    pub(crate) max_batch_tokens: Option<u32>,

    /// The model's window: longer proteins are treated as --on-long says
    #[arg(long, default_value_t = 1_022, value_name = "N")]
    pub(crate) max_residues: u32,

    /// What becomes of proteins longer than the window: keep the N-terminus, average overlapping windows, leave them
    /// out, or stop
    #[arg(long, default_value = "truncate")]
    pub(crate) on_long: OnLong,

    /// Residues that neighbouring windows share, with --on-long window
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub(crate) window_overlap: u32,

    /// Do part i of N only (i from 1), for job arrays; `plm-fleet aggregate` merges the parts
    #[arg(long, default_value = "1/1", value_name = "i/N", value_parser = parse_part)]
    pub(crate) shard: Part,

    /// Discard what OUT holds, of this run or another, and begin anew
    #[arg(long, conflicts_with = "retry_failed")]
    pub(crate) restart: bool,

    /// Try records that failed again, also those of a finished run
    #[arg(long)]
    pub(crate) retry_failed: bool,

    /// How often this program has taken the place of one whose ranks all failed
    #[arg(long, default_value_t = 0, hide = true)]
    pub(crate) again: u32,
}

#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// FASTA files: plain, gzip or bgzip; - is standard input
    #[arg(required = true, value_name = "FASTA")]
    pub(crate) inputs: Vec<Input>,

    /// The output directory; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,

    /// Records with a letter that is no residue, or without a name
    #[arg(long, default_value = "fail", value_name = "fail|skip")]
    pub(crate) on_invalid: BadRecordPolicy,

    /// Records without a residue
    #[arg(long, default_value = "fail", value_name = "fail|skip")]
    pub(crate) on_empty: BadRecordPolicy,

    /// Records whose name an earlier record has: rename makes it name_2, name_3, ...
    #[arg(long, default_value = "fail", value_name = "fail|skip|rename")]
    pub(crate) on_duplicate: DuplicatePolicy,
}

#[derive(Debug, Args)]
pub(crate) struct AggregateArgs {
    /// The output directory
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,

    /// Output directories of the parts, if they are not all in OUT
    #[arg(value_name = "PART_OUT")]
    pub(crate) parts: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The output directory
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,

    /// Also check that the run is of these FASTA files, record by record
    #[arg(long, value_name = "FASTA", num_args = 1..)]
    pub(crate) against: Vec<Input>,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// An output directory, an embeddings.h5, an index.plm or a model directory; nothing for the program itself
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
}

impl IndexArgs {
    pub(crate) fn config(&self) -> IndexConfig {
        IndexConfig {
            on_invalid: self.on_invalid,
            on_empty: self.on_empty,
            on_duplicate: self.on_duplicate,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OnLong {
    /// Embed the N-terminal residues that fit
    Truncate,
    /// Embed overlapping windows and average them by length
    Window,
    /// Leave them out; the ledger says why
    Skip,
    /// Stop before anything is computed
    Fail,
}

/// The model's number format; none where the devices decide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelDtype(pub(crate) Option<Dtype>);

fn parse_dtype(words: &str) -> Result<ModelDtype, String> {
    if words == "auto" {
        return Ok(ModelDtype(None));
    }
    words
        .parse()
        .map(|dtype| ModelDtype(Some(dtype)))
        .map_err(|error: plm_fleet::ParseDtypeError| format!("{error}, or auto"))
}

/// A number format that files can hold.
fn parse_embeddings_dtype(words: &str) -> Result<Dtype, String> {
    let dtype: Dtype = words
        .parse()
        .map_err(|_| format!("{words:?} is no number format of embeddings: use f32 or f16"))?;
    SegmentConfig::builder()
        .dtype(dtype)
        .build()
        .map(|_| dtype)
        .map_err(|error| error.to_string())
}

fn parse_part(words: &str) -> Result<Part, String> {
    let usage = || format!("{words:?} is no part: 2/8 is the second of eight");
    let (number, count) = words.split_once('/').ok_or_else(usage)?;
    let number: u32 = number.parse().map_err(|_| usage())?;
    let count: u32 = count.parse().map_err(|_| usage())?;
    let index = number
        .checked_sub(1)
        .ok_or_else(|| "parts count from 1: the first of eight is 1/8".to_owned())?;
    Part::new(index, count).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn parts_count_from_one() {
        let part = parse_part("2/8").unwrap();
        assert_eq!((part.index(), part.count()), (1, 8));
        for words in ["0/8", "9/8", "1/0", "1", "/", "a/b", "-1/2"] {
            assert!(parse_part(words).is_err(), "{words} was taken");
        }
    }
}
