//! Which modules a setting of peft means: names and regular expressions.
//!
//! Each function is that of peft 0.21 of the same purpose, which Python's `re` does there. A
//! pattern that only Python's understands is refused.

use std::fmt;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

/// The most patterns in a setting. They may come from anyone, and each takes memory.
const MAX_PATTERNS: usize = 1 << 12;
/// The most bytes that one pattern may take.
const MAX_PATTERN_BYTES: usize = 1 << 18;

/// One name or several: peft takes both.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// Regular expressions that must each match a whole name.
pub(super) fn all(patterns: impl ExactSizeIterator<Item = String>) -> Result<Vec<Regex>, String> {
    if patterns.len() > MAX_PATTERNS {
        return Err(format!("at most {MAX_PATTERNS} patterns"));
    }
    patterns.map(|pattern| whole(&pattern)).collect()
}

/// A regular expression that must match a whole name.
pub(super) fn whole(pattern: &str) -> Result<Regex, String> {
    let pattern = format!("^(?:{pattern})$");
    (RegexBuilder::new(&pattern).size_limit(MAX_PATTERN_BYTES))
        .dfa_size_limit(MAX_PATTERN_BYTES)
        .build()
        .map_err(|_| "a regular expression without look-around and references".to_owned())
}

/// Whether a module has one of these names, or ends with a dot and one.
pub(super) fn ends_with(module: &str, names: &[String]) -> bool {
    let fits = |name: &String| {
        let before = module.strip_suffix(name.as_str());
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    names.iter().any(fits)
}

/// Numbers of modules by patterns, in the order of the file: `rank_pattern` and `alpha_pattern`.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers(Vec<(String, f64)>);

impl Numbers {
    /// The same with their patterns ready.
    pub(super) fn compile(&self) -> Result<CompiledNumbers, String> {
        let patterns = self
            .0
            .iter()
            .map(|(pattern, _)| format!(r"(.*\.)?({pattern})"));
        let numbers = self.0.iter().map(|(_, number)| *number);
        Ok(CompiledNumbers(
            all(patterns)?.into_iter().zip(numbers).collect(),
        ))
    }
}

/// [`Numbers`] whose patterns can be asked.
#[derive(Clone, Debug)]
pub(super) struct CompiledNumbers(Vec<(Regex, f64)>);

impl CompiledNumbers {
    /// The number of a module, which the first pattern that fits has: `get_pattern_key`.
    pub(super) fn of(&self, module: &str) -> Option<f64> {
        let found = (self.0.iter()).find(|(pattern, _)| pattern.is_match(module));
        found.map(|(_, number)| *number)
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Numbers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a number for each pattern")
            }

            fn visit_unit<E>(self) -> Result<Numbers, E> {
                Ok(Numbers::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Numbers, A::Error> {
                let mut numbers = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    numbers.push(entry);
                }
                Ok(Numbers(numbers))
            }
        }

        deserializer.deserialize_any(InOrder)
    }
}
