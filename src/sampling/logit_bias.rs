//! Logit bias: adds a constant to the logits of chosen tokens.

use std::ffi::CStr;

use super::by_token::ByToken;
use super::disabled::disabled;
use super::{Candidates, RowUse, Sampler, Token};

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

#[derive(Clone)]
struct Bias {
    biases: ByToken<f32>,
}

/// Adds each bias to its token's logit. Several biases of one token add up while the candidates are in vocabulary
/// order; later only the first counts. Does nothing without biases.
pub fn logit_bias(biases: &[LogitBias]) -> Box<dyn Sampler> {
    if biases.is_empty() {
        return disabled(c"?logit-bias");
    }
    let mut by_token = ByToken::new();
    by_token.entries.extend(biases.iter().map(|b| (b.token, b.bias)));
    // A stable sort: the biases of one token are added in the order given.
    by_token.entries.sort_by_key(|e| e.0);
    Box::new(Bias { biases: by_token })
}

impl Sampler for Bias {
    fn name(&self) -> &'static CStr {
        c"logit-bias"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        self.biases.for_candidates(candidates, |c, bias| c.logit += bias);
    }

    fn attach(&mut self, _n_outputs_max: usize) -> Option<RowUse> {
        Some(RowUse::Mask)
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        Box::new(self.clone())
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
