//! The real models that other tests have (`make test-data`): the GPU's logits beside the exact ones and the
//! processor's, and its text.

use super::*;
use common::test_data;

/// A text of some hundred tokens.
const TEXT: &str = "The sea is never still. Twice a day the water climbs the shore and falls back again, because the moon and \
the sun pull at it while the earth turns below. Where a coast is open the tide may be no higher than a child; where it runs \
into a narrow bay it can rise as high as a house, and boats that float at noon lie on the mud by evening. Sailors learned long \
ago to read these movements. They kept tables of the hours at which the water would turn, first in their heads and on knotted \
cords, later in printed almanacs that were sold in every harbour. In 1872 a machine of wheels and pulleys was built that could \
draw the tides of a whole year in four hours. Each wheel stood for one of the motions of the moon or the sun, and a wire that \
ran over all of them added up what they did. Today a small computer does the same work in less time than it takes to \
read this sentence, but the idea is still that of the wheels: many simple motions, each easy to know, together make the \
restless line that the sea draws on the sand.";

/// How far from the exact logits a run may be. llama.cpp's mean divergences are 0.0035 and 0.017 over 2044 tokens, with
/// activations of bytes for prompts too; here most rows are of a prompt, in f32 or f16.
struct Bar {
    kl: f64,
    agreement: f64,
}

/// What a run over a text gave.
struct Found {
    kl: f64,
    /// The mean divergence of the single tokens.
    kl_single: f64,
    agreement: f64,
}

fn tokens(model: &Model, text: &str) -> Vec<i32> {
    model.vocab.tokenize(text.as_bytes(), true, false).unwrap()
}

fn engine(model: &Arc<Model>, backend: BackendKind) -> Ours {
    let n = 1024;
    let setup =
        Setup { n_ctx: n, n_batch: n, n_ubatch: 512, type_k: DType::F16, type_v: DType::F16, ..Setup::default() };
    Ours::try_new(model, &setup, backend).unwrap()
}

/// Logits after every token from `first` on: a prompt in one batch, then single tokens.
fn rows(engine: &mut Ours, tokens: &[i32], n_prompt: usize, first: usize) -> Vec<Vec<f32>> {
    let all: Vec<Tok> = tokens
        .iter()
        .enumerate()
        .map(|(i, &id)| Tok { id, pos: i as i32, seqs: vec![0], output: i >= first })
        .collect();
    let (prompt, single) = all.split_at(n_prompt);
    let mut found = Vec::new();
    for batch in std::iter::once(prompt).chain(single.chunks(1)) {
        assert_eq!(engine.decode(batch), 0);
        let outputs = (0..batch.len()).filter(|i| batch[*i].output);
        found.extend(outputs.map(|i| engine.logits(i as i32).unwrap()));
    }
    found
}

fn largest(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &v)| if v > row[best] { i } else { best })
}

/// Compares rows of which the last `n_single` are of single tokens.
fn compare(exact: &[Vec<f32>], found: &[Vec<f32>], n_single: usize) -> Found {
    let same = exact.iter().zip(found).filter(|(a, b)| largest(a) == largest(b)).count();
    Found {
        kl: distance(exact, found).kl,
        kl_single: distance(&exact[exact.len() - n_single..], &found[exact.len() - n_single..]).kl,
        agreement: same as f64 / exact.len() as f64,
    }
}

/// The likeliest tokens after a text, with the logits that they have been taken from.
fn greedy(model: &Arc<Model>, engine: &mut Ours, text: &str, n: usize) -> Vec<(i32, Vec<f32>)> {
    let mut next = tokens(model, text);
    let (mut pos, mut made) = (0, Vec::new());
    for _ in 0..n {
        let batch: Vec<Tok> = next
            .iter()
            .map(|&id| {
                pos += 1;
                Tok { id, pos: pos - 1, seqs: vec![0], output: true }
            })
            .collect();
        assert_eq!(engine.decode(&batch), 0);
        let row = engine.logits(batch.len() as i32 - 1).unwrap();
        next = vec![largest(&row) as i32];
        made.push((next[0], row));
    }
    made
}

/// Compares the logits of the last `n_rows` tokens of a prompt and of single tokens after it.
fn check(file: &str, [n_prompt, n_rows, n_single]: [usize; 3], bar: Bar) {
    let path = test_data().join(file);
    assert!(path.exists(), "run `make test-data` to fetch {}", path.display());
    let Some(model) = models::offloaded(&path, -1) else { return };
    let mut text = tokens(&model, TEXT);
    assert!(text.len() >= n_prompt + n_single, "{} tokens", text.len());
    text.truncate(n_prompt + n_single);
    // How a text is cut into batches changes nothing there, and a batch costs as much as a token.
    let exact = rows(&mut engine(&model, BackendKind::Reference), &text, text.len(), n_prompt - n_rows);
    let plain = Ours::load(&path);
    let found = [&model, &plain].map(|m| {
        let found = rows(&mut engine(m, BackendKind::Auto), &text, n_prompt, n_prompt - n_rows);
        compare(&exact, &found, n_single)
    });
    for (name, f) in ["GPU", "processor"].iter().zip(&found) {
        println!("{file} {name}: KL {:.5}, single tokens {:.5}, same token {:.3}", f.kl, f.kl_single, f.agreement);
    }
    let [gpu, _] = found;
    assert!(gpu.kl < bar.kl && gpu.agreement > bar.agreement, "{file}: KL {}, same token {}", gpu.kl, gpu.agreement);
}

/// Logits closer than this are a close call: their errors are about a tenth, by bytes on the processor.
const CLOSE: f32 = 0.4;

#[test]
fn the_text_of_smollm2() {
    let path = test_data().join("smollm2.gguf");
    let Some(model) = models::offloaded(&path, -1) else { return };
    let question = "The capital of France is";
    let [ours, processors] =
        [&model, &Ours::load(&path)].map(|m| greedy(m, &mut engine(m, BackendKind::Auto), question, 8));
    let text = |made: &[(i32, Vec<f32>)]| {
        let ids: Vec<i32> = made.iter().map(|(id, _)| *id).collect();
        String::from_utf8_lossy(&model.vocab.detokenize(&ids, false, true).unwrap()).into_owned()
    };
    println!("{:?}, the processor {:?}", text(&ours), text(&processors));
    assert!(text(&ours).starts_with(" Paris"), "{:?}", text(&ours));
    // Texts part where two tokens are as likely as each other, and only there.
    if let Some(((a, of_a), (b, of_b))) = ours.iter().zip(&processors).find(|(a, b)| a.0 != b.0) {
        let (a, b) = (*a as usize, *b as usize);
        assert!(of_a[a] - of_a[b] < CLOSE && of_b[b] - of_b[a] < CLOSE, "{} {}", of_a[a] - of_a[b], of_b[b] - of_b[a]);
    }
}

#[test]
fn smollm2() {
    check("smollm2.gguf", [36, 36, 6], Bar { kl: 0.0035, agreement: 0.9 });
}

#[test]
fn gemma3() {
    // Of eight tokens two may be close calls.
    check("gemma3.gguf", [14, 6, 2], Bar { kl: 0.0173, agreement: 0.7 });
}

/// Some hundred tokens, for GPUs.
#[test]
#[ignore = "minutes on a software adapter"]
fn smollm2_long() {
    check("smollm2.gguf", [128, 128, 96], Bar { kl: 0.0035, agreement: 0.9 });
}
