//! What a caller asks of a context, and what it gets: defaults filled in from the model, sizes rounded.

use crate::error::{Error, Result};
use crate::memory::{ContextSize, Window};
use crate::model::build::RopeSetup;
use crate::model::{HParams, Model, Pooling, RopeScaling, SwaType};
use crate::quant::DType;

/// Which backend computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendKind {
    /// The fastest there is for the machine; the environment variable `INFER_BACKEND=reference` makes it the plain one.
    #[default]
    Auto,
    /// The plain one, see `backend::reference`.
    Reference,
}

/// See llama.h's `llama_context_params` for the fields of the same names. `None` (and 0 for sizes): as the model says.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ContextParams {
    pub n_ctx: u32,
    pub n_batch: u32,
    pub n_ubatch: u32,
    pub n_seq_max: u32,
    pub n_outputs_max: u32,
    pub n_outputs_max_per_seq: u32,
    pub n_threads: usize,
    pub n_threads_batch: usize,
    pub rope_scaling: Option<RopeScaling>,
    pub rope_freq_base: Option<f32>,
    pub rope_freq_scale: Option<f32>,
    pub yarn_ext_factor: Option<f32>,
    pub yarn_attn_factor: Option<f32>,
    pub yarn_beta_fast: Option<f32>,
    pub yarn_beta_slow: Option<f32>,
    pub yarn_orig_ctx: Option<u32>,
    pub pooling: Option<Pooling>,
    pub causal_attn: Option<bool>,
    pub type_k: DType,
    pub type_v: DType,
    pub embeddings: bool,
    pub swa_full: bool,
    pub kv_unified: bool,
    pub no_perf: bool,
    pub offload_kqv: bool,
    pub backend: BackendKind,
}

impl Default for ContextParams {
    fn default() -> Self {
        ContextParams {
            n_ctx: 512,
            n_batch: 2048,
            n_ubatch: 512,
            n_seq_max: 1,
            n_outputs_max: 0,
            n_outputs_max_per_seq: 1,
            n_threads: 4,
            n_threads_batch: 4,
            rope_scaling: None,
            rope_freq_base: None,
            rope_freq_scale: None,
            yarn_ext_factor: None,
            yarn_attn_factor: None,
            yarn_beta_fast: None,
            yarn_beta_slow: None,
            yarn_orig_ctx: None,
            pooling: None,
            causal_attn: None,
            type_k: DType::F16,
            type_v: DType::F16,
            embeddings: false,
            swa_full: true,
            kv_unified: false,
            no_perf: true,
            offload_kqv: true,
            backend: BackendKind::Auto,
        }
    }
}

/// Types that a KV cache can have.
const KV_TYPES: [DType; 9] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::IQ4NL,
];

/// Most threads that a context takes; llama.h's `GGML_MAX_N_THREADS`.
pub const MAX_THREADS: usize = 512;

/// The settings of a living context.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Settings {
    pub n_ctx: u32,
    pub n_ctx_seq: u32,
    pub n_batch: u32,
    pub n_ubatch: u32,
    pub n_seq_max: u32,
    /// Of a sequence that a sampler is attached to, in one batch.
    pub n_outputs_max_per_seq: u32,
    pub n_threads: usize,
    pub n_threads_batch: usize,
    pub rope: RopeSetup,
    pub pooling: Pooling,
    pub causal_attn: bool,
    pub embeddings: bool,
    pub kv_unified: bool,
    pub swa_full: bool,
    pub no_perf: bool,
    pub type_k: DType,
    pub type_v: DType,
}

impl Settings {
    /// Settles what `params` leaves open. A model that has only its vocabulary gets a context that can hold settings and
    /// counters but computes nothing.
    pub fn new(model: &Model, params: &ContextParams) -> Result<Settings> {
        let hp = model.hparams.as_ref();
        if let Some(hp) = hp {
            check_kv_types(hp, params)?;
        }
        let n_seq_max = params.n_seq_max.max(1);
        let n_ctx_train = hp.map_or(0, |hp| hp.n_ctx_train);
        let n_ctx = if params.n_ctx == 0 { n_ctx_train } else { params.n_ctx };
        let causal_attn = params.causal_attn.unwrap_or(hp.is_none_or(|hp| hp.causal_attn));
        let n_batch = if causal_attn { params.n_batch.min(n_ctx) } else { params.n_batch };
        if n_batch == 0 {
            return Err(Error::argument("n_batch is 0"));
        }
        let n_ubatch = if params.n_ubatch == 0 { n_batch } else { params.n_ubatch.min(n_batch) };
        let size = ContextSize::new(n_ctx, n_seq_max, params.kv_unified)?;
        if size.n_ctx_seq > n_ctx_train {
            log::warn!("n_ctx_seq ({}) is more than the {n_ctx_train} of training", size.n_ctx_seq);
        }
        let or = |n: u32, other: u32| if n == 0 { other } else { n };
        let n_outputs_max = or(params.n_outputs_max, n_batch);
        Ok(Settings {
            n_ctx: size.n_ctx,
            n_ctx_seq: size.n_ctx_seq,
            n_batch,
            n_ubatch,
            n_seq_max,
            n_outputs_max_per_seq: or(params.n_outputs_max_per_seq, n_outputs_max).min(n_outputs_max),
            n_threads: params.n_threads.clamp(1, MAX_THREADS),
            n_threads_batch: params.n_threads_batch.clamp(1, MAX_THREADS),
            rope: hp.map_or(RopeSetup::default(), |hp| rope(hp, params)),
            pooling: params.pooling.or(hp.and_then(|hp| hp.pooling)).unwrap_or(Pooling::None),
            causal_attn,
            embeddings: params.embeddings,
            kv_unified: params.kv_unified,
            swa_full: params.swa_full,
            no_perf: params.no_perf,
            type_k: params.type_k,
            type_v: params.type_v,
        })
    }
}

fn check_kv_types(hp: &HParams, params: &ContextParams) -> Result<()> {
    for (what, dtype, head) in
        [("type_k", params.type_k, hp.n_embd_head_k), ("type_v", params.type_v, hp.n_embd_head_v)]
    {
        if !KV_TYPES.contains(&dtype) {
            return Err(Error::Unsupported(format!("{what} {dtype} for a KV cache")));
        }
        if head % dtype.block_size() != 0 {
            return Err(Error::Unsupported(format!("{what} {dtype} for heads of {head}, not a multiple of its block")));
        }
    }
    Ok(())
}

fn rope(hp: &HParams, params: &ContextParams) -> RopeSetup {
    let scaling = params.rope_scaling.unwrap_or(hp.rope_scaling);
    let freq_scale = match scaling {
        RopeScaling::None => 1.0,
        RopeScaling::Linear | RopeScaling::Yarn | RopeScaling::LongRope => {
            params.rope_freq_scale.unwrap_or(hp.rope_freq_scale)
        }
    };
    let mut ext_factor = params.yarn_ext_factor.unwrap_or(hp.yarn_ext_factor);
    if ext_factor < 0.0 {
        ext_factor = if scaling == RopeScaling::Yarn { 1.0 } else { 0.0 };
    }
    let mut attn_factor = params.yarn_attn_factor.unwrap_or(hp.yarn_attn_factor);
    if ext_factor != 0.0 {
        // The magnitude that the rotation itself applies for YaRN is taken back: models were converted with it in their
        // own attention factor.
        let log = 0.1 * (1.0 / freq_scale).ln();
        let magnitude = if freq_scale >= 1.0 { 1.0 } else { 1.0 + log };
        attn_factor = magnitude / (1.0 + log);
    }
    let orig = params.yarn_orig_ctx.filter(|&n| n != 0).unwrap_or(hp.n_ctx_orig_yarn);
    RopeSetup {
        freq_base: params.rope_freq_base.unwrap_or(hp.rope_freq_base),
        freq_scale,
        ext_factor,
        attn_factor: attn_factor * hp.rope_attn_factor,
        beta_fast: params.yarn_beta_fast.unwrap_or(hp.yarn_beta_fast),
        beta_slow: params.yarn_beta_slow.unwrap_or(hp.yarn_beta_slow),
        n_ctx_orig: if orig == 0 { hp.n_ctx_train } else { orig },
    }
}

/// The model's sliding window as the memory knows it.
pub fn window(hp: &HParams) -> Window {
    if hp.n_swa == 0 {
        return Window::None;
    }
    match hp.swa_type {
        SwaType::None => Window::None,
        SwaType::Standard => Window::Standard(hp.n_swa),
        SwaType::Chunked => Window::Chunked(hp.n_swa),
        SwaType::Symmetric => Window::Symmetric(hp.n_swa),
    }
}
