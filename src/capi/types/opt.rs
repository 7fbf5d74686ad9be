//! The public types of ggml-opt.h: data sets, results and optimizers of training.

use std::ffi::c_void;

use super::*;

/// Examples to learn from.
pub type ggml_opt_dataset_t = *mut ggml_opt_dataset;
/// A training under way.
pub type ggml_opt_context_t = *mut ggml_opt_context;
/// What was learned so far.
pub type ggml_opt_result_t = *mut ggml_opt_result;

/// How parameters move along their gradients.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ggml_opt_optimizer_type {
    GGML_OPT_OPTIMIZER_TYPE_ADAMW = 0,
    GGML_OPT_OPTIMIZER_TYPE_SGD = 1,
    GGML_OPT_OPTIMIZER_TYPE_COUNT = 2,
}

/// Settings of the optimizers.
///
/// cbindgen cannot write the structs without names of the C declaration, which stands in the header's preamble instead.
///
/// cbindgen:ignore
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ggml_opt_optimizer_params {
    /// Of AdamW.
    pub adamw: ggml_opt_adamw,
    /// Of stochastic gradient descent.
    pub sgd: ggml_opt_sgd,
}

/// See [`ggml_opt_optimizer_params`].
///
/// cbindgen:ignore
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ggml_opt_adamw {
    /// Learning rate.
    pub alpha: f32,
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Keeps divisions from overflowing.
    pub eps: f32,
    /// Weight decay; 0: none.
    pub wd: f32,
}

/// See [`ggml_opt_optimizer_params`].
///
/// cbindgen:ignore
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ggml_opt_sgd {
    /// Learning rate.
    pub alpha: f32,
    /// Weight decay; 0: none.
    pub wd: f32,
}

/// Gives the settings of the next step.
pub type ggml_opt_get_optimizer_params =
    Option<unsafe extern "C" fn(userdata: *mut c_void) -> ggml_opt_optimizer_params>;

/// Is told after each batch how far an epoch is. `train` is false while evaluating. `ibatch` batches of `ibatch_max` are
/// done since the time `t_start_us`.
pub type ggml_opt_epoch_callback = Option<
    unsafe extern "C" fn(
        train: bool,
        opt_ctx: ggml_opt_context_t,
        dataset: ggml_opt_dataset_t,
        result: ggml_opt_result_t,
        ibatch: i64,
        ibatch_max: i64,
        t_start_us: i64,
    ),
>;
