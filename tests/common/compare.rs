//! How far two answers are apart.

/// Most that our logits or embeddings may differ from llama.cpp's on f32 weights, as squared error over squared norm.
/// Rounding alone makes 1e-6, with f16 caches 1e-5; a wrong rotation or mask makes 1e-2 and more.
pub const MAX_NMSE: f64 = 1e-4;

/// Most that the mean Kullback-Leibler divergence of the token distributions may be, in nats, for the same reasons.
pub const MAX_KL: f64 = 2e-4;

/// How far apart two answers are.
#[derive(Debug, Clone, Copy)]
pub struct Distance {
    /// Squared error over squared norm, over all rows.
    pub nmse: f64,
    /// The same of the worst row.
    pub worst: f64,
    /// Mean divergence of the softmaxes of the rows, from the first answer to the second.
    pub kl: f64,
}

/// Compares rows of equal lengths.
pub fn distance(want: &[Vec<f32>], have: &[Vec<f32>]) -> Distance {
    assert_eq!(want.len(), have.len(), "numbers of rows");
    let (mut d2, mut a2, mut kl, mut worst) = (0.0, 0.0, 0.0, 0.0f64);
    for (row, (a, b)) in want.iter().zip(have).enumerate() {
        assert_eq!(a.len(), b.len(), "lengths of row {row}");
        assert!(a.iter().chain(b).all(|x| x.is_finite()), "row {row} is not finite");
        let d: f64 = a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum();
        let n: f64 = a.iter().map(|&x| f64::from(x).powi(2)).sum();
        (d2, a2, worst) = (d2 + d, a2 + n, worst.max(d / n.max(f64::MIN_POSITIVE)));
        let (p, q) = (log_softmax(a), log_softmax(b));
        kl += p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>().max(0.0);
    }
    Distance { nmse: d2 / a2.max(f64::MIN_POSITIVE), worst, kl: kl / want.len().max(1) as f64 }
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
    row.iter().map(|&x| f64::from(x - max) - sum.ln()).collect()
}
