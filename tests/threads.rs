//! One model, several threads and many lives: contexts on their own threads answer as if alone, and loading and freeing
//! leaves nothing behind.

mod common;

use common::engine::{Ours, Setup};
use common::scenario::{self, Run, Scenario};
use common::tiny::Tiny;
use infer::context::BackendKind;
use infer::model::Model;
use std::sync::{Arc, Mutex, MutexGuard};

/// Resident memory is the process's: the tests of this file take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|failed| failed.into_inner())
}

fn rows(model: &Arc<Model>, setup: &Setup, backend: BackendKind, scenario: Scenario) -> Vec<Vec<f32>> {
    let mut ours = Ours::try_new(model, setup, backend).unwrap();
    let mut run = Run::new(&mut ours, model.hparams().unwrap().n_vocab);
    scenario(&mut run);
    run.trace.rows
}

#[test]
fn contexts_on_threads_answer_as_alone() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let scenarios: [Scenario; 3] = [scenario::prompt_then_steps, scenario::edit_sequences, scenario::interleaved];
    let setup = Setup { n_ctx: 768, n_seq_max: 3, ..Setup::default() };
    for tiny in [Tiny::new("llama", "shared"), Tiny { window: 8, ..Tiny::new("gemma3", "shared") }] {
        let model = Ours::load(&tiny.write(folder.path()));
        for backend in [BackendKind::Reference, BackendKind::Auto] {
            let alone = scenarios.map(|s| rows(&model, &setup, backend, s));
            std::thread::scope(|scope| {
                for (scenario, alone) in scenarios.iter().zip(&alone) {
                    let (model, setup) = (&model, &setup);
                    scope.spawn(move || {
                        for _ in 0..3 {
                            assert!(rows(model, setup, backend, *scenario) == *alone, "{backend:?}");
                        }
                    });
                }
            });
        }
    }
}

#[test]
fn a_context_outlives_its_threads() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let model = Ours::load(&Tiny::new("llama", "moved").write(folder.path()));
    let want = rows(&model, &Setup::default(), BackendKind::Auto, scenario::prompt_then_steps);
    let mut ours = Ours::try_new(&model, &Setup::default(), BackendKind::Auto).unwrap();
    drop(model);
    // Decoded on one thread after the other; the context keeps its model alive.
    let have = std::thread::spawn(move || {
        let mut run = Run::new(&mut ours, 160);
        scenario::prompt_then_steps(&mut run);
        run.engine.clear();
        let rows = run.trace.rows;
        (ours, rows)
    });
    let (mut ours, have) = have.join().unwrap();
    assert_eq!(want, have);
    let mut run = Run::new(&mut ours, 160);
    scenario::prompt_then_steps(&mut run);
    assert_eq!(want, run.trace.rows);
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn a_thousand_lives_leave_nothing() {
    /// What the allocator may keep; a leak of a model a time would be a hundred times that.
    const MAX_GROWTH: usize = 8 << 20;
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny { n_layer: 2, ..Tiny::new("llama", "lives") };
    let path = tiny.write(folder.path());
    let live = || {
        let model = Ours::load(&path);
        let mut ours = Ours::try_new(&model, &Setup::default(), BackendKind::Auto).unwrap();
        drop(model);
        let mut run = Run::new(&mut ours, 160);
        let batch = run.toks(0, 0, 2, true);
        run.decode(&batch);
        assert_eq!(run.trace.rows.len(), 2);
    };
    (0..100).for_each(|_| live());
    let before = resident();
    (0..900).for_each(|_| live());
    let growth = resident().saturating_sub(before);
    println!("{growth} bytes more after 900 lives");
    assert!(growth < MAX_GROWTH, "{growth} bytes");
}
