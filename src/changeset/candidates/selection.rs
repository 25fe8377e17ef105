//! The names that a comparison looks at, as a tree of its own.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::Generation;
use crate::error::Result;

/// What is looked at below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::changeset) enum Scope {
    /// Everything.
    All,
    /// Some names: the place of their list in [`Selection::lists`].
    Some(usize),
}

/// Where the other names of an inode are found which a narrowed walk did not come by.
#[derive(Debug)]
enum Links<'a> {
    /// The walk comes by all names of an inode of which it comes by one that differs.
    Walked,
    /// The paths of each inode that has several.
    Known(HashMap<u64, Vec<PathBuf>>),
    /// In the file system.
    Searched(&'a Generation),
}

/// Names to look at. A path that is not in it stands, unchanged, in both trees or in neither.
#[derive(Debug)]
pub(in crate::changeset) struct Selection<'a> {
    /// At the root, which is always looked at itself.
    root: Scope,
    /// What is looked at in a directory, for each of which not everything is. An arena: dropping it must not recurse.
    lists: Vec<BTreeMap<OsString, Scope>>,
    links: Links<'a>,
}

impl<'a> Selection<'a> {
    /// Every name.
    pub(in crate::changeset) fn everything() -> Self {
        Self { root: Scope::All, lists: Vec::new(), links: Links::Walked }
    }

    /// The root alone.
    pub(super) fn nothing() -> Self {
        Self { root: Scope::Some(0), lists: vec![BTreeMap::new()], links: Links::Walked }
    }

    /// Adds the name at `path`; the directories on the way to it are looked at, too.
    pub(super) fn add(&mut self, path: &Path) {
        self.insert(path);
    }

    /// Adds `path` and all that is below it.
    pub(super) fn add_all(&mut self, path: &Path) {
        match (path.parent(), path.file_name()) {
            (Some(above), Some(name)) => {
                if let Scope::Some(list) = self.insert(above) {
                    self.lists[list].insert(name.to_owned(), Scope::All);
                }
            }
            _ => self.root = Scope::All,
        }
    }

    /// The scope of `path`, which is added if it is missing.
    fn insert(&mut self, path: &Path) -> Scope {
        let mut at = self.root;
        for name in path {
            let Scope::Some(list) = at else { return at };
            at = match self.lists[list].get(name) {
                Some(below) => *below,
                None => {
                    let below = Scope::Some(self.lists.len());
                    self.lists[list].insert(name.to_owned(), below);
                    self.lists.push(BTreeMap::new());
                    below
                }
            };
        }
        at
    }

    /// Says where other names of hard-linked inodes are found.
    pub(super) fn with_known_links(self, links: HashMap<u64, Vec<PathBuf>>) -> Self {
        Self { links: Links::Known(links), ..self }
    }

    /// The same, by a search.
    pub(super) fn with_searched_links(self, generation: &'a Generation) -> Self {
        Self { links: Links::Searched(generation), ..self }
    }

    /// What is looked at in the root.
    pub(in crate::changeset) fn root(&self) -> Scope {
        self.root
    }

    /// The names to look at in a directory with `scope`, sorted by their bytes, and what below each; `None`: all.
    pub(in crate::changeset) fn list(&self, scope: Scope) -> Option<impl Iterator<Item = (&OsStr, Scope)>> {
        match scope {
            Scope::All => None,
            Scope::Some(list) => Some(self.lists[list].iter().map(|(name, below)| (name.as_os_str(), *below))),
        }
    }

    /// The paths of the inode `ino` that the walk may not have come by. Others may be among them.
    pub(in crate::changeset) fn links_of(&self, ino: u64) -> Result<Vec<PathBuf>> {
        match &self.links {
            Links::Walked => Ok(Vec::new()),
            Links::Known(links) => Ok(links.get(&ino).cloned().unwrap_or_default()),
            Links::Searched(generation) => generation.paths_of(ino),
        }
    }

    /// How many names were selected, for the log.
    pub(super) fn names(&self) -> usize {
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
    fn depth_is_no_danger() {
        let mut selection = Selection::nothing();
        selection.add(Path::new(&"d/".repeat(1_000_000)));
        assert_eq!(selection.names(), 1_000_000);
    }
}
