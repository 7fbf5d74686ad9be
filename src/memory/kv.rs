//! The KV cache of one group of layers: finds cells for the tokens of a ubatch, places and unplaces them, and applies the
//! sequence operations of llama.h. It keeps the books only; the rows themselves belong to a backend. Used by
//! [`super::Memory`].
//!
//! A row index counts cells over all streams: `stream * size + cell`.

use std::ops::Range;

use super::cells::{CellState, Cells};
use super::seq::{MAX_SEQ, SeqIds, SeqSet, Tokens};
use super::window::Window;
use crate::{Error, Result};

/// What a [`KvCache`] is made for.
#[derive(Debug, Clone, Copy)]
pub struct KvConfig {
    /// Cells per stream.
    pub size: u32,
    /// 1: all sequences share one stream; otherwise sequence `s` has stream `s` for itself.
    pub n_stream: u32,
    /// The sliding window of the group's layers: cells that fell out of it are reused.
    pub window: Window,
}

/// Rows that the backend must copy in its buffers, all layers of the group alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowCopy {
    /// First row to read.
    pub src: u32,
    /// First row to write.
    pub dst: u32,
    /// The number of rows.
    pub n: u32,
}

/// What a backend did to the rows of a ubatch that is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Nothing: every cell gets back what it held.
    Untouched,
    /// Some may be overwritten: reused cells, whose tokens no later query could see, stay empty.
    Written,
}

/// One group's cells, by stream.
#[derive(Debug, Clone)]
pub struct KvCache {
    config: KvConfig,
    streams: Vec<Cells>,
    heads: Vec<u32>,           // [n_stream], where the search for an empty cell begins
    copies: Vec<RowCopy>,      // of `seq_cp` between streams, in the order in which they must be made
    undo: Vec<Undo>,           // what the last `apply` replaced, in order
    undo_heads: Vec<u32>,      // [n_stream]
    reused: Vec<(usize, i32)>, // sequence and largest position that `apply` took cells from
}

#[derive(Debug, Clone, Copy)]
struct Undo {
    stream: usize,
    cell: u32,
    old: CellState,
}

impl KvCache {
    /// An empty cache.
    ///
    /// # Errors
    /// [`Error::Argument`] for more than [`MAX_SEQ`] streams; [`Error::Memory`] when the rows cannot be counted or their state
    /// does not fit into memory.
    pub fn new(config: KvConfig) -> Result<KvCache> {
        let n_stream = config.n_stream as usize;
        if n_stream == 0 || n_stream > MAX_SEQ {
            return Err(Error::argument(format!("a KV cache of {n_stream} streams, not 1..={MAX_SEQ}")));
        }
        if config.size.checked_mul(config.n_stream).is_none_or(|n| n > i32::MAX as u32) {
            return Err(Error::Memory(format!("{n_stream} streams of {} KV cells", config.size)));
        }
        let n_seq = if n_stream == 1 { MAX_SEQ } else { n_stream };
        let streams: Result<_> = (0..n_stream).map(|_| Cells::new(config.size, n_seq)).collect();
        Ok(KvCache {
            config,
            streams: streams?,
            heads: vec![0; n_stream],
            copies: Vec::new(),
            undo: Vec::new(),
            undo_heads: Vec::new(),
            reused: Vec::new(),
        })
    }

    /// Cells per stream.
    pub fn size(&self) -> u32 {
        self.config.size
    }

    /// Rows over all streams.
    pub fn n_rows(&self) -> u32 {
        self.config.size * self.streams.len() as u32
    }

    /// The number of streams.
    pub fn n_stream(&self) -> usize {
        self.streams.len()
    }

    /// The sliding window of the group.
    pub fn window(&self) -> Window {
        self.config.window
    }

    /// The cells of a stream, `stream < n_stream`.
    pub fn cells(&self, stream: usize) -> &Cells {
        &self.streams[stream]
    }

    /// The stream of a sequence; an error when the cache has no such sequence.
    pub fn stream_of(&self, seq: i32) -> Result<usize> {
        let n_seq = if self.streams.len() == 1 { MAX_SEQ } else { self.streams.len() };
        match usize::try_from(seq) {
            Ok(s) if s < n_seq => Ok(if self.streams.len() == 1 { 0 } else { s }),
            _ => Err(Error::argument(format!("sequence {seq} is not in 0..{n_seq}"))),
        }
    }

    // Placing ubatches

    /// Chooses a cell for each token: its row, in the order of the tokens. The cache stays as it is.
    /// Fails with [`Error::NoSlot`] when there are too few usable cells.
    pub fn find_slot(&self, tokens: Tokens, rows: &mut Vec<i32>) -> Result<()> {
        let n_tokens = tokens.pos.len();
        let from = rows.len();
        rows.resize(from + n_tokens, -1);
        let rows = &mut rows[from..];
        for i in 0..n_tokens {
            if rows[i] < 0 {
                let stream = self.stream_of(tokens.seq_ids.get(i)[0])?;
                if !self.fill_stream(stream, tokens, rows)? {
                    return Err(Error::NoSlot { n_tokens });
                }
            }
        }
        Ok(())
    }

    /// Chooses cells for the tokens that belong to one stream; `false` when they do not fit.
    fn fill_stream(&self, stream: usize, tokens: Tokens, rows: &mut [i32]) -> Result<bool> {
        let cells = &self.streams[stream];
        let size = cells.size();
        let n_tokens = self.count_of_stream(stream, tokens)?;
        let mut head = self.heads[stream];
        if head > cells.n_used() + 2 * n_tokens {
            head = 0; // enough room before the head: prefer filling the cache from its beginning
        }
        let mut tested = 0;
        for (i, row) in rows.iter_mut().enumerate() {
            if self.stream_of(tokens.seq_ids.get(i)[0])? != stream {
                continue;
            }
            loop {
                let found = self.next_usable(cells, head).unwrap_or(size);
                tested += found - head;
                if tested >= size {
                    return Ok(false);
                }
                if found < size {
                    tested += 1;
                    head = found + 1;
                    *row = (stream as u32 * size + found) as i32;
                    break;
                }
                head = 0;
            }
        }
        Ok(true)
    }

    fn count_of_stream(&self, stream: usize, tokens: Tokens) -> Result<u32> {
        let mut n = 0;
        for seqs in tokens.seq_ids.iter() {
            for &seq in seqs {
                if self.stream_of(seq)? != self.stream_of(seqs[0])? {
                    return Err(Error::argument("a token in several sequences needs a unified KV cache"));
                }
            }
            n += u32::from(self.stream_of(seqs[0])? == stream);
        }
        Ok(n)
    }

    /// The next cell that is empty or holds a token that no later query of its only sequence can see.
    fn next_usable(&self, cells: &Cells, from: u32) -> Option<u32> {
        let window = self.config.window;
        if window == Window::None {
            return cells.next_empty(from);
        }
        (from..cells.size()).find(|&cell| {
            let Some(pos) = cells.pos(cell) else { return true };
            let Some(seq) = cells.seqs(cell).only() else { return false };
            cells.pos_max(seq).is_some_and(|max| window.hides(pos, max + 1))
        })
    }

    /// Places the tokens of a ubatch into the rows that [`KvCache::find_slot`] chose for them. What was there before is
    /// kept for [`KvCache::rollback`] until the next call or [`KvCache::commit`].
    pub fn apply(&mut self, tokens: Tokens, rows: &[i32]) {
        self.undo.clear();
        self.undo_heads.clear();
        self.undo_heads.extend_from_slice(&self.heads);
        self.place(tokens, rows);
    }

    /// Finds cells for ubatches that follow each other: their rows one after the other, and where each ubatch ends in them.
    /// The cache stays as it is.
    pub fn reserve<'a>(
        &mut self,
        ubatches: impl Iterator<Item = Tokens<'a>>,
        rows: &mut Vec<i32>,
        ends: &mut Vec<usize>,
    ) -> Result<()> {
        rows.clear();
        ends.clear();
        self.undo.clear();
        self.undo_heads.clear();
        self.undo_heads.extend_from_slice(&self.heads);
        let mut ubatches = ubatches.peekable();
        let mut found = Ok(());
        while let Some(tokens) = ubatches.next() {
            let start = rows.len();
            found = self.find_slot(tokens, rows);
            if found.is_err() {
                break;
            }
            ends.push(rows.len());
            if ubatches.peek().is_some() {
                self.place(tokens, &rows[start..]);
            }
        }
        self.rollback(Rows::Untouched);
        found
    }

    /// Like [`KvCache::apply`], added to what is kept for a rollback.
    fn place(&mut self, tokens: Tokens, rows: &[i32]) {
        self.reused.clear();
        for (i, (&row, &pos)) in rows.iter().zip(tokens.pos).enumerate() {
            let (stream, cell) = self.locate(row);
            let old = self.streams[stream].state(cell);
            self.undo.push(Undo { stream, cell, old });
            self.note_reuse(old);
            self.streams[stream].put(cell, pos, SeqSet::of(tokens.seq_ids.get(i)));
            self.heads[stream] = cell + 1;
        }
        self.forget_before_reused();
    }

    fn locate(&self, row: i32) -> (usize, u32) {
        let row = row as u32;
        ((row / self.config.size) as usize, row % self.config.size)
    }

    fn note_reuse(&mut self, old: CellState) {
        let Some(seq) = old.seqs().only() else { return };
        match self.reused.iter_mut().find(|(s, _)| *s == seq) {
            Some((_, max)) => *max = old.pos().max(*max),
            None => self.reused.push((seq, old.pos())),
        }
    }

    /// Where tokens of a sequence were replaced, removes all before them: a sequence has no holes between its smallest and
    /// its largest position.
    fn forget_before_reused(&mut self) {
        for i in 0..self.reused.len() {
            let (seq, max) = self.reused[i];
            let stream = if self.streams.len() == 1 { 0 } else { seq };
            let cells = &mut self.streams[stream];
            let holes = 0..max.saturating_add(1);
            let gone = cells.of_seq(seq).span(&holes);
            for k in gone.clone() {
                let cell = cells.of_seq(seq)[k].1;
                self.undo.push(Undo { stream, cell, old: cells.state(cell) });
            }
            if !gone.is_empty() {
                cells.seq_rm(seq, holes);
            }
        }
    }

    /// Keeps what the last [`KvCache::apply`] placed.
    pub fn commit(&mut self) {
        self.undo.clear();
    }

    /// Takes back what the last [`KvCache::apply`] placed.
    pub fn rollback(&mut self, rows: Rows) {
        if self.undo.is_empty() {
            return;
        }
        for i in (0..self.undo.len()).rev() {
            let Undo { stream, cell, old } = self.undo[i];
            self.streams[stream].restore(cell, old);
        }
        self.undo.clear();
        self.heads.copy_from_slice(&self.undo_heads);
        match rows {
            Rows::Untouched => {}
            Rows::Written => {
                self.forget_before_reused();
                self.undo.clear();
            }
        }
    }

    // Sequence operations

    /// Empties the cache.
    pub fn clear(&mut self) {
        self.streams.iter_mut().for_each(Cells::clear);
        self.heads.fill(0);
        self.copies.clear();
        self.undo.clear();
    }

    /// Removes the positions `range` of a sequence, or of all sequences when `seq` < 0.
    pub fn seq_rm(&mut self, seq: i32, range: Range<i32>) -> Result<()> {
        if seq < 0 {
            for (cells, head) in self.streams.iter_mut().zip(&mut self.heads) {
                let freed = cells.rm(range.clone());
                lower(head, freed);
            }
        } else {
            let stream = self.stream_of(seq)?;
            let freed = self.streams[stream].seq_rm(seq as usize, range);
            lower(&mut self.heads[stream], freed);
        }
        Ok(())
    }

    /// Makes `dst` share the positions `range` of `src`. Between streams, `dst` loses what it had and gets copies of the
    /// cells: see [`KvCache::take_copies`].
    pub fn seq_cp(&mut self, src: i32, dst: i32, range: Range<i32>) -> Result<()> {
        let (s0, s1) = (self.stream_of(src)?, self.stream_of(dst)?);
        let (src, dst) = (src as usize, dst as usize);
        if s0 == s1 {
            self.streams[s0].seq_cp(src, dst, range);
            return Ok(());
        }
        self.streams[s1].clear();
        let (base0, base1) = (s0 as u32 * self.config.size, s1 as u32 * self.config.size);
        let only_dst = SeqSet::of(&[dst as i32]);
        for k in self.streams[s0].of_seq(src).span(&range) {
            let cell = self.streams[s0].of_seq(src)[k].1;
            let state = self.streams[s0].state(cell).with_seqs(only_dst);
            self.streams[s1].restore(cell, state);
            match self.copies.last_mut() {
                Some(c) if c.src + c.n == base0 + cell && c.dst + c.n == base1 + cell => c.n += 1,
                _ => self.copies.push(RowCopy { src: base0 + cell, dst: base1 + cell, n: 1 }),
            }
        }
        self.heads[s1] = self.heads[s0];
        Ok(())
    }

    /// Removes all other sequences from the stream of a sequence.
    pub fn seq_keep(&mut self, seq: i32) -> Result<()> {
        let stream = self.stream_of(seq)?;
        let freed = self.streams[stream].seq_keep(seq as usize);
        lower(&mut self.heads[stream], freed);
        Ok(())
    }

    /// Adds `delta` to the positions `range` of a sequence; those that fall below 0 are removed.
    pub fn seq_add(&mut self, seq: i32, range: Range<i32>, delta: i32) -> Result<()> {
        let stream = self.stream_of(seq)?;
        let cells = &mut self.streams[stream];
        if delta == 0 || range.is_empty() {
            return Ok(());
        }
        let list = cells.of_seq(seq as usize);
        let max = list.range(list.span(&range)).next_back().map_or(0, |(pos, _)| pos);
        if max.checked_add(delta).is_none_or(|p| p == i32::MAX) {
            return Err(Error::argument(format!("position {max} + {delta} is out of range")));
        }
        self.heads[stream] = cells.seq_add(seq as usize, range, delta).unwrap_or(0);
        Ok(())
    }

    /// Divides the positions `range` of a sequence by `d` > 0.
    pub fn seq_div(&mut self, seq: i32, range: Range<i32>, d: i32) -> Result<()> {
        let stream = self.stream_of(seq)?;
        if d < 1 {
            return Err(Error::argument(format!("positions cannot be divided by {d}")));
        }
        if d > 1 {
            self.streams[stream].seq_div(seq as usize, range, d);
        }
        Ok(())
    }

    /// The smallest position of a sequence.
    pub fn pos_min(&self, seq: i32) -> Option<i32> {
        self.streams[self.stream_of(seq).ok()?].pos_min(seq as usize)
    }

    /// The largest position of a sequence.
    pub fn pos_max(&self, seq: i32) -> Option<i32> {
        self.streams[self.stream_of(seq).ok()?].pos_max(seq as usize)
    }

    // Saving and restoring

    /// The cells of a stream that a saved state has, in ascending order. Of a sequence those that a query at its last
    /// position sees; with `None` all that hold a token.
    pub fn saved_cells(&self, stream: usize, seq: Option<i32>) -> Vec<u32> {
        let cells = &self.streams[stream];
        let Some(seq) = seq else {
            return (0..cells.size()).filter(|&cell| cells.pos(cell).is_some()).collect();
        };
        if self.stream_of(seq).ok() != Some(stream) {
            return Vec::new();
        }
        let list = cells.of_seq(seq as usize);
        let last = list.last().map_or(0, |(pos, _)| pos);
        let seen = list.range(0..list.len()).filter(|&(pos, _)| !self.config.window.hides(pos, last));
        let mut saved: Vec<u32> = seen.map(|(_, cell)| cell).collect();
        saved.sort_unstable();
        saved
    }

    /// Replaces the tokens of a sequence by one at each of the given positions, all in `0..i32::MAX`. Returns their rows.
    ///
    /// # Errors
    /// [`Error::NoSlot`] when they do not fit; the sequence is empty then.
    pub fn replace_seq(&mut self, seq: i32, pos: &[i32]) -> Result<Vec<i32>> {
        self.seq_rm(seq, 0..i32::MAX)?;
        let mut seq_ids = SeqIds::default();
        pos.iter().for_each(|_| seq_ids.push(&[seq]));
        let tokens = Tokens { pos, seq_ids: &seq_ids };
        let mut rows = Vec::new();
        self.find_slot(tokens, &mut rows)?;
        self.apply(tokens, &rows);
        self.commit();
        Ok(rows)
    }

    /// Fills an empty stream from its first cell on with tokens: positions in `0..i32::MAX` and sequences of the stream. There
    /// must be as many cells. Returns their rows.
    pub fn fill_empty_stream(&mut self, stream: usize, tokens: &[(i32, SeqSet)]) -> Vec<i32> {
        // in the order of positions, in which adding to the lists of sequences costs no search
        let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
        order.sort_by_key(|&cell| tokens[cell as usize].0);
        for cell in order {
            let (pos, seqs) = tokens[cell as usize];
            self.streams[stream].put(cell, pos, seqs);
        }
        let first = stream as u32 * self.config.size;
        (first..first + tokens.len() as u32).map(|row| row as i32).collect()
    }

    // Work for the backend

    /// Hands over the copies that [`KvCache::seq_cp`] asked for. They must be made in this order, before the rotation of
    /// [`KvCache::take_shifts`] and before anything else reads or writes the rows.
    pub fn take_copies(&mut self, copies: &mut Vec<RowCopy>) {
        copies.clear();
        copies.append(&mut self.copies);
    }

    /// Whether [`KvCache::take_copies`] or [`KvCache::take_shifts`] has something.
    pub fn has_updates(&self) -> bool {
        !self.copies.is_empty() || self.streams.iter().any(Cells::has_shift)
    }

    /// Hands over by how much each row's key must be rotated: one number per row, most of them 0. Returns whether there
    /// was anything to do; `shifts` is empty otherwise.
    pub fn take_shifts(&mut self, shifts: &mut Vec<i32>) -> bool {
        shifts.clear();
        if !self.streams.iter().any(Cells::has_shift) {
            return false;
        }
        for cells in &mut self.streams {
            shifts.extend((0..cells.size()).map(|cell| cells.shift(cell)));
            cells.clear_shift();
        }
        true
    }
}

/// Lets the next search begin at a cell that became empty, if that is earlier.
fn lower(head: &mut u32, freed: Option<u32>) {
    if let Some(cell) = freed {
        *head = cell.min(*head);
    }
}
