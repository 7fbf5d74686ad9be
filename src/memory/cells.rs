//! The cells of one stream of a KV cache: which token (position, sequences) sits in which row. Used by [`super::KvCache`].
//!
//! Beside the cells themselves there is, for each sequence, the list of its cells ordered by position. Appending a token,
//! dropping the oldest and cutting off the newest are all at an end of that list, so what decoding and its callers do
//! costs no search through the cells, however many there are.

use std::ops::Range;

use super::seq::SeqSet;
use super::seq_list::SeqList;
use crate::{Error, Result};

/// No token in the cell.
const EMPTY: i32 = -1;

/// One cell as it was at some moment, to put it back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellState {
    pos: i32,
    shift: i32,
    seqs: SeqSet,
}

impl CellState {
    /// Whether the cell held a token.
    pub fn is_empty(&self) -> bool {
        self.pos == EMPTY
    }

    /// The token's position; -1 when empty.
    pub fn pos(&self) -> i32 {
        self.pos
    }

    /// The token's sequences.
    pub fn seqs(&self) -> SeqSet {
        self.seqs
    }

    /// The same token, of other sequences.
    pub fn with_seqs(self, seqs: SeqSet) -> CellState {
        CellState { seqs, ..self }
    }
}

/// The cells of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells {
    pos: Vec<i32>,     // [size], EMPTY or ≥ 0
    shift: Vec<i32>,   // [size], what was added to `pos` since the keys were last rotated
    seqs: Vec<SeqSet>, // [size], empty exactly where `pos` is EMPTY
    used: Vec<u64>,    // bitmap of the cells that hold a token
    n_used: u32,
    has_shift: bool,
    by_seq: Vec<SeqList>, // the cells of each sequence
}

impl Cells {
    /// No cells yet, for sequences `0..n_seq`, `n_seq` ≤ [`super::MAX_SEQ`].
    pub fn none(n_seq: usize) -> Cells {
        Cells {
            pos: Vec::new(),
            shift: Vec::new(),
            seqs: Vec::new(),
            used: Vec::new(),
            n_used: 0,
            has_shift: false,
            by_seq: vec![SeqList::default(); n_seq],
        }
    }

    /// `size` empty cells for sequences `0..n_seq`; [`Error::Memory`] when they do not fit into memory.
    pub fn new(size: u32, n_seq: usize) -> Result<Cells> {
        let mut cells = Cells::none(n_seq);
        let n = size as usize;
        let reserved = cells
            .pos
            .try_reserve_exact(n)
            .and_then(|()| cells.shift.try_reserve_exact(n))
            .and_then(|()| cells.seqs.try_reserve_exact(n));
        reserved.map_err(|e| Error::Memory(format!("the state of {size} KV cells: {e}")))?;
        cells.resize(size);
        Ok(cells)
    }

    /// Empties every cell.
    pub fn clear(&mut self) {
        self.pos.fill(EMPTY);
        self.shift.fill(0);
        self.seqs.fill(SeqSet::default());
        self.used.fill(0);
        self.n_used = 0;
        self.has_shift = false;
        self.by_seq.iter_mut().for_each(SeqList::clear);
    }

    /// Empties every cell and changes their number.
    pub fn resize(&mut self, size: u32) {
        let n = size as usize;
        self.clear();
        self.pos.resize(n, EMPTY);
        self.shift.resize(n, 0);
        self.seqs.resize(n, SeqSet::default());
        self.used.resize(n.div_ceil(64), 0);
    }

    /// The number of cells.
    pub fn size(&self) -> u32 {
        self.pos.len() as u32
    }

    /// The number of cells that hold a token.
    pub fn n_used(&self) -> u32 {
        self.n_used
    }

    /// From the first cell that holds a token to one past the last; `0..0` when there is none.
    pub fn used_range(&self) -> Range<u32> {
        let first = self.used.iter().position(|&w| w != 0);
        let last = self.used.iter().rposition(|&w| w != 0);
        match (first, last) {
            (Some(a), Some(b)) => {
                a as u32 * 64 + self.used[a].trailing_zeros()..b as u32 * 64 + 64 - self.used[b].leading_zeros()
            }
            _ => 0..0,
        }
    }

    /// The first empty cell at or after `from`.
    pub fn next_empty(&self, from: u32) -> Option<u32> {
        let mut w = from as usize / 64;
        let mut free = !*self.used.get(w)? & (u64::MAX << (from % 64));
        while free == 0 {
            w += 1;
            free = !*self.used.get(w)?;
        }
        let cell = w as u32 * 64 + free.trailing_zeros();
        (cell < self.size()).then_some(cell)
    }

    /// The position in a cell; `None` when it is empty.
    pub fn pos(&self, cell: u32) -> Option<i32> {
        let pos = self.pos[cell as usize];
        (pos != EMPTY).then_some(pos)
    }

    /// The sequences of a cell.
    pub fn seqs(&self, cell: u32) -> &SeqSet {
        &self.seqs[cell as usize]
    }

    /// How far the position of a cell moved since its key was last rotated.
    pub fn shift(&self, cell: u32) -> i32 {
        self.shift[cell as usize]
    }

    /// Whether some cell may have moved since the keys were last rotated.
    pub fn has_shift(&self) -> bool {
        self.has_shift
    }

    /// Declares every key rotated to its position.
    pub fn clear_shift(&mut self) {
        if self.has_shift {
            self.shift.fill(0);
            self.has_shift = false;
        }
    }

    /// The smallest position of a sequence.
    pub fn pos_min(&self, seq: usize) -> Option<i32> {
        Some(self.by_seq.get(seq)?.first()?.0)
    }

    /// The largest position of a sequence.
    pub fn pos_max(&self, seq: usize) -> Option<i32> {
        Some(self.by_seq.get(seq)?.last()?.0)
    }

    /// The cells of a sequence, by position.
    pub fn of_seq(&self, seq: usize) -> &SeqList {
        &self.by_seq[seq]
    }

    /// A copy of one cell.
    pub fn state(&self, cell: u32) -> CellState {
        let i = cell as usize;
        CellState { pos: self.pos[i], shift: self.shift[i], seqs: self.seqs[i] }
    }

    /// Puts a token into a cell, in place of what it held.
    pub fn put(&mut self, cell: u32, pos: i32, seqs: SeqSet) {
        self.restore(cell, CellState { pos, shift: 0, seqs });
    }

    /// Puts back what [`Cells::state`] returned, in place of what the cell holds.
    pub fn restore(&mut self, cell: u32, state: CellState) {
        self.remove(cell);
        if state.is_empty() || state.seqs.is_empty() {
            return;
        }
        let i = cell as usize;
        self.pos[i] = state.pos;
        self.shift[i] = state.shift;
        self.seqs[i] = state.seqs;
        self.has_shift |= state.shift != 0;
        self.used[i / 64] |= 1 << (i % 64);
        self.n_used += 1;
        for seq in state.seqs.iter() {
            self.by_seq[seq].insert((state.pos, cell));
        }
    }

    /// Empties a cell.
    pub fn remove(&mut self, cell: u32) {
        let i = cell as usize;
        if self.pos[i] == EMPTY {
            return;
        }
        for seq in self.seqs[i].iter() {
            self.by_seq[seq].remove((self.pos[i], cell));
        }
        self.free(cell);
    }

    /// Takes a sequence out of its cells with positions in `range`. Returns the first cell that became empty.
    pub fn seq_rm(&mut self, seq: usize, range: Range<i32>) -> Option<u32> {
        let mut list = std::mem::take(&mut self.by_seq[seq]);
        let mut freed = None;
        list.drain(list.span(&range), |(_, cell)| {
            let seqs = &mut self.seqs[cell as usize];
            seqs.remove(seq);
            if seqs.is_empty() {
                self.free(cell);
                freed = first(freed, cell);
            }
        });
        self.by_seq[seq] = list;
        freed
    }

    /// Empties all cells with positions in `range`. Returns the first of them.
    pub fn rm(&mut self, range: Range<i32>) -> Option<u32> {
        (0..self.by_seq.len()).filter_map(|seq| self.seq_rm(seq, range.clone())).min()
    }

    /// Adds the sequence `dst` to the cells of `src` with positions in `range`.
    pub fn seq_cp(&mut self, src: usize, dst: usize, range: Range<i32>) {
        if src == dst {
            return;
        }
        let mut list = std::mem::take(&mut self.by_seq[dst]);
        let source = &self.by_seq[src];
        list.extend(source.range(source.span(&range)).filter(|&(_, cell)| {
            let seqs = &mut self.seqs[cell as usize];
            let new = !seqs.contains(dst);
            seqs.insert(dst);
            new
        }));
        self.by_seq[dst] = list;
    }

    /// Takes all other sequences out of all cells. Returns the first cell that became empty.
    pub fn seq_keep(&mut self, seq: usize) -> Option<u32> {
        (0..self.by_seq.len()).filter(|&s| s != seq).filter_map(|s| self.seq_rm(s, 0..i32::MAX)).min()
    }

    /// Adds `delta` to the positions in `range` of a sequence, for every sequence that shares the cells. Cells whose
    /// position falls below 0 become empty; the first of them is returned. The largest sum must be under `i32::MAX`.
    pub fn seq_add(&mut self, seq: usize, range: Range<i32>, delta: i32) -> Option<u32> {
        self.reposition(seq, range, |pos| pos.saturating_add(delta))
    }

    /// Divides the positions in `range` of a sequence by `d` > 0, for every sequence that shares the cells.
    pub fn seq_div(&mut self, seq: usize, range: Range<i32>, d: i32) {
        self.reposition(seq, range, |pos| pos / d);
    }

    /// Moves the cells of a sequence with positions in `range`; those that get a negative position become empty.
    fn reposition(&mut self, seq: usize, range: Range<i32>, new_pos: impl Fn(i32) -> i32) -> Option<u32> {
        let mut touched = SeqSet::default();
        let mut freed = None;
        let list = std::mem::take(&mut self.by_seq[seq]);
        for (pos, cell) in list.range(list.span(&range)) {
            let i = cell as usize;
            touched = touched.or(&self.seqs[i]);
            let moved = new_pos(pos);
            if moved < 0 {
                self.free(cell);
                freed = first(freed, cell);
            } else {
                self.pos[i] = moved;
                self.shift[i] += moved - pos;
                self.has_shift = true;
            }
        }
        self.by_seq[seq] = list;
        for s in touched.iter() {
            let pos = |cell: u32| self.pos[cell as usize];
            self.by_seq[s].remap(|(_, cell)| (pos(cell) != EMPTY).then(|| (pos(cell), cell)));
        }
        freed
    }

    /// Resets what is stored of a cell, but for the lists of its sequences.
    fn free(&mut self, cell: u32) {
        let i = cell as usize;
        self.pos[i] = EMPTY;
        self.shift[i] = 0;
        self.seqs[i] = SeqSet::default();
        self.used[i / 64] &= !(1 << (i % 64));
        self.n_used -= 1;
    }
}

fn first(found: Option<u32>, cell: u32) -> Option<u32> {
    Some(found.map_or(cell, |f| f.min(cell)))
}
