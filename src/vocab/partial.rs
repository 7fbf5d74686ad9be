//! UTF-8 that arrives in pieces: tokens may begin and end inside a character. Used by the tree of pieces and by grammars,
//! which match characters while tokens bring bytes.

/// A character of which bytes are missing, or the remains of one that was complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Partial {
    /// The bits that are known.
    pub value: u32,
    /// How many bytes are missing; 0 for none, -1 after what is not UTF-8.
    pub n_remain: i32,
}

impl Partial {
    /// Whether bytes are missing.
    pub fn is_open(self) -> bool {
        self.n_remain > 0
    }

    /// The least and the greatest character that it may become; `None` if none.
    pub fn range(self) -> Option<(u32, u32)> {
        // A character below 0x80 has no two-byte form.
        if self.n_remain < 0 || (self.n_remain == 1 && self.value < 2) {
            return None;
        }
        let shift = 6 * self.n_remain as u32;
        let low = self.value << shift;
        let high = low | ((1 << shift) - 1);
        let low = match (low, self.n_remain) {
            (0, 2) => 1 << 11,
            (0, 3) => 1 << 16,
            _ => low,
        };
        Some((low, high))
    }
}

/// Appends the characters that `piece` completes after `start` to `out`, up to a NUL, and returns what is left over.
/// What is not UTF-8 gives no characters at all and `n_remain` -1. As in llama.cpp, bytes that continue a character are
/// checked only where it began in an earlier piece.
pub fn decode(piece: &[u8], start: Partial, out: &mut Vec<u32>) -> Partial {
    const INVALID: Partial = Partial { value: 0, n_remain: -1 };
    let n_before = out.len();
    let mut bytes = piece.iter().copied().take_while(|b| *b != 0).peekable();
    let mut partial = start;
    let continues = partial.is_open();
    while let Some(&byte) = bytes.peek().filter(|_| partial.is_open()) {
        if byte >> 6 != 2 {
            return INVALID;
        }
        partial = Partial { value: (partial.value << 6) + u32::from(byte & 0x3F), n_remain: partial.n_remain - 1 };
        bytes.next();
    }
    if continues && partial.n_remain == 0 {
        out.push(partial.value);
    }
    while let Some(lead) = bytes.next() {
        let (n_remain, mask) = match lead {
            0x00..=0x7F => (0, 0x7F),
            0x80..=0xBF => {
                out.truncate(n_before);
                return INVALID;
            }
            0xC0..=0xDF => (1, 0x3F),
            0xE0..=0xEF => (2, 0x1F),
            0xF0..=0xFF => (3, 0x0F),
        };
        partial = Partial { value: u32::from(lead & mask), n_remain };
        while let Some(byte) = (partial.is_open()).then(|| bytes.next()).flatten() {
            partial = Partial { value: (partial.value << 6) + u32::from(byte & 0x3F), n_remain: partial.n_remain - 1 };
        }
        if partial.n_remain == 0 {
            out.push(partial.value);
        }
    }
    partial
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> (Vec<u32>, Partial) {
        let mut out = Vec::new();
        let partial = pieces.iter().fold(Partial::default(), |partial, piece| decode(piece, partial, &mut out));
        (out, partial)
    }

    #[test]
    fn characters_may_be_cut_anywhere() {
        let text = "aé€🦀z";
        let expected: Vec<u32> = text.chars().map(u32::from).collect();
        for cut in 0..=text.len() {
            let (a, b) = text.as_bytes().split_at(cut);
            assert_eq!(read(&[a, b]).0, expected, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(read(&bytes).0, expected);
    }

    #[test]
    fn what_is_not_utf8_gives_nothing() {
        assert_eq!(read(&[b"ab\x80"]), (vec![], Partial { value: 0, n_remain: -1 }));
        assert_eq!(read(&[b"\xC3", b"a"]), (vec![], Partial { value: 0, n_remain: -1 }));
        assert_eq!(read(&[b"a\0b"]).0, [97]);
        // Inside one piece nothing is checked.
        assert_eq!(read(&[b"\xC3a"]).0, [0xE1]);
    }

    #[test]
    fn ranges_of_what_may_come() {
        let range = |bytes: &[u8]| read(&[bytes]).1.range();
        assert_eq!(range(b"\xC3"), Some((0xC0, 0xFF)));
        assert_eq!(range(b"\xC0"), None);
        assert_eq!(range(b"\xE0"), Some((0x800, 0xFFF)));
        assert_eq!(range(b"\xF0\x9F"), Some((0x1F000, 0x1FFFF)));
        assert_eq!(range(b"\xF0"), Some((0x10000, 0x3FFFF)));
    }
}
