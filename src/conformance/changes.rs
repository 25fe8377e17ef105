//! The changes between two trees in memory, by the rules of [`crate::changeset`], without using its code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::tree::memory::{Inode, Tree};
use crate::tree::{FileType, Node, Timestamp};

use super::possible::type_at;

/// Kind of a change at a path: the letter of `strata diff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Letter {
    /// Added: only the new tree has the path.
    A,
    /// Deleted: only the old tree has the path.
    D,
    /// Modified: both trees have the path.
    M,
}

/// Computes the changes from `old` to `new` by the rules of [`crate::changeset`], without using its code.
pub fn changes(old: &Tree, new: &Tree) -> Vec<(Letter, PathBuf)> {
    let mut letters: BTreeMap<PathBuf, Letter> = BTreeMap::new();
    for named in new.iter().filter(|named| named.inode.meta.node != Node::Socket) {
        let before = old.get(named.path).filter(|before| before.inode.meta.node != Node::Socket);
        match before {
            None => _ = letters.insert(named.path.into(), Letter::A),
            Some(before) if differs(before.inode, named.inode) => {
                letters.insert(named.path.into(), Letter::M);
            }
            Some(_) => {}
        }
    }
    whole_groups(old, new, &mut letters);
    for named in old.iter().filter(|named| named.inode.meta.node != Node::Socket) {
        let still = new.get(named.path).is_some_and(|now| now.inode.meta.node != Node::Socket);
        let parent = named.path.parent().unwrap_or(Path::new(""));
        if !still && type_at(new, parent) == Some(FileType::Dir) {
            letters.insert(named.path.into(), Letter::D);
        }
    }
    dirs_with_changed_entries(old, new, &mut letters);
    ordered(letters)
}

fn differs(old: &Inode, new: &Inode) -> bool {
    let timeless = |inode: &Inode| {
        let mut meta = inode.meta.clone();
        if meta.node == Node::Dir {
            meta.mtime = Timestamp::EPOCH;
        }
        meta
    };
    timeless(old) != timeless(new) || old.content != new.content
}

/// Adds all names of a hard-linked inode if one of the names is in the change set.
fn whole_groups(old: &Tree, new: &Tree, letters: &mut BTreeMap<PathBuf, Letter>) {
    for named in new.iter().filter(|named| named.names.len() > 1 && named.inode.meta.node != Node::Socket) {
        if named.names.iter().any(|name| letters.contains_key(name)) && !letters.contains_key(named.path) {
            let letter = if old.get(named.path).is_some() { Letter::M } else { Letter::A };
            letters.insert(named.path.into(), letter);
        }
    }
}

/// Adds each directory whose time alone differs if a direct entry of the directory is in the change set. Deeper
/// directories come first, because a directory that is added is itself an entry of its parent.
fn dirs_with_changed_entries(old: &Tree, new: &Tree, letters: &mut BTreeMap<PathBuf, Letter>) {
    let dirs: Vec<_> = new.iter().filter(|named| named.inode.meta.node == Node::Dir).collect();
    for dir in dirs.iter().rev() {
        let touched: BTreeSet<&Path> = letters.keys().filter_map(|path| path.parent()).collect();
        let time = old.get(dir.path).map(|before| before.inode.meta.mtime);
        if touched.contains(dir.path)
            && !letters.contains_key(dir.path)
            && time.is_some_and(|time| time != dir.inode.meta.mtime)
        {
            letters.insert(dir.path.into(), Letter::M);
        }
    }
}

/// Sorts depth first, with deletions before other changes in each directory.
fn ordered(letters: BTreeMap<PathBuf, Letter>) -> Vec<(Letter, PathBuf)> {
    let mut rest: Vec<_> = letters.into_iter().map(|(path, letter)| (letter, path)).collect();
    rest.sort_by_key(|(letter, path)| {
        let depth = path.components().count();
        let place = |at: usize| *letter != Letter::D || at + 1 < depth;
        let key: Vec<(bool, PathBuf)> =
            path.iter().enumerate().map(|(at, name)| (place(at), PathBuf::from(name))).collect();
        key
    });
    rest
}
