//! What a grammar costs: allowing tokens of a vocabulary of 50,000 again and again while a JSON text goes on, and the first
//! time in each state. `cargo bench --bench grammar`; decoding a token of a small model takes about 9 ms.
//!
//! Needs `llama.cpp/` in `$INFER_TEST_DATA` (default `target/test-data`), which `make test-data` fetches.

#![allow(missing_docs)] // criterion_group makes a public function

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use infer::gguf::{GgufFiles, LoadOptions, Source};
use infer::sampling::{self, Candidates, Sampler, TokenData};
use infer::vocab::Vocab;

const JSON: &str = r#"root ::= value
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (pair ("," ws pair)*)? "}" ws
pair ::= string ":" ws value
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})){0,200} "\"" ws
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,3})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"#;

const TEXT: &str = r#"{
  "name": "A rather long name, as names go in such texts",
  "values": [1, 2.5, -3e10, {"nested": true, "more": null}],
  "text": "It goes on for a while, \"quotes\" and all, so that most tokens are inside of strings.",
  "empty": {}
}"#;

fn vocab() -> Arc<Vocab> {
    let data = std::env::var_os("INFER_TEST_DATA").map_or_else(|| PathBuf::from("target/test-data"), PathBuf::from);
    let path = data.join("llama.cpp/models/ggml-vocab-gpt-2.gguf");
    assert!(path.exists(), "{} is missing: fetch it with `make test-data`", path.display());
    let files = GgufFiles::open(Source::Path(path), LoadOptions { header_only: true, ..LoadOptions::default() });
    Arc::new(Vocab::load(files.unwrap().meta()).unwrap())
}

fn grammar(vocab: &Arc<Vocab>, text: &str) -> Box<dyn Sampler> {
    sampling::grammar(vocab.clone(), text.as_bytes(), b"root", None).unwrap()
}

/// Applies a sampler to the whole vocabulary before each of these tokens. Returns how long that took.
fn follow(smpl: &mut dyn Sampler, tokens: &[i32], all: &[TokenData], work: &mut Vec<TokenData>) -> Duration {
    let mut elapsed = Duration::ZERO;
    for &token in tokens {
        work.clear();
        work.extend_from_slice(all);
        let start = Instant::now();
        smpl.apply(&mut Candidates::new(work));
        smpl.accept(token);
        elapsed += start.elapsed();
        assert!(work[token as usize].logit == 0.0 && smpl.take_error().is_none());
    }
    elapsed
}

fn benches(c: &mut Criterion) {
    let vocab = vocab();
    let tokens = vocab.tokenize(TEXT.as_bytes(), false, false).unwrap();
    let all: Vec<_> = (0..vocab.n_tokens() as i32).map(|id| TokenData { id, logit: 0.0, p: 0.0 }).collect();
    let mut work = Vec::new();
    let unlimited = JSON.replace("{0,200}", "*");
    let mut group = c.benchmark_group("grammar");
    for (name, text) in [("json", unlimited.as_str()), ("json with limited strings", JSON)] {
        let fresh = grammar(&vocab, text);
        follow(fresh.clone().as_mut(), &tokens[..1], &all, &mut work);
        group.bench_function(format!("{name}, a token of the first text"), |b| {
            b.iter_custom(|n| {
                let total: Duration = (0..n).map(|_| follow(fresh.clone().as_mut(), &tokens, &all, &mut work)).sum();
                total / tokens.len() as u32
            });
        });
        let mut used = fresh.clone();
        group.bench_function(format!("{name}, a token of the next text"), |b| {
            b.iter_custom(|n| {
                let one = |_| {
                    used.reset();
                    follow(used.as_mut(), &tokens, &all, &mut work)
                };
                (0..n).map(one).sum::<Duration>() / tokens.len() as u32
            });
        });
    }
    let mut used = grammar(&vocab, &unlimited);
    group.bench_function("json, one candidate", |b| {
        b.iter_batched(
            || [TokenData { id: tokens[0], logit: 0.0, p: 0.0 }],
            |mut one| used.apply(&mut Candidates::new(&mut one)),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("read", |b| b.iter(|| grammar(&vocab, &unlimited)));
    group.finish();
}

criterion_group! {
    name = grammars;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    targets = benches
}
criterion_main!(grammars);
