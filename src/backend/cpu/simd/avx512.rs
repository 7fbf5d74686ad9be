//! AVX-512 with VNNI. What works on 32 bytes is AVX2's; dot products and panels use `vpdpbusd`.
//!
//! A panel's 32 rows are two registers; six tokens make twelve integer and twelve float accumulators, which with the
//! weights, scales and minima fill the 32 registers. Activations are broadcast from memory. Multiplications and additions
//! of floats run on the same units as `vpdpbusd`, so per block of 32 only three of them are spent for each accumulator.

use super::avx2::{Avx2, splat_pair};
use super::{BytesOf, Emit, IntsOf, PANEL_ROWS, PanelF32, PanelI8, Rows, Simd};
use crate::backend::cpu::act::{XBlock, half_index};
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 F, BW, VL and VNNI, and all that [`Avx2`] proves.
#[derive(Clone, Copy)]
pub struct Avx512(Avx2);

impl Avx512 {
    /// # Safety
    /// The processor has AVX-512 F, BW, VL, VNNI, AVX2, FMA and F16C.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        // SAFETY: the caller's promise includes this one.
        Self(unsafe { Avx2::new() })
    }

    #[inline(always)]
    fn tile_i8<const T: usize, const HALVES: bool>(
        self,
        panel: PanelI8<'_>,
        x: [*const XBlock; T],
        out: &mut [[f32; PANEL_ROWS]; T],
    ) {
        let n_subs = if HALVES { 2 } else { 1 };
        let steps = 8 / n_subs;
        // SAFETY: the instructions are there; `sweep_i8` checked that the panel and the tokens have `n_groups` groups.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); 2]; T];
            for group in 0..panel.n_groups {
                let (b, g) = (group / 8, group % 8);
                for sub in 0..n_subs {
                    let i = group * n_subs + sub;
                    let mut dots = [[_mm512_setzero_si512(); 2]; T];
                    for s in 0..steps {
                        let w = panel.q.as_ptr().add((i * steps + s) * PANEL_ROWS * 4);
                        let w = [_mm512_loadu_si512(w.cast()), _mm512_loadu_si512(w.add(64).cast())];
                        for t in 0..T {
                            let q = (*x[t].add(b)).q.as_ptr().add(32 * g + (sub * steps + s) * 4).cast::<i32>();
                            let q = _mm512_set1_epi32(q.read_unaligned());
                            dots[t][0] = _mm512_dpbusd_epi32(dots[t][0], w[0], q);
                            dots[t][1] = _mm512_dpbusd_epi32(dots[t][1], w[1], q);
                        }
                    }
                    let at = i * PANEL_ROWS;
                    for h in 0..2 {
                        let d = _mm512_loadu_ps(panel.d.as_ptr().add(at + 16 * h));
                        let m = _mm512_loadu_ps(panel.m.as_ptr().add(at + 16 * h));
                        for t in 0..T {
                            let x = &*x[t].add(b);
                            let s = if HALVES {
                                *x.halves.as_ptr().add(half_index(g, sub))
                            } else {
                                *x.sum.as_ptr().add(g)
                            };
                            let scale = _mm512_mul_ps(d, _mm512_set1_ps(*x.d.as_ptr().add(g)));
                            sums[t][h] = _mm512_fmadd_ps(m, _mm512_set1_ps(s), sums[t][h]);
                            sums[t][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[t][h]), scale, sums[t][h]);
                        }
                    }
                }
            }
            for t in 0..T {
                _mm512_storeu_ps(out[t].as_mut_ptr(), sums[t][0]);
                _mm512_storeu_ps(out[t][16..].as_mut_ptr(), sums[t][1]);
            }
        }
    }

    /// All tokens from `from` on that come in groups of `T`; returns where it stopped.
    #[inline(always)]
    fn tiles_i8<const T: usize, const HALVES: bool>(
        self,
        panel: PanelI8<'_>,
        x: Rows<'_, XBlock>,
        mut from: usize,
        emit: Emit<'_>,
    ) -> usize {
        while from + T <= x.n() {
            let mut out = [[0.0; PANEL_ROWS]; T];
            self.tile_i8::<T, HALVES>(panel, x.pointers(from), &mut out);
            for (t, sums) in out.iter().enumerate() {
                emit(from + t, sums);
            }
            from += T;
        }
        from
    }

    #[inline(always)]
    fn tile_f32<const T: usize>(self, panel: PanelF32<'_>, x: [*const f32; T], out: &mut [[f32; PANEL_ROWS]; T]) {
        // SAFETY: the instructions are there; `sweep_f32` checked that the panel and the tokens have `panel.k` rows.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); 2]; T];
            for k in 0..panel.k {
                let w = panel.w.as_ptr().add(k * panel.stride);
                let w = [_mm512_loadu_ps(w), _mm512_loadu_ps(w.add(16))];
                for t in 0..T {
                    let x = _mm512_set1_ps(*x[t].add(k));
                    sums[t][0] = _mm512_fmadd_ps(w[0], x, sums[t][0]);
                    sums[t][1] = _mm512_fmadd_ps(w[1], x, sums[t][1]);
                }
            }
            for t in 0..T {
                _mm512_storeu_ps(out[t].as_mut_ptr(), sums[t][0]);
                _mm512_storeu_ps(out[t][16..].as_mut_ptr(), sums[t][1]);
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
            self.tile_f32::<T>(panel, x.pointers(from), &mut out);
            for (t, sums) in out.iter().enumerate() {
                emit(from + t, sums);
            }
            from += T;
        }
        from
    }
}

impl Simd for Avx512 {
    type Lanes = Avx2;
    const FMA: bool = true;
    const WIDE_IS_SIGNED: bool = false;

    #[inline(always)]
    fn lanes(self) -> Avx2 {
        self.0
    }

    #[inline(always)]
    fn dot<const MAX: u8>(self, u: BytesOf<Self>, q: BytesOf<Self>) -> IntsOf<Self> {
        // SAFETY: VNNI and VL are there.
        unsafe { _mm256_dpbusd_epi32(_mm256_setzero_si256(), u, q) }
    }

    #[inline(always)]
    fn dot_groups<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> IntsOf<Self> {
        let [a, b] = self.dot_halves::<MAX>(u, q);
        // SAFETY: AVX2 is there.
        unsafe { _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)) }
    }

    #[inline(always)]
    fn dot_columns<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> IntsOf<Self> {
        let [a, b] = self.dot_column_halves::<MAX>(u, q);
        // SAFETY: AVX2 is there.
        unsafe { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    fn dot_column_halves<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> [IntsOf<Self>; 2] {
        // SAFETY: VNNI and VL are there.
        unsafe {
            let mut sums = [_mm256_setzero_si256(); 2];
            for (i, (u, q)) in u.into_iter().zip(q).enumerate() {
                sums[i / 4] = _mm256_dpbusd_epi32(sums[i / 4], u, q);
            }
            sums
        }
    }

    #[inline(always)]
    fn dot_halves<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> [IntsOf<Self>; 2] {
        let mut dots = u;
        for (dot, q) in dots.iter_mut().zip(q) {
            *dot = self.dot::<MAX>(*dot, q);
        }
        self.0.join_sums(dots)
    }

    #[inline(always)]
    fn store_columns(self, rows: [[__m256i; 8]; 2], out: &mut [u8]) {
        assert!(out.len() >= 7 * 4 * PANEL_ROWS + 64);
        let [a, b] = rows;
        // SAFETY: AVX-512 F is there; the assertion above covers the eight times 64 bytes.
        unsafe {
            let mut r = [_mm512_setzero_si512(); 8];
            for i in 0..8 {
                r[i] = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a[i]), b[i]);
            }
            // Quarters of 128 bits: columns 0..4 and 4..8 of rows of `a`, the same of `b`. First, four rows each: their columns
            // c and c + 4 in `fours[c]`.
            let mut fours = [[_mm512_setzero_si512(); 4]; 2];
            for (h, fours) in fours.iter_mut().enumerate() {
                let r = &r[4 * h..];
                let low = [_mm512_unpacklo_epi32(r[0], r[1]), _mm512_unpacklo_epi32(r[2], r[3])];
                let high = [_mm512_unpackhi_epi32(r[0], r[1]), _mm512_unpackhi_epi32(r[2], r[3])];
                fours[0] = _mm512_unpacklo_epi64(low[0], low[1]);
                fours[1] = _mm512_unpackhi_epi64(low[0], low[1]);
                fours[2] = _mm512_unpacklo_epi64(high[0], high[1]);
                fours[3] = _mm512_unpackhi_epi64(high[0], high[1]);
            }
            // Then the rows 4..8 join, of `a` and of `b`.
            let first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
            let second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
            for (c, (low, high)) in fours[0].into_iter().zip(fours[1]).enumerate() {
                for (step, index) in [(c, first), (c + 4, second)] {
                    let columns = _mm512_permutex2var_epi64(low, index, high);
                    _mm512_storeu_si512(out.as_mut_ptr().add(4 * PANEL_ROWS * step).cast(), columns);
                }
            }
        }
    }

    #[inline(always)]
    fn dot_words(self, w: [__m256i; 2], q: &[i16; 32]) -> __m256i {
        // SAFETY: VNNI and VL are there; the reference covers 32 numbers.
        unsafe {
            let low = _mm256_dpwssd_epi32(_mm256_setzero_si256(), w[0], _mm256_loadu_si256(q.as_ptr().cast()));
            _mm256_dpwssd_epi32(low, w[1], _mm256_loadu_si256(q.as_ptr().add(16).cast()))
        }
    }

    #[inline(always)]
    fn add_pairs(self, acc: __m256i, pairs: __m256i, weights: [i16; 2]) -> __m256i {
        // SAFETY: VNNI, VL and AVX2 are there.
        unsafe { _mm256_dpwssd_epi32(acc, pairs, splat_pair(weights)) }
    }

    #[inline(always)]
    fn widen_sixteen(self, u: &[u8; 16], d: f32, m: f32, out: &mut [f32; 16]) {
        // SAFETY: AVX-512 F is there; the references cover sixteen elements.
        unsafe {
            let u = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(u.as_ptr().cast())));
            _mm512_storeu_ps(out.as_mut_ptr(), _mm512_fmadd_ps(u, _mm512_set1_ps(d), _mm512_set1_ps(m)));
        }
    }

    #[inline(always)]
    fn sweep_i8<const HALVES: bool, const MAX: u8>(self, panel: PanelI8<'_>, x: Rows<'_, XBlock>, emit: Emit<'_>) {
        // SAFETY: the instructions are there.
        unsafe { sweep_i8::<HALVES>(self, panel, x, emit) }
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
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline(never)]
unsafe fn sweep_i8<const HALVES: bool>(s: Avx512, panel: PanelI8<'_>, x: Rows<'_, XBlock>, emit: Emit<'_>) {
    panel.check::<HALVES>(x.width());
    let next = s.tiles_i8::<6, HALVES>(panel, x, 0, emit);
    let next = s.tiles_i8::<4, HALVES>(panel, x, next, emit);
    let next = s.tiles_i8::<2, HALVES>(panel, x, next, emit);
    s.tiles_i8::<1, HALVES>(panel, x, next, emit);
}

/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline(never)]
unsafe fn sweep_f32(s: Avx512, panel: PanelF32<'_>, x: Rows<'_, f32>, emit: Emit<'_>) {
    panel.check(x.width());
    let next = s.tiles_f32::<12>(panel, x, 0, emit);
    let next = s.tiles_f32::<6>(panel, x, next, emit);
    let next = s.tiles_f32::<2>(panel, x, next, emit);
    s.tiles_f32::<1>(panel, x, next, emit);
}

impl Avx512 {
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
        for column in (0..PANEL_ROWS).step_by(32) {
            // SAFETY: the instructions are there; `product_f32` checked that the panel has `panel.k` rows of 32, the tokens
            // as many elements, and that the results lie in `out`.
            unsafe {
                let out = out.as_mut_ptr().add(from * stride + column);
                let mut sums = [[_mm512_setzero_ps(); 2]; T];
                for k in 0..panel.k {
                    let w = panel.w.as_ptr().add(k * panel.stride + column);
                    let w = [_mm512_loadu_ps(w), _mm512_loadu_ps(w.add(16))];
                    for t in 0..T {
                        let x = _mm512_set1_ps(*x[t].add(k));
                        sums[t][0] = _mm512_fmadd_ps(w[0], x, sums[t][0]);
                        sums[t][1] = _mm512_fmadd_ps(w[1], x, sums[t][1]);
                    }
                }
                for (t, sums) in sums.into_iter().enumerate() {
                    for (h, sum) in sums.into_iter().enumerate() {
                        let out = out.add(t * stride + 16 * h);
                        _mm512_storeu_ps(out, if ADD { _mm512_add_ps(sum, _mm512_loadu_ps(out)) } else { sum });
                    }
                }
            }
        }
    }
}

/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline(never)]
unsafe fn product_f32<const ADD: bool>(
    s: Avx512,
    panel: PanelF32<'_>,
    x: Rows<'_, f32>,
    out: &mut [f32],
    stride: usize,
) {
    panel.check_room(&x, out, stride);
    let next = s.tiles_product::<12, ADD>(panel, x, 0, out, stride);
    let next = s.tiles_product::<6, ADD>(panel, x, next, out, stride);
    let next = s.tiles_product::<2, ADD>(panel, x, next, out, stride);
    s.tiles_product::<1, ADD>(panel, x, next, out, stride);
}
