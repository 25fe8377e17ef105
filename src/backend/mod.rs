//! The contract of a strategy: the form of snapshots on disk, and their mounts.
//!
//! A backend receives only ids and paths. It knows no key, label, tar stream, database or image; the store knows no
//! file system. Each snapshot has the directory (or subvolume) `<root>/s/<id>`, and its content belongs to the backend.
//!
//! # Rules for every method
//! - Calls for different ids may come at the same time from several threads and processes. For one id, only calls that
//!   change nothing may be concurrent: `mounts`, `usage`, `layer`, `candidates`.
//! - If a method fails, [`Backend::inventory`] lists everything that it left, and [`Backend::remove`] removes it.
//! - After a crash in the middle of a method, `remove` of its ids succeeds in any case, and a `create` or `seal` with
//!   other ids is not affected.
//! - Links inside a snapshot are never followed: its content is not trusted.
//!
//! The error kinds are those of [`crate::Snapshotter`]: `ResourceExhausted` for a full disk, `Unsupported` with the
//! reason and the cure if the kernel or the file system cannot do it, `FailedPrecondition` for a state that the user
//! can repair.

pub mod btrfs;
pub mod copy;
pub mod faulty;
pub mod overlay;
mod snapshots_dir;
mod strategy;

pub use strategy::{Strategy, StrategyOption, StrategyOptions, Variant};

use std::fmt::Debug;

use crate::changeset::{Candidates, Layer};
use crate::error::Result;
use crate::id::Id;
use crate::mount::{Access, Mount};
use crate::tree::Dir;
use crate::tree::walk::{self, Inodes, Space};

/// Committed snapshots, nearest first: the parent, the parent's parent, down to the base.
pub type Chain = [Id];

/// Space and inodes that a snapshot uses for itself, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Allocated bytes that removing the snapshot would free.
    pub size_bytes: u64,
    /// Inodes that removing the snapshot would free.
    pub inodes: u64,
}

/// Usage of a snapshot that is not being written to, and the inodes to sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Usage as [`Backend::usage`] returns it.
    pub usage: Usage,
    /// Inodes to sync in the directory of [`Backend::layer`]; `None` if they cannot be synced one by one.
    pub inodes: Option<Inodes>,
}

impl Survey {
    /// Surveys the layer in `dir` with one walk.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn of_layer(dir: &Dir) -> Result<Self> {
        let (Space { size_bytes, inodes: count }, inodes) = walk::survey(dir, FSYNC_INODES_MAX)?;
        Ok(Self { usage: Usage { size_bytes, inodes: count }, inodes: Some(inodes) })
    }
}

/// Maximum number of changed inodes that are synced one by one. For more of them one `syncfs` is cheaper (20 to 30
/// times for 20,000 files, measured on ext4, xfs and btrfs), although it also waits for the writes of other processes.
pub const FSYNC_INODES_MAX: usize = 256;

/// Properties of a strategy; constant for a backend on one root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Name of the strategy, as stored in the store's database: `overlay`, `btrfs`, `copy`.
    pub name: &'static str,
    /// True if [`Backend::seal`] makes the committed snapshot under another id than the active one.
    pub seals_to_fresh_id: bool,
    /// True if [`Backend::seal`] makes the snapshot durable, so that it needs no sync before it is published.
    pub seal_is_durable: bool,
    /// True if such a [`Backend::seal`] also succeeds if content of the snapshot could not be written. Then the store
    /// calls `syncfs` to ask the file system.
    pub seal_hides_errors: bool,
    /// True if the result of [`Backend::create`] on top of a parent must be on disk before the row that names it.
    /// Otherwise [`Backend::create`] is called again if the directory is missing after a power cut.
    pub create_needs_sync: bool,
    /// True if [`Backend::create`] takes only a few system calls, whatever the size of the parents, and waits for
    /// nothing. Then the store calls it within a transaction, which blocks the transactions of other callers.
    pub create_is_brief: bool,
    /// Maximum number of layers, including the snapshot's own, that can be read as one tree; `None` without a limit.
    pub layers_max: Option<usize>,
}

/// A strategy. The module documentation has the rules for every method.
///
/// ```
/// use strata::backend::StrategyOptions;
/// use strata::backends::COPY;
/// use strata::id::Id;
/// use strata::mount::{Access, Mount};
///
/// let root = tempfile::tempdir()?;
/// let backend = (COPY.open)(root.path(), &StrategyOptions::default())?;
/// let (base, work) = (Id(1), Id(2));
/// backend.create(base, &[])?;
/// backend.seal(base, base)?;
/// backend.create(work, &[base])?;
/// let mounts = backend.mounts(&[work, base], Access::ReadWrite)?;
/// assert!(matches!(mounts[..], [Mount::Bind { access: Access::ReadWrite, .. }]));
/// backend.remove(work)?;
/// assert_eq!(backend.inventory()?, [base]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Backend: Send + Sync + Debug {
    /// Returns the properties of the strategy.
    fn capabilities(&self) -> Capabilities;

    /// Creates the writable snapshot `id` on top of `parents`; without parents, an empty directory of mode 0755, owner
    /// 0:0, mtime 0. The root directory has the mode, owner, times and extended attributes of the parent's root.
    ///
    /// # Errors
    /// `AlreadyExists` if something exists at `id`; then the store takes the next id.
    fn create(&self, id: Id, parents: &Chain) -> Result<()>;

    /// Completes the writable snapshot `id`, which still exists after a power cut, if the cut undid a part of
    /// [`Backend::create`]. Files that a user wrote to the snapshot are kept. Does nothing if a cut always leaves
    /// either all or nothing of a `create`.
    ///
    /// # Errors
    /// Errors of the file system.
    fn complete_create(&self, id: Id, parents: &Chain) -> Result<()> {
        let _ = (id, parents);
        Ok(())
    }

    /// Returns the mounts that show `stack`, nearest first; the stack must not be empty. With [`Access::ReadWrite`] the
    /// first element is an active snapshot and takes the writes. With [`Access::ReadOnly`] the first element may be of
    /// any kind, and nothing in the mounts can change it. The result for the same arguments never changes.
    ///
    /// # Errors
    /// `FailedPrecondition` if the stack is longer than [`Capabilities::layers_max`] allows.
    fn mounts(&self, stack: &Chain, access: Access) -> Result<Vec<Mount>>;

    /// Turns the writable snapshot `active` into the read-only snapshot `sealed`. If
    /// [`Capabilities::seals_to_fresh_id`] is false, both ids are the same and nothing has to move. If it is true,
    /// `active` stays unchanged and the store removes it later.
    ///
    /// # Errors
    /// `FailedPrecondition` if the snapshot contains something that cannot be kept (a nested subvolume), with the
    /// command that helps.
    fn seal(&self, active: Id, sealed: Id) -> Result<()>;

    /// Removes everything at `id` and frees its space. Succeeds if there is nothing.
    ///
    /// # Errors
    /// Errors of the file system; a second call continues where the first stopped.
    fn remove(&self, id: Id) -> Result<()>;

    /// Removes like [`Backend::remove`], but may return early once `stop` returns true. Returns true if nothing is
    /// left. The inventory lists an incomplete removal, and the next removal continues there. A strategy whose removals
    /// take the same time for every size need not call `stop`.
    ///
    /// # Errors
    /// As [`Backend::remove`].
    fn remove_until(&self, id: Id, stop: &dyn Fn() -> bool) -> Result<bool> {
        let _ = stop;
        self.remove(id).map(|()| true)
    }

    /// Returns the space that removing `id` would free. If computing it needs a walk of the whole active snapshot, the
    /// result may be up to a minute old.
    ///
    /// # Errors
    /// Errors of the file system.
    fn usage(&self, id: Id, parents: &Chain) -> Result<Usage>;

    /// Returns the current usage of `id`, which must not be written to, and the inodes to sync if
    /// [`Capabilities::seal_is_durable`] is false.
    ///
    /// # Errors
    /// Errors of the file system.
    fn survey(&self, id: Id, parents: &Chain) -> Result<Survey> {
        Ok(Survey { usage: self.usage(id, parents)?, inodes: None })
    }

    /// Returns every id of which something is on disk, in any order.
    ///
    /// # Errors
    /// Errors of the file system.
    fn inventory(&self) -> Result<Vec<Id>>;

    /// Returns the directory and the format of the layer of `id`, if the layer lies in a directory of its own.
    fn layer(&self, id: Id) -> Option<Layer> {
        let _ = id;
        None
    }

    /// Returns the paths of `id`, an active or sealed snapshot, that can differ from its parent `parent`. If the result
    /// is [`Candidates::All`], the reason is logged.
    ///
    /// # Errors
    /// Errors of the file system. After an error the caller must not assume [`Candidates::All`].
    fn candidates(&self, id: Id, parent: Id) -> Result<Candidates> {
        tracing::debug!(%id, %parent, "changes are looked for everywhere: the strategy keeps no record");
        Ok(Candidates::All)
    }
}
