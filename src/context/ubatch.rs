//! Cuts a batch into ubatches, the pieces that are computed at once. Called by the decode and encode of `context`.

use super::batch::BatchData;
use crate::memory::{MAX_SEQ, Memory, Reservation, SeqIds, SeqSet, Split, Tokens};
use crate::{Error, Result};

/// A piece of a batch. Tokens of a sequence (or set of sequences) are next to each other when `equal_seqs` is set.
#[derive(Debug, Default)]
pub struct Ubatch {
    /// Token ids; empty when there are only embeddings.
    pub tokens: Vec<i32>,
    /// Embeddings, `[n_tokens, n_embd]`; empty when there are only token ids.
    pub embd: Vec<f32>,
    /// Positions.
    pub pos: Vec<i32>,
    /// The sequences of each token.
    pub seq_ids: SeqIds,
    /// The sequences of all tokens, ascending.
    pub seq_id_unq: Vec<i32>,
    /// For each possible sequence its index in `seq_id_unq`, or -1; `[MAX_SEQ]`.
    pub seq_idx: Vec<i32>,
    /// Indices in this ubatch of the tokens that have an output.
    pub out_ids: Vec<i32>,
    /// For each of `out_ids` the row of the output, counted over the whole batch in the order of the batch.
    pub out_rows: Vec<u32>,
    /// For each token its index in the batch.
    pub batch_idxs: Vec<u32>,
    /// The number of sequence sets.
    pub n_seqs: usize,
    /// Tokens per sequence set.
    pub n_seq_tokens: usize,
    /// Every sequence set has `n_seq_tokens` tokens, one after the other.
    pub equal_seqs: bool,
}

impl Ubatch {
    /// The number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.pos.len()
    }

    /// What the memory needs of it.
    pub fn placed(&self) -> Tokens<'_> {
        Tokens { pos: &self.pos, seq_ids: &self.seq_ids }
    }

    fn fill(&mut self, batch: &BatchData, idxs: &[u32], n_seqs: usize, equal_seqs: bool) {
        self.clear();
        self.batch_idxs.extend_from_slice(idxs);
        self.n_seqs = n_seqs;
        self.n_seq_tokens = idxs.len() / n_seqs;
        self.equal_seqs = equal_seqs;
        let mut seqs = SeqSet::default();
        for (k, &i) in idxs.iter().enumerate() {
            let i = i as usize;
            self.tokens.extend(batch.tokens.get(i));
            if !batch.embd.is_empty() {
                self.embd.extend_from_slice(&batch.embd[i * batch.n_embd..(i + 1) * batch.n_embd]);
            }
            self.pos.push(batch.pos[i]);
            self.seq_ids.push(batch.seq_ids.get(i));
            seqs = seqs.or(&batch.seq_sets[i]);
            if let Ok(row) = u32::try_from(batch.output_ids[i]) {
                self.out_ids.push(k as i32);
                self.out_rows.push(row);
            }
        }
        for seq in seqs.iter() {
            self.seq_idx[seq] = self.seq_id_unq.len() as i32;
            self.seq_id_unq.push(seq as i32);
        }
    }

    fn clear(&mut self) {
        self.tokens.clear();
        self.embd.clear();
        self.pos.clear();
        self.seq_ids.clear();
        self.seq_id_unq.clear();
        self.seq_idx.clear();
        self.seq_idx.resize(MAX_SEQ, -1);
        self.out_ids.clear();
        self.out_rows.clear();
        self.batch_idxs.clear();
    }
}

/// The ubatches of a batch, in the order in which they are computed. Buffers are reused from batch to batch.
#[derive(Debug, Default)]
pub struct Ubatches {
    pool: Vec<Ubatch>, // the first `n` are in use
    n: usize,
    used: Vec<bool>, // tokens of the batch that are in a ubatch
    idxs: Vec<u32>,  // tokens of the ubatch being made
    groups: Groups,
    chosen: Vec<u32>, // groups of the ubatch being made
}

impl Ubatches {
    /// The ubatches of the last split.
    pub fn get(&self) -> &[Ubatch] {
        &self.pool[..self.n]
    }

    /// Cuts a batch into ubatches for which `memory` has cells, in the first of its ways to split that fits. The memory stays
    /// as it is.
    ///
    /// # Errors
    /// [`Error::NoSlot`] when it does not fit in any way.
    pub fn place(
        &mut self,
        batch: &BatchData,
        n_ubatch: usize,
        memory: &mut Memory,
        reservation: &mut Reservation,
    ) -> Result<()> {
        for &split in memory.splits() {
            self.split(batch, split, n_ubatch)?;
            match memory.reserve(self.get().iter().map(Ubatch::placed), reservation) {
                Err(Error::NoSlot { .. }) => {}
                other => return other,
            }
        }
        Err(Error::NoSlot { n_tokens: batch.n_tokens() })
    }

    /// Cuts a batch into ubatches of at most `n_ubatch` tokens.
    ///
    /// # Errors
    /// [`Error::NoSlot`] when tokens belong to several sequences and the split does not allow for that.
    pub fn split(&mut self, batch: &BatchData, split: Split, n_ubatch: usize) -> Result<()> {
        self.n = 0;
        self.used.clear();
        self.used.resize(batch.n_tokens(), false);
        let n_ubatch = n_ubatch.max(1);
        match split {
            Split::Simple => self.split_simple(batch, n_ubatch),
            Split::Equal => self.split_equal(batch, n_ubatch, false),
            Split::Sequential => {
                if batch.has_coupled {
                    log::error!("tokens in several sequences need a unified KV cache (kv_unified)");
                    return Err(Error::NoSlot { n_tokens: batch.n_tokens() });
                }
                self.split_equal(batch, n_ubatch, true);
            }
            Split::Seq => self.split_seq(batch, n_ubatch),
        }
        Ok(())
    }

    fn split_simple(&mut self, batch: &BatchData, n_ubatch: usize) {
        let n_tokens = batch.n_tokens();
        for start in (0..n_tokens).step_by(n_ubatch) {
            let end = n_tokens.min(start + n_ubatch);
            self.idxs.clear();
            self.idxs.extend(start as u32..end as u32);
            self.add(batch, end - start, false);
        }
    }

    /// Takes as many tokens from each of the sequence sets that have tokens left and no sequence in common.
    fn split_equal(&mut self, batch: &BatchData, n_ubatch: usize, sequential: bool) {
        self.groups.fill(batch);
        while self.choose_groups(batch, n_ubatch, sequential) {
            let n_seqs = self.chosen.len();
            let shortest = self.chosen.iter().map(|&g| self.groups.list[g as usize].n_left).min().unwrap_or(0);
            let n_seq_tokens = shortest.min((n_ubatch / n_seqs).max(1));
            self.idxs.clear();
            for &g in &self.chosen {
                for _ in 0..n_seq_tokens {
                    let i = self.groups.take(g);
                    self.used[i as usize] = true;
                    self.idxs.push(i);
                }
            }
            self.add(batch, n_seqs, true);
        }
    }

    /// Chooses the sequence sets of the next ubatch, in the order of their first tokens. `false` when no token is left.
    fn choose_groups(&mut self, batch: &BatchData, n_ubatch: usize, sequential: bool) -> bool {
        self.chosen.clear();
        let mut taken = SeqSet::default();
        let mut last_seq = None;
        for i in (0..batch.n_tokens()).filter(|&i| !self.used[i]) {
            let seq = batch.seq_ids.get(i)[0];
            let follows = !sequential || last_seq.is_none_or(|last| seq == last + 1);
            if follows && taken.and(&batch.seq_sets[i]).is_empty() {
                taken = taken.or(&batch.seq_sets[i]);
                last_seq = Some(seq);
                self.chosen.push(self.groups.of_token[i]);
                if self.chosen.len() == n_ubatch {
                    break;
                }
            }
        }
        !self.chosen.is_empty()
    }

    /// One sequence set after the other; a token whose set is a part of the one before may follow it.
    fn split_seq(&mut self, batch: &BatchData, n_ubatch: usize) {
        while let Some(first) = self.used.iter().position(|&used| !used) {
            let mut set = batch.seq_sets[first];
            self.idxs.clear();
            for i in first..batch.n_tokens() {
                if self.idxs.len() == n_ubatch {
                    break;
                }
                if !self.used[i] && set.and(&batch.seq_sets[i]) == batch.seq_sets[i] {
                    set = batch.seq_sets[i];
                    self.used[i] = true;
                    self.idxs.push(i as u32);
                }
            }
            self.add(batch, 1, true);
        }
    }

    /// Makes the next ubatch of the tokens in `idxs`.
    fn add(&mut self, batch: &BatchData, n_seqs: usize, equal_seqs: bool) {
        if self.n == self.pool.len() {
            self.pool.push(Ubatch::default());
        }
        self.pool[self.n].fill(batch, &self.idxs, n_seqs, equal_seqs);
        self.n += 1;
    }
}

/// No token or group follows.
const NONE: u32 = u32::MAX;

/// The tokens of a batch by sequence set, each set's in order.
#[derive(Debug, Default)]
struct Groups {
    list: Vec<Group>,
    of_token: Vec<u32>, // [n_tokens]
    next: Vec<u32>,     // [n_tokens], the next token of the same group
    by_seq: Vec<u32>,   // [MAX_SEQ], the newest group that has this as its smallest sequence
}

#[derive(Debug)]
struct Group {
    set: SeqSet,
    head: u32, // first token not yet taken
    tail: u32,
    n_left: usize,
    older: u32, // the next group with the same smallest sequence
}

impl Groups {
    fn fill(&mut self, batch: &BatchData) {
        self.list.clear();
        self.of_token.clear();
        self.next.clear();
        self.next.resize(batch.n_tokens(), NONE);
        self.by_seq.clear();
        self.by_seq.resize(MAX_SEQ, NONE);
        for (i, set) in batch.seq_sets.iter().enumerate() {
            let i = i as u32;
            let g = self.find_or_add(set, i);
            let group = &mut self.list[g as usize];
            if group.n_left > 0 {
                self.next[group.tail as usize] = i;
            }
            group.tail = i;
            group.n_left += 1;
            self.of_token.push(g);
        }
    }

    fn find_or_add(&mut self, set: &SeqSet, token: u32) -> u32 {
        let smallest = set.iter().next().expect("a checked batch has a sequence for every token");
        let mut g = self.by_seq[smallest];
        while g != NONE && self.list[g as usize].set != *set {
            g = self.list[g as usize].older;
        }
        if g == NONE {
            g = self.list.len() as u32;
            let older = std::mem::replace(&mut self.by_seq[smallest], g);
            self.list.push(Group { set: *set, head: token, tail: token, n_left: 0, older });
        }
        g
    }

    /// Takes the first token that is left of a group.
    fn take(&mut self, g: u32) -> u32 {
        let group = &mut self.list[g as usize];
        let token = group.head;
        group.head = self.next[token as usize];
        group.n_left -= 1;
        token
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::context::batch::{Batch, BatchRules, Outputs};
    use crate::memory::{FULL, MemoryConfig, SWA, Window};

    fn batch(seqs: &[&[i32]], logits: &[i8]) -> BatchData {
        let rules =
            BatchRules { n_tokens_max: 4096, n_vocab: 4096, n_embd: 2, n_seq_max: 16, outputs: Outputs::Marked };
        let tokens: Vec<i32> = (0..seqs.len() as i32).collect();
        let mut ids = SeqIds::default();
        seqs.iter().for_each(|s| ids.push(s));
        let given = Batch::new(seqs.len(), Some(&tokens), None, 0).unwrap().with_seq_ids(&ids).unwrap();
        let mut next = [0; 16];
        let pos: Vec<i32> = seqs
            .iter()
            .map(|s| {
                s.iter().for_each(|&q| next[q as usize] += 1);
                next[s[0] as usize] - 1
            })
            .collect();
        let mut data = BatchData::default();
        data.fill(&given.with_pos(&pos).unwrap().with_logits(logits).unwrap(), &rules, None).unwrap();
        data
    }

    fn split(batch: &BatchData, how: Split, n_ubatch: usize) -> Vec<Vec<u32>> {
        let mut ubatches = Ubatches::default();
        ubatches.split(batch, how, n_ubatch).unwrap();
        ubatches.get().iter().map(|u| u.batch_idxs.clone()).collect()
    }

    #[test]
    fn splits_are_llama_cpps() {
        // tokens 0..8 of the sequences 0 1 0 2 2 2 1 4
        let data = batch(&[&[0], &[1], &[0], &[2], &[2], &[2], &[1], &[4]], &[0; 8]);
        assert_eq!(split(&data, Split::Simple, 3), [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7]]);
        assert_eq!(split(&data, Split::Equal, 8), [vec![0, 1, 3, 7], vec![2, 4, 6], vec![5]]);
        assert_eq!(split(&data, Split::Equal, 4), [vec![0, 1, 3, 7], vec![2, 4, 6], vec![5]]);
        assert_eq!(split(&data, Split::Equal, 3), [vec![0, 1, 3], vec![2, 4, 6], vec![5, 7]]);
        assert_eq!(split(&data, Split::Sequential, 8), [vec![0, 2, 1, 6, 3, 4], vec![5], vec![7]]);
        assert_eq!(split(&data, Split::Seq, 2), [vec![0, 2], vec![1, 6], vec![3, 4], vec![5], vec![7]]);
    }

    #[test]
    fn coupled_sequences_split_as_sets() {
        let data = batch(&[&[0, 1], &[0, 1], &[2], &[1], &[0]], &[1; 5]);
        assert_eq!(split(&data, Split::Equal, 8), [vec![0, 2], vec![1], vec![3, 4]]);
        assert_eq!(split(&data, Split::Seq, 8), [vec![0, 1, 3], vec![2], vec![4]]);
        let mut ubatches = Ubatches::default();
        assert!(matches!(ubatches.split(&data, Split::Sequential, 8), Err(Error::NoSlot { n_tokens: 5 })));
    }

    #[test]
    fn a_batch_is_placed_for_every_kind_of_memory() {
        for (kv_unified, window) in
            [(true, Window::None), (false, Window::None), (true, Window::Standard(64)), (false, Window::Chunked(64))]
        {
            let config = MemoryConfig {
                n_ctx_seq: 256,
                n_seq_max: 16,
                n_ubatch: 32,
                kv_unified,
                window,
                swa_full: false,
                can_rotate: true,
            };
            let mut memory = Memory::new(&config).unwrap();
            let seqs: Vec<&[i32]> = (0..120).map(|i| &[[0], [1], [2]][i % 3][..]).collect();
            let data = batch(&seqs, &[0; 120]);
            let mut ubatches = Ubatches::default();
            let mut reservation = Reservation::default();
            ubatches.place(&data, 32, &mut memory, &mut reservation).unwrap();
            for (i, ubatch) in ubatches.get().iter().enumerate() {
                memory.apply(ubatch.placed(), &reservation, i);
                memory.commit();
                assert_eq!(reservation.rows(FULL, i).len(), ubatch.n_tokens());
            }
            assert_eq!((memory.pos_min(2), memory.pos_max(2)), (Some(0), Some(39)));
            assert_eq!(memory.groups().get(SWA).is_some(), window != Window::None);
            let long: Vec<&[i32]> = vec![&[5]; 300];
            let refused = ubatches.place(&batch(&long, &[0; 300]), 32, &mut memory, &mut reservation);
            assert!(matches!(refused, Err(Error::NoSlot { .. })));
        }
    }

    proptest! {
        #[test]
        fn every_token_is_in_one_ubatch(
            tokens in prop::collection::vec((0..5i32, any::<bool>()), 1..60),
            n_ubatch in 1..20usize,
            kind in 0..4usize,
        ) {
            let how = [Split::Simple, Split::Equal, Split::Sequential, Split::Seq][kind];
            let seqs: Vec<[i32; 1]> = tokens.iter().map(|t| [t.0]).collect();
            let seqs: Vec<&[i32]> = seqs.iter().map(|s| &s[..]).collect();
            let logits: Vec<i8> = tokens.iter().map(|t| i8::from(t.1)).collect();
            let data = batch(&seqs, &logits);
            let mut ubatches = Ubatches::default();
            ubatches.split(&data, how, n_ubatch).unwrap();

            let mut next = [0; 5];
            let mut rows = vec![-1; tokens.len()];
            for ubatch in ubatches.get() {
                prop_assert!(ubatch.n_tokens() <= n_ubatch && ubatch.n_tokens() > 0);
                prop_assert_eq!(ubatch.n_seqs * ubatch.n_seq_tokens, ubatch.n_tokens());
                let ids = &ubatch.seq_id_unq;
                prop_assert!(how != Split::Sequential || ids.windows(2).all(|w| w[1] == w[0] + 1));
                prop_assert!(!ubatch.equal_seqs || ids.len() == ubatch.n_seqs);
                for (k, &i) in ubatch.batch_idxs.iter().enumerate() {
                    let seq = ubatch.seq_ids.get(k)[0];
                    prop_assert_eq!((ubatch.tokens[k], seq), (i as i32, tokens[i as usize].0));
                    prop_assert_eq!(ubatch.pos[k], next[seq as usize]);
                    next[seq as usize] += 1;
                    prop_assert_eq!(ubatch.seq_id_unq[ubatch.seq_idx[seq as usize] as usize], seq);
                }
                for (&k, &row) in ubatch.out_ids.iter().zip(&ubatch.out_rows) {
                    rows[ubatch.batch_idxs[k as usize] as usize] = row as i32;
                }
            }
            prop_assert_eq!(next.iter().sum::<i32>() as usize, tokens.len());
            let mut n_outputs = 0;
            for (row, token) in rows.into_iter().zip(&tokens) {
                prop_assert_eq!(row, if token.1 { n_outputs } else { -1 });
                n_outputs += i32::from(token.1);
            }
            prop_assert_eq!(data.n_outputs, n_outputs as usize);
        }
    }
}
