//! Joining neighbours into tokens until nothing more can be joined: the loop that SPM and BPE share. They differ in
//! which pairs may join and in what order, which they say through a function.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const NONE: u32 = u32::MAX;

/// A stretch of the text that is one symbol so far.
#[derive(Debug, Clone, Copy)]
pub struct Symbol {
    /// Where it starts, in the units of [`Merger::push`].
    pub start: u32,
    /// How long it is; 0 once it was joined to its left neighbour.
    pub len: u32,
    /// What the caller knows it by.
    pub id: u32,
    prev: u32,
    next: u32,
}

/// A join that is possible.
#[derive(Debug, Clone, Copy)]
pub struct Join {
    /// Lower goes first; among equals the leftmost does.
    pub rank: u32,
    /// The id of the joined symbol.
    pub id: u32,
}

/// The work space, kept between words.
#[derive(Debug, Default)]
pub struct Merger {
    symbols: Vec<Symbol>,
    /// (rank and left symbol, length of the joined symbol, its id)
    queue: BinaryHeap<Reverse<(u64, u32, u32)>>,
}

impl Merger {
    /// Forgets the symbols.
    pub fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Adds a symbol after the last one.
    pub fn push(&mut self, start: usize, len: usize, id: u32) {
        let i = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = i;
        }
        let prev = i.checked_sub(1).unwrap_or(NONE);
        self.symbols.push(Symbol { start: start as u32, len: len as u32, id, prev, next: NONE });
    }

    /// Joins neighbours for which `find` knows a join, best first, until there are none. Takes n log n steps.
    pub fn run(&mut self, find: impl Fn(&Symbol, &Symbol) -> Option<Join>) {
        for left in 1..self.symbols.len() as u32 {
            self.consider(left - 1, left, &find);
        }
        while let Some(Reverse((key, len, id))) = self.queue.pop() {
            let left = key as u32;
            let left_symbol = self.symbols[left as usize];
            let right = left_symbol.next;
            if left_symbol.len == 0 || right == NONE {
                continue;
            }
            let right_symbol = self.symbols[right as usize];
            // Either has grown since: the entry is of a pair that is no more.
            if left_symbol.len + right_symbol.len != len {
                continue;
            }
            self.symbols[right as usize].len = 0;
            let next = right_symbol.next;
            if next != NONE {
                self.symbols[next as usize].prev = left;
            }
            self.symbols[left as usize] = Symbol { len, id, next, ..left_symbol };
            self.consider(left_symbol.prev, left, &find);
            self.consider(left, next, &find);
        }
    }

    fn consider(&mut self, left: u32, right: u32, find: impl Fn(&Symbol, &Symbol) -> Option<Join>) {
        if left == NONE || right == NONE {
            return;
        }
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some(join) = find(l, r) {
            let key = u64::from(join.rank) << 32 | u64::from(left);
            self.queue.push(Reverse((key, l.len + r.len, join.id)));
        }
    }

    /// The symbols that are left, in order.
    pub fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.len > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(text: &str, joins: &[(&str, u32)]) -> Vec<String> {
        let mut merger = Merger::default();
        for i in 0..text.len() {
            merger.push(i, 1, 0);
        }
        merger.run(|l, r| {
            let joined = &text[l.start as usize..(r.start + r.len) as usize];
            joins.iter().find(|(t, _)| *t == joined).map(|&(_, rank)| Join { rank, id: 0 })
        });
        merger.symbols().map(|s| text[s.start as usize..(s.start + s.len) as usize].to_string()).collect()
    }

    #[test]
    fn the_best_rank_goes_first_and_the_leftmost_among_equals() {
        assert_eq!(join("abc", &[("ab", 1), ("bc", 0)]), ["a", "bc"]);
        assert_eq!(join("aaa", &[("aa", 0)]), ["aa", "a"]);
        assert_eq!(join("abcd", &[("ab", 0), ("cd", 1), ("abcd", 2)]), ["abcd"]);
        assert_eq!(join("", &[]), [""; 0]);
    }

    #[test]
    fn a_long_run_takes_no_quadratic_time() {
        let text = "a".repeat(1 << 18);
        let pieces = join(&text, &[("aa", 0), ("aaaa", 1)]);
        assert_eq!(pieces.len(), 1 << 16);
    }
}
