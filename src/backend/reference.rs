//! The plain backend: runs the unfused graph node by node in f32, weights dequantized exactly. Slow and obviously right;
//! every other backend and every kernel is compared with it. It also says, in code, what each [`Op`] means.

use super::{Backend, HostStates, Observer, Seen};
use crate::error::{Error, Result};
use crate::graph::plan::Plan;
use crate::graph::{
    Attention, BinaryOp, Graph, InputData, Inputs, Mask, Norm, NormKind, Op, Rope, RopeKind, Source, StateId, UnaryOp,
    Value, ValueId,
};
use crate::quant::{self, DType};
use rayon::prelude::*;

/// See the module.
#[derive(Default)]
pub struct Reference {
    states: HostStates,
}

impl Backend for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn alloc_state(&mut self, dtype: DType, ne: [usize; 4]) -> Result<StateId> {
        self.states.alloc(dtype, ne)
    }

    fn clear_state(&mut self, id: StateId) -> Result<()> {
        self.states.clear(id);
        Ok(())
    }

    fn read_state(&self, id: StateId, offset: usize, dst: &mut [u8]) -> Result<()> {
        self.states.read(id, offset, dst)
    }

    fn write_state(&mut self, id: StateId, offset: usize, src: &[u8]) -> Result<()> {
        self.states.write(id, offset, src)
    }

    fn copy_state(&mut self, id: StateId, from: usize, to: usize, len: usize) -> Result<()> {
        self.states.copy(id, from, to, len)
    }

    fn state_row_size(&self, id: StateId) -> usize {
        self.states.row_size(id)
    }

    fn state_size(&self) -> usize {
        self.states.size()
    }

    fn set_n_threads(&mut self, _n_threads: usize) {}

    fn run(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        self.observe(plan, inputs, outputs, stop, &mut |_, seen| matches!(seen, Seen::Begins | Seen::Shows(..)))
    }

    fn observe(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
        observer: &mut Observer,
    ) -> Result<()> {
        let graph = &plan.graph;
        let mut run = Run { graph, inputs, states: &mut self.states, results: vec![Data::None; graph.values.len()] };
        observer(graph, Seen::Begins);
        for id in graph.computed(&plan.live) {
            let wanted = observer(graph, Seen::Asks(id));
            let value = graph.value(id);
            if let Source::Node { op, inputs } = &value.source {
                if stop() {
                    return Err(Error::Aborted);
                }
                run.results[id.0 as usize] = run.node(op, inputs, value)?;
            }
            if wanted && !observer(graph, Seen::Shows(id, &|id| run.plain_bytes(id))) {
                return Ok(());
            }
        }
        for (id, out) in graph.outputs.iter().zip(outputs) {
            let Data::F32(result) = &run.results[id.0 as usize] else {
                return Err(Error::tensor(&graph.value(*id).name, "an output must be f32"));
            };
            if result.len() != out.len() {
                return Err(Error::Internal(format!("output of {} elements for {}", out.len(), result.len())));
            }
            out.copy_from_slice(result);
        }
        Ok(())
    }
}

/// The result of a node, contiguous.
#[derive(Clone)]
enum Data {
    None,
    F32(Vec<f32>),
    I32(Vec<i32>),
    /// The node's value is this state.
    State(StateId),
}

struct Run<'a> {
    graph: &'a Graph,
    inputs: &'a Inputs,
    states: &'a mut HostStates,
    results: Vec<Data>,
}

/// The bytes of a value, whatever it is.
enum Bytes<'a> {
    Raw(&'a [u8]),
    F32(&'a [f32]),
    I32(&'a [i32]),
}

impl Run<'_> {
    fn bytes(&self, id: ValueId) -> Result<Bytes<'_>> {
        let v = self.graph.value(id);
        let data = match &v.source {
            Source::Weight(w) => Bytes::Raw(w.bytes()),
            Source::State(s) => Bytes::Raw(self.states.bytes(*s)),
            Source::Input(input) => match self.inputs.get(*input) {
                InputData::F32(x) => Bytes::F32(x),
                InputData::I32(x) => Bytes::I32(x),
            },
            Source::Node { .. } => match &self.results[id.0 as usize] {
                Data::F32(x) => Bytes::F32(x),
                Data::I32(x) => Bytes::I32(x),
                Data::State(s) => Bytes::Raw(self.states.bytes(*s)),
                Data::None => return Err(Error::Internal(format!("{} is read before it is computed", v.name))),
            },
            Source::View { of, .. } => return self.bytes(*of),
        };
        let missing = match &data {
            Bytes::Raw(b) => b.len() < v.n_bytes(),
            Bytes::F32(x) => x.len() < v.n_elements(),
            Bytes::I32(x) => x.len() < v.n_elements(),
        };
        if missing {
            return Err(Error::tensor(&v.name, format!("its data is shorter than shape {:?}", v.ne)));
        }
        Ok(data)
    }

    /// The bytes of a value from its first element on, if it is there.
    fn plain_bytes(&self, id: ValueId) -> Option<&[u8]> {
        let bytes = match self.bytes(id).ok()? {
            Bytes::Raw(bytes) => bytes,
            Bytes::F32(x) => bytemuck::cast_slice(x),
            Bytes::I32(x) => bytemuck::cast_slice(x),
        };
        bytes.get(self.graph.resolve(id).1..)
    }

    /// Row `(i1, i2, i3)` of a value, dequantized.
    fn row(&self, id: ValueId, [i1, i2, i3]: [usize; 3]) -> Result<Vec<f32>> {
        let v = self.graph.value(id);
        let (_, base) = self.graph.resolve(id);
        let at = base + i1 * v.nb[1] + i2 * v.nb[2] + i3 * v.nb[3];
        let mut out = vec![0.0; v.ne[0]];
        match self.bytes(id)? {
            Bytes::Raw(b) => quant::dequantize(v.dtype, &b[at..at + v.dtype.row_size(v.ne[0])], &mut out)?,
            Bytes::F32(x) => out.iter_mut().enumerate().for_each(|(i, o)| *o = x[(at + i * v.nb[0]) / 4]),
            Bytes::I32(_) => return Err(Error::tensor(&v.name, "expected numbers, found indices")),
        }
        Ok(out)
    }

    /// All elements in the order of `ne`.
    fn f32s(&self, id: ValueId) -> Result<Vec<f32>> {
        let v = self.graph.value(id);
        let rows: Vec<Vec<f32>> = rows_of(v).map(|r| self.row(id, r)).collect::<Result<_>>()?;
        Ok(rows.concat())
    }

    fn i32s(&self, id: ValueId) -> Result<Vec<i32>> {
        let v = self.graph.value(id);
        let (_, base) = self.graph.resolve(id);
        let Bytes::I32(x) = self.bytes(id)? else { return Err(Error::tensor(&v.name, "expected indices")) };
        Ok(rows_of(v)
            .flat_map(|[i1, i2, i3]| {
                let at = base + i1 * v.nb[1] + i2 * v.nb[2] + i3 * v.nb[3];
                (0..v.ne[0]).map(move |i| x[(at + i * v.nb[0]) / 4])
            })
            .collect())
    }

    fn node(&mut self, op: &Op, inputs: &[ValueId], out: &Value) -> Result<Data> {
        let x = inputs[0];
        let ne = self.graph.value(x).ne;
        Ok(Data::F32(match *op {
            Op::GetRows => return self.get_rows(x, inputs[1], out),
            Op::MatMul => self.matmul(x, inputs[1], out)?,
            Op::MatMulId => self.matmul_id(x, inputs[1], inputs[2], out)?,
            Op::Binary(op) => {
                let f = match op {
                    BinaryOp::Add => |a, b| a + b,
                    BinaryOp::Sub => |a, b| a - b,
                    BinaryOp::Mul => |a: f32, b: f32| a * b,
                    BinaryOp::Div => |a, b| a / b,
                };
                let (mut a, b) = (self.f32s(x)?, self.f32s(inputs[1])?);
                let nb = self.graph.value(inputs[1]).ne;
                for (r, [i1, i2, i3]) in rows_of(self.graph.value(x)).enumerate() {
                    let other = ((i3 % nb[3] * nb[2] + i2 % nb[2]) * nb[1] + i1 % nb[1]) * nb[0];
                    for i in 0..ne[0] {
                        a[r * ne[0] + i] = f(a[r * ne[0] + i], b[other + i % nb[0]]);
                    }
                }
                a
            }
            Op::AddId => {
                let (mut a, ids) = (self.f32s(x)?, self.i32s(inputs[2])?);
                for (row, &id) in a.chunks_exact_mut(ne[0]).zip(&ids) {
                    let b = self.row(inputs[1], [self.index(id, inputs[1], 1)?, 0, 0])?;
                    row.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                }
                a
            }
            Op::Scale { scale, bias } => self.map(x, |v| v * scale + bias)?,
            Op::Clamp { min, max } => self.map(x, |v| v.max(min).min(max))?,
            Op::Unary(op) => self.map(x, |v| unary(op, v))?,
            Op::Glu(op) => {
                let (gate, up) = (self.f32s(x)?, self.f32s(inputs[1])?);
                gate.iter().zip(up).map(|(g, u)| unary(op.activation(), *g) * u).collect()
            }
            Op::Norm(norm) => {
                let mut rows = self.f32s(x)?;
                let weight = inputs.get(1).map(|&w| self.f32s(w)).transpose()?;
                let bias = inputs.get(2).map(|&b| self.f32s(b)).transpose()?;
                for row in rows.chunks_exact_mut(ne[0].max(1)) {
                    normalize(norm, row);
                    if let Some(w) = &weight {
                        row.iter_mut().zip(w).for_each(|(v, w)| *v *= w);
                    }
                    if let Some(b) = &bias {
                        row.iter_mut().zip(b).for_each(|(v, b)| *v += b);
                    }
                }
                rows
            }
            Op::SoftMax { scale } => {
                let mut rows = self.f32s(x)?;
                for row in rows.chunks_exact_mut(ne[0].max(1)) {
                    row.iter_mut().for_each(|v| *v *= scale);
                    soft_max(row, None);
                }
                rows
            }
            Op::Rope(rope) => {
                let (mut heads, pos) = (self.f32s(x)?, self.i32s(inputs[1])?);
                let factors = inputs.get(2).map(|&f| self.f32s(f)).transpose()?;
                for (head, row) in heads.chunks_exact_mut(ne[0]).enumerate() {
                    rotate(&rope, row, pos[head / ne[1]], factors.as_deref());
                }
                heads
            }
            Op::Hadamard { n } => {
                let mut rows = self.f32s(x)?;
                rows.chunks_exact_mut(n).for_each(hadamard);
                rows
            }
            Op::Attention(p) => self.attention(&p, inputs)?,
            Op::SetRows => return self.set_rows(x, inputs[1], inputs[2]),
            Op::Cont if out.dtype == DType::I32 => return Ok(Data::I32(self.i32s(x)?)),
            Op::Cont => self.f32s(x)?,
            Op::Concat { dim } => {
                let (a, b) = (self.f32s(x)?, self.f32s(inputs[1])?);
                let inner = |ne: [usize; 4]| ne[..=dim].iter().product::<usize>();
                let (na, nb) = (inner(ne), inner(self.graph.value(inputs[1]).ne));
                let outer: usize = ne[dim + 1..].iter().product();
                (0..outer).flat_map(|i| [&a[i * na..(i + 1) * na], &b[i * nb..(i + 1) * nb]].concat()).collect()
            }
            Op::Repeat => {
                let rows = rows_of(out).map(|[i1, i2, i3]| {
                    let row = self.row(x, [i1 % ne[1], i2 % ne[2], i3 % ne[3]])?;
                    Ok(row.iter().copied().cycle().take(out.ne[0]).collect())
                });
                rows.collect::<Result<Vec<Vec<f32>>>>()?.concat()
            }
            Op::SumRows => self.f32s(x)?.chunks_exact(ne[0].max(1)).map(|r| r.iter().sum()).collect(),
            Op::TopK { k } => {
                let rows = self.f32s(x)?;
                return Ok(Data::I32(rows.chunks_exact(ne[0]).flat_map(|row| largest(row, k)).collect()));
            }
        }))
    }

    fn map(&self, x: ValueId, f: impl Fn(f32) -> f32) -> Result<Vec<f32>> {
        Ok(self.f32s(x)?.into_iter().map(f).collect())
    }

    /// `i` as an index into dimension `dim` of `table`.
    fn index(&self, i: i32, table: ValueId, dim: usize) -> Result<usize> {
        let v = self.graph.value(table);
        match usize::try_from(i) {
            Ok(i) if i < v.ne[dim] => Ok(i),
            _ => Err(Error::tensor(&v.name, format!("index {i} is outside of {:?}", v.ne))),
        }
    }

    fn get_rows(&self, table: ValueId, ids: ValueId, out: &Value) -> Result<Data> {
        let shape = self.graph.value(ids).ne;
        let batches = self.graph.value(table).ne[2];
        let ids = self.i32s(ids)?;
        let at = |i: usize| -> Result<[usize; 3]> {
            Ok([self.index(ids[i], table, 1)?, if batches == 1 { 0 } else { i / shape[0] % shape[1] }, 0])
        };
        if out.dtype == DType::I32 {
            let (all, ne) = (self.i32s(table)?, self.graph.value(table).ne);
            let rows = (0..ids.len()).map(|i| at(i).map(|[r, b, _]| &all[(b * ne[1] + r) * ne[0]..][..ne[0]]));
            return Ok(Data::I32(rows.collect::<Result<Vec<_>>>()?.concat()));
        }
        let rows = (0..ids.len()).map(|i| self.row(table, at(i)?));
        Ok(Data::F32(rows.collect::<Result<Vec<_>>>()?.concat()))
    }

    fn matmul(&self, w: ValueId, x: ValueId, out: &Value) -> Result<Vec<f32>> {
        let (a, b) = (self.graph.value(w), self.graph.value(x));
        let (k, m, n) = (a.ne[0], a.ne[1], b.ne[1]);
        let xs = self.f32s(x)?;
        let mut result = vec![0.0; out.n_elements()];
        for i3 in 0..b.ne[3] {
            for i2 in 0..b.ne[2] {
                let batch = i3 * b.ne[2] + i2;
                let of = [i2 / (b.ne[2] / a.ne[2]), i3 / (b.ne[3] / a.ne[3])];
                // Column by column of the result's transpose, so that each weight row is dequantized once.
                let columns: Vec<Vec<f32>> = (0..m)
                    .into_par_iter()
                    .map(|row| {
                        let weights = self.row(w, [row, of[0], of[1]])?;
                        Ok((0..n).map(|t| dot(&weights, &xs[(batch * n + t) * k..][..k])).collect())
                    })
                    .collect::<Result<_>>()?;
                for (row, column) in columns.iter().enumerate() {
                    for (t, v) in column.iter().enumerate() {
                        result[(batch * n + t) * m + row] = *v;
                    }
                }
            }
        }
        Ok(result)
    }

    fn matmul_id(&self, w: ValueId, x: ValueId, ids: ValueId, out: &Value) -> Result<Vec<f32>> {
        let (a, b) = (self.graph.value(w).ne, self.graph.value(x).ne);
        let (xs, ids) = (self.f32s(x)?, self.i32s(ids)?);
        let n_used = out.ne[1];
        let slots: Vec<Vec<f32>> = ids
            .par_iter()
            .enumerate()
            .map(|(slot, &id)| {
                let expert = self.index(id, w, 2)?;
                let (token, used) = (slot / n_used, slot % n_used);
                let input = &xs[(token * b[1] + used % b[1]) * b[0]..][..b[0]];
                (0..a[1]).map(|row| Ok(dot(&self.row(w, [row, expert, 0])?, input))).collect()
            })
            .collect::<Result<_>>()?;
        Ok(slots.concat())
    }

    fn set_rows(&mut self, state: ValueId, src: ValueId, ids: ValueId) -> Result<Data> {
        let Source::State(id) = self.graph.value(state).source else {
            return Err(Error::tensor(&self.graph.value(state).name, "rows can only be stored in a state"));
        };
        let v = self.graph.value(state).clone();
        let ids = self.i32s(ids)?;
        for (i, &row) in ids.iter().enumerate() {
            let (row, x) = (self.index(row, state, 1)?, self.row(src, [i, 0, 0])?);
            quant::quantize(v.dtype, &x, &mut self.states.bytes_mut(id)[row * v.nb[1]..][..v.dtype.row_size(v.ne[0])])?;
        }
        Ok(Data::State(id))
    }

    fn attention(&self, p: &Attention, inputs: &[ValueId]) -> Result<Vec<f32>> {
        let [q, k, v] = [inputs[0], inputs[1], inputs[2]].map(|id| self.graph.value(id));
        let (n_head, n_tokens, group) = (q.ne[1], q.ne[2], q.ne[1] / k.ne[1]);
        let mask = self.inputs.mask(p.mask).ok_or_else(|| Error::Internal("attention without a mask".into()))?;
        if mask.rows.len() != n_tokens || mask.rows.iter().any(|r| r.end as usize > k.ne[2]) {
            return Err(Error::Internal(format!("mask of {} rows for {n_tokens} tokens", mask.rows.len())));
        }
        let sinks = inputs.get(3).map(|&s| self.f32s(s)).transpose()?;
        let heads: Vec<Vec<f32>> = (0..n_tokens * n_head)
            .into_par_iter()
            .map(|i| {
                let (t, h) = (i / n_head, i % n_head);
                let query = self.row(inputs[0], [h, t, 0])?;
                let visible: Vec<u32> =
                    (mask.rows[t].start..mask.rows[t].end).filter(|&row| mask.visible(t, row)).collect();
                let mut scores = Vec::with_capacity(visible.len());
                for &row in &visible {
                    let key = self.row(inputs[1], [h / group, row as usize, 0])?;
                    let mut s = dot(&query, &key) * p.scale;
                    if p.soft_cap > 0.0 {
                        s = p.soft_cap * (s / p.soft_cap).tanh();
                    }
                    scores.push(s + alibi(p.max_alibi_bias, h, n_head, mask, t, row));
                }
                soft_max(&mut scores, sinks.as_ref().map(|s| s[h]));
                let mut out = vec![0.0; v.ne[0]];
                for (&row, weight) in visible.iter().zip(&scores) {
                    let value = self.row(inputs[2], [h / group, row as usize, 0])?;
                    out.iter_mut().zip(value).for_each(|(o, v)| *o += weight * v);
                }
                Ok(out)
            })
            .collect::<Result<_>>()?;
        Ok(heads.concat())
    }
}

/// All `(i1, i2, i3)` of a value, innermost first.
fn rows_of(v: &Value) -> impl Iterator<Item = [usize; 3]> + use<> {
    let ne = v.ne;
    (0..ne[3]).flat_map(move |i3| (0..ne[2]).flat_map(move |i2| (0..ne[1]).map(move |i1| [i1, i2, i3])))
}

/// Sixteen partial sums: the compiler makes vectors of them, and rounding stays far below that of quantization.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a16.remainder().iter().zip(b16.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a16.zip(b16) {
        for i in 0..16 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// Indices of the `k` largest elements, descending; of equal ones the first comes first.
fn largest(row: &[f32], k: usize) -> Vec<i32> {
    let mut ids: Vec<i32> = (0..row.len() as i32).collect();
    ids.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
    ids.truncate(k);
    ids
}

/// Softmax; a sink takes part in the sum and has no output.
fn soft_max(row: &mut [f32], sink: Option<f32>) {
    let max = row.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        row.fill(0.0);
        return;
    }
    row.iter_mut().for_each(|v| *v = (*v - max).exp());
    let sum = row.iter().map(|&v| v as f64).sum::<f64>() + sink.map_or(0.0, |s| ((s - max) as f64).exp());
    row.iter_mut().for_each(|v| *v = (*v as f64 / sum) as f32);
}

/// What a distance adds to a score (Press et al. 2021, arXiv 2108.12409).
fn alibi(max_bias: f32, head: usize, n_head: usize, mask: &Mask, t: usize, row: u32) -> f32 {
    if max_bias <= 0.0 {
        return 0.0;
    }
    let distance = (mask.kv_pos[row as usize] - mask.q_pos[t]).unsigned_abs() as f32;
    -distance * alibi_slope(max_bias, head, n_head)
}

/// The slope of a head: powers of two roots of `2^-max_bias`, for head counts that are no power of two the odd ones between.
pub fn alibi_slope(max_bias: f32, head: usize, n_head: usize) -> f32 {
    let n = 1usize << n_head.ilog2();
    if head < n {
        (-max_bias / n as f32).exp2().powi(head as i32 + 1)
    } else {
        (-max_bias / 2.0 / n as f32).exp2().powi(2 * (head - n) as i32 + 1)
    }
}

fn normalize(norm: Norm, row: &mut [f32]) {
    let n = row.len() as f64;
    let squares = |row: &[f32]| row.iter().map(|&v| v as f64 * v as f64).sum::<f64>();
    let scale = match norm.kind {
        NormKind::Rms => 1.0 / (squares(row) / n + norm.eps as f64).sqrt(),
        NormKind::L2 => 1.0 / squares(row).sqrt().max(norm.eps as f64),
        NormKind::Layer => {
            let mean = (row.iter().map(|&v| v as f64).sum::<f64>() / n) as f32;
            row.iter_mut().for_each(|v| *v -= mean);
            1.0 / (squares(row) / n + norm.eps as f64).sqrt()
        }
    };
    row.iter_mut().for_each(|v| *v = (*v as f64 * scale) as f32);
}

/// Rotates one head in place (Su et al. 2021, arXiv 2104.09864).
fn rotate(rope: &Rope, head: &mut [f32], pos: i32, factors: Option<&[f32]>) {
    for pair in 0..rope.n_dims / 2 {
        let (sin, cos) = rope.sin_cos(pair, pos, factors.map_or(1.0, |f| f[pair]));
        let (a, b) = match rope.kind {
            RopeKind::Norm => (2 * pair, 2 * pair + 1),
            RopeKind::Neox => (pair, pair + rope.n_dims / 2),
        };
        let (x, y) = (head[a], head[b]);
        head[a] = x * cos - y * sin;
        head[b] = x * sin + y * cos;
    }
}

/// The transform by its definition: element `(i, j)` of the matrix is `(-1)^popcount(i & j) / sqrt(n)`.
fn hadamard(x: &mut [f32]) {
    let scale = 1.0 / (x.len() as f64).sqrt();
    let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { scale } else { -scale };
    let y: Vec<f32> =
        (0..x.len()).map(|i| x.iter().enumerate().map(|(j, &v)| sign(i, j) * v as f64).sum::<f64>() as f32).collect();
    x.copy_from_slice(&y);
}

/// An elementwise function.
pub fn unary(op: UnaryOp, x: f32) -> f32 {
    match op {
        UnaryOp::Silu => x / (1.0 + (-x).exp()),
        UnaryOp::Gelu => 0.5 * x * (1.0 + ((2.0 / std::f32::consts::PI).sqrt() * x * (1.0 + 0.044715 * x * x)).tanh()),
        UnaryOp::GeluErf => (0.5 * x as f64 * (1.0 + erf(x as f64 / std::f64::consts::SQRT_2))) as f32,
        UnaryOp::GeluQuick => x / (1.0 + (-1.702 * x).exp()),
        UnaryOp::Relu => x.max(0.0),
        UnaryOp::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Softplus => {
            if x > 20.0 {
                x
            } else {
                x.exp().ln_1p()
            }
        }
        UnaryOp::Sqr => x * x,
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Neg => -x,
    }
}

/// The error function, within 1.2e-7 (Numerical Recipes, `erfc` by a Chebyshev fit).
fn erf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.5 * x.abs());
    let poly = [
        -1.26551223,
        1.00002368,
        0.37409196,
        0.09678418,
        -0.18628806,
        0.27886807,
        -1.13520398,
        1.48851587,
        -0.82215223,
        0.17087277,
    ];
    let sum = poly.iter().rev().fold(0.0, |acc, c| acc * t + c);
    let erfc = t * (-x * x + sum).exp();
    if x >= 0.0 { 1.0 - erfc } else { erfc - 1.0 }
}
