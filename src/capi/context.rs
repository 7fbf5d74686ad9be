//! Contexts: making, settings, decoding.

use std::ffi::c_void;
use std::sync::Arc;

use super::*;
use crate::context::{Context, ContextParams};
use crate::memory::SeqIds;
use crate::model::{Pooling, RopeScaling};
use crate::{Error, Result};

/// What a conversation, or several, needs beside the model. One thread at a time may use it.
pub struct llama_context {
    tag: Tag,
    model: Arc<llama_model>,
    context: Context,
    memory: llama_memory_i,
    /// A panic was caught while the context was being changed: nothing is known of its state.
    poisoned: bool,
    /// Threads as llama_set_n_threads was given them, for single tokens and for batches.
    n_threads: [i32; 2],
    /// Threads of the pools that are attached.
    pool_threads: [Option<i32>; 2],
    /// The sequences of the batch being decoded.
    seq_ids: SeqIds,
    /// What llama_sampler_sample chooses from, kept for its memory.
    pub(super) candidates: Vec<llama_token_data>,
    /// The graph that llama_graph_reserve gave last.
    pub(super) graph: Option<Box<ggml_cgraph>>,
}

impl Tagged for llama_context {
    const NAME: &'static str = "ctx";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

impl llama_context {
    /// The engine's context, for questions.
    pub(super) fn context(&self) -> Result<&Context> {
        if self.poisoned { Err(poisoned()) } else { Ok(&self.context) }
    }

    /// Changes the engine's context. A panic meanwhile makes the context unusable.
    pub(super) fn change<T>(&mut self, change: impl FnOnce(&mut Context, &mut SeqIds) -> Result<T>) -> Result<T> {
        if self.poisoned {
            return Err(poisoned());
        }
        self.poisoned = true;
        let result = change(&mut self.context, &mut self.seq_ids);
        self.poisoned = false;
        result
    }

    /// Tells the engine how many threads to use: as many as asked for, but no more than an attached pool has.
    fn apply_threads(&mut self) {
        let count = |i: usize| {
            let asked = if self.n_threads[i] > 0 { self.n_threads[i] } else { DEFAULT_N_THREADS };
            asked.min(self.pool_threads[i].unwrap_or(i32::MAX)) as usize
        };
        let (single, batch) = (count(0), count(1));
        self.context.set_n_threads(single, batch);
    }
}

/// Threads of a context whose parameters ask for none.
const DEFAULT_N_THREADS: i32 = 4;

fn poisoned() -> Error {
    Error::Internal("the context was left in an unknown state by an internal error; free it".into())
}

/// Returns the usual parameters: 512 tokens of context, one sequence, 4 threads, no embeddings.
#[unsafe(no_mangle)]
pub extern "C" fn llama_context_default_params() -> llama_context_params {
    llama_context_params {
        n_ctx: 512,
        n_batch: 2048,
        n_ubatch: 512,
        n_seq_max: 1,
        n_rs_seq: 0,
        n_outputs_max: 0,
        n_outputs_max_per_seq: 1,
        n_threads: DEFAULT_N_THREADS,
        n_threads_batch: DEFAULT_N_THREADS,
        ctx_type: CEnum::new(llama_context_type::LLAMA_CONTEXT_TYPE_DEFAULT),
        rope_scaling_type: CEnum::new(llama_rope_scaling_type::LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED),
        pooling_type: CEnum::new(llama_pooling_type::LLAMA_POOLING_TYPE_UNSPECIFIED),
        attention_type: CEnum::new(llama_attention_type::LLAMA_ATTENTION_TYPE_UNSPECIFIED),
        flash_attn_type: CEnum::new(llama_flash_attn_type::LLAMA_FLASH_ATTN_TYPE_AUTO),
        rope_freq_base: 0.0,
        rope_freq_scale: 0.0,
        yarn_ext_factor: -1.0,
        yarn_attn_factor: -1.0,
        yarn_beta_fast: -1.0,
        yarn_beta_slow: -1.0,
        yarn_orig_ctx: 0,
        defrag_thold: -1.0,
        cb_eval: None,
        cb_eval_user_data: std::ptr::null_mut(),
        type_k: CEnum::new(ggml_type::GGML_TYPE_F16),
        type_v: CEnum::new(ggml_type::GGML_TYPE_F16),
        abort_callback: None,
        abort_callback_data: std::ptr::null_mut(),
        embeddings: false,
        offload_kqv: true,
        no_perf: true,
        op_offload: true,
        swa_full: true,
        kv_unified: false,
        samplers: std::ptr::null_mut(),
        n_samplers: 0,
        ctx_other: std::ptr::null_mut(),
    }
}

/// Makes a context over a model. Sizes may be rounded up: ask the context for them. Returns NULL when the parameters make
/// no sense for the model or memory is short. Free the result with llama_free.
///
/// # Safety
/// `model` must be NULL or a live model, the callbacks in `params` take their data.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_init_from_model(
    model: *mut llama_model,
    params: llama_context_params,
) -> *mut llama_context {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live model.
        let handle = unsafe { handle_ref(model) }?;
        let mut context = Context::new(handle.model.clone(), &engine_params(&params)?)?;
        if let Some(callback) = params.cb_eval {
            // SAFETY: the caller promises a callback that takes its data.
            context.set_eval_callback(Some(unsafe { observe::eval_callback(callback, params.cb_eval_user_data) }));
        }
        // SAFETY: the caller promises `n_samplers` chains for sequences, which live as long as they are attached.
        unsafe { attach_samplers(&mut context, &params) }?;
        // SAFETY: the caller promises a live model.
        let model = unsafe { model::model_arc(model) }?;
        let ctx = Box::into_raw(Box::new(llama_context {
            tag: Tag::of::<llama_context>(),
            model,
            context,
            memory: llama_memory_i::new(),
            poisoned: false,
            n_threads: [params.n_threads, params.n_threads_batch],
            pool_threads: [None; 2],
            seq_ids: SeqIds::default(),
            candidates: Vec::new(),
            graph: None,
        }));
        // SAFETY: the box was made just above; nobody else knows it yet.
        unsafe {
            (*ctx).memory.belongs_to(ctx);
            (*ctx).apply_threads();
            llama_set_abort_callback(ctx, params.abort_callback, params.abort_callback_data);
        }
        Ok(ctx)
    })
}

/// Frees a context. NULL does nothing.
///
/// # Safety
/// `ctx` must be NULL or a context that was not freed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_free(ctx: *mut llama_context) {
    guard((), || {
        if !ctx.is_null() {
            // SAFETY: the caller promises a live context of llama_init_from_model, given up here.
            unsafe {
                handle_ref(ctx)?;
                drop(Box::from_raw(ctx));
            }
        }
        Ok(())
    });
}

/// Returns the cells of KV memory over all sequences.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_ctx(ctx: *const llama_context) -> u32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.context()?.settings().n_ctx))
}

/// Returns the cells of KV memory that a sequence has.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_ctx_seq(ctx: *const llama_context) -> u32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.context()?.settings().n_ctx_seq))
}

/// Returns the most tokens that one llama_decode takes.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_batch(ctx: *const llama_context) -> u32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.context()?.settings().n_batch))
}

/// Returns the most tokens that are computed at once.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_ubatch(ctx: *const llama_context) -> u32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.context()?.settings().n_ubatch))
}

/// Returns how many sequences there may be.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_seq_max(ctx: *const llama_context) -> u32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.context()?.settings().n_seq_max))
}

/// Returns how many snapshots of recurrent state are kept per sequence.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_rs_seq(ctx: *const llama_context) -> u32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || unsafe { handle_ref(ctx) }.map(|_| 0))
}

/// Returns the context's model, which lives at least as long as the context.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_model(ctx: *const llama_context) -> *const llama_model {
    // SAFETY: the caller promises NULL or a live context.
    guard(std::ptr::null(), || Ok(Arc::as_ptr(&unsafe { handle_ref(ctx) }?.model)))
}

/// Returns the context's memory, which lives as long as the context; NULL for models that have none.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_memory(ctx: *const llama_context) -> llama_memory_t {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live context.
        let handle = unsafe { handle_ref(ctx) }?;
        let memory = handle.context()?.memory().map(|_| (&raw const handle.memory).cast_mut());
        Ok(memory.unwrap_or(std::ptr::null_mut()))
    })
}

/// Returns how a sequence's embeddings become one.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_pooling_type(ctx: *const llama_context) -> CEnum<llama_pooling_type> {
    guard(CEnum::new(llama_pooling_type::LLAMA_POOLING_TYPE_UNSPECIFIED), || {
        // SAFETY: the caller promises NULL or a live context.
        Ok(CEnum::new(match unsafe { handle_ref(ctx) }?.context()?.pooling() {
            Pooling::None => llama_pooling_type::LLAMA_POOLING_TYPE_NONE,
            Pooling::Mean => llama_pooling_type::LLAMA_POOLING_TYPE_MEAN,
            Pooling::Cls => llama_pooling_type::LLAMA_POOLING_TYPE_CLS,
            Pooling::Last => llama_pooling_type::LLAMA_POOLING_TYPE_LAST,
            Pooling::Rank => llama_pooling_type::LLAMA_POOLING_TYPE_RANK,
        }))
    })
}

/// Sets how many threads compute: `n_threads` for single tokens, `n_threads_batch` for batches. Numbers below 1 mean 4.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_set_n_threads(ctx: *mut llama_context, n_threads: i32, n_threads_batch: i32) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_mut(ctx) }?;
        ctx.n_threads = [n_threads, n_threads_batch];
        ctx.apply_threads();
        Ok(())
    });
}

/// Returns how many threads compute single tokens.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_threads(ctx: *mut llama_context) -> i32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.n_threads[0]))
}

/// Returns how many threads compute batches.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_threads_batch(ctx: *mut llama_context) -> i32 {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || Ok(unsafe { handle_ref(ctx) }?.n_threads[1]))
}

/// Limits a context to the threads of pools, and to where and how they run: `threadpool` for single tokens,
/// `threadpool_batch` (or with NULL the same) for batches. The context makes threads of its own after their pattern; a
/// pool's being paused does not matter to them.
///
/// # Safety
/// `ctx` must be NULL or a live context, the pools be NULL or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_attach_threadpool(
    ctx: *mut llama_context,
    threadpool: ggml_threadpool_t,
    threadpool_batch: ggml_threadpool_t,
) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live context, and NULL or live pools.
        let (ctx, single) = unsafe { (handle_mut(ctx)?, handle_ref(threadpool)?) };
        let batch = if threadpool_batch.is_null() { threadpool } else { threadpool_batch };
        // SAFETY: as above.
        let batch = unsafe { handle_ref(batch) }?;
        let placements = (single.placement(), batch.placement());
        ctx.pool_threads = [Some(single.params.n_threads), Some(batch.params.n_threads)];
        ctx.context.set_placements(placements.0, placements.1);
        ctx.apply_threads();
        Ok(())
    });
}

/// Lets a context use threads of its own again.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_detach_threadpool(ctx: *mut llama_context) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_mut(ctx) }?;
        ctx.pool_threads = [None; 2];
        ctx.context.set_placements(None, None);
        ctx.apply_threads();
        Ok(())
    });
}

/// Sets whether decoding makes embeddings, together with logits.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_set_embeddings(ctx: *mut llama_context, embeddings: bool) {
    // SAFETY: the caller promises NULL or a live context.
    unsafe {
        change(ctx, |context| {
            let _: () = context.set_embeddings(embeddings);
            Ok(())
        })
    }
}

/// Sets whether tokens see only what is before them.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_set_causal_attn(ctx: *mut llama_context, causal_attn: bool) {
    // SAFETY: the caller promises NULL or a live context.
    unsafe {
        change(ctx, |context| {
            let _: () = context.set_causal_attn(causal_attn);
            Ok(())
        })
    }
}

/// Whether tokens see only what is before them.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_causal_attn(ctx: *const llama_context) -> bool {
    // SAFETY: the caller promises NULL or a live context.
    guard(false, || Ok(unsafe { handle_ref(ctx) }?.context()?.settings().causal_attn))
}

/// Sets whether decodes are for warming up: they touch all weights and are not counted.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_set_warmup(ctx: *mut llama_context, warmup: bool) {
    // SAFETY: the caller promises NULL or a live context.
    unsafe {
        change(ctx, |context| {
            let _: () = context.set_warmup(warmup);
            Ok(())
        })
    }
}

/// Sets what is asked, at least once per layer, whether to stop a decode: true stops it. NULL: nothing is asked. It must
/// not use the context.
///
/// # Safety
/// `ctx` must be NULL or a live context, `abort_callback` take its data until another is set or the context freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_set_abort_callback(
    ctx: *mut llama_context,
    abort_callback: ggml_abort_callback,
    abort_callback_data: *mut c_void,
) {
    struct Data(*mut c_void);
    // SAFETY: it is only handed back to the caller's callback, on the thread that uses the context.
    unsafe impl Send for Data {}

    let data = Data(abort_callback_data);
    let callback = abort_callback.map(|callback| {
        let asked = move || {
            let data = &data;
            // SAFETY: the caller promises a callback that takes its data.
            unsafe { callback(data.0) }
        };
        Box::new(asked) as crate::context::AbortCallback
    });
    // SAFETY: the caller promises NULL or a live context.
    unsafe {
        change(ctx, |context| {
            let _: () = context.set_abort_callback(callback);
            Ok(())
        })
    }
}

/// Waits until all computations are finished. The functions that return results do this themselves.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_synchronize(ctx: *mut llama_context) {
    // SAFETY: the caller promises NULL or a live context.
    unsafe {
        change(ctx, |context| {
            let _: () = context.synchronize();
            Ok(())
        })
    }
}

/// Changes a context.
///
/// # Safety
/// `ctx` must be NULL or a live context.
unsafe fn change(ctx: *mut llama_context, change: impl FnOnce(&mut Context) -> Result<()>) {
    // SAFETY: the caller promises NULL or a live context.
    guard((), || unsafe { handle_mut(ctx) }?.change(|context, _| change(context)))
}

/// The engine's parameters, with unspecified ones left to the model.
fn engine_params(p: &llama_context_params) -> Result<ContextParams> {
    if p.n_batch == 0 && p.n_ubatch == 0 {
        return Err(Error::argument("n_batch and n_ubatch are both 0"));
    }
    if p.ctx_type.value() != llama_context_type::LLAMA_CONTEXT_TYPE_DEFAULT as i32 {
        return Err(Error::Unsupported(format!("context type {:?}", p.ctx_type)));
    }
    let type_v = dtype(p.type_v)?;
    match p.flash_attn_type.value() {
        -1 | 1 => {}
        0 if type_v.is_quantized() => return Err(Error::argument("a quantized V cache needs flash attention")),
        0 => {}
        other => return Err(Error::argument(format!("no flash attention type has the number {other}"))),
    }
    Ok(ContextParams {
        n_ctx: p.n_ctx,
        n_batch: p.n_batch,
        n_ubatch: p.n_ubatch,
        n_seq_max: p.n_seq_max,
        n_outputs_max: p.n_outputs_max,
        n_outputs_max_per_seq: p.n_outputs_max_per_seq,
        n_threads: DEFAULT_N_THREADS as usize,
        n_threads_batch: DEFAULT_N_THREADS as usize,
        rope_scaling: rope_scaling(p.rope_scaling_type)?,
        rope_freq_base: (p.rope_freq_base != 0.0).then_some(p.rope_freq_base),
        rope_freq_scale: (p.rope_freq_scale != 0.0).then_some(p.rope_freq_scale),
        yarn_ext_factor: (p.yarn_ext_factor >= 0.0).then_some(p.yarn_ext_factor),
        yarn_attn_factor: (p.yarn_attn_factor >= 0.0).then_some(p.yarn_attn_factor),
        yarn_beta_fast: (p.yarn_beta_fast >= 0.0).then_some(p.yarn_beta_fast),
        yarn_beta_slow: (p.yarn_beta_slow >= 0.0).then_some(p.yarn_beta_slow),
        yarn_orig_ctx: (p.yarn_orig_ctx != 0).then_some(p.yarn_orig_ctx),
        pooling: pooling(p.pooling_type)?,
        causal_attn: match p.attention_type.value() {
            -1 => None,
            0 => Some(true),
            1 => Some(false),
            other => return Err(Error::argument(format!("no attention type has the number {other}"))),
        },
        type_k: dtype(p.type_k)?,
        type_v,
        embeddings: p.embeddings,
        swa_full: p.swa_full,
        kv_unified: p.kv_unified,
        no_perf: p.no_perf,
        offload_kqv: p.offload_kqv,
        ..ContextParams::default()
    })
}

fn rope_scaling(ty: CEnum<llama_rope_scaling_type>) -> Result<Option<RopeScaling>> {
    Ok(match ty.value() {
        -1 => None,
        0 => Some(RopeScaling::None),
        1 => Some(RopeScaling::Linear),
        2 => Some(RopeScaling::Yarn),
        3 => Some(RopeScaling::LongRope),
        other => return Err(Error::argument(format!("no RoPE scaling type has the number {other}"))),
    })
}

fn pooling(ty: CEnum<llama_pooling_type>) -> Result<Option<Pooling>> {
    Ok(match ty.value() {
        -1 => None,
        0 => Some(Pooling::None),
        1 => Some(Pooling::Mean),
        2 => Some(Pooling::Cls),
        3 => Some(Pooling::Last),
        4 => Some(Pooling::Rank),
        other => return Err(Error::argument(format!("no pooling type has the number {other}"))),
    })
}
