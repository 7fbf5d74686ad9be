//! The old names of llama.h's functions, kept for programs that still call them.

use std::ffi::c_char;

use super::*;

/// The old name of llama_model_load_from_file.
///
/// # Safety
/// As for llama_model_load_from_file.
#[deprecated(note = "use llama_model_load_from_file instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_load_model_from_file(
    path_model: *const c_char,
    params: llama_model_params,
) -> *mut llama_model {
    // SAFETY: the caller promises what llama_model_load_from_file asks for.
    unsafe { llama_model_load_from_file(path_model, params) }
}

/// The old name of llama_model_free.
///
/// # Safety
/// As for llama_model_free.
#[deprecated(note = "use llama_model_free instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_free_model(model: *mut llama_model) {
    // SAFETY: the caller promises what llama_model_free asks for.
    unsafe { llama_model_free(model) }
}

/// The old name of llama_init_from_model.
///
/// # Safety
/// As for llama_init_from_model.
#[deprecated(note = "use llama_init_from_model instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_new_context_with_model(
    model: *mut llama_model,
    params: llama_context_params,
) -> *mut llama_context {
    // SAFETY: the caller promises what llama_init_from_model asks for.
    unsafe { llama_init_from_model(model, params) }
}

/// The old name of llama_model_n_ctx_train.
///
/// # Safety
/// As for llama_model_n_ctx_train.
#[deprecated(note = "use llama_model_n_ctx_train instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_ctx_train(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises what llama_model_n_ctx_train asks for.
    unsafe { llama_model_n_ctx_train(model) }
}

/// The old name of llama_model_n_embd.
///
/// # Safety
/// As for llama_model_n_embd.
#[deprecated(note = "use llama_model_n_embd instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_embd(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises what llama_model_n_embd asks for.
    unsafe { llama_model_n_embd(model) }
}

/// The old name of llama_model_n_layer.
///
/// # Safety
/// As for llama_model_n_layer.
#[deprecated(note = "use llama_model_n_layer instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_layer(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises what llama_model_n_layer asks for.
    unsafe { llama_model_n_layer(model) }
}

/// The old name of llama_model_n_head.
///
/// # Safety
/// As for llama_model_n_head.
#[deprecated(note = "use llama_model_n_head instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_head(model: *const llama_model) -> i32 {
    // SAFETY: the caller promises what llama_model_n_head asks for.
    unsafe { llama_model_n_head(model) }
}

/// The old name of llama_vocab_n_tokens.
///
/// # Safety
/// As for llama_vocab_n_tokens.
#[deprecated(note = "use llama_vocab_n_tokens instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_n_vocab(vocab: *const llama_vocab) -> i32 {
    // SAFETY: the caller promises what llama_vocab_n_tokens asks for.
    unsafe { llama_vocab_n_tokens(vocab) }
}

/// The old name of llama_vocab_get_text.
///
/// # Safety
/// As for llama_vocab_get_text.
#[deprecated(note = "use llama_vocab_get_text instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_get_text(vocab: *const llama_vocab, token: llama_token) -> *const c_char {
    // SAFETY: the caller promises what llama_vocab_get_text asks for.
    unsafe { llama_vocab_get_text(vocab, token) }
}

/// The old name of llama_vocab_get_score.
///
/// # Safety
/// As for llama_vocab_get_score.
#[deprecated(note = "use llama_vocab_get_score instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_get_score(vocab: *const llama_vocab, token: llama_token) -> f32 {
    // SAFETY: the caller promises what llama_vocab_get_score asks for.
    unsafe { llama_vocab_get_score(vocab, token) }
}

/// The old name of llama_vocab_get_attr.
///
/// # Safety
/// As for llama_vocab_get_attr.
#[deprecated(note = "use llama_vocab_get_attr instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_get_attr(
    vocab: *const llama_vocab,
    token: llama_token,
) -> CEnum<llama_token_attr> {
    // SAFETY: the caller promises what llama_vocab_get_attr asks for.
    unsafe { llama_vocab_get_attr(vocab, token) }
}

/// The old name of llama_vocab_is_eog.
///
/// # Safety
/// As for llama_vocab_is_eog.
#[deprecated(note = "use llama_vocab_is_eog instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_is_eog(vocab: *const llama_vocab, token: llama_token) -> bool {
    // SAFETY: the caller promises what llama_vocab_is_eog asks for.
    unsafe { llama_vocab_is_eog(vocab, token) }
}

/// The old name of llama_vocab_is_control.
///
/// # Safety
/// As for llama_vocab_is_control.
#[deprecated(note = "use llama_vocab_is_control instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_is_control(vocab: *const llama_vocab, token: llama_token) -> bool {
    // SAFETY: the caller promises what llama_vocab_is_control asks for.
    unsafe { llama_vocab_is_control(vocab, token) }
}

/// The old name of llama_vocab_bos.
///
/// # Safety
/// As for llama_vocab_bos.
#[deprecated(note = "use llama_vocab_bos instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_bos(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_bos asks for.
    unsafe { llama_vocab_bos(vocab) }
}

/// The old name of llama_vocab_eos.
///
/// # Safety
/// As for llama_vocab_eos.
#[deprecated(note = "use llama_vocab_eos instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_eos(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_eos asks for.
    unsafe { llama_vocab_eos(vocab) }
}

/// The old name of llama_vocab_eot.
///
/// # Safety
/// As for llama_vocab_eot.
#[deprecated(note = "use llama_vocab_eot instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_eot(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_eot asks for.
    unsafe { llama_vocab_eot(vocab) }
}

/// The old name of llama_vocab_sep.
///
/// # Safety
/// As for llama_vocab_sep.
#[deprecated(note = "use llama_vocab_sep instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_sep(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_sep asks for.
    unsafe { llama_vocab_sep(vocab) }
}

/// The old name of llama_vocab_nl.
///
/// # Safety
/// As for llama_vocab_nl.
#[deprecated(note = "use llama_vocab_nl instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_nl(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_nl asks for.
    unsafe { llama_vocab_nl(vocab) }
}

/// The old name of llama_vocab_pad.
///
/// # Safety
/// As for llama_vocab_pad.
#[deprecated(note = "use llama_vocab_pad instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_pad(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_pad asks for.
    unsafe { llama_vocab_pad(vocab) }
}

/// The old name of llama_vocab_fim_pre.
///
/// # Safety
/// As for llama_vocab_fim_pre.
#[deprecated(note = "use llama_vocab_fim_pre instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_fim_pre(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_fim_pre asks for.
    unsafe { llama_vocab_fim_pre(vocab) }
}

/// The old name of llama_vocab_fim_suf.
///
/// # Safety
/// As for llama_vocab_fim_suf.
#[deprecated(note = "use llama_vocab_fim_suf instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_fim_suf(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_fim_suf asks for.
    unsafe { llama_vocab_fim_suf(vocab) }
}

/// The old name of llama_vocab_fim_mid.
///
/// # Safety
/// As for llama_vocab_fim_mid.
#[deprecated(note = "use llama_vocab_fim_mid instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_fim_mid(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_fim_mid asks for.
    unsafe { llama_vocab_fim_mid(vocab) }
}

/// The old name of llama_vocab_fim_pad.
///
/// # Safety
/// As for llama_vocab_fim_pad.
#[deprecated(note = "use llama_vocab_fim_pad instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_fim_pad(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_fim_pad asks for.
    unsafe { llama_vocab_fim_pad(vocab) }
}

/// The old name of llama_vocab_fim_rep.
///
/// # Safety
/// As for llama_vocab_fim_rep.
#[deprecated(note = "use llama_vocab_fim_rep instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_fim_rep(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_fim_rep asks for.
    unsafe { llama_vocab_fim_rep(vocab) }
}

/// The old name of llama_vocab_fim_sep.
///
/// # Safety
/// As for llama_vocab_fim_sep.
#[deprecated(note = "use llama_vocab_fim_sep instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_fim_sep(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_fim_sep asks for.
    unsafe { llama_vocab_fim_sep(vocab) }
}

/// The old name of llama_vocab_bos.
///
/// # Safety
/// As for llama_vocab_bos.
#[deprecated(note = "use llama_vocab_bos instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_cls(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_bos asks for.
    unsafe { llama_vocab_bos(vocab) }
}

/// The old name of llama_vocab_bos.
///
/// # Safety
/// As for llama_vocab_bos.
#[deprecated(note = "use llama_vocab_bos instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_cls(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises what llama_vocab_bos asks for.
    unsafe { llama_vocab_bos(vocab) }
}

/// The old name of llama_vocab_get_add_bos.
///
/// # Safety
/// As for llama_vocab_get_add_bos.
#[deprecated(note = "use llama_vocab_get_add_bos instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_add_bos_token(vocab: *const llama_vocab) -> bool {
    // SAFETY: the caller promises what llama_vocab_get_add_bos asks for.
    unsafe { llama_vocab_get_add_bos(vocab) }
}

/// The old name of llama_vocab_get_add_eos.
///
/// # Safety
/// As for llama_vocab_get_add_eos.
#[deprecated(note = "use llama_vocab_get_add_eos instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_add_eos_token(vocab: *const llama_vocab) -> bool {
    // SAFETY: the caller promises what llama_vocab_get_add_eos asks for.
    unsafe { llama_vocab_get_add_eos(vocab) }
}

/// The old name of llama_state_get_size.
///
/// # Safety
/// As for llama_state_get_size.
#[deprecated(note = "use llama_state_get_size instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_get_state_size(ctx: *mut llama_context) -> usize {
    // SAFETY: the caller promises what llama_state_get_size asks for.
    unsafe { llama_state_get_size(ctx) }
}

/// The old form of llama_state_get_data: `dst` must have as many bytes as llama_state_get_size returns.
///
/// # Safety
/// As for llama_state_get_data.
#[deprecated(note = "use llama_state_get_data instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_copy_state_data(ctx: *mut llama_context, dst: *mut u8) -> usize {
    // SAFETY: the caller promises a buffer for the whole state, however large it is.
    unsafe { llama_state_get_data(ctx, dst, usize::MAX) }
}

/// The old form of llama_state_set_data: `src` must point to a complete state.
///
/// # Safety
/// `ctx` must be NULL or a live context, `src` be NULL or point to a state.
#[deprecated(note = "use llama_state_set_data instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_set_state_data(ctx: *mut llama_context, src: *const u8) -> usize {
    // SAFETY: the caller promises a complete state, which says itself how long it is.
    unsafe { state::set_data_of_unknown_size(ctx, src) }
}

/// The old name of llama_state_load_file.
///
/// # Safety
/// As for llama_state_load_file.
#[deprecated(note = "use llama_state_load_file instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_load_session_file(
    ctx: *mut llama_context,
    path_session: *const c_char,
    tokens_out: *mut llama_token,
    n_token_capacity: usize,
    n_token_count_out: *mut usize,
) -> bool {
    // SAFETY: the caller promises what llama_state_load_file asks for.
    unsafe { llama_state_load_file(ctx, path_session, tokens_out, n_token_capacity, n_token_count_out) }
}

/// The old name of llama_state_save_file.
///
/// # Safety
/// As for llama_state_save_file.
#[deprecated(note = "use llama_state_save_file instead")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_save_session_file(
    ctx: *mut llama_context,
    path_session: *const c_char,
    tokens: *const llama_token,
    n_token_count: usize,
) -> bool {
    // SAFETY: the caller promises what llama_state_save_file asks for.
    unsafe { llama_state_save_file(ctx, path_session, tokens, n_token_count) }
}
