//! The GPU backend against the reference backend: every operation on random shapes with every type of weights, whole models,
//! partial offload. Runs on any adapter, software too; where the system has none at all it says so and does nothing more.
//! Shaders are validated without a device.

#![cfg(feature = "gpu")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod memory;
mod models;
mod real;
mod sampling;

use common::compare::distance;
use common::engine::{Engine, Ours, Setup, Tok};
use common::tiny::{self, Tiny};
use infer::backend::gpu::device::{Adapter, AdapterKind, Device, adapters, default_adapter};
use infer::backend::gpu::weights::Weights;
use infer::backend::gpu::{Gpu, shader};
use infer::backend::{Backend, Seen, reference::Reference};
use infer::context::BackendKind;
use infer::error::{Error, Result};
use infer::gguf::{Bytes, Source};
use infer::graph::plan::plan;
use infer::graph::{
    Attention, BinaryOp, Builder, GluOp, Input, Inputs, Mask, MaskId, MaskRow, Norm, NormKind, Rope, RopeKind, StateId,
    UnaryOp, ValueId,
};
use infer::model::offload::OffloadParams;
use infer::model::{Model, ModelParams};
use infer::quant::{self, DType};
use infer::tensor::Weight;
use std::sync::Arc;

/// What f32 sums in another order, and functions of the device, may differ by.
const EXACT: f64 = 1e-8;

/// What 8-bit activations may differ by: their rounding is 1/254 of the largest of 32, squared about 1e-5 of the mean square.
const QUANTIZED: f64 = 1e-4;

/// The adapter that `INFER_GPU` names; else the software adapter if there is one, so that results do not depend on the
/// machine; else any.
fn adapter() -> Option<&'static Adapter> {
    if std::env::var_os("INFER_GPU").is_some() {
        return default_adapter();
    }
    adapters().iter().find(|a| a.kind == AdapterKind::Software).or(adapters().first())
}

/// What products of halves may differ by: each factor is rounded by at most 2^-12 of itself, whose mean square is 2e-8, and a
/// block of layers has several such products and weights of attention.
const HALVES: f64 = 2e-6;

/// `exact`, or what halves allow where a device has cooperative matrices and takes them for as many tokens.
fn or_halves(exact: f64, n_tokens: usize) -> f64 {
    let has = |a: &Adapter| a.open().unwrap().abilities.matrices;
    if n_tokens > 2 && adapter().is_some_and(has) { exact.max(HALVES) } else { exact }
}

/// A backend on the adapter of the tests.
fn gpu() -> Option<Gpu> {
    let Some(adapter) = adapter() else {
        println!("skipped: the system has no Vulkan adapter (Debian: mesa-vulkan-drivers brings one in software)");
        return None;
    };
    let weights = Weights::new(adapter.open().unwrap(), &[]);
    Some(Gpu::new(Arc::new(weights)).unwrap())
}

/// Mean squared error relative to the mean square of what is expected.
fn nmse(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len());
    let error: f64 = expected.iter().zip(found).map(|(e, f)| (f64::from(*e) - f64::from(*f)).powi(2)).sum();
    let size: f64 = expected.iter().map(|e| f64::from(*e).powi(2)).sum();
    if size == 0.0 { error } else { error / size }
}

#[test]
fn every_shader_is_valid() {
    use wgpu::naga;
    for kernel in shader::compositions() {
        let source = kernel.source().unwrap();
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|e| panic!("{kernel:?}: {}", e.emit_to_string(&source)));
        let mut validator =
            naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
        let info = validator.validate(&module).unwrap_or_else(|e| panic!("{kernel:?}: {}", e.emit_to_string(&source)));
        // Not everything that is valid can be written.
        let options = naga::back::spv::Options::default();
        naga::back::spv::write_vec(&module, &info, &options, None).unwrap_or_else(|e| panic!("{kernel:?}: {e}"));
    }
}

/// A small deterministic generator (splitmix64).
struct Random(u64);

impl Random {
    /// The next 64 bits.
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in -1..1.
    fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// `n` uniform numbers.
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// `n` elements of random blocks, finite and of moderate size.
    fn blocks(&mut self, dtype: DType, n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut values = vec![0.0; dtype.block_size()];
        while bytes.len() < dtype.row_size(n) {
            let block: Vec<u8> = (0..dtype.type_size()).map(|_| self.bits() as u8).collect();
            quant::dequantize(dtype, &block, &mut values).unwrap();
            if values.iter().all(|v| v.abs() < 100.0) {
                bytes.extend_from_slice(&block);
            }
        }
        bytes
    }
}

/// A graph under construction with its random inputs.
struct Case {
    builder: Builder,
    random: Random,
    inputs: Inputs,
    states: Vec<(DType, [usize; 4], Vec<u8>)>,
}

impl Case {
    fn new(seed: u64, n_tokens: usize) -> Case {
        let mut random = Random(seed);
        let inputs = Inputs { positions: (0..n_tokens as i32).map(|i| i + 3).collect(), ..Inputs::default() };
        let _ = random.bits();
        Case { builder: Builder::new(), random, inputs, states: Vec::new() }
    }

    fn weight(&mut self, dtype: DType, ne: [usize; 4]) -> ValueId {
        let n: usize = ne.iter().product();
        let x: Vec<f32> = self.random.floats(n);
        let mut data = vec![0; dtype.row_size(n)];
        if quant::quantize(dtype, &x, &mut data).is_err() {
            data = self.random.blocks(dtype, n);
        }
        self.builder.weight(&Arc::new(Weight {
            name: format!("{dtype}{ne:?}"),
            dtype,
            ne,
            data: Bytes::from(data),
            part_of: None,
        }))
    }

    /// Embeddings of the ubatch, `[n, n_tokens]`.
    fn embd(&mut self, n: usize, n_tokens: usize) -> ValueId {
        self.inputs.embd = self.random.floats(n * n_tokens);
        self.builder.input(Input::Embd, DType::F32, [n, n_tokens, 1, 1]).unwrap()
    }

    fn state(&mut self, dtype: DType, n: usize, rows: usize) -> ValueId {
        let x = self.random.floats(n * rows);
        let mut data = vec![0; dtype.row_size(n * rows)];
        quant::quantize(dtype, &x, &mut data).unwrap();
        self.states.push((dtype, [n, rows, 1, 1], data));
        self.builder.state(StateId(self.states.len() as u32 - 1), "cache", dtype, [n, rows, 1, 1])
    }

    fn check(mut self, what: &str, outputs: &[ValueId], tolerance: f64) {
        for &id in outputs {
            self.builder.output(id).unwrap();
        }
        let finished = Finished { graph: std::mem::take(&mut self.builder).finish(), case: self };
        let Some(mut gpu) = gpu() else { return };
        let expected = finished.run(&mut Reference::default()).unwrap();
        let found = finished.run(&mut gpu).unwrap();
        for (i, (e, f)) in expected.iter().zip(&found).enumerate() {
            let error = nmse(e, f);
            assert!(error < tolerance, "{what}, output {i}: {error:e}");
        }
    }
}

struct Finished {
    graph: infer::graph::Graph,
    case: Case,
}

impl Finished {
    fn run(&self, backend: &mut dyn Backend) -> Result<Vec<Vec<f32>>> {
        for (dtype, ne, data) in &self.case.states {
            let id = backend.alloc_state(*dtype, *ne)?;
            backend.write_state(id, 0, data)?;
        }
        let plan = plan(self.graph.clone());
        let mut outputs: Vec<Vec<f32>> =
            plan.graph.outputs.iter().map(|id| vec![f32::NAN; plan.graph.value(*id).n_elements()]).collect();
        // Twice: a warm backend must not remember.
        for _ in 0..2 {
            let mut slices: Vec<&mut [f32]> = outputs.iter_mut().map(|o| &mut o[..]).collect();
            backend.run(&plan, &self.case.inputs, &mut slices, &mut || false)?;
        }
        for i in 0..self.case.states.len() {
            let (dtype, ne, data) = &self.case.states[i];
            let mut bytes = vec![0; data.len()];
            backend.read_state(StateId(i as u32), 0, &mut bytes)?;
            let mut values = vec![0.0; ne[0] * ne[1]];
            quant::dequantize(*dtype, &bytes, &mut values)?;
            outputs.push(values);
        }
        Ok(outputs)
    }
}

fn norm(kind: NormKind) -> Norm {
    Norm { kind, eps: 1e-5 }
}

#[test]
fn linear_layers() {
    let types = quant::FORMATS.iter().map(|f| f.dtype).filter(|d| {
        // Activations have types of their own; integers are no weights.
        !matches!(d, DType::Q8_1 | DType::Q8K | DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::F64)
    });
    for (i, dtype) in types.enumerate() {
        for n_tokens in [1, 3, 41] {
            let mut c = Case::new(i as u64 * 100 + n_tokens as u64, n_tokens);
            let x = c.embd(512, n_tokens);
            let [w, b] = [c.weight(DType::F32, [512, 1, 1, 1]), c.weight(DType::F32, [75, 1, 1, 1])];
            let normed = c.builder.norm(norm(NormKind::Rms), x, Some(w), None).unwrap();
            let mut outputs = Vec::new();
            for (j, t) in [dtype, DType::Q5_0, dtype].into_iter().enumerate() {
                let w = c.weight(t, [512, 75, 1, 1]);
                let mut y = c.builder.matmul(w, normed).unwrap();
                if j == 0 {
                    y = c.builder.add(y, b).unwrap();
                }
                outputs.push(y);
            }
            c.check(&format!("linear {dtype} x {n_tokens}"), &outputs, QUANTIZED);
        }
    }
}

/// Sizes that fill tiles of `matmul_coop`, and sizes that do not; a gate whose result goes on as halves.
#[test]
fn large_layers() {
    for (n_tokens, n, n_ff) in [(256, 256, 512), (200, 320, 264), (40, 256, 320)] {
        for dtype in [DType::Q4K, DType::Q8_0, DType::F16] {
            let [n, n_ff] = [n, n_ff].map(|x: usize| x.next_multiple_of(dtype.block_size()));
            let mut c = Case::new(n_tokens as u64, n_tokens);
            let x = c.embd(n, n_tokens);
            let w = c.weight(DType::F32, [n, 1, 1, 1]);
            let normed = c.builder.norm(norm(NormKind::Rms), x, Some(w), None).unwrap();
            let [gate, up] = [(); 2].map(|_| c.weight(dtype, [n, n_ff, 1, 1]));
            let [gate, up] = [gate, up].map(|w| c.builder.matmul(w, normed).unwrap());
            let h = c.builder.glu(GluOp::Silu, gate, up).unwrap();
            let down = c.weight(dtype, [n_ff, n, 1, 1]);
            let y = c.builder.matmul(down, h).unwrap();
            let y = c.builder.add(y, x).unwrap();
            c.check(&format!("layer {dtype} {n} {n_ff} x {n_tokens}"), &[y], or_halves(EXACT, n_tokens));
        }
    }
}

#[test]
fn feed_forward_with_residual() {
    for n_tokens in [1, 4, 37] {
        for op in [GluOp::Silu, GluOp::Gelu, GluOp::GeluErf, GluOp::Relu] {
            for dtype in [DType::Q4_0, DType::F16] {
                let mut c = Case::new(n_tokens as u64, n_tokens);
                let x = c.embd(64, n_tokens);
                let [w, b] = [c.weight(DType::F32, [64, 1, 1, 1]), c.weight(DType::F32, [64, 1, 1, 1])];
                let normed = c.builder.norm(norm(NormKind::Layer), x, Some(w), Some(b)).unwrap();
                let [gate, up] = [(); 2].map(|_| c.weight(dtype, [64, 160, 1, 1]));
                let [gate, up] = [gate, up].map(|w| c.builder.matmul(w, normed).unwrap());
                let h = c.builder.glu(op, gate, up).unwrap();
                let down = c.weight(dtype, [160, 64, 1, 1]);
                let y = c.builder.matmul(down, h).unwrap();
                let y = c.builder.add(y, x).unwrap();
                let after = c.builder.norm(norm(NormKind::L2), y, Some(w), None).unwrap();
                let z = c.builder.add(after, x).unwrap();
                c.check(
                    &format!("ffn {op:?} {dtype} x {n_tokens}"),
                    &[z],
                    if dtype == DType::F16 { or_halves(EXACT, n_tokens) } else { QUANTIZED },
                );
            }
        }
    }
}

/// A layer whose products write what the next ones read as bytes, and whose last products are of two types.
#[test]
fn results_go_on_as_bytes() {
    for n_tokens in [1, 2, 5] {
        for (a, b) in [(DType::Q4K, DType::Q6K), (DType::Q8_0, DType::Q4_0), (DType::Q5K, DType::F16)] {
            let mut c = Case::new(n_tokens as u64, n_tokens);
            let x = c.embd(256, n_tokens);
            let [v, w] = [c.weight(DType::F32, [256, 1, 1, 1]), c.weight(DType::F32, [256, 1, 1, 1])];
            let normed = c.builder.norm(norm(NormKind::Rms), x, Some(v), None).unwrap();
            let [gate, up] = [a, a].map(|t| c.weight(t, [256, 512, 1, 1]));
            let [gate, up] = [gate, up].map(|w| c.builder.matmul(w, normed).unwrap());
            let h = c.builder.glu(GluOp::Silu, gate, up).unwrap();
            let down = c.weight(a, [512, 256, 1, 1]);
            let y = c.builder.matmul(down, h).unwrap();
            let y = c.builder.add(y, x).unwrap();
            let normed = c.builder.norm(norm(NormKind::Rms), y, Some(w), None).unwrap();
            let mut outputs = vec![y];
            for (t, rows) in [(a, 96), (a, 64), (b, 75)] {
                let w = c.weight(t, [256, rows, 1, 1]);
                outputs.push(c.builder.matmul(w, normed).unwrap());
            }
            c.check(&format!("layer {a} {b} x {n_tokens}"), &outputs, 4.0 * QUANTIZED);
        }
    }
}

struct Attend {
    n_tokens: usize,
    n_rows: usize,
    dtype: DType,
    d: usize,
    p: Attention,
    kind: RopeKind,
    sinks: bool,
}

/// Heads with norm and rotation, stored into a cache and attended to: every second row of the cache is masked for some of the
/// first 64 tokens.
fn attend(a: &Attend) {
    // More than 128 tokens go to a kernel for pairs of heads, and fours.
    let (n_head, n_head_kv, d) = (if a.n_tokens > 128 { 8 } else { 6 }, 2, a.d);
    let mut c = Case::new((a.n_tokens * 1000 + a.n_rows + d) as u64, a.n_tokens);
    let rope = Rope {
        kind: a.kind,
        n_dims: d / 2,
        freq_base: 10000.0,
        freq_scale: 1.0,
        ext_factor: 0.0,
        attn_factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        n_ctx_orig: 4096,
    };
    let x = c.embd(d * (n_head + 2 * n_head_kv), a.n_tokens);
    let row = 4 * d * (n_head + 2 * n_head_kv);
    let heads = |c: &mut Case, from: usize, n: usize| {
        c.builder.view(x, [d, n, a.n_tokens, 1], [4, 4 * d, row, row * a.n_tokens], from * d * 4).unwrap()
    };
    let pos = c.builder.input(Input::Positions, DType::I32, [a.n_tokens, 1, 1, 1]).unwrap();
    let w = c.weight(DType::F32, [d, 1, 1, 1]);
    let turn = |c: &mut Case, h: ValueId| {
        let h = c.builder.norm(norm(NormKind::Rms), h, Some(w), None).unwrap();
        c.builder.rope(rope, h, pos, None).unwrap()
    };
    let (q, k, v) =
        (heads(&mut c, 0, n_head), heads(&mut c, n_head, n_head_kv), heads(&mut c, n_head + n_head_kv, n_head_kv));
    let (q, k) = (turn(&mut c, q), turn(&mut c, k));
    let v = c.builder.cont(v).unwrap();
    let n = d * n_head_kv;
    let [k_cache, v_cache] = [(); 2].map(|_| c.state(a.dtype, n, a.n_rows));
    c.inputs.kv_rows = vec![(0..a.n_tokens as i32).map(|t| (t * 7 + 1) % a.n_rows as i32).collect()];
    let ids = c.builder.input(Input::KvRows(0), DType::I32, [a.n_tokens, 1, 1, 1]).unwrap();
    let stored = [(k_cache, k), (v_cache, v)].map(|(cache, heads)| {
        let rows = c.builder.reshape(heads, [n, a.n_tokens, 1, 1]).unwrap();
        let all = c.builder.set_rows(cache, rows, ids).unwrap();
        c.builder.reshape(all, [d, n_head_kv, a.n_rows, 1]).unwrap()
    });
    let mut mask = Mask::default();
    for t in 0..a.n_tokens {
        let (start, end) = ((t * 5 % 70) as u32, (a.n_rows - t * 3 % (a.n_rows / 2)) as u32);
        let bits = (t % 3 == 1 && t < 64).then_some(mask.words.len() as u32);
        if bits.is_some() {
            mask.words.extend((start / 64..end.div_ceil(64)).map(|_| c.random.bits()));
        }
        mask.rows.push(if t == 4 { MaskRow { start: 0, end: 0, bits: None } } else { MaskRow { start, end, bits } });
    }
    mask.kv_pos = (0..a.n_rows as i32).collect();
    mask.q_pos = c.inputs.positions.clone();
    c.inputs.masks = vec![mask];
    let sinks = a.sinks.then(|| c.weight(DType::F32, [n_head, 1, 1, 1]));
    let y = c.builder.attention(a.p, q, stored[0], stored[1], sinks).unwrap();
    let what = format!("attention {} x {} {} d {} {:?}", a.n_tokens, a.n_rows, a.dtype, d, a.p);
    // Norms and rotations are in f32 where the reference takes f64: a value may round to the next level of the cache.
    c.check(&what, &[y], if a.dtype == DType::F32 { or_halves(EXACT, a.n_tokens) } else { 1e-5 });
}

#[test]
fn attention_over_caches() {
    let plain = Attention { scale: 0.2, soft_cap: 0.0, max_alibi_bias: 0.0, mask: MaskId(0) };
    let (kind, sinks, d) = (RopeKind::Neox, false, 64);
    for (n_tokens, n_rows) in [(1, 130), (1, 700), (5, 300), (70, 257)] {
        for dtype in [DType::F32, DType::F16, DType::Q8_0] {
            attend(&Attend { n_tokens, n_rows, dtype, d, p: plain, kind, sinks });
        }
    }
    attend(&Attend { n_tokens: 3, n_rows: 200, dtype: DType::Q4_0, d, p: plain, kind, sinks });
    // A single token, whose heads the attention prepares.
    for (n_rows, dtype, sinks) in [(200, DType::Q4_0, false), (200, DType::F16, true), (700, DType::Q8_0, true)] {
        attend(&Attend { n_tokens: 1, n_rows, dtype, d, p: plain, kind: RopeKind::Norm, sinks });
    }
    // Single tokens by matrices, where the device has them.
    for (n_tokens, n_rows, dtype, d) in
        [(1, 1500, DType::F16, 128), (1, 333, DType::Q8_0, 128), (2, 900, DType::F16, 64), (2, 333, DType::Q4_0, 128)]
    {
        for soft_cap in [0.0, 5.0] {
            let p = Attention { soft_cap, ..plain };
            attend(&Attend { n_tokens, n_rows, dtype, d, p, kind, sinks: n_rows == 333 });
        }
    }
    attend(&Attend { n_tokens: 40, n_rows: 1500, dtype: DType::F16, d: 128, p: plain, kind, sinks: true });
    attend(&Attend { n_tokens: 33, n_rows: 600, dtype: DType::Q4_0, d: 96, p: plain, kind: RopeKind::Norm, sinks });
    // Tokens enough for `attention_prompt` and for the cache to be expanded before; steps that all of a workgroup see.
    for (dtype, d) in [(DType::F32, 64), (DType::F16, 128), (DType::Q8_0, 128), (DType::Q4_0, 64)] {
        attend(&Attend { n_tokens: 130, n_rows: 900, dtype, d, p: plain, kind, sinks });
    }
    let capped = Attention { soft_cap: 5.0, ..plain };
    attend(&Attend { n_tokens: 140, n_rows: 300, dtype: DType::F16, d: 64, p: capped, kind, sinks: true });
    let (n_tokens, dtype) = (9, DType::F16);
    attend(&Attend { n_tokens, n_rows: 300, dtype, d: 40, p: plain, kind: RopeKind::Norm, sinks: true });
    attend(&Attend { n_tokens, n_rows: 90, dtype, d: 96, p: capped, kind, sinks });
    attend(&Attend {
        n_tokens,
        n_rows: 90,
        dtype,
        d,
        p: Attention { max_alibi_bias: 8.0, ..plain },
        kind,
        sinks: true,
    });
}

#[test]
fn experts() {
    for n_tokens in [1, 2, 50] {
        for dtype in [DType::Q4_1, DType::Q6K, DType::F16] {
            let mut c = Case::new(n_tokens as u64, n_tokens);
            let x = c.embd(256, n_tokens);
            let router = c.weight(DType::F32, [256, 8, 1, 1]);
            let logits = c.builder.matmul(router, x).unwrap();
            let probs = c.builder.soft_max(logits, 1.0).unwrap();
            let ids = c.builder.top_k(probs, 3).unwrap();
            let table = c.builder.reshape(probs, [1, 8, n_tokens, 1]).unwrap();
            let weights = c.builder.get_rows(table, ids).unwrap();
            let x3 = c.builder.reshape(x, [256, 1, n_tokens, 1]).unwrap();
            let [up, down] = [c.weight(dtype, [256, 256, 8, 1]), c.weight(dtype, [256, 150, 8, 1])];
            let bias = c.weight(DType::F32, [150, 8, 1, 1]);
            let h = c.builder.matmul_id(up, x3, ids).unwrap();
            let y = c.builder.matmul_id(down, h, ids).unwrap();
            let y = c.builder.add_id(y, bias, ids).unwrap();
            let y = c.builder.mul(y, weights).unwrap();
            c.check(
                &format!("experts {dtype} x {n_tokens}"),
                &[y],
                if dtype == DType::F16 { EXACT } else { 4.0 * QUANTIZED },
            );
        }
    }
}

#[test]
fn single_nodes() {
    let unary = [
        UnaryOp::Silu,
        UnaryOp::Gelu,
        UnaryOp::GeluErf,
        UnaryOp::GeluQuick,
        UnaryOp::Relu,
        UnaryOp::Sigmoid,
        UnaryOp::Tanh,
        UnaryOp::Exp,
        UnaryOp::Softplus,
        UnaryOp::Sqr,
        UnaryOp::Neg,
    ];
    let mut c = Case::new(1, 5);
    let x = c.embd(48, 5);
    let y = c.builder.scale(x, 9.0).unwrap();
    let mut outputs: Vec<ValueId> = unary.map(|op| c.builder.unary(op, y).unwrap()).to_vec();
    let row = c.weight(DType::F32, [48, 1, 1, 1]);
    let column = c.weight(DType::F32, [1, 5, 1, 1]);
    for op in [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul] {
        outputs.extend([row, column].map(|b| c.builder.binary(op, y, b).unwrap()));
    }
    let positive = c.builder.unary(UnaryOp::Exp, x).unwrap();
    outputs.push(c.builder.binary(BinaryOp::Div, y, positive).unwrap());
    outputs.push(c.builder.clamp(x, -0.5, 0.25).unwrap());
    outputs.push(c.builder.soft_max(y, 0.7).unwrap());
    let wide = c.builder.reshape(x, [16, 3, 5, 1]).unwrap();
    let turned = c.builder.permute(wide, [1, 2, 0, 3]).unwrap();
    let turned = c.builder.cont(turned).unwrap();
    outputs.push(c.builder.concat(turned, turned, 1).unwrap());
    outputs.push(c.builder.concat(wide, wide, 0).unwrap());
    outputs.push(c.builder.sum_rows(wide).unwrap());
    outputs.push(c.builder.repeat(row, [96, 2, 3, 1]).unwrap());
    outputs.push(c.builder.hadamard(x, 16).unwrap());
    let table = c.weight(DType::Q4K, [256, 9, 1, 1]);
    c.inputs.tokens = vec![8, 0, 3];
    let ids = c.builder.input(Input::Tokens, DType::I32, [3, 1, 1, 1]).unwrap();
    outputs.push(c.builder.get_rows(table, ids).unwrap());
    let other = c.builder.permute(x, [1, 0, 2, 3]).unwrap();
    let other = c.builder.cont(other).unwrap();
    let columns = turned_columns(&mut c, x);
    outputs.push(c.builder.matmul(other, columns).unwrap());
    // Activations by approximations whose error is absolute: 1e-6 of values around 5.
    c.check("nodes", &outputs, 1e-9);
}

/// `x` transposed, as a view that is not contiguous.
fn turned_columns(c: &mut Case, x: ValueId) -> ValueId {
    let turned = c.builder.permute(x, [1, 0, 2, 3]).unwrap();
    c.builder.cont(turned).unwrap()
}

#[test]
fn attention_blocks() {
    for n_tokens in [1, 2, 18] {
        let (d, n_head, n_kv, n) = (32, 4, 2, 64);
        let mut c = Case::new(7, n_tokens);
        let x = c.embd(n, n_tokens);
        let w = c.weight(DType::F32, [n, 1, 1, 1]);
        let normed = c.builder.norm(norm(NormKind::Rms), x, Some(w), None).unwrap();
        let heads = [n_head, n_kv, n_kv].map(|heads| {
            let w = c.weight(DType::F32, [n, d * heads, 1, 1]);
            let y = c.builder.matmul(w, normed).unwrap();
            c.builder.reshape(y, [d, heads, n_tokens, 1]).unwrap()
        });
        let rope = Rope {
            kind: RopeKind::Norm,
            n_dims: d,
            freq_base: 10000.0,
            freq_scale: 1.0,
            ext_factor: 0.0,
            attn_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            n_ctx_orig: 4096,
        };
        let pos = c.builder.input(Input::Positions, DType::I32, [n_tokens, 1, 1, 1]).unwrap();
        let [q, k] = [heads[0], heads[1]].map(|h| c.builder.rope(rope, h, pos, None).unwrap());
        let rows = 256;
        let [k_cache, v_cache] = [(); 2].map(|_| c.state(DType::F32, d * n_kv, rows));
        // Rows far from each other, as of several sequences.
        let rows_of = |t: i32| t % 2 * 128 + t / 2;
        c.inputs.kv_rows = vec![(0..n_tokens as i32).map(rows_of).collect()];
        let ids = c.builder.input(Input::KvRows(0), DType::I32, [n_tokens, 1, 1, 1]).unwrap();
        let stored = [(k_cache, k), (v_cache, heads[2])].map(|(cache, heads)| {
            let flat = c.builder.reshape(heads, [d * n_kv, n_tokens, 1, 1]).unwrap();
            let all = c.builder.set_rows(cache, flat, ids).unwrap();
            c.builder.reshape(all, [d, n_kv, rows, 1]).unwrap()
        });
        let rows = (0..n_tokens as u32)
            .map(|t| MaskRow { start: t % 2 * 128, end: t % 2 * 128 + t / 2 + 1, bits: None })
            .collect();
        c.inputs.masks = vec![Mask { rows, ..Mask::default() }];
        let p = Attention { scale: 0.2, soft_cap: 0.0, max_alibi_bias: 0.0, mask: MaskId(0) };
        let y = c.builder.attention(p, q, stored[0], stored[1], None).unwrap();
        let o = c.weight(DType::F32, [d * n_head, n, 1, 1]);
        let y = c.builder.matmul(o, y).unwrap();
        let y = c.builder.add(y, x).unwrap();
        c.check(&format!("attention block x {n_tokens}"), &[y], or_halves(EXACT, n_tokens));
    }
}
