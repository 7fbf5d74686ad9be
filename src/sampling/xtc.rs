//! XTC, "exclude top choices": sometimes drops the most probable candidates for the sake of variety
//! (<https://github.com/oobabooga/text-generation-webui/pull/6335>).

use std::ffi::CStr;

use super::disabled::disabled;
use super::rng::Seeded;
use super::{Candidates, Sampler, TokenData};

#[derive(Clone)]
struct Xtc {
    probability: f32,
    threshold: f32,
    min_keep: usize,
    seeded: Seeded,
    scratch: Vec<TokenData>,
}

/// With `probability`, drops all candidates at least as probable as `threshold` but the last of them, provided that
/// `min_keep` are left; sorts then. Does nothing if `probability` is not positive, or if `threshold` is above 0.5, where
/// no two candidates can reach it.
pub fn xtc(probability: f32, threshold: f32, min_keep: usize, seed: u32) -> Box<dyn Sampler> {
    if probability <= 0.0 || threshold > 0.5 {
        return disabled(c"?xtc");
    }
    Box::new(Xtc { probability, threshold, min_keep, seeded: Seeded::new(seed), scratch: Vec::new() })
}

impl Sampler for Xtc {
    fn name(&self) -> &'static CStr {
        c"xtc"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        if candidates.size() < 2 || self.seeded.rng.uniform_f32() > self.probability {
            return;
        }
        candidates.sort(&mut self.scratch);
        candidates.softmax();
        let top = candidates.data.iter().take_while(|c| c.p >= self.threshold).count();
        let drop = top.saturating_sub(1);
        if candidates.size() - drop >= self.min_keep {
            candidates.skip(drop);
        }
    }

    fn reset(&mut self) {
        self.seeded.reset();
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, ids, logits_of};
    use super::*;

    #[test]
    fn drops_the_top_choices() {
        let logits = logits_of(&[0.1, 0.2, 0.3, 0.4]);
        let left = |threshold, min_keep| ids(&apply(xtc(1.0, threshold, min_keep, 1).as_mut(), &logits).0);
        assert_eq!(left(0.15, 0), [1, 0]);
        assert_eq!(left(0.25, 0), [2, 1, 0]);
        assert_eq!(left(0.45, 0), [3, 2, 1, 0]);
        assert_eq!(left(0.15, 3), [3, 2, 1, 0]);
        assert_eq!(xtc(1.0, 0.6, 0, 1).name(), c"?xtc");
    }

    #[test]
    fn acts_with_its_probability() {
        let mut sampler = xtc(0.25, 0.1, 0, 3);
        let acted = (0..4000).filter(|_| apply(sampler.as_mut(), &[0.0; 4]).0.len() == 1).count();
        assert!((900..1100).contains(&acted), "{acted}");
    }
}
