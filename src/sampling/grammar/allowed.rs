//! Which tokens of a vocabulary may come next. Few candidates are looked at one by one; for many, the tree of all pieces is
//! walked with the matcher, and the result kept for the next time the matcher is in that state: inside a string, it is so
//! after nearly every token.

use std::sync::Arc;

use hashbrown::HashMap;

use super::matcher::{DEAD, Matcher, State};
use crate::Result;
use crate::sampling::{Candidates, Token};
use crate::vocab::partial::{self, Partial};
use crate::vocab::{PieceTree, Vocab};

/// Up to this many candidates are cheaper one by one.
const FEW: usize = 256;
/// The most bytes of results to keep.
const MAX_BYTES: usize = 8 << 20;

/// One bit for each token.
type Bits = Arc<[u64]>;

/// What was found out.
#[derive(Clone, Default)]
pub struct Allowed {
    by_state: HashMap<State, Bits>,
    /// The class of characters of each node of the tree.
    classes: Option<Arc<[u32]>>,
    text: Vec<u32>,
}

fn get(bits: &[u64], token: Token) -> bool {
    usize::try_from(token).is_ok_and(|i| bits.get(i / 64).is_some_and(|word| word >> (i % 64) & 1 != 0))
}

fn put(bits: &mut [u64], token: Token, value: bool) {
    let Some(word) = usize::try_from(token).ok().and_then(|i| bits.get_mut(i / 64)) else { return };
    let bit = 1 << (token % 64);
    *word = if value { *word | bit } else { *word & !bit };
}

impl Allowed {
    /// Forgets results: the matcher's states have new numbers.
    pub fn clear(&mut self) {
        self.by_state.clear();
    }

    /// Sets the logits of all other candidates to -infinity.
    pub fn apply(
        &mut self,
        vocab: &Vocab,
        matcher: &mut Matcher,
        state: State,
        partial: Partial,
        candidates: &mut Candidates<'_>,
    ) -> Result<()> {
        let known = if partial.is_open() { None } else { self.by_state.get(&state) };
        if known.is_none() && candidates.size() <= FEW {
            for c in candidates.data.iter_mut() {
                if !self.allows(vocab, matcher, state, partial, c.id)? {
                    c.logit = f32::NEG_INFINITY;
                }
            }
            return Ok(());
        }
        let bits = match known {
            Some(bits) => bits.clone(),
            None if partial.is_open() => self.inside_character(vocab, matcher, state, partial)?,
            None => {
                let bits = self.between_characters(vocab, matcher, state)?;
                if (self.by_state.len() + 1) * bits.len() * 8 > MAX_BYTES {
                    self.by_state.clear();
                }
                self.by_state.insert(state, bits.clone());
                bits
            }
        };
        for c in candidates.data.iter_mut().filter(|c| !get(&bits, c.id)) {
            c.logit = f32::NEG_INFINITY;
        }
        Ok(())
    }

    /// Whether one token may come.
    fn allows(
        &mut self,
        vocab: &Vocab,
        matcher: &mut Matcher,
        state: State,
        partial: Partial,
        token: Token,
    ) -> Result<bool> {
        if vocab.is_eog(token) {
            return Ok(matcher.is_complete(state));
        }
        // A candidate that is no token may not come.
        let Ok(piece) = vocab.token_to_piece(token, 0, true) else { return Ok(false) };
        if piece.first().is_none_or(|b| *b == 0) {
            return Ok(false);
        }
        self.text.clear();
        let partial = partial::decode(piece, partial, &mut self.text);
        if self.text.is_empty() {
            return Ok(partial.is_open() && matcher.may_begin(state, partial));
        }
        if matcher.has_token(state, token) {
            return Ok(true);
        }
        let to = matcher.read(state, &self.text)?;
        Ok(to != DEAD && (partial.n_remain == 0 || matcher.may_begin(to, partial)))
    }

    /// What may come when the text ends inside a character: only few tokens begin so.
    fn inside_character(
        &mut self,
        vocab: &Vocab,
        matcher: &mut Matcher,
        state: State,
        partial: Partial,
    ) -> Result<Bits> {
        let mut bits = none(vocab);
        for &token in vocab.eog_tokens().iter().chain(&vocab.piece_tree()?.continuations) {
            let may = self.allows(vocab, matcher, state, partial, token)?;
            put(&mut bits, token, may);
        }
        Ok(bits.into())
    }

    /// What may come after whole characters.
    fn between_characters(&mut self, vocab: &Vocab, matcher: &mut Matcher, state: State) -> Result<Bits> {
        let tree = vocab.piece_tree()?;
        let mut bits = none(vocab);
        self.walk(tree, matcher, state, &mut bits)?;
        for &(token, partial) in &tree.beginnings {
            put(&mut bits, token, matcher.may_begin(state, partial));
        }
        let by_number: Vec<_> = matcher.tokens(state).collect();
        if !by_number.is_empty() {
            for token in tree.all_tokens() {
                if by_number.iter().any(|(t, inverse)| (*t == token) != *inverse) {
                    put(&mut bits, token, true);
                }
            }
        }
        for &token in vocab.eog_tokens() {
            put(&mut bits, token, matcher.is_complete(state));
        }
        Ok(bits.into())
    }

    /// Finds the tokens whose text the grammar goes on with.
    fn walk(&mut self, tree: &PieceTree, matcher: &mut Matcher, state: State, bits: &mut [u64]) -> Result<()> {
        let classes = self.classes.get_or_insert_with(|| {
            let of = matcher.classes().clone();
            tree.nodes.iter().map(|node| of.of(node.c)).collect()
        });
        // The state after each character on the way to the current node.
        let mut path = vec![state; tree.depth + 1];
        let mut i = 0;
        while let Some(node) = tree.nodes.get(i) {
            let depth = node.depth as usize;
            let to = matcher.step(path[depth - 1], classes[i])?;
            if to == DEAD {
                i = node.next as usize;
                continue;
            }
            path[depth] = to;
            for &token in tree.tokens(i) {
                put(bits, token, true);
            }
            for &(token, partial) in tree.partials(i) {
                put(bits, token, matcher.may_begin(to, partial));
            }
            i += 1;
        }
        Ok(())
    }
}

fn none(vocab: &Vocab) -> Vec<u64> {
    vec![0; vocab.n_tokens().div_ceil(64)]
}
