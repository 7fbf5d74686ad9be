//! (being written)
pub mod batch;
pub mod ubatch;
