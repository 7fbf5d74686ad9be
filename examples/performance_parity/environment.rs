//! The machine and the software that results belong to, and whether it is fit for measuring.

use crate::llama_cpp::LlamaCpp;
use infer::backend::cpu::kernels;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Seconds since 1970 at the start.
    pub started: u64,
    /// The same as a date, UTC.
    pub date: String,
    pub cpu: String,
    pub n_processors: usize,
    pub memory_gib: f64,
    pub kernel: String,
    /// Instruction set of our kernels.
    pub isa: String,
    /// Processor features that kernels ask for and that are there.
    pub features: Vec<String>,
    pub rustc: String,
    pub infer_version: String,
    pub git_commit: Option<String>,
    /// llama.cpp's library, and what its backend says that it uses.
    pub llama_cpp: String,
    /// Threads used, unless a row says otherwise.
    pub n_threads: usize,
    /// The GPU of the rows about GPUs.
    #[serde(default)]
    pub gpu: Option<String>,
    /// One-minute load average before the start.
    pub load_average: f64,
    /// What speaks against trusting the results.
    pub warnings: Vec<String>,
}

impl Environment {
    /// Looks around; nothing here fails, what is unknown is empty.
    pub fn record(reference: &LlamaCpp, n_threads: usize) -> Environment {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let n_processors = std::thread::available_parallelism().map_or(1, usize::from);
        let load_average = file("/proc/loadavg").split(' ').next().and_then(|s| s.parse().ok()).unwrap_or(0.0);
        let kib = field(&file("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0);
        let available =
            field(&file("/proc/meminfo"), "MemAvailable").trim_end_matches(" kB").parse::<f64>().unwrap_or(kib);
        let mut environment = Environment {
            started,
            date: date(started),
            cpu: field(&file("/proc/cpuinfo"), "model name"),
            n_processors,
            memory_gib: (kib / f64::from(1 << 20) * 10.0).round() / 10.0,
            // Without what a distribution or a machine's owner adds.
            kernel: file("/proc/sys/kernel/osrelease").trim().split('-').next().unwrap_or_default().into(),
            isa: kernels::best().name().into(),
            features: features(),
            rustc: output("rustc", &["--version"]).unwrap_or_default(),
            infer_version: env!("CARGO_PKG_VERSION").into(),
            git_commit: output("git", &["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short=12", "HEAD"]),
            llama_cpp: format!("v0.5.0, {}", reference.system_info().unwrap_or_default()),
            n_threads,
            gpu: crate::gpu::name(),
            load_average,
            warnings: Vec::new(),
        };
        let mut warn = |text: String| environment.warnings.push(text);
        if cfg!(debug_assertions) {
            warn("built without optimisation".into());
        }
        if load_average > 0.3 * n_processors as f64 {
            warn(format!("the machine is busy: load average {load_average:.1} before the start"));
        }
        if available < f64::from(6 << 20) {
            warn(format!(
                "{:.1} GiB of memory are free; the largest models may not stay in memory",
                available / 1048576.0
            ));
        }
        if n_threads > n_processors {
            warn(format!("{n_threads} threads on {n_processors} processors"));
        }
        environment
    }

    /// What must be equal for two runs to be of one machine.
    pub fn machine(&self) -> (&str, usize, &str, usize) {
        (&self.cpu, self.n_processors, &self.isa, self.n_threads)
    }
}

/// `YYYY-MM-DD HH:MM` of seconds since 1970, UTC.
pub fn date(seconds: u64) -> String {
    // Days to civil dates over eras of 400 years that begin in March.
    let days = (seconds / 86400) as i64 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60)
}

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(path)).unwrap_or_default()
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> String {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map_or(String::new(), |(_, value)| value.trim().into())
}

fn features() -> Vec<String> {
    const ASKED: [&str; 12] = [
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx512_bf16",
        "avx_vnni",
        "amx_int8",
        "asimddp",
        "i8mm",
        "sve",
    ];
    let cpuinfo = file("/proc/cpuinfo");
    let flags = [field(&cpuinfo, "flags"), field(&cpuinfo, "Features")].join(" ");
    let there: Vec<&str> = flags.split(' ').collect();
    ASKED.iter().filter(|f| there.contains(f)).map(|f| f.to_string()).collect()
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_string())
}

/// Resident memory of this process in bytes.
pub fn resident() -> u64 {
    let kib: u64 = field(&file("/proc/self/status"), "VmRSS").trim_end_matches(" kB").trim().parse().unwrap_or(0);
    kib << 10
}

/// Resident memory that belongs to no file, in bytes.
pub fn anonymous() -> u64 {
    let kib: u64 = field(&file("/proc/self/status"), "RssAnon").trim_end_matches(" kB").trim().parse().unwrap_or(0);
    kib << 10
}

/// Processor time of this process in seconds.
pub fn cpu_time() -> f64 {
    let stat = file("/proc/self/stat");
    // The name in parentheses may contain spaces; user and system time are the 14th and 15th field.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = rest.split_whitespace().skip(11).take(2).filter_map(|s| s.parse::<f64>().ok()).sum();
    ticks / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(951_827_696), "2000-02-29 12:34");
        assert_eq!(date(1_767_225_599), "2025-12-31 23:59");
    }

    #[test]
    fn this_process_has_memory_and_uses_time() {
        assert!(resident() > 1 << 20);
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 60 {}
        assert!(cpu_time() > 0.0);
    }

    #[test]
    fn fields_are_found_by_name() {
        assert_eq!(field("a : 1\nmodel name\t: X Y\n", "model name"), "X Y");
        assert_eq!(field("", "model name"), "");
    }
}
