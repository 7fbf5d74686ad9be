//! Matches texts against a grammar, character by character. What may follow a text is a set of stacks: each is a list of
//! positions in the rules, the top one a set of characters or a token, or is empty where the text is complete.
//!
//! Stacks share their lower parts and sets of stacks have numbers, so that the matcher becomes an automaton, made while it
//! is used: [`Matcher::step`] looks a transition up, and works it out the first time only. Grammars can be made whose
//! stacks multiply without end; limits on work and memory turn that into an error.

use std::sync::Arc;

use hashbrown::HashMap;

use super::rules::{Kind, Rules};
use crate::vocab::Token;
use crate::vocab::partial::Partial;
use crate::{Error, Result};

/// How many stacks, or steps from stack to stack, one call may look at. A fraction of a second.
const MAX_WORK: usize = 20_000_000;
/// The most stacks that are remembered, with their parts.
const MAX_NODES: usize = 1 << 21;
/// The most numbers that sets of stacks and transitions may take.
const MAX_ENTRIES: usize = 1 << 23;

/// The number of a set of stacks, valid until [`Matcher::compact`].
pub type State = u32;

/// The state of texts that the grammar does not match.
pub const DEAD: State = 0;
const UNKNOWN: State = u32::MAX;

/// The stack without positions.
const EMPTY: u32 = 0;

/// Characters that no rule tells apart, as intervals in order.
#[derive(Debug)]
pub struct Classes {
    /// Where each class begins; the first at 0.
    starts: Vec<u32>,
    ascii: [u32; 128],
}

impl Classes {
    fn new(rules: &Rules) -> Classes {
        let mut starts = vec![0];
        for (i, e) in rules.elements.iter().enumerate() {
            match e.kind {
                Kind::Char | Kind::CharNot | Kind::CharAlt => {
                    starts.push(e.value);
                    if rules.elements[i + 1].kind != Kind::RangeEnd {
                        starts.extend(e.value.checked_add(1));
                    }
                }
                Kind::RangeEnd => starts.extend(e.value.checked_add(1)),
                Kind::End | Kind::Alt | Kind::RuleRef | Kind::Any | Kind::Token | Kind::TokenNot => {}
            }
        }
        starts.sort_unstable();
        starts.dedup();
        let mut classes = Classes { starts, ascii: [0; 128] };
        classes.ascii = std::array::from_fn(|c| classes.search(c as u32));
        classes
    }

    fn search(&self, c: u32) -> u32 {
        self.starts.partition_point(|start| *start <= c) as u32 - 1
    }

    /// The class of a character.
    pub fn of(&self, c: u32) -> u32 {
        self.ascii.get(c as usize).copied().unwrap_or_else(|| self.search(c))
    }
}

/// A stack: its top position and the stack below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    at: u32,
    below: u32,
}

#[derive(Clone, Debug)]
struct Set {
    /// Ascending.
    stacks: Arc<[u32]>,
    /// By class.
    next: Vec<State>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Matcher {
    rules: Arc<Rules>,
    classes: Arc<Classes>,
    /// The first stands for the empty stack.
    nodes: Vec<Node>,
    node_ids: HashMap<Node, u32>,
    sets: Vec<Set>,
    set_ids: HashMap<Arc<[u32]>, State>,
    n_entries: usize,
    /// How much there was after the latest [`Matcher::compact`].
    n_kept: usize,
    work_left: usize,
    walk: Walk,
}

/// Memory of [`Matcher::expand`].
#[derive(Clone, Debug, Default)]
struct Walk {
    todo: Vec<u32>,
    found: Vec<u32>,
    /// For each stack, the last walk that met it.
    seen: Vec<u32>,
    n_walks: u32,
}

impl Matcher {
    /// A matcher, and its state before any text.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: the grammar exceeds the limits even so.
    pub fn new(rules: Arc<Rules>) -> Result<(Matcher, State)> {
        let classes = Arc::new(Classes::new(&rules));
        let mut matcher = Matcher::empty(rules, classes);
        let starts: Vec<u32> = matcher.rules.alternatives(matcher.rules.root).collect();
        matcher.begin();
        for at in starts {
            let stack = if matcher.rules.ends(at) { EMPTY } else { matcher.stack(at, EMPTY)? };
            matcher.expand(stack)?;
        }
        let state = matcher.found_state()?;
        Ok((matcher, state))
    }

    fn empty(rules: Arc<Rules>, classes: Arc<Classes>) -> Matcher {
        let mut matcher = Matcher {
            rules,
            classes,
            nodes: vec![Node { at: u32::MAX, below: EMPTY }],
            node_ids: HashMap::new(),
            sets: Vec::new(),
            set_ids: HashMap::new(),
            n_entries: 0,
            n_kept: 0,
            work_left: MAX_WORK,
            walk: Walk::default(),
        };
        matcher.set(&[]);
        matcher
    }

    /// The classes of characters.
    pub fn classes(&self) -> &Arc<Classes> {
        &self.classes
    }

    /// The rules.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// Grants the work of a call.
    pub fn refill(&mut self) {
        self.work_left = MAX_WORK;
    }

    /// Whether so much is remembered that [`Matcher::compact`] is due.
    pub fn is_full(&self) -> bool {
        self.size() > MAX_NODES / 8 + 2 * self.n_kept
    }

    fn size(&self) -> usize {
        self.nodes.len() + self.n_entries / 4
    }

    /// Forgets everything but these states, which get new numbers.
    pub fn compact(&mut self, keep: &mut [State]) -> Result<()> {
        let mut new = Matcher::empty(self.rules.clone(), self.classes.clone());
        let mut renumbered: HashMap<u32, u32> = HashMap::from_iter([(EMPTY, EMPTY)]);
        for state in keep {
            let mut stacks = Vec::new();
            for &stack in self.sets[*state as usize].stacks.iter() {
                let mut path = Vec::new();
                let mut at = stack;
                while !renumbered.contains_key(&at) {
                    path.push(at);
                    at = self.nodes[at as usize].below;
                }
                let mut below = renumbered[&at];
                for old in path.into_iter().rev() {
                    below = new.stack(self.nodes[old as usize].at, below)?;
                    renumbered.insert(old, below);
                }
                stacks.push(below);
            }
            *state = new.set_of(stacks);
        }
        new.n_kept = new.size();
        *self = new;
        Ok(())
    }

    /// Whether the text is complete.
    pub fn is_complete(&self, state: State) -> bool {
        self.stacks(state).contains(&EMPTY)
    }

    /// Whether the grammar may go on with a character that begins so.
    pub fn may_begin(&self, state: State, partial: Partial) -> bool {
        let Some((low, high)) = partial.range() else { return false };
        self.tops(state).any(|at| self.rules.may_match(at, low, high))
    }

    /// The tokens that may come as such, whatever their text, and with `true` those that may not while all others may.
    pub fn tokens(&self, state: State) -> impl Iterator<Item = (Token, bool)> {
        self.tops(state).filter_map(|at| {
            let e = self.rules.elements[at as usize];
            match e.kind {
                Kind::Token => Some((e.value as Token, false)),
                Kind::TokenNot => Some((e.value as Token, true)),
                Kind::End
                | Kind::Alt
                | Kind::RuleRef
                | Kind::Char
                | Kind::CharNot
                | Kind::RangeEnd
                | Kind::CharAlt
                | Kind::Any => None,
            }
        })
    }

    /// Whether a token may come as such.
    pub fn has_token(&self, state: State, token: Token) -> bool {
        self.tokens(state).any(|(t, inverse)| (t == token) != inverse)
    }

    /// The state after a character of this class.
    pub fn step(&mut self, state: State, class: u32) -> Result<State> {
        let known = self.sets[state as usize].next[class as usize];
        if known != UNKNOWN {
            return Ok(known);
        }
        let c = self.classes.starts[class as usize];
        let stacks = self.sets[state as usize].stacks.clone();
        self.begin();
        self.work(stacks.len())?;
        for &stack in stacks.iter().filter(|stack| **stack != EMPTY) {
            let node = self.nodes[stack as usize];
            if let (true, after) = self.rules.matches(node.at, c) {
                self.replace_top(node.below, after)?;
            }
        }
        let to = self.found_state()?;
        self.sets[state as usize].next[class as usize] = to;
        Ok(to)
    }

    /// The state after these characters.
    pub fn read(&mut self, mut state: State, text: &[u32]) -> Result<State> {
        for &c in text {
            if state == DEAD {
                break;
            }
            state = self.step(state, self.classes.of(c))?;
        }
        Ok(state)
    }

    /// The state after a token that completes the characters `text`.
    pub fn accept(&mut self, state: State, token: Token, text: &[u32]) -> Result<State> {
        let by_text = self.read(state, text)?;
        if !text.is_empty() && self.tokens(state).next().is_none() {
            return Ok(by_text);
        }
        let stacks = self.sets[state as usize].stacks.clone();
        self.begin();
        for &stack in stacks.iter().filter(|stack| **stack != EMPTY) {
            let node = self.nodes[stack as usize];
            let e = self.rules.elements[node.at as usize];
            let is_token = matches!(e.kind, Kind::Token | Kind::TokenNot);
            if is_token && (e.value == token as u32) == (e.kind == Kind::Token) {
                self.replace_top(node.below, node.at + 1)?;
            } else if !is_token && text.is_empty() {
                self.walk.found.push(stack);
            }
        }
        if !text.is_empty() {
            let stacks = self.sets[by_text as usize].stacks.clone();
            self.walk.found.extend_from_slice(&stacks);
        }
        self.found_state()
    }

    /// The stacks of a state, each from the bottom up as positions in the rules.
    pub fn stack_positions(&self, state: State) -> impl Iterator<Item = Vec<u32>> {
        self.stacks(state).iter().map(|&stack| {
            let mut positions = Vec::new();
            let mut at = stack;
            while at != EMPTY {
                positions.push(self.nodes[at as usize].at);
                at = self.nodes[at as usize].below;
            }
            positions.reverse();
            positions
        })
    }

    /// The state with these stacks, as [`Matcher::stack_positions`] gives them.
    pub fn state_of(&mut self, stacks: impl Iterator<Item = Vec<u32>>) -> Result<State> {
        let mut ids = Vec::new();
        for positions in stacks {
            let mut stack = EMPTY;
            for at in positions {
                if at as usize >= self.rules.elements.len() {
                    return Err(Error::argument(format!("grammar: no element {at}")));
                }
                stack = self.stack(at, stack)?;
            }
            ids.push(stack);
        }
        Ok(self.set_of(ids))
    }

    fn stacks(&self, state: State) -> &[u32] {
        &self.sets[state as usize].stacks
    }

    /// The top positions of a state's stacks.
    fn tops(&self, state: State) -> impl Iterator<Item = u32> {
        self.stacks(state).iter().filter(|stack| **stack != EMPTY).map(|&stack| self.nodes[stack as usize].at)
    }

    fn work(&mut self, n: usize) -> Result<()> {
        let too_much = || Error::Unsupported("the grammar is too ambiguous: its stacks multiply beyond limits".into());
        self.work_left = self.work_left.checked_sub(n).ok_or_else(too_much)?;
        if self.nodes.len() > MAX_NODES || self.n_entries > MAX_ENTRIES {
            return Err(too_much());
        }
        Ok(())
    }

    /// The stack with `at` on top of another.
    fn stack(&mut self, at: u32, below: u32) -> Result<u32> {
        self.work(1)?;
        let node = Node { at, below };
        let nodes = &mut self.nodes;
        Ok(*self.node_ids.entry(node).or_insert_with(|| {
            nodes.push(node);
            nodes.len() as u32 - 1
        }))
    }

    /// Finds what follows when the part before `after` of a rule is done, whose rest comes before `below`.
    fn replace_top(&mut self, below: u32, after: u32) -> Result<()> {
        let stack = if self.rules.ends(after) { below } else { self.stack(after, below)? };
        self.expand(stack)
    }

    fn begin(&mut self) {
        self.walk.found.clear();
        self.walk.n_walks = self.walk.n_walks.wrapping_add(1);
        if self.walk.n_walks == 0 {
            self.walk.seen.clear();
            self.walk.n_walks = 1;
        }
    }

    /// Adds to what was found the stacks that `stack` becomes when rules on top of it are replaced by what they are.
    fn expand(&mut self, stack: u32) -> Result<()> {
        let rules = self.rules.clone();
        self.walk.todo.clear();
        self.walk.todo.push(stack);
        while let Some(stack) = self.walk.todo.pop() {
            self.work(1)?;
            let i = stack as usize;
            if self.walk.seen.len() <= i {
                self.walk.seen.resize(self.nodes.len(), 0);
            }
            if std::mem::replace(&mut self.walk.seen[i], self.walk.n_walks) == self.walk.n_walks {
                continue;
            }
            let Node { at, below } = self.nodes[i];
            if stack == EMPTY || rules.elements[at as usize].kind != Kind::RuleRef {
                self.walk.found.push(stack);
                continue;
            }
            let rest = if rules.ends(at + 1) { below } else { self.stack(at + 1, below)? };
            for alternative in rules.alternatives(rules.elements[at as usize].value) {
                let next = if rules.ends(alternative) { rest } else { self.stack(alternative, rest)? };
                self.walk.todo.push(next);
            }
        }
        Ok(())
    }

    fn found_state(&mut self) -> Result<State> {
        let found = std::mem::take(&mut self.walk.found);
        self.work(found.len())?;
        Ok(self.set_of(found))
    }

    fn set_of(&mut self, mut stacks: Vec<u32>) -> State {
        stacks.sort_unstable();
        stacks.dedup();
        let state = self.set_ids.get(stacks.as_slice()).copied().unwrap_or_else(|| self.set(&stacks));
        stacks.clear();
        self.walk.found = stacks;
        state
    }

    fn set(&mut self, stacks: &[u32]) -> State {
        let stacks: Arc<[u32]> = stacks.into();
        let n_classes = self.classes.starts.len();
        self.n_entries += stacks.len() + n_classes;
        let state = self.sets.len() as State;
        let next = vec![if stacks.is_empty() { DEAD } else { UNKNOWN }; n_classes];
        self.sets.push(Set { stacks: stacks.clone(), next });
        self.set_ids.insert(stacks, state);
        state
    }
}
