//! The computation of one ubatch as a graph of typed operations. Architectures build it with [`Builder`], [`fuse`] groups
//! its nodes into what backends have fast, [`plan`] lays its temporaries into one arena, and a `Backend` runs the plan.
//!
//! A graph is a list of values in the order of their computation: leaves (weights, inputs, states), results of operations,
//! and views of other values. Shapes are `ne` (elements, innermost first) and `nb` (strides in bytes), as in ggml.
//!
//! **Architecture invariant:** nothing here or below knows the name of an architecture.

mod builder;
pub mod cut;
pub mod fuse;
mod inputs;
mod mask;
mod op;
pub mod plan;

pub use builder::Builder;
pub use inputs::{Input, InputData, Inputs};
pub use mask::{Mask, MaskRow};
pub use op::{Attention, BinaryOp, GluOp, MaskId, Norm, NormKind, Op, Rope, RopeKind, UnaryOp};

use crate::quant::DType;
use crate::tensor::WeightRef;

/// Index of a value in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// A persistent buffer of a context (KV cache of a layer, recurrent state), owned by its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateId(pub u32);

/// Where a value comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A tensor of the model.
    Weight(WeightRef),
    /// A persistent buffer.
    State(StateId),
    /// Filled by the context before each run.
    Input(Input),
    /// Computed.
    Node {
        /// What is computed.
        op: Op,
        /// From which values, in the order that [`Op`] documents.
        inputs: Vec<ValueId>,
    },
    /// The bytes of another value, seen in another shape.
    View {
        /// The value that owns the bytes; never itself a view.
        of: ValueId,
        /// Where this view begins.
        offset: usize,
    },
}

/// A tensor of the graph.
#[derive(Debug, Clone)]
pub struct Value {
    /// For messages and for evaluation callbacks: llama.cpp's name of the same tensor, e.g. `Qcur-3`.
    pub name: String,
    /// Element type. Results are f32, or i32 for indices.
    pub dtype: DType,
    /// Elements per dimension, innermost first.
    pub ne: [usize; 4],
    /// Bytes from one element (block, for quantized types), row, matrix, cube to the next.
    pub nb: [usize; 4],
    /// Where it comes from.
    pub source: Source,
}

impl Value {
    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.ne.iter().product()
    }

    /// Number of rows over all outer dimensions.
    pub fn n_rows(&self) -> usize {
        self.ne[1] * self.ne[2] * self.ne[3]
    }

    /// Bytes of the value when it lies contiguously.
    pub fn n_bytes(&self) -> usize {
        self.dtype.row_size(self.ne[0]) * self.n_rows()
    }

    /// Whether elements follow each other without gaps in the order of `ne`.
    pub fn is_contiguous(&self) -> bool {
        contiguous_strides(self.dtype, self.ne)
            .iter()
            .zip(&self.nb)
            .zip(&self.ne)
            .all(|((want, have), &n)| n <= 1 || want == have)
    }
}

/// Strides of a tensor without gaps.
pub fn contiguous_strides(dtype: DType, ne: [usize; 4]) -> [usize; 4] {
    let row = dtype.row_size(ne[0]);
    [dtype.type_size(), row, row * ne[1], row * ne[1] * ne[2]]
}

/// A finished graph: values in computation order, and which of them the caller reads.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// All values; inputs of a node come before it.
    pub values: Vec<Value>,
    /// Values that are read after the run, in the order in which they were declared.
    pub outputs: Vec<ValueId>,
}

impl Graph {
    /// The value of an id of this graph.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The value that owns the bytes of `id`, and where in them `id` begins.
    pub fn resolve(&self, id: ValueId) -> (ValueId, usize) {
        match self.value(id).source {
            Source::View { of, offset } => (of, offset),
            Source::Weight(_) | Source::State(_) | Source::Input(_) | Source::Node { .. } => (id, 0),
        }
    }

    /// The live results and views in order: what a run computes.
    pub fn computed<'a>(&'a self, live: &'a [bool]) -> impl Iterator<Item = ValueId> + 'a {
        let told = |v: &Value| match v.source {
            Source::Node { .. } | Source::View { .. } => true,
            Source::Weight(_) | Source::State(_) | Source::Input(_) => false,
        };
        let values = self.values.iter().zip(live).enumerate();
        values.filter(move |(_, (v, live))| **live && told(v)).map(|(i, _)| ValueId(i as u32))
    }

    /// Marks every value that the outputs or a write to a state depend on.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.values.len()];
        for &id in &self.outputs {
            live[id.0 as usize] = true;
        }
        for i in (0..self.values.len()).rev() {
            match &self.values[i].source {
                Source::Node { op, inputs } => {
                    live[i] |= matches!(op, Op::SetRows);
                    if live[i] {
                        for input in inputs {
                            live[input.0 as usize] = true;
                        }
                    }
                }
                Source::View { of, .. } => live[of.0 as usize] |= live[i],
                Source::Weight(_) | Source::State(_) | Source::Input(_) => {}
            }
        }
        live
    }
}
