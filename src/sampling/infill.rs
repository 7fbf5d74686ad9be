//! Infill: chooses between going on and stopping when a gap in a text is filled.

use std::ffi::CStr;
use std::sync::Arc;

use super::{Candidates, Sampler, Token, TokenData};
use crate::Error;
use crate::vocab::{TOKEN_NULL, Vocab};

/// Candidates less likely than this are dropped once those with a common beginning are joined.
const MIN_P: f32 = 0.2;

struct Infill {
    vocab: Arc<Vocab>,
    scratch: Vec<TokenData>,
    error: Option<Error>,
}

/// Keeps the tokens that end a generation if they are likely enough, compared with the number of candidates. Otherwise
/// joins candidates of which one is the beginning of another and drops the unlikely ones; if nothing but ends is left, it
/// leaves the end of the turn, or else of the text. To be used after top-k and top-p.
pub fn infill(vocab: Arc<Vocab>) -> Box<dyn Sampler> {
    Box::new(Infill { vocab, scratch: Vec::new(), error: None })
}

impl Infill {
    /// Drops unlikely candidates that do not end the generation. Returns what the probabilities of the others sum to, and
    /// how many of them do not end it.
    fn drop_unlikely(&self, candidates: &mut Candidates<'_>, min_p: f32) -> (f32, usize) {
        let (mut n, mut sum, mut n_text) = (0, 0.0, 0);
        for i in 0..candidates.size() {
            let c = candidates.data[i];
            let is_eog = self.vocab.is_eog(c.id);
            if c.p < min_p && !is_eog {
                continue;
            }
            n_text += usize::from(!is_eog);
            sum += c.p;
            candidates.data[n] = c;
            n += 1;
        }
        candidates.truncate(n);
        (sum, n_text)
    }

    /// Joins candidates of which one is the beginning of another into the likelier one.
    fn join(&self, data: &mut [TokenData]) {
        let mut by_piece: Vec<(&[u8], usize)> = (0..data.len()).map(|i| (self.piece(data[i].id), i)).collect();
        by_piece.sort_unstable();
        // The candidates that may begin with another's text stand together: what does not is never compared.
        let mut begins_so = Vec::new();
        for short in 0..data.len() {
            let piece = self.piece(data[short].id);
            if piece.is_empty() {
                continue;
            }
            let first = by_piece.partition_point(|(p, _)| *p < piece);
            begins_so.clear();
            begins_so.extend(by_piece[first..].iter().take_while(|(p, _)| p.starts_with(piece)).map(|(_, i)| *i));
            begins_so.sort_unstable();
            for &long in &begins_so {
                if data[short].logit == f32::NEG_INFINITY {
                    break;
                }
                if long == short || data[long].logit == f32::NEG_INFINITY {
                    continue;
                }
                let (to, from) = if data[long].p > data[short].p { (long, short) } else { (short, long) };
                data[to].p += data[from].p;
                data[from].logit = f32::NEG_INFINITY;
                data[from].p = 0.0;
            }
        }
    }

    /// Leaves the end of the turn, or else of the text, with the probability of the first candidate that is an end.
    fn end(&mut self, candidates: &mut Candidates<'_>) {
        let end = if self.vocab.eot() != TOKEN_NULL { self.vocab.eot() } else { self.vocab.eos() };
        if end == TOKEN_NULL {
            self.error = Some(Error::Unsupported("the vocabulary has no token that ends a turn or a text".into()));
            return;
        }
        let like = candidates.data.iter().position(|c| self.vocab.is_eog(c.id)).unwrap_or(0);
        candidates.skip(like);
        candidates.truncate(1);
        candidates.data.iter_mut().for_each(|c| *c = TokenData { id: end, logit: 1.0, ..*c });
    }

    fn piece(&self, token: Token) -> &[u8] {
        self.vocab.token_to_piece(token, 0, false).unwrap_or_default()
    }
}

fn divide(candidates: &mut Candidates<'_>, sum: f32) {
    candidates.data.iter_mut().for_each(|c| c.p /= sum);
}

impl Sampler for Infill {
    fn name(&self) -> &'static CStr {
        c"infill"
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        candidates.sort(&mut self.scratch);
        candidates.softmax();
        let (mut p_text, mut p_eog) = (0.0f32, 0.0f32);
        for c in candidates.data.iter() {
            *(if self.vocab.is_eog(c.id) { &mut p_eog } else { &mut p_text }) += c.p;
        }
        if 3.0 * p_eog * candidates.size() as f32 > p_text {
            let (sum, _) = self.drop_unlikely(candidates, f32::INFINITY);
            divide(candidates, sum);
            return;
        }
        self.join(candidates.data);
        if !candidates.data.iter().any(|c| c.p >= MIN_P && !self.vocab.is_eog(c.id)) {
            self.end(candidates);
            return;
        }
        let (sum, n_text) = self.drop_unlikely(candidates, MIN_P);
        divide(candidates, sum);
        let (sum, _) = self.drop_unlikely(candidates, (1.0 / (n_text as f64 + 1.0)) as f32);
        divide(candidates, sum);
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        infill(self.vocab.clone())
    }

    fn take_error(&mut self) -> Option<Error> {
        self.error.take()
    }
}
