//! Activations as the integer kernels take them: 8 bits with one scale per 32 elements, whatever the weight's format.
//! Quantized once per tensor and read by every product of a step. The scales of 256 elements lie side by side, so that
//! kernels that go through a row of weights take eight of them at once.

use super::kernels::Kernel;
use super::simd::{Lanes, Simd};

/// Elements that share a scale.
pub const X_GROUP: usize = 32;

/// Elements of a block.
pub const X_BLOCK: usize = 256;

/// 256 activations: element `i` is `d[i / 32] * q[i]`. The sums serve weights with an offset or minimum. Rows whose length
/// is no multiple of 256 end in zeros.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct XBlock {
    /// -127..=127.
    pub q: [i8; X_BLOCK],
    /// The same, by columns: the first four of every group, then the next four of every group, and so on. Kernels whose lanes
    /// are groups read this.
    pub columns: [i8; X_BLOCK],
    /// Scale of every group of 32.
    pub d: [f32; 8],
    /// `d` times the sum of `q` of every group.
    pub sum: [f32; 8],
    /// `d` times the sum of `q` of every half of a group, at [`half_index`].
    pub halves: [f32; 16],
}

impl Default for XBlock {
    fn default() -> Self {
        bytemuck::Zeroable::zeroed()
    }
}

/// Where the values of half `half` of group `group` lie in vectors of halves: first halves of four groups, their second
/// halves, then the other four groups likewise. That is the order in which [`Simd::dot_halves`] sums up.
#[inline(always)]
pub const fn half_index(group: usize, half: usize) -> usize {
    8 * (group / 4) + 4 * half + group % 4
}

/// How many blocks a row of `k` elements takes.
#[inline(always)]
pub const fn x_blocks(k: usize) -> usize {
    k.div_ceil(X_BLOCK)
}

/// Rounds a row to blocks; `x.len()` is a multiple of 32, and `blocks.len()` is [`x_blocks`] of it.
pub struct QuantizeRow<'a> {
    /// The row.
    pub x: &'a [f32],
    /// Its blocks.
    pub blocks: &'a mut [XBlock],
}

impl Kernel for QuantizeRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.x.len().is_multiple_of(X_GROUP) && self.blocks.len() == x_blocks(self.x.len()));
        let (whole, rest) = self.x.as_chunks::<X_BLOCK>();
        let n_whole = whole.len();
        for (x, block) in whole.iter().zip(self.blocks.iter_mut()) {
            quantize_block(s, x, block);
        }
        if let Some(block) = self.blocks.get_mut(n_whole) {
            let mut padded = [0.0; X_BLOCK];
            padded[..rest.len()].copy_from_slice(rest);
            quantize_block(s, &padded, block);
        }
    }
}

/// Scales below this one are taken as zero: their inverse would overflow.
const MIN_SCALE: f32 = 1e-37;

#[inline(always)]
fn quantize_block<S: Simd>(s: S, x: &[f32; X_BLOCK], block: &mut XBlock) {
    let l = s.lanes();
    let groups = x.as_chunks::<X_GROUP>().0;
    let mut largest = [l.zero(); 8];
    for (largest, x) in largest.iter_mut().zip(groups) {
        let eights = x.as_chunks::<8>().0;
        let (a, b) = (l.abs(l.load_f32(&eights[0])), l.abs(l.load_f32(&eights[1])));
        let (c, d) = (l.abs(l.load_f32(&eights[2])), l.abs(l.load_f32(&eights[3])));
        *largest = l.max(l.max(a, b), l.max(c, d));
    }
    let largest = l.max8(largest);
    let mut inverse = [0.0f32; 8];
    for ((d, inverse), largest) in block.d.iter_mut().zip(&mut inverse).zip(largest) {
        let scale = largest / 127.0;
        *d = if scale > MIN_SCALE { scale } else { 0.0 };
        *inverse = if scale > MIN_SCALE { 1.0 / scale } else { 0.0 };
    }
    for ((x, q), inverse) in groups.iter().zip(block.q.as_chunks_mut::<X_GROUP>().0).zip(inverse) {
        l.store(bytemuck::cast_mut(q), l.round_scaled(x, inverse));
    }
    let mut rows = [l.splat(0); 8];
    for (row, q) in rows.iter_mut().zip(block.q.as_chunks::<X_GROUP>().0) {
        *row = l.load(bytemuck::cast_ref(q));
    }
    for (column, out) in l.transpose(rows).into_iter().zip(block.columns.as_chunks_mut::<X_GROUP>().0) {
        l.store(bytemuck::cast_mut(out), column);
    }
    let ones = [l.splat(1); 8];
    let mut d = [0.0; 8];
    l.store_f32(&mut d, l.load_f32(&block.d));
    let sums = l.to_f32(s.dot_groups::<1>(ones, rows));
    l.store_f32(&mut block.sum, l.mul(sums, l.load_f32(&d)));
    let halves = s.dot_halves::<1>(ones, rows);
    let (four, other) = (l.load_twice(&[d[0], d[1], d[2], d[3]]), l.load_twice(&[d[4], d[5], d[6], d[7]]));
    let [low, high] = block.halves.as_chunks_mut::<8>().0 else { unreachable!("sixteen halves") };
    l.store_f32(low, l.mul(l.to_f32(halves[0]), four));
    l.store_f32(high, l.mul(l.to_f32(halves[1]), other));
}
