//! Makes the library's own samplers that know a vocabulary: grammars, DRY, infill. `crate::sampling` says what each does.
//!
//! What these functions return belongs to the caller until `llama_sampler_chain_add`, and is freed by
//! `llama_sampler_free`. It keeps what it needs of the model. One thread at a time may use a sampler.

use std::ffi::c_char;
use std::ptr::null_mut;

use super::*;
use crate::Result;
use crate::sampling::{self, DryParams, Triggers};

/// Makes a sampler that lets a text only go on as a grammar has it: other candidates get the logit -infinity. `grammar_str`
/// is the grammar in GBNF (https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md), `grammar_root` the name
/// of the rule that the whole text must match; tokens that end a generation are allowed where it does. NULL or "" for
/// `grammar_str` makes a sampler that does nothing. Accepting a token that the grammar does not allow is an error and
/// changes nothing. The caller owns it. NULL, as an error, if the grammar cannot be read.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary, the strings NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_init_grammar(
    vocab: *const llama_vocab,
    grammar_str: *const c_char,
    grammar_root: *const c_char,
) -> *mut llama_sampler {
    // SAFETY: the caller's promises are those that `new_grammar` asks for.
    guard(null_mut(), || unsafe { new_grammar(vocab, grammar_str, grammar_root, None) })
}

/// Makes a lazy grammar sampler that is triggered by words or tokens.
///
/// # Safety
/// As for llama_sampler_init_grammar_lazy_patterns, with `num_trigger_words` strings at `trigger_words`.
#[deprecated(note = "use llama_sampler_init_grammar_lazy_patterns instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_init_grammar_lazy(
    vocab: *const llama_vocab,
    grammar_str: *const c_char,
    grammar_root: *const c_char,
    trigger_words: *mut *const c_char,
    num_trigger_words: usize,
    trigger_tokens: *const llama_token,
    num_trigger_tokens: usize,
) -> *mut llama_sampler {
    guard(null_mut(), || {
        let n_words = if trigger_words.is_null() { 0 } else { num_trigger_words };
        // SAFETY: the caller promises arrays of these lengths.
        let (words, tokens) = unsafe {
            (
                strings(trigger_words, n_words, "trigger_words")?,
                array(trigger_tokens, num_trigger_tokens, "trigger_tokens")?,
            )
        };
        let pattern = sampling::grammar::pattern_of_words(&words);
        let patterns: &[&[u8]] = if words.is_empty() { &[] } else { &[&pattern] };
        // SAFETY: the caller's other promises are those that `new_grammar` asks for.
        unsafe { new_grammar(vocab, grammar_str, grammar_root, Some(&Triggers { patterns, tokens })) }
    })
}

/// Makes a sampler that begins to work as `llama_sampler_init_grammar` does when it is triggered: when a token of
/// `trigger_tokens` is accepted, with which the grammar then begins, or when one of `trigger_patterns` is found in the
/// text accepted so far. Patterns are regular expressions as C++'s std::regex has them; the grammar begins with the first
/// group that matched something, or else with the match. The arrays are copied. NULL, as an error, if the grammar or a
/// pattern cannot be read.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary, the strings NULL or NUL-terminated, `trigger_patterns` have
/// `num_trigger_patterns` strings, `trigger_tokens` have `num_trigger_tokens` tokens; either may be NULL when it has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_init_grammar_lazy_patterns(
    vocab: *const llama_vocab,
    grammar_str: *const c_char,
    grammar_root: *const c_char,
    trigger_patterns: *mut *const c_char,
    num_trigger_patterns: usize,
    trigger_tokens: *const llama_token,
    num_trigger_tokens: usize,
) -> *mut llama_sampler {
    guard(null_mut(), || {
        // SAFETY: the caller promises arrays of these lengths.
        let (patterns, tokens) = unsafe {
            (
                strings(trigger_patterns, num_trigger_patterns, "trigger_patterns")?,
                array(trigger_tokens, num_trigger_tokens, "trigger_tokens")?,
            )
        };
        let triggers = Triggers { patterns: &patterns, tokens };
        // SAFETY: the caller's other promises are those that `new_grammar` asks for.
        unsafe { new_grammar(vocab, grammar_str, grammar_root, Some(&triggers)) }
    })
}

/// Makes a sampler that lowers the logits of tokens that would continue a sequence that was there before, "don't repeat
/// yourself" (https://github.com/oobabooga/text-generation-webui/pull/5677): by `dry_multiplier` * `dry_base` ^ (n -
/// `dry_allowed_length`) when the last n tokens and the token would repeat, for n of at least `dry_allowed_length`, among
/// the last `dry_penalty_last_n` accepted tokens. No repetition reaches over one of the `num_breakers` strings in
/// `seq_breakers`, of which the first 40 bytes count. Does nothing if `dry_multiplier` is 0, `dry_base` less than 1 or
/// `dry_penalty_last_n` 0 or less. The caller owns it. NULL, as an error, if there are breakers and `vocab` is NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary, `seq_breakers` be NULL or have `num_breakers` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_init_dry(
    vocab: *const llama_vocab,
    dry_multiplier: f32,
    dry_base: f32,
    dry_allowed_length: i32,
    dry_penalty_last_n: i32,
    seq_breakers: *mut *const c_char,
    num_breakers: usize,
) -> *mut llama_sampler {
    guard(null_mut(), || {
        let params = DryParams {
            multiplier: dry_multiplier,
            base: dry_base,
            allowed_length: dry_allowed_length,
            last_n: dry_penalty_last_n,
        };
        let n = if seq_breakers.is_null() || !params.is_enabled() { 0 } else { num_breakers };
        // SAFETY: the caller promises n strings; a NULL among them is left out.
        let breakers = unsafe { array(seq_breakers.cast_const(), n, "seq_breakers") }?;
        // SAFETY: as above.
        let breakers =
            breakers.iter().filter(|s| !s.is_null()).map(|s| unsafe { c_str(*s, "breaker") }.map(|s| s.to_bytes()));
        let breakers: Vec<&[u8]> = breakers.collect::<Result<_>>()?;
        let breakers = match &breakers[..] {
            [] => Vec::new(),
            // SAFETY: the caller promises NULL or a live vocabulary.
            breakers => sampling::dry_breakers(unsafe { handle_ref(vocab) }?.vocab(), breakers)?,
        };
        Ok(wrap(sampling::dry(params, &breakers)))
    })
}

/// Makes a sampler for filling in the middle, to be used after top-k and top-p. If tokens that end the generation are
/// likely compared with the number of candidates, it keeps only them. Otherwise it joins candidates of which one is the
/// beginning of another, and drops those that are unlikely then; if none but ends are left it chooses the end of the
/// turn. The caller owns it. NULL, as an error, if `vocab` is NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_sampler_init_infill(vocab: *const llama_vocab) -> *mut llama_sampler {
    guard(null_mut(), || {
        // SAFETY: the caller promises NULL or a live vocabulary.
        let vocab = unsafe { handle_ref(vocab) }?.vocab();
        Ok(wrap(sampling::infill(vocab.clone())))
    })
}

/// # Safety
/// `vocab` must be NULL or a live vocabulary, the strings NULL or NUL-terminated.
unsafe fn new_grammar(
    vocab: *const llama_vocab,
    grammar_str: *const c_char,
    grammar_root: *const c_char,
    triggers: Option<&Triggers<'_>>,
) -> Result<*mut llama_sampler> {
    // SAFETY: the caller promises NULL or strings.
    let text = if grammar_str.is_null() { &[] } else { unsafe { c_str(grammar_str, "grammar_str") }?.to_bytes() };
    if text.is_empty() {
        return Ok(wrap(sampling::no_grammar()));
    }
    // SAFETY: as above, and the caller promises NULL or a live vocabulary.
    let (root, vocab) = unsafe { (c_str(grammar_root, "grammar_root")?.to_bytes(), handle_ref(vocab)?.vocab()) };
    Ok(wrap(sampling::grammar(vocab.clone(), text, root, triggers)?))
}

/// The bytes of a caller's strings.
///
/// # Safety
/// `strings` must be NULL or have `n` elements, each NULL or a NUL-terminated string, that live as long as `'a`.
unsafe fn strings<'a>(strings: *mut *const c_char, n: usize, name: &'static str) -> Result<Vec<&'a [u8]>> {
    // SAFETY: the caller promises n elements.
    let strings = unsafe { array(strings.cast_const(), n, name) }?;
    // SAFETY: the caller promises NULL or strings.
    strings.iter().map(|s| unsafe { c_str(*s, name) }.map(|s| s.to_bytes())).collect()
}
