//! PLaMo-2's tokenizer: the cheapest way to cut the text into tokens, found from its end with a table of all suffixes of
//! tokens (Aho-Corasick over the reversed text). Characters without a token are spelled in byte tokens.

use std::collections::HashMap;
use std::sync::OnceLock;

use hashbrown::DefaultHashBuilder;

use super::texts::{TextIndex, Texts};
use super::{Token, Vocab, attr, unicode};
use crate::{Error, Result};

/// Scores are scaled to integers.
const SCALE: f64 = 1e4;
/// The score of a character without a token; its row ends those of a suffix.
const UNKNOWN_SCORE: i32 = -10_000_000;
/// The score of suffixes that are no tokens.
const INVALID_SCORE: i32 = -20_000_000;
/// Suffixes take quadratic memory in the length of tokens; no real vocabulary comes near this.
const MAX_SUFFIX_BYTES: usize = 1 << 30;

/// The PLaMo-2 part of a vocabulary.
#[derive(Debug)]
pub struct Plamo2 {
    /// The tokens `<0x00>` to `<0xFF>`.
    byte_tokens: Box<[Token; 256]>,
    table: OnceLock<Table>,
}

/// One token that the text may have at some place, given the suffix that starts there.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// Its characters.
    n_chars: u32,
    token: Option<Token>,
    score: i32,
    /// The first row of the token's own text as a suffix.
    piece: u32,
}

#[derive(Debug)]
struct Table {
    /// For each suffix of a token: the prefixes of it that are suffixes of tokens too, longest first, then a row for its
    /// first character as unknown.
    rows: Vec<Row>,
    /// (a character, the first row of a suffix) to the first row of the suffix with that character before it.
    longer: HashMap<(u32, u32), u32, DefaultHashBuilder>,
}

impl Plamo2 {
    /// Fails if a byte has no token.
    pub fn new(vocab: &Vocab) -> Result<Plamo2> {
        let mut byte_tokens = Box::new([0; 256]);
        for (text, id) in vocab.entries().filter(|&(_, id)| vocab.attrs[id as usize] & attr::BYTE != 0) {
            if let Some(byte) = byte_of(text) {
                byte_tokens[usize::from(byte)] = id;
            }
        }
        match byte_tokens.iter().position(|&id| id == 0) {
            Some(byte) => Err(Error::format(format!("the PLaMo-2 vocabulary has no token for byte {byte:#04x}"))),
            None => Ok(Plamo2 { byte_tokens, table: OnceLock::new() }),
        }
    }

    fn table(&self, vocab: &Vocab) -> Result<&Table> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let table = Table::new(vocab)?;
        Ok(self.table.get_or_init(|| table))
    }
}

/// The byte that `<0xXX>` stands for.
pub fn byte_of(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let both_hex = digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit);
    both_hex.then(|| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()).flatten()
}

impl Table {
    fn new(vocab: &Vocab) -> Result<Table> {
        let suffixes = suffixes(vocab)?;
        let mut index = TextIndex::with_capacity(suffixes.len());
        for i in 0..suffixes.len() as u32 {
            index.insert(&suffixes, i);
        }
        let mut order: Vec<u32> = (0..suffixes.len() as u32).collect();
        order.sort_by(|&a, &b| suffixes.get(a as usize).iter().rev().cmp(suffixes.get(b as usize).iter().rev()));

        // Where the rows of each suffix start. Those of the empty one come first and are its unknown row alone.
        let mut first_rows = vec![0; suffixes.len()];
        let mut longer = HashMap::with_capacity_and_hasher(suffixes.len(), DefaultHashBuilder::default());
        let mut n_rows: u32 = 1;
        for &i in &order {
            let text = suffixes.get(i as usize);
            let (first_char, n) = unicode::decode(text);
            let rest = index.find(&suffixes, &text[n..]).map_or(0, |rest| first_rows[rest as usize]);
            longer.insert((first_char, rest), n_rows);
            first_rows[i as usize] = n_rows;
            let n_pieces = prefixes(text).filter(|(piece, _)| index.find(&suffixes, piece).is_some()).count() as u32;
            n_rows = n_rows
                .checked_add(n_pieces + 1)
                .ok_or_else(|| Error::format("the suffixes of the PLaMo-2 vocabulary are too many"))?;
        }
        let unknown = Row { n_chars: 1, token: None, score: UNKNOWN_SCORE, piece: 0 };
        let mut rows = Vec::with_capacity(n_rows as usize);
        rows.push(unknown);
        for &i in &order {
            let pieces: Vec<_> = prefixes(suffixes.get(i as usize)).collect();
            for &(piece, n_chars) in pieces.iter().rev() {
                let Some(piece_index) = index.find(&suffixes, piece) else { continue };
                let token = vocab.find(piece);
                rows.push(Row { n_chars, token, score: score(vocab, token), piece: first_rows[piece_index as usize] });
            }
            rows.push(unknown);
        }
        Ok(Table { rows, longer })
    }
}

/// The scaled score of a piece, given the token it is.
fn score(vocab: &Vocab, token: Option<Token>) -> i32 {
    match token {
        Some(id) if vocab.attrs[id as usize] & attr::BYTE == 0 && vocab.scores[id as usize].is_finite() => {
            (f64::from(vocab.scores[id as usize]) * SCALE).round() as i32
        }
        _ => INVALID_SCORE,
    }
}

/// Every text that is a token or the end of one, once.
fn suffixes(vocab: &Vocab) -> Result<Texts> {
    let mut suffixes = Texts::default();
    let mut index = TextIndex::default();
    let mut n_bytes = 0;
    for (text, _) in vocab.entries().filter(|&(_, id)| vocab.attrs[id as usize] & attr::BYTE == 0) {
        let text = unicode::canonical(text);
        let mut rest = text.as_ref();
        while !rest.is_empty() {
            // The ends of a text that is known are known as well.
            if index.find(&suffixes, rest).is_some() {
                break;
            }
            n_bytes += rest.len();
            if n_bytes > MAX_SUFFIX_BYTES {
                return Err(Error::format("the suffixes of the PLaMo-2 vocabulary exceed 1 GiB"));
            }
            suffixes.push(rest)?;
            index.insert(&suffixes, suffixes.len() as u32 - 1);
            rest = &rest[unicode::decode(rest).1..];
        }
    }
    Ok(suffixes)
}

/// The beginnings of `text`, shortest first, each with its number of characters.
fn prefixes(text: &[u8]) -> impl Iterator<Item = (&[u8], u32)> {
    let mut end = 0;
    (1..).map_while(move |n_chars| {
        if end == text.len() {
            return None;
        }
        end += unicode::decode(&text[end..]).1;
        Some((&text[..end], n_chars))
    })
}

/// The cheapest way from a place to the end.
#[derive(Clone, Copy)]
struct Step {
    cost: i64,
    n_chars: u32,
    token: Option<Token>,
}

/// Appends the tokens of `text`.
pub fn tokenize(vocab: &Vocab, plamo2: &Plamo2, text: &[u8], out: &mut Vec<Token>) -> Result<()> {
    const BYTE_ORDER_MARK: u32 = 0xFEFF;
    let table = plamo2.table(vocab)?;
    let mut chars: Vec<u32> = unicode::codepoints(text).collect();
    if chars.first() == Some(&BYTE_ORDER_MARK) {
        chars.remove(0);
    }
    let mut steps = vec![Step { cost: 1 << 60, n_chars: 1, token: None }; chars.len() + 1];
    steps[chars.len()].cost = 0;
    let mut suffix = 0;
    for (i, &c) in chars.iter().enumerate().rev() {
        suffix = table.rows[suffix as usize..]
            .iter()
            .find_map(|row| match table.longer.get(&(c, row.piece)) {
                None if row.score == UNKNOWN_SCORE => Some(0),
                found => found.copied(),
            })
            .unwrap_or(0);
        for row in &table.rows[suffix as usize..] {
            if row.score > INVALID_SCORE {
                let cost = steps[i + row.n_chars as usize].cost - i64::from(row.score);
                if cost < steps[i].cost {
                    steps[i] = Step { cost, n_chars: row.n_chars, token: row.token };
                }
            }
            if row.score == UNKNOWN_SCORE {
                break;
            }
        }
    }
    let mut at = 0;
    let mut bytes = Vec::new();
    while at < chars.len() {
        match steps[at].token {
            Some(id) => out.push(id),
            None => {
                bytes.clear();
                unicode::encode(chars[at], &mut bytes);
                out.extend(bytes.iter().map(|&byte| plamo2.byte_tokens[usize::from(byte)]));
            }
        }
        at += steps[at].n_chars as usize;
    }
    Ok(())
}
