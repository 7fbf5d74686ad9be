//! The outputs of the last batch: logits and embeddings in the order of the batch. Buffers grow and are then reused; the
//! rows stay valid until the next decode.

use super::Context;
use crate::error::{Error, Result};
use crate::model::Pooling;

/// See the module.
#[derive(Default)]
pub struct Outputs {
    /// `[n_outputs, n_vocab]`.
    pub logits: Vec<f32>,
    /// `[n_outputs, n_embd_out]`, without pooling.
    pub embd: Vec<f32>,
    /// `[n_embd_out or n_cls_out]` of each sequence, with pooling.
    pub by_seq: Vec<(i32, Vec<f32>)>,
    /// For each token of the batch the row of its output, or -1.
    pub output_ids: Vec<i32>,
    /// Rows.
    pub n_outputs: usize,
    /// Rows that the last batch computed; what came after a failure is not there.
    pub n_vocab: usize,
    /// Width of an embedding.
    pub n_embd: usize,
}

impl Outputs {
    /// Makes room for a batch; nothing of the last one stays.
    pub fn reset(&mut self, output_ids: &[i32], n_outputs: usize, n_vocab: usize, n_embd: usize) -> Result<()> {
        self.output_ids.clear();
        self.output_ids.extend_from_slice(output_ids);
        (self.n_outputs, self.n_vocab, self.n_embd) = (n_outputs, n_vocab, n_embd);
        resize(&mut self.logits, n_outputs, n_vocab)?;
        resize(&mut self.embd, n_outputs, n_embd)?;
        self.by_seq.clear();
        Ok(())
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        self.output_ids.clear();
        self.by_seq.clear();
        self.n_outputs = 0;
    }

    /// The row of token `i` of the batch; negative `i` counts rows from the last.
    pub(super) fn row(&self, i: i32) -> Result<usize> {
        let wrong = |why: &str| Error::argument(format!("output {i}: {why} ({} outputs)", self.n_outputs));
        if i < 0 {
            return usize::try_from(self.n_outputs as i64 + i64::from(i)).map_err(|_| wrong("there are not as many"));
        }
        match self.output_ids.get(i as usize) {
            None => Err(wrong("the batch has no such token")),
            Some(&row) => usize::try_from(row).map_err(|_| wrong("the batch did not ask for it")),
        }
    }
}

fn resize(buffer: &mut Vec<f32>, rows: usize, width: usize) -> Result<()> {
    let n = rows.checked_mul(width).ok_or_else(|| Error::Memory(format!("{rows} outputs of {width}")))?;
    if n > buffer.len() {
        buffer
            .try_reserve_exact(n - buffer.len())
            .map_err(|e| Error::Memory(format!("{rows} outputs of {width}: {e}")))?;
        buffer.resize(n, 0.0);
    }
    Ok(())
}

impl Context {
    /// Logits of all output tokens of the last batch, `[n_outputs, n_vocab]`.
    pub fn logits(&mut self) -> Result<&mut [f32]> {
        self.fetch_logits()?;
        let o = &mut self.outputs;
        if o.n_outputs == 0 || o.n_vocab == 0 {
            return Err(Error::argument("the last batch has no logits"));
        }
        Ok(&mut o.logits[..o.n_outputs * o.n_vocab])
    }

    /// Logits of token `i` of the last batch, `[n_vocab]`; negative `i` counts outputs from the last.
    pub fn logits_ith(&mut self, i: i32) -> Result<&mut [f32]> {
        self.fetch_logits()?;
        let (row, n) = (self.outputs.row(i)?, self.outputs.n_vocab);
        if n == 0 {
            return Err(Error::argument("the last batch has no logits"));
        }
        Ok(&mut self.outputs.logits[row * n..(row + 1) * n])
    }

    /// Embeddings of all output tokens of the last batch, `[n_outputs, n_embd_out]`; with pooling those of the sequences
    /// are asked for one by one.
    pub fn embeddings(&mut self) -> Result<&mut [f32]> {
        let o = &mut self.outputs;
        if o.n_outputs == 0 || o.n_embd == 0 {
            return Err(Error::argument("the last batch has no embeddings of tokens"));
        }
        Ok(&mut o.embd[..o.n_outputs * o.n_embd])
    }

    /// Embedding of token `i` of the last batch, `[n_embd_out]`.
    pub fn embeddings_ith(&mut self, i: i32) -> Result<&mut [f32]> {
        let (row, n) = (self.outputs.row(i)?, self.outputs.n_embd);
        if n == 0 {
            return Err(Error::argument("the last batch has no embeddings of tokens"));
        }
        Ok(&mut self.outputs.embd[row * n..(row + 1) * n])
    }

    /// Pooled embedding of a sequence of the last batch, `[n_embd_out]`, or its class scores `[n_cls_out]`.
    pub fn embeddings_seq(&mut self, seq: i32) -> Result<&mut [f32]> {
        if self.settings.pooling == Pooling::None {
            return Err(Error::argument("embeddings of sequences need pooling"));
        }
        let found = self.outputs.by_seq.iter_mut().find(|(s, _)| *s == seq);
        found.map(|(_, e)| &mut e[..]).ok_or_else(|| Error::argument(format!("the last batch has no sequence {seq}")))
    }
}
