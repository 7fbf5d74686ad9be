//! Lazy grammars: they let every token pass until a trigger, a token or a pattern in the text so far, and apply from there.

use std::sync::Arc;

use super::pattern::{self, Pattern};
use crate::Result;
use crate::vocab::Token;

/// What makes a lazy grammar begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Triggers<'a> {
    /// Regular expressions, as C++'s `std::regex` reads them. The grammar begins with the first group that matched
    /// something, or with the match.
    pub patterns: &'a [&'a [u8]],
    /// Tokens, with which the grammar begins.
    pub tokens: &'a [Token],
}

/// The pattern that finds the first of some words.
pub fn pattern_of_words(words: &[&[u8]]) -> Vec<u8> {
    let mut pattern = b"[\\s\\S]*?(".to_vec();
    for (i, word) in words.iter().enumerate() {
        if i > 0 {
            pattern.push(b'|');
        }
        for &byte in *word {
            if b".^$|()*+?[]{}\\".contains(&byte) {
                pattern.push(b'\\');
            }
            pattern.push(byte);
        }
    }
    pattern.extend_from_slice(b")[\\s\\S]*");
    pattern
}

/// Compiled triggers.
#[derive(Debug)]
struct Compiled {
    patterns: Vec<Pattern>,
    tokens: Vec<Token>,
}

/// The text before the trigger.
#[derive(Clone, Debug)]
pub struct Waiting {
    triggers: Arc<Compiled>,
    text: Vec<u8>,
    /// The same for patterns.
    chars: String,
    /// The tokens, each with where it ends in the text.
    tokens: Vec<(Token, usize)>,
}

/// A token, with what of it belongs to the grammar.
#[derive(Debug, PartialEq, Eq)]
pub struct Replay {
    /// The token.
    pub token: Token,
    /// Its text from the trigger on.
    pub piece: Vec<u8>,
}

impl Waiting {
    /// Waits for these triggers.
    pub fn new(triggers: &Triggers<'_>) -> Result<Waiting> {
        let patterns = triggers.patterns.iter().map(|pattern| Pattern::new(pattern)).collect::<Result<_>>()?;
        let triggers = Arc::new(Compiled { patterns, tokens: triggers.tokens.to_vec() });
        Ok(Waiting { triggers, text: Vec::new(), chars: String::new(), tokens: Vec::new() })
    }

    /// Forgets the text.
    pub fn clear(&mut self) {
        self.text.clear();
        self.chars.clear();
        self.tokens.clear();
    }

    /// Adds a token to the text. Returns what the grammar has to accept if this triggers it.
    pub fn accept(&mut self, token: Token, piece: &[u8]) -> Option<Vec<Replay>> {
        self.text.extend_from_slice(piece);
        pattern::push_bytes(&mut self.chars, piece);
        self.tokens.push((token, self.text.len()));
        if self.triggers.tokens.contains(&token) {
            return Some(vec![Replay { token, piece: piece.to_vec() }]);
        }
        let start = self.triggers.patterns.iter().find_map(|pattern| pattern.find(&self.chars))?;
        let mut before = 0;
        let mut replay = Vec::new();
        for &(token, end) in &self.tokens {
            if end > start {
                replay.push(Replay { token, piece: self.text[before.max(start)..end].to_vec() });
            }
            before = end;
        }
        Some(replay)
    }

    /// Takes the latest token back.
    pub fn undo(&mut self) {
        self.tokens.pop();
        let end = self.tokens.last().map_or(0, |(_, end)| *end);
        self.text.truncate(end);
        self.chars.clear();
        pattern::push_bytes(&mut self.chars, &self.text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_across_the_trigger_are_replayed_from_it_on() {
        let pattern = pattern_of_words(&[b"<f(", b"[x]"]);
        assert_eq!(pattern, b"[\\s\\S]*?(<f\\(|\\[x\\])[\\s\\S]*");
        let mut waiting = Waiting::new(&Triggers { patterns: &[&pattern], tokens: &[9] }).unwrap();
        assert_eq!(waiting.accept(1, b"so "), None);
        assert_eq!(waiting.accept(2, b"it is <"), None);
        assert_eq!(waiting.accept(3, b""), None);
        let replay = waiting.accept(4, b"f(1").unwrap();
        let replay: Vec<_> = replay.iter().map(|r| (r.token, &r.piece[..])).collect();
        assert_eq!(replay, [(2, &b"<"[..]), (3, b""), (4, b"f(1")]);
        waiting.undo();
        assert_eq!(waiting.accept(9, b"!"), Some(vec![Replay { token: 9, piece: b"!".to_vec() }]));
        waiting.undo();
        assert_eq!(waiting.accept(4, b"f(1").map(|replay| replay.len()), Some(3));
    }
}
