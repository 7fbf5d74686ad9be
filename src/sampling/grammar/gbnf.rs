//! Reads GBNF, llama.cpp's notation for grammars: `name ::= alternatives`, with literals, character sets, `.`, groups,
//! repetitions and tokens. Called when a grammar sampler is made.

use hashbrown::HashMap;

use super::rules::{Element, Kind, Rules};
use crate::vocab::Vocab;
use crate::{Error, Result};

/// The most that `{m,n}` may repeat something, and that nested repetitions may together.
const MAX_REPETITIONS: u64 = 2000;
/// The most elements that a grammar may come to when its repetitions are written out.
const MAX_ELEMENTS: usize = 1 << 22;
/// How deep groups may be nested: every level costs stack.
const MAX_DEPTH: usize = 500;

/// The rules of a grammar in GBNF, of which `root` is to match. `vocab` is needed for tokens given by their text.
///
/// # Errors
/// [`Error::Argument`] with what is wrong and where: syntax, undefined rules, limits, rules that begin with themselves.
pub fn parse(text: &[u8], root: &[u8], vocab: Option<&Vocab>) -> Result<Rules> {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    let mut parser = Parser {
        text: &text[..end],
        at: 0,
        vocab,
        symbols: HashMap::new(),
        n_symbols: 0,
        rules: Vec::new(),
        n_elements: 0,
        depth: 0,
    };
    parser.space(true);
    while parser.peek() != 0 {
        parser.rule()?;
    }
    if parser.rules.is_empty() {
        return Err(Error::argument("grammar: there are no rules"));
    }
    parser.refuse_undefined()?;
    let missing = || Error::argument(format!("grammar: there is no rule '{}'", root.escape_ascii()));
    let root = *parser.symbols.get(root).ok_or_else(missing)?;
    Rules::new(&parser.rules, root)
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    vocab: Option<&'a Vocab>,
    /// The numbers of rules with names.
    symbols: HashMap<&'a [u8], u32>,
    /// How many numbers were given out, those of rules without names included.
    n_symbols: u32,
    /// By number; empty until defined.
    rules: Vec<Vec<Element>>,
    n_elements: usize,
    depth: usize,
}

/// What a repetition applies to.
struct Last {
    /// Where it begins in the rule.
    start: usize,
    /// How many rules it stands for, which limits how often it may be repeated.
    n_rules: u64,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

impl<'a> Parser<'a> {
    /// The byte `i` further; 0 after the end.
    fn ahead(&self, i: usize) -> u8 {
        self.text.get(self.at + i).copied().unwrap_or(0)
    }

    fn peek(&self) -> u8 {
        self.ahead(0)
    }

    fn error(&self, what: impl std::fmt::Display) -> Error {
        let line = 1 + memchr::memchr_iter(b'\n', &self.text[..self.at.min(self.text.len())]).count();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let rest = &rest[..rest.len().min(40)];
        Error::argument(format!("grammar, line {line}: {what} at '{}'", String::from_utf8_lossy(rest).escape_debug()))
    }

    fn expect(&mut self, token: &[u8]) -> Result<()> {
        if !self.text[self.at..].starts_with(token) {
            return Err(self.error(format_args!("expected '{}'", token.escape_ascii())));
        }
        self.at += token.len();
        Ok(())
    }

    /// Skips spaces and comments, and with `newlines` line ends.
    fn space(&mut self, newlines: bool) {
        loop {
            match self.peek() {
                b' ' | b'\t' => self.at += 1,
                b'\r' | b'\n' if newlines => self.at += 1,
                b'#' => {
                    let rest = &self.text[self.at..];
                    self.at += memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<&'a [u8]> {
        let rest = &self.text[self.at..];
        let len = rest.iter().take_while(|b| is_word(**b)).count();
        if len == 0 {
            return Err(self.error("expected a name"));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn number(&mut self) -> Result<u64> {
        let digits = self.text[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return Err(self.error("expected a number"));
        }
        let text = std::str::from_utf8(&self.text[self.at..self.at + digits]).expect("digits are ASCII");
        let number = text.parse().map_err(|_| self.error("the number is too large"))?;
        self.at += digits;
        Ok(number)
    }

    /// A character of a literal or a set, escapes included.
    fn character(&mut self) -> Result<u32> {
        match self.peek() {
            0 => Err(self.error("unexpected end")),
            b'\\' => self.escape(),
            lead => {
                // Bytes that continue a character are not checked, and a stray one is read as if it were ASCII.
                let (len, mask) = match lead {
                    0x00..=0xBF => (1, 0x7F),
                    0xC0..=0xDF => (2, 0x3F),
                    0xE0..=0xEF => (3, 0x1F),
                    0xF0..=0xFF => (4, 0x0F),
                };
                let rest = &self.text[self.at..];
                let rest = &rest[..rest.len().min(len)];
                self.at += rest.len();
                Ok(rest[1..].iter().fold(u32::from(lead & mask), |c, b| (c << 6) + u32::from(b & 0x3F)))
            }
        }
    }

    fn escape(&mut self) -> Result<u32> {
        let (value, len) = match self.ahead(1) {
            b'x' => (self.hex(2)?, 4),
            b'u' => (self.hex(4)?, 6),
            b'U' => (self.hex(8)?, 10),
            b't' => (u32::from(b'\t'), 2),
            b'r' => (u32::from(b'\r'), 2),
            b'n' => (u32::from(b'\n'), 2),
            byte @ (b'\\' | b'"' | b'[' | b']' | b'-') => (u32::from(byte), 2),
            _ => return Err(self.error("unknown escape")),
        };
        self.at += len;
        Ok(value)
    }

    /// The `n` hexadecimal digits after an escape's letter.
    fn hex(&self, n: usize) -> Result<u32> {
        let mut digits = (2..2 + n).map(|i| char::from(self.ahead(i)).to_digit(16));
        digits
            .try_fold(0u32, |value, digit| Some(value << 4 | digit?))
            .ok_or_else(|| self.error(format_args!("expected {n} hexadecimal digits")))
    }

    /// `<[id]>` or the text of one token in angle brackets.
    fn token(&mut self) -> Result<u32> {
        let start = self.at;
        self.expect(b"<")?;
        if self.peek() == b'[' {
            self.at += 1;
            let id = self.number()?;
            self.expect(b"]>")?;
            return u32::try_from(id).map_err(|_| self.error("the token is too large"));
        }
        let vocab = self.vocab.ok_or_else(|| self.error("there is no vocabulary to look a token up"))?;
        let len = memchr::memchr(b'>', &self.text[self.at..]).ok_or_else(|| self.error("expected '>'"))?;
        self.at += len + 1;
        match vocab.tokenize(&self.text[start..self.at], false, true)?[..] {
            [token] => Ok(token as u32),
            ref tokens => {
                self.at = start;
                Err(self.error(format_args!("expected one token, found {}", tokens.len())))
            }
        }
    }

    fn symbol(&mut self, name: &'a [u8]) -> u32 {
        let next = self.n_symbols;
        let id = *self.symbols.entry(name).or_insert(next);
        self.n_symbols += u32::from(id == next);
        id
    }

    fn new_symbol(&mut self) -> u32 {
        self.n_symbols += 1;
        self.n_symbols - 1
    }

    /// Defines a rule, or defines it anew.
    fn define(&mut self, id: u32, rule: Vec<Element>) {
        let n = self.rules.len().max(id as usize + 1);
        self.rules.resize_with(n, Vec::new);
        self.rules[id as usize] = rule;
    }

    /// Counts elements before they are made.
    fn reserve(&mut self, n: usize) -> Result<()> {
        self.n_elements = self.n_elements.saturating_add(n);
        if self.n_elements > MAX_ELEMENTS {
            return Err(self.error(format_args!("the grammar exceeds {MAX_ELEMENTS} elements")));
        }
        Ok(())
    }

    fn push(&mut self, rule: &mut Vec<Element>, kind: Kind, value: u32) -> Result<()> {
        self.reserve(1)?;
        rule.push(Element { kind, value });
        Ok(())
    }

    fn rule(&mut self) -> Result<()> {
        let name = self.name()?;
        self.space(false);
        let id = self.symbol(name);
        self.expect(b"::=")?;
        self.space(true);
        self.alternatives(id, false)?;
        match (self.peek(), self.ahead(1)) {
            (b'\r', b'\n') => self.at += 2,
            (b'\r' | b'\n', _) => self.at += 1,
            (0, _) => {}
            _ => return Err(self.error("expected a new line or the end")),
        }
        self.space(true);
        Ok(())
    }

    fn alternatives(&mut self, id: u32, nested: bool) -> Result<()> {
        let mut rule = Vec::new();
        self.sequence(&mut rule, nested)?;
        while self.peek() == b'|' {
            self.push(&mut rule, Kind::Alt, 0)?;
            self.at += 1;
            self.space(true);
            self.sequence(&mut rule, nested)?;
        }
        self.push(&mut rule, Kind::End, 0)?;
        self.define(id, rule);
        Ok(())
    }

    fn sequence(&mut self, rule: &mut Vec<Element>, nested: bool) -> Result<()> {
        let mut last = Last { start: rule.len(), n_rules: 1 };
        loop {
            let start = rule.len();
            let mut n_rules = 1;
            match self.peek() {
                b'"' => self.literal(rule)?,
                b'[' => self.set(rule)?,
                b'<' | b'!' => self.token_element(rule)?,
                b'(' => n_rules = self.group(rule)?,
                b'.' => {
                    self.at += 1;
                    self.push(rule, Kind::Any, 0)?;
                }
                b'*' | b'+' | b'?' | b'{' => {
                    let (min, max) = self.times(nested)?;
                    self.repeat(rule, &mut last, min, max)?;
                    continue;
                }
                byte if is_word(byte) => {
                    let name = self.name()?;
                    let id = self.symbol(name);
                    self.push(rule, Kind::RuleRef, id)?;
                }
                _ => return Ok(()),
            }
            self.space(nested);
            last = Last { start, n_rules };
        }
    }

    fn literal(&mut self, rule: &mut Vec<Element>) -> Result<()> {
        self.at += 1;
        while self.peek() != b'"' {
            let c = self.character()?;
            self.push(rule, Kind::Char, c)?;
        }
        self.at += 1;
        Ok(())
    }

    fn set(&mut self, rule: &mut Vec<Element>) -> Result<()> {
        self.at += 1;
        let mut kind = Kind::Char;
        if self.peek() == b'^' {
            self.at += 1;
            kind = Kind::CharNot;
        }
        while self.peek() != b']' {
            let c = self.character()?;
            self.push(rule, kind, c)?;
            kind = Kind::CharAlt;
            if self.peek() == b'-' && self.ahead(1) != b']' {
                self.at += 1;
                let c = self.character()?;
                self.push(rule, Kind::RangeEnd, c)?;
            }
        }
        self.at += 1;
        Ok(())
    }

    fn token_element(&mut self, rule: &mut Vec<Element>) -> Result<()> {
        let mut kind = Kind::Token;
        if self.peek() == b'!' {
            self.at += 1;
            kind = Kind::TokenNot;
        }
        let token = self.token()?;
        self.push(rule, kind, token)
    }

    /// Makes a rule of a group. Returns how many rules that took.
    fn group(&mut self, rule: &mut Vec<Element>) -> Result<u64> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(format_args!("groups are nested more than {MAX_DEPTH} deep")));
        }
        self.at += 1;
        self.space(true);
        let n_before = self.n_symbols;
        let id = self.new_symbol();
        self.depth += 1;
        self.alternatives(id, true)?;
        self.depth -= 1;
        self.push(rule, Kind::RuleRef, id)?;
        self.expect(b")")?;
        Ok(u64::from(self.n_symbols - n_before))
    }

    /// `*`, `+`, `?` or `{m,n}`: at least and at most how often; no most is `None`.
    fn times(&mut self, nested: bool) -> Result<(u64, Option<u64>)> {
        let operator = self.peek();
        self.at += 1;
        self.space(nested);
        let times = match operator {
            b'*' => (0, None),
            b'+' => (1, None),
            b'?' => (0, Some(1)),
            _ => {
                let min = self.number()?;
                self.space(nested);
                let mut max = Some(min);
                if self.peek() != b'}' {
                    self.expect(b",")?;
                    self.space(nested);
                    max = if self.peek().is_ascii_digit() { Some(self.number()?) } else { None };
                    self.space(nested);
                }
                self.expect(b"}")?;
                self.space(nested);
                if min > MAX_REPETITIONS {
                    return Err(self.error(format_args!("more than {MAX_REPETITIONS} repetitions")));
                }
                (min, max.filter(|&max| max <= MAX_REPETITIONS))
            }
        };
        match times {
            (min, Some(max)) if max < min => Err(self.error(format_args!("from {min} to {max} repetitions"))),
            _ => Ok(times),
        }
    }

    /// Writes a repetition out: what must be there as often as it must, then rules for what may follow.
    ///
    /// `S{m,n}` becomes `S S ... T`, with `T1 ::= S |` and `Ti ::= S Ti-1 |`; `S{m,}` ends with `T ::= S T |`.
    fn repeat(&mut self, rule: &mut Vec<Element>, last: &mut Last, min: u64, max: Option<u64>) -> Result<()> {
        if last.start == rule.len() {
            return Err(self.error("expected something to repeat before"));
        }
        let total = max.filter(|&max| max > 0).unwrap_or(min.max(1));
        last.n_rules *= total;
        if last.n_rules > MAX_REPETITIONS {
            return Err(self.error(format_args!("more than {MAX_REPETITIONS} rules by nested repetitions")));
        }
        let repeated = rule[last.start..].to_vec();
        let n_optional = max.map_or(1, |max| max - min);
        self.reserve((min + n_optional) as usize * (repeated.len() + 3))?;

        rule.truncate(last.start);
        for _ in 0..min {
            rule.extend_from_slice(&repeated);
        }
        let mut previous = None;
        for _ in 0..n_optional {
            let id = self.new_symbol();
            let mut optional = repeated.clone();
            let then = if max.is_none() { Some(id) } else { previous };
            optional.extend(then.map(|rule| Element { kind: Kind::RuleRef, value: rule }));
            optional.extend([Element { kind: Kind::Alt, value: 0 }, Element { kind: Kind::End, value: 0 }]);
            self.define(id, optional);
            previous = Some(id);
        }
        rule.extend(previous.map(|id| Element { kind: Kind::RuleRef, value: id }));
        Ok(())
    }

    fn refuse_undefined(&self) -> Result<()> {
        let undefined = |id: u32| self.rules.get(id as usize).is_none_or(|rule| rule.is_empty());
        match self.symbols.iter().filter(|(_, id)| undefined(**id)).min_by_key(|(_, id)| **id) {
            Some((name, _)) => {
                Err(Error::argument(format!("grammar: rule '{}' is not defined", String::from_utf8_lossy(name))))
            }
            None => Ok(()),
        }
    }
}
