//! Dist: draws a candidate by its probability.

use std::ffi::CStr;

use super::rng::{Mt19937, Seeded};
use super::{Candidates, RowUse, Sampler, Token};
use crate::backend::sample::Step;

#[derive(Clone)]
struct Dist {
    seeded: Seeded,
    ahead: Option<Ahead>,
}

/// Random numbers for several rows of a batch: only those count that are accepted afterwards.
#[derive(Clone)]
struct Ahead {
    rng: Mt19937,
    n_drawn: usize,
    n_accepted: usize,
}

/// Selects a candidate at random, by the softmax of the logits, and computes `p` of all. [`DEFAULT_SEED`] asks for a
/// random seed.
///
/// [`DEFAULT_SEED`]: super::DEFAULT_SEED
pub fn dist(seed: u32) -> Box<dyn Sampler> {
    Box::new(Dist { seeded: Seeded::new(seed), ahead: None })
}

impl Sampler for Dist {
    fn name(&self) -> &'static CStr {
        c"dist"
    }

    fn accept(&mut self, _token: Token) {
        if let Some(ahead) = self.ahead.as_mut().filter(|ahead| ahead.n_accepted < ahead.n_drawn) {
            self.seeded.rng.uniform_f64();
            ahead.n_accepted += 1;
        }
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        if candidates.data.is_empty() {
            candidates.selected = -1;
        } else {
            // One number per token, even where there is no choice: a sequence's draws stay aligned with its positions.
            let random = self.seeded.rng.uniform_f64();
            select(candidates, random);
        }
    }

    fn attach(&mut self, n_outputs_max: usize) -> Option<RowUse> {
        let ahead = || Ahead { rng: self.seeded.rng.clone(), n_drawn: 0, n_accepted: 0 };
        self.ahead = (n_outputs_max > 1).then(ahead);
        Some(RowUse::Draw)
    }

    fn begin_batch(&mut self) {
        if let Some(ahead) = &mut self.ahead {
            *ahead = Ahead { rng: self.seeded.rng.clone(), n_drawn: 0, n_accepted: 0 };
        }
    }

    fn apply_row(&mut self, candidates: &mut Candidates<'_>) {
        let Some(ahead) = &mut self.ahead else { return self.apply(candidates) };
        ahead.n_drawn += 1;
        let random = ahead.rng.uniform_f64();
        select(candidates, random);
    }

    fn step(&self, n_before: usize) -> Option<Step> {
        let mut rng = self.ahead.as_ref().map_or(&self.seeded.rng, |ahead| &ahead.rng).clone();
        for _ in 0..n_before {
            rng.uniform_f64();
        }
        Some(Step::Draw(rng.uniform_f64()))
    }

    fn pass_row(&mut self) {
        match &mut self.ahead {
            None => _ = self.seeded.rng.uniform_f64(),
            Some(ahead) => {
                ahead.n_drawn += 1;
                ahead.rng.uniform_f64();
            }
        }
    }

    fn reset(&mut self) {
        self.seeded.reset();
        self.begin_batch();
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        Box::new(self.clone())
    }

    fn seed(&self) -> Option<u32> {
        Some(self.seeded.current())
    }
}

/// Dist with a number that is drawn already.
#[derive(Clone)]
struct Drawn(f64);

/// Selects the candidate at which the probabilities sum to `random`, as [`dist`] does once it has drawn that.
pub(super) fn drawn(random: f64) -> Box<dyn Sampler> {
    Box::new(Drawn(random))
}

impl Sampler for Drawn {
    fn name(&self) -> &'static CStr {
        c"dist"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        select(candidates, self.0);
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        Box::new(self.clone())
    }
}

/// Selects the candidate at which the probabilities sum to `random`, and computes `p` of all.
fn select(candidates: &mut Candidates<'_>, random: f64) {
    if candidates.data.is_empty() {
        candidates.selected = -1;
        return;
    }
    if let [only] = &mut *candidates.data {
        only.p = 1.0;
        candidates.selected = 0;
        return;
    }
    let max = candidates.max_logit();
    let mut sum = 0.0f64;
    for c in candidates.data.iter_mut() {
        c.p = (c.logit - max).exp();
        sum += f64::from(c.p);
    }
    let target = sum * random;
    let mut running = 0.0f64;
    // NaN logits never reach the target: the last candidate is as good as any.
    let mut selected = candidates.data.len() - 1;
    for (i, c) in candidates.data.iter().enumerate() {
        running += f64::from(c.p);
        if running >= target {
            selected = i;
            break;
        }
    }
    for c in candidates.data.iter_mut() {
        c.p = (f64::from(c.p) / sum) as f32;
    }
    candidates.selected = selected as i64;
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, logits_of};
    use super::*;

    #[test]
    fn follows_the_probabilities() {
        let logits = logits_of(&[0.1, 0.6, 0.3]);
        let mut sampler = dist(42);
        let mut count = [0usize; 3];
        for _ in 0..10_000 {
            let (data, selected) = apply(sampler.as_mut(), &logits);
            count[selected as usize] += 1;
            assert!((data[1].p - 0.6).abs() < 1e-6);
        }
        assert!((900..1100).contains(&count[0]) && (5800..6200).contains(&count[1]), "{count:?}");
    }

    #[test]
    fn reset_and_clone_continue_as_documented() {
        let logits = [0.0; 50];
        let mut a = dist(9);
        let draw = |s: &mut Box<dyn Sampler>| -> Vec<i64> { (0..20).map(|_| apply(s.as_mut(), &logits).1).collect() };
        let first = draw(&mut a);
        let mut b = a.clone();
        assert_eq!(draw(&mut a), draw(&mut b));
        a.reset();
        assert_eq!(draw(&mut a), first);
        assert_eq!(a.seed(), Some(9));
    }

    #[test]
    fn odd_candidates_select_something() {
        assert_eq!(apply(dist(1).as_mut(), &[]).1, -1);
        assert_eq!(apply(dist(1).as_mut(), &[f32::NAN, 1.0, 2.0]).1, 2);
        let (data, selected) = apply(dist(1).as_mut(), &[-3.0]);
        assert_eq!((data[0].p, selected), (1.0, 0));
    }
}
