//! The report as text for a terminal.

use std::fmt::Write as _;

use crate::cli::output::{fields, size, table};
use crate::compare::measure::three_digits;
use crate::compare::report::{Report, mark, times};
use crate::compare::{Figures, Row};
use crate::size::size_change;

/// Returns the whole report.
pub(super) fn text(report: &Report) -> String {
    let conditions: Vec<_> = report.conditions();
    let mut text = fields(&conditions);
    for sentence in &report.summary {
        _ = write!(text, "\n- {}", super::super::output::shown(sentence));
    }
    if !report.summary.is_empty() {
        text.push('\n');
    }
    let mut rows = Vec::new();
    for comparison in report.workloads.iter().flat_map(|workload| &workload.steps) {
        let name = [comparison.step.name].into_iter().chain(std::iter::repeat(""));
        rows.extend(name.zip(&comparison.rows).map(|(name, row)| cells(name, row)));
    }
    let headings = ["STEP", "STRATEGY", "MEDIAN", "QUARTILES", "N", "OF BEST", "OF FLOOR", ""];
    _ = write!(text, "\n{}", table(&headings, rows));
    costs(&mut text, report);
    if !report.not_measured.is_empty() {
        let rows = report.not_measured.iter().map(|absent| vec![absent.subject.clone(), absent.reason.clone()]);
        _ = write!(text, "\n{}", table(&["NOT MEASURED", "WHY"], rows.collect()));
    }
    let steps = report.workloads.iter().flat_map(|workload| &workload.steps);
    let steps = steps.map(|comparison| vec![comparison.step.name.to_owned(), comparison.step.about.to_owned()]);
    _ = write!(text, "\n{}", table(&["STEP", "WHAT IS TIMED"], steps.collect()));
    text.push_str(
        "\nbest: faster than all others by more than the spread; worst: slower by more than it\nno difference measured: \
         to the fastest\nfloor: the same work in a plain directory, or by plain commands, without snapshots\n",
    );
    text
}

fn costs(text: &mut String, report: &Report) {
    let mut rows = Vec::new();
    for workload in &report.workloads {
        let name = [workload.name].into_iter().chain(std::iter::repeat(""));
        for (name, weighed) in name.zip(&workload.costs) {
            let cost = weighed.cost;
            let number = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
            rows.push(vec![
                name.to_owned(),
                weighed.subject.clone(),
                number(cost.size_bytes.map(size_change)),
                number(cost.inodes.map(|inodes| inodes.to_string())),
                number(cost.written_bytes.map(size)),
                number(cost.flushes.map(|flushes| flushes.to_string())),
                number(cost.memory_bytes.map(size)),
            ]);
        }
    }
    let headings = ["WORKLOAD", "STRATEGY", "SPACE", "INODES", "WRITTEN", "FLUSHES", "MEMORY"];
    _ = write!(text, "\n{}", table(&headings, rows));
}

fn cells(step: &str, row: &Row) -> Vec<String> {
    let mut cells = vec![step.to_owned(), row.label.subject.clone()];
    match (row.figures, &row.failure) {
        (Some(Figures { statistics, times_best, times_floor, .. }), _) => cells.extend([
            three_digits(statistics.median_ns),
            format!("{} to {}", three_digits(statistics.lower_quartile_ns), three_digits(statistics.upper_quartile_ns)),
            statistics.samples.to_string(),
            times(times_best),
            times_floor.map_or_else(|| "-".to_owned(), times),
            mark(row),
        ]),
        (None, Some(why)) => cells.extend(["failed".to_owned(), why.clone()]),
        (None, None) => cells.push("not reached".to_owned()),
    }
    cells
}
