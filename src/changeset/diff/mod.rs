//! Compares two trees and emits what changed.
//!
//! Two passes: `compare` notes what differs, `emit` sends it in canonical order. `same` alone decides what a change is.
//! The trees must be at rest; one that changes meanwhile gives an error or a stream that describes no moment of it,
//! never a path outside.
//!
//! # Sockets
//! A layer cannot hold a socket, so a socket counts as nothing on both sides: what became a socket is removed, what
//! stands where a socket stood is added (`existed` is false), and a socket that came or went is no change.
//!
//! # Names of 252 to 255 bytes
//! A whiteout prefixes the name with four bytes, so such a name cannot be spelled once it has vanished. Then, and only
//! then, its directory is emitted as `Put`, `Opaque`, and all that is below it, whether it changed or not.
//!
//! # Names that begin with `.wh.`
//! They pass as they are: it is the encoder that cannot spell them.

mod compare;
mod dir_stack;
mod emit;
mod plan;
mod same;

#[cfg(test)]
mod tests;

use std::path::Path;

use rustix::io::Errno;

use self::dir_stack::DirStack;
use super::{Candidates, Sink};
use crate::error::Result;
use crate::tree::{Dir, FileType, Meta, Node};

/// Sends what changed from `old` to `new` to `sink`, by the rules and in the order of [`crate::changeset`]. Without an
/// old tree it is compared with an empty one whose root nobody described: [`Meta::implied_dir`].
///
/// `candidates` are those of `new` against `old`. The answer is that of [`Candidates::All`], which reads both trees,
/// but that a character device 0:0 which both trees have is refused only where it is looked at. They are dropped before
/// the sink is given anything.
///
/// The bytes of a file are read from the new tree when the sink asks for them.
///
/// # Errors
/// `InvalidArgument` naming a character device 0:0; `FailedPrecondition` naming a file that became shorter or a
/// directory that was moved meanwhile; what reading the trees reports; what the sink returns.
pub fn diff(old: Option<&Dir>, new: &Dir, candidates: Candidates, sink: &mut dyn Sink) -> Result<()> {
    let steps = compare::compare(old, new, &candidates.select(new)?)?.settle();
    drop(candidates);
    emit::emit(old, new, &steps, sink)
}

/// Answers for a writer whose readers do not look below the layer: directories that are not in the stream, and the
/// inodes that hard links lead to.
///
/// Cheapest if asked in stream order: it stays in the directory that it was asked for last.
#[derive(Debug)]
pub struct Ancestors<'a> {
    old: Option<DirStack<'a>>,
    new: DirStack<'a>,
}

impl<'a> Ancestors<'a> {
    /// For the stream that [`diff`] makes of the same two trees.
    pub fn new(old: Option<&'a Dir>, new: &'a Dir) -> Self {
        Self { old: old.map(DirStack::new), new: DirStack::new(new) }
    }

    /// The attributes at `path` after the stream was applied: those of the new tree's inode, but a directory has the
    /// old tree's mtime if that tree has a directory there.
    ///
    /// # Errors
    /// `NotFound` or `Io` with `ENOTDIR` if the new tree has nothing there; what reading it reports.
    pub fn meta(&mut self, path: &Path) -> Result<Meta> {
        let (above, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        self.new.seek(above)?;
        let dir = self.new.dir();
        let mut meta = dir.meta(name, &dir.stat(name)?)?;
        if meta.node != Node::Dir {
            return Ok(meta);
        }
        if let Some(old) = &mut self.old {
            match old.seek(above).and_then(|()| old.dir().stat_if_any(name)) {
                Ok(Some(stat)) if stat.file_type == FileType::Dir => meta.mtime = stat.mtime,
                Ok(_) => {}
                Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(meta)
    }
}
