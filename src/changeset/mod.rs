//! What one snapshot changed against another: the [`Change`] stream that every producer and consumer speaks.
//!
//! Producers push into a [`Sink`]: [`diff`] compares two trees, [`tar::decode`] reads a layer. Consumers are sinks:
//! [`apply::Applier`] writes into a tree, [`tar::Encoder`] writes a layer. Nothing here knows what a snapshot is.
//! A [`selection::Hint`] narrows what [`diff`] looks at, never what it answers.
//!
//! # What is a change
//! Content, type, mode, owner, extended attributes ([`crate::tree::xattr_is_portable`]), link target, device number,
//! and the mtime of anything but a directory. A directory whose mtime alone differs is emitted only if an entry
//! directly inside it is emitted. ctime, atime, inode numbers and link counts are never a change. Sockets are never
//! emitted.
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
pub mod recording;
#[cfg(test)]
mod round_trip;
pub mod selection;
pub mod tar;

pub use selection::Candidates;

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::tree::Meta;

/// The longest name that a whiteout can spell: 255 bytes less `.wh.`.
pub(crate) const WHITEOUT_NAME_MAX: usize = 251;

/// One step from an old tree to a new one. Paths are relative and clean; the root is the empty path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The path has this inode now. The bytes of a regular file follow on the side ([`Sink::change`]).
    Put {
        /// Where.
        path: PathBuf,
        /// Whether the old tree had something at this path: `M`, otherwise `A`. A decoded layer cannot know: `false`.
        existed: bool,
        /// What.
        meta: Meta,
    },
    /// The path is another name of the inode at `target`.
    Link {
        /// Where.
        path: PathBuf,
        /// A path whose `Put` came earlier in the stream, or (in decoded layers) one of the tree below.
        target: PathBuf,
        /// As in `Put`.
        existed: bool,
    },
    /// Nothing is at the path any more, nor below it.
    Remove {
        /// Where.
        path: PathBuf,
    },
    /// Nothing that the old tree had below this directory is there any more.
    Opaque {
        /// Which directory.
        path: PathBuf,
    },
}

impl Change {
    /// The path that it is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Put { path, .. } | Self::Link { path, .. } | Self::Remove { path } | Self::Opaque { path } => path,
        }
    }
}

/// A stretch of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u64,
}

/// A piece of the archive that a stream of changes is read from.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Bytes that are no file's: headers, padding, content that nobody gets, what trails.
    Bytes(&'a [u8]),
    /// These stretches, one after the other, of the file that the next [`Change::Put`] brings.
    Content(&'a [Segment]),
}

/// Where a stream of changes goes.
pub trait Sink {
    /// Takes the next change. `data` yields the bytes of a `Put` of a regular file, exactly `size` of them, and none
    /// otherwise. A sink need not read them.
    ///
    /// # Errors
    /// Whatever makes it impossible to go on: the producer stops and passes it up.
    fn change(&mut self, change: &Change, data: &mut dyn Read) -> Result<()>;

    /// Takes the next piece of the archive, if the changes come from one: all pieces together are the archive, byte for
    /// byte. Most sinks have no use for them.
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

/// How a directory on disk spells that something below it was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// A complete tree: what is not there is not there.
    Tree,
    /// An overlayfs upper: character device 0:0 and `trusted.overlay.opaque`.
    Overlay,
    /// The same in a user namespace: `user.overlay.opaque`.
    OverlayUserXattr,
}

/// Where a layer lies and in which spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The directory.
    pub dir: PathBuf,
    /// Its spelling.
    pub format: Format,
}
