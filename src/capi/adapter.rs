//! Adapters: LoRA files of a model, and what a context uses of them.

use std::ffi::{CStr, c_char};
use std::sync::{Arc, Weak};

use super::gguf::path_of;
use super::model::{model_arc, source_of};
use super::*;
use crate::gguf::Source;
use crate::model::adapter::Lora;
use crate::{Error, Result};

/// A LoRA adapter of one model. It is freed with the model at the latest; contexts that use it keep what they need.
pub struct llama_adapter_lora {
    tag: Tag,
    lora: Arc<Lora>,
    model: Weak<llama_model>,
}

impl Tagged for llama_adapter_lora {
    const NAME: &'static str = "adapter";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

/// Loads a LoRA adapter from a GGUF file, which is not needed afterwards. Returns NULL when it is none, or does not fit the
/// model. Free the result with llama_adapter_lora_free, or let it go with the model.
///
/// # Safety
/// `model` must be NULL or a live model, `path_lora` be NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_adapter_lora_init(
    model: *mut llama_model,
    path_lora: *const c_char,
) -> *mut llama_adapter_lora {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a NUL-terminated string.
        let path = path_of(unsafe { c_str(path_lora, "path_lora") }?);
        // SAFETY: the caller promises NULL or a live model.
        unsafe { init(model, Source::Path(path)) }
    })
}

/// Loads a LoRA adapter from an open file, from its current position on; the file stays open. See llama_adapter_lora_init.
///
/// # Safety
/// `model` must be NULL or a live model, `file` be NULL or an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_adapter_lora_init_from_file_ptr(
    model: *mut llama_model,
    file: *mut libc::FILE,
) -> *mut llama_adapter_lora {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or an open file.
        let source = unsafe { source_of(file) }?;
        // SAFETY: the caller promises NULL or a live model.
        unsafe { init(model, source) }
    })
}

/// Frees an adapter. Contexts that use it go on using it until they are told otherwise. NULL does nothing.
///
/// # Safety
/// `adapter` must be NULL or an adapter that was not freed before, neither alone nor with its model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_adapter_lora_free(adapter: *mut llama_adapter_lora) {
    guard((), || {
        if adapter.is_null() {
            return Ok(());
        }
        // SAFETY: not NULL, and the caller promises a live adapter.
        let model = unsafe { handle_ref(adapter) }?.model.upgrade();
        let model = model.ok_or_else(|| Error::argument("the adapter's model is gone, and the adapter with it"))?;
        let mut adapters = model.adapters.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        adapters.retain(|kept| Arc::as_ptr(kept) != adapter.cast_const());
        Ok(())
    });
}

/// Writes the value of a metadata key of an adapter's file as text, cut to `buf_size` - 1 bytes and ended by a NUL. Returns
/// the text's length, or -1 when there is no such key, or an array behind it; `buf` is empty then.
///
/// # Safety
/// `adapter` must be NULL or a live adapter, `key` NULL or NUL-terminated, `buf` NULL or of `buf_size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_adapter_meta_val_str(
    adapter: *const llama_adapter_lora,
    key: *const c_char,
    buf: *mut c_char,
    buf_size: usize,
) -> i32 {
    // SAFETY: the caller promises what `text` asks for, and NULL or a NUL-terminated string.
    unsafe {
        text(adapter, buf, buf_size, |lora| {
            let key: &CStr = c_str(key, "key")?;
            Ok(key.to_str().ok().and_then(|key| lora.meta_value(key)))
        })
    }
}

/// Returns how many metadata values an adapter's file has, arrays left out.
///
/// # Safety
/// `adapter` must be NULL or a live adapter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_adapter_meta_count(adapter: *const llama_adapter_lora) -> i32 {
    // SAFETY: the caller promises NULL or a live adapter.
    guard(0, || Ok(unsafe { handle_ref(adapter) }?.lora.meta().len() as i32))
}

/// Writes metadata key `i` of an adapter's file: see llama_adapter_meta_val_str.
///
/// # Safety
/// `adapter` must be NULL or a live adapter, `buf` NULL or of `buf_size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_adapter_meta_key_by_index(
    adapter: *const llama_adapter_lora,
    i: i32,
    buf: *mut c_char,
    buf_size: usize,
) -> i32 {
    // SAFETY: the caller promises what `text` asks for.
    unsafe { text(adapter, buf, buf_size, |lora| Ok(entry(lora, i).map(|(key, _)| key.as_bytes()))) }
}

/// Writes metadata value `i` of an adapter's file as text: see llama_adapter_meta_val_str.
///
/// # Safety
/// `adapter` must be NULL or a live adapter, `buf` NULL or of `buf_size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_adapter_meta_val_str_by_index(
    adapter: *const llama_adapter_lora,
    i: i32,
    buf: *mut c_char,
    buf_size: usize,
) -> i32 {
    // SAFETY: the caller promises what `text` asks for.
    unsafe { text(adapter, buf, buf_size, |lora| Ok(entry(lora, i).map(|(_, value)| &value[..]))) }
}

/// Returns how many tokens invoke an adapter that is to be used from them on ("activated LoRA"); 0 for other adapters.
///
/// # Safety
/// `adapter` must be NULL or a live adapter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_adapter_get_alora_n_invocation_tokens(adapter: *const llama_adapter_lora) -> u64 {
    if adapter.is_null() {
        return 0;
    }
    // SAFETY: not NULL, and the caller promises a live adapter.
    guard(0, || Ok(unsafe { handle_ref(adapter) }?.lora.invocation_tokens().len() as u64))
}

/// Returns the tokens that invoke an adapter, which live as long as it does.
///
/// # Safety
/// `adapter` must be NULL or a live adapter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_adapter_get_alora_invocation_tokens(
    adapter: *const llama_adapter_lora,
) -> *const llama_token {
    // SAFETY: the caller promises NULL or a live adapter.
    guard(std::ptr::null(), || Ok(unsafe { handle_ref(adapter) }?.lora.invocation_tokens().as_ptr()))
}

/// Makes a context use these `n_adapters` adapters, each with its scale, and no others, from the next decode on. Returns 0,
/// or -1 when one of them is of another model: nothing is changed then.
///
/// # Safety
/// `ctx` must be NULL or a live context, `adapters` and `scales` be NULL or have `n_adapters` elements, which are NULL or
/// live adapters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_set_adapters_lora(
    ctx: *mut llama_context,
    adapters: *mut *mut llama_adapter_lora,
    n_adapters: usize,
    scales: *mut f32,
) -> i32 {
    guard(-1, || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_mut(ctx) }?;
        // SAFETY: the caller promises NULL or that many elements.
        let (adapters, scales) =
            unsafe { (array(adapters, n_adapters, "adapters")?, array(scales, n_adapters, "scales")?) };
        // SAFETY: the caller promises NULL or live adapters.
        let loras = adapters.iter().map(|&adapter| Ok(unsafe { handle_ref(adapter) }?.lora.clone()));
        let loras = loras.zip(scales).map(|(lora, &scale)| Ok((lora?, scale))).collect::<Result<Vec<_>>>()?;
        ctx.change(|context, _| context.set_loras(&loras))?;
        Ok(0)
    })
}

/// Adds vectors to what leaves layers `il_start` to `il_end` of a context, both included, from the next decode on. `data` has
/// `len` values: `n_embd` for layer 1, `n_embd` for layer 2 and so on; layer 0 never has one. NULL ends it. Returns 0, or -1
/// when `n_embd` is not the model's: nothing is changed then.
///
/// # Safety
/// `ctx` must be NULL or a live context, `data` be NULL or point to `len` values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_set_adapter_cvec(
    ctx: *mut llama_context,
    data: *const f32,
    len: usize,
    n_embd: i32,
    il_start: i32,
    il_end: i32,
) -> i32 {
    guard(-1, || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_mut(ctx) }?;
        // SAFETY: the caller promises NULL or that many values.
        let data = if data.is_null() { None } else { Some(unsafe { array(data, len, "data") }?) };
        let n_embd = usize::try_from(n_embd).map_err(|_| Error::argument(format!("n_embd is {n_embd}")));
        let n_embd = if data.is_some() { n_embd? } else { 0 };
        ctx.change(|context, _| context.set_control_vector(data, n_embd, il_start..=il_end))?;
        Ok(0)
    })
}

/// Loads an adapter and gives it to its model.
///
/// # Safety
/// `model` must be NULL or a live model.
unsafe fn init(model: *mut llama_model, source: Source) -> Result<*mut llama_adapter_lora> {
    // SAFETY: the caller promises NULL or a live model.
    let model = unsafe { model_arc(model) }?;
    let lora = Arc::new(Lora::load(&model.model, source)?);
    let adapter = llama_adapter_lora { tag: Tag::of::<llama_adapter_lora>(), lora, model: Arc::downgrade(&model) };
    let adapter = Arc::new(adapter);
    let handle = Arc::as_ptr(&adapter).cast_mut();
    model.adapters.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(adapter);
    Ok(handle)
}

fn entry(lora: &Lora, i: i32) -> Option<&(String, Vec<u8>)> {
    lora.meta().get(usize::try_from(i).ok()?)
}

/// Writes what `get` finds.
///
/// # Safety
/// `adapter` must be NULL or a live adapter, `buf` NULL or of `buf_size` writable bytes.
unsafe fn text<'a>(
    adapter: *const llama_adapter_lora,
    buf: *mut c_char,
    buf_size: usize,
    get: impl FnOnce(&'a Lora) -> Result<Option<&'a [u8]>>,
) -> i32 {
    guard(-1, || {
        // SAFETY: the caller promises NULL or buf_size writable bytes.
        unsafe { out(b"", buf, buf_size) };
        // SAFETY: the caller promises NULL or a live adapter.
        let value = get(&unsafe { handle_ref(adapter) }?.lora)?;
        // SAFETY: as above.
        Ok(value.map_or(-1, |value| unsafe { out(value, buf, buf_size) }))
    })
}
