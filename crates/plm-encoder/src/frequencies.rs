//! The frequencies of rotary positions that a model's files may hold.

use plm_checkpoint::FoundTensors;

use crate::Error;

/// The base of the frequencies in all models here.
const BASE: f64 = 10_000.0;
/// How far a number may be from the exact one, relative to it: bf16 rounds by half of this.
const ROUNDING: f64 = 1.0 / 128.0;

/// Refuses a checkpoint whose files hold other frequencies of rotary positions than those that a
/// model with heads of `head_dim` is computed with.
///
/// Newer versions of transformers load the frequencies from the files. In files that were saved in
/// 16 bits, they are rounded; here exact ones are used.
///
/// # Errors
/// [`Error::Frequencies`]; [`Error::Checkpoint`] if a file can't be read.
pub fn check_frequencies(found: &FoundTensors, head_dim: usize) -> Result<(), Error> {
    for (name, tensor) in found.iter() {
        let is_of_rotary = name == "inv_freq" || name.ends_with(".inv_freq");
        if !is_of_rotary || tensor.shape() != [head_dim / 2] {
            continue;
        }
        let frequencies: Vec<f32> = tensor.values(|x| x)?;
        let is_exact = frequencies.iter().enumerate().all(|(i, &found)| {
            let exact = BASE.powf(-2.0 * i as f64 / head_dim as f64);
            (f64::from(found) / exact - 1.0).abs() <= ROUNDING
        });
        if !is_exact {
            return Err(Error::Frequencies {
                path: tensor.path().to_owned(),
                name: name.to_owned(),
            });
        }
    }
    Ok(())
}
