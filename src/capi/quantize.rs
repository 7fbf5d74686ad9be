//! Quantizing of model files.

use std::ffi::{CStr, c_char};

use super::model::overrides;
use super::*;
use crate::quant::DType;
use crate::quantize::{FileType, Imatrix, QuantizeParams, quantize};
use crate::{Error, Result};

/// What max_buf_size is unless set: no limit but the library's own.
const MAX_BUF_SIZE: usize = 8 << 30;

/// Returns the usual parameters: everything is quantized, to Q8_0, by all processors.
#[unsafe(no_mangle)]
pub extern "C" fn llama_model_quantize_default_params() -> llama_model_quantize_params {
    llama_model_quantize_params {
        nthread: 0,
        ftype: CEnum::new(llama_ftype::LLAMA_FTYPE_MOSTLY_Q8_0),
        output_tensor_type: CEnum::new(ggml_type::GGML_TYPE_COUNT),
        token_embedding_type: CEnum::new(ggml_type::GGML_TYPE_COUNT),
        allow_requantize: false,
        quantize_output_tensor: true,
        only_copy: false,
        pure: false,
        keep_split: false,
        dry_run: false,
        imatrix: std::ptr::null(),
        kv_overrides: std::ptr::null(),
        tt_overrides: std::ptr::null(),
        prune_layers: std::ptr::null(),
        max_buf_size: MAX_BUF_SIZE,
    }
}

/// Quantizes the model in `fname_inp` into `fname_out`, which may be the same file. Returns 0, or 1 after a failure, which
/// leaves no file behind.
///
/// # Safety
/// The names must be NULL or NUL-terminated strings, `params` be NULL or point to parameters whose pointers are NULL or as
/// llama_model_quantize_params says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_quantize(
    fname_inp: *const c_char,
    fname_out: *const c_char,
    params: *const llama_model_quantize_params,
) -> u32 {
    guard(1, || {
        // SAFETY: the caller promises NULL or NUL-terminated strings.
        let (input, output) = unsafe { (c_str(fname_inp, "fname_inp")?, c_str(fname_out, "fname_out")?) };
        // SAFETY: the caller promises NULL or parameters.
        let params = unsafe { params.as_ref() }.ok_or(Error::Null("params"))?;
        // SAFETY: the caller promises what `read` asks for.
        let params = unsafe { read(params) }?;
        quantize(&path_of(input), &path_of(output), &params)?;
        Ok(0)
    })
}

/// # Safety
/// The pointers must be NULL or as llama_model_quantize_params says, and stay valid while `'a` lasts.
unsafe fn read<'a>(params: &llama_model_quantize_params) -> Result<QuantizeParams<'a>> {
    let ftype = FileType::from_number(params.ftype.value().into());
    let wrong = || Error::argument(format!("files cannot be quantized to type {}", params.ftype.value()));
    let ftype = ftype.ok_or_else(wrong)?;
    Ok(QuantizeParams {
        n_threads: params.nthread.max(0) as usize,
        output_tensor_type: optional_dtype(params.output_tensor_type)?,
        token_embedding_type: optional_dtype(params.token_embedding_type)?,
        allow_requantize: params.allow_requantize,
        quantize_output_tensor: params.quantize_output_tensor,
        only_copy: params.only_copy,
        pure: params.pure,
        keep_split: params.keep_split,
        dry_run: params.dry_run,
        // SAFETY: the caller promises NULL or a list that ends with a NULL name.
        imatrix: unsafe { imatrix(params.imatrix) }?,
        // SAFETY: the caller promises NULL or a list that ends with an empty key.
        kv_overrides: unsafe { overrides(params.kv_overrides) }?,
        // SAFETY: the caller promises NULL or a list that ends with a NULL pattern.
        tensor_types: unsafe { tensor_types(params.tt_overrides) }?,
        // SAFETY: the caller promises NULL or a list that ends with -1.
        prune_layers: unsafe { layers(params.prune_layers) },
        max_buf_size: if params.max_buf_size == 0 { MAX_BUF_SIZE } else { params.max_buf_size },
        ..QuantizeParams::new(ftype)
    })
}

/// A type, or `None` for GGML_TYPE_COUNT and more.
fn optional_dtype(ty: CEnum<ggml_type>) -> Result<Option<DType>> {
    if ty.value() >= ggml_type::GGML_TYPE_COUNT as i32 { Ok(None) } else { dtype(ty).map(Some) }
}

/// # Safety
/// `list` must be NULL or end with a NULL name; the names and data must be as llama_model_imatrix_data says.
unsafe fn imatrix<'a>(list: *const llama_model_imatrix_data) -> Result<Option<Imatrix<'a>>> {
    if list.is_null() {
        return Ok(None);
    }
    let mut found = Imatrix::new();
    for i in 0.. {
        // SAFETY: no element before this one had a NULL name, so that the list goes on at least to it.
        let entry = unsafe { &*list.add(i) };
        if entry.name.is_null() {
            break;
        }
        // SAFETY: not NULL, and the caller promises NUL-terminated names and `size` values.
        let (name, values) = unsafe { (text(entry.name)?, array(entry.data, entry.size, "imatrix data")?) };
        found.entry(name).or_insert(values);
    }
    Ok(Some(found))
}

/// # Safety
/// `list` must be NULL or end with a NULL pattern; patterns must be NUL-terminated.
unsafe fn tensor_types(list: *const llama_model_tensor_override) -> Result<Vec<(String, DType)>> {
    let mut found = Vec::new();
    for i in 0.. {
        if list.is_null() {
            break;
        }
        // SAFETY: no element before this one had a NULL pattern, so that the list goes on at least to it.
        let entry = unsafe { &*list.add(i) };
        if entry.pattern.is_null() {
            break;
        }
        // SAFETY: not NULL, and the caller promises NUL-terminated patterns.
        found.push((unsafe { text(entry.pattern) }?, dtype(entry.r#type)?));
    }
    Ok(found)
}

/// # Safety
/// `list` must be NULL or end with -1.
unsafe fn layers(list: *const i32) -> Vec<usize> {
    let mut found = Vec::new();
    for i in 0.. {
        if list.is_null() {
            break;
        }
        // SAFETY: no element before this one was -1, so that the list goes on at least to it.
        match unsafe { *list.add(i) } {
            -1 => break,
            layer => found.extend(usize::try_from(layer)),
        }
    }
    found
}

/// # Safety
/// `ptr` must point to a NUL-terminated string.
unsafe fn text(ptr: *const c_char) -> Result<String> {
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(ptr) }.to_str();
    Ok(text.map_err(|e| Error::argument(format!("a name that is not UTF-8: {e}")))?.to_owned())
}
