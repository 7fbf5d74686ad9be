//! Samplers that work while a batch is computed: which sequences have one, and what they made of the rows of the last batch.
//! Decoding hands them the rows, or has the backend do their work where the logits are; callers ask for the results by the
//! token's index in the batch. What a device kept of them is fetched when it is asked for.

use std::collections::BTreeMap;

use super::Context;
use super::ubatch::Ubatch;
use crate::backend::sample::{Choice, Recipe};
use crate::error::{Error, Result};
use crate::memory::MAX_SEQ;
use crate::sampling::{Row, RowSampler, Token};

/// See the module.
#[derive(Default)]
pub struct Sampling {
    samplers: BTreeMap<i32, Box<dyn RowSampler>>,
    /// By row of the outputs; empty when no sequence had a sampler.
    rows: Vec<Option<Outcome>>,
    /// For a device, by row of the ubatch.
    pub(super) recipes: Vec<Option<Recipe>>,
    /// What a device chose, by row of the ubatch.
    pub(super) choices: Vec<Option<Choice>>,
    /// The logits that a device kept.
    pub(super) kept: Option<Kept>,
    /// All tokens of the vocabulary.
    all_tokens: Vec<Token>,
}

/// What became of a row.
#[derive(Clone)]
enum Outcome {
    Row(Row),
    /// A device chose a token out of the whole vocabulary; the rest is made of the logits when it is asked for.
    Chosen(Option<Token>, Recipe),
}

/// Logits of the last batch that are still on a device.
pub(super) struct Kept {
    /// The plan that computed them.
    pub plan: u64,
    /// Which of its outputs they are.
    pub output: usize,
    /// The rows of the outputs that they are.
    pub rows: Vec<u32>,
}

impl Sampling {
    /// Finds what a device can choose of a ubatch's rows; whether there is anything.
    pub(super) fn find_recipes(&mut self, ubatch: &Ubatch) -> bool {
        self.recipes.clear();
        self.choices.clear();
        if self.samplers.is_empty() {
            return false;
        }
        let seq_of = |token: i32| ubatch.seq_ids.get(token as usize)[0];
        for (i, &token) in ubatch.out_ids.iter().enumerate() {
            let seq = seq_of(token);
            let recipe = self.samplers.get(&seq).and_then(|sampler| {
                let n_before = ubatch.out_ids[..i].iter().filter(|&&t| seq_of(t) == seq).count();
                sampler.recipe(n_before)
            });
            self.recipes.push(recipe);
        }
        self.recipes.iter().any(Option::is_some)
    }

    /// A batch begins, with this many outputs.
    pub(super) fn begin(&mut self, n_outputs: usize) {
        self.forget();
        if !self.samplers.is_empty() {
            self.rows.resize(n_outputs, None);
            self.samplers.values_mut().for_each(|sampler| sampler.begin());
        }
    }

    /// Forgets the results.
    pub(super) fn forget(&mut self) {
        self.rows.clear();
        self.choices.clear();
        self.kept = None;
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

    /// Has samplers work on the rows that ubatch `i` computed, or takes what a device made of them.
    pub(super) fn sample_rows(&mut self, i: usize) {
        let (ubatch, outputs, sampling) = (&self.work.ubatches.get()[i], &self.outputs, &mut self.sampling);
        if sampling.rows.is_empty() || outputs.n_vocab == 0 {
            return;
        }
        for (n, (&token, &row)) in ubatch.out_ids.iter().zip(&ubatch.out_rows).enumerate() {
            let seq = ubatch.seq_ids.get(token as usize)[0];
            let Some(sampler) = sampling.samplers.get_mut(&seq) else { continue };
            let row = row as usize;
            let chosen = sampling.choices.get_mut(n).and_then(Option::take);
            let outcome = match (chosen, sampling.recipes.get(n).copied().flatten()) {
                (Some(choice), Some(recipe)) => {
                    sampler.pass_row();
                    match recipe.listed() {
                        0 => Outcome::Chosen(choice.token, recipe),
                        _ => Outcome::Row(Row::of_choice(choice)),
                    }
                }
                _ => {
                    let logits = outputs.logits[row * outputs.n_vocab..][..outputs.n_vocab].to_vec();
                    let mut result = Row { logits, ..Row::default() };
                    sampler.sample(&mut result);
                    Outcome::Row(result)
                }
            };
            sampling.rows[row] = Some(outcome);
        }
    }

    /// The token that a sampler chose by the row of token `i` of the last batch, as [`Context::sampled`] counts.
    ///
    /// # Errors
    /// As for [`Context::sampled`].
    pub fn sampled_token(&mut self, i: i32) -> Result<Option<Token>> {
        if self.sampling.rows.is_empty() {
            return Ok(None);
        }
        let row = self.outputs.row(i)?;
        Ok(match self.sampling.rows.get(row) {
            Some(Some(Outcome::Row(row))) => row.sampled,
            Some(Some(Outcome::Chosen(token, _))) => *token,
            _ => None,
        })
    }

    /// What a sampler made of the row of token `i` of the last batch, negative `i` counting outputs from the last; `None` if
    /// its sequence had no sampler.
    ///
    /// # Errors
    /// Some sequence had a sampler, and the batch has no such output; or a device fails.
    pub fn sampled(&mut self, i: i32) -> Result<Option<&mut Row>> {
        if self.sampling.rows.is_empty() {
            return Ok(None);
        }
        let row = self.outputs.row(i)?;
        if let Some(Some(Outcome::Chosen(token, recipe))) = self.sampling.rows.get(row).cloned() {
            self.fetch_logits()?;
            let n = self.outputs.n_vocab;
            let made = Row::by_recipe(&recipe, self.outputs.logits[row * n..][..n].to_vec());
            self.sampling.rows[row] = Some(Outcome::Row(Row { sampled: token, ..made }));
        }
        Ok(match self.sampling.rows.get_mut(row) {
            Some(Some(Outcome::Row(row))) => Some(row),
            _ => None,
        })
    }

    /// Copies logits that a device kept to the outputs.
    pub(super) fn fetch_logits(&mut self) -> Result<()> {
        let Some(kept) = &self.sampling.kept else { return Ok(()) };
        let o = &mut self.outputs;
        let n = o.n_vocab;
        let mut values = vec![0.0; kept.rows.len() * n];
        self.backend.read_output(kept.plan, kept.output, &mut values)?;
        for (from, &row) in values.chunks_exact(n.max(1)).zip(&kept.rows) {
            o.logits[row as usize * n..][..n].copy_from_slice(from);
        }
        self.sampling.kept = None;
        Ok(())
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
