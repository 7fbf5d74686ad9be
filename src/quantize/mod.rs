//! Quantizing of model files: `llama_model_quantize`. [`mix`] says which type each tensor gets, [`plan`] lays out the new
//! file or files before anything is computed, [`write`] reads, rounds and writes rows slab by slab, so that memory stays
//! small whatever the model's size. Called by `capi::quantize`.

mod ftype;
mod mix;
mod names;
mod plan;
mod write;

pub use ftype::FileType;

use crate::error::{Error, Result};
use crate::gguf::{Gguf, GgufFiles, LoadMode, LoadOptions, Override, Source};
use crate::quant::DType;
use std::collections::HashMap;
use std::path::Path;

/// What an error weighs in each column of a tensor, by the tensor's name: `ne[0]` values, or as many for each expert.
pub type Imatrix<'a> = HashMap<String, &'a [f32]>;

/// How a file is quantized: `llama_model_quantize_params`.
#[derive(Debug, Clone)]
pub struct QuantizeParams<'a> {
    /// Threads to use; 0: as many as there are processors.
    pub n_threads: usize,
    /// What to make.
    pub ftype: FileType,
    /// The type of the output matrix, or of an embedding table that serves as one.
    pub output_tensor_type: Option<DType>,
    /// The type of the embedding table.
    pub token_embedding_type: Option<DType>,
    /// Whether tensors may be rounded that were rounded before.
    pub allow_requantize: bool,
    /// Whether `output.weight` is quantized at all.
    pub quantize_output_tensor: bool,
    /// Writes tensors as they are.
    pub only_copy: bool,
    /// All tensors get the file type's own type.
    pub pure: bool,
    /// Makes as many files as the model has.
    pub keep_split: bool,
    /// Tells sizes, and writes nothing.
    pub dry_run: bool,
    /// Importance of columns.
    pub imatrix: Option<Imatrix<'a>>,
    /// Metadata to set, in the order given.
    pub kv_overrides: Vec<(String, Override)>,
    /// Types for the tensors whose names a regular expression matches; the first match counts.
    pub tensor_types: Vec<(String, DType)>,
    /// Layers to leave out.
    pub prune_layers: Vec<usize>,
    /// Bytes of rows in memory at a time, at most; one row always is.
    pub max_buf_size: usize,
}

impl QuantizeParams<'_> {
    /// llama.h's defaults, for a file type.
    pub fn new(ftype: FileType) -> Self {
        QuantizeParams {
            n_threads: 0,
            ftype,
            output_tensor_type: None,
            token_embedding_type: None,
            allow_requantize: false,
            quantize_output_tensor: true,
            only_copy: false,
            pure: false,
            keep_split: false,
            dry_run: false,
            imatrix: None,
            kv_overrides: Vec::new(),
            tensor_types: Vec::new(),
            prune_layers: Vec::new(),
            max_buf_size: usize::MAX,
        }
    }
}

/// Quantizes the model at `input` (the first of its files, if it is split) into `output`, which appears when it is complete
/// and may be the same file. With `keep_split` several files `output-0000N-of-0000M.gguf` are made, if there were several.
///
/// Fails, and leaves no file behind, when the input is no valid model, when the parameters ask for what cannot be done
/// (a type that does not fit a tensor, few bits without an importance matrix, tensors rounded before unless allowed), or
/// when the output cannot be written.
pub fn quantize(input: &Path, output: &Path, params: &QuantizeParams) -> Result<()> {
    check_imatrix(params)?;
    let options = LoadOptions { mode: LoadMode::Mmap, ..LoadOptions::default() };
    let mut files = GgufFiles::open(Source::Path(input.to_owned()), options)?;
    for (key, value) in &params.kv_overrides {
        files.meta_mut().set_override(key, value.clone());
    }
    let plan = plan::Plan::new(&files, params)?;
    plan.log_sizes(&files);
    if params.dry_run {
        return Ok(());
    }
    write::write(&files, &plan, output, params)
}

/// The type that each tensor of a header (its metadata and its tensors' names and shapes) would get, in the header's order:
/// what [`quantize`] decides, without data. Fails where a type fits no substitute for a tensor's rows.
pub fn tensor_types(meta: &Gguf, params: &QuantizeParams) -> Result<Vec<DType>> {
    let mut order: Vec<usize> = (0..meta.tensors().len()).collect();
    order.sort_by(|&a, &b| names::by_layer(&meta.tensors()[a].name, &meta.tensors()[b].name));
    let sorted = || order.iter().map(|&i| &meta.tensors()[i]);
    let mut mix = mix::Mix::new(params, meta, sorted().map(|t| &t.name[..]))?;
    let mut types = vec![DType::F32; order.len()];
    for (&i, tensor) in order.iter().zip(sorted()) {
        types[i] = mix.target(tensor)?;
    }
    Ok(types)
}

fn check_imatrix(params: &QuantizeParams) -> Result<()> {
    for (name, values) in params.imatrix.iter().flatten() {
        if let Some(value) = values.iter().find(|v| !v.is_finite()) {
            return Err(Error::argument(format!("the importance matrix of '{name}' holds {value}")));
        }
    }
    Ok(())
}
