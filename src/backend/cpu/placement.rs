//! Where the threads of a team run: processors and priority, through the system's scheduler. Called by `threads`.

use crate::backend::{Placement, Priority};

/// Applies a placement to the calling thread, number `index` of its team. What the system refuses is logged and left out.
pub fn enter(placement: &Placement, index: usize) {
    if let Some(cpus) = cpus_of(placement, index)
        && let Err(e) = system::set_affinity(cpus)
    {
        log::warn!("thread {index} cannot be bound to processors {cpus:?}: {e}");
    }
    if placement.priority != Priority::Normal
        && let Err(e) = system::set_priority(placement.priority)
    {
        log::warn!("thread {index} cannot have priority {:?}: {e}", placement.priority);
    }
}

/// Puts the calling thread, the first of a team, among the placement's processors until the result is dropped. Its
/// priority stays: it belongs to the caller.
pub fn visit(placement: &Placement) -> Option<Visit> {
    let cpus = cpus_of(placement, 0)?;
    let visit = Visit(system::affinity().ok()?);
    if let Err(e) = system::set_affinity(cpus) {
        log::debug!("the calling thread cannot be bound to processors {cpus:?}: {e}");
        return None;
    }
    Some(visit)
}

/// Where the calling thread may run when the visit is over.
pub struct Visit(Vec<usize>);

impl Drop for Visit {
    fn drop(&mut self) {
        if let Err(e) = system::set_affinity(&self.0) {
            log::warn!("the calling thread cannot return to processors {:?}: {e}", self.0);
        }
    }
}

/// The processors of a thread; `None`: any.
fn cpus_of(placement: &Placement, index: usize) -> Option<&[usize]> {
    let cpus = &placement.cpus[..];
    match cpus.len() {
        0 => None,
        n if placement.strict => Some(std::slice::from_ref(&cpus[index % n])),
        _ => Some(cpus),
    }
}

#[cfg(target_os = "linux")]
mod system {
    use super::Priority;
    use std::io::{Error, Result};

    /// The processors that the calling thread may run on.
    pub fn affinity() -> Result<Vec<usize>> {
        // SAFETY: all zero is an empty set, which the system fills in up to its size.
        let (set, status) = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            let status = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
            (set, status)
        };
        if status != 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the numbers are below the size of a set.
        Ok((0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
    }

    /// Lets the calling thread run on these processors only.
    pub fn set_affinity(cpus: &[usize]) -> Result<()> {
        // SAFETY: all zero is an empty set; numbers outside of a set are left out; the system reads the set.
        let status = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
                libc::CPU_SET(cpu, &mut set);
            }
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
        };
        if status == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    /// Sets the calling thread's priority.
    pub fn set_priority(priority: Priority) -> Result<()> {
        let (policy, sched_priority) = match priority {
            Priority::Low => (libc::SCHED_BATCH, 0),
            Priority::Normal => (libc::SCHED_OTHER, 0),
            Priority::Medium => (libc::SCHED_FIFO, 40),
            Priority::High => (libc::SCHED_FIFO, 80),
            Priority::Realtime => (libc::SCHED_FIFO, 90),
        };
        // SAFETY: all zero is a valid sched_param, of which the system reads the priority.
        let status = unsafe {
            let mut param: libc::sched_param = std::mem::zeroed();
            param.sched_priority = sched_priority;
            libc::pthread_setschedparam(libc::pthread_self(), policy, &param)
        };
        if status == 0 { Ok(()) } else { Err(Error::from_raw_os_error(status)) }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::Priority;
    use std::io::{Error, ErrorKind, Result};

    pub fn affinity() -> Result<Vec<usize>> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    pub fn set_affinity(_cpus: &[usize]) -> Result<()> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    pub fn set_priority(_priority: Priority) -> Result<()> {
        Err(Error::from(ErrorKind::Unsupported))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::backend::cpu::threads::Team;
    use std::sync::Mutex;

    #[test]
    fn threads_stay_on_their_processors() {
        let all = system::affinity().unwrap();
        let last = *all.last().unwrap();
        for strict in [false, true] {
            let placement = Placement { cpus: vec![last], strict, ..Placement::default() };
            let mut team = Team::new(2, Some(&placement)).unwrap();
            let found = Mutex::new(Vec::new());
            team.run(&|m| {
                found.lock().unwrap().push((m.index, system::affinity().unwrap()));
                let _ = m.barrier();
            })
            .unwrap();
            let mut found = found.into_inner().unwrap();
            found.sort();
            assert_eq!(found, [(0, vec![last]), (1, vec![last])]);
            // The caller is where it was before.
            assert_eq!(system::affinity().unwrap(), all);
        }
    }

    #[test]
    fn strict_threads_share_processors_only_when_there_are_too_few() {
        let strict = Placement { cpus: vec![3, 5], strict: true, ..Placement::default() };
        assert_eq!([0, 1, 2].map(|i| cpus_of(&strict, i).unwrap()[0]), [3, 5, 3]);
        assert_eq!(cpus_of(&Placement { strict: false, ..strict }, 1), Some(&[3, 5][..]));
        assert_eq!(cpus_of(&Placement::default(), 1), None);
    }
}
