//! `llama_model_init_from_user`, `llama_model_save_to_file` and the embedding table of a model against llama.cpp's library,
//! on tiny models of every architecture.

mod common;

use common::compare::{MAX_KL, MAX_NMSE, distance};
use common::engine::{Engine, Ours, Setup};
use common::lcp::{self, TheirModel, Theirs};
use common::scenario::{self, Run};
use common::tiny::{self, Random, Tiny};
use infer::context::BackendKind;
use infer::gguf::{Gguf, GgufFiles, LoadOptions, Source, TensorInfo};
use infer::model::Pooling;
use infer::quant::{self, DType};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

type Ptr = *mut c_void;

/// `llama_model_params` of llama.h, of which the tests set `kv_overrides`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ModelParams([usize; 10]);

const KV_OVERRIDES: usize = 8;

/// `llama_model_kv_override` of llama.h.
#[repr(C)]
struct KvOverride {
    tag: c_int,
    key: [u8; 128],
    value: [u64; 16],
}

/// `gguf_init_params` of gguf.h.
#[repr(C)]
struct GgufParams {
    no_alloc: bool,
    ctx: Ptr,
}

/// `ggml_tensor` of ggml.h.
#[repr(C)]
struct Tensor {
    dtype: c_int,
    buffer: Ptr,
    ne: [i64; 4],
    nb: [usize; 4],
    op: [i32; 18],
    src: [Ptr; 10],
    view_src: Ptr,
    view_offs: usize,
    data: Ptr,
    name: [c_char; 64],
    extra: Ptr,
    padding: [u8; 8],
}

type SetData = unsafe extern "C" fn(*mut Tensor, Ptr);

/// The functions of one of the two libraries.
struct Library {
    params: unsafe extern "C" fn() -> ModelParams,
    read: unsafe extern "C" fn(*const c_char, GgufParams) -> Ptr,
    free_metadata: unsafe extern "C" fn(Ptr),
    from_user: unsafe extern "C" fn(Ptr, Option<SetData>, Ptr, ModelParams) -> Ptr,
    load: unsafe extern "C" fn(*const c_char, ModelParams) -> Ptr,
    save: unsafe extern "C" fn(Ptr, *const c_char),
    free: unsafe extern "C" fn(Ptr),
    n_params: unsafe extern "C" fn(Ptr) -> u64,
    tok_embd: unsafe extern "C" fn(Ptr, *mut f32) -> u32,
    set: unsafe extern "C" fn(*mut Tensor, *const c_void, usize, usize),
    nbytes: unsafe extern "C" fn(*const Tensor) -> usize,
}

unsafe extern "C" {
    fn llama_model_default_params() -> ModelParams;
    fn gguf_init_from_file(path: *const c_char, params: GgufParams) -> Ptr;
    fn gguf_free(ctx: Ptr);
    fn llama_model_init_from_user(metadata: Ptr, set: Option<SetData>, ud: Ptr, params: ModelParams) -> Ptr;
    fn llama_model_load_from_file(path: *const c_char, params: ModelParams) -> Ptr;
    fn llama_model_save_to_file(model: Ptr, path: *const c_char);
    fn llama_model_free(model: Ptr);
    fn llama_model_n_params(model: Ptr) -> u64;
    #[link_name = "_Z24llama_model_get_tok_embdPK11llama_modelPf"]
    fn llama_model_get_tok_embd(model: Ptr, out: *mut f32) -> u32;
    fn ggml_backend_tensor_set(tensor: *mut Tensor, data: *const c_void, offset: usize, size: usize);
    fn ggml_nbytes(tensor: *const Tensor) -> usize;
}

fn ours() -> Library {
    let _ = infer::gguf::DEFAULT_ALIGNMENT; // links the crate
    Library {
        params: llama_model_default_params,
        read: gguf_init_from_file,
        free_metadata: gguf_free,
        from_user: llama_model_init_from_user,
        load: llama_model_load_from_file,
        save: llama_model_save_to_file,
        free: llama_model_free,
        n_params: llama_model_n_params,
        tok_embd: llama_model_get_tok_embd,
        set: ggml_backend_tensor_set,
        nbytes: ggml_nbytes,
    }
}

fn theirs() -> Library {
    // SAFETY: the types are those of llama.h, llama-ext.h, ggml.h, ggml-backend.h and gguf.h.
    unsafe {
        Library {
            params: lcp::function("llama_model_default_params"),
            read: lcp::function("gguf_init_from_file"),
            free_metadata: lcp::function("gguf_free"),
            from_user: lcp::function("llama_model_init_from_user"),
            load: lcp::function("llama_model_load_from_file"),
            save: lcp::function("llama_model_save_to_file"),
            free: lcp::function("llama_model_free"),
            n_params: lcp::function("llama_model_n_params"),
            tok_embd: lcp::function("_Z24llama_model_get_tok_embdPK11llama_modelPf"),
            set: lcp::function("ggml_backend_tensor_set"),
            nbytes: lcp::function("ggml_nbytes"),
        }
    }
}

fn c(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

/// What a callback was asked for: type and shape by name.
type Asked = BTreeMap<String, (c_int, [i64; 4])>;

struct User<'a> {
    library: &'a Library,
    asked: Asked,
}

/// Fills a tensor with values that depend on its name alone.
unsafe extern "C" fn fill(tensor: *mut Tensor, user: Ptr) {
    // SAFETY: the library passes a live tensor, and the user data that it was given.
    let (t, user) = unsafe { (&*tensor, &mut *user.cast::<User>()) };
    // SAFETY: names are NUL-terminated.
    let name = unsafe { CStr::from_ptr(t.name.as_ptr()) }.to_str().unwrap().to_owned();
    let dtype = DType::from_u32(t.dtype as u32).unwrap();
    let n: i64 = t.ne.iter().product();
    let mut random = Random::new(name.bytes().fold(17, |h, b| (h ^ u64::from(b)).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    let spread = 1.2 / (t.ne[0] as f32).sqrt();
    let values: Vec<f32> = (0..n)
        .map(|_| match &name[..] {
            _ if name.starts_with("rope_") => 1.0 + random.normal().abs(),
            _ if name.contains("norm") && name.ends_with("weight") => 1.0 + 0.1 * random.normal(),
            _ if name.ends_with("scale") => 1.0 + 0.2 * random.normal(),
            _ if name.ends_with("bias") => 0.1 * random.normal(),
            _ => spread * random.normal(),
        })
        .collect();
    let mut bytes = vec![0; dtype.row_size(t.ne[0] as usize) * (n / t.ne[0]) as usize];
    quant::quantize(dtype, &values, &mut bytes).unwrap();
    // SAFETY: the tensor is live and as large as ggml_nbytes says.
    unsafe {
        assert_eq!((user.library.nbytes)(t), bytes.len(), "{name}");
        let half = bytes.len() / 2;
        (user.library.set)(tensor, bytes.as_ptr().cast(), 0, half);
        (user.library.set)(tensor, bytes[half..].as_ptr().cast(), half, bytes.len() - half);
    }
    user.asked.insert(name, (t.dtype, t.ne));
}

impl Library {
    /// Makes a model from the metadata of a file, and writes it to another.
    fn make(&self, metadata: &Path, to: &Path) -> Asked {
        let mut user = User { library: self, asked: Asked::new() };
        // SAFETY: paths are NUL-terminated, the metadata and the model live until they are freed.
        unsafe {
            let gguf = (self.read)(c(metadata).as_ptr(), GgufParams { no_alloc: true, ctx: null_mut() });
            assert!(!gguf.is_null(), "{}", metadata.display());
            let model = (self.from_user)(gguf, Some(fill), (&raw mut user).cast(), (self.params)());
            (self.free_metadata)(gguf);
            assert!(!model.is_null(), "a model from {} (INFER_TEST_LOG=1 shows why not)", metadata.display());
            let n: i64 = user.asked.values().map(|(_, ne)| ne.iter().product::<i64>()).sum();
            assert!((self.n_params)(model) <= n as u64);
            (self.save)(model, c(to).as_ptr());
            (self.free)(model);
        }
        user.asked
    }

    /// Loads a file and writes the model to another.
    fn copy(&self, from: &Path, to: &Path, params: ModelParams) {
        // SAFETY: paths are NUL-terminated, the model lives until it is freed.
        unsafe {
            let model = (self.load)(c(from).as_ptr(), params);
            assert!(!model.is_null(), "{}", from.display());
            (self.save)(model, c(to).as_ptr());
            (self.free)(model);
        }
    }

    fn tok_embd(&self, path: &Path) -> Vec<f32> {
        // SAFETY: the path is NUL-terminated; there is room for as many numbers as were told.
        unsafe {
            let model = (self.load)(c(path).as_ptr(), (self.params)());
            let n = (self.tok_embd)(model, null_mut());
            let mut table = vec![0.0; n as usize];
            assert_eq!((self.tok_embd)(model, table.as_mut_ptr()), n);
            (self.free)(model);
            table
        }
    }
}

/// A model's answers, by our library and by llama.cpp's.
fn answers(path: &Path, tiny: &Tiny) -> [Vec<Vec<f32>>; 2] {
    let embeds = tiny.embeds();
    let setup = Setup { embeddings: embeds, pooling: embeds.then_some(Pooling::None), ..Setup::default() };
    let scenario = if embeds { scenario::encode_tokens } else { scenario::prompt_then_steps };
    let trace = |engine: &mut dyn Engine| {
        let mut run = Run::new(engine, tiny.n_vocab);
        scenario(&mut run);
        run.trace.rows
    };
    let ours = trace(&mut Ours::try_new(&Ours::load(path), &setup, BackendKind::Auto).unwrap());
    let theirs = trace(&mut Theirs::new(&TheirModel::load(path), &setup).unwrap());
    [ours, theirs]
}

fn close(a: &[Vec<f32>], b: &[Vec<f32>], what: &str) {
    let d = distance(a, b);
    assert!(d.nmse <= MAX_NMSE && d.kl <= MAX_KL, "{what}: {d:?}");
}

fn open(path: &Path) -> GgufFiles {
    GgufFiles::open(Source::Path(path.into()), LoadOptions::default()).unwrap()
}

/// The metadata of a model in a file, without tensors, or with some of which only the types count.
fn metadata(tiny: &Tiny, tensors: &Asked, path: &Path) {
    let mut gguf = Gguf::new();
    for (key, value) in Gguf::from_bytes(&tiny.to_bytes()).unwrap().kv() {
        gguf.set(key.as_str(), value.clone()).unwrap();
    }
    for (name, (_, ne)) in tensors {
        let plain = ["gate_inp", "token_types", "position_embd"].iter().any(|part| name.contains(part));
        let dtype = if ne[1] > 1 && !plain { DType::F16 } else { DType::F32 };
        gguf.add_tensor(TensorInfo::new(name, dtype, &ne.map(|n| n as u64)).unwrap()).unwrap();
    }
    let zeros = vec![0; gguf.tensors().iter().map(|t| t.size as usize).max().unwrap_or(0)];
    std::fs::write(path, gguf.to_bytes(|t| &zeros[..t.size as usize]).unwrap()).unwrap();
}

#[test]
fn models_from_callers_are_those_of_llama_cpp() {
    let variants = ["fused", "fused-bias", "attn-bias", "mlp-bias", "tied", "head"];
    for tiny in tiny::all().into_iter().filter(|t| !variants.contains(&t.name)) {
        let what = format!("{} {}", tiny.arch, tiny.name);
        let folder = tempfile::tempdir().unwrap();
        let (bare, typed) = (folder.path().join("bare"), folder.path().join("typed"));
        let (a, b) = (folder.path().join("ours"), folder.path().join("theirs"));
        metadata(&tiny, &Asked::new(), &bare);
        let all = ours().make(&bare, &a);
        assert!(all.values().all(|(dtype, _)| *dtype == DType::F32 as c_int), "{what}");
        // Releases of llama.cpp differ in which tensors they make unasked, so that all are named.
        metadata(&tiny, &all, &typed);
        let (asked, their_asked) = (ours().make(&typed, &a), theirs().make(&typed, &b));
        assert_eq!(asked, their_asked, "{what}");
        assert!(asked.keys().eq(all.keys()), "{what}");
        // Both files in both libraries.
        let [from_ours, theirs_from_ours] = answers(&a, &tiny);
        close(&theirs_from_ours, &from_ours, &format!("{what}: our file"));
        if tiny.arch == "bert" {
            // llama.cpp leaves out the embedding table of models without a head.
            continue;
        }
        let [from_theirs, theirs_from_theirs] = answers(&b, &tiny);
        close(&theirs_from_theirs, &theirs_from_ours, &format!("{what}: their answers"));
        close(&theirs_from_theirs, &from_theirs, &format!("{what}: their file"));
    }
}

#[test]
fn metadata_alone_make_a_model_of_f32() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bare.gguf");
    metadata(&Tiny::new("llama", "plain"), &Asked::new(), &path);
    let asked = ours().make(&path, &folder.path().join("made.gguf"));
    let mut expected = vec!["output.weight", "output_norm.weight", "rope_freqs.weight", "token_embd.weight"];
    let layer = |il: usize| {
        let linear = ["attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up"];
        let parts = linear.iter().flat_map(|base| ["bias", "scale", "weight"].map(|part| format!("{base}.{part}")));
        let norms = ["attn_norm.weight", "ffn_norm.weight"].map(String::from);
        parts.chain(norms).map(move |name| format!("blk.{il}.{name}")).collect::<Vec<_>>()
    };
    let layers = [layer(0), layer(1)].concat();
    expected.extend(layers.iter().map(String::as_str));
    expected.sort();
    assert_eq!(asked.keys().collect::<Vec<_>>(), expected);
    assert!(asked.values().all(|(dtype, _)| *dtype == DType::F32 as c_int));
}

#[test]
fn nonsense_from_callers_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny::new("llama", "plain");
    let full = Gguf::from_bytes(&tiny.to_bytes()).unwrap();
    let path = folder.path().join("bad.gguf");
    let library = ours();
    let mut user = User { library: &library, asked: Asked::new() };
    let mut refused = |change: &dyn Fn(&mut Gguf), set: Option<SetData>| {
        let mut gguf = Gguf::new();
        for (key, value) in full.kv() {
            gguf.set(key.as_str(), value.clone()).unwrap();
        }
        change(&mut gguf);
        std::fs::write(&path, gguf.to_bytes(|_| &[]).unwrap()).unwrap();
        // SAFETY: the path is NUL-terminated, metadata live until they are freed.
        unsafe {
            let gguf = (library.read)(c(&path).as_ptr(), GgufParams { no_alloc: true, ctx: null_mut() });
            assert!(!gguf.is_null());
            let model = (library.from_user)(gguf, set, (&raw mut user).cast(), (library.params)());
            (library.free_metadata)(gguf);
            assert!(model.is_null());
        }
    };
    refused(&|_| {}, None);
    refused(&|g| g.set("general.architecture", "unknown").unwrap(), Some(fill));
    refused(&|g| g.set("general.architecture", 7u32).unwrap(), Some(fill));
    refused(
        &|g| {
            g.remove("llama.block_count");
        },
        Some(fill),
    );
    refused(&|g| g.set("llama.embedding_length", 0u32).unwrap(), Some(fill));
    refused(&|g| g.set("llama.embedding_length", u32::MAX).unwrap(), Some(fill));
    refused(
        &|g| {
            // More than there is memory.
            g.set("llama.embedding_length", 1u32 << 23).unwrap();
            g.set("llama.feed_forward_length", 1u32 << 23).unwrap();
            g.set("llama.block_count", 500u32).unwrap();
        },
        Some(fill),
    );
    assert!(user.asked.is_empty());
    // SAFETY: NULL is allowed to be passed, as an error.
    unsafe {
        assert!((library.from_user)(null_mut(), Some(fill), null_mut(), (library.params)()).is_null());
        (library.save)(null_mut(), null());
    }
}

#[test]
fn saved_models_are_the_loaded_ones() {
    for tiny in tiny::all() {
        let what = format!("{} {}", tiny.arch, tiny.name);
        let folder = tempfile::tempdir().unwrap();
        let from = tiny.write(folder.path());
        let to = folder.path().join("saved.gguf");
        // SAFETY: no preconditions.
        ours().copy(&from, &to, unsafe { (ours().params)() });
        let (a, b) = (open(&from), open(&to));
        assert_eq!(a.meta().kv(), b.meta().kv(), "{what}");
        assert_eq!(a.n_tensors(), b.n_tensors(), "{what}");
        for info in a.tensors() {
            let (x, y) = (a.view(&info.name).unwrap(), b.view(&info.name).unwrap());
            assert!(x.dtype == y.dtype && x.ne == y.ne && x.bytes == y.bytes, "{what}: {}", info.name);
        }
        if tiny.name == "plain" {
            let [ours, theirs] = answers(&to, &tiny);
            close(&theirs, &ours, &what);
        }
    }
}

#[test]
fn overrides_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let from = Tiny::new("llama", "plain").write(folder.path());
    let to = folder.path().join("saved.gguf");
    let entry = |tag, key: &str, value| {
        let mut o = KvOverride { tag, key: [0; 128], value: [0; 16] };
        o.key[..key.len()].copy_from_slice(key.as_bytes());
        o.value[0] = value;
        o
    };
    let list = [
        entry(1, "llama.rope.freq_base", 5000f64.to_bits()),
        entry(0, "llama.context_length", 99),
        entry(2, "tokenizer.ggml.add_bos_token", 1),
        entry(0, "", 0),
    ];
    let library = ours();
    // SAFETY: no preconditions.
    let mut params = unsafe { (library.params)() };
    params.0[KV_OVERRIDES] = list.as_ptr() as usize;
    library.copy(&from, &to, params);
    let files = open(&to);
    assert_eq!(files.meta().find::<f32>("llama.rope.freq_base").unwrap(), Some(5000.0));
    assert_eq!(files.meta().find::<u32>("llama.context_length").unwrap(), Some(99));
    assert_eq!(files.meta().find::<bool>("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
}

#[test]
fn embedding_tables_are_given_in_f32() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q4_0, DType::Q6K] {
        let folder = tempfile::tempdir().unwrap();
        let n_embd = if dtype == DType::Q6K { 256 } else { 64 };
        let tiny = Tiny { dtype, n_embd, n_ff: 256, head: 64, ..Tiny::new("llama", "plain") };
        let path = tiny.write(folder.path());
        let table = ours().tok_embd(&path);
        assert_eq!(table.len(), n_embd * tiny.n_vocab, "{dtype}");
        assert!(table == theirs().tok_embd(&path), "{dtype}");
    }
    // SAFETY: NULL is allowed to be passed, as an error.
    unsafe { assert_eq!((ours().tok_embd)(null_mut(), null_mut()), 0) };
}
