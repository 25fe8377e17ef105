//! Measures what strategies cost on this machine, so that nobody has to choose by hearsay.
//!
//! A [`Workload`] is a value: what a container tool does, in steps that are timed apart. A [`Contestant`] does
//! workloads: a [`Subject`] is a snapshotter with an image in it, the same for all, a [`Plain`] directory is the floor
//! below them, and a [`peer::Peer`] is another tool. [`run`] takes every workload to every contestant and answers with
//! figures; the command line prints them, and the benchmarks use the same workloads.
//!
//! # Honest figures
//! - Samples are interleaved: every round visits every contestant, and each round begins with another one. A machine
//!   that becomes slower makes all of them slower.
//! - Round by round all contestants get the same work, chosen by the seed; what they answer is read and checked.
//! - Only steps are timed. What a round leaves behind is freed before the next one begins, as a step of its own.
//! - The first round warms the caches and is not counted; in it is weighed what the work takes besides time.
//! - Medians and quartiles are kept; who cannot be told apart from the best by them is not called slower.
//!
//! Invariant: nothing here knows a strategy or a file system; contestants have names.

pub mod cost;
mod entry;
pub mod image;
pub mod machine;
pub mod measure;
pub mod peer;
mod plain;
pub mod report;
mod subject;
pub mod workload;

pub use entry::{Entry, Hook, Label, Role};
pub use plain::Plain;
pub use subject::{Command, Subject};

use std::io::Read as _;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::cost::{Cost, Memory};
use self::image::Random;
use self::measure::{Standing, Statistics, Timer, standings};
use self::workload::{Step, Workload};
use crate::changeset::{Change, Sink};
use crate::error::Result;
use crate::tree::{Meta, Node};

/// The committed snapshot that holds a subject's image.
const IMAGE: &str = "image";

/// The committed snapshot that holds one small file.
const SMALL: &str = "small";

/// The committed snapshot that holds one large file,
const LARGE: &str = "large";

/// and the name of that.
const LARGE_FILE: &str = "large-file";

/// The rounds before those that count.
const WARM_UP_ROUNDS: u64 = 1;

/// Fewer samples say nothing of their spread: so many are taken whatever a workload's share of the time.
const SAMPLES_MIN: u64 = 3;

/// But no longer than so many shares: what follows is to have a chance, too, on a machine that is slow or busy.
const SHARES_MAX: u32 = 3;

/// Who does workloads.
pub trait Contestant {
    /// Who it is.
    fn entry(&self) -> &Entry<'_>;

    /// Who its results are shown under.
    fn label(&self) -> &Label {
        &self.entry().label
    }

    /// Whether it has a way to do `workload` at all.
    fn does(&self, workload: &Workload) -> bool;

    /// Makes what `workload` needs before its first round.
    ///
    /// # Errors
    /// Why it cannot be done.
    fn begin(&self, workload: &Workload) -> Result<()>;

    /// Does `workload` once, as [`Workload::run`].
    ///
    /// # Errors
    /// Why it could not be done.
    fn run(&self, workload: &Workload, round: u64, timer: &mut Timer) -> Result<()>;

    /// Removes what [`Self::begin`] made.
    ///
    /// # Errors
    /// What that reports.
    fn end(&self, workload: &Workload) -> Result<()>;
}

/// How long a run may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The most rounds of each workload that count.
    pub samples: u64,
    /// When all of it is to be over. Each workload has its share of the time that is left: it ends its rounds when that
    /// is used up, though not before three rounds counted, unless these take three shares. After the end nobody's turn
    /// begins.
    pub end: Option<Instant>,
}

impl Plan {
    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }
}

/// What a run is about to do.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The workload.
    pub workload: &'a str,
    /// Whose turn it is.
    pub subject: &'a str,
    /// How many turns were taken.
    pub done: u64,
    /// How many turns there are at most.
    pub total: u64,
}

/// Who hears of a run.
pub trait Watch {
    /// A turn is about to be taken; the answer can end the run.
    fn turn(&mut self, progress: Progress<'_>) -> ControlFlow<()>;

    /// A workload was measured; these are all so far.
    fn measured(&mut self, all: &[Measured]) {
        let _ = all;
    }
}

impl<F: FnMut(Progress<'_>) -> ControlFlow<()>> Watch for F {
    fn turn(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        self(progress)
    }
}

/// The figures of a workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// One comparison for each step that was timed.
    pub steps: Vec<Comparison>,
    /// What it took besides time, by contestant.
    pub costs: Vec<Weighed>,
    /// How long all of it took, with what is not timed, in milliseconds.
    pub took_ms: u64,
}

/// What a workload took besides time, of one contestant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Weighed {
    /// The contestant's name.
    pub subject: String,
    /// What it took.
    #[serde(flatten)]
    pub cost: Cost,
}

/// The figures of one step of one workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What is timed.
    #[serde(flatten)]
    pub step: Step,
    /// Whether it is among those that say most.
    pub headline: bool,
    /// One row for each contestant that does the workload, in their order.
    pub rows: Vec<Row>,
}

/// One contestant's figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Who.
    #[serde(flatten)]
    pub label: Label,
    /// What was measured; nothing if the workload failed there, or the run was stopped early.
    pub figures: Option<Figures>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// What was measured, and how it compares.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The samples.
    #[serde(flatten)]
    pub statistics: Statistics,
    /// How it stands among the contestants; `None` for the floor, which does not compete.
    pub standing: Option<Standing>,
    /// Its median as a multiple of the best one.
    pub times_best: f64,
    /// Its median as a multiple of the floor's on the same file system.
    pub times_floor: Option<f64>,
}

/// Runs every workload on every contestant that does it, and answers with what was measured. `watch` hears of every
/// turn and can end the run, as the plan does: what was measured by then is the answer, and workloads that were not
/// begun are not in it.
///
/// A workload that fails on a contestant is not tried there again; the failure is that contestant's row.
pub fn run(
    contestants: &[&dyn Contestant],
    workloads: &[Workload],
    plan: Plan,
    watch: &mut dyn Watch,
) -> Vec<Measured> {
    let rounds = WARM_UP_ROUNDS + plan.samples;
    let takers = |workload: &Workload| -> Vec<&dyn Contestant> {
        contestants.iter().copied().filter(|contestant| contestant.does(workload)).collect()
    };
    let total = workloads.iter().map(|workload| rounds * takers(workload).len() as u64).sum();
    let (mut all, mut done) = (Vec::new(), 0);
    for (number, workload) in workloads.iter().enumerate() {
        if plan.is_over() {
            break;
        }
        let takers = takers(workload);
        let left = (workloads.len() - number) as u32;
        let share = plan.end.map(|end| end.saturating_duration_since(Instant::now()) / left);
        let mut tell = |subject: &Label, turn| {
            watch.turn(Progress { workload: workload.name, subject: &subject.subject, done: done + turn, total })
        };
        let began = Instant::now();
        let (records, flow) = Measurement { takers: &takers, workload, rounds, share, plan }.measure(&mut tell);
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        all.push(Measured { took_ms, ..summarize(workload, &takers, &records) });
        watch.measured(&all);
        done += rounds * takers.len() as u64;
        if flow.is_break() {
            break;
        }
    }
    all
}

/// What is known of a contestant while a workload runs.
#[derive(Debug, Default)]
struct Record {
    timer: Timer,
    cost: Cost,
    failure: Option<String>,
}

impl Record {
    /// The figures of `step`; none of a workload that failed.
    fn statistics(&self, step: Step) -> Option<Statistics> {
        match self.failure {
            Some(_) => None,
            None => Statistics::of(self.timer.samples(step.name)),
        }
    }
}

/// A workload that is being measured.
struct Measurement<'a> {
    takers: &'a [&'a dyn Contestant],
    workload: &'a Workload,
    rounds: u64,
    share: Option<Duration>,
    plan: Plan,
}

impl Measurement<'_> {
    fn measure(&self, tell: &mut dyn FnMut(&Label, u64) -> ControlFlow<()>) -> (Vec<Record>, ControlFlow<()>) {
        let began = Instant::now();
        let mut records: Vec<Record> = self.takers.iter().map(|_| Record::default()).collect();
        let mut flow = ControlFlow::Continue(());
        let mut begun = 0;
        for (taker, record) in self.takers.iter().zip(&mut records) {
            if flow.is_break() || self.plan.is_over() {
                break;
            }
            flow = tell(taker.label(), 0);
            record.failure = taker.begin(self.workload).err().map(|error| error.chain());
            begun += 1;
        }
        for round in 0..self.rounds {
            let late = self.share.is_some_and(|share| began.elapsed() > share);
            if flow.is_break() || (late && round >= WARM_UP_ROUNDS + SAMPLES_MIN) || self.took_too_long(began) {
                break;
            }
            flow = self.take_turns(round, began, &mut records, tell);
        }
        for taker in &self.takers[..begun] {
            if let Err(error) = taker.end(self.workload) {
                tracing::warn!(subject = taker.label().subject, why = error.chain(), "what a workload made is left");
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
        records: &mut [Record],
        tell: &mut dyn FnMut(&Label, u64) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let count = self.takers.len();
        let first = usize::try_from(round).unwrap_or(0) % count.max(1);
        for (number, index) in (first..count).chain(0..first).enumerate() {
            let (taker, record) = (self.takers[index], &mut records[index]);
            if self.plan.is_over() {
                return ControlFlow::Break(());
            }
            if self.took_too_long(began) {
                break;
            }
            tell(taker.label(), round * count as u64 + number as u64)?;
            if record.failure.is_some() {
                continue;
            }
            let done = if round < WARM_UP_ROUNDS {
                weigh(taker, self.workload, round).map(|cost| record.cost = cost)
            } else {
                let mut timer = Timer::default();
                taker.run(self.workload, round, &mut timer).map(|()| record.timer.extend(timer))
            };
            record.failure = done.err().map(|error| error.chain());
        }
        ControlFlow::Continue(())
    }
}

/// Does the work once for what it takes besides time.
fn weigh(taker: &dyn Contestant, workload: &Workload, round: u64) -> Result<Cost> {
    let mut timer = taker.entry().place.clone().map_or_else(Timer::default, Timer::weighing);
    let memory = Memory::watch();
    taker.run(workload, round, &mut timer)?;
    // Others work in processes of their own.
    let memory_bytes = if taker.label().role == Role::Strategy { memory.rise() } else { None };
    Ok(Cost { memory_bytes, ..timer.cost().unwrap_or_default() })
}

fn summarize(workload: &Workload, takers: &[&dyn Contestant], records: &[Record]) -> Measured {
    let steps =
        workload.steps.iter().map(|step| compare(*step, workload.headlines.contains(&step.name), takers, records));
    let was_timed =
        |comparison: &Comparison| comparison.rows.iter().any(|row| row.figures.is_some() || row.failure.is_some());
    let mut steps: Vec<Comparison> = steps.collect();
    if steps.iter().any(was_timed) {
        steps.retain(was_timed);
    }
    let weighed = takers.iter().zip(records).filter(|(_, record)| !record.cost.is_unknown());
    let costs = weighed.map(|(taker, record)| Weighed { subject: taker.label().subject.clone(), cost: record.cost });
    Measured { name: workload.name, about: workload.about, steps, costs: costs.collect(), took_ms: 0 }
}

fn compare(step: Step, headline: bool, takers: &[&dyn Contestant], records: &[Record]) -> Comparison {
    let labels: Vec<&Label> = takers.iter().map(|taker| taker.label()).collect();
    let measured: Vec<Option<Statistics>> = records.iter().map(|record| record.statistics(step)).collect();
    let figures = figures(&labels, &measured);
    let row = |index: usize| Row {
        label: labels[index].clone(),
        figures: figures[index],
        failure: records[index].failure.clone(),
    };
    // Who does the workload without this step has nothing to say of it.
    let silent = |row: &Row, record: &Record| {
        row.figures.is_none() && row.failure.is_none() && record.timer.total() > Duration::ZERO
    };
    let rows = (0..labels.len()).map(row).zip(records).filter(|(row, record)| !silent(row, record));
    Comparison { step, headline, rows: rows.map(|(row, _)| row).collect() }
}

/// How what was `measured` of each compares: with the best of those that compete, and with its floor.
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

/// The committed snapshot on `depth` layers in all, and the name of the one file of its layer.
fn deep_layer(depth: usize) -> String {
    format!("deep-{depth}")
}

fn small_file(sink: &mut dyn Sink) -> Result<()> {
    subject::one_file("small-file", b"small", sink)
}

fn large_file(size_bytes: u64, sink: &mut dyn Sink) -> Result<()> {
    let meta = Meta { node: Node::File { size: size_bytes }, mode: 0o644, ..Meta::implied_dir() };
    let change = Change::Put { path: LARGE_FILE.into(), existed: false, meta };
    sink.change(&change, &mut Random::new(size_bytes).take(size_bytes))
}

#[cfg(test)]
mod tests;
