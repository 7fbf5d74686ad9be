//! Builds graphs. Every method checks shapes and types, so that a model file that does not fit its architecture is an
//! error with the tensor's name here, and never an out-of-bounds access in a kernel.

use super::{
    Attention, BinaryOp, GluOp, Graph, Input, Norm, Op, Rope, Source, StateId, UnaryOp, Value, ValueId,
    contiguous_strides,
};
use crate::error::{Error, Result};
use crate::quant::DType;
use crate::tensor::WeightRef;
use std::collections::HashMap;
use std::sync::Arc;

/// A graph under construction.
#[derive(Debug, Default)]
pub struct Builder {
    graph: Graph,
    weights: HashMap<*const crate::tensor::Weight, ValueId>,
    inputs: HashMap<Input, ValueId>,
}

impl Builder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// The graph; values that nothing reads are left out of plans, not of the graph.
    pub fn finish(self) -> Graph {
        self.graph
    }

    /// Shape of a value.
    pub fn ne(&self, x: ValueId) -> [usize; 4] {
        self.graph.value(x).ne
    }

    /// Names a value, as `base` or `base-layer`.
    pub fn name(&mut self, x: ValueId, base: &str, layer: Option<usize>) {
        self.graph.values[x.0 as usize].name = match layer {
            Some(il) => format!("{base}-{il}"),
            None => base.to_string(),
        };
    }

    /// Declares that the caller reads `x` after the run. `x` must be a contiguous result, not a leaf or a view.
    pub fn output(&mut self, x: ValueId) -> Result<()> {
        if !matches!(self.graph.value(x).source, Source::Node { .. }) {
            return Err(self.bad(x, "only results can be outputs"));
        }
        self.graph.outputs.push(x);
        Ok(())
    }

    /// A tensor of the model.
    pub fn weight(&mut self, w: &WeightRef) -> ValueId {
        if let Some(&id) = self.weights.get(&Arc::as_ptr(w)) {
            return id;
        }
        let nb = contiguous_strides(w.dtype, w.ne);
        let id = self.push(w.name.clone(), w.dtype, w.ne, nb, Source::Weight(w.clone()));
        self.weights.insert(Arc::as_ptr(w), id);
        id
    }

    /// A leaf that the context fills; asking twice gives the same value.
    pub fn input(&mut self, input: Input, dtype: DType, ne: [usize; 4]) -> Result<ValueId> {
        if let Some(&id) = self.inputs.get(&input) {
            if self.ne(id) != ne {
                return Err(self.bad(id, &format!("input asked for with shape {ne:?}")));
            }
            return Ok(id);
        }
        let id = self.push(input.name().to_string(), dtype, ne, contiguous_strides(dtype, ne), Source::Input(input));
        self.inputs.insert(input, id);
        Ok(id)
    }

    /// A persistent buffer of the context.
    pub fn state(&mut self, state: StateId, name: &str, dtype: DType, ne: [usize; 4]) -> ValueId {
        self.push(name.to_string(), dtype, ne, contiguous_strides(dtype, ne), Source::State(state))
    }

    /// `x` in another shape with the same number of elements; `x` must be contiguous.
    pub fn reshape(&mut self, x: ValueId, ne: [usize; 4]) -> Result<ValueId> {
        let v = self.graph.value(x);
        if !v.is_contiguous() || v.n_elements() != ne.iter().product::<usize>() {
            return Err(self.bad(x, &format!("cannot be reshaped to {ne:?}")));
        }
        let (name, nb) = (format!("{} (reshaped)", v.name), contiguous_strides(v.dtype, ne));
        let view = self.view(x, ne, nb, 0)?;
        self.name(view, &name, None);
        Ok(view)
    }

    /// A part of `x`: shape `ne`, strides of `x` or others, from byte `offset`. The innermost stride stays that of `x`.
    pub fn view(&mut self, x: ValueId, ne: [usize; 4], nb: [usize; 4], offset: usize) -> Result<ValueId> {
        let (of, base) = self.graph.resolve(x);
        let owner = self.graph.value(of);
        let v = self.graph.value(x);
        if !ne[0].is_multiple_of(v.dtype.block_size()) {
            return Err(self.bad(x, &format!("a view of {} elements cuts blocks of {}", ne[0], v.dtype.name())));
        }
        // A view of nothing, as of a ubatch without outputs, is inside wherever it begins.
        let empty = ne.contains(&0);
        let end = || {
            let last = (1..4).map(|i| (ne[i] - 1) * nb[i]).sum::<usize>() + (ne[0] / v.dtype.block_size() - 1) * nb[0];
            base + offset + last + v.dtype.type_size()
        };
        if !empty && end() > owner.n_bytes() {
            return Err(self.bad(x, &format!("view {ne:?} at byte {offset} is outside of it")));
        }
        let (name, dtype) = (format!("{} (view)", v.name), v.dtype);
        Ok(self.push(name, dtype, ne, nb, Source::View { of, offset: base + offset }))
    }

    /// Dimensions in another order: dimension `i` of `x` becomes dimension `order[i]`. Types of one element per block only.
    pub fn permute(&mut self, x: ValueId, order: [usize; 4]) -> Result<ValueId> {
        let v = self.graph.value(x);
        let mut seen = order;
        seen.sort_unstable();
        if seen != [0, 1, 2, 3] || (v.dtype.block_size() != 1 && order[0] != 0) {
            return Err(self.bad(x, &format!("cannot be permuted by {order:?}")));
        }
        let (mut ne, mut nb) = ([0; 4], [0; 4]);
        for i in 0..4 {
            ne[order[i]] = v.ne[i];
            nb[order[i]] = v.nb[i];
        }
        let name = format!("{} (permuted)", v.name);
        let view = self.view(x, ne, nb, 0)?;
        self.name(view, &name, None);
        Ok(view)
    }

    /// Rows of a table, see [`Op::GetRows`].
    pub fn get_rows(&mut self, table: ValueId, ids: ValueId) -> Result<ValueId> {
        let (t, i) = (self.ne(table), self.ne(ids));
        self.expect_i32(ids)?;
        if t[2] != 1 && t[2] != i[1] || t[3] != 1 {
            return Err(self.bad(table, &format!("rows cannot be picked by ids of shape {i:?}")));
        }
        let dtype = if self.graph.value(table).dtype == DType::I32 { DType::I32 } else { DType::F32 };
        self.node(Op::GetRows, &[table, ids], [t[0], i[0], i[1], i[2]], dtype)
    }

    /// `w · x`, see [`Op::MatMul`].
    pub fn matmul(&mut self, w: ValueId, x: ValueId) -> Result<ValueId> {
        let (a, b) = (self.ne(w), self.ne(x));
        self.expect_f32(x)?;
        if a[0] != b[0] || a[2] == 0 || b[2] % a[2] != 0 || a[3] == 0 || b[3] % a[3] != 0 {
            return Err(
                self.bad(w, &format!("shape {a:?} cannot multiply {} of shape {b:?}", self.graph.value(x).name))
            );
        }
        self.node(Op::MatMul, &[w, x], [a[1], b[1], b[2], b[3]], DType::F32)
    }

    /// The product with the experts that `ids` name, see [`Op::MatMulId`].
    pub fn matmul_id(&mut self, w: ValueId, x: ValueId, ids: ValueId) -> Result<ValueId> {
        let (a, b, i) = (self.ne(w), self.ne(x), self.ne(ids));
        self.expect_f32(x)?;
        self.expect_i32(ids)?;
        if a[0] != b[0] || a[3] != 1 || b[3] != 1 || b[2] != i[1] || (b[1] != 1 && b[1] != i[0]) {
            return Err(self.bad(w, &format!("experts {a:?} cannot multiply {b:?} by ids {i:?}")));
        }
        self.node(Op::MatMulId, &[w, x, ids], [a[1], i[0], i[1], 1], DType::F32)
    }

    /// Elementwise `a op b`, `b` repeated over `a`.
    pub fn binary(&mut self, op: BinaryOp, a: ValueId, b: ValueId) -> Result<ValueId> {
        let (x, y) = (self.ne(a), self.ne(b));
        self.expect_f32(a)?;
        self.expect_f32(b)?;
        if (0..4).any(|i| !repeats(y[i], x[i])) {
            return Err(self.bad(b, &format!("shape {y:?} cannot be repeated over {x:?}")));
        }
        self.node(Op::Binary(op), &[a, b], x, DType::F32)
    }

    /// `a + b`.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.binary(BinaryOp::Add, a, b)
    }

    /// `a * b`.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.binary(BinaryOp::Mul, a, b)
    }

    /// Adds to each row of `x` the row of `b` that `ids` names, see [`Op::AddId`].
    pub fn add_id(&mut self, x: ValueId, b: ValueId, ids: ValueId) -> Result<ValueId> {
        let (a, t, i) = (self.ne(x), self.ne(b), self.ne(ids));
        self.expect_f32(b)?;
        self.expect_i32(ids)?;
        if a[0] != t[0] || a[1] != i[0] || a[2] != i[1] {
            return Err(self.bad(b, &format!("rows of {t:?} cannot be added to {a:?} by ids {i:?}")));
        }
        self.node(Op::AddId, &[x, b, ids], a, DType::F32)
    }

    /// `x * scale`.
    pub fn scale(&mut self, x: ValueId, scale: f32) -> Result<ValueId> {
        self.elementwise(Op::Scale { scale, bias: 0.0 }, x)
    }

    /// `x` limited to `[min, max]`.
    pub fn clamp(&mut self, x: ValueId, min: f32, max: f32) -> Result<ValueId> {
        self.elementwise(Op::Clamp { min, max }, x)
    }

    /// A function of each element.
    pub fn unary(&mut self, op: UnaryOp, x: ValueId) -> Result<ValueId> {
        self.elementwise(Op::Unary(op), x)
    }

    /// `act(gate) * up`.
    pub fn glu(&mut self, op: GluOp, gate: ValueId, up: ValueId) -> Result<ValueId> {
        self.expect_f32(gate)?;
        self.expect_f32(up)?;
        if self.ne(gate) != self.ne(up) {
            return Err(self.bad(gate, &format!("gate and up differ: {:?}, {:?}", self.ne(gate), self.ne(up))));
        }
        let ne = self.ne(gate);
        self.node(Op::Glu(op), &[gate, up], ne, DType::F32)
    }

    /// Normalizes rows, with an optional weight and bias.
    pub fn norm(&mut self, norm: Norm, x: ValueId, weight: Option<ValueId>, bias: Option<ValueId>) -> Result<ValueId> {
        let ne = self.ne(x);
        self.expect_f32(x)?;
        let mut inputs = vec![x];
        if bias.is_some() && weight.is_none() {
            return Err(self.bad(x, "a norm with a bias needs a weight"));
        }
        for w in weight.into_iter().chain(bias) {
            self.expect_f32(w)?;
            if self.ne(w) != [ne[0], 1, 1, 1] {
                return Err(self.bad(w, &format!("norm weight of shape {:?} for rows of {}", self.ne(w), ne[0])));
            }
            inputs.push(w);
        }
        self.node(Op::Norm(norm), &inputs, ne, DType::F32)
    }

    /// Softmax of rows.
    pub fn soft_max(&mut self, x: ValueId, scale: f32) -> Result<ValueId> {
        self.elementwise(Op::SoftMax { scale }, x)
    }

    /// Rotary embedding, see [`Op::Rope`].
    pub fn rope(&mut self, rope: Rope, x: ValueId, pos: ValueId, factors: Option<ValueId>) -> Result<ValueId> {
        let ne = self.ne(x);
        self.expect_f32(x)?;
        self.expect_i32(pos)?;
        if !rope.n_dims.is_multiple_of(2) || rope.n_dims > ne[0] || self.ne(pos)[0] != ne[2] || ne[3] != 1 {
            return Err(
                self.bad(x, &format!("{} of {ne:?} cannot rotate by {:?} positions", rope.n_dims, self.ne(pos)))
            );
        }
        let mut inputs = vec![x, pos];
        if let Some(f) = factors {
            self.expect_f32(f)?;
            if self.ne(f)[0] < rope.n_dims / 2 {
                return Err(self.bad(f, &format!("{} frequency factors for {} dimensions", self.ne(f)[0], rope.n_dims)));
            }
            inputs.push(f);
        }
        self.node(Op::Rope(rope), &inputs, ne, DType::F32)
    }

    /// Walsh-Hadamard transform, see [`Op::Hadamard`].
    pub fn hadamard(&mut self, x: ValueId, n: usize) -> Result<ValueId> {
        if !n.is_power_of_two() || !self.ne(x)[0].is_multiple_of(n) {
            return Err(self.bad(x, &format!("has no Hadamard transform of {n} elements")));
        }
        self.elementwise(Op::Hadamard { n }, x)
    }

    /// Attention, see [`Op::Attention`].
    pub fn attention(
        &mut self,
        p: Attention,
        q: ValueId,
        k: ValueId,
        v: ValueId,
        sinks: Option<ValueId>,
    ) -> Result<ValueId> {
        let (nq, nk, nv) = (self.ne(q), self.ne(k), self.ne(v));
        self.expect_f32(q)?;
        if nq[0] != nk[0] || nk[1] == 0 || nq[1] % nk[1] != 0 || nv[1] != nk[1] || nv[2] != nk[2] || nq[3] != 1 {
            return Err(self.bad(q, &format!("q {nq:?}, k {nk:?}, v {nv:?} do not fit for attention")));
        }
        let mut inputs = vec![q, k, v];
        if let Some(s) = sinks {
            self.expect_f32(s)?;
            if self.ne(s)[0] != nq[1] {
                return Err(self.bad(s, &format!("{} sinks for {} heads", self.ne(s)[0], nq[1])));
            }
            inputs.push(s);
        }
        self.node(Op::Attention(p), &inputs, [nv[0] * nq[1], nq[2], 1, 1], DType::F32)
    }

    /// Writes rows into a state; returns the state as it is afterwards, see [`Op::SetRows`].
    pub fn set_rows(&mut self, state: ValueId, src: ValueId, ids: ValueId) -> Result<ValueId> {
        let (s, r, i) = (self.ne(state), self.ne(src), self.ne(ids));
        self.expect_f32(src)?;
        self.expect_i32(ids)?;
        let v = self.graph.value(state);
        if !matches!(v.source, Source::State(_)) || s[0] != r[0] || r[1] != i[0] || r[2] != 1 || r[3] != 1 {
            return Err(self.bad(state, &format!("rows {r:?} cannot be stored at {i:?} in {s:?}")));
        }
        let (name, dtype) = (format!("{} (view)", v.name), v.dtype);
        let stored = self.node(Op::SetRows, &[state, src, ids], s, dtype)?;
        self.name(stored, &name, None);
        Ok(stored)
    }

    /// A contiguous copy, dequantized to f32 (i32 stays).
    pub fn cont(&mut self, x: ValueId) -> Result<ValueId> {
        let v = self.graph.value(x);
        let (ne, dtype) = (v.ne, if v.dtype == DType::I32 { DType::I32 } else { DType::F32 });
        self.node(Op::Cont, &[x], ne, dtype)
    }

    /// `a` and `b` joined along `dim`.
    pub fn concat(&mut self, a: ValueId, b: ValueId, dim: usize) -> Result<ValueId> {
        let (x, y) = (self.ne(a), self.ne(b));
        self.expect_f32(a)?;
        self.expect_f32(b)?;
        if dim > 3 || (0..4).any(|i| i != dim && x[i] != y[i]) {
            return Err(self.bad(a, &format!("{x:?} and {y:?} cannot be joined along {dim}")));
        }
        let mut ne = x;
        ne[dim] += y[dim];
        self.node(Op::Concat { dim }, &[a, b], ne, DType::F32)
    }

    /// `x` repeated to shape `ne`.
    pub fn repeat(&mut self, x: ValueId, ne: [usize; 4]) -> Result<ValueId> {
        let v = self.ne(x);
        self.expect_f32(x)?;
        if (0..4).any(|i| !repeats(v[i], ne[i])) {
            return Err(self.bad(x, &format!("cannot be repeated to {ne:?}")));
        }
        self.node(Op::Repeat, &[x], ne, DType::F32)
    }

    /// Sums of rows.
    pub fn sum_rows(&mut self, x: ValueId) -> Result<ValueId> {
        let ne = self.ne(x);
        self.expect_f32(x)?;
        self.node(Op::SumRows, &[x], [1, ne[1], ne[2], ne[3]], DType::F32)
    }

    /// Indices of the `k` largest elements of each row.
    pub fn top_k(&mut self, x: ValueId, k: usize) -> Result<ValueId> {
        let ne = self.ne(x);
        self.expect_f32(x)?;
        if k == 0 || k > ne[0] {
            return Err(self.bad(x, &format!("has no {k} largest elements")));
        }
        self.node(Op::TopK { k }, &[x], [k, ne[1], ne[2], ne[3]], DType::I32)
    }

    fn elementwise(&mut self, op: Op, x: ValueId) -> Result<ValueId> {
        self.expect_f32(x)?;
        let ne = self.ne(x);
        self.node(op, &[x], ne, DType::F32)
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], ne: [usize; 4], dtype: DType) -> Result<ValueId> {
        let nb = contiguous_strides(dtype, ne);
        let name = format!("node_{}", self.graph.values.len());
        Ok(self.push(name, dtype, ne, nb, Source::Node { op, inputs: inputs.to_vec() }))
    }

    fn push(&mut self, name: String, dtype: DType, ne: [usize; 4], nb: [usize; 4], source: Source) -> ValueId {
        let id = ValueId(self.graph.values.len() as u32);
        self.graph.values.push(Value { name, dtype, ne, nb, source });
        id
    }

    fn expect_f32(&self, x: ValueId) -> Result<()> {
        self.expect_type(x, DType::F32)
    }

    fn expect_i32(&self, x: ValueId) -> Result<()> {
        self.expect_type(x, DType::I32)
    }

    fn expect_type(&self, x: ValueId, dtype: DType) -> Result<()> {
        let found = self.graph.value(x).dtype;
        if found != dtype {
            return Err(self.bad(x, &format!("expected type {}, found {}", dtype.name(), found.name())));
        }
        Ok(())
    }

    fn bad(&self, x: ValueId, reason: &str) -> Error {
        let v = self.graph.value(x);
        Error::tensor(&v.name, format!("{reason} (type {}, shape {:?})", v.dtype.name(), v.ne))
    }
}

/// Whether rows of `of` elements repeat to rows of `to`: an empty dimension, as of a ubatch without outputs, only to itself.
fn repeats(of: usize, to: usize) -> bool {
    of == to || (of > 0 && to.is_multiple_of(of))
}
