//! Finds the changes in a btrfs snapshot since its parent was made, from the transaction numbers in its tree.
//!
//! Every inode carries the number of the transaction that changed it last, and the kernel skips parts of a tree that
//! are older than asked for. The parent is read-only and was on disk before anything could be written on top of it. So
//! an inode that is not newer than the transaction that made the parent is unchanged since then, under the same inode
//! number.
//!
//! - For a changed directory, the names in both trees are compared. A name that is gone, is new or refers to another
//!   inode is selected with everything below it, because the inode may be a directory that was moved there with its
//!   content.
//! - Any other changed inode is selected under each of its names, which btrfs lists for the inode.
//! - A new inode needs nothing more: the directories that hold its names have changed too.
//!
//! Inode numbers are never reused in a subvolume and the ancestry of its snapshots.
//!
//! # References
//! `linux/btrfs_tree.h`; `sys::btrfs` for the search.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::changeset::selection::{Hint, LinkSearch, Selection};
use crate::error::{Context, Result};
use crate::sys::btrfs::{self as sys, Key, Search};
use crate::tree::Dir;

/// A snapshot and its parent, to be searched.
pub(super) struct Generation {
    /// SubvolumeTree of the snapshot, which must be read-only: part of a writable subvolume may be in memory only.
    new: SubvolumeTree,
    /// SubvolumeTree of its parent.
    base: SubvolumeTree,
    /// Transaction that made the parent.
    since: u64,
    /// Paths of directories that were looked up.
    paths: RefCell<HashMap<u64, PathBuf>>,
    /// Keeps `new` in existence.
    _hold: Option<Box<dyn Any>>,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("new", &self.new).field("since", &self.since).finish_non_exhaustive()
    }
}

/// SubvolumeTree of a subvolume.
#[derive(Debug)]
struct SubvolumeTree {
    root: Dir,
    id: u64,
}

/// Keys of the inodes in a directory, by name.
type Names = HashMap<OsString, Key>;

impl Generation {
    /// Prepares the search for changes in `new`, the root of a read-only subvolume that is a snapshot of `base`, the
    /// root of another. `hold` is dropped with the result.
    ///
    /// # Errors
    /// Errors of the kernel for either subvolume.
    pub(super) fn new(new: Dir, base: Dir, hold: Option<Box<dyn Any>>) -> Result<Self> {
        let number = |root: &Dir| sys::subvolume(root.as_fd()).at("get the number of", root.shown());
        let (id, parent) = (number(&new)?.id, number(&base)?);
        let (new, base) = (SubvolumeTree { root: new, id }, SubvolumeTree { root: base, id: parent.id });
        Ok(Self { new, base, since: parent.made_in, paths: RefCell::default(), _hold: hold })
    }

    /// Selects the names in the directory `ino` that refer to another inode than before.
    fn names(&self, ino: u64, selection: &mut Selection<'_>) -> Result<()> {
        // A directory that was removed while open has no path; its content was removed before it.
        let Some(path) = self.path_of(ino)? else { return Ok(()) };
        let mut before = Names::new();
        self.base.names(ino, &mut |name, key| _ = before.insert(name, key))?;
        // One after the other: there may be a million.
        self.new.names(ino, &mut |name, now| {
            if before.remove(&name) != Some(now) {
                selection.add_all(&path.join(name));
            }
        })?;
        before.into_keys().for_each(|gone| selection.add(&path.join(gone)));
        Ok(())
    }

    /// Returns the path of the directory `ino`, if it has one.
    fn path_of(&self, ino: u64) -> Result<Option<PathBuf>> {
        let mut known = self.paths.borrow_mut();
        let mut unknown = Vec::new();
        let mut at = ino;
        while at != sys::ROOT_INODE && !known.contains_key(&at) {
            let Some((above, name)) = self.new.references(at)?.pop() else { return Ok(None) };
            unknown.push((at, name));
            at = above;
        }
        let mut path = known.get(&at).cloned().unwrap_or_default();
        while let Some((below, name)) = unknown.pop() {
            path.push(name);
            known.insert(below, path.clone());
        }
        Ok(Some(path))
    }
}

impl Hint for Generation {
    fn name(&self) -> &'static str {
        "generation"
    }

    fn select(&self, _new: &Dir) -> Result<Selection<'_>> {
        let mut selection = Selection::nothing();
        for (ino, inode) in self.new.changed(self.since)? {
            for path in self.paths_of(ino)? {
                selection.add(&path);
            }
            if inode.is_dir {
                self.names(ino, &mut selection)?;
            }
        }
        Ok(selection.with_searched_links(self))
    }

    fn selects_damaged_files(&self) -> bool {
        true
    }
}

impl LinkSearch for Generation {
    fn paths_of(&self, ino: u64) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        // The root directory is listed in itself under the name `..`.
        if ino == sys::ROOT_INODE {
            return Ok(paths);
        }
        for (dir, name) in self.new.references(ino)? {
            paths.extend(self.path_of(dir)?.map(|dir| dir.join(name)));
        }
        Ok(paths)
    }
}

impl SubvolumeTree {
    /// Calls `visit` for the items of the inodes from `first` to `last`, in parts of the tree that were changed by a
    /// transaction after `since`.
    fn search(
        &self,
        first: Key,
        last: Key,
        since: u64,
        mut visit: impl FnMut(&sys::Item<'_>) -> Result<(), Errno>,
    ) -> Result<()> {
        let mut search = Search::new(self.root.as_fd(), self.id, first..=last, since);
        let mut next = || match search.next_item()? {
            Some(item) => visit(&item).map(|()| true),
            None => Ok(false),
        };
        loop {
            match next().at("search the tree of", self.root.shown()) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the inodes that a transaction after `since` changed and did not make, with their numbers.
    fn changed(&self, since: u64) -> Result<Vec<(u64, sys::Inode)>> {
        let first = Key { object: sys::ROOT_INODE, kind: 0, offset: 0 };
        let last = Key { object: sys::LAST_INODE, kind: u8::MAX, offset: u64::MAX };
        let mut found = Vec::new();
        self.search(first, last, since.saturating_add(1), |item| {
            if item.key.kind == sys::INODE_ITEM {
                let inode = item.inode()?;
                let is_changed = inode.changed_in > since && inode.made_in <= since;
                found.extend(is_changed.then_some((item.key.object, inode)));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Calls `visit` for each name in the directory `ino`, with the key of its inode.
    fn names(&self, ino: u64, visit: &mut dyn FnMut(OsString, Key)) -> Result<()> {
        let first = Key { object: ino, kind: sys::DIR_INDEX, offset: 0 };
        self.search(first, Key { offset: u64::MAX, ..first }, 0, |item| {
            let (name, key) = item.dir_entry()?;
            visit(name, key);
            Ok(())
        })
    }

    /// Returns the parent directories of the inode `ino`, each with the name in it.
    fn references(&self, ino: u64) -> Result<Vec<(u64, OsString)>> {
        let first = Key { object: ino, kind: sys::INODE_REF, offset: 0 };
        let last = Key { object: ino, kind: sys::INODE_EXTREF, offset: u64::MAX };
        let mut found = Vec::new();
        self.search(first, last, 0, |item| {
            found.extend(item.references()?);
            Ok(())
        })?;
        Ok(found)
    }
}
