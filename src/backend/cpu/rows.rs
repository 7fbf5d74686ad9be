//! Conversion of rows: of any type to f32 (tables, caches, weights without integer kernels), and of f32 to the types of
//! caches.

use super::formats::{Format, FormatVisitor, with_format};
use super::kernels::Kernel;
use super::simd::{Lanes, Simd};
use crate::quant::{self, DType};

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
            if with_format(dtype, Unpack { l, bytes, out: &mut *out }) != Some(true)
                && quant::dequantize(dtype, bytes, out).is_err()
            {
                out.fill(f32::NAN);
            }
        }
    }
}

struct Unpack<'a, L> {
    l: L,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl<L: Lanes> FormatVisitor for Unpack<'_, L> {
    /// Whether the bytes are aligned, so that they could be read.
    type Out = bool;

    #[inline(always)]
    fn visit<F: Format>(self) -> bool {
        let Some(blocks) = quant::blocks::<F>(self.bytes) else { return false };
        assert_eq!(blocks.len() * F::LEN, self.out.len());
        let l = self.l;
        for (block, out) in blocks.iter().zip(self.out.chunks_exact_mut(F::LEN)) {
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
        let l = s.lanes();
        if self.dtype == DType::F16 && self.bytes.len() == 2 * self.x.len() {
            let (eights, rest) = self.x.as_chunks::<8>();
            let (bytes, bytes_rest) = self.bytes.as_chunks_mut::<16>();
            for (x, b) in eights.iter().zip(bytes) {
                l.store_f16(b, l.load_f32(x));
            }
            for (x, b) in rest.iter().zip(bytes_rest.as_chunks_mut::<2>().0) {
                *b = half::f16::from_f32(*x).to_le_bytes();
            }
            return true;
        }
        quant::quantize(self.dtype, self.x, self.bytes).is_ok()
    }
}
