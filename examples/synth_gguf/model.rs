//! Models of any size with random weights: their shapes, and how their files are written. Shared by the examples
//! `synth_gguf` and `performance_parity`.
//!
//! Weights are normal with a deviation of one over the root of their row's length, norms are near 1, so that activations
//! keep their size from layer to layer as in a trained model. A file is as fast to write as the disk is: one slab of a few
//! hundred thousand weights is rounded for each tensor type and row length, and written again and again. It has a prime
//! number of blocks, so that rows differ.

use infer::gguf::{Gguf, TensorInfo};
use infer::quant::{self, DType};
use infer::quantize::{self, FileType, QuantizeParams};
use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The architectures that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    Llama,
    Gemma3,
}

/// What a model is like, in the words of llama.h.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub arch: Arch,
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_ff: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub head_dim: usize,
    pub n_vocab: usize,
    pub n_ctx_train: usize,
    /// The embedding table is the output matrix too.
    pub tied: bool,
    pub rope_freq_base: f32,
    pub norm_rms_eps: f32,
    /// Tokens of the sliding window, 0 without.
    pub n_swa: usize,
}

/// Names of the presets, with what they are.
pub const PRESETS: [(&str, &str); 4] = [
    ("smollm2", "SmolLM2-135M: 30 layers, 576, heads 9/3 of 64, feed-forward 1536, vocabulary 49152"),
    ("gemma3-270m", "Gemma 3 270M: 18 layers, 640, heads 4/1 of 256, feed-forward 2048, vocabulary 262144"),
    ("1b", "Llama 3.2 1B: 16 layers, 2048, heads 32/8 of 64, feed-forward 8192, vocabulary 128256"),
    ("8b", "Llama 3.1 8B: 32 layers, 4096, heads 32/8 of 128, feed-forward 14336, vocabulary 128256"),
];

impl Shape {
    /// The shape of a preset.
    pub fn preset(name: &str) -> Option<Shape> {
        let llama = Shape {
            arch: Arch::Llama,
            n_layer: 16,
            n_embd: 2048,
            n_ff: 8192,
            n_head: 32,
            n_head_kv: 8,
            head_dim: 64,
            n_vocab: 128256,
            n_ctx_train: 131_072,
            tied: true,
            rope_freq_base: 500_000.0,
            norm_rms_eps: 1e-5,
            n_swa: 0,
        };
        Some(match name {
            "smollm2" => Shape {
                n_layer: 30,
                n_embd: 576,
                n_ff: 1536,
                n_head: 9,
                n_head_kv: 3,
                n_vocab: 49152,
                n_ctx_train: 8192,
                rope_freq_base: 100_000.0,
                ..llama
            },
            "gemma3-270m" => Shape {
                arch: Arch::Gemma3,
                n_layer: 18,
                n_embd: 640,
                n_ff: 2048,
                n_head: 4,
                n_head_kv: 1,
                head_dim: 256,
                n_vocab: 262_144,
                n_ctx_train: 32768,
                rope_freq_base: 1_000_000.0,
                norm_rms_eps: 1e-6,
                n_swa: 512,
                ..llama
            },
            "1b" => llama,
            "8b" => Shape { n_layer: 32, n_embd: 4096, n_ff: 14336, head_dim: 128, tied: false, ..llama },
            _ => return None,
        })
    }

    /// Names and shapes of all tensors.
    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let (n, f, v, d) = (self.n_embd as u64, self.n_ff as u64, self.n_vocab as u64, self.head_dim as u64);
        let (q, kv) = (d * self.n_head as u64, d * self.n_head_kv as u64);
        let mut list = vec![("token_embd.weight".to_string(), vec![n, v]), ("output_norm.weight".into(), vec![n])];
        if !self.tied {
            list.push(("output.weight".into(), vec![n, v]));
        }
        for il in 0..self.n_layer {
            let mut add = |name: &str, ne: &[u64]| list.push((format!("blk.{il}.{name}.weight"), ne.to_vec()));
            add("attn_norm", &[n]);
            add("attn_q", &[n, q]);
            add("attn_k", &[n, kv]);
            add("attn_v", &[n, kv]);
            add("attn_output", &[q, n]);
            add("ffn_norm", &[n]);
            add("ffn_gate", &[n, f]);
            add("ffn_up", &[n, f]);
            add("ffn_down", &[f, n]);
            if self.arch == Arch::Gemma3 {
                add("attn_q_norm", &[d]);
                add("attn_k_norm", &[d]);
                add("post_attention_norm", &[n]);
                add("post_ffw_norm", &[n]);
            }
        }
        list
    }

    /// The header of the file before types are chosen: tensors are f32.
    fn header(&self, name: &str) -> Result<Gguf> {
        let arch = match self.arch {
            Arch::Llama => "llama",
            Arch::Gemma3 => "gemma3",
        };
        let mut gguf = Gguf::new();
        gguf.set("general.architecture", arch)?;
        gguf.set("general.name", name)?;
        // Programs that only count tokens need no vocabulary.
        gguf.set("tokenizer.ggml.model", "none")?;
        for (key, n) in [
            ("vocab_size", self.n_vocab),
            ("context_length", self.n_ctx_train),
            ("embedding_length", self.n_embd),
            ("block_count", self.n_layer),
            ("feed_forward_length", self.n_ff),
            ("attention.head_count", self.n_head),
            ("attention.head_count_kv", self.n_head_kv),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
            ("attention.sliding_window", self.n_swa),
        ] {
            if n > 0 {
                gguf.set(format!("{arch}.{key}"), u32::try_from(n)?)?;
            }
        }
        gguf.set(format!("{arch}.rope.freq_base"), self.rope_freq_base)?;
        gguf.set(format!("{arch}.attention.layer_norm_rms_epsilon"), self.norm_rms_eps)?;
        for (name, ne) in self.tensors() {
            gguf.add_tensor(TensorInfo::new(name, DType::F32, &ne)?)?;
        }
        Ok(gguf)
    }
}

/// File types by name, as `--type` takes them.
pub const FILE_TYPES: [(&str, FileType); 22] = [
    ("F32", FileType::F32),
    ("F16", FileType::F16),
    ("BF16", FileType::BF16),
    ("Q4_0", FileType::Q4_0),
    ("Q4_1", FileType::Q4_1),
    ("Q5_0", FileType::Q5_0),
    ("Q5_1", FileType::Q5_1),
    ("Q8_0", FileType::Q8_0),
    ("Q2_K", FileType::Q2_K),
    ("Q3_K", FileType::Q3_K_M),
    ("Q3_K_S", FileType::Q3_K_S),
    ("Q3_K_M", FileType::Q3_K_M),
    ("Q3_K_L", FileType::Q3_K_L),
    ("Q4_K_S", FileType::Q4_K_S),
    ("Q4_K_M", FileType::Q4_K_M),
    ("Q5_K", FileType::Q5_K_M),
    ("Q5_K_S", FileType::Q5_K_S),
    ("Q5_K_M", FileType::Q5_K_M),
    ("Q6_K", FileType::Q6_K),
    ("IQ4_NL", FileType::IQ4_NL),
    ("IQ4_XS", FileType::IQ4_XS),
    ("MXFP4", FileType::MXFP4_MOE),
];

/// The file type of a name, in any case.
pub fn file_type(name: &str) -> Option<FileType> {
    FILE_TYPES.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|&(_, ftype)| ftype)
}

/// Writes a model; returns the file's bytes. Equal arguments make equal files.
pub fn write(shape: &Shape, ftype: FileType, path: &Path) -> Result<u64> {
    let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or("synthetic");
    let mut gguf = shape.header(name)?;
    gguf.set("general.quantization_version", 2u32)?;
    gguf.set("general.file_type", ftype as u32)?;
    let mut params = QuantizeParams::new(ftype);
    if ftype == FileType::MXFP4_MOE {
        // The file type is for experts, and would make a dense model Q8_0.
        params.tensor_types = vec![(r"^blk\.".into(), DType::MXFP4)];
    }
    let types = quantize::tensor_types(&gguf, &params)?;
    let names: Vec<String> = gguf.tensors().iter().map(|t| t.name.clone()).collect();
    for (name, dtype) in names.iter().zip(types) {
        gguf.set_tensor_type(name, dtype)?;
    }
    let mut slabs = HashMap::new();
    for t in gguf.tensors().iter().filter(|t| t.n_dims > 1) {
        let key = (t.dtype as u32, t.ne[0]);
        if let std::collections::hash_map::Entry::Vacant(entry) = slabs.entry(key) {
            entry.insert(slab(t.dtype, t.ne[0] as usize)?);
        }
    }
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    gguf.write(&mut out, |t, out| {
        let failed = |e| infer::Error::io("write a model", e);
        if t.n_dims == 1 {
            let mut random = Random(seed(&t.name));
            let values: Vec<u8> = (0..t.ne[0]).flat_map(|_| (1.0 + 0.1 * random.normal()).to_le_bytes()).collect();
            return out.write_all(&values).map_err(failed);
        }
        let slab = &slabs[&(t.dtype as u32, t.ne[0])];
        let block = t.dtype.type_size();
        let mut from = seed(&t.name) as usize % (slab.len() / block) * block;
        let mut left = t.size as usize;
        while left > 0 {
            let n = left.min(slab.len() - from);
            out.write_all(&slab[from..from + n]).map_err(failed)?;
            (left, from) = (left - n, 0);
        }
        Ok(())
    })?;
    let file = out.into_inner()?;
    Ok(file.metadata()?.len())
}

/// Rounded random weights for rows of `k`.
fn slab(dtype: DType, k: usize) -> Result<Vec<u8>> {
    // Primes that give about half a million weights.
    let n_blocks = match dtype.block_size() {
        256 => 2039,
        32 => 16381,
        _ => 524_287,
    };
    let mut random = Random(k as u64);
    let scale = 1.0 / (k as f32).sqrt();
    let values: Vec<f32> = (0..n_blocks * dtype.block_size()).map(|_| scale * random.normal()).collect();
    let mut bytes = vec![0; n_blocks * dtype.type_size()];
    quant::quantize(dtype, &values, &mut bytes)?;
    Ok(bytes)
}

fn seed(name: &str) -> u64 {
    name.bytes().fold(17, |h, b| (h ^ u64::from(b)).wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 8
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Nearly normal: the sum of six uniforms.
    fn normal(&mut self) -> f32 {
        let uniform = |bits: u64| (bits & 0xFFFFF) as f32 / (1 << 20) as f32 - 0.5;
        let (a, b) = (self.next(), self.next());
        [a, a >> 20, a >> 40, b, b >> 20, b >> 40].into_iter().map(uniform).sum::<f32>() * std::f32::consts::SQRT_2
    }
}
