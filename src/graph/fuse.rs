//! Groups the nodes of a graph into steps that backends run as one: linear layers that share their input (with the norm
//! before them and bias, activation, gating or residual after them), attention with the preparation of its heads and the
//! KV store, and norms with a residual. Nodes that fit no pattern stay steps of their own.
//!
//! A node joins a group only if nobody outside of the group reads it, so fused intermediates are never materialized.

use super::{BinaryOp, Graph, Op, Source, ValueId};
use crate::quant::DType;

/// One thing for a backend to run. Ids name nodes of the graph, where parameters and shapes are.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A node by itself.
    Node(ValueId),
    /// Matrix products that share their input.
    Linear(Linear),
    /// Attention with what prepares its heads.
    Attention(FusedAttention),
    /// `norm(x) + residual`.
    NormAdd {
        /// The norm.
        norm: ValueId,
        /// The other operand of the addition.
        residual: ValueId,
        /// The addition.
        out: ValueId,
    },
}

/// `[norm] → w₁·x, w₂·x, ... → [bias] → [activation | gate | residual]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// The input, before the norm.
    pub x: ValueId,
    /// A norm of `x` that only these products read.
    pub norm: Option<ValueId>,
    /// The products; at least one.
    pub mats: Vec<Mat>,
    /// A gated activation over exactly two products, the gate first.
    pub glu: Option<ValueId>,
}

/// One product of a [`Linear`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mat {
    /// The weight, `[k, m]`.
    pub w: ValueId,
    /// The product node.
    pub matmul: ValueId,
    /// A vector `[m]` that is added.
    pub bias: Option<ValueId>,
    /// An activation node applied then.
    pub act: Option<ValueId>,
    /// A tensor of the product's shape that is added last.
    pub residual: Option<ValueId>,
    /// The value that holds the result; not materialized when the step gates.
    pub out: ValueId,
}

/// Attention, the preparation of its queries, and the store of its keys and values into the cache.
#[derive(Debug, Clone, PartialEq)]
pub struct FusedAttention {
    /// The attention node.
    pub node: ValueId,
    /// The queries `[d, n_head, n_tokens]`.
    pub q: Heads,
    /// The keys' store; `None`: the node's key operand is complete before this step.
    pub k: Option<Store>,
    /// The values' store, likewise.
    pub v: Option<Store>,
}

/// Heads on their way: `src → [norm] → [rope] → [scale] → [hadamard]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Where they start, `[d, n_head, n_tokens]`.
    pub src: ValueId,
    /// A norm over each head.
    pub norm: Option<ValueId>,
    /// A rotation.
    pub rope: Option<ValueId>,
    /// A factor, [`Op::Scale`] without bias.
    pub scale: Option<ValueId>,
    /// A Hadamard transform, before storage in a quantized cache.
    pub hadamard: Option<ValueId>,
}

/// Heads that are written into a state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Store {
    /// The [`Op::SetRows`] node.
    pub set_rows: ValueId,
    /// What is written.
    pub heads: Heads,
}

impl Step {
    /// Values that hold results after the step.
    pub fn writes(&self) -> Vec<ValueId> {
        match self {
            Step::Node(id) => vec![*id],
            Step::Linear(l) => match l.glu {
                Some(glu) => vec![glu],
                None => l.mats.iter().map(|m| m.out).collect(),
            },
            Step::Attention(a) => {
                [Some(a.node), a.k.map(|s| s.set_rows), a.v.map(|s| s.set_rows)].into_iter().flatten().collect()
            }
            Step::NormAdd { out, .. } => vec![*out],
        }
    }
}

/// A step with the values that it reads from outside of itself.
struct Group {
    step: Step,
    members: Vec<ValueId>,
}

/// Groups the live nodes of `graph` into steps, in an order in which they can run.
pub fn fuse(graph: &Graph, live: &[bool]) -> Vec<(Step, Vec<ValueId>)> {
    let mut fuser = Fuser::new(graph, live);
    let nodes: Vec<ValueId> = (0..graph.values.len())
        .map(|i| ValueId(i as u32))
        .filter(|id| live[id.0 as usize] && matches!(graph.value(*id).source, Source::Node { .. }))
        .collect();
    for &id in &nodes {
        if matches!(fuser.op(id), Some(Op::Attention(_))) {
            fuser.attention(id);
        }
    }
    for &id in &nodes {
        if fuser.group_of[id.0 as usize].is_none() && matches!(fuser.op(id), Some(Op::MatMul)) {
            fuser.linear(id, &nodes);
        }
    }
    for &id in &nodes {
        if fuser.group_of[id.0 as usize].is_none() && matches!(fuser.op(id), Some(Op::Norm(_))) {
            fuser.norm_add(id);
        }
    }
    for &id in &nodes {
        if fuser.group_of[id.0 as usize].is_none() {
            fuser.push(Step::Node(id), vec![id]);
        }
    }
    fuser.order()
}

/// Makes every live node a step of its own, in their order, for who looks at each result.
pub fn apart(graph: &Graph, live: &[bool]) -> Vec<(Step, Vec<ValueId>)> {
    let fuser = Fuser::new(graph, live);
    let nodes = (0..graph.values.len()).map(|i| ValueId(i as u32)).filter(|id| live[id.0 as usize]);
    let step = |id: ValueId| {
        let inputs = fuser.inputs(id);
        let step = match fuser.op(id)? {
            Op::MatMul if fuser.is_linear(id) => {
                let mat = Mat { w: inputs[0], matmul: id, bias: None, act: None, residual: None, out: id };
                Step::Linear(Linear { x: inputs[1], norm: None, mats: vec![mat], glu: None })
            }
            Op::Attention(_) => {
                let q = Heads { src: inputs[0], norm: None, rope: None, scale: None, hadamard: None };
                Step::Attention(FusedAttention { node: id, q, k: None, v: None })
            }
            _ => Step::Node(id),
        };
        Some((step, inputs.to_vec()))
    };
    nodes.filter_map(step).collect()
}

struct Fuser<'a> {
    graph: &'a Graph,
    /// For each value, the live nodes that read its bytes, directly or through views; outputs count as a reader.
    readers: Vec<Vec<Option<ValueId>>>,
    group_of: Vec<Option<usize>>,
    groups: Vec<Group>,
}

impl<'a> Fuser<'a> {
    fn new(graph: &'a Graph, live: &[bool]) -> Self {
        let mut readers = vec![Vec::new(); graph.values.len()];
        for (i, v) in graph.values.iter().enumerate().filter(|(i, _)| live[*i]) {
            if let Source::Node { inputs, .. } = &v.source {
                for input in inputs {
                    readers[graph.resolve(*input).0.0 as usize].push(Some(ValueId(i as u32)));
                }
            }
        }
        for id in &graph.outputs {
            readers[id.0 as usize].push(None);
        }
        Self { graph, readers, group_of: vec![None; graph.values.len()], groups: Vec::new() }
    }

    fn op(&self, id: ValueId) -> Option<&'a Op> {
        match &self.graph.value(id).source {
            Source::Node { op, .. } => Some(op),
            Source::Weight(_) | Source::State(_) | Source::Input(_) | Source::View { .. } => None,
        }
    }

    fn inputs(&self, id: ValueId) -> &'a [ValueId] {
        match &self.graph.value(id).source {
            Source::Node { inputs, .. } => inputs,
            Source::Weight(_) | Source::State(_) | Source::Input(_) | Source::View { .. } => &[],
        }
    }

    /// The only node that reads `id`'s bytes, if there is just one and it is still free.
    fn only_reader(&self, id: ValueId) -> Option<ValueId> {
        match self.readers[id.0 as usize][..] {
            [Some(reader)] if self.group_of[reader.0 as usize].is_none() => Some(reader),
            _ => None,
        }
    }

    /// The free node behind `id` (itself, or what a view shows whole) if `id` is its only use.
    fn private_node(&self, id: ValueId) -> Option<ValueId> {
        let (owner, _) = self.graph.resolve(id);
        let (v, o) = (self.graph.value(id), self.graph.value(owner));
        let whole = owner == id || (v.is_contiguous() && v.n_elements() == o.n_elements());
        let free = self.op(owner).is_some() && self.group_of[owner.0 as usize].is_none();
        (whole && free && self.readers[owner.0 as usize].len() == 1).then_some(owner)
    }

    fn push(&mut self, step: Step, members: Vec<ValueId>) {
        for id in &members {
            self.group_of[id.0 as usize] = Some(self.groups.len());
        }
        self.groups.push(Group { step, members });
    }

    /// Walks back from heads to where they start; `members` gains the nodes passed.
    fn heads(&self, id: ValueId, members: &mut Vec<ValueId>) -> Heads {
        let head = self.graph.value(id).ne;
        let mut heads = Heads { src: id, norm: None, rope: None, scale: None, hadamard: None };
        while let Some(node) = self.private_node(heads.src) {
            let same_heads = self.graph.value(node).ne == head;
            // Backwards, so that each slot must come before those already filled.
            let slots = [&mut heads.norm, &mut heads.rope, &mut heads.scale, &mut heads.hadamard];
            let place = match self.op(node) {
                Some(Op::Norm(_)) if same_heads => 0,
                Some(Op::Rope(_)) if same_heads => 1,
                Some(Op::Scale { bias: 0.0, .. }) => 2,
                Some(Op::Hadamard { .. }) if same_heads => 3,
                _ => break,
            };
            if slots[..=place].iter().any(|slot| slot.is_some()) {
                break;
            }
            *slots[place] = Some(node);
            members.push(node);
            heads.src = self.inputs(node)[0];
        }
        heads
    }

    /// The store behind a cached operand of an attention.
    fn store(&self, operand: ValueId, members: &mut Vec<ValueId>) -> Option<Store> {
        let (node, _) = self.graph.resolve(operand);
        if self.op(node) != Some(&Op::SetRows) || self.only_reader(node).is_none() {
            return None;
        }
        let src = self.inputs(node)[1];
        // The rows of all heads side by side are the heads themselves; look through that view if it is one.
        let (owner, _) = self.graph.resolve(src);
        let per_head = self.graph.value(operand).ne;
        let rows = self.graph.value(src);
        let start = if owner != src && self.op(owner).is_some() && self.graph.value(owner).ne[0] == per_head[0] {
            owner
        } else {
            src
        };
        if !rows.is_contiguous() && start != src {
            return None;
        }
        members.push(node);
        Some(Store { set_rows: node, heads: self.heads(start, members) })
    }

    fn attention(&mut self, id: ValueId) {
        let mut members = vec![id];
        let inputs = self.inputs(id);
        let k = self.store(inputs[1], &mut members);
        let v = self.store(inputs[2], &mut members);
        let q = self.heads(inputs[0], &mut members);
        self.push(Step::Attention(FusedAttention { node: id, q, k, v }), members);
    }

    fn linear(&mut self, first: ValueId, nodes: &[ValueId]) {
        if !self.is_linear(first) {
            return;
        }
        let x = self.inputs(first)[1];
        let same_x: Vec<ValueId> = nodes
            .iter()
            .copied()
            .filter(|&id| self.group_of[id.0 as usize].is_none() && self.is_linear(id) && self.inputs(id)[1] == x)
            .collect();
        let mut members = same_x.clone();
        let mut mats: Vec<Mat> = same_x.iter().map(|&id| self.mat(id, &mut members)).collect();
        let mut glu = None;
        if let [gate, up] = mats[..] {
            let reader = self.only_reader(gate.out).filter(|&r| self.only_reader(up.out) == Some(r));
            if let Some(node) = reader.filter(|&r| matches!(self.op(r), Some(Op::Glu(_)))) {
                if self.inputs(node) == [up.out, gate.out] {
                    mats.swap(0, 1);
                }
                if self.inputs(node) == [mats[0].out, mats[1].out] {
                    glu = Some(node);
                    members.push(node);
                }
            }
        }
        if let [mat] = &mut mats[..] {
            self.epilogue(mat, &mut members);
        }
        let norm = self.private_norm(x, &same_x);
        members.extend(norm);
        let x = norm.map_or(x, |n| self.inputs(n)[0]);
        self.push(Step::Linear(Linear { x, norm, mats, glu }), members);
    }

    /// Whether a product is of a whole weight matrix with contiguous rows of activations.
    fn is_linear(&self, id: ValueId) -> bool {
        let Some(Op::MatMul) = self.op(id) else { return false };
        let (w, x) = (self.graph.value(self.inputs(id)[0]), self.graph.value(self.inputs(id)[1]));
        matches!(w.source, Source::Weight(_))
            && w.ne[2] == 1
            && w.ne[3] == 1
            && x.ne[2] == 1
            && x.ne[3] == 1
            && x.is_contiguous()
    }

    /// A product and its bias.
    fn mat(&self, id: ValueId, members: &mut Vec<ValueId>) -> Mat {
        let mut mat = Mat { w: self.inputs(id)[0], matmul: id, bias: None, act: None, residual: None, out: id };
        if let Some(add) = self.only_reader(id).filter(|&r| self.op(r) == Some(&Op::Binary(BinaryOp::Add))) {
            let [a, b] = self.inputs(add)[..] else { return mat };
            let bias = self.graph.value(b);
            let fits = a == id && matches!(bias.source, Source::Weight(_)) && bias.dtype == DType::F32;
            if fits && bias.ne == [self.graph.value(id).ne[0], 1, 1, 1] {
                mat.bias = Some(b);
                mat.out = add;
                members.push(add);
            }
        }
        mat
    }

    /// What follows a lone product: an activation, or else the addition of a tensor that was there before it.
    fn epilogue(&self, mat: &mut Mat, members: &mut Vec<ValueId>) {
        let Some(reader) = self.only_reader(mat.out) else { return };
        let inputs = self.inputs(reader);
        let whole = self.graph.value(reader).ne == self.graph.value(mat.out).ne && inputs.contains(&mat.out);
        match self.op(reader) {
            Some(Op::Unary(_)) if whole => mat.act = Some(reader),
            Some(Op::Binary(BinaryOp::Add)) if whole => {
                let other = if inputs[0] == mat.out { inputs[1] } else { inputs[0] };
                let v = self.graph.value(other);
                if other >= mat.matmul || v.ne != self.graph.value(mat.out).ne || !v.is_contiguous() {
                    return;
                }
                mat.residual = Some(other);
            }
            _ => return,
        }
        mat.out = reader;
        members.push(reader);
    }

    /// The norm that makes `x`, if only `mats` read it.
    fn private_norm(&self, x: ValueId, mats: &[ValueId]) -> Option<ValueId> {
        let input = self.inputs(x).first().map(|&i| self.graph.value(i))?;
        let free = matches!(self.op(x), Some(Op::Norm(_))) && self.group_of[x.0 as usize].is_none();
        let private = self.readers[x.0 as usize].iter().all(|r| r.is_some_and(|r| mats.contains(&r)));
        (free && private && input.is_contiguous()).then_some(x)
    }

    fn norm_add(&mut self, norm: ValueId) {
        let Some(add) = self.only_reader(norm).filter(|&r| self.op(r) == Some(&Op::Binary(BinaryOp::Add))) else {
            return;
        };
        let [a, b] = self.inputs(add)[..] else { return };
        let residual = if a == norm { b } else { a };
        let (v, r) = (self.graph.value(norm), self.graph.value(residual));
        let x = self.graph.value(self.inputs(norm)[0]);
        let direct = (a == norm) != (b == norm) && residual < norm;
        if direct && v.ne == r.ne && r.is_contiguous() && x.is_contiguous() {
            self.push(Step::NormAdd { norm, residual, out: add }, vec![norm, add]);
        }
    }

    /// What a group reads from outside, views and leaves included.
    fn reads(&self, group: usize) -> Vec<ValueId> {
        let mut reads: Vec<ValueId> = self.groups[group]
            .members
            .iter()
            .flat_map(|&m| self.inputs(m))
            .copied()
            .filter(|&i| self.group_of[self.graph.resolve(i).0.0 as usize] != Some(group))
            .collect();
        reads.sort_unstable();
        reads.dedup();
        reads
    }

    /// Steps so that each comes after what it reads; among those that can run, the one whose first node comes first.
    fn order(self) -> Vec<(Step, Vec<ValueId>)> {
        let reads: Vec<Vec<ValueId>> = (0..self.groups.len()).map(|g| self.reads(g)).collect();
        let mut waits = vec![0usize; self.groups.len()];
        let mut wakes = vec![Vec::new(); self.groups.len()];
        for (g, values) in reads.iter().enumerate() {
            for id in values {
                if let Some(producer) = self.group_of[self.graph.resolve(*id).0.0 as usize] {
                    waits[g] += 1;
                    wakes[producer].push(g);
                }
            }
        }
        let first: Vec<ValueId> =
            self.groups.iter().map(|g| *g.members.iter().min().expect("a group has members")).collect();
        let mut ready: std::collections::BTreeSet<(ValueId, usize)> =
            (0..self.groups.len()).filter(|&g| waits[g] == 0).map(|g| (first[g], g)).collect();
        let mut reads: Vec<Option<Vec<ValueId>>> = reads.into_iter().map(Some).collect();
        let mut steps = Vec::with_capacity(self.groups.len());
        while let Some((_, g)) = ready.pop_first() {
            steps.push((self.groups[g].step.clone(), reads[g].take().expect("each group runs once")));
            for &w in &wakes[g] {
                waits[w] -= 1;
                if waits[w] == 0 {
                    ready.insert((first[w], w));
                }
            }
        }
        steps
    }
}
