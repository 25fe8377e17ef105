//! Hard links: to what the layer brought, to what lies below, and to what the layer brings later.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::ledger::below;
use super::{Applier, ResolvedName};
use crate::error::{Error, Result};
use crate::tree::FileType;

/// Links of the layer to inodes of the lower tree, by their paths without links. A link to such a link is one too.
#[derive(Debug, Default)]
pub(super) struct Borrowed {
    targets: BTreeMap<PathBuf, Loan>,
    /// The same, to be found by the path of the lower tree.
    links: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

/// The target of a hard link when the link was made.
#[derive(Debug)]
struct Loan {
    /// The path of the lower tree that the inode has.
    lower: PathBuf,
    /// The path in the layer's entry: the same path, or a link to it, which may become something else.
    said: PathBuf,
}

impl Borrowed {
    fn insert(&mut self, link: PathBuf, loan: Loan) {
        self.links.entry(loan.lower.clone()).or_default().insert(link.clone());
        self.targets.insert(link, loan);
    }

    /// The link `path` is something else now. Answers with what the layer said of it.
    pub(super) fn remove(&mut self, path: &Path) -> Option<PathBuf> {
        let Loan { lower, said } = self.targets.remove(path)?;
        if let Some(links) = self.links.get_mut(&lower) {
            links.remove(path);
            if links.is_empty() {
                self.links.remove(&lower);
            }
        }
        Some(said)
    }

    /// Every link at or below `path` is gone.
    pub(super) fn remove_below(&mut self, path: &Path) {
        below(&self.targets, path).iter().for_each(|link| drop(self.remove(link)));
    }
}

/// The result of an attempt to link.
enum Tried {
    Made,
    IsMissing,
    IsDirectory,
}

const IS_DIRECTORY: &str = "the target is a directory";

impl Applier {
    /// Nothing of the lower tree is at `target` or below it any more: the links to such are taken back, and wait for
    /// what the layer may have there.
    pub(super) fn give_back(&mut self, target: &Path) -> Result<()> {
        for target in below(&self.borrowed.links, target) {
            for link in self.borrowed.links.remove(&target).unwrap_or_default() {
                let said = self.borrowed.remove(&link).unwrap_or_else(|| target.clone());
                if let (Some(above), Some(name)) = (link.parent(), link.file_name()) {
                    let parent = self.resolver.parent(above.to_owned())?;
                    self.clear(&parent, name, &link)?;
                }
                self.deferred.insert(link, said);
            }
        }
        Ok(())
    }

    /// `path` becomes another name of the inode at `target`.
    pub(super) fn link(&mut self, path: &Path, target: &Path) -> Result<()> {
        super::check_path(target)?;
        let place = self.place(path)?;
        let source = self.existing_place(target)?;
        if let Some(source) = &source {
            if source.path.starts_with(&place.path) {
                return Err(refused(path, target, "the link would replace its own target"));
            }
            match self.try_link(&place, source)? {
                Tried::Made => {
                    self.describe(&place.parent, &place.path);
                    return Ok(());
                }
                Tried::IsDirectory if self.describes(source) => {
                    return Err(refused(path, target, IS_DIRECTORY));
                }
                // One of the lower tree may make room for an entry of the layer.
                Tried::IsDirectory | Tried::IsMissing => {}
            }
        }
        self.clear(&place.parent, &place.name, &place.path)?;
        self.describe(&place.parent, &place.path);
        let target = source.map_or_else(|| target.to_owned(), |source| source.path);
        self.keep_waiting(&place.path)?;
        self.keep_waiting(&target)?;
        self.deferred.insert(place.path, target);
        Ok(())
    }

    /// Makes the link, in place of whatever is there, if there is something to link to.
    fn try_link(&mut self, place: &ResolvedName, source: &ResolvedName) -> Result<Tried> {
        let ResolvedName { parent, name, path } = place;
        if self.skipped.contains(&source.path) {
            self.clear(parent, name, path)?;
            self.keep_waiting(path)?;
            self.skipped.insert(path.clone());
            self.applied.skipped_devices += 1;
            return Ok(Tried::Made);
        }
        let Some(stat) = source.parent.dir.stat_if_any(&source.name)? else { return Ok(Tried::IsMissing) };
        if stat.file_type == FileType::Dir {
            return Ok(Tried::IsDirectory);
        }
        self.clear(parent, name, path)?;
        self.touch(parent);
        parent.dir.make_link(&source.parent.dir, &source.name, name)?;
        let lent = self.borrowed.targets.get(&source.path).map(|loan| loan.lower.clone());
        let own = || (!self.describes(source)).then(|| source.path.clone());
        if let Some(lower) = lent.or_else(own) {
            self.borrowed.insert(path.clone(), Loan { lower, said: source.path.clone() });
        }
        Ok(Tried::Made)
    }

    /// Makes the links whose targets came later, each after those that it leads through.
    pub(super) fn make_deferred(&mut self) -> Result<()> {
        while let Some((path, target)) = self.deferred.pop_first() {
            let mut chain = vec![(path, target)];
            while let Some((next, target)) = self.next_deferred(&chain)? {
                chain.push((next, target));
            }
            while let Some((path, target)) = chain.pop() {
                let place = self.place(&path)?;
                let source = self.existing_place(&target)?;
                match source.map_or(Ok(Tried::IsMissing), |source| self.try_link(&place, &source))? {
                    Tried::Made => {}
                    Tried::IsDirectory => return Err(refused(&path, &target, IS_DIRECTORY)),
                    Tried::IsMissing => return Err(refused(&path, &target, "there is no such entry")),
                }
            }
        }
        Ok(())
    }

    /// The deferred link that is the target of the last one of `chain`.
    fn next_deferred(&mut self, chain: &[(PathBuf, PathBuf)]) -> Result<Option<(PathBuf, PathBuf)>> {
        let Some((_, target)) = chain.last() else { return Ok(None) };
        let source = self.existing_place(target)?;
        Ok(source.and_then(|source| self.deferred.remove_entry(&source.path)))
    }
}

fn refused(path: &Path, target: &Path, why: &str) -> Error {
    Error::invalid(format!("hard link {} to {}: {why}", path.display(), target.display()))
}
