//! AVX2, FMA and F16C.
//!
//! Products of bytes go through `vpmaddubsw`, which saturates its 16-bit sums: weights up to 127 are safe, and small ones
//! leave room to add several products before widening. Weights that need all 8 bits are taken as signed: their absolute
//! value times the activation with the weight's sign.

mod lanes;
mod panels;
mod tile;

pub(super) use lanes::splat_pair;

use super::{BytesOf, Emit, IntsOf, PanelF32, PanelI8, Rows, Simd};
use crate::backend::cpu::act::XBlock;
use std::arch::x86_64::*;

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Self(())
    }
}

// SAFETY (all of this file): a value of `Avx2` exists only where its instructions were detected.

/// How many products of `vpmaddubsw` with weights up to `max` can be added in 16 bits.
const fn room(max: u8) -> usize {
    if max > 127 { 1 } else { i16::MAX as usize / (254 * max as usize) }
}

impl Avx2 {
    /// 16-bit sums of products of byte pairs, exact for `MAX <= 127` or, taken as `u - 128`, above.
    #[inline(always)]
    fn products<const MAX: u8>(self, u: __m256i, q: __m256i) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe {
            if MAX <= 127 {
                return _mm256_maddubs_epi16(u, q);
            }
            let w = _mm256_xor_si256(u, _mm256_set1_epi8(-128));
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w))
        }
    }

    /// Sums neighbouring 16-bit numbers.
    #[inline(always)]
    fn widen_sums(self, a: __m256i) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_madd_epi16(a, _mm256_set1_epi16(1)) }
    }

    /// Of eight registers, each half of which holds the parts of a sum in 32 bits: the sums, of their halves 0 and 1 four
    /// registers each.
    #[inline(always)]
    pub(super) fn join_sums(self, a: [__m256i; 8]) -> [__m256i; 2] {
        // SAFETY: AVX2 is there.
        unsafe {
            let mut pairs = [_mm256_setzero_si256(); 4];
            for i in 0..4 {
                let (a, b) = (a[2 * i], a[2 * i + 1]);
                pairs[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            }
            let mut fours = [_mm256_setzero_si256(); 2];
            for i in 0..2 {
                let (a, b) = (pairs[2 * i], pairs[2 * i + 1]);
                fours[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
            }
            fours
        }
    }

    /// The same of products in 16 bits. As long as there is room they are added as pairs of 16 bits, which saves half of
    /// the instructions; the result is such pairs if there is [`room`] for four, else 32 bits.
    #[inline(always)]
    fn join_products<const MAX: u8>(self, mut a: [__m256i; 8]) -> [__m256i; 2] {
        if room(MAX) < 2 {
            for a in &mut a {
                *a = self.widen_sums(*a);
            }
            return self.join_sums(a);
        }
        // SAFETY: AVX2 is there.
        unsafe {
            let mut pairs = [_mm256_setzero_si256(); 4];
            for i in 0..4 {
                let (a, b) = (a[2 * i], a[2 * i + 1]);
                pairs[i] = _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                if room(MAX) < 4 {
                    pairs[i] = self.widen_sums(pairs[i]);
                }
            }
            let mut fours = [_mm256_setzero_si256(); 2];
            for i in 0..2 {
                let (a, b) = (pairs[2 * i], pairs[2 * i + 1]);
                let (low, high) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
                fours[i] = if room(MAX) < 4 { _mm256_add_epi32(low, high) } else { _mm256_add_epi16(low, high) };
            }
            fours
        }
    }

    /// Sums over the columns `from..to` of products, added in 16 bits as long as there is room.
    #[inline(always)]
    fn sum_columns<const MAX: u8>(self, u: [__m256i; 8], q: [__m256i; 8], from: usize, to: usize) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe {
            let (mut sum, mut partial) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            let mut n_partial = 0;
            for (i, (u, q)) in u.into_iter().zip(q).enumerate().take(to).skip(from) {
                let products = self.products::<MAX>(u, q);
                partial = if n_partial == 0 { products } else { _mm256_add_epi16(partial, products) };
                n_partial += 1;
                if n_partial == room(MAX) || i + 1 == to {
                    sum = _mm256_add_epi32(sum, self.widen_sums(partial));
                    n_partial = 0;
                }
            }
            sum
        }
    }

    /// All products of eight groups.
    #[inline(always)]
    fn all_products<const MAX: u8>(self, u: [__m256i; 8], q: [__m256i; 8]) -> [__m256i; 8] {
        let mut p = u;
        for (p, q) in p.iter_mut().zip(q) {
            *p = self.products::<MAX>(*p, q);
        }
        p
    }
}

impl Simd for Avx2 {
    type Lanes = Avx2;
    const FMA: bool = true;
    const WIDE_IS_SIGNED: bool = true;

    #[inline(always)]
    fn lanes(self) -> Avx2 {
        self
    }

    #[inline(always)]
    fn dot<const MAX: u8>(self, u: BytesOf<Self>, q: BytesOf<Self>) -> IntsOf<Self> {
        self.widen_sums(self.products::<MAX>(u, q))
    }

    #[inline(always)]
    fn dot_groups<const MAX: u8>(self, u: [__m256i; 8], q: [__m256i; 8]) -> __m256i {
        let [a, b] = self.join_products::<MAX>(self.all_products::<MAX>(u, q));
        // SAFETY: AVX2 is there.
        unsafe {
            let (low, high) = (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b));
            match room(MAX) {
                0..4 => _mm256_add_epi32(low, high),
                4..8 => _mm256_add_epi32(self.widen_sums(low), self.widen_sums(high)),
                8.. => self.widen_sums(_mm256_add_epi16(low, high)),
            }
        }
    }

    #[inline(always)]
    fn dot_columns<const MAX: u8>(self, u: [__m256i; 8], q: [__m256i; 8]) -> __m256i {
        self.sum_columns::<MAX>(u, q, 0, 8)
    }

    #[inline(always)]
    fn dot_column_halves<const MAX: u8>(self, u: [__m256i; 8], q: [__m256i; 8]) -> [__m256i; 2] {
        [self.sum_columns::<MAX>(u, q, 0, 4), self.sum_columns::<MAX>(u, q, 4, 8)]
    }

    #[inline(always)]
    fn dot_halves<const MAX: u8>(self, u: [__m256i; 8], q: [__m256i; 8]) -> [__m256i; 2] {
        let [a, b] = self.join_products::<MAX>(self.all_products::<MAX>(u, q));
        if room(MAX) < 4 { [a, b] } else { [self.widen_sums(a), self.widen_sums(b)] }
    }

    #[inline(always)]
    fn sweep_i8<const HALVES: bool, const MAX: u8>(self, panel: PanelI8<'_>, x: Rows<'_, XBlock>, emit: Emit<'_>) {
        // SAFETY: the instructions are there.
        unsafe { panels::sweep_i8::<HALVES, MAX>(self, panel, x, emit) }
    }

    #[inline(always)]
    fn sweep_f32(self, panel: PanelF32<'_>, x: Rows<'_, f32>, emit: Emit<'_>) {
        // SAFETY: the instructions are there.
        unsafe { panels::sweep_f32(self, panel, x, emit) }
    }

    #[inline(always)]
    fn product_f32<const ADD: bool>(self, panel: PanelF32<'_>, x: Rows<'_, f32>, out: &mut [f32], stride: usize) {
        // SAFETY: the instructions are there.
        unsafe { panels::product_f32::<ADD>(self, panel, x, out, stride) }
    }
}
