//! Names of constants, and the paths of split files.

use std::ffi::{CStr, CString, c_char};
use std::sync::LazyLock;

use super::*;
use crate::Error;
use crate::model::ftype;

const LOAD_MODES: [(llama_load_mode, &CStr); 6] = {
    use llama_load_mode::*;
    [
        (LLAMA_LOAD_MODE_AUTO, c"auto"),
        (LLAMA_LOAD_MODE_NONE, c"none"),
        (LLAMA_LOAD_MODE_MMAP, c"mmap"),
        (LLAMA_LOAD_MODE_MLOCK, c"mlock"),
        (LLAMA_LOAD_MODE_MMAP_MLOCK, c"mmap+mlock"),
        (LLAMA_LOAD_MODE_DIRECT_IO, c"dio"),
    ]
};

const META_KEYS: [&CStr; 12] = [
    c"general.sampling.sequence",
    c"general.sampling.top_k",
    c"general.sampling.top_p",
    c"general.sampling.min_p",
    c"general.sampling.xtc_probability",
    c"general.sampling.xtc_threshold",
    c"general.sampling.temp",
    c"general.sampling.penalty_last_n",
    c"general.sampling.penalty_repeat",
    c"general.sampling.mirostat",
    c"general.sampling.mirostat_tau",
    c"general.sampling.mirostat_eta",
];

/// Returns what people call a file's weight type, for example "Q4_K - Medium"; with "(guessed) " in front when
/// LLAMA_FTYPE_GUESSED is added to it. The string lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn llama_ftype_name(ftype: CEnum<llama_ftype>) -> *const c_char {
    // Numbers from 0 on, one past the largest that has a name: there all others find their name too.
    static NAMES: LazyLock<[Vec<CString>; 2]> = LazyLock::new(|| {
        ["", "(guessed) "]
            .map(|prefix| (0..=64).map(|n| logging::c_text(&format!("{prefix}{}", ftype::name(n)))).collect())
    });
    let guessed = ftype.value() & ftype::GUESSED as i32 != 0;
    let names = &NAMES[usize::from(guessed)];
    let plain = usize::try_from(ftype.value() & !(ftype::GUESSED as i32)).unwrap_or(usize::MAX);
    names[plain.min(names.len() - 1)].as_ptr()
}

/// Returns "auto", "disabled" or "enabled"; NULL for any other value. The string lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn llama_flash_attn_type_name(flash_attn_type: CEnum<llama_flash_attn_type>) -> *const c_char {
    guard(std::ptr::null(), || match flash_attn_type.value() {
        -1 => Ok(c"auto".as_ptr()),
        0 => Ok(c"disabled".as_ptr()),
        1 => Ok(c"enabled".as_ptr()),
        other => Err(Error::argument(format!("no flash attention type has the number {other}"))),
    })
}

/// Returns a load mode's name: "auto", "none", "mmap", "mlock", "mmap+mlock" or "dio"; NULL for any other value. The
/// string lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn llama_load_mode_name(load_mode: CEnum<llama_load_mode>) -> *const c_char {
    guard(std::ptr::null(), || {
        let row = LOAD_MODES.iter().find(|row| row.0 as i32 == load_mode.value());
        let name = row.ok_or_else(|| Error::argument(format!("no load mode has the number {load_mode:?}")))?.1;
        Ok(name.as_ptr())
    })
}

/// Returns the load mode of a name that llama_load_mode_name gives. Any other name is an error, for which
/// LLAMA_LOAD_MODE_AUTO is returned.
///
/// # Safety
/// `str` must be NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_load_mode_from_str(str: *const c_char) -> CEnum<llama_load_mode> {
    guard(CEnum::new(llama_load_mode::LLAMA_LOAD_MODE_AUTO), || {
        // SAFETY: the caller promises NULL or a NUL-terminated string.
        let name = unsafe { c_str(str, "str") }?;
        let row = LOAD_MODES.iter().find(|row| row.1 == name);
        let mode = row.ok_or_else(|| Error::argument(format!("no load mode is called {name:?}")))?.0;
        Ok(CEnum::new(mode))
    })
}

/// Returns the metadata key of a recommended sampler setting, or NULL for an unknown number. The string lives as long as
/// the library.
#[unsafe(no_mangle)]
pub extern "C" fn llama_model_meta_key_str(key: CEnum<llama_model_meta_key>) -> *const c_char {
    let index = usize::try_from(key.value()).unwrap_or(usize::MAX);
    META_KEYS.get(index).map_or(std::ptr::null(), |key| key.as_ptr())
}

/// Writes the path of one file of a split model: "PREFIX-00002-of-00004.gguf" for `split_no` 1 (counted from 0) of
/// `split_count` 4. Returns its length, or 0 when it does not fit into `maxlen` bytes with its NUL.
///
/// # Safety
/// `split_path` must be NULL or point to `maxlen` writable bytes, `path_prefix` be NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_split_path(
    split_path: *mut c_char,
    maxlen: usize,
    path_prefix: *const c_char,
    split_no: i32,
    split_count: i32,
) -> i32 {
    guard(0, || {
        // SAFETY: the caller promises NULL or a NUL-terminated string.
        let prefix = unsafe { c_str(path_prefix, "path_prefix") }?;
        let path = [prefix.to_bytes(), split_suffix(split_no, split_count).as_bytes()].concat();
        // SAFETY: the caller promises NULL or `maxlen` writable bytes.
        let len = unsafe { out(&path, split_path, maxlen) };
        Ok(if split_path.is_null() || path.len() >= maxlen { 0 } else { len })
    })
}

/// Writes what stands before "-00002-of-00004.gguf" in the path of file `split_no` (counted from 0) of `split_count`.
/// Returns its length, or 0 when the path does not end so. A prefix longer than `maxlen` - 1 bytes is cut.
///
/// # Safety
/// `split_prefix` must be NULL or point to `maxlen` writable bytes, `split_path` be NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_split_prefix(
    split_prefix: *mut c_char,
    maxlen: usize,
    split_path: *const c_char,
    split_no: i32,
    split_count: i32,
) -> i32 {
    guard(0, || {
        // SAFETY: the caller promises NULL or a NUL-terminated string.
        let path = unsafe { c_str(split_path, "split_path") }?.to_bytes();
        match path.strip_suffix(split_suffix(split_no, split_count).as_bytes()) {
            // SAFETY: the caller promises NULL or `maxlen` writable bytes.
            Some(prefix) if !prefix.is_empty() => Ok(unsafe { out(prefix, split_prefix, maxlen) }),
            _ => Ok(0),
        }
    })
}

fn split_suffix(split_no: i32, split_count: i32) -> String {
    format!("-{:05}-of-{split_count:05}.gguf", i64::from(split_no) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ptr: *const c_char) -> &'static str {
        // SAFETY: the functions under test return static strings.
        unsafe { CStr::from_ptr(ptr) }.to_str().unwrap()
    }

    #[test]
    fn constants_have_names() {
        assert_eq!(text(llama_ftype_name(CEnum::from_int(15))), "Q4_K - Medium");
        assert_eq!(text(llama_ftype_name(CEnum::from_int(1024 + 3))), "(guessed) Q4_1");
        assert_eq!(text(llama_ftype_name(CEnum::from_int(99))), "unknown, may not work");
        assert!(llama_flash_attn_type_name(CEnum::from_int(2)).is_null());
        assert!(llama_model_meta_key_str(CEnum::from_int(-1)).is_null());
        assert_eq!(text(llama_model_meta_key_str(CEnum::from_int(6))), "general.sampling.temp");
        for (mode, name) in LOAD_MODES {
            // SAFETY: the name is NUL-terminated.
            let found = unsafe { llama_load_mode_from_str(name.as_ptr()) };
            assert_eq!(found.value(), mode as i32);
            assert_eq!(text(llama_load_mode_name(found)), name.to_str().unwrap());
        }
    }

    #[test]
    fn split_paths_round_trip() {
        let mut buf = [0 as c_char; 64];
        // SAFETY: all sizes are those of the buffers, all strings NUL-terminated.
        unsafe {
            assert_eq!(llama_split_path(buf.as_mut_ptr(), 64, c"/m/x".as_ptr(), 1, 4), 24);
            assert_eq!(text(buf.as_ptr()), "/m/x-00002-of-00004.gguf");
            assert_eq!(llama_split_path(buf.as_mut_ptr(), 24, c"/m/x".as_ptr(), 1, 4), 0);
            let mut prefix = [0 as c_char; 64];
            let path = c"/m/x-00002-of-00004.gguf".as_ptr();
            assert_eq!(llama_split_prefix(prefix.as_mut_ptr(), 64, path, 1, 4), 4);
            assert_eq!(text(prefix.as_ptr()), "/m/x");
            assert_eq!(llama_split_prefix(prefix.as_mut_ptr(), 64, path, 0, 4), 0);
            assert_eq!(llama_split_prefix(std::ptr::null_mut(), 0, std::ptr::null(), 0, 4), 0);
        }
    }
}
