//! A context over several devices: each layer's weights and state are on one of them, plans are cut where the device
//! changes, and what crosses a cut goes through host memory. The last device of the list is the processor.

use super::sample::Request;
use super::{Backend, Observer, Placement, Seen};
use crate::error::{Error, Result};
use crate::graph::cut::{Piece, Written, cut, step_reads};
use crate::graph::plan::Plan;
use crate::graph::{Inputs, Source, StateId};
use crate::quant::DType;
use crate::tensor::WeightRef;
use std::collections::HashMap;
use std::sync::Arc;

/// Which device has what. Layer `n_layer` stands for what follows the last one, and layers are told by the names of tensors.
#[derive(Debug, Clone)]
pub struct Layers {
    /// The device of each layer and, last, of the output.
    pub of_layer: Vec<usize>,
    /// The device of the table of embeddings.
    pub input: usize,
}

/// Cut plans kept; as many as contexts keep plans and those of their memory.
const MAX_PLANS: usize = 24;

/// See the module.
pub struct Split {
    devices: Vec<Box<dyn Backend>>,
    layers: Arc<Layers>,
    /// States are on their layers' devices; otherwise on the processor.
    offload_states: bool,
    /// The device and id there of each state.
    states: Vec<(usize, StateId)>,
    plans: Vec<(u64, Vec<Piece>)>,
}

/// Runs a piece on its device, and says whether to go on.
type RunPiece<'a> = dyn FnMut(&mut dyn Backend, &Piece, &Inputs, &mut [&mut [f32]]) -> Result<bool> + 'a;

impl Layers {
    /// The device of a tensor, if its name tells.
    fn of_tensor(&self, name: &str) -> Option<usize> {
        let last = self.of_layer.len() - 1;
        match name.strip_prefix("blk.") {
            Some(rest) => {
                let il: usize = rest.split('.').next()?.parse().ok()?;
                self.of_layer.get(il).copied()
            }
            None if name.starts_with("output") || name.starts_with("cls") => Some(self.of_layer[last]),
            None => None,
        }
    }

    /// The devices that need a tensor: one, or two for a table of embeddings that is the output matrix too.
    pub fn devices_of(&self, name: &str, tensors: &[WeightRef]) -> Vec<usize> {
        if let Some(device) = self.of_tensor(name) {
            return vec![device];
        }
        let last = self.of_layer[self.of_layer.len() - 1];
        let tied = name == "token_embd.weight" && !tensors.iter().any(|w| w.name == "output.weight");
        if tied && last != self.input { vec![self.input, last] } else { vec![self.input] }
    }
}

impl Split {
    /// A backend over devices, with the layers as `layers` numbers them.
    pub fn new(devices: Vec<Box<dyn Backend>>, layers: Arc<Layers>, offload_states: bool) -> Split {
        Split { devices, layers, offload_states, states: Vec::new(), plans: Vec::new() }
    }

    fn local(&self, id: StateId) -> Result<(usize, StateId)> {
        self.states.get(id.0 as usize).copied().ok_or_else(|| Error::Internal(format!("no state {}", id.0)))
    }

    /// The pieces of a plan, made when it is first seen; the last of `plans` afterwards.
    fn prepare(&mut self, plan: &Plan) -> Result<()> {
        if let Some(i) = self.plans.iter().position(|(id, _)| *id == plan.id) {
            let kept = self.plans.remove(i);
            self.plans.push(kept);
            return Ok(());
        }
        let devices = self.devices_of(plan);
        let states = &self.states;
        let local = |id: StateId| states.get(id.0 as usize).map_or(id, |(_, local)| *local);
        let pieces = match cut(plan, &devices, &local) {
            Some(pieces) => pieces,
            None => return Err(Error::Unsupported("indices that cross from device to device".into())),
        };
        if self.plans.len() == MAX_PLANS {
            self.plans.remove(0);
        }
        self.plans.push((plan.id, pieces));
        Ok(())
    }

    /// The device of each step: where its weights or states are, else where what it reads was computed.
    fn devices_of(&self, plan: &Plan) -> Vec<usize> {
        let graph = &plan.graph;
        let mut made: HashMap<u32, usize> = HashMap::new();
        let mut devices = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let (mut by_state, mut by_name, mut by_table, mut by_input) = (None, None, None, None);
            for id in step_reads(graph, step) {
                let owner = graph.resolve(id).0;
                match &graph.value(owner).source {
                    Source::State(state) => by_state = by_state.or(self.local(*state).ok().map(|(d, _)| d)),
                    Source::Weight(w) => match self.layers.of_tensor(&w.name) {
                        Some(device) => by_name = by_name.or(Some(device)),
                        // A table that is read by rows is the input's; as a matrix it is the output's.
                        None => {
                            let product = matches!(step, crate::graph::fuse::Step::Linear(_));
                            let last = self.layers.of_layer.len() - 1;
                            let device = if product { self.layers.of_layer[last] } else { self.layers.input };
                            by_table = by_table.or(Some(device));
                        }
                    },
                    Source::Node { .. } => by_input = by_input.or(made.get(&owner.0).copied()),
                    Source::Input(_) | Source::View { .. } => {}
                }
            }
            let device = by_state.or(by_name).or(by_table).or(by_input).unwrap_or(self.layers.input);
            for id in step.writes() {
                made.insert(id.0, device);
            }
            devices.push(device);
        }
        devices
    }

    fn run_pieces(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        run: &mut RunPiece,
    ) -> Result<()> {
        self.prepare(plan)?;
        let (_, pieces) = self.plans.last().expect("prepared");
        if pieces.is_empty() {
            return Ok(());
        }
        let mut crossed: HashMap<u32, Vec<f32>> = HashMap::new();
        let mut own;
        for piece in pieces {
            let given = if piece.reads.is_empty() {
                inputs
            } else {
                own = inputs.clone();
                own.cuts = piece.reads.iter().map(|id| crossed.get(&id.0).cloned().unwrap_or_default()).collect();
                &own
            };
            let mut values: Vec<Vec<f32>> = piece
                .writes
                .iter()
                .map(|w| match w {
                    Written::Output(_) => Vec::new(),
                    Written::Value(id) => vec![0.0; plan.graph.value(*id).n_elements()],
                })
                .collect();
            let mut targets: Vec<Option<&mut [f32]>> = Vec::with_capacity(outputs.len());
            targets.extend(outputs.iter_mut().map(|o| Some(&mut **o)));
            let mut slices: Vec<&mut [f32]> = Vec::with_capacity(values.len());
            for (w, value) in piece.writes.iter().zip(&mut values) {
                match w {
                    Written::Output(i) => {
                        let target = targets.get_mut(*i).and_then(Option::take);
                        slices.push(target.ok_or_else(|| Error::Internal(format!("no place for output {i}")))?);
                    }
                    Written::Value(_) => slices.push(value),
                }
            }
            if !run(&mut *self.devices[piece.device], piece, given, &mut slices)? {
                return Ok(());
            }
            drop(slices);
            for (i, w) in piece.writes.iter().enumerate() {
                match w {
                    Written::Value(id) => drop(crossed.insert(id.0, std::mem::take(&mut values[i]))),
                    // An output may be read on as well.
                    Written::Output(n) => {
                        let id = plan.graph.outputs[*n];
                        if pieces.iter().any(|p| p.reads.contains(&id)) {
                            crossed.insert(id.0, outputs[*n].to_vec());
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Which output of a piece is an output of the whole plan.
fn written(piece: &Piece, output: usize) -> Option<usize> {
    piece.writes.iter().position(|w| matches!(w, Written::Output(i) if *i == output))
}

impl Backend for Split {
    fn name(&self) -> &'static str {
        "gpu and cpu"
    }

    fn alloc_state(&mut self, dtype: DType, ne: [usize; 4]) -> Result<StateId> {
        let last = self.layers.of_layer.len() - 1;
        self.alloc_layer_state(last, dtype, ne)
    }

    fn alloc_layer_state(&mut self, layer: usize, dtype: DType, ne: [usize; 4]) -> Result<StateId> {
        let cpu = self.devices.len() - 1;
        let mut device = self.layers.of_layer.get(layer).copied().unwrap_or(self.layers.input);
        if !self.offload_states {
            device = cpu;
        }
        let id = match self.devices[device].alloc_state(dtype, ne) {
            // Keys and values of a layer stay together: their types are those of all layers.
            Err(Error::Unsupported(reason)) if device != cpu => {
                if self.states.is_empty() {
                    log::warn!("{reason}: caches and attention stay on the processor");
                }
                self.offload_states = false;
                device = cpu;
                self.devices[cpu].alloc_state(dtype, ne)?
            }
            other => other?,
        };
        self.states.push((device, id));
        Ok(StateId(self.states.len() as u32 - 1))
    }

    fn clear_state(&mut self, id: StateId) -> Result<()> {
        let (device, id) = self.local(id)?;
        self.devices[device].clear_state(id)
    }

    fn read_state(&self, id: StateId, offset: usize, dst: &mut [u8]) -> Result<()> {
        let (device, id) = self.local(id)?;
        self.devices[device].read_state(id, offset, dst)
    }

    fn write_state(&mut self, id: StateId, offset: usize, src: &[u8]) -> Result<()> {
        let (device, id) = self.local(id)?;
        self.devices[device].write_state(id, offset, src)
    }

    fn copy_state(&mut self, id: StateId, from: usize, to: usize, len: usize) -> Result<()> {
        let (device, id) = self.local(id)?;
        self.devices[device].copy_state(id, from, to, len)
    }

    fn state_row_size(&self, id: StateId) -> usize {
        self.local(id).map_or(0, |(device, id)| self.devices[device].state_row_size(id))
    }

    fn state_size(&self) -> usize {
        self.devices.iter().map(|d| d.state_size()).sum()
    }

    fn memory(&self) -> Vec<[usize; 2]> {
        self.devices.iter().flat_map(|d| d.memory()).collect()
    }

    fn set_n_threads(&mut self, n_threads: usize) {
        self.devices.iter_mut().for_each(|d| d.set_n_threads(n_threads));
    }

    fn set_placement(&mut self, placement: Option<&Placement>) {
        self.devices.iter_mut().for_each(|d| d.set_placement(placement));
    }

    fn run(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        self.run_pieces(plan, inputs, outputs, &mut |backend, piece, inputs, outputs| {
            backend.run(&piece.plan, inputs, outputs, stop).map(|()| true)
        })
    }

    fn can_sample(&self) -> bool {
        self.layers.of_layer.last().is_some_and(|&device| self.devices[device].can_sample())
    }

    fn run_sampled(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
        request: &mut Request,
    ) -> Result<bool> {
        let mut chosen = false;
        self.run_pieces(plan, inputs, outputs, &mut |backend, piece, inputs, outputs| {
            match written(piece, request.output) {
                None => backend.run(&piece.plan, inputs, outputs, stop)?,
                Some(output) => {
                    let mut own = Request {
                        output,
                        recipes: request.recipes,
                        keep: request.keep,
                        choices: &mut *request.choices,
                    };
                    chosen = backend.run_sampled(&piece.plan, inputs, outputs, stop, &mut own)?;
                }
            }
            Ok(true)
        })?;
        Ok(chosen)
    }

    fn read_output(&self, plan: u64, output: usize, to: &mut [f32]) -> Result<()> {
        let pieces = self.plans.iter().find(|(id, _)| *id == plan).map_or(&[][..], |(_, pieces)| pieces);
        let found = pieces.iter().find_map(|piece| Some((piece, written(piece, output)?)));
        let (piece, output) = found.ok_or_else(|| Error::Internal(format!("no piece with output {output}")))?;
        self.devices[piece.device].read_output(piece.plan.id, output, to)
    }

    fn observe(
        &mut self,
        plan: &Plan,
        inputs: &Inputs,
        outputs: &mut [&mut [f32]],
        stop: &mut dyn FnMut() -> bool,
        observer: &mut Observer,
    ) -> Result<()> {
        let (mut begun, mut wants_more) = (false, true);
        self.run_pieces(plan, inputs, outputs, &mut |backend, piece, inputs, outputs| {
            backend.observe(&piece.plan, inputs, outputs, stop, &mut |graph, seen| {
                // One run, however many pieces it has.
                if matches!(seen, Seen::Begins) {
                    return std::mem::replace(&mut begun, true) || observer(graph, seen);
                }
                let shown = matches!(seen, Seen::Shows(..));
                let answer = observer(graph, seen);
                wants_more &= !shown || answer;
                answer
            })?;
            Ok(wants_more)
        })
    }
}
