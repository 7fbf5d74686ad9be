//! The C border: every exported function lives below this module, one file per noun of llama.h. Functions check what
//! they are given, run inside [`guard`], call the engine and turn its answer into llama.h's documented values; no logic
//! lives here. `error` keeps the text of the last failure, `logging` carries messages to the caller's callback, `handle`
//! defines what the opaque pointers point at.

#![allow(non_camel_case_types)] // C's names

mod error;
mod ggml;
mod ggml_backend;
mod handle;
mod logging;
mod misc;
mod names;
mod sampler;
mod sampler_chain;
mod sampler_init;
mod threadpool;
mod types;

pub(crate) use error::guard;
pub(crate) use ggml::*;
pub(crate) use ggml_backend::*;
pub(crate) use handle::{Tag, Tagged, array, c_str, handle_mut, handle_ref, out};
pub(crate) use misc::*;
pub(crate) use sampler::*;
pub(crate) use sampler_chain::*;
pub(crate) use threadpool::*;
pub(crate) use types::*;
