//! The published benchmarks of docker's graph drivers, corrected.
//!
//! The originals ask each driver for the difference to *nothing* although they mean the difference to the parent. So
//! they time a walk of the whole tree, and not the driver's knowledge of changes. In one fork, the benchmark of
//! applying a layer applies an empty one. Here both differences are timed as separate steps, and every result is
//! counted. The sizes are those of the originals: files of 64 bytes, 100 in a directory.
//!
//! # References
//! `daemon/graphdriver/graphtest/graphbench_unix.go` of moby, and its copy in containers/storage.

use std::io::Read;
use std::path::Path;

use super::lifecycle::count_changes;
use super::{Work, Workload, WorkloadStep};
use crate::changeset::{Change, Sink};
use crate::compare::SnapshotterSubject;
use crate::compare::image::Random;
use crate::compare::measure::Timer;
use crate::error::{Context, Error, Result};
use crate::mount::Mounted;
use crate::snapshotter::Labels;
use crate::tree::{Dir, Meta, Node, Timestamp};

/// Number of files in one directory.
const FILES_PER_DIR: u64 = 100;

/// Length of a file in the workloads where all files have the same length.
const FILE_BYTES: &[u64] = &[64];

/// Repetitions of a stat and of a read: a single call is too short to time.
const REPEATS: u64 = 1000;

/// Upper bound of the files' modification times, in seconds.
const MADE_BEFORE_SECONDS: u64 = 1_700_000_000;

/// A layer that is created for a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::compare) struct MadeLayer {
    pub name: &'static str,
    pub parent: &'static str,
    files: u64,
    /// Lengths of the files, repeated in this order.
    sizes_bytes: &'static [u64],
}

impl MadeLayer {
    const fn new(name: &'static str, parent: &'static str, files: u64) -> Self {
        Self { name, parent, files, sizes_bytes: FILE_BYTES }
    }

    /// Writes the files into `sink`. Stacked layers have the same names with different contents.
    ///
    /// # Errors
    /// Errors of `sink`.
    pub fn produce(&self, sink: &mut dyn Sink) -> Result<()> {
        let existed = !self.parent.is_empty();
        let seed = self.name.bytes().fold(self.files, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut content = Random::new(seed);
        let mtime = Timestamp { seconds: content.below(MADE_BEFORE_SECONDS) as i64, nanos: 0 };
        for number in 0..self.files {
            if number.is_multiple_of(FILES_PER_DIR) {
                let meta = Meta { node: Node::Dir, ..Meta::implied_dir() };
                let change = Change::Put { path: directory_of(number).into(), existed, meta };
                sink.change(&change, &mut std::io::empty())?;
            }
            let size = self.sizes_bytes[(number % self.sizes_bytes.len() as u64) as usize];
            let meta = Meta { node: Node::File { size }, mode: 0o644, mtime, ..Meta::implied_dir() };
            let change = Change::Put { path: path_of(number).into(), existed, meta };
            sink.change(&change, &mut content.by_ref().take(size))?;
        }
        Ok(())
    }
}

fn directory_of(number: u64) -> String {
    format!("directory-{}", number / FILES_PER_DIR)
}

fn path_of(number: u64) -> String {
    format!("{}/file-{number}", directory_of(number))
}

const BASE: [MadeLayer; 1] = [MadeLayer { sizes_bytes: &[64, 128, 16 << 10], ..MadeLayer::new("graph-base", "", 3) }];
const SMALL: [MadeLayer; 2] = [MadeLayer::new("graph-bottom", "", 10), MadeLayer::new("graph-top", "graph-bottom", 10)];
const LARGE_TOP: [MadeLayer; 2] =
    [MadeLayer::new("graph-bottom", "", 10), MadeLayer::new("graph-top", "graph-bottom", 10_000)];
const LARGE_BOTTOM: [MadeLayer; 2] =
    [MadeLayer::new("graph-bottom", "", 10_000), MadeLayer::new("graph-top", "graph-bottom", 10)];
const HUNDRED: [MadeLayer; 2] =
    [MadeLayer::new("graph-bottom", "", 100), MadeLayer::new("graph-top", "graph-bottom", 100)];

/// Twenty layers over a base.
const STACK: [MadeLayer; 21] = stack();

const STACK_NAMES: [&str; 21] = [
    "graph-0", "graph-1", "graph-2", "graph-3", "graph-4", "graph-5", "graph-6", "graph-7", "graph-8", "graph-9",
    "graph-10", "graph-11", "graph-12", "graph-13", "graph-14", "graph-15", "graph-16", "graph-17", "graph-18",
    "graph-19", "graph-20",
];

const fn stack() -> [MadeLayer; 21] {
    // The base has more files than any layer above it, so one of its files is not hidden and can be read.
    let mut layers = [MadeLayer::new(STACK_NAMES[0], "", 50); 21];
    let mut number = 1;
    while number < layers.len() {
        layers[number] = MadeLayer::new(STACK_NAMES[number], STACK_NAMES[number - 1], 3);
        number += 1;
    }
    layers
}

/// All nine workloads.
pub(super) const ALL: [Workload; 9] = [
    Workload {
        name: "graph-driver/exists",
        about: "ask for a layer",
        steps: &[WorkloadStep { name: "exists, 1000 times", about: "stat a committed snapshot" }],
        headlines: &[],
        quick: false,
        work: Work::Layers(&BASE, |subject, _, timer| {
            let ask = || (0..REPEATS).try_for_each(|_| subject.snapshotter.stat("graph-base").map(drop));
            timer.time("exists, 1000 times", ask)
        }),
    },
    Workload {
        name: "graph-driver/get-empty",
        about: "mount an empty layer; the original does not time the unmount either",
        steps: &[WorkloadStep { name: "get, empty", about: "mount a writable snapshot of nothing" }],
        headlines: &[],
        quick: false,
        work: Work::Snapshots(|subject, round, timer| {
            let key = format!("graph-empty-{round}");
            let mounts = subject.snapshotter.prepare(&key, "", &Labels::new())?;
            let mounted = timer.time("get, empty", || Mounted::new(&mounts, &subject.target))?;
            mounted.unmount()?;
            subject.snapshotter.remove(&key)?;
            subject.snapshotter.cleanup()
        }),
    },
    Workload {
        name: "graph-driver/diff-base",
        about: "the difference of a layer of three files; it has no parent, so the original asks rightly",
        steps: &[WorkloadStep { name: "diff, base", about: "read what the layer holds, contents included" }],
        headlines: &[],
        quick: false,
        work: Work::Layers(&BASE, |subject, _, timer| counted(subject, "graph-base", None, 3, "diff, base", timer)),
    },
    diff_workload(
        "graph-driver/diff-small-upper",
        "10 files over 10",
        &[TO_PARENT_SMALL, WHOLE_SMALL],
        Work::Layers(&SMALL, |subject, _, timer| both(subject, SMALL, [TO_PARENT_SMALL.name, WHOLE_SMALL.name], timer)),
    ),
    diff_workload(
        "graph-driver/diff-10k-upper",
        "10,000 files over 10",
        &[TO_PARENT_LARGE_TOP, WHOLE_LARGE_TOP],
        Work::Layers(&LARGE_TOP, |subject, _, timer| {
            both(subject, LARGE_TOP, [TO_PARENT_LARGE_TOP.name, WHOLE_LARGE_TOP.name], timer)
        }),
    ),
    diff_workload(
        "graph-driver/diff-10k-bottom",
        "10 files over 10,000",
        &[TO_PARENT_LARGE_BOTTOM, WHOLE_LARGE_BOTTOM],
        Work::Layers(&LARGE_BOTTOM, |subject, _, timer| {
            both(subject, LARGE_BOTTOM, [TO_PARENT_LARGE_BOTTOM.name, WHOLE_LARGE_BOTTOM.name], timer)
        }),
    ),
    Workload {
        name: "graph-driver/diff-apply-100",
        about: "100 changed files, carried to a sibling; one fork's original applies nothing",
        steps: &[WorkloadStep {
            name: "diff and apply, 100 files",
            about: "read the difference, and write it into a sibling",
        }],
        headlines: &[],
        quick: false,
        work: Work::Layers(&HUNDRED, diff_and_apply),
    },
    Workload {
        name: "graph-driver/diff-20-layers",
        about: "the difference of the topmost of 20 layers; the original asks for that to nothing",
        steps: &[TO_PARENT_STACK, WHOLE_STACK],
        headlines: &[],
        quick: false,
        work: Work::Layers(&STACK, |subject, _, timer| {
            counted(subject, "graph-20", None, 3, TO_PARENT_STACK.name, timer)?;
            counted(subject, "graph-20", Some(""), 50, WHOLE_STACK.name, timer)
        }),
    },
    Workload {
        name: "graph-driver/read-20-layers",
        about: "read a file of the lowest of 20 layers",
        steps: &[WorkloadStep { name: "read, 1000 times", about: "open, read and close the same file; mounted once" }],
        headlines: &[],
        quick: false,
        work: Work::Layers(&STACK, read_through),
    },
];

const TO_PARENT_SMALL: WorkloadStep = to_parent("diff, 10 over 10");
const WHOLE_SMALL: WorkloadStep = whole("diff to nothing, 10 over 10");
const TO_PARENT_LARGE_TOP: WorkloadStep = to_parent("diff, 10,000 over 10");
const WHOLE_LARGE_TOP: WorkloadStep = whole("diff to nothing, 10,000 over 10");
const TO_PARENT_LARGE_BOTTOM: WorkloadStep = to_parent("diff, 10 over 10,000");
const WHOLE_LARGE_BOTTOM: WorkloadStep = whole("diff to nothing, 10 over 10,000");
const TO_PARENT_STACK: WorkloadStep = to_parent("diff, topmost of 20");
const WHOLE_STACK: WorkloadStep = whole("diff to nothing, topmost of 20");

const fn to_parent(name: &'static str) -> WorkloadStep {
    WorkloadStep { name, about: "read what the layer changed, contents included: what the original means to time" }
}

const fn whole(name: &'static str) -> WorkloadStep {
    WorkloadStep { name, about: "read all of the tree: what the original times" }
}

const fn diff_workload(
    name: &'static str,
    about: &'static str,
    steps: &'static [WorkloadStep; 2],
    work: Work,
) -> Workload {
    Workload { name, about, steps, headlines: &[], quick: false, work }
}

/// Times the difference of the upper of two layers to the lower, then to nothing.
fn both(
    subject: &SnapshotterSubject<'_>,
    layers: [MadeLayer; 2],
    steps: [&'static str; 2],
    timer: &mut Timer,
) -> Result<()> {
    let [bottom, top] = layers;
    counted(subject, top.name, None, top.files, steps[0], timer)?;
    counted(subject, top.name, Some(""), bottom.files.max(top.files), steps[1], timer)
}

/// Times the difference of `layer` to `base`, and checks that it contains `files` files.
fn counted(
    subject: &SnapshotterSubject<'_>,
    layer: &str,
    base: Option<&str>,
    files: u64,
    step: &'static str,
    timer: &mut Timer,
) -> Result<()> {
    let found = timer.time(step, || count_changes(subject, layer, base))?;
    if found == files {
        return Ok(());
    }
    Err(Error::data_loss(format!("the difference has {files} files, and {found} were found")))
}

/// Reads the changes of the upper layer into memory, as the originals hold their archive, and applies them to a
/// snapshot of the lower layer.
fn diff_and_apply(subject: &SnapshotterSubject<'_>, round: u64, timer: &mut Timer) -> Result<()> {
    let (snapshotter, key) = (subject.snapshotter, format!("graph-sibling-{round}"));
    snapshotter.prepare(&key, "graph-bottom", &Labels::new())?;
    timer.time("diff and apply, 100 files", || {
        let mut changes: Vec<(Change, Vec<u8>)> = Vec::new();
        let mut hold = |change: &Change, data: &mut dyn Read| {
            let mut bytes = Vec::new();
            data.read_to_end(&mut bytes).at("read", change.path())?;
            changes.push((change.clone(), bytes));
            Ok(())
        };
        snapshotter.changes("graph-top", None, &mut hold)?;
        let mut give = |sink: &mut dyn Sink| {
            changes.iter().try_for_each(|(change, bytes)| sink.change(change, &mut bytes.as_slice()))
        };
        snapshotter.apply(&key, &mut give).map(drop)
    })?;
    counted(subject, &key, None, HUNDRED[1].files, "untimed", &mut Timer::default())?;
    snapshotter.remove(&key)?;
    snapshotter.cleanup()
}

fn read_through(subject: &SnapshotterSubject<'_>, round: u64, timer: &mut Timer) -> Result<()> {
    let (snapshotter, key) = (subject.snapshotter, format!("graph-read-{round}"));
    let mounts = snapshotter.prepare(&key, "graph-20", &Labels::new())?;
    let mounted = Mounted::new(&mounts, &subject.target)?;
    let bytes = read_lowest(mounted.path(), timer);
    let unmounted = mounted.unmount();
    let bytes = bytes.and_then(|bytes| unmounted.map(|()| bytes))?;
    if bytes != FILE_BYTES[0] {
        return Err(Error::data_loss(format!("the file has {bytes} bytes")));
    }
    snapshotter.remove(&key)?;
    snapshotter.cleanup()
}

/// Reads the last file of the lowest layer, which no other layer has, repeatedly; returns its length.
fn read_lowest(root: &Path, timer: &mut Timer) -> Result<u64> {
    let path = path_of(STACK[0].files - 1);
    let (above, name) = path.split_once('/').unwrap_or(("", &path));
    let dir = Dir::open(root)?.open_dir(above)?;
    timer.time("read, 1000 times", || {
        let mut bytes = Vec::new();
        for _ in 0..REPEATS {
            bytes.clear();
            dir.open_file(name)?.read_to_end(&mut bytes).at("read", dir.shown_at(name))?;
        }
        Ok(bytes.len() as u64)
    })
}
