//! Products of many tokens by cooperative matrices. Activations become halves once for all products over them. Weights of
//! other types than f16 become halves slab by slab.

use super::linear::FEW;
use super::*;
use crate::backend::gpu::weights::{Part, Resident};
use crate::graph::fuse::{Linear, Mat};
use std::sync::Arc;

/// Elements of a row that `matmul_coop` takes at a time: halves are padded to multiples of it.
const DEPTH: usize = 64;

/// Elements that become halves at a time.
const PIECE: usize = 8;

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

/// The last result that was stored as halves too.
#[derive(Default)]
pub(super) struct Halved {
    value: Option<ValueId>,
    /// First word and number of words of the place, which outlives its step.
    at: usize,
    size: usize,
}

/// A product to be made.
struct Product {
    weight: Arc<Resident>,
    to: usize,
    stride: usize,
    bias: Option<Vector>,
    residual: Option<u32>,
    act: u32,
}

/// Rows of a part of a product's weights, from `first` of the part on.
struct Segment<'a> {
    product: &'a Product,
    part: &'a Part,
    first: usize,
    rows: usize,
    form: Form,
}

/// How a product has its weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// They are halves, with nothing to be padded.
    Half,
    /// They are expanded before.
    Expanded,
}

impl Form {
    fn of(weight: &Resident, k: usize) -> Form {
        match weight.dtype {
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
    fn to(&self) -> Result<u32> {
        Ok(word(self.product.to)? + self.row())
    }

    /// Offset of its bias plus one; 0: none.
    fn bias(&self) -> u32 {
        self.product.bias.as_ref().map_or(0, |b| b.at + 1 + self.row())
    }

    /// Offset of what is added last plus one; 0: nothing.
    fn residual(&self) -> u32 {
        self.product.residual.map_or(0, |at| at + 1 + self.row())
    }

    /// Whether a dispatch can have both.
    fn goes_with(&self, other: &Segment) -> bool {
        let bias = |s: &Segment| s.product.bias.as_ref().map(|b| b.buffer.clone());
        let same = self.part.buffer == other.part.buffer;
        self.form == other.form
            && (self.form == Form::Expanded || same)
            && self.product.act == other.product.act
            && bias(self) == bias(other)
    }
}

impl Compiler<'_> {
    /// Whether a step is made by cooperative matrices: f32 has more digits than a half, bf16 more range.
    pub(super) fn takes_tiles(&self, l: &Linear) -> Result<bool> {
        let x = self.value(l.x);
        if x.ne[1] <= FEW || !x.ne[0].is_multiple_of(PIECE) || !self.target.device.abilities.matrices {
            return Ok(false);
        }
        for mat in &l.mats {
            if matches!(self.matrix(mat)?.dtype, DType::F32 | DType::BF16) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn tiles(&mut self, l: &Linear) -> Result<()> {
        let x = self.value(l.x);
        let (k, n) = (x.ne[0], x.ne[1]);
        let padded = k.next_multiple_of(DEPTH);
        let halved = match l.glu {
            Some(glu) if self.is_read_by_tiles(glu)? => {
                let m = self.value(glu).ne[0];
                Some(self.keep_halved(m.next_multiple_of(DEPTH) * n / 2))
            }
            _ => None,
        };
        let mut products = Vec::with_capacity(l.mats.len());
        for mat in &l.mats {
            products.push(self.tiled_product(mat, l.glu.is_some(), n)?);
        }
        let halves = match self.halved.value {
            // Not where this step's own result goes.
            Some(value) if halved.is_none() && l.norm.is_none() && self.is_whole(l.x, value) => self.halved.at,
            _ => {
                let Location::Arena(at) = self.locate(l.x, 0)? else {
                    return Err(Error::Unsupported(format!("{} as activations on a GPU", x.name)));
                };
                let to = self.take_scratch(n * padded / 2);
                self.halve(l.norm, [k, n], [word(at)?, word(to)?])?;
                to
            }
        };
        let segments: Vec<Segment> = products.iter().flat_map(|p| segments(p, k)).collect();
        let expanded = segments.iter().filter(|s| s.form == Form::Expanded);
        let slab = expanded.map(|s| s.rows * padded).sum::<usize>();
        let slab = slab.min(SLAB.max(padded));
        let slab = self.take_scratch(slab / 2);
        let mut rest = &segments[..];
        while let Some(first) = rest.first() {
            let mut size = 0;
            let together = rest.iter().take(3).take_while(|s| {
                size += s.rows * padded;
                s.goes_with(first) && (s.form != Form::Expanded || size <= SLAB.max(padded))
            });
            let (group, others) = rest.split_at(together.count().max(1));
            self.multiply(group, [k, n], halves, slab)?;
            rest = others;
        }
        let (Some(glu), [gate, up]) = (l.glu, &products[..]) else { return Ok(()) };
        let (Op::Glu(op), _) = self.op(glu)? else { return Err(Error::Internal("no gate".into())) };
        let (act, to, m) = (activation(Some(op.activation())), self.result(glu)?, gate.stride);
        let Some(halved) = halved else { return self.glu(gate.to, up.to, to, m * n, act) };
        self.halved.value = Some(glu);
        let params = Params::default()
            .u(&[word(m)?, word(up.to)?, word(halved)?, word(gate.to)? + 1])
            .u(&[0, 0, 0, act])
            .u(&[0, to + 1, word(m.next_multiple_of(DEPTH))?, 0]);
        self.add(Kernel::plain("halve", &[]), Bindings::default(), params, [n, 1, 1])
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

    /// Whether products that go through tiles read a result as it is.
    fn is_read_by_tiles(&self, id: ValueId) -> Result<bool> {
        for step in &self.plan.steps {
            if let Step::Linear(l) = step
                && l.norm.is_none()
                && self.is_whole(l.x, id)
            {
                return self.takes_tiles(l);
            }
        }
        Ok(false)
    }

    /// A place for a result as halves, which later steps find; before anything else of the step has a place.
    fn keep_halved(&mut self, size: usize) -> usize {
        if self.halved.size < size {
            (self.halved.at, self.halved.size) = (self.take_scratch(size), size);
            self.halved.value = None;
            self.scratch_base = self.scratch;
        }
        self.halved.at
    }

    /// Rows to halves, normalized first if asked.
    fn halve(&mut self, norm: Option<ValueId>, [k, n]: [usize; 2], [at, to]: [u32; 2]) -> Result<()> {
        let (bindings, how, eps) = self.norm_first(norm)?;
        let params = Params::default().u(&[word(k)?, at, to, 0]).u(&how).u(&[
            eps.to_bits(),
            0,
            word(k.next_multiple_of(DEPTH))?,
            0,
        ]);
        self.add(Kernel::plain("halve", &[]), bindings, params, [n, 1, 1])
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
                Form::Expanded => {
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
        let constants = first.product.bias.as_ref().map_or(Bound::Nothing, |b| Bound::Buffer(b.buffer.clone()));
        let bindings = Bindings {
            constants: constants.clone(),
            state: Bound::Arena,
            ..match first.form {
                Form::Expanded => Bindings { state_v: Bound::Arena, ..Bindings::default() },
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
        let mut partial_at = partial;
        for s in group.iter().filter(|_| parts > 1) {
            let params = Params::default()
                .u(&[word(s.rows)?, word(n)?, word(parts)?, word(all)?])
                .u(&[word(partial_at)?, s.to()?, word(s.product.stride)?, s.product.act])
                .u(&[s.bias(), s.residual(), 0, 0]);
            let bindings = Bindings { constants: constants.clone(), ..Bindings::default() };
            self.add(Kernel::plain("parts", &[]), bindings, params, grid_of((s.rows * n).div_ceil(256)))?;
            partial_at += size(s);
        }
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

/// The segments of a product: those to be expanded are no larger than a slab.
fn segments(product: &Product, k: usize) -> Vec<Segment<'_>> {
    let form = Form::of(&product.weight, k);
    let most = match form {
        Form::Half => usize::MAX,
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
