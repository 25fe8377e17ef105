//! Finding a snapshot by the directory that its files lie in.
//!
//! The path of a caller is only compared: no file is opened or written by it. The result is a snapshot that the
//! database has and that belongs to the owner of the handle.

use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::db::durability;
use super::db::labels as stored_labels;
use super::db::rows::{self, State};
use super::{Access, Store};
use crate::error::Result;
use crate::id::Id;
use crate::mount::Mount;
use crate::snapshotter::{Info, Kind};
use crate::store_files;

/// Number of last components of a path that may be the id of a snapshot: strategies keep the files in `s/<id>` or in a
/// directory in it.
const DEPTH: usize = 2;

/// The longest path of a system call, in bytes: `PATH_MAX` without the final NUL.
const PATH_BYTES_MAX: usize = 4095;

/// A snapshot that was found by its directory.
#[derive(Clone, Debug)]
pub struct Located {
    /// The snapshot.
    pub info: Info,
    /// The mounts that show the snapshot: writable for an active one, otherwise read-only.
    pub mounts: Vec<Mount>,
}

impl Store {
    /// Returns the snapshot of this owner whose own files lie in `dir`: an active or a committed one, or a view without
    /// a parent. (A view of a committed snapshot has no directory; the path leads to the committed one.) `dir` may lead
    /// there through links.
    ///
    /// # Errors
    /// Errors of the database.
    pub fn at_directory(&self, dir: &Path) -> Result<Option<Located>> {
        for id in dir.components().rev().take(DEPTH).filter_map(id_in) {
            let Some(located) = self.located(id)? else { continue };
            let top = located.mounts.first().and_then(|mount| mount.layers().first().copied());
            if top.is_some_and(|top| is_same(top, dir)) {
                return Ok(Some(located));
            }
        }
        Ok(None)
    }

    /// Returns the snapshot with the directory of `id`, if it belongs to this owner.
    fn located(&self, id: Id) -> Result<Option<Located>> {
        self.meta.view(|tx| {
            let Some(row) = rows::by_id(tx, id)? else { return Ok(None) };
            let own = rows::holder(tx, &self.owner, &row.name)?.is_some_and(|holder| holder.id == id);
            if !own || !matches!(row.state, State::Ready | State::Claimed) {
                return Ok(None);
            }
            let (info, stack) = (stored_labels::info(tx, row.row)?, durability::chain(tx, Some(row.row))?);
            let mounts = match row.kind {
                Kind::Active => self.backend.mounts(&stack, Access::ReadWrite)?,
                Kind::View | Kind::Committed => self.backend.mounts(&stack, Access::ReadOnly)?,
            };
            Ok(Some(Located { info, mounts }))
        })
    }

    /// Returns true if `path` lies in the directory of this store, or leads there through links or a bind of that
    /// directory. A path that does not exist is judged by its spelling.
    pub fn contains(&self, path: &Path) -> bool {
        if path.starts_with(&self.root) {
            return true;
        }
        // The kernel refuses a longer path, and the loop below takes time quadratic in the length.
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return false;
        }
        let places = [self.root.clone(), store_files::snapshots(&self.root)];
        let resolved = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let is_below = |place: &Path| resolved.ancestors().any(|part| is_same(part, place));
        places.iter().any(|place| is_below(place))
    }
}

fn id_in(component: Component<'_>) -> Option<Id> {
    match component {
        Component::Normal(name) => name.to_str()?.parse().ok().map(Id),
        _ => None,
    }
}

/// Returns true if two paths lead to one directory.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| {
        let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::INO).ok()?;
        Some((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
    };
    one.components().eq(other.components()) || identity(one).is_some_and(|known| identity(other) == Some(known))
}
