//! Top-k: keeps the k most probable candidates (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019).

use std::ffi::CStr;

use super::disabled::disabled;
use super::{Candidates, RowUse, Sampler, TokenData};
use crate::backend::sample::Step;

struct TopK {
    k: usize,
    scratch: Vec<TokenData>,
}

/// Keeps the `k` candidates with the highest logits, sorted. Does nothing if `k` is not positive.
pub fn top_k(k: i32) -> Box<dyn Sampler> {
    match usize::try_from(k) {
        Ok(k) if k > 0 => Box::new(TopK { k, scratch: Vec::new() }),
        _ => disabled(c"?top-k"),
    }
}

impl Sampler for TopK {
    fn name(&self) -> &'static CStr {
        c"top-k"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        candidates.top_k(self.k, &mut self.scratch);
    }

    fn attach(&mut self, _n_outputs_max: usize) -> Option<RowUse> {
        Some(RowUse::Keep)
    }

    fn step(&self, _n_before: usize) -> Option<Step> {
        Some(Step::TopK(u32::try_from(self.k).ok()?))
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        Box::new(TopK { k: self.k, scratch: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, ids};
    use super::*;

    #[test]
    fn keeps_the_best() {
        let logits = [0.1, 0.4, 0.2, 0.3];
        assert_eq!(ids(&apply(top_k(1).as_mut(), &logits).0), [1]);
        assert_eq!(ids(&apply(top_k(3).as_mut(), &logits).0), [1, 3, 2]);
        assert_eq!(ids(&apply(top_k(9).as_mut(), &logits).0), [1, 3, 2, 0]);
        assert_eq!(ids(&apply(top_k(0).as_mut(), &logits).0), [0, 1, 2, 3]);
        assert_eq!(top_k(-1).name(), c"?top-k");
    }
}
