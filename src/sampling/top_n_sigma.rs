//! Top-nσ: keeps the logits within n standard deviations of the highest (Tang et al.,
//! <https://arxiv.org/abs/2411.07641>).

use std::ffi::CStr;

use super::disabled::disabled;
use super::{Candidates, Sampler};

struct TopNSigma {
    n: f32,
}

/// Makes the logits impossible (-infinity) that are more than `n` standard deviations of all possible ones under the
/// highest. Does nothing if `n` is not positive.
pub fn top_n_sigma(n: f32) -> Box<dyn Sampler> {
    if n <= 0.0 {
        return disabled(c"?top-n-sigma");
    }
    Box::new(TopNSigma { n })
}

impl Sampler for TopNSigma {
    fn name(&self) -> &'static CStr {
        c"top-n-sigma"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        if candidates.size() <= 1 {
            return;
        }
        let possible = || candidates.data.iter().map(|c| c.logit).filter(|&logit| logit != f32::NEG_INFINITY);
        let count = possible().count() as f32;
        if count == 0.0 {
            return;
        }
        let max = possible().fold(candidates.data[0].logit, |max, logit| if max < logit { logit } else { max });
        let mean = possible().fold(0.0f32, |sum, logit| sum + logit) / count;
        let squares = possible().fold(0.0f32, |sum, logit| {
            let distance = f64::from(logit - mean);
            (f64::from(sum) + distance * distance) as f32
        });
        let min = max - self.n * (squares / count).sqrt();
        for c in candidates.data.iter_mut().filter(|c| c.logit < min) {
            c.logit = f32::NEG_INFINITY;
        }
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        top_n_sigma(self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::apply;
    use super::*;

    #[test]
    fn keeps_what_is_near_the_top() {
        // Mean 0, standard deviation 2.
        let logits = [2.0, -2.0, 2.0, -2.0];
        let left = |n| -> Vec<f32> { apply(top_n_sigma(n).as_mut(), &logits).0.iter().map(|c| c.logit).collect() };
        assert_eq!(left(1.0), [2.0, f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY]);
        assert_eq!(left(2.0), logits);
        assert_eq!(left(0.0), logits);
        let (data, _) = apply(top_n_sigma(1.0).as_mut(), &[f32::NEG_INFINITY; 3]);
        assert_eq!(data.len(), 3);
    }
}
