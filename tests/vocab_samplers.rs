//! The samplers that know a vocabulary against llama.cpp's own library. Grammars: the same text gives the same rules or is
//! refused by both, the same tokens are allowed after every token of random texts, lazy grammars are triggered by the same
//! texts at the same place. DRY with breakers given as text, and infill: the same candidates and logits.
//!
//! Needs `reference/` and `llama.cpp/` in `$INFER_TEST_DATA` (default `target/test-data`), which `make test-data` fetches.

mod common;

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use common::test_data;
use infer::gguf::{GgufFiles, LoadOptions, Source};
use infer::sampling::grammar::{self, Element};
use infer::sampling::rng::Mt19937;
use infer::sampling::{Candidates, DryParams, Sampler, TokenData, Triggers};
use infer::vocab::Vocab;
use libloading::Library;

type Ptr = *mut c_void;

/// What llama.h calls `llama_model_params`; only `vocab_only` is set here.
#[repr(C)]
struct ModelParams {
    before: [u64; 9],
    vocab_only: bool,
    after: [bool; 7],
}

const _: () = assert!(size_of::<ModelParams>() == 80);

#[repr(C)]
struct TokenDataArray {
    data: *mut TokenData,
    size: usize,
    selected: i64,
    sorted: bool,
}

/// C++'s `std::vector`, as libstdc++ lays it out.
#[repr(C)]
struct CppVector<T> {
    begin: *const T,
    end: *const T,
    capacity: *const T,
}

type InitImpl = unsafe extern "C" fn(
    Ptr,
    *const c_char,
    *const c_char,
    bool,
    *const *const c_char,
    usize,
    *const i32,
    usize,
) -> Ptr;

struct Api {
    model_params: unsafe extern "C" fn() -> ModelParams,
    load: unsafe extern "C" fn(*const c_char, ModelParams) -> Ptr,
    get_vocab: unsafe extern "C" fn(Ptr) -> Ptr,
    init_grammar: unsafe extern "C" fn(Ptr, *const c_char, *const c_char) -> Ptr,
    init_lazy:
        unsafe extern "C" fn(Ptr, *const c_char, *const c_char, *const *const c_char, usize, *const i32, usize) -> Ptr,
    init_lazy_words:
        unsafe extern "C" fn(Ptr, *const c_char, *const c_char, *const *const c_char, usize, *const i32, usize) -> Ptr,
    init_dry: unsafe extern "C" fn(Ptr, f32, f32, i32, i32, *const *const c_char, usize) -> Ptr,
    init_infill: unsafe extern "C" fn(Ptr) -> Ptr,
    accept: unsafe extern "C" fn(Ptr, i32),
    apply: unsafe extern "C" fn(Ptr, *mut TokenDataArray),
    reset: unsafe extern "C" fn(Ptr),
    clone: unsafe extern "C" fn(Ptr) -> Ptr,
    free: unsafe extern "C" fn(Ptr),
    init_impl: InitImpl,
    free_impl: unsafe extern "C" fn(Ptr),
    get_rules: unsafe extern "C" fn(Ptr) -> *const CppVector<CppVector<Element>>,
}

unsafe extern "C" fn quiet(_level: c_int, _text: *const c_char, _data: Ptr) {}

/// llama.cpp's library, by one test at a time: it prints what it refuses, and tests are easier to read in order.
fn api() -> (&'static Api, MutexGuard<'static, ()>) {
    static API: OnceLock<Api> = OnceLock::new();
    static LOCK: Mutex<()> = Mutex::new(());
    let api = API.get_or_init(|| {
        let path = test_data().join("reference/libllama.v0.5.0.so");
        assert!(path.exists(), "{} is missing: fetch it with `make test-data`", path.display());
        // SAFETY: llama.cpp's library; it may run its initialisers. It stays loaded for good.
        let lib = Box::leak(Box::new(unsafe { Library::new(&path) }.unwrap()));
        fn get<T: Copy>(lib: &Library, name: &str) -> T {
            // SAFETY: each field of Api has the type that llama.cpp gives the function of this name.
            *unsafe { lib.get::<T>(name.as_bytes()) }.unwrap_or_else(|e| panic!("{name}: {e}"))
        }
        type LogSet = unsafe extern "C" fn(Option<unsafe extern "C" fn(c_int, *const c_char, Ptr)>, Ptr);
        // SAFETY: a callback that takes anything.
        unsafe { get::<LogSet>(lib, "llama_log_set")(Some(quiet), null_mut()) };
        Api {
            model_params: get(lib, "llama_model_default_params"),
            load: get(lib, "llama_model_load_from_file"),
            get_vocab: get(lib, "llama_model_get_vocab"),
            init_grammar: get(lib, "llama_sampler_init_grammar"),
            init_lazy: get(lib, "llama_sampler_init_grammar_lazy_patterns"),
            init_lazy_words: get(lib, "llama_sampler_init_grammar_lazy"),
            init_dry: get(lib, "llama_sampler_init_dry"),
            init_infill: get(lib, "llama_sampler_init_infill"),
            accept: get(lib, "llama_sampler_accept"),
            apply: get(lib, "llama_sampler_apply"),
            reset: get(lib, "llama_sampler_reset"),
            clone: get(lib, "llama_sampler_clone"),
            free: get(lib, "llama_sampler_free"),
            init_impl: get(lib, "_Z23llama_grammar_init_implPK11llama_vocabPKcS3_bPS3_mPKim"),
            free_impl: get(lib, "_Z23llama_grammar_free_implP13llama_grammar"),
            get_rules: get(lib, "_Z23llama_grammar_get_rulesPK13llama_grammar"),
        }
    });
    (api, LOCK.lock().unwrap_or_else(|e| e.into_inner()))
}

/// A vocabulary in both libraries.
struct Both {
    ours: Arc<Vocab>,
    theirs: Ptr,
}

fn load(api: &Api, name: &str) -> Both {
    let path = test_data().join(format!("llama.cpp/models/ggml-vocab-{name}.gguf"));
    assert!(path.exists(), "{} is missing: fetch it with `make test-data`", path.display());
    let options = LoadOptions { header_only: true, ..LoadOptions::default() };
    let files = GgufFiles::open(Source::Path(path.clone()), options).unwrap();
    let ours = Arc::new(Vocab::load(files.meta()).unwrap());
    let path = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a path and parameters as llama.h wants them; the model stays loaded for good.
    let theirs = unsafe {
        let params = ModelParams { vocab_only: true, ..(api.model_params)() };
        (api.get_vocab)((api.load)(path.as_ptr(), params))
    };
    Both { ours, theirs }
}

const JSON: &str = r#"root ::= value
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (pair ("," ws pair)*)? "}" ws # members
pair ::= string ":" ws value
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,3})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"#;

/// Grammars that use every part of the notation.
const GRAMMARS: [&str; 14] = [
    JSON,
    "root ::= \"yes\" | \"no\" | \"yesterday\"",
    "root ::= [a-zA-Z]+ (\" \" [a-zA-Z]+)* [.!?]",
    "root ::= . . .{2,5} \"end\"",
    "root ::= ([ぁ-ゟ] | [ァ-ヿ] | [一-鿿])+ [、-〾]?",
    "root ::= [^\\x00-\\x7F]{1,8} \"\\n\"",
    "root ::= \"\\u00e9t\\u00E9\" | \"\\U0001F980\"+ | \"日本\" | \"\\x41\\t\\r\\n\\\\\\\"\\[\\]\\-\"",
    "root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= number | \"(\" expr \")\"\nnumber ::= [0-9]+\n",
    "root ::= item{2,4}\r\nitem ::= \"- \" [^\\n]{1,20} \"\\n\"\r\n",
    "root ::= a\na ::= \"x\" a \"y\" | b\nb ::= \"\" | \"z\"*\n",
    "root ::= (\"a\"?){3} (\"b\" | ) [c] {2} \"d\"{0}",
    "root ::= [🦀-🦿é]+ \"é\"",
    "root ::=\n  # a comment\n  (\n  \"one\" # another\n  | \"two\"\n  ) \" \"\n\n\n",
    "root ::= [a-] [-z] [\\]] | [^a-] | []\"q\"",
];

/// Texts that are no grammars, or not such as a matcher can follow.
const BAD: [&str; 26] = [
    "",
    "# nothing",
    "root",
    "root ::=  )",
    "root ::= \"a",
    "root ::= [a",
    "root ::= (\"a\"",
    "root ::= \"\\q\"",
    "root ::= \"\\x4\"",
    "root ::= \"\\u12g4\"",
    "root ::= *",
    "root ::= \"\"*",
    "root ::= \"a\"{",
    "root ::= \"a\"{a}",
    "root ::= \"a\"{1,2",
    "root ::= \"a\"{2001}",
    "root ::= ((\"a\"{0,50}){0,50})",
    "root ::= \"a\"{99999999999999999999999}",
    "root ::= undefined",
    "other ::= \"a\"",
    "root ::= root \"a\" | \"a\"",
    "root ::= a\na ::= b root\nb ::= \"x\" | ",
    "root = \"a\"",
    "root ::= <[1>",
    "root ::= <nothing of the vocabulary is this>",
    "root ::= \"a\" | \n| ::=",
];

/// The rules that llama.cpp reads.
fn their_rules(api: &Api, vocab: &Both, text: &str) -> Option<Vec<Vec<Element>>> {
    let text = CString::new(text).unwrap();
    // SAFETY: a live vocabulary and strings; the rules are read before the grammar is freed.
    unsafe {
        let grammar = (api.init_impl)(vocab.theirs, text.as_ptr(), c"root".as_ptr(), false, null(), 0, null(), 0);
        if grammar.is_null() {
            return None;
        }
        let elements = |v: &CppVector<Element>| vector(v).to_vec();
        let rules = vector(&*(api.get_rules)(grammar)).iter().map(elements).collect();
        (api.free_impl)(grammar);
        Some(rules)
    }
}

/// # Safety
/// `v` must be a vector of libstdc++'s with elements of this type.
unsafe fn vector<T>(v: &CppVector<T>) -> &[T] {
    if v.begin == v.end {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(v.begin, v.end.offset_from(v.begin) as usize) }
}

fn our_rules(vocab: &Both, text: &str) -> Option<Vec<Vec<Element>>> {
    let rules = grammar::parse(text.as_bytes(), b"root", Some(&vocab.ours)).ok()?;
    let mut ends: Vec<usize> = rules.starts.iter().skip(1).map(|start| *start as usize).collect();
    ends.push(rules.elements.len());
    Some(rules.starts.iter().zip(ends).map(|(start, end)| rules.elements[*start as usize..end].to_vec()).collect())
}

#[test]
fn the_same_rules_are_read() {
    let (api, _lock) = api();
    let vocab = load(api, "gpt-2");
    for text in GRAMMARS.iter().chain(&BAD) {
        assert_eq!(our_rules(&vocab, text), their_rules(api, &vocab, text), "{text}");
    }
    for text in &GRAMMARS {
        assert!(our_rules(&vocab, text).is_some(), "{text}");
    }
    for text in &BAD {
        assert!(our_rules(&vocab, text).is_none(), "{text}");
    }
    // From this the release of llama.cpp never comes back, and of that it takes the lower 32 bits.
    for text in ["root ::= \"a\"{3,2}", "root ::= <[99999999999]>"] {
        assert!(our_rules(&vocab, text).is_none(), "{text}");
    }
}

#[test]
fn mutated_grammars_are_read_or_refused_alike() {
    let (api, _lock) = api();
    let vocab = load(api, "gpt-2");
    let mut rng = Mt19937::new(5);
    let mut below = |n: usize| rng.next_u32() as usize % n;
    let bytes = b"\"[]()*+?{}|:=.,-\\^<>!# \n\rax0";
    let mut n_read = 0;
    for _ in 0..600 {
        let mut text = GRAMMARS[below(GRAMMARS.len())].as_bytes().to_vec();
        for _ in 0..1 + below(3) {
            let at = below(text.len());
            match below(3) {
                0 => text[at] = bytes[below(bytes.len())],
                1 => text.insert(at, bytes[below(bytes.len())]),
                _ => drop(text.remove(at)),
            }
        }
        let Ok(text) = String::from_utf8(text) else { continue };
        let ours = our_rules(&vocab, &text);
        let endless = match grammar::parse(text.as_bytes(), b"root", Some(&vocab.ours)) {
            Ok(rules) => grammar::Matcher::new(Arc::new(rules)).is_err(),
            Err(e) => e.to_string().contains("repetitions at") && e.to_string().contains("from"),
        };
        if !endless {
            assert_eq!(ours, their_rules(api, &vocab, &text), "{text}");
            n_read += usize::from(ours.is_some());
        }
    }
    assert!(n_read > 100, "{n_read}");
}

/// The tokens that llama.cpp's sampler allows.
fn their_allowed(api: &Api, smpl: Ptr, n_vocab: usize) -> Vec<bool> {
    let mut data: Vec<_> = (0..n_vocab as i32).map(|id| TokenData { id, logit: 0.0, p: 0.0 }).collect();
    let mut array = TokenDataArray { data: data.as_mut_ptr(), size: data.len(), selected: -1, sorted: false };
    // SAFETY: a live sampler and candidates as the array says.
    unsafe { (api.apply)(smpl, &mut array) };
    data.iter().map(|c| c.logit == 0.0).collect()
}

/// The tokens that our sampler allows; some are also asked for alone, which takes another way.
fn our_allowed(smpl: &mut dyn Sampler, n_vocab: usize, rng: &mut Mt19937) -> Vec<bool> {
    let mut data: Vec<_> = (0..n_vocab as i32).map(|id| TokenData { id, logit: 0.0, p: 0.0 }).collect();
    let mut some: Vec<_> = (0..100).map(|_| data[rng.next_u32() as usize % n_vocab]).collect();
    let alone_first = rng.next_u32().is_multiple_of(2);
    if alone_first {
        smpl.apply(&mut Candidates::new(&mut some));
    }
    smpl.apply(&mut Candidates::new(&mut data));
    assert!(smpl.take_error().is_none());
    if alone_first {
        assert!(some.iter().all(|c| data[c.id as usize].logit == c.logit));
    }
    data.iter().map(|c| c.logit == 0.0).collect()
}

/// Follows random texts on both sides; in every step the same tokens must be allowed. With `tokens`, the grammar has tokens
/// as such, of which llama.cpp allows more than it accepts.
fn walk(api: &Api, vocab: &Both, text: &str, seed: u32, n_steps: usize, tokens: bool) -> usize {
    let n_vocab = vocab.ours.n_tokens();
    let mut rng = Mt19937::new(seed);
    let mut ours = infer::sampling::grammar(vocab.ours.clone(), text.as_bytes(), b"root", None).unwrap();
    let c_text = CString::new(text).unwrap();
    // SAFETY: a live vocabulary and strings.
    let mut theirs = unsafe { (api.init_grammar)(vocab.theirs, c_text.as_ptr(), c"root".as_ptr()) };
    assert!(!theirs.is_null());
    let mut so_far = Vec::new();
    for step in 0..n_steps {
        let a = our_allowed(ours.as_mut(), n_vocab, &mut rng);
        let b = their_allowed(api, theirs, n_vocab);
        for (token, (a, b)) in a.iter().zip(&b).enumerate() {
            let piece = String::from_utf8_lossy(vocab.ours.token_to_piece(token as i32, 0, true).unwrap());
            assert!(a == b || (tokens && *b), "{text}\nafter {so_far:?}: token {token} '{piece}': {a}, llama.cpp: {b}");
        }
        let allowed: Vec<i32> = (0..n_vocab as i32).filter(|&t| a[t as usize] && !vocab.ours.is_eog(t)).collect();
        if allowed.is_empty() {
            break;
        }
        // Short tokens, or most texts would be over at once.
        let one = |rng: &mut Mt19937| allowed[rng.next_u32() as usize % allowed.len()];
        let len = |t: i32| vocab.ours.token_to_piece(t, 0, true).unwrap().len();
        let token = (0..3).map(|_| one(&mut rng)).min_by_key(|&t| len(t)).unwrap();
        so_far.push(String::from_utf8_lossy(vocab.ours.token_to_piece(token, 0, true).unwrap()).into_owned());
        ours.accept(token);
        assert!(ours.take_error().is_none(), "{text}\n{so_far:?}");
        // SAFETY: live samplers; each is freed once.
        unsafe {
            (api.accept)(theirs, token);
            match rng.next_u32() % 12 {
                0 => {
                    let old = theirs;
                    theirs = (api.clone)(old);
                    (api.free)(old);
                    ours = ours.clone();
                }
                1 if step > 4 => {
                    (api.reset)(theirs);
                    ours.reset();
                    so_far.clear();
                }
                _ => {}
            }
        }
    }
    // SAFETY: its last use.
    unsafe { (api.free)(theirs) };
    so_far.len()
}

#[test]
fn the_same_tokens_are_allowed() {
    let (api, _lock) = api();
    for name in ["gpt-2", "llama-spm", "phi-3"] {
        let vocab = load(api, name);
        let mut n_steps = 0;
        for (i, text) in GRAMMARS.iter().enumerate() {
            n_steps += walk(api, &vocab, text, i as u32, 12, false);
        }
        n_steps += walk(api, &vocab, JSON, 77, 40, false);
        assert!(n_steps > 60, "{name}: {n_steps}");
    }
}

#[test]
fn grammars_beside_llama_cpp_work_alike() {
    let (api, _lock) = api();
    let vocab = load(api, "gpt-2");
    let Ok(folder) = std::fs::read_dir(test_data().join("llama.cpp/grammars")) else { return };
    for file in folder {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "gbnf") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(our_rules(&vocab, &text), their_rules(api, &vocab, &text), "{}", path.display());
            walk(api, &vocab, &text, 3, 12, false);
        }
    }
}

#[test]
fn tokens_as_such_are_allowed_alike() {
    let (api, _lock) = api();
    let vocab = load(api, "phi-3");
    for (i, text) in [
        "root ::= <[1000]> \"a\" | <[1001]>{1,3} !<[1002]> !<[5]>",
        "root ::= <|user|> [a-z]+ | !<|user|> <|end|>",
        "root ::= (!<[13]>)* <[13]> .*",
        "root ::= .* <|assistant|> .*",
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(our_rules(&vocab, text), their_rules(api, &vocab, text), "{text}");
        walk(api, &vocab, text, i as u32, 8, true);
    }
}

#[test]
fn lazy_grammars_are_triggered_alike() {
    let (api, _lock) = api();
    let vocab = load(api, "gpt-2");
    let n_vocab = vocab.ours.n_tokens();
    let grammar =
        "root ::= \"<tool>\" [a-z]+ \"(\" [0-9]* \")\" | \"call \" [a-z ]* | \"{\" [^}]* \"}\" | [ ]* [a-z.,é🦀]+";
    let token = vocab.ours.tokenize(b"call", false, false).unwrap()[0];
    let cases: [(&[&str], &[i32]); 8] = [
        (&["<tool>"], &[]),
        (&["[\\s\\S]*?(<tool>)[\\s\\S]*"], &[]),
        (&["^(?:[^<]*)(<to[\\s\\S]*)$"], &[]),
        (&["nothing", "(?:so|it)(\\{)", "\\{"], &[]),
        (&["\\d{2}\\s*(\\{|<tool>)"], &[]),
        (&[], &[token]),
        (&["i(?=t)", "\\bcall\\b"], &[token]),
        (&["^$", "[^\\x00-\\x7f]+"], &[]),
    ];
    let texts = [
        "so it is <tool>abc(12)",
        "so{abc} and more",
        "12 \n<tool>x(",
        "call me maybe",
        "recall this",
        "été 🦀 comes",
        "a <too long <tool>zz()",
    ];
    let c_grammar = CString::new(grammar).unwrap();
    let mut rng = Mt19937::new(9);
    let mut n_triggered = 0;
    for (patterns, tokens) in cases {
        let bytes: Vec<&[u8]> = patterns.iter().map(|p| p.as_bytes()).collect();
        let strings: Vec<CString> = patterns.iter().map(|p| CString::new(*p).unwrap()).collect();
        let pointers: Vec<*const c_char> = strings.iter().map(|p| p.as_ptr()).collect();
        for words in [false, true] {
            let pattern = grammar::pattern_of_words(&bytes);
            let triggers = match (words, patterns.is_empty()) {
                (true, false) => &[&pattern[..]][..],
                _ => &bytes[..],
            };
            let triggers = Triggers { patterns: triggers, tokens };
            let init = if words { api.init_lazy_words } else { api.init_lazy };
            for text in texts {
                let mut ours =
                    infer::sampling::grammar(vocab.ours.clone(), grammar.as_bytes(), b"root", Some(&triggers)).unwrap();
                // SAFETY: a live vocabulary, strings and arrays of these lengths; what is passed is copied.
                let theirs = unsafe {
                    init(
                        vocab.theirs,
                        c_grammar.as_ptr(),
                        c"root".as_ptr(),
                        pointers.as_ptr(),
                        pointers.len(),
                        tokens.as_ptr(),
                        tokens.len(),
                    )
                };
                let mut done = String::new();
                for token in vocab.ours.tokenize(text.as_bytes(), false, false).unwrap() {
                    done.push_str(&String::from_utf8_lossy(vocab.ours.token_to_piece(token, 0, true).unwrap()));
                    ours.accept(token);
                    if ours.take_error().is_some() {
                        // llama.cpp throws.
                        break;
                    }
                    // SAFETY: a live sampler.
                    unsafe { (api.accept)(theirs, token) };
                    let a = our_allowed(ours.as_mut(), n_vocab, &mut rng);
                    assert_eq!(a, their_allowed(api, theirs, n_vocab), "{patterns:?} {words} after '{done}'");
                    n_triggered += usize::from(a.iter().any(|allowed| !allowed));
                }
                // SAFETY: its last use.
                unsafe { (api.free)(theirs) };
            }
        }
    }
    assert!(n_triggered > 50, "{n_triggered}");
}

/// What llama.cpp's sampler leaves of candidates.
fn their_apply(api: &Api, smpl: Ptr, data: &[TokenData]) -> (Vec<TokenData>, i64) {
    let mut data = data.to_vec();
    let mut array = TokenDataArray { data: data.as_mut_ptr(), size: data.len(), selected: -1, sorted: false };
    // SAFETY: a live sampler and candidates as the array says, before and after.
    unsafe {
        (api.apply)(smpl, &mut array);
        (std::slice::from_raw_parts(array.data, array.size).to_vec(), array.selected)
    }
}

fn our_apply(smpl: &mut dyn Sampler, data: &[TokenData]) -> (Vec<TokenData>, i64) {
    let mut data = data.to_vec();
    let mut candidates = Candidates::new(&mut data);
    smpl.apply(&mut candidates);
    (candidates.data.to_vec(), candidates.selected)
}

#[test]
fn dry_breakers_agree_with_llama_cpp() {
    let (api, _lock) = api();
    let sets: [&[&str]; 5] = [
        &["\n", ":", "\"", "*"],
        &["", "the "],
        &["end of it.\n\nThen it was so long that it is cut off"],
        &["ab", "b"],
        &[],
    ];
    for name in ["gpt-2", "llama-spm"] {
        let vocab = load(api, name);
        for (i, texts) in sets.iter().enumerate() {
            let mut rng = Mt19937::new(i as u32);
            let bytes: Vec<&[u8]> = texts.iter().map(|t| t.as_bytes()).collect();
            let strings: Vec<CString> = texts.iter().map(|t| CString::new(*t).unwrap()).collect();
            let pointers: Vec<*const c_char> = strings.iter().map(|t| t.as_ptr()).collect();
            let params = DryParams { multiplier: 0.8, base: 1.75, allowed_length: 2, last_n: 200 };
            let breakers = infer::sampling::dry_breakers(&vocab.ours, &bytes).unwrap();
            let mut ours = infer::sampling::dry(params, &breakers);
            // SAFETY: a live vocabulary and strings, which are copied.
            let theirs = unsafe { (api.init_dry)(vocab.theirs, 0.8, 1.75, 2, 200, pointers.as_ptr(), pointers.len()) };
            let text =
                "the end of it.\n\nThen: the \"absolute\" b, the end of it.\n\nThe crab: absolutely the end of it";
            let tokens = vocab.ours.tokenize(text.as_bytes(), false, false).unwrap();
            let mut n_lower = 0;
            for step in 0..120 {
                let token =
                    if step < tokens.len() { tokens[step] } else { tokens[rng.next_u32() as usize % tokens.len()] };
                ours.accept(token);
                // SAFETY: a live sampler.
                unsafe { (api.accept)(theirs, token) };
                let data: Vec<_> = tokens.iter().map(|&id| TokenData { id, logit: 1.0, p: 0.0 }).collect();
                let a = our_apply(ours.as_mut(), &data);
                assert_eq!(a, their_apply(api, theirs, &data), "{name} {texts:?} after {} tokens", step + 1);
                n_lower += a.0.iter().filter(|c| c.logit < 1.0).count();
            }
            assert!(n_lower > 5, "{name} {texts:?}: {n_lower}");
            // SAFETY: its last use.
            unsafe { (api.free)(theirs) };
        }
    }
}

#[test]
fn infill_agrees_with_llama_cpp() {
    let (api, _lock) = api();
    for name in ["gpt-2", "llama-spm", "qwen2"] {
        let vocab = load(api, name);
        let mut ours = infer::sampling::infill(vocab.ours.clone());
        // SAFETY: a live vocabulary.
        let theirs = unsafe { (api.init_infill)(vocab.theirs) };
        let mut rng = Mt19937::new(2);
        let words = ["hel", "hell", "hello", " the", " then", "a", "ab", "x", "\n", "12", "1", "def"];
        let mut tokens: Vec<i32> =
            words.iter().flat_map(|w| vocab.ours.tokenize(w.as_bytes(), false, false).unwrap()).collect();
        tokens.extend(vocab.ours.eog_tokens());
        tokens.sort_unstable();
        tokens.dedup();
        let (mut n_texts, mut n_ends) = (0, 0);
        for _ in 0..500 {
            let spread = [1.0, 4.0, 12.0][rng.next_u32() as usize % 3];
            let eog = [-20.0, -6.0, 0.0][rng.next_u32() as usize % 3];
            let mut data: Vec<_> = Vec::new();
            for &id in &tokens {
                if rng.next_u32().is_multiple_of(2) {
                    let logit = spread * rng.uniform_f32() + if vocab.ours.is_eog(id) { eog } else { 0.0 };
                    data.push(TokenData { id, logit, p: 0.0 });
                }
            }
            if data.is_empty() {
                continue;
            }
            let a = our_apply(ours.as_mut(), &data);
            assert_eq!(a, their_apply(api, theirs, &data), "{name} {data:?}");
            let is_end = a.0.iter().all(|c| vocab.ours.is_eog(c.id));
            *(if is_end { &mut n_ends } else { &mut n_texts }) += 1;
        }
        assert!(n_texts > 20 && n_ends > 20, "{name}: {n_texts} {n_ends}");
        // SAFETY: its last use.
        unsafe { (api.free)(theirs) };
    }
}
