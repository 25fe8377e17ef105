//! The directory `<root>/s` of snapshots that are plain directories, shared by the overlay and the copy backend.
//!
//! Invariant: `s/<id>` is complete if it exists. It is made as `s/<id>.new` and renamed. The remains of a failure or a
//! crash are listed under the id and removed with it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, RenameFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::id::Id;
use crate::store_files::{self, SNAPSHOTS};
use crate::tree::{Dir, walk};

/// Suffix of an unfinished snapshot.
const UNFINISHED: &str = ".new";

/// The directory that holds the snapshots of a root.
#[derive(Debug)]
pub(super) struct SnapshotsDir {
    path: PathBuf,
    dir: Dir,
}

impl SnapshotsDir {
    /// Opens the snapshots below `root`, an absolute path whose open directory is `dir`; creates their directory if it
    /// is missing.
    pub(super) fn open(root: &Path, dir: &Dir) -> Result<Self> {
        match rustix::fs::mkdirat(dir, SNAPSHOTS, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).at("make directory", dir.shown_at(SNAPSHOTS)),
        }
        Ok(Self { path: store_files::snapshots(root), dir: dir.open_dir(SNAPSHOTS)? })
    }

    /// Returns the open directory.
    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Returns the path of `name` in the snapshot `id`.
    pub(super) fn path(&self, id: Id, name: &str) -> PathBuf {
        let mut path = self.path.join(id.to_string());
        path.push(name);
        path
    }

    /// Opens the snapshot `id`.
    pub(super) fn snapshot(&self, id: Id) -> Result<Dir> {
        self.dir.open_dir(id.to_string())
    }

    /// Creates the snapshot `id` with the content that `fill` writes into its directory.
    ///
    /// # Errors
    /// `AlreadyExists`; errors of `fill`.
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

    /// Removes the snapshot `id`, finished or not, until `stop` returns true; returns true if nothing is left.
    pub(super) fn remove_until(&self, id: Id, stop: &dyn Fn() -> bool) -> Result<bool> {
        Ok(walk::remove_all_until(&self.dir, format!("{id}{UNFINISHED}"), stop)?
            && walk::remove_all_until(&self.dir, id.to_string(), stop)?)
    }

    /// Returns the ids of which something exists.
    pub(super) fn inventory(&self) -> Result<Vec<Id>> {
        let names = self.dir.names()?;
        let mut ids: Vec<Id> = names
            .iter()
            .filter_map(|name| name.to_str())
            .filter_map(|name| name.strip_suffix(UNFINISHED).unwrap_or(name).parse().ok())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}
