//! Which layers of a model are on GPUs, and their weights there. Made when a model is loaded; contexts get their backends
//! from it.

use crate::backend::split::Layers;
use crate::backend::{Backend, cpu::Cpu, split::Split};
use crate::error::{Error, Result};
use crate::tensor::WeightRef;
use std::sync::Arc;

#[cfg(feature = "gpu")]
use crate::backend::gpu::{
    Gpu,
    device::{Adapter, AdapterKind, adapters, default_adapter},
    weights::{Weights, device_size},
};

/// What a caller asks of GPUs.
#[derive(Debug, Clone, PartialEq)]
pub struct OffloadParams {
    /// Layers to put there, the last ones; the output counts as one. Negative: all, as far as the memory goes.
    pub n_gpu_layers: i32,
    /// Adapters by number; `None`: those of the system that are no software.
    pub adapters: Option<Vec<usize>>,
    /// Spread over several; otherwise `main_gpu` alone.
    pub spread: bool,
    /// The adapter for everything when nothing is spread.
    pub main_gpu: usize,
    /// Shares of the adapters; empty: by their memory.
    pub tensor_split: Vec<f32>,
}

impl Default for OffloadParams {
    /// Everything stays on the processor.
    fn default() -> Self {
        OffloadParams { n_gpu_layers: 0, adapters: None, spread: true, main_gpu: 0, tensor_split: Vec::new() }
    }
}

/// Layers on GPUs.
pub struct Offload {
    #[cfg(feature = "gpu")]
    weights: Vec<Arc<Weights>>,
    #[cfg(feature = "gpu")]
    adapters: Vec<usize>,
    automatic: bool,
    layers: Arc<Layers>,
}

/// Part of a GPU's memory that weights may take; the rest is for states and results.
#[cfg(feature = "gpu")]
const SHARE: f64 = 0.9;

impl Offload {
    /// Whether nobody asked for a number of layers on GPUs: the processor computes where one fails.
    pub fn is_automatic(&self) -> bool {
        self.automatic
    }
}

#[cfg(not(feature = "gpu"))]
impl Offload {
    /// Nothing: the library was built without GPUs.
    ///
    /// # Errors
    /// None.
    pub fn new(
        _params: &OffloadParams,
        _tensors: &[WeightRef],
        _n_layer: usize,
        _progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Option<Offload>> {
        Ok(None)
    }

    /// The numbers of the adapters that hold layers.
    pub fn adapters(&self) -> &[usize] {
        &[]
    }

    /// Bytes of weights on each adapter, and on the processor.
    pub fn memory(&self, tensors: &[WeightRef]) -> (Vec<u64>, u64) {
        (Vec::new(), tensors.iter().map(|w| w.bytes().len() as u64).sum())
    }

    /// # Errors
    /// Always: there is none.
    pub fn backend(&self, n_threads: usize, _offload_kqv: bool) -> Result<Box<dyn Backend>> {
        let _ = Split::new(vec![Box::new(Cpu::new(n_threads)?)], self.layers.clone(), false);
        Err(Error::Unsupported("GPUs: the library was built without them".into()))
    }
}

#[cfg(feature = "gpu")]
impl Offload {
    /// Uploads what `params` asks for; `None`: everything stays on the processor. `progress` is told the part done.
    ///
    /// # Errors
    /// [`Error::Aborted`] by `progress`. A GPU that fails is an error if layers were asked for by number, and otherwise a
    /// warning.
    pub fn new(
        params: &OffloadParams,
        tensors: &[WeightRef],
        n_layer: usize,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Option<Offload>> {
        if params.n_gpu_layers == 0 {
            return Ok(None);
        }
        let chosen = choose(params);
        if chosen.is_empty() {
            log::info!("no GPU: the processor computes");
            return Ok(None);
        }
        match Offload::upload(params, &chosen, tensors, n_layer, progress) {
            Ok(offload) => Ok(offload),
            Err(Error::Aborted) => Err(Error::Aborted),
            Err(e) if params.n_gpu_layers < 0 => {
                log::warn!("{e}: the processor computes");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn upload(
        params: &OffloadParams,
        chosen: &[(usize, &'static Adapter)],
        tensors: &[WeightRef],
        n_layer: usize,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Option<Offload>> {
        let cpu = chosen.len();
        let all = n_layer + 1;
        let mut wanted = usize::try_from(params.n_gpu_layers).unwrap_or(all).min(all);
        let memory: u64 = chosen.iter().map(|(_, a)| a.memory).sum();
        let layers = loop {
            let layers = lay_out(wanted, n_layer, cpu, &shares(params, chosen));
            let fits = memory == 0 || bytes(&layers, tensors, cpu) as f64 <= SHARE * memory as f64;
            if fits || params.n_gpu_layers >= 0 || wanted == 0 {
                break layers;
            }
            wanted -= 1;
        };
        if wanted == 0 {
            return Ok(None);
        }
        let total = bytes(&layers, tensors, cpu).max(1) as f32;
        let mut done = 0u64;
        let mut weights = Vec::with_capacity(cpu);
        for (number, (_, adapter)) in chosen.iter().enumerate() {
            let here = Arc::new(Weights::new(adapter.open()?, tensors));
            let mut own: Vec<&WeightRef> =
                tensors.iter().filter(|w| layers.devices_of(&w.name, tensors).contains(&number)).collect();
            // Tensors of a layer beside each other: products over the same activations share a dispatch if they share a buffer.
            own.sort_by_key(|w| (layer_of(&w.name), w.name.clone()));
            let mut uploaded = own.iter();
            here.upload_all(&own, &mut |n| {
                done += n;
                // The processor does not need what GPUs alone compute with.
                if let Some(w) = uploaded.next().filter(|w| !layers.devices_of(&w.name, tensors).contains(&cpu)) {
                    w.data.release();
                }
                progress((done as f32 / total).min(1.0))
            })?;
            log::info!("{}: {:.1} MiB of weights", adapter.name, here.size() as f64 / f64::from(1 << 20));
            weights.push(here);
        }
        log::info!(
            "{wanted} of {all} layers on {}",
            chosen.iter().map(|(_, a)| &*a.name).collect::<Vec<_>>().join(", ")
        );
        let adapters = chosen.iter().map(|(i, _)| *i).collect();
        let automatic = params.n_gpu_layers < 0;
        Ok(Some(Offload { weights, adapters, automatic, layers: Arc::new(layers) }))
    }

    /// The numbers of the adapters that hold layers.
    pub fn adapters(&self) -> &[usize] {
        &self.adapters
    }

    /// Bytes of weights on each adapter, and on the processor.
    pub fn memory(&self, tensors: &[WeightRef]) -> (Vec<u64>, u64) {
        let cpu = self.adapters.len();
        let stays = |w: &&WeightRef| self.layers.devices_of(&w.name, tensors).contains(&cpu);
        let on_cpu = tensors.iter().filter(stays).map(|w| w.bytes().len() as u64).sum();
        (self.weights.iter().map(|w| w.size()).collect(), on_cpu)
    }

    /// A backend for a context; without `offload_kqv` caches, and attention over them, stay on the processor.
    ///
    /// # Errors
    /// A device is full or lost.
    pub fn backend(&self, n_threads: usize, offload_kqv: bool) -> Result<Box<dyn Backend>> {
        let mut devices: Vec<Box<dyn Backend>> = Vec::with_capacity(self.weights.len() + 1);
        for weights in &self.weights {
            devices.push(Box::new(Gpu::new(weights.clone())?));
        }
        devices.push(Box::new(Cpu::new(n_threads)?));
        Ok(Box::new(Split::new(devices, self.layers.clone(), offload_kqv)))
    }
}

/// The layer in a tensor's name; what has none comes last.
#[cfg(feature = "gpu")]
fn layer_of(name: &str) -> usize {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
    layer.unwrap_or(usize::MAX)
}

/// The adapters that `params` names, or those there are.
#[cfg(feature = "gpu")]
fn choose(params: &OffloadParams) -> Vec<(usize, &'static Adapter)> {
    // Looking for adapters loads drivers: not where none is wanted.
    let numbered = |wanted: &dyn Fn(&Adapter) -> bool| -> Vec<(usize, &'static Adapter)> {
        adapters().iter().enumerate().filter(|(_, a)| wanted(a)).collect()
    };
    let default = if params.adapters.is_none() { default_adapter() } else { None };
    let mut found = match (&params.adapters, default) {
        (Some(numbers), _) => numbers.iter().filter_map(|&i| Some((i, adapters().get(i)?))).collect(),
        (None, None) => Vec::new(),
        (None, Some(first)) if std::env::var_os("INFER_GPU").is_some() => numbered(&|a| std::ptr::eq(a, first)),
        (None, Some(first)) => match numbered(&|a| a.kind == AdapterKind::Discrete) {
            discrete if !discrete.is_empty() => discrete,
            _ => numbered(&|a| std::ptr::eq(a, first)),
        },
    };
    if !params.spread && !found.is_empty() {
        found = vec![*found.get(params.main_gpu).unwrap_or(&found[0])];
    }
    found
}

#[cfg(feature = "gpu")]
fn shares(params: &OffloadParams, chosen: &[(usize, &'static Adapter)]) -> Vec<f64> {
    let given: Vec<f64> = params.tensor_split.iter().take(chosen.len()).map(|s| f64::from(s.max(0.0))).collect();
    if given.iter().sum::<f64>() > 0.0 {
        return given;
    }
    chosen.iter().map(|(_, a)| a.memory.max(1) as f64).collect()
}

/// The last `wanted` layers over the GPUs by their shares, those before on the processor.
#[cfg(feature = "gpu")]
fn lay_out(wanted: usize, n_layer: usize, cpu: usize, shares: &[f64]) -> Layers {
    let all = n_layer + 1;
    let start = all - wanted;
    let total: f64 = shares.iter().sum();
    let device = |layer: usize| {
        let at = (layer - start) as f64 / wanted as f64 * total;
        let mut sum = 0.0;
        for (i, share) in shares.iter().enumerate() {
            sum += share;
            if at < sum {
                return i;
            }
        }
        cpu - 1
    };
    let of_layer: Vec<usize> = (0..all).map(|il| if il < start { cpu } else { device(il) }).collect();
    Layers { input: of_layer[0], of_layer }
}

#[cfg(feature = "gpu")]
fn bytes(layers: &Layers, tensors: &[WeightRef], cpu: usize) -> u64 {
    let copies = |w: &WeightRef| layers.devices_of(&w.name, tensors).into_iter().filter(|d| *d != cpu).count() as u64;
    tensors.iter().map(|w| copies(w) * device_size(w)).sum()
}
