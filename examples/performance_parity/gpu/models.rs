//! Whole models on the GPU: single tokens, prompts, memory, loading, many sequences, minutes.

use super::device::{ALL, Card, context, fill, load, params};
use crate::Result;
use crate::lab::{Engine, Lab, ModelFile, Ours, beside, tokens};
use crate::report::Entry;
use crate::stats::{Summary, median, repeat, seconds};
use infer::context::ContextParams;
use infer::model::Model;
use infer::quant::DType;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const N_PROMPT: usize = 512;
pub const N_GEN: usize = 64;
/// Sequences that decode together, and their tokens before.
pub const N_SEQ: usize = 64;
pub const N_SEQ_PROMPT: usize = 128;

const GB: f64 = 1e9;
const MIB: f64 = 1048576.0;

fn row(id: &str, name: &str) -> Entry {
    let group = match &id[..3] {
        "GPU" => "GPU",
        "IMP" => "Capabilities",
        _ => "Quality",
    };
    Entry::new(id, group, name)
}

fn rate(row: Entry, times: &[f64], work: f64) -> Entry {
    let summary = Summary::of(times, work, "t/s");
    row.value(summary.rate, "t/s").times(summary, None)
}

/// GPU-002, IMP-010, IMP-026: layers on the GPU and on the processor.
pub fn hybrid(lab: &Lab, card: &Card) -> Result<Vec<Entry>> {
    let mut rows = vec![agreement(lab)?];
    let made;
    let (path, name) = if card.software {
        (lab.smollm2(), "SmolLM2 Q4_1")
    } else {
        made = lab.make("1b", "Q4_K_M")?;
        (made.path.clone(), "1B Q4_K_M")
    };
    let n_gen = if lab.quick { 8 } else { 32 };
    let (none, all) = (crate::lab::load(&path)?, load(&path, ALL)?);
    let n_layer = all.hparams()?.n_layer;
    let half = load(&path, n_layer.div_ceil(2) as i32)?;
    let ids = tokens(8 + n_gen, all.hparams()?.n_vocab);
    let make = |model: &Arc<Model>| -> Result<Ours> {
        let threads = ContextParams { n_threads: lab.n_threads, ..params(ids.len(), DType::F16) };
        Ours::new(model, &threads)
    };
    let mut engines = [make(&none)?, make(&half)?, make(&all)?];
    let mut each = Vec::new();
    let [cpu, both, gpu] = repeat(lab.rounds(15.0), || {
        let mut times = [0.0; 3];
        for (i, (ours, time)) in engines.iter_mut().zip(&mut times).enumerate() {
            // A GPU that waited for the processor's turn lowers its clocks.
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(200) {
                ours.clear()?;
                ours.decode_singly(&ids[..8])?;
            }
            for token in ids[8..].chunks(1) {
                let one = seconds(|| ours.decode(token, false))?;
                *time += one;
                if i == 1 {
                    each.push(one);
                }
            }
        }
        Ok(times)
    })?;
    let work = n_gen as f64;
    let beside_cpu = format!("processor, {} threads", lab.n_threads);
    let jitter = Summary::of(&each[n_gen..], 1.0, "t/s");
    rows.extend([
        beside(
            row("GPU-002", &format!("{name}, single tokens: all layers on the GPU")),
            &gpu,
            &beside_cpu,
            &cpu,
            work,
            "t/s",
        )
        .at_least(10.0),
        beside(
            row("GPU-002-half", &format!("{name}: {} of {n_layer} layers on the GPU", n_layer.div_ceil(2))),
            &both,
            &beside_cpu,
            &cpu,
            work,
            "t/s",
        )
        .at_least(1.0),
        row("IMP-010", "CPU and GPU in turns, half of the layers each: variation of the time of a token")
            .value(100.0 * jitter.cv, "%")
            .at_most(10.0)
            .times(jitter, None),
    ]);
    Ok(rows)
}

/// IMP-026: what a real model says on the GPU, beside the processor.
fn agreement(lab: &Lab) -> Result<Entry> {
    let (n, path) = (if lab.quick { 64 } else { 512 }, lab.smollm2());
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let entry = row("IMP-026", "real GGUF on the GPU: SmolLM2, mean KL divergence from the processor's logits");
    let Ok(text) = std::fs::read(text) else { return Ok(entry.note("ARCHITECTURE.md is not there")) };
    let (on_cpu, on_gpu) = (crate::lab::load(&path)?, load(&path, ALL)?);
    let mut ids = on_gpu.vocab.tokenize(&text, true, false)?;
    ids.truncate(n);
    let (mut a, mut b) = (context(&on_cpu, n, DType::F16)?, context(&on_gpu, n, DType::F16)?);
    let (mut sum, mut same) = (0.0, 0);
    a.decode(&ids, true)?;
    b.decode(&ids, true)?;
    for i in 0..ids.len() as i32 {
        let (p, q) = (a.0.logits_ith(i)?, b.0.logits_ith(i)?);
        let (lp, lq) = (crate::accuracy::log_softmax(p), crate::accuracy::log_softmax(q));
        sum += lp.iter().zip(&lq).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        same += usize::from(crate::accuracy::largest(p) == crate::accuracy::largest(q));
    }
    let n = ids.len() as f64;
    let note =
        format!("{} tokens of this repository, {:.1} % agree on the likeliest", ids.len(), 100.0 * same as f64 / n);
    Ok(entry.value(sum / n, "nats").at_most(0.01).note(note))
}

/// GPU-006: a 1B.
pub fn one_b(lab: &Lab) -> Result<Vec<Entry>> {
    let file = lab.make("1b", "Q4_K_M")?;
    let model = load(&file.path, ALL)?;
    let (pp, tg) = speed(lab, &model, 8.0)?;
    Ok(vec![
        rate(row("GPU-006", "1B Q4_K_M, single tokens after 512"), &tg, N_GEN as f64).at_least(230.0).goal(900.0),
        rate(row("GPU-006-pp512", "1B Q4_K_M, prompt of 512"), &pp, N_PROMPT as f64).at_least(20000.0).goal(60000.0),
    ])
}

/// Seconds of a prompt and of single tokens behind it.
fn speed(lab: &Lab, model: &Arc<Model>, time: f64) -> Result<(Vec<f64>, Vec<f64>)> {
    let mut ours = context(model, 4096, DType::F16)?;
    let ids = tokens(N_PROMPT + N_GEN, model.hparams()?.n_vocab);
    let [pp, tg] = repeat(lab.rounds(time), || {
        ours.clear()?;
        Ok([seconds(|| ours.decode(&ids[..N_PROMPT], false))?, seconds(|| ours.decode_singly(&ids[N_PROMPT..]))?])
    })?;
    Ok((pp, tg))
}

/// An 8B: loading, memory, rates, what a warm context does.
pub fn eight_b(lab: &Lab, card: &Card) -> Result<Vec<Entry>> {
    let file = lab.make("8b", "Q4_K_M")?;
    let size = std::fs::metadata(&file.path)?.len() as f64;
    let (first, mut model) = (Instant::now(), load(&file.path, ALL)?);
    let first = first.elapsed().as_secs_f64();
    drop(model);
    let start = Instant::now();
    model = load(&file.path, ALL)?;
    let again = start.elapsed().as_secs_f64();
    let mut rows = vec![
        row("GPU-016", "8B Q4_K_M: from the file to the GPU")
            .value(again, "s")
            .at_most(5.0)
            .goal(3.0)
            .note(format!("{first:.2} s the first time; {:.2} GB", size / GB)),
        row("GPU-027", "streaming: 8B Q4_K_M read, rearranged and uploaded").value(size / GB / again, "GB/s"),
    ];
    rows.extend(memory(card, &model)?);
    let (pp, tg) = speed(lab, &model, 12.0)?;
    rows.extend([
        rate(row("GPU-007", "8B Q4_K_M, single tokens after 512"), &tg, N_GEN as f64).at_least(50.0).goal(300.0),
        rate(row("GPU-007-pp512", "8B Q4_K_M, prompt of 512"), &pp, N_PROMPT as f64).at_least(6000.0).goal(14000.0),
        row("IMP-009", "whole transformer on the GPU: a layer of the 8B with 512 tokens")
            .value(1e3 * median(&pp) / model.hparams()?.n_layer as f64, "ms")
            .at_most(5.0),
    ]);
    rows.extend(pool(card, &model)?);
    rows.extend(busy(lab, &file.path, median(&tg) / N_GEN as f64)?);
    Ok(rows)
}

/// GPU-008, GPU-025: what the device holds.
fn memory(card: &Card, model: &Arc<Model>) -> Result<Vec<Entry>> {
    let weights = card.memory()?;
    let mut ours = context(model, 4096, DType::F16)?;
    let ids = tokens(4096, model.hparams()?.n_vocab);
    ours.decode(&ids[..N_PROMPT], false)?;
    ours.decode_singly(&ids[N_PROMPT..N_PROMPT + 2])?;
    let short = card.memory()?;
    ids[N_PROMPT + 2..].chunks(N_PROMPT).try_for_each(|piece| ours.decode(piece, false))?;
    let full = card.memory()?;
    let (file, kv) = (model.size() as f64, ours.0.state_size() as f64);
    let share = full.reserved as f64 / (file + kv);
    let mut parts: Vec<String> =
        full.by_label.iter().take(6).map(|(name, n)| format!("{name} {:.0}", *n as f64 / MIB)).collect();
    parts.push(format!("reserved beyond {:.0}", (full.reserved - full.used) as f64 / MIB));
    let note = format!(
        "MiB: {}; file {:.0}, KV cache {:.0}; after loading {:.0} used, {:.0} reserved",
        parts.join(", "),
        file / MIB,
        kv / MIB,
        weights.used as f64 / MIB,
        weights.reserved as f64 / MIB
    );
    Ok(vec![
        row("GPU-008", "8B Q4_K_M with 4096 tokens of context: device memory")
            .value(full.reserved as f64 / GB, "GB")
            .at_most(8.0)
            .note(note),
        row("GPU-008-share", "the same over weights and KV cache").value(share, "×").at_most(1.1),
        row("GPU-025", "flash attention: device memory that 4096 tokens of context take more than 512, KV cache apart")
            .value((full.used as f64 - short.used as f64) / 1e6, "MB")
            .at_most(100.0),
    ])
}

/// GPU-004, IMP-007: what a warm context makes anew.
fn pool(card: &Card, model: &Arc<Model>) -> Result<Vec<Entry>> {
    let ids = tokens(2 * N_GEN, model.hparams()?.n_vocab);
    let mut ours = context(model, 512, DType::F16)?;
    let first = seconds(|| ours.decode(&ids[..1], false))?;
    ours.decode_singly(&ids[..N_GEN])?;
    let (made, heap) = (card.buffers_made()?, crate::allocations());
    let warm = seconds(|| ours.decode_singly(&ids[N_GEN..]))? / N_GEN as f64;
    let per_token = |n: u64| n as f64 / N_GEN as f64;
    let (made, heap) = (per_token(card.buffers_made()? - made), per_token(crate::allocations() - heap));
    let m = card.memory()?;
    let fragmented = 100.0 * (1.0 - m.used as f64 / m.reserved as f64);
    let note = format!("wgpu and its driver take memory of the host {heap:.0} times a token");
    Ok(vec![
        row("GPU-004", "buffer pool: the first token of a context over a later one")
            .value(first / warm, "×")
            .at_least(1.5)
            .note(format!("{:.1} ms, {:.2} ms", 1e3 * first, 1e3 * warm)),
        row("GPU-004-buffers", "buffers made per token").value(made, "buffers/token").at_most(0.0).note(note),
        row("IMP-007", "GPU buffer pool: buffers made per token").value(made, "buffers/token").at_most(0.0),
        row("IMP-007-fragmentation", "GPU buffer pool: device memory reserved and not used")
            .value(fragmented, "%")
            .at_most(5.0),
    ])
}

/// GPU-005, IMP-008, QA-014: the device's own time of a token beside the whole. Another process takes it, with timestamps.
fn busy(lab: &Lab, path: &Path, token: f64) -> Result<Vec<Entry>> {
    let found = lab.probe("gpu-time", path, &[N_PROMPT, N_GEN])?;
    let device = found["device_s"].as_f64().ok_or("the probe does not tell the device's time")?;
    let note = format!("{:.2} ms of {:.2} ms", 1e3 * device, 1e3 * token);
    let share = 100.0 * device / token;
    Ok(vec![
        row("GPU-005", "asynchronous work: time of a token of the 8B over the device's own")
            .value(token / device, "×")
            .at_most(1.2)
            .note(note.clone()),
        row("IMP-008", "asynchronous GPU dispatch: GPU busy").value(share, "%").at_least(80.0).note(note.clone()),
        row("QA-014", "GPU busy").value(share, "%").at_least(70.0).note(note),
    ])
}

/// The 8B, on the GPU.
fn loaded_8b(lab: &Lab) -> Result<(ModelFile, Arc<Model>)> {
    let file = lab.make("8b", "Q4_K_M")?;
    lab.say("8B: loading");
    let model = load(&file.path, ALL)?;
    Ok((file, model))
}

/// An 8B behind much context: the row's name, tokens before, type of the cache, least tokens/s of a prompt and of single tokens.
struct Depth(&'static str, usize, DType, Option<f64>, Option<f64>);

/// The rows, and the times of single tokens.
fn behind(lab: &Lab, model: &Arc<Model>, d: &Depth) -> Result<(Vec<Entry>, Vec<f64>)> {
    let &Depth(id, depth, kv, pp_bar, tg_bar) = d;
    let n_vocab = model.hparams()?.n_vocab;
    let (ids, n_gen) = (tokens(N_PROMPT, n_vocab), N_GEN / 2);
    let two = ContextParams { n_seq_max: 2, kv_unified: true, ..params(depth + N_PROMPT, kv) };
    let mut ours = Ours::new(model, &two)?;
    lab.say(&format!("8B: filling {depth} cells, {kv}"));
    fill(&mut ours, depth, n_vocab)?;
    lab.say("8B: measuring behind them");
    let [pp, tg] = repeat(lab.rounds(4.0), || {
        let prompt = seconds(|| ours.decode_on(0, &ids, depth))?;
        ours.truncate(0, depth)?;
        let single = seconds(|| (0..n_gen).try_for_each(|i| ours.decode_on(0, &ids[i..i + 1], depth + i)))?;
        ours.truncate(0, depth)?;
        Ok([prompt, single])
    })?;
    let tell = |what: &str, name: &str, times: &[f64], work: usize, bar: Option<f64>| {
        let name = format!("8B Q4_K_M behind {depth} tokens, {kv} cache, {name}");
        let entry = rate(row(&format!("{id}-{what}"), &name), times, work as f64)
            .note("context of pieces of 512 tokens that do not see each other");
        bar.map_or(entry.clone(), |bar| entry.at_least(bar))
    };
    let rows =
        vec![tell("pp512", "prompt of 512", &pp, N_PROMPT, pp_bar), tell("tg", "single tokens", &tg, n_gen, tg_bar)];
    Ok((rows, tg))
}

/// GPU-012, GPU-014, GPU-026: an 8B behind 8192 and 32768 tokens.
pub fn depth(lab: &Lab) -> Result<Vec<Entry>> {
    let (_file, model) = loaded_8b(lab)?;
    let (mut rows, half) = behind(lab, &model, &Depth("GPU-012-8b", 8192, DType::F16, Some(4000.0), Some(230.0)))?;
    let (more, small) = behind(lab, &model, &Depth("GPU-012-8b-q8_0", 8192, DType::Q8_0, None, None))?;
    rows.extend(more);
    let summary = |times: &[f64]| Summary::of(times, (N_GEN / 2) as f64, "t/s");
    rows.push(
        row("GPU-026", "8B behind 8192 tokens, single tokens with a q8_0 cache: over an f16 cache")
            .value(median(&half) / median(&small), "×")
            .times(summary(&small), Some(("f16 cache", summary(&half)))),
    );
    rows.extend(behind(lab, &model, &Depth("GPU-014-8b", 32768, DType::F16, None, Some(180.0)))?.0);
    Ok(rows)
}

/// GPU-015: an 8B behind 130048 tokens.
pub fn longest(lab: &Lab) -> Result<Vec<Entry>> {
    let (_file, model) = loaded_8b(lab)?;
    Ok(behind(lab, &model, &Depth("GPU-015-8b", 130_048, DType::Q8_0, Some(1500.0), Some(100.0)))?.0)
}

/// GPU-028: many sequences, and several tokens of one.
pub fn sequences(lab: &Lab) -> Result<Vec<Entry>> {
    let (_file, model) = loaded_8b(lab)?;
    let model = &model;
    let n_gen = N_GEN / 2;
    let ids = tokens(N_SEQ * N_SEQ_PROMPT, model.hparams()?.n_vocab);
    let n = N_SEQ as u32;
    let many = ContextParams {
        n_seq_max: n,
        n_outputs_max: n,
        kv_unified: true,
        ..params(N_SEQ * (N_SEQ_PROMPT + N_GEN), DType::F16)
    };
    let mut ours = Ours::new(model, &many)?;
    lab.say("8B: prompts of 64 sequences");
    prompts(&mut ours, &ids, N_SEQ)?;
    lab.say("8B: decoding together");
    let mut alone = context(model, 512, DType::F16)?;
    alone.decode(&ids[..256], false)?;
    let [all, one, six] = repeat(lab.rounds(6.0), || {
        let all = seconds(|| together(&mut ours, &ids, N_SEQ, N_SEQ_PROMPT, n_gen))?;
        (0..N_SEQ as i32).try_for_each(|seq| ours.truncate(seq, N_SEQ_PROMPT))?;
        let one = seconds(|| alone.decode_singly(&ids[..n_gen]))?;
        alone.truncate(0, 256)?;
        let six = seconds(|| {
            (0..n_gen).try_for_each(|_| {
                alone.decode(&ids[..6], true)?;
                alone.truncate(0, 256)
            })
        })?;
        Ok([all, one, six])
    })?;
    let work = (N_SEQ * n_gen) as f64;
    let all = Summary::of(&all, work, "t/s");
    let single = Summary::of(&one, n_gen as f64, "t/s");
    Ok(vec![
        row("GPU-028", &format!("batching: {N_SEQ} sequences of {N_SEQ_PROMPT} tokens of the 8B decode together"))
            .value(all.rate, "t/s")
            .at_least(3000.0)
            .goal(8000.0)
            .times(all.clone(), None),
        row("GPU-028-gain", "the same over one sequence")
            .value(all.rate / single.rate, "×")
            .times(all, Some(("one sequence", single))),
        row("GPU-028-verify6", "speculation: time of 6 tokens of the 8B over that of one")
            .value(median(&six) / median(&one), "×")
            .at_most(1.6),
    ])
}

/// Gives each of `n_seq` sequences a prompt of its own.
pub fn prompts(engine: &mut dyn Engine, ids: &[i32], n_seq: usize) -> Result<()> {
    let mut prompts = ids.chunks(N_SEQ_PROMPT).take(n_seq).enumerate();
    prompts.try_for_each(|(seq, prompt)| engine.decode_on(seq as i32, prompt, 0))
}

/// Decodes `n` tokens of each of `n_seq` sequences, one each at a time, from position `from` on.
pub fn together(engine: &mut dyn Engine, ids: &[i32], n_seq: usize, from: usize, n: usize) -> Result<()> {
    (0..n).try_for_each(|i| engine.decode_seqs(&ids[i % N_SEQ_PROMPT * n_seq..][..n_seq], (from + i) as i32))
}

/// GPU-010: minutes of single tokens.
pub fn sustained(lab: &Lab) -> Result<Vec<Entry>> {
    let (_file, model) = loaded_8b(lab)?;
    let model = &model;
    let time = lab.spare(Duration::from_secs(180));
    let mut ours = context(model, 1024, DType::F16)?;
    let ids = tokens(512, model.hparams()?.n_vocab);
    let start = Instant::now();
    let mut rates = Vec::new();
    while start.elapsed() < time || rates.len() < 8 {
        ours.clear()?;
        rates.push(ids.len() as f64 / seconds(|| ours.decode_singly(&ids))?);
    }
    let quarter = rates.len() / 4;
    let (first, last) = (median(&rates[..quarter]), median(&rates[rates.len() - quarter..]));
    let n = rates.len() * ids.len();
    let all = n as f64 / start.elapsed().as_secs_f64();
    let note = format!("{n} tokens in {:.0} s", start.elapsed().as_secs_f64());
    Ok(vec![
        row("GPU-010", "8B Q4_K_M, sustained single tokens in contexts of up to 512")
            .value(all, "t/s")
            .at_least(50.0)
            .goal(300.0)
            .note(note.clone()),
        row("GPU-010-decay", "rate in the last quarter of the time over that in the first")
            .value(last / first, "×")
            .at_least(0.95)
            .note(note),
    ])
}
