//! The performance dashboard: libinfer beside llama.cpp and beside the machine's limits, row by row.
//!
//! ```text
//! cargo run --release --example performance_parity -- [--quick] [--only PATTERN] [--threads N] [--out FOLDER]
//!                                                     [--docs FILE] [--limit SECONDS] [--keep] [--list]
//! cargo run --release --example performance_parity -- --docs FILE --of RESULTS.json --of OTHER.json
//! ```
//!
//! Writes `results.json` (docs/performance.schema.json describes it), `index.html` and a copy of the results for trends
//! into a folder, by default target/performance; with `--docs` also a page in Markdown. `--quick` measures little and
//! roughly, to see that everything runs. `--only` takes part of a row's name. `--limit` begins nothing new after so many seconds. Models are looked for in
//! `$INFER_TEST_DATA`, where `make test-data` puts them; those of 1B and 8B are made in target/bench-models and removed
//! after use, unless `--keep` is given. `make bench` runs it.
//!
//! `--of` measures nothing and makes the page of results that were written before: of a run, and of runs on other machines for the
//! rows that it could not measure, as those about a GPU. Those need the feature `gpu`; `--only gpu` takes them alone.
//!
//! A missed bar is a result and no failure of the program.

#[path = "../common/accuracy.rs"]
mod accuracy;
mod accuracy_rows;
mod catalogue;
mod environment;
mod gpu;
mod html;
mod kernel_rows;
#[path = "../common/kernels.rs"]
#[allow(dead_code)] // the benches use more of it
mod kernels;
mod lab;
#[path = "../common/limits.rs"]
#[allow(dead_code)] // the benches use more of it
mod limits;
#[path = "../common/llama_cpp.rs"]
#[allow(dead_code)] // other examples use more of it
mod llama_cpp;
mod markdown;
mod models;
mod process;
mod report;
#[cfg(feature = "gpu")]
#[path = "../common/retrieval.rs"]
mod retrieval;
mod schema;
mod stats;
#[path = "../synth_gguf/model.rs"]
#[allow(dead_code)] // the example synth_gguf uses more of it
mod synth;

use environment::Environment;
use lab::Lab;
use report::{Entry, Report};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that System asks for.
        unsafe { System.alloc(layout) }
    }

    // Not by way of `alloc`, which would touch what the system gives zeroed.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that System asks for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those that System asks for.
        unsafe { System.dealloc(p, layout) }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that System asks for.
        unsafe { System.realloc(p, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this process took memory from the heap.
fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// What is measured together.
struct Case {
    /// Rows that it tells; longer names begin with these.
    rows: &'static [&'static str],
    /// Whether a short run has it.
    quick: bool,
    run: fn(&Lab) -> Result<Vec<Entry>>,
}

const CASES: [Case; 20] = [
    Case {
        rows: &[
            "GEMV", "GEMM", "ATTN", "ROW", "IMP-001", "IMP-003", "IMP-012", "IMP-013", "IMP-017", "IMP-018", "IMP-019",
            "IMP-020", "IMP-037", "IMP-038", "IMP-041", "IMP-043", "IMP-045", "IMP-048", "IMP-052", "IMP-053",
            "IMP-054",
        ],
        quick: true,
        run: kernel_rows::all,
    },
    Case { rows: &["MODEL-smollm2", "IMP-005", "QA-012"], quick: true, run: models::smollm2 },
    Case { rows: &["MODEL-gemma3"], quick: true, run: models::gemma3 },
    Case { rows: &["DEPTH", "QA-020"], quick: true, run: models::depth },
    Case {
        rows: &["BATCH", "QA-018", "IMP-004", "IMP-031", "IMP-032", "IMP-056", "IMP-058"],
        quick: true,
        run: models::batches,
    },
    Case { rows: &["THREADS", "IMP-044"], quick: true, run: models::threads },
    Case {
        rows: &[
            "LOAD", "IDLE", "IMP-016", "IMP-024", "IMP-034", "IMP-036", "IMP-049", "IMP-050", "IMP-051", "QA-015",
            "QA-017", "QA-019",
        ],
        quick: true,
        run: process::process,
    },
    Case { rows: &["ACCURACY", "IMP-014", "IMP-028"], quick: false, run: accuracy_rows::accuracy },
    Case { rows: &["IMP-029", "IMP-004"], quick: true, run: accuracy_rows::text_and_cells },
    Case { rows: &["MODEL-1b-q4_k_m", "MEMORY", "IMP-002", "QA-013"], quick: false, run: |lab| models::one_b(lab, 0) },
    Case { rows: &["MODEL-1b-q8_0"], quick: false, run: |lab| models::one_b(lab, 1) },
    Case { rows: &["MODEL-1b-q6_k"], quick: false, run: |lab| models::one_b(lab, 2) },
    Case { rows: &["MODEL-1b-q5_k"], quick: false, run: |lab| models::one_b(lab, 3) },
    Case { rows: &["MODEL-1b-q4_0"], quick: false, run: |lab| models::one_b(lab, 4) },
    Case { rows: &["MODEL-1b-q3_k", "MODEL-1b-q2_k"], quick: false, run: |lab| models::several(lab, &[5, 6]) },
    Case { rows: &["MODEL-1b-iq4_xs"], quick: false, run: |lab| models::one_b(lab, 7) },
    Case { rows: &["MODEL-1b-mxfp4"], quick: false, run: |lab| models::one_b(lab, 8) },
    Case { rows: &["MODEL-1b-f16"], quick: false, run: |lab| models::one_b(lab, 9) },
    Case { rows: &["MODEL-1b-bf16"], quick: false, run: |lab| models::one_b(lab, 10) },
    Case { rows: &["QA-016"], quick: false, run: process::cold_start },
];

/// Rows about the run itself.
#[cfg(test)]
const OWN_ROWS: [&str; 3] = ["IMP-030", "QA-011", "QA-038"];

struct Options {
    quick: bool,
    keep: bool,
    only: Option<String>,
    limit: f64,
    threads: usize,
    out: PathBuf,
    docs: Option<PathBuf>,
    of: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--probe") => {
            println!("{}", process::probe(&args[1..])?);
            return Ok(());
        }
        Some("--list") => {
            for case in CASES.iter().chain(&gpu::CASES) {
                println!("{}{}", case.rows.join(" "), if case.quick { "" } else { "   (not with --quick)" });
            }
            return Ok(());
        }
        _ => {}
    }
    let o = parse(&args)?;
    if !o.of.is_empty() {
        return page_of(&o);
    }
    let report = measure(&o)?;
    write(&report, &o)?;
    print(&report, &o.out);
    Ok(())
}

fn parse(args: &[String]) -> Result<Options> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut o = Options {
        quick: false,
        keep: false,
        only: None,
        limit: f64::INFINITY,
        threads: processors.min(2),
        out: root.join("target/performance"),
        docs: None,
        of: Vec::new(),
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--quick" => o.quick = true,
            "--keep" => o.keep = true,
            "--only" => o.only = Some(value()?.to_lowercase()),
            "--limit" => o.limit = value()?.parse()?,
            "--threads" => o.threads = value()?.parse::<usize>()?.max(1),
            "--out" => o.out = value()?.into(),
            "--docs" => o.docs = Some(value()?.into()),
            "--of" => o.of.push(value()?.into()),
            _ => return Err(format!("no option {arg}; the head of this example's main.rs tells them").into()),
        }
    }
    Ok(o)
}

/// The page of results that are there.
fn page_of(o: &Options) -> Result<()> {
    let docs = o.docs.as_ref().ok_or("--of needs --docs")?;
    let load = |path: &PathBuf| Report::load(path).ok_or(format!("{}: no results of this version", path.display()));
    let reports: Vec<Report> = o.of.iter().map(load).collect::<std::result::Result<_, _>>()?;
    Ok(std::fs::write(docs, markdown::page(&reports[0], &reports[1..]))?)
}

fn measure(o: &Options) -> Result<Report> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = std::env::var_os("INFER_TEST_DATA").map_or_else(|| root.join("target/test-data"), PathBuf::from);
    let reference = llama_cpp::LlamaCpp::open(&data.join("reference"))?;
    let environment = Environment::record(&reference, o.threads);
    environment.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let start = Instant::now();
    let limits = limits::measure(&environment.isa, o.threads);
    let made = root.join("target/bench-models");
    let end = o.limit.is_finite().then(|| start + Duration::from_secs_f64(o.limit.max(0.0)));
    let lab = Lab { reference, limits, n_threads: o.threads, quick: o.quick, keep: o.keep, data, made, start, end };
    let matches = |id: &str| o.only.as_ref().is_none_or(|part| id.to_lowercase().contains(part));
    let mut rows: Vec<Entry> = Vec::new();
    for case in CASES
        .iter()
        .chain(&gpu::CASES)
        .filter(|case| (case.quick || !o.quick) && case.rows.iter().any(|id| matches(id)))
    {
        if lab.end.is_some_and(|end| Instant::now() > end) {
            let why = format!("not begun: the run was limited to {} s", o.limit);
            rows.extend(case.rows.iter().map(|id| failed(id, &why)));
            continue;
        }
        eprintln!("{:5.0} s  {}", lab.start.elapsed().as_secs_f64(), case.rows.join(" "));
        match (case.run)(&lab) {
            Ok(found) => rows.extend(found),
            Err(e) => rows.extend(case.rows.iter().map(|id| failed(id, &e.to_string()))),
        }
    }
    let mut report = Report {
        schema_version: report::SCHEMA_VERSION,
        quick: o.quick,
        seconds: start.elapsed().as_secs_f64(),
        environment,
        limits: lab.limits,
        rows,
        compared_with: None,
        regressions: Vec::new(),
    };
    if let Some(before) = Report::load(&o.out.join("results.json")) {
        report.compare(&before);
    }
    if o.only.is_none() {
        let own = own_rows(&report);
        report.rows.extend(own);
        let others = catalogue::others(&report.rows);
        report.rows.extend(others);
    }
    sort(&mut report.rows);
    Ok(report)
}

fn failed(id: &str, why: &str) -> Entry {
    Entry::new(id, "Failed", "the measurement failed").note(why)
}

/// Rows of the dashboard go by number within their group; others stay in the order of measuring.
fn sort(rows: &mut [Entry]) {
    const GROUPS: [&str; 12] = [
        "Failed",
        "Models",
        "Depth",
        "Batches",
        "Threads",
        "Memory",
        "Accuracy",
        "Kernels",
        "Capabilities",
        "Quality",
        "GPU",
        "",
    ];
    rows.sort_by_key(|row| {
        let group = GROUPS.iter().position(|g| *g == row.group).unwrap_or(GROUPS.len());
        let by_number = ["Capabilities", "Quality", "GPU"].contains(&row.group.as_str());
        (group, if by_number { row.id.clone() } else { String::new() })
    });
}

fn own_rows(report: &Report) -> Vec<Entry> {
    let steadiness =
        |row: &&Entry| row.ours.as_ref().filter(|s| s.n >= 5).map(|s| (100.0 * s.median_cv, row.id.clone()));
    let worst = report.rows.iter().filter_map(|row| steadiness(&row)).max_by(|a, b| a.0.total_cmp(&b.0));
    let harness =
        Entry::new("IMP-030", "Capabilities", "harness: largest coefficient of variation of a median of ours");
    let regressions = Entry::new("QA-011", "Quality", "ratios that fell by more than 5 % since the run before");
    vec![
        match worst {
            Some((cv, id)) => {
                harness.value(cv, "%").at_most(5.0).note(format!("{id}; rows of less than 5 rounds left out"))
            }
            None => harness.note("no row has 5 rounds"),
        },
        match report.compared_with {
            Some(_) => regressions.value(report.regressions.len() as f64, "ratios").at_most(0.0),
            None => regressions.note("no run of this kind on this machine before"),
        },
        Entry::new("QA-038", "Quality", "preflight checks")
            .value(report.environment.warnings.len() as f64, "warnings")
            .note(report.environment.warnings.join("; ")),
    ]
}

/// Writes all outputs. Runs of parts do not replace what the next run is compared with.
fn write(report: &Report, o: &Options) -> Result<()> {
    let name = if o.only.is_some() { "part.json" } else { "results.json" };
    report.save(&o.out.join(name))?;
    std::fs::write(o.out.join("index.html"), html::page(report))?;
    if o.only.is_none() {
        report.save(&o.out.join(format!("runs/{}.json", report.environment.started)))?;
    }
    if let Some(docs) = &o.docs {
        std::fs::write(docs, markdown::page(report, &[]))?;
    }
    Ok(())
}

fn print(report: &Report, out: &Path) {
    for row in report.rows.iter().filter(|row| row.value.is_some() || row.group == "Failed") {
        let value = row.value.map_or(String::new(), |v| format!("{} {}", report::number(v), row.unit));
        let status = format!("{:?}", row.status).to_lowercase();
        println!("{:24} {status:12} {value:>20} {:>8}  {} {}", row.id, row.bar(), row.name, row.note);
    }
    for r in &report.regressions {
        println!("regression: {} was {}, is {}", r.id, report::number(r.before), report::number(r.now));
    }
    println!("{:.0} s; {}", report.seconds, out.join("index.html").display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood_or_refused() {
        let args = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let o = parse(&args("--quick --only MODEL --threads 1 --out a --docs b")).unwrap();
        assert!(o.quick && !o.keep && o.only.as_deref() == Some("model") && o.threads == 1 && o.docs.is_some());
        for bad in ["--threads", "--threads x", "--fast", "--only"] {
            assert!(parse(&args(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn groups_keep_their_order() {
        let mut rows = [
            Entry::new("QA-002", "Quality", ""),
            Entry::new("B", "Models", ""),
            Entry::new("QA-001", "Quality", ""),
            Entry::new("A", "Models", ""),
        ];
        sort(&mut rows);
        assert_eq!(rows.map(|row| row.id), ["B", "A", "QA-001", "QA-002"]);
    }

    #[test]
    fn allocations_are_counted() {
        let before = allocations();
        drop(std::hint::black_box(vec![0u8; 100]));
        assert!(allocations() > before);
    }
}
