//! States: what a context remembers, or one of its sequences, in buffers and files.

use std::ffi::c_char;
use std::marker::PhantomData;

use super::gguf::path_of;
use super::*;
use crate::context::Source;
use crate::context::session::{Session, count_seq_tokens};
use crate::context::state::{Part, Scope};
use crate::{Error, Result};

/// A combination of LLAMA_STATE_SEQ_FLAGS_*: PARTIAL_ONLY leaves out what is not needed to go back to an earlier position of
/// a sequence that is still remembered, which is all but the layers with a sliding window in models that have such layers.
/// ON_DEVICE is accepted; the data lies in the buffer all the same.
pub type llama_state_seq_flags = u32;

const PARTIAL_ONLY: u32 = 1;
const ON_DEVICE: u32 = 2;

/// Returns how many bytes llama_state_get_data needs for the context as it is, or 0 on failure. What the last decode computed
/// is not part of a state.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_get_size(ctx: *mut llama_context) -> usize {
    // SAFETY: the caller promises NULL or a live context.
    unsafe { size(ctx, || Ok(Scope::Whole)) }
}

/// Copies all that a context remembers into `dst`, which has `size` bytes. Returns the number of bytes copied, or 0 when
/// they do not fit.
///
/// # Safety
/// `ctx` must be NULL or a live context, `dst` be NULL or point to `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_get_data(ctx: *mut llama_context, dst: *mut u8, size: usize) -> usize {
    // SAFETY: the caller promises the same.
    unsafe { get(ctx, dst, size, || Ok(Scope::Whole)) }
}

/// Replaces all that a context remembers by a state of `size` bytes or less. The state may be of another context, also one
/// of llama.cpp, if that has the same model and number of sequences and caches of the same types. Returns the number of
/// bytes read, or 0 when the state is damaged or does not fit: the context is unchanged then.
///
/// # Safety
/// `ctx` must be NULL or a live context, `src` be NULL or point to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_set_data(ctx: *mut llama_context, src: *const u8, size: usize) -> usize {
    // SAFETY: the caller promises the same.
    unsafe { set(ctx, src, size, || Ok(Scope::Whole)) }
}

/// Restores a state whose length nobody told.
///
/// # Safety
/// `ctx` must be NULL or a live context, `src` be NULL or point to a complete state.
pub(super) unsafe fn set_data_of_unknown_size(ctx: *mut llama_context, src: *const u8) -> usize {
    guard(0, || {
        if src.is_null() {
            return Err(Error::Null("src"));
        }
        let mut state = Unbounded { next: src, lifetime: PhantomData };
        // SAFETY: the caller promises NULL or a live context.
        unsafe { handle_mut(ctx) }?.change(|context, _| context.load_state(Scope::Whole, &mut state))
    })
}

/// A state that is long enough because its owner says so.
struct Unbounded<'a> {
    next: *const u8,
    lifetime: PhantomData<&'a [u8]>,
}

impl<'a> Source<'a> for Unbounded<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        // SAFETY: the maker of an Unbounded promises a complete state, and only what belongs to one is asked for.
        let bytes = unsafe { std::slice::from_raw_parts(self.next, n) };
        // SAFETY: as above; the end is at most one past the state.
        self.next = unsafe { self.next.add(n) };
        Ok(bytes)
    }
}

/// Restores a session file that llama_state_save_file wrote: what the context remembers, and the tokens that were saved
/// with it, of which there may be at most `n_token_capacity`. Returns false when that fails: nothing is changed then.
///
/// # Safety
/// `ctx` must be NULL or a live context, `path_session` be NULL or NUL-terminated, `tokens_out` be NULL or have room for
/// `n_token_capacity` tokens, `n_token_count_out` be NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_load_file(
    ctx: *mut llama_context,
    path_session: *const c_char,
    tokens_out: *mut llama_token,
    n_token_capacity: usize,
    n_token_count_out: *mut usize,
) -> bool {
    guard(false, || {
        // SAFETY: the caller promises NULL or the right kind of object for each.
        let (path, ctx) = unsafe { (path_of(c_str(path_session, "path_session")?), handle_mut(ctx)?) };
        let capacity = if tokens_out.is_null() { 0 } else { n_token_capacity };
        require(n_token_count_out)?;
        let session = ctx.change(|context, _| context.load_session(&path, capacity))?;
        // SAFETY: at most `capacity` tokens were accepted, and the counter is not NULL.
        unsafe { give_tokens(&session, tokens_out, n_token_count_out) };
        Ok(true)
    })
}

/// Writes all that a context remembers into a session file, with tokens for the caller's own use. Returns whether it is
/// complete.
///
/// # Safety
/// `ctx` must be NULL or a live context, `path_session` be NULL or NUL-terminated, `tokens` be NULL or point to
/// `n_token_count` tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_save_file(
    ctx: *mut llama_context,
    path_session: *const c_char,
    tokens: *const llama_token,
    n_token_count: usize,
) -> bool {
    guard(false, || {
        // SAFETY: the caller promises NULL or the right kind of object for each.
        let (path, ctx) = unsafe { (path_of(c_str(path_session, "path_session")?), handle_mut(ctx)?) };
        // SAFETY: the caller promises that many tokens.
        let tokens = unsafe { array(tokens, n_token_count, "tokens") }?;
        ctx.change(|context, _| context.save_session(&path, tokens))?;
        Ok(true)
    })
}

/// Returns how many bytes llama_state_seq_get_data needs for a sequence as it is, or 0 on failure.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_seq_get_size(ctx: *mut llama_context, seq_id: llama_seq_id) -> usize {
    // SAFETY: the caller promises NULL or a live context.
    unsafe { llama_state_seq_get_size_ext(ctx, seq_id, 0) }
}

/// Copies a sequence into `dst`, which has `size` bytes. Returns the number of bytes copied, or 0 when they do not fit.
///
/// # Safety
/// `ctx` must be NULL or a live context, `dst` be NULL or point to `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_seq_get_data(
    ctx: *mut llama_context,
    dst: *mut u8,
    size: usize,
    seq_id: llama_seq_id,
) -> usize {
    // SAFETY: the caller promises the same.
    unsafe { llama_state_seq_get_data_ext(ctx, dst, size, seq_id, 0) }
}

/// Replaces sequence `dest_seq_id` by one that llama_state_seq_get_data copied, from whatever sequence. Its cells need not
/// follow each other. Returns the number of bytes read, or 0 when the state is damaged, does not fit the context, or has more
/// tokens than there are free cells: the context is unchanged then.
///
/// # Safety
/// `ctx` must be NULL or a live context, `src` be NULL or point to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_seq_set_data(
    ctx: *mut llama_context,
    src: *const u8,
    size: usize,
    dest_seq_id: llama_seq_id,
) -> usize {
    // SAFETY: the caller promises the same.
    unsafe { llama_state_seq_set_data_ext(ctx, src, size, dest_seq_id, 0) }
}

/// Writes a sequence into a file, with tokens for the caller's own use. Returns the file's size, or 0 on failure.
///
/// # Safety
/// `ctx` must be NULL or a live context, `filepath` be NULL or NUL-terminated, `tokens` be NULL or point to `n_token_count`
/// tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_seq_save_file(
    ctx: *mut llama_context,
    filepath: *const c_char,
    seq_id: llama_seq_id,
    tokens: *const llama_token,
    n_token_count: usize,
) -> usize {
    guard(0, || {
        // SAFETY: the caller promises NULL or the right kind of object for each.
        let (path, ctx) = unsafe { (path_of(c_str(filepath, "filepath")?), handle_mut(ctx)?) };
        // SAFETY: the caller promises that many tokens.
        let tokens = unsafe { array(tokens, n_token_count, "tokens") }?;
        let seq = sequence(seq_id)?;
        ctx.change(|context, _| context.save_seq(&path, seq, tokens))
    })
}

/// Replaces sequence `dest_seq_id` by one that llama_state_seq_save_file wrote, and returns the tokens that were saved with
/// it, of which there may be at most `n_token_capacity`. When `tokens_out` is NULL only their number is returned and
/// nothing is restored. Returns the number of bytes read, or 0 on failure: nothing is changed then.
///
/// # Safety
/// `ctx` must be NULL or a live context, `filepath` be NULL or NUL-terminated, `tokens_out` be NULL or have room for
/// `n_token_capacity` tokens, `n_token_count_out` be NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_seq_load_file(
    ctx: *mut llama_context,
    filepath: *const c_char,
    dest_seq_id: llama_seq_id,
    tokens_out: *mut llama_token,
    n_token_capacity: usize,
    n_token_count_out: *mut usize,
) -> usize {
    guard(0, || {
        // SAFETY: the caller promises NULL or the right kind of object for each.
        let (path, ctx) = unsafe { (path_of(c_str(filepath, "filepath")?), handle_mut(ctx)?) };
        require(n_token_count_out)?;
        let session = if tokens_out.is_null() {
            let n = count_seq_tokens(&path)?;
            // SAFETY: not NULL, and the caller promises that it is writable.
            unsafe { n_token_count_out.write(n) };
            return Ok(SEQ_FILE_HEADER);
        } else {
            let seq = sequence(dest_seq_id)?;
            ctx.change(|context, _| context.load_seq(&path, seq, n_token_capacity))?
        };
        // SAFETY: at most `n_token_capacity` tokens were accepted, and the counter is not NULL.
        unsafe { give_tokens(&session, tokens_out, n_token_count_out) };
        Ok(session.n_bytes)
    })
}

/// What is read of a file to know its number of tokens.
const SEQ_FILE_HEADER: usize = 12;

/// Like llama_state_seq_get_size, for llama_state_seq_get_data_ext with the same flags.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_seq_get_size_ext(
    ctx: *mut llama_context,
    seq_id: llama_seq_id,
    flags: llama_state_seq_flags,
) -> usize {
    // SAFETY: the caller promises NULL or a live context.
    unsafe { size(ctx, || scope(seq_id, flags)) }
}

/// Like llama_state_seq_get_data, of the part that the flags say.
///
/// # Safety
/// `ctx` must be NULL or a live context, `dst` be NULL or point to `size` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_seq_get_data_ext(
    ctx: *mut llama_context,
    dst: *mut u8,
    size: usize,
    seq_id: llama_seq_id,
    flags: llama_state_seq_flags,
) -> usize {
    // SAFETY: the caller promises the same.
    unsafe { get(ctx, dst, size, || scope(seq_id, flags)) }
}

/// Like llama_state_seq_set_data, of a state that was copied with the same flags. What is not part of it stays.
///
/// # Safety
/// `ctx` must be NULL or a live context, `src` be NULL or point to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_state_seq_set_data_ext(
    ctx: *mut llama_context,
    src: *const u8,
    size: usize,
    dest_seq_id: llama_seq_id,
    flags: llama_state_seq_flags,
) -> usize {
    // SAFETY: the caller promises the same.
    unsafe { set(ctx, src, size, || scope(dest_seq_id, flags)) }
}

/// A sequence as llama.h has it; -1 stands for all.
fn sequence(seq_id: llama_seq_id) -> Result<Option<i32>> {
    match seq_id {
        -1 => Ok(None),
        0.. => Ok(Some(seq_id)),
        _ => Err(Error::argument(format!("sequence {seq_id}"))),
    }
}

fn scope(seq_id: llama_seq_id, flags: llama_state_seq_flags) -> Result<Scope> {
    if flags & !(PARTIAL_ONLY | ON_DEVICE) != 0 {
        return Err(Error::argument(format!("flags {flags:#x} of a state")));
    }
    let part = if flags & PARTIAL_ONLY != 0 { Part::Partial } else { Part::All };
    Ok(Scope::Seq(sequence(seq_id)?, part))
}

fn require(n_token_count_out: *mut usize) -> Result<()> {
    if n_token_count_out.is_null() { Err(Error::Null("n_token_count_out")) } else { Ok(()) }
}

/// # Safety
/// `tokens_out` must have room for the session's tokens, `n_token_count_out` be writable.
unsafe fn give_tokens(session: &Session, tokens_out: *mut llama_token, n_token_count_out: *mut usize) {
    let tokens = &session.tokens;
    if !tokens.is_empty() {
        // SAFETY: the caller promises the room.
        unsafe { std::ptr::copy_nonoverlapping(tokens.as_ptr(), tokens_out, tokens.len()) };
    }
    // SAFETY: the caller promises that it is writable.
    unsafe { n_token_count_out.write(tokens.len()) };
}

/// # Safety
/// `ctx` must be NULL or a live context.
unsafe fn size(ctx: *mut llama_context, scope: impl FnOnce() -> Result<Scope>) -> usize {
    // SAFETY: the caller promises NULL or a live context.
    guard(0, || unsafe { handle_ref(ctx) }?.context()?.saved_size(scope()?))
}

/// # Safety
/// `ctx` must be NULL or a live context, `dst` be NULL or point to `size` writable bytes.
unsafe fn get(ctx: *mut llama_context, dst: *mut u8, size: usize, scope: impl FnOnce() -> Result<Scope>) -> usize {
    guard(0, || {
        let scope = scope()?;
        // SAFETY: the caller promises NULL or a live context.
        let ctx = unsafe { handle_mut(ctx) }?;
        if dst.is_null() {
            return Err(Error::Null("dst"));
        }
        // Callers may say that there is room for anything.
        let size = size.min(ctx.context()?.saved_size(scope)?);
        // SAFETY: not NULL, and the caller promises at least that many bytes.
        let dst = unsafe { std::slice::from_raw_parts_mut(dst, size) };
        ctx.change(|context, _| context.save_state(scope, dst))
    })
}

/// # Safety
/// `ctx` must be NULL or a live context, `src` be NULL or point to `size` bytes.
unsafe fn set(ctx: *mut llama_context, src: *const u8, size: usize, scope: impl FnOnce() -> Result<Scope>) -> usize {
    guard(0, || {
        // SAFETY: the caller promises NULL or that many bytes.
        let mut src = unsafe { array(src, size, "src") }?;
        // SAFETY: the caller promises NULL or a live context.
        unsafe { handle_mut(ctx) }?.change(|context, _| context.load_state(scope()?, &mut src))
    })
}
