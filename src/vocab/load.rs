//! Reads a vocabulary from the metadata of a model file. Called by `model` through [`Vocab::load`].
//!
//! Nothing in the file is believed: arrays must be of their types and long enough, texts differ, token ids lie in range.
//! Tables that only tokenizing needs are not made here, so that loading stays quick.

use std::sync::OnceLock;

use super::bpe::{self, Bpe};
use super::plamo2::Plamo2;
use super::pretokenizers::{self, Pretokenizer};
use super::special::{self, SpecialTokens};
use super::texts::{TextIndex, Texts};
use super::ugm::Ugm;
use super::{Options, TOKEN_NULL, Token, Tokenizer, Vocab, attr};
use crate::gguf::{Array, Gguf, ValueType};
use crate::{Error, Result};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const SUPPRESS: &str = "tokenizer.ggml.suppress_tokens";

/// What a tokenizer model has unless the file says otherwise.
struct Defaults {
    options: Options,
    special: SpecialTokens,
    tokenizer: Tokenizer,
}

const OPTIONS: Options = Options {
    add_space_prefix: false,
    add_bos: false,
    add_eos: false,
    add_sep: false,
    clean_spaces: false,
    remove_extra_whitespaces: false,
    escape_whitespaces: true,
    lowercase: true,
    strip_accents: true,
};

impl Vocab {
    /// The vocabulary that `meta` describes. A file with `tokenizer.ggml.model = none` gives one that has only a number of
    /// tokens. Errors say which key is missing or wrong.
    pub fn load(meta: &Gguf) -> Result<Vocab> {
        let model: String = meta.require(MODEL)?;
        let n_token_types = meta.find("tokenizer.ggml.token_type_count")?.unwrap_or(0);
        if model == "no_vocab" || model == "none" {
            return Ok(Vocab { n_token_types, ..Vocab::without_tokens(meta)? });
        }
        let Defaults { mut options, special, tokenizer } = defaults(meta, &model)?;
        let read = |key: &str, otherwise: bool| -> Result<bool> { Ok(meta.find(key)?.unwrap_or(otherwise)) };
        options.add_space_prefix = read("tokenizer.ggml.add_space_prefix", options.add_space_prefix)?;
        options.remove_extra_whitespaces =
            read("tokenizer.ggml.remove_extra_whitespaces", options.remove_extra_whitespaces)?;

        let texts = read_texts(meta)?;
        let index = index_texts(&texts)?;
        let scores = read_scores(meta, texts.len())?;
        let mut attrs = read_attributes(meta, texts.len())?;
        let mut tokens = special::Tokens { texts: &texts, index: &index, attrs: &mut attrs };
        let (special, eog) = special::detect(meta, &mut tokens, special)?;
        special::fix_attributes(meta, &mut tokens)?;

        options.add_bos = read("tokenizer.ggml.add_bos_token", options.add_bos)?;
        options.add_eos = read("tokenizer.ggml.add_eos_token", options.add_eos)?;
        options.add_sep = read("tokenizer.ggml.add_sep_token", options.add_sep)?;
        if let Tokenizer::Bpe(Bpe { pre: Pretokenizer { force_bos: true, .. }, .. }) = &tokenizer {
            options.add_bos = true;
        }
        options.lowercase = read("tokenizer.ggml.normalizer.lowercase", options.lowercase)?;
        options.strip_accents = read("tokenizer.ggml.normalizer.strip_accents", options.lowercase)?;

        let mut vocab = Vocab {
            n_tokens: texts.len(),
            n_token_types,
            shown: match &tokenizer {
                Tokenizer::BpeDna(_) => Some(without_kmer_marks(&texts, &index)?),
                _ => None,
            },
            max_token_len: texts.iter().map(<[u8]>::len).max().unwrap_or(0),
            suppress: read_suppressed(meta, texts.len())?,
            texts,
            index,
            scores,
            attrs,
            special,
            eog,
            options,
            tokenizer,
            newline: OnceLock::new(),
            specials: OnceLock::new(),
            pieces: OnceLock::new(),
            piece_tree: OnceLock::new(),
        };
        if model == "plamo2" {
            vocab.tokenizer = Tokenizer::Plamo2(Plamo2::new(&vocab)?);
        }
        Ok(vocab)
    }

    fn without_tokens(meta: &Gguf) -> Result<Vocab> {
        let arch: Option<String> = meta.find("general.architecture")?;
        let n_tokens = match arch {
            Some(arch) => meta.find::<u32>(&format!("{arch}.vocab_size"))?.unwrap_or(0),
            None => 0,
        };
        if Token::try_from(n_tokens).is_err() {
            return Err(Error::format(format!("vocab_size = {n_tokens} does not fit token ids")));
        }
        Ok(Vocab {
            n_tokens: n_tokens as usize,
            n_token_types: 0,
            texts: Texts::default(),
            index: TextIndex::default(),
            shown: None,
            scores: Vec::new(),
            attrs: Vec::new(),
            max_token_len: 0,
            special: SpecialTokens::NONE,
            eog: Vec::new(),
            suppress: Vec::new(),
            options: OPTIONS,
            tokenizer: Tokenizer::None,
            newline: OnceLock::new(),
            specials: OnceLock::new(),
            pieces: OnceLock::new(),
            piece_tree: OnceLock::new(),
        })
    }
}

fn defaults(meta: &Gguf, model: &str) -> Result<Defaults> {
    const NONE: SpecialTokens = SpecialTokens::NONE;
    let (options, special, tokenizer) = match model {
        "llama" => (
            Options { add_space_prefix: true, add_bos: true, ..OPTIONS },
            SpecialTokens { bos: 1, eos: 2, unk: 0, ..NONE },
            Tokenizer::Spm,
        ),
        "bert" => (
            Options { clean_spaces: true, add_bos: true, add_sep: true, ..OPTIONS },
            SpecialTokens { bos: 101, unk: 100, sep: 102, pad: 0, mask: 103, ..NONE },
            Tokenizer::Wpm(OnceLock::new()),
        ),
        "t5" => (
            Options { add_eos: true, ..OPTIONS },
            SpecialTokens { eos: 1, unk: 2, pad: 0, ..NONE },
            Tokenizer::Ugm(Ugm::new(read_charsmap(meta)?)?),
        ),
        "rwkv" => (OPTIONS, NONE, Tokenizer::Rwkv(OnceLock::new())),
        // Its byte tokens are only known once the tokens are, so Vocab::load() makes it.
        "plamo2" => (OPTIONS, SpecialTokens { bos: 1, eos: 2, unk: 0, pad: 3, ..NONE }, Tokenizer::None),
        "test" => (OPTIONS, NONE, Tokenizer::Test),
        "gpt2" | "whitespace" | "hybriddna" | "gemma4" => return bpe_defaults(meta, model),
        other => return Err(Error::Unsupported(format!("{MODEL} = '{other}' is no known tokenizer"))),
    };
    Ok(Defaults { options, special, tokenizer })
}

fn bpe_defaults(meta: &Gguf, model: &str) -> Result<Defaults> {
    let name: String = match model {
        "gemma4" => "gemma4".into(),
        _ => meta.find(PRE)?.unwrap_or_default(),
    };
    let pre = if name.is_empty() {
        log::warn!("{PRE} is missing; 'default' is used, and answers may suffer. Convert the model again");
        pretokenizers::DEFAULT
    } else {
        pretokenizers::find(&name)
            .ok_or_else(|| Error::Unsupported(format!("{PRE} = '{name}' is no known pre-tokenizer")))?
    };
    let merges = meta.find_array(MERGES)?;
    if merges.is_none() && name != "kimi-k2" {
        return Err(Error::format(format!("{MERGES} is missing")));
    }
    if let Some(merges) = merges {
        expect_type(MERGES, merges, &[ValueType::String])?;
    }
    let bpe = Bpe::new(pre, merges.cloned());
    const GPT2_END: Token = 11;
    let bos = if pre.default_bos { GPT2_END } else { TOKEN_NULL };
    let (special, tokenizer) = match model {
        "whitespace" => (SpecialTokens { bos, eos: GPT2_END, ..SpecialTokens::NONE }, Tokenizer::BpeWhitespace(bpe)),
        "hybriddna" => (SpecialTokens { bos, eos: GPT2_END, ..SpecialTokens::NONE }, Tokenizer::BpeDna(bpe)),
        "gemma4" => (SpecialTokens::NONE, Tokenizer::Bpe(bpe)),
        _ => (SpecialTokens { bos, eos: GPT2_END, ..SpecialTokens::NONE }, Tokenizer::Bpe(bpe)),
    };
    let options = Options {
        add_bos: pre.add_bos,
        add_sep: pre.add_sep,
        clean_spaces: pre.clean_spaces,
        escape_whitespaces: pre.escape_whitespaces,
        lowercase: pre.lowercase,
        ..OPTIONS
    };
    Ok(Defaults { options, special, tokenizer })
}

fn expect_type(key: &str, array: &Array, allowed: &[ValueType]) -> Result<()> {
    if allowed.contains(&array.element_type()) {
        return Ok(());
    }
    let names: Vec<_> = allowed.iter().map(|t| t.name()).collect();
    Err(Error::format(format!(
        "{key}: expected an array of {}, found {}",
        names.join(" or "),
        array.element_type().name()
    )))
}

/// An array of one value per token, if the file has it.
fn per_token<'a>(meta: &'a Gguf, key: &str, allowed: &[ValueType], n_tokens: usize) -> Result<Option<&'a Array>> {
    let Some(array) = meta.find_array(key)? else { return Ok(None) };
    expect_type(key, array, allowed)?;
    if array.len() < n_tokens {
        return Err(Error::format(format!("{key}: expected {n_tokens} elements, found {}", array.len())));
    }
    Ok(Some(array))
}

fn read_texts(meta: &Gguf) -> Result<Texts> {
    let array = meta.find_array(TOKENS)?.ok_or_else(|| Error::format(format!("{TOKENS} is missing")))?;
    expect_type(TOKENS, array, &[ValueType::String])?;
    if Token::try_from(array.len()).is_err() {
        return Err(Error::format(format!("{TOKENS}: {} tokens do not fit token ids", array.len())));
    }
    let n_bytes = array.bytes().len().saturating_sub(array.len() * size_of::<u64>());
    let mut texts = Texts::with_capacity(array.len(), n_bytes);
    for (i, text) in array.iter_strings().enumerate() {
        if text.is_empty() {
            log::warn!("{TOKENS}: token {i} is empty");
            texts.push(format!("[EMPTY_{i}]").as_bytes())?;
        } else {
            texts.push(text)?;
        }
    }
    Ok(texts)
}

fn index_texts(texts: &Texts) -> Result<TextIndex> {
    let mut index = TextIndex::with_capacity(texts.len());
    for i in 0..texts.len() as u32 {
        if let Some(same) = index.insert(texts, i) {
            let text = texts.get(i as usize).escape_ascii();
            return Err(Error::format(format!("{TOKENS}: tokens {same} and {i} are both '{text}'")));
        }
    }
    Ok(index)
}

fn read_scores(meta: &Gguf, n_tokens: usize) -> Result<Vec<f32>> {
    let Some(array) = per_token(meta, SCORES, &[ValueType::F32, ValueType::I32], n_tokens)? else {
        return Ok(vec![0.0; n_tokens]);
    };
    let read = if array.element_type() == ValueType::F32 {
        f32::from_le_bytes
    } else {
        |bytes| i32::from_le_bytes(bytes) as f32
    };
    let (words, _) = array.bytes().as_chunks::<4>();
    Ok(words[..n_tokens].iter().map(|&word| read(word)).collect())
}

fn read_attributes(meta: &Gguf, n_tokens: usize) -> Result<Vec<u32>> {
    let Some(array) = per_token(meta, TOKEN_TYPES, &[ValueType::I32], n_tokens)? else {
        return Ok(vec![attr::NORMAL; n_tokens]);
    };
    /// By `enum llama_token_type`: undefined, normal, unknown, control, user-defined, unused, byte.
    const OF_TYPE: [u32; 7] =
        [0, attr::NORMAL, attr::UNKNOWN, attr::CONTROL, attr::USER_DEFINED, attr::UNUSED, attr::BYTE];
    let (words, _) = array.bytes().as_chunks::<4>();
    Ok(words[..n_tokens].iter().map(|&w| OF_TYPE.get(u32::from_le_bytes(w) as usize).copied().unwrap_or(0)).collect())
}

fn read_charsmap(meta: &Gguf) -> Result<Vec<u8>> {
    let Some(array) = meta.find_array(CHARSMAP)? else { return Ok(Vec::new()) };
    expect_type(CHARSMAP, array, &[ValueType::I8, ValueType::U8])?;
    if array.is_empty() {
        return Err(Error::format(format!("{CHARSMAP} is empty")));
    }
    Ok(array.bytes().to_vec())
}

fn read_suppressed(meta: &Gguf, n_tokens: usize) -> Result<Vec<Token>> {
    let Some(array) = meta.find_array(SUPPRESS)? else { return Ok(Vec::new()) };
    expect_type(SUPPRESS, array, &[ValueType::I32])?;
    let (words, _) = array.bytes().as_chunks::<4>();
    let ids = words.iter().map(|&word| i32::from_le_bytes(word));
    Ok(ids.filter(|&id| usize::try_from(id).is_ok_and(|id| id < n_tokens)).collect())
}

/// The texts as they are shown in a vocabulary with DNA: those after `<oov>` without the mark that sets them apart.
fn without_kmer_marks(texts: &Texts, index: &TextIndex) -> Result<Texts> {
    let unknown = index.find(texts, b"<oov>").map_or(usize::MAX, |i| i as usize);
    let mut shown = Texts::with_capacity(texts.len(), 0);
    for (i, text) in texts.iter().enumerate() {
        let bare = text.strip_suffix(bpe::KMER_MARK).filter(|bare| i > unknown && !bare.is_empty());
        shown.push(bare.unwrap_or(text))?;
    }
    Ok(shown)
}
