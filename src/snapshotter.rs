//! The public contract: containerd's operations on named snapshots.
//!
//! # Terms
//! A snapshot is **active** (writable) or a **view** (read-only) under a *key*, or **committed** under a *name*. Keys
//! and names share one namespace. A *parent* is always committed. An active snapshot starts with the content of its
//! parent and takes writes through its mounts. Either [`Snapshotter::commit`] turns it into a committed snapshot under
//! a new name, which frees its key, or [`Snapshotter::remove`] removes it.
//!
//! # Rules for every method
//! - Keys and names have 1 to 1,024 bytes, no NUL and no newline; else `InvalidArgument`.
//! - A call that fails has changed nothing that another call can see.
//! - Methods may be called from several threads, and on one store from several processes, at the same time.
//! - An acknowledged call survives a crash of the process, and with the default durability a power cut. A call that a
//!   crash interrupted has no effect; its debris is collected at the next open.
//! - Besides the listed kinds: `ResourceExhausted` (disk, inodes or descriptors are used up), `Unavailable` (the
//!   database stayed locked), `DataLoss` (the database is damaged), `Io`.
//!
//! # References
//! containerd, `core/snapshots/snapshotter.go` (the interface) and `core/snapshots/storage` (the order of checks).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::backend::Usage;
use crate::changeset::Sink;
use crate::changeset::apply::Applied;
use crate::error::{Error, Result};
use crate::mount::Mount;
use crate::tree::Timestamp;

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// Kind of a snapshot. The numbers are containerd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Read-only, under a key.
    View = 1,
    /// Writable, under a key.
    Active = 2,
    /// Read-only, under a name; may have children.
    Committed = 3,
}

impl Kind {
    /// Returns the kind as a phrase for sentences.
    pub(crate) fn phrase(self) -> &'static str {
        match self {
            Self::View => "a view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        })
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "view" => Ok(Self::View),
            "active" => Ok(Self::Active),
            "committed" => Ok(Self::Committed),
            other => Err(Error::invalid(format!("{other:?} is no kind of snapshot: view, active, committed"))),
        }
    }
}

/// Information about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Kind of the snapshot.
    pub kind: Kind,
    /// Key or name.
    pub name: String,
    /// Name of the parent; empty without a parent.
    pub parent: String,
    /// Labels of the snapshot.
    pub labels: Labels,
    /// Time of creation, or of the commit for a committed snapshot.
    pub created: Timestamp,
    /// Time of the last change of the labels.
    pub updated: Timestamp,
}

/// A snapshot driver.
///
/// The module documentation has the rules for every method.
///
/// ```
/// use strata::backends::{self, COPY, Config};
/// use strata::snapshotter::{Kind, Labels, Snapshotter};
///
/// fn layers(snapshotter: &dyn Snapshotter) -> strata::Result<()> {
///     // The container's writes go through the mounts that `prepare` returns.
///     snapshotter.prepare("work", "", &Labels::new())?;
///     snapshotter.commit("base", "work", &Labels::new())?;
///     assert_eq!(snapshotter.stat("base")?.kind, Kind::Committed);
///     snapshotter.prepare("next", "base", &Labels::new())?;
///     assert_eq!(snapshotter.stat("next")?.parent, "base");
///     assert!(snapshotter.remove("base").is_err(), "next stands on it");
///     snapshotter.remove("next")
/// }
///
/// let dir = tempfile::tempdir()?;
/// let config = Config { backend: Some(COPY), ..Config::new(dir.path().join("store")) };
/// layers(&backends::open(&config)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Snapshotter: Send + Sync {
    /// Returns the information about the snapshot `key`.
    ///
    /// # Errors
    /// `NotFound`.
    fn stat(&self, key: &str) -> Result<Info>;

    /// Changes labels of the snapshot `info.name` and returns the new information. `updated` becomes the current time,
    /// `created` stays. All fields of `info` except its name and labels are ignored.
    ///
    /// Without `fieldpaths`, or with `labels`, the labels become `info.labels`. With `labels.K`, where K is the whole
    /// rest of the string, the label K is set to its value in `info.labels`, and is removed if the value is absent or
    /// empty.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for any other field path.
    fn update(&self, info: &Info, fieldpaths: &[&str]) -> Result<Info>;

    /// Returns the space that the snapshot uses for itself, without its parents: for a committed snapshot as stored at
    /// the commit, for an active one as computed (by some strategies once a minute), for a view zero.
    ///
    /// # Errors
    /// `NotFound`.
    fn usage(&self, key: &str) -> Result<Usage>;

    /// Returns the mounts of the active snapshot or view `key`. Repeated calls return the same mounts.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` if the snapshot is committed.
    fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Creates the active snapshot `key` on top of the committed snapshot `parent`, and returns its mounts. With an
    /// empty `parent` the snapshot is an empty directory (mode 0755, owner 0:0). After a crash the snapshot exists
    /// completely or not at all.
    ///
    /// # Errors
    /// `AlreadyExists` if the key is used by a snapshot of any kind, or by a call that creates one; `NotFound` if the
    /// parent does not exist; `InvalidArgument` if the parent is not committed; `FailedPrecondition` if the chain of
    /// parents is longer than the strategy can mount.
    fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>>;

    /// Creates the view `key` of the committed snapshot `parent`, or of an empty directory, and returns its mounts,
    /// which are all read-only.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>>;

    /// Turns the active snapshot `key` into the committed snapshot `name` with `labels`; its own labels are dropped.
    /// The name replaces the key atomically, and `created` and `updated` become the current time. The usage is stored.
    ///
    /// The snapshot must not be mounted, because a writer could otherwise change the committed content. Mounts in the
    /// caller's mount namespace are checked; the caller is responsible for others. After a crash the key is as it was
    /// before the call.
    ///
    /// # Errors
    /// In this order: `NotFound` if the key does not exist; `AlreadyExists` if the name is in use, also by the key
    /// itself; `FailedPrecondition` if the key is not active, or is mounted (the message names where), or contains
    /// something that the strategy cannot keep; `AlreadyExists` if another call took the name meanwhile.
    fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<()>;

    /// Removes the snapshot `key`. When the call returns, the snapshot is gone and its key is free; its space is freed
    /// later.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` if it has children ("cannot remove ..."), or is mounted in the caller's mount
    /// namespace (the message names where), or another call on it is under way.
    fn remove(&self, key: &str) -> Result<()>;

    /// Calls `visit` for every snapshot that matches any of `filters`, or for all snapshots without filters, in the
    /// order of their keys. `visit` may call any method, including those that change snapshots: every snapshot that
    /// existed at the start is visited.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that does not parse (containerd's `pkg/filters` grammar); errors of `visit`.
    fn walk(&self, filters: &[&str], visit: &mut dyn FnMut(&Info) -> Result<()>) -> Result<()>;

    /// Frees the space of removed snapshots and of debris from crashes, and returns when that is done.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    fn cleanup(&self) -> Result<()>;

    /// Writes the changes of `key`, a snapshot of any kind, relative to the snapshot `base` into `sink`: relative to
    /// its parent if `base` is `None`, relative to nothing if it is `Some("")`. The stream is canonical
    /// ([`crate::changeset`]). An active snapshot may be mounted, but concurrent writes may or may not be seen.
    /// Relative to the parent, the time is proportional to the changes if the strategy can find them.
    ///
    /// # Errors
    /// `NotFound`; errors of `sink`.
    fn changes(&self, key: &str, base: Option<&str>, sink: &mut dyn Sink) -> Result<()>;

    /// Applies to the active snapshot `key` the changes that `produce` writes into the given sink.
    ///
    /// After a failure or a crash the snapshot contains a part of the changes: remove it.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` if the key is not active or is mounted; `InvalidArgument` or `DataLoss` for
    /// changes that are impossible in a tree; errors of `produce`.
    fn apply(&self, key: &str, produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Applied>;
}
