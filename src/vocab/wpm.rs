//! WordPiece (BERT): text is normalized and cut at spaces, punctuation and ideographs; each word is spelled by the
//! longest tokens from its start, or is unknown as a whole.

use super::trie::Trie;
use super::unicode::{self, SPACE_MARK, is};
use super::{Token, Vocab};

/// Appends the tokens of `text`; `trie` holds all tokens.
pub fn tokenize(vocab: &Vocab, trie: &Trie, text: &[u8], out: &mut Vec<Token>) {
    for_each_word(text, vocab.options.lowercase, vocab.options.strip_accents, |word| {
        let n_before = out.len();
        let mut rest = word;
        while !rest.is_empty() {
            let Some((n, id)) = trie.prefixes(rest).last() else {
                out.truncate(n_before);
                break;
            };
            out.push(id);
            rest = &rest[n..];
        }
        if out.len() == n_before {
            out.push(vocab.unk());
        }
    });
}

/// Calls `word` with each normalized word, with the mark in front that tokens at the start of a word have.
fn for_each_word(text: &[u8], lowercase: bool, strip_accents: bool, mut word: impl FnMut(&[u8])) {
    let mut current = SPACE_MARK.to_vec();
    let mut finish = |current: &mut Vec<u8>| {
        if current.len() > SPACE_MARK.len() {
            word(current);
            current.truncate(SPACE_MARK.len());
        }
    };
    for c in unicode::codepoints(text) {
        let c = if strip_accents { unicode::base_character(c) } else { c };
        let kind = unicode::kind(c);
        if kind & is::WHITESPACE != 0 {
            finish(&mut current);
            continue;
        }
        let dropped = c == 0 || c == unicode::REPLACEMENT || kind & is::CONTROL != 0;
        if dropped || strip_accents && kind & is::MARK != 0 {
            continue;
        }
        let written = if lowercase { unicode::to_lowercase(c) } else { c };
        if kind & (is::PUNCTUATION | is::ASCII_PUNCTUATION) != 0 || is_ideograph(c) {
            finish(&mut current);
            unicode::encode(written, &mut current);
            finish(&mut current);
        } else {
            unicode::encode(written, &mut current);
        }
    }
    finish(&mut current);
}

/// The blocks that BERT's normalizer puts spaces around, as its common implementation lists them.
fn is_ideograph(c: u32) -> bool {
    matches!(c,
        0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F | 0x2B920..=0x2CEAF | 0x2F800..=0x2FA1F)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str, lowercase: bool, strip_accents: bool) -> Vec<String> {
        let mut words = Vec::new();
        for_each_word(text.as_bytes(), lowercase, strip_accents, |word| {
            words.push(String::from_utf8(word[SPACE_MARK.len()..].to_vec()).unwrap());
        });
        words
    }

    #[test]
    fn words_are_normalized_and_cut() {
        assert_eq!(words(" Hé,llo  中文\u{7}x ", true, true), ["he", ",", "llo", "中", "文", "x"]);
        assert_eq!(words("Hé~", false, false), ["Hé", "~"]);
        assert_eq!(words("€5", true, true), ["€5"], "a symbol outside ASCII is part of a word");
        assert_eq!(words("", true, true), [""; 0]);
    }
}
