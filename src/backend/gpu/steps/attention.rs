//! Attention: heads are prepared and stored, then attended over.

use super::expand_cache::CacheHeads;
use super::few::TILE;
use super::linear::FEW;
use super::node::MAX_HEAD;
use super::own::Own;
use super::*;
use crate::graph::fuse::{FusedAttention, Heads};
use crate::graph::{Attention, Norm, NormKind, Rope, RopeKind};

/// Workgroups that keep a large device busy: rows are shared out until there are as many.
const BUSY: usize = 512;

/// Most tokens that attend by themselves, each reading its rows of the cache.
const FEW_QUERIES: usize = 64;

/// Workgroups that such attention is shared out to: two for each of 132 multiprocessors, whose registers have no room for more.
const FEW_BUSY: usize = 264;

/// Threads of a workgroup of `attention_few_coop.wgsl`.
const FEW_COOP_THREADS: usize = 128;

/// The same for `attention_coop`, whose workgroups have more to do, and for `attention_prompt`, over many rows too.
const COOP_BUSY: usize = 256;
const PROMPT_BUSY: [usize; 2] = [128, 384];
const MANY_ROWS: usize = 16384;

/// Most parts of an attention.
const MAX_PARTS: usize = 64;

/// Threads of a workgroup of `attention.wgsl`.
const THREADS: usize = 128;

/// `attention_coop.wgsl`: queries of a workgroup, rows at a time, the longest head.
const COOP_QUERIES: usize = 64;
const COOP_KEYS: usize = 32;
const MAX_COOP_HEAD: usize = 128;

/// `attention_prompt.wgsl`: fewest tokens, queries of a workgroup, bytes of workgroup memory.
const PROMPT_TOKENS: usize = 129;
const PROMPT_QUERIES: usize = 128;
const PROMPT_MEMORY: u32 = 48 << 10;

/// Elements of a head, heads, tokens.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub d: usize,
    pub n_head: usize,
    pub n_tokens: usize,
}

/// What is done to heads; ids name nodes.
#[derive(Default)]
pub(super) struct How {
    pub norm: Option<ValueId>,
    pub rope: Option<ValueId>,
    pub scale: Option<ValueId>,
    pub hadamard: Option<ValueId>,
}

impl How {
    fn is_empty(&self) -> bool {
        self.norm.is_none() && self.rope.is_none() && self.scale.is_none() && self.hadamard.is_none()
    }
}

/// Where heads go.
pub(super) enum To {
    /// To a place of the arena.
    Arena(u32),
    /// Into a state, by a [`Op::SetRows`] node.
    State(ValueId),
}

/// Heads to be prepared, and where they go.
pub(super) struct Job {
    pub how: How,
    pub source: Operand,
    pub shape: Shape,
    pub to: To,
}

/// Keys or values as the kernel reads them.
pub(super) struct Rows {
    pub bound: Bound,
    pub kind: u32,
    /// Offset, stride of heads, of rows, words before the scales.
    pub at: [u32; 4],
}

impl Compiler<'_> {
    pub(super) fn attention(&mut self, a: &FusedAttention) -> Result<()> {
        let halved = self.halved_attention(a.node)?;
        let (mut q, shape) = self.heads_source(&a.q)?;
        if let Some(own) = self.own(a, &q, shape)?
            && self.attend_few(a.node, q, shape, Some(own))?
        {
            return Ok(());
        }
        let mut jobs = Vec::with_capacity(3);
        let h = how(&a.q);
        if !h.is_empty() {
            let at = word(self.take_scratch(shape.d * shape.n_head * shape.n_tokens))?;
            jobs.push(Job { how: h, source: q, shape, to: To::Arena(at) });
            let d = word(shape.d)?;
            q = Operand { space: ARENA, at, nb: [1, d, d * word(shape.n_head)?, 0], ..q };
        }
        for store in [&a.k, &a.v].into_iter().flatten() {
            let (how, to) = (how(&store.heads), To::State(store.set_rows));
            // As rows where nothing is done to heads: the source may not show them.
            let (source, shape) = if how.is_empty() {
                let (_, inputs) = self.op(store.set_rows)?;
                self.rows_as_heads(store.set_rows, inputs)?
            } else {
                self.heads_source(&store.heads)?
            };
            jobs.push(Job { how, source, shape, to });
        }
        if !self.heads_together(&jobs)? {
            for job in &jobs {
                self.heads(job)?;
            }
        }
        if self.attend_few(a.node, q, shape, None)? { Ok(()) } else { self.attend(a.node, q, shape, halved) }
    }

    fn heads_source(&self, heads: &Heads) -> Result<(Operand, Shape)> {
        let ne = self.value(heads.src).ne;
        let source = self.operand(heads.src, &mut Bindings::default())?;
        Ok((source, Shape { d: ne[0], n_head: ne[1], n_tokens: ne[2] }))
    }

    /// Prepares heads.
    pub(super) fn heads(&mut self, job: &Job) -> Result<()> {
        let mut bindings = Bindings::default();
        let (params, kind) = self
            .job(job, 0, &mut bindings)?
            .ok_or_else(|| Error::Internal("a kernel of one job has no room for it".into()))?;
        let none = || Params::default().u(&[0; 20]);
        self.add_heads(Params([params.0, none().0, none().0].concat()), [kind, 0, 0], bindings, job.shape.n_head, job)
    }

    /// Prepares the queries, keys and values of a layer in one dispatch, if they share what they read.
    fn heads_together(&mut self, jobs: &[Job]) -> Result<bool> {
        let [q, k, v] = jobs else { return Ok(false) };
        if !matches!(q.to, To::Arena(_)) || q.shape.n_tokens != k.shape.n_tokens || k.shape.n_tokens != v.shape.n_tokens
        {
            return Ok(false);
        }
        let (mut bindings, mut all, mut kinds, mut n) = (Bindings::default(), Vec::new(), [0; 3], 0);
        for (i, job) in jobs.iter().enumerate() {
            let Some((params, kind)) = self.job(job, i, &mut bindings)? else { return Ok(false) };
            all.extend(params.0);
            kinds[i] = kind;
            n += job.shape.n_head;
        }
        self.add_heads(Params(all), kinds, bindings, n, q)?;
        Ok(true)
    }

    fn add_heads(&mut self, params: Params, kinds: [u32; 3], bindings: Bindings, n: usize, of: &Job) -> Result<()> {
        let [to, keys, values] = kinds;
        let constants = [constant("TO", to), constant("TO_KEYS", keys), constant("TO_VALUES", values)];
        self.add(Kernel::plain("heads", &constants), bindings, params, [n, of.shape.n_tokens, 1])
    }

    /// The parameters of the job with a number, and the type that it stores; `None`: the bindings hold other buffers.
    fn job(&mut self, job: &Job, number: usize, bindings: &mut Bindings) -> Result<Option<(Params, u32)>> {
        let Job { how, source, shape, to } = job;
        if shape.d > MAX_HEAD || source.space != ARENA {
            return Err(Error::Unsupported(format!("heads of {} elements on a GPU", shape.d)));
        }
        let (mut norm, mut weight, mut eps, mut scale) = (0, 0, 0.0f32, 1.0f32);
        let (mut hadamard, mut pairing) = (0, 0);
        let (mut n_dims, mut positions, mut table) = (0, 0, 0);
        if let Some(id) = how.norm {
            let (op, inputs) = self.op(id)?;
            let Op::Norm(Norm { kind, eps: e }) = *op else { return Err(Error::Internal("no norm".into())) };
            eps = e;
            norm = match kind {
                NormKind::Rms => 1,
                NormKind::Layer => 2,
                NormKind::L2 => 3,
            };
            if inputs.len() > 2 {
                return Err(Error::Unsupported("a bias in the norm of heads on a GPU".into()));
            }
            if let Some(&w) = inputs.get(1) {
                let vector = self.vector(w)?;
                if !put(&mut bindings.weights, vector.buffer) {
                    return Ok(None);
                }
                weight = vector.at + 1;
            }
        }
        if let Some(id) = how.rope {
            let (op, inputs) = self.op(id)?;
            let Op::Rope(rope) = *op else { return Err(Error::Internal("no rotation".into())) };
            let factors = match inputs.get(2).map(|&f| &self.value(f).source) {
                None => None,
                Some(Source::Weight(w)) => Some(crate::backend::gpu::weights::floats(w)?),
                Some(_) => return Err(Error::Unsupported("frequency factors that are no weight".into())),
            };
            let vector = self.rotations(&rope, factors.as_deref())?;
            if !put(&mut bindings.tables, vector.buffer) {
                return Ok(None);
            }
            (n_dims, table) = (rope.n_dims, vector.at);
            positions = self.contiguous(inputs[1])?;
            pairing = match rope.kind {
                RopeKind::Norm => 1,
                RopeKind::Neox => 2,
            };
        }
        if let Some(id) = how.scale
            && let (Op::Scale { scale: s, .. }, _) = self.op(id)?
        {
            scale *= s;
        }
        if let Some(id) = how.hadamard
            && let (Op::Hadamard { n }, _) = self.op(id)?
        {
            hadamard = word(*n)?;
            scale /= (*n as f32).sqrt();
        }
        let (mut target, mut kind, mut rows_at, mut row, mut n_rows, mut scales) = (0, 0, 0, 0, 0, 0);
        match *to {
            To::Arena(at) => target = at,
            To::State(id) => {
                let (_, inputs) = self.op(id)?;
                let Location::State(state, 0) = self.locate(inputs[0], 0)? else {
                    return Err(Error::Internal(format!("{} is no state", self.value(inputs[0]).name)));
                };
                let s = &self.target.states[state.0 as usize];
                let slot = if number == 2 { &mut bindings.state_v } else { &mut bindings.state };
                *slot = Bound::Buffer(s.buffer.clone());
                (kind, scales) = (state_type(s.dtype)?, s.scales());
                (row, n_rows) = (word(s.n)?, word(s.rows)?);
                rows_at = self.contiguous(inputs[2])?;
                if !shape.d.is_multiple_of(if s.dtype.is_quantized() { 32 } else { 2 }) {
                    return Err(Error::Unsupported(format!("heads of {} in a state on a GPU", shape.d)));
                }
            }
        }
        let params = Params::default()
            .u(&[source.nb[0], source.nb[1], source.nb[2], source.at])
            .u(&[word(shape.d)?, word(shape.n_head)?, word(n_dims)?, norm])
            .u(&[weight, hadamard, pairing, eps.to_bits()])
            .u(&[target, row, scales, n_rows])
            .u(&[positions, rows_at, table, scale.to_bits()]);
        Ok(Some((params, kind)))
    }

    /// The rotations of the four bytes of a position, see `heads.wgsl`.
    pub(super) fn rotations(&self, rope: &Rope, factors: Option<&[f32]>) -> Result<Vector> {
        let mut key = format!("{rope:?}").into_bytes();
        key.extend_from_slice(bytemuck::cast_slice(factors.unwrap_or(&[])));
        self.target.own.table(key, || {
            let pairs = rope.n_dims / 2;
            let factor = |pair: usize| factors.map_or(1.0, |f| f[pair]);
            let mut table = Vec::with_capacity(4 * 256 * 2 * pairs);
            for level in 0..4 {
                for byte in 0..256i64 {
                    // Positions are 31 bits.
                    let pos = (byte << (8 * level)).min(i64::from(i32::MAX)) as i32;
                    for pair in 0..pairs {
                        let (sin, cos) = rope.sin_cos(pair, pos, factor(pair));
                        // The magnitude belongs to the whole rotation: the lowest byte brings it.
                        let magnitude = if level == 0 { 1.0 } else { rope.sin_cos(pair, 0, factor(pair)).1 };
                        table.extend([cos / magnitude, sin / magnitude]);
                    }
                }
            }
            table
        })
    }

    /// Keys or values of an attention: in a state, or in the arena.
    fn rows_of(&self, id: ValueId) -> Result<Rows> {
        let v = self.value(id);
        let elements = |bytes: usize| word(bytes / v.dtype.type_size() * v.dtype.block_size());
        match self.locate(id, 0)? {
            Location::Arena(at) if v.dtype == DType::F32 && v.nb[0] == 4 => {
                Ok(Rows { bound: Bound::Nothing, kind: 0, at: [word(at)?, elements(v.nb[1])?, elements(v.nb[2])?, 0] })
            }
            Location::State(state, offset) => {
                let s = &self.target.states[state.0 as usize];
                Ok(Rows {
                    bound: Bound::Buffer(s.buffer.clone()),
                    kind: state_type(s.dtype)?,
                    at: [elements(offset)?, elements(v.nb[1])?, elements(v.nb[2])?, s.scales()],
                })
            }
            _ => Err(Error::Unsupported(format!("{} in an attention on a GPU", v.name))),
        }
    }

    /// Attention of few tokens by `attention_few.wgsl`, if it can.
    fn attend_few(&mut self, id: ValueId, q: Operand, shape: Shape, own: Option<Own>) -> Result<bool> {
        let (op, inputs) = self.op(id)?;
        let Op::Attention(Attention { scale, soft_cap, max_alibi_bias, mask }) = *op else {
            return Err(Error::Internal("no attention".into()));
        };
        let (k, v) = (self.value(inputs[1]), self.value(inputs[2]));
        let (d, n_kv, n_rows) = (k.ne[0], k.ne[1], k.ne[2]);
        let (keys, values) = (self.rows_of(inputs[1])?, self.rows_of(inputs[2])?);
        let subgroup = self.target.device.abilities.subgroup.unwrap_or(0) as usize;
        // Its rows must be counted from where the keys and values begin.
        let stores = |rows: &Rows| own.is_none() || (rows.at[0] == 0 && matches!(rows.kind, 1..=3));
        let aligned = |rows: &Rows| {
            rows.kind != 0 && rows.at[..3].iter().all(|x| x.is_multiple_of(8)) && rows.at[3].is_multiple_of(2)
        };
        let fits = shape.n_tokens <= FEW_QUERIES
            && v.ne[0] == d
            && [64, 128, 256].contains(&d)
            && d / 8 <= subgroup
            && aligned(&keys)
            && aligned(&values)
            && stores(&keys)
            && stores(&values)
            && q.nb[0] == 1
            && [q.at, q.nb[1], q.nb[2]].iter().all(|x| x.is_multiple_of(4));
        let group = shape.n_head / n_kv;
        // Cooperative matrices are quicker from a few tokens on: sequences that do not see each other's rows share the loads.
        let together = max_alibi_bias == 0.0 && self.coop_tile(&q, group, shape.n_tokens, [d, v.ne[0]]).is_some();
        if !fits || together {
            return Ok(false);
        }
        let heads = group.next_power_of_two().min(4);
        let memory = self.target.device.abilities.workgroup_memory as usize;
        let blocks = n_kv * group.div_ceil(heads);
        let counted = blocks * shape.n_tokens <= crate::backend::gpu::COUNTERS;
        // Caches of f32 keep products of f32.
        let by_matrices = self.target.device.abilities.matrices
            && d <= MAX_COOP_HEAD
            && max_alibi_bias == 0.0
            && keys.kind != KV_F32
            && values.kind != KV_F32
            && counted
            && own.as_ref().is_none_or(Own::is_one_row)
            && few_coop_memory(d, heads) <= memory;
        let (threads, least) = if by_matrices {
            (FEW_COOP_THREADS, FEW_COOP_THREADS)
        } else {
            // Teams leave `heads` sums of `d` in the workgroup's memory: 32 words a thread and head.
            let threads = if 256 * 32 * heads + 8192 <= memory { 256 } else { 128 };
            (threads, threads * 32 / d)
        };
        let parts = if counted { (FEW_BUSY / (blocks * shape.n_tokens)).min(n_rows.div_ceil(least)) } else { 1 };
        let parts = parts.clamp(1, MAX_PARTS);
        let mut bindings = Bindings {
            constants: Bound::Masks,
            state: keys.bound.clone(),
            state_v: values.bound.clone(),
            ..Bindings::default()
        };
        let mut sinks = 0;
        if let Some(&s) = inputs.get(3) {
            let vector = self.vector(s)?;
            bindings.weights = Bound::Buffer(vector.buffer);
            sinks = vector.at + 1;
        }
        let mut own_params = Params::default().u(&[0; 20]);
        if let Some(own) = &own {
            let Some(params) = self.own_params(own, &mut bindings)? else { return Ok(false) };
            own_params = params;
        }
        let to = self.result(id)?;
        let all = if parts > 1 { shape.n_tokens * blocks * parts * heads } else { 0 };
        // The statistics of a block have lines of their own, see `stats_at`.
        let lines = if parts > 1 { shape.n_tokens * blocks * (2 * parts * heads).next_multiple_of(32) } else { 0 };
        let (partial, stats) = (self.take_scratch(all * d), self.take_scratch(lines));
        let slopes = 1usize << shape.n_head.max(1).ilog2();
        let base = |bias: f32| if max_alibi_bias > 0.0 { (-bias / slopes as f32).exp2() } else { 0.0 };
        let handed = self.hand(id, d * shape.n_head, shape.n_tokens, false);
        let (bytes, scales) = handed.map_or(Ok::<_, Error>((0, 0)), |h| Ok((word(h.bytes)? + 1, word(h.scales)?)))?;
        let params = Params::default()
            .u(&[word(shape.n_head)?, word(group)?, word(shape.n_tokens)?, word(parts)?])
            .u(&[q.at, q.nb[1], q.nb[2], sinks])
            .u(&keys.at)
            .u(&values.at)
            .u(&[to, word(partial)?, word(stats)?, u32::from(mask.0)])
            .f(&[scale, soft_cap, base(max_alibi_bias), base(max_alibi_bias / 2.0)])
            .u(&[word(slopes)?, bytes, scales, 0]);
        let params = Params([params.0, own_params.0].concat());
        let constants = [
            constant("OWN", u32::from(own.is_some())),
            constant("D", word(d)?),
            constant("HEADS", word(heads)?),
            constant("WG", word(threads)?),
            constant("K_TYPE", keys.kind),
            constant("V_TYPE", values.kind),
        ];
        let subgroup = self.target.device.abilities.subgroup;
        let name = if by_matrices { "attention_few_coop" } else { "attention_few" };
        let kernel = Kernel { subgroup, ..Kernel::plain(name, &constants) };
        self.add(kernel, bindings, params, [shape.n_tokens, blocks, parts])?;
        Ok(true)
    }

    fn attend(&mut self, id: ValueId, q: Operand, shape: Shape, halved: Option<usize>) -> Result<()> {
        let (op, inputs) = self.op(id)?;
        let Op::Attention(Attention { scale, soft_cap, max_alibi_bias, mask }) = *op else {
            return Err(Error::Internal("no attention".into()));
        };
        let (k, v) = (self.value(inputs[1]), self.value(inputs[2]));
        let (d_k, d_v, n_kv, n_rows) = (k.ne[0], v.ne[0], k.ne[1], k.ne[2]);
        if !d_k.is_multiple_of(4) || !d_v.is_multiple_of(2) {
            return Err(Error::Unsupported(format!("heads of {d_k} and {d_v} in an attention on a GPU")));
        }
        let group = shape.n_head / n_kv;
        let coop = self.coop_tile(&q, group, shape.n_tokens, [d_k, d_v]).filter(|_| max_alibi_bias == 0.0);
        let tile = match coop {
            Some(tile) => tile,
            None => {
                let memory = self.target.device.abilities.workgroup_memory as usize;
                Tile::new(memory, group, shape.n_tokens, [d_k, d_v])?
            }
        };
        let grid = [shape.n_tokens.div_ceil(tile.tokens), n_kv * group.div_ceil(tile.heads)];
        let prompt = coop.is_some_and(|t| t.heads * t.tokens == PROMPT_QUERIES);
        let busy = match coop {
            None => BUSY,
            Some(_) if prompt => PROMPT_BUSY[usize::from(n_rows >= MANY_ROWS)],
            Some(_) => COOP_BUSY,
        };
        let parts = (busy / (grid[0] * grid[1]).max(1)).min(n_rows.div_ceil(tile.chunk)).clamp(1, MAX_PARTS);
        let (mut keys, mut values) = (self.rows_of(inputs[1])?, self.rows_of(inputs[2])?);
        if coop.is_some() {
            let heads = |d| CacheHeads { d, n: n_kv, rows: n_rows };
            [keys, values] = self.expanded(shape.n_tokens, [(keys, heads(d_k)), (values, heads(d_v))])?;
        }
        let mut bindings = Bindings {
            constants: Bound::Masks,
            state: keys.bound.clone(),
            state_v: values.bound.clone(),
            ..Bindings::default()
        };
        let mut sinks = 0;
        if let Some(&s) = inputs.get(3) {
            let vector = self.vector(s)?;
            bindings.weights = Bound::Buffer(vector.buffer);
            sinks = vector.at + 1;
        }
        let to = self.result(id)?;
        let partial = if parts > 1 { self.take_scratch(shape.n_tokens * shape.n_head * parts * (d_v + 2)) } else { 0 };
        let split = parts > 1;
        let slopes = 1usize << shape.n_head.max(1).ilog2();
        let base = |bias: f32| if max_alibi_bias > 0.0 { (-bias / slopes as f32).exp2() } else { 0.0 };
        let params = Params::default()
            .u(&[word(d_k)?, word(d_v)?, word(shape.n_head)?, word(group)?])
            .u(&[q.at, q.nb[1], q.nb[2], word(shape.n_tokens)?])
            .u(&keys.at)
            .u(&values.at)
            .u(&[to, if split { word(partial)? + 1 } else { 0 }, word(parts)?, sinks])
            .u(&[u32::from(mask.0), 0, 0, 0])
            .f(&[scale, soft_cap, base(max_alibi_bias), base(max_alibi_bias / 2.0)])
            .u(&[word(slopes)?, 0, 0, 0]);
        let mut constants = vec![
            constant("D_K", word(d_k)?),
            constant("D_V", word(d_v)?),
            constant("HEADS", word(tile.heads)?),
            constant("K_TYPE", keys.kind),
            constant("V_TYPE", values.kind),
        ];
        if coop.is_none() {
            constants.extend([constant("TOKENS", word(tile.tokens)?), constant("CHUNK", word(tile.chunk)?)]);
        }
        let name = match coop {
            None => "attention",
            Some(_) if prompt => "attention_prompt",
            Some(_) => "attention_coop",
        };
        let kernel = Kernel::plain(name, &constants);
        let sinks_at = bindings.weights.clone();
        self.add(kernel, bindings, params, [grid[0], grid[1], parts])?;
        if !split {
            return Ok(());
        }
        let handed = match d_v {
            32 | 64 | 96 | 128 | 256 => self.hand(id, d_v * shape.n_head, shape.n_tokens, false),
            _ => None,
        };
        let (bytes, scales) = handed.map_or(Ok::<_, Error>((0, 0)), |h| Ok((word(h.bytes)? + 1, word(h.scales)?)))?;
        let params =
            Params::default().u(&[word(shape.n_head)?, word(parts)?, sinks, 0]).u(&[word(partial)?, to, bytes, scales]);
        let params = match halved.filter(|_| d_v <= 256) {
            Some(at) => {
                self.keep(id, None, at);
                params.u(&[word(at)? + 1, word(d_v * shape.n_head / TILE)?, 0, 0])
            }
            None => params.u(&[0; 4]),
        };
        let bindings = Bindings { weights: sinks_at, ..Bindings::default() };
        let kernel = Kernel::plain("attention_join", &[constant("D", word(d_v)?)]);
        self.add(kernel, bindings, params, [shape.n_head, shape.n_tokens, 1])
    }
}

impl Compiler<'_> {
    /// The tile of `attention_coop`, where the device and the shape allow it and queries are many.
    fn coop_tile(&self, q: &Operand, group: usize, n_tokens: usize, [d_k, d_v]: [usize; 2]) -> Option<Tile> {
        let fits = |d: usize| d.is_multiple_of(16) && (32..=MAX_COOP_HEAD).contains(&d);
        let aligned = [q.at, q.nb[1], q.nb[2]].iter().all(|n| n.is_multiple_of(4)) && q.nb[0] == 1;
        let abilities = &self.target.device.abilities;
        if !abilities.matrices || n_tokens <= FEW || !fits(d_k) || !fits(d_v) || !aligned {
            return None;
        }
        let heads: usize = 1 << group.trailing_zeros().min(4);
        // A subgroup of `attention_prompt` knows what 64 tokens see.
        let prompt = n_tokens >= PROMPT_TOKENS
            && heads > 1
            && d_k.is_multiple_of(64)
            && d_v.is_multiple_of(64)
            && abilities.workgroup_memory >= PROMPT_MEMORY;
        let queries = if prompt { PROMPT_QUERIES } else { COOP_QUERIES };
        Some(Tile { heads, tokens: queries / heads, chunk: COOP_KEYS })
    }
}

/// What a workgroup of an attention has.
#[derive(Clone, Copy)]
struct Tile {
    heads: usize,
    tokens: usize,
    chunk: usize,
}

impl Tile {
    /// As many queries as fit a workgroup's memory: keys and values are read once for all of them.
    fn new(memory: usize, group: usize, n_tokens: usize, [d_k, d_v]: [usize; 2]) -> Result<Tile> {
        let few = n_tokens < 4;
        let heads = group.min(if few { 8 } else { 4 });
        let mut tile = Tile {
            heads,
            tokens: if few { 1 } else { 16 / heads.next_power_of_two() },
            chunk: if few { 128 } else { 64 },
        };
        loop {
            let queries = tile.heads * tile.tokens;
            let words = queries * d_k + tile.chunk * queries + 2 * THREADS * queries + 3 * queries;
            let passes = d_v.div_ceil(2).div_ceil(THREADS);
            if 4 * words <= memory && queries * passes <= 32 {
                return Ok(tile);
            }
            if tile.tokens > 1 {
                tile.tokens /= 2;
            } else if tile.heads > 1 {
                tile.heads = tile.heads.div_ceil(2);
            } else {
                return Err(Error::Unsupported(format!("heads of {d_k} and {d_v} elements on this GPU")));
            }
        }
    }
}

/// Bytes of a workgroup's memory that `attention_few_coop` takes.
fn few_coop_memory(d: usize, heads: usize) -> usize {
    let teams = FEW_COOP_THREADS / 32;
    let line = d / 4 + 2;
    let halves = 16 * line * teams + teams * 16 * (COOP_KEYS / 4 + 2);
    let sums = (teams + 1) * 16 * (COOP_KEYS / 4 + 1);
    // Statistics, and results that are handed on.
    8 * halves + 16 * sums + 8 * heads * (MAX_PARTS + 2) + 8 * heads * d
}

fn how(h: &Heads) -> How {
    How { norm: h.norm, rope: h.rope, scale: h.scale, hadamard: h.hadamard }
}
