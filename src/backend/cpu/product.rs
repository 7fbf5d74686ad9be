//! Products of quantized weights with quantized activations. Few tokens read the blocks in place, row by row; more tokens
//! sweep over panels of 32 rows that are unpacked once into cache.

use super::act::XBlock;
use super::formats::{Format, FormatVisitor, Scales, with_format};
use super::kernels::Kernel;
use super::scratch::Scratch;
use super::simd::{Lanes, PANEL_ROWS, PanelI8, Rows, Simd};
use crate::quant::DType;
use std::ops::Range;

/// Tokens from which unpacking a panel pays; below, the rows are read in place.
const PANEL_TOKENS: usize = 5;

/// Longest row of a panel in blocks of 32, so that the panel stays in the second-level cache; longer rows are summed up
/// in pieces. A multiple of every format's groups per block.
const PANEL_BLOCKS: usize = 128;

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
    /// The tokens, `w.k / 32` blocks each.
    pub x: Rows<'a, XBlock>,
    /// Memory for a panel.
    pub scratch: &'a mut Scratch,
    /// Gets the results.
    pub sink: &'a mut dyn Sink,
}

impl Kernel for Product<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert_eq!(self.x.width() * 32, self.w.k);
        assert!(self.rows.end <= self.w.m);
        let dtype = self.w.dtype;
        with_format(dtype, Run { s, product: self }).expect("callers ask has_integer_kernels");
    }
}

struct Run<'a, S: Simd> {
    s: S,
    product: Product<'a>,
}

impl<S: Simd> FormatVisitor for Run<'_, S> {
    type Out = ();

    #[inline(always)]
    fn visit<F: Format>(self) {
        let Product { w, rows, x, scratch, sink } = self.product;
        let blocks = crate::quant::blocks::<F>(w.data).expect("callers align weights");
        let blocks = Rows::new(blocks, w.k / F::LEN, w.k / F::LEN, w.m);
        if x.n() >= PANEL_TOKENS {
            panels::<S, F>(self.s, blocks, rows, x, scratch, sink);
            return;
        }
        // Combinations of rows and tokens whose sums fit the registers.
        let mut from = 0;
        while from < x.n() {
            from += match x.n() - from {
                1 => in_place::<S, F, 4, 1>(self.s, blocks, rows.clone(), x, from, sink),
                2 | 3 => in_place::<S, F, 2, 2>(self.s, blocks, rows.clone(), x, from, sink),
                _ => in_place::<S, F, 2, 4>(self.s, blocks, rows.clone(), x, from, sink),
            };
        }
    }
}

const CACHE_LINE: usize = 64;
/// Rows of at most as many bytes are fetched ahead a whole group of rows.
const MAX_SHORT_ROW: usize = 2048;
/// How far ahead longer rows are fetched, each in itself.
const LONG_ROW_AHEAD: usize = 1024;

/// Tokens `from..from + T`, `R` rows at once; returns `T`.
#[inline(always)]
fn in_place<S: Simd, F: Format, const R: usize, const T: usize>(
    s: S,
    w: Rows<'_, F>,
    rows: Range<usize>,
    x: Rows<'_, XBlock>,
    from: usize,
    sink: &mut dyn Sink,
) -> usize {
    let tokens: [&[XBlock]; T] = std::array::from_fn(|t| x.row(from + t));
    for row in rows.clone().step_by(R) {
        // Rows beyond the end repeat the last one.
        let sums = dots::<S, F, R, T>(s, std::array::from_fn(|r| w.row((row + r).min(rows.end - 1))), tokens);
        for (t, sums) in sums.iter().enumerate() {
            sink.put(from + t, row, &sums[..R.min(rows.end - row)]);
        }
    }
    T
}

/// Dot products of `R` rows with `T` tokens, by token. Loops instead of closures: those do not inherit instructions.
#[inline(always)]
fn dots<S: Simd, F: Format, const R: usize, const T: usize>(s: S, w: [&[F]; R], x: [&[XBlock]; T]) -> [[f32; R]; T] {
    let l = s.lanes();
    let n = w[0].len();
    for w in &w {
        assert_eq!(w.len(), n);
    }
    for x in &x {
        assert_eq!(x.len(), n * F::GROUPS);
    }
    // Rows are read side by side, each for a short way: too short for the processor to see a stream. What comes after them
    // in memory is what is read next.
    let row_size = std::mem::size_of_val(w[0]);
    let ahead = if row_size <= MAX_SHORT_ROW { R * row_size } else { LONG_ROW_AHEAD };
    let use_minima = !(S::WIDE_IS_SIGNED && F::MAX > 127);
    let mut sums = [[l.zero(); R]; T];
    let mut minima = [[0.0f32; R]; T];
    for i in 0..n {
        let mut scales = [Scales::ZERO; R];
        for (scales, w) in scales.iter_mut().zip(&w) {
            for line in (0..size_of::<F>()).step_by(CACHE_LINE) {
                l.prefetch((&raw const w[i]).cast::<u8>().wrapping_add(ahead + line));
            }
            *scales = w[i].scales(l);
        }
        for g in 0..F::GROUPS {
            for r in 0..R {
                let u = w[r][i].unpack(l, g);
                for t in 0..T {
                    let x = &x[t][i * F::GROUPS + g];
                    // MAX cannot be passed on as it is: constants of a type parameter are no arguments of constants.
                    let dot = if F::MAX > 127 { s.dot::<255>(u, &x.q) } else { s.dot::<127>(u, &x.q) };
                    let Scales2 { d, m } = Scales2::of::<F>(&scales[r], g);
                    if F::HALVES {
                        sums[t][r] = l.mul_add_halves(sums[t][r], dot, [d[0] * x.d, d[1] * x.d]);
                        minima[t][r] += m[0] * x.s[0] + m[1] * x.s[1];
                    } else {
                        sums[t][r] = l.mul_add(sums[t][r], dot, d[0] * x.d);
                        minima[t][r] += m[0] * x.sum;
                    }
                }
            }
        }
    }
    for t in 0..T {
        for r in 0..R {
            let sum = l.sum(sums[t][r]);
            minima[t][r] = if use_minima { minima[t][r] + sum } else { sum };
        }
    }
    minima
}

/// The one or two scales of a group of 32.
struct Scales2 {
    d: [f32; 2],
    m: [f32; 2],
}

impl Scales2 {
    #[inline(always)]
    fn of<F: Format>(scales: &Scales, group: usize) -> Self {
        if F::HALVES {
            let i = 2 * group;
            Self { d: [scales.d[i], scales.d[i + 1]], m: [scales.m[i], scales.m[i + 1]] }
        } else {
            Self { d: [scales.d[group]; 2], m: [scales.m[group]; 2] }
        }
    }
}

/// Panels of 32 rows, each swept by all tokens.
#[inline(always)]
fn panels<S: Simd, F: Format>(
    s: S,
    w: Rows<'_, F>,
    rows: Range<usize>,
    x: Rows<'_, XBlock>,
    scratch: &mut Scratch,
    sink: &mut dyn Sink,
) {
    let n_blocks = x.width();
    let pieces = n_blocks.div_ceil(PANEL_BLOCKS).max(1);
    let mut row = rows.start;
    while row < rows.end {
        let n_rows = PANEL_ROWS.min(rows.end - row);
        for piece in 0..pieces {
            let from = piece * PANEL_BLOCKS;
            let part = from..n_blocks.min(from + PANEL_BLOCKS);
            let x = x.columns(part.clone());
            // The sums come first, so that they stay where they are when the last piece is shorter.
            let sums_size = if pieces > 1 { x.n() * PANEL_ROWS * 4 } else { 0 };
            let [partial, bytes] = scratch.split([sums_size, panel_bytes::<F>(part.len())]);
            let panel = expand::<S, F>(s, w, row..row + n_rows, part.start / F::GROUPS..part.end / F::GROUPS, bytes);
            let partial: &mut [f32] = bytemuck::cast_slice_mut(partial);
            let last = piece + 1 == pieces;
            let mut emit = |t: usize, sums: &[f32; PANEL_ROWS]| {
                if pieces == 1 {
                    sink.put(t, row, &sums[..n_rows]);
                    return;
                }
                let total = &mut partial[t * PANEL_ROWS..][..PANEL_ROWS];
                for (total, sum) in total.iter_mut().zip(sums) {
                    *total = if piece == 0 { *sum } else { *total + *sum };
                }
                if last {
                    sink.put(t, row, &total[..n_rows]);
                }
            };
            sweep::<S, F>(s, panel, x, &mut emit);
        }
        row += n_rows;
    }
}

/// Sweeps with the constants of a format, rounded up to few cases to bound the amount of code.
#[inline(always)]
fn sweep<S: Simd, F: Format>(
    s: S,
    panel: PanelI8<'_>,
    x: Rows<'_, XBlock>,
    emit: &mut dyn FnMut(usize, &[f32; PANEL_ROWS]),
) {
    match (F::HALVES, F::MAX) {
        (false, 0..=15) => s.sweep_i8::<false, 15>(panel, x, emit),
        (false, 16..=127) => s.sweep_i8::<false, 31>(panel, x, emit),
        (false, 128..) => s.sweep_i8::<false, 255>(panel, x, emit),
        (true, 0..=15) => s.sweep_i8::<true, 15>(panel, x, emit),
        (true, _) => s.sweep_i8::<true, 63>(panel, x, emit),
    }
}

/// Bytes of a panel of `n_blocks` blocks of 32 per row.
fn panel_bytes<F: Format>(n_blocks: usize) -> usize {
    let n_subs = n_blocks * if F::HALVES { 2 } else { 1 };
    n_blocks * 32 * PANEL_ROWS + 2 * n_subs * PANEL_ROWS * 4
}

/// Unpacks the blocks `part` of up to 32 rows into `bytes`; absent rows repeat the last.
#[inline(always)]
fn expand<'a, S: Simd, F: Format>(
    s: S,
    w: Rows<'_, F>,
    rows: Range<usize>,
    part: Range<usize>,
    bytes: &'a mut [u8],
) -> PanelI8<'a> {
    let l = s.lanes();
    let n_parts = F::GROUPS * if F::HALVES { 2 } else { 1 };
    let (q, scales) = bytes.split_at_mut(part.len() * F::LEN * PANEL_ROWS);
    let (d, m) = bytemuck::cast_slice_mut::<u8, f32>(scales).split_at_mut(part.len() * n_parts * PANEL_ROWS);
    for group in 0..PANEL_ROWS / 8 {
        let eight: [&[F]; 8] =
            std::array::from_fn(|r| &w.row((rows.start + 8 * group + r).min(rows.end - 1))[part.clone()]);
        for i in 0..part.len() {
            for (r, row) in eight.iter().enumerate() {
                let scales = row[i].scales(l);
                for j in 0..n_parts {
                    let at = (i * n_parts + j) * PANEL_ROWS + 8 * group + r;
                    d[at] = scales.d[j];
                    m[at] = scales.m[j];
                }
            }
            for g in 0..F::GROUPS {
                let mut bytes = [l.splat(0); 8];
                for (bytes, row) in bytes.iter_mut().zip(&eight) {
                    *bytes = row[i].unpack(l, g);
                }
                let columns = l.transpose(bytes);
                for (step, column) in columns.into_iter().enumerate() {
                    let at = ((i * F::GROUPS + g) * 8 + step) * PANEL_ROWS * 4 + 32 * group;
                    l.store(q[at..].first_chunk_mut().expect("a panel step is 128 bytes"), column);
                }
            }
        }
    }
    PanelI8 { q, d, m }
}

#[cfg(test)]
mod tests {
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
        let mut x = vec![XBlock::default(); n * k / 32];
        for blocks in x.chunks_exact_mut(k / 32) {
            isa.run(QuantizeRow { x: &random.floats(k), blocks });
        }
        let mut sink = Store { m, out: vec![f32::NAN; n * m] };
        isa.run(Product {
            w: Weights { dtype, data: &data, k, m },
            rows: 0..m,
            x: Rows::new(&x, k / 32, k / 32, n),
            scratch: &mut Scratch::default(),
            sink: &mut sink,
        });
        let expected: Vec<f64> = x
            .chunks_exact(k / 32)
            .flat_map(|x| {
                values.chunks_exact(k).map(move |w| {
                    let x = x.iter().flat_map(|b| b.q.map(|q| f64::from(q) * f64::from(b.d)));
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
                for (blocks, m, n) in
                    [(1, 1, 1), (3, 7, 1), (2, 9, 2), (5, 5, 3), (1, 6, 4), (3, 33, 5), (2, 40, 7), (3, 70, 15)]
                {
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
                let error = worst(isa, dtype, PANEL_BLOCKS * 32 * 2 + 256, 3, 6);
                assert!(error < TOLERANCE, "{} {dtype}: {error}", isa.name());
            }
        }
    }
}
