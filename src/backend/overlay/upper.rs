//! What changed by an overlayfs upper: it holds whatever was written, and a mark for whatever was removed.
//!
//! - A name in it is looked at, whatever it is: a whiteout hides a name of the lowers, anything else replaces one.
//!   (That a name was merely copied up shows in the comparison.)
//! - Below a directory that is merged with those of the lowers, only names of the upper can differ. An opaque one hides
//!   the lowers: there, everything is looked at.
//! - Whiteouts share inodes, so link counts say nothing here. The names of one inode of the upper are all in the upper,
//!   for copying up breaks hard links (`index=off`): a walk of it comes by all of them.
//! - A whiteout of a name that no layer can spell makes its directory opaque in the layer: what it keeps of the lowers
//!   is emitted, too, and with an inode of a lower all its names, wherever they are. Only a walk of everything finds
//!   those.
//!
//! # References
//! Kernel document `filesystems/overlayfs.rst`: whiteouts and opaque directories.

use std::ffi::CStr;

use rustix::io::Errno;

use crate::changeset::selection::{Hint, Selection};
use crate::changeset::{Layer, WHITEOUT_NAME_MAX};
use crate::error::Result;
use crate::tree::walk::{Entry, Walk};
use crate::tree::{Device, Dir, FileType, Stat};

/// How an opaque directory is marked, outside and inside a user namespace. The kernel heeds one of them; who heeds both
/// looks at more, never at less.
const OPAQUE: [&CStr; 2] = [c"trusted.overlay.opaque", c"user.overlay.opaque"];

/// The upper directory of a snapshot.
#[derive(Debug)]
pub(super) struct UpperHint(pub(super) Layer);

impl Hint for UpperHint {
    fn name(&self) -> &'static str {
        "upper"
    }

    fn select(&self, _new: &Dir) -> Result<Selection<'_>> {
        select(&self.0)
    }

    fn selects_damaged_files(&self) -> bool {
        true
    }
}

fn select(layer: &Layer) -> Result<Selection<'static>> {
    let mut selection = Selection::nothing();
    let mut walk = Walk::new(&Dir::open(&layer.dir)?)?;
    while let Some(entry) = walk.next_entry()? {
        if entry.stat.file_type == FileType::Dir && is_opaque(&entry)? {
            selection.add_all(entry.path);
            walk.skip();
        } else if is_whiteout(&entry.stat) && entry.name.len() > WHITEOUT_NAME_MAX {
            return Ok(Selection::everything());
        } else {
            selection.add(entry.path);
        }
    }
    Ok(selection)
}

/// How overlayfs marks a name that was removed.
fn is_whiteout(stat: &Stat) -> bool {
    stat.file_type == FileType::Char && stat.device == Device::default()
}

fn is_opaque(entry: &Entry<'_>) -> Result<bool> {
    for mark in OPAQUE {
        match entry.dir.xattr(entry.name, mark) {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(true),
            // A file system that knows one of the spellings only.
            Err(error) if error.errno() == Some(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
