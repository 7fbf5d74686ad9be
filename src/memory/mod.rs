//! The memory of a context: which token sits in which KV row, for which sequences. `context` places ubatches through it,
//! `capi` forwards `llama_memory_*` to it, the masks of attention come from it. It keeps the books; the rows belong to
//! backends.
//!
//! Layers that attend in the same way form a group with a [`KvCache`] of its own: group [`FULL`] for full attention and,
//! in models with sliding windows, group [`SWA`].
//!
//! **Architecture invariant:** a decode that fails leaves the memory as it was. [`Memory::reserve`] changes nothing;
//! [`Memory::apply`] is taken back by [`Memory::rollback`].

mod cells;
mod kv;
mod mask;
mod seq;
mod seq_list;
mod window;

#[cfg(test)]
mod tests;

pub use cells::{CellState, Cells};
pub use kv::{KvCache, KvConfig, RowCopy, Rows};
pub use mask::{MaskRule, OwnRows};
pub use seq::{MAX_SEQ, SeqIds, SeqSet, Tokens};
pub use seq_list::{Entry, SeqList};
pub use window::{Direction, NonCausal, Window};

use std::ops::Range;

use crate::{Error, Result};

/// The group of layers with full attention.
pub const FULL: usize = 0;
/// The group of layers with a sliding window.
pub const SWA: usize = 1;

/// Every size of a cache is a multiple of this, as in llama.cpp.
const CELLS_PAD: u32 = 256;

/// What a [`Memory`] is made for.
#[derive(Debug, Clone, Copy)]
pub struct MemoryConfig {
    /// Tokens per stream: [`ContextSize::n_ctx_seq`].
    pub n_ctx_seq: u32,
    /// The number of sequences.
    pub n_seq_max: u32,
    /// Tokens per ubatch.
    pub n_ubatch: u32,
    /// One stream for all sequences instead of one for each.
    pub kv_unified: bool,
    /// The window of the model's sliding-window layers; [`Window::None`] when it has no such layers.
    pub window: Window,
    /// Make the cache of the sliding-window layers as large as the other.
    pub swa_full: bool,
    /// Keys can be rotated to other positions: one position per token, one rotation for all layers.
    pub can_rotate: bool,
}

/// The sizes of a context, rounded as llama.cpp rounds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextSize {
    /// Tokens over all sequences.
    pub n_ctx: u32,
    /// Tokens that one sequence can have.
    pub n_ctx_seq: u32,
}

impl ContextSize {
    /// From the requested number of tokens, more than 0.
    pub fn new(n_ctx: u32, n_seq_max: u32, kv_unified: bool) -> Result<ContextSize> {
        if n_seq_max == 0 || n_seq_max as usize > MAX_SEQ {
            return Err(Error::argument(format!("n_seq_max is {n_seq_max}, not in 1..={MAX_SEQ}")));
        }
        let too_large = || Error::Memory(format!("a context of {n_ctx} tokens"));
        let pad = |n: u32| n.checked_next_multiple_of(CELLS_PAD).ok_or_else(too_large);
        let n_ctx = pad(n_ctx)?;
        if n_ctx == 0 {
            return Err(Error::argument("n_ctx is 0"));
        }
        if kv_unified {
            return Ok(ContextSize { n_ctx, n_ctx_seq: n_ctx });
        }
        let n_ctx_seq = pad(n_ctx / n_seq_max)?;
        Ok(ContextSize { n_ctx: n_ctx_seq.checked_mul(n_seq_max).ok_or_else(too_large)?, n_ctx_seq })
    }
}

/// How a batch may be cut into ubatches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// In the order of the batch.
    Simple,
    /// As many tokens of each sequence (or set of sequences).
    Equal,
    /// The same, and the sequences of a ubatch follow each other without gaps: one stream per sequence needs this.
    Sequential,
    /// One sequence (or set of sequences) at a time.
    Seq,
}

/// Cells found for the ubatches of a batch. Reused from batch to batch.
#[derive(Debug, Default)]
pub struct Reservation {
    groups: Vec<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    rows: Vec<i32>,
    ends: Vec<usize>, // [n_ubatches]
}

impl Reservation {
    /// For each token of a ubatch the row that it is stored in.
    pub fn rows(&self, group: usize, ubatch: usize) -> &[i32] {
        let slots = &self.groups[group];
        let start = if ubatch == 0 { 0 } else { slots.ends[ubatch - 1] };
        &slots.rows[start..slots.ends[ubatch]]
    }
}

/// All that a context remembers.
#[derive(Debug, Clone)]
pub struct Memory {
    kv: Vec<KvCache>, // [1 or 2], by group
    can_rotate: bool,
}

impl Memory {
    /// An empty memory.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn new(config: &MemoryConfig) -> Result<Memory> {
        let n_stream = if config.kv_unified { 1 } else { config.n_seq_max };
        let size = config.n_ctx_seq;
        let mut kv = vec![KvCache::new(KvConfig { size, n_stream, window: Window::None })?];
        if config.window != Window::None {
            let size = if config.swa_full { size } else { swa_size(config) };
            kv.push(KvCache::new(KvConfig { size, n_stream, window: config.window })?);
        }
        Ok(Memory { kv, can_rotate: config.can_rotate })
    }

    /// The caches, by group.
    pub fn groups(&self) -> &[KvCache] {
        &self.kv
    }

    /// The cache of a group, to take the work for its backend.
    pub fn group_mut(&mut self, group: usize) -> &mut KvCache {
        &mut self.kv[group]
    }

    /// The ways to cut a batch, to be tried in this order until [`Memory::reserve`] succeeds.
    pub fn splits(&self) -> &'static [Split] {
        match (self.kv[FULL].n_stream(), self.kv.len()) {
            (1, 1) => &[Split::Simple],
            (1, _) => &[Split::Simple, Split::Equal],
            _ => &[Split::Sequential],
        }
    }

    /// Finds cells for all ubatches of a batch. The memory stays as it is, found or not.
    ///
    /// # Errors
    /// [`Error::NoSlot`] when they do not fit; [`Error::Argument`] for a sequence that does not exist here, or a token in
    /// several sequences where each has a stream of its own.
    pub fn reserve<'a, I>(&mut self, ubatches: I, reservation: &mut Reservation) -> Result<()>
    where
        I: Iterator<Item = Tokens<'a>> + Clone,
    {
        reservation.groups.resize_with(self.kv.len(), Slots::default);
        for (kv, slots) in self.kv.iter_mut().zip(&mut reservation.groups) {
            kv.reserve(ubatches.clone(), &mut slots.rows, &mut slots.ends)?;
        }
        Ok(())
    }

    /// Places the tokens of ubatch number `ubatch` of a reservation; to be followed by [`Memory::commit`] or
    /// [`Memory::rollback`] once the ubatch is computed.
    pub fn apply(&mut self, tokens: Tokens, reservation: &Reservation, ubatch: usize) {
        for (group, kv) in self.kv.iter_mut().enumerate() {
            kv.apply(tokens, reservation.rows(group, ubatch));
        }
    }

    /// Keeps the ubatch that was last applied.
    pub fn commit(&mut self) {
        self.kv.iter_mut().for_each(KvCache::commit);
    }

    /// Takes back the ubatch that was last applied, if it is not committed.
    pub fn rollback(&mut self, rows: Rows) {
        self.kv.iter_mut().for_each(|kv| kv.rollback(rows));
    }

    /// Whether a backend has copies or rotations to make before the next ubatch.
    pub fn has_updates(&self) -> bool {
        self.kv.iter().any(KvCache::has_updates)
    }

    /// `llama_memory_can_shift`.
    pub fn can_shift(&self) -> bool {
        self.can_rotate && self.kv.iter().all(|kv| kv.size() == self.kv[FULL].size())
    }

    /// Forgets all tokens. Clearing the rows is the backend's part.
    pub fn clear(&mut self) {
        self.kv.iter_mut().for_each(KvCache::clear);
    }

    /// `llama_memory_seq_rm`: removes positions `p0..p1` of a sequence; a negative `seq` means all of them.
    /// Returns whether it was done: a cache can always forget a part.
    pub fn seq_rm(&mut self, seq: i32, p0: i32, p1: i32) -> Result<bool> {
        self.each(|kv| kv.seq_rm(seq, positions(p0, p1)))?;
        Ok(true)
    }

    /// `llama_memory_seq_cp`: `dst` gets positions `p0..p1` of `src`.
    pub fn seq_cp(&mut self, src: i32, dst: i32, p0: i32, p1: i32) -> Result<()> {
        self.each(|kv| kv.seq_cp(src, dst, positions(p0, p1)))
    }

    /// `llama_memory_seq_keep`: removes all other sequences. With one stream per sequence there are none in the stream of
    /// `seq`, and as in llama.cpp the other streams stay.
    pub fn seq_keep(&mut self, seq: i32) -> Result<()> {
        self.each(|kv| kv.seq_keep(seq))
    }

    /// `llama_memory_seq_add`: moves positions `p0..p1` of a sequence by `delta`.
    pub fn seq_add(&mut self, seq: i32, p0: i32, p1: i32, delta: i32) -> Result<()> {
        self.check_rotation()?;
        self.each(|kv| kv.seq_add(seq, positions(p0, p1), delta))
    }

    /// `llama_memory_seq_div`: divides positions `p0..p1` of a sequence by `d`.
    pub fn seq_div(&mut self, seq: i32, p0: i32, p1: i32, d: i32) -> Result<()> {
        self.check_rotation()?;
        self.each(|kv| kv.seq_div(seq, positions(p0, p1), d))
    }

    /// `llama_memory_seq_pos_min`: the smallest position of which every group still has the token.
    pub fn pos_min(&self, seq: i32) -> Option<i32> {
        self.narrowest().pos_min(seq)
    }

    /// `llama_memory_seq_pos_max`.
    pub fn pos_max(&self, seq: i32) -> Option<i32> {
        self.narrowest().pos_max(seq)
    }

    /// The group that forgets first.
    fn narrowest(&self) -> &KvCache {
        self.kv.get(SWA).unwrap_or(&self.kv[FULL])
    }

    fn check_rotation(&self) -> Result<()> {
        if self.can_rotate {
            Ok(())
        } else {
            Err(Error::Unsupported("moving positions in the memory of this model".into()))
        }
    }

    /// Does the same to every group. All groups have the same sequences, so that the first refuses what any would.
    fn each(&mut self, op: impl Fn(&mut KvCache) -> Result<()>) -> Result<()> {
        self.kv.iter_mut().try_for_each(op)
    }
}

/// A range of positions as llama.h gives it: negative bounds are open.
fn positions(p0: i32, p1: i32) -> Range<i32> {
    p0.max(0)..if p1 < 0 { i32::MAX } else { p1 }
}

/// Cells per stream for sliding-window layers: the windows of the stream's sequences and one ubatch.
fn swa_size(config: &MemoryConfig) -> u32 {
    let n_windows = if config.kv_unified { config.n_seq_max } else { 1 };
    let needed = u64::from(config.window.n_swa()) * u64::from(n_windows) + u64::from(config.n_ubatch);
    let size = needed.min(u64::from(config.n_ctx_seq)) as u32;
    size.checked_next_multiple_of(CELLS_PAD).unwrap_or(config.n_ctx_seq)
}
