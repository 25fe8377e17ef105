//! Writes by programs in a container: new files, changes of existing files, changes of many inodes.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::Component;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Base, TreeState, Work, Workload, WorkloadStep, WorkloadTree};
use crate::compare::LARGE_FILE;
use crate::compare::image::Random;
use crate::error::{Context, Error, Result};
use crate::tree::copy::{CloneMode, Options, copy};
use crate::tree::walk::{remove_all, walk};
use crate::tree::{Dir, FileType};

/// Page size of a database.
const PAGE_BYTES: usize = 4096;

/// Maximum length of a small file.
const SMALL_FILE_BYTES_MAX: u64 = 8192;

/// Number of small files in one directory.
const FILES_PER_DIR: u64 = 100;

/// The renamed directory holds about one in this many of the image's files.
const RENAMED_PART: u64 = 20;

/// First user id that does not own files of the image.
const OTHER_OWNER: u64 = 1000;

/// Appends a byte to a file of the image.
pub(super) const COPY_UP: Workload = Workload {
    name: "copy-up",
    about: "change one byte of a large file of the image",
    steps: &[WorkloadStep { name: "append", about: "append a byte to the large file, and close it" }],
    headlines: &["append"],
    quick: true,
    work: Work::InTree {
        base: Base::Large,
        state: TreeState::Fresh,
        work: |tree, _, timer| {
            let before = tree.root.stat(LARGE_FILE)?.size;
            timer.time("append", || append(&tree.root, LARGE_FILE, b"x"))?;
            let after = tree.root.stat(LARGE_FILE)?.size;
            if after == before + 1 { Ok(()) } else { Err(Error::data_loss("the byte was not appended")) }
        },
    },
};

/// Creates small files.
pub(super) const SMALL_FILES: Workload = Workload {
    name: "small-files",
    about: "write many small files",
    steps: &[
        WorkloadStep { name: "create", about: "make the files, of up to 8 KiB, 100 in a directory" },
        WorkloadStep { name: "sync", about: "bring them to disk" },
    ],
    headlines: &["create"],
    quick: true,
    work: Work::InTree {
        base: Base::Small,
        state: TreeState::Fresh,
        work: |tree, round, timer| {
            let name = format!("files-{round}");
            let top = make_dir(&tree.root, &name)?;
            timer.time("create", || create_files(&top, tree.sizes.small_files, round))?;
            timer.time("sync", || rustix::fs::syncfs(&top).at("sync", top.shown()))
        },
    },
};

/// Writes as a database does.
pub(super) const FSYNC: Workload = Workload {
    name: "fsync",
    about: "write as a database does",
    steps: &[WorkloadStep {
        name: "transactions",
        about: "each: append a page to a log, fsync, write it in place, fsync",
    }],
    headlines: &["transactions"],
    quick: false,
    work: Work::InTree {
        base: Base::Small,
        state: TreeState::Fresh,
        work: |tree, round, timer| {
            let (log, table) = (format!("log-{round}"), format!("table-{round}"));
            timer.time("transactions", || transact(&tree.root, &log, &table, tree.sizes.transactions))
        },
    },
};

/// Changes the owner of everything.
pub const CHOWN: Workload = Workload {
    name: "chown",
    about: "give all of the image to another user",
    steps: &[WorkloadStep { name: "chown -R", about: "set the owner of every inode" }],
    headlines: &["chown -R"],
    quick: false,
    work: Work::InTree {
        base: Base::Image,
        state: TreeState::Fresh,
        work: |tree, round, timer| {
            let owner = (OTHER_OWNER + round) as u32;
            let changed = timer.time("chown -R", || chown(&tree.root, owner))?;
            if changed < tree.image.inodes() {
                return Err(Error::data_loss(format!("{changed} of {} inodes were there", tree.image.inodes())));
            }
            Ok(())
        },
    },
};

/// Renames a directory.
pub const RENAME: Workload = Workload {
    name: "rename",
    about: "rename a directory of the image, as mv does",
    steps: &[WorkloadStep {
        name: "mv",
        about: "rename a directory with a twentieth of the files; where that cannot be, copy it",
    }],
    headlines: &["mv"],
    quick: false,
    work: Work::InTree {
        base: Base::Image,
        state: TreeState::Fresh,
        work: |tree, _, timer| {
            let name = subtree(tree)?;
            let moved = "moved-away";
            timer.time("mv", || move_dir(&tree.root, &name, moved))?;
            // Renamed back, because a plain directory is used by the next round too.
            rustix::fs::renameat(&tree.root, moved, &tree.root, &name).at("rename", tree.root.shown_at(moved))
        },
    },
};

fn append(dir: &Dir, name: &str, bytes: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty()).at("open", dir.shown_at(name))?;
    std::fs::File::from(file).write_all(bytes).at("write", dir.shown_at(name))
}

fn make_dir(dir: &Dir, name: &str) -> Result<Dir> {
    dir.make_dir(name)?;
    dir.open_dir(name)
}

/// Creates `count` files below `top`, with content from `seed`.
pub(super) fn create_files(top: &Dir, count: u64, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::new();
    for first in (0..count).step_by(FILES_PER_DIR as usize) {
        let dir = make_dir(top, &format!("dir-{first}"))?;
        for number in first..count.min(first + FILES_PER_DIR) {
            let name = format!("file-{number}");
            bytes.clear();
            let length = random.below(SMALL_FILE_BYTES_MAX);
            random.by_ref().take(length).read_to_end(&mut bytes).at("make", "random bytes")?;
            dir.create_file(&name)?.write_all(&bytes).at("write", dir.shown_at(&name))?;
        }
    }
    Ok(())
}

fn transact(dir: &Dir, log: &str, table: &str, transactions: u64) -> Result<()> {
    let page = [7_u8; PAGE_BYTES];
    let (log_file, table_file) = (dir.create_file(log)?, dir.create_file(table)?);
    for number in 0..transactions {
        let offset = number * PAGE_BYTES as u64;
        log_file.write_all_at(&page, offset).at("write", dir.shown_at(log))?;
        rustix::fs::fdatasync(&log_file).at("fsync", dir.shown_at(log))?;
        // Only eight pages are written, again and again: a database table changes more often than it grows.
        table_file.write_all_at(&page, offset % (PAGE_BYTES as u64 * 8)).at("write", dir.shown_at(table))?;
        rustix::fs::fdatasync(&table_file).at("fsync", dir.shown_at(table))?;
    }
    Ok(())
}

/// Sets the owner of everything below `root`, and returns the number of inodes.
fn chown(root: &Dir, owner: u32) -> Result<u64> {
    let mut changed = 0;
    walk(root, |entry| {
        changed += 1;
        entry.dir.set_owner(entry.name, owner, owner)
    })?;
    Ok(changed)
}

/// Returns the name of the top-level directory that holds about a twentieth of the files.
fn subtree(tree: &WorkloadTree<'_>) -> Result<String> {
    let mut below = std::collections::BTreeMap::<&OsStr, u64>::new();
    for file in tree.image.files() {
        let mut components = file.path.components();
        if let (Some(Component::Normal(first)), Some(_)) = (components.next(), components.next()) {
            *below.entry(first).or_default() += 1;
        }
    }
    let wanted = tree.image.files().len() as u64 / RENAMED_PART;
    let is_dir = |name: &&OsStr| tree.root.stat(name).is_ok_and(|stat| stat.file_type == FileType::Dir);
    let best = below.iter().filter(|(name, _)| is_dir(name)).min_by_key(|(_, files)| files.abs_diff(wanted));
    match best.and_then(|(name, _)| name.to_str()) {
        Some(name) => Ok(name.to_owned()),
        None => Err(Error::unsupported("the image has no directory with files in its root")),
    }
}

/// Renames as `mv` does: overlayfs refuses to rename a directory of a lower layer (`EXDEV`), so it is copied and
/// removed.
fn move_dir(root: &Dir, from: &str, to: &str) -> Result<()> {
    match rustix::fs::renameat(root, from, root, to) {
        Err(Errno::XDEV) => {}
        renamed => return renamed.at("rename", root.shown_at(from)),
    }
    let target = make_dir(root, to)?;
    let options = Options { workers: NonZeroUsize::MIN, ..Options::new(CloneMode::Auto) };
    copy(&root.open_dir(from)?, &target, options)?;
    remove_all(root, from)
}
