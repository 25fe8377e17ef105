//! A snapshotter as a subject.

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::image::Image;
use super::measure::Timer;
use super::workload::{Base, DEPTHS, Needs, Sizes, Workload};
use super::{Subject, SubjectProfile, deep_layer, large_file, small_file};
use crate::changeset::{Change, Sink};
use crate::error::Result;
use crate::snapshotter::{Labels, Snapshotter};
use crate::tree::{Meta, Node};

/// Time limit for building the stack of layers: a strategy that copies all files into each layer would take very long.
const STACK_TIME_MAX: Duration = Duration::from_secs(3);

/// A function that runs in a tree mounted at the given directory.
pub type Command<'a> = &'a dyn Fn(&Path) -> Result<()>;

/// A snapshotter that holds the image.
pub struct SnapshotterSubject<'a> {
    pub(super) profile: SubjectProfile<'a>,
    pub(super) snapshotter: &'a dyn Snapshotter,
    pub(super) image: &'a Image,
    pub(super) target: PathBuf,
    pub(super) sizes: Sizes,
    pub(super) command: Option<Command<'a>>,
    /// Number of [`deep_layer`]s in the stack.
    pub(super) depth: Cell<usize>,
}

impl<'a> SnapshotterSubject<'a> {
    /// Writes `image` into `snapshotter` as a committed snapshot. Workloads mount at `target`, an empty directory that
    /// no other process uses. Results are shown under the label of `profile`.
    ///
    /// # Errors
    /// `AlreadyExists` if the snapshotter already has a snapshot of that name; other errors of the snapshotter.
    pub fn new(
        profile: impl Into<SubjectProfile<'a>>,
        snapshotter: &'a dyn Snapshotter,
        image: &'a Image,
        target: impl Into<PathBuf>,
    ) -> Result<Self> {
        let subject = Self {
            profile: profile.into(),
            snapshotter,
            image,
            target: target.into(),
            sizes: Sizes::QUICK,
            command: None,
            depth: Cell::new(0),
        };
        subject.unpack("unpack", Base::Image.name(), &mut |sink| image.produce(sink))?;
        subject.unpack("unpack", Base::Small.name(), &mut small_file)?;
        Ok(subject)
    }

    /// Sets the amount of work; the default is that of a short run.
    #[must_use]
    pub fn with_sizes(self, sizes: Sizes) -> Self {
        Self { sizes, ..self }
    }

    /// Sets the function that [`Workload::COMMAND`] runs; without it the subject cannot run that workload.
    #[must_use]
    pub fn with_command(self, command: Option<Command<'a>>) -> Self {
        Self { command, ..self }
    }

    /// Returns the snapshotter.
    pub fn snapshotter(&self) -> &'a dyn Snapshotter {
        self.snapshotter
    }

    /// Creates the committed snapshot `name` with the content that `produce` writes.
    pub(super) fn unpack(
        &self,
        key: &str,
        name: &str,
        produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
    ) -> Result<()> {
        self.layer(key, "", name, produce)
    }

    fn layer(
        &self,
        key: &str,
        parent: &str,
        name: &str,
        produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
    ) -> Result<()> {
        self.snapshotter.prepare(key, parent, &labels())?;
        self.snapshotter.apply(key, produce)?;
        self.snapshotter.commit(name, key, &labels())
    }

    /// Stacks layers until the time limit, the greatest depth, or the strategy's own limit is reached.
    fn stack(&self) -> Result<()> {
        let began = Instant::now();
        for depth in 1..=DEPTHS[DEPTHS.len() - 1] {
            if began.elapsed() > STACK_TIME_MAX {
                return Ok(());
            }
            let parent = if depth == 1 { String::new() } else { deep_layer(depth - 1) };
            let name = deep_layer(depth);
            self.layer("deep", &parent, &name, &mut |sink| one_file(&name, name.as_bytes(), sink))?;
            self.depth.set(depth);
        }
        Ok(())
    }

    fn unstack(&self) -> Result<()> {
        for depth in (1..=self.depth.replace(0)).rev() {
            self.snapshotter.remove(&deep_layer(depth))?;
        }
        Ok(())
    }
}

fn labels() -> Labels {
    // Only containerd reads this label: its garbage collector removes snapshots that nothing refers to.
    Labels::from([("containerd.io/gc.root".to_owned(), "strata compare".to_owned())])
}

/// Writes a small file into `sink`.
pub(super) fn one_file(name: &str, content: &[u8], sink: &mut dyn Sink) -> Result<()> {
    let node = Node::File { size: content.len() as u64 };
    let meta = Meta { node, mode: 0o644, ..Meta::implied_dir() };
    sink.change(&Change::Put { path: name.into(), existed: false, meta }, &mut &*content)
}

impl Subject for SnapshotterSubject<'_> {
    fn profile(&self) -> &SubjectProfile<'_> {
        &self.profile
    }

    fn does(&self, workload: &Workload) -> bool {
        let is_the_users = workload.name == Workload::COMMAND.name;
        !workload.is_for_commands() && (self.command.is_some() || !is_the_users)
    }

    fn begin(&self, workload: &Workload) -> Result<()> {
        match workload.needs() {
            Needs::Nothing => Ok(()),
            Needs::Stack => self.stack(),
            Needs::Large => {
                let bytes = self.sizes.large_bytes;
                self.unpack("large-key", Base::Large.name(), &mut |sink| large_file(bytes, sink))
            }
            Needs::Layers(layers) => layers
                .iter()
                .try_for_each(|made| self.layer("making", made.parent, made.name, &mut |sink| made.produce(sink))),
            Needs::Kept(base) => self.snapshotter.prepare(&workload.kept_key(), base.name(), &labels()).map(drop),
        }
    }

    fn run(&self, workload: &Workload, round: u64, timer: &mut Timer) -> Result<()> {
        workload.run(self, round, timer)
    }

    fn end(&self, workload: &Workload) -> Result<()> {
        match workload.needs() {
            Needs::Nothing => return Ok(()),
            Needs::Stack => self.unstack()?,
            Needs::Large => self.snapshotter.remove(Base::Large.name())?,
            Needs::Layers(layers) => layers.iter().rev().try_for_each(|made| self.snapshotter.remove(made.name))?,
            Needs::Kept(_) => self.snapshotter.remove(&workload.kept_key())?,
        }
        self.snapshotter.cleanup()
    }
}

impl fmt::Debug for SnapshotterSubject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotterSubject")
            .field("profile", &self.profile)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}
