//! Text to tokens and back. [`Vocab`] is loaded from a model file's metadata and is all that the layers above see: `capi`
//! for `llama_vocab_*`, `llama_tokenize`, `llama_detokenize` and `llama_token_to_piece`, `sampling` for grammars and
//! end-of-generation tokens.
//!
//! The way of a text: [`Vocab::tokenize`] (tokenize.rs) splits off special tokens (fragments.rs) and hands the rest to the
//! tokenizer of the model: spm.rs, bpe.rs (with pretokenize.rs), wpm.rs, ugm.rs, rwkv.rs or plamo2.rs. The way back is
//! detokenize.rs. load.rs reads the metadata, special.rs finds out which tokens are special.
//!
//! Results are those of llama.cpp, token for token, its oddities included: models were trained and prompts are cached
//! under them.

mod bpe;
mod detokenize;
mod fragments;
mod hash_order;
mod load;
mod merge;
pub mod partial;
mod pieces;
mod plamo2;
mod pretokenize;
mod pretokenizers;
mod rwkv;
mod special;
mod spm;
mod texts;
mod tokenize;
mod trie;
mod ugm;
mod unicode;
mod wpm;

use std::ffi::CStr;
use std::sync::OnceLock;

use crate::{Error, Result};

pub use pieces::{PieceNode, PieceTree};
pub use special::SpecialTokens;
use texts::{TextIndex, Texts};
pub use unicode::codepoints;

/// A token id: an index into the vocabulary, or [`TOKEN_NULL`].
pub type Token = i32;

/// No token (`LLAMA_TOKEN_NULL`).
pub const TOKEN_NULL: Token = -1;

/// The kinds of tokenizers, with llama.h's numbers.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VocabType {
    /// The model has no vocabulary.
    None = 0,
    /// SentencePiece byte-pair with byte fallback (Llama, Gemma).
    Spm = 1,
    /// Byte-pair with merges (GPT-2 and most others).
    Bpe = 2,
    /// WordPiece (BERT).
    Wpm = 3,
    /// SentencePiece unigram (T5, XLM-RoBERTa).
    Ugm = 4,
    /// Greedy longest match (RWKV).
    Rwkv = 5,
    /// PLaMo-2.
    Plamo2 = 6,
    /// Hashes of five bytes, for tests.
    Test = 7,
}

/// Bits of a token's attributes (`enum llama_token_attr`).
pub mod attr {
    /// The unknown token.
    pub const UNKNOWN: u32 = 1 << 0;
    /// Reserved, not for text.
    pub const UNUSED: u32 = 1 << 1;
    /// Ordinary text.
    pub const NORMAL: u32 = 1 << 2;
    /// Steers the model; shown only on request.
    pub const CONTROL: u32 = 1 << 3;
    /// Text that is always split off as this token.
    pub const USER_DEFINED: u32 = 1 << 4;
    /// One byte.
    pub const BYTE: u32 = 1 << 5;
    /// Matches normalized text.
    pub const NORMALIZED: u32 = 1 << 6;
    /// Swallows spaces before it.
    pub const LSTRIP: u32 = 1 << 7;
    /// Swallows spaces after it.
    pub const RSTRIP: u32 = 1 << 8;
    /// Only matches whole words.
    pub const SINGLE_WORD: u32 = 1 << 9;
}

/// How the tokenizer treats text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Put a space before text that follows a special token or starts the prompt.
    pub add_space_prefix: bool,
    /// Start with BOS.
    pub add_bos: bool,
    /// End with EOS.
    pub add_eos: bool,
    /// Put SEP between or after texts.
    pub add_sep: bool,
    /// Drop spaces before punctuation when detokenizing.
    pub clean_spaces: bool,
    /// Make one space of several.
    pub remove_extra_whitespaces: bool,
    /// Spaces are U+2581 inside tokens.
    pub escape_whitespaces: bool,
    /// Lower case first (BERT).
    pub lowercase: bool,
    /// Drop accents first (BERT).
    pub strip_accents: bool,
}

/// The tokenizers, with what each of them needs.
#[derive(Debug)]
enum Tokenizer {
    None,
    Spm,
    Bpe(bpe::Bpe),
    BpeWhitespace(bpe::Bpe),
    BpeDna(bpe::Bpe),
    Wpm(OnceLock<trie::Trie>),
    Ugm(ugm::Ugm),
    Rwkv(OnceLock<trie::Trie>),
    Plamo2(plamo2::Plamo2),
    Test,
}

/// A vocabulary and its tokenizer. Immutable after loading (what is made late is made once), so that any number of
/// threads may use it.
#[derive(Debug)]
pub struct Vocab {
    /// How many tokens there are; more than `texts` where a model without vocabulary gives their number only.
    n_tokens: usize,
    n_token_types: u32,
    /// What tokens are looked up by, in the order of their ids.
    texts: Texts,
    index: TextIndex,
    /// Where texts are shown otherwise than they are looked up.
    shown: Option<Texts>,
    scores: Vec<f32>,
    attrs: Vec<u32>,
    max_token_len: usize,
    special: SpecialTokens,
    /// Tokens that end a generation, ascending.
    eog: Vec<Token>,
    suppress: Vec<Token>,
    options: Options,
    tokenizer: Tokenizer,
    newline: OnceLock<Token>,
    specials: OnceLock<fragments::Specials>,
    pieces: OnceLock<Texts>,
    piece_tree: OnceLock<PieceTree>,
}

impl Vocab {
    /// How many tokens there are.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// How many token types the model has (BERT's segments); 0 if it has none.
    pub fn n_token_types(&self) -> u32 {
        self.n_token_types
    }

    /// Which tokenizer this is.
    pub fn vocab_type(&self) -> VocabType {
        match self.tokenizer {
            Tokenizer::None => VocabType::None,
            Tokenizer::Spm => VocabType::Spm,
            Tokenizer::Bpe(_) | Tokenizer::BpeWhitespace(_) | Tokenizer::BpeDna(_) => VocabType::Bpe,
            Tokenizer::Wpm(_) => VocabType::Wpm,
            Tokenizer::Ugm(_) => VocabType::Ugm,
            Tokenizer::Rwkv(_) => VocabType::Rwkv,
            Tokenizer::Plamo2(_) => VocabType::Plamo2,
            Tokenizer::Test => VocabType::Test,
        }
    }

    /// The token whose text is exactly `text`, as it stands in the file.
    pub fn find(&self, text: &[u8]) -> Option<Token> {
        self.index.find(&self.texts, text).map(|i| i as Token)
    }

    /// A token's text as it stands in the file (not what it adds to a text: that is [`Vocab::token_to_piece`]). Lives as
    /// long as the vocabulary. Errors when there is no such token or no vocabulary.
    pub fn text(&self, token: Token) -> Result<&CStr> {
        let i = self.check(token)?;
        Ok(self.shown_texts().c_str(i))
    }

    /// The score of a token: the log-probability in SentencePiece models, mostly 0 in others.
    pub fn score(&self, token: Token) -> Result<f32> {
        Ok(self.scores[self.check(token)?])
    }

    /// The attributes of a token, bits of [`attr`].
    pub fn attr(&self, token: Token) -> Result<u32> {
        Ok(self.attrs[self.check(token)?])
    }

    /// Whether a token ends the generation. False for what is no token.
    pub fn is_eog(&self, token: Token) -> bool {
        self.eog.binary_search(&token).is_ok()
    }

    /// All tokens that end a generation, ascending.
    pub fn eog_tokens(&self) -> &[Token] {
        &self.eog
    }

    /// Whether a token steers the model rather than being text. False for what is no token.
    pub fn is_control(&self, token: Token) -> bool {
        self.attr(token).is_ok_and(|attrs| attrs & attr::CONTROL != 0)
    }

    /// Tokens that the model's makers want never to be sampled.
    pub fn suppress_tokens(&self) -> &[Token] {
        &self.suppress
    }

    /// The special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Beginning of sequence, also called CLS.
    pub fn bos(&self) -> Token {
        self.special.bos
    }

    /// End of sequence.
    pub fn eos(&self) -> Token {
        self.special.eos
    }

    /// End of turn.
    pub fn eot(&self) -> Token {
        self.special.eot
    }

    /// End of message.
    pub fn eom(&self) -> Token {
        self.special.eom
    }

    /// What cannot be tokenized.
    pub fn unk(&self) -> Token {
        self.special.unk
    }

    /// Separator of sentences.
    pub fn sep(&self) -> Token {
        self.special.sep
    }

    /// Padding.
    pub fn pad(&self) -> Token {
        self.special.pad
    }

    /// The blank to be filled in (BERT).
    pub fn mask(&self) -> Token {
        self.special.mask
    }

    /// The newline, or what stands in for it.
    pub fn nl(&self) -> Token {
        *self.newline.get_or_init(|| self.find_newline())
    }

    /// Fill-in-the-middle: the text before the gap follows.
    pub fn fim_pre(&self) -> Token {
        self.special.fim_pre
    }

    /// Fill-in-the-middle: the text after the gap follows.
    pub fn fim_suf(&self) -> Token {
        self.special.fim_suf
    }

    /// Fill-in-the-middle: what belongs into the gap follows.
    pub fn fim_mid(&self) -> Token {
        self.special.fim_mid
    }

    /// Fill-in-the-middle: padding.
    pub fn fim_pad(&self) -> Token {
        self.special.fim_pad
    }

    /// Fill-in-the-middle: the name of a repository follows.
    pub fn fim_rep(&self) -> Token {
        self.special.fim_rep
    }

    /// Fill-in-the-middle: another file follows.
    pub fn fim_sep(&self) -> Token {
        self.special.fim_sep
    }

    /// How the tokenizer treats text.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether prompts start with BOS.
    pub fn add_bos(&self) -> bool {
        self.options.add_bos
    }

    /// Whether prompts end with EOS.
    pub fn add_eos(&self) -> bool {
        self.options.add_eos
    }

    /// Whether SEP goes between texts.
    pub fn add_sep(&self) -> bool {
        self.options.add_sep
    }

    /// The index of a token in the tables, if there is such a token.
    fn check(&self, token: Token) -> Result<usize> {
        if self.texts.is_empty() {
            return Err(Error::Unsupported("the model has no vocabulary".into()));
        }
        let i = usize::try_from(token).ok().filter(|&i| i < self.texts.len());
        i.ok_or_else(|| Error::argument(format!("token {token} is not one of the {} of the model", self.texts.len())))
    }

    fn shown_texts(&self) -> &Texts {
        self.shown.as_ref().unwrap_or(&self.texts)
    }

    /// All tokens with the texts they are looked up by.
    fn entries(&self) -> impl Iterator<Item = (&[u8], Token)> {
        self.texts.iter().zip(0..)
    }
}
