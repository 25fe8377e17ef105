//! Making inodes: few system calls for an ordinary file, and nothing inherited from the directory or the process.
//!
//! The kernel gives a new inode other attributes in a set-gid directory, or below a default ACL, than elsewhere. Such a
//! parent is not *plain*, and every inode that is made in it gets all its attributes set.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::{Applier, ResolvedName};
use crate::changeset::Segment;
use crate::error::{Context, Error, Result};
use crate::tree::resolve::Parent;
use crate::tree::{Device, MODE_MASK, Meta, Node, Xattrs, xattr_is_portable};

/// Number of bytes that one read takes of a file's data.
const BUFFER_BYTES: usize = 256 * 1024;

/// An aligned block of this many zero bytes becomes a hole: the largest block size of the file systems in use, so that
/// no hole is smaller than what it saves.
const HOLE_BYTES: usize = 64 * 1024;

/// The mode bits that `open` sets; the others need a `chmod`.
const OPEN_MODE_MASK: u32 = 0o777;

/// Above these the kernel's device numbers end.
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

/// The attributes of files that have just been made in a plain directory.
#[derive(Debug, Default)]
pub(super) struct Creation {
    /// Their owner, once one was looked at.
    owner: Option<(u32, u32)>,
    /// Which mode comes out, by the mode that was asked for: the umask takes its part.
    modes: BTreeMap<u32, u32>,
    buffer: Vec<u8>,
    /// The segments of the next file, whose data has these alone.
    pub(super) segments: Option<Vec<Segment>>,
}

impl Creation {
    /// Whether a new inode in `parent` belongs to `uid`:`gid` already.
    fn owns(&self, parent: &Parent, meta: &Meta) -> bool {
        parent.plain && self.owner == Some((meta.uid, meta.gid))
    }
}

impl Applier {
    /// Checks what an entry of a layer wants to be, and takes away the attributes that it cannot have.
    pub(super) fn acceptable(&mut self, path: &Path, meta: &Meta) -> Result<Meta> {
        let refuse = |why: &str| Err(Error::invalid(format!("{}: {why}", path.display())));
        match meta.node {
            Node::Char(device) if device == Device::default() => {
                return refuse("a character device 0:0 in a layer would hide a file: it is refused");
            }
            Node::Char(Device { major, minor }) | Node::Block(Device { major, minor })
                if major > MAJOR_MAX || minor > MINOR_MAX =>
            {
                return refuse(&format!("{major}:{minor} is no device number"));
            }
            Node::Socket => return refuse("a layer cannot hold a socket"),
            _ => {}
        }
        if meta.mtime.nanos >= 1_000_000_000 {
            return refuse("the mtime has more than a second of nanoseconds");
        }
        let keeps_user = matches!(meta.node, Node::File { .. } | Node::Dir);
        let mut xattrs = Xattrs::new();
        for (name, value) in &meta.xattrs {
            if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
                return refuse(&format!(
                    "the attribute {} in a layer would forge the state of overlayfs: it is refused",
                    String::from_utf8_lossy(name)
                ));
            }
            if !xattr_is_portable(name) || (name.starts_with(b"user.") && !keeps_user) {
                self.applied.dropped_xattrs += 1;
            } else {
                xattrs.insert(name.clone(), value.clone());
            }
        }
        Ok(Meta { node: meta.node.clone(), mode: meta.mode & MODE_MASK, xattrs, ..*meta })
    }

    /// Makes anything but a directory, in place of whatever is there.
    pub(super) fn create(&mut self, place: &ResolvedName, meta: &Meta, data: &mut dyn Read) -> Result<()> {
        let made = self.try_create(place, meta, data);
        match made {
            Err(error) if error.errno() == Some(Errno::EXIST) => {
                self.clear(&place.parent, &place.name, &place.path)?;
                self.try_create(place, meta, data)
            }
            made => made,
        }
    }

    fn try_create(&mut self, place: &ResolvedName, meta: &Meta, data: &mut dyn Read) -> Result<()> {
        let ResolvedName { parent, name, .. } = place;
        match &meta.node {
            Node::File { size } => self.create_file(parent, name, meta, *size, data),
            Node::Symlink { target } => {
                parent.dir.make_symlink(target, name)?;
                self.give(parent, name, meta)?;
                parent.dir.set_mtime(name, meta.mtime)
            }
            Node::Char(device) | Node::Block(device) => self.create_device(place, *device, meta),
            node => {
                parent.dir.make_node(node.file_type(), Device::default(), name)?;
                parent.dir.set_meta(name, meta)
            }
        }
    }

    /// A device that the caller may not make is left out: so it is in every user namespace.
    fn create_device(&mut self, place: &ResolvedName, device: Device, meta: &Meta) -> Result<()> {
        let ResolvedName { parent, name, path } = place;
        match parent.dir.make_node(meta.node.file_type(), device, name) {
            Err(error) if error.errno() == Some(Errno::PERM) => {
                // `EPERM` comes before `EEXIST`.
                self.clear(parent, name, path)?;
                self.keep_waiting(path)?;
                self.skipped.insert(path.clone());
                self.applied.skipped_devices += 1;
                Ok(())
            }
            made => made.and_then(|()| parent.dir.set_meta(name, meta)),
        }
    }

    /// Sets the owner and the extended attributes of a new inode.
    fn give(&self, parent: &Parent, name: &OsStr, meta: &Meta) -> Result<()> {
        if !self.creation.owns(parent, meta) {
            parent.dir.set_owner(name, meta.uid, meta.gid)?;
        }
        if parent.plain {
            meta.xattrs.iter().try_for_each(|(attribute, value)| parent.dir.set_xattr(name, attribute, value))
        } else {
            parent.dir.set_xattrs(name, &meta.xattrs)
        }
    }

    fn create_file(
        &mut self,
        parent: &Parent,
        name: &OsStr,
        meta: &Meta,
        size: u64,
        data: &mut dyn Read,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let asked = meta.mode & OPEN_MODE_MASK;
        let fd = rustix::fs::openat(&parent.dir, name, flags, Mode::from_raw_mode(asked))
            .at("create", parent.dir.place(name))?;
        let file = File::from(fd);
        self.creation.buffer.resize(BUFFER_BYTES, 0);
        let all = vec![Segment { offset: 0, length: size }];
        let segments = self.creation.segments.take().unwrap_or(all);
        write(&file, size, &segments, data, &mut self.creation.buffer).at("write", parent.dir.place(name))?;
        let mode = self.mode_of_new(parent, name, asked)?;
        self.give(parent, name, meta)?;
        // An ACL may have changed the mode.
        if mode != Some(meta.mode) || !meta.xattrs.is_empty() {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(meta.mode)).at("chmod", parent.dir.place(name))?;
        }
        let time = Timespec { tv_sec: meta.mtime.seconds, tv_nsec: meta.mtime.nanos.into() };
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })
            .at("set the times of", parent.dir.place(name))
    }

    /// The mode of the new file `name`, for which `asked` was asked, if it is known without looking. Looks once for
    /// each mode, at the owner too.
    fn mode_of_new(&mut self, parent: &Parent, name: &OsStr, asked: u32) -> Result<Option<u32>> {
        if !parent.plain {
            return Ok(None);
        }
        if let Some(known) = self.creation.modes.get(&asked) {
            return Ok(Some(*known));
        }
        let stat = parent.dir.stat(name)?;
        self.creation.owner = Some((stat.uid, stat.gid));
        self.creation.modes.insert(asked, stat.mode);
        Ok(Some(stat.mode))
    }

    /// Makes an empty directory that only its maker can enter, with nothing inherited.
    pub(super) fn make_dir(&mut self, parent: &Parent, name: &OsStr, path: &Path) -> Result<()> {
        self.touch(parent);
        parent.dir.make_dir(name)?;
        if !self.is_purged(parent) {
            // It outlives a removal, and nothing was below it.
            self.ledger.note_used(path);
            self.ledger.purge(path);
        }
        if parent.plain {
            return Ok(());
        }
        parent.dir.set_xattrs(name, &Xattrs::new())?;
        parent.dir.set_mode(name, libc::S_IRWXU)
    }
}

/// Writes an empty file of `size` bytes whose `segments` come from `data`, zeros as holes.
fn write(file: &File, size: u64, segments: &[Segment], data: &mut dyn Read, buffer: &mut [u8]) -> io::Result<()> {
    let mut written = 0;
    for Segment { offset, length } in segments {
        if offset.checked_add(*length).is_none_or(|end| end > size) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a segment ends behind the end of its file"));
        }
        written = written.max(write_segment(file, *offset, *length, data, buffer)?);
    }
    if written < size { file.set_len(size) } else { Ok(()) }
}

/// Writes `length` bytes of `data` at `offset`, zeros as holes; returns the end of the last byte that was written.
fn write_segment(file: &File, offset: u64, length: u64, data: &mut dyn Read, buffer: &mut [u8]) -> io::Result<u64> {
    let (mut at, end, mut written) = (offset, offset + length, 0);
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(buffer.len()).min(buffer.len());
        let piece = &mut buffer[..wanted];
        data.read_exact(piece)?;
        let mut blocks = piece.chunks(HOLE_BYTES).peekable();
        let mut start = 0;
        while start < piece.len() {
            let is_zero = |block: &&[u8]| block.iter().all(|byte| *byte == 0);
            let skip: usize = std::iter::from_fn(|| blocks.next_if(is_zero)).map(<[u8]>::len).sum();
            start += skip;
            let length: usize = std::iter::from_fn(|| blocks.next_if(|block| !is_zero(block))).map(<[u8]>::len).sum();
            if length > 0 {
                file.write_all_at(&piece[start..start + length], at + start as u64)?;
                written = at + (start + length) as u64;
            }
            start += length;
        }
        at += wanted as u64;
    }
    Ok(written)
}
