//! Subvolumes that a user created inside a snapshot: found through their root references, never by walking.
//!
//! A subvolume is identified by the number of its tree, the inode of the directory that holds it, and its name there.
//! Directories are opened by inode number, so a path that is too long, or that a user changes meanwhile, does no harm.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::IFlags;
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::sys::btrfs::{self as sys, Nested};
use crate::tree::Dir;

/// Number of attempts to destroy a subvolume in which new subvolumes keep appearing.
const ATTEMPTS_MAX: u32 = 16;

/// Flags of `chattr` that forbid changing a directory or destroying a subvolume.
const LOCKS: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);

/// Returns the subvolumes directly inside the one with the root directory `root`.
pub(super) fn list(root: &Dir) -> Result<Vec<Nested>> {
    let id = tree_id(root)?;
    sys::nested(root.as_fd(), id).at("look for subvolumes in", root.shown())
}

fn tree_id(root: &Dir) -> Result<u64> {
    Ok(sys::subvolume(root.as_fd()).at("get the number of", root.shown())?.id)
}

/// Returns the path of `nested` from the root of the outer subvolume, for messages only. If the kernel cannot tell the
/// path, the directory's inode number is shown instead.
fn place(root: &Dir, nested: &Nested) -> PathBuf {
    match sys::dir_path(root.as_fd(), nested.outer, nested.dir) {
        Ok(dir) => dir.join(&nested.name),
        Err(_) => PathBuf::from(format!("(inode {})", nested.dir)).join(&nested.name),
    }
}

fn open(root: &Dir, tree: u64, inode: u64, shown: PathBuf) -> Result<Dir> {
    let fd = sys::open_dir(root.as_fd(), tree, inode).at("open directory", &shown)?;
    Ok(Dir::from_fd(fd, shown))
}

/// Checks that a layer can hold the subvolumes `inside` as empty directories.
///
/// # Errors
/// `FailedPrecondition` that names the first one which is not empty, and the command that removes it.
pub(super) fn require_empty(root: &Dir, inside: &[Nested]) -> Result<()> {
    for nested in inside {
        let place = place(root, nested);
        let shown = root.shown().join(&place);
        if !open(root, nested.id, sys::ROOT_INODE, shown.clone())?.names()?.is_empty() {
            return Err(Error::precondition(format!(
                "{place:?} is a subvolume with content, which a layer cannot hold: copy it to a directory, or remove \
                 it with: btrfs subvolume delete {shown:?}"
            )));
        }
    }
    Ok(())
}

/// Replaces the placeholders in `copy` with plain directories that have the attributes of the subvolumes `inside`.
/// `copy` is a writable snapshot of the outer subvolume. The parent directories keep their times.
pub(super) fn flatten(copy: &Dir, inside: &[Nested]) -> Result<()> {
    let tree = tree_id(copy)?;
    for nested in inside {
        let shown = copy.shown().join(place(copy, nested));
        let subvolume = open(copy, nested.id, sys::ROOT_INODE, shown.clone())?;
        let meta = subvolume.meta("", &subvolume.stat("")?)?;
        let holder = open(copy, tree, nested.dir, shown.parent().unwrap_or(copy.shown()).to_owned())?;
        let mtime = holder.stat("")?.mtime;
        holder.remove_dir(&nested.name)?;
        holder.make_dir(&nested.name)?;
        holder.set_meta(&nested.name, &meta)?;
        holder.set_mtime("", mtime)?;
    }
    Ok(())
}

/// Destroys the subvolume `name` in `snapshots` with all subvolumes inside it at any depth, the innermost first,
/// lifting any flags that forbid it.
pub(super) fn destroy(snapshots: &Dir, name: &OsStr) -> Result<()> {
    let top = snapshots.open_dir(name)?;
    unlock(top.as_fd(), top.as_fd()).at("lift the immutable flag of", top.shown())?;
    for _ in 0..ATTEMPTS_MAX {
        destroy_inside(&top)?;
        match sys::destroy(snapshots.as_fd(), name) {
            Err(Errno::NOTEMPTY) => {}
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno).at("destroy the subvolume", top.shown()),
        }
    }
    Err(filled_again(top.shown()))
}

fn destroy_inside(top: &Dir) -> Result<()> {
    let shown_in = |outer: &Path, nested: Nested| (outer.join(place(top, &nested)), nested, 0);
    let mut waiting: Vec<_> = list(top)?.into_iter().map(|nested| shown_in(top.shown(), nested)).collect();
    while let Some((shown, nested, attempts)) = waiting.pop() {
        match destroy_one(top, &nested) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY) if attempts < ATTEMPTS_MAX => {
                let inside = sys::nested(top.as_fd(), nested.id).at("look for subvolumes in", &shown)?;
                let inside: Vec<_> = inside.into_iter().map(|nested| shown_in(&shown, nested)).collect();
                waiting.push((shown, nested, attempts + 1));
                waiting.extend(inside);
            }
            Err(Errno::NOTEMPTY) => return Err(filled_again(&shown)),
            Err(errno) => return Err(errno).at("destroy the subvolume", shown),
        }
    }
    Ok(())
}

fn destroy_one(top: &Dir, nested: &Nested) -> Result<(), Errno> {
    let holder = sys::open_dir(top.as_fd(), nested.outer, nested.dir)?;
    match sys::destroy(holder.as_fd(), &nested.name) {
        Err(Errno::ROFS | Errno::PERM) => {
            // The outer subvolume may be read-only; it is made writable because it is about to be destroyed as well.
            let outer = sys::open_dir(top.as_fd(), nested.outer, sys::ROOT_INODE)?;
            let root = sys::open_dir(top.as_fd(), nested.id, sys::ROOT_INODE)?;
            sys::make_writable(outer.as_fd())?;
            unlock(outer.as_fd(), holder.as_fd())?;
            unlock(root.as_fd(), root.as_fd())?;
            sys::destroy(holder.as_fd(), &nested.name)
        }
        answer => answer,
    }
}

/// Clears the immutable and append-only flags of `dir`, a directory in the subvolume with the root directory `root`.
fn unlock(root: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = rustix::fs::ioctl_getflags(dir)?;
    if !flags.intersects(LOCKS) {
        return Ok(());
    }
    sys::make_writable(root)?;
    rustix::fs::ioctl_setflags(dir, flags - LOCKS)
}

fn filled_again(path: &Path) -> Error {
    Error::precondition(format!(
        "{}: a process keeps creating subvolumes inside: end the processes that use it",
        path.display()
    ))
}
