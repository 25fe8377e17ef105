//! Rows for spreadsheets and scripts.
//!
//! # References
//! RFC 4180.

use super::{Report, mark};
use crate::compare::{Figures, Label, Row};

const HEADINGS: &str = "workload,step,subject,strategy,fs,role,samples,min_ns,lower_quartile_ns,median_ns,\
    upper_quartile_ns,max_ns,times_best,times_floor,mark,failure";

/// Returns one line for each row, in nanoseconds, below a line of headings. Only times are written; the cost besides
/// time is in the other forms of the report.
pub fn csv(report: &Report) -> String {
    let mut text = format!("{HEADINGS}\r\n");
    for workload in &report.workloads {
        for comparison in &workload.steps {
            for row in &comparison.rows {
                let fields = fields(workload.name, comparison.step.name, row);
                let fields: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
                text.push_str(&fields.join(","));
                text.push_str("\r\n");
            }
        }
    }
    text
}

/// Returns the fields of a row in the order of [`HEADINGS`].
fn fields(workload: &str, step: &str, row: &Row) -> Vec<String> {
    let Label { subject, strategy, fs, role, .. } = &row.label;
    let role = format!("{role:?}").to_lowercase();
    let mut fields = [workload, step, subject, strategy, fs, &role].map(str::to_owned).to_vec();
    fields.extend(row.figures.map_or_else(Default::default, numbers));
    fields.extend([mark(row), row.failure.clone().unwrap_or_default()]);
    fields
}

fn numbers(figures: Figures) -> [String; 8] {
    let s = figures.statistics;
    let floor = figures.times_floor.map_or_else(String::new, |ratio| format!("{ratio:.3}"));
    [
        s.samples.to_string(),
        s.min_ns.to_string(),
        s.lower_quartile_ns.to_string(),
        s.median_ns.to_string(),
        s.upper_quartile_ns.to_string(),
        s.max_ns.to_string(),
        format!("{:.3}", figures.times_best),
        floor,
    ]
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
