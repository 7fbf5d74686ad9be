//! Linear layers: norm and quantization of the input, then the products with what follows them.

use super::{Leave, Needs, Part, Run, Worker};
use crate::backend::cpu::act::{QuantizeRow, X_GROUP, XBlock, x_blocks};
use crate::backend::cpu::elementwise::{GluRow, UnaryRow};
use crate::backend::cpu::float_product::FloatProduct;
use crate::backend::cpu::formats::has_integer_kernels;
use crate::backend::cpu::kernels::Isa;
use crate::backend::cpu::memory::Tensor;
use crate::backend::cpu::product::{Product, Sink, Weights, panel_tokens};
use crate::backend::cpu::scratch::Scratch;
use crate::backend::cpu::simd::{PANEL_ROWS, Rows};
use crate::backend::cpu::threads::Member;
use crate::error::Error;
use crate::graph::fuse::{Linear, Mat};
use crate::graph::{GluOp, Graph, Op, UnaryOp, Value};
use std::ops::Range;

/// Tokens from which multiplying takes far longer than reading.
const MANY_TOKENS: usize = 48;

/// Bytes of weights per item when one token is computed, which memory bounds: long streams are read faster, as the hardware
/// fetches ahead in each of them.
const STREAM_BYTES: usize = 256 << 10;
/// Bytes of weights per item when few tokens are computed.
const ITEM_BYTES: usize = 128 << 10;

/// Whether a weight is multiplied by integer kernels.
pub fn takes_blocks(w: &Value, address: usize) -> bool {
    // A file may have been written with an alignment that the blocks' f16 scales do not like.
    has_integer_kernels(w.dtype) && address.is_multiple_of(2) && w.ne[0].is_multiple_of(X_GROUP)
}

/// Buffers for the input of a step.
pub fn needs(graph: &Graph, l: &Linear) -> Needs {
    let [k, n, ..] = graph.value(graph_input(l)).ne;
    Needs { blocks: n * x_blocks(k), floats: n * k }
}

fn graph_input(l: &Linear) -> crate::graph::ValueId {
    l.norm.unwrap_or(l.x)
}

/// A linear layer's input in the forms that its weights take.
#[derive(Clone, Copy)]
pub struct Activations<'a> {
    /// For integer kernels; no rows if none takes them.
    pub blocks: Rows<'a, XBlock>,
    /// For the others.
    pub floats: Rows<'a, f32>,
}

impl Run<'_> {
    /// `[norm] → products → [bias] → [activation | gate | residual]`.
    pub fn linear(&self, m: &Member<'_>, worker: &mut Worker, l: &Linear) -> Part {
        let mats = l.mats.iter().map(|mat| self.mat(mat));
        let (mut any_blocks, mut any_floats) = (false, false);
        for mat in mats.clone() {
            *(if mat?.takes_blocks { &mut any_blocks } else { &mut any_floats }) = true;
        }
        let x = self.memory.tensor(l.x)?;
        let [k, n, ..] = x.value.ne;
        let norm = l.norm.map(|id| self.weighted(id)).transpose()?;
        let norm = norm.as_ref();
        let n_blocks = if any_blocks { x_blocks(k) } else { 0 };

        // One token is prepared by every thread for itself, which is quicker than to wait for another.
        let [own_blocks, own_floats, gate] =
            worker.rows.split([n_blocks * size_of::<XBlock>(), k * 4, gate_size(l, n)]);
        let own_blocks: &mut [XBlock] = bytemuck::cast_slice_mut(own_blocks);
        let own_floats: &mut [f32] = bytemuck::cast_slice_mut(own_floats);
        let gate: &mut [f32] = bytemuck::cast_slice_mut(gate);
        let acts = if n == 1 {
            // SAFETY: results of earlier steps are complete.
            let row = unsafe { x.floats([0; 3]) };
            let row = match norm {
                Some(norm) => {
                    norm.run(self.isa, row, own_floats);
                    &*own_floats
                }
                None => row,
            };
            if any_blocks {
                self.isa.run(QuantizeRow { x: row, blocks: own_blocks });
            }
            Activations { blocks: Rows::new(own_blocks, n_blocks, n_blocks, 1), floats: Rows::new(row, k, k, 1) }
        } else {
            while let Some(tokens) = super::take_rows(m, n, k) {
                for t in tokens {
                    // SAFETY: results of earlier steps are complete.
                    let row = unsafe { x.floats([t, 0, 0]) };
                    let row = match norm {
                        Some(norm) => {
                            let out = if any_floats {
                                // SAFETY: each token is taken once.
                                unsafe { self.floats.write(t * k, k) }
                            } else {
                                &mut *own_floats
                            };
                            norm.run(self.isa, row, out);
                            &*out
                        }
                        None => row,
                    };
                    if any_blocks {
                        // SAFETY: each token is taken once.
                        let blocks = unsafe { self.blocks.write(t * n_blocks, n_blocks) };
                        self.isa.run(QuantizeRow { x: row, blocks });
                    }
                }
            }
            m.barrier()?;
            // SAFETY: complete, and not written again before the next step.
            let (blocks, floats) = unsafe {
                let floats = match norm {
                    Some(_) if any_floats => self.floats.read(0, n * k),
                    Some(_) => &[],
                    None => bytemuck::cast_slice(&x.bytes()[..4 * n * k]),
                };
                (self.blocks.read(0, n * n_blocks), floats)
            };
            let n_floats = if floats.is_empty() { 0 } else { n };
            Activations { blocks: Rows::new(blocks, n_blocks, n_blocks, n), floats: Rows::new(floats, k, k, n_floats) }
        };
        match l.glu {
            Some(id) => {
                let &Op::Glu(op) = self.op(id)?.0 else { return Err(self.unexpected(id).into()) };
                let [gate_mat, up] = &l.mats[..] else { return Err(self.unexpected(id).into()) };
                let out = self.memory.tensor(id)?;
                self.gated(m, &mut worker.scratch, op, [self.mat(gate_mat)?, self.mat(up)?], acts, gate, out)
            }
            None => self.products(m, &mut worker.scratch, l, acts, n),
        }
    }

    /// Products that do not depend on each other.
    fn products(&self, m: &Member<'_>, scratch: &mut Scratch, l: &Linear, acts: Activations<'_>, n: usize) -> Part {
        let mut n_items = 0;
        for mat in &l.mats {
            n_items += self.mat(mat)?.split(self.isa, n, m.n_threads()).n_items();
        }
        while let Some(mut item) = m.take(n_items) {
            for mat in &l.mats {
                let operands = self.mat(mat)?;
                let split = operands.split(self.isa, n, m.n_threads());
                if item >= split.n_items() {
                    item -= split.n_items();
                    continue;
                }
                let (rows, tokens) = split.item(item);
                let mut sink =
                    Finish { operands, out: self.memory.tensor(mat.out)?, isa: self.isa, first: tokens.start };
                multiply(self.isa, &operands, rows, acts, tokens, scratch, &mut sink);
                break;
            }
        }
        Ok(())
    }

    /// `act(gate) * up`, both by the same thread, a few rows at a time.
    #[allow(clippy::too_many_arguments)] // the parts of one step
    fn gated(
        &self,
        m: &Member<'_>,
        scratch: &mut Scratch,
        op: GluOp,
        [gate, up]: [Operands<'_>; 2],
        acts: Activations<'_>,
        buffer: &mut [f32],
        out: Tensor<'_>,
    ) -> Part {
        let n = out.value.ne[1];
        let split = gate.split(self.isa, n, m.n_threads());
        if up.w.m != gate.w.m {
            return Err(Leave::Failed(Error::tensor(&out.value.name, "gate and up differ in shape")));
        }
        while let Some(item) = m.take(split.n_items()) {
            let (rows, tokens) = split.item(item);
            let (width, from) = (rows.len(), rows.start);
            let mut keep = Keep { bias: gate.bias, buffer: &mut *buffer, from, width };
            multiply(self.isa, &gate, rows.clone(), acts, tokens.clone(), scratch, &mut keep);
            let mut sink =
                Gate { op, bias: up.bias, gate: buffer, from, width, out, isa: self.isa, first: tokens.start };
            multiply(self.isa, &up, rows, acts, tokens, scratch, &mut sink);
        }
        Ok(())
    }

    /// The operands of a product.
    fn mat(&self, mat: &Mat) -> Result<Operands<'_>, Error> {
        let w = self.memory.tensor(mat.w)?;
        // SAFETY: weights are constant.
        let data = unsafe { w.bytes() };
        let bias = match mat.bias {
            // SAFETY: weights are constant.
            Some(id) => Some(unsafe { self.memory.tensor(id)?.floats([0; 3]) }),
            None => None,
        };
        let act = match mat.act {
            Some(id) => match self.op(id)?.0 {
                Op::Unary(op) => Some(*op),
                _ => return Err(self.unexpected(id)),
            },
            None => None,
        };
        let residual = mat.residual.map(|id| self.memory.tensor(id)).transpose()?;
        Ok(Operands {
            w: Weights { dtype: w.value.dtype, data: &data[..w.value.n_bytes()], k: w.value.ne[0], m: w.value.ne[1] },
            takes_blocks: takes_blocks(w.value, data.as_ptr() as usize),
            bias,
            act,
            residual,
        })
    }
}

/// Bytes for the gates of an item.
fn gate_size(l: &Linear, n: usize) -> usize {
    let rows = if n < MANY_TOKENS { MAX_ITEM_ROWS } else { PANEL_ROWS };
    if l.glu.is_none() { 0 } else { n * rows * 4 }
}

/// No item of a step has more rows.
const MAX_ITEM_ROWS: usize = 256;

/// One product and what follows it.
#[derive(Clone, Copy)]
struct Operands<'a> {
    w: Weights<'a>,
    takes_blocks: bool,
    bias: Option<&'a [f32]>,
    act: Option<UnaryOp>,
    residual: Option<Tensor<'a>>,
}

/// How a product is cut into items.
#[derive(Clone, Copy)]
pub struct Split {
    m: usize,
    n: usize,
    rows: usize,
    tokens: usize,
}

impl Split {
    /// Of the products of `n` tokens with the rows of `w`.
    pub fn new(w: &Weights<'_>, isa: Isa, n: usize, n_threads: usize) -> Split {
        if n < MANY_TOKENS {
            // Even shares for the threads, in pieces that hide what taking them costs.
            let whole = if n < panel_tokens(isa, w.k) { 4 } else { PANEL_ROWS };
            let bytes = if n == 1 { STREAM_BYTES } else { ITEM_BYTES };
            let rows = (bytes / w.row_size().max(1)).min(w.m.div_ceil(2 * n_threads)).next_multiple_of(whole);
            return Split { m: w.m, n, rows: rows.clamp(whole, MAX_ITEM_ROWS), tokens: n };
        }
        // Few panels are shared by token, which unpacks them more than once.
        let panels = w.m.div_ceil(PANEL_ROWS);
        let shares = (4 * n_threads).div_ceil(panels).clamp(1, n.div_ceil(MANY_TOKENS));
        Split { m: w.m, n, rows: PANEL_ROWS, tokens: if n_threads == 1 { n } else { n.div_ceil(shares) } }
    }

    /// Number of items.
    pub fn n_items(&self) -> usize {
        self.m.div_ceil(self.rows) * self.n.div_ceil(self.tokens.max(1))
    }

    /// Rows and tokens of an item.
    pub fn item(&self, i: usize) -> (Range<usize>, Range<usize>) {
        let shares = self.n.div_ceil(self.tokens.max(1));
        let (row, token) = (i / shares * self.rows, i % shares * self.tokens);
        (row..self.m.min(row + self.rows), token..self.n.min(token + self.tokens))
    }
}

impl Operands<'_> {
    fn split(&self, isa: Isa, n: usize, n_threads: usize) -> Split {
        Split::new(&self.w, isa, n, n_threads)
    }
}

fn multiply(
    isa: Isa,
    operands: &Operands<'_>,
    rows: Range<usize>,
    acts: Activations<'_>,
    tokens: Range<usize>,
    scratch: &mut Scratch,
    sink: &mut dyn Sink,
) {
    let w = operands.w;
    if operands.takes_blocks {
        Product { w, rows, x: acts.blocks.rows(tokens), scratch, sink }.compute(isa);
    } else {
        FloatProduct { w, rows, x: acts.floats.rows(tokens), scratch, sink }.compute(isa);
    }
}

/// Bias, activation and residual, then the result.
struct Finish<'a> {
    operands: Operands<'a>,
    out: Tensor<'a>,
    isa: Isa,
    /// The step's number of the sink's token 0.
    first: usize,
}

impl Sink for Finish<'_> {
    fn put(&mut self, token: usize, row: usize, values: &[f32]) {
        let at = [self.first + token, 0, 0];
        // SAFETY: each product is put once, by the thread that took its item; nobody else uses this part of the row.
        let bytes = unsafe { self.out.bytes_mut(at, 4 * row, 4 * values.len()) };
        let out: &mut [f32] = bytemuck::cast_slice_mut(bytes);
        out.copy_from_slice(values);
        if let Some(bias) = self.operands.bias {
            add(out, &bias[row..]);
        }
        if let Some(op) = self.operands.act {
            self.isa.run(UnaryRow { op, x: out });
        }
        if let Some(residual) = &self.operands.residual {
            let at = residual.row_at(self.first + token);
            // SAFETY: results of earlier steps are complete.
            add(out, &unsafe { residual.floats(at) }[row..]);
        }
    }
}

fn add(a: &mut [f32], b: &[f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}

/// Keeps gates for [`Gate`].
struct Keep<'a> {
    bias: Option<&'a [f32]>,
    buffer: &'a mut [f32],
    from: usize,
    width: usize,
}

impl Sink for Keep<'_> {
    fn put(&mut self, token: usize, row: usize, values: &[f32]) {
        let out = &mut self.buffer[token * self.width + row - self.from..][..values.len()];
        out.copy_from_slice(values);
        if let Some(bias) = self.bias {
            add(out, &bias[row..]);
        }
    }
}

/// Multiplies with the activated gates, then the result.
struct Gate<'a> {
    op: GluOp,
    bias: Option<&'a [f32]>,
    gate: &'a [f32],
    from: usize,
    width: usize,
    out: Tensor<'a>,
    isa: Isa,
    first: usize,
}

impl Sink for Gate<'_> {
    fn put(&mut self, token: usize, row: usize, values: &[f32]) {
        // SAFETY: each product is put once, by the thread that took its item; nobody else uses this part of the row.
        let bytes = unsafe { self.out.bytes_mut([self.first + token, 0, 0], 4 * row, 4 * values.len()) };
        let up: &mut [f32] = bytemuck::cast_slice_mut(bytes);
        up.copy_from_slice(values);
        if let Some(bias) = self.bias {
            add(up, &bias[row..]);
        }
        let gate = &self.gate[token * self.width + row - self.from..][..up.len()];
        self.isa.run(GluRow { op: self.op, gate, up });
    }
}
