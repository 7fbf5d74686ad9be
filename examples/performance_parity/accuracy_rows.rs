//! Distance from the exact logits, beside llama.cpp's; text that comes out; the cache's cell operations.

use crate::Result;
use crate::accuracy::{compare, largest, log_softmax};
use crate::lab::{Engine, Lab, Ours, load, tokens};
use crate::report::Entry;
use crate::stats::{Summary, repeat, seconds};
use infer::context::ContextParams;
use std::path::Path;

/// Of the two real models.
pub fn accuracy(lab: &Lab) -> Result<Vec<Entry>> {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let mut rows = Vec::new();
    for (id, name, path) in [("smollm2", "SmolLM2", lab.smollm2()), ("gemma3", "Gemma 3 270M", lab.gemma3())] {
        let (ours, theirs, nmse) = compare(&lab.reference, &path, &text, lab.n_threads, if lab.quick { 1 } else { 2 })?;
        let row = |what: &str, name: String| Entry::new(&format!("ACCURACY-{id}-{what}"), "Accuracy", &name);
        let off = |p: f64, exact: f64| 100.0 * (p / exact - 1.0).abs();
        let exact = ours.exact_perplexity();
        rows.push(
            row("kl", format!("{name}: KL divergence from the exact logits, over llama.cpp's"))
                .value(ours.kl() / theirs.kl(), "×")
                .at_most(1.25)
                .note(format!("{:.2e} against {:.2e}, {} tokens", ours.kl(), theirs.kl(), ours.n)),
        );
        rows.push(
            row("perplexity", format!("{name}: perplexity off the exact one"))
                .value(off(ours.perplexity(), exact), "%")
                .at_most(1.0)
                .note(format!("llama.cpp {:.2} %", off(theirs.perplexity(), exact))),
        );
        rows.push(
            row("top1", format!("{name}: points of agreement on the likeliest token below llama.cpp"))
                .value(100.0 * (theirs.agreement() - ours.agreement()), "points")
                .at_most(0.5)
                .note(format!("{:.1} % against {:.1} %", 100.0 * ours.agreement(), 100.0 * theirs.agreement())),
        );
        let capability = |row: &str, name: String| Entry::new(&format!("{row}-{id}"), "Capabilities", &name);
        rows.push(
            capability("IMP-028", format!("{name}: logits beside llama.cpp's"))
                .value(nmse, "NMSE")
                .note("both round activations; which is nearer to the exact ones tell the accuracy rows"),
        );
        rows.push(
            capability("IMP-014", format!("{name}: perplexity from the exact one"))
                .value((ours.perplexity() - exact).abs(), "")
                .at_most(0.5),
        );
    }
    Ok(rows)
}

/// A text, and the cells of a cache.
pub fn text_and_cells(lab: &Lab) -> Result<Vec<Entry>> {
    let mut rows = vec![coherence(lab)?];
    rows.extend(cells(lab)?);
    Ok(rows)
}

/// IMP-029: 100 tokens, the likeliest each, judged by the exact model.
fn coherence(lab: &Lab) -> Result<Entry> {
    let path = lab.smollm2();
    let model = load(&path)?;
    let prompt = model.vocab.tokenize(b"The capital of France is", true, true)?;
    let n = prompt.len();
    let n_ctx = n + if lab.quick { 20 } else { 100 };
    let mut ours = Ours::new(&model, &lab.params(n_ctx))?;
    let mut theirs = lab.theirs(&path, n_ctx)?;
    let (mut a, mut b) = (prompt.clone(), prompt);
    ours.decode(&a, false)?;
    theirs.decode(&b, false)?;
    while a.len() < n_ctx {
        a.push(largest(ours.0.logits_ith(-1)?) as i32);
        b.push(largest(theirs.logits(-1)) as i32);
        if a.len() < n_ctx {
            ours.decode(&a[a.len() - 1..], false)?;
            Engine::decode(&mut theirs, &b[b.len() - 1..], false)?;
        }
    }
    let mut exact = Ours::exact(&model, lab.params(n_ctx))?;
    // Texts part at the first close call, so each is judged by itself: the share of tokens that the exact model would have
    // chosen, and the perplexity that it finds in them.
    let mut judge = |text: &[i32]| -> Result<(f64, f64)> {
        exact.clear()?;
        exact.decode(text, true)?;
        let (mut nats, mut chosen) = (0.0, 0);
        for (i, &token) in text.iter().enumerate().skip(n) {
            let logits = exact.0.logits_ith(i as i32 - 1)?;
            nats -= log_softmax(logits)[token as usize];
            chosen += usize::from(largest(logits) == token as usize);
        }
        let n = (text.len() - n) as f64;
        Ok((100.0 * chosen as f64 / n, (nats / n).exp()))
    };
    let ((same, perplexity), (their_same, their_perplexity)) = (judge(&a)?, judge(&b)?);
    let row = Entry::new(
        "IMP-029",
        "Capabilities",
        "100 coherent tokens of SmolLM2: those that the exact model would have chosen",
    );
    Ok(row.value(same, "%").at_least(95.0).note(format!(
        "{} tokens, exact perplexity {perplexity:.2}; llama.cpp {their_same:.0} %, perplexity {their_perplexity:.2}",
        a.len() - n
    )))
}

/// IMP-004: operations on the cells of a cache with rows in it.
fn cells(lab: &Lab) -> Result<Vec<Entry>> {
    let model = load(&lab.smollm2())?;
    let mut ours = Ours::new(&model, &ContextParams { n_seq_max: 2, kv_unified: true, ..lab.params(1024) })?;
    let n = 512;
    ours.decode(&tokens(n, 49152), false)?;
    let [books] = repeat(lab.rounds(1.0), || {
        Ok([seconds(|| {
            for _ in 0..50 {
                ours.share(1)?;
                ours.truncate(1, 0)?;
            }
            Ok(())
        })?])
    })?;
    let [shift] = repeat(lab.rounds(3.0), || {
        Ok([seconds(|| {
            for delta in [1, -1] {
                ours.0.memory_mut().ok_or("no memory")?.seq_add(0, 0, -1, delta)?;
                ours.0.update_memory()?;
            }
            Ok(())
        })?])
    })?;
    let row = |id: &str, name: &str, summary: Summary| {
        Entry::new(id, "Capabilities", name).value(summary.rate, "cells/s").at_least(100_000.0).times(summary, None)
    };
    Ok(vec![
        row(
            "IMP-004",
            "paged KV cache: sharing and removing of 512 cells",
            Summary::of(&books, 100.0 * n as f64, "cells/s"),
        ),
        row(
            "IMP-004-shift",
            "KV cache: moving 512 cells, keys of all layers rotated",
            Summary::of(&shift, 2.0 * n as f64, "cells/s"),
        ),
    ])
}
