//! What the last decode computed: logits and embeddings; and where the time went.

use super::*;
use crate::Result;
use crate::context::Context;

/// Returns the logits of all output tokens of the last batch, in its order: n_outputs rows of n_vocab floats, which may be
/// changed. NULL when there are none. They are valid until the next decode.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_logits(ctx: *mut llama_context) -> *mut f32 {
    // SAFETY: the caller promises NULL or a live context.
    unsafe { floats(ctx, Context::logits) }
}

/// Returns the n_vocab logits of token `i` of the last batch; a negative `i` counts output tokens from the last, -1. NULL
/// when that token has none. They are valid until the next decode. If a sampler is attached to the token's sequence, they are
/// what llama_get_sampled_logits_ith returns.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_logits_ith(ctx: *mut llama_context, i: i32) -> *mut f32 {
    // SAFETY: the caller promises NULL or a live context.
    unsafe {
        floats(ctx, |context| {
            if context.sampled(i)?.is_some_and(|row| !row.logits.is_empty()) {
                return Ok(context.sampled(i)?.map_or(&mut [], |row| &mut row.logits[..]));
            }
            context.logits_ith(i)
        })
    }
}

/// Returns the embeddings of all output tokens of the last batch: n_outputs rows of n_embd_out floats. NULL when there are
/// none, or pooling makes one of each sequence. They are valid until the next decode.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_embeddings(ctx: *mut llama_context) -> *mut f32 {
    // SAFETY: the caller promises NULL or a live context.
    unsafe { floats(ctx, Context::embeddings) }
}

/// Returns the n_embd_out floats of the embedding of token `i` of the last batch; a negative `i` counts output tokens from
/// the last, -1. NULL when that token has none. They are valid until the next decode.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_embeddings_ith(ctx: *mut llama_context, i: i32) -> *mut f32 {
    // SAFETY: the caller promises NULL or a live context.
    unsafe { floats(ctx, |context| context.embeddings_ith(i)) }
}

/// Returns the pooled embedding of a sequence of the last batch: n_embd_out floats, or with pooling RANK the scores of the
/// model's classes. NULL when there is no pooling or no such sequence. They are valid until the next decode.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_embeddings_seq(ctx: *mut llama_context, seq_id: llama_seq_id) -> *mut f32 {
    // SAFETY: the caller promises NULL or a live context.
    unsafe { floats(ctx, |context| context.embeddings_seq(seq_id)) }
}

/// Returns where the time of a context went since it was made or its counters were reset. All is zero for a context made
/// with no_perf.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_perf_context(ctx: *const llama_context) -> llama_perf_context_data {
    let nothing = llama_perf_context_data {
        t_start_ms: 0.0,
        t_load_ms: 0.0,
        t_p_eval_ms: 0.0,
        t_eval_ms: 0.0,
        n_p_eval: 0,
        n_eval: 0,
        n_reused: 0,
    };
    guard(nothing, || {
        // SAFETY: the caller promises NULL or a live context.
        let perf = unsafe { handle_ref(ctx) }?.context()?.perf();
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        // At least 1: callers divide by these.
        let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX).max(1);
        Ok(llama_perf_context_data {
            t_start_ms: ggml::clock_ms(perf.start),
            t_load_ms: ms(perf.load),
            t_p_eval_ms: ms(perf.p_eval),
            t_eval_ms: ms(perf.eval),
            n_p_eval: count(perf.n_p_eval),
            n_eval: count(perf.n_eval),
            n_reused: i32::try_from(perf.n_reused).unwrap_or(i32::MAX),
        })
    })
}

/// Logs what llama_perf_context returns.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_perf_context_print(ctx: *const llama_context) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live context.
        let (_, data) = unsafe { (handle_ref(ctx)?, llama_perf_context(ctx)) };
        let rate = |ms: f64, n: i32| {
            let n = f64::from(n);
            format!("{ms:10.2} ms / {n:5} tokens ({:8.2} ms per token, {:8.2} tokens per second)", ms / n, 1e3 / ms * n)
        };
        let total = ggml_time_us() as f64 * 1e-3 - data.t_start_ms;
        ::log::info!("llama_perf: load time        = {:10.2} ms", data.t_load_ms);
        ::log::info!("llama_perf: prompt eval time = {}", rate(data.t_p_eval_ms, data.n_p_eval));
        ::log::info!("llama_perf: eval time        = {}", rate(data.t_eval_ms, data.n_eval));
        ::log::info!("llama_perf: total time       = {total:10.2} ms / {:5} tokens", data.n_p_eval + data.n_eval);
        ::log::info!("llama_perf: graphs reused    = {:10}", data.n_reused);
        Ok(())
    });
}

/// Sets the counters of a context back.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_perf_context_reset(ctx: *mut llama_context) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live context.
        unsafe { handle_mut(ctx) }?.change(|context, _| {
            let _: () = context.reset_perf();
            Ok(())
        })
    })
}

/// # Safety
/// `ctx` must be NULL or a live context.
unsafe fn floats(ctx: *mut llama_context, get: impl FnOnce(&mut Context) -> Result<&mut [f32]>) -> *mut f32 {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live context.
        unsafe { handle_mut(ctx) }?.change(|context, _| Ok(get(context)?.as_mut_ptr()))
    })
}
