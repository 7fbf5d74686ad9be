//! Hyper-parameters of a model, read from the metadata of its file. What all architectures share is read here; the rest by
//! the `hparams` function of each architecture's file.

use crate::error::{Error, Result};
use crate::gguf::{FromValue, Gguf, ValueType};

/// More layers than any model has; larger counts are taken for corruption.
pub const MAX_LAYERS: u32 = 512;
/// More experts than any model has.
pub const MAX_EXPERTS: u32 = 1024;
/// Wider than any model is; keeps products of sizes far from overflow.
const MAX_WIDTH: u32 = 1 << 24;

/// How positions beyond the training length are brought into range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RopeScaling {
    None,
    Linear,
    Yarn,
    LongRope,
}

/// How the embeddings of a sequence become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Pooling {
    None,
    Mean,
    Cls,
    Last,
    /// A classification head over the pooled vector.
    Rank,
}

/// Which tokens a sliding-window layer sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwaType {
    /// No layer has a window.
    None,
    /// The last `n_swa` positions.
    Standard,
    /// Positions of the same chunk of `n_swa`.
    Chunked,
    /// `n_swa / 2` positions on both sides.
    Symmetric,
}

/// See the module. Names are those of the file format and of llama.h.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct HParams {
    pub n_ctx_train: u32,
    pub n_embd: usize,
    /// Width of the embeddings that the model gives, where it differs from `n_embd`.
    pub n_embd_out: usize,
    pub n_layer: usize,
    pub n_expert: usize,
    pub n_expert_used: usize,
    /// Per layer.
    pub n_head: Vec<usize>,
    /// Per layer.
    pub n_head_kv: Vec<usize>,
    /// Per layer.
    pub n_ff: Vec<usize>,
    pub n_embd_head_k: usize,
    pub n_embd_head_v: usize,
    /// Dimensions of a head that rotate.
    pub n_rot: usize,
    pub n_vocab: usize,
    pub n_token_types: usize,
    /// Outputs of a classification head.
    pub n_cls_out: usize,

    pub norm_eps: f32,
    pub norm_rms_eps: f32,
    pub causal_attn: bool,
    pub pooling: Option<Pooling>,

    pub rope_freq_base: f32,
    pub rope_freq_scale: f32,
    /// The base of sliding-window layers.
    pub rope_freq_base_swa: f32,
    /// The scale of sliding-window layers.
    pub rope_freq_scale_swa: f32,
    pub rope_scaling: RopeScaling,
    pub rope_attn_factor: f32,
    pub n_ctx_orig_yarn: u32,
    pub yarn_ext_factor: f32,
    pub yarn_attn_factor: f32,
    pub yarn_beta_fast: f32,
    pub yarn_beta_slow: f32,

    pub n_swa: u32,
    pub swa_type: SwaType,
    /// Which layers have the window.
    pub is_swa: Vec<bool>,

    /// Factor of the attention scores; 0: one over the root of the head size.
    pub attention_scale: f32,
    pub attn_soft_cap: f32,
    pub final_soft_cap: f32,
    pub max_alibi_bias: f32,
    pub expert_weights_scale: f32,
}

/// Metadata of one architecture: keys are looked up below its name.
pub struct Meta<'a> {
    /// The file's metadata.
    pub gguf: &'a Gguf,
    /// `general.architecture`.
    pub arch: &'a str,
}

impl Meta<'_> {
    /// The value of `<arch>.<key>`, if there is one.
    pub fn find<T: FromValue>(&self, key: &str) -> Result<Option<T>> {
        self.gguf.find(&format!("{}.{key}", self.arch))
    }

    /// The value of `<arch>.<key>`, or `default`.
    pub fn or<T: FromValue>(&self, key: &str, default: T) -> Result<T> {
        Ok(self.find(key)?.unwrap_or(default))
    }

    /// The value of `<arch>.<key>`.
    pub fn require<T: FromValue>(&self, key: &str) -> Result<T> {
        self.gguf.require(&format!("{}.{key}", self.arch))
    }

    /// A size below `limit`.
    fn size(&self, key: &str, default: Option<u32>, limit: u32) -> Result<usize> {
        let n = match default {
            Some(d) => self.or(key, d)?,
            None => self.require(key)?,
        };
        if n > limit {
            return Err(Error::format(format!("{}.{key} is {n}, more than {limit}", self.arch)));
        }
        Ok(n as usize)
    }

    /// Which layers have a sliding window: as the file says, or every `period`-th one not.
    pub fn swa_pattern(&self, hp: &mut HParams, period: u32) -> Result<()> {
        let key = "attention.sliding_window_pattern";
        match self.gguf.find_array(&format!("{}.{key}", self.arch)) {
            // llama.cpp writes numbers, converters write booleans.
            Ok(Some(array)) if array.element_type() != ValueType::Bool => {
                let numbers = self.per_layer(key, hp.n_layer)?.unwrap_or_default();
                hp.is_swa = numbers.into_iter().map(|n| n != 0).collect();
                Ok(())
            }
            Ok(Some(_)) => {
                let flags: Option<Vec<bool>> = self.gguf.find_per_layer(&format!("{}.{key}", self.arch), hp.n_layer)?;
                hp.is_swa = flags.unwrap_or_default();
                Ok(())
            }
            Ok(None) | Err(_) => {
                hp.set_swa_pattern(self.size(key, Some(period), MAX_LAYERS)?);
                Ok(())
            }
        }
    }

    /// A value for each of `n` layers, from a scalar or an array; `None` if there is neither.
    pub fn per_layer(&self, key: &str, n: usize) -> Result<Option<Vec<usize>>> {
        let values: Option<Vec<u32>> = self.gguf.find_per_layer(&format!("{}.{key}", self.arch), n)?;
        let Some(values) = values else { return Ok(None) };
        if let Some(big) = values.iter().find(|&&v| v > MAX_WIDTH) {
            return Err(Error::format(format!("{}.{key} has {big}, more than {MAX_WIDTH}", self.arch)));
        }
        Ok(Some(values.into_iter().map(|v| v as usize).collect()))
    }
}

impl HParams {
    /// Reads what all architectures share.
    pub fn read(meta: &Meta) -> Result<HParams> {
        let n_layer = meta.size("block_count", None, MAX_LAYERS)?;
        let n_embd = meta.size("embedding_length", None, MAX_WIDTH)?;
        let n_expert = meta.size("expert_count", Some(0), MAX_EXPERTS)?;
        let n_expert_used = meta.size("expert_used_count", Some(0), MAX_EXPERTS)?;
        if n_layer == 0 || n_embd == 0 {
            return Err(Error::format(format!("{}: {n_layer} layers of width {n_embd}", meta.arch)));
        }
        if n_expert_used > n_expert || (n_expert > 0 && n_expert_used == 0) {
            return Err(Error::format(format!("{}: {n_expert_used} of {n_expert} experts used", meta.arch)));
        }
        let per_layer = |key: &str| meta.per_layer(key, n_layer);
        let n_head = per_layer("attention.head_count")?.unwrap_or_else(|| vec![0; n_layer]);
        let n_head_kv = per_layer("attention.head_count_kv")?.unwrap_or_else(|| n_head.clone());
        for (il, (&h, &kv)) in n_head.iter().zip(&n_head_kv).enumerate() {
            if h > 0 && kv > 0 && h % kv != 0 {
                return Err(Error::format(format!("{}: layer {il} has {h} heads over {kv} KV heads", meta.arch)));
            }
        }
        let head = n_embd.checked_div(n_head[0]).unwrap_or(0) as u32;
        let n_embd_head_k = meta.size("attention.key_length", Some(head), MAX_WIDTH)?;
        let n_embd_head_v = meta.size("attention.value_length", Some(head), MAX_WIDTH)?;
        let n_rot = meta.size("rope.dimension_count", Some(n_embd_head_k as u32), MAX_WIDTH)?;
        let n_ctx_train: u32 = meta.require("context_length")?;
        let labels = meta.gguf.find_array(&format!("{}.classifier.output_labels", meta.arch))?;

        let factor = match meta.find::<f32>("rope.scaling.factor")? {
            Some(f) => f,
            None => meta.or("rope.scale_linear", 0.0)?,
        };
        Ok(HParams {
            n_ctx_train,
            n_embd,
            n_embd_out: match meta.size("embedding_length_out", Some(0), MAX_WIDTH)? {
                0 => n_embd,
                n => n,
            },
            n_layer,
            n_expert,
            n_expert_used,
            n_ff: per_layer("feed_forward_length")?.unwrap_or_else(|| vec![0; n_layer]),
            n_head,
            n_head_kv,
            n_embd_head_k,
            n_embd_head_v,
            n_rot,
            n_vocab: 0,
            n_token_types: meta.gguf.find::<u32>("tokenizer.ggml.token_type_count")?.unwrap_or(0) as usize,
            n_cls_out: labels.map_or(1, |l| l.len().max(1)),
            norm_eps: 0.0,
            norm_rms_eps: 0.0,
            causal_attn: meta.or("attention.causal", true)?,
            pooling: meta.find::<u32>("pooling_type")?.and_then(pooling),
            rope_freq_base: meta.or("rope.freq_base", 10000.0)?,
            rope_freq_scale: if factor == 0.0 { 1.0 } else { 1.0 / factor },
            rope_freq_base_swa: 10000.0,
            rope_freq_scale_swa: 1.0,
            rope_scaling: rope_scaling(meta)?,
            rope_attn_factor: meta.or("rope.scaling.attn_factor", 1.0)?,
            n_ctx_orig_yarn: meta.or("rope.scaling.original_context_length", n_ctx_train)?,
            yarn_ext_factor: -1.0,
            yarn_attn_factor: 1.0,
            yarn_beta_fast: 32.0,
            yarn_beta_slow: 1.0,
            n_swa: 0,
            swa_type: SwaType::None,
            is_swa: vec![false; n_layer],
            attention_scale: 0.0,
            attn_soft_cap: 0.0,
            final_soft_cap: 0.0,
            max_alibi_bias: 0.0,
            expert_weights_scale: 0.0,
        })
    }

    /// Factor of the attention scores.
    pub fn kq_scale(&self) -> f32 {
        if self.attention_scale == 0.0 { 1.0 / (self.n_embd_head_k as f32).sqrt() } else { self.attention_scale }
    }

    /// Width of the keys of a layer over all KV heads.
    pub fn n_embd_k(&self, il: usize) -> usize {
        self.n_embd_head_k * self.n_head_kv[il]
    }

    /// Width of the values of a layer over all KV heads.
    pub fn n_embd_v(&self, il: usize) -> usize {
        self.n_embd_head_v * self.n_head_kv[il]
    }

    /// Every `period`-th layer sees everything, the others a window; 0: all have the window.
    pub fn set_swa_pattern(&mut self, period: usize) {
        for (il, swa) in self.is_swa.iter_mut().enumerate() {
            *swa = period == 0 || il % period < period - 1;
        }
    }
}

fn pooling(n: u32) -> Option<Pooling> {
    Some(match n {
        0 => Pooling::None,
        1 => Pooling::Mean,
        2 => Pooling::Cls,
        3 => Pooling::Last,
        4 => Pooling::Rank,
        _ => return None,
    })
}

fn rope_scaling(meta: &Meta) -> Result<RopeScaling> {
    let name: String = meta.or("rope.scaling.type", "linear".to_string())?;
    Ok(match name.as_str() {
        "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear,
        "yarn" => RopeScaling::Yarn,
        "longrope" => RopeScaling::LongRope,
        _ => return Err(Error::format(format!("{}.rope.scaling.type is '{name}'", meta.arch))),
    })
}
