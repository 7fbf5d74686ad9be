//! Grammar: allows only the tokens with which the text goes on as a grammar in GBNF has it. `capi` makes the sampler for C.
//!
//! `gbnf` reads the notation into `rules`, `matcher` follows a text through them, `allowed` finds the tokens of a
//! vocabulary that may come next, `lazy` and `pattern` wait for what triggers a lazy grammar.
//!
//! What a grammar allows is what llama.cpp allows, with two exceptions. A token that the grammar asks for as such must come
//! as a whole: llama.cpp also lets one pass whose first characters match what comes before it, and then refuses it. And where
//! llama.cpp ends the process or throws, a token that the grammar does not allow is refused and changes nothing.

mod allowed;
mod gbnf;
mod lazy;
mod matcher;
mod pattern;
mod rules;

use std::ffi::CStr;
use std::sync::Arc;

use super::disabled::disabled;
use super::{Candidates, Sampler, Token};
use crate::vocab::Vocab;
use crate::vocab::partial::{self, Partial};
use crate::{Error, Result};
use allowed::Allowed;
use lazy::Waiting;
use matcher::{DEAD, State};

pub use gbnf::parse;
pub use lazy::{Triggers, pattern_of_words};
pub use matcher::Matcher;
pub use rules::{Element, Kind, Rules};

struct Grammar {
    follower: Follower,
    error: Option<Error>,
}

/// Follows a text.
#[derive(Clone)]
struct Follower {
    vocab: Arc<Vocab>,
    matcher: Matcher,
    allowed: Allowed,
    initial: State,
    state: State,
    /// The beginning of a character that the text ends with.
    partial: Partial,
    /// Of a lazy grammar.
    waiting: Option<Waiting>,
    is_waiting: bool,
    /// Memory for a token's characters.
    text: Vec<u32>,
}

/// Sets the logits of all candidates to -infinity that do not go on as the grammar `text` (GBNF) has it, beginning with its
/// rule `root`. Tokens that end a generation are allowed where the text may end. With `triggers` the grammar is lazy:
/// everything is allowed until one of them comes.
///
/// # Errors
/// [`Error::Argument`]: not a grammar, or a pattern that is none; [`Error::Unsupported`]: the grammar exceeds limits.
pub fn grammar(
    vocab: Arc<Vocab>,
    text: &[u8],
    root: &[u8],
    triggers: Option<&Triggers<'_>>,
) -> Result<Box<dyn Sampler>> {
    let rules = parse(text, root, Some(&vocab))?;
    let (matcher, initial) = Matcher::new(Arc::new(rules))?;
    let waiting = triggers.map(Waiting::new).transpose()?;
    let follower = Follower {
        allowed: Allowed::default(),
        vocab,
        matcher,
        initial,
        state: initial,
        partial: Partial::default(),
        is_waiting: waiting.is_some(),
        waiting,
        text: Vec::new(),
    };
    Ok(Box::new(Grammar { follower, error: None }))
}

/// The sampler without a grammar: it allows everything.
pub fn no_grammar() -> Box<dyn Sampler> {
    disabled(c"grammar")
}

impl Follower {
    /// Makes room and grants the work of one call.
    fn begin(&mut self) -> Result<()> {
        self.matcher.refill();
        if self.matcher.is_full() {
            let mut keep = [self.initial, self.state];
            self.matcher.compact(&mut keep)?;
            [self.initial, self.state] = keep;
            self.allowed.clear();
        }
        Ok(())
    }

    fn accept(&mut self, token: Token) -> Result<()> {
        self.begin()?;
        // The reference must not borrow the sampler, which changes below.
        let vocab = self.vocab.clone();
        let piece = vocab.token_to_piece(token, 0, true)?;
        if self.is_waiting {
            let Some(waiting) = &mut self.waiting else { return Ok(()) };
            let Some(replay) = waiting.accept(token, piece) else { return Ok(()) };
            let before = (self.state, self.partial);
            for token in &replay {
                if let Err(e) = self.advance(token.token, &token.piece) {
                    (self.state, self.partial) = before;
                    self.waiting.iter_mut().for_each(Waiting::undo);
                    return Err(e);
                }
            }
            self.waiting.iter_mut().for_each(Waiting::clear);
            self.is_waiting = false;
            log::debug!("grammar: triggered by token {token}");
            return Ok(());
        }
        if self.vocab.is_eog(token) {
            return if self.matcher.is_complete(self.state) { Ok(()) } else { Err(refused(token, piece)) };
        }
        self.advance(token, piece)
    }

    /// Goes on by a token of which `piece` is the text; otherwise changes nothing.
    fn advance(&mut self, token: Token, piece: &[u8]) -> Result<()> {
        self.text.clear();
        let partial = partial::decode(piece, self.partial, &mut self.text);
        let state = self.matcher.accept(self.state, token, &self.text)?;
        if state == DEAD {
            return Err(refused(token, piece));
        }
        (self.state, self.partial) = (state, partial);
        Ok(())
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) -> Result<()> {
        if self.is_waiting {
            return Ok(());
        }
        self.begin()?;
        self.allowed.apply(&self.vocab, &mut self.matcher, self.state, self.partial, candidates)
    }
}

fn refused(token: Token, piece: &[u8]) -> Error {
    Error::argument(format!("the grammar does not allow token {token} '{}' here", String::from_utf8_lossy(piece)))
}

impl Sampler for Grammar {
    fn name(&self) -> &'static CStr {
        c"grammar"
    }

    fn accept(&mut self, token: Token) {
        self.error = self.follower.accept(token).err();
    }

    fn apply(&mut self, candidates: &mut Candidates<'_>) {
        let done = self.follower.apply(candidates);
        if done.is_err() {
            // What may follow is not known: nothing may.
            candidates.data.iter_mut().for_each(|c| c.logit = f32::NEG_INFINITY);
        }
        self.error = done.err();
    }

    fn reset(&mut self) {
        let follower = &mut self.follower;
        follower.state = follower.initial;
        follower.partial = Partial::default();
        follower.is_waiting = follower.waiting.is_some();
        follower.waiting.iter_mut().for_each(Waiting::clear);
        self.error = None;
    }

    fn clone_box(&self) -> Box<dyn Sampler> {
        Box::new(Grammar { follower: self.follower.clone(), error: None })
    }

    fn take_error(&mut self) -> Option<Error> {
        self.error.take()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
