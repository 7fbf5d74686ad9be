//! The operations of the graph: few, orthogonal, with their parameters. What an op does is written down once more, as
//! plain code, in `backend::reference`.

/// What a node computes from its inputs. Shapes are `ne`, innermost first, as in ggml.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// `table [n, rows, b]`, `ids i32 [k, b]` → f32 `[n, k, b]`; `b` is broadcast over when the table has one.
    GetRows,
    /// `w [k, m, a, b]`, `x [k, n, c, d]` → `[m, n, c, d]`; `a` divides `c`, `b` divides `d` (broadcast).
    MatMul,
    /// `w [k, m, n_expert]`, `x [k, n_used or 1, n_tokens]`, `ids i32 [n_used, n_tokens]` → `[m, n_used, n_tokens]`.
    MatMulId,
    /// Elementwise; the second operand is repeated over the first.
    Binary(BinaryOp),
    /// `x [n, n_used, n_tokens]` + row `ids[n_used, n_tokens]` of `b [n, n_expert]`.
    AddId,
    /// `x * scale + bias`.
    Scale {
        /// Factor.
        scale: f32,
        /// Added after scaling.
        bias: f32,
    },
    /// Clamps to a closed range.
    Clamp {
        /// Lower bound.
        min: f32,
        /// Upper bound.
        max: f32,
    },
    /// Elementwise function.
    Unary(UnaryOp),
    /// `act(gate) * up`, two tensors of one shape.
    Glu(GluOp),
    /// Normalizes rows (`ne[0]`); inputs `x`, then optionally a weight and a bias of length `ne[0]`.
    Norm(Norm),
    /// Softmax of rows of `x * scale`.
    SoftMax {
        /// Factor applied before the exponential.
        scale: f32,
    },
    /// Rotary embedding of `x [head_dim, n_head, n_tokens]` by `pos i32 [n_tokens]`; optional third input: frequency
    /// factors `[n_dims / 2]`.
    Rope(Rope),
    /// The orthonormal Walsh-Hadamard transform of each `n` (a power of two) successive elements of a row; its own inverse.
    Hadamard {
        /// Elements that are mixed.
        n: usize,
    },
    /// Attention of `q [d_k, n_head, n_tokens]` over `k [d_k, n_head_kv, n_rows]`, `v [d_v, n_head_kv, n_rows]` →
    /// `[d_v * n_head, n_tokens]`; optional fourth input: sinks `[n_head]`.
    Attention(Attention),
    /// Writes rows of `src f32 [n, k]` into `state [n, rows]` at `ids i32 [k]`, converting to the state's type; the value
    /// of the node is the whole state after the write.
    SetRows,
    /// A contiguous copy; f32 of any type but i32, which stays.
    Cont,
    /// Joins two tensors along a dimension.
    Concat {
        /// Which dimension grows.
        dim: usize,
    },
    /// Repeats the input to the node's shape.
    Repeat,
    /// Sum of each row: `[n, ...]` → `[1, ...]`.
    SumRows,
    /// Indices of the `k` largest elements of each row, descending: i32 `[k, ...]`.
    TopK {
        /// How many.
        k: usize,
    },
}

/// Elementwise operations of two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
}

/// Elementwise functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum UnaryOp {
    Silu,
    /// The tanh approximation.
    Gelu,
    /// Exact, by erf.
    GeluErf,
    /// `x * sigmoid(1.702 x)`.
    GeluQuick,
    Relu,
    Sigmoid,
    Tanh,
    Exp,
    Softplus,
    Sqr,
    Sqrt,
    Neg,
}

/// Gated activations: `act(gate) * up`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum GluOp {
    Silu,
    Gelu,
    GeluErf,
    Relu,
}

impl GluOp {
    /// The function applied to the gate.
    pub fn activation(self) -> UnaryOp {
        match self {
            GluOp::Silu => UnaryOp::Silu,
            GluOp::Gelu => UnaryOp::Gelu,
            GluOp::GeluErf => UnaryOp::GeluErf,
            GluOp::Relu => UnaryOp::Relu,
        }
    }
}

/// A row normalization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Which mean is taken.
    pub kind: NormKind,
    /// Added to the variance (RMS, layer) or used as a lower bound of the norm (L2).
    pub eps: f32,
}

/// Kinds of normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps)`.
    Rms,
    /// `(x - mean) / sqrt(var + eps)`.
    Layer,
    /// `x / max(|x|, eps)`.
    L2,
}

/// How the dimensions of a head are paired for rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeKind {
    /// Neighbours: (0, 1), (2, 3), ...
    Norm,
    /// Halves: (0, n/2), (1, n/2 + 1), ...
    Neox,
}

/// Parameters of a rotary embedding with YaRN scaling (Peng et al. 2023, arXiv 2309.00071).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Pairing of dimensions.
    pub kind: RopeKind,
    /// How many leading dimensions of a head rotate; the rest pass through.
    pub n_dims: usize,
    /// Base of the frequencies.
    pub freq_base: f32,
    /// Positions are multiplied by this (linear scaling).
    pub freq_scale: f32,
    /// YaRN: mix of interpolation (0) and extrapolation (1).
    pub ext_factor: f32,
    /// Scales the magnitude of the rotated vector.
    pub attn_factor: f32,
    /// YaRN: rotations over the original context above which a dimension is extrapolated.
    pub beta_fast: f32,
    /// YaRN: rotations below which it is interpolated.
    pub beta_slow: f32,
    /// Context length of the original training.
    pub n_ctx_orig: u32,
}

impl Rope {
    /// Sine and cosine, times the magnitude, by which pair `pair` of a head at `pos` rotates. `factor` divides its frequency.
    pub fn sin_cos(&self, pair: usize, pos: i32, factor: f32) -> (f32, f32) {
        let freq = (self.freq_base as f64).powf(-2.0 * pair as f64 / self.n_dims as f64);
        let extrapolated = pos as f64 * freq / factor as f64;
        let interpolated = extrapolated * self.freq_scale as f64;
        let mut angle = interpolated;
        let mut magnitude = self.attn_factor as f64;
        if self.ext_factor != 0.0 {
            let [low, high] = self.yarn_dims();
            let ramp = 1.0 - ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            let mix = ramp * self.ext_factor as f64;
            angle = interpolated * (1.0 - mix) + extrapolated * mix;
            magnitude *= 1.0 + 0.1 * (1.0 / self.freq_scale as f64).ln();
        }
        ((angle.sin() * magnitude) as f32, (angle.cos() * magnitude) as f32)
    }

    /// YaRN: the pairs between which interpolation takes over from extrapolation.
    fn yarn_dims(&self) -> [f64; 2] {
        let n = self.n_dims as f64;
        // The pair that makes `rotations` turns over the original context.
        let pair = |rotations: f32| {
            let turns = self.n_ctx_orig as f64 / (rotations as f64 * 2.0 * std::f64::consts::PI);
            n * turns.ln() / (2.0 * (self.freq_base as f64).ln())
        };
        [pair(self.beta_fast).floor().max(0.0), pair(self.beta_slow).ceil().min(n - 1.0)]
    }
}

/// Parameters of an attention over a group of KV rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Multiplies the scores.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`; 0: off.
    pub soft_cap: f32,
    /// Largest ALiBi slope exponent (`max_bias`); 0: no distance bias.
    pub max_alibi_bias: f32,
    /// Which mask of the inputs holds the visible rows.
    pub mask: MaskId,
}

/// Index of a [`super::Mask`] among the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MaskId(pub u8);
