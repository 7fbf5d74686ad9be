//! Whole models, offloaded wholly and in part, beside the same models on the reference backend.

use super::*;

/// Mean KL divergence that f32 sums in another order, and a cache rounded alike, may cause.
const SAME: f64 = 1e-6;

/// The same where products are of halves: half the squared error of the logits, which are at most some units large.
const SAME_BY_HALVES: f64 = 5e-6;

/// The model with its last layers on the adapter of the tests; `None`: there is no adapter.
pub(super) fn offloaded(path: &std::path::Path, n_gpu_layers: i32) -> Option<Arc<Model>> {
    let adapter = adapter()?;
    let number = adapters().iter().position(|a| std::ptr::eq(a, adapter)).unwrap();
    let offload = OffloadParams { n_gpu_layers, adapters: Some(vec![number]), ..OffloadParams::default() };
    let params = ModelParams { offload, ..ModelParams::default() };
    Some(Model::load(Source::Path(path.into()), params).unwrap())
}

/// Tokens of the first batch of `rows`.
const N_PROMPT: usize = 18;

/// A prompt of some tokens in two sequences, then single tokens: all rows that are wanted.
fn rows(engine: &mut Ours, embeds: bool, n_vocab: usize) -> Vec<Vec<f32>> {
    let tok =
        |i: usize, seq: i32, pos: i32| Tok { id: ((i * 37 + 11) % n_vocab) as i32, pos, seqs: vec![seq], output: true };
    let mut found = Vec::new();
    let mut batch: Vec<Tok> = (0..13).map(|i| tok(i, 0, i as i32)).collect();
    batch.extend((0..5).map(|i| tok(i + 50, 1, i as i32)));
    let steps =
        if embeds { vec![batch] } else { vec![batch, vec![tok(70, 0, 13)], vec![tok(71, 0, 14), tok(72, 1, 5)]] };
    for batch in steps {
        assert_eq!(engine.decode(&batch), 0);
        for i in 0..batch.len() as i32 {
            found.push(if embeds { engine.embeddings(i) } else { engine.logits(i) }.expect("an output"));
        }
    }
    found
}

fn compare_model(tiny: &Tiny, setup: &Setup, layers: impl IntoIterator<Item = i32>, limit: f64) {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write(folder.path());
    let plain = Ours::load(&path);
    let mut exact = Ours::try_new(&plain, setup, BackendKind::Reference).unwrap();
    let want = rows(&mut exact, setup.embeddings, tiny.n_vocab);
    for n_gpu_layers in layers {
        let Some(model) = offloaded(&path, n_gpu_layers) else { return };
        assert_eq!(model.offload().is_some(), n_gpu_layers != 0);
        let mut ours = Ours::try_new(&model, setup, BackendKind::Auto).unwrap();
        let found = rows(&mut ours, setup.embeddings, tiny.n_vocab);
        let d = distance(&want, &found);
        let same = if or_halves(0.0, N_PROMPT) > 0.0 { SAME_BY_HALVES } else { 0.0 };
        let what = format!("{} {} {:?}, {n_gpu_layers} layers", tiny.arch, tiny.name, setup.type_k);
        assert!(
            if setup.embeddings { d.nmse < or_halves(1e-7, N_PROMPT) } else { d.kl < limit.max(same) },
            "{what}: nmse {:e}, KL {:e}",
            d.nmse,
            d.kl
        );
    }
}

#[test]
fn every_architecture_wholly_offloaded() {
    for tiny in tiny::all() {
        let setup = Setup {
            n_seq_max: 2,
            embeddings: tiny.embeds(),
            pooling: tiny.embeds().then_some(infer::model::Pooling::None),
            ..Setup::default()
        };
        compare_model(&tiny, &setup, [-1], SAME);
    }
}

#[test]
fn every_number_of_layers() {
    for tiny in [Tiny::new("llama", "plain"), Tiny::new("gemma3", "plain")] {
        let setup = Setup { n_seq_max: 2, ..Setup::default() };
        compare_model(&tiny, &setup, 0..=tiny.n_layer as i32 + 1, SAME);
    }
}

#[test]
fn types_of_caches() {
    let tiny = Tiny { head: 64, ..Tiny::new("qwen3", "plain") };
    for dtype in [DType::F16, DType::Q8_0, DType::Q4_0, DType::Q5_1] {
        let setup = Setup { n_seq_max: 2, type_k: dtype, type_v: dtype, ..Setup::default() };
        // A value may round to the next level of the cache.
        compare_model(&tiny, &setup, [1, -1], if dtype == DType::F16 { SAME } else { 1e-3 });
    }
}

#[test]
fn states_come_back_and_keys_shift() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new("llama", "plain").write(folder.path());
    let plain = Ours::load(&path);
    let Some(model) = offloaded(&path, 2) else { return };
    for dtype in [DType::F32, DType::F16] {
        let setup = Setup { n_seq_max: 2, type_k: dtype, type_v: dtype, ..Setup::default() };
        let mut engines = [
            Ours::try_new(&plain, &setup, BackendKind::Reference).unwrap(),
            Ours::try_new(&model, &setup, BackendKind::Auto).unwrap(),
        ];
        let found = engines.each_mut().map(|engine| {
            rows(engine, false, 160);
            assert!(engine.seq_rm(0, 2, 5));
            engine.seq_add(0, 5, -1, -3);
            let tok = Tok { id: 5, pos: 12, seqs: vec![0], output: true };
            assert_eq!(engine.decode(&[tok]), 0);
            vec![engine.logits(0).expect("an output")]
        });
        let d = distance(&found[0], &found[1]);
        assert!(d.kl < 1e-5, "{dtype}: KL {:e}", d.kl);
    }
}

#[test]
fn contexts_on_one_device_from_several_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new("llama", "plain").write(folder.path());
    let Some(model) = offloaded(&path, -1) else { return };
    let setup = Setup { n_seq_max: 2, ..Setup::default() };
    let one = rows(&mut Ours::try_new(&model, &setup, BackendKind::Auto).unwrap(), false, 160);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut engine = Ours::try_new(&model, &setup, BackendKind::Auto).unwrap();
                assert_eq!(rows(&mut engine, false, 160), one);
            });
        }
    });
}

/// Results by name.
type Named = Vec<(String, Vec<f32>)>;

/// Every result of a model by name, as an evaluation callback sees it.
fn seen(model: &Arc<Model>, setup: &Setup, backend: BackendKind) -> Named {
    let mut engine = Ours::try_new(model, setup, backend).unwrap();
    let found: Arc<std::sync::Mutex<Named>> = Arc::default();
    let to = found.clone();
    engine.0.set_eval_callback(Some(Box::new(move |graph, seen| {
        if let Seen::Shows(id, bytes) = seen {
            let v = graph.value(id);
            if v.dtype == DType::F32 && v.is_contiguous() && !v.name.starts_with("cache") {
                let all = bytes(id).expect("what is shown is there");
                let row: Vec<f32> =
                    all[..4 * v.n_elements()].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                to.lock().unwrap().push((v.name.clone(), row));
            }
        }
        true
    })));
    rows(&mut engine, setup.embeddings, 160);
    std::mem::take(&mut *found.lock().unwrap())
}

#[test]
fn observed_results_are_those_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    for tiny in [Tiny::new("llama", "plain"), Tiny::new("gemma3", "plain")] {
        let path = tiny.write(folder.path());
        let setup = Setup { n_seq_max: 2, ..Setup::default() };
        for n_gpu_layers in [-1, 2] {
            let Some(model) = offloaded(&path, n_gpu_layers) else { return };
            let want = seen(&model, &setup, BackendKind::Reference);
            let found = seen(&model, &setup, BackendKind::Auto);
            assert_eq!(want.len(), found.len());
            for ((name, w), (other, f)) in want.iter().zip(&found) {
                assert_eq!(name, other);
                let error = nmse(w, f);
                assert!(error < or_halves(EXACT, N_PROMPT), "{} {name}, {n_gpu_layers} layers: {error:e}", tiny.arch);
            }
        }
    }
}
