//! llama.cpp's own library behind [`Engine`], by `dlopen`.

use super::engine::{Engine, Setup, Status, Tok};
use super::test_data;
use infer::model::{Pooling, RopeScaling};
use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::OnceLock;

/// `llama_model_params` of llama.h.
#[repr(C)]
pub struct ModelParams {
    pub devices: *mut c_void,
    pub tensor_buft_overrides: *const c_void,
    pub n_gpu_layers: i32,
    pub modes: [c_int; 3],
    pub main_gpu: i32,
    pub tensor_split: *const f32,
    pub progress_callback: Option<unsafe extern "C" fn(f32, *mut c_void) -> bool>,
    pub progress_callback_user_data: *mut c_void,
    pub kv_overrides: *const c_void,
    pub flags: [bool; 6],
}

/// `llama_context_params` of llama.h.
#[repr(C)]
pub struct ContextParams {
    pub n_ctx: u32,
    pub n_batch: u32,
    pub n_ubatch: u32,
    pub n_seq_max: u32,
    pub n_rs_seq: u32,
    pub n_outputs_max: u32,
    pub n_outputs_max_per_seq: u32,
    pub n_threads: i32,
    pub n_threads_batch: i32,
    pub ctx_type: c_int,
    pub rope_scaling_type: c_int,
    pub pooling_type: c_int,
    pub attention_type: c_int,
    pub flash_attn_type: c_int,
    pub rope_freq_base: f32,
    pub rope_freq_scale: f32,
    pub yarn: [f32; 4],
    pub yarn_orig_ctx: u32,
    pub defrag_thold: f32,
    pub cb_eval: *mut c_void,
    pub cb_eval_user_data: *mut c_void,
    pub type_k: c_int,
    pub type_v: c_int,
    pub abort_callback: *mut c_void,
    pub abort_callback_data: *mut c_void,
    pub embeddings: bool,
    pub offload_kqv: bool,
    pub no_perf: bool,
    pub op_offload: bool,
    pub swa_full: bool,
    pub kv_unified: bool,
    pub samplers: *mut c_void,
    pub n_samplers: usize,
    pub ctx_other: *mut c_void,
}

const _: () = assert!(size_of::<ModelParams>() == 80 && size_of::<ContextParams>() == 160);

/// `llama_batch` of llama.h.
#[repr(C)]
pub struct Batch {
    pub n_tokens: i32,
    pub token: *mut i32,
    pub embd: *mut f32,
    pub pos: *mut i32,
    pub n_seq_id: *mut i32,
    pub seq_id: *mut *mut i32,
    pub logits: *mut i8,
}

pub type Ptr = *mut c_void;
type LogCallback = unsafe extern "C" fn(c_int, *const c_char, Ptr);

/// The functions that the tests call.
struct Api {
    library: &'static Library,
    model_params: unsafe extern "C" fn() -> ModelParams,
    load: unsafe extern "C" fn(*const c_char, ModelParams) -> Ptr,
    model_free: unsafe extern "C" fn(Ptr),
    n_vocab: unsafe extern "C" fn(Ptr) -> i32,
    get_vocab: unsafe extern "C" fn(Ptr) -> Ptr,
    n_embd_out: unsafe extern "C" fn(Ptr) -> i32,
    n_cls_out: unsafe extern "C" fn(Ptr) -> u32,
    context_params: unsafe extern "C" fn() -> ContextParams,
    init: unsafe extern "C" fn(Ptr, ContextParams) -> Ptr,
    free: unsafe extern "C" fn(Ptr),
    decode: unsafe extern "C" fn(Ptr, Batch) -> i32,
    logits: unsafe extern "C" fn(Ptr, i32) -> *const f32,
    embeddings: unsafe extern "C" fn(Ptr, i32) -> *const f32,
    embeddings_seq: unsafe extern "C" fn(Ptr, i32) -> *const f32,
    memory: unsafe extern "C" fn(Ptr) -> Ptr,
    clear: unsafe extern "C" fn(Ptr, bool),
    seq_rm: unsafe extern "C" fn(Ptr, i32, i32, i32) -> bool,
    seq_cp: unsafe extern "C" fn(Ptr, i32, i32, i32, i32),
    seq_keep: unsafe extern "C" fn(Ptr, i32),
    seq_add: unsafe extern "C" fn(Ptr, i32, i32, i32, i32),
    seq_div: unsafe extern "C" fn(Ptr, i32, i32, i32, c_int),
    pos_min: unsafe extern "C" fn(Ptr, i32) -> i32,
    pos_max: unsafe extern "C" fn(Ptr, i32) -> i32,
    can_shift: unsafe extern "C" fn(Ptr) -> bool,
    set_causal: unsafe extern "C" fn(Ptr, bool),
    set_embeddings: unsafe extern "C" fn(Ptr, bool),
    set_abort: unsafe extern "C" fn(Ptr, Option<unsafe extern "C" fn(Ptr) -> bool>, Ptr),
}

/// A function of llama.cpp's llama.h.
///
/// # Safety
/// `F` must be its type.
pub unsafe fn function<F: Copy>(name: &str) -> F {
    // SAFETY: the caller's promise.
    unsafe { symbol(api().library, name) }
}

/// Its messages are of interest only to who debugs a difference.
unsafe extern "C" fn log(_level: c_int, text: *const c_char, _data: Ptr) {
    if std::env::var_os("INFER_TEST_LOG").is_some() {
        // SAFETY: the library passes a NUL-terminated string.
        eprint!("{}", unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy());
    }
}

/// The dots that it prints while loading are left out.
unsafe extern "C" fn no_progress(_done: f32, _data: Ptr) -> bool {
    true
}

/// # Safety
/// `F` must be the symbol's type in llama.h.
unsafe fn symbol<F: Copy>(library: &Library, name: &str) -> F {
    // SAFETY: the caller's promise.
    unsafe { *library.get::<F>(name.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}")) }
}

fn api() -> &'static Api {
    static API: OnceLock<Api> = OnceLock::new();
    API.get_or_init(|| {
        let folder = test_data().join("reference");
        let folder =
            folder.canonicalize().unwrap_or_else(|e| panic!("{}: {e}; run `make test-data`", folder.display()));
        let open = |name: &str| -> &'static Library {
            let path = folder.join(name);
            // SAFETY: the library's initialisers have no preconditions.
            let library = unsafe { Library::new(&path) };
            Box::leak(Box::new(
                library.unwrap_or_else(|e| panic!("{e}; run `make test-data` to fetch {}", path.display())),
            ))
        };
        let (ggml, llama) = (open("libggml.v0.5.0.so"), open("libllama.v0.5.0.so"));
        // SAFETY: the types are those of ggml-backend.h and llama.h; the struct layouts are asserted above or by the facts
        // that tests/abi holds.
        unsafe {
            let path = CString::new(folder.to_str().unwrap()).unwrap();
            symbol::<unsafe extern "C" fn(Option<LogCallback>, Ptr)>(llama, "llama_log_set")(Some(log), null_mut());
            symbol::<unsafe extern "C" fn(*const c_char)>(ggml, "ggml_backend_load_all_from_path")(path.as_ptr());
            symbol::<unsafe extern "C" fn()>(llama, "llama_backend_init")();
            Api {
                library: llama,
                model_params: symbol(llama, "llama_model_default_params"),
                load: symbol(llama, "llama_model_load_from_file"),
                model_free: symbol(llama, "llama_model_free"),
                n_vocab: symbol(llama, "llama_vocab_n_tokens"),
                get_vocab: symbol(llama, "llama_model_get_vocab"),
                n_embd_out: symbol(llama, "llama_model_n_embd_out"),
                n_cls_out: symbol(llama, "llama_model_n_cls_out"),
                context_params: symbol(llama, "llama_context_default_params"),
                init: symbol(llama, "llama_init_from_model"),
                free: symbol(llama, "llama_free"),
                decode: symbol(llama, "llama_decode"),
                logits: symbol(llama, "llama_get_logits_ith"),
                embeddings: symbol(llama, "llama_get_embeddings_ith"),
                embeddings_seq: symbol(llama, "llama_get_embeddings_seq"),
                memory: symbol(llama, "llama_get_memory"),
                clear: symbol(llama, "llama_memory_clear"),
                seq_rm: symbol(llama, "llama_memory_seq_rm"),
                seq_cp: symbol(llama, "llama_memory_seq_cp"),
                seq_keep: symbol(llama, "llama_memory_seq_keep"),
                seq_add: symbol(llama, "llama_memory_seq_add"),
                seq_div: symbol(llama, "llama_memory_seq_div"),
                pos_min: symbol(llama, "llama_memory_seq_pos_min"),
                pos_max: symbol(llama, "llama_memory_seq_pos_max"),
                can_shift: symbol(llama, "llama_memory_can_shift"),
                set_causal: symbol(llama, "llama_set_causal_attn"),
                set_embeddings: symbol(llama, "llama_set_embeddings"),
                set_abort: symbol(llama, "llama_set_abort_callback"),
            }
        }
    })
}

/// A model that llama.cpp loaded.
pub struct TheirModel(Ptr);

// SAFETY: llama.cpp's models are read-only once loaded.
unsafe impl Send for TheirModel {}
// SAFETY: as above.
unsafe impl Sync for TheirModel {}

impl TheirModel {
    pub fn load(path: &Path) -> TheirModel {
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the path is NUL-terminated; parameters are the defaults but for what is set.
        let model = unsafe {
            let mut params = (api().model_params)();
            params.n_gpu_layers = 0;
            params.progress_callback = Some(no_progress);
            (api().load)(name.as_ptr(), params)
        };
        assert!(!model.is_null(), "llama.cpp cannot load {} (INFER_TEST_LOG=1 shows why)", path.display());
        TheirModel(model)
    }
}

impl TheirModel {
    /// The `llama_model *`.
    pub fn ptr(&self) -> Ptr {
        self.0
    }
}

impl Drop for TheirModel {
    fn drop(&mut self) {
        // SAFETY: it was loaded, and contexts borrow it.
        unsafe { (api().model_free)(self.0) }
    }
}

/// A context of llama.cpp's.
pub struct Theirs<'a> {
    context: Ptr,
    model: &'a TheirModel,
    pooling: Option<Pooling>,
    abort: Box<Abort>,
}

struct Abort {
    asked: usize,
    at: usize,
}

unsafe extern "C" fn abort(data: Ptr) -> bool {
    // SAFETY: `data` is the context's Abort, which outlives its decodes.
    let abort = unsafe { &mut *data.cast::<Abort>() };
    abort.asked += 1;
    abort.asked >= abort.at
}

impl<'a> Theirs<'a> {
    /// `None` when llama.cpp refuses.
    pub fn new(model: &'a TheirModel, s: &Setup) -> Option<Theirs<'a>> {
        // SAFETY: the model is loaded; parameters are the defaults but for what is set.
        let context = unsafe {
            let mut p = (api().context_params)();
            (p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max) = (s.n_ctx, s.n_batch, s.n_ubatch, s.n_seq_max);
            (p.n_threads, p.n_threads_batch) = (1, 1);
            (p.type_k, p.type_v) = (s.type_k as c_int, s.type_v as c_int);
            (p.kv_unified, p.swa_full, p.embeddings, p.no_perf) = (s.kv_unified, s.swa_full, s.embeddings, true);
            p.flash_attn_type = c_int::from(s.flash);
            p.pooling_type = s.pooling.map_or(-1, pooling_number);
            p.attention_type = s.causal.map_or(-1, |causal| c_int::from(!causal));
            p.rope_scaling_type = s.rope_scaling.map_or(-1, |r| match r {
                RopeScaling::None => 0,
                RopeScaling::Linear => 1,
                RopeScaling::Yarn => 2,
                RopeScaling::LongRope => 3,
            });
            p.rope_freq_base = s.rope_freq_base.unwrap_or(0.0);
            p.rope_freq_scale = s.rope_freq_scale.unwrap_or(0.0);
            (api().init)(model.0, p)
        };
        let abort = Box::new(Abort { asked: 0, at: usize::MAX });
        (!context.is_null()).then_some(Theirs { context, model, pooling: s.pooling, abort })
    }

    /// The `llama_context *`.
    pub fn context(&self) -> Ptr {
        self.context
    }

    fn run(&mut self, batch: &[Tok], embd: Option<&[f32]>) -> Status {
        let mut ids: Vec<i32> = batch.iter().map(|t| t.id).collect();
        let mut pos: Vec<i32> = batch.iter().map(|t| t.pos).collect();
        let mut logits: Vec<i8> = batch.iter().map(|t| i8::from(t.output)).collect();
        let mut counts: Vec<i32> = batch.iter().map(|t| t.seqs.len() as i32).collect();
        let mut seqs: Vec<Vec<i32>> = batch.iter().map(|t| t.seqs.clone()).collect();
        let mut seq_ids: Vec<*mut i32> = seqs.iter_mut().map(|s| s.as_mut_ptr()).collect();
        let mut rows = embd.map(<[f32]>::to_vec);
        let c_batch = Batch {
            n_tokens: batch.len() as i32,
            token: if rows.is_some() { null_mut() } else { ids.as_mut_ptr() },
            embd: rows.as_mut().map_or(null_mut(), |r| r.as_mut_ptr()),
            pos: pos.as_mut_ptr(),
            n_seq_id: counts.as_mut_ptr(),
            seq_id: seq_ids.as_mut_ptr(),
            logits: logits.as_mut_ptr(),
        };
        // SAFETY: every array has an element per token and lives until the call returns.
        let status = unsafe { (api().decode)(self.context, c_batch) };
        if status < -1 { -2 } else { status }
    }

    fn row(&self, data: *const f32, n: usize) -> Option<Vec<f32>> {
        // SAFETY: llama.cpp returns NULL or a row of this length.
        (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data, n) }.to_vec())
    }

    fn n_embd(&self) -> usize {
        // SAFETY: the model is loaded.
        unsafe { (api().n_embd_out)(self.model.0) as usize }
    }

    fn memory(&self) -> Ptr {
        // SAFETY: the context is alive.
        unsafe { (api().memory)(self.context) }
    }
}

fn pooling_number(pooling: Pooling) -> c_int {
    match pooling {
        Pooling::None => 0,
        Pooling::Mean => 1,
        Pooling::Cls => 2,
        Pooling::Last => 3,
        Pooling::Rank => 4,
    }
}

impl Drop for Theirs<'_> {
    fn drop(&mut self) {
        // SAFETY: it was made and is not used after this.
        unsafe { (api().free)(self.context) }
    }
}

// SAFETY of all calls below: the context is alive, and llama.h lets every value pass.
impl Engine for Theirs<'_> {
    fn decode(&mut self, batch: &[Tok]) -> Status {
        self.run(batch, None)
    }

    fn decode_embd(&mut self, batch: &[Tok], embd: &[f32]) -> Status {
        self.run(batch, Some(embd))
    }

    fn logits(&mut self, i: i32) -> Option<Vec<f32>> {
        // SAFETY: see above.
        let (data, n) = unsafe { ((api().logits)(self.context, i), (api().n_vocab)((api().get_vocab)(self.model.0))) };
        self.row(data, n as usize)
    }

    fn embeddings(&mut self, i: i32) -> Option<Vec<f32>> {
        // SAFETY: see above.
        let data = unsafe { (api().embeddings)(self.context, i) };
        self.row(data, self.n_embd())
    }

    fn embeddings_seq(&mut self, seq: i32) -> Option<Vec<f32>> {
        // SAFETY: see above.
        let (data, n_cls) = unsafe { ((api().embeddings_seq)(self.context, seq), (api().n_cls_out)(self.model.0)) };
        let n = if self.pooling == Some(Pooling::Rank) { n_cls as usize } else { self.n_embd() };
        self.row(data, n)
    }

    fn clear(&mut self) {
        // SAFETY: see above.
        unsafe { (api().clear)(self.memory(), true) }
    }

    fn seq_rm(&mut self, seq: i32, p0: i32, p1: i32) -> bool {
        // SAFETY: see above.
        unsafe { (api().seq_rm)(self.memory(), seq, p0, p1) }
    }

    fn seq_cp(&mut self, src: i32, dst: i32, p0: i32, p1: i32) {
        // SAFETY: see above.
        unsafe { (api().seq_cp)(self.memory(), src, dst, p0, p1) }
    }

    fn seq_keep(&mut self, seq: i32) {
        // SAFETY: see above.
        unsafe { (api().seq_keep)(self.memory(), seq) }
    }

    fn seq_add(&mut self, seq: i32, p0: i32, p1: i32, delta: i32) {
        // SAFETY: see above.
        unsafe { (api().seq_add)(self.memory(), seq, p0, p1, delta) }
    }

    fn seq_div(&mut self, seq: i32, p0: i32, p1: i32, d: i32) {
        // SAFETY: see above.
        unsafe { (api().seq_div)(self.memory(), seq, p0, p1, d) }
    }

    fn positions(&mut self, seq: i32) -> [i32; 2] {
        // SAFETY: see above.
        unsafe { [(api().pos_min)(self.memory(), seq), (api().pos_max)(self.memory(), seq)] }
    }

    fn can_shift(&mut self) -> bool {
        // SAFETY: see above.
        unsafe { (api().can_shift)(self.memory()) }
    }

    fn set_causal(&mut self, causal: bool) {
        // SAFETY: see above.
        unsafe { (api().set_causal)(self.context, causal) }
    }

    fn set_embeddings(&mut self, embeddings: bool) {
        // SAFETY: see above.
        unsafe { (api().set_embeddings)(self.context, embeddings) }
    }

    fn abort_after(&mut self, n: Option<usize>) {
        *self.abort = Abort { asked: 0, at: n.unwrap_or(usize::MAX) };
        let data: *mut Abort = &mut *self.abort;
        // SAFETY: the box outlives the context.
        unsafe { (api().set_abort)(self.context, Some(abort), data.cast()) }
    }
}
