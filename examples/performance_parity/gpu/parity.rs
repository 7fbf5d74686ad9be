//! llama.cpp on the same card: its Vulkan backend takes turns with ours in one process.

use super::device::{ALL, context, load, params};
use super::models::{N_GEN, N_PROMPT, N_SEQ, N_SEQ_PROMPT, prompts, together};
use crate::Result;
use crate::lab::{Engine, Lab, Ours, beside, tokens};
use crate::llama_cpp::{LlamaCpp, LlamaModel, SessionParams};
use crate::report::Entry;
use crate::stats::{repeat, seconds};
use infer::context::ContextParams;
use infer::model::Model;
use infer::quant::DType;
use std::sync::Arc;

const DEPTH: usize = 8192;
const BESIDE: &str = "llama.cpp, Vulkan";

/// A model in both engines.
struct Both<'a> {
    lab: &'a Lab,
    id: &'a str,
    name: &'a str,
    ours: Arc<Model>,
    theirs: LlamaModel<'a>,
    n_vocab: usize,
}

/// A preset's shape in both; `ids` are the rows that tell of it.
pub fn of(lab: &Lab, preset: &str, ids: &[&str]) -> Result<Vec<Entry>> {
    let folder = lab.data.join("reference-vulkan");
    let why = |why: &str| ids.iter().map(|id| crate::catalogue::unmeasured(id, why)).collect();
    if !folder.exists() {
        return Ok(why("llama.cpp's Vulkan libraries are not there: `tests/fetch.py reference-vulkan`"));
    }
    let library = match LlamaCpp::open(&folder) {
        // Never unloaded: ggml refuses to be loaded a second time.
        Ok(library) => &*Box::leak(Box::new(library)),
        Err(e) => return Ok(why(&format!("llama.cpp's Vulkan libraries: {e}"))),
    };
    let Some(gpu) = library.gpu()? else { return Ok(why("llama.cpp finds no GPU")) };
    let file = lab.make(preset, "Q4_K_M")?;
    lab.say(&format!("{preset}: loading in both"));
    let ours = load(&file.path, ALL)?;
    let n_vocab = ours.hparams()?.n_vocab;
    let theirs = library.load_on(&file.path, ALL)?;
    let name = format!("{} Q4_K_M", preset.to_uppercase());
    let both = Both { lab, id: preset, name: &name, ours, theirs, n_vocab };
    lab.say(&format!("{preset}: a prompt and single tokens"));
    let mut rows = short(&both)?;
    lab.say(&format!("{preset}: behind {DEPTH} tokens"));
    rows.extend(deep(&both)?);
    for n in [4, 8, N_SEQ] {
        lab.say(&format!("{preset}: {n} sequences"));
        rows.push(many(&both, n)?);
    }
    rows[0].note = format!("{}; llama.cpp computes on {gpu}", rows[0].note).trim_start_matches("; ").into();
    Ok(rows)
}

impl Both<'_> {
    fn row(&self, group: &str, what: &str, name: &str) -> Entry {
        Entry::new(&format!("{group}-{}-{what}", self.id), "GPU", &format!("{}, {name}", self.name))
    }

    /// `params` as theirs.
    fn session_params(&self, n_ctx: usize) -> SessionParams {
        SessionParams { n_batch: 2048, ..SessionParams::new(n_ctx as u32, self.lab.n_threads as i32) }
    }
}

fn short(b: &Both) -> Result<Vec<Entry>> {
    let n_ctx = 1024;
    let ids = tokens(N_PROMPT + N_GEN, b.n_vocab);
    let (mut ours, mut theirs) = (context(&b.ours, n_ctx, DType::F16)?, b.theirs.session(&b.session_params(n_ctx))?);
    let one = |engine: &mut dyn Engine| -> Result<[f64; 3]> {
        engine.clear()?;
        let prompt = seconds(|| engine.decode(&ids[..N_PROMPT], false))?;
        let single = seconds(|| engine.decode_singly(&ids[N_PROMPT..]))?;
        Ok([prompt, single, prompt + single])
    };
    let [pp, tg, both, their_pp, their_tg, their_both] = repeat(b.lab.rounds(5.0), || {
        let ([a, b, c], [d, e, f]) = (one(&mut ours)?, one(&mut theirs)?);
        Ok([a, b, c, d, e, f])
    })?;
    let (n_prompt, n_gen) = (N_PROMPT as f64, N_GEN as f64);
    let row = |group: &str, what: &str, name: &str| b.row(group, what, name);
    Ok(vec![
        beside(
            row("GPU-017", "end", "512 tokens read and 64 written"),
            &both,
            BESIDE,
            &their_both,
            n_prompt + n_gen,
            "t/s",
        )
        .at_least(1.0),
        beside(row("GPU-018", "pp512", "prompt of 512"), &pp, BESIDE, &their_pp, n_prompt, "t/s").at_least(1.0),
        beside(row("GPU-018", "tg64", "single tokens after 512"), &tg, BESIDE, &their_tg, n_gen, "t/s").at_least(1.0),
    ])
}

fn deep(b: &Both) -> Result<Vec<Entry>> {
    let n_ctx = DEPTH + 1024;
    let ids = tokens(DEPTH + N_PROMPT, b.n_vocab);
    let (mut ours, mut theirs) = (context(&b.ours, n_ctx, DType::F16)?, b.theirs.session(&b.session_params(n_ctx))?);
    for engine in [&mut ours as &mut dyn Engine, &mut theirs] {
        ids[..DEPTH].chunks(2048).try_for_each(|piece| engine.decode(piece, false))?;
    }
    let one = |engine: &mut dyn Engine| -> Result<[f64; 2]> {
        let prompt = seconds(|| engine.decode(&ids[DEPTH..], false))?;
        engine.truncate(0, DEPTH)?;
        let single = seconds(|| engine.decode_singly(&ids[..N_GEN]))?;
        engine.truncate(0, DEPTH)?;
        Ok([prompt, single])
    };
    let [pp, tg, their_pp, their_tg] = repeat(b.lab.rounds(5.0), || {
        let ([a, b], [c, d]) = (one(&mut ours)?, one(&mut theirs)?);
        Ok([a, b, c, d])
    })?;
    let name = format!("prompt of 512 behind {DEPTH}");
    Ok(vec![
        beside(b.row("GPU-018", "d8192-pp512", &name), &pp, BESIDE, &their_pp, N_PROMPT as f64, "t/s").at_least(1.0),
        beside(
            b.row("GPU-018", "d8192-tg64", &format!("single tokens behind {DEPTH}")),
            &tg,
            BESIDE,
            &their_tg,
            N_GEN as f64,
            "t/s",
        )
        .at_least(1.0),
    ])
}

/// Sequences with prompts of their own; llama.cpp's have caches of their own too, as its programs do it.
fn many(b: &Both, n: usize) -> Result<Entry> {
    let n_gen = N_GEN / 2;
    let n_ctx = n * (N_SEQ_PROMPT + N_GEN);
    let ids = tokens(N_SEQ * N_SEQ_PROMPT, b.n_vocab);
    let several =
        ContextParams { n_seq_max: n as u32, n_outputs_max: n as u32, kv_unified: true, ..params(n_ctx, DType::F16) };
    let mut ours = Ours::new(&b.ours, &several)?;
    let mut theirs = b.theirs.session(&SessionParams { n_seq_max: n as u32, ..b.session_params(n_ctx) })?;
    for engine in [&mut ours as &mut dyn Engine, &mut theirs] {
        prompts(engine, &ids, n)?;
    }
    let one = |engine: &mut dyn Engine| -> Result<f64> {
        let time = seconds(|| together(engine, &ids, n, N_SEQ_PROMPT, n_gen))?;
        (0..n as i32).try_for_each(|seq| engine.truncate(seq, N_SEQ_PROMPT))?;
        Ok(time)
    };
    let [a, c] = repeat(b.lab.rounds(5.0), || Ok([one(&mut ours)?, one(&mut theirs)?]))?;
    let name = format!("{n} sequences of {N_SEQ_PROMPT} tokens decode together");
    Ok(beside(b.row("GPU-018", &format!("seq{n}"), &name), &a, BESIDE, &c, (n * n_gen) as f64, "t/s").at_least(1.0))
}
