//! The CPU backend. [`Cpu`] runs plans with a team of threads; see `exec` for the steps, `product`, `float_product` and
//! `attention` for the kernels, `formats` for what a weight format contributes to them, and `simd` for what an instruction
//! set does.
//!
//! **Architecture invariants:** weights stay as the file has them; a warm backend allocates nothing per run; formats and
//! instruction sets never meet but through the traits `Format` and `Simd`.

pub mod act;
pub mod attention;
pub mod elementwise;
mod exec;
pub mod float_product;
pub mod formats;
pub mod kernels;
pub mod math;
mod memory;
mod placement;
pub mod product;
pub mod rows;
pub mod scratch;
pub mod simd;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod threads;

use super::{Backend, HostStates, Observer, Placement};
use crate::error::{Error, Result};
use crate::graph::plan::Plan;
use crate::graph::{Inputs, StateId};
use crate::quant::DType;
use act::XBlock;
use exec::{Leave, Part, RopeTables, Run, Worker};
use kernels::Isa;
use memory::{Buffers, Memory, Shared};
use scratch::{Scratch, grow};
use std::sync::{Mutex, OnceLock, PoisonError};
use threads::{Member, Team};

/// The backend of a context that computes on the processor.
pub struct Cpu {
    isa: Isa,
    states: HostStates,
    team: Team,
    /// Asked for; the team follows at the next run.
    n_threads: usize,
    /// The same.
    placement: Option<Placement>,
    workers: Vec<Mutex<Worker>>,
    arena: Scratch,
    blocks: Vec<XBlock>,
    floats: Vec<f32>,
    ropes: RopeTables,
    buffers: Buffers,
}

impl Cpu {
    /// A backend that works with `n_threads` threads (at least one), the caller's included.
    pub fn new(n_threads: usize) -> Result<Cpu> {
        Cpu::with_isa(n_threads.min(processors()), kernels::best())
    }

    /// A backend with a given instruction set, for tests.
    pub fn with_isa(n_threads: usize, isa: Isa) -> Result<Cpu> {
        let team = Team::new(n_threads, None)?;
        Ok(Cpu {
            isa,
            states: HostStates::default(),
            n_threads: team.n_threads(),
            placement: None,
            workers: (0..team.n_threads()).map(|_| Mutex::default()).collect(),
            team,
            arena: Scratch::default(),
            blocks: Vec::new(),
            floats: Vec::new(),
            ropes: RopeTables::default(),
            buffers: Buffers::default(),
        })
    }

    /// Makes the team what was asked for. Without more threads the old team goes on.
    fn resize_team(&mut self) {
        if self.team.n_threads() == self.n_threads && self.team.placement() == self.placement.as_ref() {
            return;
        }
        match Team::new(self.n_threads, self.placement.as_ref()) {
            Ok(team) => {
                self.team = team;
                self.workers.resize_with(self.n_threads, Mutex::default);
            }
            Err(e) => {
                log::warn!("{e}; going on with {} threads", self.team.n_threads());
                self.n_threads = self.team.n_threads();
                self.placement = self.team.placement().cloned();
            }
        }
    }
}

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn alloc_state(&mut self, dtype: DType, ne: [usize; 4]) -> Result<StateId> {
        self.states.alloc(dtype, ne)
    }

    fn clear_state(&mut self, id: StateId) -> Result<()> {
        self.states.clear(id);
        Ok(())
    }

    fn read_state(&self, id: StateId, offset: usize, dst: &mut [u8]) -> Result<()> {
        self.states.read(id, offset, dst)
    }

    fn write_state(&mut self, id: StateId, offset: usize, src: &[u8]) -> Result<()> {
        self.states.write(id, offset, src)
    }

    fn copy_state(&mut self, id: StateId, from: usize, to: usize, len: usize) -> Result<()> {
        self.states.copy(id, from, to, len)
    }

    fn state_row_size(&self, id: StateId) -> usize {
        self.states.row_size(id)
    }

    fn state_size(&self) -> usize {
        self.states.size()
    }

    fn set_n_threads(&mut self, n_threads: usize) {
        // More threads than processors would only wait for each other.
        self.n_threads = n_threads.clamp(1, processors());
    }

    fn set_placement(&mut self, placement: Option<&Placement>) {
        if self.placement.as_ref() != placement {
            self.placement = placement.cloned();
        }
    }

    fn run(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        self.run_on_team(plan, inputs, outputs, stop, &|run, m, worker, check| run.steps(m, worker, check))
    }

    fn observe(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
        observer: &mut Observer,
    ) -> Result<()> {
        let observer = Caller(std::cell::RefCell::new(observer));
        self.run_on_team(plan, inputs, outputs, stop, &|run, m, worker, check| {
            let observer = &observer;
            let mut observer = (m.index == 0).then(|| observer.0.borrow_mut());
            run.observed_steps(m, worker, check, observer.as_mut().map(|o| &mut ***o))
        })
    }
}

/// A thread's part of a run; the last argument says whether to go on.
type Body<'a> = dyn Fn(&Run<'_>, &Member<'_>, &mut Worker, &mut dyn FnMut() -> Part) -> Part + Sync + 'a;

impl Cpu {
    fn run_on_team(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
        body: &Body<'_>,
    ) -> Result<()> {
        self.resize_team();
        let needs = Run::needs(plan, self.team.n_threads());
        grow(&mut self.blocks, needs.blocks, XBlock::default())?;
        grow(&mut self.floats, needs.floats, 0.0)?;
        self.arena.reserve(plan.arena_size)?;
        self.ropes.prepare(plan)?;
        let [arena] = self.arena.split([plan.arena_size]);
        let run = Run {
            isa: self.isa,
            memory: Memory::new(plan, inputs, arena, outputs, &mut self.states, &mut self.buffers)?,
            blocks: Shared::new(&mut self.blocks),
            floats: Shared::new(&mut self.floats),
            ropes: self.ropes.share(),
        };
        let workers = &self.workers;
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        // Only the caller's thread asks.
        let stop = Caller(std::cell::RefCell::new(stop));
        self.team.run(&|m: Member<'_>| {
            let mut worker = workers[m.index].lock().unwrap_or_else(PoisonError::into_inner);
            let stop = &stop;
            let mut check = || {
                if m.index == 0 && stop.ask() { Err(Leave::Failed(Error::Aborted)) } else { Ok(()) }
            };
            if let Err(Leave::Failed(error)) = body(&run, &m, &mut worker, &mut check) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                m.stop();
            }
        })?;
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Something that only the calling thread of a run uses.
struct Caller<'a, T: ?Sized>(std::cell::RefCell<&'a mut T>);

// SAFETY: the cell is borrowed by member 0 only, which is the thread that made the value.
unsafe impl<T: ?Sized> Sync for Caller<'_, T> {}

impl Caller<'_, dyn FnMut() -> bool + '_> {
    fn ask(&self) -> bool {
        (self.0.borrow_mut())()
    }
}

/// How many threads can run at once. Asked once: the system looks into several files for it, and every decode compares
/// with the answer.
fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}
