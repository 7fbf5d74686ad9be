//! The CPU kernels behind the few calls that measuring needs, on random data. Whoever changes a kernel's interface changes
//! this file, and neither `benches/kernels.rs` nor the example `performance_parity`.

use infer::backend::cpu::act::{QuantizeRow, XBlock, x_blocks};
use infer::backend::cpu::attention::{AttentionTask, Common, KvView, Partial};
use infer::backend::cpu::elementwise::{GluRow, Hadamard, NormRow, RotateHeads, SoftMaxRow};
use infer::backend::cpu::float_product::FloatProduct;
use infer::backend::cpu::formats::has_integer_kernels;
use infer::backend::cpu::kernels::Isa;
use infer::backend::cpu::product::{Product, Sink, Weights};
use infer::backend::cpu::rows::{FromFloat, ToFloat};
use infer::backend::cpu::scratch::Scratch;
use infer::backend::cpu::simd::Rows;
use infer::graph::{GluOp, Mask, MaskRow, Norm, NormKind, RopeKind};
use infer::quant::{self, DType};
use std::ops::Range;

/// `n` numbers from -1 to 1, always the same.
pub fn floats(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// `n` elements of a type; of those that have no quantizer, zeros, which take as long.
pub fn elements(dtype: DType, n: usize) -> Vec<u8> {
    // Some quantizers search long: a few rows are repeated.
    let n_made = n.min(1 << 16);
    let mut made = vec![0; dtype.row_size(n_made)];
    // A failure leaves the zeros.
    let _ = quant::quantize(dtype, &floats(n_made), &mut made);
    made.iter().copied().cycle().take(dtype.row_size(n)).collect()
}

/// Weights as they lie in a file.
pub struct Matrix {
    pub dtype: DType,
    pub k: usize,
    pub m: usize,
    pub data: Vec<u8>, // m rows of k elements
}

impl Matrix {
    /// Random ones.
    pub fn new(dtype: DType, k: usize, m: usize) -> Matrix {
        Matrix { dtype, k, m, data: elements(dtype, k * m) }
    }

    fn weights(&self) -> Weights<'_> {
        Weights { dtype: self.dtype, data: &self.data, k: self.k, m: self.m }
    }
}

/// What a thread needs to multiply.
#[derive(Default)]
pub struct Work {
    blocks: Vec<XBlock>,
    scratch: Scratch,
    /// Products, `[token][row]`, of the call before.
    pub out: Vec<f32>,
}

struct Out<'a> {
    values: &'a mut [f32],
    m: usize,
    from: usize,
}

impl Sink for Out<'_> {
    fn put(&mut self, token: usize, row: usize, values: &[f32]) {
        self.values[token * self.m + row - self.from..][..values.len()].copy_from_slice(values);
    }
}

/// Quantizes activations of rows of `k`, as products with integer kernels need them.
pub fn quantize_activations(isa: Isa, x: &[f32], k: usize, work: &mut Work) {
    work.blocks.resize(x.len() / k * x_blocks(k), XBlock::default());
    for (x, blocks) in x.chunks_exact(k).zip(work.blocks.chunks_exact_mut(x_blocks(k))) {
        isa.run(QuantizeRow { x, blocks });
    }
}

/// Multiplies rows of `w` with every token of `x`, activations not yet quantized.
pub fn matmul(isa: Isa, w: &Matrix, rows: Range<usize>, x: &[f32], work: &mut Work) {
    if has_integer_kernels(w.dtype) {
        quantize_activations(isa, x, w.k, work);
    }
    matmul_quantized(isa, w, rows, x, work);
}

/// The same with activations that [`quantize_activations`] has put into `work`.
pub fn matmul_quantized(isa: Isa, w: &Matrix, rows: Range<usize>, x: &[f32], work: &mut Work) {
    let n = x.len() / w.k;
    work.out.resize(n * rows.len(), 0.0);
    let Work { blocks, scratch, out } = work;
    let sink = &mut Out { values: out, m: rows.len(), from: rows.start };
    let (width, weights) = (x_blocks(w.k), w.weights());
    if has_integer_kernels(w.dtype) {
        Product { w: weights, rows, x: Rows::new(blocks, width, width, n), scratch, sink }.compute(isa);
    } else {
        FloatProduct { w: weights, rows, x: Rows::new(x, w.k, w.k, n), scratch, sink }.compute(isa);
    }
}

/// Keys and values of one layer, and queries that attend to them.
pub struct Attention {
    pub dtype: DType,
    /// Elements of a head.
    pub d: usize,
    pub n_head_kv: usize,
    /// Query heads per KV head.
    pub group: usize,
    pub n_rows: usize,
    pub n_tokens: usize,
    kv: Vec<u8>, // [row][head][d], keys and values alike
    mask: Mask,
    slopes: Vec<f32>,
    queries: Vec<f32>, // [token][head in group][d]
}

/// What a thread needs to attend.
#[derive(Default)]
pub struct AttentionWork {
    q: Vec<f32>,
    sums: Vec<f32>,
    out: Vec<Partial>,
    scratch: Scratch,
}

impl Attention {
    /// The last `n_tokens` of `n_rows` see all rows up to their own.
    pub fn new(dtype: DType, d: usize, n_head_kv: usize, group: usize, n_rows: usize, n_tokens: usize) -> Attention {
        let first = n_rows - n_tokens;
        let row = |t: usize| MaskRow { start: 0, end: (first + t + 1) as u32, bits: None };
        Attention {
            dtype,
            d,
            n_head_kv,
            group,
            n_rows,
            n_tokens,
            kv: elements(dtype, d * n_head_kv * n_rows),
            mask: Mask { rows: (0..n_tokens).map(row).collect(), ..Mask::default() },
            slopes: Vec::new(),
            queries: floats(n_tokens * group * d),
        }
    }

    /// Tokens see only the last `window` rows.
    pub fn with_window(mut self, window: u32) -> Attention {
        self.mask.rows.iter_mut().for_each(|row| row.start = row.end.saturating_sub(window));
        self
    }

    /// With ALiBi's bias by distance.
    pub fn with_alibi(mut self) -> Attention {
        self.slopes = (0..self.n_head_kv * self.group).map(|h| 0.5f32.powi(h as i32 % 8 + 1)).collect();
        self.mask.kv_pos = (0..self.n_rows as i32).collect();
        self.mask.q_pos = (0..self.n_tokens).map(|t| (self.n_rows - self.n_tokens + t) as i32).collect();
        self
    }

    /// Bytes of keys and values that one KV head has.
    pub fn head_bytes(&self) -> usize {
        2 * self.dtype.row_size(self.d) * self.n_rows
    }

    /// Operations for one KV head.
    pub fn head_operations(&self) -> usize {
        let seen: usize = self.mask.rows.iter().map(|row| (row.end - row.start) as usize).sum();
        4 * self.group * self.d * seen
    }

    /// Computes the query heads of one KV head.
    pub fn run(&self, isa: Isa, head_kv: usize, work: &mut AttentionWork) {
        let head_stride = self.dtype.row_size(self.d);
        let row_stride = self.dtype.row_size(self.d * self.n_head_kv);
        let kv = KvView { dtype: self.dtype, data: &self.kv, head_stride, row_stride, d: self.d };
        let n_q = self.n_tokens * self.group;
        work.q.clear();
        work.q.extend_from_slice(&self.queries);
        work.sums.resize(n_q * self.d, 0.0);
        work.out.resize(n_q, Partial::EMPTY);
        AttentionTask {
            common: Common {
                k: kv,
                v: kv,
                mask: &self.mask,
                scale: 1.0 / (self.d as f32).sqrt(),
                soft_cap: 0.0,
                slopes: &self.slopes,
                group: self.group,
            },
            heads_kv: head_kv..head_kv + 1,
            tokens: 0..self.n_tokens,
            rows: 0..self.n_rows,
            q: &mut work.q,
            out: &mut work.out,
            sums: &mut work.sums,
            scratch: &mut work.scratch,
        }
        .compute(isa);
    }
}

/// Converts blocks to f32.
pub fn dequantize(isa: Isa, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    isa.run(ToFloat { dtype, bytes, out });
}

/// Rounds a row to a cache's type; false where the type is none.
pub fn quantize_cache_row(isa: Isa, dtype: DType, x: &[f32], bytes: &mut [u8]) -> bool {
    isa.run(FromFloat { x, dtype, bytes })
}

/// RMS norm with weights.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], out: &mut [f32]) {
    let norm = Norm { kind: NormKind::Rms, eps: 1e-5 };
    isa.run(NormRow { norm, x, weight: Some(weight), bias: None, out });
}

/// Rotates heads twice as long as `sin` and `cos`.
pub fn rope(isa: Isa, neox: bool, sin: &[f32], cos: &[f32], x: &mut [f32]) {
    let kind = if neox { RopeKind::Neox } else { RopeKind::Norm };
    isa.run(RotateHeads { kind, sin, cos, d: 2 * sin.len(), x });
}

/// `silu(gate) * up`, into `up`.
pub fn swiglu(isa: Isa, gate: &[f32], up: &mut [f32]) {
    isa.run(GluRow { op: GluOp::Silu, gate, up });
}

/// Softmax in place.
pub fn softmax(isa: Isa, x: &mut [f32]) {
    isa.run(SoftMaxRow { scale: 1.0, x });
}

/// The transform that quantized caches rotate heads with, in place.
pub fn rotate_for_cache(isa: Isa, x: &mut [f32]) {
    isa.run(Hadamard { n: x.len(), x });
}
