//! Rows of q8_0 read in place for few queries, in integers: the bytes of keys meet queries of 16 bits, and the bytes of
//! values weights of 16 bits. A product of 16 bits does two multiplications in one lane, where floats need a conversion each.

use super::cells::{block_bytes, block_scale};
use super::few::{Ahead, BLOCK, BlockRows, put_scores, rows_at};
use crate::backend::cpu::math;
use crate::backend::cpu::simd::{Lanes, Simd};
use crate::quant::legacy::Q8_0;

/// Rounds a query to 16 bits; returns the unit.
#[inline(always)]
pub fn sixteen_bits(q: &[f32], words: &mut [i16]) -> f32 {
    let max = q.iter().fold(0.0f32, |m, v| if v.abs() > m { v.abs() } else { m });
    let unit = max / 32767.0;
    let inverse = if unit > 0.0 { 1.0 / unit } else { 0.0 };
    for (w, q) in words.iter_mut().zip(q) {
        *w = math::round(q * inverse) as i16;
    }
    unit
}

/// Scores of a few queries of 16 bits (`stride` elements each, in `units`) with all rows, as `few.rs` does it.
#[inline(always)]
pub fn score_words<S: Simd>(
    s: S,
    rows: BlockRows<'_>,
    q: &[i16],
    stride: usize,
    units: &[f32],
    scores: &mut [f32],
    ahead: Ahead,
) {
    match *units {
        [a] => words_tile::<S, 1, 4>(s, rows, q, stride, &[a], scores, ahead),
        [a, b] => words_tile::<S, 2, 2>(s, rows, q, stride, &[a, b], scores, ahead),
        [a, b, c] => words_tile::<S, 3, 2>(s, rows, q, stride, &[a, b, c], scores, ahead),
        [a, b, c, d] => words_tile::<S, 4, 2>(s, rows, q, stride, &[a, b, c, d], scores, ahead),
        _ => {}
    }
}

#[inline(always)]
fn words_tile<S: Simd, const Q: usize, const R: usize>(
    s: S,
    rows: BlockRows<'_>,
    q: &[i16],
    stride: usize,
    units: &[f32; Q],
    scores: &mut [f32],
    ahead: Ahead,
) {
    let l = s.lanes();
    let (base, row_stride) = rows.pointer();
    assert!(q.len() == Q * stride && scores.len() == Q * BLOCK && rows.n <= BLOCK && stride.is_multiple_of(32));
    for eight in (0..rows.n).step_by(8) {
        let mut of_eight = [[l.zero(); 8]; Q];
        for part in (0..8).step_by(R) {
            let at = rows_at::<S, R>(s, base, row_stride, eight + part, rows.n, ahead);
            let mut dots = [[l.zero(); R]; Q];
            for b in 0..stride / 32 {
                for r in 0..R {
                    // SAFETY: `pointer` checked that all rows lie in their data, with `stride` elements each.
                    let (k, d) = unsafe { (l.widen_i16(block_bytes(at[r], b)), block_scale(l, at[r], b)) };
                    for (a, dots) in dots.iter_mut().enumerate() {
                        // SAFETY: the assertion above: each of the Q queries has `stride` elements.
                        let q = unsafe { &*q.as_ptr().add(a * stride + 32 * b).cast() };
                        dots[r] = l.mul_add_lanes(dots[r], s.dot_words(k, q), d);
                    }
                }
            }
            for (of_eight, dots) in of_eight.iter_mut().zip(dots) {
                of_eight[part..part + R].copy_from_slice(&dots);
            }
        }
        put_scores::<S, Q>(s, of_eight, units, eight, scores);
    }
}

/// Adds all rows to the totals of a few queries (`stride` elements each) with the weights `[query][row]`.
#[inline(always)]
pub fn weigh_words<S: Simd>(s: S, rows: BlockRows<'_>, weights: &[f32], stride: usize, totals: &mut [f32]) {
    match weights.len() / BLOCK {
        1 => weigh_tile::<S, 1>(s, rows, weights, stride, totals),
        2 => weigh_tile::<S, 2>(s, rows, weights, stride, totals),
        3 => weigh_tile::<S, 3>(s, rows, weights, stride, totals),
        4 => weigh_tile::<S, 4>(s, rows, weights, stride, totals),
        _ => {}
    }
}

/// The scale of a row belongs to its weight: their product is rounded to 16 bits, with one unit for all rows. So the sums of
/// a column are integers; with 48 rows they stay below 2^28.
#[inline(always)]
fn weigh_tile<S: Simd, const Q: usize>(s: S, rows: BlockRows<'_>, weights: &[f32], stride: usize, totals: &mut [f32]) {
    let l = s.lanes();
    let (base, row_stride) = rows.pointer();
    assert!(weights.len() == Q * BLOCK && rows.n <= BLOCK && totals.len() == Q * stride && stride.is_multiple_of(32));
    for b in 0..stride / 32 {
        let mut bits = [0u16; BLOCK];
        for (r, bits) in bits.iter_mut().enumerate().take(rows.n) {
            // SAFETY: `pointer` checked that all rows lie in their data, with `stride` elements each; a block begins with
            // its scale.
            let scale = unsafe { base.add(r * row_stride + size_of::<Q8_0>() * b).cast::<u16>().read_unaligned() };
            *bits = scale.to_le();
        }
        let mut words = [[[0i16; 2]; BLOCK / 2]; Q];
        let mut units = [0.0; Q];
        for a in 0..Q {
            units[a] = sixteen_bit_weights(s, &weights[a * BLOCK..][..BLOCK], &bits, rows.n, &mut words[a]);
        }
        for half in 0..2 {
            let at = |r: usize| base.wrapping_add(r * row_stride + size_of::<Q8_0>() * b + 2 + 16 * half).cast();
            let mut sums = [[l.zeros(); 2]; Q];
            for (i, first) in (0..rows.n).step_by(2).enumerate() {
                // SAFETY: both rows, the second at most the last, lie in their data, as above.
                let pairs = unsafe { l.pairs(&*at(first), &*at((first + 1).min(rows.n - 1))) };
                for a in 0..Q {
                    for (sum, pairs) in sums[a].iter_mut().zip(pairs) {
                        *sum = s.add_pairs(*sum, pairs, words[a][i]);
                    }
                }
            }
            for a in 0..Q {
                let columns = &mut totals[a * stride + 32 * b + 16 * half..][..16];
                for (total, sum) in columns.as_chunks_mut::<8>().0.iter_mut().zip(l.in_order(sums[a])) {
                    let sum = l.mul_add(l.load_f32(total), sum, units[a]);
                    l.store_f32(total, sum);
                }
            }
        }
    }
}

/// Rounds the first `n` weights times the scales `bits` (f16) to 16 bits, the others to 0; returns the unit.
#[inline(always)]
fn sixteen_bit_weights<S: Simd>(
    s: S,
    weights: &[f32],
    bits: &[u16; BLOCK],
    n: usize,
    words: &mut [[i16; 2]; BLOCK / 2],
) -> f32 {
    let l = s.lanes();
    let mut scaled = [0.0f32; BLOCK];
    let eights = weights.as_chunks::<8>().0.iter().zip(bits.as_chunks::<8>().0);
    for (out, (weights, bits)) in scaled.as_chunks_mut::<8>().0.iter_mut().zip(eights) {
        l.store_f32(out, l.mul(l.load_f32(weights), l.f16s(*bits)));
    }
    scaled[n..].fill(0.0);
    let mut largest = l.zero();
    for eight in scaled.as_chunks::<8>().0 {
        largest = l.max(l.abs(l.load_f32(eight)), largest);
    }
    let mut lanes = [0.0; 8];
    l.store_f32(&mut lanes, largest);
    let unit = lanes.into_iter().fold(0.0f32, |m, v| if v > m { v } else { m }) / 32767.0;
    let inverse = if unit > 0.0 { 1.0 / unit } else { 0.0 };
    for (word, x) in words.as_flattened_mut().iter_mut().zip(&scaled) {
        // The sum has a unit of 1: its low bits are the rounded number.
        *word = (x * inverse + ROUND).to_bits() as i16;
    }
    unit
}

/// 1.5 * 2^23: numbers near it have no fraction.
const ROUND: f32 = 12_582_912.0;
