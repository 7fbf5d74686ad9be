//! Runs the steps of a plan: every thread of the team goes through all steps, takes items of each until none is left, and
//! waits for the others before the next. Called by [`super::Cpu`].

mod attention;
mod linear;
mod node;
mod observe;
mod rope;

use super::act::XBlock;
use super::elementwise::{BinaryRow, NormRow};
use super::kernels::Isa;
use super::memory::{Memory, Shared, Tensor};
use super::rows::ToFloat;
use super::scratch::Scratch;
use super::threads::{Member, Stopped};
use crate::error::Error;
use crate::graph::fuse::Step;
use crate::graph::{BinaryOp, Norm, Op, Source, ValueId};
pub use rope::{RopeTables, Ropes};

/// What all threads share in a run.
pub struct Run<'a> {
    /// Instruction set.
    pub isa: Isa,
    /// The values.
    pub memory: Memory<'a>,
    /// Activations of the current step for integer kernels.
    pub blocks: Shared<'a, XBlock>,
    /// Activations of the current step for float kernels, or partial results of attention.
    pub floats: Shared<'a, f32>,
    /// Rotations of this ubatch.
    pub ropes: Ropes<'a>,
}

/// Memory of one thread, kept between runs.
#[derive(Default)]
pub struct Worker {
    /// For kernels: panels and blocks.
    pub scratch: Scratch,
    /// For steps: rows on their way.
    pub rows: Scratch,
    /// Slots of a step's experts, see `node`.
    pub slots: Vec<u32>,
}

/// Why a thread leaves a run early.
pub enum Leave {
    /// Another thread wants it.
    Stopped,
    /// This step cannot be done.
    Failed(Error),
}

impl From<Stopped> for Leave {
    fn from(_: Stopped) -> Self {
        Leave::Stopped
    }
}

impl From<Error> for Leave {
    fn from(e: Error) -> Self {
        Leave::Failed(e)
    }
}

/// Result of a thread's part of a step.
pub type Part = std::result::Result<(), Leave>;

/// How many elements of each buffer a plan needs.
#[derive(Default, Clone, Copy)]
pub struct Needs {
    /// Of [`Run::blocks`].
    pub blocks: usize,
    /// Of [`Run::floats`].
    pub floats: usize,
}

impl Run<'_> {
    /// What the steps of a plan need, for a team of `n_threads`.
    pub fn needs(plan: &crate::graph::plan::Plan, n_threads: usize) -> Needs {
        let mut needs = Needs::default();
        for step in &plan.steps {
            let of = match step {
                Step::Linear(l) => linear::needs(&plan.graph, l),
                Step::Attention(a) => attention::needs(&plan.graph, a, n_threads),
                Step::Node(id) => node::needs(&plan.graph, *id),
                Step::NormAdd { .. } => Needs::default(),
            };
            needs = Needs { blocks: needs.blocks.max(of.blocks), floats: needs.floats.max(of.floats) };
        }
        needs
    }

    /// This thread's part of all steps. `check` is called between steps and says whether to go on.
    pub fn steps(&self, m: &Member<'_>, worker: &mut Worker, check: &mut dyn FnMut() -> Part) -> Part {
        self.ropes.fill(m, &self.memory)?;
        m.barrier()?;
        for step in &self.memory.plan.steps {
            check()?;
            self.step(m, worker, step)?;
            m.barrier()?;
        }
        Ok(())
    }

    /// This thread's part of a step.
    fn step(&self, m: &Member<'_>, worker: &mut Worker, step: &Step) -> Part {
        match step {
            Step::Linear(l) => self.linear(m, worker, l),
            Step::Attention(a) => self.attention(m, worker, a),
            Step::NormAdd { norm, residual, out } => self.norm_add(m, *norm, *residual, *out),
            Step::Node(id) => self.node(m, worker, *id),
        }
    }

    fn norm_add(&self, m: &Member<'_>, norm: ValueId, residual: ValueId, out: ValueId) -> Part {
        let NormOf { x, weighted } = self.norm_of(norm)?;
        let (x, residual, out) = (x, self.memory.tensor(residual)?, self.memory.tensor(out)?);
        let n_rows = out.value.n_rows();
        while let Some(rows) = take_rows(m, n_rows, out.value.ne[0]) {
            for i in rows {
                let at = out.row_at(i);
                // SAFETY: operands are complete; this item's rows of the result belong to this thread.
                let (x, residual, out) = unsafe { (x.floats(at), residual.floats(at), out.floats_mut(at)) };
                weighted.run(self.isa, x, out);
                self.isa.run(BinaryRow { op: BinaryOp::Add, a: out, b: residual });
            }
        }
        Ok(())
    }

    /// A norm node with its operands.
    fn norm_of(&self, id: ValueId) -> Result<NormOf<'_>, Error> {
        let weighted = self.weighted(id)?;
        Ok(NormOf { x: self.memory.tensor(self.op(id)?.1[0])?, weighted })
    }

    /// A norm node without its input.
    fn weighted(&self, id: ValueId) -> Result<Weighted<'_>, Error> {
        let (op, inputs) = self.op(id)?;
        let &Op::Norm(norm) = op else { return Err(self.unexpected(id)) };
        let vector = |i: usize| -> Result<Option<&[f32]>, Error> {
            let Some(&id) = inputs.get(i) else { return Ok(None) };
            // SAFETY: weights are constant, and results of earlier steps complete.
            Ok(Some(unsafe { self.memory.tensor(id)?.floats([0; 3]) }))
        };
        Ok(Weighted { norm, weight: vector(1)?, bias: vector(2)? })
    }

    fn op(&self, id: ValueId) -> Result<(&Op, &[ValueId]), Error> {
        match &self.memory.plan.graph.value(id).source {
            Source::Node { op, inputs } => Ok((op, inputs)),
            Source::Weight(_) | Source::State(_) | Source::Input(_) | Source::View { .. } => Err(self.unexpected(id)),
        }
    }

    fn unexpected(&self, id: ValueId) -> Error {
        Error::Internal(format!("{} is not what its step expects", self.memory.plan.graph.value(id).name))
    }

    /// A row as f32: in place if it is, else converted or collected into `buffer`, of the length of the row.
    ///
    /// # Safety
    /// No thread writes the row while the result is used.
    unsafe fn row<'b>(&self, t: &Tensor<'b>, at: [usize; 3], buffer: &'b mut [f32]) -> &'b [f32] {
        // SAFETY: the caller's promise.
        unsafe {
            if t.is_plain() {
                return t.floats(at);
            }
            if t.value.dtype == crate::quant::DType::F32 {
                for (i, b) in buffer.iter_mut().enumerate() {
                    *b = f32::from_bits(t.word(i, at));
                }
            } else {
                self.isa.run(ToFloat { dtype: t.value.dtype, bytes: t.row(at), out: buffer });
            }
        }
        buffer
    }
}

/// A norm with its weight and bias.
#[derive(Clone, Copy)]
struct Weighted<'a> {
    norm: Norm,
    weight: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
}

impl Weighted<'_> {
    fn run(&self, isa: Isa, x: &[f32], out: &mut [f32]) {
        let &Self { norm, weight, bias } = self;
        isa.run(NormRow { norm, x, weight, bias, out });
    }
}

/// A norm with its operands.
struct NormOf<'a> {
    x: Tensor<'a>,
    weighted: Weighted<'a>,
}

/// The next rows of a step over `n_rows` rows of `n` elements: enough of them that taking them costs little.
fn take_rows(m: &Member<'_>, n_rows: usize, n: usize) -> Option<std::ops::Range<usize>> {
    let chunk = (4096 / n.max(1)).clamp(1, n_rows.div_ceil(m.n_threads()).max(1));
    let i = m.take(n_rows.div_ceil(chunk))?;
    Some(i * chunk..n_rows.min((i + 1) * chunk))
}
