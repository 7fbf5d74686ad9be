//! The iq formats: groups of 4 or 8 elements are points of a codebook (`grids`), with signs and scales apart; and iq4,
//! whose elements are single levels of a non-linear scale.

use super::k::QK_K;
use super::{Block, DType, grids};
use bytemuck::{Pod, Zeroable};
use half::f16;

/// x = d * (2 sc + 1) / 8 * point * sign; points of 8 elements, scales per 32.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct IQ2XXS {
    pub(crate) d: f16,
    /// Per 32 elements 8 bytes: four point indices, then a word with four 7-bit sign indices and a 4-bit scale on top.
    pub(crate) qs: [u8; QK_K / 4],
}
const _: () = assert!(size_of::<IQ2XXS>() == 66);

/// x = d * (2 sc + 1) / 8 * point * sign; points of 8 elements, scales per 16.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct IQ2XS {
    pub(crate) d: f16,
    /// Per 8 elements: a 9-bit point index and a 7-bit sign index on top.
    pub(crate) qs: [u16; QK_K / 8],
    /// Per 32 elements: the scale of the first half in the low nibble, of the second in the high one.
    pub(crate) scales: [u8; QK_K / 32],
}
const _: () = assert!(size_of::<IQ2XS>() == 74);

/// x = d * (2 sc + 1) / 8 * point * sign; points of 8 elements, scales per 16, free signs.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct IQ2S {
    pub(crate) d: f16,
    /// Low 8 bits of the point indices.
    pub(crate) qs: [u8; QK_K / 8],
    /// Per 8 elements their sign bits.
    pub(crate) signs: [u8; QK_K / 8],
    /// Per 32 elements the top 2 bits of the four point indices.
    pub(crate) qh: [u8; QK_K / 32],
    /// As in [`IQ2XS`].
    pub(crate) scales: [u8; QK_K / 32],
}
const _: () = assert!(size_of::<IQ2S>() == 82);

/// x = d * (2 sc + 1) / 4 * point * sign; points of 4 elements, scales per 32.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct IQ3XXS {
    pub(crate) d: f16,
    /// Point indices.
    pub(crate) qs: [u8; QK_K / 4],
    /// Per 32 elements a word with four 7-bit sign indices and a 4-bit scale on top.
    pub(crate) scales_and_signs: [u8; QK_K / 8],
}
const _: () = assert!(size_of::<IQ3XXS>() == 98);

/// x = d * (2 sc + 1) * point * sign; points of 4 elements, scales per 32, free signs.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct IQ3S {
    pub(crate) d: f16,
    /// Low 8 bits of the point indices.
    pub(crate) qs: [u8; QK_K / 4],
    /// Per 32 elements the top bit of the eight point indices.
    pub(crate) qh: [u8; QK_K / 32],
    /// Per 8 elements their sign bits.
    pub(crate) signs: [u8; QK_K / 8],
    /// Per 64 elements: the scale of the first half in the low nibble, of the second in the high one.
    pub(crate) scales: [u8; QK_K / 64],
}
const _: () = assert!(size_of::<IQ3S>() == 110);

/// x = d * (2 sc + 1) * (point ± 1/8); points of 8 elements, scale and sign of the shift per 32.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct IQ1S {
    pub(crate) d: f16,
    /// Low 8 bits of the point indices.
    pub(crate) qs: [u8; QK_K / 8],
    /// Per 32 elements: four times 3 top bits of the point indices, a 3-bit scale, the sign of the shift.
    pub(crate) qh: [u16; QK_K / 32],
}
const _: () = assert!(size_of::<IQ1S>() == 50);

/// x = d * (2 sc + 1) * (point ± 1/8); points of 8 elements, sign of the shift per 8, scales per 16.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct IQ1M {
    /// Low 8 bits of the point indices.
    pub(crate) qs: [u8; QK_K / 8],
    /// Per 8 elements a nibble: 3 top bits of the point index, the sign of the shift.
    pub(crate) qh: [u8; QK_K / 16],
    /// Per 64 elements a word of four 3-bit scales; the top nibbles of the four words are `d`.
    pub(crate) scales: [u8; QK_K / 32],
}
const _: () = assert!(size_of::<IQ1M>() == 56);

/// x = d * level; 32 elements per block, packed as in q4_0.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct IQ4NL {
    pub(crate) d: f16,
    pub(crate) qs: [u8; 16],
}
const _: () = assert!(size_of::<IQ4NL>() == 18);

/// x = d * (sc - 32) * level; scales of 6 bits per 32 elements.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct IQ4XS {
    pub(crate) d: f16,
    /// Top 2 bits of the eight scales.
    pub(crate) scales_h: u16,
    /// Low 4 bits of the eight scales.
    pub(crate) scales_l: [u8; QK_K / 64],
    /// Per 32 elements 16 bytes, packed as in q4_0.
    pub(crate) qs: [u8; QK_K / 2],
}
const _: () = assert!(size_of::<IQ4XS>() == 136);

impl IQ1M {
    /// The super-block scale, gathered from the top nibbles of the four scale words.
    pub fn d(&self) -> f16 {
        f16::from_bits((0..4).fold(0, |d, i| d | u16::from(self.scales[2 * i + 1] >> 4) << (4 * i)))
    }

    /// The 3-bit scale of 16-element sub-block `s` (0..16).
    pub fn scale(&self, s: usize) -> u8 {
        let word = u16::from_le_bytes([self.scales[s / 4 * 2], self.scales[s / 4 * 2 + 1]]);
        (word >> (3 * (s % 4)) & 7) as u8
    }
}

impl IQ4XS {
    /// The scale of 32-element sub-block `s` (0..8), with its offset of 32 removed.
    pub fn scale(&self, s: usize) -> i8 {
        let low = self.scales_l[s / 2] >> (4 * (s % 2)) & 15;
        let high = (self.scales_h >> (2 * s) & 3) as u8;
        (low | high << 4) as i8 - 32
    }
}

impl Block for IQ2XXS {
    const DTYPE: DType = DType::IQ2XXS;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (y, qs) in y.chunks_exact_mut(32).zip(self.qs.as_chunks::<8>().0) {
            let [index @ .., s0, s1, s2, s3] = *qs;
            let signs = u32::from_le_bytes([s0, s1, s2, s3]);
            let db = d * (0.5 + (signs >> 28) as f32) * 0.25;
            for (l, y) in y.chunks_exact_mut(8).enumerate() {
                signed(db, &grids::IQ2XXS[usize::from(index[l])], even_signs(signs, l), y);
            }
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for IQ2XS {
    const DTYPE: DType = DType::IQ2XS;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, (y, q)) in y.chunks_exact_mut(8).zip(self.qs).enumerate() {
            let db = d * (0.5 + f32::from(self.scales[i / 4] >> (4 * (i / 2 % 2)) & 15)) * 0.25;
            let signs = grids::EVEN_SIGNS[usize::from(q >> 9)];
            signed(db, &grids::IQ2XS[usize::from(q & 511)], signs, y);
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for IQ2S {
    const DTYPE: DType = DType::IQ2S;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, y) in y.chunks_exact_mut(8).enumerate() {
            let db = d * (0.5 + f32::from(self.scales[i / 4] >> (4 * (i / 2 % 2)) & 15)) * 0.25;
            let high = usize::from(self.qh[i / 4] >> (2 * (i % 4)) & 3);
            signed(db, &grids::IQ2S[usize::from(self.qs[i]) | high << 8], self.signs[i], y);
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for IQ3XXS {
    const DTYPE: DType = DType::IQ3XXS;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, y) in y.chunks_exact_mut(8).enumerate() {
            let word = u32::from_le_bytes(self.scales_and_signs.as_chunks::<4>().0[i / 4]);
            let db = d * (0.5 + (word >> 28) as f32) * 0.5;
            let signs = even_signs(word, i % 4);
            let (low, high) = y.split_at_mut(4);
            signed(db, &grids::IQ3XXS[usize::from(self.qs[2 * i])], signs, low);
            signed(db, &grids::IQ3XXS[usize::from(self.qs[2 * i + 1])], signs >> 4, high);
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for IQ3S {
    const DTYPE: DType = DType::IQ3S;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, y) in y.chunks_exact_mut(4).enumerate() {
            let scale = self.scales[i / 16] >> (4 * (i / 8 % 2)) & 15;
            let high = usize::from(self.qh[i / 8] >> (i % 8) & 1);
            let point = &grids::IQ3S[usize::from(self.qs[i]) | high << 8];
            signed(d * f32::from(1 + 2 * scale), point, self.signs[i / 2] >> (4 * (i % 2)), y);
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for IQ1S {
    const DTYPE: DType = DType::IQ1S;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, y) in y.chunks_exact_mut(8).enumerate() {
            let qh = self.qh[i / 4];
            let dl = d * f32::from(2 * (qh >> 12 & 7) + 1);
            let high = usize::from(qh >> (3 * (i % 4)) & 7);
            shifted(dl, &grids::IQ1S[usize::from(self.qs[i]) | high << 8], qh & 0x8000 != 0, y);
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for IQ1M {
    const DTYPE: DType = DType::IQ1M;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d().to_f32();
        for (i, y) in y.chunks_exact_mut(8).enumerate() {
            let dl = d * f32::from(2 * self.scale(i / 2) + 1);
            let qh = self.qh[i / 2] >> (4 * (i % 2));
            shifted(dl, &grids::IQ1S[usize::from(self.qs[i]) | usize::from(qh & 7) << 8], qh & 8 != 0, y);
        }
    }

    fn is_finite(&self) -> bool {
        self.d().is_finite()
    }
}

impl Block for IQ4NL {
    const DTYPE: DType = DType::IQ4NL;
    const LEN: usize = 32;

    fn dequantize(&self, y: &mut [f32]) {
        levels(self.d.to_f32(), &self.qs, y);
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl Block for IQ4XS {
    const DTYPE: DType = DType::IQ4XS;
    const LEN: usize = QK_K;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.to_f32();
        for (s, (y, qs)) in y.chunks_exact_mut(32).zip(self.qs.as_chunks::<16>().0).enumerate() {
            levels(d * f32::from(self.scale(s)), qs, y);
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

/// The eight signs of 7-bit index `l` (0..4) of `word`.
fn even_signs(word: u32, l: usize) -> u8 {
    grids::EVEN_SIGNS[(word >> (7 * l) & 127) as usize]
}

/// A point scaled, coordinate `j` negated where bit `j` of `signs` is set.
fn signed(d: f32, point: &[u8], signs: u8, y: &mut [f32]) {
    for (j, (y, &p)) in y.iter_mut().zip(point).enumerate() {
        let v = d * f32::from(p);
        *y = if signs >> j & 1 != 0 { -v } else { v };
    }
}

/// A point of the ternary codebook moved by 1/8 and scaled.
fn shifted(d: f32, point: &[i8; 8], down: bool, y: &mut [f32]) {
    let shift = if down { -0.125 } else { 0.125 };
    for (y, &p) in y.iter_mut().zip(point) {
        *y = d * (f32::from(p) + shift);
    }
}

fn levels(d: f32, qs: &[u8; 16], y: &mut [f32]) {
    for (j, &q) in qs.iter().enumerate() {
        y[j] = d * f32::from(grids::IQ4_VALUES[usize::from(q & 15)]);
        y[j + 16] = d * f32::from(grids::IQ4_VALUES[usize::from(q >> 4)]);
    }
}
