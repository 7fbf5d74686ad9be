//! Contexts of 2048 to 131072 tokens: what was put there is found again at every depth.

use super::device::{ALL, Card, context, load};
use crate::Result;
use crate::lab::{Engine, Lab, Ours};
use crate::report::Entry;
use crate::retrieval::{self, N_NEEDLES, answer, full_logit, question};
use crate::stats::seconds;
use infer::model::Model;
use infer::quant::DType;
use std::path::Path;
use std::sync::Arc;

/// Rows, with tokens and the type of the cache.
const CONTEXTS: [(&str, usize, DType); 7] = [
    ("GPU-009", 2048, DType::F16),
    ("GPU-011", 4096, DType::F16),
    ("GPU-012", 8192, DType::F16),
    ("GPU-013", 16384, DType::F16),
    ("GPU-014", 32768, DType::F16),
    ("GPU-015", 65536, DType::F16),
    ("GPU-015-131072", 131_072, DType::Q8_0),
];

/// Contexts that a processor looks through in little time.
const SHORT: usize = 4096;

/// Tokens behind the context: the questions, at once and then one by one.
const BEHIND: usize = 2 * N_NEEDLES;

/// See the module.
pub fn all(lab: &Lab, card: &Card) -> Result<Vec<Entry>> {
    std::fs::create_dir_all(&lab.made)?;
    let path = lab.made.join("retrieval.gguf");
    retrieval::write(&path)?;
    let rows = measure(lab, card, &path);
    // What cannot be removed now is overwritten by the next run.
    let _ = std::fs::remove_file(&path);
    rows
}

fn measure(lab: &Lab, card: &Card, path: &Path) -> Result<Vec<Entry>> {
    let (on_gpu, on_cpu) = (load(path, ALL)?, crate::lab::load(path)?);
    let longest = if card.software { CONTEXTS[0].1 } else { usize::MAX };
    let mut rows = Vec::new();
    for (id, n, kv) in CONTEXTS.into_iter().filter(|(_, n, _)| *n <= longest) {
        let mut note = String::new();
        if n <= if lab.quick { 2048 } else { SHORT } {
            let cpu = ask(&on_cpu, n, kv)?;
            note = format!("; the processor: {} wrong, logits within {:.2} %", cpu.wrong, cpu.off);
        }
        let found = ask(&on_gpu, n, kv)?;
        let name = format!("{n} positions, {kv} cache: questions about {N_NEEDLES} places that are answered wrongly");
        rows.push(Entry::new(id, "GPU", &name).value(found.wrong as f64, "wrong").at_most(0.0).note(format!(
            "asked at once and one by one, from the first position to the last; logits within {:.2} %; {:.2} s{note}",
            found.off, found.seconds
        )));
    }
    Ok(rows)
}

struct Found {
    wrong: usize,
    /// Percent by which the logit of an answer is off at most.
    off: f64,
    seconds: f64,
}

/// Asks for every needle in a context of `n` tokens.
fn ask(model: &Arc<Model>, n: usize, kv: DType) -> Result<Found> {
    let (tokens, _) = retrieval::context(n - BEHIND);
    let mut ours = context(model, n, kv)?;
    let mut found = Found { wrong: 0, off: 0.0, seconds: 0.0 };
    let questions: Vec<i32> = (0..N_NEEDLES).map(question).collect();
    found.seconds = seconds(|| {
        tokens.chunks(512).try_for_each(|piece| ours.decode(piece, false))?;
        ours.decode(&questions, true)?;
        (0..N_NEEDLES).try_for_each(|key| judge(&mut ours, key as i32, key, &mut found))?;
        for (key, token) in questions.iter().enumerate() {
            ours.decode(&[*token], false)?;
            judge(&mut ours, -1, key, &mut found)?;
        }
        Ok(())
    })?;
    Ok(found)
}

/// Whether the logits of a token say the answer, and as loudly as they should.
fn judge(ours: &mut Ours, token: i32, key: usize, found: &mut Found) -> Result<()> {
    let logits = ours.0.logits_ith(token)?;
    let right = answer(key) as usize;
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    found.wrong += usize::from(best != Some(right));
    found.off = found.off.max(f64::from(100.0 * (logits[right] / full_logit() - 1.0).abs()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_there_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("retrieval.gguf");
        retrieval::write(&path).unwrap();
        let model = crate::lab::load(&path).unwrap();
        for kv in [DType::F16, DType::Q8_0] {
            let found = ask(&model, 700, kv).unwrap();
            assert!(found.wrong == 0 && found.off < 2.0, "{kv}: {} wrong, {:.2} %", found.wrong, found.off);
        }
        // A context that lacks its beginning does not know what was there.
        let (tokens, places) = retrieval::context(600);
        let mut ours = context(&model, 700, DType::F16).unwrap();
        ours.decode(&tokens[places[0] + 1..], false).unwrap();
        let mut found = Found { wrong: 0, off: 0.0, seconds: 0.0 };
        ours.decode(&[question(0)], false).unwrap();
        judge(&mut ours, -1, 0, &mut found).unwrap();
        assert!(found.wrong == 1);
    }
}
