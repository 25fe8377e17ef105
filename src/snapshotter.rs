//! The public contract: containerd's verbs over named snapshots.
//!
//! # Words
//! A snapshot is **active** (writable) or a **view** (read-only) under a *key*, or **committed** under a *name*. Keys
//! and names share one space. A *parent* is always committed. An active snapshot starts as what its parent holds, takes
//! writes through its mounts, and either becomes a committed snapshot under a new name ([`Snapshotter::commit`], its
//! key is free again) or goes away ([`Snapshotter::remove`]).
//!
//! # For every method
//! - Keys and names have 1 to 1,024 bytes, no NUL and no newline; else `InvalidArgument`.
//! - A call that fails has changed nothing that another call can see.
//! - Methods may be called from several threads, and on one store from several processes, at the same time.
//! - What a method acknowledged survives a crash of the process, and with the default durability a power cut. What a
//!   crash left in the middle is as if it had not been called; its debris is collected at the next open.
//! - Besides the kinds listed: `ResourceExhausted` (disk, inodes or descriptors are used up), `Unavailable` (the
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

/// What a snapshot is. The numbers are containerd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Read-only, under a key.
    View = 1,
    /// Writable, under a key.
    Active = 2,
    /// Read-only, under a name, may have children.
    Committed = 3,
}

impl Kind {
    /// What it is, as a sentence says that.
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

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its kind.
    pub kind: Kind,
    /// Its key or name.
    pub name: String,
    /// The name of its parent; empty if it has none.
    pub parent: String,
    /// Its labels.
    pub labels: Labels,
    /// When it was made (committed, if it is).
    pub created: Timestamp,
    /// When its labels changed last.
    pub updated: Timestamp,
}

/// A snapshot driver.
///
/// The module documentation says what holds for every method.
pub trait Snapshotter: Send + Sync {
    /// What is known of the snapshot `key`.
    ///
    /// # Errors
    /// `NotFound`.
    fn stat(&self, key: &str) -> Result<Info>;

    /// Changes labels of the snapshot `info.name` and answers with what is known of it then. `updated` becomes now,
    /// `created` stays; fields of `info` other than its name and labels are ignored.
    ///
    /// Without `fieldpaths`, or with `labels`: its labels become `info.labels`. With `labels.K`, where K is the whole
    /// rest of the string: the label K becomes that of `info.labels`, and goes away where that is absent or empty.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for any other field path.
    fn update(&self, info: &Info, fieldpaths: &[&str]) -> Result<Info>;

    /// The space that the snapshot takes for itself, without its parents: as stored at commit, computed for an active
    /// one (by some strategies once a minute), zero for a view.
    ///
    /// # Errors
    /// `NotFound`.
    fn usage(&self, key: &str) -> Result<Usage>;

    /// What to mount to see the active snapshot or view `key`. A repeated call gives the same answer.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` if it is committed.
    fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Makes the active snapshot `key` on top of the committed snapshot `parent`, or of nothing (an empty directory,
    /// mode 0755, owner 0:0) if that is empty, and answers with its mounts. After a crash it is there whole or not at
    /// all.
    ///
    /// # Errors
    /// `AlreadyExists` if the key is in use by any kind of snapshot, or by a call that makes one; `NotFound` if there
    /// is no such parent; `InvalidArgument` if the parent is not committed; `FailedPrecondition` if the chain of
    /// parents is longer than the strategy can mount.
    fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>>;

    /// Makes the view `key` of the committed snapshot `parent`, or of nothing, and answers with its mounts: all of them
    /// read-only.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>>;

    /// Makes the active snapshot `key` the committed snapshot `name` with `labels` (its own are dropped). Key and name
    /// change places at once, and `created` and `updated` become now. The usage is stored.
    ///
    /// The snapshot must not be mounted: a writer that goes on would change what is committed. Mounts in the caller's
    /// mount namespace are looked for; others are the caller's duty. A crash gives the key back as it was.
    ///
    /// # Errors
    /// In this order: `NotFound` if there is no such key; `AlreadyExists` if the name is in use, also by the key
    /// itself; `FailedPrecondition` if the key is not active, or is mounted (the message names where), or holds what
    /// the strategy cannot keep; `AlreadyExists` if another call took the name meanwhile.
    fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<()>;

    /// Removes the snapshot `key`. It is gone, and its key free, when the call returns; its space is freed later.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` if it has children ("cannot remove ..."), or is mounted in the caller's mount
    /// namespace (the message names where), or a call on it is under way.
    fn remove(&self, key: &str) -> Result<()>;

    /// Calls `visit` for every snapshot that matches any of `filters`, all of them if there is none, in the order of
    /// their keys. `visit` may call any method, also such as change snapshots: it sees each that was there at the
    /// start.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that does not parse (containerd's `pkg/filters` grammar); what `visit` returns.
    fn walk(&self, filters: &[&str], visit: &mut dyn FnMut(&Info) -> Result<()>) -> Result<()>;

    /// Frees the space of removed snapshots and of what a crash left behind, and answers when that is done.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    fn cleanup(&self) -> Result<()>;

    /// Pushes what `key`, of any kind, changed against the snapshot `base` into `sink`: against its parent if that is
    /// `None`, against nothing if it is `Some("")`. The stream is canonical ([`crate::changeset`]). An active snapshot
    /// may be mounted, but who writes to it meanwhile may or may not be seen. Against the parent it costs what changed,
    /// as far as the strategy knows that.
    ///
    /// # Errors
    /// `NotFound`; what `sink` returns.
    fn changes(&self, key: &str, base: Option<&str>, sink: &mut dyn Sink) -> Result<()>;

    /// Writes into the active snapshot `key` the changes which `produce` pushes into the sink that it is given.
    ///
    /// A failure or crash in the middle leaves the snapshot with a part of the changes: remove it.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` if the key is not active or is mounted; `InvalidArgument` or `DataLoss` for
    /// changes that no tree can have; what `produce` returns.
    fn apply(&self, key: &str, produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Applied>;
}
