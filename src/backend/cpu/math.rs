//! Scalar building blocks that compilers vectorize: no calls, no branches, no saturating conversions.

/// 1.5 * 2^23: adding it leaves the rounded integer in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// Nearest integer, ties to even, for `|x| < 2^22`; other inputs give some integer in -2^22..2^22.
#[inline(always)]
pub fn round(x: f32) -> i32 {
    // The low 23 bits hold the value plus 2^22.
    ((x + ROUND).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// `a * b + c`, in one rounding where that is one instruction.
#[inline(always)]
pub fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Sum of 16 lanes.
#[inline(always)]
pub fn sum16(a: [f32; 16]) -> f32 {
    let a: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
    let a: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
    (a[0] + a[2]) + (a[1] + a[3])
}

/// Largest of 16 lanes, none of them NaN.
#[inline(always)]
pub fn max16(a: [f32; 16]) -> f32 {
    let max = |a: f32, b: f32| if a > b { a } else { b };
    let a: [f32; 8] = std::array::from_fn(|i| max(a[i], a[i + 8]));
    let a: [f32; 4] = std::array::from_fn(|i| max(a[i], a[i + 4]));
    max(max(a[0], a[2]), max(a[1], a[3]))
}

/// e^x within 2 units in the last place; 0 below -87.3 (with -inf), infinity above 88.3; NaN stays NaN.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, so that n * LN2_HI is exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.3 { 88.3 } else { clamped };
    let shifted = mul_add::<FMA>(clamped, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN2_HI, clamped);
    let r = mul_add::<FMA>(n, -LN2_LO, r);
    // e^r on |r| <= ln(2)/2; the polynomial of Cephes' expf.
    let mut p = 1.987_569_1e-4;
    p = mul_add::<FMA>(p, r, 1.398_199_9e-3);
    p = mul_add::<FMA>(p, r, 8.333_452e-3);
    p = mul_add::<FMA>(p, r, 4.166_579_6e-2);
    p = mul_add::<FMA>(p, r, 1.666_666_5e-1);
    p = mul_add::<FMA>(p, r, 5e-1);
    let y = mul_add::<FMA>(p, r * r, r + 1.0);
    let scaled = f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23));
    let low = if x < -87.3 { 0.0 } else { scaled };
    if x > 88.3 { f32::INFINITY } else { low }
}

/// 2^x for `x <= 0` within 2 units in the last place; 0 below -126 (with -inf); NaN stays NaN.
#[inline(always)]
pub fn exp2<const FMA: bool>(x: f32) -> f32 {
    let clamped = if x < -126.0 { -126.0 } else { x };
    let shifted = clamped + ROUND;
    let f = clamped - (shifted - ROUND);
    // 2^f on |f| <= 1/2; the polynomial of Cephes' exp2f.
    let mut p = 1.535_336_2e-4;
    p = mul_add::<FMA>(p, f, 1.339_887_4e-3);
    p = mul_add::<FMA>(p, f, 9.618_437e-3);
    p = mul_add::<FMA>(p, f, 5.550_332_5e-2);
    p = mul_add::<FMA>(p, f, 2.402_264_8e-1);
    p = mul_add::<FMA>(p, f, 6.931_472e-1);
    let y = mul_add::<FMA>(p, f, 1.0);
    let scaled = f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < -126.0 { 0.0 } else { scaled }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// tanh, absolute error under 1e-6.
#[inline(always)]
pub fn tanh<const FMA: bool>(x: f32) -> f32 {
    // Both forms are needed: the first cancels near 0, where the series is exact.
    let x2 = x * x;
    let series = x * (1.0 + x2 * (-1.0 / 3.0 + x2 * (2.0 / 15.0 - x2 * (17.0 / 315.0))));
    let full = 1.0 - 2.0 / (exp::<FMA>(2.0 * x) + 1.0);
    if x2 < 0.01 { series } else { full }
}

/// Error function, absolute error under 2e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
pub fn erf<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let mut p = 1.061_405_4;
    p = mul_add::<FMA>(p, t, -1.453_152);
    p = mul_add::<FMA>(p, t, 1.421_413_7);
    p = mul_add::<FMA>(p, t, -0.284_496_74);
    p = mul_add::<FMA>(p, t, 0.254_829_6);
    let y = 1.0 - p * t * exp::<FMA>(-a * a);
    if x < 0.0 { -y } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error of `f` against `exact` over `from..to`; relative where the value is above 1.
    fn worst(f: fn(f32) -> f32, exact: fn(f64) -> f64, from: f32, to: f32) -> f64 {
        let error = |x: f32| (f64::from(f(x)) - exact(f64::from(x))).abs() / exact(f64::from(x)).abs().max(1.0);
        (0..=100_000).map(|i| error(from + (to - from) * i as f32 / 100_000.0)).fold(0.0, f64::max)
    }

    #[test]
    fn functions_are_as_exact_as_promised() {
        for f in [exp::<true>, exp::<false>] {
            assert!(worst(f, f64::exp, -100.0, 88.0) < 2.4e-7);
            assert!((-8700..8800).map(|i| i as f32 / 100.0).all(|x| (f(x) / x.exp() - 1.0).abs() < 4e-7));
            assert_eq!([f(f32::NEG_INFINITY), f(-90.0), f(0.0), f(f32::INFINITY)], [0.0, 0.0, 1.0, f32::INFINITY]);
            assert!(f(f32::NAN).is_nan());
        }
        for f in [exp2::<true>, exp2::<false>] {
            assert!((-12600..=0).map(|i| i as f32 / 100.0).all(|x| (f(x) / x.exp2() - 1.0).abs() < 2.4e-7));
            assert_eq!([f(f32::NEG_INFINITY), f(-127.0), f(-2.0), f(0.0)], [0.0, 0.0, 0.25, 1.0]);
            assert!(f(f32::NAN).is_nan());
        }
        for f in [tanh::<true>, tanh::<false>] {
            assert!(worst(f, f64::tanh, -30.0, 30.0) < 1e-6);
            assert_eq!([f(f32::INFINITY), f(f32::NEG_INFINITY), f(0.0)], [1.0, -1.0, 0.0]);
        }
        assert!(worst(sigmoid::<true>, |x| 1.0 / (1.0 + (-x).exp()), -100.0, 100.0) < 2e-7);
        assert!((erf::<true>(0.5) - 0.520_499_9).abs() < 3e-7 && (erf::<false>(-2.0) + 0.995_322_3).abs() < 3e-7);
        assert_eq!([1.5, 2.5, -2.5, -0.4, 126.6].map(round), [2, 2, -2, 0, 127]);
    }
}
