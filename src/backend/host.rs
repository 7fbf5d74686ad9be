//! Persistent buffers in host memory, shared by the backends that compute there.

use crate::error::{Error, Result};
use crate::graph::StateId;
use crate::quant::DType;
use memmap2::MmapMut;

/// Buffers of a context, page-aligned; pages are taken from the system when first written.
#[derive(Default)]
pub struct HostStates {
    buffers: Vec<MmapMut>,
    row_sizes: Vec<usize>,
}

impl HostStates {
    /// Makes a zeroed buffer.
    pub fn alloc(&mut self, dtype: DType, ne: [usize; 4]) -> Result<StateId> {
        let bytes = ne[1..]
            .iter()
            .try_fold(dtype.row_size(ne[0]), |n, &d| n.checked_mul(d))
            .ok_or_else(|| Error::Memory(format!("state of shape {ne:?} overflows")))?;
        // An empty mapping is refused by the system; one byte stands for it.
        let map = MmapMut::map_anon(bytes.max(1)).map_err(|e| Error::Memory(format!("{bytes} bytes of state: {e}")))?;
        self.buffers.push(map);
        self.row_sizes.push(dtype.row_size(ne[0]));
        Ok(StateId(self.buffers.len() as u32 - 1))
    }

    /// The bytes of a buffer.
    pub fn bytes(&self, id: StateId) -> &[u8] {
        &self.buffers[id.0 as usize]
    }

    /// The bytes of a buffer, to write.
    pub fn bytes_mut(&mut self, id: StateId) -> &mut [u8] {
        &mut self.buffers[id.0 as usize]
    }

    /// Copies out, see [`super::Backend::read_state`].
    pub fn read(&self, id: StateId, offset: usize, dst: &mut [u8]) -> Result<()> {
        let src =
            self.bytes(id).get(offset..).and_then(|b| b.get(..dst.len())).ok_or_else(|| outside(offset, dst.len()))?;
        dst.copy_from_slice(src);
        Ok(())
    }

    /// Copies in, see [`super::Backend::write_state`].
    pub fn write(&mut self, id: StateId, offset: usize, src: &[u8]) -> Result<()> {
        let dst = self.bytes_mut(id).get_mut(offset..).and_then(|b| b.get_mut(..src.len()));
        dst.ok_or_else(|| outside(offset, src.len()))?.copy_from_slice(src);
        Ok(())
    }

    /// Copies within a buffer, see [`super::Backend::copy_state`].
    pub fn copy(&mut self, id: StateId, from: usize, to: usize, len: usize) -> Result<()> {
        let bytes = self.bytes_mut(id);
        if from.max(to).checked_add(len).is_none_or(|end| end > bytes.len()) {
            return Err(outside(from.max(to), len));
        }
        bytes.copy_within(from..from + len, to);
        Ok(())
    }

    /// Zeroes a buffer.
    pub fn clear(&mut self, id: StateId) {
        self.bytes_mut(id).fill(0);
    }

    /// Bytes of a row of a buffer.
    pub fn row_size(&self, id: StateId) -> usize {
        self.row_sizes[id.0 as usize]
    }

    /// Bytes of all buffers.
    pub fn size(&self) -> usize {
        self.buffers.iter().map(|b| b.len()).sum()
    }
}

fn outside(offset: usize, len: usize) -> Error {
    Error::argument(format!("{len} bytes at {offset} are outside of the state"))
}
