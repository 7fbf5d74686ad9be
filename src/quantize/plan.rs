//! What is to be written: the headers of the new files, and for each tensor its old name, its new type and the importance
//! of its columns. Everything that can be refused is refused here, before anything is written.

use super::QuantizeParams;
use super::mix::Mix;
use super::names::{Pruning, by_layer};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, GgufFiles, Override, TensorInfo};
use crate::model::ftype;
use crate::quant::{self, DType};

/// Of the ways in which formats round; files tell it in `general.quantization_version`.
const QUANTIZATION_VERSION: u32 = 2;

const MIB: f64 = 1024.0 * 1024.0;

/// See the module.
pub(super) struct Plan<'a> {
    /// The new files.
    pub(super) outputs: Vec<Output<'a>>,
}

/// One new file.
pub(super) struct Output<'a> {
    /// Its header, complete.
    pub(super) gguf: Gguf,
    /// Its tensors, in the header's order.
    pub(super) jobs: Vec<Job<'a>>,
}

/// What happens to a tensor.
pub(super) struct Job<'a> {
    /// Its name in the input.
    pub(super) source: String,
    /// Its type in the output.
    pub(super) target: DType,
    /// What errors weigh by column, for each matrix of a 3-dimensional tensor.
    pub(super) importance: Option<&'a [f32]>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(files: &GgufFiles, params: &'a QuantizeParams<'a>) -> Result<Plan<'a>> {
        let mut pruning = Pruning::new(&params.prune_layers);
        let tensors = tensors(files, params, &mut pruning);
        let mut mix = Mix::new(params, files.meta(), tensors.iter().map(|t| &t.info.name[..]))?;
        let n_outputs = tensors.iter().map(|t| t.file + 1).max().unwrap_or(1);
        let mut outputs: Vec<Output> = (0..n_outputs).map(|_| Output { gguf: Gguf::new(), jobs: Vec::new() }).collect();
        outputs[0].gguf = header(files, params, &pruning)?;
        if n_outputs > 1 {
            let n_tensors = tensors.len() as i32;
            for (i, output) in outputs.iter_mut().enumerate() {
                output.gguf.set("split.no", i as u16)?;
                output.gguf.set("split.count", n_outputs as u16)?;
                output.gguf.set("split.tensors.count", n_tensors)?;
            }
        }
        for Tensor { info, source, file } in tensors {
            let target = mix.target(&info)?;
            let needed = mix.requires_importance(&info, target);
            let job = job(params, &pruning, &info, source, target, needed)?;
            outputs[file].jobs.push(job);
            outputs[file].gguf.add_tensor(TensorInfo::new(info.name, target, &info.ne[..info.n_dims])?)?;
        }
        if mix.n_fallback > 0 {
            log::warn!("{} of {} tensors got a substitute for their type", mix.n_fallback, files.n_tensors());
        }
        Ok(Plan { outputs })
    }

    /// Tells every change and the sum of it.
    pub(super) fn log_sizes(&self, files: &GgufFiles) {
        let (mut old_size, mut new_size) = (0, 0);
        let jobs = || self.outputs.iter().flat_map(|o| o.jobs.iter().zip(o.gguf.tensors()));
        let n = jobs().count();
        for (i, (job, new)) in jobs().enumerate() {
            let Some(old) = files.find(&job.source) else { continue };
            old_size += old.size;
            new_size += new.size;
            let (from, to) = (old.size as f64 / MIB, new.size as f64 / MIB);
            let ne = old.ne;
            if old.dtype == new.dtype {
                log::info!("[{:4}/{n:4}] {:36} - {ne:?}, {}, {from:.3} MiB", i + 1, new.name, old.dtype);
            } else {
                log::info!(
                    "[{:4}/{n:4}] {:36} - {ne:?}, {} -> {}, {from:.2} MiB -> {to:.2} MiB",
                    i + 1,
                    new.name,
                    old.dtype,
                    new.dtype
                );
            }
        }
        let n_elements: u64 = files.tensors().map(TensorInfo::n_elements).sum();
        for (what, size) in [("model", old_size), ("quant", new_size)] {
            let bpw = size as f64 * 8.0 / n_elements.max(1) as f64;
            log::info!("{what} size  = {:8.2} MiB ({bpw:.2} BPW)", size as f64 / MIB);
        }
    }
}

/// A tensor of the input under its new name.
struct Tensor {
    info: TensorInfo,
    source: String,
    /// Which new file gets it.
    file: usize,
}

/// The tensors that stay, in the order of the new files.
fn tensors(files: &GgufFiles, params: &QuantizeParams, pruning: &mut Pruning) -> Vec<Tensor> {
    let mut sorted: Vec<&TensorInfo> = files.tensors().collect();
    sorted.sort_by(|a, b| by_layer(&a.name, &b.name));
    let renamed = |info: &TensorInfo| Some((info.name.clone(), pruning.rename(&info.name)?));
    if !params.keep_split {
        let tensor = |(source, name): (String, String)| {
            let info = TensorInfo { name, ..files.find(&source)?.clone() };
            Some(Tensor { info, source, file: 0 })
        };
        return sorted.into_iter().filter_map(renamed).filter_map(tensor).collect();
    }
    // Each file keeps its tensors and their order; numbers are given in the order of the layers all the same.
    let names: std::collections::HashMap<String, String> = sorted.into_iter().filter_map(renamed).collect();
    let parts = (0..files.n_files()).flat_map(|file| files.tensors_of(file).iter().map(move |info| (file, info)));
    let kept = parts.filter_map(|(file, info)| Some((file, info, names.get(&info.name)?)));
    kept.map(|(file, info, name)| Tensor {
        info: TensorInfo { name: name.clone(), ..info.clone() },
        source: info.name.clone(),
        file,
    })
    .collect()
}

/// The metadata of the (first) new file.
fn header(files: &GgufFiles, params: &QuantizeParams, pruning: &Pruning) -> Result<Gguf> {
    let old = files.meta();
    let mut new = Gguf::new();
    for (key, value) in old.kv() {
        new.set(key.as_str(), value.clone())?;
    }
    // What is set goes behind what was there, also in place of an old value.
    let mut set = |key: &str, value: crate::gguf::Value| {
        new.remove(key);
        new.set(key, value)
    };
    let ftype = if params.only_copy { ftype::of_file(files) } else { params.ftype as u32 };
    set("general.quantization_version", QUANTIZATION_VERSION.into())?;
    set("general.file_type", ftype.into())?;
    for (key, value) in &params.kv_overrides {
        let value = match value {
            // llama.cpp reads all its integers as unsigned ones of 32 bits.
            Override::Int(v) => (v.unsigned_abs() as u32).into(),
            Override::Float(v) => (*v as f32).into(),
            Override::Bool(v) => (*v).into(),
            Override::String(v) => v.as_str().into(),
        };
        set(key, value)?;
    }
    if let Some(n_layer) = pruning.n_layer() {
        let arch: String = old.require("general.architecture")?;
        set(&format!("{arch}.block_count"), (n_layer as u32).into())?;
    }
    for key in ["split.no", "split.count", "split.tensors.count"] {
        new.remove(key);
    }
    Ok(new)
}

fn job<'a>(
    params: &'a QuantizeParams<'a>,
    pruning: &Pruning,
    info: &TensorInfo,
    source: String,
    target: DType,
    needs_importance: bool,
) -> Result<Job<'a>> {
    let missing = || {
        let reason = format!("{target} needs an importance matrix, of which there is none for it");
        Err(Error::tensor(&info.name, reason))
    };
    if params.dry_run {
        if needs_importance && params.imatrix.is_none() {
            log::warn!("{}: {target} will need an importance matrix", info.name);
        }
        return Ok(Job { source, target, importance: None });
    }
    if needs_importance && params.imatrix.is_none() {
        return missing();
    }
    if target == info.dtype {
        return Ok(Job { source, target, importance: None });
    }
    if info.dtype.is_quantized() && !params.allow_requantize {
        return Err(Error::tensor(&info.name, format!("is {} already; requantizing was not allowed", info.dtype)));
    }
    quant::dequantize(info.dtype, &[], &mut [])?;
    let importance = match &params.imatrix {
        Some(imatrix) => match imatrix.get(&pruning.old_name(&info.name)?) {
            Some(values) => fitting(info, values)?,
            None => {
                log::info!("{}: no importance matrix for it", info.name);
                None
            }
        },
        None => None,
    };
    if importance.is_none() && needs_importance {
        return missing();
    }
    // A trial on no rows: whether the type can be made at all.
    let row = info.ne[0] as usize;
    quant::quantize_rows(target, &[], row, importance.map(|w| &w[..row]), &mut [])
        .map_err(|e| Error::tensor(&info.name, e.to_string()))?;
    Ok(Job { source, target, importance })
}

/// The values if they are as many as the tensor's columns. Only the embedding table may come with others: the program that
/// collects them measures it differently.
fn fitting<'a>(info: &TensorInfo, values: &'a [f32]) -> Result<Option<&'a [f32]>> {
    let expected = info.ne[0].checked_mul(info.ne[2]);
    if expected == Some(values.len() as u64) {
        return Ok(Some(values));
    }
    let reason = format!("the importance matrix has {} values, expected {expected:?}", values.len());
    if info.name.ends_with("token_embd.weight") {
        log::info!("{}: {reason}", info.name);
        return Ok(None);
    }
    Err(Error::tensor(&info.name, reason))
}
