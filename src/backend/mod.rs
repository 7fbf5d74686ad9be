//! What runs a graph. A backend belongs to one context: it owns the context's persistent state (KV cache) and whatever it
//! needs to run plans. [`reference`](mod@reference) interprets the graph node by node and is the oracle for all others.

pub mod cpu;
mod host;
pub mod reference;

pub use host::HostStates;

use crate::error::Result;
use crate::graph::plan::Plan;
use crate::graph::{Inputs, StateId};
use crate::quant::DType;

/// Runs plans over a context's state. Not shared between threads; a context moves it along.
pub trait Backend: Send {
    /// Short name for messages, e.g. `cpu`.
    fn name(&self) -> &'static str;

    /// Makes a zeroed persistent buffer.
    fn alloc_state(&mut self, dtype: DType, ne: [usize; 4]) -> Result<StateId>;

    /// Zeroes a persistent buffer.
    fn clear_state(&mut self, id: StateId) -> Result<()>;

    /// Copies bytes out of a persistent buffer.
    fn read_state(&self, id: StateId, offset: usize, dst: &mut [u8]) -> Result<()>;

    /// Copies bytes into a persistent buffer.
    fn write_state(&mut self, id: StateId, offset: usize, src: &[u8]) -> Result<()>;

    /// Copies bytes within a persistent buffer.
    fn copy_state(&mut self, id: StateId, from: usize, to: usize, len: usize) -> Result<()>;

    /// Bytes of a row (`ne[0]` elements) of a persistent buffer.
    fn state_row_size(&self, id: StateId) -> usize;

    /// Bytes of all persistent buffers.
    fn state_size(&self) -> usize;

    /// How many threads may work, the caller's included.
    fn set_n_threads(&mut self, n_threads: usize);

    /// Computes the plan's outputs into `outputs`, one slice per declared output, of its number of elements. `stop` is
    /// asked at least once per layer, from the calling thread; when it says true the run ends with `Error::Aborted` and
    /// the content of `outputs` and of the state rows that the plan writes is undefined.
    fn run(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<()>;
}
