//! Lays the temporaries of a fused graph into one arena by lifetime, so that running it allocates nothing.

use super::fuse::{Step, apart, fuse};
use super::{Graph, Input, Op, Source, StateId, ValueId};
use std::sync::atomic::{AtomicU64, Ordering};

/// Alignment of every temporary, in bytes: a cache line and the widest vector.
pub const ALIGN: usize = 64;

/// Where the bytes of a value are during a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the arena, at this byte.
    Arena(usize),
    /// In the caller's output of this number.
    Output(usize),
    /// The weight tensor of the value itself.
    Weight,
    /// A persistent buffer.
    State(StateId),
    /// Filled by the context.
    Input(Input),
    /// Bytes of another value.
    View {
        /// Who owns them.
        of: ValueId,
        /// Where the view begins.
        offset: usize,
    },
    /// Never materialized: unused, or inside a fused step.
    None,
}

/// A graph ready to run again and again.
#[derive(Debug)]
pub struct Plan {
    /// The graph; the reference backend runs it as it is.
    pub graph: Graph,
    /// Which values are needed.
    pub live: Vec<bool>,
    /// Fused steps in an order in which they can run.
    pub steps: Vec<Step>,
    /// Where each value is.
    pub places: Vec<Place>,
    /// Bytes of the arena.
    pub arena_size: usize,
    /// No other plan of this process has it: what backends prepare for a plan is kept under it.
    pub id: u64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Fuses a graph and places its temporaries.
pub fn plan(graph: Graph) -> Plan {
    let live = graph.live();
    let steps = fuse(&graph, &live);
    place(graph, live, steps)
}

/// Places the temporaries of a graph without fusing anything: every result is there, from its step to the last that reads it.
pub fn plan_apart(graph: Graph) -> Plan {
    let live = graph.live();
    let steps = apart(&graph, &live);
    place(graph, live, steps)
}

/// Places the temporaries of steps, each with what it reads.
pub(super) fn place(graph: Graph, live: Vec<bool>, steps: Vec<(Step, Vec<ValueId>)>) -> Plan {
    let (steps, reads): (Vec<Step>, Vec<Vec<ValueId>>) = steps.into_iter().unzip();
    let mut places: Vec<Place> = graph
        .values
        .iter()
        .map(|v| match &v.source {
            Source::Weight(_) => Place::Weight,
            Source::State(id) => Place::State(*id),
            Source::Input(input) => Place::Input(*input),
            Source::View { of, offset } => Place::View { of: *of, offset: *offset },
            Source::Node { .. } => Place::None,
        })
        .collect();
    for (i, id) in graph.outputs.iter().enumerate() {
        places[id.0 as usize] = Place::Output(i);
    }

    // A write to a state yields the state itself.
    let mut spans: Vec<Span> = Vec::new();
    let mut span_of = vec![usize::MAX; graph.values.len()];
    for (at, step) in steps.iter().enumerate() {
        for id in step.writes() {
            let i = id.0 as usize;
            if let Source::Node { op: Op::SetRows, inputs } = &graph.values[i].source {
                places[i] = Place::View { of: inputs[0], offset: 0 };
            } else if places[i] == Place::None {
                span_of[i] = spans.len();
                spans.push(Span {
                    value: id,
                    size: graph.value(id).n_bytes().next_multiple_of(ALIGN),
                    first: at,
                    last: at,
                });
            }
        }
        for &id in &reads[at] {
            let (owner, _) = graph.resolve(id);
            if let Some(span) = spans.get_mut(span_of[owner.0 as usize]) {
                span.last = at;
            }
        }
    }
    let arena_size = pack(&spans, &mut places);
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    Plan { graph, live, steps, places, arena_size, id }
}

/// The steps between which a temporary must keep its bytes.
struct Span {
    value: ValueId,
    size: usize,
    first: usize,
    last: usize,
}

/// Places each span at the lowest offset that no span alive at the same time uses, largest first.
fn pack(spans: &[Span], places: &mut [Place]) -> usize {
    let mut order: Vec<&Span> = spans.iter().collect();
    order.sort_by_key(|s| std::cmp::Reverse(s.size));
    let mut placed: Vec<(usize, &Span)> = Vec::with_capacity(spans.len());
    let mut total = 0;
    for span in order {
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|(_, other)| other.first <= span.last && span.first <= other.last)
            .map(|(offset, other)| (*offset, offset + other.size))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (from, to) in taken {
            if from >= offset + span.size {
                break;
            }
            offset = offset.max(to);
        }
        places[span.value.0 as usize] = Place::Arena(offset);
        total = total.max(offset + span.size);
        placed.push((offset, span));
    }
    total
}
