//! The formats with 32 elements and one f16 scale per block: q4_0, q4_1, q5_0, q5_1, q8_0, and q8_1, which activations
//! take. In the 4- and 5-bit ones byte `j` of `qs` holds elements `j` (low half) and `j + 16` (high half).

use super::{Block, DType, Quantize, to_f16, to_i32};
use bytemuck::{Pod, Zeroable};
use half::f16;

const QK: usize = 32;

/// x = d * (q - 8), q of 4 bits.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q4_0 {
    pub(crate) d: f16,
    pub(crate) qs: [u8; QK / 2],
}
const _: () = assert!(size_of::<Q4_0>() == 18);

/// x = d * q + m, q of 4 bits.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q4_1 {
    pub(crate) d: f16,
    pub(crate) m: f16,
    pub(crate) qs: [u8; QK / 2],
}
const _: () = assert!(size_of::<Q4_1>() == 20);

/// x = d * (q - 16), q of 5 bits.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q5_0 {
    pub(crate) d: f16,
    /// Bit `j` is the fifth bit of element `j`.
    pub(crate) qh: [u8; 4],
    pub(crate) qs: [u8; QK / 2],
}
const _: () = assert!(size_of::<Q5_0>() == 22);

/// x = d * q + m, q of 5 bits.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q5_1 {
    pub(crate) d: f16,
    pub(crate) m: f16,
    /// Bit `j` is the fifth bit of element `j`.
    pub(crate) qh: [u8; 4],
    pub(crate) qs: [u8; QK / 2],
}
const _: () = assert!(size_of::<Q5_1>() == 24);

/// x = d * q, q of 8 bits, signed.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q8_0 {
    pub(crate) d: f16,
    pub(crate) qs: [i8; QK],
}
const _: () = assert!(size_of::<Q8_0>() == 34);

/// x = d * q, q of 8 bits, signed; `s` saves dot products with offset formats a sum.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Q8_1 {
    pub(crate) d: f16,
    /// d * sum(qs)
    pub(crate) s: f16,
    pub(crate) qs: [i8; QK],
}
const _: () = assert!(size_of::<Q8_1>() == 36);

impl Block for Q4_0 {
    const DTYPE: DType = DType::Q4_0;
    const LEN: usize = QK;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        nibbles(&self.qs, y, |q, _| (i32::from(q) - 8) as f32 * d);
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for Q4_1 {
    const DTYPE: DType = DType::Q4_1;
    const LEN: usize = QK;

    fn dequantize(&self, y: &mut [f32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        nibbles(&self.qs, y, |q, _| f32::from(q) * d + m);
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite() && self.m.is_finite()
    }
}

impl Block for Q5_0 {
    const DTYPE: DType = DType::Q5_0;
    const LEN: usize = QK;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        let qh = u32::from_le_bytes(self.qh);
        nibbles(&self.qs, y, |q, j| (i32::from(q | fifth_bit(qh, j)) - 16) as f32 * d);
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for Q5_1 {
    const DTYPE: DType = DType::Q5_1;
    const LEN: usize = QK;

    fn dequantize(&self, y: &mut [f32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        let qh = u32::from_le_bytes(self.qh);
        nibbles(&self.qs, y, |q, j| f32::from(q | fifth_bit(qh, j)) * d + m);
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite() && self.m.is_finite()
    }
}

impl Block for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const LEN: usize = QK;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, &q) in y.iter_mut().zip(&self.qs) {
            *y = f32::from(q) * d;
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for Q8_1 {
    const DTYPE: DType = DType::Q8_1;
    const LEN: usize = QK;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, &q) in y.iter_mut().zip(&self.qs) {
            *y = f32::from(q) * d;
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite() && self.s.is_finite()
    }
}

impl Quantize for Q4_0 {
    fn quantize(x: &[f32]) -> Self {
        let (d, id) = signed_scale(x, -8.0);
        let mut qs = [0; QK / 2];
        for (j, qs) in qs.iter_mut().enumerate() {
            let q = |v: f32| level(v * id, 8.5, 15);
            *qs = q(x[j]) | q(x[j + QK / 2]) << 4;
        }
        Q4_0 { d: to_f16(d), qs }
    }
}

impl Quantize for Q4_1 {
    fn quantize(x: &[f32]) -> Self {
        let (d, id, min) = range_scale(x, 15.0);
        let mut qs = [0; QK / 2];
        for (j, qs) in qs.iter_mut().enumerate() {
            let q = |v: f32| level((v - min) * id, 0.5, 15);
            *qs = q(x[j]) | q(x[j + QK / 2]) << 4;
        }
        Q4_1 { d: to_f16(d), m: to_f16(min), qs }
    }
}

impl Quantize for Q5_0 {
    fn quantize(x: &[f32]) -> Self {
        let (d, id) = signed_scale(x, -16.0);
        let (qh, qs) = five_bits(x, |v| level(v * id, 16.5, 31));
        Q5_0 { d: to_f16(d), qh, qs }
    }
}

impl Quantize for Q5_1 {
    fn quantize(x: &[f32]) -> Self {
        let (d, id, min) = range_scale(x, 31.0);
        let (qh, qs) = five_bits(x, |v| level((v - min) * id, 0.5, i8::MAX));
        Q5_1 { d: to_f16(d), m: to_f16(min), qh, qs }
    }
}

impl Quantize for Q8_0 {
    fn quantize(x: &[f32]) -> Self {
        let (d, qs) = eight_bits(x);
        Q8_0 { d: to_f16(d), qs }
    }
}

impl Quantize for Q8_1 {
    fn quantize(x: &[f32]) -> Self {
        let (d, qs) = eight_bits(x);
        let sum: i32 = qs.iter().map(|&q| i32::from(q)).sum();
        Q8_1 { d: to_f16(d), s: to_f16(sum as f32 * d), qs }
    }
}

/// Calls `f(nibble, element)` for each element, low nibbles first.
fn nibbles(qs: &[u8; QK / 2], y: &mut [f32], f: impl Fn(u8, usize) -> f32) {
    for (j, &q) in qs.iter().enumerate() {
        y[j] = f(q & 15, j);
        y[j + QK / 2] = f(q >> 4, j + QK / 2);
    }
}

fn fifth_bit(qh: u32, j: usize) -> u8 {
    ((qh >> j) as u8 & 1) << 4
}

/// Scale that maps the element of largest magnitude to `end` (negative, so that the side with one more level serves it),
/// and its inverse.
fn signed_scale(x: &[f32], end: f32) -> (f32, f32) {
    let mut max = 0f32;
    for &v in x {
        if max.abs() < v.abs() {
            max = v;
        }
    }
    let d = max / end;
    (d, inverse(d))
}

/// Scale that spreads the range of `x` over `levels`, its inverse, and the minimum.
fn range_scale(x: &[f32], levels: f32) -> (f32, f32, f32) {
    let (mut min, mut max) = (f32::MAX, f32::MIN);
    for &v in x {
        if v < min {
            min = v;
        }
        if v > max {
            max = v;
        }
    }
    let d = (max - min) / levels;
    (d, inverse(d), min)
}

pub(super) fn inverse(d: f32) -> f32 {
    if d != 0.0 { 1.0 / d } else { 0.0 }
}

/// `v + bias` truncated and at most `max`.
fn level(v: f32, bias: f32, max: i8) -> u8 {
    (to_i32(v + bias) as i8).min(max) as u8
}

fn five_bits(x: &[f32], q: impl Fn(f32) -> u8) -> ([u8; 4], [u8; QK / 2]) {
    pack_five_bits(&std::array::from_fn(|j| q(x[j])))
}

/// The layout of q5_0 and q5_1.
pub(super) fn pack_five_bits(levels: &[u8; QK]) -> ([u8; 4], [u8; QK / 2]) {
    let mut qh = 0u32;
    for (j, level) in levels.iter().enumerate() {
        qh |= u32::from(level >> 4 & 1) << j;
    }
    (qh.to_le_bytes(), std::array::from_fn(|j| levels[j] & 15 | levels[j + QK / 2] << 4))
}

fn eight_bits(x: &[f32]) -> (f32, [i8; QK]) {
    let amax = x.iter().fold(0f32, |m, v| if m > v.abs() { m } else { v.abs() });
    let d = amax / 127.0;
    let id = inverse(d);
    let mut qs = [0; QK];
    for (q, v) in qs.iter_mut().zip(x) {
        *q = to_i32((v * id).round()) as i8;
    }
    (d, qs)
}
