//! What the machine can do at most, measured: reading memory, multiplying bytes and floats in registers. Results of kernels
//! are shown beside it. Shared by `benches/kernels.rs` and the example `performance_parity`.

use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// The limits, over all threads that were used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory read rate, 10⁹ bytes per second.
    pub read_gb_s: f64,
    /// Multiplications and additions of bytes by the instructions that our kernels use, 10⁹ per second.
    pub int8_gop_s: f64,
    /// Multiplications and additions of f32, 10⁹ per second.
    pub f32_gflop_s: f64,
    /// The instructions: `avx512` (vpdpbusd), `avx2` (vpmaddubsw, vpmaddwd, vpaddd), `neon` (sdot) or `scalar`.
    pub isa: String,
    /// How many threads.
    pub n_threads: usize,
}

/// Far more than caches hold.
const READ_BYTES: usize = 128 << 20;
/// Best of so many runs: what disturbs the machine is no limit of it.
const RUNS: usize = 5;

/// Measures for about a second with an instruction set (a name as in `INFER_CPU`) that the machine has.
pub fn measure(isa: &str, n_threads: usize) -> Limits {
    let data = vec![1u64; READ_BYTES / 8];
    let read = best(n_threads, |i| {
        let share = data.len() / n_threads;
        black_box(sum(&data[i * share..(i + 1) * share]));
    });
    let (n_int8, int8) = peak_int8(isa);
    let (n_f32, f32) = peak_f32(isa);
    let rate = |n: f64, seconds: f64| n * n_threads as f64 / seconds / 1e9;
    Limits {
        read_gb_s: READ_BYTES as f64 / read / 1e9,
        int8_gop_s: rate(n_int8, best(n_threads, |_| int8())),
        f32_gflop_s: rate(n_f32, best(n_threads, |_| f32())),
        isa: isa.into(),
        n_threads,
    }
}

/// Seconds of the best of several runs of `f` on all threads at once.
pub fn best(n_threads: usize, f: impl Fn(usize) + Sync) -> f64 {
    (0..RUNS).map(|_| together(n_threads, &f)).fold(f64::INFINITY, f64::min)
}

/// Seconds until the last of `n_threads` threads, started together, has run `f`.
pub fn together(n_threads: usize, f: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(n_threads);
    let run = |i: usize| {
        barrier.wait();
        let start = Instant::now();
        f(i);
        start.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..n_threads)
            .map(|i| {
                scope.spawn({
                    let run = &run;
                    move || run(i)
                })
            })
            .collect();
        let own = run(0);
        others.into_iter().map(|t| t.join().expect("no panic in a measurement")).fold(own, f64::max)
    })
}

/// Reads everything, with enough independent sums to keep all load ports busy.
fn sum(data: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    for chunk in data.as_chunks::<32>().0 {
        for (s, v) in sums.iter_mut().zip(chunk) {
            *s = s.wrapping_add(*v);
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

const LOOPS: usize = 4 << 20;

type Burn = (f64, fn());

/// A function that multiplies bytes, with its operations per call.
fn peak_int8(isa: &str) -> Burn {
    match isa {
        #[cfg(target_arch = "x86_64")]
        "avx512" => ((LOOPS * 10 * 128) as f64, x86::int8_avx512),
        #[cfg(target_arch = "x86_64")]
        "avx2" => ((LOOPS * 8 * 64) as f64, x86::int8_avx2),
        _ => ((LOOPS * 32) as f64, int8_plain),
    }
}

/// A function that multiplies floats, with its operations per call.
fn peak_f32(isa: &str) -> Burn {
    match isa {
        #[cfg(target_arch = "x86_64")]
        "avx512" => ((LOOPS * 10 * 32) as f64, x86::f32_avx512),
        #[cfg(target_arch = "x86_64")]
        "avx2" => ((LOOPS * 10 * 16) as f64, x86::f32_avx2),
        _ => ((LOOPS * 128) as f64, f32_plain),
    }
}

/// What the compiler makes of it with the target's base instructions: no limit, but a number.
fn int8_plain() {
    let (a, b) = (black_box([3i8; 16]), black_box([5i8; 16]));
    let mut acc = [0i32; 16];
    for _ in 0..LOOPS {
        for ((acc, a), b) in acc.iter_mut().zip(a).zip(b) {
            *acc += i32::from(a) * i32::from(b);
        }
        acc = black_box(acc);
    }
}

fn f32_plain() {
    let (a, b) = (black_box([0.5f32; 16]), black_box([1.5f32; 16]));
    let mut sums = [[0f32; 16]; 4];
    for _ in 0..LOOPS {
        for ((acc, a), b) in sums.iter_mut().flatten().zip(a.iter().cycle()).zip(b.iter().cycle()) {
            *acc += a * b;
        }
        sums = black_box(sums);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::LOOPS;
    use std::arch::asm;

    // The loops are written out, as a compiler would fold multiplications of constants. The registers start as they are:
    // the time of these instructions does not depend on integers, and floats are zeroed first, as some values are slow.

    pub fn int8_avx512() {
        assert!(is_x86_feature_detected!("avx512vnni"));
        // SAFETY: the machine has the instructions, as just checked; only registers named as clobbered are written.
        unsafe {
            asm!(
                "2:",
                "vpdpbusd zmm0, zmm10, zmm11", "vpdpbusd zmm1, zmm10, zmm11", "vpdpbusd zmm2, zmm10, zmm11",
                "vpdpbusd zmm3, zmm10, zmm11", "vpdpbusd zmm4, zmm10, zmm11", "vpdpbusd zmm5, zmm10, zmm11",
                "vpdpbusd zmm6, zmm10, zmm11", "vpdpbusd zmm7, zmm10, zmm11", "vpdpbusd zmm8, zmm10, zmm11",
                "vpdpbusd zmm9, zmm10, zmm11",
                "dec {n}",
                "jnz 2b",
                n = inout(reg) LOOPS => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _,
                options(nomem, nostack)
            );
        }
    }

    pub fn int8_avx2() {
        assert!(is_x86_feature_detected!("avx2"));
        // SAFETY: the machine has the instructions, as just checked; only registers named as clobbered are written.
        unsafe {
            asm!(
                "2:",
                "vpmaddubsw ymm8, ymm14, ymm15", "vpmaddwd ymm8, ymm8, ymm13", "vpaddd ymm0, ymm0, ymm8",
                "vpmaddubsw ymm9, ymm14, ymm15", "vpmaddwd ymm9, ymm9, ymm13", "vpaddd ymm1, ymm1, ymm9",
                "vpmaddubsw ymm10, ymm14, ymm15", "vpmaddwd ymm10, ymm10, ymm13", "vpaddd ymm2, ymm2, ymm10",
                "vpmaddubsw ymm11, ymm14, ymm15", "vpmaddwd ymm11, ymm11, ymm13", "vpaddd ymm3, ymm3, ymm11",
                "vpmaddubsw ymm8, ymm14, ymm15", "vpmaddwd ymm8, ymm8, ymm13", "vpaddd ymm4, ymm4, ymm8",
                "vpmaddubsw ymm9, ymm14, ymm15", "vpmaddwd ymm9, ymm9, ymm13", "vpaddd ymm5, ymm5, ymm9",
                "vpmaddubsw ymm10, ymm14, ymm15", "vpmaddwd ymm10, ymm10, ymm13", "vpaddd ymm6, ymm6, ymm10",
                "vpmaddubsw ymm11, ymm14, ymm15", "vpmaddwd ymm11, ymm11, ymm13", "vpaddd ymm7, ymm7, ymm11",
                "dec {n}",
                "jnz 2b",
                n = inout(reg) LOOPS => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                options(nomem, nostack)
            );
        }
    }

    pub fn f32_avx512() {
        assert!(is_x86_feature_detected!("avx512f"));
        // SAFETY: the machine has the instructions, as just checked; only registers named as clobbered are written.
        unsafe {
            asm!(
                "vpxorq zmm10, zmm10, zmm10", "vpxorq zmm11, zmm11, zmm11",
                "vpxorq zmm0, zmm0, zmm0", "vpxorq zmm1, zmm1, zmm1", "vpxorq zmm2, zmm2, zmm2",
                "vpxorq zmm3, zmm3, zmm3", "vpxorq zmm4, zmm4, zmm4", "vpxorq zmm5, zmm5, zmm5",
                "vpxorq zmm6, zmm6, zmm6", "vpxorq zmm7, zmm7, zmm7", "vpxorq zmm8, zmm8, zmm8",
                "vpxorq zmm9, zmm9, zmm9",
                "2:",
                "vfmadd231ps zmm0, zmm10, zmm11", "vfmadd231ps zmm1, zmm10, zmm11", "vfmadd231ps zmm2, zmm10, zmm11",
                "vfmadd231ps zmm3, zmm10, zmm11", "vfmadd231ps zmm4, zmm10, zmm11", "vfmadd231ps zmm5, zmm10, zmm11",
                "vfmadd231ps zmm6, zmm10, zmm11", "vfmadd231ps zmm7, zmm10, zmm11", "vfmadd231ps zmm8, zmm10, zmm11",
                "vfmadd231ps zmm9, zmm10, zmm11",
                "dec {n}",
                "jnz 2b",
                n = inout(reg) LOOPS => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                options(nomem, nostack)
            );
        }
    }

    pub fn f32_avx2() {
        assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));
        // SAFETY: the machine has the instructions, as just checked; only registers named as clobbered are written.
        unsafe {
            asm!(
                "vpxor ymm10, ymm10, ymm10", "vpxor ymm11, ymm11, ymm11",
                "vpxor ymm0, ymm0, ymm0", "vpxor ymm1, ymm1, ymm1", "vpxor ymm2, ymm2, ymm2",
                "vpxor ymm3, ymm3, ymm3", "vpxor ymm4, ymm4, ymm4", "vpxor ymm5, ymm5, ymm5",
                "vpxor ymm6, ymm6, ymm6", "vpxor ymm7, ymm7, ymm7", "vpxor ymm8, ymm8, ymm8",
                "vpxor ymm9, ymm9, ymm9",
                "2:",
                "vfmadd231ps ymm0, ymm10, ymm11", "vfmadd231ps ymm1, ymm10, ymm11", "vfmadd231ps ymm2, ymm10, ymm11",
                "vfmadd231ps ymm3, ymm10, ymm11", "vfmadd231ps ymm4, ymm10, ymm11", "vfmadd231ps ymm5, ymm10, ymm11",
                "vfmadd231ps ymm6, ymm10, ymm11", "vfmadd231ps ymm7, ymm10, ymm11", "vfmadd231ps ymm8, ymm10, ymm11",
                "vfmadd231ps ymm9, ymm10, ymm11",
                "dec {n}",
                "jnz 2b",
                n = inout(reg) LOOPS => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                options(nomem, nostack)
            );
        }
    }
}
