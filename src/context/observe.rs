//! Looking at single results: the evaluation callback, and the graph that it would see.

use super::Context;
use super::graphs::{self, Wanted};
use super::layer_inputs::LayerSet;
use crate::backend::Seen;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::graph::plan::Plan;
use crate::model::Pooling;
use crate::model::build::UbatchShape;

/// Told every result of a computation, see [`Seen`]; when it wants no more, the rest of the ubatch is not computed, its
/// outputs are undefined, and the decode succeeds.
pub type EvalCallback = Box<dyn FnMut(&Graph, Seen<'_>) -> bool + Send>;

impl Context {
    /// Who is told every result. Computing them one by one costs speed.
    pub fn set_eval_callback(&mut self, observer: Option<EvalCallback>) {
        self.observer = observer;
    }

    /// What would be computed, result by result, for a ubatch of `n_tokens` of `n_seqs` sequences, `n_outputs` of them with
    /// outputs. Nothing is computed.
    pub fn reserve_graph(&self, n_tokens: usize, n_seqs: usize, n_outputs: usize) -> Result<Plan> {
        let s = &self.settings;
        let n_max = s.n_ctx.max(s.n_seq_max) as usize;
        let fits = (1..=n_max).contains(&n_tokens) && n_outputs <= n_tokens;
        if !fits || !(1..=s.n_seq_max as usize).contains(&n_seqs) {
            return Err(Error::argument(format!(
                "a graph of {n_tokens} tokens, {n_seqs} sequences and {n_outputs} outputs; the context has {n_max} cells"
            )));
        }
        let embeddings = s.embeddings.then_some(s.pooling);
        let pooled = embeddings.is_some_and(|p| p != Pooling::None);
        let wanted = Wanted { logits: !pooled, embeddings, layer_inputs: LayerSet::default(), observed: true };
        let shape = UbatchShape { n_tokens, n_outputs, n_seqs: if pooled { n_seqs } else { 0 }, embd: false };
        Ok(graphs::build(&self.model, s, &self.kv, &self.adapters, shape, wanted)?.plan)
    }
}
