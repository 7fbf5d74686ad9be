//! A team of threads that run one function together, step by step with barriers between. The caller is one of them. Waiting
//! threads spin for as long as a step usually takes, then sleep; an idle team costs nothing.

use super::placement;
use crate::backend::Placement;
use crate::error::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How often a waiting thread looks before it sleeps: about 50 µs, several times what a step of one token takes.
const SPINS: u32 = 2000;

/// With more threads than processors, spinning takes time from those that are waited for.
const YIELDS: u32 = 4;

/// The threads of a context.
pub struct Team {
    shared: Arc<Shared>,
    placement: Option<Placement>,
    workers: Vec<JoinHandle<()>>,
}

/// What a thread of the team knows while it runs the function.
pub struct Member<'a> {
    /// Which one: 0 is the caller.
    pub index: usize,
    shared: &'a Shared,
}

/// The team stops early: a thread panicked or asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

struct Shared {
    n_threads: usize,
    spins: u32,
    job: Mutex<Option<Job>>,
    /// Counts jobs; workers wait for it to move.
    job_number: Gate,
    arrived: AtomicUsize,
    /// Counts barriers passed.
    barrier: Gate,
    next_item: AtomicUsize,
    running: AtomicUsize,
    done: Gate,
    stopped: AtomicBool,
    panicked: AtomicBool,
    quit: AtomicBool,
}

/// A function that outlives its run because [`Team::run`] does not return before all threads are through.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(Member<'_>) + Sync));

// SAFETY: the function is Sync, and Team::run keeps it alive while threads hold the pointer.
unsafe impl Send for Job {}

/// A counter that threads wait on, spinning first.
#[derive(Default)]
struct Gate {
    count: AtomicU32,
    sleepers: AtomicU32,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Gate {
    /// Moves the counter on and wakes who waits for it.
    fn advance(&self) {
        self.count.fetch_add(1, SeqCst);
        // A sleeper announces itself before it looks at the counter, so one that is not seen here sees the new count.
        if self.sleepers.load(SeqCst) > 0 {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_all();
        }
    }

    /// Returns once the counter differs from `seen`.
    fn wait(&self, seen: u32, spins: u32) {
        for _ in 0..spins {
            if self.count.load(Acquire) != seen {
                return;
            }
            std::hint::spin_loop();
        }
        for _ in 0..YIELDS {
            if self.count.load(Acquire) != seen {
                return;
            }
            std::thread::yield_now();
        }
        self.sleepers.fetch_add(1, SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.count.load(SeqCst) == seen {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, SeqCst);
    }
}

impl Team {
    /// A team of `n_threads` (at least one), the caller included, who takes part where `placement` says. Fails when the
    /// system gives no more threads.
    pub fn new(n_threads: usize, placement: Option<&Placement>) -> Result<Self> {
        let n_threads = n_threads.max(1);
        let patience = placement.map_or(SPINS, |p| SPINS / 50 * p.poll.min(100));
        let n_processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let shared = Arc::new(Shared {
            n_threads,
            spins: if n_threads > n_processors { 0 } else { patience },
            job: Mutex::new(None),
            job_number: Gate::default(),
            arrived: AtomicUsize::new(0),
            barrier: Gate::default(),
            next_item: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            done: Gate::default(),
            stopped: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            quit: AtomicBool::new(false),
        });
        let mut team = Self { shared, placement: placement.cloned(), workers: Vec::with_capacity(n_threads - 1) };
        for index in 1..n_threads {
            let (shared, placement) = (team.shared.clone(), team.placement.clone());
            let life = move || {
                if let Some(placement) = &placement {
                    placement::enter(placement, index);
                }
                work(&shared, index);
            };
            let worker = std::thread::Builder::new().name(format!("infer-cpu-{index}")).spawn(life);
            team.workers.push(worker.map_err(|e| Error::io("starting a compute thread", e))?);
        }
        Ok(team)
    }

    /// Number of threads, the caller included.
    pub fn n_threads(&self) -> usize {
        self.shared.n_threads
    }

    /// Where its threads run.
    pub fn placement(&self) -> Option<&Placement> {
        self.placement.as_ref()
    }

    /// Runs `function` on all threads; returns when all have returned. A panic of the caller's part goes on; one of another
    /// thread becomes an error. Both end the function on all threads at their next barrier.
    pub fn run(&mut self, function: &(dyn Fn(Member<'_>) + Sync)) -> Result<()> {
        let s = &*self.shared;
        let _visit = self.placement.as_ref().and_then(placement::visit);
        s.stopped.store(false, Relaxed);
        s.panicked.store(false, Relaxed);
        s.next_item.store(0, Relaxed);
        s.arrived.store(0, Relaxed);
        let result = if s.n_threads > 1 {
            // SAFETY: only the lifetime changes; this function waits for all threads before it returns.
            let function = unsafe {
                std::mem::transmute::<&(dyn Fn(Member<'_>) + Sync), &'static (dyn Fn(Member<'_>) + Sync)>(function)
            };
            *s.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(Job(function));
            let done = s.done.count.load(Acquire);
            s.running.store(s.n_threads - 1, SeqCst);
            s.job_number.advance();
            let result = catch_unwind(AssertUnwindSafe(|| function(Member { index: 0, shared: s })));
            if result.is_err() {
                s.stop();
            }
            if s.running.load(SeqCst) > 0 {
                s.done.wait(done, s.spins);
            }
            result
        } else {
            catch_unwind(AssertUnwindSafe(|| function(Member { index: 0, shared: s })))
        };
        if let Err(panic) = result {
            resume_unwind(panic);
        }
        if s.panicked.load(Acquire) {
            return Err(Error::Internal("a compute thread panicked".into()));
        }
        Ok(())
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.quit.store(true, SeqCst);
        self.shared.job_number.advance();
        for worker in self.workers.drain(..) {
            // Panics of jobs are caught in the worker, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Makes all threads leave at their next barrier.
    fn stop(&self) {
        self.stopped.store(true, SeqCst);
        // Wakes those who already wait at one.
        self.barrier.advance();
    }
}

/// The life of a worker.
fn work(s: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        s.job_number.wait(seen, s.spins);
        if s.quit.load(SeqCst) {
            return;
        }
        seen = s.job_number.count.load(Acquire);
        let job = *s.job.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Job(function)) = job {
            // SAFETY: Team::run keeps the function alive until `running` has reached 0.
            let function = unsafe { &*function };
            if catch_unwind(AssertUnwindSafe(|| function(Member { index, shared: s }))).is_err() {
                s.panicked.store(true, Release);
                s.stop();
            }
        }
        if s.running.fetch_sub(1, SeqCst) == 1 {
            s.done.advance();
        }
    }
}

impl Member<'_> {
    /// Number of threads in the team.
    pub fn n_threads(&self) -> usize {
        self.shared.n_threads
    }

    /// The next item of this step that no thread has taken, if there is one below `n_items`.
    pub fn take(&self, n_items: usize) -> Option<usize> {
        if self.shared.n_threads == 1 {
            let i = self.shared.next_item.load(Relaxed);
            self.shared.next_item.store(i + 1, Relaxed);
            return (i < n_items).then_some(i);
        }
        let i = self.shared.next_item.fetch_add(1, Relaxed);
        (i < n_items).then_some(i)
    }

    /// Waits until all threads are here; then a new step begins, with all its items free. Fails when the team stops.
    pub fn barrier(&self) -> std::result::Result<(), Stopped> {
        let s = self.shared;
        let seen = s.barrier.count.load(Acquire);
        if s.stopped.load(SeqCst) {
            return Err(Stopped);
        }
        if s.arrived.fetch_add(1, AcqRel) + 1 == s.n_threads {
            s.arrived.store(0, Relaxed);
            s.next_item.store(0, Relaxed);
            s.barrier.advance();
        } else {
            s.barrier.wait(seen, s.spins);
        }
        if s.stopped.load(SeqCst) { Err(Stopped) } else { Ok(()) }
    }

    /// Makes all threads leave the function: at this barrier if the caller has not reached it yet, or at the next.
    pub fn stop(&self) {
        self.shared.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once_per_step() {
        for n_threads in [1, 2, 3, 7] {
            let mut team = Team::new(n_threads, None).unwrap();
            let counts: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            for round in 0..20 {
                team.run(&|m| {
                    for step in 0..10 {
                        while let Some(i) = m.take(counts.len()) {
                            assert_eq!(counts[i].fetch_add(1, SeqCst), round * 10 + step);
                        }
                        if m.barrier().is_err() {
                            return;
                        }
                    }
                })
                .unwrap();
            }
            assert!(counts.iter().all(|c| c.load(SeqCst) == 200));
        }
    }

    #[test]
    fn a_panic_ends_the_run_and_the_team_lives_on() {
        let mut team = Team::new(3, None).unwrap();
        let run = team.run(&|m| {
            assert!(m.index != 2, "expected by the test");
            while m.barrier().is_ok() {}
        });
        assert!(matches!(run, Err(Error::Internal(_))));
        let caught = catch_unwind(AssertUnwindSafe(|| {
            team.run(&|m| {
                assert!(m.index != 0, "expected by the test");
                while m.barrier().is_ok() {}
            })
        }));
        assert!(caught.is_err());
        let n = AtomicUsize::new(0);
        team.run(&|m| {
            n.fetch_add(1, SeqCst);
            let _ = m.barrier();
        })
        .unwrap();
        assert_eq!(n.load(SeqCst), 3);
    }

    #[test]
    fn stopping_releases_everyone() {
        let mut team = Team::new(4, None).unwrap();
        let passed = AtomicUsize::new(0);
        team.run(&|m| {
            for step in 0.. {
                if m.index == 1 && step == 5 {
                    m.stop();
                }
                if m.barrier().is_err() {
                    return;
                }
                passed.fetch_add(1, SeqCst);
            }
        })
        .unwrap();
        assert!(passed.load(SeqCst) <= 20);
    }
}
