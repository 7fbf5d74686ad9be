//! Saves and restores what a context remembers: everything, or one sequence. Called by the state functions of `capi` and by
//! the files of [`session`](super::session).
//!
//! The bytes are those of llama.cpp, so that states pass between the libraries when types and sizes of the caches agree. All
//! numbers are little-endian:
//!
//! ```text
//! whole state:     u32 n, n bytes of the architecture's name, memory
//! sequence:        u32 MAGIC, i32 sequence, memory       (in a file the memory alone)
//! memory:          group of full attention (not in partial states), group of sliding windows if the model has one
//! group:           u32 n_stream, n_stream times a stream
//! stream:          u32 n_cells, and unless that is 0: n_cells times a cell, u32 transposed, u32 n_layer, keys, values
//! cell:            i32 position, u32 n_seq, n_seq times i32 sequence
//! keys of a layer: i32 type, u64 bytes of a row, n_cells rows
//! values:          the same; if transposed: i32 type, u32 bytes of an element, u32 n_embd, [n_embd, n_cells] elements
//! ```
//!
//! Values are never transposed here, but such states are read. What a token's output was is not part of a state.
//!
//! **Architecture invariant:** a state is parsed and checked to its end, and its cells are found, before anything changes.

use super::Context;
use super::state_read::{GroupState, Parsed, Rows, Source, StreamState, parse};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::graph::StateId;
use crate::memory::{FULL, Memory, SeqSet};
use crate::model::build::KvLayer;
use std::ops::Range;

/// The first bytes of a sequence's state in a buffer.
pub(super) const MAGIC: u32 = 0xaf14_3cd8;

/// Which groups of layers a sequence's state has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All.
    All,
    /// Those that forget: the layers with a sliding window. Models without such layers have only one group, which is saved.
    Partial,
}

/// What a state holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All that is remembered.
    Whole,
    /// One sequence, or with `None` all of them, in a buffer.
    Seq(Option<i32>, Part),
    /// One sequence, or with `None` all of them, in a file that says so itself.
    SeqFile(Option<i32>),
}

impl Scope {
    /// The sequence; `None`: all.
    pub(super) fn seq(self) -> Option<i32> {
        match self {
            Scope::Whole => None,
            Scope::Seq(seq, _) | Scope::SeqFile(seq) => seq,
        }
    }

    /// The groups of a memory that belong to it.
    pub(super) fn groups(self, memory: &Memory) -> Range<usize> {
        let n = memory.groups().len();
        match self {
            Scope::Seq(_, Part::Partial) if n > 1 => FULL + 1..n,
            Scope::Whole | Scope::Seq(..) | Scope::SeqFile(_) => FULL..n,
        }
    }
}

/// Where the bytes of a state go.
pub trait Sink {
    /// Takes bytes.
    fn put(&mut self, bytes: &[u8]) -> Result<()>;

    /// Takes a part of a backend's persistent buffer.
    fn put_state(&mut self, backend: &dyn Backend, id: StateId, part: Range<usize>) -> Result<()>;
}

/// Counts.
struct Counter(usize);

impl Sink for Counter {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.0 += bytes.len();
        Ok(())
    }

    fn put_state(&mut self, _: &dyn Backend, _: StateId, part: Range<usize>) -> Result<()> {
        self.0 += part.len();
        Ok(())
    }
}

/// Fills a slice from its beginning.
struct Slice<'a>(&'a mut [u8]);

impl<'a> Slice<'a> {
    fn next(&mut self, n: usize) -> Result<&'a mut [u8]> {
        let (next, rest) = std::mem::take(&mut self.0)
            .split_at_mut_checked(n)
            .ok_or_else(|| Error::argument("the buffer is smaller than the state"))?;
        self.0 = rest;
        Ok(next)
    }
}

impl Sink for Slice<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.next(bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    fn put_state(&mut self, backend: &dyn Backend, id: StateId, part: Range<usize>) -> Result<()> {
        backend.read_state(id, part.start, self.next(part.len())?)
    }
}

impl Context {
    /// Bytes of a state.
    ///
    /// # Errors
    /// [`Error::Argument`] for a sequence that the memory cannot have.
    pub fn saved_size(&self, scope: Scope) -> Result<usize> {
        let mut counter = Counter(0);
        self.write_state(scope, &mut counter)?;
        Ok(counter.0)
    }

    /// Writes a state into the beginning of a buffer; returns how many bytes it has.
    ///
    /// # Errors
    /// As [`Context::saved_size`], and when the buffer is too small.
    pub fn save_state(&mut self, scope: Scope, to: &mut [u8]) -> Result<usize> {
        let n = self.saved_size(scope)?;
        let to = to.get_mut(..n);
        let to = to.ok_or_else(|| Error::argument(format!("the buffer is smaller than the {n} bytes of the state")))?;
        self.save_state_to(scope, &mut Slice(to))?;
        Ok(n)
    }

    /// Writes a state.
    pub fn save_state_to(&mut self, scope: Scope, to: &mut dyn Sink) -> Result<()> {
        // Positions that moved are saved, so their keys have to be rotated to them.
        self.update_memory()?;
        self.write_state(scope, to)
    }

    /// Restores a state from the beginning of `from`; returns how many bytes it has. A whole state replaces all that is
    /// remembered, a sequence's state that of the sequence, which need not be the one that was saved.
    ///
    /// # Errors
    /// [`Error::Format`] when the state is damaged, cut off, or of a context with another model or other caches;
    /// [`Error::NoSlot`] when it does not fit into the memory. Nothing has changed then.
    pub fn load_state<'a>(&mut self, scope: Scope, from: &mut dyn Source<'a>) -> Result<usize> {
        let parsed = self.parse_state(scope, from)?;
        let n = parsed.n_bytes;
        self.restore(scope, parsed)?;
        Ok(n)
    }

    /// Reads a state and checks it.
    pub(super) fn parse_state<'a>(&self, scope: Scope, from: &mut dyn Source<'a>) -> Result<Parsed<'a>> {
        self.check_scope(scope)?;
        parse(self, scope, from)
    }

    /// Puts a checked state in place of what is there.
    pub(super) fn restore(&mut self, scope: Scope, state: Parsed) -> Result<()> {
        if self.memory.is_none() {
            return Ok(());
        }
        self.update_memory()?;
        let Some(memory) = &self.memory else { return Ok(()) };
        let mut memory = memory.clone();
        let places = place(&mut memory, scope, &state)?;
        let mut buffer = Vec::new();
        buffer
            .try_reserve_exact(state.largest_transposed())
            .map_err(|e| Error::Memory(format!("values of the state: {e}")))?;
        for (streams, group) in places.iter().zip(&state.groups) {
            for (rows, stream) in streams.iter().zip(&group.streams) {
                if let Err(e) = self.write_rows(group, stream, rows, &mut buffer) {
                    // Rows of other tokens may be overwritten: nothing that is stored can be trusted.
                    self.clear_memory(false)?;
                    return Err(e);
                }
            }
        }
        self.memory = Some(memory);
        Ok(())
    }

    fn write_rows(
        &mut self,
        group: &GroupState,
        stream: &StreamState,
        rows: &[i32],
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let layers = self.kv.iter().flatten().filter(|l| usize::from(l.group) == group.group);
        for (layer, state) in layers.zip(&stream.layers) {
            for (id, data) in [(layer.k, &state.k), (layer.v, &state.v)] {
                let row = self.backend.state_row_size(id);
                let bytes = match *data {
                    Rows::InOrder(bytes) => bytes,
                    Rows::Transposed { bytes, element } => {
                        untranspose(bytes, element, rows.len(), buffer);
                        &buffer[..]
                    }
                };
                for run in runs(rows) {
                    let part = &bytes[run.start * row..run.end * row];
                    self.backend.write_state(id, rows[run.start] as usize * row, part)?;
                }
            }
        }
        Ok(())
    }

    fn check_scope(&self, scope: Scope) -> Result<()> {
        match (&self.memory, scope.seq()) {
            (Some(memory), Some(seq)) => memory.groups()[FULL].stream_of(seq).map(|_| ()),
            _ => Ok(()),
        }
    }

    fn write_state(&self, scope: Scope, to: &mut dyn Sink) -> Result<()> {
        self.check_scope(scope)?;
        match scope {
            Scope::Whole => {
                let name = self.model.def()?.name;
                to.put(&(name.len() as u32).to_le_bytes())?;
                to.put(name.as_bytes())?;
            }
            Scope::Seq(seq, _) => {
                to.put(&MAGIC.to_le_bytes())?;
                to.put(&seq.unwrap_or(-1).to_le_bytes())?;
            }
            Scope::SeqFile(_) => {}
        }
        let Some(memory) = &self.memory else { return Ok(()) };
        for group in scope.groups(memory) {
            let cache = &memory.groups()[group];
            to.put(&(cache.n_stream() as u32).to_le_bytes())?;
            for stream in 0..cache.n_stream() {
                self.write_stream(group, stream, scope.seq(), to)?;
            }
        }
        Ok(())
    }

    fn write_stream(&self, group: usize, stream: usize, seq: Option<i32>, to: &mut dyn Sink) -> Result<()> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let cache = &memory.groups()[group];
        let saved = cache.saved_cells(stream, seq);
        to.put(&(saved.len() as u32).to_le_bytes())?;
        if saved.is_empty() {
            return Ok(());
        }
        let cells = cache.cells(stream);
        for &cell in &saved {
            to.put(&cells.pos(cell).unwrap_or(-1).to_le_bytes())?;
            let seqs = seq.map_or(*cells.seqs(cell), |seq| SeqSet::of(&[seq]));
            to.put(&(seqs.len() as u32).to_le_bytes())?;
            seqs.iter().try_for_each(|seq| to.put(&(seq as i32).to_le_bytes()))?;
        }
        let layers: Vec<&KvLayer> = self.kv.iter().flatten().filter(|l| usize::from(l.group) == group).collect();
        to.put(&0u32.to_le_bytes())?;
        to.put(&(layers.len() as u32).to_le_bytes())?;
        let first = stream as i32 * cache.size() as i32;
        let rows: Vec<i32> = saved.iter().map(|&cell| first + cell as i32).collect();
        let keys = layers.iter().map(|l| (l.k, l.type_k));
        let values = layers.iter().map(|l| (l.v, l.type_v));
        for (id, dtype) in keys.chain(values) {
            let row = self.backend.state_row_size(id);
            to.put(&(dtype as i32).to_le_bytes())?;
            to.put(&(row as u64).to_le_bytes())?;
            for run in runs(&rows) {
                let start = rows[run.start] as usize * row;
                to.put_state(&*self.backend, id, start..start + run.len() * row)?;
            }
        }
        Ok(())
    }
}

/// Finds a row for each cell of a state, by group and stream, in a memory that takes them.
fn place(memory: &mut Memory, scope: Scope, state: &Parsed) -> Result<Vec<Vec<Vec<i32>>>> {
    let mut places = Vec::with_capacity(state.groups.len());
    for GroupState { group, streams } in &state.groups {
        let cache = memory.group_mut(*group);
        let rows: Result<Vec<Vec<i32>>> = match scope.seq() {
            None => {
                cache.clear();
                Ok(streams.iter().enumerate().map(|(s, stream)| cache.fill_empty_stream(s, &stream.cells)).collect())
            }
            Some(seq) => {
                // At most one stream has cells of a sequence; none are left if there are none.
                cache.seq_rm(seq, 0..i32::MAX)?;
                let mut rows = Vec::with_capacity(streams.len());
                for stream in streams {
                    let pos: Vec<i32> = stream.cells.iter().map(|&(pos, _)| pos).collect();
                    rows.push(if pos.is_empty() { Vec::new() } else { cache.replace_seq(seq, &pos)? });
                }
                Ok(rows)
            }
        };
        places.push(rows?);
    }
    Ok(places)
}

/// Ranges of indices at which rows follow each other.
fn runs(rows: &[i32]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start == rows.len() {
            return None;
        }
        let more = rows[start..].windows(2).position(|w| w[1] != w[0] + 1);
        let end = more.map_or(rows.len(), |i| start + i + 1);
        Some(std::mem::replace(&mut start, end)..end)
    })
}

/// `[n_embd, n_rows]` elements of `element` bytes, of which those of one column follow each other, as rows.
fn untranspose(bytes: &[u8], element: usize, n_rows: usize, rows: &mut Vec<u8>) {
    rows.clear();
    for i in 0..n_rows {
        for column in bytes.chunks_exact(n_rows * element) {
            rows.extend_from_slice(&column[i * element..][..element]);
        }
    }
}
