//! C++ types as libstdc++ lays them out, for the functions with C++ names.

use crate::{Error, Result};

/// `std::vector`, whose memory is operator new's, which is malloc's.
#[repr(C)]
pub(super) struct CppVector<T> {
    begin: *mut T,
    end: *mut T,
    capacity: *mut T,
}

impl<T: Copy> CppVector<T> {
    /// A vector of these items; empty if there is no memory. Nobody frees it but the C++ side, or `free`.
    pub(super) fn new(items: &[T]) -> Self {
        let none = CppVector { begin: std::ptr::null_mut(), end: std::ptr::null_mut(), capacity: std::ptr::null_mut() };
        if items.is_empty() {
            return none;
        }
        // SAFETY: malloc's memory is aligned for any type, as large as the items, and checked against NULL.
        unsafe {
            let begin: *mut T = libc::malloc(size_of_val(items)).cast();
            if begin.is_null() {
                return none;
            }
            begin.copy_from_nonoverlapping(items.as_ptr(), items.len());
            let end = begin.add(items.len());
            CppVector { begin, end, capacity: end }
        }
    }
}

impl<T> CppVector<T> {
    /// What is in it.
    ///
    /// # Safety
    /// It must be as C++ or `new` left it.
    pub(super) unsafe fn items(&self) -> &[T] {
        if self.begin == self.end {
            return &[];
        }
        // SAFETY: the caller promises a vector: its items lie between two pointers.
        unsafe { std::slice::from_raw_parts(self.begin, self.end.offset_from(self.begin) as usize) }
    }

    /// Gives its memory back; what the items own is the caller's to free before.
    ///
    /// # Safety
    /// It must be as C++ or `new` left it.
    pub(super) unsafe fn free(&mut self) {
        // SAFETY: the memory is malloc's, or NULL.
        unsafe { libc::free(self.begin.cast()) };
        let none = std::ptr::null_mut();
        *self = CppVector { begin: none, end: none, capacity: none };
    }
}

impl<T> Clone for CppVector<T> {
    fn clone(&self) -> Self {
        *self
    }
}

/// As pointers are: two copies share the memory.
impl<T> Copy for CppVector<T> {}

/// The beginning of a `std::string`; what follows is of no use to a reader.
#[repr(C)]
pub(super) struct CppString {
    data: *const u8,
    len: usize,
}

impl CppString {
    /// The bytes of a caller's string.
    ///
    /// # Safety
    /// `string` must be NULL or a std::string that lives as long as `'a`.
    pub(super) unsafe fn bytes<'a>(string: *const CppString) -> Result<&'a [u8]> {
        // SAFETY: the caller's promise; the bytes of a string lie at its pointer.
        unsafe {
            let string = string.as_ref().ok_or(Error::Null("string"))?;
            super::array(string.data, string.len, "string")
        }
    }

    #[cfg(test)]
    pub(super) fn of(bytes: &[u8]) -> CppString {
        CppString { data: bytes.as_ptr(), len: bytes.len() }
    }
}
