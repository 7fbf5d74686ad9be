//! NEON, as every 64-bit ARM processor has it. Bytes are multiplied as signed ones: weights up to 127 are that already,
//! wider ones are moved down by 128.

use super::{BytesOf, Emit, IntsOf, Lanes, PANEL_ROWS, PanelF32, PanelI8, Rows, Simd};
use crate::backend::cpu::act::{XBlock, half_index};
use half::f16;
use std::arch::aarch64::*;
use std::array::from_fn;

/// Registers of four that hold the rows of a panel.
const QUADS: usize = PANEL_ROWS / 4;

/// Proof that the processor has NEON.
#[derive(Clone, Copy)]
pub struct Neon(());

impl Neon {
    /// # Safety
    /// The processor has NEON.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Self(())
    }

    /// Sums of products of four neighbours of 16 signed bytes.
    #[inline(always)]
    fn dot16(self, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: NEON is there.
        unsafe {
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
            let high = vpaddlq_s16(vmull_high_s8(a, b));
            vpaddq_s32(low, high)
        }
    }

    /// Weights as signed bytes.
    #[inline(always)]
    fn signed<const MAX: u8>(self, u: uint8x16_t) -> int8x16_t {
        // SAFETY: NEON is there.
        unsafe { vreinterpretq_s8_u8(if MAX > 127 { veorq_u8(u, vdupq_n_u8(0x80)) } else { u }) }
    }

    #[inline(always)]
    fn tile_i8<const HALVES: bool, const MAX: u8>(self, panel: PanelI8<'_>, x: &[XBlock]) -> [f32; PANEL_ROWS] {
        let n_subs = if HALVES { 2 } else { 1 };
        let steps = 8 / n_subs;
        let mut out = [0.0; PANEL_ROWS];
        // SAFETY: NEON is there; `sweep_i8` checked that the panel and the token have `n_groups` groups.
        unsafe {
            let mut sums = [vdupq_n_f32(0.0); QUADS];
            for i in 0..panel.n_groups * n_subs {
                let (group, sub) = (i / n_subs, i % n_subs);
                let (x, g) = (&x[group / 8], group % 8);
                let mut dots = [vdupq_n_s32(0); QUADS];
                for s in 0..steps {
                    let q = x.q.as_ptr().add(32 * g + (sub * steps + s) * 4).cast::<i32>().read_unaligned();
                    let q = vreinterpretq_s8_s32(vdupq_n_s32(q));
                    let w = panel.q.as_ptr().add((i * steps + s) * PANEL_ROWS * 4);
                    for (j, dot) in dots.iter_mut().enumerate() {
                        *dot = vaddq_s32(*dot, self.dot16(self.signed::<MAX>(vld1q_u8(w.add(16 * j))), q));
                    }
                }
                let s = if HALVES { x.halves[half_index(g, sub)] } else { x.sum[g] };
                for (j, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                    let at = i * PANEL_ROWS + 4 * j;
                    let scale = vmulq_n_f32(vld1q_f32(panel.d.as_ptr().add(at)), x.d[g]);
                    *sum = vfmaq_f32(*sum, vcvtq_f32_s32(dot), scale);
                    if MAX <= 127 {
                        *sum = vfmaq_n_f32(*sum, vld1q_f32(panel.m.as_ptr().add(at)), s);
                    }
                }
            }
            for (sum, out) in sums.into_iter().zip(out.as_chunks_mut::<4>().0) {
                vst1q_f32(out.as_mut_ptr(), sum);
            }
        }
        out
    }

    #[inline(always)]
    fn tile_f32<const T: usize>(self, panel: PanelF32<'_>, x: [*const f32; T]) -> [[f32; PANEL_ROWS]; T] {
        let mut out = [[0.0; PANEL_ROWS]; T];
        // SAFETY: NEON is there; `sweep_f32` checked that the panel and the tokens have `panel.k` rows.
        unsafe {
            let mut sums = [[vdupq_n_f32(0.0); QUADS]; T];
            for k in 0..panel.k {
                let w = panel.w.as_ptr().add(k * panel.stride);
                for j in 0..QUADS {
                    let w = vld1q_f32(w.add(4 * j));
                    for t in 0..T {
                        sums[t][j] = vfmaq_n_f32(sums[t][j], w, *x[t].add(k));
                    }
                }
            }
            for (sums, out) in sums.into_iter().zip(&mut out) {
                for (sum, out) in sums.into_iter().zip(out.as_chunks_mut::<4>().0) {
                    vst1q_f32(out.as_mut_ptr(), sum);
                }
            }
        }
        out
    }
}

impl Lanes for Neon {
    type B = [uint8x16_t; 2];
    type I = [int32x4_t; 2];
    type F = [float32x4_t; 2];

    #[inline(always)]
    fn load(self, p: &[u8; 32]) -> Self::B {
        // SAFETY: NEON is there; the reference covers 32 bytes.
        unsafe { [vld1q_u8(p.as_ptr()), vld1q_u8(p.as_ptr().add(16))] }
    }
    #[inline(always)]
    fn store(self, p: &mut [u8; 32], b: Self::B) {
        // SAFETY: NEON is there; the reference covers 32 bytes.
        unsafe {
            vst1q_u8(p.as_mut_ptr(), b[0]);
            vst1q_u8(p.as_mut_ptr().add(16), b[1]);
        }
    }
    #[inline(always)]
    fn splat4(self, v: &[u8; 4]) -> Self::B {
        // SAFETY: NEON is there.
        [unsafe { vreinterpretq_u8_u32(vdupq_n_u32(u32::from_ne_bytes(*v))) }; 2]
    }
    #[inline(always)]
    fn splat(self, v: u8) -> Self::B {
        // SAFETY: NEON is there.
        [unsafe { vdupq_n_u8(v) }; 2]
    }
    #[inline(always)]
    fn and(self, a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: NEON is there.
        from_fn(|i| unsafe { vandq_u8(a[i], b[i]) })
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: NEON is there.
        from_fn(|i| unsafe { vorrq_u8(a[i], b[i]) })
    }
    #[inline(always)]
    fn xor(self, a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: NEON is there.
        from_fn(|i| unsafe { veorq_u8(a[i], b[i]) })
    }
    #[inline(always)]
    fn shr(self, a: Self::B, n: u32) -> Self::B {
        // SAFETY: NEON is there.
        from_fn(|i| unsafe { vshlq_u8(a[i], vdupq_n_s8(-(n as i8))) })
    }
    #[inline(always)]
    fn shl(self, a: Self::B, n: u32) -> Self::B {
        // SAFETY: NEON is there.
        from_fn(|i| unsafe { vshlq_u8(a[i], vdupq_n_s8(n as i8)) })
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], i: Self::B) -> Self::B {
        // SAFETY: NEON is there; the table covers 16 bytes.
        i.map(|i| unsafe { vqtbl1q_u8(vld1q_u8(table.as_ptr()), i) })
    }
    #[inline(always)]
    fn nibbles(self, p: &[u8; 16]) -> Self::B {
        // SAFETY: NEON is there; the reference covers 16 bytes.
        unsafe {
            let packed = vld1q_u8(p.as_ptr());
            [vandq_u8(packed, vdupq_n_u8(15)), vshrq_n_u8::<4>(packed)]
        }
    }
    #[inline(always)]
    fn spread(self, bits: u32, value: u8) -> Self::B {
        const BIT: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
        from_fn(|i| {
            let [low, high] = (bits >> (16 * i) & 0xffff).to_le_bytes()[..2] else { unreachable!("two bytes") };
            // SAFETY: NEON is there; the table covers 16 bytes.
            unsafe {
                let bytes = vcombine_u8(vdup_n_u8(low), vdup_n_u8(high));
                vandq_u8(vtstq_u8(bytes, vld1q_u8(BIT.as_ptr())), vdupq_n_u8(value))
            }
        })
    }
    #[inline(always)]
    fn transpose(self, rows: [Self::B; 8]) -> [Self::B; 8] {
        // Four rows by four columns of four bytes, at rows `4 * r` and columns `4 * c`.
        let square = |r: usize, c: usize| -> [uint8x16_t; 4] {
            // SAFETY: NEON is there.
            unsafe {
                let row: [uint32x4_t; 4] = from_fn(|i| vreinterpretq_u32_u8(rows[4 * r + i][c]));
                let even = [vtrn1q_u32(row[0], row[1]), vtrn1q_u32(row[2], row[3])].map(|v| vreinterpretq_u64_u32(v));
                let odd = [vtrn2q_u32(row[0], row[1]), vtrn2q_u32(row[2], row[3])].map(|v| vreinterpretq_u64_u32(v));
                [
                    vreinterpretq_u8_u64(vtrn1q_u64(even[0], even[1])),
                    vreinterpretq_u8_u64(vtrn1q_u64(odd[0], odd[1])),
                    vreinterpretq_u8_u64(vtrn2q_u64(even[0], even[1])),
                    vreinterpretq_u8_u64(vtrn2q_u64(odd[0], odd[1])),
                ]
            }
        };
        let squares = [[square(0, 0), square(1, 0)], [square(0, 1), square(1, 1)]];
        from_fn(|column| squares[column / 4].map(|square| square[column % 4]))
    }
    #[inline(always)]
    fn round_scaled(self, x: &[f32; 32], scale: f32) -> Self::B {
        // SAFETY: NEON is there; the reference covers 32 numbers.
        from_fn(|h| unsafe {
            let words = |i: usize| {
                let ints = |i: usize| vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x.as_ptr().add(16 * h + 4 * i)), scale));
                vcombine_s16(vqmovn_s32(ints(2 * i)), vqmovn_s32(ints(2 * i + 1)))
            };
            let bytes = vcombine_s8(vqmovn_s16(words(0)), vqmovn_s16(words(1)));
            vreinterpretq_u8_s8(vmaxq_s8(bytes, vdupq_n_s8(-127)))
        })
    }
    #[inline(always)]
    fn halves_apart(self, [a, b]: [Self::F; 2]) -> [Self::F; 2] {
        [[a[0], b[0]], [a[1], b[1]]]
    }
    #[inline(always)]
    fn bits(self, a: Self::F) -> Self::B {
        // SAFETY: NEON is there.
        a.map(|a| unsafe { vreinterpretq_u8_f32(a) })
    }
    #[inline(always)]
    fn to_f32(self, i: Self::I) -> Self::F {
        // SAFETY: NEON is there.
        i.map(|i| unsafe { vcvtq_f32_s32(i) })
    }
    #[inline(always)]
    fn bytes(self, b: [u8; 8]) -> Self::F {
        // SAFETY: NEON is there; the array covers eight bytes.
        unsafe {
            let words = vmovl_u8(vld1_u8(b.as_ptr()));
            [vcvtq_f32_u32(vmovl_u16(vget_low_u16(words))), vcvtq_f32_u32(vmovl_high_u16(words))]
        }
    }
    #[inline(always)]
    fn halves(self, b: [i8; 16]) -> [Self::F; 2] {
        from_fn(|v| self.load_f32(&from_fn(|i| f32::from(b[8 * v + 2 * (i % 4) + i / 4]))))
    }
    #[inline(always)]
    fn f16s(self, bits: [u16; 8]) -> Self::F {
        self.load_f32(&bits.map(|b| f16::from_bits(b).to_f32()))
    }
    #[inline(always)]
    fn f16_pairs(self, bits: [u32; 8]) -> [Self::F; 2] {
        [self.f16s(bits.map(|b| b as u16)), self.f16s(bits.map(|b| (b >> 16) as u16))]
    }
    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat_f32(0.0)
    }
    #[inline(always)]
    fn mul_add(self, acc: Self::F, i: Self::I, scale: f32) -> Self::F {
        self.mul_add_halves(acc, i, [scale; 2])
    }
    #[inline(always)]
    fn mul_add_halves(self, acc: Self::F, i: Self::I, scales: [f32; 2]) -> Self::F {
        // SAFETY: NEON is there.
        from_fn(|h| unsafe { vfmaq_n_f32(acc[h], vcvtq_f32_s32(i[h]), scales[h]) })
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        // SAFETY: NEON is there.
        unsafe { vaddvq_f32(vaddq_f32(a[0], a[1])) }
    }
    #[inline(always)]
    fn sum8(self, a: [Self::F; 8]) -> [f32; 8] {
        a.map(|a| self.sum(a))
    }
    #[inline(always)]
    fn max8(self, a: [Self::F; 8]) -> [f32; 8] {
        // SAFETY: NEON is there.
        a.map(|a| unsafe { vmaxvq_f32(vmaxq_f32(a[0], a[1])) })
    }
    #[inline(always)]
    fn load_twice(self, p: &[f32; 4]) -> Self::F {
        // SAFETY: NEON is there; the reference covers four numbers.
        [unsafe { vld1q_f32(p.as_ptr()) }; 2]
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: NEON is there.
        from_fn(|h| unsafe { vaddq_f32(a[h], b[h]) })
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: NEON is there.
        from_fn(|h| unsafe { vbslq_f32(vcgtq_f32(a[h], b[h]), a[h], b[h]) })
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: NEON is there.
        from_fn(|h| unsafe { vsubq_f32(a[h], b[h]) })
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: NEON is there.
        from_fn(|h| unsafe { vdivq_f32(a[h], b[h]) })
    }
    #[inline(always)]
    fn times_power(self, a: Self::F, power: Self::F) -> Self::F {
        // SAFETY: NEON is there.
        from_fn(|h| unsafe {
            let n = vshlq_n_s32::<23>(vreinterpretq_s32_f32(power[h]));
            vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a[h]), n))
        })
    }
    #[inline(always)]
    fn keep_from(self, least: f32, x: Self::F, a: Self::F) -> Self::F {
        // SAFETY: NEON is there.
        from_fn(|h| unsafe {
            let gone = vcltq_f32(x[h], vdupq_n_f32(least));
            vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a[h]), gone))
        })
    }
    #[inline(always)]
    fn zip(self, [a, b]: [Self::F; 2]) -> [Self::F; 2] {
        // SAFETY: NEON is there.
        from_fn(|h| unsafe { [vzip1q_f32(a[h], b[h]), vzip2q_f32(a[h], b[h])] })
    }
    #[inline(always)]
    fn swap_pairs(self, a: Self::F) -> Self::F {
        // SAFETY: NEON is there.
        a.map(|a| unsafe { vrev64q_f32(a) })
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        // SAFETY: NEON is there.
        a.map(|a| unsafe { vabsq_f32(a) })
    }
    #[inline(always)]
    fn f16(self, h: f16) -> f32 {
        h.to_f32()
    }
    #[inline(always)]
    fn load_f32(self, p: &[f32; 8]) -> Self::F {
        // SAFETY: NEON is there; the reference covers eight numbers.
        unsafe { [vld1q_f32(p.as_ptr()), vld1q_f32(p.as_ptr().add(4))] }
    }
    #[inline(always)]
    fn load_f16(self, p: &[u8; 16]) -> Self::F {
        self.load_f32(&from_fn(|i| f16::from_le_bytes([p[2 * i], p[2 * i + 1]]).to_f32()))
    }
    #[inline(always)]
    fn load_bf16(self, p: &[u8; 16]) -> Self::F {
        self.load_f32(&from_fn(|i| f32::from_bits(u32::from(u16::from_le_bytes([p[2 * i], p[2 * i + 1]])) << 16)))
    }
    #[inline(always)]
    fn store_f32(self, p: &mut [f32; 8], a: Self::F) {
        // SAFETY: NEON is there; the reference covers eight numbers.
        unsafe {
            vst1q_f32(p.as_mut_ptr(), a[0]);
            vst1q_f32(p.as_mut_ptr().add(4), a[1]);
        }
    }
    #[inline(always)]
    fn store_f16(self, p: &mut [u8; 16], a: Self::F) {
        let mut values = [0.0; 8];
        self.store_f32(&mut values, a);
        for (p, v) in p.as_chunks_mut::<2>().0.iter_mut().zip(values) {
            *p = f16::from_f32(v).to_le_bytes();
        }
    }
    #[inline(always)]
    fn splat_f32(self, v: f32) -> Self::F {
        // SAFETY: NEON is there.
        [unsafe { vdupq_n_f32(v) }; 2]
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: NEON is there.
        from_fn(|h| unsafe { vfmaq_f32(c[h], a[h], b[h]) })
    }
    #[inline(always)]
    fn widen(self, b: Self::B, i: usize) -> Self::F {
        // SAFETY: NEON is there.
        unsafe {
            let half = b[i / 2];
            let eight = vmovl_u8(if i % 2 == 0 { vget_low_u8(half) } else { vget_high_u8(half) });
            [vcvtq_f32_u32(vmovl_u16(vget_low_u16(eight))), vcvtq_f32_u32(vmovl_high_u16(eight))]
        }
    }
    type W = [int16x8_t; 4];
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: NEON is there.
        from_fn(|h| unsafe { vmulq_f32(a[h], b[h]) })
    }
    #[inline(always)]
    fn sum4(self, a: [Self::F; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        // SAFETY: NEON is there; the array has room for four numbers.
        unsafe {
            let a = a.map(|a| vaddq_f32(a[0], a[1]));
            vst1q_f32(out.as_mut_ptr(), vpaddq_f32(vpaddq_f32(a[0], a[1]), vpaddq_f32(a[2], a[3])));
        }
        out
    }
    #[inline(always)]
    fn widen_i8(self, p: &[u8; 8]) -> Self::F {
        // SAFETY: NEON is there; the reference covers 8 bytes.
        unsafe {
            let eight = vmovl_s8(vld1_s8(p.as_ptr().cast()));
            [vcvtq_f32_s32(vmovl_s16(vget_low_s16(eight))), vcvtq_f32_s32(vmovl_high_s16(eight))]
        }
    }
    #[inline(always)]
    fn widen_i16(self, p: &[u8; 32]) -> Self::W {
        // SAFETY: NEON is there; the reference covers 32 bytes.
        from_fn(|i| unsafe { vmovl_s8(vld1_s8(p.as_ptr().add(8 * i).cast())) })
    }
    #[inline(always)]
    fn splat_f16(self, h: f16) -> Self::F {
        self.splat_f32(h.to_f32())
    }
    #[inline(always)]
    fn mul_add_lanes(self, acc: Self::F, i: Self::I, scale: Self::F) -> Self::F {
        // SAFETY: NEON is there.
        from_fn(|h| unsafe { vfmaq_f32(acc[h], vcvtq_f32_s32(i[h]), scale[h]) })
    }
    #[inline(always)]
    fn dot_i16(self, w: Self::W, q: &[i16; 32]) -> Self::I {
        // SAFETY: NEON is there; the reference covers 32 numbers.
        from_fn(|h| unsafe {
            let q = [vld1q_s16(q.as_ptr().add(16 * h)), vld1q_s16(q.as_ptr().add(16 * h + 8))];
            let low = vmull_s16(vget_low_s16(w[2 * h]), vget_low_s16(q[0]));
            let low = vmlal_high_s16(low, w[2 * h], q[0]);
            let high = vmull_s16(vget_low_s16(w[2 * h + 1]), vget_low_s16(q[1]));
            vaddq_s32(low, vmlal_high_s16(high, w[2 * h + 1], q[1]))
        })
    }
    type P = [int16x8_t; 2];
    #[inline(always)]
    fn pairs(self, a: &[u8; 16], b: &[u8; 16]) -> [Self::P; 2] {
        // SAFETY: NEON is there; the references cover 16 bytes.
        from_fn(|h| unsafe { [a, b].map(|p| vmovl_s8(vld1_s8(p.as_ptr().add(8 * h).cast()))) })
    }
    #[inline(always)]
    fn add_pairs(self, acc: Self::I, pairs: Self::P, weights: [i16; 2]) -> Self::I {
        let ([a, b], [wa, wb]) = (pairs, weights);
        // SAFETY: NEON is there.
        unsafe {
            let low = vmlal_n_s16(vmlal_n_s16(acc[0], vget_low_s16(a), wa), vget_low_s16(b), wb);
            [low, vmlal_high_n_s16(vmlal_high_n_s16(acc[1], a, wa), b, wb)]
        }
    }
    #[inline(always)]
    fn in_order(self, sums: [Self::I; 2]) -> [Self::I; 2] {
        sums
    }
    #[inline(always)]
    fn zeros(self) -> Self::I {
        // SAFETY: NEON is there.
        [unsafe { vdupq_n_s32(0) }; 2]
    }
}

impl Simd for Neon {
    type Lanes = Neon;
    const FMA: bool = true;
    const WIDE_IS_SIGNED: bool = true;

    #[inline(always)]
    fn lanes(self) -> Neon {
        self
    }

    #[inline(always)]
    fn dot<const MAX: u8>(self, u: BytesOf<Self>, q: BytesOf<Self>) -> IntsOf<Self> {
        // SAFETY: NEON is there.
        from_fn(|h| self.dot16(self.signed::<MAX>(u[h]), unsafe { vreinterpretq_s8_u8(q[h]) }))
    }

    #[inline(always)]
    fn dot_groups<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> IntsOf<Self> {
        // SAFETY: NEON is there.
        unsafe {
            let dot = |g: usize| {
                let dot = self.dot::<MAX>(u[g], q[g]);
                vaddq_s32(dot[0], dot[1])
            };
            let four = |g: usize| vpaddq_s32(vpaddq_s32(dot(g), dot(g + 1)), vpaddq_s32(dot(g + 2), dot(g + 3)));
            [four(0), four(4)]
        }
    }

    #[inline(always)]
    fn dot_columns<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> IntsOf<Self> {
        let [a, b] = self.dot_column_halves::<MAX>(u, q);
        // SAFETY: NEON is there.
        from_fn(|h| unsafe { vaddq_s32(a[h], b[h]) })
    }

    #[inline(always)]
    fn dot_column_halves<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> [IntsOf<Self>; 2] {
        from_fn(|half| {
            let mut sums = self.dot::<MAX>(u[4 * half], q[4 * half]);
            for i in 4 * half + 1..4 * half + 4 {
                let dots = self.dot::<MAX>(u[i], q[i]);
                // SAFETY: NEON is there.
                sums = from_fn(|h| unsafe { vaddq_s32(sums[h], dots[h]) });
            }
            sums
        })
    }

    #[inline(always)]
    fn dot_halves<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> [IntsOf<Self>; 2] {
        // SAFETY: NEON is there.
        unsafe {
            let four = |g: usize| {
                let dots: [IntsOf<Self>; 4] = from_fn(|i| self.dot::<MAX>(u[g + i], q[g + i]));
                from_fn(|h| vpaddq_s32(vpaddq_s32(dots[0][h], dots[1][h]), vpaddq_s32(dots[2][h], dots[3][h])))
            };
            [four(0), four(4)]
        }
    }

    #[inline(never)]
    fn sweep_i8<const HALVES: bool, const MAX: u8>(self, panel: PanelI8<'_>, x: Rows<'_, XBlock>, emit: Emit<'_>) {
        panel.check::<HALVES>(x.width());
        for t in 0..x.n() {
            emit(t, &self.tile_i8::<HALVES, MAX>(panel, x.row(t)));
        }
    }

    #[inline(never)]
    fn sweep_f32(self, panel: PanelF32<'_>, x: Rows<'_, f32>, emit: Emit<'_>) {
        panel.check(x.width());
        let pairs = x.n() / 2 * 2;
        for t in (0..pairs).step_by(2) {
            for (i, sums) in self.tile_f32::<2>(panel, x.pointers(t)).iter().enumerate() {
                emit(t + i, sums);
            }
        }
        if pairs < x.n() {
            emit(pairs, &self.tile_f32::<1>(panel, x.pointers(pairs))[0]);
        }
    }
}
