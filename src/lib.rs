//! # libinfer
//!
//! A large-language-model inference engine behind the C interface of llama.cpp. ARCHITECTURE.md tells the way of a model
//! and the way of a token by file name; this page is the map of modules, lowest layer first. Dependencies point downwards
//! only, and nothing below [`capi`] knows that C exists.

pub mod backend;
pub mod capi;
pub mod chat;
pub mod context;
pub mod error;
pub mod gguf;
pub mod graph;
pub mod memory;
pub mod model;
pub mod quant;
pub mod quantize;
pub mod sampling;
pub mod tensor;
pub mod vocab;

pub use error::{Error, Result};
