//! DRY, "don't repeat yourself": lowers the logits of tokens that would continue a sequence seen before
//! (<https://github.com/oobabooga/text-generation-webui/pull/5677>).

use std::collections::VecDeque;
use std::ffi::CStr;

use super::by_token::ByToken;
use super::disabled::disabled;
use super::{Candidates, Sampler, Token};
use crate::Result;
use crate::vocab::Vocab;

/// Parameters of [`dry`].
#[derive(Clone, Copy, Debug)]
pub struct DryParams {
    /// Scales the penalty; 0 switches the sampler off.
    pub multiplier: f32,
    /// The penalty grows by this factor with every token that is repeated; below 1 switches the sampler off.
    pub base: f32,
    /// Repetitions up to this many tokens cost nothing but the multiplier.
    pub allowed_length: i32,
    /// How many of the last accepted tokens are searched; 0 or less switches the sampler off.
    pub last_n: i32,
}

impl DryParams {
    /// Whether the sampler does anything.
    pub fn is_enabled(&self) -> bool {
        self.multiplier != 0.0 && self.base >= 1.0 && self.last_n > 0
    }
}

/// The most bytes of a breaker that count.
const MAX_BREAKER: usize = 40;
/// The most tokens that a breaker takes after its first.
const MAX_BREAKER_TAIL: usize = 20;

#[derive(Clone)]
struct Dry {
    params: DryParams,
    last_n: usize,
    /// Token sequences that end a repetition, in the order of their first tokens.
    breakers: Vec<Vec<Token>>,
    /// The last accepted tokens, latest first. Grows with use: a caller may ask for a window of billions.
    history: VecDeque<Token>,
    /// For each position in the history, how many tokens from there on equal the latest ones; for one call.
    repeats: Vec<usize>,
    /// How long a repetition each token would continue, for one call.
    lengths: ByToken<usize>,
}

/// Subtracts `multiplier * base^(n - allowed_length)` from the logit of each token that would make the last `n` tokens
/// and itself a repetition, for `n` of at least `allowed_length`. No repetition reaches over one of `breakers`, such as
/// the tokens of a newline; empty ones are ignored.
pub fn dry(params: DryParams, breakers: &[Vec<Token>]) -> Box<dyn Sampler> {
    if !params.is_enabled() {
        return disabled(c"?dry");
    }
    let last_n = params.last_n as usize;
    let mut breakers: Vec<_> = breakers.iter().filter(|b| !b.is_empty()).cloned().collect();
    breakers.sort();
    Box::new(Dry { params, last_n, breakers, history: VecDeque::new(), repeats: Vec::new(), lengths: ByToken::new() })
}

/// The sequences of tokens that these texts may come as, for [`dry`]: every token that has the text in it, and every one
/// that ends with its beginning, followed by the tokens of the rest.
///
/// # Errors
/// The vocabulary cannot tokenize the rest.
pub fn dry_breakers(vocab: &Vocab, texts: &[&[u8]]) -> Result<Vec<Vec<Token>>> {
    let texts: Vec<_> =
        texts.iter().map(|text| &text[..text.len().min(MAX_BREAKER)]).filter(|t| !t.is_empty()).collect();
    // By text, then by where the rest begins.
    let mut tails: Vec<Vec<Option<Vec<Token>>>> = texts.iter().map(|text| vec![None; text.len()]).collect();
    let mut breakers = Vec::new();
    for token in 0..vocab.n_tokens() as Token {
        let word = vocab.detokenize(&[token], false, true)?;
        let first = breakers.len();
        for (text, tails) in texts.iter().zip(&mut tails) {
            if memchr::memmem::find(&word, text).is_some() {
                breakers.push(vec![token]);
                continue;
            }
            for n in (1..text.len().min(word.len() + 1)).filter(|&n| word.ends_with(&text[..n])) {
                let tail = match &mut tails[n] {
                    Some(tail) => tail,
                    none => {
                        let mut tail = vocab.tokenize(&text[n..], false, false)?;
                        tail.truncate(MAX_BREAKER_TAIL);
                        none.insert(tail)
                    }
                };
                breakers.push([&[token], &tail[..]].concat());
            }
        }
        breakers[first..].sort();
    }
    breakers.dedup();
    Ok(breakers)
}

impl Dry {
    /// The breakers that start with `token`.
    fn breakers_of(&self, token: Token) -> &[Vec<Token>] {
        let start = self.breakers.partition_point(|b| b[0] < token);
        let end = self.breakers.partition_point(|b| b[0] <= token);
        &self.breakers[start..end]
    }

    /// How many of the latest tokens come after the last breaker.
    fn limit(&self) -> usize {
        for (i, &token) in self.history.iter().enumerate() {
            // A breaker that starts i tokens ago reads backwards in the history, which has the latest token first.
            let matches =
                |b: &&Vec<Token>| b.len() <= i + 1 && b.iter().zip((0..=i).rev()).all(|(t, k)| *t == self.history[k]);
            if let Some(longest) = self.breakers_of(token).iter().filter(matches).map(Vec::len).max() {
                return i + 1 - longest;
            }
        }
        self.history.len()
    }

    /// Fills `repeats`, no more than `limit` each, by the Z algorithm: linear, because what is known about the longest
    /// match so far is used again inside it.
    fn find_repeats(&mut self, limit: usize) {
        let (h, n) = (&self.history, self.history.len());
        let z = &mut self.repeats;
        z.clear();
        z.resize(n, 0);
        // The match that reaches furthest: h[left..end] equals h[..end - left].
        let (mut left, mut end) = (0, 0);
        for k in 1..n {
            if k < end && z[k - left] < end - k {
                z[k] = z[k - left];
                continue;
            }
            let mut e = end.max(k);
            while e < n && h[e] == h[e - k] {
                e += 1;
            }
            z[k] = (e - k).min(limit);
            if e > end {
                (left, end) = (k, e);
            }
        }
    }

    /// Fills `lengths` from `repeats`: a match at k would go on with the token after it, which is at k - 1.
    fn find_lengths(&mut self, allowed: i64) {
        let (history, entries) = (&self.history, &mut self.lengths.entries);
        entries.clear();
        let long = (1..history.len()).filter(|&k| self.repeats[k] as i64 >= allowed);
        entries.extend(long.map(|k| (history[k - 1], self.repeats[k])));
        // The longest first, which is the one that stays.
        entries.sort_unstable_by_key(|&(token, length)| (token, std::cmp::Reverse(length)));
        entries.dedup_by_key(|e| e.0);
    }
}

impl Sampler for Dry {
    fn name(&self) -> &'static CStr {
        c"dry"
    }

    fn accept(&mut self, token: Token) {
        self.history.push_front(token);
        self.history.truncate(self.last_n);
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        let allowed = i64::from(self.params.allowed_length);
        if self.history.len() as i64 <= allowed {
            return;
        }
        let limit = self.limit();
        if (limit as i64) < allowed {
            return;
        }
        self.find_repeats(limit);
        self.find_lengths(allowed);
        let mut lengths = std::mem::replace(&mut self.lengths, ByToken::new());
        lengths.entries.retain(|&(token, _)| self.breakers_of(token).iter().all(|b| b.len() > 1));

        // Beyond this exponent the power is no finite f32.
        const F32_MAX_LN: f32 = 88.722_84;
        let max_exponent = if self.params.base > 1.000_001 { (F32_MAX_LN / self.params.base.ln()) as i64 } else { 0 };
        let DryParams { multiplier, base, .. } = self.params;
        lengths.for_candidates(candidates, |c, length| {
            let exponent = length as i64 - allowed;
            let exponent = if max_exponent > 0 { exponent.min(max_exponent) } else { exponent };
            c.logit -= (f64::from(multiplier) * f64::from(base).powf(exponent as f64)) as f32;
        });
        self.lengths = lengths;
        candidates.sorted = false;
    }

    fn reset(&mut self) {
        self.history.clear();
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::apply;
    use super::*;

    const PARAMS: DryParams = DryParams { multiplier: 1.0, base: 2.0, allowed_length: 2, last_n: 64 };

    /// The penalties of tokens 0..n after `history`.
    fn penalties(params: DryParams, breakers: &[Vec<Token>], history: &[Token], n: usize) -> Vec<f32> {
        let mut sampler = dry(params, breakers);
        history.iter().for_each(|&t| sampler.accept(t));
        apply(sampler.as_mut(), &vec![0.0; n]).0.iter().map(|c| 0.0 - c.logit).collect()
    }

    /// The definition, without the clever search.
    fn expected(params: DryParams, history: &[Token], n: usize) -> Vec<f32> {
        let mut longest = vec![0usize; n];
        for end in 1..history.len() {
            let length = (0..end).take_while(|&i| history[end - 1 - i] == history[history.len() - 1 - i]).count();
            let next = history[end] as usize;
            longest[next] = longest[next].max(length);
        }
        let penalty = |&l: &usize| {
            let exponent = l as i32 - params.allowed_length;
            if exponent >= 0 { params.multiplier * params.base.powi(exponent) } else { 0.0 }
        };
        longest.iter().map(penalty).collect()
    }

    #[test]
    fn continuing_a_repetition_costs() {
        // 1 2 3 was followed by 4, 2 3 also by 5.
        let history = [1, 2, 3, 4, 2, 3, 5, 1, 2, 3];
        assert_eq!(penalties(PARAMS, &[], &history, 6), [0.0, 0.0, 0.0, 0.0, 2.0, 1.0]);
        let off = DryParams { multiplier: 0.0, ..PARAMS };
        assert_eq!(dry(off, &[]).name(), c"?dry");
    }

    #[test]
    fn breakers_limit_repetitions() {
        let history = [1, 2, 3, 4, 2, 3, 5, 1, 2, 3];
        // A repetition does not reach back over 1, and so is 2 long; a breaker itself is never penalized.
        assert_eq!(penalties(PARAMS, &[vec![1]], &history, 6), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
        assert_eq!(penalties(PARAMS, &[vec![2]], &history, 6), [0.0; 6]);
        assert_eq!(penalties(PARAMS, &[vec![4], vec![]], &history, 6), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(penalties(PARAMS, &[vec![5, 1], vec![3, 9]], &history, 6), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn the_search_finds_what_the_definition_says() {
        let mut rng = crate::sampling::rng::Mt19937::new(3);
        for _ in 0..300 {
            let (n, tokens) = (1 + rng.next_u32() % 40, 1 + rng.next_u32() % 4);
            let history: Vec<Token> = (0..n).map(|_| (rng.next_u32() % tokens) as Token).collect();
            let params = DryParams { allowed_length: (rng.next_u32() % 3) as i32 + 1, ..PARAMS };
            if history.len() <= params.allowed_length as usize {
                continue;
            }
            assert_eq!(penalties(params, &[], &history, 4), expected(params, &history, 4), "{history:?}");
        }
    }

    #[test]
    fn extreme_parameters_do_no_harm() {
        for allowed_length in [i32::MIN, -1, 0, i32::MAX] {
            let params = DryParams { allowed_length, last_n: i32::MAX, ..PARAMS };
            assert_eq!(penalties(params, &[vec![7]], &[1, 1, 1, 1], 3).len(), 3);
        }
    }
}
