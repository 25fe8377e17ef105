//! Comparing the strategies on this machine.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Done;
use super::interrupt::Interrupt;
use super::output::{size, table};
use super::session::Session;
use crate::compare::image::Image;
use crate::compare::machine::Machine;
use crate::compare::measure::{Standing, Timer, three_digits};
use crate::compare::workload::Workload;
use crate::compare::{self, Comparison, Figures, Progress, Row, Subject};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::scratch::{FsType, Scratch};
use crate::registry::{self, Choice, Config};
use crate::store::{Durability, Store};
use crate::tree::copy::CloneMode;

/// Room on each file system: the image, a copy of it, and what file systems need for themselves. Only what is written
/// takes memory.
const SCRATCH_BYTES: u64 = 2 << 30;

/// What each of them may come to hold, in images.
const IMAGES_HELD: u64 = 3;

/// What is compared. "copy" copies every byte; "copy+reflink" shares them with the parent until somebody writes.
const CONTENDERS: [Contender; 5] = [
    Contender { strategy: "overlay", choice: Choice::Overlay, clone: CloneMode::Auto, fs: FsType::Ext4 },
    Contender { strategy: "overlay", choice: Choice::Overlay, clone: CloneMode::Auto, fs: FsType::Xfs },
    Contender { strategy: "btrfs", choice: Choice::Btrfs, clone: CloneMode::Auto, fs: FsType::Btrfs },
    Contender { strategy: "copy", choice: Choice::Copy, clone: CloneMode::Bytes, fs: FsType::Ext4 },
    Contender { strategy: "copy+reflink", choice: Choice::Copy, clone: CloneMode::Reflink, fs: FsType::Xfs },
];

/// Measure the strategies on this machine
///
/// A made-up image with the shape of a Debian base is unpacked on each strategy, on fresh file systems in memory which
/// nobody else sees; then a container's life is measured on all of them in turn. Nothing of it uses the store of --root,
/// and nothing is left behind. Needs root. What the machine cannot do is listed with the reason.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata compare --samples 20\n  strata compare --json > figures.json")]
pub(super) struct Compare {
    /// Rounds that count
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=1000))]
    samples: u64,
    /// Files of the image
    #[arg(long, value_name = "N", default_value = "6000", value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    files: u64,
    /// What the image and the work are made up from: the same seed, the same work
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
}

/// A strategy where it is measured.
#[derive(Clone, Copy, Debug)]
struct Contender {
    strategy: &'static str,
    choice: Choice,
    clone: CloneMode,
    fs: FsType,
}

impl Contender {
    fn name(&self) -> String {
        format!("{} on {}", self.strategy, self.fs)
    }
}

/// A contender's store and a directory to mount at, on a file system of their own.
#[derive(Debug)]
struct Stage {
    store: Store,
    target: PathBuf,
    _scratch: Scratch,
}

impl Stage {
    fn new(contender: &Contender) -> Result<Self> {
        let scratch = Scratch::new(contender.fs, SCRATCH_BYTES)?;
        let [root, target] = ["store", "mount"].map(|name| scratch.path().join(name));
        std::fs::create_dir(&target).at("make the directory", &target)?;
        let &Contender { choice: backend, clone, .. } = contender;
        let store = registry::open(&Config { backend, clone, ..Config::new(root) })?;
        Ok(Self { store, target, _scratch: scratch })
    }
}

/// Everything that is reported.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    image: Described,
    /// Rounds that were to count.
    samples: u64,
    file_systems: &'static str,
    durability: &'static str,
    caches: &'static str,
    /// What taking a time costs, in the median.
    overhead_ns: u64,
    /// Whether the run was ended early.
    interrupted: bool,
    comparisons: Vec<Comparison>,
    not_measured: Vec<NotMeasured>,
}

/// The image, in figures.
#[derive(Debug, Serialize)]
struct Described {
    files: u64,
    inodes: u64,
    size_bytes: u64,
    seed: u64,
}

/// What the machine cannot do.
#[derive(Debug, Serialize)]
struct NotMeasured {
    subject: String,
    reason: String,
}

impl Compare {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let image = Image::new(self.files, u64::MAX, self.seed);
        let machine = Machine::here();
        check_memory(&machine, &image)?;
        let bar = bar(session)?;
        let mut not_measured = Vec::new();
        let mut stages = Vec::new();
        for contender in &CONTENDERS {
            interrupt.check()?;
            bar.set_message(format!("setting up {}", contender.name()));
            match Stage::new(contender) {
                Ok(stage) => stages.push((contender.name(), stage)),
                Err(error) => not_measured.push(NotMeasured { subject: contender.name(), reason: error.chain() }),
            }
        }
        let mut subjects = Vec::new();
        for (name, stage) in &stages {
            interrupt.check()?;
            bar.set_message(format!("unpacking on {name}"));
            match Subject::new(name, &stage.store, &image, &stage.target) {
                Ok(subject) => subjects.push(subject),
                Err(error) => not_measured.push(NotMeasured { subject: name.clone(), reason: error.chain() }),
            }
        }
        let mut watch = |progress: Progress<'_>| {
            show(&bar, progress);
            if interrupt.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let comparisons = compare::run(&subjects, &Workload::ALL, self.samples, &mut watch);
        bar.finish_and_clear();
        let report = Report {
            machine,
            image: Described {
                files: self.files,
                inodes: image.inodes(),
                size_bytes: image.size_bytes(),
                seed: self.seed,
            },
            samples: self.samples,
            file_systems: "fresh, on loop devices over files in memory",
            durability: Durability::Commit.as_str(),
            caches: "warm",
            overhead_ns: Timer::overhead().map_or(0, |empty| empty.median_ns),
            interrupted: interrupt.asked(),
            comparisons,
            not_measured,
        };
        session.output.either(&report, || report.text())?;
        interrupt.check()?;
        if subjects.is_empty() {
            return Err(Error::unsupported("no strategy could be measured here, for the reasons above").into());
        }
        Ok(())
    }
}

/// The file systems lie in memory: better refused than killed half-way.
fn check_memory(machine: &Machine, image: &Image) -> Result<()> {
    let needed = image.size_bytes() * IMAGES_HELD * CONTENDERS.len() as u64;
    match machine.available_bytes {
        Some(available) if available < needed => Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "the file systems to compare on take up to {} of memory, and {} is available: choose fewer --files",
                size(needed),
                size(available)
            ),
        )),
        _ => Ok(()),
    }
}

fn bar(session: &Session) -> Result<ProgressBar> {
    if !session.draws() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {eta} left")
        .map_err(|error| Error::invalid("the form of the progress bar").with_source(error))?;
    Ok(ProgressBar::new(0).with_style(style))
}

fn show(bar: &ProgressBar, progress: Progress<'_>) {
    let Progress { workload, subject, done, total } = progress;
    bar.set_length(total);
    bar.set_position(done);
    bar.set_message(format!("{workload}: {subject}"));
    tracing::info!(workload, subject, done, total, "measuring");
}

impl Report {
    fn text(&self) -> String {
        let mut text = self.heading();
        let mut rows = Vec::new();
        for comparison in &self.comparisons {
            let name = [comparison.step.name].into_iter().chain(std::iter::repeat(""));
            rows.extend(name.zip(&comparison.rows).map(|(name, row)| cells(name, row)));
        }
        let headings = ["STEP", "STRATEGY", "MEDIAN", "QUARTILES", "OF BEST", ""];
        text.push_str(&table(&headings, rows));
        if !self.not_measured.is_empty() {
            let rows = self.not_measured.iter().map(|absent| vec![absent.subject.clone(), absent.reason.clone()]);
            _ = write!(text, "\n{}", table(&["NOT MEASURED", "WHY"], rows.collect()));
        }
        let steps = self.comparisons.iter().map(|comparison| {
            let step = comparison.step;
            vec![step.name.to_owned(), step.about.to_owned()]
        });
        _ = write!(text, "\n{}", table(&["STEP", "WHAT IS TIMED"], steps.collect()));
        if !self.comparisons.is_empty() {
            text.push_str("\nbest: faster than all others; level: no difference to the best was measured\n");
        }
        text
    }

    fn heading(&self) -> String {
        let Machine { strata, kernel, cores, cpu, memory_bytes, .. } = &self.machine;
        let Described { files, size_bytes, seed, .. } = self.image;
        format!(
            "strata {strata}, Linux {kernel}, {cores} cores of {}, {} of memory\nimage: {files} files, {}, seed {seed}; \
             {} rounds, interleaved\nfile systems: {}; caches {}; what is answered is on disk\ntaking a time costs {}\n\n",
            cpu.as_deref().unwrap_or("unknown make"),
            memory_bytes.map_or_else(|| "?".to_owned(), size),
            size(size_bytes),
            self.samples,
            self.file_systems,
            self.caches,
            three_digits(self.overhead_ns),
        )
    }
}

fn cells(step: &str, row: &Row) -> Vec<String> {
    let mut cells = vec![step.to_owned(), row.subject.clone()];
    match (&row.figures, &row.failure) {
        (Some(Figures { statistics, standing, times_best }), _) => cells.extend([
            three_digits(statistics.median_ns),
            format!("{} to {}", three_digits(statistics.lower_quartile_ns), three_digits(statistics.upper_quartile_ns)),
            format!("{times_best:.1}x"),
            word(*standing).to_owned(),
        ]),
        (None, Some(why)) => cells.extend(["failed".to_owned(), why.clone()]),
        (None, None) => cells.push("not reached".to_owned()),
    }
    cells
}

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Best => "best",
        Standing::Level => "level",
        Standing::Slower => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_refused_before_anything_is_made() {
        let image = Image::new(1000, u64::MAX, 1);
        let machine = |available_bytes| Machine { available_bytes, ..Machine::here() };
        let error = check_memory(&machine(Some(image.size_bytes())), &image).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert!(error.to_string().contains("choose fewer --files"), "{error}");
        check_memory(&machine(Some(1 << 40)), &image).expect("enough");
        check_memory(&machine(None), &image).expect("unknown");
    }
}
