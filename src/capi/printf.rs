//! Functions that take a format and arguments as printf does: `ggml_abort` and `ggml_format_name`.
//!
//! They read the first variable arguments as if they were fixed, which is what the calling conventions of x86-64 and
//! AArch64 Linux allow for integers and pointers. cbindgen cannot write their true declarations, which stand in the
//! preamble of ggml.h.

use std::ffi::{CStr, CString, c_char, c_int};

use super::*;
use crate::Error;

/// Prints a message with its place to stderr and aborts the process: what the caller's failed assertions call. Nothing in
/// the library calls it. `fmt` is printf's; up to three arguments are formatted when all are integers or strings, else it
/// is printed as it is.
///
/// cbindgen:ignore
///
/// # Safety
/// `file` and `fmt` must be NULL or NUL-terminated strings, and the arguments be those that `fmt` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_abort(
    file: *const c_char,
    line: c_int,
    fmt: *const c_char,
    arg1: usize,
    arg2: usize,
    arg3: usize,
) -> ! {
    // SAFETY: the caller promises NULL or NUL-terminated strings, and the arguments that `fmt` asks for.
    let (file, message) = unsafe {
        let file = if file.is_null() { c"" } else { CStr::from_ptr(file) };
        let fmt = if fmt.is_null() { c"" } else { CStr::from_ptr(fmt) };
        (file, format(fmt, [arg1, arg2, arg3]))
    };
    eprintln!("{}:{line}: {}", file.to_string_lossy(), message.to_string_lossy());
    std::process::abort()
}

/// Names a tensor; a name of more than 63 bytes is cut. `fmt` is printf's; up to four arguments are formatted when all are
/// integers or strings, else it becomes the name as it is. Returns the tensor.
///
/// cbindgen:ignore
///
/// # Safety
/// `tensor` must be NULL or a live tensor, `fmt` be NULL or a NUL-terminated string, and the arguments be those that it asks
/// for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_format_name(
    tensor: *mut ggml_tensor,
    fmt: *const c_char,
    arg1: usize,
    arg2: usize,
    arg3: usize,
    arg4: usize,
) -> *mut ggml_tensor {
    guard((), || {
        // SAFETY: the caller promises NULL or a live tensor, and NULL or a NUL-terminated string.
        let (tensor, fmt) = unsafe { (tensor.as_mut().ok_or(Error::Null("tensor"))?, c_str(fmt, "fmt")?) };
        // SAFETY: the caller promises the arguments that `fmt` asks for.
        let name = unsafe { format(fmt, [arg1, arg2, arg3, arg4]) };
        tensor::set_name(tensor, &name);
        Ok(())
    });
    tensor
}

/// What printf makes of a format, cut to 1023 bytes; the format itself if it asks for anything but at most `N` words.
///
/// # Safety
/// The arguments must be those that `fmt` asks for.
unsafe fn format<const N: usize>(fmt: &CStr, args: [usize; N]) -> CString {
    if takes_words(fmt.to_bytes()).is_none_or(|n| n > N) {
        return fmt.to_owned();
    }
    let mut text = [0 as c_char; 1024];
    let word = |i: usize| args.get(i).copied().unwrap_or(0);
    // SAFETY: the format asks for words only, of which there are enough, and the caller promises that strings among them
    // are strings; snprintf stays within the buffer and ends it with a NUL.
    unsafe {
        libc::snprintf(text.as_mut_ptr(), text.len(), fmt.as_ptr(), word(0), word(1), word(2), word(3));
        CStr::from_ptr(text.as_ptr()).to_owned()
    }
}

/// How many arguments printf, given `fmt`, reads, if all of them are integers or pointers.
fn takes_words(fmt: &[u8]) -> Option<usize> {
    let mut n_args = 0;
    let mut rest = fmt;
    while let Some(at) = rest.iter().position(|&c| c == b'%') {
        rest = &rest[at + 1..];
        let flags = rest.iter().take_while(|c| b"-+ #0123456789.hlzjt".contains(c)).count();
        match rest.get(flags) {
            Some(b'%') => {}
            Some(b'd' | b'i' | b'u' | b'x' | b'X' | b'o' | b'c' | b's' | b'p') => n_args += 1,
            _ => return None,
        }
        rest = &rest[flags + 1..];
    }
    Some(n_args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_words_are_told_from_others() {
        assert_eq!(takes_words(b"GGML_ASSERT(%s) failed"), Some(1));
        assert_eq!(takes_words(b"100%% of %zu and %-5d"), Some(2));
        assert_eq!(takes_words(b"%d %d %d %d"), Some(4));
        for fmt in ["%f", "%*d", "%"] {
            assert_eq!(takes_words(fmt.as_bytes()), None);
        }
    }

    #[test]
    fn names_are_formatted_and_cut() {
        let mut t = tensor::describe(CEnum::new(ggml_type::GGML_TYPE_F32), &[1]).unwrap();
        let word = |s: &CStr| s.as_ptr() as usize;
        // SAFETY: the tensor lives, and the arguments are those of the formats.
        unsafe {
            ggml_format_name(&mut t, c"%s.counts %d".as_ptr(), word(c"blk.0"), -7isize as usize, 0, 0);
            assert_eq!(tensor::name_of(&t), b"blk.0.counts -7");
            ggml_format_name(&mut t, c"%f".as_ptr(), 0, 0, 0, 0);
            assert_eq!(tensor::name_of(&t), b"%f");
            let long = CString::new(vec![b'x'; 5000]).unwrap();
            ggml_format_name(&mut t, c"%s".as_ptr(), word(&long), 0, 0, 0);
            assert_eq!(tensor::name_of(&t).len(), 63);
            assert!(ggml_format_name(std::ptr::null_mut(), c"".as_ptr(), 0, 0, 0, 0).is_null());
        }
    }
}
