//! Few queries per KV head, as when single tokens are decoded: the rows are read where they lie and used for all queries
//! while they are in registers. Types without a vector form here are converted to f32 block by block.

use super::cells::{BF16, Cells, F16, F32};
use super::softmax::{bias, soften};
use super::words::{score_words, sixteen_bits, weigh_words};
use super::{AttentionTask, KvView, seeing, seen};
use crate::backend::cpu::rows::to_float;
use crate::backend::cpu::simd::{Lanes, Simd};
use crate::quant::DType;
use std::ops::Range;

/// KV rows between two steps of the softmax. A multiple of 16.
pub(super) const BLOCK: usize = 48;

/// Queries that share the elements in registers at most.
pub(super) const MAX_TILE: usize = 4;

/// Rows of a block, in the cache or converted.
#[derive(Clone, Copy)]
pub(super) struct BlockRows<'a> {
    /// How to read them.
    dtype: DType,
    data: &'a [u8],
    stride: usize,
    pub(super) n: usize,
    /// Bytes of a row that are read.
    size: usize,
}

impl BlockRows<'_> {
    /// The first row and the distance to the next.
    #[inline(always)]
    pub(super) fn pointer(&self) -> (*const u8, usize) {
        assert!(self.n > 0 && (self.n - 1) * self.stride + self.size <= self.data.len());
        (self.data.as_ptr(), self.stride)
    }
}

/// Whether the rows are read in place.
#[inline(always)]
fn in_place(kv: &KvView<'_>) -> bool {
    match kv.dtype {
        DType::F16 | DType::BF16 => kv.d.is_multiple_of(8),
        DType::F32 => {
            let bits = kv.data.as_ptr().addr() | kv.head_stride | kv.row_stride;
            kv.d.is_multiple_of(8) && bits.is_multiple_of(4)
        }
        dtype => dtype == DType::Q8_0 && kv.d.is_multiple_of(32),
    }
}

/// Rows `block` of a head, through `buffer` (`block.len()` rows of `stride` elements) if they must be converted.
#[inline(always)]
fn rows_of<'a, S: Simd>(
    s: S,
    kv: &KvView<'a>,
    head: usize,
    block: &Range<usize>,
    buffer: &'a mut [f32],
    stride: usize,
) -> BlockRows<'a> {
    if in_place(kv) {
        let data = &kv.data[head * kv.head_stride + block.start * kv.row_stride..];
        return BlockRows {
            dtype: kv.dtype,
            data,
            stride: kv.row_stride,
            n: block.len(),
            size: kv.dtype.row_size(kv.d),
        };
    }
    for (row, out) in block.clone().zip(buffer.chunks_exact_mut(stride)) {
        let (out, pad) = out.split_at_mut(kv.d);
        to_float(s, kv.dtype, kv.row(head, row), out);
        pad.fill(0.0);
    }
    let data = bytemuck::cast_slice(buffer);
    BlockRows { dtype: DType::F32, data, stride: 4 * stride, n: block.len(), size: 4 * stride }
}

/// See [`AttentionTask`].
#[inline(always)]
pub fn run<S: Simd>(s: S, task: AttentionTask<'_>) {
    let AttentionTask { common: c, heads_kv, tokens, rows, q, out, sums, scratch } = task;
    let (d_k, d_v) = (c.k.d, c.v.d);
    let (k_stride, v_stride) = (d_k.next_multiple_of(8), d_v.next_multiple_of(8));
    // Queries of a KV head, and of all.
    let (n_q, n_all) = (tokens.len() * c.group, out.len());
    let block_of = |kv: &KvView<'_>, stride: usize| if in_place(kv) { 0 } else { BLOCK * stride };
    let floats = [n_all * k_stride, n_all * v_stride, n_q * BLOCK, block_of(&c.k, k_stride), block_of(&c.v, v_stride)];
    let [f0, f1, f2, f3, f4] = floats.map(|n| 4 * n);
    let integer = c.k.dtype == DType::Q8_0 && in_place(&c.k);
    let n_words = if integer { n_all * d_k } else { 0 };
    let [queries, totals, scores, k_buffer, v_buffer, words, units] =
        scratch.split([f0, f1, f2, f3, f4, 2 * n_words, 4 * n_all]);
    let [queries, totals, scores, k_buffer, v_buffer, units] =
        [queries, totals, scores, k_buffer, v_buffer, units].map(bytemuck::cast_slice_mut::<u8, f32>);
    let words: &mut [i16] = bytemuck::cast_slice_mut(words);
    // Where query `i` of a head lies in the task; here the queries of a head follow each other.
    let place = |head: usize, i: usize| (i / c.group * heads_kv.len() + head) * c.group + i % c.group;
    totals.fill(0.0);
    for (j, to) in queries.chunks_exact_mut(k_stride.max(1)).enumerate() {
        to[d_k..].fill(0.0);
        for (from, to) in q[place(j / n_q, j % n_q) * d_k..][..d_k].iter().zip(&mut to[..d_k]) {
            *to = from * c.q_scale();
        }
    }
    if integer {
        for ((q, w), unit) in queries.chunks_exact(d_k).zip(words.chunks_exact_mut(d_k)).zip(units.iter_mut()) {
            *unit = sixteen_bits(q, w);
        }
    }
    let seen = seen(c.mask, tokens.clone(), rows);
    for start in seen.clone().step_by(BLOCK) {
        let block = start..seen.end.min(start + BLOCK);
        if seeing(c.mask, tokens.clone(), block.clone()).is_empty() {
            continue;
        }
        for (head, head_kv) in heads_kv.clone().enumerate() {
            let rows = rows_of(s, &c.k, head_kv, &block, k_buffer, k_stride);
            let mut from = 0;
            while from < n_q {
                let tile = tile(n_q - from);
                let first = head * n_q + from;
                let ahead = if from == 0 { Ahead::new(&c.k, &c.v, head_kv, &block) } else { Ahead::NONE };
                let scores = &mut scores[from * BLOCK..][..tile * BLOCK];
                if integer {
                    score_words(
                        s,
                        rows,
                        &words[first * d_k..][..tile * d_k],
                        d_k,
                        &units[first..][..tile],
                        scores,
                        ahead,
                    );
                } else {
                    score_floats(s, rows, &queries[first * k_stride..][..tile * k_stride], k_stride, scores, ahead);
                }
                from += tile;
            }
            for (i, scores) in scores.chunks_exact_mut(BLOCK).enumerate() {
                bias(s, &c, head_kv * c.group + i % c.group, tokens.start + i / c.group, &block, scores);
                let rescale = soften(s, scores, &mut out[place(head, i)]);
                if rescale != 1.0 {
                    for total in &mut totals[(head * n_q + i) * v_stride..][..v_stride] {
                        *total *= rescale;
                    }
                }
            }
            let rows = rows_of(s, &c.v, head_kv, &block, v_buffer, v_stride);
            let mut from = 0;
            while from < n_q {
                let tile = tile(n_q - from);
                let totals = &mut totals[(head * n_q + from) * v_stride..][..tile * v_stride];
                weigh(s, rows, &scores[from * BLOCK..][..tile * BLOCK], v_stride, totals);
                from += tile;
            }
        }
    }
    for (j, from) in totals.chunks_exact(v_stride.max(1)).enumerate() {
        sums[place(j / n_q, j % n_q) * d_v..][..d_v].copy_from_slice(&from[..d_v]);
    }
    out.iter_mut().for_each(|state| state.natural());
}

/// How many of `n` queries to take together.
#[inline(always)]
fn tile(n: usize) -> usize {
    match n {
        0..=4 => n,
        5 => 3,
        _ if n.is_multiple_of(3) => 3,
        _ => MAX_TILE,
    }
}

/// Scores of up to [`MAX_TILE`] queries (`stride` elements each) with all rows: `scores[query][row]`, with arbitrary values
/// beyond the last row.
#[inline(always)]
fn score_floats<S: Simd>(s: S, rows: BlockRows<'_>, q: &[f32], stride: usize, scores: &mut [f32], ahead: Ahead) {
    match rows.dtype {
        DType::F16 => score_cells::<S, F16>(s, rows, q, stride, scores, ahead),
        DType::BF16 => score_cells::<S, BF16>(s, rows, q, stride, scores, ahead),
        _ => score_cells::<S, F32>(s, rows, q, stride, scores, ahead),
    }
}

#[inline(always)]
fn score_cells<S: Simd, C: Cells>(
    s: S,
    rows: BlockRows<'_>,
    q: &[f32],
    stride: usize,
    scores: &mut [f32],
    ahead: Ahead,
) {
    match q.len() / stride.max(1) {
        1 => score_tile::<S, C, 1, 8>(s, rows, q, stride, scores, ahead),
        2 => score_tile::<S, C, 2, 4>(s, rows, q, stride, scores, ahead),
        3 => score_tile::<S, C, 3, 4>(s, rows, q, stride, scores, ahead),
        4 => score_tile::<S, C, 4, 2>(s, rows, q, stride, scores, ahead),
        _ => {}
    }
}

#[inline(always)]
fn score_tile<S: Simd, C: Cells, const Q: usize, const R: usize>(
    s: S,
    rows: BlockRows<'_>,
    q: &[f32],
    stride: usize,
    scores: &mut [f32],
    ahead: Ahead,
) {
    let l = s.lanes();
    let (base, row_stride) = rows.pointer();
    assert!(q.len() == Q * stride && scores.len() == Q * BLOCK && rows.n <= BLOCK && stride.is_multiple_of(8));
    for eight in (0..rows.n).step_by(8) {
        let mut of_eight = [[l.zero(); 8]; Q];
        for part in (0..8).step_by(R) {
            let at = rows_at::<S, R>(s, base, row_stride, eight + part, rows.n, ahead);
            let mut dots = [[l.zero(); R]; Q];
            for i in 0..stride / 8 {
                for r in 0..R {
                    // SAFETY: `pointer` checked that all rows lie in their data, with `stride` elements each.
                    let k = unsafe { C::eight(l, at[r], i) };
                    for (a, dots) in dots.iter_mut().enumerate() {
                        // SAFETY: the assertion above: each of the Q queries has `stride` elements.
                        let q = l.load_f32(unsafe { &*q.as_ptr().add(a * stride + 8 * i).cast() });
                        dots[r] = l.fma(k, q, dots[r]);
                    }
                }
            }
            for (of_eight, dots) in of_eight.iter_mut().zip(dots) {
                of_eight[part..part + R].copy_from_slice(&dots);
            }
        }
        put_scores::<S, Q>(s, of_eight, &[1.0; Q], eight, scores);
    }
}

/// Rows `first .. first + R`, of which those beyond `n` are the last again; asks for what is read later.
#[inline(always)]
pub(super) fn rows_at<S: Simd, const R: usize>(
    s: S,
    base: *const u8,
    stride: usize,
    first: usize,
    n: usize,
    ahead: Ahead,
) -> [*const u8; R] {
    let mut at = [base; R];
    for (r, at) in at.iter_mut().enumerate() {
        *at = base.wrapping_add((first + r).min(n - 1) * stride);
        ahead.row(s.lanes(), first + r);
    }
    at
}

/// Adds up lanes, and writes the scores of rows `first .. first + 8`.
#[inline(always)]
pub(super) fn put_scores<S: Simd, const Q: usize>(
    s: S,
    dots: [[<S::Lanes as Lanes>::F; 8]; Q],
    units: &[f32; Q],
    first: usize,
    scores: &mut [f32],
) {
    for (a, (dots, unit)) in dots.into_iter().zip(units).enumerate() {
        let sums = s.lanes().sum8(dots);
        for (score, sum) in scores[a * BLOCK + first..][..8].iter_mut().zip(sums) {
            *score = sum * unit;
        }
    }
}

/// What will be read after the scores of a block: the values of the block and the keys of the next. Asked for row by row
/// while the scores are computed.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// First rows, and bytes from row to row.
    rows: [(*const u8, usize); 2],
    /// Bytes of a row; 0: nothing is asked for.
    sizes: [usize; 2],
}

impl Ahead {
    /// Nothing.
    const NONE: Ahead = Ahead { rows: [(std::ptr::null(), 0); 2], sizes: [0; 2] };

    #[inline(always)]
    fn new(k: &KvView<'_>, v: &KvView<'_>, head: usize, block: &Range<usize>) -> Ahead {
        let first = |kv: &KvView<'_>, row: usize| {
            (kv.data.as_ptr().wrapping_add(head * kv.head_stride + row * kv.row_stride), kv.row_stride)
        };
        Ahead {
            rows: [first(k, block.end), first(v, block.start)],
            sizes: [k.dtype.row_size(k.d), v.dtype.row_size(v.d)],
        }
    }

    #[inline(always)]
    pub(super) fn row<L: Lanes>(&self, l: L, i: usize) {
        for ((first, stride), size) in self.rows.into_iter().zip(self.sizes) {
            if size == 0 {
                return;
            }
            let row = first.wrapping_add(i * stride);
            l.prefetch(row);
            l.prefetch(row.wrapping_add(size - 1));
            let mut line = 64;
            while line + 64 < size {
                l.prefetch(row.wrapping_add(line));
                line += 64;
            }
        }
    }
}

/// Adds all rows to the totals of up to [`MAX_TILE`] queries (`stride` elements each) with the weights `[query][row]`.
#[inline(always)]
fn weigh<S: Simd>(s: S, rows: BlockRows<'_>, weights: &[f32], stride: usize, totals: &mut [f32]) {
    match rows.dtype {
        DType::F16 => weigh_cells::<S, F16>(s, rows, weights, stride, totals),
        DType::BF16 => weigh_cells::<S, BF16>(s, rows, weights, stride, totals),
        DType::Q8_0 => weigh_words(s, rows, weights, stride, totals),
        _ => weigh_cells::<S, F32>(s, rows, weights, stride, totals),
    }
}

#[inline(always)]
fn weigh_cells<S: Simd, C: Cells>(s: S, rows: BlockRows<'_>, weights: &[f32], stride: usize, totals: &mut [f32]) {
    match weights.len() / BLOCK {
        1 => weigh_tile::<S, C, 1, 4, 2>(s, rows, weights, stride, totals),
        2 => weigh_tile::<S, C, 2, 4, 1>(s, rows, weights, stride, totals),
        3 => weigh_tile::<S, C, 3, 2, 2>(s, rows, weights, stride, totals),
        4 => weigh_tile::<S, C, 4, 2, 1>(s, rows, weights, stride, totals),
        _ => {}
    }
}

/// In columns of `N` eights, `U` rows at a time with sums of their own: enough sums to hide the latency of an addition, few
/// enough that they, the values and a weight fit into 16 registers.
#[inline(always)]
fn weigh_tile<S: Simd, C: Cells, const Q: usize, const N: usize, const U: usize>(
    s: S,
    rows: BlockRows<'_>,
    weights: &[f32],
    stride: usize,
    totals: &mut [f32],
) {
    let eights = stride / 8;
    let whole = eights / N * N;
    for first in (0..whole).step_by(N) {
        weigh_columns::<S, C, Q, N, U>(s, rows, weights, first, stride, totals);
    }
    for first in whole..eights {
        weigh_columns::<S, C, Q, 1, U>(s, rows, weights, first, stride, totals);
    }
}

/// Eights `first .. first + N` of all rows.
#[inline(always)]
fn weigh_columns<S: Simd, C: Cells, const Q: usize, const N: usize, const U: usize>(
    s: S,
    rows: BlockRows<'_>,
    weights: &[f32],
    first: usize,
    stride: usize,
    totals: &mut [f32],
) {
    let l = s.lanes();
    rows.pointer();
    assert!(weights.len() == Q * BLOCK && rows.n <= BLOCK && totals.len() == Q * stride && 8 * (first + N) <= stride);
    let mut sums = [[[l.zero(); N]; Q]; U];
    let whole = rows.n / U * U;
    for r in (0..whole).step_by(U) {
        for (u, sums) in sums.iter_mut().enumerate() {
            add_row::<S, C, Q, N>(s, rows, r + u, weights, first, sums);
        }
    }
    for r in whole..rows.n {
        add_row::<S, C, Q, N>(s, rows, r, weights, first, &mut sums[0]);
    }
    for a in 0..Q {
        for j in 0..N {
            // SAFETY: the assertion above: these columns lie in the totals.
            let total: &mut [f32; 8] = unsafe { &mut *totals.as_mut_ptr().add(a * stride + 8 * (first + j)).cast() };
            let mut sum = l.load_f32(total);
            for sums in &sums {
                sum = l.fma(sums[a][j], l.splat_f32(1.0), sum);
            }
            l.store_f32(total, sum);
        }
    }
}

/// Adds one row; `weigh_columns` checked that it and the columns are there.
#[inline(always)]
fn add_row<S: Simd, C: Cells, const Q: usize, const N: usize>(
    s: S,
    rows: BlockRows<'_>,
    r: usize,
    weights: &[f32],
    first: usize,
    sums: &mut [[<S::Lanes as Lanes>::F; N]; Q],
) {
    let l = s.lanes();
    let row = rows.data.as_ptr().wrapping_add(r * rows.stride);
    let mut values = [l.zero(); N];
    for (j, value) in values.iter_mut().enumerate() {
        // SAFETY: the caller checked that all rows lie in their data, with these columns.
        *value = unsafe { C::eight(l, row, first + j) };
    }
    for (a, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller checked that there are Q times BLOCK weights, and `r < rows.n <= BLOCK`.
        let weight = l.splat_f32(unsafe { *weights.get_unchecked(a * BLOCK + r) });
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = l.fma(value, weight, *sum);
        }
    }
}
