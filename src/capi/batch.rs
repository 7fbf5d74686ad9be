//! `llama_batch`: allocation, the checked view of it that the engine takes, decoding, results.

use super::*;
use crate::context::{Batch, Context};
use crate::memory::{MAX_SEQ, SeqIds};
use crate::{Error, Result};

/// Makes a batch of one sequence, 0, from tokens that the caller keeps. Positions go on from what is in memory.
#[unsafe(no_mangle)]
pub extern "C" fn llama_batch_get_one(tokens: *mut llama_token, n_tokens: i32) -> llama_batch {
    llama_batch { n_tokens, token: tokens, ..EMPTY }
}

/// Allocates a batch for `n_tokens` tokens, each in up to `n_seq_max` sequences. With `embd` = 0 it holds token ids,
/// otherwise `embd` floats for each token. All is zero at first, n_tokens too. A batch that cannot be allocated has NULL in
/// every member. Free it with llama_batch_free.
#[unsafe(no_mangle)]
pub extern "C" fn llama_batch_init(n_tokens: i32, embd: i32, n_seq_max: i32) -> llama_batch {
    guard(EMPTY, || {
        let n = non_negative(n_tokens, "n_tokens")?;
        let (n_embd, n_seq) = (non_negative(embd, "embd")?, non_negative(n_seq_max, "n_seq_max")?);
        // Filled member by member, so that what was allocated is freed when the rest cannot be.
        let mut batch = Allocated(EMPTY);
        if n_embd == 0 {
            batch.0.token = zeroed(n, 1)?;
        } else {
            batch.0.embd = zeroed(n, n_embd)?;
        }
        batch.0.pos = zeroed(n, 1)?;
        batch.0.n_seq_id = zeroed(n, 1)?;
        batch.0.logits = zeroed(n, 1)?;
        // One more, NULL, which tells llama_batch_free where the lists end.
        batch.0.seq_id = zeroed(n + 1, 1)?;
        for i in 0..n {
            // SAFETY: i < n, and seq_id has n + 1 elements.
            unsafe { batch.0.seq_id.add(i).write(zeroed(n_seq, 1)?) };
        }
        let done = batch.0;
        std::mem::forget(batch);
        Ok(done)
    })
}

/// Frees a batch of llama_batch_init.
///
/// # Safety
/// `batch` must come from llama_batch_init, its pointers unchanged, and not be freed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_free(batch: llama_batch) {
    guard((), || {
        drop(Allocated(batch));
        Ok(())
    });
}

/// Computes a batch with a model that has no KV memory, or with the encoder of one that has an encoder.
///
/// Returns 0, or a negative number on errors: see llama_decode.
///
/// # Safety
/// `ctx` must be NULL or a live context, the arrays of `batch` be NULL or have n_tokens elements, each list of sequences
/// as many as n_seq_id says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_encode(ctx: *mut llama_context, batch: llama_batch) -> i32 {
    // SAFETY: the caller promises what `run` asks for.
    unsafe { run(ctx, &batch, Context::encode) }
}

/// Computes a batch and keeps its tokens in memory.
///
/// Returns 0; 1 when the memory has no room for the batch (try a smaller one, or a larger context); 2 when the abort
/// callback stopped it; -1 when the batch is invalid; less on other errors. After 1 and -1 the memory is as it was before;
/// after 2 and less than -1 it holds the ubatches that were finished, see llama_memory_seq_pos_max.
///
/// # Safety
/// As for llama_encode.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_decode(ctx: *mut llama_context, batch: llama_batch) -> i32 {
    // SAFETY: the caller promises what `run` asks for.
    unsafe { run(ctx, &batch, Context::decode) }
}

const EMPTY: llama_batch = llama_batch {
    n_tokens: 0,
    token: std::ptr::null_mut(),
    embd: std::ptr::null_mut(),
    pos: std::ptr::null_mut(),
    n_seq_id: std::ptr::null_mut(),
    seq_id: std::ptr::null_mut(),
    logits: std::ptr::null_mut(),
};

/// A batch whose arrays were allocated by llama_batch_init.
struct Allocated(llama_batch);

impl Drop for Allocated {
    fn drop(&mut self) {
        let batch = &self.0;
        // SAFETY: all arrays come from calloc or are NULL, and the lists of sequences end with a NULL.
        unsafe {
            if !batch.seq_id.is_null() {
                let mut list = batch.seq_id;
                while !(*list).is_null() {
                    libc::free((*list).cast());
                    list = list.add(1);
                }
            }
            libc::free(batch.token.cast());
            libc::free(batch.embd.cast());
            libc::free(batch.pos.cast());
            libc::free(batch.n_seq_id.cast());
            libc::free(batch.seq_id.cast());
            libc::free(batch.logits.cast());
        }
    }
}

/// Zeroed memory of `rows` rows of `width` elements, never NULL.
fn zeroed<T>(rows: usize, width: usize) -> Result<*mut T> {
    let n = rows.checked_mul(width).filter(|&n| n <= isize::MAX as usize / size_of::<T>());
    let n = n.ok_or_else(|| Error::Memory(format!("a batch of {rows} x {width} elements")))?;
    // SAFETY: calloc has no preconditions.
    let memory = unsafe { libc::calloc(n.max(1), size_of::<T>()) };
    if memory.is_null() {
        return Err(Error::Memory(format!("a batch of {rows} x {width} elements")));
    }
    Ok(memory.cast())
}

/// Runs a batch and tells the outcome as llama_decode documents it.
///
/// # Safety
/// As for llama_encode.
unsafe fn run(ctx: *mut llama_context, batch: &llama_batch, run: fn(&mut Context, &Batch) -> Result<()>) -> i32 {
    guard(FATAL, || {
        // SAFETY: the caller promises NULL or a live context.
        let result = unsafe { handle_mut(ctx) }.and_then(|ctx| {
            ctx.change(|context, seq_ids| {
                let n_embd = context.model().hparams()?.n_embd;
                // SAFETY: the caller promises arrays as `from_raw` asks for.
                let batch = unsafe { from_raw(batch, n_embd, seq_ids) }?;
                run(context, &batch)
            })
        });
        Ok(code(result))
    })
}

/// What llama_decode returns after an internal error.
pub(super) const FATAL: i32 = -3;

/// What llama_decode returns; errors are logged and kept.
pub(super) fn code(result: Result<()>) -> i32 {
    let Err(error) = result else { return 0 };
    super::error::report(&error);
    match error {
        Error::NoSlot { .. } => 1,
        Error::Aborted => 2,
        Error::Argument(_) | Error::Null(_) => -1,
        Error::Memory(_) => -2,
        _ => FATAL,
    }
}

/// The engine's view of a caller's batch. The lists of sequences are copied to `seq_ids`.
///
/// # Safety
/// The arrays of `batch` must be NULL or have n_tokens elements (`embd`: n_tokens rows of `n_embd`), each list of sequences
/// as many as n_seq_id says.
pub(super) unsafe fn from_raw<'a>(batch: &llama_batch, n_embd: usize, seq_ids: &'a mut SeqIds) -> Result<Batch<'a>> {
    let n = non_negative(batch.n_tokens, "n_tokens")?;
    let n_floats = n.checked_mul(n_embd).ok_or_else(|| Error::argument("n_tokens x n_embd overflows"))?;
    // SAFETY: the caller promises arrays of these lengths, or NULL.
    let (tokens, embd, pos, logits, n_seq_id, lists) = unsafe {
        (
            optional(batch.token, n, "token")?,
            optional(batch.embd, n_floats, "embd")?,
            optional(batch.pos, n, "pos")?,
            optional(batch.logits, n, "logits")?,
            optional(batch.n_seq_id, n, "n_seq_id")?,
            optional(batch.seq_id, n, "seq_id")?,
        )
    };
    seq_ids.clear();
    if let Some(lists) = lists {
        for (i, &list) in lists.iter().enumerate() {
            let n_seq = n_seq_id.map_or(Ok(1), |counts| non_negative(counts[i], "n_seq_id"))?;
            if n_seq > MAX_SEQ {
                return Err(Error::argument(format!(
                    "token {i} is in {n_seq} sequences, at most {MAX_SEQ} are possible"
                )));
            }
            // SAFETY: the caller promises n_seq_id[i] sequences.
            seq_ids.push(unsafe { array(list, n_seq, "seq_id[i]") }?);
        }
    }
    let mut view = Batch::new(n, tokens, embd, n_embd)?;
    if let Some(pos) = pos {
        view = view.with_pos(pos)?;
    }
    if lists.is_some() {
        view = view.with_seq_ids(seq_ids)?;
    }
    match logits {
        Some(logits) => view.with_logits(logits),
        None => Ok(view),
    }
}

/// An array that may be left out.
///
/// # Safety
/// `ptr` must be NULL or point to `len` readable elements that live as long as `'a`.
unsafe fn optional<'a, T>(ptr: *const T, len: usize, name: &'static str) -> Result<Option<&'a [T]>> {
    if ptr.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, and the caller promises `len` readable elements.
    unsafe { array(ptr, len, name) }.map(Some)
}
