//! The functions of ggml.h that need no tensors: types and their sizes, number conversions, time, thread pool
//! parameters, the size of a graph.

use std::ffi::{CString, c_char, c_int};
use std::sync::LazyLock;
use std::time::Instant;

use super::*;
use crate::quant::{DType, FORMATS};
use crate::{Error, Result};

/// Returns a type's name, for example "q4_K"; NULL for a number that no type has. The string lives as long as the
/// library.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_type_name(r#type: CEnum<ggml_type>) -> *const c_char {
    static NAMES: LazyLock<Vec<(DType, CString)>> =
        LazyLock::new(|| FORMATS.iter().map(|format| (format.dtype, logging::c_text(format.name))).collect());
    guard(std::ptr::null(), || {
        let dtype = dtype(r#type)?;
        let name = NAMES.iter().find(|row| row.0 == dtype);
        Ok(name.map_or(std::ptr::null(), |row| row.1.as_ptr()))
    })
}

/// Returns the number of elements in a block of a type: 1 for plain types, 0 for a number that no type has.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_blck_size(r#type: CEnum<ggml_type>) -> i64 {
    guard(0, || Ok(dtype(r#type)?.block_size() as i64))
}

/// Returns the bytes of a block of a type, 0 for a number that no type has.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_type_size(r#type: CEnum<ggml_type>) -> usize {
    guard(0, || Ok(dtype(r#type)?.type_size()))
}

/// Returns the bytes of a row of `ne` elements of a type; 0 for a number that no type has, or a row that cuts a block.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_row_size(r#type: CEnum<ggml_type>, ne: i64) -> usize {
    guard(0, || {
        let dtype = dtype(r#type)?;
        let n = usize::try_from(ne).ok().filter(|n| n.is_multiple_of(dtype.block_size()));
        let size = n.and_then(|n| (n / dtype.block_size()).checked_mul(dtype.type_size()));
        size.ok_or_else(|| Error::argument(format!("a row of {ne} elements of {dtype}")))
    })
}

/// Whether a type stores blocks of elements that share scales.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_is_quantized(r#type: CEnum<ggml_type>) -> bool {
    guard(false, || Ok(dtype(r#type)?.is_quantized()))
}

/// Converts a half-precision number.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_fp16_to_fp32(x: ggml_fp16_t) -> f32 {
    half::f16::from_bits(x).to_f32()
}

/// Converts a bfloat16 number.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_bf16_to_fp32(x: ggml_bf16_t) -> f32 {
    f32::from_bits(u32::from(x.bits) << 16)
}

/// Starts the clock of ggml_time_ms and ggml_time_us, unless it runs already.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_time_init() {
    LazyLock::force(&START);
}

/// Returns the time in milliseconds since the clock was started.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_time_ms() -> i64 {
    i64::try_from(START.elapsed().as_millis()).unwrap_or(i64::MAX)
}

/// Returns the time in microseconds since the clock was started.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_time_us() -> i64 {
    i64::try_from(START.elapsed().as_micros()).unwrap_or(i64::MAX)
}

/// Opens a file, whose name is UTF-8, as fopen does. Returns NULL on failure.
///
/// # Safety
/// `fname` and `mode` must be NULL or NUL-terminated strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_fopen(fname: *const c_char, mode: *const c_char) -> *mut libc::FILE {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or NUL-terminated strings.
        let (name, mode) = unsafe { (c_str(fname, "fname")?, c_str(mode, "mode")?) };
        // SAFETY: both are valid C strings.
        let file = unsafe { libc::fopen(name.as_ptr(), mode.as_ptr()) };
        if file.is_null() {
            return Err(Error::io(format!("open {name:?}"), std::io::Error::last_os_error()));
        }
        Ok(file)
    })
}

/// Returns the bytes of a context that ggml's own graph of `size` nodes would take, with gradients if `grads`: programs
/// size buffers by it. Saturates for sizes that no memory has.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_graph_overhead_custom(size: usize, grads: bool) -> usize {
    const OBJECT: u128 = 32;
    const GRAPH: u128 = 96;
    // The slots of ggml's hash table are the first prime not below a power of two, which is this much above it.
    const ABOVE: [u8; 32] =
        [1, 0, 1, 3, 1, 5, 3, 3, 1, 9, 7, 5, 3, 17, 27, 3, 1, 29, 3, 21, 7, 17, 15, 9, 43, 35, 15, 29, 3, 11, 3, 11];
    let nodes = size as u128;
    let wanted = nodes * 2;
    let slots = (0..ABOVE.len()).map(|i| (1u128 << i) + u128::from(ABOVE[i])).find(|&slots| slots >= wanted.max(2));
    let slots = slots.unwrap_or(wanted | 1);
    let pointers = |n: u128| n * size_of::<usize>() as u128;
    let keys = pointers(if grads { 3 * slots } else { slots });
    let counts = (4 * slots).next_multiple_of(align_of::<usize>() as u128);
    let bits = 4 * slots.div_ceil(32);
    let bytes = GRAPH + pointers(2 * nodes) + counts + keys + bits;
    usize::try_from(OBJECT + bytes.next_multiple_of(16)).unwrap_or(usize::MAX)
}

/// Returns the parameters of a thread pool of `n_threads` threads on any CPUs.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_threadpool_params_default(n_threads: c_int) -> ggml_threadpool_params {
    ggml_threadpool_params {
        cpumask: [false; GGML_MAX_N_THREADS],
        n_threads,
        prio: CEnum::new(ggml_sched_priority::GGML_SCHED_PRIO_NORMAL),
        poll: 50,
        strict_cpu: false,
        paused: false,
    }
}

/// Fills in what ggml_threadpool_params_default returns. NULL does nothing.
///
/// # Safety
/// `p` must be NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_threadpool_params_init(p: *mut ggml_threadpool_params, n_threads: c_int) {
    guard((), || {
        if p.is_null() {
            return Err(Error::Null("p"));
        }
        // SAFETY: not NULL, and the caller promises that it is writable.
        unsafe { p.write(ggml_threadpool_params_default(n_threads)) };
        Ok(())
    });
}

/// Whether two thread pools would be the same, but for being paused at first.
///
/// # Safety
/// `p0` and `p1` must be NULL or point to initialized parameters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_threadpool_params_match(
    p0: *const ggml_threadpool_params,
    p1: *const ggml_threadpool_params,
) -> bool {
    guard(false, || {
        // SAFETY: the caller promises NULL or initialized parameters.
        let (a, b) = unsafe { (p0.as_ref().ok_or(Error::Null("p0"))?, p1.as_ref().ok_or(Error::Null("p1"))?) };
        Ok(a.n_threads == b.n_threads
            && a.prio.value() == b.prio.value()
            && a.poll == b.poll
            && a.strict_cpu == b.strict_cpu
            && a.cpumask == b.cpumask)
    })
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A moment on the clock of ggml_time_us, in milliseconds.
pub(super) fn clock_ms(at: Instant) -> f64 {
    at.saturating_duration_since(*START).as_secs_f64() * 1e3
}

/// The type with a number that a caller passed.
pub(crate) fn dtype(r#type: CEnum<ggml_type>) -> Result<DType> {
    u32::try_from(r#type.value())
        .ok()
        .and_then(DType::from_u32)
        .ok_or_else(|| Error::argument(format!("no ggml_type has the number {type:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_types_are_refused() {
        for n in [-1, 4, 5, 31, 43, i32::MAX] {
            let unknown = CEnum::from_int(n);
            assert!(ggml_type_name(unknown).is_null(), "{n}");
            assert_eq!((ggml_blck_size(unknown), ggml_type_size(unknown)), (0, 0));
        }
        let q4_k = CEnum::new(ggml_type::GGML_TYPE_Q4_K);
        // SAFETY: the name is a static string.
        assert_eq!(unsafe { std::ffi::CStr::from_ptr(ggml_type_name(q4_k)) }, c"q4_K");
        assert_eq!((ggml_blck_size(q4_k), ggml_type_size(q4_k)), (256, 144));
    }

    #[test]
    fn graphs_take_what_ggmls_take() {
        let cases = [
            (0, 160, 192),
            (1, 176, 208),
            (2, 240, 320),
            (10, 752, 1344),
            (1000, 41040, 73888),
            (2048, 82608, 148192),
            (1_000_000, 41_428_320, 74_983_024),
        ];
        for (size, plain, with_grads) in cases {
            assert_eq!(ggml_graph_overhead_custom(size, false), plain, "{size}");
            assert_eq!(ggml_graph_overhead_custom(size, true), with_grads, "{size}");
        }
        assert_eq!(ggml_graph_overhead_custom(usize::MAX, true), usize::MAX);
    }

    #[test]
    fn thread_pool_parameters_match_themselves() {
        let (a, mut b) = (ggml_threadpool_params_default(4), ggml_threadpool_params_default(4));
        // SAFETY: NULL or live parameters.
        unsafe {
            assert!(ggml_threadpool_params_match(&a, &b));
            b.cpumask[3] = true;
            assert!(!ggml_threadpool_params_match(&a, &b));
            assert!(!ggml_threadpool_params_match(&a, std::ptr::null()));
        }
    }
}
