//! Fusion and planning: steps run in an order that serves them, temporaries never overlap while they live, the patterns
//! that backends have fast appear in every architecture, and the CPU backend computes of the fused steps what the reference
//! backend computes of the nodes.

mod common;

use common::compare::distance;
use common::engine::Ours;
use common::tiny::{self, Random, Tiny};
use infer::backend::reference::Reference;
use infer::backend::{Backend, cpu::Cpu};
use infer::graph::fuse::{Heads, Step, Store};
use infer::graph::plan::{ALIGN, Place, Plan, plan};
use infer::graph::{
    BinaryOp, Builder, GluOp, Graph, Input, Inputs, Norm, NormKind, Op, Source, StateId, UnaryOp, ValueId,
};
use infer::model::build::{Build, KvLayer, RopeSetup, UbatchShape};
use infer::quant::DType;
use infer::tensor::{Weight, WeightRef};
use std::collections::HashSet;
use std::sync::Arc;

/// Most that the fused f32 steps may differ from the nodes: rounding alone.
const MAX_NMSE: f64 = 1e-9;

fn inputs(graph: &Graph, id: ValueId) -> &[ValueId] {
    match &graph.value(id).source {
        Source::Node { inputs, .. } => inputs,
        Source::Weight(_) | Source::State(_) | Source::Input(_) | Source::View { .. } => &[],
    }
}

/// What a step reads, worked out from the step alone.
fn reads(graph: &Graph, step: &Step) -> Vec<ValueId> {
    let beyond_first = |id: Option<ValueId>| id.into_iter().flat_map(|id| inputs(graph, id)[1..].to_vec());
    let heads = |h: &Heads| {
        let mut all = vec![h.src];
        all.extend(beyond_first(h.norm));
        all.extend(beyond_first(h.rope));
        all
    };
    let store = |s: &Store| {
        let [state, _, rows] = inputs(graph, s.set_rows)[..] else { panic!("a store has three operands") };
        [heads(&s.heads), vec![state, rows]].concat()
    };
    match step {
        Step::Node(id) => inputs(graph, *id).to_vec(),
        Step::Linear(l) => {
            let mut all = vec![l.x];
            all.extend(beyond_first(l.norm));
            all.extend(l.mats.iter().flat_map(|m| [Some(m.w), m.bias, m.residual]).flatten());
            all
        }
        Step::Attention(a) => {
            let [_, k, v, ..] = inputs(graph, a.node)[..] else { panic!("attention has three operands") };
            let mut all = heads(&a.q);
            all.extend(a.k.as_ref().map_or(vec![k], store));
            all.extend(a.v.as_ref().map_or(vec![v], store));
            all.extend(inputs(graph, a.node).iter().skip(3));
            all
        }
        Step::NormAdd { norm, residual, .. } => [inputs(graph, *norm), &[*residual]].concat(),
    }
}

/// Checks what must be true of every plan.
fn check(label: &str, plan: &Plan) {
    let graph = &plan.graph;
    let mut written: HashSet<ValueId> = HashSet::new();
    let mut spans: Vec<(ValueId, usize, usize)> = Vec::new(); // value, first and last step
    for (at, step) in plan.steps.iter().enumerate() {
        for id in reads(graph, step) {
            let (owner, _) = graph.resolve(id);
            if matches!(graph.value(owner).source, Source::Node { .. }) {
                let name = &graph.value(owner).name;
                assert!(written.contains(&owner), "{label}: step {at} {step:?} reads {name} before it is written");
                assert_ne!(plan.places[owner.0 as usize], Place::None, "{label}: {name} is read and has no place");
            }
            if let Some(span) = spans.iter_mut().find(|s| s.0 == owner) {
                span.2 = at;
            }
        }
        for id in step.writes() {
            assert!(written.insert(id), "{label}: step {at} writes {} again", graph.value(id).name);
            match plan.places[id.0 as usize] {
                Place::Arena(_) => spans.push((id, at, at)),
                Place::Output(i) => assert_eq!(graph.outputs[i], id),
                Place::View { of, .. } => assert!(matches!(graph.value(of).source, Source::State(_)), "{label}"),
                other => panic!("{label}: {} is written to {other:?}", graph.value(id).name),
            }
        }
    }
    for id in &graph.outputs {
        assert!(written.contains(id), "{label}: output {} is never written", graph.value(*id).name);
    }
    for (i, v) in graph.values.iter().enumerate() {
        if matches!(v.source, Source::Node { op: Op::SetRows, .. }) {
            assert!(written.contains(&ValueId(i as u32)), "{label}: store {} is left out", v.name);
        }
    }
    let bytes = |id: ValueId| match plan.places[id.0 as usize] {
        Place::Arena(at) => at..at + graph.value(id).n_bytes(),
        other => panic!("{other:?}"),
    };
    for (i, a) in spans.iter().enumerate() {
        let x = bytes(a.0);
        assert!(x.start % ALIGN == 0 && x.end <= plan.arena_size, "{label}: {x:?} of {}", plan.arena_size);
        for b in &spans[..i] {
            let y = bytes(b.0);
            let together = a.1 <= b.2 && b.1 <= a.2;
            let overlap = x.start < y.end && y.start < x.end;
            let names = [&graph.value(a.0).name, &graph.value(b.0).name];
            assert!(!(together && overlap), "{label}: {names:?} live together in {x:?} and {y:?}");
        }
    }
}

/// The plan of an architecture for some ubatch, as a context makes it.
fn plan_of(tiny: &Tiny, shape: UbatchShape) -> Plan {
    let folder = tempfile::tempdir().unwrap();
    let model = Ours::load(&tiny.write(folder.path()));
    let hp = model.hparams().unwrap();
    let rope = RopeSetup {
        freq_base: 10000.0,
        freq_scale: 1.0,
        ext_factor: 0.0,
        attn_factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        n_ctx_orig: 512,
    };
    let layer = |il: usize| KvLayer {
        k: StateId(2 * il as u32),
        v: StateId(2 * il as u32 + 1),
        group: u8::from(hp.is_swa[il]),
        rows: 256,
        type_k: DType::F16,
        type_v: DType::F16,
    };
    let kv: Vec<Option<KvLayer>> = if model.def().unwrap().encoder_only {
        Vec::new()
    } else {
        (0..hp.n_layer).map(|il| Some(layer(il))).collect()
    };
    let mut b = Build::new(hp, model.def().unwrap().rope, rope, 256, shape, &kv);
    let out = model.architecture().unwrap().build(&mut b).unwrap();
    if shape.n_outputs > 0 {
        b.g.output(out.logits.unwrap_or(out.embd)).unwrap();
    }
    plan(b.g.finish())
}

fn shape(n_tokens: usize, n_outputs: usize) -> UbatchShape {
    UbatchShape { n_tokens, n_outputs, n_seqs: 0, embd: false }
}

#[test]
fn every_architectures_plan_holds() {
    for tiny in tiny::all() {
        for shape in [shape(1, 1), shape(7, 7), shape(7, 2), shape(7, 0), UbatchShape { embd: true, ..shape(3, 3) }] {
            check(&format!("{}-{} {shape:?}", tiny.arch, tiny.name), &plan_of(&tiny, shape));
        }
    }
}

/// A step in a word.
fn kind(graph: &Graph, step: &Step) -> String {
    match step {
        Step::Node(id) => match &graph.value(*id).source {
            Source::Node { op, .. } => format!("{op:?}").split([' ', '(', '{']).next().unwrap().to_string(),
            other => panic!("{other:?}"),
        },
        Step::Linear(l) => {
            let mut word = format!("{}{}", if l.norm.is_some() { "norm-" } else { "" }, l.mats.len());
            let of = |what: fn(&infer::graph::fuse::Mat) -> bool| l.mats.iter().all(what);
            for (name, there) in [
                ("bias", of(|m| m.bias.is_some())),
                ("act", of(|m| m.act.is_some())),
                ("add", of(|m| m.residual.is_some())),
                ("glu", l.glu.is_some()),
            ] {
                if there {
                    word += &format!("-{name}");
                }
            }
            word
        }
        Step::Attention(a) => {
            let heads = |h: &Heads| {
                let parts = [("n", h.norm), ("r", h.rope), ("s", h.scale), ("h", h.hadamard)];
                parts.iter().filter(|p| p.1.is_some()).map(|p| p.0).collect::<String>()
            };
            let store = |s: &Option<Store>| s.as_ref().map_or("-".to_string(), |s| heads(&s.heads));
            format!("attn(q:{} k:{} v:{})", heads(&a.q), store(&a.k), store(&a.v))
        }
        Step::NormAdd { .. } => "normadd".into(),
    }
}

fn kinds(tiny: &Tiny) -> Vec<String> {
    let plan = plan_of(tiny, shape(5, 5));
    plan.steps.iter().map(|s| kind(&plan.graph, s)).collect()
}

#[test]
fn layers_become_a_few_steps() {
    let layers = |tiny: &Tiny, before: &[&str], layer: &[&str], after: &[&str]| {
        let want: Vec<&str> = before
            .iter()
            .copied()
            .chain(std::iter::repeat_n(layer, tiny.n_layer).flatten().copied())
            .chain(after.iter().copied())
            .collect();
        assert_eq!(kinds(tiny), want, "{}-{}", tiny.arch, tiny.name);
    };
    let llama = Tiny::new("llama", "plain");
    layers(&llama, &["GetRows"], &["norm-3", "attn(q:r k:r v:)", "1-add", "norm-2-glu", "1-add"], &["norm-1"]);
    let biased = Tiny { attn_bias: true, mlp_bias: true, ..llama.clone() };
    layers(
        &biased,
        &["GetRows"],
        &["norm-3-bias", "attn(q:r k:r v:)", "1-bias-add", "norm-2-bias-glu", "1-bias-add"],
        &["norm-1"],
    );
    let fused = Tiny { fused_qkv: true, ..llama };
    layers(&fused, &["GetRows"], &["norm-3", "attn(q:r k:r v:)", "1-add", "norm-2-glu", "1-add"], &["norm-1"]);
    let qwen2 = Tiny::new("qwen2", "plain");
    layers(&qwen2, &["GetRows"], &["norm-3-bias", "attn(q:r k:r v:)", "1-add", "norm-2-glu", "1-add"], &["norm-1"]);
    let qwen3 = Tiny::new("qwen3", "plain");
    layers(&qwen3, &["GetRows"], &["norm-3", "attn(q:nr k:nr v:)", "1-add", "norm-2-glu", "1-add"], &["norm-1"]);
    let gemma3 = Tiny::new("gemma3", "plain");
    layers(
        &gemma3,
        &["GetRows", "Scale"],
        &["norm-3", "attn(q:nrs k:nr v:)", "1", "normadd", "norm-2-glu", "1", "normadd"],
        &["norm-1"],
    );
    let bert = Tiny::new("bert", "plain");
    layers(
        &bert,
        &["GetRows", "Binary", "GetRows", "Binary", "Norm"],
        &["3-bias", "attn(q: k:- v:-)", "1-bias-add", "Norm", "1-bias-act", "1-bias-add", "Norm"],
        &[],
    );
}

/// A random graph over rows of `d` elements for `t` tokens: every operation that rows can have, in any order.
struct RandomGraph {
    random: Random,
    g: Builder,
    rows: Vec<ValueId>,
    d: usize,
    t: usize,
}

impl RandomGraph {
    fn new(seed: u64) -> RandomGraph {
        let mut random = Random::new(seed);
        let (d, t) = ([8, 16, 32][random.below(3)], 1 + random.below(5));
        let mut g = Builder::new();
        let x = g.input(Input::Embd, DType::F32, [d, t, 1, 1]).unwrap();
        RandomGraph { random, g, rows: vec![x], d, t }
    }

    fn weight(&mut self, ne: &[usize]) -> ValueId {
        let n: usize = ne.iter().product();
        let scale = 1.0 / (ne[0] as f32).sqrt();
        let data: Vec<u8> = (0..n).flat_map(|_| (scale * self.random.normal()).to_le_bytes()).collect();
        let mut shape = [1; 4];
        shape[..ne.len()].copy_from_slice(ne);
        let name = format!("w{}", self.random.next());
        let w: WeightRef = Arc::new(Weight { name, dtype: DType::F32, ne: shape, data: data.into(), part_of: None });
        self.g.weight(&w)
    }

    /// One of the last few values, so that chains are long enough to fuse.
    fn pick(&mut self) -> ValueId {
        let from = self.rows.len().saturating_sub(4);
        self.rows[from + self.random.below(self.rows.len() - from)]
    }

    fn vector(&mut self) -> ValueId {
        let d = self.d;
        self.weight(&[d])
    }

    fn product(&mut self, x: ValueId) -> ValueId {
        let d = self.d;
        let w = self.weight(&[d, d]);
        self.g.matmul(w, x).unwrap()
    }

    fn step(&mut self) {
        let (x, other, d, t) = (self.pick(), self.pick(), self.d, self.t);
        let y = match self.random.below(14) {
            0 | 1 => self.product(x),
            2 => {
                let (y, b) = (self.product(x), self.vector());
                self.g.add(y, b).unwrap()
            }
            3 => self.g.add(x, other).unwrap(),
            4 => self.g.binary(BinaryOp::Sub, x, other).unwrap(),
            5 => {
                let (gate, up) = (self.product(x), self.product(x));
                let [a, b] = if self.random.below(2) == 0 { [gate, up] } else { [up, gate] };
                self.g.glu(GluOp::Silu, a, b).unwrap()
            }
            6 => {
                let w = self.vector();
                let kind = if self.random.below(2) == 0 { NormKind::Rms } else { NormKind::Layer };
                self.g.norm(Norm { kind, eps: 1e-5 }, x, Some(w), None).unwrap()
            }
            7 => {
                let (w, y) = (self.vector(), self.product(x));
                let y = self.g.norm(Norm { kind: NormKind::Rms, eps: 1e-5 }, y, Some(w), None).unwrap();
                self.g.add(y, other).unwrap()
            }
            8 => self.g.unary([UnaryOp::Silu, UnaryOp::Tanh, UnaryOp::Gelu][self.random.below(3)], x).unwrap(),
            9 => self.g.scale(x, 0.7).unwrap(),
            10 => self.g.soft_max(x, 1.0).unwrap(),
            11 => {
                // Halves change places: views of one value with different readers.
                let half = d / 2;
                let nb = [4, 4 * d, 4 * d * t, 4 * d * t];
                let a = self.g.view(x, [half, t, 1, 1], nb, 0).unwrap();
                let b = self.g.view(x, [half, t, 1, 1], nb, 4 * half).unwrap();
                self.g.concat(b, a, 0).unwrap()
            }
            12 => {
                let y = self.g.permute(x, [1, 0, 2, 3]).unwrap();
                let y = self.g.cont(y).unwrap();
                self.g.reshape(y, [d, t, 1, 1]).unwrap()
            }
            _ => {
                let sums = self.g.sum_rows(x).unwrap();
                let sums = self.g.repeat(sums, [d, t, 1, 1]).unwrap();
                self.g.mul(other, sums).unwrap()
            }
        };
        self.rows.push(y);
    }

    fn finish(mut self) -> (Graph, Vec<f32>) {
        for _ in 0..5 + self.random.below(25) {
            self.step();
        }
        let n_outputs = 1 + self.random.below(3);
        for i in 0..n_outputs {
            let x = self.rows[self.rows.len() - 1 - i];
            // A norm keeps magnitudes apart from overflow, and makes views and inputs results.
            let y = self.g.norm(Norm { kind: NormKind::Rms, eps: 1e-5 }, x, None, None).unwrap();
            self.g.output(y).unwrap();
        }
        let embd = (0..self.d * self.t).map(|_| self.random.normal()).collect();
        (self.g.finish(), embd)
    }
}

fn run(backend: &mut dyn Backend, plan: &Plan, embd: &[f32]) -> Vec<Vec<f32>> {
    let inputs = Inputs { embd: embd.to_vec(), ..Inputs::default() };
    let mut outputs: Vec<Vec<f32>> =
        plan.graph.outputs.iter().map(|&id| vec![f32::NAN; plan.graph.value(id).n_elements()]).collect();
    let mut slices: Vec<&mut [f32]> = outputs.iter_mut().map(|o| &mut o[..]).collect();
    backend.run(plan, &inputs, &mut slices, &mut || false).unwrap();
    outputs
}

#[test]
fn random_graphs_are_planned_and_computed_alike() {
    let mut cpu = Cpu::new(2).unwrap();
    let mut fused = 0;
    for seed in 0..400 {
        let (graph, embd) = RandomGraph::new(seed).finish();
        let n_nodes = graph.values.iter().filter(|v| matches!(v.source, Source::Node { .. })).count();
        let plan = plan(graph);
        check(&format!("seed {seed}"), &plan);
        fused += usize::from(plan.steps.len() < n_nodes);
        let want = run(&mut Reference::default(), &plan, &embd);
        let have = run(&mut cpu, &plan, &embd);
        let d = distance(&want, &have);
        assert!(d.nmse < MAX_NMSE, "seed {seed}: {d:?}");
    }
    assert!(fused > 300, "only {fused} graphs had anything to fuse");
}
