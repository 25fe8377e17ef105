//! The outcomes of all cases, as text and as a JSON document.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::target::{Absent, Target};
use crate::cli::output::{shown, table};
use crate::compare::machine::Machine;
use crate::conformance::Outcome;
use crate::conformance::suite::Case;

/// Name of the result for steps before or after the cases.
pub(super) const SETUP: &str = "setup";

/// The whole report.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Machine that the cases ran on.
    pub machine: Machine,
    /// True if the run was ended early.
    pub interrupted: bool,
    /// Results by subject.
    pub judged: Vec<Judged>,
}

/// Results of the cases on one subject.
#[derive(Debug, Serialize)]
pub(super) struct Judged {
    /// Name of the subject.
    pub name: String,
    /// Strategy of the subject, if known.
    pub strategy: Option<&'static str>,
    /// Type of the file system that was created for the subject.
    pub file_system: Option<&'static str>,
    /// Results in the order of the cases.
    pub results: Vec<Result>,
}

/// Result of one case.
#[derive(Debug, Serialize)]
pub(super) struct Result {
    /// Name of the case, `group/name`.
    pub case: String,
    /// The outcome: passed, skipped, deviates or failed.
    pub outcome: Word,
    /// Reason of a skip or deviation, or description of a failure.
    pub detail: Option<String>,
    /// Source of the case.
    pub source: &'static str,
    /// Consequence of a failure for a user.
    pub meaning: &'static str,
    /// Duration in seconds.
    pub seconds: f64,
}

/// An outcome in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    Passed,
    Deviation,
    Skipped,
    Failed,
}

impl Word {
    fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Deviation => "deviates",
            Self::Skipped => "skipped",
            Self::Failed => "FAILED",
        }
    }
}

impl Judged {
    pub fn of(wanted: &Target) -> Self {
        let [strategy, file_system] = wanted.names();
        Self { name: wanted.to_string(), strategy, file_system, results: Vec::new() }
    }

    fn count(&self, word: Word) -> usize {
        self.results.iter().filter(|result| result.outcome == word).count()
    }
}

impl Result {
    pub fn new(case: &Case, outcome: Outcome, took: Duration) -> Self {
        let (outcome, detail) = match outcome {
            Outcome::Passed => (Word::Passed, None),
            Outcome::Skipped(why) => (Word::Skipped, Some(why)),
            Outcome::Deviation(why) => (Word::Deviation, Some(why)),
            Outcome::Failed(how) => (Word::Failed, Some(how)),
        };
        let (source, meaning) = (case.source, case.meaning);
        Self { case: case.name.clone(), outcome, detail, source, meaning, seconds: took.as_secs_f64() }
    }

    /// Returns the result for an absent target: failed if `STRATA_REQUIRE` names it (`required`).
    pub fn absent(absent: Absent, required: bool) -> Self {
        match absent {
            Absent::Impossible(why) => Self::setup(Word::Skipped, why.to_owned()),
            Absent::Lacking(error) if !required => Self::setup(Word::Skipped, error.chain()),
            Absent::Lacking(error) | Absent::Broken(error) => Self::setup(Word::Failed, error.chain()),
        }
    }

    /// Creates a result for a step before or after the cases.
    pub fn setup(outcome: Word, detail: String) -> Self {
        let (source, meaning) = ("strata conformance", "nothing is known of this strategy here");
        Self { case: SETUP.to_owned(), outcome, detail: Some(detail), source, meaning, seconds: 0.0 }
    }
}

/// Describes a case for `--list`.
pub(super) fn described(case: &Case) -> Value {
    json!({"case": case.name, "source": case.source, "meaning": case.meaning})
}

impl Report {
    pub fn new() -> Self {
        Self { machine: Machine::here(), interrupted: false, judged: Vec::new() }
    }

    /// Returns each result with its subject.
    pub fn results(&self) -> impl Iterator<Item = (&Judged, &Result)> {
        self.judged.iter().flat_map(|judged| judged.results.iter().map(move |result| (judged, result)))
    }

    /// Returns the number of results with that outcome.
    pub fn count(&self, word: Word) -> usize {
        self.judged.iter().map(|judged| judged.count(word)).sum()
    }

    /// Returns the number of cases that were not skipped.
    pub fn tried(&self) -> usize {
        self.results().filter(|(_, result)| result.case != SETUP && result.outcome != Word::Skipped).count()
    }

    /// Returns each result that did not pass, then the table.
    pub fn text(&self) -> String {
        let Machine { strata, kernel, .. } = &self.machine;
        let mut text = format!("strata {strata}, Linux {kernel}\n\n");
        for (judged, result) in self.results().filter(|(_, result)| result.outcome != Word::Passed) {
            let detail = result.detail.as_deref().unwrap_or_default();
            let mut lines = detail.lines();
            let first = shown(lines.next().unwrap_or_default());
            _ = writeln!(text, "{:8}  {}: {}: {first}", result.outcome.as_str(), judged.name, result.case);
            lines.for_each(|line| _ = writeln!(text, "          {}", shown(line)));
            if result.outcome == Word::Failed {
                _ = writeln!(text, "          it means: {}\n          source: {}", result.meaning, result.source);
            }
        }
        let row = |judged: &Judged| {
            let counts = [Word::Passed, Word::Deviation, Word::Skipped, Word::Failed].map(|word| judged.count(word));
            [judged.name.clone()].into_iter().chain(counts.map(|count| count.to_string())).collect()
        };
        let headings = ["", "PASSED", "DEVIATE", "SKIPPED", "FAILED"];
        _ = write!(text, "\n{}", table(&headings, self.judged.iter().map(row).collect()));
        if self.interrupted {
            text.push_str("interrupted: not every case was tried\n");
        }
        text
    }
}
