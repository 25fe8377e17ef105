//! Destroys large subvolumes in a directory of their own.
//!
//! While the kernel destroys a subvolume, it evicts the subvolume's cached data and holds a lock on the parent
//! directory: half a second for 60,000 files, during which no snapshot can be made in that directory. So a large
//! subvolume is first moved into another directory. That move makes the next fsync by any process commit the file
//! system, which takes longer than destroying a small subvolume; small ones are destroyed where they are.

use std::ffi::OsString;
use std::os::fd::AsFd;

use rustix::fs::RenameFlags;

use super::{TemporaryName, clear};
use crate::error::{Context, ErrorKind, Result};
use crate::id::Id;
use crate::sys::btrfs as sys;
use crate::tree::{Dir, FileType};

/// Size of a large tree in bytes: some 8,000 files.
const LARGE_TREE_BYTES: u64 = 4 << 20;

/// Removes the snapshot `id` from `snapshots`. Succeeds if there is nothing.
pub(super) fn remove(snapshots: &Dir, id: Id) -> Result<()> {
    let name = OsString::from(id.to_string());
    // A crash may have left a subvolume that was moved aside.
    clear_aside(snapshots, id)?;
    if is_large(snapshots, &name)? {
        move_aside(snapshots, id, &name)?;
        clear_aside(snapshots, id)?;
    }
    clear(snapshots, &name)
}

/// Returns true if `name` is a subvolume with a large tree.
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

/// Moves the subvolume `name` into the directory that belongs to `id`; if that fails, leaves it where it is.
pub(super) fn move_aside(snapshots: &Dir, id: Id, name: &OsString) -> Result<()> {
    let around = TemporaryName::Gone.of(id);
    match snapshots.make_dir(&around) {
        // A full disk has no room for a directory, and the subvolume is what takes the space.
        Err(error) if error.kind() == ErrorKind::ResourceExhausted => return Ok(()),
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let (dir, around) = (snapshots.open_dir(name)?, snapshots.open_dir(&around)?);
    // A read-only subvolume cannot be moved to another directory.
    let moved = sys::make_writable(dir.as_fd())
        .and_then(|()| rustix::fs::renameat_with(snapshots, name, &around, name, RenameFlags::NOREPLACE));
    if let Err(why) = moved {
        tracing::debug!(path = %dir.shown().display(), %why, "a large subvolume is destroyed where it is");
    }
    Ok(())
}

/// Destroys the subvolumes that were moved aside for `id`, and their directory.
fn clear_aside(snapshots: &Dir, id: Id) -> Result<()> {
    let around = TemporaryName::Gone.of(id);
    let Some(stat) = snapshots.stat_if_any(&around)? else { return Ok(()) };
    if stat.file_type == FileType::Dir {
        let dir = snapshots.open_dir(&around)?;
        dir.names()?.iter().try_for_each(|name| clear(&dir, name))?;
    }
    clear(snapshots, &around)
}
