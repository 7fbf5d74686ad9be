//! Rounding of f32 to iq4_nl and iq4_xs: each of 32 elements takes the nearest of sixteen levels, a few scales are tried.
//!
//! The order of every sum is that of ggml's quantizers, so that files come out equal byte for byte.

use super::fit::{EPSILON, nearest, sum_squares, weigh};
use super::iq::{IQ4NL, IQ4XS};
use super::k::QK_K;
use super::legacy::inverse;
use super::{Quantize, grids, to_f16};

impl Quantize for IQ4NL {
    fn quantize(x: &[f32]) -> Self {
        let max = signed_max(x);
        let inv = if max.abs() < EPSILON { 0.0 } else { 1.0 / (max / f32::from(grids::IQ4_VALUES[0])) };
        let weights: [f32; 32] = std::array::from_fn(|i| x[i] * x[i]);
        let (sum_qx, sum_q2) = level_sums(x, &weights, inv);
        let d = if inv != 0.0 && sum_q2 > 0.0 { sum_qx / sum_q2 } else { 0.0 };
        // The levels stay those of the first guess, only the scale is fitted to them.
        IQ4NL { d: to_f16(d), qs: pack_levels(x, inv) }
    }
}

impl Quantize for IQ4XS {
    fn quantize(x: &[f32]) -> Self {
        iq4_xs(x, None)
    }
}

/// The block that files get: its scale is searched for, unlike that of [`Quantize`].
pub(super) fn iq4_nl(x: &[f32], importance: Option<&[f32]>) -> IQ4NL {
    let weights = weights(x, importance, sum_squares(x) * (2.0 / 32f32));
    let d = fit_levels(x, &weights);
    IQ4NL { d: to_f16(d), qs: pack_levels(x, inverse(d)) }
}

pub(super) fn iq4_xs(x: &[f32], importance: Option<&[f32]>) -> IQ4XS {
    let spread = sum_squares(x) * (2.0 / QK_K as f32);
    let mut fit = [0f32; QK_K / 32];
    for (s, (fit, x)) in fit.iter_mut().zip(x.chunks_exact(32)).enumerate() {
        *fit = fit_levels(x, &weights(x, importance.map(|w| &w[32 * s..]), spread));
    }
    let d = -signed_max(&fit) / 32.0;
    let id = inverse(d);
    let mut block = IQ4XS { d: to_f16(d), scales_h: 0, scales_l: [0; QK_K / 64], qs: [0; QK_K / 2] };
    for (s, (x, qs)) in x.chunks_exact(32).zip(block.qs.chunks_exact_mut(16)).enumerate() {
        let scale = nearest(id * fit[s]).clamp(-32, 31);
        qs.copy_from_slice(&pack_levels(x, inverse(d * scale as f32)));
        let scale = (scale + 32) as u8;
        block.scales_l[s / 2] |= (scale & 15) << (4 * (s % 2));
        block.scales_h |= u16::from(scale >> 4) << (2 * s);
    }
    block
}

fn weights(x: &[f32], importance: Option<&[f32]>, spread: f32) -> [f32; 32] {
    match importance {
        Some(importance) => weigh(x, importance, spread),
        None => std::array::from_fn(|i| x[i] * x[i]),
    }
}

/// The element of largest magnitude, with its sign.
fn signed_max(x: &[f32]) -> f32 {
    x.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m })
}

/// The scale of least weighted error, of 15 that map the largest element to levels about the first.
fn fit_levels(x: &[f32], weights: &[f32]) -> f32 {
    let max = signed_max(x);
    if max.abs() < EPSILON {
        return 0.0;
    }
    let first = f32::from(grids::IQ4_VALUES[0]);
    let (sum_qx, sum_q2) = level_sums(x, weights, 1.0 / (-max / first));
    let mut d = if sum_q2 > 0.0 { sum_qx / sum_q2 } else { 0.0 };
    let mut best = d * sum_qx;
    for step in -7i8..=7 {
        let (sum_qx, sum_q2) = level_sums(x, weights, (f32::from(step) + first) / max);
        if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
            d = sum_qx / sum_q2;
            best = d * sum_qx;
        }
    }
    d
}

/// Weighted sums of level * x and of level², with the levels nearest to `inv` * x.
fn level_sums(x: &[f32], weights: &[f32], inv: f32) -> (f32, f32) {
    let (mut sum_qx, mut sum_q2) = (0f32, 0f32);
    for (&v, &w) in x.iter().zip(weights) {
        let q = f32::from(grids::IQ4_VALUES[nearest_level(inv * v)]);
        sum_qx += w * q * v;
        sum_q2 += w * q * q;
    }
    (sum_qx, sum_q2)
}

fn pack_levels(x: &[f32], inv: f32) -> [u8; 16] {
    std::array::from_fn(|j| (nearest_level(inv * x[j]) | nearest_level(inv * x[j + 16]) << 4) as u8)
}

/// The index of the level nearest to `v`, the upper one of two.
fn nearest_level(v: f32) -> usize {
    let levels = &grids::IQ4_VALUES;
    match levels.partition_point(|&level| f32::from(level) <= v) {
        0 => 0,
        16 => 15,
        above if v - f32::from(levels[above - 1]) < f32::from(levels[above]) - v => above - 1,
        above => above,
    }
}
