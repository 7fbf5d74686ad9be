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

#[path = "../common/accuracy.rs"]
#[allow(dead_code)] // other examples use more of it
mod accuracy;
#[path = "../common/llama_cpp.rs"]
#[allow(dead_code)] // other examples use more of it
mod llama_cpp;

use infer::context::{Batch, Context, ContextParams};
use infer::gguf::Source;
use infer::model::{Model, ModelParams};
use llama_cpp::LlamaCpp;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const N_PROMPT: usize = 512;
const N_GEN: usize = 64;

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

fn context(model: &Arc<Model>, n_ctx: usize, threads: usize) -> Result<Context> {
    let n = n_ctx as u32;
    let params =
        ContextParams { n_ctx: n, n_batch: n, n_threads: threads, n_threads_batch: threads, ..Default::default() };
    Ok(Context::new(model.clone(), &params)?)
}

fn decode(ctx: &mut Context, tokens: &[i32], all: bool) -> Result<()> {
    let mut marks = vec![i8::from(all); tokens.len()];
    *marks.last_mut().ok_or("no tokens")? = 1;
    Ok(ctx.decode(&Batch::new(tokens.len(), Some(tokens), None, 0)?.with_logits(&marks)?)?)
}

fn speed(reference: &LlamaCpp, path: &Path, o: &Options) -> Result<()> {
    let model = Model::load(Source::Path(path.into()), ModelParams::default())?;
    let n_vocab = model.hparams()?.n_vocab as u64;
    let n_ctx = N_PROMPT + N_GEN;
    let mut ours = context(&model, n_ctx, o.threads)?;
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

fn accuracy(reference: &LlamaCpp, path: &Path, o: &Options) -> Result<()> {
    let (ours, theirs, _) = accuracy::compare(reference, path, &o.text, o.threads, 4)?;
    println!("{}, {} tokens of {}", path.display(), ours.n, o.text.display());
    for (name, score) in [("ours", &ours), ("llama.cpp", &theirs)] {
        println!(
            "  {name:10} KL {:.3e}   top-1 agreement {:.2} %   perplexity {:.4} (exact {:.4}, {:+.2} %)",
            score.kl(),
            100.0 * score.agreement(),
            score.perplexity(),
            score.exact_perplexity(),
            100.0 * (score.perplexity() / score.exact_perplexity() - 1.0)
        );
    }
    println!("  KL ratio {:.2}", ours.kl() / theirs.kl());
    Ok(())
}
