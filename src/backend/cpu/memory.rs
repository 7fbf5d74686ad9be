//! Where the values of a plan lie during a run, as tensors that threads read and write side by side.

use crate::backend::HostStates;
use crate::error::{Error, Result};
use crate::graph::plan::{Place, Plan};
use crate::graph::{InputData, Inputs, Source, Value, ValueId};
use crate::quant::DType;
use std::marker::PhantomData;

/// A buffer whose parts are written by different threads.
#[derive(Clone, Copy)]
pub struct Shared<'a, T> {
    data: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through methods whose callers promise not to overlap with writers.
unsafe impl<T: Send + Sync> Sync for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Takes over a buffer.
    pub fn new(data: &'a mut [T]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), lifetime: PhantomData }
    }

    /// Elements `from..from + n`; panics outside of the buffer.
    ///
    /// # Safety
    /// No thread writes them while the result is used.
    pub unsafe fn read(&self, from: usize, n: usize) -> &'a [T] {
        assert!(from <= self.len && n <= self.len - from, "outside of a shared buffer");
        // SAFETY: inside of the buffer, which lives for 'a; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.data.add(from), n) }
    }

    /// Elements `from..from + n` to write; panics outside of the buffer.
    ///
    /// # Safety
    /// No other thread uses them, and no other reference to them is used, while the result is.
    #[allow(clippy::mut_from_ref)] // several threads hold the buffer; that is its purpose
    pub unsafe fn write(&self, from: usize, n: usize) -> &'a mut [T] {
        assert!(from <= self.len && n <= self.len - from, "outside of a shared buffer");
        // SAFETY: inside of the buffer, which lives for 'a; the caller promises exclusiveness.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(from), n) }
    }
}

/// The buffers that a run finds by number. Kept between runs for its memory.
#[derive(Default)]
pub struct Buffers {
    outputs: Vec<Buffer>,
    states: Vec<Buffer>,
}

/// What [`Shared`] has but for the lifetime.
#[derive(Clone, Copy)]
struct Buffer {
    data: *mut u8,
    len: usize,
}

// SAFETY: only `Memory` uses the pointers, as long as it borrows what they were taken from.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn new(bytes: &mut [u8]) -> Buffer {
        Buffer { data: bytes.as_mut_ptr(), len: bytes.len() }
    }
}

/// The values of a plan in one run.
pub struct Memory<'a> {
    /// What is run.
    pub plan: &'a Plan,
    /// What the context filled in.
    pub inputs: &'a Inputs,
    arena: Shared<'a, u8>,
    /// Filled in [`Memory::new`] from what is borrowed for `'a`.
    buffers: &'a Buffers,
}

/// A value with its bytes.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    /// Type, shape and strides.
    pub value: &'a Value,
    /// The bytes from its first element on.
    data: Shared<'a, u8>,
}

impl<'a> Memory<'a> {
    /// Collects the buffers of a run; fails when an output has the wrong size.
    pub fn new(
        plan: &'a Plan,
        inputs: &'a Inputs,
        arena: &'a mut [u8],
        outputs: &'a mut [&mut [f32]],
        states: &'a mut HostStates,
        buffers: &'a mut Buffers,
    ) -> Result<Self> {
        if outputs.len() != plan.graph.outputs.len() {
            return Err(Error::Internal(format!("{} outputs for {}", outputs.len(), plan.graph.outputs.len())));
        }
        for (out, &id) in outputs.iter().zip(&plan.graph.outputs) {
            let value = plan.graph.value(id);
            if value.dtype != DType::F32 || out.len() != value.n_elements() {
                return Err(Error::Internal(format!("output {} of {:?} into {}", value.name, value.ne, out.len())));
            }
        }
        buffers.outputs.clear();
        buffers.outputs.extend(outputs.iter_mut().map(|o| Buffer::new(bytemuck::cast_slice_mut(o))));
        buffers.states.clear();
        buffers.states.extend(states.all_mut().map(Buffer::new));
        Ok(Self { plan, inputs, arena: Shared::new(arena), buffers })
    }

    /// A buffer of this run.
    fn buffer(&self, Buffer { data, len }: Buffer) -> Shared<'a, u8> {
        Shared { data, len, lifetime: PhantomData }
    }

    /// A value; fails when its bytes are not all there.
    pub fn tensor(&self, id: ValueId) -> Result<Tensor<'a>> {
        let value = self.plan.graph.value(id);
        let (buffer, offset) = self.locate(id)?;
        let span = if value.n_elements() == 0 {
            0
        } else {
            let blocks = value.ne[0] / value.dtype.block_size() - 1;
            blocks * value.nb[0]
                + value.dtype.type_size()
                + (1..4).map(|i| (value.ne[i] - 1) * value.nb[i]).sum::<usize>()
        };
        if offset.checked_add(span).is_none_or(|end| end > buffer.len) {
            return Err(Error::tensor(&value.name, format!("its data is shorter than shape {:?}", value.ne)));
        }
        // SAFETY: offset was checked to lie inside of the buffer.
        let data = unsafe { buffer.data.add(offset) };
        Ok(Tensor { value, data: Shared { data, len: buffer.len - offset, lifetime: PhantomData } })
    }

    /// The buffer of a value and where in it the value begins.
    fn locate(&self, id: ValueId) -> Result<(Shared<'a, u8>, usize)> {
        let value = self.plan.graph.value(id);
        Ok(match self.plan.places[id.0 as usize] {
            Place::Arena(offset) => (self.arena, offset),
            Place::Output(i) => (self.buffer(self.buffers.outputs[i]), 0),
            Place::State(state) => (self.buffer(self.buffers.states[state.0 as usize]), 0),
            Place::View { of, offset } => {
                let (buffer, base) = self.locate(of)?;
                (buffer, base + offset)
            }
            Place::Weight => {
                let Source::Weight(w) = &value.source else {
                    return Err(Error::Internal(format!("{} is no weight", value.name)));
                };
                (constant(w.bytes()), 0)
            }
            Place::Input(input) => match self.inputs.get(input) {
                InputData::I32(x) => (constant(bytemuck::cast_slice(x)), 0),
                InputData::F32(x) => (constant(bytemuck::cast_slice(x)), 0),
            },
            Place::None => return Err(Error::Internal(format!("{} is read before it is computed", value.name))),
        })
    }
}

/// Bytes that no step writes: steps write results and states only.
fn constant(bytes: &[u8]) -> Shared<'_, u8> {
    Shared { data: bytes.as_ptr().cast_mut(), len: bytes.len(), lifetime: PhantomData }
}

impl<'a> Tensor<'a> {
    /// Where a row begins.
    fn offset(&self, [i1, i2, i3]: [usize; 3]) -> usize {
        let Value { ne, nb, .. } = self.value;
        assert!(i1 < ne[1] && i2 < ne[2] && i3 < ne[3], "row outside of {}", self.value.name);
        i1 * nb[1] + i2 * nb[2] + i3 * nb[3]
    }

    /// Indices `(i1, i2, i3)` of row number `i` of all.
    pub fn row_at(&self, i: usize) -> [usize; 3] {
        let ne = self.value.ne;
        [i % ne[1], i / ne[1] % ne[2], i / ne[1] / ne[2]]
    }

    /// All bytes from the first element on.
    ///
    /// # Safety
    /// No thread writes the value while the result is used.
    pub unsafe fn bytes(&self) -> &'a [u8] {
        // SAFETY: the caller's promise.
        unsafe { self.data.read(0, self.data.len) }
    }

    /// The bytes of a row whose elements follow each other.
    ///
    /// # Safety
    /// No thread writes the row while the result is used.
    pub unsafe fn row(&self, at: [usize; 3]) -> &'a [u8] {
        // SAFETY: the caller's promise.
        unsafe { self.data.read(self.offset(at), self.value.dtype.row_size(self.value.ne[0])) }
    }

    /// A row of f32 whose elements follow each other; panics for other types.
    ///
    /// # Safety
    /// No thread writes the row while the result is used.
    pub unsafe fn floats(&self, at: [usize; 3]) -> &'a [f32] {
        assert!(self.is_plain(), "{} is not of contiguous f32 rows", self.value.name);
        // SAFETY: the caller's promise.
        bytemuck::cast_slice(unsafe { self.row(at) })
    }

    /// A row of a result to write.
    ///
    /// # Safety
    /// The value is a result of this step, no other thread uses the row, and no other reference to it is used, while the
    /// result of this call is.
    pub unsafe fn floats_mut(&self, at: [usize; 3]) -> &'a mut [f32] {
        assert!(self.is_plain(), "{} is not of contiguous f32 rows", self.value.name);
        // SAFETY: the caller's promise.
        bytemuck::cast_slice_mut(unsafe { self.data.write(self.offset(at), 4 * self.value.ne[0]) })
    }

    /// `n` bytes of a row of a state or result, from its byte `from` on, to write.
    ///
    /// # Safety
    /// As for [`Tensor::floats_mut`].
    pub unsafe fn bytes_mut(&self, at: [usize; 3], from: usize, n: usize) -> &'a mut [u8] {
        // SAFETY: the caller's promise.
        unsafe { self.data.write(self.offset(at) + from, n) }
    }

    /// Whether rows are f32 side by side.
    pub fn is_plain(&self) -> bool {
        self.value.dtype == DType::F32 && (self.value.nb[0] == 4 || self.value.ne[0] == 1)
    }

    /// Element `i0` of a row of f32 or i32, as bits.
    ///
    /// # Safety
    /// No thread writes it at the same time.
    pub unsafe fn word(&self, i0: usize, at: [usize; 3]) -> u32 {
        assert!(i0 < self.value.ne[0]);
        // SAFETY: the caller's promise.
        let bytes = unsafe { self.data.read(self.offset(at) + i0 * self.value.nb[0], 4) };
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}
