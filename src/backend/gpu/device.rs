//! Adapters and opened devices. An [`Adapter`] is listed once per process; [`Adapter::open`] gives the one [`Device`] that
//! all models and contexts on it share. What goes wrong on a device is kept there and told by [`Device::check`].

use super::shader::Shaders;
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// What kind of processor an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AdapterKind {
    Discrete,
    Integrated,
    /// A processor that plays a GPU: used only when it is named.
    Software,
}

/// A GPU that the system has.
pub struct Adapter {
    adapter: wgpu::Adapter,
    /// `WGPU0`, `WGPU1`, ... in the order of the system.
    pub name: String,
    /// The model, for people.
    pub description: String,
    /// What it is.
    pub kind: AdapterKind,
    /// Bytes of its own memory, or of what it shares; 0: not known.
    pub memory: u64,
    /// What devices are opened with.
    limits: Mutex<wgpu::Limits>,
    opened: Mutex<Weak<Device>>,
}

/// An opened adapter.
pub struct Device {
    /// Makes buffers and pipelines.
    pub device: wgpu::Device,
    /// Takes work.
    pub queue: wgpu::Queue,
    /// The adapter's name.
    pub name: String,
    /// What it can do.
    pub abilities: Abilities,
    /// Pipelines made so far.
    pub shaders: Shaders,
    /// Buffers made so far.
    pub buffers_made: AtomicU64,
    failures: Arc<Mutex<Failures>>,
    /// Whether short work is waited for awake: to be woken takes as long as some dispatches. Not where the processor that
    /// waits is the one that computes.
    spins: bool,
}

/// What went wrong on a device: its loss concerns all, other errors the thread that caused them.
#[derive(Default)]
struct Failures {
    lost: Option<String>,
    of_threads: Vec<(ThreadId, Error)>,
}

/// Longest time that is waited awake.
const SPIN: Duration = Duration::from_millis(8);

/// What kernels may use.
#[derive(Debug, Clone)]
pub struct Abilities {
    /// Threads of a subgroup, at least; `None`: no subgroup operations.
    pub subgroup: Option<u32>,
    /// 16×16×16 matrix products of f16 with f32 sums, by subgroups of 32.
    pub matrices: bool,
    /// Timestamps within a pass.
    pub timestamps: bool,
    /// Bytes of a binding.
    pub max_binding: u64,
    /// Bytes of a workgroup's memory.
    pub workgroup_memory: u32,
}

/// Bytes that are taken from the driver at a time for buffers of less: half of it may stay unused. wgpu's own choice is up to
/// 256 MiB; buffers of weights are larger than either.
const BLOCK: u64 = 16 << 20;

static ADAPTERS: LazyLock<Vec<Adapter>> = LazyLock::new(|| {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    // No validation layers, whatever the build: shaders and calls are checked by wgpu itself.
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let found = block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let useful = found.into_iter().filter(|a| a.get_downlevel_capabilities().is_webgpu_compliant());
    useful.enumerate().map(|(i, adapter)| Adapter::new(i, adapter)).collect()
});

/// All adapters of the system; looked for at the first call, which loads every driver that is installed.
pub fn adapters() -> &'static [Adapter] {
    &ADAPTERS
}

/// The adapters that callers are told of: none with `INFER_GPU=none`, or where the system has no GPU and `INFER_GPU` is not
/// set. A driver that computes in software brings its compiler, which would cost every process tens of megabytes.
pub fn listed() -> &'static [Adapter] {
    let look = match std::env::var("INFER_GPU") {
        Ok(wanted) if !wanted.is_empty() => wanted != "none",
        _ => may_have_gpu(),
    };
    if look { adapters() } else { &[] }
}

/// Whether the kernel has a driver of a GPU: each makes a device file.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn may_have_gpu() -> bool {
    // DRM; NVIDIA's own, also of embedded boards; Windows' in a Linux subsystem; AMD's for compute; Adreno's; Mali's.
    const NAMES: [(&str, &[&str]); 2] =
        [("/dev/dri", &["renderD"]), ("/dev", &["nvidia", "nvhost", "nvgpu", "dxg", "kfd", "kgsl", "mali"])];
    NAMES.iter().any(|(folder, names)| {
        let has = |file: &std::ffi::OsStr| names.iter().any(|n| file.as_encoded_bytes().starts_with(n.as_bytes()));
        std::fs::read_dir(folder).is_ok_and(|files| files.flatten().any(|file| has(&file.file_name())))
    })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn may_have_gpu() -> bool {
    true
}

/// The adapter that computes when the caller names none: the first that is no software, or the one whose name or description
/// the environment variable `INFER_GPU` holds (`INFER_GPU=none`: no adapter).
pub fn default_adapter() -> Option<&'static Adapter> {
    match std::env::var("INFER_GPU") {
        Ok(wanted) if !wanted.is_empty() => {
            let wanted = wanted.to_lowercase();
            let has = |a: &&Adapter| a.name.to_lowercase() == wanted || a.description.to_lowercase().contains(&wanted);
            listed().iter().find(has)
        }
        _ => listed().iter().find(|a| a.kind != AdapterKind::Software),
    }
}

impl Adapter {
    fn new(number: usize, adapter: wgpu::Adapter) -> Adapter {
        let info = adapter.get_info();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu => AdapterKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
            wgpu::DeviceType::Cpu | wgpu::DeviceType::Other => AdapterKind::Software,
        };
        let memory = device_memory(&adapter);
        Adapter {
            limits: Mutex::new(adapter.limits()),
            adapter,
            name: format!("WGPU{number}"),
            description: info.name,
            kind,
            memory,
            opened: Mutex::default(),
        }
    }

    /// Opens the adapter, or gives the device that is open already.
    ///
    /// # Errors
    /// [`Error::Device`]: the driver refuses.
    pub fn open(&self) -> Result<Arc<Device>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = opened.upgrade().filter(|d| d.check().is_ok()) {
            return Ok(device);
        }
        let device = Arc::new(Device::open(self)?);
        *opened = Arc::downgrade(&device);
        Ok(device)
    }

    /// What a device is opened with: all that the adapter has, unless restricted.
    pub fn limits(&self) -> wgpu::Limits {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens with these limits from now on, instead of all that the adapter has.
    pub fn restrict(&self, limits: wgpu::Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }
}

/// What the shaders need and limits do not give. Workgroup memory is not asked for: kernels choose their sizes by it.
fn lacking(limits: &wgpu::Limits) -> Option<String> {
    let needs = [
        ("storage buffers of a shader", limits.max_storage_buffers_per_shader_stage, STORAGE_BUFFERS),
        ("bindings of a group", limits.max_bindings_per_bind_group, STORAGE_BUFFERS + 1),
        ("threads of a workgroup", limits.max_compute_invocations_per_workgroup, MAX_THREADS),
        ("threads of a workgroup side by side", limits.max_compute_workgroup_size_x, MAX_THREADS),
    ];
    let lacks = needs.iter().find(|(_, has, needed)| has < needed);
    lacks.map(|(what, has, needed)| format!("at most {has} {what}; {needed} are needed"))
}

/// Storage buffers of `bindings.wgsl`; its parameters are a binding more.
const STORAGE_BUFFERS: u32 = 7;

/// Threads of the largest workgroups.
const MAX_THREADS: u32 = 256;

impl Device {
    fn open(of: &Adapter) -> Result<Device> {
        let has = of.adapter.features();
        let wanted = wgpu::Features::SUBGROUP
            | wgpu::Features::SUBGROUP_BARRIER
            | wgpu::Features::SHADER_F16
            | wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES
            | wgpu::Features::PIPELINE_CACHE
            | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        let mut features = has & wanted;
        let info = of.adapter.get_info();
        let needs = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
            | wgpu::Features::SHADER_F16
            | wgpu::Features::SUBGROUP
            | wgpu::Features::SUBGROUP_BARRIER;
        let matrices = features.contains(needs)
            && info.subgroup_min_size == 32
            && of.adapter.cooperative_matrix_properties().iter().any(|m| {
                m.m_size == 16
                    && m.n_size == 16
                    && m.k_size == 16
                    && m.ab_type == wgpu::CooperativeScalarType::F16
                    && m.cr_type == wgpu::CooperativeScalarType::F32
            });
        if !matrices {
            features.remove(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        }
        let experimental = if matrices {
            // SAFETY: the one experimental feature is used by shaders of this crate alone, which tests run on devices.
            unsafe { wgpu::ExperimentalFeatures::enabled() }
        } else {
            wgpu::ExperimentalFeatures::disabled()
        };
        let limits = of.limits();
        if let Some(reason) = lacking(&limits) {
            return Err(Error::Unsupported(format!("{} ({}) has {reason}", of.name, of.description)));
        }
        let opened = of.adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("infer"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: experimental,
            memory_hints: wgpu::MemoryHints::Manual { suballocated_device_memory_block_size: BLOCK..BLOCK },
            trace: wgpu::Trace::Off,
        });
        let (device, queue) = block_on(opened).map_err(|e| Error::Device(format!("{}: {e}", of.description)))?;
        let failures: Arc<Mutex<Failures>> = Arc::default();
        let kept = failures.clone();
        // Called by the thread that causes the error.
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            let mut failures = kept.lock().unwrap_or_else(PoisonError::into_inner);
            let thread = thread::current().id();
            if failures.of_threads.iter().all(|(of, _)| *of != thread) {
                failures.of_threads.push((thread, describe(e)));
            }
        }));
        let kept = failures.clone();
        device.set_device_lost_callback(move |_, message| {
            kept.lock().unwrap_or_else(PoisonError::into_inner).lost = Some(message);
        });
        let abilities = Abilities {
            subgroup: features.contains(wgpu::Features::SUBGROUP).then_some(info.subgroup_min_size.max(1)),
            matrices,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
            max_binding: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
            workgroup_memory: limits.max_compute_workgroup_storage_size,
        };
        log::info!("{}: {} ({abilities:?})", of.name, of.description);
        let shaders = Shaders::new(&device, &info, features.contains(wgpu::Features::PIPELINE_CACHE));
        let name = of.name.clone();
        let spins = of.kind != AdapterKind::Software;
        Ok(Device { device, queue, name, abilities, shaders, buffers_made: AtomicU64::new(0), failures, spins })
    }

    /// The error that the calling thread caused since its last call, if any. A lost device stays lost.
    pub fn check(&self) -> Result<()> {
        let Some(e) = self.told() else { return Ok(()) };
        // Whatever is done on a lost device fails in its own way, and only polling tells of some losses.
        let _ = self.poll(wgpu::PollType::Poll);
        Err(self.told().unwrap_or(e))
    }

    fn told(&self) -> Option<Error> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &failures.lost {
            return Some(Error::Device(format!("{} is lost: {reason}", self.name)));
        }
        if failures.of_threads.is_empty() {
            return None;
        }
        let thread = thread::current().id();
        let i = failures.of_threads.iter().position(|(of, _)| *of == thread)?;
        Some(failures.of_threads.swap_remove(i).1)
    }

    /// A buffer, or the reason why there is none.
    ///
    /// # Errors
    /// [`Error::Memory`]: the device has no room; [`Error::Unsupported`]: larger than it can bind.
    pub fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let size = size.max(16).next_multiple_of(16);
        if usage.contains(wgpu::BufferUsages::STORAGE) && size > self.abilities.max_binding {
            let limit = self.abilities.max_binding;
            return Err(Error::Unsupported(format!("{label}: {size} bytes; {} binds at most {limit}", self.name)));
        }
        self.buffers_made.fetch_add(1, Ordering::Relaxed);
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let valid = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        });
        let errors = [block_on(valid.pop()), block_on(memory.pop())];
        match errors.into_iter().flatten().next() {
            None => Ok(buffer),
            Some(wgpu::Error::OutOfMemory { .. }) => {
                Err(Error::Memory(format!("{size} bytes on {} for {label}", self.name)))
            }
            Some(e) => Err(describe(e)),
        }
    }

    /// Waits for all work that was handed in.
    ///
    /// # Errors
    /// What the device had to say.
    pub fn wait(&self) -> Result<()> {
        let polled = self.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        polled
    }

    /// wgpu panics when a device is lost while it is waited for; its callback was told before.
    fn poll(&self, how: wgpu::PollType) -> Result<()> {
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(how))) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(Error::Device(format!("{}: {e}", self.name))),
            Err(_) => Err(Error::Device(format!("{} failed while it was waited for", self.name))),
        }
    }
}

/// A device's error as one of ours.
pub fn describe(e: wgpu::Error) -> Error {
    match e {
        wgpu::Error::OutOfMemory { source } => Error::Memory(format!("on the device: {source}")),
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            Error::Device(description)
        }
    }
}

/// Bytes of the largest heap that is the adapter's own.
#[cfg(not(any(target_vendor = "apple", windows)))]
fn device_memory(adapter: &wgpu::Adapter) -> u64 {
    // SAFETY: the handle is used within this function alone, and nothing of it is destroyed.
    let Some(raw) = (unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }) else { return 0 };
    let instance = raw.shared_instance().raw_instance();
    // SAFETY: the physical device belongs to this instance, and both live as long as the adapter.
    let memory = unsafe { instance.get_physical_device_memory_properties(raw.raw_physical_device()) };
    memory.memory_heaps_as_slice().iter().filter(|h| h.flags.as_raw() & 1 == 1).map(|h| h.size).max().unwrap_or(0)
}

#[cfg(any(target_vendor = "apple", windows))]
fn device_memory(_adapter: &wgpu::Adapter) -> u64 {
    0
}

/// Runs a future to its end; those of wgpu are ready at once where it is native.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Copies bytes: many, as the logits of many tokens are, by several threads.
fn copy(to: &mut [u8], from: &[u8]) {
    const PIECE: usize = 1 << 20;
    if to.len() <= 2 * PIECE {
        to.copy_from_slice(from);
    } else {
        to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
    }
}

impl Device {
    /// Bytes of a buffer; offset and size are multiples of 4.
    ///
    /// # Errors
    /// What the device had to say.
    pub fn download(&self, buffer: &wgpu::Buffer, offset: u64, size: u64) -> Result<Vec<u8>> {
        if size == 0 {
            return Ok(Vec::new());
        }
        let staging = self.buffer("staging", size, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, size);
        self.queue.submit([encoder.finish()]);
        let mut bytes = vec![0; size as usize];
        self.read_mapped(&staging, &mut [(0, &mut bytes)])?;
        Ok(bytes)
    }

    /// Waits for the work handed in, then copies parts of a mappable buffer out: each from its offset.
    ///
    /// # Errors
    /// What the device had to say.
    pub fn read_mapped(&self, staging: &wgpu::Buffer, parts: &mut [(u64, &mut [u8])]) -> Result<()> {
        let Some(end) = parts.iter().map(|(at, part)| at + part.len() as u64).max() else { return self.wait() };
        let ready: Arc<AtomicBool> = Arc::default();
        let told = ready.clone();
        staging
            .map_async(wgpu::MapMode::Read, 0..end.next_multiple_of(4), move |_| told.store(true, Ordering::Release));
        let start = Instant::now();
        while self.spins && !ready.load(Ordering::Acquire) && start.elapsed() < SPIN {
            // What goes wrong is told by `wait`.
            if self.poll(wgpu::PollType::Poll).is_err() {
                break;
            }
            std::hint::spin_loop();
        }
        self.wait()?;
        {
            let view = staging
                .get_mapped_range(0..end.next_multiple_of(4))
                .map_err(|e| Error::Device(format!("results cannot be read: {e}")))?;
            for (at, part) in parts {
                copy(part, &view[*at as usize..][..part.len()]);
            }
        }
        staging.unmap();
        Ok(())
    }
}
