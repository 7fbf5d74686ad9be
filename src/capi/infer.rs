//! What llama.h lacks: infer.h.

use std::ffi::c_char;

/// Returns a description of the last failure on the calling thread, in UTF-8; an empty string when no call has failed yet.
///
/// The text belongs to the library and stays valid until the next call into the library that fails on this thread, or
/// until the thread ends. Successful calls leave it as it is. Other threads have texts of their own.
#[unsafe(no_mangle)]
pub extern "C" fn infer_last_error() -> *const c_char {
    super::error::last_error()
}

/// Returns this library's own version, for example "0.1.0". The string lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn infer_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
