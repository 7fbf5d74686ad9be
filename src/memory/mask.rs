//! Fills the attention masks of a ubatch: from the cells of a cache, or from the ubatch itself for models without one.
//! Called by `context` for each group of layers, after the ubatch is applied to the memory.
//!
//! What a token sees is always a range of positions of its sequence, thus a slice of the sequence's list of cells. When
//! the cells of that slice follow each other the mask row is just a range; otherwise it is a bitmap, made from the
//! bitmap of the sequence's previous token where there is one.

use std::ops::Range;

use super::cells::Cells;
use super::kv::KvCache;
use super::seq::{MAX_SEQ, SeqSet, Tokens};
use super::seq_list::SeqList;
use super::window::{Direction, NonCausal, Window};
use crate::graph::{Mask, MaskRow};

/// How to fill a mask.
#[derive(Debug, Clone, Copy, Default)]
pub struct MaskRule {
    /// Which way attention looks.
    pub direction: Direction,
    /// Fill the positions of keys and queries too, for biases by distance.
    pub with_positions: bool,
}

impl KvCache {
    /// Fills the mask of this group for a ubatch that was applied.
    pub fn fill_mask(&self, mask: &mut Mask, tokens: Tokens, rule: MaskRule) {
        mask.clear();
        let mut filler = Filler::new(tokens, self.window(), rule);
        for i in 0..tokens.pos.len() {
            let stream = if self.n_stream() == 1 { 0 } else { tokens.seq_ids.get(i)[0] as usize };
            filler.push_row(mask, i, self.cells(stream), stream as u32 * self.size());
        }
        if rule.with_positions {
            let positions = (0..self.n_stream()).flat_map(|s| positions(self.cells(s)));
            mask.kv_pos.extend(positions);
            mask.q_pos.extend_from_slice(tokens.pos);
        }
    }
}

/// Masks for models without a cache: the rows are the tokens of the ubatch. Kept to reuse its buffers.
#[derive(Debug)]
pub struct OwnRows {
    cells: Cells,
}

impl Default for OwnRows {
    fn default() -> Self {
        OwnRows { cells: Cells::none(MAX_SEQ) }
    }
}

impl OwnRows {
    /// Fills the mask of a ubatch whose tokens see each other when their first sequence is the same.
    pub fn fill_mask(&mut self, mask: &mut Mask, tokens: Tokens, window: Window, rule: MaskRule) {
        mask.clear();
        let cells = &mut self.cells;
        cells.resize(tokens.pos.len() as u32);
        for (i, &pos) in tokens.pos.iter().enumerate() {
            cells.put(i as u32, pos, SeqSet::of(&tokens.seq_ids.get(i)[..1]));
        }
        let mut filler = Filler::new(tokens, window, rule);
        for i in 0..tokens.pos.len() {
            filler.push_row(mask, i, cells, 0);
        }
        if rule.with_positions {
            mask.kv_pos.extend(positions(cells));
            mask.q_pos.extend_from_slice(tokens.pos);
        }
    }
}

fn positions(cells: &Cells) -> impl Iterator<Item = i32> {
    (0..cells.size()).map(|cell| cells.pos(cell).unwrap_or(-1))
}

/// Sequences whose previous rows are remembered; two that fall on the same entry only cost time.
const N_RECENT: usize = 8;

/// Fills one mask, row by row.
struct Filler<'a> {
    tokens: Tokens<'a>,
    window: Window,
    direction: Direction,
    recent: [Option<Recent>; N_RECENT],
}

/// What is known of a sequence from its previous token in the ubatch.
#[derive(Clone, Copy)]
struct Recent {
    seq: usize,
    span_min: i32, // the sequence's smallest position in the ubatch
    start: usize,  // the slice of the sequence's list that the token sees
    end: usize,
    run: usize,         // where in the list the cells begin that follow each other up to `end`
    bits: Option<Bits>, // of that slice, if it needs a bitmap
}

/// A bitmap over all rows that this and later tokens of the sequence can see.
#[derive(Clone, Copy)]
struct Bits {
    offset: usize, // in `Mask::words`
    n_words: usize,
    first_row: u32, // of bit 0, a multiple of 64
}

impl<'a> Filler<'a> {
    fn new(tokens: Tokens<'a>, window: Window, rule: MaskRule) -> Self {
        Filler { tokens, window, direction: rule.direction, recent: [None; N_RECENT] }
    }

    /// Appends the row of token `i`, whose sequence lives in `cells`; row `base` is the first of them.
    fn push_row(&mut self, mask: &mut Mask, i: usize, cells: &Cells, base: u32) {
        let seq = self.tokens.seq_ids.get(i)[0] as usize;
        let list = cells.of_seq(seq);
        let recent = self.recent[seq % N_RECENT].filter(|r| r.seq == seq);
        let span_min = recent.map_or_else(|| self.span_min(i), |r| r.span_min);

        let slice = list.span(&self.window.visible(self.tokens.pos[i], span_min, self.direction));
        let (start, end) = (slice.start, slice.end);
        // a slice that moved backwards has nothing to build on
        let recent = recent.filter(|r| r.start <= start && r.end <= end);
        let run = run_start(list, slice.clone(), recent);
        let mut next = Recent { seq, span_min, start, end, run, bits: None };

        let row = if start == end {
            MaskRow { start: 0, end: 0, bits: None }
        } else if run <= start {
            MaskRow { start: base + list[start].1, end: base + list[end - 1].1 + 1, bits: None }
        } else {
            let bits = match recent.and_then(|r| Some((r, r.bits?))) {
                Some((prev, bits)) => advance(mask, bits, list, base, (prev.start, prev.end), (start, end)),
                None => draw(mask, list, base, start, end),
            };
            next.bits = Some(bits);
            trim(mask, bits, end - start)
        };
        self.recent[seq % N_RECENT] = Some(next);
        mask.rows.push(row);
    }

    /// The smallest position of a token's sequence in the ubatch, for the one rule that asks.
    fn span_min(&self, i: usize) -> i32 {
        match self.direction {
            Direction::Causal | Direction::Both(NonCausal::All | NonCausal::SwaOnly) => self.tokens.pos[i],
            Direction::Both(NonCausal::SwaFull) => {
                let seq = self.tokens.seq_ids.get(i)[0];
                let own = self.tokens.seq_ids.iter().zip(self.tokens.pos).filter(|(seqs, _)| seqs[0] == seq);
                own.map(|(_, &pos)| pos).min().unwrap_or(0)
            }
        }
    }
}

/// Where in the list the cells begin that follow each other up to the slice's end. Not searched for beyond what is known
/// of the sequence or, when nothing is, beyond the slice.
fn run_start(list: &SeqList, slice: Range<usize>, recent: Option<Recent>) -> usize {
    if list.run() <= slice.start {
        return list.run();
    }
    match recent {
        Some(r) if r.end > r.start => (r.end..slice.end).rev().find(|&k| !list.follows(k)).unwrap_or(r.run),
        _ => (slice.start + 1..slice.end).rev().find(|&k| !list.follows(k)).unwrap_or(slice.start),
    }
}

/// A new bitmap of a slice, wide enough for all cells from the slice's start to the end of the list.
fn draw(mask: &mut Mask, list: &SeqList, base: u32, start: usize, end: usize) -> Bits {
    let (low, high) =
        list.range(start..list.len()).fold((u32::MAX, 0), |(low, high), (_, cell)| (low.min(cell), high.max(cell)));
    let first_row = (base + low) & !63;
    let n_words = ((base + high - first_row) / 64 + 1) as usize;
    let bits = Bits { offset: mask.words.len(), n_words, first_row };
    mask.words.resize(bits.offset + n_words, 0);
    for (_, cell) in list.range(start..end) {
        flip(mask, bits, base + cell);
    }
    bits
}

/// The bitmap of a slice from that of an earlier one: the cells that left it and those that came are flipped.
fn advance(mask: &mut Mask, prev: Bits, list: &SeqList, base: u32, from: (usize, usize), to: (usize, usize)) -> Bits {
    let bits = Bits { offset: mask.words.len(), ..prev };
    mask.words.extend_from_within(prev.offset..prev.offset + prev.n_words);
    for (_, cell) in list.range(from.0..to.0.min(from.1)) {
        flip(mask, bits, base + cell);
    }
    for (_, cell) in list.range(from.1.max(to.0)..to.1) {
        flip(mask, bits, base + cell);
    }
    bits
}

fn flip(mask: &mut Mask, bits: Bits, row: u32) {
    let i = (row - bits.first_row) as usize;
    mask.words[bits.offset + i / 64] ^= 1 << (i % 64);
}

/// The mask row of a bitmap with `n` bits set, more than 0: its range begins and ends at a visible row.
fn trim(mask: &Mask, bits: Bits, n: usize) -> MaskRow {
    let words = &mask.words[bits.offset..bits.offset + bits.n_words];
    let first = words.iter().position(|&w| w != 0).expect("a token sees at least one row here");
    let last = words.iter().rposition(|&w| w != 0).expect("a token sees at least one row here");
    let start = bits.first_row + first as u32 * 64 + words[first].trailing_zeros();
    let end = bits.first_row + last as u32 * 64 + 64 - words[last].leading_zeros();
    let dense = (end - start) as usize == n;
    MaskRow { start, end, bits: (!dense).then_some((bits.offset + first) as u32) }
}
