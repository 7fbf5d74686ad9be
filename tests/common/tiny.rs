//! Tiny models with deterministic random weights, one for every architecture and every feature that changes a graph.
//! Weights are scaled so that each part of a network matters to its answer: norms near 1, matrices 1.6 over the root of
//! their fan-in, which gives attention scores of spread 2 to 3, so that a wrong rotation or mask shows.

use infer::gguf::{Array, Gguf, TensorInfo, Value};
use infer::quant::{self, DType};
use std::path::PathBuf;

/// How positions are scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    None,
    Linear,
    Yarn,
    /// Factors for short and for long contexts, the limit between them, and a factor of the magnitude.
    LongRope,
    /// One set of frequency factors, as Llama 3 has it.
    Factors,
}

/// What a model is like. Sizes are the least that serve every cache type (blocks of 32) and K-quantized weights (256).
#[derive(Debug, Clone)]
pub struct Tiny {
    pub arch: &'static str,
    pub name: &'static str,
    pub seed: u64,
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub head: usize,
    pub n_ff: usize,
    pub n_vocab: usize,
    pub n_ctx_train: u32,
    pub n_expert: usize,
    pub n_expert_used: usize,
    pub attn_bias: bool,
    pub mlp_bias: bool,
    pub fused_qkv: bool,
    pub tied: bool,
    pub scaling: Scaling,
    pub window: u32,
    pub soft_cap: f32,
    pub n_cls: usize,
    pub pooling: Option<u32>,
    /// Type of the matrices; vectors stay f32.
    pub dtype: DType,
}

/// The context length up to which a LongRope or YaRN model was trained.
pub const ORIGINAL_CONTEXT: u32 = 256;

impl Tiny {
    /// The plain model of an architecture.
    pub fn new(arch: &'static str, name: &'static str) -> Tiny {
        Tiny {
            arch,
            name,
            seed: 1,
            n_layer: 2,
            n_embd: 64,
            n_head: 4,
            n_head_kv: 2,
            head: 32,
            n_ff: 96,
            n_vocab: 160,
            n_ctx_train: 512,
            n_expert: 0,
            n_expert_used: 0,
            attn_bias: matches!(arch, "qwen2" | "bert"),
            mlp_bias: arch == "bert",
            fused_qkv: false,
            tied: arch == "gemma3",
            scaling: Scaling::None,
            window: 0,
            soft_cap: 0.0,
            n_cls: 0,
            pooling: None,
            dtype: DType::F32,
        }
        .fit()
    }

    /// Architectures without a head size of their own have `n_embd / n_head`.
    fn fit(mut self) -> Tiny {
        if matches!(self.arch, "bert" | "qwen2") {
            self.n_head = 2;
            self.n_head_kv = if self.arch == "bert" { 2 } else { 1 };
        }
        if self.arch == "gemma3" {
            self.n_layer = 4;
        }
        self
    }

    /// Whether answers are embeddings.
    pub fn embeds(&self) -> bool {
        matches!(self.arch, "bert" | "llama-embed")
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut gguf = Gguf::new();
        self.metadata(&mut gguf);
        let mut data: Vec<(String, Vec<u8>)> = Vec::new();
        for (name, ne) in self.tensors() {
            let shape: Vec<u64> = ne.iter().map(|&n| n as u64).collect();
            let matrix = ne.len() > 1 && !matches!(&name[..], "token_types.weight" | "position_embd.weight");
            let dtype = if matrix && !name.contains("gate_inp") { self.dtype } else { DType::F32 };
            gguf.add_tensor(TensorInfo::new(&name, dtype, &shape).unwrap()).unwrap();
            let values = self.values(&name, &ne);
            let mut bytes = vec![0; dtype.row_size(ne[0]) * values.len() / ne[0]];
            quant::quantize(dtype, &values, &mut bytes).unwrap();
            data.push((name, bytes));
        }
        gguf.to_bytes(|t| &data.iter().find(|(name, _)| *name == t.name).unwrap().1).unwrap()
    }

    /// Writes the file into a folder.
    pub fn write(&self, folder: &std::path::Path) -> PathBuf {
        let path = folder.join(format!("{}-{}.gguf", self.arch, self.name));
        std::fs::write(&path, self.to_bytes()).unwrap();
        path
    }

    fn metadata(&self, gguf: &mut Gguf) {
        let mut set = |key: &str, value: Value| {
            let key = if key.contains("general.") || key.contains("tokenizer.") {
                key.into()
            } else {
                format!("{}.{key}", self.arch)
            };
            gguf.set(key, value).unwrap();
        };
        set("general.architecture", self.arch.into());
        set("tokenizer.ggml.model", "none".into());
        set("vocab_size", (self.n_vocab as u32).into());
        set("context_length", self.n_ctx_train.into());
        set("embedding_length", (self.n_embd as u32).into());
        set("block_count", (self.n_layer as u32).into());
        set("feed_forward_length", (self.n_ff as u32).into());
        set("attention.head_count", (self.n_head as u32).into());
        set("attention.head_count_kv", (self.n_head_kv as u32).into());
        set("attention.key_length", (self.head as u32).into());
        set("attention.value_length", (self.head as u32).into());
        set("rope.dimension_count", (self.head as u32).into());
        set("rope.freq_base", 10000.0f32.into());
        if self.n_expert > 0 {
            set("expert_count", (self.n_expert as u32).into());
            set("expert_used_count", (self.n_expert_used as u32).into());
        }
        if self.embeds() {
            set("attention.causal", false.into());
        }
        if self.arch == "bert" {
            set("attention.layer_norm_epsilon", 1e-6f32.into());
            set("tokenizer.ggml.token_type_count", 2u32.into());
        } else {
            set("attention.layer_norm_rms_epsilon", 1e-6f32.into());
        }
        if let Some(pooling) = self.pooling {
            set("pooling_type", pooling.into());
        }
        if self.n_cls > 0 {
            let labels = Array::strings((0..self.n_cls).map(|i| format!("class {i}")));
            set("classifier.output_labels", Value::Array(labels));
        }
        if self.window > 0 {
            set("attention.sliding_window", self.window.into());
        }
        if self.soft_cap > 0.0 {
            set("final_logit_softcapping", self.soft_cap.into());
        }
        let kind = match self.scaling {
            Scaling::None | Scaling::Factors => return,
            Scaling::Linear => "linear",
            Scaling::Yarn => "yarn",
            Scaling::LongRope => "longrope",
        };
        set("rope.scaling.type", kind.into());
        set("rope.scaling.original_context_length", ORIGINAL_CONTEXT.into());
        if self.scaling == Scaling::LongRope {
            set("rope.scaling.attn_factor", 1.19f32.into());
        } else {
            set("rope.scaling.factor", 4.0f32.into());
        }
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (n, v, half) = (self.n_embd, self.n_vocab, self.head / 2);
        let mut list: Vec<(String, Vec<usize>)> = vec![("token_embd.weight".into(), vec![n, v])];
        let mut add = |name: String, ne: &[usize]| list.push((name, ne.to_vec()));
        if self.arch == "bert" {
            add("position_embd.weight".into(), &[n, self.n_ctx_train as usize]);
            add("token_types.weight".into(), &[n, 2]);
            add("token_embd_norm.weight".into(), &[n]);
            add("token_embd_norm.bias".into(), &[n]);
            if self.n_cls > 0 {
                add("cls.weight".into(), &[n, n]);
                add("cls.bias".into(), &[n]);
                add("cls.output.bias".into(), &[self.n_cls]);
            }
        } else {
            add("output_norm.weight".into(), &[n]);
            if !self.tied && self.arch != "llama-embed" {
                add("output.weight".into(), &[n, v]);
            }
        }
        if self.n_cls > 0 {
            add("cls.output.weight".into(), &[n, self.n_cls]);
        }
        match self.scaling {
            Scaling::Factors => add("rope_freqs.weight".into(), &[half]),
            Scaling::LongRope => {
                add("rope_factors_long.weight".into(), &[half]);
                add("rope_factors_short.weight".into(), &[half]);
            }
            Scaling::None | Scaling::Linear | Scaling::Yarn => {}
        }
        for il in 0..self.n_layer {
            for (name, ne) in self.layer() {
                list.push((format!("blk.{il}.{name}"), ne));
            }
        }
        list
    }

    fn layer(&self) -> Vec<(String, Vec<usize>)> {
        let (n, f, q, kv) = (self.n_embd, self.n_ff, self.head * self.n_head, self.head * self.n_head_kv);
        let mut list = Vec::new();
        let mut add = |name: &str, ne: &[usize]| list.push((name.to_string(), ne.to_vec()));
        let qkv: &[(&str, usize)] =
            if self.fused_qkv { &[("attn_qkv", q + 2 * kv)] } else { &[("attn_q", q), ("attn_k", kv), ("attn_v", kv)] };
        for (name, m) in qkv {
            add(&format!("{name}.weight"), &[n, *m]);
            if self.attn_bias {
                add(&format!("{name}.bias"), &[*m]);
            }
        }
        add("attn_output.weight", &[q, n]);
        if self.attn_bias && self.arch != "qwen2" {
            add("attn_output.bias", &[n]);
        }
        if matches!(self.arch, "qwen3" | "gemma3") {
            add("attn_q_norm.weight", &[self.head]);
            add("attn_k_norm.weight", &[self.head]);
        }
        let norms: &[&str] = match self.arch {
            "bert" => &["attn_output_norm", "layer_output_norm"],
            "gemma3" => &["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"],
            _ => &["attn_norm", "ffn_norm"],
        };
        for norm in norms {
            add(&format!("{norm}.weight"), &[n]);
            if self.arch == "bert" {
                add(&format!("{norm}.bias"), &[n]);
            }
        }
        if self.n_expert > 0 {
            add("ffn_gate_inp.weight", &[n, self.n_expert]);
            for (name, ne) in [("gate", [n, f]), ("up", [n, f]), ("down", [f, n])] {
                add(&format!("ffn_{name}_exps.weight"), &[ne[0], ne[1], self.n_expert]);
            }
            return list;
        }
        let mats: &[(&str, [usize; 2])] = if self.arch == "bert" {
            &[("up", [n, f]), ("down", [f, n])]
        } else {
            &[("gate", [n, f]), ("up", [n, f]), ("down", [f, n])]
        };
        for (name, ne) in mats {
            add(&format!("ffn_{name}.weight"), ne);
            if self.mlp_bias {
                add(&format!("ffn_{name}.bias"), &[ne[1]]);
            }
        }
        list
    }

    fn values(&self, name: &str, ne: &[usize]) -> Vec<f32> {
        let mut random = Random::new(
            self.seed ^ name.bytes().fold(17, |h, b| (h ^ u64::from(b)).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        );
        let matrix = 1.6 / (ne[0] as f32).sqrt();
        (0..ne.iter().product())
            .map(|_| {
                let z = random.normal();
                match name {
                    _ if name.starts_with("rope_") => 1.0 + z.abs(),
                    _ if name.contains("norm") && name.ends_with("weight") => 1.0 + 0.1 * z,
                    _ if name.ends_with(".bias") => 0.1 * z,
                    "token_embd.weight" if self.tied => 0.1 * z,
                    "token_embd.weight" | "token_types.weight" | "position_embd.weight" => 0.3 * z,
                    "output.weight" => 0.2 * z,
                    _ => matrix * z,
                }
            })
            .collect()
    }
}

/// A small generator (splitmix64), so that every machine makes the same models.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Nearly normal: three uniforms on each side.
    pub fn normal(&mut self) -> f32 {
        let uniform = |bits: u64| (bits & 0xFFFFF) as f32 / (1 << 20) as f32;
        let (a, b) = (self.next(), self.next());
        [a, a >> 20, a >> 40].into_iter().map(uniform).sum::<f32>() * 1.414
            - [b, b >> 20, b >> 40].into_iter().map(uniform).sum::<f32>() * 1.414
    }
}

/// One model for every architecture and variant.
pub fn all() -> Vec<Tiny> {
    let llama = Tiny::new("llama", "plain");
    let (qwen3, gemma3, bert) = (Tiny::new("qwen3", "plain"), Tiny::new("gemma3", "plain"), Tiny::new("bert", "plain"));
    let moe = Tiny { n_expert: 6, n_expert_used: 2, name: "moe", ..llama.clone() };
    let mut models = vec![
        Tiny { name: "one-head", n_head: 1, n_head_kv: 1, head: 64, ..llama.clone() },
        Tiny { name: "mha", n_head_kv: 4, ..llama.clone() },
        Tiny { name: "mqa", n_head_kv: 1, ..llama.clone() },
        Tiny { name: "attn-bias", attn_bias: true, ..llama.clone() },
        Tiny { name: "mlp-bias", mlp_bias: true, ..llama.clone() },
        Tiny { name: "fused", fused_qkv: true, ..llama.clone() },
        Tiny { name: "fused-bias", fused_qkv: true, attn_bias: true, ..llama.clone() },
        Tiny { name: "tied", tied: true, ..llama.clone() },
        Tiny { name: "one-expert", n_expert_used: 1, ..moe.clone() },
        Tiny { name: "8-experts", n_expert: 8, n_expert_used: 4, ..moe.clone() },
        moe,
        Tiny { name: "linear", scaling: Scaling::Linear, ..llama.clone() },
        Tiny { name: "yarn", scaling: Scaling::Yarn, ..llama.clone() },
        Tiny { name: "longrope", scaling: Scaling::LongRope, ..llama.clone() },
        Tiny { name: "factors", scaling: Scaling::Factors, ..llama.clone() },
        Tiny { arch: "llama-embed", ..llama.clone() },
        Tiny { arch: "llama-embed", name: "moe", n_expert: 4, n_expert_used: 2, ..llama.clone() },
        Tiny { name: "yarn", scaling: Scaling::Yarn, ..Tiny::new("qwen2", "") },
        Tiny::new("qwen2", "plain"),
        Tiny { name: "tied", tied: true, ..qwen3.clone() },
        Tiny { name: "yarn", scaling: Scaling::Yarn, ..qwen3.clone() },
        Tiny { name: "fused", fused_qkv: true, ..qwen3.clone() },
        Tiny { name: "window", window: 8, n_layer: 7, ..gemma3.clone() },
        Tiny { name: "softcap", soft_cap: 2.0, ..gemma3.clone() },
        Tiny { name: "linear", scaling: Scaling::Linear, window: 16, n_layer: 7, ..gemma3.clone() },
        Tiny { name: "head", tied: false, ..gemma3.clone() },
        Tiny { name: "fused", fused_qkv: true, ..bert.clone() },
    ];
    models.extend([llama, qwen3, gemma3, bert]);
    models
}
