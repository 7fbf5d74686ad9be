//! Splits special tokens off a text before it is tokenized. Called by tokenize.rs.

use std::ops::Range;

use super::trie::Trie;
use super::{Token, Vocab, attr};

/// A part of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fragment {
    /// A special token.
    Special(Token),
    /// A range of the text without special tokens.
    Text(Range<usize>),
}

/// The special tokens of a vocabulary, ready to be looked for.
#[derive(Debug)]
pub struct Specials {
    /// Longest text first: that is the order in which they are split off.
    tokens: Vec<Token>,
    /// Text to position in `tokens`; tells quickly which of perhaps thousands occur at all.
    trie: Trie,
    /// Those with texts too long for the tree, by position.
    long: Vec<usize>,
}

impl Vocab {
    pub(super) fn specials(&self) -> &Specials {
        self.specials.get_or_init(|| Specials::new(self))
    }
}

impl Specials {
    fn new(vocab: &Vocab) -> Specials {
        let special = attr::CONTROL | attr::USER_DEFINED | attr::UNKNOWN;
        let texts = vocab.shown_texts();
        let text = |token: Token| texts.get(token as usize);
        let mut tokens: Vec<Token> =
            (0..texts.len()).filter(|&i| vocab.attrs[i] & special != 0).map(|i| i as Token).collect();
        tokens.sort_by_key(|&token| std::cmp::Reverse(text(token).len()));
        let trie = Trie::new(tokens.iter().zip(0..).map(|(&token, i)| (text(token), i)));
        let long = (0..tokens.len()).take_while(|&i| text(tokens[i]).len() > Trie::MAX_DEPTH).collect();
        Specials { tokens, trie, long }
    }

    /// The parts of `text`, in order. Control tokens and the unknown token are seen with `parse_special` only.
    pub fn partition(&self, vocab: &Vocab, text: &[u8], parse_special: bool) -> Vec<Fragment> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut fragments = vec![Fragment::Text(0..text.len())];
        for i in self.occurring(text) {
            let token = self.tokens[i];
            let attrs = vocab.attrs[token as usize];
            if parse_special || attrs & (attr::CONTROL | attr::UNKNOWN) == 0 {
                let needle = memchr::memmem::Finder::new(vocab.shown_texts().get(token as usize));
                fragments = split_off(fragments, text, token, attrs, &needle);
            }
        }
        fragments
    }

    /// Positions in `tokens` of those that occur in `text`, ascending.
    fn occurring(&self, text: &[u8]) -> Vec<usize> {
        let mut occurs = vec![false; self.tokens.len()];
        self.long.iter().for_each(|&i| occurs[i] = true);
        for at in 0..text.len() {
            self.trie.prefixes(&text[at..]).for_each(|(_, i)| occurs[i as usize] = true);
        }
        (0..occurs.len()).filter(|&i| occurs[i]).collect()
    }
}

/// Splits all occurrences of one token off the parts that are still text.
fn split_off(
    fragments: Vec<Fragment>,
    text: &[u8],
    token: Token,
    attrs: u32,
    needle: &memchr::memmem::Finder,
) -> Vec<Fragment> {
    let mut out = Vec::with_capacity(fragments.len());
    let n = needle.needle().len();
    for fragment in fragments {
        let Fragment::Text(Range { mut start, end }) = fragment else {
            out.push(fragment);
            continue;
        };
        while let Some(at) = needle.find(&text[start..end]) {
            let (mut before, mut after) = (start + at, start + at + n);
            if attrs & attr::LSTRIP != 0 {
                before -= text[start..before].iter().rev().take_while(|b| is_c_space(**b)).count();
            }
            if attrs & attr::RSTRIP != 0 {
                after += text[after..end].iter().take_while(|b| is_c_space(**b)).count();
            }
            if before > start {
                out.push(Fragment::Text(start..before));
            }
            out.push(Fragment::Special(token));
            start = after;
        }
        if start < end {
            out.push(Fragment::Text(start..end));
        }
    }
    out
}

/// C's `isspace`, which counts the vertical tab, unlike `u8::is_ascii_whitespace`.
fn is_c_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}
