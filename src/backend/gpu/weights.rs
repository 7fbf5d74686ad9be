//! Weights on a device. Blocks are taken apart into planes, one per field, so that every load is aligned and neighbouring
//! threads load neighbouring words; `shaders/format` reads them. Tensors share large buffers, since a buffer per tensor
//! would cost a bind group each.

use super::device::Device;
use super::shader;
use crate::error::{Error, Result};
use crate::quant::{self, DType};
use crate::tensor::{Weight, WeightRef};
use rayon::prelude::*;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes of a shared buffer: few buffers, and little lost at the end of each.
const CHUNK: u64 = 2 << 30;

/// Room for what is not known when the last buffer is made.
const SPARE: u64 = 1 << 20;

/// Bytes handed to the queue before it is told to begin copying: bounds what waits in host memory.
const FLUSH: u64 = 256 << 20;

/// Elements of plain types to whose multiples rows are padded, so that four can be loaded at once.
const PLAIN_BLOCK: usize = 8;

/// A part of a buffer that holds a tensor or some of its rows.
#[derive(Debug, Clone)]
pub struct Part {
    /// The buffer.
    pub buffer: wgpu::Buffer,
    /// First word of each plane.
    pub planes: [u32; 4],
    /// First row.
    pub first: usize,
    /// Number of rows.
    pub rows: usize,
}

/// A tensor on the device.
#[derive(Debug)]
pub struct Resident {
    /// The type that kernels see.
    pub dtype: DType,
    /// Blocks of a row.
    pub blocks: usize,
    /// Its rows, split where a buffer could not hold them all.
    pub parts: Vec<Part>,
    /// Keeps the identity of the tensor.
    _weight: WeightRef,
}

/// A vector on the device, as f32.
#[derive(Debug, Clone)]
pub struct Vector {
    /// The buffer.
    pub buffer: wgpu::Buffer,
    /// First word.
    pub at: u32,
}

/// The weights of a model, or of a context's adapters, on one device.
pub struct Weights {
    device: Arc<Device>,
    /// The tensors that belong here, whether they are uploaded or not.
    known: HashMap<*const Weight, WeightRef>,
    state: Mutex<State>,
}

// SAFETY: the pointers are keys alone; the tensors behind them are kept alive beside them and never reached through them.
unsafe impl Send for Weights {}
// SAFETY: as above; what changes is behind a lock.
unsafe impl Sync for Weights {}

#[derive(Default)]
struct State {
    matrices: HashMap<*const Weight, Arc<Resident>>,
    vectors: HashMap<*const Weight, (Vector, WeightRef)>,
    tables: HashMap<Vec<u8>, Vector>,
    /// The buffer that is being filled, its size and how much of it is taken.
    chunk: Option<(wgpu::Buffer, u64, u64)>,
    /// Sizes of the tensors to come, as far as known: a chunk ends where one of them does.
    upcoming: VecDeque<u64>,
    /// Bytes of all buffers.
    size: u64,
    unflushed: u64,
}

impl Weights {
    /// For these tensors, none of which is uploaded yet.
    pub fn new(device: Arc<Device>, tensors: &[WeightRef]) -> Weights {
        let known = tensors.iter().map(|w| (Arc::as_ptr(w), w.clone())).collect();
        Weights { device, known, state: Mutex::default() }
    }

    /// Whether a tensor belongs here.
    pub fn owns(&self, w: &WeightRef) -> bool {
        self.known.contains_key(&Arc::as_ptr(w))
    }

    /// Uploads tensors: matrices in their planes, vectors as f32. `progress` is told the bytes done, and stops by `false`.
    ///
    /// # Errors
    /// [`Error::Aborted`] by `progress`; as for [`Weights::matrix`].
    pub fn upload_all(&self, tensors: &[&WeightRef], progress: &mut dyn FnMut(u64) -> bool) -> Result<()> {
        self.lock().upcoming = tensors.iter().map(|w| padded_size(w)).collect();
        for w in tensors {
            self.lock().upcoming.pop_front();
            if w.ne[1] > 1 {
                self.matrix(w)?;
            } else {
                self.vector(w)?;
            }
            if !progress(w.bytes().len() as u64) {
                return Err(Error::Aborted);
            }
        }
        self.finish()
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Bytes on the device.
    pub fn size(&self) -> u64 {
        self.lock().size
    }

    /// A tensor as a matrix, uploaded at its first use.
    ///
    /// # Errors
    /// [`Error::Memory`]: the device is full.
    pub fn matrix(&self, w: &WeightRef) -> Result<Arc<Resident>> {
        let mut state = self.lock();
        if let Some(found) = state.matrices.get(&Arc::as_ptr(w)) {
            return Ok(found.clone());
        }
        let resident = Arc::new(self.upload(&mut state, w)?);
        state.matrices.insert(Arc::as_ptr(w), resident.clone());
        Ok(resident)
    }

    /// A tensor as f32 numbers, uploaded at its first use.
    ///
    /// # Errors
    /// As for [`Weights::matrix`].
    pub fn vector(&self, w: &WeightRef) -> Result<Vector> {
        let mut state = self.lock();
        if let Some((found, _)) = state.vectors.get(&Arc::as_ptr(w)) {
            return Ok(found.clone());
        }
        let values = floats(w)?;
        let vector = self.put_vector(&mut state, &values)?;
        state.vectors.insert(Arc::as_ptr(w), (vector.clone(), w.clone()));
        Ok(vector)
    }

    /// A table of numbers, uploaded once for each `key`.
    ///
    /// # Errors
    /// As for [`Weights::matrix`].
    pub fn table(&self, key: Vec<u8>, make: impl FnOnce() -> Vec<f32>) -> Result<Vector> {
        let mut state = self.lock();
        if let Some(found) = state.tables.get(&key) {
            return Ok(found.clone());
        }
        let vector = self.put_vector(&mut state, &make())?;
        state.tables.insert(key, vector.clone());
        Ok(vector)
    }

    /// Waits until everything is on the device.
    ///
    /// # Errors
    /// What the device had to say.
    pub fn finish(&self) -> Result<()> {
        self.lock().unflushed = 0;
        self.device.queue.submit([]);
        self.device.wait()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_vector(&self, state: &mut State, values: &[f32]) -> Result<Vector> {
        let (buffer, at) = self.take(state, 4 * values.len() as u64)?;
        self.device.queue.write_buffer(&buffer, at, bytemuck::cast_slice(values));
        self.device.check()?;
        Ok(Vector { buffer, at: (at / 4) as u32 })
    }

    /// Room for `size` bytes, and where it begins.
    fn take(&self, state: &mut State, size: u64) -> Result<(wgpu::Buffer, u64)> {
        let size = size.max(16).next_multiple_of(16);
        if let Some((buffer, total, taken)) = &mut state.chunk
            && *total - *taken >= size
        {
            let at = *taken;
            *taken += size;
            return Ok((buffer.clone(), at));
        }
        let limit = self.device.abilities.max_binding & !15;
        let mut total = size;
        let mut rest = state.upcoming.iter();
        let full = rest.by_ref().any(|next| {
            let more = total + next <= CHUNK.min(limit);
            total += if more { *next } else { 0 };
            !more
        });
        if !full {
            // Vectors that were not counted, and tables, come too.
            total = (total + SPARE).min(limit).max(size);
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = self.device.buffer("weights", total, usage)?;
        state.size += total;
        // A tensor of its own buffer leaves the shared one open.
        if total > size {
            state.chunk = Some((buffer.clone(), total, size));
        }
        Ok((buffer, 0))
    }

    fn upload(&self, state: &mut State, w: &WeightRef) -> Result<Resident> {
        let (rows, n) = (w.n_rows(), w.ne[0]);
        let layout = Layout::of(w.dtype);
        let blocks = n.div_ceil(layout.block);
        let row: u64 = layout.planes.iter().map(|p| (blocks * p.size) as u64).sum();
        let limit = (self.device.abilities.max_binding & !15) - 64;
        // Whole matrices where there are several: a product with experts finds them by number.
        let most = (limit / row.max(1)) as usize;
        if most == 0 || (w.ne[2] * w.ne[3] > 1 && most < rows) {
            return Err(Error::Unsupported(format!(
                "tensor '{}' of {} bytes in one binding",
                w.name,
                row * rows as u64
            )));
        }
        let mut parts = Vec::new();
        for first in (0..rows).step_by(most.max(1)) {
            let n_rows = most.min(rows - first);
            let sizes = layout.planes.map(|p| ((n_rows * blocks * p.size) as u64).next_multiple_of(16));
            let (buffer, at) = self.take(state, sizes.iter().sum())?;
            let mut begin = at;
            let mut planes = [0; 4];
            for (i, plane) in layout.planes.iter().enumerate() {
                planes[i] = (begin / 4) as u32;
                self.upload_plane(state, w, first..first + n_rows, &layout, plane, &buffer, begin)?;
                begin += sizes[i];
            }
            parts.push(Part { buffer, planes, first, rows: n_rows });
        }
        Ok(Resident { dtype: layout.dtype, blocks, parts, _weight: w.clone() })
    }

    #[allow(clippy::too_many_arguments)]
    fn upload_plane(
        &self,
        state: &mut State,
        w: &Weight,
        rows: std::ops::Range<usize>,
        layout: &Layout,
        plane: &Plane,
        buffer: &wgpu::Buffer,
        begin: u64,
    ) -> Result<()> {
        let blocks = w.ne[0].div_ceil(layout.block);
        let row = blocks * plane.size;
        if row == 0 {
            return Ok(());
        }
        // Slabs of whole rows whose bytes keep the copies aligned.
        let align = (1..=16).find(|n| (n * row).is_multiple_of(16)).unwrap_or(16);
        let slab = ((32 << 20) / row).max(1).next_multiple_of(align);
        for first in rows.clone().step_by(slab) {
            let n = slab.min(rows.end - first);
            let mut bytes = vec![0u8; (n * row).next_multiple_of(4)];
            let used = &mut bytes[..n * row];
            used.par_chunks_mut(row).enumerate().try_for_each(|(i, out)| fill(w, first + i, layout, plane, out))?;
            self.device.queue.write_buffer(buffer, begin + ((first - rows.start) * row) as u64, &bytes);
            state.unflushed += bytes.len() as u64;
            if state.unflushed >= FLUSH {
                state.unflushed = 0;
                self.device.queue.submit([]);
                self.device.wait()?;
            }
        }
        self.device.check()
    }
}

/// Bytes that a tensor takes on a device.
pub fn device_size(w: &Weight) -> u64 {
    if w.ne[1] <= 1 {
        return 4 * w.n_elements() as u64;
    }
    let layout = Layout::of(w.dtype);
    let row: usize = layout.planes.iter().map(|p| w.ne[0].div_ceil(layout.block) * p.size).sum();
    (row * w.n_rows()) as u64
}

/// The same with planes at their multiples of 16 bytes.
fn padded_size(w: &Weight) -> u64 {
    if w.ne[1] <= 1 {
        return (4 * w.n_elements() as u64).next_multiple_of(16);
    }
    let layout = Layout::of(w.dtype);
    let blocks = w.ne[0].div_ceil(layout.block) * w.n_rows();
    layout.planes.iter().map(|p| ((blocks * p.size) as u64).next_multiple_of(16)).sum()
}

/// A field of the blocks of a type, in a plane of its own.
#[derive(Clone, Copy)]
struct Plane {
    /// Bytes in the plane, per block; 0: there is no such plane.
    size: usize,
    field: Field,
}

/// How a block's part of a plane is made.
#[derive(Clone, Copy)]
enum Field {
    None,
    /// Bytes of the block from here on.
    Bytes(usize),
    /// Bytes from the first place on, then bytes from the second: two fields of half the size.
    Two(usize, usize),
    /// The scales and mins of q4_K and q5_K, whose packed form begins here, one byte each.
    ScalesMins(usize),
    /// The exponent of mxfp4 as f32.
    Exponent,
    /// Elements of a plain type.
    Plain,
    /// Elements of any type, expanded to f16.
    Expanded,
}

struct Layout {
    dtype: DType,
    block: usize,
    planes: [Plane; 4],
}

impl Layout {
    fn of(dtype: DType) -> Layout {
        use Field::{Bytes, Expanded, Exponent, Plain, ScalesMins, Two};
        let planes: &[(usize, Field)] = match dtype {
            DType::F32 => &[(32, Plain)],
            DType::F16 | DType::BF16 => &[(16, Plain)],
            DType::Q4_0 | DType::IQ4NL => &[(2, Bytes(0)), (16, Bytes(2))],
            DType::Q4_1 => &[(4, Bytes(0)), (16, Bytes(4))],
            DType::Q5_0 => &[(2, Bytes(0)), (4, Bytes(2)), (16, Bytes(6))],
            DType::Q5_1 => &[(4, Bytes(0)), (4, Bytes(4)), (16, Bytes(8))],
            DType::Q8_0 => &[(2, Bytes(0)), (32, Bytes(2))],
            DType::Q2K => &[(4, Bytes(80)), (16, Bytes(0)), (64, Bytes(16))],
            DType::Q3K => &[(2, Bytes(108)), (12, Bytes(96)), (32, Bytes(0)), (64, Bytes(32))],
            DType::Q4K => &[(4, Bytes(0)), (16, ScalesMins(4)), (128, Bytes(16))],
            DType::Q5K => &[(4, Bytes(0)), (16, ScalesMins(4)), (32, Bytes(16)), (128, Bytes(48))],
            DType::Q6K => &[(2, Bytes(208)), (16, Bytes(192)), (64, Bytes(128)), (128, Bytes(0))],
            DType::IQ4XS => &[(4, Two(0, 2)), (4, Bytes(4)), (128, Bytes(8))],
            DType::MXFP4 => &[(4, Exponent), (16, Bytes(1))],
            _ => &[(16, Expanded)],
        };
        let expanded = !shader::has_format(dtype);
        let plain = matches!(dtype, DType::F32 | DType::F16 | DType::BF16) || expanded;
        let mut all = [Plane { size: 0, field: Field::None }; 4];
        for (to, &(size, field)) in all.iter_mut().zip(planes) {
            *to = Plane { size, field };
        }
        Layout {
            dtype: if expanded { DType::F16 } else { dtype },
            block: if plain { PLAIN_BLOCK } else { dtype.block_size() },
            planes: all,
        }
    }
}

/// Writes a row's part of a plane.
fn fill(w: &Weight, row: usize, layout: &Layout, plane: &Plane, out: &mut [u8]) -> Result<()> {
    let size = w.row_size();
    let bytes = &w.bytes()[row * size..][..size];
    let by_block = |out: &mut [u8], f: &dyn Fn(&[u8], &mut [u8])| {
        for (block, out) in bytes.chunks_exact(w.dtype.type_size()).zip(out.chunks_exact_mut(plane.size)) {
            f(block, out);
        }
    };
    match plane.field {
        Field::None => {}
        Field::Plain => out[..size].copy_from_slice(bytes),
        Field::Bytes(from) => by_block(out, &|block, out| out.copy_from_slice(&block[from..from + out.len()])),
        Field::Two(a, b) => by_block(out, &|block, out| {
            let half = out.len() / 2;
            out[..half].copy_from_slice(&block[a..a + half]);
            out[half..].copy_from_slice(&block[b..b + half]);
        }),
        Field::ScalesMins(from) => by_block(out, &|block, out| {
            let mut packed = [0; 12];
            packed.copy_from_slice(&block[from..from + 12]);
            for (j, pair) in out.chunks_exact_mut(2).enumerate() {
                (pair[0], pair[1]) = quant::k::scale_min(j, &packed);
            }
        }),
        Field::Exponent => by_block(out, &|block, out| {
            out.copy_from_slice(&quant::small::half_power(block[0]).to_le_bytes());
        }),
        Field::Expanded => {
            let mut values = vec![0.0; w.ne[0]];
            quant::dequantize(w.dtype, bytes, &mut values)?;
            for (v, out) in values.iter().zip(out.chunks_exact_mut(2)) {
                out.copy_from_slice(&half::f16::from_f32(*v).to_le_bytes());
            }
        }
    }
    debug_assert!(layout.block > 0);
    Ok(())
}

/// All elements of a tensor as f32.
pub fn floats(w: &Weight) -> Result<Vec<f32>> {
    let mut values = vec![0.0; w.n_elements()];
    quant::dequantize(w.dtype, &w.bytes()[..w.dtype.row_size(w.ne[0]) * w.n_rows()], &mut values)?;
    Ok(values)
}
