//! The registry of devices: ggml-backend.h. The library brings two families: the CPU, and the GPUs that wgpu finds.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::LazyLock;

use super::*;
use crate::{Error, Result};

/// A family of devices.
pub struct ggml_backend_reg {
    name: &'static CStr,
}

/// A device that models can be placed on.
pub struct ggml_backend_device {
    name: CString,
    description: CString,
    /// The number of the adapter; `None`: the CPU.
    adapter: Option<usize>,
    kind: ggml_backend_dev_type,
    /// Bytes of memory.
    memory: usize,
    buffer_type: ggml_backend_buffer_type,
}

/// A kind of memory that a device can use.
pub struct ggml_backend_buffer_type {
    name: CString,
    is_host: bool,
}

/// A piece of memory that a device can use.
pub struct ggml_backend_buffer {
    _buft: &'static ggml_backend_buffer_type,
}

static CPU_REG: ggml_backend_reg = ggml_backend_reg { name: c"CPU" };
static GPU_REG: ggml_backend_reg = ggml_backend_reg { name: c"WGPU" };

static CPU: LazyLock<ggml_backend_device> = LazyLock::new(|| ggml_backend_device {
    name: c"CPU".into(),
    description: processor(),
    adapter: None,
    kind: ggml_backend_dev_type::GGML_BACKEND_DEVICE_TYPE_CPU,
    memory: physical_memory(),
    buffer_type: ggml_backend_buffer_type { name: c"CPU".into(), is_host: true },
});

/// The adapters; looked for at the first call.
static GPUS: LazyLock<Vec<ggml_backend_device>> = LazyLock::new(gpus);

static CPU_BUFFER: LazyLock<ggml_backend_buffer> =
    LazyLock::new(|| ggml_backend_buffer { _buft: &LazyLock::force(&CPU).buffer_type });

#[cfg(feature = "gpu")]
fn gpus() -> Vec<ggml_backend_device> {
    use crate::backend::gpu::device::{AdapterKind, listed};
    let device = |(i, a): (usize, &crate::backend::gpu::device::Adapter)| ggml_backend_device {
        name: logging::c_text(&a.name),
        description: logging::c_text(&a.description),
        adapter: Some(i),
        kind: match a.kind {
            AdapterKind::Discrete => ggml_backend_dev_type::GGML_BACKEND_DEVICE_TYPE_GPU,
            AdapterKind::Integrated => ggml_backend_dev_type::GGML_BACKEND_DEVICE_TYPE_IGPU,
            AdapterKind::Software => ggml_backend_dev_type::GGML_BACKEND_DEVICE_TYPE_CPU,
        },
        memory: usize::try_from(a.memory).unwrap_or(usize::MAX),
        buffer_type: ggml_backend_buffer_type { name: logging::c_text(&a.name), is_host: false },
    };
    listed().iter().enumerate().map(device).collect()
}

#[cfg(not(feature = "gpu"))]
fn gpus() -> Vec<ggml_backend_device> {
    Vec::new()
}

/// All devices, the CPU first.
fn devices() -> impl Iterator<Item = &'static ggml_backend_device> {
    std::iter::once(LazyLock::force(&CPU)).chain(LazyLock::force(&GPUS))
}

fn handle(device: &'static ggml_backend_device) -> ggml_backend_dev_t {
    std::ptr::from_ref(device).cast_mut()
}

fn first(wanted: impl FnMut(&&'static ggml_backend_device) -> bool) -> ggml_backend_dev_t {
    devices().find(wanted).map_or(std::ptr::null_mut(), handle)
}

/// The adapter of a device; `None`: it is the CPU.
pub(super) fn adapter_of(device: ggml_backend_dev_t) -> Result<Option<usize>> {
    Ok(checked_device(device)?.adapter)
}

/// The device of an adapter, or NULL.
pub(super) fn device_of_adapter(adapter: usize) -> ggml_backend_dev_t {
    first(|d| d.adapter == Some(adapter))
}

/// The memory of an adapter, or of the CPU.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) fn buffer_type_of(adapter: Option<usize>) -> ggml_backend_buffer_type_t {
    let device = devices().find(|d| d.adapter == adapter).unwrap_or_else(|| LazyLock::force(&CPU));
    std::ptr::from_ref(&device.buffer_type).cast_mut()
}

/// What the `buffer` of every tensor of this library points at: all its memory is of one kind.
pub(super) fn cpu_buffer() -> ggml_backend_buffer_t {
    std::ptr::from_ref(LazyLock::force(&CPU_BUFFER)).cast_mut()
}

/// Finds the devices. They are all part of the library, and found without this call.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_load_all() {}

/// Finds the devices. They are all part of the library, which opens no other from `dir_path`.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_load_all_from_path(_dir_path: *const c_char) {}

/// Returns how many families of devices there are.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_reg_count() -> usize {
    guard(0, || Ok(1 + usize::from(!GPUS.is_empty())))
}

/// Returns a family of devices, or NULL when `index` is too large.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_reg_get(index: usize) -> ggml_backend_reg_t {
    guard(std::ptr::null_mut(), || {
        Ok(match index {
            0 => (&raw const CPU_REG).cast_mut(),
            1 if !GPUS.is_empty() => (&raw const GPU_REG).cast_mut(),
            _ => std::ptr::null_mut(),
        })
    })
}

/// Returns the family of devices with a name, in any case of letters, or NULL.
///
/// # Safety
/// `name` must be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_backend_reg_by_name(name: *const c_char) -> ggml_backend_reg_t {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a NUL-terminated string.
        let name = unsafe { c_str(name, "name") }?;
        let found = [&CPU_REG, &GPU_REG].iter().position(|reg| same(name, reg.name));
        Ok(found.map_or(std::ptr::null_mut(), |i| ggml_backend_reg_get(i)))
    })
}

/// Would add a family of devices of another library. There is no way to compute with them here: the reason is logged, and
/// the families stay those that there are.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_register(reg: ggml_backend_reg_t) {
    guard((), || match checked_reg(reg) {
        Ok(_) => Ok(()),
        Err(Error::Null(name)) => Err(Error::Null(name)),
        Err(_) => Err(Error::Unsupported("devices of other libraries".into())),
    });
}

/// Returns a family's name. The string lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_reg_name(reg: ggml_backend_reg_t) -> *const c_char {
    guard(std::ptr::null(), || Ok(checked_reg(reg)?.name.as_ptr()))
}

/// Returns how many devices a family has.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_reg_dev_count(reg: ggml_backend_reg_t) -> usize {
    guard(0, || Ok(if std::ptr::eq(checked_reg(reg)?, &CPU_REG) { 1 } else { GPUS.len() }))
}

/// Returns a function that only some families have, by name, or NULL. The CPU has "ggml_threadpool_new",
/// "ggml_threadpool_free" and "ggml_backend_get_features".
///
/// # Safety
/// `name` must be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_backend_reg_get_proc_address(
    reg: ggml_backend_reg_t,
    name: *const c_char,
) -> *mut c_void {
    guard(std::ptr::null_mut(), || {
        if !std::ptr::eq(checked_reg(reg)?, &CPU_REG) {
            return Ok(std::ptr::null_mut());
        }
        // SAFETY: the caller promises NULL or a NUL-terminated string.
        Ok(match unsafe { c_str(name, "name") }?.to_bytes() {
            b"ggml_threadpool_new" => threadpool::ggml_threadpool_new as *mut c_void,
            b"ggml_threadpool_free" => threadpool::ggml_threadpool_free as *mut c_void,
            b"ggml_backend_get_features" => ggml_backend_get_features as *mut c_void,
            _ => std::ptr::null_mut(),
        })
    })
}

/// Returns how many devices there are.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_dev_count() -> usize {
    guard(1, || Ok(devices().count()))
}

/// Returns a device, or NULL when `index` is too large.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_dev_get(index: usize) -> ggml_backend_dev_t {
    guard(std::ptr::null_mut(), || Ok(devices().nth(index).map_or(std::ptr::null_mut(), handle)))
}

/// Returns the device with a name, in any case of letters, or NULL.
///
/// # Safety
/// `name` must be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_backend_dev_by_name(name: *const c_char) -> ggml_backend_dev_t {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a NUL-terminated string.
        let name = unsafe { c_str(name, "name") }?;
        Ok(first(|d| same(name, &d.name)))
    })
}

/// Returns the first device of a type, or NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_dev_by_type(r#type: CEnum<ggml_backend_dev_type>) -> ggml_backend_dev_t {
    guard(std::ptr::null_mut(), || Ok(first(|d| d.kind as c_int == r#type.value())))
}

/// Returns a device's name. The string lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_dev_name(device: ggml_backend_dev_t) -> *const c_char {
    guard(std::ptr::null(), || Ok(checked_device(device)?.name.as_ptr()))
}

/// Returns a device's description for people: the processor's model. The string lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_dev_description(device: ggml_backend_dev_t) -> *const c_char {
    guard(std::ptr::null(), || Ok(checked_device(device)?.description.as_ptr()))
}

/// Tells a device's free and total memory in bytes. All memory of the machine counts as free. Either pointer may be NULL.
///
/// # Safety
/// `free` and `total` must be NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_backend_dev_memory(device: ggml_backend_dev_t, free: *mut usize, total: *mut usize) {
    guard((), || {
        let memory = checked_device(device)?.memory;
        for out in [free, total] {
            if !out.is_null() {
                // SAFETY: not NULL, and the caller promises that it is writable.
                unsafe { out.write(memory) };
            }
        }
        Ok(())
    });
}

/// Returns what a device is.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_dev_type(device: ggml_backend_dev_t) -> CEnum<ggml_backend_dev_type> {
    let cpu = CEnum::new(ggml_backend_dev_type::GGML_BACKEND_DEVICE_TYPE_CPU);
    guard(cpu, || Ok(CEnum::new(checked_device(device)?.kind)))
}

/// Tells all that is known of a device.
///
/// # Safety
/// `props` must be NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_backend_dev_get_props(device: ggml_backend_dev_t, props: *mut ggml_backend_dev_props) {
    guard((), || {
        let device = checked_device(device)?;
        if props.is_null() {
            return Err(Error::Null("props"));
        }
        let caps = ggml_backend_dev_caps {
            r#async: false,
            host_buffer: false,
            buffer_from_host_ptr: device.adapter.is_none(),
            events: false,
            mmap_support: true,
        };
        let found = ggml_backend_dev_props {
            name: device.name.as_ptr(),
            description: device.description.as_ptr(),
            memory_free: device.memory,
            memory_total: device.memory,
            r#type: CEnum::new(device.kind),
            device_id: std::ptr::null(),
            caps,
        };
        // SAFETY: not NULL, and the caller promises that it is writable.
        unsafe { props.write(found) };
        Ok(())
    });
}

/// Returns the family that a device belongs to.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_dev_backend_reg(device: ggml_backend_dev_t) -> ggml_backend_reg_t {
    guard(std::ptr::null_mut(), || Ok(ggml_backend_reg_get(usize::from(checked_device(device)?.adapter.is_some()))))
}

/// Returns the memory that a device prefers.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_dev_buffer_type(device: ggml_backend_dev_t) -> ggml_backend_buffer_type_t {
    guard(std::ptr::null_mut(), || Ok(std::ptr::from_ref(&checked_device(device)?.buffer_type).cast_mut()))
}

/// Returns the machine's main memory.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_cpu_buffer_type() -> ggml_backend_buffer_type_t {
    std::ptr::from_ref(&LazyLock::force(&CPU).buffer_type).cast_mut()
}

/// Returns the name of a kind of memory. The string lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_buft_name(buft: ggml_backend_buffer_type_t) -> *const c_char {
    guard(std::ptr::null(), || Ok(checked_buffer_type(buft)?.buffer_type.name.as_ptr()))
}

/// Whether the program can read a kind of memory directly.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_buft_is_host(buft: ggml_backend_buffer_type_t) -> bool {
    guard(false, || Ok(checked_buffer_type(buft)?.buffer_type.is_host))
}

/// Whether the program can read a piece of memory directly.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_buffer_is_host(buffer: ggml_backend_buffer_t) -> bool {
    guard(false, || checked(buffer, LazyLock::force(&CPU_BUFFER), "buffer").map(|_| true))
}

/// Returns the device that a kind of memory belongs to.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_buft_get_device(buft: ggml_backend_buffer_type_t) -> ggml_backend_dev_t {
    guard(std::ptr::null_mut(), || Ok(handle(checked_buffer_type(buft)?)))
}

/// Copies `size` bytes of a tensor's elements, from byte `offset` on, to `data`. Does nothing when the tensor is smaller.
///
/// # Safety
/// `tensor` must be NULL or a live tensor, `data` point to `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_backend_tensor_get(
    tensor: *const ggml_tensor,
    data: *mut c_void,
    offset: usize,
    size: usize,
) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live tensor.
        let tensor = unsafe { tensor.as_ref() }.ok_or(Error::Null("tensor"))?;
        let n_bytes = tensor::nbytes(tensor)?;
        if offset.checked_add(size).is_none_or(|end| end > n_bytes) {
            return Err(Error::argument(format!("bytes {offset} + {size} of a tensor of {n_bytes} bytes")));
        }
        if tensor.data.is_null() || data.is_null() {
            return Err(Error::Null("data"));
        }
        // SAFETY: the range lies inside the tensor's elements, and the caller promises `size` writable bytes.
        unsafe { std::ptr::copy_nonoverlapping(tensor.data.cast::<u8>().add(offset), data.cast(), size) };
        Ok(())
    });
}

/// Copies `size` bytes from `data` to a tensor's elements, from byte `offset` on. Does nothing when the tensor is smaller.
///
/// # Safety
/// `tensor` must be NULL or a live tensor whose elements nothing else uses, `data` point to `size` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_backend_tensor_set(
    tensor: *mut ggml_tensor,
    data: *const c_void,
    offset: usize,
    size: usize,
) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live tensor.
        let tensor = unsafe { tensor.as_ref() }.ok_or(Error::Null("tensor"))?;
        let n_bytes = tensor::nbytes(tensor)?;
        if offset.checked_add(size).is_none_or(|end| end > n_bytes) {
            return Err(Error::argument(format!("bytes {offset} + {size} of a tensor of {n_bytes} bytes")));
        }
        if tensor.data.is_null() || data.is_null() {
            return Err(Error::Null("data"));
        }
        // SAFETY: the range lies inside the tensor's elements, and the caller promises `size` readable bytes.
        unsafe { std::ptr::copy_nonoverlapping(data.cast::<u8>(), tensor.data.cast::<u8>().add(offset), size) };
        Ok(())
    });
}

/// What the processor can do of what the kernels use.
pub(crate) fn feature_names() -> &'static [&'static CStr] {
    static NAMES: LazyLock<Vec<&'static CStr>> = LazyLock::new(detect);
    &NAMES
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Vec<&'static CStr> {
    let known = [
        (c"SSE3", is_x86_feature_detected!("sse3")),
        (c"SSSE3", is_x86_feature_detected!("ssse3")),
        (c"AVX", is_x86_feature_detected!("avx")),
        (c"AVX_VNNI", is_x86_feature_detected!("avxvnni")),
        (c"AVX2", is_x86_feature_detected!("avx2")),
        (c"F16C", is_x86_feature_detected!("f16c")),
        (c"FMA", is_x86_feature_detected!("fma")),
        (c"BMI2", is_x86_feature_detected!("bmi2")),
        (c"AVX512", is_x86_feature_detected!("avx512f")),
        (c"AVX512_VBMI", is_x86_feature_detected!("avx512vbmi")),
        (c"AVX512_VNNI", is_x86_feature_detected!("avx512vnni")),
        (c"AVX512_BF16", is_x86_feature_detected!("avx512bf16")),
    ];
    known.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

#[cfg(target_arch = "aarch64")]
fn detect() -> Vec<&'static CStr> {
    use std::arch::is_aarch64_feature_detected as has;
    let known = [(c"NEON", has!("neon")), (c"DOTPROD", has!("dotprod")), (c"MATMUL_INT8", has!("i8mm"))];
    known.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> Vec<&'static CStr> {
    Vec::new()
}

/// Answers "ggml_backend_get_features": a list that ends with a NULL name and lives as long as the library.
extern "C" fn ggml_backend_get_features(_reg: ggml_backend_reg_t) -> *mut ggml_backend_feature {
    struct List(Vec<ggml_backend_feature>);
    // SAFETY: the list points to static strings and is never changed.
    unsafe impl Send for List {}
    // SAFETY: as above.
    unsafe impl Sync for List {}
    static LIST: LazyLock<List> = LazyLock::new(|| {
        let feature = |name: &&'static CStr| ggml_backend_feature { name: name.as_ptr(), value: c"1".as_ptr() };
        let end = ggml_backend_feature { name: std::ptr::null(), value: std::ptr::null() };
        List(feature_names().iter().map(feature).chain([end]).collect())
    });
    LIST.0.as_ptr().cast_mut()
}

fn checked_reg(reg: ggml_backend_reg_t) -> Result<&'static ggml_backend_reg> {
    checked(reg, &GPU_REG, "reg").or_else(|_| checked(reg, &CPU_REG, "reg"))
}

fn checked_device(device: ggml_backend_dev_t) -> Result<&'static ggml_backend_device> {
    if device.is_null() {
        return Err(Error::Null("device"));
    }
    let foreign = || Error::argument("device is not one of this library's");
    devices().find(|d| std::ptr::eq(*d, device)).ok_or_else(foreign)
}

/// The device that a kind of memory belongs to.
fn checked_buffer_type(buft: ggml_backend_buffer_type_t) -> Result<&'static ggml_backend_device> {
    if buft.is_null() {
        return Err(Error::Null("buft"));
    }
    let foreign = || Error::argument("buft is not one of this library's");
    devices().find(|d| std::ptr::eq(&d.buffer_type, buft)).ok_or_else(foreign)
}

/// The object behind a pointer that must be the one there is.
fn checked<T>(ptr: *mut T, only: &'static T, name: &'static str) -> Result<&'static T> {
    if ptr.is_null() {
        return Err(Error::Null(name));
    }
    if !std::ptr::eq(ptr, only) {
        return Err(Error::argument(format!("{name} is not one of this library's")));
    }
    Ok(only)
}

fn same(a: &CStr, b: &CStr) -> bool {
    a.to_bytes().eq_ignore_ascii_case(b.to_bytes())
}

/// The processor's model.
fn processor() -> CString {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    logging::c_text(model.map_or("CPU", |(_, model)| model.trim()))
}

fn physical_memory() -> usize {
    // SAFETY: sysconf has no preconditions.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    usize::try_from(pages).unwrap_or(0).saturating_mul(usize::try_from(size).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_comes_first() {
        let dev = ggml_backend_dev_by_type(CEnum::from_int(0));
        assert!(!dev.is_null() && dev == ggml_backend_dev_get(0));
        let n = ggml_backend_dev_count();
        assert!(n == 1 + GPUS.len() && ggml_backend_dev_get(n).is_null() && !ggml_backend_dev_get(n - 1).is_null());
        // SAFETY: the strings are NUL-terminated, the outputs writable.
        unsafe {
            assert_eq!(ggml_backend_dev_by_name(c"cpu".as_ptr()), dev);
            assert!(ggml_backend_dev_by_name(c"GPU".as_ptr()).is_null());
            assert_eq!(CStr::from_ptr(ggml_backend_dev_name(dev)), c"CPU");
            let (mut free, mut total) = (0, 0);
            ggml_backend_dev_memory(dev, &mut free, &mut total);
            assert!(free > 0 && total >= free);
            let reg = ggml_backend_dev_backend_reg(dev);
            assert!(!ggml_backend_reg_get_proc_address(reg, c"ggml_threadpool_new".as_ptr()).is_null());
            assert!(ggml_backend_reg_get_proc_address(reg, c"ggml_other".as_ptr()).is_null());
        }
    }

    #[test]
    fn foreign_pointers_are_refused() {
        assert!(ggml_backend_dev_name(std::ptr::null_mut()).is_null());
        assert!(ggml_backend_reg_name(std::ptr::dangling_mut::<ggml_backend_reg>()).is_null());
        assert!(!ggml_backend_buft_is_host(std::ptr::null_mut()));
        assert!(!ggml_backend_buffer_is_host(std::ptr::null_mut()) && ggml_backend_buffer_is_host(cpu_buffer()));
        ggml_backend_register(std::ptr::dangling_mut());
        assert!(ggml_backend_reg_get(ggml_backend_reg_count()).is_null());
    }
}
