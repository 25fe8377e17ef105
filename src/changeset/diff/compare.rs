//! The first pass: walks both trees side by side and notes what differs.
//!
//! Invariants: directories are entered by descriptor, in the order of their names; what is kept in memory grows with
//! the differences and with the names of hard-linked inodes, not with the trees.
//!
//! A [`Selection`] narrows what is looked at: in [`pairs`] the names of a directory, and at the end, for the names of a
//! hard-linked inode that were not looked at, which there are. What is a change is decided here alone.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::iter::Peekable;
use std::path::PathBuf;

use super::dir_stack::{DirStack, inode};
use super::plan::{Findings, Mark, MarkedPaths};
use super::same::{InodeAt, same};
use crate::changeset::WHITEOUT_NAME_MAX;
use crate::changeset::selection::{Scope, Selection};
use crate::error::{Error, Result};
use crate::tree::{Device, Dir, FileType, IntoNames, Meta, Name, Names, Stat};

/// Notes how `new` differs from `old`, or from an empty tree with an implied root, in what `selection` names.
pub(super) fn compare(old: Option<&Dir>, new: &Dir, selection: &Selection<'_>) -> Result<Findings> {
    let mut comparison = Comparison {
        selection,
        old: old.map(DirStack::new),
        new: DirStack::new(new),
        path: PathBuf::new(),
        frames: Vec::new(),
        found: Findings { steps: MarkedPaths::default(), retimed: Vec::new(), groups: HashMap::new() },
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
    frames: Vec<ComparedDir<'a>>,
    found: Findings,
}

/// A directory of the new tree whose names are being visited.
struct ComparedDir<'a> {
    names: Box<dyn Iterator<Item = Pair> + 'a>,
    /// Whether the old tree has a directory here and is walked along. Otherwise all that is below is emitted, and only
    /// hard links are still to be noted.
    compared: bool,
}

/// A name, and which trees may have it.
struct Pair {
    name: OsString,
    in_old: bool,
    in_new: bool,
    /// The scope of the comparison below, where both trees have a directory.
    below: Scope,
}

impl<'a> Comparison<'a> {
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
        let names = self.all_new()?;
        self.frames.push(ComparedDir { names, compared: true });
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
        self.found.steps.push(&self.path, name, mark);
    }

    /// Anything but a directory of the new tree.
    fn leaf(&mut self, name: &OsStr, before: Option<Stat>, now: Stat, compared: bool) -> Result<()> {
        let unchanged = match (&self.old, before) {
            (Some(old), Some(before)) => same(
                &InodeAt { dir: old.dir(), name, stat: before },
                &InodeAt { dir: self.new.dir(), name, stat: now },
            )?,
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
                let names = self.all_new()?;
                (Some(Mark::Whole { existed: before.is_some() }), ComparedDir { names, compared: false })
            }
        };
        self.frames.push(frame);
        if let Some(mark) = mark
            && compared
        {
            self.found.steps.push_path(&self.path, mark);
        }
        Ok(())
    }

    /// A directory that both trees have; the walk stands in the new one.
    fn both(&mut self, name: &OsStr, before: Stat, now: Stat, below: Scope) -> Result<(Option<Mark>, ComparedDir<'a>)> {
        let Some(dir_stack) = &mut self.old else { return Err(Error::invalid("there is no old tree to compare with")) };
        dir_stack.enter(name)?;
        let (old, new, itself) = (dir_stack.dir(), self.new.dir(), OsStr::new(""));
        let Some(names) = pairs(self.selection, below, old, new)? else {
            dir_stack.leave()?;
            return Ok((Some(Mark::Opaque), ComparedDir { names: self.all_new()?, compared: false }));
        };
        let equal =
            same(&InodeAt { dir: old, name: itself, stat: before }, &InodeAt { dir: new, name: itself, stat: now })?;
        if equal && before.mtime != now.mtime {
            self.found.retimed.push(self.path.clone());
        }
        Ok(((!equal).then_some(Mark::Put { existed: true }), ComparedDir { names, compared: true }))
    }

    /// All names of the new tree's directory in which the walk stands, as if the old tree had none.
    fn all_new(&self) -> Result<Box<dyn Iterator<Item = Pair> + 'a>> {
        Ok(Box::new(Merge::new(Names::default(), self.new.dir().names()?)))
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

/// The names to visit in a directory of both trees, sorted; none if a name vanished that is too long for a whiteout.
fn pairs<'a>(
    selection: &'a Selection<'_>,
    scope: Scope,
    old: &Dir,
    new: &Dir,
) -> Result<Option<Box<dyn Iterator<Item = Pair> + 'a>>> {
    let Some(listed) = selection.list(scope) else {
        let (before, after) = (old.names()?, new.names()?);
        let spellable = !unspellable(old, new, before.iter())?;
        return Ok(spellable.then(|| Box::new(Merge::new(before, after)) as _));
    };
    if unspellable(old, new, selection.list(scope).into_iter().flatten().map(|(name, _)| name))? {
        return Ok(None);
    }
    let pair = |(name, below): (&OsStr, _)| Pair { name: name.to_owned(), in_old: true, in_new: true, below };
    Ok(Some(Box::new(listed.map(pair))))
}

/// The names of both trees, merged as they are asked for.
struct Merge {
    old: Peekable<IntoNames>,
    new: Peekable<IntoNames>,
}

impl Merge {
    fn new(old: Names, new: Names) -> Self {
        Self { old: old.into_iter().peekable(), new: new.into_iter().peekable() }
    }
}

impl Iterator for Merge {
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        let order = match (self.old.peek(), self.new.peek()) {
            (Some(old), Some(new)) => old.name.cmp(&new.name),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let (in_old, in_new) = (order != Ordering::Greater, order != Ordering::Less);
        let old = if in_old { self.old.next() } else { None };
        let new = if in_new { self.new.next() } else { None };
        old.or(new).map(|Name { name, .. }| Pair { name, in_old, in_new, below: Scope::All })
    }
}

/// Whether one of `names` vanished and is too long to be spelled as a whiteout.
fn unspellable<'n>(old: &Dir, new: &Dir, names: impl Iterator<Item = &'n OsStr>) -> Result<bool> {
    for name in names.filter(|name| name.len() > WHITEOUT_NAME_MAX) {
        if look(old, name)?.is_some() && look(new, name)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}
