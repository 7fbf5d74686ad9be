//! What AVX2 does with 32 bytes and eight numbers.

use super::Avx2;
use crate::backend::cpu::simd::Lanes;
use std::arch::x86_64::*;

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
    fn splat4(self, v: &[u8; 4]) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_set1_epi32(i32::from_ne_bytes(*v)) }
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
            // Both halves come with the load, and are shifted by 0 and 4: no shuffle, of which a processor does few.
            let packed = _mm256_broadcastsi128_si256(_mm_loadu_si128(p.as_ptr().cast()));
            _mm256_srlv_epi32(packed, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4))
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
    type P = __m256i;
    #[inline(always)]
    fn pairs(self, a: &[u8; 16], b: &[u8; 16]) -> [__m256i; 2] {
        // SAFETY: AVX2 is there; the references cover 16 bytes.
        unsafe {
            let a = _mm256_cvtepi8_epi16(_mm_loadu_si128(a.as_ptr().cast()));
            let b = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.as_ptr().cast()));
            [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)]
        }
    }
    #[inline(always)]
    fn add_pairs(self, acc: __m256i, pairs: __m256i, weights: [i16; 2]) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, splat_pair(weights))) }
    }
    #[inline(always)]
    fn in_order(self, sums: [__m256i; 2]) -> [__m256i; 2] {
        let [a, b] = sums;
        // SAFETY: AVX2 is there.
        unsafe { [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)] }
    }
    #[inline(always)]
    fn zeros(self) -> __m256i {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_setzero_si256() }
    }
}

/// A pair of weights in all lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(in super::super) unsafe fn splat_pair([a, b]: [i16; 2]) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_set1_epi32(i32::from(a as u16) | i32::from(b) << 16) }
}
