//! gguf.h: the functions that set values.

use std::ffi::{c_char, c_void};

use super::*;
use crate::gguf::{Array, Value, ValueType};
use crate::{Error, Result};

/// Sets a value, over one that the key may have.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
unsafe fn set(ctx: *mut gguf_context, key: *const c_char, value: impl FnOnce() -> Result<Value>) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live context, and NULL or a NUL-terminated string.
        let (ctx, key) = unsafe { (handle_mut(ctx)?, c_str(key, "key")?) };
        let key = key.to_str().map_err(|e| Error::argument(format!("a key is not UTF-8: {e}")))?;
        ctx.gguf.set(key, value()?)
    });
}

/// Sets an unsigned 8-bit value.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_val_u8(ctx: *mut gguf_context, key: *const c_char, val: u8) {
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, || Ok(val.into())) }
}

/// Sets a signed 8-bit value.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_val_i8(ctx: *mut gguf_context, key: *const c_char, val: i8) {
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, || Ok(val.into())) }
}

/// Sets an unsigned 16-bit value.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_val_u16(ctx: *mut gguf_context, key: *const c_char, val: u16) {
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, || Ok(val.into())) }
}

/// Sets a signed 16-bit value.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_val_i16(ctx: *mut gguf_context, key: *const c_char, val: i16) {
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, || Ok(val.into())) }
}

/// Sets an unsigned 32-bit value.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_val_u32(ctx: *mut gguf_context, key: *const c_char, val: u32) {
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, || Ok(val.into())) }
}

/// Sets a signed 32-bit value.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_val_i32(ctx: *mut gguf_context, key: *const c_char, val: i32) {
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, || Ok(val.into())) }
}

/// Sets a 32-bit floating-point value.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_val_f32(ctx: *mut gguf_context, key: *const c_char, val: f32) {
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, || Ok(val.into())) }
}

/// Sets an unsigned 64-bit value.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_val_u64(ctx: *mut gguf_context, key: *const c_char, val: u64) {
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, || Ok(val.into())) }
}

/// Sets a signed 64-bit value.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_val_i64(ctx: *mut gguf_context, key: *const c_char, val: i64) {
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, || Ok(val.into())) }
}

/// Sets a 64-bit floating-point value.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_val_f64(ctx: *mut gguf_context, key: *const c_char, val: f64) {
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, || Ok(val.into())) }
}

/// Sets a boolean value.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_val_bool(ctx: *mut gguf_context, key: *const c_char, val: bool) {
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, || Ok(val.into())) }
}

/// Sets a string value.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` and `val` be NULL or NUL-terminated strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_val_str(ctx: *mut gguf_context, key: *const c_char, val: *const c_char) {
    // SAFETY: the caller promises what `set` asks for, and NULL or a NUL-terminated string.
    unsafe { set(ctx, key, || Ok(Value::String(c_str(val, "val")?.to_bytes().to_vec().into()))) }
}

/// Sets an array of `n` numbers or booleans of type `type`.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string, `data` point to `n` values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_arr_data(
    ctx: *mut gguf_context,
    key: *const c_char,
    r#type: CEnum<gguf_type>,
    data: *const c_void,
    n: usize,
) {
    let elements = || {
        let element_type = u32::try_from(r#type.value()).ok().and_then(ValueType::from_u32);
        let element_type =
            element_type.ok_or_else(|| Error::argument(format!("no gguf_type has the number {type:?}")))?;
        let n_bytes = n.checked_mul(element_type.size()).ok_or_else(|| Error::argument("an array too large"))?;
        // SAFETY: the caller promises n values of the type.
        let bytes = unsafe { array(data.cast::<u8>(), n_bytes, "data") }?;
        Ok(Value::Array(Array::scalars(element_type, bytes.to_vec().into())?))
    };
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, elements) }
}

/// Sets an array of `n` strings.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string, `data` point to `n` such strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_arr_str(
    ctx: *mut gguf_context,
    key: *const c_char,
    data: *mut *const c_char,
    n: usize,
) {
    let strings = || {
        // SAFETY: the caller promises n NUL-terminated strings.
        let texts = unsafe { array(data, n, "data") }?.iter().map(|&text| unsafe { c_str(text, "data") });
        Ok(Value::Array(Array::strings(texts.map(|text| Ok(text?.to_bytes())).collect::<Result<Vec<_>>>()?)))
    };
    // SAFETY: the caller promises what `set` asks for.
    unsafe { set(ctx, key, strings) }
}
