//! `llama_model_quantize` against llama.cpp's own: the same files, byte for byte, for every file type and every parameter;
//! and what is refused. Models are tiny ones, and `smollm2.gguf` of `$INFER_TEST_DATA`, which `make test-data` fetches.

mod common;

use common::tiny::{Random, Tiny};
use common::{lcp, test_data};
use infer::gguf::{Gguf, GgufFiles, LoadOptions, Source, TensorInfo};
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};

/// `llama_model_quantize_params` of llama.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Params {
    nthread: i32,
    ftype: c_int,
    output_tensor_type: c_int,
    token_embedding_type: c_int,
    allow_requantize: bool,
    quantize_output_tensor: bool,
    only_copy: bool,
    pure: bool,
    keep_split: bool,
    dry_run: bool,
    imatrix: *const ImatrixData,
    kv_overrides: *const KvOverride,
    tt_overrides: *const TensorOverride,
    prune_layers: *const i32,
    max_buf_size: usize,
}

const _: () = assert!(size_of::<Params>() == 64 && size_of::<KvOverride>() == 264);

#[repr(C)]
#[derive(Clone, Copy)]
struct ImatrixData {
    name: *const c_char,
    data: *const f32,
    size: usize,
}

#[repr(C)]
struct KvOverride {
    tag: c_int,
    key: [u8; 128],
    value: [u64; 16],
}

#[repr(C)]
struct TensorOverride {
    pattern: *const c_char,
    dtype: c_int,
}

type Quantize = unsafe extern "C" fn(*const c_char, *const c_char, *const Params) -> u32;

unsafe extern "C" {
    fn llama_model_quantize(input: *const c_char, output: *const c_char, params: *const Params) -> u32;
    fn llama_model_quantize_default_params() -> Params;
    fn llama_log_set(callback: Option<unsafe extern "C" fn(c_int, *const c_char, *mut c_void)>, data: *mut c_void);
}

/// What is logged is of interest only to who debugs a difference.
unsafe extern "C" fn silence(_level: c_int, _text: *const c_char, _data: *mut c_void) {}

const Q4_0: c_int = 2;
const Q8_0: c_int = 7;
const Q4_K_M: c_int = 15;

/// Every number of `llama_ftype` that files can be quantized to.
const FTYPES: [c_int; 35] = [
    0, 1, 2, 3, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
    36, 37, 38, 40, 41,
];

/// File types in which some tensors are garbage without an importance matrix, so that they are refused.
const NEED_IMATRIX: [c_int; 9] = [19, 20, 21, 22, 23, 24, 28, 29, 31];

fn defaults() -> Params {
    let _ = infer::gguf::DEFAULT_ALIGNMENT; // links the crate
    // SAFETY: the callback takes any message; no preconditions.
    unsafe {
        if std::env::var_os("INFER_TEST_LOG").is_none() {
            llama_log_set(Some(silence), null_mut());
        }
        llama_model_quantize_default_params()
    }
}

fn ftype(ftype: c_int) -> Params {
    Params { ftype, nthread: 2, ..defaults() }
}

fn run(quantize: Quantize, input: &Path, output: &Path, params: &Params) -> u32 {
    let name = |path: &Path| CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: names are NUL-terminated, lists in the parameters end as llama.h says.
    unsafe { quantize(name(input).as_ptr(), name(output).as_ptr(), params) }
}

fn ours() -> Quantize {
    llama_model_quantize
}

fn theirs() -> Quantize {
    // SAFETY: the type is that of llama.h.
    unsafe { lcp::function("llama_model_quantize") }
}

/// Files in a folder that goes at the end.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn tiny(&self, tiny: &Tiny) -> PathBuf {
        tiny.write(self.0.path())
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.0.path().read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Quantizes with both libraries and compares what they make; whether they succeed.
    fn compare(&self, input: &Path, params: &Params, what: &str) -> bool {
        let (a, b) = (self.path("ours.gguf"), self.path("theirs.gguf"));
        let _ = (std::fs::remove_file(&a), std::fs::remove_file(&b));
        let (x, y) = (run(ours(), input, &a, params), run(theirs(), input, &b, params));
        assert_eq!(x, y, "{what}: ours returns {x}, llama.cpp's {y}");
        if x != 0 || params.dry_run {
            assert!(!a.exists(), "{what}: a file was written");
            return x == 0;
        }
        same(&a, &b, what);
        true
    }
}

/// Compares two files: types first, which say more.
fn same(a: &Path, b: &Path, what: &str) {
    let (x, y) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    if x == y {
        return;
    }
    let (p, q) = (Gguf::from_bytes(&x).unwrap(), Gguf::from_bytes(&y).unwrap());
    assert_eq!(p.kv(), q.kv(), "{what}: metadata");
    let types = |g: &Gguf| g.tensors().iter().map(|t| (t.name.clone(), t.dtype.name())).collect::<Vec<_>>();
    for (t, u) in types(&p).iter().zip(&types(&q)) {
        assert_eq!(t, u, "{what}: types");
    }
    for (t, u) in p.tensors().iter().zip(q.tensors()) {
        let data = |g: &Gguf, t: &TensorInfo, bytes: &[u8]| {
            bytes[(g.data_offset + t.offset) as usize..][..t.size as usize].to_vec()
        };
        assert!(data(&p, t, &x) == data(&q, u, &y), "{what}: data of {} ({})", t.name, t.dtype);
    }
    panic!("{what}: files differ outside of metadata and data: {} and {} bytes", x.len(), y.len());
}

/// A model whose rows are whole blocks of every type.
fn wide(name: &'static str) -> Tiny {
    let n = 256;
    Tiny {
        name,
        n_layer: 8,
        n_embd: n,
        n_ff: n,
        n_head: 4,
        n_head_kv: 1,
        head: 64,
        n_vocab: 96,
        ..Tiny::new("llama", "")
    }
}

/// An importance for every matrix of a model.
struct Imatrix {
    names: Vec<CString>,
    values: Vec<Vec<f32>>,
    list: Vec<ImatrixData>,
}

impl Imatrix {
    fn of(model: &Path) -> Imatrix {
        let files = open(model);
        let mut random = Random::new(11);
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for t in files.tensors().filter(|t| t.n_dims > 1) {
            names.push(CString::new(t.name.as_str()).unwrap());
            values.push((0..t.ne[0] * t.ne[2]).map(|_| (1.2 * random.normal()).exp()).collect());
        }
        let mut imatrix = Imatrix { names, values, list: Vec::new() };
        imatrix.relist();
        imatrix
    }

    fn relist(&mut self) {
        let entry = |(name, data): (&CString, &Vec<f32>)| ImatrixData {
            name: name.as_ptr(),
            data: data.as_ptr(),
            size: data.len(),
        };
        self.list = self.names.iter().zip(&self.values).map(entry).collect();
        self.list.push(ImatrixData { name: null(), data: null(), size: 0 });
    }
}

fn open(path: &Path) -> GgufFiles {
    GgufFiles::open(Source::Path(path.into()), LoadOptions::default()).unwrap()
}

fn override_of(tag: c_int, key: &str, value: &[u8]) -> KvOverride {
    let mut o = KvOverride { tag, key: [0; 128], value: [0; 16] };
    o.key[..key.len()].copy_from_slice(key.as_bytes());
    for (word, bytes) in o.value.iter_mut().zip(value.chunks(8)) {
        *word = bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    }
    o
}

#[test]
fn every_file_type_makes_the_same_file() {
    let folder = Folder::new();
    let model = folder.tiny(&wide("wide"));
    let imatrix = Imatrix::of(&model);
    for n in FTYPES {
        let plain = ftype(n);
        assert_eq!(folder.compare(&model, &plain, &format!("type {n}")), !NEED_IMATRIX.contains(&n), "type {n}");
        let weighted = Params { imatrix: imatrix.list.as_ptr(), ..plain };
        assert!(folder.compare(&model, &weighted, &format!("type {n} with importance")));
    }
}

#[test]
fn mixes_depend_on_the_model_as_theirs() {
    let folder = Folder::new();
    let small = Tiny { n_layer: 5, ..Tiny::new("llama", "") };
    let models = [
        Tiny { name: "narrow", ..small.clone() },
        Tiny { name: "8-experts", n_expert: 8, n_expert_used: 2, ..small.clone() },
        Tiny { name: "4-experts", n_expert: 4, n_expert_used: 2, n_embd: 256, n_ff: 32, ..small.clone() },
        Tiny { name: "tied", tied: true, n_embd: 256, n_head_kv: 4, ..small.clone() },
        Tiny { name: "fused", fused_qkv: true, n_embd: 256, n_layer: 17, n_ff: 32, ..small.clone() },
        Tiny { name: "odd", n_embd: 80, n_ff: 48, ..small.clone() },
        Tiny { name: "tied", n_embd: 256, n_ff: 32, ..Tiny::new("gemma3", "") },
        Tiny::new("bert", "plain"),
    ];
    for tiny in models {
        let model = folder.tiny(&tiny);
        let imatrix = Imatrix::of(&model);
        for n in FTYPES {
            let what = format!("{} {} type {n}", tiny.arch, tiny.name);
            folder.compare(&model, &Params { imatrix: imatrix.list.as_ptr(), ..ftype(n) }, &what);
            folder.compare(&model, &ftype(n), &what);
        }
    }
}

#[test]
fn parameters_have_the_same_effect() {
    let folder = Folder::new();
    let model = folder.tiny(&Tiny { n_layer: 4, n_ff: 64, ..wide("options") });
    let base = ftype(Q4_K_M);
    let check = |params: Params, what: &str| assert!(folder.compare(&model, &params, what), "{what}");
    check(Params { pure: true, ..base }, "pure");
    check(Params { only_copy: true, ..base }, "only_copy");
    check(Params { quantize_output_tensor: false, ..base }, "output left");
    check(Params { output_tensor_type: 8, ..base }, "output type");
    check(Params { token_embedding_type: 3, ..base }, "embedding type");
    check(Params { output_tensor_type: 1, token_embedding_type: 30, pure: true, ..base }, "plain types");
    check(Params { max_buf_size: 4096, ..base }, "small buffer");
    check(Params { max_buf_size: 0, nthread: 1, ..base }, "one thread");
    check(Params { nthread: -5, ..base }, "all threads");
    check(Params { dry_run: true, ..base }, "dry run");
    check(Params { dry_run: true, ..ftype(24) }, "dry run that would need an importance");

    let patterns = [c"attn_v", c"blk\\.[02]\\..*ffn_(up|gate)", c"^output\\.weight$"];
    let mut types: Vec<TensorOverride> =
        patterns.iter().zip([8, 6, 1]).map(|(p, dtype)| TensorOverride { pattern: p.as_ptr(), dtype }).collect();
    types.push(TensorOverride { pattern: null(), dtype: 0 });
    check(Params { tt_overrides: types.as_ptr(), ..base }, "tensor types");
    check(Params { tt_overrides: types.as_ptr(), pure: true, token_embedding_type: 2, ..base }, "tensor types, pure");
    check(Params { tt_overrides: types.as_ptr(), ..ftype(1) }, "tensor types of f16");

    let overrides = [
        override_of(0, "llama.context_length", &77i64.to_le_bytes()),
        override_of(0, "made.up", &(-3i64).to_le_bytes()),
        override_of(1, "llama.rope.freq_base", &5000f64.to_le_bytes()),
        override_of(2, "tokenizer.ggml.add_bos_token", &[1]),
        override_of(3, "quantize.imatrix.file", b"some file"),
        override_of(0, "general.file_type", &3i64.to_le_bytes()),
        override_of(0, "", &[]),
    ];
    check(Params { kv_overrides: overrides.as_ptr(), ..base }, "metadata");

    let imatrix = Imatrix::of(&model);
    for layers in [vec![0, -1], vec![1, 2, -1], vec![3, -1], vec![2, 0, -1], vec![99, -1], vec![-1]] {
        let pruned = Params { prune_layers: layers.as_ptr(), ..base };
        check(pruned, &format!("without layers {layers:?}"));
        check(Params { imatrix: imatrix.list.as_ptr(), ..pruned }, &format!("with importance without {layers:?}"));
    }
}

#[test]
fn split_models_are_joined_or_kept_split() {
    let folder = Folder::new();
    let whole = folder.tiny(&Tiny { n_layer: 4, n_ff: 64, ..wide("split") });
    let input = split(&whole, &folder, 3);
    assert!(folder.compare(&input, &ftype(Q4_0), "joined"));
    let kept = Params { keep_split: true, ..ftype(Q8_0) };
    let layers = [1, -1];
    for params in [kept, Params { prune_layers: layers.as_ptr(), ..kept }] {
        for (quantize, name) in [(ours(), "kept-ours"), (theirs(), "kept-theirs")] {
            assert_eq!(run(quantize, &input, &folder.path(name), &params), 0, "{name}");
        }
        for i in 1..=3 {
            let part = |name: &str| folder.path(&format!("{name}-{i:05}-of-00003.gguf"));
            same(&part("kept-ours"), &part("kept-theirs"), &format!("part {i}"));
        }
    }
    assert!(open(&folder.path("kept-ours-00001-of-00003.gguf")).n_files() == 3);
    // A model in one file is kept "split" in one.
    assert_eq!(run(ours(), &whole, &folder.path("one"), &kept), 0);
    assert_eq!(run(theirs(), &whole, &folder.path("their-one"), &kept), 0);
    let part = |name: &str| folder.path(&format!("{name}-00001-of-00001.gguf"));
    same(&part("one"), &part("their-one"), "one part");
}

/// Splits a model into `n` files and returns the first.
fn split(model: &Path, folder: &Folder, n: usize) -> PathBuf {
    let files = open(model);
    let names: Vec<&TensorInfo> = files.tensors().collect();
    for i in 0..n {
        let mut gguf = Gguf::new();
        if i == 0 {
            for (key, value) in files.meta().kv() {
                gguf.set(key.as_str(), value.clone()).unwrap();
            }
        }
        gguf.set("split.no", i as u16).unwrap();
        gguf.set("split.count", n as u16).unwrap();
        gguf.set("split.tensors.count", names.len() as i32).unwrap();
        for info in names.iter().skip(i).step_by(n) {
            gguf.add_tensor((*info).clone()).unwrap();
        }
        let bytes = gguf.to_bytes(|t| files.view(&t.name).unwrap().bytes).unwrap();
        std::fs::write(folder.path(&format!("part-{:05}-of-{n:05}.gguf", i + 1)), bytes).unwrap();
    }
    folder.path(&format!("part-00001-of-{n:05}.gguf"))
}

#[test]
fn a_real_model_makes_the_same_files() {
    let folder = Folder::new();
    let model = test_data().join("smollm2.gguf");
    assert!(!folder.compare(&model, &ftype(Q8_0), "requantized without leave"));
    let again = |n: c_int| Params { allow_requantize: true, ..ftype(n) };
    assert!(folder.compare(&model, &again(1), "f16"));
    let f16 = folder.path("f16.gguf");
    std::fs::rename(folder.path("ours.gguf"), &f16).unwrap();
    for n in [Q4_0, Q8_0, 32] {
        assert!(folder.compare(&f16, &ftype(n), &format!("type {n} from f16")));
    }
}

#[test]
fn a_file_may_replace_itself() {
    let folder = Folder::new();
    let model = folder.tiny(&Tiny::new("llama", "plain"));
    let copy = folder.path("copy.gguf");
    std::fs::copy(&model, &copy).unwrap();
    assert_eq!(run(ours(), &model, &folder.path("other.gguf"), &ftype(Q8_0)), 0);
    assert_eq!(run(ours(), &copy, &copy, &ftype(Q8_0)), 0);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(folder.path("other.gguf")).unwrap());
    assert_eq!(run(ours(), &model, Path::new("/dev/null"), &ftype(Q8_0)), 0);
    assert_eq!(folder.names().len(), 3, "{:?}", folder.names());
}

#[test]
fn what_cannot_be_done_is_refused_and_leaves_nothing() {
    let folder = Folder::new();
    let tiny = Tiny::new("llama", "plain");
    let model = folder.tiny(&tiny);
    let wide = folder.tiny(&Tiny { n_layer: 1, ..wide("wide") });
    let before = folder.names();
    let refused = |input: &Path, output: &Path, params: &Params, what: &str| {
        assert_eq!(run(ours(), input, output, params), 1, "{what}");
        assert_eq!(folder.names(), before, "{what}");
    };
    let out = folder.path("out.gguf");
    let base = ftype(Q8_0);
    refused(&folder.path("absent.gguf"), &out, &base, "no input");
    refused(folder.0.path(), &out, &base, "a folder as input");
    refused(&model, &folder.path("absent/out.gguf"), &base, "no folder for the output");
    for n in [-1, 4, 33, 39, 42, 1024, 99, i32::MAX] {
        refused(&model, &out, &ftype(n), "no such file type");
    }
    refused(&model, &out, &Params { output_tensor_type: -1, ..base }, "no such type");
    refused(&model, &out, &Params { output_tensor_type: 4, ..base }, "a retired type");
    refused(&model, &out, &Params { output_tensor_type: 26, ..base }, "a type of integers");
    refused(&model, &out, &Params { output_tensor_type: 12, ..base }, "a type that does not fit");
    refused(&wide, &out, &Params { pure: true, ..ftype(24) }, "needs an importance");
    refused(&wide, &out, &Params { token_embedding_type: 16, ..base }, "an embedding that needs an importance");
    for pattern in [c"(", c"[a", c"(a+)+(?=b"] {
        let types =
            [TensorOverride { pattern: pattern.as_ptr(), dtype: 8 }, TensorOverride { pattern: null(), dtype: 0 }];
        refused(&model, &out, &Params { tt_overrides: types.as_ptr(), ..base }, "no regular expression");
    }
    let mut imatrix = Imatrix::of(&model);
    imatrix.values[3].pop();
    imatrix.relist();
    refused(&model, &out, &Params { imatrix: imatrix.list.as_ptr(), ..base }, "an importance of another size");
    imatrix.values[3].push(f32::NAN);
    imatrix.relist();
    refused(&model, &out, &Params { imatrix: imatrix.list.as_ptr(), ..base }, "an importance with NaN");
    // SAFETY: NULL is allowed to be passed, as an error.
    unsafe {
        let name = CString::new(model.to_str().unwrap()).unwrap();
        assert_eq!(llama_model_quantize(null(), name.as_ptr(), &base), 1);
        assert_eq!(llama_model_quantize(name.as_ptr(), null(), &base), 1);
        assert_eq!(llama_model_quantize(name.as_ptr(), name.as_ptr(), null()), 1);
    }
}

#[test]
fn damaged_files_are_refused() {
    let folder = Folder::new();
    let bytes = Tiny::new("llama", "plain").to_bytes();
    let (input, out) = (folder.path("in.gguf"), folder.path("out.gguf"));
    let n = bytes.len();
    for len in [0, 3, 24, 100, 1000, n / 2, n - 1] {
        std::fs::write(&input, &bytes[..len]).unwrap();
        assert_eq!(run(ours(), &input, &out, &ftype(Q4_0)), 1, "{len} of {n} bytes");
    }
    let mut random = Random::new(5);
    let header = Gguf::from_bytes(&bytes).unwrap().data_offset as usize;
    for _ in 0..200 {
        let mut damaged = bytes.clone();
        for _ in 0..3 {
            damaged[random.below(header)] = random.next() as u8;
        }
        std::fs::write(&input, &damaged).unwrap();
        let result = run(ours(), &input, &out, &ftype(Q4_K_M));
        assert_eq!(result == 0, out.exists());
        let _ = std::fs::remove_file(&out);
    }
    // A NaN among the weights, in rows that are rounded and in rows that are copied.
    for target in [Q4_0, 0] {
        let mut damaged = bytes.clone();
        damaged[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&input, &damaged).unwrap();
        assert_eq!(run(ours(), &input, &out, &ftype(target)), 1);
    }
    assert_eq!(folder.names(), ["in.gguf"]);
}

#[test]
fn defaults_are_theirs() {
    // SAFETY: the type is that of llama.h.
    let theirs: unsafe extern "C" fn() -> Params = unsafe { lcp::function("llama_model_quantize_default_params") };
    // SAFETY: no preconditions.
    let (a, b) = (defaults(), unsafe { theirs() });
    let numbers = |p: &Params| (p.nthread, p.ftype, p.output_tensor_type, p.token_embedding_type, p.max_buf_size);
    let flags =
        |p: &Params| [p.allow_requantize, p.quantize_output_tensor, p.only_copy, p.pure, p.keep_split, p.dry_run];
    assert_eq!(numbers(&a), numbers(&b));
    assert_eq!(flags(&a), flags(&b));
    assert!(a.imatrix.is_null() && a.kv_overrides.is_null() && a.tt_overrides.is_null() && a.prune_layers.is_null());
}
