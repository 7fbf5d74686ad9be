//! What goes wrong on a GPU, caused for real and seen from C: the documented value comes back, the reason is told, the failed
//! context is as before, and everything else lives on. Each test is a process of its own: a device is all contexts'.

use super::*;
use common::lcp::{self, Ptr};
use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::process::Command;

unsafe extern "C" {
    fn llama_model_default_params() -> lcp::ModelParams;
    fn llama_context_default_params() -> lcp::ContextParams;
    fn llama_model_load_from_file(path: *const c_char, params: lcp::ModelParams) -> Ptr;
    fn llama_model_free(model: Ptr);
    fn llama_init_from_model(model: Ptr, params: lcp::ContextParams) -> Ptr;
    fn llama_free(ctx: Ptr);
    fn llama_batch_get_one(tokens: *mut i32, n_tokens: i32) -> lcp::Batch;
    fn llama_decode(ctx: Ptr, batch: lcp::Batch) -> i32;
    fn llama_get_logits_ith(ctx: Ptr, i: i32) -> *const f32;
    fn llama_get_memory(ctx: Ptr) -> Ptr;
    fn llama_memory_seq_pos_max(memory: Ptr, seq_id: i32) -> i32;
    fn llama_state_seq_get_size(ctx: Ptr, seq_id: i32) -> usize;
    fn llama_state_seq_get_data(ctx: Ptr, dst: *mut u8, size: usize, seq_id: i32) -> usize;
    fn llama_supports_gpu_offload() -> bool;
    fn ggml_backend_dev_count() -> usize;
    fn ggml_backend_dev_get(index: usize) -> Ptr;
    fn ggml_backend_dev_name(device: Ptr) -> *const c_char;
    fn infer_last_error() -> *const c_char;
}

/// What llama_decode returns when the device is full, and for other faults.
const NO_MEMORY: i32 = -2;
const FATAL: i32 = -3;

/// All layers, and a failure is an error; negative: all, and the processor computes after a failure.
const ALL: i32 = i32::MAX;
const AUTOMATIC: i32 = -1;

const TEXT: [i32; 6] = [11, 48, 85, 122, 159, 36];

/// A model behind its C handle.
struct CModel(Ptr);

impl CModel {
    fn load(path: &Path, n_gpu_layers: i32) -> Option<CModel> {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the path is NUL-terminated; parameters are the defaults but for what is set.
        let model = unsafe {
            let mut params = llama_model_default_params();
            params.n_gpu_layers = n_gpu_layers;
            llama_model_load_from_file(path.as_ptr(), params)
        };
        (!model.is_null()).then_some(CModel(model))
    }

    fn context(&self, n_ctx: u32) -> Option<CContext> {
        // SAFETY: the model is loaded.
        let context = unsafe {
            let mut params = llama_context_default_params();
            (params.n_ctx, params.n_batch, params.n_ubatch) = (n_ctx, 4096, 4096);
            (params.n_threads, params.n_threads_batch) = (1, 1);
            llama_init_from_model(self.0, params)
        };
        (!context.is_null()).then_some(CContext(context))
    }
}

impl Drop for CModel {
    fn drop(&mut self) {
        // SAFETY: it was loaded, and contexts keep what they need of it.
        unsafe { llama_model_free(self.0) }
    }
}

/// A context behind its C handle.
struct CContext(Ptr);

impl CContext {
    fn decode(&mut self, tokens: &[i32]) -> i32 {
        let mut tokens = tokens.to_vec();
        // SAFETY: the context lives, the batch has so many tokens.
        unsafe { llama_decode(self.0, llama_batch_get_one(tokens.as_mut_ptr(), tokens.len() as i32)) }
    }

    /// Decodes what must succeed, and gives the logits of the last token.
    fn answer(&mut self, tokens: &[i32]) -> Vec<f32> {
        assert_eq!(self.decode(tokens), 0, "{}", last_error());
        // SAFETY: the last token has logits, one for each token of the vocabulary of the tiny models.
        unsafe { std::slice::from_raw_parts(llama_get_logits_ith(self.0, -1), 160) }.to_vec()
    }

    /// The last position.
    fn end(&self) -> i32 {
        // SAFETY: the context lives.
        unsafe { llama_memory_seq_pos_max(llama_get_memory(self.0), 0) }
    }

    /// The bytes of the state that can be saved.
    fn saved(&self) -> usize {
        // SAFETY: the context lives, the buffer has as many bytes as are told.
        unsafe {
            let mut bytes = vec![0; llama_state_seq_get_size(self.0, 0)];
            llama_state_seq_get_data(self.0, bytes.as_mut_ptr(), bytes.len(), 0)
        }
    }
}

impl Drop for CContext {
    fn drop(&mut self) {
        // SAFETY: it was made, and nothing uses it any more.
        unsafe { llama_free(self.0) }
    }
}

fn last_error() -> String {
    // SAFETY: the text is NUL-terminated and this thread's own.
    unsafe { CStr::from_ptr(infer_last_error()) }.to_str().unwrap().to_owned()
}

/// Tells a process which test it is for.
const NAME: &str = "INFER_TEST_FAULT";

/// Whether this is the process of the test `name`.
fn is_alone(name: &str) -> bool {
    std::env::var(NAME).is_ok_and(|running| running == name)
}

/// Whether this is the process of the test `name`; otherwise runs it, with the adapter of the tests as the system's GPU and
/// the variables of `environment`.
fn alone(name: &str, environment: &[(&str, &str)]) -> bool {
    if is_alone(name) {
        return true;
    }
    let Some(adapter) = adapter() else { return false };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("faults::{name}"), "--nocapture", "--test-threads", "1"])
        .env("INFER_GPU", &adapter.name)
        .envs(environment.iter().copied())
        .env(NAME, name)
        // Where memory is bounded, a backtrace finds none and waits for itself.
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(output.status.success() && told.contains("1 passed"), "{name} {environment:?}: {}\n{told}", output.status);
    false
}

fn write(tiny: &Tiny) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write(folder.path());
    (folder, path)
}

fn device() -> Arc<Device> {
    adapter().unwrap().open().unwrap()
}

#[test]
fn a_lost_device() {
    if !alone("a_lost_device", &[]) {
        return;
    }
    let (_folder, path) = write(&Tiny::new("llama", "plain"));
    let [gpu, automatic, processor] = [ALL, AUTOMATIC, 0].map(|n| CModel::load(&path, n).unwrap());
    let [mut failing, mut idle, mut other] = [&gpu, &gpu, &processor].map(|model| model.context(256).unwrap());
    let before = failing.answer(&TEXT);
    assert_eq!(idle.answer(&TEXT), before);
    let on_processor = other.answer(&TEXT);
    let saved = failing.saved();
    assert!(saved > 0);

    device().device.destroy();
    for _ in 0..2 {
        assert_eq!(failing.decode(&[7]), FATAL);
        assert!(last_error().contains("is lost"), "{}", last_error());
        assert_eq!(failing.end(), TEXT.len() as i32 - 1);
    }
    assert_eq!(idle.decode(&[7; 20]), FATAL);
    assert_eq!(failing.saved(), 0);
    assert!(gpu.context(256).is_none() && last_error().contains("is lost"), "{}", last_error());

    // What does not need the device goes on, and who asked for no layers by number gets the processor.
    other.answer(&[7]);
    assert_eq!(automatic.context(256).unwrap().answer(&TEXT), on_processor);

    // A model loaded later opens the device anew.
    let again = CModel::load(&path, ALL).unwrap();
    assert_eq!(again.context(256).unwrap().answer(&TEXT), before);
    assert_eq!(failing.decode(&[7]), FATAL);
}

#[test]
fn a_device_lost_under_several_threads() {
    if !alone("a_device_lost_under_several_threads", &[]) {
        return;
    }
    let (_folder, path) = write(&Tiny::new("llama", "plain"));
    let ready = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let model = CModel::load(&path, ALL).unwrap();
                let mut context = model.context(256).unwrap();
                context.answer(&TEXT);
                ready.wait();
                let codes: Vec<i32> = (0..200).map(|_| context.decode(&[7])).collect();
                let lost = codes.iter().position(|code| *code == FATAL).expect("the device is lost");
                assert!(codes[..lost].iter().all(|code| *code == 0) && codes[lost..].iter().all(|code| *code == FATAL));
                assert_eq!(context.end(), (TEXT.len() + lost) as i32 - 1);
                assert!(last_error().contains("is lost"), "{}", last_error());
            });
        }
        ready.wait();
        device().device.destroy();
    });
}

/// Bounds the address space to `more` bytes than it has now: it is the memory of a software adapter.
#[cfg(unix)]
fn allow(more: u64) {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let Some(pages) = pages.split(' ').next().and_then(|n| n.parse::<u64>().ok()) else { return };
    let limit = libc::rlimit { rlim_cur: (pages * 4096).saturating_add(more), rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the structure is filled in.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

/// Takes all memory of a device, but for pieces of less than 64 KiB.
fn take_all(device: &Device) -> Vec<wgpu::Buffer> {
    let (mut size, mut taken) = (1 << device.abilities.max_binding.ilog2(), Vec::new());
    while size >= 64 << 10 {
        match device.buffer("all", size, wgpu::BufferUsages::STORAGE) {
            Ok(buffer) => taken.push(buffer),
            Err(Error::Memory(_)) => size /= 2,
            Err(e) => panic!("{e}"),
        }
    }
    taken
}

#[cfg(unix)]
#[test]
fn a_full_device() {
    if !alone("a_full_device", &[]) {
        return;
    }
    let (_folder, path) = write(&Tiny::new("llama", "plain"));
    let [gpu, automatic, processor] = [ALL, AUTOMATIC, 0].map(|n| CModel::load(&path, n).unwrap());
    let on_processor = processor.context(512).unwrap().answer(&TEXT);
    let many: Vec<i32> = (0..400).map(|i| i % 160).collect();
    let mut ours = gpu.context(512).unwrap();
    let first = ours.answer(&TEXT);

    let software = adapter().unwrap().kind == AdapterKind::Software;
    if software {
        allow(256 << 20);
    }
    let taken = take_all(&device());
    if software {
        // What is no buffer of the device goes on; its allocator takes twice as much at a time.
        allow(8 << 20);
    }
    for _ in 0..2 {
        assert_eq!(ours.decode(&many), NO_MEMORY, "{}", last_error());
        assert!(last_error().contains("out of memory"), "{}", last_error());
        assert_eq!(ours.end(), TEXT.len() as i32 - 1);
    }
    assert!(gpu.context(512).is_none() && last_error().contains("out of memory"), "{}", last_error());
    assert!(CModel::load(&path, ALL).is_none() && last_error().contains("out of memory"), "{}", last_error());
    for given_way in [&automatic, &CModel::load(&path, AUTOMATIC).unwrap()] {
        assert_eq!(given_way.context(512).unwrap().answer(&TEXT), on_processor);
    }

    drop(taken);
    device().wait().unwrap();
    if software {
        allow(u64::MAX);
    }
    let last = ours.answer(&many);
    let mut calm = gpu.context(512).unwrap();
    assert_eq!((calm.answer(&TEXT), calm.answer(&many)), (first, last));
}

#[test]
fn limits_that_are_too_low() {
    if !alone("limits_that_are_too_low", &[]) {
        return;
    }
    let (_folder, path) = write(&Tiny::new("llama", "plain"));
    let on_processor = CModel::load(&path, 0).unwrap().context(256).unwrap().answer(&TEXT);
    let limits = adapter().unwrap().limits();
    let too_low = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..limits.clone() };
    adapter().unwrap().restrict(too_low);
    assert!(CModel::load(&path, ALL).is_none());
    assert!(last_error().contains("at most 4 storage buffers"), "{}", last_error());
    assert_eq!(CModel::load(&path, AUTOMATIC).unwrap().context(256).unwrap().answer(&TEXT), on_processor);

    // What some work needs more of stops that work alone: an arena of a long text is larger than 256 KiB.
    let small = wgpu::Limits { max_storage_buffer_binding_size: 256 << 10, ..limits };
    adapter().unwrap().restrict(small);
    let model = CModel::load(&path, ALL).unwrap();
    let mut context = model.context(512).unwrap();
    let first = context.answer(&TEXT);
    assert_eq!(context.decode(&[7; 400]), FATAL);
    assert!(last_error().contains("binds at most"), "{}", last_error());
    assert_eq!(context.end(), TEXT.len() as i32 - 1);
    let next = context.answer(&[7]);
    let mut fresh = model.context(512).unwrap();
    assert_eq!((fresh.answer(&TEXT), fresh.answer(&[7])), (first, next));
}

#[test]
fn a_shader_that_is_refused() {
    if !alone("a_shader_that_is_refused", &[]) {
        return;
    }
    let (_folder, path) = write(&Tiny::new("llama", "plain"));
    let model = CModel::load(&path, ALL).unwrap();
    let mut context = model.context(256).unwrap();
    let first = context.answer(&TEXT);
    // Prompts need kernels that few tokens do not; weights are f32.
    device().shaders.spoil("matmul");
    let prompt: Vec<i32> = (0..200).map(|i| i % 160).collect();
    for _ in 0..2 {
        assert_eq!(context.decode(&prompt), FATAL);
        assert!(last_error().contains("kernel matmul"), "{}", last_error());
        assert_eq!(context.end(), TEXT.len() as i32 - 1);
    }
    let next = context.answer(&[7]);
    let mut fresh = model.context(256).unwrap();
    assert_eq!((fresh.answer(&TEXT), fresh.answer(&[7])), (first, next));
}

#[test]
fn errors_are_told_to_who_caused_them() {
    let Some(adapter) = adapter() else { return };
    let device = adapter.open().unwrap();
    std::thread::scope(|scope| {
        let failing = scope.spawn(|| {
            // A buffer that is mapped for reading cannot be storage.
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE;
            let wrong = wgpu::BufferDescriptor { label: Some("wrong"), size: 16, usage, mapped_at_creation: false };
            drop(device.device.create_buffer(&wrong));
            device.check()
        });
        assert!(failing.join().unwrap().is_err());
        assert!(device.check().is_ok());
    });
}

#[test]
fn caches_that_are_of_no_use() {
    let Some(adapter) = adapter() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    // Nothing can be written below a file, nor to /proc even as root.
    for place in [&file, Path::new("/proc")] {
        let _ = alone("a_run_with_a_cache", &[("XDG_CACHE_HOME", place.to_str().unwrap())]);
    }
    let _ = alone("a_run_with_a_cache", &[("XDG_CACHE_HOME", ""), ("HOME", "")]);
    // What a run left, damaged.
    let place = folder.path().join("cache");
    let run = || {
        let _ = alone("a_run_with_a_cache", &[("XDG_CACHE_HOME", place.to_str().unwrap())]);
    };
    for _ in 0..2 {
        run();
    }
    let Ok(files) = std::fs::read_dir(place.join("infer")) else {
        println!("{} keeps no pipelines", adapter.description);
        return;
    };
    let file = files.flatten().next().expect("one file").path();
    let good = std::fs::read(&file).unwrap();
    let half = good.len() / 2;
    let flipped: Vec<u8> = good.iter().enumerate().map(|(i, b)| if i == half { !b } else { *b }).collect();
    for damaged in [&good[..half], &flipped, &[], &[0xa5; 10_000]] {
        std::fs::write(&file, damaged).unwrap();
        run();
        let now = std::fs::read(&file).unwrap();
        // Drivers do not give the same bytes each time.
        assert!(now.len() > good.len() / 2 && now != damaged, "a good file is written again");
    }
}

#[test]
fn a_run_with_a_cache() {
    if !alone("a_run_with_a_cache", &[]) {
        return;
    }
    let (_folder, path) = write(&Tiny::new("llama", "plain"));
    let model = CModel::load(&path, ALL).unwrap();
    let mut context = model.context(256).unwrap();
    context.answer(&TEXT);
    context.answer(&[7]);
}

/// The names of ggml_backend_dev_*.
fn device_names() -> Vec<String> {
    // SAFETY: the index is smaller than the count, names are NUL-terminated.
    let name = |i| unsafe { CStr::from_ptr(ggml_backend_dev_name(ggml_backend_dev_get(i))) };
    // SAFETY: no preconditions.
    let n = unsafe { ggml_backend_dev_count() };
    (0..n).map(|i| name(i).to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_named_device_is_listed() {
    if !alone("a_named_device_is_listed", &[]) {
        return;
    }
    let names = device_names();
    assert!(names[0] == "CPU" && names.contains(&adapter().unwrap().name), "{names:?}");
}

/// Loads a model as programs do by default, computes, and expects that no driver was loaded for it.
fn expect_no_driver() {
    let (_folder, path) = write(&Tiny::new("llama", "plain"));
    let [mut asked, mut plain] = [AUTOMATIC, 0].map(|n| CModel::load(&path, n).unwrap().context(256).unwrap());
    assert_eq!(asked.answer(&TEXT), plain.answer(&TEXT));
    assert_eq!(device_names(), ["CPU"]);
    // SAFETY: no preconditions.
    assert!(!unsafe { llama_supports_gpu_offload() });
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    assert!(!maps.contains("libvulkan") && !maps.contains("libLLVM"), "{maps}");
}

#[test]
fn none_loads_no_driver() {
    if alone("none_loads_no_driver", &[("INFER_GPU", "none")]) {
        expect_no_driver();
    }
}

#[test]
fn a_system_without_a_gpu_loads_no_driver() {
    const NAME: &str = "a_system_without_a_gpu_loads_no_driver";
    let has_gpu = || Path::new("/dev/dri").exists() || adapters().iter().any(|a| a.kind != AdapterKind::Software);
    // The process of its own must not look for adapters.
    if (is_alone(NAME) || !has_gpu()) && alone(NAME, &[("INFER_GPU", "")]) {
        expect_no_driver();
    }
}
