//! Models by name, and `plm-fleet models`: lists them, and downloads some.
//!
//! The environment variables of the Hugging Face hub are read here, and nowhere else.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_fleet::checkpoint::{Adapter, ModelFiles};
use plm_fleet::hub::{Hub, HubConfig};
use plm_fleet::{Error, KnownModel, Model, released_models};

use crate::Exit;
use crate::args::ModelsArgs;
use crate::download::Download;
use crate::voice::show;
use crate::words::{bytes, number};

/// The model of a name or a directory, which is downloaded if it is not there, and the adapter that
/// is merged into it.
pub(crate) fn find(words: &Path, adapter: Option<&Path>) -> Result<Model, Error> {
    let hub = hub().with_progress(Arc::new(Download::default()));
    let adapter = adapter.map(|adapter| Model::find_adapter(adapter, &hub));
    adapted(adapter, words, |words| Model::find(words, &hub))
}

/// The same, but nothing is downloaded.
pub(crate) fn find_cached(words: &Path, adapter: Option<&Path>) -> Result<Model, Error> {
    let adapter = adapter.map(|adapter| Model::find_cached_adapter(adapter, &hub()));
    adapted(adapter, words, |words| Model::find_cached(words, &hub()))
}

fn adapted(
    adapter: Option<Result<PathBuf, Error>>,
    words: &Path,
    find: impl FnOnce(&Path) -> Result<Model, Error>,
) -> Result<Model, Error> {
    let Some(adapter) = adapter.transpose()? else {
        return find(words);
    };
    // What can't be merged is refused before a model is downloaded for it.
    Adapter::open(&adapter)?;
    let base = match Adapter::is_in(words)? {
        true => Model::Checkpoint(words.to_owned()),
        false => find(words)?,
    };
    base.with_adapter(adapter)
}

/// The hub and its cache, as the environment says.
fn hub() -> Hub {
    let home = std::env::home_dir();
    let config = HubConfig::of_variables(|name| std::env::var_os(name), home.as_deref());
    Hub::new(config)
}

pub(crate) fn models(args: &ModelsArgs) -> Result<Exit, Error> {
    if args.names.is_empty() {
        let hub = hub();
        show(&list(&released_models(&hub), &hub.config().cache));
        return Ok(Exit::Done);
    }
    for name in &args.names {
        let found = find(name, None)?;
        let base = match &found {
            Model::Checkpoint(path) => Some(path.as_path()),
            Model::Adapted(adapted) => adapted.base(),
            _ => None,
        };
        // A name that is nothing, or a directory that is no model, is refused.
        let files = base
            .map(|base| ModelFiles::open(base, |_| None))
            .transpose()?;
        let dir = match &found {
            Model::Adapted(adapted) => Some(adapted.adapter()),
            _ => files.as_ref().map(ModelFiles::dir),
        };
        match dir {
            Some(dir) => show(&dir.display().to_string()),
            None => show(&format!("{found} is built in")),
        }
    }
    Ok(Exit::Done)
}

/// A table of the models, and where the cache is.
fn list(models: &[KnownModel], cache: &Path) -> String {
    let head = [
        "model",
        "family",
        "parameters",
        "layers",
        "width",
        "licence",
        "in the cache",
    ];
    let rows = models.iter().map(|known| {
        [
            known.model.repository(),
            known.model.family.to_owned(),
            millions(known.model.parameters),
            known.model.num_layers.to_string(),
            number(known.model.hidden_size as u64),
            known.model.licence.to_owned(),
            match &known.cached {
                Some(snapshot) => format!("yes, {}", bytes(snapshot.bytes())),
                None => "no".to_owned(),
            },
        ]
    });
    let rows: Vec<_> = [head.map(str::to_owned)].into_iter().chain(rows).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a String does not fail. Numbers end in line.
            let _ = match column {
                2..=4 => write!(line, "{cell:>width$}  "),
                _ => write!(line, "{cell:<width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let _ = write!(
        text,
        "--model takes each of them, with its owner or without\nthe cache is {}",
        cache.display()
    );
    text
}

/// A number of parameters as people say it: `7.5 M`, `651 M`, `2,839 M`.
fn millions(parameters: u64) -> String {
    match parameters {
        0..10_000_000 => format!("{:.1} M", parameters as f64 / 1e6),
        _ => format!("{} M", number((parameters + 500_000) / 1_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_in_millions() {
        for (parameters, words) in [
            (7_512_474, "7.5 M"),
            (33_501_394, "34 M"),
            (651_043_254, "651 M"),
            (15_129_100_194, "15,129 M"),
        ] {
            assert_eq!(millions(parameters), words);
        }
    }
}
