//! Adaptive-p: selects tokens whose probability is near a target, in the long run
//! (<https://github.com/ggml-org/llama.cpp/pull/17927>).

use std::ffi::CStr;

use super::rng::Seeded;
use super::{Candidates, Sampler, Token};

#[derive(Clone)]
struct AdaptiveP {
    target: f32,
    decay: f32,
    seeded: Seeded,
    /// The sum of the selected tokens' probabilities, each step's weight decaying by `decay`; and of the weights.
    weighted_sum: f32,
    total_weight: f32,
    /// The token selected last and its probability before the transform, until it is accepted.
    pending: Option<(Token, f32)>,
    /// Every candidate's probability before the transform, for one call.
    original: Vec<f32>,
}

/// Selects a candidate at random, preferring those whose probability is near what brings the average of the selected
/// ones to `target` (0 to 1; negative: by their probabilities). The average reaches back about 1 / (1 - `decay`) tokens,
/// `decay` being from 0 to 0.99. Put it last in a chain.
pub fn adaptive_p(target: f32, decay: f32, seed: u32) -> Box<dyn Sampler> {
    let mut sampler = AdaptiveP {
        target,
        decay: decay.clamp(0.0, 0.99),
        seeded: Seeded::new(seed),
        weighted_sum: 0.0,
        total_weight: 0.0,
        pending: None,
        original: Vec::new(),
    };
    sampler.forget();
    Box::new(sampler)
}

impl AdaptiveP {
    /// Starts as if all tokens so far had the target's probability.
    fn forget(&mut self) {
        self.weighted_sum = self.target / (1.0 - self.decay);
        self.total_weight = 1.0 / (1.0 - self.decay);
        self.pending = None;
    }

    /// The probability to select next.
    fn adapted_target(&self) -> f32 {
        let target = self.target.clamp(0.0, 1.0);
        if self.total_weight == 0.0 {
            return target;
        }
        (2.0 * target - self.weighted_sum / self.total_weight).clamp(0.0, 1.0)
    }
}

impl Sampler for AdaptiveP {
    fn name(&self) -> &'static CStr {
        c"adaptive-p"
    }

    fn accept(&mut self, token: Token) {
        if let Some((selected, p)) = self.pending.take()
            && selected == token
        {
            self.weighted_sum = p + self.decay * self.weighted_sum;
            self.total_weight = 1.0 + self.decay * self.total_weight;
        }
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        candidates.selected = -1;
        if candidates.data.is_empty() {
            return;
        }
        candidates.softmax();
        if self.target < 0.0 {
            candidates.selected = self.seeded.rng.discrete(candidates.data) as i64;
            return;
        }
        self.original.clear();
        self.original.extend(candidates.data.iter().map(|c| c.p));

        // Quadratic near the target, linear far from it; what is impossible stays so.
        const PEAK: f32 = 5.0;
        const SHARPNESS: f32 = 10.0;
        const INV_WIDTH: f32 = 1.0 / 0.3;
        let target = self.adapted_target();
        for c in candidates.data.iter_mut().filter(|c| c.logit != f32::NEG_INFINITY) {
            let distance = ((c.p - target) * INV_WIDTH).abs();
            c.logit = PEAK - SHARPNESS * distance * distance / (1.0 + distance);
        }
        candidates.softmax();
        let selected = self.seeded.rng.discrete(candidates.data);
        candidates.selected = selected as i64;
        self.pending = Some((candidates.data[selected].id, self.original[selected]));
    }

    fn reset(&mut self) {
        self.forget();
        self.seeded.reset();
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        // A copy draws from the start of the seed's sequence, as llama.cpp's does: results stay comparable.
        let mut copy = self.clone();
        copy.seeded.reset();
        Box::new(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, logits_of};
    use super::*;

    /// The average probability of the tokens selected.
    fn average(sampler: &mut dyn Sampler, probs: &[f32]) -> f32 {
        let logits = logits_of(probs);
        let mut sum = 0.0;
        for _ in 0..2000 {
            let (data, selected) = apply(sampler, &logits);
            let token = data[selected as usize].id;
            sampler.accept(token);
            sum += probs[token as usize];
        }
        sum / 2000.0
    }

    #[test]
    fn the_average_settles_at_the_target() {
        let probs = [0.4, 0.25, 0.15, 0.1, 0.05, 0.05];
        for target in [0.1, 0.2, 0.3] {
            let mean = average(adaptive_p(target, 0.9, 5).as_mut(), &probs);
            assert!((mean - target).abs() < 0.03, "{mean} for {target}");
        }
        // The expectation of p without a target.
        let mean = average(adaptive_p(-1.0, 0.9, 5).as_mut(), &probs);
        assert!((mean - 0.26).abs() < 0.02, "{mean}");
        assert_eq!(apply(adaptive_p(0.5, 0.9, 5).as_mut(), &[]).1, -1);
    }

    #[test]
    fn a_clone_keeps_the_average_but_restarts_its_draws() {
        let logits = logits_of(&[0.25; 4]);
        let draws = |s: &mut Box<dyn Sampler>| -> Vec<i64> { (0..20).map(|_| apply(s.as_mut(), &logits).1).collect() };
        let mut a = adaptive_p(0.3, 0.5, 5);
        let first = draws(&mut a);
        assert_eq!(draws(&mut a.clone()), first);
        assert_ne!(draws(&mut a), first);
    }
}
