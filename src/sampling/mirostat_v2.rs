//! Mirostat 2 (Basu et al., <https://arxiv.org/abs/2007.14966>): like version 1, but cuts the candidates at a surprise
//! instead of a rank.

use std::ffi::CStr;

use super::mirostat::select_and_learn;
use super::rng::Seeded;
use super::{Candidates, Sampler, TokenData};

#[derive(Clone)]
struct MirostatV2 {
    tau: f32,
    eta: f32,
    /// The surprise that the next token may have, in bits.
    mu: f32,
    seeded: Seeded,
    scratch: Vec<TokenData>,
}

/// Selects a candidate that is not too surprising, such that the surprise stays near `tau` bits per token on average.
/// `eta` says how fast to correct for what was observed.
pub fn mirostat_v2(seed: u32, tau: f32, eta: f32) -> Box<dyn Sampler> {
    Box::new(MirostatV2 { tau, eta, mu: 2.0 * tau, seeded: Seeded::new(seed), scratch: Vec::new() })
}

impl Sampler for MirostatV2 {
    fn name(&self) -> &'static CStr {
        c"mirostat-v2"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        candidates.selected = -1;
        if candidates.data.is_empty() {
            return;
        }
        candidates.sort(&mut self.scratch);
        candidates.softmax();
        let keep = candidates.data.iter().position(|c| -c.p.log2() > self.mu).unwrap_or(candidates.size());
        candidates.truncate(keep.max(1));
        select_and_learn(candidates, &mut self.seeded, &mut self.mu, self.tau, self.eta);
    }

    fn reset(&mut self) {
        self.mu = 2.0 * self.tau;
        self.seeded.reset();
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        Box::new(self.clone())
    }

    fn seed(&self) -> Option<u32> {
        Some(self.seeded.current())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, logits_of};
    use super::*;

    #[test]
    fn cuts_at_the_surprise() {
        // Surprises of 1, 2 and 3 bits; mu starts at 2 * tau.
        let logits = logits_of(&[0.5, 0.25, 0.125, 0.125]);
        assert_eq!(apply(mirostat_v2(1, 0.75, 0.0).as_mut(), &logits).0.len(), 1);
        assert_eq!(apply(mirostat_v2(1, 1.25, 0.0).as_mut(), &logits).0.len(), 2);
        assert_eq!(apply(mirostat_v2(1, 1.75, 0.0).as_mut(), &logits).0.len(), 4);
        assert_eq!(apply(mirostat_v2(1, 0.0, 0.0).as_mut(), &logits).0.len(), 1);
        assert_eq!(apply(mirostat_v2(1, 1.0, 0.1).as_mut(), &[]).1, -1);
    }

    #[test]
    fn the_surprise_settles_at_the_target() {
        let logits: Vec<f32> = (1..=1000).map(|rank| -1.2 * (rank as f32).ln()).collect();
        let mut sampler = mirostat_v2(7, 4.0, 0.1);
        let mut surprise = 0.0;
        for i in 0..2000 {
            let (data, selected) = apply(sampler.as_mut(), &logits);
            if i >= 1000 {
                surprise -= data[selected as usize].p.log2() / 1000.0;
            }
        }
        assert!((surprise - 4.0).abs() < 0.3, "{surprise}");
    }
}
