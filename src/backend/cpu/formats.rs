//! What a weight format contributes to the integer kernels: how a block unpacks to unsigned bytes, and its scales.
//! Every format becomes the same thing, `w = d * u + m` per 32 or 16 elements; signed formats have `m = -offset * d`.

use super::simd::Lanes;
use crate::quant::{Block, DType, iq, k, legacy, small};

/// Scales and minima of the parts of a block; entries beyond its number of parts are 0.
#[derive(Clone, Copy)]
pub struct Scales {
    /// Factors.
    pub d: [f32; 16],
    /// Minima.
    pub m: [f32; 16],
}

impl Scales {
    /// Of nothing.
    pub const ZERO: Scales = Scales { d: [0.0; 16], m: [0.0; 16] };
}

/// Scales of the eight groups of 256 elements, or of their sixteen halves in the order of
/// [`half_index`](super::act::half_index); `[1]` is used for halves only.
#[derive(Clone, Copy)]
pub struct ScaleVectors<F> {
    /// Factors.
    pub d: [F; 2],
    /// Minima; what formats with an offset leave here is not read.
    pub m: [F; 2],
}

/// What is added to `d * u`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Zero {
    /// A minimum of each part.
    Minima,
    /// `-offset * d`.
    Offset(u8),
}

/// A block format with integer kernels.
pub trait Format: Block {
    /// Whether scales belong to 16 elements instead of 32.
    const HALVES: bool;
    /// No unpacked byte is larger.
    const MAX: u8;
    /// What is added to `d * u`.
    const ZERO: Zero;
    /// Groups of 32 elements in a block.
    const GROUPS: usize = Self::LEN / 32;

    /// Elements `32 * group ..` as unsigned bytes.
    fn unpack<L: Lanes>(&self, l: L, group: usize) -> L::B;

    /// The scales, in the order of the elements.
    fn scales<L: Lanes>(&self, l: L) -> Scales;

    /// The scales of eight groups, given the block that each of them belongs to: eight blocks of one group each, or the same
    /// block of eight groups eight times.
    fn scale_vectors<L: Lanes>(l: L, blocks: [&Self; 8]) -> ScaleVectors<L::F>;
}

/// Something to do with a format that is known only at run time.
pub trait FormatVisitor {
    /// What comes of it.
    type Out;

    /// Called with the format.
    fn visit<F: Format>(self) -> Self::Out;
}

/// Whether `dtype` has integer kernels; the others are multiplied as f32.
pub fn has_integer_kernels(dtype: DType) -> bool {
    struct Yes;
    impl FormatVisitor for Yes {
        type Out = bool;
        fn visit<F: Format>(self) -> bool {
            true
        }
    }
    with_format(dtype, Yes).unwrap_or(false)
}

/// Calls the visitor with the format of `dtype`; `None` if that has no integer kernels.
#[inline(always)]
pub fn with_format<V: FormatVisitor>(dtype: DType, visitor: V) -> Option<V::Out> {
    Some(match dtype {
        DType::Q4_0 => visitor.visit::<legacy::Q4_0>(),
        DType::Q4_1 => visitor.visit::<legacy::Q4_1>(),
        DType::Q5_0 => visitor.visit::<legacy::Q5_0>(),
        DType::Q5_1 => visitor.visit::<legacy::Q5_1>(),
        DType::Q8_0 => visitor.visit::<legacy::Q8_0>(),
        DType::Q2K => visitor.visit::<k::Q2K>(),
        DType::Q3K => visitor.visit::<k::Q3K>(),
        DType::Q4K => visitor.visit::<k::Q4K>(),
        DType::Q5K => visitor.visit::<k::Q5K>(),
        DType::Q6K => visitor.visit::<k::Q6K>(),
        DType::IQ4NL => visitor.visit::<iq::IQ4NL>(),
        DType::IQ4XS => visitor.visit::<iq::IQ4XS>(),
        DType::MXFP4 => visitor.visit::<small::MXFP4>(),
        DType::F32
        | DType::F16
        | DType::BF16
        | DType::F64
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::Q8_1
        | DType::Q8K
        | DType::IQ2XXS
        | DType::IQ2XS
        | DType::IQ2S
        | DType::IQ3XXS
        | DType::IQ3S
        | DType::IQ1S
        | DType::IQ1M
        | DType::TQ1_0
        | DType::TQ2_0
        | DType::NVFP4
        | DType::Q1_0
        | DType::Q2_0 => return None,
    })
}

/// The levels of iq4_nl and iq4_xs, moved up by 128.
const LEVELS: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// The doubled values of mxfp4, moved up by 12.
const FLOAT4: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// One scale and minimum.
#[inline(always)]
fn one(d: f32, m: f32) -> Scales {
    let mut scales = Scales::ZERO;
    scales.d[0] = d;
    scales.m[0] = m;
    scales
}

/// Of factors alone.
#[inline(always)]
fn factors<F: Copy>(d: F) -> ScaleVectors<F> {
    ScaleVectors { d: [d; 2], m: [d; 2] }
}

/// Both halves of a block with f16 factors and minima side by side.
#[inline(always)]
fn pair(d: half::f16, m: half::f16) -> u32 {
    u32::from(d.to_bits()) | u32::from(m.to_bits()) << 16
}

/// Factors `d * sc` of halves.
#[inline(always)]
fn half_factors<L: Lanes>(l: L, d: f32, sc: [i8; 16]) -> [L::F; 2] {
    let (sc, d) = (l.halves(sc), l.splat_f32(d));
    [l.mul(sc[0], d), l.mul(sc[1], d)]
}

/// Scales `d * sc`, and minima that undo the offset of the elements.
#[inline(always)]
fn offset<const N: usize>(d: f32, sc: [i8; N], offset: f32) -> Scales {
    let mut scales = Scales::ZERO;
    for (i, sc) in sc.into_iter().enumerate() {
        scales.d[i] = d * f32::from(sc);
        scales.m[i] = scales.d[i] * -offset;
    }
    scales
}

impl Format for legacy::Q4_0 {
    const HALVES: bool = false;
    const MAX: u8 = 15;
    const ZERO: Zero = Zero::Offset(8);

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.nibbles(&self.qs)
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        let d = l.f16(self.d);
        one(d, -8.0 * d)
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, blocks: [&Self; 8]) -> ScaleVectors<L::F> {
        factors(l.f16s(blocks.map(|b| b.d.to_bits())))
    }
}

impl Format for legacy::Q4_1 {
    const HALVES: bool = false;
    const MAX: u8 = 15;
    const ZERO: Zero = Zero::Minima;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.nibbles(&self.qs)
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        one(l.f16(self.d), l.f16(self.m))
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, blocks: [&Self; 8]) -> ScaleVectors<L::F> {
        let [d, m] = l.f16_pairs(blocks.map(|b| pair(b.d, b.m)));
        ScaleVectors { d: [d; 2], m: [m; 2] }
    }
}

impl Format for legacy::Q5_0 {
    const HALVES: bool = false;
    const MAX: u8 = 31;
    const ZERO: Zero = Zero::Offset(16);

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.or(l.nibbles(&self.qs), l.spread(u32::from_le_bytes(self.qh), 16))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        let d = l.f16(self.d);
        one(d, -16.0 * d)
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, blocks: [&Self; 8]) -> ScaleVectors<L::F> {
        factors(l.f16s(blocks.map(|b| b.d.to_bits())))
    }
}

impl Format for legacy::Q5_1 {
    const HALVES: bool = false;
    const MAX: u8 = 31;
    const ZERO: Zero = Zero::Minima;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.or(l.nibbles(&self.qs), l.spread(u32::from_le_bytes(self.qh), 16))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        one(l.f16(self.d), l.f16(self.m))
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, blocks: [&Self; 8]) -> ScaleVectors<L::F> {
        let [d, m] = l.f16_pairs(blocks.map(|b| pair(b.d, b.m)));
        ScaleVectors { d: [d; 2], m: [m; 2] }
    }
}

impl Format for legacy::Q8_0 {
    const HALVES: bool = false;
    const MAX: u8 = 255;
    const ZERO: Zero = Zero::Offset(128);

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.xor(l.load(bytemuck::cast_ref(&self.qs)), l.splat(0x80))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        let d = l.f16(self.d);
        one(d, -128.0 * d)
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, blocks: [&Self; 8]) -> ScaleVectors<L::F> {
        factors(l.f16s(blocks.map(|b| b.d.to_bits())))
    }
}

/// Bytes `32 * i ..` of a block's array.
#[inline(always)]
fn run<L: Lanes, const N: usize>(l: L, bytes: &[u8; N], i: usize) -> L::B {
    l.load(bytes[32 * i..].first_chunk().expect("groups end inside of their block"))
}

impl Format for k::Q2K {
    const HALVES: bool = true;
    const MAX: u8 = 3;
    const ZERO: Zero = Zero::Minima;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, group: usize) -> L::B {
        l.and(l.shr(run(l, &self.qs, group / 4), 2 * (group % 4) as u32), l.splat(3))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        let (d, dmin) = (l.f16(self.d), -l.f16(self.dmin));
        Scales {
            d: std::array::from_fn(|i| d * f32::from(self.scales[i] & 15)),
            m: std::array::from_fn(|i| dmin * f32::from(self.scales[i] >> 4)),
        }
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, [b, ..]: [&Self; 8]) -> ScaleVectors<L::F> {
        let (sc, low) = (u128::from_le_bytes(b.scales), u128::from_le_bytes([15; 16]));
        let d = half_factors(l, l.f16(b.d), bytemuck::cast((sc & low).to_le_bytes()));
        let m = half_factors(l, -l.f16(b.dmin), bytemuck::cast((sc >> 4 & low).to_le_bytes()));
        ScaleVectors { d, m }
    }
}

/// Scales of q3_K: the low nibbles of sixteen in 8 bytes, then two more bits of each in 4 bytes.
#[inline(always)]
fn q3_scales(packed: &[u8; 12]) -> [i8; 16] {
    let word = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (low, high) = ([word(0), word(4)], word(8));
    let mut sc = [0i8; 16];
    for i in 0..4 {
        let nibbles = low[i % 2] >> (4 * (i / 2)) & 0x0f0f_0f0f;
        let six_bits = nibbles | (high >> (2 * i) & 0x0303_0303) << 4;
        for (sc, byte) in sc[4 * i..4 * i + 4].iter_mut().zip(six_bits.to_le_bytes()) {
            *sc = byte as i8 - 32;
        }
    }
    sc
}

impl Format for k::Q3K {
    const HALVES: bool = true;
    const MAX: u8 = 7;
    const ZERO: Zero = Zero::Offset(4);

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, group: usize) -> L::B {
        let low = l.and(l.shr(run(l, &self.qs, group / 4), 2 * (group % 4) as u32), l.splat(3));
        let high = l.and(l.shr(run(l, &self.hmask, 0), group as u32), l.splat(1));
        l.or(low, l.and(l.shl(high, 2), l.splat(4)))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        offset(l.f16(self.d), q3_scales(&self.scales), 4.0)
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, [b, ..]: [&Self; 8]) -> ScaleVectors<L::F> {
        let d = half_factors(l, l.f16(b.d), q3_scales(&b.scales));
        ScaleVectors { d, m: d }
    }
}

/// Scales and minima of q4_K and q5_K: four of each in the low 6 bits of bytes 0..4 and 4..8, whose top bits complete
/// the nibbles of the other four in bytes 8..12.
#[inline(always)]
fn six_bit_scales(packed: &[u8; 12]) -> [[u8; 8]; 2] {
    let word = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    let six_bits = |first: u32, nibbles: u32| {
        let rest = nibbles & 0x0f0f_0f0f | first >> 2 & 0x3030_3030;
        (u64::from(first & 0x3f3f_3f3f) | u64::from(rest) << 32).to_le_bytes()
    };
    [six_bits(a, c), six_bits(b, c >> 4)]
}

#[inline(always)]
fn scales_and_minima(d: f32, dmin: f32, packed: &[u8; 12]) -> Scales {
    let [sc, min] = six_bit_scales(packed);
    let mut scales = Scales::ZERO;
    for i in 0..8 {
        scales.d[i] = d * f32::from(sc[i]);
        scales.m[i] = -dmin * f32::from(min[i]);
    }
    scales
}

#[inline(always)]
fn min_vectors<L: Lanes>(l: L, d: half::f16, dmin: half::f16, packed: &[u8; 12]) -> ScaleVectors<L::F> {
    let [sc, min] = six_bit_scales(packed);
    let d = l.mul(l.bytes(sc), l.splat_f32(l.f16(d)));
    let m = l.mul(l.bytes(min), l.splat_f32(-l.f16(dmin)));
    ScaleVectors { d: [d; 2], m: [m; 2] }
}

impl Format for k::Q4K {
    const HALVES: bool = false;
    const MAX: u8 = 15;
    const ZERO: Zero = Zero::Minima;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, group: usize) -> L::B {
        l.and(l.shr(run(l, &self.qs, group / 2), 4 * (group % 2) as u32), l.splat(15))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        scales_and_minima(l.f16(self.d), l.f16(self.dmin), &self.scales)
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, [b, ..]: [&Self; 8]) -> ScaleVectors<L::F> {
        min_vectors(l, b.d, b.dmin, &b.scales)
    }
}

impl Format for k::Q5K {
    const HALVES: bool = false;
    const MAX: u8 = 31;
    const ZERO: Zero = Zero::Minima;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, group: usize) -> L::B {
        let low = l.and(l.shr(run(l, &self.qs, group / 2), 4 * (group % 2) as u32), l.splat(15));
        let high = l.and(l.shr(run(l, &self.qh, 0), group as u32), l.splat(1));
        l.or(low, l.and(l.shl(high, 4), l.splat(16)))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        scales_and_minima(l.f16(self.d), l.f16(self.dmin), &self.scales)
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, [b, ..]: [&Self; 8]) -> ScaleVectors<L::F> {
        min_vectors(l, b.d, b.dmin, &b.scales)
    }
}

impl Format for k::Q6K {
    const HALVES: bool = true;
    const MAX: u8 = 63;
    const ZERO: Zero = Zero::Offset(32);

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, group: usize) -> L::B {
        let (half, i) = (group / 4, group % 4);
        let low = l.and(l.shr(run(l, &self.ql, 2 * half + i % 2), 4 * (i / 2) as u32), l.splat(15));
        let high = l.and(l.shr(run(l, &self.qh, half), 2 * i as u32), l.splat(3));
        l.or(low, l.and(l.shl(high, 4), l.splat(0x30)))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        offset(l.f16(self.d), self.scales, 32.0)
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, [b, ..]: [&Self; 8]) -> ScaleVectors<L::F> {
        let d = half_factors(l, l.f16(b.d), b.scales);
        ScaleVectors { d, m: d }
    }
}

impl Format for iq::IQ4NL {
    const HALVES: bool = false;
    const MAX: u8 = 255;
    const ZERO: Zero = Zero::Offset(128);

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.lookup(&LEVELS, l.nibbles(&self.qs))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        let d = l.f16(self.d);
        one(d, -128.0 * d)
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, blocks: [&Self; 8]) -> ScaleVectors<L::F> {
        factors(l.f16s(blocks.map(|b| b.d.to_bits())))
    }
}

impl Format for iq::IQ4XS {
    const HALVES: bool = false;
    const MAX: u8 = 255;
    const ZERO: Zero = Zero::Offset(128);

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, group: usize) -> L::B {
        l.lookup(&LEVELS, l.nibbles(self.qs[16 * group..].first_chunk().expect("groups end inside of their block")))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        offset::<8>(l.f16(self.d), std::array::from_fn(|i| self.scale(i)), 128.0)
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, [b, ..]: [&Self; 8]) -> ScaleVectors<L::F> {
        let d = l.f16(b.d);
        // Nibbles and pairs of bits are spread over the bytes of a word.
        let spread = |x: u64, by: [u32; 3], mask: [u64; 3]| {
            let x = (x | x << by[0]) & mask[0];
            let x = (x | x << by[1]) & mask[1];
            (x | x << by[2]) & mask[2]
        };
        let low = u64::from(u32::from_le_bytes(b.scales_l));
        let low = spread(low, [16, 8, 4], [0x0000_ffff_0000_ffff, 0x00ff_00ff_00ff_00ff, 0x0f0f_0f0f_0f0f_0f0f]);
        let high = u64::from(b.scales_h);
        let high = spread(high, [24, 12, 6], [0x0000_00ff_0000_00ff, 0x000f_000f_000f_000f, 0x0303_0303_0303_0303]);
        let sc = l.bytes((low | high << 4).to_le_bytes());
        factors(l.fma(sc, l.splat_f32(d), l.splat_f32(-32.0 * d)))
    }
}

impl Format for small::MXFP4 {
    const HALVES: bool = false;
    const MAX: u8 = 24;
    const ZERO: Zero = Zero::Offset(12);

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.lookup(&FLOAT4, l.nibbles(&self.qs))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, _: L) -> Scales {
        let d = small::half_power(self.e);
        one(d, -12.0 * d)
    }

    #[inline(always)]
    fn scale_vectors<L: Lanes>(l: L, blocks: [&Self; 8]) -> ScaleVectors<L::F> {
        factors(l.load_f32(&blocks.map(|b| small::half_power(b.e))))
    }
}
