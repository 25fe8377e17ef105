//! A comparison under way: who takes part, where, and what is known so far.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::contender::{Contender, Method};
use super::outputs::Outputs;
use super::source::Depot;
use super::stage::{Ground, Stage};
use super::tools::TOOLS;
use super::{Compare, text};
use crate::cli::Done;
use crate::cli::interrupt::Interrupt;
use crate::cli::session::Session;
use crate::compare::image::Image;
use crate::compare::peer::{Archive, Peer, Setting, Tool};
use crate::compare::report::{MountOptions, NotMeasured, Report};
use crate::compare::workload::{Sizes, Workload};
use crate::compare::{self, Contestant, Entry, Measured, Plain, Plan, Progress, Subject, Watch};
use crate::error::{Context, Error, Result};
use crate::mount::scratch::FsType;
use crate::mount::{Access, Mount, Mounted, table};
use crate::store::Durability;

/// What the progress bar shows. A terminal cuts what is too long, so how much time is left comes first.
const BAR: &str = "{bar:20} {pos}/{len} {msg}";

/// A run that is under way.
pub(super) struct Run<'a> {
    pub interrupt: &'a Interrupt,
    pub outputs: &'a Outputs,
    pub bar: ProgressBar,
    pub began: Instant,
    pub plan: Plan,
    pub report: Report,
    pub durability: Durability,
    /// Why a file could not be written.
    pub failure: Option<Error>,
}

/// Where a contender is measured.
pub(super) enum Place {
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

/// A tool of somebody else's, and where it is measured.
pub(super) struct Guest<'a> {
    peer: Peer<'a>,
    /// Last: what runs on it ends first.
    _ground: Ground,
}

impl Run<'_> {
    /// Makes the file systems and the stores.
    pub fn prepare(&mut self, arguments: &Compare, contenders: &[Contender]) -> Result<Vec<(Contender, Place)>> {
        let mut places = Vec::new();
        for (number, contender) in contenders.iter().enumerate() {
            self.interrupt.check()?;
            self.bar.set_message(format!("setting up {contender}"));
            match place(arguments, contender, number, self.durability) {
                Ok(place) => places.push((contender.clone(), place)),
                Err(error) => self.absent(contender.to_string(), &error),
            }
        }
        self.report.mounts = mount_options(&places)?;
        Ok(places)
    }

    /// Lets the tools in that are to be measured on one of `fs` (all if none is named).
    pub fn invite<'a>(&mut self, fs: &[FsType], archive: &Archive, image: &'a Image) -> Result<Vec<Guest<'a>>> {
        let strata = std::env::current_exe().at("find", "strata's own program")?;
        let mut guests = Vec::new();
        for (tool, on) in TOOLS.iter().filter(|(_, on)| fs.is_empty() || fs.contains(on)) {
            self.interrupt.check()?;
            self.bar.set_message(format!("setting up {} on {on}", tool.name));
            match guest(*tool, *on, &strata, archive, image) {
                Ok(guest) => guests.push(guest),
                Err(error) => self.absent(format!("{} on {on}", tool.name), &error),
            }
        }
        self.report.peers = guests.iter().map(|guest| guest.peer.label().strategy.clone()).collect();
        self.report.peers.sort();
        self.report.peers.dedup();
        Ok(guests)
    }

    pub fn absent(&mut self, subject: String, why: &Error) {
        self.report.not_measured.push(NotMeasured { subject, reason: why.chain() });
    }

    pub fn measure(
        &mut self,
        arguments: &Compare,
        places: &[(Contender, Place)],
        guests: &[Guest<'_>],
        image: &Image,
    ) -> Result<()> {
        let chills: Vec<_> = places.iter().map(|(_, place)| || place.chill()).collect();
        let line = arguments.command.clone().unwrap_or_default();
        let command = |path: &Path| shell(&line, path);
        let command: Option<compare::Command<'_>> = if arguments.command.is_some() { Some(&command) } else { None };
        let mut own: Vec<Box<dyn Contestant + '_>> = Vec::new();
        for ((contender, place), chill) in places.iter().zip(&chills) {
            self.interrupt.check()?;
            self.bar.set_message(format!("unpacking on {contender}"));
            let entry = Entry::new(contender.label()).with_place(place.ground().place()).with_chill(chill);
            match contestant(entry, place, image, arguments.sizes(), command) {
                Ok(contestant) => own.push(contestant),
                Err(error) => self.absent(contender.to_string(), &error),
            }
        }
        let guests = guests.iter().map(|guest| &guest.peer as &dyn Contestant);
        let contestants: Vec<&dyn Contestant> = own.iter().map(|contestant| &**contestant).chain(guests).collect();
        let workloads = arguments.workloads();
        self.report.workloads = compare::run(&contestants, &workloads, self.plan, self);
        self.tell_what_was_not_reached(&workloads);
        Ok(())
    }

    fn tell_what_was_not_reached(&mut self, workloads: &[Workload]) {
        let reached: Vec<&str> = self.report.workloads.iter().map(|measured| measured.name).collect();
        let reason = if self.interrupt.asked() { "the run was ended before" } else { "the time was used up before" };
        for workload in workloads.iter().filter(|workload| !reached.contains(&workload.name)) {
            let subject = format!("workload {}", workload.name);
            self.report.not_measured.push(NotMeasured { subject, reason: reason.to_owned() });
        }
    }

    pub fn finish(mut self, session: &Session) -> Done {
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

    /// How long it still takes at most, by the turns that were taken and by when it has to be over.
    fn left(&self, done: u64, total: u64) -> Duration {
        let turns = (done > 0).then(|| self.began.elapsed().mul_f64(total.saturating_sub(done) as f64 / done as f64));
        let end = self.plan.end.map(|end| end.saturating_duration_since(Instant::now()));
        turns.into_iter().chain(end).min().unwrap_or_default()
    }
}

impl Watch for Run<'_> {
    fn turn(&mut self, progress: Progress<'_>) -> ControlFlow<()> {
        let Progress { workload, subject, done, total } = progress;
        let left_s = self.left(done, total).as_secs();
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(format!("at most {left_s} s left, {workload}: {subject}"));
        tracing::info!(workload, subject, done, total, left_s, "measuring");
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

fn place(arguments: &Compare, contender: &Contender, number: usize, durability: Durability) -> Result<Place> {
    let ground = match (&arguments.on, contender.fresh) {
        (Some(dir), _) => {
            let dir = std::path::absolute(dir).at("find", dir)?;
            Ground::within(&dir, &format!("strata-compare-{}-{number}", std::process::id()))?
        }
        (None, Some(fs)) => Ground::fresh(fs)?,
        (None, None) => return Err(Error::invalid("no place to measure in was named")),
    };
    match contender.method {
        Method::Store(strategy, variant) => {
            Stage::new(ground, strategy, variant, durability).map(|stage| Place::Store(Box::new(stage)))
        }
        Method::Plain => Ok(Place::Plain(ground)),
    }
}

/// Puts the image where `place` is.
fn contestant<'a>(
    entry: Entry<'a>,
    place: &'a Place,
    image: &'a Image,
    sizes: Sizes,
    command: Option<compare::Command<'a>>,
) -> Result<Box<dyn Contestant + 'a>> {
    Ok(match place {
        Place::Store(stage) => {
            let subject = Subject::new(entry, &**stage, image, stage.target())?;
            Box::new(subject.with_sizes(sizes).with_command(command))
        }
        Place::Plain(ground) => Box::new(Plain::new(entry, ground.dir("plain")?, ground.dir("mount")?, image, sizes)?),
    })
}

fn guest<'a>(tool: Tool, fs: FsType, strata: &Path, archive: &Archive, image: &'a Image) -> Result<Guest<'a>> {
    let ground = Ground::fresh(fs)?;
    let (dir, target) = (ground.dir("tool")?, ground.dir("mount")?);
    let place = ground.place();
    let setting = Setting { fs: fs.as_str(), place, dir: &dir, target: &target, strata, archive, image };
    Ok(Guest { peer: Peer::new(tool, setting)?, _ground: ground })
}

/// A `/run` of this run's own, for the tools that keep something there whatever they are told.
pub(super) fn own_run(depot: &Depot) -> Result<Mounted> {
    let source = depot.ground().dir("run")?;
    Mounted::new(&[Mount::Bind { source, access: Access::ReadWrite }], "/run")
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

pub(super) fn bar(session: &Session) -> Result<ProgressBar> {
    if !session.draws() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template(BAR)
        .map_err(|error| Error::invalid("the form of the progress bar").with_source(error))?;
    Ok(ProgressBar::new(0).with_style(style))
}
