//! The differences that the comparison found, and the order in which they are emitted.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::dir_stack::Inode;
use crate::changeset::past_common;

/// The change at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing is there any more.
    Remove,
    /// The inode alone.
    Put { existed: bool },
    /// A directory that the old tree did not have, and all that is below it.
    Whole { existed: bool },
    /// A directory of both trees, that it hides what was below it, and all that is below it now.
    Opaque,
}

/// A path and what is emitted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MarkedPath {
    pub(super) path: PathBuf,
    pub(super) mark: Mark,
}

/// Many steps, packed: one takes 16 bytes besides its name, and those that follow each other in a directory share the
/// path of it.
#[derive(Debug, Default)]
pub(super) struct MarkedPaths {
    dirs: Vec<PathBuf>,
    names: Vec<u8>,
    steps: Vec<Packed>,
}

#[derive(Clone, Copy, Debug)]
struct Packed {
    /// The start of the name. The root has an empty one.
    start: usize,
    dir: u32,
    length: u16,
    mark: Mark,
}

impl MarkedPaths {
    /// Adds what is emitted at `name` in `dir`, or at the root.
    pub(super) fn push(&mut self, dir: &Path, name: &OsStr, mark: Mark) {
        if self.dirs.last().is_none_or(|last| last != dir) {
            self.dirs.push(dir.to_owned());
        }
        let (start, name) = (self.names.len(), name.as_bytes());
        // A name has at most 255 bytes, and there are fewer directories than a file system has inodes.
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        let dir = u32::try_from(self.dirs.len() - 1).unwrap_or(u32::MAX);
        self.names.extend_from_slice(name);
        self.steps.push(Packed { start, dir, length, mark });
    }

    /// Adds what is emitted at `path`.
    pub(super) fn push_path(&mut self, path: &Path, mark: Mark) {
        self.push(path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default(), mark);
    }

    fn dir(&self, step: &Packed) -> &Path {
        &self.dirs[step.dir as usize]
    }

    fn name(&self, step: &Packed) -> &OsStr {
        OsStr::from_bytes(&self.names[step.start..step.start + usize::from(step.length)])
    }

    /// Puts the steps into the order of the stream.
    fn sort(&mut self) {
        let mut steps = std::mem::take(&mut self.steps);
        // No two are of one path.
        steps.sort_unstable_by(|one, other| self.stream_order(one, other));
        self.steps = steps;
    }

    /// Depth first; within a directory the removes come before the rest, each by the bytes of the names.
    fn stream_order(&self, one: &Packed, other: &Packed) -> Ordering {
        let rank = |step: &Packed| step.mark != Mark::Remove;
        if one.dir == other.dir {
            // The root is in the list of its own directory, and comes first.
            let is_inside = |step: &Packed| step.length > 0;
            let ranks = (is_inside(one), rank(one)).cmp(&(is_inside(other), rank(other)));
            return ranks.then_with(|| self.name(one).cmp(self.name(other)));
        }
        let (left, right) = past_common(self.dir(one), self.dir(other));
        let own = |step| Some(self.name(step)).filter(|name| !name.is_empty());
        let (mut left, mut right) = (left.iter().chain(own(one)), right.iter().chain(own(other)));
        loop {
            match (left.next(), right.next()) {
                (None, None) => return Ordering::Equal,
                (None, Some(_)) => return Ordering::Less,
                (Some(_), None) => return Ordering::Greater,
                (Some(name), Some(rival)) if name != rival => {
                    let (stays, rival_stays) =
                        (rank(one) || left.next().is_some(), rank(other) || right.next().is_some());
                    return stays.cmp(&rival_stays).then_with(|| name.cmp(rival));
                }
                _ => {}
            }
        }
    }

    /// The steps, each unpacked when it is asked for.
    pub(super) fn iter(&self) -> impl Iterator<Item = MarkedPath> {
        self.steps.iter().map(|step| {
            let name = self.name(step);
            let path = if name.is_empty() { PathBuf::new() } else { self.dir(step).join(name) };
            MarkedPath { path, mark: step.mark }
        })
    }
}

/// The names of one hard-linked inode of the new tree.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// How many the inode has.
    pub(super) links: u32,
    /// Those which differ from the old tree, or are new.
    pub(super) emitted: Vec<PathBuf>,
    /// Those which differ from the old tree in nothing.
    pub(super) unchanged: Vec<PathBuf>,
}

impl Group {
    /// Whether the inode is emitted, and has names that are not noted here.
    pub(super) fn is_missing_names(&self) -> bool {
        !self.emitted.is_empty() && self.emitted.len() + self.unchanged.len() < self.links as usize
    }
}

/// The differences of two trees.
#[derive(Debug)]
pub(super) struct Findings {
    /// Paths that differ by themselves, in the order of the walk.
    pub(super) steps: MarkedPaths,
    /// Directories that differ in nothing but their mtime, in the order of the walk: parents before children.
    pub(super) retimed: Vec<PathBuf>,
    /// Inodes of the new tree with several names.
    pub(super) groups: HashMap<Inode, Group>,
}

impl Findings {
    /// All that is emitted, in stream order.
    pub(super) fn settle(self) -> MarkedPaths {
        let put = Mark::Put { existed: true };
        let mut steps = self.steps;
        let emitted = self.groups.into_values().filter(|group| !group.emitted.is_empty());
        emitted.flat_map(|group| group.unchanged).for_each(|path| steps.push_path(&path, put));
        let inside = steps.steps.iter().filter(|step| step.length > 0);
        let mut changed: HashSet<PathBuf> = inside
            .map(|step| step.dir)
            .collect::<HashSet<u32>>()
            .into_iter()
            .map(|dir| steps.dirs[dir as usize].clone())
            .collect();
        // Children first: that a directory is emitted for its time counts as a change inside its parent.
        for dir in self.retimed.into_iter().rev() {
            if changed.contains(&dir) {
                changed.extend(dir.parent().map(Path::to_path_buf));
                steps.push_path(&dir, put);
            }
        }
        steps.sort();
        steps
    }
}
