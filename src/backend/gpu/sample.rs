//! Tokens chosen where the logits are: recipes as `sample.wgsl` reads them, and what it made of them. Recipes are data: one
//! dispatch over the rows of an output follows them all, and nothing is compiled or encoded anew when they change.

use super::device::Device;
use super::program::{Bindings, Bound, Program};
use super::shader::Kernel;
use crate::backend::sample::{Choice, MAX_LISTED, MAX_STEPS, Recipe, Request, Step};
use crate::error::Result;

/// Words of a recipe.
const RECIPE: usize = 64;

/// Words of a result before its lists: the token, and how many are listed.
const HEAD: usize = 4;

/// A result's word for no token, and a recipe's for no step.
const NONE: u32 = u32::MAX;

/// Bytes of a workgroup's memory that the kernel needs.
const MEMORY: u32 = 30 * 1024;

/// What is copied out after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copies {
    /// The output that is not.
    pub kept: Option<usize>,
    /// Words of recipes, and of results after them; none: nothing is sampled.
    pub first: usize,
    /// See `first`.
    pub words: usize,
}

/// Recipes and results of a run; reused by the next.
#[derive(Default)]
pub struct Samples {
    recipes: Vec<u32>,
    results: Vec<u32>,
}

/// Threads of a workgroup that samples; `None`: the device's are too small.
pub fn threads(device: &Device) -> Option<u32> {
    // Many subgroups hide how long loads take; where they are narrow, barriers of many cost more.
    let wanted = 32 * device.abilities.subgroup.unwrap_or(8).clamp(8, 32);
    let most = device.device.limits().max_compute_invocations_per_workgroup.min(wanted);
    (most >= 128 && device.abilities.workgroup_memory >= MEMORY).then(|| 1 << most.ilog2())
}

/// Adds the dispatch that samples to a program that has none. Whether it has one now.
pub fn add(device: &Device, program: &mut Program, output: usize, shape: [usize; 4]) -> Result<bool> {
    let Some(threads) = threads(device) else { return Ok(false) };
    let (n, rows) = (shape[0], shape[1]);
    if rows == 0 || rows > 65535 {
        return Ok(false);
    }
    if program.tail.is_none() {
        let kernel = Kernel::plain("sample", &[("WG", threads)]);
        let bindings = Bindings { state: Bound::Samples, ..Bindings::default() };
        let params = [program.outputs[output].0, n as u32, 0, 0];
        let first = program.dispatches.len();
        program.add(device, kernel, bindings, bytemuck::cast_slice(&params), [rows, 1, 1])?;
        program.ends_with(first);
    }
    Ok(true)
}

impl Samples {
    /// Writes down the recipes for rows of `n_vocab` logits.
    pub fn plan(&mut self, request: &Request, n_vocab: usize) -> Copies {
        let first = request.recipes.len() * RECIPE;
        let mut next = first;
        self.recipes.clear();
        for recipe in request.recipes {
            let mut words = [0; RECIPE];
            if let Some(recipe) = recipe {
                let listed = recipe.listed().min(n_vocab);
                describe(recipe, listed, next, &mut words);
                next += HEAD + 3 * listed;
            }
            self.recipes.extend_from_slice(&words);
        }
        let words = next - first;
        Copies { kept: (words > 0 && !request.keep).then_some(request.output), first, words }
    }

    /// What is copied to the device.
    pub fn recipes(&self) -> &[u32] {
        &self.recipes
    }

    /// Room for what comes back.
    pub fn results(&mut self, words: usize) -> &mut [u32] {
        self.results.resize(words, 0);
        &mut self.results
    }

    /// What came back.
    pub fn choices(&self, request: &mut Request) {
        let mut rest = &self.results[..];
        request.choices.clear();
        for recipe in request.recipes {
            let Some(recipe) = recipe else {
                request.choices.push(None);
                continue;
            };
            let (head, lists) = rest.split_at(HEAD);
            let n = (head[1] as usize).min(lists.len() / 3);
            let numbers = |words: &[u32]| words.iter().map(|w| f32::from_bits(*w)).collect::<Vec<f32>>();
            let drawn = matches!(recipe.steps().last(), Some(Step::Draw(_)));
            request.choices.push(Some(Choice {
                token: (head[0] != NONE).then_some(head[0] as i32),
                candidates: lists[..n].iter().map(|id| *id as i32).collect(),
                logits: numbers(&lists[n..2 * n]),
                probs: if drawn { numbers(&lists[2 * n..3 * n]) } else { Vec::new() },
            }));
            rest = &lists[3 * n..];
        }
    }
}

/// The words of a recipe: its kind, how many are listed, the number of steps, who chooses, the random number in two parts, where
/// the result goes, which step sums probabilities over the vocabulary; then four words a step.
fn describe(recipe: &Recipe, listed: usize, result: usize, words: &mut [u32; RECIPE]) {
    const { assert!(8 + 4 * MAX_STEPS <= RECIPE && MAX_LISTED <= 1024) };
    let (mut chooser, mut random, mut n, mut nucleus) = (0, 0.0, 0, NONE);
    for step in recipe.steps() {
        let (kind, x, least) = match *step {
            Step::Scale(t) => (1, t, 0),
            Step::TopP { p, min_keep } => (2, p, min_keep),
            // As the samplers compute it.
            Step::MinP { p, min_keep } => (3, p.ln(), min_keep),
            Step::Greedy => {
                chooser = 1;
                continue;
            }
            Step::Draw(number) => {
                (chooser, random) = (2, number);
                continue;
            }
            // As many are listed as are left in the end.
            Step::Nothing | Step::TopK(_) | Step::Best => continue,
        };
        if kind == 2 && listed == 0 {
            nucleus = n as u32;
        }
        words[8 + 4 * n..][..3].copy_from_slice(&[kind, x.to_bits(), least]);
        n += 1;
    }
    let kind = match (listed, chooser) {
        (0, 1) => 1,
        (0, _) => 2,
        _ => 3,
    };
    let high = random as f32;
    let low = (random - f64::from(high)) as f32;
    let head = [kind, listed as u32, n as u32, chooser, high.to_bits(), low.to_bits(), result as u32, nucleus];
    words[..8].copy_from_slice(&head);
}
