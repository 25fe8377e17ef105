//! The report as Markdown tables.

use std::fmt::Write as _;

use super::{Report, mark, times};
use crate::compare::measure::three_digits;
use crate::compare::{Measured, Row};
use crate::size::{size, size_change};

/// Returns the whole report.
pub fn markdown(report: &Report) -> String {
    let mut text = String::from("# strata compare\n\n");
    for sentence in &report.summary {
        _ = writeln!(text, "- {}", cell(sentence));
    }
    for workload in &report.workloads {
        measured(&mut text, workload);
    }
    if !report.not_measured.is_empty() {
        text.push_str("\n## Not measured\n\n| who | why |\n|---|---|\n");
        for absent in &report.not_measured {
            _ = writeln!(text, "| {} | {} |", cell(&absent.subject), cell(&absent.reason));
        }
    }
    text.push_str("\n## Measured on\n\n| | |\n|---|---|\n");
    for (name, value) in report.conditions() {
        _ = writeln!(text, "| {name} | {} |", cell(&value));
    }
    text
}

fn measured(text: &mut String, workload: &Measured) {
    _ = write!(text, "\n## {}: {}\n\n", workload.name, workload.about);
    text.push_str(
        "| step | who | median | quartiles | n | of the best | of the floor | |\n|---|---|--:|---|--:|--:|--:|---|\n",
    );
    for comparison in &workload.steps {
        for row in &comparison.rows {
            _ = writeln!(text, "| {} | {} |", cell(comparison.step.name), cells(row).join(" | "));
        }
    }
    if workload.costs.is_empty() {
        return;
    }
    text.push_str("\n| who | space | inodes | written | flushes | memory |\n|---|--:|--:|--:|--:|--:|\n");
    for weighed in &workload.costs {
        let cost = weighed.cost;
        let number = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            cell(&weighed.subject),
            number(cost.size_bytes.map(size_change)),
            number(cost.inodes.map(|inodes| inodes.to_string())),
            number(cost.written_bytes.map(size)),
            number(cost.flushes.map(|flushes| flushes.to_string())),
            number(cost.memory_bytes.map(size)),
        );
    }
}

fn cells(row: &Row) -> Vec<String> {
    let who = cell(&row.label.subject);
    match (row.figures, &row.failure) {
        (Some(figures), _) => {
            let s = figures.statistics;
            vec![
                who,
                three_digits(s.median_ns),
                format!("{} to {}", three_digits(s.lower_quartile_ns), three_digits(s.upper_quartile_ns)),
                s.samples.to_string(),
                times(figures.times_best),
                figures.times_floor.map_or_else(|| "-".to_owned(), times),
                cell(&mark(row)),
            ]
        }
        (None, Some(why)) => {
            vec![who, "failed".to_owned(), cell(why), "-".into(), "-".into(), "-".into(), String::new()]
        }
        (None, None) => {
            vec![who, "not reached".to_owned(), String::new(), "-".into(), "-".into(), "-".into(), String::new()]
        }
    }
}

/// Escapes text so that it neither ends a table cell nor begins markup.
fn cell(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut cell, c| {
        match c {
            '|' | '<' | '*' | '_' | '`' | '[' | '\\' => cell.extend(['\\', c]),
            c if c.is_control() => cell.push(' '),
            c => cell.push(c),
        }
        cell
    })
}
