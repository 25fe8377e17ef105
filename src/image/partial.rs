//! What appears under its name when it is complete, or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// A file or a directory in the making. Until [`Partial::keep`] it is beside its target under a name that says so, and
/// dropped before that, it is removed.
#[derive(Debug)]
pub struct Partial {
    target: PathBuf,
    /// Where it is until then; `None` when it is there, or where the target itself is written to.
    temporary: Option<PathBuf>,
}

impl Partial {
    /// A file at `target`, in place of one that is there already. What is there and is no regular file (a pipe, a
    /// device) is written to as it is.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn file(target: &Path) -> Result<(Self, File)> {
        let target = target.to_owned();
        if target.metadata().is_ok_and(|stat| !stat.is_file()) {
            let file = File::options().write(true).open(&target).at("open", &target)?;
            return Ok((Self { target, temporary: None }, file));
        }
        let temporary = beside(&target);
        let file = File::create_new(&temporary).at("create", &temporary)?;
        Ok((Self { target, temporary: Some(temporary) }, file))
    }

    /// A directory at `target`, where nothing or an empty directory is now.
    ///
    /// # Errors
    /// `AlreadyExists` if something is in it; what the file system reports.
    pub fn dir(target: &Path) -> Result<Self> {
        if std::fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) {
            let shown = target.display();
            return Err(Error::already_exists(format!("{shown} is not empty: choose a new or an empty directory")));
        }
        let temporary = beside(target);
        std::fs::create_dir(&temporary).at("make directory", &temporary)?;
        Ok(Self { target: target.to_owned(), temporary: Some(temporary) })
    }

    /// Where it is written.
    pub fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.target)
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn keep(mut self) -> Result<()> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        std::fs::rename(temporary, &self.target).at("create", &self.target)?;
        self.temporary = None;
        Ok(())
    }
}

fn beside(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or(OsStr::new("output")));
    name.push(format!(".{}.partial", std::process::id()));
    target.with_file_name(name)
}

impl Drop for Partial {
    fn drop(&mut self) {
        let Some(temporary) = &self.temporary else { return };
        // It is this process's own; if it cannot be removed, its name says what it is.
        let _ = if temporary.is_dir() { std::fs::remove_dir_all(temporary) } else { std::fs::remove_file(temporary) };
    }
}
