//! The contract of a strategy: how snapshots lie on disk and what the kernel does for them.
//!
//! A backend receives numbers and paths only. It knows no key, label, tar stream, database or image; the store knows
//! no file system. Each snapshot has the directory (or subvolume) `<root>/s/<id>`, and what is inside is the backend's.
//!
//! # Rules for every method
//! - Calls for different ids may come at the same time from several threads and processes; for one id only those that
//!   change nothing: `mounts`, `usage`, `layer`, `candidates`.
//! - A method that fails leaves nothing that [`Backend::inventory`] does not list, and [`Backend::remove`] clears it.
//! - After a crash in the middle of a method, `remove` of its ids succeeds whatever was left, and a `create` or `seal`
//!   with other ids is not disturbed.
//! - Nothing is followed that lies inside a snapshot: its content is a stranger's.
//!
//! Kinds of errors are those of [`crate::Snapshotter`]: `ResourceExhausted` for a full disk, `Unsupported` with the
//! reason and the cure where the kernel or the file system cannot do it, `FailedPrecondition` for a state that the user
//! can mend.

pub mod btrfs;
pub mod copy;
pub mod faulty;
pub mod overlay;
mod shelf;
mod strategy;

pub use strategy::{Strategy, StrategyOption, StrategyOptions, Variant};

use std::fmt::Debug;

use crate::changeset::{Candidates, Layer};
use crate::error::Result;
use crate::id::Id;
use crate::mount::{Access, Mount};
use crate::tree::Dir;
use crate::tree::walk::{self, Inodes, Space};

/// Committed snapshots, nearest first: the parent, its parent, down to the base.
pub type Chain = [Id];

/// Space and inodes that a snapshot takes for itself, its parents not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Allocated bytes that its removal would free.
    pub size_bytes: u64,
    /// Inodes that its removal would free.
    pub inodes: u64,
}

/// What is found in a snapshot at rest, before it is called done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// As [`Backend::usage`] answers.
    pub usage: Usage,
    /// What is to be brought to disk in the directory of [`Backend::layer`], where that can be done one by one.
    pub inodes: Option<Inodes>,
}

impl Survey {
    /// Surveys the layer in `dir` by one walk.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn of_layer(dir: &Dir) -> Result<Self> {
        let (Space { size_bytes, inodes: count }, inodes) = walk::survey(dir, FSYNC_INODES_MAX)?;
        Ok(Self { usage: Usage { size_bytes, inodes: count }, inodes: Some(inodes) })
    }
}

/// Up to so many changed inodes are brought to disk one by one; more, and one `syncfs` is cheaper (measured on ext4,
/// xfs and btrfs: 20 to 30 times, at 20,000 files), though it also waits for what others wrote.
pub const FSYNC_INODES_MAX: usize = 256;

/// What a strategy can do; constant for a backend on one root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `overlay`, `btrfs`, `copy`: what the store's marker says.
    pub name: &'static str,
    /// Whether [`Backend::seal`] makes the committed snapshot at another id than the active one.
    pub seals_to_fresh_id: bool,
    /// Whether [`Backend::seal`] leaves it durable: no sync is needed before it is published.
    pub seal_is_durable: bool,
    /// Whether what [`Backend::create`] made of a parent must be on disk before the row that names it. Otherwise
    /// [`Backend::create`] is called again where the directory is missing after a power cut.
    pub create_needs_sync: bool,
    /// Whether [`Backend::create`] takes a few system calls, however large the parents are, and waits for nothing: then
    /// the store calls it within a transaction, which keeps others from theirs.
    pub create_is_brief: bool,
    /// The most layers, the snapshot's own included, that can be read as one tree; `None` where there is no limit.
    pub layers_max: Option<usize>,
}

/// A strategy. See the module documentation for the rules that hold for every method.
pub trait Backend: Send + Sync + Debug {
    /// What this strategy can do.
    fn capabilities(&self) -> Capabilities;

    /// Makes the writable snapshot `id` on top of `parents`; without parents, an empty directory of mode 0755, owner
    /// 0:0, mtime 0. Its root directory has the mode, owner, times and extended attributes of the parent's.
    ///
    /// # Errors
    /// `AlreadyExists` if something is at `id` already: the store takes the next number.
    fn create(&self, id: Id, parents: &Chain) -> Result<()>;

    /// Gives the writable snapshot `id`, which is there after a power cut, what the cut took of [`Backend::create`].
    /// What somebody wrote to it stays. Nothing where `create` leaves a whole snapshot or none.
    ///
    /// # Errors
    /// What the file system reports.
    fn mend(&self, id: Id, parents: &Chain) -> Result<()> {
        let _ = (id, parents);
        Ok(())
    }

    /// What to mount to see `stack`, nearest first. With [`Access::ReadWrite`] its first is an active snapshot and
    /// takes the writes; with [`Access::ReadOnly`] it may be of any kind, and nothing that is mounted can change it.
    /// The stack is not empty. The same arguments give the same answer for ever.
    ///
    /// # Errors
    /// `FailedPrecondition` if the stack is longer than [`Capabilities::layers_max`] allows.
    fn mounts(&self, stack: &Chain, access: Access) -> Result<Vec<Mount>>;

    /// Makes the writable snapshot `active` the read-only snapshot `sealed`. Where [`Capabilities::seals_to_fresh_id`]
    /// is false, both are the same and nothing need move; where it is true, `active` stays as it is and the store
    /// removes it later.
    ///
    /// # Errors
    /// `FailedPrecondition` if it holds what cannot be kept (a nested subvolume), with the command that helps.
    fn seal(&self, active: Id, sealed: Id) -> Result<()>;

    /// Removes whatever is at `id` and frees its space. Removing nothing is success.
    ///
    /// # Errors
    /// What the file system reports; a second call goes on where the first stopped.
    fn remove(&self, id: Id) -> Result<()>;

    /// [`Backend::remove`], which may end early once `stop` answers true. Answers whether nothing is left; what is left
    /// is listed, and the next removal goes on there. A strategy whose removals do not grow with the snapshot need not
    /// ask.
    ///
    /// # Errors
    /// As [`Backend::remove`].
    fn remove_until(&self, id: Id, stop: &dyn Fn() -> bool) -> Result<bool> {
        let _ = stop;
        self.remove(id).map(|()| true)
    }

    /// What the removal of `id` would free; of an active snapshot that takes a walk of all, what it was within the last
    /// minute.
    ///
    /// # Errors
    /// What the file system reports.
    fn usage(&self, id: Id, parents: &Chain) -> Result<Usage>;

    /// What is to be known of `id`, which nobody writes to at the moment: its usage now, and what is to be brought to
    /// disk if [`Capabilities::seal_is_durable`] is false.
    ///
    /// # Errors
    /// What the file system reports.
    fn survey(&self, id: Id, parents: &Chain) -> Result<Survey> {
        Ok(Survey { usage: self.usage(id, parents)?, inodes: None })
    }

    /// Every id of which something is on disk, in no order.
    ///
    /// # Errors
    /// What the file system reports.
    fn inventory(&self) -> Result<Vec<Id>>;

    /// Where the layer of `id` lies, and in which spelling, if it lies in a directory of its own.
    fn layer(&self, id: Id) -> Option<Layer> {
        let _ = id;
        None
    }

    /// Which paths of `id`, an active or sealed snapshot, can differ from its parent `parent`. Why the answer is
    /// [`Candidates::All`] is in the log.
    ///
    /// # Errors
    /// What the file system reports; the caller goes on with [`Candidates::All`] only if the answer says so.
    fn candidates(&self, id: Id, parent: Id) -> Result<Candidates> {
        tracing::debug!(%id, %parent, "changes are looked for everywhere: the strategy keeps no record");
        Ok(Candidates::All)
    }
}
