//! Writes a layer: each stream of changes has exactly one encoding, so that equal changes give equal digests.
//!
//! # Encoding
//! An entry is one ustar header ([`super::header::Ustar`]), the content, and NULs up to the next block. Values that do
//! not fit in a ustar header are in a PAX header before it (type `x`, name [`PAX_NAME`], mode 0644, owner 0:0, mtime
//! 0), with these records, each only where it is needed, in this order:
//!
//! | record | when | the ustar field then |
//! |---|---|---|
//! | `hdrcharset=BINARY` | `path` or `linkpath` follow and are not UTF-8 | |
//! | `path` | longer than 100 bytes, and no `/` splits it into a prefix of at most 155 and a name of at most 100 | its first 100 bytes, without a `/` at the end |
//! | `linkpath` | longer than 100 bytes | its first 100 bytes |
//! | `size` | 8 GiB and more | 0 |
//! | `uid`, `gid` | above 2,097,151 | 0 |
//! | `mtime` | negative, after the year 2242, or with a fraction: nine digits at most, no trailing zeros | whole seconds if they fit, else 0 |
//! | `SCHILY.xattr.NAME` | for each attribute, by the bytes of the names | |
//! | `LIBARCHIVE.xattr.NAME` | in the place of the former if NAME holds `=` | |
//!
//! A path is split at the last `/` that allows it. There is no atime, ctime, uname or gname. Names are relative; a
//! directory's name ends in `/`, the root is `./`. Device numbers are zero except for devices. A hard link has type
//! `1`, no content, and the attributes of its inode, because containerd and Docker set them again. A whiteout is an
//! empty regular file of mode 0, owner 0:0, mtime 0, and so is the mark of an opaque directory. Two zero blocks end the
//! archive, without padding to a record: a layer without changes is 1,024 zero bytes.
//!
//! # Ancestors
//! A reader that does not look at the layers below creates missing parents as 0755 root. So each entry is preceded by
//! those of its ancestors, from the root on, that the stream did not contain.
//!
//! Invariant: no path is written twice. The stream is in the canonical order, which is checked, so only the path of the
//! last written directory has to be remembered.
//!
//! # References
//! OCI image specification, `layer.md`; POSIX.1-2024 `pax`.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::decode::{DEVICE_MAJOR_MAX, DEVICE_MINOR_MAX};
use super::header::{BLOCK_BYTES, ID_MAX, NAME_BYTES, PREFIX_BYTES, Ustar, WIDE_MAX};
use super::limits::{PATH_BYTES_MAX, PATH_DEPTH_MAX, PAX_BYTES_MAX};
use super::names::{NAME_BYTES_MAX, OPAQUE_NAME, WHITEOUT_PREFIX, is_reserved};
use super::pax::{format_time, push_record, push_xattr};
use crate::changeset::{Change, Sink, past_common};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::tree::{Device, MODE_MASK, Meta, Node, Timestamp, Xattrs, xattr_is_portable};

/// Name of a PAX header: a reader without PAX support creates a file of this name.
const PAX_NAME: &[u8] = b"././@PaxHeader";

/// Mode of a PAX header.
const PAX_MODE: u32 = 0o644;

/// Buffer size for file content.
const COPY_BYTES: usize = 128 << 10;

/// Returns the attributes of a path in the new tree: for ancestors that the stream does not contain, with the mtime
/// that the parent snapshot gives them, and for the targets of hard links.
pub type Describe<'a> = dyn FnMut(&Path) -> Result<Meta> + 'a;

/// Precision of written modification times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtimePrecision {
    /// Full precision.
    Nanoseconds,
    /// Rounded down to seconds, as in Docker's layers.
    Seconds,
}

/// A [`Sink`] that writes a layer. After an error the output is not a valid layer.
pub struct Encoder<'a, W> {
    writer: W,
    precision: MtimePrecision,
    describe: &'a mut Describe<'a>,
    /// Last written directory: it and its ancestors are in the archive.
    open: Option<PathBuf>,
    last: Option<Position>,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Encoder<'a, W> {
    /// Creates an encoder that writes to `writer`, which need not be buffered.
    pub fn new(writer: W, precision: MtimePrecision, describe: &'a mut Describe<'a>) -> Self {
        Self { writer, precision, describe, open: None, last: None, buffer: Vec::new() }
    }

    /// Writes the end of the archive and returns the writer, not flushed.
    ///
    /// # Errors
    /// Errors of the writer. Without this call the archive is truncated.
    pub fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK_BYTES])?;
        Ok(self.writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).at("write", "layer")
    }

    /// Checks that `position` is next in the canonical order, and writes missing ancestors.
    fn enter(&mut self, position: Position) -> Result<()> {
        if let Some(last) = &self.last
            && !last.precedes(&position)
        {
            return Err(Error::invalid(format!("the change of {:?} after that of {:?}", position.path, last.path)));
        }
        let parent = if position.last == Last::Opaque { Some(&*position.path) } else { position.path.parent() };
        if let Some(parent) = parent {
            self.open_dir(parent)?;
        }
        self.last = Some(position);
        Ok(())
    }

    fn open_dir(&mut self, dir: &Path) -> Result<()> {
        if self.open.as_deref() == Some(dir) {
            return Ok(());
        }
        let mut ancestors: Vec<&Path> = dir.ancestors().collect();
        ancestors.reverse();
        // The root, and the directories that this path has in common with the last one.
        let written = self.open.as_ref().map_or(0, |open| 1 + shared_names(open, dir));
        for ancestor in ancestors.into_iter().skip(written) {
            let meta = (self.describe)(ancestor)?;
            if meta.node != Node::Dir {
                let found = meta.node.file_type();
                return Err(Error::invalid(format!("{ancestor:?} is a {found}, yet a change is below it")));
            }
            self.write_inode(ancestor, &meta)?;
        }
        self.open = Some(dir.to_path_buf());
        Ok(())
    }

    fn put(&mut self, path: &Path, meta: &Meta, data: &mut dyn Read) -> Result<()> {
        let is_dir = match meta.node {
            Node::Socket => return Ok(()),
            Node::Dir => true,
            _ if path.as_os_str().is_empty() => return Err(Error::invalid("the root can only be a directory")),
            _ => false,
        };
        self.enter(Position { path: path.to_path_buf(), last: if is_dir { Last::Dir } else { Last::Leaf } })?;
        self.write_inode(path, meta)?;
        if is_dir {
            self.open = Some(path.to_path_buf());
        }
        match meta.node {
            Node::File { size } => self.write_content(size, data),
            _ => Ok(()),
        }
    }

    fn link(&mut self, path: &Path, target: &Path) -> Result<()> {
        check_path(target)?;
        if target == path {
            return Err(Error::invalid("a hard link to itself"));
        }
        self.enter(Position { path: path.to_path_buf(), last: Last::Leaf })?;
        let meta = (self.describe)(target)?;
        if matches!(meta.node, Node::Dir | Node::Socket) {
            return Err(Error::invalid(format!("a hard link to {target:?}, a {}", meta.node.file_type())));
        }
        let mut member = Member::new(b'1', path.as_os_str().as_bytes().to_vec(), &meta);
        member.link = target.as_os_str().as_bytes();
        self.write_member(&member)
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        let name = path.file_name().ok_or_else(|| Error::invalid("the root cannot be removed"))?;
        if WHITEOUT_PREFIX.len() + name.len() > NAME_BYTES_MAX {
            return Err(Error::invalid("the name is too long for a whiteout: its directory has to be opaque"));
        }
        self.enter(Position { path: path.to_path_buf(), last: Last::Removed })?;
        let parent = path.parent().unwrap_or(Path::new(""));
        self.write_mark(parent, &[WHITEOUT_PREFIX, name.as_bytes()].concat())
    }

    fn opaque(&mut self, path: &Path) -> Result<()> {
        self.enter(Position { path: path.to_path_buf(), last: Last::Opaque })?;
        self.write_mark(path, OPAQUE_NAME)
    }

    /// Writes the empty file that marks a deletion.
    fn write_mark(&mut self, dir: &Path, name: &[u8]) -> Result<()> {
        let meta = Meta {
            node: Node::File { size: 0 },
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::EPOCH,
            xattrs: Xattrs::new(),
        };
        let path = dir.join(OsStr::from_bytes(name));
        self.write_member(&Member::new(b'0', path.into_os_string().into_encoded_bytes(), &meta))
    }

    /// Writes the header of anything but a hard link.
    fn write_inode(&mut self, path: &Path, meta: &Meta) -> Result<()> {
        let mut name = path.as_os_str().as_bytes().to_vec();
        let kind = match &meta.node {
            Node::File { .. } => b'0',
            Node::Symlink { .. } => b'2',
            Node::Char(_) => b'3',
            Node::Block(_) => b'4',
            Node::Dir => b'5',
            Node::Fifo => b'6',
            Node::Socket => return Err(Error::invalid("a socket has no place in a layer")),
        };
        if meta.node == Node::Dir {
            name.extend_from_slice(if name.is_empty() { b"./" } else { b"/" });
        }
        let mut member = Member::new(kind, name, meta);
        match &meta.node {
            Node::File { size } => member.size = *size,
            Node::Symlink { target } => member.link = target,
            Node::Char(device) | Node::Block(device) => member.device = checked(*device)?,
            _ => {}
        }
        self.write_member(&member)
    }

    fn write_member(&mut self, member: &Member<'_>) -> Result<()> {
        let blocks = member.blocks(self.precision)?;
        self.write(&blocks)
    }

    fn write_content(&mut self, size: u64, data: &mut dyn Read) -> Result<()> {
        self.buffer.resize(COPY_BYTES, 0);
        let mut left = size;
        loop {
            // Reads one byte more than announced, so that a file that grew is detected.
            let wanted = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX).min(COPY_BYTES);
            let count = match data.read(&mut self.buffer[..wanted]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                answer => answer.at("read", "its content")?,
            };
            if count as u64 > left {
                return Err(Error::data_loss(format!("the file is longer than the {size} bytes it was said to have")));
            }
            if count == 0 {
                break;
            }
            self.writer.write_all(&self.buffer[..count]).at("write", "layer")?;
            left -= count as u64;
        }
        if left > 0 {
            return Err(Error::data_loss(format!("the file ends {left} bytes before the {size} it was said to have")));
        }
        self.write(&[0; BLOCK_BYTES][..padding(size)])
    }
}

impl<W: Write> Sink for Encoder<'_, W> {
    /// # Errors
    /// `InvalidArgument` that names the path: for a name that begins with `.wh.`, because a reader would take the file
    /// for a deletion; for a removal whose whiteout would exceed the length of a name; for a change out of the
    /// canonical order; for a device 0:0 or outside Linux's range. `DataLoss` for content that is longer or shorter
    /// than announced. `ResourceExhausted` for attributes and paths beyond [`super::Limits`]. Errors of `describe` and
    /// of the writer.
    fn change(&mut self, change: &Change, data: &mut dyn Read) -> Result<()> {
        let written = check_path(change.path()).and_then(|()| match change {
            Change::Put { path, meta, .. } => self.put(path, meta, data),
            Change::Link { path, target, .. } => self.link(path, target),
            Change::Remove { path } => self.remove(path),
            Change::Opaque { path } => self.opaque(path),
        });
        written.map_err(|error| error.context(format!("writing {:?} to the layer", change.path())))
    }
}

impl<W> fmt::Debug for Encoder<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("open", &self.open).field("last", &self.last).finish_non_exhaustive()
    }
}

/// An entry before encoding.
struct Member<'m> {
    kind: u8,
    name: Vec<u8>,
    link: &'m [u8],
    size: u64,
    device: Device,
    meta: &'m Meta,
}

impl<'m> Member<'m> {
    fn new(kind: u8, name: Vec<u8>, meta: &'m Meta) -> Self {
        Self { kind, name, link: b"", size: 0, device: Device::default(), meta }
    }

    /// Returns the headers as bytes of the archive.
    fn blocks(&self, precision: MtimePrecision) -> Result<Vec<u8>> {
        let mut mtime = self.meta.mtime;
        if precision == MtimePrecision::Seconds {
            mtime.nanos = 0;
        }
        let (prefix, name, path_fits) = match split(&self.name) {
            Some((prefix, name)) => (prefix, name, true),
            None => (&b""[..], shortened(&self.name), false),
        };
        let records = self.records(path_fits, mtime);
        if records.len() > PAX_BYTES_MAX {
            let message = format!("attributes of {} bytes: no reader accepts more than {PAX_BYTES_MAX}", records.len());
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
        let mut blocks = if records.is_empty() { Vec::new() } else { pax_header(&records) };
        let header = Ustar {
            prefix,
            name,
            link: &self.link[..self.link.len().min(NAME_BYTES)],
            kind: self.kind,
            mode: self.meta.mode & MODE_MASK,
            uid: fitting(self.meta.uid.into(), ID_MAX),
            gid: fitting(self.meta.gid.into(), ID_MAX),
            size: fitting(self.size, WIDE_MAX),
            mtime: u64::try_from(mtime.seconds).map_or(0, |seconds| fitting(seconds, WIDE_MAX)),
            device: self.device,
        };
        blocks.extend_from_slice(&header.block());
        Ok(blocks)
    }

    /// Returns the PAX records for values that the ustar header cannot hold.
    fn records(&self, path_fits: bool, mtime: Timestamp) -> Vec<u8> {
        let mut records = Vec::new();
        let link_fits = self.link.len() <= NAME_BYTES;
        let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
        if (!path_fits && !is_text(&self.name)) || (!link_fits && !is_text(self.link)) {
            push_record(&mut records, b"hdrcharset", b"BINARY");
        }
        if !path_fits {
            push_record(&mut records, b"path", &self.name);
        }
        if !link_fits {
            push_record(&mut records, b"linkpath", self.link);
        }
        let numbers: [(&[u8], u64, u64); 3] = [
            (b"size", self.size, WIDE_MAX),
            (b"uid", self.meta.uid.into(), ID_MAX),
            (b"gid", self.meta.gid.into(), ID_MAX),
        ];
        for (key, value, most) in numbers {
            if value > most {
                push_record(&mut records, key, value.to_string().as_bytes());
            }
        }
        if mtime.nanos != 0 || !u64::try_from(mtime.seconds).is_ok_and(|seconds| seconds <= WIDE_MAX) {
            push_record(&mut records, b"mtime", format_time(mtime).as_bytes());
        }
        for (name, value) in self.meta.xattrs.iter().filter(|(name, _)| xattr_is_portable(name)) {
            push_xattr(&mut records, name, value);
        }
        records
    }
}

/// Returns the PAX header with `records`.
fn pax_header(records: &[u8]) -> Vec<u8> {
    let header = Ustar {
        prefix: b"",
        name: PAX_NAME,
        link: b"",
        kind: b'x',
        mode: PAX_MODE,
        uid: 0,
        gid: 0,
        size: records.len() as u64,
        mtime: 0,
        device: Device::default(),
    };
    let mut blocks = header.block().to_vec();
    blocks.extend_from_slice(records);
    blocks.resize(blocks.len().next_multiple_of(BLOCK_BYTES), 0);
    blocks
}

/// Splits a path into ustar's two fields.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME_BYTES {
        return Some((b"", path));
    }
    // The last byte is excluded: a directory's final slash belongs to its name.
    let within = &path[..path.len().min(PREFIX_BYTES + 2) - 1];
    let slash = within.iter().rposition(|byte| *byte == b'/')?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    (name.len() <= NAME_BYTES).then_some((prefix, name))
}

/// Returns the content of the name field for a path with a PAX record.
fn shortened(path: &[u8]) -> &[u8] {
    let first = &path[..path.len().min(NAME_BYTES)];
    first.strip_suffix(b"/").unwrap_or(first)
}

fn fitting(value: u64, most: u64) -> u64 {
    if value <= most { value } else { 0 }
}

fn padding(size: u64) -> usize {
    let over = (size % BLOCK_BYTES as u64) as usize;
    if over == 0 { 0 } else { BLOCK_BYTES - over }
}

fn checked(device: Device) -> Result<Device> {
    let Device { major, minor } = device;
    if (major, minor) == (0, 0) {
        return Err(Error::invalid("device 0:0 is overlayfs's whiteout, not a device"));
    }
    if major > DEVICE_MAJOR_MAX || minor > DEVICE_MINOR_MAX {
        return Err(Error::invalid(format!("the device {major}:{minor} is out of range")));
    }
    Ok(device)
}

/// How many names two paths have in common before they part.
fn shared_names(one: &Path, other: &Path) -> usize {
    one.iter().zip(other).take_while(|(name, rival)| name == rival).count()
}

/// Refuses paths that a tree or a layer cannot contain.
fn check_path(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= PATH_BYTES_MAX || path.iter().count() > PATH_DEPTH_MAX {
        let message = format!("the path has {} bytes and lies {} deep", bytes.len(), path.iter().count());
        return Err(Error::new(ErrorKind::ResourceExhausted, format!("{message}: our own reader would refuse it")));
    }
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    if !bytes.is_empty() && !bytes.split(|byte| *byte == b'/').all(is_name) {
        return Err(Error::invalid(format!("the path {path:?} is not relative and clean")));
    }
    if is_reserved(path) {
        return Err(Error::invalid(format!(
            "{path:?} has a name that begins with \".wh.\", which means a deletion in a layer: rename or remove it"
        )));
    }
    Ok(())
}

/// Position of a change in the canonical order.
#[derive(Debug)]
struct Position {
    path: PathBuf,
    last: Last,
}

/// Kind of the last name in a position's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Removed,
    Leaf,
    Dir,
    Opaque,
}

impl Position {
    fn precedes(&self, next: &Self) -> bool {
        let (ours, theirs) = past_common(&self.path, &next.path);
        let (mut ours, mut theirs) = (ours.components(), theirs.components());
        loop {
            match (ours.next(), theirs.next()) {
                (Some(our), Some(their)) if our == their => {}
                (Some(our), Some(their)) => {
                    let our_rank = self.last != Last::Removed || ours.next().is_some();
                    let their_rank = next.last != Last::Removed || theirs.next().is_some();
                    return our_rank.cmp(&their_rank).then_with(|| our.cmp(&their)) == Ordering::Less;
                }
                (None, Some(_)) => return matches!(self.last, Last::Dir | Last::Opaque),
                (Some(_), None) => return false,
                (None, None) => return self.last == Last::Dir && next.last == Last::Opaque,
            }
        }
    }
}
