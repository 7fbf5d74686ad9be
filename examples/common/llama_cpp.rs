//! llama.cpp's own library, opened at run time, behind the few calls that comparing with it needs.

use libloading::{Library, Symbol};
use std::ffi::{CString, c_char, c_void};
use std::path::Path;

/// `llama_model_params`, fields that are not set here left as bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct ModelParams {
    head: [u64; 2],
    n_gpu_layers: i32,
    rest: [u32; 15],
}

/// `llama_context_params`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ContextParams {
    n_ctx: u32,
    n_batch: u32,
    n_ubatch: u32,
    n_seq_max: u32,
    n_rs_seq: u32,
    n_outputs_max: [u32; 2],
    n_threads: i32,
    n_threads_batch: i32,
    enums: [i32; 5],
    rope: [u32; 7],
    defrag_thold: f32,
    cb_eval: [u64; 2],
    types: [i32; 2],
    abort: [u64; 2],
    flags: [u8; 8],
    tail: [u64; 3],
}

/// `llama_batch`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Batch {
    n_tokens: i32,
    token: *mut i32,
    embd: *mut f32,
    pos: *mut i32,
    n_seq_id: *mut i32,
    seq_id: *mut *mut i32,
    logits: *mut i8,
}

const _: () = assert!(size_of::<ModelParams>() == 80 && size_of::<ContextParams>() == 160 && size_of::<Batch>() == 56);

type Model = *mut c_void;
type Context = *mut c_void;

/// The library. Dependencies are kept open beside it.
pub struct LlamaCpp {
    llama: Library,
    _ggml: Vec<Library>,
}

/// A model with a context; freed in order.
pub struct Session<'a> {
    lib: &'a LlamaCpp,
    model: Model,
    ctx: Context,
    n_vocab: usize,
}

impl LlamaCpp {
    /// Opens the library of a folder and its CPU backend that fits this machine.
    pub fn open(dir: &Path) -> Result<LlamaCpp, Box<dyn std::error::Error>> {
        let open = |name: &str| -> Result<Library, Box<dyn std::error::Error>> {
            use libloading::os::unix;
            // SAFETY: llama.cpp's libraries run no code at load time that could misbehave.
            let lib = unsafe { unix::Library::open(Some(dir.join(name)), unix::RTLD_NOW | unix::RTLD_LOCAL) };
            Ok(lib.map_err(|e| format!("{name} (fetch it with `make test-data`): {e}"))?.into())
        };
        let (base, ggml) = (open("libggml-base.so")?, open("libggml.v0.5.0.so")?);
        let lib = LlamaCpp { llama: open("libllama.v0.5.0.so")?, _ggml: vec![base, ggml] };
        let path = CString::new(dir.to_str().ok_or("the folder's name is not UTF-8")?)?;
        // SAFETY: the prototypes are those of ggml-backend.h and llama.h.
        unsafe {
            let load: Symbol<unsafe extern "C" fn(*const c_char)> =
                lib._ggml[1].get(b"ggml_backend_load_all_from_path")?;
            let log: Symbol<unsafe extern "C" fn(Option<extern "C" fn(i32, *const c_char, *mut c_void)>, *mut c_void)> =
                lib.llama.get(b"llama_log_set")?;
            log(Some(quiet), std::ptr::null_mut());
            load(path.as_ptr());
            lib.llama.get::<unsafe extern "C" fn()>(b"llama_backend_init")?();
        }
        Ok(lib)
    }

    /// Loads a model and makes a context of `n_ctx` tokens.
    pub fn session(&self, path: &Path, n_ctx: u32, n_threads: i32) -> Result<Session<'_>, Box<dyn std::error::Error>> {
        let name = CString::new(path.to_str().ok_or("the model's name is not UTF-8")?)?;
        // SAFETY: prototypes and layouts are those of llama.h; the pointers live through the calls.
        unsafe {
            let mut mp = self.llama.get::<unsafe extern "C" fn() -> ModelParams>(b"llama_model_default_params")?();
            mp.n_gpu_layers = 0;
            let load: Symbol<unsafe extern "C" fn(*const c_char, ModelParams) -> Model> =
                self.llama.get(b"llama_model_load_from_file")?;
            let model = load(name.as_ptr(), mp);
            if model.is_null() {
                return Err(format!("llama.cpp does not load {}", path.display()).into());
            }
            let mut cp = self.llama.get::<unsafe extern "C" fn() -> ContextParams>(b"llama_context_default_params")?();
            (cp.n_ctx, cp.n_batch, cp.n_threads, cp.n_threads_batch) = (n_ctx, n_ctx, n_threads, n_threads);
            let init: Symbol<unsafe extern "C" fn(Model, ContextParams) -> Context> =
                self.llama.get(b"llama_init_from_model")?;
            let ctx = init(model, cp);
            if ctx.is_null() {
                return Err("llama.cpp makes no context".into());
            }
            let vocab =
                self.llama.get::<unsafe extern "C" fn(Model) -> *const c_void>(b"llama_model_get_vocab")?(model);
            let n = self.llama.get::<unsafe extern "C" fn(*const c_void) -> i32>(b"llama_vocab_n_tokens")?(vocab);
            Ok(Session { lib: self, model, ctx, n_vocab: n as usize })
        }
    }
}

impl Session<'_> {
    /// Computes tokens that continue the context, with logits of all or of the last.
    pub fn decode(&mut self, tokens: &[i32], all: bool) -> Result<(), Box<dyn std::error::Error>> {
        let mut token = tokens.to_vec();
        let mut marks = vec![i8::from(all); tokens.len()];
        *marks.last_mut().ok_or("no tokens")? = 1;
        let batch = Batch {
            n_tokens: tokens.len() as i32,
            token: token.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: std::ptr::null_mut(),
            n_seq_id: std::ptr::null_mut(),
            seq_id: std::ptr::null_mut(),
            logits: marks.as_mut_ptr(),
        };
        // SAFETY: the prototype is that of llama.h; the arrays have n_tokens entries and outlive the call.
        let rc = unsafe {
            self.lib.llama.get::<unsafe extern "C" fn(Context, Batch) -> i32>(b"llama_decode")?(self.ctx, batch)
        };
        // SAFETY: as above.
        unsafe { self.lib.llama.get::<unsafe extern "C" fn(Context)>(b"llama_synchronize")?(self.ctx) };
        if rc == 0 { Ok(()) } else { Err(format!("llama.cpp's decode returned {rc}").into()) }
    }

    /// Logits of token `i` of the last batch.
    pub fn logits(&self, i: i32) -> &[f32] {
        type Get = unsafe extern "C" fn(Context, i32) -> *const f32;
        // SAFETY: the prototype is that of llama.h; a row has n_vocab values and lives until the next decode, which needs
        // the session exclusively.
        unsafe {
            let get: Symbol<Get> = self.lib.llama.get(b"llama_get_logits_ith").expect("llama.h has it");
            let row = get(self.ctx, i);
            assert!(!row.is_null(), "llama.cpp has no logits of token {i}");
            std::slice::from_raw_parts(row, self.n_vocab)
        }
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        // SAFETY: the prototypes are those of llama.h.
        unsafe {
            let get: Symbol<unsafe extern "C" fn(Context) -> *mut c_void> =
                self.lib.llama.get(b"llama_get_memory").expect("llama.h has it");
            let clear: Symbol<unsafe extern "C" fn(*mut c_void, bool)> =
                self.lib.llama.get(b"llama_memory_clear").expect("llama.h has it");
            clear(get(self.ctx), false);
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: the prototypes are those of llama.h; both came from their init functions and are freed once.
        unsafe {
            self.lib.llama.get::<unsafe extern "C" fn(Context)>(b"llama_free").expect("llama.h has it")(self.ctx);
            self.lib.llama.get::<unsafe extern "C" fn(Model)>(b"llama_model_free").expect("llama.h has it")(self.model);
        }
    }
}

extern "C" fn quiet(_level: i32, _text: *const c_char, _user: *mut c_void) {}
