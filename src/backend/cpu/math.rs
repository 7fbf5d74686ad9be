//! Building blocks of rows: scalar ones that compilers vectorize (no calls, no branches, no saturating conversions), and the
//! exponential of vectors, which they leave waiting for itself.

use super::simd::Lanes;

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

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts, so that products of the first with small integers are exact.
const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// `e^r` is `1 + r + r^2 p(r)` on |r| <= ln(2)/2, with the polynomial of Cephes' expf, highest power first.
const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];

/// `2^f` is `1 + f p(f)` on |f| <= 1/2, with the polynomial of Cephes' exp2f, highest power first.
const EXP2: [f32; 6] = [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1];

#[inline(always)]
fn horner<const FMA: bool>([a, b, c, d, e, f]: [f32; 6], x: f32) -> f32 {
    let p = mul_add::<FMA>(mul_add::<FMA>(a, x, b), x, c);
    mul_add::<FMA>(mul_add::<FMA>(mul_add::<FMA>(p, x, d), x, e), x, f)
}

/// The polynomial of vectors. Its pairs of terms do not wait for each other, nor do the vectors: what bounds an exponential
/// is the length of its chain.
#[inline(always)]
fn polynomial<L: Lanes, const N: usize>(l: L, terms: [f32; 6], x: [L::F; N]) -> [L::F; N] {
    let [a, b, c, d, e, f] = terms;
    let (mut square, mut high, mut middle, mut low) = (x, x, x, x);
    for i in 0..N {
        square[i] = l.mul(x[i], x[i]);
        high[i] = l.fma(l.splat_f32(a), x[i], l.splat_f32(b));
        middle[i] = l.fma(l.splat_f32(c), x[i], l.splat_f32(d));
        low[i] = l.fma(l.splat_f32(e), x[i], l.splat_f32(f));
    }
    for i in 0..N {
        high[i] = l.fma(high[i], square[i], middle[i]);
    }
    for i in 0..N {
        low[i] = l.fma(high[i], square[i], low[i]);
    }
    low
}

/// [`exp`] of vectors, up to 88.3.
#[inline(always)]
pub fn exps<L: Lanes, const N: usize>(l: L, x: [L::F; N]) -> [L::F; N] {
    let (mut power, mut r) = (x, x);
    for i in 0..N {
        let clamped = l.max(l.splat_f32(-87.3), x[i]);
        power[i] = l.fma(clamped, l.splat_f32(LOG2_E), l.splat_f32(ROUND));
        let n = l.sub(power[i], l.splat_f32(ROUND));
        r[i] = l.fma(n, l.splat_f32(-LN2[1]), l.fma(n, l.splat_f32(-LN2[0]), clamped));
    }
    let mut y = polynomial(l, EXP, r);
    for i in 0..N {
        y[i] = l.fma(y[i], l.mul(r[i], r[i]), l.add(r[i], l.splat_f32(1.0)));
        y[i] = l.keep_from(-87.3, x[i], l.times_power(y[i], power[i]));
    }
    y
}

/// `x / (1 + e^-u)` of vectors.
#[inline(always)]
pub fn times_sigmoid<L: Lanes, const N: usize>(l: L, x: [L::F; N], u: [L::F; N]) -> [L::F; N] {
    let mut v = u;
    for v in &mut v {
        // Beyond, the quotient would leave the normal numbers.
        *v = l.sub(l.zero(), l.max(l.splat_f32(-87.0), *v));
    }
    let mut y = exps(l, v);
    for i in 0..N {
        y[i] = l.div(x[i], l.add(l.splat_f32(1.0), y[i]));
    }
    y
}

/// e^x within 2 units in the last place; 0 below -87.3 (with -inf), infinity above 88.3; NaN stays NaN.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.3 { 88.3 } else { clamped };
    let shifted = mul_add::<FMA>(clamped, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN2[0], clamped);
    let r = mul_add::<FMA>(n, -LN2[1], r);
    let y = mul_add::<FMA>(horner::<FMA>(EXP, r), r * r, r + 1.0);
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
    let y = mul_add::<FMA>(horner::<FMA>(EXP2, f), f, 1.0);
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
    use crate::backend::cpu::kernels::{Kernel, available};
    use crate::backend::cpu::simd::Simd;

    /// Of each `x`: `e^x` and `2 sigmoid(x)`.
    struct Vectors<'a>(&'a [[f32; 8]], &'a mut Vec<[f32; 2]>);

    impl Kernel for Vectors<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let l = s.lanes();
            for x in self.0 {
                let v = l.load_f32(x);
                let all = [exps(l, [v; 2])[1], times_sigmoid(l, [l.splat_f32(2.0)], [v])[0]];
                let mut out = [[0.0; 8]; 2];
                for (out, v) in out.iter_mut().zip(all) {
                    l.store_f32(out, v);
                }
                self.1.extend((0..8).map(|i| [out[0][i], out[1][i]]));
            }
        }
    }

    #[test]
    fn vectors_are_as_exact() {
        let special = [f32::NEG_INFINITY, -1e4, -100.0, -87.4, 0.0, -0.0, f32::NAN, -1e-10];
        let mut x: Vec<[f32; 8]> = (0..20_000).map(|i| std::array::from_fn(|j| (8 * i + j) as f32 / -1850.0)).collect();
        let n = 8 * x.len();
        x.push(special);
        for isa in available() {
            let mut found = Vec::new();
            isa.run(Vectors(&x, &mut found));
            for (x, [e, sigmoid]) in x.as_flattened().iter().zip(&found).take(n) {
                let exact = f64::from(*x).exp();
                assert!((f64::from(*e) - exact).abs() <= 2.4e-7 * exact + 1.3e-38, "{} e^{x}: {e}", isa.name());
                let exact = 2.0 / (1.0 + (-f64::from(*x)).exp());
                assert!((f64::from(*sigmoid) - exact).abs() <= 4e-7 * exact + 4e-38, "{} {x}: {sigmoid}", isa.name());
            }
            let last = &found[n..];
            assert_eq!(last[..6].iter().map(|v| v[0]).collect::<Vec<_>>(), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
            assert!(last[6].iter().all(|v| v.is_nan()) && last[0][1] < 1e-37 && last[4][1] == 1.0);
            assert!(last[7][0] == 1.0);
        }
    }

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
