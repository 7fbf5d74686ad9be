//! A caller's batch: the borrowed view that `capi` makes of a `llama_batch`, and the complete, checked copy of it that is
//! cut into ubatches. Called by the decode and encode of `context`.

use crate::memory::{MAX_SEQ, Memory, SeqIds, SeqSet};
use crate::{Error, Result};

/// A batch as the caller gives it; what is `None` gets llama.h's defaults.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    n_tokens: usize,
    n_embd: usize,
    tokens: Option<&'a [i32]>, // [n_tokens]
    embd: Option<&'a [f32]>,   // [n_tokens, n_embd]
    pos: Option<&'a [i32]>,
    seq_ids: Option<&'a SeqIds>,
    logits: Option<&'a [i8]>,
}

impl<'a> Batch<'a> {
    /// `n_tokens` tokens by id, by embedding of `n_embd` values each, or by both.
    pub fn new(
        n_tokens: usize,
        tokens: Option<&'a [i32]>,
        embd: Option<&'a [f32]>,
        n_embd: usize,
    ) -> Result<Batch<'a>> {
        if n_tokens == 0 {
            return Err(Error::argument("the batch has no tokens"));
        }
        if tokens.is_none() && embd.is_none() {
            return Err(Error::argument("the batch has neither token ids nor embeddings"));
        }
        check_len("token", tokens.map(<[i32]>::len), n_tokens)?;
        check_len("embd", embd.map(<[f32]>::len), n_tokens.saturating_mul(n_embd))?;
        Ok(Batch { n_tokens, n_embd, tokens, embd, pos: None, seq_ids: None, logits: None })
    }

    /// With one position per token.
    pub fn with_pos(self, pos: &'a [i32]) -> Result<Batch<'a>> {
        check_len("pos", Some(pos.len()), self.n_tokens)?;
        Ok(Batch { pos: Some(pos), ..self })
    }

    /// With the sequences of each token.
    pub fn with_seq_ids(self, seq_ids: &'a SeqIds) -> Result<Batch<'a>> {
        check_len("seq_id", Some(seq_ids.len()), self.n_tokens)?;
        Ok(Batch { seq_ids: Some(seq_ids), ..self })
    }

    /// With a mark per token: not 0 where an output is wanted.
    pub fn with_logits(self, logits: &'a [i8]) -> Result<Batch<'a>> {
        check_len("logits", Some(logits.len()), self.n_tokens)?;
        Ok(Batch { logits: Some(logits), ..self })
    }

    /// The number of tokens, more than 0.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }
}

fn check_len(what: &str, found: Option<usize>, expected: usize) -> Result<()> {
    match found {
        Some(n) if n != expected => Err(Error::argument(format!("the batch has {n} values of {what}, not {expected}"))),
        _ => Ok(()),
    }
}

/// Which tokens of a batch get an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// Those that the caller marked; without marks, the last.
    Marked,
    /// All, whatever is marked: contexts that make embeddings, and encoders.
    All,
}

/// What a context accepts in a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchRules {
    /// Most tokens of one batch.
    pub n_tokens_max: usize,
    /// Token ids are below this.
    pub n_vocab: i32,
    /// The length of an input embedding.
    pub n_embd: usize,
    /// Sequence ids are below this; at most [`MAX_SEQ`].
    pub n_seq_max: u32,
    /// Which tokens get an output.
    pub outputs: Outputs,
}

/// A complete and consistent batch. Its buffers are reused from batch to batch.
#[derive(Debug, Default)]
pub struct BatchData {
    /// Token ids; empty when there are only embeddings.
    pub tokens: Vec<i32>,
    /// Embeddings, `[n_tokens, n_embd]`; empty when there are only token ids.
    pub embd: Vec<f32>,
    /// The length of an embedding.
    pub n_embd: usize,
    /// Positions, in each sequence the next or the same as that of its token before.
    pub pos: Vec<i32>,
    /// The sequences of each token, at least one, none twice.
    pub seq_ids: SeqIds,
    /// The same as sets.
    pub seq_sets: Vec<SeqSet>,
    /// For each token the row of its output, counted over the batch; -1 for no output.
    pub output_ids: Vec<i32>,
    /// The number of outputs.
    pub n_outputs: usize,
    /// Whether some token belongs to several sequences.
    pub has_coupled: bool,
    seen: Vec<i32>, // the sequences of one token
}

impl BatchData {
    /// The number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.pos.len()
    }

    /// Takes over a batch: fills in what the caller left out and checks everything. Positions continue those in `memory`;
    /// without one they begin at 0.
    ///
    /// # Errors
    /// [`Error::Argument`], for which llama.h's decode returns -1: too many tokens; ids out of range; positions of a sequence
    /// that decrease, have holes, or do not follow the last in memory; sequences that share a token but not a history.
    pub fn fill(&mut self, batch: &Batch, rules: &BatchRules, memory: Option<&Memory>) -> Result<()> {
        if batch.n_tokens > rules.n_tokens_max {
            let max = rules.n_tokens_max;
            return Err(Error::argument(format!(
                "the batch has {} tokens, at most {max} are possible",
                batch.n_tokens
            )));
        }
        self.fill_content(batch, rules)?;
        self.fill_seq_ids(batch, rules)?;
        self.fill_pos(batch, memory)?;
        self.fill_outputs(batch, rules);
        self.check_sequences(memory)
    }

    fn fill_content(&mut self, batch: &Batch, rules: &BatchRules) -> Result<()> {
        self.tokens.clear();
        self.tokens.extend_from_slice(batch.tokens.unwrap_or_default());
        if let Some(i) = self.tokens.iter().position(|id| !(0..rules.n_vocab).contains(id)) {
            let (id, n_vocab) = (self.tokens[i], rules.n_vocab);
            return Err(Error::argument(format!("token[{i}] is {id}, not in 0..{n_vocab}")));
        }
        self.embd.clear();
        self.embd.extend_from_slice(batch.embd.unwrap_or_default());
        self.n_embd = rules.n_embd;
        if batch.embd.is_some() && batch.n_embd != rules.n_embd {
            let (found, expected) = (batch.n_embd, rules.n_embd);
            return Err(Error::argument(format!("embeddings of the batch have {found} values, not {expected}")));
        }
        Ok(())
    }

    fn fill_seq_ids(&mut self, batch: &Batch, rules: &BatchRules) -> Result<()> {
        let n_seq_max = rules.n_seq_max.min(MAX_SEQ as u32) as i32;
        self.seq_ids.clear();
        self.seq_sets.clear();
        self.has_coupled = false;
        for i in 0..batch.n_tokens {
            let given = batch.seq_ids.map_or(&[0][..], |ids| ids.get(i));
            if given.is_empty() {
                return Err(Error::argument(format!("token {i} of the batch belongs to no sequence")));
            }
            if let Some(seq) = given.iter().find(|seq| !(0..n_seq_max).contains(seq)) {
                return Err(Error::argument(format!("seq_id {seq} of token {i} is not in 0..{n_seq_max}")));
            }
            let mut set = SeqSet::default();
            self.seen.clear();
            for &seq in given {
                if !set.contains(seq as usize) {
                    set.insert(seq as usize);
                    self.seen.push(seq);
                }
            }
            self.has_coupled |= self.seen.len() > 1;
            self.seq_ids.push(&self.seen);
            self.seq_sets.push(set);
        }
        Ok(())
    }

    fn fill_pos(&mut self, batch: &Batch, memory: Option<&Memory>) -> Result<()> {
        self.pos.clear();
        match batch.pos {
            Some(pos) => self.pos.extend_from_slice(pos),
            None => self.continue_positions(memory),
        }
        match self.pos.iter().position(|pos| !(0..i32::MAX).contains(pos)) {
            Some(i) => Err(Error::argument(format!("pos[{i}] of the batch is {}", self.pos[i]))),
            None => Ok(()),
        }
    }

    /// Each token gets the position after the last of its first sequence.
    fn continue_positions(&mut self, memory: Option<&Memory>) {
        let mut next = [None; MAX_SEQ];
        for seqs in self.seq_ids.iter() {
            let seq = seqs[0];
            let pos = next[seq as usize].unwrap_or_else(|| last_pos(memory, seq).map_or(0, |last| last + 1));
            self.pos.push(pos);
            next[seq as usize] = Some(pos.saturating_add(1));
        }
    }

    fn fill_outputs(&mut self, batch: &Batch, rules: &BatchRules) {
        let last = batch.n_tokens - 1;
        let mut n_outputs = 0;
        let mut n_unmarked = 0;
        self.output_ids.clear();
        self.output_ids.extend((0..batch.n_tokens).map(|i| {
            let marked = batch.logits.map_or(i == last, |logits| logits[i] != 0);
            n_unmarked += usize::from(!marked);
            if marked || rules.outputs == Outputs::All {
                n_outputs += 1;
                n_outputs - 1
            } else {
                -1
            }
        }));
        self.n_outputs = n_outputs as usize;
        if rules.outputs == Outputs::All && batch.logits.is_some() && n_unmarked > 0 {
            log::warn!("embeddings need every token as output, also the {n_unmarked} that the batch does not mark");
        }
    }

    /// Checks each sequence against itself, those that it shares tokens with, and the memory.
    fn check_sequences(&self, memory: Option<&Memory>) -> Result<()> {
        let mut last = [None; MAX_SEQ]; // position
        for (seqs, &pos) in self.seq_ids.iter().zip(&self.pos) {
            for &seq in seqs {
                check_position(seq, pos, last[seq as usize], memory)?;
                check_coupled(seqs[0], seq, memory)?;
                last[seq as usize] = Some(pos);
            }
        }
        Ok(())
    }
}

fn last_pos(memory: Option<&Memory>, seq: i32) -> Option<i32> {
    memory.and_then(|m| m.pos_max(seq))
}

/// A token's position against that of the sequence's token before it, in the batch (`last`) or in memory.
fn check_position(seq: i32, pos: i32, last: Option<i32>, memory: Option<&Memory>) -> Result<()> {
    let (ok, before) = match last {
        Some(last) => (pos == last || pos == last + 1, Some(last)),
        None => {
            let stored = last_pos(memory, seq);
            (stored.is_none_or(|x| pos == x + 1), stored)
        }
    };
    if ok {
        return Ok(());
    }
    let before = before.unwrap_or(-1);
    Err(Error::argument(format!("position {pos} of sequence {seq} does not follow its last position {before}")))
}

/// Sequences that share a token must have the same positions in memory.
fn check_coupled(a: i32, b: i32, memory: Option<&Memory>) -> Result<()> {
    let Some(memory) = memory else { return Ok(()) };
    if a != b && (memory.pos_min(a) != memory.pos_min(b) || memory.pos_max(a) != memory.pos_max(b)) {
        return Err(Error::argument(format!("sequences {a} and {b} share a token, but have diverged before")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryConfig, Reservation, Tokens, Window};

    const RULES: BatchRules =
        BatchRules { n_tokens_max: 8, n_vocab: 10, n_embd: 2, n_seq_max: 4, outputs: Outputs::Marked };

    /// A memory in which the given sequences have positions `0..n`.
    fn memory(seqs: &[(i32, i32)]) -> Memory {
        let mut memory = Memory::new(&MemoryConfig {
            n_ctx_seq: 256,
            n_seq_max: 4,
            n_ubatch: 8,
            kv_unified: true,
            window: Window::None,
            swa_full: false,
            can_rotate: true,
        })
        .unwrap();
        let mut pos = Vec::new();
        let mut seq_ids = SeqIds::default();
        for &(seq, n) in seqs {
            pos.extend(0..n);
            (0..n).for_each(|_| seq_ids.push(&[seq]));
        }
        let tokens = Tokens { pos: &pos, seq_ids: &seq_ids };
        let mut reservation = Reservation::default();
        memory.reserve(std::iter::once(tokens), &mut reservation).unwrap();
        memory.apply(tokens, &reservation, 0);
        memory
    }

    fn ids(seqs: &[&[i32]]) -> SeqIds {
        let mut ids = SeqIds::default();
        seqs.iter().for_each(|s| ids.push(s));
        ids
    }

    /// Fills a batch of tokens with these positions and sequences.
    fn fill(pos: &[i32], seqs: &[&[i32]], memory: Option<&Memory>) -> Result<BatchData> {
        let (tokens, seq_ids) = (vec![1; pos.len()], ids(seqs));
        let batch = Batch::new(pos.len(), Some(&tokens), None, 0)?.with_pos(pos)?.with_seq_ids(&seq_ids)?;
        let mut data = BatchData::default();
        data.fill(&batch, &RULES, memory).map(|()| data)
    }

    #[test]
    fn defaults_are_llama_hs() {
        let mut data = BatchData::default();
        let batch = Batch::new(3, Some(&[7, 8, 9]), None, 0).unwrap();
        data.fill(&batch, &RULES, Some(&memory(&[(0, 5)]))).unwrap();
        assert_eq!((&data.pos[..], &data.output_ids[..], data.n_outputs), (&[5, 6, 7][..], &[-1, -1, 0][..], 1));
        assert_eq!((data.seq_ids.get(2), data.has_coupled), (&[0][..], false));
        data.fill(&batch, &BatchRules { outputs: Outputs::All, ..RULES }, None).unwrap();
        assert_eq!((&data.pos[..], &data.output_ids[..]), (&[0, 1, 2][..], &[0, 1, 2][..]));

        let batch = batch.with_logits(&[1, 0, 0]).unwrap();
        data.fill(&batch, &RULES, None).unwrap();
        assert_eq!(data.output_ids, [0, -1, -1]);

        let seq_ids = ids(&[&[1], &[0, 0, 2], &[1]]);
        let embd = [0.5; 6];
        let batch = Batch::new(3, None, Some(&embd), 2).unwrap().with_seq_ids(&seq_ids).unwrap();
        data.fill(&batch, &RULES, Some(&memory(&[(1, 3)]))).unwrap();
        assert_eq!((&data.pos[..], data.seq_ids.get(1)), (&[3, 0, 4][..], &[0, 2][..]));
        assert_eq!((data.tokens.len(), data.embd.len(), data.has_coupled), (0, 6, true));
    }

    #[test]
    fn malformed_batches_are_refused() {
        assert!(Batch::new(0, Some(&[]), None, 0).is_err());
        assert!(Batch::new(1, None, None, 0).is_err());
        assert!(Batch::new(2, Some(&[1]), None, 0).is_err());
        assert!(Batch::new(2, None, Some(&[0.0; 5]), 2).is_err());
        assert!(Batch::new(usize::MAX, None, Some(&[0.0; 5]), 2).is_err());
        let one = Batch::new(1, Some(&[1]), None, 0).unwrap();
        assert!(
            one.with_pos(&[]).is_err() && one.with_logits(&[0, 0]).is_err() && one.with_seq_ids(&ids(&[])).is_err()
        );

        let refused = |batch: Batch| matches!(BatchData::default().fill(&batch, &RULES, None), Err(Error::Argument(_)));
        for token in [-1, 10, i32::MIN, i32::MAX] {
            assert!(refused(Batch::new(2, Some(&[1, token]), None, 0).unwrap()));
        }
        assert!(refused(Batch::new(9, Some(&[1; 9]), None, 0).unwrap()));
        assert!(refused(Batch::new(1, None, Some(&[0.0; 3]), 3).unwrap()));
        for seqs in [&[][..], &[4], &[-1], &[0, i32::MAX]] {
            assert!(refused(one.with_seq_ids(&ids(&[seqs])).unwrap()));
        }
        for pos in [-1, i32::MIN, i32::MAX] {
            assert!(refused(one.with_pos(&[pos]).unwrap()));
        }
    }

    #[test]
    fn positions_follow_each_other_and_the_memory() {
        let m = memory(&[(0, 5), (1, 2)]);
        assert!(fill(&[5, 6, 2, 7], &[&[0], &[0], &[1], &[0]], Some(&m)).is_ok());
        assert!(fill(&[5, 5, 6], &[&[0], &[0], &[0]], Some(&m)).is_ok(), "a position may repeat");
        assert!(fill(&[100, 101], &[&[2], &[2]], Some(&m)).is_ok(), "a new sequence may begin anywhere");
        assert!(fill(&[4], &[&[0]], Some(&m)).is_err());
        assert!(fill(&[6], &[&[0]], Some(&m)).is_err());
        assert!(fill(&[5, 7], &[&[0], &[0]], Some(&m)).is_err());
        assert!(fill(&[1, 0], &[&[0], &[0]], None).is_err());
        assert!(fill(&[0, 2], &[&[0], &[0]], None).is_err());
    }

    #[test]
    fn sequences_that_share_tokens_share_their_history() {
        let m = memory(&[(0, 5), (1, 5), (2, 4)]);
        assert!(fill(&[5, 6], &[&[0, 1], &[0, 1]], Some(&m)).is_ok());
        assert!(fill(&[5], &[&[0, 2]], Some(&m)).is_err());
        assert!(fill(&[0, 1, 1], &[&[0, 1], &[0], &[1]], None).is_ok());
        assert!(fill(&[0, 1, 2], &[&[0, 1], &[0], &[0, 1]], None).is_err(), "sequence 1 has a hole");
    }
}
