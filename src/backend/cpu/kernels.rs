//! Which instruction sets this machine has, chosen once, and how a kernel is run with one: kernels implement [`Kernel`]
//! generically over [`Simd`], and [`Isa::run`] enters the one compiled with the instructions enabled. This takes the place
//! of a table of function pointers per instruction set: a kernel is written once and needs no entry anywhere.

use super::simd::Simd;
#[cfg(target_arch = "aarch64")]
use super::simd::neon::Neon;
use super::simd::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use super::simd::{avx2::Avx2, avx512::Avx512};
use std::sync::OnceLock;

/// A computation that is compiled once per instruction set. `run` is `#[inline(always)]`, as is all that it calls, so that
/// it takes on the instructions of the caller.
pub trait Kernel {
    /// What it returns.
    type Out;

    /// Computes.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// An instruction set of this machine: values come only from [`available`], so that what they enable is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa(Set);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Set {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// What this machine can run, the plain one first, the fastest last.
pub fn available() -> Vec<Isa> {
    let mut sets = vec![Isa(Set::Scalar)];
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni");
        if avx2 {
            sets.push(Isa(Set::Avx2));
        }
        if avx2 && avx512 {
            sets.push(Isa(Set::Avx512));
        }
    }
    #[cfg(target_arch = "aarch64")]
    sets.push(Isa(Set::Neon));
    sets
}

/// The instruction set that the backend uses: the fastest, or the one that the environment variable `INFER_CPU` names
/// (`scalar`, `avx2`, `avx512`, `neon`) if the machine has it.
pub fn best() -> Isa {
    static BEST: OnceLock<Isa> = OnceLock::new();
    *BEST.get_or_init(|| {
        let sets = available();
        let fastest = *sets.last().expect("the plain one is always there");
        let Ok(name) = std::env::var("INFER_CPU") else { return fastest };
        sets.into_iter().find(|isa| isa.name() == name).unwrap_or_else(|| {
            log::warn!("INFER_CPU={name} is not available on this machine; using {}", fastest.name());
            fastest
        })
    })
}

impl Isa {
    /// The plain one, which every machine has.
    pub const SCALAR: Isa = Isa(Set::Scalar);

    /// Its name in `INFER_CPU`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Set::Neon => "neon",
        }
    }

    /// Whether panels are unpacked 64 bytes at a time.
    pub fn unpacks_wide(self) -> bool {
        self.name() == "avx512"
    }

    /// Runs a kernel with these instructions.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            Set::Scalar => kernel.run(Scalar),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` makes this value only after detecting the instructions.
            Set::Avx2 => unsafe { enter_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` makes this value only after detecting the instructions.
            Set::Avx512 => unsafe { enter_avx512(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: every aarch64 processor has NEON.
            Set::Neon => unsafe { enter_neon(kernel) },
        }
    }
}

/// # Safety
/// The processor has the instructions named.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn enter_avx2<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the caller's promise.
    kernel.run(unsafe { Avx2::new() })
}

/// # Safety
/// The processor has the instructions named.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn enter_avx512<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the caller's promise.
    kernel.run(unsafe { Avx512::new() })
}

/// # Safety
/// The processor has NEON.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn enter_neon<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the caller's promise.
    kernel.run(unsafe { Neon::new() })
}
