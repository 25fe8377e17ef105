//! What the comparison found, and the order in which it is emitted.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::dir_stack::Inode;

/// What is emitted at a path.
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
pub(super) struct Step {
    pub(super) path: PathBuf,
    pub(super) mark: Mark,
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

/// What the comparison notes.
#[derive(Debug)]
pub(super) struct Findings {
    /// What differs by itself, in the order of the walk.
    pub(super) steps: Vec<Step>,
    /// Directories that differ in nothing but their mtime, in the order of the walk: parents before children.
    pub(super) retimed: Vec<PathBuf>,
    /// Inodes of the new tree with several names.
    pub(super) groups: HashMap<Inode, Group>,
}

impl Findings {
    /// All that is emitted, in stream order.
    pub(super) fn settle(self) -> Vec<Step> {
        let mut steps = self.steps;
        let emitted = self.groups.into_values().filter(|group| !group.emitted.is_empty());
        steps.extend(emitted.flat_map(|group| group.unchanged).map(put));
        let mut changed: HashSet<PathBuf> = steps.iter().filter_map(|step| parent(&step.path)).collect();
        // Children first: that a directory is emitted for its time counts as a change inside its parent.
        for dir in self.retimed.into_iter().rev() {
            if changed.contains(&dir) {
                changed.extend(parent(&dir));
                steps.push(put(dir));
            }
        }
        steps.sort_by(stream_order);
        steps
    }
}

fn put(path: PathBuf) -> Step {
    Step { path, mark: Mark::Put { existed: true } }
}

fn parent(path: &Path) -> Option<PathBuf> {
    path.parent().map(Path::to_path_buf)
}

/// Depth first; within a directory the removes come before the rest, each by the bytes of the names.
fn stream_order(one: &Step, other: &Step) -> Ordering {
    let (mut left, mut right) = (one.path.components(), other.path.components());
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(name), Some(rival)) if name != rival => {
                let stays = one.mark != Mark::Remove || left.next().is_some();
                let rival_stays = other.mark != Mark::Remove || right.next().is_some();
                return stays.cmp(&rival_stays).then_with(|| name.cmp(&rival));
            }
            _ => {}
        }
    }
}
