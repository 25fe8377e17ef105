//! Decides whether two inodes at the same path differ: the only comparison that decides what is a change.
//!
//! A hint of a strategy only narrows the paths to compare; the answer is always given here.

use std::ffi::OsStr;
use std::fs::File;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::tree::{Dir, FileType, Stat};

/// One read: large enough that system calls do not count, small enough to stay in the second-level cache.
const BUFFER_BYTES: usize = 128 * 1024;

/// An inode where it stands: `name` in `dir`, or `dir` itself if the name is empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct InodeAt<'a> {
    pub(super) dir: &'a Dir,
    pub(super) name: &'a OsStr,
    pub(super) stat: Stat,
}

/// Whether the new inode is no change against the old one. A directory's mtime and content are not looked at.
///
/// # Errors
/// Errors of reading either file; an error that names a file which shrank meanwhile.
pub(super) fn same(old: &InodeAt<'_>, new: &InodeAt<'_>) -> Result<bool> {
    let (before, now) = (&old.stat, &new.stat);
    if before.dev == now.dev && before.ino == now.ino {
        return Ok(true);
    }
    if before.file_type != now.file_type || before.uid != now.uid || before.gid != now.gid {
        return Ok(false);
    }
    let alike = match now.file_type {
        FileType::Dir => before.mode == now.mode,
        FileType::Symlink => {
            before.mtime == now.mtime && old.dir.read_link(old.name)? == new.dir.read_link(new.name)?
        }
        FileType::Char | FileType::Block => times_and_modes(before, now) && before.device == now.device,
        FileType::File => times_and_modes(before, now) && before.size == now.size,
        FileType::Fifo | FileType::Socket => times_and_modes(before, now),
    };
    if !alike || old.dir.xattrs(old.name)? != new.dir.xattrs(new.name)? {
        return Ok(false);
    }
    if now.file_type == FileType::File && now.size > 0 { same_bytes(old, new) } else { Ok(true) }
}

fn times_and_modes(before: &Stat, now: &Stat) -> bool {
    before.mtime == now.mtime && before.mode == now.mode
}

/// Compares the bytes of two files of the same size; where both have a hole nothing is read.
fn same_bytes(old: &InodeAt<'_>, new: &InodeAt<'_>) -> Result<bool> {
    let size = new.stat.size;
    let (old_file, new_file) = (ComparedFile::open(old)?, ComparedFile::open(new)?);
    let capacity = usize::try_from(size).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
    let (mut old_buffer, mut new_buffer) = (vec![0; capacity], vec![0; capacity]);
    let mut offset = 0;
    while offset < size {
        let from = old_file.next_data(offset)?.min(new_file.next_data(offset)?);
        let length = usize::try_from(size - from).unwrap_or(capacity).min(capacity);
        old_file.read(from, &mut old_buffer[..length])?;
        new_file.read(from, &mut new_buffer[..length])?;
        if old_buffer[..length] != new_buffer[..length] {
            return Ok(false);
        }
        offset = from + length as u64;
    }
    Ok(true)
}

/// An open file that is being compared.
struct ComparedFile<'a> {
    entry: &'a InodeAt<'a>,
    file: File,
    /// Whether it can have holes: it occupies less than its length.
    sparse: bool,
}

impl<'a> ComparedFile<'a> {
    fn open(entry: &'a InodeAt<'a>) -> Result<Self> {
        let file = entry.dir.open_file(entry.name)?;
        Ok(Self { entry, file, sparse: entry.stat.allocated < entry.stat.size })
    }

    /// Where the next byte lies that is not in a hole; the file's size if there is none.
    fn next_data(&self, offset: u64) -> Result<u64> {
        if !self.sparse {
            return Ok(offset);
        }
        match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(found) => Ok(found.min(self.entry.stat.size)),
            Err(Errno::NXIO) => Ok(self.entry.stat.size),
            // A file system that does not know holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(offset),
            Err(errno) => Err(errno).at("seek in", self.entry.dir.shown_at(self.entry.name)),
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let shown = || self.entry.dir.shown_at(self.entry.name);
            match rustix::io::pread(&self.file, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => return Err(shrank(&self.entry.dir.shown_at(self.entry.name))),
                Ok(length) => filled += length,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).at("read", shown()),
            }
        }
        Ok(())
    }
}

/// The error for a file that has fewer bytes than its `stat` said.
pub(super) fn shrank(path: &std::path::Path) -> Error {
    Error::precondition(format!("{} became shorter while it was read", path.display()))
}
