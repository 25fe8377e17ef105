//! The directory `<root>/s`, where snapshots that are plain directories stand: what the overlay and the copy backend
//! share.
//!
//! Invariant: `s/<id>` is complete if it is there. It is made as `s/<id>.new` and renamed, and what a failure or crash
//! leaves of that is listed under its id and removed with it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, RenameFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::id::Id;
use crate::tree::{Dir, walk};

/// The directory of the snapshots in the root.
pub(super) const SNAPSHOTS: &str = "s";

/// What an unfinished snapshot has behind its id.
const UNFINISHED: &str = ".new";

/// The snapshots of a root.
#[derive(Debug)]
pub(super) struct Shelf {
    path: PathBuf,
    dir: Dir,
}

impl Shelf {
    /// Opens the snapshots below `root`, an absolute path whose directory is `dir`; makes their directory if it is
    /// missing.
    pub(super) fn open(root: &Path, dir: &Dir) -> Result<Self> {
        match rustix::fs::mkdirat(dir, SNAPSHOTS, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).at("make directory", dir.shown_at(SNAPSHOTS)),
        }
        Ok(Self { path: root.join(SNAPSHOTS), dir: dir.open_dir(SNAPSHOTS)? })
    }

    /// The directory itself.
    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The path of `name` in the snapshot `id`.
    pub(super) fn path(&self, id: Id, name: &str) -> PathBuf {
        let mut path = self.path.join(id.to_string());
        path.push(name);
        path
    }

    /// The snapshot `id`, open.
    pub(super) fn snapshot(&self, id: Id) -> Result<Dir> {
        self.dir.open_dir(id.to_string())
    }

    /// Makes the snapshot `id` of what `fill` puts into its directory.
    ///
    /// # Errors
    /// `AlreadyExists`; what `fill` returns.
    pub(super) fn make(&self, id: Id, fill: impl FnOnce(&Dir) -> Result<()>) -> Result<()> {
        let name = OsString::from(id.to_string());
        if self.dir.stat_if_any(&name)?.is_some() {
            return Err(Error::already_exists(format!("{} is there already", self.dir.shown_at(&name).display())));
        }
        let unfinished = OsString::from(format!("{id}{UNFINISHED}"));
        self.dir.make_dir(&unfinished)?;
        fill(&self.dir.open_dir(&unfinished)?)?;
        rustix::fs::renameat_with(&self.dir, &unfinished, &self.dir, &name, RenameFlags::NOREPLACE)
            .at("make", self.dir.shown_at(&name))
    }

    /// Removes the snapshot `id`, finished or not, until `stop` answers true; answers whether nothing is left. Nothing
    /// there is success.
    pub(super) fn remove_until(&self, id: Id, stop: &dyn Fn() -> bool) -> Result<bool> {
        Ok(walk::remove_all_until(&self.dir, format!("{id}{UNFINISHED}"), stop)?
            && walk::remove_all_until(&self.dir, id.to_string(), stop)?)
    }

    /// The ids of which something is there.
    pub(super) fn inventory(&self) -> Result<Vec<Id>> {
        let names = self.dir.names()?;
        let mut ids: Vec<Id> = names
            .iter()
            .filter_map(|entry| entry.name.to_str())
            .filter_map(|name| name.strip_suffix(UNFINISHED).unwrap_or(name).parse().ok())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}
