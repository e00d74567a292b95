//! What to do with records that can't be embedded as they are, and what they are called.

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

/// What becomes of a record with nothing after its `>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamelessPolicy {
    /// The whole input is refused.
    Fail,
    /// The record is left out.
    Skip,
    /// The record is called `unnamed_<row>`, with its position in the input counted from zero; if
    /// a record of the input has that id, `unnamed_<row>_2`, `unnamed_<row>_3`, ...
    Name,
}

/// What becomes of the gaps of an alignment: `-` and `.` among the residues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GapPolicy {
    /// They stay: each is a residue of ESM-2's alphabet, and one token.
    #[default]
    Keep,
    /// They are dropped, and counted as dropped.
    Drop,
}

/// What of a record's definition line is its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdRule {
    /// The first word after the `>`.
    #[default]
    FirstWord,
    /// All of the line after the `>`, without white space at its ends. Tabs and other control
    /// characters within become blanks, so that an id keeps to its column wherever it is written.
    Header,
    /// The accession in a first word like `db|ACCESSION|NAME` (`sp|P01308|INS_HUMAN`,
    /// `ref|NP_000198.1|`); else the first word. `gnl|..` and `pdb|..`, whose middle is a database
    /// or an entry of several chains, stay whole.
    Accession,
}

/// Which records an index accepts, and how it reads them. By default nothing that is wrong is let
/// pass.
///
/// ```
/// use plm_index::{BadRecordPolicy, DuplicatePolicy, IdRule, IndexConfig};
///
/// let config = IndexConfig {
///     on_duplicate: "rename".parse()?,
///     id: IdRule::Accession,
///     ..IndexConfig::default()
/// };
/// assert_eq!(config.on_duplicate, DuplicatePolicy::Rename);
/// assert_eq!(config.on_empty, BadRecordPolicy::Fail);
/// # Ok::<(), plm_index::ParsePolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexConfig {
    /// For records with a byte that is no residue, or whose id is not UTF-8 or holds a NUL byte.
    pub on_invalid: BadRecordPolicy,
    /// For records without residues.
    pub on_empty: BadRecordPolicy,
    /// For records whose id an earlier record has. A record that is left out for another reason
    /// does not take its id.
    pub on_duplicate: DuplicatePolicy,
    /// For records with nothing after their `>`; `None` treats them as `on_invalid` says.
    #[serde(default)]
    pub on_nameless: Option<NamelessPolicy>,
    /// For the gaps of an alignment.
    #[serde(default)]
    pub on_gap: GapPolicy,
    /// What of a definition line is the record's id.
    #[serde(default)]
    pub id: IdRule,
}

impl IndexConfig {
    /// What becomes of a record with nothing after its `>`.
    pub(crate) fn nameless(&self) -> NamelessPolicy {
        self.on_nameless.unwrap_or(match self.on_invalid {
            BadRecordPolicy::Fail => NamelessPolicy::Fail,
            BadRecordPolicy::Skip => NamelessPolicy::Skip,
        })
    }
}

/// A word that names no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no policy: use {choices}")]
pub struct ParsePolicyError {
    word: String,
    choices: &'static str,
}

/// A policy's words: to read it from, and to write it as.
macro_rules! words {
    ($policy:ident, $choices:literal, $($variant:ident => $word:literal),+) => {
        impl $policy {
            /// All policies.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// The policy's word, as [`FromStr`] reads it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $policy {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $policy {
            type Err = ParsePolicyError;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                Self::ALL
                    .into_iter()
                    .find(|policy| policy.name() == word)
                    .ok_or_else(|| ParsePolicyError {
                        word: word.to_owned(),
                        choices: $choices,
                    })
            }
        }
    };
}

words!(BadRecordPolicy, "fail or skip", Fail => "fail", Skip => "skip");
words!(
    DuplicatePolicy, "fail, skip or rename",
    Fail => "fail", Skip => "skip", Rename => "rename"
);
words!(
    NamelessPolicy, "fail, skip or name",
    Fail => "fail", Skip => "skip", Name => "name"
);
words!(GapPolicy, "keep or drop", Keep => "keep", Drop => "drop");
words!(
    IdRule, "first-word, header or accession",
    FirstWord => "first-word", Header => "header", Accession => "accession"
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Each word reads back as its policy, and is the word in an index's JSON.
    fn check_words<P>(all: &[P])
    where
        P: Copy + fmt::Debug + fmt::Display + FromStr<Err = ParsePolicyError> + PartialEq,
        P: Serialize,
    {
        for policy in all {
            assert_eq!(policy.to_string().parse(), Ok(*policy));
            let json = serde_json::to_string(policy).unwrap();
            assert_eq!(json, format!("\"{policy}\""));
        }
    }

    #[test]
    fn words_lead_back_to_their_policies() {
        check_words(&BadRecordPolicy::ALL);
        check_words(&DuplicatePolicy::ALL);
        check_words(&NamelessPolicy::ALL);
        check_words(&GapPolicy::ALL);
        check_words(&IdRule::ALL);
        let error = "rename".parse::<BadRecordPolicy>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"rename\" is no policy: use fail or skip"
        );
    }
}
