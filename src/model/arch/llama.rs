//! Llama and its many descendants: RMS norms, rotary attention with grouped KV heads, SiLU-gated feed-forward or a mixture
//! of experts. `llama-embed` is the same without a causal cache and without a head.

use super::{Architecture, Loader, Meta, UNKNOWN_SIZE};
use crate::error::{Error, Result};
use crate::graph::GluOp;
use crate::model::build::{AttentionWeights, Build, MoeWeights, Outputs};
use crate::model::loader::{Linear, NormWeights};
use crate::model::{HParams, RopeScaling};
use crate::tensor::WeightRef;

struct Llama {
    tok_embd: WeightRef, // [n_embd, n_vocab]
    layers: Vec<Layer>,
    output_norm: NormWeights,
    output: Option<Linear>, // [n_embd, n_vocab]
}

struct Layer {
    attn_norm: NormWeights,
    attn: AttentionWeights,
    factors: RopeFactors,
    ffn_norm: NormWeights,
    ffn: Ffn,
}

enum Ffn {
    Dense { gate: Linear, up: Linear, down: Linear },
    Moe(MoeWeights),
}

/// Frequency factors `[n_rot / 2]`: one set (Llama 3), or one for short and one for long contexts (LongRoPE).
#[derive(Default)]
pub(super) struct RopeFactors {
    freqs: Option<WeightRef>,
    long: Option<WeightRef>,
    short: Option<WeightRef>,
}

impl RopeFactors {
    pub(super) fn load(l: &mut Loader, il: usize) -> Result<RopeFactors> {
        // Files have one set for all layers, some also a set for each.
        let (hp, ne) = (l.hp, [l.hp.n_rot / 2]);
        let mut find = |base: &str| match l.optional(&format!("blk.{il}.{base}.weight"), &ne)? {
            Some(w) => Ok(Some(w)),
            None => l.optional(&format!("{base}.weight"), &ne),
        };
        if hp.rope_scaling == RopeScaling::LongRope {
            return Ok(RopeFactors {
                freqs: None,
                long: find("rope_factors_long")?,
                short: find("rope_factors_short")?,
            });
        }
        Ok(RopeFactors { freqs: find("rope_freqs")?, ..RopeFactors::default() })
    }

    pub(super) fn pick(&self, n_ctx_seq: u32, hp: &HParams) -> Option<&WeightRef> {
        let by_length = if n_ctx_seq > hp.n_ctx_orig_yarn { &self.long } else { &self.short };
        self.freqs.as_ref().or(by_length.as_ref())
    }
}

pub fn hparams(meta: &Meta, hp: &mut HParams) -> Result<&'static str> {
    hp.norm_rms_eps = meta.require("attention.layer_norm_rms_epsilon")?;
    hp.attention_scale = meta.or("attention.scale", 0.0)?;
    hp.expert_weights_scale = meta.or("expert_weights_scale", 0.0)?;
    if hp.n_rot != hp.n_embd_head_k || hp.n_embd_head_k != hp.n_embd_head_v {
        let heads = format!("{} rotated of {} and {}", hp.n_rot, hp.n_embd_head_k, hp.n_embd_head_v);
        return Err(Error::format(format!("{}: head sizes differ: {heads}", meta.arch)));
    }
    Ok(match (hp.n_expert, hp.n_layer) {
        (8, 32) => "8x7B",
        (8, 56) => "8x22B",
        (8, _) => UNKNOWN_SIZE,
        (_, 16 | 22) => "1B",
        (_, 26 | 28) => "3B",
        (_, 30) => "256M",
        (_, 32) if hp.n_vocab == 49152 => "3B",
        (_, 32) if hp.n_vocab < 40000 => "7B",
        (_, 32 | 36) => "8B",
        (_, 40) => "13B",
        (_, 48) => "34B",
        (_, 60) => "30B",
        (_, 80) if hp.n_head[0] == hp.n_head_kv[0] => "65B",
        (_, 80) => "70B",
        _ => UNKNOWN_SIZE,
    })
}

pub fn load(l: &mut Loader) -> Result<Box<dyn Architecture>> {
    let output = Some(l.output()?);
    Ok(Box::new(Llama::load(l, output)?))
}

pub fn load_embed(l: &mut Loader) -> Result<Box<dyn Architecture>> {
    Ok(Box::new(Llama::load(l, None)?))
}

impl Llama {
    fn load(l: &mut Loader, output: Option<Linear>) -> Result<Llama> {
        let hp = l.hp;
        let layers = (0..hp.n_layer).map(|il| Layer::load(l, il)).collect::<Result<_>>()?;
        Ok(Llama { tok_embd: l.token_embd()?, layers, output_norm: l.norm("output_norm", hp.n_embd)?, output })
    }
}

impl Layer {
    fn load(l: &mut Loader, il: usize) -> Result<Layer> {
        let (hp, blk) = (l.hp, |name: &str| format!("blk.{il}.{name}"));
        let (n_embd, n_ff) = (hp.n_embd, hp.n_ff[il]);
        let ffn = if hp.n_expert == 0 {
            Ffn::Dense {
                gate: l.linear(&blk("ffn_gate"), n_embd, n_ff)?,
                up: l.linear(&blk("ffn_up"), n_embd, n_ff)?,
                down: l.linear(&blk("ffn_down"), n_ff, n_embd)?,
            }
        } else {
            Ffn::Moe(l.moe(il, n_ff)?)
        };
        Ok(Layer {
            attn_norm: l.norm(&blk("attn_norm"), n_embd)?,
            attn: l.attention(il)?,
            factors: RopeFactors::load(l, il)?,
            ffn_norm: l.norm(&blk("ffn_norm"), n_embd)?,
            ffn,
        })
    }
}

impl Architecture for Llama {
    fn build(&self, b: &mut Build) -> Result<Outputs> {
        let scale = b.hp.kq_scale();
        let mut x = b.input_embd(&self.tok_embd)?;
        for (il, layer) in self.layers.iter().enumerate() {
            let last = il + 1 == self.layers.len();
            b.layer_inputs.push(x);
            let cur = b.rms_norm(x, &layer.attn_norm)?;
            b.g.name(cur, "attn_norm", Some(il));
            let [q, k, v] = b.qkv(&layer.attn, cur, il)?;
            let factors = layer.factors.pick(b.n_ctx_seq, b.hp);
            let [q, k] = b.rotate([q, k], il, factors)?;
            let cur = b.attend([q, k, v], il, scale)?;
            let cur = b.project_out(&layer.attn.o, cur, il, last)?;
            let x_out = if last { b.pick_outputs(x)? } else { x };
            let ffn_inp = b.g.add(cur, x_out)?;
            b.g.name(ffn_inp, "ffn_inp", Some(il));

            let cur = b.rms_norm(ffn_inp, &layer.ffn_norm)?;
            b.g.name(cur, "ffn_norm", Some(il));
            let cur = match &layer.ffn {
                Ffn::Dense { gate, up, down } => b.gated_ffn(GluOp::Silu, [gate, up, down], cur, il)?,
                Ffn::Moe(moe) => b.moe_ffn(GluOp::Silu, moe, cur, il)?,
            };
            let cur = b.g.add(cur, ffn_inp)?;
            x = b.layer_output(cur, il)?;
        }
        b.head(x, &self.output_norm, self.output.as_ref())
    }

    fn rope_factors(&self, n_ctx_seq: u32, hp: &HParams, il: usize) -> Option<&WeightRef> {
        self.layers[il].factors.pick(n_ctx_seq, hp)
    }
}
