//! From text to tokens: special tokens around and inside, the model's tokenizer for what lies between.

use super::fragments::Fragment;
use super::unicode::SPACE_MARK;
use super::{Options, TOKEN_NULL, Token, Tokenizer, Vocab, bpe, plamo2, rwkv, spm, trie::Trie, ugm, wpm};
use crate::{Error, Result};

/// How many bytes make a token of the test tokenizer.
const TEST_CHUNK: usize = 5;

/// A special token with its name, for messages.
type Named = (&'static str, Token);

impl Vocab {
    /// The tokens of `text`. `add_special` puts BOS, EOS or SEP around it as the model wants. `parse_special` reads the
    /// texts of control tokens as those tokens (user-defined tokens always are read so); without it they are plain text,
    /// as text from users should be. Any bytes will do; what is not UTF-8 is treated as llama.cpp treats it.
    ///
    /// Errors when the model has no vocabulary, or lacks a token that it needs.
    pub fn tokenize(&self, text: &[u8], add_special: bool, parse_special: bool) -> Result<Vec<Token>> {
        if let Tokenizer::None = self.tokenizer {
            return Err(Error::Unsupported("the model has no vocabulary".into()));
        }
        if i32::try_from(text.len()).is_err() {
            return Err(Error::argument("a text to be tokenized may have 2 GiB at most"));
        }
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        let around = if add_special { self.around() } else { (None, None) };
        if let Some((name, bos)) = around.0 {
            out.push(required(name, bos)?);
        }
        let mut after_special = true;
        for fragment in self.specials().partition(self, text, parse_special) {
            after_special = match fragment {
                Fragment::Special(id) => {
                    out.push(id);
                    true
                }
                Fragment::Text(range) => {
                    self.tokenize_plain(&text[range], after_special, &mut out)?;
                    false
                }
            };
        }
        if let Some((name, id)) = around.1 {
            out.push(required(name, id)?);
        }
        if add_special {
            self.warn_of_double(&out);
        }
        Ok(out)
    }

    /// The special tokens before and after a text, with their names.
    fn around(&self) -> (Option<Named>, Option<Named>) {
        let bos = Some(("BOS", self.bos()));
        match self.tokenizer {
            Tokenizer::Spm
            | Tokenizer::Bpe(_)
            | Tokenizer::BpeWhitespace(_)
            | Tokenizer::BpeDna(_)
            | Tokenizer::Ugm(_) => {
                (bos.filter(|_| self.options.add_bos), Some(("EOS", self.eos())).filter(|_| self.options.add_eos))
            }
            Tokenizer::Wpm(_) => (bos, Some(("SEP", self.sep()))),
            Tokenizer::None | Tokenizer::Rwkv(_) | Tokenizer::Plamo2(_) | Tokenizer::Test => (None, None),
        }
    }

    /// Tokenizes text in which nothing is special. `after_special` tells whether it starts the prompt or follows a special
    /// token.
    fn tokenize_plain(&self, text: &[u8], after_special: bool, out: &mut Vec<Token>) -> Result<()> {
        match &self.tokenizer {
            Tokenizer::None => Ok(()),
            Tokenizer::Spm => {
                let prefix = after_special && self.options.add_space_prefix;
                spm::tokenize(self, &escape_spaces(text, prefix)?, out)
            }
            Tokenizer::Bpe(bpe) if self.options.escape_whitespaces => {
                bpe::tokenize(self, bpe, &escape_spaces(text, false)?, out)
            }
            Tokenizer::Bpe(bpe) => bpe::tokenize(self, bpe, text, out),
            Tokenizer::BpeWhitespace(bpe) => bpe::tokenize_whitespace(self, bpe, text, out),
            Tokenizer::BpeDna(bpe) => bpe::tokenize_dna(self, bpe, text, out),
            Tokenizer::Wpm(trie) => {
                wpm::tokenize(self, trie.get_or_init(|| Trie::new(self.entries())), text, out);
                Ok(())
            }
            Tokenizer::Ugm(ugm) => ugm::tokenize(self, ugm, self.unk(), text, out),
            Tokenizer::Rwkv(trie) => {
                rwkv::tokenize(trie.get_or_init(|| rwkv::trie(self)), self.unk(), text, out);
                Ok(())
            }
            Tokenizer::Plamo2(plamo2) => plamo2::tokenize(self, plamo2, text, out),
            Tokenizer::Test => {
                let hash = |chunk: &[u8]| chunk.iter().fold(0u64, |hash, &b| hash * 31 + u64::from(b));
                out.extend(text.chunks(TEST_CHUNK).map(|chunk| (hash(chunk) % self.n_tokens.max(1) as u64) as Token));
                Ok(())
            }
        }
    }

    /// The token of a newline. Tokenizers were asked for it before the file's special tokens were known, so the model's
    /// usual ones stand in.
    pub(super) fn find_newline(&self) -> Token {
        const T5_PAD: Token = 0;
        const T5_UNKNOWN: Token = 2;
        const BERT_PAD: Token = 0;
        let mut out = Vec::new();
        let (result, otherwise) = match &self.tokenizer {
            Tokenizer::None => return TOKEN_NULL,
            Tokenizer::Wpm(_) => return BERT_PAD,
            Tokenizer::Spm => return self.find(b"<0x0A>").or_else(|| self.find(b"\n")).unwrap_or(TOKEN_NULL),
            Tokenizer::Ugm(ugm) => (ugm::tokenize(self, ugm, T5_UNKNOWN, b"\n", &mut out), T5_PAD),
            Tokenizer::Bpe(_)
            | Tokenizer::BpeWhitespace(_)
            | Tokenizer::BpeDna(_)
            | Tokenizer::Rwkv(_)
            | Tokenizer::Plamo2(_)
            | Tokenizer::Test => (self.tokenize_plain(b"\n", false, &mut out), TOKEN_NULL),
        };
        match result {
            Ok(()) => out.first().copied().unwrap_or(otherwise),
            Err(_) => otherwise,
        }
    }

    fn warn_of_double(&self, tokens: &[Token]) {
        let Options { add_bos, add_eos, .. } = self.options;
        if add_bos && tokens.len() >= 2 && tokens[0] == self.bos() && tokens[1] == self.bos() {
            log::warn!("the prompt starts with a BOS token and the model adds another; it now starts with two");
        }
        if add_eos && tokens.ends_with(&[self.eos(), self.eos()]) {
            log::warn!("the prompt ends with an EOS token and the model adds another; it now ends with two");
        }
    }
}

fn required(name: &str, id: Token) -> Result<Token> {
    if id == TOKEN_NULL {
        return Err(Error::format(format!("the model wants a {name} token around texts but names none")));
    }
    Ok(id)
}

/// `text` with U+2581 for each space, and with one before it if asked.
fn escape_spaces(text: &[u8], prefix: bool) -> Result<Vec<u8>> {
    let mut escaped = Vec::with_capacity(text.len() + text.len() / 2 + SPACE_MARK.len());
    if prefix {
        escaped.extend_from_slice(SPACE_MARK);
    }
    for &byte in text {
        match byte {
            b' ' => escaped.extend_from_slice(SPACE_MARK),
            other => escaped.push(other),
        }
    }
    match u32::try_from(escaped.len()) {
        Ok(_) => Ok(escaped),
        Err(_) => Err(Error::argument("the text exceeds 4 GiB")),
    }
}
