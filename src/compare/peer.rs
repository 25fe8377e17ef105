//! Other tools as contestants: what they are told, step by step.
//!
//! A [`Tool`] is a value: its command lines. A [`Peer`] is a tool in a directory of its own, with an image to work
//! with. It does the workloads of which each step is a command, so that starting a process is part of everybody's
//! figure; a step that a tool cannot do in earnest it leaves out.
//!
//! # Command lines
//! Words with spaces between them. In each word stand `{dir}` for the directory that the peer keeps everything in,
//! `{target}` for one to mount at, `{key}` and `{name}` for the writable snapshot and the layer of the round,
//! `{strata}` for strata's own program, and `{layout}`, `{archive}`, `{layer}`, `{image}`, `{id}` and `{chain}` for
//! what [`Archive`] has.
//!
//! # Isolation
//! Tools are told by options, files and variables to keep to their directory. Their processes are in process groups of
//! their own: a Ctrl-C on the terminal ends the run between two of them. What has to run meanwhile ends with the peer,
//! and with this process, however that ends.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::cost::Place;
use super::image::Image;
use super::measure::Timer;
use super::workload::{self, Job, Workload};
use super::{Contestant, Entry, Label, Role};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::tree::Dir;

/// How long a program may take until it can be asked.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// How often it is tried.
const START_PAUSE: Duration = Duration::from_millis(50);

/// Command lines, one after the other.
pub type Lines = &'static [&'static str];

/// What a tool is called, what it needs, and its command lines.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Its name; results are shown under it with its version.
    pub name: &'static str,
    /// The strategy that it is like, as in [`Label::kind`].
    pub kind: &'static str,
    /// What it is to the comparison.
    pub role: Role,
    /// What it does not do that others do, as in [`Label::lacks`].
    pub lacks: &'static str,
    /// The programs that it needs, each with the package that has it. The first one's version is the tool's.
    pub programs: &'static [(&'static str, &'static str)],
    /// Variables of its environment.
    pub variables: &'static [(&'static str, &'static str)],
    /// Files in its directory, with their content.
    pub files: &'static [(&'static str, &'static str)],
    /// What has to run meanwhile, and what succeeds once that can be asked.
    pub daemon: Option<[&'static str; 2]>,
    /// Turns the image into a tree; empty if the tool does not.
    pub import: Lines,
    /// Takes away what that made.
    pub forget: Lines,
    /// What it does with containers.
    pub life: Option<Life>,
}

/// Command lines for the life of a container.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Makes the image something to stand on, before the first round.
    pub base: Lines,
    /// Makes a writable snapshot.
    pub prepare: Lines,
    /// Mounts it.
    pub mount: Lines,
    /// Where it is then.
    pub tree: Tree,
    /// Unmounts it.
    pub unmount: Lines,
    /// Makes a layer of it; empty if the tool makes none.
    pub commit: Lines,
    /// Removes what there is.
    pub remove: Lines,
    /// Frees its space, untimed.
    pub free: Lines,
    /// Takes away what `base` made.
    pub end: Lines,
}

/// Where the tree is after it was mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// At the target.
    Target,
    /// Where the tool says.
    Printed,
    /// At the target once the commands ran that the tool prints.
    Commands,
}

/// An image that lies ready for tools, in the forms that they read.
#[derive(Clone, Debug)]
pub struct Archive {
    /// The directory of an OCI layout.
    pub layout: PathBuf,
    /// The same as an archive.
    pub file: PathBuf,
    /// The blob of its one layer, compressed by gzip.
    pub layer: PathBuf,
    /// Its name.
    pub name: String,
    /// The digest of its config, in hexadecimal.
    pub id: String,
    /// The ChainID of its layer.
    pub chain: String,
}

/// A tool that takes part.
pub struct Peer<'a> {
    entry: Entry<'a>,
    tool: Tool,
    dir: PathBuf,
    target: PathBuf,
    image: &'a Image,
    /// What stands for what in command lines.
    words: Vec<(&'static str, String)>,
    _daemon: Option<Daemon>,
}

/// What a tool is measured with.
#[derive(Clone, Debug)]
pub struct Setting<'s, 'a> {
    /// The file system, by name.
    pub fs: &'s str,
    /// What can be weighed of it.
    pub place: Option<Place>,
    /// An empty directory on it, which the tool has for itself.
    pub dir: &'s Path,
    /// An empty directory to mount at.
    pub target: &'s Path,
    /// strata's own program.
    pub strata: &'s Path,
    /// The image for tools,
    pub archive: &'s Archive,
    /// and what is in it.
    pub image: &'a Image,
}

impl<'a> Peer<'a> {
    /// `tool` in that setting.
    ///
    /// # Errors
    /// `Unsupported` if a program is missing, naming its package; why the program that has to run does not.
    pub fn new(tool: Tool, setting: Setting<'_, 'a>) -> Result<Self> {
        let Setting { fs: on, place, dir, target, strata, archive, image } = setting;
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
        let (entry, dir, target) = (Entry::new(tool.name), dir.to_owned(), target.to_owned());
        let mut peer = Self { entry, tool, dir, target, image, words, _daemon: None };
        for (name, content) in tool.files {
            let path = peer.dir.join(name);
            fs::write(&path, peer.filled(content)).at("write", &path)?;
        }
        let name = format!("{} {}", tool.name, peer.version()?);
        let (kind, lacks) = (tool.kind.to_owned(), tool.lacks.to_owned());
        let label = Label { kind, lacks, ..Label::new(&name, on, tool.role) };
        peer.entry = Entry::new(label).with_place(place);
        peer._daemon = tool.daemon.map(|[start, ask]| peer.start(start, ask)).transpose()?;
        Ok(peer)
    }

    /// The version of the first program; all have to be there.
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

    /// Starts what has to run meanwhile, and waits until it can be asked.
    fn start(&self, line: &str, ask: &str) -> Result<Daemon> {
        let log_path = self.dir.join("log");
        let log = File::create(&log_path).at("make", &log_path)?;
        let also = log.try_clone().at("duplicate", &log_path)?;
        // By the kernel it ends with this process, even if that is killed.
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

    /// Runs a command line to its end, and answers what it printed.
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

    /// Runs command lines for a round, one after the other, and answers what all of them printed.
    fn call_all(&self, lines: Lines, round: u64) -> Result<String> {
        lines.iter().try_fold(String::new(), |said, line| {
            let line = line.replace("{key}", &format!("key-{round}")).replace("{name}", &format!("layer-{round}"));
            Ok(said + &self.call(&line)?)
        })
    }

    /// The same as a step, unless there is nothing to do.
    fn step(&self, step: &'static str, lines: Lines, round: u64, timer: &mut Timer) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        timer.time(step, || self.call_all(lines, round).map(drop))
    }

    fn import(&self, round: u64, timer: &mut Timer) -> Result<()> {
        timer.tare()?;
        self.step("import (command)", self.tool.import, round, timer)?;
        timer.weigh()?;
        self.call_all(self.tool.forget, round).map(drop)
    }

    fn live(&self, life: &Life, round: u64, timer: &mut Timer) -> Result<()> {
        timer.tare()?;
        self.step("prepare (command)", life.prepare, round, timer)?;
        let tree = timer.time("mount (command)", || self.mount(life, round))?;
        let written = Dir::open(&tree).and_then(|root| workload::write(&root, self.image, round));
        self.step("unmount (command)", life.unmount, round, timer)?;
        written?;
        self.step("commit (command)", life.commit, round, timer)?;
        timer.weigh()?;
        self.step("remove (command)", life.remove, round, timer)?;
        self.call_all(life.free, round).map(drop)
    }

    /// Mounts, and answers where the tree is.
    fn mount(&self, life: &Life, round: u64) -> Result<PathBuf> {
        let said = self.call_all(life.mount, round)?;
        match life.tree {
            Tree::Target => {}
            Tree::Printed => return Ok(PathBuf::from(said.trim())),
            Tree::Commands => said.lines().try_for_each(|line| self.call(line).map(drop))?,
        }
        Ok(self.target.clone())
    }
}

/// The first word that begins with a digit, or with a `v` and a digit: a version.
fn number(said: &str) -> Option<&str> {
    let digit = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    said.split_whitespace().map(|word| word.trim_start_matches('v').trim_end_matches(',')).find(digit)
}

impl Contestant for Peer<'_> {
    fn entry(&self) -> &Entry<'_> {
        &self.entry
    }

    fn does(&self, workload: &Workload) -> bool {
        match workload.job() {
            Some(Job::Import) => !self.tool.import.is_empty(),
            Some(Job::Life) => self.tool.life.is_some(),
            None => false,
        }
    }

    fn begin(&self, workload: &Workload) -> Result<()> {
        match (workload.job(), self.tool.life) {
            (Some(Job::Life), Some(life)) => self.call_all(life.base, 0).map(drop),
            _ => Ok(()),
        }
    }

    fn run(&self, workload: &Workload, round: u64, timer: &mut Timer) -> Result<()> {
        match (workload.job(), self.tool.life) {
            (Some(Job::Import), _) => self.import(round, timer),
            (Some(Job::Life), Some(life)) => self.live(&life, round, timer),
            _ => Err(Error::unsupported(format!("{} has no command for this", self.tool.name))),
        }
    }

    fn end(&self, workload: &Workload) -> Result<()> {
        match (workload.job(), self.tool.life) {
            (Some(Job::Life), Some(life)) => self.call_all(life.end, 0).map(drop),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("entry", &self.entry).field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A program that runs until this is dropped.
#[derive(Debug)]
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // What it keeps goes with its directory, so there is nothing that it would have to bring to an end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests;
