//! The CPU kernels by format and instruction set, one thread: products with many tokens and with few, attention, norms,
//! rotations, softmax, gates, conversions both ways. The machine's limits for one thread are measured and told first, and
//! every rate of a kernel (criterion's `thrpt`: elements are operations) is to be read beside them.
//! `cargo bench --bench kernels -- gemm/q4_1` runs a part, `make bench-kernels` all.

#![allow(missing_docs)] // the macros of criterion make undocumented functions

#[path = "../examples/common/kernels.rs"]
#[allow(dead_code)] // examples use more of it
mod kernels;
#[path = "../examples/common/limits.rs"]
#[allow(dead_code)] // examples use more of it
mod limits;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use infer::backend::cpu::kernels::{Isa, available, best};
use infer::quant::DType;
use kernels::*;
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

/// Types of a KV cache.
const CACHES: [DType; 8] =
    [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1];

/// Row lengths of a small and of a large model.
const K: [usize; 2] = [768, 2048];
/// Elements of a row in benches of rows.
const ROW: usize = 2048;

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(400));
    group
}

/// Whether everything runs once, for a look.
fn unmeasured() -> bool {
    std::env::args().any(|arg| arg == "--test" || arg == "--list")
}

/// Told in the words of criterion's rates.
fn limits(_: &mut Criterion) {
    if unmeasured() {
        return;
    }
    let l = limits::measure(best().name(), 1);
    println!(
        "limits of one thread ({}): {:.1} GB/s ({:.1} GiB/s) read from memory, {:.0} Gelem/s byte operations, {:.0} Gelem/s \
         f32 operations\n",
        l.isa,
        l.read_gb_s,
        l.read_gb_s * 1e9 / f64::from(1 << 30),
        l.int8_gop_s,
        l.f32_gflop_s
    );
}

/// `gemm`: 512 tokens by 64 rows. `batch2` to `batch8`: few tokens, as sequences that decode together or drafts that are
/// verified. `gemv`: one token. With few tokens there are 32 MiB of weights, more than the caches hold.
fn products(c: &mut Criterion) {
    let n_bytes = if unmeasured() { 1 << 20 } else { 32 << 20 };
    for (name, n_tokens) in [("gemm", 512), ("batch8", 8), ("batch6", 6), ("batch4", 4), ("batch2", 2), ("gemv", 1)] {
        let mut group = group(c, name);
        for dtype in FORMATS {
            for k in K {
                if (2..512).contains(&n_tokens) && k != K[1] {
                    continue;
                }
                let m = if n_tokens == 512 { 64 } else { n_bytes / dtype.row_size(k) };
                let w = Matrix::new(dtype, k, m);
                let x = floats(n_tokens * k);
                let mut work = Work::default();
                group.throughput(match n_tokens {
                    512 => Throughput::Elements((2 * n_tokens * m * k) as u64),
                    _ => Throughput::Bytes(w.data.len() as u64),
                });
                for isa in available() {
                    let id = BenchmarkId::new(format!("{dtype}/{}", isa.name()), k);
                    group.bench_function(id, |b| {
                        b.iter(|| {
                            matmul(isa, &w, 0..m, &x, &mut work);
                            black_box(&work.out);
                        });
                    });
                }
            }
        }
    }
}

/// One KV head with its query heads: `prefill`, 128 tokens behind 1920, and `decode`, one token behind 8191, by type of the
/// cache, size of the head and number of query heads (1: no sharing).
fn attention(c: &mut Criterion) {
    for (name, n_tokens, n_rows) in [("attention_prefill", 128, 2048), ("attention_decode", 1, 8192)] {
        let mut bench = group(c, name);
        for dtype in CACHES {
            for (d, heads) in [(64, 1), (64, 3), (64, 4), (128, 4), (256, 4)] {
                let a = Attention::new(dtype, d, 1, heads, n_rows, n_tokens);
                let mut work = AttentionWork::default();
                bench.throughput(match n_tokens {
                    1 => Throughput::Bytes(a.head_bytes() as u64),
                    _ => Throughput::Elements(a.head_operations() as u64),
                });
                for isa in available() {
                    let id = BenchmarkId::new(format!("{dtype}/{}", isa.name()), format!("{heads}x{d}"));
                    bench.bench_function(id, |b| b.iter(|| a.run(isa, 0, &mut work)));
                }
            }
        }
    }
}

/// Rows of 2048: formats to f32, bytes of f32 per second.
fn dequantizing(c: &mut Criterion) {
    let mut bench = group(c, "dequantize");
    bench.throughput(Throughput::Bytes(4 * ROW as u64));
    for dtype in FORMATS {
        let data = elements(dtype, ROW);
        let mut out = vec![0.0; ROW];
        for isa in available() {
            bench.bench_function(BenchmarkId::new(dtype.name(), isa.name()), |b| {
                b.iter(|| dequantize(isa, dtype, black_box(&data), &mut out));
            });
        }
    }
}

/// Rows of 2048: f32 to 8-bit activations and to the types of caches, bytes of f32 per second.
fn quantizing(c: &mut Criterion) {
    let x = floats(ROW);
    let mut bench = group(c, "quantize");
    bench.throughput(Throughput::Bytes(4 * ROW as u64));
    for isa in available() {
        let mut work = Work::default();
        bench.bench_function(BenchmarkId::new("activations", isa.name()), |b| {
            b.iter(|| quantize_activations(isa, black_box(&x), ROW, &mut work));
        });
        for dtype in CACHES {
            let mut bytes = vec![0; dtype.row_size(ROW)];
            bench.bench_function(BenchmarkId::new(format!("cache_{dtype}"), isa.name()), |b| {
                b.iter(|| assert!(quantize_cache_row(isa, dtype, black_box(&x), &mut bytes)));
            });
        }
    }
}

/// Rows of 2048: operations on f32, bytes read per second.
fn rows(c: &mut Criterion) {
    let x = floats(ROW);
    let mut bench = group(c, "rows");
    bench.throughput(Throughput::Bytes(4 * ROW as u64));
    let mut out = x.clone();
    for isa in available() {
        let mut add = |name: &str, f: &mut dyn FnMut(Isa)| {
            bench.bench_function(BenchmarkId::new(name, isa.name()), |b| b.iter(|| f(isa)));
        };
        add("rms_norm", &mut |isa| rms_norm(isa, black_box(&x), &x, &mut out));
        let (sin, cos) = (vec![0.6; 32], vec![0.8; 32]);
        for (name, neox) in [("rope_norm", false), ("rope_neox", true)] {
            add(name, &mut |isa| rope(isa, neox, &sin, &cos, &mut out));
        }
        // Products of products would soon be no normal numbers.
        add("swiglu", &mut |isa| {
            out.copy_from_slice(&x);
            swiglu(isa, black_box(&x), &mut out);
        });
        add("softmax", &mut |isa| {
            out.copy_from_slice(&x);
            softmax(isa, &mut out);
        });
        add("hadamard_64", &mut |isa| out.chunks_exact_mut(64).for_each(|head| rotate_for_cache(isa, head)));
    }
}

criterion_group!(benches, limits, products, attention, dequantizing, quantizing, rows);
criterion_main!(benches);
