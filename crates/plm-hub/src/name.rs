//! The names of models on the hub, with the revision that is meant.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The revision that is meant if a name has none.
const MAIN: &str = "main";

/// The most bytes of an owner, or of a model without its owner.
const MAX_PART_BYTES: usize = 96;

/// The most bytes of a revision. A file is called by it.
const MAX_REVISION_BYTES: usize = 250;

/// The sites whose addresses name models.
const SITES: [&str; 2] = ["https://huggingface.co/", "https://hf.co/"];

/// A model on the hub, `owner/name`, and a revision of it.
///
/// A revision is a branch, a tag or a commit, and `main` if there is none. Names become paths, so
/// they hold nothing that leads elsewhere.
///
/// ```
/// use plm_hub::ModelName;
///
/// let name: ModelName = "facebook/esm2_t6_8M_UR50D@c731040".parse()?;
/// assert_eq!(name.repository(), "facebook/esm2_t6_8M_UR50D");
/// assert_eq!(name.revision(), "c731040");
///
/// let address = "https://huggingface.co/facebook/esm2_t6_8M_UR50D";
/// assert_eq!(address.parse::<ModelName>()?.revision(), "main");
///
/// assert!("../esm2".parse::<ModelName>().is_err());
/// # Ok::<(), plm_hub::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelName {
    repository: String,
    revision: Option<String>,
}

impl ModelName {
    /// The model's repository, `owner/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The revision: a branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// The commit that the revision is, if it is one: 40 hex digits in lower case.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.revision.as_deref().filter(|words| is_commit(words))
    }

    /// The name of the repository's directory in a cache, and of that of its locks.
    pub(crate) fn directory(&self) -> String {
        format!("models--{}", self.repository.replace('/', "--"))
    }
}

impl FromStr for ModelName {
    type Err = Error;

    /// Reads `owner/name` or `owner/name@revision`, also after `hf://`, or the model's address on
    /// the hub's site.
    ///
    /// # Errors
    /// [`Error::NotAName`], or [`Error::Revision`] if only the revision is wrong.
    fn from_str(words: &str) -> Result<Self, Error> {
        let not_a_name = || Error::NotAName {
            words: words.to_owned(),
        };
        let (repository, revision) = parts(words);
        let (owner, name) = repository.split_once('/').ok_or_else(not_a_name)?;
        if !(is_part(owner) && is_part(name)) || name.ends_with(".git") {
            return Err(not_a_name());
        }
        if let Some(revision) = revision
            && !is_revision(revision)
        {
            return Err(Error::Revision {
                words: words.to_owned(),
                revision: revision.to_owned(),
            });
        }
        Ok(Self {
            repository: repository.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

/// The repository and the revision in some words.
fn parts(words: &str) -> (&str, Option<&str>) {
    if let Some(address) = SITES.iter().find_map(|site| words.strip_prefix(site)) {
        let address = address.trim_end_matches('/');
        return match address.split_once("/tree/") {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (address, None),
        };
    }
    let name = words.strip_prefix("hf://").unwrap_or(words);
    match name.split_once('@') {
        Some((repository, revision)) => (repository, Some(revision)),
        None => (name.strip_suffix('/').unwrap_or(name), None),
    }
}

/// Whether `part` can be an owner, or a model without its owner. The rules are those of
/// `validate_repo_id` in huggingface_hub.
fn is_part(part: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_edge =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = part.as_bytes();
    bytes.iter().all(|&byte| is_inner(byte))
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.len() <= MAX_PART_BYTES
        && !part.contains("--")
        && !part.contains("..")
}

/// Whether `words` can be a revision, by the rules of `git check-ref-format`.
fn is_revision(words: &str) -> bool {
    let is_refused = |byte: u8| byte <= b' ' || byte == 0x7f || b"~^:?*[\\".contains(&byte);
    words.len() <= MAX_REVISION_BYTES
        && !words.bytes().any(is_refused)
        && !words.contains("..")
        && words.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && !part.ends_with('.')
                && !part.ends_with(".lock")
        })
}

/// Whether `words` are a commit's digest, as the hub writes it.
pub(crate) fn is_commit(words: &str) -> bool {
    is_hex(words, 40)
}

/// Whether `words` are this many hex digits in lower case.
pub(crate) fn is_hex(words: &str, digits: usize) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    words.len() == digits && words.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_however_it_is_written() {
        for (words, repository, revision) in [
            ("facebook/esm2", "facebook/esm2", "main"),
            ("facebook/esm2/", "facebook/esm2", "main"),
            ("facebook/esm2@v1.0", "facebook/esm2", "v1.0"),
            ("hf://facebook/esm2@refs/pr/1", "facebook/esm2", "refs/pr/1"),
            ("https://huggingface.co/a/b/", "a/b", "main"),
            ("https://hf.co/a/b/tree/dev/1", "a/b", "dev/1"),
            ("_a/b-c.d_", "_a/b-c.d_", "main"),
        ] {
            let name: ModelName = words.parse().unwrap();
            assert_eq!((name.repository(), name.revision()), (repository, revision));
        }
        let name: ModelName = "a/b@dev".parse().unwrap();
        assert_eq!(name.to_string(), "a/b@dev");
        assert_eq!(name.directory(), "models--a--b");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for words in [
            "",
            "a",
            "/a/b",
            "a/b/c",
            "../b",
            "a/..",
            "./b",
            "a/.b",
            "a b/c",
            "a/b\n",
            "a--b/c",
            "a/b--c",
            "a/b..c",
            "-a/b",
            "a/b-",
            "a/b.git",
            "a\\b/c",
            "é/b",
            "hf://a",
            "hf://../b",
            "https://elsewhere/a/b",
            "https://huggingface.co/a/b/blob/main/x",
            "a/\0",
        ] {
            let refusal = words.parse::<ModelName>();
            assert!(matches!(refusal, Err(Error::NotAName { .. })), "{words:?}");
        }
        let long = "a/".to_owned() + &"b".repeat(97);
        assert!(long.parse::<ModelName>().is_err());
        for revision in [
            "", "/", "/etc", "../x", "a/../b", "a//b", "a/", ".", "a/.b", "a.lock", "a b", "a\n",
            "-x", "a\\b", "a:b",
        ] {
            let refusal = format!("a/b@{revision}").parse::<ModelName>();
            assert!(
                matches!(refusal, Err(Error::Revision { .. })),
                "{revision:?}"
            );
        }
    }

    #[test]
    fn only_a_whole_digest_is_a_commit() {
        let commit = "c731040fcd8d73dceaa04b0a8e6329b345b0f5df";
        let with = |revision: &str| format!("a/b@{revision}").parse::<ModelName>().unwrap();
        assert_eq!(with(commit).commit(), Some(commit));
        for other in [&commit[..7], &commit.to_uppercase(), "main"] {
            assert_eq!(with(other).commit(), None, "{other}");
        }
    }
}
