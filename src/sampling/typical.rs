//! Locally typical sampling (Meister et al., <https://arxiv.org/abs/2202.00666>).

use std::ffi::CStr;

use super::disabled::disabled;
use super::sort::sort;
use super::{Candidates, Sampler, TokenData};

struct Typical {
    p: f32,
    min_keep: usize,
    scratch: Vec<TokenData>,
    /// How far each candidate's surprise is from the entropy.
    distance: Vec<f32>,
    /// Candidates by ascending distance.
    order: Vec<u32>,
}

/// Keeps the candidates whose surprise is closest to the expected one until their probabilities sum to more than `p`,
/// and at least `min_keep` of them. Does nothing if `p` is 1 or more.
pub fn typical(p: f32, min_keep: usize) -> Box<dyn Sampler> {
    if p >= 1.0 {
        return disabled(c"?typical");
    }
    Box::new(Typical { p, min_keep, scratch: Vec::new(), distance: Vec::new(), order: Vec::new() })
}

impl Sampler for Typical {
    fn name(&self) -> &'static CStr {
        c"typical"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        candidates.sort(&mut self.scratch);
        candidates.softmax();
        let entropy = candidates.data.iter().fold(0.0f32, |sum, c| sum + -c.p * c.p.ln());

        let distance = &mut self.distance;
        distance.clear();
        distance.extend(candidates.data.iter().map(|c| (-c.p.ln() - entropy).abs()));
        self.order.clear();
        self.order.extend(0..candidates.size() as u32);
        sort(&mut self.order, |&a, &b| distance[a as usize] < distance[b as usize]);

        let mut sum = 0.0f32;
        let enough = self.order.iter().enumerate().position(|(i, &index)| {
            sum += candidates.data[index as usize].p;
            sum > self.p && i + 1 >= self.min_keep
        });
        let keep = enough.map_or(candidates.size(), |i| i + 1);

        self.scratch.clear();
        self.scratch.extend(self.order[..keep].iter().map(|&index| candidates.data[index as usize]));
        candidates.data[..keep].copy_from_slice(&self.scratch);
        candidates.truncate(keep);
        candidates.sorted = false;
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        typical(self.p, self.min_keep)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, ids, logits_of};
    use super::*;

    #[test]
    fn keeps_what_is_expected() {
        assert_eq!(ids(&apply(typical(0.5, 1).as_mut(), &logits_of(&[0.97, 0.01, 0.01, 0.01])).0), [0]);
        assert_eq!(ids(&apply(typical(0.5, 1).as_mut(), &logits_of(&[0.4, 0.2, 0.2, 0.2])).0), [1, 3, 2]);
        assert_eq!(apply(typical(0.5, 1).as_mut(), &[]).0.len(), 0);
        assert_eq!(typical(1.0, 1).name(), c"?typical");
    }

    #[test]
    fn impossible_candidates_do_no_harm() {
        let (data, _) = apply(typical(0.5, 1).as_mut(), &[1.0, f32::NEG_INFINITY, 0.5]);
        assert!(!data.is_empty());
    }
}
