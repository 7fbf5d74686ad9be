//! gguf.h: reading, editing and writing GGUF files, over [`crate::gguf`].

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use super::*;
use crate::gguf::{Array, Gguf, Storage, TensorInfo, Value};
use crate::{Error, Result};

/// The header of a GGUF file, and where the data of its tensors lies.
pub struct gguf_context {
    tag: Tag,
    /// What was read or set.
    pub(super) gguf: Gguf,
    /// The elements of each tensor in a caller's ggml_context, where there is one.
    data: Vec<*const u8>,
    /// Strings handed out, which stay as they are until the context is freed.
    strings: Mutex<HashMap<Vec<u8>, CString>>,
    /// Arrays handed out, aligned for every type.
    arrays: Mutex<HashMap<Vec<u8>, Box<[u64]>>>,
}

impl Tagged for gguf_context {
    const NAME: &'static str = "gguf_context";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

impl gguf_context {
    fn new(gguf: Gguf) -> Self {
        let data = vec![std::ptr::null(); gguf.tensors().len()];
        gguf_context { tag: Tag::of::<gguf_context>(), gguf, data, strings: Mutex::default(), arrays: Mutex::default() }
    }

    /// A C string with the same bytes, up to their first NUL, that lives as long as the context.
    fn intern(&self, bytes: &[u8]) -> *const c_char {
        let bytes = bytes.split(|&b| b == 0).next().unwrap_or_default();
        let mut strings = self.strings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = strings.get(bytes) {
            return found.as_ptr();
        }
        let text = CString::new(bytes).expect("it was cut at the first NUL");
        let ptr = text.as_ptr();
        strings.insert(bytes.to_vec(), text);
        ptr
    }

    /// The same bytes, aligned to 8, as long as the context lives.
    fn aligned(&self, bytes: &[u8]) -> *const u64 {
        let mut arrays = self.arrays.lock().unwrap_or_else(PoisonError::into_inner);
        let words = arrays.entry(bytes.to_vec()).or_insert_with(|| {
            let word = |chunk: &[u8]| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(word)
            };
            bytes.chunks(8).map(word).collect()
        });
        words.as_ptr()
    }

    fn entry(&self, key_id: i64) -> Result<&(String, Value)> {
        let entry = usize::try_from(key_id).ok().and_then(|i| self.gguf.kv().get(i));
        entry.ok_or_else(|| Error::argument(format!("key {key_id} of {}", self.gguf.kv().len())))
    }

    fn array(&self, key_id: i64) -> Result<&Array> {
        match self.entry(key_id)? {
            (_, Value::Array(array)) => Ok(array),
            (key, other) => Err(wrong_type(key, other, "an array")),
        }
    }

    fn tensor(&self, tensor_id: i64) -> Result<&TensorInfo> {
        let tensor = usize::try_from(tensor_id).ok().and_then(|i| self.gguf.tensors().get(i));
        tensor.ok_or_else(|| Error::argument(format!("tensor {tensor_id} of {}", self.gguf.tensors().len())))
    }
}

fn wrong_type(key: &str, value: &Value, expected: &str) -> Error {
    Error::argument(format!("'{key}' is {}, not {expected}", value.type_name()))
}

/// Makes an empty GGUF, to be filled and written. Free it with gguf_free.
#[unsafe(no_mangle)]
pub extern "C" fn gguf_init_empty() -> *mut gguf_context {
    guard(std::ptr::null_mut(), || Ok(Box::into_raw(Box::new(gguf_context::new(Gguf::new())))))
}

/// Reads the header of a file, and its tensors when `params.ctx` is set. Returns NULL when the file cannot be read or is
/// not a valid GGUF. Free the result with gguf_free, the ggml_context with ggml_free.
///
/// # Safety
/// `fname` must be NULL or a NUL-terminated string, `params.ctx` be NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_init_from_file(fname: *const c_char, params: gguf_init_params) -> *mut gguf_context {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a NUL-terminated string.
        let path = path_of(unsafe { c_str(fname, "fname") }?);
        let name = path.display().to_string();
        let file = std::fs::File::open(&path).map_err(|e| Error::io(format!("open '{name}'"), e))?;
        // SAFETY: the caller promises that params.ctx is NULL or writable.
        unsafe { read(&Arc::new(Storage::map(&file, name)?), params) }
    })
}

/// Reads a GGUF in memory, which may be freed afterwards: see gguf_init_from_file.
///
/// # Safety
/// `data` must be NULL or point to `size` bytes, `params.ctx` be NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_init_from_buffer(
    data: *const c_void,
    size: usize,
    params: gguf_init_params,
) -> *mut gguf_context {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or `size` bytes, and that params.ctx is NULL or writable.
        unsafe {
            let bytes = array(data.cast::<u8>(), size, "data")?;
            read(&Arc::new(Storage::from_bytes(bytes, "buffer")?), params)
        }
    })
}

/// Frees a context. NULL does nothing.
///
/// # Safety
/// `ctx` must be NULL or a context that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_free(ctx: *mut gguf_context) {
    guard((), || {
        if !ctx.is_null() {
            // SAFETY: the caller promises a live context of this file's functions, given up here.
            unsafe {
                handle_ref(ctx)?;
                drop(Box::from_raw(ctx));
            }
        }
        Ok(())
    });
}

/// Returns the version of the format.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_version(ctx: *const gguf_context) -> u32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.gguf.version))
}

/// Returns the alignment of tensor data in bytes.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_alignment(ctx: *const gguf_context) -> usize {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.gguf.alignment))
}

/// Returns where tensor data starts in the file.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_data_offset(ctx: *const gguf_context) -> usize {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(usize::try_from(unsafe { handle_ref(ctx) }?.gguf.data_offset).unwrap_or(usize::MAX)))
}

/// Returns how many keys there are.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_n_kv(ctx: *const gguf_context) -> i64 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.gguf.kv().len() as i64))
}

/// Returns a key's index, or -1 when there is no such key.
///
/// # Safety
/// `ctx` must be NULL or a live context, `key` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_find_key(ctx: *const gguf_context, key: *const c_char) -> i64 {
    guard(-1, || {
        // SAFETY: the caller promises NULL or a live context, and NULL or a NUL-terminated string.
        let (ctx, key) = unsafe { (handle_ref(ctx)?, c_str(key, "key")?) };
        Ok(key.to_str().ok().and_then(|key| ctx.gguf.find_key(key)).map_or(-1, |i| i as i64))
    })
}

/// Returns a key by index, or NULL when there is none. The string lives as long as the context.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_key(ctx: *const gguf_context, key_id: i64) -> *const c_char {
    guard(std::ptr::null(), || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_ref(ctx) }?;
        Ok(ctx.intern(ctx.entry(key_id)?.0.as_bytes()))
    })
}

/// Returns the type of a key's value; GGUF_TYPE_COUNT when there is no such key.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_kv_type(ctx: *const gguf_context, key_id: i64) -> CEnum<gguf_type> {
    guard(CEnum::new(gguf_type::GGUF_TYPE_COUNT), || {
        // SAFETY: the caller promises NULL or a live context.
        let value = &unsafe { handle_ref(ctx) }?.entry(key_id)?.1;
        Ok(CEnum::from_int(value.value_type() as i32))
    })
}

/// Returns the type of an array's elements; GGUF_TYPE_COUNT when the value is not an array.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_arr_type(ctx: *const gguf_context, key_id: i64) -> CEnum<gguf_type> {
    guard(CEnum::new(gguf_type::GGUF_TYPE_COUNT), || {
        // SAFETY: the caller promises NULL or a live context.
        let array = unsafe { handle_ref(ctx) }?.array(key_id)?;
        Ok(CEnum::from_int(array.element_type() as i32))
    })
}

/// Returns the number of an array's elements; 0 when the value is not an array.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_arr_n(ctx: *const gguf_context, key_id: i64) -> usize {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.array(key_id)?.len()))
}

/// Returns string `i` of an array of strings, or NULL. It lives as long as the context.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_arr_str(ctx: *const gguf_context, key_id: i64, i: usize) -> *const c_char {
    guard(std::ptr::null(), || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_ref(ctx) }?;
        let array = ctx.array(key_id)?;
        let text = array.string(i).ok_or_else(|| Error::argument(format!("string {i} of {}", array.len())))?;
        Ok(ctx.intern(text))
    })
}

/// Returns a string value, or NULL when the value is not a string. It lives as long as the context.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_val_str(ctx: *const gguf_context, key_id: i64) -> *const c_char {
    guard(std::ptr::null(), || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_ref(ctx) }?;
        match ctx.entry(key_id)? {
            (_, Value::String(text)) => Ok(ctx.intern(text)),
            (key, other) => Err(wrong_type(key, other, "a string")),
        }
    })
}

/// Returns a 16-bit unsigned value; 0 when the value is of another type.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_val_u16(ctx: *const gguf_context, key_id: i64) -> u16 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || match unsafe { handle_ref(ctx) }?.entry(key_id)? {
        (_, Value::U16(value)) => Ok(*value),
        (key, other) => Err(wrong_type(key, other, "u16")),
    })
}

/// Returns a 32-bit unsigned value; 0 when the value is of another type.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_val_u32(ctx: *const gguf_context, key_id: i64) -> u32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || match unsafe { handle_ref(ctx) }?.entry(key_id)? {
        (_, Value::U32(value)) => Ok(*value),
        (key, other) => Err(wrong_type(key, other, "u32")),
    })
}

/// Returns a 32-bit signed value; 0 when the value is of another type.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_val_i32(ctx: *const gguf_context, key_id: i64) -> i32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || match unsafe { handle_ref(ctx) }?.entry(key_id)? {
        (_, Value::I32(value)) => Ok(*value),
        (key, other) => Err(wrong_type(key, other, "i32")),
    })
}

/// Returns a 32-bit floating-point value; 0 when the value is of another type.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_val_f32(ctx: *const gguf_context, key_id: i64) -> f32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0.0, || match unsafe { handle_ref(ctx) }?.entry(key_id)? {
        (_, Value::F32(value)) => Ok(*value),
        (key, other) => Err(wrong_type(key, other, "f32")),
    })
}

/// Returns a truth value; false when the value is of another type.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_val_bool(ctx: *const gguf_context, key_id: i64) -> bool {
    // SAFETY: the caller promises NULL or a live context.
    guard(false, || match unsafe { handle_ref(ctx) }?.entry(key_id)? {
        (_, Value::Bool(value)) => Ok(*value),
        (key, other) => Err(wrong_type(key, other, "bool")),
    })
}

/// Returns the elements of an array of numbers, NULL for another value or an array of strings. They live as long as the
/// context.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_arr_data(ctx: *const gguf_context, key_id: i64) -> *const c_void {
    guard(std::ptr::null(), || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_ref(ctx) }?;
        let bytes = ctx.array(key_id)?.scalar_bytes().ok_or_else(|| Error::argument("an array of strings"))?;
        Ok(ctx.aligned(bytes).cast())
    })
}

/// Returns how many tensors there are.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_n_tensors(ctx: *const gguf_context) -> i64 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.gguf.tensors().len() as i64))
}

/// Returns a tensor's index, or -1 when there is no such tensor.
///
/// # Safety
/// `ctx` must be NULL or a live context, `name` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_find_tensor(ctx: *const gguf_context, name: *const c_char) -> i64 {
    guard(-1, || {
        // SAFETY: the caller promises NULL or a live context, and NULL or a NUL-terminated string.
        let (ctx, name) = unsafe { (handle_ref(ctx)?, c_str(name, "name")?) };
        Ok(name.to_str().ok().and_then(|name| ctx.gguf.find_tensor(name)).map_or(-1, |i| i as i64))
    })
}

/// Returns a tensor's name, or NULL when there is none of that index. The string lives as long as the context.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_tensor_name(ctx: *const gguf_context, tensor_id: i64) -> *const c_char {
    guard(std::ptr::null(), || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_ref(ctx) }?;
        Ok(ctx.intern(ctx.tensor(tensor_id)?.name.as_bytes()))
    })
}

/// Returns the type of a tensor's elements.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_tensor_type(ctx: *const gguf_context, tensor_id: i64) -> CEnum<ggml_type> {
    guard(CEnum::new(ggml_type::GGML_TYPE_COUNT), || {
        // SAFETY: the caller promises NULL or a live context.
        Ok(CEnum::from_int(unsafe { handle_ref(ctx) }?.tensor(tensor_id)?.dtype as i32))
    })
}

/// Returns the bytes of a tensor's elements.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_tensor_size(ctx: *const gguf_context, tensor_id: i64) -> usize {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.tensor(tensor_id)?.size as usize))
}

/// Returns where a tensor's elements start, from the start of tensor data.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_tensor_offset(ctx: *const gguf_context, tensor_id: i64) -> usize {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.tensor(tensor_id)?.offset as usize))
}

/// Adds a tensor: its name, type and shape now, its elements when the file is written, until when they must stay where
/// they are.
///
/// # Safety
/// `ctx` must be NULL or a live context, `tensor` be NULL or a live tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_add_tensor(ctx: *mut gguf_context, tensor: *const ggml_tensor) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live context, and NULL or a live tensor.
        let (ctx, tensor) = unsafe { (handle_mut(ctx)?, tensor.as_ref().ok_or(Error::Null("tensor"))?) };
        let name = String::from_utf8(tensor::name_of(tensor))
            .map_err(|e| Error::argument(format!("a tensor's name is not UTF-8: {e}")))?;
        let n_dims = tensor.ne.iter().rposition(|&n| n > 1).map_or(1, |last| last + 1);
        let ne = tensor.ne.map(|n| u64::try_from(n).unwrap_or(0));
        ctx.gguf.add_tensor(TensorInfo::new(name, dtype(tensor.r#type)?, &ne[..n_dims])?)?;
        ctx.data.push(tensor.data.cast());
        Ok(())
    });
}

/// Returns the bytes of the header with its padding, as gguf_get_meta_data writes it.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_meta_size(ctx: *const gguf_context) -> usize {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.gguf.meta_size()))
}

/// Writes the header, gguf_get_meta_size() bytes, to `data`.
///
/// # Safety
/// `ctx` must be NULL or a live context, `data` be NULL or point to that many writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_get_meta_data(ctx: *const gguf_context, data: *mut c_void) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live context.
        let bytes = unsafe { handle_ref(ctx) }?.gguf.meta_bytes();
        if data.is_null() {
            return Err(Error::Null("data"));
        }
        // SAFETY: not NULL, and the caller promises room for the header.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.cast(), bytes.len()) };
        Ok(())
    });
}

/// Writes the file, or its header alone. Returns whether that worked.
///
/// # Safety
/// `ctx` must be NULL or a live context whose tensors' elements are where they were when they were added, `fname` be NULL
/// or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_write_to_file(ctx: *const gguf_context, fname: *const c_char, only_meta: bool) -> bool {
    guard(false, || {
        // SAFETY: the caller promises NULL or a live context, and NULL or a NUL-terminated string.
        let (ctx, path) = unsafe { (handle_ref(ctx)?, path_of(c_str(fname, "fname")?)) };
        let failed = |e| Error::io(format!("write '{}'", path.display()), e);
        let mut out = std::io::BufWriter::new(std::fs::File::create(&path).map_err(failed)?);
        if only_meta {
            out.write_all(&ctx.gguf.meta_bytes()).map_err(failed)?;
        } else {
            let mut elements = ctx.data.iter();
            ctx.gguf.write(&mut out, |tensor, out| {
                let data = *elements.next().expect("every tensor has an entry in data");
                if data.is_null() {
                    return Err(Error::tensor(tensor.name.clone(), "it has no elements to write"));
                }
                // SAFETY: gguf_add_tensor took the pointer from a tensor of this size, which the caller kept in place.
                let bytes = unsafe { std::slice::from_raw_parts(data, tensor.size as usize) };
                out.write_all(bytes).map_err(failed)
            })?;
        }
        out.flush().map_err(failed)?;
        Ok(true)
    })
}

/// Sets every key of `src`.
///
/// # Safety
/// `ctx` and `src` must be NULL or live contexts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gguf_set_kv(ctx: *mut gguf_context, src: *const gguf_context) {
    guard((), || {
        if std::ptr::eq(ctx, src) {
            return Ok(());
        }
        // SAFETY: the caller promises NULL or live contexts, which are two.
        let (ctx, src) = unsafe { (handle_mut(ctx)?, handle_ref(src)?) };
        src.gguf.kv().iter().try_for_each(|(key, value)| ctx.gguf.set(key.clone(), value.clone()))
    });
}

/// Parses a GGUF and makes the context for its tensors that the caller asked for.
///
/// # Safety
/// `params.ctx` must be NULL or writable.
unsafe fn read(storage: &Arc<Storage>, params: gguf_init_params) -> Result<*mut gguf_context> {
    let bytes = storage.bytes();
    let parsed = Gguf::parse(storage, 0)?;
    let data_offset = usize::try_from(parsed.data_offset).unwrap_or(usize::MAX);
    // A copy of the header, because the file may be overwritten while the context lives.
    let gguf = Gguf::from_bytes(&bytes[..data_offset.min(bytes.len())])?;
    let mut context = gguf_context::new(gguf);
    if !params.ctx.is_null() {
        if !params.no_alloc {
            parsed.check_data(storage)?;
        }
        let data = bytes.get(data_offset..).unwrap_or_default();
        let tensors = tensors_of(&mut context, data, params.no_alloc)?;
        // SAFETY: not NULL, and the caller of read promises that it is writable.
        unsafe { params.ctx.write(Box::into_raw(Box::new(tensors))) };
    }
    Ok(Box::into_raw(Box::new(context)))
}

/// A ggml_context with the tensors of a file, and unless `no_alloc` their elements, which lie in `data`.
fn tensors_of(context: &mut gguf_context, data: &[u8], no_alloc: bool) -> Result<ggml_context> {
    let infos = context.gguf.tensors();
    let mut tensors = ggml_context::new((infos.len() + 1).saturating_mul(ggml_tensor_overhead()), true);
    let size = if no_alloc { 0 } else { context.gguf.data_size() as usize };
    let all = tensors.allocate(size)?;
    if size > 0 {
        let n = size.min(data.len());
        // SAFETY: `all` has `size` bytes, of which the first n are written.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), all, n) };
    }
    for (info, elements) in infos.iter().zip(&mut context.data) {
        let ne = info.ne.map(|n| n as i64);
        let tensor = tensors.add_tensor(CEnum::from_int(info.dtype as i32), &ne)?;
        let name = CString::new(info.name.split('\0').next().unwrap_or_default()).expect("it was cut at the first NUL");
        // SAFETY: add_tensor returned a live tensor; offset + size of every tensor lie inside data_size() bytes.
        unsafe {
            tensor::set_name(&mut *tensor, &name);
            if !no_alloc {
                (*tensor).data = all.add(info.offset as usize).cast();
                *elements = (*tensor).data.cast();
            }
        }
    }
    Ok(tensors)
}

/// A path of any bytes.
pub(crate) fn path_of(text: &CStr) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(text.to_bytes()).into()
}
