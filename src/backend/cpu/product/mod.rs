//! Products of quantized weights with quantized activations. Few tokens read the blocks in place, row by row; more tokens
//! sweep over panels of 32 rows that are unpacked once into cache.

mod few;
mod panels;

use super::act::{XBlock, x_blocks};
use super::formats::{Format, FormatVisitor, with_format};
use super::kernels::Isa;
use super::scratch::Scratch;
use super::simd::Rows;
use crate::quant::DType;
use few::{InPlace, Moved};
use panels::Panels;
use std::ops::Range;

/// Tokens from which unpacking a panel of rows of `k` elements pays; below, the rows are read in place. Short rows cost more in
/// place, for their ends and sums, and less in a panel where it is unpacked by 64 bytes.
pub fn panel_tokens(isa: Isa, k: usize) -> usize {
    if isa.unpacks_wide() && k < SHORT_ROW { 5 } else { 9 }
}

/// Rows with fewer elements are short.
const SHORT_ROW: usize = 2048;

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
        let in_panels = x.n() >= panel_tokens(isa, w.k);
        let blocks = crate::quant::blocks::<F>(w.data).expect("callers align weights");
        let w = Rows::new(blocks, w.k / F::LEN, w.k / F::LEN, w.m);
        if in_panels {
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
                    // Long rows, which are read in place by up to eight tokens everywhere.
                    (66, 9, 6),
                    (67, 3, 8),
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
