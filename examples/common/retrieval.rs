//! A model by construction that looks things up in its context: every token has a key and a value, and a token that asks for
//! a key is answered by the value of the one token before it that has the key. Whoever attends wrongly answers wrongly, at any
//! depth; random weights cannot show that.
//!
//! It is a Llama of one layer with the heads of an 8B: 8 of 128 elements in two groups. Keys and values are random signs.
//! A query's score for its key exceeds all others so far that the softmax of 131072 rows is one row. Keys are in dimensions that
//! rotation leaves alone, as its base is 1e30. Each query head brings its own eighth of the answer.

use infer::gguf::{Gguf, TensorInfo};
use infer::quant::DType;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Tokens with keys; as many more ask for them.
pub const N_KEYS: usize = 2048;
/// The first of them are needles: a context has each of them once.
pub const N_NEEDLES: usize = 16;

const N_VOCAB: usize = 2 * N_KEYS;
const N_EMBD: usize = 1280;
const N_FF: usize = 256;
const HEAD: usize = 128;
const N_HEAD: usize = 8;
const N_HEAD_KV: usize = 2;
/// The first elements of a head, which rotate with the position.
const TURNING: usize = 32;
/// Elements of a key in each group of heads, and of a value.
const KEY: usize = HEAD - TURNING;
const VALUE: usize = HEAD;

// Where an embedding has what.
const KEYS: usize = 0;
const VALUES: usize = KEYS + N_HEAD_KV * KEY;
const QUERIES: usize = VALUES + N_HEAD_KV * VALUE;
const ANSWERS: usize = QUERIES + N_HEAD_KV * KEY;
/// Ones of the tokens that ask, so that all embeddings are of one length.
const FILL: usize = ANSWERS + N_HEAD_KV * VALUE;

/// Makes queries larger: scores are 73 for the key and at most about 35 for others.
const SHARPNESS: f32 = 3.0;

/// The token that asks for a key.
pub fn question(key: usize) -> i32 {
    (N_KEYS + key) as i32
}

/// The token that answers.
pub fn answer(key: usize) -> i32 {
    ((key * 1237 + 511) % N_KEYS) as i32
}

/// The logit of an answer, had everything infinite precision.
pub fn full_logit() -> f32 {
    // Embeddings have N_HEAD_KV (KEY + VALUE) elements of ±1; the norm makes them larger.
    let ones = (N_HEAD_KV * (KEY + VALUE)) as f32;
    let size = (N_EMBD as f32 / ones).sqrt();
    let answer = (N_HEAD_KV * VALUE) as f32;
    let rms = ((ones + answer * size * size) / N_EMBD as f32).sqrt();
    answer * size / rms
}

/// A context of `n` tokens with the needles at even depths, the first at its very beginning and the last at its end; their places.
pub fn context(n: usize) -> (Vec<i32>, Vec<usize>) {
    let mut state = n as u64;
    let mut filler = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (N_NEEDLES as u64 + (state >> 33) % (N_KEYS - N_NEEDLES) as u64) as i32
    };
    let mut tokens: Vec<i32> = (0..n).map(|_| filler()).collect();
    let places: Vec<usize> = (0..N_NEEDLES).map(|i| i * (n - 1) / (N_NEEDLES - 1)).collect();
    places.iter().enumerate().for_each(|(key, &at)| tokens[at] = key as i32);
    (tokens, places)
}

/// Writes the model.
pub fn write(path: &Path) -> Result<()> {
    let mut gguf = Gguf::new();
    gguf.set("general.architecture", "llama")?;
    gguf.set("general.name", "retrieval")?;
    gguf.set("tokenizer.ggml.model", "none")?;
    for (key, n) in [
        ("vocab_size", N_VOCAB),
        ("context_length", 1 << 18),
        ("embedding_length", N_EMBD),
        ("block_count", 1),
        ("feed_forward_length", N_FF),
        ("attention.head_count", N_HEAD),
        ("attention.head_count_kv", N_HEAD_KV),
        ("attention.key_length", HEAD),
        ("attention.value_length", HEAD),
        ("rope.dimension_count", HEAD),
    ] {
        gguf.set(format!("llama.{key}"), u32::try_from(n)?)?;
    }
    gguf.set("llama.rope.freq_base", 1e30f32)?;
    gguf.set("llama.attention.layer_norm_rms_epsilon", 1e-6f32)?;
    let tensors = tensors();
    for (name, dtype, ne, _) in &tensors {
        gguf.add_tensor(TensorInfo::new(*name, *dtype, ne)?)?;
    }
    let data: HashMap<&str, Vec<u8>> = tensors.into_iter().map(|(name, _, _, bytes)| (name, bytes)).collect();
    let mut out = BufWriter::new(File::create(path)?);
    gguf.write(&mut out, |t, out| {
        out.write_all(&data[t.name.as_str()]).map_err(|e| infer::Error::io("write a model", e))
    })?;
    Ok(out.flush()?)
}

type Tensor = (&'static str, DType, Vec<u64>, Vec<u8>);

fn tensors() -> Vec<Tensor> {
    let n = N_EMBD;
    let ones = |name, n: usize| -> Tensor {
        (name, DType::F32, vec![n as u64], std::iter::repeat_n(1f32.to_le_bytes(), n).flatten().collect())
    };
    let matrix = |name, k: usize, rows: usize, x: Vec<f32>| -> Tensor {
        let bytes = x.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
        (name, DType::F16, vec![k as u64, rows as u64], bytes)
    };
    let (mut embd, mut output) = (vec![0.0; N_VOCAB * n], vec![0.0; N_VOCAB * n]);
    let (keys, values) = (signs(1, N_KEYS, N_HEAD_KV * KEY), signs(2, N_KEYS, N_HEAD_KV * VALUE));
    let copy = |to: &mut [f32], at: usize, from: &[f32]| to[at..at + from.len()].copy_from_slice(from);
    for key in 0..N_KEYS {
        let (key_code, value) = (row(&keys, N_KEYS, key), row(&values, N_KEYS, answer(key) as usize));
        let holds = &mut embd[key * n..][..n];
        copy(holds, KEYS, key_code);
        copy(holds, VALUES, value);
        let asks = &mut embd[question(key) as usize * n..][..n];
        copy(asks, QUERIES, key_code);
        asks[FILL..FILL + N_HEAD_KV * VALUE].fill(1.0);
        copy(&mut output[key * n..][..n], ANSWERS, row(&values, N_KEYS, key));
    }
    let (mut q, mut k, mut v, mut o) = (
        vec![0.0; N_HEAD * HEAD * n],
        vec![0.0; N_HEAD_KV * HEAD * n],
        vec![0.0; N_HEAD_KV * HEAD * n],
        vec![0.0; n * N_HEAD * HEAD],
    );
    let share = VALUE / (N_HEAD / N_HEAD_KV);
    for head in 0..N_HEAD {
        let group = head / (N_HEAD / N_HEAD_KV);
        let first = head % (N_HEAD / N_HEAD_KV) * share;
        for i in 0..KEY {
            q[(head * HEAD + TURNING + i) * n + QUERIES + group * KEY + i] = SHARPNESS;
        }
        for i in first..first + share {
            o[(ANSWERS + group * VALUE + i) * N_HEAD * HEAD + head * HEAD + i] = 1.0;
        }
    }
    for group in 0..N_HEAD_KV {
        for i in 0..KEY {
            k[(group * HEAD + TURNING + i) * n + KEYS + group * KEY + i] = 1.0;
        }
        for i in 0..VALUE {
            v[(group * HEAD + i) * n + VALUES + group * VALUE + i] = 1.0;
        }
    }
    let nothing = |name, k: usize, rows: usize| matrix(name, k, rows, vec![0.0; k * rows]);
    vec![
        matrix("token_embd.weight", n, N_VOCAB, embd),
        ones("output_norm.weight", n),
        matrix("output.weight", n, N_VOCAB, output),
        ones("blk.0.attn_norm.weight", n),
        matrix("blk.0.attn_q.weight", n, N_HEAD * HEAD, q),
        matrix("blk.0.attn_k.weight", n, N_HEAD_KV * HEAD, k),
        matrix("blk.0.attn_v.weight", n, N_HEAD_KV * HEAD, v),
        matrix("blk.0.attn_output.weight", N_HEAD * HEAD, n, o),
        ones("blk.0.ffn_norm.weight", n),
        nothing("blk.0.ffn_gate.weight", n, N_FF),
        nothing("blk.0.ffn_up.weight", n, N_FF),
        nothing("blk.0.ffn_down.weight", N_FF, n),
    ]
}

/// `rows` rows of `n` random signs.
fn signs(seed: u64, rows: usize, n: usize) -> Vec<f32> {
    let mut state = seed;
    (0..rows * n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if state >> 63 == 0 { 1.0 } else { -1.0 }
        })
        .collect()
}

fn row(all: &[f32], rows: usize, i: usize) -> &[f32] {
    let n = all.len() / rows;
    &all[i * n..][..n]
}
