//! AVX2, FMA and F16C.
//!
//! Products of bytes go through `vpmaddubsw`, which saturates its 16-bit sums: weights up to 127 are safe, and small ones
//! leave room to add several products before widening. Weights that need all 8 bits are taken as signed: their absolute
//! value times the activation with the weight's sign.

use super::{BytesOf, Emit, IntsOf, Lanes, PANEL_ROWS, PanelF32, PanelI8, Rows, Simd};
use crate::backend::cpu::act::{X_BLOCK, XBlock, half_index};
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

impl Lanes for Avx2 {
    type B = __m256i;
    type I = __m256i;
    type F = __m256;

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: the hint reads nothing that the program could see, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    fn load(self, p: &[u8; 32]) -> __m256i {
        // SAFETY: AVX2 is there; the reference covers 32 bytes.
        unsafe { _mm256_loadu_si256(p.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store(self, p: &mut [u8; 32], b: __m256i) {
        // SAFETY: AVX2 is there; the reference covers 32 bytes.
        unsafe { _mm256_storeu_si256(p.as_mut_ptr().cast(), b) }
    }
    #[inline(always)]
    fn splat(self, v: u8) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_set1_epi8(v as i8) }
    }
    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    fn xor(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_xor_si256(a, b) }
    }
    #[inline(always)]
    fn shr(self, a: __m256i, n: u32) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_srl_epi16(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    fn shl(self, a: __m256i, n: u32) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_sll_epi16(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], i: __m256i) -> __m256i {
        // SAFETY: AVX2 is there; the table covers 16 bytes.
        unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), i) }
    }
    #[inline(always)]
    fn nibbles(self, p: &[u8; 16]) -> __m256i {
        // SAFETY: AVX2 is there; the reference covers 16 bytes.
        let both = unsafe {
            let packed = _mm_loadu_si128(p.as_ptr().cast());
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(packed), _mm_srli_epi16::<4>(packed))
        };
        self.and(both, self.splat(15))
    }
    #[inline(always)]
    fn spread(self, bits: u32, value: u8) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe {
            let byte_of = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), byte_of);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
            _mm256_and_si256(set, _mm256_set1_epi8(value as i8))
        }
    }
    #[inline(always)]
    fn transpose(self, r: [__m256i; 8]) -> [__m256i; 8] {
        // SAFETY: AVX2 is there.
        unsafe {
            let low = |a, b| _mm256_unpacklo_epi32(a, b);
            let high = |a, b| _mm256_unpackhi_epi32(a, b);
            let pairs = [
                [low(r[0], r[1]), low(r[2], r[3]), low(r[4], r[5]), low(r[6], r[7])],
                [high(r[0], r[1]), high(r[2], r[3]), high(r[4], r[5]), high(r[6], r[7])],
            ];
            // Column c of the low 128-bit lane and column c + 4 of the high one, four rows each.
            let quad = |c: usize, h: usize| {
                let (a, b) = (pairs[c / 2][2 * h], pairs[c / 2][2 * h + 1]);
                if c.is_multiple_of(2) { _mm256_unpacklo_epi64(a, b) } else { _mm256_unpackhi_epi64(a, b) }
            };
            let column = |c: usize| _mm256_permute2x128_si256::<0x20>(quad(c, 0), quad(c, 1));
            let column_high = |c: usize| _mm256_permute2x128_si256::<0x31>(quad(c, 0), quad(c, 1));
            [column(0), column(1), column(2), column(3), column_high(0), column_high(1), column_high(2), column_high(3)]
        }
    }
    #[inline(always)]
    fn round_scaled(self, x: &[f32; 32], scale: f32) -> __m256i {
        // SAFETY: AVX2 is there; the reference covers 32 numbers.
        unsafe {
            let scale = _mm256_set1_ps(scale);
            let mut ints = [_mm256_setzero_si256(); 4];
            for (ints, x) in ints.iter_mut().zip(x.as_chunks::<8>().0) {
                *ints = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.as_ptr()), scale));
            }
            let words = [_mm256_packs_epi32(ints[0], ints[1]), _mm256_packs_epi32(ints[2], ints[3])];
            // Packing works on halves of registers, so that fours of bytes come out in the order 0 2 4 6 1 3 5 7.
            let bytes = _mm256_packs_epi16(words[0], words[1]);
            let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            _mm256_max_epi8(bytes, _mm256_set1_epi8(-127))
        }
    }
    #[inline(always)]
    fn halves_apart(self, [a, b]: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: AVX2 is there.
        unsafe { [_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b)] }
    }
    #[inline(always)]
    fn bits(self, a: __m256) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_castps_si256(a) }
    }
    #[inline(always)]
    fn to_f32(self, i: __m256i) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_cvtepi32_ps(i) }
    }
    #[inline(always)]
    fn bytes(self, b: [u8; 8]) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(b)))) }
    }
    #[inline(always)]
    fn halves(self, b: [i8; 16]) -> [__m256; 2] {
        // SAFETY: AVX2 is there; the array covers 16 bytes.
        unsafe {
            let order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
            let b = _mm_shuffle_epi8(_mm_loadu_si128(b.as_ptr().cast()), order);
            let (low, high) = (_mm256_cvtepi8_epi32(b), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(b, b)));
            [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
        }
    }
    #[inline(always)]
    fn f16s(self, bits: [u16; 8]) -> __m256 {
        let [a, b, c, d, e, f, g, h] = bits.map(|b| b as i16);
        // SAFETY: F16C is there.
        unsafe { _mm256_cvtph_ps(_mm_setr_epi16(a, b, c, d, e, f, g, h)) }
    }
    #[inline(always)]
    fn f16_pairs(self, bits: [u32; 8]) -> [__m256; 2] {
        let [a, b, c, d, e, f, g, h] = bits.map(|b| b as i32);
        // SAFETY: AVX2 and F16C are there.
        unsafe {
            let pairs = _mm256_setr_epi32(a, b, c, d, e, f, g, h);
            let apart = _mm256_setr_epi8(
                0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14,
                15,
            );
            let apart = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(pairs, apart));
            [_mm256_cvtph_ps(_mm256_castsi256_si128(apart)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(apart))]
        }
    }
    #[inline(always)]
    fn zero(self) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    fn mul_add(self, acc: __m256, i: __m256i, scale: f32) -> __m256 {
        // SAFETY: AVX2 and FMA are there.
        unsafe { _mm256_fmadd_ps(_mm256_cvtepi32_ps(i), _mm256_set1_ps(scale), acc) }
    }
    #[inline(always)]
    fn mul_add_halves(self, acc: __m256, i: __m256i, scales: [f32; 2]) -> __m256 {
        // SAFETY: AVX2 and FMA are there.
        unsafe {
            let scales = _mm256_set_m128(_mm_set1_ps(scales[1]), _mm_set1_ps(scales[0]));
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(i), scales, acc)
        }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: AVX2 is there.
        unsafe {
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        }
    }
    #[inline(always)]
    fn sum8(self, a: [__m256; 8]) -> [f32; 8] {
        let mut out = [0.0; 8];
        // SAFETY: AVX2 is there; the array covers 32 bytes.
        unsafe {
            let mut pairs = [_mm256_setzero_ps(); 4];
            for i in 0..4 {
                pairs[i] = _mm256_hadd_ps(a[2 * i], a[2 * i + 1]);
            }
            let (a, b) = (_mm256_hadd_ps(pairs[0], pairs[1]), _mm256_hadd_ps(pairs[2], pairs[3]));
            let (low, high) = (_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_add_ps(low, high));
        }
        out
    }
    #[inline(always)]
    fn max8(self, a: [__m256; 8]) -> [f32; 8] {
        let mut out = [0.0; 8];
        // SAFETY: AVX2 is there; the array covers 32 bytes.
        unsafe {
            let mut pairs = [_mm256_setzero_pd(); 4];
            for i in 0..4 {
                let (a, b) = (a[2 * i], a[2 * i + 1]);
                pairs[i] = _mm256_castps_pd(_mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)));
            }
            let mut fours = [_mm256_setzero_ps(); 2];
            for i in 0..2 {
                let (a, b) = (pairs[2 * i], pairs[2 * i + 1]);
                let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
                fours[i] = _mm256_max_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
            }
            let [a, b] = fours;
            let (low, high) = (_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_max_ps(low, high));
        }
        out
    }
    #[inline(always)]
    fn load_twice(self, p: &[f32; 4]) -> __m256 {
        // SAFETY: AVX2 is there; the reference covers 16 bytes.
        unsafe { _mm256_broadcast_ps(&*p.as_ptr().cast()) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn times_power(self, a: __m256, power: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe {
            let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(power));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), n))
        }
    }
    #[inline(always)]
    fn keep_from(self, least: f32, x: __m256, a: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_and_ps(a, _mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(least))) }
    }
    #[inline(always)]
    fn zip(self, [a, b]: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: AVX2 is there.
        unsafe {
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
        }
    }
    #[inline(always)]
    fn swap_pairs(self, a: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_permute_ps::<0b10_11_00_01>(a) }
    }
    #[inline(always)]
    fn f16(self, h: half::f16) -> f32 {
        // SAFETY: F16C is there.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(h.to_bits())))) }
    }
    #[inline(always)]
    fn load_f32(self, p: &[f32; 8]) -> __m256 {
        // SAFETY: AVX2 is there; the reference covers 32 bytes.
        unsafe { _mm256_loadu_ps(p.as_ptr()) }
    }
    #[inline(always)]
    fn load_f16(self, p: &[u8; 16]) -> __m256 {
        // SAFETY: F16C is there; the reference covers 16 bytes.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, p: &[u8; 16]) -> __m256 {
        // SAFETY: AVX2 is there; the reference covers 16 bytes.
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        }
    }
    #[inline(always)]
    fn store_f32(self, p: &mut [f32; 8], a: __m256) {
        // SAFETY: AVX2 is there; the reference covers 32 bytes.
        unsafe { _mm256_storeu_ps(p.as_mut_ptr(), a) }
    }
    #[inline(always)]
    fn store_f16(self, p: &mut [u8; 16], a: __m256) {
        // SAFETY: F16C is there; the reference covers 16 bytes.
        unsafe { _mm_storeu_si128(p.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a)) }
    }
    #[inline(always)]
    fn splat_f32(self, v: f32) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_set1_ps(v) }
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: FMA is there.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn widen(self, b: __m256i, i: usize) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe {
            let half = if i < 2 { _mm256_castsi256_si128(b) } else { _mm256_extracti128_si256::<1>(b) };
            let eight = if i.is_multiple_of(2) { half } else { _mm_unpackhi_epi64(half, half) };
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight))
        }
    }
    type W = [__m256i; 2];
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn sum4(self, a: [__m256; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        // SAFETY: AVX2 is there; the array has room for four numbers.
        unsafe {
            let pair = |a, b| _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (ab, cd) = (_mm256_castps_pd(pair(a[0], a[1])), _mm256_castps_pd(pair(a[2], a[3])));
            let (low, high) = (_mm256_unpacklo_pd(ab, cd), _mm256_unpackhi_pd(ab, cd));
            let sums = _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
            let sums = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
            _mm_storeu_ps(out.as_mut_ptr(), sums);
        }
        out
    }
    #[inline(always)]
    fn widen_i8(self, p: &[u8; 8]) -> __m256 {
        // SAFETY: AVX2 is there; the reference covers 8 bytes.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn widen_i16(self, p: &[u8; 32]) -> [__m256i; 2] {
        // SAFETY: AVX2 is there; the reference covers 32 bytes.
        unsafe {
            [
                _mm256_cvtepi8_epi16(_mm_loadu_si128(p.as_ptr().cast())),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(p.as_ptr().add(16).cast())),
            ]
        }
    }
    #[inline(always)]
    fn splat_f16(self, h: half::f16) -> __m256 {
        // Spread before it is converted: an insertion into one lane would wait for what the register held before.
        // SAFETY: AVX2 and F16C are there.
        unsafe { _mm256_cvtph_ps(_mm_set1_epi16(h.to_bits() as i16)) }
    }
    #[inline(always)]
    fn mul_add_lanes(self, acc: __m256, i: __m256i, scale: __m256) -> __m256 {
        // SAFETY: AVX2 and FMA are there.
        unsafe { _mm256_fmadd_ps(_mm256_cvtepi32_ps(i), scale, acc) }
    }
    #[inline(always)]
    fn dot_i16(self, w: [__m256i; 2], q: &[i16; 32]) -> __m256i {
        // SAFETY: AVX2 is there; the reference covers 32 numbers.
        unsafe {
            let low = _mm256_madd_epi16(w[0], _mm256_loadu_si256(q.as_ptr().cast()));
            let high = _mm256_madd_epi16(w[1], _mm256_loadu_si256(q.as_ptr().add(16).cast()));
            _mm256_add_epi32(low, high)
        }
    }
}

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
    fn sum_columns<const MAX: u8>(self, u: [__m256i; 8], q: &[i8; X_BLOCK], from: usize, to: usize) -> __m256i {
        // SAFETY: AVX2 is there; the references cover 32 bytes.
        unsafe {
            let (mut sum, mut partial) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            let mut n_partial = 0;
            for (i, (u, q)) in u.into_iter().zip(q.as_chunks::<32>().0).enumerate().take(to).skip(from) {
                let products = self.products::<MAX>(u, _mm256_loadu_si256(q.as_ptr().cast()));
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
    fn all_products<const MAX: u8>(self, u: [__m256i; 8], q: &[i8; X_BLOCK]) -> [__m256i; 8] {
        let mut p = u;
        for (p, q) in p.iter_mut().zip(q.as_chunks::<32>().0) {
            // SAFETY: AVX2 is there; the reference covers 32 bytes.
            *p = self.products::<MAX>(*p, unsafe { _mm256_loadu_si256(q.as_ptr().cast()) });
        }
        p
    }

    /// Eight or sixteen rows (`H` registers) of a panel times `T` tokens. `x` are their first blocks.
    #[inline(always)]
    fn tile_i8<const T: usize, const H: usize, const HALVES: bool, const MAX: u8>(
        self,
        panel: PanelI8<'_>,
        column: usize,
        x: [*const XBlock; T],
        out: &mut [[f32; PANEL_ROWS]; T],
    ) {
        let n_subs = if HALVES { 2 } else { 1 };
        let steps = 8 / n_subs;
        // Products that fit into 16 bits are added there.
        let room = if room(MAX) < steps { room(MAX) } else { steps };
        // SAFETY: AVX2 and FMA are there; `sweep_i8` checked that the panel and the tokens have `n_groups` groups.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sums = [[_mm256_setzero_ps(); H]; T];
            for i in 0..panel.n_groups * n_subs {
                let (group, sub) = (i / n_subs, i % n_subs);
                let (block, group) = (group / 8, group % 8);
                let w = panel.q.as_ptr().add((i * steps * PANEL_ROWS + column) * 4);
                let mut dots = [[_mm256_setzero_si256(); H]; T];
                for from in (0..steps).step_by(room) {
                    let mut partial = [[_mm256_setzero_si256(); H]; T];
                    for s in from..from + room {
                        let mut bytes = [_mm256_setzero_si256(); H];
                        let mut signs = bytes;
                        for h in 0..H {
                            bytes[h] = _mm256_loadu_si256(w.add(s * PANEL_ROWS * 4 + 32 * h).cast());
                            if MAX > 127 {
                                signs[h] = _mm256_xor_si256(bytes[h], _mm256_set1_epi8(-128));
                                bytes[h] = _mm256_abs_epi8(signs[h]);
                            }
                        }
                        for t in 0..T {
                            let q = (*x[t].add(block)).q.as_ptr().add(32 * group + (sub * steps + s) * 4).cast::<i32>();
                            let q = _mm256_set1_epi32(q.read_unaligned());
                            for h in 0..H {
                                let q = if MAX > 127 { _mm256_sign_epi8(q, signs[h]) } else { q };
                                let products = _mm256_maddubs_epi16(bytes[h], q);
                                partial[t][h] =
                                    if s == from { products } else { _mm256_add_epi16(partial[t][h], products) };
                            }
                        }
                    }
                    for t in 0..T {
                        for h in 0..H {
                            let wide = _mm256_madd_epi16(partial[t][h], ones);
                            dots[t][h] = if from == 0 { wide } else { _mm256_add_epi32(dots[t][h], wide) };
                        }
                    }
                }
                let at = i * PANEL_ROWS + column;
                for h in 0..H {
                    let d = _mm256_loadu_ps(panel.d.as_ptr().add(at + 8 * h));
                    let m = _mm256_loadu_ps(panel.m.as_ptr().add(at + 8 * h));
                    for t in 0..T {
                        let x = &*x[t].add(block);
                        let scale = _mm256_mul_ps(d, _mm256_set1_ps(*x.d.as_ptr().add(group)));
                        sums[t][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[t][h]), scale, sums[t][h]);
                        if MAX <= 127 {
                            let s = if HALVES {
                                *x.halves.as_ptr().add(half_index(group, sub))
                            } else {
                                *x.sum.as_ptr().add(group)
                            };
                            sums[t][h] = _mm256_fmadd_ps(m, _mm256_set1_ps(s), sums[t][h]);
                        }
                    }
                }
            }
            for t in 0..T {
                for h in 0..H {
                    _mm256_storeu_ps(out[t][column + 8 * h..][..8].as_mut_ptr(), sums[t][h]);
                }
            }
        }
    }

    /// All tokens from `from` on that come in groups of `T`; returns where it stopped.
    #[inline(always)]
    fn tiles_i8<const T: usize, const H: usize, const HALVES: bool, const MAX: u8>(
        self,
        panel: PanelI8<'_>,
        x: Rows<'_, XBlock>,
        mut from: usize,
        emit: Emit<'_>,
    ) -> usize {
        while from + T <= x.n() {
            let mut out = [[0.0; PANEL_ROWS]; T];
            for column in (0..PANEL_ROWS).step_by(8 * H) {
                self.tile_i8::<T, H, HALVES, MAX>(panel, column, x.pointers(from), &mut out);
            }
            for (t, sums) in out.iter().enumerate() {
                emit(from + t, sums);
            }
            from += T;
        }
        from
    }

    #[inline(always)]
    fn tile_f32<const T: usize>(
        self,
        panel: PanelF32<'_>,
        column: usize,
        x: [*const f32; T],
        out: &mut [[f32; PANEL_ROWS]; T],
    ) {
        // SAFETY: AVX2 and FMA are there; `sweep_f32` checked that the panel and the tokens have `panel.k` rows.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); 2]; T];
            for k in 0..panel.k {
                let w = panel.w.as_ptr().add(k * panel.stride + column);
                let w = [_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8))];
                for t in 0..T {
                    let x = _mm256_set1_ps(*x[t].add(k));
                    for h in 0..2 {
                        sums[t][h] = _mm256_fmadd_ps(w[h], x, sums[t][h]);
                    }
                }
            }
            for t in 0..T {
                for h in 0..2 {
                    _mm256_storeu_ps(out[t][column + 8 * h..][..8].as_mut_ptr(), sums[t][h]);
                }
            }
        }
    }

    #[inline(always)]
    fn tiles_f32<const T: usize>(
        self,
        panel: PanelF32<'_>,
        x: Rows<'_, f32>,
        mut from: usize,
        emit: Emit<'_>,
    ) -> usize {
        while from + T <= x.n() {
            let mut out = [[0.0; PANEL_ROWS]; T];
            for column in [0, 16] {
                self.tile_f32::<T>(panel, column, x.pointers(from), &mut out);
            }
            for (t, sums) in out.iter().enumerate() {
                emit(from + t, sums);
            }
            from += T;
        }
        from
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
    fn dot<const MAX: u8>(self, u: BytesOf<Self>, q: &[i8; 32]) -> IntsOf<Self> {
        // SAFETY: AVX2 is there; the reference covers 32 bytes.
        unsafe {
            let q = _mm256_loadu_si256(q.as_ptr().cast());
            self.widen_sums(self.products::<MAX>(u, q))
        }
    }

    #[inline(always)]
    fn dot_groups<const MAX: u8>(self, u: [__m256i; 8], q: &[i8; X_BLOCK]) -> __m256i {
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
    fn dot_columns<const MAX: u8>(self, u: [__m256i; 8], q: &[i8; X_BLOCK]) -> __m256i {
        self.sum_columns::<MAX>(u, q, 0, 8)
    }

    #[inline(always)]
    fn dot_column_halves<const MAX: u8>(self, u: [__m256i; 8], q: &[i8; X_BLOCK]) -> [__m256i; 2] {
        [self.sum_columns::<MAX>(u, q, 0, 4), self.sum_columns::<MAX>(u, q, 4, 8)]
    }

    #[inline(always)]
    fn dot_halves<const MAX: u8>(self, u: [__m256i; 8], q: &[i8; X_BLOCK]) -> [__m256i; 2] {
        let [a, b] = self.join_products::<MAX>(self.all_products::<MAX>(u, q));
        if room(MAX) < 4 { [a, b] } else { [self.widen_sums(a), self.widen_sums(b)] }
    }

    #[inline(always)]
    fn sweep_i8<const HALVES: bool, const MAX: u8>(self, panel: PanelI8<'_>, x: Rows<'_, XBlock>, emit: Emit<'_>) {
        // SAFETY: the instructions are there.
        unsafe { sweep_i8::<HALVES, MAX>(self, panel, x, emit) }
    }

    #[inline(always)]
    fn sweep_f32(self, panel: PanelF32<'_>, x: Rows<'_, f32>, emit: Emit<'_>) {
        // SAFETY: the instructions are there.
        unsafe { sweep_f32(self, panel, x, emit) }
    }

    #[inline(always)]
    fn product_f32<const ADD: bool>(self, panel: PanelF32<'_>, x: Rows<'_, f32>, out: &mut [f32], stride: usize) {
        // SAFETY: the instructions are there.
        unsafe { product_f32::<ADD>(self, panel, x, out, stride) }
    }
}

/// Not inlined: one copy serves all formats.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn sweep_i8<const HALVES: bool, const MAX: u8>(
    s: Avx2,
    panel: PanelI8<'_>,
    x: Rows<'_, XBlock>,
    emit: Emit<'_>,
) {
    panel.check::<HALVES>(x.width());
    let next = s.tiles_i8::<4, 2, HALVES, MAX>(panel, x, 0, emit);
    let next = s.tiles_i8::<2, 2, HALVES, MAX>(panel, x, next, emit);
    s.tiles_i8::<1, 2, HALVES, MAX>(panel, x, next, emit);
}

/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn sweep_f32(s: Avx2, panel: PanelF32<'_>, x: Rows<'_, f32>, emit: Emit<'_>) {
    panel.check(x.width());
    let next = s.tiles_f32::<6>(panel, x, 0, emit);
    let next = s.tiles_f32::<3>(panel, x, next, emit);
    s.tiles_f32::<1>(panel, x, next, emit);
}

impl Avx2 {
    /// All tokens from `from` on that come in groups of `T`; returns where it stopped.
    #[inline(always)]
    fn tiles_product<const T: usize, const ADD: bool>(
        self,
        panel: PanelF32<'_>,
        x: Rows<'_, f32>,
        mut from: usize,
        out: &mut [f32],
        stride: usize,
    ) -> usize {
        while from + T <= x.n() {
            self.rows_f32::<T, ADD>(panel, x, from, out, stride);
            from += T;
        }
        from
    }

    /// Tokens `from .. from + T` of a product whose bounds are checked.
    #[inline(always)]
    fn rows_f32<const T: usize, const ADD: bool>(
        self,
        panel: PanelF32<'_>,
        x: Rows<'_, f32>,
        from: usize,
        out: &mut [f32],
        stride: usize,
    ) {
        let x = x.pointers::<T>(from);
        for column in (0..PANEL_ROWS).step_by(16) {
            // SAFETY: the instructions are there; `product_f32` checked that the panel has `panel.k` rows of 32, the tokens
            // as many elements, and that the results lie in `out`.
            unsafe {
                let out = out.as_mut_ptr().add(from * stride + column);
                let mut sums = [[_mm256_setzero_ps(); 2]; T];
                for k in 0..panel.k {
                    let w = panel.w.as_ptr().add(k * panel.stride + column);
                    let w = [_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8))];
                    for t in 0..T {
                        let x = _mm256_set1_ps(*x[t].add(k));
                        sums[t][0] = _mm256_fmadd_ps(w[0], x, sums[t][0]);
                        sums[t][1] = _mm256_fmadd_ps(w[1], x, sums[t][1]);
                    }
                }
                for (t, sums) in sums.into_iter().enumerate() {
                    for (h, sum) in sums.into_iter().enumerate() {
                        let out = out.add(t * stride + 8 * h);
                        _mm256_storeu_ps(out, if ADD { _mm256_add_ps(sum, _mm256_loadu_ps(out)) } else { sum });
                    }
                }
            }
        }
    }
}

/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn product_f32<const ADD: bool>(s: Avx2, panel: PanelF32<'_>, x: Rows<'_, f32>, out: &mut [f32], stride: usize) {
    panel.check_room(&x, out, stride);
    let next = s.tiles_product::<6, ADD>(panel, x, 0, out, stride);
    let next = s.tiles_product::<3, ADD>(panel, x, next, out, stride);
    s.tiles_product::<1, ADD>(panel, x, next, out, stride);
}
