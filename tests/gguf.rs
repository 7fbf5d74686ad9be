//! GGUF files: what the writer writes the reader reads; what is damaged is refused without a panic, a hang or more memory
//! than the file warrants; every way of loading yields the same bytes.

use infer::Error;
use infer::gguf::{
    Array, Gguf, GgufFiles, LoadMode, LoadOptions, Override, Source, TensorInfo, Value, ValueType, split_path,
    split_prefix,
};
use infer::quant::DType;
use proptest::prelude::*;
use std::io::Write;
use std::path::{Path, PathBuf};

const MODES: [LoadMode; 6] =
    [LoadMode::Auto, LoadMode::None, LoadMode::Mmap, LoadMode::Mlock, LoadMode::MmapMlock, LoadMode::DirectIo];

/// The bytes that the test tensors hold.
fn content(tensor: &TensorInfo) -> Vec<u8> {
    (0..tensor.size).map(|i| (i as usize * 7 + tensor.name.len()) as u8).collect()
}

fn serialized(gguf: &Gguf) -> Vec<u8> {
    let mut out = Vec::new();
    gguf.write(&mut out, |tensor, out| {
        out.write_all(&content(tensor)).map_err(|e| Error::io("write", e))?;
        Ok(())
    })
    .unwrap();
    out
}

/// A small file with a value of every type and tensors of several.
fn sample() -> Gguf {
    let mut gguf = Gguf::new();
    gguf.set("general.architecture", "llama").unwrap();
    gguf.set("u8", 200u8).unwrap();
    gguf.set("i8", -3i8).unwrap();
    gguf.set("u16", 65535u16).unwrap();
    gguf.set("i16", -300i16).unwrap();
    gguf.set("u32", 4_000_000_000u32).unwrap();
    gguf.set("i32", -5i32).unwrap();
    gguf.set("u64", u64::MAX).unwrap();
    gguf.set("i64", i64::MIN).unwrap();
    gguf.set("f32", 1.5f32).unwrap();
    gguf.set("f64", -2.25f64).unwrap();
    gguf.set("yes", true).unwrap();
    gguf.set("tokens", Value::Array(Array::strings(["<s>", "", "hello \u{4e16}"]))).unwrap();
    gguf.set("scores", &[0.5f32, -1.0, 3.0][..]).unwrap();
    gguf.set("types", &[1i32, 3, 6][..]).unwrap();
    gguf.set("flags", &[true, false][..]).unwrap();
    for (name, dtype, ne) in [
        ("token_embd.weight", DType::Q4_0, &[64, 5][..]),
        ("blk.0.attn_q.weight", DType::Q4K, &[256, 2, 3]),
        ("norm", DType::F32, &[7]),
        ("scalar", DType::F16, &[]),
        ("last", DType::I64, &[3, 1, 1, 2]),
    ] {
        gguf.add_tensor(TensorInfo::new(name, dtype, ne).unwrap()).unwrap();
    }
    gguf
}

fn write_file(path: &Path, bytes: &[u8]) {
    std::fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

fn assert_tensors_intact(files: &GgufFiles) {
    for tensor in files.tensors() {
        let data = files.tensor(&tensor.name).unwrap();
        assert_eq!((data.dtype, data.ne), (tensor.dtype, tensor.ne));
        assert_eq!(data.bytes(), content(tensor), "{}", tensor.name);
        assert_eq!(files.view(&tensor.name).unwrap().bytes, data.bytes());
        assert_eq!(data.bytes().as_ptr() as usize % 8, 0, "{} is misaligned", tensor.name);
    }
}

#[test]
fn reads_what_it_wrote() {
    let gguf = sample();
    let bytes = serialized(&gguf);
    assert_eq!(bytes.len() as u64, gguf.meta_size() as u64 + gguf.data_size());
    let read = Gguf::from_bytes(&bytes).unwrap();
    assert_eq!(read.version, 3);
    assert_eq!(read.kv(), gguf.kv());
    assert_eq!(read.tensors(), gguf.tensors());
    assert_eq!(read.data_offset, gguf.meta_size() as u64);
    assert_tensors_intact(&GgufFiles::open(Source::Bytes(bytes), LoadOptions::default()).unwrap());
}

/// The file that llama.cpp's own reader sees in ours.
#[test]
fn llama_cpp_reads_what_it_wrote() {
    use std::ffi::{CString, c_char, c_void};

    let data = std::env::var_os("INFER_TEST_DATA").unwrap_or_else(|| "target/test-data".into());
    let path = PathBuf::from(data).join("reference/libggml-base.so");
    // SAFETY: the library's initialisers have no preconditions.
    let library = unsafe { libloading::Library::new(&path) }
        .unwrap_or_else(|e| panic!("{e}; run `make test-data` to fetch {}", path.display()));

    /// `gguf_init_params` of gguf.h.
    #[repr(C)]
    struct Params {
        no_alloc: bool,
        ctx: *mut c_void,
    }
    let gguf = sample();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    write_file(&file, &serialized(&gguf));
    let c_string = |s: &str| CString::new(s).unwrap();
    // SAFETY: the symbols have these types in gguf.h; the context is used until it is freed, indices are its own.
    unsafe {
        let init =
            library.get::<unsafe extern "C" fn(*const c_char, Params) -> *mut c_void>(b"gguf_init_from_file").unwrap();
        let count = |name: &str| *library.get::<unsafe extern "C" fn(*const c_void) -> i64>(name.as_bytes()).unwrap();
        let find = |name: &str| {
            *library.get::<unsafe extern "C" fn(*const c_void, *const c_char) -> i64>(name.as_bytes()).unwrap()
        };
        let number =
            |name: &str| *library.get::<unsafe extern "C" fn(*const c_void, i64) -> u64>(name.as_bytes()).unwrap();
        let path = c_string(file.to_str().unwrap());
        let ctx = init(path.as_ptr(), Params { no_alloc: true, ctx: std::ptr::null_mut() });
        assert!(!ctx.is_null());
        assert_eq!(count("gguf_get_n_kv")(ctx) as usize, gguf.kv().len());
        assert_eq!(count("gguf_get_n_tensors")(ctx) as usize, gguf.tensors().len());
        assert_eq!(count("gguf_get_data_offset")(ctx) as usize, gguf.meta_size());
        assert_eq!(count("gguf_get_meta_size")(ctx) as usize, gguf.meta_size());
        let written = library.get::<unsafe extern "C" fn(*const c_void, *mut u8)>(b"gguf_get_meta_data").unwrap();
        let mut meta = vec![0; gguf.meta_size()];
        written(ctx, meta.as_mut_ptr());
        assert_eq!(meta, gguf.meta_bytes());
        for tensor in gguf.tensors() {
            let i = find("gguf_find_tensor")(ctx, c_string(&tensor.name).as_ptr());
            assert_eq!(number("gguf_get_tensor_offset")(ctx, i), tensor.offset);
            assert_eq!(number("gguf_get_tensor_size")(ctx, i), tensor.size);
            assert_eq!(number("gguf_get_tensor_type")(ctx, i) as u32, tensor.dtype as u32);
        }
        library.get::<unsafe extern "C" fn(*mut c_void)>(b"gguf_free").unwrap()(ctx);
    }
}

#[test]
fn getters_expect_types_as_llama_cpp_does() {
    let gguf = Gguf::from_bytes(&serialized(&sample())).unwrap();
    assert_eq!(gguf.require::<u32>("u32").unwrap(), 4_000_000_000);
    assert_eq!(gguf.require::<String>("general.architecture").unwrap(), "llama");
    assert_eq!(gguf.find::<u32>("absent").unwrap(), None);
    let error = gguf.require::<u32>("i32").unwrap_err().to_string();
    assert!(error.contains("'i32' is i32, expected u32"), "{error}");
    let error = gguf.require::<u32>("absent").unwrap_err().to_string();
    assert!(error.contains("no key 'absent'"), "{error}");

    let tokens = gguf.find_array("tokens").unwrap().unwrap();
    assert_eq!(tokens.iter_strings().collect::<Vec<_>>(), ["<s>".as_bytes(), b"", "hello \u{4e16}".as_bytes()]);
    assert_eq!((tokens.string(1), tokens.string(3)), (Some(&b""[..]), None));
    assert_eq!(gguf.find_vec::<u32>("types").unwrap().unwrap(), [1, 3, 6]);
    assert_eq!(gguf.find_vec::<i32>("flags").unwrap().unwrap(), [1, 0]);
    assert!(gguf.find_vec::<f32>("types").is_err());
    assert!(gguf.find_vec::<f32>("f32").is_err());
    assert_eq!(gguf.find_per_layer::<u32>("u32", 2).unwrap().unwrap(), [4_000_000_000; 2]);
    assert_eq!(gguf.find_per_layer::<u32>("types", 3).unwrap().unwrap(), [1, 3, 6]);
    assert!(gguf.find_per_layer::<u32>("types", 4).is_err());
    assert_eq!(gguf.find_per_layer::<u32>("absent", 4).unwrap(), None);
}

#[test]
fn overrides_count_where_their_kind_fits() {
    let mut gguf = Gguf::from_bytes(&serialized(&sample())).unwrap();
    gguf.set_override("u32", Override::Int(7));
    gguf.set_override("u32", Override::Int(8));
    gguf.set_override("f32", Override::Float(0.25));
    gguf.set_override("yes", Override::Bool(false));
    gguf.set_override("general.architecture", Override::String("gemma3".into()));
    gguf.set_override("new", Override::Int(-1));
    gguf.set_override("u16", Override::Float(1.0));
    assert_eq!(gguf.require::<u32>("u32").unwrap(), 7);
    assert_eq!(gguf.require::<f32>("f32").unwrap(), 0.25);
    assert!(!gguf.require::<bool>("yes").unwrap());
    assert_eq!(gguf.require::<String>("general.architecture").unwrap(), "gemma3");
    assert_eq!(gguf.find_string("general.architecture").unwrap(), Some(&b"gemma3"[..]));
    assert_eq!(gguf.find::<i32>("new").unwrap(), Some(-1));
    assert_eq!(gguf.require::<u16>("u16").unwrap(), 65535);
    assert_eq!(gguf.get("u32"), Some(&Value::U32(4_000_000_000)));
}

#[test]
fn edits_move_tensors() {
    let mut gguf = sample();
    gguf.set("general.alignment", 4096u32).unwrap();
    gguf.set_tensor_type("token_embd.weight", DType::F32).unwrap();
    assert_eq!(gguf.tensor("token_embd.weight").unwrap().size, 64 * 5 * 4);
    assert_eq!(gguf.tensor("blk.0.attn_q.weight").unwrap().offset, 4096);
    assert_eq!(gguf.remove("i8"), Some(2));
    assert_eq!((gguf.find_key("i8"), gguf.find_key("u16")), (None, Some(2)));
    assert_eq!(Gguf::from_bytes(&serialized(&gguf)).unwrap().tensors(), gguf.tensors());
    assert!(gguf.set("general.alignment", 48u32).is_err());
    assert!(gguf.set("general.alignment", 64u64).is_err());
    assert!(gguf.set("", 1u32).is_err());
    assert!(gguf.add_tensor(TensorInfo::new("norm", DType::F32, &[1]).unwrap()).is_err());
    assert!(gguf.set_tensor_type("norm", DType::Q4_0).is_err());
}

#[test]
fn shapes_are_checked() {
    let new = |ne: &[u64]| TensorInfo::new("t", DType::Q8_0, ne);
    assert_eq!(new(&[64, 3]).unwrap().size, 2 * 34 * 3);
    for ne in [&[0, 1][..], &[32, 0], &[31], &[1 << 63], &[1 << 32, 1 << 32], &[32, 1, 1, 1, 1], &[1 << 62, 2]] {
        assert!(new(ne).is_err(), "{ne:?}");
    }
    assert!(TensorInfo::new("x".repeat(64), DType::F32, &[1]).is_err());
}

/// What the writer cannot be made to write, by patching bytes.
#[test]
fn malformed_headers_are_refused_with_a_reason() {
    let bytes = serialized(&sample());
    let patched = |at: usize, patch: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        Gguf::from_bytes(&bytes).unwrap_err().to_string()
    };
    let find = |needle: &[u8]| bytes.windows(needle.len()).position(|w| w == needle).unwrap();
    for (at, patch, reason) in [
        (0, &b"GGML"[..], "starts with 'GGML'"),
        (4, &[0, 0, 0, 3], "big-endian"),
        (4, &[1, 0, 0, 0], "version 1"),
        (4, &[4, 0, 0, 0], "version 4"),
        (8, &[0xff; 8], "do not fit"),
        (16, &[0xff; 8], "do not fit"),
        (24, &[0xff; 8], "truncated"),
        (find(b"u16") + 3, &[13], "unknown type 13"),
        (find(b"tokens") + 6 + 4, &[9], "array of arrays"),
        (find(b"tokens") + 6 + 8, &[0xff; 8], "truncated"),
        (find(b"scores") + 6 + 8, &[0xff; 8], "truncated"),
        (find(b"i16"), b"u16", "'u16' occurs twice"),
        (find(b"norm") + 4, &[5], "5 dimensions"),
        (find(b"norm") + 8, &[0], "zero or negative"),
        (find(b"norm") + 15, &[0x80], "zero or negative"),
        (find(b"norm") + 16, &[4], "type 4 is unknown or no longer"),
        (find(b"norm") + 16, &[2], "not whole blocks"),
        (find(b"norm") + 20, &[1], "expected"),
        (find(b"norm"), &[0xff], "UTF-8"),
    ] {
        let error = patched(at, patch);
        assert!(error.contains(reason), "{error} (expected: {reason})");
    }
}

#[test]
fn truncation_is_found_when_loading() {
    let bytes = serialized(&sample());
    let gguf = Gguf::from_bytes(&bytes).unwrap();
    // The padding behind the last tensor may be missing.
    let last = gguf.tensors().last().unwrap();
    let end = (gguf.data_offset + last.offset + last.size) as usize;
    let open = |n: usize| GgufFiles::open(Source::Bytes(bytes[..n].to_vec()), LoadOptions::default());
    assert_tensors_intact(&open(end).unwrap());
    assert!(open(end - 1).unwrap_err().to_string().contains("truncated: tensor 'last'"));
    let header = LoadOptions { header_only: true, ..Default::default() };
    let meta_only = bytes[..gguf.data_offset as usize].to_vec();
    let files = GgufFiles::open(Source::Bytes(meta_only), header).unwrap();
    assert!(files.view("norm").is_none());
    assert!(files.tensor("norm").is_err());
    for n in 0..gguf.data_offset as usize {
        assert!(open(n).is_err(), "{n} bytes were accepted");
    }
}

#[test]
fn all_load_modes_yield_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut gguf = sample();
    gguf.add_tensor(TensorInfo::new("large", DType::Q8_0, &[1024, 2000]).unwrap()).unwrap();
    let bytes = serialized(&gguf);
    write_file(&path, &bytes);
    for mode in MODES {
        let mut last = 0.0;
        let mut progress = |p: f32| {
            assert!(p >= last);
            last = p;
            true
        };
        let options = LoadOptions { mode, progress: Some(&mut progress), ..Default::default() };
        let files = GgufFiles::open(Source::Path(path.clone()), options).unwrap();
        assert_eq!(last, 1.0, "{mode:?}");
        assert_tensors_intact(&files);

        let mut cancel = |_| false;
        let options = LoadOptions { mode, progress: Some(&mut cancel), ..Default::default() };
        let cancelled = GgufFiles::open(Source::Path(path.clone()), options);
        assert!(matches!(cancelled, Err(Error::Aborted)), "{mode:?}");
    }
    assert!(matches!(
        GgufFiles::open(Source::Path(dir.path().join("absent")), LoadOptions::default()),
        Err(Error::Io { .. })
    ));
    assert!(GgufFiles::open(Source::Path(dir.path().into()), LoadOptions::default()).is_err());
}

#[test]
fn a_gguf_inside_a_larger_file_loads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("container");
    // Tensors at odd addresses are copied.
    for offset in [0usize, 4096, 96, 13] {
        write_file(&path, &[vec![0xaa; offset], serialized(&sample())].concat());
        for mode in MODES {
            let file = std::fs::File::open(&path).unwrap();
            let options = LoadOptions { mode, ..Default::default() };
            let files = GgufFiles::open(Source::File { file, offset: offset as u64 }, options).unwrap();
            assert_tensors_intact(&files);
        }
    }
    let file = std::fs::File::open(&path).unwrap();
    assert!(GgufFiles::open(Source::File { file, offset: 1 << 40 }, LoadOptions::default()).is_err());
}

/// Writes `n` splits with two tensors each; returns their paths.
fn write_splits(dir: &Path, n: u16) -> Vec<PathBuf> {
    let prefix = dir.join("model");
    (0..n)
        .map(|no| {
            let mut gguf = if no == 0 { sample() } else { Gguf::new() };
            gguf.set("split.no", no).unwrap();
            gguf.set("split.count", n).unwrap();
            gguf.set("split.tensors.count", 5 + i32::from(n - 1)).unwrap();
            if no > 0 {
                gguf.add_tensor(TensorInfo::new(format!("blk.{no}"), DType::F32, &[10]).unwrap()).unwrap();
            }
            let path = split_path(prefix.to_str().unwrap().as_bytes(), i32::from(no), i32::from(n));
            let path = PathBuf::from(String::from_utf8(path).unwrap());
            write_file(&path, &serialized(&gguf));
            path
        })
        .collect()
}

#[test]
fn splits_load_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write_splits(dir.path(), 3);
    assert!(paths[1].to_str().unwrap().ends_with("model-00002-of-00003.gguf"));
    for mode in MODES {
        let options = LoadOptions { mode, ..Default::default() };
        let files = GgufFiles::open(Source::Path(paths[0].clone()), options).unwrap();
        assert_eq!((files.n_files(), files.n_tensors()), (3, 7));
        assert_eq!(files.find("blk.2").unwrap().ne, [10, 1, 1, 1]);
        assert_eq!(files.meta().require::<u32>("u32").unwrap(), 4_000_000_000);
        assert_tensors_intact(&files);
    }
    let error = GgufFiles::open(Source::Path(paths[1].clone()), LoadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("is split 1, expected split 0"), "{error}");

    // Other names need a list.
    let renamed = dir.path().join("renamed.gguf");
    std::fs::rename(&paths[0], &renamed).unwrap();
    assert!(GgufFiles::open(Source::Path(renamed.clone()), LoadOptions::default()).is_err());
    let splits = vec![renamed.clone(), paths[1].clone(), paths[2].clone()];
    let options = LoadOptions { splits: splits.clone(), ..Default::default() };
    assert_tensors_intact(&GgufFiles::open(Source::Path(renamed.clone()), options).unwrap());
    for wrong in [splits[..2].to_vec(), vec![splits[0].clone(), splits[2].clone(), splits[1].clone()]] {
        let options = LoadOptions { splits: wrong, ..Default::default() };
        assert!(GgufFiles::open(Source::Path(renamed.clone()), options).is_err());
    }
}

#[test]
fn split_names() {
    assert_eq!(split_path(b"/models/m", 2, 4), b"/models/m-00003-of-00004.gguf");
    assert_eq!(split_prefix(b"/models/m-00003-of-00004.gguf", 2, 4), Some(&b"/models/m"[..]));
    assert_eq!(split_prefix(b"/models/m-00003-of-00004.gguf", 1, 4), None);
    assert_eq!(split_prefix(b"-00003-of-00004.gguf", 2, 4), None);
}

#[test]
fn checks_tensors_for_nan() {
    let mut gguf = Gguf::new();
    gguf.add_tensor(TensorInfo::new("x", DType::F32, &[2]).unwrap()).unwrap();
    for (second, good) in [(1.0f32, true), (f32::NAN, false), (f32::INFINITY, false)] {
        let data = [2f32.to_le_bytes(), second.to_le_bytes()].concat();
        let bytes = gguf.to_bytes(|_| &data).unwrap();
        let files = GgufFiles::open(Source::Bytes(bytes), LoadOptions::default()).unwrap();
        assert_eq!(files.check_tensor("x").is_ok(), good);
    }
}

#[test]
fn writers_of_too_little_or_too_much_data_fail() {
    let mut gguf = Gguf::new();
    gguf.add_tensor(TensorInfo::new("x", DType::F32, &[2]).unwrap()).unwrap();
    for n in [7usize, 9] {
        assert!(gguf.to_bytes(|_| &[0; 9][..n]).is_err());
    }
}

/// Thousands of damaged files: each is read or refused, quickly.
#[test]
fn mutations_never_panic() {
    let original = serialized(&sample());
    let header = Gguf::from_bytes(&original).unwrap().data_offset as usize;
    let mut state = 1u64;
    let mut random = move |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let mut n_read = 0;
    for _ in 0..20_000 {
        let mut bytes = original.clone();
        for _ in 0..1 + random(4) {
            let at = random(header.min(bytes.len()).max(1));
            match random(6) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)],
                2 => {
                    let n = [8, 4, 2][random(3)].min(bytes.len() - at);
                    bytes[at..at + n].fill([0, 0xff][random(2)]);
                }
                3 => bytes.truncate(1 + random(bytes.len())),
                4 => {
                    let n = random(40).min(bytes.len() - at);
                    let copy = bytes[at..at + n].to_vec();
                    let to = random(bytes.len());
                    bytes.splice(to..to, copy);
                }
                _ => {
                    let n = random(40).min(bytes.len() - at - 1);
                    bytes.drain(at..at + n);
                }
            }
        }
        let started = std::time::Instant::now();
        if let Ok(files) = GgufFiles::open(Source::Bytes(bytes), LoadOptions::default()) {
            n_read += 1;
            for (key, _) in files.meta().kv() {
                let _ = (files.meta().find::<u32>(key), files.meta().find_vec::<f32>(key));
                if let Ok(Some(array)) = files.meta().find_array(key) {
                    assert_eq!(
                        array.iter_strings().count()
                            + array.len() * usize::from(array.element_type() != ValueType::String),
                        array.len()
                    );
                }
            }
            for tensor in files.tensors() {
                assert_eq!(files.tensor(&tensor.name).unwrap().bytes().len() as u64, tensor.size);
                let _ = files.check_tensor(&tensor.name);
            }
        }
        assert!(started.elapsed().as_secs() < 5);
    }
    assert!(n_read > 100, "only {n_read} mutated files were readable, the mutations are too coarse");
}

fn any_scalar_array() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|v| Value::from(&v[..])),
        prop::collection::vec(any::<i8>(), 0..20).prop_map(|v| Value::from(&v[..])),
        prop::collection::vec(any::<u16>(), 0..20).prop_map(|v| Value::from(&v[..])),
        prop::collection::vec(any::<i16>(), 0..20).prop_map(|v| Value::from(&v[..])),
        prop::collection::vec(any::<u32>(), 0..20).prop_map(|v| Value::from(&v[..])),
        prop::collection::vec(any::<i32>(), 0..20).prop_map(|v| Value::from(&v[..])),
        prop::collection::vec(any::<u64>(), 0..20).prop_map(|v| Value::from(&v[..])),
        prop::collection::vec(any::<i64>(), 0..20).prop_map(|v| Value::from(&v[..])),
        prop::collection::vec(any::<f32>(), 0..20).prop_map(|v| Value::from(&v[..])),
        prop::collection::vec(any::<f64>(), 0..20).prop_map(|v| Value::from(&v[..])),
        prop::collection::vec(any::<bool>(), 0..20).prop_map(|v| Value::from(&v[..])),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::F32),
        any::<f64>().prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        prop::collection::vec(any::<u8>(), 0..50).prop_map(|s| Value::String(s.into())),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20)
            .prop_map(|s| Value::Array(Array::strings(s))),
        any_scalar_array(),
    ]
}

fn any_shape() -> impl Strategy<Value = (DType, Vec<u64>)> {
    let dtypes: Vec<DType> = infer::quant::FORMATS.iter().map(|f| f.dtype).collect();
    (prop::sample::select(dtypes), prop::collection::vec(1u64..4, 0..5)).prop_map(|(dtype, mut ne)| {
        match ne.first_mut() {
            Some(n) => *n *= dtype.block_size() as u64,
            None => ne.push(dtype.block_size() as u64),
        }
        (dtype, ne)
    })
}

proptest! {
    #[test]
    fn any_file_survives_writing_and_reading(
        values in prop::collection::hash_map("[a-z.]{1,30}", any_value(), 0..12),
        shapes in prop::collection::vec(any_shape(), 0..6),
        alignment in 0u32..13,
    ) {
        let mut gguf = Gguf::new();
        gguf.set("general.alignment", 1u32 << alignment).unwrap();
        for (key, value) in values {
            gguf.set(key, value).unwrap();
        }
        for (i, (dtype, ne)) in shapes.iter().enumerate() {
            gguf.add_tensor(TensorInfo::new(format!("tensor.{i}"), *dtype, ne).unwrap()).unwrap();
        }
        let bytes = serialized(&gguf);
        let files = GgufFiles::open(Source::Bytes(bytes.clone()), LoadOptions::default()).unwrap();
        prop_assert_eq!(files.meta().tensors(), gguf.tensors());
        assert_tensors_intact(&files);
        // NaN is unlike itself, so bytes are compared.
        prop_assert_eq!(files.meta().meta_bytes(), gguf.meta_bytes());
        prop_assert_eq!(serialized(files.meta()), bytes);
    }
}
