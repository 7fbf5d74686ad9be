//! The formats of very few bits that need no codebook: ternary (tq1_0, tq2_0), 4-bit floats (mxfp4, nvfp4), and the
//! sign and two-bit formats q1_0 and q2_0.

use super::k::QK_K;
use super::legacy::inverse;
use super::{Block, DType, Quantize, grids, to_f16, to_i32};
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

impl Quantize for TQ1_0 {
    fn quantize(x: &[f32]) -> Self {
        let d = magnitude(x);
        let id = inverse(d);
        let mut block = TQ1_0 { qs: [0; 48], qh: [0; 4], d: to_f16(d) };
        let (run32, run16) = block.qs.split_at_mut(32);
        pack_trits(&x[..160], id, run32);
        pack_trits(&x[160..240], id, run16);
        pack_trits(&x[240..], id, &mut block.qh);
        block
    }
}

impl Quantize for TQ2_0 {
    fn quantize(x: &[f32]) -> Self {
        let d = magnitude(x);
        let id = inverse(d);
        let mut qs = [0; QK_K / 4];
        for (j, v) in x.iter().enumerate() {
            qs[j / 128 * 32 + j % 32] |= (trit(v * id) & 3) << (2 * (j % 128 / 32));
        }
        TQ2_0 { qs, d: to_f16(d) }
    }
}

impl Quantize for MXFP4 {
    fn quantize(x: &[f32]) -> Self {
        let amax = magnitude(x);
        // The largest 4-bit float is 1.5 * 2^2.
        let e = if amax > 0.0 { to_i32(amax.log2().floor() - 2.0 + 127.0) as u8 } else { 0 };
        let mut qs = [0; 16];
        pack_float4(x, half_power(e), &mut qs);
        MXFP4 { e, qs }
    }
}

impl Quantize for NVFP4 {
    fn quantize(x: &[f32]) -> Self {
        let mut block = NVFP4 { d: [0; 4], qs: [0; 32] };
        for ((x, qs), d) in x.chunks_exact(16).zip(block.qs.chunks_exact_mut(8)).zip(&mut block.d) {
            *d = to_e4m3(magnitude(x) / 6.0);
            pack_float4(x, half_e4m3(*d), qs);
        }
        block
    }
}

impl Quantize for Q1_0 {
    fn quantize(x: &[f32]) -> Self {
        let mut sum = 0.0;
        let mut qs = [0; 16];
        for (j, v) in x.iter().enumerate() {
            sum += v.abs();
            qs[j / 8] |= u8::from(*v >= 0.0) << (j % 8);
        }
        Q1_0 { d: to_f16(sum / 128.0), qs }
    }
}

impl Quantize for Q2_0 {
    fn quantize(x: &[f32]) -> Self {
        let d = magnitude(x);
        let id = inverse(d);
        let mut qs = [0; 16];
        for (j, v) in x.iter().enumerate() {
            let q = to_i32((v * id).round()).wrapping_add(1).clamp(0, 3) as u8;
            qs[j / 4] |= q << (2 * (j % 4));
        }
        Q2_0 { d: to_f16(d), qs }
    }
}

/// A run of bytes holds digit `n` of all its bytes, then digit `n + 1`. A byte is a fraction of 256 in base 3, rounded up:
/// multiplying moves the wanted digit in front of the point.
fn trits(d: f32, qs: &[u8], y: &mut [f32]) {
    const POW3: [u8; 5] = [1, 3, 9, 27, 81];
    for (y, pow) in y.chunks_exact_mut(qs.len()).zip(POW3) {
        for (y, &q) in y.iter_mut().zip(qs) {
            let digit = (u16::from(q.wrapping_mul(pow)) * 3) >> 8;
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

fn magnitude(x: &[f32]) -> f32 {
    x.iter().fold(0f32, |m, v| if v.abs() > m { v.abs() } else { m })
}

/// The ternary digit of a value in -1..=1.
fn trit(v: f32) -> u8 {
    to_i32(v.round()).wrapping_add(1) as u8
}

/// The inverse of [`trits`], with as many digits per byte as `x` has runs.
fn pack_trits(x: &[f32], id: f32, qs: &mut [u8]) {
    let n_digits = x.len() / qs.len();
    let n_bytes = qs.len();
    for (m, q) in qs.iter_mut().enumerate() {
        let digits = (0..5).map(|n| if n < n_digits { trit(x[m + n * n_bytes] * id) } else { 0 });
        let number = digits.fold(0u8, |q, digit| q.wrapping_mul(3).wrapping_add(digit));
        *q = (u32::from(number) * 256).div_ceil(243) as u8;
    }
}

fn pack_float4(x: &[f32], d: f32, qs: &mut [u8]) {
    let (low, high) = x.split_at(qs.len());
    for ((q, low), high) in qs.iter_mut().zip(low).zip(high) {
        *q = nearest_float4(*low, d) | nearest_float4(*high, d) << 4;
    }
}

/// The 4-bit float that is nearest to `x` when scaled by `d`; the first of equals.
fn nearest_float4(x: f32, d: f32) -> u8 {
    let (mut best, mut best_error) = (0, (f32::from(grids::FP4_VALUES[0]) * d - x).abs());
    for (i, &value) in grids::FP4_VALUES.iter().enumerate().skip(1) {
        let error = (f32::from(value) * d - x).abs();
        if error < best_error {
            (best, best_error) = (i as u8, error);
        }
    }
    best
}

/// Nearest e4m3 number of a positive value, halves up, at most 448.
fn to_e4m3(x: f32) -> u8 {
    const LARGEST: u8 = 0x7e;
    if x.is_nan() || x <= 0.0 {
        return 0;
    }
    let bits = x.min(448.0).to_bits();
    let exponent = (bits >> 23) as i32 - 127 + 7;
    if exponent <= 0 {
        return to_i32(x * 512.0 + 0.5).min(7) as u8;
    }
    // A mantissa that rounds up to 8 carries into the exponent.
    let rounded = ((exponent as u32) << 3) + (bits >> 20 & 7) + (bits >> 19 & 1);
    if rounded >= 15 << 3 { LARGEST } else { rounded as u8 }
}
