//! Samplers as a device knows them: a [`Recipe`] says how a token is chosen by a row of logits, a [`Choice`] is what came of
//! it. `sampling` makes recipes, a backend that can follows them where the logits are.

/// Most candidates that a recipe may list.
pub const MAX_LISTED: usize = 1024;

/// Most steps of a recipe.
pub const MAX_STEPS: usize = 12;

/// What a sampler does to a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Lists so many of the likeliest, in order.
    TopK(u32),
    /// Keeps the likeliest until their probabilities sum to `p`, and at least so many.
    TopP {
        /// The sum.
        p: f32,
        /// The least number.
        min_keep: u32,
    },
    /// Keeps who has at least `p` times the highest probability, and at least so many.
    MinP {
        /// The factor.
        p: f32,
        /// The least number.
        min_keep: u32,
    },
    /// Divides logits by a temperature.
    Scale(f32),
    /// Lists the likeliest alone.
    Best,
    /// Chooses the likeliest.
    Greedy,
    /// Chooses where probabilities sum to this part of their sum.
    Draw(f64),
}

/// Steps that a device can do. Before tokens are listed they are about the whole vocabulary, in its order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    steps: [Step; MAX_STEPS],
    n: usize,
    listed: u32,
}

impl Recipe {
    /// A recipe of these steps; `None`: a device cannot follow it, or its results depend on an order that only the samplers
    /// themselves know. Such are tokens listed among excluded ones, which are all alike, and listed twice.
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Option<Recipe> {
        let mut recipe = Recipe { steps: [Step::Nothing; MAX_STEPS], n: 0, listed: 0 };
        let (mut masked, mut nucleus, mut chosen) = (false, false, false);
        for step in steps {
            if chosen {
                return None;
            }
            let whole = recipe.listed == 0;
            let fits = match step {
                Step::Nothing => continue,
                Step::Scale(t) => t > 0.0 && t.is_finite(),
                Step::MinP { p, min_keep } => p > 0.0 && p <= 1.0 && (!whole || min_keep <= 1),
                Step::TopP { p, min_keep } => !p.is_nan() && (!whole || (min_keep <= 1 && !nucleus)),
                Step::TopK(k) => whole && !masked && (1..=MAX_LISTED as u32).contains(&k),
                Step::Best => !whole || !masked,
                Step::Greedy | Step::Draw(_) => true,
            };
            if !fits || recipe.n == MAX_STEPS {
                return None;
            }
            match step {
                Step::TopK(k) => recipe.listed = k,
                Step::Best => recipe.listed = 1,
                Step::MinP { .. } => masked = true,
                Step::TopP { .. } => (masked, nucleus) = (true, true),
                Step::Greedy | Step::Draw(_) => chosen = true,
                Step::Nothing | Step::Scale(_) => {}
            }
            recipe.steps[recipe.n] = step;
            recipe.n += 1;
        }
        (chosen || recipe.listed > 0).then_some(recipe)
    }

    /// In order.
    pub fn steps(&self) -> &[Step] {
        &self.steps[..self.n]
    }

    /// Candidates that are listed in the end, if the vocabulary has as many; 0: the whole vocabulary stays, in its order.
    pub fn listed(&self) -> usize {
        self.listed as usize
    }
}

/// What came of a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    /// The token that was chosen.
    pub token: Option<i32>,
    /// The listed tokens; none where the whole vocabulary stays.
    pub candidates: Vec<i32>,
    /// Their logits, -infinity for those excluded.
    pub logits: Vec<f32>,
    /// Their probabilities, if a token was drawn.
    pub probs: Vec<f32>,
}

/// What a run is to choose.
pub struct Request<'a> {
    /// Which output of the plan has the logits.
    pub output: usize,
    /// By row of it; rows without a recipe are left alone.
    pub recipes: &'a [Option<Recipe>],
    /// Whether the logits themselves are wanted at once too.
    pub keep: bool,
    /// By row.
    pub choices: &'a mut Vec<Option<Choice>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_what_devices_can_do() {
        let top_p = Step::TopP { p: 0.9, min_keep: 1 };
        let min_p = Step::MinP { p: 0.05, min_keep: 0 };
        let listed = |steps: &[Step]| Recipe::new(steps.iter().copied()).map(|r| r.listed());
        assert_eq!(listed(&[Step::TopK(40), top_p, min_p, Step::Scale(0.8), Step::Draw(0.5)]), Some(40));
        assert_eq!(listed(&[Step::Nothing, Step::TopK(40)]), Some(40));
        assert_eq!(listed(&[Step::Scale(0.5), Step::Best, Step::Draw(0.5)]), Some(1));
        assert_eq!(listed(&[Step::Greedy]), Some(0));
        assert_eq!(listed(&[top_p, min_p, Step::Scale(0.8), Step::Draw(0.5)]), Some(0));
        assert_eq!(listed(&[]), None, "nothing is chosen and the vocabulary stays");
        assert_eq!(listed(&[Step::Scale(0.5)]), None);
        assert_eq!(listed(&[Step::TopK(2000)]), None);
        assert_eq!(listed(&[min_p, Step::TopK(40)]), None);
        assert_eq!(listed(&[Step::TopK(40), Step::TopK(20)]), None);
        assert_eq!(listed(&[Step::Greedy, Step::Draw(0.5)]), None);
        assert_eq!(listed(&[top_p, top_p, Step::Greedy]), None);
        assert_eq!(listed(&[Step::Scale(f32::NAN), Step::Greedy]), None);
        assert_eq!(listed(&[Step::Scale(2.0); MAX_STEPS + 1]), None);
    }
}
