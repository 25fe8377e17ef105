//! A snapshotter as a contestant.

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::image::Image;
use super::measure::Timer;
use super::workload::{Base, DEPTHS, Needs, Sizes, Workload};
use super::{Contestant, Entry, deep_layer, large_file, small_file};
use crate::changeset::{Change, Sink};
use crate::error::Result;
use crate::snapshotter::{Labels, Snapshotter};
use crate::tree::{Meta, Node};

/// The longest that a stack of layers may take to make: a strategy that copies everything into each takes for ever.
const STACK_TIME_MAX: Duration = Duration::from_secs(3);

/// What runs in a tree that is mounted at a directory.
pub type Command<'a> = &'a dyn Fn(&Path) -> Result<()>;

/// A snapshotter with the image in it: what workloads run on.
pub struct Subject<'a> {
    pub(super) entry: Entry<'a>,
    pub(super) snapshotter: &'a dyn Snapshotter,
    pub(super) image: &'a Image,
    pub(super) target: PathBuf,
    pub(super) sizes: Sizes,
    pub(super) command: Option<Command<'a>>,
    /// How many layers lie over each other in [`deep_layer`]s.
    pub(super) depth: Cell<usize>,
}

impl<'a> Subject<'a> {
    /// Writes `image` into `snapshotter` as a committed snapshot. Workloads mount at `target`, an empty directory that
    /// nobody else uses. The results are shown under the label of `entry`.
    ///
    /// # Errors
    /// `AlreadyExists` if the snapshotter has a snapshot of that name; what it reports.
    pub fn new(
        entry: impl Into<Entry<'a>>,
        snapshotter: &'a dyn Snapshotter,
        image: &'a Image,
        target: impl Into<PathBuf>,
    ) -> Result<Self> {
        let subject = Self {
            entry: entry.into(),
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

    /// Does so much, instead of the little of a short run.
    #[must_use]
    pub fn with_sizes(self, sizes: Sizes) -> Self {
        Self { sizes, ..self }
    }

    /// Runs `command` for [`Workload::COMMAND`], and nobody else does.
    #[must_use]
    pub fn with_command(self, command: Option<Command<'a>>) -> Self {
        Self { command, ..self }
    }

    /// The snapshotter.
    pub fn snapshotter(&self) -> &'a dyn Snapshotter {
        self.snapshotter
    }

    /// Makes the committed snapshot `name` of what `produce` gives.
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

    /// Stacks layers as high as there is time for, or as the strategy can.
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
    // Of no meaning to anybody but containerd, whose collector would take what it does not know.
    Labels::from([("containerd.io/gc.root".to_owned(), "strata compare".to_owned())])
}

/// A small file.
pub(super) fn one_file(name: &str, content: &[u8], sink: &mut dyn Sink) -> Result<()> {
    let node = Node::File { size: content.len() as u64 };
    let meta = Meta { node, mode: 0o644, ..Meta::implied_dir() };
    sink.change(&Change::Put { path: name.into(), existed: false, meta }, &mut &*content)
}

impl Contestant for Subject<'_> {
    fn entry(&self) -> &Entry<'_> {
        &self.entry
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

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("entry", &self.entry).field("target", &self.target).finish_non_exhaustive()
    }
}
