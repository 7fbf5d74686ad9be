//! Tokenizers against llama.cpp's answers: upstream's own cases (`.inp`/`.out` beside each vocabulary), and for each of
//! 22 vocabularies 2000 generated strings and all attributes, of which tests/data/tokenizers.txt holds hashes; and every
//! pre-tokenizer, of whose answers tests/data/pretokenizers.txt holds hashes. tests/vocab.rs tests the rest.
//!
//! Needs the files that `make test-data` fetches into target/test-data (or $INFER_TEST_DATA).

use std::path::{Path, PathBuf};

use infer::gguf::{Array, Gguf, GgufFiles, LoadOptions, Source, Value};
use infer::vocab::{Token, Vocab};

const N_STRINGS: usize = 2000;
/// Strings whose answers share one hash in the golden file.
const GROUP: usize = 20;
/// The longest piece and the longest text that the golden answers were made with.
const MAX_PIECE: usize = 1024;
const MAX_TEXT: usize = (1 << 16) - 1;
const LONG_ENOUGH: usize = 60_000;

fn test_data(name: &str) -> PathBuf {
    let folder = std::env::var_os("INFER_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-data"), PathBuf::from);
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: run `make test-data`", path.display());
    path
}

fn load(path: &Path) -> Vocab {
    let options = LoadOptions { header_only: true, ..LoadOptions::default() };
    let files = GgufFiles::open(Source::Path(path.to_path_buf()), options)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Vocab::load(files.meta()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A vocabulary by its name in the golden file.
fn vocabulary(name: &str) -> Vocab {
    match name {
        "SmolLM2-135M-Instruct.Q4_1" => load(&test_data("smollm2.gguf")),
        "gemma-3-270m-q4_k_m" => load(&test_data("gemma3.gguf")),
        "test-type7" => {
            let mut meta = Gguf::new();
            meta.set("tokenizer.ggml.model", "test").unwrap();
            let tokens = Array::strings((0..128).map(|i| format!("tok_{i}")));
            meta.set("tokenizer.ggml.tokens", Value::Array(tokens)).unwrap();
            Vocab::load(&meta).unwrap()
        }
        other => load(&test_data(&format!("llama.cpp/models/ggml-vocab-{other}.gguf"))),
    }
}

#[test]
fn upstream_cases() {
    const SEPARATOR: &str = "\n__ggml_vocab_test__\n";
    let folder = test_data("llama.cpp/models");
    let mut n_pairs = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let inputs = entry.unwrap().path();
        if inputs.extension().is_none_or(|extension| extension != "inp") {
            continue;
        }
        let vocab = load(&inputs.with_extension(""));
        let texts = std::fs::read_to_string(&inputs).unwrap();
        let answers = std::fs::read_to_string(inputs.with_extension("out")).unwrap();
        for (text, answer) in texts.split(SEPARATOR).zip(answers.lines()) {
            let want: Vec<Token> = answer.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(vocab.tokenize(text.as_bytes(), false, false).unwrap(), want, "{inputs:?}: {text:?}");
        }
        n_pairs += 1;
    }
    assert!(n_pairs >= 15, "only {n_pairs} pairs in {}", folder.display());
}

#[test]
fn generated_strings() {
    let golden = include_str!("data/tokenizers.txt");
    let mut wrong = Vec::new();
    for block in golden.split("\n\n") {
        let mut lines = block.lines().filter(|line| !line.starts_with('#'));
        let Some(name) = lines.next() else { continue };
        let vocab = vocabulary(name);
        let attributes = lines.next().unwrap();
        if describe(&vocab) != attributes {
            wrong.push(format!("{name}: want {attributes}\n{name}: got  {}", describe(&vocab)));
        }
        let want: Vec<u32> =
            lines.flat_map(str::split_whitespace).map(|h| u32::from_str_radix(h, 16).unwrap()).collect();
        assert_eq!(want.len(), N_STRINGS / GROUP, "{name}");
        for (group, &want) in want.iter().enumerate() {
            let answers = (group * GROUP..(group + 1) * GROUP).map(|i| answer(&vocab, i));
            if answers.fold(FNV, |hash, answer| fnv(hash, answer.as_bytes())) != want {
                wrong.push(format!("{name}: one of strings {} to {}", group * GROUP, (group + 1) * GROUP - 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers differ from llama.cpp's:\n{}", wrong.len(), wrong.join("\n"));
}

/// Every pre-tokenizer, seen through a vocabulary in which any two neighbours within a word join.
#[test]
fn pretokenizers() {
    const N_STRINGS: usize = 400;
    let golden = include_str!("data/pretokenizers.txt").lines().filter(|line| !line.starts_with('#'));
    let bytes = pairs_of((0..244).map(gpt2_char).collect(), Vec::new());
    let raw_chars = (33..127).map(char::from).chain("▁é中文日本\n".chars()).collect();
    let raw = pairs_of(raw_chars, (0..256).map(|byte| format!("<0x{byte:02X}>")).collect());
    let mut wrong = Vec::new();
    for (pre, want) in golden.filter_map(|line| line.split_once(' ')) {
        let is_raw = ["gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace"].contains(&pre);
        let mut meta = if is_raw { raw.clone() } else { bytes.clone() };
        meta.set("tokenizer.ggml.model", if pre == "whitespace" { "whitespace" } else { "gpt2" }).unwrap();
        meta.set("tokenizer.ggml.pre", pre).unwrap();
        let vocab = Vocab::load(&meta).unwrap();
        let answers = (0..N_STRINGS).map(|i| answer(&vocab, i));
        let hash =
            answers.fold(fnv(FNV, format!("{}\n", describe(&vocab)).as_bytes()), |hash, a| fnv(hash, a.as_bytes()));
        if format!("{hash:08x}") != want {
            wrong.push(pre);
        }
    }
    assert!(wrong.is_empty(), "these cut text otherwise than llama.cpp does: {wrong:?}");
}

/// The character that GPT-2 vocabularies write for a byte.
fn gpt2_char(byte: u8) -> char {
    let prints = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if prints(&byte) {
        return char::from(byte);
    }
    let n_before = (0..byte).filter(|b| !prints(b)).count() as u32;
    char::from_u32(0x100 + n_before).unwrap()
}

/// A BPE vocabulary of single characters and all pairs of them, which join in a fixed shuffled order.
fn pairs_of(chars: Vec<char>, mut tokens: Vec<String>) -> Gguf {
    const STRIDE: usize = 40507;
    let (n, n_bytes) = (chars.len(), tokens.len());
    tokens.extend(chars.iter().map(char::to_string));
    let mut merges = Vec::new();
    for i in 0..n * n {
        let (left, right) = (chars[i * STRIDE % (n * n) / n], chars[i * STRIDE % (n * n) % n]);
        merges.push(format!("{left} {right}"));
        tokens.push(format!("{left}{right}"));
    }
    tokens.push("<|endoftext|>".to_string());
    let last = tokens.len() as u32 - 1;
    let mut types = vec![1; tokens.len()];
    types[..n_bytes].fill(6);
    types[last as usize] = 3;
    let mut meta = Gguf::new();
    meta.set("tokenizer.ggml.tokens", Value::Array(Array::strings(&tokens))).unwrap();
    meta.set("tokenizer.ggml.merges", Value::Array(Array::strings(&merges))).unwrap();
    meta.set("tokenizer.ggml.token_type", types.as_slice()).unwrap();
    meta.set("tokenizer.ggml.bos_token_id", last).unwrap();
    meta.set("tokenizer.ggml.eos_token_id", last).unwrap();
    meta
}

/// Special tokens, options, and a hash over all texts, scores, attributes and pieces.
fn describe(vocab: &Vocab) -> String {
    let mut hash = FNV;
    for token in 0..vocab.n_tokens() as Token {
        let attrs = vocab.attr(token).unwrap();
        hash = fnv(hash, vocab.text(token).unwrap().to_bytes());
        hash = fnv(hash, &vocab.score(token).unwrap().to_le_bytes());
        for number in [attrs, u32::from(vocab.is_eog(token)), u32::from(vocab.is_control(token))] {
            hash = fnv(hash, &number.to_le_bytes());
        }
        hash = fnv(hash, piece(vocab, token, true));
    }
    format!(
        "meta type {} n {} tokens {hash:08x} bos {} eos {} eot {} sep {} nl {} pad {} mask {} add_bos {} add_eos {} \
         add_sep {} fim {} {} {} {} {} {}",
        vocab.vocab_type() as i32,
        vocab.n_tokens(),
        vocab.bos(),
        vocab.eos(),
        vocab.eot(),
        vocab.sep(),
        vocab.nl(),
        vocab.pad(),
        vocab.mask(),
        i32::from(vocab.add_bos()),
        i32::from(vocab.add_eos()),
        i32::from(vocab.add_sep()),
        vocab.fim_pre(),
        vocab.fim_suf(),
        vocab.fim_mid(),
        vocab.fim_pad(),
        vocab.fim_rep(),
        vocab.fim_sep()
    )
}

/// Hashes of string `i`, of its tokens' text and of its tokens. The flags vary with `i`.
fn answer(vocab: &Vocab, i: usize) -> String {
    let flag = |period: usize| i / period % 2 == 1;
    let text = generate(vocab, i);
    let tokens = vocab.tokenize(&text, flag(10), flag(20)).unwrap();
    let back = vocab.detokenize(&tokens, flag(40), flag(80)).unwrap();
    let ids = tokens.iter().fold(FNV, |hash, id| fnv(hash, &id.to_le_bytes()));
    format!("{:08x} {:08x} #{ids:08x}\n", fnv(FNV, &text), fnv(FNV, &back))
}

const FNV: u32 = 2_166_136_261;

fn fnv(hash: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619))
}

fn piece(vocab: &Vocab, token: Token, special: bool) -> &[u8] {
    let piece = vocab.token_to_piece(token, 0, special).unwrap();
    if piece.len() <= MAX_PIECE { piece } else { &[] }
}

/// A random number generator whose numbers are part of the golden answers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as u32 % n as u32) as usize
    }

    fn from<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A character of an area.
    fn character(&mut self, &(first, last): &(u32, u32)) -> u32 {
        first + self.below((last - first + 1) as usize) as u32
    }
}

/// String `i`: by turns any characters, runs of one script, words, ASCII, pieces and texts of tokens, invalid UTF-8.
fn generate(vocab: &Vocab, i: usize) -> Vec<u8> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(i as u64 + 1));
    random.below(2);
    let mut text = Vec::new();
    let length = 1 + random.below(if i % 100 == 99 { 1500 } else { 40 });
    for _ in 0..length {
        if text.len() >= LONG_ENOUGH {
            break;
        }
        match i % 10 {
            0 | 1 => {
                let area = random.from(AREAS);
                put_char(&mut text, random.character(area));
            }
            2 => {
                let area = random.from(AREAS);
                for _ in 0..1 + random.below(6) {
                    put_char(&mut text, random.character(area));
                }
                if random.below(3) == 0 {
                    put_char(&mut text, ' ' as u32);
                }
            }
            kind @ 3..=5 => {
                put(&mut text, random.from(WORDS).as_bytes());
                if kind == 4 && random.below(2) == 1 {
                    put_char(&mut text, ' ' as u32);
                }
            }
            6 => put_char(&mut text, 32 + random.below(95) as u32),
            7 => {
                let token = random.below(vocab.n_tokens()) as Token;
                put(&mut text, piece(vocab, token, false));
            }
            8 => put_token_text(vocab, &mut random, &mut text),
            _ if random.below(3) == 0 => put(&mut text, &[0x80 + random.below(0x74) as u8]),
            _ => {
                let (first, _) = AREAS[random.below(12)];
                put_char(&mut text, first + random.below(20) as u32);
            }
        }
    }
    text
}

fn put_token_text(vocab: &Vocab, random: &mut Random, text: &mut Vec<u8>) {
    let put_text = |text: &mut Vec<u8>, token| put(text, vocab.text(token).unwrap().to_bytes());
    if random.below(4) == 0 {
        let n = if random.below(3) > 0 { vocab.n_tokens() } else { vocab.n_tokens().min(512) };
        put_text(text, random.below(n) as Token);
    } else if random.below(3) == 0 {
        let token = if random.below(2) == 1 { vocab.bos() } else { vocab.eos() };
        if token >= 0 {
            put_text(text, token);
        }
    } else {
        put(text, random.from(WORDS).as_bytes());
    }
}

fn put(text: &mut Vec<u8>, bytes: &[u8]) {
    if text.len() + bytes.len() <= MAX_TEXT {
        text.extend_from_slice(bytes);
    }
}

fn put_char(text: &mut Vec<u8>, c: u32) {
    let c = char::from_u32(c).unwrap();
    put(text, c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Parts of Unicode that pre-tokenizers treat apart.
#[rustfmt::skip]
const AREAS: &[(u32, u32)] = &[
    (0x20, 0x7e), (0x20, 0x7e), (0x30, 0x39), (0x9, 0xd), (0x1, 0x1f), (0x7f, 0x9f), (0xa0, 0xff), (0x100, 0x17f),
    (0x1c4, 0x1cc), (0x2b0, 0x2ff), (0x300, 0x36f), (0x370, 0x3ff), (0x400, 0x4ff), (0x531, 0x58f), (0x5d0, 0x5ea),
    (0x600, 0x6ff), (0x660, 0x669), (0x900, 0x97f), (0x966, 0x96f), (0xe00, 0xe5b), (0x1100, 0x11ff),
    (0x1780, 0x17f9), (0x1e00, 0x1eff), (0x2000, 0x200f), (0x2010, 0x2027), (0x2028, 0x202f), (0x2060, 0x206f),
    (0x2070, 0x2094), (0x20a0, 0x20bf), (0x2100, 0x214f), (0x2150, 0x218b), (0x2190, 0x22ff), (0x2460, 0x24ff),
    (0x2500, 0x259f), (0x2581, 0x2581), (0x25a0, 0x27bf), (0x3000, 0x3004), (0x3005, 0x303f), (0x3041, 0x309f),
    (0x30a1, 0x30ff), (0x3400, 0x3500), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xe000, 0xe010), (0xf900, 0xfaff),
    (0xfb00, 0xfb06), (0xfe00, 0xfe0f), (0xff01, 0xff5e), (0xfffd, 0xfffd), (0x10330, 0x10348), (0x1d400, 0x1d7ff),
    (0x1f1e6, 0x1f1ff), (0x1f300, 0x1f64f), (0x1f3fb, 0x1f3ff), (0x1f900, 0x1f9ff), (0x20000, 0x20100),
    (0xe0020, 0xe007f), (0x10fffe, 0x10ffff),
];

#[rustfmt::skip]
const WORDS: &[&str] = &[
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "the", " The", " quick", "ing", "'s", "'S", "'re",
    "'LL", "n't", "don't", "I'M", "1", "12", "123", "1234", "12345", "3.14", "1,000", "0x1F", "2024-01-02", "_",
    "__init__", "camelCase", "HTTPServer", "foo_bar", "(", ")", "{\n    ", "};\n", "==", "!=", "->", "...", "!!!",
    "?!", "```", "\"", "'", "#include <a>", "http://a.b/c?d=e&f", "a@b.co", "<br/>", "\\n", "É", "straße", "naïve",
    "Ω", "ё", "日本語", "中文", "한국어", "ไทย", "हिन्दी", "עברית", "العربية", "👍🏽", "👨\u{200D}👩\u{200D}👧", "🇫🇷",
    "e\u{301}", "\u{200B}", "\u{FEFF}", "\u{A0}", "\u{3000}", "\u{2581}", " A", "A ", "X", "aaaaaaaa", "--------",
    "        ",
];
