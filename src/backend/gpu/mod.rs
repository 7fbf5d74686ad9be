//! The GPU backend, over wgpu: Vulkan, Metal or Direct3D 12. `device` lists adapters and opens them, `weights` uploads
//! tensors, `states` holds the KV cache, `steps` compiles a plan to a `Program`, and [`Gpu`] runs it: inputs are copied into
//! the arena, all dispatches go in one submit, outputs are copied out. See docs/gpu.md.
//!
//! **Architecture invariant:** nothing is compiled and no buffer is made for a plan that ran before.

mod cache;
pub mod device;
mod masks;
pub mod memory;
mod profile;
mod program;
mod sample;
pub mod shader;
pub mod states;
mod steps;
pub mod weights;

use super::sample::Request;
use super::{Backend, Observer, Seen};
use crate::error::{Error, Result};
use crate::graph::plan::{Place, Plan};
use crate::graph::{InputData, Inputs, Source, StateId, ValueId};
use crate::quant::DType;
use device::Device;
use masks::Masks;
use profile::Profile;
use program::{Program, Shared};
use sample::{Copies, Samples};
use states::State;
use std::sync::Arc;
use weights::Weights;

/// Programs kept: more than a context keeps plans, for the plans of its memory.
const MAX_PROGRAMS: usize = 24;

/// Dispatches between two questions whether to stop, in a run that is not short.
const PIECE: usize = 256;

/// The backend of a context that computes on a GPU.
pub struct Gpu {
    device: Arc<Device>,
    weights: Arc<Weights>,
    own: Weights,
    states: Vec<State>,
    programs: Vec<(u64, Program)>,
    buffers: Buffers,
    masks: Masks,
    host: Vec<u32>,
    profile: Option<Profile>,
    ahead: Option<Ahead>,
    samples: Samples,
    /// The plan whose outputs are in the arena.
    ran: u64,
}

/// The commands of a run that is expected, encoded while the device computed: nothing in them depends on its inputs.
struct Ahead {
    plan: u64,
    /// Of which buffers they are made.
    generation: u64,
    copies: Copies,
    commands: wgpu::CommandBuffer,
}

/// What the programs of a context share.
struct Buffers {
    arena: wgpu::Buffer,
    masks: wgpu::Buffer,
    staging: wgpu::Buffer,
    counters: wgpu::Buffer,
    samples: wgpu::Buffer,
    nothing: [wgpu::Buffer; 5],
    generation: u64,
}

/// Counters of workgroups that are ready, `attention_few.wgsl`: as many as a dispatch counts apart.
const COUNTERS: usize = 4096;

const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);
const STAGING: wgpu::BufferUsages = wgpu::BufferUsages::MAP_READ.union(wgpu::BufferUsages::COPY_DST);

impl Gpu {
    /// A backend over weights that are on a device.
    ///
    /// # Errors
    /// The device is full or lost.
    pub fn new(weights: Arc<Weights>) -> Result<Gpu> {
        let device = weights.device().clone();
        device.check()?;
        let small = |label: &str| device.buffer(label, 256, STORAGE);
        let buffers = Buffers {
            arena: small("arena")?,
            masks: small("masks")?,
            staging: device.buffer("results", 256, STAGING)?,
            counters: device.buffer("counters", 4 * COUNTERS as u64, STORAGE)?,
            samples: small("samples")?,
            nothing: [small("nothing")?, small("nothing")?, small("nothing")?, small("nothing")?, small("nothing")?],
            generation: 1,
        };
        let profile = Profile::from_environment(&device);
        Ok(Gpu {
            own: Weights::new(device.clone(), &[]),
            device,
            weights,
            states: Vec::new(),
            programs: Vec::new(),
            buffers,
            masks: Masks::default(),
            host: Vec::new(),
            profile,
            ahead: None,
            samples: Samples::default(),
            ran: u64::MAX,
        })
    }

    /// The program of a plan, made when the plan is first seen; the last of `programs` afterwards.
    fn prepare(&mut self, plan: &Plan) -> Result<()> {
        if let Some(i) = self.programs.iter().position(|(id, _)| *id == plan.id) {
            let kept = self.programs.remove(i);
            self.programs.push(kept);
            return Ok(());
        }
        let target =
            steps::Target { device: &self.device, weights: &self.weights, own: &self.own, states: &self.states };
        let program = steps::compile(&target, plan)?;
        self.device.check()?;
        self.device.shaders.save();
        if self.programs.len() == MAX_PROGRAMS {
            self.programs.remove(0);
        }
        self.programs.push((plan.id, program));
        Ok(())
    }

    /// Copies in what a run reads, and makes the buffers large enough for it.
    fn fill(&mut self, inputs: &Inputs, copies: Copies) -> Result<()> {
        let (_, program) = self.programs.last_mut().expect("prepared");
        let masks = self.masks.pack(&inputs.masks)?;
        let results: usize = program.outputs.iter().map(|(_, n)| n.next_multiple_of(4)).sum();
        let samples = copies.first + copies.words;
        let b = &mut self.buffers;
        let needs = [
            (&mut b.arena, 4 * program.arena, STORAGE, "arena"),
            (&mut b.masks, 4 * masks.len(), STORAGE, "masks"),
            (&mut b.staging, 4 * (results + copies.words), STAGING, "results"),
            (&mut b.samples, 4 * samples, STORAGE, "samples"),
        ];
        for (buffer, size, usage, label) in needs {
            if buffer.size() < size as u64 {
                // Masks grow with every token: not by a token each time.
                let ample = (size as u64).next_power_of_two().min(self.device.abilities.max_binding).max(size as u64);
                self.ahead = None;
                *buffer = self.device.buffer(label, if label == "masks" { ample } else { size as u64 }, usage)?;
                if label == "arena" {
                    log::info!(
                        "{}: {:.1} MiB of results and scratch",
                        self.device.name,
                        size as f64 / f64::from(1 << 20)
                    );
                }
                b.generation += 1;
            }
        }
        let shared = Shared {
            arena: &b.arena,
            masks: &b.masks,
            counters: &b.counters,
            samples: &b.samples,
            nothing: &b.nothing,
            generation: b.generation,
        };
        program.bind(&self.device, &shared)?;
        // Inputs follow each other in the arena: one copy.
        if let (Some(first), Some(last)) = (program.inputs.first(), program.inputs.last()) {
            let base = first.at as usize;
            self.host.clear();
            self.host.resize(last.at as usize + last.n - base, 0);
            for place in &program.inputs {
                let to = &mut self.host[place.at as usize - base..][..place.n];
                let from: &[u32] = match inputs.get(place.input) {
                    InputData::I32(x) => bytemuck::cast_slice(x),
                    InputData::F32(x) => bytemuck::cast_slice(x),
                };
                if from.len() != to.len() {
                    let name = place.input.name();
                    return Err(Error::Internal(format!("input {name} of {} elements for {}", from.len(), to.len())));
                }
                to.copy_from_slice(from);
            }
            self.device.queue.write_buffer(&b.arena, 4 * base as u64, bytemuck::cast_slice(&self.host));
        }
        self.device.queue.write_buffer(&b.masks, 0, bytemuck::cast_slice(masks));
        if copies.words > 0 {
            self.device.queue.write_buffer(&b.samples, 0, bytemuck::cast_slice(self.samples.recipes()));
        }
        self.ran = self.programs.last().map_or(u64::MAX, |(id, _)| *id);
        Ok(())
    }

    /// Encodes a range of dispatches, and after the last of all the copies of the outputs.
    fn encode(&mut self, range: std::ops::Range<usize>, copies: Copies) -> wgpu::CommandBuffer {
        let (_, program) = self.programs.last().expect("prepared");
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        let last = range.end == program.len(copies.words > 0);
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            match &mut self.profile {
                None => program.encode(&mut pass, range, |_, _| {}),
                Some(profile) => {
                    profile.begin(&mut pass);
                    program.encode(&mut pass, range, |pass, i| profile.after(pass, &program.dispatches[i].kernel));
                    profile.end(&mut pass);
                }
            }
        }
        if let Some(profile) = &mut self.profile {
            profile.resolve(&mut encoder);
        }
        if last {
            let mut to = 0;
            for (i, &(at, n)) in program.outputs.iter().enumerate() {
                if n > 0 && copies.kept != Some(i) {
                    let (from, size) = (4 * u64::from(at), 4 * n as u64);
                    encoder.copy_buffer_to_buffer(&self.buffers.arena, from, &self.buffers.staging, to, size);
                    to += 4 * n.next_multiple_of(4) as u64;
                }
            }
            if copies.words > 0 {
                let (from, size) = (4 * copies.first as u64, 4 * copies.words as u64);
                encoder.copy_buffer_to_buffer(&self.buffers.samples, from, &self.buffers.staging, to, size);
            }
        }
        encoder.finish()
    }

    fn submit(&mut self, range: std::ops::Range<usize>, copies: Copies) -> Result<()> {
        let commands = self.encode(range, copies);
        self.device.queue.submit([commands]);
        if let Some(profile) = &mut self.profile {
            profile.collect(&self.device)?;
        }
        self.device.check()
    }

    /// Submits a short run whole, and encodes the next of the same plan meanwhile.
    fn submit_short(&mut self, plan: u64, copies: Copies) -> Result<()> {
        let all = 0..self.programs.last().map_or(0, |(_, p)| p.len(copies.words > 0));
        let generation = self.buffers.generation;
        let commands = match self.ahead.take() {
            Some(a) if a.plan == plan && a.generation == generation && a.copies == copies => a.commands,
            _ => self.encode(all.clone(), copies),
        };
        self.device.queue.submit([commands]);
        self.device.check()?;
        self.ahead = Some(Ahead { plan, generation, copies, commands: self.encode(all, copies) });
        Ok(())
    }

    /// Waits, and copies the outputs out.
    fn collect(&mut self, outputs: &mut [&mut [f32]], copies: Copies) -> Result<()> {
        let (_, program) = self.programs.last().expect("prepared");
        let mut at = 0;
        let mut parts: Vec<(u64, &mut [u8])> = Vec::with_capacity(outputs.len() + 1);
        for (i, (&(_, n), out)) in program.outputs.iter().zip(outputs).enumerate() {
            if out.len() != n {
                return Err(Error::Internal(format!("output of {} elements for {n}", out.len())));
            }
            if n > 0 && copies.kept != Some(i) {
                parts.push((at, bytemuck::cast_slice_mut(out)));
                at += 4 * n.next_multiple_of(4) as u64;
            }
        }
        if copies.words > 0 {
            parts.push((at, bytemuck::cast_slice_mut(self.samples.results(copies.words))));
        }
        self.device.read_mapped(&self.buffers.staging, &mut parts)
    }

    /// Runs the last of `programs`.
    fn run_prepared(
        &mut self,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
        copies: Copies,
    ) -> Result<()> {
        self.fill(inputs, copies)?;
        let (plan, program) = self.programs.last().expect("prepared");
        let (plan, n, short) = (*plan, program.len(copies.words > 0), program.short);
        if short && self.profile.is_none() {
            if stop() {
                return Err(Error::Aborted);
            }
            self.submit_short(plan, copies)?;
            return self.collect(outputs, copies);
        }
        for first in (0..n.max(1)).step_by(PIECE) {
            if stop() {
                return Err(Error::Aborted);
            }
            self.submit(first..(first + PIECE).min(n), copies)?;
        }
        self.collect(outputs, copies)
    }

    fn state(&self, id: StateId) -> Result<&State> {
        self.states.get(id.0 as usize).ok_or_else(|| Error::Internal(format!("no state {}", id.0)))
    }
}

impl Backend for Gpu {
    fn name(&self) -> &'static str {
        "gpu"
    }

    fn alloc_state(&mut self, dtype: DType, ne: [usize; 4]) -> Result<StateId> {
        let state = State::new(&self.device, dtype, ne[0], ne[1] * ne[2] * ne[3])?;
        self.states.push(state);
        Ok(StateId(self.states.len() as u32 - 1))
    }

    fn clear_state(&mut self, id: StateId) -> Result<()> {
        self.state(id)?.clear(&self.device);
        self.device.check()
    }

    fn read_state(&self, id: StateId, offset: usize, dst: &mut [u8]) -> Result<()> {
        self.state(id)?.read(&self.device, offset, dst)
    }

    fn write_state(&mut self, id: StateId, offset: usize, src: &[u8]) -> Result<()> {
        self.state(id)?.write(&self.device, offset, src)
    }

    fn copy_state(&mut self, id: StateId, from: usize, to: usize, len: usize) -> Result<()> {
        self.state(id)?.copy(&self.device, from, to, len)
    }

    fn state_row_size(&self, id: StateId) -> usize {
        self.states.get(id.0 as usize).map_or(0, State::row_size)
    }

    fn state_size(&self) -> usize {
        self.states.iter().map(|s| s.row_size() * s.rows).sum()
    }

    fn memory(&self) -> Vec<[usize; 2]> {
        let b = &self.buffers;
        let shared = [&b.arena, &b.masks, &b.staging, &b.counters, &b.samples];
        vec![[self.state_size(), shared.iter().map(|buffer| buffer.size() as usize).sum()]]
    }

    fn set_n_threads(&mut self, _n_threads: usize) {}

    fn run(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        self.prepare(plan)?;
        self.run_prepared(inputs, outputs, stop, Copies::default())
    }

    fn can_sample(&self) -> bool {
        sample::threads(&self.device).is_some()
    }

    fn run_sampled(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
        request: &mut Request,
    ) -> Result<bool> {
        self.prepare(plan)?;
        let (_, program) = self.programs.last_mut().expect("prepared");
        let shape = plan.graph.value(plan.graph.outputs[request.output]).ne;
        if !sample::add(&self.device, program, request.output, shape)? {
            return self.run_prepared(inputs, outputs, stop, Copies::default()).map(|()| false);
        }
        let copies = self.samples.plan(request, shape[0]);
        self.run_prepared(inputs, outputs, stop, copies)?;
        self.samples.choices(request);
        Ok(true)
    }

    fn read_output(&self, plan: u64, output: usize, to: &mut [f32]) -> Result<()> {
        let program = self.programs.iter().find(|(id, _)| *id == plan && self.ran == plan);
        let found = program.and_then(|(_, program)| program.outputs.get(output)).filter(|(_, n)| *n == to.len());
        let &(at, n) = found.ok_or_else(|| Error::Internal(format!("output {output} is no longer on the device")))?;
        let bytes = self.device.download(&self.buffers.arena, 4 * u64::from(at), 4 * n as u64)?;
        to.copy_from_slice(bytemuck::cast_slice(&bytes));
        Ok(())
    }

    fn observe(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
        observer: &mut Observer,
    ) -> Result<()> {
        self.prepare(plan)?;
        self.fill(inputs, Copies::default())?;
        observer(&plan.graph, Seen::Begins);
        let ends = self.programs.last().map_or(Vec::new(), |(_, p)| p.step_ends.clone());
        let (mut step, mut done) = (0, 0);
        for id in plan.graph.computed(&plan.live) {
            let wanted = observer(&plan.graph, Seen::Asks(id));
            if matches!(plan.graph.value(id).source, Source::Node { .. }) {
                if stop() {
                    return Err(Error::Aborted);
                }
                self.submit(done..ends[step], Copies::default())?;
                done = ends[step];
                step += 1;
            }
            if wanted {
                let shown = self.snapshot(plan, id, inputs)?;
                let bytes = |id: ValueId| shown.iter().find(|(of, _)| *of == id).map(|(_, b)| &b[..]);
                if !observer(&plan.graph, Seen::Shows(id, &bytes)) {
                    return Ok(());
                }
            }
        }
        // An empty range after the last dispatch copies the outputs.
        self.submit(done..done, Copies::default())?;
        self.collect(outputs, Copies::default())
    }
}

impl Gpu {
    /// The bytes of a value and of what it was made from.
    fn snapshot(&self, plan: &Plan, id: ValueId, inputs: &Inputs) -> Result<Vec<(ValueId, Vec<u8>)>> {
        let mut wanted = vec![id];
        match &plan.graph.value(id).source {
            Source::Node { inputs, .. } => wanted.extend(inputs),
            Source::View { of, .. } => wanted.push(*of),
            Source::Weight(_) | Source::State(_) | Source::Input(_) => {}
        }
        wanted.into_iter().map(|id| Ok((id, self.bytes_of(plan, id, 0, inputs)?))).collect()
    }

    /// The bytes of a value from its byte `offset` to the end of what holds it.
    fn bytes_of(&self, plan: &Plan, id: ValueId, offset: usize, inputs: &Inputs) -> Result<Vec<u8>> {
        let value = plan.graph.value(id);
        let (_, program) = self.programs.last().expect("prepared");
        let whole = |bytes: &[u8]| bytes.get(offset..).unwrap_or(&[]).to_vec();
        let size = value.n_bytes().saturating_sub(offset) as u64;
        Ok(match plan.places[id.0 as usize] {
            Place::Arena(at) => self.device.download(&self.buffers.arena, (at + offset) as u64, size)?,
            Place::Output(i) => {
                let at = 4 * u64::from(program.outputs[i].0);
                self.device.download(&self.buffers.arena, at + offset as u64, size)?
            }
            Place::Weight => match &value.source {
                Source::Weight(w) => whole(w.bytes()),
                _ => Vec::new(),
            },
            Place::State(state) => {
                let s = self.state(state)?;
                let mut bytes = vec![0; s.row_size() * s.rows];
                s.read(&self.device, 0, &mut bytes)?;
                whole(&bytes)
            }
            Place::Input(input) => match inputs.get(input) {
                InputData::I32(x) => whole(bytemuck::cast_slice(x)),
                InputData::F32(x) => whole(bytemuck::cast_slice(x)),
            },
            Place::View { of, offset: more } => self.bytes_of(plan, of, offset + more, inputs)?,
            Place::None => Vec::new(),
        })
    }
}
