//! `ggml_context` and `ggml_tensor` as containers: programs keep the tensors of small files in them. Nothing is computed
//! with them.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int};

use super::*;
use crate::{Error, Result};

/// What a tensor takes of a context's memory besides its elements. Callers size contexts by it.
const TENSOR_OVERHEAD: usize = 368;

/// Elements start at multiples of this.
const ALIGNMENT: usize = 16;

/// Tensors, and the memory of their elements.
pub struct ggml_context {
    tag: Tag,
    mem_size: usize,
    mem_used: usize,
    no_alloc: bool,
    /// Made by `Box::into_raw`, as callers change them while we hold them.
    tensors: Vec<*mut ggml_tensor>,
    index: HashMap<*mut ggml_tensor, usize>,
    /// Owns what the tensors' `data` points to.
    elements: Vec<Vec<u128>>,
}

impl Tagged for ggml_context {
    const NAME: &'static str = "ggml_context";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

impl Drop for ggml_context {
    fn drop(&mut self) {
        for &tensor in &self.tensors {
            // SAFETY: add_tensor made it by Box::into_raw, and nothing else frees it.
            drop(unsafe { Box::from_raw(tensor) });
        }
    }
}

impl ggml_context {
    /// An empty context for `mem_size` bytes of tensors.
    pub(super) fn new(mem_size: usize, no_alloc: bool) -> Self {
        ggml_context {
            tag: Tag::of::<ggml_context>(),
            mem_size: mem_size.max(ALIGNMENT).next_multiple_of(ALIGNMENT),
            mem_used: 0,
            no_alloc,
            tensors: Vec::new(),
            index: HashMap::new(),
            elements: Vec::new(),
        }
    }

    /// Adds a tensor, with zeroed elements unless the context is `no_alloc`.
    pub(super) fn add_tensor(&mut self, ty: CEnum<ggml_type>, ne: &[i64]) -> Result<*mut ggml_tensor> {
        let tensor = describe(ty, ne)?;
        let n_bytes = if self.no_alloc { 0 } else { nbytes(&tensor)? };
        let used = n_bytes
            .checked_next_multiple_of(ALIGNMENT)
            .and_then(|n| n.checked_add(self.mem_used)?.checked_add(TENSOR_OVERHEAD))
            .filter(|&used| used <= self.mem_size);
        let Some(used) = used else {
            let (size, left) = (self.mem_size, self.mem_size - self.mem_used);
            return Err(Error::Memory(format!("a tensor of {n_bytes} bytes; {left} of the context's {size} are left")));
        };
        let tensor = Box::into_raw(Box::new(tensor));
        self.mem_used = used;
        self.index.insert(tensor, self.tensors.len());
        self.tensors.push(tensor);
        if !self.no_alloc {
            let data = self.allocate(n_bytes)?;
            // SAFETY: the box was made just above.
            unsafe { (*tensor).data = data.cast() };
        }
        Ok(tensor)
    }

    /// Zeroed memory that lives as long as the context.
    pub(super) fn allocate(&mut self, n_bytes: usize) -> Result<*mut u8> {
        let n = n_bytes.div_ceil(ALIGNMENT);
        let mut block = Vec::new();
        block.try_reserve_exact(n).map_err(|_| Error::Memory(format!("{n_bytes} bytes for tensors")))?;
        block.resize(n, 0u128);
        let data = block.as_mut_ptr().cast();
        self.elements.push(block);
        Ok(data)
    }
}

/// Makes a context for tensors that take `params.mem_size` bytes, ggml_tensor_overhead() each included. The library
/// allocates their memory itself, whether or not `params.mem_buffer` is set. Free it with ggml_free.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_init(params: ggml_init_params) -> *mut ggml_context {
    guard(std::ptr::null_mut(), || {
        if params.mem_size > isize::MAX as usize {
            return Err(Error::argument(format!("a context of {} bytes", params.mem_size)));
        }
        Ok(Box::into_raw(Box::new(ggml_context::new(params.mem_size, params.no_alloc))))
    })
}

/// Frees a context and its tensors. NULL does nothing.
///
/// # Safety
/// `ctx` must be NULL or a context that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_free(ctx: *mut ggml_context) {
    guard((), || {
        if !ctx.is_null() {
            // SAFETY: the caller promises a live context of ggml_init or gguf_init_from_file, given up here.
            unsafe {
                handle_ref(ctx)?;
                drop(Box::from_raw(ctx));
            }
        }
        Ok(())
    });
}

/// Returns the bytes that a context was made for.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_get_mem_size(ctx: *const ggml_context) -> usize {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.mem_size))
}

/// Returns the bytes of a context that a tensor takes besides its elements.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_tensor_overhead() -> usize {
    TENSOR_OVERHEAD
}

/// Adds a tensor of `n_dims` dimensions (1 to 4) to a context, which owns it. Its elements are zero, or NULL in a context
/// made with no_alloc. Returns NULL when the context is full or the shape impossible.
///
/// # Safety
/// `ctx` must be NULL or a live context, `ne` be NULL or point to `n_dims` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_new_tensor(
    ctx: *mut ggml_context,
    r#type: CEnum<ggml_type>,
    n_dims: c_int,
    ne: *const i64,
) -> *mut ggml_tensor {
    guard(std::ptr::null_mut(), || {
        let n_dims = non_negative(n_dims, "n_dims")?;
        if n_dims > 4 {
            return Err(Error::argument(format!("a tensor of {n_dims} dimensions")));
        }
        // SAFETY: the caller promises NULL or a live context, and NULL or n_dims numbers.
        unsafe { handle_mut(ctx)?.add_tensor(r#type, array(ne, n_dims, "ne")?) }
    })
}

/// Adds a tensor of one dimension: see ggml_new_tensor.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_new_tensor_1d(
    ctx: *mut ggml_context,
    r#type: CEnum<ggml_type>,
    ne0: i64,
) -> *mut ggml_tensor {
    // SAFETY: the caller promises NULL or a live context.
    guard(std::ptr::null_mut(), || unsafe { handle_mut(ctx)?.add_tensor(r#type, &[ne0]) })
}

/// Adds a tensor of two dimensions: see ggml_new_tensor.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_new_tensor_2d(
    ctx: *mut ggml_context,
    r#type: CEnum<ggml_type>,
    ne0: i64,
    ne1: i64,
) -> *mut ggml_tensor {
    // SAFETY: the caller promises NULL or a live context.
    guard(std::ptr::null_mut(), || unsafe { handle_mut(ctx)?.add_tensor(r#type, &[ne0, ne1]) })
}

/// Adds a tensor of three dimensions: see ggml_new_tensor.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_new_tensor_3d(
    ctx: *mut ggml_context,
    r#type: CEnum<ggml_type>,
    ne0: i64,
    ne1: i64,
    ne2: i64,
) -> *mut ggml_tensor {
    // SAFETY: the caller promises NULL or a live context.
    guard(std::ptr::null_mut(), || unsafe { handle_mut(ctx)?.add_tensor(r#type, &[ne0, ne1, ne2]) })
}

/// Adds a tensor of four dimensions: see ggml_new_tensor.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_new_tensor_4d(
    ctx: *mut ggml_context,
    r#type: CEnum<ggml_type>,
    ne0: i64,
    ne1: i64,
    ne2: i64,
    ne3: i64,
) -> *mut ggml_tensor {
    // SAFETY: the caller promises NULL or a live context.
    guard(std::ptr::null_mut(), || unsafe { handle_mut(ctx)?.add_tensor(r#type, &[ne0, ne1, ne2, ne3]) })
}

/// Returns a context's first tensor, or NULL.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_get_first_tensor(ctx: *const ggml_context) -> *mut ggml_tensor {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live context.
        Ok(unsafe { handle_ref(ctx) }?.tensors.first().copied().unwrap_or(std::ptr::null_mut()))
    })
}

/// Returns the tensor after another one of the context, or NULL after the last.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_get_next_tensor(ctx: *const ggml_context, tensor: *mut ggml_tensor) -> *mut ggml_tensor {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_ref(ctx) }?;
        let index = ctx.index.get(&tensor).ok_or_else(|| Error::argument("the tensor is not the context's"))?;
        Ok(ctx.tensors.get(index + 1).copied().unwrap_or(std::ptr::null_mut()))
    })
}

/// Returns the tensor with a name, or NULL.
///
/// # Safety
/// `ctx` must be NULL or a live context, `name` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_get_tensor(ctx: *mut ggml_context, name: *const c_char) -> *mut ggml_tensor {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live context, and NULL or a NUL-terminated string.
        let (ctx, name) = unsafe { (handle_ref(ctx)?, c_str(name, "name")?.to_bytes()) };
        // SAFETY: the context's tensors live as long as it does.
        let found = ctx.tensors.iter().find(|&&tensor| name_of(unsafe { &*tensor }) == name);
        Ok(found.copied().unwrap_or(std::ptr::null_mut()))
    })
}

/// Names a tensor; a name of more than 63 bytes is cut. Returns the tensor.
///
/// # Safety
/// `tensor` must be NULL or a live tensor, `name` be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_set_name(tensor: *mut ggml_tensor, name: *const c_char) -> *mut ggml_tensor {
    guard((), || {
        // SAFETY: the caller promises NULL or a live tensor, and NULL or a NUL-terminated string.
        let (tensor, name) = unsafe { (tensor.as_mut().ok_or(Error::Null("tensor"))?, c_str(name, "name")?) };
        set_name(tensor, name);
        Ok(())
    });
    tensor
}

/// Returns how many dimensions a tensor has, not counting the last ones of one element.
///
/// # Safety
/// `tensor` must be NULL or a live tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_n_dims(tensor: *const ggml_tensor) -> c_int {
    guard(1, || {
        // SAFETY: the caller promises NULL or a live tensor.
        let ne = unsafe { tensor.as_ref() }.ok_or(Error::Null("tensor"))?.ne;
        Ok(ne.iter().rposition(|&n| n > 1).map_or(1, |last| last as c_int + 1))
    })
}

/// Returns how many elements a tensor has.
///
/// # Safety
/// `tensor` must be NULL or a live tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_nelements(tensor: *const ggml_tensor) -> i64 {
    // SAFETY: the caller promises NULL or a live tensor.
    guard(0, || product(&unsafe { tensor.as_ref() }.ok_or(Error::Null("tensor"))?.ne))
}

/// Returns how many rows a tensor has.
///
/// # Safety
/// `tensor` must be NULL or a live tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_nrows(tensor: *const ggml_tensor) -> i64 {
    // SAFETY: the caller promises NULL or a live tensor.
    guard(0, || product(&unsafe { tensor.as_ref() }.ok_or(Error::Null("tensor"))?.ne[1..]))
}

/// Returns the bytes from a tensor's first element to behind its last.
///
/// # Safety
/// `tensor` must be NULL or a live tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_nbytes(tensor: *const ggml_tensor) -> usize {
    // SAFETY: the caller promises NULL or a live tensor.
    guard(0, || nbytes(unsafe { tensor.as_ref() }.ok_or(Error::Null("tensor"))?))
}

/// Returns the bytes of a tensor's element, or of a block for types that have blocks.
///
/// # Safety
/// `tensor` must be NULL or a live tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_element_size(tensor: *const ggml_tensor) -> usize {
    // SAFETY: the caller promises NULL or a live tensor.
    guard(0, || Ok(dtype(unsafe { tensor.as_ref() }.ok_or(Error::Null("tensor"))?.r#type)?.type_size()))
}

/// Returns a tensor's elements; NULL when they are not floats or the tensor has none.
///
/// # Safety
/// `tensor` must be NULL or a live tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_get_data_f32(tensor: *const ggml_tensor) -> *mut f32 {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live tensor.
        let tensor = unsafe { tensor.as_ref() }.ok_or(Error::Null("tensor"))?;
        match dtype(tensor.r#type)? {
            crate::quant::DType::F32 => Ok(tensor.data.cast()),
            other => Err(Error::argument(format!("a tensor of {other}, not of f32"))),
        }
    })
}

/// The bytes from the first element to behind the last.
pub(super) fn nbytes(tensor: &ggml_tensor) -> Result<usize> {
    let dtype = dtype(tensor.r#type)?;
    if tensor.ne.iter().any(|&n| n <= 0) {
        return Ok(0);
    }
    let ne = tensor.ne.map(|n| n as usize);
    let too_large = || Error::argument(format!("a tensor of {ne:?} elements"));
    let mut n_bytes = ne[0].div_ceil(dtype.block_size()).checked_mul(tensor.nb[0]).ok_or_else(too_large)?;
    for (n, step) in ne.iter().zip(tensor.nb).skip(1) {
        let span = (n - 1).checked_mul(step).ok_or_else(too_large)?;
        n_bytes = n_bytes.checked_add(span).ok_or_else(too_large)?;
    }
    Ok(n_bytes)
}

pub(super) fn set_name(tensor: &mut ggml_tensor, name: &CStr) {
    let bytes = name.to_bytes();
    let n = bytes.len().min(tensor.name.len() - 1);
    tensor.name.fill(0);
    for (to, &from) in tensor.name.iter_mut().zip(&bytes[..n]) {
        *to = from as c_char;
    }
}

/// A tensor's name without its NUL.
pub(super) fn name_of(tensor: &ggml_tensor) -> Vec<u8> {
    tensor.name.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect()
}

fn product(ne: &[i64]) -> Result<i64> {
    let n = ne.iter().try_fold(1i64, |n, &d| n.checked_mul(d));
    n.ok_or_else(|| Error::argument(format!("a tensor of {ne:?} elements")))
}

/// A tensor of a shape, its rows one after another, without elements.
pub(super) fn describe(ty: CEnum<ggml_type>, ne: &[i64]) -> Result<ggml_tensor> {
    let dtype = dtype(ty)?;
    let wrong = |why: &str| Error::argument(format!("a tensor of {ne:?} elements of {dtype}: {why}"));
    if ne.is_empty() || ne.iter().any(|&n| n < 0) {
        return Err(wrong("dimensions must be there and not negative"));
    }
    let mut shape = [1i64; 4];
    shape[..ne.len()].copy_from_slice(ne);
    if shape[0] % dtype.block_size() as i64 != 0 {
        return Err(wrong("rows must be whole blocks"));
    }
    let mut nb = [dtype.type_size(); 4];
    nb[1] = dtype.row_size(shape[0] as usize);
    for i in 2..4 {
        nb[i] = nb[i - 1].checked_mul(shape[i - 1] as usize).ok_or_else(|| wrong("too large"))?;
    }
    nb[3].checked_mul(shape[3] as usize).filter(|&n| n <= isize::MAX as usize).ok_or_else(|| wrong("too large"))?;
    product(&shape)?;
    Ok(ggml_tensor {
        r#type: ty,
        buffer: std::ptr::null_mut(),
        ne: shape,
        nb,
        op: CEnum::new(ggml_op::GGML_OP_NONE),
        op_params: [0; 16],
        flags: 0,
        src: [std::ptr::null_mut(); 10],
        view_src: std::ptr::null_mut(),
        view_offs: 0,
        data: std::ptr::null_mut(),
        name: [0; 64],
        extra: std::ptr::null_mut(),
        padding: [0; 8],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const F32: CEnum<ggml_type> = CEnum::from_int(0);
    const Q4_0: CEnum<ggml_type> = CEnum::from_int(2);

    fn context(mem_size: usize, no_alloc: bool) -> *mut ggml_context {
        ggml_init(ggml_init_params { mem_size, mem_buffer: std::ptr::null_mut(), no_alloc })
    }

    #[test]
    fn tensors_are_kept_in_order() {
        let ctx = context(4096, false);
        // SAFETY: the context lives to the end, names are NUL-terminated.
        unsafe {
            let a = ggml_new_tensor_2d(ctx, F32, 3, 2);
            let b = ggml_new_tensor_1d(ctx, Q4_0, 64);
            ggml_set_name(a, c"a".as_ptr());
            ggml_set_name(b, c"b".as_ptr());
            assert_eq!((ggml_nelements(a), ggml_nrows(a), ggml_nbytes(a), ggml_n_dims(a)), (6, 2, 24, 2));
            assert_eq!((ggml_nbytes(b), ggml_element_size(b)), (36, 18));
            assert_eq!(std::slice::from_raw_parts(ggml_get_data_f32(a), 6), [0.0; 6]);
            assert!(ggml_get_data_f32(b).is_null());
            assert_eq!(ggml_get_first_tensor(ctx), a);
            assert_eq!(ggml_get_next_tensor(ctx, a), b);
            assert!(ggml_get_next_tensor(ctx, b).is_null());
            assert_eq!(ggml_get_tensor(ctx, c"b".as_ptr()), b);
            assert!(ggml_get_tensor(ctx, c"c".as_ptr()).is_null());
            ggml_free(ctx);
        }
    }

    #[test]
    fn contexts_fill_up() {
        let ctx = context(2 * TENSOR_OVERHEAD, true);
        // SAFETY: the context lives to the end.
        unsafe {
            assert!(!ggml_new_tensor_1d(ctx, F32, 1 << 40).is_null());
            assert!(!ggml_new_tensor_1d(ctx, F32, 1).is_null());
            assert!(ggml_new_tensor_1d(ctx, F32, 1).is_null());
            ggml_free(ctx);
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let ctx = context(1 << 20, true);
        // SAFETY: the context lives to the end, arrays have the length given.
        unsafe {
            assert!(ggml_new_tensor_1d(ctx, F32, -1).is_null());
            assert!(ggml_new_tensor_1d(ctx, Q4_0, 31).is_null());
            assert!(ggml_new_tensor_1d(ctx, CEnum::from_int(99), 1).is_null());
            assert!(ggml_new_tensor_2d(ctx, F32, i64::MAX, i64::MAX).is_null());
            assert!(ggml_new_tensor(ctx, F32, 5, [1; 5].as_ptr()).is_null());
            assert!(ggml_new_tensor(ctx, F32, 2, std::ptr::null()).is_null());
            assert!(ggml_new_tensor_1d(std::ptr::null_mut(), F32, 1).is_null());
            ggml_free(ctx);
            ggml_free(std::ptr::null_mut());
        }
    }
}
