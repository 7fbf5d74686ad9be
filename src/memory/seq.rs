//! Sets and lists of sequence ids. Used by the cells of `memory` and by the batches of `context`.

/// One more than the largest sequence id (llama.h: `LLAMA_MAX_SEQ`).
pub const MAX_SEQ: usize = 256;

/// A set of sequence ids below [`MAX_SEQ`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SeqSet([u64; MAX_SEQ / 64]);

impl SeqSet {
    /// Every sequence.
    pub const ALL: SeqSet = SeqSet([u64::MAX; MAX_SEQ / 64]);

    /// The set of the given ids, each in `0..MAX_SEQ`.
    pub fn of(seqs: &[i32]) -> SeqSet {
        let mut set = SeqSet::default();
        for &seq in seqs {
            set.insert(seq as usize);
        }
        set
    }

    /// Adds a sequence.
    pub fn insert(&mut self, seq: usize) {
        self.0[seq / 64] |= 1 << (seq % 64);
    }

    /// Takes a sequence out.
    pub fn remove(&mut self, seq: usize) {
        self.0[seq / 64] &= !(1 << (seq % 64));
    }

    /// Whether a sequence is in the set.
    pub fn contains(&self, seq: usize) -> bool {
        self.0[seq / 64] >> (seq % 64) & 1 == 1
    }

    /// Whether no sequence is in the set.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; MAX_SEQ / 64]
    }

    /// The number of sequences in the set.
    pub fn len(&self) -> usize {
        self.0.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// The only sequence of the set; `None` when there are none or several.
    pub fn only(&self) -> Option<usize> {
        if self.len() == 1 { self.iter().next() } else { None }
    }

    /// The sequences that are in both sets.
    pub fn and(&self, other: &SeqSet) -> SeqSet {
        SeqSet(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// The sequences that are in either set.
    pub fn or(&self, other: &SeqSet) -> SeqSet {
        SeqSet(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// The sequences in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        self.0.into_iter().enumerate().flat_map(|(i, mut word)| {
            std::iter::from_fn(move || {
                if word == 0 {
                    return None;
                }
                let bit = word.trailing_zeros() as usize;
                word &= word - 1;
                Some(i * 64 + bit)
            })
        })
    }
}

/// For each token of a batch the sequences that it belongs to, flat, so that refilling it allocates nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeqIds {
    ids: Vec<i32>,
    ends: Vec<u32>, // [n_tokens]
}

impl SeqIds {
    /// Forgets everything, keeps the buffers.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.ends.clear();
    }

    /// Appends the next token's sequences.
    pub fn push(&mut self, seqs: &[i32]) {
        self.ids.extend_from_slice(seqs);
        self.ends.push(self.ids.len() as u32);
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The sequences of token `i`.
    pub fn get(&self, i: usize) -> &[i32] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        &self.ids[start..self.ends[i] as usize]
    }

    /// The sequences of each token in order.
    pub fn iter(&self) -> impl Iterator<Item = &[i32]> {
        (0..self.len()).map(|i| self.get(i))
    }
}

/// What the memory needs to know of a ubatch: both lists have one entry per token.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// Positions, each in `0..i32::MAX`.
    pub pos: &'a [i32],
    /// Sequences, at least one per token.
    pub seq_ids: &'a SeqIds,
}
