//! Temperature: flattens or sharpens the distribution.

use std::ffi::CStr;

use super::disabled::disabled;
use super::{Candidates, RowUse, Sampler};
use crate::backend::sample::Step;

struct Temp {
    temp: f32,
}

/// Divides the logits by `temp`. With `temp` 0 or less only the highest logit stays, the others become -infinity.
/// Does nothing if `temp` is 1.
pub fn temp(temp: f32) -> Box<dyn Sampler> {
    if temp == 1.0 {
        return disabled(c"?temp");
    }
    Box::new(Temp { temp })
}

/// What [`temp`] does, for the samplers that compute the temperature.
pub(super) fn scale(candidates: &mut Candidates<'_>, temp: f32) {
    if temp > 0.0 || temp.is_nan() {
        candidates.data.iter_mut().for_each(|c| c.logit /= temp);
        return;
    }
    let Some(first) = candidates.data.first() else { return };
    let (mut best, mut max) = (0, first.logit);
    for i in 1..candidates.size() {
        let logit = candidates.data[i].logit;
        let loser = if logit > max { std::mem::replace(&mut best, i) } else { i };
        max = candidates.data[best].logit;
        candidates.data[loser].logit = f32::NEG_INFINITY;
    }
}

impl Sampler for Temp {
    fn name(&self) -> &'static CStr {
        c"temp"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        scale(candidates, self.temp);
    }

    fn attach(&mut self, _n_outputs_max: usize) -> Option<RowUse> {
        Some(if self.temp <= 0.0 { RowUse::Best } else { RowUse::Mask })
    }

    fn step(&self, _n_before: usize) -> Option<Step> {
        Some(if self.temp <= 0.0 { Step::Best } else { Step::Scale(self.temp) })
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        temp(self.temp)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::apply;
    use super::*;

    fn logits(sampler: Box<dyn Sampler>, logits: &[f32]) -> Vec<f32> {
        let mut sampler = sampler;
        apply(sampler.as_mut(), logits).0.iter().map(|c| c.logit).collect()
    }

    #[test]
    fn divides() {
        assert_eq!(logits(temp(0.5), &[1.0, 2.0]), [2.0, 4.0]);
        assert_eq!(logits(temp(1.0), &[1.0, 2.0]), [1.0, 2.0]);
        assert_eq!(temp(1.0).name(), c"?temp");
    }

    #[test]
    fn zero_leaves_the_first_maximum() {
        let inf = f32::NEG_INFINITY;
        assert_eq!(logits(temp(0.0), &[1.0, 3.0, 2.0, 3.0]), [inf, 3.0, inf, inf]);
        assert_eq!(logits(temp(-1.0), &[4.0, 3.0]), [4.0, inf]);
        assert_eq!(logits(temp(0.0), &[]), []);
    }
}
