//! The plain form of every operation, for processors without vector kernels and as the reference in tests.

use super::{BytesOf, Emit, IntsOf, Lanes, PANEL_ROWS, PanelF32, PanelI8, Rows, Simd};
use crate::backend::cpu::act::{XBlock, half_index};
use crate::backend::cpu::math;
use half::f16;
use std::array::from_fn;

/// No vector instructions.
#[derive(Clone, Copy)]
pub struct Scalar;

impl Lanes for Scalar {
    type B = [u8; 32];
    type I = [i32; 8];
    type F = [f32; 8];

    #[inline(always)]
    fn load(self, p: &[u8; 32]) -> [u8; 32] {
        *p
    }
    #[inline(always)]
    fn store(self, p: &mut [u8; 32], b: [u8; 32]) {
        *p = b;
    }
    #[inline(always)]
    fn splat(self, v: u8) -> [u8; 32] {
        [v; 32]
    }
    #[inline(always)]
    fn splat4(self, v: &[u8; 4]) -> [u8; 32] {
        from_fn(|i| v[i % 4])
    }
    #[inline(always)]
    fn and(self, a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or(self, a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn xor(self, a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
        from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn shr(self, a: [u8; 32], n: u32) -> [u8; 32] {
        a.map(|a| a >> n)
    }
    #[inline(always)]
    fn shl(self, a: [u8; 32], n: u32) -> [u8; 32] {
        a.map(|a| a << n)
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], i: [u8; 32]) -> [u8; 32] {
        i.map(|i| table[usize::from(i & 15)])
    }
    #[inline(always)]
    fn nibbles(self, p: &[u8; 16]) -> [u8; 32] {
        from_fn(|i| if i < 16 { p[i] & 15 } else { p[i - 16] >> 4 })
    }
    #[inline(always)]
    fn spread(self, bits: u32, value: u8) -> [u8; 32] {
        from_fn(|i| if bits >> i & 1 == 1 { value } else { 0 })
    }
    #[inline(always)]
    fn transpose(self, rows: [[u8; 32]; 8]) -> [[u8; 32]; 8] {
        from_fn(|i| from_fn(|j| rows[j / 4][4 * i + j % 4]))
    }
    #[inline(always)]
    fn round_scaled(self, x: &[f32; 32], scale: f32) -> [u8; 32] {
        x.map(|x| math::round(x * scale).clamp(-127, 127) as i8 as u8)
    }
    #[inline(always)]
    fn halves_apart(self, a: [[f32; 8]; 2]) -> [[f32; 8]; 2] {
        from_fn(|half| from_fn(|i| a[i / 4][4 * half + i % 4]))
    }
    #[inline(always)]
    fn bits(self, a: [f32; 8]) -> [u8; 32] {
        bytemuck::cast(a)
    }
    #[inline(always)]
    fn to_f32(self, i: [i32; 8]) -> [f32; 8] {
        i.map(|i| i as f32)
    }
    #[inline(always)]
    fn bytes(self, b: [u8; 8]) -> [f32; 8] {
        b.map(f32::from)
    }
    #[inline(always)]
    fn halves(self, b: [i8; 16]) -> [[f32; 8]; 2] {
        from_fn(|v| from_fn(|i| f32::from(b[8 * v + 2 * (i % 4) + i / 4])))
    }
    #[inline(always)]
    fn f16s(self, bits: [u16; 8]) -> [f32; 8] {
        bits.map(|b| f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    fn f16_pairs(self, bits: [u32; 8]) -> [[f32; 8]; 2] {
        [self.f16s(bits.map(|b| b as u16)), self.f16s(bits.map(|b| (b >> 16) as u16))]
    }
    #[inline(always)]
    fn zero(self) -> [f32; 8] {
        [0.0; 8]
    }
    #[inline(always)]
    fn mul_add(self, acc: [f32; 8], i: [i32; 8], scale: f32) -> [f32; 8] {
        from_fn(|l| acc[l] + i[l] as f32 * scale)
    }
    #[inline(always)]
    fn mul_add_halves(self, acc: [f32; 8], i: [i32; 8], scales: [f32; 2]) -> [f32; 8] {
        from_fn(|l| acc[l] + i[l] as f32 * scales[l / 4])
    }
    #[inline(always)]
    fn sum(self, a: [f32; 8]) -> f32 {
        a.iter().sum()
    }
    #[inline(always)]
    fn sum8(self, a: [[f32; 8]; 8]) -> [f32; 8] {
        a.map(|a| self.sum(a))
    }
    #[inline(always)]
    fn max8(self, a: [[f32; 8]; 8]) -> [f32; 8] {
        a.map(|a| a.into_iter().fold(0.0, |max, v| if v > max { v } else { max }))
    }
    #[inline(always)]
    fn load_twice(self, p: &[f32; 4]) -> [f32; 8] {
        from_fn(|i| p[i % 4])
    }
    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn max(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn abs(self, a: [f32; 8]) -> [f32; 8] {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn div(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn times_power(self, a: [f32; 8], power: [f32; 8]) -> [f32; 8] {
        from_fn(|i| f32::from_bits(a[i].to_bits().wrapping_add(power[i].to_bits() << 23)))
    }
    #[inline(always)]
    fn keep_from(self, least: f32, x: [f32; 8], a: [f32; 8]) -> [f32; 8] {
        from_fn(|i| if x[i] < least { 0.0 } else { a[i] })
    }
    #[inline(always)]
    fn zip(self, a: [[f32; 8]; 2]) -> [[f32; 8]; 2] {
        from_fn(|half| from_fn(|i| a[i % 2][4 * half + i / 2]))
    }
    #[inline(always)]
    fn swap_pairs(self, a: [f32; 8]) -> [f32; 8] {
        from_fn(|i| a[i ^ 1])
    }
    #[inline(always)]
    fn f16(self, h: half::f16) -> f32 {
        h.to_f32()
    }
    #[inline(always)]
    fn load_f32(self, p: &[f32; 8]) -> [f32; 8] {
        *p
    }
    #[inline(always)]
    fn load_f16(self, p: &[u8; 16]) -> [f32; 8] {
        from_fn(|i| f16::from_le_bytes([p[2 * i], p[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, p: &[u8; 16]) -> [f32; 8] {
        from_fn(|i| f32::from_bits(u32::from(u16::from_le_bytes([p[2 * i], p[2 * i + 1]])) << 16))
    }
    #[inline(always)]
    fn store_f32(self, p: &mut [f32; 8], a: [f32; 8]) {
        *p = a;
    }
    #[inline(always)]
    fn store_f16(self, p: &mut [u8; 16], a: [f32; 8]) {
        for (p, a) in p.as_chunks_mut::<2>().0.iter_mut().zip(a) {
            *p = f16::from_f32(a).to_le_bytes();
        }
    }
    #[inline(always)]
    fn splat_f32(self, v: f32) -> [f32; 8] {
        [v; 8]
    }
    #[inline(always)]
    fn fma(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn widen(self, b: [u8; 32], i: usize) -> [f32; 8] {
        from_fn(|l| f32::from(b[8 * i + l]))
    }
    type W = [i16; 32];
    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn sum4(self, a: [[f32; 8]; 4]) -> [f32; 4] {
        a.map(|a| self.sum(a))
    }
    #[inline(always)]
    fn widen_i8(self, p: &[u8; 8]) -> [f32; 8] {
        p.map(|b| f32::from(b as i8))
    }
    #[inline(always)]
    fn widen_i16(self, p: &[u8; 32]) -> [i16; 32] {
        p.map(|b| i16::from(b as i8))
    }
    #[inline(always)]
    fn splat_f16(self, h: half::f16) -> [f32; 8] {
        [h.to_f32(); 8]
    }
    #[inline(always)]
    fn mul_add_lanes(self, acc: [f32; 8], i: [i32; 8], scale: [f32; 8]) -> [f32; 8] {
        from_fn(|l| acc[l] + i[l] as f32 * scale[l])
    }
    #[inline(always)]
    fn dot_i16(self, w: [i16; 32], q: &[i16; 32]) -> [i32; 8] {
        from_fn(|l| (0..4).map(|j| i32::from(w[4 * l + j]) * i32::from(q[4 * l + j])).sum())
    }
    type P = [[i16; 2]; 8];
    #[inline(always)]
    fn pairs(self, a: &[u8; 16], b: &[u8; 16]) -> [[[i16; 2]; 8]; 2] {
        from_fn(|h| from_fn(|i| [i16::from(a[8 * h + i] as i8), i16::from(b[8 * h + i] as i8)]))
    }
    #[inline(always)]
    fn add_pairs(self, acc: [i32; 8], pairs: [[i16; 2]; 8], weights: [i16; 2]) -> [i32; 8] {
        let products = |[a, b]: [i16; 2]| i32::from(a) * i32::from(weights[0]) + i32::from(b) * i32::from(weights[1]);
        from_fn(|i| acc[i] + products(pairs[i]))
    }
    #[inline(always)]
    fn in_order(self, sums: [[i32; 8]; 2]) -> [[i32; 8]; 2] {
        sums
    }
    #[inline(always)]
    fn zeros(self) -> [i32; 8] {
        [0; 8]
    }
}

impl Simd for Scalar {
    type Lanes = Scalar;
    const FMA: bool = false;
    const WIDE_IS_SIGNED: bool = false;
    const VECTORS: bool = false;

    #[inline(always)]
    fn lanes(self) -> Scalar {
        self
    }

    #[inline(always)]
    fn dot<const MAX: u8>(self, u: BytesOf<Self>, q: BytesOf<Self>) -> IntsOf<Self> {
        from_fn(|l| (4 * l..4 * l + 4).map(|i| i32::from(u[i]) * i32::from(q[i] as i8)).sum())
    }

    #[inline(always)]
    fn dot_groups<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> IntsOf<Self> {
        from_fn(|g| self.dot::<MAX>(u[g], q[g]).iter().sum())
    }

    #[inline(always)]
    fn dot_columns<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> IntsOf<Self> {
        let [a, b] = self.dot_column_halves::<MAX>(u, q);
        from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn dot_column_halves<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> [IntsOf<Self>; 2] {
        from_fn(|half| {
            let mut sums = [0; 8];
            for (u, q) in u.iter().zip(&q).skip(4 * half).take(4) {
                let dots = self.dot::<MAX>(*u, *q);
                sums = from_fn(|i| sums[i] + dots[i]);
            }
            sums
        })
    }

    #[inline(always)]
    fn dot_halves<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> [IntsOf<Self>; 2] {
        from_fn(|v| from_fn(|i| self.dot::<MAX>(u[4 * v + i % 4], q[4 * v + i % 4])[i / 4 * 4..][..4].iter().sum()))
    }

    #[inline(never)]
    fn sweep_i8<const HALVES: bool, const MAX: u8>(self, panel: PanelI8<'_>, x: Rows<'_, XBlock>, emit: Emit<'_>) {
        let n_subs = if HALVES { 2 } else { 1 };
        let steps = 8 / n_subs;
        for t in 0..x.n() {
            let mut sums = [0.0; PANEL_ROWS];
            for i in 0..panel.n_groups * n_subs {
                let (group, sub) = (i / n_subs, i % n_subs);
                let (x, g) = (&x.row(t)[group / 8], group % 8);
                let s = if HALVES { x.halves[half_index(g, sub)] } else { x.sum[g] };
                for (r, sum) in sums.iter_mut().enumerate() {
                    let mut dot = 0;
                    for step in 0..steps {
                        let w = &panel.q[((i * steps + step) * PANEL_ROWS + r) * 4..][..4];
                        for (w, q) in w.iter().zip(&x.q[32 * g + (sub * steps + step) * 4..]) {
                            dot += i32::from(*w) * i32::from(*q);
                        }
                    }
                    *sum += panel.d[i * PANEL_ROWS + r] * x.d[g] * dot as f32 + panel.m[i * PANEL_ROWS + r] * s;
                }
            }
            emit(t, &sums);
        }
    }

    #[inline(never)]
    fn sweep_f32(self, panel: PanelF32<'_>, x: Rows<'_, f32>, emit: Emit<'_>) {
        for t in 0..x.n() {
            let mut sums = [0.0; PANEL_ROWS];
            for (k, &x) in x.row(t)[..panel.k].iter().enumerate() {
                let w: &[f32; PANEL_ROWS] = panel.w[k * panel.stride..].first_chunk().expect("a panel row is whole");
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum += w * x;
                }
            }
            emit(t, &sums);
        }
    }
}
