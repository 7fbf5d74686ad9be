//! Samplers that work while a batch is computed: which sequences have one, and what they made of the rows of the last batch.
//! Decoding hands them the rows; callers ask for the results by the token's index in the batch.

use std::collections::BTreeMap;

use super::Context;
use crate::error::{Error, Result};
use crate::memory::MAX_SEQ;
use crate::sampling::{Row, RowSampler, Token};

/// See the module.
#[derive(Default)]
pub struct Sampling {
    samplers: BTreeMap<i32, Box<dyn RowSampler>>,
    /// By row of the outputs; empty when no sequence had a sampler.
    rows: Vec<Option<Row>>,
    /// All tokens of the vocabulary.
    all_tokens: Vec<Token>,
}

impl Sampling {
    /// A batch begins, with this many outputs.
    pub(super) fn begin(&mut self, n_outputs: usize) {
        self.rows.clear();
        if !self.samplers.is_empty() {
            self.rows.resize(n_outputs, None);
            self.samplers.values_mut().for_each(|sampler| sampler.begin());
        }
    }

    /// Forgets the results.
    pub(super) fn forget(&mut self) {
        self.rows.clear();
    }
}

impl Context {
    /// Attaches a sampler to a sequence, from the next batch on, or with `None` takes it away. The sampler in place is dropped.
    ///
    /// # Errors
    /// There can be no such sequence.
    pub fn set_sampler(&mut self, seq: i32, sampler: Option<Box<dyn RowSampler>>) -> Result<()> {
        match sampler {
            None => drop(self.sampling.samplers.remove(&seq)),
            Some(_) if !(0..MAX_SEQ as i32).contains(&seq) => {
                return Err(Error::argument(format!("there can be no sequence {seq}")));
            }
            Some(sampler) => drop(self.sampling.samplers.insert(seq, sampler)),
        }
        Ok(())
    }

    /// Refuses more outputs of a sequence that has a sampler than the sampler was told.
    pub(super) fn check_sampled_outputs(&self) -> Result<()> {
        let (batch, most) = (&self.work.batch, self.settings.n_outputs_max_per_seq as usize);
        for &seq in self.sampling.samplers.keys() {
            let has_output = |(i, row): (usize, &i32)| *row >= 0 && batch.seq_ids.get(i).contains(&seq);
            let n = batch.output_ids.iter().enumerate().filter(|entry| has_output(*entry)).count();
            if n > most {
                return Err(Error::argument(format!(
                    "{n} outputs of sequence {seq}, whose sampler is for n_outputs_max_per_seq = {most}"
                )));
            }
        }
        Ok(())
    }

    /// Has samplers work on the rows that ubatch `i` computed.
    pub(super) fn sample_rows(&mut self, i: usize) {
        let (ubatch, outputs) = (&self.work.ubatches.get()[i], &self.outputs);
        if self.sampling.rows.is_empty() || outputs.n_vocab == 0 {
            return;
        }
        for (&token, &row) in ubatch.out_ids.iter().zip(&ubatch.out_rows) {
            let seq = ubatch.seq_ids.get(token as usize)[0];
            if let Some(sampler) = self.sampling.samplers.get_mut(&seq) {
                let row = row as usize;
                let logits = outputs.logits[row * outputs.n_vocab..][..outputs.n_vocab].to_vec();
                let mut result = Row { logits, ..Row::default() };
                sampler.sample(&mut result);
                self.sampling.rows[row] = Some(result);
            }
        }
    }

    /// What a sampler made of the row of token `i` of the last batch, negative `i` counting outputs from the last; `None` if
    /// its sequence had no sampler.
    ///
    /// # Errors
    /// Some sequence had a sampler, and the batch has no such output.
    pub fn sampled(&mut self, i: i32) -> Result<Option<&mut Row>> {
        if self.sampling.rows.is_empty() {
            return Ok(None);
        }
        let row = self.outputs.row(i)?;
        Ok(self.sampling.rows.get_mut(row).and_then(Option::as_mut))
    }

    /// Whether a sequence had a sampler in the last batch.
    pub fn has_sampled(&self) -> bool {
        !self.sampling.rows.is_empty()
    }

    /// All tokens of the vocabulary, in order: the candidates where samplers dropped none.
    pub fn all_tokens(&mut self) -> &mut [Token] {
        let n = self.model.vocab.n_tokens() as Token;
        let all = &mut self.sampling.all_tokens;
        if all.len() != n as usize {
            *all = (0..n).collect();
        }
        all
    }
}
