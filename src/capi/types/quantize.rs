//! The types of llama.h that tell how a file is quantized.

use std::ffi::c_char;

use super::*;

/// A type for the tensors whose names match.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_model_tensor_override {
    /// A regular expression, found anywhere in a name; NULL in the last element of a list.
    pub pattern: *const c_char,
    /// The type.
    pub r#type: CEnum<ggml_type>,
}

/// What an error weighs in each column of a tensor.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_model_imatrix_data {
    /// The tensor's name; NULL in the last element of a list.
    pub name: *const c_char,
    /// The weights: one for each column, for tensors of experts as many for each expert.
    pub data: *const f32,
    /// How many there are.
    pub size: usize,
}

/// How a file is quantized. Start from llama_model_quantize_default_params().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_model_quantize_params {
    /// Threads to use; 0 or less: as many as there are processors.
    pub nthread: i32,
    /// What to make.
    pub ftype: CEnum<llama_ftype>,
    /// The type of the output matrix; GGML_TYPE_COUNT: as `ftype` has it.
    pub output_tensor_type: CEnum<ggml_type>,
    /// The type of the embedding table; GGML_TYPE_COUNT: as `ftype` has it.
    pub token_embedding_type: CEnum<ggml_type>,
    /// Allow tensors to be rounded that were rounded before.
    pub allow_requantize: bool,
    /// Quantize output.weight.
    pub quantize_output_tensor: bool,
    /// Copy tensors as they are.
    pub only_copy: bool,
    /// Give all tensors the type that `ftype` is named after.
    pub pure: bool,
    /// Make as many files as the model has.
    pub keep_split: bool,
    /// Log sizes and write nothing.
    pub dry_run: bool,
    /// Importance of columns; NULL: none.
    pub imatrix: *const llama_model_imatrix_data,
    /// Metadata to set, ended by an empty key; NULL: none.
    pub kv_overrides: *const llama_model_kv_override,
    /// Types of tensors by name, of which the first that matches counts; NULL: none.
    pub tt_overrides: *const llama_model_tensor_override,
    /// Layers to leave out, ended by -1; NULL: none.
    pub prune_layers: *const i32,
    /// Bytes of rows in memory at a time, at most; 0: the library decides.
    pub max_buf_size: usize,
}
