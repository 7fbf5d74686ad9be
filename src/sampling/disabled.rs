//! What a sampler's constructor returns when the parameters make it do nothing: it keeps its place in a chain and shows
//! its name with a question mark.

use std::ffi::CStr;

use super::{Candidates, RowUse, Sampler};
use crate::backend::sample::Step;

struct Disabled(&'static CStr);

/// A sampler that leaves the candidates as they are.
pub(super) fn disabled(name: &'static CStr) -> Box<dyn Sampler> {
    Box::new(Disabled(name))
}

impl Sampler for Disabled {
    fn name(&self) -> &'static CStr {
        self.0
    }

    fn apply(&mut self, _candidates: &mut Candidates<'_>) {}

    fn attach(&mut self, _n_outputs_max: usize) -> Option<RowUse> {
        Some(RowUse::Mask)
    }

    fn step(&self, _n_before: usize) -> Option<Step> {
        Some(Step::Nothing)
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        disabled(self.0)
    }
}
