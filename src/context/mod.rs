//! A context: what one conversation (or several, as sequences) needs beside the model: settings, memory, the backend with
//! its state, plans for the shapes of ubatch seen so far, and the outputs of the last batch.
//!
//! [`Context::decode`] is the way of a token: batch → ubatches → cells → graph → plan → backend → outputs.
//! A context belongs to one thread at a time; the model it holds may be shared.

mod adapters;
pub mod batch;
mod decode;
mod graphs;
mod layer_inputs;
mod observe;
mod outputs;
mod params;
mod perf;
mod sampled;
pub mod session;
pub mod state;
mod state_read;
pub mod ubatch;
mod update;

pub use batch::Batch;
pub use observe::EvalCallback;
pub use params::{BackendKind, ContextParams, MAX_THREADS, Settings};
pub use perf::Perf;
pub use state_read::Source;

use crate::backend::reference::Reference;
use crate::backend::{Backend, Placement, cpu};
use crate::error::{Error, Result};
use crate::graph::Inputs;
use crate::memory::{Memory, MemoryConfig, OwnRows, Reservation, SWA, Window};
use crate::model::adapter::Adapters;
use crate::model::build::KvLayer;
use crate::model::{Model, Pooling, SwaType};
use crate::quant::DType;
use batch::BatchData;
use graphs::Plans;
use layer_inputs::LayerInputs;
use outputs::Outputs;
use sampled::Sampling;
use std::sync::Arc;
use ubatch::Ubatches;

/// Asked at least once per layer; `true` stops the computation.
pub type AbortCallback = Box<dyn FnMut() -> bool + Send>;

/// See the module.
pub struct Context {
    model: Arc<Model>,
    settings: Settings,
    backend: Box<dyn Backend>,
    /// `None` for models that attend over the ubatch alone.
    memory: Option<Memory>,
    /// The KV cache of each layer.
    kv: Vec<Option<KvLayer>>,
    plans: Plans,
    adapters: Adapters,
    outputs: Outputs,
    sampling: Sampling,
    layer_inputs: LayerInputs,
    perf: Perf,
    abort: Option<AbortCallback>,
    observer: Option<EvalCallback>,
    placements: [Option<Placement>; 2],
    warmup: bool,
    work: Work,
}

/// Buffers that decoding reuses.
#[derive(Default)]
struct Work {
    batch: BatchData,
    ubatches: Ubatches,
    reservation: Reservation,
    own_rows: OwnRows,
    inputs: Inputs,
}

impl Context {
    /// Makes a context over a model.
    pub fn new(model: Arc<Model>, params: &ContextParams) -> Result<Context> {
        let settings = Settings::new(&model, params)?;
        let (backend, (memory, kv)) = make_backend(&model, &settings, params)?;
        log::info!(
            "context: {} tokens, {} sequences, {:.1} MiB of KV cache, backend {}",
            settings.n_ctx,
            settings.n_seq_max,
            backend.state_size() as f64 / f64::from(1 << 20),
            backend.name()
        );
        let perf = Perf::new(model.load_time(), settings.no_perf);
        Ok(Context {
            model,
            settings,
            backend,
            memory,
            kv,
            plans: Plans::default(),
            adapters: Adapters::default(),
            outputs: Outputs::default(),
            sampling: Sampling::default(),
            layer_inputs: LayerInputs::default(),
            perf,
            abort: None,
            observer: None,
            placements: [None, None],
            warmup: false,
            work: Work::default(),
        })
    }

    /// Bytes of weights, persistent buffers and temporary results on each adapter that the model is on (by number), and last on
    /// the processor (`None`).
    pub fn memory_by_device(&self) -> Vec<(Option<usize>, [usize; 3])> {
        let mut by_device = self.model.memory_by_device();
        let own = self.backend.memory();
        // The plain backend keeps everything on the processor.
        let first = by_device.len().saturating_sub(own.len());
        for ((_, of), [states, results]) in by_device[first..].iter_mut().zip(own) {
            (of[1], of[2]) = (states, results);
        }
        by_device
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The settings, as rounded and filled in from the model.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How the embeddings of a sequence become one vector.
    pub fn pooling(&self) -> Pooling {
        self.settings.pooling
    }

    /// The memory; `None` for models that have none.
    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    /// The same, to change it; rows are moved and keys rotated before the next decode.
    pub fn memory_mut(&mut self) -> Option<&mut Memory> {
        self.memory.as_mut()
    }

    /// Forgets all tokens; with `data` the buffers are zeroed too.
    pub fn clear_memory(&mut self, data: bool) -> Result<()> {
        if let Some(memory) = &mut self.memory {
            memory.clear();
        }
        if data {
            for kv in self.kv.iter().flatten() {
                self.backend.clear_state(kv.k)?;
                self.backend.clear_state(kv.v)?;
            }
        }
        Ok(())
    }

    /// Threads for single tokens and for batches, the caller's included.
    pub fn set_n_threads(&mut self, n_threads: usize, n_threads_batch: usize) {
        self.settings.n_threads = n_threads.clamp(1, MAX_THREADS);
        self.settings.n_threads_batch = n_threads_batch.clamp(1, MAX_THREADS);
    }

    /// Where threads run for single tokens and for batches.
    pub fn set_placements(&mut self, single: Option<Placement>, batch: Option<Placement>) {
        self.placements = [single, batch];
    }

    /// What may stop a computation.
    pub fn set_abort_callback(&mut self, abort: Option<AbortCallback>) {
        self.abort = abort;
    }

    /// Whether embeddings are wanted.
    pub fn set_embeddings(&mut self, embeddings: bool) {
        self.settings.embeddings = embeddings;
    }

    /// Whether tokens see only what is before them.
    pub fn set_causal_attn(&mut self, causal_attn: bool) {
        self.settings.causal_attn = causal_attn;
    }

    /// Whether decodes are for warming up: they touch all weights and are not counted.
    pub fn set_warmup(&mut self, warmup: bool) {
        self.warmup = warmup;
    }

    /// Counters.
    pub fn perf(&self) -> &Perf {
        &self.perf
    }

    /// Sets the counters back.
    pub fn reset_perf(&mut self) {
        self.perf.reset();
    }

    /// Bytes of the KV cache.
    pub fn state_size(&self) -> usize {
        self.backend.state_size()
    }
}

/// The memory of a context, and the buffers behind it by layer.
type Buffers = (Option<Memory>, Vec<Option<KvLayer>>);

/// What computes, with the memory of the context on it. A GPU that nobody asked for gives way to the processor if it fails.
fn make_backend(model: &Model, s: &Settings, params: &ContextParams) -> Result<(Box<dyn Backend>, Buffers)> {
    let with = |mut backend: Box<dyn Backend>| -> Result<(Box<dyn Backend>, Buffers)> {
        let buffers = make_memory(model, s, &mut *backend)?;
        Ok((backend, buffers))
    };
    let plain = std::env::var_os("INFER_BACKEND").is_some_and(|name| name == "reference");
    if plain || params.backend == BackendKind::Reference {
        return with(Box::new(Reference::default()));
    }
    if let Some(offload) = model.offload() {
        match offload.backend(s.n_threads, params.offload_kqv).and_then(with) {
            Err(e) if offload.is_automatic() => log::warn!("{e}: the processor computes"),
            other => return other,
        }
    }
    with(Box::new(cpu::Cpu::new(s.n_threads)?))
}

/// The memory of a context and the buffers behind it.
fn make_memory(model: &Model, s: &Settings, backend: &mut dyn Backend) -> Result<Buffers> {
    let Some(hp) = &model.hparams else { return Ok((None, Vec::new())) };
    if model.def()?.encoder_only {
        return Ok((None, Vec::new()));
    }
    let window = params::window(hp);
    let memory = Memory::new(&MemoryConfig {
        n_ctx_seq: s.n_ctx_seq,
        n_seq_max: s.n_seq_max,
        n_ubatch: s.n_ubatch,
        kv_unified: s.kv_unified,
        window,
        swa_full: s.swa_full,
        can_rotate: true,
    })?;
    let mut kv = Vec::with_capacity(hp.n_layer);
    for il in 0..hp.n_layer {
        let group = if window != Window::None && hp.swa_type != SwaType::None && hp.is_swa[il] { SWA } else { 0 };
        let rows = memory.groups()[group].n_rows() as usize;
        let mut alloc = |dtype: DType, n: usize| backend.alloc_layer_state(il, dtype, [n, rows, 1, 1]);
        let (n_k, n_v) = (hp.n_embd_k(il), hp.n_embd_v(il));
        if n_k == 0 || n_v == 0 {
            return Err(Error::Unsupported(format!("layer {il} without heads")));
        }
        kv.push(Some(KvLayer {
            k: alloc(s.type_k, n_k)?,
            v: alloc(s.type_v, n_v)?,
            group: group as u8,
            rows,
            type_k: s.type_k,
            type_v: s.type_v,
        }));
    }
    Ok((Some(memory), kv))
}
