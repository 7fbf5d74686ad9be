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

/// A block format with integer kernels.
pub trait Format: Block {
    /// Whether scales belong to 16 elements instead of 32.
    const HALVES: bool;
    /// No unpacked byte is larger.
    const MAX: u8;
    /// Groups of 32 elements in a block.
    const GROUPS: usize = Self::LEN / 32;

    /// Elements `32 * group ..` as unsigned bytes.
    fn unpack<L: Lanes>(&self, l: L, group: usize) -> L::B;

    /// The scales, in the order of the elements.
    fn scales<L: Lanes>(&self, l: L) -> Scales;
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

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.nibbles(&self.qs)
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        let d = l.f16(self.d);
        one(d, -8.0 * d)
    }
}

impl Format for legacy::Q4_1 {
    const HALVES: bool = false;
    const MAX: u8 = 15;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.nibbles(&self.qs)
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        one(l.f16(self.d), l.f16(self.m))
    }
}

impl Format for legacy::Q5_0 {
    const HALVES: bool = false;
    const MAX: u8 = 31;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.or(l.nibbles(&self.qs), l.spread(u32::from_le_bytes(self.qh), 16))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        let d = l.f16(self.d);
        one(d, -16.0 * d)
    }
}

impl Format for legacy::Q5_1 {
    const HALVES: bool = false;
    const MAX: u8 = 31;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.or(l.nibbles(&self.qs), l.spread(u32::from_le_bytes(self.qh), 16))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        one(l.f16(self.d), l.f16(self.m))
    }
}

impl Format for legacy::Q8_0 {
    const HALVES: bool = false;
    const MAX: u8 = 255;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.xor(l.load(bytemuck::cast_ref(&self.qs)), l.splat(0x80))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        let d = l.f16(self.d);
        one(d, -128.0 * d)
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
}

impl Format for k::Q3K {
    const HALVES: bool = true;
    const MAX: u8 = 7;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, group: usize) -> L::B {
        let low = l.and(l.shr(run(l, &self.qs, group / 4), 2 * (group % 4) as u32), l.splat(3));
        let high = l.and(l.shr(run(l, &self.hmask, 0), group as u32), l.splat(1));
        l.or(low, l.and(l.shl(high, 2), l.splat(4)))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        let word =
            |i: usize| u32::from_le_bytes([self.scales[i], self.scales[i + 1], self.scales[i + 2], self.scales[i + 3]]);
        let (low, high) = ([word(0), word(4)], word(8));
        let mut sc = [0i8; 16];
        for i in 0..4 {
            let nibbles = low[i % 2] >> (4 * (i / 2)) & 0x0f0f_0f0f;
            let six_bits = nibbles | (high >> (2 * i) & 0x0303_0303) << 4;
            for (sc, byte) in sc[4 * i..4 * i + 4].iter_mut().zip(six_bits.to_le_bytes()) {
                *sc = byte as i8 - 32;
            }
        }
        offset(l.f16(self.d), sc, 4.0)
    }
}

/// Scales and minima of q4_K and q5_K: four of each in the low 6 bits of bytes 0..4 and 4..8, whose top bits complete
/// the nibbles of the other four in bytes 8..12.
#[inline(always)]
fn scales_and_minima(d: f32, dmin: f32, packed: &[u8; 12]) -> Scales {
    let word = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    let six_bits = |first: u32, nibbles: u32| {
        let rest = nibbles & 0x0f0f_0f0f | first >> 2 & 0x3030_3030;
        (u64::from(first & 0x3f3f_3f3f) | u64::from(rest) << 32).to_le_bytes()
    };
    let (sc, min) = (six_bits(a, c), six_bits(b, c >> 4));
    let mut scales = Scales::ZERO;
    for i in 0..8 {
        scales.d[i] = d * f32::from(sc[i]);
        scales.m[i] = -dmin * f32::from(min[i]);
    }
    scales
}

impl Format for k::Q4K {
    const HALVES: bool = false;
    const MAX: u8 = 15;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, group: usize) -> L::B {
        l.and(l.shr(run(l, &self.qs, group / 2), 4 * (group % 2) as u32), l.splat(15))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        scales_and_minima(l.f16(self.d), l.f16(self.dmin), &self.scales)
    }
}

impl Format for k::Q5K {
    const HALVES: bool = false;
    const MAX: u8 = 31;

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
}

impl Format for k::Q6K {
    const HALVES: bool = true;
    const MAX: u8 = 63;

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
}

impl Format for iq::IQ4NL {
    const HALVES: bool = false;
    const MAX: u8 = 255;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.lookup(&LEVELS, l.nibbles(&self.qs))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        let d = l.f16(self.d);
        one(d, -128.0 * d)
    }
}

impl Format for iq::IQ4XS {
    const HALVES: bool = false;
    const MAX: u8 = 255;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, group: usize) -> L::B {
        l.lookup(&LEVELS, l.nibbles(self.qs[16 * group..].first_chunk().expect("groups end inside of their block")))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, l: L) -> Scales {
        offset::<8>(l.f16(self.d), std::array::from_fn(|i| self.scale(i)), 128.0)
    }
}

impl Format for small::MXFP4 {
    const HALVES: bool = false;
    const MAX: u8 = 24;

    #[inline(always)]
    fn unpack<L: Lanes>(&self, l: L, _: usize) -> L::B {
        l.lookup(&FLOAT4, l.nibbles(&self.qs))
    }

    #[inline(always)]
    fn scales<L: Lanes>(&self, _: L) -> Scales {
        let d = small::half_power(self.e);
        one(d, -12.0 * d)
    }
}
