//! Parses a saved state and checks all of it against the context that it is for. Called by [`super::state`], which describes
//! the format.

use super::Context;
use super::state::{MAGIC, Scope};
use crate::error::{Error, Result};
use crate::memory::{KvCache, MAX_SEQ, SeqSet};
use crate::model::build::KvLayer;
use crate::quant::DType;

/// Where the bytes of a state come from.
pub trait Source<'a> {
    /// The next `n` bytes.
    fn take(&mut self, n: usize) -> Result<&'a [u8]>;
}

impl<'a> Source<'a> for &'a [u8] {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (next, rest) = self
            .split_at_checked(n)
            .ok_or_else(|| Error::format(format!("the state is cut off: {n} bytes expected, {} found", self.len())))?;
        *self = rest;
        Ok(next)
    }
}

/// A state that fits the context it was parsed for.
pub(super) struct Parsed<'a> {
    /// Bytes of the whole.
    pub n_bytes: usize,
    /// By group; those that are not part of the state are missing.
    pub groups: Vec<GroupState<'a>>,
}

/// The cells of a group of layers.
pub(super) struct GroupState<'a> {
    /// The group's number.
    pub group: usize,
    /// One for each stream of the memory.
    pub streams: Vec<StreamState<'a>>,
}

/// The cells of a stream.
#[derive(Default)]
pub(super) struct StreamState<'a> {
    /// Positions and sequences.
    pub cells: Vec<(i32, SeqSet)>,
    /// For each layer of the group; empty without cells.
    pub layers: Vec<LayerState<'a>>,
}

/// Keys and values of a layer.
pub(super) struct LayerState<'a> {
    pub k: Rows<'a>,
    pub v: Rows<'a>,
}

/// One row for each cell.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a> {
    /// Row by row.
    InOrder(&'a [u8]),
    /// Element by element: `[n_embd, n_cells]` of `element` bytes.
    Transposed { bytes: &'a [u8], element: usize },
}

impl Parsed<'_> {
    /// Bytes of the largest tensor that is transposed.
    pub fn largest_transposed(&self) -> usize {
        let layers = self.groups.iter().flat_map(|g| &g.streams).flat_map(|s| &s.layers);
        let sizes = layers.map(|layer| match layer.v {
            Rows::InOrder(_) => 0,
            Rows::Transposed { bytes, .. } => bytes.len(),
        });
        sizes.max().unwrap_or(0)
    }
}

/// Reads a state for a context; the scope's sequence is one that its memory can have.
pub(super) fn parse<'a>(context: &Context, scope: Scope, from: &mut dyn Source<'a>) -> Result<Parsed<'a>> {
    let mut reader = Reader { from, n: 0 };
    match scope {
        Scope::Whole => {
            let name = context.model.def()?.name;
            reader.expect("bytes of the architecture's name", name.len() as u64, |r| Ok(u64::from(r.u32()?)))?;
            let found = reader.take(name.len())?;
            if found != name.as_bytes() {
                let found = String::from_utf8_lossy(found);
                return Err(Error::format(format!("the state is of architecture '{found}', not '{name}'")));
            }
        }
        Scope::Seq(..) => {
            reader.expect("magic number", u64::from(MAGIC), |r| Ok(u64::from(r.u32()?)))?;
            // The sequence that was saved; the caller says into which one it goes.
            reader.u32()?;
        }
        Scope::SeqFile(_) => {}
    }
    let mut groups = Vec::new();
    if let Some(memory) = &context.memory {
        for group in scope.groups(memory) {
            let streams = reader.group(context, &memory.groups()[group], group, scope.seq())?;
            groups.push(GroupState { group, streams });
        }
    }
    Ok(Parsed { n_bytes: reader.n, groups })
}

/// Takes a source apart.
struct Reader<'s, 'a> {
    from: &'s mut dyn Source<'a>,
    n: usize, // bytes taken
}

impl<'a> Reader<'_, 'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let bytes = self.from.take(n)?;
        self.n += n;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were asked for"))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads a number that can have one value only.
    fn expect(&mut self, what: &str, expected: u64, read: impl FnOnce(&mut Self) -> Result<u64>) -> Result<()> {
        let found = read(self)?;
        if found == expected { Ok(()) } else { Err(mismatch(what, expected, found)) }
    }

    fn expect_u32(&mut self, what: &str, expected: usize) -> Result<()> {
        self.expect(what, expected as u64, |r| Ok(u64::from(r.u32()?)))
    }

    fn group(
        &mut self,
        context: &Context,
        cache: &KvCache,
        group: usize,
        seq: Option<i32>,
    ) -> Result<Vec<StreamState<'a>>> {
        self.expect_u32("streams", cache.n_stream())?;
        let mut streams = Vec::with_capacity(cache.n_stream());
        for stream in 0..cache.n_stream() {
            let n_cells = self.u32()?;
            if n_cells == 0 {
                streams.push(StreamState::default());
                continue;
            }
            if n_cells > cache.size() {
                return Err(Error::format(format!("the state has {n_cells} cells, the context {}", cache.size())));
            }
            let has_cells = |s: &StreamState| !s.cells.is_empty();
            if seq.is_some() && streams.iter().any(has_cells) {
                return Err(Error::format("the state of a sequence has cells in several streams"));
            }
            let cells = self.cells(cache, stream, seq, n_cells as usize)?;
            let layers = self.layers(context, group, n_cells as usize)?;
            streams.push(StreamState { cells, layers });
        }
        Ok(streams)
    }

    fn cells(
        &mut self,
        cache: &KvCache,
        stream: usize,
        seq: Option<i32>,
        n_cells: usize,
    ) -> Result<Vec<(i32, SeqSet)>> {
        let mut cells = Vec::new();
        cells.try_reserve_exact(n_cells).map_err(|e| Error::Memory(format!("{n_cells} cells of a state: {e}")))?;
        for _ in 0..n_cells {
            let pos = self.i32()?;
            if !(0..i32::MAX).contains(&pos) {
                return Err(Error::format(format!("the state has a token at position {pos}")));
            }
            let n_seq = self.u32()?;
            let most = if seq.is_some() { 1 } else { MAX_SEQ as u32 };
            if n_seq == 0 || n_seq > most {
                return Err(Error::format(format!("the state has a token of {n_seq} sequences, not 1..={most}")));
            }
            let mut seqs = SeqSet::default();
            for _ in 0..n_seq {
                let of = self.i32()?;
                // The sequence that was saved need not exist here.
                if seq.is_none() {
                    if cache.stream_of(of).ok() != Some(stream) {
                        return Err(Error::format(format!("the state has sequence {of} in stream {stream}")));
                    }
                    seqs.insert(of as usize);
                }
            }
            cells.push((pos, seqs));
        }
        Ok(cells)
    }

    fn layers(&mut self, context: &Context, group: usize, n_cells: usize) -> Result<Vec<LayerState<'a>>> {
        let transposed = match self.u32()? {
            0 => false,
            1 => true,
            other => return Err(Error::format(format!("the state has values of order {other}"))),
        };
        let layers: Vec<&KvLayer> = context.kv.iter().flatten().filter(|l| usize::from(l.group) == group).collect();
        self.expect_u32("layers", layers.len())?;
        let mut keys = Vec::with_capacity(layers.len());
        for layer in &layers {
            keys.push(self.rows(layer.type_k, context.backend.state_row_size(layer.k), n_cells)?);
        }
        let mut states = Vec::with_capacity(layers.len());
        for (layer, k) in layers.iter().zip(keys) {
            let row = context.backend.state_row_size(layer.v);
            let v = if transposed {
                self.columns(layer.type_v, row, n_cells)?
            } else {
                self.rows(layer.type_v, row, n_cells)?
            };
            states.push(LayerState { k, v });
        }
        Ok(states)
    }

    fn rows(&mut self, dtype: DType, row: usize, n_cells: usize) -> Result<Rows<'a>> {
        self.expect_u32("type of a layer", dtype as usize)?;
        self.expect("bytes of a row", row as u64, |r| r.u64())?;
        // No overflow: the context has as many rows in memory.
        Ok(Rows::InOrder(self.take(n_cells * row)?))
    }

    fn columns(&mut self, dtype: DType, row: usize, n_cells: usize) -> Result<Rows<'a>> {
        self.expect_u32("type of a layer", dtype as usize)?;
        if dtype.block_size() != 1 {
            return Err(Error::format(format!("the state has transposed values of type {dtype}")));
        }
        let element = dtype.type_size();
        self.expect_u32("bytes of an element", element)?;
        self.expect_u32("elements of a value", row / element)?;
        Ok(Rows::Transposed { bytes: self.take(n_cells * row)?, element })
    }
}

fn mismatch(what: &str, expected: u64, found: u64) -> Error {
    Error::format(format!("the state does not fit the context: {what} {found}, not {expected}"))
}
