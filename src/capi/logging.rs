//! The log bridge: the `log` crate's records go to the callback that `llama_log_set` installed, or to stderr.

use std::ffi::{CStr, CString, c_char, c_void};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use super::types::{CEnum, ggml_log_callback, ggml_log_level};

/// Where messages go.
#[derive(Clone, Copy)]
struct Sink {
    callback: unsafe extern "C" fn(CEnum<ggml_log_level>, *const c_char, *mut c_void),
    user_data: *mut c_void,
}

// SAFETY: the pointer is only handed back to the caller's own callback; llama.h makes the caller answer for its use from
// several threads.
unsafe impl Send for Sink {}

const STDERR: Sink = Sink { callback: log_to_stderr, user_data: std::ptr::null_mut() };

static SINK: Mutex<Sink> = Mutex::new(STDERR);

/// Sets where the library's messages go.
///
/// `log_callback` is called with the level, one message in UTF-8 that ends in a newline, and `user_data`; possibly from
/// several threads at once, and until it is replaced. NULL restores the default: messages of level INFO and above go to
/// stderr.
///
/// # Safety
/// `log_callback` must be callable from any thread and `user_data` stay valid until another callback is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_log_set(log_callback: ggml_log_callback, user_data: *mut c_void) {
    super::guard((), || {
        let sink = log_callback.map_or(STDERR, |callback| Sink { callback, user_data });
        *SINK.lock().unwrap_or_else(PoisonError::into_inner) = sink;
        Ok(())
    });
}

/// Tells which callback and user data [`llama_log_set`] set last, or the default ones. Either pointer may be NULL.
///
/// # Safety
/// `log_callback` and `user_data` must be NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_log_get(log_callback: *mut ggml_log_callback, user_data: *mut *mut c_void) {
    super::guard((), || {
        let sink = current();
        // SAFETY: the caller promises that both are NULL or writable.
        unsafe {
            if !log_callback.is_null() {
                log_callback.write(Some(sink.callback));
            }
            if !user_data.is_null() {
                user_data.write(sink.user_data);
            }
        }
        Ok(())
    });
}

/// Makes the bridge the process's logger. In a Rust program that has a logger of its own, that one stays.
pub(super) fn install() {
    if log::set_logger(&Bridge).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
}

/// A C string of `text`; a NUL inside becomes a space.
pub(super) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).expect("NULs were just replaced")
}

fn current() -> Sink {
    // A copy: the callback may call llama_log_set itself.
    *SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Bridge;

impl log::Log for Bridge {
    /// Other crates' chatter is of no interest to llama.h's users, their warnings are.
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.target().starts_with("infer") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            log::Level::Error => ggml_log_level::GGML_LOG_LEVEL_ERROR,
            log::Level::Warn => ggml_log_level::GGML_LOG_LEVEL_WARN,
            log::Level::Info => ggml_log_level::GGML_LOG_LEVEL_INFO,
            log::Level::Debug | log::Level::Trace => ggml_log_level::GGML_LOG_LEVEL_DEBUG,
        };
        let text = c_text(&format!("{}\n", record.args()));
        let sink = current();
        // SAFETY: llama_log_set's caller promised a callable function; the text outlives the call.
        unsafe { (sink.callback)(CEnum::new(level), text.as_ptr(), sink.user_data) };
    }

    fn flush(&self) {}
}

/// The default callback. Also handed out by `llama_log_get`, so that a caller can chain to it.
unsafe extern "C" fn log_to_stderr(level: CEnum<ggml_log_level>, text: *const c_char, _user_data: *mut c_void) {
    if text.is_null() || level.value() == ggml_log_level::GGML_LOG_LEVEL_DEBUG as i32 {
        return;
    }
    // SAFETY: not NULL, and a log callback is given NUL-terminated text.
    let text = unsafe { CStr::from_ptr(text) };
    // Nobody is left to tell when stderr is gone.
    let _ = std::io::stderr().write_all(text.to_bytes());
}
