//! The errors of this crate: why a model can't be had by its name.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a model can't be had by its name. What was downloaded stays, and the next try goes on there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The words can't name a model on the hub.
    #[error("{words:?} is no name of a model on the hub: write owner/name, or owner/name@revision")]
    NotAName {
        /// The words.
        words: String,
    },
    /// The revision in a name can't be one.
    #[error("{words:?} has {revision:?} as its revision, which is no branch, tag or commit")]
    Revision {
        /// The name with its revision.
        words: String,
        /// The revision.
        revision: String,
    },
    /// The cache does not have the model, and nothing is downloaded.
    #[error("{name} {state}, and {reason}: {by_hand}")]
    NotCached {
        /// The model's name.
        name: String,
        /// What the cache has of it, in words.
        state: String,
        /// Why it is not downloaded.
        reason: NotDownloaded,
        /// What to download where, in words.
        by_hand: String,
    },
    /// The cache does not have the model, and the hub can't be reached.
    #[error("{name} {state}, and {url} can't be reached ({why}): {by_hand}")]
    Unreachable {
        /// The model's name.
        name: String,
        /// What the cache has of it, in words.
        state: String,
        /// The address that was asked.
        url: String,
        /// What to download where, in words.
        by_hand: String,
        /// What went wrong.
        why: String,
    },
    /// The address of the hub is no address.
    #[error("{endpoint:?} is no address of a hub: it starts with https:// and names a host")]
    Endpoint {
        /// The address.
        endpoint: String,
    },
    /// The address of the proxy is no address.
    #[error("the address of the proxy is none that can be used: write http://HOST:PORT")]
    Proxy,
    /// The hub has no such model, or hides it from whoever has no token for it.
    #[error("{endpoint} has no model {name}, or shows it to others only{}", token_words(*has_token))]
    NoSuchModel {
        /// The model's name.
        name: String,
        /// The address of the hub.
        endpoint: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The hub's model has no such revision.
    #[error("{endpoint}/{name} has no revision {revision:?}")]
    NoSuchRevision {
        /// The model's name, without a revision.
        name: String,
        /// The address of the hub.
        endpoint: String,
        /// The revision.
        revision: String,
    },
    /// The hub wants to know who asks, or does not let them have the model.
    #[error(
        "{endpoint}/{name} is not for everyone (status {status}): accept its terms there, if it \
         has some{}",
        token_words(*has_token)
    )]
    Denied {
        /// The model's name.
        name: String,
        /// The address of the hub.
        endpoint: String,
        /// The status of the answer.
        status: u16,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// An answer has a status that says neither yes nor why not.
    #[error("{url} answers with status {status}: try again later")]
    Status {
        /// The address that was asked.
        url: String,
        /// The status of the answer.
        status: u16,
    },
    /// An answer is not what a hub says.
    #[error("{url} does not answer as a hub does: {problem}")]
    NotAHub {
        /// The address that was asked.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The repository has no file that a model needs.
    #[error("{name} has no {file} at commit {commit}, so it is no {what}")]
    NoConfig {
        /// The model's name.
        name: String,
        /// The commit.
        commit: String,
        /// The file.
        file: &'static str,
        /// What it would be with the file, in a word or two.
        what: &'static str,
    },
    /// The repository has weights in no form that is read.
    #[error("{name} has no {wanted} at commit {commit}{}", instead(found))]
    NoWeights {
        /// The model's name.
        name: String,
        /// The commit.
        commit: String,
        /// The files that are read, in words.
        wanted: String,
        /// Weights in other forms.
        found: Vec<String>,
    },
    /// The index of the weights is no such index.
    #[error("{path} is no index of weights: it has no weight_map with the file of each tensor")]
    Index {
        /// The index.
        path: PathBuf,
    },
    /// The index of the weights names a file that is not beside it in the repository.
    #[error("{path} names the shard {shard:?}, which is no file of {name}")]
    Shard {
        /// The model's name.
        name: String,
        /// The index.
        path: PathBuf,
        /// The shard's name in the index.
        shard: String,
    },
    /// A text is far larger than such files are.
    #[error("{url} has {bytes} bytes or more, which no such file of a model has")]
    TextTooLarge {
        /// The address of the file.
        url: String,
        /// The bytes that it has.
        bytes: u64,
    },
    /// A download broke off, and trying again did not help.
    #[error(
        "the download of {url} broke off after {received} bytes ({why}): try again, and it goes \
         on there"
    )]
    BrokenOff {
        /// The address of the file.
        url: String,
        /// The bytes that are there.
        received: u64,
        /// What went wrong.
        why: String,
    },
    /// A file has another size than the hub says.
    #[error("{url} has another size ({received} bytes so far) than the hub says ({expected})")]
    WrongSize {
        /// The address of the file.
        url: String,
        /// The bytes that came.
        received: u64,
        /// The bytes that the hub says.
        expected: u64,
    },
    /// A file has another digest than the hub says.
    #[error("{url} sent a file whose digest is {found} where the hub says {expected}")]
    WrongDigest {
        /// The address of the file.
        url: String,
        /// The digest of what came, in hex.
        found: String,
        /// The digest that the hub says.
        expected: String,
    },
    /// The disk of the cache has too little room.
    #[error("{path} has room for {available_bytes} bytes, and the download takes {needed_bytes}")]
    NoSpace {
        /// The cache.
        path: PathBuf,
        /// The bytes that are still to come.
        needed_bytes: u64,
        /// The bytes that the disk has left.
        available_bytes: u64,
    },
    /// A file of the cache can't be read or written.
    #[error("{path} can't be written or read")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Why a model is not downloaded that the cache does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotDownloaded {
    /// [`HubConfig::is_offline`](crate::HubConfig::is_offline) is set.
    Offline,
    /// This build has no feature `download`.
    NotBuilt,
    /// Only the cache was to be looked at.
    NotAsked,
}

impl fmt::Display for NotDownloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offline => "nothing is downloaded in offline mode",
            Self::NotBuilt => "this build downloads nothing",
            Self::NotAsked => "nothing is downloaded now",
        })
    }
}

/// What a token has to do with a refusal.
fn token_words(has_token: bool) -> &'static str {
    match has_token {
        true => "; the token that was sent does not open it",
        false => "; no token was sent",
    }
}

/// Which weights there are instead.
fn instead(found: &[String]) -> String {
    match found {
        [] => ", nor other weights".to_owned(),
        [one] => format!(", only {one}, which is not read"),
        [first, more @ ..] => format!(
            ", only {first} and {} more like it, which are not read",
            more.len()
        ),
    }
}

impl Error {
    /// Adds the path to an I/O error, for `map_err`.
    #[cfg(feature = "download")]
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
