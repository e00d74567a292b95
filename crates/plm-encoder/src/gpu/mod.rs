//! GPUs: all that a build with the feature `cuda` adds.

mod encoder;
mod kinds;
mod load;
mod measure;
mod place;
mod ranks;
mod room;
mod stream_layers;

pub(crate) use ranks::ranks;
pub use stream_layers::{FirstStreamBlock, StreamBlock, StreamLayers};
