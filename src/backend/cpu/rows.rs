//! Conversion of rows: of any type to f32 (tables, caches, weights without integer kernels), and of f32 to the types of
//! caches.

use super::act::X_BLOCK;
use super::formats::{Format, FormatVisitor, ScaleVectors, Zero, with_format};
use super::kernels::Kernel;
use super::math;
use super::simd::{Lanes, Simd};
use crate::quant::{self, DType, legacy};

/// Reads whole blocks of `dtype` as f32. `bytes` may be unaligned; their number fits the number of elements, and the type
/// is not one of integers, or the result is all NaN.
pub struct ToFloat<'a> {
    /// Type of the elements.
    pub dtype: DType,
    /// The blocks.
    pub bytes: &'a [u8],
    /// The elements.
    pub out: &'a mut [f32],
}

impl Kernel for ToFloat<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        to_float(s, self.dtype, self.bytes, self.out);
    }
}

/// See [`ToFloat`].
#[inline(always)]
pub fn to_float<S: Simd>(s: S, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    let l = s.lanes();
    match dtype {
        DType::F32 => bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(bytes),
        DType::F16 => {
            let (eights, rest) = out.as_chunks_mut::<8>();
            let (bytes, bytes_rest) = bytes.as_chunks::<16>();
            for (b, y) in bytes.iter().zip(eights) {
                l.store_f32(y, l.load_f16(b));
            }
            for (b, y) in bytes_rest.as_chunks::<2>().0.iter().zip(rest) {
                *y = half::f16::from_le_bytes(*b).to_f32();
            }
        }
        DType::BF16 => {
            let (eights, rest) = out.as_chunks_mut::<8>();
            let (bytes, bytes_rest) = bytes.as_chunks::<16>();
            for (b, y) in bytes.iter().zip(eights) {
                l.store_f32(y, l.load_bf16(b));
            }
            for (b, y) in bytes_rest.as_chunks::<2>().0.iter().zip(rest) {
                *y = half::bf16::from_le_bytes(*b).to_f32();
            }
        }
        _ => {
            if with_format(dtype, Unpack { s, bytes, out: &mut *out }) != Some(true)
                && quant::dequantize(dtype, bytes, out).is_err()
            {
                out.fill(f32::NAN);
            }
        }
    }
}

struct Unpack<'a, S> {
    s: S,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl<S: Simd> FormatVisitor for Unpack<'_, S> {
    /// Whether the bytes are aligned, so that they could be read.
    type Out = bool;

    #[inline(always)]
    fn visit<F: Format>(self) -> bool {
        let Some(blocks) = quant::blocks::<F>(self.bytes) else { return false };
        assert_eq!(blocks.len() * F::LEN, self.out.len());
        let (s, l) = (self.s, self.s.lanes());
        let (whole, rest) = self.out.as_chunks_mut::<X_BLOCK>();
        let per_whole = X_BLOCK / F::LEN;
        let (whole_blocks, rest_blocks) = blocks.split_at(whole.len() * per_whole);
        let mut pieces = [Piece { u: [0; X_BLOCK], d: [0.0; 16], m: [0.0; 16] }; AHEAD];
        for (blocks, out) in whole_blocks.chunks(AHEAD * per_whole).zip(whole.chunks_mut(AHEAD)) {
            for (blocks, piece) in blocks.chunks_exact(per_whole).zip(&mut pieces) {
                unpack_whole(l, blocks, piece);
            }
            for (piece, out) in pieces.iter().zip(out) {
                piece.write::<S, F>(s, out);
            }
        }
        for (block, out) in rest_blocks.iter().zip(rest.chunks_exact_mut(F::LEN)) {
            let scales = block.scales(l);
            for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let u = block.unpack(l, g);
                for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    let part = if F::HALVES { 2 * g + i / 2 } else { g };
                    l.store_f32(out, l.fma(l.widen(u, i), l.splat_f32(scales.d[part]), l.splat_f32(scales.m[part])));
                }
            }
        }
        true
    }
}

/// 256 elements on their way. From here bytes widen and scales spread while they are loaded; from one register to another both
/// are shuffles, which would take twice as long as all the rest.
#[derive(Clone, Copy)]
struct Piece {
    u: [u8; X_BLOCK],
    /// Of groups or of their halves, in the order of the elements.
    d: [f32; 16],
    m: [f32; 16],
}

/// Pieces that are unpacked before the first is written: were it one, compilers would keep it in registers.
const AHEAD: usize = 4;

#[inline(always)]
fn unpack_whole<L: Lanes, F: Format>(l: L, blocks: &[F], piece: &mut Piece) {
    let mut of_group = [&blocks[0]; 8];
    for (g, block) in of_group.iter_mut().enumerate() {
        *block = &blocks[g / F::GROUPS];
    }
    for (g, u) in piece.u.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        l.store(u, of_group[g].unpack(l, g % F::GROUPS));
    }
    let ScaleVectors { mut d, mut m } = F::scale_vectors(l, of_group);
    if F::HALVES {
        d = l.zip(l.halves_apart(d));
        m = l.zip(l.halves_apart(m));
    }
    for v in 0..if F::HALVES { 2 } else { 1 } {
        let minima = match F::ZERO {
            Zero::Minima => m[v],
            Zero::Offset(offset) => l.mul(d[v], l.splat_f32(-f32::from(offset))),
        };
        l.store_f32(&mut piece.d.as_chunks_mut::<8>().0[v], d[v]);
        l.store_f32(&mut piece.m.as_chunks_mut::<8>().0[v], minima);
    }
}

impl Piece {
    #[inline(always)]
    fn write<S: Simd, F: Format>(&self, s: S, out: &mut [f32; X_BLOCK]) {
        for (i, (out, u)) in out.as_chunks_mut::<16>().0.iter_mut().zip(self.u.as_chunks::<16>().0).enumerate() {
            let part = if F::HALVES { i } else { i / 2 };
            s.widen_sixteen(u, self.d[part], self.m[part], out);
        }
    }
}

/// Rounds a row to the type of a cache; false if the type cannot be written or the lengths do not fit.
pub struct FromFloat<'a> {
    /// The elements.
    pub x: &'a [f32],
    /// Type to write.
    pub dtype: DType,
    /// The blocks.
    pub bytes: &'a mut [u8],
}

impl Kernel for FromFloat<'_> {
    type Out = bool;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let Self { x, dtype, bytes } = self;
        if x.len().is_multiple_of(dtype.block_size()) && bytes.len() == dtype.row_size(x.len()) {
            match dtype {
                DType::F16 => return to_f16(s, x, bytes),
                DType::BF16 => return to_bf16(x, bytes),
                DType::Q8_0 => return to_blocks::<legacy::Q8_0>(x, bytes),
                DType::Q4_0 => return to_blocks::<legacy::Q4_0>(x, bytes),
                // Rare ones.
                _ => {}
            }
        }
        quant::quantize(dtype, x, bytes).is_ok()
    }
}

#[inline(always)]
fn to_f16<S: Simd>(s: S, x: &[f32], bytes: &mut [u8]) -> bool {
    let l = s.lanes();
    let (eights, rest) = x.as_chunks::<8>();
    let (bytes, bytes_rest) = bytes.as_chunks_mut::<16>();
    for (x, b) in eights.iter().zip(bytes) {
        l.store_f16(b, l.load_f32(x));
    }
    for (x, b) in rest.iter().zip(bytes_rest.as_chunks_mut::<2>().0) {
        *b = half::f16::from_f32(*x).to_le_bytes();
    }
    true
}

/// Bits of infinity: finite numbers without their signs are smaller, NaNs larger.
const INFINITE: u32 = 0x7f80_0000;

/// The largest magnitude, as bits.
#[inline(always)]
fn largest(x: &[f32]) -> u32 {
    x.iter().fold(0, |max, v| max.max(v.to_bits() & !0x8000_0000))
}

#[inline(always)]
fn to_bf16(x: &[f32], bytes: &mut [u8]) -> bool {
    if largest(x) > INFINITE {
        return quant::quantize(DType::BF16, x, bytes).is_ok();
    }
    for (x, b) in x.iter().zip(bytes.as_chunks_mut::<2>().0) {
        let bits = x.to_bits();
        *b = (((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16).to_le_bytes();
    }
    true
}

/// A type of caches that is rounded with vectors. A trait and not a function passed on: that would not take on the
/// instructions of the kernel.
trait Rounded: quant::Quantize {
    /// A block; `None` for what takes the way of all types.
    fn round(x: &[f32; 32]) -> Option<Self>;
}

/// Rounds block by block.
#[inline(always)]
fn to_blocks<F: Rounded>(x: &[f32], bytes: &mut [u8]) -> bool {
    for (x, bytes) in x.as_chunks::<32>().0.iter().zip(bytes.chunks_exact_mut(size_of::<F>())) {
        let block = match F::round(x) {
            Some(block) => block,
            None => F::quantize(x),
        };
        bytes.copy_from_slice(bytemuck::bytes_of(&block));
    }
    true
}

/// A scale that maps `end` to the value of largest magnitude, and its inverse, unless one of them is not finite.
#[inline(always)]
fn scale(largest: f32, end: f32) -> Option<(f32, f32)> {
    let d = largest / end;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    (d.is_finite() && inverse.is_finite()).then_some((d, inverse))
}

impl Rounded for legacy::Q8_0 {
    #[inline(always)]
    fn round(x: &[f32; 32]) -> Option<Self> {
        let (d, inverse) = scale(f32::from_bits(largest(x)), 127.0)?;
        let mut qs = [0; 32];
        for (q, x) in qs.iter_mut().zip(x) {
            // Half away from zero: the number below 1/2 keeps what is just below a half from being rounded up.
            let v = x * inverse;
            *q = math::round((v + 0.499_999_97f32.copysign(v)).trunc()) as i8;
        }
        Some(Self { d: quant::to_f16(d), qs })
    }
}

impl Rounded for legacy::Q4_0 {
    #[inline(always)]
    fn round(x: &[f32; 32]) -> Option<Self> {
        let largest = largest(x);
        // The first of several counts, with its sign.
        let first = x.iter().find(|v| v.to_bits() & !0x8000_0000 == largest && largest > 0).map_or(0.0, |v| *v);
        let (d, inverse) = scale(first, -8.0)?;
        let mut ints = [0i32; 32];
        for (i, x) in ints.iter_mut().zip(x) {
            *i = math::round((x * inverse + 8.5).trunc()).min(15);
        }
        let mut qs = [0; 16];
        for (j, q) in qs.iter_mut().enumerate() {
            *q = (ints[j] | ints[j + 16] << 4) as u8;
        }
        Some(Self { d: quant::to_f16(d), qs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::kernels::available;
    use crate::backend::cpu::testing::Random;

    #[test]
    fn rows_of_caches_are_rounded_as_files_are() {
        let mut random = Random(5);
        let types = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q5_0];
        for case in 0..300 {
            let size = [1.0, 1e-3, 1e4, 1e-38, 1e-42, 1e38][case % 6];
            let mut x: Vec<f32> = (0..256).map(|_| random.float() * size).collect();
            // Halves, ties for the largest, zeros of both signs, and what is not finite.
            for v in &mut x[32..64] {
                *v = (*v / size * 127.0).floor() + 0.5;
            }
            x[64] = 127.0;
            (x[70], x[80]) = (-127.0, 127.0);
            x[96..128].fill(if case % 2 == 0 { 0.0 } else { -0.0 });
            if case % 5 == 0 {
                x[130 + case % 7] = [f32::INFINITY, f32::NAN, f32::NEG_INFINITY][case % 3];
            }
            for dtype in types {
                let mut expected = vec![0; dtype.row_size(x.len())];
                quant::quantize(dtype, &x, &mut expected).unwrap();
                for isa in available() {
                    let mut found = vec![0; expected.len()];
                    assert!(isa.run(FromFloat { x: &x, dtype, bytes: &mut found }));
                    // Processors keep bits of a NaN in f16.
                    if dtype != DType::F16 || x.iter().all(|v| !v.is_nan()) {
                        assert_eq!(expected, found, "{dtype} by {}, case {case}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        for isa in available() {
            for dtype in [DType::F16, DType::Q8_0, DType::Q4_0, DType::BF16] {
                assert!(!isa.run(FromFloat { x: &[0.0; 33], dtype, bytes: &mut [0; 34] }));
            }
            assert!(!isa.run(FromFloat { x: &[0.0; 256], dtype: DType::IQ2S, bytes: &mut [0; 82] }));
        }
    }
}
