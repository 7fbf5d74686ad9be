//! Vocabularies made by hand: what each tokenizer does in small, and that neither files nor texts can make one panic or
//! hang. tests/tokenizers.rs compares with llama.cpp.

use std::time::{Duration, Instant};

use infer::gguf::{Array, Gguf, Value};
use infer::vocab::{TOKEN_NULL, Token, Vocab, VocabType, attr};
use proptest::prelude::*;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// Metadata with these tokens: text, type, score.
fn meta(model: &str, tokens: &[(&str, i32, f32)]) -> Gguf {
    let mut meta = Gguf::new();
    meta.set("tokenizer.ggml.model", model).unwrap();
    set_strings(&mut meta, "tokenizer.ggml.tokens", &tokens.iter().map(|t| t.0.to_string()).collect::<Vec<_>>());
    meta.set("tokenizer.ggml.token_type", tokens.iter().map(|t| t.1).collect::<Vec<_>>().as_slice()).unwrap();
    meta.set("tokenizer.ggml.scores", tokens.iter().map(|t| t.2).collect::<Vec<_>>().as_slice()).unwrap();
    meta
}

fn set_strings(meta: &mut Gguf, key: &str, strings: &[String]) {
    meta.set(key, Value::Array(Array::strings(strings))).unwrap();
}

fn spm() -> Gguf {
    meta(
        "llama",
        &[
            ("<unk>", UNKNOWN, 0.0),
            ("<s>", CONTROL, 0.0),
            ("</s>", CONTROL, 0.0),
            ("<0x0A>", BYTE, 0.0),
            ("▁", NORMAL, -5.0),
            ("a", NORMAL, -6.0),
            ("b", NORMAL, -7.0),
            ("▁a", NORMAL, -2.0),
            ("ab", NORMAL, -1.0),
            ("▁ab", NORMAL, -3.0),
            ("<sep>", USER_DEFINED, 0.0),
        ],
    )
}

fn bpe() -> Gguf {
    let mut meta = meta(
        "gpt2",
        &[
            ("a", NORMAL, 0.0),
            ("b", NORMAL, 0.0),
            ("c", NORMAL, 0.0),
            ("Ġ", NORMAL, 0.0),
            ("ab", NORMAL, 0.0),
            ("bc", NORMAL, 0.0),
            ("Ġab", NORMAL, 0.0),
            ("<|im_end|>", NORMAL, 0.0),
            ("<|endoftext|>", CONTROL, 0.0),
            ("Ċ", NORMAL, 0.0),
        ],
    );
    set_strings(&mut meta, "tokenizer.ggml.merges", &["b c", "a b", "Ġ ab", "c c"].map(String::from));
    meta.set("tokenizer.ggml.pre", "gpt-2").unwrap();
    meta.set("tokenizer.ggml.eos_token_id", 8u32).unwrap();
    meta
}

fn wpm() -> Gguf {
    let mut meta = meta(
        "bert",
        &[
            ("[PAD]", CONTROL, 0.0),
            ("[UNK]", UNKNOWN, 0.0),
            ("[CLS]", CONTROL, 0.0),
            ("[SEP]", CONTROL, 0.0),
            ("▁hel", NORMAL, 0.0),
            ("lo", NORMAL, 0.0),
            ("▁,", NORMAL, 0.0),
            ("▁hell", NORMAL, 0.0),
        ],
    );
    for (key, id) in [("bos", 2u32), ("unknown", 1), ("seperator", 3), ("padding", 0)] {
        meta.set(format!("tokenizer.ggml.{key}_token_id"), id).unwrap();
    }
    meta
}

fn ugm() -> Gguf {
    let mut meta = meta(
        "t5",
        &[
            ("<pad>", CONTROL, 0.0),
            ("</s>", CONTROL, 0.0),
            ("<unk>", UNKNOWN, 0.0),
            ("▁", NORMAL, -3.0),
            ("▁a", NORMAL, -2.0),
            ("b", NORMAL, -4.0),
            ("a", NORMAL, -4.0),
            ("ab", NORMAL, -5.0),
            ("<x>", USER_DEFINED, 0.0),
        ],
    );
    meta.set("tokenizer.ggml.add_space_prefix", true).unwrap();
    meta
}

fn rwkv() -> Gguf {
    meta(
        "rwkv",
        &[("<s>", CONTROL, 0.0), ("a", NORMAL, 0.0), ("ab", NORMAL, 0.0), (r"\n", NORMAL, 0.0), (r"\xff", NORMAL, 0.0)],
    )
}

fn plamo2() -> Gguf {
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut tokens =
        vec![("<|plamo:unk|>", UNKNOWN, 0.0), ("a", NORMAL, -1.0), ("ab", NORMAL, -1.5), ("ba", NORMAL, -1.0)];
    tokens.extend(bytes.iter().map(|text| (text.as_str(), BYTE, 0.0)));
    meta("plamo2", &tokens)
}

fn all() -> [Vocab; 6] {
    [spm(), bpe(), wpm(), ugm(), rwkv(), plamo2()].map(|meta| Vocab::load(&meta).unwrap())
}

fn ids(meta: &Gguf, text: &str, add_special: bool, parse_special: bool) -> Vec<Token> {
    Vocab::load(meta).unwrap().tokenize(text.as_bytes(), add_special, parse_special).unwrap()
}

#[test]
fn spm_joins_by_score_and_spells_the_rest_in_bytes() {
    assert_eq!(ids(&spm(), "ab", false, false), [9], "ab first, then the space before it");
    assert_eq!(ids(&spm(), "a\n", true, false), [1, 7, 3]);
    assert_eq!(ids(&spm(), "z", false, false), [4, 0], "no byte token: unknown");
    assert_eq!(ids(&spm(), "a<sep>a</s>", false, false)[..3], [7, 10, 7], "a user's token is always seen");
    assert_eq!(ids(&spm(), "a</s>", false, true), [7, 2], "a control token only on request");
    assert_eq!(ids(&spm(), "", true, false), [1]);
}

#[test]
fn spm_text_comes_back() {
    let vocab = Vocab::load(&spm()).unwrap();
    assert_eq!(vocab.detokenize(&[1, 9, 7, 3, 10, 2], true, false).unwrap(), b" ab a\n<sep>");
    assert_eq!(vocab.detokenize(&[9, 2], false, true).unwrap(), b"ab</s>");
    assert_eq!(vocab.token_to_piece(9, 1, false).unwrap(), b"ab");
    assert_eq!(
        (vocab.token_to_piece(2, 0, false).unwrap(), vocab.text(2).unwrap().to_bytes()),
        (&b""[..], &b"</s>"[..])
    );
    assert_eq!((vocab.vocab_type(), vocab.nl(), vocab.add_bos()), (VocabType::Spm, 3, true));
    assert!(vocab.is_eog(2) && vocab.is_control(1) && !vocab.is_control(9) && !vocab.is_eog(TOKEN_NULL));
}

#[test]
fn bpe_joins_by_rank_within_words() {
    assert_eq!(ids(&bpe(), "abc", false, false), [0, 5], "b c comes before a b");
    assert_eq!(ids(&bpe(), "c ab", false, false), [2, 6]);
    assert_eq!(ids(&bpe(), "c ab<|endoftext|>", false, true), [2, 6, 8]);
    assert_eq!(ids(&bpe(), "cc", false, false), [2, 2], "the joined text is no token, but its bytes are");
    assert_eq!(ids(&bpe(), "zaz", false, false), [0], "bytes without tokens vanish");
    let vocab = Vocab::load(&bpe()).unwrap();
    assert_eq!(vocab.detokenize(&[6, 9, 8], false, false).unwrap(), b" ab\n");
    assert_eq!((vocab.eos(), vocab.nl(), vocab.bos()), (8, 9, TOKEN_NULL), "the default BOS is out of range");
    assert!(vocab.is_eog(7) && vocab.attr(7).unwrap() & attr::CONTROL != 0, "known by its text");
}

#[test]
fn wpm_finds_the_longest_or_nothing() {
    assert_eq!(ids(&wpm(), "Héllo,", true, false), [2, 1, 6, 3], "hell and then no token for o");
    assert_eq!(ids(&wpm(), "hello", false, false), [1]);
    assert_eq!(ids(&wpm(), "hel hell", false, false), [4, 7]);
    assert_eq!(Vocab::load(&wpm()).unwrap().detokenize(&[4, 5, 6], false, false).unwrap(), b" hello,");
}

#[test]
fn ugm_takes_the_best_sum() {
    assert_eq!(ids(&ugm(), "ab", true, false), [4, 5, 1], "-2 -4 is better than -3 -5");
    assert_eq!(ids(&ugm(), "a??b<x>", false, false), [4, 2, 5, 8], "unknowns in a row are one");
}

#[test]
fn rwkv_takes_the_longest() {
    assert_eq!(ids(&rwkv(), "aab\n", false, false), [1, 2, 3]);
    let vocab = Vocab::load(&rwkv()).unwrap();
    assert_eq!(vocab.tokenize(b"\xffz", false, false).unwrap(), [4, TOKEN_NULL]);
    assert_eq!(vocab.detokenize(&[3, 4], false, false).unwrap(), b"\n\xff");
}

#[test]
fn plamo2_takes_the_cheapest() {
    assert_eq!(ids(&plamo2(), "aba", false, false), [1, 3]);
    assert_eq!(ids(&plamo2(), "é", false, false), [4 + 0xC3, 4 + 0xA9]);
    assert_eq!(
        Vocab::load(&plamo2()).unwrap().detokenize(&[1, 4 + 0xC3, 4 + 0xA9], false, false).unwrap(),
        "aé".as_bytes()
    );
}

#[test]
fn a_model_without_vocabulary_has_numbers_only() {
    let mut meta = Gguf::new();
    meta.set("tokenizer.ggml.model", "none").unwrap();
    meta.set("general.architecture", "llama").unwrap();
    meta.set("llama.vocab_size", 32u32).unwrap();
    let vocab = Vocab::load(&meta).unwrap();
    assert_eq!((vocab.n_tokens(), vocab.vocab_type(), vocab.bos(), vocab.nl()), (32, VocabType::None, -1, -1));
    assert!(vocab.tokenize(b"a", true, true).is_err() && vocab.text(0).is_err());
    assert_eq!(vocab.detokenize(&[1], true, true).unwrap(), b"");
}

#[test]
fn broken_files_are_errors() {
    type Break = (&'static str, fn(&mut Gguf));
    let breaks: [Break; 9] = [
        ("no tokens", |meta| _ = meta.remove("tokenizer.ggml.tokens")),
        ("no merges", |meta| _ = meta.remove("tokenizer.ggml.merges")),
        ("tokens that are numbers", |meta| meta.set("tokenizer.ggml.tokens", &[1i32, 2][..]).unwrap()),
        ("two equal tokens", |meta| set_strings(meta, "tokenizer.ggml.tokens", &["a", "a"].map(String::from))),
        ("too few scores", |meta| meta.set("tokenizer.ggml.scores", &[1f32][..]).unwrap()),
        ("too few types", |meta| meta.set("tokenizer.ggml.token_type", &[1i32][..]).unwrap()),
        ("an unknown tokenizer", |meta| meta.set("tokenizer.ggml.model", "x").unwrap()),
        ("an unknown pre-tokenizer", |meta| meta.set("tokenizer.ggml.pre", "x").unwrap()),
        ("a flag that is a number", |meta| meta.set("tokenizer.ggml.add_bos_token", 1u32).unwrap()),
    ];
    for (what, damage) in breaks {
        let mut meta = bpe();
        damage(&mut meta);
        assert!(Vocab::load(&meta).is_err(), "{what}");
    }
    let mut meta = ugm();
    meta.set("tokenizer.ggml.precompiled_charsmap", &[9u8, 0, 0, 0, 1][..]).unwrap();
    assert!(Vocab::load(&meta).is_err(), "a table that is cut off");
}

#[test]
fn tokens_out_of_range_are_errors_or_ignored() {
    let mut meta = bpe();
    meta.set("tokenizer.ggml.eot_token_id", u32::MAX).unwrap();
    meta.set("tokenizer.ggml.bos_token_id", 10u32).unwrap();
    meta.set("tokenizer.ggml.suppress_tokens", &[-1i32, 3, 99][..]).unwrap();
    meta.set("tokenizer.ggml.add_bos_token", true).unwrap();
    let vocab = Vocab::load(&meta).unwrap();
    assert_eq!((vocab.bos(), vocab.eot(), vocab.suppress_tokens()), (TOKEN_NULL, 8, &[3][..]));
    assert!(vocab.tokenize(b"a", true, false).is_err(), "BOS is wanted but there is none");
    for token in [-1, 10, Token::MIN, Token::MAX] {
        assert!(
            vocab.text(token).is_err()
                && vocab.attr(token).is_err()
                && vocab.detokenize(&[token], false, true).is_err()
        );
        assert!(!vocab.is_eog(token) && !vocab.is_control(token));
    }
}

/// With every pre-tokenizer too; their names are in the golden file of tests/tokenizers.rs.
#[test]
fn long_runs_take_no_quadratic_time() {
    let pretokenizers = include_str!("data/pretokenizers.txt").lines().filter_map(|line| line.split_once(' '));
    let bpes = pretokenizers.filter(|(name, _)| *name != "#").map(|(name, _)| {
        let mut meta = bpe();
        meta.set("tokenizer.ggml.pre", name).unwrap();
        Vocab::load(&meta).unwrap()
    });
    all().iter().for_each(|vocab| check_runs(vocab, &["a", "ab", " ", " \n", "  a", "中", "1", "  中", "'"]));
    // Runs that many patterns try to match from every place.
    bpes.for_each(|vocab| check_runs(&vocab, &["a", " ", "  中"]));
}

fn check_runs(vocab: &Vocab, parts: &[&str]) {
    const LIMIT: Duration = Duration::from_secs(60); // hundreds of times what it takes, but quadratic would take longer
    for part in parts {
        let text = part.repeat((1 << 18) / part.len());
        let start = Instant::now();
        let tokens = vocab.tokenize(text.as_bytes(), false, true).unwrap();
        vocab.detokenize(&tokens.into_iter().filter(|&id| id >= 0).collect::<Vec<_>>(), true, true).unwrap();
        assert!(start.elapsed() < LIMIT, "{:?} over {part:?}", vocab.vocab_type());
    }
}

proptest! {
    #[test]
    fn any_bytes_can_be_tokenized_and_any_tokens_shown(
        text in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'a'), Just(b'b'), Just(b' ')], 0..80),
        add_special: bool,
        parse_special: bool,
    ) {
        for vocab in all() {
            let tokens = vocab.tokenize(&text, add_special, parse_special).unwrap();
            for id in tokens.iter().filter(|&&id| id != TOKEN_NULL) {
                prop_assert!(vocab.attr(*id).is_ok());
            }
            let known: Vec<_> = tokens.into_iter().filter(|&id| id != TOKEN_NULL).collect();
            vocab.detokenize(&known, add_special, parse_special).unwrap();
        }
    }

    #[test]
    fn text_of_known_characters_survives(text in "[a-b ]{0,40}") {
        let vocab = Vocab::load(&spm()).unwrap();
        let tokens = vocab.tokenize(text.as_bytes(), true, false).unwrap();
        // The space before the text is taken back only where BOS was not put before it.
        let want = if text.is_empty() { String::new() } else { format!(" {text}") };
        prop_assert_eq!(vocab.detokenize(&tokens, true, false).unwrap(), want.as_bytes());
    }

    #[test]
    fn any_charsmap_is_safe(map in proptest::collection::vec(any::<u8>(), 1..200), text in "\\PC{0,20}") {
        let mut meta = ugm();
        let mut map = map;
        let size = (map.len() / 2) as u32;
        map.splice(0..0, size.to_le_bytes());
        meta.set("tokenizer.ggml.precompiled_charsmap", map.as_slice()).unwrap();
        if let Ok(vocab) = Vocab::load(&meta) {
            // An error is as good as an answer: the table may point anywhere.
            let _ = vocab.tokenize(text.as_bytes(), true, true);
        }
    }

    #[test]
    fn any_strings_can_be_tokens(
        tokens in proptest::collection::vec(".{0,6}", 1..20),
        types in proptest::collection::vec(-1i32..9, 20),
        scores in proptest::collection::vec(any::<f32>(), 20),
        merges in proptest::collection::vec(".{0,4} ?.{0,4}", 0..20),
        model in prop_oneof![Just("llama"), Just("gpt2"), Just("bert"), Just("t5"), Just("rwkv"), Just("test"), Just("gemma4"), Just("whitespace"), Just("hybriddna")],
        text in ".{0,30}",
    ) {
        let mut meta = Gguf::new();
        meta.set("tokenizer.ggml.model", model).unwrap();
        set_strings(&mut meta, "tokenizer.ggml.tokens", &tokens);
        set_strings(&mut meta, "tokenizer.ggml.merges", &merges);
        meta.set("tokenizer.ggml.token_type", types.as_slice()).unwrap();
        meta.set("tokenizer.ggml.scores", scores.as_slice()).unwrap();
        if let Ok(vocab) = Vocab::load(&meta) {
            vocab.nl();
            for text in tokens.iter().chain([&text]) {
                if let Ok(ids) = vocab.tokenize(text.as_bytes(), true, true) {
                    let known: Vec<_> = ids.into_iter().filter(|&id| id != TOKEN_NULL).collect();
                    vocab.detokenize(&known, true, true).unwrap();
                }
            }
        }
    }
}
