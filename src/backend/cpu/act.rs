//! Activations as the integer kernels take them: 8 bits with one scale per 32 elements, whatever the weight's format.
//! Quantized once per tensor and read by every product of a step.

use super::kernels::Kernel;
use super::simd::Simd;

/// Elements per block of activations.
pub const X_BLOCK: usize = 32;

/// 32 activations: `x = d * q`. The sums serve weights with an offset or minimum.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct XBlock {
    /// -127..=127.
    pub q: [i8; X_BLOCK],
    /// Scale.
    pub d: f32,
    /// `d` times the sum of each half of `q`.
    pub s: [f32; 2],
    /// `d` times the sum of `q`.
    pub sum: f32,
}

/// Rounds a row to blocks; `x.len()` is 32 times `blocks.len()`.
pub struct QuantizeRow<'a> {
    /// The row.
    pub x: &'a [f32],
    /// Its blocks.
    pub blocks: &'a mut [XBlock],
}

impl Kernel for QuantizeRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        assert_eq!(self.x.len(), self.blocks.len() * X_BLOCK);
        for (x, block) in self.x.as_chunks::<X_BLOCK>().0.iter().zip(self.blocks) {
            quantize_block(x, block);
        }
    }
}

#[inline(always)]
fn quantize_block(x: &[f32; X_BLOCK], block: &mut XBlock) {
    let mut max = [0.0f32; 16];
    for half in x.as_chunks::<16>().0 {
        for (m, v) in max.iter_mut().zip(half) {
            // Not f32::max: a comparison compiles to one instruction. NaN inputs leave the maximum as it is.
            let v = v.abs();
            *m = if v > *m { v } else { *m };
        }
    }
    let max = super::math::max16(max);
    let d = max / 127.0;
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    // One simple loop after the other: mixed ones are not vectorized.
    let mut ints = [0i32; X_BLOCK];
    for (i, x) in ints.iter_mut().zip(x) {
        *i = super::math::round(x * inverse);
    }
    for (q, i) in block.q.iter_mut().zip(&ints) {
        *q = *i as i8;
    }
    let mut sums = [0i32; 2];
    for (sum, half) in sums.iter_mut().zip(ints.as_chunks::<16>().0) {
        for i in half {
            *sum += i;
        }
    }
    block.d = d;
    block.s = [sums[0] as f32 * d, sums[1] as f32 * d];
    block.sum = (sums[0] + sums[1]) as f32 * d;
}
