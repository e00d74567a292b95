//! What a person types.

use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use plm_fleet::{
    BadRecordPolicy, Devices, Dtype, DuplicatePolicy, GapPolicy, IdRule, IndexConfig, Input, Layer,
    Model, NamelessPolicy, OutputKind, OutputSet, Part, SegmentConfig,
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
  1  failed, or a file is damaged. No file is half-written under its final name, and the message
     says what to do. Also: the result can't be written to standard output
  2  the command line is wrong
  3  refused before anything was computed: the input, the model, a setting, OUT (another run's, in
     use, or no directory) or the room on its disk
  4  done, but some records failed: ledger.tsv, or for a part its logs, name them and say why
  128 + n  stopped by signal n: 129 SIGHUP, 130 SIGINT (Ctrl-C), 143 SIGTERM, 152 SIGXCPU; run the
     same command again to resume

Signals to embed:
  SIGINT, SIGTERM, SIGHUP, SIGXCPU
           once: keeps what is computed and ends within seconds; twice: ends at once (except
           SIGXCPU, which the kernel repeats). Under nohup, SIGHUP stays ignored
  SIGUSR1  prints the progress
A write over the limit of a file's size (SIGXFSZ, ulimit -f) is an error like that of a full disk.

Standard error has plain text without colours, and a line of progress every ten seconds. A terminal
gets a progress bar and colours instead, unless TERM is dumb. NO_COLOR switches colours off.
RUST_BACKTRACE=1 adds the backtrace to the message of a bug.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Embed every protein of some FASTA files into OUT/embeddings.h5
    Embed(EmbedArgs),
    /// Index FASTA files and compute nothing: find every problem in seconds
    Index(IndexArgs),
    /// Merge the parts that `embed --part i/N` made into OUT/embeddings.h5
    Aggregate(AggregateArgs),
    /// Read every byte of a finished run and check it
    Verify(VerifyArgs),
    /// Describe this program, a model, a run or an embeddings file
    Info(InfoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    pub(crate) index: IndexArgs,

    /// A directory with a Hugging Face ESM-2 checkpoint (config.json, model.safetensors), or
    /// plm-tiny, the small demonstration model inside this program
    #[arg(
        long,
        default_value = "plm-tiny",
        value_name = "DIR|plm-tiny",
        value_parser = PathBufValueParser::new().map(model)
    )]
    pub(crate) model: Model,

    /// What computes: auto, cpu, cpu:N (N ranks share the cores) or cuda:0,1
    #[arg(long, default_value = "auto")]
    pub(crate) devices: Devices,

    /// The model's number format. auto is f16 on GPUs and f32 on the CPU. There, bf16 and f16 round
    /// the weights and gain no speed. int8 is for H100 and H200 only, the fastest and the least
    /// exact (docs/numerics.md)
    #[arg(long, default_value = "auto", value_name = "auto|f32|bf16|f16|int8", value_parser = parse_dtype)]
    pub(crate) dtype: ModelDtype,

    /// What to take from each layer, one row per protein: mean (over residues), bos (the row of the
    /// BOS token). The first is /embeddings; with several, each also has a dataset of its own
    #[arg(long, value_delimiter = ',', value_name = "mean,bos")]
    pub(crate) outputs: Vec<OutputKind>,

    /// Which layers to take it from: 0 is the embedding, -1 the last, after the final layer norm
    /// [default: -1]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "0,-1,20",
        allow_hyphen_values = true,
        value_parser = parse_layer
    )]
    pub(crate) layers: Vec<Layer>,

    /// The number format of the embeddings in the file
    #[arg(long, default_value = "f32", value_name = "f32|f16", value_parser = parse_embeddings_dtype)]
    pub(crate) embeddings_dtype: Dtype,

    /// Tokens in one batch, with two special tokens per sequence; the same for all parts of a run.
    /// A longer protein is a batch by itself [default: 33792 on GPUs, 16384 on the CPU]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub(crate) max_batch_tokens: Option<u32>,

    /// The model's window: longer proteins are treated as --on-long says
    #[arg(long, default_value_t = 1_022, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) max_residues: u32,

    /// What to do with proteins longer than the window
    #[arg(long, default_value = "truncate")]
    pub(crate) on_long: OnLong,

    /// Residues that neighbouring windows share, with --on-long window; less than --max-residues
    /// [default: 256]
    #[arg(long, value_name = "N")]
    pub(crate) window_overlap: Option<u32>,

    /// Compute only part i of N (i from 1), for job arrays; `plm-fleet aggregate` merges the parts
    #[arg(
        long,
        alias = "shard",
        default_value = "1/1",
        value_name = "i/N",
        value_parser = parse_part
    )]
    pub(crate) part: Part,

    /// Discard what OUT holds, of this run or another, and start again
    #[arg(long, conflicts_with = "retry_failed")]
    pub(crate) restart: bool,

    /// Try failed records again, also those of a finished run
    #[arg(long)]
    pub(crate) retry_failed: bool,

    /// How often this program has taken the place of one whose ranks all failed
    #[arg(long, default_value_t = 0, hide = true)]
    pub(crate) again: u32,
}

#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// FASTA files: plain, gzip, bgzip or zstd; - is standard input
    #[arg(required = true, value_name = "FASTA", value_parser = input_parser())]
    pub(crate) inputs: Vec<Input>,

    /// The output directory; made if it is not there (--output also works)
    #[arg(short, long, alias = "output", value_name = "DIR")]
    pub(crate) out: PathBuf,

    /// What to do with records that have a letter that is no residue, or no name (see
    /// --on-nameless)
    #[arg(long, default_value = "fail", value_name = "fail|skip")]
    pub(crate) on_invalid: BadRecordPolicy,

    /// What to do with records that have no residue
    #[arg(long, default_value = "fail", value_name = "fail|skip")]
    pub(crate) on_empty: BadRecordPolicy,

    /// What to do with records whose name an earlier record has: rename makes it name_2, name_3,
    /// ...
    #[arg(long, default_value = "fail", value_name = "fail|skip|rename")]
    pub(crate) on_duplicate: DuplicatePolicy,

    /// What to do with records that have nothing after their '>': name makes it unnamed_<row>, with
    /// the row counted from 0 [default: as --on-invalid]
    #[arg(long, value_name = "fail|skip|name")]
    pub(crate) on_nameless: Option<NamelessPolicy>,

    /// What to do with the gaps of an alignment ('-' and '.'): keep makes each a token
    #[arg(long, default_value = "keep", value_name = "keep|drop")]
    pub(crate) on_gap: GapPolicy,

    /// A record's name: the first word after its '>', the whole header, or the accession in
    /// db|ACCESSION|NAME (else the first word)
    #[arg(
        long,
        default_value = "first-word",
        value_name = "first-word|header|accession"
    )]
    pub(crate) id: IdRule,
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
#[command(override_usage = "plm-fleet verify [OPTIONS] OUT [--against FASTA...]
       plm-fleet verify [OPTIONS] --against FASTA... OUT")]
pub(crate) struct VerifyArgs {
    /// The output directory; or an embeddings.h5, which allows fewer checks
    #[arg(value_name = "OUT", required_unless_present = "against")]
    out: Option<PathBuf>,

    /// Also compare the run with these FASTA files, record by record; - is standard input
    #[arg(long, value_name = "FASTA", num_args = 1.., value_parser = input_parser())]
    pub(crate) against: Vec<Input>,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// An output directory, an embeddings.h5, an index.plm or a model directory; nothing for the
    /// program itself
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
}

impl VerifyArgs {
    /// Takes OUT from the end of `--against FASTA... OUT`, where the parser, which can't tell one
    /// path from another, has put it.
    pub(crate) fn find_out(&mut self) -> Result<(), ()> {
        if self.out.is_none() {
            match self.against.pop() {
                Some(Input::Path(path)) if !self.against.is_empty() => self.out = Some(path),
                _ => return Err(()),
            }
        }
        Ok(())
    }

    /// The output directory.
    pub(crate) fn out(&self) -> &Path {
        self.out
            .as_deref()
            .expect("it was found when the words were read")
    }
}

impl EmbedArgs {
    /// The outputs that were asked for, if any were.
    pub(crate) fn outputs(&self) -> Option<OutputSet> {
        if self.outputs.is_empty() && self.layers.is_empty() {
            return None;
        }
        let or = |kinds: &[OutputKind]| match kinds {
            [] => vec![OutputKind::Mean],
            kinds => kinds.to_vec(),
        };
        let layers = match &self.layers[..] {
            [] => vec![Layer::LAST],
            layers => layers.to_vec(),
        };
        Some(OutputSet::new(or(&self.outputs), layers))
    }

    /// The residues that neighbouring windows share, if there are windows.
    pub(crate) fn window_overlap(&self) -> u32 {
        self.window_overlap.unwrap_or(256)
    }
}

impl IndexArgs {
    pub(crate) fn config(&self) -> IndexConfig {
        IndexConfig {
            on_invalid: self.on_invalid,
            on_empty: self.on_empty,
            on_duplicate: self.on_duplicate,
            on_nameless: self.on_nameless,
            on_gap: self.on_gap,
            id: self.id,
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

/// Any path but an empty one; `-` is standard input.
fn input_parser() -> impl TypedValueParser<Value = Input> {
    PathBufValueParser::new().map(Input::from)
}

fn model(path: PathBuf) -> Model {
    match path.to_str() {
        // This one never fails, and a path that is not UTF-8 is a path all the same.
        Some(words) => words.parse().unwrap_or_default(),
        None => Model::Checkpoint(path),
    }
}

fn parse_dtype(words: &str) -> Result<ModelDtype, String> {
    if words == "auto" {
        return Ok(ModelDtype(None));
    }
    words
        .parse()
        .map(|dtype| ModelDtype(Some(dtype)))
        .map_err(|error: plm_fleet::ParseDtypeError| format!("{error}, or auto"))
}

fn parse_layer(words: &str) -> Result<Layer, String> {
    let number = words.parse().map_err(|_| "not a layer's number")?;
    Ok(Layer(number))
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
    match number.checked_sub(1).map(|index| Part::new(index, count)) {
        Some(Ok(part)) => Ok(part),
        _ => Err(format!(
            "there is no part {number} of {count}: parts count from 1, as in 2/8, the second of eight"
        )),
    }
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
    fn help_tells_the_batch_size_of_each_kind_of_device() {
        let mut cli = Cli::command();
        let embed = cli.find_subcommand_mut("embed").expect("it is a command");
        let help = embed.render_long_help().to_string();
        let told = format!(
            "[default: {} on GPUs, {} on the CPU]",
            Devices::GPU_BATCH_TOKENS,
            plm_fleet::PlanConfig::DEFAULT_MAX_BATCH_TOKENS
        );
        assert!(help.contains(&told), "{told}");
    }

    #[test]
    fn parts_count_from_one() {
        let part = parse_part("2/8").unwrap();
        assert_eq!((part.index(), part.count()), (1, 8));
        for words in ["0/8", "9/8", "1/0", "1", "/", "a/b", "-1/2"] {
            assert!(parse_part(words).is_err(), "{words} was taken");
        }
        for (words, refusal) in [
            ("5/4", "no part 5 of 4: parts count from 1"),
            ("0/4", "no part 0 of 4: parts count from 1"),
            ("1/0", "no part 1 of 0: parts count from 1"),
        ] {
            let error = parse_part(words).unwrap_err();
            assert!(error.contains(refusal), "{error}");
        }
    }
}
