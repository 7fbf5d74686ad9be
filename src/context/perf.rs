//! Counters of a context: what `llama_perf_context` reports.

use std::time::{Duration, Instant};

/// Times and numbers of tokens since the start or the last reset.
#[derive(Debug, Clone)]
pub struct Perf {
    /// When counting began.
    pub start: Instant,
    /// Loading the model.
    pub load: Duration,
    /// Batches of several tokens.
    pub p_eval: Duration,
    /// Single tokens.
    pub eval: Duration,
    /// Tokens in batches of several.
    pub n_p_eval: u32,
    /// Single tokens.
    pub n_eval: u32,
    /// How often a plan served again.
    pub n_reused: u32,
    off: bool,
}

impl Perf {
    /// Zeroed counters; with `off` they stay so.
    pub fn new(load: Duration, off: bool) -> Perf {
        let zero = Duration::ZERO;
        Perf { start: Instant::now(), load, p_eval: zero, eval: zero, n_p_eval: 0, n_eval: 0, n_reused: 0, off }
    }

    /// Adds a batch.
    pub fn add(&mut self, n_tokens: usize, time: Duration) {
        if self.off {
            return;
        }
        if n_tokens == 1 {
            self.eval += time;
            self.n_eval += 1;
        } else {
            self.p_eval += time;
            self.n_p_eval += n_tokens as u32;
        }
    }

    /// Zeroes the counters.
    pub fn reset(&mut self) {
        *self = Perf::new(self.load, self.off);
    }
}
