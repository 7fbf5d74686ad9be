//! The C border: every exported function lives below this module, one file per noun of llama.h. Functions check what
//! they are given, run inside [`guard`], call the engine and turn its answer into llama.h's documented values; no logic
//! lives here. `error` keeps the text of the last failure, `logging` carries messages to the caller's callback, `handle`
//! turns pointers into references.

#![allow(non_camel_case_types)] // C's names

mod adapter;
mod batch;
mod batch_ext;
mod caller_graphs;
mod chat;
mod context;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cpp;
mod deprecated;
mod device;
mod error;
mod ggml;
mod gguf;
mod gguf_set;
mod graph;
mod handle;
mod infer;
mod logging;
mod mangled;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod mangled_arch;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod mangled_grammar;
mod memory;
mod misc;
mod model;
mod model_info;
mod model_make;
mod names;
mod observe;
mod ops;
mod opt;
mod outputs;
mod printf;
mod quantize;
mod sample;
mod sampled;
mod sampler;
mod sampler_chain;
mod sampler_init;
mod sampler_vocab;
mod speculative;
mod state;
mod tensor;
mod threadpool;
mod train;
mod types;
mod vocab;

pub(crate) use adapter::*;
pub(crate) use context::*;
pub(crate) use device::*;
pub(crate) use error::guard;
pub(crate) use ggml::*;
pub(crate) use gguf::*;
pub(crate) use graph::*;
pub(crate) use handle::{Tag, Tagged, array, c_str, handle_mut, handle_ref, out};
pub(crate) use memory::*;
pub(crate) use misc::*;
pub(crate) use model::*;
pub(crate) use model_info::*;
pub(crate) use opt::*;
pub(crate) use sampled::*;
pub(crate) use sampler::*;
pub(crate) use sampler_chain::*;
pub(crate) use state::*;
pub(crate) use tensor::*;
pub(crate) use threadpool::*;
pub(crate) use types::*;
pub(crate) use vocab::*;
