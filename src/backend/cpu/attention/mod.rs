//! Attention in one pass over the keys and values, block by block with a running softmax, so that memory does not grow
//! with the context. The query heads that share a KV head are batched. Few queries read keys and values where they lie
//! (`few`); for many, each block is converted to f32 once for all of them (`many`).

mod cells;
mod few;
mod many;
mod softmax;
#[cfg(test)]
mod tests;
mod words;

use super::kernels::{Isa, Kernel};
use super::scratch::Scratch;
use super::simd::Simd;
use crate::graph::Mask;
use crate::quant::DType;
pub use softmax::{Partial, finish};
use std::ops::Range;

/// Queries per KV head from which converting and transposing the keys pays.
pub const MANY_QUERIES: usize = 25;

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

impl Common<'_> {
    /// What queries are multiplied by, so that scores are exponents of 2; a soft cap comes in between and does that itself.
    #[inline(always)]
    fn q_scale(&self) -> f32 {
        if self.soft_cap > 0.0 { self.scale } else { self.scale * std::f32::consts::LOG2_E }
    }
}

/// Some tokens and KV heads over a range of KV rows. One head at a time for [`MANY_QUERIES`] and more; several heads of few
/// queries read memory in order.
pub struct AttentionTask<'a> {
    /// Shared parameters.
    pub common: Common<'a>,
    /// Which KV heads.
    pub heads_kv: Range<usize>,
    /// Which tokens.
    pub tokens: Range<usize>,
    /// Which KV rows; those that no token sees are skipped.
    pub rows: Range<usize>,
    /// Queries of these tokens and KV heads, `[token][KV head][head in group][k.d]`. They may be scaled in place.
    pub q: &'a mut [f32],
    /// Results in the order of the queries.
    pub out: &'a mut [Partial],
    /// Weighted sums of values, `[token][KV head][head in group][v.d]`, not yet divided by the sums of weights.
    pub sums: &'a mut [f32],
    /// Memory for converted blocks.
    pub scratch: &'a mut Scratch,
}

impl AttentionTask<'_> {
    /// Computes with an instruction set. The one place that enters these kernels: every other one would be compiled anew, with
    /// all types and instruction sets.
    #[inline(never)]
    pub fn compute(self, isa: Isa) {
        let n_q = self.tokens.len() * self.common.group;
        let n_all = n_q * self.heads_kv.len();
        let (d_k, d_v) = (self.common.k.d, self.common.v.d);
        assert!(self.q.len() == n_all * d_k && self.out.len() == n_all && self.sums.len() == n_all * d_v);
        self.out.fill(Partial::EMPTY);
        if n_all == 0 {
            return;
        }
        if n_q < MANY_QUERIES {
            isa.run(Few(self));
        } else {
            assert!(self.heads_kv.len() == 1, "many queries of several KV heads");
            isa.run(Many(self));
        }
    }
}

struct Few<'a>(AttentionTask<'a>);
struct Many<'a>(AttentionTask<'a>);

impl Kernel for Few<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        few::run(s, self.0);
    }
}

impl Kernel for Many<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        many::run(s, self.0);
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

/// From the first to the last of `tokens` that sees one of `rows`.
#[inline(always)]
fn seeing(mask: &Mask, tokens: Range<usize>, rows: Range<usize>) -> Range<usize> {
    let sees = |t: &usize| {
        let visible = &mask.rows[*t];
        let from = (visible.start as usize).max(rows.start);
        let to = (visible.end as usize).min(rows.end);
        from < to && (visible.bits.is_none() || sees_bits(mask, *t, from..to))
    };
    let Some(first) = tokens.clone().find(sees) else { return tokens.start..tokens.start };
    let last = tokens.rev().find(sees).unwrap_or(first);
    first..last + 1
}

/// Whether the bitmap of a token has one of `rows`, which lie in its range.
fn sees_bits(mask: &Mask, token: usize, rows: Range<usize>) -> bool {
    rows.into_iter().any(|row| mask.visible(token, row as u32))
}
