//! The workloads, as values: each is the same work for every subject, in steps that are timed.
//!
//! The modules `lifecycle`, `deep` and `graph_driver` work on snapshots. The modules `writing` and `reading` work in a
//! mounted writable snapshot of the image; they know nothing of snapshots, so a plain directory can run them too, as
//! the floor. In `commands` each step is a process; tools run these workloads, and strata runs them with its own
//! command.

mod commands;
mod deep;
mod graph_driver;
mod lifecycle;
mod reading;
mod writing;

pub use commands::{IMPORT, LIFE};
pub(super) use deep::DEPTHS;
pub(super) use graph_driver::MadeLayer;
pub(super) use lifecycle::unwrite;
pub use lifecycle::{CONTAINER, DIFF, START, write};
pub use reading::WALK;
pub use writing::{CHOWN, RENAME};

use std::path::Path;

use serde::Serialize;

use super::image::Image;
use super::measure::Timer;
use super::{IMAGE, LARGE, SMALL, SnapshotterSubject};
use crate::error::{Error, Result};
use crate::mount::Mounted;
use crate::snapshotter::Labels;
use crate::tree::Dir;

/// A timed part of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WorkloadStep {
    /// Name of the step.
    pub name: &'static str,
    /// Short description of the timed work.
    pub about: &'static str,
}

/// Work for a subject.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Name of the workload.
    pub name: &'static str,
    /// Short description of the work.
    pub about: &'static str,
    /// Timed steps.
    pub steps: &'static [WorkloadStep],
    /// Names of the most important steps; the summary is made from them.
    pub headlines: &'static [&'static str],
    /// True if a short run includes the workload.
    pub quick: bool,
    work: Work,
}

/// Work with a snapshotter.
type SnapshotWork = fn(&SnapshotterSubject<'_>, u64, &mut Timer) -> Result<()>;

/// Work in a tree, which may have been used before.
type TreeWork = fn(&WorkloadTree<'_>, u64, &mut Timer) -> Result<()>;

/// Kind of work.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// Work with a snapshotter.
    Snapshots(SnapshotWork),
    /// Work with a snapshotter, over layers that are created for the workload.
    Layers(&'static [MadeLayer], SnapshotWork),
    /// Work with a snapshotter, over the stack of layers.
    Stack(SnapshotWork),
    /// Work in a writable tree.
    InTree { base: Base, state: TreeState, work: TreeWork },
    /// The user's command, in a writable tree.
    Command,
    /// Work by commands of tools.
    Commands(CommandJob),
}

/// State of a tree when work in it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TreeState {
    /// A new snapshot, not written to.
    Fresh,
    /// One snapshot for all rounds, which only read.
    Kept,
    /// One snapshot for all rounds, without any of its data in caches.
    Cold,
}

/// Work that commands do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandJob {
    /// Import of an image into a tree.
    Import,
    /// The life of a container.
    Life,
}

/// Preparation before the first round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// None beyond what every subject has.
    Nothing,
    /// The snapshot with one large file.
    Large,
    /// The stack of layers.
    Stack,
    /// These layers, in this order.
    Layers(&'static [MadeLayer]),
    /// A writable snapshot of this base, for all rounds.
    Kept(Base),
}

/// Initial content of a writable tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The image.
    Image,
    /// A directory with one file, for workloads that create their own files.
    Small,
    /// One large file.
    Large,
}

impl Base {
    /// Returns the name of the committed snapshot.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Image => IMAGE,
            Self::Small => SMALL,
            Self::Large => LARGE,
        }
    }
}

/// Amount of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Number of new files in a large layer.
    pub new_files: u64,
    /// Number of containers that are started together.
    pub containers: u64,
    /// Length of the file that is copied up, in bytes.
    pub large_bytes: u64,
    /// Number of small files that are written.
    pub small_files: u64,
    /// Number of transactions of the database-like workload.
    pub transactions: u64,
}

impl Sizes {
    /// Realistic amounts.
    pub const FULL: Self =
        Self { new_files: 10_000, containers: 50, large_bytes: 1 << 30, small_files: 2000, transactions: 100 };

    /// Amounts for a run of a few minutes with limited memory.
    pub const REDUCED: Self = Self { new_files: 2000, containers: 3, large_bytes: 64 << 20, ..Self::FULL };

    /// Amounts for a short run.
    pub const QUICK: Self =
        Self { new_files: 1000, containers: 5, large_bytes: 16 << 20, small_files: 500, transactions: 20 };
}

/// A tree to work in.
#[derive(Debug)]
pub struct WorkloadTree<'a> {
    /// Root of the tree.
    pub root: Dir,
    /// The image in the tree.
    pub image: &'a Image,
    /// Amount of work.
    pub sizes: Sizes,
}

/// Plain directories, which do the work of a workload without snapshots.
pub(super) trait Floor {
    /// Drops what the kernel has cached of them.
    fn drop_caches(&self) -> Result<()>;

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
    /// Workloads of a run that names none.
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

    /// The published benchmarks of docker's graph drivers, corrected.
    pub const GRAPH_DRIVER: [Self; 9] = graph_driver::ALL;

    /// Workloads that are run by commands.
    pub const COMMANDS: [Self; 2] = [IMPORT, LIFE];

    /// Returns the workload `name`, or all workloads whose names begin with the text before a final `*`.
    ///
    /// # Errors
    /// `InvalidArgument`; the message lists the existing names.
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

    /// Runs a command of the user in a writable snapshot of the image; [`SnapshotterSubject::with_command`] sets the
    /// command.
    pub const COMMAND: Self = Self {
        name: "command",
        about: "the command of --run in a writable snapshot of the image",
        steps: &[WorkloadStep { name: "command", about: "from its start to its end" }],
        headlines: &["command"],
        quick: true,
        work: Work::Command,
    };

    /// Runs the work once and records times in `timer`. The same `round` is the same work on every subject, and each
    /// round is run once on a subject. The work undoes its changes to the subject.
    ///
    /// # Errors
    /// Errors of the snapshotter; `DataLoss` if its results are wrong.
    pub fn run(&self, subject: &SnapshotterSubject<'_>, round: u64, timer: &mut Timer) -> Result<()> {
        match self.work {
            Work::Snapshots(work) | Work::Layers(_, work) | Work::Stack(work) => work(subject, round, timer),
            Work::InTree { base, state, work } => self.in_snapshot(subject, base, state, round, &mut |path| {
                let tree = WorkloadTree { root: Dir::open(path)?, image: subject.image, sizes: subject.sizes };
                tree.work(work, round, timer)
            }),
            Work::Command => self.in_snapshot(subject, Base::Image, TreeState::Fresh, round, &mut |path| {
                let command = subject.command.ok_or_else(|| Error::invalid("no command was given"))?;
                timer.start_cost()?;
                timer.time("command", || command(path))?;
                timer.stop_cost()
            }),
            Work::Commands(_) => Err(Error::unsupported("this is done by commands")),
        }
    }

    /// Runs the work in a plain directory of `floor`.
    pub(super) fn run_in_directory(&self, floor: &dyn Floor, round: u64, timer: &mut Timer) -> Result<()> {
        match self.work {
            Work::InTree { base, state, work } => {
                if state == TreeState::Cold {
                    floor.drop_caches()?;
                }
                let tree = WorkloadTree { root: floor.open(base)?, image: floor.image(), sizes: floor.sizes() };
                tree.work(work, round, timer)
            }
            _ if self.name == CONTAINER.name => floor.bind(round, timer),
            _ if self.name == lifecycle::UNPACK.name => floor.unpack(timer),
            _ => Err(Error::unsupported("there is no way to do this without snapshots")),
        }
    }

    /// Returns the preparation that the work needs before the first round.
    pub(super) fn needs(&self) -> Needs {
        match self.work {
            Work::InTree { base: Base::Large, .. } => Needs::Large,
            Work::InTree { base, state: TreeState::Kept | TreeState::Cold, .. } => Needs::Kept(base),
            Work::Layers(layers, _) => Needs::Layers(layers),
            Work::Stack(_) => Needs::Stack,
            _ => Needs::Nothing,
        }
    }

    /// Returns the work for commands, or `None` if the workload is not run by commands.
    pub(super) fn job(&self) -> Option<CommandJob> {
        match self.work {
            Work::Commands(job) => Some(job),
            _ => None,
        }
    }

    /// Returns true if the workload is run by commands, and never in this process.
    pub fn is_for_commands(&self) -> bool {
        self.job().is_some()
    }

    /// Returns true if a plain directory can run the workload.
    pub(super) fn has_floor(&self) -> bool {
        matches!(self.work, Work::InTree { .. }) || [CONTAINER.name, lifecycle::UNPACK.name].contains(&self.name)
    }

    /// Returns the key of the writable snapshot that all rounds use.
    pub(super) fn kept_key(&self) -> String {
        format!("{}-kept", self.name)
    }

    /// Mounts a writable snapshot of `base`, runs `work` in it, and unmounts and removes it.
    fn in_snapshot(
        &self,
        subject: &SnapshotterSubject<'_>,
        base: Base,
        state: TreeState,
        round: u64,
        work: &mut dyn FnMut(&Path) -> Result<()>,
    ) -> Result<()> {
        let (snapshotter, key) = (subject.snapshotter, format!("{}-{round}", self.name));
        let is_fresh = state == TreeState::Fresh;
        if state == TreeState::Cold {
            subject.profile.drop_caches()?;
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

impl WorkloadTree<'_> {
    /// Runs `work` in the tree, recording times and cost in `timer`.
    fn work(&self, work: TreeWork, round: u64, timer: &mut Timer) -> Result<()> {
        timer.start_cost()?;
        work(self, round, timer)?;
        timer.stop_cost()
    }
}
