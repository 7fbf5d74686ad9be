//! Min-p: keeps the candidates that are at least p times as probable as the best one
//! (<https://github.com/ggml-org/llama.cpp/pull/3841>).

use std::ffi::CStr;

use super::disabled::disabled;
use super::{Candidates, RowUse, Sampler, TokenData};
use crate::backend::sample::Step;

struct MinP {
    p: f32,
    min_keep: usize,
    scratch: Vec<TokenData>,
}

/// Keeps the candidates with at least `p` times the highest probability, and at least `min_keep` of them. Leaves them
/// in the order found unless `min_keep` makes sorting necessary. Does nothing if `p` is not positive.
pub fn min_p(p: f32, min_keep: usize) -> Box<dyn Sampler> {
    if p <= 0.0 {
        return disabled(c"?min-p");
    }
    Box::new(MinP { p, min_keep, scratch: Vec::new() })
}

impl MinP {
    /// Drops improbable candidates in one pass, without sorting. False, with nothing changed, if too few would be left.
    fn filter(&self, candidates: &mut Candidates<'_>) -> bool {
        let max = candidates.data.iter().fold(-f32::MAX, |max, c| if max < c.logit { c.logit } else { max });
        let min_logit = max + self.p.ln();
        let keep = candidates.data.iter().filter(|c| c.logit >= min_logit).count();
        if keep == 0 || keep < self.min_keep {
            return false;
        }
        let mut next = 0;
        for i in 0..candidates.size() {
            if candidates.data[i].logit >= min_logit {
                candidates.data[next] = candidates.data[i];
                next += 1;
            }
        }
        candidates.truncate(keep);
        true
    }
}

impl Sampler for MinP {
    fn name(&self) -> &'static CStr {
        c"min-p"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        if candidates.data.is_empty() || (!candidates.sorted && self.filter(candidates)) {
            return;
        }
        candidates.sort(&mut self.scratch);
        let min_logit = candidates.data[0].logit + self.p.ln();
        let keep = (1..candidates.size())
            .find(|&i| candidates.data[i].logit < min_logit && i >= self.min_keep)
            .unwrap_or(candidates.size());
        candidates.truncate(keep);
    }

    fn attach(&mut self, _n_outputs_max: usize) -> Option<RowUse> {
        Some(RowUse::Mask)
    }

    fn step(&self, _n_before: usize) -> Option<Step> {
        Some(Step::MinP { p: self.p, min_keep: u32::try_from(self.min_keep).ok()? })
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        min_p(self.p, self.min_keep)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, ids, logits_of};
    use super::*;

    #[test]
    fn keeps_the_probable_in_place() {
        let logits = logits_of(&[0.1, 0.2, 0.3, 0.4]);
        assert_eq!(ids(&apply(min_p(0.24, 0).as_mut(), &logits).0), [0, 1, 2, 3]);
        assert_eq!(ids(&apply(min_p(0.49, 0).as_mut(), &logits).0), [1, 2, 3]);
        assert_eq!(ids(&apply(min_p(0.74, 0).as_mut(), &logits).0), [2, 3]);
        assert_eq!(ids(&apply(min_p(1.0, 0).as_mut(), &logits).0), [3]);
    }

    #[test]
    fn min_keep_sorts() {
        let logits = logits_of(&[0.1, 0.2, 0.3, 0.4]);
        assert_eq!(ids(&apply(min_p(1.0, 3).as_mut(), &logits).0), [3, 2, 1]);
        assert_eq!(apply(min_p(0.1, 1).as_mut(), &[]).0.len(), 0);
    }
}
