//! The report in the Test Anything Protocol.
//!
//! What a strategy is known to do otherwise is `not ok` with the directive by which a harness does not count it.
//!
//! # References
//! TAP version 14, <https://testanything.org/tap-version-14-specification.html>.

use std::fmt::Write as _;

use super::report::{Report, Result, Word};

/// The whole report.
pub(super) fn print(report: &Report) -> String {
    let mut text = format!("TAP version 14\n1..{}\n", report.results().count());
    for (number, (judged, result)) in report.results().enumerate() {
        let why = result.detail.as_deref().unwrap_or_default();
        let (ok, directive) = match result.outcome {
            Word::Passed => ("ok", String::new()),
            Word::Skipped => ("ok", format!(" # SKIP {}", one_line(why))),
            Word::Deviation => ("not ok", format!(" # TODO {}", one_line(why))),
            Word::Failed => ("not ok", String::new()),
        };
        let name = one_line(&format!("{}: {}", judged.name, result.case)).replace('\\', "\\\\").replace('#', "\\#");
        _ = writeln!(text, "{ok} {} - {name}{directive}", number + 1);
        if result.outcome == Word::Failed {
            text.push_str(&diagnostics(result));
        }
    }
    if report.interrupted {
        text.push_str("Bail out! interrupted\n");
    }
    text
}

/// A block of YAML. Every JSON string is one of YAML, too.
fn diagnostics(result: &Result) -> String {
    let fields = [
        ("message", result.detail.as_deref().unwrap_or_default()),
        ("meaning", result.meaning),
        ("source", result.source),
    ];
    let lines = fields.map(|(name, value)| format!("  {name}: {}\n", serde_json::Value::from(value)));
    format!("  ---\n{}  ...\n", lines.concat())
}

fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join("; ")
}
