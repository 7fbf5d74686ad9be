//! Cuts a plan between devices. Each piece is a plan of its own over the same values, under the same ids: what another piece
//! computed is an input there ([`Input::Cut`]), what another piece reads is an output.

use super::fuse::Step;
use super::plan::{Plan, place};
use super::{Graph, Input, Op, Source, StateId, ValueId};
use crate::quant::DType;

/// A run of steps on one device.
#[derive(Debug)]
pub struct Piece {
    /// The device, as the caller numbers them.
    pub device: usize,
    /// The steps.
    pub plan: Plan,
    /// Values that other pieces computed: the inputs `Cut(0)`, `Cut(1)`, ... in order.
    pub reads: Vec<ValueId>,
    /// What the outputs of `plan` are.
    pub writes: Vec<Written>,
}

/// An output of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The output of the whole plan of this number.
    Output(usize),
    /// A value that other pieces read.
    Value(ValueId),
}

/// Cuts `plan` where the device changes: `device_of` tells it for each step, `local` the id that a state has on its device.
/// `None`: a value would have to cross that cannot.
pub fn cut(plan: &Plan, device_of: &[usize], local: &dyn Fn(StateId) -> StateId) -> Option<Vec<Piece>> {
    let graph = &plan.graph;
    // The piece that computes each value.
    let mut piece_of = vec![usize::MAX; graph.values.len()];
    let mut ranges: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
    for (i, &device) in device_of.iter().enumerate() {
        match ranges.last_mut() {
            Some((last, range)) if *last == device => range.end = i + 1,
            _ => ranges.push((device, i..i + 1)),
        }
    }
    for (n, (_, range)) in ranges.iter().enumerate() {
        for step in &plan.steps[range.clone()] {
            for id in step.writes() {
                piece_of[id.0 as usize] = n;
            }
        }
    }
    let mut crossing = vec![false; graph.values.len()];
    let reads: Vec<Vec<ValueId>> = ranges
        .iter()
        .enumerate()
        .map(|(n, (_, range))| {
            let mut reads: Vec<ValueId> = plan.steps[range.clone()]
                .iter()
                .flat_map(|step| step_reads(graph, step))
                .map(|id| graph.resolve(id).0)
                .filter(|id| !matches!(piece_of[id.0 as usize], other if other == usize::MAX || other == n))
                .filter(|id| !is_store(graph, *id))
                .collect();
            reads.sort_unstable();
            reads.dedup();
            reads.iter().for_each(|id| crossing[id.0 as usize] = true);
            reads
        })
        .collect();
    let whole = |id: &ValueId| graph.value(*id).dtype == DType::F32;
    if !reads.iter().flatten().all(whole) {
        return None;
    }
    let pieces = ranges.into_iter().zip(reads).enumerate().map(|(n, ((device, range), reads))| {
        let mut piece = Graph { values: graph.values.clone(), outputs: Vec::new() };
        for (i, value) in piece.values.iter_mut().enumerate() {
            match &value.source {
                Source::State(id) => value.source = Source::State(local(*id)),
                Source::Node { op: Op::SetRows, inputs } if piece_of[i] != n => {
                    // The state is where it was: a view of it, not another write.
                    value.source = Source::View { of: inputs[0], offset: 0 };
                }
                Source::Node { .. } if piece_of[i] != n && piece_of[i] != usize::MAX => {
                    let number = reads.iter().position(|r| r.0 as usize == i).unwrap_or(usize::MAX >> 1);
                    value.source = Source::Input(Input::Cut(number as u32));
                }
                _ => {}
            }
        }
        // A view owns no bytes: views of a store that became a view are views of the state.
        let owners: Vec<Option<(ValueId, usize)>> = piece
            .values
            .iter()
            .map(|v| match v.source {
                Source::View { of, offset } => match piece.values[of.0 as usize].source {
                    Source::View { of, offset: more } => Some((of, offset + more)),
                    _ => None,
                },
                _ => None,
            })
            .collect();
        for (value, owner) in piece.values.iter_mut().zip(owners) {
            if let Some((of, offset)) = owner {
                value.source = Source::View { of, offset };
            }
        }
        let mut writes = Vec::new();
        for (i, id) in graph.outputs.iter().enumerate() {
            if piece_of[id.0 as usize] == n {
                piece.outputs.push(*id);
                writes.push(Written::Output(i));
            }
        }
        for i in 0..graph.values.len() {
            let id = ValueId(i as u32);
            if crossing[i] && piece_of[i] == n && !piece.outputs.contains(&id) {
                piece.outputs.push(id);
                writes.push(Written::Value(id));
            }
        }
        let live = piece.live();
        let steps = plan.steps[range].iter().map(|s| (s.clone(), step_reads(&piece, s))).collect();
        Piece { device, plan: place(piece, live, steps), reads, writes }
    });
    Some(pieces.collect())
}

fn is_store(graph: &Graph, id: ValueId) -> bool {
    matches!(graph.value(id).source, Source::Node { op: Op::SetRows, .. })
}

/// The values that a step reads from outside of itself.
pub fn step_reads(graph: &Graph, step: &Step) -> Vec<ValueId> {
    let inputs = |id: ValueId| match &graph.value(id).source {
        Source::Node { inputs, .. } => inputs.as_slice(),
        Source::Weight(_) | Source::State(_) | Source::Input(_) | Source::View { .. } => &[],
    };
    let beyond_first = |id: Option<ValueId>| id.into_iter().flat_map(|id| inputs(id).iter().skip(1).copied());
    match step {
        Step::Node(id) => inputs(*id).to_vec(),
        Step::NormAdd { norm, residual, .. } => inputs(*norm).iter().copied().chain([*residual]).collect(),
        Step::Linear(l) => {
            let mut all = vec![l.x];
            all.extend(beyond_first(l.norm));
            all.extend(l.mats.iter().flat_map(|m| [Some(m.w), m.bias, m.residual]).flatten());
            all
        }
        Step::Attention(a) => {
            let mut all = Vec::new();
            for heads in [Some(a.q), a.k.map(|s| s.heads), a.v.map(|s| s.heads)].into_iter().flatten() {
                all.push(heads.src);
                all.extend(beyond_first(heads.norm));
                all.extend(beyond_first(heads.rope));
            }
            for (operand, store) in inputs(a.node)[1..].iter().zip([a.k, a.v]) {
                match store {
                    None => all.push(*operand),
                    Some(store) => {
                        let operands = inputs(store.set_rows);
                        all.extend([operands[0], operands[2]]);
                    }
                }
            }
            all.extend(inputs(a.node).iter().skip(3));
            all
        }
    }
}
