//! Byte-pair encoding with a list of merges (GPT-2 and nearly everything since): text is cut into words by a
//! pre-tokenizer, and within a word neighbours join in the order of the merges. Also the two models built on it,
//! `whitespace` and `hybriddna`.

use std::collections::hash_map::Entry;
use std::sync::OnceLock;

use hashbrown::DefaultHashBuilder;

use super::merge::{Join, Merger};
use super::pretokenize;
use super::pretokenizers::Pretokenizer;
use super::texts::{TextIndex, Texts};
use super::unicode::{self, is};
use super::{Token, Vocab};
use crate::gguf::Array;
use crate::{Error, Result};

/// A symbol that neither the vocabulary nor the merges know, so that nothing can join it.
const UNKNOWN: u32 = u32::MAX;

/// The BPE part of a vocabulary.
#[derive(Debug)]
pub struct Bpe {
    /// How text is cut into words.
    pub pre: &'static Pretokenizer,
    /// The merges of the file: two texts with a space between, most important first.
    merges: Option<Array>,
    /// Made when the first text is tokenized, since loading must be quick.
    tables: OnceLock<Tables>,
}

/// What tokenizing needs. Symbols are numbered: tokens by their ids, texts that only merges have from there on.
#[derive(Debug)]
struct Tables {
    /// (left symbol, right symbol) as one number, to (rank, joined symbol).
    joins: std::collections::HashMap<u64, (u32, u32), DefaultHashBuilder>,
    extra: Texts,
    extra_index: TextIndex,
    /// The symbol of each byte, where tokens spell bytes by printable characters.
    byte_symbols: [u32; 256],
    /// The tokens that spell the bytes of symbols that are no tokens.
    byte_tokens: [Option<Token>; 256],
}

impl Bpe {
    /// `merges` are strings; `None` where the model works without (its words must all be tokens).
    pub fn new(pre: &'static Pretokenizer, merges: Option<Array>) -> Bpe {
        Bpe { pre, merges, tables: OnceLock::new() }
    }

    fn tables(&self, vocab: &Vocab) -> Result<&Tables> {
        if let Some(tables) = self.tables.get() {
            return Ok(tables);
        }
        let tables = Tables::new(vocab, self.pre, self.merges.as_ref())?;
        Ok(self.tables.get_or_init(|| tables))
    }
}

impl Tables {
    fn new(vocab: &Vocab, pre: &Pretokenizer, merges: Option<&Array>) -> Result<Tables> {
        let n_merges = merges.map_or(0, Array::len);
        let mut tables = Tables {
            joins: std::collections::HashMap::with_capacity_and_hasher(n_merges, DefaultHashBuilder::default()),
            extra: Texts::default(),
            extra_index: TextIndex::default(),
            byte_symbols: [UNKNOWN; 256],
            byte_tokens: std::array::from_fn(|byte| {
                if pre.byte_encode {
                    vocab.find(&[byte as u8])
                } else {
                    vocab.find(format!("<0x{byte:02X}>").as_bytes())
                }
            }),
        };
        let mut joined = Vec::new();
        for (rank, merge) in merges.iter().flat_map(|merges| merges.iter_strings()).enumerate() {
            // The first character may itself be a space.
            let Some(space) = merge.iter().skip(1).position(|&b| b == b' ') else { continue };
            let (left, right) = (&merge[..space + 1], &merge[space + 2..]);
            joined.clear();
            joined.extend_from_slice(left);
            joined.extend_from_slice(right);
            let pair = pair(tables.intern(vocab, left)?, tables.intern(vocab, right)?);
            let symbol = tables.intern(vocab, &joined)?;
            if let Entry::Vacant(entry) = tables.joins.entry(pair) {
                entry.insert((rank as u32, symbol));
            }
        }
        let mut spelled = Vec::new();
        for byte in 0..=255 {
            spelled.clear();
            unicode::encode(unicode::byte_to_char(byte), &mut spelled);
            tables.byte_symbols[usize::from(byte)] = tables.symbol(vocab, &spelled);
        }
        Ok(tables)
    }

    /// The symbol of a text, made if need be.
    fn intern(&mut self, vocab: &Vocab, text: &[u8]) -> Result<u32> {
        let known = self.symbol(vocab, text);
        if known != UNKNOWN {
            return Ok(known);
        }
        let i = self.extra.len() as u32;
        self.extra.push(text)?;
        self.extra_index.insert(&self.extra, i);
        Ok(vocab.n_tokens() as u32 + i)
    }

    fn symbol(&self, vocab: &Vocab, text: &[u8]) -> u32 {
        match vocab.find(text) {
            Some(id) => id as u32,
            None if self.extra.is_empty() => UNKNOWN,
            None => self.extra_index.find(&self.extra, text).map_or(UNKNOWN, |i| vocab.n_tokens() as u32 + i),
        }
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Appends the tokens of `text`.
pub fn tokenize(vocab: &Vocab, bpe: &Bpe, text: &[u8], out: &mut Vec<Token>) -> Result<()> {
    let tables = bpe.tables(vocab)?;
    let text = unicode::canonical(text);
    if u32::try_from(text.len()).is_err() {
        return Err(Error::argument("the text exceeds 4 GiB"));
    }
    let (mut merger, mut spelled) = (Merger::default(), Vec::new());
    pretokenize::split(bpe.pre.stages, &text, |word| {
        if bpe.pre.byte_encode {
            tokenize_bytes(vocab, bpe, tables, word, &mut merger, &mut spelled, out);
        } else {
            tokenize_characters(vocab, bpe, tables, word, &mut merger, out);
        }
    });
    Ok(())
}

/// A word of a vocabulary that spells bytes by GPT-2's characters: each byte starts as a symbol.
fn tokenize_bytes(
    vocab: &Vocab,
    bpe: &Bpe,
    tables: &Tables,
    word: &[u8],
    merger: &mut Merger,
    spelled: &mut Vec<u8>,
    out: &mut Vec<Token>,
) {
    if bpe.pre.ignore_merges {
        spelled.clear();
        word.iter().for_each(|&byte| unicode::encode(unicode::byte_to_char(byte), spelled));
        if let Some(id) = vocab.find(spelled) {
            return out.push(id);
        }
    }
    merger.clear();
    for (i, &byte) in word.iter().enumerate() {
        merger.push(i, 1, tables.byte_symbols[usize::from(byte)]);
    }
    join(tables, merger);
    for symbol in merger.symbols() {
        spelled.clear();
        if symbol.id == UNKNOWN {
            unicode::encode(unicode::byte_to_char(word[symbol.start as usize]), spelled);
        }
        push_symbol(vocab, tables, symbol.id, spelled, out);
    }
}

/// A word of a vocabulary in plain UTF-8: each character starts as a symbol.
fn tokenize_characters(
    vocab: &Vocab,
    bpe: &Bpe,
    tables: &Tables,
    word: &[u8],
    merger: &mut Merger,
    out: &mut Vec<Token>,
) {
    let whole = bpe.pre.ignore_merges || bpe.pre.whole_newlines && word.iter().all(|&b| b == b'\n');
    if let Some(id) = whole.then(|| vocab.find(word)).flatten() {
        return out.push(id);
    }
    merger.clear();
    let mut at = 0;
    while at < word.len() {
        let n = unicode::announced_len(word[at]).min(word.len() - at);
        merger.push(at, n, tables.symbol(vocab, &word[at..at + n]));
        at += n;
    }
    join(tables, merger);
    for symbol in merger.symbols() {
        let text = &word[symbol.start as usize..(symbol.start + symbol.len) as usize];
        push_symbol(vocab, tables, symbol.id, text, out);
    }
}

fn join(tables: &Tables, merger: &mut Merger) {
    merger.run(|left, right| {
        let &(rank, id) = tables.joins.get(&pair(left.id, right.id))?;
        Some(Join { rank, id })
    });
}

/// Appends the token of a symbol, or those of its bytes if it is none; `text` is that of an unknown symbol. Bytes
/// without a token vanish.
fn push_symbol(vocab: &Vocab, tables: &Tables, symbol: u32, text: &[u8], out: &mut Vec<Token>) {
    if (symbol as usize) < vocab.n_tokens() {
        return out.push(symbol as Token);
    }
    let text = if symbol == UNKNOWN { text } else { tables.extra.get(symbol as usize - vocab.n_tokens()) };
    out.extend(text.iter().filter_map(|&byte| tables.byte_tokens[usize::from(byte)]));
}

/// The `whitespace` model (jina-embeddings-v2-base-zh): spaces separate and vanish, the rest may be lowered.
pub fn tokenize_whitespace(vocab: &Vocab, bpe: &Bpe, text: &[u8], out: &mut Vec<Token>) -> Result<()> {
    let mut segment = Vec::new();
    for c in unicode::codepoints(text) {
        if unicode::kind(c) & is::WHITESPACE != 0 {
            if !segment.is_empty() {
                tokenize(vocab, bpe, &segment, out)?;
                segment.clear();
            }
        } else {
            unicode::encode(if vocab.options.lowercase { unicode::to_lowercase(c) } else { c }, &mut segment);
        }
    }
    if segment.is_empty() { Ok(()) } else { tokenize(vocab, bpe, &segment, out) }
}

/// Marks the tokens of DNA in the file, which may be spelled like others.
pub const KMER_MARK: &[u8] = "\u{E000}".as_bytes();
const KMER_LEN: usize = 6;

/// The `hybriddna` model: what stands between `<dna>` and `</dna>` is cut into sixes, the rest is plain BPE.
pub fn tokenize_dna(vocab: &Vocab, bpe: &Bpe, text: &[u8], out: &mut Vec<Token>) -> Result<()> {
    let (open, close) = (&b"<dna>"[..], &b"</dna>"[..]);
    let (Some(begin_id), Some(end_id), Some(unknown_id)) = (vocab.find(open), vocab.find(close), vocab.find(b"<oov>"))
    else {
        return tokenize(vocab, bpe, text, out);
    };
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, open) {
        if at > 0 {
            tokenize(vocab, bpe, &rest[..at], out)?;
        }
        out.push(begin_id);
        rest = &rest[at + open.len()..];
        let closed = memchr::memmem::find(rest, close);
        for kmer in rest[..closed.unwrap_or(rest.len())].chunks(KMER_LEN) {
            let mut key = kmer.to_ascii_uppercase();
            key.resize(KMER_LEN, b'A');
            key.extend_from_slice(KMER_MARK);
            out.push(vocab.find(&key).unwrap_or(unknown_id));
        }
        let Some(at) = closed else { return Ok(()) };
        out.push(end_id);
        rest = &rest[at + close.len()..];
    }
    if rest.is_empty() { Ok(()) } else { tokenize(vocab, bpe, rest, out) }
}
