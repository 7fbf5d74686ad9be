//! The public structs, enums and callbacks of the C headers, one file per header. Field order, sizes and values are
//! those of the pinned interface; tests/abi.rs checks them. Used by every file of the border.

#![allow(dead_code)] // constants and members that only the headers need

use std::ffi::c_int;
use std::marker::PhantomData;

mod backend;
mod cpu;
mod ggml;
mod gguf;
mod llama;
mod opaque;
mod opt;
mod quantize;
mod train;

pub use backend::*;
pub use cpu::*;
pub use ggml::*;
pub use gguf::*;
pub use llama::*;
pub use opaque::*;
pub use opt::*;
pub use quantize::*;
pub use train::*;

use super::*;

/// A C enum as it crosses the border: an int, because a caller may pass any. The headers show it as `enum E`.
#[repr(transparent)]
pub struct CEnum<E> {
    value: c_int,
    kind: PhantomData<E>,
}

impl<E> CEnum<E> {
    /// The C value of one of our own constants.
    pub fn new(constant: E) -> Self {
        const { assert!(size_of::<E>() == size_of::<c_int>(), "C enums are ints") };
        // SAFETY: E is one of the field-less repr(C) enums of this module, whose size was just checked.
        Self::from_int(unsafe { std::mem::transmute_copy::<E, c_int>(&constant) })
    }

    /// Any value.
    pub const fn from_int(value: c_int) -> Self {
        CEnum { value, kind: PhantomData }
    }

    /// What the caller passed, whether or not it names a constant.
    pub const fn value(self) -> c_int {
        self.value
    }
}

impl<E> Clone for CEnum<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for CEnum<E> {}

impl<E> std::fmt::Debug for CEnum<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.value)
    }
}
