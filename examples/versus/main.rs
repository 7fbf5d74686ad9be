//! Ours beside llama.cpp's library, in one process, on the same model:
//!
//! ```text
//! cargo run --release --example versus -- speed    MODEL... [--threads 2] [--repeat 5]
//! cargo run --release --example versus -- accuracy MODEL... [--threads 2] [--text FILE]
//! ```
//!
//! `speed` times prompts of 512 tokens and 64 single tokens, the two engines taking turns, and prints medians and ratios.
//! `accuracy` feeds a text in batches of 256 and compares both with the exact logits of the reference backend: mean KL
//! divergence, agreement on the likeliest token, perplexity.
//! llama.cpp's library is looked for in `$INFER_TEST_DATA/reference`, where `make test-data` puts it.

#[path = "../common/llama_cpp.rs"]
#[allow(dead_code)] // other examples use more of it
mod llama_cpp;

use infer::context::{BackendKind, Batch, Context, ContextParams};
use infer::gguf::Source;
use infer::model::{Model, ModelParams};
use llama_cpp::{LlamaCpp, Session};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const N_PROMPT: usize = 512;
const N_GEN: usize = 64;
/// Tokens of one batch and of one independent window of text.
const N_BATCH: usize = 256;
const N_WINDOW: usize = 512;

struct Options {
    models: Vec<PathBuf>,
    threads: usize,
    repeat: usize,
    text: PathBuf,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut o = Options { models: Vec::new(), threads: 2, repeat: 5, text: root.join("ARCHITECTURE.md") };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--threads" => o.threads = value()?.parse()?,
            "--repeat" => o.repeat = value()?.parse()?,
            "--text" => o.text = value()?.into(),
            _ => o.models.push(arg.into()),
        }
    }
    let data = std::env::var_os("INFER_TEST_DATA").map_or_else(|| root.join("target/test-data"), PathBuf::from);
    let reference = LlamaCpp::open(&data.join("reference"))?;
    if o.models.is_empty() {
        o.models = vec![data.join("smollm2.gguf"), data.join("gemma3.gguf")];
    }
    for path in &o.models {
        match mode.as_str() {
            "speed" => speed(&reference, path, &o)?,
            "accuracy" => accuracy(&reference, path, &o)?,
            _ => return Err("say `speed` or `accuracy`".into()),
        }
    }
    Ok(())
}

fn context(model: &Arc<Model>, n_ctx: usize, threads: usize, backend: BackendKind) -> Result<Context> {
    let n = n_ctx as u32;
    let params = ContextParams {
        n_ctx: n,
        n_batch: n,
        n_threads: threads,
        n_threads_batch: threads,
        backend,
        ..Default::default()
    };
    Ok(Context::new(model.clone(), &params)?)
}

fn decode(ctx: &mut Context, tokens: &[i32], all: bool) -> Result<()> {
    let mut marks = vec![i8::from(all); tokens.len()];
    *marks.last_mut().ok_or("no tokens")? = 1;
    Ok(ctx.decode(&Batch::new(tokens.len(), Some(tokens), None, 0)?.with_logits(&marks)?)?)
}

// ---- speed

fn speed(reference: &LlamaCpp, path: &Path, o: &Options) -> Result<()> {
    let model = Model::load(Source::Path(path.into()), ModelParams::default())?;
    let n_vocab = model.hparams()?.n_vocab as u64;
    let n_ctx = N_PROMPT + N_GEN;
    let mut ours = context(&model, n_ctx, o.threads, BackendKind::Auto)?;
    let mut theirs = reference.session(path, n_ctx as u32, o.threads as i32)?;
    let mut state = 1u64;
    let tokens: Vec<i32> = (0..N_PROMPT + N_GEN)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) % n_vocab) as i32
        })
        .collect();
    let mut times = [const { Vec::new() }; 4];
    // The first round warms up.
    for round in 0..=o.repeat {
        ours.clear_memory(false)?;
        let [a, b] = timed(&tokens, |t| decode(&mut ours, t, false))?;
        theirs.clear();
        let [c, d] = timed(&tokens, |t| theirs.decode(t, false))?;
        if round > 0 {
            times.iter_mut().zip([a, b, c, d]).for_each(|(all, t)| all.push(t));
        }
    }
    let [pp, tg, their_pp, their_tg] = times.map(median);
    println!("{}, {} threads, medians of {}", path.display(), o.threads, o.repeat);
    for (name, n, ours, theirs) in [("pp512", N_PROMPT, pp, their_pp), ("tg64", N_GEN, tg, their_tg)] {
        let rate = |t: f64| n as f64 / t;
        println!(
            "  {name:6} ours {:8.1} t/s   llama.cpp {:8.1} t/s   ratio {:.2}",
            rate(ours),
            rate(theirs),
            theirs / ours
        );
    }
    Ok(())
}

/// Seconds for the prompt, and for the tokens after it one by one.
fn timed(tokens: &[i32], mut decode: impl FnMut(&[i32]) -> Result<()>) -> Result<[f64; 2]> {
    let start = Instant::now();
    decode(&tokens[..N_PROMPT])?;
    let prompt = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for token in tokens[N_PROMPT..].chunks(1) {
        decode(token)?;
    }
    Ok([prompt, start.elapsed().as_secs_f64()])
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

// ---- accuracy

/// Sums over the tokens of a text of one engine's logits against the exact ones.
#[derive(Default)]
struct Score {
    n: usize,
    kl: f64,
    agree: usize,
    nll: f64,
    exact_nll: f64,
}

impl Score {
    fn add(&mut self, exact: &[f32], logits: &[f32], next: i32) {
        let (p, q) = (log_softmax(exact), log_softmax(logits));
        self.n += 1;
        self.kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>().max(0.0);
        self.agree += usize::from(largest(exact) == largest(logits));
        self.exact_nll -= p[next as usize];
        self.nll -= q[next as usize];
    }

    fn print(&self, name: &str) {
        let n = self.n as f64;
        let ppl = |nll: f64| (nll / n).exp();
        println!(
            "  {name:10} KL {:.3e}   top-1 agreement {:.2} %   perplexity {:.4} (exact {:.4}, {:+.2} %)",
            self.kl / n,
            100.0 * self.agree as f64 / n,
            ppl(self.nll),
            ppl(self.exact_nll),
            100.0 * (ppl(self.nll) / ppl(self.exact_nll) - 1.0)
        );
    }
}

fn accuracy(reference: &LlamaCpp, path: &Path, o: &Options) -> Result<()> {
    let model = Model::load(Source::Path(path.into()), ModelParams::default())?;
    let text = std::fs::read(&o.text)?;
    let tokens = model.vocab.tokenize(&text, true, false)?;
    let mut exact = context(&model, N_WINDOW, o.threads, BackendKind::Reference)?;
    let mut ours = context(&model, N_WINDOW, o.threads, BackendKind::Auto)?;
    let mut theirs = reference.session(path, N_WINDOW as u32, o.threads as i32)?;
    let (mut a, mut b) = (Score::default(), Score::default());
    for window in tokens.chunks(N_WINDOW).take(4) {
        exact.clear_memory(false)?;
        ours.clear_memory(false)?;
        theirs.clear();
        for (i, batch) in window.chunks(N_BATCH).enumerate() {
            decode(&mut exact, batch, true)?;
            decode(&mut ours, batch, true)?;
            theirs.decode(batch, true)?;
            score(&mut exact, &mut ours, &theirs, batch.len(), &window[i * N_BATCH..], &mut a, &mut b)?;
        }
    }
    println!("{}, {} tokens of {}", path.display(), a.n, o.text.display());
    a.print("ours");
    b.print("llama.cpp");
    println!("  KL ratio {:.2}", a.kl / b.kl);
    Ok(())
}

fn score(
    exact: &mut Context,
    ours: &mut Context,
    theirs: &Session,
    n: usize,
    text: &[i32],
    a: &mut Score,
    b: &mut Score,
) -> Result<()> {
    for t in 0..n {
        let Some(&next) = text.get(t + 1) else { break };
        let truth = exact.logits_ith(t as i32)?;
        a.add(truth, ours.logits_ith(t as i32)?, next);
        b.add(truth, theirs.logits(t as i32), next);
    }
    Ok(())
}

fn log_softmax(x: &[f32]) -> Vec<f64> {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let sum = x.iter().map(|&v| (v as f64 - max).exp()).sum::<f64>().ln();
    x.iter().map(|&v| v as f64 - max - sum).collect()
}

fn largest(x: &[f32]) -> usize {
    x.iter().enumerate().fold(0, |best, (i, &v)| if v > x[best] { i } else { best })
}
