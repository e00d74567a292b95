//! Lines of docs and comments have at most 100 columns, so that they can be read beside each other.
//!
//! rustfmt sees to the code of Rust, and to no comment. Tables and addresses in Markdown can't be
//! broken, so they may be longer.

use std::fs;
use std::path::{Path, PathBuf};

const COLUMNS: usize = 100;

/// What is looked at below the root, which also holds what builds and runs leave.
const PLACES: &[&str] = &[
    ".ci",
    ".github",
    "benches",
    "crates",
    "docs",
    "examples",
    "tests",
    "CHANGELOG.md",
    "Cargo.toml",
    "README.md",
];

/// How a language marks what is for readers alone.
#[derive(Clone, Copy)]
enum Language {
    Markdown,
    /// Comments from this mark to the end of the line.
    Marked(&'static str),
    /// Comments from `#`, and the texts between triple quotes.
    Python,
}

fn language(path: &Path) -> Option<Language> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("md") => Some(Language::Markdown),
        Some("rs" | "cu" | "cuh" | "c" | "h") => Some(Language::Marked("//")),
        Some("sh" | "toml" | "yml") => Some(Language::Marked("#")),
        Some("py") => Some(Language::Python),
        None if path.ends_with(".ci/run") => Some(Language::Marked("#")),
        _ => None,
    }
}

/// Whether a line begins with this mark, or has it between blanks: a mark inside of a text is none.
fn has_comment(line: &str, mark: &str) -> bool {
    line.trim_start().starts_with(mark) || line.contains(&format!(" {mark} "))
}

/// Whether a line of documentation is of a table.
fn is_table(line: &str) -> bool {
    let text = line.trim_start().trim_start_matches(['/', '!']);
    text.trim_start().starts_with('|')
}

/// The numbers of the lines that are too long, from 1.
fn long_lines(text: &str, language: Language) -> Vec<usize> {
    let mut in_text = false;
    let mut long = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let is_prose = match language {
            Language::Markdown => !line.starts_with('|') && !line.contains("://"),
            Language::Marked(mark) => has_comment(line, mark) && !is_table(line),
            Language::Python => {
                let begins_in_text = in_text;
                in_text ^= line.matches("\"\"\"").count() % 2 == 1;
                begins_in_text || line.contains("\"\"\"") || has_comment(line, "#")
            }
        };
        if is_prose && line.chars().count() > COLUMNS {
            long.push(number);
        }
    }
    long
}

/// All files below a place that are of a language known here.
fn files(place: PathBuf, found: &mut Vec<(PathBuf, Language)>) {
    if place.is_dir() {
        // What a fuzzer left, and what a build of the fuzz targets left.
        if ["artifacts", "corpus", "target"]
            .iter()
            .any(|name| place.ends_with(name))
        {
            return;
        }
        for entry in fs::read_dir(place).unwrap() {
            files(entry.unwrap().path(), found);
        }
    } else if let Some(language) = language(&place) {
        found.push((place, language));
    }
}

#[test]
fn no_line_of_docs_or_comments_has_more_than_100_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is in the workspace");
    let mut found = Vec::new();
    for place in PLACES {
        // A package of the sources may lack what is for the hosted CI.
        if root.join(place).exists() {
            files(root.join(place), &mut found);
        }
    }
    let mut long = Vec::new();
    for (path, language) in &found {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let name = path.strip_prefix(root).unwrap_or(path).display();
        for number in long_lines(&text, *language) {
            long.push(format!("{name}:{number}"));
        }
    }
    assert!(!found.is_empty(), "nothing was looked at");
    assert!(
        long.is_empty(),
        "{} lines are over {COLUMNS} columns:\n{}",
        long.len(),
        long.join("\n")
    );
}

#[test]
fn code_and_tables_may_be_longer_and_comments_may_not() {
    let words = "word ".repeat(30);
    let code = format!("let a = \"{words}\";\nlet b = \"//{words}\"; // one\n");
    let rust = format!("// {words}\n{code}/// | {words} |\n/// {words}\n");
    assert_eq!(long_lines(&rust, Language::Marked("//")), [1, 3, 5]);
    let markdown = format!("{words}\n| {words} |\n[a](https://b) {words}\n");
    assert_eq!(long_lines(&markdown, Language::Markdown), [1]);
    let python = format!("\"\"\"{words}\n{words}\"\"\"\na = \"{words}\"\n# {words}\n");
    assert_eq!(long_lines(&python, Language::Python), [1, 2, 4]);
}
