//! `streams/<id>.zst`: the tar-split data of the layer that the snapshot `id` was made from
//! ([`crate::changeset::tar_split`]).
//!
//! Invariants: a stream is complete and on disk before the row that has the layer's DiffID is published durably. Every
//! removal of an id removes its stream too.

use std::fs::File;
use std::io::ErrorKind as IoKind;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::changeset::tar_split::TarSplitWriter;
use crate::error::{Context, Result};
use crate::id::Id;
use crate::store_files::{TAR_SPLIT_ENDING, tar_split, tar_split_dir};
use crate::tree::Dir;

/// Begins the stream of `id`, in place of an older one.
pub(super) fn record(root: &Path, id: Id) -> Result<TarSplitWriter> {
    let (dir, path) = (tar_split_dir(root), tar_split(root, id));
    match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() == IoKind::AlreadyExists => {}
        made => made.at("make directory", &dir)?,
    }
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path).at("create", &path)?;
    TarSplitWriter::new(file)
}

/// The stream of `id`, if there is one.
pub(super) fn open(root: &Path, id: Id) -> Result<Option<File>> {
    let path = tar_split(root, id);
    match File::open(&path) {
        Err(error) if error.kind() == IoKind::NotFound => Ok(None),
        opened => opened.at("open", &path).map(Some),
    }
}

/// Links the stream of `from`, if there is one, as the stream of `to` too.
pub(super) fn share(root: &Path, from: Id, to: Id) -> Result<()> {
    match std::fs::hard_link(tar_split(root, from), tar_split(root, to)) {
        Err(error) if error.kind() == IoKind::NotFound => Ok(()),
        linked => linked.at("create", tar_split(root, to)),
    }
}

/// Brings the stream of `id` to disk, if there is one. Returns false if a `syncfs` is needed instead, because a file
/// cannot be opened.
///
/// # Errors
/// Errors of `fsync` alone: then nothing may be assumed to be on disk.
pub(super) fn sync(root: &Path, id: Id) -> Result<bool> {
    let stream = match open(root, id) {
        Ok(Some(stream)) => stream,
        Ok(None) => return Ok(true),
        Err(_) => return Ok(false),
    };
    let (Ok(streams), Ok(above)) = (Dir::open(tar_split_dir(root)), Dir::open(root)) else { return Ok(false) };
    let synced =
        |fd: BorrowedFd<'_>| rustix::io::retry_on_intr(|| rustix::fs::fsync(fd)).at("fsync", tar_split(root, id));
    [stream.as_fd(), streams.as_fd(), above.as_fd()].into_iter().try_for_each(synced)?;
    Ok(true)
}

/// Removes the stream of `id`, if there is one.
pub(super) fn remove(root: &Path, id: Id) -> Result<()> {
    let path = tar_split(root, id);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == IoKind::NotFound => Ok(()),
        removed => removed.at("remove", &path),
    }
}

/// Returns the ids that have a stream.
pub(super) fn inventory(root: &Path) -> Result<Vec<Id>> {
    let names = match Dir::open(tar_split_dir(root)) {
        Err(error) if error.errno() == Some(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        dir => dir?.names()?,
    };
    let id = |name: &str| name.strip_suffix(TAR_SPLIT_ENDING)?.parse().ok();
    Ok(names.iter().filter_map(|name| name.to_str()).filter_map(id).collect())
}

/// Makes a file without a name: it is gone when it is closed.
pub(super) fn spool(dir: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR).at("make a file in", dir).map(File::from)
}
