//! What an encoder does where its device is too small or its number format too coarse.
//!
//! A model's encoder gives the forward pass. A policy decides which sequences go through it, and
//! how often. Policies know batches and columns, and must not know models or devices.

mod halve;
mod lowest_cosine;
mod redo_in_f32;

pub use halve::halve;
pub use lowest_cosine::{LowestCosine, lowest_cosine};
pub use redo_in_f32::{RedoInF32, redo_in_f32};
