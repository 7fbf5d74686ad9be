//! Products of sixteen rows of a panel with four tokens, in assembly: eight sums, the weights, the activations and products on
//! their way fill the sixteen registers. Compilers move loads up and keep sums on the stack instead, which costs a fifth of
//! the time (docs/cpu.md).

use super::{Avx2, room};
use crate::backend::cpu::simd::PANEL_ROWS;
use std::arch::{asm, x86_64::*};

/// Tokens of a tile.
pub(super) const TOKENS: usize = 4;
/// Rows of a tile.
pub(super) const ROWS: usize = 16;

/// For each token, numbers of eight rows and of the next eight.
pub(super) type Sums = [[__m256i; 2]; TOKENS];

/// Bytes from four columns of a panel to the next four.
const STEP: usize = 4 * PANEL_ROWS;

#[repr(align(32))]
struct Words(#[allow(dead_code)] [i16; 16]); // read by assembly
static ONES: Words = Words([1; 16]);

/// Four columns of both registers of rows, to ymm8 and ymm9.
macro_rules! load {
    ($s:literal) => {
        concat!("vmovdqu ymm8, [{w} + {step} * ", $s, "]\n", "vmovdqu ymm9, [{w} + {step} * ", $s, " + 32]\n")
    };
}

/// Products of a token in 16 bits, put into its sums or added to them.
macro_rules! words_of {
    (first $s:literal $x:literal $a:literal $b:literal) => {
        concat!(
            "vpbroadcastd ymm10, [{",
            $x,
            "} + 4 * ",
            $s,
            "]\n",
            "vpmaddubsw ymm",
            $a,
            ", ymm8, ymm10\n",
            "vpmaddubsw ymm",
            $b,
            ", ymm9, ymm10\n",
        )
    };
    (next $s:literal $x:literal $a:literal $b:literal) => {
        concat!(
            "vpbroadcastd ymm10, [{",
            $x,
            "} + 4 * ",
            $s,
            "]\n",
            "vpmaddubsw ymm11, ymm8, ymm10\n",
            "vpmaddubsw ymm12, ymm9, ymm10\n",
            "vpaddw ymm",
            $a,
            ", ymm",
            $a,
            ", ymm11\n",
            "vpaddw ymm",
            $b,
            ", ymm",
            $b,
            ", ymm12\n",
        )
    };
}

/// Products of four columns, in 16 bits.
macro_rules! words {
    ($how:ident $s:literal) => {
        concat!(
            load!($s),
            words_of!($how $s "x0" 0 1), words_of!($how $s "x1" 2 3),
            words_of!($how $s "x2" 4 5), words_of!($how $s "x3" 6 7),
        )
    };
}

/// Products of a token with signed weights in 32 bits, put into its sums or added to them.
macro_rules! signed_of {
    (first $s:literal $x:literal $a:literal $b:literal) => {
        concat!(
            "vpbroadcastd ymm12, [{",
            $x,
            "} + 4 * ",
            $s,
            "]\n",
            "vpsignb ymm13, ymm12, ymm8\n",
            "vpsignb ymm14, ymm12, ymm9\n",
            "vpmaddubsw ymm13, ymm10, ymm13\n",
            "vpmaddubsw ymm14, ymm11, ymm14\n",
            "vpmaddwd ymm",
            $a,
            ", ymm13, [{ones}]\n",
            "vpmaddwd ymm",
            $b,
            ", ymm14, [{ones}]\n",
        )
    };
    (next $s:literal $x:literal $a:literal $b:literal) => {
        concat!(
            "vpbroadcastd ymm12, [{",
            $x,
            "} + 4 * ",
            $s,
            "]\n",
            "vpsignb ymm13, ymm12, ymm8\n",
            "vpsignb ymm14, ymm12, ymm9\n",
            "vpmaddubsw ymm13, ymm10, ymm13\n",
            "vpmaddubsw ymm14, ymm11, ymm14\n",
            "vpmaddwd ymm13, ymm13, [{ones}]\n",
            "vpmaddwd ymm14, ymm14, [{ones}]\n",
            "vpaddd ymm",
            $a,
            ", ymm",
            $a,
            ", ymm13\n",
            "vpaddd ymm",
            $b,
            ", ymm",
            $b,
            ", ymm14\n",
        )
    };
}

/// Products of four columns with `u - 128`, in 32 bits. ymm15 is 128 in every byte.
macro_rules! signed {
    ($how:ident $s:literal) => {
        concat!(
            "vpxor ymm8, ymm15, [{w} + {step} * ", $s, "]\n",
            "vpxor ymm9, ymm15, [{w} + {step} * ", $s, " + 32]\n",
            "vpabsb ymm10, ymm8\n",
            "vpabsb ymm11, ymm9\n",
            signed_of!($how $s "x0" 0 1), signed_of!($how $s "x1" 2 3),
            signed_of!($how $s "x2" 4 5), signed_of!($how $s "x3" 6 7),
        )
    };
}

/// Runs steps and returns the sums, which they leave in ymm0 to ymm7.
macro_rules! run {
    ($w:expr, $x:expr, $($name:ident)? = $y15:expr, $($step:ident $how:ident $s:literal),*) => {{
        let (a, b, c, d, e, f, g, h);
        asm!(
            $($step!($how $s),)*
            w = in(reg) $w, x0 = in(reg) $x[0], x1 = in(reg) $x[1], x2 = in(reg) $x[2], x3 = in(reg) $x[3],
            $($name = in(reg) &raw const ONES,)? step = const STEP,
            out("ymm0") a, out("ymm1") b, out("ymm2") c, out("ymm3") d,
            out("ymm4") e, out("ymm5") f, out("ymm6") g, out("ymm7") h,
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            out("ymm12") _, out("ymm13") _, out("ymm14") _, inout("ymm15") $y15 => _,
            options(nostack, readonly, preserves_flags),
        );
        [[a, b], [c, d], [e, f], [g, h]]
    }};
}

impl Avx2 {
    /// Products of `4 * n` columns in 16 bits; `n` is 8, 4 or 2.
    ///
    /// # Safety
    /// `w` points to `n` steps of a panel, of which each has 64 bytes, `x` to `4 * n` activations each.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn words(self, n: usize, w: *const u8, x: [*const i8; TOKENS]) -> Sums {
        // SAFETY: AVX2 is there; the caller promises the memory that is read.
        unsafe {
            let any = _mm256_setzero_si256();
            match n {
                8 => run!(
                    w, x, = any, words first 0, words next 1, words next 2, words next 3, words next 4, words next 5,
                    words next 6, words next 7
                ),
                4 => run!(w, x, = any, words first 0, words next 1, words next 2, words next 3),
                _ => run!(w, x, = any, words first 0, words next 1),
            }
        }
    }

    /// Sums of products of a group's 32 columns, or of 16 where `HALVES` is set: weights up to `MAX` as they are, larger ones
    /// as `u - 128`.
    ///
    /// # Safety
    /// `w` points to a step of a panel for every four columns, of which each has 64 bytes, `x` to activations for them.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn tile<const HALVES: bool, const MAX: u8>(self, w: *const u8, x: [*const i8; TOKENS]) -> Sums {
        let n_steps = if HALVES { 4 } else { 8 };
        // SAFETY: AVX2 is there; the caller promises the memory that is read, and no step beyond `n_steps` is.
        unsafe {
            if MAX > 127 {
                debug_assert!(!HALVES);
                let flip = _mm256_set1_epi8(-128);
                return run!(
                    w, x, ones = flip, signed first 0, signed next 1, signed next 2, signed next 3, signed next 4,
                    signed next 5, signed next 6, signed next 7
                );
            }
            let n = match room(MAX) {
                8.. if !HALVES => 8,
                4.. => 4,
                _ => 2,
            };
            let mut sums = self.words(n, w, x);
            for sum in sums.as_flattened_mut() {
                *sum = self.widen_sums(*sum);
            }
            for from in (n..n_steps).step_by(n) {
                let more = self.words(n, w.add(STEP * from), x.map(|x| x.add(4 * from)));
                for (sum, more) in sums.as_flattened_mut().iter_mut().zip(more.as_flattened()) {
                    *sum = _mm256_add_epi32(*sum, self.widen_sums(*more));
                }
            }
            sums
        }
    }
}
