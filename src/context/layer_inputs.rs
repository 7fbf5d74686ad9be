//! The hidden states that enter layers, kept on request: draft models of speculative decoding read those of their target.

use super::Context;
use super::ubatch::Ubatch;
use crate::error::{Error, Result};
use crate::model::MAX_LAYERS;

/// A set of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerSet([u64; MAX_LAYERS as usize / 64]);

impl LayerSet {
    /// The layers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        (0..MAX_LAYERS as usize).filter(|il| self.0[il / 64] >> (il % 64) & 1 != 0)
    }

    fn set(&mut self, il: usize, value: bool) {
        let bit = 1 << (il % 64);
        self.0[il / 64] = if value { self.0[il / 64] | bit } else { self.0[il / 64] & !bit };
    }
}

/// What is wanted and what the last batch gave.
#[derive(Default)]
pub struct LayerInputs {
    /// Layers whose inputs are wanted of the next batch.
    pub wanted: LayerSet,
    /// `[n_embd, n_tokens]` of each layer that was wanted of the last batch.
    kept: Vec<(usize, Vec<f32>)>,
}

impl LayerInputs {
    /// Makes room for a batch; nothing of the last one stays.
    pub fn reset(&mut self, n_tokens: usize, n_embd: usize) -> Result<()> {
        self.kept.clear();
        for il in self.wanted.iter() {
            let mut rows = Vec::new();
            let n = n_tokens * n_embd;
            rows.try_reserve_exact(n).map_err(|e| Error::Memory(format!("{n_tokens} inputs of layer {il}: {e}")))?;
            rows.resize(n, 0.0);
            self.kept.push((il, rows));
        }
        Ok(())
    }

    /// Forgets the last batch.
    pub fn forget(&mut self) {
        self.kept.clear();
    }

    /// Takes over what a ubatch gave, in the order of the layers: its rows go where its tokens are in the batch.
    pub fn collect(&mut self, ubatch: &Ubatch, given: &[Vec<f32>], n_embd: usize) {
        for ((_, kept), given) in self.kept.iter_mut().zip(given) {
            for (row, &at) in given.chunks_exact(n_embd).zip(&ubatch.batch_idxs) {
                kept[at as usize * n_embd..][..n_embd].copy_from_slice(row);
            }
        }
    }
}

impl Context {
    /// Whether the next batches keep what enters layer `il`.
    pub fn set_layer_input(&mut self, il: usize, value: bool) -> Result<()> {
        let n_layer = self.model.hparams()?.n_layer;
        if il >= n_layer {
            return Err(Error::argument(format!("the input of layer {il} of {n_layer}")));
        }
        self.layer_inputs.wanted.set(il, value);
        Ok(())
    }

    /// What entered layer `il` for each token of the last batch, `[n_embd, n_tokens]`.
    pub fn layer_input(&mut self, il: usize) -> Result<&mut [f32]> {
        let kept = self.layer_inputs.kept.iter_mut().find(|(layer, _)| *layer == il);
        kept.map(|(_, rows)| &mut rows[..])
            .ok_or_else(|| Error::argument(format!("the inputs of layer {il} were not kept in the last batch")))
    }
}
