//! Removals: of what lay below before the layer, and of nothing that the layer itself made.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::ledger::remove_below;
use super::{Applier, ResolvedName};
use crate::error::Result;
use crate::tree::resolve::Parent;
use crate::tree::{FileType, Meta, walk};

impl Applier {
    /// The lower tree has nothing at `path` any more.
    pub(super) fn remove(&mut self, path: &Path) -> Result<()> {
        let Some(ResolvedName { parent, name, path }) = self.existing_place(path)? else { return Ok(()) };
        if self.is_purged(&parent) {
            return Ok(());
        }
        self.give_back(&path)?;
        if !self.ledger.holds(&path) {
            return self.clear(&parent, &name, &path);
        }
        if parent.dir.stat_if_any(&name)?.is_some_and(|stat| stat.file_type == FileType::Dir) {
            self.undescribed(&path);
            self.purge(path)?;
        }
        Ok(())
    }

    /// The lower tree has nothing below the directory `path` any more.
    pub(super) fn hide(&mut self, path: &Path) -> Result<()> {
        let dir = self.dir(path)?;
        self.give_back(&dir.path)?;
        self.purge(dir.path.clone())
    }

    /// Removes everything below a directory that is not the layer's. Once done for a directory it is done for good.
    fn purge(&mut self, path: PathBuf) -> Result<()> {
        let mut todo = vec![path.clone()];
        while let Some(path) = todo.pop() {
            if self.ledger.is_purged(&path) {
                continue;
            }
            let dir = self.resolver.parent(path)?;
            for entry in dir.dir.names()? {
                self.listed += 1;
                let path = dir.path.join(&entry.name);
                if !self.ledger.holds(&path) {
                    self.clear(&dir, &entry.name, &path)?;
                } else if dir.dir.stat(&entry.name)?.file_type == FileType::Dir {
                    self.undescribed(&path);
                    todo.push(path);
                }
            }
        }
        if self.ledger.purge(&path) {
            // The resolver may hold the removed directory open.
            self.resolver.forget();
        }
        Ok(())
    }

    /// The lower directory `path` is gone, and only entries of the layer below it keep it: unless the layer says what
    /// it is, it is as if it had been missing.
    fn undescribed(&mut self, path: &Path) {
        if !self.ledger.describes(path) {
            self.ledger.owe(path.to_owned(), Meta::implied_dir());
        }
    }

    /// Makes the name free, whatever is there.
    pub(super) fn clear(&mut self, parent: &Parent, name: &OsStr, path: &Path) -> Result<()> {
        self.deferred.remove(path);
        self.skipped.remove(path);
        let _ = self.borrowed.remove(path);
        let Some(stat) = parent.dir.stat_if_any(name)? else { return Ok(()) };
        self.rescue(&parent.dir, name, path, &stat)?;
        self.touch(parent);
        match stat.file_type {
            FileType::Dir => {
                self.resolver.forget();
                self.ledger.forget_below(path);
                remove_below(&mut self.deferred, path);
                self.borrowed.remove_below(path);
                walk::remove_all(&parent.dir, name)
            }
            FileType::Symlink => {
                self.resolver.forget();
                parent.dir.unlink(name)
            }
            _ => parent.dir.unlink(name),
        }
    }
}
