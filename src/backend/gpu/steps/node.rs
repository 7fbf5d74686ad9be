//! Steps of a single node.

use super::attention::{How, Job, Shape, To};
use super::*;
use crate::graph::{BinaryOp, Norm, NormKind};

/// `elementwise.wgsl`.
const COPY: u32 = 9;
const GET_ROWS: u32 = 11;

/// `rows.wgsl`.
const SOFT_MAX: u32 = 3;
const SUM: u32 = 4;
const TOP_K: u32 = 5;

/// Most elements of a head that `heads.wgsl` has memory for.
pub(super) const MAX_HEAD: usize = 1024;

impl Compiler<'_> {
    pub(super) fn node(&mut self, id: ValueId) -> Result<()> {
        let (op, inputs) = self.op(id)?;
        match *op {
            Op::GetRows => self.get_rows(id, inputs),
            Op::MatMul => self.elementwise(id, 12, inputs, 0, [0.0; 2], 0),
            Op::MatMulId => self.matmul_id(id),
            Op::Binary(op) => {
                let number = match op {
                    BinaryOp::Add => 0,
                    BinaryOp::Sub => 1,
                    BinaryOp::Mul => 2,
                    BinaryOp::Div => 3,
                };
                self.elementwise(id, number, inputs, 0, [0.0; 2], 0)
            }
            Op::AddId => self.elementwise(id, 4, inputs, 0, [0.0; 2], 0),
            Op::Scale { scale, bias } => self.elementwise(id, 5, inputs, 0, [scale, bias], 0),
            Op::Clamp { min, max } => {
                self.elementwise(id, 6, inputs, 0, [min.clamp(f32::MIN, f32::MAX), max.clamp(f32::MIN, f32::MAX)], 0)
            }
            Op::Unary(op) => self.elementwise(id, 7, inputs, activation(Some(op)), [0.0; 2], 0),
            Op::Glu(op) => self.elementwise(id, 8, inputs, activation(Some(op.activation())), [0.0; 2], 0),
            Op::Norm(_) => self.norm(id, None, id),
            Op::SoftMax { scale } => self.rows(id, SOFT_MAX, scale, 0),
            Op::Rope(_) | Op::Hadamard { .. } => self.head_node(id),
            Op::Attention(_) => Err(Error::Internal("an attention that is no step of its own".into())),
            Op::SetRows => self.set_rows(id, inputs),
            Op::Cont if matches!(self.locate(inputs[0], 0)?, Location::State(..)) => self.fetch(id, inputs[0]),
            Op::Cont | Op::Repeat => self.elementwise(id, COPY, inputs, 0, [0.0; 2], 0),
            Op::Concat { dim } => self.elementwise(id, 10, inputs, 0, [0.0; 2], dim as u32),
            Op::SumRows => self.rows(id, SUM, 1.0, 0),
            Op::TopK { k } => self.rows(id, TOP_K, 1.0, k as u32),
        }
    }

    fn elementwise(
        &mut self,
        id: ValueId,
        number: u32,
        inputs: &[ValueId],
        act: u32,
        x: [f32; 2],
        dim: u32,
    ) -> Result<()> {
        let mut bindings = Bindings::default();
        let mut operands = [None; 3];
        for (to, &input) in operands.iter_mut().zip(inputs) {
            *to = Some(self.operand(input, &mut bindings)?);
        }
        let out = self.value(id);
        let (to, n) = (self.result(id)?, out.n_elements());
        let params = Params::default()
            .tensor(operands[0])
            .tensor(operands[1])
            .tensor(operands[2])
            .u(&shape(out.ne)?)
            .u(&[to, word(n)?, act, dim])
            .f(&[x[0], x[1], 0.0, 0.0]);
        let kernel = Kernel::plain("elementwise", &[constant("OP", number)]);
        self.add(kernel, bindings, params, grid_of(n.div_ceil(256)))
    }

    /// `act(gate) * up` of two contiguous results.
    pub(super) fn glu(&mut self, gate: usize, up: usize, to: u32, n: usize, act: u32) -> Result<()> {
        let operand = |at: usize| {
            Ok::<_, Error>(Operand { space: ARENA, at: word(at)?, ne: [word(n)?, 1, 1, 1], nb: [1, 0, 0, 0] })
        };
        let params = Params::default()
            .tensor(Some(operand(gate)?))
            .tensor(Some(operand(up)?))
            .tensor(None)
            .u(&[word(n)?, 1, 1, 1])
            .u(&[to, word(n)?, act, 0])
            .f(&[0.0; 4]);
        let kernel = Kernel::plain("elementwise", &[constant("OP", 8)]);
        self.add(kernel, Bindings::default(), params, grid_of(n.div_ceil(256)))
    }

    fn get_rows(&mut self, id: ValueId, inputs: &[ValueId]) -> Result<()> {
        let (table, ids) = (self.value(inputs[0]), self.value(inputs[1]));
        let Source::Weight(w) = &table.source else {
            return self.elementwise(id, GET_ROWS, inputs, 0, [0.0; 2], 0);
        };
        if table.ne[2] != 1 || table.ne[0] < 4 {
            return self.elementwise(id, GET_ROWS, inputs, 0, [0.0; 2], 0);
        }
        let (n, k, at) = (ids.n_elements(), table.ne[0], self.contiguous(inputs[1])?);
        let resident = self.weights_of(w).matrix(w)?;
        for part in &resident.parts {
            let params = Params::default()
                .u(&part.planes)
                .u(&[word(resident.blocks)?, word(part.rows)?, 0, 0, 0, 0, 0, 0])
                .u(&[word(k)?, word(part.first)?, at, self.result(id)?]);
            let kernel = Kernel { format: Some(resident.dtype), ..Kernel::plain("get_rows", &[]) };
            let bindings = Bindings { weights: Bound::Buffer(part.buffer.clone()), ..Bindings::default() };
            self.add(kernel, bindings, params, [k.div_ceil(256), n, 1])?;
        }
        Ok(())
    }

    /// A norm, with a residual added if there is one.
    pub(super) fn norm(&mut self, norm: ValueId, residual: Option<ValueId>, out: ValueId) -> Result<()> {
        let to = self.result(out)?;
        let residual = residual.map(|r| self.contiguous(r)).transpose()?;
        self.norm_to(norm, residual, to)
    }

    /// The same with a result that is no value.
    pub(super) fn norm_to(&mut self, norm: ValueId, residual: Option<u32>, to: u32) -> Result<()> {
        let (op, inputs) = self.op(norm)?;
        let Op::Norm(Norm { kind, eps }) = *op else {
            return Err(Error::Internal(format!("{} is no norm", self.value(norm).name)));
        };
        let number = match kind {
            NormKind::Rms => 0,
            NormKind::Layer => 1,
            NormKind::L2 => 2,
        };
        let mut bindings = Bindings::default();
        let x = self.operand(inputs[0], &mut bindings)?;
        let mut affine = [0; 4];
        for (i, &input) in inputs[1..].iter().enumerate() {
            let w = self.operand(input, &mut bindings)?;
            (affine[2 * i], affine[2 * i + 1]) = (w.at + 1, w.space);
        }
        let params = Params::default()
            .u(&x.ne)
            .u(&x.nb)
            .u(&[x.at, x.space, to, 0])
            .u(&affine)
            .u(&[residual.map_or(0, |r| r + 1), 0, 0, 0])
            .f(&[eps, 1.0, 0.0, 0.0]);
        let kernel = Kernel::plain("rows", &[constant("OP", number)]);
        self.add(kernel, bindings, params, grid_of(self.value(inputs[0]).n_rows()))
    }

    fn rows(&mut self, id: ValueId, number: u32, scale: f32, k: u32) -> Result<()> {
        let (_, inputs) = self.op(id)?;
        let mut bindings = Bindings::default();
        let x = self.operand(inputs[0], &mut bindings)?;
        let params = Params::default()
            .u(&x.ne)
            .u(&x.nb)
            .u(&[x.at, x.space, self.result(id)?, k])
            .u(&[0; 8])
            .f(&[0.0, scale, 0.0, 0.0]);
        let kernel = Kernel::plain("rows", &[constant("OP", number)]);
        self.add(kernel, bindings, params, grid_of(self.value(inputs[0]).n_rows()))
    }

    /// All of a state's rows as f32.
    fn fetch(&mut self, id: ValueId, from: ValueId) -> Result<()> {
        let v = self.value(from);
        let Location::State(state, offset) = self.locate(from, 0)? else {
            return Err(Error::Internal(format!("{} is no state", v.name)));
        };
        if !v.is_contiguous() || !v.ne[0].is_multiple_of(4) {
            return Err(Error::Unsupported(format!("a part of {} on a GPU", v.name)));
        }
        let s = &self.target.states[state.0 as usize];
        let first = offset / s.dtype.type_size() * s.dtype.block_size();
        let n = v.n_elements();
        let params = Params::default().u(&[word(n)?, word(first)?, self.result(id)?, s.scales()]);
        let kernel = Kernel::plain("fetch", &[constant("K_TYPE", state_type(s.dtype)?)]);
        let bindings = Bindings { state: Bound::Buffer(s.buffer.clone()), ..Bindings::default() };
        self.add(kernel, bindings, params, grid_of(n.div_ceil(256)))
    }

    /// Rows into a state, as heads of a size that the kernel has memory for.
    fn set_rows(&mut self, id: ValueId, inputs: &[ValueId]) -> Result<()> {
        let (source, shape) = self.rows_as_heads(id, inputs)?;
        self.heads(&Job { how: How::default(), source, shape, to: To::State(id) })
    }

    /// The rows that a node stores, cut into heads.
    pub(super) fn rows_as_heads(&self, id: ValueId, inputs: &[ValueId]) -> Result<(Operand, Shape)> {
        let x = self.value(inputs[1]);
        let n = x.ne[0];
        let quantized = self.value(id).dtype.is_quantized();
        let step = if quantized { 32 } else { 2 };
        let head = (1..=n.min(MAX_HEAD)).rev().find(|h| n.is_multiple_of(*h) && h.is_multiple_of(step));
        let head = head.ok_or_else(|| Error::Unsupported(format!("rows of {n} in a state on a GPU")))?;
        let mut source = self.operand(inputs[1], &mut Bindings::default())?;
        source.nb = [source.nb[0], source.nb[0] * word(head)?, source.nb[1], 0];
        Ok((source, Shape { d: head, n_head: n / head, n_tokens: x.ne[1] }))
    }

    /// A rotation or a transform by itself.
    fn head_node(&mut self, id: ValueId) -> Result<()> {
        let (op, inputs) = self.op(id)?;
        let v = self.value(id);
        let source = self.operand(inputs[0], &mut Bindings::default())?;
        let mut how = How::default();
        let (source, shape) = match op {
            Op::Rope(_) => {
                how.rope = Some(id);
                (source, Shape { d: v.ne[0], n_head: v.ne[1], n_tokens: v.ne[2] })
            }
            _ => {
                // Rows may be longer than a head; what is mixed is not.
                let Op::Hadamard { n } = *op else { return Err(Error::Internal("no transform".into())) };
                how.hadamard = Some(id);
                if !self.value(inputs[0]).is_contiguous() || n > MAX_HEAD {
                    return Err(Error::Unsupported(format!("transform of {} on a GPU", v.name)));
                }
                let d = word(n)?;
                let per_row = v.ne[0] / n;
                let source = Operand { nb: [1, d, d * word(per_row)?, 0], ..source };
                (source, Shape { d: n, n_head: per_row, n_tokens: v.n_rows() })
            }
        };
        let to = self.result(id)?;
        self.heads(&Job { how, source, shape, to: To::Arena(to) })
    }
}
