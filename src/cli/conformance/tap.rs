//! The report in the Test Anything Protocol, line by line as the cases end: their number is known, and told, at the
//! end.
//!
//! What a strategy is known to do otherwise is `not ok` with the directive by which a harness does not count it.
//!
//! # References
//! TAP version 14, <https://testanything.org/tap-version-14-specification.html>: the plan may come last.

use super::report::{Result, Word};

/// The beginning.
pub(super) const VERSION: &str = "TAP version 14\n";

/// The end of a run that was ended early: no plan, since who counts must not believe it whole.
pub(super) const INTERRUPTED: &str = "Bail out! interrupted\n";

/// The end.
pub(super) fn plan(count: usize) -> String {
    format!("1..{count}\n")
}

/// What became of the case of this number, on `who`.
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

/// A block of YAML. Every JSON string is one of YAML, too.
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
