//! The memory against a model of it that is obviously right: a list of cells, each with a position and a set.

use std::collections::BTreeSet;
use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::graph::Mask;

const N_SEQ: i32 = 4;

#[derive(Debug, Clone, Default, PartialEq)]
struct Cell {
    pos: i32,
    shift: i32,
    seqs: BTreeSet<i32>, // empty: no token
}

#[derive(Debug, Clone)]
struct Naive {
    streams: Vec<Vec<Cell>>,
    heads: Vec<usize>,
    window: Window,
}

/// A token to place: its position and its sequences.
type Token = (i32, Vec<i32>);

fn masked(window: Window, p0: i32, p1: i32) -> bool {
    match window {
        Window::None => false,
        Window::Standard(n) => p1 - p0 >= n as i32,
        Window::Chunked(n) => p0 < p1 / n as i32 * n as i32,
        Window::Symmetric(n) => (p1 - p0).abs() > n as i32 / 2,
    }
}

impl Naive {
    fn new(size: usize, n_stream: usize, window: Window) -> Naive {
        Naive { streams: vec![vec![Cell::default(); size]; n_stream], heads: vec![0; n_stream], window }
    }

    fn stream(&self, seq: i32) -> usize {
        if self.streams.len() == 1 { 0 } else { seq as usize }
    }

    fn positions(&self, seq: i32) -> impl Iterator<Item = i32> {
        self.streams[self.stream(seq)].iter().filter(move |c| c.seqs.contains(&seq)).map(|c| c.pos)
    }

    fn pos_min(&self, seq: i32) -> Option<i32> {
        self.positions(seq).min()
    }

    fn pos_max(&self, seq: i32) -> Option<i32> {
        self.positions(seq).max()
    }

    fn usable(&self, cell: &Cell) -> bool {
        let mut seqs = cell.seqs.iter();
        match (seqs.next(), seqs.next()) {
            (None, _) => true,
            (Some(&seq), None) => masked(self.window, cell.pos, self.pos_max(seq).unwrap() + 1),
            (Some(_), Some(_)) => false,
        }
    }

    fn find_slot(&self, tokens: &[Token]) -> Option<Vec<usize>> {
        let mut rows = vec![usize::MAX; tokens.len()];
        for (s, cells) in self.streams.iter().enumerate() {
            let own: Vec<usize> = (0..tokens.len()).filter(|&i| self.stream(tokens[i].1[0]) == s).collect();
            let used = cells.iter().filter(|c| !c.seqs.is_empty()).count();
            let head = if self.heads[s] > used + 2 * own.len() { 0 } else { self.heads[s] };
            let usable: Vec<usize> =
                (0..cells.len()).map(|k| (head + k) % cells.len()).filter(|&c| self.usable(&cells[c])).collect();
            for (k, &i) in own.iter().enumerate() {
                rows[i] = s * cells.len() + *usable.get(k)?;
            }
        }
        Some(rows)
    }

    fn apply(&mut self, tokens: &[Token], rows: &[usize]) {
        let size = self.streams[0].len();
        let mut replaced = vec![-1; N_SEQ as usize];
        for ((pos, seqs), &row) in tokens.iter().zip(rows) {
            let cell = &mut self.streams[row / size][row % size];
            for &seq in &cell.seqs {
                replaced[seq as usize] = replaced[seq as usize].max(cell.pos);
            }
            *cell = Cell { pos: *pos, shift: 0, seqs: seqs.iter().copied().collect() };
        }
        for (seq, &pos) in replaced.iter().enumerate() {
            if pos >= 0 {
                self.seq_rm(seq as i32, 0..pos + 1);
            }
        }
        for (_, seqs) in tokens {
            let s = self.stream(seqs[0]);
            let last = rows.iter().rev().find(|&&row| row / size == s).unwrap();
            self.heads[s] = last % size + 1;
        }
    }

    /// Applies `f` to the cells of a stream in range; lowers the head to the first that becomes empty.
    fn each(&mut self, s: usize, range: &Range<i32>, f: impl Fn(&mut Cell)) -> Option<usize> {
        let mut freed = None;
        for (i, cell) in self.streams[s].iter_mut().enumerate() {
            if !cell.seqs.is_empty() && range.contains(&cell.pos) {
                f(cell);
                if cell.seqs.is_empty() {
                    *cell = Cell::default();
                    freed = freed.or(Some(i));
                }
            }
        }
        freed
    }

    fn seq_rm(&mut self, seq: i32, range: Range<i32>) {
        for s in 0..self.streams.len() {
            if seq >= 0 && s != self.stream(seq) {
                continue;
            }
            let freed = self.each(s, &range, |c| {
                if seq < 0 {
                    c.seqs.clear();
                }
                c.seqs.remove(&seq);
            });
            self.heads[s] = freed.unwrap_or(usize::MAX).min(self.heads[s]);
        }
    }

    fn seq_cp(&mut self, src: i32, dst: i32, range: Range<i32>) {
        let (s0, s1) = (self.stream(src), self.stream(dst));
        if s0 == s1 {
            self.each(s0, &range, |c| {
                if c.seqs.contains(&src) {
                    c.seqs.insert(dst);
                }
            });
            return;
        }
        for i in 0..self.streams[s0].len() {
            let cell = &self.streams[s0][i];
            let copied = cell.seqs.contains(&src) && range.contains(&cell.pos);
            let copy = Cell { seqs: [dst].into(), ..cell.clone() };
            self.streams[s1][i] = if copied { copy } else { Cell::default() };
        }
        self.heads[s1] = self.heads[s0];
    }

    fn seq_keep(&mut self, seq: i32) {
        let s = self.stream(seq);
        let freed = self.each(s, &(0..i32::MAX), |c| c.seqs.retain(|&x| x == seq));
        self.heads[s] = freed.unwrap_or(usize::MAX).min(self.heads[s]);
    }

    fn seq_move(&mut self, seq: i32, range: Range<i32>, new: impl Fn(i32) -> i32) -> Option<usize> {
        self.each(self.stream(seq), &range, |c| {
            if c.seqs.contains(&seq) {
                let moved = new(c.pos);
                c.shift += moved - c.pos;
                c.pos = moved;
                if moved < 0 {
                    c.seqs.clear();
                }
            }
        })
    }

    fn seq_add(&mut self, seq: i32, range: Range<i32>, delta: i32) {
        if delta != 0 && !range.is_empty() {
            let s = self.stream(seq);
            self.heads[s] = self.seq_move(seq, range, |p| p + delta).unwrap_or(0);
        }
    }

    fn sees(&self, token: &Token, row: usize, span_min: i32, direction: Direction) -> bool {
        let size = self.streams[0].len();
        let cell = &self.streams[row / size][row % size];
        let (p1, seq) = (token.0, token.1[0]);
        if row / size != self.stream(seq) || !cell.seqs.contains(&seq) {
            return false;
        }
        let (causal, in_span) = match direction {
            Direction::Causal => (true, false),
            Direction::Both(NonCausal::All) => (false, false),
            Direction::Both(NonCausal::SwaOnly) => (self.window == Window::None, false),
            Direction::Both(NonCausal::SwaFull) => (false, cell.pos >= span_min),
        };
        (!causal || cell.pos <= p1) && (in_span || !masked(self.window, cell.pos, p1))
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// Tokens for some sequences: the next `n` positions of each, in turn or one sequence after the other; the decode
    /// fails at its last ubatch if `fails`.
    Decode {
        seqs: Vec<(i32, usize)>,
        n_ubatch: usize,
        in_turn: bool,
        fails: bool,
    },
    /// Tokens shared by two sequences, if they have the same history.
    Coupled {
        a: i32,
        b: i32,
        n: usize,
    },
    Rm(i32, i32, i32),
    Cp(i32, i32, i32, i32),
    Keep(i32),
    Add(i32, i32, i32, i32),
    Div(i32, i32, i32, i32),
    TakeShifts,
}

fn op() -> impl Strategy<Value = Op> {
    let seq = 0..N_SEQ;
    let p = -1..30i32;
    let decode =
        (prop::collection::vec((seq.clone(), 1..7usize), 1..4), 1..9usize, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(seqs, n_ubatch, in_turn, fails)| Op::Decode { seqs, n_ubatch, in_turn, fails });
    prop_oneof![
        8 => decode,
        1 => (seq.clone(), seq.clone(), 1..4usize).prop_map(|(a, b, n)| Op::Coupled { a, b, n }),
        3 => (-1..N_SEQ, p.clone(), p.clone()).prop_map(|(s, a, b)| Op::Rm(s, a, b)),
        2 => (seq.clone(), seq.clone(), p.clone(), p.clone()).prop_map(|(s, d, a, b)| Op::Cp(s, d, a, b)),
        1 => seq.clone().prop_map(Op::Keep),
        2 => (seq.clone(), p.clone(), p.clone(), -9..9i32).prop_map(|(s, a, b, d)| Op::Add(s, a, b, d)),
        1 => (seq, p.clone(), p, 1..4i32).prop_map(|(s, a, b, d)| Op::Div(s, a, b, d)),
        1 => Just(Op::TakeShifts),
    ]
}

fn window() -> impl Strategy<Value = Window> {
    prop_oneof![
        Just(Window::None),
        (1..12u32).prop_map(Window::Standard),
        (1..12u32).prop_map(Window::Chunked),
        (1..12u32).prop_map(Window::Symmetric),
    ]
}

/// A cache and its model side by side.
struct Pair {
    kv: KvCache,
    naive: Naive,
}

impl Pair {
    fn check(&mut self) {
        for (s, cells) in self.naive.streams.iter().enumerate() {
            for (i, cell) in cells.iter().enumerate() {
                let real = self.kv.cells(s);
                let pos = (!cell.seqs.is_empty()).then_some(cell.pos);
                let seqs: BTreeSet<i32> = real.seqs(i as u32).iter().map(|s| s as i32).collect();
                assert_eq!((real.pos(i as u32), real.shift(i as u32), seqs), (pos, cell.shift, cell.seqs.clone()));
            }
            let used: Vec<u32> = (0..cells.len() as u32).filter(|&i| !cells[i as usize].seqs.is_empty()).collect();
            let range = used.first().map_or(0..0, |first| *first..used[used.len() - 1] + 1);
            assert_eq!(self.kv.cells(s).used_range(), range);
            assert_eq!(self.kv.cells(s).n_used() as usize, used.len());
        }
        for seq in 0..N_SEQ {
            assert_eq!(self.kv.pos_min(seq), self.naive.pos_min(seq));
            assert_eq!(self.kv.pos_max(seq), self.naive.pos_max(seq));
        }
    }

    fn check_mask(&self, tokens: &[Token], placed: Tokens) {
        let mut mask = Mask::default();
        let modes = [NonCausal::All, NonCausal::SwaOnly, NonCausal::SwaFull].map(Direction::Both);
        for direction in modes.into_iter().chain([Direction::Causal]) {
            self.kv.fill_mask(&mut mask, placed, MaskRule { direction, with_positions: true });
            for (t, token) in tokens.iter().enumerate() {
                let own = tokens.iter().filter(|x| x.1[0] == token.1[0]);
                let span_min = own.map(|x| x.0).min().unwrap();
                let seen: Vec<u32> = (0..self.kv.n_rows())
                    .filter(|&row| self.naive.sees(token, row as usize, span_min, direction))
                    .collect();
                let found: Vec<u32> = (0..self.kv.n_rows()).filter(|&row| mask.visible(t, row)).collect();
                assert_eq!(found, seen, "{direction:?} token {t}");
                let row = mask.rows[t];
                assert_eq!(row.bits.is_none(), (row.end - row.start) as usize == seen.len(), "a range is dense");
            }
            assert_eq!(mask.q_pos, placed.pos);
            assert_eq!(mask.kv_pos.len(), self.kv.n_rows() as usize);
        }
    }

    fn decode(&mut self, tokens: &[Token], n_ubatch: usize, fails: bool) {
        let ubatches: Vec<(&[Token], Vec<i32>, SeqIds)> = tokens
            .chunks(n_ubatch)
            .map(|chunk| {
                let mut ids = SeqIds::default();
                chunk.iter().for_each(|(_, seqs)| ids.push(seqs));
                (chunk, chunk.iter().map(|t| t.0).collect(), ids)
            })
            .collect();
        let placed = ubatches.iter().map(|(_, pos, seq_ids)| Tokens { pos, seq_ids });

        let mut next = self.naive.clone();
        let expected: Option<Vec<Vec<usize>>> = ubatches
            .iter()
            .map(|(chunk, ..)| {
                let rows = next.find_slot(chunk)?;
                next.apply(chunk, &rows);
                Some(rows)
            })
            .collect();

        let (mut rows, mut ends) = (Vec::new(), Vec::new());
        let reserved = self.kv.reserve(placed.clone(), &mut rows, &mut ends);
        self.check();
        let Some(expected) = expected else {
            assert!(matches!(reserved, Err(Error::NoSlot { .. })));
            return;
        };
        reserved.unwrap();

        let mut start = 0;
        for (k, placed) in placed.enumerate() {
            let rows = &rows[start..ends[k]];
            start = ends[k];
            let expected_rows: Vec<i32> = expected[k].iter().map(|&r| r as i32).collect();
            assert_eq!(rows, expected_rows);
            let before = self.kv.clone();
            self.kv.apply(placed, rows);
            if fails && k + 1 == ubatches.len() {
                self.kv.rollback(Rows::Untouched);
                for s in 0..before.n_stream() {
                    assert_eq!(self.kv.cells(s), before.cells(s));
                }
                return;
            }
            self.kv.commit();
            self.naive.apply(ubatches[k].0, &expected[k]);
            self.check();
            self.check_mask(ubatches[k].0, placed);
        }
    }

    fn tokens(&self, seqs: &[(i32, usize)], in_turn: bool) -> Vec<Token> {
        let mut next: Vec<i32> = (0..N_SEQ).map(|s| self.naive.pos_max(s).map_or(0, |p| p + 1)).collect();
        let mut tokens = Vec::new();
        let mut push = |seq: i32| {
            tokens.push((next[seq as usize], vec![seq]));
            next[seq as usize] += 1;
        };
        if in_turn {
            let most = seqs.iter().map(|s| s.1).max().unwrap_or(0);
            (0..most).for_each(|k| seqs.iter().filter(|s| k < s.1).for_each(|s| push(s.0)));
        } else {
            seqs.iter().for_each(|s| (0..s.1).for_each(|_| push(s.0)));
        }
        tokens
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Decode { ref seqs, n_ubatch, in_turn, fails } => {
                let tokens = self.tokens(seqs, in_turn);
                self.decode(&tokens, n_ubatch, fails);
            }
            Op::Coupled { a, b, n } => {
                let same = self.naive.positions(a).eq(self.naive.positions(b));
                if a != b && same && self.naive.streams.len() == 1 {
                    let first = self.naive.pos_max(a).map_or(0, |p| p + 1);
                    let tokens: Vec<Token> = (first..first + n as i32).map(|p| (p, vec![a, b])).collect();
                    self.decode(&tokens, 2, false);
                }
            }
            Op::Rm(seq, p0, p1) => {
                self.kv.seq_rm(seq, positions(p0, p1)).unwrap();
                self.naive.seq_rm(seq, positions(p0, p1));
            }
            Op::Cp(src, dst, p0, p1) => {
                self.kv.seq_cp(src, dst, positions(p0, p1)).unwrap();
                self.naive.seq_cp(src, dst, positions(p0, p1));
            }
            Op::Keep(seq) => {
                self.kv.seq_keep(seq).unwrap();
                self.naive.seq_keep(seq);
            }
            Op::Add(seq, p0, p1, delta) => {
                self.kv.seq_add(seq, positions(p0, p1), delta).unwrap();
                self.naive.seq_add(seq, positions(p0, p1), delta);
            }
            Op::Div(seq, p0, p1, d) => {
                self.kv.seq_div(seq, positions(p0, p1), d).unwrap();
                self.naive.seq_move(seq, positions(p0, p1), |p| p / d);
            }
            Op::TakeShifts => {
                let mut shifts = Vec::new();
                let expected: Vec<i32> = self.naive.streams.iter().flatten().map(|c| c.shift).collect();
                let any = self.kv.take_shifts(&mut shifts);
                assert!(if any { shifts == expected } else { expected.iter().all(|&s| s == 0) });
                self.naive.streams.iter_mut().flatten().for_each(|c| c.shift = 0);
            }
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn unified_cache_equals_the_model(ops in prop::collection::vec(op(), 1..30), window in window(), size in 1..90u32) {
        let kv = KvCache::new(KvConfig { size, n_stream: 1, window }).unwrap();
        let mut pair = Pair { kv, naive: Naive::new(size as usize, 1, window) };
        ops.iter().for_each(|op| pair.run(op));
    }

    #[test]
    fn streams_equal_the_model(ops in prop::collection::vec(op(), 1..30), window in window(), size in 1..90u32) {
        let kv = KvCache::new(KvConfig { size, n_stream: N_SEQ as u32, window }).unwrap();
        let mut pair = Pair { kv, naive: Naive::new(size as usize, N_SEQ as usize, window) };
        ops.iter().for_each(|op| pair.run(op));
    }

    #[test]
    fn own_rows_equal_the_pairwise_rule(
        tokens in prop::collection::vec((0..3i32, 0..2i32), 1..150),
        window in window(),
        causal: bool,
    ) {
        let mut pos = Vec::new();
        let mut seq_ids = SeqIds::default();
        let mut next = [0; 3];
        for &(seq, step) in &tokens {
            next[seq as usize] += step;
            pos.push(next[seq as usize]);
            seq_ids.push(&[seq]);
        }
        let direction = if causal { Direction::Causal } else { Direction::Both(NonCausal::All) };
        let mut mask = Mask::default();
        let placed = Tokens { pos: &pos, seq_ids: &seq_ids };
        OwnRows::default().fill_mask(&mut mask, placed, window, MaskRule { direction, with_positions: false });
        for i in 0..pos.len() {
            for j in 0..pos.len() {
                let seen = tokens[i].0 == tokens[j].0 && (!causal || pos[j] <= pos[i]) && !masked(window, pos[j], pos[i]);
                prop_assert_eq!(mask.visible(i, j as u32), seen);
            }
        }
    }
}

fn config() -> MemoryConfig {
    MemoryConfig {
        n_ctx_seq: 4096,
        n_seq_max: 4,
        n_ubatch: 512,
        kv_unified: true,
        window: Window::Standard(512),
        swa_full: false,
        can_rotate: true,
    }
}

#[test]
fn sizes_are_llama_cpps() {
    let size = |n_ctx, n_seq_max, unified| ContextSize::new(n_ctx, n_seq_max, unified).unwrap();
    assert_eq!(size(1000, 4, true), ContextSize { n_ctx: 1024, n_ctx_seq: 1024 });
    assert_eq!(size(1000, 4, false), ContextSize { n_ctx: 1024, n_ctx_seq: 256 });
    assert_eq!(size(1030, 3, false), ContextSize { n_ctx: 1536, n_ctx_seq: 512 });
    assert!(ContextSize::new(u32::MAX, 1, true).is_err());
    assert!(ContextSize::new(512, 257, true).is_err());
    assert!(ContextSize::new(0, 1, true).is_err());
    assert!(Memory::new(&MemoryConfig { n_ctx_seq: 1 << 31, ..config() }).is_err());

    let swa = |c: MemoryConfig| Memory::new(&c).unwrap().groups()[SWA].size();
    assert_eq!(swa(config()), 2560);
    assert_eq!(swa(MemoryConfig { kv_unified: false, ..config() }), 1024);
    assert_eq!(swa(MemoryConfig { n_ubatch: 500, kv_unified: false, ..config() }), 1024);
    assert_eq!(swa(MemoryConfig { swa_full: true, ..config() }), 4096);
    assert_eq!(swa(MemoryConfig { n_ctx_seq: 256, ..config() }), 256);
}

/// Decodes `n` tokens of sequence 0.
fn decode(memory: &mut Memory, n: i32) -> Result<()> {
    let first = memory.pos_max(0).map_or(0, |p| p + 1);
    let pos: Vec<i32> = (first..first + n).collect();
    let mut seq_ids = SeqIds::default();
    pos.iter().for_each(|_| seq_ids.push(&[0]));
    let tokens = Tokens { pos: &pos, seq_ids: &seq_ids };
    let mut reservation = Reservation::default();
    memory.reserve(std::iter::once(tokens), &mut reservation)?;
    memory.apply(tokens, &reservation, 0);
    Ok(())
}

#[test]
fn sliding_window_forgets_and_both_groups_follow() {
    let config = MemoryConfig { n_seq_max: 1, n_ubatch: 128, window: Window::Standard(100), ..config() };
    let mut memory = Memory::new(&config).unwrap();
    assert!(!memory.can_shift());
    for _ in 0..10 {
        decode(&mut memory, 100).unwrap();
        memory.commit();
    }
    assert_eq!(memory.groups()[SWA].size(), 256);
    assert_eq!(memory.groups()[FULL].pos_min(0), Some(0));
    assert_eq!(memory.pos_max(0), Some(999));
    let kept = memory.pos_min(0).unwrap();
    assert!(kept <= 900 && kept > 999 - 256, "the last window is there: {kept}");

    // a failed ubatch that may have written over old rows: what the next token sees is there, what is lost is not claimed
    decode(&mut memory, 100).unwrap();
    memory.rollback(Rows::Written);
    assert_eq!(memory.groups()[FULL].pos_min(0), Some(0));
    assert_eq!(memory.pos_max(0), Some(999));
    assert!(memory.pos_min(0).unwrap() <= 900);

    assert!(memory.seq_rm(0, 950, -1).unwrap());
    assert_eq!((memory.groups()[FULL].pos_max(0), memory.pos_max(0)), (Some(949), Some(949)));
    memory.clear();
    assert_eq!(memory.pos_max(0), None);
}

#[test]
fn full_cache_refuses_and_stays() {
    let config = MemoryConfig { n_ctx_seq: 256, n_seq_max: 2, window: Window::None, ..config() };
    let mut memory = Memory::new(&config).unwrap();
    decode(&mut memory, 250).unwrap();
    memory.commit();
    assert!(matches!(decode(&mut memory, 7), Err(Error::NoSlot { n_tokens: 7 })));
    assert_eq!(memory.pos_max(0), Some(249));
    decode(&mut memory, 6).unwrap();
    memory.rollback(Rows::Untouched);
    assert_eq!(memory.groups()[FULL].cells(0).n_used(), 250);
}

#[test]
fn copies_between_streams_are_asked_of_the_backend() {
    let config = MemoryConfig { n_ctx_seq: 256, kv_unified: false, window: Window::None, ..config() };
    let mut memory = Memory::new(&config).unwrap();
    decode(&mut memory, 20).unwrap();
    memory.commit();
    memory.seq_rm(0, 5, 8).unwrap();
    memory.seq_cp(0, 3, -1, -1).unwrap();
    assert!(memory.has_updates());
    let mut copies = Vec::new();
    memory.group_mut(FULL).take_copies(&mut copies);
    assert_eq!(copies, [RowCopy { src: 0, dst: 768, n: 5 }, RowCopy { src: 8, dst: 776, n: 12 }]);
    assert!(!memory.has_updates());
    assert_eq!((memory.pos_min(3), memory.pos_max(3)), (Some(0), Some(19)));
}

#[test]
fn wrong_arguments_are_refused() {
    let mut memory = Memory::new(&MemoryConfig { kv_unified: false, ..config() }).unwrap();
    assert!(memory.seq_rm(4, 0, -1).is_err());
    assert!(memory.seq_rm(-1, 0, -1).unwrap());
    assert!(memory.seq_cp(0, 4, -1, -1).is_err() && memory.seq_cp(-1, 0, -1, -1).is_err());
    assert!(memory.seq_keep(-1).is_err() && memory.seq_keep(i32::MAX).is_err());
    assert!(memory.seq_div(0, -1, -1, 0).is_err());
    assert_eq!((memory.pos_min(-1), memory.pos_max(77)), (None, None));
    decode(&mut memory, 3).unwrap();
    assert!(memory.seq_add(0, -1, -1, i32::MAX - 2).is_err());
    assert!(memory.seq_add(0, -1, -1, i32::MAX - 3).is_ok());
    assert_eq!(memory.pos_max(0), Some(i32::MAX - 1));
    let mut fixed = Memory::new(&MemoryConfig { can_rotate: false, ..config() }).unwrap();
    assert!(fixed.seq_add(0, -1, -1, 1).is_err() && !fixed.can_shift());
}

#[test]
fn cell_operations_are_fast() {
    // an order of magnitude under what is seen, so that a busy machine does not fail it
    const OPS_PER_S: f64 = 200_000.0;
    let mut memory =
        Memory::new(&MemoryConfig { n_ctx_seq: 65536, window: Window::None, n_seq_max: 1, ..config() }).unwrap();
    for _ in 0..60 {
        decode(&mut memory, 1024).unwrap();
    }
    let start = std::time::Instant::now();
    let n = 20_000;
    for _ in 0..n {
        decode(&mut memory, 1).unwrap();
        memory.commit();
        let last = memory.pos_max(0).unwrap();
        memory.seq_rm(0, last, -1).unwrap();
    }
    let rate = 2.0 * f64::from(n) / start.elapsed().as_secs_f64();
    assert!(rate > OPS_PER_S, "{rate} cell operations per second");
}
