//! Searches for the scale of a group of elements: a few trials, of which the one of least weighted error is kept. What the
//! quantizers of `k_quantize`, `weighted` and `iq_quantize` have in common.
//!
//! The order of every sum is that of ggml's quantizers, so that files come out equal byte for byte.

/// Groups of smaller magnitude count as zero.
pub(super) const EPSILON: f32 = 1e-15;

/// Nearest integer, ties to even, of a value below 2^22; larger ones wrap.
pub(super) fn nearest(v: f32) -> i32 {
    // Adding 1.5 * 2^23 leaves the integer in the low bits of the mantissa.
    ((v + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// How an affine sub-block (x = scale * level - min) is searched.
pub(super) struct Affine {
    /// The largest level.
    pub(super) n_max: i32,
    /// The first trial spreads the range over `n_max + start` levels, each further one over `step` more.
    pub(super) start: f32,
    pub(super) step: f32,
    pub(super) n_steps: i32,
    /// Turns a difference into its share of the error.
    pub(super) error: fn(f32) -> f32,
}

impl Affine {
    /// Finds scale, min (as a number to subtract) and levels.
    pub(super) fn fit(&self, x: &[f32], weights: &[f32], levels: &mut [u8]) -> (f32, f32) {
        let (mut min, mut max) = (x[0], x[0]);
        let (mut sum_w, mut sum_x) = (weights[0], weights[0] * x[0]);
        for (&v, &w) in x.iter().zip(weights).skip(1) {
            min = if v < min { v } else { min };
            max = if v > max { v } else { max };
            sum_w += w;
            sum_x += w * v;
        }
        min = if min > 0.0 { 0.0 } else { min };
        if max == min {
            levels.fill(0);
            return (0.0, -min);
        }
        let level = |v: f32, inv: f32, min: f32| nearest(inv * (v - min)).clamp(0, self.n_max) as u8;
        let error = |levels: &[u8], scale: f32, min: f32| {
            let mut sum = 0.0;
            for ((&v, &w), &l) in x.iter().zip(weights).zip(levels) {
                sum += w * (self.error)(scale * f32::from(l) + min - v);
            }
            sum
        };

        let inv = self.n_max as f32 / (max - min);
        let mut scale = 1.0 / inv;
        for (l, &v) in levels.iter_mut().zip(x) {
            *l = level(v, inv, min);
        }
        let mut best = error(levels, scale, min);
        let mut trial = [0; 32];
        let trial = &mut trial[..x.len()];
        for step in 0..=self.n_steps {
            let inv = (self.start + self.step * step as f32 + self.n_max as f32) / (max - min);
            let (mut sum_l, mut sum_l2, mut sum_xl) = (0f32, 0f32, 0f32);
            for ((t, &v), &w) in trial.iter_mut().zip(x).zip(weights) {
                *t = level(v, inv, min);
                let l = f32::from(*t);
                sum_l += w * l;
                sum_l2 += w * l * l;
                sum_xl += w * l * v;
            }
            let det = sum_w * sum_l2 - sum_l * sum_l;
            if det > 0.0 {
                let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
                let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
                if this_min > 0.0 {
                    this_min = 0.0;
                    this_scale = sum_xl / sum_l2;
                }
                let this_error = error(trial, this_scale, this_min);
                if this_error < best {
                    levels.copy_from_slice(trial);
                    (best, scale, min) = (this_error, this_scale, this_min);
                }
            }
        }
        (scale, -min)
    }
}

/// The scale of x = scale * (level - n_max) of least weighted error, and the levels.
pub(super) fn fit_signed(x: &[f32], weights: &[f32], n_max: i32, levels: &mut [u8]) -> f32 {
    let max = x.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    if max.abs() < EPSILON {
        levels.fill(0);
        return 0.0;
    }
    let level = |v: f32, inv: f32| nearest(inv * v).clamp(-n_max, n_max - 1);
    let sums = |inv: f32| {
        let (mut sum_lx, mut sum_l2) = (0f32, 0f32);
        for (&v, &w) in x.iter().zip(weights) {
            let l = level(v, inv) as f32;
            sum_lx += w * v * l;
            sum_l2 += w * l * l;
        }
        (sum_lx, sum_l2)
    };
    let mut best_inv = -n_max as f32 / max;
    let (sum_lx, sum_l2) = sums(best_inv);
    let mut scale = if sum_l2 != 0.0 { sum_lx / sum_l2 } else { 0.0 };
    let mut best = scale * sum_lx;
    for step in (-9..=9).filter(|&step| step != 0) {
        let inv = -(n_max as f32 + 0.1 * step as f32) / max;
        let (sum_lx, sum_l2) = sums(inv);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
            best_inv = inv;
        }
    }
    for (l, &v) in levels.iter_mut().zip(x) {
        *l = (level(v, best_inv) + n_max) as u8;
    }
    scale
}

/// The scale of x = scale * level, for levels of at least 0 and at most `n_max`, of least weighted error: the best of nine
/// first guesses, then one level at a time while that helps. The levels are bytes that wrap where `x` is negative.
pub(super) fn fit_positive(x: &[f32], weights: &[f32], n_max: i32, levels: &mut [u8]) -> f32 {
    let max = x.iter().fold(0f32, |m, &v| if v > m { v } else { m });
    if max < EPSILON {
        levels.fill(0);
        return 0.0;
    }
    let mut inv = n_max as f32 / max;
    let error = |inv: f32, level: fn(i32, i32) -> i32| {
        let (scale, mut sum) = (1.0 / inv, 0f32);
        for (&v, &w) in x.iter().zip(weights) {
            let diff = v - scale * level(nearest(inv * v), n_max) as f32;
            sum += w * diff * diff;
        }
        sum
    };
    let mut best = error(inv, |l, _| i32::from(l as u8));
    for step in (-4..=4).filter(|&step| step != 0) {
        let trial = (0.1 * step as f32 + n_max as f32) / max;
        let this = error(trial, |l, n_max| l.min(n_max));
        if this < best {
            (best, inv) = (this, trial);
        }
    }
    let (mut sum_lx, mut sum_l2) = (0f32, 0f32);
    for ((level, &v), &w) in levels.iter_mut().zip(x).zip(weights) {
        let l = nearest(inv * v).min(n_max);
        *level = l as u8;
        sum_lx += w * v * l as f32;
        sum_l2 += w * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((level, &v), &w) in levels.iter_mut().zip(x).zip(weights) {
            let old = f32::from(*level);
            let (mut lx, mut l2) = (sum_lx - w * v * old, sum_l2 - w * old * old);
            if lx > 0.0 && l2 > 0.0 {
                let new = nearest(v * l2 / lx).min(n_max);
                if new != i32::from(*level) {
                    lx += w * v * new as f32;
                    l2 += w * new as f32 * new as f32;
                    if lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        (*level, sum_lx, sum_l2) = (new as u8, lx, l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

/// The sum of squares.
pub(super) fn sum_squares(x: &[f32]) -> f32 {
    let mut sum = 0.0;
    x.iter().for_each(|v| sum += v * v);
    sum
}

/// What an error in each element weighs: its importance, and more for elements that are large for their surroundings, of
/// which `spread` is the mean square.
pub(super) fn weigh<const N: usize>(x: &[f32], importance: &[f32], spread: f32) -> [f32; N] {
    std::array::from_fn(|i| importance[i] * (spread + x[i] * x[i]).sqrt())
}
