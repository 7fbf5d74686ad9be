//! Where the strings of a vocabulary live: one arena for all of them ([`Texts`]) and a hash index over it
//! ([`TextIndex`]). A quarter of a million tokens cost two allocations, not a quarter of a million. Used by the
//! loader, by every tokenizer and by the piece cache.

use std::ffi::CStr;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::{Error, Result};

/// Byte strings in one allocation, each followed by a NUL so that it can be handed to C as it lies.
#[derive(Debug, Default, Clone)]
pub struct Texts {
    bytes: Vec<u8>,
    /// Where each string ends; its NUL is at that offset and the next string starts one further.
    ends: Vec<u32>,
}

impl Texts {
    /// An empty arena with room for `n` strings of `n_bytes` in total.
    pub fn with_capacity(n: usize, n_bytes: usize) -> Self {
        Texts { bytes: Vec::with_capacity(n_bytes + n), ends: Vec::with_capacity(n) }
    }

    /// Appends a string. Errors when the arena would outgrow 32-bit offsets.
    pub fn push(&mut self, text: &[u8]) -> Result<()> {
        let end = u32::try_from(self.bytes.len() + text.len())
            .ok()
            .filter(|&end| end < u32::MAX)
            .ok_or_else(|| Error::format("the texts of the vocabulary exceed 4 GiB"))?;
        self.bytes.extend_from_slice(text);
        self.bytes.push(0);
        self.ends.push(end);
        Ok(())
    }

    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.ends[i - 1] as usize + 1 }
    }

    /// String `i`; panics when out of range, so callers check ids that come from outside.
    pub fn get(&self, i: usize) -> &[u8] {
        &self.bytes[self.start(i)..self.ends[i] as usize]
    }

    /// String `i` as C sees it: up to its first NUL.
    pub fn c_str(&self, i: usize) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes[self.start(i)..=self.ends[i] as usize])
            .expect("push() ends every string with a NUL")
    }

    /// All strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i))
    }
}

impl<'a> FromIterator<&'a [u8]> for Texts {
    /// Collects strings; those past 4 GiB are dropped, which only tests could reach.
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(texts: I) -> Self {
        let mut arena = Texts::default();
        for text in texts {
            if arena.push(text).is_err() {
                break;
            }
        }
        arena
    }
}

/// Text to position in a [`Texts`] arena. The hash is seeded per index, so that a crafted file cannot make it collide.
#[derive(Debug, Default, Clone)]
pub struct TextIndex {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl TextIndex {
    /// An index with room for `n` entries.
    pub fn with_capacity(n: usize) -> Self {
        TextIndex { table: HashTable::with_capacity(n), hasher: DefaultHashBuilder::default() }
    }

    /// The position of `text` in `texts`, the arena this index was built over.
    pub fn find(&self, texts: &Texts, text: &[u8]) -> Option<u32> {
        self.table.find(self.hasher.hash_one(text), |&i| texts.get(i as usize) == text).copied()
    }

    /// Enters string `i` of `texts`. Returns the position of an equal string that was entered before, if any.
    pub fn insert(&mut self, texts: &Texts, i: u32) -> Option<u32> {
        let text = texts.get(i as usize);
        let hash = self.hasher.hash_one(text);
        let same = self.table.find(hash, |&j| texts.get(j as usize) == text).copied();
        if same.is_none() {
            self.table.insert_unique(hash, i, |&j| self.hasher.hash_one(texts.get(j as usize)));
        }
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_with_and_without_their_nul() {
        let texts: Texts = [&b"a"[..], b"", b"x\0y"].into_iter().collect();
        assert_eq!(texts.iter().collect::<Vec<_>>(), [&b"a"[..], b"", b"x\0y"]);
        assert_eq!(texts.c_str(1).to_bytes(), b"");
        assert_eq!(texts.c_str(2).to_bytes(), b"x");
    }

    #[test]
    fn the_index_finds_what_was_entered_and_reports_repeats() {
        let texts: Texts = [&b"a"[..], b"b", b"a"].into_iter().collect();
        let mut index = TextIndex::default();
        assert_eq!(index.insert(&texts, 0), None);
        assert_eq!(index.insert(&texts, 1), None);
        assert_eq!(index.insert(&texts, 2), Some(0));
        assert_eq!(index.find(&texts, b"b"), Some(1));
        assert_eq!(index.find(&texts, b"c"), None);
    }
}
