//! Products of weights with activations.

use super::handed::Handed;
use super::*;
use crate::backend::gpu::shader::is_fast;
use crate::backend::gpu::weights::{Part, Resident};
use crate::graph::fuse::{Linear, Mat};
use crate::graph::{Norm, NormKind};
use std::sync::Arc;

/// Most tokens that are multiplied one by one; more go through tiles.
pub(super) const FEW: usize = 8;

/// Rows and threads of a workgroup of `matvec`.
const ROWS: u32 = 4;
const THREADS: u32 = 64;

/// Units of a row that a team of 32 threads goes along by itself: half of two teams would have nothing to do.
const WIDE_UNITS: u32 = 32;

/// Elements of a unit of `matvec_fast`.
pub(super) const UNIT: usize = 64;

/// A product to be made: where its parts are and what is added.
struct Product {
    weight: Arc<Resident>,
    to: usize,
    stride: usize,
    bias: Option<Vector>,
    residual: Option<u32>,
    act: u32,
}

/// Activations: rows in the arena, as f32 and, for fast products, as bytes.
#[derive(Clone, Copy)]
struct Activations {
    k: usize,
    n: usize,
    at: usize,
    bytes: usize,
    scales: usize,
    /// The sums of squares that scale the bytes' norm, 0: they are normalized; its epsilon.
    squares: usize,
    eps: f32,
}

/// What a dispatch does beside its products.
#[derive(Default)]
struct Beside {
    gated: bool,
    experts: Experts,
    /// Where the result goes as bytes.
    hand: Option<Handed>,
}

/// The experts of a product.
#[derive(Default, Clone, Copy)]
struct Experts {
    /// Offset of the ids plus one.
    ids: u32,
    n_used: u32,
    x_rows: u32,
    rows: u32,
}

impl Compiler<'_> {
    pub(super) fn linear(&mut self, l: &Linear) -> Result<()> {
        if self.takes_tiles(l)? {
            return self.tiles(l);
        }
        let x = self.value(l.x);
        let (k, n) = (x.ne[0], x.ne[1]);
        let mut products = Vec::with_capacity(l.mats.len());
        for mat in &l.mats {
            products.push(self.product(mat, l.glu.is_some(), n)?);
        }
        let fast = |p: &Product| n <= FEW && k.is_multiple_of(UNIT) && is_fast(p.weight.dtype);
        let at = match self.locate(l.x, 0)? {
            Location::Arena(at) => at,
            _ => return Err(Error::Unsupported(format!("{} as activations on a GPU", x.name))),
        };
        let mut acts = Activations { k, n, at, bytes: 0, scales: 0, squares: 0, eps: 0.0 };
        if let Some(handed) = self.handed(l).filter(|_| products.iter().any(&fast)) {
            (acts.bytes, acts.scales) = (handed.bytes, handed.scales);
            if let Some(norm) = l.norm
                && let (Op::Norm(norm), _) = self.op(norm)?
            {
                (acts.squares, acts.eps) = (handed.squares, norm.eps);
            }
        } else if products.iter().any(&fast) {
            acts.bytes = self.take_scratch(n * k / 4);
            acts.scales = self.take_scratch(n * k / 8);
            self.quantize(l.norm, acts)?;
        }
        if let Some(norm) = l.norm
            && !products.iter().all(&fast)
        {
            acts.at = self.take_scratch(n * k);
            self.norm_to(norm, None, word(acts.at)?)?;
        }
        if let (Some(glu), [gate, up]) = (l.glu, &products[..]) {
            let (Op::Glu(op), _) = self.op(glu)? else { return Err(Error::Internal("no gate".into())) };
            let act = activation(Some(op.activation()));
            let to = self.result(glu)?;
            let (a, b) = (&gate.weight, &up.weight);
            let together = fast(gate)
                && a.dtype == b.dtype
                && a.parts.len() == 1
                && b.parts.len() == 1
                && a.parts[0].buffer == b.parts[0].buffer
                && gate.bias.is_none()
                && up.bias.is_none();
            if together {
                let one = Product {
                    weight: gate.weight.clone(),
                    to: to as usize,
                    stride: gate.stride,
                    bias: None,
                    residual: None,
                    act,
                };
                let beside = Beside { gated: true, hand: self.hand(glu, gate.stride, n, true), ..Beside::default() };
                return self.dispatch(&[(&one, &a.parts[0]), (&one, &b.parts[0])], acts, true, beside);
            }
            let (gate_to, up_to, m) = (gate.to, up.to, gate.stride);
            self.products(&products, acts, &fast, None)?;
            return self.glu(gate_to, up_to, to, m * n, act);
        }
        let hand = match (&l.mats[..], &products[..]) {
            ([mat], [p]) if fast(p) && p.weight.parts.len() == 1 => self.hand(mat.out, p.stride, n, true),
            _ => None,
        };
        self.products(&products, acts, &fast, hand)
    }

    /// The product with experts: each token's slots one by one.
    pub(super) fn matmul_id(&mut self, id: ValueId) -> Result<()> {
        let (_, inputs) = self.op(id)?;
        let (w, x, ids, out) = (self.value(inputs[0]), self.value(inputs[1]), self.value(inputs[2]), self.value(id));
        let Source::Weight(weight) = &w.source else {
            return Err(Error::Unsupported(format!("experts {} that are no weights", w.name)));
        };
        let resident = self.weights_of(weight).matrix(weight)?;
        let (k, n_x) = (x.ne[0], x.n_rows());
        let mut acts = Activations {
            k,
            n: n_x,
            at: self.contiguous(inputs[1])? as usize,
            bytes: 0,
            scales: 0,
            squares: 0,
            eps: 0.0,
        };
        let fast = k.is_multiple_of(UNIT) && is_fast(resident.dtype);
        if fast {
            acts.bytes = self.take_scratch(n_x * k / 4);
            acts.scales = self.take_scratch(n_x * k / 8);
            self.quantize(None, acts)?;
        }
        // One slot per token of the grid.
        acts.n = out.n_rows();
        let experts = Experts {
            ids: self.contiguous(inputs[2])? + 1,
            n_used: word(ids.ne[0])?,
            x_rows: word(x.ne[1])?,
            rows: word(w.ne[1])?,
        };
        let product = Product {
            weight: resident.clone(),
            to: self.result(id)? as usize,
            stride: w.ne[1],
            bias: None,
            residual: None,
            act: 0,
        };
        // All experts are one matrix; a product has the rows of one.
        let part = Part { rows: w.ne[1], ..resident.parts[0].clone() };
        self.dispatch(&[(&product, &part)], acts, fast, Beside { experts, ..Beside::default() })
    }

    fn product(&mut self, mat: &Mat, gated: bool, n: usize) -> Result<Product> {
        let w = self.value(mat.w);
        let Source::Weight(weight) = &w.source else {
            return Err(Error::Internal(format!("{} is no weight", w.name)));
        };
        let weight = self.weights_of(weight).matrix(weight)?;
        let stride = w.ne[1];
        let act = match mat.act.map(|id| self.op(id)).transpose()? {
            Some((Op::Unary(op), _)) => activation(Some(*op)),
            _ => 0,
        };
        Ok(Product {
            weight,
            to: if gated { self.take_scratch(n * stride) } else { self.result(mat.out)? as usize },
            stride,
            bias: mat.bias.map(|b| self.vector(b)).transpose()?,
            residual: mat.residual.map(|r| self.contiguous(r)).transpose()?,
            act,
        })
    }

    /// What a kernel that normalizes rows first takes: the norm's kind, and where its weights and biases lie in their bindings;
    /// its epsilon. Nothing for no norm.
    pub(super) fn norm_first(&self, norm: Option<ValueId>) -> Result<(Bindings, [u32; 4], f32)> {
        let mut bindings = Bindings::default();
        let (mut how, mut eps) = ([0; 4], 0.0);
        if let Some(norm) = norm {
            let (op, inputs) = self.op(norm)?;
            let Op::Norm(Norm { kind, eps: e }) = *op else { return Err(Error::Internal("no norm".into())) };
            eps = e;
            how[0] = match kind {
                NormKind::Rms => 1,
                NormKind::Layer => 2,
                NormKind::L2 => 3,
            };
            // The kernel reads weights and biases by their slots.
            for (i, &input) in inputs[1..].iter().enumerate() {
                let v = self.vector(input)?;
                let slot = if i == 0 { &mut bindings.weights } else { &mut bindings.constants };
                *slot = Bound::Buffer(v.buffer);
                how[1 + i] = v.at + 1;
            }
        }
        Ok((bindings, how, eps))
    }

    /// Activations to bytes, normalized first if asked.
    fn quantize(&mut self, norm: Option<ValueId>, x: Activations) -> Result<()> {
        let (bindings, how, eps) = self.norm_first(norm)?;
        let params = Params::default()
            .u(&[word(x.k)?, word(x.at)?, word(x.bytes)?, word(x.scales)?])
            .u(&how)
            .f(&[eps, 0.0, 0.0, 0.0]);
        self.add(Kernel::plain("quantize", &[]), bindings, params, [x.k.div_ceil(1024), x.n, 1])
    }

    /// Products over the same activations; those that share type and buffers in one dispatch.
    fn products(
        &mut self,
        products: &[Product],
        x: Activations,
        fast: &dyn Fn(&Product) -> bool,
        hand: Option<Handed>,
    ) -> Result<()> {
        let mut parts: Vec<(&Product, &Part)> =
            products.iter().flat_map(|p| p.weight.parts.iter().map(move |part| (p, part))).collect();
        while !parts.is_empty() {
            let (first, part) = parts[0];
            // Two types may go together, where both are fast.
            let mut types = vec![first.weight.dtype];
            let alike = |(p, q): &(&Product, &Part)| {
                let dtype = p.weight.dtype;
                let kind = types.contains(&dtype) || (types.len() == 1 && fast(first) && fast(p));
                let together = kind
                    && q.buffer == part.buffer
                    && p.act == first.act
                    && p.bias.as_ref().map(|b| &b.buffer) == first.bias.as_ref().map(|b| &b.buffer);
                if together && !types.contains(&dtype) {
                    types.push(dtype);
                }
                together
            };
            let (mut group, mut rest): (Vec<_>, Vec<_>) = parts.into_iter().partition(alike);
            rest.extend(group.split_off(group.len().min(3)));
            parts = rest;
            self.dispatch(&group, x, fast(group[0].0), Beside { hand, ..Beside::default() })?;
        }
        Ok(())
    }

    fn dispatch(&mut self, group: &[(&Product, &Part)], x: Activations, fast: bool, beside: Beside) -> Result<()> {
        let Beside { gated, experts, hand } = beside;
        let (first, part) = group[0];
        let mut params = Params::default();
        for i in 0..3 {
            let Some((p, q)) = group.get(i) else {
                params = params.u(&[0; 12]);
                continue;
            };
            let at = |base: Option<u32>| Ok::<_, Error>(base.map_or(0, |b| b + 1 + q.first as u32));
            params = params.u(&q.planes).u(&[
                word(p.weight.blocks)?,
                word(q.rows)?,
                word(p.to + q.first)?,
                at(p.bias.as_ref().map(|b| b.at))?,
                word(p.stride)?,
                at(p.residual)?,
                u32::from(p.weight.dtype != first.weight.dtype),
                0,
            ]);
        }
        let x_at = if fast { x.bytes } else { x.at };
        let params = params
            .u(&[word(x.k)?, word(x.n)?, word(x_at)?, word(x.scales)?])
            .u(&[first.act, word(group.len())?, word(x.k)?, experts.rows])
            .u(&[experts.ids, experts.n_used, experts.x_rows, 0]);
        let squares = if x.squares == 0 { 0 } else { word(x.squares)? + 1 };
        let params = params.u(&[squares, x.eps.to_bits(), word(x.k / 32)?, 0]);
        let mut bindings = Bindings {
            weights: Bound::Buffer(part.buffer.clone()),
            constants: first.bias.as_ref().map_or(Bound::Nothing, |b| Bound::Buffer(b.buffer.clone())),
            ..Bindings::default()
        };
        let (params, emits) = self.hand_params(params, &mut bindings, hand)?;
        let rows = |n: usize| group.iter().map(|(_, q)| q.rows.div_ceil(n)).sum::<usize>();
        let format = Some(first.weight.dtype);
        let few = x.n <= FEW || experts.ids != 0;
        if !few {
            let kernel = Kernel { format, ..Kernel::plain("matmul", &[]) };
            return self.add(kernel, bindings, params, [rows(64), x.n.div_ceil(64), 1]);
        }
        let subgroup = self.target.device.abilities.subgroup;
        let mut kernel = Kernel { format, subgroup, ..Kernel::plain("matvec", &[]) };
        let (mut tokens, mut group_rows) = (1, ROWS as usize);
        if fast {
            // Without subgroups what every thread has summed up lies in memory of the workgroup.
            let most = if subgroup.is_some() { FEW } else { FEW / 2 };
            tokens = if experts.ids != 0 { 1 } else { x.n.min(most) };
            let team = Team::new(x.k, if gated { part.rows } else { rows(1) }, tokens, subgroup, gated);
            group_rows = team.group_rows() as usize;
            kernel.name = "matvec_fast";
            kernel.constants = team.constants();
            kernel.constants.push(constant("TOKENS", tokens as u32));
            kernel.constants.push(constant("PARTS", 1 + u32::from(gated)));
            kernel.constants.push(constant("EMIT", u32::from(emits)));
            kernel.second = group.iter().map(|(p, _)| p.weight.dtype).find(|dtype| *dtype != first.weight.dtype);
            kernel.constants.push(constant("MIXED", u32::from(kernel.second.is_some())));
        } else {
            kernel.subgroup = subgroup.filter(|n| THREADS.is_multiple_of(*n));
            kernel.constants = vec![constant("WG", THREADS), constant("ROWS", ROWS)];
        }
        let row_groups = if gated { part.rows.div_ceil(group_rows) } else { rows(group_rows) };
        let [columns, lines, _] = grid_of(row_groups);
        self.add(kernel, bindings, params, [columns, x.n.div_ceil(tokens), lines])
    }

    /// The parameters of a result that goes on as bytes. Without a slot for the weight of its norm it does not.
    fn hand_params(&mut self, params: Params, bindings: &mut Bindings, hand: Option<Handed>) -> Result<(Params, bool)> {
        let Some(hand) = hand else { return Ok((params, false)) };
        let (mut squares, mut at, mut space) = (0, 0, 0);
        if let Some(norm) = hand.norm {
            squares = word(hand.squares)? + 1;
            let (_, inputs) = self.op(norm)?;
            if let Some(&w) = inputs.get(1) {
                let vector = self.vector(w)?;
                let Some(slot) = claim(bindings, &vector) else {
                    self.unhand(hand);
                    return Ok((params, false));
                };
                (at, space) = (vector.at + 1, slot);
            }
        }
        Ok((params.u(&[word(hand.bytes)?, word(hand.scales)?, squares, at]).u(&[space, 0, 0, 0]), true))
    }
}

/// How `matvec_fast` shares out its work: threads of a workgroup, threads and rows of a team, teams along the same rows.
#[derive(Clone, Copy)]
struct Team {
    threads: u32,
    lanes: u32,
    rows: u32,
    split: u32,
}

impl Team {
    fn new(k: usize, rows: usize, tokens: usize, subgroup: Option<u32>, gated: bool) -> Team {
        let units = (k / UNIT).next_power_of_two() as u32;
        if subgroup.is_none() {
            return match tokens {
                1 => Team { threads: 64, lanes: 8, rows: 4, split: 1 },
                _ => Team { threads: 128, lanes: 8, rows: 2, split: 1 },
            };
        }
        let lanes = units.clamp(8, 32);
        // Few rows, as many as a large device has multiprocessors: all teams of one share them.
        let shared = !gated && units > WIDE_UNITS && rows.div_ceil(32) <= 256;
        match (shared, tokens) {
            (false, 1) => Team { threads: 512, lanes, rows: 2, split: 1 },
            // Two rows, and no more than 32 in a workgroup: results of all tokens lie in its memory.
            (false, _) => Team { threads: 16 * lanes, lanes, rows: 2, split: 1 },
            (true, 1) if units >= 128 => Team { threads: 1024, lanes, rows: 4, split: 4 },
            (true, 1) => Team { threads: 512, lanes, rows: 4, split: 2 },
            (true, _) => Team { threads: 512, lanes: 16, rows: 2, split: 2 },
        }
    }

    /// Rows of a workgroup: whole blocks of 32, as which results are handed on.
    fn group_rows(self) -> u32 {
        self.threads / self.lanes / self.split * self.rows
    }

    fn constants(self) -> Vec<(&'static str, u32)> {
        vec![
            constant("WG", self.threads),
            constant("LANES", self.lanes),
            constant("ROWS", self.rows),
            constant("SPLIT", self.split),
        ]
    }
}
