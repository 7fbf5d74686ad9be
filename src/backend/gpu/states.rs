//! Persistent buffers on a device. Plain types lie as everywhere; a quantized state has its elements first and one f32 scale
//! per block after them, so that words of both are aligned. Bytes that leave or enter have ggml's layout.

use super::device::Device;
use crate::error::{Error, Result};
use crate::quant::DType;
use std::sync::Arc;

/// Elements of a block of the quantized types.
const BLOCK: usize = 32;

/// A persistent buffer.
pub struct State {
    /// The buffer.
    pub buffer: wgpu::Buffer,
    /// Element type.
    pub dtype: DType,
    /// Elements of a row.
    pub n: usize,
    /// Number of rows.
    pub rows: usize,
}

/// Whether states of a type, with rows of `n` elements, can be on a device.
pub fn supports(dtype: DType, n: usize) -> bool {
    match dtype {
        DType::F32 => n.is_multiple_of(4),
        DType::F16 => n.is_multiple_of(4),
        DType::Q8_0 | DType::Q4_0 => n.is_multiple_of(BLOCK),
        _ => false,
    }
}

impl State {
    /// A zeroed buffer.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: not this type, or too large to bind; [`Error::Memory`]: the device is full.
    pub fn new(device: &Device, dtype: DType, n: usize, rows: usize) -> Result<State> {
        if !supports(dtype, n) {
            return Err(Error::Unsupported(format!("rows of {n} {dtype} in a state on a GPU")));
        }
        let size = (data_bytes(dtype, n) + scale_bytes(dtype, n)) as u64 * rows as u64;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        // wgpu hands out zeroed buffers.
        Ok(State { buffer: device.buffer("state", size, usage)?, dtype, n, rows })
    }

    /// The first word of the scales.
    pub fn scales(&self) -> u32 {
        (data_bytes(self.dtype, self.n) * self.rows / 4) as u32
    }

    /// Bytes of a row in ggml's layout.
    pub fn row_size(&self) -> usize {
        self.dtype.row_size(self.n)
    }

    /// Zeroes the buffer.
    pub fn clear(&self, device: &Device) {
        let mut encoder = device.device.create_command_encoder(&Default::default());
        encoder.clear_buffer(&self.buffer, 0, None);
        device.queue.submit([encoder.finish()]);
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// [`Error::Argument`]: outside of the state; what the device had to say.
    pub fn read(&self, device: &Arc<Device>, offset: usize, dst: &mut [u8]) -> Result<()> {
        let rows = self.rows_around(offset, dst.len())?;
        let bytes = self.read_rows(device, rows.clone())?;
        let skip = offset - rows.start * self.row_size();
        dst.copy_from_slice(&bytes[skip..skip + dst.len()]);
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// As for [`State::read`].
    pub fn write(&self, device: &Arc<Device>, offset: usize, src: &[u8]) -> Result<()> {
        let rows = self.rows_around(offset, src.len())?;
        let size = self.row_size();
        let skip = offset - rows.start * size;
        let bytes = if skip == 0 && src.len() == rows.len() * size {
            src.to_vec()
        } else {
            let mut bytes = self.read_rows(device, rows.clone())?;
            bytes[skip..skip + src.len()].copy_from_slice(src);
            bytes
        };
        self.write_rows(device, rows.start, &bytes)
    }

    /// Copies bytes within.
    ///
    /// # Errors
    /// As for [`State::read`].
    pub fn copy(&self, device: &Arc<Device>, from: usize, to: usize, len: usize) -> Result<()> {
        let mut bytes = vec![0; len];
        self.read(device, from, &mut bytes)?;
        self.write(device, to, &bytes)
    }

    fn rows_around(&self, offset: usize, len: usize) -> Result<std::ops::Range<usize>> {
        let size = self.row_size();
        match offset.checked_add(len) {
            Some(end) if end <= size * self.rows => Ok(offset / size.max(1)..end.div_ceil(size.max(1))),
            _ => Err(Error::argument(format!("{len} bytes at {offset} are outside of the state"))),
        }
    }

    fn read_rows(&self, device: &Arc<Device>, rows: std::ops::Range<usize>) -> Result<Vec<u8>> {
        let (data, scales) = (data_bytes(self.dtype, self.n), scale_bytes(self.dtype, self.n));
        let bytes = device.download(&self.buffer, (rows.start * data) as u64, (rows.len() * data) as u64)?;
        if scales == 0 {
            return Ok(bytes);
        }
        let at = 4 * u64::from(self.scales()) + (rows.start * scales) as u64;
        let d = device.download(&self.buffer, at, (rows.len() * scales) as u64)?;
        let block = self.dtype.type_size();
        let mut out = Vec::with_capacity(rows.len() * self.row_size());
        for (q, d) in bytes.chunks_exact(block - 2).zip(d.as_chunks::<4>().0) {
            out.extend_from_slice(&half::f16::from_f32(f32::from_le_bytes(*d)).to_le_bytes());
            out.extend_from_slice(q);
        }
        Ok(out)
    }

    fn write_rows(&self, device: &Arc<Device>, first: usize, bytes: &[u8]) -> Result<()> {
        let (data, scales) = (data_bytes(self.dtype, self.n), scale_bytes(self.dtype, self.n));
        if scales == 0 {
            device.queue.write_buffer(&self.buffer, (first * data) as u64, bytes);
            return device.check();
        }
        let (mut q, mut d) = (Vec::with_capacity(bytes.len()), Vec::new());
        for block in bytes.chunks_exact(self.dtype.type_size()) {
            d.extend_from_slice(&half::f16::from_le_bytes([block[0], block[1]]).to_f32().to_le_bytes());
            q.extend_from_slice(&block[2..]);
        }
        device.queue.write_buffer(&self.buffer, (first * data) as u64, &q);
        device.queue.write_buffer(&self.buffer, 4 * u64::from(self.scales()) + (first * scales) as u64, &d);
        device.check()
    }
}

/// Bytes of the elements of a row, scales apart.
fn data_bytes(dtype: DType, n: usize) -> usize {
    if dtype.is_quantized() { n / BLOCK * (dtype.type_size() - 2) } else { n * dtype.type_size() }
}

/// Bytes of the scales of a row.
fn scale_bytes(dtype: DType, n: usize) -> usize {
    if dtype.is_quantized() { n / BLOCK * 4 } else { 0 }
}
