//! Where two trees can differ: a strategy's hint, and the names that a comparison looks at because of it.
//!
//! A [`Hint`] only narrows which names [`diff`](super::diff) looks at. The comparison alone decides which of those
//! names are changes, for every strategy alike. A hint may therefore select too many names, never too few: a name that
//! a hint leaves out must stand for the same inode, in the sense of [`crate::changeset`], in both trees, or for none in
//! either.
//!
//! Invariant: no function here recurses, so the depth of a tree is no danger to the stack.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::tree::Dir;

/// Where a new tree can differ from an old one.
#[derive(Debug)]
pub enum Candidates {
    /// Anywhere: the comparison walks both trees.
    All,
    /// At the names that the hint selects.
    Hint(Box<dyn Hint>),
}

/// Knowledge of a strategy about what changed in a tree, which saves the comparison a walk of both trees.
///
/// A hint is about one pair of trees. It stays valid for as long as its value lives.
pub trait Hint: Debug {
    /// A word for the log, such as `upper`.
    fn name(&self) -> &'static str;

    /// Selects the names at which `new`, the tree that the hint is about, can differ from the old tree.
    ///
    /// # Errors
    /// Errors of reading the tree or the strategy's records.
    fn select(&self, new: &Dir) -> Result<Selection<'_>>;

    /// True if the hint selects every file that the snapshot itself stores, whatever happened to the file's bytes on
    /// disk. False if the hint trusts a record, such as a ctime, which damage of the disk leaves as it was.
    fn selects_damaged_files(&self) -> bool;
}

/// Finds all paths of an inode.
pub trait LinkSearch: Debug {
    /// Returns the paths of the inode `ino` in the new tree; an inode without a path has none.
    ///
    /// # Errors
    /// Errors of the file system.
    fn paths_of(&self, ino: u64) -> Result<Vec<PathBuf>>;
}

impl Candidates {
    /// Selects the names of `new`, the tree that the hint is about, at which a comparison has to look.
    pub(super) fn select(&self, new: &Dir) -> Result<Selection<'_>> {
        let Self::Hint(hint) = self else { return Ok(Selection::everything()) };
        let selection = hint.select(new)?;
        let (by, names) = (hint.name(), selection.names());
        tracing::debug!(by, names, tree = %new.shown().display(), "changes are looked for by a hint");
        Ok(selection)
    }
}

/// Part of a tree below a path at which a comparison looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::changeset) enum Scope {
    /// Everything.
    All,
    /// Some names, by the index of their list in [`Selection::lists`].
    Some(usize),
    /// No name: nothing was added below.
    Nothing,
}

/// Source of those names of a hard-linked inode that the selection leaves out.
#[derive(Debug)]
enum Links<'a> {
    /// The selection has all names of an inode if it has one.
    Selected,
    /// The paths of each inode that has several, by inode number.
    Known(HashMap<u64, Vec<PathBuf>>),
    /// A search of the file system.
    Searched(&'a dyn LinkSearch),
}

/// Names at which a comparison looks. A path that is not selected stands, unchanged, in both trees or in neither.
#[derive(Debug)]
pub struct Selection<'a> {
    /// Scope of the root directory, which the comparison always looks at itself.
    root: Scope,
    /// Names of each directory that is selected in part. An arena, because dropping nested maps would recurse.
    lists: Vec<BTreeMap<Box<OsStr>, Scope>>,
    links: Links<'a>,
}

impl<'a> Selection<'a> {
    /// Selects every name.
    pub fn everything() -> Self {
        Self { root: Scope::All, lists: Vec::new(), links: Links::Selected }
    }

    /// Selects the root directory alone.
    pub fn nothing() -> Self {
        Self { root: Scope::Some(0), lists: vec![BTreeMap::new()], links: Links::Selected }
    }

    /// Adds the name at `path`, a relative path, and the directories on the way to it.
    pub fn add(&mut self, path: &Path) {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return };
        if let Some(list) = self.list_of(above)
            && !self.lists[list].contains_key(name)
        {
            self.lists[list].insert(name.into(), Scope::Nothing);
        }
    }

    /// Adds `path`, a relative path, and everything below it.
    pub fn add_all(&mut self, path: &Path) {
        match (path.parent(), path.file_name()) {
            (Some(above), Some(name)) => {
                if let Some(list) = self.list_of(above) {
                    self.lists[list].insert(name.into(), Scope::All);
                }
            }
            _ => self.root = Scope::All,
        }
    }

    /// Returns the index of the list of names in `path`, after adding `path` if it is missing; `None` if everything
    /// there is selected.
    fn list_of(&mut self, path: &Path) -> Option<usize> {
        let Scope::Some(mut list) = self.root else { return None };
        for name in path {
            list = match self.lists[list].get(name) {
                Some(Scope::All) => return None,
                Some(Scope::Some(below)) => *below,
                Some(Scope::Nothing) | None => {
                    let below = self.lists.len();
                    self.lists[list].insert(name.into(), Scope::Some(below));
                    self.lists.push(BTreeMap::new());
                    below
                }
            };
        }
        Some(list)
    }

    /// Says that `links` has the paths of each hard-linked inode, by inode number. Without this and without
    /// [`Self::with_searched_links`], the selection itself must have all names of an inode if it has one.
    pub fn with_known_links(self, links: HashMap<u64, Vec<PathBuf>>) -> Self {
        Self { links: Links::Known(links), ..self }
    }

    /// Says that `search` finds the paths of a hard-linked inode.
    pub fn with_searched_links(self, search: &'a dyn LinkSearch) -> Self {
        Self { links: Links::Searched(search), ..self }
    }

    /// Returns true if a comparison looks at `path`.
    pub fn selects(&self, path: &Path) -> bool {
        let mut at = self.root;
        for name in path {
            let Scope::Some(list) = at else { return at == Scope::All };
            let Some(below) = self.lists[list].get(name) else { return false };
            at = *below;
        }
        true
    }

    /// Returns the scope of the root directory.
    pub(in crate::changeset) fn root(&self) -> Scope {
        self.root
    }

    /// Returns the selected names in a directory with `scope`, sorted by their bytes, and the scope below each; `None`
    /// if all names are selected.
    pub(in crate::changeset) fn list(&self, scope: Scope) -> Option<impl Iterator<Item = (&OsStr, Scope)>> {
        let list = match scope {
            Scope::All => return None,
            Scope::Some(list) => self.lists.get(list),
            Scope::Nothing => None,
        };
        Some(list.into_iter().flatten().map(|(name, below)| (&**name, *below)))
    }

    /// Returns paths of the inode `ino`, among them all that are not selected.
    pub(in crate::changeset) fn links_of(&self, ino: u64) -> Result<Vec<PathBuf>> {
        match &self.links {
            Links::Selected => Ok(Vec::new()),
            Links::Known(links) => Ok(links.get(&ino).cloned().unwrap_or_default()),
            Links::Searched(search) => search.paths_of(ino),
        }
    }

    /// Returns the number of selected names.
    fn names(&self) -> usize {
        self.lists.iter().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(selection: &Selection<'_>, scope: Scope) -> String {
        let Some(names) = selection.list(scope) else { return "*".to_owned() };
        let names: Vec<_> =
            names.map(|(name, below)| format!("{}{}", name.display(), shown(selection, below))).collect();
        format!("({})", names.join(" "))
    }

    #[test]
    fn everything_below_a_path_swallows_what_was_named_there() {
        let mut selection = Selection::nothing();
        let mut after = |path: &str, all: bool| {
            let path = Path::new(path);
            if all {
                selection.add_all(path)
            } else {
                selection.add(path)
            }
            shown(&selection, selection.root())
        };
        assert_eq!(after("", false), "()");
        assert_eq!(after("b/c", false), "(b(c()))");
        assert_eq!(after("a", false), "(a() b(c()))");
        assert_eq!(after("b/a", true), "(a() b(a* c()))");
        assert_eq!(after("b/a/x", false), "(a() b(a* c()))");
        assert_eq!(after("b/a/x", true), "(a() b(a* c()))");
        assert_eq!(after("b", false), "(a() b(a* c()))");
        assert_eq!(after("b", true), "(a() b*)");
        assert_eq!(after("", true), "*");
        assert_eq!(after("c", false), "*");
    }

    #[test]
    fn a_path_is_selected_if_it_was_named_or_lies_below_or_above_one() {
        let mut selection = Selection::nothing();
        selection.add(Path::new("a/b"));
        selection.add_all(Path::new("c"));
        for (path, expected) in
            [("", true), ("a", true), ("a/b", true), ("a/b/x", false), ("a/x", false), ("c/x", true)]
        {
            assert_eq!(selection.selects(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn depth_is_no_danger() {
        let mut selection = Selection::nothing();
        selection.add(Path::new(&"d/".repeat(1_000_000)));
        assert_eq!(selection.names(), 1_000_000);
    }
}
