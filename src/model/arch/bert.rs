//! BERT: learned positions and token types, layer norms after each block, attention over the whole text, GELU feed-forward;
//! rerankers have a classification head.

use super::{Architecture, Loader, Meta, UNKNOWN_SIZE};
use crate::error::{Error, Result};
use crate::graph::{UnaryOp, ValueId};
use crate::model::HParams;
use crate::model::build::{AttentionWeights, Build, Outputs};
use crate::model::loader::{Linear, NormWeights};
use crate::tensor::WeightRef;

struct Bert {
    tok_embd: WeightRef,          // [n_embd, n_vocab]
    type_embd: Option<WeightRef>, // [n_embd, n_token_types]
    pos_embd: WeightRef,          // [n_embd, n_ctx_train]
    tok_norm: NormWeights,
    layers: Vec<Layer>,
    cls: Option<Linear>,     // [n_embd, n_embd]
    cls_out: Option<Linear>, // [n_embd, n_cls_out]
}

struct Layer {
    attn: AttentionWeights,
    attn_out_norm: NormWeights,
    up: Linear,   // [n_embd, n_ff]
    down: Linear, // [n_ff, n_embd]
    layer_out_norm: NormWeights,
}

pub fn hparams(meta: &Meta, hp: &mut HParams) -> Result<&'static str> {
    hp.norm_eps = meta.require("attention.layer_norm_epsilon")?;
    if hp.n_token_types == 0 {
        return Err(Error::format("bert: the number of token types is missing"));
    }
    Ok(match (hp.n_layer, hp.n_embd) {
        (3, _) => "17M",
        (6, _) => "22M",
        (12, 384) => "33M",
        (12, 768) => "109M",
        (24, _) => "335M",
        _ => UNKNOWN_SIZE,
    })
}

pub fn load(l: &mut Loader) -> Result<Box<dyn Architecture>> {
    let hp = l.hp;
    Ok(Box::new(Bert {
        tok_embd: l.token_embd()?,
        type_embd: l.optional("token_types.weight", &[hp.n_embd, hp.n_token_types])?,
        pos_embd: l.tensor("position_embd.weight", &[hp.n_embd, hp.n_ctx_train as usize])?,
        tok_norm: l.norm("token_embd_norm", hp.n_embd)?,
        layers: (0..hp.n_layer).map(|il| Layer::load(l, il)).collect::<Result<_>>()?,
        cls: l.optional_linear("cls", hp.n_embd, hp.n_embd)?,
        cls_out: l.optional_linear("cls.output", hp.n_embd, hp.n_cls_out)?,
    }))
}

impl Layer {
    fn load(l: &mut Loader, il: usize) -> Result<Layer> {
        let (n_embd, n_ff, blk) = (l.hp.n_embd, l.hp.n_ff[il], |name: &str| format!("blk.{il}.{name}"));
        Ok(Layer {
            attn: l.attention(il)?,
            attn_out_norm: l.norm(&blk("attn_output_norm"), n_embd)?,
            up: l.linear(&blk("ffn_up"), n_embd, n_ff)?.unscaled(),
            down: l.linear(&blk("ffn_down"), n_ff, n_embd)?.unscaled(),
            layer_out_norm: l.norm(&blk("layer_output_norm"), n_embd)?,
        })
    }
}

impl Architecture for Bert {
    fn build(&self, b: &mut Build) -> Result<Outputs> {
        let scale = b.hp.kq_scale();
        let mut x = b.input_embd(&self.tok_embd)?;
        if let Some(types) = &self.type_embd {
            // Every token is of the first type, "sentence A".
            let types = b.w(types);
            let first =
                b.g.view(types, [b.hp.n_embd, 1, 1, 1], [4, 4 * b.hp.n_embd, 4 * b.hp.n_embd, 4 * b.hp.n_embd], 0)?;
            x = b.g.add(x, first)?;
        }
        let (table, pos) = (b.w(&self.pos_embd), b.positions()?);
        let pos = b.g.get_rows(table, pos)?;
        x = b.g.add(x, pos)?;
        b.g.name(x, "inp_embd", None);
        x = b.layer_norm(x, &self.tok_norm)?;
        b.g.name(x, "inp_norm", Some(0));
        for (il, layer) in self.layers.iter().enumerate() {
            let last = il + 1 == self.layers.len();
            b.layer_inputs.push(x);
            let heads = b.qkv(&layer.attn, x, il)?;
            let cur = b.attend(heads, il, scale)?;
            let cur = b.project_out(&layer.attn.o, cur, il, last)?;
            b.g.name(cur, "kqv_out", Some(il));
            let x_out = if last { b.pick_outputs(x)? } else { x };
            let cur = b.g.add(cur, x_out)?;
            let ffn_inp = b.layer_norm(cur, &layer.attn_out_norm)?;
            b.g.name(ffn_inp, "ffn_inp", Some(il));

            let cur = b.plain_ffn(UnaryOp::Gelu, [&layer.up, &layer.down], ffn_inp, il)?;
            let cur = b.g.add(cur, ffn_inp)?;
            x = b.layer_norm(cur, &layer.layer_out_norm)?;
        }
        b.g.name(x, "result_embd", None);
        Ok(Outputs { embd: x, logits: None })
    }

    fn classify(&self, b: &mut Build, pooled: ValueId) -> Result<ValueId> {
        let mut y = pooled;
        if let Some(cls) = &self.cls {
            y = b.linear(cls, y)?;
            y = b.g.unary(UnaryOp::Tanh, y)?;
        }
        match &self.cls_out {
            Some(cls_out) => b.linear(cls_out, y),
            None => Ok(y),
        }
    }
}
