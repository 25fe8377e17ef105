//! What a recording of the layer has to know of its files: where they are, and when their content goes again.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Applier;
use crate::error::Result;
use crate::tree::{Dir, FileType, Stat};

impl Applier {
    /// The content that the archive brought last is at `path` now.
    pub(super) fn record_content(&mut self, path: &Path) -> Result<()> {
        if let Some(recorder) = &mut self.recorder {
            let number = recorder.content(path)?;
            self.ledger.bring(path, number);
        }
        Ok(())
    }

    /// Saves what the layer brought to `path` and is about to be removed from there.
    pub(super) fn rescue(&mut self, dir: &Dir, name: &OsStr, path: &Path, stat: &Stat) -> Result<()> {
        if self.recorder.is_none() {
            return Ok(());
        }
        match stat.file_type {
            FileType::File => self.rescue_file(dir, name, path, stat.size),
            FileType::Dir if self.ledger.holds(path) => self.rescue_below(path.to_owned()),
            _ => Ok(()),
        }
    }

    fn rescue_file(&mut self, dir: &Dir, name: &OsStr, path: &Path, size: u64) -> Result<()> {
        match (self.ledger.lose(path), &mut self.recorder) {
            (Some(number), Some(recorder)) => recorder.rescue(number, size, &mut dir.open_file(name)?),
            _ => Ok(()),
        }
    }

    fn rescue_below(&mut self, path: PathBuf) -> Result<()> {
        let mut todo = vec![path];
        while let Some(path) = todo.pop() {
            let dir = self.resolver.open(&path)?;
            for entry in dir.names()? {
                let (path, stat) = (path.join(&entry.name), dir.stat(&entry.name)?);
                match stat.file_type {
                    FileType::Dir if self.ledger.holds(&path) => todo.push(path),
                    FileType::File => self.rescue_file(&dir, &entry.name, &path, stat.size)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
