//! Finds the changes in an overlayfs upper directory: it holds every written file, and a whiteout for every removed
//! name.
//!
//! - Every name in the upper is selected: a whiteout hides a name of the lowers, any other entry replaces one. (If a
//!   name was only copied up, the comparison shows no difference.)
//! - Below a directory that is merged with directories of the lowers, only names in the upper can differ. An opaque
//!   directory hides the lowers, so everything below it is selected.
//! - Whiteouts share inodes, so link counts are meaningless here. All names of an inode of the upper are in the upper,
//!   because copying up breaks hard links (`index=off`), so a walk of the upper finds all of them.
//! - A whiteout for a name that no layer can contain makes its directory opaque in the layer. Then the entries that the
//!   directory keeps from the lowers must be emitted too, and for an inode of a lower all of its names, wherever they
//!   are. Only a walk of everything finds those.
//!
//! # References
//! Kernel document `filesystems/overlayfs.rst`: whiteouts and opaque directories.

use std::ffi::CStr;

use rustix::io::Errno;

use crate::changeset::selection::{Hint, Selection};
use crate::changeset::{Layer, WHITEOUT_NAME_MAX};
use crate::error::Result;
use crate::tree::walk::{Walk, WalkEntry};
use crate::tree::{Device, Dir, FileType, Stat};

/// Marks of an opaque directory, outside and inside a user namespace. The kernel honours only one of them; honouring
/// both here can only select more paths, never fewer.
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

/// Returns true for overlayfs's mark of a removed name.
fn is_whiteout(stat: &Stat) -> bool {
    stat.file_type == FileType::Char && stat.device == Device::default()
}

fn is_opaque(entry: &WalkEntry<'_>) -> Result<bool> {
    for mark in OPAQUE {
        match entry.dir.xattr(entry.name, mark) {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(true),
            // This file system supports only one of the two attribute names.
            Err(error) if error.errno() == Some(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
