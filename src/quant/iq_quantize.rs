//! Rounding of f32 to iq2_xxs, iq2_xs, iq2_s, iq3_xxs and iq3_s: every sub-block tries a few scales; at each one its groups
//! of elements become the nearest points of the codebook, and the scale of least weighted error is kept.
//!
//! The order of every sum is that of ggml's quantizers, so that files come out equal byte for byte.

use super::codebook::{self, Codebook};
use super::fit::{EPSILON, fit_positive, nearest, sum_squares, weigh};
use super::iq::{IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS};
use super::k::QK_K;
use super::to_f16;

/// Sub-blocks of iq3_xxs and iq2_s whose elements are smaller count as zero.
const SMALL: f32 = 1e-8;

/// Scales are stored as 2 l + 1 parts of this many of the largest.
const SCALE_PARTS: f32 = 31.0;

/// Needs an importance: at this many bits rounding without one gives garbage.
pub(super) fn iq2_xxs(x: &[f32], importance: &[f32]) -> IQ2XXS {
    let spread = sum_squares(x) / QK_K as f32;
    let mut search = Search { steps: 6, step: 0.1, refit: Refit::All, ..Search::new(&codebook::IQ2XXS, 3) };
    let mut scales = [0f32; 8];
    let mut words = [[0u32; 2]; 8];
    for (s, (x, importance)) in x.chunks_exact(32).zip(importance.chunks_exact(32)).enumerate() {
        let weights = weigh::<32>(x, importance, spread);
        let (values, signs) = even_signs::<32>(x, &weights);
        if largest(&values) < EPSILON {
            continue;
        }
        let scale = fit_positive(&values, &weights, search.n_levels + 1, &mut [0; 32]);
        search.reach = scale * search.n_levels as f32;
        if search.reach <= 0.0 {
            continue;
        }
        let (scale, points) = search.fit(&values, &weights, scale);
        scales[s] = scale.abs();
        for k in 0..4 {
            words[s][0] |= u32::from(points[k]) << (8 * k);
            words[s][1] |= u32::from(flipped(signs[k], scale) & 127) << (7 * k);
        }
    }
    let mut block = IQ2XXS { d: to_f16(0.0), qs: [0; QK_K / 4] };
    let max = largest(&scales);
    if max == 0.0 {
        return block;
    }
    block.d = to_f16(max / SCALE_PARTS);
    for ((qs, mut words), scale) in block.qs.chunks_exact_mut(8).zip(words).zip(scales) {
        words[1] |= u32::from(scale_level(scale, max, 15)) << 28;
        qs[..4].copy_from_slice(&words[0].to_le_bytes());
        qs[4..].copy_from_slice(&words[1].to_le_bytes());
    }
    block
}

/// Needs an importance.
pub(super) fn iq2_xs(x: &[f32], importance: &[f32]) -> IQ2XS {
    let spread = sum_squares(x) / QK_K as f32;
    let mut search = Search { steps: 9, step: 0.1, ..Search::new(&codebook::IQ2XS, 3) };
    let mut scales = [0f32; 16];
    let mut block = IQ2XS { d: to_f16(0.0), qs: [0; QK_K / 8], scales: [0; QK_K / 32] };
    for (s, (x, importance)) in x.chunks_exact(16).zip(importance.chunks_exact(16)).enumerate() {
        let weights = weigh::<16>(x, importance, spread);
        let (values, signs) = even_signs::<16>(x, &weights);
        search.reach = largest(&values);
        if search.reach < EPSILON {
            continue;
        }
        let (scale, points) = search.fit_from_largest(&values, &weights);
        scales[s] = scale.abs();
        for k in 0..2 {
            block.qs[2 * s + k] = points[k] | u16::from(flipped(signs[k], scale) & 127) << 9;
        }
    }
    let max = largest(&scales);
    if max == 0.0 {
        block.qs = [0; QK_K / 8];
        return block;
    }
    block.d = to_f16(max / SCALE_PARTS);
    block.scales = scale_nibbles(&scales, max);
    block
}

pub(super) fn iq2_s(x: &[f32], importance: Option<&[f32]>) -> IQ2S {
    let spread = 2.0 * sum_squares(x) / QK_K as f32;
    let mut search = Search { steps: 9, step: 0.1, ..Search::new(&codebook::IQ2S, 3) };
    let mut scales = [0f32; 16];
    let mut block =
        IQ2S { d: to_f16(0.0), qs: [0; QK_K / 8], signs: [0; QK_K / 8], qh: [0; QK_K / 32], scales: [0; QK_K / 32] };
    for (s, x) in x.chunks_exact(16).enumerate() {
        let weights = match importance {
            Some(importance) => weigh::<16>(x, &importance[16 * s..], spread),
            None => std::array::from_fn(|i| 0.25 * spread + x[i] * x[i]),
        };
        let (values, signs) = free_signs::<16>(x);
        search.reach = largest(&values);
        if search.reach < SMALL {
            continue;
        }
        let (scale, points) = search.fit_from_largest(&values, &weights);
        scales[s] = scale.abs();
        for k in 0..2 {
            let i = 2 * s + k;
            block.qs[i] = points[k] as u8;
            block.qh[i / 4] |= ((points[k] >> 8) as u8) << (2 * (i % 4));
            block.signs[i] = flipped(signs[k], scale);
        }
    }
    let max = largest(&scales);
    if max != 0.0 {
        // ggml's factor for the least error in the end.
        block.d = to_f16(max / SCALE_PARTS * 0.9875);
        block.scales = scale_nibbles(&scales, max);
    }
    block
}

pub(super) fn iq3_xxs(x: &[f32], importance: Option<&[f32]>) -> IQ3XXS {
    let spread = 2.0 * sum_squares(x) / QK_K as f32;
    let mut search = Search { steps: 15, step: 0.2, ..Search::new(&codebook::IQ3XXS, 8) };
    let mut scales = [0f32; 8];
    let mut words = [0u32; 8];
    let mut block = IQ3XXS { d: to_f16(0.0), qs: [0; QK_K / 4], scales_and_signs: [0; QK_K / 8] };
    for (s, x) in x.chunks_exact(32).enumerate() {
        let weights = weights_of_32(x, importance.map(|w| &w[32 * s..]), spread);
        let (values, signs) = even_signs::<32>(x, &weights);
        search.reach = largest(&values);
        if search.reach < SMALL {
            continue;
        }
        let (scale, points) = search.fit_from_largest(&values, &weights);
        scales[s] = scale.abs();
        for (q, point) in block.qs[8 * s..].iter_mut().zip(points) {
            *q = point as u8;
        }
        for (k, sign) in signs.iter().enumerate() {
            words[s] |= u32::from(flipped(*sign, scale) & 127) << (7 * k);
        }
    }
    let max = largest(&scales);
    if max == 0.0 {
        block.qs = [0; QK_K / 4];
        return block;
    }
    block.d = to_f16(max / SCALE_PARTS * 1.0125);
    for ((bytes, word), scale) in block.scales_and_signs.chunks_exact_mut(4).zip(words).zip(scales) {
        bytes.copy_from_slice(&(word | u32::from(scale_level(scale, max, 15)) << 28).to_le_bytes());
    }
    block
}

pub(super) fn iq3_s(x: &[f32], importance: Option<&[f32]>) -> IQ3S {
    let spread = 2.0 * sum_squares(x) / QK_K as f32;
    let mut search = Search { steps: 9, step: 0.2, refit: Refit::AllIfAny, ..Search::new(&codebook::IQ3S, 8) };
    let mut scales = [0f32; 8];
    let mut block =
        IQ3S { d: to_f16(0.0), qs: [0; QK_K / 4], qh: [0; QK_K / 32], signs: [0; QK_K / 8], scales: [0; QK_K / 64] };
    for (s, x) in x.chunks_exact(32).enumerate() {
        let weights = weights_of_32(x, importance.map(|w| &w[32 * s..]), spread);
        let (values, signs) = free_signs::<32>(x);
        search.reach = largest(&values);
        if search.reach == 0.0 {
            continue;
        }
        let (scale, points) = search.fit_from_largest(&values, &weights);
        scales[s] = scale.abs();
        for (k, point) in points.iter().enumerate() {
            block.qs[8 * s + k] = *point as u8;
            block.qh[s] |= ((point >> 8) as u8) << k;
        }
        for (k, sign) in signs.iter().enumerate() {
            block.signs[4 * s + k] = flipped(*sign, scale);
        }
    }
    let max = largest(&scales);
    if max != 0.0 {
        block.d = to_f16(max / SCALE_PARTS * 1.033);
        block.scales = scale_nibbles(&scales, max);
    }
    block
}

/// Which groups are rounded anew once the best scale is known.
enum Refit {
    /// Every group.
    All,
    /// Those whose levels were no point of the codebook.
    OffGrid,
    /// Every group, if the levels of one were no point.
    AllIfAny,
}

/// How the scale of a sub-block is searched.
struct Search<'a> {
    codebook: &'a Codebook,
    n_levels: i32,
    /// Trials on both sides of the middle one, which takes `reach` to the highest level.
    steps: i32,
    /// Distance of trials, in half levels.
    step: f32,
    reach: f32,
    refit: Refit,
}

impl<'a> Search<'a> {
    fn new(codebook: &'a Codebook, n_levels: i32) -> Self {
        Search { codebook, n_levels, steps: 0, step: 0.0, reach: 0.0, refit: Refit::OffGrid }
    }

    fn fit_from_largest(&self, x: &[f32], weights: &[f32]) -> (f32, [u16; 8]) {
        self.fit(x, weights, self.reach / (2 * self.n_levels - 1) as f32)
    }

    /// The scale, `start` if none is better, and the points of the groups.
    fn fit(&self, x: &[f32], weights: &[f32], start: f32) -> (f32, [u16; 8]) {
        let dim = self.codebook.dim();
        let mut roots = [0f32; 32];
        for (root, w) in roots.iter_mut().zip(weights) {
            *root = w.sqrt();
        }
        let mut scale = start;
        let mut best = 0.0;
        let mut points = [0u16; 8];
        let mut on_grid = [!matches!(self.refit, Refit::AllIfAny); 8];
        for step in -self.steps..=self.steps {
            let inv = ((2 * self.n_levels - 1) as f32 + step as f32 * self.step) / self.reach;
            let (mut trial, mut trial_on_grid) = ([0; 8], [true; 8]);
            for (k, (x, roots)) in x.chunks_exact(dim).zip(roots.chunks_exact(dim)).enumerate() {
                (trial[k], trial_on_grid[k]) = self.round(x, roots, inv, 1.0 / inv);
            }
            let (sum_qx, sum_q2) = self.sums(x, weights, &trial);
            if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
                scale = sum_qx / sum_q2;
                best = scale * sum_qx;
                (points, on_grid) = (trial, trial_on_grid);
            }
        }
        let all_on_grid = on_grid[..x.len() / dim].iter().all(|&on| on);
        let refit = |k: usize| match self.refit {
            Refit::All => true,
            Refit::OffGrid => !on_grid[k],
            Refit::AllIfAny => !all_on_grid,
        };
        if scale > 0.0 && (matches!(self.refit, Refit::All) || !all_on_grid) {
            for (k, (x, roots)) in x.chunks_exact(dim).zip(roots.chunks_exact(dim)).enumerate() {
                if refit(k) {
                    points[k] = self.round(x, roots, 1.0 / scale, scale).0;
                }
            }
            let (sum_qx, sum_q2) = self.sums(x, weights, &points);
            if sum_q2 > 0.0 {
                scale = sum_qx / sum_q2;
            }
        }
        (scale, points)
    }

    /// The point for a group, and whether its levels are one.
    fn round(&self, x: &[f32], roots: &[f32], inv: f32, scale: f32) -> (u16, bool) {
        let level = |&v: &f32| nearest(0.5 * (inv * v - 1.0)).clamp(0, self.n_levels - 1) as u8;
        match self.codebook.find(x.iter().map(level)) {
            Ok(point) => (point, true),
            Err(near) => (self.codebook.best(near, x, roots, scale, f32::from), false),
        }
    }

    /// Weighted sums of level * x and of level².
    fn sums(&self, x: &[f32], weights: &[f32], points: &[u16; 8]) -> (f32, f32) {
        let dim = self.codebook.dim();
        let (mut sum_qx, mut sum_q2) = (0f32, 0f32);
        for ((x, weights), &point) in x.chunks_exact(dim).zip(weights.chunks_exact(dim)).zip(points) {
            for ((&v, &w), &q) in x.iter().zip(weights).zip(self.codebook.point(point)) {
                let q = f32::from(q);
                sum_qx += w * v * q;
                sum_q2 += w * q * q;
            }
        }
        (sum_qx, sum_q2)
    }
}

fn weights_of_32(x: &[f32], importance: Option<&[f32]>, spread: f32) -> [f32; 32] {
    match importance {
        Some(importance) => weigh(x, importance, spread),
        None => std::array::from_fn(|i| x[i] * x[i]),
    }
}

/// Magnitudes, and the signs of each eight.
fn free_signs<const N: usize>(x: &[f32]) -> ([f32; N], [u8; 4]) {
    let mut signs = [0; 4];
    let values = std::array::from_fn(|i| {
        if x[i] >= 0.0 {
            return x[i];
        }
        signs[i / 8] |= 1 << (i % 8);
        -x[i]
    });
    (values, signs)
}

/// As [`free_signs`], where the number of negative ones in eight must be even: the least important sign gives way, and its
/// magnitude becomes negative.
fn even_signs<const N: usize>(x: &[f32], weights: &[f32; N]) -> ([f32; N], [u8; 4]) {
    let (mut values, mut signs) = free_signs::<N>(x);
    for (k, signs) in signs[..N / 8].iter_mut().enumerate() {
        if signs.count_ones() % 2 == 0 {
            continue;
        }
        let cost = |i: usize| weights[i] * x[i] * x[i];
        let least = (8 * k + 1..8 * k + 8).fold(8 * k, |least, i| if cost(i) < cost(least) { i } else { least });
        values[least] = -values[least];
        *signs ^= 1 << (least % 8);
    }
    (values, signs)
}

/// The signs under a scale that came out negative, which the formats cannot say.
fn flipped(signs: u8, scale: f32) -> u8 {
    if scale < 0.0 { !signs } else { signs }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().skip(1).fold(values[0], |m, &v| if m > v { m } else { v })
}

/// Of x = d * (2 level + 1).
pub(super) fn scale_level(scale: f32, max: f32, n_max: i32) -> u8 {
    let parts = (2 * n_max + 1) as f32;
    let inv = 1.0 / (max / parts);
    nearest(0.5 * (inv * scale - 1.0)).clamp(0, n_max) as u8
}

/// Scale levels, two to a byte.
fn scale_nibbles<const N: usize>(scales: &[f32], max: f32) -> [u8; N] {
    std::array::from_fn(|i| scale_level(scales[2 * i], max, 15) | scale_level(scales[2 * i + 1], max, 15) << 4)
}
