//! Steps of a single node: what no pattern takes. Rows are collected into contiguous f32 and worked on one by one.

use super::linear::takes_blocks;
use super::{Needs, Part, Run, Worker, take_rows};
use crate::backend::cpu::act::{QuantizeRow, XBlock, x_blocks};
use crate::backend::cpu::elementwise::{BinaryRow, GluRow, Hadamard, RotateHeads, SoftMaxRow, UnaryRow};
use crate::backend::cpu::float_product::{FloatProduct, dot};
use crate::backend::cpu::kernels::Kernel;
use crate::backend::cpu::memory::Tensor;
use crate::backend::cpu::product::{Product, Sink, Weights};
use crate::backend::cpu::scratch::Scratch;
use crate::backend::cpu::simd::{Rows, Simd};
use crate::backend::cpu::threads::Member;
use crate::error::Error;
use crate::graph::{BinaryOp, Graph, Op, Source, ValueId};
use crate::quant::DType;

/// Weight rows of an item of a product with experts: enough that collecting the tokens of an expert costs little.
const EXPERT_ROWS: usize = 128;

/// Buffers for the inputs of products with experts.
pub fn needs(graph: &Graph, id: ValueId) -> Needs {
    match &graph.value(id).source {
        Source::Node { op: Op::MatMulId, inputs } => {
            let x = graph.value(inputs[1]);
            Needs { blocks: x.n_rows() * x_blocks(x.ne[0]), floats: x.n_elements() }
        }
        Source::Node { .. } | Source::Weight(_) | Source::State(_) | Source::Input(_) | Source::View { .. } => {
            Needs::default()
        }
    }
}

impl Run<'_> {
    /// This thread's part of a node.
    pub fn node(&self, m: &Member<'_>, worker: &mut Worker, id: ValueId) -> Part {
        let (op, inputs) = self.op(id)?;
        match *op {
            Op::MatMulId => return self.matmul_id(m, worker, id),
            Op::SetRows => return self.set_rows(m, worker, inputs),
            Op::MatMul => return self.matmul(m, worker, id),
            Op::TopK { k } => return self.top_k(m, worker, id, k),
            Op::GetRows
            | Op::Binary(_)
            | Op::AddId
            | Op::Scale { .. }
            | Op::Clamp { .. }
            | Op::Unary(_)
            | Op::Glu(_)
            | Op::Norm(_)
            | Op::SoftMax { .. }
            | Op::Rope(_)
            | Op::Hadamard { .. }
            | Op::Attention(_)
            | Op::Cont
            | Op::Concat { .. }
            | Op::Repeat
            | Op::SumRows => {}
        }
        let out = self.memory.tensor(id)?;
        let x = self.memory.tensor(inputs[0])?;
        let y = inputs.get(1).map(|&id| self.memory.tensor(id)).transpose()?;
        let longest = inputs.iter().map(|&id| self.memory.plan.graph.value(id).ne[0]).max().unwrap_or(0);
        let [a, b] = worker.rows.split([longest * 4; 2]);
        let (a, b): (&mut [f32], &mut [f32]) = (bytemuck::cast_slice_mut(a), bytemuck::cast_slice_mut(b));
        while let Some(rows) = take_rows(m, out.value.n_rows(), out.value.ne[0].max(x.value.ne[0])) {
            for i in rows {
                let at = out.row_at(i);
                if out.value.dtype == DType::I32 {
                    self.words_row(op, &x, y.as_ref(), &out, at)?;
                } else {
                    self.float_row(id, &x, y.as_ref(), &out, at, [&mut *a, &mut *b])?;
                }
            }
        }
        Ok(())
    }

    /// One row of a node of indices.
    fn words_row(&self, op: &Op, x: &Tensor<'_>, y: Option<&Tensor<'_>>, out: &Tensor<'_>, at: [usize; 3]) -> Part {
        let from = match (op, y) {
            (Op::GetRows, Some(ids)) => self.picked(x, ids, at)?,
            (Op::Cont, _) => at,
            _ => return Err(Error::tensor(&out.value.name, "expected numbers, found indices").into()),
        };
        // SAFETY: each row is taken once; operands are complete.
        let row = unsafe { out.bytes_mut(at, 0, 4 * out.value.ne[0]) };
        for (i, word) in row.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            // SAFETY: operands are complete.
            *word = unsafe { x.word(i, from) }.to_le_bytes();
        }
        Ok(())
    }

    /// One row of a node of numbers.
    fn float_row(
        &self,
        id: ValueId,
        x: &Tensor<'_>,
        y: Option<&Tensor<'_>>,
        out: &Tensor<'_>,
        at: [usize; 3],
        [a, b]: [&mut [f32]; 2],
    ) -> Part {
        let (op, inputs) = self.op(id)?;
        let missing = || self.unexpected(id);
        // SAFETY: each row of the result is taken once, and the results of earlier steps are complete.
        let result = unsafe { out.floats_mut(at) };
        // SAFETY: the results of earlier steps are complete.
        let row_of = |t: &Tensor<'_>, at, buffer: &mut [f32], out: &mut [f32]| unsafe {
            let n = t.value.ne[0];
            out[..n].copy_from_slice(self.row(t, at, &mut buffer[..n]));
        };
        match *op {
            Op::GetRows => row_of(x, self.picked(x, y.ok_or_else(missing)?, at)?, a, result),
            Op::Binary(op) => {
                let y = y.ok_or_else(missing)?;
                row_of(x, at, a, result);
                let ne = y.value.ne;
                let other = [at[0] % ne[1], at[1] % ne[2], at[2] % ne[3]];
                // SAFETY: the results of earlier steps are complete.
                let other = unsafe { self.row(y, other, &mut b[..ne[0]]) };
                self.isa.run(BinaryRow { op, a: result, b: other });
            }
            Op::AddId => {
                let ids = self.memory.tensor(inputs[2])?;
                let y = y.ok_or_else(missing)?;
                row_of(x, at, a, result);
                let row = self.index(&ids, at[0], [at[1], 0, 0], y, 1)?;
                // SAFETY: the results of earlier steps are complete.
                let other = unsafe { self.row(y, [row, 0, 0], &mut b[..y.value.ne[0]]) };
                self.isa.run(BinaryRow { op: BinaryOp::Add, a: result, b: other });
            }
            Op::Scale { scale, bias } => {
                row_of(x, at, a, result);
                result.iter_mut().for_each(|v| *v = *v * scale + bias);
            }
            Op::Clamp { min, max } => {
                row_of(x, at, a, result);
                result.iter_mut().for_each(|v| *v = v.max(min).min(max));
            }
            Op::Unary(op) => {
                row_of(x, at, a, result);
                self.isa.run(UnaryRow { op, x: result });
            }
            Op::Glu(op) => {
                let y = y.ok_or_else(missing)?;
                row_of(y, at, b, result);
                // SAFETY: the results of earlier steps are complete.
                let gate = unsafe { self.row(x, at, &mut a[..x.value.ne[0]]) };
                self.isa.run(GluRow { op, gate, up: result });
            }
            Op::Norm(_) => {
                let norm = self.weighted(id)?;
                // SAFETY: the results of earlier steps are complete.
                norm.run(self.isa, unsafe { self.row(x, at, &mut a[..x.value.ne[0]]) }, result);
            }
            Op::SoftMax { scale } => {
                row_of(x, at, a, result);
                self.isa.run(SoftMaxRow { scale, x: result });
            }
            Op::Rope(_) => {
                row_of(x, at, a, result);
                let (rope, sin, cos) = self.ropes.of(id, at[1]).ok_or_else(missing)?;
                self.isa.run(RotateHeads { kind: rope.kind, sin, cos, d: result.len(), x: result });
            }
            Op::Hadamard { n } => {
                row_of(x, at, a, result);
                self.isa.run(Hadamard { n, x: result });
            }
            Op::Cont => row_of(x, at, a, result),
            Op::Concat { dim } => {
                let y = y.ok_or_else(missing)?;
                if dim == 0 {
                    let (first, second) = result.split_at_mut(x.value.ne[0]);
                    row_of(x, at, a, first);
                    row_of(y, at, b, second);
                } else {
                    let (mut at, n) = (at, x.value.ne[dim]);
                    let source = if at[dim - 1] < n { x } else { y };
                    at[dim - 1] -= if at[dim - 1] < n { 0 } else { n };
                    row_of(source, at, a, result);
                }
            }
            Op::Repeat => {
                let ne = x.value.ne;
                // SAFETY: the results of earlier steps are complete.
                let row = unsafe { self.row(x, [at[0] % ne[1], at[1] % ne[2], at[2] % ne[3]], &mut a[..ne[0]]) };
                for out in result.chunks_exact_mut(ne[0]) {
                    out.copy_from_slice(row);
                }
            }
            Op::SumRows => {
                // SAFETY: the results of earlier steps are complete.
                let row = unsafe { self.row(x, at, &mut a[..x.value.ne[0]]) };
                result[0] = row.iter().map(|&v| f64::from(v)).sum::<f64>() as f32;
            }
            Op::MatMul | Op::MatMulId | Op::SetRows | Op::TopK { .. } | Op::Attention(_) => {
                return Err(missing().into());
            }
        }
        Ok(())
    }

    /// The row of a table that `ids` picks for a row of the result of [`Op::GetRows`].
    fn picked(&self, table: &Tensor<'_>, ids: &Tensor<'_>, at: [usize; 3]) -> Result<[usize; 3], Error> {
        let row = self.index(ids, at[0], [at[1], at[2], 0], table, 1)?;
        Ok([row, if table.value.ne[2] == 1 { 0 } else { at[1] }, 0])
    }

    /// An index that was computed or given, checked against dimension `dim` of `table`.
    fn index(
        &self,
        ids: &Tensor<'_>,
        i: usize,
        at: [usize; 3],
        table: &Tensor<'_>,
        dim: usize,
    ) -> Result<usize, Error> {
        // SAFETY: the results of earlier steps are complete.
        let id = unsafe { ids.word(i, at) } as i32;
        match usize::try_from(id) {
            Ok(id) if id < table.value.ne[dim] => Ok(id),
            _ => Err(Error::tensor(&table.value.name, format!("index {id} is outside of {:?}", table.value.ne))),
        }
    }

    fn top_k(&self, m: &Member<'_>, worker: &mut Worker, id: ValueId, k: usize) -> Part {
        let out = self.memory.tensor(id)?;
        let x = self.memory.tensor(self.op(id)?.1[0])?;
        let Worker { rows: buffers, slots: best, .. } = worker;
        let [buffer] = buffers.split([x.value.ne[0] * 4]);
        let buffer: &mut [f32] = bytemuck::cast_slice_mut(buffer);
        while let Some(rows) = take_rows(m, out.value.n_rows(), x.value.ne[0]) {
            for i in rows {
                let at = out.row_at(i);
                // SAFETY: operands are complete, and each row of the result is taken once.
                let (row, result) = unsafe { (self.row(&x, at, buffer), out.bytes_mut(at, 0, 4 * k)) };
                largest(row, k, best);
                result.copy_from_slice(bytemuck::cast_slice(best));
            }
        }
        Ok(())
    }

    fn set_rows(&self, m: &Member<'_>, worker: &mut Worker, inputs: &[ValueId]) -> Part {
        let [state, src, ids] = [inputs[0], inputs[1], inputs[2]].map(|id| self.memory.tensor(id));
        let (state, src, ids) = (state?, src?, ids?);
        let n = src.value.ne[0];
        let [buffer] = worker.rows.split([n * 4]);
        let buffer: &mut [f32] = bytemuck::cast_slice_mut(buffer);
        while let Some(rows) = take_rows(m, ids.value.ne[0], n) {
            for i in rows {
                // SAFETY: the results of earlier steps are complete.
                let row = unsafe { self.row(&src, [i, 0, 0], buffer) };
                self.write_row(&state, &ids, i, row)?;
            }
        }
        Ok(())
    }

    /// Products that are no linear layers: of computed matrices, of views, of batches.
    fn matmul(&self, m: &Member<'_>, worker: &mut Worker, id: ValueId) -> Part {
        struct Dot<'a>(&'a [f32], &'a [f32]);
        impl Kernel for Dot<'_> {
            type Out = f32;
            #[inline(always)]
            fn run<S: Simd>(self, s: S) -> f32 {
                dot(s, self.0, self.1)
            }
        }
        let inputs = self.op(id)?.1;
        let (w, x, out) = (self.memory.tensor(inputs[0])?, self.memory.tensor(inputs[1])?, self.memory.tensor(id)?);
        let (a, b) = (w.value.ne, x.value.ne);
        let [row, column] = worker.rows.split([a[0] * 4; 2]);
        let (row, column): (&mut [f32], &mut [f32]) = (bytemuck::cast_slice_mut(row), bytemuck::cast_slice_mut(column));
        // An item is one row of weights of one batch.
        while let Some(items) = take_rows(m, a[1] * b[2] * b[3], a[0] * b[1]) {
            for item in items {
                let (r, i2, i3) = (item % a[1], item / a[1] % b[2], item / a[1] / b[2]);
                // SAFETY: operands are complete.
                let weights = unsafe { self.row(&w, [r, i2 / (b[2] / a[2]), i3 / (b[3] / a[3])], row) };
                for t in 0..b[1] {
                    // SAFETY: operands are complete, and each element of the result is written once.
                    let (x, result) =
                        unsafe { (self.row(&x, [t, i2, i3], column), out.bytes_mut([t, i2, i3], 4 * r, 4)) };
                    result.copy_from_slice(&self.isa.run(Dot(weights, x)).to_le_bytes());
                }
            }
        }
        Ok(())
    }

    /// Products with chosen experts: all tokens of an expert together.
    fn matmul_id(&self, m: &Member<'_>, worker: &mut Worker, id: ValueId) -> Part {
        let inputs = self.op(id)?.1;
        let [w, x, ids] = [inputs[0], inputs[1], inputs[2]].map(|id| self.memory.tensor(id));
        let (w, x, ids, out) = (w?, x?, ids?, self.memory.tensor(id)?);
        let ([k, n_rows, n_expert, _], [_, x_used, n_tokens, _]) = (w.value.ne, x.value.ne);
        let n_used = ids.value.ne[0];
        // SAFETY: weights are constant; computed operands are complete.
        let data = unsafe { w.bytes() };
        let integer = takes_blocks(w.value, data.as_ptr() as usize);
        let n_blocks = if integer { x_blocks(k) } else { 0 };

        let [buffer] = worker.rows.split([k * 4]);
        let buffer: &mut [f32] = bytemuck::cast_slice_mut(buffer);
        while let Some(rows) = take_rows(m, x_used * n_tokens, k) {
            for i in rows {
                // SAFETY: operands are complete, and each row of the buffers is taken once.
                unsafe {
                    let row = self.row(&x, x.row_at(i), buffer);
                    if integer {
                        self.isa.run(QuantizeRow { x: row, blocks: self.blocks.write(i * n_blocks, n_blocks) });
                    } else {
                        self.floats.write(i * k, k).copy_from_slice(row);
                    }
                }
            }
        }
        // Every thread lists for itself which slots (token, place among its experts) go to which expert.
        let Worker { scratch, rows, slots } = worker;
        slots.clear();
        slots.resize(n_expert + 1 + n_used * n_tokens, 0);
        let (ends, slots) = slots.split_at_mut(n_expert + 1);
        for slot in 0..n_used * n_tokens {
            ends[self.index(&ids, slot % n_used, [slot / n_used, 0, 0], &w, 2)? + 1] += 1;
        }
        for e in 0..n_expert {
            ends[e + 1] += ends[e];
        }
        for slot in 0..n_used * n_tokens {
            let expert = self.index(&ids, slot % n_used, [slot / n_used, 0, 0], &w, 2)?;
            slots[ends[expert] as usize] = slot as u32;
            ends[expert] += 1;
        }
        m.barrier()?;

        let chunks = n_rows.div_ceil(EXPERT_ROWS);
        while let Some(item) = m.take(n_expert * chunks) {
            let (expert, chunk) = (item / chunks, item % chunks);
            // After the listing, `ends[e]` is where the slots of expert `e` end.
            let start = if expert == 0 { 0 } else { ends[expert - 1] as usize };
            let slots = &slots[start..ends[expert] as usize];
            if slots.is_empty() {
                continue;
            }
            let size = w.value.nb[2];
            let weights = Weights {
                dtype: w.value.dtype,
                data: &data[expert * size..][..w.value.dtype.row_size(k) * n_rows],
                k,
                m: n_rows,
            };
            let rows_of_item = chunk * EXPERT_ROWS..n_rows.min((chunk + 1) * EXPERT_ROWS);
            let sources = slots.iter().map(|&s| {
                let (token, used) = (s as usize / n_used, s as usize % n_used);
                token * x_used + used % x_used
            });
            let mut sink = Scatter { out, slots, n_used };
            self.expert(weights, rows_of_item, sources, integer, [scratch, rows], &mut sink);
        }
        Ok(())
    }

    /// Some rows of one expert times its tokens, which are collected side by side first.
    fn expert(
        &self,
        w: Weights<'_>,
        rows: std::ops::Range<usize>,
        sources: impl ExactSizeIterator<Item = usize>,
        integer: bool,
        [scratch, collected]: [&mut Scratch; 2],
        sink: &mut Scatter<'_>,
    ) {
        let (n, k, n_blocks) = (sources.len(), w.k, x_blocks(w.k));
        if integer {
            let [bytes] = collected.split([n * n_blocks * size_of::<XBlock>()]);
            let blocks: &mut [XBlock] = bytemuck::cast_slice_mut(bytes);
            for (to, from) in blocks.chunks_exact_mut(n_blocks).zip(sources) {
                // SAFETY: the blocks are complete since the barrier.
                to.copy_from_slice(unsafe { self.blocks.read(from * n_blocks, n_blocks) });
            }
            Product { w, rows, x: Rows::new(blocks, n_blocks, n_blocks, n), scratch, sink }.compute(self.isa);
        } else {
            let [bytes] = collected.split([n * k * 4]);
            let floats: &mut [f32] = bytemuck::cast_slice_mut(bytes);
            for (to, from) in floats.chunks_exact_mut(k).zip(sources) {
                // SAFETY: the rows are complete since the barrier.
                to.copy_from_slice(unsafe { self.floats.read(from * k, k) });
            }
            FloatProduct { w, rows, x: Rows::new(floats, k, k, n), scratch, sink }.compute(self.isa);
        }
    }
}

/// Indices of the `k` largest elements, the largest first; of equal ones the first.
fn largest(row: &[f32], k: usize, best: &mut Vec<u32>) {
    best.clear();
    for (i, v) in row.iter().enumerate() {
        let at = best.partition_point(|&b| row[b as usize].total_cmp(v).is_ge());
        if at < k {
            best.truncate(k - 1);
            best.insert(at, i as u32);
        }
    }
}

/// Puts the results of an expert to the slots that they belong to.
struct Scatter<'a> {
    out: Tensor<'a>,
    slots: &'a [u32],
    n_used: usize,
}

impl Sink for Scatter<'_> {
    fn put(&mut self, token: usize, row: usize, values: &[f32]) {
        let slot = self.slots[token] as usize;
        let at = [slot % self.n_used, slot / self.n_used, 0];
        // SAFETY: each slot belongs to one expert, and each product is put once.
        let out = unsafe { self.out.bytes_mut(at, 4 * row, 4 * values.len()) };
        out.copy_from_slice(bytemuck::cast_slice(values));
    }
}
