//! Saved states: a restored context goes on as the one that was saved, in every kind of memory and with every cache type;
//! states pass between this library and llama.cpp's; what is damaged or of another context is refused and changes nothing.

mod common;

use common::c_program::{program, run};
use common::compare::{MAX_NMSE, distance};
use common::engine::{Engine, Ours, Setup, Tok};
use common::lcp::{self, Ptr, TheirModel, Theirs};
use common::tiny::{Random, Tiny};
use infer::Result;
use infer::context::BackendKind;
use infer::context::state::{Part, Scope};
use infer::model::Model;
use infer::quant::DType;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const N_VOCAB: usize = 160;

/// What rounding differs by when the same tokens lie in other cells.
const SAME: f64 = 1e-9;

/// The same with caches of blocks. An element between two levels is rounded to the other one where sums differ in their last
/// bit; one of q5_1 makes 1.3e-9 of what is 1e-13 otherwise. With q8_0 weights of 16 bits have a unit for 48 rows besides, and
/// other rows share it in other cells. The bound is that of the kernel's own tests.
const SAME_OF_BLOCKS: f64 = 1e-8;

const KV_TYPES: [DType; 9] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::IQ4NL,
];

struct TestModel {
    model: Arc<Model>,
    path: PathBuf,
    folder: tempfile::TempDir,
}

fn model(tiny: Tiny) -> TestModel {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write(folder.path());
    TestModel { model: Ours::load(&path), path, folder }
}

fn llama() -> TestModel {
    model(Tiny::new("llama", "state"))
}

/// Heads wide enough for quantized caches to be mixed.
fn wide() -> TestModel {
    model(Tiny { n_head: 2, n_head_kv: 1, head: 64, n_embd: 128, ..Tiny::new("llama", "wide") })
}

fn windowed() -> TestModel {
    model(Tiny { name: "window", window: 16, n_layer: 7, ..Tiny::new("gemma3", "") })
}

fn setup(kv_unified: bool, dtype: DType) -> Setup {
    Setup {
        n_ctx: 768,
        n_ubatch: 32,
        n_seq_max: 3,
        kv_unified,
        swa_full: false,
        type_k: dtype,
        type_v: dtype,
        flash: true,
        ..Setup::default()
    }
}

impl TestModel {
    fn context(&self, setup: &Setup) -> Ours {
        Ours::try_new(&self.model, setup, BackendKind::Auto).unwrap()
    }
}

fn toks(random: &mut Random, seq: i32, from: i32, n: i32) -> Vec<Tok> {
    (from..from + n).map(|pos| Tok { id: random.below(N_VOCAB) as i32, pos, seqs: vec![seq], output: false }).collect()
}

/// Three sequences of 50, 40 and 30 tokens, in turns of five.
fn fill(engine: &mut dyn Engine) {
    let mut random = Random::new(7);
    for from in (0..50).step_by(5) {
        let mut batch = Vec::new();
        for seq in 0..3 {
            if from < 50 - 10 * seq {
                batch.extend(toks(&mut random, seq, from, 5));
            }
        }
        assert_eq!(engine.decode(&batch), 0);
    }
}

/// The logits of a greedy continuation of a sequence.
fn go_on(engine: &mut dyn Engine, seq: i32) -> Vec<Vec<f32>> {
    steps(engine, seq, |row| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as i32)
}

/// The same of given tokens, for libraries that may not agree on the likeliest one.
fn follow(engine: &mut dyn Engine, seq: i32) -> Vec<Vec<f32>> {
    let mut random = Random::new(13);
    steps(engine, seq, |row| random.below(row.len()) as i32)
}

fn steps(engine: &mut dyn Engine, seq: i32, mut next: impl FnMut(&[f32]) -> i32) -> Vec<Vec<f32>> {
    let mut id = 11;
    (0..6)
        .map(|_| {
            let pos = engine.positions(seq)[1] + 1;
            assert_eq!(engine.decode(&[Tok { id, pos, seqs: vec![seq], output: true }]), 0);
            let row = engine.logits(0).unwrap();
            id = next(&row);
            row
        })
        .collect()
}

fn save(ours: &mut Ours, scope: Scope) -> Vec<u8> {
    let mut bytes = vec![0xAA; ours.0.saved_size(scope).unwrap()];
    assert_eq!(ours.0.save_state(scope, &mut bytes).unwrap(), bytes.len());
    bytes
}

fn load(ours: &mut Ours, scope: Scope, bytes: &[u8]) -> Result<usize> {
    ours.0.load_state(scope, &mut &bytes[..])
}

fn one(seq: i32) -> Scope {
    Scope::Seq(Some(seq), Part::All)
}

fn assert_same(what: &str, want: &[Vec<f32>], have: &[Vec<f32>], limit: f64) {
    let d = distance(want, have);
    assert!(d.worst <= limit, "{what}: {d:?}");
}

fn all_setups() -> Vec<(String, TestModel, Setup)> {
    let mut all = Vec::new();
    for kv_unified in [true, false] {
        for dtype in KV_TYPES {
            all.push((format!("llama {dtype} unified {kv_unified}"), llama(), setup(kv_unified, dtype)));
        }
        all.push((format!("wide unified {kv_unified}"), wide(), setup(kv_unified, DType::Q4_0)));
        for swa_full in [true, false] {
            let setup = Setup { swa_full, ..setup(kv_unified, DType::F16) };
            all.push((format!("window full {swa_full} unified {kv_unified}"), windowed(), setup));
        }
    }
    all
}

#[test]
fn a_whole_state_goes_on_in_another_context() {
    for (what, model, setup) in all_setups() {
        let mut saved = model.context(&setup);
        fill(&mut saved);
        let bytes = save(&mut saved, Scope::Whole);
        let mut restored = model.context(&setup);
        assert_eq!(restored.decode(&toks(&mut Random::new(1), 1, 0, 9)), 0);
        assert_eq!(load(&mut restored, Scope::Whole, &bytes).unwrap(), bytes.len(), "{what}");
        assert_eq!(save(&mut restored, Scope::Whole), bytes, "{what}: saved again");
        (0..3).for_each(|seq| assert_eq!(restored.positions(seq), saved.positions(seq), "{what}"));
        for seq in 0..3 {
            let want = go_on(&mut saved, seq);
            assert_same(&what, &want, &go_on(&mut restored, seq), SAME);
        }
    }
}

#[test]
fn a_sequence_goes_on_as_another_in_scattered_cells() {
    for (what, model, setup) in all_setups() {
        let mut saved = model.context(&setup);
        fill(&mut saved);
        let bytes = save(&mut saved, one(1));
        let mut restored = model.context(&setup);
        fill(&mut restored);
        // holes of five cells where sequence 2 was
        restored.seq_rm(2, -1, -1);
        assert_eq!(load(&mut restored, one(2), &bytes).unwrap(), bytes.len(), "{what}");
        assert_eq!(restored.positions(2)[1], 39, "{what}");
        for (from, to) in [(0, 0), (1, 2), (1, 1)] {
            let want = go_on(&mut saved, from);
            let limit = if setup.type_v.block_size() > 1 { SAME_OF_BLOCKS } else { SAME };
            assert_same(&what, &want, &go_on(&mut restored, to), limit);
            let last = saved.positions(from)[1];
            saved.seq_rm(from, last - 5, -1);
            restored.seq_rm(to, last - 5, -1);
        }
    }
}

#[test]
fn states_hold_moved_and_shared_tokens() {
    let model = llama();
    let setup = setup(true, DType::F32);
    let mut saved = model.context(&setup);
    fill(&mut saved);
    saved.seq_cp(0, 2, 20, 40);
    saved.seq_rm(0, 3, 9);
    saved.seq_add(0, 9, -1, -6);
    let bytes = save(&mut saved, Scope::Whole);
    let mut restored = model.context(&setup);
    load(&mut restored, Scope::Whole, &bytes).unwrap();
    for seq in 0..3 {
        let want = go_on(&mut saved, seq);
        assert_same("moved", &want, &go_on(&mut restored, seq), SAME);
    }
    // streams: copies that were asked for but not made yet
    let setup = Setup { kv_unified: false, ..setup };
    let mut saved = model.context(&setup);
    fill(&mut saved);
    saved.seq_cp(0, 1, -1, -1);
    let bytes = save(&mut saved, one(1));
    let mut restored = model.context(&setup);
    load(&mut restored, one(2), &bytes).unwrap();
    let want = go_on(&mut saved, 0);
    assert_same("copied", &want, &go_on(&mut restored, 2), SAME);
}

#[test]
fn a_partial_state_brings_back_the_window() {
    let partial = Scope::Seq(Some(0), Part::Partial);
    for kv_unified in [true, false] {
        let model = windowed();
        // A cache of 256 cells forgets what is far behind 600 tokens.
        let setup = Setup { n_ubatch: 64, n_ctx: 2048, n_seq_max: 2, ..setup(kv_unified, DType::F16) };
        let mut ours = model.context(&setup);
        let mut random = Random::new(3);
        for from in (0..50).step_by(50) {
            assert_eq!(ours.decode(&toks(&mut random, 0, from, 50)), 0);
        }
        let (bytes, whole) = (save(&mut ours, partial), save(&mut ours, one(0)));
        assert!(bytes.len() < whole.len());
        let want = go_on(&mut ours, 0);
        for from in (56..656).step_by(50) {
            assert_eq!(ours.decode(&toks(&mut random, 0, from, 50)), 0);
        }
        assert!(ours.positions(0)[0] > 50, "the window was forgotten");
        load(&mut ours, partial, &bytes).unwrap();
        ours.seq_rm(0, 50, -1);
        assert_eq!(ours.positions(0)[1], 49);
        assert_same("partial", &want, &go_on(&mut ours, 0), SAME);
        // A model without windows has one group, which is always saved.
        let mut plain = llama().context(&setup);
        fill_one(&mut plain);
        assert_eq!(save(&mut plain, partial), save(&mut plain, one(0)));
    }
}

fn fill_one(ours: &mut Ours) {
    assert_eq!(ours.decode(&toks(&mut Random::new(5), 0, 0, 20)), 0);
}

#[test]
fn files_keep_the_tokens() {
    let model = llama();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session");
    let mut saved = model.context(&setup(true, DType::F16));
    fill(&mut saved);
    let tokens = [5, 6, -1, i32::MAX];
    saved.0.save_session(&path, &tokens).unwrap();
    let mut restored = model.context(&setup(true, DType::F16));
    assert!(restored.0.load_session(&path, 3).is_err());
    assert_eq!(restored.positions(0), [-1, -1]);
    assert_eq!(restored.0.load_session(&path, 4).unwrap().tokens, tokens);
    assert_same("session", &go_on(&mut saved, 0), &go_on(&mut restored, 0), SAME);

    let n = saved.0.save_seq(&path, Some(1), &tokens[1..]).unwrap();
    assert_eq!(n as u64, path.metadata().unwrap().len());
    assert!(restored.0.load_session(&path, 4).is_err(), "it is no session");
    let session = restored.0.load_seq(&path, Some(2), 4).unwrap();
    assert_eq!((&session.tokens[..], session.n_bytes), (&tokens[1..], n));
    assert_same("sequence", &go_on(&mut saved, 1), &go_on(&mut restored, 2), SAME);
    assert_eq!(infer::context::session::count_seq_tokens(&path).unwrap(), 3);
    for missing in [Path::new("/nowhere/at/all"), folder.path()] {
        assert!(restored.0.load_session(missing, 4).is_err() && restored.0.save_session(missing, &[]).is_err());
    }
}

#[test]
fn damaged_files_are_refused() {
    let model = llama();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session");
    let mut ours = model.context(&setup(true, DType::Q4_0));
    assert_eq!(ours.decode(&toks(&mut Random::new(5), 1, 0, 2)), 0);
    ours.0.save_session(&path, &[1, 2, 3]).unwrap();
    let session = std::fs::read(&path).unwrap();
    ours.0.save_seq(&path, Some(1), &[1, 2, 3]).unwrap();
    let sequence = std::fs::read(&path).unwrap();
    assert_eq!(ours.decode(&toks(&mut Random::new(6), 1, 2, 3)), 0);
    let before = save(&mut ours, Scope::Whole);
    let mut try_both = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let refused = ours.0.load_session(&path, 10).is_err() && ours.0.load_seq(&path, Some(1), 10).is_err();
        assert!(refused && save(&mut ours, Scope::Whole) == before);
    };
    for bytes in [&session, &sequence] {
        (0..bytes.len()).for_each(|n| try_both(&bytes[..n]));
        for at in 0..12 {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x80;
            try_both(&wrong);
        }
    }
    try_both(&[&session[..], &[0]].concat());
}

#[test]
fn every_cut_is_refused_and_changes_nothing() {
    for (model, kv_unified) in [(llama(), true), (llama(), false), (windowed(), true), (windowed(), false)] {
        let setup = Setup { swa_full: false, ..setup(kv_unified, DType::Q4_0) };
        let mut ours = model.context(&setup);
        let mut random = Random::new(5);
        let batch = [toks(&mut random, 0, 0, 2), toks(&mut random, 1, 0, 1)].concat();
        assert_eq!(ours.decode(&batch), 0);
        for scope in [Scope::Whole, one(0), Scope::Seq(Some(0), Part::Partial), Scope::Seq(None, Part::All)] {
            let bytes = save(&mut ours, scope);
            let mut other = model.context(&setup);
            assert_eq!(other.decode(&toks(&mut random, 0, 0, 5)), 0);
            let before = save(&mut other, Scope::Whole);
            for n in 0..bytes.len() {
                assert!(load(&mut other, scope, &bytes[..n]).is_err(), "{scope:?} cut to {n}");
            }
            assert!(save(&mut other, Scope::Whole) == before, "{scope:?} changed something");
            let mut short = vec![0; bytes.len() - 1];
            assert!(ours.0.save_state(scope, &mut short).is_err());
            // What follows a state is not looked at.
            assert_eq!(load(&mut other, scope, &[&bytes[..], &[1, 2]].concat()).unwrap(), bytes.len());
        }
    }
}

#[test]
fn mutations_never_crash_and_change_all_or_nothing() {
    for (model, kv_unified) in [(llama(), true), (llama(), false), (windowed(), true)] {
        let setup = Setup { n_ctx: 256, ..setup(kv_unified, DType::Q4_0) };
        let mut ours = model.context(&setup);
        let mut random = Random::new(5);
        let batch = [toks(&mut random, 0, 0, 3), toks(&mut random, 1, 0, 2)].concat();
        assert_eq!(ours.decode(&batch), 0);
        let good = save(&mut ours, Scope::Whole);
        let (mut n_refused, mut n_taken) = (0, 0);
        for scope in [Scope::Whole, one(0), Scope::SeqFile(Some(1)), Scope::Seq(None, Part::Partial)] {
            let bytes = save(&mut ours, scope);
            for _ in 0..3000 {
                let mut wrong = bytes.clone();
                for _ in 0..1 + random.below(3) {
                    let at = random.below(wrong.len().min(400));
                    wrong[at] = [0, 1, 2, 0x7F, 0x80, 0xFF, wrong[at] ^ 1][random.below(7)];
                }
                let before = save(&mut ours, Scope::Whole);
                match load(&mut ours, scope, &wrong) {
                    Err(_) => {
                        n_refused += 1;
                        assert!(save(&mut ours, Scope::Whole) == before, "a refused state changed something");
                    }
                    Ok(_) => {
                        n_taken += 1;
                        // What was taken may be nonsense, but can be used.
                        let pos = ours.positions(0)[1].clamp(-1, i32::MAX - 10) + 1;
                        let _ = ours.decode(&[Tok { id: 1, pos, seqs: vec![0], output: true }]);
                        load(&mut ours, Scope::Whole, &good).unwrap();
                    }
                }
            }
        }
        println!("{n_refused} refused, {n_taken} taken");
        assert!(n_refused > 1000 && n_taken > 100);
    }
}

#[test]
fn states_of_other_contexts_are_refused() {
    let llama = llama();
    let mut saved = llama.context(&setup(true, DType::F16));
    fill(&mut saved);
    let (whole, seq) = (save(&mut saved, Scope::Whole), save(&mut saved, one(0)));
    let more_layers = model(Tiny { n_layer: 3, ..Tiny::new("llama", "layers") });
    let other = setup(true, DType::F16);
    let others = [
        (&more_layers, other.clone()),
        (&windowed(), other.clone()),
        (&llama, Setup { type_k: DType::BF16, ..other.clone() }),
        (&llama, Setup { type_v: DType::F32, ..other.clone() }),
        (&llama, Setup { kv_unified: false, ..other.clone() }),
    ];
    for (model, setup) in &others {
        let mut ours = model.context(setup);
        fill(&mut ours);
        let before = save(&mut ours, Scope::Whole);
        assert!(load(&mut ours, Scope::Whole, &whole).is_err() && load(&mut ours, one(1), &seq).is_err());
        assert!(save(&mut ours, Scope::Whole) == before);
    }
    // too small: 120 tokens do not fit where only 100 cells are free
    let mut full = llama.context(&Setup { n_ctx: 256, ..other.clone() });
    assert_eq!(full.decode(&toks(&mut Random::new(2), 0, 0, 220)), 0);
    let before = save(&mut full, Scope::Whole);
    assert!(matches!(load(&mut full, one(1), &seq), Err(infer::Error::NoSlot { .. })));
    assert!(save(&mut full, Scope::Whole) == before);
    assert!(load(&mut full, one(0), &seq).is_ok(), "its own cells are free for it");
    // sequences that do not exist
    for scope in [one(256), one(i32::MAX), one(-7)] {
        assert!(saved.0.saved_size(scope).is_err() && load(&mut saved, scope, &seq).is_err());
    }
    // an encoder remembers nothing
    let bert = model(Tiny::new("bert", "state"));
    let mut bert = bert.context(&Setup { embeddings: true, n_seq_max: 1, ..Setup::default() });
    let nothing = save(&mut bert, Scope::Whole);
    assert_eq!(nothing, b"\x04\0\0\0bert");
    assert_eq!(load(&mut bert, Scope::Whole, &nothing).unwrap(), 8);
    assert!(load(&mut bert, Scope::Whole, &whole).is_err());
}

/// NULL, wrong sizes and the old names, in C.
#[test]
fn the_c_interface_keeps_its_promises() {
    let model = llama();
    let file = model.folder.path().join("state");
    run(&program("state.c"), &[model.path.to_str().unwrap(), file.to_str().unwrap()]);
}

/// llama.cpp's functions.
struct Their {
    size: unsafe extern "C" fn(Ptr) -> usize,
    get: unsafe extern "C" fn(Ptr, *mut u8, usize) -> usize,
    set: unsafe extern "C" fn(Ptr, *const u8, usize) -> usize,
    seq_size: unsafe extern "C" fn(Ptr, i32, u32) -> usize,
    seq_get: unsafe extern "C" fn(Ptr, *mut u8, usize, i32, u32) -> usize,
    seq_set: unsafe extern "C" fn(Ptr, *const u8, usize, i32, u32) -> usize,
    save_file: unsafe extern "C" fn(Ptr, *const i8, *const i32, usize) -> bool,
    load_file: unsafe extern "C" fn(Ptr, *const i8, *mut i32, usize, *mut usize) -> bool,
}

fn their() -> Their {
    // SAFETY: the types are those of llama.h.
    unsafe {
        Their {
            size: lcp::function("llama_state_get_size"),
            get: lcp::function("llama_state_get_data"),
            set: lcp::function("llama_state_set_data"),
            seq_size: lcp::function("llama_state_seq_get_size_ext"),
            seq_get: lcp::function("llama_state_seq_get_data_ext"),
            seq_set: lcp::function("llama_state_seq_set_data_ext"),
            save_file: lcp::function("llama_state_save_file"),
            load_file: lcp::function("llama_state_load_file"),
        }
    }
}

#[test]
fn states_pass_between_this_library_and_llama_cpp() {
    let f = their();
    for (what, model, setup) in all_setups() {
        let their_model = TheirModel::load(&model.path);
        for flash in [true, false] {
            if !flash && setup.type_v.is_quantized() {
                continue; // llama.cpp refuses
            }
            let setup = Setup { flash, ..setup.clone() };
            let what = format!("{what} flash {flash}");
            let mut theirs = Theirs::new(&their_model, &setup).unwrap();
            let mut ours = model.context(&setup);
            fill(&mut theirs);
            fill(&mut ours);
            let (whole, seq) = (save(&mut ours, Scope::Whole), save(&mut ours, one(1)));
            // SAFETY: the contexts are alive, the buffers have the sizes that are passed.
            let (their_whole, their_seq) = unsafe {
                let mut whole = vec![0; (f.size)(theirs.context())];
                assert_eq!((f.get)(theirs.context(), whole.as_mut_ptr(), whole.len()), whole.len());
                let mut seq = vec![0; (f.seq_size)(theirs.context(), 1, 0)];
                assert_eq!((f.seq_get)(theirs.context(), seq.as_mut_ptr(), seq.len(), 1, 0), seq.len());
                (whole, seq)
            };
            if flash {
                assert_eq!((whole.len(), seq.len()), (their_whole.len(), their_seq.len()), "{what}");
            }

            let mut restored = model.context(&setup);
            assert_eq!(load(&mut restored, Scope::Whole, &their_whole).unwrap(), their_whole.len(), "{what}");
            restored.seq_rm(2, -1, -1);
            assert_eq!(load(&mut restored, one(2), &their_seq).unwrap(), their_seq.len(), "{what}");
            // Rounding apart, this is what llama.cpp's own context gives.
            let limit = match setup.type_k {
                DType::F32 | DType::F16 => MAX_NMSE,
                DType::BF16 => 10.0 * MAX_NMSE,
                _ => 2e-2,
            };
            assert_same(&what, &follow(&mut theirs, 0), &follow(&mut restored, 0), limit);
            assert_same(&what, &follow(&mut theirs, 1), &follow(&mut restored, 2), limit);

            if flash {
                let mut theirs = Theirs::new(&their_model, &setup).unwrap();
                // SAFETY: as above.
                unsafe {
                    assert_eq!((f.set)(theirs.context(), whole.as_ptr(), whole.len()), whole.len(), "{what}");
                    assert_eq!((f.seq_set)(theirs.context(), seq.as_ptr(), seq.len(), 2, 0), seq.len(), "{what}");
                }
                assert_same(&what, &follow(&mut ours, 0), &follow(&mut theirs, 0), limit);
                assert_same(&what, &follow(&mut ours, 1), &follow(&mut theirs, 2), limit);
            }
        }
    }
}

#[test]
fn session_files_pass_between_this_library_and_llama_cpp() {
    let f = their();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session");
    let name = CString::new(path.to_str().unwrap()).unwrap();
    let model = windowed();
    let their_model = TheirModel::load(&model.path);
    let setup = setup(true, DType::F16);
    let (mut theirs, mut ours) = (Theirs::new(&their_model, &setup).unwrap(), model.context(&setup));
    fill(&mut theirs);
    // SAFETY: the context is alive, the arrays have the lengths that are passed.
    assert!(unsafe { (f.save_file)(theirs.context(), name.as_ptr(), [4, 5].as_ptr(), 2) });
    assert_eq!(ours.0.load_session(&path, 2).unwrap().tokens, [4, 5]);
    assert_same("their file", &follow(&mut theirs, 0), &follow(&mut ours, 0), MAX_NMSE);

    ours.0.save_session(&path, &[7, 8, 9]).unwrap();
    let mut theirs = Theirs::new(&their_model, &setup).unwrap();
    let (mut tokens, mut n) = ([0; 3], 0);
    // SAFETY: as above.
    assert!(unsafe { (f.load_file)(theirs.context(), name.as_ptr(), tokens.as_mut_ptr(), 3, &mut n) });
    assert_eq!((tokens, n), ([7, 8, 9], 3));
    assert_same("our file", &follow(&mut ours, 0), &follow(&mut theirs, 0), MAX_NMSE);
}
