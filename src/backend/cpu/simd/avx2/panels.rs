//! Sweeps of tokens over panels of weights, with AVX2.

use super::{Avx2, room};
use crate::backend::cpu::act::{XBlock, half_index};
use crate::backend::cpu::simd::{Emit, PANEL_ROWS, PanelF32, PanelI8, Rows};
use std::arch::x86_64::*;

// SAFETY (all of this file): a value of `Avx2` exists only where its instructions were detected.

impl Avx2 {
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

/// Not inlined: one copy serves all formats.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
pub(super) unsafe fn sweep_i8<const HALVES: bool, const MAX: u8>(
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
pub(super) unsafe fn sweep_f32(s: Avx2, panel: PanelF32<'_>, x: Rows<'_, f32>, emit: Emit<'_>) {
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
pub(super) unsafe fn product_f32<const ADD: bool>(
    s: Avx2,
    panel: PanelF32<'_>,
    x: Rows<'_, f32>,
    out: &mut [f32],
    stride: usize,
) {
    panel.check_room(&x, out, stride);
    let next = s.tiles_product::<6, ADD>(panel, x, 0, out, stride);
    let next = s.tiles_product::<3, ADD>(panel, x, next, out, stride);
    s.tiles_product::<1, ADD>(panel, x, next, out, stride);
}
