//! Patterns of Python's `re`, in which peft writes which modules a setting means.
//!
//! `fancy-regex` matches them. Where it understands a sign otherwise than Python, the sign is
//! written anew, and what it can't do as Python does is refused with the sign. The reference is
//! `re` of Python 3.11.

use fancy_regex::{CompileError, Regex, RegexBuilder};

/// The most bytes of a pattern. Trainers write lists of modules into one.
const MAX_BYTES: usize = 1 << 14;
/// The most bytes that a pattern may take when it is compiled, part by part.
const MAX_COMPILED_BYTES: usize = 1 << 18;
/// The most repetitions, by all counts of a pattern multiplied: one may be inside of another.
const MAX_REPETITIONS: u64 = 1000;
/// The most steps back that a match may take. Names of modules are short: few take a hundred.
const MAX_STEPS: usize = 1 << 14;

/// A pattern in a setting.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// The setting that it is in.
    field: &'static str,
    /// It as Python would read it.
    text: String,
    regex: Regex,
    goes_back: bool,
}

/// A match that takes too many steps.
#[derive(Debug)]
pub(super) struct TooSlow {
    pub(super) field: &'static str,
    pub(super) text: String,
}

impl TooSlow {
    /// What is read instead.
    pub(super) fn supported() -> String {
        format!("a regular expression that tells within {MAX_STEPS} steps whether a module fits")
    }
}

impl Pattern {
    /// A pattern that must match a whole name: `re.fullmatch`.
    ///
    /// # Errors
    /// What is read instead, to follow "where".
    pub(super) fn whole(field: &'static str, text: &str) -> Result<Self, String> {
        Self::new(field, text, r"\z")
    }

    /// A pattern that must match the start of a name: `re.match`.
    ///
    /// # Errors
    /// What is read instead, to follow "where".
    pub(super) fn start(field: &'static str, text: &str) -> Result<Self, String> {
        Self::new(field, text, "")
    }

    fn new(field: &'static str, text: &str, end: &str) -> Result<Self, String> {
        let Translated { out, goes_back } = translate(text)?;
        let regex = RegexBuilder::new(&format!(r"\A(?:{out}){end}"))
            .delegate_size_limit(MAX_COMPILED_BYTES)
            .delegate_dfa_size_limit(MAX_COMPILED_BYTES)
            .backtrack_limit(MAX_STEPS)
            .build()
            .map_err(|error| unread(&error))?;
        Ok(Self {
            field,
            text: text.to_owned(),
            regex,
            goes_back,
        })
    }

    /// Whether it is matched step by step, and may go back. Others take time in proportion to the
    /// name.
    pub(super) fn goes_back(&self) -> bool {
        self.goes_back
    }

    /// Whether it matches.
    pub(super) fn is_match(&self, name: &str) -> Result<bool, TooSlow> {
        self.regex.is_match(name).map_err(|_| self.too_slow())
    }

    /// What its group of this name matches in `name`: nothing if it does not match. `Some` if the
    /// pattern matches at all.
    pub(super) fn group<'a>(
        &self,
        name: &'a str,
        group: &str,
    ) -> Result<Option<Option<&'a str>>, TooSlow> {
        let captures = self.regex.captures(name).map_err(|_| self.too_slow())?;
        Ok(captures.map(|captures| captures.name(group).map(|found| found.as_str())))
    }

    fn too_slow(&self) -> TooSlow {
        TooSlow {
            field: self.field,
            text: self.text.clone(),
        }
    }
}

/// What is read instead of a pattern that can't be compiled.
fn unread(error: &fancy_regex::Error) -> String {
    if let fancy_regex::Error::CompileError(error) = error
        && let CompileError::InnerError(error) = &**error
        && error.size_limit().is_some()
    {
        return too_large();
    }
    no_pattern()
}

fn no_pattern() -> String {
    "a regular expression of Python's `re`".to_owned()
}

fn too_large() -> String {
    format!(
        "a smaller regular expression (of at most {MAX_BYTES} bytes, {MAX_COMPILED_BYTES} when it \
         is compiled, and {MAX_REPETITIONS} repetitions)"
    )
}

/// A pattern as `fancy-regex` reads it.
struct Translated {
    out: String,
    /// Whether it has look-around, references or groups that are not given up again.
    goes_back: bool,
}

/// Writes a pattern of Python as `fancy-regex` reads it. All groups in it are closed, so that it
/// can be put into another.
fn translate(text: &str) -> Result<Translated, String> {
    if text.len() > MAX_BYTES {
        return Err(too_large());
    }
    let (mut out, mut goes_back) = (String::new(), false);
    let (mut open, mut repetitions) = (0_usize, 1_u64);
    let mut was_quantifier = false;
    let mut rest = text;
    while let Some(sign) = rest.chars().next() {
        rest = &rest[sign.len_utf8()..];
        let is_quantifier = matches!(sign, '*' | '+' | '?');
        match sign {
            '\\' => {
                let escaped = next(&mut rest)?;
                match escaped {
                    'Z' | 'z' => out.push_str(r"\z"),
                    'A' | 'b' | 'B' => out.extend(['\\', escaped]),
                    '1'..='9' => {
                        goes_back = true;
                        out.extend(['\\', escaped]);
                    }
                    _ => escape(escaped, &mut out)?,
                }
            }
            '[' => class(&mut rest, &mut out)?,
            '(' => {
                open += 1;
                out.push('(');
                goes_back |= group(rest)?;
            }
            ')' => {
                open = open.checked_sub(1).ok_or_else(unclosed)?;
                out.push(')');
            }
            '{' => match counts(&mut rest) {
                None => out.push_str(r"\{"),
                Some((least, most)) => {
                    let more = most.unwrap_or(least).max(1);
                    repetitions = repetitions.saturating_mul(more);
                    if repetitions > MAX_REPETITIONS {
                        return Err(too_large());
                    }
                    if was_quantifier || rest.starts_with('+') {
                        return Err(no_pattern());
                    }
                    let most = most.map_or(String::new(), |most| most.to_string());
                    out.push_str(&format!("{{{least},{most}}}"));
                    was_quantifier = true;
                    continue;
                }
            },
            '}' | ']' => out.extend(['\\', sign]),
            '+' => {
                goes_back |= was_quantifier;
                out.push('+');
            }
            other => out.push(other),
        }
        was_quantifier = is_quantifier;
    }
    if open > 0 {
        return Err(unclosed());
    }
    Ok(Translated { out, goes_back })
}

fn unclosed() -> String {
    "a regular expression whose brackets and escapes are all closed".to_owned()
}

fn next(rest: &mut &str) -> Result<char, String> {
    let sign = rest.chars().next().ok_or_else(unclosed)?;
    *rest = &rest[sign.len_utf8()..];
    Ok(sign)
}

/// Writes what follows a backslash, in a class or outside.
fn escape(escaped: char, out: &mut String) -> Result<(), String> {
    match escaped {
        'd' | 'D' | 's' | 'S' | 'w' | 'W' | 'n' | 'r' | 't' => out.extend(['\\', escaped]),
        // Two of these would be borders of words.
        '<' | '>' => out.push(escaped),
        _ if escaped.is_ascii_punctuation() => out.extend(['\\', escaped]),
        _ if escaped.is_ascii_alphanumeric() => {
            return Err(format!("a regular expression without `\\{escaped}`"));
        }
        _ => out.push(escaped),
    }
    Ok(())
}

/// Writes a class, from behind its bracket. In Python, a bracket, `&` and `~` are but themselves.
fn class(rest: &mut &str, out: &mut String) -> Result<(), String> {
    out.push('[');
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        *rest = after;
    }
    let (mut is_first, mut before) = (true, None);
    loop {
        let sign = next(rest)?;
        match sign {
            ']' if !is_first => break,
            '\\' => escape(next(rest)?, out)?,
            '[' | ']' | '&' | '~' | '^' => out.extend(['\\', sign]),
            '-' if before == Some('-') => out.push_str(r"\-"),
            other => out.push(other),
        }
        (is_first, before) = (false, Some(sign));
    }
    out.push(']');
    Ok(())
}

/// Checks what follows the bracket of a group. Returns whether it is one that may go back.
fn group(rest: &str) -> Result<bool, String> {
    let Some(kind) = rest.strip_prefix('?') else {
        return Ok(false);
    };
    if [":", "P<", "#"].iter().any(|start| kind.starts_with(start)) {
        return Ok(false);
    }
    if ["=", "!", "<=", "<!", ">", "P=", "("]
        .iter()
        .any(|start| kind.starts_with(start))
    {
        return Ok(true);
    }
    let flags = kind.trim_start_matches(['i', 'm', 's', '-']);
    if flags.len() < kind.len() && flags.starts_with([':', ')']) {
        return Ok(false);
    }
    let sign: String = kind.chars().take(1).collect();
    Err(format!("a regular expression without `(?{sign}`"))
}

/// The least and the most repetitions, from behind their bracket; `None` if it is but a bracket.
fn counts(rest: &mut &str) -> Option<(u64, Option<u64>)> {
    let (inside, after) = rest.split_once('}')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: &str| text.parse().unwrap_or(u64::MAX);
    let counts = match inside.split_once(',') {
        None if inside.is_empty() || !is_number(inside) => return None,
        None => (number(inside), Some(number(inside))),
        Some((least, most)) if is_number(least) && is_number(most) => {
            let least = if least.is_empty() { 0 } else { number(least) };
            (least, (!most.is_empty()).then(|| number(most)))
        }
        Some(_) => return None,
    };
    *rest = after;
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 6] = [
        "esm.encoder.layer.0.attention.self.query",
        "esm.encoder.layer.11.output.dense",
        "lm_head.dense",
        "a[b]&&c~-{d}",
        "query",
        "layers.1.fc1",
    ];

    /// What `re.fullmatch` of Python 3.11 finds in `NAMES`, a bit for each, the last one lowest.
    #[test]
    fn patterns_match_what_python_matches() {
        for (pattern, expected) in [
            (r"^(?!.*lm_head).*\.(query|dense)$", 0b110000),
            (r".*layer[^[]+(query|key)", 0b100000),
            (r"(?P<a>.*\.)(?:query|key)\Z", 0b100000),
            (r"(?!lm_head).+", 0b110111),
            (r".*(?<=output\.)dense", 0b010000),
            (r".*(?<!output\.)dense", 0b001000),
            (r".*\.(\d)\1\..*", 0b010000),
            (r"(?P<w>.)\[b\](?P<q>&)(?P=q).*", 0b000100),
            (r"[a-z[]+\]&&[c~-]+{d}", 0b000100),
            (r"[^]]+", 0b111011),
            (r"(?i).*\.QUERY|FC1", 0b100000),
            (r"(?i:QUERY)", 0b000010),
            (r"query|dense", 0b000010),
            (r"(?:.*\.)?(?:query|fc1)", 0b100011),
            (r".*\.\d{,2}\..*", 0b110001),
            (r".*\.\d{2}\..*", 0b010000),
            (r".*\.\d{2,}\..*", 0b010000),
            (r".*{d}", 0b000100),
            (r"[a-z]*+\.1\.fc1", 0b000001),
            (r".*+query", 0b000000),
            (r"(?>[a-z]+)\.1\.fc1", 0b000001),
            (r"(.*\.)?(layers)?(?(2)\.1\.fc1|query)", 0b100011),
            (r".*\bfc1\b", 0b000001),
            (r"\Aquery", 0b000010),
            (r"\w+", 0b000010),
            (r"\S+[\w.]fc\d", 0b000001),
            (r"lm\_head\.dense", 0b001000),
            (r"(lm_head|layers)(?=\.).*", 0b001001),
            (r"(?#no)query", 0b000010),
            (r".*\<|query", 0b000010),
            (r"[\W\d]*query|.{5}", 0b000010),
        ] {
            let compiled = Pattern::whole("target_modules", pattern);
            let compiled = compiled.unwrap_or_else(|error| panic!("{pattern}: {error}"));
            let found = NAMES.map(|name| compiled.is_match(name).unwrap());
            let bits = found.iter().fold(0, |bits, &is| bits << 1 | u32::from(is));
            assert_eq!(bits, expected, "{pattern}: {found:?}");
        }
    }

    #[test]
    fn what_python_reads_otherwise_is_refused_with_its_sign() {
        for (pattern, words) in [
            (r"a)|(?:b", "are all closed"),
            ("(a", "are all closed"),
            ("[a", "are all closed"),
            ("a\\", "are all closed"),
            (r"\x41", r"without `\x`"),
            (r"\N{DIGIT ONE}", r"without `\N`"),
            (r"[\b]", r"without `\b`"),
            ("(?a)query", "without `(?a`"),
            ("(?x) query", "without `(?x`"),
            (r"(a)\2", "of Python's `re`"),
            (r"\w{1000}\w{1000}", "a smaller regular expression"),
            (r"a{1001}", "a smaller regular expression"),
            (r"a{1000}{1000}", "a smaller regular expression"),
            (r"a{3}{2}", "of Python's `re`"),
            (r"((?=a)a{500}){500}", "a smaller regular expression"),
        ] {
            let refused = Pattern::whole("target_modules", pattern).unwrap_err();
            assert!(refused.contains(words), "{pattern}: {refused}");
        }
        let long = "a".repeat(MAX_BYTES + 1);
        let refused = Pattern::whole("target_modules", &long).unwrap_err();
        assert!(refused.contains("a smaller regular"), "{refused}");
    }

    #[test]
    fn a_match_that_would_take_for_ever_is_an_error() {
        let name = "a".repeat(60);
        let in_steps = Pattern::whole("target_modules", r"(?:(a|aa)(?=a)|a)+\1b").unwrap();
        let TooSlow { field, text } = in_steps.is_match(&name).unwrap_err();
        assert_eq!(
            (field, &*text),
            ("target_modules", r"(?:(a|aa)(?=a)|a)+\1b")
        );
        assert!(in_steps.goes_back());
        let linear = Pattern::whole("target_modules", r"(a|a|aa)+b").unwrap();
        assert!(!linear.goes_back() && !linear.is_match(&name).unwrap());
    }

    #[test]
    fn the_start_of_a_name_is_enough_where_python_asks_for_no_more() {
        let pattern = Pattern::start("layers_pattern", r"(?:^|.*?\.)layers\.(?P<idx>\d+)\.");
        let pattern = pattern.unwrap();
        assert_eq!(
            pattern.group("layers.1.fc1", "idx").unwrap(),
            Some(Some("1"))
        );
        assert_eq!(pattern.group("my_layers.1.fc1", "idx").unwrap(), None);
    }
}
