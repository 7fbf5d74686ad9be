//! Models: hyper-parameters, vocabulary and weights of a GGUF file, and the architecture that builds graphs over them.
//! Loaded by `capi::model`, shared between contexts and threads as `Arc<Model>`.

pub mod adapter;
pub mod arch;
pub mod build;
pub mod ftype;
mod hparams;
pub mod loader;
pub mod offload;
mod save;
mod user;

pub use hparams::{HParams, MAX_EXPERTS, MAX_LAYERS, Meta, Pooling, RopeScaling, SwaType};

use crate::error::{Error, Result};
use crate::gguf::{Gguf, GgufFiles, LoadMode, LoadOptions, Override, Source, Value};
use crate::tensor::WeightRef;
use crate::vocab::Vocab;
use arch::{ArchDef, Architecture};
use loader::Loader;
use offload::{Offload, OffloadParams};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a model is loaded.
#[derive(Default)]
pub struct ModelParams<'a> {
    /// How tensor data gets into memory.
    pub load_mode: LoadMode,
    /// The split files in order, the first one included; empty to derive their names from the first one's.
    pub splits: Vec<PathBuf>,
    /// Values that replace those of the file where the types fit.
    pub kv_overrides: Vec<(String, Override)>,
    /// Loads metadata and vocabulary alone; no context can be made.
    pub vocab_only: bool,
    /// Checks all tensor data for NaN and infinity.
    pub check_tensors: bool,
    /// What goes to GPUs.
    pub offload: OffloadParams,
    /// Told the part done (0..=1); `false` stops with [`Error::Aborted`].
    pub progress: Option<&'a mut dyn FnMut(f32) -> bool>,
}

/// A loaded model. Immutable, and safe to share between threads.
pub struct Model {
    /// Hyper-parameters; `None` after loading the vocabulary alone.
    pub hparams: Option<HParams>,
    /// The tokenizer.
    pub vocab: Arc<Vocab>,
    /// `general.architecture`.
    name: String,
    /// `None`: an architecture that this library does not compute; its vocabulary serves all the same.
    def: Option<&'static ArchDef>,
    arch: Option<Box<dyn Architecture>>,
    weights: Vec<WeightRef>,
    offload: Option<Offload>,
    files: GgufFiles,
    meta: Vec<(String, Vec<u8>)>,
    labels: Vec<String>,
    ftype: u32,
    size_label: &'static str,
    load_time: Duration,
}

impl Model {
    /// Loads a model.
    pub fn load(source: Source, mut params: ModelParams) -> Result<Arc<Model>> {
        let start = Instant::now();
        if let Some(progress) = &mut params.progress
            && !progress(0.0)
        {
            return Err(Error::Aborted);
        }
        let options = LoadOptions {
            mode: params.load_mode,
            header_only: params.vocab_only,
            splits: std::mem::take(&mut params.splits),
            progress: params.progress.as_deref_mut().map(|p| p as &mut dyn FnMut(f32) -> bool),
        };
        let files = GgufFiles::open(source, options)?;
        Model::from_files(files, params, start)
    }

    fn from_files(mut files: GgufFiles, mut params: ModelParams, start: Instant) -> Result<Arc<Model>> {
        for (key, value) in params.kv_overrides {
            files.meta_mut().set_override(key, value);
        }
        let name: String = files.meta().require("general.architecture")?;
        let def = arch::find(&name);
        if def.is_none() && !params.vocab_only {
            return Err(Error::Unsupported(format!("model architecture '{name}'")));
        }
        let vocab = Arc::new(Vocab::load(files.meta())?);
        let mut model = Model {
            hparams: None,
            vocab,
            name: name.clone(),
            def,
            arch: None,
            weights: Vec::new(),
            offload: None,
            meta: metadata(&files),
            labels: labels(&files, &name)?,
            ftype: ftype::of_file(&files),
            files,
            size_label: "?B",
            load_time: Duration::ZERO,
        };
        if !params.vocab_only {
            model.load_weights()?;
            if params.check_tensors {
                check_tensors(&model.files)?;
            }
            // Reading the file may have told 1.0 already, and what is told never goes back.
            let progress = &mut params.progress;
            let mut uploading = |_: f32| progress.as_deref_mut().is_none_or(|report| report(1.0));
            let n_layer = model.hparams()?.n_layer;
            model.offload = Offload::new(&params.offload, &model.weights, n_layer, &mut uploading)?;
        }
        if let Some(progress) = &mut params.progress
            && !progress(1.0)
        {
            return Err(Error::Aborted);
        }
        model.load_time = start.elapsed();
        Ok(Arc::new(model))
    }

    fn load_weights(&mut self) -> Result<()> {
        let def = self.def()?;
        let hp;
        (hp, self.size_label) = read_hparams(self.files.meta(), &self.vocab, def)?;
        let mut loader = Loader::new(&self.files, &hp);
        self.arch = Some((def.load)(&mut loader)?);
        self.weights = loader.into_weights();
        if self.weights.len() < self.files.n_tensors() {
            log::warn!(
                "{} of {} tensors of the file are not used",
                self.files.n_tensors() - self.weights.len(),
                self.files.n_tensors()
            );
        }
        self.hparams = Some(hp);
        Ok(())
    }

    /// Hyper-parameters, or an error if only the vocabulary was loaded.
    pub fn hparams(&self) -> Result<&HParams> {
        self.hparams.as_ref().ok_or_else(|| Error::argument("the model was loaded with vocab_only"))
    }

    /// The weights with their way of building graphs.
    pub fn architecture(&self) -> Result<&dyn Architecture> {
        self.arch.as_deref().ok_or_else(|| Error::argument("the model was loaded with vocab_only"))
    }

    /// The architecture's line of the table.
    pub fn def(&self) -> Result<&'static ArchDef> {
        self.def.ok_or_else(|| Error::Unsupported(format!("model architecture '{}'", self.name)))
    }

    /// The weight tensors.
    pub fn weights(&self) -> &[WeightRef] {
        &self.weights
    }

    /// The layers on GPUs, if there are any.
    pub fn offload(&self) -> Option<&Offload> {
        self.offload.as_ref()
    }

    /// Bytes of weights on each adapter (by number), and last on the processor (`None`); room for what a context adds.
    pub fn memory_by_device(&self) -> Vec<(Option<usize>, [usize; 3])> {
        let Some(offload) = &self.offload else { return vec![(None, [self.size() as usize, 0, 0])] };
        let (on_gpus, on_cpu) = offload.memory(self.weights());
        let gpus = offload.adapters().iter().map(|i| Some(*i)).zip(on_gpus);
        gpus.chain([(None, on_cpu)]).map(|(device, weights)| (device, [weights as usize, 0, 0])).collect()
    }

    /// Metadata in the order of the file, arrays left out, as text.
    pub fn meta(&self) -> &[(String, Vec<u8>)] {
        &self.meta
    }

    /// One value of the metadata as text.
    pub fn meta_value(&self, key: &str) -> Option<&[u8]> {
        self.meta.iter().find(|(k, _)| k == key).map(|(_, v)| &v[..])
    }

    /// The file's chat template, or that of a name.
    pub fn chat_template(&self, name: Option<&str>) -> Option<&[u8]> {
        match name {
            None => self.meta_value("tokenizer.chat_template"),
            Some(name) => self.meta_value(&format!("tokenizer.chat_template.{name}")),
        }
    }

    /// Names of the classes of a classifier.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Number of `llama_ftype`.
    pub fn ftype(&self) -> u32 {
        self.ftype
    }

    /// Architecture, size and file type, e.g. `llama 8B Q4_K - Medium`.
    pub fn desc(&self) -> String {
        let guessed = if self.ftype & ftype::GUESSED != 0 { "(guessed) " } else { "" };
        format!("{} {} {guessed}{}", self.name, self.size_label, ftype::name(self.ftype))
    }

    /// Bytes of all tensors.
    pub fn size(&self) -> u64 {
        self.files.n_bytes()
    }

    /// Elements of all tensors.
    pub fn n_params(&self) -> u64 {
        self.files.tensors().map(|t| t.n_elements()).sum()
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }
}

/// Hyper-parameters, and llama.cpp's label of the model's size.
fn read_hparams(gguf: &Gguf, vocab: &Vocab, def: &ArchDef) -> Result<(HParams, &'static str)> {
    let meta = Meta { gguf, arch: def.name };
    let mut hp = HParams::read(&meta)?;
    hp.n_vocab = match meta.find::<u32>("vocab_size")? {
        Some(n) if vocab.n_tokens() == 0 => n as usize,
        _ => vocab.n_tokens(),
    };
    let size_label = (def.hparams)(&meta, &mut hp)?;
    Ok((hp, size_label))
}

/// Scalars and strings of the metadata as llama.cpp prints them.
fn metadata(files: &GgufFiles) -> Vec<(String, Vec<u8>)> {
    files.meta().kv().iter().filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}

fn text(value: &Value) -> Option<Vec<u8>> {
    Some(match value {
        Value::U8(v) => v.to_string().into(),
        Value::I8(v) => v.to_string().into(),
        Value::U16(v) => v.to_string().into(),
        Value::I16(v) => v.to_string().into(),
        Value::U32(v) => v.to_string().into(),
        Value::I32(v) => v.to_string().into(),
        Value::U64(v) => v.to_string().into(),
        Value::I64(v) => v.to_string().into(),
        Value::F32(v) => format!("{v:.6}").into(),
        Value::F64(v) => format!("{v:.6}").into(),
        Value::Bool(v) => v.to_string().into(),
        Value::String(v) => v.to_vec(),
        Value::Array(_) => return None,
    })
}

fn labels(files: &GgufFiles, arch: &str) -> Result<Vec<String>> {
    let labels = files.meta().find_array(&format!("{arch}.classifier.output_labels"))?;
    Ok(labels.map_or(Vec::new(), |l| l.iter_strings().map(|s| String::from_utf8_lossy(s).into_owned()).collect()))
}

fn check_tensors(files: &GgufFiles) -> Result<()> {
    use rayon::prelude::*;
    let names: Vec<&str> = files.tensors().map(|t| t.name.as_str()).collect();
    names.par_iter().try_for_each(|name| files.check_tensor(name))
}
