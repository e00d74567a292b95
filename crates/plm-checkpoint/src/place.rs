//! Finds the folder that a caller means by a model's name, and the name of the model in it.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use crate::{Error, weights};

/// The file by which an adapter of peft is known.
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The most bytes in the name of a snapshot. On the hub, it has 40 letters.
const MAX_REVISION_BYTES: u64 = 1 << 10;

/// A folder, and the name of the model in it.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
    /// The pickle, if the model is that file. Any other model has a `config.json` in its folder.
    pub(crate) pickle: Option<PathBuf>,
    /// The commit of the files on the hub, if they are a snapshot in a hub cache.
    pub(crate) commit: Option<String>,
}

/// The folder that `named` stands for: itself, or the snapshot of a repository in a hub cache; or
/// the folder of the pickle that it is.
///
/// `short` returns the repository on the hub for which a word alone is short.
pub(crate) fn find(named: &Path, short: impl Fn(&str) -> Option<String>) -> Result<Place, Error> {
    if named.as_os_str().is_empty() {
        return Err(Error::NoModelNamed);
    }
    match fs::metadata(named) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) if is_pickle(named) => return Ok(of_pickle(named)),
        Ok(_) => return Err(a_file(named)),
        Err(source) => return Err(absent(named, short, source)),
    }
    let dir = snapshot(named)?.unwrap_or_else(|| named.to_owned());
    if is_adapter(&dir)? {
        let path = dir.join(ADAPTER_CONFIG);
        return Err(Error::Adapter { path });
    }
    if !is_there(&dir.join("config.json")) {
        return Err(no_config(&dir)?);
    }
    let (name, commit) = name_of(&dir);
    Ok(Place {
        dir,
        name,
        commit,
        pickle: None,
    })
}

/// Whether a folder is that of an adapter of peft.
fn is_adapter(dir: &Path) -> Result<bool, Error> {
    if !is_there(&dir.join(ADAPTER_CONFIG)) {
        return Ok(false);
    }
    let mut weights = weights::weight_files().flat_map(|(single, index)| [single, index]);
    match weights.any(|name| is_there(&dir.join(name))) {
        // Its adapter would be passed over in silence.
        true => Err(Error::ModelBesideAdapter {
            path: dir.to_owned(),
        }),
        false => Ok(true),
    }
}

/// Whether `named` stands for the folder of an adapter of peft, and of no model.
pub(crate) fn is_of_adapter(named: &Path) -> Result<bool, Error> {
    if !named.is_dir() {
        return Ok(false);
    }
    // What is wrong with a repository in a cache is told where it is opened.
    let dir = snapshot(named).ok().flatten();
    is_adapter(dir.as_deref().unwrap_or(named))
}

/// The folder that `named` stands for as an adapter, and the adapter's name.
pub(crate) fn find_adapter(named: &Path) -> Result<(PathBuf, String), Error> {
    match fs::metadata(named) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            let parent = folder_of(named);
            return Err(Error::AdapterIsFile {
                path: named.to_owned(),
                adapter: is_there(&parent.join(ADAPTER_CONFIG)).then(|| parent.to_owned()),
            });
        }
        Err(source) => {
            return Err(match unreadable(named, source) {
                Error::Read { path, source } if is_absence(&source) => {
                    Error::NoSuchAdapter { path }
                }
                error => error,
            });
        }
    }
    let dir = snapshot(named)?.unwrap_or_else(|| named.to_owned());
    if !is_there(&dir.join(ADAPTER_CONFIG)) {
        let inside = entries(&dir)?.into_iter();
        return Err(Error::NoAdapter {
            path: dir,
            adapters: inside
                .filter(|path| path.join(ADAPTER_CONFIG).exists())
                .collect(),
        });
    }
    let (name, _) = name_of(&dir);
    Ok((dir, name))
}

/// The place of a model that is a single file. It has the file's name, or its folder's if the file
/// is called as transformers calls the file of every model.
fn of_pickle(path: &Path) -> Place {
    let dir = folder_of(path).to_owned();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let (of_dir, commit) = name_of(&dir);
    let name = match stem.starts_with("pytorch_model") {
        true => of_dir,
        false => stem.into_owned(),
    };
    Place {
        dir,
        name,
        commit,
        pickle: Some(path.to_owned()),
    }
}

/// Whether something has this name, also a link that leads nowhere.
pub(crate) fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Opens a file. A pipe is refused first: opening it could wait for a writer for ever.
pub(crate) fn open(path: &Path) -> io::Result<fs::File> {
    if fs::metadata(path)?.file_type().is_fifo() {
        return Err(io::Error::other("it is a pipe, and no file"));
    }
    fs::File::open(path)
}

/// The error for a `path` that can't be read, or for a link on the way that leads nowhere.
pub(crate) fn unreadable(path: &Path, source: io::Error) -> Error {
    match dangling_link(path) {
        Some((link, target)) if source.kind() == io::ErrorKind::NotFound => {
            Error::DanglingLink { link, target }
        }
        _ => Error::Read {
            path: path.to_owned(),
            source,
        },
    }
}

/// The link on the way to `path` that leads nowhere, and the path in it.
fn dangling_link(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let there = path.ancestors().find(|path| is_there(path))?;
    if there.exists() {
        return None;
    }
    Some((there.to_owned(), fs::read_link(there).ok()?))
}

/// The paths of a folder's entries, sorted.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(dir)?;
        entries.map(|entry| Ok(entry?.path())).collect()
    };
    let mut entries = list().map_err(|source| unreadable(dir, source))?;
    entries.sort_unstable();
    Ok(entries)
}

/// Whether a file is one that PyTorch wrote, by its name: it ends in `.bin`, `.pt`, `.pth`, `.ckpt`
/// or `.pkl`.
///
/// ```
/// use std::path::Path;
///
/// assert!(plm_checkpoint::is_pickle(Path::new("models/esm2_t33_650M_UR50D.pt")));
/// assert!(!plm_checkpoint::is_pickle(Path::new("model.safetensors")));
/// ```
pub fn is_pickle(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("bin" | "pt" | "pth" | "ckpt" | "pkl"))
}

/// The folder of a file.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        parent => parent.unwrap_or(path),
    }
}

/// The error for a file that was named instead of a folder.
fn a_file(path: &Path) -> Error {
    let parent = folder_of(path);
    Error::ModelIsFile {
        path: path.to_owned(),
        model: is_there(&parent.join("config.json")).then(|| parent.to_owned()),
    }
}

/// Whether an error says that nothing has a name.
fn is_absence(source: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(source.kind(), NotFound | NotADirectory)
}

/// The error for a folder that can't be opened.
fn absent(named: &Path, short: impl Fn(&str) -> Option<String>, source: io::Error) -> Error {
    if !is_absence(&source) {
        return unreadable(named, source);
    }
    if let Some((link, target)) = dangling_link(named) {
        return Error::DanglingLink { link, target };
    }
    Error::NoSuchModel {
        path: named.to_owned(),
        hub_name: named
            .to_str()
            .and_then(|words| short(words).or_else(|| hub_name(words))),
    }
}

/// The repository on the hub that `words` name, if they can name one.
fn hub_name(words: &str) -> Option<String> {
    // The name follows `hf://`; after other schemes, a site comes first.
    let address = words.strip_prefix("hf://").or_else(|| {
        let (_, rest) = words.split_once("://")?;
        Some(rest.split_once('/')?.1)
    });
    let parts: Vec<&str> = (address.unwrap_or(words).trim_end_matches('/'))
        .split('/')
        .collect();
    let is_name = |part: &&str| {
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_of_name)
    };
    match parts[..] {
        [owner, name] if is_name(&owner) && is_name(&name) => Some(format!("{owner}/{name}")),
        // An address may go on with a branch of the repository, or a file.
        [owner, name, ..] if address.is_some() && is_name(&owner) && is_name(&name) => {
            Some(format!("{owner}/{name}"))
        }
        _ => None,
    }
}

/// The snapshot that is opened for the directory of a repository in a hub cache; `None` if the
/// directory is none, or holds a model itself.
///
/// # Errors
/// [`Error::NoSnapshot`] if it is not certain which snapshot is meant, [`Error::Read`] if the
/// directory can't be read.
pub fn hub_snapshot(dir: impl AsRef<Path>) -> Result<Option<PathBuf>, Error> {
    snapshot(dir.as_ref())
}

/// The snapshot to open for `dir`, if that is a repository in a hub cache; `None` if it is a model.
fn snapshot(dir: &Path) -> Result<Option<PathBuf>, Error> {
    if is_there(&dir.join("config.json")) {
        return Ok(None);
    }
    let repository = if dir.join("snapshots").is_dir() {
        dir.to_owned()
    } else {
        let whole = dir.canonicalize();
        match whole.as_deref().ok().and_then(Path::parent) {
            Some(parent) if dir.ends_with("snapshots") && hub_directory(parent).is_some() => {
                parent.to_owned()
            }
            _ => return Ok(None),
        }
    };
    let snapshots = repository.join("snapshots");
    if let Some(revision) = revision(&repository.join("refs/main")) {
        let snapshot = snapshots.join(revision);
        if snapshot.is_dir() {
            return Ok(Some(snapshot));
        }
    } else if let [only] = &*entries(&snapshots)? {
        return Ok(Some(only.clone()));
    }
    Err(Error::NoSnapshot {
        snapshots: entries(&snapshots)?,
        path: repository,
    })
}

/// The snapshot that a branch of a repository in a hub cache names, if it is a plain name.
fn revision(path: &Path) -> Option<String> {
    let mut revision = String::new();
    let file = open(path).ok()?;
    file.take(MAX_REVISION_BYTES)
        .read_to_string(&mut revision)
        .ok()?;
    let revision = revision.trim();
    let is_plain = Path::new(revision).file_name() == Some(revision.as_ref());
    is_plain.then(|| revision.to_owned())
}

/// The error for a folder without a `config.json`: what it is, or what to name instead.
fn no_config(dir: &Path) -> Result<Error, Error> {
    let inside = entries(dir)?;
    // The home of the hub's tools has the cache in `hub`.
    let of_hub = entries(&dir.join("hub")).unwrap_or_default();
    let repositories = inside.iter().chain(&of_hub);
    let models: Vec<PathBuf> = repositories
        .filter(|path| hub_directory(path).is_some())
        .cloned()
        .collect();
    let path = dir.to_owned();
    if !models.is_empty() {
        return Ok(Error::HubCache { path, models });
    }
    let is_model = |path: &&PathBuf| is_pickle(path) || path.join("config.json").exists();
    let models = inside.iter().filter(is_model);
    Ok(Error::NoConfig {
        path,
        models: models.cloned().collect(),
    })
}

/// The repository that a folder in a hub cache holds: `org/name` for `models--org--name`.
fn hub_directory(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_prefix("models--")?;
    Some(name.replace("--", "/"))
}

/// A model's name, and the commit of its files if their folder is a snapshot in a hub cache. The
/// name of a snapshot is its repository's, and of another folder the folder's.
fn name_of(dir: &Path) -> (String, Option<String>) {
    let Ok(whole) = dir.canonicalize() else {
        return (dir.display().to_string(), None);
    };
    let of_snapshot = whole.ancestors().find_map(|snapshot| {
        let snapshots = snapshot.parent()?;
        let repository = hub_directory(snapshots.parent()?)?;
        let is_snapshot = snapshots.ends_with("snapshots");
        let inside = whole.strip_prefix(snapshot).ok()?;
        is_snapshot.then(|| {
            let parts = inside.components().map(Component::as_os_str);
            let name = parts.fold(repository, |name, part| {
                format!("{name}/{}", part.to_string_lossy())
            });
            (name, commit(snapshot))
        })
    });
    of_snapshot.unwrap_or_else(|| match whole.file_name() {
        Some(name) => (name.to_string_lossy().into_owned(), None),
        None => (dir.display().to_string(), None),
    })
}

/// The commit by which a snapshot is called.
fn commit(snapshot: &Path) -> Option<String> {
    let name = snapshot.file_name()?.to_str()?;
    let is_commit = name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_can_name_a_repository_on_the_hub_do() {
        let name = "facebook/esm2_t6_8M_UR50D";
        for words in [
            name,
            "facebook/esm2_t6_8M_UR50D/",
            "https://hub.example/facebook/esm2_t6_8M_UR50D",
            "https://hub.example/facebook/esm2_t6_8M_UR50D/tree/main",
            "hf://facebook/esm2_t6_8M_UR50D",
        ] {
            assert_eq!(hub_name(words).as_deref(), Some(name), "{words}");
        }
        for words in [
            "esm2",
            "/facebook/esm2",
            "./esm2",
            "../esm2",
            "a/b/c",
            "a b/c",
            "a/..",
            "",
        ] {
            assert_eq!(hub_name(words), None, "{words}");
        }
    }
}
