//! What became of all cases, for people and as a document.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::stage::{Absent, Wanted};
use crate::cli::output::{shown, table};
use crate::compare::machine::Machine;
use crate::conformance::Outcome;
use crate::conformance::suite::Case;

/// The name of what comes before the cases.
pub(super) const SETUP: &str = "setup";

/// Everything that is reported.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// What they were tried on.
    pub machine: Machine,
    /// Whether the run was ended early.
    pub interrupted: bool,
    /// By who was judged.
    pub judged: Vec<Judged>,
}

/// What became of the cases on one subject.
#[derive(Debug, Serialize)]
pub(super) struct Judged {
    /// Who that is.
    pub name: String,
    /// The strategy, where that is known.
    pub strategy: Option<&'static str>,
    /// The file system that was made for it.
    pub file_system: Option<&'static str>,
    /// In the order of the cases.
    pub results: Vec<Result>,
}

/// What became of one case.
#[derive(Debug, Serialize)]
pub(super) struct Result {
    /// `group/name`.
    pub case: String,
    /// Passed, skipped, deviates, failed.
    pub outcome: Word,
    /// Why, or how.
    pub detail: Option<String>,
    /// Where the case comes from.
    pub source: &'static str,
    /// What a failure means.
    pub meaning: &'static str,
    /// How long it took.
    pub seconds: f64,
}

/// An outcome, in a word.
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
    pub fn of(wanted: &Wanted) -> Self {
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

    /// Returns the result for a subject that is absent: failed if this machine had to have it (`required`).
    pub fn absent(absent: Absent, required: bool) -> Self {
        match absent {
            Absent::Impossible(why) => Self::setup(Word::Skipped, why.to_owned()),
            Absent::Lacking(error) if !required => Self::setup(Word::Skipped, error.chain()),
            Absent::Lacking(error) | Absent::Broken(error) => Self::setup(Word::Failed, error.chain()),
        }
    }

    /// What came before the cases, or after them.
    pub fn setup(outcome: Word, detail: String) -> Self {
        let (source, meaning) = ("strata conformance", "nothing is known of this strategy here");
        Self { case: SETUP.to_owned(), outcome, detail: Some(detail), source, meaning, seconds: 0.0 }
    }
}

/// A case, for a list.
pub(super) fn described(case: &Case) -> Value {
    json!({"case": case.name, "source": case.source, "meaning": case.meaning})
}

impl Report {
    pub fn new() -> Self {
        Self { machine: Machine::here(), interrupted: false, judged: Vec::new() }
    }

    /// Each result, with who was judged.
    pub fn results(&self) -> impl Iterator<Item = (&Judged, &Result)> {
        self.judged.iter().flat_map(|judged| judged.results.iter().map(move |result| (judged, result)))
    }

    /// How many ended so.
    pub fn count(&self, word: Word) -> usize {
        self.judged.iter().map(|judged| judged.count(word)).sum()
    }

    /// How many cases said something.
    pub fn tried(&self) -> usize {
        self.results().filter(|(_, result)| result.case != SETUP && result.outcome != Word::Skipped).count()
    }

    /// What did not pass, one by one, and the table.
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
