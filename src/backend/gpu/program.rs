//! A plan compiled for a device: which kernels run, over what, in which order. Made once per plan by `steps`; running it only
//! encodes its dispatches.

use super::device::Device;
use super::shader::Kernel;
use crate::error::Result;
use crate::graph::Input;
use std::collections::HashMap;

/// What a binding holds beside the arena.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Bound {
    /// Nothing that the kernel reads.
    #[default]
    Nothing,
    /// A buffer.
    Buffer(wgpu::Buffer),
    /// The masks of the run.
    Masks,
    /// The arena, where a kernel reads it as another type.
    Arena,
    /// Recipes of samplers and what came of them, see `sample`.
    Samples,
}

/// Bindings of `bindings.wgsl`: 1 to 4, and 7.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)]
pub struct Bindings {
    pub weights: Bound,
    pub constants: Bound,
    pub state: Bound,
    pub state_v: Bound,
    pub tables: Bound,
}

/// One kernel over its workgroups.
pub struct Dispatch {
    /// What runs.
    pub kernel: Kernel,
    pipeline: wgpu::ComputePipeline,
    bindings: Bindings,
    params: u32,
    grid: [u32; 3],
}

/// Where an input lies in the arena.
#[derive(Debug, Clone, Copy)]
pub struct InputAt {
    /// Which.
    pub input: Input,
    /// First word.
    pub at: u32,
    /// Number of words.
    pub n: usize,
}

/// See the module.
#[derive(Default)]
pub struct Program {
    /// In order.
    pub dispatches: Vec<Dispatch>,
    /// For each step the number of dispatches up to its end.
    pub step_ends: Vec<usize>,
    /// What is copied in before a run.
    pub inputs: Vec<InputAt>,
    /// First word and number of words of each output.
    pub outputs: Vec<(u32, usize)>,
    /// The first dispatch that chooses tokens, if one was added: those before are the plan.
    pub tail: Option<usize>,
    /// Whether a run takes milliseconds: it is submitted whole, and its like is expected to follow.
    pub short: bool,
    /// Words of the arena.
    pub arena: usize,
    params: Vec<u8>,
    params_buffer: Option<wgpu::Buffer>,
    bound: HashMap<Bindings, wgpu::BindGroup>,
    /// Of which buffers `bound` is made.
    bound_to: u64,
}

/// Uniform buffers are bound at multiples of this, the largest alignment that WebGPU allows a device to ask for.
const PARAMS: usize = 256;

/// The buffers of a context that every dispatch shares.
pub struct Shared<'a> {
    /// Results, inputs, scratch.
    pub arena: &'a wgpu::Buffer,
    /// Masks.
    pub masks: &'a wgpu::Buffer,
    /// Count workgroups that are ready; zero between dispatches.
    pub counters: &'a wgpu::Buffer,
    /// Recipes of samplers and results.
    pub samples: &'a wgpu::Buffer,
    /// Stand in for what a kernel does not use.
    pub nothing: &'a [wgpu::Buffer; 5],
    /// Changes whenever one of them is another.
    pub generation: u64,
}

impl Program {
    /// Adds a dispatch; one over nothing is left out.
    ///
    /// # Errors
    /// The driver refuses the kernel.
    pub fn add(
        &mut self,
        device: &Device,
        kernel: Kernel,
        bindings: Bindings,
        params: &[u8],
        grid: [usize; 3],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let pipeline = device.shaders.pipeline(&device.device, &kernel)?;
        let at = self.params.len();
        self.params.extend_from_slice(params);
        self.params.resize((at + params.len()).next_multiple_of(PARAMS), 0);
        let grid = grid.map(|n| n as u32);
        self.dispatches.push(Dispatch { kernel, pipeline, bindings, params: at as u32, grid });
        Ok(())
    }

    /// The number of dispatches, with those that choose tokens or without.
    pub fn len(&self, sampled: bool) -> usize {
        self.tail.filter(|_| !sampled).unwrap_or(self.dispatches.len())
    }

    /// Tells that the dispatches from `first` on choose tokens, after those of the plan; `bind` is due again.
    pub fn ends_with(&mut self, first: usize) {
        (self.tail, self.params_buffer, self.bound_to) = (Some(first), None, 0);
    }

    /// Makes what a run over these buffers needs; nothing when it is there already.
    ///
    /// # Errors
    /// The device is full.
    pub fn bind(&mut self, device: &Device, shared: &Shared) -> Result<()> {
        if self.params_buffer.is_none() {
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let buffer = device.buffer("params", (self.params.len() + PARAMS) as u64, usage)?;
            device.queue.write_buffer(&buffer, 0, &self.params);
            self.params_buffer = Some(buffer);
        }
        if self.bound_to == shared.generation {
            return Ok(());
        }
        self.bound.clear();
        let params = self.params_buffer.as_ref().expect("made above");
        for dispatch in &self.dispatches {
            if self.bound.contains_key(&dispatch.bindings) {
                continue;
            }
            let b = &dispatch.bindings;
            let others = [(1, &b.weights), (2, &b.constants), (3, &b.state), (4, &b.state_v), (7, &b.tables)];
            let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: shared.arena.as_entire_binding() }];
            for (i, (binding, bound)) in others.into_iter().enumerate() {
                let buffer = match bound {
                    Bound::Nothing => &shared.nothing[i],
                    Bound::Buffer(buffer) => buffer,
                    Bound::Masks => shared.masks,
                    Bound::Arena => shared.arena,
                    Bound::Samples => shared.samples,
                };
                entries.push(wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
            }
            entries.push(wgpu::BindGroupEntry {
                binding: 5,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: params,
                    offset: 0,
                    size: wgpu::BufferSize::new(PARAMS as u64),
                }),
            });
            entries.push(wgpu::BindGroupEntry { binding: 6, resource: shared.counters.as_entire_binding() });
            let group = device.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &device.shaders.bindings,
                entries: &entries,
            });
            self.bound.insert(b.clone(), group);
        }
        self.bound_to = shared.generation;
        device.check()
    }

    /// Encodes dispatches into a pass, after `bind`; `before` and `after` are told the number of each.
    pub fn encode(
        &self,
        pass: &mut wgpu::ComputePass,
        range: std::ops::Range<usize>,
        mut after: impl FnMut(&mut wgpu::ComputePass, usize),
    ) {
        for i in range {
            let dispatch = &self.dispatches[i];
            let Some(group) = self.bound.get(&dispatch.bindings) else { continue };
            pass.set_pipeline(&dispatch.pipeline);
            pass.set_bind_group(0, group, &[dispatch.params]);
            let [x, y, z] = dispatch.grid;
            pass.dispatch_workgroups(x, y, z);
            after(pass, i);
        }
    }
}
