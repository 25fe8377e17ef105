//! Saves content for the tar-split data: of files of the layer that the same layer removes or replaces.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Applier;
use crate::error::Result;
use crate::tree::{Dir, FileType, Stat};

impl Applier {
    /// Saves what the layer brought to `path` and is about to be removed from there.
    pub(super) fn rescue(&mut self, dir: &Dir, name: &OsStr, path: &Path, stat: &Stat) -> Result<()> {
        // A file of the lower tree is not in the layer's archive, so its content need not be kept.
        if self.tar_split.is_none() || !self.ledger.may_hold(path) {
            return Ok(());
        }
        match stat.file_type {
            FileType::File => self.rescue_file(dir, name, path, stat.size),
            FileType::Dir => self.rescue_below(path.to_owned()),
            _ => Ok(()),
        }
    }

    fn rescue_file(&mut self, dir: &Dir, name: &OsStr, path: &Path, size: u64) -> Result<()> {
        match &mut self.tar_split {
            Some(tar_split) => tar_split.rescue(path, size, &mut dir.open_file(name)?),
            None => Ok(()),
        }
    }

    fn rescue_below(&mut self, path: PathBuf) -> Result<()> {
        let mut todo = vec![path];
        while let Some(path) = todo.pop() {
            let dir = self.resolver.open(&path)?;
            for entry in dir.names()? {
                let (path, stat) = (path.join(&entry.name), dir.stat(&entry.name)?);
                match stat.file_type {
                    _ if !self.ledger.may_hold(&path) => {}
                    FileType::Dir => todo.push(path),
                    FileType::File => self.rescue_file(&dir, &entry.name, &path, stat.size)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
