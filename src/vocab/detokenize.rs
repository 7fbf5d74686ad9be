//! From tokens to text. What each token adds to a text is worked out once for all tokens, when first asked for.

use super::texts::Texts;
use super::unicode::{self, SPACE_MARK};
use super::{TOKEN_NULL, Token, Tokenizer, Vocab, attr, plamo2, rwkv};
use crate::Result;

/// A token spelled in characters that stand for no byte is shown as a list of them, each with the whole text; beyond this
/// size it is shown as it stands, or a long text would grow with its square.
const MAX_ODD_PIECE: usize = 1 << 12;

/// A text and how much room the caller needs to get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detokenized {
    /// The text.
    pub text: Vec<u8>,
    /// The bytes before spaces were cleaned up, at least as many as the text has.
    pub n_uncleaned: usize,
}

impl Vocab {
    /// What a token adds to a text, without up to `lstrip` spaces at its start. Control tokens and the unknown token add
    /// nothing unless `special`. May be part of a UTF-8 character. Errors when there is no such token.
    pub fn token_to_piece(&self, token: Token, lstrip: i32, special: bool) -> Result<&[u8]> {
        let i = self.check(token)?;
        if !special && self.attrs[i] & (attr::UNKNOWN | attr::CONTROL) != 0 {
            return Ok(&[]);
        }
        let piece = self.pieces()?.get(i);
        let n_spaces = piece.iter().zip(0..lstrip).take_while(|(b, _)| **b == b' ').count();
        Ok(&piece[n_spaces..])
    }

    /// The text of `tokens`. `remove_special` leaves out the BOS and EOS that [`Vocab::tokenize`] put around it;
    /// `unparse_special` shows control tokens. Empty without a vocabulary; errors when a token is not in it.
    pub fn detokenize(&self, tokens: &[Token], remove_special: bool, unparse_special: bool) -> Result<Vec<u8>> {
        Ok(self.detokenize_sized(tokens, remove_special, unparse_special)?.text)
    }

    /// [`Vocab::detokenize`], with the buffer size that llama.h's callers are told.
    pub fn detokenize_sized(
        &self,
        mut tokens: &[Token],
        remove_special: bool,
        unparse_special: bool,
    ) -> Result<Detokenized> {
        let mut text = Vec::new();
        if matches!(self.tokenizer, Tokenizer::None) {
            return Ok(Detokenized { text, n_uncleaned: 0 });
        }
        let mut remove_space = self.options.add_space_prefix;
        let is = |token: Option<&Token>, special: Token| token == Some(&special) && special != TOKEN_NULL;
        if remove_special && self.options.add_bos && is(tokens.first(), self.bos()) {
            remove_space = false;
            tokens = &tokens[1..];
        }
        if remove_special && self.options.add_eos && is(tokens.last(), self.eos()) {
            tokens = &tokens[..tokens.len() - 1];
        }
        for &token in tokens {
            text.extend_from_slice(self.token_to_piece(token, i32::from(remove_space), unparse_special)?);
            remove_space = false;
        }
        let n_uncleaned = text.len();
        if self.options.clean_spaces {
            text = clean_spaces(text);
        }
        Ok(Detokenized { text, n_uncleaned })
    }

    fn pieces(&self) -> Result<&Texts> {
        if let Some(pieces) = self.pieces.get() {
            return Ok(pieces);
        }
        let texts = self.shown_texts();
        let mut pieces = Texts::with_capacity(texts.len(), 0);
        for (i, text) in texts.iter().enumerate() {
            pieces.push(&self.piece(i, text))?;
        }
        Ok(self.pieces.get_or_init(|| pieces))
    }

    fn piece(&self, i: usize, text: &[u8]) -> Vec<u8> {
        let attrs = self.attrs[i];
        match self.tokenizer {
            Tokenizer::None => Vec::new(),
            Tokenizer::Rwkv(_) => rwkv::unescape(text),
            Tokenizer::Test => format!("{i:x}").into_bytes(),
            Tokenizer::Plamo2(_) => match plamo2::byte_of(text).filter(|_| attrs & attr::BYTE != 0) {
                Some(byte) => vec![byte],
                None => text.to_vec(),
            },
            Tokenizer::Spm
            | Tokenizer::Wpm(_)
            | Tokenizer::Ugm(_)
            | Tokenizer::Bpe(_)
            | Tokenizer::BpeWhitespace(_)
            | Tokenizer::BpeDna(_) => {
                if attrs & (attr::UNKNOWN | attr::CONTROL | attr::USER_DEFINED) != 0 {
                    text.to_vec()
                } else if attrs & attr::NORMAL != 0 {
                    if self.options.escape_whitespaces { unescape_spaces(text) } else { decode_bytes(text) }
                } else if attrs & attr::BYTE != 0 {
                    leading_hex(text.get(3..).unwrap_or_default()).into_iter().collect()
                } else {
                    Vec::new()
                }
            }
        }
    }
}

/// The byte that two hexadecimal digits, or one before something else, stand for; nothing where there is no text.
fn leading_hex(text: &[u8]) -> Option<u8> {
    let digits = text.iter().take(2).map_while(|&b| char::from(b).to_digit(16));
    (!text.is_empty()).then(|| digits.fold(0, |byte, digit| byte << 4 | digit as u8))
}

fn unescape_spaces(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut start = 0;
    for at in memchr::memmem::find_iter(text, SPACE_MARK) {
        out.extend_from_slice(&text[start..at]);
        out.push(b' ');
        start = at + SPACE_MARK.len();
    }
    out.extend_from_slice(&text[start..]);
    out
}

/// The bytes that a text in GPT-2's characters spells. A character that stands for no byte is shown by its code.
fn decode_bytes(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut encoded = Vec::new();
    for c in unicode::codepoints(text) {
        if let Some(byte) = unicode::char_to_byte(c) {
            out.push(byte);
            continue;
        }
        encoded.clear();
        unicode::encode(c, &mut encoded);
        out.extend_from_slice(b"[UNK_BYTE_0x");
        for byte in &encoded {
            out.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
        out.extend_from_slice(text);
        out.push(b']');
        if out.len() > MAX_ODD_PIECE {
            return text.to_vec();
        }
    }
    out
}

/// Undoes the spaces that some tokenizers put around punctuation, as Hugging Face's `clean_up_tokenization_spaces` does.
fn clean_spaces(text: Vec<u8>) -> Vec<u8> {
    strip_contractions(strip_lone_apostrophes(strip_before_punctuation(text)))
}

/// `" ."` becomes `"."`, and so with `?`, `!` and `,`.
fn strip_before_punctuation(text: Vec<u8>) -> Vec<u8> {
    keep(&text, |i| !(text[i] == b' ' && matches!(text.get(i + 1), Some(b'?' | b'!' | b'.' | b','))))
}

/// `" ' "` becomes `"'"`.
fn strip_lone_apostrophes(text: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut i = 0;
    while i < text.len() {
        // The first space counts only if it was not itself dropped for the apostrophe before.
        if text[i..].starts_with(b" ' ") {
            out.push(b'\'');
            i += 3;
        } else {
            out.push(text[i]);
            i += 1;
        }
    }
    out
}

/// `" 's"` becomes `"'s"`, and so with `'m`, `'re` and `'ve`.
fn strip_contractions(text: Vec<u8>) -> Vec<u8> {
    const ENDINGS: [&[u8]; 4] = [b" 's", b" 'm", b" 're", b" 've"];
    keep(&text, |i| !ENDINGS.iter().any(|ending| text[i..].starts_with(ending)))
}

fn keep(text: &[u8], keep: impl Fn(usize) -> bool) -> Vec<u8> {
    text.iter().enumerate().filter(|&(i, _)| keep(i)).map(|(_, &byte)| byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_are_cleaned_up() {
        let clean = |text: &str| String::from_utf8(clean_spaces(text.as_bytes().to_vec())).unwrap();
        assert_eq!(clean("Hello , world ! ?"), "Hello, world!?");
        assert_eq!(clean("it 's we 're I 'm you 've"), "it's we're I'm you've");
        assert_eq!(clean("don 't they 'll I 'd"), "don 't they 'll I 'd");
        assert_eq!(clean("a ' b ' c"), "a'b'c");
        assert_eq!(clean(" ' ' "), "'' ");
        assert_eq!(clean(" ."), ".");
        assert_eq!(clean(""), "");
    }

    #[test]
    fn characters_that_are_no_bytes_are_shown() {
        assert_eq!(decode_bytes("Ġa".as_bytes()), b" a");
        assert_eq!(decode_bytes("中".as_bytes()), "[UNK_BYTE_0xe4b8ad中]".as_bytes());
        let long = "中".repeat(1000);
        assert_eq!(decode_bytes(long.as_bytes()), long.as_bytes());
    }

    #[test]
    fn byte_tokens_are_read_leniently() {
        assert_eq!([&b"0A>"[..], b"f>", b"zz", b""].map(leading_hex), [Some(0x0A), Some(0x0F), Some(0), None]);
    }
}
