//! What is done with a context, written once and run on our library and on llama.cpp's. A scenario records every row that
//! it reads, to be compared by distance, and notes on what must be equal: statuses, positions, which rows are there.

use super::engine::{Engine, Tok};
use super::tiny::Random;

/// What a scenario saw.
#[derive(Debug, Default)]
pub struct Trace {
    pub rows: Vec<Vec<f32>>,
    pub notes: Vec<String>,
}

/// A run of a scenario: the context, the trace, and the tokens of each sequence, which are the same on every engine.
pub struct Run<'a> {
    pub engine: &'a mut dyn Engine,
    pub trace: Trace,
    random: Random,
    n_vocab: usize,
}

/// A scenario.
pub type Scenario = fn(&mut Run);

impl<'a> Run<'a> {
    pub fn new(engine: &'a mut dyn Engine, n_vocab: usize) -> Run<'a> {
        Run { engine, trace: Trace::default(), random: Random::new(42), n_vocab }
    }

    /// A token at a position of a sequence.
    pub fn tok(&mut self, seq: i32, pos: i32, output: bool) -> Tok {
        Tok { id: self.random.below(self.n_vocab) as i32, pos, seqs: vec![seq], output }
    }

    /// Tokens at positions `from..from + n`.
    pub fn toks(&mut self, seq: i32, from: i32, n: i32, output: bool) -> Vec<Tok> {
        (from..from + n).map(|pos| self.tok(seq, pos, output)).collect()
    }

    pub fn note(&mut self, what: impl Into<String>) {
        self.trace.notes.push(what.into());
    }

    /// Decodes and records the logits of the tokens that ask for them.
    pub fn decode(&mut self, batch: &[Tok]) {
        let status = self.engine.decode(batch);
        self.note(format!("decode of {}: {status}", batch.len()));
        if status == 0 {
            self.record_logits(batch);
        }
    }

    pub fn record_logits(&mut self, batch: &[Tok]) {
        for (i, _) in batch.iter().enumerate().filter(|(_, t)| t.output) {
            let row = self.engine.logits(i as i32);
            self.record(&format!("logits {i}"), row);
        }
    }

    pub fn record(&mut self, what: &str, row: Option<Vec<f32>>) {
        match row {
            Some(row) => self.trace.rows.push(row),
            None => self.note(format!("no {what}")),
        }
    }

    pub fn note_positions(&mut self, n_seqs: i32) {
        for seq in 0..n_seqs {
            let positions = self.engine.positions(seq);
            self.note(format!("seq {seq}: {positions:?}"));
        }
    }
}

/// A prompt with all outputs, then single tokens.
pub fn prompt_then_steps(run: &mut Run) {
    let prompt = run.toks(0, 0, 24, true);
    run.decode(&prompt);
    for pos in 24..29 {
        let step = run.toks(0, pos, 1, true);
        run.decode(&step);
    }
    run.note_positions(1);
}

/// Three sequences token by token in one batch, then a step of all and a step of two.
pub fn interleaved(run: &mut Run) {
    let mut batch = Vec::new();
    for pos in 0..11 {
        for seq in 0..3 {
            if pos < 11 - 3 * seq {
                batch.push(run.tok(seq, pos, pos % 2 == 0));
            }
        }
    }
    run.decode(&batch);
    let steps: Vec<Tok> = (0..3).map(|seq| run.tok(seq, 11 - 3 * seq, true)).collect();
    run.decode(&steps);
    let steps: Vec<Tok> = [2, 0].iter().map(|&seq| run.tok(seq, 12 - 3 * seq, true)).collect();
    run.decode(&steps);
    run.note_positions(3);
}

/// Outputs for a subset of the tokens, for none, and rows asked for by negative and wrong numbers.
pub fn subsets(run: &mut Run) {
    let mut batch = run.toks(0, 0, 20, false);
    for i in [0, 3, 4, 11, 19] {
        batch[i].output = true;
    }
    run.decode(&batch);
    for i in [-1, -5, -6, 1, 20] {
        let row = run.engine.logits(i);
        run.record(&format!("logits {i}"), row);
    }
    let silent = run.toks(0, 20, 3, false);
    run.decode(&silent);
    let last = run.toks(0, 23, 2, true);
    run.decode(&last);
}

/// Longer than a sliding window, in pieces.
pub fn long_prompt(run: &mut Run) {
    for (from, n) in [(0, 40), (40, 1), (41, 30), (71, 1), (72, 1)] {
        let mut batch = run.toks(0, from, n, false);
        for tok in batch.iter_mut().skip(n as usize / 2) {
            tok.output = true;
        }
        run.decode(&batch);
    }
    run.note_positions(1);
}

/// Positions beyond the original context of a model with scaled positions.
pub fn far_positions(run: &mut Run) {
    let near = run.toks(0, 0, 8, true);
    run.decode(&near);
    for seq in 1..3 {
        let far = run.toks(seq, 300 * seq, 12, true);
        run.decode(&far);
    }
}

/// Rows of embeddings as input, then tokens.
pub fn embeddings_in(run: &mut Run) {
    let batch = run.toks(0, 0, 7, true);
    let mut random = Random::new(9);
    let embd: Vec<f32> = (0..7 * 64).map(|_| random.normal()).collect();
    let status = run.engine.decode_embd(&batch, &embd);
    run.note(format!("embeddings: {status}"));
    run.record_logits(&batch);
    let steps = run.toks(0, 7, 3, true);
    run.decode(&steps);
}

/// Embeddings of each token, beside the logits.
pub fn embeddings_out(run: &mut Run) {
    let batch = run.toks(0, 0, 13, true);
    let status = run.engine.decode(&batch);
    run.note(format!("decode: {status}"));
    for i in 0..13 {
        let row = run.engine.embeddings(i);
        run.record(&format!("embeddings {i}"), row);
        let row = run.engine.logits(i);
        run.record(&format!("logits {i}"), row);
    }
}

/// Embeddings of the tokens of an encoder.
pub fn encode_tokens(run: &mut Run) {
    let batch = run.toks(0, 0, 17, true);
    let status = run.engine.decode(&batch);
    run.note(format!("encode: {status}"));
    for i in 0..17 {
        let row = run.engine.embeddings(i);
        run.record(&format!("embeddings {i}"), row);
    }
}

/// Pooled embeddings of three texts in one batch, then of one.
pub fn pooled(run: &mut Run) {
    let mut batch = Vec::new();
    for (seq, n) in [(0, 9), (1, 5), (2, 1)] {
        batch.extend(run.toks(seq, 0, n, true));
    }
    let again = run.toks(1, 0, 6, true);
    for batch in [batch, again] {
        run.engine.clear();
        let status = run.engine.decode(&batch);
        run.note(format!("encode: {status}"));
        let mut seqs: Vec<i32> = batch.iter().map(|t| t.seqs[0]).collect();
        seqs.dedup();
        for seq in seqs {
            let row = run.engine.embeddings_seq(seq);
            run.record(&format!("embedding of {seq}"), row);
        }
    }
}

/// Removing, copying and keeping sequences.
pub fn edit_sequences(run: &mut Run) {
    let mut batch = run.toks(0, 0, 12, false);
    batch.extend(run.toks(1, 0, 9, false));
    run.decode(&batch);
    let removed = run.engine.seq_rm(0, 8, -1);
    run.note(format!("removed: {removed}"));
    run.note_positions(3);
    let step = run.toks(0, 8, 2, true);
    run.decode(&step);
    run.engine.seq_cp(0, 2, -1, -1);
    run.note_positions(3);
    let step: Vec<Tok> = [(0, 10), (1, 9), (2, 10)].into_iter().map(|(seq, pos)| run.tok(seq, pos, true)).collect();
    run.decode(&step);
    let removed = run.engine.seq_rm(1, -1, -1);
    run.note(format!("removed: {removed}"));
    let fresh = run.toks(1, 0, 5, true);
    run.decode(&fresh);
    run.note_positions(3);
    run.engine.seq_keep(2);
    run.note_positions(3);
    let step = run.toks(2, 11, 2, true);
    run.decode(&step);
    run.engine.clear();
    run.note_positions(3);
    let fresh = run.toks(0, 0, 4, true);
    run.decode(&fresh);
}

/// A prompt shared by sequences: tokens in several at once, and parts copied. Needs a unified cache.
pub fn shared_prompt(run: &mut Run) {
    let mut batch = run.toks(0, 0, 8, true);
    batch.iter_mut().for_each(|t| t.seqs = vec![0, 1, 2]);
    run.decode(&batch);
    let step: Vec<Tok> = (0..3).map(|seq| run.tok(seq, 8, true)).collect();
    run.decode(&step);
    run.engine.seq_rm(2, 4, -1);
    run.engine.seq_cp(1, 2, 4, 7);
    run.note_positions(3);
    let step: Vec<Tok> = [(2, 7), (1, 9)].into_iter().map(|(seq, pos)| run.tok(seq, pos, true)).collect();
    run.decode(&step);
}

/// The way of a chat that outgrows its context: the middle goes, the rest moves down. Keys are rotated.
pub fn shift(run: &mut Run) {
    let can = run.engine.can_shift();
    run.note(format!("can shift: {can}"));
    let batch = run.toks(0, 0, 30, false);
    run.decode(&batch);
    run.engine.seq_rm(0, 4, 14);
    run.engine.seq_add(0, 14, -1, -10);
    run.note_positions(1);
    let step = run.toks(0, 20, 3, true);
    run.decode(&step);
    run.engine.seq_add(0, 0, -1, 5);
    run.note_positions(1);
    let step = run.toks(0, 28, 2, true);
    run.decode(&step);
}

/// More tokens than cells: refused, and nothing changed.
pub fn full(run: &mut Run) {
    let batch = run.toks(0, 0, 200, false);
    run.decode(&batch);
    let too_many = run.toks(0, 200, 57, true);
    run.decode(&too_many);
    run.note_positions(1);
    let rest = run.toks(0, 200, 56, true);
    run.decode(&rest);
    let one = run.toks(0, 256, 1, true);
    run.decode(&one);
    run.note_positions(1);
    run.engine.seq_rm(0, 128, -1);
    let step = run.toks(0, 128, 2, true);
    run.decode(&step);
}

/// Batches that llama.h calls invalid: refused, and nothing changed.
pub fn invalid(run: &mut Run) {
    let batch = run.toks(0, 0, 5, true);
    run.decode(&batch);
    let wrong: [fn(&mut [Tok]); 6] = [
        |b| b[1].id = -1,
        |b| b[1].id = 100_000,
        |b| b[1].seqs = vec![7],
        |b| b[1].pos = 9,
        |b| b[0].pos = 3,
        |b| b[1].seqs = vec![-1],
    ];
    for spoil in wrong {
        let mut batch = run.toks(0, 5, 3, true);
        spoil(&mut batch);
        run.decode(&batch);
        run.note_positions(1);
    }
    let step = run.toks(0, 5, 2, true);
    run.decode(&step);
}

/// Attention in both directions, and back.
pub fn non_causal(run: &mut Run) {
    run.engine.set_causal(false);
    let batch = run.toks(0, 0, 10, true);
    run.decode(&batch);
    run.engine.set_causal(true);
    let step = run.toks(0, 10, 4, true);
    run.decode(&step);
}
