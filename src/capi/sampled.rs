//! Samplers that are attached to sequences of a context, and what they made of the last batch.

use super::*;
use crate::Result;
use crate::context::Context;
use crate::sampling::Row;

/// Attaches a sampler chain to a sequence: it works on the sequence's logits while batches are computed, and
/// llama_sampler_sample then takes what it chose, or goes on with what it left. That holds for the chain's samplers up to
/// the first that only works afterwards: greedy, dist, top-k, top-p, min-p, temperature (simple and extended), logit bias,
/// and penalties if n_outputs_max_per_seq is 1. The chain stays the caller's and must live until it is replaced, or the
/// context freed; tell it of accepted tokens as usual. NULL for `smpl` takes the sequence's chain away.
///
/// Returns whether that was done; false for a sampler that is no chain, and for an empty chain: then the sequence has none.
///
/// # Safety
/// `ctx` must be NULL or a live context, `smpl` be NULL or a sampler that lives as long as it is attached and that no other
/// thread uses while the context decodes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_set_sampler(
    ctx: *mut llama_context,
    seq_id: llama_seq_id,
    smpl: *mut llama_sampler,
) -> bool {
    guard(false, || {
        // SAFETY: the caller's promises.
        unsafe { handle_mut(ctx)?.change(|context, _| set_sampler(context, seq_id, smpl)) }?;
        Ok(true)
    })
}

/// Returns the token that an attached sampler chose at token `i` of the last batch (negative `i` counts outputs from the
/// last); LLAMA_TOKEN_NULL if none did.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_sampled_token_ith(ctx: *mut llama_context, i: i32) -> llama_token {
    guard(LLAMA_TOKEN_NULL, || {
        // SAFETY: the caller promises NULL or a live context.
        unsafe { handle_mut(ctx) }?.change(|context, _| Ok(context.sampled_token(i)?.unwrap_or(LLAMA_TOKEN_NULL)))
    })
}

/// Returns the probabilities by which an attached sampler chose at token `i` of the last batch, one for each candidate; NULL
/// if none did. They are valid until the next decode.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_sampled_probs_ith(ctx: *mut llama_context, i: i32) -> *mut f32 {
    let none = std::ptr::null_mut();
    // SAFETY: the caller promises NULL or a live context.
    unsafe { ask_row(ctx, i, none, |row| row.probs.as_mut().map_or(none, |probs| first(probs))) }
}

/// Returns how many floats llama_get_sampled_probs_ith returns.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_sampled_probs_count_ith(ctx: *mut llama_context, i: i32) -> u32 {
    // SAFETY: the caller promises NULL or a live context.
    unsafe { ask_row(ctx, i, 0, |row| row.probs.as_ref().map_or(0, |probs| probs.len() as u32)) }
}

/// Returns the logits that an attached sampler left at token `i` of the last batch, one for each candidate, -infinity for
/// those that it excluded; NULL if the token's sequence has none. They are valid until the next decode.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_sampled_logits_ith(ctx: *mut llama_context, i: i32) -> *mut f32 {
    // SAFETY: the caller promises NULL or a live context.
    unsafe { ask_row(ctx, i, std::ptr::null_mut(), |row| first(&mut row.logits)) }
}

/// Returns how many floats llama_get_sampled_logits_ith returns; n_vocab if the last batch had no sequence with a sampler.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_sampled_logits_count_ith(ctx: *mut llama_context, i: i32) -> u32 {
    guard(0, || {
        // SAFETY: the caller promises NULL or a live context.
        unsafe { handle_mut(ctx) }?.change(|context, _| {
            if !context.has_sampled() {
                return Ok(context.model().vocab.n_tokens() as u32);
            }
            Ok(context.sampled(i)?.map_or(0, |row| row.logits.len() as u32))
        })
    })
}

/// Returns the tokens that llama_get_sampled_logits_ith and llama_get_sampled_probs_ith are about; all tokens in order if
/// no sampler dropped any. They are valid until the next decode.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_sampled_candidates_ith(ctx: *mut llama_context, i: i32) -> *mut llama_token {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live context.
        unsafe { handle_mut(ctx) }?.change(|context, _| {
            let row = context.sampled(i).ok().flatten();
            let candidates = row.and_then(|row| row.candidates.as_mut()).filter(|c| !c.is_empty()).map(|c| first(c));
            Ok(candidates.unwrap_or_else(|| first(context.all_tokens())))
        })
    })
}

/// Returns how many tokens an attached sampler left at token `i` of the last batch; 0 if it dropped none, or there is none.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_sampled_candidates_count_ith(ctx: *mut llama_context, i: i32) -> u32 {
    // SAFETY: the caller promises NULL or a live context.
    unsafe { ask_row(ctx, i, 0, |row| row.candidates.as_ref().map_or(0, |candidates| candidates.len() as u32)) }
}

/// Attaches the samplers that a context's parameters name.
///
/// # Safety
/// `params.samplers` must be NULL or have `n_samplers` entries, whose samplers live as long as they are attached.
pub(super) unsafe fn attach_samplers(context: &mut Context, params: &llama_context_params) -> Result<()> {
    let n = if params.samplers.is_null() { 0 } else { params.n_samplers };
    // SAFETY: the caller's promise.
    for config in unsafe { array(params.samplers.cast_const(), n, "samplers") }? {
        // SAFETY: as above.
        unsafe {
            if llama_sampler_chain_get(config.sampler, -1).is_null() {
                return Err(crate::Error::argument("a sampler in the parameters is no chain"));
            }
            if let Err(e) = set_sampler(context, config.seq_id, config.sampler) {
                ::log::warn!("sequence {}: {e}", config.seq_id);
            }
        }
    }
    Ok(())
}

/// # Safety
/// `smpl` must be NULL or a sampler that lives as long as it is attached.
unsafe fn set_sampler(context: &mut Context, seq_id: llama_seq_id, smpl: *mut llama_sampler) -> Result<()> {
    let n_outputs_max = context.settings().n_outputs_max_per_seq as usize;
    // Whatever happens, what was attached is replaced.
    context.set_sampler(seq_id, None)?;
    if smpl.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    context.set_sampler(seq_id, Some(unsafe { attach(smpl, n_outputs_max) }?))
}

/// Asks a row; `none` if the token's sequence has no sampler.
///
/// # Safety
/// `ctx` must be NULL or a live context.
unsafe fn ask_row<T: Copy>(ctx: *mut llama_context, i: i32, none: T, ask: impl FnOnce(&mut Row) -> T) -> T {
    guard(none, || {
        // SAFETY: the caller promises NULL or a live context.
        unsafe { handle_mut(ctx) }?.change(|context, _| Ok(context.sampled(i)?.map_or(none, ask)))
    })
}

/// The first element, for C; NULL if there is none.
fn first<T>(items: &mut [T]) -> *mut T {
    if items.is_empty() { std::ptr::null_mut() } else { items.as_mut_ptr() }
}
