//! A store in memory: the reference for the results of every strategy.
//!
//! The model is written from the contract ([`crate::Snapshotter`], [`crate::changeset`]). It shares no code with the
//! checked strategies, except for the type of a tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::ErrorKind;
use crate::id::{Digest, check_key};
use crate::snapshotter::Kind;
use crate::tree::memory::{Inode, Tree};
use crate::tree::{Device, FileType, Meta, Node, Timestamp, Xattrs};

use super::ops::{ACL, Edit, FileContent, Op, access_list};

/// Maximum length of a name whose whiteout is a valid name: 255 bytes less `.wh.`.
const WHITEOUT_NAME_MAX: usize = 251;

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
            Edit::Write(path, content) if tree.get(path).is_some() => self.fill(tree, path, content.bytes(), time)?,
            Edit::Write(path, content) => {
                let (digest, size) = self.keep(content.bytes());
                put(tree, path, Node::File { size }, 0o644, Some(digest), time)?;
            }
            Edit::Append(path, content) => {
                let mut bytes = self.bytes(tree, path)?;
                bytes.extend(content.bytes());
                self.fill(tree, path, bytes, time)?;
            }
            Edit::Truncate(path, size) => {
                let mut bytes = self.bytes(tree, path)?;
                bytes.resize(*size as usize, 0);
                self.fill(tree, path, bytes, time)?;
            }
            Edit::Open(_) | Edit::Rewrite(_) => {}
            Edit::MakeDir(path) => put(tree, path, Node::Dir, 0o755, None, time)?,
            Edit::Symlink(path, target) => {
                put(tree, path, Node::Symlink { target: target.clone() }, 0o777, None, time)?;
            }
            Edit::MakeNode(path, file_type, device) => {
                put(tree, path, special(*file_type, *device), 0o640, None, time)?;
            }
            Edit::Link { from, to } => {
                tree.link(to, from).ok()?;
                stamp_parent(tree, to, time)?;
            }
            Edit::Remove(path) => {
                tree.remove(path);
                stamp_parent(tree, path, time)?;
            }
            Edit::Rename { from, to } => {
                tree.rename(from, to).ok()?;
                stamp_parent(tree, from, time)?;
                stamp_parent(tree, to, time)?;
            }
            Edit::Exchange(a, b) => {
                let aside = a.with_file_name("exchange.tmp");
                tree.rename(a, &aside).ok()?;
                tree.rename(b, a).ok()?;
                tree.rename(&aside, b).ok()?;
                for path in [a, b] {
                    tree.edit(path)?.meta.mtime = time;
                    stamp_parent(tree, path, time)?;
                }
            }
            Edit::Chmod(path, mode) => tree.edit(path)?.meta.mode = *mode,
            Edit::Chown(path, uid, gid, mode) => {
                let meta = &mut tree.edit(path)?.meta;
                (meta.uid, meta.gid) = (*uid, *gid);
                if meta.node.file_type() != FileType::Symlink {
                    meta.mode = *mode;
                }
            }
            Edit::Touch(path) => tree.edit(path)?.meta.mtime = time,
            Edit::SetXattr(path, name, value) => {
                let meta = &mut tree.edit(path)?.meta;
                if name == ACL {
                    meta.mode = (meta.mode & !0o777) | acl_mode(value)?;
                }
                meta.xattrs.insert(name.clone(), value.clone());
            }
            Edit::RemoveXattr(path, name) => {
                tree.edit(path)?.meta.xattrs.remove(name);
            }
        }
        Some(())
    }

    fn fill(&mut self, tree: &mut Tree, path: &Path, bytes: Vec<u8>, time: Timestamp) -> Option<()> {
        let (digest, size) = self.keep(bytes);
        let inode = tree.edit(path)?;
        (inode.content, inode.meta.node, inode.meta.mtime) = (Some(digest), Node::File { size }, time);
        Some(())
    }
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

fn type_at(tree: &Tree, path: &Path) -> Option<FileType> {
    Some(tree.get(path)?.inode.meta.node.file_type())
}

fn has_acl(tree: &Tree, path: &Path) -> bool {
    tree.get(path).is_some_and(|named| named.inode.meta.xattrs.contains_key(ACL))
}

/// Returns true if an edit is possible and leaves the same tree on every strategy.
///
/// Scripts avoid two differences that are inherent to overlayfs. It splits the hard links of a lower file when one name
/// is written to. It moves a lower directory by copying, which splits hard links that lead out of the directory.
fn possible(tree: &Tree, parent: Option<&Tree>, edit: &Edit) -> bool {
    let ty = |path: &Path| type_at(tree, path);
    let free = |path: &Path| ty(path).is_none() && makeable(tree, path);
    let file = |path: &Path| ty(path) == Some(FileType::File) && !frozen(tree, parent, path);
    let own = |path: &Path| ty(path).is_some() && !frozen(tree, parent, path);
    match edit {
        Edit::Write(path, _) => file(path) || free(path),
        Edit::Append(path, _) | Edit::Truncate(path, _) | Edit::Open(path) | Edit::Rewrite(path) => file(path),
        Edit::MakeDir(path) | Edit::Symlink(path, _) | Edit::MakeNode(path, ..) => free(path),
        Edit::Link { from, to } => own(from) && ty(from) != Some(FileType::Dir) && free(to),
        Edit::Remove(path) => ty(path).is_some() && removable(tree, parent, path),
        Edit::Rename { from, to } => {
            movable(tree, parent, from)
                && !to.starts_with(from)
                && !from.starts_with(to)
                && makeable(tree, to)
                && (ty(to).is_none() || removable(tree, parent, to))
                && !linked(tree, from, to)
        }
        Edit::Exchange(a, b) => {
            movable(tree, parent, a)
                && movable(tree, parent, b)
                && !a.starts_with(b)
                && !b.starts_with(a)
                && !linked(tree, a, b)
        }
        Edit::Chmod(path, _) => own(path) && ty(path) != Some(FileType::Symlink) && !has_acl(tree, path),
        Edit::Chown(path, ..) => own(path) && !has_acl(tree, path),
        Edit::Touch(path) => own(path),
        Edit::SetXattr(path, name, _) => {
            own(path)
                && matches!(ty(path), Some(FileType::File | FileType::Dir))
                && (name != ACL || !path.as_os_str().is_empty())
        }
        Edit::RemoveXattr(path, name) => {
            own(path) && name != ACL && tree.get(path).is_some_and(|named| named.inode.meta.xattrs.contains_key(name))
        }
    }
}

fn makeable(tree: &Tree, path: &Path) -> bool {
    path.parent().is_some_and(|parent| type_at(tree, parent) == Some(FileType::Dir))
}

/// Returns true if the inode has several names and already had several in the parent snapshot.
fn frozen(tree: &Tree, parent: Option<&Tree>, path: &Path) -> bool {
    let Some(named) = tree.get(path) else { return false };
    let before = |name: &PathBuf| parent.and_then(|parent| parent.get(name)).is_some_and(|old| old.names.len() > 1);
    named.names.iter().any(before)
}

/// Returns true if a layer can express the deletion of `path`: the name may be too long for a whiteout.
fn removable(tree: &Tree, parent: Option<&Tree>, path: &Path) -> bool {
    let long = path.file_name().is_some_and(|name| name.len() > WHITEOUT_NAME_MAX);
    !path.as_os_str().is_empty()
        && tree.get(path).is_some()
        && (!long || parent.is_none_or(|parent| parent.get(path).is_none()))
}

/// Returns true if moving `path` and everything below it has the same result on every strategy.
fn movable(tree: &Tree, parent: Option<&Tree>, path: &Path) -> bool {
    if !removable(tree, parent, path) {
        return false;
    }
    let below = tree.iter().filter(|named| named.path.starts_with(path));
    below.into_iter().all(|named| {
        let inside = named.names.iter().all(|name| name.starts_with(path));
        let long = named.path.file_name().is_some_and(|name| name.len() > WHITEOUT_NAME_MAX);
        !frozen(tree, parent, named.path) && (inside || type_at(tree, path) != Some(FileType::Dir)) && !long
    })
}

fn linked(tree: &Tree, a: &Path, b: &Path) -> bool {
    tree.get(a).is_some_and(|named| named.names.contains(b))
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

/// Numbers that stand for one operation of a script. [`Model::interpret`] turns them into an operation for the current
/// state of the model. Scripts of numbers shrink well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gene(pub u8, pub u16, pub u16, pub u16);

/// Returns file names for trees: a few ordinary ones, so that operations meet, and some unusual ones.
fn names() -> [Vec<u8>; 12] {
    [
        b"a".to_vec(),
        b"b".to_vec(),
        b"c".to_vec(),
        b"d".to_vec(),
        b"lib".to_vec(),
        b"a b\n\\x".to_vec(),
        b"\xff\xfe".to_vec(),
        vec![b'n'; WHITEOUT_NAME_MAX],
        vec![b'm'; 255],
        b"..x".to_vec(),
        "\u{e9}".into(),
        b".wh.a".to_vec(),
    ]
}

impl Model {
    /// Returns the operation that `gene` stands for in the current state, at step `step` of the script; `None` if no
    /// possible operation corresponds.
    pub fn interpret(&self, gene: Gene, step: usize) -> Option<Op> {
        let Gene(kind, a, b, c) = gene;
        let keys: Vec<&String> = self.snapshots.keys().collect();
        let any_key = |n: u16| pick(&keys, n).map_or_else(|| "none".to_owned(), |key| (*key).clone());
        let committed: Vec<&String> = self.of_kind(Kind::Committed);
        let parent = |n: u16| {
            if n.is_multiple_of(4) {
                String::new()
            } else {
                pick(&committed, n).map_or(String::new(), |key| (*key).clone())
            }
        };
        let new = |n: u16| if n.is_multiple_of(16) { any_key(n / 16) } else { format!("s{step}") };
        let op = match kind {
            0..=19 => Op::Prepare { key: new(a), parent: if b % 32 == 0 { any_key(c) } else { parent(b) } },
            20..=25 => Op::View { key: new(a), parent: parent(b) },
            26..=45 => {
                let active = self.of_kind(Kind::Active);
                let key = pick(&active, b).filter(|_| c % 16 != 0).map_or_else(|| any_key(c), |key| (*key).clone());
                Op::Commit { name: new(a), key }
            }
            46..=53 => Op::Remove { key: any_key(a) },
            _ => {
                let active = self.of_kind(Kind::Active);
                let key = (*pick(&active, a)?).clone();
                let snapshot = self.snapshots.get(&key)?;
                let parent = self.snapshots.get(&snapshot.parent).map(|parent| &parent.tree);
                let edit = edit_of(&snapshot.tree, kind - 54, b, c)?;
                if !possible(&snapshot.tree, parent, &edit) {
                    return None;
                }
                let step = i64::try_from(step).ok()?;
                Op::Edit { key, edit, time: Timestamp { seconds: 1_000_000_000 + step, nanos: 123_456_789 } }
            }
        };
        Some(op)
    }

    fn of_kind(&self, kind: Kind) -> Vec<&String> {
        self.snapshots.iter().filter(|(_, snapshot)| snapshot.kind == kind).map(|(key, _)| key).collect()
    }
}

fn pick<T>(from: &[T], n: u16) -> Option<&T> {
    if from.is_empty() { None } else { from.get(usize::from(n) % from.len()) }
}

fn edit_of(tree: &Tree, kind: u8, b: u16, c: u16) -> Option<Edit> {
    let paths: Vec<&Path> = tree.iter().map(|named| named.path).collect();
    let of = |file_type: FileType, n: u16| {
        let all: Vec<&&Path> = paths.iter().filter(|path| type_at(tree, path) == Some(file_type)).collect();
        pick(&all, n).map(|path| path.to_path_buf())
    };
    let dirs = |n: u16| of(FileType::Dir, n);
    let names = names();
    let fresh = |n: u16| {
        use std::os::unix::ffi::OsStringExt as _;
        // Unusual names are rare, so that most trees can be written as a layer.
        let name = pick(if n.is_multiple_of(8) { &names[..] } else { &names[..5] }, n / 8)?.clone();
        Some(dirs(n / 64)?.join(std::ffi::OsString::from_vec(name)))
    };
    let existing = |n: u16| pick(&paths, n).map(|path| path.to_path_buf());
    let content = |n: u16| FileContent { seed: n as u8, length: [0, 1, 5, 700, 4096, 70_000][usize::from(n) % 6] };
    let mode = |n: u16| [0o644, 0o755, 0o600, 0o4755, 0o2750, 0o1777, 0o000, 0o444][usize::from(n) % 8];
    let owner = |n: u16| [0, 1, 1000, 65_534, 3_000_000_000][usize::from(n) % 5];
    Some(match kind {
        0..=29 => Edit::Write(fresh(b)?, content(c)),
        30..=39 => Edit::Write(of(FileType::File, b)?, content(c)),
        40..=47 => Edit::Append(of(FileType::File, b)?, content(c)),
        48..=55 => Edit::Truncate(of(FileType::File, b)?, [0, 3, 700, 100_000][usize::from(c) % 4]),
        56..=59 => Edit::Open(of(FileType::File, b)?),
        60..=63 => Edit::Rewrite(of(FileType::File, b)?),
        64..=87 => Edit::MakeDir(fresh(b)?),
        88..=95 => Edit::Symlink(fresh(b)?, [&b"a"[..], b"../b", b"/lib", b"\xff"][usize::from(c) % 4].to_vec()),
        96..=103 => {
            let types = [FileType::Fifo, FileType::Char, FileType::Block, FileType::Socket];
            let device = Device { major: 1 + u32::from(c) % 500, minor: u32::from(c) * 3 };
            Edit::MakeNode(fresh(b)?, types[usize::from(c) % 4], device)
        }
        104..=115 => Edit::Link { from: existing(b)?, to: fresh(c)? },
        116..=133 => Edit::Remove(existing(b)?),
        134..=147 => Edit::Rename { from: existing(b)?, to: fresh(c)? },
        148..=157 => Edit::Rename { from: existing(b)?, to: existing(c)? },
        158..=163 => Edit::Exchange(dirs(b)?, dirs(c)?),
        164..=167 => Edit::Exchange(existing(b)?, existing(c)?),
        168..=175 => Edit::Chmod(existing(b)?, mode(c)),
        176..=183 => Edit::Chown(existing(b)?, owner(c), owner(c / 5), mode(c / 25)),
        184..=189 => Edit::Touch(existing(b)?),
        190..=195 => Edit::SetXattr(existing(b)?, xattr_name(c), vec![c as u8; usize::from(c) % 300]),
        196..=198 => {
            let path = existing(b)?;
            let name = tree.get(&path)?.inode.meta.xattrs.keys().next()?.clone();
            Edit::RemoveXattr(path, name)
        }
        _ => Edit::SetXattr(existing(b)?, ACL.to_vec(), access_list([0, 3, 6, 9, 12].map(|shift| (c >> shift) & 7))),
    })
}

fn xattr_name(n: u16) -> Vec<u8> {
    [&b"user.a"[..], b"user.b b", b"trusted.c"][usize::from(n) % 3].to_vec()
}
