//! What changed in a btrfs snapshot since its parent was made, by the transactions that its tree remembers.
//!
//! Every inode carries the transaction that changed it last, and the kernel skips parts of a tree that are older than
//! asked for. The parent is read-only and was on disk before anything could be written on top of it, so that what is
//! not newer than the transaction that made it is what it was there, under the same inode number.
//!
//! - Of a directory that changed, the names in both trees are compared: one that is gone, is new or stands for another
//!   inode is looked at, with all below it, for the inode may be a directory that came from elsewhere with what is in
//!   it.
//! - Any other inode that changed is looked at under each of its names, of which it keeps a list.
//! - An inode that was made since needs nothing: the directories in which its names are changed, too.
//!
//! Inode numbers are never used twice in a subvolume and its snapshots' ancestry.
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
    /// The root of a read-only snapshot: of others, a part may be in memory only.
    new: Tree,
    /// The root of its parent.
    base: Tree,
    /// The transaction that made the parent.
    since: u64,
    /// The paths of directories that were asked for.
    paths: RefCell<HashMap<u64, PathBuf>>,
    /// Keeps `new` there.
    _hold: Option<Box<dyn Any>>,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("new", &self.new).field("since", &self.since).finish_non_exhaustive()
    }
}

/// A tree of a btrfs.
#[derive(Debug)]
struct Tree {
    root: Dir,
    id: u64,
}

/// What a name in a directory stands for, by name.
type Names = HashMap<OsString, Key>;

impl Generation {
    /// What came into `new`, the root of a read-only subvolume, after it was snapshotted from `base`, the root of
    /// another. `hold` is dropped when nobody searches any more.
    ///
    /// # Errors
    /// What the kernel reports for either.
    pub(super) fn new(new: Dir, base: Dir, hold: Option<Box<dyn Any>>) -> Result<Self> {
        let number = |root: &Dir| sys::subvolume(root.as_fd()).at("get the number of", root.shown());
        let (id, parent) = (number(&new)?.id, number(&base)?);
        let (new, base) = (Tree { root: new, id }, Tree { root: base, id: parent.id });
        Ok(Self { new, base, since: parent.made_in, paths: RefCell::default(), _hold: hold })
    }

    /// Adds the names that stand for something else in the directory `ino` than they did.
    fn names(&self, ino: u64, selection: &mut Selection<'_>) -> Result<()> {
        // One that was removed while it was open has no path; what was in it went before.
        let Some(path) = self.path_of(ino)? else { return Ok(()) };
        let mut before = self.base.names(ino)?;
        for (name, now) in self.new.names(ino)? {
            if before.remove(&name) != Some(now) {
                selection.add_all(&path.join(name));
            }
        }
        before.into_keys().for_each(|gone| selection.add(&path.join(gone)));
        Ok(())
    }

    /// The path of the directory `ino`, if it has one.
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
            if inode.made_in > self.since {
                continue;
            }
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
        // The root directory is called `..` in itself.
        if ino == sys::ROOT_INODE {
            return Ok(paths);
        }
        for (dir, name) in self.new.references(ino)? {
            paths.extend(self.path_of(dir)?.map(|dir| dir.join(name)));
        }
        Ok(paths)
    }
}

impl Tree {
    /// Calls `visit` for the items of the inodes from `first` to `last` that lie in parts of the tree which a
    /// transaction after `since` touched.
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

    /// The inodes that a transaction after `since` changed, by their numbers.
    fn changed(&self, since: u64) -> Result<Vec<(u64, sys::Inode)>> {
        let first = Key { object: sys::ROOT_INODE, kind: 0, offset: 0 };
        let last = Key { object: sys::LAST_INODE, kind: u8::MAX, offset: u64::MAX };
        let mut found = Vec::new();
        self.search(first, last, since.saturating_add(1), |item| {
            if item.key.kind == sys::INODE_ITEM {
                let inode = item.inode()?;
                found.extend((inode.changed_in > since).then_some((item.key.object, inode)));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// What is in the directory `ino`.
    fn names(&self, ino: u64) -> Result<Names> {
        let first = Key { object: ino, kind: sys::DIR_INDEX, offset: 0 };
        let mut names = Names::new();
        self.search(first, Key { offset: u64::MAX, ..first }, 0, |item| {
            names.extend([item.dir_entry()?]);
            Ok(())
        })?;
        Ok(names)
    }

    /// The directories and names in them that lead to the inode `ino`.
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
