//! Recovery after crashes and power cuts, and freeing the space of removed snapshots.
//!
//! # Recovery
//! Recovery runs before a process changes the store for the first time. Only one recovery runs at a time. It has
//! nothing to do unless a lock in `run/` or a row in work belongs to a process that has died, or the machine was booted
//! since.
//!
//! The disk is listed *before* the database is read. A directory that was listed and has no row is debris, even if
//! other processes create and remove snapshots meanwhile. The reason: a row is written before its directory is made, or
//! in the same write transaction, and the write transaction of recovery waits for that one. Ids are never used twice.
//! Recovery itself deletes only the lock files of dead processes, the mount points of containers whose strata process
//! died, and remains of a snapshot that it makes again. A transaction puts everything else into the trash.
//!
//! # Trash
//! `remove` ends with a row in `trash`. Later one process at a time drains the trash: it deletes the directories where
//! they are.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::claim::{MOUNT_POINTS, take_away_mount_points};
use super::db::Transaction;
use super::db::durability;
use super::db::images;
use super::db::labels as stored_labels;
use super::db::meta::{Failed, Level};
use super::db::rows::{self, Row, State};
use super::lock::{self, Dead};
use super::{Flush, Store, reserve, tar_split_files, vouch};
use crate::error::{Context, ErrorKind, Result};
use crate::id::Id;
use crate::snapshotter::Kind;
use crate::task::Cancel;
use crate::tree::{Dir, walk};

/// File with an id that changes with every boot of the kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Result of draining the trash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Freed {
    /// Snapshots whose space is free now.
    pub snapshots: u64,
    /// Snapshots whose space is still to be freed.
    pub waiting: u64,
}

/// Numbers of snapshots in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Snapshots, by kind.
    pub snapshots: BTreeMap<Kind, u64>,
    /// Removed snapshots whose space is not free yet, of all owners.
    pub trash: Vec<Id>,
}

/// Recovers the store after crashes and a power cut. Returns an id that no snapshot had before the call.
pub(super) fn recover(store: &Store) -> Result<Id> {
    let _alone = lock::recovery(&store.run())?;
    let boot = std::fs::read_to_string(BOOT_ID).at("read", BOOT_ID)?.trim().to_owned();
    let dead = Dead::find(&store.run())?;
    let (known, in_work, mut unvouched, free) = store.meta.view(|tx| {
        let known = (rows::setting(tx, "boot_id")?, rows::in_work(tx)?);
        Ok((known.0, known.1, durability::unvouched(tx)?, rows::first_free_id(tx)?))
    })?;
    // A worker makes its file in `run/` before it writes a row. So the rows are read first, and `run/` is looked at
    // afterwards.
    let mut gone = Vec::new();
    for (_, worker) in &in_work {
        if dead.includes(&store.run(), worker)? {
            gone.push(worker.clone());
        }
    }
    let is_dead = |worker: &str| dead.includes(&store.run(), worker);
    let nobodys = unvouched.iter().map(|row| store.is_nobodys(row, &is_dead)).collect::<Result<Vec<_>>>()?;
    let mut nobodys = nobodys.into_iter();
    unvouched.retain(|_| nobodys.next() == Some(true));
    let booted = known.as_deref() != Some(&boot);
    if !booted && dead.is_empty() && gone.is_empty() && unvouched.is_empty() {
        return Ok(free);
    }
    in_work.iter().filter(|(_, worker)| gone.contains(worker)).for_each(|(row, _)| try_to_take_away(store, row));
    let mut on_disk = store.backend.inventory()?;
    on_disk.extend(tar_split_files::inventory(&store.root)?);
    let expected = store.meta.transact(Level::Durable, |tx| {
        if let Some(last) = on_disk.iter().max() {
            rows::skip_ids(tx, *last)?;
        }
        for (row, worker) in rows::in_work(tx)? {
            match gone.contains(&worker) {
                false => {}
                true if row.is_unfinished_layer() => rows::discard(tx, row.row)?,
                true => end(tx, &row)?,
            }
        }
        if booted {
            drop_lost(tx)?;
        }
        vouch::drop_unvouched(store, tx, &unvouched, &|worker, _| gone.iter().any(|name| name == worker))?;
        let rowless = rows::without_row(tx, &on_disk)?;
        rowless.into_iter().try_for_each(|id| rows::discard_id(tx, id))?;
        rows::with_own_directory(tx)
    })?;
    expected.into_iter().for_each(|id| try_to_make_again(store, id, booted));
    // The boot id is written last: if this recovery crashes, the next one does all of the work again.
    if booted {
        store.meta.transact(Level::Durable, |tx| rows::set_setting(tx, "boot_id", &boot))?;
    }
    dead.bury().map(|()| free)
}

/// Puts directories without a row into the trash. The disk is listed before the database is read, as in [`recover`].
pub(super) fn discard_rowless(store: &Store) -> Result<()> {
    let on_disk = store.backend.inventory()?;
    store.meta.transact(Level::Durable, |tx| {
        rows::without_row(tx, &on_disk)?.into_iter().try_for_each(|id| rows::discard_id(tx, id))
    })
}

/// Ends the work on a row: an unpublished row goes into the trash, a claimed row becomes ready.
fn end(tx: &Transaction<'_>, row: &Row) -> Result<(), Failed> {
    match row.state {
        State::Creating | State::Reserved => rows::discard(tx, row.row),
        State::Claimed | State::Ready if row.is_unfinished_layer() => rows::unclaim(tx, row.row),
        State::Claimed | State::Ready => {
            stored_labels::set_label(tx, row.row, MOUNT_POINTS, "")?;
            rows::set_state(tx, row.row, State::Ready, None)
        }
    }
}

/// Removes the mount points that a dead container left in `row`. A failure is only logged: the mount points are empty
/// directories and files, and the snapshot can be used.
fn try_to_take_away(store: &Store, row: &Row) {
    if row.is_unfinished_layer() || row.kind != Kind::Active {
        return;
    }
    if let Err(error) = take_away_mount_points(store, row) {
        tracing::error!(name = row.name, why = error.chain(), "the mount points of a container are left");
    }
}

/// Drops the rows that are not durable after a boot, with their descendants: their data may be incomplete.
fn drop_lost(tx: &Transaction<'_>) -> Result<(), Failed> {
    // Parents may go before their children within this transaction.
    tx.pragma_update(None, "defer_foreign_keys", true)?;
    for row in rows::lost(tx)? {
        images::drop_over(tx, row)?;
        rows::discard(tx, row)?;
    }
    durability::forget_doubts(tx)
}

/// Makes the directory of `id` again. A failure is only logged (the parent is lost, the disk is full, something else is
/// at that place): other snapshots can be used, and this one can be removed.
fn try_to_make_again(store: &Store, id: Id, booted: bool) {
    if let Err(error) = make_again_alone(store, id, booted) {
        tracing::error!(%id, why = error.chain(), "a snapshot is not whole on disk");
    }
}

/// Makes the directory of `id` again if recovery could not, because the disk was full. Takes the lock of recovery,
/// because two processes at this work would remove each other's directory.
pub(super) fn make_again(store: &Store, id: Id) -> Result<()> {
    let dir = store.dir_of(id);
    if dir.try_exists().at("look for", &dir)? {
        return Ok(());
    }
    let _alone = lock::recovery(&store.run())?;
    make_again_alone(store, id, false)
}

/// Makes the directory of `id` again if a power cut took it or a part of it. Strategies without `create_needs_sync`
/// rely on this: they publish an active snapshot before its directory is on disk. Data that was written into the
/// snapshot was never acknowledged.
fn make_again_alone(store: &Store, id: Id, booted: bool) -> Result<()> {
    let dir = store.dir_of(id);
    let is_there = dir.try_exists().at("look for", &dir)?;
    if is_there && !booted {
        return Ok(());
    }
    let found = store.meta.view(|tx| match rows::by_id(tx, id)? {
        None => Ok(None),
        Some(row) => durability::chain(tx, row.parent).map(|parents| Some((row, parents))),
    })?;
    match found {
        // The snapshot was removed meanwhile.
        None => Ok(()),
        Some((row, parents)) if is_there => match row.kind {
            Kind::Active => store.backend.complete_create(id, &parents),
            Kind::View | Kind::Committed => Ok(()),
        },
        Some((row, parents)) if !may_be_missing(store, &row, &parents) => {
            tracing::error!(name = row.name, %id, "a snapshot that was durable is missing on disk");
            Ok(())
        }
        Some((row, parents)) => {
            tracing::warn!(name = row.name, %id, "nothing was left of a snapshot on disk: it is as new again");
            // Remains of an earlier attempt may be in the way.
            store.backend.remove(id)?;
            store.backend.create(id, &parents)?;
            store.map_root_again(&row, &parents)
        }
    }
}

/// Returns true if a power cut can have taken the directory of a durable row.
pub(super) fn may_be_missing(store: &Store, row: &Row, parents: &[Id]) -> bool {
    let needs_sync = store.backend.capabilities().create_needs_sync || row.id_map.is_some();
    let synced = needs_sync && !parents.is_empty();
    row.kind != Kind::Committed && !synced
}

impl Store {
    /// Runs a recovery if no process may ever mark the committed snapshot `row` durable. The recovery drops `row` and
    /// its descendants, unless a living process needs one of them.
    pub(super) fn drop_nobodys(&self, row: i64) -> Result<()> {
        let found = self.meta.view(|tx| durability::unvouched_row(tx, row))?;
        let Some(found) = found else { return Ok(()) };
        let living = lock::living(&self.run())?;
        if self.is_nobodys(&found, &|worker| Ok(!living.iter().any(|name| name == worker)))? {
            recover(self)?;
        }
        Ok(())
    }

    /// Ends this process's work on `rows`, which it did not publish: their directories are removed, and a claimed
    /// snapshot becomes ready again. If the database cannot be written now (the disk may be full), the next change of
    /// this process tries again, or a recovery after its end.
    pub(super) fn let_go(&self, rows: &[i64]) {
        let mut all = std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner));
        all.extend(rows);
        if all.is_empty() {
            return;
        }
        if let Err(error) = self.end_all(&all) {
            tracing::warn!(error = error.chain(), "the end of a call could not be noted yet");
            self.ended.lock().unwrap_or_else(PoisonError::into_inner).append(&mut all);
        }
    }

    fn end_all(&self, rows: &[i64]) -> Result<()> {
        let rows: Vec<Row> = self.meta.view(|tx| {
            let found = rows.iter().filter_map(|row| rows::by_number(tx, *row).transpose());
            found.collect::<Result<_, _>>()
        })?;
        // The space is freed first, because the database may need it. No other process touches the directory of an
        // unfinished row.
        let cleared = |row: &Row| matches!(row.state, State::Creating | State::Reserved) && self.erase(row.id).is_ok();
        let rows: Vec<_> = rows.into_iter().map(|row| (cleared(&row), row)).collect();
        self.meta.transact(Level::Relaxed, |tx| {
            rows.iter().try_for_each(|(cleared, row)| if *cleared { rows::delete(tx, row.row) } else { end(tx, row) })
        })
    }

    /// Begins a change that only removes: recovers the store, as [`Store::begin`] does, but announces no worker. A
    /// removal leaves no row in work, so it needs no lock file, for which a full disk may have no inode.
    pub(super) fn begin_to_remove(&self) -> Result<()> {
        if self.worker_name().is_some() {
            self.let_go(&[]);
        } else if self.since.load(Ordering::Relaxed) == u64::MAX {
            self.since.fetch_min(recover(self)?.0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Frees the space of removed snapshots, until `limit` is over or `cancel` becomes true. Does nothing while another
    /// process frees space. The function can stop within a snapshot; the next call frees the rest. Each call makes
    /// progress.
    ///
    /// # Errors
    /// The first failure; the other snapshots were tried all the same.
    pub fn drain(&self, limit: Option<Duration>, cancel: Option<&Cancel>) -> Result<Freed> {
        if self.meta.view(rows::trash)?.is_empty() {
            return Ok(Freed::default());
        }
        let started = Instant::now();
        let stop = || cancel.is_some_and(Cancel::is_requested) || limit.is_some_and(|limit| started.elapsed() >= limit);
        self.drain_as(lock::drainer(&self.run())?.as_ref(), &stop)
    }

    /// Frees the space of all snapshots that were removed before the call. Waits while another process frees space.
    pub(super) fn drain_in_turn(&self) -> Result<Freed> {
        self.drain_as(Some(&lock::drainer_in_turn(&self.run())?), &|| false)
    }

    /// Does the work of [`Store::drain`]. Without the lock `drainer`, only counts the removed snapshots.
    fn drain_as(&self, drainer: Option<&OwnedFd>, stop: &dyn Fn() -> bool) -> Result<Freed> {
        let (mut freed, mut first, mut empty) = (Freed::default(), Ok(()), Vec::new());
        let mut got_on = false;
        for id in self.meta.view(rows::trash)? {
            if drainer.is_none() || got_on && stop() {
                freed.waiting += 1;
                continue;
            }
            match self.with_reserve(|| self.erase_until(id, stop)) {
                Ok(is_gone) => {
                    got_on = true;
                    freed.snapshots += u64::from(is_gone);
                    freed.waiting += u64::from(!is_gone);
                    empty.extend(is_gone.then_some(id));
                }
                Err(error) => {
                    freed.waiting += 1;
                    first = first.and(Err(error.context(format!("freeing the space of the removed snapshot s/{id}"))));
                }
            }
        }
        // After a crash before this point, the next drain looks for the freed directories once more.
        self.with_reserve(|| {
            self.meta.transact(Level::Relaxed, |tx| empty.iter().try_for_each(|id| rows::forget(tx, *id)))
        })?;
        if !empty.is_empty() {
            reserve::keep(&self.root);
        }
        first.map(|()| freed)
    }

    /// Returns how many snapshots this owner has, and how many removed snapshots of any owner still take space.
    ///
    /// # Errors
    /// Errors of the database.
    pub fn counts(&self) -> Result<StoreCounts> {
        self.meta.view(|tx| Ok(StoreCounts { snapshots: rows::count(tx, &self.owner)?, trash: rows::trash(tx)? }))
    }

    /// Returns the allocated bytes of `id`, a removed snapshot; 0 once its space is free. The function walks the tree.
    /// On btrfs, bytes that are shared with other snapshots are counted too.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn bytes_of_removed(&self, id: Id) -> Result<u64> {
        let Some(layer) = self.backend.layer(id) else { return Ok(0) };
        match Dir::open(&layer.dir).and_then(|dir| walk::usage(&dir)) {
            // Another process is freeing the snapshot.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            space => space.map(|space| space.size_bytes),
        }
    }

    /// Removes the layers of images that nothing uses any more, and frees all space that can be freed. Snapshots that a
    /// user or a client named stay.
    ///
    /// # Errors
    /// The first failure; the other snapshots were tried all the same.
    pub fn gc(&self) -> Result<Freed> {
        self.collect()?;
        self.drain(None, None)
    }

    /// Does the first part of [`Store::gc`]. [`Store::drain`] frees the space.
    ///
    /// # Errors
    /// Errors of the database.
    pub fn collect(&self) -> Result<()> {
        self.with_reserve(|| self.try_to_collect())
    }

    fn try_to_collect(&self) -> Result<()> {
        self.begin_to_remove()?;
        recover(self)?;
        self.meta.transact(self.level(Flush::Now), |tx| {
            while let unused @ [_, ..] = rows::unused(tx, &self.owner)?.as_slice() {
                unused.iter().try_for_each(|row| rows::discard(tx, *row))?;
            }
            Ok::<_, Failed>(())
        })
    }
}
