//! Reads FASTA on standard input, and writes a line of JSON for each protein as soon as it has one.
//!
//! ```text
//! zcat examples/data/uniprot_500.fasta.gz | cargo run --release --example embed_stream | head -3
//! ```
//!
//! The input may be endless: memory is bounded, and a reader that is slow or stops holds it back.

use std::error::Error;
use std::io::{self, BufRead, Write};

use plm_fleet::{Embedder, EmbedderConfig, Model};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let embedder = Embedder::new(&Model::PlmTiny, &EmbedderConfig::default())?;
    let mut out = io::stdout().lock();
    // In the order of the input. `as_they_come()` would give each as soon as it is done.
    for (id, embedded) in embedder.embed(records(io::stdin().lock())) {
        let line = match embedded {
            Ok(embedding) => json!({"id": id, "embedding": embedding.values(0)}),
            // The others come all the same.
            Err(error) => json!({"id": id, "error": error.to_string()}),
        };
        if writeln!(out, "{line}").is_err() {
            // Nobody reads any more.
            break;
        }
    }
    Ok(())
}

/// The records of a FASTA file: the first word after `>`, and the sequence lines as they are. (The
/// crate plm-index reads FASTA with all its oddities, from files.)
fn records(input: impl BufRead) -> impl Iterator<Item = (String, String)> {
    let mut lines = input.lines().map_while(Result::ok).peekable();
    std::iter::from_fn(move || {
        let header = lines.find(|line| line.starts_with('>'))?;
        let id = header[1..].split_whitespace().next().unwrap_or_default();
        let mut sequence = String::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('>')) {
            sequence += &line;
            sequence.push('\n');
        }
        Some((id.to_owned(), sequence))
    })
}
