//! Measures what strategies cost on this machine, so that nobody has to choose by hearsay.
//!
//! A [`Workload`] is a value: what a container tool does, in steps that are timed apart. A [`Subject`] is a snapshotter
//! with an image in it, the same for all. [`run`] takes every workload to every subject and answers with figures; the
//! command line prints them, and the benchmarks use the same workloads.
//!
//! # Honest figures
//! - Samples are interleaved: every round visits every subject, and each round begins with another one. A machine that
//!   becomes slower makes all of them slower.
//! - Round by round all subjects get the same work, chosen by the seed; what they answer is read and checked.
//! - Only steps are timed. What a round leaves behind is freed before the next one begins, as a step of its own.
//! - The first round warms the caches and is not counted.
//! - Medians and quartiles are kept; who cannot be told apart from the best by them is not called slower.
//!
//! Invariant: nothing here knows a strategy or a file system; subjects are snapshotters with a name.

pub mod image;
pub mod machine;
pub mod measure;
pub mod workload;

use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::Serialize;

use self::image::Image;
use self::measure::{Standing, Statistics, Timer, standings};
use self::workload::{Step, Workload};
use crate::error::Result;
use crate::snapshotter::{Labels, Snapshotter};

/// The committed snapshot that holds a subject's image.
const IMAGE: &str = "image";

/// The rounds before those that count.
const WARM_UP_ROUNDS: u64 = 1;

/// A snapshotter with the image in it: what workloads run on.
pub struct Subject<'a> {
    name: String,
    snapshotter: &'a dyn Snapshotter,
    image: &'a Image,
    target: PathBuf,
}

impl<'a> Subject<'a> {
    /// Writes `image` into `snapshotter` as a committed snapshot. Workloads mount at `target`, an empty directory that
    /// nobody else uses. The results are shown under `name`.
    ///
    /// # Errors
    /// `AlreadyExists` if the snapshotter has a snapshot of that name; what it reports.
    pub fn new(
        name: impl Into<String>,
        snapshotter: &'a dyn Snapshotter,
        image: &'a Image,
        target: impl Into<PathBuf>,
    ) -> Result<Self> {
        let labels = Labels::new();
        let key = "unpack";
        snapshotter.prepare(key, "", &labels)?;
        snapshotter.apply(key, &mut |sink| image.produce(sink))?;
        snapshotter.commit(IMAGE, key, &labels)?;
        Ok(Self { name: name.into(), snapshotter, image, target: target.into() })
    }

    /// What the results are shown under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The snapshotter.
    pub fn snapshotter(&self) -> &'a dyn Snapshotter {
        self.snapshotter
    }
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("name", &self.name).field("target", &self.target).finish_non_exhaustive()
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
    /// How many turns there are.
    pub total: u64,
}

/// The figures of one step of one workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The workload's name.
    pub workload: &'static str,
    /// What is timed.
    pub step: Step,
    /// One row for each subject, in their order.
    pub rows: Vec<Row>,
}

/// One subject's figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The subject's name.
    pub subject: String,
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
    /// How it stands among the subjects.
    pub standing: Standing,
    /// Its median as a multiple of the best one.
    pub times_best: f64,
}

/// Runs every workload on every subject, `samples` counted rounds each, and answers with one comparison for each step.
/// `watch` hears of every turn and can end the run: what was measured by then is the answer.
///
/// A workload that fails on a subject is not tried there again; the failure is that subject's row.
pub fn run(
    subjects: &[Subject<'_>],
    workloads: &[Workload],
    samples: u64,
    watch: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Vec<Comparison> {
    let rounds = WARM_UP_ROUNDS + samples;
    let turns_each = rounds * subjects.len() as u64;
    let total = turns_each * workloads.len() as u64;
    let mut comparisons = Vec::new();
    for (number, workload) in workloads.iter().enumerate() {
        let before = turns_each * number as u64;
        let mut tell = |subject: &Subject<'_>, done| {
            watch(Progress { workload: workload.name, subject: subject.name(), done: before + done, total })
        };
        let (records, flow) = measure(subjects, workload, rounds, &mut tell);
        comparisons.extend(workload.steps.iter().map(|step| compare(workload, *step, subjects, &records)));
        if flow.is_break() {
            break;
        }
    }
    comparisons
}

/// What is known of a subject while a workload runs.
#[derive(Debug, Default)]
struct Record {
    timer: Timer,
    failure: Option<String>,
}

fn measure(
    subjects: &[Subject<'_>],
    workload: &Workload,
    rounds: u64,
    tell: &mut dyn FnMut(&Subject<'_>, u64) -> ControlFlow<()>,
) -> (Vec<Record>, ControlFlow<()>) {
    let mut records: Vec<Record> = subjects.iter().map(|_| Record::default()).collect();
    let mut turn = 0;
    for round in 0..rounds {
        let first = usize::try_from(round).unwrap_or(0) % subjects.len().max(1);
        for index in (first..subjects.len()).chain(0..first) {
            let (subject, record) = (&subjects[index], &mut records[index]);
            if tell(subject, turn).is_break() {
                return (records, ControlFlow::Break(()));
            }
            turn += 1;
            if record.failure.is_some() {
                continue;
            }
            let mut timer = Timer::default();
            match workload.run(subject, round, &mut timer) {
                Ok(()) if round < WARM_UP_ROUNDS => {}
                Ok(()) => record.timer.extend(timer),
                Err(error) => record.failure = Some(error.chain()),
            }
        }
    }
    (records, ControlFlow::Continue(()))
}

fn compare(workload: &Workload, step: Step, subjects: &[Subject<'_>], records: &[Record]) -> Comparison {
    let measured: Vec<Option<Statistics>> = records
        .iter()
        .map(|record| if record.failure.is_some() { None } else { Statistics::of(record.timer.samples(step.name)) })
        .collect();
    let best_ns = measured.iter().flatten().map(|statistics| statistics.median_ns).min().unwrap_or(0);
    let rows = subjects.iter().zip(records).zip(measured.iter().zip(standings(&measured)));
    let rows = rows.map(|((subject, record), (statistics, standing))| {
        let figures = statistics.zip(standing).map(|(statistics, standing)| {
            let times_best = statistics.median_ns as f64 / best_ns.max(1) as f64;
            Figures { statistics, standing, times_best }
        });
        Row { subject: subject.name.clone(), figures, failure: record.failure.clone() }
    });
    Comparison { workload: workload.name, step, rows: rows.collect() }
}

#[cfg(test)]
mod tests;
