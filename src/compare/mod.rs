//! Measures the cost of each strategy on this machine.
//!
//! A [`Workload`] is a value that describes what a container tool does, in steps that are timed separately. A
//! [`Subject`] runs workloads. A [`SnapshotterSubject`] is a snapshotter that holds the image. A [`DirectorySubject`]
//! is a plain directory, the floor for the others. A [`tool::ToolSubject`] is a tool that is run by commands. [`run`]
//! runs every workload on every subject and returns the figures; the command line prints them, and the benchmarks use
//! the same workloads.
//!
//! # Honest figures
//! - Samples are interleaved: every round runs every subject, and each round starts with a different subject. A machine
//!   that becomes slower slows down all subjects alike.
//! - In one round all subjects get the same work, chosen by the seed; their results are read and checked.
//! - Only steps are timed. The space of a round's results is freed before the next round, in a separate step.
//! - The first round warms the caches and its times are not counted; it measures the cost besides time.
//! - Medians and quartiles are kept; a subject whose quartiles overlap with the best subject's is not called slower.
//!
//! Invariant: nothing here knows a strategy or a file system; subjects only have names.

pub mod cost;
mod directory;
pub mod image;
pub mod machine;
pub mod measure;
mod profile;
pub mod report;
mod snapshotter;
pub mod tool;
pub mod workload;

pub use directory::DirectorySubject;
pub use profile::{Hook, Label, Role, SubjectProfile};
pub use snapshotter::{Command, SnapshotterSubject};

use std::io::Read as _;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::cost::{Cost, Memory};
use self::image::Random;
use self::measure::{Standing, Statistics, Timer, standings};
use self::workload::{Workload, WorkloadStep};
use crate::changeset::{Change, Sink};
use crate::error::Result;
use crate::tree::{Meta, Node};

/// Name of the committed snapshot that holds a subject's image.
const IMAGE: &str = "image";

/// Name of the committed snapshot that holds one small file.
const SMALL: &str = "small";

/// Name of the committed snapshot that holds `LARGE_FILE`.
const LARGE: &str = "large";

/// Name of the large file in the snapshot [`LARGE`].
const LARGE_FILE: &str = "large-file";

/// Number of rounds before the rounds whose times count.
const WARM_UP_ROUNDS: u64 = 1;

/// Number of samples taken even if a workload exceeds its share of the time: fewer samples show no spread.
const SAMPLES_MIN: u64 = 3;

/// Multiple of its share of the time after which a workload stops even without [`SAMPLES_MIN`] samples, so that the
/// workloads after it also run on a slow or busy machine.
const SHARES_MAX: u32 = 3;

/// Something that runs workloads and is measured.
pub trait Subject {
    /// Returns the subject's label and file system.
    fn profile(&self) -> &SubjectProfile<'_>;

    /// Returns the label that results are shown under.
    fn label(&self) -> &Label {
        &self.profile().label
    }

    /// Returns true if the subject can run `workload`.
    fn does(&self, workload: &Workload) -> bool;

    /// Creates what `workload` needs before its first round.
    ///
    /// # Errors
    /// The reason why it cannot be created.
    fn begin(&self, workload: &Workload) -> Result<()>;

    /// Runs `workload` once, as [`Workload::run`] does.
    ///
    /// # Errors
    /// The reason why the work failed.
    fn run(&self, workload: &Workload, round: u64, timer: &mut Timer) -> Result<()>;

    /// Removes what [`Self::begin`] created.
    ///
    /// # Errors
    /// Errors of the removal.
    fn end(&self, workload: &Workload) -> Result<()>;
}

/// Limits of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Maximum number of counted rounds for each workload.
    pub samples: u64,
    /// Time at which the run must be over. Each workload gets an equal share of the remaining time. Its rounds end when
    /// the share is used up, but not before three rounds have counted, unless those take three shares. No turn begins
    /// after this time.
    pub end: Option<Instant>,
}

impl Plan {
    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }
}

/// The turn that a run is about to start.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// Name of the workload.
    pub workload: &'a str,
    /// Name of the subject.
    pub subject: &'a str,
    /// Number of turns done.
    pub done: u64,
    /// Maximum number of turns.
    pub total: u64,
}

/// Observer of a run.
pub trait Watch {
    /// Called before each turn; `ControlFlow::Break` ends the run.
    fn turn(&mut self, turn: Turn<'_>) -> ControlFlow<()>;

    /// Called after each workload, with the results of all workloads so far.
    fn measured(&mut self, all: &[Measured]) {
        let _ = all;
    }
}

impl<F: FnMut(Turn<'_>) -> ControlFlow<()>> Watch for F {
    fn turn(&mut self, turn: Turn<'_>) -> ControlFlow<()> {
        self(turn)
    }
}

/// Results of one workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Name of the workload.
    pub name: &'static str,
    /// Description of the workload.
    pub about: &'static str,
    /// One comparison for each timed step.
    pub steps: Vec<Comparison>,
    /// Cost besides time, for each subject.
    pub costs: Vec<SubjectCost>,
    /// Duration of the whole workload, including untimed work, in milliseconds.
    pub took_ms: u64,
}

/// Cost besides time of one workload on one subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SubjectCost {
    /// Name of the subject.
    pub subject: String,
    /// The cost.
    #[serde(flatten)]
    pub cost: Cost,
}

/// Results of one step of one workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The step.
    #[serde(flatten)]
    pub step: WorkloadStep,
    /// True if the step is one of the workload's headlines.
    pub headline: bool,
    /// One row for each subject that runs the workload, in the order of the subjects.
    pub rows: Vec<Row>,
}

/// Result of one step on one subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Label of the subject.
    #[serde(flatten)]
    pub label: Label,
    /// The figures; `None` if the workload failed on the subject or the run was stopped early.
    pub figures: Option<Figures>,
    /// The error, if the workload failed.
    pub failure: Option<String>,
}

/// Statistics of one subject, and their relation to the other subjects.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Statistics of the samples.
    #[serde(flatten)]
    pub statistics: Statistics,
    /// Rank among the subjects; `None` for the floor, which does not compete.
    pub standing: Option<Standing>,
    /// Median as a multiple of the best median.
    pub times_best: f64,
    /// Median as a multiple of the floor's median on the same file system.
    pub times_floor: Option<f64>,
}

/// Runs every workload on every subject that can run it, and returns the results. `watch` is called before every turn.
/// Both `watch` and the plan can end the run early: then the results so far are returned, without the workloads that
/// had not begun.
///
/// A workload that fails on a subject is not run again there; the row of that subject holds the error.
pub fn run(subjects: &[&dyn Subject], workloads: &[Workload], plan: Plan, watch: &mut dyn Watch) -> Vec<Measured> {
    let rounds = WARM_UP_ROUNDS + plan.samples;
    let subjects = |workload: &Workload| -> Vec<&dyn Subject> {
        subjects.iter().copied().filter(|subject| subject.does(workload)).collect()
    };
    let total = workloads.iter().map(|workload| rounds * subjects(workload).len() as u64).sum();
    let (mut all, mut done) = (Vec::new(), 0);
    for (number, workload) in workloads.iter().enumerate() {
        if plan.is_over() {
            break;
        }
        let subjects = subjects(workload);
        let left = (workloads.len() - number) as u32;
        let share = plan.end.map(|end| end.saturating_duration_since(Instant::now()) / left);
        let mut tell = |subject: &Label, turn| {
            watch.turn(Turn { workload: workload.name, subject: &subject.subject, done: done + turn, total })
        };
        let began = Instant::now();
        let (records, flow) = Measurement { subjects: &subjects, workload, rounds, share, plan }.measure(&mut tell);
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        all.push(Measured { took_ms, ..summarize(workload, &subjects, &records) });
        watch.measured(&all);
        done += rounds * subjects.len() as u64;
        if flow.is_break() {
            break;
        }
    }
    all
}

/// Results of one subject while a workload runs.
#[derive(Debug, Default)]
struct SubjectRecord {
    timer: Timer,
    cost: Cost,
    failure: Option<String>,
}

impl SubjectRecord {
    /// Returns the statistics of `step`, or `None` if the workload failed.
    fn statistics(&self, step: WorkloadStep) -> Option<Statistics> {
        match self.failure {
            Some(_) => None,
            None => Statistics::of(self.timer.samples(step.name)),
        }
    }
}

/// One workload that is being measured.
struct Measurement<'a> {
    subjects: &'a [&'a dyn Subject],
    workload: &'a Workload,
    rounds: u64,
    share: Option<Duration>,
    plan: Plan,
}

impl Measurement<'_> {
    fn measure(&self, tell: &mut dyn FnMut(&Label, u64) -> ControlFlow<()>) -> (Vec<SubjectRecord>, ControlFlow<()>) {
        let began = Instant::now();
        let mut records: Vec<SubjectRecord> = self.subjects.iter().map(|_| SubjectRecord::default()).collect();
        let mut flow = ControlFlow::Continue(());
        let mut begun = 0;
        for (subject, record) in self.subjects.iter().zip(&mut records) {
            if flow.is_break() || self.plan.is_over() {
                break;
            }
            flow = tell(subject.label(), 0);
            record.failure = subject.begin(self.workload).err().map(|error| error.chain());
            begun += 1;
        }
        for round in 0..self.rounds {
            let late = self.share.is_some_and(|share| began.elapsed() > share);
            if flow.is_break() || (late && round >= WARM_UP_ROUNDS + SAMPLES_MIN) || self.took_too_long(began) {
                break;
            }
            flow = self.take_turns(round, began, &mut records, tell);
        }
        for subject in &self.subjects[..begun] {
            if let Err(error) = subject.end(self.workload) {
                tracing::warn!(subject = subject.label().subject, why = error.chain(), "what a workload made is left");
            }
        }
        (records, flow)
    }

    fn took_too_long(&self, began: Instant) -> bool {
        self.share.is_some_and(|share| began.elapsed() > share * SHARES_MAX)
    }

    fn take_turns(
        &self,
        round: u64,
        began: Instant,
        records: &mut [SubjectRecord],
        tell: &mut dyn FnMut(&Label, u64) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let count = self.subjects.len();
        let first = usize::try_from(round).unwrap_or(0) % count.max(1);
        for (number, index) in (first..count).chain(0..first).enumerate() {
            let (subject, record) = (self.subjects[index], &mut records[index]);
            if self.plan.is_over() {
                return ControlFlow::Break(());
            }
            if self.took_too_long(began) {
                break;
            }
            tell(subject.label(), round * count as u64 + number as u64)?;
            if record.failure.is_some() {
                continue;
            }
            let done = if round < WARM_UP_ROUNDS {
                measure_cost(subject, self.workload, round).map(|cost| record.cost = cost)
            } else {
                let mut timer = Timer::default();
                subject.run(self.workload, round, &mut timer).map(|()| record.timer.extend(timer))
            };
            record.failure = done.err().map(|error| error.chain());
        }
        ControlFlow::Continue(())
    }
}

/// Runs the workload once to measure its cost besides time.
fn measure_cost(subject: &dyn Subject, workload: &Workload, round: u64) -> Result<Cost> {
    let mut timer = subject.profile().measured_fs.clone().map_or_else(Timer::default, Timer::with_cost);
    let memory = Memory::watch();
    subject.run(workload, round, &mut timer)?;
    // Only strategies are called in this process; the memory of other processes is not measured.
    let memory_bytes = if subject.label().role == Role::Strategy { memory.rise() } else { None };
    Ok(Cost { memory_bytes, ..timer.cost().unwrap_or_default() })
}

fn summarize(workload: &Workload, subjects: &[&dyn Subject], records: &[SubjectRecord]) -> Measured {
    let steps =
        workload.steps.iter().map(|step| compare(*step, workload.headlines.contains(&step.name), subjects, records));
    let was_timed =
        |comparison: &Comparison| comparison.rows.iter().any(|row| row.figures.is_some() || row.failure.is_some());
    let mut steps: Vec<Comparison> = steps.collect();
    if steps.iter().any(was_timed) {
        steps.retain(was_timed);
    }
    let weighed = subjects.iter().zip(records).filter(|(_, record)| !record.cost.is_unknown());
    let costs =
        weighed.map(|(subject, record)| SubjectCost { subject: subject.label().subject.clone(), cost: record.cost });
    Measured { name: workload.name, about: workload.about, steps, costs: costs.collect(), took_ms: 0 }
}

fn compare(step: WorkloadStep, headline: bool, subjects: &[&dyn Subject], records: &[SubjectRecord]) -> Comparison {
    let labels: Vec<&Label> = subjects.iter().map(|subject| subject.label()).collect();
    let measured: Vec<Option<Statistics>> = records.iter().map(|record| record.statistics(step)).collect();
    let figures = figures(&labels, &measured);
    let row = |index: usize| Row {
        label: labels[index].clone(),
        figures: figures[index],
        failure: records[index].failure.clone(),
    };
    // A subject that ran the workload but has no sample of this step gets no row.
    let silent = |row: &Row, record: &SubjectRecord| {
        row.figures.is_none() && row.failure.is_none() && record.timer.total() > Duration::ZERO
    };
    let rows = (0..labels.len()).map(row).zip(records).filter(|(row, record)| !silent(row, record));
    Comparison { step, headline, rows: rows.map(|(row, _)| row).collect() }
}

/// Compares each subject's statistics with the best competing subject and with its floor.
fn figures(labels: &[&Label], measured: &[Option<Statistics>]) -> Vec<Option<Figures>> {
    let competes = |label: &Label| label.role != Role::Floor;
    let competing: Vec<Option<Statistics>> =
        labels.iter().zip(measured).map(|(label, statistics)| statistics.filter(|_| competes(label))).collect();
    let best_ns = competing.iter().flatten().map(|statistics| statistics.median_ns).min();
    let floor_ns = |label: &Label| {
        let floor = labels.iter().position(|other| other.is_floor_of(label)).filter(|_| competes(label))?;
        measured[floor].map(|statistics| statistics.median_ns)
    };
    let times = |ns: u64, other: u64| ns as f64 / other.max(1) as f64;
    let figures = |(label, (statistics, standing)): (&&Label, (&Option<Statistics>, Option<Standing>))| {
        let statistics = (*statistics)?;
        Some(Figures {
            statistics,
            standing,
            times_best: times(statistics.median_ns, best_ns.unwrap_or(statistics.median_ns)),
            times_floor: floor_ns(label).map(|ns| times(statistics.median_ns, ns)),
        })
    };
    labels.iter().zip(measured.iter().zip(standings(&competing))).map(figures).collect()
}

/// Returns the name of the committed snapshot that has `depth` layers; the single file of its top layer has the same
/// name.
fn deep_layer(depth: usize) -> String {
    format!("deep-{depth}")
}

fn small_file(sink: &mut dyn Sink) -> Result<()> {
    snapshotter::one_file("small-file", b"small", sink)
}

fn large_file(size_bytes: u64, sink: &mut dyn Sink) -> Result<()> {
    let meta = Meta { node: Node::File { size: size_bytes }, mode: 0o644, ..Meta::implied_dir() };
    let change = Change::Put { path: LARGE_FILE.into(), existed: false, meta };
    sink.change(&change, &mut Random::new(size_bytes).take(size_bytes))
}

#[cfg(test)]
mod tests;
