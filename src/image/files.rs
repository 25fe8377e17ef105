//! The files of a layout, in a directory or in an archive.
//!
//! An uncompressed archive in a file is read in place: its headers are read once, and members at their offsets, in any
//! order. An archive that is compressed or comes through a pipe is first written, decompressed, into an unnamed file in
//! the store, because a manifest may follow the layers that it describes.
//!
//! Invariant: a path is looked up by its clean, relative form, and a path with `..` is not found. Links of an archive
//! lead only to its own members (old docker archives have links for equal layers). Links of a directory are followed,
//! because only a user who may write on this machine could have made them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::Place;
use super::budget::Budget;
use crate::changeset::blob::{Compression, Decompress, Expansion, MAGIC_BYTES};
use crate::changeset::tar::{MemberContent, Stretch, members};
use crate::error::{Context, Error, Result};
use crate::oci::DOCUMENT_BYTES_MAX;
use crate::task::Cancel;

/// Maximum length of an archive that has to be spooled: more than any image, less than a disk.
pub const SPOOL_BYTES_MAX: u64 = 64 << 30;

/// Number of bytes that are read and written at a time.
const BUFFER_BYTES: usize = 128 << 10;

/// Maximum number of links that a path in an archive may lead through.
const LINKS_MAX: usize = 8;

/// The place for a copy of an archive that cannot be read in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spool<'a> {
    /// A directory of the store.
    pub(super) dir: &'a Path,
    pub(super) bytes_max: u64,
    pub(super) cancel: &'a Cancel,
}

/// The files of a layout.
#[derive(Debug)]
pub(super) struct Files {
    place: FilesPlace,
    /// The bytes of documents that may still be read.
    documents: Budget,
}

#[derive(Debug)]
enum FilesPlace {
    Dir(PathBuf),
    Archive { file: Arc<File>, members: HashMap<PathBuf, Member> },
}

/// A member of an archive.
#[derive(Clone, Debug)]
enum Member {
    File { at: u64, size: u64 },
    Sparse { size: u64, stretches: Arc<[Stretch]> },
    Link { target: PathBuf },
}

impl Files {
    /// Opens the layout at `place`.
    ///
    /// # Errors
    /// `NotFound`; `DataLoss` if `place` is neither a directory nor an archive; `Unsupported` for an unknown
    /// compression; `ResourceExhausted` for an archive that has to be spooled and is too long.
    pub(super) fn open(place: &Place, spool: Spool<'_>) -> Result<Self> {
        let place = match place {
            Place::Path(path) if path.is_dir() => FilesPlace::Dir(path.clone()),
            Place::Path(path) => Self::archive(File::open(path).at("open", path)?, spool, place)?,
            Place::Open(file) => Self::archive(file.try_clone().at("open", place.to_string())?, spool, place)?,
        };
        Ok(Self { place, documents: Budget::default() })
    }

    fn archive(mut file: File, spool: Spool<'_>, place: &Place) -> Result<FilesPlace> {
        let shown = place.to_string();
        let mut magic = [0; MAGIC_BYTES];
        let seekable = file.metadata().at("stat", &shown)?.is_file();
        let count = if seekable {
            read_at_most(|buffer, at| file.read_at(buffer, at), &mut magic)
        } else {
            read_at_most(|buffer, _| file.read(buffer), &mut magic)
        };
        let magic = &magic[..count.at("read", &shown)?];
        let compression = Compression::detect(magic).map_err(|error| error.context(shown.clone()))?;
        let plain = if seekable && compression == Compression::None {
            file
        } else if seekable {
            let size = file.metadata().at("stat", &shown)?.len();
            let mut blob = Blob { size, file: Arc::new(file), content: Content::At(0), read: 0 };
            spooled(&mut blob, compression, spool, &shown)?
        } else {
            spooled(&mut magic.chain(file), compression, spool, &shown)?
        };
        let members = index(&plain).map_err(|error| match place {
            Place::Path(_) => error.context(format!("reading the archive {shown}")),
            Place::Open(_) => error.context(format!("reading {shown}")),
        })?;
        Ok(FilesPlace::Archive { file: Arc::new(plain), members })
    }

    /// The file at `path`, if there is one.
    ///
    /// # Errors
    /// `DataLoss` if `path` is not a regular file.
    pub(super) fn find(&self, path: &str) -> Result<Option<Blob>> {
        let Some(clean) = clean(path.as_bytes()) else { return Ok(None) };
        match &self.place {
            FilesPlace::Dir(dir) => {
                let path = dir.join(clean);
                let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
                let file = match File::options().read(true).custom_flags(nonblock).open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    opened => opened.at("open", &path)?,
                };
                let stat = file.metadata().at("stat", &path)?;
                if !stat.is_file() {
                    return Err(Error::data_loss(format!("{} is not a regular file", path.display())));
                }
                Ok(Some(Blob { file: Arc::new(file), content: Content::At(0), size: stat.len(), read: 0 }))
            }
            FilesPlace::Archive { file, members } => {
                let mut path = clean;
                for _ in 0..=LINKS_MAX {
                    match members.get(&path) {
                        None => return Ok(None),
                        Some(Member::File { at, size }) => {
                            let content = Content::At(*at);
                            return Ok(Some(Blob { file: Arc::clone(file), content, size: *size, read: 0 }));
                        }
                        Some(Member::Sparse { size, stretches }) => {
                            let content = Content::Sparse(Arc::clone(stretches));
                            return Ok(Some(Blob { file: Arc::clone(file), content, size: *size, read: 0 }));
                        }
                        Some(Member::Link { target }) => path.clone_from(target),
                    }
                }
                Err(Error::data_loss(format!("more than {LINKS_MAX} links lead from {path:?} to each other")))
            }
        }
    }

    /// Returns the names of the top-level directories that have the file `name`.
    pub(super) fn dirs_with(&self, name: &str) -> Result<Vec<String>> {
        let text = |name: &OsStr| name.to_str().map(str::to_owned);
        let mut dirs = Vec::new();
        match &self.place {
            FilesPlace::Dir(dir) => {
                for entry in dir.read_dir().at("read", dir)? {
                    let entry = entry.at("read", dir)?;
                    let has_file = entry.path().join(name).is_file();
                    dirs.extend(text(&entry.file_name()).filter(|_| has_file));
                }
            }
            FilesPlace::Archive { members, .. } => {
                let top = |path: &PathBuf| {
                    let parent = path.parent().filter(|_| path.ends_with(name))?;
                    text(parent.as_os_str()).filter(|dir| !dir.is_empty() && !dir.contains('/'))
                };
                dirs.extend(members.keys().filter_map(top));
            }
        }
        dirs.sort();
        Ok(dirs)
    }

    /// The file at `path`.
    ///
    /// # Errors
    /// `DataLoss` if there is none.
    pub(super) fn blob(&self, path: &str) -> Result<Blob> {
        self.find(path)?.ok_or_else(|| Error::data_loss(format!("the blob {path} is missing")))
    }

    /// The bytes of the document at `path`, if there is one.
    ///
    /// # Errors
    /// `DataLoss` if the document is longer than [`DOCUMENT_BYTES_MAX`]; `ResourceExhausted` if all documents together
    /// are too long.
    pub(super) fn document(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(mut blob) = self.find(path)? else { return Ok(None) };
        if blob.size > DOCUMENT_BYTES_MAX {
            let size = blob.size;
            return Err(Error::data_loss(format!("{path} has {size} bytes: the limit is {DOCUMENT_BYTES_MAX}")));
        }
        self.documents.take(blob.size)?;
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).at("read", path)?;
        Ok(Some(bytes))
    }
}

/// A file of a layout, read from its start. It is read at offsets, so that readers do not disturb one another.
#[derive(Debug)]
pub(super) struct Blob {
    file: Arc<File>,
    content: Content,
    size: u64,
    read: u64,
}

/// Location of a blob's bytes in its file.
#[derive(Debug)]
enum Content {
    /// The bytes from this offset on.
    At(u64),
    /// The stretches of a sparse file that are not holes.
    Sparse(Arc<[Stretch]>),
}

impl Blob {
    /// Its length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the compression, by the first bytes.
    ///
    /// # Errors
    /// `Unsupported` for a compression that is not known.
    pub(super) fn compression(&self) -> Result<Compression> {
        let mut magic = [0; MAGIC_BYTES];
        let length = MAGIC_BYTES.min(usize::try_from(self.size).unwrap_or(MAGIC_BYTES));
        let count = read_at_most(|buffer, position| self.read_at(buffer, position), &mut magic[..length]);
        Compression::detect(&magic[..count.at("read", "blob")?])
    }
}

impl Blob {
    /// Reads some bytes from `position` on. Returns 0 only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let stretches = match &self.content {
            Content::At(at) => return self.file.read_at(buffer, at + position),
            Content::Sparse(stretches) => stretches,
        };
        let at_most = |end: u64| usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
        let next = stretches.partition_point(|stretch| stretch.offset + stretch.length <= position);
        match stretches.get(next) {
            Some(stretch) if stretch.offset <= position => {
                let length = at_most(stretch.offset + stretch.length);
                self.file.read_at(&mut buffer[..length], stretch.at + (position - stretch.offset))
            }
            hole => {
                let length = at_most(hole.map_or(self.size, |stretch| stretch.offset));
                buffer[..length].fill(0);
                Ok(length)
            }
        }
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.read).unwrap_or(usize::MAX);
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let length = left.min(buffer.len());
        match self.read_at(&mut buffer[..length], self.read)? {
            0 => Err(Error::data_loss("the file became shorter while it was read").into()),
            count => {
                self.read += count as u64;
                Ok(count)
            }
        }
    }
}

fn read_at_most(mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes the decompressed bytes of `reader` into a file without a name.
fn spooled(reader: &mut dyn Read, compression: Compression, spool: Spool<'_>, shown: &str) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(spool.dir, flags, Mode::RUSR | Mode::WUSR).at("make a file in", spool.dir)?;
    let mut file = File::from(file);
    let expansion = Expansion { bytes: spool.bytes_max, ..Expansion::default() };
    let mut plain = Decompress::new(reader, compression, expansion, shown)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        spool.cancel.check()?;
        let count = match plain.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count.at("read", shown)?,
        };
        if count == 0 {
            return Ok(file);
        }
        file.write_all(&buffer[..count]).at("write a copy of the archive into", spool.dir)?;
    }
}

fn index(file: &File) -> Result<HashMap<PathBuf, Member>> {
    let members = members(file)?.ok_or_else(|| {
        Error::data_loss(
            "it is no tar archive: an image is read from one (plain, or compressed by gzip or zstd) or from a directory, in \
             OCI's layout or docker's",
        )
    })?;
    let mut index = HashMap::new();
    for member in members {
        let Some(path) = clean(&member.path) else { continue };
        let member = match member.content {
            MemberContent::File { offset, size } => Member::File { at: offset, size },
            MemberContent::Sparse { size, stretches } => Member::Sparse { size, stretches: stretches.into() },
            MemberContent::HardLink { target } => match clean(&target) {
                Some(target) => Member::Link { target },
                None => continue,
            },
            MemberContent::Symlink { target } => match resolved(&path, &target) {
                Some(target) => Member::Link { target },
                None => continue,
            },
        };
        index.insert(path, member);
    }
    Ok(index)
}

/// Returns `raw` as a relative path without empty and `.` components; `None` if `raw` has a `..` component.
fn clean(raw: &[u8]) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(raw)).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => return None,
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(path)
}

/// Returns the member that the symbolic link `target` at `path` leads to, by its text; `None` outside of the archive.
fn resolved(path: &Path, target: &[u8]) -> Option<PathBuf> {
    let target = Path::new(OsStr::from_bytes(target));
    let mut resolved = if target.is_absolute() { PathBuf::new() } else { path.parent()?.to_path_buf() };
    for component in target.components() {
        match component {
            Component::Normal(name) => resolved.push(name),
            Component::ParentDir if !resolved.pop() => return None,
            _ => {}
        }
    }
    Some(resolved)
}
