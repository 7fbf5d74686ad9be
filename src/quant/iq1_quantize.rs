//! Rounding of f32 to iq1_s and iq1_m. With three levels the best split of a sub-block's sorted elements is found by trying
//! all; then its groups become points of the codebook.
//!
//! The order of every sum is that of ggml's quantizers, so that files come out equal byte for byte.

use super::codebook::{self, Codebook};
use super::fit::{sum_squares, weigh};
use super::iq::{IQ1M, IQ1S};
use super::iq_quantize::scale_level;
use super::k::QK_K;
use super::to_f16;

/// The three levels, moved up or down.
const UP: [f32; 3] = [-0.875, 0.125, 1.125];
const DOWN: [f32; 3] = [-1.125, -0.125, 0.875];

/// Sub-blocks of smaller magnitude count as zero.
const SMALL_S: f32 = 1e-12;
const SMALL_M: f32 = 1e-7;

/// Needs an importance: at this many bits rounding without one gives garbage.
pub(super) fn iq1_s(x: &[f32], importance: &[f32]) -> IQ1S {
    let codebook = &*codebook::IQ1S;
    let spread = 2.0 * sum_squares(x) / QK_K as f32;
    let (mut scales, mut downs) = ([0f32; 8], [false; 8]);
    let mut block = IQ1S { d: to_f16(0.0), qs: [0; QK_K / 8], qh: [0; QK_K / 32] };
    for (s, (x, importance)) in x.chunks_exact(32).zip(importance.chunks_exact(32)).enumerate() {
        let weights = weigh::<32>(x, importance, spread);
        if magnitude(x) < SMALL_S {
            continue;
        }
        let order = ascending::<32>(x);
        let Some(split) = split_one_shift(x, &weights, &order) else { continue };
        let (mut levels, mut scale, mut down) = (split.levels(&order), split.scale, split.choice == 1);
        if scale < 0.0 {
            levels = levels.map(|l| 2 - l);
            (scale, down) = (-scale, !down);
        }
        let (points, scale) = round(codebook, x, &weights, &levels, scale, |_| if down { DOWN } else { UP });
        for (k, point) in points.iter().enumerate() {
            block.qs[4 * s + k] = *point as u8;
            block.qh[s] |= (point >> 8) << (3 * k);
        }
        (scales[s], downs[s]) = (scale, down);
    }
    let max = largest(&scales);
    if max != 0.0 {
        // ggml's factor for the least error in the end.
        block.d = to_f16(max / 15.0 * 1.125);
        for ((qh, scale), down) in block.qh.iter_mut().zip(scales).zip(downs) {
            *qh |= u16::from(scale_level(scale, max, 7) | u8::from(down) << 3) << 12;
        }
    }
    block
}

pub(super) fn iq1_m(x: &[f32], importance: Option<&[f32]>) -> IQ1M {
    let codebook = &*codebook::IQ1S;
    let spread = 2.0 * sum_squares(x) / QK_K as f32;
    let weights_of = |s: usize| -> [f32; 16] {
        let x = &x[16 * s..][..16];
        match importance {
            Some(importance) => weigh(x, &importance[16 * s..], spread),
            None => std::array::from_fn(|i| x[i] * x[i]),
        }
    };
    let (mut scales, mut choices) = ([0f32; 16], [0usize; 16]);
    let mut block = IQ1M { qs: [0; QK_K / 8], qh: [0; QK_K / 16], scales: [0; QK_K / 32] };
    let mut chosen = [[0u16; 2]; 16];
    for (s, x) in x.chunks_exact(16).enumerate() {
        let weights = weights_of(s);
        if magnitude(x) < SMALL_M {
            continue;
        }
        let order = ascending::<16>(x);
        let Some(split) = split_two_shifts(x, &weights, &order) else { continue };
        let (mut levels, mut scale, mut choice) = (split.levels(&order), split.scale, split.choice);
        if scale < 0.0 {
            levels = levels.map(|l| 2 - l);
            (scale, choice) = (-scale, 3 - choice);
        }
        let (points, scale) = round(codebook, x, &weights, &levels, scale, |k| shifts(choice)[k]);
        chosen[s] = [points[0], points[1]];
        block.qs[2 * s] = points[0] as u8;
        block.qs[2 * s + 1] = points[1] as u8;
        block.qh[s] = (points[0] >> 8) as u8 | ((points[1] >> 8) as u8) << 4;
        (scales[s], choices[s]) = (scale, choice);
    }
    let max = largest(&scales);
    if max == 0.0 {
        return block;
    }
    let mut words = [0u16; 4];
    let (mut sum_qx, mut sum_q2) = (0f32, 0f32);
    for s in 0..16 {
        let level = scale_level(scales[s], max, 7);
        words[s / 4] |= u16::from(level) << (3 * (s % 4));
        block.qh[s] |= [0x00, 0x80, 0x08, 0x88][choices[s]];
        let weights = weights_of(s);
        for (k, (x, weights)) in x[16 * s..][..16].chunks_exact(8).zip(weights.chunks_exact(8)).enumerate() {
            let values = shifts(choices[s])[k];
            for ((&v, &w), &p) in x.iter().zip(weights).zip(codebook.point(chosen[s][k])) {
                let q = values[usize::from(p / 2)] * f32::from(2 * level + 1);
                sum_qx += w * q * v;
                sum_q2 += w * q * q;
            }
        }
    }
    let d = if sum_q2 > 0.0 { sum_qx / sum_q2 } else { max / 15.0 };
    let d = to_f16(d * 1.1125).to_bits();
    for (i, (bytes, word)) in block.scales.chunks_exact_mut(2).zip(words).enumerate() {
        bytes.copy_from_slice(&(word | (d >> (4 * i) & 15) << 12).to_le_bytes());
    }
    block
}

/// The levels of the two halves of a sub-block of iq1_m.
fn shifts(choice: usize) -> [[f32; 3]; 2] {
    [if choice < 2 { UP } else { DOWN }, if choice.is_multiple_of(2) { UP } else { DOWN }]
}

/// Elements below the `first`-th of the sorted ones get the lowest level, from the `second`-th on the highest.
struct Split {
    first: usize,
    second: usize,
    scale: f32,
    /// Which shifts.
    choice: usize,
}

impl Split {
    fn levels<const N: usize>(&self, order: &[usize; N]) -> [u8; N] {
        let mut levels = [0; N];
        for (rank, &i) in order.iter().enumerate() {
            levels[i] = u8::from(rank >= self.first) + u8::from(rank >= self.second);
        }
        levels
    }
}

/// The split of least weighted error, of all, with one shift (0: up, 1: down) for all elements. `None` if they weigh nothing.
fn split_one_shift(x: &[f32], weights: &[f32], order: &[usize; 32]) -> Option<Split> {
    let (mut xs, mut ws) = ([0f32; 33], [0f32; 33]);
    for (j, &i) in order.iter().enumerate() {
        xs[j + 1] = xs[j] + weights[i] * x[i];
        ws[j + 1] = ws[j] + weights[i];
    }
    let mut best: Option<Split> = None;
    let mut best_score = f32::MIN;
    for first in 0..=32 {
        for second in first..=32 {
            let x = [xs[first], xs[second] - xs[first], xs[32] - xs[second]];
            let w = [ws[first], ws[second] - ws[first], ws[32] - ws[second]];
            for (choice, q) in [UP, DOWN].into_iter().enumerate() {
                let sum_qx = x[0] * q[0] + x[1] * q[1] + x[2] * q[2];
                let sum_q2 = w[0] * q[0] * q[0] + w[1] * q[1] * q[1] + w[2] * q[2] * q[2];
                if sum_q2 > 0.0 && sum_qx * sum_qx > best_score * sum_q2 {
                    let scale = sum_qx / sum_q2;
                    best_score = scale * sum_qx;
                    best = Some(Split { first, second, scale, choice });
                }
            }
        }
    }
    best
}

/// The same with a shift for each half: bit 1 of the choice is the first half's, bit 0 the second's.
fn split_two_shifts(x: &[f32], weights: &[f32], order: &[usize; 16]) -> Option<Split> {
    // Sums over the sorted elements of each half. As levels are 1 apart, those of a split follow from them.
    let (mut xs, mut ws) = ([[0f32; 17]; 2], [[0f32; 17]; 2]);
    for (j, &i) in order.iter().enumerate() {
        for half in 0..2 {
            let here = half == i / 8;
            xs[half][j + 1] = if here { xs[half][j] + weights[i] * x[i] } else { xs[half][j] };
            ws[half][j + 1] = if here { ws[half][j] + weights[i] } else { ws[half][j] };
        }
    }
    let gaps = |q: [f32; 3]| [q[0] * q[0] - q[1] * q[1], q[1] * q[1] - q[2] * q[2]];
    let (up_gaps, down_gaps) = (gaps(UP), gaps(DOWN));
    let mut best: Option<Split> = None;
    let mut best_score = f32::MIN;
    for first in 0..=16 {
        for second in first..=16 {
            let sums = |half: usize, q: [f32; 3], gaps: [f32; 2]| {
                let qx = xs[half][16] * q[2] - (xs[half][first] + xs[half][second]);
                let q2 = ws[half][16] * q[2] * q[2] + ws[half][first] * gaps[0] + ws[half][second] * gaps[1];
                (qx, q2)
            };
            let halves = [0, 1].map(|half| [sums(half, UP, up_gaps), sums(half, DOWN, down_gaps)]);
            for choice in 0..4 {
                let (a, b) = (halves[0][choice / 2], halves[1][choice % 2]);
                let (sum_qx, sum_q2) = (a.0 + b.0, a.1 + b.1);
                if sum_q2 > 0.0 && sum_qx * sum_qx > best_score * sum_q2 {
                    let scale = sum_qx / sum_q2;
                    best_score = scale * sum_qx;
                    best = Some(Split { first, second, scale, choice });
                }
            }
        }
    }
    best
}

/// Points for the groups of eight, and the scale that suits them; `values` are the levels of a group.
fn round(
    codebook: &Codebook,
    x: &[f32],
    weights: &[f32],
    levels: &[u8],
    scale: f32,
    values: impl Fn(usize) -> [f32; 3],
) -> ([u16; 4], f32) {
    let groups = || x.chunks_exact(8).zip(weights.chunks_exact(8)).enumerate();
    let mut points = [0; 4];
    let mut on_grid = true;
    for (k, (x, weights)) in groups() {
        points[k] = match codebook.find(levels[8 * k..][..8].iter().copied()) {
            Ok(point) => point,
            Err(near) => {
                on_grid = false;
                let values = values(k);
                codebook.best(near, x, weights, scale, |p| values[usize::from(p / 2)])
            }
        };
    }
    if on_grid {
        return (points, scale);
    }
    let (mut sum_qx, mut sum_q2) = (0f32, 0f32);
    for (k, (x, weights)) in groups() {
        let values = values(k);
        for ((&v, &w), &p) in x.iter().zip(weights).zip(codebook.point(points[k])) {
            let q = values[usize::from(p / 2)];
            sum_qx += w * q * v;
            sum_q2 += w * q * q;
        }
    }
    (points, if sum_qx > 0.0 && sum_q2 > 0.0 { sum_qx / sum_q2 } else { scale })
}

/// The elements' indices by value, equal ones in their order.
fn ascending<const N: usize>(x: &[f32]) -> [usize; N] {
    let mut order = std::array::from_fn(|i| i);
    // Adding 0 makes the two zeros equal.
    order.sort_by(|&a, &b| (x[a] + 0.0).total_cmp(&(x[b] + 0.0)));
    order
}

fn magnitude(x: &[f32]) -> f32 {
    x.iter().fold(0f32, |m, v| if m > v.abs() { m } else { v.abs() })
}

fn largest(scales: &[f32]) -> f32 {
    scales.iter().fold(0f32, |m, &v| if m > v { m } else { v })
}
