//! Which modules a setting of peft means: names and regular expressions.
//!
//! Each function is that of peft 0.21 of the same purpose.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::python_re::{Pattern, TooSlow};

/// The most patterns in a setting. They may come from anyone, and each takes memory.
const MAX_PATTERNS: usize = 1 << 12;
/// The most of them that are matched step by step, which takes time.
const MAX_SLOW_PATTERNS: usize = 16;

/// One name or several: peft takes both.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// Patterns that must each match the start of a name.
pub(super) fn all(
    field: &'static str,
    patterns: impl ExactSizeIterator<Item = String>,
) -> Result<Vec<Pattern>, String> {
    if patterns.len() > MAX_PATTERNS {
        return Err(format!("at most {MAX_PATTERNS} patterns"));
    }
    let patterns = patterns.map(|pattern| Pattern::start(field, &pattern));
    let patterns: Vec<Pattern> = patterns.collect::<Result<_, _>>()?;
    let slow = patterns.iter().filter(|pattern| pattern.goes_back());
    if slow.count() > MAX_SLOW_PATTERNS {
        return Err(format!(
            "at most {MAX_SLOW_PATTERNS} patterns with look-around or references"
        ));
    }
    Ok(patterns)
}

/// Whether one of the patterns matches.
pub(super) fn any(patterns: &[Pattern], module: &str) -> Result<bool, TooSlow> {
    for pattern in patterns {
        if pattern.is_match(module)? {
            return Ok(true);
        }
    }
    Ok(false)
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
    pub(super) fn compile(&self, field: &'static str) -> Result<CompiledNumbers, String> {
        let patterns = self
            .0
            .iter()
            .map(|(pattern, _)| format!(r"(.*\.)?({pattern})$"));
        let numbers = self.0.iter().map(|(_, number)| *number);
        Ok(CompiledNumbers(
            all(field, patterns)?.into_iter().zip(numbers).collect(),
        ))
    }
}

/// [`Numbers`] whose patterns can be asked.
#[derive(Clone, Debug)]
pub(super) struct CompiledNumbers(Vec<(Pattern, f64)>);

impl CompiledNumbers {
    /// The number of a module, which the first pattern that fits has: `get_pattern_key`.
    pub(super) fn of(&self, module: &str) -> Result<Option<f64>, TooSlow> {
        for (pattern, number) in &self.0 {
            if pattern.is_match(module)? {
                return Ok(Some(*number));
            }
        }
        Ok(None)
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
