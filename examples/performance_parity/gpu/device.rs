//! The GPU that rows are measured on, and single steps on it.

use crate::Result;
use crate::lab::{Engine, Ours, tokens};
use infer::backend::Backend;
use infer::backend::gpu::Gpu;
use infer::backend::gpu::device::{Adapter, AdapterKind, Device, default_adapter};
use infer::backend::gpu::memory::DeviceMemory;
use infer::backend::gpu::weights::Weights;
use infer::context::ContextParams;
use infer::gguf::{Bytes, Source};
use infer::graph::plan::{Plan, plan};
use infer::graph::{Builder, Inputs, ValueId};
use infer::model::offload::OffloadParams;
use infer::model::{Model, ModelParams};
use infer::quant::DType;
use infer::tensor::{Weight, WeightRef};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// See the module.
pub struct Card {
    pub adapter: &'static Adapter,
    /// A processor that plays a GPU.
    pub software: bool,
}

impl Card {
    /// The GPU that the library would take, or why there is none.
    pub fn find() -> std::result::Result<Card, String> {
        let found = default_adapter().map(|a| Card { adapter: a, software: a.kind == AdapterKind::Software });
        found.ok_or("no GPU (`INFER_GPU` may name an adapter that computes in software)".into())
    }

    /// The device, opened.
    pub fn device(&self) -> Result<Arc<Device>> {
        Ok(self.adapter.open()?)
    }

    /// What is in use now.
    pub fn memory(&self) -> Result<DeviceMemory> {
        let device = self.device()?;
        device.wait()?;
        Ok(device.memory())
    }

    /// Buffers made so far.
    pub fn buffers_made(&self) -> Result<u64> {
        Ok(self.device()?.buffers_made.load(Ordering::Relaxed))
    }
}

/// Loads a model with its last layers on GPUs; a GPU that fails is an error.
pub fn load(path: &Path, n_gpu_layers: i32) -> Result<Arc<Model>> {
    let offload = OffloadParams { n_gpu_layers, ..OffloadParams::default() };
    Ok(Model::load(Source::Path(path.into()), ModelParams { offload, ..ModelParams::default() })?)
}

/// All layers, and the output.
pub const ALL: i32 = 999;

/// A context of a model for one sequence.
pub fn context(model: &Arc<Model>, n_ctx: usize, kv: DType) -> Result<Ours> {
    Ours::new(model, &params(n_ctx, kv))
}

/// Parameters of such a context.
pub fn params(n_ctx: usize, kv: DType) -> ContextParams {
    ContextParams { n_ctx: n_ctx as u32, type_k: kv, type_v: kv, ..ContextParams::default() }
}

/// Fills sequence 0 with `n` tokens in pieces that do not see each other, which takes as long as so many short prompts. What
/// the cells hold does not matter to the time of what comes behind them. The context needs two sequences in one cache.
pub fn fill(ours: &mut Ours, n: usize, n_vocab: usize) -> Result<()> {
    const PIECE: usize = 512;
    ours.clear()?;
    let ids = tokens(PIECE, n_vocab);
    for first in (0..n).step_by(PIECE) {
        ours.decode_on(1, &ids[..PIECE.min(n - first)], first)?;
        let memory = ours.0.memory_mut().ok_or("the model has no memory")?;
        memory.seq_cp(1, 0, -1, -1)?;
        memory.seq_rm(1, -1, -1)?;
    }
    Ok(())
}

/// Weights of one shape for several layers, which share their bytes on the host.
pub struct Matrices {
    data: Bytes,
    dtype: DType,
}

impl Matrices {
    /// Random ones of `n` elements.
    pub fn new(dtype: DType, n: usize) -> Matrices {
        Matrices { data: Bytes::from(crate::kernels::elements(dtype, n)), dtype }
    }

    /// Bytes as in a file.
    pub fn size(&self) -> usize {
        self.data.len()
    }

    /// One more of `rows` rows of `k` elements.
    pub fn take(&self, k: usize, rows: usize) -> WeightRef {
        let name = format!("{} {k} x {rows}", self.dtype);
        Arc::new(Weight { name, dtype: self.dtype, ne: [k, rows, 1, 1], data: self.data.clone(), part_of: None })
    }
}

/// A graph on the GPU, ready to run.
pub struct Bench {
    gpu: Gpu,
    plan: Plan,
    inputs: Inputs,
    outputs: Vec<Vec<f32>>,
}

impl Bench {
    /// Of a graph whose results are `outputs`, over weights that are on the device.
    pub fn new(
        weights: &Arc<Weights>,
        mut builder: Builder,
        outputs: &[ValueId],
        inputs: Inputs,
        states: &[(DType, [usize; 4])],
    ) -> Result<Bench> {
        for id in outputs {
            builder.output(*id)?;
        }
        let plan = plan(builder.finish());
        let outputs = plan.graph.outputs.iter().map(|id| vec![0.0; plan.graph.value(*id).n_elements()]).collect();
        let mut gpu = Gpu::new(weights.clone())?;
        for (dtype, ne) in states {
            gpu.alloc_state(*dtype, *ne)?;
        }
        Ok(Bench { gpu, plan, inputs, outputs })
    }

    /// Seconds of one run.
    pub fn run(&mut self) -> Result<f64> {
        let mut slices: Vec<&mut [f32]> = self.outputs.iter_mut().map(|o| &mut o[..]).collect();
        let start = Instant::now();
        self.gpu.run(&self.plan, &self.inputs, &mut slices, &mut || false)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Uploads weights.
pub fn upload(card: &Card, tensors: &[WeightRef]) -> Result<Arc<Weights>> {
    let weights = Weights::new(card.device()?, tensors);
    weights.upload_all(&tensors.iter().collect::<Vec<_>>(), &mut |_| true)?;
    Ok(Arc::new(weights))
}

/// Keeps the last table of times that the library logs.
struct Times(Mutex<Vec<String>>);

static TIMES: Times = Times(Mutex::new(Vec::new()));

impl log::Log for Times {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }
    fn log(&self, record: &log::Record) {
        if record.target().contains("profile") {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record.args().to_string());
        }
    }
    fn flush(&self) {}
}

/// Seconds that a device takes for a token, in a process that has `INFER_GPU_PROFILE=runs`.
pub fn device_time(path: &Path, n_prompt: usize, n_gen: usize) -> Result<Value> {
    log::set_logger(&TIMES).map_err(|e| e.to_string())?;
    log::set_max_level(log::LevelFilter::Info);
    let model = load(path, ALL)?;
    let ids = tokens(n_prompt + n_gen, model.hparams()?.n_vocab);
    let mut total = Vec::new();
    // A prompt alone, and with the tokens: the table has sums.
    for n in [0, n_gen] {
        let mut ours = context(&model, n_prompt + n_gen, DType::F16)?;
        ours.decode(&ids[..n_prompt], false)?;
        // Clocks rise with work, and programs are made.
        ours.decode_singly(&ids[..n_gen])?;
        ours.truncate(0, n_prompt)?;
        ours.decode_singly(&ids[n_prompt..n_prompt + n])?;
        drop(ours);
        let mut lines = TIMES.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = lines.pop().ok_or("no times: the device has no timestamps")?;
        lines.clear();
        // Dispatches, milliseconds, mean, name.
        let ms: f64 = last.split_whitespace().nth(1).ok_or("a line of times")?.parse()?;
        total.push(ms / 1e3);
    }
    Ok(json!({ "device_s": (total[1] - total[0]) / n_gen as f64 }))
}
