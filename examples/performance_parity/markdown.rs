//! The report as docs/performance.md.

use crate::report::{Entry, Report, Status, number};
use std::fmt::Write;

/// The page: of a run, and of runs on other machines that measured rows which this one could not.
pub fn page(report: &Report, others: &[Report]) -> String {
    let mut report = report.clone();
    report.rows.retain(|row| row.status != Status::NotMeasured || !others.iter().any(|other| tells(other, &row.id)));
    let mut out = of_run(&report);
    for other in others {
        let on = other.environment.gpu.as_ref().unwrap_or(&other.environment.cpu);
        let _ = writeln!(out, "\n# On {}\n\nAnother run, of rows that the one above did not measure.\n", cell(on));
        out += &facts(other);
        let told = |row: &&Entry| row.status != Status::NotMeasured && !report.rows.iter().any(|r| r.id == row.id);
        let rows: Vec<&Entry> = other.rows.iter().filter(told).collect();
        for group in other.groups() {
            out += &table(group, rows.iter().copied().filter(|row| row.group == group));
        }
    }
    out
}

/// Whether a run has numbers of a row, under its name or longer ones.
fn tells(report: &Report, id: &str) -> bool {
    report
        .rows
        .iter()
        .filter(|row| row.value.is_some())
        .any(|row| row.id.strip_prefix(id).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
}

fn of_run(report: &Report) -> String {
    let mut out = String::from(
        "# Performance\n\n`make bench` measures all of this and writes this page; `make bench-kernels` measures the kernels one \
         by one. Both\nlibraries run in one process and take turns; llama.cpp is its release v0.5.0 with the CPU backend that it \
         picks for\nthe machine. The first round warms up; rounds are repeated until the coefficient of variation of every \
         median is below\n5 %, at least five times. Outliers (3.5 median deviations) are left out of \
         medians and\ncounted. Ratios are medians over rounds. Compare ratios, not tokens per second: machines differ, and \
         are shared.\n\n",
    );
    if report.quick {
        out += "**A short run: numbers are rough.**\n\n";
    }
    out += &facts(report);
    let _ = writeln!(
        out,
        "\n{} rows are met, {} missed, {} tell without a bar, {} are checked elsewhere, {} are not measured.",
        report.count(Status::Pass),
        report.count(Status::Fail),
        report.count(Status::Info),
        report.count(Status::Elsewhere),
        report.count(Status::NotMeasured)
    );
    for r in &report.regressions {
        let _ = writeln!(out, "\n**Regression:** {} was {} ×, is {} ×", cell(&r.id), number(r.before), number(r.now));
    }
    for group in report.groups() {
        out += &table(group, report.rows.iter().filter(|row| row.group == group));
    }
    out
}

fn facts(report: &Report) -> String {
    let mut out = String::new();
    for warning in &report.environment.warnings {
        let _ = writeln!(out, "**Warning:** {}\n", cell(warning));
    }
    out += "| | |\n|---|---|\n";
    for (name, value) in report.facts() {
        let _ = writeln!(out, "| {name} | {} |", cell(&value));
    }
    out
}

/// The rows of a group; nothing of none.
fn table<'a>(group: &str, rows: impl Iterator<Item = &'a Entry>) -> String {
    let lines: String = rows.map(line).collect();
    if lines.is_empty() {
        return lines;
    }
    let head = "| row | what | ours | beside | value | bar | goal | |\n|---|---|---|---|---|---|---|---|";
    format!("\n## {}\n\n{head}\n{lines}", cell(group))
}

fn line(row: &Entry) -> String {
    let rate = |s: &Option<crate::stats::Summary>| {
        s.as_ref().map_or(String::new(), |s| format!("{} {}", number(s.rate), s.rate_unit))
    };
    let beside = match (&row.other_name, &row.limit) {
        (Some(name), _) => format!("{name}: {}", rate(&row.other)),
        (None, Some(l)) => format!("{}: {} {}", l.name, number(l.limit), l.unit),
        (None, None) => String::new(),
    };
    let word = match row.status {
        Status::Pass => "met",
        Status::Fail => "**missed**",
        Status::Info => "",
        Status::Elsewhere => "checked elsewhere",
        Status::NotMeasured => "not measured",
    };
    let name = if row.note.is_empty() { row.name.clone() } else { format!("{} ({})", row.name, row.note) };
    let cells = [
        row.id.clone(),
        name,
        rate(&row.ours),
        beside,
        row.value.map_or(String::new(), |v| format!("{} {}", number(v), row.unit)),
        row.bar(),
        row.goal.map_or(String::new(), number),
        word.into(),
    ];
    format!("| {} |\n", cells.map(|c| cell(&c)).join(" | "))
}

impl Report {
    /// The environment and the machine's limits, by name.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let (e, l) = (&self.environment, &self.limits);
        let mut facts = vec![
            ("measured", format!("{} UTC, {:.0} s", e.date, self.seconds)),
            ("processor", format!("{}, {} processors, {}", e.cpu, e.n_processors, e.features.join(" "))),
            ("memory", format!("{:.1} GiB", e.memory_gib)),
            ("system", format!("Linux {}, load average {:.2} before the start", e.kernel, e.load_average)),
            (
                "libinfer",
                format!(
                    "{}{}{}, kernels for {}, {} threads",
                    e.infer_version,
                    e.git_commit.as_ref().map_or(String::new(), |c| format!(" at {c}")),
                    // A machine that only measures has no compiler.
                    if e.rustc.is_empty() { String::new() } else { format!(", {}", e.rustc) },
                    e.isa,
                    e.n_threads
                ),
            ),
            ("llama.cpp", e.llama_cpp.clone()),
            (
                "limits",
                format!(
                    "{:.1} GB/s read from memory, {:.0} G operations/s on bytes, {:.0} GFLOP/s on f32, {} threads",
                    l.read_gb_s, l.int8_gop_s, l.f32_gflop_s, l.n_threads
                ),
            ),
        ];
        if let Some(gpu) = &e.gpu {
            facts.insert(2, ("GPU", gpu.clone()));
        }
        facts
    }
}

/// Text that does not end its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_page_has_all_rows() {
        let page = page(&sample(), &[]);
        for text in [
            "| M1 | A model, prompt | 1024 t/s | llama.cpp: 341 t/s | 3.00 × | ≥ 2.00 | 4.00 | met |",
            "| M2 | A model, tokens |  |  | 0.50 × | ≥ 1.00 |  | **missed** |",
            "| K1 | A kernel |  | memory read: 30.0 GB/s | 10.0 GB/s |  |  |  |",
            "| C1 | Tested \\| elsewhere (`cargo test`) |  |  |  |  |  | checked elsewhere |",
            "| G1 | A GPU (no GPU backend in this build) |  |  |  |  |  | not measured |",
            "## Models",
            "## GPU",
            "**Warning:** busy",
            "**Regression:** M2 was 0.90 ×, is 0.50 ×",
        ] {
            assert!(page.contains(text), "{text} in\n{page}");
        }
    }

    #[test]
    fn another_run_tells_what_the_first_could_not() {
        let mut other = sample();
        other.environment.gpu = Some("A card".into());
        other.rows = vec![
            Entry::new("G1-fast", "GPU", "Kernel").value(2.0, "×").at_least(1.0),
            Entry::new("M2", "Models", "A model, tokens").value(0.9, "×").at_least(1.0),
        ];
        let page = page(&sample(), &[other]);
        for text in
            ["# On A card", "| GPU | A card |", "| G1-fast | Kernel |  |  | 2.00 × | ≥ 1.00 |  | met |", "0.50 ×"]
        {
            assert!(page.contains(text), "{text} in\n{page}");
        }
        assert!(!page.contains("| G1 |") && !page.contains("0.90 × | ≥"), "{page}");
    }
}
