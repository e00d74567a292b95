//! What to do about an error, in terms of the command line.
//!
//! Libraries say what went wrong and where, and name their own fields. Only the program knows what
//! its options and commands are called. Each function here is for the errors of one crate, and has
//! an arm for each variant that an option or a command helps against.

use plm_fleet::checkpoint::Error as CheckpointError;
use plm_fleet::coordinator::{Error as RunError, RowFailure};
use plm_fleet::exporting::Error as ExportError;
use plm_fleet::hub::{Error as HubError, NotDownloaded};
use plm_fleet::index::{Error as InputError, Problems, SkipReason};
use plm_fleet::shards::Error as ShardError;
use plm_fleet::{Dtype, Error, ModelError, OutputSpec, Per, Remedy};

/// An error and its causes as one sentence that ends with what to do about it.
pub(crate) fn with_advice(error: &Error) -> String {
    let sentence = crate::sentence(error);
    on_one_line(&match advice(error) {
        Some(advice) => format!("{sentence}; {advice}"),
        None => sentence,
    })
}

/// `sentence` with its control characters escaped: file names may hold codes that terminals obey.
fn on_one_line(sentence: &str) -> String {
    let mut line = String::with_capacity(sentence.len());
    for character in sentence.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// What to do about an error; `None` if the error itself says all there is to say.
fn advice(error: &Error) -> Option<String> {
    let words = match error {
        Error::Index(error) => return of_input(error),
        Error::Checkpoint(error) => of_checkpoint(error)?,
        Error::Hub(error) => of_hub(error)?,
        Error::Model(error) => of_model(error)?,
        Error::Coordinator(error) => of_run(error)?,
        Error::Export(error) => of_export(error)?,
        Error::Shards(error) => of_shards(error)?,
        Error::NoAdapterBase { .. } => "--model takes it, and --adapter the adapter",
        Error::Devices { .. } | Error::NotOncePerRank { .. } => "choose others with --devices",
        Error::NoPositions { most_residues, .. } => {
            return Some(format!("--max-residues {most_residues} is the most"));
        }
        Error::SequenceTooLong { .. } => "choose another --on-long, or a larger --max-residues",
        Error::PairsOfWindows { .. } => {
            "choose another --on-long, a larger --max-residues, or --outputs without it"
        }
        Error::NothingToEmbed { .. } => {
            "see --on-invalid, --on-nameless, --on-empty, --on-duplicate and --on-long"
        }
        Error::OtherRun { .. } => {
            "choose another --out, or discard that run with `plm-fleet embed --restart`"
        }
        Error::NoOutDir { .. } => "choose another --out",
        Error::NoSpace { outputs, .. } => of_room(outputs),
        Error::NoMemory { .. } => "see --max-residues, --on-long and --devices",
        Error::MissingParts { count: 1, .. } => {
            "`plm-fleet embed` with the same arguments resumes the run, and merges at its end"
        }
        Error::MissingParts { count, .. } => {
            return Some(format!(
                "run `plm-fleet embed ... --part i/{count}` for each of them, then aggregate again"
            ));
        }
        Error::NoParts { .. } => "`plm-fleet embed ... --part i/N --out` makes one",
        Error::NotFinished { progress, .. } if !progress.holders.is_empty() => "wait for it",
        Error::NotFinished { .. } => {
            "`plm-fleet embed` with the same arguments, or `plm-fleet aggregate` for parts, \
             finishes it"
        }
        Error::DamagedFingerprint { .. } | Error::Foreign { .. } => "or choose another --out",
        Error::Thread { .. } => "raise the limit on processes (ulimit -u), or stop some",
        _ => return None,
    };
    Some(words.to_owned())
}

/// What to do about too little room for these outputs, as they are stored. Those per residue or per
/// pair take nearly all of it, if there are any.
fn of_room(outputs: &[OutputSpec]) -> &'static str {
    let (narrow, wide): (Vec<_>, Vec<_>) =
        (outputs.iter()).partition(|output| output.per() == Per::Sequence);
    let are_f32 = |outputs: &[&OutputSpec]| outputs.iter().any(|output| output.dtype == Dtype::F32);
    match (&wide[..], &narrow[..]) {
        ([], narrow) if are_f32(narrow) => {
            "make room, choose another --out, or halve the vectors with --embeddings-dtype f16"
        }
        ([], _) => "make room, choose another --out, or fewer --outputs or --layers",
        (wide, _) if are_f32(wide) => {
            "make room, choose another --out, or fewer --outputs or --layers, or halve the outputs \
             per residue with --residues-dtype f16"
        }
        _ => {
            "make room, choose another --out, or fewer --outputs or --layers: those per residue or \
             per pair take the most"
        }
    }
}

/// What to do about FASTA files and their index.
fn of_input(error: &InputError) -> Option<String> {
    match error {
        InputError::Problems(problems) => policies(problems),
        InputError::IdTooLong { .. } => Some("see --id".to_owned()),
        _ => None,
    }
}

/// The options that let records with these problems pass.
fn policies(problems: &Problems) -> Option<String> {
    let mut options = Vec::new();
    for reason in SkipReason::ALL {
        let option = match reason {
            SkipReason::Duplicate => "--on-duplicate",
            SkipReason::Empty => "--on-empty",
            SkipReason::NoName => "--on-nameless",
            _ => "--on-invalid",
        };
        if problems.count(reason) > 0 && !options.contains(&option) {
            options.push(option);
        }
    }
    if problems.count(SkipReason::Duplicate) > 0 {
        // The whole header or the accession may be unique where the first word is not.
        options.push("--id");
    }
    (!options.is_empty()).then(|| format!("see {}", options.join(", ")))
}

/// What to do about a model's files.
fn of_checkpoint(error: &CheckpointError) -> Option<&'static str> {
    Some(match error {
        CheckpointError::NoModelNamed
        | CheckpointError::NoSuchModel { .. }
        | CheckpointError::ModelIsFile { .. }
        | CheckpointError::NoConfig { .. }
        | CheckpointError::HubCache { .. }
        | CheckpointError::NoSnapshot { .. } => {
            "--model takes the directory of a checkpoint, a file of fair-esm (.pt), or a name that \
             `plm-fleet models` lists"
        }
        CheckpointError::Adapter { .. } => "--adapter takes it, and --model its base model",
        CheckpointError::NoAdapter { .. }
        | CheckpointError::NoSuchAdapter { .. }
        | CheckpointError::AdapterIsFile { .. } => {
            "--adapter takes the directory that peft has saved, or the name of an adapter on the \
             hub (owner/name)"
        }
        CheckpointError::ForeignAdapter { .. } => "--model takes its base model",
        _ => return None,
    })
}

/// What to do about a model's name, the cache and the hub.
fn of_hub(error: &HubError) -> Option<&'static str> {
    Some(match error {
        HubError::NotAName { .. } => "`plm-fleet models` lists names",
        HubError::NotCached {
            reason: NotDownloaded::Offline,
            ..
        } => "HF_HUB_OFFLINE=0 lets it be downloaded here",
        HubError::NotCached {
            reason: NotDownloaded::NotAsked,
            ..
        } => "`plm-fleet models NAME` does that",
        HubError::NoSuchModel { .. } => {
            "HF_TOKEN takes a token; if a directory was meant, there is none of this name"
        }
        HubError::Denied { .. } => "HF_TOKEN takes a token",
        HubError::Endpoint { .. } => "see HF_ENDPOINT",
        HubError::NotAHub { .. } | HubError::Unreachable { .. } => {
            "HF_ENDPOINT names another hub, https_proxy a proxy"
        }
        HubError::Proxy => "see https_proxy, http_proxy and all_proxy",
        HubError::NoSpace { .. } | HubError::Io { .. } => "HF_HUB_CACHE names another cache",
        HubError::NoWeights { .. } => {
            "convert them to safetensors, and name their directory with --model"
        }
        _ => return None,
    })
}

/// What to do about the model and its devices.
fn of_model(error: &ModelError) -> Option<&'static str> {
    Some(match error.remedy()? {
        Remedy::Cpu => "--devices cpu does that",
        Remedy::OtherDtype => "see --dtype and --devices",
        Remedy::OtherDevices => "see --devices and --dtype",
        _ => return None,
    })
}

/// What to do about the plan, and about the ranks that carry it out.
fn of_run(error: &RunError) -> Option<&'static str> {
    Some(match error {
        RunError::ZeroSetting { setting } => option_of(setting)?,
        RunError::BatchTooLarge { .. } => "see --max-batch-tokens",
        RunError::WindowTooLarge { .. } => "see --max-residues",
        RunError::OverlapTooLarge { .. } => "see --window-overlap and --max-residues",
        RunError::SequenceTooLong { .. } => "choose another --on-long, or a larger --max-residues",
        RunError::NoSuchPart { .. } => "see --part, which counts from 1",
        RunError::InputUnreadable { .. } => {
            "then run the same command again to resume; or embed what is there now with --restart"
        }
        RunError::NoVectors { first, .. } if first.kind == RowFailure::TooLarge => {
            "--embeddings-dtype f32 holds larger numbers"
        }
        RunError::NoVectors { first, .. } if first.kind == RowFailure::MaybeBeyondF16 => {
            "--residues-dtype f32 keeps outputs per residue in f32"
        }
        RunError::AllRanksFailed { .. } | RunError::InDoubt { .. } => {
            "run the same command again to resume"
        }
        _ => return None,
    })
}

/// The option for a setting.
fn option_of(setting: &str) -> Option<&'static str> {
    Some(match setting {
        "max_batch_tokens" => "see --max-batch-tokens",
        "max_residues" => "see --max-residues",
        _ => return None,
    })
}

/// What to do about segments and embeddings.h5.
fn of_shards(error: &ShardError) -> Option<&'static str> {
    Some(match error {
        ShardError::UnsupportedDtype { dtype } if *dtype != Dtype::Int8 => "see --embeddings-dtype",
        ShardError::UnsupportedDtype { .. } => "see --embeddings-dtype; --dtype may be int8",
        ShardError::NotFinite { .. } => "--embeddings-dtype f32 does that",
        ShardError::OutputExists { .. } | ShardError::OtherRun { .. } => {
            "--out names another directory"
        }
        ShardError::DamagedSegment { .. } | ShardError::MissingRows { .. } => {
            "that is the same `plm-fleet embed`, with the part's --part i/N if there are parts"
        }
        ShardError::RecordTooLarge { .. } | ShardError::TooManyFiles { .. } => "see --max-file-gib",
        ShardError::OtherDraft { .. } => "`plm-fleet embed --restart` discards it with its run",
        _ => return None,
    })
}

/// What to do about an export.
fn of_export(error: &ExportError) -> Option<&'static str> {
    Some(match error {
        ExportError::Exists { .. } => "--dest names another place",
        ExportError::NoSpace { .. } => "make room, or choose another --dest",
        ExportError::NoSuchOutput { .. } | ExportError::OneOutput { .. } => {
            "see --outputs and --layers"
        }
        ExportError::ManyRows { .. } => "see --to and --outputs",
        ExportError::UnknownId { .. } | ExportError::RepeatedId { .. } => "see --rows",
        ExportError::Id { .. } => "see --to",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use plm_fleet::{OutputKind, Part, PlanConfig, SegmentConfig};

    use super::*;

    fn path() -> PathBuf {
        "out".into()
    }

    #[test]
    fn an_error_is_one_line_whatever_its_files_are_called() {
        let path = "a\nb\u{1b}[31m.fa".into();
        let said = with_advice(&Error::NoParts { path });
        assert!(
            said.starts_with(r"a b\u{1b}[31m.fa holds no part"),
            "{said}"
        );
    }

    #[test]
    fn what_takes_the_room_is_what_to_have_less_of() {
        use OutputKind::{Contacts, Mean, Residues};
        let of = |kind, dtype| OutputSpec {
            dtype,
            ..OutputSpec::new(kind, 6, 128)
        };
        let (vectors, residues) = ("--embeddings-dtype f16", "--residues-dtype f16");
        for (outputs, has, lacks) in [
            (vec![of(Mean, Dtype::F32)], vectors, residues),
            (vec![of(Mean, Dtype::F16)], "--layers", vectors),
            (vec![of(Residues, Dtype::F32)], residues, vectors),
            (
                vec![of(Mean, Dtype::F32), of(Residues, Dtype::F32)],
                residues,
                vectors,
            ),
            (
                vec![of(Mean, Dtype::F32), of(Contacts, Dtype::F16)],
                "fewer --outputs or --layers",
                "f16",
            ),
        ] {
            let said = of_room(&outputs);
            assert!(said.contains(has) && !said.contains(lacks), "{said}");
        }
    }

    #[test]
    fn errors_name_the_options_and_commands_that_help() {
        let no_part = Part::new(4, 4).unwrap_err();
        let no_residues = PlanConfig::builder().max_residues(0).build().unwrap_err();
        let no_tokens = PlanConfig::builder().max_batch_tokens(0).build();
        let no_format = SegmentConfig::builder().dtype(Dtype::Bf16).build();
        for (error, options) in [
            (
                Error::SequenceTooLong {
                    file: "in.fasta".to_owned(),
                    line: 1,
                    byte_offset: 0,
                    id: "a".to_owned(),
                    residue_count: 9,
                    max_residues: 8,
                    others: 0,
                },
                &["--on-long", "--max-residues"][..],
            ),
            (
                Error::PairsOfWindows {
                    output: OutputKind::Contacts,
                    file: "in.fasta".to_owned(),
                    line: 1,
                    byte_offset: 0,
                    id: "a".to_owned(),
                    residue_count: 9,
                    max_residues: 8,
                    others: 0,
                },
                &["--on-long", "--max-residues", "--outputs"],
            ),
            (
                Error::NothingToEmbed { records: 1 },
                &[
                    "--on-invalid",
                    "--on-nameless",
                    "--on-empty",
                    "--on-duplicate",
                    "--on-long",
                ],
            ),
            (
                Error::OtherRun {
                    path: path(),
                    differences: "its model".to_owned(),
                },
                &["--out", "--restart"],
            ),
            (
                Error::NoSpace {
                    path: path(),
                    needed_bytes: 2,
                    available_bytes: 1,
                    outputs: vec![OutputSpec::new(OutputKind::Mean, 6, 128)],
                },
                &["make room", "--out", "--embeddings-dtype f16"],
            ),
            (
                Error::MissingParts {
                    path: path(),
                    count: 3,
                    missing: vec![2],
                },
                &["plm-fleet embed ... --part i/3"],
            ),
            (
                Error::NoAdapterBase {
                    adapter: path(),
                    base: None,
                },
                &["--model", "--adapter"],
            ),
            (
                CheckpointError::Adapter { path: path() }.into(),
                &["--adapter", "--model"],
            ),
            (
                CheckpointError::NoAdapter {
                    path: path(),
                    adapters: Vec::new(),
                }
                .into(),
                &["--adapter"],
            ),
            (
                CheckpointError::NoSuchAdapter { path: path() }.into(),
                &["--adapter"],
            ),
            (
                CheckpointError::AdapterIsFile {
                    path: path(),
                    adapter: None,
                }
                .into(),
                &["--adapter"],
            ),
            (
                CheckpointError::ForeignAdapter {
                    path: path(),
                    model: path(),
                }
                .into(),
                &["--model"],
            ),
            (Error::NoParts { path: path() }, &["--part i/N --out"]),
            (
                Error::NotFinished {
                    path: path(),
                    progress: plm_fleet::RunProgress::default(),
                },
                &["plm-fleet embed", "plm-fleet aggregate"],
            ),
            (
                Error::Foreign {
                    path: path(),
                    reason: "it is no file",
                },
                &["--out"],
            ),
            (
                Error::NoOutDir {
                    path: path(),
                    reason: "it is a file".to_owned(),
                },
                &["--out"],
            ),
            (
                Error::Devices {
                    devices: plm_fleet::Devices::Auto,
                    source: Box::new(plm_fleet::kernels::GpuError::NotBuilt),
                },
                &["--devices"],
            ),
            (
                Error::NotOncePerRank {
                    devices: plm_fleet::Devices::Auto,
                },
                &["--devices"],
            ),
            (
                Error::Thread {
                    source: io::Error::other("no"),
                },
                &["ulimit -u"],
            ),
            (no_part.into(), &["--part"]),
            (no_residues.into(), &["--max-residues"]),
            (no_tokens.unwrap_err().into(), &["--max-batch-tokens"]),
            (no_format.unwrap_err().into(), &["--embeddings-dtype"]),
            (
                ModelError::new("no room", Some(Remedy::OtherDevices)).into(),
                &["--devices", "--dtype"],
            ),
            (
                ModelError::new("no kernel", Some(Remedy::Cpu)).into(),
                &["--devices cpu"],
            ),
            (
                ModelError::new("no int8", Some(Remedy::OtherDtype)).into(),
                &["--dtype", "--devices"],
            ),
        ] {
            let said = with_advice(&error);
            for option in options {
                assert!(said.contains(option), "no {option} in: {said}");
            }
            assert!(!said.contains('\n'), "{said}");
        }
    }
}
