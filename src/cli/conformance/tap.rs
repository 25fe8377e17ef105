//! The report in the Test Anything Protocol, printed line by line as the cases end; the plan with their number comes
//! last.
//!
//! A known deviation is `not ok` with a directive that a harness does not count as a failure.
//!
//! # References
//! TAP version 14, <https://testanything.org/tap-version-14-specification.html>: the plan may come last.

use super::report::{Result, Word};

/// First line of the output.
pub(super) const VERSION: &str = "TAP version 14\n";

/// Last line of a run that was ended early. There is no plan, so that a harness does not take the output for complete.
pub(super) const INTERRUPTED: &str = "Bail out! interrupted\n";

/// Returns the plan, the last line.
pub(super) fn plan(count: usize) -> String {
    format!("1..{count}\n")
}

/// Returns the line for one result, on the subject `who`.
pub(super) fn line(number: usize, who: &str, result: &Result) -> String {
    let why = one_line(result.detail.as_deref().unwrap_or_default());
    let (ok, rest) = match result.outcome {
        Word::Passed => ("ok", String::new()),
        Word::Skipped => ("ok", format!(" # SKIP {why}")),
        Word::Deviation => ("not ok", format!(" # TODO {why}")),
        Word::Failed => ("not ok", format!("\n{}", diagnostics(result))),
    };
    let name = one_line(&format!("{who}: {}", result.case)).replace('\\', "\\\\").replace('#', "\\#");
    format!("{ok} {number} - {name}{}\n", rest.trim_end())
}

/// Returns the YAML block of a result. Every JSON string is also a YAML string.
fn diagnostics(result: &Result) -> String {
    let fields = [
        ("message", result.detail.as_deref().unwrap_or_default()),
        ("meaning", result.meaning),
        ("source", result.source),
    ];
    let lines = fields.map(|(name, value)| format!("  {name}: {}\n", serde_json::Value::from(value)));
    format!("  ---\n{}  ...", lines.concat())
}

fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join("; ")
}
