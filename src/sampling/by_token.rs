//! Changing the candidates of a few known tokens without looking at a whole vocabulary. Used by the samplers that keep
//! something per token: logit bias, penalties, DRY.

use super::{Candidates, Token, TokenData};

/// Values by token.
#[derive(Clone)]
pub(super) struct ByToken<T> {
    /// In the order of tokens. A token may occur more than once.
    pub entries: Vec<(Token, T)>,
    /// Those whose token is not at its own index, for one call.
    to_search: Vec<(Token, T)>,
}

impl<T: Copy> ByToken<T> {
    /// Nothing yet.
    pub fn new() -> Self {
        ByToken { entries: Vec::new(), to_search: Vec::new() }
    }

    /// The place of a token's first entry, or where it would be.
    pub fn find(&self, token: Token) -> Result<usize, usize> {
        let i = self.entries.partition_point(|e| e.0 < token);
        if self.entries.get(i).is_some_and(|e| e.0 == token) { Ok(i) } else { Err(i) }
    }

    /// Calls `change` for the candidate of every entry's token. Candidates in the order of the vocabulary are found at
    /// their own index; if some are not, all are looked up, for the first entry of each token.
    pub fn for_candidates(&mut self, candidates: &mut Candidates<'_>, change: impl Fn(&mut TokenData, T)) {
        self.to_search.clear();
        for &(token, value) in &self.entries {
            let at_own_index = usize::try_from(token).ok().and_then(|i| candidates.data.get_mut(i));
            match at_own_index.filter(|c| c.id == token) {
                Some(c) => change(c, value),
                None => self.to_search.push((token, value)),
            }
        }
        self.to_search.dedup_by_key(|e| e.0);
        if self.to_search.is_empty() {
            return;
        }
        for c in candidates.data.iter_mut() {
            if let Ok(i) = self.to_search.binary_search_by_key(&c.id, |e| e.0) {
                change(c, self.to_search[i].1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::testing::vocabulary;

    #[test]
    fn finds_candidates_in_any_order() {
        let mut by_token = ByToken::new();
        by_token.entries = vec![(-5, 9.0), (0, 1.0), (0, 2.0), (3, 5.0), (77, 9.0)];
        assert_eq!((by_token.find(0), by_token.find(1)), (Ok(1), Err(3)));
        let mut data = vocabulary(&[0.0; 4]);
        by_token.for_candidates(&mut Candidates::new(&mut data), |c, x| c.logit += x);
        assert_eq!(data.iter().map(|c| c.logit).collect::<Vec<_>>(), [3.0, 0.0, 0.0, 5.0]);
        data.rotate_left(1);
        by_token.for_candidates(&mut Candidates::new(&mut data), |c, x| c.logit += x);
        assert_eq!(data.iter().map(|c| c.logit).collect::<Vec<_>>(), [0.0, 0.0, 10.0, 4.0]);
    }
}
