//! What the tests of whole models share: tiny models with random weights, llama.cpp's own library, one interface over it
//! and ours so that a scenario is written once and run on both, and the measures by which answers are compared.
#![allow(dead_code)] // every test binary uses a part

pub mod c_program;
pub mod compare;
pub mod engine;
pub mod lcp;
pub mod scenario;
pub mod tiny;

use std::path::PathBuf;

/// Where fetched files are.
pub fn test_data() -> PathBuf {
    std::env::var_os("INFER_TEST_DATA").unwrap_or_else(|| "target/test-data".into()).into()
}
