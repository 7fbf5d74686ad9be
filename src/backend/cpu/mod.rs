//! The CPU backend.

pub mod act;
pub mod attention;
pub mod elementwise;
pub mod float_product;
pub mod formats;
pub mod kernels;
pub mod math;
pub mod product;
pub mod rows;
pub mod scratch;
pub mod simd;
pub mod threads;
#[cfg(test)]
mod testing;
