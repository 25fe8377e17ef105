//! What container tools do, as values: each workload is the same work for every subject, in steps that are timed.

use std::io::{Read, Write as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use super::image::{Image, Random};
use super::measure::Timer;
use super::{IMAGE, Subject};
use crate::changeset::Change;
use crate::error::{Context, Error, Result};
use crate::mount::Mounted;
use crate::snapshotter::Labels;
use crate::tree::{Dir, FileType};

/// Files of the image that a round appends to.
const APPENDED_FILES: u64 = 5;

/// Files that a round makes.
const NEW_FILES: u64 = 5;

/// What is appended, and what a new file holds: a page.
const WRITTEN_BYTES: u64 = 4096;

/// A part of a workload that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// What is timed, in a few words.
    pub about: &'static str,
}

/// Work for a subject.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// What is timed.
    pub steps: &'static [Step],
    work: fn(&Subject<'_>, u64, &mut Timer) -> Result<()>,
}

impl Workload {
    /// Every workload.
    pub const ALL: [Self; 2] = [CONTAINER, DIFF];

    /// Does the work once, with times for `timer`. The same `round` is the same work on every subject, and the subject is
    /// afterwards as before; a round is run once on a subject.
    ///
    /// # Errors
    /// What the snapshotter reports; `DataLoss` if it answers wrongly.
    pub fn run(&self, subject: &Subject<'_>, round: u64, timer: &mut Timer) -> Result<()> {
        (self.work)(subject, round, timer)
    }
}

/// The life of a container and of the layer that it leaves.
pub const CONTAINER: Workload = Workload {
    name: "container",
    steps: &[
        Step { name: "prepare", about: "make a writable snapshot of the image, on disk" },
        Step { name: "mount", about: "mount it" },
        Step { name: "write", about: "append 4 KiB to 5 files of the image, make 5 new ones" },
        Step { name: "unmount", about: "unmount it" },
        Step { name: "commit", about: "make a layer of it, on disk" },
        Step { name: "remove", about: "remove the layer: gone, space not yet free" },
        Step { name: "free", about: "free the space of what was removed" },
        Step { name: "all", about: "the steps above together" },
    ],
    work: |subject, round, timer| {
        let mut steps = Timer::default();
        let layer = make_layer(subject, round, &mut steps)?;
        drop_layer(subject, &layer, &mut steps)?;
        timer.record("all", steps.total());
        timer.extend(steps);
        Ok(())
    },
};

/// What a layer changed against the image.
pub const DIFF: Workload = Workload {
    name: "diff",
    steps: &[Step { name: "diff", about: "read what such a layer changed, contents included" }],
    work: |subject, round, timer| {
        let mut untimed = Timer::default();
        let layer = make_layer(subject, round, &mut untimed)?;
        let changed = timer.time("diff", || count_changes(subject, &layer))?;
        drop_layer(subject, &layer, &mut untimed)?;
        let expected = APPENDED_FILES + NEW_FILES;
        if changed == expected {
            return Ok(());
        }
        Err(Error::data_loss(format!("{}: {expected} files were changed, and diff found {changed}", subject.name)))
    },
};

/// From an image to a layer on it, of which the name is the answer.
fn make_layer(subject: &Subject<'_>, round: u64, timer: &mut Timer) -> Result<String> {
    let (snapshotter, labels) = (subject.snapshotter, Labels::new());
    let (key, layer) = (format!("container-{round}"), format!("layer-{round}"));
    let mounts = timer.time("prepare", || snapshotter.prepare(&key, IMAGE, &labels))?;
    let mounted = timer.time("mount", || Mounted::new(&mounts, &subject.target))?;
    timer.time("write", || write(&Dir::open(mounted.path())?, subject.image, round))?;
    timer.time("unmount", || mounted.unmount())?;
    timer.time("commit", || snapshotter.commit(&layer, &key, &labels))?;
    Ok(layer)
}

fn drop_layer(subject: &Subject<'_>, layer: &str, timer: &mut Timer) -> Result<()> {
    timer.time("remove", || subject.snapshotter.remove(layer))?;
    timer.time("free", || subject.snapshotter.cleanup())
}

/// Changes ten files of the `image` that `root` shows, as a program in a container would: the step "write".
///
/// # Errors
/// What the system calls report.
pub fn write(root: &Dir, image: &Image, round: u64) -> Result<()> {
    let mut random = Random::new(image.seed() ^ round);
    for file in image.files_to_change(APPENDED_FILES, &mut random) {
        put(root, &file.path, OFlags::APPEND, &mut random)?;
    }
    for number in 0..NEW_FILES {
        put(root, Path::new(&format!("new{number}")), OFlags::CREATE | OFlags::EXCL, &mut random)?;
    }
    Ok(())
}

fn put(root: &Dir, path: &Path, flags: OFlags, content: &mut Random) -> Result<()> {
    let above = root.open_beneath(path.parent().unwrap_or(Path::new("")))?;
    let name = path.file_name().unwrap_or_default();
    let flags = flags | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&above, name, flags, Mode::from_raw_mode(0o644)).at("open", above.shown_at(name))?;
    let mut bytes = Vec::new();
    content.take(WRITTEN_BYTES).read_to_end(&mut bytes).at("make", "random bytes")?;
    std::fs::File::from(file).write_all(&bytes).at("write", above.shown_at(name))
}

/// Reads the whole stream of changes, content included, and answers how many regular files are in it.
fn count_changes(subject: &Subject<'_>, layer: &str) -> Result<u64> {
    let mut files = 0;
    let mut sink = |change: &Change, data: &mut dyn Read| {
        std::io::copy(data, &mut std::io::sink()).at("read", change.path())?;
        if let Change::Put { meta, .. } = change {
            files += u64::from(meta.node.file_type() == FileType::File);
        }
        Ok(())
    };
    subject.snapshotter.changes(layer, None, &mut sink)?;
    Ok(files)
}
