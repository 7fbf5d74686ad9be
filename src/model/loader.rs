//! Hands an architecture the tensors of its file by name, each checked against the shape that it expects.

use super::HParams;
use super::build::{AttentionWeights, MoeWeights};
use crate::error::{Error, Result};
use crate::gguf::{GgufFiles, TensorInfo};
use crate::quant::DType;
use crate::tensor::{Weight, WeightRef};
use std::collections::HashMap;
use std::sync::Arc;

/// A matrix with the optional vectors that belong to it: `y = (w · x) * s + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[n_in, n_out]`, or `[n_in, n_out, n_expert]`.
    pub w: WeightRef,
    /// `[n_out]`, or `[n_out, n_expert]`.
    pub b: Option<WeightRef>,
    /// One factor for the matrix (or for each expert), for formats whose blocks lack one (NVFP4).
    pub s: Option<WeightRef>,
}

impl Linear {
    /// Without its factor, for architectures that do not apply it here.
    pub fn unscaled(self) -> Linear {
        Linear { s: None, ..self }
    }
}

/// A norm's weight and bias.
#[derive(Debug, Clone)]
pub struct NormWeights {
    /// `[n]`.
    pub w: WeightRef,
    /// `[n]`.
    pub b: Option<WeightRef>,
}

/// See the module.
pub struct Loader<'a> {
    /// The model's hyper-parameters.
    pub hp: &'a HParams,
    files: &'a GgufFiles,
    loaded: HashMap<String, WeightRef>,
    plan: Option<Plan<'a>>,
}

/// What a model without a file needs.
struct Plan<'a> {
    arch: &'a str,
    /// The tensors that were asked for, in that order.
    tensors: Vec<TensorInfo>,
}

impl<'a> Loader<'a> {
    /// A loader over the tensors of `files`.
    pub fn new(files: &'a GgufFiles, hp: &'a HParams) -> Self {
        Self { hp, files, loaded: HashMap::new(), plan: None }
    }

    /// One that has every tensor which a model of this architecture has without a file, of the type that `files` names, else
    /// f32, and without elements.
    pub fn planning(files: &'a GgufFiles, hp: &'a HParams, arch: &'a str) -> Self {
        Self { plan: Some(Plan { arch, tensors: Vec::new() }), ..Loader::new(files, hp) }
    }

    /// The tensors that were asked for, in that order, if it was planning.
    pub fn into_plan(self) -> Vec<TensorInfo> {
        self.plan.map_or(Vec::new(), |plan| plan.tensors)
    }

    /// Every tensor that was asked for.
    pub fn into_weights(self) -> Vec<WeightRef> {
        self.loaded.into_values().collect()
    }

    /// A tensor that must be there.
    pub fn tensor(&mut self, name: &str, ne: &[usize]) -> Result<WeightRef> {
        if self.plan.is_some() {
            return self.invent(name, ne);
        }
        self.optional(name, ne)?.ok_or_else(|| Error::tensor(name, format!("is missing, expected shape {ne:?}")))
    }

    /// A tensor that may be there.
    pub fn optional(&mut self, name: &str, ne: &[usize]) -> Result<Option<WeightRef>> {
        if self.plan.is_some() {
            let there = self.has(name) && !ne.contains(&0);
            return if there { self.invent(name, ne).map(Some) } else { Ok(None) };
        }
        let mut want = [1; 4];
        want[..ne.len()].copy_from_slice(ne);
        if let Some(w) = self.loaded.get(name) {
            return if w.ne == want { Ok(Some(w.clone())) } else { Err(wrong_shape(name, want, w.ne)) };
        }
        let Some(info) = self.files.find(name) else { return Ok(None) };
        let (dtype, found) = (info.dtype, info.ne.map(|n| n as usize));
        if found != want {
            return Err(wrong_shape(name, want, found));
        }
        let data = self.files.tensor(name)?.into_bytes();
        let w = Arc::new(Weight { name: name.to_string(), dtype, ne: found, data, part_of: None });
        self.loaded.insert(name.to_string(), w.clone());
        Ok(Some(w))
    }

    /// Whether the file has a tensor.
    pub fn has(&self, name: &str) -> bool {
        match &self.plan {
            Some(plan) => super::user::has_optional(plan.arch, name),
            None => self.files.find(name).is_some(),
        }
    }

    /// A planned tensor.
    fn invent(&mut self, name: &str, ne: &[usize]) -> Result<WeightRef> {
        let dtype = self.files.find(name).map_or(DType::F32, |info| info.dtype);
        let info = TensorInfo::new(name, dtype, &ne.iter().map(|&n| n as u64).collect::<Vec<_>>())?;
        let found = info.ne.map(|n| n as usize);
        if let Some(w) = self.loaded.get(name) {
            return if w.ne == found { Ok(w.clone()) } else { Err(wrong_shape(name, found, w.ne)) };
        }
        let w = Arc::new(Weight { name: name.to_string(), dtype, ne: found, data: Vec::new().into(), part_of: None });
        self.loaded.insert(name.to_string(), w.clone());
        self.plan.iter_mut().for_each(|plan| plan.tensors.push(info.clone()));
        Ok(w)
    }

    /// `<base>.weight [n_in, n_out]` with what belongs to it.
    pub fn linear(&mut self, base: &str, n_in: usize, n_out: usize) -> Result<Linear> {
        Ok(Linear {
            w: self.tensor(&format!("{base}.weight"), &[n_in, n_out])?,
            b: self.optional(&format!("{base}.bias"), &[n_out])?,
            s: self.optional(&format!("{base}.scale"), &[1])?,
        })
    }

    /// A matrix that may be there.
    pub fn optional_linear(&mut self, base: &str, n_in: usize, n_out: usize) -> Result<Option<Linear>> {
        if self.has(&format!("{base}.weight")) { self.linear(base, n_in, n_out).map(Some) } else { Ok(None) }
    }

    /// The embedding table, `[n_embd, n_vocab]`.
    pub fn token_embd(&mut self) -> Result<WeightRef> {
        self.tensor("token_embd.weight", &[self.hp.n_embd, self.hp.n_vocab])
    }

    /// The head, `[n_embd, n_vocab]`; models without one use the embedding table.
    pub fn output(&mut self) -> Result<Linear> {
        match self.optional_linear("output", self.hp.n_embd, self.hp.n_vocab)? {
            Some(output) => Ok(output),
            None => Ok(Linear { w: self.token_embd()?, b: None, s: None }),
        }
    }

    /// The attention block of layer `il`, with the norms of its heads if there are any.
    pub fn attention(&mut self, il: usize) -> Result<AttentionWeights> {
        let hp = self.hp;
        let n_q = hp.n_embd_head_k * hp.n_head[il];
        Ok(AttentionWeights {
            qkv: self.qkv(il, n_q, hp.n_embd_k(il), hp.n_embd_v(il))?,
            o: self.linear(&format!("blk.{il}.attn_output"), hp.n_embd_head_v * hp.n_head[il], hp.n_embd)?,
            q_norm: self.optional_norm(&format!("blk.{il}.attn_q_norm"), hp.n_embd_head_k)?,
            k_norm: self.optional_norm(&format!("blk.{il}.attn_k_norm"), hp.n_embd_head_k)?,
        })
    }

    /// The router and experts of layer `il`.
    pub fn moe(&mut self, il: usize, n_ff: usize) -> Result<MoeWeights> {
        let (n_embd, n_expert) = (self.hp.n_embd, self.hp.n_expert);
        let gate = format!("blk.{il}.ffn_gate_exps");
        Ok(MoeWeights {
            gate_inp: self.linear(&format!("blk.{il}.ffn_gate_inp"), n_embd, n_expert)?,
            gate: if self.has(&format!("{gate}.weight")) { Some(self.experts(&gate, n_embd, n_ff)?) } else { None },
            up: self.experts(&format!("blk.{il}.ffn_up_exps"), n_embd, n_ff)?,
            down: self.experts(&format!("blk.{il}.ffn_down_exps"), n_ff, n_embd)?,
        })
    }

    /// `<base>.weight [n_in, n_out, n_expert]` with what belongs to it.
    pub fn experts(&mut self, base: &str, n_in: usize, n_out: usize) -> Result<Linear> {
        let n_expert = self.hp.n_expert;
        Ok(Linear {
            w: self.tensor(&format!("{base}.weight"), &[n_in, n_out, n_expert])?,
            b: self.optional(&format!("{base}.bias"), &[n_out, n_expert])?,
            s: self.optional(&format!("{base}.scale"), &[n_expert])?,
        })
    }

    /// `<base>.weight [n]` and its optional bias.
    pub fn norm(&mut self, base: &str, n: usize) -> Result<NormWeights> {
        Ok(NormWeights {
            w: self.tensor(&format!("{base}.weight"), &[n])?,
            b: self.optional(&format!("{base}.bias"), &[n])?,
        })
    }

    /// A norm that may be there.
    pub fn optional_norm(&mut self, base: &str, n: usize) -> Result<Option<NormWeights>> {
        if self.has(&format!("{base}.weight")) { self.norm(base, n).map(Some) } else { Ok(None) }
    }

    /// The projections to queries, keys and values of a layer, stored as three matrices or as the rows of one.
    pub fn qkv(&mut self, il: usize, n_q: usize, n_k: usize, n_v: usize) -> Result<[Linear; 3]> {
        let (n_embd, names) = (self.hp.n_embd, ["attn_q", "attn_k", "attn_v"]);
        let fused = format!("blk.{il}.attn_qkv");
        let sizes = [n_q, n_k, n_v];
        if !self.has(&format!("{fused}.weight")) {
            let [q, k, v] = names.map(|n| format!("blk.{il}.{n}"));
            return Ok([self.linear(&q, n_embd, n_q)?, self.linear(&k, n_embd, n_k)?, self.linear(&v, n_embd, n_v)?]);
        }
        let all = self.linear(&fused, n_embd, n_q + n_k + n_v)?;
        let mut from = 0;
        let mut parts = Vec::with_capacity(3);
        for (name, n) in names.iter().zip(sizes) {
            let b = match &all.b {
                Some(b) => Some(elements(b, from, n)?),
                None => self.optional(&format!("blk.{il}.{name}.bias"), &[n])?,
            };
            parts.push(Linear { w: rows(&all.w, from, n)?, b, s: all.s.clone() });
            from += n;
        }
        Ok(parts.try_into().expect("three names make three parts"))
    }
}

/// Rows `from..from + n` of a matrix, as a tensor of its own.
pub(super) fn rows(w: &WeightRef, from: usize, n: usize) -> Result<WeightRef> {
    part(w, from * w.row_size(), n * w.row_size(), [w.ne[0], n, 1, 1], from)
}

/// Elements `from..from + n` of a vector, as a tensor of its own.
fn elements(w: &WeightRef, from: usize, n: usize) -> Result<WeightRef> {
    let size = w.dtype.type_size() / w.dtype.block_size();
    part(w, from * size, n * size, [n, 1, 1, 1], from)
}

fn part(w: &WeightRef, at: usize, len: usize, ne: [usize; 4], from: usize) -> Result<WeightRef> {
    let data =
        w.data.slice(at..at + len).ok_or_else(|| Error::tensor(&w.name, format!("has no part {ne:?} at {from}")))?;
    let (name, part_of) = (format!("{} ({from}..)", w.name), Some((w.name.clone(), from)));
    Ok(Arc::new(Weight { name, dtype: w.dtype, ne, data, part_of }))
}

fn wrong_shape(name: &str, want: [usize; 4], found: [usize; 4]) -> Error {
    Error::tensor(name, format!("expected shape {want:?}, found {found:?}"))
}
