//! `COPY` and `ADD`: from trees to changes, and to a digest of what is copied.
//!
//! # Decisions
//! - Files keep their times. Directories that nobody described (missing parents of the target) are those of a layer
//!   that does not describe them: 0755 0:0, mtime 0. So the same sources make the same layer, whenever and by whatever
//!   strategy.
//! - What comes from a context belongs to root and has no extended attributes, whoever checked it out on what file
//!   system.
//! - A directory that the target has as a link to one is followed, so that `COPY root/ /` works where `/bin` is a link.
//!
//! # References
//! Dockerfile reference, "COPY", "ADD".

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::context::{Origin, Selected};
use crate::changeset::apply::resolve::{Found, Resolver};
use crate::changeset::blob::{Compression, Decompress, Expansion};
use crate::changeset::{Change, Sink};
use crate::door::{Expected, IngestOptions, ingest};
use crate::error::{Context as _, Error, Result};
use crate::id::Digest;
use crate::tree::walk::WalkEntry;
use crate::tree::{Dir, FileType, Meta, Node, Timestamp, Xattrs};

/// The first bytes of archives whose compression strata does not read.
const OTHER_COMPRESSIONS: [(&str, &[u8]); 2] = [("xz", b"\xfd7zXZ\0"), ("bzip2", b"BZh")];

/// The length of the longest of those.
const MAGIC_BYTES_MAX: u64 = 6;

/// The length of a tar header.
const HEADER_BYTES: usize = 512;

/// What a `COPY` or `ADD` copies, and what it makes of it.
#[derive(Debug)]
pub(super) struct Copying<'a> {
    pub(super) origin: &'a Origin,
    pub(super) selected: &'a [Selected],
    /// Names and contents of here-documents.
    pub(super) texts: &'a [(String, String)],
    /// An absolute path; it ends with a slash if it has to be a directory.
    pub(super) target: &'a str,
    /// Whose it becomes.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<u32>,
    /// Whether archives are unpacked.
    pub(super) unpacks: bool,
    /// The latest time that a file may have, in seconds since 1970.
    pub(super) epoch: Option<i64>,
}

/// Where it goes.
struct Target {
    /// Without links.
    path: PathBuf,
    is_dir: bool,
    /// Whether it is there, or is made for several things: then none of them says what it is.
    is_given: bool,
}

impl<'a> Copying<'a> {
    /// One that copies nothing, and changes nothing of what is added.
    pub(super) fn nothing(origin: &'a Origin) -> Self {
        Self { origin, selected: &[], texts: &[], target: "/", owner: None, mode: None, unpacks: false, epoch: None }
    }
}

impl Copying<'_> {
    /// A digest of all that is copied, without times.
    pub(super) fn digest(&self) -> Result<Digest> {
        let mut hasher = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for selected in self.selected {
            field(b"source");
            field(selected.name.as_bytes());
            self.origin.visit(selected, &mut |path, entry| {
                let Meta { node, mode, uid, gid, mtime: _, xattrs } = self.meta(entry)?;
                field(path.as_os_str().as_bytes());
                field(format!("{mode:o} {uid} {gid} {xattrs:?} {node:?}").as_bytes());
                if matches!(node, Node::File { .. }) {
                    field(content_digest(entry)?.as_bytes());
                }
                Ok(())
            })?;
        }
        for (name, text) in self.texts {
            field(b"text");
            field(name.as_bytes());
            field(text.as_bytes());
        }
        Ok(Digest::finish(hasher))
    }

    /// Pushes the changes that it makes to the tree `root` into `sink`.
    pub(super) fn write(&self, root: &Dir, ingest: &IngestOptions, sink: &mut dyn Sink) -> Result<()> {
        let mut resolver = Resolver::new(root.try_clone()?);
        let target = self.target(&mut resolver)?;
        for selected in self.selected {
            if selected.stat.file_type == FileType::Dir {
                self.write_dir(selected, &target, &mut resolver, sink)?;
            } else if !(self.unpacks && self.unpack(selected, &target, ingest, sink)?) {
                let path = if target.is_dir { target.path.join(&selected.name) } else { target.path.clone() };
                self.origin.visit(selected, &mut |_, entry| self.put(entry, path.clone(), sink))?;
            }
        }
        for (name, text) in self.texts {
            let path = if target.is_dir { target.path.join(name) } else { target.path.clone() };
            let (uid, gid) = self.owner.unwrap_or_default();
            let node = Node::File { size: text.len() as u64 };
            let mode = self.mode.unwrap_or(0o644);
            let meta = Meta { node, mode, uid, gid, mtime: Timestamp::EPOCH, xattrs: Xattrs::new() };
            sink.change(&Change::Put { path, existed: false, meta }, &mut text.as_bytes())?;
        }
        Ok(())
    }

    fn target(&self, resolver: &mut Resolver) -> Result<Target> {
        let path = Path::new(self.target.trim_matches('/'));
        let is_dir = |selected: &Selected| selected.stat.file_type == FileType::Dir;
        let several = self.selected.len() + self.texts.len() > 1;
        let needs_dir = self.target.ends_with('/') || several || self.selected.iter().any(is_dir);
        match resolver.find(path)? {
            Found::Dir(parent) => Ok(Target { path: parent.path.clone(), is_dir: true, is_given: true }),
            Found::Gap { above, missing } => {
                let first = missing.first().map(|name| above.dir.stat_if_any(name)).transpose()?.flatten();
                if first.is_some() && (needs_dir || missing.len() > 1) {
                    let place = missing.first().map(|name| above.path.join(name)).unwrap_or_default();
                    return Err(Error::precondition(format!("/{} is there and no directory", place.display())));
                }
                let path = missing.iter().fold(above.path.clone(), |path, name| path.join(name));
                Ok(Target { path, is_dir: needs_dir, is_given: several })
            }
        }
    }

    /// The content of a directory; the directory itself only if there is none yet.
    fn write_dir(
        &self,
        selected: &Selected,
        target: &Target,
        resolver: &mut Resolver,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let mut names: HashMap<((u32, u32), u64), PathBuf> = HashMap::new();
        self.origin.visit(selected, &mut |below, entry| {
            let is_root = below.as_os_str().is_empty();
            let path = if is_root { target.path.clone() } else { target.path.join(below) };
            let is_dir = entry.stat.file_type == FileType::Dir;
            if is_dir && ((is_root && target.is_given) || leads_elsewhere(resolver, &path)?) {
                return Ok(());
            }
            if !is_dir && entry.stat.nlink > 1 {
                let known = names.entry((entry.stat.dev, entry.stat.ino)).or_insert_with(|| path.clone());
                if *known != path {
                    let change = Change::Link { path, target: known.clone(), existed: false };
                    return sink.change(&change, &mut io::empty());
                }
            }
            self.put(entry, path, sink)
        })
    }

    fn put(&self, entry: &WalkEntry<'_>, path: PathBuf, sink: &mut dyn Sink) -> Result<()> {
        if entry.stat.file_type == FileType::Socket {
            return Ok(());
        }
        let meta = self.meta(entry)?;
        let mut data: Box<dyn Read> = match meta.node {
            Node::File { .. } => Box::new(entry.dir.open_file(entry.name)?),
            _ => Box::new(io::empty()),
        };
        sink.change(&Change::Put { path, existed: false, meta }, &mut data)
    }

    /// What becomes of an entry.
    fn meta(&self, entry: &WalkEntry<'_>) -> Result<Meta> {
        let mut meta = entry.dir.meta(entry.name, &entry.stat)?;
        if self.origin.is_context {
            (meta.uid, meta.gid) = (0, 0);
            meta.xattrs.clear();
        }
        self.adjust(&mut meta);
        Ok(meta)
    }

    fn adjust(&self, meta: &mut Meta) {
        if let Some((uid, gid)) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        if let (Some(mode), false) = (self.mode, matches!(meta.node, Node::Symlink { .. })) {
            meta.mode = mode;
        }
        meta.mtime = clamped(meta.mtime, self.epoch);
    }

    /// Unpacks an archive; false if it is none.
    fn unpack(
        &self,
        selected: &Selected,
        target: &Target,
        options: &IngestOptions,
        sink: &mut dyn Sink,
    ) -> Result<bool> {
        let mut unpacked = false;
        self.origin.visit(selected, &mut |_, entry| {
            if entry.stat.file_type != FileType::File {
                return Ok(());
            }
            let shown = entry.dir.shown_at(entry.name);
            let mut file = entry.dir.open_file(entry.name)?;
            if is_archive(&mut file, &shown)? {
                unpacked = true;
                let blob = options.detect(file, shown.display().to_string())?;
                let mut below = Below { target: &target.path, copying: self, sink: &mut *sink };
                ingest::decode(blob, &Expected::default(), options, &mut below)
                    .map_err(|error| error.context(format!("unpacking {}", shown.display())))?;
            }
            Ok(())
        })?;
        Ok(unpacked)
    }
}

/// A time, no later than `epoch`.
pub(super) fn clamped(time: Timestamp, epoch: Option<i64>) -> Timestamp {
    match epoch {
        Some(seconds) => time.min(Timestamp { seconds, nanos: 0 }),
        None => time,
    }
}

/// Whether the tree has at `path` a link to a directory, or at a parent of it.
fn leads_elsewhere(resolver: &mut Resolver, path: &Path) -> Result<bool> {
    Ok(matches!(resolver.find(path)?, Found::Dir(found) if found.path != path))
}

fn content_digest(entry: &WalkEntry<'_>) -> Result<Digest> {
    let mut hasher = Sha256::new();
    let mut file = entry.dir.open_file(entry.name)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut buffer).at("read", entry.dir.shown_at(entry.name))?;
        if count == 0 {
            return Ok(Digest::finish(hasher));
        }
        hasher.update(&buffer[..count]);
    }
}

/// Refuses what `ADD` would have to unpack and cannot.
///
/// # Errors
/// `Unsupported`; what the file system reports.
pub(super) fn check_archives(origin: &Origin, selected: &[Selected]) -> Result<()> {
    for selected in selected.iter().filter(|selected| selected.stat.file_type == FileType::File) {
        origin.visit(selected, &mut |_, entry| {
            check_compression(&mut entry.dir.open_file(entry.name)?, &entry.dir.shown_at(entry.name))
        })?;
    }
    Ok(())
}

/// Refuses a file that is compressed in a way which strata does not read.
fn check_compression(file: &mut File, shown: &Path) -> Result<()> {
    let mut start = Vec::new();
    file.by_ref().take(MAGIC_BYTES_MAX).read_to_end(&mut start).at("read", shown)?;
    match OTHER_COMPRESSIONS.iter().find(|(_, magic)| start.starts_with(magic)) {
        None => Ok(()),
        Some((name, _)) => Err(Error::unsupported(format!(
            "{} is compressed by {name}, which ADD does not unpack: use gzip, zstd or COPY",
            shown.display()
        ))),
    }
}

/// Whether a file is a tar archive, compressed or not; it is read from its beginning again afterwards.
fn is_archive(file: &mut File, shown: &Path) -> Result<bool> {
    check_compression(file, shown)?;
    file.rewind().at("read", shown)?;
    let mut header = Vec::new();
    // What is damaged, or no archive inside, is a file like any other.
    let read = decompress(file.try_clone().at("duplicate descriptor of", shown)?, shown)
        .map(|plain| plain.take(HEADER_BYTES as u64).read_to_end(&mut header));
    file.rewind().at("read", shown)?;
    Ok(matches!(read, Ok(Ok(HEADER_BYTES))) && has_checksum(&header))
}

/// Whether a block is the header of a tar entry: its checksum says so.
fn has_checksum(block: &[u8]) -> bool {
    let (Some(before), Some(field), Some(after)) = (block.get(..148), block.get(148..156), block.get(156..512)) else {
        return false;
    };
    let digits: String = field.iter().map(|byte| char::from(*byte)).collect();
    let stated = u32::from_str_radix(digits.trim_matches([' ', '\0']), 8).ok();
    let sum = before.iter().chain(after).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
    stated == Some(sum)
}

fn decompress(file: File, shown: &Path) -> Result<impl Read> {
    use io::BufRead as _;
    let mut input = BufReader::new(file);
    let compression = Compression::detect(input.fill_buf().at("read", shown)?)?;
    Decompress::new(input, compression, Expansion::default(), shown.display().to_string())
}

/// Puts what an archive holds below the target.
struct Below<'a, 'b> {
    target: &'a Path,
    copying: &'a Copying<'a>,
    sink: &'b mut dyn Sink,
}

impl Sink for Below<'_, '_> {
    fn change(&mut self, change: &Change, data: &mut dyn Read) -> Result<()> {
        let below =
            |path: &Path| if path.as_os_str().is_empty() { self.target.to_owned() } else { self.target.join(path) };
        let moved = match change {
            // The root of an archive says nothing about a directory that exists, and a missing one is made anyway.
            Change::Put { path, .. } if path.as_os_str() == OsStr::new("") => return Ok(()),
            Change::Put { path, existed, meta } => {
                let mut meta = meta.clone();
                self.copying.adjust(&mut meta);
                Change::Put { path: below(path), existed: *existed, meta }
            }
            Change::Link { path, target, existed } => {
                Change::Link { path: below(path), target: below(target), existed: *existed }
            }
            Change::Remove { path } | Change::Opaque { path } => {
                return Err(Error::invalid(format!(
                    "{}: the archive has a name that begins with .wh., which an image cannot have",
                    path.display()
                )));
            }
        };
        self.sink.change(&moved, data)
    }
}
