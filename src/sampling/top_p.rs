//! Top-p, nucleus sampling (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019).

use std::ffi::CStr;

use super::disabled::disabled;
use super::sort::top_by_buckets;
use super::{Candidates, RowUse, Sampler, TokenData};
use crate::backend::sample::Step;

struct TopP {
    p: f32,
    min_keep: usize,
    sorted: Vec<TokenData>,
}

/// Keeps the most probable candidates until their probabilities sum to `p`, and at least `min_keep` of them, sorted.
/// Does nothing if `p` is 1 or more.
pub fn top_p(p: f32, min_keep: usize) -> Box<dyn Sampler> {
    if p >= 1.0 {
        return disabled(c"?top-p");
    }
    Box::new(TopP { p, min_keep, sorted: Vec::new() })
}

impl TopP {
    /// How many of `data`, sorted by descending probability, are needed; None if these are not enough.
    fn count(&self, data: &[TokenData]) -> Option<usize> {
        let mut sum = 0.0f32;
        for (i, c) in data.iter().enumerate() {
            sum += c.p;
            if sum >= self.p && i + 1 >= self.min_keep {
                return Some(i + 1);
            }
        }
        None
    }
}

impl Sampler for TopP {
    fn name(&self) -> &'static CStr {
        c"top-p"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        // Few of a large vocabulary's candidates are needed as a rule: sort this many first.
        const FIRST: usize = 256;
        const LARGE: usize = 1024;

        let size = candidates.size();
        candidates.softmax();
        if candidates.sorted || size <= LARGE {
            candidates.sort(&mut self.sorted);
            candidates.truncate(self.count(candidates.data).unwrap_or(size));
            return;
        }
        top_by_buckets(candidates.data, FIRST, &mut self.sorted);
        let keep = self.count(&self.sorted[..FIRST]).unwrap_or_else(|| {
            top_by_buckets(candidates.data, size, &mut self.sorted);
            self.count(&self.sorted).unwrap_or(size)
        });
        candidates.data[..keep].copy_from_slice(&self.sorted[..keep]);
        candidates.truncate(keep);
        candidates.sorted = true;
    }

    fn attach(&mut self, _n_outputs_max: usize) -> Option<RowUse> {
        Some(RowUse::Mask)
    }

    fn step(&self, _n_before: usize) -> Option<Step> {
        Some(Step::TopP { p: self.p, min_keep: u32::try_from(self.min_keep).ok()? })
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        top_p(self.p, self.min_keep)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, ids, logits_of};
    use super::*;

    #[test]
    fn keeps_the_nucleus() {
        let logits = logits_of(&[0.1, 0.2, 0.3, 0.4]);
        assert_eq!(ids(&apply(top_p(0.0, 0).as_mut(), &logits).0), [3]);
        assert_eq!(ids(&apply(top_p(0.65, 0).as_mut(), &logits).0), [3, 2]);
        assert_eq!(ids(&apply(top_p(0.8, 0).as_mut(), &logits).0), [3, 2, 1]);
        assert_eq!(ids(&apply(top_p(0.0, 3).as_mut(), &logits).0), [3, 2, 1]);
        assert_eq!(ids(&apply(top_p(1.0, 0).as_mut(), &logits).0), [0, 1, 2, 3]);
        assert_eq!(apply(top_p(0.5, 1).as_mut(), &[]).0.len(), 0);
    }

    #[test]
    fn a_flat_vocabulary_needs_the_second_sort() {
        let logits: Vec<f32> = (0..4000).map(|i| (i % 1000) as f32 * 1e-4).collect();
        let (data, _) = apply(top_p(0.5, 1).as_mut(), &logits);
        assert!((1900..2000).contains(&data.len()), "{}", data.len());
        assert!(data.windows(2).all(|w| w[0].logit >= w[1].logit));
    }
}
