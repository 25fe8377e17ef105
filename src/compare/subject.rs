//! A snapshotter as a contestant.

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cost::Place;
use super::image::Image;
use super::measure::Timer;
use super::workload::{Base, DEPTHS, Sizes, Workload};
use super::{Contestant, Hook, Label, Role, deep_layer, large_file, small_file};
use crate::changeset::{Change, Sink};
use crate::error::{Error, Result};
use crate::snapshotter::{Labels, Snapshotter};
use crate::tree::{Meta, Node};

/// The longest that a stack of layers may take to make: a strategy that copies everything into each takes for ever.
const STACK_TIME_MAX: Duration = Duration::from_secs(5);

/// What runs in a tree that is mounted at a directory.
pub type Command<'a> = &'a dyn Fn(&Path) -> Result<()>;

/// A snapshotter with the image in it: what workloads run on.
pub struct Subject<'a> {
    label: Label,
    pub(super) snapshotter: &'a dyn Snapshotter,
    pub(super) image: &'a Image,
    pub(super) target: PathBuf,
    pub(super) sizes: Sizes,
    pub(super) command: Option<Command<'a>>,
    /// How many layers lie over each other in [`deep_layer`]s.
    pub(super) depth: Cell<usize>,
    place: Option<Place>,
    chill: Option<Hook<'a>>,
}

impl<'a> Subject<'a> {
    /// Writes `image` into `snapshotter` as a committed snapshot. Workloads mount at `target`, an empty directory that
    /// nobody else uses. The results are shown under `label`.
    ///
    /// # Errors
    /// `AlreadyExists` if the snapshotter has a snapshot of that name; what it reports.
    pub fn new(
        label: impl Into<Label>,
        snapshotter: &'a dyn Snapshotter,
        image: &'a Image,
        target: impl Into<PathBuf>,
    ) -> Result<Self> {
        let subject = Self {
            label: label.into(),
            snapshotter,
            image,
            target: target.into(),
            sizes: Sizes::QUICK,
            command: None,
            depth: Cell::new(0),
            place: None,
            chill: None,
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

    /// Weighs what workloads take on the file system of `place`.
    #[must_use]
    pub fn with_place(self, place: Option<Place>) -> Self {
        Self { place, ..self }
    }

    /// Takes everything out of the caches by `chill`.
    #[must_use]
    pub fn with_chill(self, chill: Hook<'a>) -> Self {
        Self { chill: Some(chill), ..self }
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

    pub(super) fn chill(&self) -> Result<()> {
        super::chill(self.chill)
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
        self.snapshotter.cleanup()
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
    fn label(&self) -> &Label {
        &self.label
    }

    fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    fn does(&self, workload: &Workload) -> bool {
        self.command.is_some() || workload.name != Workload::COMMAND.name
    }

    fn begin(&self, workload: &Workload) -> Result<()> {
        if workload.needs_stack() {
            return self.stack();
        }
        if workload.base() != Some(Base::Large) {
            return Ok(());
        }
        let bytes = self.sizes.large_bytes;
        self.unpack("large-key", Base::Large.name(), &mut |sink| large_file(bytes, sink))
    }

    fn run(&self, workload: &Workload, round: u64, timer: &mut Timer) -> Result<()> {
        workload.run(self, round, timer)
    }

    fn end(&self, workload: &Workload) -> Result<()> {
        if workload.needs_stack() {
            return self.unstack();
        }
        if workload.base() != Some(Base::Large) {
            return Ok(());
        }
        self.snapshotter.remove(Base::Large.name())?;
        self.snapshotter.cleanup()
    }
}

impl From<&str> for Label {
    fn from(strategy: &str) -> Self {
        Self::new(strategy, "", Role::Strategy)
    }
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("label", &self.label).field("target", &self.target).finish_non_exhaustive()
    }
}

/// The error for a file system that cannot be made cold.
pub(super) fn always_warm() -> Error {
    Error::unsupported("this file system cannot be unmounted in between, so nothing can be cold")
}
