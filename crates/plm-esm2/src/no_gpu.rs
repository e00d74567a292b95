//! The parts of `gpu` that need no GPU, so that every build tests them.

#[path = "gpu/int8/fold.rs"]
mod fold;
#[path = "gpu/int8/rotation.rs"]
mod rotation;
#[path = "gpu/weights.rs"]
mod weights;
