//! Reads a layer: turns any archive into a stream of changes, or one error.
//!
//! The archive is not trusted. Every number is checked before it is used, and memory is bounded by [`Limits`]. Where
//! tar readers are known to disagree (two names for one entry, a header after a single zero block), the layer is
//! refused. File content that the sink does not read is skipped, and the stream is read to its very end, so that a
//! digest computed below covers all of it.
//!
//! # Accepted forms
//! - ustar, pre-POSIX and GNU headers, GNU long names (`L`, `K`), PAX (`x`), and all four forms of sparse files.
//! - An entry of a type without content (links, directories, devices, fifos) has no content, whatever its size field
//!   says. POSIX says so for all types but hard links; Go's reader, and so most container engines, do the same for hard
//!   links.
//! - The attributes in a hard link's own entry are ignored: the inode has those of its target.
//! - A regular file's entry whose name ends in `/` is a directory; its content is skipped.
//!
//! # References
//! OCI image specification, `layer.md`; POSIX.1-2024 `pax`; GNU tar manual, "Extensions".

use std::io::{self, Read};
use std::path::PathBuf;

use super::blocks::{Blocks, Next};
use super::header::{BLOCK_BYTES, Header, Kind};
use super::limits::Limits;
use super::names::{self, Meaning};
use super::pax::Pax;
use super::sparse::{self, Body, Data};
use crate::changeset::{Change, Piece, Sink};
use crate::error::{Error, ErrorKind, Result};
use crate::tree::{Device, MODE_MASK, Meta, Node, Timestamp, xattr_is_portable};

/// Statistics of a decoded layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Number of entries, including whiteouts and ignored entries.
    pub entries: u64,
    /// Bytes of the archive, to the very end.
    pub bytes: u64,
    /// Number of those bytes after the two zero blocks.
    pub trailing_bytes: u64,
}

/// Reads the archive from `reader` to its end, and passes its changes and its pieces to `sink` in the order of the
/// archive.
///
/// Every [`Change::Put`] and [`Change::Link`] has `existed: false`. Extended attributes that are not portable
/// ([`xattr_is_portable`]) are dropped. A layer with attributes of overlayfs is refused, on every strategy.
///
/// # Errors
/// The message names the entry and the byte offset of its header; the cause says what is wrong. `DataLoss` for damaged
/// or truncated data; `InvalidArgument` for a well-formed archive that is not a layer;
/// `ResourceExhausted` beyond `limits`; errors of `reader` and `sink`.
pub fn decode(reader: &mut dyn Read, limits: &Limits, sink: &mut dyn Sink) -> Result<Decoded> {
    let blocks = Blocks::new(reader, limits.total_bytes);
    let mut decoder = Decoder { blocks, limits, sink, ahead: Ahead::default(), entries: 0, file_bytes: 0 };
    let trailing_bytes = decoder.run()?;
    decoder.hand_over()?;
    Ok(Decoded { entries: decoder.entries, bytes: decoder.blocks.offset(), trailing_bytes })
}

struct Decoder<'a, 'r> {
    blocks: Blocks<'r>,
    limits: &'a Limits,
    sink: &'a mut dyn Sink,
    ahead: Ahead,
    entries: u64,
    file_bytes: u64,
}

/// Extended headers that precede an entry's own header.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Ahead {
    pub(super) fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }

    pub(super) fn pax(&self) -> Option<&Pax> {
        self.pax.as_ref()
    }

    /// Returns the path as written.
    pub(super) fn name(&self, header: &Header) -> Result<Vec<u8>> {
        let real = |pax: &Pax| pax.sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let pax = self.pax().and_then(|pax| real(pax).or_else(|| pax.path.clone()));
        one_of(pax, self.long_name.clone(), "path").map(|name| name.unwrap_or_else(|| header.name()))
    }

    /// Returns the link target as written.
    pub(super) fn link_name(&self, header: &Header) -> Result<Vec<u8>> {
        let pax = self.pax().and_then(|pax| pax.linkpath.clone());
        let name = one_of(pax, self.long_link.clone(), "link target")?;
        Ok(name.unwrap_or_else(|| header.link_name().to_vec()))
    }

    /// Returns the length of the body of an extended header.
    pub(super) fn length(&self, header: &Header, kind: Kind, limits: &Limits) -> Result<usize> {
        let taken = match kind {
            Kind::Pax => self.pax.is_some(),
            Kind::LongName => self.long_name.is_some(),
            _ => self.long_link.is_some(),
        };
        if taken {
            return Err(Error::invalid("two extended headers of one type for one entry"));
        }
        // A GNU long name ends with a NUL that counts in its size.
        let bytes_max = if kind == Kind::Pax { limits.pax_bytes } else { limits.path_bytes.saturating_add(1) };
        let size = header.size()?;
        usize::try_from(size).ok().filter(|length| *length <= bytes_max).ok_or_else(|| {
            let message = format!("an extended header of {size} bytes: the limit is {bytes_max}");
            Error::new(ErrorKind::ResourceExhausted, message)
        })
    }

    /// Stores the content of an extended header for the entry that follows.
    pub(super) fn keep(&mut self, kind: Kind, mut body: Vec<u8>, limits: &Limits) -> Result<()> {
        if kind == Kind::Pax {
            self.pax = Some(Pax::parse(&body, limits)?);
            return Ok(());
        }
        // Readers disagree whether bytes after a NUL belong to the name, so such a name is refused.
        let name_bytes = body.iter().position(|byte| *byte == 0).unwrap_or(body.len());
        if body[name_bytes..].iter().any(|byte| *byte != 0) {
            return Err(Error::invalid("a NUL byte inside a GNU long name"));
        }
        body.truncate(name_bytes);
        match kind {
            Kind::LongName => self.long_name = Some(body),
            _ => self.long_link = Some(body),
        }
        Ok(())
    }
}

/// Returns the long name given by PAX or by GNU; refuses an entry where both are given and differ, because readers
/// disagree which one counts.
fn one_of(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>, what: &str) -> Result<Option<Vec<u8>>> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => {
            Err(Error::invalid(format!("PAX and GNU headers give it a different {what} each")))
        }
        (pax, gnu) => Ok(pax.or(gnu)),
    }
}

impl Decoder<'_, '_> {
    /// Reads the whole archive; returns the number of trailing bytes.
    fn run(&mut self) -> Result<u64> {
        loop {
            let at = self.blocks.offset();
            let next = self.blocks.header()?;
            if !matches!(next, Next::Header(_)) && !self.ahead.is_empty() {
                return Err(Error::data_loss(format!("the archive ends at byte {at}, inside an entry")));
            }
            match next {
                Next::Header(block) => {
                    self.header(&block, at)?;
                    self.hand_over()?;
                }
                Next::Zeros => return self.trailer(),
                // Some builders write a layer without changes as no byte at all.
                Next::Nothing => return Ok(0),
            }
        }
    }

    /// Reads everything after the first zero block, so that a reader below which computes digests has seen all bytes.
    /// Returns the number of bytes after the second zero block. Zeros at the very end are padding, however many there
    /// are.
    fn trailer(&mut self) -> Result<u64> {
        let mut trailing = self.blocks.second_zeros()?;
        loop {
            let (count, others) = self.blocks.take_trailing()?;
            if count == 0 {
                return Ok(trailing);
            }
            let end = if others > 0 { trailing + others } else { 0 };
            trailing += count;
            let Limits { trailing_bytes, padding_bytes, .. } = self.limits;
            for (seen, max) in [(end, trailing_bytes), (trailing, padding_bytes)] {
                if seen > *max {
                    let message = format!("more than {max} bytes follow the end of the archive");
                    return Err(Error::new(ErrorKind::ResourceExhausted, message));
                }
            }
            self.hand_over()?;
        }
    }

    fn header(&mut self, block: &[u8; BLOCK_BYTES], at: u64) -> Result<()> {
        let place = |error: Error| error.context(format!("header at byte {at}"));
        let header = Header::parse(block).map_err(place)?;
        let kind = header.kind().map_err(|error| error.context(entry_place(&header.name(), at)))?;
        match kind {
            Kind::Pax | Kind::LongName | Kind::LongLink => self.read_ahead(&header, kind).map_err(place),
            Kind::Skipped => {
                let size = header.size().map_err(place)?;
                self.skip_body(size).map_err(place)
            }
            kind => {
                let ahead = std::mem::take(&mut self.ahead);
                let name = ahead.name(&header).map_err(place)?;
                self.entry(&header, kind, &ahead, &name)
                    .map_err(|error| error.context(format!("entry {:?} at byte {at}", String::from_utf8_lossy(&name))))
            }
        }
    }

    /// Stores a PAX header or a GNU long name for the entry that follows.
    fn read_ahead(&mut self, header: &Header, kind: Kind) -> Result<()> {
        let length = self.ahead.length(header, kind, self.limits)?;
        let body = self.blocks.bytes(length)?;
        self.ahead.keep(kind, body, self.limits)
    }

    fn entry(&mut self, header: &Header, kind: Kind, ahead: &Ahead, name: &[u8]) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            let message = format!("more than {} entries", self.limits.entries);
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
        refuse_overlay_xattrs(ahead)?;
        let path = names::clean(name, self.limits)?;
        let body = self.body(header, kind, ahead)?;
        let change = match names::meaning(path)? {
            Meaning::Inode(path) => {
                let kind = if name.ends_with(b"/") && is_file(kind) { Kind::Dir } else { kind };
                self.inode(header, kind, ahead, path, body.size)?
            }
            Meaning::Whiteout(path) => Change::Remove { path },
            Meaning::Opaque(path) => Change::Opaque { path },
            Meaning::Private => return self.skip_body(body.stored),
        };
        if !matches!(&change, Change::Put { meta: Meta { node: Node::File { .. }, .. }, .. }) {
            self.sink.change(&change, &mut io::empty())?;
            return self.skip_body(body.stored);
        }
        self.file_bytes = self.file_bytes.saturating_add(body.size);
        if self.file_bytes > self.limits.total_bytes {
            let message = format!("the files of the layer are longer than {} bytes", self.limits.total_bytes);
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
        self.hand_over()?;
        self.sink.piece(Piece::Content(&body.segments))?;
        let body = if body.has_holes() && self.sink.sparse(&body.segments) { Body::dense(body.stored) } else { body };
        let mut data = Data::new(&mut self.blocks, body);
        self.sink.change(&change, &mut data)?;
        data.drain()
    }

    fn inode(&self, header: &Header, kind: Kind, ahead: &Ahead, path: PathBuf, size: u64) -> Result<Change> {
        if kind != Kind::Dir && path.as_os_str().is_empty() {
            return Err(Error::invalid("the root can only be a directory"));
        }
        let node = match kind {
            Kind::Link => {
                let target = names::link_target(&ahead.link_name(header)?, self.limits)?;
                if target == path {
                    return Err(Error::invalid("a hard link to itself"));
                }
                return Ok(Change::Link { path, target, existed: false });
            }
            Kind::Symlink => Node::Symlink { target: self.symlink_target(ahead.link_name(header)?)? },
            Kind::Char => Node::Char(device(header)?),
            Kind::Block => Node::Block(device(header)?),
            Kind::Fifo => Node::Fifo,
            Kind::Dir => Node::Dir,
            _ => Node::File { size },
        };
        Ok(Change::Put { path, existed: false, meta: meta(header, ahead.pax(), node)? })
    }

    fn symlink_target(&self, target: Vec<u8>) -> Result<Vec<u8>> {
        if target.is_empty() || target.contains(&0) {
            return Err(Error::invalid("a symbolic link to an empty path, or one with a NUL byte"));
        }
        if target.len() > self.limits.path_bytes {
            let message = format!("a link target of {} bytes: the limit is {}", target.len(), self.limits.path_bytes);
            return Err(Error::new(ErrorKind::ResourceExhausted, message));
        }
        Ok(target)
    }

    /// Returns a description of the content after the header; reads a sparse map that precedes the content.
    fn body(&mut self, header: &Header, kind: Kind, ahead: &Ahead) -> Result<Body> {
        if !is_file(kind) {
            return Ok(Body::dense(0));
        }
        let stored = match ahead.pax().and_then(|pax| pax.size) {
            Some(size) => size,
            None => header.size()?,
        };
        match (kind, ahead.pax().and_then(|pax| pax.sparse.as_ref())) {
            (Kind::Sparse, Some(_)) => Err(Error::invalid("two sparse maps for one entry")),
            (Kind::Sparse, None) => sparse::gnu(header, stored, self.limits, &mut || self.blocks.block()),
            (_, Some(map)) => sparse::pax(map, stored, self.limits, &mut || self.blocks.block()),
            (_, None) => Ok(Body::dense(stored)),
        }
    }

    /// Skips content that no file gets.
    fn skip_body(&mut self, stored: u64) -> Result<()> {
        let mut left = stored;
        while left > 0 {
            left -= self.blocks.take_some(left)?;
            self.hand_over()?;
        }
        self.blocks.align()
    }

    /// Passes the bytes read from the archive to the sink.
    fn hand_over(&mut self) -> Result<()> {
        let taken = self.blocks.taken();
        if !taken.is_empty() {
            self.sink.piece(Piece::Bytes(taken))?;
            taken.clear();
        }
        Ok(())
    }
}

/// Formats the name and offset of an entry for messages, shortening a long name.
fn entry_place(name: &[u8], at: u64) -> String {
    /// Maximum length that is shown: a few lines of a terminal.
    const SHOWN_BYTES_MAX: usize = 300;
    let (shown, more) = match name.get(..SHOWN_BYTES_MAX) {
        Some(first) => (first, "..."),
        None => (name, ""),
    };
    format!("entry {:?}{more} at byte {at}", String::from_utf8_lossy(shown))
}

fn is_file(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::Sparse)
}

/// Refuses attributes of overlayfs: an image with an "opaque" or "redirect" attribute would give different trees on
/// different strategies.
fn refuse_overlay_xattrs(ahead: &Ahead) -> Result<()> {
    let overlays = |name: &&Vec<u8>| name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    match ahead.pax().and_then(|pax| pax.xattrs.keys().find(overlays)) {
        Some(name) => Err(Error::invalid(format!("the attribute \"{}\" belongs to overlayfs", name.escape_ascii()))),
        None => Ok(()),
    }
}

fn meta(header: &Header, pax: Option<&Pax>, node: Node) -> Result<Meta> {
    let mtime = match pax.and_then(|pax| pax.mtime) {
        Some(mtime) => mtime,
        None => Timestamp { seconds: header.mtime()?, nanos: 0 },
    };
    let uid = pax.and_then(|pax| pax.uid).map_or_else(|| header.uid(), Ok)?;
    let gid = pax.and_then(|pax| pax.gid).map_or_else(|| header.gid(), Ok)?;
    let xattrs = pax.into_iter().flat_map(|pax| &pax.xattrs).filter(|(name, _)| xattr_is_portable(name));
    Ok(Meta {
        node,
        mode: u32::try_from(header.mode()? & i64::from(MODE_MASK)).unwrap_or(0),
        uid: owner(uid, "uid")?,
        gid: owner(gid, "gid")?,
        mtime,
        xattrs: xattrs.map(|(name, value)| (name.clone(), value.clone())).collect(),
    })
}

/// Converts an owner. The largest 32-bit number means "unchanged" to `chown`, and larger ones would wrap around,
/// possibly to root.
fn owner(id: u64, what: &str) -> Result<u32> {
    match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Error::invalid(format!("the {what} {id} is out of range"))),
    }
}

/// Largest major number on Linux: 12 bits.
pub(super) const DEVICE_MAJOR_MAX: u32 = 0xfff;

/// Largest minor number on Linux: 20 bits.
pub(super) const DEVICE_MINOR_MAX: u32 = 0xf_ffff;

fn device(header: &Header) -> Result<Device> {
    let (major, minor) = header.device()?;
    let part = |value, most| u32::try_from(value).ok().filter(|value| *value <= most);
    match (part(major, DEVICE_MAJOR_MAX), part(minor, DEVICE_MINOR_MAX)) {
        (Some(0), Some(0)) => Err(Error::invalid("device 0:0 is overlayfs's whiteout, not a device")),
        (Some(major), Some(minor)) => Ok(Device { major, minor }),
        _ => Err(Error::invalid(format!("the device {major}:{minor} is out of range"))),
    }
}
