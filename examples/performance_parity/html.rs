//! The report as one HTML page: tables and bar charts as inline SVG, nothing loaded from elsewhere.

use crate::report::{Entry, Report, Status, number};
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222;\
background:#fff}h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em}table{border-collapse:collapse;width:100%;\
font-size:.85em}th,td{text-align:left;padding:.3em .6em;border-bottom:1px solid #ddd;vertical-align:top}\
td.n{text-align:right;white-space:nowrap}.pass{color:#17703a}.fail{color:#b3261e;font-weight:600}.none{color:#777}\
svg{width:100%;height:auto;font:12px system-ui,sans-serif}\
@media(prefers-color-scheme:dark){body{background:#1b1b1b;color:#ddd}th,td{border-color:#444}svg text{fill:#ddd}\
.pass{color:#6fce93}.fail{color:#ff8a80}.none{color:#999}}";

/// The page.
pub fn page(report: &Report) -> String {
    let e = &report.environment;
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>libinfer: performance</title><style>{STYLE}</style></head><body>\n\
         <h1>libinfer: performance</h1>\n<p>{} met, {} missed, {} told without a bar, {} checked elsewhere, {} not \
         measured. {} in {:.0} s, libinfer {}{}.</p>\n",
        report.count(Status::Pass),
        report.count(Status::Fail),
        report.count(Status::Info),
        report.count(Status::Elsewhere),
        report.count(Status::NotMeasured),
        escape(&e.date),
        report.seconds,
        escape(&e.infer_version),
        e.git_commit.as_ref().map_or(String::new(), |c| format!(" at {}", escape(c))),
    );
    if report.quick {
        out += "<p class=\"fail\">A short run: numbers are rough.</p>\n";
    }
    for warning in &e.warnings {
        let _ = writeln!(out, "<p class=\"fail\">Warning: {}</p>", escape(warning));
    }
    for r in &report.regressions {
        let (id, before, now) = (escape(&r.id), number(r.before), number(r.now));
        let _ = writeln!(out, "<p class=\"fail\">Regression: {id} was {before} ×, is {now} ×</p>");
    }
    out += "<table>\n";
    for (name, value) in report.facts() {
        let _ = writeln!(out, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value));
    }
    out += "</table>\n";
    for group in report.groups() {
        let rows: Vec<&Entry> = report.rows.iter().filter(|row| row.group == group).collect();
        let _ = writeln!(out, "<h2>{}</h2>", escape(group));
        out += &ratio_chart(&rows);
        out += &limit_chart(&rows);
        out += &table(&rows);
    }
    out += "</body></html>\n";
    out
}

fn table(rows: &[&Entry]) -> String {
    let mut out = String::from(
        "<table><tr><th>row</th><th>what</th><th>ours</th><th>beside</th><th>value</th><th>bar</th><th>goal</th>\
         <th></th><th>p50 / p95 / p99 ms, CV, n</th></tr>\n",
    );
    for row in rows {
        let rate = |s: &Option<crate::stats::Summary>| {
            s.as_ref().map_or(String::new(), |s| format!("{} {}", number(s.rate), escape(&s.rate_unit)))
        };
        let beside = match (&row.other_name, &row.limit) {
            (Some(name), _) => format!("{}: {}", escape(name), rate(&row.other)),
            (None, Some(l)) => format!("{}: {} {}", escape(&l.name), number(l.limit), escape(&l.unit)),
            (None, None) => String::new(),
        };
        let (class, word) = word(row.status);
        let samples = row.ours.as_ref().map_or(String::new(), |s| {
            let (p50, p95, p99) = (number(s.p50_ms), number(s.p95_ms), number(s.p99_ms));
            format!("{p50} / {p95} / {p99}, {:.1} %, {} ({} outliers)", 100.0 * s.cv, s.n, s.n_outliers)
        });
        let note =
            if row.note.is_empty() { String::new() } else { format!("<br><small>{}</small>", escape(&row.note)) };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}{note}</td><td class=\"n\">{}</td><td class=\"n\">{beside}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"{class}\">{word}</td><td class=\"n\">{samples}</td></tr>",
            escape(&row.id),
            escape(&row.name),
            rate(&row.ours),
            row.value.map_or(String::new(), |v| format!("{} {}", number(v), escape(&row.unit))),
            row.bar(),
            row.goal.map_or(String::new(), number),
        );
    }
    out += "</table>\n";
    out
}

/// Class and word of a status.
fn word(status: Status) -> (&'static str, &'static str) {
    match status {
        Status::Pass => ("pass", "met"),
        Status::Fail => ("fail", "missed"),
        Status::Info => ("none", ""),
        Status::Elsewhere => ("none", "checked elsewhere"),
        Status::NotMeasured => ("none", "not measured"),
    }
}

/// Ratios as bars with a mark at the bar to meet.
fn ratio_chart(rows: &[&Entry]) -> String {
    let bars: Vec<Bar> = rows
        .iter()
        .filter(|row| row.unit == "×" && row.other.is_some())
        .filter_map(|row| {
            Some(Bar { name: &row.name, value: row.value?, mark: row.must, met: row.status != Status::Fail })
        })
        .collect();
    chart("Ratio to what it is compared with; the mark is the bar", &bars, "×")
}

/// Rates as shares of the machine's limits.
fn limit_chart(rows: &[&Entry]) -> String {
    let bars: Vec<Bar> = rows
        .iter()
        .filter_map(|row| Some((row, row.limit.as_ref()?)))
        .map(|(row, l)| Bar { name: &row.name, value: 100.0 * l.rate / l.limit, mark: Some(100.0), met: true })
        .collect();
    chart("Share of the machine's limit", &bars, "%")
}

struct Bar<'a> {
    name: &'a str,
    value: f64,
    mark: Option<f64>,
    met: bool,
}

fn chart(title: &str, bars: &[Bar], unit: &str) -> String {
    if bars.is_empty() {
        return String::new();
    }
    const LINE: usize = 20;
    const LEFT: f64 = 380.0;
    const WIDTH: f64 = 520.0;
    let most = bars.iter().map(|b| b.value.max(b.mark.unwrap_or(0.0))).fold(f64::MIN_POSITIVE, f64::max);
    let x = |v: f64| LEFT + WIDTH * (v / most).clamp(0.0, 1.0);
    let height = LINE * (bars.len() + 1) + 6;
    let mut out = format!("<svg viewBox=\"0 0 1000 {height}\" role=\"img\"><text x=\"0\" y=\"14\">{title}</text>\n");
    for (i, bar) in bars.iter().enumerate() {
        let y = LINE * (i + 1);
        let color = if bar.met { "#3b78c2" } else { "#c2483b" };
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{LEFT:.0}\" y=\"{}\" width=\"{:.1}\" \
             height=\"13\" fill=\"{color}\"/><text x=\"{:.1}\" y=\"{}\">{} {unit}</text>",
            LEFT - 8.0,
            y + 14,
            escape(bar.name),
            y + 4,
            x(bar.value) - LEFT,
            x(bar.value) + 6.0,
            y + 14,
            number(bar.value)
        );
        if let Some(mark) = bar.mark {
            let _ = writeln!(
                out,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#e0a030\" stroke-width=\"2\"/>",
                x(mark),
                y + 2,
                y + 19
            );
        }
    }
    out += "</svg>\n";
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_page_has_all_rows_and_loads_nothing() {
        let page = page(&sample());
        for text in [
            "A model, prompt",
            "A kernel",
            "no GPU backend in this build",
            "3.00 ×",
            "Regression: M2",
            "A &lt;fast&gt; &amp; small one",
            "class=\"fail\">missed",
            "Warning: busy",
            "1 met, 1 missed",
        ] {
            assert!(page.contains(text), "{text}");
        }
        for text in ["http", "src=", "href=", "<script", "@import", "url("] {
            assert!(!page.contains(text), "{text}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        // One bar for the ratio with samples, one for the limit.
        assert_eq!(page.matches("<rect").count(), 2);
    }

    #[test]
    fn bars_keep_their_proportion() {
        let bar = |value: f64| Bar { name: "a", value, mark: None, met: true };
        let svg = chart("t", &[bar(1.0), bar(2.0)], "×");
        assert!(svg.contains("width=\"260.0\"") && svg.contains("width=\"520.0\""), "{svg}");
    }
}
