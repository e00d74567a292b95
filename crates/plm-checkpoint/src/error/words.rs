//! Parts of the errors' sentences.

use std::path::{Path, PathBuf};

use crate::place::ADAPTER_CONFIG;

/// The most bytes of a text from a file that a sentence quotes.
const MAX_QUOTED: usize = 200;

/// The start of a text from a file, which may be of any length, and how much of it is left out.
pub(super) fn cut(text: &str) -> String {
    if text.len() <= MAX_QUOTED {
        return text.to_owned();
    }
    let start = &text[..text.floor_char_boundary(MAX_QUOTED)];
    format!("{start}... (and {} more bytes)", text.len() - start.len())
}

/// The same in quotation marks.
pub(super) fn quoted(text: &str) -> String {
    match text.len() <= MAX_QUOTED {
        true => format!("{text:?}"),
        false => {
            let start = &text[..text.floor_char_boundary(MAX_QUOTED)];
            format!("{start:?}... (and {} more bytes)", text.len() - start.len())
        }
    }
}

/// What to do about a missing directory whose name may be one on the hub; empty if it can't be.
pub(super) fn download(hub_name: Option<&str>) -> String {
    let Some(name) = hub_name else {
        return String::new();
    };
    format!(
        ", and models are not downloaded: get one from the Hugging Face hub with \
         `hf download {name} --local-dir DIR`, and name DIR"
    )
}

/// What to name instead of a file; `model` is its directory, if that holds a model.
pub(super) fn directory_of(model: Option<&Path>) -> String {
    match model {
        Some(model) => format!("name the directory of the model, {}", model.display()),
        None => "a model is a directory with a config.json and a model.safetensors".to_owned(),
    }
}

/// What to name instead of a file as an adapter; `adapter` is its directory, if that holds one.
pub(super) fn directory_of_adapter(adapter: Option<&Path>) -> String {
    match adapter {
        Some(adapter) => format!("name the directory of the adapter, {}", adapter.display()),
        None => "an adapter of peft is a directory with an adapter_config.json".to_owned(),
    }
}

/// The library that writes a JSON file of this name.
pub(super) fn writer_of(path: &Path) -> &'static str {
    match path.ends_with(ADAPTER_CONFIG) {
        true => "peft",
        false => "transformers",
    }
}

/// The end of a sentence that says what to name instead.
pub(super) fn name_one(paths: &[PathBuf]) -> String {
    match paths {
        [] => String::new(),
        [one] => format!(": name {}", one.display()),
        paths => format!(": name one of {}", some(paths)),
    }
}

/// What to do where none of these snapshots is certainly meant.
pub(super) fn snapshot_of(snapshots: &[PathBuf]) -> String {
    match snapshots {
        [] => ", nor any other: fetch the model again".to_owned(),
        snapshots => name_one(snapshots),
    }
}

/// The first of some paths, and the number of the others.
fn some(paths: &[PathBuf]) -> String {
    const SHOWN: usize = 5;

    let shown: Vec<String> = (paths.iter().take(SHOWN))
        .map(|path| path.display().to_string())
        .collect();
    match paths.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
