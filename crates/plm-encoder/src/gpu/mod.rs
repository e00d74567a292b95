//! GPUs: all that a build with the feature `cuda` adds.

mod encoder;
mod kinds;
mod place;
mod ranks;
mod room;

pub(crate) use ranks::ranks;
