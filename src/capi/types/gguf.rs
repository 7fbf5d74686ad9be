//! The public types of gguf.h.

use super::*;

/// The type of a value in a GGUF file.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum gguf_type {
    GGUF_TYPE_UINT8 = 0,
    GGUF_TYPE_INT8 = 1,
    GGUF_TYPE_UINT16 = 2,
    GGUF_TYPE_INT16 = 3,
    GGUF_TYPE_UINT32 = 4,
    GGUF_TYPE_INT32 = 5,
    GGUF_TYPE_FLOAT32 = 6,
    GGUF_TYPE_BOOL = 7,
    GGUF_TYPE_STRING = 8,
    GGUF_TYPE_ARRAY = 9,
    GGUF_TYPE_UINT64 = 10,
    GGUF_TYPE_INT64 = 11,
    GGUF_TYPE_FLOAT64 = 12,
    GGUF_TYPE_COUNT = 13,
}

/// How to read a GGUF file.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct gguf_init_params {
    /// Read only what describes the tensors, not their data.
    pub no_alloc: bool,
    /// Where to store a new ggml_context with the file's tensors; NULL: none is made.
    pub ctx: *mut *mut ggml_context,
}
