//! Qwen 3: Llama's layout with normed query and key heads and rotation by halves; rerankers have a classification head.

use super::{Architecture, Loader, Meta, UNKNOWN_SIZE};
use crate::error::Result;
use crate::graph::{GluOp, ValueId};
use crate::model::HParams;
use crate::model::build::{AttentionWeights, Build, Outputs};
use crate::model::loader::{Linear, NormWeights};
use crate::tensor::WeightRef;

struct Qwen3 {
    tok_embd: WeightRef, // [n_embd, n_vocab]
    layers: Vec<Layer>,
    output_norm: NormWeights,
    output: Linear,          // [n_embd, n_vocab]
    cls_out: Option<Linear>, // [n_embd, n_cls_out]
}

struct Layer {
    attn_norm: NormWeights,
    attn: AttentionWeights,
    ffn_norm: NormWeights,
    gate: Linear, // [n_embd, n_ff]
    up: Linear,   // [n_embd, n_ff]
    down: Linear, // [n_ff, n_embd]
}

pub fn hparams(meta: &Meta, hp: &mut HParams) -> Result<&'static str> {
    hp.norm_rms_eps = meta.require("attention.layer_norm_rms_epsilon")?;
    Ok(match hp.n_layer {
        28 if hp.n_embd == 1024 => "0.6B",
        28 => "1.7B",
        36 if hp.n_embd == 2560 => "4B",
        36 => "8B",
        40 => "14B",
        64 => "32B",
        _ => UNKNOWN_SIZE,
    })
}

pub fn load(l: &mut Loader) -> Result<Box<dyn Architecture>> {
    let hp = l.hp;
    let layers = (0..hp.n_layer).map(|il| Layer::load(l, il)).collect::<Result<_>>()?;
    let output_norm = l.norm("output_norm", hp.n_embd)?;
    let cls_out = l.optional_linear("cls.output", hp.n_embd, hp.n_cls_out)?;
    Ok(Box::new(Qwen3 { tok_embd: l.token_embd()?, layers, output_norm, output: l.output()?, cls_out }))
}

impl Layer {
    fn load(l: &mut Loader, il: usize) -> Result<Layer> {
        let (n_embd, n_ff, blk) = (l.hp.n_embd, l.hp.n_ff[il], |name: &str| format!("blk.{il}.{name}"));
        Ok(Layer {
            attn_norm: l.norm(&blk("attn_norm"), n_embd)?,
            attn: l.attention(il)?,
            ffn_norm: l.norm(&blk("ffn_norm"), n_embd)?,
            gate: l.linear(&blk("ffn_gate"), n_embd, n_ff)?,
            up: l.linear(&blk("ffn_up"), n_embd, n_ff)?,
            down: l.linear(&blk("ffn_down"), n_ff, n_embd)?,
        })
    }
}

impl Architecture for Qwen3 {
    fn build(&self, b: &mut Build) -> Result<Outputs> {
        let scale = b.hp.kq_scale();
        let mut x = b.input_embd(&self.tok_embd)?;
        for (il, layer) in self.layers.iter().enumerate() {
            let last = il + 1 == self.layers.len();
            b.layer_inputs.push(x);
            let cur = b.rms_norm(x, &layer.attn_norm)?;
            b.g.name(cur, "attn_norm", Some(il));
            let [q, k, v] = b.qkv(&layer.attn, cur, il)?;
            let [q, k] = b.rotate([q, k], il, None)?;
            let cur = b.attend([q, k, v], il, scale)?;
            let cur = b.project_out(&layer.attn.o, cur, il, last)?;
            let x_out = if last { b.pick_outputs(x)? } else { x };
            let ffn_inp = b.g.add(cur, x_out)?;
            b.g.name(ffn_inp, "ffn_inp", Some(il));

            let cur = b.rms_norm(ffn_inp, &layer.ffn_norm)?;
            b.g.name(cur, "ffn_norm", Some(il));
            let cur = b.gated_ffn(GluOp::Silu, [&layer.gate, &layer.up, &layer.down], cur, il)?;
            let cur = b.g.add(cur, ffn_inp)?;
            x = b.layer_output(cur, il)?;
        }
        b.head(x, &self.output_norm, Some(&self.output))
    }
    fn classify(&self, b: &mut Build, pooled: ValueId) -> Result<ValueId> {
        let logits = match &self.cls_out {
            Some(cls_out) => b.linear(cls_out, pooled)?,
            None => pooled,
        };
        b.g.soft_max(logits, 1.0)
    }
}
