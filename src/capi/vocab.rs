//! Vocabularies: tokens, special tokens, text to tokens and back.

use std::ffi::c_char;
use std::sync::Arc;

use super::*;
use crate::model::Model;
use crate::vocab::{Token, Vocab, VocabType};
use crate::{Error, Result};

/// A model's vocabulary. It belongs to the model, and all its functions may be called from any thread.
pub struct llama_vocab {
    tag: Tag,
    model: Arc<Model>,
}

impl Tagged for llama_vocab {
    const NAME: &'static str = "vocab";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

impl llama_vocab {
    pub(super) fn new(model: Arc<Model>) -> Self {
        llama_vocab { tag: Tag::of::<llama_vocab>(), model }
    }

    /// The engine's vocabulary.
    pub(crate) fn vocab(&self) -> &Arc<Vocab> {
        &self.model.vocab
    }
}

/// What LLAMA_TOKEN_NULL is in C: no token.
pub(crate) const LLAMA_TOKEN_NULL: llama_token = -1;

/// Asks a vocabulary; an error gives `default`.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
pub(super) unsafe fn ask<T>(vocab: *const llama_vocab, default: T, question: impl FnOnce(&Vocab) -> Result<T>) -> T {
    // SAFETY: the caller promises NULL or a live vocabulary.
    guard(default, || question(unsafe { handle_ref(vocab) }?.vocab()))
}

/// Returns how text is cut into tokens.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_type(vocab: *const llama_vocab) -> CEnum<llama_vocab_type> {
    let number = |vocab: &Vocab| match vocab.vocab_type() {
        VocabType::None => llama_vocab_type::LLAMA_VOCAB_TYPE_NONE,
        VocabType::Spm => llama_vocab_type::LLAMA_VOCAB_TYPE_SPM,
        VocabType::Bpe => llama_vocab_type::LLAMA_VOCAB_TYPE_BPE,
        VocabType::Wpm => llama_vocab_type::LLAMA_VOCAB_TYPE_WPM,
        VocabType::Ugm => llama_vocab_type::LLAMA_VOCAB_TYPE_UGM,
        VocabType::Rwkv => llama_vocab_type::LLAMA_VOCAB_TYPE_RWKV,
        VocabType::Plamo2 => llama_vocab_type::LLAMA_VOCAB_TYPE_PLAMO2,
        VocabType::Test => llama_vocab_type::LLAMA_VOCAB_TYPE_TEST,
    };
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, CEnum::new(llama_vocab_type::LLAMA_VOCAB_TYPE_NONE), |vocab| Ok(CEnum::new(number(vocab)))) }
}

/// Returns how many tokens there are.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_n_tokens(vocab: *const llama_vocab) -> i32 {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, 0, |vocab| Ok(vocab.n_tokens() as i32)) }
}

/// Returns a token's text as it stands in the file, or NULL. It lives as long as the model. What a token adds to a text
/// is for llama_token_to_piece to say.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_get_text(vocab: *const llama_vocab, token: llama_token) -> *const c_char {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, std::ptr::null(), |vocab| Ok(vocab.text(token)?.as_ptr())) }
}

/// Returns a token's score.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_get_score(vocab: *const llama_vocab, token: llama_token) -> f32 {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, 0.0, |vocab| vocab.score(token)) }
}

/// Returns what is special about a token: bits of llama_token_attr.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_get_attr(
    vocab: *const llama_vocab,
    token: llama_token,
) -> CEnum<llama_token_attr> {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, CEnum::from_int(0), |vocab| Ok(CEnum::from_int(vocab.attr(token)? as i32))) }
}

/// Whether a token ends the generation: of the text, the turn or the message.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_is_eog(vocab: *const llama_vocab, token: llama_token) -> bool {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, false, |vocab| Ok(vocab.is_eog(token))) }
}

/// Whether a token steers the model rather than being text.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_is_control(vocab: *const llama_vocab, token: llama_token) -> bool {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, false, |vocab| Ok(vocab.is_control(token))) }
}

/// Returns the token at the beginning of a text, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_bos(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.bos())) }
}

/// Returns the token at the end of a text, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_eos(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.eos())) }
}

/// Returns the token at the end of a turn, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_eot(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.eot())) }
}

/// Returns the token between two texts, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_sep(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.sep())) }
}

/// Returns the newline token, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_nl(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.nl())) }
}

/// Returns the padding token, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_pad(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.pad())) }
}

/// Returns the token of a blank to be filled in, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_mask(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.mask())) }
}

/// Returns the token before the text in front of a gap to be filled in, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_fim_pre(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.fim_pre())) }
}

/// Returns the token before the text behind a gap, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_fim_suf(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.fim_suf())) }
}

/// Returns the token after which the gap is filled in, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_fim_mid(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.fim_mid())) }
}

/// Returns the padding token of gaps, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_fim_pad(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.fim_pad())) }
}

/// Returns the token before the name of a repository, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_fim_rep(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.fim_rep())) }
}

/// Returns the token before another file, or LLAMA_TOKEN_NULL.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_fim_sep(vocab: *const llama_vocab) -> llama_token {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, LLAMA_TOKEN_NULL, |vocab| Ok(vocab.fim_sep())) }
}

/// Whether a text starts with BOS when llama_tokenize adds special tokens.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_get_add_bos(vocab: *const llama_vocab) -> bool {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, false, |vocab| Ok(vocab.add_bos())) }
}

/// Whether a text ends with EOS when llama_tokenize adds special tokens.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_get_add_eos(vocab: *const llama_vocab) -> bool {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, false, |vocab| Ok(vocab.add_eos())) }
}

/// Whether SEP goes between texts when llama_tokenize adds special tokens.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_get_add_sep(vocab: *const llama_vocab) -> bool {
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, false, |vocab| Ok(vocab.add_sep())) }
}

/// Returns the tokens that the model's makers want never to be sampled, and their number through `n_suppress_tokens`
/// unless that is NULL. They live as long as the model.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary, `n_suppress_tokens` be NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_vocab_get_suppress_tokens(
    vocab: *const llama_vocab,
    n_suppress_tokens: *mut i32,
) -> *const llama_token {
    let mut found: (*const Token, i32) = (std::ptr::null(), 0);
    // SAFETY: the caller promises NULL or a live vocabulary.
    found = unsafe {
        ask(vocab, found, |vocab| {
            let tokens = vocab.suppress_tokens();
            Ok((tokens.as_ptr(), tokens.len() as i32))
        })
    };
    if !n_suppress_tokens.is_null() {
        // SAFETY: not NULL, and the caller promises that it is writable.
        unsafe { n_suppress_tokens.write(found.1) };
    }
    found.0
}

/// Cuts a text of `text_len` bytes into tokens and writes them to `tokens`, which has room for `n_tokens_max`.
///
/// `add_special` adds what the model wants around a text, such as BOS. With `parse_special` the names of special tokens in
/// the text become these tokens; otherwise they are text. Returns the number of tokens; when there are more than
/// `n_tokens_max`, minus their number, and nothing is written; INT32_MIN on any other failure.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary, `text` point to `text_len` bytes, `tokens` to `n_tokens_max` tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_tokenize(
    vocab: *const llama_vocab,
    text: *const c_char,
    text_len: i32,
    tokens: *mut llama_token,
    n_tokens_max: i32,
    add_special: bool,
    parse_special: bool,
) -> i32 {
    let tokenize = |vocab: &Vocab| {
        // SAFETY: the caller promises text_len bytes.
        let text = unsafe { array(text.cast::<u8>(), non_negative(text_len, "text_len")?, "text") }?;
        let found = vocab.tokenize(text, add_special, parse_special)?;
        // SAFETY: the caller promises room for n_tokens_max tokens.
        unsafe { write_all(&found, tokens, n_tokens_max, "tokens") }
    };
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, i32::MIN, tokenize) }
}

/// Writes what a token adds to a text to `buf`, which has room for `length` bytes; no NUL is added.
///
/// Up to `lstrip` leading spaces are left out. Tokens that steer the model add nothing unless `special` is set. Returns the
/// number of bytes; when there are more than `length`, minus their number, and nothing is written; 0 on any other failure.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary, `buf` point to `length` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_token_to_piece(
    vocab: *const llama_vocab,
    token: llama_token,
    buf: *mut c_char,
    length: i32,
    lstrip: i32,
    special: bool,
) -> i32 {
    let write = |vocab: &Vocab| {
        let piece = vocab.token_to_piece(token, lstrip, special)?;
        // SAFETY: the caller promises `length` writable bytes.
        unsafe { write_all(piece, buf.cast(), length, "buf") }
    };
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, 0, write) }
}

/// Writes the text of `n_tokens` tokens to `text`, which has room for `text_len_max` bytes; no NUL is added.
///
/// With `remove_special` the tokens that llama_tokenize adds around a text are left out; with `unparse_special` the names
/// of special tokens are part of the text. Returns the number of bytes; when there are more than `text_len_max`, minus
/// their number; INT32_MIN on any other failure.
///
/// # Safety
/// `vocab` must be NULL or a live vocabulary, `tokens` point to `n_tokens` tokens, `text` to `text_len_max` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_detokenize(
    vocab: *const llama_vocab,
    tokens: *const llama_token,
    n_tokens: i32,
    text: *mut c_char,
    text_len_max: i32,
    remove_special: bool,
    unparse_special: bool,
) -> i32 {
    let write = |vocab: &Vocab| {
        // SAFETY: the caller promises n_tokens tokens.
        let tokens = unsafe { array(tokens, non_negative(n_tokens, "n_tokens")?, "tokens") }?;
        let found = vocab.detokenize_sized(tokens, remove_special, unparse_special)?;
        // As in llama.cpp, there must be room for the text as it is before spaces are cleaned up.
        let needed = i32::try_from(found.n_uncleaned).unwrap_or(i32::MAX);
        if needed > text_len_max {
            return Ok(-needed);
        }
        // SAFETY: the caller promises text_len_max writable bytes.
        unsafe { write_all(&found.text, text.cast(), text_len_max, "text") }
    };
    // SAFETY: the caller promises NULL or a live vocabulary.
    unsafe { ask(vocab, i32::MIN, write) }
}

/// Writes all of `found` to a caller's buffer of `max` elements and returns their number, or minus it when they are more.
///
/// # Safety
/// `buf` must be NULL or have room for `max` elements.
unsafe fn write_all<T: Copy>(found: &[T], buf: *mut T, max: i32, name: &'static str) -> Result<i32> {
    let n = i32::try_from(found.len()).map_err(|_| Error::argument(format!("{} values are too many", found.len())))?;
    if n > max {
        return Ok(-n);
    }
    if n > 0 {
        if buf.is_null() {
            return Err(Error::Null(name));
        }
        // SAFETY: not NULL, n <= max, and the caller promises room for `max` elements.
        unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), buf, found.len()) };
    }
    Ok(n)
}
