//! Dynamic temperature by entropy (<https://arxiv.org/abs/2309.02772>).

use std::ffi::CStr;

use super::disabled::disabled;
use super::temp::scale;
use super::{Candidates, RowUse, Sampler, TokenData};
use crate::backend::sample::Step;

struct TempExt {
    temp: f32,
    delta: f32,
    exponent: f32,
    scratch: Vec<TokenData>,
}

/// Divides the logits by a temperature between `temp - delta` and `temp + delta`, the higher the more uncertain the
/// model is: the entropy, relative to its maximum, to the power of `exponent`. Sorts, and computes `p`. With `delta` 0
/// or less it is [`temp`](super::temp()).
pub fn temp_ext(temp: f32, delta: f32, exponent: f32) -> Box<dyn Sampler> {
    if temp == 1.0 && delta <= 0.0 {
        return disabled(c"?temp-ext");
    }
    Box::new(TempExt { temp, delta, exponent, scratch: Vec::new() })
}

impl TempExt {
    /// The temperature for candidates whose `p` is computed.
    fn dynamic_temp(&self, data: &[TokenData]) -> f32 {
        let entropy = data.iter().filter(|c| c.p > 0.0).fold(0.0f32, |entropy, c| entropy - c.p * c.p.ln());
        let max_entropy = -(1.0 / data.len() as f32).ln();
        let min_temp = if self.temp - self.delta > 0.0 { self.temp - self.delta } else { 0.0 };
        let max_temp = self.temp + self.delta;
        min_temp + (max_temp - min_temp) * (entropy / max_entropy).powf(self.exponent)
    }
}

impl Sampler for TempExt {
    fn name(&self) -> &'static CStr {
        c"temp-ext"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        if self.delta <= 0.0 || self.delta.is_nan() {
            return scale(candidates, self.temp);
        }
        if candidates.size() <= 1 {
            return;
        }
        candidates.sort(&mut self.scratch);
        candidates.softmax();
        let temp = self.dynamic_temp(candidates.data);
        scale(candidates, temp);

        let max = f64::from(candidates.data[0].logit);
        let mut sum = 0.0f64;
        for c in candidates.data.iter_mut() {
            let p = (f64::from(c.logit) - max).exp();
            c.p = p as f32;
            sum += p;
        }
        for c in candidates.data.iter_mut() {
            c.p = (f64::from(c.p) / sum) as f32;
        }
    }

    fn attach(&mut self, _n_outputs_max: usize) -> Option<RowUse> {
        Some(if self.temp <= 0.0 { RowUse::Best } else { RowUse::Mask })
    }

    fn step(&self, _n_before: usize) -> Option<Step> {
        let fixed = self.delta <= 0.0 || self.delta.is_nan();
        match self.temp {
            temp if temp <= 0.0 => Some(Step::Best),
            temp => fixed.then_some(Step::Scale(temp)),
        }
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        temp_ext(self.temp, self.delta, self.exponent)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, logits_of};
    use super::*;

    #[test]
    fn uniform_candidates_get_the_highest_temperature() {
        let (data, _) = apply(temp_ext(1.0, 0.5, 1.0).as_mut(), &[3.0; 4]);
        for c in data {
            assert!((c.logit - 2.0).abs() < 1e-5 && (c.p - 0.25).abs() < 1e-6);
        }
    }

    #[test]
    fn certain_candidates_get_the_lowest() {
        let (data, _) = apply(temp_ext(1.0, 1.0, 1.0).as_mut(), &[50.0, 0.0]);
        assert!(data[0].p > 0.999);
        let (data, _) = apply(temp_ext(0.5, 0.0, 1.0).as_mut(), &logits_of(&[0.5, 0.5]));
        assert!((data[0].logit - 2.0 * 0.5f32.ln()).abs() < 1e-6);
        assert_eq!(temp_ext(1.0, 0.0, 1.0).name(), c"?temp-ext");
    }
}
