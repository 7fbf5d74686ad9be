//! What an instruction set contributes to the kernels: operations on 32 bytes and eight lanes, and the loops that sweep
//! tokens over a panel of weights. Formats (`formats.rs`) and kernels are written once over these traits.
//!
//! A value of an implementing type proves that the processor has the instructions, so its methods are safe.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod scalar;

use super::act::{XBlock, x_blocks};

/// Rows of weights in a panel.
pub const PANEL_ROWS: usize = 32;

/// Operations on 32 bytes, eight i32 and eight f32.
pub trait Lanes: Copy {
    /// 32 bytes.
    type B: Copy;
    /// Eight i32.
    type I: Copy;
    /// Eight f32.
    type F: Copy;

    /// Hints that what lies at `p` will be read soon; any address will do.
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        let _ = p;
    }
    /// Reads 32 bytes.
    fn load(self, p: &[u8; 32]) -> Self::B;
    /// Writes 32 bytes.
    fn store(self, p: &mut [u8; 32], b: Self::B);
    /// One byte in all places.
    fn splat(self, v: u8) -> Self::B;
    /// The same four bytes eight times.
    fn splat4(self, v: &[u8; 4]) -> Self::B;
    /// Bitwise and.
    fn and(self, a: Self::B, b: Self::B) -> Self::B;
    /// Bitwise or.
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// Bitwise exclusive or.
    fn xor(self, a: Self::B, b: Self::B) -> Self::B;
    /// Shifts every byte right by `n < 8`. What comes in at the top is unspecified: mask it off.
    fn shr(self, a: Self::B, n: u32) -> Self::B;
    /// Shifts every byte left by `n < 8`. What comes in at the bottom is unspecified: mask it off.
    fn shl(self, a: Self::B, n: u32) -> Self::B;
    /// `table[i]` for every byte `i < 16`.
    fn lookup(self, table: &[u8; 16], i: Self::B) -> Self::B;
    /// The low nibbles of 16 bytes, then the high ones.
    fn nibbles(self, p: &[u8; 16]) -> Self::B;
    /// `value` (a single bit) in every byte whose bit of `bits` is set.
    fn spread(self, bits: u32, value: u8) -> Self::B;
    /// Transposes eight rows of eight groups of four bytes.
    fn transpose(self, rows: [Self::B; 8]) -> [Self::B; 8];
    /// 32 numbers times `scale`, rounded to the nearest integer, ties to even; outside of -127..=127, and NaN, some number in
    /// that range.
    fn round_scaled(self, x: &[f32; 32], scale: f32) -> Self::B;
    /// Two vectors in the order of [`half_index`](super::act::half_index) as first halves and second halves of eight groups.
    fn halves_apart(self, a: [Self::F; 2]) -> [Self::F; 2];
    /// The bits of eight f32.
    fn bits(self, a: Self::F) -> Self::B;
    /// Converts integers.
    fn to_f32(self, i: Self::I) -> Self::F;
    /// Eight unsigned bytes as f32.
    fn bytes(self, b: [u8; 8]) -> Self::F;
    /// Sixteen signed bytes as f32, in the order of [`half_index`](super::act::half_index).
    fn halves(self, b: [i8; 16]) -> [Self::F; 2];
    /// Converts eight half-precision numbers, given as bits.
    fn f16s(self, bits: [u16; 8]) -> Self::F;
    /// Converts eight pairs of half-precision numbers, first ones in the low bits.
    fn f16_pairs(self, bits: [u32; 8]) -> [Self::F; 2];
    /// Eight zeros.
    fn zero(self) -> Self::F;
    /// `acc + i * scale`.
    fn mul_add(self, acc: Self::F, i: Self::I, scale: f32) -> Self::F;
    /// `acc + i * scale`, with a scale for the lower and one for the upper four lanes.
    fn mul_add_halves(self, acc: Self::F, i: Self::I, scales: [f32; 2]) -> Self::F;
    /// Sum of the lanes.
    fn sum(self, a: Self::F) -> f32;
    /// Sums of the lanes of each.
    fn sum8(self, a: [Self::F; 8]) -> [f32; 8];
    /// Largest lane of each, none of them negative; what NaN gives is unspecified.
    fn max8(self, a: [Self::F; 8]) -> [f32; 8];
    /// Converts one half-precision number.
    fn f16(self, h: half::f16) -> f32;
    /// Reads eight f32.
    fn load_f32(self, p: &[f32; 8]) -> Self::F;
    /// Reads four f32 into the lower and into the upper four lanes.
    fn load_twice(self, p: &[f32; 4]) -> Self::F;
    /// Reads eight f16.
    fn load_f16(self, p: &[u8; 16]) -> Self::F;
    /// Reads eight bf16.
    fn load_bf16(self, p: &[u8; 16]) -> Self::F;
    /// Writes eight f32.
    fn store_f32(self, p: &mut [f32; 8], a: Self::F);
    /// Writes eight f16, rounded to nearest even.
    fn store_f16(self, p: &mut [u8; 16], a: Self::F);
    /// One number in all lanes.
    fn splat_f32(self, v: f32) -> Self::F;
    /// `a * b + c`.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger of each two; `b` where one is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Magnitudes.
    fn abs(self, a: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * 2^n` where that is a normal number; `n` are the low 9 bits of `power`.
    fn times_power(self, a: Self::F, power: Self::F) -> Self::F;
    /// `a` where `x` is at least `least` or NaN, else 0.
    fn keep_from(self, least: f32, x: Self::F, a: Self::F) -> Self::F;
    /// Elements of two vectors by turns.
    fn zip(self, a: [Self::F; 2]) -> [Self::F; 2];
    /// Every element in the place of its neighbour.
    fn swap_pairs(self, a: Self::F) -> Self::F;
    /// Bytes `8 * i ..` as f32.
    fn widen(self, b: Self::B, i: usize) -> Self::F;
    /// 32 i16.
    type W: Copy;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// Sum of the lanes of each.
    fn sum4(self, a: [Self::F; 4]) -> [f32; 4];
    /// Eight signed bytes as f32.
    fn widen_i8(self, p: &[u8; 8]) -> Self::F;
    /// 32 signed bytes as i16.
    fn widen_i16(self, p: &[u8; 32]) -> Self::W;
    /// A half-precision number in all lanes.
    fn splat_f16(self, h: half::f16) -> Self::F;
    /// `acc + i * scale`.
    fn mul_add_lanes(self, acc: Self::F, i: Self::I, scale: Self::F) -> Self::F;
    /// Sums of products, four to a lane; they do not overflow where `|w| < 128`.
    fn dot_i16(self, w: Self::W, q: &[i16; 32]) -> Self::I;
    /// Eight pairs of i16.
    type P: Copy;
    /// Sixteen signed bytes of two rows: bytes of the same column are a pair. [`Lanes::in_order`] tells the order.
    fn pairs(self, a: &[u8; 16], b: &[u8; 16]) -> [Self::P; 2];
    /// Adds to every lane its pair's products with a pair of weights.
    fn add_pairs(self, acc: Self::I, pairs: Self::P, weights: [i16; 2]) -> Self::I;
    /// Sums of [`Lanes::pairs`] in the order of the columns.
    fn in_order(self, sums: [Self::I; 2]) -> [Self::I; 2];
    /// Eight zeros.
    fn zeros(self) -> Self::I;
}

/// 32 bytes of an instruction set.
pub type BytesOf<S> = <<S as Simd>::Lanes as Lanes>::B;
/// Eight i32 of an instruction set.
pub type IntsOf<S> = <<S as Simd>::Lanes as Lanes>::I;

/// Called with a token and the sums of a panel's rows.
pub type Emit<'a> = &'a mut dyn FnMut(usize, &[f32; PANEL_ROWS]);

/// An instruction set.
pub trait Simd: Copy + Send + Sync + 'static {
    /// Its operations on 32 bytes.
    type Lanes: Lanes;
    /// Whether `f32::mul_add` is one instruction.
    const FMA: bool;
    /// Whether weights that need all 8 bits are multiplied as `u - 128`: such formats have the offset 128, which then needs
    /// no correction by minima.
    const WIDE_IS_SIGNED: bool;
    /// Whether it has vectors: what exists only to fill them is left out where there are none.
    const VECTORS: bool = true;

    /// Its operations on 32 bytes.
    fn lanes(self) -> Self::Lanes;

    /// Sums of products of groups of four neighbours: weights `u <= MAX`, activations `q`, signed bytes in -127..=127.
    fn dot<const MAX: u8>(self, u: BytesOf<Self>, q: BytesOf<Self>) -> IntsOf<Self>;

    /// Sums of products of each of eight groups of 32, weights and activations as for [`Simd::dot`].
    fn dot_groups<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> IntsOf<Self>;

    /// The same of each half of eight groups, in the order of [`half_index`](super::act::half_index).
    fn dot_halves<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> [IntsOf<Self>; 2];

    /// What [`Simd::dot_groups`] gives, of weights and activations by columns: the first four bytes of all groups, then the
    /// next four, and so on.
    fn dot_columns<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> IntsOf<Self>;

    /// The same of the first halves of all groups, and of their second halves.
    fn dot_column_halves<const MAX: u8>(self, u: [BytesOf<Self>; 8], q: [BytesOf<Self>; 8]) -> [IntsOf<Self>; 2];

    /// Writes 32 columns of sixteen rows, the second eight after the first: four columns of all rows, then the next four, and
    /// so on, `4 * PANEL_ROWS` bytes apart.
    #[inline(always)]
    fn store_columns(self, rows: [[BytesOf<Self>; 8]; 2], out: &mut [u8]) {
        let l = self.lanes();
        for (i, rows) in rows.into_iter().enumerate() {
            for (step, columns) in l.transpose(rows).into_iter().enumerate() {
                let at = 4 * PANEL_ROWS * step + 32 * i;
                l.store(out[at..].first_chunk_mut().expect("a step is 128 bytes"), columns);
            }
        }
    }

    /// [`Lanes::dot_i16`], where there is something faster.
    #[inline(always)]
    fn dot_words(self, w: <Self::Lanes as Lanes>::W, q: &[i16; 32]) -> IntsOf<Self> {
        self.lanes().dot_i16(w, q)
    }

    /// [`Lanes::add_pairs`], where there is something faster.
    #[inline(always)]
    fn add_pairs(self, acc: IntsOf<Self>, pairs: <Self::Lanes as Lanes>::P, weights: [i16; 2]) -> IntsOf<Self> {
        self.lanes().add_pairs(acc, pairs, weights)
    }

    /// `u * d + m` of sixteen bytes.
    #[inline(always)]
    fn widen_sixteen(self, u: &[u8; 16], d: f32, m: f32, out: &mut [f32; 16]) {
        let l = self.lanes();
        let (d, m) = (l.splat_f32(d), l.splat_f32(m));
        for (out, u) in out.as_chunks_mut::<8>().0.iter_mut().zip(u.as_chunks::<8>().0) {
            l.store_f32(out, l.fma(l.bytes(*u), d, m));
        }
    }

    /// Multiplies a panel with every token. `emit(token, sums)` gets the sums of the panel's 32 rows.
    fn sweep_i8<const HALVES: bool, const MAX: u8>(self, panel: PanelI8<'_>, x: Rows<'_, XBlock>, emit: Emit<'_>);

    /// Multiplies a panel of f32 with every token: `emit(token, sums over k of panel[k][row] * x[token][k])`.
    fn sweep_f32(self, panel: PanelF32<'_>, x: Rows<'_, f32>, emit: Emit<'_>);

    /// The same, written to rows of 32 that begin `stride` apart, or added to them.
    #[inline(always)]
    fn product_f32<const ADD: bool>(self, panel: PanelF32<'_>, x: Rows<'_, f32>, out: &mut [f32], stride: usize) {
        self.sweep_f32(panel, x, &mut |token, sums| {
            let out: &mut [f32; PANEL_ROWS] = out[token * stride..].first_chunk_mut().expect("room for every token");
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if ADD { *out + sum } else { *sum };
            }
        });
    }
}

/// 32 rows of quantized weights, unpacked: weight `k` of row `r` is `d[k / sub][r] * q[k / 4][r][k % 4] + m[k / sub][r]`,
/// where `sub` is 32, or 16 when the kernel's `HALVES` is set.
#[derive(Clone, Copy)]
pub struct PanelI8<'a> {
    /// `[k / 4][32][4]`
    pub q: &'a [u8],
    /// `[k / sub][32]`
    pub d: &'a [f32],
    /// `[k / sub][32]`
    pub m: &'a [f32],
    /// Groups of 32 elements per row.
    pub n_groups: usize,
}

/// 32 columns of an f32 matrix: row `k` begins at `k * stride`.
#[derive(Clone, Copy)]
pub struct PanelF32<'a> {
    /// Elements; the last row ends at or before the end.
    pub w: &'a [f32],
    /// Elements from row to row.
    pub stride: usize,
    /// Number of rows.
    pub k: usize,
}

/// Rows at equal distances, all of `len` elements.
#[derive(Clone, Copy)]
pub struct Rows<'a, T> {
    data: &'a [T],
    stride: usize,
    len: usize,
    n: usize,
}

impl<'a, T> Rows<'a, T> {
    /// `n` rows of `len` elements, `stride` apart; panics if they do not lie in `data`.
    #[inline(always)]
    pub fn new(data: &'a [T], stride: usize, len: usize, n: usize) -> Self {
        assert!(n == 0 || (n - 1) * stride + len <= data.len(), "rows outside of their data");
        Self { data, stride, len, n }
    }

    /// Number of rows.
    #[inline(always)]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Elements per row.
    #[inline(always)]
    pub fn width(&self) -> usize {
        self.len
    }

    /// Row `i < n`.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [T] {
        &self.data[i * self.stride..][..self.len]
    }

    /// The same rows, of each only the elements `range`.
    #[inline(always)]
    pub fn columns(&self, range: std::ops::Range<usize>) -> Rows<'a, T> {
        assert!(range.end <= self.len);
        Rows { data: if self.n == 0 { self.data } else { &self.data[range.start..] }, len: range.len(), ..*self }
    }

    /// Rows `range` of these.
    #[inline(always)]
    pub fn rows(&self, range: std::ops::Range<usize>) -> Rows<'a, T> {
        assert!(range.start <= range.end && range.end <= self.n);
        let data = if range.is_empty() { self.data } else { &self.data[range.start * self.stride..] };
        Rows { data, n: range.len(), ..*self }
    }

    /// Pointers to rows `from..from + N`.
    #[inline(always)]
    pub fn pointers<const N: usize>(&self, from: usize) -> [*const T; N] {
        assert!(from + N <= self.n);
        std::array::from_fn(|i| self.data[(from + i) * self.stride..].as_ptr())
    }
}

impl PanelI8<'_> {
    /// Panics unless the panel holds all its groups, and tokens of `n_blocks` blocks too.
    #[inline(always)]
    pub fn check<const HALVES: bool>(&self, n_blocks: usize) {
        let n_subs = if HALVES { 2 } else { 1 } * self.n_groups * PANEL_ROWS;
        assert!(n_blocks >= x_blocks(32 * self.n_groups));
        assert!(self.q.len() >= self.n_groups * 32 * PANEL_ROWS && self.d.len() >= n_subs && self.m.len() >= n_subs);
    }
}

impl PanelF32<'_> {
    /// Panics unless there is also room for 32 results of every token.
    #[inline(always)]
    pub fn check_room(&self, x: &Rows<'_, f32>, out: &[f32], stride: usize) {
        self.check(x.width());
        assert!(x.n() == 0 || (x.n() - 1) * stride + PANEL_ROWS <= out.len());
    }

    /// Panics unless `len` activations per token and 32 columns of every row are there.
    #[inline(always)]
    pub fn check(&self, len: usize) {
        assert!(len >= self.k && (self.k == 0 || self.w.len() >= (self.k - 1) * self.stride + PANEL_ROWS));
    }
}
