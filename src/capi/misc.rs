//! What concerns the library as a whole: start and end, time, version, limits, what this machine supports.

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use super::*;
use crate::Result;

/// The version of llama.cpp whose interface the headers declare.
const LLAMA_VERSION: &std::ffi::CStr = c"0.5.0";

/// Prepares the library. Call it once before all else; further calls do no harm.
#[unsafe(no_mangle)]
pub extern "C" fn llama_backend_init() {
    guard((), || {
        ggml_time_init();
        Ok(())
    });
}

/// Ends the use of the library. Objects that were not freed stay usable.
#[unsafe(no_mangle)]
pub extern "C" fn llama_backend_free() {
    guard((), || Ok(()));
}

/// Asks for memory to be spread over NUMA nodes. The system's own placement is used whatever is asked for; a strategy
/// other than DISABLED is answered with a message in the log.
#[unsafe(no_mangle)]
pub extern "C" fn llama_numa_init(numa: CEnum<ggml_numa_strategy>) {
    guard((), || {
        if numa.value() != ggml_numa_strategy::GGML_NUMA_STRATEGY_DISABLED as i32 {
            ::log::info!("NUMA strategy {numa:?}: memory stays where the system places it");
        }
        Ok(())
    });
}

/// Returns the version of llama.cpp whose interface this is. The string lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn llama_version() -> *const c_char {
    LLAMA_VERSION.as_ptr()
}

/// Returns the time in microseconds since the clock was started, which llama_backend_init does.
#[unsafe(no_mangle)]
pub extern "C" fn llama_time_us() -> i64 {
    ggml_time_us()
}

/// Returns how many devices a model can be spread over: the length of llama_model_params.tensor_split.
#[unsafe(no_mangle)]
pub extern "C" fn llama_max_devices() -> usize {
    16
}

/// Returns the most sequences that a context can have.
#[unsafe(no_mangle)]
pub extern "C" fn llama_max_parallel_sequences() -> usize {
    256
}

/// Returns the most elements that llama_model_params.tensor_buft_overrides may have, its end included.
#[unsafe(no_mangle)]
pub extern "C" fn llama_max_tensor_buft_overrides() -> usize {
    4096
}

/// Whether weights can stay in the mapped file.
#[unsafe(no_mangle)]
pub extern "C" fn llama_supports_mmap() -> bool {
    true
}

/// Whether weights can be locked into memory.
#[unsafe(no_mangle)]
pub extern "C" fn llama_supports_mlock() -> bool {
    cfg!(unix)
}

/// Whether there is a GPU to place layers on.
#[unsafe(no_mangle)]
pub extern "C" fn llama_supports_gpu_offload() -> bool {
    use ggml_backend_dev_type::{GGML_BACKEND_DEVICE_TYPE_GPU, GGML_BACKEND_DEVICE_TYPE_IGPU};
    let has = |kind: ggml_backend_dev_type| !ggml_backend_dev_by_type(CEnum::new(kind)).is_null();
    has(GGML_BACKEND_DEVICE_TYPE_GPU) || has(GGML_BACKEND_DEVICE_TYPE_IGPU)
}

/// Whether layers can be placed on other machines.
#[unsafe(no_mangle)]
pub extern "C" fn llama_supports_rpc() -> bool {
    false
}

/// Returns one line that lists each kind of device and what it can do, for people to read. The string lives as long as
/// the library.
#[unsafe(no_mangle)]
pub extern "C" fn llama_print_system_info() -> *const c_char {
    static INFO: OnceLock<CString> = OnceLock::new();
    guard(c"".as_ptr(), || Ok(INFO.get_or_init(system_info).as_ptr()))
}

fn system_info() -> CString {
    let features = device::feature_names().iter().map(|name| format!("{} = 1 | ", name.to_string_lossy()));
    super::logging::c_text(&format!("CPU : {}", features.collect::<String>()))
}

/// A count that a caller passed as int.
pub(crate) fn non_negative(value: i32, name: &'static str) -> Result<usize> {
    usize::try_from(value).map_err(|_| crate::Error::argument(format!("{name} is {value}")))
}
