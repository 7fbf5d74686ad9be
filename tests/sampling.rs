//! Samplers against llama.cpp's own library: random chains over random candidates give the same candidates in the same
//! order, the same logits and probabilities, and the same choices, call for call. Both sides are used through their C
//! interface.
//!
//! Needs `reference/` in `$INFER_TEST_DATA` (default `target/test-data`), which `make test-data` fetches.

use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;

use infer::sampling::rng::Mt19937;
use infer::sampling::{Candidates, DryParams, LogitBias, TokenData, dry};
use libloading::Library;

/// How far probabilities may be apart: both sides round the same sums the same way, so it is only for other libms.
const P_TOLERANCE: f32 = 1e-6;

type Smpl = *mut c_void;

#[repr(C)]
struct TokenDataArray {
    data: *mut TokenData,
    size: usize,
    selected: i64,
    sorted: bool,
}

/// The sampler functions of one of the two libraries.
struct Api {
    init_greedy: unsafe extern "C" fn() -> Smpl,
    init_dist: unsafe extern "C" fn(u32) -> Smpl,
    init_top_k: unsafe extern "C" fn(i32) -> Smpl,
    init_top_p: unsafe extern "C" fn(f32, usize) -> Smpl,
    init_min_p: unsafe extern "C" fn(f32, usize) -> Smpl,
    init_typical: unsafe extern "C" fn(f32, usize) -> Smpl,
    init_temp: unsafe extern "C" fn(f32) -> Smpl,
    init_temp_ext: unsafe extern "C" fn(f32, f32, f32) -> Smpl,
    init_penalties: unsafe extern "C" fn(i32, i32, f32, f32, f32) -> Smpl,
    init_logit_bias: unsafe extern "C" fn(i32, i32, *const LogitBias) -> Smpl,
    init_xtc: unsafe extern "C" fn(f32, f32, usize, u32) -> Smpl,
    init_top_n_sigma: unsafe extern "C" fn(f32) -> Smpl,
    init_mirostat: unsafe extern "C" fn(i32, u32, f32, f32, i32) -> Smpl,
    init_mirostat_v2: unsafe extern "C" fn(u32, f32, f32) -> Smpl,
    init_adaptive_p: unsafe extern "C" fn(f32, f32, u32) -> Smpl,
    chain_init: unsafe extern "C" fn(bool) -> Smpl,
    chain_add: unsafe extern "C" fn(Smpl, Smpl),
    name: unsafe extern "C" fn(Smpl) -> *const c_char,
    accept: unsafe extern "C" fn(Smpl, i32),
    apply: unsafe extern "C" fn(Smpl, *mut TokenDataArray),
    reset: unsafe extern "C" fn(Smpl),
    clone: unsafe extern "C" fn(Smpl) -> Smpl,
    copy: unsafe extern "C" fn(Smpl, Smpl),
    free: unsafe extern "C" fn(Smpl),
    get_seed: unsafe extern "C" fn(Smpl) -> u32,
}

mod ours {
    use super::*;

    unsafe extern "C" {
        pub fn llama_sampler_init_greedy() -> Smpl;
        pub fn llama_sampler_init_dist(seed: u32) -> Smpl;
        pub fn llama_sampler_init_top_k(k: i32) -> Smpl;
        pub fn llama_sampler_init_top_p(p: f32, min_keep: usize) -> Smpl;
        pub fn llama_sampler_init_min_p(p: f32, min_keep: usize) -> Smpl;
        pub fn llama_sampler_init_typical(p: f32, min_keep: usize) -> Smpl;
        pub fn llama_sampler_init_temp(t: f32) -> Smpl;
        pub fn llama_sampler_init_temp_ext(t: f32, delta: f32, exponent: f32) -> Smpl;
        pub fn llama_sampler_init_penalties(n_vocab: i32, last_n: i32, repeat: f32, freq: f32, present: f32) -> Smpl;
        pub fn llama_sampler_init_logit_bias(n_vocab: i32, n: i32, logit_bias: *const LogitBias) -> Smpl;
        pub fn llama_sampler_init_xtc(p: f32, t: f32, min_keep: usize, seed: u32) -> Smpl;
        pub fn llama_sampler_init_top_n_sigma(n: f32) -> Smpl;
        pub fn llama_sampler_init_mirostat(n_vocab: i32, seed: u32, tau: f32, eta: f32, m: i32) -> Smpl;
        pub fn llama_sampler_init_mirostat_v2(seed: u32, tau: f32, eta: f32) -> Smpl;
        pub fn llama_sampler_init_adaptive_p(target: f32, decay: f32, seed: u32) -> Smpl;
        pub fn llama_sampler_chain_init(no_perf: bool) -> Smpl;
        pub fn llama_sampler_chain_add(chain: Smpl, smpl: Smpl);
        pub fn llama_sampler_name(smpl: Smpl) -> *const c_char;
        pub fn llama_sampler_accept(smpl: Smpl, token: i32);
        pub fn llama_sampler_apply(smpl: Smpl, cur_p: *mut TokenDataArray);
        pub fn llama_sampler_reset(smpl: Smpl);
        pub fn llama_sampler_clone(smpl: Smpl) -> Smpl;
        pub fn llama_sampler_copy(src: Smpl, dst: Smpl);
        pub fn llama_sampler_free(smpl: Smpl);
        pub fn llama_sampler_get_seed(smpl: Smpl) -> u32;
    }
}

const OURS: Api = Api {
    init_greedy: ours::llama_sampler_init_greedy,
    init_dist: ours::llama_sampler_init_dist,
    init_top_k: ours::llama_sampler_init_top_k,
    init_top_p: ours::llama_sampler_init_top_p,
    init_min_p: ours::llama_sampler_init_min_p,
    init_typical: ours::llama_sampler_init_typical,
    init_temp: ours::llama_sampler_init_temp,
    init_temp_ext: ours::llama_sampler_init_temp_ext,
    init_penalties: ours::llama_sampler_init_penalties,
    init_logit_bias: ours::llama_sampler_init_logit_bias,
    init_xtc: ours::llama_sampler_init_xtc,
    init_top_n_sigma: ours::llama_sampler_init_top_n_sigma,
    init_mirostat: ours::llama_sampler_init_mirostat,
    init_mirostat_v2: ours::llama_sampler_init_mirostat_v2,
    init_adaptive_p: ours::llama_sampler_init_adaptive_p,
    chain_init: ours::llama_sampler_chain_init,
    chain_add: ours::llama_sampler_chain_add,
    name: ours::llama_sampler_name,
    accept: ours::llama_sampler_accept,
    apply: ours::llama_sampler_apply,
    reset: ours::llama_sampler_reset,
    clone: ours::llama_sampler_clone,
    copy: ours::llama_sampler_copy,
    free: ours::llama_sampler_free,
    get_seed: ours::llama_sampler_get_seed,
};

/// llama.cpp's library, which stays loaded for good.
fn reference_library() -> &'static Library {
    let data = std::env::var_os("INFER_TEST_DATA").map_or_else(|| PathBuf::from("target/test-data"), PathBuf::from);
    let path = data.join("reference/libllama.v0.5.0.so");
    assert!(path.exists(), "{} is missing: fetch it with `make test-data`", path.display());
    // SAFETY: llama.cpp's library; it may run its initialisers.
    Box::leak(Box::new(unsafe { Library::new(&path) }.unwrap()))
}

fn reference() -> Api {
    let lib = reference_library();
    fn get<T: Copy>(lib: &Library, name: &str) -> T {
        // SAFETY: each field of Api has the type that llama.h gives the function of this name.
        *unsafe { lib.get::<T>(format!("llama_sampler_{name}").as_bytes()) }.unwrap()
    }
    Api {
        init_greedy: get(lib, "init_greedy"),
        init_dist: get(lib, "init_dist"),
        init_top_k: get(lib, "init_top_k"),
        init_top_p: get(lib, "init_top_p"),
        init_min_p: get(lib, "init_min_p"),
        init_typical: get(lib, "init_typical"),
        init_temp: get(lib, "init_temp"),
        init_temp_ext: get(lib, "init_temp_ext"),
        init_penalties: get(lib, "init_penalties"),
        init_logit_bias: get(lib, "init_logit_bias"),
        init_xtc: get(lib, "init_xtc"),
        init_top_n_sigma: get(lib, "init_top_n_sigma"),
        init_mirostat: get(lib, "init_mirostat"),
        init_mirostat_v2: get(lib, "init_mirostat_v2"),
        init_adaptive_p: get(lib, "init_adaptive_p"),
        chain_init: get(lib, "chain_init"),
        chain_add: get(lib, "chain_add"),
        name: get(lib, "name"),
        accept: get(lib, "accept"),
        apply: get(lib, "apply"),
        reset: get(lib, "reset"),
        clone: get(lib, "clone"),
        copy: get(lib, "copy"),
        free: get(lib, "free"),
        get_seed: get(lib, "get_seed"),
    }
}

/// A sampler and its parameters.
#[derive(Clone, Debug)]
enum Spec {
    Greedy,
    Dist(u32),
    TopK(i32),
    TopP(f32, usize),
    MinP(f32, usize),
    Typical(f32, usize),
    Temp(f32),
    TempExt(f32, f32, f32),
    Penalties(i32, f32, f32, f32),
    LogitBias(Vec<LogitBias>),
    Xtc(f32, f32, usize, u32),
    TopNSigma(f32),
    Mirostat(u32, f32, f32, i32),
    MirostatV2(u32, f32, f32),
    AdaptiveP(f32, f32, u32),
}

impl Api {
    fn make(&self, spec: &Spec, n_vocab: i32) -> Smpl {
        // SAFETY: parameters as llama.h wants them; the biases are copied.
        unsafe {
            match spec {
                Spec::Greedy => (self.init_greedy)(),
                Spec::Dist(seed) => (self.init_dist)(*seed),
                Spec::TopK(k) => (self.init_top_k)(*k),
                Spec::TopP(p, min_keep) => (self.init_top_p)(*p, *min_keep),
                Spec::MinP(p, min_keep) => (self.init_min_p)(*p, *min_keep),
                Spec::Typical(p, min_keep) => (self.init_typical)(*p, *min_keep),
                Spec::Temp(t) => (self.init_temp)(*t),
                Spec::TempExt(t, delta, exponent) => (self.init_temp_ext)(*t, *delta, *exponent),
                Spec::Penalties(last_n, repeat, freq, present) => {
                    (self.init_penalties)(n_vocab, *last_n, *repeat, *freq, *present)
                }
                Spec::LogitBias(biases) => (self.init_logit_bias)(n_vocab, biases.len() as i32, biases.as_ptr()),
                Spec::Xtc(p, t, min_keep, seed) => (self.init_xtc)(*p, *t, *min_keep, *seed),
                Spec::TopNSigma(n) => (self.init_top_n_sigma)(*n),
                Spec::Mirostat(seed, tau, eta, m) => (self.init_mirostat)(n_vocab, *seed, *tau, *eta, *m),
                Spec::MirostatV2(seed, tau, eta) => (self.init_mirostat_v2)(*seed, *tau, *eta),
                Spec::AdaptiveP(target, decay, seed) => (self.init_adaptive_p)(*target, *decay, *seed),
            }
        }
    }

    fn chain(&self, specs: &[Spec], n_vocab: i32) -> Smpl {
        // SAFETY: the chain owns what is added.
        unsafe {
            let chain = (self.chain_init)(true);
            specs.iter().for_each(|spec| (self.chain_add)(chain, self.make(spec, n_vocab)));
            chain
        }
    }

    /// What is left of `data`, the index selected, and whether it is sorted.
    fn apply(&self, smpl: Smpl, data: &mut [TokenData]) -> (Vec<TokenData>, i64, bool) {
        let mut cur = TokenDataArray { data: data.as_mut_ptr(), size: data.len(), selected: -1, sorted: false };
        // SAFETY: a live sampler, and candidates as the array says, before and after.
        unsafe {
            (self.apply)(smpl, &mut cur);
            (std::slice::from_raw_parts(cur.data, cur.size).to_vec(), cur.selected, cur.sorted)
        }
    }
}

/// The random choices of these tests.
struct Choices(Mt19937);

impl Choices {
    fn below(&mut self, n: usize) -> usize {
        self.0.next_u32() as usize % n
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.0.uniform_f32()
    }

    fn spec(&mut self, n_vocab: usize) -> Spec {
        let min_keep = self.pick(&[0, 0, 1, 2, 5, 300]);
        match self.below(10) {
            0 => Spec::TopK(self.pick(&[-1, 0, 1, 2, 16, 40, 128, 129, 200, 1000, i32::MAX])),
            1 => Spec::TopP(self.pick(&[0.0, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0]), min_keep),
            2 => Spec::MinP(self.pick(&[0.0, 0.001, 0.05, 0.1, 0.5, 1.0]), min_keep),
            3 => Spec::Typical(self.pick(&[0.1, 0.5, 0.9, 0.99, 1.0]), min_keep),
            4 => Spec::Temp(self.pick(&[-1.0, 0.0, 0.2, 0.8, 1.0, 1.5, 3.0])),
            5 => {
                let (t, delta, exponent) =
                    (self.range(0.0, 2.0), self.pick(&[-0.5, 0.0, 0.3, 1.0, 3.0]), self.range(0.2, 2.0));
                Spec::TempExt(t, delta, exponent)
            }
            6 => {
                let last_n = self.pick(&[-1, 0, 1, 3, 64, 1000]);
                let (repeat, freq, present) = (self.range(0.9, 1.5), self.range(-0.1, 0.5), self.pick(&[0.0, 0.4]));
                Spec::Penalties(last_n, repeat, freq, present)
            }
            7 => {
                let (p, t) = (self.pick(&[-1.0, 0.1, 0.5, 1.0]), self.pick(&[0.0, 0.01, 0.1, 0.4, 0.6]));
                Spec::Xtc(p, t, min_keep, self.0.next_u32())
            }
            8 => Spec::TopNSigma(self.pick(&[-1.0, 0.0, 0.5, 1.0, 2.0])),
            _ => {
                let n = self.below(6);
                let bias = |c: &mut Self| LogitBias {
                    token: c.below(n_vocab + 2) as i32 - 1,
                    bias: c.pick(&[-1.0, 2.5, f32::NEG_INFINITY, 0.1]),
                };
                Spec::LogitBias((0..n).map(|_| bias(self)).collect())
            }
        }
    }

    /// A sampler that selects.
    fn last(&mut self) -> Spec {
        let seed = self.0.next_u32();
        let (tau, eta) = (self.range(0.0, 8.0), self.range(0.0, 0.5));
        match self.below(10) {
            0 => Spec::Greedy,
            1 => Spec::Mirostat(seed, tau, eta, self.pick(&[0, 1, 2, 10, 100, 100_000])),
            2 => Spec::MirostatV2(seed, tau, eta),
            3 => Spec::AdaptiveP(self.range(-0.3, 1.0), self.range(0.0, 1.0), seed),
            _ => Spec::Dist(seed),
        }
    }

    /// Logits: smooth as a model's, coarse with many ties, partly impossible, nearly flat, far apart.
    fn logits(&mut self, n: usize) -> Vec<f32> {
        let kind = self.below(5);
        (0..n)
            .map(|_| {
                let normal = (0..4).map(|_| self.range(-3.0, 3.0)).sum::<f32>();
                match kind {
                    0 => normal,
                    1 => normal.round(),
                    2 if self.below(3) == 0 => f32::NEG_INFINITY,
                    2 => normal,
                    3 => normal * 1e-3,
                    _ => normal * 8.0,
                }
            })
            .collect()
    }
}

fn assert_same(a: &(Vec<TokenData>, i64, bool), b: &(Vec<TokenData>, i64, bool), specs: &[Spec]) {
    assert_eq!((a.0.len(), a.1, a.2), (b.0.len(), b.1, b.2), "{specs:?}: size, selected, sorted");
    for (i, (x, y)) in a.0.iter().zip(&b.0).enumerate() {
        assert_eq!((x.id, x.logit.to_bits()), (y.id, y.logit.to_bits()), "{specs:?}: candidate {i} of {}", a.0.len());
        let close = (x.p - y.p).abs() <= P_TOLERANCE || (x.p.is_nan() && y.p.is_nan());
        assert!(close, "{specs:?}: candidate {i}: p {} and {}", x.p, y.p);
    }
}

fn name(api: &Api, smpl: Smpl) -> String {
    // SAFETY: names are NUL-terminated strings.
    unsafe { CStr::from_ptr((api.name)(smpl)) }.to_str().unwrap().to_owned()
}

/// Runs one random chain on both sides for a few tokens.
fn run(theirs: &Api, seed: u32) {
    let mut c = Choices(Mt19937::new(seed));
    let n_vocab = c.pick(&[1, 2, 3, 10, 17, 100, 500, 1024, 1025, 3000, 9000]);
    let mut specs: Vec<Spec> = (0..c.below(6)).map(|_| c.spec(n_vocab)).collect();
    specs.push(c.last());

    let (mut a, mut b) = (OURS.chain(&specs, n_vocab as i32), theirs.chain(&specs, n_vocab as i32));
    // SAFETY: live samplers.
    unsafe { assert_eq!((OURS.get_seed)(a), (theirs.get_seed)(b)) };
    for _ in 0..1 + c.below(8) {
        let mut data: Vec<_> =
            c.logits(n_vocab).into_iter().zip(0..).map(|(logit, id)| TokenData { id, logit, p: 0.0 }).collect();
        if c.below(10) == 0 {
            for i in (1..n_vocab).rev() {
                data.swap(i, c.below(i + 1));
            }
        }
        let ours = OURS.apply(a, &mut data.clone());
        let reference = theirs.apply(b, &mut data);
        // Logits that temperatures near 0 have blown up overflow an int in llama.cpp's bucket sort.
        if ours.0.iter().any(|c| c.logit.is_finite() && c.logit.abs() > 1e7) {
            break;
        }
        assert_same(&ours, &reference, &specs);

        let token = if c.below(4) == 0 { c.below(n_vocab) as i32 } else { ours.0[ours.1 as usize].id };
        // SAFETY: live samplers; each is freed once.
        unsafe {
            (OURS.accept)(a, token);
            (theirs.accept)(b, token);
            match c.below(12) {
                0 => {
                    (OURS.reset)(a);
                    (theirs.reset)(b);
                }
                1 => {
                    let (old_a, old_b) = (a, b);
                    (a, b) = ((OURS.clone)(a), (theirs.clone)(b));
                    (OURS.free)(old_a);
                    (theirs.free)(old_b);
                }
                2 => {
                    let (new_a, new_b) = (OURS.chain(&specs, n_vocab as i32), theirs.chain(&specs, n_vocab as i32));
                    (OURS.copy)(a, new_a);
                    (theirs.copy)(b, new_b);
                    (OURS.free)(a);
                    (theirs.free)(b);
                    (a, b) = (new_a, new_b);
                }
                _ => {}
            }
        }
    }
    // SAFETY: the last use of both.
    unsafe {
        (OURS.free)(a);
        (theirs.free)(b);
    }
}

#[test]
fn random_chains_agree_with_llama_cpp() {
    let theirs = reference();
    for seed in 0..4000 {
        run(&theirs, seed);
    }
}

#[test]
fn names_agree_with_llama_cpp() {
    let theirs = reference();
    let mut c = Choices(Mt19937::new(1));
    for _ in 0..500 {
        let spec = c.spec(100);
        let (a, b) = (OURS.make(&spec, 100), theirs.make(&spec, 100));
        assert_eq!(name(&OURS, a), name(&theirs, b), "{spec:?}");
        // SAFETY: the last use of both.
        unsafe {
            (OURS.free)(a);
            (theirs.free)(b);
        }
    }
}

/// C++'s `std::vector`, as libstdc++ lays it out.
#[repr(C)]
struct CppVector<T> {
    begin: *const T,
    end: *const T,
    capacity: *const T,
}

impl<T> CppVector<T> {
    fn of(items: &[T]) -> Self {
        let range = items.as_ptr_range();
        CppVector { begin: range.start, end: range.end, capacity: range.end }
    }
}

/// DRY with breakers given as tokens, which llama.cpp offers to its own tests only.
#[test]
fn dry_agrees_with_llama_cpp() {
    type Init = unsafe extern "C" fn(f32, f32, i32, i32, *const CppVector<CppVector<i32>>) -> Smpl;
    let theirs = reference();
    // SAFETY: the type is that of the function in llama.cpp's source.
    let init: Init = *unsafe {
        reference_library().get(b"_Z30llama_sampler_init_dry_testingffiiRKSt6vectorIS_IiSaIiEESaIS1_EE").unwrap()
    };
    let mut c = Choices(Mt19937::new(11));
    for _ in 0..2000 {
        let n_vocab = c.pick(&[2, 3, 5, 30]);
        let tokens = |c: &mut Choices, n: usize| -> Vec<i32> { (0..n).map(|_| c.below(n_vocab) as i32).collect() };
        let breakers: Vec<Vec<i32>> = (0..c.below(3))
            .map(|_| {
                let n = c.below(4);
                tokens(&mut c, n)
            })
            .collect();
        let params = DryParams {
            multiplier: c.range(0.1, 2.0),
            base: c.pick(&[1.0, 1.2, 1.75, 8.0]),
            allowed_length: c.below(5) as i32 - 1,
            last_n: c.pick(&[1, 5, 20, 1000]),
        };
        let cpp: Vec<_> = breakers.iter().map(|b| CppVector::of(b)).collect();
        let mut a = dry(params, &breakers);
        // SAFETY: read during the call only.
        let b =
            unsafe { init(params.multiplier, params.base, params.allowed_length, params.last_n, &CppVector::of(&cpp)) };
        for _ in 0..c.below(80) {
            let token = c.below(n_vocab) as i32;
            a.accept(token);
            // SAFETY: a live sampler.
            unsafe { (theirs.accept)(b, token) };
        }
        let mut data: Vec<_> =
            c.logits(n_vocab).into_iter().zip(0..).map(|(logit, id)| TokenData { id, logit, p: 0.0 }).collect();
        if c.below(2) == 0 {
            data.reverse();
        }
        let mut ours = data.clone();
        a.apply(&mut Candidates::new(&mut ours));
        let (reference, ..) = theirs.apply(b, &mut data);
        assert_eq!(ours, reference, "{params:?} {breakers:?}");
        // SAFETY: its last use.
        unsafe { (theirs.free)(b) };
    }
}
