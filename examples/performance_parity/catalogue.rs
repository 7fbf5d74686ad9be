//! The dashboard: every row by name, and why it is not measured here where it is not. A row that a measurement tells (by its
//! id, or by ids that begin with it and a dash) is not repeated.

use crate::report::Entry;

/// Why there is no number.
enum Because {
    /// A test, or a document, checks it.
    Elsewhere(&'static str),
    /// It cannot be measured.
    Not(&'static str),
    /// It is measured by a case of this program that did not run.
    Case,
}

use Because::{Case, Elsewhere, Not};

const GPUS: Because = Not("one GPU is measured at a time");
const ENGINE: Because = Not("the engine of infer.h is not there yet");
const GPU_TESTS: Because = Elsewhere("`make test-gpu`");
const KERNELS: Because =
    Elsewhere("`cargo test --lib backend`: NMSE from the reference backend, every instruction set");
const THIS: Because = Elsewhere("this program: `cargo test --example performance_parity`");

struct Row(&'static str, &'static str, Because);

const CAPABILITIES: [Row; 69] = [
    Row("IMP-001", "SIMD Q4_K: dequantize and matvec", Case),
    Row("IMP-002", "mmap weight streaming", Case),
    Row("IMP-003", "fused attention", Case),
    Row("IMP-004", "paged KV cache", Case),
    Row("IMP-005", "batch prefill", Case),
    Row("IMP-006", "wgpu matmul", Case),
    Row("IMP-007", "GPU buffer pool", Case),
    Row("IMP-008", "asynchronous GPU dispatch", Case),
    Row("IMP-009", "whole transformer on the GPU", Case),
    Row("IMP-010", "overlap of CPU and GPU", Case),
    Row("IMP-011", "fused dequantization and matmul on a GPU", Case),
    Row("IMP-012", "Q5_K, Q6_K", Case),
    Row("IMP-013", "int8 matmul", Case),
    Row("IMP-014", "4-bit weights: perplexity within 0.5", Case),
    Row("IMP-015", "cache-aware weight layout", Elsewhere("the GEMM and GEMV rows: panels in cache, rows in place")),
    Row("IMP-016", "flash attention memory", Case),
    Row("IMP-017", "grouped query attention", Case),
    Row("IMP-018", "sliding window", Case),
    Row("IMP-019", "ALiBi", Case),
    Row("IMP-020", "block attention patterns", Case),
    Row("IMP-021", "continuous batching", ENGINE),
    Row(
        "IMP-022",
        "speculative decoding",
        Not("no drafting in the library yet; BATCH-verify6 measures its verification"),
    ),
    Row("IMP-023", "tensor and layer parallelism over GPUs", GPUS),
    Row("IMP-024", "weight caching, warm start", Case),
    Row("IMP-025", "ONNX export", Not("not there yet")),
    Row("IMP-026", "real GGUF to GPU", Case),
    Row("IMP-027", "GGUF tokenizer equal to llama.cpp's", Elsewhere("`cargo test --test tokenizers --test vocab`")),
    Row("IMP-028", "logits equal within tolerance", Case),
    Row("IMP-029", "100 coherent tokens", Case),
    Row("IMP-030", "harness with less than 5 % variance", Case),
    Row("IMP-031", "cached prefill", Case),
    Row("IMP-032", "cached decode", Case),
    Row("IMP-033", "cached decode equals computing anew", Elsewhere("`cargo test --test models`")),
    Row("IMP-034", "zero allocation while decoding", Case),
    Row("IMP-035", "batched heads", Elsewhere("all heads of a layer are one step: `cargo test --test graph`")),
    Row("IMP-036", "no K/V concatenation", Case),
    Row("IMP-037", "fused QKV", Case),
    Row("IMP-038", "SIMD softmax", Case),
    Row("IMP-039", "fused output projection", Elsewhere("it is one step with the residual: `cargo test --test graph`")),
    Row("IMP-040", "contiguous attention buffers", Elsewhere("they lie in one arena: `cargo test --test graph`")),
    Row("IMP-041", "SIMD RoPE", Case),
    Row(
        "IMP-042",
        "fused output and residual",
        Elsewhere("added where products are written: `cargo test --test graph`"),
    ),
    Row("IMP-043", "batched embedding", Case),
    Row("IMP-044", "parallel FFN", Case),
    Row("IMP-045", "one-pass norm", Case),
    Row("IMP-046", "64-byte alignment", Elsewhere("the type of `Scratch` gives it to all temporaries")),
    Row("IMP-047", "prefetch", Elsewhere("part of the GEMV rows, whose share of the read rate it serves")),
    Row("IMP-048", "blocked matmul", Case),
    Row("IMP-049", "tensor pool", Case),
    Row("IMP-050", "forward arena", Case),
    Row("IMP-051", "scratch", Case),
    Row("IMP-052", "quantized dot", Case),
    Row("IMP-053", "quantized matvec", Case),
    Row("IMP-054", "mixed-precision accumulation", Case),
    Row("IMP-055", "double-buffered weight streaming", Not("weights are mapped; nothing streams them yet")),
    Row("IMP-056", "chunked prompts", Case),
    Row(
        "IMP-057",
        "pipeline stages with timings",
        Elsewhere("results of stages: `cargo test --test eval_callback`; no timings yet"),
    ),
    Row("IMP-058", "token batch", Case),
    Row("IMP-059", "speculative buffer", ENGINE),
    Row("IMP-060", "batch scheduler", ENGINE),
    Row("IMP-061", "asynchronous request queue with back-pressure", ENGINE),
    Row("IMP-062", "completion events", ENGINE),
    Row("IMP-063", "deadlines", ENGINE),
    Row("IMP-064", "priorities", ENGINE),
    Row("IMP-065", "token-bucket rate limit", ENGINE),
    Row("IMP-066", "resource tracking", ENGINE),
    Row("IMP-067", "metrics", ENGINE),
    Row("IMP-068", "health checks", ENGINE),
    Row("IMP-069", "graceful shutdown", ENGINE),
];

const GPU_ROWS: [Row; 31] = [
    Row("GPU-001", "matmul", Case),
    Row("GPU-002", "hybrid scheduling", Case),
    Row("GPU-003", "activations", Case),
    Row("GPU-004", "buffer pool", Case),
    Row("GPU-005", "asynchronous work", Case),
    Row("GPU-006", "token generation of a 1B model (M3, M4)", Case),
    Row("GPU-007", "7–8B model, 50 t/s (M5)", Case),
    Row("GPU-008", "7–8B Q4_K_M at 4096 in 8 GB (M6)", Case),
    Row("GPU-009", "2048 positions (M8)", Case),
    Row("GPU-010", "7–8B model, sustained (M7)", Case),
    Row("GPU-011", "4096 positions (M9)", Case),
    Row("GPU-012", "8192 positions (M10)", Case),
    Row("GPU-013", "16384 positions (M11)", Case),
    Row("GPU-014", "32768 positions (M12)", Case),
    Row("GPU-015", "65536 positions, then 131072", Case),
    Row("GPU-016", "7–8B GGUF to GPU in 5 s (M13)", Case),
    Row("GPU-017", "end to end (M14)", Case),
    Row("GPU-018", "parity with llama.cpp (M15)", Case),
    Row("GPU-019", "fused dequantization and matmul (M16)", Case),
    Row("GPU-020", "Q5_K, Q6_K (M17)", Case),
    Row("GPU-021", "products of bytes (M18)", Case),
    Row("GPU-022", "4-bit weights by activations of f16 (M19)", Case),
    Row("GPU-023", "grouped query attention (M20)", Case),
    Row("GPU-024", "sliding window (M21)", Case),
    Row("GPU-025", "flash attention memory (M22)", Case),
    Row("GPU-026", "quantized KV cache (M23)", Case),
    Row("GPU-027", "streaming (M24)", Case),
    Row("GPU-028", "batching and speculation (M25)", Case),
    Row("GPU-029", "asynchronous requests (M26)", ENGINE),
    Row("GPU-030", "scheduling (M27)", ENGINE),
    Row("GPU-031", "metrics (M28)", ENGINE),
];

const QUALITY: [Row; 50] = [
    Row("QA-001", "output equal to llama.cpp's", Elsewhere("`cargo test --test models`, rows IMP-028 and IMP-029")),
    Row("QA-002", "tokens equal", Elsewhere("`cargo test --test tokenizers --test vocab`")),
    Row("QA-003", "attention within 1e-5", KERNELS),
    Row("QA-004", "RoPE within 1e-6", KERNELS),
    Row("QA-005", "softmax sums within 1e-7", KERNELS),
    Row("QA-006", "norm variance within 1e-4", KERNELS),
    Row("QA-007", "GELU, SwiGLU within 1e-5", KERNELS),
    Row("QA-008", "cache equals recompute", Elsewhere("`cargo test --test models`")),
    Row("QA-009", "quantized near f32", Elsewhere("the accuracy rows")),
    Row("QA-010", "quantized kernels near f32", KERNELS),
    Row("QA-011", "no regression of more than 5 %", Case),
    Row("QA-012", "p99 below twice p50", Case),
    Row("QA-013", "memory below 1.5 times the model", Case),
    Row("QA-014", "GPU busy", Case),
    Row("QA-015", "no leak", Case),
    Row("QA-016", "7B cold start", Case),
    Row("QA-017", "warm runs within 10 %", Case),
    Row("QA-018", "batch scales to 8", Case),
    Row("QA-019", "token rate varies below 10 %", Case),
    Row("QA-020", "graceful growth with context", Case),
    Row("QA-021", "out of memory is an error", Elsewhere("`cargo test --test robust --test border`")),
    Row("QA-022", "GPU loss", GPU_TESTS),
    Row("QA-023", "malformed files", Elsewhere("`cargo test --test robust --test gguf`")),
    Row("QA-024", "truncated files", Elsewhere("`cargo test --test gguf`")),
    Row("QA-025", "empty input", Elsewhere("`cargo test --test border`")),
    Row("QA-026", "context overflow", Elsewhere("`cargo test --test models`: a full context refuses and stays")),
    Row("QA-027", "special tokens", Elsewhere("`cargo test --test tokenizers --test vocab`")),
    Row("QA-028", "models shared by threads", Elsewhere("`cargo test --test threads`")),
    Row("QA-029", "determinism with a fixed seed", Elsewhere("`cargo test --test sampling`")),
    Row("QA-030", "CPU and GPU agree", GPU_TESTS),
    Row("QA-031", "stopping by coefficient of variation", THIS),
    Row("QA-032", "warm-up", THIS),
    Row("QA-033", "environment recorded", THIS),
    Row("QA-034", "outliers by median deviation", THIS),
    Row("QA-035", "p50, p95, p99", THIS),
    Row("QA-036", "variance", THIS),
    Row("QA-037", "versioned results", THIS),
    Row("QA-038", "preflight checks", Case),
    Row(
        "QA-039",
        "automatic download of models",
        Elsewhere("`make bench` fetches them, `synth_gguf` makes the large ones"),
    ),
    Row("QA-040", "JSON schema", Elsewhere("checked whenever results are written: docs/performance.schema.json")),
    Row("QA-041", "one command for all benchmarks", Elsewhere("`make bench`")),
    Row("QA-042", "graceful without a GPU", Elsewhere("GPU rows say why they are not measured")),
    Row("QA-043", "CI on every change", Elsewhere(".ci/run runs `make bench-smoke`")),
    Row("QA-044", "published dashboard", Elsewhere("docs/performance.md, target/performance/index.html")),
    Row("QA-045", "trends", Elsewhere("every run is kept in target/performance/runs and compared with the one before")),
    Row("QA-046", "detection of regressions", THIS),
    Row("QA-047", "docs with the latest results", Elsewhere("docs/performance.md is written by `make bench`")),
    Row("QA-048", "benchmarks of kernels", Elsewhere("`make bench-kernels`")),
    Row("QA-049", "comparison with llama.cpp", Elsewhere("the model rows; `make compare` by llama-bench")),
    Row("QA-050", "reproducible models", Elsewhere("`cargo test --example synth_gguf`")),
];

/// A row that a case cannot measure.
pub fn unmeasured(id: &str, why: &str) -> Entry {
    let groups = [("Capabilities", &CAPABILITIES[..]), ("GPU", &GPU_ROWS[..]), ("Quality", &QUALITY[..])];
    let mut all = groups.iter().flat_map(|(group, rows)| rows.iter().map(move |row| (*group, row)));
    let (group, name) = all.find(|(_, row)| id.starts_with(row.0)).map_or(("GPU", ""), |(group, row)| (group, row.1));
    Entry::new(id, group, name).note(why)
}

/// The rows that `measured` does not tell.
pub fn others(measured: &[Entry]) -> Vec<Entry> {
    let told = |id: &str| {
        measured.iter().any(|row| row.id.strip_prefix(id).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
    };
    let entry = |group: &str, row: &Row| {
        let entry = Entry::new(row.0, group, row.1);
        match row.2 {
            Elsewhere(by) => entry.elsewhere(by),
            Not(why) => entry.note(why),
            Case => entry.note("its measurement did not run this time"),
        }
    };
    let capabilities = CAPABILITIES.iter().map(|row| entry("Capabilities", row));
    let gpu = GPU_ROWS.iter().map(|row| entry("GPU", row));
    let quality = QUALITY.iter().map(|row| entry("Quality", row));
    capabilities.chain(gpu).chain(quality).filter(|row| !told(&row.id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_dashboard_is_there_once() {
        let ids: Vec<String> = others(&[]).into_iter().map(|row| row.id).collect();
        let expected = (1..=69)
            .map(|i| format!("IMP-{i:03}"))
            .chain((1..=31).map(|i| format!("GPU-{i:03}")))
            .chain((1..=50).map(|i| format!("QA-{i:03}")));
        assert_eq!(ids, expected.collect::<Vec<_>>());
    }

    #[test]
    fn what_is_measured_is_not_repeated() {
        let rows = [Entry::new("IMP-001", "", ""), Entry::new("IMP-012-Q5_K", "", "")];
        let ids: Vec<String> = others(&rows).into_iter().map(|row| row.id).collect();
        assert!(!ids.contains(&"IMP-001".into()) && !ids.contains(&"IMP-012".into()));
        assert!(ids.contains(&"IMP-002".into()));
    }

    #[test]
    fn rows_left_to_cases_are_told_by_some_case() {
        let cases: Vec<&str> =
            crate::CASES.iter().chain(&crate::gpu::CASES).flat_map(|case| case.rows.iter().copied()).collect();
        for row in CAPABILITIES.iter().chain(&GPU_ROWS).chain(&QUALITY).filter(|row| matches!(row.2, Case)) {
            assert!(cases.contains(&row.0) || crate::OWN_ROWS.contains(&row.0), "{}", row.0);
        }
    }
}
