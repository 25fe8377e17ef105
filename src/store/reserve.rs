//! Space that is kept for removals. A removal first writes to the database's log, and a full disk has no room for that.
//!
//! `reserve/0` to `reserve/7` are files of allocated blocks, whose content is never read. A removal that finds the disk
//! full unlinks one of the files, which frees an inode too, and is tried again. The first change of a process makes
//! missing files again, and so does a drain that frees a snapshot. The files take at most one part in [`SHARE`] of the
//! free space ([`SHARE_OF_LITTLE`] on a small disk): the last room of a disk belongs to its user.
//!
//! A removal that a quota refuses uses the files as well. The length of the files follows from the free space of the
//! whole file system, because `statvfs` does not report quota groups of btrfs.
//!
//! # Crash behaviour
//! A file is allocated before it gets its name, so each name stands for its whole space. The files are no part of a
//! store's state: a store without the files works, except for removals on a full disk.
//!
//! # References
//! `fallocate(2)`; `open(2)`, `O_TMPFILE`; `statvfs(3)`.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, FallocateFlags, Mode, OFlags, StatVfs, access};
use rustix::io::Errno;

use super::Store;
use super::db::meta;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::store_files;

/// The number of files. A removal may need several, because another process may take the space that one of them frees.
const PIECES: u64 = 8;

/// The smallest useful file: a removal writes some ten pages of 4 KiB to the log, and SQLite maps 32 KiB for its index.
const PIECE_BYTES_MIN: u64 = 32 << 10;

/// The largest useful file: all files together hold the log of a removal of some 20,000 snapshots at once.
const PIECE_BYTES_MAX: u64 = 2 << 20;

/// The reserve takes at most this fraction (one part in `SHARE`) of the free bytes and the free inodes.
const SHARE: u64 = 64;

/// The same fraction where little is left, so that each file has the length [`PIECE_BYTES_MIN`].
const SHARE_OF_LITTLE: u64 = 16;

/// The state of a store's reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reserve {
    /// The number of files that are there.
    pub pieces: u64,
    /// The number of files of a whole reserve.
    pub pieces_whole: u64,
    /// The allocated bytes of the files that are there.
    pub bytes: u64,
}

impl Reserve {
    /// Reads the state of the reserve of the store at `root`.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) fn of(root: &Path) -> Result<Self> {
        let mut found = Self { pieces: 0, pieces_whole: PIECES, bytes: 0 };
        for path in pieces(root) {
            match rustix::fs::lstat(&path) {
                Err(Errno::NOENT) => {}
                stat => {
                    found.pieces += 1;
                    found.bytes += stat.at("stat", &path)?.st_blocks as u64 * 512;
                }
            }
        }
        Ok(found)
    }

    /// Returns true if no file is missing.
    pub fn is_whole(&self) -> bool {
        self.pieces == self.pieces_whole
    }
}

impl Store {
    /// Calls `work`, which frees space. While the disk is full, the reserve is given up file by file for `work`.
    pub(super) fn with_reserve<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        with(&self.root, work)
    }

    /// Returns the state of the reserve.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn reserve(&self) -> Result<Reserve> {
        Reserve::of(&self.root)
    }
}

fn pieces(root: &Path) -> impl DoubleEndedIterator<Item = PathBuf> {
    let dir = store_files::reserve(root);
    (0..PIECES).map(move |number| dir.join(number.to_string()))
}

/// Makes the missing files of the reserve, if the file system has plenty of room. A store without a reserve works, so a
/// failure is logged only.
pub(super) fn keep(root: &Path) {
    // The last file is removed first and made last. If it is there, no file is missing.
    let last = pieces(root).next_back().unwrap_or_default();
    if access(&last, Access::EXISTS).is_ok() {
        return;
    }
    if let Err(error) = fill_up(root) {
        tracing::debug!(why = error.chain(), "the reserve for removals on a full disk is not whole");
    }
}

/// Returns the length of a new file on the file system of `stat`; `None` if too few bytes or inodes are left.
fn piece_bytes(stat: &StatVfs) -> Option<u64> {
    let left = stat.f_bavail.saturating_mul(stat.f_frsize);
    let few_inodes = stat.f_files > 0 && stat.f_favail / SHARE_OF_LITTLE < PIECES;
    if few_inodes || left / SHARE_OF_LITTLE < PIECES * PIECE_BYTES_MIN {
        return None;
    }
    Some((left / SHARE / PIECES).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX))
}

fn fill_up(root: &Path) -> Result<()> {
    let Some(bytes) = piece_bytes(&rustix::fs::statvfs(root).at("stat the file system of", root)?) else {
        return Ok(());
    };
    let dir = store_files::reserve(root);
    match rustix::fs::mkdir(&dir, Mode::RWXU) {
        Err(Errno::EXIST) => {}
        made => made.at("make directory", &dir)?,
    }
    pieces(root).try_for_each(|path| make_piece(&dir, &path, bytes))
}

/// Makes the file `path` of the reserve in `dir`, unless it exists.
fn make_piece(dir: &Path, path: &Path, bytes: u64) -> Result<()> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    if access(path, Access::EXISTS).is_ok() {
        return Ok(());
    }
    let file = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR).at("make a file in", dir)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes).at("reserve space in", dir)?;
    let magic = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::linkat(rustix::fs::CWD, magic, rustix::fs::CWD, path, AtFlags::SYMLINK_FOLLOW) {
        // Another process was faster.
        Err(Errno::EXIST) => Ok(()),
        linked => linked.at("name the reserved space", path),
    }
}

/// Removes one file of the reserve. Returns false if none is left.
fn spend(root: &Path) -> Result<bool> {
    for path in pieces(root).rev() {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => return removed.at("give back reserved space by removing", &path).map(|()| true),
        }
    }
    Ok(false)
}

/// Calls `work`, which frees space or only reads. If `work` fails for lack of space, one file of the reserve is removed
/// and `work` is called again. The error of `work` is returned when no file is left.
///
/// # Errors
/// Errors of `work`.
pub(super) fn with<T>(root: &Path, work: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        let error = match work() {
            Err(error) if lacks_space(&error) => error,
            done => return done,
        };
        match spend(root) {
            Ok(true) => tracing::info!(why = error.chain(), "the disk is full: a part of the reserve is used"),
            Ok(false) => return Err(error),
            Err(unspent) => {
                tracing::warn!(why = unspent.chain(), "the reserve cannot be used");
                return Err(error);
            }
        }
    }
}

/// Returns true if `error` says that blocks, inodes or a quota are used up.
fn lacks_space(error: &Error) -> bool {
    match error.errno() {
        Some(errno) => matches!(errno, Errno::NOSPC | Errno::DQUOT),
        None => error.kind() == ErrorKind::ResourceExhausted || meta::may_lack_space(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a separate file system with the store's root in it; `None` if the machine cannot make one.
    fn place(size_bytes: u64) -> Option<crate::mount::scratch::Scratch> {
        let made = crate::mount::scratch::Scratch::new(crate::mount::scratch::FsType::Tmpfs, size_bytes);
        crate::testing::gate("tmpfs", made)
    }

    fn full() -> Error {
        Err::<(), _>(Errno::NOSPC).at("write", "/x").expect_err("full")
    }

    #[test]
    fn it_is_spent_piece_by_piece_and_made_again() {
        let Some(place) = place(512 << 20) else { return };
        keep(place.path());
        let whole = Reserve::of(place.path()).expect("state");
        assert!(whole.is_whole(), "{whole:?}");
        assert!(whole.bytes <= (512 << 20) / SHARE, "{whole:?}");
        let tries = std::cell::Cell::new(0);
        let done = with(place.path(), || {
            tries.set(tries.get() + 1);
            if tries.get() < 4 { Err(full()) } else { Ok(tries.get()) }
        });
        assert_eq!(done.expect("done"), 4);
        assert_eq!(Reserve::of(place.path()).expect("state").pieces, PIECES - 3);
        keep(place.path());
        assert!(Reserve::of(place.path()).expect("state").is_whole());
    }

    #[test]
    fn what_cannot_be_done_fails_with_its_own_error() {
        let Some(place) = place(512 << 20) else { return };
        keep(place.path());
        let error = with(place.path(), || Err::<(), _>(Error::not_found("gone"))).expect_err("not found");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(Reserve::of(place.path()).expect("state").is_whole(), "no space was lacking");
        let error = with(place.path(), || Err::<(), _>(full())).expect_err("full for ever");
        assert_eq!(error.errno(), Some(Errno::NOSPC));
        assert_eq!(Reserve::of(place.path()).expect("state").pieces, 0);
    }

    #[test]
    fn the_last_room_is_the_users() {
        let Some(place) = place(3 << 20) else { return };
        keep(place.path());
        assert_eq!(Reserve::of(place.path()).expect("state").pieces, 0);
    }
}
