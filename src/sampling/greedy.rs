//! Greedy: selects the candidate with the highest logit, the first of equals.

use std::ffi::CStr;

use super::{Candidates, RowUse, Sampler};
use crate::backend::sample::Step;

struct Greedy;

/// Selects the most probable candidate.
pub fn greedy() -> Box<dyn Sampler> {
    Box::new(Greedy)
}

impl Sampler for Greedy {
    fn name(&self) -> &'static CStr {
        c"greedy"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        let Some(first) = candidates.data.first() else {
            candidates.selected = -1;
            return;
        };
        let (mut best, mut max) = (0, first.logit);
        for (i, c) in candidates.data.iter().enumerate() {
            if c.logit > max {
                (best, max) = (i, c.logit);
            }
        }
        candidates.selected = best as i64;
    }

    fn attach(&mut self, _n_outputs_max: usize) -> Option<RowUse> {
        Some(RowUse::Choose)
    }

    fn step(&self, _n_before: usize) -> Option<Step> {
        Some(Step::Greedy)
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        greedy()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::apply;
    use super::*;

    #[test]
    fn selects_the_first_maximum() {
        assert_eq!(apply(greedy().as_mut(), &[1.0, 5.0, 2.0, 5.0]).1, 1);
        assert_eq!(apply(greedy().as_mut(), &[f32::NEG_INFINITY; 3]).1, 0);
        assert_eq!(apply(greedy().as_mut(), &[]).1, -1);
    }
}
