//! Types that C callers only hold pointers to, and that the library itself never looks into: they appear in the layouts
//! of public structs.

/// A training under way.
pub struct ggml_opt_context {
    _private: (),
}

/// A stream of work on a device.
pub struct ggml_backend {
    _private: (),
}
