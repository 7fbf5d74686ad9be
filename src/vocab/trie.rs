//! A prefix tree over token texts, for the tokenizers that look for the longest token or for all tokens at a place:
//! WPM, UGM, RWKV, and the search for special tokens.

use super::Token;

/// The tree; nodes are numbered breadth first, so that the children of a node stand side by side.
#[derive(Debug, Default)]
pub struct Trie {
    nodes: Vec<Node>,
    /// The byte that leads to each node.
    labels: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    first_child: u32,
    n_children: u16,
    token: Option<Token>,
}

impl Trie {
    /// Longer texts are left out of the tree. No real token is as long, and the limit bounds the work per character of
    /// text when a file is made to be slow.
    pub const MAX_DEPTH: usize = 1024;

    /// A tree over these texts; of equal texts the last one counts.
    pub fn new<'a>(entries: impl Iterator<Item = (&'a [u8], Token)>) -> Trie {
        let mut entries: Vec<_> = entries.filter(|(text, _)| text.len() <= Self::MAX_DEPTH).collect();
        entries.sort_by_key(|&(text, _)| text);
        let mut trie = Trie { nodes: Vec::new(), labels: Vec::new() };
        trie.push(0);
        // For each node: the entries below it and how many of their bytes led to it.
        let mut below = vec![(0, entries.len(), 0)];
        let mut node = 0;
        while node < below.len() {
            let (mut first, last, depth) = below[node];
            while first < last && entries[first].0.len() == depth {
                trie.nodes[node].token = Some(entries[first].1);
                first += 1;
            }
            trie.nodes[node].first_child = trie.nodes.len() as u32;
            while first < last {
                let label = entries[first].0[depth];
                let n = entries[first..last].partition_point(|(text, _)| text[depth] == label);
                trie.push(label);
                trie.nodes[node].n_children += 1;
                below.push((first, first + n, depth + 1));
                first += n;
            }
            node += 1;
        }
        trie
    }

    fn push(&mut self, label: u8) {
        self.nodes.push(Node { first_child: 0, n_children: 0, token: None });
        self.labels.push(label);
    }

    fn child(&self, node: usize, label: u8) -> Option<usize> {
        let first = self.nodes[node].first_child as usize;
        let labels = &self.labels[first..first + usize::from(self.nodes[node].n_children)];
        labels.binary_search(&label).ok().map(|i| first + i)
    }

    /// The tokens that `text` starts with, shortest first, each with its length. The empty text is none of them.
    pub fn prefixes(&self, text: &[u8]) -> impl Iterator<Item = (usize, Token)> {
        let mut node = (!self.nodes.is_empty()).then_some(0);
        text.iter()
            .enumerate()
            .map_while(move |(i, &byte)| {
                node = self.child(node?, byte);
                node.map(|node| (i + 1, self.nodes[node].token))
            })
            .filter_map(|(n, token)| token.map(|token| (n, token)))
    }

    /// How many bytes at the start of `text` begin some entry, whether or not one ends there.
    pub fn common_prefix(&self, text: &[u8]) -> usize {
        let mut node = (!self.nodes.is_empty()).then_some(0);
        text.iter()
            .take_while(|&&byte| {
                node = node.and_then(|node| self.child(node, byte));
                node.is_some()
            })
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_token_at_the_start_of_a_text() {
        let entries: [(&[u8], Token); 6] = [(b"ab", 1), (b"a", 2), (b"abcd", 3), (b"b", 4), (b"a", 5), (b"", 6)];
        let trie = Trie::new(entries.into_iter());
        assert_eq!(trie.prefixes(b"abcx").collect::<Vec<_>>(), [(1, 5), (2, 1)]);
        assert_eq!(trie.prefixes(b"abcd").last(), Some((4, 3)));
        assert_eq!(trie.prefixes(b"x").next(), None);
        assert_eq!((trie.common_prefix(b"abcx"), trie.common_prefix(b"x"), trie.common_prefix(b"")), (3, 0, 0));
        assert_eq!(Trie::default().prefixes(b"a").next(), None);
    }
}
