//! The k-quants: super-blocks of 256 elements whose sub-blocks have quantized scales of their own. q8_K holds activations.

use super::{Block, DType};
use bytemuck::{Pod, Zeroable};
use half::f16;

/// Elements per super-block.
pub const QK_K: usize = 256;

/// x = d * sc * q - dmin * m, q of 2 bits; 16 sub-blocks of 16.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q2K {
    /// Per sub-block: sc in the low, m in the high nibble.
    pub(crate) scales: [u8; QK_K / 16],
    /// Two runs of 32 bytes, each holding 128 elements: element `32 s + l` of a run is bits `2 s` of byte `l`.
    pub(crate) qs: [u8; QK_K / 4],
    pub(crate) d: f16,
    pub(crate) dmin: f16,
}
const _: () = assert!(size_of::<Q2K>() == 84);

/// x = d * (sc - 32) * (q - 4), q of 3 bits; 16 sub-blocks of 16.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q3K {
    /// The third bits: element `32 s + l` has bit `s` of byte `l`.
    pub(crate) hmask: [u8; QK_K / 8],
    /// The low two bits, as in [`Q2K`].
    pub(crate) qs: [u8; QK_K / 4],
    /// 16 scales of 6 bits: see [`Q3K::scales`].
    pub(crate) scales: [u8; 12],
    pub(crate) d: f16,
}
const _: () = assert!(size_of::<Q3K>() == 110);

/// x = d * sc * q - dmin * m, q of 4 bits; 8 sub-blocks of 32.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q4K {
    pub(crate) d: f16,
    pub(crate) dmin: f16,
    /// 8 scales and 8 minima of 6 bits: see [`scale_min`].
    pub(crate) scales: [u8; 12],
    /// Four runs of 32 bytes, each holding one sub-block in the low nibbles and the next in the high ones.
    pub(crate) qs: [u8; QK_K / 2],
}
const _: () = assert!(size_of::<Q4K>() == 144);

/// x = d * sc * q - dmin * m, q of 5 bits; 8 sub-blocks of 32.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q5K {
    pub(crate) d: f16,
    pub(crate) dmin: f16,
    /// As in [`Q4K`].
    pub(crate) scales: [u8; 12],
    /// The fifth bits: element `32 s + l` has bit `s` of byte `l`.
    pub(crate) qh: [u8; QK_K / 8],
    /// The low four bits, as in [`Q4K`].
    pub(crate) qs: [u8; QK_K / 2],
}
const _: () = assert!(size_of::<Q5K>() == 176);

/// x = d * sc * (q - 32), q of 6 bits; 16 sub-blocks of 16.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q6K {
    /// Low four bits: two runs of 64 bytes, each holding 64 elements in the low nibbles and the next 64 in the high ones.
    pub(crate) ql: [u8; QK_K / 2],
    /// High two bits: two runs of 32 bytes, laid out as `qs` of [`Q2K`].
    pub(crate) qh: [u8; QK_K / 4],
    pub(crate) scales: [i8; QK_K / 16],
    pub(crate) d: f16,
}
const _: () = assert!(size_of::<Q6K>() == 210);

/// x = d * q, q of 8 bits; activations for dot products with k-quants.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q8K {
    pub(crate) d: f32,
    pub(crate) qs: [i8; QK_K],
    /// Sums of 16 neighbours.
    pub(crate) bsums: [i16; QK_K / 16],
}
const _: () = assert!(size_of::<Q8K>() == 292);

/// Scale and minimum of sub-block `j` (0..8) of a [`Q4K`] or [`Q5K`]: the first four lie in the low 6 bits of bytes `j`
/// and `j + 4`, whose top bits complete the nibbles of the last four in bytes 8..12.
pub fn scale_min(j: usize, scales: &[u8; 12]) -> (u8, u8) {
    if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        (scales[j + 4] & 15 | scales[j - 4] >> 6 << 4, scales[j + 4] >> 4 | scales[j] >> 6 << 4)
    }
}

impl Q3K {
    /// The 16 sub-block scales, with their offset of 32 removed: nibbles in bytes 0..8 (low ones first), top two bits in
    /// bytes 8..12.
    pub fn scales(&self) -> [i8; 16] {
        std::array::from_fn(|j| {
            let low = self.scales[j % 8] >> (4 * (j / 8)) & 15;
            let high = self.scales[8 + j % 4] >> (2 * (j / 4)) & 3;
            (low | high << 4) as i8 - 32
        })
    }
}

impl Block for Q2K {
    const DTYPE: DType = DType::Q2K;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (s, (y, &scale)) in y.chunks_exact_mut(16).zip(&self.scales).enumerate() {
            let (d, m) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
            for (y, q) in y.iter_mut().zip(two_bits(&self.qs, s)) {
                *y = d * f32::from(q) - m;
            }
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite() && self.dmin.is_finite()
    }
}

impl Block for Q3K {
    const DTYPE: DType = DType::Q3K;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (s, (y, scale)) in y.chunks_exact_mut(16).zip(self.scales()).enumerate() {
            let d = d * f32::from(scale);
            let hmask = &self.hmask[s % 2 * 16..][..16];
            for ((y, q), h) in y.iter_mut().zip(two_bits(&self.qs, s)).zip(hmask) {
                let q = (q | (h >> (s / 2) & 1) << 2) as i8 - 4;
                *y = d * f32::from(q);
            }
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for Q4K {
    const DTYPE: DType = DType::Q4K;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (s, y) in y.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(s, &self.scales);
            let (d, m) = (d * f32::from(scale), dmin * f32::from(min));
            for (y, q) in y.iter_mut().zip(four_bits(&self.qs, s)) {
                *y = d * f32::from(q) - m;
            }
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite() && self.dmin.is_finite()
    }
}

impl Block for Q5K {
    const DTYPE: DType = DType::Q5K;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (s, y) in y.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(s, &self.scales);
            let (d, m) = (d * f32::from(scale), dmin * f32::from(min));
            for ((y, q), h) in y.iter_mut().zip(four_bits(&self.qs, s)).zip(&self.qh) {
                *y = d * f32::from(q | (h >> s & 1) << 4) - m;
            }
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite() && self.dmin.is_finite()
    }
}

impl Block for Q6K {
    const DTYPE: DType = DType::Q6K;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (s, (y, &scale)) in y.chunks_exact_mut(16).zip(&self.scales).enumerate() {
            let d = d * f32::from(scale);
            let (run, s_in_run) = (s / 8, s % 8);
            let ql = &self.ql[64 * run + 16 * (s_in_run % 4)..][..16];
            for ((y, l), h) in y.iter_mut().zip(ql).zip(two_bits(&self.qh, s)) {
                let q = (l >> (4 * (s_in_run / 4)) & 15 | h << 4) as i8 - 32;
                *y = d * f32::from(q);
            }
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for Q8K {
    const DTYPE: DType = DType::Q8K;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        for (y, &q) in y.iter_mut().zip(&self.qs) {
            *y = self.d * f32::from(q);
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

/// The 16 two-bit values of sub-block `s` (0..16) of the layout that [`Q2K::qs`] describes.
fn two_bits(qs: &[u8; QK_K / 4], s: usize) -> impl Iterator<Item = u8> + '_ {
    let (run, shift, half) = (s / 8, s % 8 / 2 * 2, s % 2);
    qs[32 * run + 16 * half..][..16].iter().map(move |q| q >> shift & 3)
}

/// The 32 four-bit values of sub-block `s` (0..8) of the layout that [`Q4K::qs`] describes.
fn four_bits(qs: &[u8; QK_K / 2], s: usize) -> impl Iterator<Item = u8> + '_ {
    qs[32 * (s / 2)..][..32].iter().map(move |q| q >> (4 * (s % 2)) & 15)
}
