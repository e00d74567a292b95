//! What to do with records that can't be embedded as they are.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What becomes of a record that is invalid or empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadRecordPolicy {
    /// The whole input is refused.
    #[default]
    Fail,
    /// The record is left out, with its reason in the index.
    Skip,
}

/// What becomes of a record whose id an earlier record has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DuplicatePolicy {
    /// The whole input is refused.
    #[default]
    Fail,
    /// The record is left out; the first one of that id stays.
    Skip,
    /// The record is called `id_2`, `id_3`, ..., whichever is the first that no record of the
    /// input has.
    Rename,
}

/// Which records an index accepts. By default nothing that is wrong is let pass.
///
/// ```
/// use plm_index::{BadRecordPolicy, DuplicatePolicy, IndexConfig};
///
/// let config = IndexConfig {
///     on_duplicate: "rename".parse()?,
///     ..IndexConfig::default()
/// };
/// assert_eq!(config.on_duplicate, DuplicatePolicy::Rename);
/// assert_eq!(config.on_empty, BadRecordPolicy::Fail);
/// # Ok::<(), plm_index::ParsePolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexConfig {
    /// For records with a byte that is no residue, without a name, or whose id is not UTF-8 or holds
    /// a NUL byte.
    pub on_invalid: BadRecordPolicy,
    /// For records without residues.
    pub on_empty: BadRecordPolicy,
    /// For records whose id an earlier record has. Records that are left out for another reason
    /// lay no claim to their id.
    pub on_duplicate: DuplicatePolicy,
}

/// A word that names no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no policy: use {choices}")]
pub struct ParsePolicyError {
    word: String,
    choices: &'static str,
}

impl BadRecordPolicy {
    /// All policies.
    pub const ALL: [Self; 2] = [Self::Fail, Self::Skip];

    /// The policy's word, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

impl DuplicatePolicy {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Fail, Self::Skip, Self::Rename];

    /// The policy's word, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Skip => "skip",
            Self::Rename => "rename",
        }
    }
}

impl fmt::Display for BadRecordPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for DuplicatePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for BadRecordPolicy {
    type Err = ParsePolicyError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == word)
            .ok_or_else(|| ParsePolicyError {
                word: word.to_owned(),
                choices: "fail or skip",
            })
    }
}

impl FromStr for DuplicatePolicy {
    type Err = ParsePolicyError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == word)
            .ok_or_else(|| ParsePolicyError {
                word: word.to_owned(),
                choices: "fail, skip or rename",
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lead_back_to_their_policies() {
        for policy in BadRecordPolicy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for policy in DuplicatePolicy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        let error = "rename".parse::<BadRecordPolicy>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"rename\" is no policy: use fail or skip"
        );
    }
}
