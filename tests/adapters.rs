//! LoRA adapters and control vectors: answers are llama.cpp's with the same files, and those of a model with the adapter
//! merged into its weights; files that fit no model are refused.

mod common;

use common::c_program::{program, run};
use common::compare::{MAX_KL, MAX_NMSE, distance};
use common::engine::{Engine, Ours, Setup, Tok};
use common::lcp::{self, Ptr, TheirModel, Theirs};
use common::tiny::{Random, Tiny};
use infer::context::BackendKind;
use infer::gguf::{Gguf, Source, TensorInfo};
use infer::model::Model;
use infer::model::adapter::Lora;
use infer::quant::{self, DType};
use infer::{Error, Result};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The same as [`MAX_NMSE`] and [`MAX_KL`] with quantized weights, for which llama.cpp rounds the activations to 8 bits.
const ROUNDED: (f64, f64) = (5e-3, 1e-2);

const BACKENDS: [(&str, BackendKind); 2] = [("reference", BackendKind::Reference), ("cpu", BackendKind::Auto)];

/// A file under construction.
struct Adapter {
    arch: &'static str,
    alpha: Option<f32>,
    tensors: Vec<(TensorInfo, Vec<f32>)>,
}

impl Adapter {
    /// Random pairs for the matrices of a model whose names `choose` accepts.
    fn random(tiny: &Tiny, seed: u64, rank: usize, dtype: DType, choose: fn(&str) -> bool) -> Adapter {
        let mut random = Random::new(seed);
        let model = Gguf::from_bytes(&tiny.to_bytes()).unwrap();
        let mut tensors = Vec::new();
        for t in model.tensors() {
            let matrix = t.ne[1] > 1 && t.name.ends_with(".weight") && !t.name.contains("_norm");
            if !matrix || !choose(&t.name) {
                continue;
            }
            let rank = rank as u64;
            let embeddings = t.name == "token_embd.weight";
            let a = if embeddings { [rank, t.ne[1], 1] } else { [t.ne[0], rank, t.ne[2]] };
            let b = if embeddings { [rank, t.ne[0], 1] } else { [rank, t.ne[1], t.ne[2]] };
            for (half, ne, fan_in) in [("lora_a", a, a[0]), ("lora_b", b, rank)] {
                let scale = 1.0 / (fan_in as f32).sqrt();
                let n = ne.iter().product::<u64>();
                let values = (0..n).map(|_| scale * random.normal()).collect();
                tensors.push((TensorInfo::new(format!("{}.{half}", t.name), dtype, &ne).unwrap(), values));
            }
        }
        assert!(!tensors.is_empty());
        Adapter { arch: tiny.arch, alpha: Some(8.0), tensors }
    }

    fn meta(&self) -> Gguf {
        let mut gguf = Gguf::new();
        gguf.set("general.type", "adapter").unwrap();
        gguf.set("general.architecture", self.arch).unwrap();
        gguf.set("adapter.type", "lora").unwrap();
        if let Some(alpha) = self.alpha {
            gguf.set("adapter.lora.alpha", alpha).unwrap();
        }
        gguf
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes_with(self.meta())
    }

    fn to_bytes_with(&self, mut gguf: Gguf) -> Vec<u8> {
        let mut data = Vec::new();
        for (info, values) in &self.tensors {
            gguf.add_tensor(info.clone()).unwrap();
            let row = info.ne[0] as usize;
            let mut bytes = vec![0; info.dtype.row_size(row) * values.len() / row];
            quant::quantize(info.dtype, values, &mut bytes).unwrap();
            data.push((&info.name, bytes));
        }
        gguf.to_bytes(|t| &data.iter().find(|(name, _)| **name == t.name).unwrap().1).unwrap()
    }

    /// The file of an f32 model with `scale * B · A` added to its weights.
    fn merged_into(&self, tiny: &Tiny, scale: f32) -> Vec<u8> {
        let mut bytes = tiny.to_bytes();
        let model = Gguf::from_bytes(&bytes).unwrap();
        for pair in self.tensors.chunks_exact(2) {
            let [(a, x), (b, y)] = pair else { unreachable!() };
            let name = a.name.strip_suffix(".lora_a").unwrap();
            let t = model.tensor(name).unwrap();
            let (n_in, n_out, rank) = (t.ne[0] as usize, t.ne[1] as usize, b.ne[0] as usize);
            let scale = self.alpha.map_or(scale, |alpha| scale * alpha / rank as f32);
            let at = (model.data_offset + t.offset) as usize;
            for e in 0..t.ne[2] as usize {
                for o in 0..n_out {
                    for i in 0..n_in {
                        let product = |r: usize| match name {
                            "token_embd.weight" => x[o * rank + r] * y[i * rank + r],
                            _ => x[(e * rank + r) * n_in + i] * y[(e * n_out + o) * rank + r],
                        };
                        let delta = scale * (0..rank).map(product).sum::<f32>();
                        let place = &mut bytes[at + 4 * ((e * n_out + o) * n_in + i)..][..4];
                        let w = f32::from_le_bytes((&*place).try_into().unwrap()) + delta;
                        place.copy_from_slice(&w.to_le_bytes());
                    }
                }
            }
        }
        bytes
    }
}

fn all(name: &str) -> bool {
    name != "token_embd.weight" && !name.contains("token_types") && !name.contains("position_embd")
}

fn attention(name: &str) -> bool {
    name.contains("attn_")
}

fn embeddings(name: &str) -> bool {
    name == "token_embd.weight" || name == "blk.0.attn_q.weight"
}

/// llama.cpp's functions.
struct Their {
    init: unsafe extern "C" fn(Ptr, *const i8) -> Ptr,
    set: unsafe extern "C" fn(Ptr, *const Ptr, usize, *const f32) -> i32,
    control: unsafe extern "C" fn(Ptr, *const f32, usize, i32, i32, i32) -> i32,
}

fn their() -> Their {
    // SAFETY: the types are those of llama.h.
    unsafe {
        Their {
            init: lcp::function("llama_adapter_lora_init"),
            set: lcp::function("llama_set_adapters_lora"),
            control: lcp::function("llama_set_adapter_cvec"),
        }
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

fn load(model: &Arc<Model>, bytes: Vec<u8>) -> Result<Arc<Lora>> {
    Lora::load(model, Source::Bytes(bytes)).map(Arc::new)
}

/// Logits or, for encoders, embeddings of a batch at the next positions.
fn rows(engine: &mut dyn Engine, tiny: &Tiny, from: i32, n: i32) -> Vec<Vec<f32>> {
    let id = |pos: i32| (7 * pos + 3) % tiny.n_vocab as i32;
    let batch: Vec<Tok> = (from..from + n).map(|pos| Tok { id: id(pos), pos, seqs: vec![0], output: true }).collect();
    assert_eq!(engine.decode(&batch), 0);
    let row = |i| if tiny.arch == "bert" { engine.embeddings(i) } else { engine.logits(i) };
    (0..n).map(row).map(Option::unwrap).collect()
}

fn models() -> Vec<Tiny> {
    let llama = Tiny::new("llama", "lora");
    vec![
        llama.clone(),
        Tiny { fused_qkv: true, attn_bias: true, ..llama.clone() },
        Tiny { n_expert: 4, n_expert_used: 2, ..llama.clone() },
        Tiny { dtype: DType::Q8_0, ..llama },
        Tiny::new("qwen2", "lora"),
        Tiny::new("qwen3", "lora"),
        Tiny { window: 8, ..Tiny::new("gemma3", "lora") },
        Tiny::new("bert", "lora"),
    ]
}

fn setup(tiny: &Tiny) -> Setup {
    Setup { embeddings: tiny.arch == "bert", ..Setup::default() }
}

/// What each stage of a conversation uses: adapters by number, with scales.
const STAGES: [&[(usize, f32)]; 7] = [
    &[],
    &[(0, 1.0)],
    &[(0, 1.0), (1, -0.5)],
    &[(0, 0.25), (1, 0.0)],
    &[(2, 1.0)],
    &[(1, 2.0), (2, 1.0), (0, 0.5)],
    &[],
];

#[test]
fn adapters_are_llama_cpps() {
    let f = their();
    for tiny in models() {
        let folder = tempfile::tempdir().unwrap();
        let path = tiny.write(folder.path());
        let their_model = TheirModel::load(&path);
        let setup = setup(&tiny);
        let bytes = [
            Adapter::random(&tiny, 1, 4, DType::F32, all),
            Adapter { alpha: None, ..Adapter::random(&tiny, 2, 7, DType::F16, attention) },
            Adapter::random(&tiny, 3, 32, DType::Q8_0, |name| all(name) && !name.contains("exps")),
        ]
        .map(|adapter| adapter.to_bytes());

        let mut theirs = Theirs::new(&their_model, &setup).unwrap();
        let their_adapters = bytes.each_ref().map(|bytes| {
            let path = c_path(&write(folder.path(), "adapter", bytes));
            // SAFETY: the model lives, the path is NUL-terminated.
            let adapter = unsafe { (f.init)(their_model.ptr(), path.as_ptr()) };
            assert!(!adapter.is_null());
            adapter
        });
        let want: Vec<Vec<f32>> = (0..STAGES.len())
            .flat_map(|i| {
                let (used, scales): (Vec<Ptr>, Vec<f32>) =
                    STAGES[i].iter().map(|&(a, scale)| (their_adapters[a], scale)).unzip();
                // SAFETY: the context and the adapters live, both arrays have that length.
                let status = unsafe { (f.set)(theirs.context(), used.as_ptr(), used.len(), scales.as_ptr()) };
                assert_eq!(status, 0);
                stage(&mut theirs, &tiny, i)
            })
            .collect();

        let model = Ours::load(&path);
        for (backend, kind) in BACKENDS {
            let mut ours = Ours::try_new(&model, &setup, kind).unwrap();
            let adapters = bytes.each_ref().map(|bytes| load(&model, bytes.clone()).unwrap());
            let have: Vec<Vec<f32>> = (0..STAGES.len())
                .flat_map(|i| {
                    let used: Vec<_> = STAGES[i].iter().map(|&(a, scale)| (adapters[a].clone(), scale)).collect();
                    ours.0.set_loras(&used).unwrap();
                    stage(&mut ours, &tiny, i)
                })
                .collect();
            let d = distance(&want, &have);
            println!("{} {backend}: {d:?}", tiny.arch);
            let (nmse, kl) = if tiny.dtype == DType::F32 { (MAX_NMSE, MAX_KL) } else { ROUNDED };
            assert!(d.nmse <= nmse && d.kl <= kl, "{} {:?} {backend}: {d:?}", tiny.arch, tiny.dtype);
            let plain = stage(&mut Ours::try_new(&model, &setup, kind).unwrap(), &tiny, 0);
            assert_eq!(have[..9], plain[..9], "without adapters nothing changes");
        }
    }
}

/// Nine tokens and one more, after those of the stages before; encoders remember none.
fn stage(engine: &mut dyn Engine, tiny: &Tiny, i: usize) -> Vec<Vec<f32>> {
    let from = if tiny.arch == "bert" { 0 } else { 10 * i as i32 };
    [rows(engine, tiny, from, 9), rows(engine, tiny, from + 9, 1)].concat()
}

#[test]
fn adapters_are_what_merging_gives() {
    for tiny in models().into_iter().filter(|tiny| tiny.dtype == DType::F32) {
        let tied = tiny.arch == "gemma3";
        let choices: &[fn(&str) -> bool] = if tied || tiny.arch == "bert" { &[all] } else { &[all, embeddings] };
        for choose in choices {
            let adapter = Adapter::random(&tiny, 5, 3, DType::F32, *choose);
            if adapter.tensors.iter().all(|(t, _)| t.name.starts_with("token")) {
                continue;
            }
            let model = Model::load(Source::Bytes(tiny.to_bytes()), Default::default()).unwrap();
            let merged = Model::load(Source::Bytes(adapter.merged_into(&tiny, 0.7)), Default::default()).unwrap();
            for (backend, kind) in BACKENDS {
                let mut with = Ours::try_new(&model, &setup(&tiny), kind).unwrap();
                with.0.set_loras(&[(load(&model, adapter.to_bytes()).unwrap(), 0.7)]).unwrap();
                let want = rows(&mut Ours::try_new(&merged, &setup(&tiny), kind).unwrap(), &tiny, 0, 12);
                let d = distance(&want, &rows(&mut with, &tiny, 0, 12));
                println!("{} {backend}: {d:?}", tiny.arch);
                // The CPU backend rounds activations to 8 bits, of which the adapter makes more.
                let limit = if kind == BackendKind::Reference { 1e-8 } else { MAX_NMSE };
                assert!(d.nmse < limit, "{} {backend}: {d:?}", tiny.arch);
                let plain = rows(&mut Ours::try_new(&model, &setup(&tiny), kind).unwrap(), &tiny, 0, 12);
                assert!(distance(&want, &plain).nmse > 1e-3, "the adapter does something");
            }
        }
    }
}

#[test]
fn adapted_embeddings_are_llama_cpps() {
    let f = their();
    let tiny = Tiny::new("llama", "embeddings");
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write(folder.path());
    let bytes = Adapter::random(&tiny, 6, 5, DType::F16, embeddings).to_bytes();
    let their_model = TheirModel::load(&path);
    let mut theirs = Theirs::new(&their_model, &Setup::default()).unwrap();
    let lora = c_path(&write(folder.path(), "adapter", &bytes));
    // SAFETY: the model and the context live.
    unsafe {
        let adapter = (f.init)(their_model.ptr(), lora.as_ptr());
        assert_eq!((f.set)(theirs.context(), &adapter, 1, &1.5), 0);
    }
    let want = rows(&mut theirs, &tiny, 0, 12);
    let model = Ours::load(&path);
    for (backend, kind) in BACKENDS {
        let mut ours = Ours::try_new(&model, &Setup::default(), kind).unwrap();
        ours.0.set_loras(&[(load(&model, bytes.clone()).unwrap(), 1.5)]).unwrap();
        let d = distance(&want, &rows(&mut ours, &tiny, 0, 12));
        assert!(d.nmse < MAX_NMSE, "{backend}: {d:?}");
    }
    // With a tied head the embeddings change and the head does not: the last hidden state is all that the adapter changes.
    let tied = Tiny::new("gemma3", "embeddings");
    let model = Model::load(Source::Bytes(tied.to_bytes()), Default::default()).unwrap();
    let adapter = load(&model, Adapter::random(&tied, 6, 5, DType::F16, embeddings).to_bytes()).unwrap();
    let mut ours = Ours::try_new(&model, &Setup::default(), BackendKind::Auto).unwrap();
    let plain = rows(&mut ours, &tied, 0, 6);
    ours.clear();
    ours.0.set_loras(&[(adapter, 1.0)]).unwrap();
    assert!(distance(&plain, &rows(&mut ours, &tied, 0, 6)).nmse > 1e-3);
}

#[test]
fn control_vectors_are_llama_cpps() {
    let f = their();
    for arch in ["llama", "gemma3", "qwen2", "qwen3"] {
        let tiny = Tiny { n_layer: 5, ..Tiny::new(arch, "control") };
        let folder = tempfile::tempdir().unwrap();
        let path = tiny.write(folder.path());
        let (their_model, model) = (TheirModel::load(&path), Ours::load(&path));
        let mut random = Random::new(8);
        let data: Vec<f32> = (0..4 * tiny.n_embd).map(|_| 0.5 * random.normal()).collect();
        let n_embd = tiny.n_embd as i32;
        for (backend, kind) in BACKENDS {
            let mut theirs = Theirs::new(&their_model, &Setup::default()).unwrap();
            let mut ours = Ours::try_new(&model, &Setup::default(), kind).unwrap();
            let plain = rows(&mut ours, &tiny, 0, 10);
            ours.clear();
            let ranges = [(1, 4), (2, 3), (0, 1), (4, 100), (-5, 2), (3, 2), (0, 0)];
            for (i, (start, end)) in ranges.into_iter().enumerate() {
                let last = if i == 1 { data.len() - tiny.n_embd / 2 } else { data.len() };
                // SAFETY: the context lives, the data has that length.
                let status = unsafe { (f.control)(theirs.context(), data.as_ptr(), last, n_embd, start, end) };
                assert_eq!(status, 0);
                ours.0.set_control_vector(Some(&data[..last]), tiny.n_embd, start..=end).unwrap();
                theirs.clear();
                ours.clear();
                let have = rows(&mut ours, &tiny, 0, 10);
                let d = distance(&rows(&mut theirs, &tiny, 0, 10), &have);
                assert!(d.nmse < MAX_NMSE, "{arch} {backend} {start}..={end}: {d:?}");
                let changes = end >= start && end > 0;
                assert_eq!(distance(&plain, &have).nmse > 1e-4, changes, "{arch} {start}..={end}");
            }
            assert!(ours.0.set_control_vector(Some(&data), tiny.n_embd - 1, 1..=4).is_err());
            assert!(ours.0.set_control_vector(Some(&data), 0, 1..=4).is_err());
            ours.0.set_control_vector(Some(&data), tiny.n_embd, 1..=4).unwrap();
            ours.0.set_control_vector(None, 0, 0..=0).unwrap();
            ours.clear();
            assert!(distance(&plain, &rows(&mut ours, &tiny, 0, 10)).nmse < 1e-9);
        }
    }
}

#[test]
fn metadata_is_told() {
    let tiny = Tiny::new("llama", "meta");
    let model = Model::load(Source::Bytes(tiny.to_bytes()), Default::default()).unwrap();
    let adapter = Adapter::random(&tiny, 1, 4, DType::F32, all);
    let mut meta = adapter.meta();
    meta.set("adapter.alora.invocation_tokens", &[3u32, 1, 4][..]).unwrap();
    meta.set("general.name", "tiny").unwrap();
    let lora = load(&model, adapter.to_bytes_with(meta)).unwrap();
    assert_eq!(lora.invocation_tokens(), [3, 1, 4]);
    assert_eq!(lora.meta_value("general.name"), Some(&b"tiny"[..]));
    assert_eq!(lora.meta_value("adapter.lora.alpha"), Some(&b"8.000000"[..]));
    assert_eq!(lora.meta_value("adapter.alora.invocation_tokens"), None);
    assert_eq!(lora.meta().len(), 5);
    let plain = load(&model, adapter.to_bytes()).unwrap();
    assert!(plain.invocation_tokens().is_empty());
    // adapters stay with their model
    let other = Model::load(Source::Bytes(tiny.to_bytes()), Default::default()).unwrap();
    let mut context = Ours::try_new(&other, &Setup::default(), BackendKind::Auto).unwrap().0;
    assert!(matches!(context.set_loras(&[(plain.clone(), 1.0)]), Err(Error::Argument(_))));
    let mut context = Ours::try_new(&model, &Setup::default(), BackendKind::Auto).unwrap().0;
    assert!(context.set_loras(&[(plain.clone(), f32::NAN)]).is_err());
    assert!(context.set_loras(&[(plain.clone(), 1.0), (plain, 2.0)]).is_ok());
}

#[test]
fn wrong_files_are_refused() {
    let tiny = Tiny::new("llama", "wrong");
    let model = Model::load(Source::Bytes(tiny.to_bytes()), Default::default()).unwrap();
    let adapter = || Adapter::random(&tiny, 1, 4, DType::F32, attention);
    assert!(load(&model, adapter().to_bytes()).is_ok());
    let refused = |what: &str, bytes: Vec<u8>| {
        let reason = load(&model, bytes).err().unwrap_or_else(|| panic!("{what} was taken"));
        println!("{what}: {reason}");
        assert!(!matches!(reason, Error::Internal(_)), "{what}: {reason}");
    };
    refused("a model", tiny.to_bytes());
    refused("nothing", Vec::new());
    for (key, value) in [("general.type", "model"), ("general.architecture", "qwen2"), ("adapter.type", "dora")] {
        let mut meta = adapter().meta();
        meta.set(key, value).unwrap();
        refused(key, adapter().to_bytes_with(meta));
        let mut meta = adapter().meta();
        meta.remove(key);
        refused(key, adapter().to_bytes_with(meta));
    }
    let mut meta = adapter().meta();
    meta.set("adapter.alora.invocation_tokens", &[1i32][..]).unwrap();
    refused("signed tokens", adapter().to_bytes_with(meta));
    let mut meta = adapter().meta();
    meta.set("adapter.lora.alpha", "16").unwrap();
    refused("alpha as text", adapter().to_bytes_with(meta));

    let change = |what: &str, change: fn(&mut Vec<(TensorInfo, Vec<f32>)>)| {
        let mut changed = adapter();
        change(&mut changed.tensors);
        refused(what, changed.to_bytes());
    };
    change("no second half", |tensors| drop(tensors.pop()));
    change("another suffix", |tensors| tensors[0].0.name.push('x'));
    change("an unknown weight", |tensors| {
        for (t, half) in tensors.iter_mut().zip(["lora_a", "lora_b"]) {
            t.0.name = format!("blk.7.attn_q.weight.{half}");
        }
    });
    change("halves exchanged", |tensors| {
        tensors[0].0.ne.swap(0, 1);
        tensors[1].0.ne.swap(0, 1);
    });
    change("another rank", |tensors| {
        let (t, values) = &mut tensors[0];
        *t = TensorInfo::new(t.name.clone(), DType::F32, &[t.ne[0], 3]).unwrap();
        values.truncate(3 * t.ne[0] as usize);
    });

    let good = adapter().to_bytes();
    let mut random = Random::new(3);
    for i in 0..400 {
        let n = if i < 200 { random.below(good.len()) } else { random.below(1000) };
        refused("a cut file", good[..n].to_vec());
    }
    // What is changed in the header ends in an error or in an adapter that can be used.
    let mut context = Ours::try_new(&model, &Setup::default(), BackendKind::Auto).unwrap();
    let mut n_taken = 0;
    for _ in 0..1500 {
        let mut bytes = good.clone();
        for _ in 0..1 + random.below(2) {
            let at = random.below(1500);
            bytes[at] = [0, 1, 0x7F, 0x80, 0xFF, bytes[at] ^ 1, bytes[at].wrapping_add(1)][random.below(7)];
        }
        if let Ok(lora) = load(&model, bytes) {
            n_taken += 1;
            context.0.set_loras(&[(lora, 1.0)]).unwrap();
            context.clear();
            context.decode(&[Tok { id: 1, pos: 0, seqs: vec![0], output: true }]);
        }
    }
    println!("{n_taken} taken");
}

/// Ownership and errors as llama.h promises, in C.
#[test]
fn the_c_interface_keeps_its_promises() {
    let tiny = Tiny::new("llama", "border");
    let folder = tempfile::tempdir().unwrap();
    let model = tiny.write(folder.path());
    let adapter = Adapter::random(&tiny, 1, 4, DType::F32, all);
    let mut meta = adapter.meta();
    meta.set("adapter.alora.invocation_tokens", &[3u32, 1, 4][..]).unwrap();
    let lora = write(folder.path(), "adapter", &adapter.to_bytes_with(meta));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    run(&program("adapters.c"), &[&text(&model), &text(&lora)]);
}
