//! Mutated model files: whatever a file says, loading it, tokenizing, making a context and decoding end with success or an
//! error. No panic, no abort, no file that takes more than ten seconds, no process that takes more than two gigabytes.
//!
//! Ten thousand files take a few seconds; `INFER_FUZZ_FILES=1000000 cargo test --test robust` runs more, `INFER_FUZZ_SEED`
//! starts elsewhere.

mod common;

use common::engine::{Ours, Setup};
use common::scenario::Run;
use common::tiny::{Random, Scaling, Tiny};
use infer::context::BackendKind;
use infer::gguf::{Array, Gguf, Source, TensorInfo, Value, ValueType};
use infer::model::{Model, ModelParams, Pooling};
use infer::quant::DType;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Files without INFER_FUZZ_FILES: half a minute at most.
const DEFAULT_FILES: u64 = 10_000;
/// Longest that a file may compute. On a busy machine, or when touching two gigabytes for the first time, more than that may
/// pass by the clock; a file that waits for ever is found by [`MAX_WAIT`].
const MAX_TIME: Duration = Duration::from_secs(10);
/// Longest that a file may take by the clock.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Most address space that a process may take, in bytes.
const MAX_MEMORY: u64 = 2 << 30;
/// Asks a process for a range of seeds.
const RANGE: &str = "INFER_FUZZ_RANGE";

/// How far a file can get.
const DEPTHS: [&str; 4] = ["not loaded", "no context", "not decoded", "decoded"];

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn mutated_files_end_in_errors() {
    let (from, n) = (env("INFER_FUZZ_SEED", 0), env("INFER_FUZZ_FILES", DEFAULT_FILES));
    let halves = [(from, from + n / 2), (from + n / 2, from + n)];
    let (mut failures, mut depths) = (Vec::new(), BTreeMap::new());
    std::thread::scope(|scope| {
        let runs = halves.map(|half| scope.spawn(move || run_range(half.0, half.1)));
        for (failed, reached) in runs.map(|run| run.join().unwrap()) {
            failures.extend(failed);
            reached.into_iter().for_each(|(depth, n)| *depths.entry(depth).or_insert(0) += n);
        }
    });
    println!("{depths:?}");
    assert!(failures.is_empty(), "{} of {n} files failed:\n{}", failures.len(), failures.join("\n"));
    // Files that are refused at once test little.
    assert!(n < 1000 || depths.get("decoded").is_some_and(|&decoded| decoded > n / 20), "{depths:?}");
}

/// Runs seeds in processes of their own; one that dies is followed by another from the next seed on.
fn run_range(mut from: u64, to: u64) -> (Vec<String>, BTreeMap<String, u64>) {
    let (mut failures, mut depths) = (Vec::new(), BTreeMap::new());
    while from < to {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads", "1"])
            .env(RANGE, format!("{from} {to}"))
            .env("MALLOC_ARENA_MAX", "2")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&child.stdout);
        let seeds = out.lines().filter_map(|l| l.rsplit_once("seed ")?.1.parse::<u64>().ok());
        let last = seeds.max().unwrap_or(from);
        for depth in out.lines().filter(|l| DEPTHS.contains(l)) {
            *depths.entry(depth.to_string()).or_insert(0) += 1;
        }
        if child.status.success() {
            break;
        }
        let err = String::from_utf8_lossy(&child.stderr);
        let reason: Vec<&str> = err.lines().filter(|l| !l.starts_with(' ') && !l.starts_with("decode:")).collect();
        let reason = reason[reason.len().saturating_sub(4)..].join(" | ");
        failures.push(format!("seed {last}: {}: {reason}", child.status));
        from = last + 1;
    }
    (failures, depths)
}

/// The process of [`mutated_files_end_in_errors`]; says the seed before each file.
#[test]
#[ignore = "run by mutated_files_end_in_errors"]
fn child() {
    let range = std::env::var(RANGE).expect("run by mutated_files_end_in_errors");
    let (from, to) = range.split_once(' ').unwrap();
    let limit = libc::rlimit { rlim_cur: MAX_MEMORY, rlim_max: MAX_MEMORY };
    // SAFETY: the structure is filled in.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    static DONE: AtomicU64 = AtomicU64::new(0);
    std::thread::spawn(|| {
        let now = || (DONE.load(Ordering::Relaxed), cpu_time(), Instant::now());
        let mut last = now();
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let (done, cpu, clock) = now();
            if done != last.0 {
                last = (done, cpu, clock);
            } else if cpu - last.1 > MAX_TIME || clock - last.2 > MAX_WAIT {
                eprintln!("takes too long: computed for {:?} in {:?}", cpu - last.1, clock - last.2);
                std::process::abort();
            }
        }
    });
    let corpus = corpus();
    for seed in from.parse().unwrap()..to.parse().unwrap() {
        println!("seed {seed}");
        std::io::stdout().flush().unwrap();
        println!("{}", use_file(seed, &corpus));
        DONE.fetch_add(1, Ordering::Relaxed);
    }
}

/// Processor time of this process.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is there to be filled in.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Loads a mutated file and goes as far with it as it lets; returns how far that was.
fn use_file(seed: u64, corpus: &[Gguf]) -> &'static str {
    let mut random = Random::new(seed);
    let bytes = mutated(&mut random, &corpus[random_index(seed, corpus.len())]);
    let Ok(model) = Model::load(Source::Bytes(bytes), ModelParams::default()) else { return DEPTHS[0] };
    for text in [&b"Hello  w\xc3\xb6rld <s>\n\xff\xe2\x82"[..], b"", b"aaaaaaaa"] {
        let Ok(tokens) = model.vocab.tokenize(text, true, true) else { continue };
        let _ = model.vocab.detokenize(&tokens, false, true);
    }
    let embeddings = random.below(3) == 0 || model.def().unwrap().encoder_only;
    let setup = Setup {
        n_ctx: if random.below(4) == 0 { 0 } else { 64 },
        n_ubatch: [0, 1, 64][random.below(3)],
        n_seq_max: 1 + random.below(2) as u32,
        kv_unified: random.below(2) == 0,
        swa_full: random.below(2) == 0,
        type_k: [DType::F16, DType::F32, DType::Q8_0][random.below(3)],
        type_v: [DType::F16, DType::F32, DType::Q8_0][random.below(3)],
        embeddings,
        pooling: [None, Some(Pooling::Mean), Some(Pooling::Rank)][random.below(3)],
        ..Setup::default()
    };
    let backend = if random.below(4) == 0 { BackendKind::Reference } else { BackendKind::Auto };
    let Ok(mut ours) = Ours::try_new(&model, &setup, backend) else { return DEPTHS[1] };
    let n_vocab = model.hparams().map_or(1, |hp| hp.n_vocab.clamp(1, 64));
    let mut run = Run::new(&mut ours, n_vocab);
    for (from, n) in [(0, 5), (5, 1)] {
        let batch = run.toks(0, from, n, true);
        if run.engine.decode(&batch) != 0 {
            return DEPTHS[2];
        }
        let _ = (run.engine.logits(0), run.engine.embeddings(0), run.engine.embeddings_seq(0));
    }
    if let Some(memory) = ours.0.memory_mut() {
        let _ = memory.seq_add(0, 2, -1, 3);
        let _ = ours.0.update_memory();
    }
    DEPTHS[3]
}

fn random_index(seed: u64, n: usize) -> usize {
    (seed % n as u64) as usize
}

/// Small enough that a file is done in milliseconds.
fn corpus() -> Vec<Gguf> {
    let small =
        |arch| Tiny { n_embd: 32, n_ff: 32, n_vocab: 40, n_ctx_train: 64, n_layer: 2, ..Tiny::new(arch, "small") };
    [
        small("llama"),
        Tiny { n_expert: 4, n_expert_used: 2, ..small("llama") },
        Tiny { scaling: Scaling::LongRope, fused_qkv: true, ..small("llama") },
        Tiny { window: 4, soft_cap: 3.0, scaling: Scaling::Yarn, ..small("gemma3") },
        small("qwen2"),
        Tiny { n_cls: 2, pooling: Some(4), ..small("qwen3") },
        Tiny { n_cls: 1, pooling: Some(1), ..small("bert") },
        small("llama-embed"),
        Tiny { dtype: DType::Q4_0, ..small("llama") },
    ]
    .into_iter()
    .map(|tiny| Gguf::from_bytes(&tiny.to_bytes()).unwrap())
    .enumerate()
    .map(|(i, mut gguf)| {
        let tokenizers = ["none", "llama", "gpt2", "none", "t5", "none", "bert", "none", "rwkv"];
        set_vocabulary(&mut gguf, tokenizers[i]);
        gguf
    })
    .collect()
}

/// Forty tokens: specials, bytes, letters and words as each tokenizer writes them.
fn set_vocabulary(gguf: &mut Gguf, tokenizer: &str) {
    if tokenizer == "none" {
        return;
    }
    let mut tokens: Vec<String> =
        ["<unk>", "<s>", "</s>", "<0x00>", "<0x0A>", "[UNK]", "[SEP]", "\u{2581}", "\u{120}", "\\n"]
            .map(String::from)
            .to_vec();
    tokens.extend(('a'..='z').map(String::from));
    tokens.extend(["ll", "\u{2581}w", "\u{120}w", "'\\xff'"].map(String::from));
    assert_eq!(tokens.len(), 40);
    let types: Vec<i32> = (0..40).map(|i| [2, 3, 3, 6, 6].get(i).copied().unwrap_or(1)).collect();
    let scores: Vec<f32> = (0..40).map(|i| -(i as f32)).collect();
    gguf.set("tokenizer.ggml.model", tokenizer).unwrap();
    gguf.set("tokenizer.ggml.pre", "default").unwrap();
    gguf.set("tokenizer.ggml.tokens", Value::Array(Array::strings(&tokens))).unwrap();
    gguf.set("tokenizer.ggml.token_type", &types[..]).unwrap();
    gguf.set("tokenizer.ggml.scores", &scores[..]).unwrap();
    gguf.set("tokenizer.ggml.merges", Value::Array(Array::strings(["l l", "\u{120} w"]))).unwrap();
    gguf.set("tokenizer.ggml.precompiled_charsmap", &[4u8, 0, 0, 0, 1, 2, 3, 4, 65, 0][..]).unwrap();
    for (name, id) in [("bos", 1u32), ("eos", 2), ("unknown", 0), ("seperator", 6)] {
        gguf.set(format!("tokenizer.ggml.{name}_token_id"), id).unwrap();
    }
}

/// A file with a few things wrong: values of its metadata, shapes, types and places of its tensors, or plain bytes.
fn mutated(random: &mut Random, good: &Gguf) -> Vec<u8> {
    let mut gguf = Gguf::new();
    let keys: Vec<&String> = good.kv().iter().map(|(key, _)| key).collect();
    let n_changes = random.below(3);
    let changed: Vec<&str> = (0..n_changes).map(|_| &keys[random.below(keys.len())][..]).collect();
    for (key, value) in good.kv() {
        if !changed.contains(&&key[..]) {
            gguf.set(key.clone(), value.clone()).unwrap();
        } else if random.below(6) > 0 {
            gguf.set(key.clone(), odd_value(random, value)).unwrap();
        }
    }
    if random.below(2) == 0 {
        add_odd_keys(random, good, &mut gguf);
    }
    let spoiled = if random.below(4) == 0 { random.below(good.tensors().len()) } else { usize::MAX };
    for (i, t) in good.tensors().iter().enumerate() {
        let odd = if i == spoiled { odd_tensor(random, t) } else { Some(t.clone()) };
        let added = odd.map(|t| gguf.add_tensor(t));
        debug_assert!(added.is_none_or(|a| a.is_ok() || i == spoiled));
    }
    let mut bytes = gguf.meta_bytes();
    let header = bytes.len();
    let size = gguf.tensors().iter().map(|t| t.offset + t.size).max().unwrap_or(0).min(1 << 20);
    let nan = random.below(8) == 0;
    bytes.extend((0..size / 4).flat_map(|i| {
        let value = if nan && i % 1000 == 7 { f32::NAN } else { 0.2 * random.normal() };
        value.to_le_bytes()
    }));
    bytes.resize(header + (size as usize).next_multiple_of(32), 0);
    if random.below(4) == 0 {
        spoil_bytes(random, &mut bytes, header);
    }
    bytes
}

/// A value that a careless reader believes.
fn odd_value(random: &mut Random, value: &Value) -> Value {
    const INTEGERS: [u32; 14] = [0, 1, 2, 3, 5, 7, 64, 255, 4096, 65537, 1 << 20, i32::MAX as u32, 1 << 31, u32::MAX];
    const FLOATS: [f32; 9] =
        [0.0, -0.0, -1.0, 1e-38, 1e38, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE];
    let integer = INTEGERS[random.below(INTEGERS.len())];
    if let Value::Array(array) = value {
        return odd_array(random, array);
    }
    match random.below(16) {
        0 => Value::Array((&[integer, integer][..]).into()),
        1 => Value::Array(Array::strings(["a", "", "b"])),
        2 => Value::U64(u64::MAX),
        3 => "none".into(),
        _ => match value {
            Value::F32(_) => FLOATS[random.below(FLOATS.len())].into(),
            Value::Bool(b) => (!b).into(),
            Value::String(s) => {
                let mut s = String::from_utf8_lossy(s).into_owned();
                match random.below(4) {
                    0 => s.clear(),
                    1 => s.push_str(&"x".repeat(70_000)),
                    2 => s = ["llama", "gemma3", "bert", "qwen3", "yarn", "longrope"][random.below(6)].into(),
                    _ => s.insert(0, '\0'),
                }
                Value::String(s.into_bytes().into())
            }
            Value::U32(v) if random.below(2) == 0 => (v.wrapping_mul(integer)).into(),
            _ => integer.into(),
        },
    }
}

/// An array of another length, of other elements, or of another type.
fn odd_array(random: &mut Random, array: &Array) -> Value {
    let len = [0, 1, array.len().saturating_sub(1), array.len() + 1][random.below(4)];
    if array.element_type() == ValueType::String && random.below(4) > 0 {
        let odd: &[u8] = [&b""[..], b" ", b"a", b"<0xZZ>", b"\xff\xfe", b"\xe2\x96\x81"][random.below(6)];
        let strings = (0..len.max(1)).map(|i| if random.below(4) == 0 { odd } else { array.string(i).unwrap_or(b"x") });
        return Value::Array(Array::strings(strings));
    }
    let numbers: Vec<i32> = (0..len).map(|_| [-1, 0, 3, 6, i32::MAX, i32::MIN][random.below(6)]).collect();
    if random.below(2) == 0 {
        return numbers.iter().map(|&n| n as f32 / 0.3).collect::<Vec<f32>>()[..].into();
    }
    numbers[..].into()
}

/// Keys that the file lacked.
fn add_odd_keys(random: &mut Random, good: &Gguf, gguf: &mut Gguf) {
    let arch: String = good.require("general.architecture").unwrap();
    const KEYS: [&str; 19] = [
        "context_length",
        "rope.freq_base",
        "attention.layer_norm_rms_epsilon",
        "attention.head_count_kv",
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "attention.scale",
        "attention.causal",
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scaling.original_context_length",
        "rope.dimension_count",
        "rope.freq_base_swa",
        "expert_count",
        "expert_used_count",
        "expert_weights_scale",
        "embedding_length_out",
        "final_logit_softcapping",
        "pooling_type",
    ];
    for _ in 0..1 + random.below(2) {
        let key = format!("{arch}.{}", KEYS[random.below(KEYS.len())]);
        // Of the right type as a rule, or the key would be refused before it does anything.
        let float = ["scale", "factor", "base", "epsilon", "softcapping"].iter().any(|word| key.contains(word));
        let like = if float { Value::F32(1.0) } else { Value::U32(3) };
        gguf.set(key, odd_value(random, &like)).unwrap();
    }
}

/// A tensor of another name, type or shape; `None`: it is left out.
fn odd_tensor(random: &mut Random, t: &TensorInfo) -> Option<TensorInfo> {
    const TYPES: [DType; 7] = [DType::F16, DType::I32, DType::Q4_0, DType::Q6K, DType::I8, DType::BF16, DType::F64];
    let mut ne = t.ne;
    match random.below(6) {
        0 => return None,
        1 => return TensorInfo::new(t.name.clone(), TYPES[random.below(TYPES.len())], &ne).ok(),
        2 => return TensorInfo::new(format!("{}x", t.name), t.dtype, &ne).ok(),
        3 => ne.swap(0, 1),
        4 => ne[random.below(4)] = [1, 2, 31, 33, 1 << 12][random.below(5)],
        _ => ne[random.below(2)] += 1,
    }
    TensorInfo::new(t.name.clone(), t.dtype, &ne).ok()
}

/// Bytes of the header changed, or the file cut off.
fn spoil_bytes(random: &mut Random, bytes: &mut Vec<u8>, header: usize) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(header);
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][random.below(5)],
            2 => {
                let end = bytes.len().min(at + 8);
                bytes[at..end].fill(0xFF);
            }
            _ => {
                let end = bytes.len().min(at + 4);
                bytes[at..end].fill(0);
            }
        }
    }
    if random.below(5) == 0 {
        bytes.truncate(random.below(bytes.len()));
    }
}
