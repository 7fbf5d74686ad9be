//! Training, as llama.h has it.

use std::ffi::c_void;

use super::*;
use crate::{Error, Result};

/// Says that every tensor is trained: for llama_opt_params.param_filter. Always returns true.
#[unsafe(no_mangle)]
pub extern "C" fn llama_opt_param_filter_all(_tensor: *const ggml_tensor, _userdata: *mut c_void) -> bool {
    true
}

/// Would prepare a context for training. The weights of a model are never changed here: the reason is logged, and the
/// context stays as it is.
///
/// # Safety
/// `lctx` must be NULL or a live context, `model` be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_opt_init(
    lctx: *mut llama_context,
    model: *mut llama_model,
    _lopt_params: llama_opt_params,
) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live context and model.
        unsafe { (handle_ref(lctx)?, handle_ref(model)?) };
        no_training()
    });
}

/// Would train over the first `idata_split` examples of a data set and evaluate over the rest. Nothing is trained here: the
/// reason is logged, the results stay as they are, and no callback is called.
///
/// # Safety
/// `lctx` must be NULL or a live context, `dataset` be NULL or a live data set, the results be NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_opt_epoch(
    lctx: *mut llama_context,
    dataset: ggml_opt_dataset_t,
    _result_train: ggml_opt_result_t,
    _result_eval: ggml_opt_result_t,
    _idata_split: i64,
    _callback_train: ggml_opt_epoch_callback,
    _callback_eval: ggml_opt_epoch_callback,
) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live context and data set.
        unsafe { (handle_ref(lctx)?, handle_ref(dataset)?) };
        no_training()
    });
}

fn no_training() -> Result<()> {
    Err(Error::Unsupported("training: weights stay as their file has them".into()))
}
