//! The public types of ggml-backend.h: the registry of devices.

use std::ffi::{c_char, c_void};

use super::*;

/// A kind of memory that a device can use.
pub type ggml_backend_buffer_type_t = *mut ggml_backend_buffer_type;
/// A piece of memory that a device can use.
pub type ggml_backend_buffer_t = *mut ggml_backend_buffer;
/// A stream of work on a device.
pub type ggml_backend_t = *mut ggml_backend;
/// A family of devices.
pub type ggml_backend_reg_t = *mut ggml_backend_reg;
/// A device that models can be placed on.
pub type ggml_backend_dev_t = *mut ggml_backend_device;
/// Is asked whether it wants a node's result (`ask`), then given it; returns false to stop the computation.
pub type ggml_backend_sched_eval_callback =
    Option<unsafe extern "C" fn(t: *mut ggml_tensor, ask: bool, user_data: *mut c_void) -> bool>;

/// What a device is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ggml_backend_dev_type {
    GGML_BACKEND_DEVICE_TYPE_CPU = 0,
    GGML_BACKEND_DEVICE_TYPE_GPU = 1,
    GGML_BACKEND_DEVICE_TYPE_IGPU = 2,
    GGML_BACKEND_DEVICE_TYPE_ACCEL = 3,
    GGML_BACKEND_DEVICE_TYPE_META = 4,
}

/// What a device can do.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ggml_backend_dev_caps {
    /// Works asynchronously.
    pub r#async: bool,
    /// Has page-locked host memory.
    pub host_buffer: bool,
    /// Can use the caller's memory.
    pub buffer_from_host_ptr: bool,
    /// Has events.
    pub events: bool,
    /// Can use weights in a mapped file.
    pub mmap_support: bool,
}

/// What is known of a device.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ggml_backend_dev_props {
    /// Name.
    pub name: *const c_char,
    /// Description for people.
    pub description: *const c_char,
    /// Free memory in bytes.
    pub memory_free: usize,
    /// All memory in bytes.
    pub memory_total: usize,
    /// What it is.
    pub r#type: CEnum<ggml_backend_dev_type>,
    /// Bus address, or NULL.
    pub device_id: *const c_char,
    /// What it can do.
    pub caps: ggml_backend_dev_caps,
}

/// A property of a backend, by name.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ggml_backend_feature {
    /// Name.
    pub name: *const c_char,
    /// Value.
    pub value: *const c_char,
}
