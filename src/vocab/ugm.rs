//! SentencePiece's unigram model (T5, XLM-RoBERTa): text is normalized by a table in the file, then cut into the tokens
//! whose scores sum to the most.

use std::sync::OnceLock;

use super::trie::Trie;
use super::unicode::{self, SPACE_MARK};
use super::{Token, Vocab, attr};
use crate::{Error, Result};

/// How much less than the least token an unknown character scores.
const UNKNOWN_PENALTY: f32 = 10.0;
/// No entry of a real normalization table is as long; a made-up one might run around in circles.
const MAX_KEY_LEN: usize = 256;

/// The unigram part of a vocabulary.
#[derive(Debug)]
pub struct Ugm {
    charsmap: Charsmap,
    tables: OnceLock<Tables>,
}

#[derive(Debug)]
struct Tables {
    /// All tokens that text may become.
    tokens: Trie,
    /// Tokens that the user defined: what begins one is not normalized.
    user_defined: Trie,
    unknown_score: f32,
}

impl Ugm {
    /// `charsmap` is `tokenizer.ggml.precompiled_charsmap`, or empty.
    pub fn new(charsmap: Vec<u8>) -> Result<Ugm> {
        Ok(Ugm { charsmap: Charsmap::new(charsmap)?, tables: OnceLock::new() })
    }

    fn tables(&self, vocab: &Vocab) -> &Tables {
        self.tables.get_or_init(|| {
            let with = |attrs| move |&(_, id): &(&[u8], Token)| vocab.attrs[id as usize] & attrs != 0;
            let least = vocab
                .entries()
                .filter(with(attr::NORMAL))
                .fold(f32::MAX, |least, (_, id)| least.min(vocab.scores[id as usize]));
            Tables {
                tokens: Trie::new(vocab.entries().filter(with(attr::NORMAL | attr::USER_DEFINED | attr::UNUSED))),
                user_defined: Trie::new(vocab.entries().filter(with(attr::USER_DEFINED))),
                unknown_score: least - UNKNOWN_PENALTY,
            }
        })
    }
}

/// The best way to reach a place in the text.
#[derive(Clone, Copy)]
struct Best {
    token: Token,
    start: usize,
    score: f64,
}

/// Appends the tokens of `text`; `unknown` is the token for characters that have none.
pub fn tokenize(vocab: &Vocab, ugm: &Ugm, unknown: Token, text: &[u8], out: &mut Vec<Token>) -> Result<()> {
    let tables = ugm.tables(vocab);
    let text = normalize(vocab, ugm, tables, text)?;
    if text.is_empty() {
        return Ok(());
    }
    let mut best = vec![Best { token: unknown, start: 0, score: f64::MIN }; text.len() + 1];
    best[0].score = 0.0;
    let mut at = 0;
    while at < text.len() {
        let n_char = unicode::announced_len(text[at]).min(text.len() - at);
        let score_before = best[at].score;
        let mut offer = |n: usize, token, score: f64| {
            let champion = &mut best[at + n];
            if score_before + score > champion.score {
                *champion = Best { token, start: at, score: score_before + score };
            }
        };
        let mut has_char = false;
        for (n, token) in tables.tokens.prefixes(&text[at..]) {
            has_char |= n == n_char;
            let user_defined = vocab.attrs[token as usize] & attr::USER_DEFINED != 0;
            offer(n, token, if user_defined { 0.0 } else { f64::from(vocab.scores[token as usize]) });
        }
        if !has_char {
            offer(n_char, unknown, f64::from(tables.unknown_score));
        }
        at += n_char;
    }
    let first = out.len();
    let mut end = text.len();
    let mut after_unknown = false;
    while end > 0 {
        let Best { token, start, .. } = best[end];
        // Unknown characters in a row are one unknown token.
        if token != unknown || !after_unknown {
            out.push(token);
        }
        after_unknown = token == unknown;
        end = start;
    }
    out[first..].reverse();
    Ok(())
}

fn normalize(vocab: &Vocab, ugm: &Ugm, tables: &Tables, text: &[u8]) -> Result<Vec<u8>> {
    let merge_spaces = vocab.options.remove_extra_whitespaces;
    let mut normalized = Vec::with_capacity(text.len() + text.len() / 2);
    let (mut in_word, mut prefixed) = (false, !vocab.options.add_space_prefix);
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, n) = normalize_prefix(ugm, tables, rest)?;
        for &byte in piece {
            if byte != b' ' {
                if !in_word && (merge_spaces || !prefixed) {
                    normalized.extend_from_slice(SPACE_MARK);
                    prefixed = true;
                }
                normalized.push(byte);
            } else if !merge_spaces {
                normalized.extend_from_slice(SPACE_MARK);
            }
            in_word = byte != b' ';
        }
        rest = &rest[n..];
    }
    Ok(normalized)
}

/// What the start of `text` (not empty) becomes, and how many bytes of it that replaces.
fn normalize_prefix<'a>(ugm: &'a Ugm, tables: &Tables, text: &'a [u8]) -> Result<(&'a [u8], usize)> {
    let n = tables.user_defined.common_prefix(text);
    if n > 0 {
        return Ok((&text[..n], n));
    }
    if let Some(replaced) = ugm.charsmap.longest_match(text)? {
        return Ok(replaced);
    }
    if unicode::starts_valid(text) {
        let (_, n) = unicode::decode(text);
        return Ok((&text[..n], n));
    }
    Ok(("\u{FFFD}".as_bytes(), 1))
}

/// SentencePiece's table of replacements: a double array (compressed as in Kanda, "Space- and Time-Efficient String
/// Dictionaries", 2018) whose leaves hold offsets into NUL-terminated strings. In the file: the array's size in bytes,
/// the array of 32-bit units, the strings.
#[derive(Debug)]
struct Charsmap {
    units: Vec<u32>,
    strings: Vec<u8>,
}

impl Charsmap {
    fn new(bytes: Vec<u8>) -> Result<Charsmap> {
        let Some((size, rest)) = bytes.split_first_chunk::<4>() else {
            return match bytes.is_empty() {
                true => Ok(Charsmap { units: Vec::new(), strings: Vec::new() }),
                false => Err(Error::format("precompiled_charsmap: expected a size of 4 bytes at its start")),
            };
        };
        let size = u32::from_le_bytes(*size) as usize;
        if size >= rest.len() {
            return Err(Error::format(format!(
                "precompiled_charsmap: a table of {size} bytes and strings after it do not fit into {} bytes",
                rest.len()
            )));
        }
        let (units, strings) = rest.split_at(size);
        let units = units.chunks_exact(4).map(|u| u32::from_le_bytes([u[0], u[1], u[2], u[3]])).collect();
        Ok(Charsmap { units, strings: strings.to_vec() })
    }

    fn unit(&self, i: u32) -> Result<u32> {
        let found = self.units.get(i as usize).copied();
        found.ok_or_else(|| {
            Error::format(format!("precompiled_charsmap: unit {i} of {} is asked for", self.units.len()))
        })
    }

    /// The replacement for the longest key that `text` starts with, and the key's length.
    fn longest_match(&self, text: &[u8]) -> Result<Option<(&[u8], usize)>> {
        if self.units.is_empty() {
            return Ok(None);
        }
        let base = |unit: u32| (unit >> 10) << ((unit & 1 << 9) >> 6);
        let mut longest = None;
        let mut node = base(self.unit(0)?);
        for (i, &byte) in text.iter().take(MAX_KEY_LEN).enumerate() {
            node ^= u32::from(byte);
            let unit = self.unit(node)?;
            // The check of a node is the byte that leads to it; leaves have the top bit set, which no byte has.
            if byte == 0 || unit & (1 << 31 | 0xFF) != u32::from(byte) {
                break;
            }
            node ^= base(unit);
            if unit >> 8 & 1 != 0 {
                longest = Some((i + 1, self.unit(node)? & !(1 << 31)));
            }
        }
        let Some((n, offset)) = longest else { return Ok(None) };
        let string = self.strings.get(offset as usize..).unwrap_or_default();
        let end = memchr::memchr(0, string).ok_or_else(|| {
            Error::format(format!("precompiled_charsmap: no terminated string at {offset} of {}", self.strings.len()))
        })?;
        Ok(Some((&string[..end], n)))
    }
}
