//! The way of a token: a batch is checked, cut into ubatches, placed in memory, computed, and its outputs collected.

use super::batch::{Batch, BatchRules, Outputs as OutputRule};
use super::graphs::{Planned, Wanted};
use super::sampled::Kept;
use super::ubatch::Ubatch;
use super::{Context, params};
use crate::backend::sample::Request;
use crate::error::{Error, Result};
use crate::graph::Mask;
use crate::memory::{Direction, MaskRule, NonCausal, Rows, Split};
use crate::model::Pooling;
use crate::model::build::UbatchShape;
use std::time::Instant;

impl Context {
    /// Computes a batch. Positions that the caller leaves out continue those in memory.
    ///
    /// # Errors
    /// [`Error::Argument`]: the batch is invalid, nothing changed. [`Error::NoSlot`]: the memory has no room for it, nothing
    /// changed. [`Error::Aborted`] and others: the ubatches before the failing one stay in memory, that one does not.
    pub fn decode(&mut self, batch: &Batch) -> Result<()> {
        if self.memory.is_none() {
            return self.encode(batch);
        }
        let (n_tokens, n_ubatch) = (batch.n_tokens(), self.settings.n_ubatch as usize);
        if !self.settings.causal_attn && n_tokens > n_ubatch {
            return Err(Error::argument(format!(
                "{n_tokens} tokens that see each other need one ubatch, of {n_ubatch}"
            )));
        }
        let start = Instant::now();
        self.update_memory()?;
        self.fill_batch(batch)?;
        self.place()?;
        self.compute()?;
        self.count(start);
        Ok(())
    }

    /// Computes a batch of a model that attends over the batch alone.
    ///
    /// # Errors
    /// As for [`Context::decode`]; [`Error::Unsupported`] for models that have no encoder.
    pub fn encode(&mut self, batch: &Batch) -> Result<()> {
        if self.memory.is_some() {
            return Err(Error::Unsupported("encoding with a model that has no encoder".into()));
        }
        let start = Instant::now();
        self.fill_batch(batch)?;
        let n_tokens = self.work.batch.n_tokens();
        self.work.ubatches.split(&self.work.batch, Split::Simple, n_tokens)?;
        self.compute()?;
        self.count(start);
        Ok(())
    }

    /// Waits for computations under way; here every call has finished its own.
    pub fn synchronize(&mut self) {}

    fn count(&mut self, start: Instant) {
        if !self.warmup {
            self.perf.add(self.work.batch.n_tokens(), start.elapsed());
        }
    }

    fn wanted(&self) -> Wanted {
        let pooling = self.settings.embeddings.then_some(self.settings.pooling);
        // Pooled embeddings need every token as output; nobody reads the logits of a whole text beside them.
        let logits = matches!(pooling, None | Some(Pooling::None));
        Wanted {
            logits,
            embeddings: pooling,
            layer_inputs: self.layer_inputs.wanted,
            observed: self.observer.is_some(),
        }
    }

    fn fill_batch(&mut self, batch: &Batch) -> Result<()> {
        let hp = self.model.hparams()?;
        let rules = BatchRules {
            n_tokens_max: self.settings.n_batch as usize,
            n_vocab: hp.n_vocab as i32,
            n_embd: hp.n_embd,
            n_seq_max: self.settings.n_seq_max,
            outputs: if self.settings.embeddings || self.memory.is_none() {
                OutputRule::All
            } else {
                OutputRule::Marked
            },
        };
        self.work.batch.fill(batch, &rules, self.memory.as_ref())?;
        self.check_sampled_outputs()
    }

    /// Cuts the batch so that all its ubatches find cells.
    fn place(&mut self) -> Result<()> {
        let memory = self.memory.as_mut().expect("only called with a memory");
        let work = &mut self.work;
        let n_ubatch = self.settings.n_ubatch as usize;
        work.ubatches.place(&work.batch, n_ubatch, memory, &mut work.reservation)
    }

    fn compute(&mut self) -> Result<()> {
        let hp = self.model.hparams()?;
        let wanted = self.wanted();
        let per_token = wanted.embeddings == Some(Pooling::None);
        let n_vocab = if wanted.logits && !self.model.def()?.encoder_only { hp.n_vocab } else { 0 };
        let n_embd = if per_token { hp.n_embd_out } else { 0 };
        self.outputs.reset(&self.work.batch.output_ids, self.work.batch.n_outputs, n_vocab, n_embd)?;
        self.sampling.begin(self.work.batch.n_outputs);
        self.layer_inputs.reset(self.work.batch.n_tokens(), hp.n_embd)?;
        for i in 0..self.work.ubatches.get().len() {
            if let Some(memory) = &mut self.memory {
                memory.apply(self.work.ubatches.get()[i].placed(), &self.work.reservation, i);
            }
            let done = self.compute_ubatch(i, wanted);
            if let Some(memory) = &mut self.memory {
                match &done {
                    Ok(()) => memory.commit(),
                    Err(_) => memory.rollback(Rows::Written),
                }
            }
            if let Err(e) = done {
                self.outputs.forget();
                self.sampling.forget();
                self.layer_inputs.forget();
                return Err(e);
            }
            self.sample_rows(i);
        }
        Ok(())
    }

    fn compute_ubatch(&mut self, i: usize, wanted: Wanted) -> Result<()> {
        self.fill_inputs(i);
        let ubatch = &self.work.ubatches.get()[i];
        let shape = UbatchShape {
            n_tokens: ubatch.n_tokens(),
            n_outputs: ubatch.out_ids.len(),
            n_seqs: if wanted.embeddings.is_some_and(|p| p != Pooling::None) { ubatch.seq_id_unq.len() } else { 0 },
            embd: ubatch.tokens.is_empty(),
        };
        let (planned, reused) = self.plans.get(&self.model, &self.settings, &self.kv, &self.adapters, shape, wanted)?;
        self.perf.n_reused += u32::from(reused);
        let threads = [self.settings.n_threads, self.settings.n_threads_batch];
        let many = usize::from(shape.n_tokens > 1);
        self.backend.set_n_threads(threads[many]);
        self.backend.set_placement(self.placements[many].as_ref());

        let o = &mut self.outputs;
        let rows = &ubatch.out_rows;
        let mut logits = Target::new(&mut o.logits, rows, o.n_vocab);
        let pooled = shape.n_seqs > 0;
        let mut embd = if pooled { Target::Own(Vec::new()) } else { Target::new(&mut o.embd, rows, o.n_embd) };
        let mut layer_inputs: Vec<Vec<f32>> =
            planned.layer_inputs.iter().map(|&at| vec![0.0; output_len(planned, at)]).collect();
        {
            let mut few: [&mut [f32]; 2] = Default::default();
            let mut n_few = 0;
            if let Some(at) = planned.logits {
                few[n_few] = logits.slice(output_len(planned, at));
                n_few += 1;
            }
            if let Some(at) = planned.embd {
                few[n_few] = embd.slice(output_len(planned, at));
                n_few += 1;
            }
            // Only who asks for inputs of layers pays for a list of any length.
            let mut many: Vec<&mut [f32]> = Vec::new();
            let slices = if layer_inputs.is_empty() {
                &mut few[..n_few]
            } else {
                many.extend(few.into_iter().take(n_few));
                many.extend(layer_inputs.iter_mut().map(|x| &mut x[..]));
                &mut many[..]
            };
            let abort = &mut self.abort;
            let mut stop = || abort.as_mut().is_some_and(|stop| stop());
            let (plan, inputs, sampling) = (&planned.plan, &self.work.inputs, &mut self.sampling);
            let chosen = planned
                .logits
                .filter(|_| self.observer.is_none() && self.backend.can_sample() && sampling.find_recipes(ubatch));
            match &mut self.observer {
                None if chosen.is_some() => {
                    let output = chosen.unwrap_or_default();
                    // Logits stay on a device until another ubatch takes their place.
                    let last = i + 1 == self.work.ubatches.get().len();
                    let keep = !last || sampling.recipes.iter().any(Option::is_none);
                    let (recipes, choices) = (&sampling.recipes, &mut sampling.choices);
                    let mut request = Request { output, recipes, keep, choices };
                    let done = self.backend.run_sampled(plan, inputs, slices, &mut stop, &mut request)?;
                    if done && !keep {
                        sampling.kept = Some(Kept { plan: plan.id, output, rows: rows.clone() });
                    }
                }
                None => self.backend.run(plan, inputs, slices, &mut stop)?,
                Some(observer) => self.backend.observe(plan, inputs, slices, &mut stop, observer)?,
            }
        }
        if let Target::Own(result) = logits {
            scatter(&result, &mut o.logits, rows, o.n_vocab);
        }
        match embd {
            Target::Own(result) if pooled => {
                let width = result.len() / shape.n_seqs;
                for (&seq, row) in ubatch.seq_id_unq.iter().zip(result.chunks_exact(width.max(1))) {
                    o.by_seq.retain(|(s, _)| *s != seq);
                    o.by_seq.push((seq, row.to_vec()));
                }
            }
            Target::Own(result) => scatter(&result, &mut o.embd, rows, o.n_embd),
            Target::InPlace(_) => {}
        }
        self.layer_inputs.collect(ubatch, &layer_inputs, self.model.hparams()?.n_embd);
        Ok(())
    }

    fn fill_inputs(&mut self, i: usize) {
        let work = &mut self.work;
        let (ubatch, inputs) = (&work.ubatches.get()[i], &mut work.inputs);
        copy(&mut inputs.tokens, &ubatch.tokens);
        inputs.embd.clear();
        inputs.embd.extend_from_slice(&ubatch.embd);
        copy(&mut inputs.positions, &ubatch.pos);
        copy(&mut inputs.out_ids, &ubatch.out_ids);
        // An encoder reads the whole text, whatever the file says of causality.
        let causal = self.settings.causal_attn && self.memory.is_some();
        let direction = if causal { Direction::Causal } else { Direction::Both(NonCausal::All) };
        let hp = self.model.hparams.as_ref().expect("a context has a model with weights");
        let rule = MaskRule { direction, with_positions: hp.max_alibi_bias > 0.0 };
        match &self.memory {
            Some(memory) => {
                inputs.kv_rows.resize_with(memory.groups().len(), Vec::new);
                inputs.masks.resize_with(memory.groups().len(), Mask::default);
                for (group, cache) in memory.groups().iter().enumerate() {
                    copy(&mut inputs.kv_rows[group], work.reservation.rows(group, i));
                    cache.fill_mask(&mut inputs.masks[group], ubatch.placed(), rule);
                }
            }
            None => {
                inputs.masks.resize_with(1, Mask::default);
                work.own_rows.fill_mask(&mut inputs.masks[0], ubatch.placed(), params::window(hp), rule);
            }
        }
        if self.settings.embeddings {
            fill_pooling(self.settings.pooling, self.settings.causal_attn, ubatch, inputs);
        }
    }
}

/// Elements of an output of a plan.
fn output_len(planned: &Planned, at: usize) -> usize {
    planned.plan.graph.value(planned.plan.graph.outputs[at]).n_elements()
}

/// Where a backend writes an output.
enum Target<'a> {
    /// The rows of the ubatch follow each other in the context's buffer.
    InPlace(&'a mut [f32]),
    /// They do not: they are copied there afterwards.
    Own(Vec<f32>),
}

impl<'a> Target<'a> {
    fn new(buffer: &'a mut [f32], rows: &[u32], width: usize) -> Target<'a> {
        match rows.first() {
            Some(&first) if rows.iter().zip(first..).all(|(&row, want)| row == want) => {
                let first = first as usize * width;
                Target::InPlace(&mut buffer[first..first + rows.len() * width])
            }
            _ => Target::Own(Vec::new()),
        }
    }

    fn slice(&mut self, n: usize) -> &mut [f32] {
        match self {
            Target::InPlace(slice) => slice,
            Target::Own(buffer) => {
                buffer.resize(n, 0.0);
                buffer
            }
        }
    }
}

fn scatter(from: &[f32], to: &mut [f32], rows: &[u32], width: usize) {
    for (row, &at) in from.chunks_exact(width.max(1)).zip(rows) {
        to[at as usize * width..][..width].copy_from_slice(row);
    }
}

fn copy(to: &mut Vec<i32>, from: &[i32]) {
    to.clear();
    to.extend_from_slice(from);
}

/// Mean weights and representative tokens of the ubatch's sequences.
fn fill_pooling(pooling: Pooling, causal_attn: bool, ubatch: &Ubatch, inputs: &mut crate::graph::Inputs) {
    let (n, n_seqs) = (ubatch.n_tokens(), ubatch.seq_id_unq.len());
    let of_token = |t: usize| ubatch.seq_ids.get(t).iter().map(|&s| ubatch.seq_idx[s as usize] as usize);
    inputs.pool_mean.clear();
    inputs.pool_rows.clear();
    match pooling {
        Pooling::None => {}
        Pooling::Mean => {
            inputs.pool_mean.resize(n * n_seqs, 0.0);
            let mut counts = vec![0u32; n_seqs];
            (0..n).flat_map(of_token).for_each(|s| counts[s] += 1);
            for t in 0..n {
                for s in of_token(t) {
                    inputs.pool_mean[s * n + t] = 1.0 / counts[s] as f32;
                }
            }
        }
        Pooling::Cls | Pooling::Last | Pooling::Rank => {
            // A causal model has read the whole text at its last token, others keep the first one for it.
            let last = pooling == Pooling::Last || (pooling == Pooling::Rank && causal_attn);
            inputs.pool_rows.resize(n_seqs, -1);
            for t in 0..n {
                for s in of_token(t) {
                    let best = inputs.pool_rows[s];
                    let pos = ubatch.pos[t];
                    let better = best < 0
                        || if last { pos >= ubatch.pos[best as usize] } else { pos < ubatch.pos[best as usize] };
                    if better {
                        inputs.pool_rows[s] = t as i32;
                    }
                }
            }
        }
    }
}
