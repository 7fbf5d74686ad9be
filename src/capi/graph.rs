//! Graphs to look at: what a context would compute, for programs that list its operations.

use std::ffi::c_int;

use super::*;
use crate::Error;
use crate::graph::plan::Plan;

/// A compute graph, which can be looked at but not computed.
pub struct ggml_cgraph {
    tag: Tag,
    /// Those that `nodes` point at, and their sources.
    _tensors: Vec<ggml_tensor>,
    nodes: Vec<*mut ggml_tensor>,
    /// The weights' data must not go before the tensors.
    _plan: Plan,
}

impl Tagged for ggml_cgraph {
    const NAME: &'static str = "cgraph";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

impl ggml_cgraph {
    pub(super) fn new(plan: Plan) -> ggml_cgraph {
        let mut tensors = observe::tensors(&plan.graph);
        let first = tensors.as_mut_ptr();
        let nodes = plan.graph.computed(&plan.live).map(|id| first.wrapping_add(id.0 as usize)).collect();
        ggml_cgraph { tag: Tag::of::<ggml_cgraph>(), _tensors: tensors, nodes, _plan: plan }
    }
}

/// Returns how many nodes a graph has: results and views, not what they are made from.
///
/// # Safety
/// `cgraph` must be NULL or a live graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_graph_n_nodes(cgraph: *mut ggml_cgraph) -> c_int {
    // SAFETY: the caller promises NULL or a live graph.
    guard(0, || Ok(unsafe { handle_ref(cgraph) }?.nodes.len() as c_int))
}

/// Returns a node of a graph, in the order of their computation; a negative `i` counts from the last, -1. NULL when there is
/// no such node. The node lives as long as the graph; it has no data.
///
/// # Safety
/// `cgraph` must be NULL or a live graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ggml_graph_node(cgraph: *mut ggml_cgraph, i: c_int) -> *mut ggml_tensor {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a live graph.
        let nodes = &unsafe { handle_ref(cgraph) }?.nodes;
        let at = if i < 0 { nodes.len() as i64 + i64::from(i) } else { i64::from(i) };
        let node = usize::try_from(at).ok().and_then(|at| nodes.get(at));
        node.copied().ok_or_else(|| Error::argument(format!("node {i} of {}", nodes.len())))
    })
}
