//! Products of quantized weights with quantized activations. Few tokens read the blocks in place, row by row; more tokens
//! sweep over panels of 32 rows that are unpacked once into cache.

mod panels;

use super::act::{X_BLOCK, XBlock, x_blocks};
use super::formats::{Format, FormatVisitor, ScaleVectors, Zero, with_format};
use super::kernels::{Isa, Kernel};
use super::scratch::Scratch;
use super::simd::{BytesOf, Lanes, PANEL_ROWS, Rows, Simd};
use crate::quant::DType;
use panels::panels;
use std::ops::Range;

/// Tokens from which unpacking a panel pays; below, the rows are read in place.
pub const PANEL_TOKENS: usize = 9;

/// A matrix as it lies in a file.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// Type of the elements.
    pub dtype: DType,
    /// The rows one after the other, whole blocks each.
    pub data: &'a [u8],
    /// Elements per row.
    pub k: usize,
    /// Number of rows.
    pub m: usize,
}

impl<'a> Weights<'a> {
    /// Bytes of a row.
    pub fn row_size(&self) -> usize {
        self.dtype.row_size(self.k)
    }

    /// Bytes of row `r < m`.
    pub fn row(&self, r: usize) -> &'a [u8] {
        &self.data[r * self.row_size()..][..self.row_size()]
    }
}

/// Takes the results of a product.
pub trait Sink {
    /// `values` are the products of `token` with the rows from `row` on. Called once for each product.
    fn put(&mut self, token: usize, row: usize, values: &[f32]);
}

/// Rows `rows` of `w` times every token.
pub struct Product<'a> {
    /// The weights; a type with integer kernels.
    pub w: Weights<'a>,
    /// Which rows.
    pub rows: Range<usize>,
    /// The tokens, [`x_blocks`] of `w.k` blocks each.
    pub x: Rows<'a, XBlock>,
    /// Memory for a panel.
    pub scratch: &'a mut Scratch,
    /// Gets the results.
    pub sink: &'a mut dyn Sink,
}

impl Product<'_> {
    /// Computes with an instruction set. Each format and number of tokens is entered by itself: one function with all of them
    /// would keep the compiler busy for minutes, once for each place that calls it.
    #[inline(never)]
    pub fn compute(self, isa: Isa) {
        assert_eq!(self.x.width(), x_blocks(self.w.k));
        assert!(self.w.k.is_multiple_of(32));
        assert!(self.rows.end <= self.w.m);
        let dtype = self.w.dtype;
        with_format(dtype, Compute { isa, product: self }).expect("callers ask has_integer_kernels");
    }
}

struct Compute<'a> {
    isa: Isa,
    product: Product<'a>,
}

impl FormatVisitor for Compute<'_> {
    type Out = ();

    fn visit<F: Format>(self) {
        let Compute { isa, product: Product { w, rows, x, scratch, sink } } = self;
        let blocks = crate::quant::blocks::<F>(w.data).expect("callers align weights");
        let w = Rows::new(blocks, w.k / F::LEN, w.k / F::LEN, w.m);
        if x.n() >= PANEL_TOKENS {
            isa.run(Panels { w, rows, x, scratch, sink });
            return;
        }
        let mut from = 0;
        while from < x.n() {
            let (rest, rows, sink) = (x.rows(from..x.n()), rows.clone(), Moved { sink: &mut *sink, by: from });
            from += match rest.n() {
                1 => isa.run(InPlace::<F, 1> { w, rows, x: rest, sink }),
                2 => isa.run(InPlace::<F, 2> { w, rows, x: rest, sink }),
                3 | 4 => isa.run(InPlace::<F, 4> { w, rows, x: rest, sink }),
                5 | 6 => isa.run(InPlace::<F, 6> { w, rows, x: rest, sink }),
                _ => isa.run(InPlace::<F, 8> { w, rows, x: rest, sink }),
            };
        }
    }
}

/// Numbers tokens from `by` on.
struct Moved<'a> {
    sink: &'a mut dyn Sink,
    by: usize,
}

/// Rows times the first `T` tokens or fewer; returns how many.
struct InPlace<'a, F, const T: usize> {
    w: Rows<'a, F>,
    rows: Range<usize>,
    x: Rows<'a, XBlock>,
    sink: Moved<'a>,
}

impl<F: Format, const T: usize> Kernel for InPlace<'_, F, T> {
    type Out = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let Self { w, rows, x, sink } = self;
        if S::VECTORS { in_place::<S, F, T>(s, w, rows, x, sink) } else { in_place::<S, F, 1>(s, w, rows, x, sink) }
    }
}

/// Rows times all tokens, by panels.
struct Panels<'a, F> {
    w: Rows<'a, F>,
    rows: Range<usize>,
    x: Rows<'a, XBlock>,
    scratch: &'a mut Scratch,
    sink: &'a mut dyn Sink,
}

impl<F: Format> Kernel for Panels<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { w, rows, x, scratch, sink } = self;
        panels::<S, F>(s, w, rows, x, scratch, sink);
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
                acc[t] = accumulate::<S, F, T>(s, acc[t], weights, &x[t][b]);
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
            let from = &x[t][n_whole];
            let q = &from.q.as_chunks::<32>().0[g];
            let mut same = XBlock { d: [from.d[g]; 8], sum: [from.sum[g]; 8], ..XBlock::default() };
            if T == 1 {
                same.q.as_chunks_mut::<32>().0.fill(*q);
            } else {
                for (column, four) in same.columns.as_chunks_mut::<32>().0.iter_mut().zip(q.as_chunks::<4>().0) {
                    column.as_chunks_mut::<4>().0.fill(*four);
                }
            }
            let acc = accumulate::<S, F, T>(s, [l.zero(); 2], weights, &same);
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

/// Adds the products of eight groups of weights with a block of activations: with `acc[0]` those of the unpacked bytes, with
/// `acc[1]` what, times [`zero_factor`], is to be added to them.
#[inline(always)]
fn accumulate<S: Simd, F: Format, const T: usize>(
    s: S,
    acc: [<S::Lanes as Lanes>::F; 2],
    w: Groups<S>,
    x: &XBlock,
) -> [<S::Lanes as Lanes>::F; 2] {
    let l = s.lanes();
    let [mut sum, mut rest] = acc;
    let Groups { u, scales: ScaleVectors { d, m } } = w;
    if F::HALVES {
        // MAX cannot be passed on as it is: constants of a type parameter are no arguments of constants.
        let dots = match (T, F::MAX) {
            (1, 0..=15) => s.dot_halves::<15>(u, &x.q),
            (1, 16..) => s.dot_halves::<63>(u, &x.q),
            (_, 0..=15) => s.dot_column_halves::<15>(u, &x.columns),
            (_, 16..) => s.dot_column_halves::<63>(u, &x.columns),
        };
        let (fours, x_sum) = (x.d.as_chunks::<4>().0, x.halves.as_chunks::<8>().0);
        for v in 0..2 {
            let x_d = if T == 1 { l.load_twice(&fours[v]) } else { l.load_f32(&x.d) };
            sum = l.fma(l.to_f32(dots[v]), l.mul(d[v], x_d), sum);
            rest = l.fma(m[v], l.load_f32(&x_sum[v]), rest);
        }
    } else {
        let dots = match (T, F::MAX) {
            (1, 0..=15) => s.dot_groups::<15>(u, &x.q),
            (1, 16..=31) => s.dot_groups::<31>(u, &x.q),
            (1, 32..=127) => s.dot_groups::<127>(u, &x.q),
            (1, 128..) => s.dot_groups::<255>(u, &x.q),
            (_, 0..=15) => s.dot_columns::<15>(u, &x.columns),
            (_, 16..=31) => s.dot_columns::<31>(u, &x.columns),
            (_, 32..=127) => s.dot_columns::<127>(u, &x.columns),
            (_, 128..) => s.dot_columns::<255>(u, &x.columns),
        };
        sum = l.fma(l.to_f32(dots), l.mul(d[0], l.load_f32(&x.d)), sum);
        // 8-bit weights taken as signed ones need no correction.
        if !(S::WIDE_IS_SIGNED && F::MAX > 127) {
            rest = l.fma(m[0], l.load_f32(&x.sum), rest);
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

#[cfg(test)]
mod tests {
    use super::panels::PANEL_GROUPS;
    use super::*;
    use crate::backend::cpu::act::QuantizeRow;
    use crate::backend::cpu::kernels;
    use crate::backend::cpu::testing::{Random, dequantized, nmse};

    /// Integer sums are exact; what remains is the rounding of f32 sums, of which those of wide formats cancel in part.
    const TOLERANCE: f64 = 1e-8;

    const FORMATS: [DType; 13] = [
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::IQ4NL,
        DType::IQ4XS,
        DType::MXFP4,
    ];

    struct Store {
        m: usize,
        out: Vec<f32>,
    }

    impl Sink for Store {
        fn put(&mut self, token: usize, row: usize, values: &[f32]) {
            let out = &mut self.out[token * self.m + row..][..values.len()];
            assert!(out.iter().all(|v| v.is_nan()), "a product is put once");
            out.copy_from_slice(values);
        }
    }

    /// Largest relative error over the given numbers of tokens.
    fn worst(isa: kernels::Isa, dtype: DType, k: usize, m: usize, n: usize) -> f64 {
        let mut random = Random((k * 1000 + m * 10 + n) as u64);
        let data = random.blocks(dtype, k * m);
        let values = dequantized(dtype, &data);
        let width = x_blocks(k);
        let mut x = vec![XBlock::default(); n * width];
        for blocks in x.chunks_exact_mut(width) {
            isa.run(QuantizeRow { x: &random.floats(k), blocks });
        }
        let mut sink = Store { m, out: vec![f32::NAN; n * m] };
        Product {
            w: Weights { dtype, data: &data, k, m },
            rows: 0..m,
            x: Rows::new(&x, width, width, n),
            scratch: &mut Scratch::default(),
            sink: &mut sink,
        }
        .compute(isa);
        let expected: Vec<f64> = x
            .chunks_exact(width)
            .flat_map(|x| {
                values.chunks_exact(k).map(move |w| {
                    let x = x
                        .iter()
                        .flat_map(|b| b.q.iter().enumerate().map(|(i, q)| f64::from(*q) * f64::from(b.d[i / 32])));
                    w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()
                })
            })
            .collect();
        nmse(&expected, &sink.out)
    }

    #[test]
    fn products_match_exact_sums() {
        for isa in kernels::available() {
            for dtype in FORMATS {
                assert!(crate::backend::cpu::formats::has_integer_kernels(dtype));
                let len = dtype.block_size();
                for (blocks, m, n) in [
                    (1, 1, 1),
                    (3, 7, 1),
                    (18, 45, 1),
                    (2, 9, 2),
                    (9, 35, 2),
                    (5, 5, 3),
                    (17, 6, 4),
                    (3, 33, 5),
                    (2, 40, 7),
                    (19, 70, 15),
                ] {
                    let error = worst(isa, dtype, blocks * len, m, n);
                    assert!(error < TOLERANCE, "{} {dtype} {blocks} blocks x {m} x {n}: {error}", isa.name());
                }
            }
        }
    }

    #[test]
    fn long_rows_are_summed_in_pieces() {
        for isa in kernels::available() {
            for dtype in [DType::Q4_1, DType::Q6K] {
                let error = worst(isa, dtype, PANEL_GROUPS * 32 * 2 + 256, 3, 6);
                assert!(error < TOLERANCE, "{} {dtype}: {error}", isa.name());
            }
        }
    }
}
