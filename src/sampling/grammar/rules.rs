//! What a grammar is once read: rules as one flat list of elements. `gbnf` writes it, `matcher` walks it, and the C border
//! shows it to programs that look into grammars, which is why elements are laid out as theirs.

use crate::{Error, Result};

/// What an [`Element`] is, with llama.cpp's numbers.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The rule ends.
    End = 0,
    /// Another alternative of the rule begins.
    Alt = 1,
    /// What the rule `value` matches.
    RuleRef = 2,
    /// The character `value`.
    Char = 3,
    /// Any character but `value`, and but those of the elements that follow.
    CharNot = 4,
    /// Makes a range of the character before it, up to `value`.
    RangeEnd = 5,
    /// One more character of the set that began before it.
    CharAlt = 6,
    /// Any character.
    Any = 7,
    /// The token `value`.
    Token = 8,
    /// Any token but `value`.
    TokenNot = 9,
}

/// A piece of a rule. Laid out as llama.cpp's `llama_grammar_element`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// What it is.
    pub kind: Kind,
    /// A code point, the number of a rule, or a token.
    pub value: u32,
}

const _: () = assert!(size_of::<Element>() == 8);

/// The rules of a grammar. Positions in `elements` are what stacks are made of.
#[derive(Debug)]
pub struct Rules {
    /// All rules one after another, each with [`Kind::End`] at its end.
    pub elements: Vec<Element>,
    /// Where each rule begins.
    pub starts: Vec<u32>,
    /// The rule that a text must match.
    pub root: u32,
}

impl Rules {
    /// Lays rules out one after another. Each must end with [`Kind::End`] and refer to rules that exist.
    ///
    /// # Errors
    /// A rule that begins with itself, which no top-down matcher can follow.
    pub fn new(rules: &[Vec<Element>], root: u32) -> Result<Rules> {
        let mut flat = Rules { elements: Vec::new(), starts: Vec::with_capacity(rules.len()), root };
        for rule in rules {
            flat.starts.push(flat.elements.len() as u32);
            flat.elements.extend_from_slice(rule);
        }
        flat.refuse_left_recursion()?;
        Ok(flat)
    }

    /// Whether a sequence ends at `at`.
    pub fn ends(&self, at: u32) -> bool {
        matches!(self.elements[at as usize].kind, Kind::End | Kind::Alt)
    }

    /// Where the alternatives of a rule begin.
    pub fn alternatives(&self, rule: u32) -> impl Iterator<Item = u32> {
        let mut next = Some(self.starts[rule as usize]);
        std::iter::from_fn(move || {
            let at = next?;
            let mut end = at;
            while !self.ends(end) {
                end += 1;
            }
            next = (self.elements[end as usize].kind == Kind::Alt).then_some(end + 1);
            Some(at)
        })
    }

    /// Whether the set of characters at `at` has `c`, and where the next element is. No set: none, and the one after it.
    pub fn matches(&self, at: u32, c: u32) -> (bool, u32) {
        let e = |i: u32| self.elements[i as usize];
        let is_positive = match e(at).kind {
            Kind::Char | Kind::Any => true,
            Kind::CharNot => false,
            Kind::End | Kind::Alt | Kind::RuleRef | Kind::RangeEnd | Kind::CharAlt | Kind::Token | Kind::TokenNot => {
                return (false, at + 1);
            }
        };
        let (mut found, mut at) = (false, at);
        loop {
            if e(at).kind == Kind::Any {
                found = true;
                at += 1;
            } else if e(at + 1).kind == Kind::RangeEnd {
                found |= e(at).value <= c && c <= e(at + 1).value;
                at += 2;
            } else {
                found |= e(at).value == c;
                at += 1;
            }
            if e(at).kind != Kind::CharAlt {
                return (found == is_positive, at);
            }
        }
    }

    /// Whether the set of characters at `at` may have one between `low` and `high`. For an inverse set that is so unless
    /// it excludes some of them: llama.cpp asks no more precisely.
    pub fn may_match(&self, at: u32, low: u32, high: u32) -> bool {
        let e = |i: u32| self.elements[i as usize];
        let is_positive = match e(at).kind {
            Kind::Any => return true,
            Kind::Char => true,
            Kind::CharNot => false,
            Kind::End | Kind::Alt | Kind::RuleRef | Kind::RangeEnd | Kind::CharAlt | Kind::Token | Kind::TokenNot => {
                return false;
            }
        };
        let mut at = at;
        loop {
            let is_range = e(at + 1).kind == Kind::RangeEnd;
            let last = if is_range { e(at + 1).value } else { e(at).value };
            if e(at).value <= high && low <= last {
                return is_positive;
            }
            at += if is_range { 2 } else { 1 };
            if e(at).kind != Kind::CharAlt {
                return !is_positive;
            }
        }
    }

    /// The rules that rule `i` may begin with. Only a rule with an empty alternative of its own counts as empty, as in
    /// llama.cpp; what that overlooks, the matcher's limits stop.
    fn first_rules(&self, i: usize, may_be_empty: &[bool]) -> Vec<u32> {
        let mut first = Vec::new();
        for mut at in self.alternatives(i as u32) {
            while self.elements[at as usize].kind == Kind::RuleRef {
                let rule = self.elements[at as usize].value;
                first.push(rule);
                if !may_be_empty[rule as usize] {
                    break;
                }
                at += 1;
            }
        }
        first
    }

    fn refuse_left_recursion(&self) -> Result<()> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let n = self.starts.len();
        let may_be_empty: Vec<bool> = (0..n).map(|i| self.alternatives(i as u32).any(|at| self.ends(at))).collect();
        let mut marks = vec![Mark::New; n];
        for start in 0..n {
            // Rules that are open, with what they may begin with and was not looked at yet.
            let mut path: Vec<(usize, Vec<u32>)> = Vec::new();
            let mut enter = (marks[start] == Mark::New).then_some(start);
            loop {
                if let Some(i) = enter.take() {
                    marks[i] = Mark::Open;
                    path.push((i, self.first_rules(i, &may_be_empty)));
                }
                let Some((i, rest)) = path.last_mut() else { break };
                match rest.pop().map(|rule| rule as usize) {
                    None => {
                        marks[*i] = Mark::Done;
                        path.pop();
                    }
                    Some(rule) => match marks[rule] {
                        Mark::New => enter = Some(rule),
                        Mark::Done => {}
                        Mark::Open => {
                            return Err(Error::argument(format!("grammar: rule {rule} begins with itself")));
                        }
                    },
                }
            }
        }
        Ok(())
    }
}
