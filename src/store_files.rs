//! Files and directories below the root of a store. No other module spells their names.
//!
//! ```text
//! strata.db        the database
//! s/<id>           the snapshot <id>, made by the backend; a backend may keep files of its own beside it
//! streams/<id>.zst the tar-split data of the layer that the snapshot <id> was made from
//! run/             a locked file for each process at work, and its temporary files
//! run/container/   workplaces of containers that are running
//! reserve/         space that is kept for removals on a full disk
//! cache/           caches of `RUN --mount=type=cache`
//! ```

use std::path::{Path, PathBuf};

use crate::id::Id;

/// The directory of snapshots.
pub(crate) const SNAPSHOTS: &str = "s";

/// The directory of tar-split data.
pub(crate) const TAR_SPLIT: &str = "streams";

/// The database.
pub(crate) const DATABASE: &str = "strata.db";

/// The directory of what is at work.
const RUN: &str = "run";

/// The directory of reserved space.
const RESERVE: &str = "reserve";

/// The ending of a file of tar-split data, after the id.
pub(crate) const TAR_SPLIT_ENDING: &str = ".zst";

/// Names that the root of a new store may hold already: what an interrupted first start leaves, and `lost+found` of a
/// fresh file system.
pub(crate) const FRESH: [&str; 8] =
    ["lost+found", SNAPSHOTS, RUN, RESERVE, DATABASE, "strata.db-journal", "strata.db-wal", "strata.db-shm"];

/// Returns the path of the database.
pub(crate) fn database(root: &Path) -> PathBuf {
    root.join(DATABASE)
}

/// Returns the directory of snapshots.
pub(crate) fn snapshots(root: &Path) -> PathBuf {
    root.join(SNAPSHOTS)
}

/// Returns the directory of the snapshot `id`.
pub(crate) fn snapshot(root: &Path, id: Id) -> PathBuf {
    root.join(SNAPSHOTS).join(id.to_string())
}

/// Returns the directory of tar-split data.
pub(crate) fn tar_split_dir(root: &Path) -> PathBuf {
    root.join(TAR_SPLIT)
}

/// Returns the file of the tar-split data of `id`.
pub(crate) fn tar_split(root: &Path, id: Id) -> PathBuf {
    root.join(TAR_SPLIT).join(format!("{id}{TAR_SPLIT_ENDING}"))
}

/// Returns the directory of what is at work.
pub(crate) fn run(root: &Path) -> PathBuf {
    root.join(RUN)
}

/// Returns the directory for workplaces of containers.
#[cfg(feature = "build")]
pub(crate) fn containers(root: &Path) -> PathBuf {
    root.join(RUN).join("container")
}

/// Returns the directory of reserved space.
pub(crate) fn reserve(root: &Path) -> PathBuf {
    root.join(RESERVE)
}

/// Returns the directory of a build's caches.
#[cfg(feature = "build")]
pub(crate) fn build_caches(root: &Path) -> PathBuf {
    root.join("cache")
}
