//! Finds each protein's nearest neighbour in a finished run, and counts how often it has the same
//! family.
//!
//!     cargo run --release --example embed_fasta -- examples/data/swissprot_families.fasta.gz OUT
//!     cargo run --release --example nearest_neighbours -- OUT
//! Ids are UniProt's, for example `sp|P53508|CSSA1_ECOLX`. The family is the mnemonic before the
//! `_`. Similarity is the cosine after the mean of all vectors is subtracted, since the vectors of
//! a language model have much in common.
#![expect(clippy::print_stdout, reason = "examples talk to people")]

use std::path::Path;

use plm_fleet::EmbeddingsFile;

/// The mnemonic of a UniProt id.
fn family(id: &str) -> &str {
    let name = id.rsplit('|').next().unwrap_or(id);
    name.split('_').next().unwrap_or(name)
}

/// Subtracts the mean from `[rows, width]` vectors, and scales each to length 1.
fn centre_and_normalise(vectors: &mut [f32], width: usize) {
    let rows = vectors.len() / width;
    let mut mean = vec![0.0_f64; width];
    for vector in vectors.chunks_exact(width) {
        for (sum, &value) in mean.iter_mut().zip(vector) {
            *sum += f64::from(value) / rows as f64;
        }
    }
    for vector in vectors.chunks_exact_mut(width) {
        for (value, &mean) in vector.iter_mut().zip(&mean) {
            *value -= mean as f32;
        }
        let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        if norm > 0.0 {
            vector.iter_mut().for_each(|value| *value /= norm);
        }
    }
}

/// The row that is most similar to `query`, without `query` itself.
fn nearest(vectors: &[f32], width: usize, query: usize) -> Option<(usize, f32)> {
    let wanted = &vectors[query * width..][..width];
    vectors
        .chunks_exact(width)
        .enumerate()
        .filter(|&(row, _)| row != query)
        .map(|(row, vector)| {
            let cosine = vector.iter().zip(wanted).map(|(a, b)| a * b).sum();
            (row, cosine)
        })
        .max_by(|(_, a), (_, b)| f32::total_cmp(a, b))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(out) = std::env::args().nth(1) else {
        return Err("usage: nearest_neighbours OUT".into());
    };
    let file = EmbeddingsFile::open(Path::new(&out).join("embeddings.h5"))?;
    let ids = file.ids()?;
    let width = file.hidden_size();
    let (mut vectors, _) = file.read_rows(0..file.rows())?.into_raw_vec_and_offset();
    centre_and_normalise(&mut vectors, width);

    let mut same_family = 0;
    for (query, id) in ids.iter().enumerate() {
        let Some((neighbour, cosine)) = nearest(&vectors, width, query) else {
            continue;
        };
        let is_same = family(id) == family(&ids[neighbour]);
        same_family += usize::from(is_same);
        if query < 10 {
            println!("{id:<28} {:<28} {cosine:.3}", ids[neighbour]);
        }
    }
    println!(
        "{same_family} of {} proteins ({:.0}%) have a nearest neighbour of the same family",
        ids.len(),
        100.0 * same_family as f64 / ids.len().max(1) as f64
    );
    Ok(())
}
