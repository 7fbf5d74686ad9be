//! Repeating a measurement until it is steady, and what is said of the samples.

use crate::Result;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How often something is measured.
#[derive(Debug, Clone, Copy)]
pub struct Repeat {
    /// Rounds at least.
    pub min: usize,
    /// Rounds at most.
    pub max: usize,
    /// Time after which no round is begun, once there are `min`.
    pub time: Duration,
    /// Coefficient of variation of the median that is steady enough.
    pub cv: f64,
}

/// The target for the coefficient of variation of a median.
pub const STEADY_CV: f64 = 0.05;

/// What samples are like. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Samples taken after the warm-up.
    pub n: usize,
    /// How many of them are more than 3.5 scaled median deviations from the median; they count in the percentiles only.
    pub n_outliers: usize,
    /// Median without outliers.
    pub median_ms: f64,
    /// Percentiles of all samples.
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub min_ms: f64,
    pub max_ms: f64,
    /// Coefficient of variation of the samples without outliers.
    pub cv: f64,
    /// Coefficient of variation of their median, by bootstrap.
    pub median_cv: f64,
    /// Work per second at the median.
    pub rate: f64,
    /// Unit of the rate.
    pub rate_unit: String,
}

impl Summary {
    /// Of times in seconds, each for `work` units.
    pub fn of(seconds: &[f64], work: f64, rate_unit: &str) -> Summary {
        let kept = without_outliers(seconds);
        let median_s = median(&kept);
        let ms = |p: f64| 1e3 * percentile(seconds, p);
        Summary {
            n: seconds.len(),
            n_outliers: seconds.len() - kept.len(),
            median_ms: 1e3 * median_s,
            p50_ms: ms(50.0),
            p95_ms: ms(95.0),
            p99_ms: ms(99.0),
            min_ms: ms(0.0),
            max_ms: ms(100.0),
            cv: variation(&kept),
            median_cv: median_variation(&kept),
            rate: work / median_s,
            rate_unit: rate_unit.into(),
        }
    }
}

/// Calls `round` once to warm up and then until the median of every series is steady. A round measures one sample of each
/// series, so that what disturbs the machine disturbs all alike.
pub fn repeat<const N: usize>(how: Repeat, mut round: impl FnMut() -> Result<[f64; N]>) -> Result<[Vec<f64>; N]> {
    round()?;
    let mut series = [const { Vec::new() }; N];
    let start = Instant::now();
    loop {
        series.iter_mut().zip(round()?).for_each(|(all, seconds)| all.push(seconds));
        let n = series[0].len();
        let steady = || series.iter().all(|s| median_variation(&without_outliers(s)) < how.cv);
        let in_time = start.elapsed() < how.time;
        if n >= how.max || n >= how.min && (!in_time || steady()) {
            return Ok(series);
        }
    }
}

/// Seconds of one call.
pub fn seconds(f: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    f()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The median over rounds of `other / ours`: by how much ours is faster.
pub fn ratio(ours: &[f64], other: &[f64]) -> f64 {
    let ratios: Vec<f64> = ours.iter().zip(other).map(|(a, b)| b / a).collect();
    median(&ratios)
}

/// The middle value, or the mean of the two in the middle; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The value below which `p` percent lie, interpolated between neighbours; NaN of nothing.
pub fn percentile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = p / 100.0 * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Those within 3.5 median absolute deviations (scaled to a normal distribution's deviation) of the median.
pub fn without_outliers(values: &[f64]) -> Vec<f64> {
    let center = median(values);
    let deviations: Vec<f64> = values.iter().map(|v| (v - center).abs()).collect();
    let limit = 3.5 * 1.4826 * median(&deviations);
    // Where most samples are equal, the deviation says nothing about the others.
    if limit == 0.0 {
        return values.to_vec();
    }
    values.iter().copied().filter(|v| (v - center).abs() <= limit).collect()
}

/// Standard deviation over mean; 0 of fewer than two.
pub fn variation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if n < 2.0 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    variance.sqrt() / mean
}

/// [`variation`] of the medians of 200 resamples, always the same ones.
pub fn median_variation(values: &[f64]) -> f64 {
    let mut state = 1u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let medians: Vec<f64> =
        (0..200).map(|_| median(&values.iter().map(|_| values[below(values.len())]).collect::<Vec<_>>())).collect();
    variation(&medians)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(median(&values), 2.5);
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert_eq!(percentile(&values, 100.0), 4.0);
        assert!((percentile(&values, 95.0) - 3.85).abs() < 1e-12);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn outliers_are_found_and_reported() {
        let values = [1.0, 1.1, 0.9, 1.05, 0.95, 9.0];
        assert_eq!(without_outliers(&values), [1.0, 1.1, 0.9, 1.05, 0.95]);
        assert_eq!(without_outliers(&[2.0, 2.0, 2.0, 3.0]), [2.0, 2.0, 2.0, 3.0]);
        let s = Summary::of(&values, 10.0, "t/s");
        assert_eq!((s.n, s.n_outliers, s.median_ms, s.rate), (6, 1, 1000.0, 10.0));
        assert!(s.p99_ms > 8000.0 && s.max_ms == 9000.0 && s.cv < 0.1);
    }

    #[test]
    fn variation_is_deviation_over_mean() {
        assert!((variation(&[1.0, 2.0, 3.0]) - 0.5).abs() < 1e-12);
        assert_eq!(variation(&[1.0]), 0.0);
        assert_eq!(median_variation(&[1.0, 1.0, 1.0]), 0.0);
        assert!(median_variation(&[1.0, 2.0]) > 0.1 && median_variation(&[1.0, 1.01, 0.99, 1.0, 1.02]) < 0.02);
    }

    fn rounds(how: Repeat, samples: impl Fn(usize) -> f64) -> usize {
        let mut i = 0;
        let [series] = repeat(how, || {
            i += 1;
            Ok([samples(i)])
        })
        .unwrap();
        assert_eq!(i, series.len() + 1, "one round warms up");
        series.len()
    }

    #[test]
    fn repeating_stops_when_steady_or_at_its_limits() {
        let how = Repeat { min: 5, max: 40, time: Duration::from_secs(60), cv: 0.05 };
        assert_eq!(rounds(how, |i| if i == 1 { 100.0 } else { 1.0 }), 5);
        assert_eq!(rounds(how, |i| if i % 2 == 0 { 1.0 } else { 10.0 }), 40);
        let steady_later = rounds(how, |i| if i < 6 && i % 2 == 0 { 2.0 } else { 1.0 });
        assert!((6..40).contains(&steady_later), "{steady_later}");
        assert_eq!(rounds(Repeat { time: Duration::ZERO, ..how }, |i| if i % 2 == 0 { 1.0 } else { 10.0 }), 5);
        assert_eq!(rounds(Repeat { min: 1, max: 1, ..how }, |_| 1.0), 1);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        assert_eq!(ratio(&[1.0, 10.0, 2.0], &[2.0, 20.0, 4.0]), 2.0);
    }
}
