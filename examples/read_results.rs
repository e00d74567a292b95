//! Reads every output of a result, protein by protein: `read_results OUT/embeddings.h5`.
#![expect(clippy::print_stdout, reason = "examples talk to people")]

use std::error::Error;

use plm_fleet::EmbeddingsFile;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("name an embeddings.h5")?;
    let file = EmbeddingsFile::open(path)?;
    let ids = file.ids()?;
    for (position, output) in file.outputs().iter().enumerate() {
        for (i, id) in ids.iter().enumerate() {
            // The values as they are stored, f16 or f32, and where each protein's rows are.
            let column = file.read_column(position, i..i + 1)?;
            let rows = column.offsets()[1];
            println!(
                "{id}: {} has {rows} x {} in {}",
                output.name(),
                output.width,
                output.dtype
            );
        }
    }
    Ok(())
}
