//! The store: [`Snapshotter`] implemented once, over any [`Backend`].
//!
//! # On disk
//! ```text
//! <root>/            0700, its own directory
//!   strata.db        SQLite: snapshots, labels, images and their documents, what is in work, what is to be freed
//!   s/<id>/          one directory (or subvolume) a snapshot; what is inside is the backend's
//!     run/             a lock file for each process that changes the store
//! ```
//!
//! # How a change is made
//! Reserve (a relaxed transaction: a row *creating* or *committing*) - work on the file system, outside any transaction -
//! bring the data to disk - publish (a durable transaction). So a long copy keeps nobody from the database, and what
//! the database calls durable is complete on disk. A failure takes the reservation back; a crash leaves it to
//! recovery (`recover.rs`). Ids only grow, and what no row names may be removed.
//!
//! # Owners
//! Every snapshot belongs to an owner, `local` or a daemon's name. A `Store` sees, lists and changes its owner's only: the
//! garbage collector of a containerd removes every snapshot that it does not know.

mod filter;
mod image;
mod lock;
mod meta;
mod recover;
mod rows;

pub use image::{Image, NewImage};
pub use recover::Freed;
pub use rows::Origin;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::Transaction;
use rustix::fs::Mode;

use crate::backend::{Backend, Usage};
use crate::changeset::apply::{Applied, Applier};
use crate::changeset::{Sink, diff};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::id::{DiffId, Id, check_key};
use crate::mount::{self, Access, Mount};
use crate::snapshotter::{Info, Kind, Labels, Snapshotter};
use crate::tree::{self, Dir};

use filter::Filters;
use meta::{Failed, Level, Meta};
use rows::{New, Published, Row, State};

/// The owner of what the command line makes.
pub const LOCAL: &str = "local";

/// Up to so many changed inodes are brought to disk one by one; more, and one `syncfs` is cheaper (measured on ext4, xfs
/// and btrfs: 20 to 30 times, at 20,000 files), though it also waits for what others wrote.
const FSYNC_INODES_MAX: usize = 256;

/// How often a number is tried that turns out to be on disk already; recovery skips those, so one is a coincidence.
const ID_TRIES_MAX: usize = 1000;

/// When the store answers that something is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it would survive a power cut.
    #[default]
    Commit,
    /// When the kernel has it. A power cut may leave committed snapshots with empty files.
    None,
}

impl Durability {
    /// Its name in settings and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::None => "none",
        }
    }
}

/// Whether a call waits for the disk, or leaves that to one later [`Store::sync`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Durable when the call returns.
    Now,
    /// Usable at once, as a parent too, but gone after a power cut unless [`Store::sync`] came first.
    Later,
}

/// The database of a store, open, before it is known which backend it needs.
#[derive(Debug)]
pub struct Database {
    root: PathBuf,
    meta: Meta,
    backend: Option<String>,
    durability: Durability,
}

impl Database {
    /// Opens the store at `root`; `None` if there is none.
    ///
    /// # Errors
    /// `DataLoss` for a damaged database, `Unsupported` for a newer format, `PermissionDenied`.
    pub fn open(root: &Path) -> Result<Option<Self>> {
        if !meta::exists(&root.join("strata.db")) {
            return Ok(None);
        }
        let root = root.canonicalize().at("open the store", root)?;
        Self::load(root, false).map(Some)
    }

    /// Makes the store at `root`, or opens it if somebody was faster. The directory is made if it is missing; one that
    /// exists must be empty, and becomes private (mode 0700).
    ///
    /// # Errors
    /// `FailedPrecondition` if the directory holds something else; `PermissionDenied`; `ResourceExhausted`.
    pub fn create(root: &Path, durability: Durability) -> Result<Self> {
        std::fs::create_dir_all(root).at("make the directory", root)?;
        let root = root.canonicalize().at("open the directory", root)?;
        if !meta::exists(&root.join("strata.db")) {
            check_fresh(&root)?;
        }
        rustix::fs::chmod(&root, Mode::RWXU).at("make private", &root)?;
        for name in ["s", "run"] {
            match rustix::fs::mkdir(root.join(name), Mode::RWXU) {
                Err(rustix::io::Errno::EXIST) => {}
                made => made.at("make directory", root.join(name))?,
            }
        }
        let mut database = Self::load(root, true)?;
        database.durability = durability;
        Ok(database)
    }

    fn load(root: PathBuf, create: bool) -> Result<Self> {
        let run = root.join("run");
        let others = || Ok(lock::living(&run)?.into_iter().next().map(|name| format!("the process of run/{name}")));
        let meta = Meta::open(&root.join("strata.db"), create, others)?;
        let (backend, durability) =
            meta.view(|tx| Ok((rows::setting(tx, "backend")?, rows::setting(tx, "durability")?)))?;
        let durability = if durability.as_deref() == Some("none") { Durability::None } else { Durability::Commit };
        Ok(Self { root, meta, backend, durability })
    }

    /// The name of the backend that the store was made with; `None` if it was never used.
    pub fn backend(&self) -> Option<&str> {
        self.backend.as_deref()
    }

    /// The store's directory, absolute and without links.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// A new store's directory may hold nothing but what a fresh file system or an interrupted first start leaves.
fn check_fresh(root: &Path) -> Result<()> {
    const KNOWN: [&str; 6] = ["lost+found", "s", "run", "strata.db", "strata.db-wal", "strata.db-shm"];
    let stranger = Dir::open(root)?.names()?.into_iter().find(|entry| !KNOWN.iter().any(|name| entry.name == *name));
    match stranger {
        None => Ok(()),
        Some(entry) => Err(Error::precondition(format!(
            "{} is no store and not empty (it holds {}): choose an empty or a new directory",
            root.display(),
            entry.name.display()
        ))),
    }
}

/// A store of snapshots, as one owner sees it.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Open from the start, so that `syncfs` also reports write errors that happened in between.
    root_fd: OwnedFd,
    meta: Meta,
    backend: Box<dyn Backend>,
    owner: String,
    durability: Durability,
    /// This process at work, from its first change on.
    worker: Mutex<Option<lock::Worker>>,
}

impl Store {
    /// The store of `database`, run by `backend`, as `owner` sees it.
    ///
    /// # Errors
    /// `FailedPrecondition` if the store was made with another backend; `InvalidArgument` for an owner that is no key.
    pub fn new(database: Database, backend: Box<dyn Backend>, owner: &str) -> Result<Self> {
        check_key(owner).map_err(|error| error.context("the owner"))?;
        let Database { root, meta, backend: marker, durability } = database;
        let name = backend.capabilities().name;
        match marker.as_deref() {
            None => meta.transact(Level::Durable, |tx| {
                rows::set_setting(tx, "backend", name)?;
                rows::set_setting(tx, "durability", durability.as_str())
            })?,
            Some(made) if made == name => {}
            Some(made) => {
                return Err(Error::precondition(format!(
                    "the store {} was made with the backend {made}, not {name}",
                    root.display()
                )));
            }
        }
        let root_fd = Dir::open(&root)?.into_fd();
        let owner = owner.to_owned();
        Ok(Self { root, root_fd, meta, backend, owner, durability, worker: Mutex::new(None) })
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The strategy.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Whose snapshots this handle sees.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// When this store answers.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    fn dir_of(&self, id: Id) -> PathBuf {
        self.root.join("s").join(id.to_string())
    }

    /// Announces this process as one that changes the store, after clearing up behind those that died; answers with the
    /// name that rows in work carry.
    fn begin(&self) -> Result<String> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = &*worker {
            return Ok(worker.name().to_owned());
        }
        recover::recover(self)?;
        let announced = lock::Worker::announce(&self.run())?;
        let name = announced.name().to_owned();
        *worker = Some(announced);
        Ok(name)
    }

    /// A durable transaction, or a relaxed one where this store or the caller does not wait for the disk.
    fn level(&self, flush: Flush) -> Level {
        match (self.durability, flush) {
            (Durability::Commit, Flush::Now) => Level::Durable,
            _ => Level::Relaxed,
        }
    }

    /// Brings what was written to `id` to disk, and `all` of the store's file system where its ancestors need it too.
    fn bring_to_disk(&self, id: Id, all: bool) -> Result<()> {
        if !all && let Some(layer) = self.backend.layer(id) {
            if tree::walk::sync(&Dir::open(&layer.dir)?, FSYNC_INODES_MAX)? {
                let above = [self.dir_of(id), self.root.join("s")];
                return above.iter().try_for_each(|dir| rustix::fs::fsync(Dir::open(dir)?.as_fd()).at("fsync", dir));
            }
        }
        rustix::fs::syncfs(self.root_fd.as_fd()).at("syncfs", &self.root)
    }

    /// Refuses while `id` is mounted: `doing` names the call.
    fn check_not_mounted(&self, id: Id, doing: &str) -> Result<()> {
        match mount::table::users_of(&self.dir_of(id))?.first() {
            None => Ok(()),
            Some(target) => {
                let target = target.display();
                Err(Error::precondition(format!("{doing}: it is mounted on {target}; strata umount {target} first")))
            }
        }
    }

    /// Makes a snapshot that is not committed. See [`Snapshotter::prepare`].
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    pub fn prepare_with(&self, key: &str, parent: &str, labels: &Labels, flush: Flush) -> Result<Vec<Mount>> {
        self.make(Kind::Active, key, parent, labels, flush)
    }

    fn make(&self, kind: Kind, key: &str, parent: &str, labels: &Labels, flush: Flush) -> Result<Vec<Mount>> {
        check_key(key)?;
        let worker = self.begin()?;
        // A view of something has nothing of its own on disk: one transaction is all.
        let bare = kind == Kind::View && !parent.is_empty();
        let level = if bare { self.level(flush) } else { Level::Relaxed };
        let reserved = self.meta.transact(level, |tx| {
            let state = if bare { State::Ready } else { State::Creating };
            let worker = (!bare).then_some(worker.as_str());
            self.reserve(tx, kind, key, parent, state, worker, labels)
        })?;
        if !bare {
            self.create(&reserved, flush).inspect_err(|_| self.take_back(reserved.row))?;
        }
        self.mounts_of(kind, &reserved.stack)
    }

    #[expect(clippy::too_many_arguments, reason = "one caller; these are the columns of the new row")]
    fn reserve(
        &self,
        tx: &Transaction<'_>,
        kind: Kind,
        key: &str,
        parent: &str,
        state: State,
        worker: Option<&str>,
        labels: &Labels,
    ) -> Result<Reserved, Failed> {
        if rows::holder(tx, &self.owner, key)?.is_some() {
            return Err(Error::already_exists(format!("the key {key:?} is in use")).into());
        }
        let parent = if parent.is_empty() { None } else { Some(self.parent(tx, parent)?) };
        let parents = rows::chain(tx, parent.as_ref().map(|row| row.row))?;
        self.check_depth(&parents)?;
        let id = rows::next_id(tx)?;
        let durable = state == State::Ready && parent.as_ref().is_none_or(|row| row.durable);
        let parent = parent.map(|row| row.row);
        let new =
            New { id, owner: &self.owner, name: key, kind, state, parent, worker, durable, origin: Origin::Named };
        let row = rows::insert(tx, &new)?;
        rows::set_labels(tx, row, labels)?;
        let mut stack = vec![id];
        stack.extend(parents);
        Ok(Reserved { row, parent, stack })
    }

    fn parent(&self, tx: &Transaction<'_>, name: &str) -> Result<Row, Failed> {
        let missing = || Error::not_found(format!("there is no parent {name:?}: strata ls lists the snapshots"));
        let row = rows::holder(tx, &self.owner, name)?
            .filter(|row| matches!(row.state, State::Ready | State::Committing))
            .ok_or_else(missing)?;
        if row.kind != Kind::Committed {
            let kind = row.kind;
            return Err(Error::invalid(format!("the parent {name:?} is not committed, it is {kind}")).into());
        }
        Ok(row)
    }

    fn check_depth(&self, parents: &[Id]) -> Result<()> {
        match self.backend.capabilities().parents_max {
            Some(most) if parents.len() > most => Err(Error::precondition(format!(
                "the chain of parents is {} deep, and {} mounts at most {most}",
                parents.len(),
                self.backend.capabilities().name
            ))),
            _ => Ok(()),
        }
    }

    /// The work behind a reserved row, and its publication.
    fn create(&self, reserved: &Reserved, flush: Flush) -> Result<()> {
        let parents = &reserved.stack[1..];
        let mut id = reserved.stack[0];
        let mut tries = 0;
        while let Err(error) = self.backend.create(id, parents) {
            tries += 1;
            if error.kind() != ErrorKind::AlreadyExists || tries > ID_TRIES_MAX {
                return Err(error);
            }
            id = self.meta.transact(Level::Relaxed, |tx| {
                let next = rows::next_id(tx)?;
                rows::renumber(tx, reserved.row, next).map(|()| next)
            })?;
        }
        let sand = self.meta.view(|tx| rows::stands_on_sand(tx, reserved.parent))?;
        let wait = flush == Flush::Now && self.durability == Durability::Commit;
        if wait && (sand || (self.backend.capabilities().create_needs_sync && !parents.is_empty())) {
            self.bring_to_disk(id, sand)?;
        }
        self.meta.transact(self.level(flush), |tx| {
            rows::set_state(tx, reserved.row, State::Ready, None)?;
            if flush == Flush::Now {
                rows::set_durable(tx, reserved.row)?;
                rows::ancestors_durable(tx, reserved.row)?;
            }
            Ok::<_, Failed>(())
        })
    }

    /// Undoes a reservation whose work failed. What cannot be undone now, recovery undoes.
    fn take_back(&self, row: i64) {
        let id = self.meta.transact(Level::Relaxed, |tx| {
            let id = rows::by_number(tx, row)?.id;
            rows::discard(tx, row).map(|()| id)
        });
        if let Ok(id) = id {
            let _ = recover::free(self, id);
        }
    }

    fn mounts_of(&self, kind: Kind, stack: &[Id]) -> Result<Vec<Mount>> {
        match kind {
            Kind::Active => self.backend.mounts(stack, Access::ReadWrite),
            Kind::View if stack.len() > 1 => self.backend.mounts(&stack[1..], Access::ReadOnly),
            Kind::View | Kind::Committed => self.backend.mounts(stack, Access::ReadOnly),
        }
    }

    /// The ids that make up the snapshot `key`, itself first, and its row.
    fn stack(&self, key: &str) -> Result<(Row, Vec<Id>)> {
        check_key(key)?;
        self.meta.view(|tx| {
            let row = rows::visible(tx, &self.owner, key)?;
            let stack = rows::chain(tx, Some(row.row))?;
            Ok((row, stack))
        })
    }

    /// The tree that `key`, of any kind, shows: a directory that nobody can write to through this descriptor. It is
    /// mounted nowhere and goes away with the value.
    ///
    /// # Errors
    /// `NotFound`; what the mount reports.
    pub fn open_tree(&self, key: &str) -> Result<Dir> {
        let (row, stack) = self.stack(key)?;
        let kind = if row.kind == Kind::View { Kind::View } else { Kind::Committed };
        let mounts = self.mounts_of(kind, &stack)?;
        Ok(Dir::from_fd(mount::detached(&mounts)?, key))
    }

    /// Commits as [`Snapshotter::commit`] does, with what an importer or builder knows besides.
    ///
    /// # Errors
    /// As [`Snapshotter::commit`].
    pub fn commit_with(&self, name: &str, key: &str, labels: &Labels, terms: Terms) -> Result<()> {
        check_key(name)?;
        check_key(key)?;
        let worker = self.begin()?;
        let reserved = self.meta.transact(Level::Relaxed, |tx| self.reserve_name(tx, name, key, &worker))?;
        self.seal(name, &reserved, labels, terms, &worker).inspect_err(|_| {
            // What cannot be undone now, recovery undoes.
            let _ = self.meta.transact(Level::Relaxed, |tx| {
                rows::set_state(tx, reserved.active.row, State::Ready, None)?;
                rows::discard(tx, reserved.row)
            });
            let _ = recover::free(self, reserved.id);
        })
    }

    fn reserve_name(&self, tx: &Transaction<'_>, name: &str, key: &str, worker: &str) -> Result<ReservedName, Failed> {
        let active = rows::visible(tx, &self.owner, key)?;
        if rows::holder(tx, &self.owner, name)?.is_some() {
            return Err(Error::already_exists(format!("the name {name:?} is in use")).into());
        }
        if active.kind != Kind::Active {
            let kind = active.kind;
            return Err(Error::precondition(format!("cannot commit {key:?}: it is {kind}, not active")).into());
        }
        if active.state != State::Ready {
            return Err(Error::precondition(format!("cannot commit {key:?}: it is being committed")).into());
        }
        let id = rows::next_id(tx)?;
        let new = New {
            id,
            owner: &self.owner,
            name,
            kind: Kind::Committed,
            state: State::Reserved,
            parent: active.parent,
            worker: Some(worker),
            durable: false,
            origin: Origin::Named,
        };
        let row = rows::insert(tx, &new)?;
        rows::set_state(tx, active.row, State::Committing, Some(worker))?;
        let parents = rows::chain(tx, active.parent)?;
        let sand = rows::stands_on_sand(tx, active.parent)?;
        Ok(ReservedName { row, id, active, parents, sand })
    }

    fn seal(&self, name: &str, reserved: &ReservedName, labels: &Labels, terms: Terms, worker: &str) -> Result<()> {
        let ReservedName { active, parents, .. } = reserved;
        let capabilities = self.backend.capabilities();
        let sealed = if capabilities.seals_to_fresh_id { reserved.id } else { active.id };
        self.check_not_mounted(active.id, &format!("cannot commit {:?}", active.name))?;
        self.backend.seal(active.id, sealed)?;
        let usage = self.backend.usage(sealed, parents)?;
        let wait = terms.flush == Flush::Now && self.durability == Durability::Commit;
        if wait && (reserved.sand || !capabilities.seal_is_durable) {
            self.bring_to_disk(sealed, reserved.sand)?;
        }
        let durable = terms.flush == Flush::Now;
        let held_by = (terms.origin == Origin::Image).then_some(worker);
        let published = Published { name, usage, durable, origin: terms.origin, diff_id: terms.diff_id, held_by };
        self.meta.transact(self.level(terms.flush), |tx| {
            let row = if capabilities.seals_to_fresh_id {
                rows::discard(tx, active.row)?;
                reserved.row
            } else {
                rows::delete(tx, reserved.row)?;
                active.row
            };
            rows::publish(tx, row, &published)?;
            if durable {
                rows::ancestors_durable(tx, row)?;
            }
            rows::set_labels(tx, row, labels)
        })
    }

    /// Brings every snapshot that was made with [`Flush::Later`] to disk: one `syncfs`, one durable transaction.
    ///
    /// # Errors
    /// What the file system reports: then none of them is durable.
    pub fn sync(&self) -> Result<()> {
        if self.durability == Durability::None {
            return Ok(());
        }
        // Only what was there before the disk was waited for is known to be on it.
        let known = self.meta.view(rows::not_durable)?;
        if known.is_empty() {
            return Ok(());
        }
        rustix::fs::syncfs(self.root_fd.as_fd()).at("syncfs", &self.root)?;
        self.meta.transact(Level::Durable, |tx| known.iter().try_for_each(|row| rows::set_durable(tx, *row)))
    }

    /// The DiffID that was recorded for `key`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn diff_id(&self, key: &str) -> Result<Option<DiffId>> {
        Ok(self.stack(key)?.0.diff_id)
    }
}

/// What a commit knows besides the name and the labels.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whether it waits for the disk.
    pub flush: Flush,
    /// Who wants the snapshot.
    pub origin: Origin,
    /// The digest of the layer that it was made from.
    pub diff_id: Option<DiffId>,
}

impl Terms {
    /// Durable, named by a user, of unknown digest: what [`Snapshotter::commit`] does.
    pub const PLAIN: Self = Self { flush: Flush::Now, origin: Origin::Named, diff_id: None };
}

/// A row that holds a key while its directory is made.
#[derive(Debug)]
struct Reserved {
    row: i64,
    parent: Option<i64>,
    /// Its own id, then its parents.
    stack: Vec<Id>,
}

/// A row that holds a name while an active snapshot is sealed.
#[derive(Debug)]
struct ReservedName {
    row: i64,
    id: Id,
    active: Row,
    parents: Vec<Id>,
    /// Whether a parent may still be lost with the power.
    sand: bool,
}

impl Snapshotter for Store {
    fn stat(&self, key: &str) -> Result<Info> {
        check_key(key)?;
        self.meta.view(|tx| {
            let row = rows::visible(tx, &self.owner, key)?;
            rows::info(tx, row.row)
        })
    }

    fn update(&self, info: &Info, fieldpaths: &[&str]) -> Result<Info> {
        check_key(&info.name)?;
        let labels = LabelChange::parse(fieldpaths)?;
        self.begin()?;
        self.meta.transact(self.level(Flush::Now), |tx| {
            let row = rows::visible(tx, &self.owner, &info.name)?.row;
            match &labels {
                LabelChange::All => rows::set_labels(tx, row, &info.labels)?,
                LabelChange::Some(names) => {
                    for name in names {
                        rows::set_label(tx, row, name, info.labels.get(*name).map_or("", String::as_str))?;
                    }
                }
            }
            rows::touch(tx, row)?;
            rows::info(tx, row)
        })
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        let (row, stack) = self.stack(key)?;
        match row.kind {
            Kind::Active => self.backend.usage(row.id, &stack[1..]),
            Kind::View | Kind::Committed => Ok(row.usage),
        }
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let (row, stack) = self.stack(key)?;
        if row.kind == Kind::Committed {
            return Err(Error::precondition(format!(
                "{key:?} is committed and has no mounts: prepare or view something on top of it"
            )));
        }
        self.mounts_of(row.kind, &stack)
    }

    fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        self.make(Kind::Active, key, parent, labels, Flush::Now)
    }

    fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        self.make(Kind::View, key, parent, labels, Flush::Now)
    }

    fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<()> {
        self.commit_with(name, key, labels, Terms::PLAIN)
    }

    fn remove(&self, key: &str) -> Result<()> {
        let cannot = format!("cannot remove {key:?}");
        let removable = |tx: &Transaction<'_>| {
            let row = rows::visible(tx, &self.owner, key)?;
            if row.state != State::Ready {
                return Err(Error::precondition(format!("{cannot}: it is being committed")).into());
            }
            if rows::has_children(tx, row.row)? {
                return Err(Error::precondition(format!("{cannot}: it has children; remove them first")).into());
            }
            if let Some(image) = image::using(tx, row.row)? {
                return Err(Error::precondition(format!("{cannot}: the image {image:?} needs it")).into());
            }
            Ok::<_, Failed>(row)
        };
        check_key(key)?;
        self.begin()?;
        let row = self.meta.view(|tx| removable(tx))?;
        self.check_not_mounted(row.id, &cannot)?;
        self.meta.transact(self.level(Flush::Now), |tx| {
            let row = removable(tx)?;
            rows::discard(tx, row.row)
        })
    }

    fn walk(&self, filters: &[&str], visit: &mut dyn FnMut(&Info) -> Result<()>) -> Result<()> {
        let filters = Filters::parse(filters)?;
        let infos = self.meta.view(|tx| rows::infos(tx, &self.owner))?;
        infos.iter().filter(|info| filters.matches(info)).try_for_each(visit)
    }

    fn cleanup(&self) -> Result<()> {
        recover::recover(self)?;
        self.begin()?;
        self.drain(None).map(drop)
    }

    fn changes(&self, key: &str, base: Option<&str>, sink: &mut dyn Sink) -> Result<()> {
        let parent;
        let base = match base {
            Some(base) => base,
            None => {
                parent = self.stat(key)?.parent;
                &parent
            }
        };
        let old = if base.is_empty() { None } else { Some(self.open_tree(base)?) };
        diff::diff(old.as_ref(), &self.open_tree(key)?, sink)
    }

    fn apply(&self, key: &str, produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Applied> {
        let (row, stack) = self.stack(key)?;
        if row.kind != Kind::Active || row.state != State::Ready {
            let kind = row.kind;
            return Err(Error::precondition(format!("cannot apply to {key:?}: it is {kind} or being committed")));
        }
        self.check_not_mounted(row.id, &format!("cannot apply to {key:?}"))?;
        let mounts = self.backend.mounts(&stack, Access::ReadWrite)?;
        let mut applier = Applier::new(Dir::from_fd(mount::detached(&mounts)?, key));
        produce(&mut applier)?;
        applier.finish()
    }
}

/// Which labels an update is about.
enum LabelChange<'a> {
    All,
    Some(Vec<&'a str>),
}

impl<'a> LabelChange<'a> {
    fn parse(fieldpaths: &[&'a str]) -> Result<Self> {
        let mut names = Vec::new();
        for path in fieldpaths {
            match path.strip_prefix("labels.") {
                Some(name) if !name.is_empty() => names.push(name),
                _ if *path == "labels" => return Ok(Self::All),
                _ => return Err(Error::invalid(format!("the field {path:?} cannot be changed: only labels can"))),
            }
        }
        Ok(if names.is_empty() { Self::All } else { Self::Some(names) })
    }
}
