//! Architectures: one file each, and one line of [`ARCHS`].
//!
//! An architecture reads its own hyper-parameters, names its tensors with their shapes, and builds a graph from the blocks
//! of `model::build`. It knows no kernel, no backend and no cache.

mod bert;
mod gemma3;
mod llama;
mod qwen2;
mod qwen3;

use super::build::{Build, Outputs};
use super::loader::Loader;
use super::{HParams, Meta, Pooling};
use crate::error::Result;
use crate::graph::{RopeKind, ValueId};

/// The weights of a model, able to build a graph over them.
pub trait Architecture: Send + Sync {
    /// Builds the computation of one ubatch.
    fn build(&self, b: &mut Build) -> Result<Outputs>;

    /// A classification head over pooled embeddings `[n_embd, n_seqs]`; models without one give them as they are.
    fn classify(&self, b: &mut Build, pooled: ValueId) -> Result<ValueId> {
        let _ = b;
        Ok(pooled)
    }

    /// Frequency factors of layer `il`, which a shift of positions needs to rotate stored keys.
    fn rope_factors(&self, n_ctx_seq: u32, hp: &HParams, il: usize) -> Option<&crate::tensor::WeightRef> {
        let _ = (n_ctx_seq, hp, il);
        None
    }
}

/// One architecture.
pub struct ArchDef {
    /// Its name in `general.architecture`.
    pub name: &'static str,
    /// How rotated dimensions are paired; `None`: positions are not rotated.
    pub rope: Option<RopeKind>,
    /// Whether attention is over the ubatch alone, without a cache.
    pub encoder_only: bool,
    /// Reads what is special about its hyper-parameters; returns llama.cpp's label of the model's size.
    pub hparams: fn(&Meta, &mut HParams) -> Result<&'static str>,
    /// Takes its tensors.
    pub load: fn(&mut Loader) -> Result<Box<dyn Architecture>>,
}

/// All architectures.
pub const ARCHS: &[ArchDef] = &[
    ArchDef { name: "bert", rope: None, encoder_only: true, hparams: bert::hparams, load: bert::load },
    ArchDef {
        name: "gemma3",
        rope: Some(RopeKind::Neox),
        encoder_only: false,
        hparams: gemma3::hparams,
        load: gemma3::load,
    },
    ArchDef {
        name: "llama",
        rope: Some(RopeKind::Norm),
        encoder_only: false,
        hparams: llama::hparams,
        load: llama::load,
    },
    ArchDef {
        name: "llama-embed",
        rope: Some(RopeKind::Norm),
        encoder_only: true,
        hparams: llama::hparams,
        load: llama::load_embed,
    },
    ArchDef {
        name: "qwen2",
        rope: Some(RopeKind::Neox),
        encoder_only: false,
        hparams: qwen2::hparams,
        load: qwen2::load,
    },
    ArchDef {
        name: "qwen3",
        rope: Some(RopeKind::Neox),
        encoder_only: false,
        hparams: qwen3::hparams,
        load: qwen3::load,
    },
];

/// The architecture of a name.
pub fn find(name: &str) -> Option<&'static ArchDef> {
    ARCHS.iter().find(|a| a.name == name)
}

/// What a model of unknown size is called.
const UNKNOWN_SIZE: &str = "?B";

/// The type of pooling that a model asks for with `Pooling::None` for those that say nothing.
pub fn default_pooling(hp: &HParams) -> Pooling {
    hp.pooling.unwrap_or(Pooling::None)
}
