//! The evaluation callback against llama.cpp's own: both libraries compute the same tiny models behind the same functions
//! of llama.h, and every result that both name must be the same. `make test-data` fetches llama.cpp's library.

mod common;

use common::lcp::{Batch, ContextParams, ModelParams};
use common::test_data;
use common::tiny::{self, Tiny};
use libloading::Library;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

/// Most that a result may differ, as squared error over squared norm: f16 in llama.cpp's flash attention makes 1e-6.
const MAX_NMSE: f64 = 1e-4;

const OP_VIEW: std::ops::RangeInclusive<c_int> = 36..=39; // RESHAPE, VIEW, PERMUTE, TRANSPOSE
const OP_MUL_MAT: c_int = 29;
const F32: c_int = 0;

/// `struct ggml_tensor` of ggml.h.
#[repr(C)]
struct Tensor {
    ty: c_int,
    buffer: *mut c_void,
    ne: [i64; 4],
    nb: [usize; 4],
    op: c_int,
    op_params: [i32; 16],
    flags: i32,
    src: [*mut Tensor; 10],
    view_src: *mut Tensor,
    view_offs: usize,
    data: *mut c_void,
    name: [c_char; 64],
    extra: *mut c_void,
    padding: [c_char; 8],
}

const _: () = assert!(size_of::<Tensor>() == 336);

impl Tensor {
    fn name(&self) -> String {
        // SAFETY: names end with a NUL.
        unsafe { CStr::from_ptr(self.name.as_ptr()) }.to_str().unwrap().to_string()
    }

    fn n_elements(&self) -> usize {
        self.ne.iter().product::<i64>() as usize
    }

    /// The elements in order, which must be f32.
    fn values(&self) -> Vec<f32> {
        assert_eq!(self.ty, F32, "{}", self.name());
        assert!(!self.data.is_null() || self.n_elements() == 0, "{} has no data", self.name());
        let ne = self.ne.map(|n| n as usize);
        (0..self.n_elements())
            .map(|i| {
                let at = [i % ne[0], i / ne[0] % ne[1], i / ne[0] / ne[1] % ne[2], i / ne[0] / ne[1] / ne[2]];
                let offset: usize = at.iter().zip(self.nb).map(|(i, step)| i * step).sum();
                // SAFETY: the callback was given this tensor with its data on the host, and the element is inside of it.
                unsafe { self.data.cast::<u8>().add(offset).cast::<f32>().read_unaligned() }
            })
            .collect()
    }
}

/// What a callback saw of one result.
#[derive(Debug, Clone)]
struct Seen {
    op: String,
    ne: [i64; 4],
    sources: Vec<String>,
    values: Vec<f32>,
}

/// What a callback wants and has seen.
struct Watch {
    lib: &'static Lib,
    wants: fn(&Tensor) -> bool,
    /// Stops at the result of this name.
    until: Option<&'static str>,
    seen: Vec<(String, Seen)>,
    asked: usize,
    /// The last that was asked for and wanted.
    expected: Option<*mut Tensor>,
}

unsafe extern "C" fn callback(t: *mut Tensor, ask: bool, data: *mut c_void) -> bool {
    // SAFETY: both libraries pass a live tensor and the pointer that they were given.
    let (tensor, watch) = unsafe { (&*t, &mut *data.cast::<Watch>()) };
    if ask {
        assert!(watch.expected.is_none(), "asked again before {:?} was shown", watch.expected);
        watch.asked += 1;
        let wanted = (watch.wants)(tensor);
        watch.expected = wanted.then_some(t);
        return wanted;
    }
    assert_eq!(watch.expected.take(), Some(t), "{} was not asked for", tensor.name());
    // SAFETY: the functions take what the library gave.
    unsafe {
        assert!((watch.lib.is_host)(tensor.buffer), "{}", tensor.name());
        // The first source is read by every program that prints tensors.
        assert!(!tensor.src[0].is_null(), "{}", tensor.name());
        let sources = tensor.src.iter().take_while(|s| !s.is_null()).map(|s| (**s).name()).collect();
        let values = if tensor.ty == F32 { tensor.values() } else { Vec::new() };
        if tensor.ty == F32 && !OP_VIEW.contains(&tensor.op) && !values.is_empty() {
            let mut copy = vec![0f32; values.len()];
            (watch.lib.tensor_get)(t, copy.as_mut_ptr().cast(), 0, 4 * copy.len());
            assert_eq!(copy, values, "{}", tensor.name());
        }
        let op = CStr::from_ptr((watch.lib.op_desc)(t)).to_str().unwrap().to_string();
        watch.seen.push((tensor.name(), Seen { op, ne: tensor.ne, sources, values }));
    }
    watch.until != Some(&tensor.name())
}

/// One of the two libraries.
struct Lib {
    model_params: unsafe extern "C" fn() -> ModelParams,
    load: unsafe extern "C" fn(*const c_char, ModelParams) -> *mut c_void,
    model_free: unsafe extern "C" fn(*mut c_void),
    context_params: unsafe extern "C" fn() -> ContextParams,
    init: unsafe extern "C" fn(*mut c_void, ContextParams) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    decode: unsafe extern "C" fn(*mut c_void, Batch) -> i32,
    op_desc: unsafe extern "C" fn(*mut Tensor) -> *const c_char,
    is_host: unsafe extern "C" fn(*mut c_void) -> bool,
    tensor_get: unsafe extern "C" fn(*mut Tensor, *mut c_void, usize, usize),
    set_layer_input: unsafe extern "C" fn(*mut c_void, u32, bool),
    layer_input: unsafe extern "C" fn(*mut c_void, u32) -> *const f32,
    graph_reserve: unsafe extern "C" fn(*mut c_void, u32, u32, u32) -> *mut c_void,
    graph_n_nodes: unsafe extern "C" fn(*mut c_void) -> c_int,
    graph_node: unsafe extern "C" fn(*mut c_void, c_int) -> *mut Tensor,
}

unsafe extern "C" fn quiet(_level: c_int, _text: *const c_char, _data: *mut c_void) {}

/// # Safety
/// `F` must be the symbol's type in the headers.
unsafe fn symbol<F: Copy>(libraries: &[&Library], name: &str) -> F {
    // SAFETY: the caller's promise.
    let found = libraries.iter().find_map(|library| unsafe { library.get::<F>(name.as_bytes()).ok() });
    *found.unwrap_or_else(|| panic!("{name}"))
}

impl Lib {
    fn open(paths: &[PathBuf], backends: Option<&Path>) -> &'static Lib {
        let open = |path: &PathBuf| -> &'static Library {
            // SAFETY: the libraries' initialisers have no preconditions.
            let library = unsafe { Library::new(path) };
            Box::leak(Box::new(library.unwrap_or_else(|e| panic!("{}: {e}; run `make test-data`", path.display()))))
        };
        let libraries: Vec<&Library> = paths.iter().map(open).collect();
        // SAFETY: the types are those of the headers.
        unsafe {
            type LogSet =
                unsafe extern "C" fn(Option<unsafe extern "C" fn(c_int, *const c_char, *mut c_void)>, *mut c_void);
            if std::env::var_os("INFER_TEST_LOG").is_none() {
                symbol::<LogSet>(&libraries, "llama_log_set")(Some(quiet), null_mut());
            }
            if let Some(folder) = backends {
                let folder = CString::new(folder.to_str().unwrap()).unwrap();
                let load: unsafe extern "C" fn(*const c_char) = symbol(&libraries, "ggml_backend_load_all_from_path");
                load(folder.as_ptr());
            }
            symbol::<unsafe extern "C" fn()>(&libraries, "llama_backend_init")();
            Box::leak(Box::new(Lib {
                model_params: symbol(&libraries, "llama_model_default_params"),
                load: symbol(&libraries, "llama_model_load_from_file"),
                model_free: symbol(&libraries, "llama_model_free"),
                context_params: symbol(&libraries, "llama_context_default_params"),
                init: symbol(&libraries, "llama_init_from_model"),
                free: symbol(&libraries, "llama_free"),
                decode: symbol(&libraries, "llama_decode"),
                op_desc: symbol(&libraries, "ggml_op_desc"),
                is_host: symbol(&libraries, "ggml_backend_buffer_is_host"),
                tensor_get: symbol(&libraries, "ggml_backend_tensor_get"),
                set_layer_input: symbol(&libraries, "_Z30llama_set_embeddings_layer_inpP13llama_contextjb"),
                layer_input: symbol(&libraries, "_Z30llama_get_embeddings_layer_inpP13llama_contextj"),
                graph_reserve: symbol(&libraries, "_Z19llama_graph_reserveP13llama_contextjjj"),
                graph_n_nodes: symbol(&libraries, "ggml_graph_n_nodes"),
                graph_node: symbol(&libraries, "ggml_graph_node"),
            }))
        }
    }

    /// llama.cpp's.
    fn theirs() -> &'static Lib {
        static LIB: std::sync::OnceLock<&'static Lib> = std::sync::OnceLock::new();
        LIB.get_or_init(|| {
            let folder = test_data().join("reference");
            let folder = folder.canonicalize().unwrap_or_else(|e| panic!("{e}; run `make test-data`"));
            let files = ["libggml-base.so", "libggml.v0.5.0.so", "libllama.v0.5.0.so"];
            Lib::open(&files.map(|file| folder.join(file)), Some(&folder))
        })
    }

    /// Ours, as it was built with this test.
    fn ours() -> &'static Lib {
        static LIB: std::sync::OnceLock<&'static Lib> = std::sync::OnceLock::new();
        LIB.get_or_init(|| {
            let test = std::env::current_exe().unwrap();
            let profile = test.parent().and_then(Path::parent).unwrap();
            let built = [profile.join("libinfer.so"), profile.join("deps/libinfer.so")];
            let newest = built
                .into_iter()
                .filter(|path| path.exists())
                .max_by_key(|path| path.metadata().unwrap().modified().unwrap());
            Lib::open(&[newest.expect("libinfer.so was built")], None)
        })
    }

    /// Makes a context of 256 cells over a model for as long as `body` runs.
    fn with_context(&self, model: &Path, change: impl FnOnce(&mut ContextParams), body: impl FnOnce(*mut c_void)) {
        let name = CString::new(model.to_str().unwrap()).unwrap();
        // SAFETY: parameters are the defaults but for what is set.
        unsafe {
            let mut params = (self.model_params)();
            params.n_gpu_layers = 0;
            params.progress_callback = Some(no_progress);
            let model = (self.load)(name.as_ptr(), params);
            assert!(!model.is_null(), "{name:?}");
            let mut p = (self.context_params)();
            (p.n_ctx, p.n_batch, p.n_ubatch, p.n_threads, p.n_threads_batch) = (256, 256, 256, 2, 2);
            (p.type_k, p.type_v, p.flash_attn_type) = (F32, F32, 0);
            change(&mut p);
            let context = (self.init)(model, p);
            assert!(!context.is_null(), "{name:?}");
            body(context);
            (self.free)(context);
            (self.model_free)(model);
        }
    }

    /// Decodes tokens of which the last has an output; returns what llama_decode does.
    fn decode(&self, context: *mut c_void, n_tokens: usize) -> i32 {
        let mut tokens: Vec<i32> = (0..n_tokens as i32).map(|i| 7 + 11 * i % 90).collect();
        let mut pos: Vec<i32> = (0..n_tokens as i32).collect();
        let mut counts = vec![1i32; n_tokens];
        let mut seq = 0i32;
        let mut seqs = vec![&raw mut seq; n_tokens];
        let mut logits: Vec<i8> = (1..=n_tokens).map(|i| i8::from(i == n_tokens)).collect();
        let batch = Batch {
            n_tokens: n_tokens as i32,
            token: tokens.as_mut_ptr(),
            embd: null_mut(),
            pos: pos.as_mut_ptr(),
            n_seq_id: counts.as_mut_ptr(),
            seq_id: seqs.as_mut_ptr(),
            logits: logits.as_mut_ptr(),
        };
        // SAFETY: the context lives, and arrays have an element per token.
        unsafe { (self.decode)(context, batch) }
    }

    /// Decodes, watched; returns what llama_decode does, and the watch.
    fn run(&'static self, model: &Path, embeddings: bool, watch: Watch, n_tokens: usize) -> (i32, Watch) {
        // The watch outlives the context.
        let mut watch = Box::new(Watch { lib: self, ..watch });
        let data: *mut Watch = &raw mut *watch;
        let mut status = 0;
        let change = |p: &mut ContextParams| {
            p.embeddings = embeddings;
            (p.cb_eval, p.cb_eval_user_data) = (callback as *mut c_void, data.cast());
        };
        self.with_context(model, change, |context| status = self.decode(context, n_tokens));
        (status, *watch)
    }
}

unsafe extern "C" fn no_progress(_done: f32, _data: *mut c_void) -> bool {
    true
}

/// A watch to be run.
fn watch(wants: fn(&Tensor) -> bool, until: Option<&'static str>) -> Watch {
    Watch { lib: Lib::ours(), wants, until, seen: Vec::new(), asked: 0, expected: None }
}

/// Results by name; names come more than once. llama.cpp leaves the layer out of the names of some norms.
fn by_name(seen: Vec<(String, Seen)>) -> BTreeMap<String, Vec<Seen>> {
    let mut map: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for (name, result) in seen {
        let name = if name.starts_with("norm") { name.split('-').next().unwrap().into() } else { name };
        map.entry(name).or_default().push(result);
    }
    map
}

/// Results that llama.cpp names and that are no views. `kqv_out` is a view or copy there and the attention itself here.
fn comparable(t: &Tensor) -> bool {
    let name = t.name();
    let is_attention = name.starts_with("kqv_out");
    let unnamed = name.starts_with("node_") || name.contains(" (");
    let inside_attention = name.starts_with("kq") || name.starts_with("v_cont");
    let counted = t.ty == F32 && !OP_VIEW.contains(&t.op) && !unnamed && !inside_attention;
    counted || is_attention
}

fn check(tiny: &Tiny) {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write(folder.path());
    let (status, theirs) = Lib::theirs().run(&path, tiny.embeds(), watch(comparable, None), 9);
    assert_eq!(status, 0);
    let (status, ours) = Lib::ours().run(&path, tiny.embeds(), watch(comparable, None), 9);
    assert_eq!(status, 0);
    let (theirs, mut ours) = (by_name(theirs.seen), by_name(ours.seen));
    assert!(theirs.len() > 8 * tiny.n_layer, "{theirs:?}");
    for (name, theirs) in theirs {
        let model = format!("{} {}: {name}", tiny.arch, tiny.name);
        let ours = ours.remove(&name).unwrap_or_else(|| panic!("{model}: not here"));
        assert_eq!(ours.len(), theirs.len(), "{model}");
        for (have, want) in ours.iter().zip(&theirs) {
            if !name.starts_with("kqv_out") {
                assert_eq!((&have.op, have.ne), (&want.op, want.ne), "{model}");
            }
            let (mut error, mut norm) = (0.0, f64::MIN_POSITIVE);
            for (a, b) in have.values.iter().zip(&want.values) {
                error += f64::from(a - b).powi(2);
                norm += f64::from(*b).powi(2);
            }
            assert_eq!(have.values.len(), want.values.len(), "{model}");
            assert!(error / norm < MAX_NMSE, "{model}: {:.1e}", error / norm);
        }
    }
    // Some of llama.cpp's architectures do not name it.
    let surplus: Vec<_> = ours.keys().filter(|name| !name.starts_with("attn_out")).collect();
    assert!(surplus.is_empty(), "{} {}: {surplus:?}", tiny.arch, tiny.name);
}

#[test]
fn every_result_has_llama_cpps_name_and_values() {
    for tiny in tiny::all() {
        // Fused projections are cut into views there and are three products here.
        if !tiny.fused_qkv {
            check(&tiny);
        }
    }
}

/// What llama-imatrix reads: products of weights by their names, with the activations that they multiply.
#[test]
fn products_have_their_weights_and_activations() {
    let wants = |t: &Tensor| t.op == OP_MUL_MAT;
    let tiny = Tiny::new("llama", "imatrix");
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write(folder.path());
    let (_, watched) = Lib::ours().run(&path, false, watch(wants, None), 20);
    let weights: Vec<&str> = watched.seen.iter().map(|(_, r)| &r.sources[0][..]).collect();
    let of_layer = |il: usize| {
        ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
            .map(|name| format!("blk.{il}.{name}.weight"))
    };
    let mut expected: Vec<String> = (0..tiny.n_layer).flat_map(of_layer).collect();
    expected.push("output.weight".into());
    assert_eq!(weights, expected);
    assert!(watched.asked > watched.seen.len());
    // Also in the last layer every token is projected, whether or not its output is wanted.
    let last = watched.seen.iter().find(|(_, r)| r.sources[0] == "blk.1.attn_output.weight").unwrap();
    assert_eq!((last.1.ne[1], &last.1.sources[1][..]), (20, "kqv_out-1"));
}

/// A projection that is one matrix in the file is three products here, all of them known by that matrix.
#[test]
fn parts_of_a_matrix_have_its_name() {
    let wants = |t: &Tensor| t.op == OP_MUL_MAT;
    let tiny = Tiny { fused_qkv: true, ..Tiny::new("llama", "fused") };
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write(folder.path());
    let (_, watched) = Lib::ours().run(&path, false, watch(wants, None), 20);
    let fused: Vec<_> = watched.seen.iter().filter(|(_, r)| r.sources[0] == "blk.0.attn_qkv.weight").collect();
    assert_eq!(fused.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(), ["Qcur-0", "Kcur-0", "Vcur-0"]);
    assert!(fused.iter().all(|(_, r)| r.sources[1] == "attn_norm-0"));
}

#[test]
fn returning_false_stops_without_an_error() {
    let tiny = Tiny::new("llama", "stopped");
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write(folder.path());
    for lib in [Lib::theirs(), Lib::ours()] {
        let (status, watched) = lib.run(&path, false, watch(|_| true, Some("l_out-0")), 5);
        assert_eq!(status, 0);
        assert_eq!(watched.seen.last().unwrap().0, "l_out-0");
    }
}

/// What draft models of speculative decoding read of their target.
#[test]
fn inputs_of_layers_are_those_of_llama_cpp() {
    const N_TOKENS: usize = 9;
    for arch in ["llama", "qwen3"] {
        let tiny = Tiny::new(arch, "inputs");
        let folder = tempfile::tempdir().unwrap();
        let path = tiny.write(folder.path());
        let [theirs, ours] = [Lib::theirs(), Lib::ours()].map(|lib| {
            let mut kept = Vec::new();
            // Three ubatches, the last of them not full.
            lib.with_context(
                &path,
                |p| p.n_ubatch = 4,
                |context| {
                    for il in 0..2 {
                        // SAFETY: the context lives and has two layers.
                        unsafe { (lib.set_layer_input)(context, il, true) };
                    }
                    assert_eq!(lib.decode(context, N_TOKENS), 0);
                    for il in 0..2 {
                        // SAFETY: there is a row for each token of the batch.
                        kept.push(unsafe {
                            std::slice::from_raw_parts((lib.layer_input)(context, il), N_TOKENS * tiny.n_embd).to_vec()
                        });
                    }
                },
            );
            kept
        });
        let nmse = common::compare::distance(&theirs, &ours).worst;
        assert!(nmse < MAX_NMSE, "{arch}: {nmse:.1e}");
    }
}

#[test]
fn reserved_graphs_list_what_is_computed() {
    let tiny = Tiny::new("qwen3", "reserved");
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write(folder.path());
    let lib = Lib::ours();
    let (_, watched) = lib.run(&path, false, watch(|_| true, None), 5);
    lib.with_context(
        &path,
        |_| (),
        |context| {
            // SAFETY: the context lives, and the graph is its own until the next call.
            unsafe {
                let graph = (lib.graph_reserve)(context, 5, 1, 1);
                let node = |i| (&*(lib.graph_node)(graph, i), (lib.graph_node)(graph, i));
                assert_eq!((lib.graph_n_nodes)(graph) as usize, watched.seen.len());
                for (i, (name, seen)) in watched.seen.iter().enumerate() {
                    let (tensor, ptr) = node(i as c_int);
                    let op = CStr::from_ptr((lib.op_desc)(ptr)).to_str().unwrap();
                    assert_eq!((&tensor.name(), op, tensor.ne), (name, &seen.op[..], seen.ne));
                }
                assert_eq!(node(-1).0.name(), "result_output");
                assert!((lib.graph_node)(graph, watched.seen.len() as c_int).is_null());
                assert!((lib.graph_reserve)(context, 0, 1, 0).is_null());
                assert!((lib.graph_reserve)(context, u32::MAX, 1, 1).is_null());
            }
        },
    );
}
