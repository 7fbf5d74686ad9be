//! What architectures build their graphs from: the inputs, and the blocks that families of models share.

use super::adapter::{Adapters, Delta};
use super::loader::{Linear, NormWeights};
use super::{HParams, SwaType};
use crate::error::Result;
use crate::graph::{
    Attention, BinaryOp, Builder, GluOp, Input, MaskId, Norm, NormKind, Rope, RopeKind, StateId, UnaryOp, ValueId,
};
use crate::quant::DType;
use crate::tensor::{Weight, WeightRef};

/// Rotary embedding as the context asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[allow(missing_docs)]
pub struct RopeSetup {
    pub freq_base: f32,
    pub freq_scale: f32,
    pub ext_factor: f32,
    pub attn_factor: f32,
    pub beta_fast: f32,
    pub beta_slow: f32,
    pub n_ctx_orig: u32,
}

/// The KV cache of one layer.
#[derive(Debug, Clone, Copy)]
pub struct KvLayer {
    /// Keys, `[n_embd_k, rows]`.
    pub k: StateId,
    /// Values, `[n_embd_v, rows]`.
    pub v: StateId,
    /// Which group of layers it belongs to: it says where the cells are and who sees them.
    pub group: u8,
    /// Cells over all streams.
    pub rows: usize,
    /// Type of the keys.
    pub type_k: DType,
    /// Type of the values.
    pub type_v: DType,
}

/// The smallest Hadamard transform worth its cost, and the only one used for values: as llama.cpp has it.
const MIN_MIX: usize = 64;

impl KvLayer {
    /// How many elements of a key are mixed before storage; `None`: they are stored as they are.
    pub fn key_mix(&self, head: usize) -> Option<usize> {
        let widest = 1usize.checked_shl(head.trailing_zeros()).filter(|&n| n >= MIN_MIX && head > 0);
        widest.filter(|_| self.type_k.is_quantized())
    }

    /// The same for values.
    pub fn value_mix(&self, head: usize) -> Option<usize> {
        (head > 0 && head.is_multiple_of(MIN_MIX) && self.type_v.is_quantized()).then_some(MIN_MIX)
    }
}

/// What a graph is built for. Two ubatches with equal shapes share a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UbatchShape {
    /// Tokens.
    pub n_tokens: usize,
    /// Tokens whose outputs are wanted.
    pub n_outputs: usize,
    /// Sequences, for pooling.
    pub n_seqs: usize,
    /// The caller gives embeddings instead of tokens.
    pub embd: bool,
}

/// What an architecture gives back.
#[derive(Debug, Clone, Copy)]
pub struct Outputs {
    /// The last hidden state, `[n_embd, n_outputs]`.
    pub embd: ValueId,
    /// `[n_vocab, n_outputs]`, for models with a head.
    pub logits: Option<ValueId>,
}

/// A graph under construction together with what it is built for.
pub struct Build<'a> {
    /// The graph.
    pub g: Builder,
    /// The model's hyper-parameters.
    pub hp: &'a HParams,
    /// Pairing of rotated dimensions.
    pub rope_kind: Option<RopeKind>,
    /// Rotary embedding.
    pub rope: RopeSetup,
    /// Context length of one sequence.
    pub n_ctx_seq: u32,
    /// The ubatch.
    pub shape: UbatchShape,
    /// The KV cache of each layer; empty: attention is over the ubatch itself.
    pub kv: &'a [Option<KvLayer>],
    /// What enters each layer, `[n_embd, n_tokens]`, as the architecture tells it.
    pub layer_inputs: Vec<ValueId>,
    /// What is added to the model.
    pub adapters: Option<&'a Adapters>,
    /// Someone looks at every result: the graph has all those that llama.cpp's has, under its names.
    pub observed: bool,
}

/// The projections of an attention block.
#[derive(Debug, Clone)]
pub struct AttentionWeights {
    /// To queries `[n_embd, n_head * head_k]`, keys and values.
    pub qkv: [Linear; 3],
    /// Back, `[n_head * head_v, n_embd]`.
    pub o: Linear,
    /// Norm of each query head.
    pub q_norm: Option<NormWeights>,
    /// Norm of each key head.
    pub k_norm: Option<NormWeights>,
}

/// Experts behind a router.
#[derive(Debug, Clone)]
pub struct MoeWeights {
    /// The router, `[n_embd, n_expert]`.
    pub gate_inp: Linear,
    /// `[n_embd, n_ff, n_expert]`.
    pub gate: Option<Linear>,
    /// `[n_embd, n_ff, n_expert]`.
    pub up: Linear,
    /// `[n_ff, n_embd, n_expert]`.
    pub down: Linear,
}

/// Smallest sum of expert weights that they are divided by: the smallest normal f16, as llama.cpp has it.
const MIN_EXPERT_SUM: f32 = 6.103_515_6e-5;

impl<'a> Build<'a> {
    /// An empty graph for a ubatch.
    pub fn new(
        hp: &'a HParams,
        rope_kind: Option<RopeKind>,
        rope: RopeSetup,
        n_ctx_seq: u32,
        shape: UbatchShape,
        kv: &'a [Option<KvLayer>],
    ) -> Build<'a> {
        Build {
            g: Builder::new(),
            hp,
            rope_kind,
            rope,
            n_ctx_seq,
            shape,
            kv,
            layer_inputs: Vec::new(),
            adapters: None,
            observed: false,
        }
    }

    /// A weight as a value of the graph.
    pub fn w(&mut self, w: &WeightRef) -> ValueId {
        self.g.weight(w)
    }

    /// `[n_embd, n_tokens]`: rows of the embedding table, or what the caller gives.
    pub fn input_embd(&mut self, table: &WeightRef) -> Result<ValueId> {
        let n_tokens = self.shape.n_tokens;
        let x = if self.shape.embd {
            self.g.input(Input::Embd, DType::F32, [self.hp.n_embd, n_tokens, 1, 1])?
        } else {
            let ids = self.g.input(Input::Tokens, DType::I32, [n_tokens, 1, 1, 1])?;
            let table = self.g.weight(table);
            let mut x = self.g.get_rows(table, ids)?;
            for delta in self.adapters.iter().flat_map(|a| a.embedding_deltas()) {
                let a = self.g.weight(&delta.a);
                let thin = self.g.get_rows(a, ids)?;
                let thin = self.g.scale(thin, delta.scale)?;
                let b = self.g.weight(&delta.b);
                let y = self.g.matmul(b, thin)?;
                x = self.g.add(x, y)?;
            }
            x
        };
        self.g.name(x, if self.shape.embd { "inp_embd" } else { "embd" }, None);
        Ok(x)
    }

    /// Positions, i32 `[n_tokens]`.
    pub fn positions(&mut self) -> Result<ValueId> {
        self.g.input(Input::Positions, DType::I32, [self.shape.n_tokens, 1, 1, 1])
    }

    /// Keeps the rows of the tokens whose outputs are wanted.
    pub fn pick_outputs(&mut self, x: ValueId) -> Result<ValueId> {
        if self.shape.n_outputs == self.shape.n_tokens {
            return Ok(x);
        }
        let ids = self.g.input(Input::OutIds, DType::I32, [self.shape.n_outputs, 1, 1, 1])?;
        self.g.get_rows(x, ids)
    }

    /// `(w · x) * s + b`.
    pub fn linear(&mut self, l: &Linear, x: ValueId) -> Result<ValueId> {
        let y = self.scaled_product(l, x)?;
        self.bias(l, y)
    }

    /// The same, product and result with a name.
    fn named_linear(&mut self, l: &Linear, x: ValueId, name: &str, il: usize) -> Result<ValueId> {
        let y = self.scaled_product(l, x)?;
        self.g.name(y, name, Some(il));
        let y = self.bias(l, y)?;
        self.g.name(y, name, Some(il));
        Ok(y)
    }

    /// `(w · x + b) * s`: in feed-forward blocks the scale comes last. The product has the name, what follows it the name
    /// with `_b` and `_s`.
    fn ffn_linear(&mut self, l: &Linear, x: ValueId, name: &str, il: usize) -> Result<ValueId> {
        let mut y = self.scaled_product(&Linear { s: None, ..l.clone() }, x)?;
        self.g.name(y, name, Some(il));
        if l.b.is_some() {
            y = self.bias(l, y)?;
            self.g.name(y, &format!("{name}_b"), Some(il));
        }
        if let Some(s) = &l.s {
            let s = self.g.weight(s);
            y = self.g.mul(y, s)?;
            self.g.name(y, &format!("{name}_s"), Some(il));
        }
        Ok(y)
    }

    /// `(w · x) * s`, and what adapters add.
    fn scaled_product(&mut self, l: &Linear, x: ValueId) -> Result<ValueId> {
        let w = self.g.weight(&l.w);
        let mut y = self.g.matmul(w, x)?;
        if let Some(s) = &l.s {
            let s = self.g.weight(s);
            y = self.g.mul(y, s)?;
        }
        for delta in self.deltas(&l.w)? {
            let a = self.g.weight(&delta.a);
            let thin = self.g.matmul(a, x)?;
            let thin = self.g.scale(thin, delta.scale)?;
            let b = self.g.weight(&delta.b);
            let add = self.g.matmul(b, thin)?;
            y = self.g.add(y, add)?;
        }
        Ok(y)
    }

    fn bias(&mut self, l: &Linear, y: ValueId) -> Result<ValueId> {
        match &l.b {
            Some(b) => {
                let b = self.g.weight(b);
                self.g.add(y, b)
            }
            None => Ok(y),
        }
    }

    /// `(w · x) * s + b` over the experts that `ids` name, with a name.
    fn experts(&mut self, l: &Linear, x: ValueId, ids: ValueId, name: &str, il: usize) -> Result<ValueId> {
        let w = self.g.weight(&l.w);
        let mut y = self.g.matmul_id(w, x, ids)?;
        self.g.name(y, name, Some(il));
        if let Some(s) = &l.s {
            let (s, ne) = (self.g.weight(s), self.g.ne(ids));
            let table = self.g.reshape(s, [1, self.hp.n_expert, 1, 1])?;
            let flat = self.g.reshape(ids, [ne[0] * ne[1], 1, 1, 1])?;
            let picked = self.g.get_rows(table, flat)?;
            let picked = self.g.reshape(picked, [1, ne[0], ne[1], 1])?;
            y = self.g.mul(y, picked)?;
            self.g.name(y, &format!("{name}_scaled"), Some(il));
        }
        for delta in self.deltas(&l.w)? {
            let a = self.g.weight(&delta.a);
            let thin = self.g.matmul_id(a, x, ids)?;
            let thin = self.g.scale(thin, delta.scale)?;
            let b = self.g.weight(&delta.b);
            let add = self.g.matmul_id(b, thin, ids)?;
            y = self.g.add(y, add)?;
            self.g.name(y, name, Some(il));
        }
        if let Some(b) = &l.b {
            let b = self.g.weight(b);
            y = self.g.add_id(y, b, ids)?;
            self.g.name(y, &format!("{name}_biased"), Some(il));
        }
        Ok(y)
    }

    /// What adapters add to products with a weight.
    fn deltas(&self, w: &Weight) -> Result<Vec<Delta>> {
        self.adapters.map_or(Ok(Vec::new()), |adapters| adapters.deltas(w))
    }

    /// What leaves layer `il`: `x`, with a control vector if there is one.
    pub fn layer_output(&mut self, x: ValueId, il: usize) -> Result<ValueId> {
        let mut y = x;
        if let Some(control) = self.adapters.and_then(|a| a.control(il)) {
            let control = self.g.weight(control);
            y = self.g.add(x, control)?;
        }
        self.g.name(y, "l_out", Some(il));
        Ok(y)
    }

    /// Root-mean-square norm.
    pub fn rms_norm(&mut self, x: ValueId, n: &NormWeights) -> Result<ValueId> {
        self.norm(NormKind::Rms, self.hp.norm_rms_eps, x, n)
    }

    /// Layer norm.
    pub fn layer_norm(&mut self, x: ValueId, n: &NormWeights) -> Result<ValueId> {
        self.norm(NormKind::Layer, self.hp.norm_eps, x, n)
    }

    fn norm(&mut self, kind: NormKind, eps: f32, x: ValueId, n: &NormWeights) -> Result<ValueId> {
        let w = self.g.weight(&n.w);
        let b = n.b.as_ref().map(|b| self.g.weight(b));
        if !self.observed {
            return self.g.norm(Norm { kind, eps }, x, Some(w), b);
        }
        let il = layer_of(&n.w.name);
        let y = self.g.norm(Norm { kind, eps }, x, None, None)?;
        self.g.name(y, "norm", il);
        let y = self.g.mul(y, w)?;
        let Some(b) = b else { return Ok(y) };
        self.g.name(y, "norm_w", il);
        self.g.add(y, b)
    }

    /// Rotates queries and keys by the positions of their tokens as layer `il` does.
    pub fn rotate(&mut self, qk: [ValueId; 2], il: usize, factors: Option<&WeightRef>) -> Result<[ValueId; 2]> {
        let pos = self.positions()?;
        let rotated = [self.rotate_by(qk[0], il, pos, factors)?, self.rotate_by(qk[1], il, pos, factors)?];
        for (x, name) in rotated.into_iter().zip(["Qcur", "Kcur"]) {
            self.g.name(x, name, Some(il));
        }
        Ok(rotated)
    }

    /// The same by other positions.
    pub fn rotate_by(&mut self, x: ValueId, il: usize, pos: ValueId, factors: Option<&WeightRef>) -> Result<ValueId> {
        let Some(kind) = self.rope_kind else { return Ok(x) };
        let r = self.rope;
        let swa = self.hp.swa_type != SwaType::None && self.hp.is_swa[il];
        let rope = Rope {
            kind,
            n_dims: self.hp.n_rot,
            freq_base: if swa { self.hp.rope_freq_base_swa } else { r.freq_base },
            freq_scale: if swa { self.hp.rope_freq_scale_swa } else { r.freq_scale },
            ext_factor: r.ext_factor,
            attn_factor: r.attn_factor,
            beta_fast: r.beta_fast,
            beta_slow: r.beta_slow,
            n_ctx_orig: r.n_ctx_orig,
        };
        let factors = factors.map(|f| self.g.weight(f));
        self.g.rope(rope, x, pos, factors)
    }

    /// Queries, keys and values as heads `[head, n_head, n_tokens]`, with their norms if there are any.
    pub fn qkv(&mut self, a: &AttentionWeights, x: ValueId, il: usize) -> Result<[ValueId; 3]> {
        let (hp, n) = (self.hp, self.shape.n_tokens);
        let shapes = [
            [hp.n_embd_head_k, hp.n_head[il], n, 1],
            [hp.n_embd_head_k, hp.n_head_kv[il], n, 1],
            [hp.n_embd_head_v, hp.n_head_kv[il], n, 1],
        ];
        let mut heads = [x; 3];
        for (i, name) in ["Qcur", "Kcur", "Vcur"].into_iter().enumerate() {
            let y = self.named_linear(&a.qkv[i], x, name, il)?;
            heads[i] = self.g.reshape(y, shapes[i])?;
            self.g.name(heads[i], name, Some(il));
        }
        for (head, norm, name) in [(0, &a.q_norm, "Qcur_normed"), (1, &a.k_norm, "Kcur_normed")] {
            if let Some(norm) = norm {
                heads[head] = self.rms_norm(heads[head], norm)?;
                self.g.name(heads[head], name, Some(il));
            }
        }
        Ok(heads)
    }

    /// Stores keys and values of layer `il` if it has a cache, and attends: `[head_v * n_head, n_tokens]`.
    pub fn attend(&mut self, [q, k, v]: [ValueId; 3], il: usize, scale: f32) -> Result<ValueId> {
        let hp = self.hp;
        let mut p = Attention { scale, soft_cap: hp.attn_soft_cap, max_alibi_bias: hp.max_alibi_bias, mask: MaskId(0) };
        let (mut q, mut k, mut v, mut undo) = (q, k, v, None);
        if let Some(Some(kv)) = self.kv.get(il).copied() {
            p.mask = MaskId(kv.group);
            // Spread over many elements, an outlier costs a quantized block less; products do not change.
            if let Some(n) = kv.key_mix(hp.n_embd_head_k) {
                q = self.g.hadamard(q, n)?;
                k = self.g.hadamard(k, n)?;
            }
            undo = kv.value_mix(hp.n_embd_head_v);
            if let Some(n) = undo {
                v = self.g.hadamard(v, n)?;
            }
            let rows = self.g.input(Input::KvRows(kv.group), DType::I32, [self.shape.n_tokens, 1, 1, 1])?;
            k = self.store(kv.k, &format!("cache_k_l{il}"), kv.type_k, k, rows, kv.rows)?;
            v = self.store(kv.v, &format!("cache_v_l{il}"), kv.type_v, v, rows, kv.rows)?;
        }
        let mut y = self.g.attention(p, q, k, v, None)?;
        if let Some(n) = undo {
            y = self.g.hadamard(y, n)?;
        }
        self.g.name(y, "kqv_out", Some(il));
        Ok(y)
    }

    /// Writes heads into cache rows; the whole cache as heads `[head, n_head_kv, n_rows]`.
    fn store(
        &mut self,
        state: StateId,
        name: &str,
        dtype: DType,
        x: ValueId,
        rows: ValueId,
        n_rows: usize,
    ) -> Result<ValueId> {
        let ne = self.g.ne(x);
        let flat = self.merge_heads(x)?;
        let cache = self.g.state(state, name, dtype, [ne[0] * ne[1], n_rows, 1, 1]);
        let cache = self.g.set_rows(cache, flat, rows)?;
        self.g.reshape(cache, [ne[0], ne[1], n_rows, 1])
    }

    /// `[head, n_head, n_tokens]` → `[head * n_head, n_tokens]`.
    pub fn merge_heads(&mut self, x: ValueId) -> Result<ValueId> {
        let ne = self.g.ne(x);
        self.g.reshape(x, [ne[0] * ne[1], ne[2], 1, 1])
    }

    /// The output projection of an attention block, for the tokens whose outputs are wanted if this is the `last` layer.
    pub fn project_out(&mut self, o: &Linear, x: ValueId, il: usize, last: bool) -> Result<ValueId> {
        // llama.cpp projects every token; who observes expects to see them all.
        let x = if last && !self.observed { self.pick_outputs(x)? } else { x };
        let y = self.linear(o, x)?;
        self.g.name(y, "attn_out", Some(il));
        if last && self.observed { self.pick_outputs(y) } else { Ok(y) }
    }

    /// The final norm and the head, if there is one.
    pub fn head(&mut self, x: ValueId, norm: &NormWeights, output: Option<&Linear>) -> Result<Outputs> {
        let embd = self.rms_norm(x, norm)?;
        self.g.name(embd, "result_norm", None);
        let logits = output.map(|output| self.linear(output, embd)).transpose()?;
        Ok(Outputs { embd, logits })
    }

    /// `down(act(gate · x) * (up · x))`.
    pub fn gated_ffn(&mut self, op: GluOp, [gate, up, down]: [&Linear; 3], x: ValueId, il: usize) -> Result<ValueId> {
        let gate = self.ffn_linear(gate, x, "ffn_gate", il)?;
        let up = self.ffn_linear(up, x, "ffn_up", il)?;
        let y = self.g.glu(op, gate, up)?;
        let name = match op {
            GluOp::Silu => "ffn_swiglu",
            GluOp::Gelu | GluOp::GeluErf => "ffn_geglu",
            GluOp::Relu => "ffn_reglu",
        };
        self.g.name(y, name, Some(il));
        let y = self.ffn_linear(down, y, "ffn_down", il)?;
        self.g.name(y, "ffn_out", Some(il));
        Ok(y)
    }

    /// `down(act(up · x))`.
    pub fn plain_ffn(&mut self, act: UnaryOp, [up, down]: [&Linear; 2], x: ValueId, il: usize) -> Result<ValueId> {
        let y = self.ffn_linear(up, x, "ffn_up", il)?;
        let y = self.g.unary(act, y)?;
        self.g.name(y, "ffn_gelu", Some(il));
        let y = self.ffn_linear(down, y, "ffn_down", il)?;
        self.g.name(y, "ffn_out", Some(il));
        Ok(y)
    }

    /// Mixture of experts with a softmax router whose chosen weights are normalized.
    pub fn moe_ffn(&mut self, op: GluOp, m: &MoeWeights, x: ValueId, il: usize) -> Result<ValueId> {
        let (n_embd, n) = (self.g.ne(x)[0], self.g.ne(x)[1]);
        let (n_expert, n_used) = (self.hp.n_expert, self.hp.n_expert_used);
        let logits = self.named_linear(&m.gate_inp, x, "ffn_moe_logits", il)?;
        let probs = self.g.soft_max(logits, 1.0)?;
        self.g.name(probs, "ffn_moe_probs", Some(il));
        let ids = self.g.top_k(probs, n_used)?;
        self.g.name(ids, "ffn_moe_topk", Some(il));

        // One table of single-element rows per token, so that picking rows picks probabilities.
        let table = self.g.reshape(probs, [1, n_expert, n, 1])?;
        let weights = self.g.get_rows(table, ids)?;
        self.g.name(weights, "ffn_moe_weights", Some(il));
        let weights = self.g.reshape(weights, [n_used, n, 1, 1])?;
        let sum = self.g.sum_rows(weights)?;
        self.g.name(sum, "ffn_moe_weights_sum", Some(il));
        let sum = self.g.clamp(sum, MIN_EXPERT_SUM, f32::INFINITY)?;
        self.g.name(sum, "ffn_moe_weights_sum_clamped", Some(il));
        let mut weights = self.g.binary(BinaryOp::Div, weights, sum)?;
        self.g.name(weights, "ffn_moe_weights_norm", Some(il));
        if self.hp.expert_weights_scale != 0.0 && self.hp.expert_weights_scale != 1.0 {
            weights = self.g.scale(weights, self.hp.expert_weights_scale)?;
            self.g.name(weights, "ffn_moe_weights_scaled", Some(il));
        }
        let weights = self.g.reshape(weights, [1, n_used, n, 1])?;

        let x = self.g.reshape(x, [n_embd, 1, n, 1])?;
        let up = self.experts(&m.up, x, ids, "ffn_moe_up", il)?;
        let y = match &m.gate {
            Some(gate) => {
                let gate = self.experts(gate, x, ids, "ffn_moe_gate", il)?;
                self.g.glu(op, gate, up)?
            }
            None => self.g.unary(op.activation(), up)?,
        };
        let name = match op {
            GluOp::Silu => "ffn_moe_swiglu",
            GluOp::Gelu | GluOp::GeluErf => "ffn_moe_geglu",
            GluOp::Relu => "ffn_moe_reglu",
        };
        self.g.name(y, name, Some(il));
        let y = self.experts(&m.down, y, ids, "ffn_moe_down", il)?;
        let y = self.g.mul(y, weights)?;
        self.g.name(y, "ffn_moe_weighted", Some(il));
        let y = self.sum_experts(y)?;
        self.g.name(y, "ffn_moe_out", Some(il));
        Ok(y)
    }

    /// `[n, n_used, n_tokens]` → `[n, n_tokens]`.
    fn sum_experts(&mut self, y: ValueId) -> Result<ValueId> {
        let ne = self.g.ne(y);
        let row = ne[0] * size_of::<f32>();
        let slot = |b: &mut Self, i: usize| {
            b.g.view(y, [ne[0], ne[2], 1, 1], [4, row * ne[1], row * ne[1] * ne[2], row * ne[1] * ne[2]], i * row)
        };
        let mut sum = slot(self, 0)?;
        if ne[1] == 1 {
            return self.g.cont(sum);
        }
        for i in 1..ne[1] {
            let next = slot(self, i)?;
            sum = self.g.add(sum, next)?;
        }
        Ok(sum)
    }
}

/// The number in the name of a layer's tensor, `blk.N.`
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}
