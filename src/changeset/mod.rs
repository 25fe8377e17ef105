//! Changes between two snapshots: the [`Change`] stream that all producers and consumers use.
//!
//! Producers push into a [`Sink`]: [`diff`] compares two trees, [`tar::decode`] reads a layer. Consumers are sinks:
//! [`apply::Applier`] writes into a tree, [`tar::Encoder`] writes a layer. Nothing here knows snapshots. A
//! [`selection::Hint`] limits the paths that [`diff`] looks at, but never changes its result.
//!
//! # Definition of a change
//! Content, type, mode, owner, extended attributes ([`crate::tree::xattr_is_portable`]), link target, device number,
//! and the mtime of anything but a directory. A directory whose mtime alone differs is emitted only if a direct entry
//! of it is emitted. ctime, atime, inode numbers and link counts are never a change. Sockets are never emitted.
//!
//! # Hard links
//! Let G be the names of one inode in the new tree. If any name in G is new or changed by another criterion, every name
//! in G is emitted, the first in stream order as [`Change::Put`], the others as [`Change::Link`]. Otherwise none is.
//!
//! # Canonical order
//! Depth first. Within a directory first its removes, then the rest, each sorted by the bytes of the name. One entry a
//! path; an inode of another type is one `Put`. `Put` on an existing path always makes a new inode, except that a
//! directory put on a directory keeps its content: what vanished from it is removed by name.
//!
//! # References
//! OCI image specification, `layer.md`.

pub mod apply;
pub mod blob;
pub mod diff;
#[cfg(test)]
mod notation;
pub mod pipeline;
#[cfg(test)]
mod round_trip;
pub mod selection;
pub mod tar;
pub mod tar_split;

pub use selection::Candidates;

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::tree::Meta;

/// Maximum length of a name that a whiteout can express: 255 bytes less `.wh.`.
pub(crate) const WHITEOUT_NAME_MAX: usize = 251;

/// One change from an old tree to a new one. Paths are relative and clean; the root is the empty path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The path has this inode in the new tree. The content of a regular file is passed separately ([`Sink::change`]).
    Put {
        /// Path of the inode.
        path: PathBuf,
        /// True if the old tree had something at this path (`M`), false if not (`A`). Always `false` in a decoded
        /// layer, which does not know the old tree.
        existed: bool,
        /// Type and attributes.
        meta: Meta,
    },
    /// The path is another name of the inode at `target`.
    Link {
        /// Path of the new name.
        path: PathBuf,
        /// A path whose `Put` came earlier in the stream or, in decoded layers, a path of the tree below.
        target: PathBuf,
        /// As in `Put`.
        existed: bool,
    },
    /// The path and everything below it are deleted.
    Remove {
        /// The deleted path.
        path: PathBuf,
    },
    /// Everything that the old tree had below this directory is deleted.
    Opaque {
        /// Path of the directory.
        path: PathBuf,
    },
}

impl Change {
    /// Returns the path of the change.
    pub fn path(&self) -> &Path {
        match self {
            Self::Put { path, .. } | Self::Link { path, .. } | Self::Remove { path } | Self::Opaque { path } => path,
        }
    }
}

/// A range of bytes in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// A piece of the archive that a stream of changes is read from.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Bytes outside of file content: headers, padding, ignored content, trailing bytes.
    Bytes(&'a [u8]),
    /// These segments, in this order, of the file in the next [`Change::Put`].
    Content(&'a [Segment]),
}

/// Consumer of a stream of changes.
pub trait Sink {
    /// Takes the next change. For a `Put` of a regular file, `data` yields the file's content, exactly `size` bytes;
    /// otherwise nothing. A sink need not read it.
    ///
    /// # Errors
    /// Any error that makes it impossible to continue: the producer stops and returns it.
    fn change(&mut self, change: &Change, data: &mut dyn Read) -> Result<()>;

    /// Tells that the file in the next [`Change::Put`] has `segments`, in ascending order, and zeros everywhere else. A
    /// sink that returns true gets as `data` the bytes of the segments alone, one behind the other: so a hole takes no
    /// time, however long it is. Most sinks want the whole content.
    fn sparse(&mut self, segments: &[Segment]) -> bool {
        let _ = segments;
        false
    }

    /// Takes the next piece of the archive, if the changes come from one. All pieces together are the archive, byte for
    /// byte. Most sinks ignore them.
    ///
    /// # Errors
    /// As [`Self::change`].
    fn piece(&mut self, piece: Piece<'_>) -> Result<()> {
        let _ = piece;
        Ok(())
    }
}

impl<F: FnMut(&Change, &mut dyn Read) -> Result<()>> Sink for F {
    fn change(&mut self, change: &Change, data: &mut dyn Read) -> Result<()> {
        self(change, data)
    }
}

/// Both paths from the last directory on that they have in common. Comparing the names of what is left is enough to
/// order the paths, and takes no time for what deep paths share.
fn past_common<'p>(one: &'p Path, other: &'p Path) -> (&'p Path, &'p Path) {
    /// How many bytes are compared at once.
    const CHUNK_BYTES: usize = 64;
    let (left, right) = (one.as_os_str().as_bytes(), other.as_os_str().as_bytes());
    let chunks = left.chunks_exact(CHUNK_BYTES).zip(right.chunks_exact(CHUNK_BYTES));
    let known = CHUNK_BYTES * chunks.take_while(|(mine, theirs)| mine == theirs).count();
    let more = left[known..].iter().zip(&right[known..]).take_while(|(mine, theirs)| mine == theirs).count();
    let start = left[..known + more].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    (Path::new(OsStr::from_bytes(&left[start..])), Path::new(OsStr::from_bytes(&right[start..])))
}

/// Representation of deletions in a directory on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// A complete tree: a missing name is deleted.
    Tree,
    /// An overlayfs upper: character device 0:0 and `trusted.overlay.opaque`.
    Overlay,
    /// An overlayfs upper in a user namespace: character device 0:0 and `user.overlay.opaque`.
    OverlayUserXattr,
}

/// Directory and format of a layer on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The directory.
    pub dir: PathBuf,
    /// Representation of deletions in it.
    pub format: Format,
}
