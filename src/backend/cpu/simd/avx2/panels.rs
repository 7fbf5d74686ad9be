//! Sweeps of tokens over panels of weights, with AVX2.

use super::Avx2;
use super::tile::{ROWS, TOKENS};
use crate::backend::cpu::act::{XBlock, half_index};
use crate::backend::cpu::simd::{Emit, PANEL_ROWS, PanelF32, PanelI8, Rows};
use std::arch::x86_64::*;

// SAFETY (all of this file): a value of `Avx2` exists only where its instructions were detected.

impl Avx2 {
    /// Sixteen rows of a panel, from `column` on, times four tokens. `x` are their first blocks.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn tile_i8<const HALVES: bool, const MAX: u8>(
        self,
        panel: PanelI8<'_>,
        column: usize,
        x: [*const XBlock; TOKENS],
        out: &mut [[f32; PANEL_ROWS]; TOKENS],
    ) {
        let n_subs = if HALVES { 2 } else { 1 };
        let n_columns = 32 / n_subs;
        // SAFETY: AVX2 and FMA are there; `sweep_i8` checked that the panel and the tokens have `n_groups` groups.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); 2]; TOKENS];
            for i in 0..panel.n_groups * n_subs {
                let (group, sub) = (i / n_subs, i % n_subs);
                let (block, group) = (group / 8, group % 8);
                let w = panel.q.as_ptr().add(i * n_columns * PANEL_ROWS + 4 * column);
                let mut q = [std::ptr::null(); TOKENS];
                for t in 0..TOKENS {
                    q[t] = (&raw const (*x[t].add(block)).q).cast::<i8>().add(32 * group + sub * n_columns);
                }
                let dots = self.tile::<HALVES, MAX>(w, q);
                let at = i * PANEL_ROWS + column;
                for h in 0..2 {
                    let d = _mm256_loadu_ps(panel.d.as_ptr().add(at + 8 * h));
                    let m = _mm256_loadu_ps(panel.m.as_ptr().add(at + 8 * h));
                    for t in 0..TOKENS {
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
            for t in 0..TOKENS {
                for h in 0..2 {
                    _mm256_storeu_ps(out[t][column + 8 * h..][..8].as_mut_ptr(), sums[t][h]);
                }
            }
        }
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
    let n = x.n();
    for from in (0..n).step_by(TOKENS) {
        // What is left is no multiple of four: the last token stands in for those that are missing.
        let tokens = std::array::from_fn(|t| x.row((from + t).min(n - 1)).as_ptr());
        let mut out = [[0.0; PANEL_ROWS]; TOKENS];
        for column in (0..PANEL_ROWS).step_by(ROWS) {
            s.tile_i8::<HALVES, MAX>(panel, column, tokens, &mut out);
        }
        for (t, sums) in out.iter().enumerate().take(n - from) {
            emit(from + t, sums);
        }
    }
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
