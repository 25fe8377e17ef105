//! Rows for spreadsheets and scripts.
//!
//! # References
//! RFC 4180.

use super::{Report, mark};

const HEADINGS: &str = "workload,step,subject,strategy,fs,role,samples,min_ns,lower_quartile_ns,median_ns,\
    upper_quartile_ns,max_ns,times_best,times_floor,mark,failure";

/// One line for each row, in nanoseconds, under a line of headings. Times are of steps; what a workload took besides is
/// in the other forms.
pub fn csv(report: &Report) -> String {
    let mut text = format!("{HEADINGS}\r\n");
    for workload in &report.workloads {
        for comparison in &workload.steps {
            for row in &comparison.rows {
                let role = format!("{:?}", row.label.role).to_lowercase();
                let mut fields = vec![
                    workload.name.to_owned(),
                    comparison.step.name.to_owned(),
                    row.label.subject.clone(),
                    row.label.strategy.clone(),
                    row.label.fs.clone(),
                    role,
                ];
                fields.extend(row.figures.map_or_else(
                    || vec![String::new(); 8],
                    |figures| {
                        let s = figures.statistics;
                        let whole = [
                            s.samples as u64,
                            s.min_ns,
                            s.lower_quartile_ns,
                            s.median_ns,
                            s.upper_quartile_ns,
                            s.max_ns,
                        ];
                        let floor = figures.times_floor.map_or_else(String::new, |ratio| format!("{ratio:.3}"));
                        let ratios = [format!("{:.3}", figures.times_best), floor];
                        whole.into_iter().map(|number| number.to_string()).chain(ratios).collect()
                    },
                ));
                fields.extend([mark(row), row.failure.clone().unwrap_or_default()]);
                let fields: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
                text.push_str(&fields.join(","));
                text.push_str("\r\n");
            }
        }
    }
    text
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
