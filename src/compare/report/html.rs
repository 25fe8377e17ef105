//! One HTML page that needs only a browser: charts and sortable tables, in light and dark mode, on paper and on phones.
//!
//! The page's content security policy forbids loading anything, so all of its content is in the file.

mod chart;

use std::fmt::Write as _;

use super::{Report, mark, times};
use crate::compare::measure::three_digits;
use crate::compare::{Measured, Row};
use crate::size::{size, size_change};

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// A table cell: its text, and the key that it is sorted by.
struct Cell {
    text: String,
    key: Option<f64>,
}

impl Cell {
    fn words(text: impl Into<String>) -> Self {
        Self { text: text.into(), key: None }
    }

    /// Creates a numeric cell; unknown values sort after all known values.
    fn number(text: Option<String>, key: Option<f64>) -> Self {
        Self { text: text.unwrap_or_else(|| "-".to_owned()), key: Some(key.unwrap_or(f64::MAX)) }
    }
}

/// Returns the whole report as a page.
pub fn html(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"ImageContent-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">\n\
         <title>strata compare</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#figures\">To the figures</a>\n<header>\n<h1>strata compare</h1>\n"
    );
    _ = writeln!(page, "<p>{}</p>\n</header>\n<main>", escape(&lead(report)));
    summary(&mut page, report);
    contents(&mut page, report);
    page.push_str("<div id=\"figures\">\n");
    for workload in &report.workloads {
        section(&mut page, workload);
    }
    page.push_str("</div>\n");
    not_measured(&mut page, report);
    conditions(&mut page, report);
    _ = write!(page, "</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
    page
}

fn lead(report: &Report) -> String {
    format!(
        "Snapshot strategies, measured on Linux {} with {}: {} files, {}.",
        report.machine.kernel,
        report.machine.cpu.as_deref().unwrap_or("a processor of unknown make"),
        report.image.files,
        size(report.image.size_bytes)
    )
}

fn summary(page: &mut String, report: &Report) {
    page.push_str("<section aria-labelledby=\"said\">\n<h2 id=\"said\">In plain words</h2>\n");
    if report.summary.is_empty() {
        page.push_str("<p>Nothing could be compared.</p>\n</section>\n");
        return;
    }
    page.push_str("<ul>\n");
    for sentence in &report.summary {
        _ = writeln!(page, "<li>{}</li>", escape(sentence));
    }
    page.push_str("</ul>\n</section>\n");
}

fn contents(page: &mut String, report: &Report) {
    page.push_str("<nav aria-label=\"Workloads\">\n<ul>\n");
    for workload in &report.workloads {
        let name = escape(workload.name);
        _ = writeln!(page, "<li><a href=\"#{name}\">{name}</a></li>");
    }
    page.push_str("<li><a href=\"#conditions\">measured on</a></li>\n</ul>\n</nav>\n");
}

fn section(page: &mut String, workload: &Measured) {
    let name = escape(workload.name);
    _ = write!(
        page,
        "<section id=\"{name}\" aria-labelledby=\"{name}-heading\">\n<h2 id=\"{name}-heading\">{name}</h2>\n<p>{}</p>\n",
        escape(workload.about)
    );
    page.push_str(&chart::chart(workload));
    let rows = workload.steps.iter().flat_map(|step| step.rows.iter().map(|row| cells(step.step.name, row)));
    let headings = ["step", "who", "median", "quarter", "three quarters", "samples", "of best", "of floor", "mark"];
    table(page, &format!("Times of {}", workload.name), &headings, rows.collect());
    costs(page, workload);
    page.push_str("</section>\n");
}

fn cells(step: &str, row: &Row) -> Vec<Cell> {
    let s = row.figures.map(|figures| figures.statistics);
    let ns = |value: Option<u64>| Cell::number(value.map(three_digits), value.map(|ns| ns as f64));
    let ratio = |value: Option<f64>| Cell::number(value.map(times), value);
    vec![
        Cell::words(step),
        Cell::words(&row.label.subject),
        ns(s.map(|s| s.median_ns)),
        ns(s.map(|s| s.lower_quartile_ns)),
        ns(s.map(|s| s.upper_quartile_ns)),
        Cell::number(s.map(|s| s.samples.to_string()), s.map(|s| s.samples as f64)),
        ratio(row.figures.map(|figures| figures.times_best)),
        ratio(row.figures.and_then(|figures| figures.times_floor)),
        Cell::words(row.failure.clone().unwrap_or_else(|| mark(row))),
    ]
}

fn costs(page: &mut String, workload: &Measured) {
    if workload.costs.is_empty() {
        return;
    }
    let rows = workload.costs.iter().map(|weighed| {
        let cost = weighed.cost;
        let number = |value: Option<u64>| Cell::number(value.map(|v| v.to_string()), value.map(|v| v as f64));
        let bytes = |value: Option<u64>| Cell::number(value.map(size), value.map(|v| v as f64));
        vec![
            Cell::words(&weighed.subject),
            Cell::number(cost.size_bytes.map(size_change), cost.size_bytes.map(|v| v as f64)),
            Cell::number(cost.inodes.map(|v| v.to_string()), cost.inodes.map(|v| v as f64)),
            bytes(cost.written_bytes),
            number(cost.flushes),
            bytes(cost.memory_bytes),
        ]
    });
    let headings = ["who", "space", "inodes", "written to disk", "flushes of the disk", "memory"];
    table(page, &format!("What {} takes besides time, once", workload.name), &headings, rows.collect());
}

fn table(page: &mut String, caption: &str, headings: &[&str], rows: Vec<Vec<Cell>>) {
    let caption = escape(caption);
    // A scrolling region must be reachable by keyboard (`tabindex`).
    _ = write!(
        page,
        "<div class=\"wide\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\">\n<table>\n\
         <caption>{caption}</caption>\n<thead>\n<tr>"
    );
    for heading in headings {
        _ = write!(page, "<th scope=\"col\"><button type=\"button\">{}</button></th>", escape(heading));
    }
    page.push_str("</tr>\n</thead>\n<tbody>\n");
    for row in rows {
        page.push_str("<tr>");
        for Cell { text, key } in row {
            let text = escape(&text);
            match key {
                Some(key) => _ = write!(page, "<td class=\"number\" data-key=\"{key}\">{text}</td>"),
                None => _ = write!(page, "<td>{text}</td>"),
            }
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</div>\n");
}

fn not_measured(page: &mut String, report: &Report) {
    if report.not_measured.is_empty() {
        return;
    }
    page.push_str("<section aria-labelledby=\"absent\">\n<h2 id=\"absent\">Not measured</h2>\n<dl>\n");
    for absent in &report.not_measured {
        _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(&absent.subject), escape(&absent.reason));
    }
    page.push_str("</dl>\n</section>\n");
}

fn conditions(page: &mut String, report: &Report) {
    page.push_str("<section aria-labelledby=\"conditions\">\n<h2 id=\"conditions\">Measured on</h2>\n<dl>\n");
    for (name, value) in report.conditions() {
        _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(&value));
    }
    page.push_str("</dl>\n<h3>Steps</h3>\n<dl>\n");
    for comparison in report.workloads.iter().flat_map(|workload| &workload.steps) {
        _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(comparison.step.name), escape(comparison.step.about));
    }
    page.push_str(
        "</dl>\n<p>best: faster than all others by more than the spread. no difference measured: half of its samples lie \
         where half of the fastest's do. worst: slower than all others by more than the spread. floor: the same work in \
         a plain directory, or by plain commands, without snapshots.</p>\n</section>\n",
    );
}

/// Escapes text for HTML content and for quoted attributes.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
        escaped
    })
}
