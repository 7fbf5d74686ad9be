//! Models that come from a caller instead of a file, and models that go to a file.

use std::ffi::{c_char, c_void};

use super::model::make;
use super::*;
use crate::gguf::TensorInfo;
use crate::model::Model;
use crate::{Error, Result};

/// Makes a model from metadata. It has the tensors that its architecture needs and those that it may have, of the types that
/// `metadata` gives to tensors of their names, else F32; `set_tensor_data` is called with each of them once and writes its
/// elements, e.g. with ggml_backend_tensor_set. Returns NULL when the metadata are not those of a model. Free the result
/// with llama_model_free; the metadata may be freed at once.
///
/// # Safety
/// `metadata` must be NULL or a live gguf_context, `set_tensor_data` must take `set_tensor_data_ud` and write no more than
/// the tensors' elements, the pointers in `params` be NULL or as llama_model_params says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_init_from_user(
    metadata: *mut gguf_context,
    set_tensor_data: llama_model_set_tensor_data_t,
    set_tensor_data_ud: *mut c_void,
    params: llama_model_params,
) -> *mut llama_model {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live context.
        let metadata = unsafe { handle_ref(metadata) }?.gguf.clone();
        let set = set_tensor_data.ok_or(Error::Null("set_tensor_data"))?;
        let no_alloc = params.no_alloc;
        let mut fill = |info: &TensorInfo, elements: &mut [u8]| {
            if no_alloc {
                return Ok(());
            }
            let mut tensor = lend(info, elements)?;
            // SAFETY: the caller promises a callback that takes its data and a tensor, which lives until it returns.
            unsafe { set(&mut tensor, set_tensor_data_ud) };
            Ok(())
        };
        // SAFETY: the caller promises what `make` asks for.
        unsafe { make(&params, |params| Model::from_user(metadata, params, &mut fill)) }
    })
}

/// Writes a model to a GGUF file, in one piece. The file appears when it is complete; a failure is logged.
///
/// # Safety
/// `model` must be NULL or a live model, `path_model` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_save_to_file(model: *const llama_model, path_model: *const c_char) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live model, and NULL or a NUL-terminated string.
        let (model, path) = unsafe { (handle_ref(model)?, c_str(path_model, "path_model")?) };
        model.model.save(&path_of(path))
    });
}

/// A tensor over `elements`.
fn lend(info: &TensorInfo, elements: &mut [u8]) -> Result<ggml_tensor> {
    let mut tensor = tensor::describe(CEnum::from_int(info.dtype as i32), &info.ne.map(|n| n as i64))?;
    let name = std::ffi::CString::new(info.name.as_str());
    tensor::set_name(&mut tensor, &name.map_err(|_| Error::tensor(&info.name, "its name holds a NUL"))?);
    tensor.data = elements.as_mut_ptr().cast();
    Ok(tensor)
}
