//! Products with few tokens: the blocks are read where they lie, row by row.

use super::Sink;
use crate::backend::cpu::act::{X_BLOCK, XBlock};
use crate::backend::cpu::formats::{Format, ScaleVectors, Zero};
use crate::backend::cpu::kernels::Kernel;
use crate::backend::cpu::simd::{BytesOf, Lanes, PANEL_ROWS, Rows, Simd};
use std::ops::Range;

/// Numbers tokens from `by` on.
pub struct Moved<'a> {
    /// Gets the results.
    pub sink: &'a mut dyn Sink,
    /// Number of the first token.
    pub by: usize,
}

/// Rows times the first `T` tokens or fewer; returns how many.
pub struct InPlace<'a, F, const T: usize> {
    /// All rows.
    pub w: Rows<'a, F>,
    /// Which of them.
    pub rows: Range<usize>,
    /// The tokens.
    pub x: Rows<'a, XBlock>,
    /// Where the results go.
    pub sink: Moved<'a>,
}

impl<F: Format, const T: usize> Kernel for InPlace<'_, F, T> {
    type Out = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let Self { w, rows, x, sink } = self;
        if S::VECTORS { in_place::<S, F, T>(s, w, rows, x, sink) } else { in_place::<S, F, 1>(s, w, rows, x, sink) }
    }
}

const CACHE_LINE: usize = 64;
/// How far ahead rows are fetched. They are read one after the other, so that the next ones follow in memory.
const AHEAD: usize = 3072;
/// Rows whose sums are completed together.
const SUMS: usize = 8;

/// The first `T` tokens or fewer; returns how many.
#[inline(always)]
fn in_place<S: Simd, F: Format, const T: usize>(
    s: S,
    w: Rows<'_, F>,
    rows: Range<usize>,
    x: Rows<'_, XBlock>,
    sink: Moved<'_>,
) -> usize {
    let mut tokens: [&[XBlock]; T] = [&[]; T];
    let n_tokens = T.min(x.n());
    for (t, token) in tokens.iter_mut().enumerate() {
        // Absent tokens repeat the last one.
        *token = x.row(t.min(n_tokens - 1));
    }
    for first in rows.clone().step_by(PANEL_ROWS) {
        let n_rows = PANEL_ROWS.min(rows.end - first);
        let mut out = [[0.0; PANEL_ROWS]; T];
        for eight in (0..n_rows).step_by(SUMS) {
            let mut w8: [&[F]; SUMS] = [&[]; SUMS];
            for (r, w8) in w8.iter_mut().enumerate() {
                // Rows beyond the end repeat the last one.
                *w8 = w.row((first + eight + r).min(rows.end - 1));
            }
            let sums = dots::<S, F, T>(s, w8, SUMS.min(n_rows - eight), tokens);
            for t in 0..T {
                out[t][eight..eight + SUMS].copy_from_slice(&sums[t]);
            }
        }
        for (t, out) in out.iter().enumerate().take(n_tokens) {
            sink.sink.put(sink.by + t, first, &out[..n_rows]);
        }
    }
    n_tokens
}

/// Dot products of eight rows, of which only `n_rows` count, with `T` tokens. Loops instead of closures: those do not inherit
/// instructions.
#[inline(always)]
fn dots<S: Simd, F: Format, const T: usize>(
    s: S,
    w: [&[F]; SUMS],
    n_rows: usize,
    x: [&[XBlock]; T],
) -> [[f32; SUMS]; T] {
    let l = s.lanes();
    let per_block = X_BLOCK / F::LEN;
    let (n_whole, n_rest) = (w[0].len() / per_block, w[0].len() % per_block);
    let mut sums = [[l.zero(); SUMS]; T];
    for (r, w) in w.iter().enumerate().take(n_rows) {
        let mut acc = [[l.zero(); 2]; T];
        for b in 0..n_whole {
            let blocks = &w[b * per_block..][..per_block];
            for line in (0..size_of_val(blocks)).step_by(CACHE_LINE) {
                l.prefetch(blocks.as_ptr().cast::<u8>().wrapping_add(AHEAD + line));
            }
            let mut of_group = [&blocks[0]; 8];
            let mut u = [l.splat(0); 8];
            for (g, (u, of_group)) in u.iter_mut().zip(&mut of_group).enumerate() {
                *of_group = &blocks[g / F::GROUPS];
                *u = of_group.unpack(l, g % F::GROUPS);
            }
            let weights = eight_groups::<S, F, T>(s, u, F::scale_vectors(l, of_group));
            for t in 0..T {
                acc[t] = accumulate::<S, F, T>(s, acc[t], weights, all_groups::<S, F, T>(s, &x[t][b]));
            }
        }
        for t in 0..T {
            sums[t][r] = l.fma(acc[t][1], l.splat_f32(zero_factor::<F>()), acc[t][0]);
        }
    }
    let mut out = [[0.0; SUMS]; T];
    for t in 0..T {
        out[t] = l.sum8(sums[t]);
    }
    // What is left of blocks of 32: a group of each of the eight rows at once.
    for g in 0..n_rest {
        let at = n_whole * per_block + g;
        let mut blocks = [&w[0][at]; 8];
        let mut u = [l.splat(0); 8];
        for ((u, block), w) in u.iter_mut().zip(&mut blocks).zip(&w) {
            *block = &w[at];
            *u = block.unpack(l, 0);
        }
        let weights = eight_groups::<S, F, T>(s, u, F::scale_vectors(l, blocks));
        for t in 0..T {
            let x = one_group::<S, T>(s, &x[t][n_whole], g);
            let acc = accumulate::<S, F, T>(s, [l.zero(); 2], weights, x);
            let mut sums = [0.0; SUMS];
            l.store_f32(&mut sums, l.fma(acc[1], l.splat_f32(zero_factor::<F>()), acc[0]));
            for (out, sum) in out[t].iter_mut().zip(sums) {
                *out += sum;
            }
        }
    }
    out
}

/// Eight groups of weights as [`accumulate`] takes them.
#[derive(Clone, Copy)]
struct Groups<S: Simd> {
    u: [BytesOf<S>; 8],
    scales: ScaleVectors<<S::Lanes as Lanes>::F>,
}

/// For one token the groups stay as they are, and each of their sums is collected over the lanes. For more tokens the groups
/// become lanes once, and the sums come out as they are needed.
#[inline(always)]
fn eight_groups<S: Simd, F: Format, const T: usize>(
    s: S,
    u: [BytesOf<S>; 8],
    scales: ScaleVectors<<S::Lanes as Lanes>::F>,
) -> Groups<S> {
    let l = s.lanes();
    // What is not used costs nothing.
    let m = if F::ZERO == Zero::Minima { scales.m } else { scales.d };
    let scales = ScaleVectors { d: scales.d, m };
    if T == 1 {
        return Groups { u, scales };
    }
    let scales = if F::HALVES { ScaleVectors { d: l.halves_apart(scales.d), ..scales } } else { scales };
    Groups { u: l.transpose(u), scales }
}

/// Activations of eight groups as [`accumulate`] takes them: scales and sums of groups, or of halves of groups.
#[derive(Clone, Copy)]
struct Activations<S: Simd> {
    q: [BytesOf<S>; 8],
    d: [<S::Lanes as Lanes>::F; 2],
    sum: [<S::Lanes as Lanes>::F; 2],
}

/// All of a block.
#[inline(always)]
fn all_groups<S: Simd, F: Format, const T: usize>(s: S, x: &XBlock) -> Activations<S> {
    let l = s.lanes();
    let bytes = if T == 1 { &x.q } else { &x.columns };
    let mut q = [l.splat(0); 8];
    for (q, bytes) in q.iter_mut().zip(bytes.as_chunks::<32>().0) {
        *q = l.load(bytemuck::cast_ref(bytes));
    }
    if F::HALVES {
        let (fours, halves) = (x.d.as_chunks::<4>().0, x.halves.as_chunks::<8>().0);
        let d = if T == 1 { [l.load_twice(&fours[0]), l.load_twice(&fours[1])] } else { [l.load_f32(&x.d); 2] };
        Activations { q, d, sum: [l.load_f32(&halves[0]), l.load_f32(&halves[1])] }
    } else {
        Activations { q, d: [l.load_f32(&x.d); 2], sum: [l.load_f32(&x.sum); 2] }
    }
}

/// Group `g` of a block eight times, for the same group of eight rows.
#[inline(always)]
fn one_group<S: Simd, const T: usize>(s: S, x: &XBlock, g: usize) -> Activations<S> {
    let l = s.lanes();
    let bytes: &[u8; 32] = bytemuck::cast_ref(&x.q.as_chunks::<32>().0[g]);
    let mut q = [l.load(bytes); 8];
    if T > 1 {
        for (q, four) in q.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *q = l.splat4(four);
        }
    }
    Activations { q, d: [l.splat_f32(x.d[g]); 2], sum: [l.splat_f32(x.sum[g]); 2] }
}

/// Adds the products of eight groups of weights with eight of activations: with `acc[0]` those of the unpacked bytes, with
/// `acc[1]` what, times [`zero_factor`], is to be added to them.
#[inline(always)]
fn accumulate<S: Simd, F: Format, const T: usize>(
    s: S,
    acc: [<S::Lanes as Lanes>::F; 2],
    w: Groups<S>,
    x: Activations<S>,
) -> [<S::Lanes as Lanes>::F; 2] {
    let l = s.lanes();
    let [mut sum, mut rest] = acc;
    let Groups { u, scales: ScaleVectors { d, m } } = w;
    if F::HALVES {
        // MAX cannot be passed on as it is: constants of a type parameter are no arguments of constants.
        let dots = match (T, F::MAX) {
            (1, 0..=15) => s.dot_halves::<15>(u, x.q),
            (1, 16..) => s.dot_halves::<63>(u, x.q),
            (_, 0..=15) => s.dot_column_halves::<15>(u, x.q),
            (_, 16..) => s.dot_column_halves::<63>(u, x.q),
        };
        for v in 0..2 {
            sum = l.fma(l.to_f32(dots[v]), l.mul(d[v], x.d[v]), sum);
            rest = l.fma(m[v], x.sum[v], rest);
        }
    } else {
        let dots = match (T, F::MAX) {
            (1, 0..=15) => s.dot_groups::<15>(u, x.q),
            (1, 16..=31) => s.dot_groups::<31>(u, x.q),
            (1, 32..=127) => s.dot_groups::<127>(u, x.q),
            (1, 128..) => s.dot_groups::<255>(u, x.q),
            (_, 0..=15) => s.dot_columns::<15>(u, x.q),
            (_, 16..=31) => s.dot_columns::<31>(u, x.q),
            (_, 32..=127) => s.dot_columns::<127>(u, x.q),
            (_, 128..) => s.dot_columns::<255>(u, x.q),
        };
        sum = l.fma(l.to_f32(dots), l.mul(d[0], x.d[0]), sum);
        // 8-bit weights taken as signed ones need no correction.
        if !(S::WIDE_IS_SIGNED && F::MAX > 127) {
            rest = l.fma(m[0], x.sum[0], rest);
        }
    }
    [sum, rest]
}

/// By what the products of sums of activations are multiplied: minima are complete, offsets still missing.
#[inline(always)]
fn zero_factor<F: Format>() -> f32 {
    match F::ZERO {
        Zero::Minima => 1.0,
        Zero::Offset(offset) => -f32::from(offset),
    }
}
