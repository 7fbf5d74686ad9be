//! Products of weights of any type with f32 activations: f32, f16 and bf16 weights, and the formats without integer
//! kernels. Rows are converted to f32 piece by piece in cache; many tokens sweep over panels of 32 converted rows.

use super::kernels::{Isa, Kernel};
use super::product::{Sink, Weights};
use super::rows::to_float;
use super::scratch::Scratch;
use super::simd::{Lanes, PANEL_ROWS, PanelF32, Rows, Simd};
use crate::quant::DType;
use std::ops::Range;

/// Tokens from which a panel pays.
const PANEL_TOKENS: usize = 4;

/// Elements of a row that are converted at a time: 32 such pieces stay in the second-level cache. A multiple of every
/// format's block.
const PIECE: usize = 1024;

/// Rows `rows` of `w` times every token.
pub struct FloatProduct<'a> {
    /// The weights.
    pub w: Weights<'a>,
    /// Which rows.
    pub rows: Range<usize>,
    /// The tokens, of `w.k` elements.
    pub x: Rows<'a, f32>,
    /// Memory for a panel.
    pub scratch: &'a mut Scratch,
    /// Gets the results.
    pub sink: &'a mut dyn Sink,
}

impl FloatProduct<'_> {
    /// Computes with an instruction set. The one place that enters this kernel: every other one would be compiled anew, with
    /// all its formats and instruction sets.
    #[inline(never)]
    pub fn compute(self, isa: Isa) {
        isa.run(self);
    }
}

impl Kernel for FloatProduct<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert_eq!(self.x.width(), self.w.k);
        assert!(self.rows.end <= self.w.m);
        match (self.x.n(), self.w.dtype) {
            (PANEL_TOKENS.., _) => self.panels(s),
            (_, DType::F32) => self.in_place::<S, F32>(s),
            (_, DType::F16) => self.in_place::<S, F16>(s),
            (_, DType::BF16) => self.in_place::<S, BF16>(s),
            _ => self.row_by_row(s),
        }
    }
}

/// A type of numbers that registers are read from directly.
trait Number {
    /// Bytes.
    const SIZE: usize;

    /// The first eight numbers of `p`; panics if there are fewer.
    fn load<L: Lanes>(l: L, p: &[u8]) -> L::F;

    /// The first number of `p`.
    fn one(p: &[u8]) -> f32;
}

struct F32;
struct F16;
struct BF16;

const EIGHT: &str = "callers have eight numbers";
const ONE: &str = "callers have a number";

impl Number for F32 {
    const SIZE: usize = 4;

    #[inline(always)]
    fn load<L: Lanes>(l: L, p: &[u8]) -> L::F {
        // Bytes, since a file's alignment may be lower than that of f32.
        let mut eight = [0.0f32; 8];
        bytemuck::bytes_of_mut(&mut eight).copy_from_slice(p.first_chunk::<32>().expect(EIGHT));
        l.load_f32(&eight)
    }

    #[inline(always)]
    fn one(p: &[u8]) -> f32 {
        f32::from_le_bytes(*p.first_chunk().expect(ONE))
    }
}

impl Number for F16 {
    const SIZE: usize = 2;

    #[inline(always)]
    fn load<L: Lanes>(l: L, p: &[u8]) -> L::F {
        l.load_f16(p.first_chunk().expect(EIGHT))
    }

    #[inline(always)]
    fn one(p: &[u8]) -> f32 {
        half::f16::from_le_bytes(*p.first_chunk().expect(ONE)).to_f32()
    }
}

impl Number for BF16 {
    const SIZE: usize = 2;

    #[inline(always)]
    fn load<L: Lanes>(l: L, p: &[u8]) -> L::F {
        l.load_bf16(p.first_chunk().expect(EIGHT))
    }

    #[inline(always)]
    fn one(p: &[u8]) -> f32 {
        half::bf16::from_le_bytes(*p.first_chunk().expect(ONE)).to_f32()
    }
}

/// Rows whose results are handed on together.
const ROWS: usize = 8;

/// Vectors of eight elements under way for each token, to have enough sums under way in one row.
const SUMS: usize = 4;

/// How many bytes ahead weights are fetched: rows follow one another, so what is ahead of a row's end is the next row.
const AHEAD: usize = 3072;

impl FloatProduct<'_> {
    #[inline(always)]
    fn in_place<S: Simd, N: Number>(self, s: S) {
        let Self { w, rows, x, sink, .. } = self;
        let mut from = 0;
        while from < x.n() {
            from += match x.n() - from {
                1 => few::<S, N, 1>(s, w, rows.clone(), x, from, sink),
                _ => few::<S, N, 2>(s, w, rows.clone(), x, from, sink),
            };
        }
    }

    #[inline(always)]
    fn row_by_row<S: Simd>(self, s: S) {
        let Self { w, rows, x, scratch, sink } = self;
        let [piece] = scratch.split([PIECE * 4]);
        let piece: &mut [f32] = bytemuck::cast_slice_mut(piece);
        for row in rows {
            let mut sums = [0.0; PANEL_TOKENS];
            for from in (0..w.k).step_by(PIECE) {
                let part = from..w.k.min(from + PIECE);
                let piece = &mut piece[..part.len()];
                to_float(s, w.dtype, part_of_row(w, row, &part), piece);
                for (t, sum) in sums[..x.n()].iter_mut().enumerate() {
                    *sum += dot(s, piece, &x.row(t)[part.clone()]);
                }
            }
            for (t, sum) in sums[..x.n()].iter().enumerate() {
                sink.put(t, row, &[*sum]);
            }
        }
    }

    #[inline(always)]
    fn panels<S: Simd>(self, s: S) {
        let Self { w, rows, x, scratch, sink } = self;
        let depth = w.k.min(PIECE).next_multiple_of(8);
        let pieces = w.k.div_ceil(PIECE).max(1);
        let [total, panel, eight] = scratch.split([x.n() * PANEL_ROWS * 4, depth * PANEL_ROWS * 4, 8 * depth * 4]);
        let total: &mut [f32] = bytemuck::cast_slice_mut(total);
        let panel: &mut [f32] = bytemuck::cast_slice_mut(panel);
        let eight: &mut [f32] = bytemuck::cast_slice_mut(eight);
        for row in rows.clone().step_by(PANEL_ROWS) {
            let n_rows = PANEL_ROWS.min(rows.end - row);
            for piece in 0..pieces {
                let part = piece * PIECE..w.k.min((piece + 1) * PIECE);
                for group in 0..PANEL_ROWS / 8 {
                    for (r, out) in eight.chunks_exact_mut(depth).enumerate() {
                        // Absent rows repeat the last one.
                        let r = (row + 8 * group + r).min(rows.end - 1);
                        to_float(s, w.dtype, part_of_row(w, r, &part), &mut out[..part.len()]);
                    }
                    transpose(s, eight, depth, part.len(), &mut panel[8 * group..], PANEL_ROWS);
                }
                let view = PanelF32 { w: panel, stride: PANEL_ROWS, k: part.len() };
                s.sweep_f32(view, x.columns(part), &mut |t, sums| {
                    let total = &mut total[t * PANEL_ROWS..][..PANEL_ROWS];
                    for (total, sum) in total.iter_mut().zip(sums) {
                        *total = if piece == 0 { *sum } else { *total + *sum };
                    }
                    if piece + 1 == pieces {
                        sink.put(t, row, &total[..n_rows]);
                    }
                });
            }
        }
    }
}

/// `T` tokens; returns `T`.
#[inline(always)]
fn few<S: Simd, N: Number, const T: usize>(
    s: S,
    w: Weights<'_>,
    rows: Range<usize>,
    x: Rows<'_, f32>,
    from: usize,
    sink: &mut dyn Sink,
) -> usize {
    let l = s.lanes();
    let k = w.k;
    let mut tokens: [&[f32]; T] = [&[]; T];
    for (t, token) in tokens.iter_mut().enumerate() {
        *token = &x.row(from + t)[..k];
    }
    let mut out = [[0.0; ROWS]; T];
    for row in rows.clone() {
        let bytes = &w.row(row)[..k * N::SIZE];
        let mut sums = [[l.zero(); SUMS]; T];
        let whole = k / (8 * SUMS) * (8 * SUMS);
        for at in (0..whole).step_by(8 * SUMS) {
            for line in (0..8 * SUMS * N::SIZE).step_by(64) {
                l.prefetch(bytes.as_ptr().wrapping_add(at * N::SIZE + AHEAD + line));
            }
            for i in 0..SUMS {
                let at = at + 8 * i;
                let w = N::load(l, &bytes[at * N::SIZE..]);
                for (token, sums) in tokens.iter().zip(&mut sums) {
                    let x = token[at..].first_chunk().expect(EIGHT);
                    sums[i] = l.fma(w, l.load_f32(x), sums[i]);
                }
            }
        }
        let r = (row - rows.start) % ROWS;
        for ((token, [a, b, c, d]), out) in tokens.iter().zip(sums).zip(&mut out) {
            out[r] = l.sum(l.add(l.add(a, b), l.add(c, d)));
            for at in whole..k {
                out[r] += N::one(&bytes[at * N::SIZE..]) * token[at];
            }
        }
        if r + 1 == ROWS || row + 1 == rows.end {
            for (t, out) in out.iter().enumerate() {
                sink.put(from + t, row - r, &out[..=r]);
            }
        }
    }
    T
}

/// The blocks of elements `part` of a row.
#[inline(always)]
fn part_of_row<'a>(w: Weights<'a>, row: usize, part: &Range<usize>) -> &'a [u8] {
    &w.row(row)[w.dtype.row_size(part.start)..w.dtype.row_size(part.end)]
}

/// Eight rows of `n` elements, `stride` apart, become `n` rows of eight, `out_stride` apart.
#[inline(always)]
pub fn transpose<S: Simd>(s: S, rows: &[f32], stride: usize, n: usize, out: &mut [f32], out_stride: usize) {
    let l = s.lanes();
    let whole = n / 8 * 8;
    for k in (0..whole).step_by(8) {
        let mut bytes = [l.splat(0); 8];
        for (r, bytes) in bytes.iter_mut().enumerate() {
            let eight: &[f32; 8] = rows[r * stride + k..].first_chunk().expect("eight elements of a row");
            *bytes = l.load(bytemuck::cast_ref(eight));
        }
        let columns = l.transpose(bytes);
        for (i, column) in columns.into_iter().enumerate() {
            let eight: &mut [f32; 8] = out[(k + i) * out_stride..].first_chunk_mut().expect("eight rows");
            l.store(bytemuck::cast_mut(eight), column);
        }
    }
    for k in whole..n {
        for r in 0..8 {
            out[k * out_stride + r] = rows[r * stride + k];
        }
    }
}

/// Dot product of two rows of the same length.
#[inline(always)]
pub fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let l = s.lanes();
    assert_eq!(a.len(), b.len());
    let mut sums = [l.zero(); 4];
    let (a32, a_rest) = a.as_chunks::<32>();
    let (b32, b_rest) = b.as_chunks::<32>();
    for (a, b) in a32.iter().zip(b32) {
        for ((sum, a), b) in sums.iter_mut().zip(a.as_chunks::<8>().0).zip(b.as_chunks::<8>().0) {
            *sum = l.fma(l.load_f32(a), l.load_f32(b), *sum);
        }
    }
    let (a8, a_rest) = a_rest.as_chunks::<8>();
    let (b8, b_rest) = b_rest.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        sums[0] = l.fma(l.load_f32(a), l.load_f32(b), sums[0]);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    (l.sum(sums[0]) + l.sum(sums[1])) + (l.sum(sums[2]) + l.sum(sums[3])) + rest
}
