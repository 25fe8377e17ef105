//! What container tools do, as values: each workload is the same work for every contestant, in steps that are timed.
//!
//! Some are about snapshots (`lifecycle`, `deep`, `graph_driver`); others happen in a writable snapshot of the image
//! that is mounted (`writing`, `reading`). Those know nothing of snapshots, so a plain directory can do them too: it is
//! the floor. The rest is done by commands, of which each is a process (`commands`): tools take part in these, and
//! strata as one of them.

mod commands;
mod deep;
mod graph_driver;
mod lifecycle;
mod reading;
mod writing;

pub use commands::{IMPORT, LIFE};
pub(super) use deep::DEPTHS;
pub(super) use graph_driver::Made;
pub(super) use lifecycle::unwrite;
pub use lifecycle::{CONTAINER, DIFF, START, write};
pub use reading::WALK;
pub use writing::{CHOWN, RENAME};

use std::path::Path;

use serde::Serialize;

use super::image::Image;
use super::measure::Timer;
use super::{IMAGE, LARGE, SMALL, Subject};
use crate::error::{Error, Result};
use crate::mount::Mounted;
use crate::snapshotter::Labels;
use crate::tree::Dir;

/// A part of a workload that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// What is timed, in a few words.
    pub about: &'static str,
}

/// Work for a contestant.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// What it is about, in a few words.
    pub about: &'static str,
    /// What is timed.
    pub steps: &'static [Step],
    /// The steps that say most: what a summary is made of.
    pub headlines: &'static [&'static str],
    /// Whether it is among the few of a short run.
    pub quick: bool,
    work: Work,
}

/// Work with a snapshotter.
type SnapshotWork = fn(&Subject<'_>, u64, &mut Timer) -> Result<()>;

/// Work in a tree, which need not be a fresh one.
type TreeWork = fn(&Tree<'_>, u64, &mut Timer) -> Result<()>;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// With a snapshotter.
    Snapshots(SnapshotWork),
    /// The same, over layers of its own.
    Layers(&'static [Made], SnapshotWork),
    /// The same, over layers over layers.
    Stack(SnapshotWork),
    /// In a writable tree.
    Tree { base: Base, state: State, work: TreeWork },
    /// The user's own command in a writable tree.
    Command,
    /// By commands of tools.
    Commands(Job),
}

/// What a tree is like when work in it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A snapshot that nobody wrote to.
    Fresh,
    /// One snapshot for all rounds: they only read.
    Kept,
    /// The same, and nothing of it is in the caches.
    Cold,
}

/// What commands are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// An image becomes a tree.
    Import,
    /// The life of a container.
    Life,
}

/// What has to be there before the first round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// What every contestant has.
    Nothing,
    /// The snapshot of one large file.
    Large,
    /// Layers over layers.
    Stack,
    /// These layers, in this order.
    Layers(&'static [Made]),
    /// A writable snapshot of this, for all rounds.
    Kept(Base),
}

/// What a writable tree starts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The image.
    Image,
    /// A directory with one file: for work that makes files of its own.
    Small,
    /// One large file.
    Large,
}

impl Base {
    /// The name of the committed snapshot.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Image => IMAGE,
            Self::Small => SMALL,
            Self::Large => LARGE,
        }
    }
}

/// How much there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Files that are new in a large layer.
    pub new_files: u64,
    /// Containers that are started together.
    pub containers: u64,
    /// The length of the file that is copied up, in bytes.
    pub large_bytes: u64,
    /// Small files that are written.
    pub small_files: u64,
    /// Transactions of the database-like workload.
    pub transactions: u64,
}

impl Sizes {
    /// What people meet.
    pub const FULL: Self =
        Self { new_files: 10_000, containers: 50, large_bytes: 1 << 30, small_files: 2000, transactions: 100 };

    /// What a run of a few minutes has time and memory for.
    pub const REDUCED: Self = Self { new_files: 2000, containers: 3, large_bytes: 64 << 20, ..Self::FULL };

    /// What a short run has time for.
    pub const QUICK: Self =
        Self { new_files: 1000, containers: 5, large_bytes: 16 << 20, small_files: 500, transactions: 20 };
}

/// A tree to work in.
#[derive(Debug)]
pub struct Tree<'a> {
    /// Its root.
    pub root: Dir,
    /// What the image in it is made of.
    pub image: &'a Image,
    /// How much there is to do.
    pub sizes: Sizes,
}

/// Plain directories, which do the work of a workload without snapshots.
pub(super) trait Floor {
    /// Drops what the kernel has cached of them.
    fn chill(&self) -> Result<()>;

    /// Opens the directory that holds `base`.
    fn open(&self, base: Base) -> Result<Dir>;

    /// Returns the image that [`Base::Image`] holds.
    fn image(&self) -> &Image;

    /// Returns the sizes of the work.
    fn sizes(&self) -> Sizes;

    /// Does what a container's life has without snapshots: a mount, and writing.
    fn bind(&self, round: u64, timer: &mut Timer) -> Result<()>;

    /// Writes the image, and waits until it is on disk, as a snapshotter does.
    fn unpack(&self, timer: &mut Timer) -> Result<()>;
}

impl Workload {
    /// What a run does where nobody says.
    pub const ALL: [Self; 15] = [
        lifecycle::UNPACK,
        CONTAINER,
        DIFF,
        lifecycle::COMMIT_NOTHING,
        lifecycle::COMMIT_MANY,
        START,
        writing::COPY_UP,
        writing::SMALL_FILES,
        writing::FSYNC,
        CHOWN,
        RENAME,
        reading::READ,
        WALK,
        reading::COLD,
        deep::DEEP,
    ];

    /// The published benchmarks of docker's graph drivers, in a correct form.
    pub const GRAPH_DRIVER: [Self; 9] = graph_driver::ALL;

    /// Those that are done by commands.
    pub const COMMANDS: [Self; 2] = [IMPORT, LIFE];

    /// The workload `name`, or all whose names begin with what stands before a `*`.
    ///
    /// # Errors
    /// `InvalidArgument`; the message names those that there are.
    pub fn find(name: &str) -> Result<Vec<Self>> {
        let all = || Self::ALL.into_iter().chain(Self::GRAPH_DRIVER).chain(Self::COMMANDS);
        let found: Vec<Self> = match name.strip_suffix('*') {
            Some(prefix) => all().filter(|workload| workload.name.starts_with(prefix)).collect(),
            None => all().filter(|workload| workload.name == name).collect(),
        };
        if found.is_empty() {
            let names: Vec<&str> = all().map(|workload| workload.name).collect();
            return Err(Error::invalid(format!("{name:?} is no workload: {}", names.join(", "))));
        }
        Ok(found)
    }

    /// A command of the user's, in a writable snapshot of the image: [`Subject::with_command`] says which.
    pub const COMMAND: Self = Self {
        name: "command",
        about: "the command of --run in a writable snapshot of the image",
        steps: &[Step { name: "command", about: "from its start to its end" }],
        headlines: &["command"],
        quick: true,
        work: Work::Command,
    };

    /// Does the work once, with times for `timer`. The same `round` is the same work on every subject, and the subject
    /// is afterwards as before; a round is run once on a subject.
    ///
    /// # Errors
    /// What the snapshotter reports; `DataLoss` if it answers wrongly.
    pub fn run(&self, subject: &Subject<'_>, round: u64, timer: &mut Timer) -> Result<()> {
        match self.work {
            Work::Snapshots(work) | Work::Layers(_, work) | Work::Stack(work) => work(subject, round, timer),
            Work::Tree { base, state, work } => self.in_snapshot(subject, base, state, round, &mut |path| {
                let tree = Tree { root: Dir::open(path)?, image: subject.image, sizes: subject.sizes };
                tree.work(work, round, timer)
            }),
            Work::Command => self.in_snapshot(subject, Base::Image, State::Fresh, round, &mut |path| {
                let command = subject.command.ok_or_else(|| Error::invalid("no command was given"))?;
                timer.tare()?;
                timer.time("command", || command(path))?;
                timer.weigh()
            }),
            Work::Commands(_) => Err(Error::unsupported("this is done by commands")),
        }
    }

    /// Does the work in a plain directory of `floor`.
    pub(super) fn run_plainly(&self, floor: &dyn Floor, round: u64, timer: &mut Timer) -> Result<()> {
        match self.work {
            Work::Tree { base, state, work } => {
                if state == State::Cold {
                    floor.chill()?;
                }
                let tree = Tree { root: floor.open(base)?, image: floor.image(), sizes: floor.sizes() };
                tree.work(work, round, timer)
            }
            _ if self.name == CONTAINER.name => floor.bind(round, timer),
            _ if self.name == lifecycle::UNPACK.name => floor.unpack(timer),
            _ => Err(Error::unsupported("there is no way to do this without snapshots")),
        }
    }

    /// What has to be there before the first round.
    pub(super) fn needs(&self) -> Needs {
        match self.work {
            Work::Tree { base: Base::Large, .. } => Needs::Large,
            Work::Tree { base, state: State::Kept | State::Cold, .. } => Needs::Kept(base),
            Work::Layers(layers, _) => Needs::Layers(layers),
            Work::Stack(_) => Needs::Stack,
            _ => Needs::Nothing,
        }
    }

    /// What is asked of commands; none if it is not for them.
    pub(super) fn job(&self) -> Option<Job> {
        match self.work {
            Work::Commands(job) => Some(job),
            _ => None,
        }
    }

    /// Whether commands do it, and nobody in this process.
    pub fn is_for_commands(&self) -> bool {
        self.job().is_some()
    }

    /// Whether a plain directory can do it.
    pub(super) fn has_floor(&self) -> bool {
        matches!(self.work, Work::Tree { .. }) || [CONTAINER.name, lifecycle::UNPACK.name].contains(&self.name)
    }

    /// The writable snapshot that all rounds use.
    pub(super) fn kept_key(&self) -> String {
        format!("{}-kept", self.name)
    }

    /// Mounts a writable snapshot of `base`, lets `work` use it, and takes it away again.
    fn in_snapshot(
        &self,
        subject: &Subject<'_>,
        base: Base,
        state: State,
        round: u64,
        work: &mut dyn FnMut(&Path) -> Result<()>,
    ) -> Result<()> {
        let (snapshotter, key) = (subject.snapshotter, format!("{}-{round}", self.name));
        let is_fresh = state == State::Fresh;
        if state == State::Cold {
            subject.entry.chill()?;
        }
        let mounts = if is_fresh {
            snapshotter.prepare(&key, base.name(), &Labels::new())?
        } else {
            snapshotter.mounts(&self.kept_key())?
        };
        let mounted = Mounted::new(&mounts, &subject.target)?;
        let done = work(mounted.path());
        let unmounted = mounted.unmount();
        done.and(unmounted)?;
        if is_fresh {
            snapshotter.remove(&key)?;
            snapshotter.cleanup()?;
        }
        Ok(())
    }
}

impl Tree<'_> {
    /// Does `work` here, with times and weights for `timer`.
    fn work(&self, work: TreeWork, round: u64, timer: &mut Timer) -> Result<()> {
        timer.tare()?;
        work(self, round, timer)?;
        timer.weigh()
    }
}
