//! The cells of one sequence, ordered by position. Kept by [`super::Cells`], read by the masks.

use std::collections::VecDeque;
use std::ops::{Index, Range};

/// A token of the sequence: its position and its cell.
pub type Entry = (i32, u32);

/// Entries in ascending order. Ends are cheap: appending, dropping the oldest and cutting off the newest cost no search.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeqList {
    entries: VecDeque<Entry>,
    run: usize, // the smallest index from which on each cell is the one after its predecessor's
}

impl SeqList {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the sequence has no tokens.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry with the smallest position.
    pub fn first(&self) -> Option<Entry> {
        self.entries.front().copied()
    }

    /// The entry with the largest position.
    pub fn last(&self) -> Option<Entry> {
        self.entries.back().copied()
    }

    /// Some of the entries.
    pub fn range(&self, range: Range<usize>) -> impl DoubleEndedIterator<Item = Entry> {
        self.entries.range(range).copied()
    }

    /// Where the entries with positions in `range` are.
    pub fn span(&self, range: &Range<i32>) -> Range<usize> {
        let start = self.entries.partition_point(|&(pos, _)| pos < range.start);
        let end = self.entries.partition_point(|&(pos, _)| pos < range.end);
        start..end.max(start)
    }

    /// The smallest index from which on cells follow each other, up to the last entry.
    pub fn run(&self) -> usize {
        self.run
    }

    /// Whether the cell of entry `i` > 0 is the one after its predecessor's.
    pub fn follows(&self, i: usize) -> bool {
        self.entries[i].1 == self.entries[i - 1].1.wrapping_add(1)
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.run = 0;
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        let len = self.len();
        if self.last().is_none_or(|last| last < entry) {
            self.entries.push_back(entry);
            if len > 0 && !self.follows(len) {
                self.run = len;
            }
        } else if self.first().is_some_and(|first| entry < first) {
            self.entries.push_front(entry);
            if self.run > 0 || !self.follows(1) {
                self.run += 1;
            }
        } else {
            self.entries.insert(self.entries.partition_point(|&e| e < entry), entry);
            self.find_run();
        }
    }

    pub(super) fn remove(&mut self, entry: Entry) {
        if let Ok(at) = self.entries.binary_search(&entry) {
            self.entries.remove(at);
            self.removed(at..at + 1);
        }
    }

    /// Takes entries out, handing each to `visit`.
    pub(super) fn drain(&mut self, range: Range<usize>, visit: impl FnMut(Entry)) {
        self.entries.drain(range.clone()).for_each(visit);
        self.removed(range);
    }

    /// Replaces or drops each entry, as `map` says, and restores the order.
    pub(super) fn remap(&mut self, map: impl Fn(Entry) -> Option<Entry>) {
        self.entries.retain_mut(|entry| match map(*entry) {
            Some(mapped) => {
                *entry = mapped;
                true
            }
            None => false,
        });
        self.sort();
    }

    /// Adds entries that are not in the list.
    pub(super) fn extend(&mut self, entries: impl Iterator<Item = Entry>) {
        self.entries.extend(entries);
        self.sort();
    }

    fn sort(&mut self) {
        let sorted = self.entries.iter().zip(self.entries.iter().skip(1)).all(|(a, b)| a < b);
        if !sorted {
            self.entries.make_contiguous().sort_unstable();
        }
        self.find_run();
    }

    /// Corrects the run after the removal of entries.
    fn removed(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        if range.start == 0 {
            self.run = self.run.max(range.end) - range.end;
        } else if range.start < self.len() || range.start <= self.run {
            self.find_run();
        }
    }

    fn find_run(&mut self) {
        self.run = (1..self.len()).rev().find(|&i| !self.follows(i)).unwrap_or(0);
    }
}

impl Index<usize> for SeqList {
    type Output = Entry;

    fn index(&self, i: usize) -> &Entry {
        &self.entries[i]
    }
}
