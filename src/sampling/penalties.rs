//! Penalties for tokens that occurred before: repetition, frequency, presence.

use std::collections::VecDeque;
use std::ffi::CStr;

use super::by_token::ByToken;
use super::disabled::disabled;
use super::{Candidates, RowUse, Sampler, Token, TokenData};

/// How [`penalties`] lowers the logits of recent tokens.
#[derive(Clone, Copy, Debug)]
pub struct PenaltyParams {
    /// How many of the last accepted tokens count; 0 or less switches the sampler off.
    pub last_n: i32,
    /// Divides positive logits and multiplies others; 1 changes nothing.
    pub repeat: f32,
    /// Subtracted once per occurrence; 0 changes nothing.
    pub freq: f32,
    /// Subtracted once; 0 changes nothing.
    pub present: f32,
}

#[derive(Clone)]
struct Penalties {
    params: PenaltyParams,
    last_n: usize,
    /// The last accepted tokens, oldest first. Grows with use: a caller may ask for a window of billions.
    history: VecDeque<Token>,
    /// How often each token is in the history.
    counts: ByToken<u32>,
}

/// Lowers the logits of the tokens among the last accepted ones. Cheap on a vocabulary in order; on other candidates
/// it looks every one of them up.
pub fn penalties(params: PenaltyParams) -> Box<dyn Sampler> {
    let last_n = usize::try_from(params.last_n).unwrap_or(0);
    if last_n == 0 || (params.repeat == 1.0 && params.freq == 0.0 && params.present == 0.0) {
        return disabled(c"?penalties");
    }
    Box::new(Penalties { params, last_n, history: VecDeque::new(), counts: ByToken::new() })
}

impl PenaltyParams {
    fn penalize(&self, c: &mut TokenData, count: u32) {
        // Dividing a negative logit would make the token more likely.
        if c.logit <= 0.0 {
            c.logit *= self.repeat;
        } else {
            c.logit /= self.repeat;
        }
        c.logit -= count as f32 * self.freq + self.present;
    }
}

impl Penalties {
    fn forget_oldest(&mut self) {
        let Some(oldest) = self.history.pop_front() else { return };
        let Ok(i) = self.counts.find(oldest) else { return };
        let count = &mut self.counts.entries[i].1;
        *count -= 1;
        if *count == 0 {
            self.counts.entries.remove(i);
        }
    }
}

impl Sampler for Penalties {
    fn name(&self) -> &'static CStr {
        c"penalties"
    }

    fn accept(&mut self, token: Token) {
        match self.counts.find(token) {
            Ok(i) => self.counts.entries[i].1 += 1,
            Err(i) => self.counts.entries.insert(i, (token, 1)),
        }
        self.history.push_back(token);
        if self.history.len() > self.last_n {
            self.forget_oldest();
        }
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        let params = self.params;
        self.counts.for_candidates(candidates, |c, count| params.penalize(c, count));
        candidates.sorted = false;
    }

    fn reset(&mut self) {
        self.history.clear();
        self.counts.entries.clear();
    }

    fn attach(&mut self, n_outputs_max: usize) -> Option<RowUse> {
        // What is accepted between two rows of a batch would have to count for the second.
        (n_outputs_max <= 1).then_some(RowUse::Mask)
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::apply;
    use super::*;

    fn logits(sampler: &mut dyn Sampler, logits: &[f32]) -> Vec<f32> {
        apply(sampler, logits).0.iter().map(|c| c.logit).collect()
    }

    #[test]
    fn repetition_moves_every_logit_down() {
        let mut s = penalties(PenaltyParams { last_n: 8, repeat: 2.0, freq: 0.0, present: 0.0 });
        s.accept(0);
        s.accept(1);
        assert_eq!(logits(s.as_mut(), &[4.0, -4.0, 4.0]), [2.0, -8.0, 4.0]);
    }

    #[test]
    fn frequency_counts_and_presence_does_not() {
        let mut s = penalties(PenaltyParams { last_n: 8, repeat: 1.0, freq: 0.5, present: 2.0 });
        for token in [0, 0, 0, 2] {
            s.accept(token);
        }
        assert_eq!(logits(s.as_mut(), &[1.0, 1.0, 1.0]), [-2.5, 1.0, -1.5]);
        s.reset();
        assert_eq!(logits(s.as_mut(), &[1.0, 1.0, 1.0]), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn only_the_window_counts() {
        let mut s = penalties(PenaltyParams { last_n: 2, repeat: 1.0, freq: 1.0, present: 0.0 });
        for token in [0, 1, 1, 2] {
            s.accept(token);
        }
        assert_eq!(logits(s.clone().as_mut(), &[0.0; 4]), [0.0, -1.0, -1.0, 0.0]);
    }

    #[test]
    fn candidates_out_of_order_are_found() {
        let mut s = penalties(PenaltyParams { last_n: i32::MAX, repeat: 1.0, freq: 1.0, present: 0.0 });
        s.accept(5);
        s.accept(-7);
        let mut buf = [TokenData { id: 9, ..Default::default() }, TokenData { id: 5, ..Default::default() }];
        s.apply(&mut Candidates { data: &mut buf, selected: -1, sorted: true });
        assert_eq!((buf[0].logit, buf[1].logit), (0.0, -1.0));
    }

    #[test]
    fn neutral_parameters_disable() {
        let p = PenaltyParams { last_n: 64, repeat: 1.0, freq: 0.0, present: 0.0 };
        assert_eq!(penalties(p).name(), c"?penalties");
        assert_eq!(penalties(PenaltyParams { last_n: -1, repeat: 2.0, ..p }).name(), c"?penalties");
    }
}
