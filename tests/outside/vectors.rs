//! What two builds of plm-fleet must agree on, as text: the rows of an `embeddings.h5`, bit for
//! bit, and their digest.
//!
//!     vectors FILE

use plm_fleet::EmbeddingsFile;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: vectors FILE")?;
    let file = EmbeddingsFile::open(path)?;
    let vectors = file.read_rows(0..file.rows())?;
    println!("{} of {}", vectors.nrows(), vectors.ncols());
    for ((id, residues), vector) in file.ids()?.iter().zip(file.lengths()?).zip(vectors.rows()) {
        let bits: Vec<String> = vector
            .iter()
            .map(|x| format!("{:08x}", x.to_bits()))
            .collect();
        println!("{id} {residues} {}", bits.join(" "));
    }
    println!("{}", file.content_digest());
    Ok(())
}
