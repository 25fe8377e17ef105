//! Finds the changes in a copy from its manifest, a record of all inodes that the copy made. A later comparison with
//! the parent only has to look at entries that differ from the record.
//!
//! The manifest lies beside the snapshot and is exactly as durable. If the manifest is missing, damaged, of another
//! boot or of another parent, everything is compared.
//!
//! # Conclusions
//! An entry is unchanged since the copy if its path has the recorded inode number and ctime **and** that ctime is older
//! than [`Manifest::complete`]: two changes within one tick of the clock cannot be told apart. A directory with another
//! inode number than recorded was moved there, and nothing is known about its content. An old ctime alone proves
//! nothing: renaming a directory leaves the ctimes below it unchanged, and clocks can be set back.
//!
//! One walk of the copy finds the changes; the parent is only read for the entries found.
//!
//! # Layout
//! Numbers are little-endian. *varint*: seven bits a byte, the lowest first, the top bit set in all but the last byte.
//! *signed*: a varint of the zigzag code (0, -1, 1, -2, ...).
//!
//! ```text
//! 8 bytes   "strata-m"
//! u32       version, 1
//! 16 bytes  boot id
//! u64       id of the parent
//! i64 u32   seconds and nanoseconds: when the copy was complete, by the clock of the file system
//! for each directory, in canonical order (the root, of an empty path, first):
//!   varint, bytes   its path
//!   stamp           of the directory itself
//!   varint          how many names are in it, then for each, by its bytes:
//!     varint, bytes   the name
//!     stamp           of the inode
//! 32 bytes  sha256 of all before
//! stamp:
//!   signed    inode number less that of the stamp before (of 0 at first), modulo 2^64
//!   signed    seconds of the ctime less those of the stamp before (of the head's at first), modulo 2^64
//!   varint    nanoseconds of the ctime
//! ```

use std::collections::HashMap;
use std::ffi::OsStr;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::slice;

use crate::changeset::selection::{Hint, Selection};
use crate::error::{Error, Result};
use crate::id::{Digest, Id};
use crate::tree::copy::{CopiedDir, CopiedEntry, Stamp};
use crate::tree::walk::{Walk, WalkEntry};
use crate::tree::{Dir, FileType, Timestamp};

const MAGIC: &[u8; 8] = b"strata-m";

/// Version of the layout; a manifest of another version is not read.
const VERSION: u32 = 1;

const DIGEST_BYTES: usize = 32;

/// Maximum length of a varint of 64 bits, in bytes.
const VARINT_BYTES_MAX: u32 = 10;

/// ID of a boot: ctimes are compared within one boot only.
pub(super) type BootId = [u8; 16];

/// Record of the inodes that a copy made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Boot in which the copy was made.
    pub(super) boot: BootId,
    /// Snapshot that was copied.
    pub(super) parent: Id,
    /// Time at which the copy was complete, by the clock that file systems take ctimes from.
    pub(super) complete: Timestamp,
    /// Every directory with its entries, in canonical order.
    pub(super) dirs: Vec<CopiedDir>,
}

impl Manifest {
    /// Returns the manifest in its form on disk.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.boot);
        out.extend_from_slice(&self.parent.0.to_le_bytes());
        out.extend_from_slice(&self.complete.seconds.to_le_bytes());
        out.extend_from_slice(&self.complete.nanos.to_le_bytes());
        let mut last = self.origin();
        for dir in &self.dirs {
            put_bytes(&mut out, dir.path.as_os_str());
            put_stamp(&mut out, &mut last, dir.stamp);
            put_varint(&mut out, dir.entries.len() as u64);
            for entry in &dir.entries {
                put_bytes(&mut out, &entry.name);
                put_stamp(&mut out, &mut last, entry.stamp);
            }
        }
        let digest = Digest::of(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    /// Decodes the result of [`Self::encode`].
    ///
    /// # Errors
    /// `DataLoss` if the bytes are damaged; `Unsupported` for another version.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let Some((body, digest)) = bytes.split_last_chunk::<DIGEST_BYTES>() else { return Err(damaged()) };
        let mut input = Input(body);
        if input.array()? != *MAGIC || Digest::of(body).as_bytes() != digest {
            return Err(damaged());
        }
        let version = u32::from_le_bytes(input.array()?);
        if version != VERSION {
            return Err(Error::unsupported(format!("a manifest of version {version}, this reads {VERSION}")));
        }
        let mut manifest = Self {
            boot: input.array()?,
            parent: Id(u64::from_le_bytes(input.array()?)),
            complete: Timestamp {
                seconds: i64::from_le_bytes(input.array()?),
                nanos: u32::from_le_bytes(input.array()?),
            },
            dirs: Vec::new(),
        };
        let mut last = manifest.origin();
        while !input.0.is_empty() {
            manifest.dirs.push(input.dir(&mut last)?);
        }
        Ok(manifest)
    }

    /// Returns the record of the directory at `path`.
    fn dir(&self, path: &Path) -> Option<&CopiedDir> {
        let found = self.dirs.binary_search_by(|dir| dir.path.as_path().cmp(path));
        found.ok().and_then(|place| self.dirs.get(place))
    }

    /// Returns true if an inode recorded as `made` may have changed, given its current stamp `now`.
    fn is_stale(&self, made: Stamp, now: Stamp) -> bool {
        made != now || now.ctime >= self.complete
    }

    /// Returns the stamp that the first stamp on disk is relative to.
    fn origin(&self) -> Stamp {
        Stamp { ino: 0, ctime: self.complete }
    }
}

impl Hint for Manifest {
    fn name(&self) -> &'static str {
        "manifest"
    }

    fn select(&self, new: &Dir) -> Result<Selection<'_>> {
        let mut reading =
            ManifestWalk { manifest: self, frames: Vec::new(), selection: Selection::nothing(), links: HashMap::new() };
        let mut walk = Walk::new(new)?;
        while let Some(entry) = walk.next_entry()? {
            if !reading.visit(&entry) {
                walk.skip();
            }
        }
        reading.rise_to(None);
        Ok(reading.selection.with_known_links(reading.links))
    }

    /// Damage of the disk changes neither inode numbers nor ctimes.
    fn selects_damaged_files(&self) -> bool {
        false
    }
}

/// A walk of the copy in step with the manifest; both are in the same order.
struct ManifestWalk<'a> {
    manifest: &'a Manifest,
    /// The directories from the root to the current position.
    frames: Vec<Frame<'a>>,
    selection: Selection<'static>,
    /// Paths of the inodes with several names.
    links: HashMap<u64, Vec<PathBuf>>,
}

/// A directory that is still the one recorded for its path.
struct Frame<'a> {
    dir: &'a CopiedDir,
    /// Recorded entries that the walk has not reached yet.
    left: Peekable<slice::Iter<'a, CopiedEntry>>,
}

impl ManifestWalk<'_> {
    /// Looks at one entry; returns false if nothing is known about the content of a directory.
    fn visit(&mut self, entry: &WalkEntry<'_>) -> bool {
        let now = Stamp::from(&entry.stat);
        let made = match entry.path.parent() {
            Some(above) => {
                self.rise_to(Some(above));
                self.entry(entry.name)
            }
            None => self.manifest.dir(entry.path).map(|root| root.stamp),
        };
        if entry.stat.file_type == FileType::Dir {
            return self.directory(entry.path, made, now);
        }
        if made.is_none_or(|made| self.manifest.is_stale(made, now)) {
            self.selection.add(entry.path);
        }
        if entry.stat.nlink > 1 {
            self.links.entry(now.ino).or_default().push(entry.path.to_owned());
        }
        true
    }

    fn directory(&mut self, path: &Path, made: Option<Stamp>, now: Stamp) -> bool {
        let Some(dir) = self.manifest.dir(path).filter(|dir| made.is_some() && dir.stamp.ino == now.ino) else {
            self.selection.add_all(path);
            return false;
        };
        if self.manifest.is_stale(dir.stamp, now) {
            self.selection.add(path);
        }
        self.frames.push(Frame { dir, left: dir.entries.iter().peekable() });
        true
    }

    /// Returns the record of the next entry, `name`. Recorded entries before it are gone and selected.
    fn entry(&mut self, name: &OsStr) -> Option<Stamp> {
        let Frame { dir, left } = self.frames.last_mut()?;
        while let Some(gone) = left.next_if(|made| made.name.as_os_str() < name) {
            self.selection.add(&dir.path.join(&gone.name));
        }
        left.next_if(|made| made.name == name).map(|made| made.stamp)
    }

    /// Leaves the directories that are not `path`; their recorded entries that the walk did not reach are gone and
    /// selected.
    fn rise_to(&mut self, path: Option<&Path>) {
        while let Some(frame) = self.frames.pop_if(|frame| Some(frame.dir.path.as_path()) != path) {
            for gone in frame.left {
                self.selection.add(&frame.dir.path.join(&gone.name));
            }
        }
    }
}

fn damaged() -> Error {
    Error::data_loss("the manifest of a copy is damaged")
}

fn put_bytes(out: &mut Vec<u8>, text: &OsStr) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_stamp(out: &mut Vec<u8>, last: &mut Stamp, stamp: Stamp) {
    put_varint(out, zigzag(stamp.ino.wrapping_sub(last.ino).cast_signed()));
    put_varint(out, zigzag(stamp.ctime.seconds.wrapping_sub(last.ctime.seconds)));
    put_varint(out, stamp.ctime.nanos.into());
    *last = stamp;
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(code: u64) -> i64 {
    (code >> 1).cast_signed() ^ -((code & 1).cast_signed())
}

/// Bytes that are still to be decoded.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn bytes(&mut self) -> Result<&[u8]> {
        let length = usize::try_from(self.varint()?).map_err(|_| damaged())?;
        let (head, rest) = self.0.split_at_checked(length).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for place in 0..VARINT_BYTES_MAX {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f).checked_shl(7 * place).ok_or_else(damaged)?;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged())
    }

    fn stamp(&mut self, last: &mut Stamp) -> Result<Stamp> {
        let ino = last.ino.wrapping_add_signed(unzigzag(self.varint()?));
        let seconds = last.ctime.seconds.wrapping_add(unzigzag(self.varint()?));
        let nanos = u32::try_from(self.varint()?).map_err(|_| damaged())?;
        *last = Stamp { ino, ctime: Timestamp { seconds, nanos } };
        Ok(*last)
    }

    fn dir(&mut self, last: &mut Stamp) -> Result<CopiedDir> {
        let path = Path::new(OsStr::from_bytes(self.bytes()?)).to_path_buf();
        let stamp = self.stamp(last)?;
        let mut dir = CopiedDir { path, stamp, entries: Vec::new() };
        for _ in 0..self.varint()? {
            let name = OsStr::from_bytes(self.bytes()?).to_owned();
            dir.entries.push(CopiedEntry { name, stamp: self.stamp(last)? });
        }
        Ok(dir)
    }
}

#[cfg(test)]
mod tests;
