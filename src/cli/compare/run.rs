//! A comparison under way: the measured settings, the tools, and the results so far.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::outputs::Outputs;
use super::place::{MeasuredDir, MeasuredStore};
use super::setting::{MeasuredSetting, Method};
use super::source::ImageStore;
use super::tools::TOOLS;
use super::{Compare, text};
use crate::cli::Done;
use crate::cli::interrupt::Interrupt;
use crate::cli::session::Session;
use crate::compare::image::Image;
use crate::compare::report::{MountOptions, NotMeasured, Report};
use crate::compare::tool::{Archive, Tool, ToolSetting, ToolSubject};
use crate::compare::workload::{Sizes, Workload};
use crate::compare::{
    self, DirectorySubject, Measured, Plan, SnapshotterSubject, Subject, SubjectProfile, Turn, Watch,
};
use crate::error::{Context, Error, Result};
use crate::mount::scratch::FsType;
use crate::mount::{Access, Mount, Mounted, table};
use crate::store::Durability;

/// Template of the progress bar. A terminal cuts off long lines, so the remaining time comes first.
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
    /// Error of writing an output file.
    pub failure: Option<Error>,
}

/// Location where a setting is measured.
pub(super) enum MeasuredPlace {
    Store(Box<MeasuredStore>),
    Directory(MeasuredDir),
}

impl MeasuredPlace {
    fn measured_dir(&self) -> &MeasuredDir {
        match self {
            Self::Store(measured_store) => measured_store.measured_dir(),
            Self::Directory(measured_dir) => measured_dir,
        }
    }

    fn drop_caches(&self) -> Result<()> {
        match self {
            Self::Store(measured_store) => measured_store.drop_caches(),
            Self::Directory(measured_dir) => measured_dir.drop_caches(),
        }
    }
}

/// A tool, and the directory that it is measured in.
pub(super) struct PlacedTool<'a> {
    subject: ToolSubject<'a>,
    /// Declared last, so that it is dropped after the processes that run on it.
    _measured_dir: MeasuredDir,
}

impl Run<'_> {
    /// Creates the file systems and the stores.
    pub fn prepare(
        &mut self,
        arguments: &Compare,
        settings: &[MeasuredSetting],
    ) -> Result<Vec<(MeasuredSetting, MeasuredPlace)>> {
        let mut places = Vec::new();
        for (number, setting) in settings.iter().enumerate() {
            self.interrupt.check()?;
            self.bar.set_message(format!("setting up {setting}"));
            match place(arguments, setting, number, self.durability) {
                Ok(place) => places.push((setting.clone(), place)),
                Err(error) => self.absent(setting.to_string(), &error),
            }
        }
        self.report.mounts = mount_options(&places)?;
        Ok(places)
    }

    /// Sets up the tools that are to be measured on one of `fs`, or on any if `fs` is empty.
    pub fn invite<'a>(&mut self, fs: &[FsType], archive: &Archive, image: &'a Image) -> Result<Vec<PlacedTool<'a>>> {
        let strata = std::env::current_exe().at("find", "strata's own program")?;
        let mut tools = Vec::new();
        for (tool, on) in TOOLS.iter().filter(|(_, on)| fs.is_empty() || fs.contains(on)) {
            self.interrupt.check()?;
            self.bar.set_message(format!("setting up {} on {on}", tool.name));
            match placed_tool(*tool, *on, &strata, archive, image) {
                Ok(placed_tool) => tools.push(placed_tool),
                Err(error) => self.absent(format!("{} on {on}", tool.name), &error),
            }
        }
        self.report.peers = tools.iter().map(|placed_tool| placed_tool.subject.label().strategy.clone()).collect();
        self.report.peers.sort();
        self.report.peers.dedup();
        Ok(tools)
    }

    pub fn absent(&mut self, subject: String, why: &Error) {
        self.report.not_measured.push(NotMeasured { subject, reason: why.chain() });
    }

    pub fn measure(
        &mut self,
        arguments: &Compare,
        places: &[(MeasuredSetting, MeasuredPlace)],
        tools: &[PlacedTool<'_>],
        image: &Image,
    ) -> Result<()> {
        let drop_caches_hooks: Vec<_> = places.iter().map(|(_, place)| || place.drop_caches()).collect();
        let line = arguments.command.clone().unwrap_or_default();
        let command = |path: &Path| shell(&line, path);
        let command: Option<compare::Command<'_>> = if arguments.command.is_some() { Some(&command) } else { None };
        let mut own: Vec<Box<dyn Subject + '_>> = Vec::new();
        for ((setting, place), drop_caches) in places.iter().zip(&drop_caches_hooks) {
            self.interrupt.check()?;
            self.bar.set_message(format!("unpacking on {setting}"));
            let entry = SubjectProfile::new(setting.label())
                .with_measured_fs(place.measured_dir().measured_fs())
                .with_drop_caches(drop_caches);
            match subject(entry, place, image, arguments.sizes(), command) {
                Ok(subject) => own.push(subject),
                Err(error) => self.absent(setting.to_string(), &error),
            }
        }
        let tools = tools.iter().map(|placed_tool| &placed_tool.subject as &dyn Subject);
        let subjects: Vec<&dyn Subject> = own.iter().map(|subject| &**subject).chain(tools).collect();
        let workloads = arguments.workloads();
        self.report.workloads = compare::run(&subjects, &workloads, self.plan, self);
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

    /// Returns the estimated remaining time: extrapolated from the turns so far, and at most until the planned end.
    fn left(&self, done: u64, total: u64) -> Duration {
        let turns = (done > 0).then(|| self.began.elapsed().mul_f64(total.saturating_sub(done) as f64 / done as f64));
        let end = self.plan.end.map(|end| end.saturating_duration_since(Instant::now()));
        turns.into_iter().chain(end).min().unwrap_or_default()
    }
}

impl Watch for Run<'_> {
    fn turn(&mut self, turn: Turn<'_>) -> ControlFlow<()> {
        let Turn { workload, subject, done, total } = turn;
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
            // The run continues, because its figures also go to standard output; the error is reported at the end.
            self.failure = Some(error);
        }
    }
}

fn place(
    arguments: &Compare,
    setting: &MeasuredSetting,
    number: usize,
    durability: Durability,
) -> Result<MeasuredPlace> {
    let measured_dir = match (&arguments.on, setting.fresh) {
        (Some(dir), _) => {
            let dir = std::path::absolute(dir).at("find", dir)?;
            MeasuredDir::within(&dir, &format!("strata-compare-{}-{number}", std::process::id()))?
        }
        (None, Some(fs)) => MeasuredDir::fresh(fs)?,
        (None, None) => return Err(Error::invalid("no place to measure in was named")),
    };
    match setting.method {
        Method::Store(strategy, variant) => MeasuredStore::new(measured_dir, strategy, variant, durability)
            .map(|measured_store| MeasuredPlace::Store(Box::new(measured_store))),
        Method::Directory => Ok(MeasuredPlace::Directory(measured_dir)),
    }
}

/// Writes the image to `place` and returns the subject.
fn subject<'a>(
    entry: SubjectProfile<'a>,
    place: &'a MeasuredPlace,
    image: &'a Image,
    sizes: Sizes,
    command: Option<compare::Command<'a>>,
) -> Result<Box<dyn Subject + 'a>> {
    Ok(match place {
        MeasuredPlace::Store(measured_store) => {
            let subject = SnapshotterSubject::new(entry, &**measured_store, image, measured_store.target())?;
            Box::new(subject.with_sizes(sizes).with_command(command))
        }
        MeasuredPlace::Directory(measured_dir) => Box::new(DirectorySubject::new(
            entry,
            measured_dir.dir("plain")?,
            measured_dir.dir("mount")?,
            image,
            sizes,
        )?),
    })
}

fn placed_tool<'a>(
    tool: Tool,
    fs: FsType,
    strata: &Path,
    archive: &Archive,
    image: &'a Image,
) -> Result<PlacedTool<'a>> {
    let measured_dir = MeasuredDir::fresh(fs)?;
    let (dir, target) = (measured_dir.dir("tool")?, measured_dir.dir("mount")?);
    let measured_fs = measured_dir.measured_fs();
    let setting = ToolSetting { fs: fs.as_str(), measured_fs, dir: &dir, target: &target, strata, archive, image };
    Ok(PlacedTool { subject: ToolSubject::new(tool, setting)?, _measured_dir: measured_dir })
}

/// Mounts an empty `/run` for this run, for tools that ignore options and keep files in `/run`.
pub(super) fn own_run(image_store: &ImageStore) -> Result<Mounted> {
    let source = image_store.measured_dir().dir("run")?;
    Mounted::new(&[Mount::Bind { source, access: Access::ReadWrite }], "/run")
}

/// Runs the user's command line in the directory `path`.
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

/// Returns the mount options of each file system, without duplicates.
fn mount_options(places: &[(MeasuredSetting, MeasuredPlace)]) -> Result<Vec<MountOptions>> {
    let mut all = Vec::new();
    for (setting, place) in places {
        let options = table::options_of(place.measured_dir().path())?;
        let found = MountOptions { fs: setting.fs.clone(), options: options.unwrap_or_default() };
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
