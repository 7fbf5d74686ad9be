//! What the opaque pointers of the C interface point at, and the checks that turn raw pointers into references. Used by
//! every other file of the border.

use std::ffi::{CStr, c_char};

use crate::{Error, Result};

/// First field of every opaque object: names its type, so that debug builds notice a pointer to something else or to
/// freed memory. Release builds keep the layout and skip the check.
#[repr(C)]
pub(crate) struct Tag(u64);

impl Tag {
    /// The tag of live objects of type `T`.
    pub(crate) const fn of<T: Tagged>() -> Tag {
        Tag(hash(T::NAME))
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        // SAFETY: a plain store to our own field; volatile because nobody reads it again in the program's eyes.
        unsafe { std::ptr::write_volatile(&mut self.0, 0) };
    }
}

const fn hash(name: &str) -> u64 {
    let (bytes, mut hash, mut i) = (name.as_bytes(), 0xcbf2_9ce4_8422_2325u64, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x100_0000_01b3);
        i += 1;
    }
    hash
}

/// An object that C callers hold by pointer.
pub(crate) trait Tagged {
    /// How error messages call it: "model", "context".
    const NAME: &'static str;
    /// The object's tag.
    fn tag(&self) -> &Tag;
}

/// A shared reference to the object behind a caller's pointer.
///
/// # Safety
/// `ptr` must be NULL or point to a live `T` that nothing changes while `'a` lasts.
pub(crate) unsafe fn handle_ref<'a, T: Tagged>(ptr: *const T) -> Result<&'a T> {
    // SAFETY: the caller of handle_ref promises NULL or a live object.
    let object = unsafe { ptr.as_ref() }.ok_or(Error::Null(T::NAME))?;
    check_tag(object)?;
    Ok(object)
}

/// An exclusive reference to the object behind a caller's pointer.
///
/// # Safety
/// `ptr` must be NULL or point to a live `T` that nothing else uses while `'a` lasts.
pub(crate) unsafe fn handle_mut<'a, T: Tagged>(ptr: *mut T) -> Result<&'a mut T> {
    // SAFETY: the caller of handle_mut promises NULL or a live object that is ours alone.
    let object = unsafe { ptr.as_mut() }.ok_or(Error::Null(T::NAME))?;
    check_tag(object)?;
    Ok(object)
}

fn check_tag<T: Tagged>(object: &T) -> Result<()> {
    if cfg!(debug_assertions) && object.tag().0 != hash(T::NAME) {
        return Err(Error::argument(format!(
            "the pointer passed as {} points to something else or was freed",
            T::NAME
        )));
    }
    Ok(())
}

/// The bytes of a caller's C string.
///
/// # Safety
/// `ptr` must be NULL or point to a NUL-terminated string that lives as long as `'a`.
pub(crate) unsafe fn c_str<'a>(ptr: *const c_char, name: &'static str) -> Result<&'a CStr> {
    if ptr.is_null() {
        return Err(Error::Null(name));
    }
    // SAFETY: not NULL, and the caller promises a NUL-terminated string.
    Ok(unsafe { CStr::from_ptr(ptr) })
}

/// A caller's array of `len` elements; NULL is an empty array when `len` is 0.
///
/// # Safety
/// `ptr` must be NULL or point to `len` readable elements that live as long as `'a`.
pub(crate) unsafe fn array<'a, T>(ptr: *const T, len: usize, name: &'static str) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    if ptr.is_null() {
        return Err(Error::Null(name));
    }
    if !ptr.is_aligned() || len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Error::argument(format!("{name}: not an array of {len} elements")));
    }
    // SAFETY: not NULL, aligned, of a possible size, and the caller promises `len` readable elements.
    Ok(unsafe { std::slice::from_raw_parts(ptr, len) })
}

/// Copies `text` with a NUL into a caller's buffer of `size` bytes, cut to fit, and returns the length of the whole
/// text: what llama.h's `buf, buf_size` functions do. A NULL buffer only measures.
///
/// # Safety
/// `buf` must be NULL or point to `size` writable bytes.
pub(crate) unsafe fn out(text: &[u8], buf: *mut c_char, size: usize) -> i32 {
    if !buf.is_null() && size > 0 {
        let n = text.len().min(size - 1);
        // SAFETY: n + 1 <= size, and the caller promises `size` writable bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), buf.cast(), n);
            buf.add(n).write(0);
        }
    }
    i32::try_from(text.len()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct A(Tag);
    struct B(Tag);

    impl Tagged for A {
        const NAME: &'static str = "a";
        fn tag(&self) -> &Tag {
            &self.0
        }
    }

    impl Tagged for B {
        const NAME: &'static str = "b";
        fn tag(&self) -> &Tag {
            &self.0
        }
    }

    #[test]
    fn handles_are_checked() {
        let a = A(Tag::of::<A>());
        // SAFETY: NULL or a live object whose layout both types share.
        unsafe {
            assert!(handle_ref(&a).is_ok());
            assert!(matches!(handle_ref::<A>(std::ptr::null()), Err(Error::Null("a"))));
            assert_eq!(handle_ref((&raw const a).cast::<B>()).is_err(), cfg!(debug_assertions));
        }
    }

    #[test]
    fn text_is_cut_to_the_buffer() {
        let mut buf = [1 as c_char; 4];
        // SAFETY: the sizes are those of the buffer.
        unsafe {
            assert_eq!(out(b"hello", buf.as_mut_ptr(), 4), 5);
            assert_eq!(buf, [b'h' as c_char, b'e' as c_char, b'l' as c_char, 0]);
            assert_eq!(out(b"hello", std::ptr::null_mut(), 0), 5);
            assert_eq!(out(b"", buf.as_mut_ptr(), 4), 0);
        }
        assert_eq!(buf[0], 0);
    }
}
