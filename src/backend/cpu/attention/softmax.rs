//! Scores to weights: soft cap, distance bias, mask and the running softmax, in powers of 2.

use super::Common;
use crate::backend::cpu::math;
use crate::backend::cpu::simd::Simd;
use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

/// State of a softmax over part of the rows.
#[derive(Clone, Copy)]
#[repr(C)]
#[derive(bytemuck::Pod, bytemuck::Zeroable)]
pub struct Partial {
    /// Largest score; within this module a power of 2, outside of `e`.
    pub max: f32,
    /// Sum of `exp(score - max)`.
    pub sum: f32,
}

impl Partial {
    /// Of no rows.
    pub const EMPTY: Partial = Partial { max: f32::NEG_INFINITY, sum: 0.0 };

    /// From powers of 2 to powers of `e`.
    #[inline(always)]
    pub(super) fn natural(&mut self) {
        self.max *= LN_2;
    }
}

/// Soft cap, distance bias and mask: what the token does not see becomes -inf, as does what lies beyond the block.
#[inline(always)]
pub(super) fn bias<S: Simd>(_: S, c: &Common<'_>, head: usize, token: usize, block: &Range<usize>, scores: &mut [f32]) {
    if c.soft_cap > 0.0 {
        let inverse = 1.0 / c.soft_cap;
        let cap = c.soft_cap * LOG2_E;
        for score in scores.iter_mut() {
            let x = *score * inverse;
            *score = cap * if S::FMA { math::tanh::<true>(x) } else { math::tanh::<false>(x) };
        }
    }
    if let (Some(slope), Some(&q_pos)) = (c.slopes.get(head), c.mask.q_pos.get(token)) {
        let slope = slope * LOG2_E;
        let kv_pos = c.mask.kv_pos.get(block.clone()).unwrap_or_default();
        for (score, kv_pos) in scores.iter_mut().zip(kv_pos) {
            *score -= slope * (kv_pos - q_pos).unsigned_abs() as f32;
        }
    }
    let visible = &c.mask.rows[token];
    let from = (visible.start as usize).clamp(block.start, block.end) - block.start;
    let to = (visible.end as usize).clamp(block.start, block.end) - block.start;
    scores[..from].fill(f32::NEG_INFINITY);
    scores[to.max(from)..].fill(f32::NEG_INFINITY);
    if let Some(base) = visible.bits {
        let first = (visible.start & !63) as usize;
        for (i, score) in scores.iter_mut().enumerate().take(to).skip(from) {
            let bit = block.start + i - first;
            if c.mask.words[base as usize + bit / 64] >> (bit % 64) & 1 == 0 {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

/// Turns scores, a multiple of 16, into weights relative to the largest score so far; returns by what earlier sums must be
/// multiplied.
#[inline(always)]
pub(super) fn soften<S: Simd>(_: S, scores: &mut [f32], state: &mut Partial) -> f32 {
    let (sixteens, rest) = scores.as_chunks_mut::<16>();
    assert!(rest.is_empty());
    let mut max = [state.max; 16];
    for scores in sixteens.iter() {
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
    for scores in sixteens {
        for (sum, s) in sum.iter_mut().zip(scores) {
            *s = exp2::<S>(*s - max);
            *sum += *s;
        }
    }
    let rescale = if state.max == max { 1.0 } else { exp2::<S>(state.max - max) };
    state.sum = state.sum * rescale + math::sum16(sum);
    state.max = max;
    rescale
}

#[inline(always)]
fn exp2<S: Simd>(x: f32) -> f32 {
    if S::FMA { math::exp2::<true>(x) } else { math::exp2::<false>(x) }
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
