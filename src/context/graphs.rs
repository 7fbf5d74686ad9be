//! Plans of a context, made when a shape of ubatch is first seen and kept for the next one like it.

use super::Settings;
use super::layer_inputs::LayerSet;
use crate::error::{Error, Result};
use crate::graph::plan::{Plan, plan, plan_apart};
use crate::graph::{Input, ValueId};
use crate::model::adapter::Adapters;
use crate::model::build::{Build, KvLayer, UbatchShape};
use crate::model::{Model, Pooling};
use crate::quant::DType;

/// Plans kept; conversations alternate between a few shapes (a token, a full ubatch, the rest of a prompt).
const MAX_PLANS: usize = 16;

/// What tells one plan of a context from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    shape: UbatchShape,
    wanted: Wanted,
}

/// What a ubatch must give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Logits of the output tokens.
    pub logits: bool,
    /// Embeddings of the output tokens, or pooled by sequence.
    pub embeddings: Option<Pooling>,
    /// What enters these layers.
    pub layer_inputs: LayerSet,
    /// Every result, for an observer.
    pub observed: bool,
}

/// A plan and what its outputs are.
pub struct Planned {
    /// Ready to run.
    pub plan: Plan,
    /// Index among the plan's outputs.
    pub logits: Option<usize>,
    /// Index among the plan's outputs.
    pub embd: Option<usize>,
    /// Indices among the plan's outputs, in the order of the layers that were asked for.
    pub layer_inputs: Vec<usize>,
}

/// The most recent plans, newest last, all of the same adapters.
#[derive(Default)]
pub struct Plans {
    kept: Vec<(Key, Planned)>,
}

impl Plans {
    /// The plan for a shape, and whether it was there already.
    pub fn get(
        &mut self,
        model: &Model,
        s: &Settings,
        kv: &[Option<KvLayer>],
        adapters: &Adapters,
        shape: UbatchShape,
        wanted: Wanted,
    ) -> Result<(&Planned, bool)> {
        let key = Key { shape, wanted };
        let reused = match self.kept.iter().position(|(k, _)| *k == key) {
            Some(i) => {
                let kept = self.kept.remove(i);
                self.kept.push(kept);
                true
            }
            None => {
                let planned = build(model, s, kv, adapters, shape, wanted)?;
                if self.kept.len() == MAX_PLANS {
                    self.kept.remove(0);
                }
                self.kept.push((key, planned));
                false
            }
        };
        let (_, planned) = self.kept.last().expect("one was just pushed");
        Ok((planned, reused))
    }
}

/// The plan for a shape.
pub fn build(
    model: &Model,
    s: &Settings,
    kv: &[Option<KvLayer>],
    adapters: &Adapters,
    shape: UbatchShape,
    wanted: Wanted,
) -> Result<Planned> {
    let hp = model.hparams()?;
    let arch = model.architecture()?;
    let mut b = Build::new(hp, model.def()?.rope, s.rope, s.n_ctx_seq, shape, kv);
    b.adapters = Some(adapters);
    b.observed = wanted.observed;
    let out = arch.build(&mut b)?;
    if let Some(x) = out.logits {
        b.g.name(x, "result_output", None);
    }
    let (mut logits, mut embd, mut n) = (None, None, 0);
    if let Some(x) = out.logits.filter(|_| wanted.logits && shape.n_outputs > 0) {
        b.g.output(x)?;
        (logits, n) = (Some(n), n + 1);
    }
    if let Some(pooling) = wanted.embeddings.filter(|_| shape.n_outputs > 0) {
        let x = pool(&mut b, pooling, out.embd)?;
        let x = match pooling {
            Pooling::Rank => arch.classify(&mut b, x)?,
            Pooling::None | Pooling::Mean | Pooling::Cls | Pooling::Last => x,
        };
        b.g.name(x, "result_embd_pooled", None);
        b.g.output(x)?;
        (embd, n) = (Some(n), n + 1);
    }
    let mut layer_inputs = Vec::new();
    for il in wanted.layer_inputs.iter() {
        let x = b.layer_inputs.get(il).copied();
        let x = x.ok_or_else(|| Error::Internal(format!("the graph has no input of layer {il}")))?;
        // What the caller gives can be no output itself.
        let x = if il == 0 && shape.embd { b.g.cont(x)? } else { x };
        b.g.output(x)?;
        layer_inputs.push(n);
        n += 1;
    }
    let plan = if wanted.observed { plan_apart(b.g.finish()) } else { plan(b.g.finish()) };
    Ok(Planned { plan, logits, embd, layer_inputs })
}

/// `[n_embd, n_tokens]` → `[n_embd, n_seqs]`.
fn pool(b: &mut Build, pooling: Pooling, x: ValueId) -> Result<ValueId> {
    let (n_tokens, n_seqs) = (b.g.ne(x)[1], b.shape.n_seqs);
    match pooling {
        Pooling::None => Ok(x),
        Pooling::Mean => {
            let weights = b.g.input(Input::PoolMean, DType::F32, [n_tokens, n_seqs, 1, 1])?;
            let x = b.g.permute(x, [1, 0, 2, 3])?;
            let x = b.g.cont(x)?;
            b.g.matmul(x, weights)
        }
        Pooling::Cls | Pooling::Last | Pooling::Rank => {
            let rows = b.g.input(Input::PoolRows, DType::I32, [n_seqs, 1, 1, 1])?;
            b.g.get_rows(x, rows)
        }
    }
}

/// The plan that rotates the stored keys of a group to their new positions.
pub fn shift_plan(model: &Model, s: &Settings, kv: &[Option<KvLayer>], group: u8) -> Result<Plan> {
    let hp = model.hparams()?;
    let shape = UbatchShape { n_tokens: 0, n_outputs: 0, n_seqs: 0, embd: false };
    let mut rope = s.rope;
    // Only the angle moves; the magnitude was applied when the key was stored.
    rope.attn_factor = if rope.ext_factor != 0.0 { 1.0 / (1.0 + 0.1 * (1.0 / rope.freq_scale).ln()) } else { 1.0 };
    let mut b = Build::new(hp, model.def()?.rope, rope, s.n_ctx_seq, shape, kv);
    for (il, layer) in kv.iter().enumerate() {
        let Some(layer) = layer.filter(|l| l.group == group) else { continue };
        let (head, n_head, rows) = (hp.n_embd_head_k, hp.n_head_kv[il], layer.rows);
        let deltas = b.g.input(Input::KvShift(group), DType::I32, [rows, 1, 1, 1])?;
        let all = b.g.input(Input::KvAllRows(group), DType::I32, [rows, 1, 1, 1])?;
        let cache = b.g.state(layer.k, &format!("cache_k_l{il}"), layer.type_k, [head * n_head, rows, 1, 1]);
        let keys = b.g.cont(cache)?;
        let keys = b.g.reshape(keys, [head, n_head, rows, 1])?;
        let factors = model.architecture()?.rope_factors(s.n_ctx_seq, hp, il);
        let mix = layer.key_mix(head);
        let keys = mix.map_or(Ok(keys), |n| b.g.hadamard(keys, n))?;
        let keys = b.rotate_by(keys, il, deltas, factors)?;
        let keys = mix.map_or(Ok(keys), |n| b.g.hadamard(keys, n))?;
        let keys = b.g.reshape(keys, [head * n_head, rows, 1, 1])?;
        b.g.set_rows(cache, keys, all)?;
    }
    Ok(plan(b.g.finish()))
}
