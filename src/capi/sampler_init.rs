//! Makes the library's own samplers for C callers; `crate::sampling` says what each does.
//!
//! What these functions return belongs to the caller until `llama_sampler_chain_add`, and is freed by
//! `llama_sampler_free`. One thread at a time may use a sampler.

use std::ptr::null_mut;

use super::*;
use crate::sampling::{self, LogitBias, MirostatParams, PenaltyParams};

const _: () = assert!(size_of::<llama_logit_bias>() == size_of::<LogitBias>());

/// Makes a sampler that selects the candidate with the highest logit, the first of equals. The caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_greedy() -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::greedy())))
}

/// Makes a sampler that selects a candidate at random by its probability, which it computes from the logits. Equal
/// seeds give equal sequences; LLAMA_DEFAULT_SEED asks for a random seed. The caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_dist(seed: u32) -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::dist(seed))))
}

/// Makes a sampler that keeps the `k` most probable candidates and sorts them ("The Curious Case of Neural Text
/// Degeneration", https://arxiv.org/abs/1904.09751). Does nothing if `k` is 0 or less. The caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_top_k(k: i32) -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::top_k(k))))
}

/// Makes a sampler that keeps the most probable candidates until their probabilities sum to `p`, but at least
/// `min_keep` (nucleus sampling, https://arxiv.org/abs/1904.09751). Does nothing if `p` is 1 or more. The caller owns
/// it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_top_p(p: f32, min_keep: usize) -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::top_p(p, min_keep))))
}

/// Makes a sampler that keeps the candidates with at least `p` times the highest probability, but at least `min_keep`
/// of them (https://github.com/ggml-org/llama.cpp/pull/3841). Does nothing if `p` is 0 or less. The caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_min_p(p: f32, min_keep: usize) -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::min_p(p, min_keep))))
}

/// Makes a sampler that keeps the candidates whose surprise is closest to the expected one until their probabilities
/// sum to more than `p`, but at least `min_keep` (locally typical sampling, https://arxiv.org/abs/2202.00666). Does
/// nothing if `p` is 1 or more. The caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_typical(p: f32, min_keep: usize) -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::typical(p, min_keep))))
}

/// Makes a sampler that divides the logits by the temperature `t`. If `t` is 0 or less the highest logit keeps its
/// value and the others become -infinity. Does nothing if `t` is 1. The caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_temp(t: f32) -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::temp(t))))
}

/// Makes a sampler that divides the logits by a temperature between `t` - `delta` and `t` + `delta`, the higher the
/// larger the entropy, relative to its maximum, to the power of `exponent` (https://arxiv.org/abs/2309.02772). With
/// `delta` 0 or less it is `llama_sampler_init_temp`. The caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_temp_ext(t: f32, delta: f32, exponent: f32) -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::temp_ext(t, delta, exponent))))
}

/// Makes a sampler that, with probability `p`, drops the candidates with at least probability `t` but the last of them,
/// provided that `min_keep` are left (https://github.com/oobabooga/text-generation-webui/pull/6335). Equal seeds give
/// equal sequences; LLAMA_DEFAULT_SEED asks for a random seed. Does nothing if `p` is 0 or less or `t` above 0.5. The
/// caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_xtc(p: f32, t: f32, min_keep: usize, seed: u32) -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::xtc(p, t, min_keep, seed))))
}

/// Makes a sampler that sets logits to -infinity that are more than `n` standard deviations under the highest
/// ("Top-nσ: Not All Logits Are You Need", https://arxiv.org/abs/2411.07641). Does nothing if `n` is 0 or less. The
/// caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_top_n_sigma(n: f32) -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::top_n_sigma(n))))
}

/// Makes a sampler that selects a candidate such that the surprise of the text stays near `tau` bits per token
/// (Mirostat 1, https://arxiv.org/abs/2007.14966). `eta` is how fast it corrects for what it observed, `m` how many
/// candidates estimate the distribution (the paper uses 100), `n_vocab` the size of the vocabulary. Equal seeds give
/// equal sequences; LLAMA_DEFAULT_SEED asks for a random seed. The caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_mirostat(
    n_vocab: i32,
    seed: u32,
    tau: f32,
    eta: f32,
    m: i32,
) -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::mirostat(MirostatParams { n_vocab, seed, tau, eta, m }))))
}

/// Makes a sampler that selects a candidate such that the surprise of the text stays near `tau` bits per token
/// (Mirostat 2, https://arxiv.org/abs/2007.14966). `eta` is how fast it corrects for what it observed. Equal seeds give
/// equal sequences; LLAMA_DEFAULT_SEED asks for a random seed. The caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_mirostat_v2(seed: u32, tau: f32, eta: f32) -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::mirostat_v2(seed, tau, eta))))
}

/// Makes a sampler that selects candidates whose probabilities are `target` on average (0 to 1; negative: candidates are
/// drawn by their probabilities). The average reaches back about 1 / (1 - `decay`) tokens, `decay` being from 0 to 0.99.
/// Put it last in a chain, after mild truncation such as min-p (https://github.com/ggml-org/llama.cpp/pull/17927).
/// Equal seeds give equal sequences; LLAMA_DEFAULT_SEED asks for a random seed. The caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_adaptive_p(target: f32, decay: f32, seed: u32) -> *mut llama_sampler {
    guard(null_mut(), || Ok(wrap(sampling::adaptive_p(target, decay, seed))))
}

/// Makes a sampler that lowers the logits of the tokens among the last `penalty_last_n` accepted ones: positive logits
/// are divided by `penalty_repeat` and others multiplied by it (1 changes nothing), `penalty_freq` is subtracted once
/// per occurrence, `penalty_present` once. `n_vocab` is the size of the vocabulary. Does nothing if `penalty_last_n` is
/// 0 or less or if no penalty changes anything. Fastest as the first sampler of a chain. The caller owns it.
#[unsafe(no_mangle)]
pub extern "C" fn llama_sampler_init_penalties(
    n_vocab: i32,
    penalty_last_n: i32,
    penalty_repeat: f32,
    penalty_freq: f32,
    penalty_present: f32,
) -> *mut llama_sampler {
    guard(null_mut(), || {
        // Tokens are looked up among the candidates, however many there are.
        let _ = n_vocab;
        Ok(wrap(sampling::penalties(PenaltyParams {
            last_n: penalty_last_n,
            repeat: penalty_repeat,
            freq: penalty_freq,
            present: penalty_present,
        })))
    })
}

/// Makes a sampler that adds to the logits of the `n_logit_bias` tokens in `logit_bias`, which is copied. A bias of
/// -infinity bans a token; tokens that are no candidates are ignored. `n_vocab` is the size of the vocabulary. Does
/// nothing if `n_logit_bias` is 0 or less. The caller owns it. NULL, as an error, if `logit_bias` is NULL.
///
/// # Safety
/// `logit_bias` must be NULL or have `n_logit_bias` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_init_logit_bias(
    n_vocab: i32,
    n_logit_bias: i32,
    logit_bias: *const llama_logit_bias,
) -> *mut llama_sampler {
    guard(null_mut(), || {
        // Tokens are looked up among the candidates, however many there are.
        let _ = n_vocab;
        let n = usize::try_from(n_logit_bias).unwrap_or(0);
        // SAFETY: the caller promises n elements or NULL.
        let biases = unsafe { array(logit_bias, n, "logit_bias") }?;
        let biases: Vec<_> = biases.iter().map(|b| LogitBias { token: b.token, bias: b.bias }).collect();
        Ok(wrap(sampling::logit_bias(&biases)))
    })
}
