//! Tokens chosen on the device beside the same samplers on the processor, over the same logits.

use super::*;
use infer::backend::sample::{Choice, Recipe, Request, Step};
use infer::context::{Batch, Context, ContextParams};
use infer::memory::SeqIds;
use infer::sampling::{
    AttachedChain, Chain, LogitBias, PenaltyParams, Row, RowSampler, Sampler, dist, greedy, logit_bias, min_p,
    penalties, temp, temp_ext, top_k, top_p,
};
use std::sync::Mutex;

/// What probabilities and logits may differ by.
const CLOSE: f32 = 1e-5;

/// A chain that a context has and the test tells of accepted tokens; or one that no device knows.
#[derive(Clone)]
struct Shared {
    chain: Arc<Mutex<AttachedChain>>,
    on_device: bool,
}

impl Shared {
    fn new(samplers: Vec<Box<dyn Sampler>>, n_outputs_max: u32, on_device: bool) -> Shared {
        let chain = AttachedChain::new(Chain::new(samplers), n_outputs_max as usize);
        Shared { chain: Arc::new(Mutex::new(chain)), on_device }
    }

    fn accept(&self, token: i32) {
        self.chain.lock().unwrap().accept(token);
    }
}

impl RowSampler for Shared {
    fn begin(&mut self) {
        self.chain.lock().unwrap().begin();
    }

    fn sample(&mut self, row: &mut Row) {
        self.chain.lock().unwrap().sample(row);
    }

    fn recipe(&self, n_before: usize) -> Option<Recipe> {
        self.chain.lock().unwrap().recipe(n_before).filter(|_| self.on_device)
    }

    fn pass_row(&mut self) {
        self.chain.lock().unwrap().pass_row();
    }
}

fn close(a: f32, b: f32) -> bool {
    a == b || (a - b).abs() <= CLOSE * a.abs().max(1.0)
}

fn compare_rows(want: &Row, found: &Row, what: &str) {
    if !listed_alike(want, found, what) {
        assert_eq!(want.sampled, found.sampled, "{what}");
    }
    assert_eq!(want.logits.len(), found.logits.len(), "{what}");
    assert_eq!(want.probs.as_ref().map(Vec::len), found.probs.as_ref().map(Vec::len), "{what}");
    let numbers = |row: &Row| [row.logits.clone(), row.probs.clone().unwrap_or_default()].concat();
    for (i, (w, f)) in numbers(want).into_iter().zip(numbers(found)).enumerate() {
        assert!(close(w, f), "{what}: number {i}: {w} and {f}");
    }
}

/// Checks that the same tokens are listed. Whether some are so in another order, or others instead, as equals may be.
fn listed_alike(want: &Row, found: &Row, what: &str) -> bool {
    let (Some(w), Some(f)) = (&want.candidates, &found.candidates) else {
        assert_eq!(want.candidates, found.candidates, "{what}");
        return false;
    };
    assert_eq!(w.len(), f.len(), "{what}");
    let mut ties = false;
    for i in (0..w.len()).filter(|&i| w[i] != f[i]) {
        // At the end of a list the equal may be missing.
        let near = [i.wrapping_sub(1), i + 1].map(|j| want.logits.get(j) == want.logits.get(i));
        assert!(near.contains(&true) || i + 1 == w.len(), "{what}: candidate {i} is {} and {}", w[i], f[i]);
        ties = true;
    }
    ties
}

/// Rows of logits through a recipe each on the device.
fn choose(gpu: &mut Gpu, rows: &[Vec<f32>], recipes: &[Option<Recipe>], keep: bool) -> (Vec<Option<Choice>>, Vec<f32>) {
    let n = rows[0].len();
    let mut builder = Builder::new();
    let x = builder.input(Input::Embd, DType::F32, [n, rows.len(), 1, 1]).unwrap();
    let y = builder.scale(x, 1.0).unwrap();
    builder.output(y).unwrap();
    let plan = plan(builder.finish());
    let inputs = Inputs { embd: rows.concat(), ..Inputs::default() };
    let (mut out, mut choices) = (vec![7.0; n * rows.len()], Vec::new());
    // Twice: a warm backend must not remember.
    for _ in 0..2 {
        let mut request = Request { output: 0, recipes, keep, choices: &mut choices };
        assert!(gpu.run_sampled(&plan, &inputs, &mut [&mut out], &mut || false, &mut request).unwrap());
    }
    if !keep {
        assert!(out.iter().all(|x| *x == 7.0), "logits that nobody asked for were copied");
        gpu.read_output(plan.id, 0, &mut out).unwrap();
    }
    (choices, out)
}

/// As the context takes a choice, for those that list candidates and those that do not.
fn row_of(recipe: &Recipe, choice: Choice, logits: &[f32]) -> Row {
    if recipe.listed() > 0 {
        return Row::of_choice(choice);
    }
    Row { sampled: choice.token, ..Row::by_recipe(recipe, logits.to_vec()) }
}

fn steps() -> Vec<Vec<Step>> {
    let top_p = |p, min_keep| Step::TopP { p, min_keep };
    let min_p = |p, min_keep| Step::MinP { p, min_keep };
    let mut all = vec![
        vec![Step::Greedy],
        vec![Step::Scale(0.3), min_p(0.2, 0), Step::Greedy],
        vec![Step::Best],
        vec![Step::TopK(7)],
        vec![Step::TopK(1), Step::Draw(0.5)],
        vec![Step::TopK(1024), top_p(0.8, 0), Step::Greedy],
        vec![Step::TopK(33), top_p(0.5, 20), min_p(0.9, 30), Step::Scale(2.0), Step::Draw(0.99)],
        vec![Step::TopK(50), Step::Scale(3.0), Step::Best, Step::Draw(0.1)],
    ];
    for random in [0.0, 0.013, 0.4, 0.77, 0.999] {
        all.push(vec![Step::Draw(random)]);
        all.push(vec![Step::Scale(0.7), Step::Draw(random)]);
        all.push(vec![min_p(0.05, 1), Step::Scale(1.5), Step::Draw(random)]);
        all.push(vec![Step::Scale(0.8), top_p(0.9, 1), min_p(0.01, 0), Step::Draw(random)]);
        all.push(vec![Step::TopK(40), top_p(0.95, 1), min_p(0.05, 1), Step::Scale(0.8), Step::Draw(random)]);
        all.push(vec![Step::Scale(1.2), Step::TopK(300), Step::Draw(random)]);
    }
    all
}

#[test]
fn recipes_give_what_samplers_do() {
    let Some(mut gpu) = gpu() else { return };
    let mut random = Random(5);
    let sizes = [1, 3, 63, 160, 1001, 2048, 5003, 32003];
    for (n, spread) in sizes.into_iter().zip([3.0f32, 0.1, 40.0].into_iter().cycle()) {
        let recipes: Vec<Recipe> = steps().into_iter().map(|s| Recipe::new(s).unwrap()).collect();
        let rows: Vec<Vec<f32>> = recipes
            .iter()
            .map(|_| {
                // Distinct, so that the order is one; a sum of uniform numbers has tails.
                let mut row: Vec<f32> =
                    (0..n).map(|_| spread * (random.float() + random.float() + random.float())).collect();
                let mut seen = std::collections::HashSet::new();
                for x in &mut row {
                    while !seen.insert(x.to_bits()) {
                        *x = spread * (random.float() + random.float() + random.float());
                    }
                }
                row
            })
            .collect();
        let wanted: Vec<Option<Recipe>> = recipes.iter().copied().map(Some).collect();
        let (choices, logits) = choose(&mut gpu, &rows, &wanted, n == 160);
        assert_eq!(logits, rows.concat());
        for ((recipe, row), choice) in recipes.iter().zip(&rows).zip(choices) {
            let what = format!("{n} logits of spread {spread}, {:?}", recipe.steps());
            let want = Row::by_recipe(recipe, row.clone());
            let found = row_of(recipe, choice.unwrap(), row);
            let whole = recipe.listed() == 0;
            let summed = recipe.steps().iter().any(|s| matches!(s, Step::TopP { .. } | Step::Draw(_)));
            if whole && summed && want.sampled != found.sampled {
                // Sums of thousands in another order: a neighbour whose edge is nearer than rounding.
                assert!(is_at_edge(&want, found.sampled.unwrap()), "{what}: {:?} {:?}", want.sampled, found.sampled);
                continue;
            }
            compare_rows(&want, &found, &what);
        }
    }
}

/// Whether the edge between the chosen token's part of the sum and another's is within rounding of the drawn number.
fn is_at_edge(want: &Row, found: i32) -> bool {
    let probs = want.probs.as_ref().unwrap();
    let (a, b) = (want.sampled.unwrap().min(found) as usize, want.sampled.unwrap().max(found) as usize);
    probs[a + 1..b].iter().map(|p| f64::from(*p)).sum::<f64>() < 1e-6
}

#[test]
fn equal_and_extreme_logits() {
    let Some(mut gpu) = gpu() else { return };
    let n = 9001;
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let mut random = Random(9);
    let mut one_best = vec![-inf; n];
    one_best[4567] = -3.0;
    let mut some_nan: Vec<f32> = (0..n).map(|_| random.float()).collect();
    some_nan.iter_mut().step_by(3).for_each(|x| *x = nan);
    let mut infinite = vec![0.0; n];
    (infinite[17], infinite[8000]) = (inf, inf);
    let few: Vec<f32> = (0..n).map(|i| [2.0, -0.0, 0.0, 1.0, -1.0][i * 7919 % 5]).collect();
    let rows = [
        vec![1.0; n],
        vec![-inf; n],
        vec![nan; n],
        vec![inf; n],
        vec![0.0; n],
        one_best,
        some_nan,
        infinite,
        few,
        vec![f32::MAX; n],
        vec![-f32::MAX; n],
        vec![1e-40; n],
    ];
    for list in steps().into_iter().step_by(5) {
        let recipe = Recipe::new(list.clone()).unwrap();
        let (choices, _) = choose(&mut gpu, &rows, &vec![Some(recipe); rows.len()], false);
        for (row, choice) in rows.iter().zip(choices) {
            let choice = choice.unwrap();
            let what = format!("{list:?} of {:?} ...", &row[..5]);
            if recipe.listed() > 0 {
                // The first of equals come first.
                let mut order: Vec<usize> = (0..n).collect();
                let rank = |i: usize| if row[i].is_nan() { -inf } else { row[i] };
                let is_nan = |i: usize| row[i].is_nan();
                order.sort_by(|&a, &b| {
                    is_nan(a).cmp(&is_nan(b)).then(rank(b).partial_cmp(&rank(a)).unwrap()).then(a.cmp(&b))
                });
                let want: Vec<i32> = order[..recipe.listed()].iter().map(|i| *i as i32).collect();
                assert_eq!(choice.candidates, want, "{what}");
            }
            let chooses = matches!(list.last(), Some(Step::Greedy | Step::Draw(_)));
            assert_eq!(choice.token.is_some(), chooses, "{what}");
            let Some(token) = choice.token else { continue };
            assert!((0..n as i32).contains(&token), "{what}: {token}");
            // What is impossible is not drawn where anything is possible.
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if most.is_finite() {
                let logit = row[token as usize];
                assert!(logit.is_finite(), "{what}: token {token} has {logit}");
            }
            if list == [Step::Greedy] {
                let first = if row[0].is_nan() { row.iter().position(|x| *x == most) } else { None };
                let want = first.unwrap_or_else(|| row.iter().position(|x| *x == most).unwrap_or(0));
                assert_eq!(token as usize, want, "{what}");
            }
        }
    }
}

#[test]
fn rows_without_a_recipe_are_left_alone() {
    let Some(mut gpu) = gpu() else { return };
    let mut random = Random(2);
    let rows: Vec<Vec<f32>> = (0..4).map(|_| random.floats(333)).collect();
    let greedy = Recipe::new([Step::Greedy]);
    let top = Recipe::new([Step::TopK(5), Step::Greedy]);
    let (choices, logits) = choose(&mut gpu, &rows, &[None, top, None, greedy], true);
    assert_eq!(logits, rows.concat());
    assert_eq!(choices.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false, true]);
    for (choice, row) in choices.iter().zip(&rows) {
        let best = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
        assert!(choice.as_ref().is_none_or(|c| c.token == Some(best as i32)));
    }
}

type Make = fn() -> Vec<Box<dyn Sampler>>;

/// Chains that a device takes wholly, then some that it does not.
const CHAINS: [(&str, bool, Make); 16] = [
    ("greedy", true, || vec![greedy()]),
    ("temp, greedy", true, || vec![temp(0.5), greedy()]),
    ("top-k, greedy", true, || vec![top_k(5), greedy()]),
    ("temp 0, dist", true, || vec![temp(0.0), dist(3)]),
    ("dist", true, || vec![dist(1)]),
    ("temp, dist", true, || vec![temp(0.7), dist(2)]),
    ("min-p, temp, dist", true, || vec![min_p(0.05, 1), temp_ext(1.3, 0.0, 1.0), dist(4)]),
    ("top-p, dist", true, || vec![top_p(0.9, 1), dist(5)]),
    ("all", true, || vec![top_k(40), top_p(0.95, 1), min_p(0.05, 1), temp(0.8), dist(6)]),
    ("all, none of them active", true, || vec![top_k(0), top_p(1.0, 1), min_p(0.0, 1), temp(1.0), dist(7)]),
    ("top-k alone", true, || vec![top_k(10)]),
    ("top-k above the vocabulary", true, || vec![top_k(1000), temp(1.1), dist(8)]),
    ("logit bias", false, || vec![logit_bias(&[LogitBias { token: 3, bias: 9.0 }]), top_k(9), dist(9)]),
    ("min-p, top-k", false, || vec![min_p(0.01, 1), top_k(9), dist(10)]),
    ("dynamic temperature", false, || vec![top_k(20), temp_ext(1.0, 0.5, 1.0), dist(11)]),
    ("penalties", false, || {
        vec![penalties(PenaltyParams { last_n: 8, repeat: 1.5, freq: 0.1, present: 0.1 }), top_k(9), dist(12)]
    }),
];

fn context(model: &Arc<Model>, n_seq_max: u32, n_outputs_max_per_seq: u32) -> Context {
    let params = ContextParams {
        n_ctx: 256 * n_seq_max,
        n_seq_max,
        n_outputs_max_per_seq,
        n_threads: 1,
        n_threads_batch: 1,
        ..ContextParams::default()
    };
    Context::new(model.clone(), &params).unwrap()
}

/// Decodes a token of each sequence, all with outputs.
fn step(context: &mut Context, tokens: &[(i32, i32, i32)]) {
    let mut seqs = SeqIds::default();
    tokens.iter().for_each(|(_, _, seq)| seqs.push(&[*seq]));
    let ids: Vec<i32> = tokens.iter().map(|t| t.0).collect();
    let pos: Vec<i32> = tokens.iter().map(|t| t.1).collect();
    let marks = vec![1i8; tokens.len()];
    let batch = Batch::new(ids.len(), Some(&ids), None, 0).unwrap();
    let batch = batch.with_pos(&pos).unwrap().with_seq_ids(&seqs).unwrap().with_logits(&marks).unwrap();
    context.decode(&batch).unwrap();
}

/// Models whose vocabulary is, and is not, a multiple of what threads take together; wholly offloaded, and the output alone.
fn models(folder: &std::path::Path) -> Vec<Arc<Model>> {
    let mut models = Vec::new();
    for (name, n_vocab, layers) in [("even", 160, -1), ("odd", 333, -1), ("large", 4099, -1), ("output", 333, 1)] {
        let path = Tiny { n_vocab, ..Tiny::new("llama", name) }.write(folder);
        models.extend(super::models::offloaded(&path, layers));
    }
    models
}

#[test]
fn chains_choose_as_on_the_processor() {
    let folder = tempfile::tempdir().unwrap();
    for (model, n_steps) in models(folder.path()).into_iter().zip([64, 16, 4, 4]) {
        let n_vocab = model.hparams().unwrap().n_vocab;
        // What stays on the processor need not be tried with every vocabulary.
        for (name, on_device, make) in CHAINS.into_iter().filter(|c| c.1 || n_vocab == 160) {
            // Several outputs at once draw otherwise, see dist.
            for (n_outputs, n_steps) in [(1, n_steps), (4, if n_vocab == 160 { 16 } else { 0 })] {
                let chains = [false, true].map(|on_device| Shared::new(make(), n_outputs, on_device));
                let what = format!("{name}, {n_vocab} tokens, {n_outputs} outputs");
                assert_eq!(chains[1].recipe(0).is_some(), on_device, "{what}");
                let mut contexts = [(); 2].map(|()| context(&model, 1, n_outputs));
                for (context, chain) in contexts.iter_mut().zip(&chains) {
                    context.set_sampler(0, Some(Box::new(chain.clone()))).unwrap();
                }
                let mut next = 7;
                for pos in 0..n_steps {
                    let [want, found] = contexts.each_mut().map(|context| {
                        step(context, &[(next, pos, 0)]);
                        let token = context.sampled_token(-1).unwrap();
                        let row = context.sampled(-1).unwrap().cloned().expect("a sampler is attached");
                        assert_eq!(row.sampled, token);
                        row
                    });
                    compare_rows(&want, &found, &format!("{what}, at {pos}"));
                    if pos % 16 == 3 {
                        let [want, found] = contexts.each_mut().map(|context| context.logits_ith(-1).unwrap().to_vec());
                        assert_eq!(want, found, "{what}: logits on demand");
                    }
                    next = want.sampled.unwrap_or(want.candidates.map_or(5, |c| c[0]));
                    // A token that is not accepted was not drawn, where several outputs are foreseen.
                    if pos % 5 != 4 {
                        chains.iter().for_each(|chain| chain.accept(next));
                    }
                }
            }
        }
    }
}

/// Sequences with different chains, one without any, and chains that are replaced and taken away.
#[test]
fn sequences_have_chains_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    for model in models(folder.path()).into_iter().skip(1).step_by(2) {
        let n_seq = CHAINS.len() as i32 + 1;
        for of_some in [false, true] {
            let mut contexts = [(); 2].map(|()| context(&model, n_seq as u32, 1));
            let attach = |contexts: &mut [Context; 2], seq: i32, chain: Option<Make>| {
                for (context, on_device) in contexts.iter_mut().zip([false, true]) {
                    let sampler = chain.map(|make| Shared::new(make(), 1, on_device));
                    let sampler = sampler.map(|s| Box::new(s) as Box<dyn RowSampler>);
                    context.set_sampler(seq, sampler).unwrap();
                }
            };
            // Either a chain of each kind and none, or such alone as a device takes wholly.
            let chosen: Vec<(&str, bool, Make)> = CHAINS.into_iter().filter(|c| of_some || c.1).collect();
            for (seq, chain) in chosen.iter().enumerate() {
                attach(&mut contexts, seq as i32, Some(chain.2));
            }
            let n_seq = chosen.len() as i32 + i32::from(of_some);
            let mut next: Vec<i32> = (0..n_seq).map(|seq| seq * 3 + 1).collect();
            for pos in 0..11 {
                match pos {
                    3 => attach(&mut contexts, 0, Some(CHAINS[8].2)),
                    5 => attach(&mut contexts, 8, Some(CHAINS[13].2)),
                    7 => attach(&mut contexts, 1, None),
                    9 => attach(&mut contexts, 8, Some(CHAINS[0].2)),
                    _ => {}
                }
                let tokens: Vec<_> = next.iter().enumerate().map(|(seq, &id)| (id, pos, seq as i32)).collect();
                contexts.iter_mut().for_each(|context| step(context, &tokens));
                for seq in 0..n_seq {
                    let what = format!("sequence {seq} at {pos}");
                    let [want, found] = contexts.each_mut().map(|context| context.sampled(seq).unwrap().cloned());
                    let [want_logits, logits] =
                        contexts.each_mut().map(|context| context.logits_ith(seq).unwrap().to_vec());
                    assert_eq!(want_logits, logits, "{what}");
                    next[seq as usize] = match (want, found) {
                        (Some(want), Some(found)) => {
                            compare_rows(&want, &found, &what);
                            want.sampled.unwrap_or(0)
                        }
                        (None, None) => 3,
                        other => panic!("{what}: {other:?}"),
                    };
                }
            }
        }
    }
}

/// Prompts of several ubatches with outputs in each, a run that is stopped, and rows that are asked for late.
#[test]
fn ubatches_and_stopped_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny { n_vocab: 333, ..Tiny::new("llama", "several") }.write(folder.path());
    let Some(model) = super::models::offloaded(&path, -1) else { return };
    for make in [CHAINS[4].2, CHAINS[8].2, CHAINS[0].2] {
        let found = [false, true].map(|on_device| {
            let params = ContextParams {
                n_ctx: 256,
                n_ubatch: 8,
                n_outputs_max_per_seq: 32,
                n_threads: 1,
                n_threads_batch: 1,
                ..ContextParams::default()
            };
            let mut context = Context::new(model.clone(), &params).unwrap();
            let chain = Shared::new(make(), 32, on_device);
            context.set_sampler(0, Some(Box::new(chain.clone()))).unwrap();
            let prompt: Vec<_> = (0..21).map(|i| (i * 5 % 333, i, 0)).collect();
            step(&mut context, &prompt);
            let mut rows: Vec<Row> = (0..21).map(|i| context.sampled(i).unwrap().cloned().unwrap()).collect();
            let mut logits = context.logits().unwrap().to_vec();
            rows.iter().take(3).for_each(|row| chain.accept(row.sampled.unwrap()));
            // What was drawn for a run that is stopped is drawn again.
            context.set_abort_callback(Some(Box::new(|| true)));
            let one = Batch::new(1, Some(&[9]), None, 0).unwrap();
            assert!(context.decode(&one).is_err());
            context.set_abort_callback(None);
            step(&mut context, &[(9, 21, 0)]);
            // Keys move while logits are still on the device.
            let memory = context.memory_mut().unwrap();
            memory.seq_rm(0, 0, 4).unwrap();
            memory.seq_add(0, 4, -1, -4).unwrap();
            context.update_memory().unwrap();
            rows.push(context.sampled(0).unwrap().cloned().unwrap());
            logits.extend_from_slice(context.logits_ith(0).unwrap());
            (rows, logits)
        });
        let [(want, want_logits), (found, logits)] = found;
        assert_eq!(want_logits, logits);
        for (i, (w, f)) in want.iter().zip(&found).enumerate() {
            compare_rows(w, f, &format!("row {i}"));
        }
    }
}
