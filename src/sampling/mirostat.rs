//! Mirostat 1 (Basu et al., <https://arxiv.org/abs/2007.14966>): keeps the surprise of the text near a target.

use std::ffi::CStr;

use super::rng::Seeded;
use super::{Candidates, Sampler, TokenData};

/// Parameters of [`mirostat`].
#[derive(Clone, Copy, Debug)]
pub struct MirostatParams {
    /// Size of the vocabulary.
    pub n_vocab: i32,
    /// Seed of the draws.
    pub seed: u32,
    /// The surprise to keep to, in bits per token.
    pub tau: f32,
    /// How fast to correct for what was observed.
    pub eta: f32,
    /// How many of the most probable candidates estimate the shape of the distribution; the paper uses 100.
    pub m: i32,
}

#[derive(Clone)]
struct Mirostat {
    params: MirostatParams,
    /// The surprise that the next token may have, in bits.
    mu: f32,
    seeded: Seeded,
    scratch: Vec<TokenData>,
}

/// Selects a candidate among as many of the most probable ones as give the target surprise, if probabilities follow
/// Zipf's law with the exponent estimated from the first `m`.
pub fn mirostat(params: MirostatParams) -> Box<dyn Sampler> {
    let seeded = Seeded::new(params.seed);
    Box::new(Mirostat { params, mu: 2.0 * params.tau, seeded, scratch: Vec::new() })
}

impl Mirostat {
    /// How many candidates to keep of those whose `p` is computed.
    fn k(&self, data: &[TokenData]) -> usize {
        let m = usize::try_from(self.params.m).unwrap_or(0);
        // No terms asked for means all, as m - 1 wraps around in llama.cpp.
        let terms = m.checked_sub(1).unwrap_or(usize::MAX);
        let (mut sum_tb, mut sum_tt) = (0.0f32, 0.0f32);
        for (i, pair) in data.windows(2).take(terms).enumerate() {
            let t = ((i + 2) as f32 / (i + 1) as f32).ln();
            let b = (pair[0].p / pair[1].p).ln();
            sum_tb += t * b;
            sum_tt += t * t;
        }
        let s_hat = sum_tb / sum_tt;
        let epsilon = s_hat - 1.0;
        // Hidden from the optimizer, which would round differently with exp2.
        let two = std::hint::black_box(2.0f32);
        let k = ((epsilon * two.powf(self.mu)) / (1.0 - (self.params.n_vocab as f32).powf(-epsilon))).powf(1.0 / s_hat);
        // What is no int is one candidate in llama.cpp, on x86.
        if k >= 1.0 && k < -(i32::MIN as f32) { k as usize } else { 1 }
    }
}

impl Sampler for Mirostat {
    fn name(&self) -> &'static CStr {
        c"mirostat"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        candidates.selected = -1;
        if candidates.data.is_empty() {
            return;
        }
        candidates.sort(&mut self.scratch);
        candidates.softmax();
        candidates.truncate(self.k(candidates.data));
        select_and_learn(candidates, &mut self.seeded, &mut self.mu, self.params.tau, self.params.eta);
    }

    fn reset(&mut self) {
        self.mu = 2.0 * self.params.tau;
        self.seeded.reset();
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        Box::new(self.clone())
    }

    fn seed(&self) -> Option<u32> {
        Some(self.seeded.current())
    }
}

/// The end that both versions share: draws one of the sorted candidates and corrects `mu` by how surprising it was.
pub(super) fn select_and_learn(candidates: &mut Candidates<'_>, seeded: &mut Seeded, mu: &mut f32, tau: f32, eta: f32) {
    candidates.softmax();
    let selected = seeded.rng.discrete(candidates.data);
    candidates.selected = selected as i64;
    let surprise = -candidates.data[selected].p.log2();
    *mu -= eta * (surprise - tau);
}

#[cfg(test)]
mod tests {
    use super::super::testing::apply;
    use super::*;

    /// Zipf's law over 1000 tokens.
    fn zipf() -> Vec<f32> {
        (1..=1000).map(|rank| -1.2 * (rank as f32).ln()).collect()
    }

    #[test]
    fn the_surprise_settles_at_the_target() {
        let mut sampler = mirostat(MirostatParams { n_vocab: 1000, seed: 7, tau: 4.0, eta: 0.1, m: 100 });
        let mut surprise = 0.0;
        for i in 0..2000 {
            let (data, selected) = apply(sampler.as_mut(), &zipf());
            if i >= 1000 {
                surprise -= data[selected as usize].p.log2() / 1000.0;
            }
        }
        assert!((surprise - 4.0).abs() < 0.3, "{surprise}");
    }

    #[test]
    fn odd_parameters_select_something() {
        for m in [i32::MIN, 0, 1, i32::MAX] {
            for logits in [&zipf()[..], &[1.0], &[f32::NAN; 3], &[0.0; 5]] {
                let mut s = mirostat(MirostatParams { n_vocab: -1, seed: 7, tau: 1e9, eta: 0.1, m });
                assert!(apply(s.as_mut(), logits).1 >= 0);
            }
        }
        let mut s = mirostat(MirostatParams { n_vocab: 10, seed: 7, tau: 5.0, eta: 0.1, m: 100 });
        assert_eq!(apply(s.as_mut(), &[]).1, -1);
    }
}
