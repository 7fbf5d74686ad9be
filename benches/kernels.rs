//! The CPU kernels by format and instruction set: products with many tokens (operations per second), with one token and
//! conversions (bytes per second), attention, norms and rotations. `cargo bench --bench kernels -- gemm/q4_1` runs a part.
//!
//! Limits of the machine that the project measures on, per core: 468 G operations/s (VNNI), 17.5 GB/s of memory.

#![allow(missing_docs)] // the macros of criterion make undocumented functions

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use infer::backend::cpu::act::{QuantizeRow, XBlock, x_blocks};
use infer::backend::cpu::attention::{AttentionTask, Common, KvView, Partial};
use infer::backend::cpu::elementwise::{GluRow, NormRow, RotateHead};
use infer::backend::cpu::float_product::FloatProduct;
use infer::backend::cpu::formats::has_integer_kernels;
use infer::backend::cpu::kernels::{Isa, available};
use infer::backend::cpu::product::{Product, Sink, Weights};
use infer::backend::cpu::rows::ToFloat;
use infer::backend::cpu::scratch::Scratch;
use infer::backend::cpu::simd::Rows;
use infer::graph::{GluOp, Mask, MaskRow, Norm, NormKind, RopeKind};
use infer::quant::{self, DType};
use std::hint::black_box;
use std::time::Duration;

const FORMATS: [DType; 17] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2K,
    DType::Q3K,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
    DType::IQ4NL,
    DType::IQ4XS,
    DType::MXFP4,
    DType::F16,
    DType::BF16,
    DType::F32,
    DType::IQ2S,
];

/// Row lengths of a small and of a large model.
const K: [usize; 2] = [768, 2048];

fn floats(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// `n` elements of a type; of those that have no quantizer, zeros, which take as long.
fn rows(dtype: DType, n: usize) -> Vec<u8> {
    // Some quantizers search long: a few rows are repeated.
    let n_made = n.min(1 << 16);
    let mut made = vec![0; dtype.row_size(n_made)];
    // A failure leaves the zeros.
    let _ = quant::quantize(dtype, &floats(n_made), &mut made);
    made.iter().copied().cycle().take(dtype.row_size(n)).collect()
}

struct Sum(f32);

impl Sink for Sum {
    fn put(&mut self, _: usize, _: usize, values: &[f32]) {
        self.0 += values[0];
    }
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(400));
    group
}

fn product(isa: Isa, w: Weights<'_>, x: &[f32], blocks: &mut [XBlock], scratch: &mut Scratch) -> f32 {
    let (n, mut sink) = (x.len() / w.k, Sum(0.0));
    if has_integer_kernels(w.dtype) {
        for (x, blocks) in x.chunks_exact(w.k).zip(blocks.chunks_exact_mut(x_blocks(w.k))) {
            isa.run(QuantizeRow { x, blocks });
        }
        let x = Rows::new(blocks, x_blocks(w.k), x_blocks(w.k), n);
        isa.run(Product { w, rows: 0..w.m, x, scratch, sink: &mut sink });
    } else {
        isa.run(FloatProduct { w, rows: 0..w.m, x: Rows::new(x, w.k, w.k, n), scratch, sink: &mut sink });
    }
    sink.0
}

/// `gemm`: 512 tokens by 64 rows. `verify`: 6 tokens. `gemv`: one token by 32 MiB of weights, more than the caches hold.
fn products(c: &mut Criterion) {
    for (name, n_tokens) in [("gemm", 512), ("verify", 6), ("gemv", 1)] {
        let mut group = group(c, name);
        for dtype in FORMATS {
            for k in K {
                let m = if n_tokens == 512 { 64 } else { (32 << 20) / dtype.row_size(k) };
                let data = rows(dtype, m * k);
                let w = Weights { dtype, data: &data, k, m };
                let x = floats(n_tokens * k);
                let mut blocks = vec![XBlock::default(); n_tokens * x_blocks(k)];
                let mut scratch = Scratch::default();
                group.throughput(match n_tokens {
                    512 => Throughput::Elements((2 * n_tokens * m * k) as u64),
                    _ => Throughput::Bytes(data.len() as u64),
                });
                for isa in available() {
                    let id = BenchmarkId::new(format!("{dtype}/{}", isa.name()), k);
                    group.bench_function(id, |b| b.iter(|| black_box(product(isa, w, &x, &mut blocks, &mut scratch))));
                }
            }
        }
    }
}

/// One KV head with three query heads of 64: 32 tokens, or one, over 1024 rows.
fn attention(c: &mut Criterion) {
    let (d, group_size, n_rows) = (64, 3, 1024);
    let mut bench = group(c, "attention");
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
        let data = rows(dtype, d * n_rows);
        for n_tokens in [1, 32] {
            let n_q = n_tokens * group_size;
            let mask =
                Mask { rows: vec![MaskRow { start: 0, end: n_rows as u32, bits: None }; n_tokens], ..Mask::default() };
            let row_stride = dtype.row_size(d);
            let kv = KvView { dtype, data: &data, head_stride: row_stride, row_stride, d };
            let common =
                Common { k: kv, v: kv, mask: &mask, scale: 0.125, soft_cap: 0.0, slopes: &[], group: group_size };
            let queries = floats(n_q * d);
            let (mut q, mut sums) = (queries.clone(), vec![0.0; n_q * d]);
            let mut states = vec![Partial::EMPTY; n_q];
            let mut scratch = Scratch::default();
            bench.throughput(match n_tokens {
                1 => Throughput::Bytes(2 * data.len() as u64),
                _ => Throughput::Elements((4 * n_q * d * n_rows) as u64),
            });
            for isa in available() {
                bench.bench_function(BenchmarkId::new(format!("{dtype}/{}", isa.name()), n_tokens), |b| {
                    b.iter(|| {
                        q.copy_from_slice(&queries);
                        isa.run(AttentionTask {
                            common,
                            heads_kv: 0..1,
                            tokens: 0..n_tokens,
                            rows: 0..n_rows,
                            q: &mut q,
                            out: &mut states,
                            sums: &mut sums,
                            scratch: &mut scratch,
                        });
                    });
                });
            }
        }
    }
}

/// Rows of 2048: conversion of formats to f32.
fn dequantize(c: &mut Criterion) {
    let n = 2048;
    let mut bench = group(c, "dequantize");
    bench.throughput(Throughput::Elements(n as u64));
    for dtype in FORMATS {
        let data = rows(dtype, n);
        let mut out = vec![0.0; n];
        for isa in available() {
            bench.bench_function(BenchmarkId::new(dtype.name(), isa.name()), |b| {
                b.iter(|| isa.run(ToFloat { dtype, bytes: black_box(&data), out: &mut out }));
            });
        }
    }
}

/// Rows of 2048: f32 operations.
fn row_operations(c: &mut Criterion) {
    let n = 2048;
    let x = floats(n);
    let mut bench = group(c, "rows");
    bench.throughput(Throughput::Bytes(4 * n as u64));
    for isa in available() {
        let mut blocks = vec![XBlock::default(); x_blocks(n)];
        bench.bench_function(BenchmarkId::new("quantize", isa.name()), |b| {
            b.iter(|| isa.run(QuantizeRow { x: black_box(&x), blocks: &mut blocks }));
        });
        let mut out = x.clone();
        let norm = Norm { kind: NormKind::Rms, eps: 1e-5 };
        bench.bench_function(BenchmarkId::new("rms_norm", isa.name()), |b| {
            b.iter(|| isa.run(NormRow { norm, x: black_box(&x), weight: Some(&x), bias: None, out: &mut out }));
        });
        let (cos, sin) = (vec![1.0; 32], vec![0.0; 32]);
        for kind in [RopeKind::Norm, RopeKind::Neox] {
            bench.bench_function(BenchmarkId::new(format!("rope_{kind:?}"), isa.name()), |b| {
                b.iter(|| {
                    for head in out.chunks_exact_mut(64) {
                        isa.run(RotateHead { kind, sin: &sin, cos: &cos, x: head });
                    }
                });
            });
        }
        let mut up = vec![0.0; n];
        bench.bench_function(BenchmarkId::new("swiglu", isa.name()), |b| {
            b.iter(|| isa.run(GluRow { op: GluOp::Silu, gate: black_box(&x), up: &mut up }));
        });
    }
}

criterion_group!(kernels, products, attention, dequantize, row_operations);
criterion_main!(kernels);
