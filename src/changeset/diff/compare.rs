//! The first pass: walks both trees side by side and notes what differs.
//!
//! Invariants: directories are entered by descriptor, in the order of their names; what is kept in memory grows with
//! the differences and with the names of hard-linked inodes, not with the trees.
//!
//! A [`Selection`] narrows what is looked at: in [`pairs`] the names of a directory, and at the end, for the names of a
//! hard-linked inode that were not looked at, which there are. What is a change is decided here alone.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::vec;

use super::dir_stack::{DirStack, inode};
use super::plan::{Findings, Mark, Step};
use super::same::{Entry, same};
use crate::changeset::WHITEOUT_NAME_MAX;
use crate::changeset::selection::{Scope, Selection};
use crate::error::{Error, Result};
use crate::tree::{Device, Dir, FileType, Meta, Name, Stat};

/// Notes how `new` differs from `old`, or from an empty tree with an implied root, in what `selection` names.
pub(super) fn compare(old: Option<&Dir>, new: &Dir, selection: &Selection<'_>) -> Result<Findings> {
    let mut comparison = Comparison {
        selection,
        old: old.map(DirStack::new),
        new: DirStack::new(new),
        path: PathBuf::new(),
        frames: Vec::new(),
        found: Findings { steps: Vec::new(), retimed: Vec::new(), groups: HashMap::new() },
    };
    comparison.run()?;
    comparison.complete_groups()?;
    Ok(comparison.found)
}

/// `stat` of `name` as a layer sees it: a socket is nothing, and a whiteout of overlayfs is an error.
pub(super) fn look(dir: &Dir, name: &OsStr) -> Result<Option<Stat>> {
    let Some(stat) = dir.stat_if_any(name)? else { return Ok(None) };
    if stat.file_type == FileType::Char && stat.device == Device::default() {
        return Err(Error::invalid(format!(
            "{}: a character device 0:0 is overlayfs's mark of a deleted name and cannot be in a layer: remove it",
            dir.shown_at(name).display()
        )));
    }
    Ok(Some(stat).filter(|stat| stat.file_type != FileType::Socket))
}

struct Comparison<'a> {
    selection: &'a Selection<'a>,
    old: Option<DirStack<'a>>,
    new: DirStack<'a>,
    path: PathBuf,
    frames: Vec<Frame>,
    found: Findings,
}

/// A directory of the new tree whose names are being visited.
struct Frame {
    names: vec::IntoIter<Pair>,
    /// Whether the old tree has a directory here and is walked along. Otherwise all that is below is emitted, and only
    /// hard links are still to be noted.
    compared: bool,
}

/// A name, and which trees may have it.
struct Pair {
    name: OsString,
    in_old: bool,
    in_new: bool,
    /// What is looked at below, where both have a directory.
    below: Scope,
}

impl Comparison<'_> {
    fn run(&mut self) -> Result<()> {
        let root = OsStr::new("");
        let now = self.new.dir().stat(root)?;
        match self.old.as_ref().map(|old| old.dir().stat(root)).transpose()? {
            None => self.first_root(&now)?,
            before => self.directory(root, before, &now, true, self.selection.root())?,
        }
        while let Some(frame) = self.frames.last_mut() {
            let compared = frame.compared;
            match frame.names.next() {
                Some(pair) => self.visit(&pair, compared)?,
                None => self.leave(compared)?,
            }
        }
        Ok(())
    }

    /// The root where there is no old tree: it is compared with the one that every reader begins with.
    fn first_root(&mut self, now: &Stat) -> Result<()> {
        let implied = Meta::implied_dir();
        let mut meta = self.new.dir().meta("", now)?;
        let retimed = std::mem::replace(&mut meta.mtime, implied.mtime) != implied.mtime;
        self.new.enter(OsStr::new(""))?;
        if meta != implied {
            self.mark(OsStr::new(""), Mark::Put { existed: true });
        } else if retimed {
            self.found.retimed.push(PathBuf::new());
        }
        let names = all_pairs(None, self.new.dir())?.into_iter();
        self.frames.push(Frame { names, compared: true });
        Ok(())
    }

    fn leave(&mut self, compared: bool) -> Result<()> {
        self.frames.pop();
        self.path.pop();
        self.new.leave()?;
        match &mut self.old {
            Some(old) if compared => old.leave(),
            _ => Ok(()),
        }
    }

    /// Looks at one name of the directory that the walk stands in.
    fn visit(&mut self, pair: &Pair, compared: bool) -> Result<()> {
        let name = pair.name.as_os_str();
        let before = match &self.old {
            Some(old) if pair.in_old => look(old.dir(), name)?,
            _ => None,
        };
        let now = if pair.in_new { look(self.new.dir(), name)? } else { None };
        match (before, now) {
            (None, None) => Ok(()),
            (Some(_), None) => {
                self.mark(name, Mark::Remove);
                Ok(())
            }
            (before, Some(now)) if now.file_type == FileType::Dir => {
                self.directory(name, before, &now, compared, pair.below)
            }
            (before, Some(now)) => self.leaf(name, before, now, compared),
        }
    }

    fn mark(&mut self, name: &OsStr, mark: Mark) {
        self.found.steps.push(Step { path: self.path.join(name), mark });
    }

    /// Anything but a directory of the new tree.
    fn leaf(&mut self, name: &OsStr, before: Option<Stat>, now: Stat, compared: bool) -> Result<()> {
        let unchanged = match (&self.old, before) {
            (Some(old), Some(before)) => {
                same(&Entry { dir: old.dir(), name, stat: before }, &Entry { dir: self.new.dir(), name, stat: now })?
            }
            _ => false,
        };
        if compared && !unchanged {
            self.mark(name, Mark::Put { existed: before.is_some() });
        }
        if now.nlink > 1 {
            let group = self.found.groups.entry(inode(&now)).or_default();
            let names = if unchanged { &mut group.unchanged } else { &mut group.emitted };
            names.push(self.path.join(name));
            group.links = now.nlink;
        }
        Ok(())
    }

    /// A directory of the new tree: notes what it is itself, and enters it.
    fn directory(
        &mut self,
        name: &OsStr,
        before: Option<Stat>,
        now: &Stat,
        compared: bool,
        below: Scope,
    ) -> Result<()> {
        self.new.enter(name)?;
        self.path.push(name);
        let (mark, frame) = match before {
            Some(before) if before.file_type == FileType::Dir => self.both(name, before, *now, below)?,
            before => {
                let names = all_pairs(None, self.new.dir())?.into_iter();
                (Some(Mark::Whole { existed: before.is_some() }), Frame { names, compared: false })
            }
        };
        self.frames.push(frame);
        if let Some(mark) = mark
            && compared
        {
            self.found.steps.push(Step { path: self.path.clone(), mark });
        }
        Ok(())
    }

    /// A directory that both trees have; the walk stands in the new one.
    fn both(&mut self, name: &OsStr, before: Stat, now: Stat, below: Scope) -> Result<(Option<Mark>, Frame)> {
        let Some(dir_stack) = &mut self.old else { return Err(Error::invalid("there is no old tree to compare with")) };
        dir_stack.enter(name)?;
        let (old, new, itself) = (dir_stack.dir(), self.new.dir(), OsStr::new(""));
        let pairs = pairs(self.selection, below, old, new)?;
        if unspellable(old, new, &pairs)? {
            dir_stack.leave()?;
            let names = all_pairs(None, new)?.into_iter();
            return Ok((Some(Mark::Opaque), Frame { names, compared: false }));
        }
        let equal =
            same(&Entry { dir: old, name: itself, stat: before }, &Entry { dir: new, name: itself, stat: now })?;
        if equal && before.mtime != now.mtime {
            self.found.retimed.push(self.path.clone());
        }
        Ok(((!equal).then_some(Mark::Put { existed: true }), Frame { names: pairs.into_iter(), compared: true }))
    }

    /// Notes the names of emitted inodes that were not looked at, and so differ in nothing.
    fn complete_groups(&mut self) -> Result<()> {
        for ((_, ino), group) in &mut self.found.groups {
            if !group.is_missing_names() {
                continue;
            }
            let noted: HashSet<PathBuf> = group.emitted.iter().chain(&group.unchanged).cloned().collect();
            let all = self.selection.links_of(*ino)?;
            group.unchanged.extend(all.into_iter().filter(|path| !noted.contains(path)));
        }
        Ok(())
    }
}

/// The names to visit in a directory of both trees, sorted.
fn pairs(selection: &Selection<'_>, scope: Scope, old: &Dir, new: &Dir) -> Result<Vec<Pair>> {
    match selection.list(scope) {
        None => all_pairs(Some(old), new),
        Some(names) => {
            Ok(names.map(|(name, below)| Pair { name: name.to_owned(), in_old: true, in_new: true, below }).collect())
        }
    }
}

/// The names of both trees.
fn all_pairs(old: Option<&Dir>, new: &Dir) -> Result<Vec<Pair>> {
    let old = old.map(Dir::names).transpose()?.unwrap_or_default();
    let mut before = old.into_iter().map(|entry| entry.name).peekable();
    let below = Scope::All;
    let mut pairs = Vec::new();
    for Name { name, .. } in new.names()? {
        while let Some(gone) = before.next_if(|gone| *gone < name) {
            pairs.push(Pair { name: gone, in_old: true, in_new: false, below });
        }
        let in_old = before.next_if(|kept| *kept == name).is_some();
        pairs.push(Pair { name, in_old, in_new: true, below });
    }
    pairs.extend(before.map(|name| Pair { name, in_old: true, in_new: false, below }));
    Ok(pairs)
}

/// Whether a name vanished that is too long to be spelled as a whiteout.
fn unspellable(old: &Dir, new: &Dir, pairs: &[Pair]) -> Result<bool> {
    for Pair { name, in_old, in_new, .. } in pairs {
        let long = *in_old && name.len() > WHITEOUT_NAME_MAX;
        if long && look(old, name)?.is_some() && (!in_new || look(new, name)?.is_none()) {
            return Ok(true);
        }
    }
    Ok(false)
}
