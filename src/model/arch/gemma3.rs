//! Gemma 3: norms before and after each block, normed heads, five sliding-window layers to each full one with a rotation
//! of their own, GELU-gated feed-forward, scaled embeddings.

use super::{Architecture, Loader, Meta, UNKNOWN_SIZE};
use crate::error::Result;
use crate::graph::{GluOp, UnaryOp};
use crate::model::build::{AttentionWeights, Build, Outputs};
use crate::model::loader::{Linear, NormWeights};
use crate::model::{HParams, SwaType};
use crate::tensor::WeightRef;

struct Gemma3 {
    tok_embd: WeightRef, // [n_embd, n_vocab]
    layers: Vec<Layer>,
    output_norm: NormWeights,
    output: Linear, // [n_embd, n_vocab]
}

struct Layer {
    attn_norm: NormWeights,
    attn: AttentionWeights,
    attn_post_norm: NormWeights,
    ffn_norm: NormWeights,
    gate: Linear, // [n_embd, n_ff]
    up: Linear,   // [n_embd, n_ff]
    down: Linear, // [n_ff, n_embd]
    ffn_post_norm: NormWeights,
}

pub fn hparams(meta: &Meta, hp: &mut HParams) -> Result<&'static str> {
    hp.n_swa = meta.or("attention.sliding_window", 0)?;
    if hp.n_swa > 0 {
        hp.swa_type = SwaType::Standard;
        meta.swa_pattern(hp, 6)?;
        hp.rope_freq_base_swa = meta.or("rope.freq_base_swa", hp.rope_freq_base_swa)?;
    }
    hp.final_soft_cap = meta.or("final_logit_softcapping", 0.0)?;
    hp.norm_rms_eps = meta.require("attention.layer_norm_rms_epsilon")?;
    let size = match hp.n_layer {
        18 => "270M",
        26 => "1B",
        32 => "8B",
        34 => "4B",
        48 => "12B",
        62 => "27B",
        _ => UNKNOWN_SIZE,
    };
    // The largest model scales by its width per head, the others by the head size.
    let width = if hp.n_layer == 62 { hp.n_embd / hp.n_head[0].max(1) } else { hp.n_embd_head_k };
    hp.attention_scale = 1.0 / (width as f32).sqrt();
    Ok(size)
}

pub fn load(l: &mut Loader) -> Result<Box<dyn Architecture>> {
    let hp = l.hp;
    let layers = (0..hp.n_layer).map(|il| Layer::load(l, il)).collect::<Result<_>>()?;
    let output_norm = l.norm("output_norm", hp.n_embd)?;
    Ok(Box::new(Gemma3 { tok_embd: l.token_embd()?, layers, output_norm, output: l.output()? }))
}

impl Layer {
    fn load(l: &mut Loader, il: usize) -> Result<Layer> {
        let (n_embd, n_ff, blk) = (l.hp.n_embd, l.hp.n_ff[il], |name: &str| format!("blk.{il}.{name}"));
        Ok(Layer {
            attn_norm: l.norm(&blk("attn_norm"), n_embd)?,
            attn: l.attention(il)?,
            attn_post_norm: l.norm(&blk("post_attention_norm"), n_embd)?,
            ffn_norm: l.norm(&blk("ffn_norm"), n_embd)?,
            gate: l.linear(&blk("ffn_gate"), n_embd, n_ff)?.unscaled(),
            up: l.linear(&blk("ffn_up"), n_embd, n_ff)?.unscaled(),
            down: l.linear(&blk("ffn_down"), n_ff, n_embd)?.unscaled(),
            ffn_post_norm: l.norm(&blk("post_ffw_norm"), n_embd)?,
        })
    }
}

impl Architecture for Gemma3 {
    fn build(&self, b: &mut Build) -> Result<Outputs> {
        let mut x = b.input_embd(&self.tok_embd)?;
        if !b.shape.embd {
            // Embeddings from an image encoder come scaled.
            x = b.g.scale(x, (b.hp.n_embd as f32).sqrt())?;
            b.g.name(x, "inp_scaled", None);
        }
        for (il, layer) in self.layers.iter().enumerate() {
            let last = il + 1 == self.layers.len();
            b.layer_inputs.push(x);
            let cur = b.rms_norm(x, &layer.attn_norm)?;
            b.g.name(cur, "attn_norm", Some(il));
            let [q, k, v] = b.qkv(&layer.attn, cur, il)?;
            let [q, k] = b.rotate([q, k], il, None)?;
            let q = b.g.scale(q, b.hp.attention_scale)?;
            let cur = b.attend([q, k, v], il, 1.0)?;
            let cur = b.project_out(&layer.attn.o, cur, il, last)?;
            let cur = b.rms_norm(cur, &layer.attn_post_norm)?;
            b.g.name(cur, "attn_post_norm", Some(il));
            let x_out = if last { b.pick_outputs(x)? } else { x };
            let sa_out = b.g.add(cur, x_out)?;
            b.g.name(sa_out, "sa_out", Some(il));

            let cur = b.rms_norm(sa_out, &layer.ffn_norm)?;
            b.g.name(cur, "ffn_norm", Some(il));
            let cur = b.gated_ffn(GluOp::Gelu, [&layer.gate, &layer.up, &layer.down], cur, il)?;
            let cur = b.rms_norm(cur, &layer.ffn_post_norm)?;
            b.g.name(cur, "ffn_post_norm", Some(il));
            let cur = b.g.add(cur, sa_out)?;
            x = b.layer_output(cur, il)?;
        }
        let mut out = b.head(x, &self.output_norm, Some(&self.output))?;
        let cap = b.hp.final_soft_cap;
        if let Some(logits) = out.logits.filter(|_| cap != 0.0) {
            let y = b.g.scale(logits, 1.0 / cap)?;
            let y = b.g.unary(UnaryOp::Tanh, y)?;
            out.logits = Some(b.g.scale(y, cap)?);
        }
        Ok(out)
    }
}
