//! A store in memory: the reference for the results of every strategy.
//!
//! The model is written from the contract ([`crate::Snapshotter`], [`crate::changeset`]). It shares no code with the
//! checked strategies, except for the type of a tree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::ErrorKind;
use crate::id::{Digest, check_key};
use crate::snapshotter::Kind;
use crate::tree::memory::{Inode, Tree};
use crate::tree::{Device, FileType, Meta, Node, Timestamp, Xattrs};

use super::changes::{Letter, changes};
use super::ops::{ACL, Edit, Op};
use super::possible::possible;

/// A snapshot of the model.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Kind of the snapshot.
    pub kind: Kind,
    /// Name of the parent; empty without a parent.
    pub parent: String,
    /// Content of the snapshot.
    pub tree: Tree,
}

/// A store in memory.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The snapshots, by key or name.
    pub snapshots: BTreeMap<String, Snapshot>,
    contents: BTreeMap<Digest, Vec<u8>>,
}

impl Model {
    /// Performs `op`, or returns the kind of error it must fail with. An impossible edit fails with `InvalidArgument`;
    /// scripts leave such edits out.
    ///
    /// # Errors
    /// The kinds that [`crate::Snapshotter`] documents.
    pub fn perform(&mut self, op: &Op) -> Result<(), ErrorKind> {
        match op {
            Op::Prepare { key, parent } => self.make(Kind::Active, key, parent),
            Op::View { key, parent } => self.make(Kind::View, key, parent),
            Op::Commit { name, key } => self.commit(name, key),
            Op::Remove { key } => self.remove(key),
            Op::Edit { key, edit, time } => {
                let snapshot = self.snapshots.get(key).ok_or(ErrorKind::NotFound)?;
                let parent = self.snapshots.get(&snapshot.parent).map(|parent| &parent.tree);
                if snapshot.kind != Kind::Active || !possible(&snapshot.tree, parent, edit) {
                    return Err(ErrorKind::InvalidArgument);
                }
                let mut tree = snapshot.tree.clone();
                self.edit(&mut tree, edit, *time).ok_or(ErrorKind::InvalidArgument)?;
                if let Some(snapshot) = self.snapshots.get_mut(key) {
                    snapshot.tree = tree;
                }
                Ok(())
            }
        }
    }

    fn make(&mut self, kind: Kind, key: &str, parent: &str) -> Result<(), ErrorKind> {
        check_key(key).map_err(|error| error.kind())?;
        if self.snapshots.contains_key(key) {
            return Err(ErrorKind::AlreadyExists);
        }
        let tree = if parent.is_empty() {
            Tree::default()
        } else {
            let parent = self.snapshots.get(parent).ok_or(ErrorKind::NotFound)?;
            if parent.kind != Kind::Committed {
                return Err(ErrorKind::InvalidArgument);
            }
            parent.tree.clone()
        };
        self.snapshots.insert(key.to_owned(), Snapshot { kind, parent: parent.to_owned(), tree });
        Ok(())
    }

    fn commit(&mut self, name: &str, key: &str) -> Result<(), ErrorKind> {
        check_key(name).map_err(|error| error.kind())?;
        let snapshot = self.snapshots.get(key).ok_or(ErrorKind::NotFound)?;
        if self.snapshots.contains_key(name) {
            return Err(ErrorKind::AlreadyExists);
        }
        if snapshot.kind != Kind::Active {
            return Err(ErrorKind::FailedPrecondition);
        }
        let committed = Snapshot { kind: Kind::Committed, ..snapshot.clone() };
        self.snapshots.remove(key);
        self.snapshots.insert(name.to_owned(), committed);
        Ok(())
    }

    fn remove(&mut self, key: &str) -> Result<(), ErrorKind> {
        if !self.snapshots.contains_key(key) {
            return Err(ErrorKind::NotFound);
        }
        if self.snapshots.values().any(|snapshot| snapshot.parent == key) {
            return Err(ErrorKind::FailedPrecondition);
        }
        self.snapshots.remove(key);
        Ok(())
    }

    /// Returns the changes of `key` relative to its parent, in canonical order.
    pub fn changes(&self, key: &str) -> Vec<(Letter, PathBuf)> {
        let Some(snapshot) = self.snapshots.get(key) else { return Vec::new() };
        let nothing = Tree::default();
        let old = self.snapshots.get(&snapshot.parent).map_or(&nothing, |parent| &parent.tree);
        changes(old, &snapshot.tree)
    }

    fn keep(&mut self, bytes: Vec<u8>) -> (Digest, u64) {
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        self.contents.insert(digest, bytes);
        (digest, size)
    }

    fn bytes(&self, tree: &Tree, path: &Path) -> Option<Vec<u8>> {
        self.contents.get(&tree.get(path)?.inode.content?).cloned()
    }

    /// Performs an edit that [`possible`] allowed.
    fn edit(&mut self, tree: &mut Tree, edit: &Edit, time: Timestamp) -> Option<()> {
        match edit {
            Edit::Write(path, content) if tree.get(path).is_some() => self.fill(tree, path, content.bytes(), time),
            Edit::Write(path, content) => {
                let (digest, size) = self.keep(content.bytes());
                put(tree, path, Node::File { size }, 0o644, Some(digest), time)
            }
            Edit::Append(path, content) => {
                let mut bytes = self.bytes(tree, path)?;
                bytes.extend(content.bytes());
                self.fill(tree, path, bytes, time)
            }
            Edit::Truncate(path, size) => {
                let mut bytes = self.bytes(tree, path)?;
                bytes.resize(*size as usize, 0);
                self.fill(tree, path, bytes, time)
            }
            Edit::Open(_) | Edit::Rewrite(_) => Some(()),
            _ => edit_names(tree, edit, time).or_else(|| edit_attributes(tree, edit, time)),
        }
    }

    fn fill(&mut self, tree: &mut Tree, path: &Path, bytes: Vec<u8>, time: Timestamp) -> Option<()> {
        let (digest, size) = self.keep(bytes);
        let inode = tree.edit(path)?;
        (inode.content, inode.meta.node, inode.meta.mtime) = (Some(digest), Node::File { size }, time);
        Some(())
    }
}

/// Creates, moves and removes names. Returns `None` for an edit of another kind.
fn edit_names(tree: &mut Tree, edit: &Edit, time: Timestamp) -> Option<()> {
    match edit {
        Edit::MakeDir(path) => put(tree, path, Node::Dir, 0o755, None, time),
        Edit::Symlink(path, target) => put(tree, path, Node::Symlink { target: target.clone() }, 0o777, None, time),
        Edit::MakeNode(path, file_type, device) => put(tree, path, special(*file_type, *device), 0o640, None, time),
        Edit::Link { from, to } => {
            tree.link(to, from).ok()?;
            stamp_parent(tree, to, time)
        }
        Edit::Remove(path) => {
            tree.remove(path);
            stamp_parent(tree, path, time)
        }
        Edit::Rename { from, to } => {
            tree.rename(from, to).ok()?;
            stamp_parent(tree, from, time)?;
            stamp_parent(tree, to, time)
        }
        Edit::Exchange(a, b) => exchange(tree, a, b, time),
        _ => None,
    }
}

fn exchange(tree: &mut Tree, a: &Path, b: &Path, time: Timestamp) -> Option<()> {
    let aside = a.with_file_name("exchange.tmp");
    tree.rename(a, &aside).ok()?;
    tree.rename(b, a).ok()?;
    tree.rename(&aside, b).ok()?;
    for path in [a, b] {
        tree.edit(path)?.meta.mtime = time;
        stamp_parent(tree, path, time)?;
    }
    Some(())
}

/// Changes the attributes of one inode. Returns `None` for an edit of another kind.
fn edit_attributes(tree: &mut Tree, edit: &Edit, time: Timestamp) -> Option<()> {
    let meta = &mut tree.edit(edit.paths().first()?)?.meta;
    match edit {
        Edit::Chmod(_, mode) => meta.mode = *mode,
        Edit::Chown(_, uid, gid, mode) => {
            (meta.uid, meta.gid) = (*uid, *gid);
            if meta.node.file_type() != FileType::Symlink {
                meta.mode = *mode;
            }
        }
        Edit::Touch(_) => meta.mtime = time,
        Edit::SetXattr(_, name, value) => {
            if name == ACL {
                meta.mode = (meta.mode & !0o777) | acl_mode(value)?;
            }
            meta.xattrs.insert(name.clone(), value.clone());
        }
        Edit::RemoveXattr(_, name) => drop(meta.xattrs.remove(name)),
        _ => return None,
    }
    Some(())
}

/// Returns the node that `mknod` creates.
fn special(file_type: FileType, device: Device) -> Node {
    match file_type {
        FileType::Char => Node::Char(device),
        FileType::Block => Node::Block(device),
        FileType::Fifo => Node::Fifo,
        _ => Node::Socket,
    }
}

fn put(tree: &mut Tree, path: &Path, node: Node, mode: u32, content: Option<Digest>, time: Timestamp) -> Option<()> {
    let meta = Meta { node, mode, uid: 0, gid: 0, mtime: time, xattrs: Xattrs::new() };
    tree.put(path, Inode { meta, content }).ok()?;
    stamp_parent(tree, path, time)
}

fn stamp_parent(tree: &mut Tree, path: &Path, time: Timestamp) -> Option<()> {
    tree.edit(path.parent()?)?.meta.mtime = time;
    Some(())
}

/// Returns the permission bits of an access control list with the five entries owner, one user, group, mask and others.
fn acl_mode(value: &[u8]) -> Option<u32> {
    let mut mode = 0;
    for entry in value.get(4..)?.chunks_exact(8) {
        let (tag, bits) = (u16::from_le_bytes([entry[0], entry[1]]), u32::from(entry[2] & 7));
        match tag {
            0x01 => mode |= bits << 6,
            0x10 => mode |= bits << 3,
            0x20 => mode |= bits,
            _ => {}
        }
    }
    Some(mode)
}
