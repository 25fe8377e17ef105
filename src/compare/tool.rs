//! Tools as subjects, run by command lines.
//!
//! A [`Tool`] is a value: its command lines. A [`ToolSubject`] is a tool with a directory of its own and an image. It
//! runs the workloads whose steps are commands, so every subject's figures include the start of a process. A tool
//! leaves out steps that it cannot really do.
//!
//! # Command lines
//! Words are separated by spaces. In each word, `{dir}` stands for the directory that holds all data of the tool,
//! `{target}` for the mount point, `{key}` and `{name}` for the writable snapshot and the layer of the round,
//! `{strata}` for strata's own program, and `{layout}`, `{archive}`, `{layer}`, `{image}`, `{id}` and `{chain}` for the
//! fields of [`Archive`].
//!
//! # Isolation
//! Options, files and environment variables make each tool keep to its directory. Each command runs in a process group
//! of its own, so Ctrl-C on the terminal does not kill it: the run ends between two commands. A daemon is killed when
//! its [`ToolSubject`] is dropped, or by the kernel when this process ends.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::cost::MeasuredFs;
use super::image::Image;
use super::measure::Timer;
use super::workload::{self, CommandJob, Workload};
use super::{Label, Role, Subject, SubjectProfile};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::tree::Dir;

/// Maximum time until a daemon answers.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// Pause between two attempts to reach the daemon.
const START_PAUSE: Duration = Duration::from_millis(50);

/// Command lines that are run one after the other.
pub type CommandLines = &'static [&'static str];

/// A tool's name, the programs it needs, and its command lines.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Name of the tool; results are shown under the name and the version.
    pub name: &'static str,
    /// Strategy that the tool resembles; see [`Label::kind`].
    pub kind: &'static str,
    /// Role in the comparison.
    pub role: Role,
    /// Work that other subjects do and the tool leaves out; see [`Label::lacks`].
    pub lacks: &'static str,
    /// Required programs, each with the package that contains it. The version of the first program is the tool's
    /// version.
    pub programs: &'static [(&'static str, &'static str)],
    /// Environment variables of the tool's commands.
    pub variables: &'static [(&'static str, &'static str)],
    /// Files to create in the tool's directory, with their content.
    pub files: &'static [(&'static str, &'static str)],
    /// Command line of the tool's daemon, and a command line that succeeds once the daemon answers.
    pub daemon: Option<[&'static str; 2]>,
    /// Command lines that import the image into a tree; empty if the tool does not import.
    pub import: CommandLines,
    /// Command lines that remove the result of `import`.
    pub forget: CommandLines,
    /// Command lines for containers; `None` if the tool has none.
    pub life: Option<LifeCommands>,
}

/// Command lines for the life of a container.
#[derive(Clone, Copy, Debug)]
pub struct LifeCommands {
    /// Import the image as the base of all rounds; run before the first round.
    pub base: CommandLines,
    /// Create a writable snapshot.
    pub prepare: CommandLines,
    /// Mount the snapshot.
    pub mount: CommandLines,
    /// Location of the tree after `mount`.
    pub tree: TreeLocation,
    /// Unmount the snapshot.
    pub unmount: CommandLines,
    /// Make a layer of the snapshot; empty if the tool makes none.
    pub commit: CommandLines,
    /// Remove the snapshot and the layer.
    pub remove: CommandLines,
    /// Free their space, untimed.
    pub free: CommandLines,
    /// Remove the result of `base`.
    pub end: CommandLines,
}

/// Location of the tree after it was mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeLocation {
    /// At `{target}`.
    Target,
    /// At the path that the mount command prints.
    Printed,
    /// At `{target}`, after the command lines that the mount command prints were run.
    Commands,
}

/// An image on disk, in the forms that tools read.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Directory of an OCI layout.
    pub layout: PathBuf,
    /// The same image as an archive.
    pub file: PathBuf,
    /// Blob of the image's only layer, compressed with gzip.
    pub layer: PathBuf,
    /// Name of the image.
    pub name: String,
    /// Digest of the image's config, in hexadecimal.
    pub id: String,
    /// ChainID of the layer.
    pub chain: String,
}

/// A tool that is measured.
pub struct ToolSubject<'a> {
    profile: SubjectProfile<'a>,
    tool: Tool,
    dir: PathBuf,
    target: PathBuf,
    image: &'a Image,
    /// Placeholders in command lines, and their values.
    words: Vec<(&'static str, String)>,
    _daemon: Option<Daemon>,
}

/// Environment that a tool is measured in.
#[derive(Clone, Debug)]
pub struct ToolSetting<'s, 'a> {
    /// Name of the file system.
    pub fs: &'s str,
    /// The file system whose usage is measured, if it can be.
    pub measured_fs: Option<MeasuredFs>,
    /// An empty directory on the file system, for this tool only.
    pub dir: &'s Path,
    /// An empty directory to mount at.
    pub target: &'s Path,
    /// Path of strata's own program.
    pub strata: &'s Path,
    /// The image on disk.
    pub archive: &'s Archive,
    /// The same image as a value.
    pub image: &'a Image,
}

impl<'a> ToolSubject<'a> {
    /// Sets up `tool` in that environment and starts its daemon.
    ///
    /// # Errors
    /// `Unsupported` if a program is missing; the message names the package. The reason why the daemon does not start.
    pub fn new(tool: Tool, setting: ToolSetting<'_, 'a>) -> Result<Self> {
        let ToolSetting { fs: on, measured_fs, dir, target, strata, archive, image } = setting;
        let shown = |path: &Path| path.display().to_string();
        let words = vec![
            ("{dir}", shown(dir)),
            ("{target}", shown(target)),
            ("{strata}", shown(strata)),
            ("{layout}", shown(&archive.layout)),
            ("{archive}", shown(&archive.file)),
            ("{layer}", shown(&archive.layer)),
            ("{image}", archive.name.clone()),
            ("{id}", archive.id.clone()),
            ("{chain}", archive.chain.clone()),
        ];
        let (profile, dir, target) = (SubjectProfile::new(tool.name), dir.to_owned(), target.to_owned());
        let mut subject = Self { profile, tool, dir, target, image, words, _daemon: None };
        for (name, content) in tool.files {
            let path = subject.dir.join(name);
            fs::write(&path, subject.filled(content)).at("write", &path)?;
        }
        let name = format!("{} {}", tool.name, subject.version()?);
        let (kind, lacks) = (tool.kind.to_owned(), tool.lacks.to_owned());
        let label = Label { kind, lacks, ..Label::new(&name, on, tool.role) };
        subject.profile = SubjectProfile::new(label).with_measured_fs(measured_fs);
        subject._daemon = tool.daemon.map(|[start, ask]| subject.start(start, ask)).transpose()?;
        Ok(subject)
    }

    /// Returns the version of the first program, after checking that all programs exist.
    fn version(&self) -> Result<String> {
        let mut version = String::new();
        for (program, package) in self.tool.programs.iter().rev() {
            let program = self.filled(program);
            let said = self.call(&format!("{program} --version")).map_err(|error| match error.kind() {
                ErrorKind::NotFound => {
                    Error::unsupported(format!("{program} is missing: install the package {package}"))
                }
                _ => error,
            })?;
            version = number(&said).unwrap_or_default().to_owned();
        }
        Ok(version)
    }

    fn filled(&self, text: &str) -> String {
        self.words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    }

    /// Starts the daemon `line`, and waits until the command line `ask` succeeds.
    fn start(&self, line: &str, ask: &str) -> Result<Daemon> {
        let log_path = self.dir.join("log");
        let log = File::create(&log_path).at("make", &log_path)?;
        let also = log.try_clone().at("duplicate", &log_path)?;
        // With a parent-death signal the kernel kills the daemon when this process ends, even if this process is
        // killed.
        let mut command = self.command(&format!("setpriv --pdeathsig KILL -- {line}"));
        let mut daemon = Daemon(command.stdout(also).stderr(log).spawn().at("run", line)?);
        let began = Instant::now();
        loop {
            let failed = match self.call(ask) {
                Ok(_) => return Ok(daemon),
                Err(error) => error,
            };
            let ended = daemon.0.try_wait().at("wait for", line)?;
            if ended.is_some() || began.elapsed() > START_TIME_MAX {
                let said = fs::read_to_string(&log_path).unwrap_or_default();
                let said = said.lines().next_back().unwrap_or_default();
                return Err(Error::precondition(format!("{line} does not start: {said}")).with_source(failed));
            }
            std::thread::sleep(START_PAUSE);
        }
    }

    fn command(&self, line: &str) -> Command {
        let line: Vec<String> = line.split_whitespace().map(|word| self.filled(word)).collect();
        let mut command = Command::new(line.first().map_or("", String::as_str));
        command.args(line.get(1..).unwrap_or_default()).stdin(Stdio::null()).process_group(0);
        command.env("HOME", &self.dir).env("TMPDIR", &self.dir);
        command.envs(self.tool.variables.iter().map(|(name, value)| (name, self.filled(value))));
        command
    }

    /// Runs a command line to its end, and returns its standard output.
    fn call(&self, line: &str) -> Result<String> {
        let mut command = self.command(line);
        let program = command.get_program().to_owned();
        let output = command.output().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!("{} is not installed", program.display())),
            _ => Error::new(ErrorKind::Io, format!("running {}", program.display())).with_source(error),
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().next_back().unwrap_or_default();
        Err(Error::precondition(format!("`{}` failed, {}: {last}", self.filled(line), output.status)))
    }

    /// Runs the command lines of a round one after the other, and returns their standard output.
    fn call_all(&self, lines: CommandLines, round: u64) -> Result<String> {
        lines.iter().try_fold(String::new(), |said, line| {
            let line = line.replace("{key}", &format!("key-{round}")).replace("{name}", &format!("layer-{round}"));
            Ok(said + &self.call(&line)?)
        })
    }

    /// Runs the command lines of a round as one timed step; without command lines nothing is timed.
    fn step(&self, step: &'static str, lines: CommandLines, round: u64, timer: &mut Timer) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        timer.time(step, || self.call_all(lines, round).map(drop))
    }

    fn import(&self, round: u64, timer: &mut Timer) -> Result<()> {
        timer.start_cost()?;
        self.step("import (command)", self.tool.import, round, timer)?;
        timer.stop_cost()?;
        self.call_all(self.tool.forget, round).map(drop)
    }

    fn live(&self, life: &LifeCommands, round: u64, timer: &mut Timer) -> Result<()> {
        timer.start_cost()?;
        self.step("prepare (command)", life.prepare, round, timer)?;
        let tree = timer.time("mount (command)", || self.mount(life, round))?;
        let written = Dir::open(&tree).and_then(|root| workload::write(&root, self.image, round));
        self.step("unmount (command)", life.unmount, round, timer)?;
        written?;
        self.step("commit (command)", life.commit, round, timer)?;
        timer.stop_cost()?;
        self.step("remove (command)", life.remove, round, timer)?;
        self.call_all(life.free, round).map(drop)
    }

    /// Mounts the snapshot, and returns the path of its tree.
    fn mount(&self, life: &LifeCommands, round: u64) -> Result<PathBuf> {
        let said = self.call_all(life.mount, round)?;
        match life.tree {
            TreeLocation::Target => {}
            TreeLocation::Printed => return Ok(PathBuf::from(said.trim())),
            TreeLocation::Commands => said.lines().try_for_each(|line| self.call(line).map(drop))?,
        }
        Ok(self.target.clone())
    }
}

/// Returns the first word that begins with a digit, or with `v` and a digit: the version.
fn number(said: &str) -> Option<&str> {
    let digit = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    said.split_whitespace().map(|word| word.trim_start_matches('v').trim_end_matches(',')).find(digit)
}

impl Subject for ToolSubject<'_> {
    fn profile(&self) -> &SubjectProfile<'_> {
        &self.profile
    }

    fn does(&self, workload: &Workload) -> bool {
        match workload.job() {
            Some(CommandJob::Import) => !self.tool.import.is_empty(),
            Some(CommandJob::Life) => self.tool.life.is_some(),
            None => false,
        }
    }

    fn begin(&self, workload: &Workload) -> Result<()> {
        match (workload.job(), self.tool.life) {
            (Some(CommandJob::Life), Some(life)) => self.call_all(life.base, 0).map(drop),
            _ => Ok(()),
        }
    }

    fn run(&self, workload: &Workload, round: u64, timer: &mut Timer) -> Result<()> {
        match (workload.job(), self.tool.life) {
            (Some(CommandJob::Import), _) => self.import(round, timer),
            (Some(CommandJob::Life), Some(life)) => self.live(&life, round, timer),
            _ => Err(Error::unsupported(format!("{} has no command for this", self.tool.name))),
        }
    }

    fn end(&self, workload: &Workload) -> Result<()> {
        match (workload.job(), self.tool.life) {
            (Some(CommandJob::Life), Some(life)) => self.call_all(life.end, 0).map(drop),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for ToolSubject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolSubject").field("profile", &self.profile).field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A process that is killed on drop.
#[derive(Debug)]
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // The daemon may be killed without a shutdown: its directory is removed afterwards.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests;
