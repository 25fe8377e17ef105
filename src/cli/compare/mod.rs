//! Comparing the strategies on this machine.

mod contender;
mod outputs;
mod stage;
mod text;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use self::contender::{Contender, Strategy, contenders, contenders_on, fs_of, parse_fs};
use self::outputs::Outputs;
use self::stage::{Ground, Stage};
use super::Done;
use super::interrupt::Interrupt;
use super::output::size;
use super::session::Session;
use crate::compare::image::Image;
use crate::compare::machine::Machine;
use crate::compare::measure::Timer;
use crate::compare::report::{Described, MountOptions, NotMeasured, Report};
use crate::compare::workload::{Sizes, Workload};
use crate::compare::{self, Contestant, Label, Measured, Plain, Plan, Progress, Role, Subject, Watch};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::scratch::FsType;
use crate::mount::{become_root, probe, table};
use crate::store::Durability;

/// Rounds that count where nobody says, and where there is little time.
const SAMPLES: u64 = 10;
const SAMPLES_QUICK: u64 = 5;

/// How long all workloads together may take where nobody says how many rounds are wanted.
const TIME: Duration = Duration::from_secs(130);
const TIME_QUICK: Duration = Duration::from_secs(18);

/// Files of the made-up image: a Debian base has 6,000.
const FILES: u64 = 6000;
const FILES_QUICK: u64 = 1000;

/// Room for the structures of a file system.
const STRUCTURES_BYTES: u64 = 64 << 20;

/// What a small file takes.
const BLOCK_BYTES: u64 = 4096;

/// Measure the strategies on this machine
///
/// An image with the shape of a Debian base is unpacked on each strategy, on fresh file systems in memory which nobody else
/// sees; then workloads are measured on all of them in turn, beside a plain directory, the floor. Nothing of it uses the
/// store of --root, and nothing is left behind. Without root, overlay and copy are measured on tmpfs. What the machine
/// cannot do is listed with the reason. It takes less than three minutes, with --quick 30 seconds, unless --samples or
/// --full asks for more.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  strata compare --html figures.html\n  strata compare --workload copy-up --fs xfs --samples 20"
)]
pub(super) struct Compare {
    /// A short run: the workloads and strategies that say most, a small image
    #[arg(long)]
    quick: bool,
    /// As much work as people meet, however long it takes: 50 containers, a large file of 1 GiB
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Only these: unpack, container, diff, commit-nothing, commit-many, start, copy-up, small-files, fsync, chown, rename,
    /// read, walk, cold, deep
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = Workload::find)]
    workload: Vec<Workload>,
    /// Only these: overlay, btrfs, copy, copy+reflink
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = Strategy::parse)]
    strategy: Vec<Strategy>,
    /// Only on these: ext4, xfs, btrfs, tmpfs
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = parse_fs, conflicts_with = "on")]
    fs: Vec<FsType>,
    /// Measure in a directory of a real disk, instead of on file systems in memory
    #[arg(long, value_name = "DIR")]
    on: Option<PathBuf>,
    /// Also measure a command: in a writable snapshot of the image, which is its working directory
    #[arg(long = "run", value_name = "CMD")]
    command: Option<String>,
    /// Rounds that count; without it, as many as there is time for, ten at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    samples: Option<u64>,
    /// Files of the image
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    files: Option<u64>,
    /// What the image and the work are made up from: the same seed, the same work
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Write a page with charts to FILE
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the times to FILE, for spreadsheets
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the tables to FILE, for documents
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

impl Compare {
    pub fn run(&self, session: &Session) -> Done {
        let outputs = Outputs::check(self)?;
        let is_user = obtain_privilege()?;
        let interrupt = Interrupt::watch(session)?;
        let began = Instant::now();
        let image = Image::new(self.files(), u64::MAX, self.seed);
        let contenders = self.contenders(is_user)?;
        self.check_space(&contenders, &image)?;
        let mut run = Run {
            interrupt: &interrupt,
            outputs: &outputs,
            bar: bar(session)?,
            began,
            report: self.report(&image, session),
            durability: session.config().durability,
            failure: None,
        };
        let grounds = run.prepare(self, &contenders)?;
        run.report.mounts = mount_options(&grounds)?;
        run.measure(self, &grounds, &image)?;
        run.finish(session)
    }

    fn files(&self) -> u64 {
        self.files.unwrap_or(if self.quick { FILES_QUICK } else { FILES })
    }

    fn sizes(&self) -> Sizes {
        match (self.quick, self.full) {
            (true, _) => Sizes::QUICK,
            (_, true) => Sizes::FULL,
            _ => Sizes::REDUCED,
        }
    }

    fn plan(&self) -> Plan {
        let (samples, time) = if self.quick { (SAMPLES_QUICK, TIME_QUICK) } else { (SAMPLES, TIME) };
        let time = (self.samples.is_none() && !self.full).then_some(time);
        Plan { samples: self.samples.unwrap_or(samples), time }
    }

    fn workloads(&self) -> Vec<Workload> {
        let mut workloads = self.workload.clone();
        if workloads.is_empty() {
            workloads = Workload::ALL.into_iter().filter(|workload| !self.quick || workload.quick).collect();
        }
        workloads.extend(self.command.is_some().then_some(Workload::COMMAND));
        workloads
    }

    /// Who is measured; a user who is not root cannot make other file systems than a tmpfs.
    fn contenders(&self, is_user: bool) -> Result<Vec<Contender>> {
        let fs = if is_user && self.fs.is_empty() { &[FsType::Tmpfs] } else { self.fs.as_slice() };
        let Some(dir) = &self.on else { return Ok(contenders(&self.strategy, fs, self.quick, self.full)) };
        let dir = std::path::absolute(dir).at("find", dir)?;
        Ok(contenders_on(&self.strategy, &fs_of(&dir)?))
    }

    /// What a contender may come to hold, in bytes.
    fn needs(&self, contender: &Contender, image: &Image) -> u64 {
        let sizes = self.sizes();
        if !contender.can_be() {
            return structures_of(contender);
        }
        let trees = if contender.strategy.copies() { 2 + sizes.containers } else { 2 };
        let blocks = image.size_bytes() + image.inodes() * BLOCK_BYTES;
        let new_files = sizes.new_files * BLOCK_BYTES * 2;
        trees * blocks + 2 * sizes.large_bytes + new_files + structures_of(contender)
    }

    /// Better refused than killed half-way, or stopped by a full disk.
    fn check_space(&self, contenders: &[Contender], image: &Image) -> Result<()> {
        let needed = contenders.iter().map(|contender| self.needs(contender, image)).sum::<u64>();
        let (available, what) = match &self.on {
            Some(dir) => {
                let stat = rustix::fs::statvfs(dir).at("stat the file system of", dir)?;
                (Some(stat.f_bavail * stat.f_frsize), format!("{}", dir.display()))
            }
            None => (Machine::here().available_bytes, "memory".to_owned()),
        };
        match available {
            Some(available) if available < needed => Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "the comparison takes up to {} of {what}, and {} is available: choose fewer --files, --strategy, --fs \
                     or --quick",
                    size(needed),
                    size(available)
                ),
            )),
            _ => Ok(()),
        }
    }

    fn report(&self, image: &Image, session: &Session) -> Report {
        let lie_on = match &self.on {
            Some(dir) => format!("that of {}, which others may use meanwhile", dir.display()),
            None => "fresh, on loop devices over files in memory; tmpfs in memory itself".to_owned(),
        };
        Report {
            machine: Machine::here(),
            image: Described {
                source: "made up, with the shape of a Debian base".to_owned(),
                files: image.files().len() as u64,
                inodes: image.inodes(),
                size_bytes: image.size_bytes(),
                seed: self.seed,
            },
            sizes: self.sizes(),
            samples: self.plan().samples,
            file_systems: lie_on,
            mounts: Vec::new(),
            peers: Vec::new(),
            durability: match session.config().durability {
                Durability::Commit => "commit: what is answered is on disk",
                Durability::None => "none: what is answered may be lost by a power cut",
            },
            caches: "warm, where a step does not say cold",
            overhead_ns: Timer::overhead().map_or(0, |empty| empty.median_ns),
            took_ms: 0,
            interrupted: false,
            summary: Vec::new(),
            workloads: Vec::new(),
            not_measured: Vec::new(),
        }
    }
}

/// A run that is under way.
struct Run<'a> {
    interrupt: &'a Interrupt,
    outputs: &'a Outputs,
    bar: ProgressBar,
    began: Instant,
    report: Report,
    durability: Durability,
    /// Why a file could not be written.
    failure: Option<Error>,
}

/// Where a contender is measured.
enum Place {
    Store(Box<Stage>),
    Plain(Ground),
}

impl Place {
    fn ground(&self) -> &Ground {
        match self {
            Self::Store(stage) => stage.ground(),
            Self::Plain(ground) => ground,
        }
    }

    fn chill(&self) -> Result<()> {
        match self {
            Self::Store(stage) => stage.chill(),
            Self::Plain(ground) => ground.chill(),
        }
    }
}

impl Run<'_> {
    /// Makes the file systems and the stores.
    fn prepare(&mut self, arguments: &Compare, contenders: &[Contender]) -> Result<Vec<(Contender, Place)>> {
        let mut places = Vec::new();
        for (number, contender) in contenders.iter().enumerate() {
            self.interrupt.check()?;
            self.bar.set_message(format!("setting up {contender}"));
            match place(arguments, contender, number, self.durability) {
                Ok(place) => places.push((contender.clone(), place)),
                Err(error) => self.absent(contender.to_string(), &error),
            }
        }
        Ok(places)
    }

    fn absent(&mut self, subject: String, why: &Error) {
        self.report.not_measured.push(NotMeasured { subject, reason: why.chain() });
    }

    fn measure(&mut self, arguments: &Compare, places: &[(Contender, Place)], image: &Image) -> Result<()> {
        let chills: Vec<Box<dyn Fn() -> Result<()> + '_>> =
            places.iter().map(|(_, place)| Box::new(|| place.chill()) as Box<dyn Fn() -> Result<()> + '_>).collect();
        let line = arguments.command.clone().unwrap_or_default();
        let command = |path: &Path| shell(&line, path);
        let command: Option<compare::Command<'_>> = if arguments.command.is_some() { Some(&command) } else { None };
        let mut contestants: Vec<Box<dyn Contestant + '_>> = Vec::new();
        for ((contender, place), chill) in places.iter().zip(&chills) {
            self.interrupt.check()?;
            self.bar.set_message(format!("unpacking on {contender}"));
            let weighed = place.ground().place();
            let sizes = arguments.sizes();
            let made: Result<Box<dyn Contestant + '_>> = match place {
                Place::Store(stage) => {
                    let label = Label::new(contender.strategy.as_str(), &contender.fs, Role::Strategy);
                    Subject::new(label, &**stage, image, stage.target()).map(|subject| {
                        let subject = subject.with_sizes(sizes).with_place(weighed).with_chill(chill);
                        Box::new(subject.with_command(command)) as Box<dyn Contestant + '_>
                    })
                }
                Place::Plain(ground) => plain(contender, ground, image, sizes)
                    .map(|floor| Box::new(floor.with_place(weighed).with_chill(chill)) as Box<dyn Contestant + '_>),
            };
            match made {
                Ok(contestant) => contestants.push(contestant),
                Err(error) => self.absent(contender.to_string(), &error),
            }
        }
        let contestants: Vec<&dyn Contestant> = contestants.iter().map(|contestant| &**contestant).collect();
        self.report.workloads = compare::run(&contestants, &arguments.workloads(), arguments.plan(), self);
        Ok(())
    }

    fn finish(mut self, session: &Session) -> Done {
        self.bar.finish_and_clear();
        self.update();
        self.outputs.finish(&self.report)?;
        session.output.either(&self.report, || text::text(&self.report))?;
        if let Some(error) = self.failure {
            return Err(error.into());
        }
        self.interrupt.check()?;
        if self.report.workloads.iter().all(|workload| workload.steps.iter().all(|step| step.rows.is_empty())) {
            return Err(Error::unsupported("no strategy could be measured here, for the reasons above").into());
        }
        Ok(())
    }

    fn update(&mut self) {
        self.report.interrupted = self.interrupt.asked();
        self.report.took_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.report.conclude();
    }
}

impl Watch for Run<'_> {
    fn turn(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        let Progress { workload, subject, done, total } = progress;
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(format!("{workload}: {subject}"));
        tracing::info!(workload, subject, done, total, "measuring");
        if self.interrupt.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn measured(&mut self, all: &[Measured]) {
        self.report.workloads = all.to_vec();
        self.update();
        if let Err(error) = self.outputs.update(&self.report) {
            // The figures go on to standard output; that it failed is said at the end.
            self.failure = Some(error);
        }
    }
}

/// What the file system of `contender` takes for itself.
fn structures_of(contender: &Contender) -> u64 {
    if contender.fresh.is_some() { STRUCTURES_BYTES } else { 0 }
}

/// Sees that the caller may mount: users may in a namespace of their own. Answers whether it is one of these.
fn obtain_privilege() -> Result<bool> {
    if rustix::process::geteuid().is_root() {
        return probe::in_user_namespace();
    }
    become_root().map(|()| true).map_err(|error| {
        let message = "strata compare mounts file systems: run it as root, or where users may make user namespaces";
        Error::new(ErrorKind::PermissionDenied, message).with_source(error)
    })
}

fn place(arguments: &Compare, contender: &Contender, number: usize, durability: Durability) -> Result<Place> {
    let ground = match (&arguments.on, contender.fresh) {
        (Some(dir), _) => {
            let dir = std::path::absolute(dir).at("find", dir)?;
            Ground::within(&dir, &format!("strata-compare-{}-{number}", std::process::id()))?
        }
        (None, Some(fs)) => Ground::fresh(fs)?,
        (None, None) => return Err(Error::invalid("no place to measure in was named")),
    };
    match contender.strategy.backend() {
        Some((backend, clone)) => {
            Stage::new(ground, backend, clone, durability).map(|stage| Place::Store(Box::new(stage)))
        }
        None => Ok(Place::Plain(ground)),
    }
}

fn plain<'a>(contender: &Contender, ground: &Ground, image: &'a Image, sizes: Sizes) -> Result<Plain<'a>> {
    Plain::new(&contender.fs, ground.dir("plain")?, ground.dir("mount")?, image, sizes)
}

/// Runs the user's command in the directory `path`.
fn shell(line: &str, path: &Path) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(path).stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().at("run a shell in", path)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().next_back().unwrap_or_default();
    Err(Error::precondition(format!("the command failed, {}: {last}", output.status)))
}

/// Each file system's options, once.
fn mount_options(places: &[(Contender, Place)]) -> Result<Vec<MountOptions>> {
    let mut all = Vec::new();
    for (contender, place) in places {
        let options = table::options_of(place.ground().path())?;
        let found = MountOptions { fs: contender.fs.clone(), options: options.unwrap_or_default() };
        if !all.contains(&found) {
            all.push(found);
        }
    }
    Ok(all)
}

fn bar(session: &Session) -> Result<ProgressBar> {
    if !session.draws() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, at most {eta} left")
        .map_err(|error| Error::invalid("the form of the progress bar").with_source(error))?;
    Ok(ProgressBar::new(0).with_style(style))
}

#[cfg(test)]
mod tests;
