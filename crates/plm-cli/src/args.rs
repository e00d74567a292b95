//! The command line: commands, options, and the help that people read first.
//!
//! Only words become values here. What they mean together is `usage`'s, and what the library makes
//! of them `commands`'s.

use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use plm_fleet::{
    BadRecordPolicy, Devices, Dtype, DuplicatePolicy, ExportFormat, GapPolicy, IdRule, IndexConfig,
    Input, Layer, NamelessPolicy, OutputKind, OutputSet, Part, Per, SegmentConfig,
};

/// Turn protein FASTA files into embeddings of ESM-2, ESM C, ESM-1b or ESM-1v: one HDF5 file with
/// vectors per protein or per residue, in the order of the input
#[derive(Debug, Parser)]
#[command(
    name = "plm-fleet",
    version,
    after_help = AFTER_HELP,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Say more on standard error; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    pub(crate) verbose: u8,
}

const AFTER_HELP: &str = "\
Example:
  plm-fleet embed proteins.fasta.gz --out out --model esm2_t33_650M_UR50D
  plm-fleet verify out

If embed stops early, run the same command again: it resumes.

Exit codes:
  0  done: every record is embedded, or left out by a policy you chose
  1  failed, or a file is damaged. The message says what to do. No file with its final name is
     half-written. Also: the result can't be written to standard output
  2  the command line is wrong
  3  refused before anything was computed: the input, the model, a setting, OUT (another run's, in
     use, or no directory) or the room on its disk
  4  done, but some records failed. ledger.tsv names them and says why; for a part, its logs do
  128 + n
     stopped by signal n: 129 SIGHUP, 130 SIGINT (Ctrl-C), 143 SIGTERM, 152 SIGXCPU. Run the same
     command again to resume

Signals that embed handles:
  SIGINT, SIGTERM, SIGHUP, SIGXCPU
           The first keeps what is computed and ends the run within seconds. The second ends it at
           once, except for SIGXCPU, which the kernel repeats. Under nohup, SIGHUP stays ignored
  SIGUSR1  prints the progress
A write over the limit on file sizes (SIGXFSZ, ulimit -f) is an error like a full disk.

Standard error gets plain text without colours, and a line of progress every ten seconds. A terminal
gets colours and a progress bar instead, unless TERM is dumb. NO_COLOR switches the colours off.
RUST_BACKTRACE=1 adds the backtrace to the message about a bug.";

const AFTER_EMBED_HELP: &str = "\
Examples:
  Mean and BOS token of the last layer and of layer 20, in one pass:
    plm-fleet embed in.fasta --out out --model DIR --outputs mean,bos --layers -1,20
  A row per residue, and the mean over them:
    plm-fleet embed in.fasta --out out --model DIR --outputs mean,residues
  Long proteins in overlapping windows:
    plm-fleet embed in.fasta --out out --model DIR --on-long window
  A job array of eight; each job computes one part, and the last command merges them:
    plm-fleet embed in.fasta --out out --model DIR --part 1/8
    plm-fleet aggregate out";

const AFTER_AGGREGATE_HELP: &str = "\
The parts of a run with residues, logits or contacts share one output directory, OUT: give each
`embed --part i/N` the same --out. Other parts may have a directory each.";

const AFTER_MODELS_HELP: &str = "\
Models are kept in the cache that Python's huggingface_hub uses, and each finds what the other has
downloaded. These environment variables mean what they mean there:
  HF_HUB_CACHE, HF_HOME  where the cache is
  HF_HUB_OFFLINE=1       downloads nothing
  HF_TOKEN               opens private and gated models
  HF_ENDPOINT            the address of a mirror
Other names of the cache and of the token, https_proxy and no_proxy work too; SSL_CERT_FILE names
other certificate authorities.

Examples:
  Download a model where there is a network, for jobs where there is none:
    plm-fleet models esm2_t33_650M_UR50D
  The same at a commit that never changes:
    plm-fleet models facebook/esm2_t33_650M_UR50D@COMMIT";

const AFTER_EXPORT_HELP: &str = "\
Examples:
  All of a run as one Parquet file, out.parquet:
    plm-fleet export out --to parquet
  The means of some proteins as text:
    plm-fleet export out --to tsv --outputs mean --rows ids.txt --dest some.tsv

docs/reading.md says how other languages and tools read embeddings.h5 itself.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Embed every protein of some FASTA files into OUT/embeddings.h5
    #[command(after_help = AFTER_EMBED_HELP)]
    Embed(EmbedArgs),
    /// Find every problem of FASTA files in seconds: write OUT/index.plm, compute nothing
    Index(IndexArgs),
    /// Merge the parts that `embed --part i/N` made into OUT/embeddings.h5
    #[command(after_help = AFTER_AGGREGATE_HELP)]
    Aggregate(AggregateArgs),
    /// Read every byte of a finished run and check it
    Verify(VerifyArgs),
    /// Write a finished run in the format of another tool
    #[command(after_help = AFTER_EXPORT_HELP)]
    Export(ExportArgs),
    /// List the models that go by a name, or download some
    #[command(after_help = AFTER_MODELS_HELP)]
    Models(ModelsArgs),
    /// Describe this program, a model, a run or an embeddings file
    Info(InfoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct EmbedArgs {
    #[command(flatten)]
    pub(crate) index: IndexArgs,

    /// The model: a name that `plm-fleet models` lists (esm2_t33_650M_UR50D); another on the
    /// Hugging Face hub (owner/name, owner/name@revision); a directory with a checkpoint
    /// (config.json, and model.safetensors or pytorch_model.bin), or of an adapter (see --adapter),
    /// or a file of fair-esm (esm2_t33_650M_UR50D.pt), which count first; or plm-tiny, the small
    /// demonstration model inside this program. What is named and not in the hub's cache is
    /// downloaded into it
    #[arg(
        long,
        default_value = "plm-tiny",
        value_name = "NAME|DIR|FILE.pt|plm-tiny"
    )]
    pub(crate) model: PathBuf,

    /// An adapter that peft saved (LoRA: adapter_config.json, and adapter_model.safetensors or
    /// adapter_model.bin), to be merged into --model: its directory, or its name on the Hugging
    /// Face hub. Or name it with --model: the model is then the one that adapter_config.json names
    #[arg(long, value_name = "DIR|NAME")]
    pub(crate) adapter: Option<PathBuf>,

    /// What to compute on: cpu, cpu:N (N ranks share the cores), cuda:0,1 (one rank per GPU), or
    /// auto: all GPUs, else the CPU
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cpu:N|cuda:0,1")]
    pub(crate) devices: Devices,

    /// The number format that the model computes in. auto is f16 on GPUs and f32 on the CPU. On the
    /// CPU, bf16 and f16 round the weights and gain no speed. On GPUs, bos, max, residues and
    /// logits in bf16 or f16 are measured first, and everything is computed in f32 if they are too
    /// coarse. int8 runs on H100 and H200 only; it is the fastest and the least exact
    /// (docs/numerics.md)
    #[arg(
        long,
        default_value = "auto",
        value_name = "auto|f32|bf16|f16|int8",
        value_parser = parse_dtype
    )]
    pub(crate) dtype: ModelDtype,

    /// What to take of the model, in one pass. One row per protein: mean (the mean over its
    /// residues), bos (the row of BOS, the token before the first residue), max (the maximum over
    /// its residues, in each dimension). One row per residue: residues (the embeddings themselves),
    /// logits (of the masked language model, one per token of its vocabulary). One number per pair
    /// of residues: contacts (the probability that they touch). Several have commas between them,
    /// and a dataset each, for example /bos/layer_33; the first with one row per protein is also
    /// /embeddings. int8 gives only the mean of the last layer [default: mean]
    #[arg(long, value_delimiter = ',', value_name = "mean,residues,...")]
    pub(crate) outputs: Vec<OutputKind>,

    /// The layers to take mean, bos, max and residues of. 0 is the embedding, 1 the first layer, -1
    /// the last one (after the final layer norm), -2 the one before it: --layers 0,-1,20. logits
    /// and contacts have no layer [default: -1]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "0,-1,20",
        allow_hyphen_values = true,
        value_parser = parse_layer
    )]
    pub(crate) layers: Vec<Layer>,

    /// The number format in embeddings.h5 of the outputs with one row per protein [default: f32]
    #[arg(long, value_name = "f32|f16", value_parser = parse_stored_dtype)]
    pub(crate) embeddings_dtype: Option<Dtype>,

    /// The number format in embeddings.h5 of residues, logits and contacts. f32 takes twice the
    /// room [default: f16]
    #[arg(long, value_name = "f32|f16", value_parser = parse_stored_dtype)]
    pub(crate) residues_dtype: Option<Dtype>,

    /// The size of a file of the result, in GiB. A larger result is several files of this size at
    /// most (and some KiB that describe it), each with some of the proteins, in the order of the
    /// input; embeddings.h5 then tells which file has which [default: one file of any size]
    #[arg(
        long,
        value_name = "GIB",
        allow_negative_numbers = true,
        value_parser = parse_gib
    )]
    pub(crate) max_file_gib: Option<u64>,

    /// What keeps the embeddings, by its name
    #[arg(
        long,
        default_value_t = plm_fleet::store_names().next().unwrap_or_default().to_owned(),
        value_name = "NAME",
        // Help for whom there is something to choose.
        hide = plm_fleet::store_names().len() == 1
    )]
    pub(crate) store: String,

    /// The most tokens in a batch: residues, and two special tokens per sequence. All parts of a
    /// run need the same number. A longer protein is a batch by itself [default: 33792 on GPUs,
    /// 16384 on the CPU]
    #[arg(
        long,
        value_name = "N",
        value_parser = value_parser!(u32).range(1..=i64::from(i32::MAX))
    )]
    pub(crate) max_batch_tokens: Option<u32>,

    /// The most residues that the model sees at once, its window. --on-long says what happens to
    /// longer proteins. ESM-1b and ESM-1v take no more than the default
    #[arg(
        long,
        default_value_t = 1_022,
        value_name = "N",
        value_parser = value_parser!(u32).range(1..)
    )]
    pub(crate) max_residues: u32,

    /// What to do with proteins longer than --max-residues
    #[arg(
        long,
        default_value = "truncate",
        value_name = "truncate|window|skip|fail"
    )]
    pub(crate) on_long: OnLong,

    /// The residues that neighbouring windows share, with --on-long window; fewer than
    /// --max-residues [default: 256]
    #[arg(long, value_name = "N")]
    pub(crate) window_overlap: Option<u32>,

    /// What to do with proteins that have the same residues: once computes one of up to 16 of them
    /// and gives all its values, each computes all. The result is the same
    #[arg(long, default_value = "once", value_name = "once|each")]
    pub(crate) identical: Identical,

    /// Compute part i of N only, with i from 1, for job arrays; `plm-fleet aggregate` merges the
    /// parts
    #[arg(
        long,
        alias = "shard",
        default_value = "1/1",
        value_name = "i/N",
        value_parser = parse_part
    )]
    pub(crate) part: Part,

    /// Discard the run in OUT, this one or another, and start again
    #[arg(long, conflicts_with = "retry_failed")]
    pub(crate) restart: bool,

    /// Compute failed records again, also those of a finished run
    #[arg(long)]
    pub(crate) retry_failed: bool,

    /// How often this program has replaced a process whose ranks had all failed
    #[arg(long, default_value_t = 0, hide = true)]
    pub(crate) again: u32,
}

#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// FASTA files, plain or compressed with gzip, bgzip or zstd; - is standard input
    #[arg(required = true, value_name = "FASTA", value_parser = input_parser())]
    pub(crate) inputs: Vec<Input>,

    /// The output directory, OUT in this help; created if it is missing (--output works too)
    #[arg(short, long, alias = "output", value_name = "DIR")]
    pub(crate) out: PathBuf,

    /// What to do with a record that has a character that is no residue: fail stops before anything
    /// is computed, skip leaves the record out and the ledger says why
    #[arg(long, default_value = "fail", value_name = "fail|skip")]
    pub(crate) on_invalid: BadRecordPolicy,

    /// What to do with a record that has no residues
    #[arg(long, default_value = "fail", value_name = "fail|skip")]
    pub(crate) on_empty: BadRecordPolicy,

    /// What to do with a record that has the name of an earlier one: rename calls it name_2,
    /// name_3, ...
    #[arg(long, default_value = "fail", value_name = "fail|skip|rename")]
    pub(crate) on_duplicate: DuplicatePolicy,

    /// What to do with a record that has no name after its '>': name calls it unnamed_<row>, where
    /// rows count from 0 [default: as --on-invalid]
    #[arg(long, value_name = "fail|skip|name")]
    pub(crate) on_nameless: Option<NamelessPolicy>,

    /// What to do with alignment gaps ('-' and '.'): keep makes each a token, drop leaves them out
    #[arg(long, default_value = "keep", value_name = "keep|drop")]
    pub(crate) on_gap: GapPolicy,

    /// What names a record: the first word after its '>', the whole header, or the accession in
    /// db|ACCESSION|NAME (without one, the first word)
    #[arg(
        long,
        default_value = "first-word",
        value_name = "first-word|header|accession"
    )]
    pub(crate) id: IdRule,
}

#[derive(Debug, Args)]
pub(crate) struct AggregateArgs {
    /// The output directory, which gets the merged result
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,

    /// The output directories of parts that are not in OUT; not for runs with residues, logits or
    /// contacts
    #[arg(value_name = "PART_OUT")]
    pub(crate) parts: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(override_usage = "plm-fleet verify [OPTIONS] OUT [--against FASTA...]
       plm-fleet verify [OPTIONS] --against FASTA... OUT")]
pub(crate) struct VerifyArgs {
    /// The output directory of a run. An embeddings.h5 alone allows fewer checks
    #[arg(value_name = "OUT", required_unless_present = "against")]
    out: Option<PathBuf>,

    /// Also check that the run has the records of these FASTA files, residue by residue; - is
    /// standard input
    #[arg(long, value_name = "FASTA", num_args = 1.., value_parser = input_parser())]
    pub(crate) against: Vec<Input>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The output directory of a finished run, or an embeddings.h5 alone
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,

    /// The format. npy: a directory with a file per output, which numpy.load maps into memory.
    /// safetensors: a file with a tensor per output. parquet: a row per protein, with its id,
    /// length, status, and a list per output. h5-per-id: a dataset per protein, of one output, as
    /// ProtTrans and bio_embeddings write them. tsv: a line per protein, of one output
    #[arg(long, value_name = "npy|safetensors|parquet|h5-per-id|tsv")]
    pub(crate) to: ExportFormat,

    /// What to write; nothing is ever replaced [default: OUT with the format's ending, beside it:
    /// OUT.parquet, OUT_npy]
    #[arg(long, value_name = "PATH")]
    pub(crate) dest: Option<PathBuf>,

    /// Export only the proteins whose ids are in this file, one per line, in its order; empty lines
    /// and blanks around ids do not count [default: all, in the order of the input]
    #[arg(long, value_name = "IDS.txt")]
    pub(crate) rows: Option<PathBuf>,

    /// Export only these of the run's outputs [default: all]
    #[arg(long, value_delimiter = ',', value_name = "mean,residues,...")]
    pub(crate) outputs: Vec<OutputKind>,

    /// Export only outputs of these layers, by the numbers that `plm-fleet info OUT` shows, from 0
    /// (the embedding) [default: all]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "0,20",
        allow_hyphen_values = true,
        value_parser = parse_stored_layer
    )]
    pub(crate) layers: Vec<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    /// Download these models, unless they are in the cache, and print their directories: names from
    /// the list, or owner/name, with @revision or without
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// An output directory, an embeddings.h5, an index.plm, the directory of a model or of an
    /// adapter, or the name of either in the cache. Without it: this program, its devices and its
    /// built-in model
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,

    /// The directory of an adapter, or its name in the cache, to be merged into the model at PATH
    #[arg(long, value_name = "DIR|NAME", requires = "path")]
    pub(crate) adapter: Option<PathBuf>,
}

impl VerifyArgs {
    /// Takes OUT from the end of `--against FASTA... OUT`. The parser can't tell one path from
    /// another, and has put it there.
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
        self.out.as_deref().expect("find_out has found it")
    }
}

impl EmbedArgs {
    /// The outputs that were asked for; `None` if neither `--outputs` nor `--layers` was given.
    pub(crate) fn outputs(&self) -> Option<OutputSet> {
        if self.outputs.is_empty() && self.layers.is_empty() {
            return None;
        }
        let kinds = match &self.outputs[..] {
            [] => vec![OutputKind::Mean],
            kinds => kinds.to_vec(),
        };
        let layers = match &self.layers[..] {
            [] => vec![Layer::LAST],
            layers => layers.to_vec(),
        };
        let outputs = OutputSet::new(kinds, layers);
        Some(match self.residues_dtype {
            Some(dtype) => outputs.with_residues_dtype(dtype),
            None => outputs,
        })
    }

    /// The number format of the outputs with one row per protein.
    pub(crate) fn embeddings_dtype(&self) -> Dtype {
        self.embeddings_dtype.unwrap_or(Dtype::F32)
    }

    /// The options that were given and change nothing, each with the reason.
    pub(crate) fn without_effect(&self) -> Vec<&'static str> {
        let kinds = match &self.outputs[..] {
            [] => &[OutputKind::Mean],
            kinds => kinds,
        };
        let is_per_protein = |kind: &OutputKind| kind.per() == Per::Sequence;
        let overlap = self.window_overlap.is_some() && !matches!(self.on_long, OnLong::Window);
        let layers = !self.layers.is_empty() && !kinds.iter().any(|kind| kind.is_of_a_layer());
        let embeddings = self.embeddings_dtype.is_some() && !kinds.iter().any(is_per_protein);
        let residues = self.residues_dtype.is_some() && kinds.iter().all(is_per_protein);
        let all = [
            (
                overlap,
                "--window-overlap does nothing without --on-long window",
            ),
            (
                layers,
                "--layers does nothing without mean, bos, max or residues in --outputs",
            ),
            (
                embeddings,
                "--embeddings-dtype does nothing without mean, bos or max in --outputs",
            ),
            (
                residues,
                "--residues-dtype does nothing without residues, logits or contacts in --outputs",
            ),
        ];
        let without = all.into_iter().filter(|(is_without, _)| *is_without);
        without.map(|(_, words)| words).collect()
    }

    /// The residues that neighbouring windows share, where there are windows.
    pub(crate) fn window_overlap(&self) -> u32 {
        self.window_overlap.unwrap_or(256)
    }
}

impl IndexArgs {
    /// The policies for records, as the library takes them.
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

/// What to do with proteins longer than the model's window.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OnLong {
    /// Embed the first residues that fit, from the N-terminus
    Truncate,
    /// Embed overlapping windows and join them: the mean weighted by length, the maximum, and each
    /// residue from the window in which it is farthest from an edge. Contacts can't be joined
    Window,
    /// Leave them out; the ledger says why
    Skip,
    /// Stop before anything is computed
    Fail,
}

/// What to do with proteins that have the same residues.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Identical {
    /// Compute one, and give all of them its values
    Once,
    /// Compute each
    Each,
}

/// The model's number format; `None` where the devices decide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelDtype(pub(crate) Option<Dtype>);

/// Reads an input: any path but an empty one; `-` is standard input.
fn input_parser() -> impl TypedValueParser<Value = Input> {
    PathBufValueParser::new().map(Input::from)
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

/// Reads a size in GiB, in bytes.
fn parse_gib(words: &str) -> Result<u64, String> {
    let gib: Option<f64> = words.parse().ok().filter(|gib: &f64| gib.is_finite());
    match gib.map(|gib| (gib * f64::from(1 << 30)) as u64) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(format!(
            "{words:?} is no size: use a number of GiB, for example 100 or 0.5"
        )),
    }
}

/// Reads a layer of the model.
fn parse_layer(words: &str) -> Result<Layer, String> {
    let number = words.parse().map_err(|_| {
        format!(
            "{words:?} is no layer: use numbers, for example 0 (the embedding) or -1 (the last)"
        )
    })?;
    Ok(Layer(number))
}

/// Reads the layer of an output that a result has. It does not say how many layers its model had,
/// so none counts from the end.
fn parse_stored_layer(words: &str) -> Result<usize, String> {
    words.parse().map_err(|_| {
        format!("{words:?} is no layer of a result: use its number, from 0 (the embedding)")
    })
}

/// Reads a number format that files can hold.
fn parse_stored_dtype(words: &str) -> Result<Dtype, String> {
    let dtype: Dtype = words
        .parse()
        .map_err(|_| format!("{words:?} is no number format of files: use f32 or f16"))?;
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
    fn help_states_the_batch_size_of_each_kind_of_device() {
        let mut cli = Cli::command();
        let embed = cli.find_subcommand_mut("embed").expect("it is a command");
        let help = embed.render_long_help().to_string();
        let stated = format!(
            "[default: {} on GPUs, {} on the CPU]",
            Devices::GPU_BATCH_TOKENS,
            plm_fleet::PlanConfig::DEFAULT_MAX_BATCH_TOKENS
        );
        // The help is wrapped.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(&stated), "{stated}");
    }

    fn embed(options: &str) -> EmbedArgs {
        let words = format!("plm-fleet embed in.fasta --out out {options}");
        let Command::Embed(args) = Cli::parse_from(words.split_whitespace()).command else {
            panic!("another command");
        };
        args
    }

    #[test]
    fn an_option_is_without_effect_where_no_output_is_of_its_kind() {
        for (options, without) in [
            ("", &[][..]),
            (
                "--outputs mean,residues --layers 0 --embeddings-dtype f16 --residues-dtype f32",
                &[],
            ),
            ("--outputs contacts --residues-dtype f32", &[]),
            ("--outputs logits,contacts --layers 3", &["--layers"]),
            (
                "--outputs residues --embeddings-dtype f16",
                &["--embeddings-dtype"],
            ),
            ("--outputs max --residues-dtype f16", &["--residues-dtype"]),
            (
                "--residues-dtype f16 --window-overlap 8",
                &["--window-overlap", "--residues-dtype"],
            ),
        ] {
            let said = embed(options).without_effect();
            let named: Vec<&str> = said
                .iter()
                .filter_map(|words| words.split(' ').next())
                .collect();
            assert_eq!(named, without, "{options}");
        }
    }

    #[test]
    fn residues_are_f16_unless_f32_is_asked_for() {
        for (options, dtype) in [
            ("--outputs residues", Dtype::F16),
            ("--outputs residues --residues-dtype f32", Dtype::F32),
            ("--outputs residues --embeddings-dtype f32", Dtype::F16),
        ] {
            let outputs = embed(options).outputs().expect("some are asked for");
            assert_eq!(outputs.residues_dtype(), dtype, "{options}");
        }
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
