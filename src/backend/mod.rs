//! What runs a graph. A backend belongs to one context: it owns the context's persistent state (KV cache) and whatever it
//! needs to run plans. [`reference`](mod@reference) interprets the graph node by node and is the oracle for all others.

pub mod cpu;
#[cfg(feature = "gpu")]
pub mod gpu;
mod host;
pub mod reference;
pub mod sample;
pub mod split;

pub use host::HostStates;

use crate::error::{Error, Result};
use crate::graph::plan::Plan;
use crate::graph::{Graph, Inputs, StateId, ValueId};
use crate::quant::DType;
use sample::Request;

/// Where and how the threads of a backend run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Processors that they may use; none: any.
    pub cpus: Vec<usize>,
    /// Each uses one of these alone, as far as there are enough.
    pub strict: bool,
    /// How they rank among the threads of the system.
    pub priority: Priority,
    /// How long a thread that waits looks out for work before it sleeps: 0 not at all, 50 as usual.
    pub poll: u32,
}

/// How the threads of a backend rank among those of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Priority {
    Low,
    #[default]
    Normal,
    Medium,
    High,
    Realtime,
}

impl Default for Placement {
    fn default() -> Self {
        Placement { cpus: Vec::new(), strict: false, priority: Priority::Normal, poll: 50 }
    }
}

/// What an observed run tells, value by value in the order of the graph.
pub enum Seen<'a> {
    /// The run begins; the answer does not matter.
    Begins,
    /// The value comes next: whether it is wanted.
    Asks(ValueId),
    /// The wanted value is there: whether to go on. The function gives the bytes, from its first element on, of it and of
    /// what it was made from.
    Shows(ValueId, &'a dyn Fn(ValueId) -> Option<&'a [u8]>),
}

/// Watches a run. It is called on the thread that asked for the run.
pub type Observer<'a> = dyn FnMut(&Graph, Seen<'_>) -> bool + 'a;

/// Runs plans over a context's state. Not shared between threads; a context moves it along.
pub trait Backend: Send {
    /// Short name for messages, e.g. `cpu`.
    fn name(&self) -> &'static str;

    /// Makes a zeroed persistent buffer.
    fn alloc_state(&mut self, dtype: DType, ne: [usize; 4]) -> Result<StateId>;

    /// The same for a layer's use, for backends that have layers on several devices.
    fn alloc_layer_state(&mut self, layer: usize, dtype: DType, ne: [usize; 4]) -> Result<StateId> {
        let _ = layer;
        self.alloc_state(dtype, ne)
    }

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

    /// For each of its devices the bytes of persistent buffers, and of results and scratch as far as it keeps them.
    fn memory(&self) -> Vec<[usize; 2]> {
        vec![[self.state_size(), 0]]
    }

    /// How many threads may work, the caller's included.
    fn set_n_threads(&mut self, n_threads: usize);

    /// Where the threads run; `None`: wherever the system likes. Backends without threads of their own ignore it.
    fn set_placement(&mut self, placement: Option<&Placement>) {
        let _ = placement;
    }

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

    /// Whether `run_sampled` chooses tokens.
    fn can_sample(&self) -> bool {
        false
    }

    /// As `run`, and chooses tokens by the rows of an output, which are then not copied out unless the request says so.
    /// Whether it did: a backend that does not choose has computed all outputs.
    fn run_sampled(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
        _request: &mut Request,
    ) -> Result<bool> {
        self.run(plan, inputs, outputs, stop).map(|()| false)
    }

    /// An output that `run_sampled` did not copy out, as long as nothing else ran.
    fn read_output(&self, _plan: u64, output: usize, _to: &mut [f32]) -> Result<()> {
        Err(Error::Internal(format!("output {output} was copied out")))
    }

    /// The same as `run` for a plan of single nodes (`plan_apart`), of whose results `observer` is told. When it wants no more, the
    /// run ends without an error, and the content of `outputs` is undefined.
    fn observe(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
        observer: &mut Observer,
    ) -> Result<()>;
}
