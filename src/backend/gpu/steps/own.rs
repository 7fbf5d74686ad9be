//! A single token's heads prepared by its attention, see `attention_own.wgsl`.

use super::attention::Shape;
use super::*;
use crate::graph::fuse::{FusedAttention, Heads};
use crate::graph::{Norm, NormKind, RopeKind};
use std::sync::Arc;

/// What `attention_own.wgsl` is told.
#[derive(Default)]
pub(super) struct Own {
    key: [u32; 2],
    value: [u32; 2],
    rope: [u32; 4],
    table: Option<wgpu::Buffer>,
    rows: [u32; 4],
    norms: [Option<Normed>; 2],
    scales: [f32; 2],
}

impl Own {
    /// Whether key and value go to rows of the same number.
    pub(super) fn is_one_row(&self) -> bool {
        self.rows[0] == self.rows[1] && self.rows[2] == self.rows[3]
    }
}

/// A norm of heads: its weight and epsilon.
struct Normed {
    weight: Option<Vector>,
    eps: f32,
}

impl Compiler<'_> {
    /// What the kernel needs to prepare the heads of a single token, if it can.
    pub(super) fn own(&mut self, a: &FusedAttention, q: &Operand, shape: Shape) -> Result<Option<Own>> {
        let (Some(k), Some(v)) = (&a.k, &a.v) else { return Ok(None) };
        let plain = v.heads.norm.is_none() && v.heads.rope.is_none() && v.heads.scale.is_none();
        let mixed = [&a.q, &k.heads, &v.heads].iter().any(|h| h.hadamard.is_some());
        if shape.n_tokens != 1 || !plain || mixed || q.space != ARENA {
            return Ok(None);
        }
        let mut own = Own { scales: [1.0; 2], ..Own::default() };
        // Both turn alike, or neither.
        let same = match (a.q.rope, k.heads.rope) {
            (None, None) => true,
            (Some(x), Some(y)) => {
                let ((x, x_at, x_by), (y, y_at, y_by)) = (self.rope_of(x)?, self.rope_of(y)?);
                x == y && x_at == y_at && x_by.map(|w| Arc::as_ptr(&w)) == y_by.map(|w| Arc::as_ptr(&w))
            }
            _ => false,
        };
        if !same {
            return Ok(None);
        }
        if let Some(id) = k.heads.rope {
            let (rope, positions, factors) = self.rope_of(id)?;
            let factors = factors.map(|w| crate::backend::gpu::weights::floats(&w)).transpose()?;
            // A thread has pairs, or its partner is a thread.
            if !rope.n_dims.is_multiple_of(16) || rope.n_dims > shape.d {
                return Ok(None);
            }
            let table = self.rotations(&rope, factors.as_deref())?;
            let pairing = match rope.kind {
                RopeKind::Norm => 1,
                RopeKind::Neox => 2,
            };
            own.rope = [word(rope.n_dims)?, pairing, self.contiguous(positions)?, table.at];
            own.table = Some(table.buffer);
        }
        for (i, heads) in [&a.q, &k.heads].into_iter().enumerate() {
            if let Some(id) = heads.norm {
                let (op, inputs) = self.op(id)?;
                let Op::Norm(Norm { kind: NormKind::Rms, eps }) = *op else { return Ok(None) };
                if inputs.len() > 2 {
                    return Ok(None);
                }
                let weight = inputs.get(1).map(|&w| self.vector(w)).transpose()?;
                own.norms[i] = Some(Normed { weight, eps });
            }
            if let Some(id) = heads.scale
                && let (Op::Scale { scale, .. }, _) = self.op(id)?
            {
                own.scales[i] = *scale;
            }
        }
        let Some(key) = self.single_heads(&k.heads, k.set_rows, shape.d)? else { return Ok(None) };
        let Some(value) = self.single_heads(&v.heads, v.set_rows, shape.d)? else { return Ok(None) };
        (own.key, own.value) = (key, value);
        for (i, store) in [k, v].into_iter().enumerate() {
            let (_, inputs) = self.op(store.set_rows)?;
            let Location::State(state, 0) = self.locate(inputs[0], 0)? else { return Ok(None) };
            own.rows[i] = self.contiguous(inputs[2])?;
            own.rows[2 + i] = word(self.target.states[state.0 as usize].rows)?;
        }
        Ok(Some(own))
    }

    /// A rotation, its positions and its factors.
    fn rope_of(&self, id: ValueId) -> Result<(crate::graph::Rope, ValueId, Option<WeightRef>)> {
        let (op, inputs) = self.op(id)?;
        let Op::Rope(rope) = *op else { return Err(Error::Internal("no rotation".into())) };
        let factors = match inputs.get(2).map(|&f| &self.value(f).source) {
            None => None,
            Some(Source::Weight(w)) => Some(w.clone()),
            Some(_) => return Err(Error::Unsupported("frequency factors that are no weight".into())),
        };
        Ok((rope, inputs[1], factors))
    }

    /// Offset and stride of the heads of `d` elements of a single token.
    fn single_heads(&self, heads: &Heads, set_rows: ValueId, d: usize) -> Result<Option<[u32; 2]>> {
        let shown = self.value(heads.src);
        let as_rows = heads.norm.is_none() && heads.rope.is_none() && heads.scale.is_none();
        let (source, stride) = if as_rows {
            let (_, inputs) = self.op(set_rows)?;
            (self.operand(inputs[1], &mut Bindings::default())?, word(d)?)
        } else {
            let source = self.operand(heads.src, &mut Bindings::default())?;
            if shown.ne[0] != d {
                return Ok(None);
            }
            (source, source.nb[1])
        };
        let fits =
            source.space == ARENA && source.nb[0] == 1 && source.at.is_multiple_of(4) && stride.is_multiple_of(4);
        Ok(fits.then_some([source.at, stride]))
    }

    /// The parameters; `None`: the bindings hold other buffers.
    pub(super) fn own_params(&self, own: &Own, bindings: &mut Bindings) -> Result<Option<Params>> {
        if let Some(table) = &own.table {
            bindings.tables = Bound::Buffer(table.clone());
        }
        let (mut norms, mut eps) = ([0; 4], [0.0; 2]);
        for (i, norm) in own.norms.iter().enumerate() {
            let Some(norm) = norm else { continue };
            (norms[i], eps[i]) = (1, norm.eps);
            if let Some(weight) = &norm.weight {
                if !put(&mut bindings.weights, weight.buffer.clone()) {
                    return Ok(None);
                }
                norms[i] = weight.at + 2;
            }
        }
        let params = Params::default()
            .u(&[own.key[0], own.key[1], own.value[0], own.value[1]])
            .u(&own.rope)
            .u(&own.rows)
            .u(&norms)
            .f(&[eps[0], eps[1], own.scales[1], own.scales[0]]);
        Ok(Some(params))
    }
}
