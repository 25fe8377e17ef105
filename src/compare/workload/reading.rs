//! What programs in a container read.

use std::io::Read as _;

use super::{Base, State, Step, Tree, Work, Workload};
use crate::compare::measure::Timer;
use crate::error::{Context, Error, Result};
use crate::tree::FileType;
use crate::tree::walk::walk;

/// One read.
const BUFFER_BYTES: usize = 128 << 10;

/// All content of the image.
pub(super) const READ: Workload = Workload {
    name: "read",
    about: "read every file of the image, warm",
    steps: &[Step { name: "read", about: "open, read and close each file; the second time" }],
    headlines: &["read"],
    quick: false,
    work: Work::Tree {
        base: Base::Image,
        state: State::Kept,
        work: |tree, _, timer| {
            check(tree, read(tree)?)?;
            let bytes = timer.time("read", || read(tree))?;
            check(tree, bytes)
        },
    },
};

/// All names of the image.
pub const WALK: Workload = Workload {
    name: "walk",
    about: "look at every inode of the image, as find does, warm",
    steps: &[Step { name: "find", about: "list each directory, stat each name; the second time" }],
    headlines: &["find"],
    quick: true,
    work: Work::Tree {
        base: Base::Image,
        state: State::Kept,
        work: |tree, _, timer| {
            check(tree, find(tree)?)?;
            let bytes = timer.time("find", || find(tree))?;
            check(tree, bytes)
        },
    },
};

/// Both, after the machine forgot everything.
pub(super) const COLD: Workload = Workload {
    name: "cold",
    about: "look at every inode, then read every file, cold: the file system was unmounted in between",
    steps: &[
        Step { name: "find, cold", about: "list each directory, stat each name; the first time after a mount" },
        Step { name: "read, cold", about: "then open, read and close each file" },
    ],
    headlines: &["find, cold", "read, cold"],
    quick: false,
    work: Work::Tree { base: Base::Image, state: State::Cold, work: cold },
};

fn cold(tree: &Tree<'_>, _: u64, timer: &mut Timer) -> Result<()> {
    let bytes = timer.time("find, cold", || find(tree))?;
    check(tree, bytes)?;
    let bytes = timer.time("read, cold", || read(tree))?;
    check(tree, bytes)
}

/// How many bytes the files have by their inodes.
fn find(tree: &Tree<'_>) -> Result<u64> {
    let mut bytes = 0;
    walk(&tree.root, |entry| {
        if entry.stat.file_type == FileType::File {
            bytes += entry.stat.size;
        }
        Ok(())
    })?;
    Ok(bytes)
}

/// How many bytes come out of the files.
fn read(tree: &Tree<'_>) -> Result<u64> {
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

/// Whether that is what was put in. Other workloads may have added to a plain directory.
fn check(tree: &Tree<'_>, bytes: u64) -> Result<()> {
    let expected = tree.image.size_bytes();
    if bytes >= expected {
        return Ok(());
    }
    Err(Error::data_loss(format!("{bytes} bytes of the {expected} of the image are there")))
}
