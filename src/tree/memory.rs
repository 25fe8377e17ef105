//! A file tree as a value, for canonical text, models and tests.
//!
//! Invariants: the root is a directory. Every path is clean, and its parent is a directory of the tree. Regular files
//! have the digest of their content, other inodes have none. Hard-link groups come only from names that were put or
//! linked, never from a link count. Two trees are equal if and only if their texts are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::dir::stat_of;
use super::walk::{WalkEntry, walk};
use super::{Dir, FileType, MODE_MASK, Meta, Node, Stat};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::id::Digest;

/// Read size for files: larger buffers were not faster.
const BUFFER_BYTES: usize = 128 * 1024;

/// Number of attempts to read a file that changes meanwhile.
const READ_ATTEMPTS_MAX: u32 = 3;

/// One inode of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Type and attributes.
    pub meta: Meta,
    /// Digest of the content of a regular file.
    pub content: Option<Digest>,
}

/// A file tree. The default is an empty root as [`Meta::implied_dir`] describes it.
#[derive(Clone, Debug)]
pub struct Tree {
    names: BTreeMap<PathBuf, usize>,
    inodes: BTreeMap<usize, Held>,
    next: usize,
}

#[derive(Clone, Debug)]
struct Held {
    inode: Inode,
    names: BTreeSet<PathBuf>,
}

/// One name of a tree, as returned by [`Tree::iter`].
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Path of the name.
    pub path: &'a Path,
    /// The named inode.
    pub inode: &'a Inode,
    /// All names of the inode including this one, in canonical order.
    pub names: &'a BTreeSet<PathBuf>,
}

impl Named<'_> {
    /// Returns true if this is the inode's first name in canonical order.
    pub fn is_first(&self) -> bool {
        self.names.first().is_some_and(|first| first == self.path)
    }
}

impl Default for Tree {
    fn default() -> Self {
        let mut tree = Self { names: BTreeMap::new(), inodes: BTreeMap::new(), next: 0 };
        tree.hold(PathBuf::new(), Inode { meta: Meta::implied_dir(), content: None });
        tree
    }
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: Named<'_>, b: Named<'_>| {
            a.path == b.path && a.names.first() == b.names.first() && (!a.is_first() || a.inode == b.inode)
        };
        self.names.len() == other.names.len() && self.iter().zip(other.iter()).all(|(a, b)| same(a, b))
    }
}

impl Eq for Tree {}

impl Tree {
    /// Reads the tree at `dir`: the content of all files, and portable extended attributes only. Names that vanish
    /// meanwhile are left out.
    ///
    /// # Errors
    /// `Unavailable` for a file that keeps changing while it is read; errors of the system calls.
    pub fn read(dir: &Dir) -> Result<Self> {
        let mut tree = Self::default();
        let mut first_names = HashMap::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        walk(dir, |entry| {
            let key = (entry.stat.dev, entry.stat.ino);
            if entry.stat.file_type != FileType::Dir {
                if let Some(first) = first_names.get(&key) {
                    return tree.link(entry.path, first);
                }
                first_names.insert(key, entry.path.to_path_buf());
            }
            tree.put(entry.path, read_inode(entry, &mut buffer)?)
        })?;
        Ok(tree)
    }

    /// Returns the name and inode at `path`.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<Named<'_>> {
        let (path, number) = self.names.get_key_value(path.as_ref())?;
        self.named(path, *number)
    }

    /// Returns all names in canonical order, the root first.
    pub fn iter(&self) -> impl Iterator<Item = Named<'_>> {
        self.names.iter().filter_map(|(path, number)| self.named(path, *number))
    }

    fn named<'a>(&'a self, path: &'a Path, number: usize) -> Option<Named<'a>> {
        self.inodes.get(&number).map(|held| Named { path, inode: &held.inode, names: &held.names })
    }

    /// Puts a new inode at `path`. A directory put on a directory changes its attributes and keeps its content;
    /// anything else at `path` is removed with everything below it.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that is not clean, a root that is not a directory, or an invalid inode; `NotFound`
    /// if the parent is not a directory of the tree.
    pub fn put(&mut self, path: impl AsRef<Path>, inode: Inode) -> Result<()> {
        let path = path.as_ref();
        check_inode(path, &inode)?;
        let directory = inode.meta.node == Node::Dir;
        if path.as_os_str().is_empty() && !directory {
            return Err(Error::invalid("the root of a tree is a directory"));
        }
        self.check_parent(path)?;
        let old = self.names.get(path).and_then(|number| self.inodes.get_mut(number));
        match old {
            Some(old) if directory && old.inode.meta.node == Node::Dir => old.inode = inode,
            _ => {
                self.remove(path);
                self.hold(path.to_path_buf(), inode);
            }
        }
        Ok(())
    }

    /// Makes `path` another name of the inode at `target`. An existing entry at `path` is removed, unless it is that
    /// inode.
    ///
    /// # Errors
    /// `NotFound` if there is nothing at `target` or the parent of `path` is not a directory; `InvalidArgument` for a
    /// directory, and for a path that is not clean.
    pub fn link(&mut self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
        let (path, target) = (path.as_ref(), target.as_ref());
        self.check_parent(path)?;
        let number = *self.names.get(target).ok_or_else(|| absent(target))?;
        if self.names.get(path) == Some(&number) {
            return Ok(());
        }
        if target.starts_with(path) {
            return Err(Error::invalid(format!("{} would replace what it is linked to", path.display())));
        }
        match self.inodes.get(&number) {
            Some(held) if held.inode.meta.node != Node::Dir => {}
            _ => return Err(Error::invalid(format!("{} is a directory: it has one name", target.display()))),
        }
        self.remove(path);
        self.names.insert(path.to_path_buf(), number);
        if let Some(held) = self.inodes.get_mut(&number) {
            held.names.insert(path.to_path_buf());
        }
        Ok(())
    }

    /// Removes `path` and everything below it; returns false if there was nothing. For the root, removes only its
    /// content.
    pub fn remove(&mut self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        let below = self.names.range::<Path, _>((Bound::Included(path), Bound::Unbounded)).map(|(path, _)| path);
        let gone: Vec<PathBuf> = below
            .take_while(|found| found.starts_with(path))
            .filter(|found| !found.as_os_str().is_empty())
            .cloned()
            .collect();
        for path in &gone {
            let Some(number) = self.names.remove(path) else { continue };
            let Some(held) = self.inodes.get_mut(&number) else { continue };
            held.names.remove(path);
            if held.names.is_empty() {
                self.inodes.remove(&number);
            }
        }
        !gone.is_empty()
    }

    /// Returns the inode at `path` for changes, which apply to all of its names. The changed inode must be one that
    /// [`Tree::put`] would accept.
    pub fn edit(&mut self, path: impl AsRef<Path>) -> Option<&mut Inode> {
        let number = self.names.get(path.as_ref())?;
        self.inodes.get_mut(number).map(|held| &mut held.inode)
    }

    /// Moves `from` and everything below it to `to`. An existing entry at `to` is removed.
    ///
    /// # Errors
    /// `NotFound` if there is nothing at `from` or the parent of `to` is not a directory; `InvalidArgument` if one path
    /// lies in the other, and for a path that is not clean.
    pub fn rename(&mut self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        self.check_parent(to)?;
        if from.starts_with(to) || to.starts_with(from) {
            return Err(Error::invalid(format!("{} and {} lie in one another", from.display(), to.display())));
        }
        if !self.names.contains_key(from) {
            return Err(absent(from));
        }
        self.remove(to);
        let below = self
            .names
            .range::<Path, _>((Bound::Included(from), Bound::Unbounded))
            .map(|(path, number)| (path.clone(), *number));
        let moved: Vec<_> = below.take_while(|(path, _)| path.starts_with(from)).collect();
        for (path, number) in moved {
            let inside = path.strip_prefix(from).unwrap_or(Path::new(""));
            let new = if inside.as_os_str().is_empty() { to.to_path_buf() } else { to.join(inside) };
            self.names.remove(&path);
            if let Some(held) = self.inodes.get_mut(&number) {
                held.names.remove(&path);
                held.names.insert(new.clone());
            }
            self.names.insert(new, number);
        }
        Ok(())
    }

    fn hold(&mut self, path: PathBuf, inode: Inode) {
        self.names.insert(path.clone(), self.next);
        self.inodes.insert(self.next, Held { inode, names: BTreeSet::from([path]) });
        self.next += 1;
    }

    fn check_parent(&self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let clean = |name: &[u8]| !name.is_empty() && name != b"." && name != b".." && !name.contains(&0);
        if !path.as_os_str().as_bytes().split(|byte| *byte == b'/').all(clean) {
            return Err(Error::invalid(format!("{path:?} is no clean relative path")));
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        match self.get(parent) {
            Some(parent) if parent.inode.meta.node == Node::Dir => Ok(()),
            _ => Err(absent(parent)),
        }
    }
}

fn absent(path: &Path) -> Error {
    Error::not_found(format!("the tree has nothing fitting at {:?}", path))
}

fn check_inode(path: &Path, Inode { meta, content }: &Inode) -> Result<()> {
    let broken = match &meta.node {
        Node::File { .. } if content.is_none() => "a regular file without the digest of its content",
        Node::File { .. } => "",
        _ if content.is_some() => "content that is not a regular file's",
        Node::Symlink { target } if target.is_empty() || target.contains(&0) => {
            "a link target that is empty or holds NUL"
        }
        _ => "",
    };
    let broken = match broken {
        "" if meta.mode & !MODE_MASK != 0 => "a mode of more than 12 bits",
        "" if meta.mtime.nanos >= 1_000_000_000 => "a second of more than 999,999,999 nanoseconds",
        "" if meta.xattrs.keys().any(|name| name.is_empty() || name.contains(&0)) => "an attribute name that cannot be",
        "" => return Ok(()),
        broken => broken,
    };
    Err(Error::invalid(format!("{path:?}: {broken}")))
}

fn read_inode(entry: &WalkEntry<'_>, buffer: &mut [u8]) -> Result<Inode> {
    let WalkEntry { dir, name, stat, .. } = entry;
    if stat.file_type != FileType::File {
        return Ok(Inode { meta: dir.meta(name, stat)?, content: None });
    }
    for _ in 0..READ_ATTEMPTS_MAX {
        let mut file = dir.open_file(name)?;
        let before = stat_file(&file).at("stat", dir.place(name))?;
        if before.file_type != FileType::File {
            break;
        }
        let (content, size) = digest(&mut file, buffer).at("read", dir.place(name))?;
        let meta = dir.meta(name, &before)?;
        let after = stat_file(&file).at("stat", dir.place(name))?;
        if meta.node == (Node::File { size })
            && (after.ctime, after.mtime, after.size) == (before.ctime, before.mtime, size)
        {
            return Ok(Inode { meta, content: Some(content) });
        }
    }
    let path = dir.shown_at(name);
    Err(Error::new(ErrorKind::Unavailable, format!("{} changes while it is read", path.display())))
}

fn stat_file(file: &File) -> std::result::Result<Stat, Errno> {
    rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).and_then(|statx| stat_of(&statx))
}

fn digest(file: &mut File, buffer: &mut [u8]) -> io::Result<(Digest, u64)> {
    let mut hasher = Sha256::new();
    let mut size = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok((Digest::finish(hasher), size)),
            Ok(length) => {
                hasher.update(&buffer[..length]);
                size += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
