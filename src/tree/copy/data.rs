//! Copies the content of one file: shared blocks, or bytes with holes kept.
//!
//! `copy_file_range` shares extents itself where the file system can (xfs, btrfs), so the same call serves both.
//!
//! # References
//! `copy_file_range(2)`, `ioctl_ficlone(2)`, `lseek(2)` (`SEEK_DATA`, `SEEK_HOLE`).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::{Errno, retry_on_intr};

use super::CloneMode;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fs_type::FsMagic;
use crate::tree::{Dir, Stat};

/// Read and write size: larger buffers were not faster.
const BUFFER_BYTES: usize = 128 * 1024;

/// Number of bytes that are cloned to test cloning: one block.
const PROBE_BYTES: usize = 4096;

/// Copies file content, and remembers what this pair of file systems does not support.
#[derive(Debug)]
pub(super) struct Contents {
    mode: CloneMode,
    clones: bool,
    copies_ranges: bool,
    buffer: Vec<u8>,
}

impl Contents {
    pub(super) fn new(mode: CloneMode) -> Self {
        Self { mode, clones: true, copies_ranges: true, buffer: Vec::new() }
    }

    /// Copies the content of `source` into the empty file `target`.
    pub(super) fn copy(&mut self, source: &File, target: &File, stat: &Stat, place: impl AsRef<Path>) -> Result<()> {
        let (source, target) = (source.as_fd(), target.as_fd());
        if stat.size == 0 {
            return Ok(());
        }
        if self.mode == CloneMode::Reflink {
            return clone(source, target, &place);
        }
        if stat.allocated >= stat.size {
            return self.copy_range(source, target, 0..stat.size, &place);
        }
        if self.mode == CloneMode::Auto && self.try_clone(source, target) {
            return Ok(());
        }
        self.copy_sparse(source, target, stat.size, &place)
    }

    /// Clones the whole file; for a file with holes that is cheaper than looking for the holes.
    fn try_clone(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> bool {
        if !self.clones {
            return false;
        }
        match rustix::fs::ioctl_ficlone(target, source) {
            Ok(()) => true,
            Err(errno) => {
                // Some errors concern only this file; the next file may still be cloned.
                self.clones = !matches!(errno, Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::INVAL);
                false
            }
        }
    }

    fn copy_sparse(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        size: u64,
        place: &impl AsRef<Path>,
    ) -> Result<()> {
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(source, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => break,
                // The file system does not report holes, so everything is copied as data.
                Err(Errno::INVAL) => return self.copy_range(source, target, 0..size, place),
                Err(errno) => return Err(errno).at("look for data in", place),
            };
            let end = rustix::fs::seek(source, SeekFrom::Hole(data)).at("look for a hole in", place)?.min(size);
            if data >= end {
                break;
            }
            self.copy_range(source, target, data..end, place)?;
            at = end;
        }
        rustix::fs::ftruncate(target, size).at("set the size of", place)
    }

    fn copy_range(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        range: std::ops::Range<u64>,
        place: &impl AsRef<Path>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end && self.mode == CloneMode::Auto && self.copies_ranges {
            let (mut from, mut to) = (at, at);
            let wanted = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let copied =
                retry_on_intr(|| rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), wanted));
            match copied {
                Ok(0) => return Err(shrank(place)),
                Ok(copied) => at += copied as u64,
                // This file cannot be copied with `copy_file_range`; others may.
                Err(Errno::INVAL | Errno::TXTBSY | Errno::PERM) => break,
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS) => self.copies_ranges = false,
                Err(errno) => return Err(errno).at("copy", place),
            }
        }
        self.read_and_write(source, target, at..range.end, place)
    }

    fn read_and_write(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        range: std::ops::Range<u64>,
        place: &impl AsRef<Path>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            self.buffer.resize(BUFFER_BYTES, 0);
            let wanted = usize::try_from(range.end - at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            let length =
                retry_on_intr(|| rustix::io::pread(source, &mut self.buffer[..wanted], at)).at("read", place)?;
            if length == 0 {
                return Err(shrank(place));
            }
            let mut rest = &self.buffer[..length];
            while !rest.is_empty() {
                let written = retry_on_intr(|| rustix::io::pwrite(target, rest, at)).at("write", place)?;
                rest = &rest[written..];
                at += written as u64;
            }
        }
        Ok(())
    }
}

fn shrank(place: &impl AsRef<Path>) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the source of {} shrank while it was copied", place.as_ref().display()))
}

fn clone(source: BorrowedFd<'_>, target: BorrowedFd<'_>, place: &impl AsRef<Path>) -> Result<()> {
    match rustix::fs::ioctl_ficlone(target, source) {
        Err(errno @ (Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL)) => {
            Err(Error::unsupported(format!(
                "{} cannot be a reflink on {}: choose the clone mode auto or bytes, or put the store on btrfs or on xfs \
                 made with reflink=1",
                place.as_ref().display(),
                file_system(target)
            ))
            .with_source(errno))
        }
        Err(Errno::XDEV) => Err(Error::unsupported(format!(
            "{} cannot be a reflink of a file on another file system: choose the clone mode auto or bytes",
            place.as_ref().display()
        ))
        .with_source(Errno::XDEV)),
        answer => answer.at("reflink", place),
    }
}

/// Checks that files in `dir` can share extents; leaves nothing behind.
///
/// # Errors
/// `Unsupported` that names the file system and the cure.
pub(super) fn probe(dir: &Dir) -> Result<()> {
    let unnamed = || {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::openat(dir, c".", flags, Mode::RUSR | Mode::WUSR).at("make an unnamed file in", dir.shown())
    };
    let (source, target) = (unnamed()?, unnamed()?);
    rustix::io::pwrite(&source, &[1; PROBE_BYTES], 0).at("write to an unnamed file in", dir.shown())?;
    clone(source.as_fd(), target.as_fd(), &dir.shown())
}

/// Returns the usual name of the file system that holds `fd`.
fn file_system(fd: BorrowedFd<'_>) -> String {
    FsMagic::of(fd, "a file").map_or_else(|_| "an unknown file system".to_owned(), FsMagic::name)
}
