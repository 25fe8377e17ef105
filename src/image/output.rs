//! The files of a layout on their way out, into a directory or an archive.
//!
//! Blobs are written before their names are known, which are their digests: in a directory they are renamed, in an
//! archive the header before them is written last. So each is written once, whatever its size.

use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::partial::Partial;
use crate::changeset::blob::Blob;
use crate::error::{Context, Error, Result};

/// The unit of archives.
const BLOCK_BYTES: u64 = 512;

/// The name of a blob that has no digest yet.
const UNNAMED: &str = "unnamed";

/// A layout in the making, which appears when it is finished.
#[derive(Debug)]
pub(super) enum Output {
    Dir(Partial),
    Archive { partial: Partial, file: File },
}

impl Output {
    /// A directory at `target`.
    pub(super) fn dir(target: &Path) -> Result<Self> {
        Partial::dir(target).map(Self::Dir)
    }

    /// An archive at `target`.
    ///
    /// # Errors
    /// `InvalidArgument` if something is there that is no regular file: headers are written late.
    pub(super) fn archive(target: &Path) -> Result<Self> {
        if target.metadata().is_ok_and(|stat| !stat.is_file()) {
            let shown = target.display();
            return Err(Error::invalid(format!("{shown} is no regular file: an archive cannot be written to it")));
        }
        let (partial, file) = Partial::file(target)?;
        Ok(Self::Archive { partial, file })
    }

    /// Adds the blob that `write` makes, under the path that `name` gives it.
    pub(super) fn blob(
        &mut self,
        name: impl FnOnce(&Blob) -> String,
        write: impl FnOnce(&mut dyn Write) -> Result<Blob>,
    ) -> Result<Blob> {
        match self {
            Self::Dir(partial) => {
                let unnamed = partial.path().join(UNNAMED);
                let mut writer = BufWriter::new(File::create(&unnamed).at("create", &unnamed)?);
                let blob = write(&mut writer)?;
                writer.flush().at("write", &unnamed)?;
                let path = partial.path().join(name(&blob));
                make_parent(&path)?;
                std::fs::rename(&unnamed, &path).at("create", &path).map(|()| blob)
            }
            Self::Archive { partial, file } => {
                let start = file.seek(SeekFrom::Current(BLOCK_BYTES as i64)).at("seek in", partial.path())?;
                let mut writer = BufWriter::new(&*file);
                let blob = write(&mut writer)?;
                let padding = blob.size_bytes.next_multiple_of(BLOCK_BYTES) - blob.size_bytes;
                writer.write_all(&[0; BLOCK_BYTES as usize][..padding as usize]).at("write", partial.path())?;
                writer.flush().at("write", partial.path())?;
                let header = header(&name(&blob), blob.size_bytes)?;
                file.write_all_at(&header, start - BLOCK_BYTES).at("write", partial.path()).map(|()| blob)
            }
        }
    }

    /// Adds a file of known content.
    pub(super) fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Dir(partial) => {
                let path = partial.path().join(path);
                make_parent(&path)?;
                std::fs::write(&path, bytes).at("write", &path)
            }
            Self::Archive { partial, file } => {
                let mut member = header(path, bytes.len() as u64)?.to_vec();
                member.extend_from_slice(bytes);
                member.resize(member.len().next_multiple_of(BLOCK_BYTES as usize), 0);
                file.write_all(&member).at("write", partial.path())
            }
        }
    }

    /// Writes the end and gives it its name.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Self::Dir(partial) => partial.keep(),
            Self::Archive { partial, mut file } => {
                file.write_all(&[0; 2 * BLOCK_BYTES as usize]).at("write", partial.path())?;
                partial.keep()
            }
        }
    }
}

fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent).at("make directory", parent),
        None => Ok(()),
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
