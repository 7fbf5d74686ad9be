//! A chain applies samplers one after another and is a sampler itself. Rust callers build it; the C border has a chain
//! of its own because it also holds samplers written in C.

use std::ffi::CStr;

use super::{Candidates, Sampler, Token};
use crate::Error;

/// Samplers in the order of application. End it with one that selects a token, such as [`greedy`](super::greedy()).
#[derive(Clone, Default)]
pub struct Chain {
    /// First to last.
    pub samplers: Vec<Box<dyn Sampler>>,
}

impl Chain {
    /// A chain of these samplers.
    pub fn new(samplers: Vec<Box<dyn Sampler>>) -> Self {
        Chain { samplers }
    }
}

impl Sampler for Chain {
    fn name(&self) -> &'static CStr {
        c"chain"
    }

    fn accept(&mut self, token: Token) {
        self.samplers.iter_mut().for_each(|s| s.accept(token));
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        self.samplers.iter_mut().for_each(|s| s.apply(candidates));
    }

    fn reset(&mut self) {
        self.samplers.iter_mut().for_each(|s| s.reset());
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        Box::new(self.clone())
    }

    fn seed(&self) -> Option<u32> {
        self.samplers.iter().rev().find_map(|s| s.seed())
    }

    fn take_error(&mut self) -> Option<Error> {
        self.samplers.iter_mut().find_map(|s| s.take_error())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::apply;
    use super::super::{dist, greedy, top_k};
    use super::*;

    #[test]
    fn applies_in_order() {
        let mut chain = Chain::new(vec![top_k(2), greedy()]);
        let (data, selected) = apply(&mut chain, &[1.0, 2.0, 3.0]);
        assert_eq!((data.len(), selected), (2, 0));
        assert_eq!(chain.seed(), None);
        let chain = Chain::new(vec![dist(4), dist(5), greedy()]);
        assert_eq!(chain.clone().seed(), Some(5));
    }
}
