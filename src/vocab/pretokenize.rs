//! Cuts text into the words that BPE merges within. What each family of models cuts where is data (pretokenizers.rs);
//! here is the one matcher that runs it. Called by bpe.rs.
//!
//! A pre-tokenizer is a list of [`Stage`]s; each cuts the pieces of the one before into finer ones. A stage is usually
//! a [`Pattern`]: a regular expression of the simple kind that these models use, alternatives of repeated character
//! classes. It is searched as regular expressions are, leftmost first, then by the order of alternatives, greedy with
//! backtracking; what lies between two matches is a piece too.

use super::unicode::{self, is};

/// A set of characters. Non-ASCII spaces are only ever in sets that name whitespace by its kind, never in ranges.
#[derive(Debug, Clone, Copy)]
pub struct Class {
    /// Kinds (bits of [`is`]) that are in.
    pub any: u16,
    /// Kinds that are out, whatever else holds.
    pub none: u16,
    /// Code points that are in, whatever their kind.
    pub ranges: &'static [(u32, u32)],
    /// Whether `any` and `ranges` are what is out instead.
    pub negated: bool,
}

impl Class {
    /// Characters of any of these kinds.
    pub const fn of(any: u16) -> Class {
        Class { any, none: 0, ranges: &[], negated: false }
    }

    /// Characters of none of these kinds.
    pub const fn not(any: u16) -> Class {
        Class { negated: true, ..Class::of(any) }
    }

    /// Characters in these ranges.
    pub const fn ranges(ranges: &'static [(u32, u32)]) -> Class {
        Class { any: 0, none: is::WHITESPACE, ranges, negated: false }
    }

    fn has(&self, text: &Chars, i: usize) -> bool {
        let kind = text.kinds[i];
        let listed = kind & self.any != 0
            || !self.ranges.is_empty() && self.ranges.iter().any(|&(a, b)| (a..=b).contains(&text.codepoints[i]));
        listed != self.negated && kind & self.none == 0
    }
}

/// One step of an alternative.
#[derive(Debug, Clone, Copy)]
pub enum Item {
    /// Between `min` and `max` characters of a class, as many as can be.
    Run {
        /// Which characters.
        class: Class,
        /// At least so many.
        min: usize,
        /// At most so many.
        max: usize,
    },
    /// The first of these ASCII strings that is there.
    Literal {
        /// In order of preference.
        texts: &'static [&'static str],
        /// Whether `A` is as good as `a`.
        ignore_case: bool,
        /// Whether nothing will do as well, where none of them is there.
        optional: bool,
    },
    /// Letters with their marks, over single spaces: `\p{L}\p{M}*` again and again, each perhaps after one space.
    SpacedLetters,
    /// The next character, if there is one, is not of this class.
    NotBefore(Class),
}

/// Alternatives, each a sequence of items.
pub type Pattern = &'static [&'static [Item]];

/// One pass over the text.
#[derive(Debug, Clone, Copy)]
pub enum Stage {
    /// Matches become pieces, and so does what lies between them.
    Split(Pattern),
    /// Whitespace at the end of a piece becomes a piece.
    SplitTrailingSpace,
    /// A run of digits is cut into groups of three counted from its end.
    SplitThousands {
        /// What is a digit.
        digits: Class,
        /// Whether to cut before a run that consists of whole groups.
        before: bool,
        /// Whether to cut after the run.
        after: bool,
    },
}

/// Text by character. Positions in pieces are indices into it.
pub struct Chars {
    codepoints: Vec<u32>,
    kinds: Vec<u16>,
}

impl Chars {
    /// The characters of `text`.
    pub fn new(text: &[u8]) -> Chars {
        let mut codepoints = Vec::with_capacity(text.len());
        codepoints.extend(unicode::codepoints(text));
        let kinds = codepoints.iter().map(|&c| unicode::kind(c)).collect();
        Chars { codepoints, kinds }
    }
}

/// Calls `word` with the byte range in `text` of each piece that `stages` cut it into. `text` is canonical UTF-8
/// ([`unicode::canonical`]).
pub fn split(stages: &[Stage], text: &[u8], mut word: impl FnMut(&[u8])) {
    let chars = Chars::new(text);
    let mut ends = vec![chars.codepoints.len()];
    for stage in stages {
        ends = run_stage(stage, &chars, &ends);
    }
    let (mut first, mut start) = (0, 0);
    for last in ends {
        let end = start + chars.codepoints[first..last].iter().map(|&c| unicode::encoded_len(c)).sum::<usize>();
        word(&text[start..end]);
        (first, start) = (last, end);
    }
}

/// Where the pieces end after `stage`, given where they ended before it.
fn run_stage(stage: &Stage, text: &Chars, ends: &[usize]) -> Vec<usize> {
    let mut cuts = Vec::with_capacity(ends.len() * 2);
    let mut start = 0;
    for &end in ends {
        match stage {
            Stage::Split(pattern) => split_by_pattern(pattern, text, start, end, &mut cuts),
            Stage::SplitTrailingSpace => {
                let mut space = end;
                while space > start && text.kinds[space - 1] & is::WHITESPACE != 0 {
                    space -= 1;
                }
                cuts.push(space);
            }
            Stage::SplitThousands { digits, before, after } => {
                let mut at = start;
                while at < end {
                    let run = (at..end).take_while(|&i| digits.has(text, i)).count();
                    let groups = (at + run % 3..=at + run).step_by(3);
                    cuts.extend(groups.filter(|&cut| run > 0 && (*before || cut > at) && (*after || cut < at + run)));
                    at += run.max(1);
                }
            }
        }
        cuts.push(end);
        start = end;
    }
    // Cuts ascend; those at the start of the text or where another was made leave nothing between them.
    cuts.dedup();
    cuts.retain(|&cut| cut > 0);
    cuts
}

fn split_by_pattern(pattern: &[&[Item]], text: &Chars, start: usize, end: usize, cuts: &mut Vec<usize>) {
    let mut at = start;
    while at < end {
        match pattern.iter().find_map(|items| match_items(items, text, at, end)) {
            Some(past) if past > at => {
                cuts.extend([at, past]);
                at = past;
            }
            _ => at += 1,
        }
    }
}

/// Where a match of `items` that starts at `at` ends.
fn match_items(items: &[Item], text: &Chars, at: usize, end: usize) -> Option<usize> {
    let Some((item, rest)) = items.split_first() else { return Some(at) };
    match item {
        Item::Run { class, min, max } => {
            let limit = end.min(at.saturating_add(*max));
            let most = (at..limit).find(|&i| !class.has(text, i)).unwrap_or(limit);
            (at + min..=most).rev().find_map(|past| match_items(rest, text, past, end))
        }
        Item::Literal { texts, ignore_case, optional } => {
            let found = texts.iter().find(|literal| starts_with(text, at, end, literal, *ignore_case));
            let matched = found.and_then(|literal| match_items(rest, text, at + literal.len(), end));
            matched.or_else(|| if *optional { match_items(rest, text, at, end) } else { None })
        }
        Item::SpacedLetters => match_items(rest, text, match_spaced_letters(text, at, end)?, end),
        Item::NotBefore(class) => {
            if at < end && class.has(text, at) {
                None
            } else {
                match_items(rest, text, at, end)
            }
        }
    }
}

fn starts_with(text: &Chars, at: usize, end: usize, literal: &str, ignore_case: bool) -> bool {
    let fold = |c: u32| match u8::try_from(c) {
        Ok(ascii) if ignore_case => u32::from(ascii.to_ascii_lowercase()),
        _ => c,
    };
    literal.len() <= end - at
        && literal.bytes().zip(&text.codepoints[at..end]).all(|(want, &c)| u32::from(want) == fold(c))
}

fn match_spaced_letters(text: &Chars, at: usize, end: usize) -> Option<usize> {
    let has = |i: usize, kind: u16| i < end && text.kinds[i] & kind != 0;
    let mut past = at;
    loop {
        let letter = if past > at && has(past, is::SPACE) { past + 1 } else { past };
        if !has(letter, is::LETTER) {
            return (past > at).then_some(past);
        }
        past = letter + 1;
        while has(past, is::MARK) {
            past += 1;
        }
    }
}
