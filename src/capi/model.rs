//! Models: loading, facts, metadata.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::*;
use crate::gguf::{LoadMode, Override, Source};
use crate::model::offload::OffloadParams;
use crate::model::{Model, ModelParams};
use crate::{Error, Result};

/// A loaded model, safe to share between threads. Contexts keep it alive after llama_model_free.
pub struct llama_model {
    tag: Tag,
    /// The engine's model.
    pub(crate) model: Arc<Model>,
    vocab: llama_vocab,
    pub(super) labels: Vec<CString>,
    /// Templates handed out, by name.
    pub(super) templates: Mutex<HashMap<Option<CString>, CString>>,
    /// Adapters that were loaded for it and not freed.
    pub(super) adapters: Mutex<Vec<Arc<llama_adapter_lora>>>,
}

impl Tagged for llama_model {
    const NAME: &'static str = "model";
    fn tag(&self) -> &Tag {
        &self.tag
    }
}

impl llama_model {
    fn new(model: Arc<Model>) -> Self {
        llama_model {
            tag: Tag::of::<llama_model>(),
            vocab: llama_vocab::new(model.clone()),
            labels: model.labels().iter().map(|label| logging::c_text(label)).collect(),
            templates: Mutex::default(),
            adapters: Mutex::default(),
            model,
        }
    }
}

/// Returns the usual parameters: the file is mapped, all of it is loaded.
#[unsafe(no_mangle)]
pub extern "C" fn llama_model_default_params() -> llama_model_params {
    llama_model_params {
        devices: std::ptr::null_mut(),
        tensor_buft_overrides: std::ptr::null(),
        n_gpu_layers: -1,
        split_mode: CEnum::new(llama_split_mode::LLAMA_SPLIT_MODE_LAYER),
        load_mode: CEnum::new(llama_load_mode::LLAMA_LOAD_MODE_AUTO),
        lazy_mode: CEnum::new(llama_lazy_mode::LLAMA_LAZY_MODE_AUTO),
        main_gpu: 0,
        tensor_split: std::ptr::null(),
        progress_callback: None,
        progress_callback_user_data: std::ptr::null_mut(),
        kv_overrides: std::ptr::null(),
        vocab_only: false,
        check_tensors: false,
        use_extra_bufts: true,
        no_host: false,
        no_alloc: false,
        load_mtp: false,
    }
}

/// Loads a model from a GGUF file. The other files of a split model ("...-00001-of-00003.gguf") are found by their names.
/// Returns NULL when that fails or the progress callback cancels it. Free the result with llama_model_free.
///
/// # Safety
/// `path_model` must be NULL or a NUL-terminated string, the pointers in `params` be NULL or as llama_model_params says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_load_from_file(
    path_model: *const c_char,
    params: llama_model_params,
) -> *mut llama_model {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or a NUL-terminated string.
        let path = path_of(unsafe { c_str(path_model, "path_model") }?);
        // SAFETY: the caller promises what `load` asks for.
        unsafe { load(Source::Path(path), Vec::new(), &params) }
    })
}

/// Loads a model from the files of a split model, given in order: see llama_model_load_from_file.
///
/// # Safety
/// `paths` must be NULL or point to `n_paths` NUL-terminated strings, the pointers in `params` be NULL or as
/// llama_model_params says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_load_from_splits(
    paths: *mut *const c_char,
    n_paths: usize,
    params: llama_model_params,
) -> *mut llama_model {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises n_paths NUL-terminated strings.
        let paths = unsafe { array(paths, n_paths, "paths") }?.iter().map(|&path| unsafe { c_str(path, "paths") });
        let paths = paths.map(|path| Ok(path_of(path?))).collect::<Result<Vec<_>>>()?;
        let first = paths.first().ok_or_else(|| Error::argument("paths is empty"))?.clone();
        // SAFETY: the caller promises what `load` asks for.
        unsafe { load(Source::Path(first), paths, &params) }
    })
}

/// Loads a model from an open file, from its current position on: see llama_model_load_from_file. The file may be closed
/// afterwards.
///
/// # Safety
/// `file` must be NULL or an open file, the pointers in `params` be NULL or as llama_model_params says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_load_from_file_ptr(
    file: *mut libc::FILE,
    params: llama_model_params,
) -> *mut llama_model {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller promises NULL or an open file, and what `load` asks for.
        unsafe { load(source_of(file)?, Vec::new(), &params) }
    })
}

/// A GGUF in a C file, from its position on. The file stays the caller's.
///
/// # Safety
/// `file` must be NULL or an open file.
pub(super) unsafe fn source_of(file: *mut libc::FILE) -> Result<Source> {
    if file.is_null() {
        return Err(Error::Null("file"));
    }
    // SAFETY: not NULL, and the caller promises an open file.
    let (fd, offset) = unsafe { (libc::fileno(file), libc::ftello(file)) };
    let failed = |what: &str| Error::io(format!("{what} of the file passed"), std::io::Error::last_os_error());
    let offset = u64::try_from(offset).map_err(|_| failed("find the position"))?;
    if fd < 0 {
        return Err(failed("find the descriptor"));
    }
    // SAFETY: the descriptor belongs to the open file, which nobody closes during the call.
    let own: OwnedFd = unsafe { BorrowedFd::borrow_raw(fd) }
        .try_clone_to_owned()
        .map_err(|e| Error::io("duplicate the descriptor of the file passed", e))?;
    Ok(Source::File { file: own.into(), offset })
}

/// Frees a model. Contexts that were made with it keep working. NULL does nothing.
///
/// # Safety
/// `model` must be NULL or a model that was not freed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_free(model: *mut llama_model) {
    guard((), || {
        if !model.is_null() {
            // SAFETY: the caller promises a live model, whose pointer `load` made by Arc::into_raw.
            unsafe {
                handle_ref(model)?;
                drop(Arc::from_raw(model.cast_const()));
            }
        }
        Ok(())
    });
}

/// Returns the model's vocabulary, which lives as long as the model.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_get_vocab(model: *const llama_model) -> *const llama_vocab {
    // SAFETY: the caller promises NULL or a live model.
    guard(std::ptr::null(), || Ok(&raw const unsafe { handle_ref(model) }?.vocab))
}

/// Returns how the model rotates positions.
///
/// # Safety
/// `model` must be NULL or a live model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llama_model_rope_type(model: *const llama_model) -> CEnum<llama_rope_type> {
    use crate::graph::RopeKind;
    guard(CEnum::new(llama_rope_type::LLAMA_ROPE_TYPE_NONE), || {
        // SAFETY: the caller promises NULL or a live model.
        Ok(CEnum::new(match unsafe { handle_ref(model) }?.model.def().ok().and_then(|def| def.rope) {
            None => llama_rope_type::LLAMA_ROPE_TYPE_NONE,
            Some(RopeKind::Norm) => llama_rope_type::LLAMA_ROPE_TYPE_NORM,
            Some(RopeKind::Neox) => llama_rope_type::LLAMA_ROPE_TYPE_NEOX,
        }))
    })
}

/// A share of the model behind a caller's pointer.
///
/// # Safety
/// `model` must be NULL or a live model.
pub(super) unsafe fn model_arc(model: *const llama_model) -> Result<Arc<llama_model>> {
    // SAFETY: the caller promises NULL or a live model.
    unsafe { handle_ref(model) }?;
    // SAFETY: the handle was just checked; `load` made it by Arc::into_raw, and this takes a share of its own.
    unsafe {
        Arc::increment_strong_count(model);
        Ok(Arc::from_raw(model))
    }
}

/// Loads a model and makes its handle.
///
/// # Safety
/// The pointers in `params` must be NULL or as llama_model_params says.
unsafe fn load(
    source: Source,
    splits: Vec<std::path::PathBuf>,
    params: &llama_model_params,
) -> Result<*mut llama_model> {
    let load_mode = load_mode(params.load_mode)?;
    // Nothing of a mapped file is in memory until it is used, which is as good as not allocating it.
    let load_mode = if params.no_alloc { LoadMode::Mmap } else { load_mode };
    // SAFETY: the caller promises what `make` asks for.
    unsafe { make(params, |params| Model::load(source, ModelParams { load_mode, splits, ..params })) }
}

/// Makes a handle of what `model` returns, which is given the parameters but for those of files.
///
/// # Safety
/// The pointers in `params` must be NULL or as llama_model_params says.
pub(super) unsafe fn make(
    params: &llama_model_params,
    model: impl FnOnce(ModelParams) -> Result<Arc<Model>>,
) -> Result<*mut llama_model> {
    let mut progress = params.progress_callback.map(|callback| {
        let user_data = params.progress_callback_user_data;
        // SAFETY: the caller promises a callback that takes its user data.
        move |done: f32| unsafe { callback(done, user_data) }
    });
    let model = model(ModelParams {
        load_mode: LoadMode::Auto,
        splits: Vec::new(),
        // SAFETY: the caller promises NULL or a list that ends with an empty key.
        kv_overrides: unsafe { overrides(params.kv_overrides) }?,
        vocab_only: params.vocab_only,
        check_tensors: params.check_tensors && !params.no_alloc,
        // SAFETY: the caller promises lists as llama_model_params says.
        offload: unsafe { offload(params) }?,
        progress: progress.as_mut().map(|progress| progress as &mut dyn FnMut(f32) -> bool),
    })?;
    Ok(Arc::into_raw(Arc::new(llama_model::new(model))).cast_mut())
}

/// What goes to GPUs.
///
/// # Safety
/// `devices` must be NULL or a list that ends with NULL, `tensor_split` NULL or llama_max_devices() numbers.
unsafe fn offload(params: &llama_model_params) -> Result<OffloadParams> {
    let mut found = OffloadParams {
        n_gpu_layers: if params.no_alloc || params.vocab_only { 0 } else { params.n_gpu_layers },
        spread: params.split_mode.value() != llama_split_mode::LLAMA_SPLIT_MODE_NONE as i32,
        main_gpu: usize::try_from(params.main_gpu).unwrap_or(0),
        ..OffloadParams::default()
    };
    if !params.tensor_split.is_null() {
        // SAFETY: not NULL, and the caller promises so many numbers.
        found.tensor_split = unsafe { std::slice::from_raw_parts(params.tensor_split, llama_max_devices()) }.to_vec();
    }
    if !params.devices.is_null() {
        let mut adapters = Vec::new();
        for i in 0.. {
            // SAFETY: no entry before this one was NULL, so that the list goes on at least to it.
            let device = unsafe { *params.devices.add(i) };
            if device.is_null() {
                break;
            }
            adapters.extend(device::adapter_of(device)?);
        }
        found.adapters = Some(adapters);
    }
    Ok(found)
}

fn load_mode(mode: CEnum<llama_load_mode>) -> Result<LoadMode> {
    Ok(match mode.value() {
        -1 => LoadMode::Auto,
        0 => LoadMode::None,
        1 => LoadMode::Mmap,
        2 => LoadMode::Mlock,
        3 => LoadMode::MmapMlock,
        4 => LoadMode::DirectIo,
        other => return Err(Error::argument(format!("no load mode has the number {other}"))),
    })
}

/// # Safety
/// `list` must be NULL or point to elements of which the last has an empty key.
pub(super) unsafe fn overrides(list: *const llama_model_kv_override) -> Result<Vec<(String, Override)>> {
    let mut found = Vec::new();
    if list.is_null() {
        return Ok(found);
    }
    for i in 0.. {
        // SAFETY: no element before this one had an empty key, so that the list goes on at least to it.
        let entry = unsafe { &*list.add(i) };
        let key = field_text(&entry.key)?;
        if key.is_empty() {
            break;
        }
        // SAFETY: every member of the union is valid for any bytes, and callers fill the one that the tag names.
        let value = unsafe {
            match entry.tag.value() {
                0 => Override::Int(entry.value.val_i64),
                1 => Override::Float(entry.value.val_f64),
                2 => Override::Bool(entry.value.val_bool != 0),
                3 => Override::String(field_text(&entry.value.val_str)?),
                other => return Err(Error::argument(format!("override of '{key}': no type has the number {other}"))),
            }
        };
        found.push((key, value));
    }
    Ok(found)
}

/// The text in a fixed-size field.
fn field_text(field: &[c_char; 128]) -> Result<String> {
    let bytes = field.map(|c| c as u8);
    let text =
        CStr::from_bytes_until_nul(&bytes).map_err(|_| Error::argument("an override without a NUL at its end"))?;
    let text = text.to_str().map_err(|e| Error::argument(format!("an override that is not UTF-8: {e}")))?;
    Ok(text.to_owned())
}
