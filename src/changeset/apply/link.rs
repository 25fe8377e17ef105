//! Hard links: to what the layer brought, to what lies below, and to what the layer brings later.

use std::path::{Path, PathBuf};

use super::{Applier, Place};
use crate::error::{Error, Result};
use crate::tree::FileType;

impl Applier {
    /// `path` becomes another name of the inode at `target`.
    pub(super) fn link(&mut self, path: &Path, target: &Path) -> Result<()> {
        super::check_path(target)?;
        let place = self.place(path)?;
        self.describe(&place);
        let source = self.existing_place(target)?;
        if let Some(source) = &source {
            if source.path.starts_with(&place.path) {
                return Err(refused(path, target, "the link would replace its own target"));
            }
            if self.try_link(&place, source, target)? {
                return Ok(());
            }
        }
        self.clear(&place.parent, &place.name, &place.path)?;
        let target = source.map_or_else(|| target.to_owned(), |source| source.path);
        self.keep_waiting(&place.path)?;
        self.keep_waiting(&target)?;
        self.deferred.insert(place.path, target);
        Ok(())
    }

    /// Makes the link, in place of whatever is there; false if there is no target.
    fn try_link(&mut self, place: &Place, source: &Place, target: &Path) -> Result<bool> {
        let Place { parent, name, path } = place;
        if self.skipped.contains(&source.path) {
            self.clear(parent, name, path)?;
            self.keep_waiting(path)?;
            self.skipped.insert(path.clone());
            self.applied.skipped_devices += 1;
            return Ok(true);
        }
        let Some(stat) = source.parent.dir.stat_if_any(&source.name)? else { return Ok(false) };
        if stat.file_type == FileType::Dir {
            return Err(refused(path, target, "the target is a directory"));
        }
        self.clear(parent, name, path)?;
        self.touch(parent);
        parent.dir.make_link(&source.parent.dir, &source.name, name)?;
        Ok(true)
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
                let made = match &source {
                    Some(source) => self.try_link(&place, source, &target)?,
                    None => false,
                };
                if !made {
                    return Err(refused(&path, &target, "there is no such entry"));
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
