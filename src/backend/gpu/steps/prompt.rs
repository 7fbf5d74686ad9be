//! Products of many tokens by cooperative matrices. Activations become halves once for all products over them. Weights of
//! other types than f16 become halves slab by slab.

use super::few::{Parts, TILE, is_few, tiled_size};
use super::linear::{FEW, UNIT};
use super::*;
use crate::backend::gpu::shader::is_fast;
use crate::backend::gpu::weights::{Part, Resident};
use crate::graph::fuse::{Linear, Mat};
use std::sync::Arc;

/// Elements of a row that `matmul_coop` takes at a time: halves are padded to multiples of it.
const DEPTH: usize = 64;

/// Elements that become halves at a time.
const PIECE: usize = 8;

/// Most tokens whose products `matvec_fast` is quicker with, and `matvec`.
const ALONE_FAST: usize = 6;
const ALONE: usize = 2;

/// Threads of a workgroup of `halve`.
const HALVE_THREADS: usize = 512;

/// Elements of a slab, 256 MiB of halves: smaller ones make grids that leave more of a device idle at their ends.
const SLAB: usize = 128 << 20;

/// Tokens and rows of a subgroup of `matmul_coop`.
const TEAM: [usize; 2] = [64, 32];

/// Subgroups along the rows of a tile, and most along its tokens.
const ROW_TEAMS: usize = 4;
const TOKEN_TEAMS: usize = 2;

/// Workgroups that keep a large device busy: products of fewer tiles are made in parts.
const BUSY: usize = 192;

/// Most parts of a product, and the least steps of DEPTH of one.
const MAX_PARTS: usize = 8;
const MIN_STEPS: usize = 8;

/// Results that were stored as halves too: the last before a norm, normalized, and the last without one.
#[derive(Default)]
pub(super) struct Halved([Place; 2]);

#[derive(Default, Clone, Copy)]
struct Place {
    /// The result, and the norm that was applied.
    of: Option<(ValueId, Option<ValueId>)>,
    /// First word and number of words, which outlive their step.
    at: usize,
    size: usize,
}

/// What becomes halves, and how.
#[derive(Default, Clone, Copy)]
struct ToHalves {
    /// Elements of a row, rows.
    k: usize,
    n: usize,
    /// First word of the rows, of the result.
    from: usize,
    to: usize,
    norm: Option<ValueId>,
    /// First word of the gate, and its activation.
    gate: Option<(usize, u32)>,
    /// Where it goes too, before it is normalized.
    also: Option<u32>,
    /// The parts of which rows and gate are the sums, and what is added to them.
    parts: Option<Parts>,
    residual: Option<u32>,
}

/// A product to be made.
pub(super) struct Product {
    pub weight: Arc<Resident>,
    to: usize,
    pub stride: usize,
    bias: Option<Vector>,
    residual: Option<u32>,
    pub act: u32,
}

/// Rows of a part of a product's weights, from `first` of the part on.
pub(super) struct Segment<'a> {
    pub product: &'a Product,
    pub part: &'a Part,
    first: usize,
    pub rows: usize,
    form: Form,
}

/// How a product has its weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// They are halves, with nothing to be padded.
    Half,
    /// They are expanded before.
    Expanded,
    /// As they are: they become halves on their way.
    Packed,
}

impl Form {
    fn of(weight: &Resident, [k, n]: [usize; 2]) -> Form {
        match weight.dtype {
            _ if is_few(k, n) => Form::Packed,
            DType::F16 if k.is_multiple_of(DEPTH) => Form::Half,
            _ => Form::Expanded,
        }
    }
}

impl Segment<'_> {
    /// Its first row in the whole product.
    fn row(&self) -> u32 {
        (self.part.first + self.first) as u32
    }

    /// Where its results go.
    pub(super) fn to(&self) -> Result<u32> {
        Ok(word(self.product.to)? + self.row())
    }

    /// Offset of its bias plus one; 0: none.
    pub(super) fn bias(&self) -> u32 {
        self.product.bias.as_ref().map_or(0, |b| b.at + 1 + self.row())
    }

    /// Offset of what is added last plus one; 0: nothing.
    pub(super) fn residual(&self) -> u32 {
        self.product.residual.map_or(0, |at| at + 1 + self.row())
    }

    /// Whether its result is whole tiles of sums, to which at most a residual is added.
    pub(super) fn is_whole(&self) -> bool {
        let p = self.product;
        let aligned = |at: u32| at.is_multiple_of(4);
        let places = self.to().is_ok_and(aligned) && p.residual.is_none_or(|at| aligned(at + self.row()));
        self.rows.is_multiple_of(2 * TILE) && p.bias.is_none() && p.act == 0 && p.stride.is_multiple_of(4) && places
    }

    /// What binds its bias.
    pub(super) fn constants(&self) -> Bound {
        self.product.bias.as_ref().map_or(Bound::Nothing, |b| Bound::Buffer(b.buffer.clone()))
    }

    /// Whether a dispatch can have both.
    fn goes_with(&self, other: &Segment) -> bool {
        let bias = |s: &Segment| s.product.bias.as_ref().map(|b| b.buffer.clone());
        let same = self.part.buffer == other.part.buffer;
        self.form == other.form
            && (self.form == Form::Expanded || same)
            && (self.form != Form::Packed || self.product.weight.dtype == other.product.weight.dtype)
            && self.product.act == other.product.act
            && bias(self) == bias(other)
    }
}

impl Compiler<'_> {
    /// Whether a step is made by cooperative matrices: f32 has more digits than a half, bf16 more range.
    pub(super) fn takes_tiles(&self, l: &Linear) -> Result<bool> {
        let x = self.value(l.x);
        if !x.ne[0].is_multiple_of(PIECE) || !self.target.device.abilities.matrices {
            return Ok(false);
        }
        let mut alone = ALONE_FAST;
        for mat in &l.mats {
            let dtype = self.matrix(mat)?.dtype;
            if matches!(dtype, DType::F32 | DType::BF16) {
                return Ok(false);
            }
            if !is_fast(dtype) || !x.ne[0].is_multiple_of(UNIT) {
                alone = ALONE;
            }
        }
        Ok(x.ne[1] > alone)
    }

    pub(super) fn tiles(&mut self, l: &Linear) -> Result<()> {
        let x = self.value(l.x);
        let (k, n) = (x.ne[0], x.ne[1]);
        let padded = k.next_multiple_of(DEPTH);
        let there = self
            .halved
            .0
            .iter()
            .find(|place| place.of.is_some_and(|(value, norm)| norm == l.norm && self.is_whole(l.x, value)));
        let there = there.map(|place| place.at);
        let halved = self.halved_result(l, n)?;
        let mut products = Vec::with_capacity(l.mats.len());
        for mat in &l.mats {
            products.push(self.tiled_product(mat, l.glu.is_some(), n)?);
        }
        let halves = match there {
            Some(at) => at,
            None => {
                let Location::Arena(from) = self.locate(l.x, 0)? else {
                    return Err(Error::Unsupported(format!("{} as activations on a GPU", x.name)));
                };
                let to = self.take_scratch(halves_of(k, n));
                self.halve(ToHalves { k, n, from, to, norm: l.norm, ..ToHalves::default() })?;
                to
            }
        };
        let segments: Vec<Segment> = products.iter().flat_map(|p| segments(p, [k, n])).collect();
        let expanded = segments.iter().filter(|s| s.form == Form::Expanded);
        let slab = expanded.map(|s| s.rows * padded).sum::<usize>();
        let slab = slab.min(SLAB.max(padded));
        let slab = self.take_scratch(slab / 2);
        let mut parts = Vec::new();
        let mut done = 0;
        while let Some(first) = segments.get(done) {
            let mut size = 0;
            let together = segments[done..].iter().take(3).take_while(|s| {
                size += s.rows * padded;
                s.goes_with(first) && (s.form != Form::Expanded || size <= SLAB.max(padded))
            });
            let group = &segments[done..][..together.count().max(1)];
            if first.form == Form::Packed {
                parts.extend(self.multiply_few(group, done, [k, n], halves)?);
            } else {
                self.multiply(group, [k, n], halves, slab)?;
            }
            done += group.len();
        }
        if let (Some(glu), [gate, up]) = (l.glu, &products[..]) {
            return self.tiled_glu(glu, [gate, up], &segments, &parts, n, halved);
        }
        if let (Some((to, norm)), [sum], [mat]) = (halved, &parts[..], &l.mats[..])
            && segments.len() == 1
            && products[0].residual.is_none_or(|at| at.is_multiple_of(4))
        {
            let residual = products[0].residual;
            let also = Some(self.result(mat.out)?);
            self.keep(mat.out, norm, to);
            let k = products[0].stride;
            let parts = Some(*sum);
            return self.halve(ToHalves { k, n, from: sum.at, to, norm, also, parts, residual, ..ToHalves::default() });
        }
        self.add_parts(&segments, &parts, n)
    }

    /// A gate's result, as halves too if they have a place.
    fn tiled_glu(
        &mut self,
        glu: ValueId,
        [gate, up]: [&Product; 2],
        segments: &[Segment],
        parts: &[Parts],
        n: usize,
        halved: Option<(usize, Option<ValueId>)>,
    ) -> Result<()> {
        let (Op::Glu(op), _) = self.op(glu)? else { return Err(Error::Internal("no gate".into())) };
        let (act, also, k) = (activation(Some(op.activation())), self.result(glu)?, gate.stride);
        let Some((to, norm)) = halved else {
            self.add_parts(segments, parts, n)?;
            return self.glu(gate.to, up.to, also, k * n, act);
        };
        self.keep(glu, norm, to);
        let also = Some(also);
        // One kind of parts for both.
        if let [g, u] = parts
            && (g.segment, u.segment) == (0, 1)
            && segments.len() == 2
            && (g.stride, g.n, g.all) == (u.stride, u.n, u.all)
            && gate.bias.is_none()
            && up.bias.is_none()
        {
            let gate = Some((g.at, act));
            return self.halve(ToHalves { k, n, from: u.at, to, gate, also, parts: Some(*u), ..ToHalves::default() });
        }
        self.add_parts(segments, parts, n)?;
        self.halve(ToHalves { k, n, from: up.to, to, gate: Some((gate.to, act)), also, ..ToHalves::default() })
    }

    /// Where the result of a step goes as halves, and the norm that is applied: if it is known who reads it, and can be
    /// written so. Before anything else of the step has a place.
    fn halved_result(&mut self, l: &Linear, n: usize) -> Result<Option<(usize, Option<ValueId>)>> {
        let (out, alone) = match (l.glu, &l.mats[..]) {
            (Some(glu), _) => (glu, false),
            (None, [mat]) => (mat.out, true),
            _ => return Ok(None),
        };
        let k = self.value(out).ne[0];
        // Sums of parts alone are made where they become halves.
        let k_in = self.value(l.x).ne[0];
        if alone && (!is_few(k_in, n) || !is_few(k, n) || l.mats[0].bias.is_some() || l.mats[0].act.is_some()) {
            return Ok(None);
        }
        let Some(norm) = self.read_by_tiles(out)?.filter(|norm| alone || norm.is_none()) else { return Ok(None) };
        Ok(Some((self.place_halved(norm, halves_of(k, n)), norm)))
    }

    /// The same for an attention, whose parts are joined where they become halves.
    pub(super) fn halved_attention(&mut self, id: ValueId) -> Result<Option<usize>> {
        let v = self.value(id);
        let (k, n) = (v.ne[0], v.ne[1]);
        if n <= FEW || !is_few(k, n) || self.read_by_tiles(id)? != Some(None) {
            return Ok(None);
        }
        Ok(Some(self.place_halved(None, halves_of(k, n))))
    }

    /// A place for a result as halves, before anything else of its step has one.
    fn place_halved(&mut self, norm: Option<ValueId>, size: usize) -> usize {
        let place = usize::from(norm.is_none());
        if self.halved.0[place].size < size {
            self.halved.0[place] = Place { of: None, at: self.take_scratch(size), size };
            self.scratch_base = self.scratch;
        }
        self.halved.0[place].at
    }

    /// Tells later steps of a result as halves.
    pub(super) fn keep(&mut self, id: ValueId, norm: Option<ValueId>, at: usize) {
        for place in &mut self.halved.0 {
            if place.at == at {
                place.of = Some((id, norm));
            }
        }
    }

    fn matrix(&self, mat: &Mat) -> Result<Arc<Resident>> {
        let w = self.value(mat.w);
        let Source::Weight(weight) = &w.source else {
            return Err(Error::Internal(format!("{} is no weight", w.name)));
        };
        self.weights_of(weight).matrix(weight)
    }

    fn tiled_product(&mut self, mat: &Mat, gated: bool, n: usize) -> Result<Product> {
        let stride = self.value(mat.w).ne[1];
        let act = match mat.act.map(|id| self.op(id)).transpose()? {
            Some((Op::Unary(op), _)) => activation(Some(*op)),
            _ => 0,
        };
        Ok(Product {
            weight: self.matrix(mat)?,
            to: if gated { self.take_scratch(n * stride) } else { self.result(mat.out)? as usize },
            stride,
            bias: mat.bias.map(|b| self.vector(b)).transpose()?,
            residual: mat.residual.map(|r| self.contiguous(r)).transpose()?,
            act,
        })
    }

    /// Whether two values are the same elements.
    fn is_whole(&self, id: ValueId, owner: ValueId) -> bool {
        let (of, offset) = self.plan.graph.resolve(id);
        let (v, o) = (self.value(id), self.value(of));
        of == owner && offset == 0 && v.is_contiguous() && v.n_elements() == o.n_elements() && v.ne[0] == o.ne[0]
    }

    /// The norm by which products that go through tiles read a result; `None`: no such product does.
    fn read_by_tiles(&self, id: ValueId) -> Result<Option<Option<ValueId>>> {
        for step in &self.plan.steps {
            if let Step::Linear(l) = step
                && self.is_whole(l.x, id)
            {
                return Ok(self.takes_tiles(l)?.then_some(l.norm));
            }
        }
        Ok(None)
    }

    /// Rows to halves.
    fn halve(&mut self, h: ToHalves) -> Result<()> {
        let (bindings, mut how, eps) = self.norm_first(h.norm)?;
        let padded = h.k.next_multiple_of(DEPTH);
        let plus_one = |at: Option<u32>| at.map_or(0, |at| at + 1);
        let mut gate = 0;
        if let Some((at, act)) = h.gate {
            (gate, how[3]) = (word(at)? + 1, act);
        }
        let sums = match h.parts {
            None => [0, 0, 0],
            Some(parts) => [word(parts.n)?, word(parts.all)?, word(parts.stride)?],
        };
        let params = Params::default()
            .u(&[word(h.k)?, word(h.from)?, word(h.to)?, gate])
            .u(&how)
            .u(&[eps.to_bits(), plus_one(h.also), word(padded)?, tiles_of(h.k, h.n)?])
            .u(&sums)
            .u(&[plus_one(h.residual)]);
        let groups = if h.norm.is_some() { 1 } else { padded.div_ceil(8 * HALVE_THREADS) };
        self.add(Kernel::plain("halve", &[]), bindings, params, [h.n, groups, 1])
    }

    /// Adds up what is left in parts.
    fn add_parts(&mut self, segments: &[Segment], parts: &[Parts], n: usize) -> Result<()> {
        let mut rest = parts;
        while let Some(first) = rest.first() {
            let bound = segments[first.segment].constants();
            let (group, others) = rest
                .split_at(rest.iter().take(3).take_while(|parts| segments[parts.segment].constants() == bound).count());
            rest = others;
            let mut params = Params::default();
            for i in 0..3 {
                let Some(parts) = group.get(i) else {
                    params = params.u(&[0; 12]);
                    continue;
                };
                let s = &segments[parts.segment];
                params = params
                    .u(&[word(s.rows)?, word(parts.at)?, word(parts.stride)?, s.bias()])
                    .u(&[s.to()?, word(s.product.stride)?, s.residual(), s.product.act])
                    .u(&[word(parts.n)?, word(parts.all)?, 0, 0]);
            }
            let params = params.u(&[word(group.len())?, 0, 0, 0]);
            let bindings = Bindings { constants: bound, ..Bindings::default() };
            let groups = group.iter().map(|parts| segments[parts.segment].rows.div_ceil(256)).sum();
            self.add(Kernel::plain("parts", &[]), bindings, params, [groups, n, 1])?;
        }
        Ok(())
    }

    /// The products of segments, whose weights become halves in the slab.
    fn multiply(&mut self, group: &[Segment], [k, n]: [usize; 2], halves: usize, slab: usize) -> Result<()> {
        let padded = k.next_multiple_of(DEPTH);
        let teams = [if n > TEAM[0] { TOKEN_TEAMS } else { 1 }, ROW_TEAMS];
        let grid =
            [n.div_ceil(teams[0] * TEAM[0]), group.iter().map(|s| s.rows.div_ceil(teams[1] * TEAM[1])).sum::<usize>()];
        let steps = padded / DEPTH;
        let parts = (BUSY / (grid[0] * grid[1])).clamp(1, MAX_PARTS).min(steps.div_ceil(MIN_STEPS));
        let share = steps.div_ceil(parts);
        let parts = steps.div_ceil(share);
        let size = |s: &Segment| (s.rows * n).next_multiple_of(ALIGN);
        let all: usize = group.iter().map(size).sum();
        let scratch = self.scratch;
        let partial = if parts > 1 { self.take_scratch(parts * all) } else { 0 };
        let mut params = Params::default();
        let (mut at, mut partial_at) = (slab, partial);
        let mut sums = Vec::with_capacity(group.len());
        for i in 0..3 {
            let Some(s) = group.get(i) else {
                params = params.u(&[0; 12]);
                continue;
            };
            let (weight, planes) = (&s.product.weight, s.part.planes);
            params = match s.form {
                Form::Half => {
                    params.u(&[planes[0] / 2 + 2 * word(s.first * weight.blocks)?, 0, 0, 0, 2 * word(weight.blocks)?])
                }
                Form::Expanded | Form::Packed => {
                    self.expand(s, k, at)?;
                    let first = at;
                    at += s.rows * padded / 2;
                    params.u(&[word(first / 2)?, 0, 0, 0, word(padded / 4)?])
                }
            };
            params = params.u(&[word(s.rows)?]);
            params = match parts {
                1 => params.u(&[s.to()?, s.bias(), word(s.product.stride)?, s.residual(), 0, 0]),
                _ => params.u(&[word(partial_at)?, 0, word(s.rows)?, 0, 0, 0]),
            };
            if parts > 1 {
                sums.push(Parts { segment: i, at: partial_at, stride: s.rows, n: parts, all });
            }
            partial_at += size(s);
        }
        let first = &group[0];
        let act = if parts > 1 { 0 } else { first.product.act };
        let params = params.u(&[word(padded)?, word(n)?, word(halves / 2)?, word(padded / 4)?]).u(&[
            act,
            word(group.len())?,
            word(share)?,
            word(all)?,
        ]);
        let bindings = Bindings {
            constants: first.constants(),
            state: Bound::Arena,
            ..match first.form {
                Form::Expanded | Form::Packed => Bindings { state_v: Bound::Arena, ..Bindings::default() },
                Form::Half => Bindings { weights: Bound::Buffer(first.part.buffer.clone()), ..Bindings::default() },
            }
        };
        let constants_of = [
            constant("TOKEN_TEAMS", word(teams[0])?),
            constant("ROW_TEAMS", word(teams[1])?),
            constant("EXPANDED", u32::from(first.form == Form::Expanded)),
        ];
        let kernel = Kernel::plain("matmul_coop", &constants_of);
        self.add(kernel, bindings, params, [grid[0], grid[1], parts])?;
        self.add_parts(group, &sums, n)?;
        self.scratch = scratch;
        Ok(())
    }

    /// A segment's weights to halves.
    fn expand(&mut self, s: &Segment, k: usize, to: usize) -> Result<()> {
        let weight = &s.product.weight;
        let padded = k.next_multiple_of(DEPTH);
        let params = Params::default()
            .u(&s.part.planes)
            .u(&[word(weight.blocks)?, word(s.part.rows)?, 0, 0, 0, 0, 0, 0])
            .u(&[word(k)?, word(s.first)?, word(s.rows)?, word(to)?])
            .u(&[word(padded)?, 0, 0, 0]);
        let bindings = Bindings { weights: Bound::Buffer(s.part.buffer.clone()), ..Bindings::default() };
        let kernel = Kernel { format: Some(weight.dtype), ..Kernel::plain("expand", &[]) };
        self.add(kernel, bindings, params, [(padded / PIECE).div_ceil(256), s.rows, 1])
    }
}

/// Words of `n` rows of `k` activations as halves.
fn halves_of(k: usize, n: usize) -> usize {
    if is_few(k, n) { tiled_size(k, n) } else { n * k.next_multiple_of(DEPTH) / 2 }
}

/// Tiles of a row of activations; 0: they lie in rows.
fn tiles_of(k: usize, n: usize) -> Result<u32> {
    word(if is_few(k, n) { k / TILE } else { 0 })
}

/// The segments of a product: those to be expanded are no larger than a slab.
fn segments(product: &Product, [k, n]: [usize; 2]) -> Vec<Segment<'_>> {
    let form = Form::of(&product.weight, [k, n]);
    let most = match form {
        Form::Half | Form::Packed => usize::MAX,
        Form::Expanded => (SLAB / k.next_multiple_of(DEPTH) / 128 * 128).clamp(1, MAX_GRID),
    };
    let mut all = Vec::new();
    for part in &product.weight.parts {
        let mut first = 0;
        while first < part.rows {
            let rows = most.min(part.rows - first);
            all.push(Segment { product, part, first, rows, form });
            first += rows;
        }
    }
    all
}
