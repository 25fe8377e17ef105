//! Operations of container tools on snapshots.

use std::io::{Read, Write as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::writing::create_files;
use super::{Work, Workload, WorkloadStep};
use crate::changeset::Change;
use crate::compare::image::{Image, Random};
use crate::compare::measure::Timer;
use crate::compare::{IMAGE, SMALL, SnapshotterSubject};
use crate::error::{Context, Error, Result};
use crate::mount::Mounted;
use crate::snapshotter::Labels;
use crate::tree::{Dir, FileType};

/// Number of image files that a round appends to.
const APPENDED_FILES: u64 = 5;

/// Number of files that a round creates.
const NEW_FILES: u64 = 5;

/// Length of the appended data and of each new file: one page.
const WRITTEN_BYTES: u64 = 4096;

/// The life of a container and of the layer made from it.
pub const CONTAINER: Workload = Workload {
    name: "container",
    about: "a container's life: a writable snapshot of the image, ten changes, a layer of them",
    steps: &[
        WorkloadStep { name: "prepare", about: "make a writable snapshot of the image, on disk" },
        WorkloadStep { name: "mount", about: "mount it" },
        WorkloadStep { name: "write", about: "append 4 KiB to 5 files of the image, make 5 new ones" },
        WorkloadStep { name: "unmount", about: "unmount it" },
        WorkloadStep { name: "commit", about: "make a layer of it, on disk" },
        WorkloadStep { name: "remove", about: "remove the layer: gone, space not yet free" },
        WorkloadStep { name: "free", about: "free the space of what was removed" },
        WorkloadStep { name: "all", about: "the steps above together" },
    ],
    headlines: &["prepare", "mount", "commit", "remove"],
    quick: true,
    work: Work::Snapshots(|subject, round, timer| {
        let mut steps = Timer::default();
        timer.start_cost()?;
        let layer = make_layer(subject, round, &mut steps)?;
        timer.stop_cost()?;
        drop_layer(subject, &layer, &mut steps)?;
        timer.record("all", steps.total());
        timer.extend(steps);
        Ok(())
    }),
};

/// Reads the changes of a layer relative to the image.
pub const DIFF: Workload = Workload {
    name: "diff",
    about: "find what a layer of ten changes changed",
    steps: &[WorkloadStep { name: "diff", about: "read what the layer changed, contents included" }],
    headlines: &["diff"],
    quick: true,
    work: Work::Snapshots(|subject, round, timer| {
        let mut untimed = Timer::default();
        let layer = make_layer(subject, round, &mut untimed)?;
        let changed = timer.time("diff", || count_changes(subject, &layer, None))?;
        drop_layer(subject, &layer, &mut untimed)?;
        let expected = APPENDED_FILES + NEW_FILES;
        if changed == expected {
            return Ok(());
        }
        Err(Error::data_loss(format!("{expected} files were changed, and diff found {changed}")))
    }),
};

/// Writes the image into a snapshot.
pub(super) const UNPACK: Workload = Workload {
    name: "unpack",
    about: "make a committed snapshot of the image",
    steps: &[WorkloadStep { name: "unpack", about: "write all files and commit: on disk when it is done" }],
    headlines: &["unpack"],
    quick: true,
    work: Work::Snapshots(|subject, round, timer| {
        let (key, name) = (format!("unpack-{round}"), format!("unpacked-{round}"));
        timer.start_cost()?;
        timer.time("unpack", || subject.unpack(&key, &name, &mut |sink| subject.image.produce(sink)))?;
        timer.stop_cost()?;
        drop_layer(subject, &name, &mut Timer::default())
    }),
};

/// Commits a snapshot without a change.
pub(super) const COMMIT_NOTHING: Workload = Workload {
    name: "commit-nothing",
    about: "commit a writable snapshot of the image in which nothing changed",
    steps: &[WorkloadStep { name: "commit, no change", about: "make a layer, on disk" }],
    headlines: &["commit, no change"],
    quick: false,
    work: Work::Snapshots(|subject, round, timer| {
        let (key, layer) = (format!("nothing-{round}"), format!("no-layer-{round}"));
        subject.snapshotter.prepare(&key, IMAGE, &Labels::new())?;
        timer.start_cost()?;
        timer.time("commit, no change", || subject.snapshotter.commit(&layer, &key, &Labels::new()))?;
        timer.stop_cost()?;
        drop_layer(subject, &layer, &mut Timer::default())
    }),
};

/// Commits a snapshot with many new files.
pub(super) const COMMIT_MANY: Workload = Workload {
    name: "commit-many",
    about: "commit a writable snapshot with many new files, and remove the layer",
    steps: &[
        WorkloadStep { name: "commit, many files", about: "make a layer of new files of up to 8 KiB, on disk" },
        WorkloadStep { name: "remove, many files", about: "remove it: gone, space not yet free" },
        WorkloadStep { name: "free, many files", about: "free its space" },
    ],
    headlines: &["commit, many files", "free, many files"],
    quick: false,
    work: Work::Snapshots(|subject, round, timer| {
        let (key, layer) = (format!("many-{round}"), format!("many-layer-{round}"));
        let mounts = subject.snapshotter.prepare(&key, SMALL, &Labels::new())?;
        timer.start_cost()?;
        let mounted = Mounted::new(&mounts, &subject.target)?;
        create_files(&Dir::open(mounted.path())?, subject.sizes.new_files, round)?;
        mounted.unmount()?;
        timer.time("commit, many files", || subject.snapshotter.commit(&layer, &key, &Labels::new()))?;
        timer.stop_cost()?;
        timer.time("remove, many files", || subject.snapshotter.remove(&layer))?;
        timer.time("free, many files", || subject.snapshotter.cleanup())
    }),
};

/// Starts many containers of one image.
pub const START: Workload = Workload {
    name: "start",
    about: "start many containers of one image, and stop them",
    steps: &[
        WorkloadStep { name: "start all", about: "make and mount a writable snapshot for each, one after the other" },
        WorkloadStep { name: "stop all", about: "unmount and remove each" },
    ],
    headlines: &["start all"],
    quick: false,
    work: Work::Snapshots(start),
};

fn start(subject: &SnapshotterSubject<'_>, round: u64, timer: &mut Timer) -> Result<()> {
    let targets: Vec<_> = (0..subject.sizes.containers).map(|number| subject.target.join(number.to_string())).collect();
    for target in &targets {
        std::fs::create_dir(target).at("make the directory", target)?;
    }
    let key = |number: usize| format!("start-{round}-{number}");
    timer.start_cost()?;
    let mut running = Vec::new();
    timer.time("start all", || {
        for (number, target) in targets.iter().enumerate() {
            let mounts = subject.snapshotter.prepare(&key(number), IMAGE, &Labels::new())?;
            running.push(Mounted::new(&mounts, target)?);
        }
        Ok::<_, Error>(())
    })?;
    timer.stop_cost()?;
    timer.time("stop all", || {
        for (number, mounted) in running.into_iter().enumerate() {
            mounted.unmount()?;
            subject.snapshotter.remove(&key(number))?;
        }
        Ok::<_, Error>(())
    })?;
    for target in &targets {
        std::fs::remove_dir(target).at("remove the directory", target)?;
    }
    subject.snapshotter.cleanup()
}

/// Makes a container from the image and commits it; returns the name of the layer.
fn make_layer(subject: &SnapshotterSubject<'_>, round: u64, timer: &mut Timer) -> Result<String> {
    let (snapshotter, labels) = (subject.snapshotter, Labels::new());
    let (key, layer) = (format!("container-{round}"), format!("layer-{round}"));
    let mounts = timer.time("prepare", || snapshotter.prepare(&key, IMAGE, &labels))?;
    let mounted = timer.time("mount", || Mounted::new(&mounts, &subject.target))?;
    timer.time("write", || write(&Dir::open(mounted.path())?, subject.image, round))?;
    timer.time("unmount", || mounted.unmount())?;
    timer.time("commit", || snapshotter.commit(&layer, &key, &labels))?;
    Ok(layer)
}

fn drop_layer(subject: &SnapshotterSubject<'_>, layer: &str, timer: &mut Timer) -> Result<()> {
    timer.time("remove", || subject.snapshotter.remove(layer))?;
    timer.time("free", || subject.snapshotter.cleanup())
}

/// Changes ten files of `image` in the tree at `root`, as a program in a container would: the step "write".
///
/// # Errors
/// Errors of the system calls.
pub fn write(root: &Dir, image: &Image, round: u64) -> Result<()> {
    let mut random = Random::new(image.seed() ^ round);
    for file in image.files_to_change(APPENDED_FILES, &mut random) {
        put(root, &file.path, OFlags::APPEND, &mut random)?;
    }
    for number in 0..NEW_FILES {
        put(root, Path::new(&new_file(number)), OFlags::CREATE | OFlags::EXCL, &mut random)?;
    }
    Ok(())
}

/// Removes the new files of [`write`].
pub(in crate::compare) fn unwrite(root: &Dir) -> Result<()> {
    (0..NEW_FILES).try_for_each(|number| root.unlink(new_file(number)))
}

fn new_file(number: u64) -> String {
    format!("new{number}")
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

/// Reads all changes of `layer` relative to `base` (its parent if `None`), including file content, and returns the
/// number of regular files among them.
pub(super) fn count_changes(subject: &SnapshotterSubject<'_>, layer: &str, base: Option<&str>) -> Result<u64> {
    let mut files = 0;
    let mut sink = |change: &Change, data: &mut dyn Read| {
        std::io::copy(data, &mut std::io::sink()).at("read", change.path())?;
        if let Change::Put { meta, .. } = change {
            files += u64::from(meta.node.file_type() == FileType::File);
        }
        Ok(())
    };
    subject.snapshotter.changes(layer, base, &mut sink)?;
    Ok(files)
}
