//! Products of rows with a matrix of weights on a GPU.
//!
//! [`GpuLinear`] is cublasLt's and runs everywhere. The kernel in `tiles` multiplies on a Hopper,
//! and computes what stands before and after a product with it: [`StreamLinear`] is made of it for
//! 16 bits, with layer norms in the products, and [`Int8Linear`] for 8-bit integers.
//! [`TokenProjection`] is one product of a [`StreamLinear`] done in advance.

mod int8;
mod linear;
mod stream;
mod tiles;
mod token_projection;

pub use int8::{Int8Linear, Int8Rows};
pub(crate) use linear::Blas;
pub use linear::GpuLinear;
pub use stream::{Stream, StreamLinear};
pub(crate) use tiles::Rotary;
pub use token_projection::TokenProjection;
