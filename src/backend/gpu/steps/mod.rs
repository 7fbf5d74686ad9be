//! From the steps of a plan to dispatches: one file per family. [`compile`] is the entry; `Compiler` finds where values lie.

mod attention;
mod expand_cache;
mod few;
mod handed;
mod linear;
mod node;
mod own;
mod prompt;

use super::device::Device;
use super::program::{Bindings, Bound, InputAt, Program};
use super::shader::Kernel;
use super::states::State;
use super::weights::{Vector, Weights};
use crate::error::{Error, Result};
use crate::graph::fuse::Step;
use crate::graph::plan::{Place, Plan};
use crate::graph::{Op, Source, StateId, UnaryOp, Value, ValueId};
use crate::quant::DType;
use crate::tensor::WeightRef;

/// Words to whose multiples everything in the arena is aligned: loads are of four.
const ALIGN: usize = 16;

/// Most tokens of a short run.
const SHORT: usize = 64;

/// Most workgroups of one dimension of a grid.
const MAX_GRID: usize = 65535;

/// What a plan is compiled for.
pub struct Target<'a> {
    /// The device.
    pub device: &'a Device,
    /// The model's weights there.
    pub weights: &'a Weights,
    /// Tensors that are no part of the model: adapters.
    pub own: &'a Weights,
    /// Persistent buffers by id.
    pub states: &'a [State],
}

/// Compiles a plan.
///
/// # Errors
/// [`Error::Unsupported`]: something is beyond the device's limits; [`Error::Memory`]; [`Error::Device`].
pub fn compile(target: &Target, plan: &Plan) -> Result<Program> {
    let mut compiler = Compiler::new(target, plan);
    compiler.find_wanted()?;
    for (i, step) in plan.steps.iter().enumerate() {
        compiler.step = i;
        compiler.scratch = compiler.scratch_base;
        match step {
            Step::Node(id) => compiler.node(*id)?,
            Step::Linear(linear) => compiler.linear(linear)?,
            Step::Attention(attention) => compiler.attention(attention)?,
            Step::NormAdd { norm, residual, out } => compiler.norm(*norm, Some(*residual), *out)?,
        }
        compiler.program.step_ends.push(compiler.program.dispatches.len());
    }
    let mut program = compiler.program;
    program.arena = compiler.most;
    program.short = plan.steps.iter().all(|step| match step {
        Step::Linear(l) => plan.graph.value(l.x).ne[1] <= SHORT,
        _ => true,
    });
    Ok(program)
}

/// Where an operand lies, in elements.
#[derive(Debug, Clone, Copy)]
struct Operand {
    space: u32,
    at: u32,
    ne: [u32; 4],
    nb: [u32; 4],
}

/// `bindings.wgsl`: spaces.
const ARENA: u32 = 0;
const WEIGHTS: u32 = 1;
const CONSTANTS: u32 = 2;

/// Where the bytes of a value are.
enum Location {
    /// In the arena, at this word.
    Arena(usize),
    Weight(ValueId, usize),
    State(StateId, usize),
}

struct Compiler<'a> {
    target: &'a Target<'a>,
    plan: &'a Plan,
    program: Program,
    /// First word of each output.
    outputs: Vec<usize>,
    /// Where the current step's scratch begins, and its first free word.
    scratch_base: usize,
    scratch: usize,
    most: usize,
    /// The number of the step.
    step: usize,
    hands: handed::Hands,
    halved: prompt::Halved,
}

impl<'a> Compiler<'a> {
    fn new(target: &'a Target<'a>, plan: &'a Plan) -> Self {
        let mut next = plan.arena_size.div_ceil(4).next_multiple_of(ALIGN);
        let mut place = |n: usize| {
            let at = next;
            next += n.next_multiple_of(ALIGN);
            at
        };
        let mut program = Program::default();
        for (value, live) in plan.graph.values.iter().zip(&plan.live) {
            if let Source::Input(input) = value.source
                && *live
            {
                let n = value.n_elements();
                if program.inputs.iter().all(|i| i.input != input) {
                    program.inputs.push(InputAt { input, at: place(n) as u32, n });
                }
            }
        }
        let outputs: Vec<usize> =
            plan.graph.outputs.iter().map(|id| place(plan.graph.value(*id).n_elements())).collect();
        program.outputs = plan
            .graph
            .outputs
            .iter()
            .zip(&outputs)
            .map(|(id, &at)| (at as u32, plan.graph.value(*id).n_elements()))
            .collect();
        Compiler {
            target,
            plan,
            program,
            outputs,
            scratch_base: next,
            scratch: next,
            most: next,
            step: 0,
            hands: Default::default(),
            halved: Default::default(),
        }
    }

    fn value(&self, id: ValueId) -> &'a Value {
        self.plan.graph.value(id)
    }

    fn op(&self, id: ValueId) -> Result<(&'a Op, &'a [ValueId])> {
        match &self.value(id).source {
            Source::Node { op, inputs } => Ok((op, inputs)),
            _ => Err(Error::Internal(format!("{} is no node", self.value(id).name))),
        }
    }

    /// Room for `n` words until the end of the step.
    fn take_scratch(&mut self, n: usize) -> usize {
        let at = self.scratch;
        self.scratch += n.next_multiple_of(ALIGN);
        self.most = self.most.max(self.scratch);
        at
    }

    /// Where a value's bytes are; offsets in bytes, but words in the arena.
    fn locate(&self, id: ValueId, offset: usize) -> Result<Location> {
        let value = self.value(id);
        Ok(match self.plan.places[id.0 as usize] {
            Place::Arena(at) => Location::Arena((at + offset) / 4),
            Place::Output(i) => Location::Arena(self.outputs[i] + offset / 4),
            Place::Weight => Location::Weight(id, offset),
            Place::State(state) => Location::State(state, offset),
            Place::View { of, offset: more } => return self.locate(of, offset + more),
            Place::Input(input) => {
                let at = self.program.inputs.iter().find(|i| i.input == input);
                Location::Arena(at.map_or(0, |i| i.at as usize) + offset / 4)
            }
            Place::None => return Err(Error::Internal(format!("{} is read before it is computed", value.name))),
        })
    }

    /// Where a result goes; results are contiguous.
    fn result(&self, id: ValueId) -> Result<u32> {
        match self.locate(id, 0)? {
            Location::Arena(at) => word(at),
            Location::Weight(..) | Location::State(..) => {
                Err(Error::Internal(format!("{} is written to a constant", self.value(id).name)))
            }
        }
    }

    /// The vector behind a weight: of the model, or of an adapter.
    fn vector(&self, id: ValueId) -> Result<Vector> {
        let Source::Weight(w) = &self.value(id).source else {
            return Err(Error::Internal(format!("{} is no weight", self.value(id).name)));
        };
        self.weights_of(w).vector(w)
    }

    /// Where a tensor belongs: to the model, or to this context alone.
    fn weights_of(&self, w: &WeightRef) -> &'a Weights {
        if self.target.weights.owns(w) { self.target.weights } else { self.target.own }
    }

    /// An operand that a kernel reads element by element; weights take a slot of the bindings.
    fn operand(&self, id: ValueId, bindings: &mut Bindings) -> Result<Operand> {
        let v = self.value(id);
        let ne = shape(v.ne)?;
        let (block, size) = (v.dtype.block_size(), v.dtype.type_size());
        let elements = |bytes: usize| word(bytes / size * block);
        match self.locate(id, 0)? {
            Location::Arena(at) => Ok(Operand { space: ARENA, at: word(at)?, ne, nb: shape(v.nb.map(|b| b / 4))? }),
            Location::Weight(owner, offset) => {
                let vector = self.vector(owner)?;
                let space = claim(bindings, &vector)
                    .ok_or_else(|| Error::Unsupported(format!("three constant operands at {}", v.name)))?;
                let mut nb = [1, elements(v.nb[1])?, elements(v.nb[2])?, elements(v.nb[3])?];
                if block == 1 {
                    nb[0] = elements(v.nb[0])?;
                }
                Ok(Operand { space, at: vector.at + elements(offset)?, ne, nb })
            }
            Location::State(..) => Err(Error::Unsupported(format!("{} is read element by element", v.name))),
        }
    }

    /// An operand in the arena whose elements follow each other.
    fn contiguous(&self, id: ValueId) -> Result<u32> {
        let v = self.value(id);
        match self.locate(id, 0)? {
            Location::Arena(at) if v.is_contiguous() => word(at),
            _ => Err(Error::Unsupported(format!("{} must lie contiguously in the arena", v.name))),
        }
    }

    fn add(&mut self, kernel: Kernel, bindings: Bindings, params: Params, grid: [usize; 3]) -> Result<()> {
        self.program.add(self.target.device, kernel, bindings, &params.0, grid)
    }
}

/// Puts a vector into a slot of the bindings that is free or holds its buffer already.
fn claim(bindings: &mut Bindings, vector: &Vector) -> Option<u32> {
    let wanted = Bound::Buffer(vector.buffer.clone());
    for (slot, space) in [(&mut bindings.weights, WEIGHTS), (&mut bindings.constants, CONSTANTS)] {
        if *slot == wanted {
            return Some(space);
        }
        if *slot == Bound::Nothing {
            *slot = wanted;
            return Some(space);
        }
    }
    None
}

/// Puts a buffer into a slot of the bindings, unless another is there.
fn put(slot: &mut Bound, buffer: wgpu::Buffer) -> bool {
    let wanted = Bound::Buffer(buffer);
    let free = *slot == Bound::Nothing || *slot == wanted;
    if free {
        *slot = wanted;
    }
    free
}

/// The words of a dispatch's parameters, in the order of the kernel's `Params`.
#[derive(Default)]
struct Params(Vec<u8>);

impl Params {
    fn u(mut self, words: &[u32]) -> Params {
        self.0.extend_from_slice(bytemuck::cast_slice(words));
        self
    }

    fn f(mut self, numbers: &[f32]) -> Params {
        self.0.extend_from_slice(bytemuck::cast_slice(numbers));
        self
    }

    /// `Tensor` of `elementwise.wgsl`.
    fn tensor(self, t: Option<Operand>) -> Params {
        let t = t.unwrap_or(Operand { space: ARENA, at: 0, ne: [1; 4], nb: [0; 4] });
        self.u(&t.ne).u(&t.nb).u(&[t.at, t.space, 0, 0])
    }
}

/// An offset as the kernels count.
fn word(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::Unsupported(format!("an offset of {n} words on a GPU")))
}

fn shape(ne: [usize; 4]) -> Result<[u32; 4]> {
    Ok([word(ne[0])?, word(ne[1])?, word(ne[2])?, word(ne[3])?])
}

/// A grid of `n` workgroups, in two dimensions where one does not hold them.
fn grid_of(n: usize) -> [usize; 3] {
    let x = n.min(MAX_GRID);
    [x, n.div_ceil(x.max(1)), 1]
}

/// `activation.wgsl`: the number of a function; 0 is none.
fn activation(op: Option<UnaryOp>) -> u32 {
    match op {
        None => 0,
        Some(UnaryOp::Silu) => 1,
        Some(UnaryOp::Gelu) => 2,
        Some(UnaryOp::GeluErf) => 3,
        Some(UnaryOp::GeluQuick) => 4,
        Some(UnaryOp::Relu) => 5,
        Some(UnaryOp::Sigmoid) => 6,
        Some(UnaryOp::Tanh) => 7,
        Some(UnaryOp::Exp) => 8,
        Some(UnaryOp::Softplus) => 9,
        Some(UnaryOp::Sqr) => 10,
        Some(UnaryOp::Sqrt) => 11,
        Some(UnaryOp::Neg) => 12,
    }
}

/// The numbers of states of f32 and of f16, see [`state_type`].
const KV_F32: u32 = 1;
const KV_F16: u32 = 2;

/// `kv.wgsl` and `heads.wgsl`: the number of a state's type.
fn state_type(dtype: DType) -> Result<u32> {
    match dtype {
        DType::F32 => Ok(KV_F32),
        DType::F16 => Ok(KV_F16),
        DType::Q8_0 => Ok(3),
        DType::Q4_0 => Ok(4),
        other => Err(Error::Unsupported(format!("a state of {other} on a GPU"))),
    }
}

fn constant(name: &'static str, value: u32) -> (&'static str, u32) {
    (name, value)
}
