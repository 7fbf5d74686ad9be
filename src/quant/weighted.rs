//! Rounding of f32 to q4_0 .. q6_K with an importance matrix: as without one, but errors weigh by the importance of their
//! column, more scales are tried, and the scales of sub-blocks are searched for in the same manner.

use super::fit::{Affine, fit_positive, fit_signed, sum_squares, weigh};
use super::k::{Q2K, Q3K, Q4K, Q5K, Q6K, QK_K};
use super::k_quantize::{pack_scales, q2_block, q3_block, q4_block, q5_block, q6_block};
use super::legacy::{Q4_0, Q4_1, Q5_0, Q5_1, pack_five_bits};
use super::to_f16;

/// `spread` is the mean square of the row, here and in the next three.
pub(super) fn q4_0(x: &[f32], importance: &[f32], spread: f32) -> Q4_0 {
    let mut levels = [0; 32];
    let d = fit_signed(x, &weigh::<32>(x, importance, spread), 8, &mut levels);
    Q4_0 { d: to_f16(d), qs: std::array::from_fn(|j| levels[j] | levels[j + 16] << 4) }
}

pub(super) fn q4_1(x: &[f32], importance: &[f32], spread: f32) -> Q4_1 {
    let mut levels = [0; 32];
    let (d, min) = affine(15).fit(x, &weigh::<32>(x, importance, spread), &mut levels);
    Q4_1 { d: to_f16(d), m: to_f16(-min), qs: std::array::from_fn(|j| levels[j] | levels[j + 16] << 4) }
}

pub(super) fn q5_0(x: &[f32], importance: &[f32], spread: f32) -> Q5_0 {
    let mut levels = [0; 32];
    let d = fit_signed(x, &weigh::<32>(x, importance, spread), 16, &mut levels);
    let (qh, qs) = pack_five_bits(&levels);
    Q5_0 { d: to_f16(d), qh, qs }
}

pub(super) fn q5_1(x: &[f32], importance: &[f32], spread: f32) -> Q5_1 {
    let mut levels = [0; 32];
    let (d, min) = affine(31).fit(x, &weigh::<32>(x, importance, spread), &mut levels);
    let (qh, qs) = pack_five_bits(&levels);
    Q5_1 { d: to_f16(d), m: to_f16(-min), qh, qs }
}

pub(super) fn q2_k(x: &[f32], importance: &[f32]) -> Q2K {
    let fit = SubBlocks::<16, 16>::fit(x, importance, sum_squares(x) / QK_K as f32, 3);
    let ([scales, mins], [d, dmin]) = fit.scales(15);
    let scales = std::array::from_fn(|s| scales[s] | mins[s] << 4);
    q2_block(x, to_f16(d), to_f16(dmin), scales, fit.levels)
}

pub(super) fn q3_k(x: &[f32], importance: &[f32]) -> Q3K {
    let spread = 2.0 * sum_squares(x) / QK_K as f32;
    let (mut fit, mut sums, mut levels) = ([0f32; 16], [0f32; 16], [0; QK_K]);
    for (s, (x, importance)) in x.chunks_exact(16).zip(importance.chunks_exact(16)).enumerate() {
        let weights = weigh::<16>(x, importance, spread);
        sums[s] = sum(&weights);
        fit[s] = fit_signed(x, &weights, 4, &mut levels[16 * s..][..16]);
    }
    let mut scales = [0; 16];
    let d = fit_signed(&fit, &sums, 32, &mut scales);
    q3_block(x, to_f16(d), scales, levels)
}

pub(super) fn q4_k(x: &[f32], importance: &[f32]) -> Q4K {
    let fit = SubBlocks::<8, 32>::fit(x, importance, 2.0 * sum_squares(x) / QK_K as f32, 15);
    let ([scales, mins], [d, dmin]) = fit.scales(63);
    q4_block(x, to_f16(d), to_f16(dmin), pack_scales(scales, mins), fit.levels)
}

pub(super) fn q5_k(x: &[f32], importance: &[f32]) -> Q5K {
    let fit = SubBlocks::<8, 32>::fit(x, importance, 2.0 * sum_squares(x) / QK_K as f32, 31);
    let ([scales, mins], [d, dmin]) = fit.scales(63);
    let at_most_63 = |levels: [u8; 8]| levels.map(|l| l.min(63));
    q5_block(x, to_f16(d), to_f16(dmin), pack_scales(at_most_63(scales), at_most_63(mins)), fit.levels)
}

pub(super) fn q6_k(x: &[f32], importance: &[f32]) -> Q6K {
    q6_block(x, importance)
}

/// `N` sub-blocks of `LEN` elements, x = scale * level - min.
struct SubBlocks<const N: usize, const LEN: usize> {
    scales: [f32; N],
    mins: [f32; N],
    /// What an error of a sub-block weighs in all.
    weights: [f32; N],
    levels: [u8; QK_K],
}

impl<const N: usize, const LEN: usize> SubBlocks<N, LEN> {
    fn fit(x: &[f32], importance: &[f32], spread: f32, n_max: i32) -> Self {
        let mut fit = SubBlocks { scales: [0.0; N], mins: [0.0; N], weights: [0.0; N], levels: [0; QK_K] };
        for (s, (x, importance)) in x.chunks_exact(LEN).zip(importance.chunks_exact(LEN)).enumerate() {
            let weights = weigh::<LEN>(x, importance, spread);
            fit.weights[s] = sum(&weights);
            (fit.scales[s], fit.mins[s]) = affine(n_max).fit(x, &weights, &mut fit.levels[LEN * s..][..LEN]);
        }
        fit
    }

    /// Levels of the scales and of the mins, and their own scales.
    fn scales(&self, n_max: i32) -> ([[u8; N]; 2], [f32; 2]) {
        let mut levels = [[0; N]; 2];
        let d = fit_positive(&self.scales, &self.weights, n_max, &mut levels[0]);
        let dmin = fit_positive(&self.mins, &self.weights, n_max, &mut levels[1]);
        (levels, [d, dmin])
    }
}

fn affine(n_max: i32) -> Affine {
    Affine { n_max, start: -0.9, step: 0.05, n_steps: 36, error: |v| v * v }
}

fn sum(weights: &[f32]) -> f32 {
    let mut sum = 0.0;
    weights.iter().for_each(|w| sum += w);
    sum
}
