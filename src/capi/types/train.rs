//! The public types of llama.h that training needs.

use std::ffi::c_void;

use super::*;

/// Says whether training changes a tensor of the model.
pub type llama_opt_param_filter =
    Option<unsafe extern "C" fn(tensor: *const ggml_tensor, userdata: *mut c_void) -> bool>;

/// How to train.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_opt_params {
    /// The context length that the model is trained for; 0: the context's.
    pub n_ctx_train: u32,
    /// Says which tensors are trained.
    pub param_filter: llama_opt_param_filter,
    /// Passed to param_filter.
    pub param_filter_ud: *mut c_void,
    /// Gives the optimizer's settings before each step.
    pub get_opt_pars: ggml_opt_get_optimizer_params,
    /// Passed to get_opt_pars.
    pub get_opt_pars_ud: *mut c_void,
    /// The optimizer.
    pub optimizer_type: CEnum<ggml_opt_optimizer_type>,
}
