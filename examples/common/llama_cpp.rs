//! llama.cpp's own library, opened at run time, behind the few calls that comparing with it needs. Shared by the examples.

use libloading::{Library, Symbol};
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

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
    enums: [i32; 4],
    flash_attn_type: i32,
    rope: [u32; 7],
    defrag_thold: f32,
    cb_eval: [u64; 2],
    types: [i32; 2],
    abort: [u64; 2],
    embeddings: bool,
    offload_kqv: bool,
    no_perf: bool,
    op_offload: bool,
    swa_full: bool,
    kv_unified: bool,
    padding: [u8; 2],
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

/// The library. Dependencies are kept open beside it.
pub struct LlamaCpp {
    llama: Library,
    ggml: Vec<Library>,
}

/// A model of the library; freed with its last session.
#[derive(Clone)]
pub struct LlamaModel<'a>(Rc<Loaded<'a>>);

struct Loaded<'a> {
    lib: &'a LlamaCpp,
    model: *mut c_void,
    n_vocab: usize,
}

/// What a session is like; see llama.h's `llama_context_params` for the fields of the same names.
#[derive(Debug, Clone)]
pub struct SessionParams {
    pub n_ctx: u32,
    pub n_batch: u32,
    pub n_ubatch: u32,
    pub n_seq_max: u32,
    pub n_threads: i32,
    /// Type of the cached keys and values, ggml's number; f16 is 1, q8_0 is 8.
    pub type_kv: i32,
    /// Flash attention: `None` lets the library choose.
    pub flash_attn: Option<bool>,
    pub kv_unified: bool,
}

impl SessionParams {
    /// One sequence of `n_ctx` tokens with llama.h's defaults.
    pub fn new(n_ctx: u32, n_threads: i32) -> SessionParams {
        SessionParams {
            n_ctx,
            n_batch: n_ctx,
            n_ubatch: 512,
            n_seq_max: 1,
            n_threads,
            type_kv: 1,
            flash_attn: None,
            kv_unified: false,
        }
    }
}

/// A context of a model.
pub struct Session<'a> {
    model: LlamaModel<'a>,
    ctx: *mut c_void,
}

impl LlamaCpp {
    /// Opens the library of a folder with the backends beside it, of the processor the one that fits this machine.
    pub fn open(dir: &Path) -> Result<LlamaCpp> {
        // The variants for GPUs have names of their own.
        let variant = if dir.join("libllama.vulkan.v0.5.0.so").exists() { ".vulkan" } else { "" };
        let open = |name: &str| -> Result<Library> {
            use libloading::os::unix;
            // SAFETY: llama.cpp's libraries run no code at load time that could misbehave.
            let lib = unsafe { unix::Library::open(Some(dir.join(name)), unix::RTLD_NOW | unix::RTLD_LOCAL) };
            Ok(lib.map_err(|e| format!("{name} (fetch it with `make test-data`): {e}"))?.into())
        };
        let (base, ggml) = (open("libggml-base.so")?, open(&format!("libggml{variant}.v0.5.0.so"))?);
        let lib = LlamaCpp { llama: open(&format!("libllama{variant}.v0.5.0.so"))?, ggml: vec![base, ggml] };
        let path = CString::new(dir.to_str().ok_or("the folder's name is not UTF-8")?)?;
        // SAFETY: the prototypes are those of ggml-backend.h and llama.h.
        unsafe {
            let load: Symbol<unsafe extern "C" fn(*const c_char)> =
                lib.ggml[1].get(b"ggml_backend_load_all_from_path")?;
            let log: Symbol<unsafe extern "C" fn(Option<extern "C" fn(i32, *const c_char, *mut c_void)>, *mut c_void)> =
                lib.llama.get(b"llama_log_set")?;
            log(Some(quiet), std::ptr::null_mut());
            load(path.as_ptr());
            lib.llama.get::<unsafe extern "C" fn()>(b"llama_backend_init")?();
        }
        Ok(lib)
    }

    /// Loads a model and makes a context of `n_ctx` tokens.
    pub fn session(&self, path: &Path, n_ctx: u32, n_threads: i32) -> Result<Session<'_>> {
        self.load(path)?.session(&SessionParams::new(n_ctx, n_threads))
    }

    /// Loads a model, mapped.
    pub fn load(&self, path: &Path) -> Result<LlamaModel<'_>> {
        self.load_on(path, 0)
    }

    /// The name of the GPU that it would use, if it finds one.
    pub fn gpu(&self) -> Result<Option<String>> {
        const GPU: i32 = 1;
        // SAFETY: the prototypes are those of ggml-backend.h; the text lives as long as the library.
        unsafe {
            let find: Symbol<unsafe extern "C" fn(i32) -> *mut c_void> =
                self.ggml[1].get(b"ggml_backend_dev_by_type")?;
            let tell: Symbol<unsafe extern "C" fn(*mut c_void) -> *const c_char> =
                self.ggml[0].get(b"ggml_backend_dev_description")?;
            let device = find(GPU);
            Ok((!device.is_null()).then(|| CStr::from_ptr(tell(device)).to_string_lossy().into_owned()))
        }
    }

    /// Loads a model with its last layers on GPUs.
    pub fn load_on(&self, path: &Path, n_gpu_layers: i32) -> Result<LlamaModel<'_>> {
        let name = CString::new(path.to_str().ok_or("the model's name is not UTF-8")?)?;
        // SAFETY: prototypes and layouts are those of llama.h; the pointers live through the calls.
        unsafe {
            let mut mp = self.llama.get::<unsafe extern "C" fn() -> ModelParams>(b"llama_model_default_params")?();
            mp.n_gpu_layers = n_gpu_layers;
            let load: Symbol<unsafe extern "C" fn(*const c_char, ModelParams) -> *mut c_void> =
                self.llama.get(b"llama_model_load_from_file")?;
            let model = load(name.as_ptr(), mp);
            if model.is_null() {
                let why = LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner);
                return Err(format!("llama.cpp does not load {}: {why}", path.display()).into());
            }
            let vocab =
                self.llama.get::<unsafe extern "C" fn(*mut c_void) -> *const c_void>(b"llama_model_get_vocab")?(model);
            let n = self.llama.get::<unsafe extern "C" fn(*const c_void) -> i32>(b"llama_vocab_n_tokens")?(vocab);
            Ok(LlamaModel(Rc::new(Loaded { lib: self, model, n_vocab: n as usize })))
        }
    }

    /// The features that the library says its CPU backend uses, e.g. `CPU : SSE3 = 1 | AVX2 = 1`.
    pub fn system_info(&self) -> Result<String> {
        // SAFETY: the prototype is that of llama.h; the text lives as long as the library.
        unsafe {
            let text = self.llama.get::<unsafe extern "C" fn() -> *const c_char>(b"llama_print_system_info")?();
            Ok(CStr::from_ptr(text).to_string_lossy().trim().to_owned())
        }
    }
}

impl<'a> LlamaModel<'a> {
    /// Makes a context.
    pub fn session(&self, params: &SessionParams) -> Result<Session<'a>> {
        let lib = &self.0.lib.llama;
        // SAFETY: prototypes and layouts are those of llama.h; the model lives as long as the session.
        unsafe {
            let mut cp = lib.get::<unsafe extern "C" fn() -> ContextParams>(b"llama_context_default_params")?();
            (cp.n_ctx, cp.n_batch, cp.n_ubatch) = (params.n_ctx, params.n_batch, params.n_ubatch);
            cp.n_seq_max = params.n_seq_max;
            (cp.n_threads, cp.n_threads_batch) = (params.n_threads, params.n_threads);
            cp.types = [params.type_kv; 2];
            cp.flash_attn_type = params.flash_attn.map_or(-1, i32::from);
            cp.kv_unified = params.kv_unified;
            let init: Symbol<unsafe extern "C" fn(*mut c_void, ContextParams) -> *mut c_void> =
                lib.get(b"llama_init_from_model")?;
            let ctx = init(self.0.model, cp);
            if ctx.is_null() {
                return Err("llama.cpp makes no context".into());
            }
            Ok(Session { model: self.clone(), ctx })
        }
    }
}

impl Session<'_> {
    /// Computes tokens that continue the context, with logits of all or of the last.
    pub fn decode(&mut self, tokens: &[i32], all: bool) -> Result<()> {
        let mut token = tokens.to_vec();
        let mut marks = vec![i8::from(all); tokens.len()];
        *marks.last_mut().ok_or("no tokens")? = 1;
        let null = std::ptr::null_mut::<u8>();
        self.decode_batch(Batch {
            n_tokens: tokens.len() as i32,
            token: token.as_mut_ptr(),
            embd: null.cast(),
            pos: null.cast(),
            n_seq_id: null.cast(),
            seq_id: null.cast(),
            logits: marks.as_mut_ptr(),
        })
    }

    /// Computes one token for each of the sequences 0, 1, ..., all at position `pos`, with logits.
    pub fn decode_seqs(&mut self, tokens: &[i32], pos: i32) -> Result<()> {
        let n = tokens.len();
        self.decode_at(tokens, (0..n as i32).collect(), vec![pos; n], vec![1; n])
    }

    /// Computes tokens of sequence `seq` from position `pos` on, with logits of the last.
    pub fn decode_on(&mut self, seq: i32, tokens: &[i32], pos: i32) -> Result<()> {
        let n = tokens.len();
        let mut marks = vec![0; n];
        *marks.last_mut().ok_or("no tokens")? = 1;
        self.decode_at(tokens, vec![seq; n], (pos..pos + n as i32).collect(), marks)
    }

    fn decode_at(&mut self, tokens: &[i32], seqs: Vec<i32>, pos: Vec<i32>, marks: Vec<i8>) -> Result<()> {
        let n = tokens.len();
        let (mut token, mut n_seq_id) = (tokens.to_vec(), vec![1; n]);
        let (mut seqs, mut pos, mut marks) = (seqs, pos, marks);
        let mut seq_id: Vec<*mut i32> = seqs.iter_mut().map(std::ptr::from_mut).collect();
        self.decode_batch(Batch {
            n_tokens: n as i32,
            token: token.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: pos.as_mut_ptr(),
            n_seq_id: n_seq_id.as_mut_ptr(),
            seq_id: seq_id.as_mut_ptr(),
            logits: marks.as_mut_ptr(),
        })
    }

    /// The arrays of `batch` have `n_tokens` entries, or are null.
    fn decode_batch(&mut self, batch: Batch) -> Result<()> {
        let lib = &self.model.0.lib.llama;
        // SAFETY: the prototype is that of llama.h; the two callers above keep arrays of n_tokens entries alive.
        let rc =
            unsafe { lib.get::<unsafe extern "C" fn(*mut c_void, Batch) -> i32>(b"llama_decode")?(self.ctx, batch) };
        // SAFETY: as above.
        unsafe { lib.get::<unsafe extern "C" fn(*mut c_void)>(b"llama_synchronize")?(self.ctx) };
        if rc == 0 { Ok(()) } else { Err(format!("llama.cpp's decode returned {rc}").into()) }
    }

    /// Removes the tokens of sequence `seq` from position `from` on.
    pub fn truncate(&mut self, seq: i32, from: i32) {
        type Remove = unsafe extern "C" fn(*mut c_void, i32, i32, i32) -> bool;
        let lib = &self.model.0.lib.llama;
        // SAFETY: the prototypes are those of llama.h.
        unsafe {
            let remove: Symbol<Remove> = lib.get(b"llama_memory_seq_rm").expect("llama.h has it");
            assert!(remove(self.memory(), seq, from, -1), "llama.cpp removes no part of a sequence");
        }
    }

    /// Lets sequence `to` share what sequence 0 holds.
    pub fn share(&mut self, to: i32) {
        type Copy = unsafe extern "C" fn(*mut c_void, i32, i32, i32, i32);
        let lib = &self.model.0.lib.llama;
        // SAFETY: the prototypes are those of llama.h.
        unsafe { lib.get::<Copy>(b"llama_memory_seq_cp").expect("llama.h has it")(self.memory(), 0, to, -1, -1) };
    }

    fn memory(&self) -> *mut c_void {
        let lib = &self.model.0.lib.llama;
        // SAFETY: the prototype is that of llama.h.
        unsafe {
            lib.get::<unsafe extern "C" fn(*mut c_void) -> *mut c_void>(b"llama_get_memory").expect("llama.h has it")(
                self.ctx,
            )
        }
    }

    /// Logits of token `i` of the last batch.
    pub fn logits(&self, i: i32) -> &[f32] {
        type Get = unsafe extern "C" fn(*mut c_void, i32) -> *const f32;
        // SAFETY: the prototype is that of llama.h; a row has n_vocab values and lives until the next decode, which needs
        // the session exclusively.
        unsafe {
            let get: Symbol<Get> = self.model.0.lib.llama.get(b"llama_get_logits_ith").expect("llama.h has it");
            let row = get(self.ctx, i);
            assert!(!row.is_null(), "llama.cpp has no logits of token {i}");
            std::slice::from_raw_parts(row, self.model.0.n_vocab)
        }
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        let lib = &self.model.0.lib.llama;
        // SAFETY: the prototypes are those of llama.h.
        unsafe {
            lib.get::<unsafe extern "C" fn(*mut c_void, bool)>(b"llama_memory_clear").expect("llama.h has it")(
                self.memory(),
                false,
            );
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let lib = &self.model.0.lib.llama;
        // SAFETY: the prototype is that of llama.h; the context came from its init function and is freed once.
        unsafe { lib.get::<unsafe extern "C" fn(*mut c_void)>(b"llama_free").expect("llama.h has it")(self.ctx) };
    }
}

impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        let lib = &self.lib.llama;
        // SAFETY: the prototype is that of llama.h; the model is freed once, after its sessions, which hold it.
        unsafe {
            lib.get::<unsafe extern "C" fn(*mut c_void)>(b"llama_model_free").expect("llama.h has it")(self.model);
        }
    }
}

/// The last error that the library told.
static LAST_ERROR: Mutex<String> = Mutex::new(String::new());

/// Keeps errors, and shows nothing.
extern "C" fn quiet(level: i32, text: *const c_char, _user: *mut c_void) {
    const ERROR: i32 = 4;
    if level == ERROR && !text.is_null() {
        // SAFETY: the library passes a text that ends in zero.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        *LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner) = text.trim().into();
    }
}
