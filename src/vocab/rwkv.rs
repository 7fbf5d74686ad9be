//! RWKV's tokenizer: at each place the longest token. Tokens are byte strings, written in the file with escapes.

use super::trie::Trie;
use super::{Token, Vocab};

/// The tree of all tokens, unescaped.
pub fn trie(vocab: &Vocab) -> Trie {
    let texts: Vec<_> = vocab.entries().map(|(text, id)| (unescape(text), id)).collect();
    Trie::new(texts.iter().map(|(text, id)| (text.as_slice(), *id)))
}

/// Appends the tokens of `text`.
pub fn tokenize(trie: &Trie, unknown: Token, text: &[u8], out: &mut Vec<Token>) {
    let mut rest = text;
    while !rest.is_empty() {
        let (n, id) = trie.prefixes(rest).last().unwrap_or((1, unknown));
        out.push(id);
        rest = &rest[n..];
    }
}

/// The bytes that a token's text stands for: `\t`, `\n`, `\r`, `\xhh`, and any other character after a backslash itself.
pub fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b't') => out.push(b'\t'),
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(b'x') => {
                if let (Some(high), Some(low)) = (bytes.next(), bytes.next()) {
                    out.push((hex_digit(high) << 4).wrapping_add(hex_digit(low)));
                }
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

/// The value of a lower-case hexadecimal digit; of anything else something, as in llama.cpp.
fn hex_digit(c: u8) -> u8 {
    if c >= b'a' { (c - b'a').wrapping_add(10) } else { c.wrapping_sub(b'0') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read() {
        assert_eq!(unescape(br"a\n\t\r\\\'\xe2\x9c"), b"a\n\t\r\\'\xe2\x9c");
        assert_eq!(unescape(br"a\x1"), b"a");
        assert_eq!(unescape(br"a\"), b"a");
    }

    #[test]
    fn the_longest_token_wins_and_bytes_without_one_are_unknown() {
        let entries: [(&[u8], Token); 3] = [(b"a", 1), (b"abc", 2), (b"b", 3)];
        let trie = Trie::new(entries.into_iter());
        let mut out = Vec::new();
        tokenize(&trie, 0, b"abcabax", &mut out);
        assert_eq!(out, [2, 1, 3, 1, 0]);
    }
}
