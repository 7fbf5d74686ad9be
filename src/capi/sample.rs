//! Sampling from a context's logits: where samplers meet contexts.

use super::*;
use crate::{Error, Result};

/// Chooses a token by the logits of output `idx` of the last batch (see llama_get_logits_ith) and tells the sampler so:
/// llama_sampler_apply over all tokens, then llama_sampler_accept. Returns LLAMA_TOKEN_NULL when there are no such logits
/// or the sampler chooses none.
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
        let mut candidates = unsafe { fill(ctx, idx) }?;
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

/// Every token with its logit.
///
/// # Safety
/// `ctx` must be NULL or a live context.
unsafe fn fill(ctx: *mut llama_context, idx: i32) -> Result<Vec<llama_token_data>> {
    // SAFETY: the caller promises NULL or a live context.
    let handle = unsafe { handle_mut(ctx) }?;
    let mut candidates = std::mem::take(&mut handle.candidates);
    handle.change(|context, _| {
        candidates.clear();
        let logits = context.logits_ith(idx)?.iter().zip(0..);
        candidates.extend(logits.map(|(&logit, id)| llama_token_data { id, logit, p: 0.0 }));
        Ok(candidates)
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
