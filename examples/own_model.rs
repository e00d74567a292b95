//! Runs plm-fleet with its own model: the amino-acid composition of each protein, 20 numbers.
//!
//! The composition knows nothing of order or context. So it is a baseline that any protein language
//! model should beat: compare its neighbours with those of plm-tiny.
//!
//!     cargo run --release --example own_model -- proteins.fasta.gz OUT
//!     cargo run --release --example nearest_neighbours -- OUT
#![expect(clippy::print_stdout, reason = "examples talk to people")]

use std::sync::Arc;

use plm_core::{
    BoxError, Column, Dtype, EncodedBatch, Encoder, EncoderLoader, EncoderSpec, OutputKind,
    OutputSpec, Rank, Ticket, TokenMap,
};
use plm_fleet::{Model, RunConfig, run_multi_gpu_inference};

const AMINO_ACIDS: &[u8; 20] = b"ACDEFGHIKLMNPQRSTVWY";
/// The token of every residue that is not a standard amino acid.
const OTHER: u32 = AMINO_ACIDS.len() as u32;

/// Makes an encoder for each rank. All ranks share it.
struct CompositionLoader {
    spec: EncoderSpec,
}

/// The encoder, which never leaves its rank's thread.
struct Composition;

impl CompositionLoader {
    fn new() -> Self {
        let known = (0..)
            .zip(AMINO_ACIDS)
            .map(|(token, &residue)| (residue, token));
        let others = (b'A'..=b'Z')
            .chain(*b".-")
            .filter(|residue| !AMINO_ACIDS.contains(residue))
            .map(|residue| (residue, OTHER));
        Self {
            spec: EncoderSpec {
                model: "amino-acid composition".to_owned(),
                // There are no weights; the version of the rule stands in for their digest.
                weights_digest: "composition:1".to_owned(),
                adapter_digest: None,
                outputs: vec![OutputSpec {
                    // Both go into embeddings.h5, so nobody takes these vectors for a language
                    // model's.
                    pooling: "fractions of the 20 amino acids".to_owned(),
                    special_tokens: "none".to_owned(),
                    // A protein that is longer than the window gets the mean of its windows.
                    ..OutputSpec::new(OutputKind::Mean, 0, AMINO_ACIDS.len())
                }],
                dtype: Dtype::F32,
                backend: "cpu".to_owned(),
                tokens: TokenMap::new(known.chain(others), None, None),
            },
        }
    }
}

impl EncoderLoader for CompositionLoader {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn load(&self, _rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        Ok(Box::new(Composition))
    }
}

impl Encoder for Composition {
    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        let batch = ticket.batch();
        let mut vectors = Vec::with_capacity(batch.num_sequences() * AMINO_ACIDS.len());
        for ends in batch.cu_seqlens().windows(2) {
            let tokens = &batch.token_ids()[ends[0] as usize..ends[1] as usize];
            let mut counts = [0_u32; AMINO_ACIDS.len()];
            for &token in tokens.iter().filter(|&&token| token != OTHER) {
                counts[token as usize] += 1;
            }
            let fraction = |count| count as f32 / tokens.len() as f32;
            vectors.extend(counts.map(fraction));
        }
        let column = Column::new(AMINO_ACIDS.len(), vectors)?;
        Ok(EncodedBatch::new(vec![column]))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(fasta), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("usage: own_model FASTA OUT".into());
    };
    let loader: Arc<dyn EncoderLoader> = Arc::new(CompositionLoader::new());
    let report =
        run_multi_gpu_inference([fasta], &Model::from(loader), &out, &RunConfig::default())?;
    println!("{} proteins as {}", report.sequences(), report.model);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_composition_keeps_the_promises_of_an_encoder() {
        plm_testkit::conformance::check_encoder(
            &CompositionLoader::new(),
            &[b"MKV", b"A", b"WWX-"],
        );
    }
}
