//! The extended batch: tokens are added one by one, each with its sequences, position and whether its output is wanted.

use super::*;
use crate::context::Batch;
use crate::memory::{SeqIds, SeqSet};
use crate::{Error, Result};

/// A batch that grows token by token.
pub struct llama_batch_ext {
    tag: Tag,
    /// What the context that it was made for takes.
    limits: Limits,
    tokens: Vec<llama_token>, // LLAMA_TOKEN_NULL: given as an embedding
    embd: Vec<f32>,           // rows of n_embd
    /// Row of `embd` of each token.
    rows: Vec<Option<u32>>,
    pos: Vec<llama_pos>,
    seqs: Vec<SeqSet>,
    outputs: Vec<i8>,
}

struct Limits {
    n_tokens: usize,
    n_embd: usize,
    n_seq_max: usize,
    n_vocab: usize,
}

impl Tagged for llama_batch_ext {
    const NAME: &'static str = "batch";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

/// Why llama_batch_ext_add_token and its like refuse.
const FULL: i32 = -1;
const INVALID_TOKEN: i32 = -2;
const INVALID_SEQ: i32 = -3;

impl llama_batch_ext {
    fn seq(&self, seq_id: llama_seq_id) -> Option<usize> {
        usize::try_from(seq_id).ok().filter(|&seq| seq < self.limits.n_seq_max)
    }

    fn index(&self, idx: i32) -> Result<usize> {
        let found = usize::try_from(idx).ok().filter(|&i| i < self.tokens.len());
        found.ok_or_else(|| Error::argument(format!("token {idx} of a batch of {}", self.tokens.len())))
    }

    fn add(&mut self, seq_id: llama_seq_id, token: llama_token) -> i32 {
        if self.tokens.len() >= self.limits.n_tokens {
            return FULL;
        }
        let Some(seq) = self.seq(seq_id) else { return INVALID_SEQ };
        let mut seqs = SeqSet::default();
        seqs.insert(seq);
        self.tokens.push(token);
        self.rows.push(None);
        self.pos.push(0);
        self.seqs.push(seqs);
        self.outputs.push(0);
        (self.tokens.len() - 1) as i32
    }

    /// # Safety
    /// `embd.data` must be NULL or point to n_rows x n_embd floats.
    unsafe fn set_embd(&mut self, i: usize, embd: llama_embd) -> Result<()> {
        let (n, expected) = (embd.n_rows.checked_mul(embd.n_embd), self.limits.n_embd);
        if n != Some(expected) {
            let found = format!("{} x {}", embd.n_rows, embd.n_embd);
            return Err(Error::argument(format!("an embedding of {found} floats, expected {expected}")));
        }
        if self.rows[i].is_some() {
            return Err(Error::argument(format!("token {i} has an embedding already")));
        }
        // SAFETY: n_rows x n_embd is `expected`, and the caller promises that many floats.
        let row = unsafe { array(embd.data, expected, "embd.data") }?;
        self.rows[i] = Some((self.embd.len() / expected) as u32);
        self.embd.extend_from_slice(row);
        Ok(())
    }

    /// Brings the rows of embeddings, which come in any order, into that of the tokens.
    fn sort_embd(&mut self) {
        let in_order = self.rows.iter().enumerate().all(|(i, row)| row.is_none_or(|row| row as usize == i));
        if in_order {
            return;
        }
        let n = self.limits.n_embd;
        let mut sorted = Vec::with_capacity(self.embd.len());
        for (i, row) in self.rows.iter_mut().flatten().enumerate() {
            let start = *row as usize * n;
            sorted.extend_from_slice(&self.embd[start..start + n]);
            *row = i as u32;
        }
        self.embd = sorted;
    }

    /// The engine's view. All tokens must be given alike: as ids, as embeddings, or both.
    fn view<'a>(&'a mut self, seq_ids: &'a mut SeqIds) -> Result<Batch<'a>> {
        let has_token = self.tokens.first().is_some_and(|&token| token != LLAMA_TOKEN_NULL);
        let has_embd = self.rows.first().is_some_and(Option::is_some);
        let same = |(token, row): (&llama_token, &Option<u32>)| {
            (*token != LLAMA_TOKEN_NULL) == has_token && row.is_some() == has_embd
        };
        if !self.tokens.iter().zip(&self.rows).all(same) {
            return Err(Error::argument("some tokens of the batch are ids, others embeddings"));
        }
        self.sort_embd();
        seq_ids.clear();
        let mut list = Vec::with_capacity(self.limits.n_seq_max);
        for seqs in &self.seqs {
            list.clear();
            list.extend(seqs.iter().map(|seq| seq as i32));
            seq_ids.push(&list);
        }
        let tokens = has_token.then_some(&self.tokens[..]);
        let embd = has_embd.then_some(&self.embd[..]);
        Batch::new(self.tokens.len(), tokens, embd, self.limits.n_embd)?
            .with_pos(&self.pos)?
            .with_seq_ids(seq_ids)?
            .with_logits(&self.outputs)
    }
}

/// Makes an empty batch for a context, for llama_n_batch() tokens. Returns NULL on failure. Free it with
/// llama_batch_ext_free.
///
/// # Safety
/// `ctx` must be NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_ext_init(ctx: *mut llama_context) -> *mut llama_batch_ext {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live context.
        let context = unsafe { handle_ref(ctx) }?.context()?;
        let limits = Limits {
            n_tokens: context.settings().n_batch as usize,
            n_embd: context.model().hparams()?.n_embd,
            n_seq_max: context.settings().n_seq_max as usize,
            n_vocab: context.model().vocab.n_tokens(),
        };
        Ok(Box::into_raw(Box::new(llama_batch_ext {
            tag: Tag::of::<llama_batch_ext>(),
            limits,
            tokens: Vec::new(),
            embd: Vec::new(),
            rows: Vec::new(),
            pos: Vec::new(),
            seqs: Vec::new(),
            outputs: Vec::new(),
        })))
    })
}

/// Frees a batch. NULL does nothing.
///
/// # Safety
/// `batch` must be NULL or a batch that was not freed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_ext_free(batch: *mut llama_batch_ext) {
    guard((), || {
        if !batch.is_null() {
            // SAFETY: the caller promises a live batch of llama_batch_ext_init, given up here.
            unsafe {
                handle_ref(batch)?;
                drop(Box::from_raw(batch));
            }
        }
        Ok(())
    });
}

/// Removes all tokens.
///
/// # Safety
/// `batch` must be NULL or a live batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_ext_clear(batch: *mut llama_batch_ext) {
    guard((), || {
        // SAFETY: the caller promises NULL or a live batch.
        let batch = unsafe { handle_mut(batch) }?;
        batch.tokens.clear();
        batch.embd.clear();
        batch.rows.clear();
        batch.pos.clear();
        batch.seqs.clear();
        batch.outputs.clear();
        Ok(())
    });
}

/// Adds a token that is neither an id nor an embedding yet, with position 0, whose output is not wanted.
///
/// Returns its index; -1 when the batch is full, -2 when the token is invalid, -3 when the sequence is.
///
/// # Safety
/// `batch` must be NULL or a live batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_ext_add(batch: *mut llama_batch_ext, seq_id: llama_seq_id) -> i32 {
    // SAFETY: the caller promises NULL or a live batch.
    guard(INVALID_TOKEN, || Ok(unsafe { handle_mut(batch) }?.add(seq_id, LLAMA_TOKEN_NULL)))
}

/// Adds a token by its id: see llama_batch_ext_add.
///
/// # Safety
/// `batch` must be NULL or a live batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_ext_add_token(
    batch: *mut llama_batch_ext,
    seq_id: llama_seq_id,
    id: llama_token,
) -> i32 {
    guard(INVALID_TOKEN, || {
        // SAFETY: the caller promises NULL or a live batch.
        let batch = unsafe { handle_mut(batch) }?;
        match usize::try_from(id) {
            Ok(i) if i < batch.limits.n_vocab => Ok(batch.add(seq_id, id)),
            _ => Err(Error::argument(format!("token {id} of a vocabulary of {}", batch.limits.n_vocab))),
        }
    })
}

/// Adds a token by its embedding, which is copied: see llama_batch_ext_add.
///
/// # Safety
/// `batch` must be NULL or a live batch, `embd.data` be NULL or point to n_rows x n_embd floats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_ext_add_embd(
    batch: *mut llama_batch_ext,
    seq_id: llama_seq_id,
    embd: llama_embd,
) -> i32 {
    guard(INVALID_TOKEN, || {
        // SAFETY: the caller promises NULL or a live batch.
        let batch = unsafe { handle_mut(batch) }?;
        let index = batch.add(seq_id, LLAMA_TOKEN_NULL);
        if index >= 0 {
            // SAFETY: the caller promises n_rows x n_embd floats.
            unsafe { batch.set_embd(index as usize, embd) }.inspect_err(|_| batch.remove_last())?;
        }
        Ok(index)
    })
}

impl llama_batch_ext {
    fn remove_last(&mut self) {
        self.tokens.pop();
        self.rows.pop();
        self.pos.pop();
        self.seqs.pop();
        self.outputs.pop();
    }
}

/// Makes a token part of another sequence too, at the same position. Returns whether both exist.
///
/// # Safety
/// `batch` must be NULL or a live batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_ext_add_seq(batch: *mut llama_batch_ext, idx: i32, seq_id: llama_seq_id) -> bool {
    guard(false, || {
        // SAFETY: the caller promises NULL or a live batch.
        let batch = unsafe { handle_mut(batch) }?;
        let i = batch.index(idx)?;
        let seq = batch.seq(seq_id).ok_or_else(|| Error::argument(format!("sequence {seq_id}")))?;
        batch.seqs[i].insert(seq);
        Ok(true)
    })
}

/// Gives a token, which may have an id, an embedding, which is copied. Returns whether the token exists, has none yet and
/// the embedding is of the right size.
///
/// # Safety
/// `batch` must be NULL or a live batch, `embd.data` be NULL or point to n_rows x n_embd floats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_ext_set_embd_token(
    batch: *mut llama_batch_ext,
    idx: i32,
    embd: llama_embd,
) -> bool {
    guard(false, || {
        // SAFETY: the caller promises NULL or a live batch.
        let batch = unsafe { handle_mut(batch) }?;
        let i = batch.index(idx)?;
        // SAFETY: the caller promises n_rows x n_embd floats.
        unsafe { batch.set_embd(i, embd) }?;
        Ok(true)
    })
}

/// Would give a token a hidden state carried over from another model. No model here reads one: the reason is logged, and
/// false returned.
///
/// # Safety
/// `batch` must be NULL or a live batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_ext_set_embd_state(
    batch: *mut llama_batch_ext,
    idx: i32,
    _embd: llama_embd,
) -> bool {
    guard(false, || {
        // SAFETY: the caller promises NULL or a live batch.
        unsafe { handle_ref(batch) }?.index(idx)?;
        Err(Error::Unsupported("hidden states of other models as input".into()))
    })
}

/// Sets whether a token's embedding is wanted; so are its logits then. Returns whether the token exists.
///
/// # Safety
/// `batch` must be NULL or a live batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_ext_set_output_embd(batch: *mut llama_batch_ext, idx: i32, value: bool) -> bool {
    // SAFETY: the caller promises NULL or a live batch.
    unsafe { set_output(batch, idx, value) }
}

/// Sets whether a token's logits are wanted; so is its embedding then. Returns whether the token exists.
///
/// # Safety
/// `batch` must be NULL or a live batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_ext_set_output_logits(batch: *mut llama_batch_ext, idx: i32, value: bool) -> bool {
    // SAFETY: the caller promises NULL or a live batch.
    unsafe { set_output(batch, idx, value) }
}

/// Sets a token's position. Returns whether the token exists.
///
/// # Safety
/// `batch` must be NULL or a live batch, `pos` be NULL or point to a position.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_batch_ext_set_pos(batch: *mut llama_batch_ext, idx: i32, pos: *const llama_pos) -> bool {
    guard(false, || {
        // SAFETY: the caller promises NULL or a live batch, and NULL or a position.
        let (batch, pos) = unsafe { (handle_mut(batch)?, *pos.as_ref().ok_or(Error::Null("pos"))?) };
        let i = batch.index(idx)?;
        batch.pos[i] = pos;
        Ok(true)
    })
}

/// Computes a batch: what llama_encode and llama_decode do, with their return values. The batch stays as it is.
///
/// # Safety
/// `ctx` must be NULL or a live context, `batch` be NULL or a live batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_process(
    ctx: *mut llama_context,
    r#type: CEnum<llama_process_type>,
    batch: *mut llama_batch_ext,
) -> i32 {
    guard(super::batch::FATAL, || {
        let run = || {
            // SAFETY: the caller promises NULL or a live context, and NULL or a live batch.
            let (ctx, batch) = unsafe { (handle_mut(ctx)?, handle_mut(batch)?) };
            ctx.change(|context, seq_ids| {
                let batch = batch.view(seq_ids)?;
                match r#type.value() {
                    0 => context.encode(&batch),
                    1 => context.decode(&batch),
                    other => Err(Error::argument(format!("no process type has the number {other}"))),
                }
            })
        };
        Ok(super::batch::code(run()))
    })
}

/// # Safety
/// `batch` must be NULL or a live batch.
unsafe fn set_output(batch: *mut llama_batch_ext, idx: i32, value: bool) -> bool {
    guard(false, || {
        // SAFETY: the caller promises NULL or a live batch.
        let batch = unsafe { handle_mut(batch) }?;
        let i = batch.index(idx)?;
        batch.outputs[i] = i8::from(value);
        Ok(true)
    })
}
