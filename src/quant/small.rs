//! The formats of very few bits that need no codebook: ternary (tq1_0, tq2_0), 4-bit floats (mxfp4, nvfp4), and the
//! sign and two-bit formats q1_0 and q2_0.

use super::k::QK_K;
use super::{Block, DType, grids};
use bytemuck::{Pod, Zeroable};
use half::f16;

/// x = d * (q - 1), q of one ternary digit, five to a byte.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct TQ1_0 {
    /// A run of 32 bytes, which holds 160 elements, and a run of 16, which holds 80: see [`trits`].
    pub(crate) qs: [u8; 48],
    /// Four bytes with the last 16 elements.
    pub(crate) qh: [u8; 4],
    pub(crate) d: f16,
}
const _: () = assert!(size_of::<TQ1_0>() == 54);

/// x = d * (q - 1), q of 2 bits.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct TQ2_0 {
    /// Two runs of 32 bytes, each holding 128 elements: element `32 s + l` of a run is bits `2 s` of byte `l`.
    pub(crate) qs: [u8; QK_K / 4],
    pub(crate) d: f16,
}
const _: () = assert!(size_of::<TQ2_0>() == 66);

/// x = 2^(e - 127) * q, q a 4-bit float; 32 elements, packed as in q4_0.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct MXFP4 {
    pub(crate) e: u8,
    pub(crate) qs: [u8; 16],
}
const _: () = assert!(size_of::<MXFP4>() == 17);

/// x = d * q, q a 4-bit float, d an 8-bit one (e4m3, sign ignored) per 16 elements.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct NVFP4 {
    pub(crate) d: [u8; 4],
    /// Per 16 elements 8 bytes: byte `j` holds elements `j` and `j + 8`.
    pub(crate) qs: [u8; 32],
}
const _: () = assert!(size_of::<NVFP4>() == 36);

/// x = ±d, positive where the element's bit is set.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q1_0 {
    pub(crate) d: f16,
    pub(crate) qs: [u8; 16],
}
const _: () = assert!(size_of::<Q1_0>() == 18);

/// x = d * (q - 1), q of 2 bits, four neighbours to a byte.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q2_0 {
    pub(crate) d: f16,
    pub(crate) qs: [u8; 16],
}
const _: () = assert!(size_of::<Q2_0>() == 18);

impl Block for TQ1_0 {
    const DTYPE: DType = DType::TQ1_0;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        let (run32, rest) = y.split_at_mut(160);
        let (run16, last) = rest.split_at_mut(80);
        trits(d, &self.qs[..32], run32);
        trits(d, &self.qs[32..], run16);
        trits(d, &self.qh, last);
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for TQ2_0 {
    const DTYPE: DType = DType::TQ2_0;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, y) in y.chunks_exact_mut(32).enumerate() {
            for (y, q) in y.iter_mut().zip(&self.qs[32 * (i / 4)..]) {
                *y = f32::from((q >> (2 * (i % 4)) & 3) as i8 - 1) * d;
            }
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for MXFP4 {
    const DTYPE: DType = DType::MXFP4;
    const LEN: usize = 32;

    fn dequantize(&self, y: &mut [f32]) {
        float4(half_power(self.e), &self.qs, y);
    }

    fn is_finite(&self) -> bool {
        self.e != 0xff
    }
}

impl Block for NVFP4 {
    const DTYPE: DType = DType::NVFP4;
    const LEN: usize = 64;

    fn dequantize(&self, y: &mut [f32]) {
        for ((y, qs), &d) in y.chunks_exact_mut(16).zip(self.qs.chunks_exact(8)).zip(&self.d) {
            float4(half_e4m3(d), qs, y);
        }
    }

    fn is_finite(&self) -> bool {
        true
    }
}

impl Block for Q1_0 {
    const DTYPE: DType = DType::Q1_0;
    const LEN: usize = 128;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (j, y) in y.iter_mut().enumerate() {
            *y = if self.qs[j / 8] >> (j % 8) & 1 != 0 { d } else { -d };
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for Q2_0 {
    const DTYPE: DType = DType::Q2_0;
    const LEN: usize = 64;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (j, y) in y.iter_mut().enumerate() {
            *y = f32::from((self.qs[j / 4] >> (2 * (j % 4)) & 3) as i8 - 1) * d;
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

/// A run of bytes holds digit `n` of all its bytes, then digit `n + 1`. A byte is a fraction of 256 in base 3, rounded up:
/// multiplying moves the wanted digit in front of the point.
fn trits(d: f32, qs: &[u8], y: &mut [f32]) {
    const POW3: [u8; 5] = [1, 3, 9, 27, 81];
    for (y, pow) in y.chunks_exact_mut(qs.len()).zip(POW3) {
        for (y, &q) in y.iter_mut().zip(qs) {
            let digit = u16::from(q.wrapping_mul(pow)) * 3 >> 8;
            *y = (i32::from(digit) - 1) as f32 * d;
        }
    }
}

fn float4(d: f32, qs: &[u8], y: &mut [f32]) {
    let (low, high) = y.split_at_mut(qs.len());
    for ((low, high), &q) in low.iter_mut().zip(high).zip(qs) {
        *low = f32::from(grids::FP4_VALUES[usize::from(q & 15)]) * d;
        *high = f32::from(grids::FP4_VALUES[usize::from(q >> 4)]) * d;
    }
}

/// 2^(e - 128): half the value of an e8m0 scale, as [`grids::FP4_VALUES`] are doubled.
pub(crate) fn half_power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

/// Half the magnitude of an e4m3 number; its one NaN reads as 0.
pub(crate) fn half_e4m3(x: u8) -> f32 {
    if x == 0x7f {
        return 0.0;
    }
    let (exponent, mantissa) = (x >> 3 & 15, f32::from(x & 7));
    // Scaling by powers of two is exact here.
    if exponent == 0 { mantissa * 2f32.powi(-10) } else { (8.0 + mantissa) * 2f32.powi(i32::from(exponent) - 11) }
}
