//! Choosing the next token from a model's logits: samplers, chains of samplers, and the seeded random numbers they draw.
//! `capi::sampler` wraps every sampler of this module for C; the engine and Rust callers build them with the functions
//! re-exported here, one file per sampler.
//!
//! Seeded results equal llama.cpp's for the same logits and seed. That fixes more than the formulas: the order of every
//! floating-point sum, where a value is `f32` and where `f64`, how many random numbers a step draws, and the order in
//! which equal logits are left by sorting ([`sort`]).

mod adaptive_p;
mod by_token;
mod chain;
mod disabled;
mod dist;
mod dry;
pub mod grammar;
mod greedy;
mod infill;
mod logit_bias;
mod min_p;
mod mirostat;
mod mirostat_v2;
mod penalties;
pub mod rng;
pub mod row;
pub mod sort;
mod temp;
mod temp_ext;
mod top_k;
mod top_n_sigma;
mod top_p;
mod typical;
mod xtc;

use std::ffi::CStr;

use crate::Error;
use crate::backend::sample::Step;

pub use adaptive_p::adaptive_p;
pub use chain::Chain;
pub use dist::dist;
pub use dry::{DryParams, dry, dry_breakers};
pub use grammar::{Triggers, grammar, no_grammar};
pub use greedy::greedy;
pub use infill::infill;
pub use logit_bias::{LogitBias, logit_bias};
pub use min_p::min_p;
pub use mirostat::{MirostatParams, mirostat};
pub use mirostat_v2::mirostat_v2;
pub use penalties::{PenaltyParams, penalties};
pub use row::{AttachedChain, Row, RowSampler, RowUse};
pub use temp::temp;
pub use temp_ext::temp_ext;
pub use top_k::top_k;
pub use top_n_sigma::top_n_sigma;
pub use top_p::top_p;
pub use typical::typical;
pub use xtc::xtc;

/// A token id of a vocabulary; negative ids name no token.
pub type Token = i32;

/// The seed that asks for a random one.
pub const DEFAULT_SEED: u32 = u32::MAX;

/// A token that may come next. Laid out as llama.h's `llama_token_data`, so that arrays cross the border uncopied.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenData {
    /// The token.
    pub id: Token,
    /// Its score, in natural-log units up to a constant common to all candidates.
    pub logit: f32,
    /// Its probability; meaningful only after a sampler has computed it.
    pub p: f32,
}

const _: () = assert!(size_of::<TokenData>() == 12);

/// The tokens still in question, as one sampler hands them to the next.
#[derive(Debug)]
pub struct Candidates<'a> {
    /// The candidates. Samplers drop some by shortening the slice from either end.
    pub data: &'a mut [TokenData],
    /// Index in `data` of the chosen candidate, or -1 while none is chosen.
    pub selected: i64,
    /// Whether `data` is known to be ordered by descending logit.
    pub sorted: bool,
}

/// A step from the model's logits to the next token: it changes, drops, orders or selects candidates.
///
/// Samplers have state (random numbers, past tokens) and belong to one sequence: one thread at a time.
pub trait Sampler: Send {
    /// Its name in llama.cpp; a leading `?` marks a sampler whose parameters make it do nothing.
    fn name(&self) -> &'static CStr;

    /// Takes note that `token` was chosen. Most samplers do not care.
    fn accept(&mut self, _token: Token) {}

    /// Works on the candidates.
    fn apply(&mut self, candidates: &mut Candidates<'_>);

    /// Goes back to the state after construction; a fixed seed starts its sequence again.
    fn reset(&mut self) {}

    /// A copy with its own state; all but [`adaptive_p`] go on with the same random numbers.
    fn clone_box(&self) -> Box<dyn Sampler>;

    /// The seed in use, for the samplers that report one.
    fn seed(&self) -> Option<u32> {
        None
    }

    /// Prepares for rows of logits while batches are computed, `n_outputs_max` of a batch at most. Returns what the sampler
    /// does to a row; `None` if it only works afterwards.
    fn attach(&mut self, _n_outputs_max: usize) -> Option<RowUse> {
        None
    }

    /// A batch begins, on whose rows the sampler is to work.
    fn begin_batch(&mut self) {}

    /// As `apply`, on a row.
    fn apply_row(&mut self, candidates: &mut Candidates<'_>) {
        self.apply(candidates);
    }

    /// What `apply_row` would do to the row after the next `n_before`, where a device can do it. Nothing is drawn by asking.
    fn step(&self, _n_before: usize) -> Option<Step> {
        None
    }

    /// A device did the step of the next row: what `apply_row` draws counts as drawn.
    fn pass_row(&mut self) {}

    /// Why the last call of `accept` or `apply` could not be done, once.
    fn take_error(&mut self) -> Option<Error> {
        None
    }
}

impl Clone for Box<dyn Sampler> {
    fn clone(&self) -> Self {
        self.as_ref().clone_box()
    }
}

impl<'a> Candidates<'a> {
    /// All of `data`, unsorted, nothing selected.
    pub fn new(data: &'a mut [TokenData]) -> Self {
        Candidates { data, selected: -1, sorted: false }
    }

    /// The number of candidates.
    pub fn size(&self) -> usize {
        self.data.len()
    }

    /// Keeps the first `n` candidates, or all if there are fewer.
    pub fn truncate(&mut self, n: usize) {
        let data = std::mem::take(&mut self.data);
        let n = n.min(data.len());
        self.data = &mut data[..n];
    }

    /// Drops the first `n` candidates, or all if there are fewer.
    pub fn skip(&mut self, n: usize) {
        let data = std::mem::take(&mut self.data);
        let n = n.min(data.len());
        self.data = &mut data[n..];
    }

    /// Orders by descending logit unless that is done. `scratch` is memory kept between calls.
    pub fn sort(&mut self, scratch: &mut Vec<TokenData>) {
        if !self.sorted {
            self.keep_top(self.size(), scratch);
        }
    }

    /// Keeps the `k` candidates with the highest logits, in descending order; all of them if there are fewer.
    pub fn top_k(&mut self, k: usize, scratch: &mut Vec<TokenData>) {
        if self.sorted {
            self.truncate(k);
        } else {
            self.keep_top(k.min(self.size()), scratch);
        }
    }

    /// Computes `p` of every candidate.
    pub fn softmax(&mut self) {
        let max = self.max_logit();
        let mut sum = 0.0f32;
        for c in self.data.iter_mut() {
            c.p = (c.logit - max).exp();
            sum += c.p;
        }
        for c in self.data.iter_mut() {
            c.p /= sum;
        }
    }

    /// The highest logit; 0 without candidates. Trusts `sorted`.
    fn max_logit(&self) -> f32 {
        let Some(first) = self.data.first() else { return 0.0 };
        if self.sorted {
            return first.logit;
        }
        self.data.iter().fold(first.logit, |max, c| if max < c.logit { c.logit } else { max })
    }

    fn keep_top(&mut self, k: usize, scratch: &mut Vec<TokenData>) {
        // Up to here a heap of k is faster than buckets; where the switch lies also decides the order of equal logits.
        const HEAP_MAX: usize = 128;
        if k <= HEAP_MAX {
            sort::partial_sort(self.data, k, sort::by_logit);
        } else {
            sort::top_by_buckets(self.data, k, scratch);
            self.data[..k].copy_from_slice(&scratch[..k]);
        }
        self.truncate(k);
        self.sorted = true;
    }
}

/// Makes `buf` the candidates for a whole vocabulary: entry `i` is token `i` with `logits[i]`.
pub fn fill(buf: &mut Vec<TokenData>, logits: &[f32]) {
    buf.clear();
    buf.extend(logits.iter().zip(0..).map(|(&logit, id)| TokenData { id, logit, p: 0.0 }));
}

/// Applies `sampler` to a whole vocabulary's logits and has it accept the token it chose. `buf` is memory kept between
/// calls. None if the sampler selects no token, as a chain without a final `greedy` or `dist` does.
pub fn sample(sampler: &mut dyn Sampler, logits: &[f32], buf: &mut Vec<TokenData>) -> Option<Token> {
    fill(buf, logits);
    let mut candidates = Candidates::new(buf);
    sampler.apply(&mut candidates);
    let selected = usize::try_from(candidates.selected).ok()?;
    let token = candidates.data.get(selected)?.id;
    sampler.accept(token);
    Some(token)
}

#[cfg(test)]
pub(crate) mod testing {
    //! Short ways to build candidates and to read them back, for the unit tests of every sampler.
    use super::*;

    /// Candidates 0, 1, 2, ... with these logits.
    pub fn vocabulary(logits: &[f32]) -> Vec<TokenData> {
        let mut buf = Vec::new();
        fill(&mut buf, logits);
        buf
    }

    /// Natural logarithms of `probs`, so that softmax gives them back.
    pub fn logits_of(probs: &[f32]) -> Vec<f32> {
        probs.iter().map(|p| p.ln()).collect()
    }

    /// Applies `sampler` to fresh candidates; returns what is left and the index selected.
    pub fn apply(sampler: &mut dyn Sampler, logits: &[f32]) -> (Vec<TokenData>, i64) {
        let mut buf = vocabulary(logits);
        let mut candidates = Candidates::new(&mut buf);
        sampler.apply(&mut candidates);
        (candidates.data.to_vec(), candidates.selected)
    }

    /// The ids in order.
    pub fn ids(data: &[TokenData]) -> Vec<Token> {
        data.iter().map(|c| c.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    #[test]
    fn softmax_sums_to_one_and_keeps_ratios() {
        let mut buf = vocabulary(&logits_of(&[0.5, 0.25, 0.25]));
        let mut candidates = Candidates::new(&mut buf);
        candidates.softmax();
        for (c, expected) in candidates.data.iter().zip([0.5, 0.25, 0.25]) {
            assert!((c.p - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn nothing_to_do_is_no_harm() {
        let mut scratch = Vec::new();
        let mut candidates = Candidates::new(&mut []);
        candidates.softmax();
        candidates.sort(&mut scratch);
        candidates.top_k(3, &mut scratch);
        assert_eq!(candidates.size(), 0);
    }

    #[test]
    fn sample_returns_the_selected_token() {
        let mut buf = Vec::new();
        assert_eq!(sample(greedy().as_mut(), &[0.0, 3.0, 1.0], &mut buf), Some(1));
        assert_eq!(sample(top_k(1).as_mut(), &[0.0, 3.0, 1.0], &mut buf), None);
        assert_eq!(sample(greedy().as_mut(), &[], &mut buf), None);
    }
}
