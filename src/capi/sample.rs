//! Sampling from a context's logits: where samplers meet contexts.

use super::*;
use crate::{Error, Result};

/// Chooses a token by the logits of output `idx` of the last batch (see llama_get_logits_ith) and tells the sampler so:
/// llama_sampler_apply over all tokens, then llama_sampler_accept. If a chain is attached to the token's sequence
/// (llama_set_sampler), takes the token that it chose, or applies the sampler to the candidates that it left: pass the same
/// chain here, of which only the samplers are applied that have not been. Returns LLAMA_TOKEN_NULL when there are no such
/// logits or the sampler chooses none.
///
/// # Safety
/// `smpl` must be NULL or a sampler, `ctx` be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_sample(
    smpl: *mut llama_sampler,
    ctx: *mut llama_context,
    idx: i32,
) -> llama_token {
    guard(LLAMA_TOKEN_NULL, || {
        if smpl.is_null() {
            return Err(Error::Null("smpl"));
        }
        // SAFETY: the caller promises NULL or a live context.
        let mut candidates = match unsafe { fill(ctx, idx) }? {
            Filled::Chosen(token) => {
                // SAFETY: the caller promises a sampler.
                unsafe { llama_sampler_accept(smpl, token) };
                return Ok(token);
            }
            Filled::Candidates(candidates) => candidates,
        };
        let mut array = llama_token_data_array {
            data: candidates.as_mut_ptr(),
            size: candidates.len(),
            selected: -1,
            sorted: false,
        };
        // SAFETY: the caller promises a sampler; the array describes `candidates`, which live to the end.
        let chosen = unsafe {
            llama_sampler_apply(smpl, &mut array);
            selected(&array)
        };
        // SAFETY: as for `fill`. The context was not borrowed meanwhile, so that samplers of the caller may use it.
        unsafe { handle_mut(ctx) }?.candidates = candidates;
        let token = chosen?;
        // SAFETY: as above.
        unsafe { llama_sampler_accept(smpl, token) };
        Ok(token)
    })
}

/// What there is to choose from.
enum Filled {
    /// An attached sampler has chosen.
    Chosen(llama_token),
    Candidates(Vec<llama_token_data>),
}

/// Every token with its logit, or what an attached sampler left of them.
///
/// # Safety
/// `ctx` must be NULL or a live context.
unsafe fn fill(ctx: *mut llama_context, idx: i32) -> Result<Filled> {
    // SAFETY: the caller promises NULL or a live context.
    let handle = unsafe { handle_mut(ctx) }?;
    let mut candidates = std::mem::take(&mut handle.candidates);
    handle.change(|context, _| {
        candidates.clear();
        if let Some(token) = context.sampled_token(idx)? {
            return Ok(Filled::Chosen(token));
        }
        if let Some(row) = context.sampled(idx)? {
            let id = |i: usize| row.candidates.as_ref().map_or(i as llama_token, |ids| ids[i]);
            candidates.extend(row.logits.iter().enumerate().map(|(i, &logit)| llama_token_data {
                id: id(i),
                logit,
                p: 0.0,
            }));
            return Ok(Filled::Candidates(candidates));
        }
        let logits = context.logits_ith(idx)?.iter().zip(0..);
        candidates.extend(logits.map(|(&logit, id)| llama_token_data { id, logit, p: 0.0 }));
        Ok(Filled::Candidates(candidates))
    })
}

/// The token that a sampler chose.
///
/// # Safety
/// `array` must be as a sampler leaves it: `data` points to `size` candidates.
unsafe fn selected(array: &llama_token_data_array) -> Result<llama_token> {
    let index = usize::try_from(array.selected).ok().filter(|&i| i < array.size && !array.data.is_null());
    let index =
        index.ok_or_else(|| Error::argument("the sampler chose no token: end a chain with greedy, dist or alike"))?;
    // SAFETY: index < size, and the caller promises that many candidates.
    Ok(unsafe { (*array.data.add(index)).id })
}
