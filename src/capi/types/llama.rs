//! The public types of llama.h, field for field. The enums are declarations for the header and names for values; they
//! cross the border as [`CEnum`].

use std::ffi::{c_char, c_void};

use super::*;

/// A position within a sequence.
pub type llama_pos = i32;
/// A token's number in the vocabulary.
pub type llama_token = i32;
/// The number of a sequence within a context, from 0 to n_seq_max - 1.
pub type llama_seq_id = i32;
/// The memory of a context.
pub type llama_memory_t = *mut llama_memory_i;
/// What a sampler keeps for itself.
pub type llama_sampler_context_t = *mut c_void;
/// Is told how much of a model is loaded, from 0 to 1; returns false to cancel.
pub type llama_progress_callback = Option<unsafe extern "C" fn(progress: f32, user_data: *mut c_void) -> bool>;
/// Writes the elements of a tensor, whose name, type and shape tell which.
pub type llama_model_set_tensor_data_t = Option<unsafe extern "C" fn(tensor: *mut ggml_tensor, userdata: *mut c_void)>;

/// How text is cut into tokens.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_vocab_type {
    LLAMA_VOCAB_TYPE_NONE = 0,
    LLAMA_VOCAB_TYPE_SPM = 1,
    LLAMA_VOCAB_TYPE_BPE = 2,
    LLAMA_VOCAB_TYPE_WPM = 3,
    LLAMA_VOCAB_TYPE_UGM = 4,
    LLAMA_VOCAB_TYPE_RWKV = 5,
    LLAMA_VOCAB_TYPE_PLAMO2 = 6,
    LLAMA_VOCAB_TYPE_TEST = 7,
}

/// How rotary positions are applied.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_rope_type {
    LLAMA_ROPE_TYPE_NONE = -1,
    LLAMA_ROPE_TYPE_NORM = 0,
    LLAMA_ROPE_TYPE_NEOX = 2,
    LLAMA_ROPE_TYPE_MROPE = 8,
    LLAMA_ROPE_TYPE_IMROPE = 40,
    LLAMA_ROPE_TYPE_VISION = 24,
}

/// What is special about a token: a set of bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_token_attr {
    LLAMA_TOKEN_ATTR_UNDEFINED = 0,
    LLAMA_TOKEN_ATTR_UNKNOWN = 1,
    LLAMA_TOKEN_ATTR_UNUSED = 2,
    LLAMA_TOKEN_ATTR_NORMAL = 4,
    LLAMA_TOKEN_ATTR_CONTROL = 8,
    LLAMA_TOKEN_ATTR_USER_DEFINED = 16,
    LLAMA_TOKEN_ATTR_BYTE = 32,
    LLAMA_TOKEN_ATTR_NORMALIZED = 64,
    LLAMA_TOKEN_ATTR_LSTRIP = 128,
    LLAMA_TOKEN_ATTR_RSTRIP = 256,
    LLAMA_TOKEN_ATTR_SINGLE_WORD = 512,
}

/// What the weights of a file mostly are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_ftype {
    LLAMA_FTYPE_ALL_F32 = 0,
    LLAMA_FTYPE_MOSTLY_F16 = 1,
    LLAMA_FTYPE_MOSTLY_Q4_0 = 2,
    LLAMA_FTYPE_MOSTLY_Q4_1 = 3,
    LLAMA_FTYPE_MOSTLY_Q8_0 = 7,
    LLAMA_FTYPE_MOSTLY_Q5_0 = 8,
    LLAMA_FTYPE_MOSTLY_Q5_1 = 9,
    LLAMA_FTYPE_MOSTLY_Q2_K = 10,
    LLAMA_FTYPE_MOSTLY_Q3_K_S = 11,
    LLAMA_FTYPE_MOSTLY_Q3_K_M = 12,
    LLAMA_FTYPE_MOSTLY_Q3_K_L = 13,
    LLAMA_FTYPE_MOSTLY_Q4_K_S = 14,
    LLAMA_FTYPE_MOSTLY_Q4_K_M = 15,
    LLAMA_FTYPE_MOSTLY_Q5_K_S = 16,
    LLAMA_FTYPE_MOSTLY_Q5_K_M = 17,
    LLAMA_FTYPE_MOSTLY_Q6_K = 18,
    LLAMA_FTYPE_MOSTLY_IQ2_XXS = 19,
    LLAMA_FTYPE_MOSTLY_IQ2_XS = 20,
    LLAMA_FTYPE_MOSTLY_Q2_K_S = 21,
    LLAMA_FTYPE_MOSTLY_IQ3_XS = 22,
    LLAMA_FTYPE_MOSTLY_IQ3_XXS = 23,
    LLAMA_FTYPE_MOSTLY_IQ1_S = 24,
    LLAMA_FTYPE_MOSTLY_IQ4_NL = 25,
    LLAMA_FTYPE_MOSTLY_IQ3_S = 26,
    LLAMA_FTYPE_MOSTLY_IQ3_M = 27,
    LLAMA_FTYPE_MOSTLY_IQ2_S = 28,
    LLAMA_FTYPE_MOSTLY_IQ2_M = 29,
    LLAMA_FTYPE_MOSTLY_IQ4_XS = 30,
    LLAMA_FTYPE_MOSTLY_IQ1_M = 31,
    LLAMA_FTYPE_MOSTLY_BF16 = 32,
    LLAMA_FTYPE_MOSTLY_TQ1_0 = 36,
    LLAMA_FTYPE_MOSTLY_TQ2_0 = 37,
    LLAMA_FTYPE_MOSTLY_MXFP4_MOE = 38,
    LLAMA_FTYPE_MOSTLY_NVFP4 = 39,
    LLAMA_FTYPE_MOSTLY_Q1_0 = 40,
    LLAMA_FTYPE_MOSTLY_Q2_0 = 41,
    LLAMA_FTYPE_GUESSED = 1024,
}

/// How rotary positions are stretched over a longer context than the model was trained for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_rope_scaling_type {
    LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED = -1,
    LLAMA_ROPE_SCALING_TYPE_NONE = 0,
    LLAMA_ROPE_SCALING_TYPE_LINEAR = 1,
    LLAMA_ROPE_SCALING_TYPE_YARN = 2,
    LLAMA_ROPE_SCALING_TYPE_LONGROPE = 3,
}

/// How a sequence's embeddings become one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_pooling_type {
    LLAMA_POOLING_TYPE_UNSPECIFIED = -1,
    LLAMA_POOLING_TYPE_NONE = 0,
    LLAMA_POOLING_TYPE_MEAN = 1,
    LLAMA_POOLING_TYPE_CLS = 2,
    LLAMA_POOLING_TYPE_LAST = 3,
    LLAMA_POOLING_TYPE_RANK = 4,
}

/// Whether tokens see only what is before them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_attention_type {
    LLAMA_ATTENTION_TYPE_UNSPECIFIED = -1,
    LLAMA_ATTENTION_TYPE_CAUSAL = 0,
    LLAMA_ATTENTION_TYPE_NON_CAUSAL = 1,
}

/// Whether attention runs as one operation that never stores its scores.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_flash_attn_type {
    LLAMA_FLASH_ATTN_TYPE_AUTO = -1,
    LLAMA_FLASH_ATTN_TYPE_DISABLED = 0,
    LLAMA_FLASH_ATTN_TYPE_ENABLED = 1,
}

/// How a model is split over several GPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_split_mode {
    LLAMA_SPLIT_MODE_NONE = 0,
    LLAMA_SPLIT_MODE_LAYER = 1,
    LLAMA_SPLIT_MODE_ROW = 2,
    LLAMA_SPLIT_MODE_TENSOR = 3,
}

/// How the weights come into memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_load_mode {
    LLAMA_LOAD_MODE_AUTO = -1,
    LLAMA_LOAD_MODE_NONE = 0,
    LLAMA_LOAD_MODE_MMAP = 1,
    LLAMA_LOAD_MODE_MLOCK = 2,
    LLAMA_LOAD_MODE_MMAP_MLOCK = 3,
    LLAMA_LOAD_MODE_DIRECT_IO = 4,
}

/// Whether rows of large tables are read when they are first used.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_lazy_mode {
    LLAMA_LAZY_MODE_OFF = 0,
    LLAMA_LAZY_MODE_AUTO = 1,
    LLAMA_LAZY_MODE_ON = 2,
}

/// What a context computes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_context_type {
    LLAMA_CONTEXT_TYPE_DEFAULT = 0,
    LLAMA_CONTEXT_TYPE_MTP = 1,
}

/// A candidate for the next token.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_token_data {
    /// The token.
    pub id: llama_token,
    /// Its logarithmic odds.
    pub logit: f32,
    /// Its probability; set by the samplers that need it.
    pub p: f32,
}

/// The candidates for the next token, which samplers narrow and reorder.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_token_data_array {
    /// The candidates. Samplers may point this elsewhere.
    pub data: *mut llama_token_data,
    /// How many there are.
    pub size: usize,
    /// Index into data of the chosen one (not a token), or -1.
    pub selected: i64,
    /// Whether they are known to be in descending order of logit.
    pub sorted: bool,
}

/// Input of llama_decode and llama_encode: `n_tokens` tokens, each with a position, the sequences that it belongs to,
/// and whether its output is wanted. Every array has n_tokens elements.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_batch {
    /// How many tokens.
    pub n_tokens: i32,
    /// The tokens, or NULL when embd is set.
    pub token: *mut llama_token,
    /// Rows of n_embd floats instead of tokens, or NULL.
    pub embd: *mut f32,
    /// Each token's position in its sequences; NULL: those that follow what is in memory.
    pub pos: *mut llama_pos,
    /// How many sequences each token belongs to; NULL: one.
    pub n_seq_id: *mut i32,
    /// Each token's sequences; NULL: sequence 0.
    pub seq_id: *mut *mut llama_seq_id,
    /// Whether each token's output is wanted; NULL: the last one's, or all when the context makes embeddings.
    pub logits: *mut i8,
}

/// Which member of a llama_model_kv_override's union is set.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_model_kv_override_type {
    LLAMA_KV_OVERRIDE_TYPE_INT = 0,
    LLAMA_KV_OVERRIDE_TYPE_FLOAT = 1,
    LLAMA_KV_OVERRIDE_TYPE_BOOL = 2,
    LLAMA_KV_OVERRIDE_TYPE_STR = 3,
}

/// Metadata keys of recommended sampler settings.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_model_meta_key {
    LLAMA_MODEL_META_KEY_SAMPLING_SEQUENCE = 0,
    LLAMA_MODEL_META_KEY_SAMPLING_TOP_K = 1,
    LLAMA_MODEL_META_KEY_SAMPLING_TOP_P = 2,
    LLAMA_MODEL_META_KEY_SAMPLING_MIN_P = 3,
    LLAMA_MODEL_META_KEY_SAMPLING_XTC_PROBABILITY = 4,
    LLAMA_MODEL_META_KEY_SAMPLING_XTC_THRESHOLD = 5,
    LLAMA_MODEL_META_KEY_SAMPLING_TEMP = 6,
    LLAMA_MODEL_META_KEY_SAMPLING_PENALTY_LAST_N = 7,
    LLAMA_MODEL_META_KEY_SAMPLING_PENALTY_REPEAT = 8,
    LLAMA_MODEL_META_KEY_SAMPLING_MIROSTAT = 9,
    LLAMA_MODEL_META_KEY_SAMPLING_MIROSTAT_TAU = 10,
    LLAMA_MODEL_META_KEY_SAMPLING_MIROSTAT_ETA = 11,
}

/// What llama_process does with a batch.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum llama_process_type {
    LLAMA_PROCESS_TYPE_ENCODE = 0,
    LLAMA_PROCESS_TYPE_DECODE = 1,
}

/// Places the tensors whose names match a pattern.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_model_tensor_buft_override {
    /// A regular expression; NULL ends the list.
    pub pattern: *const c_char,
    /// Where matching tensors go.
    pub buft: ggml_backend_buffer_type_t,
}

/// How to load a model. Start from llama_model_default_params().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_model_params {
    /// NULL-terminated list of devices to use; NULL: all.
    pub devices: *mut ggml_backend_dev_t,
    /// Where tensors go, ended by a NULL pattern; NULL: everywhere as usual.
    pub tensor_buft_overrides: *const llama_model_tensor_buft_override,
    /// How many layers go to GPUs; negative: all.
    pub n_gpu_layers: i32,
    /// How to split over several GPUs.
    pub split_mode: CEnum<llama_split_mode>,
    /// How weights come into memory.
    pub load_mode: CEnum<llama_load_mode>,
    /// Whether marked tables are read on demand.
    pub lazy_mode: CEnum<llama_lazy_mode>,
    /// The GPU for everything when split_mode is NONE.
    pub main_gpu: i32,
    /// Shares of each GPU, llama_max_devices() of them; NULL: by free memory.
    pub tensor_split: *const f32,
    /// Called during loading with 0 to 1; returning false cancels. NULL: none.
    pub progress_callback: llama_progress_callback,
    /// Passed to progress_callback.
    pub progress_callback_user_data: *mut c_void,
    /// Metadata to use instead of the file's, ended by an empty key; NULL: none.
    pub kv_overrides: *const llama_model_kv_override,
    /// Load only the vocabulary and metadata.
    pub vocab_only: bool,
    /// Check that the weights hold valid numbers.
    pub check_tensors: bool,
    /// Allow weights to be rearranged in memory.
    pub use_extra_bufts: bool,
    /// Keep weights out of page-locked host memory.
    pub no_host: bool,
    /// Load metadata and compute sizes without taking memory for weights.
    pub no_alloc: bool,
    /// Also load the layers for multi-token prediction.
    pub load_mtp: bool,
}

/// A sampler for a sequence.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_sampler_seq_config {
    /// The sequence.
    pub seq_id: llama_seq_id,
    /// A sampler chain.
    pub sampler: *mut llama_sampler,
}

/// How to set up a context. Start from llama_context_default_params().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_context_params {
    /// Cells of KV memory over all sequences; 0: the model's training context.
    pub n_ctx: u32,
    /// The most tokens that one llama_decode takes.
    pub n_batch: u32,
    /// The most tokens computed at once.
    pub n_ubatch: u32,
    /// How many sequences there may be.
    pub n_seq_max: u32,
    /// Snapshots of recurrent state kept per sequence; 0: none.
    pub n_rs_seq: u32,
    /// The most outputs of a ubatch; 0: n_batch.
    pub n_outputs_max: u32,
    /// The most outputs per sequence; 0: n_outputs_max.
    pub n_outputs_max_per_seq: u32,
    /// Threads for single tokens.
    pub n_threads: i32,
    /// Threads for batches.
    pub n_threads_batch: i32,
    /// What the context computes.
    pub ctx_type: CEnum<llama_context_type>,
    /// RoPE scaling; UNSPECIFIED: the model's.
    pub rope_scaling_type: CEnum<llama_rope_scaling_type>,
    /// Pooling of embeddings; UNSPECIFIED: the model's.
    pub pooling_type: CEnum<llama_pooling_type>,
    /// Attention for embeddings; UNSPECIFIED: the model's.
    pub attention_type: CEnum<llama_attention_type>,
    /// Whether to use flash attention.
    pub flash_attn_type: CEnum<llama_flash_attn_type>,
    /// RoPE base frequency; 0: the model's.
    pub rope_freq_base: f32,
    /// RoPE frequency factor; 0: the model's.
    pub rope_freq_scale: f32,
    /// YaRN extrapolation share; negative: the model's.
    pub yarn_ext_factor: f32,
    /// YaRN magnitude factor; negative: the model's.
    pub yarn_attn_factor: f32,
    /// YaRN low correction dimension; negative: the model's.
    pub yarn_beta_fast: f32,
    /// YaRN high correction dimension; negative: the model's.
    pub yarn_beta_slow: f32,
    /// YaRN original context; 0: the model's.
    pub yarn_orig_ctx: u32,
    /// Ignored; kept for its place.
    pub defrag_thold: f32,
    /// Called with tensors as they are computed; NULL: none.
    pub cb_eval: ggml_backend_sched_eval_callback,
    /// Passed to cb_eval.
    pub cb_eval_user_data: *mut c_void,
    /// Type of cached keys.
    pub type_k: CEnum<ggml_type>,
    /// Type of cached values.
    pub type_v: CEnum<ggml_type>,
    /// Asked during llama_decode; returning true stops it. NULL: none.
    pub abort_callback: ggml_abort_callback,
    /// Passed to abort_callback.
    pub abort_callback_data: *mut c_void,
    /// Whether decoding makes embeddings, together with logits.
    pub embeddings: bool,
    /// Keep KV memory and attention on the GPU.
    pub offload_kqv: bool,
    /// Do not measure times.
    pub no_perf: bool,
    /// Let GPUs work on weights in host memory.
    pub op_offload: bool,
    /// Keep all positions in sliding-window caches, so that any suffix can be removed.
    pub swa_full: bool,
    /// Share one pool of cells between sequences instead of n_ctx / n_seq_max for each.
    pub kv_unified: bool,
    /// Samplers to run inside the graph; NULL: none.
    pub samplers: *mut llama_sampler_seq_config,
    /// How many there are.
    pub n_samplers: usize,
    /// A context to share results or memory with; NULL: none.
    pub ctx_other: *mut llama_context,
}

/// A number added to a token's logit.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_logit_bias {
    /// The token.
    pub token: llama_token,
    /// What to add.
    pub bias: f32,
}

/// How to set up a sampler chain.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_sampler_chain_params {
    /// Do not measure times.
    pub no_perf: bool,
}

/// A message of a conversation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_chat_message {
    /// Who speaks, as the template calls them: "system", "user", "assistant".
    pub role: *const c_char,
    /// What is said.
    pub content: *const c_char,
}

/// Rows of embeddings.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_embd {
    /// n_rows * n_embd floats.
    pub data: *const f32,
    /// How many rows.
    pub n_rows: usize,
    /// Floats of a row.
    pub n_embd: usize,
}

/// Tensors of a sampler that runs inside the graph.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_sampler_data {
    /// Logits of the candidates.
    pub logits: *mut ggml_tensor,
    /// Their probabilities.
    pub probs: *mut ggml_tensor,
    /// The chosen token.
    pub sampled: *mut ggml_tensor,
    /// The candidates' tokens.
    pub candidates: *mut ggml_tensor,
}

/// What a sampler does: implement this for a sampler of your own.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_sampler_i {
    /// The sampler's name; may be NULL.
    pub name: Option<unsafe extern "C" fn(smpl: *const llama_sampler) -> *const c_char>,
    /// Is told which token was chosen; may be NULL.
    pub accept: Option<unsafe extern "C" fn(smpl: *mut llama_sampler, token: llama_token)>,
    /// Changes the candidates; must be set.
    pub apply: Option<unsafe extern "C" fn(smpl: *mut llama_sampler, cur_p: *mut llama_token_data_array)>,
    /// Forgets what was accepted; may be NULL.
    pub reset: Option<unsafe extern "C" fn(smpl: *mut llama_sampler)>,
    /// Makes a copy; may be NULL when ctx is NULL.
    pub clone: Option<unsafe extern "C" fn(smpl: *const llama_sampler) -> *mut llama_sampler>,
    /// Frees ctx; may be NULL when ctx is NULL.
    pub free: Option<unsafe extern "C" fn(smpl: *mut llama_sampler)>,
    /// Whether the sampler can run inside the graph; may be NULL.
    pub backend_init: Option<
        unsafe extern "C" fn(
            smpl: *mut llama_sampler,
            buft: ggml_backend_buffer_type_t,
            n_outputs_max_per_seq: u32,
        ) -> bool,
    >,
    /// Adds the acceptance to a graph; may be NULL.
    pub backend_accept: Option<
        unsafe extern "C" fn(
            smpl: *mut llama_sampler,
            ctx: *mut ggml_context,
            gf: *mut ggml_cgraph,
            selected_token: *mut ggml_tensor,
        ),
    >,
    /// Adds the sampler to a graph; may be NULL.
    pub backend_apply: Option<
        unsafe extern "C" fn(
            smpl: *mut llama_sampler,
            ctx: *mut ggml_context,
            gf: *mut ggml_cgraph,
            data: *mut llama_sampler_data,
        ),
    >,
    /// Sets the graph's inputs; may be NULL.
    pub backend_set_input: Option<unsafe extern "C" fn(smpl: *mut llama_sampler)>,
    /// Forgets the graph; may be NULL.
    pub backend_reset: Option<unsafe extern "C" fn(smpl: *mut llama_sampler)>,
    /// Copies what changes from one sampler to another of the same kind; may be NULL.
    pub copy_state: Option<unsafe extern "C" fn(src: *const llama_sampler, dst: *mut llama_sampler)>,
}

/// A sampler: its functions and what it keeps.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_sampler {
    /// Its functions.
    pub iface: *mut llama_sampler_i,
    /// What it keeps; passed through its functions.
    pub ctx: llama_sampler_context_t,
}

/// Where the time of a context went.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_perf_context_data {
    /// When the context was made or reset, in ms of llama_time_us's clock.
    pub t_start_ms: f64,
    /// Time to load the model, in ms.
    pub t_load_ms: f64,
    /// Time in batches, in ms.
    pub t_p_eval_ms: f64,
    /// Time in single tokens, in ms.
    pub t_eval_ms: f64,
    /// Tokens in batches.
    pub n_p_eval: i32,
    /// Single tokens.
    pub n_eval: i32,
    /// How often a graph was used again.
    pub n_reused: i32,
}

/// Where the time of a sampler chain went.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_perf_sampler_data {
    /// Time in samplers, in ms.
    pub t_sample_ms: f64,
    /// Tokens sampled.
    pub n_sample: i32,
}

/// One metadata value to use instead of the file's.
///
/// cbindgen cannot write the anonymous union of the C declaration, which stands in the header's preamble instead.
///
/// cbindgen:ignore
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llama_model_kv_override {
    /// Which member of `value` is set.
    pub tag: CEnum<llama_model_kv_override_type>,
    /// NUL-terminated key; empty in the last element of a list.
    pub key: [c_char; 128],
    /// The value.
    pub value: llama_model_kv_override_value,
}

/// The union in [`llama_model_kv_override`].
///
/// cbindgen:ignore
#[repr(C)]
#[derive(Clone, Copy)]
pub union llama_model_kv_override_value {
    /// With LLAMA_KV_OVERRIDE_TYPE_INT.
    pub val_i64: i64,
    /// With LLAMA_KV_OVERRIDE_TYPE_FLOAT.
    pub val_f64: f64,
    /// With LLAMA_KV_OVERRIDE_TYPE_BOOL. A byte, because a caller may leave any value there.
    pub val_bool: u8,
    /// With LLAMA_KV_OVERRIDE_TYPE_STR, NUL-terminated.
    pub val_str: [c_char; 128],
}
