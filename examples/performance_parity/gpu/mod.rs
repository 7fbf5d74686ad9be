//! Rows about GPUs: kernels, whole models, long contexts, and llama.cpp on the same card. Where there is no GPU, every row says
//! why it is not measured. A software adapter that `INFER_GPU` names is measured, roughly, and not judged.

#[cfg(feature = "gpu")]
mod context;
#[cfg(feature = "gpu")]
mod device;
#[cfg(feature = "gpu")]
mod kernels;
#[cfg(feature = "gpu")]
mod models;
#[cfg(feature = "gpu")]
mod parity;

use crate::lab::Lab;
use crate::report::Entry;
use crate::{Case, Result};

/// What is measured together.
pub const CASES: [Case; 11] = [
    Case {
        rows: &[
            "GPU-001", "GPU-003", "GPU-019", "GPU-020", "GPU-021", "GPU-022", "GPU-023", "GPU-024", "IMP-006",
            "IMP-011",
        ],
        quick: true,
        run: |lab| on_gpu(lab, 0),
    },
    Case {
        rows: &["GPU-009", "GPU-011", "GPU-012", "GPU-013", "GPU-014", "GPU-015"],
        quick: true,
        run: |lab| on_gpu(lab, 1),
    },
    Case { rows: &["GPU-002", "IMP-010", "IMP-026"], quick: true, run: |lab| on_gpu(lab, 2) },
    Case { rows: &["GPU-006"], quick: false, run: |lab| on_gpu(lab, 3) },
    Case {
        rows: &[
            "GPU-004", "GPU-005", "GPU-007", "GPU-008", "GPU-016", "GPU-025", "GPU-027", "IMP-007", "IMP-008",
            "IMP-009", "QA-014",
        ],
        quick: false,
        run: |lab| on_gpu(lab, 4),
    },
    Case { rows: &["GPU-028"], quick: false, run: |lab| on_gpu(lab, 5) },
    Case { rows: &["GPU-026", "GPU-012-8b", "GPU-014-8b"], quick: false, run: |lab| on_gpu(lab, 6) },
    Case { rows: &["GPU-015-8b"], quick: false, run: |lab| on_gpu(lab, 7) },
    Case { rows: &["GPU-010"], quick: false, run: |lab| on_gpu(lab, 8) },
    Case { rows: &["GPU-017", "GPU-018"], quick: false, run: |lab| on_gpu(lab, 9) },
    Case { rows: &["GPU-018-1b"], quick: false, run: |lab| on_gpu(lab, 10) },
];

#[cfg(not(feature = "gpu"))]
fn on_gpu(_lab: &Lab, case: usize) -> Result<Vec<Entry>> {
    Ok(unmeasured(case, "the library was built without the feature `gpu`"))
}

#[cfg(feature = "gpu")]
fn on_gpu(lab: &Lab, case: usize) -> Result<Vec<Entry>> {
    let card = match device::Card::find() {
        Ok(card) => card,
        Err(why) => return Ok(unmeasured(case, &why)),
    };
    // Models of gigabytes take minutes on a processor.
    if card.software && case > 2 {
        return Ok(unmeasured(case, &format!("no GPU but {}", card.adapter.description)));
    }
    let rows = match case {
        0 => kernels::all(lab, &card),
        1 => context::all(lab, &card),
        2 => models::hybrid(lab, &card),
        3 => models::one_b(lab),
        4 => models::eight_b(lab, &card),
        5 => models::sequences(lab),
        6 => models::depth(lab),
        7 => models::longest(lab),
        8 => models::sustained(lab),
        9 => parity::of(lab, "8b", CASES[case].rows),
        _ => parity::of(lab, "1b", CASES[case].rows),
    }?;
    Ok(if card.software { rows.into_iter().map(Entry::unjudged).collect() } else { rows })
}

fn unmeasured(case: usize, why: &str) -> Vec<Entry> {
    CASES[case].rows.iter().map(|id| crate::catalogue::unmeasured(id, why)).collect()
}

/// The GPU of the rows, for the record.
pub fn name() -> Option<String> {
    #[cfg(feature = "gpu")]
    return device::Card::find().ok().map(|card| card.adapter.description.clone());
    #[cfg(not(feature = "gpu"))]
    None
}

#[cfg(feature = "gpu")]
pub use device::device_time;
