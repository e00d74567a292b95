//! Uses the crates one by one: finds a protein in a FASTA file, embeds it, and looks inside.
//!
//!     cargo run --release --example crates_one_by_one -- proteins.fasta.gz
#![expect(clippy::print_stdout, reason = "examples talk to people")]

use plm_core::{Dtype, OutputSet, Packer, RowId};
use plm_esm2::{Checkpoint, Esm2, token_map};
use plm_index::{FastaIndex, IndexConfig, Input};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(fasta) = std::env::args().nth(1) else {
        return Err("usage: crates_one_by_one FASTA".into());
    };

    // plm-index finds every record. It unpacks a compressed file beside the index.
    let scratch = tempfile::tempdir()?;
    let index = FastaIndex::build(
        &[Input::from(fasta.as_str())],
        scratch.path(),
        &IndexConfig::default(),
    )?;
    let shortest = index
        .records()
        .min_by_key(|record| record.residue_count)
        .ok_or("the file has no records")?;
    println!(
        "{} records; {} is the shortest, at byte {}",
        index.len(),
        shortest.id,
        shortest.byte_offset
    );
    let mut residues = Vec::new();
    index.reader().read(shortest.row, &mut residues)?;
    println!("{}", String::from_utf8_lossy(&residues));

    // plm-core packs the residues as tokens, and plm-esm2 runs the model on them.
    let model = Esm2::new(&Checkpoint::plm_tiny(), Dtype::F32)?;
    let tokens = token_map();
    let mut packer = Packer::new(&tokens, 8192);
    packer.push(shortest.row, &residues)?;
    packer.push(RowId(index.len()), b"MKTAYIAKQR")?;
    let batch = packer.finish();
    println!(
        "{} sequences packed into {} tokens: {:?}",
        batch.num_sequences(),
        batch.total_tokens(),
        batch.cu_seqlens()
    );

    // By default, the mean of the last layer.
    let columns = model.forward(&batch, &OutputSet::default())?;
    for (position, sequence) in batch.sequences().iter().enumerate() {
        let vector = columns[0].sequence(position);
        println!(
            "{}: {} residues, mean of the last layer begins {:.4?}",
            sequence.row,
            sequence.residue_count,
            &vector[..4]
        );
    }
    Ok(())
}
