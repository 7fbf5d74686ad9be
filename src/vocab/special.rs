//! Which tokens are special: what the file says, and what llama.cpp concludes from the texts of tokens where it says
//! nothing. Called by load.rs once texts, scores and attributes are there.

use super::texts::{TextIndex, Texts};
use super::{TOKEN_NULL, Token, attr, hash_order};
use crate::Result;
use crate::gguf::Gguf;

/// The special tokens of a vocabulary; [`TOKEN_NULL`] where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the getters of `Vocab` with the same names say what they are
pub struct SpecialTokens {
    pub bos: Token,
    pub eos: Token,
    pub eot: Token,
    pub eom: Token,
    pub unk: Token,
    pub sep: Token,
    pub pad: Token,
    pub mask: Token,
    pub fim_pre: Token,
    pub fim_suf: Token,
    pub fim_mid: Token,
    pub fim_pad: Token,
    pub fim_rep: Token,
    pub fim_sep: Token,
}

impl SpecialTokens {
    /// None at all.
    pub const NONE: SpecialTokens = SpecialTokens {
        bos: TOKEN_NULL,
        eos: TOKEN_NULL,
        eot: TOKEN_NULL,
        eom: TOKEN_NULL,
        unk: TOKEN_NULL,
        sep: TOKEN_NULL,
        pad: TOKEN_NULL,
        mask: TOKEN_NULL,
        fim_pre: TOKEN_NULL,
        fim_suf: TOKEN_NULL,
        fim_mid: TOKEN_NULL,
        fim_pad: TOKEN_NULL,
        fim_rep: TOKEN_NULL,
        fim_sep: TOKEN_NULL,
    };
}

/// A special token, the key that names it, and the texts it is known by where no key does.
struct Known {
    slot: fn(&mut SpecialTokens) -> &mut Token,
    key: &'static str,
    texts: &'static [&'static str],
}

/// Later keys for the same token win.
const KNOWN: &[Known] = &[
    Known { slot: |s| &mut s.bos, key: "tokenizer.ggml.bos_token_id", texts: &[] },
    Known { slot: |s| &mut s.eos, key: "tokenizer.ggml.eos_token_id", texts: &[] },
    Known {
        slot: |s| &mut s.eot,
        key: "tokenizer.ggml.eot_token_id",
        texts: &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "<｜end▁of▁sentence｜>",
            "<end_of_utterance>",
        ],
    },
    Known { slot: |s| &mut s.eom, key: "tokenizer.ggml.eom_token_id", texts: &["<|eom_id|>"] },
    Known { slot: |s| &mut s.unk, key: "tokenizer.ggml.unknown_token_id", texts: &[] },
    Known { slot: |s| &mut s.sep, key: "tokenizer.ggml.seperator_token_id", texts: &[] },
    Known { slot: |s| &mut s.pad, key: "tokenizer.ggml.padding_token_id", texts: &[] },
    Known { slot: |s| &mut s.mask, key: "tokenizer.ggml.mask_token_id", texts: &[] },
    Known {
        slot: |s| &mut s.fim_pre,
        key: "tokenizer.ggml.fim_pre_token_id",
        texts: &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    },
    Known {
        slot: |s| &mut s.fim_suf,
        key: "tokenizer.ggml.fim_suf_token_id",
        texts: &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    },
    Known {
        slot: |s| &mut s.fim_mid,
        key: "tokenizer.ggml.fim_mid_token_id",
        texts: &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    },
    Known {
        slot: |s| &mut s.fim_pad,
        key: "tokenizer.ggml.fim_pad_token_id",
        texts: &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    },
    Known {
        slot: |s| &mut s.fim_rep,
        key: "tokenizer.ggml.fim_rep_token_id",
        texts: &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    },
    Known { slot: |s| &mut s.fim_sep, key: "tokenizer.ggml.fim_sep_token_id", texts: &["<|file_sep|>"] },
    // Older names of the same.
    Known { slot: |s| &mut s.fim_pre, key: "tokenizer.ggml.prefix_token_id", texts: &[] },
    Known { slot: |s| &mut s.fim_suf, key: "tokenizer.ggml.suffix_token_id", texts: &[] },
    Known { slot: |s| &mut s.fim_mid, key: "tokenizer.ggml.middle_token_id", texts: &[] },
];

/// Texts of tokens that end a generation in every vocabulary that has them.
const EOG_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Control tokens of the harmony format that are always shown.
const SHOWN_TEXTS: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Token texts and attributes while they are being settled.
pub struct Tokens<'a> {
    /// What tokens are looked up by.
    pub texts: &'a Texts,
    /// Text to id.
    pub index: &'a TextIndex,
    /// Bits of [`attr`] by id.
    pub attrs: &'a mut [u32],
}

impl Tokens<'_> {
    fn find(&self, text: &str) -> Option<Token> {
        self.index.find(self.texts, text.as_bytes()).map(|i| i as Token)
    }

    fn set(&mut self, token: Token, attrs: u32) {
        self.attrs[token as usize] = attrs;
    }

    fn add(&mut self, token: Token, attrs: u32) {
        self.attrs[token as usize] |= attrs;
    }

    fn remove(&mut self, token: Token, attrs: u32) {
        self.attrs[token as usize] &= !attrs;
    }

    /// Overrides the attributes of a token whose text says that it controls the model.
    fn make_control(&mut self, token: Token) {
        if self.attrs[token as usize] & attr::CONTROL == 0 {
            let text = self.texts.get(token as usize).escape_ascii();
            log::warn!(
                "token {token} '{text}' looks like a control token but is not marked as one; it is treated as one"
            );
            self.add(token, attr::CONTROL);
        }
    }
}

/// The special tokens of the file over `defaults`, and the tokens that end a generation, ascending.
pub fn detect(meta: &Gguf, tokens: &mut Tokens, defaults: SpecialTokens) -> Result<(SpecialTokens, Vec<Token>)> {
    let mut special = defaults;
    for known in KNOWN {
        let id = (known.slot)(&mut special);
        if usize::try_from(*id).is_ok_and(|id| id >= tokens.texts.len()) {
            *id = TOKEN_NULL;
        }
        if let Some(new_id) = meta.find::<u32>(known.key)? {
            match Token::try_from(new_id).ok().filter(|&new_id| (new_id as usize) < tokens.texts.len()) {
                Some(new_id) => *id = new_id,
                None => log::warn!("{}: {new_id} is not a token; {id} is used", known.key),
            }
        }
    }
    for known in KNOWN {
        let id = (known.slot)(&mut special);
        if *id == TOKEN_NULL {
            let candidates: Vec<_> = known.texts.iter().filter_map(|text| tokens.find(text)).collect();
            if let Some(found) = hash_order::first(tokens.texts, &candidates) {
                *id = found;
                tokens.make_control(found);
            }
        }
    }
    mark_unused(tokens);
    let mut eog = vec![special.fim_pad, special.fim_rep, special.fim_sep];
    for found in EOG_TEXTS.iter().filter_map(|text| tokens.find(text)).collect::<Vec<_>>() {
        eog.push(found);
        tokens.make_control(found);
    }
    for found in SHOWN_TEXTS.iter().filter_map(|text| tokens.find(text)).collect::<Vec<_>>() {
        tokens.set(found, attr::USER_DEFINED);
    }
    eog.extend([special.eos, special.eot, special.eom]);
    eog.retain(|&id| id != TOKEN_NULL);
    eog.sort_unstable();
    eog.dedup();
    drop_false_ends(tokens, &mut eog);
    Ok((special, eog))
}

/// Control tokens that say so are unused.
fn mark_unused(tokens: &mut Tokens) {
    let finder = memchr::memmem::Finder::new("unused");
    for i in 0..tokens.texts.len() {
        if tokens.attrs[i] & attr::CONTROL != 0 && finder.find(tokens.texts.c_str(i).to_bytes()).is_some() {
            tokens.attrs[i] |= attr::UNUSED;
        }
    }
}

/// Takes back ends of generation that are none in certain families: `<|end|>` where messages have several parts, `</s>`
/// where it is text.
fn drop_false_ends(tokens: &mut Tokens, eog: &mut Vec<Token>) {
    let find =
        |eog: &[Token], text: &str| eog.iter().copied().find(|&id| tokens.texts.get(id as usize) == text.as_bytes());
    let has = |text| find(eog, text).is_some();
    let calls = has("<|call|>") || has("<|calls|>");
    let part_end = find(eog, "<|end|>").filter(|_| calls && (has("<|return|>") || has("<|flush|>")));
    let plain_s = find(eog, "</s>").filter(|_| has("<|tool_response>") || has("<|plamo:eos|>"));
    for (id, attrs) in [(part_end, attr::USER_DEFINED), (plain_s, attr::NORMAL)] {
        if let Some(id) = id {
            log::warn!("token {id} does not end a generation in this vocabulary");
            eog.retain(|&other| other != id);
            tokens.set(id, attrs);
        }
    }
}

/// Attributes that files cannot express, by the names of the models that need them.
pub fn fix_attributes(meta: &Gguf, tokens: &mut Tokens) -> Result<()> {
    let read = |key: &str| -> Result<String> { Ok(meta.find::<String>(key)?.unwrap_or_default()) };
    let name = read("general.name")?.to_ascii_lowercase();
    let (pre, arch) = (read("tokenizer.ggml.pre")?, read("general.architecture")?);
    let contains = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let strips_left = |tokens: &mut Tokens, text: &str| match tokens.find(text) {
        Some(mask) => tokens.add(mask, attr::LSTRIP),
        None => log::warn!("the vocabulary has no token '{text}'; the file should be converted again"),
    };
    if contains(&pre, &["jina-v2-de", "jina-v2-es", "jina-v2-code"])
        || contains(&arch, &["nomic-bert-moe", "jina-bert-v3"])
    {
        strips_left(tokens, "<mask>");
    } else if contains(&name, &["phi-3", "phi3"]) {
        for attrs in tokens.attrs.iter_mut() {
            if *attrs & (attr::CONTROL | attr::USER_DEFINED | attr::UNKNOWN) != 0 {
                *attrs |= attr::RSTRIP;
            }
        }
        if let Some(id) = tokens.find("</s>") {
            tokens.add(id, attr::RSTRIP);
        }
        for id in ["<unk>", "<s>", "<|endoftext|>"].iter().filter_map(|text| tokens.find(text)).collect::<Vec<_>>() {
            tokens.remove(id, attr::RSTRIP);
        }
    } else if contains(&name, &["modern-bert"]) {
        strips_left(tokens, "[MASK]");
    }
    Ok(())
}
