//! Making active snapshots and views, in one of three ways:
//!
//! - *Bare*: a view of a committed snapshot has no directory. Its row is made in one transaction.
//! - *In the transaction*: if the backend needs only a few system calls, and no parent has to be brought to disk first,
//!   row and directory are made in one transaction. A failure undoes both.
//! - *Reserved*: a row holds the key, the directory is made outside of transactions, and a second transaction publishes
//!   the snapshot.

use std::cell::Cell;
use std::iter;

use super::db::Transaction;
use super::db::durability::{self, Ancestry, Unvouched};
use super::db::labels as stored_labels;
use rustix::io::Errno;

use super::db::meta::{Failed, Level};
use super::db::rows::{self, New, Origin, Row, State};
use super::labels::check_labels;
use super::{Flush, Store, mapped, vouch};
use crate::backend::FSYNC_INODES_MAX;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Id, check_key};
use crate::mount::{IdMap, Mount};
use crate::snapshotter::{Kind, Labels};
use crate::tree::Dir;
use crate::tree::walk::Inodes;

/// Maximum number of ids that are tried because a directory is in the way. Recovery skips such ids, so even one is
/// rare.
const ID_TRIES_MAX: usize = 1000;

/// The snapshot to make.
#[derive(Clone, Copy)]
struct CreateRequest<'a> {
    kind: Kind,
    key: &'a str,
    parent: &'a str,
    labels: &'a Labels,
    flush: Flush,
    origin: Origin,
    id_map: Option<&'a IdMap>,
}

/// The place of the new snapshot.
#[derive(Debug)]
struct Placement {
    id: Id,
    parent: Option<i64>,
    /// Ids of the ancestors, nearest first.
    parents: Vec<Id>,
    /// The ancestors that are not durable.
    not_durable: Vec<Unvouched>,
    /// True for a view that has no directory.
    bare: bool,
}

impl Placement {
    /// Returns the ids to mount, nearest first, if the snapshot's own directory is at `id`.
    fn stack(&self, id: Id) -> Vec<Id> {
        iter::once(id).chain(self.parents.iter().copied()).collect()
    }
}

/// Result of the first transaction.
enum FirstTransaction {
    /// A row holds the key while its directory is made.
    Reserved(i64, Placement),
    /// The snapshot is made.
    Made(Vec<Mount>),
}

impl Store {
    /// Makes a snapshot that is not committed. See [`Snapshotter::prepare`].
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    ///
    /// [`Snapshotter::prepare`]: crate::Snapshotter::prepare
    pub fn prepare_with(&self, key: &str, parent: &str, labels: &Labels, flush: Flush) -> Result<Vec<Mount>> {
        self.make(Kind::Active, key, parent, labels, flush, Origin::Named)
    }

    /// Makes the active snapshot `key`, in which this process puts a layer of an image together. Unlike
    /// [`Snapshotter::prepare`], the function does not wait for the disk, and the snapshot goes away if the process
    /// ends before the commit.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    ///
    /// [`Snapshotter::prepare`]: crate::Snapshotter::prepare
    pub fn prepare_layer(&self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        self.make(Kind::Active, key, parent, &Labels::new(), Flush::Later, Origin::Image)
    }

    pub(super) fn make(
        &self,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: &Labels,
        flush: Flush,
        origin: Origin,
    ) -> Result<Vec<Mount>> {
        check_key(key)?;
        if !parent.is_empty() {
            check_key(parent)?;
        }
        check_labels(labels)?;
        let id_map = mapped::requested(labels)?;
        let id_map = id_map.as_ref();
        let request = CreateRequest { kind, key, parent, labels, flush, origin, id_map };
        let worker = self.begin()?;
        let held_by = (origin == Origin::Image).then_some(worker.as_str());
        let is_brief = self.backend.capabilities().create_is_brief || is_bare(kind, !parent.is_empty());
        // A mount with translated ids is tried out, which takes more than a few system calls.
        let is_brief = is_brief && id_map.is_none();
        let level = if is_brief { self.level(flush) } else { Level::Relaxed };
        let made = Cell::new(None);
        let first = self.meta.transact(level, |tx| {
            let placement = self.placement(tx, &request)?;
            if is_brief && (placement.not_durable.is_empty() || !self.waits(flush)) {
                self.make_in_transaction(tx, &request, &placement, &worker, &made).map(FirstTransaction::Made)
            } else {
                let row = self.insert(tx, &request, &placement, State::Creating, &worker, false)?;
                Ok(FirstTransaction::Reserved(row, placement))
            }
        });
        match first.inspect_err(|_| self.undo(made.take()))? {
            FirstTransaction::Made(mounts) => Ok(mounts),
            FirstTransaction::Reserved(row, placement) => {
                self.make_reserved(&request, row, &placement, held_by).inspect_err(|_| self.let_go(&[row]))
            }
        }
    }

    /// Chooses the place of the snapshot, and checks that the snapshot may be made.
    fn placement(&self, tx: &Transaction<'_>, request: &CreateRequest<'_>) -> Result<Placement, Failed> {
        let CreateRequest { kind, key, parent, .. } = *request;
        if rows::holder(tx, &self.owner, key)?.is_some() {
            return Err(Error::already_exists(format!("the key {key:?} is in use")).into());
        }
        let parent = if parent.is_empty() { None } else { Some(self.parent(tx, parent)?.row) };
        let Ancestry { ids: parents, not_durable } = durability::ancestry(tx, parent)?;
        self.check_height(kind, &parents)?;
        Ok(Placement { id: rows::next_id(tx)?, parent, parents, not_durable, bare: is_bare(kind, parent.is_some()) })
    }

    /// Adds the row and its labels.
    fn insert(
        &self,
        tx: &Transaction<'_>,
        request: &CreateRequest<'_>,
        placement: &Placement,
        state: State,
        by: &str,
        durable: bool,
    ) -> Result<i64, Failed> {
        let CreateRequest { kind, key: name, labels, origin, id_map, .. } = *request;
        let Placement { id, parent, .. } = *placement;
        let worker = (state == State::Creating || origin == Origin::Image).then_some(by);
        let voucher = (!durable).then(|| Self::voucher(by, id));
        let (owner, voucher) = (self.owner.as_str(), voucher.as_deref());
        let new = New { id, owner, name, kind, state, parent, worker, durable, voucher, origin, id_map };
        let row = rows::insert(tx, &new)?;
        stored_labels::add_labels(tx, row, labels).map(|()| row)
    }

    fn parent(&self, tx: &Transaction<'_>, name: &str) -> Result<Row, Failed> {
        let missing = || Error::not_found(format!("there is no parent {name:?}: strata ls lists the snapshots"));
        let row = rows::holder(tx, &self.owner, name)?
            .filter(|row| matches!(row.state, State::Ready | State::Claimed))
            .ok_or_else(missing)?;
        if row.kind != Kind::Committed {
            let kind = row.kind.phrase();
            return Err(Error::invalid(format!("the parent {name:?} is not committed, it is {kind}")).into());
        }
        Ok(row)
    }

    /// Refuses a chain that is too long to be read as one tree after the commit.
    fn check_height(&self, kind: Kind, parents: &[Id]) -> Result<()> {
        let layers = parents.len() + usize::from(!is_bare(kind, !parents.is_empty()));
        match self.backend.capabilities().layers_max {
            Some(most) if layers > most => Err(Error::precondition(format!(
                "it would have {layers} layers, and {} can read at most {most} as one tree: build on fewer layers",
                self.backend.capabilities().name
            ))),
            _ => Ok(()),
        }
    }

    /// Makes row and directory in one transaction. `made` is set to the id of the new directory: the caller removes it
    /// if the transaction fails.
    fn make_in_transaction(
        &self,
        tx: &Transaction<'_>,
        request: &CreateRequest<'_>,
        placement: &Placement,
        worker: &str,
        made: &Cell<Option<Id>>,
    ) -> Result<Vec<Mount>, Failed> {
        let durable = request.flush == Flush::Now;
        let row = self.insert(tx, request, placement, State::Ready, worker, durable)?;
        if durable {
            self.vouch_below(tx, row, &placement.not_durable)?;
        }
        let create = |id| {
            let created = self.backend.create(id, &placement.parents);
            let is_taken = created.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists);
            made.set((!is_taken).then_some(id));
            created
        };
        let id = match placement.bare {
            true => placement.id,
            false => at_free_id(placement.id, create, |taken| another_id(tx, row, taken))?,
        };
        Ok(self.mounts_of(request.kind, &placement.stack(id))?)
    }

    /// Removes the directory of a transaction that was rolled back. The rollback freed the id, so another process may
    /// have made a directory there since. This function therefore removes within a write transaction, which begins
    /// after that process has committed its row. The transaction writes nothing and needs no space.
    fn undo(&self, made: Option<Id>) {
        let Some(id) = made else { return };
        let undone = self.meta.transact(Level::Relaxed, |tx| {
            rows::without_row(tx, &[id])?.into_iter().try_for_each(|id| self.erase(id).map_err(Failed::from))
        });
        if let Err(error) = undone {
            tracing::warn!(%id, error = error.chain(), "what was made for a call that failed is left until a recovery");
        }
    }

    /// Makes the directory of a reserved row, and publishes the snapshot.
    fn make_reserved(
        &self,
        request: &CreateRequest<'_>,
        row: i64,
        placement: &Placement,
        held_by: Option<&str>,
    ) -> Result<Vec<Mount>> {
        let Placement { parent, parents, not_durable, bare, .. } = placement;
        if self.waits(request.flush) {
            self.check_vouchable(not_durable)?;
        }
        let id = match bare {
            true => placement.id,
            false => self.make_at_free_id(row, placement.id, |id| self.create_with_room(id, parents))?,
        };
        let mounts = self.handed_out(request.kind, request.id_map, &placement.stack(id))?;
        if let Some(ids) = request.id_map {
            self.map_root(&mounts, ids, parents)?;
        }
        let needs_sync = self.backend.capabilities().create_needs_sync || request.id_map.is_some();
        let copied = !bare && parent.is_some() && needs_sync;
        if self.waits(request.flush) && (!not_durable.is_empty() || copied) {
            let layer = self.backend.layer(id).filter(|_| not_durable.is_empty());
            let inodes = layer.map(|layer| Inodes::of(&Dir::open(layer.dir)?, FSYNC_INODES_MAX)).transpose()?;
            self.bring_to_disk(id, inodes)?;
        }
        self.meta.transact(self.level(request.flush), |tx| {
            rows::set_state(tx, row, State::Ready, held_by)?;
            if request.flush == Flush::Now {
                if copied && self.waits(request.flush) {
                    vouch::check(tx, row, request.key)?;
                }
                rows::set_durable(tx, row)?;
                self.vouch_below(tx, row, not_durable)?;
            }
            Ok::<_, Failed>(mounts)
        })
    }

    /// Lets the backend make `id`. If the disk is full and removed snapshots still take space, their space is freed and
    /// the backend tries once more. That may take long, but the call would fail otherwise.
    fn create_with_room(&self, id: Id, parents: &[Id]) -> Result<()> {
        let full = match self.backend.create(id, parents) {
            Err(error) if matches!(error.errno(), Some(Errno::NOSPC | Errno::DQUOT)) => error,
            created => return created,
        };
        if self.meta.view(rows::trash)?.is_empty() {
            return Err(full);
        }
        // The half-made snapshot is removed first: on a full disk the database may need its space to record the
        // removals.
        if let Err(error) = self.erase(id).and_then(|()| self.drain_in_turn()) {
            tracing::warn!(%id, error = error.chain(), "the space of removed snapshots cannot be freed");
            return Err(full);
        }
        self.backend.create(id, parents)
    }

    /// Calls `make` with `id`, the id of the reserved `row`. If a directory is in the way, the row gets the next id,
    /// and `make` is called with that. Returns the id that was used.
    pub(super) fn make_at_free_id(&self, row: i64, id: Id, make: impl Fn(Id) -> Result<()>) -> Result<Id> {
        at_free_id(id, make, |taken| self.meta.transact(Level::Relaxed, |tx| another_id(tx, row, taken)))
    }
}

/// Returns true for a snapshot without a directory: a view of a committed snapshot.
fn is_bare(kind: Kind, has_parent: bool) -> bool {
    kind == Kind::View && has_parent
}

/// Calls `make` with `id`; if a directory is in the way, calls it again with the id that `next` returns. Returns the id
/// that was used.
fn at_free_id<E: From<Error>>(
    mut id: Id,
    make: impl Fn(Id) -> Result<()>,
    next: impl Fn(Id) -> Result<Id, E>,
) -> Result<Id, E> {
    for _ in 0..ID_TRIES_MAX {
        match make(id) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => id = next(id)?,
            made => return Ok(made.map(|()| id)?),
        }
    }
    Err(Error::data_loss(format!("{ID_TRIES_MAX} directories up to s/{id} are in the way: run strata gc")).into())
}

/// Gives `row` a new id in place of `taken`, whose directory is debris and goes into the trash.
fn another_id(tx: &Transaction<'_>, row: i64, taken: Id) -> Result<Id, Failed> {
    let next = rows::next_id(tx)?;
    rows::renumber(tx, row, next)?;
    rows::discard_id(tx, taken).map(|()| next)
}
