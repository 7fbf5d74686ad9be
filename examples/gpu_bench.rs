//! Times a model on a GPU as llama-bench does: prompts of 512 tokens and single tokens, at depths, and several sequences
//! together.
//!
//! ```text
//! cargo run --release --example gpu_bench -- MODEL.gguf [--depths 0,8192] [--kv f16|q8_0] [--sequences 16,64] [--repeat 3]
//!     [--samplers]
//! ```
//!
//! `--samplers` times single tokens that samplers choose, on the processor and on the device.
//! `INFER_GPU` names an adapter, `INFER_GPU_PROFILE=1` tells where the time goes.

use infer::context::{Batch, Context, ContextParams};
use infer::gguf::Source;
use infer::memory::SeqIds;
use infer::model::offload::OffloadParams;
use infer::model::{Model, ModelParams};
use infer::quant::DType;
use infer::sampling::{
    AttachedChain, Chain, Row, RowSampler, Sampler, dist, greedy, min_p, sample, temp, top_k, top_p,
};
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const N_PROMPT: usize = 512;
const N_GEN: usize = 64;

/// Prints what the library logs.
struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }
    fn log(&self, record: &log::Record) {
        if record.level() <= log::Level::Info && record.target().starts_with("infer") {
            eprintln!("{}", record.args());
        }
    }
    fn flush(&self) {}
}

fn main() -> Result<()> {
    log::set_logger(&Log).map_err(|e| e.to_string())?;
    log::set_max_level(log::LevelFilter::Info);
    let mut args = std::env::args().skip(1);
    let (mut path, mut depths, mut kv, mut sequences, mut repeat) = (None, vec![0], DType::F16, Vec::<usize>::new(), 3);
    let (mut n_gpu_layers, mut with_samplers) = (-1, false);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--depths" => {
                depths = value()?
                    .split(',')
                    .filter(|d| !d.is_empty())
                    .map(str::parse)
                    .collect::<std::result::Result<_, _>>()?
            }
            "--kv" => kv = if value()? == "q8_0" { DType::Q8_0 } else { DType::F16 },
            "--sequences" => sequences = value()?.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?,
            "--repeat" => repeat = value()?.parse()?,
            "--samplers" => with_samplers = true,
            "--ngl" => n_gpu_layers = value()?.parse()?,
            _ => path = Some(arg),
        }
    }
    let path = path.ok_or("which model?")?;
    let offload = OffloadParams { n_gpu_layers, ..OffloadParams::default() };
    let start = Instant::now();
    let model = Model::load(Source::Path(path.clone().into()), ModelParams { offload, ..ModelParams::default() })?;
    println!("{path}: loaded in {:.2} s", start.elapsed().as_secs_f64());
    let n_vocab = model.hparams()?.n_vocab;
    for depth in depths {
        let params = ContextParams {
            n_ctx: (depth + N_PROMPT + N_GEN + 64) as u32,
            n_batch: 2048,
            n_ubatch: 512,
            type_k: kv,
            type_v: kv,
            ..ContextParams::default()
        };
        let start = Instant::now();
        let mut ctx = Context::new(model.clone(), &params)?;
        decode(&mut ctx, N_PROMPT, n_vocab)?;
        decode(&mut ctx, 1, n_vocab)?;
        println!("depth {depth}: first prompt and token after {:.2} s", start.elapsed().as_secs_f64());
        let (mut pp, mut tg) = (Vec::new(), Vec::new());
        ctx.clear_memory(false)?;
        let start = Instant::now();
        for _ in 0..depth / N_PROMPT {
            decode(&mut ctx, N_PROMPT, n_vocab)?;
        }
        if depth > 0 {
            println!("depth {depth}: {:.0} t/s on the way there", depth as f64 / start.elapsed().as_secs_f64());
        }
        for _ in 0..repeat {
            let start = Instant::now();
            decode(&mut ctx, N_PROMPT, n_vocab)?;
            pp.push(N_PROMPT as f64 / start.elapsed().as_secs_f64());
            forget(&mut ctx, depth)?;
            let start = Instant::now();
            for _ in 0..N_GEN {
                decode(&mut ctx, 1, n_vocab)?;
            }
            tg.push(N_GEN as f64 / start.elapsed().as_secs_f64());
            forget(&mut ctx, depth)?;
            let logits = ctx.logits_ith(-1)?;
            if !logits.iter().all(|x| x.is_finite()) {
                println!("NOT FINITE");
            }
        }
        println!(
            "depth {depth}: pp{N_PROMPT} {:.0} t/s, tg{N_GEN} {:.1} t/s ({kv} KV)",
            median(&mut pp),
            median(&mut tg)
        );
    }
    if with_samplers {
        samplers(&model, repeat)?;
    }
    for n in sequences {
        together(&model, n, n_vocab)?;
    }
    Ok(())
}

/// Forgets all positions from `depth` on.
fn forget(ctx: &mut Context, depth: usize) -> Result<()> {
    ctx.memory_mut().ok_or("no memory")?.seq_rm(0, depth as i32, -1)?;
    Ok(())
}

fn median(x: &mut [f64]) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Tokens that differ from each other; their output is wanted for the last.
fn decode(ctx: &mut Context, n: usize, n_vocab: usize) -> Result<()> {
    let tokens: Vec<i32> = (0..n).map(|i| (i * 7919 % n_vocab) as i32).collect();
    let mut marks = vec![0i8; n];
    marks[n - 1] = 1;
    Ok(ctx.decode(&Batch::new(n, Some(&tokens), None, 0)?.with_logits(&marks)?)?)
}

/// Where a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// By the caller, who asks for the logits.
    Caller,
    /// By an attached chain that no device knows.
    Attached,
    /// By an attached chain, where the logits are.
    Device,
}

/// A chain that only the processor knows.
struct OnHost(AttachedChain);

impl RowSampler for OnHost {
    fn begin(&mut self) {
        self.0.begin();
    }

    fn sample(&mut self, row: &mut Row) {
        self.0.sample(row);
    }
}

/// Single tokens after a prompt, each the one that was chosen before.
fn samplers(model: &std::sync::Arc<Model>, repeat: usize) -> Result<()> {
    type Make = fn() -> Vec<Box<dyn Sampler>>;
    let chains: [(&str, Make); 5] = [
        ("greedy", || vec![greedy()]),
        ("top-k 40, top-p 0.95, min-p 0.05, temp 0.8, dist", || {
            vec![top_k(40), top_p(0.95, 1), min_p(0.05, 1), temp(0.8), dist(1)]
        }),
        ("top-k 1000, temp 0.8, dist", || vec![top_k(1000), temp(0.8), dist(1)]),
        ("min-p 0.05, temp 0.8, dist", || vec![min_p(0.05, 1), temp(0.8), dist(1)]),
        ("top-p 0.95, temp 0.8, dist", || vec![top_p(0.95, 1), temp(0.8), dist(1)]),
    ];
    let n_vocab = model.hparams()?.n_vocab;
    for (name, make) in chains {
        let mut rates = Vec::new();
        let mut chosen = Vec::new();
        for place in [Place::Caller, Place::Attached, Place::Device] {
            let params = ContextParams {
                n_ctx: (N_PROMPT + N_GEN + 64) as u32,
                n_outputs_max_per_seq: 1,
                ..ContextParams::default()
            };
            let mut ctx = Context::new(model.clone(), &params)?;
            let mut found = Vec::new();
            for _ in 0..=repeat {
                ctx.clear_memory(false)?;
                let chain = AttachedChain::new(Chain::new(make()), 1);
                let attached: Option<Box<dyn RowSampler>> = match place {
                    Place::Caller => None,
                    Place::Attached => Some(Box::new(OnHost(chain))),
                    Place::Device => Some(Box::new(chain)),
                };
                ctx.set_sampler(0, attached)?;
                let (mut own, mut candidates) = (Chain::new(make()), Vec::new());
                let mut choose = |ctx: &mut Context| -> Result<i32> {
                    let token = match place {
                        Place::Caller => sample(&mut own, ctx.logits_ith(-1)?, &mut candidates),
                        Place::Attached | Place::Device => ctx.sampled_token(-1)?,
                    };
                    Ok(token.ok_or("no token")?)
                };
                decode(&mut ctx, N_PROMPT, n_vocab)?;
                let mut token = choose(&mut ctx)?;
                let start = Instant::now();
                chosen.push(Vec::new());
                for _ in 0..N_GEN {
                    ctx.decode(&Batch::new(1, Some(&[token]), None, 0)?)?;
                    token = choose(&mut ctx)?;
                    chosen.last_mut().ok_or("no tokens")?.push(token);
                }
                found.push(N_GEN as f64 / start.elapsed().as_secs_f64());
            }
            // The first is for warming up.
            rates.push(format!("{place:?} {:.1}", median(&mut found[1..])));
        }
        let same = chosen.iter().filter(|tokens| **tokens == chosen[0]).count();
        println!("{name}: tg{N_GEN} {} t/s; {same} of {} texts alike", rates.join(", "), chosen.len());
    }
    Ok(())
}

/// Sequences with 128 tokens each that continue together.
fn together(model: &std::sync::Arc<Model>, n: usize, n_vocab: usize) -> Result<()> {
    let params = ContextParams {
        n_ctx: (n * 256) as u32,
        n_batch: 2048,
        n_ubatch: 512,
        n_seq_max: n as u32,
        n_outputs_max: n as u32,
        kv_unified: true,
        ..ContextParams::default()
    };
    let mut ctx = Context::new(model.clone(), &params)?;
    for seq in 0..n {
        batch(&mut ctx, (0..128).map(|pos| (seq as i32, pos)), n_vocab, false)?;
    }
    // What is made at the first use is made.
    batch(&mut ctx, (0..n as i32).map(|seq| (seq, 128)), n_vocab, true)?;
    let start = Instant::now();
    for i in 0..N_GEN as i32 {
        batch(&mut ctx, (0..n as i32).map(|seq| (seq, 129 + i)), n_vocab, true)?;
    }
    println!("{n} sequences: {:.0} t/s", (n * N_GEN) as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

fn batch(ctx: &mut Context, at: impl Iterator<Item = (i32, i32)>, n_vocab: usize, output: bool) -> Result<()> {
    let (mut tokens, mut pos, mut seqs) = (Vec::new(), Vec::new(), SeqIds::default());
    for (seq, p) in at {
        tokens.push(((seq * 131 + p * 17) as usize % n_vocab) as i32);
        pos.push(p);
        seqs.push(&[seq]);
    }
    let mut marks = vec![i8::from(output); tokens.len()];
    if let Some(last) = marks.last_mut() {
        *last = 1;
    }
    let batch = Batch::new(tokens.len(), Some(&tokens), None, 0)?.with_pos(&pos)?.with_seq_ids(&seqs)?;
    Ok(ctx.decode(&batch.with_logits(&marks)?)?)
}
