//! Distance of two engines from exact logits over a text. Shared by the examples `versus` and `performance_parity`.

use crate::llama_cpp::LlamaCpp;
use infer::context::{BackendKind, Batch, Context, ContextParams};
use infer::gguf::Source;
use infer::model::{Model, ModelParams};
use std::path::Path;
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Tokens of one batch and of one independent window of text.
const N_BATCH: usize = 256;
const N_WINDOW: usize = 512;

/// Sums over the tokens of a text of one engine's logits against the exact ones.
#[derive(Debug, Clone, Default)]
pub struct Score {
    /// Tokens scored.
    pub n: usize,
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

    /// Mean KL divergence from the exact distribution, in nats.
    pub fn kl(&self) -> f64 {
        self.kl / self.n as f64
    }

    /// Share of tokens after which the likeliest one is the exact one.
    pub fn agreement(&self) -> f64 {
        self.agree as f64 / self.n as f64
    }

    /// Perplexity of the text.
    pub fn perplexity(&self) -> f64 {
        (self.nll / self.n as f64).exp()
    }

    /// The same with the exact logits.
    pub fn exact_perplexity(&self) -> f64 {
        (self.exact_nll / self.n as f64).exp()
    }
}

/// Scores libinfer and llama.cpp over up to `n_windows` windows of 512 tokens of a text: one score each, and the mean square
/// of the difference of their logits over that of llama.cpp's.
pub fn compare(
    reference: &LlamaCpp,
    path: &Path,
    text: &Path,
    threads: usize,
    n_windows: usize,
) -> Result<(Score, Score, f64)> {
    let model = Model::load(Source::Path(path.into()), ModelParams::default())?;
    let tokens = model.vocab.tokenize(&std::fs::read(text)?, true, false)?;
    let mut exact = context(&model, threads, BackendKind::Reference)?;
    let mut ours = context(&model, threads, BackendKind::Auto)?;
    let mut theirs = reference.session(path, N_WINDOW as u32, threads as i32)?;
    let (mut a, mut b) = (Score::default(), Score::default());
    let (mut difference, mut norm) = (0.0, 0.0);
    for window in tokens.chunks(N_WINDOW).take(n_windows) {
        exact.clear_memory(false)?;
        ours.clear_memory(false)?;
        theirs.clear();
        for (i, batch) in window.chunks(N_BATCH).enumerate() {
            decode_all(&mut exact, batch)?;
            decode_all(&mut ours, batch)?;
            theirs.decode(batch, true)?;
            for t in 0..batch.len() {
                let Some(&next) = window.get(i * N_BATCH + t + 1) else { break };
                let truth = exact.logits_ith(t as i32)?;
                let (x, y) = (ours.logits_ith(t as i32)?, theirs.logits(t as i32));
                a.add(truth, x, next);
                b.add(truth, y, next);
                for (&x, &y) in x.iter().zip(y) {
                    difference += f64::from(x - y).powi(2);
                    norm += f64::from(y).powi(2);
                }
            }
        }
    }
    Ok((a, b, difference / norm))
}

fn context(model: &Arc<Model>, threads: usize, backend: BackendKind) -> Result<Context> {
    let n = N_WINDOW as u32;
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

fn decode_all(ctx: &mut Context, tokens: &[i32]) -> Result<()> {
    let marks = vec![1; tokens.len()];
    Ok(ctx.decode(&Batch::new(tokens.len(), Some(tokens), None, 0)?.with_logits(&marks)?)?)
}

/// Logarithms of the probabilities.
pub fn log_softmax(x: &[f32]) -> Vec<f64> {
    let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum = x.iter().map(|&v| (f64::from(v) - max).exp()).sum::<f64>().ln();
    x.iter().map(|&v| f64::from(v) - max - sum).collect()
}

/// The index of the largest, the first of equals.
pub fn largest(x: &[f32]) -> usize {
    x.iter().enumerate().fold(0, |best, (i, &v)| if v > x[best] { i } else { best })
}
