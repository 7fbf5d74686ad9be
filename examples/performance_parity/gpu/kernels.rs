//! Products, activations and attention in the shapes of an 8B. A kernel's time is the difference between a graph of many layers and
//! one of few, so that neither submitting nor copying counts.

use super::device::{Bench, Card, Matrices, upload};
use crate::Result;
use crate::lab::Lab;
use crate::report::Entry;
use crate::stats::{Summary, ratio, repeat};
use infer::backend::gpu::weights::Weights;
use infer::graph::{
    Attention, Builder, GluOp, Input, Inputs, Mask, MaskId, MaskRow, Norm, NormKind, Rope, RopeKind, StateId, ValueId,
};
use infer::quant::DType;
use infer::tensor::WeightRef;
use std::sync::Arc;

/// Shapes of an 8B, or what a software adapter can do.
struct Sizes {
    n_embd: usize,
    n_ff: usize,
    /// Tokens of a prompt.
    n_prompt: usize,
    /// Bytes of weights that no cache holds.
    bytes: usize,
    /// Rows of a KV cache.
    n_rows: usize,
    /// Tokens whose activations no cache holds.
    n_wide: usize,
}

const FULL: Sizes = Sizes { n_embd: 4096, n_ff: 14336, n_prompt: 512, bytes: 1200 << 20, n_rows: 8192, n_wide: 2048 };
const SMALL: Sizes = Sizes { n_embd: 256, n_ff: 512, n_prompt: 32, bytes: 4 << 20, n_rows: 512, n_wide: 16 };

/// See the module.
pub fn all(lab: &Lab, card: &Card) -> Result<Vec<Entry>> {
    let sizes = if card.software { &SMALL } else { &FULL };
    let mut rows = prompts(lab, card, sizes)?;
    rows.extend(tokens(lab, card, sizes)?);
    rows.push(activations(lab, card, sizes)?);
    rows.extend(attention(lab, card, sizes)?);
    Ok(rows)
}

fn row(id: &str, name: &str) -> Entry {
    Entry::new(id, if id.starts_with("GPU") { "GPU" } else { "Capabilities" }, name)
}

/// Seconds per layer: samples of many layers less those of few.
fn per_layer(lab: &Lab, few: (usize, &mut Bench), many: (usize, &mut Bench)) -> Result<Vec<f64>> {
    let [a, b] = repeat(lab.rounds(2.0), || Ok([few.1.run()?, many.1.run()?]))?;
    let n = (many.0 - few.0) as f64;
    // What disturbs a run can make a difference negative; such a round tells nothing.
    let times: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (b - a) / n).filter(|t| *t > 0.0).collect();
    if times.is_empty() { Err("many layers took no longer than few".into()) } else { Ok(times) }
}

/// Feed-forward blocks one after the other; their result in a few numbers.
fn blocks(weights: &Arc<Weights>, s: &Sizes, layers: &[&[WeightRef]], n_tokens: usize) -> Result<Bench> {
    let mut b = Builder::new();
    let mut x = b.input(Input::Embd, DType::F32, [s.n_embd, n_tokens, 1, 1])?;
    for layer in layers {
        let [gate, up, down, norm] = [0, 1, 2, 3].map(|i| b.weight(&layer[i]));
        let normed = b.norm(Norm { kind: NormKind::Rms, eps: 1e-5 }, x, Some(norm), None)?;
        let (gate, up) = (b.matmul(gate, normed)?, b.matmul(up, normed)?);
        let h = b.glu(GluOp::Silu, gate, up)?;
        let y = b.matmul(down, h)?;
        x = b.add(y, x)?;
    }
    let sum = b.sum_rows(x)?;
    let inputs = Inputs { embd: crate::kernels::floats(s.n_embd * n_tokens), ..Inputs::default() };
    Bench::new(weights, b, &[sum], inputs, &[])
}

/// Weights of `n` blocks, four each.
fn layers_of(dtype: DType, s: &Sizes, n: usize) -> (usize, Vec<WeightRef>) {
    let (matrices, norms) = (Matrices::new(dtype, s.n_embd * s.n_ff), Matrices::new(DType::F32, s.n_embd));
    let mut all = Vec::new();
    for _ in 0..n {
        let (gate, up) = (matrices.take(s.n_embd, s.n_ff), matrices.take(s.n_embd, s.n_ff));
        all.extend([gate, up, matrices.take(s.n_ff, s.n_embd), norms.take(s.n_embd, 1)]);
    }
    (3 * matrices.size(), all)
}

/// Seconds of a block with a prompt.
fn prompt(lab: &Lab, card: &Card, s: &Sizes, dtype: DType) -> Result<Vec<f64>> {
    let (_, tensors) = layers_of(dtype, s, 1);
    let weights = upload(card, &tensors)?;
    let layer = &tensors[..];
    let (few, many) = (2, 10);
    let mut a = blocks(&weights, s, &vec![layer; few], s.n_prompt)?;
    let mut b = blocks(&weights, s, &vec![layer; many], s.n_prompt)?;
    per_layer(lab, (few, &mut a), (many, &mut b))
}

/// Products of a prompt.
fn prompts(lab: &Lab, card: &Card, s: &Sizes) -> Result<Vec<Entry>> {
    let tera = 2.0 * 3.0 * (s.n_prompt * s.n_embd * s.n_ff) as f64 / 1e12;
    let [half, q4, full] = [DType::F16, DType::Q4K, DType::F32].map(|dtype| prompt(lab, card, s, dtype));
    let (half, q4, full) = (half?, q4?, full?);
    let rate = |times: &[f64]| Summary::of(times, tera, "TFLOP/s");
    let shape = format!("{} tokens, feed-forward of {} and {}", s.n_prompt, s.n_embd, s.n_ff);
    let tell = |row: Entry, times: &[f64]| row.value(rate(times).rate, "TFLOP/s").times(rate(times), None);
    Ok(vec![
        tell(row("GPU-001", &format!("matmul of f16, {shape}")), &half).at_least(100.0),
        tell(row("GPU-001-q4_K", &format!("matmul of q4_K, {shape}")), &q4),
        tell(row("GPU-001-f32", &format!("matmul of f32, {shape}")), &full),
        tell(row("IMP-006", "wgpu matmul of f16"), &half).at_least(1.0),
        row("GPU-022", "4-bit weights by activations of f16, a prompt: over weights of f32")
            .value(median_ratio(&q4, &full), "×")
            .at_least(1.0)
            .times(rate(&q4), Some(("f32", rate(&full)))),
    ])
}

/// How many times faster the first is.
fn median_ratio(ours: &[f64], other: &[f64]) -> f64 {
    crate::stats::median(other) / crate::stats::median(ours)
}

/// Seconds of a block with one token, and its bytes of weights.
fn token(lab: &Lab, card: &Card, s: &Sizes, dtype: DType) -> Result<(Vec<f64>, f64)> {
    let size = 3 * dtype.row_size(s.n_embd * s.n_ff);
    let many = (s.bytes / size).clamp(4, 64);
    let (size, tensors) = layers_of(dtype, s, many);
    let weights = upload(card, &tensors)?;
    let all: Vec<&[WeightRef]> = tensors.chunks(4).collect();
    let few = many / 4;
    let mut a = blocks(&weights, s, &all[..few], 1)?;
    let mut b = blocks(&weights, s, &all, 1)?;
    Ok((per_layer(lab, (few, &mut a), (many, &mut b))?, size as f64))
}

/// Products of a single token.
fn tokens(lab: &Lab, card: &Card, s: &Sizes) -> Result<Vec<Entry>> {
    let measured: Result<Vec<_>> = [DType::Q4K, DType::Q5K, DType::Q6K, DType::Q8_0, DType::F16, DType::F32]
        .map(|dtype| token(lab, card, s, dtype))
        .into_iter()
        .collect();
    let measured = measured?;
    let [q4, q5, q6, q8, half, full] = &measured[..] else { return Err("six types".into()) };
    let rate = |(times, bytes): &(Vec<f64>, f64)| Summary::of(times, bytes / 1e9, "GB/s");
    let read = |id: &str, name: &str, of: &(Vec<f64>, f64)| {
        row(id, name).value(rate(of).rate, "GB/s").times(rate(of), None).at_least(500.0)
    };
    let over = |id: &str, name: &str, a: &(Vec<f64>, f64), b: &(Vec<f64>, f64), beside: &str| {
        row(id, name).value(median_ratio(&a.0, &b.0), "×").times(rate(a), Some((beside, rate(b))))
    };
    Ok(vec![
        read("IMP-011", "fused dequantization and matmul, one token: q4_K weights read", q4),
        read("GPU-019", "fused dequantization and matmul, one token: q4_K weights read", q4),
        over("GPU-019-f16", "one token, q4_K: over leaving out the quantization", q4, half, "f16").at_least(1.0),
        read("GPU-020-q5_K", "one token: q5_K weights read", q5),
        read("GPU-020-q6_K", "one token: q6_K weights read", q6),
        over("GPU-021", "one token, products of bytes (q8_0): over those of f32", q8, full, "f32").at_least(2.0),
        read("GPU-021-q8_0", "one token: q8_0 weights read", q8),
    ])
}

/// GPU-003: what a gate's activation reads and writes.
fn activations(lab: &Lab, card: &Card, s: &Sizes) -> Result<Entry> {
    let weights = upload(card, &[])?;
    let make = |n: usize| -> Result<Bench> {
        let mut b = Builder::new();
        let x = b.input(Input::Embd, DType::F32, [s.n_ff, 1, 1, 1])?;
        let up = b.repeat(x, [s.n_ff, s.n_wide, 1, 1])?;
        let mut gate = b.scale(up, 0.5)?;
        for _ in 0..n {
            gate = b.glu(GluOp::Silu, gate, up)?;
        }
        let sum = b.sum_rows(gate)?;
        let inputs = Inputs { embd: crate::kernels::floats(s.n_ff), ..Inputs::default() };
        Bench::new(&weights, b, &[sum], inputs, &[])
    };
    let (mut few, mut many) = (make(2)?, make(18)?);
    let times = per_layer(lab, (2, &mut few), (18, &mut many))?;
    let rate = Summary::of(&times, 3.0 * 4.0 * (s.n_ff * s.n_wide) as f64 / 1e9, "GB/s");
    let name = format!("activations: SiLU gate of {} elements by {} tokens", s.n_ff, s.n_wide);
    Ok(row("GPU-003", &name).value(rate.rate, "GB/s").times(rate, None).at_least(50.0))
}

/// A layer's attention.
#[derive(Clone, Copy)]
struct Heads {
    n_head_kv: usize,
    n_rows: usize,
    /// Rows that the token sees, the last ones.
    window: usize,
}

const N_HEAD: usize = 32;
const HEAD: usize = 128;

/// Attention of one token in several layers, one after the other, each with a cache of its own.
fn attend(weights: &Arc<Weights>, h: Heads, n_layer: usize) -> Result<Bench> {
    let (mut b, n) = (Builder::new(), HEAD * h.n_head_kv);
    let rope = Rope {
        kind: RopeKind::Norm,
        n_dims: HEAD,
        freq_base: 500_000.0,
        freq_scale: 1.0,
        ext_factor: 0.0,
        attn_factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        n_ctx_orig: 8192,
    };
    let p = Attention { scale: 0.088, soft_cap: 0.0, max_alibi_bias: 0.0, mask: MaskId(0) };
    let x = b.input(Input::Embd, DType::F32, [HEAD * (N_HEAD + 2 * h.n_head_kv), 1, 1, 1])?;
    let row = 4 * HEAD * (N_HEAD + 2 * h.n_head_kv);
    let view =
        |b: &mut Builder, from: usize, n: usize| b.view(x, [HEAD, n, 1, 1], [4, 4 * HEAD, row, row], 4 * HEAD * from);
    let q = view(&mut b, 0, N_HEAD)?;
    let (k, v) = (view(&mut b, N_HEAD, h.n_head_kv)?, view(&mut b, N_HEAD + h.n_head_kv, h.n_head_kv)?);
    let v = b.cont(v)?;
    let pos = b.input(Input::Positions, DType::I32, [1, 1, 1, 1])?;
    let ids = b.input(Input::KvRows(0), DType::I32, [1, 1, 1, 1])?;
    let mut out: Option<ValueId> = None;
    for il in 0..n_layer {
        let q = match out {
            Some(before) => b.reshape(before, [HEAD, N_HEAD, 1, 1])?,
            None => q,
        };
        let (q, k) = (b.rope(rope, q, pos, None)?, b.rope(rope, k, pos, None)?);
        let mut stored = Vec::new();
        for (i, heads) in [k, v].into_iter().enumerate() {
            let cache = b.state(StateId((2 * il + i) as u32), "cache", DType::F16, [n, h.n_rows, 1, 1]);
            let rows = b.reshape(heads, [n, 1, 1, 1])?;
            let all = b.set_rows(cache, rows, ids)?;
            stored.push(b.reshape(all, [HEAD, h.n_head_kv, h.n_rows, 1])?);
        }
        out = Some(b.attention(p, q, stored[0], stored[1], None)?);
    }
    let out = out.ok_or("no layers")?;
    let last = h.n_rows as u32;
    let mask = Mask {
        rows: vec![MaskRow { start: last - h.window as u32, end: last, bits: None }],
        kv_pos: (0..h.n_rows as i32).collect(),
        q_pos: vec![h.n_rows as i32 - 1],
        ..Mask::default()
    };
    let inputs = Inputs {
        embd: crate::kernels::floats(HEAD * (N_HEAD + 2 * h.n_head_kv)),
        positions: vec![h.n_rows as i32 - 1],
        kv_rows: vec![vec![h.n_rows as i32 - 1]],
        masks: vec![mask],
        ..Inputs::default()
    };
    Bench::new(weights, b, &[out], inputs, &vec![(DType::F16, [n, h.n_rows, 1, 1]); 2 * n_layer])
}

fn attention(lab: &Lab, card: &Card, s: &Sizes) -> Result<Vec<Entry>> {
    let weights = upload(card, &[])?;
    let time = |h: Heads| -> Result<Vec<f64>> {
        let (mut few, mut many) = (attend(&weights, h, 2)?, attend(&weights, h, 10)?);
        per_layer(lab, (2, &mut few), (10, &mut many))
    };
    let grouped = Heads { n_head_kv: 8, n_rows: s.n_rows, window: s.n_rows };
    let (a, b) = (time(grouped)?, time(Heads { n_head_kv: N_HEAD, ..grouped })?);
    let long = Heads { n_rows: 4 * s.n_rows, window: 4 * s.n_rows, ..grouped };
    let (c, d) = (time(Heads { window: s.n_rows / 8, ..long })?, time(long)?);
    let layer = |times: &[f64]| Summary::of(times, 1.0, "layers/s");
    Ok(vec![
        row("GPU-023", &format!("one token over {} rows, 8 KV heads for 32: over 32", s.n_rows))
            .value(ratio(&a, &b), "×")
            .at_least(1.0)
            .times(layer(&a), Some(("32 KV heads", layer(&b)))),
        row("GPU-024", &format!("one token, window of {} in {} rows: over all rows", s.n_rows / 8, 4 * s.n_rows))
            .value(ratio(&c, &d), "×")
            .at_least(1.0)
            .times(layer(&c), Some(("all rows", layer(&d)))),
    ])
}
