//! Runs the steps of a plan of single nodes and tells an observer of every result, while the other threads wait.

use super::{Part, Run, Worker};
use crate::backend::cpu::threads::Member;
use crate::backend::{Observer, Seen};
use crate::graph::ValueId;
use crate::graph::fuse::Step;

impl Run<'_> {
    /// This thread's part of all steps. `check` is called between steps and says whether to go on. Only the calling thread
    /// of the run has an `observer`.
    pub fn observed_steps(
        &self,
        m: &Member<'_>,
        worker: &mut Worker,
        check: &mut dyn FnMut() -> Part,
        mut observer: Option<&mut Observer>,
    ) -> Part {
        self.ropes.fill(m, &self.memory)?;
        m.barrier()?;
        let plan = self.memory.plan;
        let mut told = plan.graph.computed(&plan.live).peekable();
        if let Some(observer) = &mut observer {
            observer(&plan.graph, Seen::Begins);
        }
        for step in &plan.steps {
            check()?;
            let mut wanted = false;
            if let (Step::Linear(_) | Step::Attention(_) | Step::Node(_), Some(observer)) = (step, &mut observer) {
                let node = step.writes()[0];
                // Views of what was there before.
                while let Some(view) = told.next_if(|&id| id < node) {
                    self.tell(m, observer, view)?;
                }
                wanted = told.next_if_eq(&node).is_some() && observer(&plan.graph, Seen::Asks(node));
            }
            self.step(m, worker, step)?;
            m.barrier()?;
            if let Some(observer) = observer.as_mut().filter(|_| wanted) {
                self.show(m, observer, step.writes()[0])?;
            }
            m.barrier()?;
        }
        Ok(())
    }

    fn tell(&self, m: &Member<'_>, observer: &mut Observer, id: ValueId) -> Part {
        if observer(&self.memory.plan.graph, Seen::Asks(id)) { self.show(m, observer, id) } else { Ok(()) }
    }

    /// Shows a value; if the observer has seen enough, makes all threads leave.
    fn show(&self, m: &Member<'_>, observer: &mut Observer, id: ValueId) -> Part {
        // SAFETY: all threads wait for this one, or work on a step that does not write what earlier ones have made and
        // something still reads.
        let bytes = |id: ValueId| self.memory.tensor(id).ok().map(|t| unsafe { t.bytes() });
        if observer(&self.memory.plan.graph, Seen::Shows(id, &bytes)) {
            return Ok(());
        }
        m.stop();
        Err(super::Leave::Stopped)
    }
}
