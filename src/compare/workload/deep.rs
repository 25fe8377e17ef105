//! Cost of reading through a stack of many layers.

use std::io::Read as _;
use std::path::Path;

use rustix::io::Errno;

use super::{Work, Workload, WorkloadStep};
use crate::compare::measure::Timer;
use crate::compare::{SnapshotterSubject, deep_layer};
use crate::error::{Context, Error, Result};
use crate::mount::Mounted;
use crate::snapshotter::Labels;
use crate::tree::Dir;

/// Layers below the writable layer. 499 layers and the writable one are the most that overlayfs takes.
pub(in crate::compare) const DEPTHS: [usize; 4] = [1, 20, 100, 499];

/// Names of the steps at each depth: mount, lookup of a name that no layer has, read of a file in the lowest layer,
/// list of all names.
const NAMES: [[&str; 4]; 4] = [
    ["mount, 1 layer", "lookup, 1 layer", "read, 1 layer", "readdir, 1 layer"],
    ["mount, 20 layers", "lookup, 20 layers", "read, 20 layers", "readdir, 20 layers"],
    ["mount, 100 layers", "lookup, 100 layers", "read, 100 layers", "readdir, 100 layers"],
    ["mount, 499 layers", "lookup, 499 layers", "read, 499 layers", "readdir, 499 layers"],
];

const MOUNT: &str = "mount a writable snapshot of so many layers, one file in each";
const LOOKUP: &str = "look for a name that is nowhere, the first time after the mount";
const READ: &str = "read the file of the lowest layer, the first time";
const READDIR: &str = "list the root and stat what is in it, the first time";

/// Reads through stacks of few layers and of many.
pub(super) const DEEP: Workload = Workload {
    name: "deep",
    about: "read through stacks of 1, 20, 100 and 499 layers",
    steps: &steps(),
    headlines: &["mount, 100 layers", "readdir, 100 layers"],
    quick: false,
    work: Work::Stack(work),
};

const fn steps() -> [WorkloadStep; 16] {
    let abouts = [MOUNT, LOOKUP, READ, READDIR];
    let mut steps = [WorkloadStep { name: "", about: "" }; 16];
    let mut number = 0;
    while number < steps.len() {
        // Ordered by step, then by depth, so that the depths of one step stand together.
        steps[number] = WorkloadStep { name: NAMES[number % 4][number / 4], about: abouts[number / 4] };
        number += 1;
    }
    steps
}

fn work(subject: &SnapshotterSubject<'_>, round: u64, timer: &mut Timer) -> Result<()> {
    for (depth, names) in DEPTHS.into_iter().zip(NAMES) {
        if subject.depth.get() < depth {
            break;
        }
        let key = format!("deep-{depth}-{round}");
        let mounts = subject.snapshotter.prepare(&key, &deep_layer(depth), &Labels::new())?;
        let [mount, look_up, read, list] = names;
        let mounted = timer.time(mount, || Mounted::new(&mounts, &subject.target))?;
        let looked = look(mounted.path(), depth, [look_up, read, list], timer);
        let unmounted = mounted.unmount();
        looked.and(unmounted)?;
        subject.snapshotter.remove(&key)?;
    }
    subject.snapshotter.cleanup()
}

/// Runs the named steps except the mount, and checks that `depth` files exist.
fn look(path: &Path, depth: usize, names: [&'static str; 3], timer: &mut Timer) -> Result<()> {
    let [look_up, read, list] = names;
    let root = Dir::open(path)?;
    timer.time(look_up, || match root.stat("nowhere") {
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(Error::data_loss("a file is there that no layer has")),
    })?;
    let mut content = Vec::new();
    let lowest = deep_layer(1);
    timer.time(read, || root.open_file(&lowest)?.read_to_end(&mut content).at("read", root.shown_at(&lowest)))?;
    let listed = timer.time(list, || {
        let all = root.names()?;
        all.iter().try_for_each(|name| root.stat(name).map(drop)).map(|()| all.len())
    })?;
    if listed == depth && content == lowest.as_bytes() {
        return Ok(());
    }
    Err(Error::data_loss(format!("{listed} of {depth} files are there")))
}
