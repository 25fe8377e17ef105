//! Where a walk stands in one tree: the open directories on the way down to it.
//!
//! Invariants: every step takes one component and follows no link; at most [`OPEN_MAX`] descriptors are open, however
//! deep the tree is. A directory whose descriptor was given up is reached again as the parent of its child, and has to
//! be the same inode as before.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path};

use crate::error::Result;
use crate::tree::{Dir, Stat};

/// Deeper than real trees go, and few enough for several walks within the usual limit of 1024 descriptors.
const OPEN_MAX: usize = 48;

/// An inode, as long as it lives.
pub(super) type Inode = ((u32, u32), u64);

/// Which inode `stat` is about.
pub(super) fn inode(stat: &Stat) -> Inode {
    (stat.dev, stat.ino)
}

/// The directories from a root down to where a walk stands.
#[derive(Debug)]
pub(super) struct DirStack<'a> {
    root: &'a Dir,
    /// The components below the root.
    names: Vec<OsString>,
    /// The upper directories, whose descriptors were given up.
    closed: Vec<Inode>,
    /// The lower ones; empty at the root only.
    open: VecDeque<Dir>,
}

impl<'a> DirStack<'a> {
    /// Stands at the root.
    pub(super) fn new(root: &'a Dir) -> Self {
        Self { root, names: Vec::new(), closed: Vec::new(), open: VecDeque::new() }
    }

    /// The directory it stands in.
    pub(super) fn dir(&self) -> &Dir {
        self.open.back().unwrap_or(self.root)
    }

    /// Goes down into `name`; an empty name stays.
    pub(super) fn enter(&mut self, name: &OsStr) -> Result<()> {
        if name.is_empty() {
            return Ok(());
        }
        let below = self.dir().open_dir(name)?;
        if self.open.len() == OPEN_MAX
            && let Some(upper) = self.open.pop_front()
        {
            self.closed.push(inode(&upper.stat("")?));
        }
        self.open.push_back(below);
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Goes up; stays at the root.
    pub(super) fn leave(&mut self) -> Result<()> {
        self.names.pop();
        let Some(below) = self.open.pop_back() else { return Ok(()) };
        if self.open.is_empty()
            && let Some(known) = self.closed.pop()
        {
            self.open.push_back(below.open_parent(known)?);
        }
        Ok(())
    }

    /// Goes to the directory `path`, by way of what both places have in common.
    pub(super) fn seek(&mut self, path: &Path) -> Result<()> {
        let wanted: Vec<&OsStr> = path.components().map(Component::as_os_str).collect();
        let common = self.names.iter().zip(&wanted).take_while(|(name, wanted)| name == *wanted).count();
        while self.names.len() > common {
            self.leave()?;
        }
        wanted[common..].iter().try_for_each(|name| self.enter(name))
    }
}
