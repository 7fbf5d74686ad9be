//! The CPU backend.

pub mod act;
pub mod formats;
pub mod kernels;
pub mod math;
pub mod product;
pub mod scratch;
pub mod simd;
#[cfg(test)]
mod testing;
