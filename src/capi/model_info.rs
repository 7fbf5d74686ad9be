//! Facts about loaded models: numbers, metadata, kinds.

use std::ffi::{CStr, c_char};
use std::sync::PoisonError;

use super::*;
use crate::model::HParams;

/// Returns the length of context that the model was trained with.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_n_ctx_train(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    unsafe { number(model, |hp| hp.n_ctx_train as i32) }
}

/// Returns the width of the model.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_n_embd(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    unsafe { number(model, |hp| hp.n_embd as i32) }
}

/// Returns the width of embeddings in batches.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_n_embd_inp(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    unsafe { number(model, |hp| hp.n_embd as i32) }
}

/// Returns the width of embeddings that the model gives.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_n_embd_out(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    unsafe { number(model, |hp| hp.n_embd_out as i32) }
}

/// Returns the number of layers.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_n_layer(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    unsafe { number(model, |hp| hp.n_layer as i32) }
}

/// Returns the number of layers for multi-token prediction.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_n_layer_nextn(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    unsafe { number(model, |_| 0) }
}

/// Returns the number of attention heads of the first layer.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_n_head(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    unsafe { number(model, |hp| hp.n_head.first().map_or(0, |&n| n as i32)) }
}

/// Returns the number of heads of keys and values of the first layer.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_n_head_kv(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    unsafe { number(model, |hp| hp.n_head_kv.first().map_or(0, |&n| n as i32)) }
}

/// Returns the size of the sliding window, 0 when there is none.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_n_swa(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    unsafe { number(model, |hp| hp.n_swa as i32) }
}

/// Returns the factor by which the model scales rotation frequencies.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_rope_freq_scale_train(model: *const llama_model) -> f32 {
    guard(0.0, || {
        // SAFETY: the caller promises NULL or a live model.
        let hparams = &unsafe { handle_ref(model) }?.model.hparams;
        Ok(hparams.as_ref().map_or(0.0, |hp| hp.rope_freq_scale))
    })
}

/// Returns the number of classes of a classifier.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_n_cls_out(model: *const llama_model) -> u32 {
    // SAFETY: the caller promises NULL or a live model.
    unsafe { number(model, |hp| hp.n_cls_out as i32) as u32 }
}

/// Returns the name of class `i` of a classifier, or NULL. It lives as long as the model.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_cls_label(model: *const llama_model, i: u32) -> *const c_char {
    guard(std::ptr::null(), || {
        // SAFETY: the caller promises NULL or a live model.
        let labels = &unsafe { handle_ref(model) }?.labels;
        Ok(labels.get(i as usize).map_or(std::ptr::null(), |label| label.as_ptr()))
    })
}

/// Writes a metadata value as text, by key. Returns its length without the NUL that ends it, or -1 and an empty text when
/// there is no such key or its value is an array. A longer text than `buf_size` - 1 is cut.
///
/// # Safety
/// `model` must be NULL or a live model, `key` NULL or NUL-terminated, `buf` NULL or of `buf_size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_meta_val_str(
    model: *const llama_model,
    key: *const c_char,
    buf: *mut c_char,
    buf_size: usize,
) -> i32 {
    guard(-1, || {
        // SAFETY: the caller promises NULL or buf_size writable bytes.
        unsafe { out(b"", buf, buf_size) };
        // SAFETY: the caller promises NULL or a live model, and NULL or a NUL-terminated string.
        let (model, key) = unsafe { (&handle_ref(model)?.model, c_str(key, "key")?) };
        let value = key.to_str().ok().and_then(|key| model.meta_value(key));
        // SAFETY: as above.
        Ok(value.map_or(-1, |value| unsafe { out(value, buf, buf_size) }))
    })
}

/// Returns how many metadata values there are, arrays left out.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_meta_count(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    guard(0, || Ok(unsafe { handle_ref(model) }?.model.meta().len() as i32))
}

/// Writes metadata key `i`: see llama_model_meta_val_str.
///
/// # Safety
/// `model` must be NULL or a live model, `buf` NULL or of `buf_size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_meta_key_by_index(
    model: *const llama_model,
    i: i32,
    buf: *mut c_char,
    buf_size: usize,
) -> i32 {
    // SAFETY: the caller promises what `meta_by_index` asks for.
    unsafe { meta_by_index(model, i, buf, buf_size, |entry| entry.0.as_bytes()) }
}

/// Writes metadata value `i` as text: see llama_model_meta_val_str.
///
/// # Safety
/// `model` must be NULL or a live model, `buf` NULL or of `buf_size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_meta_val_str_by_index(
    model: *const llama_model,
    i: i32,
    buf: *mut c_char,
    buf_size: usize,
) -> i32 {
    // SAFETY: the caller promises what `meta_by_index` asks for.
    unsafe { meta_by_index(model, i, buf, buf_size, |entry| &entry.1) }
}

/// Writes what people call the model, for example "llama 8B Q4_K - Medium". Returns its length without the NUL that ends
/// it, or -1. A longer text than `buf_size` - 1 is cut.
///
/// # Safety
/// `model` must be NULL or a live model, `buf` NULL or of `buf_size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_desc(model: *const llama_model, buf: *mut c_char, buf_size: usize) -> i32 {
    // SAFETY: the caller promises NULL or a live model, and NULL or buf_size writable bytes.
    guard(-1, || Ok(unsafe { out(handle_ref(model)?.model.desc().as_bytes(), buf, buf_size) }))
}

/// Returns what the weights of the file mostly are.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_ftype(model: *const llama_model) -> CEnum<llama_ftype> {
    // SAFETY: the caller promises NULL or a live model.
    guard(CEnum::from_int(0), || Ok(CEnum::from_int(unsafe { handle_ref(model) }?.model.ftype() as i32)))
}

/// Returns the bytes of all weights.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_size(model: *const llama_model) -> u64 {
    // SAFETY: the caller promises NULL or a live model.
    guard(0, || Ok(unsafe { handle_ref(model) }?.model.size()))
}

/// Returns the number of weights.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_n_params(model: *const llama_model) -> u64 {
    // SAFETY: the caller promises NULL or a live model.
    guard(0, || Ok(unsafe { handle_ref(model) }?.model.n_params()))
}

/// Returns the file's chat template of a name, or with NULL its default one; NULL when it has none. It lives as long as
/// the model.
///
/// # Safety
/// `model` must be NULL or a live model, `name` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_chat_template(model: *const llama_model, name: *const c_char) -> *const c_char {
    guard(std::ptr::null(), || {
        // SAFETY: the caller promises NULL or a live model.
        let model = unsafe { handle_ref(model) }?;
        // SAFETY: not NULL, and the caller promises a NUL-terminated string.
        let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) });
        let text = match name.map(CStr::to_str).transpose() {
            Ok(name) => model.model.chat_template(name),
            Err(_) => None,
        };
        let Some(text) = text else { return Ok(std::ptr::null()) };
        let mut templates = model.templates.lock().unwrap_or_else(PoisonError::into_inner);
        let template = templates.entry(name.map(CStr::to_owned));
        Ok(template.or_insert_with(|| logging::c_text(&String::from_utf8_lossy(text))).as_ptr())
    })
}

/// Whether the model has an encoder, for llama_encode, before its decoder.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_has_encoder(model: *const llama_model) -> bool {
    // SAFETY: the caller promises NULL or a live model.
    guard(false, || unsafe { handle_ref(model) }.map(|_| false))
}

/// Whether the model is used through llama_decode.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_has_decoder(model: *const llama_model) -> bool {
    // SAFETY: the caller promises NULL or a live model.
    guard(false, || unsafe { handle_ref(model) }.map(|_| true))
}

/// Returns the token that starts the decoder of a model with an encoder; LLAMA_TOKEN_NULL for other models.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_decoder_start_token(model: *const llama_model) -> llama_token {
    // SAFETY: the caller promises NULL or a live model.
    guard(LLAMA_TOKEN_NULL, || unsafe { handle_ref(model) }.map(|_| LLAMA_TOKEN_NULL))
}

/// Whether the model keeps a recurrent state instead of a KV cache.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_is_recurrent(model: *const llama_model) -> bool {
    // SAFETY: the caller promises NULL or a live model.
    guard(false, || unsafe { handle_ref(model) }.map(|_| false))
}

/// Whether the model keeps a recurrent state beside a KV cache.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_is_hybrid(model: *const llama_model) -> bool {
    // SAFETY: the caller promises NULL or a live model.
    guard(false, || unsafe { handle_ref(model) }.map(|_| false))
}

/// Whether the model generates text by diffusion.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_is_diffusion(model: *const llama_model) -> bool {
    // SAFETY: the caller promises NULL or a live model.
    guard(false, || unsafe { handle_ref(model) }.map(|_| false))
}

/// A number of the hyper-parameters; 0 for a model loaded with vocab_only.
///
/// # Safety
/// `model` must be NULL or a live model.
unsafe fn number(model: *const llama_model, get: impl FnOnce(&HParams) -> i32) -> i32 {
    // SAFETY: the caller promises NULL or a live model.
    guard(0, || Ok(unsafe { handle_ref(model) }?.model.hparams.as_ref().map_or(0, get)))
}

/// # Safety
/// `model` must be NULL or a live model, `buf` NULL or of `buf_size` writable bytes.
unsafe fn meta_by_index(
    model: *const llama_model,
    i: i32,
    buf: *mut c_char,
    buf_size: usize,
    get: impl FnOnce(&(String, Vec<u8>)) -> &[u8],
) -> i32 {
    guard(-1, || {
        // SAFETY: the caller promises NULL or buf_size writable bytes.
        unsafe { out(b"", buf, buf_size) };
        // SAFETY: the caller promises NULL or a live model.
        let model = unsafe { handle_ref(model) }?;
        let entry = usize::try_from(i).ok().and_then(|i| model.model.meta().get(i));
        // SAFETY: as above.
        Ok(entry.map_or(-1, |entry| unsafe { out(get(entry), buf, buf_size) }))
    })
}
