//! Sampling while a batch is computed: a chain that is attached to a sequence of a context works on each row of its logits
//! as soon as it is there. What it leaves of the row is kept beside the outputs: a chosen token, or candidates for
//! samplers that go on later. Called by `context`, through [`RowSampler`].

use hashbrown::HashMap;

use super::dist::drawn;
use super::{Candidates, Chain, Sampler, Token, TokenData, greedy, min_p, temp, top_k, top_p};
use crate::backend::sample::{Choice, Recipe, Step};

/// What samplers have made of a row of logits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The logits, of `candidates` or else of the whole vocabulary. Candidates that samplers exclude have -infinity.
    pub logits: Vec<f32>,
    /// The tokens that the logits are for, once some were dropped.
    pub candidates: Option<Vec<Token>>,
    /// Their probabilities, when a sampler chose by them.
    pub probs: Option<Vec<f32>>,
    /// The token that a sampler chose.
    pub sampled: Option<Token>,
}

/// What a sampler does to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowUse {
    /// It changes or excludes candidates.
    Mask,
    /// It keeps some candidates, in its own order.
    Keep,
    /// It keeps the likeliest candidate.
    Best,
    /// It chooses a candidate.
    Choose,
    /// It chooses a candidate by probabilities that it computes.
    Draw,
}

/// What works on the rows of a sequence while batches are computed.
pub trait RowSampler: Send {
    /// A batch begins: what was drawn in the last one and not accepted since counts as not drawn.
    fn begin(&mut self);

    /// Works on a row. Rows of a batch come in its order.
    fn sample(&mut self, row: &mut Row);

    /// What `sample` would do to the row after the next `n_before`, where a device can do it. Nothing is drawn by asking.
    fn recipe(&self, _n_before: usize) -> Option<Recipe> {
        None
    }

    /// A device did the next row.
    fn pass_row(&mut self) {}
}

/// A chain whose samplers can all work on rows, or as many as do before the first that cannot.
pub struct AttachedChain {
    chain: Chain,
    uses: Vec<RowUse>,
}

impl AttachedChain {
    /// Attaches the samplers of a chain, up to the first that cannot work on `n_outputs_max` rows of a batch.
    pub fn new(mut chain: Chain, n_outputs_max: usize) -> Self {
        let uses = chain.samplers.iter_mut().map_while(|s| s.attach(n_outputs_max)).collect();
        AttachedChain { chain, uses }
    }

    /// Tells the samplers that a token was chosen.
    pub fn accept(&mut self, token: Token) {
        self.chain.accept(token);
    }
}

impl RowSampler for AttachedChain {
    fn begin(&mut self) {
        self.chain.samplers.iter_mut().for_each(|s| s.begin_batch());
    }

    fn sample(&mut self, row: &mut Row) {
        for (sampler, row_use) in self.chain.samplers.iter_mut().zip(&self.uses) {
            apply(sampler.as_mut(), *row_use, row);
        }
    }

    fn recipe(&self, n_before: usize) -> Option<Recipe> {
        let attached = self.chain.samplers.iter().take(self.uses.len());
        let steps: Option<Vec<Step>> = attached.map(|sampler| sampler.step(n_before)).collect();
        Recipe::new(steps?)
    }

    fn pass_row(&mut self) {
        self.chain.samplers.iter_mut().take(self.uses.len()).for_each(|sampler| sampler.pass_row());
    }
}

impl Row {
    /// What samplers make of a row by a recipe.
    pub fn by_recipe(recipe: &Recipe, logits: Vec<f32>) -> Row {
        let mut row = Row { logits, ..Row::default() };
        for step in recipe.steps() {
            let (mut sampler, row_use) = match *step {
                Step::Nothing => continue,
                Step::TopK(k) => (top_k(k as i32), RowUse::Keep),
                Step::TopP { p, min_keep } => (top_p(p, min_keep as usize), RowUse::Mask),
                Step::MinP { p, min_keep } => (min_p(p, min_keep as usize), RowUse::Mask),
                Step::Scale(t) => (temp(t), RowUse::Mask),
                Step::Best => (temp(0.0), RowUse::Best),
                Step::Greedy => (greedy(), RowUse::Choose),
                Step::Draw(random) => (drawn(random), RowUse::Draw),
            };
            apply(sampler.as_mut(), row_use, &mut row);
        }
        row
    }

    /// What a device listed.
    pub fn of_choice(choice: Choice) -> Row {
        Row {
            logits: choice.logits,
            candidates: Some(choice.candidates),
            probs: (!choice.probs.is_empty()).then_some(choice.probs),
            sampled: choice.token,
        }
    }
}

/// Has one sampler work on a row.
pub fn apply(sampler: &mut dyn Sampler, row_use: RowUse, row: &mut Row) {
    let token = |i: usize| row.candidates.as_ref().map_or(i as Token, |candidates| candidates[i]);
    let mut data: Vec<_> =
        row.logits.iter().enumerate().map(|(i, &logit)| TokenData { id: token(i), logit, p: 0.0 }).collect();
    let mut candidates = Candidates::new(&mut data);
    if row_use == RowUse::Best {
        let better = |best: &TokenData, c: &TokenData| c.logit > best.logit;
        let best = candidates.data.iter().copied().reduce(|best, c| if better(&best, &c) { c } else { best });
        row.logits = best.iter().map(|c| c.logit).collect();
        row.candidates = Some(best.iter().map(|c| c.id).collect());
        return;
    }
    sampler.apply_row(&mut candidates);
    match row_use {
        RowUse::Best => {}
        RowUse::Mask => {
            let index: HashMap<Token, usize> = row.candidates.iter().flatten().copied().zip(0..).collect();
            let place = |token: Token| match row.candidates {
                Some(_) => index.get(&token).copied(),
                None => usize::try_from(token).ok(),
            };
            row.logits.fill(f32::NEG_INFINITY);
            for c in candidates.data.iter() {
                if let Some(logit) = place(c.id).and_then(|i| row.logits.get_mut(i)) {
                    *logit = c.logit;
                }
            }
        }
        RowUse::Keep => {
            row.logits = candidates.data.iter().map(|c| c.logit).collect();
            row.candidates = Some(candidates.data.iter().map(|c| c.id).collect());
        }
        RowUse::Choose | RowUse::Draw => {
            let selected = usize::try_from(candidates.selected).ok().and_then(|i| candidates.data.get(i));
            row.sampled = selected.map(|c| c.id);
            if row_use == RowUse::Draw {
                row.probs = Some(candidates.data.iter().map(|c| c.p).collect());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{dist, greedy, min_p, mirostat_v2, penalties, temp, top_k, top_p};
    use super::*;
    use crate::sampling::PenaltyParams;

    const LOGITS: [f32; 5] = [1.0, 4.0, 2.0, 3.0, -1.0];

    fn run(samplers: Vec<Box<dyn Sampler>>) -> Row {
        let mut row = Row { logits: LOGITS.to_vec(), ..Row::default() };
        let mut chain = AttachedChain::new(Chain::new(samplers), 1);
        chain.begin();
        chain.sample(&mut row);
        row
    }

    #[test]
    fn filters_mask_or_keep() {
        let row = run(vec![top_k(3), temp(0.5)]);
        assert_eq!(row, Row { logits: vec![8.0, 6.0, 4.0], candidates: Some(vec![1, 3, 2]), ..Row::default() });
        const OUT: f32 = f32::NEG_INFINITY;
        assert_eq!(run(vec![min_p(0.2, 0)]).logits, [OUT, 4.0, OUT, 3.0, OUT]);
        let row = run(vec![top_k(3), top_p(0.5, 0)]);
        assert_eq!((row.logits, row.candidates), (vec![4.0, OUT, OUT], Some(vec![1, 3, 2])));
        let row = run(vec![temp(0.0)]);
        assert_eq!((row.logits, row.candidates), (vec![4.0], Some(vec![1])));
    }

    #[test]
    fn tokens_are_chosen_among_candidates() {
        assert_eq!(run(vec![top_k(2), greedy()]).sampled, Some(1));
        let row = run(vec![top_k(3), min_p(0.3, 0), dist(7)]);
        let probs = row.probs.unwrap();
        assert!((probs.iter().sum::<f32>() - 1.0).abs() < 1e-6 && probs[2] == 0.0, "{probs:?}");
        assert!(matches!(row.sampled, Some(1 | 3)));
        assert_eq!(row.logits, [4.0, 3.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn a_sampler_that_cannot_ends_the_chain() {
        let row = run(vec![top_k(2), mirostat_v2(1, 5.0, 0.1), greedy()]);
        assert_eq!((row.logits.len(), row.sampled), (2, None));
        let params = PenaltyParams { last_n: 8, repeat: 2.0, freq: 0.0, present: 0.0 };
        assert!(penalties(params).attach(1).is_some() && penalties(params).attach(2).is_none());
    }

    #[test]
    fn draws_that_are_not_accepted_are_repeated() {
        let draw = |sampler: &mut Box<dyn Sampler>, n: usize| -> Vec<Token> {
            sampler.begin_batch();
            let flat = Row { logits: vec![0.0; 1000], ..Row::default() };
            let one = |_| {
                let mut row = flat.clone();
                apply(sampler.as_mut(), RowUse::Draw, &mut row);
                row.sampled.unwrap()
            };
            (0..n).map(one).collect()
        };
        let mut sampler = dist(3);
        sampler.attach(3);
        let first = draw(&mut sampler, 3);
        assert_eq!(draw(&mut sampler, 3), first);
        (0..2).for_each(|_| sampler.accept(0));
        assert_eq!(draw(&mut sampler, 3)[0], first[2]);
        let mut alone = dist(3);
        alone.attach(1);
        let one_by_one: Vec<_> = (0..3).flat_map(|_| draw(&mut alone, 1)).collect();
        assert_eq!(one_by_one, first);
    }
}
