//! Making active snapshots and views: reserve the key, make the directory, publish.

use rusqlite::Transaction;

use super::meta::{Failed, Level};
use super::rows::{self, New, Origin, Row, State};
use super::{Flush, Store};
use crate::backend::FSYNC_INODES_MAX;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Id, check_key};
use crate::mount::Mount;
use crate::snapshotter::{Kind, Labels};
use crate::tree::Dir;
use crate::tree::walk::Inodes;

/// How often a number is tried that turns out to be on disk already; recovery skips those, so one is a coincidence.
const ID_TRIES_MAX: usize = 1000;

/// A row that holds a key while its directory is made.
#[derive(Debug)]
struct Reserved {
    row: i64,
    id: Id,
    parent: Option<i64>,
    /// Nearest first.
    parents: Vec<Id>,
    /// Whether one of them may still be lost with the power.
    sand: bool,
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

    /// Makes the active snapshot `key` for this process to put a layer of an image together in. Unlike one of
    /// [`Snapshotter::prepare`] it does not wait for the disk, and goes away if the process ends before it is committed.
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
        let worker = self.begin()?;
        let reserved = self.meta.transact(Level::Relaxed, |tx| {
            let reserved = self.reserve(tx, kind, key, parent, origin, &worker)?;
            rows::set_labels(tx, reserved.row, labels).map(|()| reserved)
        })?;
        let held_by = (origin == Origin::Image).then_some(worker.as_str());
        self.furnish(kind, &reserved, flush, held_by).inspect_err(|_| self.let_go(&[reserved.row]))
    }

    fn reserve(
        &self,
        tx: &Transaction<'_>,
        kind: Kind,
        key: &str,
        parent: &str,
        origin: Origin,
        worker: &str,
    ) -> Result<Reserved, Failed> {
        if rows::holder(tx, &self.owner, key)?.is_some() {
            return Err(Error::already_exists(format!("the key {key:?} is in use")).into());
        }
        let parent = if parent.is_empty() { None } else { Some(self.parent(tx, parent)?.row) };
        let parents = rows::chain(tx, parent)?;
        let sand = rows::stands_on_sand(tx, parent)?;
        self.check_height(kind, &parents)?;
        let id = rows::next_id(tx)?;
        let row = rows::insert(
            tx,
            &New {
                id,
                owner: &self.owner,
                name: key,
                kind,
                state: State::Creating,
                parent,
                worker: Some(worker),
                durable: false,
                origin,
            },
        )?;
        Ok(Reserved { row, id, parent, parents, sand })
    }

    fn parent(&self, tx: &Transaction<'_>, name: &str) -> Result<Row, Failed> {
        let missing = || Error::not_found(format!("there is no parent {name:?}: strata ls lists the snapshots"));
        let row = rows::holder(tx, &self.owner, name)?
            .filter(|row| matches!(row.state, State::Ready | State::Claimed))
            .ok_or_else(missing)?;
        if row.kind != Kind::Committed {
            let kind = row.kind;
            return Err(Error::invalid(format!("the parent {name:?} is not committed, it is {kind}")).into());
        }
        Ok(row)
    }

    /// Refuses what could be written to and committed, but not read as a whole.
    fn check_height(&self, kind: Kind, parents: &[Id]) -> Result<()> {
        let bare = kind == Kind::View && !parents.is_empty();
        let layers = parents.len() + usize::from(!bare);
        match self.backend.capabilities().layers_max {
            Some(most) if layers > most => Err(Error::precondition(format!(
                "it would have {layers} layers, and {} can read at most {most} as one tree: build on fewer layers",
                self.backend.capabilities().name
            ))),
            _ => Ok(()),
        }
    }

    /// The work behind a reserved row, and its publication.
    fn furnish(&self, kind: Kind, reserved: &Reserved, flush: Flush, held_by: Option<&str>) -> Result<Vec<Mount>> {
        let Reserved { row, parent, parents, sand, .. } = reserved;
        // A view of something has nothing of its own on disk.
        let bare = kind == Kind::View && parent.is_some();
        let id =
            if bare { reserved.id } else { self.at_free_id(*row, reserved.id, |id| self.backend.create(id, parents))? };
        let mut stack = vec![id];
        stack.extend(parents);
        let mounts = self.mounts_of(kind, &stack)?;
        let copied = !bare && parent.is_some() && self.backend.capabilities().create_needs_sync;
        if self.waits(flush) && (*sand || copied) {
            let layer = self.backend.layer(id).filter(|_| !sand);
            let inodes = layer.map(|layer| Inodes::of(&Dir::open(layer.dir)?, FSYNC_INODES_MAX)).transpose()?;
            self.bring_to_disk(id, inodes)?;
        }
        self.meta.transact(self.level(flush), |tx| {
            rows::set_state(tx, *row, State::Ready, held_by)?;
            if flush == Flush::Now {
                rows::set_durable(tx, *row)?;
                rows::ancestors_durable(tx, *row)?;
            }
            Ok::<_, Failed>(mounts)
        })
    }

    /// Lets `make` make something at `id`, which the reserved `row` has; where something is in the way, at the next id,
    /// which is the row's then. Answers with the one that it was.
    pub(super) fn at_free_id(&self, row: i64, mut id: Id, make: impl Fn(Id) -> Result<()>) -> Result<Id> {
        for _ in 0..ID_TRIES_MAX {
            match make(id) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return made.map(|()| id),
            }
            id = self.meta.transact(Level::Relaxed, |tx| {
                let next = rows::next_id(tx)?;
                rows::renumber(tx, row, next)?;
                rows::discard_id(tx, id).map(|()| next)
            })?;
        }
        Err(Error::data_loss(format!("{ID_TRIES_MAX} directories up to s/{id} are in the way: run strata gc")))
    }
}
