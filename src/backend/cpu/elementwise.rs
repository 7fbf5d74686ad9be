//! Row operations on f32: norms, activations, rotation, softmax, arithmetic. Where the compiler vectorizes plain loops well for
//! each instruction set, they are plain.

use super::kernels::Kernel;
use super::math::{self, mul_add};
use super::simd::{Lanes, Simd};
use crate::graph::{BinaryOp, GluOp, Norm, NormKind, RopeKind, UnaryOp};

type Floats<S> = <<S as Simd>::Lanes as Lanes>::F;

/// Normalizes a row, times an optional weight, plus an optional bias.
pub struct NormRow<'a> {
    /// Which norm.
    pub norm: Norm,
    /// The row.
    pub x: &'a [f32],
    /// Factors, as long as the row.
    pub weight: Option<&'a [f32]>,
    /// Added, as long as the row.
    pub bias: Option<&'a [f32]>,
    /// The result, as long as the row.
    pub out: &'a mut [f32],
}

impl Kernel for NormRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { norm, x, weight, bias, out } = self;
        let n = x.len() as f32;
        let (mean, scale) = match norm.kind {
            NormKind::Rms => (0.0, 1.0 / (squares(s, x, 0.0) / n + norm.eps).sqrt()),
            NormKind::Layer => {
                let mean = sum(s, x) / n;
                (mean, 1.0 / (squares(s, x, mean) / n + norm.eps).sqrt())
            }
            NormKind::L2 => {
                let length = squares(s, x, 0.0).sqrt();
                (0.0, 1.0 / if length > norm.eps { length } else { norm.eps })
            }
        };
        match weight {
            Some(weight) => {
                for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *out = (x - mean) * scale * w;
                }
            }
            None => {
                for (out, x) in out.iter_mut().zip(x) {
                    *out = (x - mean) * scale;
                }
            }
        }
        if let Some(bias) = bias {
            for (out, b) in out.iter_mut().zip(bias) {
                *out += b;
            }
        }
    }
}

#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let l = s.lanes();
    fold(s, x, |acc, x| l.fma(x, l.splat_f32(1.0), acc)) + x.as_chunks::<8>().1.iter().sum::<f32>()
}

/// Sum of squared distances from `mean`.
#[inline(always)]
fn squares<S: Simd>(s: S, x: &[f32], mean: f32) -> f32 {
    let l = s.lanes();
    let rest: f32 = x.as_chunks::<8>().1.iter().map(|x| (x - mean) * (x - mean)).sum();
    let all = fold(s, x, |acc, x| {
        let x = l.fma(l.splat_f32(-mean), l.splat_f32(1.0), x);
        l.fma(x, x, acc)
    });
    all + rest
}

/// Sum of what `add` makes of eight elements after the other, without those that do not fill eight.
#[inline(always)]
fn fold<S: Simd>(s: S, x: &[f32], add: impl Fn(Floats<S>, Floats<S>) -> Floats<S>) -> f32 {
    let l = s.lanes();
    let (blocks, _) = x.as_chunks::<32>();
    let mut sums = [l.zero(); 4];
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block.as_chunks::<8>().0) {
            *sum = add(*sum, l.load_f32(x));
        }
    }
    for x in x[32 * blocks.len()..].as_chunks::<8>().0 {
        sums[0] = add(sums[0], l.load_f32(x));
    }
    let [a, b, c, d] = l.sum4(sums);
    (a + b) + (c + d)
}

/// Applies a function to each element in place.
pub struct UnaryRow<'a> {
    /// Which function.
    pub op: UnaryOp,
    /// The elements.
    pub x: &'a mut [f32],
}

impl Kernel for UnaryRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { op, x } = self;
        let done = match op {
            UnaryOp::Silu => curve::<S, Silu>(s, x),
            UnaryOp::Gelu => curve::<S, Gelu>(s, x),
            UnaryOp::GeluQuick => curve::<S, GeluQuick>(s, x),
            UnaryOp::GeluErf
            | UnaryOp::Relu
            | UnaryOp::Sigmoid
            | UnaryOp::Tanh
            | UnaryOp::Exp
            | UnaryOp::Softplus
            | UnaryOp::Sqr
            | UnaryOp::Sqrt
            | UnaryOp::Neg => 0,
        };
        let rest = &mut x[done..];
        if S::FMA { unary::<true>(op, rest) } else { unary::<false>(op, rest) }
    }
}

/// An activation `x * sigmoid(u)`.
trait Curve {
    /// What becomes of `x` in the sigmoid.
    fn u<L: Lanes>(l: L, x: L::F) -> L::F;
}

struct Silu;
struct Gelu;
struct GeluQuick;

impl Curve for Silu {
    #[inline(always)]
    fn u<L: Lanes>(_: L, x: L::F) -> L::F {
        x
    }
}

impl Curve for Gelu {
    #[inline(always)]
    fn u<L: Lanes>(l: L, x: L::F) -> L::F {
        let cubic = l.fma(l.splat_f32(2.0 * GELU[1]), l.mul(x, x), l.splat_f32(2.0 * GELU[0]));
        l.mul(x, cubic)
    }
}

impl Curve for GeluQuick {
    #[inline(always)]
    fn u<L: Lanes>(l: L, x: L::F) -> L::F {
        l.mul(x, l.splat_f32(GELU_QUICK))
    }
}

/// Vectors that are worked on side by side: an exponential alone leaves the units waiting.
const SIDE_BY_SIDE: usize = 4;

/// Applies an activation to whole vectors; returns how many elements that were.
#[inline(always)]
fn curve<S: Simd, C: Curve>(s: S, x: &mut [f32]) -> usize {
    let blocks = if S::VECTORS { x.as_chunks_mut::<{ 8 * SIDE_BY_SIDE }>().0 } else { &mut [] };
    for x in blocks.iter_mut() {
        let y = curve_of::<S, C>(s, x);
        for (x, y) in x.as_chunks_mut::<8>().0.iter_mut().zip(y) {
            s.lanes().store_f32(x, y);
        }
    }
    blocks.as_flattened().len()
}

#[inline(always)]
fn curve_of<S: Simd, C: Curve>(s: S, x: &[f32; 8 * SIDE_BY_SIDE]) -> [Floats<S>; SIDE_BY_SIDE] {
    let l = s.lanes();
    let mut v = [l.zero(); SIDE_BY_SIDE];
    for (v, x) in v.iter_mut().zip(x.as_chunks::<8>().0) {
        *v = l.load_f32(x);
    }
    let mut u = v;
    for u in &mut u {
        *u = C::u(l, *u);
    }
    math::times_sigmoid(l, v, u)
}

#[inline(always)]
fn unary<const FMA: bool>(op: UnaryOp, x: &mut [f32]) {
    match op {
        UnaryOp::Silu => each(x, |v| v * math::sigmoid::<FMA>(v)),
        UnaryOp::Gelu => each(x, gelu::<FMA>),
        UnaryOp::GeluErf => each(x, |v| 0.5 * v * (1.0 + math::erf::<FMA>(v * std::f32::consts::FRAC_1_SQRT_2))),
        UnaryOp::GeluQuick => each(x, |v| v * math::sigmoid::<FMA>(GELU_QUICK * v)),
        UnaryOp::Relu => each(x, |v| if v > 0.0 { v } else { 0.0 }),
        UnaryOp::Sigmoid => each(x, math::sigmoid::<FMA>),
        UnaryOp::Tanh => each(x, math::tanh::<FMA>),
        UnaryOp::Exp => each(x, math::exp::<FMA>),
        UnaryOp::Softplus => each(x, |v| if v > 20.0 { v } else { v.exp().ln_1p() }),
        UnaryOp::Sqr => each(x, |v| v * v),
        UnaryOp::Sqrt => each(x, f32::sqrt),
        UnaryOp::Neg => each(x, |v| -v),
    }
}

#[inline(always)]
fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

/// sqrt(2 / pi) and its product with 0.044715.
const GELU: [f32; 2] = [0.797_884_6, 0.035_677_408];
const GELU_QUICK: f32 = 1.702;

/// `0.5 x (1 + tanh(u))` is `x sigmoid(2 u)`.
#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    let u = x * mul_add::<FMA>(GELU[1], x * x, GELU[0]);
    x * math::sigmoid::<FMA>(2.0 * u)
}

/// `up *= act(gate)`.
pub struct GluRow<'a> {
    /// Which activation.
    pub op: GluOp,
    /// The gate.
    pub gate: &'a [f32],
    /// The other factor, and the result.
    pub up: &'a mut [f32],
}

impl Kernel for GluRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { op, gate, up } = self;
        let done = match op {
            GluOp::Silu => gated_curve::<S, Silu>(s, gate, up),
            GluOp::Gelu => gated_curve::<S, Gelu>(s, gate, up),
            GluOp::GeluErf | GluOp::Relu => 0,
        };
        let (gate, up) = (&gate[done..], &mut up[done..]);
        if S::FMA { glu::<true>(op, gate, up) } else { glu::<false>(op, gate, up) }
    }
}

/// `up *= act(gate)` of whole vectors; returns how many elements that were.
#[inline(always)]
fn gated_curve<S: Simd, C: Curve>(s: S, gate: &[f32], up: &mut [f32]) -> usize {
    let l = s.lanes();
    let up = if S::VECTORS { up.as_chunks_mut::<{ 8 * SIDE_BY_SIDE }>().0 } else { &mut [] };
    let gate = gate.as_chunks::<{ 8 * SIDE_BY_SIDE }>().0;
    let n = up.len().min(gate.len());
    for (up, gate) in up.iter_mut().zip(gate) {
        let act = curve_of::<S, C>(s, gate);
        for (up, act) in up.as_chunks_mut::<8>().0.iter_mut().zip(act) {
            let product = l.mul(l.load_f32(up), act);
            l.store_f32(up, product);
        }
    }
    8 * SIDE_BY_SIDE * n
}

#[inline(always)]
fn glu<const FMA: bool>(op: GluOp, gate: &[f32], up: &mut [f32]) {
    match op {
        GluOp::Silu => gated(gate, up, |v| v * math::sigmoid::<FMA>(v)),
        GluOp::Gelu => gated(gate, up, gelu::<FMA>),
        GluOp::GeluErf => gated(gate, up, |v| 0.5 * v * (1.0 + math::erf::<FMA>(v * std::f32::consts::FRAC_1_SQRT_2))),
        GluOp::Relu => gated(gate, up, |v| if v > 0.0 { v } else { 0.0 }),
    }
}

#[inline(always)]
fn gated(gate: &[f32], up: &mut [f32], f: impl Fn(f32) -> f32) {
    for (up, gate) in up.iter_mut().zip(gate) {
        *up *= f(*gate);
    }
}

/// `a op= b`, `b` repeated over `a`.
pub struct BinaryRow<'a> {
    /// Which operation.
    pub op: BinaryOp,
    /// First operand and result.
    pub a: &'a mut [f32],
    /// Second operand; its length divides that of `a`.
    pub b: &'a [f32],
}

impl Kernel for BinaryRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { op, a, b } = self;
        if let [b] = *b {
            combine(op, a, std::iter::repeat(b));
            return;
        }
        for a in a.chunks_mut(b.len().max(1)) {
            combine(op, a, b.iter().copied());
        }
    }
}

#[inline(always)]
fn combine(op: BinaryOp, a: &mut [f32], b: impl Iterator<Item = f32>) {
    let pairs = a.iter_mut().zip(b);
    match op {
        BinaryOp::Add => pairs.for_each(|(a, b)| *a += b),
        BinaryOp::Sub => pairs.for_each(|(a, b)| *a -= b),
        BinaryOp::Mul => pairs.for_each(|(a, b)| *a *= b),
        BinaryOp::Div => pairs.for_each(|(a, b)| *a /= b),
    }
}

/// Rotates the leading dimensions of heads of a token in place.
pub struct RotateHeads<'a> {
    /// Which dimensions form pairs.
    pub kind: RopeKind,
    /// Sine of every pair, with the magnitude.
    pub sin: &'a [f32],
    /// Cosine of every pair, with the magnitude.
    pub cos: &'a [f32],
    /// Elements of a head, at least twice as many as there are pairs.
    pub d: usize,
    /// The heads.
    pub x: &'a mut [f32],
}

impl Kernel for RotateHeads<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let l = s.lanes();
        let Self { kind, sin, cos, d, x } = self;
        let n_pairs = sin.len();
        assert!(cos.len() == n_pairs && 2 * n_pairs <= d);
        let n_vectors = if S::VECTORS { n_pairs / 8 } else { 0 };
        // Eight pairs of all heads, then the next: sines and cosines are loaded once.
        for (v, (sin, cos)) in sin.as_chunks::<8>().0.iter().zip(cos.as_chunks::<8>().0).enumerate().take(n_vectors) {
            let (sin, cos) = (l.load_f32(sin), l.load_f32(cos));
            match kind {
                RopeKind::Norm => {
                    let (sin, cos) = (l.zip([l.sub(l.zero(), sin), sin]), l.zip([cos; 2]));
                    for head in x.chunks_exact_mut(d) {
                        for (i, x) in head[16 * v..16 * v + 16].as_chunks_mut::<8>().0.iter_mut().enumerate() {
                            let both = l.load_f32(x);
                            let other = l.mul(l.swap_pairs(both), sin[i]);
                            l.store_f32(x, l.add(l.mul(both, cos[i]), other));
                        }
                    }
                }
                RopeKind::Neox => {
                    for head in x.chunks_exact_mut(d) {
                        let (low, high) = head.split_at_mut(n_pairs);
                        let low = low[8 * v..].first_chunk_mut().expect("eight elements of the first half");
                        let high = high[8 * v..].first_chunk_mut().expect("eight elements of the second half");
                        let (a, b) = (l.load_f32(low), l.load_f32(high));
                        l.store_f32(low, l.sub(l.mul(a, cos), l.mul(b, sin)));
                        l.store_f32(high, l.add(l.mul(a, sin), l.mul(b, cos)));
                    }
                }
            }
        }
        let done = 8 * n_vectors;
        if done < n_pairs {
            for head in x.chunks_exact_mut(d) {
                rotate_plainly(kind, &sin[done..], &cos[done..], n_pairs, done, head);
            }
        }
    }
}

/// Pairs `done..n_pairs` of a head.
#[inline(always)]
fn rotate_plainly(kind: RopeKind, sin: &[f32], cos: &[f32], n_pairs: usize, done: usize, head: &mut [f32]) {
    match kind {
        RopeKind::Norm => {
            let pairs = &mut head[2 * done..2 * n_pairs];
            for ((pair, sin), cos) in pairs.as_chunks_mut::<2>().0.iter_mut().zip(sin).zip(cos) {
                *pair = [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos];
            }
        }
        RopeKind::Neox => {
            let (low, high) = head[..2 * n_pairs].split_at_mut(n_pairs);
            let (low, high) = (&mut low[done..], &mut high[done..]);
            for (((a, b), sin), cos) in low.iter_mut().zip(high).zip(sin).zip(cos) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}

/// Softmax of `x * scale` in place.
pub struct SoftMaxRow<'a> {
    /// Factor before the exponential.
    pub scale: f32,
    /// The row.
    pub x: &'a mut [f32],
}

impl Kernel for SoftMaxRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { scale, x } = self;
        each(x, |v| v * scale);
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let (sixteens, rest) = x.as_chunks::<16>();
        let mut lanes = [f32::NEG_INFINITY; 16];
        for x in sixteens {
            for (max, x) in lanes.iter_mut().zip(x) {
                *max = larger(*max, *x);
            }
        }
        let max = rest.iter().fold(math::max16(lanes), |max, x| larger(max, *x));
        if max == f32::NEG_INFINITY {
            x.fill(0.0);
            return;
        }
        let inverse = 1.0 / exp_and_sum(s, max, x);
        each(x, |v| v * inverse);
    }
}

/// Makes each `x` into `e^(x - max)`; returns their sum.
#[inline(always)]
fn exp_and_sum<S: Simd>(s: S, max: f32, x: &mut [f32]) -> f32 {
    let l = s.lanes();
    let mut sums = [l.zero(); SIDE_BY_SIDE];
    let blocks = if S::VECTORS { x.as_chunks_mut::<{ 8 * SIDE_BY_SIDE }>().0 } else { &mut [] };
    for x in blocks.iter_mut() {
        let mut v = sums;
        for (v, x) in v.iter_mut().zip(x.as_chunks::<8>().0) {
            *v = l.sub(l.load_f32(x), l.splat_f32(max));
        }
        let v = math::exps(l, v);
        for ((sum, v), x) in sums.iter_mut().zip(v).zip(x.as_chunks_mut::<8>().0) {
            *sum = l.add(*sum, v);
            l.store_f32(x, v);
        }
    }
    let done = blocks.as_flattened().len();
    let rest = &mut x[done..];
    for x in rest.iter_mut() {
        *x = if S::FMA { math::exp::<true>(*x - max) } else { math::exp::<false>(*x - max) };
    }
    let [a, b, c, d] = l.sum4(sums);
    (a + b) + (c + d) + sum(s, rest)
}

/// The orthonormal Walsh-Hadamard transform of each `n` elements in place, by butterflies.
pub struct Hadamard<'a> {
    /// A power of two.
    pub n: usize,
    /// The elements, a multiple of `n`.
    pub x: &'a mut [f32],
}

impl Kernel for Hadamard<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { n, x } = self;
        let scale = 1.0 / (n as f32).sqrt();
        let mut half = 1;
        if n >= 8 {
            for eight in x.as_chunks_mut::<8>().0 {
                let [a, b, c, d, e, f, g, h] = *eight;
                let [a, b, c, d, e, f, g, h] = [a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h];
                let [a, b, c, d, e, f, g, h] = [a + c, b + d, a - c, b - d, e + g, f + h, e - g, f - h];
                *eight = [a + e, b + f, c + g, d + h, a - e, b - f, c - g, d - h];
            }
            half = 8;
        }
        while half < n {
            for pair in x.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        each(x, |v| v * scale);
    }
}
