//! The attention step: new keys and values go to the cache, then every task computes some tokens of one KV head.

use super::{Needs, Part, Run, Worker};
use crate::backend::cpu::attention::{AttentionTask, Common, KvView, MANY_QUERIES, Partial, finish};
use crate::backend::cpu::elementwise::{Hadamard, RotateHeads};
use crate::backend::cpu::memory::Tensor;
use crate::backend::cpu::rows::FromFloat;
use crate::backend::cpu::threads::Member;
use crate::backend::reference::alibi_slope;
use crate::error::Error;
use crate::graph::fuse::{FusedAttention, Heads, Store};
use crate::graph::{Attention, Graph, Mask, Op, Source, Value};
use std::ops::Range;

/// Elements of queries and results of a task with many queries: enough of them to make converting keys and values cheap,
/// few enough for the second-level cache.
const TASK_FLOATS: usize = 24576;

/// Fewest KV rows of a task when the rows are shared between threads.
const TASK_ROWS: usize = 64;

/// KV rows times heads below which a single token's rows are not shared: waiting for each other again would cost more.
const SHARED_ROWS: usize = 1024;

/// Room for partial results.
pub fn needs(graph: &Graph, a: &FusedAttention, n_threads: usize) -> Needs {
    let v = graph.value(a.node);
    let Source::Node { inputs, .. } = &v.source else { return Needs::default() };
    let [_, n_head, n_tokens, _] = graph.value(inputs[0]).ne;
    let d_v = graph.value(inputs[2]).ne[0];
    Needs { blocks: 0, floats: max_splits(n_threads) * n_tokens * n_head * (d_v + 2) }
}

/// Into how many parts the KV rows may be split.
fn max_splits(n_threads: usize) -> usize {
    if n_threads == 1 { 1 } else { 4 * n_threads }
}

/// How an attention is cut into items: tokens, KV heads and KV rows.
struct Tasks {
    n_head_kv: usize,
    n_tokens: usize,
    /// KV heads of an item; divides their number.
    heads: usize,
    /// Tokens of an item.
    tile: usize,
    /// All rows that are seen, and those of an item.
    rows: Range<usize>,
    split: usize,
}

impl Tasks {
    fn new(c: &Common<'_>, n_head_kv: usize, n_threads: usize) -> Tasks {
        let n_tokens = c.mask.rows.len();
        let visible = c.mask.rows.iter().filter(|r| r.start < r.end);
        let start = visible.clone().map(|r| r.start as usize).min().unwrap_or(0);
        let end = visible.map(|r| r.end as usize).max().unwrap_or(0);
        let n_rows = end.max(start) - start;
        let wanted = 4 * n_threads;
        let together = c.mask.is_shared();
        let mut tile = if together { n_tokens.max(1) } else { 1 };
        let mut heads = 1;
        if tile * c.group < MANY_QUERIES {
            // Few queries read the rows of all heads in order.
            if n_tokens > tile || n_rows * n_head_kv >= SHARED_ROWS || n_head_kv < n_threads {
                heads = n_head_kv;
            }
        } else {
            let most = (TASK_FLOATS / (c.k.d + c.v.d).max(1)).clamp(48, 192);
            let balanced = (n_tokens * n_head_kv).div_ceil(wanted) * c.group;
            tile = (most.min(balanced.max(48)) / c.group).clamp(1, tile);
        }
        let n_items = n_head_kv / heads * n_tokens.div_ceil(tile);
        // Few items are balanced by sharing the rows as well.
        let in_one = n_items >= wanted || (n_items >= n_threads && n_rows * n_head_kv < SHARED_ROWS);
        let splits = if in_one { 1 } else { wanted.div_ceil(n_items.max(1)).min(max_splits(n_threads)) };
        let split = n_rows.div_ceil(splits).next_multiple_of(TASK_ROWS).max(TASK_ROWS);
        Tasks { n_head_kv, n_tokens, heads, tile, rows: start..start + n_rows, split }
    }

    fn n_splits(&self) -> usize {
        self.rows.len().div_ceil(self.split).max(1)
    }

    fn n_tiles(&self) -> usize {
        self.n_tokens.div_ceil(self.tile.max(1))
    }

    fn n_items(&self) -> usize {
        self.n_head_kv / self.heads * self.n_tiles() * self.n_splits()
    }

    /// KV heads, tokens, split. Later tokens see more and come first, so that no thread ends with a long item.
    fn item(&self, i: usize) -> (Range<usize>, Range<usize>, usize) {
        let (i, split) = (i / self.n_splits(), i % self.n_splits());
        let n_groups = self.n_head_kv / self.heads;
        let (tile, heads) = (self.n_tiles() - 1 - i / n_groups, i % n_groups * self.heads);
        (heads..heads + self.heads, tile * self.tile..self.n_tokens.min((tile + 1) * self.tile), split)
    }

    fn rows_of(&self, split: usize) -> Range<usize> {
        let start = self.rows.start + split * self.split;
        start..self.rows.end.min(start + self.split)
    }
}

impl Run<'_> {
    /// Store, then attend.
    pub fn attention(&self, m: &Member<'_>, worker: &mut Worker, a: &FusedAttention) -> Part {
        let (op, inputs) = self.op(a.node)?;
        let &Op::Attention(p) = op else { return Err(self.unexpected(a.node).into()) };
        if a.k.is_some() || a.v.is_some() {
            self.store(m, worker, a)?;
            m.barrier()?;
        }
        let q = self.memory.tensor(a.q.src)?;
        let (k, v) = (self.memory.tensor(inputs[1])?, self.memory.tensor(inputs[2])?);
        let out = self.memory.tensor(a.node)?;
        let [_, n_head, n_tokens, _] = q.value.ne;
        let mask = self.memory.inputs.mask(p.mask).ok_or_else(|| Error::Internal("attention without a mask".into()))?;
        check_mask(mask, n_tokens, k.value)?;
        let group = n_head / k.value.ne[1];
        let mut slopes = [0.0; MAX_HEADS];
        let common = Common {
            k: self.kv_view(&k)?,
            v: self.kv_view(&v)?,
            mask,
            scale: p.scale,
            soft_cap: p.soft_cap,
            slopes: alibi(&p, n_head, &mut slopes)?,
            group,
        };
        let sinks = match inputs.get(3) {
            // SAFETY: weights are constant.
            Some(&id) => Some(unsafe { self.memory.tensor(id)?.floats([0; 3]) }),
            None => None,
        };
        let tasks = Tasks::new(&common, k.value.ne[1], m.n_threads());
        let n_splits = tasks.n_splits();
        let (d_k, d_v) = (common.k.d, common.v.d);
        while let Some(i) = m.take(tasks.n_items()) {
            let (heads_kv, tokens, split) = tasks.item(i);
            // Query heads of a token.
            let n_heads = heads_kv.len() * group;
            let n_q = tokens.len() * n_heads;
            let place = |i: usize| (tokens.start + i / n_heads, heads_kv.start * group + i % n_heads);
            let [queries, states, sums] = worker.rows.split([n_q * d_k * 4, n_q * size_of::<Partial>(), n_q * d_v * 4]);
            let queries: &mut [f32] = bytemuck::cast_slice_mut(queries);
            let states: &mut [Partial] = bytemuck::cast_slice_mut(states);
            let sums: &mut [f32] = bytemuck::cast_slice_mut(sums);
            for (token, queries) in tokens.clone().zip(queries.chunks_exact_mut((n_heads * d_k).max(1))) {
                self.heads(&a.q, &q, heads_kv.start * group, token, queries)?;
            }
            AttentionTask {
                common,
                heads_kv: heads_kv.clone(),
                tokens: tokens.clone(),
                rows: tasks.rows_of(split),
                q: queries,
                out: states,
                sums,
                scratch: &mut worker.scratch,
            }
            .compute(self.isa);
            for (i, (state, sums)) in states.iter().zip(sums.chunks_exact(d_v.max(1))).enumerate() {
                let (token, head) = place(i);
                if n_splits > 1 {
                    // SAFETY: each item is taken once, and this part of the buffer is its own.
                    let part =
                        unsafe { self.floats.write(part_at(split, token, head, n_tokens, n_head, d_v), d_v + 2) };
                    (part[0], part[1]) = (state.max, state.sum);
                    part[2..].copy_from_slice(sums);
                } else {
                    // SAFETY: each item is taken once, and these heads are its own.
                    let bytes = unsafe { out.bytes_mut([token, 0, 0], head * d_v * 4, d_v * 4) };
                    let parts = std::iter::once((*state, sums));
                    finish(parts, sinks.map(|s| s[head]), bytemuck::cast_slice_mut(bytes));
                }
            }
        }
        if n_splits > 1 {
            m.barrier()?;
            while let Some(rows) = super::take_rows(m, n_tokens * n_head, d_v * n_splits) {
                for i in rows {
                    let (token, head) = (i / n_head, i % n_head);
                    let parts = (0..n_splits).map(|split| {
                        // SAFETY: all parts are complete.
                        let part =
                            unsafe { self.floats.read(part_at(split, token, head, n_tokens, n_head, d_v), d_v + 2) };
                        (Partial { max: part[0], sum: part[1] }, &part[2..])
                    });
                    // SAFETY: each head of each token is taken once.
                    let bytes = unsafe { out.bytes_mut([token, 0, 0], head * d_v * 4, d_v * 4) };
                    finish(parts, sinks.map(|s| s[head]), bytemuck::cast_slice_mut(bytes));
                }
            }
        }
        Ok(())
    }

    /// This thread's part of writing new keys and values.
    fn store(&self, m: &Member<'_>, worker: &mut Worker, a: &FusedAttention) -> Part {
        let count = |s: &Option<Store>| -> Result<usize, Error> {
            Ok(match s {
                Some(s) => self.memory.tensor(self.op(s.set_rows)?.1[2])?.value.ne[0],
                None => 0,
            })
        };
        let (n_k, n_v) = (count(&a.k)?, count(&a.v)?);
        while let Some(i) = m.take(n_k + n_v) {
            let (store, token) = if i < n_k { (&a.k, i) } else { (&a.v, i - n_k) };
            if let Some(store) = store {
                self.store_row(worker, store, token)?;
            }
        }
        Ok(())
    }

    fn store_row(&self, worker: &mut Worker, store: &Store, token: usize) -> Part {
        let inputs = self.op(store.set_rows)?.1;
        let (state, ids) = (self.memory.tensor(inputs[0])?, self.memory.tensor(inputs[2])?);
        let src = self.memory.tensor(store.heads.src)?;
        let n = state.value.ne[0];
        let d = src.value.ne[0];
        let [row] = worker.rows.split([n * 4]);
        let row: &mut [f32] = bytemuck::cast_slice_mut(row);
        if d == n {
            // Whole rows: tokens lie along whichever dimension has them.
            let at = if src.value.ne[1] == 1 { [0, token, 0] } else { [token, 0, 0] };
            // SAFETY: results of earlier steps are complete.
            row.copy_from_slice(unsafe { src.floats(at) });
            if src.value.ne[1] == 1 {
                self.prepare(&store.heads, token, d, row)?;
            }
        } else {
            self.heads(&store.heads, &src, 0, token, row)?;
        }
        self.write_row(&state, &ids, token, row)
    }

    /// Rounds a row into a state at the row that `ids` names for it.
    pub fn write_row(&self, state: &Tensor<'_>, ids: &Tensor<'_>, i: usize, row: &[f32]) -> Part {
        // SAFETY: inputs are constant.
        let id = unsafe { ids.word(i, [0; 3]) };
        if id as usize >= state.value.ne[1] {
            let reason = format!("row {} is outside of {:?}", id as i32, state.value.ne);
            return Err(Error::tensor(&state.value.name, reason).into());
        }
        let dtype = state.value.dtype;
        // SAFETY: the context gives each token a row of its own, and each token is taken once; should rows repeat in a call
        // through this interface, the bytes of one of them win.
        let bytes = unsafe { state.bytes_mut([id as usize, 0, 0], 0, dtype.row_size(state.value.ne[0])) };
        if !self.isa.run(FromFloat { x: row, dtype, bytes }) {
            return Err(Error::tensor(&state.value.name, format!("a cache cannot have type {dtype}")).into());
        }
        Ok(())
    }

    /// Heads of a token from `first` on, prepared, one after the other.
    fn heads(&self, heads: &Heads, src: &Tensor<'_>, first: usize, token: usize, out: &mut [f32]) -> Result<(), Error> {
        let d = src.value.ne[0];
        for (i, out) in out.chunks_exact_mut(d.max(1)).enumerate() {
            // SAFETY: results of earlier steps are complete.
            out.copy_from_slice(unsafe { src.floats([first + i, token, 0]) });
        }
        self.prepare(heads, token, d, out)
    }

    /// `[norm] → [rope] → [scale] → [hadamard]` of heads of `d` elements in place.
    fn prepare(&self, heads: &Heads, token: usize, d: usize, row: &mut [f32]) -> Result<(), Error> {
        if let Some(id) = heads.norm {
            let norm = self.weighted(id)?;
            let mut buffer = [0.0; MAX_HEAD];
            let before = buffer.get_mut(..d).ok_or_else(|| Error::Unsupported(format!("heads of {d}")))?;
            for head in row.chunks_exact_mut(d.max(1)) {
                before.copy_from_slice(head);
                norm.run(self.isa, before, head);
            }
        }
        if let Some(id) = heads.rope {
            let (rope, sin, cos) = self.ropes.of(id, token).ok_or_else(|| self.unexpected(id))?;
            self.isa.run(RotateHeads { kind: rope.kind, sin, cos, d, x: row });
        }
        if let Some(id) = heads.scale {
            let &Op::Scale { scale, .. } = self.op(id)?.0 else { return Err(self.unexpected(id)) };
            for v in row.iter_mut() {
                *v *= scale;
            }
        }
        if let Some(id) = heads.hadamard {
            let &Op::Hadamard { n } = self.op(id)?.0 else { return Err(self.unexpected(id)) };
            self.isa.run(Hadamard { n, x: row });
        }
        Ok(())
    }

    fn kv_view<'b>(&self, t: &Tensor<'b>) -> Result<KvView<'b>, Error> {
        let Value { dtype, ne, nb, name, .. } = t.value;
        if nb[0] != dtype.type_size() {
            return Err(Error::tensor(name, "attention needs heads whose elements follow each other"));
        }
        // SAFETY: stores of this step and all earlier ones are complete.
        let data = unsafe { t.bytes() };
        Ok(KvView { dtype: *dtype, data, head_stride: nb[1], row_stride: nb[2], d: ne[0] })
    }
}

/// Where the partial result of a head lies.
fn part_at(split: usize, token: usize, head: usize, n_tokens: usize, n_head: usize, d_v: usize) -> usize {
    ((split * n_tokens + token) * n_head + head) * (d_v + 2)
}

/// No model has longer heads with norms.
const MAX_HEAD: usize = 2048;

/// No model has more heads with distance biases.
const MAX_HEADS: usize = 1024;

fn alibi<'a>(p: &Attention, n_head: usize, slopes: &'a mut [f32; MAX_HEADS]) -> Result<&'a [f32], Error> {
    if p.max_alibi_bias <= 0.0 {
        return Ok(&[]);
    }
    let slopes = slopes.get_mut(..n_head).ok_or_else(|| Error::Unsupported(format!("{n_head} heads with ALiBi")))?;
    for (head, slope) in slopes.iter_mut().enumerate() {
        *slope = alibi_slope(p.max_alibi_bias, head, n_head);
    }
    Ok(slopes)
}

fn check_mask(mask: &Mask, n_tokens: usize, k: &Value) -> Result<(), Error> {
    let words = |r: &crate::graph::MaskRow| (r.end as usize).div_ceil(64) - (r.start as usize / 64);
    let fits =
        mask.rows.iter().filter(|r| r.start < r.end).all(|r| {
            r.end as usize <= k.ne[2] && r.bits.is_none_or(|from| from as usize + words(r) <= mask.words.len())
        });
    if mask.rows.len() != n_tokens || !fits {
        return Err(Error::Internal(format!("mask of {} rows for {n_tokens} tokens over {:?}", mask.rows.len(), k.ne)));
    }
    Ok(())
}
