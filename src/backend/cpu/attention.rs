//! Attention in one pass over the keys and values, block by block with a running softmax, so that memory does not grow
//! with the context. The query heads that share a KV head are batched: each block of K and V is converted to f32 once for
//! all of them and all tokens of a task.

use super::float_product::transpose;
use super::kernels::Kernel;
use super::math;
use super::rows::to_float;
use super::scratch::Scratch;
use super::simd::{PANEL_ROWS, PanelF32, Rows, Simd};
use crate::graph::Mask;
use crate::quant::DType;
use std::ops::Range;

/// KV rows that are converted and scored at a time.
const BLOCK: usize = 64;

/// Keys or values of all heads: row `r` of head `h` lies at `h * head_stride + r * row_stride`.
#[derive(Clone, Copy)]
pub struct KvView<'a> {
    /// Type of the elements.
    pub dtype: DType,
    /// The bytes from the first row of the first head on.
    pub data: &'a [u8],
    /// Bytes from head to head.
    pub head_stride: usize,
    /// Bytes from row to row.
    pub row_stride: usize,
    /// Elements of a head.
    pub d: usize,
}

impl<'a> KvView<'a> {
    #[inline(always)]
    fn row(&self, head: usize, row: usize) -> &'a [u8] {
        &self.data[head * self.head_stride + row * self.row_stride..][..self.dtype.row_size(self.d)]
    }
}

/// What all tasks of an attention have in common.
#[derive(Clone, Copy)]
pub struct Common<'a> {
    /// Keys.
    pub k: KvView<'a>,
    /// Values.
    pub v: KvView<'a>,
    /// Visible rows of every token.
    pub mask: &'a Mask,
    /// Factor of the scores.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`; 0: off.
    pub soft_cap: f32,
    /// ALiBi slope of every query head; empty: off.
    pub slopes: &'a [f32],
    /// Query heads per KV head.
    pub group: usize,
}

/// Some tokens and one KV head over a range of KV rows.
pub struct AttentionTask<'a> {
    /// Shared parameters.
    pub common: Common<'a>,
    /// Which KV head.
    pub head_kv: usize,
    /// Which tokens.
    pub tokens: Range<usize>,
    /// Which KV rows; those that no token sees are skipped.
    pub rows: Range<usize>,
    /// Queries of these tokens and the heads of this group, `[token][head in group][k.d]`. They are multiplied by the
    /// scale in place.
    pub q: &'a mut [f32],
    /// Results in the order of the queries.
    pub out: &'a mut [Partial],
    /// Weighted sums of values, `[token][head in group][v.d]`, not yet divided by the sums of weights.
    pub sums: &'a mut [f32],
    /// Memory for converted blocks.
    pub scratch: &'a mut Scratch,
}

/// State of a softmax over part of the rows.
#[derive(Clone, Copy)]
#[repr(C)]
#[derive(bytemuck::Pod, bytemuck::Zeroable)]
pub struct Partial {
    /// Largest score.
    pub max: f32,
    /// Sum of `exp(score - max)`.
    pub sum: f32,
}

impl Partial {
    /// Of no rows.
    pub const EMPTY: Partial = Partial { max: f32::NEG_INFINITY, sum: 0.0 };
}

impl Kernel for AttentionTask<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { common: c, head_kv, tokens, rows, q, out, sums, scratch } = self;
        let (d_k, d_v) = (c.k.d, c.v.d);
        let n_q = tokens.len() * c.group;
        assert!(q.len() == n_q * d_k && out.len() == n_q && sums.len() == n_q * d_v);
        let seen = seen(c.mask, tokens.clone(), rows);
        out.fill(Partial::EMPTY);
        sums.fill(0.0);
        for q in q.iter_mut() {
            *q *= c.scale;
        }
        let v_stride = d_v.next_multiple_of(PANEL_ROWS);
        let k_stride = d_k.next_multiple_of(8);
        let sizes = [BLOCK * d_k, 8 * k_stride, BLOCK * v_stride, n_q * BLOCK];
        let [keys, eight, values, scores] =
            scratch.split(sizes.map(|n| n * 4)).map(bytemuck::cast_slice_mut::<u8, f32>);
        for start in seen.clone().step_by(BLOCK) {
            let block = start..seen.end.min(start + BLOCK);
            let n_panels = block.len().div_ceil(PANEL_ROWS);
            for (panel, keys) in keys.chunks_exact_mut(PANEL_ROWS * d_k).enumerate().take(n_panels) {
                for group in 0..PANEL_ROWS / 8 {
                    for (r, out) in eight.chunks_exact_mut(k_stride).enumerate() {
                        // Rows beyond the end repeat the last one; their scores are not used.
                        let row = (start + panel * PANEL_ROWS + 8 * group + r).min(block.end - 1);
                        to_float(s, c.k.dtype, c.k.row(head_kv, row), &mut out[..d_k]);
                    }
                    transpose(s, eight, k_stride, d_k, &mut keys[8 * group..], PANEL_ROWS);
                }
                let view = PanelF32 { w: keys, stride: PANEL_ROWS, k: d_k };
                s.sweep_f32(view, Rows::new(q, d_k, d_k, n_q), &mut |i, dots| {
                    scores[i * BLOCK + panel * PANEL_ROWS..][..PANEL_ROWS].copy_from_slice(dots);
                });
            }
            for i in 0..n_q {
                let token = tokens.start + i / c.group;
                let scores: &mut [f32; BLOCK] = scores[i * BLOCK..].first_chunk_mut().expect("one block per query");
                bias(s, &c, head_kv * c.group + i % c.group, token, &block, scores);
                let rescale = soften::<S>(scores, &mut out[i]);
                if rescale != 1.0 {
                    for sum in &mut sums[i * d_v..][..d_v] {
                        *sum *= rescale;
                    }
                }
            }
            for (row, values) in block.clone().zip(values.chunks_exact_mut(v_stride)) {
                to_float(s, c.v.dtype, c.v.row(head_kv, row), &mut values[..d_v]);
            }
            for column in (0..d_v).step_by(PANEL_ROWS) {
                let n = PANEL_ROWS.min(d_v - column);
                let view = PanelF32 { w: &values[column..], stride: v_stride, k: block.len() };
                s.sweep_f32(view, Rows::new(scores, BLOCK, block.len(), n_q), &mut |i, dots| {
                    let sums = &mut sums[i * d_v + column..][..n];
                    for (sum, dot) in sums.iter_mut().zip(dots) {
                        *sum += dot;
                    }
                });
            }
        }
    }
}

/// The part of `rows` that some token sees.
fn seen(mask: &Mask, tokens: Range<usize>, rows: Range<usize>) -> Range<usize> {
    let of = &mask.rows[tokens];
    let visible = of.iter().filter(|r| r.start < r.end);
    let start = visible.clone().map(|r| r.start as usize).min().unwrap_or(0).max(rows.start);
    let end = visible.map(|r| r.end as usize).max().unwrap_or(0).min(rows.end);
    start..end.max(start)
}

/// Soft cap, distance bias and mask: what the token does not see becomes -inf.
#[inline(always)]
fn bias<S: Simd>(_: S, c: &Common<'_>, head: usize, token: usize, block: &Range<usize>, scores: &mut [f32; BLOCK]) {
    if c.soft_cap > 0.0 {
        let inverse = 1.0 / c.soft_cap;
        for score in scores.iter_mut() {
            *score = c.soft_cap
                * if S::FMA { math::tanh::<true>(*score * inverse) } else { math::tanh::<false>(*score * inverse) };
        }
    }
    if let (Some(slope), Some(&q_pos)) = (c.slopes.get(head), c.mask.q_pos.get(token)) {
        for (score, row) in scores.iter_mut().zip(block.clone()) {
            if let Some(&kv_pos) = c.mask.kv_pos.get(row) {
                *score -= slope * (kv_pos - q_pos).unsigned_abs() as f32;
            }
        }
    }
    let visible = &c.mask.rows[token];
    let from = (visible.start as usize).clamp(block.start, block.end) - block.start;
    let to = (visible.end as usize).clamp(block.start, block.end) - block.start;
    scores[..from].fill(f32::NEG_INFINITY);
    scores[to.max(from)..].fill(f32::NEG_INFINITY);
    if visible.bits.is_some() {
        for (i, score) in scores.iter_mut().enumerate().take(to).skip(from) {
            if !c.mask.visible(token, (block.start + i) as u32) {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

/// Turns scores into weights relative to the largest score so far; returns by what earlier sums must be multiplied.
#[inline(always)]
fn soften<S: Simd>(scores: &mut [f32; BLOCK], state: &mut Partial) -> f32 {
    let mut max = [state.max; 16];
    for scores in scores.as_chunks::<16>().0 {
        for (m, s) in max.iter_mut().zip(scores) {
            *m = if *s > *m { *s } else { *m };
        }
    }
    let max = math::max16(max);
    if max == f32::NEG_INFINITY {
        scores.fill(0.0);
        return 1.0;
    }
    let mut sum = [0.0f32; 16];
    for scores in scores.as_chunks_mut::<16>().0 {
        for (sum, s) in sum.iter_mut().zip(scores) {
            *s = exp::<S>(*s - max);
            *sum += *s;
        }
    }
    let rescale = if state.max == max { 1.0 } else { exp::<S>(state.max - max) };
    state.sum = state.sum * rescale + math::sum16(sum);
    state.max = max;
    rescale
}

#[inline(always)]
fn exp<S: Simd>(x: f32) -> f32 {
    if S::FMA { math::exp::<true>(x) } else { math::exp::<false>(x) }
}

/// Joins the results of several ranges of rows and a sink into the final values. `parts` are `(state, sums)` of the same
/// query.
pub fn finish<'a>(parts: impl Iterator<Item = (Partial, &'a [f32])> + Clone, sink: Option<f32>, out: &mut [f32]) {
    let max = parts.clone().map(|(p, _)| p.max).chain(sink).fold(f32::NEG_INFINITY, f32::max);
    out.fill(0.0);
    if max == f32::NEG_INFINITY {
        return;
    }
    let mut total = sink.map_or(0.0, |s| (s - max).exp());
    for (part, sums) in parts.filter(|(p, _)| p.sum > 0.0) {
        let weight = (part.max - max).exp();
        total += part.sum * weight;
        for (out, sum) in out.iter_mut().zip(sums) {
            *out += weight * sum;
        }
    }
    let inverse = 1.0 / total;
    for out in out {
        *out *= inverse;
    }
}
