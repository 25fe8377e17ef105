//! Reads by programs in a container.

use std::io::Read as _;

use super::{Base, TreeState, Work, Workload, WorkloadStep, WorkloadTree};
use crate::compare::measure::Timer;
use crate::error::{Context, Error, Result};
use crate::tree::FileType;
use crate::tree::walk::walk;

/// Buffer size of one read.
const BUFFER_BYTES: usize = 128 << 10;

/// Reads all content of the image.
pub(super) const READ: Workload = Workload {
    name: "read",
    about: "read every file of the image, warm",
    steps: &[WorkloadStep { name: "read", about: "open, read and close each file; the second time" }],
    headlines: &["read"],
    quick: false,
    work: Work::InTree {
        base: Base::Image,
        state: TreeState::Kept,
        work: |tree, _, timer| {
            check(tree, read(tree)?)?;
            let bytes = timer.time("read", || read(tree))?;
            check(tree, bytes)
        },
    },
};

/// Looks at all names of the image.
pub const WALK: Workload = Workload {
    name: "walk",
    about: "look at every inode of the image, as find does, warm",
    steps: &[WorkloadStep { name: "find", about: "list each directory, stat each name; the second time" }],
    headlines: &["find"],
    quick: true,
    work: Work::InTree {
        base: Base::Image,
        state: TreeState::Kept,
        work: |tree, _, timer| {
            check(tree, find(tree)?)?;
            let bytes = timer.time("find", || find(tree))?;
            check(tree, bytes)
        },
    },
};

/// Looks at all names and reads all content, with cold caches.
pub(super) const COLD: Workload = Workload {
    name: "cold",
    about: "look at every inode, then read every file, cold: the file system was unmounted in between",
    steps: &[
        WorkloadStep { name: "find, cold", about: "list each directory, stat each name; the first time after a mount" },
        WorkloadStep { name: "read, cold", about: "then open, read and close each file" },
    ],
    headlines: &["find, cold", "read, cold"],
    quick: false,
    work: Work::InTree { base: Base::Image, state: TreeState::Cold, work: cold },
};

fn cold(tree: &WorkloadTree<'_>, _: u64, timer: &mut Timer) -> Result<()> {
    let bytes = timer.time("find, cold", || find(tree))?;
    check(tree, bytes)?;
    let bytes = timer.time("read, cold", || read(tree))?;
    check(tree, bytes)
}

/// Returns the sum of the file sizes in the inodes.
fn find(tree: &WorkloadTree<'_>) -> Result<u64> {
    let mut bytes = 0;
    walk(&tree.root, |entry| {
        if entry.stat.file_type == FileType::File {
            bytes += entry.stat.size;
        }
        Ok(())
    })?;
    Ok(bytes)
}

/// Returns the number of bytes read from the files.
fn read(tree: &WorkloadTree<'_>) -> Result<u64> {
    let (mut bytes, mut buffer) = (0, vec![0; BUFFER_BYTES]);
    walk(&tree.root, |entry| {
        if entry.stat.file_type != FileType::File {
            return Ok(());
        }
        let mut file = entry.dir.open_file(entry.name)?;
        loop {
            match file.read(&mut buffer).at("read", entry.path)? {
                0 => return Ok(()),
                length => bytes += length as u64,
            }
        }
    })?;
    Ok(bytes)
}

/// Checks that at least the image's bytes are there. Other workloads may have added files to a plain directory.
fn check(tree: &WorkloadTree<'_>, bytes: u64) -> Result<()> {
    let expected = tree.image.size_bytes();
    if bytes >= expected {
        return Ok(());
    }
    Err(Error::data_loss(format!("{bytes} bytes of the {expected} of the image are there")))
}
