//! Where a large subvolume is destroyed: in a directory of its own.
//!
//! The kernel evicts what it has cached of a subvolume while it destroys it, and holds the directory around it
//! meanwhile: half a second for 60,000 files, in which nobody could make a snapshot in that directory. So a large one
//! is moved out of the way first. That makes the next fsync of anybody commit the file system, which takes longer than
//! destroying a small one: those are destroyed where they are.

use std::ffi::OsString;
use std::os::fd::AsFd;

use rustix::fs::RenameFlags;

use super::{Beside, clear};
use crate::error::{Context, ErrorKind, Result};
use crate::id::Id;
use crate::sys::btrfs as sys;
use crate::tree::{Dir, FileType};

/// A tree of that many bytes is large: some 8,000 files.
const LARGE_TREE_BYTES: u64 = 4 << 20;

/// Removes the snapshot `id` from `snapshots`. Nothing there is success.
pub(super) fn remove(snapshots: &Dir, id: Id) -> Result<()> {
    let name = OsString::from(id.to_string());
    // What a crash left.
    clear_aside(snapshots, id)?;
    if is_large(snapshots, &name)? {
        move_aside(snapshots, id, &name)?;
        clear_aside(snapshots, id)?;
    }
    clear(snapshots, &name)
}

/// Whether `name` is a subvolume with a large tree.
pub(super) fn is_large(snapshots: &Dir, name: &OsString) -> Result<bool> {
    match snapshots.stat_if_any(name)? {
        Some(stat) if stat.file_type == FileType::Dir && stat.ino == sys::ROOT_INODE => {}
        _ => return Ok(false),
    }
    let dir = snapshots.open_dir(name)?;
    let id = sys::subvolume(dir.as_fd()).at("get the number of", dir.shown())?.id;
    let bytes = sys::tree_bytes(dir.as_fd(), id).at("get the size of the tree of", dir.shown())?;
    Ok(bytes >= LARGE_TREE_BYTES)
}

/// Moves the subvolume `name` into the directory that belongs to `id`, or leaves it where it is.
pub(super) fn move_aside(snapshots: &Dir, id: Id, name: &OsString) -> Result<()> {
    let around = Beside::Gone.of(id);
    match snapshots.make_dir(&around) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let (dir, around) = (snapshots.open_dir(name)?, snapshots.open_dir(&around)?);
    // A read-only one cannot be moved to another directory.
    let moved = sys::make_writable(dir.as_fd())
        .and_then(|()| rustix::fs::renameat_with(snapshots, name, &around, name, RenameFlags::NOREPLACE));
    if let Err(why) = moved {
        tracing::debug!(path = %dir.shown().display(), %why, "a large subvolume is destroyed where it is");
    }
    Ok(())
}

/// Destroys what was moved aside, and the directory around it.
fn clear_aside(snapshots: &Dir, id: Id) -> Result<()> {
    let around = Beside::Gone.of(id);
    let Some(stat) = snapshots.stat_if_any(&around)? else { return Ok(()) };
    if stat.file_type == FileType::Dir {
        let dir = snapshots.open_dir(&around)?;
        dir.names()?.iter().try_for_each(|entry| clear(&dir, &entry.name))?;
    }
    clear(snapshots, &around)
}
