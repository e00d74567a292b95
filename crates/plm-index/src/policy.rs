//! Policies: what becomes of records that can't be embedded as they are, and how records are named.

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
    /// The record is skipped; the index has the reason.
    Skip,
}

/// What becomes of a record that has the id of an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DuplicatePolicy {
    /// The whole input is refused.
    #[default]
    Fail,
    /// The record is skipped; the first one with that id stays.
    Skip,
    /// The record is called `id_2`, `id_3`, ...: the first of these that no record of the input
    /// has.
    Rename,
}

/// What becomes of a record with nothing after its `>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamelessPolicy {
    /// The whole input is refused.
    Fail,
    /// The record is skipped.
    Skip,
    /// The record is called `unnamed_<row>`, where rows count from 0. If a record of the input has
    /// that id, it is called `unnamed_<row>_2`, `unnamed_<row>_3`, ...
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

/// Which part of a record's definition line is its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdRule {
    /// The first word after the `>`.
    #[default]
    FirstWord,
    /// All of the line after the `>`, without white space at its ends. Tabs and other control
    /// characters inside become blanks, so that an id stays in its column of a table.
    Header,
    /// The accession in a first word like `db|ACCESSION|NAME` (`sp|P01308|INS_HUMAN`,
    /// `ref|NP_000198.1|`), or else the first word. `gnl|..` and `pdb|..` stay whole: their middle
    /// is a database, or an entry of several chains.
    Accession,
}

/// Which records an index accepts, and how it reads them. By default, no record with a problem
/// passes.
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
    /// It applies to records with a byte that is no residue, and to ids that are not UTF-8 or hold
    /// a NUL byte.
    pub on_invalid: BadRecordPolicy,
    /// It applies to records without residues.
    pub on_empty: BadRecordPolicy,
    /// It applies to records that have the id of an earlier one. A record that is skipped for
    /// another reason does not take its id.
    pub on_duplicate: DuplicatePolicy,
    /// It applies to records with nothing after their `>`; `None` treats them as `on_invalid` says.
    #[serde(default)]
    pub on_nameless: Option<NamelessPolicy>,
    /// It applies to the gaps of an alignment.
    #[serde(default)]
    pub on_gap: GapPolicy,
    /// It says which part of a definition line is the record's id.
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
    /// The word.
    word: String,
    /// The words of the policies, for the message.
    choices: &'static str,
}

/// Gives a policy its words, with `name`, `Display` and `FromStr`.
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
