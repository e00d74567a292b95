//! Parts of sentences that errors are.

use std::path::{Path, PathBuf};

use plm_kernels::GpuDescription;

/// What to do about a directory that is not there.
pub(super) fn download(hub_name: Option<&str>) -> String {
    let Some(name) = hub_name else {
        return String::new();
    };
    format!(
        ", and models are not downloaded: get one from the Hugging Face hub with \
         `hf download {name} --local-dir DIR`, and name DIR"
    )
}

pub(super) fn directory_of(model: Option<&Path>) -> String {
    match model {
        Some(model) => format!("name the directory of the model, {}", model.display()),
        None => "a model is a directory with a config.json and a model.safetensors".to_owned(),
    }
}

/// The end of a sentence, with what could be meant instead.
pub(super) fn name_one(paths: &[PathBuf]) -> String {
    match paths {
        [] => String::new(),
        [one] => format!(": name {}", one.display()),
        paths => format!(": name one of {}", some(paths)),
    }
}

pub(super) fn snapshot_of(snapshots: &[PathBuf]) -> String {
    match snapshots {
        [] => ", nor any other: fetch the model again".to_owned(),
        snapshots => name_one(snapshots),
    }
}

/// The first of some paths, and how many more there are.
pub(super) fn some(paths: &[PathBuf]) -> String {
    const SHOWN: usize = 5;

    let shown: Vec<String> = (paths.iter().take(SHOWN))
        .map(|path| path.display().to_string())
        .collect();
    match paths.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

pub(super) fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    words.join(" and ")
}

/// The error itself, on one line also where `RUST_BACKTRACE` is set.
pub(super) fn without_backtrace(error: &candle_core::Error) -> &candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(inner),
        error => error,
    }
}

pub(super) fn advice(error: &candle_core::Error) -> &'static str {
    match without_backtrace(error) {
        candle_core::Error::Cuda(_) => {
            "; after such an error CUDA may be of no use in this process: run again to go on"
        }
        _ => "",
    }
}

/// GPUs by their kinds, each kind with its GPUs.
pub(super) fn by_kind(gpus: &[GpuDescription]) -> String {
    let mut kinds = Vec::new();
    for gpu in gpus {
        if !kinds.contains(&gpu.kind) {
            kinds.push(gpu.kind);
        }
    }
    let of_kind = |kind| -> String {
        let names: Vec<String> = (gpus.iter().filter(|gpu| gpu.kind == kind))
            .map(|gpu| format!("cuda:{} ({})", gpu.ordinal, gpu.name))
            .collect();
        let is = if names.len() == 1 { "is" } else { "are" };
        format!("{} {is} {kind}", names.join(" and "))
    };
    let kinds: Vec<String> = kinds.into_iter().map(of_kind).collect();
    kinds.join("; ")
}

pub(super) fn and_a_sequence(tokens: usize) -> String {
    match tokens {
        0 => String::new(),
        tokens => format!(" and a sequence of {tokens} tokens"),
    }
}
