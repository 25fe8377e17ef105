//! Writing the files of a layout into a directory or an archive.
//!
//! The name of a blob is its digest, which is known only when the blob is written. In a directory the blob is renamed
//! then; in an archive its header is written then. So each blob is written once, whatever its size.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::fsync;

use crate::changeset::blob::Blob;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::tree::Dir;
use crate::tree::partial::{PRIVATE, Partial};

/// The block size of tar archives.
const BLOCK_BYTES: u64 = 512;

/// The name of a blob that has no digest yet.
const UNNAMED: &str = "unnamed";

/// A layout that is being written. It gets its name when it is finished.
#[derive(Debug)]
pub(super) enum Output {
    Dir {
        partial: Partial,
        root: Dir,
        /// The open directories of the layout, by their paths.
        parents: BTreeMap<PathBuf, Dir>,
    },
    Archive {
        partial: Partial,
        file: File,
    },
}

impl Output {
    /// Begins a directory at `target`.
    pub(super) fn dir(target: &Path) -> Result<Self> {
        let (partial, root) = Partial::dir(target)?;
        Ok(Self::Dir { partial, root, parents: BTreeMap::new() })
    }

    /// Begins an archive at `target`.
    ///
    /// # Errors
    /// `InvalidArgument` if `target` is not a regular file, because headers are written after their blobs.
    pub(super) fn archive(target: &Path) -> Result<Self> {
        if target.metadata().is_ok_and(|stat| !stat.is_file()) {
            let shown = target.display();
            return Err(Error::invalid(format!("{shown} is no regular file: an archive cannot be written to it")));
        }
        let (partial, file) = Partial::file(target, PRIVATE)?;
        Ok(Self::Archive { partial, file })
    }

    /// Adds the blob that `write` writes, under the path that `name` returns for it.
    pub(super) fn blob(
        &mut self,
        name: impl FnOnce(&Blob) -> String,
        write: impl FnOnce(&mut dyn Write) -> Result<Blob>,
    ) -> Result<Blob> {
        match self {
            Self::Dir { root, parents, .. } => {
                let mut writer = BufWriter::new(root.create_file(UNNAMED)?);
                let blob = write(&mut writer)?;
                writer.flush().at("write", root.shown_at(UNNAMED))?;
                fsync(writer.get_ref()).at("sync", root.shown_at(UNNAMED))?;
                let path = PathBuf::from(name(&blob));
                let (parent, name) = parent_of(root, parents, &path)?;
                rustix::fs::renameat(&*root, UNNAMED, parent, name).at("create", root.shown_at(&path))?;
                Ok(blob)
            }
            Self::Archive { partial, file } => {
                let start = file.seek(SeekFrom::Current(BLOCK_BYTES as i64)).at("seek in", partial.target())?;
                let mut writer = BufWriter::new(&*file);
                let blob = write(&mut writer)?;
                let padding = blob.size_bytes.next_multiple_of(BLOCK_BYTES) - blob.size_bytes;
                writer.write_all(&[0; BLOCK_BYTES as usize][..padding as usize]).at("write", partial.target())?;
                writer.flush().at("write", partial.target())?;
                let header = header(&name(&blob), blob.size_bytes)?;
                file.write_all_at(&header, start - BLOCK_BYTES).at("write", partial.target()).map(|()| blob)
            }
        }
    }

    /// Adds a file of known content.
    pub(super) fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Dir { root, parents, .. } => {
                let (parent, name) = parent_of(root, parents, Path::new(path))?;
                let mut file = parent.create_file(name)?;
                file.write_all(bytes).at("write", parent.shown_at(name))?;
                fsync(&file).at("sync", parent.shown_at(name))
            }
            Self::Archive { partial, file } => {
                let mut member = header(path, bytes.len() as u64)?.to_vec();
                member.extend_from_slice(bytes);
                member.resize(member.len().next_multiple_of(BLOCK_BYTES as usize), 0);
                file.write_all(&member).at("write", partial.target())
            }
        }
    }

    /// Writes the end of an archive, brings the layout to disk, and gives it its name.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Self::Dir { partial, root, parents } => {
                // The deepest directory is synced first, because the entry of a directory is durable when its parent is
                // synced.
                for dir in parents.values().rev().chain([&root]) {
                    fsync(dir).at("sync", dir.shown())?;
                }
                partial.keep()
            }
            Self::Archive { partial, mut file } => {
                file.write_all(&[0; 2 * BLOCK_BYTES as usize]).at("write", partial.target())?;
                partial.keep()
            }
        }
    }
}

/// Returns the directory of `path` below `root`, which is made if it is missing, and the file name in it.
fn parent_of<'a>(
    root: &'a Dir,
    parents: &'a mut BTreeMap<PathBuf, Dir>,
    path: &'a Path,
) -> Result<(&'a Dir, &'a OsStr)> {
    let name = path.file_name().unwrap_or_default();
    let above = path.parent().unwrap_or(Path::new(""));
    let mut place = PathBuf::new();
    for component in above {
        let dir = parents.get(&place).unwrap_or(root);
        place.push(component);
        if !parents.contains_key(&place) {
            let made = enter(dir, component)?;
            parents.insert(place.clone(), made);
        }
    }
    Ok((parents.get(above).unwrap_or(root), name))
}

fn enter(dir: &Dir, name: &OsStr) -> Result<Dir> {
    match dir.make_dir(name) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => dir.open_dir(name),
    }
}

/// The header of a regular file.
fn header(path: &str, size: u64) -> Result<[u8; BLOCK_BYTES as usize]> {
    let mut header = ::tar::Header::new_gnu();
    header.set_path(path).at("name a member", path)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    Ok(*header.as_bytes())
}
