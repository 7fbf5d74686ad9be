//! Types that C callers only hold pointers to, and that the library itself never looks into: they appear in the layouts
//! of public structs.

/// A compute graph.
#[repr(C)]
pub struct ggml_cgraph {
    _private: [u8; 0],
}

/// A piece of memory that a device can use.
#[repr(C)]
pub struct ggml_backend_buffer {
    _private: [u8; 0],
}

/// A stream of work on a device.
#[repr(C)]
pub struct ggml_backend {
    _private: [u8; 0],
}
