//! Rounding of f32 to k-quants without an importance matrix: every sub-block tries a few scales and keeps the one of least
//! weighted error, then scales are rounded and the elements are rounded again to what the rounded scales can say.
//!
//! The order of every sum is that of ggml's reference quantizers, so that files come out equal byte for byte.

use super::fit::{Affine, EPSILON, fit_signed, nearest, sum_squares};
use super::k::{Q2K, Q3K, Q4K, Q5K, Q6K, Q8K, QK_K, scale_min};
use super::{Quantize, to_f16};
use half::f16;

impl Quantize for Q2K {
    fn quantize(x: &[f32]) -> Self {
        let search = Affine { n_max: 3, start: -0.5, step: 0.1, n_steps: 15, error: f32::abs };
        let mut levels = [0; QK_K];
        let (mut fit_scales, mut fit_mins) = ([0f32; 16], [0f32; 16]);
        for (s, x) in x.chunks_exact(16).enumerate() {
            let weights: [f32; 16] = std::array::from_fn(|l| x[l].abs());
            (fit_scales[s], fit_mins[s]) = search.fit(x, &weights, &mut levels[16 * s..][..16]);
        }
        let (scale_max, min_max) = (largest(&fit_scales), largest(&fit_mins));
        let to_nibble = |max: f32| if max > 0.0 { 15.0 / max } else { 0.0 };
        let (inv_scale, inv_min) = (to_nibble(scale_max), to_nibble(min_max));
        let scales = std::array::from_fn(|s| {
            nearest(inv_scale * fit_scales[s]) as u8 | (nearest(inv_min * fit_mins[s]) << 4) as u8
        });
        q2_block(x, to_f16(scale_max.max(0.0) / 15.0), to_f16(min_max.max(0.0) / 15.0), scales, levels)
    }
}

impl Quantize for Q3K {
    fn quantize(x: &[f32]) -> Self {
        let mut levels = [0; QK_K];
        let mut fit = [0f32; 16];
        for (s, x) in x.chunks_exact(16).enumerate() {
            fit[s] = fit_q3(x, &mut levels[16 * s..][..16]);
        }
        let largest = fit.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        if largest == 0.0 {
            return q3_block(x, f16::ZERO, [0; 16], levels);
        }
        let inv = -32.0 / largest;
        let scales = fit.map(|v| (i32::from(nearest(inv * v) as i8).clamp(-32, 31) + 32) as u8);
        q3_block(x, to_f16(1.0 / inv), scales, levels)
    }
}

impl Quantize for Q4K {
    fn quantize(x: &[f32]) -> Self {
        let search = Affine { n_max: 15, start: -1.0, step: 0.1, n_steps: 20, error: |v| v * v };
        let (d, dmin, scales, levels) = affine_block(x, &search);
        q4_block(x, d, dmin, scales, levels)
    }
}

impl Quantize for Q5K {
    fn quantize(x: &[f32]) -> Self {
        let search = Affine { n_max: 31, start: -0.5, step: 0.1, n_steps: 15, error: |v| v * v };
        let (d, dmin, scales, levels) = affine_block(x, &search);
        q5_block(x, d, dmin, scales, levels)
    }
}

impl Quantize for Q6K {
    fn quantize(x: &[f32]) -> Self {
        let weights: [f32; QK_K] = std::array::from_fn(|i| x[i] * x[i]);
        q6_block(x, &weights)
    }
}

impl Quantize for Q8K {
    fn quantize(x: &[f32]) -> Self {
        let max = x.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        let mut block = Q8K { d: 0.0, qs: [0; QK_K], bsums: [0; QK_K / 16] };
        if max == 0.0 {
            return block;
        }
        let inv = -127.0 / max;
        for (q, v) in block.qs.iter_mut().zip(x) {
            *q = nearest(inv * v).min(127) as i8;
        }
        for (sum, qs) in block.bsums.iter_mut().zip(block.qs.chunks_exact(16)) {
            *sum = qs.iter().map(|&q| i16::from(q)).sum();
        }
        block.d = 1.0 / inv;
        block
    }
}

/// What [`Q4K`] and [`Q5K`] share: d, dmin, packed scales, levels before the last rounding.
fn affine_block(x: &[f32], search: &Affine) -> (f16, f16, [u8; 12], [u8; QK_K]) {
    let mut levels = [0; QK_K];
    let (mut fit_scales, mut fit_mins) = ([0f32; 8], [0f32; 8]);
    for (s, x) in x.chunks_exact(32).enumerate() {
        let average = (sum_squares(x) / 32f32).sqrt();
        let weights: [f32; 32] = std::array::from_fn(|l| average + x[l].abs());
        (fit_scales[s], fit_mins[s]) = search.fit(x, &weights, &mut levels[32 * s..][..32]);
    }
    let (scale_max, min_max) = (largest(&fit_scales), largest(&fit_mins));
    let to_six_bits = |max: f32| if max > 0.0 { 63.0 / max } else { 0.0 };
    let (inv_scale, inv_min) = (to_six_bits(scale_max), to_six_bits(min_max));
    let scales = fit_scales.map(|v| (nearest(inv_scale * v) as u8).min(63));
    let mins = fit_mins.map(|v| (nearest(inv_min * v) as u8).min(63));
    (to_f16(scale_max / 63.0), to_f16(min_max / 63.0), pack_scales(scales, mins), levels)
}

/// The layout that [`scale_min`] reads.
pub(super) fn pack_scales(fit_scales: [u8; 8], fit_mins: [u8; 8]) -> [u8; 12] {
    let mut scales = [0; 12];
    for (j, (scale, min)) in fit_scales.into_iter().zip(fit_mins).enumerate() {
        if j < 4 {
            scales[j] = scale;
            scales[j + 4] = min;
        } else {
            scales[j + 4] = scale & 15 | (min & 15) << 4;
            scales[j - 4] |= scale >> 4 << 6;
            scales[j] |= min >> 4 << 6;
        }
    }
    scales
}

/// The block for scales that are decided; sub-blocks whose scale is 0 keep their `levels`. So do the next ones.
pub(super) fn q2_block(x: &[f32], d: f16, dmin: f16, scales: [u8; 16], mut levels: [u8; QK_K]) -> Q2K {
    for (s, (x, levels)) in x.chunks_exact(16).zip(levels.chunks_exact_mut(16)).enumerate() {
        let (d, m) = (d.to_f32() * f32::from(scales[s] & 15), dmin.to_f32() * f32::from(scales[s] >> 4));
        requantize(x, d, m, 0..=3, levels);
    }
    Q2K { scales, qs: pack_two_bits(&levels), d, dmin }
}

/// `scales` are counted from -32, `levels` from -4.
pub(super) fn q3_block(x: &[f32], d: f16, scales: [u8; 16], mut levels: [u8; QK_K]) -> Q3K {
    let mut block = Q3K { hmask: [0; 32], qs: [0; 64], scales: [0; 12], d };
    for (j, l) in scales.into_iter().enumerate() {
        block.scales[j % 8] |= (l & 15) << (4 * (j / 8));
        block.scales[8 + j % 4] |= l >> 4 << (2 * (j / 4));
    }
    let scales = block.scales();
    for (s, (x, levels)) in x.chunks_exact(16).zip(levels.chunks_exact_mut(16)).enumerate() {
        requantize(x, d.to_f32() * f32::from(scales[s]), 0.0, -4..=3, levels);
    }
    for (j, level) in levels.iter_mut().enumerate() {
        block.hmask[j % 32] |= (*level >> 2) << (j / 32);
        *level &= 3;
    }
    block.qs = pack_two_bits(&levels);
    block
}

pub(super) fn q4_block(x: &[f32], d: f16, dmin: f16, scales: [u8; 12], mut levels: [u8; QK_K]) -> Q4K {
    requantize_affine(x, d, dmin, &scales, 15, &mut levels);
    Q4K { d, dmin, scales, qs: pack_four_bits(&levels) }
}

pub(super) fn q5_block(x: &[f32], d: f16, dmin: f16, scales: [u8; 12], mut levels: [u8; QK_K]) -> Q5K {
    requantize_affine(x, d, dmin, &scales, 31, &mut levels);
    let mut qh = [0; QK_K / 8];
    for (j, level) in levels.iter().enumerate() {
        qh[j % 32] |= level >> 4 << (j / 32);
    }
    Q5K { d, dmin, scales, qh, qs: pack_four_bits(&levels) }
}

/// The whole of a [`Q6K`], errors weighted by `weights`.
pub(super) fn q6_block(x: &[f32], weights: &[f32]) -> Q6K {
    let mut levels = [0; QK_K];
    let mut fit = [0f32; 16];
    for (s, (x, weights)) in x.chunks_exact(16).zip(weights.chunks_exact(16)).enumerate() {
        fit[s] = fit_signed(x, weights, 32, &mut levels[16 * s..][..16]);
    }
    let largest = fit.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let mut block = Q6K { ql: [0; QK_K / 2], qh: [0; QK_K / 4], scales: [0; 16], d: f16::ZERO };
    if largest.abs() < EPSILON {
        return block;
    }
    let inv = -128.0 / largest;
    block.d = to_f16(1.0 / inv);
    block.scales = fit.map(|v| nearest(inv * v).min(127) as i8);
    for (s, (x, levels)) in x.chunks_exact(16).zip(levels.chunks_exact_mut(16)).enumerate() {
        requantize(x, block.d.to_f32() * f32::from(block.scales[s]), 0.0, -32..=31, levels);
    }
    for (j, level) in levels.iter().enumerate() {
        let (run, j) = (j / 128, j % 128);
        block.ql[64 * run + j % 64] |= (level & 15) << (4 * (j / 64));
        block.qh[32 * run + j % 32] |= level >> 4 << (2 * (j / 32));
    }
    block
}

fn requantize_affine(x: &[f32], d: f16, dmin: f16, scales: &[u8; 12], n_max: i32, levels: &mut [u8; QK_K]) {
    for (j, (x, levels)) in x.chunks_exact(32).zip(levels.chunks_exact_mut(32)).enumerate() {
        let (scale, min) = scale_min(j, scales);
        requantize(x, d.to_f32() * f32::from(scale), dmin.to_f32() * f32::from(min), 0..=n_max, levels);
    }
}

/// Levels, counted from the start of `range`, for x = d * level - m with the rounded scales; a scale of 0 keeps the old ones.
fn requantize(x: &[f32], d: f32, m: f32, range: std::ops::RangeInclusive<i32>, levels: &mut [u8]) {
    if d == 0.0 {
        return;
    }
    for (level, v) in levels.iter_mut().zip(x) {
        *level = (nearest((v + m) / d).clamp(*range.start(), *range.end()) - range.start()) as u8;
    }
}

/// The scale of x = scale * (level - 4), improving one level at a time, and the levels.
fn fit_q3(x: &[f32], levels: &mut [u8]) -> f32 {
    let max = x.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    if max.abs() < EPSILON {
        levels.fill(0);
        return 0.0;
    }
    let inv = -4.0 / max;
    let mut signed = [0i32; 16];
    let (mut sum_lx, mut sum_l2) = (0f32, 0f32);
    for (l, &v) in signed.iter_mut().zip(x) {
        *l = nearest(inv * v).clamp(-4, 3);
        let (w, l) = (v * v, *l as f32);
        sum_lx += w * v * l;
        sum_l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (l, &v) in signed.iter_mut().zip(x) {
            let (w, old) = (v * v, *l as f32);
            let mut lx = sum_lx - w * v * old;
            if lx > 0.0 {
                let mut l2 = sum_l2 - w * old * old;
                let new = nearest(v * l2 / lx).clamp(-4, 3);
                if new != *l {
                    lx += w * v * new as f32;
                    l2 += w * new as f32 * new as f32;
                    if l2 > 0.0 && lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        (*l, sum_lx, sum_l2) = (new, lx, l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    for (l, signed) in levels.iter_mut().zip(signed) {
        *l = (signed + 4) as u8;
    }
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |m, &v| if v > m { v } else { m })
}

/// The layout that [`Q2K::qs`] describes.
fn pack_two_bits(levels: &[u8; QK_K]) -> [u8; QK_K / 4] {
    let mut qs = [0; QK_K / 4];
    for (j, level) in levels.iter().enumerate() {
        qs[j / 128 * 32 + j % 32] |= level << (2 * (j % 128 / 32));
    }
    qs
}

/// The layout that [`Q4K::qs`] describes, of the low four bits.
fn pack_four_bits(levels: &[u8; QK_K]) -> [u8; QK_K / 2] {
    let mut qs = [0; QK_K / 2];
    for (j, level) in levels.iter().enumerate() {
        qs[j / 64 * 32 + j % 32] |= (level & 15) << (4 * (j % 64 / 32));
    }
    qs
}
