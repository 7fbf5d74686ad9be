//! Results: what a row says, what a run says, how runs compare, and the file they are kept in.

use crate::Result;
use crate::environment::Environment;
use crate::limits::Limits;
use crate::stats::Summary;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Grows when the meaning of a field changes; docs/performance.schema.json describes this version.
pub const SCHEMA_VERSION: u32 = 1;

/// What is allowed to a ratio from run to run.
const REGRESSION: f64 = 0.05;

/// How a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Measured, and the bar is met.
    Pass,
    /// Measured, and the bar is missed.
    Fail,
    /// Measured; there is no bar.
    Info,
    /// Something else checks it; the note says what.
    Elsewhere,
    /// Not measured; the note says why.
    NotMeasured,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Unique; rows of the dashboard have its names.
    pub id: String,
    pub group: String,
    pub name: String,
    pub status: Status,
    /// What is judged, in `unit`.
    pub value: Option<f64>,
    pub unit: String,
    /// The bar; `None` of rows that only tell.
    pub must: Option<f64>,
    /// What is aimed at beyond it.
    pub goal: Option<f64>,
    /// Whether the value may be at most the bar; else at least.
    pub at_most: bool,
    pub ours: Option<Summary>,
    /// What ours is compared with.
    pub other: Option<Summary>,
    pub other_name: Option<String>,
    /// Share of a limit of the machine that is reached.
    pub limit: Option<LimitShare>,
    pub note: String,
}

/// A limit of the machine beside a rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitShare {
    pub name: String,
    pub limit: f64,
    pub rate: f64,
    pub unit: String,
}

impl Entry {
    /// A row without a result yet.
    pub fn new(id: &str, group: &str, name: &str) -> Entry {
        Entry {
            id: id.into(),
            group: group.into(),
            name: name.into(),
            status: Status::NotMeasured,
            value: None,
            unit: String::new(),
            must: None,
            goal: None,
            at_most: false,
            ours: None,
            other: None,
            other_name: None,
            limit: None,
            note: String::new(),
        }
    }

    /// With what is judged. A value that is not finite is no result.
    pub fn value(mut self, value: f64, unit: &str) -> Entry {
        self.value = value.is_finite().then_some(value);
        self.unit = unit.into();
        self.judged()
    }

    /// With times of ours, and of what they are compared with.
    pub fn times(mut self, ours: Summary, other: Option<(&str, Summary)>) -> Entry {
        self.ours = Some(ours);
        self.other_name = other.as_ref().map(|(name, _)| (*name).into());
        self.other = other.map(|(_, summary)| summary);
        self
    }

    /// The value must be at least this.
    pub fn at_least(mut self, must: f64) -> Entry {
        (self.must, self.at_most) = (Some(must), false);
        self.judged()
    }

    /// The value may be at most this.
    pub fn at_most(mut self, must: f64) -> Entry {
        (self.must, self.at_most) = (Some(must), true);
        self.judged()
    }

    /// With what is aimed at.
    pub fn goal(mut self, goal: f64) -> Entry {
        self.goal = Some(goal);
        self
    }

    /// Beside a limit of the machine.
    pub fn limit(mut self, name: &str, rate: f64, limit: f64, unit: &str) -> Entry {
        self.limit = Some(LimitShare { name: name.into(), limit, rate, unit: unit.into() });
        self
    }

    /// With a remark.
    pub fn note(mut self, note: impl Into<String>) -> Entry {
        self.note = note.into();
        self
    }

    /// Checked by something else than a measurement.
    pub fn elsewhere(mut self, by: &str) -> Entry {
        (self.status, self.note) = (Status::Elsewhere, by.into());
        self
    }

    /// Without a bar: it only tells.
    #[cfg(feature = "gpu")]
    pub fn unjudged(mut self) -> Entry {
        (self.must, self.goal) = (None, None);
        if matches!(self.status, Status::Pass | Status::Fail) {
            self.status = Status::Info;
        }
        self
    }

    fn judged(mut self) -> Entry {
        self.status = match (self.value, self.must) {
            (None, _) => Status::NotMeasured,
            (Some(_), None) => Status::Info,
            (Some(value), Some(must)) if self.at_most == (value <= must) || value == must => Status::Pass,
            (Some(_), Some(_)) => Status::Fail,
        };
        self
    }

    /// The bar in words, empty without one.
    pub fn bar(&self) -> String {
        self.must.map_or(String::new(), |must| format!("{} {}", if self.at_most { "≤" } else { "≥" }, number(must)))
    }
}

/// A ratio that got worse since the run before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Regression {
    pub id: String,
    pub before: f64,
    pub now: f64,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema_version: u32,
    /// Whether the run was a short one, whose numbers are rough.
    pub quick: bool,
    /// Seconds that the run took.
    pub seconds: f64,
    pub environment: Environment,
    pub limits: Limits,
    pub rows: Vec<Entry>,
    /// Start of the run that this one was compared with.
    pub compared_with: Option<u64>,
    pub regressions: Vec<Regression>,
}

impl Report {
    /// Reads a report; `None` where there is none of this version.
    pub fn load(path: &Path) -> Option<Report> {
        let report: Report = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (report.schema_version == SCHEMA_VERSION).then_some(report)
    }

    /// Writes the report, after checking it against the schema.
    pub fn save(&self, path: &Path) -> Result<()> {
        let value = serde_json::to_value(self)?;
        crate::schema::check(&value)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(path, serde_json::to_string_pretty(&value)?)?)
    }

    /// Finds ratios that fell by more than 5 % since `before`, a run of the same kind on the same machine. Absolute numbers
    /// of different runs are not compared.
    pub fn compare(&mut self, before: &Report) {
        if before.quick != self.quick || before.environment.machine() != self.environment.machine() {
            return;
        }
        self.compared_with = Some(before.environment.started);
        for row in self.rows.iter().filter(|row| row.unit == "×") {
            let Some(old) = before.rows.iter().find(|old| old.id == row.id && old.unit == "×") else { continue };
            let (Some(now), Some(before)) = (row.value, old.value) else { continue };
            let worse = if row.at_most { now / before } else { before / now };
            if worse > 1.0 + REGRESSION {
                self.regressions.push(Regression { id: row.id.clone(), before, now });
            }
        }
    }

    /// How many rows ended so.
    pub fn count(&self, status: Status) -> usize {
        self.rows.iter().filter(|row| row.status == status).count()
    }

    /// The groups in the order of their first rows.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !groups.contains(&row.group.as_str()) {
                groups.push(&row.group);
            }
        }
        groups
    }
}

/// Three significant digits.
pub fn number(v: f64) -> String {
    match v.abs() {
        a if !a.is_finite() => "–".into(),
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        a if a >= 0.1 || a == 0.0 => format!("{v:.2}"),
        a if a >= 0.001 => format!("{v:.4}"),
        _ => format!("{v:.2e}"),
    }
}

/// A small report with a row of every status, for tests of what is made from reports.
#[cfg(test)]
pub fn sample() -> Report {
    let summary = |t: f64| Summary::of(&[t, 1.01 * t, 0.99 * t, t, 9.0 * t], 512.0, "t/s");
    Report {
        schema_version: SCHEMA_VERSION,
        quick: false,
        seconds: 12.5,
        environment: Environment {
            started: 1_700_000_000,
            date: "2023-11-14 22:13".into(),
            cpu: "A <fast> & small one".into(),
            n_processors: 2,
            memory_gib: 8.0,
            kernel: "6".into(),
            isa: "avx2".into(),
            features: vec!["avx2".into()],
            rustc: "rustc 1".into(),
            infer_version: "0.1.0".into(),
            git_commit: None,
            llama_cpp: "v0.5.0".into(),
            n_threads: 2,
            gpu: None,
            load_average: 0.1,
            warnings: vec!["busy".into()],
        },
        limits: Limits { read_gb_s: 30.0, int8_gop_s: 400.0, f32_gflop_s: 200.0, isa: "avx2".into(), n_threads: 2 },
        rows: vec![
            Entry::new("M1", "Models", "A model, prompt")
                .times(summary(0.5), Some(("llama.cpp", summary(1.5))))
                .value(3.0, "×")
                .at_least(2.0)
                .goal(4.0),
            Entry::new("M2", "Models", "A model, tokens").value(0.5, "×").at_least(1.0),
            Entry::new("K1", "Kernels", "A kernel").value(10.0, "GB/s").limit("memory read", 10.0, 30.0, "GB/s"),
            Entry::new("C1", "Capabilities", "Tested | elsewhere").elsewhere("`cargo test`"),
            Entry::new("G1", "GPU", "A GPU").note("no GPU backend in this build"),
        ],
        compared_with: None,
        regressions: vec![Regression { id: "M2".into(), before: 0.9, now: 0.5 }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_judged_by_their_bar() {
        let row = |value: f64| Entry::new("a", "b", "c").value(value, "×");
        assert_eq!(row(1.0).status, Status::Info);
        assert_eq!(row(2.0).at_least(2.0).status, Status::Pass);
        assert_eq!(row(1.9).at_least(2.0).status, Status::Fail);
        assert_eq!(row(2.0).at_most(2.0).status, Status::Pass);
        assert_eq!(row(2.1).at_most(2.0).status, Status::Fail);
        assert_eq!(row(1.0).at_most(2.0).status, Status::Pass);
        assert_eq!(row(f64::NAN).at_most(2.0).status, Status::NotMeasured);
        assert_eq!(row(f64::INFINITY).at_least(2.0).status, Status::NotMeasured);
    }

    #[test]
    fn ratios_that_fell_are_regressions() {
        let before = sample();
        let mut now = sample();
        now.regressions.clear();
        now.rows[0].value = Some(2.8);
        now.rows[1].value = Some(0.49);
        now.compare(&before);
        assert_eq!(now.compared_with, Some(1_700_000_000));
        assert_eq!(now.regressions, [Regression { id: "M1".into(), before: 3.0, now: 2.8 }]);

        let mut other = sample();
        other.regressions.clear();
        other.rows[0].value = Some(1.0);
        other.environment.isa = "avx512".into();
        other.compare(&before);
        assert!(other.regressions.is_empty() && other.compared_with.is_none(), "another machine is not compared");
    }

    #[test]
    fn reports_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/results.json");
        sample().save(&path).unwrap();
        let read = Report::load(&path).unwrap();
        let told = |r: &Report| r.rows.iter().map(|row| (row.id.clone(), row.status, row.value)).collect::<Vec<_>>();
        assert_eq!(told(&read), told(&sample()));
        assert_eq!((read.environment, read.limits), (sample().environment, sample().limits));
        std::fs::write(&path, serde_json::to_string(&Report { schema_version: 0, ..sample() }).unwrap()).unwrap();
        assert!(Report::load(&path).is_none());
    }

    #[test]
    fn numbers_have_three_digits() {
        let text: Vec<String> = [1234.5, 12.345, 1.2345, 0.012345, 1.2345e-5, 0.0].map(number).into();
        assert_eq!(text, ["1234", "12.3", "1.23", "0.0123", "1.23e-5", "0.00"]);
    }
}
