//! What the tokenizers know of Unicode: lenient UTF-8, character kinds, lower case, base characters.
//!
//! Text comes from C callers, so any bytes must do: what is not UTF-8 reads as U+FFFD byte by byte, while surrogates
//! and overlong forms decode as if they were legal, as llama.cpp has it. The vocabularies were made for these rules.

use std::borrow::Cow;
use std::sync::OnceLock;

use unicode_normalization::char::decompose_canonical;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Bits of [`kind`]. A character has at most one general category of the first six and any of the others.
pub mod is {
    /// `\p{N}`
    pub const NUMBER: u16 = 1 << 0;
    /// `\p{L}`
    pub const LETTER: u16 = 1 << 1;
    /// `\p{M}`
    pub const MARK: u16 = 1 << 2;
    /// `\p{P}`
    pub const PUNCTUATION: u16 = 1 << 3;
    /// `\p{S}`
    pub const SYMBOL: u16 = 1 << 4;
    /// `\p{C}` but unassigned
    pub const CONTROL: u16 = 1 << 5;
    /// `\s`
    pub const WHITESPACE: u16 = 1 << 6;
    /// CR or LF
    pub const NEWLINE: u16 = 1 << 7;
    /// U+0020 alone
    pub const SPACE: u16 = 1 << 8;
    /// `[A-Z]`
    pub const ASCII_UPPER: u16 = 1 << 9;
    /// `[a-z]`
    pub const ASCII_LOWER: u16 = 1 << 10;
    /// `[0-9]`
    pub const ASCII_DIGIT: u16 = 1 << 11;
    /// ASCII that is printed and neither letter, digit nor space
    pub const ASCII_PUNCTUATION: u16 = 1 << 12;
    /// the blocks of Chinese ideographs
    pub const HAN: u16 = 1 << 13;
    /// every character
    pub const ANY: u16 = 1 << 14;
}

/// U+FFFD, what a byte that is no UTF-8 reads as.
pub const REPLACEMENT: u32 = 0xFFFD;
/// U+2581, which stands for a space inside SentencePiece tokens.
pub const SPACE_MARK: &[u8] = "▁".as_bytes();

const N_CODEPOINTS: u32 = 0x11_0000;
const PAGE: usize = 256;

/// The code point at the start of `bytes` (not empty) and how many bytes it takes.
pub fn decode(bytes: &[u8]) -> (u32, usize) {
    let lead = bytes[0];
    let (len, bits) = match lead {
        0x00..=0x7F => return (u32::from(lead), 1),
        0xC0..=0xDF => (2, lead & 0x1F),
        0xE0..=0xEF => (3, lead & 0x0F),
        0xF0..=0xF7 => (4, lead & 0x07),
        _ => return (REPLACEMENT, 1),
    };
    let tail = bytes.get(1..len).unwrap_or_default();
    if tail.is_empty() || tail.iter().any(|b| b & 0xC0 != 0x80) {
        return (REPLACEMENT, 1);
    }
    let c = tail.iter().fold(u32::from(bits), |c, b| c << 6 | u32::from(b & 0x3F));
    if c < N_CODEPOINTS { (c, len) } else { (REPLACEMENT, 1) }
}

/// Whether `bytes` (not empty) start with something that [`decode`] reads without U+FFFD for a broken byte.
pub fn starts_valid(bytes: &[u8]) -> bool {
    bytes[0] < 0x80 || decode(bytes).1 > 1
}

/// The code points of `text`.
pub fn codepoints(text: &[u8]) -> impl Iterator<Item = u32> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (c, n) = decode(rest);
        rest = &rest[n..];
        Some(c)
    })
}

/// Appends `c` as UTF-8, surrogates included.
pub fn encode(c: u32, out: &mut Vec<u8>) {
    let tail = |shift: u32| 0x80 | (c >> shift & 0x3F) as u8;
    match c {
        0..=0x7F => out.push(c as u8),
        0x80..=0x7FF => out.extend([0xC0 | (c >> 6) as u8, tail(0)]),
        0x800..=0xFFFF => out.extend([0xE0 | (c >> 12) as u8, tail(6), tail(0)]),
        _ => out.extend([0xF0 | (c >> 18 & 7) as u8, tail(12), tail(6), tail(0)]),
    }
}

/// How many bytes [`encode`] writes for `c`.
pub fn encoded_len(c: u32) -> usize {
    1 + usize::from(c > 0x7F) + usize::from(c > 0x7FF) + usize::from(c > 0xFFFF)
}

/// How many bytes the lead byte of a character announces; a stray byte counts as a character of its own.
pub fn announced_len(lead: u8) -> usize {
    match lead {
        0x00..=0xBF => 1,
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xFF => 4,
    }
}

/// `text` with everything that is not UTF-8 replaced, so that code points and bytes correspond.
pub fn canonical(text: &[u8]) -> Cow<'_, [u8]> {
    if std::str::from_utf8(text).is_ok() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len() + text.len() / 2);
    codepoints(text).for_each(|c| encode(c, &mut out));
    Cow::Owned(out)
}

/// What sort of character `c` is: bits of [`is`]. Looked up by pages of 256 that are filled when first met, since the
/// category search of the crate is too slow for every character of a prompt.
pub fn kind(c: u32) -> u16 {
    static PAGES: [OnceLock<Box<[u16; PAGE]>>; N_CODEPOINTS as usize / PAGE] =
        [const { OnceLock::new() }; N_CODEPOINTS as usize / PAGE];
    match PAGES.get(c as usize / PAGE) {
        None => is::ANY,
        Some(page) => {
            let first = c & !(PAGE as u32 - 1);
            page.get_or_init(|| Box::new(std::array::from_fn(|i| kind_slow(first + i as u32))))[c as usize % PAGE]
        }
    }
}

fn kind_slow(c: u32) -> u16 {
    let category = match char::from_u32(c).map(|c| c.general_category_group()) {
        _ if is_too_new(c) => 0,
        Some(GeneralCategoryGroup::Number) => is::NUMBER,
        Some(GeneralCategoryGroup::Letter) => is::LETTER,
        Some(GeneralCategoryGroup::Mark) => is::MARK,
        Some(GeneralCategoryGroup::Punctuation) => is::PUNCTUATION,
        Some(GeneralCategoryGroup::Symbol) => is::SYMBOL,
        Some(GeneralCategoryGroup::Separator) => 0,
        Some(GeneralCategoryGroup::Other) if is_unassigned(c) => 0,
        Some(GeneralCategoryGroup::Other) | None => is::CONTROL,
    };
    let set = [
        (is::WHITESPACE, char::from_u32(c).is_some_and(char::is_whitespace)),
        (is::NEWLINE, c == '\r' as u32 || c == '\n' as u32),
        (is::SPACE, c == ' ' as u32),
        (is::ASCII_UPPER, (0x41..=0x5A).contains(&c)),
        (is::ASCII_LOWER, (0x61..=0x7A).contains(&c)),
        (is::ASCII_DIGIT, (0x30..=0x39).contains(&c)),
        (is::ASCII_PUNCTUATION, c < 0x80 && (c as u8).is_ascii_punctuation()),
        (is::HAN, HAN.iter().any(|&(first, last)| (first..=last).contains(&c))),
    ];
    set.iter().filter(|(_, holds)| *holds).fold(is::ANY | category, |kind, (bit, _)| kind | bit)
}

fn is_unassigned(c: u32) -> bool {
    char::from_u32(c).is_some_and(|c| c.general_category() == unicode_properties::GeneralCategory::Unassigned)
}

/// Whether `c` was assigned after Unicode 15.1, the version of llama.cpp's tables: to those it is an unassigned
/// character, in no category and without mappings, and so it must be here whatever the crates know by now.
fn is_too_new(c: u32) -> bool {
    let i = TOO_NEW.partition_point(|&(_, last)| last < c);
    TOO_NEW.get(i).is_some_and(|&(first, _)| first <= c)
}

/// Ranges of [`is_too_new`], joined over code points that are still unassigned.
#[rustfmt::skip]
const TOO_NEW: [(u32, u32); 78] = [
    (0x558, 0x558), (0x58B, 0x58C), (0x5C8, 0x5C9), (0x88F, 0x88F), (0x897, 0x897), (0xB53, 0xB54), (0xC5C, 0xC5C),
    (0xCDC, 0xCDC), (0x1ACF, 0x1AF0), (0x1B4E, 0x1B4F), (0x1B7F, 0x1B7F), (0x1C89, 0x1C8A), (0x208F, 0x208F),
    (0x209D, 0x209F), (0x20C1, 0x20C4), (0x2427, 0x2429), (0x2B96, 0x2B96), (0x2E60, 0x2E63), (0x31E4, 0x31E5),
    (0xA7CB, 0xA7CF), (0xA7D2, 0xA7D2), (0xA7D4, 0xA7D4), (0xA7DA, 0xA7F1), (0xAB6C, 0xAB6D), (0xFBC3, 0xFBD2),
    (0xFD90, 0xFD91), (0xFDC8, 0xFDCE), (0x105C0, 0x105F3), (0x107BB, 0x107BF), (0x10940, 0x10959),
    (0x10D40, 0x10D8F), (0x10EC2, 0x10EFC), (0x11380, 0x113E2), (0x116D0, 0x116E3), (0x11B0A, 0x11BF9),
    (0x11DB0, 0x11DF1), (0x11F5A, 0x11F5A), (0x1246F, 0x1246F), (0x12475, 0x1247F), (0x12550, 0x12686),
    (0x13460, 0x143FA), (0x16100, 0x16139), (0x16D40, 0x16D79), (0x16EA0, 0x16ED3), (0x16FF2, 0x16FF6),
    (0x187F8, 0x187FF), (0x18CD6, 0x18CFF), (0x18D09, 0x191D2), (0x1B123, 0x1B128), (0x1B168, 0x1B168),
    (0x1CC00, 0x1CEFD), (0x1D127, 0x1D128), (0x1D1EB, 0x1D1FF), (0x1D250, 0x1D281), (0x1D6A6, 0x1D6A6),
    (0x1DB00, 0x1DB1C), (0x1DF1F, 0x1DF24), (0x1DF2B, 0x1DFFF), (0x1E5D0, 0x1E6FF), (0x1F1AE, 0x1F1AE),
    (0x1F6D8, 0x1F6D9), (0x1F777, 0x1F77A), (0x1F7DA, 0x1F7DB), (0x1F7F1, 0x1F7FF), (0x1F8B2, 0x1F8D8),
    (0x1FA54, 0x1FA57), (0x1FA89, 0x1FA8F), (0x1FABE, 0x1FABE), (0x1FAC6, 0x1FACD), (0x1FADC, 0x1FADF),
    (0x1FAE9, 0x1FAEF), (0x1FAF9, 0x1FAFA), (0x1FBCB, 0x1FBEF), (0x1FBFA, 0x1FBFA), (0x2B73A, 0x2B73F),
    (0x2B81E, 0x2B81E), (0x2CEA2, 0x2CEAD), (0x323B0, 0x3FC3F),
];

/// CJK unified ideographs with extensions A to F, and the compatibility blocks.
const HAN: [(u32, u32); 9] = [
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2CEB0, 0x2EBEF),
    (0x2F800, 0x2FA1F),
];

/// The simple lower case of `c`: one character for one.
pub fn to_lowercase(c: u32) -> u32 {
    char::from_u32(c).filter(|_| !is_too_new(c)).and_then(|c| c.to_lowercase().next()).map_or(c, u32::from)
}

/// The first character of the canonical decomposition of `c`: `é` gives `e`, and a Hangul syllable its first jamo.
pub fn base_character(c: u32) -> u32 {
    let Some(c) = char::from_u32(c).filter(|_| !is_too_new(c)) else { return c };
    let mut base = None;
    decompose_canonical(c, |part| {
        base.get_or_insert(part);
    });
    base.map_or(c as u32, u32::from)
}

/// The character that GPT-2 vocabularies write for a byte: itself when it prints, one from U+0100 on otherwise.
pub fn byte_to_char(byte: u8) -> u32 {
    let b = u32::from(byte);
    match byte {
        0x00..=0x20 => 0x100 + b,
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => b,
        0x7F..=0xA0 => 0x121 + (b - 0x7F),
        0xAD => 0x143,
    }
}

/// The byte that a character of a GPT-2 vocabulary stands for.
pub fn char_to_byte(c: u32) -> Option<u8> {
    match c {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(c as u8),
        0x100..=0x120 => Some((c - 0x100) as u8),
        0x121..=0x142 => Some((c - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_point_survives_encoding() {
        let mut bytes = Vec::new();
        for c in 0..N_CODEPOINTS {
            bytes.clear();
            encode(c, &mut bytes);
            assert_eq!(decode(&bytes), (c, bytes.len()));
            assert_eq!((encoded_len(c), announced_len(bytes[0])), (bytes.len(), bytes.len()));
        }
    }

    #[test]
    fn broken_bytes_become_replacement_characters() {
        assert_eq!(codepoints(b"a\xFFb\xE2\x82").collect::<Vec<_>>(), [0x61, 0xFFFD, 0x62, 0xFFFD, 0xFFFD]);
        assert_eq!(codepoints(b"\xF4\x90\x80\x80").collect::<Vec<_>>(), [0xFFFD; 4], "above U+10FFFF");
        assert_eq!(canonical(b"\xC0\x80").as_ref(), b"\0", "an overlong form is shortened");
        assert_eq!(canonical(b"\xED\xA0\x80").as_ref(), b"\xED\xA0\x80", "a surrogate stays");
    }

    #[test]
    fn gpt2_characters_and_bytes_correspond() {
        for byte in 0..=255 {
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte));
        }
        assert_eq!(byte_to_char(b' '), 'Ġ' as u32);
        assert_eq!(char_to_byte('中' as u32), None);
    }

    #[test]
    fn kinds_follow_the_general_category() {
        assert_eq!(kind('é' as u32), is::ANY | is::LETTER);
        assert_eq!(kind('٣' as u32), is::ANY | is::NUMBER);
        assert_eq!(kind('\n' as u32), is::ANY | is::CONTROL | is::WHITESPACE | is::NEWLINE);
        assert_eq!(kind(0x0378), is::ANY, "unassigned");
        assert_eq!(kind(0x20_0000), is::ANY);
        assert_eq!((to_lowercase('İ' as u32), base_character('é' as u32)), ('i' as u32, 'e' as u32));
        assert_eq!(base_character('각' as u32), 'ᄀ' as u32);
    }
}
