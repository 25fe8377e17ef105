//! The command `compare`: compares the strategies on this machine.

mod outputs;
mod place;
mod run;
mod setting;
mod source;
mod text;
mod tools;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::outputs::Outputs;
use self::run::Run;
use self::setting::{MeasuredSetting, Method, fs_of, parse_fs, settings, settings_on};
use self::source::ImageStore;
use super::Done;
use super::interrupt::Interrupt;
use super::output::size;
use super::session::Session;
use crate::backends::Strategies;
use crate::compare::Plan;
use crate::compare::image::Image;
use crate::compare::machine::Machine;
use crate::compare::measure::Timer;
use crate::compare::report::{ImageFigures, Report};
use crate::compare::workload::{Sizes, Workload};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::scratch::FsType;
use crate::mount::{become_root, probe};
use crate::store::Durability;

/// Default number of counted rounds, of a normal and of a quick run.
const SAMPLES: u64 = 10;
const SAMPLES_QUICK: u64 = 5;

/// Maximum time until the last turn begins, unless the number of rounds is given. The turn under way, the report and
/// the cleanup come on top.
const TIME: Duration = Duration::from_secs(155);
const TIME_QUICK: Duration = Duration::from_secs(25);

/// Additional time with other tools.
const TIME_PEERS: Duration = Duration::from_secs(165);
const TIME_PEERS_QUICK: Duration = Duration::from_secs(60);

/// Number of files in the generated image: a Debian base has 6,000.
const FILES: u64 = 6000;
const FILES_QUICK: u64 = 1000;

/// Space for the structures of a file system.
const STRUCTURES_BYTES: u64 = 64 << 20;

/// Number of copies of the image that a tool may hold at once: the image as imported, its tree, and copies of the tree.
const PEER_TREES: u64 = 4;

/// Space that a small file takes.
const BLOCK_BYTES: u64 = 4096;

/// Measure the strategies on this machine
///
/// An image with the shape of a Debian base is unpacked on each strategy, on new file systems in memory that no other
/// process sees. Then workloads are measured on all strategies in turn, beside a plain directory, the floor. The store
/// of --root is not used, and nothing is left behind. Without root, overlay and copy are measured on tmpfs. Settings
/// that the machine does not support are listed with the reason. A run takes less than three minutes, with --quick 30
/// seconds, unless --samples or --full asks for more; --peers adds up to three minutes. Workloads for which the time is
/// short have fewer samples, or are listed as not measured.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  strata compare --html figures.html\n  strata compare --workload copy-up --fs xfs --samples 20\n  \
                  strata compare --peers --workload import,commands --image app.tar"
)]
pub(super) struct Compare {
    /// A short run: the most important workloads and strategies, and a small image
    #[arg(long)]
    quick: bool,
    /// Realistic amounts of work, however long they take: 50 containers, a large file of 1 GiB
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Only these: unpack, container, diff, commit-nothing, commit-many, start, copy-up, small-files, fsync, chown,
    /// rename, read, walk, cold, deep; with --peers also import and commands; and, where they are named,
    /// graph-driver/exists, get-empty, diff-base, diff-small-upper, diff-10k-upper, diff-10k-bottom, diff-apply-100,
    /// diff-20-layers and read-20-layers: docker's published benchmarks, corrected. A name may end in *
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = selection)]
    workload: Vec<Selection>,
    /// Only these
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    strategy: Vec<String>,
    /// Only on these: ext4, xfs, btrfs, tmpfs
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = parse_fs, conflicts_with = "on")]
    fs: Vec<FsType>,
    /// Measure in a directory of a real disk, instead of on file systems in memory
    #[arg(long, value_name = "DIR")]
    on: Option<PathBuf>,
    /// Also measure other tools that are installed, by their commands, and strata by its own: containerd, podman,
    /// umoci, tar, cp, mount, btrfs. Needs root
    #[arg(long, conflicts_with = "on")]
    peers: bool,
    /// This image instead of a made-up one: a file or a directory that import reads. Its layers are merged
    #[arg(long, value_name = "SRC[:REF]", conflicts_with = "files")]
    image: Option<OsString>,
    /// Also measure a command, run by sh with this machine's programs and the caller's rights. Its working directory is
    /// a writable snapshot of the image, but nothing confines it to that directory
    #[arg(long = "run", value_name = "CMD")]
    command: Option<String>,
    /// Number of counted rounds [default: as many as there is time for, at most 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    samples: Option<u64>,
    /// Number of files in the image
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    files: Option<u64>,
    /// Seed of the generated image and of the work: the same seed gives the same work
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

/// The workloads that one name selects.
#[derive(Clone, Debug)]
struct Selection(Vec<Workload>);

fn selection(name: &str) -> Result<Selection> {
    Workload::find(name).map(Selection)
}

impl Compare {
    pub fn run(&self, session: &Session) -> Done {
        self.check()?;
        let outputs = Outputs::check(self)?;
        let is_user = obtain_privilege()?;
        let interrupt = Interrupt::watch(session)?;
        let began = Instant::now();
        let invites = self.peers && !is_user;
        let image_store = if invites || self.image.is_some() { Some(ImageStore::new()?) } else { None };
        let image = self.make_image(image_store.as_ref(), &interrupt)?;
        let by_calls = self.workloads().iter().any(|workload| !workload.is_for_commands());
        let settings = if by_calls { self.settings(session.strategies(), is_user)? } else { Vec::new() };
        self.check_space(&settings, &image)?;
        let mut run = Run {
            interrupt: &interrupt,
            outputs: &outputs,
            bar: run::bar(session)?,
            began,
            plan: self.plan(began),
            report: self.report(&image, session),
            durability: session.config().durability,
            failure: None,
        };
        let archive = match &image_store {
            Some(image_store) if invites => Some(image_store.archive(&image, interrupt.cancel())?),
            _ => None,
        };
        let places = run.prepare(self, &settings)?;
        let own_run = image_store.as_ref().filter(|_| invites).map(run::own_run).transpose()?;
        let guests = match &archive {
            Some(archive) => run.invite(&self.fs, archive, &image)?,
            None => Vec::new(),
        };
        if self.peers && !invites {
            run.absent("other tools".to_owned(), &Error::unsupported("only root can measure them"));
        }
        run.measure(self, &places, &guests, &image)?;
        drop(guests);
        drop(own_run);
        run.finish(session)
    }

    /// Checks that the arguments are compatible.
    fn check(&self) -> Result<()> {
        let by_commands = self.workload.iter().flat_map(|named| &named.0).find(|workload| workload.is_for_commands());
        match by_commands {
            Some(Workload { name, .. }) if !self.peers => {
                Err(Error::invalid(format!("the workload {name} is done by the commands of tools: say --peers, too")))
            }
            _ => Ok(()),
        }
    }

    fn make_image(&self, image_store: Option<&ImageStore>, interrupt: &Interrupt) -> Result<Image> {
        match (&self.image, image_store) {
            (Some(source), Some(image_store)) => image_store.image(source, self.seed, interrupt.cancel()),
            _ => Ok(Image::new(self.files(), u64::MAX, self.seed)),
        }
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

    fn plan(&self, began: Instant) -> Plan {
        let (samples, time, more) = match self.quick {
            true => (SAMPLES_QUICK, TIME_QUICK, TIME_PEERS_QUICK),
            false => (SAMPLES, TIME, TIME_PEERS),
        };
        let time = time + if self.peers { more } else { Duration::ZERO };
        let is_bounded = self.samples.is_none() && !self.full;
        Plan { samples: self.samples.unwrap_or(samples), end: is_bounded.then(|| began + time) }
    }

    fn workloads(&self) -> Vec<Workload> {
        let mut workloads: Vec<Workload> = self.workload.iter().flat_map(|named| named.0.clone()).collect();
        if workloads.is_empty() {
            workloads.extend(Workload::COMMANDS.into_iter().filter(|_| self.peers));
            workloads.extend(Workload::ALL.into_iter().filter(|workload| !self.quick || workload.quick));
        }
        workloads.extend(self.command.is_some().then_some(Workload::COMMAND));
        workloads
    }

    /// Returns the settings to measure; without root only tmpfs can be created.
    fn settings(&self, table: &Strategies, is_user: bool) -> Result<Vec<MeasuredSetting>> {
        let methods = Method::all(table, &self.strategy);
        let fs = if is_user && self.fs.is_empty() { &[FsType::Tmpfs] } else { self.fs.as_slice() };
        let named = !self.strategy.is_empty() || !fs.is_empty();
        let Some(dir) = &self.on else { return Ok(settings(&methods, fs, named, self.quick, self.full)) };
        let dir = std::path::absolute(dir).at("find", dir)?;
        Ok(settings_on(&methods, &fs_of(&dir)?))
    }

    /// Returns an upper bound of the bytes that a setting uses.
    fn needs(&self, setting: &MeasuredSetting, image: &Image) -> u64 {
        let sizes = self.sizes();
        if !setting.can_be() {
            return structures_of(setting);
        }
        let trees = if setting.method.copies() { 2 + sizes.containers } else { 2 };
        let blocks = blocks_of(image);
        let new_files = sizes.new_files * BLOCK_BYTES * 2;
        trees * blocks + 2 * sizes.large_bytes + new_files + structures_of(setting)
    }

    /// Checks the free space, so that a run is refused instead of being killed or stopped by a full disk.
    fn check_space(&self, settings: &[MeasuredSetting], image: &Image) -> Result<()> {
        let peers = if self.peers { tools::TOOLS.len() as u64 * PEER_TREES * blocks_of(image) } else { 0 };
        let needed = settings.iter().map(|setting| self.needs(setting, image)).sum::<u64>() + peers;
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
                    "the comparison takes up to {} of {what}, and {} is available: choose fewer --files, --strategy, --fs, \
                     no --peers, or --quick",
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
            image: ImageFigures {
                source: match &self.image {
                    Some(source) => format!("{}, its layers merged", source.display()),
                    None => "made up, with the shape of a Debian base".to_owned(),
                },
                files: image.files().len() as u64,
                inodes: image.inodes(),
                size_bytes: image.size_bytes(),
                seed: self.seed,
            },
            sizes: self.sizes(),
            samples: self.plan(Instant::now()).samples,
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

/// Returns the space that the image takes on a file system.
fn blocks_of(image: &Image) -> u64 {
    image.size_bytes() + image.inodes() * BLOCK_BYTES
}

/// Returns the space that the file system of a setting takes for itself.
fn structures_of(setting: &MeasuredSetting) -> u64 {
    if setting.fresh.is_some() { STRUCTURES_BYTES } else { 0 }
}

/// Makes sure that the caller may mount, if necessary in a new user namespace. Returns true in a user namespace.
fn obtain_privilege() -> Result<bool> {
    if rustix::process::geteuid().is_root() {
        return probe::in_user_namespace();
    }
    become_root().map(|()| true).map_err(|error| {
        let message = "strata compare mounts file systems: run it as root, or where users may make user namespaces";
        Error::new(ErrorKind::PermissionDenied, message).with_source(error)
    })
}

#[cfg(test)]
mod tests;
