//! Logit bias: adds a constant to the logits of chosen tokens.

use std::ffi::CStr;

use super::disabled::disabled;
use super::{Candidates, Sampler, Token};

/// What to add to one token's logit. Laid out as llama.h's `llama_logit_bias`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitBias {
    /// The token.
    pub token: Token,
    /// What to add; -infinity bans the token.
    pub bias: f32,
}

const _: () = assert!(size_of::<LogitBias>() == 8);

struct Bias {
    /// By token; several for one token in the order given.
    biases: Vec<LogitBias>,
    /// Those whose token is not at its own index, for one call.
    to_search: Vec<LogitBias>,
}

/// Adds each bias to its token's logit. Several biases of one token add up while the candidates are in vocabulary
/// order; later only the first counts. Does nothing without biases.
pub fn logit_bias(biases: &[LogitBias]) -> Box<dyn Sampler> {
    if biases.is_empty() {
        return disabled(c"?logit-bias");
    }
    let mut biases = biases.to_vec();
    biases.sort_by_key(|b| b.token);
    Box::new(Bias { biases, to_search: Vec::new() })
}

impl Sampler for Bias {
    fn name(&self) -> &'static CStr {
        c"logit-bias"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        self.to_search.clear();
        for b in &self.biases {
            match candidates.at_own_index(b.token) {
                Some(c) => c.logit += b.bias,
                None => self.to_search.push(*b),
            }
        }
        self.to_search.dedup_by_key(|b| b.token);
        if self.to_search.is_empty() {
            return;
        }
        for c in candidates.data.iter_mut() {
            if let Ok(i) = self.to_search.binary_search_by_key(&c.id, |b| b.token) {
                c.logit += self.to_search[i].bias;
            }
        }
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        logit_bias(&self.biases)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::vocabulary;
    use super::*;

    #[test]
    fn finds_tokens_in_any_order() {
        let b = |token, bias| LogitBias { token, bias };
        let mut sampler = logit_bias(&[b(3, 1.0), b(0, -1.0), b(0, -2.0), b(-5, 9.0), b(77, 9.0)]);
        let mut buf = vocabulary(&[0.0; 4]);
        sampler.apply(&mut Candidates::new(&mut buf));
        assert_eq!(buf.iter().map(|c| c.logit).collect::<Vec<_>>(), [-3.0, 0.0, 0.0, 1.0]);

        let mut buf = vocabulary(&[0.0; 4]);
        buf.swap(0, 3);
        sampler.clone().apply(&mut Candidates::new(&mut buf));
        assert_eq!(buf.iter().map(|c| c.logit).collect::<Vec<_>>(), [1.0, 0.0, 0.0, -1.0]);
        assert_eq!(logit_bias(&[]).name(), c"?logit-bias");
    }
}
