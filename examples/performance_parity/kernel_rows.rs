//! Kernels beside the machine's limits, and beside what they replace.

use crate::Result;
use crate::kernels::*;
use crate::lab::{Lab, beside};
use crate::limits::together;
use crate::report::Entry;
use crate::stats::{Summary, ratio, repeat};
use infer::backend::cpu::kernels::{Isa, best};
use infer::backend::cpu::scratch::Scratch;
use infer::quant::{self, DType};
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

const FORMATS: [DType; 15] = [
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
];

/// Row length of the 1B shape.
const K: usize = 2048;
/// More than caches hold.
const MATVEC_BYTES: usize = 64 << 20;
/// Seconds that a sample takes at least, so that the clock is exact.
const SAMPLE: f64 = 2e-3;

fn row(id: &str, name: &str) -> Entry {
    Entry::new(id, "Kernels", name)
}

fn capability(id: &str, name: &str) -> Entry {
    Entry::new(id, "Capabilities", name)
}

/// Seconds per call of each function, in turns.
fn times<const N: usize>(lab: &Lab, mut functions: [&mut dyn FnMut(); N]) -> Result<[Vec<f64>; N]> {
    let counts: [usize; N] = std::array::from_fn(|i| {
        functions[i]();
        let start = Instant::now();
        functions[i]();
        (SAMPLE / start.elapsed().as_secs_f64()).ceil().clamp(1.0, 1e6) as usize
    });
    repeat(lab.rounds(1.0 * N as f64), || {
        Ok(std::array::from_fn(|i| {
            let start = Instant::now();
            (0..counts[i]).for_each(|_| functions[i]());
            start.elapsed().as_secs_f64() / counts[i] as f64
        }))
    })
}

/// Seconds per call on all threads at once.
fn times_together(lab: &Lab, f: impl Fn(usize) + Sync) -> Result<Vec<f64>> {
    let [times] = repeat(lab.rounds(0.7), || Ok([together(lab.n_threads, &f)]))?;
    Ok(times)
}

fn works(lab: &Lab) -> Vec<Mutex<Work>> {
    (0..lab.n_threads).map(|_| Mutex::default()).collect()
}

/// All of them.
pub fn all(lab: &Lab) -> Result<Vec<Entry>> {
    let mut rows = Vec::new();
    rows.extend(matvec(lab)?);
    rows.extend(matmuls(lab)?);
    rows.extend(dequantizing(lab)?);
    rows.extend(attention(lab)?);
    rows.extend(attention_patterns(lab)?);
    rows.extend(products(lab)?);
    rows.extend(elementwise(lab)?);
    Ok(rows)
}

fn formats(lab: &Lab) -> &'static [DType] {
    if lab.quick { &[DType::Q8_0, DType::Q4K, DType::Q5K, DType::Q6K] } else { &FORMATS }
}

/// One token, all threads, weights from memory.
fn matvec(lab: &Lab) -> Result<Vec<Entry>> {
    let (isa, x) = (best(), floats(K));
    let mut rows = Vec::new();
    for &dtype in formats(lab) {
        let m = (MATVEC_BYTES / dtype.row_size(K)).next_multiple_of(32 * lab.n_threads);
        let w = Matrix::new(dtype, K, m);
        let (share, works) = (m / lab.n_threads, works(lab));
        let times = times_together(lab, |i| {
            let work = &mut works[i].lock().expect("no panic in a measurement");
            matmul(isa, &w, i * share..(i + 1) * share, &x, work);
        })?;
        let summary = Summary::of(&times, w.data.len() as f64 / 1e9, "GB/s");
        let (rate, limit) = (summary.rate, lab.limits.read_gb_s);
        let judged = match dtype {
            DType::Q4K => Some("IMP-001-matvec"),
            DType::Q5K => Some("IMP-012-Q5_K"),
            DType::Q6K => Some("IMP-012-Q6_K"),
            _ => None,
        };
        let name = format!("matvec {dtype}, {m} rows of {K}");
        rows.push(row(&format!("GEMV-{dtype}"), &name).value(rate, "GB/s").times(summary.clone(), None).limit(
            "memory read",
            rate,
            limit,
            "GB/s",
        ));
        if let Some(id) = judged {
            rows.push(
                capability(id, &format!("{name}: share of the memory read rate"))
                    .value(100.0 * rate / limit, "%")
                    .at_least(85.0)
                    .times(summary.clone(), None),
            );
        }
        if dtype == DType::Q4K {
            rows.push(capability("IMP-053", "quantized matvec (Q4_K)").value(rate, "GB/s").times(summary, None));
        }
    }
    Ok(rows)
}

/// 512 tokens, all threads, as one ubatch of a prompt.
fn matmuls(lab: &Lab) -> Result<Vec<Entry>> {
    const N: usize = 512;
    let (isa, x) = (best(), floats(N * K));
    let mut rows = Vec::new();
    for &dtype in formats(lab) {
        let share = 128;
        let w = Matrix::new(dtype, K, share * lab.n_threads);
        let works = works(lab);
        for work in &works {
            quantize_activations(isa, &x, K, &mut work.lock().expect("no panic in a measurement"));
        }
        let times = times_together(lab, |i| {
            let work = &mut works[i].lock().expect("no panic in a measurement");
            matmul_quantized(isa, &w, i * share..(i + 1) * share, &x, work);
        })?;
        let summary = Summary::of(&times, 2.0 * (N * K * w.m) as f64 / 1e9, "GOP/s");
        let rate = summary.rate;
        let (limit, name) = match dtype.is_quantized() {
            true => (lab.limits.int8_gop_s, "byte multiply-adds"),
            false => (lab.limits.f32_gflop_s, "f32 multiply-adds"),
        };
        rows.push(
            row(&format!("GEMM-{dtype}"), &format!("matmul {dtype}, 512 tokens, {} rows of {K}", w.m))
                .value(rate, "GOP/s")
                .times(summary, None)
                .limit(name, rate, limit, "GOP/s"),
        );
    }
    Ok(rows)
}

/// IMP-001: Q4_K to f32.
fn dequantizing(lab: &Lab) -> Result<Vec<Entry>> {
    let isa = best();
    let dtype = DType::Q4K;
    let row_bytes = dtype.row_size(K);
    let data = elements(dtype, K * (MATVEC_BYTES / row_bytes));
    let n_rows = data.len() / row_bytes;
    let works: Vec<Mutex<Vec<f32>>> = (0..lab.n_threads).map(|_| Mutex::new(vec![0.0; K])).collect();
    let all = times_together(lab, |i| {
        let out = &mut works[i].lock().expect("no panic in a measurement");
        let share = n_rows / lab.n_threads;
        for bytes in data.chunks_exact(row_bytes).skip(i * share).take(share) {
            dequantize(isa, dtype, bytes, out);
            black_box(&out);
        }
    })?;
    let (mut out, mut plain) = (vec![0.0; K], vec![0.0; K]);
    let (bytes, n) = (&data[..row_bytes], row_bytes as f64 / 1e9);
    let [fast, scalar] = times(
        lab,
        [&mut || dequantize(isa, dtype, black_box(bytes), &mut out), &mut || {
            dequantize(Isa::SCALAR, dtype, black_box(bytes), &mut plain);
        }],
    )?;
    let summary = Summary::of(&all, data.len() as f64 / 1e9, "GB/s");
    Ok(vec![
        capability("IMP-001", "SIMD Q4_K to f32, all threads, from memory")
            .value(summary.rate, "GB/s of blocks")
            .at_least(10.0)
            .limit("memory read", summary.rate, lab.limits.read_gb_s, "GB/s")
            .times(summary, None),
        beside(
            capability("IMP-001-scalar", "SIMD Q4_K to f32, one thread"),
            &fast,
            "scalar kernel",
            &scalar,
            n,
            "GB/s",
        )
        .at_least(4.0),
    ])
}

/// IMP-003: one pass over keys and values against scores in memory.
fn attention(lab: &Lab) -> Result<Vec<Entry>> {
    let isa = best();
    let n_rows = 2048;
    // The heads of the 1B shape.
    let (d, n_head_kv, group) = (64, 8, 4);
    let token = Attention::new(DType::F16, d, n_head_kv, group, n_rows, 1);
    let works: Vec<Mutex<AttentionWork>> = (0..lab.n_threads).map(|_| Mutex::default()).collect();
    let one = times_together(lab, |i| {
        let work = &mut works[i].lock().expect("no panic in a measurement");
        (i..n_head_kv).step_by(lab.n_threads).for_each(|head| token.run(isa, head, work));
    })?;

    let n_tokens = 64;
    let block = Attention::new(DType::F16, d, 1, group, n_rows, n_tokens);
    let mut work = AttentionWork::default();
    let keys = Matrix::new(DType::F16, d, n_rows);
    let values = Matrix::new(DType::F16, n_rows, d);
    let queries = floats(n_tokens * group * d);
    let (mut products, mut scores) = (Work::default(), Vec::new());
    let unfused = &mut || {
        matmul(isa, &keys, 0..n_rows, &queries, &mut products);
        std::mem::swap(&mut scores, &mut products.out);
        for (i, scores) in scores.chunks_exact_mut(n_rows).enumerate() {
            let end = n_rows - n_tokens + i / group + 1;
            softmax(isa, &mut scores[..end]);
            scores[end..].fill(0.0);
        }
        matmul(isa, &values, 0..d, &scores, &mut products);
    };
    let [fused, unfused] = times(lab, [&mut || block.run(isa, 0, &mut work), unfused])?;

    let mut rows = vec![
        capability("IMP-003", "fused attention of a layer of the 1B shape, one token at 2048, all threads")
            .value(Summary::of(&one, 1.0, "").median_ms, "ms")
            .at_most(10.0)
            .times(Summary::of(&one, (n_head_kv * token.head_bytes()) as f64 / 1e9, "GB/s"), None),
        beside(
            capability("IMP-003-fused", "fused attention, 64 tokens at 2048, one head group, one thread"),
            &fused,
            "two passes with scores in memory",
            &unfused,
            block.head_operations() as f64 / 1e9,
            "GFLOP/s",
        )
        .at_least(2.0),
    ];
    for dtype in [DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
        for (d, group) in [(64, 4), (128, 4), (256, 4)] {
            let block = Attention::new(dtype, d, 1, group, n_rows, 128);
            let [times] = times(lab, [&mut || block.run(isa, 0, &mut work)])?;
            let summary = Summary::of(&times, block.head_operations() as f64 / 1e9, "GFLOP/s");
            let (rate, peak) = (summary.rate, lab.limits.f32_gflop_s / lab.limits.n_threads as f64);
            rows.push(
                row(
                    &format!("ATTN-{dtype}-{d}"),
                    &format!("attention, {dtype} cache, head of {d}, 128 tokens at 2048, one thread"),
                )
                .value(rate, "GFLOP/s")
                .times(summary, None)
                .limit("f32 multiply-adds", rate, peak, "GFLOP/s"),
            );
        }
        if lab.quick {
            break;
        }
    }
    Ok(rows)
}

/// IMP-017 to IMP-020: grouped heads, windows, biases.
fn attention_patterns(lab: &Lab) -> Result<Vec<Entry>> {
    let isa = best();
    let (d, n_head) = (64, 32);
    let grouped = Attention::new(DType::F16, d, 8, 4, 4096, 1);
    let single = Attention::new(DType::F16, d, n_head, 1, 4096, 1);
    let full = Attention::new(DType::F16, d, 1, 4, 32768, 1);
    let window = Attention::new(DType::F16, d, 1, 4, 32768, 1).with_window(512);
    let plain = Attention::new(DType::F16, d, 1, 4, 2048, 64);
    let biased = Attention::new(DType::F16, d, 1, 4, 2048, 64).with_alibi();
    let prompt = Attention::new(DType::F16, d, 1, 4, 4096, 512);
    let sparse = Attention::new(DType::F16, d, 1, 4, 4096, 512).with_window(512);
    let work = std::cell::RefCell::new(AttentionWork::default());
    let run = |a: &Attention| (0..a.n_head_kv).for_each(|head| a.run(isa, head, &mut work.borrow_mut()));
    let pair = |a: &Attention, b: &Attention| times(lab, [&mut || run(a), &mut || run(b)]);
    let [gqa, mha] = pair(&grouped, &single)?;
    let [in_window, in_full] = pair(&window, &full)?;
    let [with_bias, without] = pair(&biased, &plain)?;
    let [less, more] = pair(&sparse, &prompt)?;
    Ok(vec![
        beside(
            capability("IMP-017", "GQA: 32 heads with 8 KV heads, one token at 4096"),
            &gqa,
            "32 KV heads",
            &mha,
            1.0,
            "tokens/s",
        )
        .at_least(1.0),
        beside(
            capability("IMP-018", "sliding window of 512 at 32768 positions, one token"),
            &in_window,
            "full attention",
            &in_full,
            1.0,
            "tokens/s",
        )
        .at_least(10.0),
        beside(capability("IMP-019", "ALiBi, 64 tokens at 2048"), &with_bias, "no bias", &without, 64.0, "tokens/s")
            .note("correct results: `cargo test --lib backend`"),
        capability("IMP-020", "block pattern (window of 512 in 4096): time saved by not computing the rest")
            .value(100.0 * (1.0 - 1.0 / ratio(&less, &more)), "%")
            .at_least(50.0)
            .times(Summary::of(&less, 512.0, "tokens/s"), Some(("all rows", Summary::of(&more, 512.0, "tokens/s")))),
    ])
}

/// Products beside what they replace, one thread.
fn products(lab: &Lab) -> Result<Vec<Entry>> {
    let isa = best();
    let (n, m) = (128, 128);
    let x = floats(n * K);
    let operations = 2.0 * (n * m * K) as f64 / 1e9;
    let matrix = |dtype| Matrix::new(dtype, K, m);
    let (q8, f32, q4) = (matrix(DType::Q8_0), matrix(DType::F32), matrix(DType::Q4K));
    let mut work: [Work; 4] = std::array::from_fn(|_| Work::default());
    let [a, b, c, d] = &mut work;
    let [int8, float] = times(lab, [&mut || matmul(isa, &q8, 0..m, &x, a), &mut || matmul(isa, &f32, 0..m, &x, b)])?;
    let [blocked, singly] = times(
        lab,
        [&mut || matmul(isa, &q4, 0..m, &x, c), &mut || x.chunks_exact(K).for_each(|x| matmul(isa, &q4, 0..m, x, d))],
    )?;
    // The 1B shape's Q, K and V for 8 tokens.
    let heads = [2048, 512, 512].map(|m| Matrix::new(DType::Q4K, K, m));
    let few = &x[..8 * K];
    let [once, thrice] = times(
        lab,
        [
            &mut || {
                quantize_activations(isa, few, K, a);
                heads.iter().for_each(|w| matmul_quantized(isa, w, 0..w.m, few, a));
            },
            &mut || heads.iter().for_each(|w| matmul(isa, w, 0..w.m, few, b)),
        ],
    )?;
    let token = &x[..K];
    let [dot, float_dot] =
        times(lab, [&mut || matmul(isa, &q8, 0..16, token, c), &mut || matmul(isa, &f32, 0..16, token, d)])?;
    let dot_operations = 2.0 * (16 * K) as f64 / 1e9;
    Ok(vec![
        beside(
            capability("IMP-013", "int8 matmul (Q8_0), 128 tokens, one thread"),
            &int8,
            "f32",
            &float,
            operations,
            "GOP/s",
        )
        .at_least(2.0),
        beside(
            capability("IMP-048", "blocked matmul (Q4_K), 128 tokens, one thread"),
            &blocked,
            "token by token",
            &singly,
            operations,
            "GOP/s",
        )
        .at_least(2.0),
        beside(
            capability("IMP-037", "fused QKV: activations of 8 tokens quantized once"),
            &once,
            "three times",
            &thrice,
            8.0,
            "tokens/s",
        )
        .at_least(1.0),
        beside(
            capability("IMP-052", "quantized dot (Q8_0, rows in cache)"),
            &dot,
            "f32 dot",
            &float_dot,
            dot_operations,
            "GOP/s",
        )
        .at_least(1.0),
        accumulation()?,
    ])
}

/// IMP-054: what rounding activations and adding up in 32 bits costs.
fn accumulation() -> Result<Entry> {
    let (w, x) = (Matrix::new(DType::Q8_0, K, 32), floats(K));
    let mut work = Work::default();
    matmul(best(), &w, 0..w.m, &x, &mut work);
    let mut row = vec![0.0; K];
    let (mut error, mut norm) = (0.0, 0.0);
    for (bytes, &found) in w.data.chunks_exact(w.dtype.row_size(K)).zip(&work.out) {
        quant::dequantize(w.dtype, bytes, &mut row)?;
        let exact: f64 = row.iter().zip(&x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        error += (f64::from(found) - exact).powi(2);
        norm += exact * exact;
    }
    Ok(capability("IMP-054", "mixed-precision accumulation: NMSE of a Q8_0 product from the exact one in f64")
        .value(error / norm, "NMSE")
        .at_most(1e-3))
}

/// Operations on rows, one thread.
fn elementwise(lab: &Lab) -> Result<Vec<Entry>> {
    let isa = best();
    let scalar = Isa::SCALAR;
    let x = floats(K);
    let bytes = 4.0 * K as f64 / 1e9;
    // Rows begin on cache lines, as in the backend.
    let mut memory = Scratch::default();
    let [a, b] = memory.split([4 * K; 2]).map(bytemuck::cast_slice_mut::<u8, f32>);
    a.copy_from_slice(&x);
    b.copy_from_slice(&x);
    let (sin, cos) = (vec![0.6; 32], vec![0.8; 32]);
    let [softmax_fast, softmax_plain] = times(
        lab,
        [
            &mut || {
                a.copy_from_slice(&x);
                softmax(isa, a);
            },
            &mut || {
                b.copy_from_slice(&x);
                softmax(scalar, b);
            },
        ],
    )?;
    let [rope_fast, rope_plain] =
        times(lab, [&mut || rope(isa, true, &sin, &cos, a), &mut || rope(scalar, true, &sin, &cos, b)])?;
    let [norm_fast, norm_plain] =
        times(lab, [&mut || rms_norm(isa, black_box(&x), &x, a), &mut || rms_norm(scalar, black_box(&x), &x, b)])?;
    // Products of products would soon be no normal numbers.
    let [glu] = times(
        lab,
        [&mut || {
            a.copy_from_slice(&x);
            swiglu(isa, black_box(&x), a);
        }],
    )?;
    let mut work = Work::default();
    let [activations] = times(lab, [&mut || quantize_activations(isa, black_box(&x), K, &mut work)])?;
    let mut cached = vec![0; DType::Q8_0.row_size(K)];
    let [cache] = times(
        lab,
        [&mut || {
            black_box(quantize_cache_row(isa, DType::Q8_0, &x, &mut cached));
        }],
    )?;
    let [transform] = times(lab, [&mut || b.chunks_exact_mut(64).for_each(|head| rotate_for_cache(isa, head))])?;
    let embd = elements(DType::Q6K, K * 512);
    let [embedding] = times(
        lab,
        [&mut || {
            embd.chunks_exact(DType::Q6K.row_size(K)).for_each(|row| dequantize(isa, DType::Q6K, row, a));
        }],
    )?;
    let plain = "scalar kernel";
    let single = |id: &str, name: &str, times: &[f64]| {
        let summary = Summary::of(times, bytes, "GB/s");
        row(id, name).value(summary.rate, "GB/s of f32").times(summary, None)
    };
    let embedding = Summary::of(&embedding, 512.0, "tokens/s");
    Ok(vec![
        beside(capability("IMP-038", "SIMD softmax of 2048"), &softmax_fast, plain, &softmax_plain, bytes, "GB/s")
            .at_least(1.0),
        beside(capability("IMP-041", "SIMD RoPE, 32 heads of 64"), &rope_fast, plain, &rope_plain, bytes, "GB/s")
            .at_least(2.0),
        beside(capability("IMP-045", "one-pass RMS norm of 2048"), &norm_fast, plain, &norm_plain, bytes, "GB/s")
            .at_least(1.0),
        capability("IMP-043", "batched embedding: 512 rows of 2048, Q6_K")
            .value(embedding.rate, "tokens/s")
            .times(embedding, None),
        single("ROW-swiglu", "SwiGLU of 2048", &glu),
        single("ROW-quantize", "activations of 2048 to 8 bits", &activations),
        single("ROW-cache-q8_0", "cache row of 2048 to q8_0", &cache),
        single("ROW-hadamard", "Hadamard transform of 32 heads of 64", &transform),
    ])
}
