//! Kernels: which WGSL files a kernel is made of, with which constants, and the pipelines made of them. A kernel is a
//! prelude of constants followed by its files, in any order: WGSL needs no declaration before use. Constants are a prelude
//! rather than `override`s because sizes of arrays in registers must be constant expressions.

use crate::error::{Error, Result};
use crate::quant::DType;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

/// A kernel with its constants: the key of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The file with `main`, without its ending.
    pub name: &'static str,
    /// The type of the weights that it reads, for kernels that are composed with a format.
    pub format: Option<DType>,
    /// A second type of weights that `matvec_fast` finds among the first.
    pub second: Option<DType>,
    /// Names and values of its constants.
    pub constants: Vec<(&'static str, u32)>,
    /// Threads of a subgroup, at least, if it may use subgroup operations.
    pub subgroup: Option<u32>,
}

macro_rules! wgsl {
    ($name:literal) => {
        include_str!(concat!("../../../shaders/", $name, ".wgsl"))
    };
}

/// The WGSL of a format; `None`: the type has none, its weights are expanded to f16 when they are uploaded.
fn format_source(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F32 => wgsl!("format/f32"),
        DType::F16 => wgsl!("format/f16"),
        DType::BF16 => wgsl!("format/bf16"),
        DType::Q4_0 => wgsl!("format/q4_0"),
        DType::Q4_1 => wgsl!("format/q4_1"),
        DType::Q5_0 => wgsl!("format/q5_0"),
        DType::Q5_1 => wgsl!("format/q5_1"),
        DType::Q8_0 => wgsl!("format/q8_0"),
        DType::Q2K => wgsl!("format/q2_k"),
        DType::Q3K => wgsl!("format/q3_k"),
        DType::Q4K => wgsl!("format/q4_k"),
        DType::Q5K => wgsl!("format/q5_k"),
        DType::Q6K => wgsl!("format/q6_k"),
        DType::IQ4NL => wgsl!("format/iq4_nl"),
        DType::IQ4XS => wgsl!("format/iq4_xs"),
        DType::MXFP4 => wgsl!("format/mxfp4"),
        _ => return None,
    })
}

/// The WGSL by which `matmul_few_coop` takes units of weights of a type.
fn take_source(dtype: Option<DType>) -> &'static str {
    match dtype {
        Some(DType::Q4_0) => wgsl!("take/q4_0"),
        Some(DType::Q4_1) => wgsl!("take/q4_1"),
        Some(DType::Q8_0) => wgsl!("take/q8_0"),
        Some(DType::Q4K) => wgsl!("take/q4_k"),
        Some(DType::Q5K) => wgsl!("take/q5_k"),
        Some(DType::Q6K) => wgsl!("take/q6_k"),
        _ => wgsl!("take/any"),
    }
}

/// Whether weights of a type are read by kernels as they are.
pub fn has_format(dtype: DType) -> bool {
    format_source(dtype).is_some()
}

/// Whether a type has products with activations of bytes.
pub fn is_fast(dtype: DType) -> bool {
    format_source(dtype).is_some_and(|source| source.contains("fn open64"))
}

impl Kernel {
    /// A kernel without a format.
    pub fn plain(name: &'static str, constants: &[(&'static str, u32)]) -> Kernel {
        Kernel { name, format: None, second: None, constants: constants.to_vec(), subgroup: None }
    }

    /// The files of the kernel.
    fn files(&self) -> Result<Vec<&'static str>> {
        const WORDS: &[&str] = &[wgsl!("bindings"), wgsl!("arena/words"), wgsl!("state/words")];
        const VECTORS: &[&str] = &[wgsl!("bindings"), wgsl!("arena/vectors"), wgsl!("state/words")];
        // The caches are bound by types of their own.
        const CACHED: &[&str] = &[wgsl!("bindings"), wgsl!("arena/vectors")];
        const WIDE: &[&str] = &[wgsl!("wide"), wgsl!("halves")];
        /// `K_TYPE` and `V_TYPE` of f16.
        const HALF: u32 = 2;
        // What kernels of `attention_few` share.
        const SHARED: &[&str] = &[
            wgsl!("attention_shared"),
            wgsl!("attention_own"),
            wgsl!("eight"),
            wgsl!("rotation"),
            wgsl!("rounding"),
            wgsl!("emit"),
            wgsl!("matrix"),
        ];
        let constant = |wanted: &str| self.constants.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        let sums = if self.subgroup.is_some() { wgsl!("reduce/sums_subgroup") } else { wgsl!("reduce/sums_plain") };
        let shuffle = if self.subgroup.is_some() { wgsl!("reduce/shuffle") } else { wgsl!("reduce/shuffle_plain") };
        let (base, own): (&[&str], Vec<&str>) = match self.name {
            "elementwise" => (WORDS, vec![wgsl!("elementwise"), wgsl!("activation")]),
            "rows" => (WORDS, vec![wgsl!("rows"), wgsl!("reduce/plain")]),
            "heads" => (WORDS, vec![wgsl!("heads"), wgsl!("rotation"), wgsl!("rounding"), wgsl!("reduce/plain")]),
            "quantize" => (WORDS, vec![wgsl!("quantize"), wgsl!("reduce/plain")]),
            "halve" => (VECTORS, vec![wgsl!("halve"), wgsl!("activation"), wgsl!("reduce/plain")]),
            "sample" => (VECTORS, vec![wgsl!("sample"), wgsl!("sample_draw")]),
            "parts" => (WORDS, vec![wgsl!("parts"), wgsl!("activation")]),
            "expand" => (VECTORS, vec![wgsl!("expand"), wgsl!("matrix")]),
            "expand_cache" => {
                let own = [wgsl!("expand_cache"), wgsl!("eight"), wgsl!("matrix"), wgsl!("rounding")];
                (CACHED, [&own[..], &[self.cache("K_TYPE")?]].concat())
            }
            "fetch" => (WORDS, vec![wgsl!("fetch"), wgsl!("kv")]),
            "attention" => (WORDS, vec![wgsl!("attention"), wgsl!("kv")]),
            "attention_few" => (CACHED, [&[wgsl!("attention_few")], SHARED].concat()),
            "attention_few_coop" => {
                let mut own = [&[wgsl!("attention_few_coop"), wgsl!("halves")], SHARED].concat();
                if [constant("K_TYPE"), constant("V_TYPE")] == [Some(HALF); 2] {
                    own.extend([wgsl!("kv_half"), wgsl!("kv_half_own")]);
                } else {
                    own.extend([wgsl!("kv_states"), wgsl!("kv_states_own")]);
                }
                (CACHED, own)
            }
            "attention_coop" | "attention_prompt" => {
                // Halves are loaded as they are only from buffers of halves.
                let kinds = [constant("K_TYPE"), constant("V_TYPE")];
                let main =
                    if self.name == "attention_coop" { wgsl!("attention_coop") } else { wgsl!("attention_prompt") };
                let mut own = vec![main, wgsl!("attention_seen")];
                if kinds == [Some(HALF); 2] {
                    own.push(wgsl!("kv_half"));
                } else if kinds.contains(&Some(0)) {
                    own.push(wgsl!("kv_any"));
                } else {
                    own.extend([wgsl!("kv_states"), wgsl!("eight"), wgsl!("matrix"), wgsl!("rounding")]);
                }
                (WIDE, own)
            }
            "attention_join" => (VECTORS, vec![wgsl!("attention_join"), wgsl!("emit")]),
            "get_rows" => (WORDS, vec![wgsl!("get_rows"), wgsl!("matrix")]),
            "matvec" => (WORDS, vec![wgsl!("matvec"), wgsl!("linear"), wgsl!("matrix"), wgsl!("activation"), sums]),
            "matvec_fast" => (
                VECTORS,
                vec![
                    wgsl!("matvec_fast"),
                    self.products(),
                    wgsl!("emit"),
                    wgsl!("linear"),
                    wgsl!("matrix"),
                    wgsl!("fast"),
                    wgsl!("activation"),
                    shuffle,
                ],
            ),
            "matmul" => (WORDS, vec![wgsl!("matmul"), wgsl!("linear"), wgsl!("matrix"), wgsl!("activation")]),
            "matmul_coop" => {
                let expanded = constant("EXPANDED") == Some(1);
                let weights = if expanded { wgsl!("weights/arena") } else { wgsl!("weights/half") };
                (WIDE, vec![wgsl!("matmul_coop"), weights, wgsl!("matrix"), wgsl!("activation")])
            }
            "matmul_few_coop" => (WIDE, vec![wgsl!("matmul_few_coop"), take_source(self.format), wgsl!("matrix")]),
            other => return Err(Error::Internal(format!("no kernel {other}"))),
        };
        let format = match self.format {
            None => None,
            Some(dtype) => Some(format_source(dtype).ok_or_else(|| Error::Internal(format!("no shader for {dtype}")))?),
        };
        // Formats bring what their fast products need.
        let fast = (own.contains(&wgsl!("matrix")) && !own.contains(&wgsl!("fast"))).then_some(wgsl!("fast"));
        Ok(base.iter().copied().chain(own).chain(format).chain(fast).collect())
    }

    /// What `matvec_fast` sums up, by the number of its tokens.
    fn products(&self) -> &'static str {
        if self.constants.contains(&("TOKENS", 1)) { wgsl!("products") } else { wgsl!("products_few") }
    }

    /// The WGSL that reads a cache of the type that a constant tells.
    fn cache(&self, constant: &str) -> Result<&'static str> {
        match self.constants.iter().find(|(name, _)| *name == constant) {
            Some((_, 1)) => Ok(wgsl!("state/f32")),
            Some((_, 2)) => Ok(wgsl!("state/f16")),
            Some((_, 3)) => Ok(wgsl!("state/q8_0")),
            Some((_, 4)) => Ok(wgsl!("state/q4_0")),
            other => Err(Error::Internal(format!("no cache {other:?}"))),
        }
    }

    /// The WGSL that reads and writes keys and values.
    fn caches(&self) -> Result<String> {
        let named = |source: &str, what: &str, state: &str| {
            let name =
                |text: String, function: &str| text.replace(&format!("{function}8"), &format!("{function}_{what}8"));
            ["raw", "open", "store"].into_iter().fold(source.to_string(), name).replace("cache", state)
        };
        let keys = named(self.cache("K_TYPE")?, "key", "state");
        let values = named(self.cache("V_TYPE")?, "value", "state_v");
        Ok(keys + &values.replace("@binding(3)", "@binding(4)"))
    }

    /// The whole WGSL text.
    ///
    /// # Errors
    /// [`Error::Internal`]: there is no such kernel or format.
    pub fn source(&self) -> Result<String> {
        let mut text = String::new();
        if self.name.ends_with("_coop") || self.name == "attention_prompt" {
            text.push_str("enable f16;\nenable wgpu_cooperative_matrix;\n");
            // naga does not know that the result of a subgroup operation is the same for its threads, and this names its rule.
            text.push_str("diagnostic(off, derivative_uniformity);\n");
        }
        for (name, value) in &self.constants {
            text.push_str(&format!("const {name}: u32 = {value}u;\n"));
        }
        if let Some(n) = self.subgroup {
            text.push_str(&format!("const SUBGROUP: u32 = {n}u;\n"));
        }
        for file in self.files()? {
            text.push_str(file);
        }
        if self.name == "matvec_fast" {
            match self.second {
                None => text.push_str(wgsl!("products_alone")),
                Some(dtype) => {
                    let format = format_source(dtype).unwrap_or_default();
                    text.push_str(&renamed(&[self.products(), format].concat()));
                }
            }
        }
        if self.name.starts_with("attention") && text.contains("open_key8(") {
            text.push_str(&self.caches()?);
        }
        Ok(text)
    }
}

/// A text whose functions have names that end in `_b`.
fn renamed(source: &str) -> String {
    let names = source.lines().filter_map(|line| line.strip_prefix("fn ")?.split('(').next());
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    names.fold(source.to_string(), |text, name| {
        let call = format!("{name}(");
        let mut parts = text.split(&call[..]);
        let mut renamed = parts.next().unwrap_or_default().to_string();
        for part in parts {
            renamed.push_str(name);
            renamed.push_str(if renamed.strip_suffix(name).is_some_and(|s| s.ends_with(is_name)) {
                "("
            } else {
                "_b("
            });
            renamed.push_str(part);
        }
        renamed
    })
}

/// One kernel of every composition, for those who check them all: formats, types of states, with subgroups and without.
pub fn compositions() -> Vec<Kernel> {
    let formats: Vec<DType> =
        crate::quant::FORMATS.iter().map(|f| f.dtype).filter(|dtype| has_format(*dtype)).collect();
    let u = |name: &'static str, value: u32| (name, value);
    let mut all: Vec<Kernel> = Vec::new();
    all.extend((0..13).map(|op| Kernel::plain("elementwise", &[u("OP", op)])));
    all.extend((0..6).map(|op| Kernel::plain("rows", &[u("OP", op)])));
    for to in 0..5 {
        all.push(Kernel::plain("heads", &[u("TO", to), u("TO_KEYS", 0), u("TO_VALUES", 0)]));
        all.push(Kernel::plain("heads", &[u("TO", 0), u("TO_KEYS", to), u("TO_VALUES", to)]));
    }
    all.extend([128, 256, 1024].map(|threads| Kernel::plain("sample", &[u("WG", threads)])));
    for (k, v) in (1..5).flat_map(|k| (1..5).map(move |v| (k, v))) {
        for (d, heads, threads) in [(64, 1, 128), (128, 4, 256), (256, 2, 256)] {
            let constants =
                [u("D", d), u("HEADS", heads), u("WG", threads), u("OWN", heads % 2), u("K_TYPE", k), u("V_TYPE", v)];
            all.push(Kernel { subgroup: Some(32), ..Kernel::plain("attention_few", &constants) });
        }
    }
    for (k, v) in (2..5).flat_map(|k| (2..5).map(move |v| (k, v))) {
        for (d, heads) in [(64, 1), (128, 2), (128, 4)] {
            let own = u32::from(heads != 2 && k < 4 && v < 4);
            let constants = [u("D", d), u("HEADS", heads), u("WG", 128), u("OWN", own), u("K_TYPE", k), u("V_TYPE", v)];
            all.push(Kernel { subgroup: Some(32), ..Kernel::plain("attention_few_coop", &constants) });
        }
    }
    all.extend((1..5).flat_map(|kind| ["fetch", "expand_cache"].map(|name| Kernel::plain(name, &[u("K_TYPE", kind)]))));
    all.extend(["quantize", "halve", "parts"].map(|name| Kernel::plain(name, &[])));
    all.extend([40, 128, 512].map(|d| Kernel::plain("attention_join", &[u("D", d)])));
    for (k, v) in (0..5).flat_map(|k| (0..5).map(move |v| (k, v))) {
        for (d, heads, tokens, chunk) in [(64, 3, 1, 128), (128, 4, 4, 64), (256, 1, 8, 64)] {
            all.push(Kernel::plain(
                "attention",
                &[
                    u("D_K", d),
                    u("D_V", d),
                    u("HEADS", heads),
                    u("TOKENS", tokens),
                    u("CHUNK", chunk),
                    u("K_TYPE", k),
                    u("V_TYPE", v),
                ],
            ));
        }
    }
    for (k, v) in (0..5).flat_map(|k| (0..5).map(move |v| (k, v))) {
        let sizes = |d_k, d_v, heads| [u("D_K", d_k), u("D_V", d_v), u("HEADS", heads), u("K_TYPE", k), u("V_TYPE", v)];
        let coop = [(32, 64, 1), (80, 80, 2), (128, 128, 4)];
        all.extend(coop.map(|(d_k, d_v, heads)| Kernel::plain("attention_coop", &sizes(d_k, d_v, heads))));
        let prompt = [(64, 128, 2), (128, 128, 4)];
        all.extend(prompt.map(|(d_k, d_v, heads)| Kernel::plain("attention_prompt", &sizes(d_k, d_v, heads))));
    }
    for (tokens, expanded) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        let constants = [u("TOKEN_TEAMS", tokens), u("ROW_TEAMS", 4), u("EXPANDED", expanded)];
        all.push(Kernel::plain("matmul_coop", &constants));
    }
    for format in formats {
        let of =
            |name, constants: &[(&'static str, u32)]| Kernel { format: Some(format), ..Kernel::plain(name, constants) };
        all.extend(["get_rows", "matmul", "expand"].map(|name| of(name, &[])));
        all.extend((1..5).map(|tiles| of("matmul_few_coop", &[u("TILES", tiles), u("ROW_TEAMS", 4)])));
        for subgroup in [None, Some(8), Some(32)] {
            let sizes = [u("WG", 64), u("ROWS", 4)];
            all.push(Kernel { subgroup, ..of("matvec", &sizes) });
            if is_fast(format) {
                for (tokens, parts, emit, split) in
                    [(1, 1, 0, 1), (1, 2, 1, 1), (1, 1, 1, 2), (4, 1, 1, 2), (2, 2, 0, 1), (7, 2, 1, 1), (8, 1, 0, 1)]
                {
                    let constants = [
                        u("WG", 256),
                        u("LANES", 16),
                        u("ROWS", if tokens == 1 { 4 } else { 2 }),
                        u("SPLIT", split),
                        u("TOKENS", tokens),
                        u("PARTS", parts),
                        u("EMIT", emit),
                        u("MIXED", u32::from(split == 2)),
                    ];
                    let second = (split == 2).then_some(DType::Q6K);
                    all.push(Kernel { subgroup, second, ..of("matvec_fast", &constants) });
                }
            }
        }
    }
    all
}

/// Kernels whose indices depend on data.
const CHECKED: &[&str] = &["sample"];

/// The pipelines of a device. All share one layout: see `bindings.wgsl`.
pub struct Shaders {
    /// The layout of every bind group.
    pub bindings: wgpu::BindGroupLayout,
    layout: wgpu::PipelineLayout,
    /// Whether shaders check indices themselves: not for Vulkan, where wgpu asks for `robustBufferAccess`, which every device
    /// has. Checks of workgroup memory took a third of the time of `matmul_coop`.
    checks_indices: bool,
    made: Mutex<HashMap<Kernel, wgpu::ComputePipeline>>,
    spoiled: OnceLock<&'static str>,
    cache: Option<super::cache::DiskCache>,
}

impl Shaders {
    /// No pipelines yet.
    pub fn new(device: &wgpu::Device, info: &wgpu::AdapterInfo, can_cache: bool) -> Shaders {
        let storage = |binding: u32, read_only: bool| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let params = wgpu::BindGroupLayoutEntry {
            binding: 5,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Uniform,
                has_dynamic_offset: true,
                min_binding_size: None,
            },
            count: None,
        };
        let bindings = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("bindings"),
            entries: &[
                storage(0, false),
                storage(1, true),
                storage(2, true),
                storage(3, false),
                storage(4, false),
                params,
                storage(6, false),
                storage(7, true),
            ],
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some("layout"),
            bind_group_layouts: &[Some(&bindings)],
            immediate_size: 0,
        });
        let cache = can_cache.then(|| super::cache::DiskCache::open(device, info)).flatten();
        let checks_indices = info.backend != wgpu::Backend::Vulkan;
        Shaders { bindings, layout, checks_indices, made: Mutex::default(), spoiled: OnceLock::new(), cache }
    }

    /// Makes the text of a kernel invalid, as far as its pipelines are not made yet: how tests meet a shader that is refused.
    pub fn spoil(&self, name: &'static str) {
        let _ = self.spoiled.set(name);
    }

    /// The pipeline of a kernel, made at its first use.
    ///
    /// # Errors
    /// [`Error::Device`]: the driver refuses the shader.
    pub fn pipeline(&self, device: &wgpu::Device, kernel: &Kernel) -> Result<wgpu::ComputePipeline> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = made.get(kernel) {
            return Ok(pipeline.clone());
        }
        let mut source = kernel.source()?;
        if self.spoiled.get() == Some(&kernel.name) {
            source.push_str("fn spoiled() -> u32 { return 0.5; }\n");
        }
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(kernel.name), source: wgpu::ShaderSource::Wgsl(source.into()) };
        let checks = wgpu::ShaderRuntimeChecks {
            bounds_checks: self.checks_indices || CHECKED.contains(&kernel.name),
            force_loop_bounding: false,
            ..wgpu::ShaderRuntimeChecks::checked()
        };
        // SAFETY: every loop of the shaders counts up to a number of elements; none waits for another thread. Without checks of
        // indices the device still checks those of buffers (`checks_indices`), and those of registers and of a workgroup's
        // memory are made of thread numbers, constants and sizes that `steps` keeps below them, except in `CHECKED`.
        let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&self.layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: false,
            },
            cache: self.cache.as_ref().map(|c| c.pipelines()),
        });
        let errors = [super::device::block_on(internal.pop()), super::device::block_on(scope.pop())];
        if let Some(e) = errors.into_iter().flatten().next() {
            let reason = match super::device::describe(e) {
                Error::Device(reason) => reason,
                other => other.to_string(),
            };
            return Err(Error::Device(format!("kernel {} ({:?}): {reason}", kernel.name, kernel.format)));
        }
        made.insert(kernel.clone(), pipeline.clone());
        Ok(pipeline)
    }

    /// Writes what was compiled to disk, for the next start.
    pub fn save(&self) {
        let n = self.made.lock().unwrap_or_else(PoisonError::into_inner).len();
        if let Some(cache) = &self.cache {
            cache.save(n);
        }
    }
}
