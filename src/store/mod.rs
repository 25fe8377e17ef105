//! The store: [`Snapshotter`] implemented once, over any [`Backend`].
//!
//! # On disk
//! ```text
//! <root>/            0700, its own directory
//!   strata.db        SQLite: snapshots, labels, images and their documents, unfinished work, the trash
//!   s/<id>/          one directory (or subvolume) a snapshot; the backend decides its content
//!   streams/<id>.zst the tar-split data of the layer that a snapshot was made from
//!   run/             a lock file for each process that changes the store
//!   reserve/         space that a removal on a full disk uses
//! ```
//!
//! # How a change is made
//! 1. Reserve, in a relaxed transaction: a row becomes *creating* or *claimed*.
//! 2. Work on the file system, outside of transactions, so that a long copy does not block the database.
//! 3. Bring the data to disk.
//! 4. Publish, in a durable transaction, so that everything which the database calls durable is complete on disk.
//!
//! Work of a few system calls is done in one transaction. After a failure the call removes its reservation; after a
//! crash recovery does so (`recover.rs`). Ids only grow, and directories without a row may be removed.
//!
//! # Owners
//! Every snapshot belongs to an owner, `local` or a daemon's name. A `Store` shows and changes only the snapshots of
//! its owner, because the garbage collector of a containerd removes every snapshot that it does not know.

mod apply;
mod check;
mod claim;
mod commit;
mod comparison;
mod create;
mod database;
mod db;
mod filter;
mod image;
mod labels;
mod locate;
mod lock;
mod mapped;
mod recover;
mod remove;
mod reserve;
mod step;
mod tar_split_files;
mod vouch;
mod writeback;

pub use check::{CheckOptions, Checked, Finding, Problem, Remedy, Repaired, Severity, Subject, UNVERIFIED};
pub use claim::Claim;
pub use commit::{CommitOptions, Judged};
pub use comparison::Comparison;
pub use database::Database;
pub use db::images::{Image, NewImage};
pub use db::meta::waits_by_fdatasync;
pub use db::rows::Origin;
pub use db::schema::FORMAT;
pub use db::steps::CachedStep;
pub use image::Held;
pub use labels::{LABEL_BYTES_MAX, LABELS_BYTES_MAX, check_labels};
pub use locate::{Located, is_same};
pub use lock::DaemonLock;
pub use recover::{Freed, StoreCounts};
pub use remove::RemoveScope;
pub use reserve::Reserve;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use self::db::durability;
use self::db::labels as stored_labels;
use crate::backend::{Backend, Usage};
use crate::changeset::apply::Applied;
use crate::changeset::{Sink, diff};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{DiffId, Id, check_key};
use crate::mount::{self, Access, Mount};
use crate::snapshotter::{Info, Kind, Labels, Snapshotter};
use crate::store_files;
use crate::tree::Dir;

use db::meta::{Level, Meta};
use db::rows::{self, Row, State};
use filter::Filters;
use labels::LabelChange;

/// The owner of snapshots that the command line makes.
pub const LOCAL: &str = "local";

/// The moment at which a call reports success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once the change survives a power cut.
    #[default]
    Commit,
    /// Once the kernel has the change. A power cut may leave committed snapshots with empty files.
    None,
}

impl Durability {
    /// Returns its name in settings and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::None => "none",
        }
    }
}

/// Whether a call waits for the disk, or leaves that to a later [`Store::sync`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// The change is durable when the call returns.
    Now,
    /// The snapshot can be used at once, as a parent too. The snapshot is lost by a power cut, and when this handle is
    /// dropped, unless [`Store::sync`] was called before.
    Later,
}

/// Why a snapshot cannot be changed: it is mounted. This is the source of an error of
/// [`ErrorKind::FailedPrecondition`], so that a front end can say how its users unmount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedOn(
    /// The mount point, in the mount namespace of the caller.
    pub PathBuf,
);

impl fmt::Display for MountedOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is mounted on {}", self.0.display())
    }
}

impl std::error::Error for MountedOn {}

/// A store of snapshots, as one owner sees it.
///
/// ```
/// use strata::backends::{self, COPY, Config};
/// use strata::snapshotter::{Labels, Snapshotter};
///
/// let dir = tempfile::tempdir()?;
/// let root = dir.path().join("store");
/// let store = backends::open(&Config { backend: Some(COPY), ..Config::new(&root) })?;
/// store.prepare("work", "", &Labels::new())?;
///
/// // Any number of handles and processes may have the store open. Its database knows the strategy.
/// let other = backends::open(&Config::new(&root))?;
/// other.commit("base", "work", &Labels::new())?;
/// assert_eq!(store.stat("base")?.name, "base");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Open from the start, so that `syncfs` also reports write errors that happened in between.
    root_fd: OwnedFd,
    /// True if `syncfs` has reported a lost write that could not be noted in the database (`vouch.rs`). The lock makes
    /// concurrent syncs see the report in turn, because the kernel reports each lost write to only one of them.
    lost_writes: Mutex<bool>,
    /// An id that no snapshot had when [`Store::root_fd`] was opened: `syncfs` reports every lost write to this id and
    /// later ones. `u64::MAX` until this handle has recovered the store.
    since: AtomicU64,
    /// True if this handle has committed with [`Flush::Later`] since the last [`Store::sync`].
    owes_sync: AtomicBool,
    meta: Meta,
    backend: Box<dyn Backend>,
    owner: String,
    durability: Durability,
    /// The lock file of this process; `None` before its first change.
    worker: Mutex<Option<lock::Worker>>,
    /// Rows whose reservation could not be taken back yet, because the database could not be written: see
    /// [`Store::let_go`].
    ended: Mutex<Vec<i64>>,
}

impl Store {
    /// Returns the store of `database` and `backend`, as `owner` sees it.
    ///
    /// # Errors
    /// `FailedPrecondition` if the store was made with another backend; `InvalidArgument` for an owner that is no key.
    pub fn new(database: Database, backend: Box<dyn Backend>, owner: &str) -> Result<Self> {
        check_key(owner).map_err(|error| error.context("the owner"))?;
        let Database { root, meta, backend: marker, durability } = database;
        let name = backend.capabilities().name;
        let (made, durability) = match marker {
            Some(made) => (made, durability),
            None => {
                database::sync_directories(&root)?;
                meta.transact(Level::Durable, |tx| database::note(tx, name, durability))?
            }
        };
        if made != name {
            let root = root.display();
            return Err(Error::precondition(format!("the store {root} was made with the backend {made}, not {name}")));
        }
        let root_fd = Dir::open(&root)?.into_fd();
        let (owner, worker, ended) = (owner.to_owned(), Mutex::new(None), Mutex::default());
        let (lost_writes, since, owes_sync) = (Mutex::new(false), AtomicU64::new(u64::MAX), AtomicBool::new(false));
        Ok(Self { root, root_fd, lost_writes, since, owes_sync, meta, backend, owner, durability, worker, ended })
    }

    /// Returns the store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the strategy.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Returns the owner whose snapshots this handle sees.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Returns the moment at which calls report success.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    fn run(&self) -> PathBuf {
        store_files::run(&self.root)
    }

    fn dir_of(&self, id: Id) -> PathBuf {
        store_files::snapshot(&self.root, id)
    }

    /// Removes everything on disk that belongs to `id`.
    fn erase(&self, id: Id) -> Result<()> {
        self.erase_until(id, &|| false).map(drop)
    }

    /// Removes everything on disk that belongs to `id`, until `stop` returns true. Returns true if nothing is left.
    fn erase_until(&self, id: Id, stop: &dyn Fn() -> bool) -> Result<bool> {
        tar_split_files::remove(&self.root, id)?;
        self.backend.remove_until(id, stop)
    }

    /// Recovers the store if needed, then announces this process as one that changes the store. Returns the name that
    /// its rows in work carry.
    fn begin(&self) -> Result<String> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = &*worker {
            self.let_go(&[]);
            return Ok(worker.name().to_owned());
        }
        self.since.fetch_min(recover::recover(self)?.0, Ordering::Relaxed);
        let announced = lock::Worker::announce(&self.run())?;
        reserve::keep(&self.root);
        let name = announced.name().to_owned();
        *worker = Some(announced);
        Ok(name)
    }

    /// Makes this process the only daemon of the handle's owner while the returned value lives, and recovers the store.
    /// The error of a second daemon has the text `holder`.
    ///
    /// # Errors
    /// `FailedPrecondition` with the text of the running daemon.
    pub fn become_daemon(&self, holder: &str) -> Result<DaemonLock> {
        self.with_reserve(|| {
            let daemon_lock = lock::daemon(&self.run(), &self.owner, holder)?;
            self.begin().map(|_| daemon_lock)
        })
    }

    /// Returns the name of this process's lock file, if the process has changed the store.
    fn worker_name(&self) -> Option<String> {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.as_ref().map(|worker| worker.name().to_owned())
    }

    /// Returns true if the call waits for the disk: both the store and the caller have to ask for that.
    fn waits(&self, flush: Flush) -> bool {
        (self.durability, flush) == (Durability::Commit, Flush::Now)
    }

    /// Returns the kind of transaction that publishes.
    fn level(&self, flush: Flush) -> Level {
        if self.waits(flush) { Level::Durable } else { Level::Relaxed }
    }

    /// Fails if `id` is mounted; `doing` names the call.
    fn check_not_mounted(&self, id: Id, doing: &str) -> Result<()> {
        match mount::table::users_of(&self.dir_of(id))?.first() {
            None => Ok(()),
            Some(target) => Err(Error::precondition(doing).with_source(MountedOn(target.clone()))),
        }
    }

    /// Refuses a mount of `key` while a container or another call works on `key`, because mounts in other mount
    /// namespaces cannot be seen from here. Also refuses a second overlay in the caller's mount namespace: the kernel
    /// accepts two overlays with one upper directory, and then neither shows the right content.
    ///
    /// # Errors
    /// `FailedPrecondition` with the mount point of `key`, or because `key` is in use; `NotFound`.
    pub fn check_mountable(&self, key: &str, mounts: &[Mount]) -> Result<()> {
        let row = self.stack(key)?.0;
        if row.state == State::Claimed {
            return Err(Error::precondition(format!(
                "cannot mount {key:?}: a container or another call works on it; wait for its end"
            )));
        }
        if mounts.iter().all(|mount| mount.upper().is_none()) {
            return Ok(());
        }
        self.check_not_mounted(row.id, &format!("cannot mount {key:?}"))
    }

    fn mounts_of(&self, kind: Kind, stack: &[Id]) -> Result<Vec<Mount>> {
        match kind {
            Kind::Active => self.backend.mounts(stack, Access::ReadWrite),
            Kind::View if stack.len() > 1 => self.backend.mounts(&stack[1..], Access::ReadOnly),
            Kind::View | Kind::Committed => self.backend.mounts(stack, Access::ReadOnly),
        }
    }

    /// Returns the row of the snapshot `key`, and the ids of the snapshot and its ancestors.
    fn stack(&self, key: &str) -> Result<(Row, Vec<Id>)> {
        check_key(key)?;
        self.meta.view(|tx| {
            let row = rows::visible(tx, &self.owner, key)?;
            let stack = durability::chain(tx, Some(row.row))?;
            Ok((row, stack))
        })
    }

    /// Opens the tree of `key`, a snapshot of any kind, read-only. The mount is attached nowhere and goes away with the
    /// value.
    ///
    /// # Errors
    /// `NotFound`; errors of the mount.
    pub fn open_tree(&self, key: &str) -> Result<Dir> {
        let (row, stack) = self.stack(key)?;
        self.open_read(&comparison::Read { row, stack })
    }

    fn open_read(&self, read: &comparison::Read) -> Result<Dir> {
        let comparison::Read { row, stack } = read;
        if row.state == State::Claimed {
            // The process that works on the snapshot may have died. Then recovery ends its work.
            self.begin()?;
        }
        let mounts = self.mounts_to_read(row, stack)?;
        let mount = self.on_disk(row, || mount::detached(&mounts))?;
        Ok(Dir::from_fd(mount, &row.name))
    }

    /// Calls `work`, which needs the directories of `row` and its ancestors. A power cut may have taken an empty
    /// directory: then recovery makes it again, and `work` is called once more. A directory that is still missing is
    /// lost, so the error is `DataLoss` and not `NotFound`.
    fn on_disk<T>(&self, row: &Row, work: impl Fn() -> Result<T>) -> Result<T> {
        match work() {
            Err(error) if error.kind() == ErrorKind::NotFound => self.begin().map(drop)?,
            done => return done,
        }
        let missing = match work() {
            Err(error) if error.kind() == ErrorKind::NotFound => error,
            done => return done,
        };
        let name = &row.name;
        Err(match self.meta.view(|tx| rows::by_id(tx, row.id))? {
            Some(_) => Error::data_loss(format!("the snapshot {name:?} is not whole on disk")).with_source(missing),
            None => Error::not_found(format!("the snapshot {name:?} was removed meanwhile")),
        })
    }

    /// Calls `visit` with every snapshot of any owner that matches one of `filters`, and its owner. Other calls see the
    /// snapshots of one owner only.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad filter; errors of `visit`.
    pub fn walk_all(&self, filters: &[&str], visit: &mut dyn FnMut(&str, &Info) -> Result<()>) -> Result<()> {
        let filters = Filters::parse(filters)?;
        let owned = self.meta.view(|tx| {
            let owners = stored_labels::owners(tx)?.into_iter();
            owners
                .map(|owner| stored_labels::infos(tx, &owner).map(|infos| (owner, infos)))
                .collect::<Result<Vec<_>, _>>()
        })?;
        for (owner, infos) in &owned {
            infos.iter().filter(|info| filters.matches(info)).try_for_each(|info| visit(owner, info))?;
        }
        Ok(())
    }

    /// Returns the DiffID of the committed snapshot `key`; `None` for other kinds, whose content can change.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn diff_id(&self, key: &str) -> Result<Option<DiffId>> {
        let row = self.stack(key)?.0;
        Ok(row.diff_id.filter(|_| row.kind == Kind::Committed))
    }
}

impl Snapshotter for Store {
    fn stat(&self, key: &str) -> Result<Info> {
        check_key(key)?;
        self.meta.view(|tx| {
            let row = rows::visible(tx, &self.owner, key)?;
            stored_labels::info(tx, row.row)
        })
    }

    fn update(&self, info: &Info, fieldpaths: &[&str]) -> Result<Info> {
        check_key(&info.name)?;
        let change = LabelChange::parse(fieldpaths)?;
        change.check(info)?;
        self.begin()?;
        self.meta.transact(self.level(Flush::Now), |tx| {
            let row = rows::visible(tx, &self.owner, &info.name)?.row;
            change.make(tx, row, info)?;
            stored_labels::touch(tx, row)?;
            stored_labels::info(tx, row)
        })
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        let (row, stack) = self.stack(key)?;
        match row.kind {
            Kind::Active => self.on_disk(&row, || self.backend.usage(row.id, &stack[1..])),
            Kind::View | Kind::Committed => Ok(row.usage),
        }
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        // The mounts need the directories, which a power cut may have taken.
        self.begin()?;
        let (row, stack) = self.stack(key)?;
        if row.kind == Kind::Committed {
            return Err(Error::precondition(format!(
                "{key:?} is committed and has no mounts: prepare or view something on top of it"
            )));
        }
        if row.kind == Kind::Active {
            recover::make_again(self, row.id)?;
        }
        self.handed_out(row.kind, row.id_map.as_ref(), &stack)
    }

    fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        self.make(Kind::Active, key, parent, labels, Flush::Now, Origin::Named)
    }

    fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        self.make(Kind::View, key, parent, labels, Flush::Now, Origin::Named)
    }

    fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<()> {
        self.commit_with(name, key, labels, CommitOptions::PLAIN)
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.remove_with(key, RemoveScope::Alone).map(drop)
    }

    fn walk(&self, filters: &[&str], visit: &mut dyn FnMut(&Info) -> Result<()>) -> Result<()> {
        let filters = Filters::parse(filters)?;
        let infos = self.meta.view(|tx| stored_labels::infos(tx, &self.owner))?;
        infos.iter().filter(|info| filters.matches(info)).try_for_each(visit)
    }

    fn cleanup(&self) -> Result<()> {
        self.with_reserve(|| {
            self.begin_to_remove()?;
            recover::recover(self)
        })?;
        self.drain_in_turn().map(drop)
    }

    fn changes(&self, key: &str, base: Option<&str>, sink: &mut dyn Sink) -> Result<()> {
        let comparison = self.comparison(key, base)?;
        if comparison.is_view_of_base() {
            return Ok(());
        }
        let (old, new) = (comparison.open_base()?, comparison.open()?);
        diff::diff(old.as_ref(), &new, comparison.candidates()?, sink)
    }

    fn apply(&self, key: &str, produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Applied> {
        self.apply_with(key, false, &mut |sink| produce(sink).map(|()| None))
    }
}

#[cfg(test)]
mod tests;
