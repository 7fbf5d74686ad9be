//! What tokens add to a text, as a prefix tree of characters: a grammar that refuses a beginning refuses all tokens below it
//! at once. Made once for a vocabulary, when a grammar first asks.

use super::partial::{self, Partial};
use super::{Token, Vocab};
use crate::Result;

/// The tree, its nodes in the order of a walk that goes down before it goes on. Tokens that end a generation and tokens
/// that add no text are not in it.
#[derive(Debug, Default)]
pub struct PieceTree {
    /// All nodes but the root.
    pub nodes: Vec<PieceNode>,
    /// The depth of the deepest node; those under the root have depth 1.
    pub depth: usize,
    /// Tokens that add nothing but the beginning of a character.
    pub beginnings: Vec<(Token, Partial)>,
    /// Tokens that begin inside a character.
    pub continuations: Vec<Token>,
    tokens: Vec<Token>,
    partials: Vec<(Token, Partial)>,
}

/// A character after those of the nodes above.
#[derive(Debug, Clone, Copy)]
pub struct PieceNode {
    /// The code point.
    pub c: u32,
    /// How many characters lead here, this one included.
    pub depth: u32,
    /// The first node that is not below this one.
    pub next: u32,
    /// Where the node's tokens end; they begin where those of the node before end.
    tokens_end: u32,
    partials_end: u32,
}

/// A token's characters, as a range of an arena, and what it leaves over.
struct Entry {
    start: usize,
    end: usize,
    token: Token,
    partial: Partial,
}

impl PieceTree {
    /// The tree of a vocabulary.
    pub(super) fn new(vocab: &Vocab) -> Result<PieceTree> {
        let mut tree = PieceTree::default();
        let mut arena: Vec<u32> = Vec::new();
        let mut entries = Vec::new();
        for token in 0..vocab.texts.len() as Token {
            let piece = vocab.token_to_piece(token, 0, true)?;
            let Some(&first) = piece.first().filter(|&&b| b != 0 && !vocab.is_eog(token)) else { continue };
            if first & 0xC0 == 0x80 {
                tree.continuations.push(token);
                continue;
            }
            let start = arena.len();
            let partial = partial::decode(piece, Partial::default(), &mut arena);
            if arena.len() > start {
                entries.push(Entry { start, end: arena.len(), token, partial });
            } else if partial.is_open() {
                tree.beginnings.push((token, partial));
            }
        }
        entries.sort_unstable_by_key(|e| (&arena[e.start..e.end], e.token));
        // The nodes that lead to the latest one, whose ends are not known yet.
        let mut path: Vec<usize> = Vec::new();
        for e in &entries {
            let text = &arena[e.start..e.end];
            let shared = path.iter().zip(text).take_while(|(node, c)| tree.nodes[**node].c == **c).count();
            tree.close(path.drain(shared..));
            for &c in &text[shared..] {
                path.push(tree.nodes.len());
                tree.nodes.push(PieceNode {
                    c,
                    depth: path.len() as u32,
                    next: 0,
                    tokens_end: tree.tokens.len() as u32,
                    partials_end: tree.partials.len() as u32,
                });
            }
            tree.depth = tree.depth.max(path.len());
            // Equal and longer texts follow a text, so that its node is the latest.
            if e.partial.is_open() {
                tree.partials.push((e.token, e.partial));
            } else {
                tree.tokens.push(e.token);
            }
            let (tokens_end, partials_end) = (tree.tokens.len() as u32, tree.partials.len() as u32);
            let node = tree.nodes.last_mut().expect("every entry has characters");
            (node.tokens_end, node.partials_end) = (tokens_end, partials_end);
        }
        tree.close(path.into_iter());
        Ok(tree)
    }

    fn close(&mut self, nodes: impl Iterator<Item = usize>) {
        let next = self.nodes.len() as u32;
        nodes.for_each(|node| self.nodes[node].next = next);
    }

    /// The tokens whose text is that of node `i`.
    pub fn tokens(&self, i: usize) -> &[Token] {
        let start = i.checked_sub(1).map_or(0, |before| self.nodes[before].tokens_end);
        &self.tokens[start as usize..self.nodes[i].tokens_end as usize]
    }

    /// The tokens whose text is that of node `i` and the beginning of one more character.
    pub fn partials(&self, i: usize) -> &[(Token, Partial)] {
        let start = i.checked_sub(1).map_or(0, |before| self.nodes[before].partials_end);
        &self.partials[start as usize..self.nodes[i].partials_end as usize]
    }

    /// All tokens that complete a character.
    pub fn all_tokens(&self) -> impl Iterator<Item = Token> {
        self.tokens.iter().copied().chain(self.partials.iter().map(|(token, _)| *token))
    }
}

impl Vocab {
    /// The tree of what tokens add to a text.
    pub fn piece_tree(&self) -> Result<&PieceTree> {
        if let Some(tree) = self.piece_tree.get() {
            return Ok(tree);
        }
        let tree = PieceTree::new(self)?;
        Ok(self.piece_tree.get_or_init(|| tree))
    }
}
