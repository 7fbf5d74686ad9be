//! Whole models beside llama.cpp: prompts, single tokens, depth, batches, threads.

use crate::Result;
use crate::lab::{Engine, Lab, Ours, beside, ggml_type, load, tokens};
use crate::llama_cpp::SessionParams;
use crate::report::Entry;
use crate::stats::{Summary, median, ratio, repeat, seconds};
use infer::context::ContextParams;
use infer::quant::DType;
use std::path::Path;

const N_PROMPT: usize = 512;
const N_GEN: usize = 64;
const LLAMA_CPP: &str = "llama.cpp";

/// A model of the table with its bars: ratio to llama.cpp that a prompt and single tokens must reach, and should.
struct Target {
    id: &'static str,
    name: &'static str,
    pp: (f64, f64),
    tg: (f64, f64),
}

/// SmolLM2.
pub fn smollm2(lab: &Lab) -> Result<Vec<Entry>> {
    let target = Target { id: "smollm2", name: "SmolLM2-135M-Instruct Q4_1", pp: (4.0, 5.3), tg: (1.5, 1.85) };
    let mut rows = speed(lab, &lab.smollm2(), &target, 40.0)?;
    rows.extend(prompt_or_singly(lab)?);
    rows.push(token_times(lab)?);
    Ok(rows)
}

/// Gemma 3 270M.
pub fn gemma3(lab: &Lab) -> Result<Vec<Entry>> {
    let target = Target { id: "gemma3", name: "Gemma 3 270M Q4_K_M", pp: (2.3, 2.6), tg: (1.4, 1.65) };
    speed(lab, &lab.gemma3(), &target, 40.0)
}

/// File types of the 1B shape, with the ratio that prompts must reach.
pub const TYPES_1B: [(&str, f64, f64); 11] = [
    ("Q4_K_M", 2.0, 2.6),
    ("Q8_0", 1.8, 1.8),
    ("Q6_K", 1.8, 1.8),
    ("Q5_K", 1.8, 1.8),
    ("Q4_0", 1.8, 1.8),
    ("Q3_K", 1.8, 1.8),
    ("Q2_K", 1.8, 1.8),
    ("IQ4_XS", 1.8, 1.8),
    ("MXFP4", 1.8, 1.8),
    ("F16", 1.3, 1.3),
    ("BF16", 1.3, 1.3),
];

/// The 1B shape in a file type, by its place in [`TYPES_1B`].
pub fn one_b(lab: &Lab, i: usize) -> Result<Vec<Entry>> {
    let (ftype, must, goal) = TYPES_1B[i];
    let file = lab.make("1b", ftype)?;
    let (id, name) = (format!("1b-{}", ftype.to_lowercase()), format!("1B shape {ftype}"));
    let target = Target { id: id.leak(), name: name.leak(), pp: (must, goal), tg: (1.0, 1.0) };
    let mut rows = speed(lab, &file.path, &target, 45.0)?;
    if ftype == "Q4_K_M" {
        rows.extend(crate::process::memory_of_1b(lab, &file.path)?);
    }
    Ok(rows)
}

/// Several of them.
pub fn several(lab: &Lab, types: &[usize]) -> Result<Vec<Entry>> {
    let rows: Result<Vec<_>> = types.iter().map(|&i| one_b(lab, i)).collect();
    Ok(rows?.concat())
}

fn speed(lab: &Lab, path: &Path, target: &Target, time: f64) -> Result<Vec<Entry>> {
    let (n_prompt, n_gen) = if lab.quick { (N_PROMPT, 16) } else { (N_PROMPT, N_GEN) };
    let model = load(path)?;
    let ids = tokens(n_prompt + n_gen, model.hparams()?.n_vocab);
    let mut ours = Ours::new(&model, &lab.params(n_prompt + n_gen))?;
    let mut theirs = lab.theirs(path, n_prompt + n_gen)?;
    let one = |engine: &mut dyn Engine| -> Result<[f64; 2]> {
        engine.clear()?;
        Ok([seconds(|| engine.decode(&ids[..n_prompt], false))?, seconds(|| engine.decode_singly(&ids[n_prompt..]))?])
    };
    let [pp, tg, their_pp, their_tg] = repeat(lab.rounds(time), || {
        let ([a, b], [c, d]) = (one(&mut ours)?, one(&mut theirs)?);
        Ok([a, b, c, d])
    })?;
    let read = model.size() as f64 * n_gen as f64 / Summary::of(&tg, 1.0, "").median_ms / 1e6;
    let row = |what: &str, name: &str| Entry::new(&format!("MODEL-{}-{what}", target.id), "Models", name);
    let (pp_name, tg_name) = (format!("{}, prompt of 512", target.name), format!("{}, single tokens", target.name));
    Ok(vec![
        beside(row("pp512", &pp_name), &pp, LLAMA_CPP, &their_pp, n_prompt as f64, "t/s")
            .at_least(target.pp.0)
            .goal(target.pp.1),
        beside(row("tg64", &tg_name), &tg, LLAMA_CPP, &their_tg, n_gen as f64, "t/s")
            .at_least(target.tg.0)
            .goal(target.tg.1)
            .limit("memory read", read, lab.limits.read_gb_s, "GB/s of weights"),
    ])
}

/// IMP-005: a prompt at once against token by token.
fn prompt_or_singly(lab: &Lab) -> Result<Vec<Entry>> {
    let n = if lab.quick { 64 } else { N_PROMPT };
    let mut ours = lab.ours(&lab.smollm2(), n)?;
    let ids = tokens(n, 49152);
    let [at_once, singly] = repeat(lab.rounds(12.0), || {
        ours.clear()?;
        let at_once = seconds(|| ours.decode(&ids, false))?;
        ours.clear()?;
        Ok([at_once, seconds(|| ours.decode_singly(&ids))?])
    })?;
    let rate = Summary::of(&at_once, n as f64, "t/s");
    let row = |id: &str, name: &str| Entry::new(id, "Capabilities", name);
    Ok(vec![
        beside(
            row("IMP-005", "batch prefill of 512 tokens of SmolLM2"),
            &at_once,
            "token by token",
            &singly,
            n as f64,
            "t/s",
        )
        .at_least(5.0),
        row("IMP-005-rate", "prefill rate of SmolLM2").value(rate.rate, "t/s").at_least(1000.0).times(rate, None),
    ])
}

/// QA-012, QA-019: how times of single tokens spread.
fn token_times(lab: &Lab) -> Result<Entry> {
    let n = if lab.quick { 40 } else { 400 };
    let mut ours = lab.ours(&lab.smollm2(), n + 8)?;
    let ids = tokens(n + 8, 49152);
    ours.decode_singly(&ids[..8])?;
    let times: Vec<f64> =
        ids[8..].chunks(1).map(|token| seconds(|| ours.decode(token, false))).collect::<Result<_>>()?;
    let summary = Summary::of(&times, 1.0, "t/s");
    let value = summary.p99_ms / summary.p50_ms;
    Ok(Entry::new("QA-012", "Quality", "p99 of the time of a token of SmolLM2 over its p50")
        .value(value, "p99/p50")
        .at_most(2.0)
        .times(summary, None))
}

/// SmolLM2 behind 4096 tokens of context, and with a q8_0 cache there.
pub fn depth(lab: &Lab) -> Result<Vec<Entry>> {
    let (depth, n_prompt, n_gen) = if lab.quick { (512, 128, 8) } else { (4096, N_PROMPT, N_GEN) };
    let path = lab.smollm2();
    let model = load(&path)?;
    let ids = tokens(depth + n_prompt, 49152);
    let n_ctx = depth + n_prompt.max(n_gen);
    let params = lab.params(n_ctx);
    let mut ours = Ours::new(&model, &params)?;
    let mut small = Ours::new(&model, &ContextParams { type_k: DType::Q8_0, type_v: DType::Q8_0, ..params.clone() })?;
    let their_model = lab.their_model(&path)?;
    let their_params = SessionParams::new(n_ctx as u32, lab.n_threads as i32);
    let mut theirs = their_model.session(&their_params)?;
    let their_q8 = SessionParams { type_kv: ggml_type(DType::Q8_0), flash_attn: Some(true), ..their_params };
    let mut their_small = their_model.session(&their_q8)?;
    for engine in [&mut ours as &mut dyn Engine, &mut small, &mut theirs, &mut their_small] {
        engine.decode(&ids[..depth], false)?;
    }
    let one = |engine: &mut dyn Engine| -> Result<[f64; 2]> {
        let prompt = seconds(|| engine.decode(&ids[depth..], false))?;
        engine.truncate(0, depth)?;
        let single = seconds(|| engine.decode_singly(&ids[..n_gen]))?;
        engine.truncate(0, depth)?;
        Ok([prompt, single])
    };
    let [pp, tg, pp_q8, tg_q8, their_pp, their_tg, their_pp_q8, their_tg_q8] = repeat(lab.rounds(70.0), || {
        let ([a, b], [c, d]) = (one(&mut ours)?, one(&mut small)?);
        let ([e, f], [g, h]) = (one(&mut theirs)?, one(&mut their_small)?);
        Ok([a, b, c, d, e, f, g, h])
    })?;
    // The cost of a token grows with its context, and no faster.
    let start = {
        let mut shallow = Ours::new(&model, &lab.params(n_gen))?;
        let [times] = repeat(lab.rounds(4.0), || {
            shallow.clear()?;
            Ok([seconds(|| shallow.decode_singly(&ids[..n_gen]))?])
        })?;
        times
    };
    let growth = median(&tg) / median(&start);
    let (n_prompt, n_gen) = (n_prompt as f64, n_gen as f64);
    let row = |id: &str, name: &str| Entry::new(id, "Depth", name);
    let f16 = "f16 cache";
    Ok(vec![
        beside(
            row("DEPTH-pp512", "SmolLM2, prompt of 512 behind 4096 tokens"),
            &pp,
            LLAMA_CPP,
            &their_pp,
            n_prompt,
            "t/s",
        )
        .at_least(2.0),
        beside(row("DEPTH-tg64", "SmolLM2, single tokens behind 4096"), &tg, LLAMA_CPP, &their_tg, n_gen, "t/s")
            .at_least(1.3),
        beside(row("DEPTH-q8-pp512", "the same prompt, q8_0 cache, ours"), &pp_q8, f16, &pp, n_prompt, "t/s"),
        beside(row("DEPTH-q8-tg64", "single tokens, q8_0 cache, ours"), &tg_q8, f16, &tg, n_gen, "t/s").at_least(1.0),
        beside(row("DEPTH-q8-pp512-llama", "prompt, q8_0 cache"), &pp_q8, LLAMA_CPP, &their_pp_q8, n_prompt, "t/s"),
        beside(row("DEPTH-q8-tg64-llama", "single tokens, q8_0 cache"), &tg_q8, LLAMA_CPP, &their_tg_q8, n_gen, "t/s"),
        Entry::new("QA-020", "Quality", "SmolLM2: time of a token behind 4096 tokens over that behind none")
            .value(growth, "factor")
            .times(Summary::of(&tg, n_gen, "t/s"), Some(("no context", Summary::of(&start, n_gen, "t/s")))),
    ])
}

/// Several sequences at once, and several tokens of one sequence.
pub fn batches(lab: &Lab) -> Result<Vec<Entry>> {
    let mut rows = vec![eight_sequences(lab)?];
    rows.extend(scaling(lab)?);
    rows.push(verification(lab)?);
    rows.extend(cached_prompt(lab)?);
    rows.push(chunks(lab)?);
    Ok(rows)
}

/// IMP-056: a long prompt in ubatches.
fn chunks(lab: &Lab) -> Result<Entry> {
    let n = 1024;
    let model = load(&lab.smollm2())?;
    let ids = tokens(n, 49152);
    let make = |n_ubatch: u32| Ours::new(&model, &ContextParams { n_ubatch, ..lab.params(n) });
    let (mut small, mut large) = (make(256)?, make(n as u32)?);
    let [a, b] = repeat(lab.rounds(12.0), || {
        small.clear()?;
        large.clear()?;
        Ok([seconds(|| small.decode(&ids, false))?, seconds(|| large.decode(&ids, false))?])
    })?;
    let row = Entry::new("IMP-056", "Capabilities", "chunked prompts: 1024 tokens of SmolLM2 in ubatches of 256");
    Ok(beside(row, &a, "one ubatch", &b, n as f64, "t/s"))
}

const N_SEQ: usize = 8;
const N_SEQ_PROMPT: usize = 128;

fn eight_sequences(lab: &Lab) -> Result<Entry> {
    let n_gen = if lab.quick { 16 } else { N_GEN };
    let n_ctx = N_SEQ * 256;
    let model = load(&lab.smollm2())?;
    let ids = tokens(N_SEQ_PROMPT + N_SEQ * n_gen, 49152);
    let mut ours = Ours::new(&model, &ContextParams { n_seq_max: N_SEQ as u32, ..lab.params(n_ctx) })?;
    let their_params =
        SessionParams { n_seq_max: N_SEQ as u32, ..SessionParams::new(n_ctx as u32, lab.n_threads as i32) };
    let mut theirs = lab.their_model(&lab.smollm2())?.session(&their_params)?;
    for engine in [&mut ours as &mut dyn Engine, &mut theirs] {
        engine.decode(&ids[..N_SEQ_PROMPT], false)?;
        (1..N_SEQ as i32).try_for_each(|seq| engine.share(seq))?;
    }
    let one = |engine: &mut dyn Engine| -> Result<f64> {
        let time = seconds(|| {
            let mut steps = ids[N_SEQ_PROMPT..].chunks(N_SEQ).enumerate();
            steps.try_for_each(|(i, t)| engine.decode_seqs(t, (N_SEQ_PROMPT + i) as i32))
        })?;
        (0..N_SEQ as i32).try_for_each(|seq| engine.truncate(seq, N_SEQ_PROMPT))?;
        Ok(time)
    };
    let [a, b] = repeat(lab.rounds(30.0), || Ok([one(&mut ours)?, one(&mut theirs)?]))?;
    let row = Entry::new("BATCH-8", "Batches", "SmolLM2, 8 sequences of 128 tokens decode 64 each");
    Ok(beside(row, &a, LLAMA_CPP, &b, (N_SEQ * n_gen) as f64, "t/s").at_least(2.5))
}

/// QA-018: tokens per second grow with the sequences.
fn scaling(lab: &Lab) -> Result<Vec<Entry>> {
    let n_gen = if lab.quick { 8 } else { 32 };
    let model = load(&lab.smollm2())?;
    let params = ContextParams { n_seq_max: N_SEQ as u32, ..lab.params(N_SEQ * 256) };
    let mut ours = Ours::new(&model, &params)?;
    let ids = tokens(N_SEQ * n_gen, 49152);
    let mut time = |n: usize| {
        ours.clear()?;
        seconds(|| (0..n_gen).try_for_each(|i| ours.decode_seqs(&ids[i * n..(i + 1) * n], i as i32)))
    };
    let times = repeat(lab.rounds(10.0), || Ok([time(1)?, time(2)?, time(4)?, time(8)?]))?;
    let rates: Vec<f64> =
        times.iter().zip([1, 2, 4, 8]).map(|(t, n)| Summary::of(t, (n * n_gen) as f64, "t/s").rate).collect();
    let growth = rates.windows(2).map(|r| r[1] / r[0]).fold(f64::INFINITY, f64::min);
    let note =
        format!("1, 2, 4, 8 sequences: {} t/s", rates.iter().map(|r| format!("{r:.0}")).collect::<Vec<_>>().join(", "));
    Ok(vec![
        Entry::new("QA-018", "Quality", "least gain in tokens/s when sequences double, up to 8")
            .value(growth, "factor")
            .at_least(1.0)
            .note(note.clone()),
        Entry::new("IMP-058", "Capabilities", "token batch: 8 sequences against one")
            .value(rates[3] / rates[0], "factor")
            .note(note),
    ])
}

fn verification(lab: &Lab) -> Result<Entry> {
    let mut ours = lab.ours(&lab.smollm2(), 512)?;
    let ids = tokens(262, 49152);
    ours.decode(&ids[..256], false)?;
    let mut time = |n: usize| {
        let time = seconds(|| ours.decode(&ids[256..256 + n], true))?;
        ours.truncate(0, 256)?;
        Ok::<_, Box<dyn std::error::Error>>(time)
    };
    let mut series = |n: usize| -> Result<f64> {
        // One decode is too short to be timed alone.
        (0..8).map(|_| time(n)).sum::<Result<f64>>()
    };
    let [six, one] = repeat(lab.rounds(6.0), || Ok([series(6)?, series(1)?]))?;
    Ok(Entry::new("BATCH-verify6", "Batches", "SmolLM2, time of 6 tokens (verification of drafts) over that of one")
        .value(1.0 / ratio(&six, &one), "×")
        .at_most(1.6)
        .times(Summary::of(&six, 48.0, "t/s"), Some(("one token", Summary::of(&one, 8.0, "t/s")))))
}

/// IMP-031, IMP-004, IMP-032, IMP-033: a shared prompt and a cached context against computing anew.
fn cached_prompt(lab: &Lab) -> Result<Vec<Entry>> {
    let model = load(&lab.smollm2())?;
    let params = ContextParams { n_seq_max: 2, kv_unified: true, ..lab.params(2048) };
    let mut ours = Ours::new(&model, &params)?;
    let ids = tokens(528, 49152);
    ours.decode(&ids[..512], false)?;
    let [shared, computed, token, all] = repeat(lab.rounds(12.0), || {
        let shared = seconds(|| {
            ours.share(1)?;
            ours.decode_on(1, &ids[512..], 512)
        })?;
        ours.truncate(1, 0)?;
        let computed = seconds(|| ours.decode_on(1, &ids, 0))?;
        ours.truncate(1, 0)?;
        let token = seconds(|| ours.decode_on(0, &ids[512..513], 512))?;
        ours.truncate(0, 512)?;
        let all = seconds(|| ours.decode_on(1, &ids[..513], 0))?;
        ours.truncate(1, 0)?;
        Ok([shared, computed, token, all])
    })?;
    let row = |id: &str, name: &str| Entry::new(id, "Capabilities", name);
    let (again, naive) = ("computing all", "recomputing");
    Ok(vec![
        beside(
            row("IMP-031", "prompt of 528 with a cached prefix of 512"),
            &shared,
            again,
            &computed,
            1.0,
            "prompts/s",
        )
        .at_least(4.0),
        beside(row("IMP-032", "cached decode at 512 tokens"), &token, naive, &all, 1.0, "t/s").at_least(4.0),
        beside(row("IMP-004-decode", "paged KV cache: decode against recompute"), &token, naive, &all, 1.0, "t/s")
            .at_least(3.0),
    ])
}

/// One thread, and more than there are processors.
pub fn threads(lab: &Lab) -> Result<Vec<Entry>> {
    let row = |id: &str, name: &str| Entry::new(id, "Threads", name);
    if lab.n_threads != 2 {
        return Ok(vec![row("THREADS-1", "threads").note("the rows are defined for 2 threads")]);
    }
    let model = load(&lab.smollm2())?;
    let (n_prompt, n_gen) = (256, if lab.quick { 8 } else { N_GEN });
    let make = |n: usize| -> Result<Ours> {
        Ours::new(&model, &ContextParams { n_threads: n, n_threads_batch: n, ..lab.params(n_prompt + n_gen) })
    };
    let mut contexts = [make(1)?, make(2)?, make(4)?];
    let ids = tokens(n_prompt + n_gen, 49152);
    let [a, b, c, d, e, f] = repeat(lab.rounds(25.0), || {
        let mut times = [0.0; 6];
        for (ours, times) in contexts.iter_mut().zip(times.as_chunks_mut::<2>().0) {
            ours.clear()?;
            *times =
                [seconds(|| ours.decode(&ids[..n_prompt], false))?, seconds(|| ours.decode_singly(&ids[n_prompt..]))?];
        }
        Ok(times)
    })?;
    let many = std::thread::available_parallelism().map_or(1, usize::from) < 4;
    let note = if many { "more threads than processors" } else { "as many processors as threads" };
    let two = "2 threads";
    let (n_prompt, n_gen) = (n_prompt as f64, n_gen as f64);
    Ok(vec![
        beside(row("THREADS-1-pp", "SmolLM2, 1 thread, prompt of 256"), &a, two, &c, n_prompt, "t/s").at_least(0.55),
        beside(row("THREADS-1-tg", "SmolLM2, 1 thread, single tokens"), &b, two, &d, n_gen, "t/s").at_least(0.55),
        beside(row("THREADS-4-pp", "SmolLM2, 4 threads asked for, prompt"), &e, two, &c, n_prompt, "t/s")
            .at_least(0.7)
            .note(note),
        beside(row("THREADS-4-tg", "SmolLM2, 4 threads asked for, single tokens"), &f, two, &d, n_gen, "t/s")
            .at_least(0.7)
            .note(note),
        beside(
            Entry::new("IMP-044", "Capabilities", "parallel layers: 2 threads, prompt"),
            &c,
            "1 thread",
            &a,
            n_prompt,
            "t/s",
        )
        .at_least(1.5),
    ])
}
