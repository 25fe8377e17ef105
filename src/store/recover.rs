//! Clearing up: behind processes that died, behind a power cut, behind removals.
//!
//! # Recovery
//! It runs before a process changes the store for the first time, and does nothing unless a lock in `run/` belongs to no
//! living process or the machine was booted since. The disk is listed *before* the database is read: a directory that was
//! there and has no row afterwards is debris, however many others make and remove snapshots meanwhile, because a row
//! comes before its directory and ids are never used twice. Nothing is deleted by recovery itself; a transaction puts
//! it into the trash first.
//!
//! # Trash
//! `remove` ends with a row in `trash`. The space is freed in place by whoever drains it, one at a time.

use std::time::{Duration, Instant};

use rusqlite::Transaction;

use super::lock::{self, Dead};
use super::meta::{Failed, Level};
use super::rows::{self, State};
use super::{Flush, Store};
use crate::error::{Context, ErrorKind, Result};
use crate::id::Id;
use crate::snapshotter::Kind;

/// Changes with every boot of the kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What draining the trash did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Freed {
    /// Snapshots whose space is free now.
    pub snapshots: u64,
    /// Snapshots that still wait.
    pub waiting: u64,
}

/// Clears up behind processes that died and behind a power cut.
pub(super) fn recover(store: &Store) -> Result<()> {
    let boot = std::fs::read_to_string(BOOT_ID).at("read", BOOT_ID)?.trim().to_owned();
    let dead = Dead::find(&store.run())?;
    let known = store.meta.view(|tx| rows::setting(tx, "boot_id"))?;
    let booted = known.as_deref() != Some(&boot);
    if !booted && dead.is_empty() {
        return Ok(());
    }
    let on_disk = store.backend.inventory()?;
    // A worker names itself in `run/` before it writes a row, so these lookups come after the rows were read.
    let mut at_work: Vec<String> = store.meta.view(rows::in_work)?.into_iter().map(|(_, _, worker)| worker).collect();
    at_work.retain(|worker| dead.includes(&store.run(), worker));
    let bare = store.meta.transact(Level::Durable, |tx| {
        if let Some(last) = on_disk.iter().max() {
            rows::skip_ids(tx, *last)?;
        }
        end_work(tx, &at_work)?;
        // Whoever was faster has done it, and its own new rows are not durable yet.
        let booted = rows::setting(tx, "boot_id")?.as_deref() != Some(&boot);
        if booted {
            drop_lost(tx)?;
        }
        let rowless = rows::without_row(tx, &on_disk)?;
        rowless.into_iter().try_for_each(|id| rows::discard_id(tx, id))?;
        let bare = if booted { rows::with_own_directory(tx)? } else { Vec::new() };
        rows::set_setting(tx, "boot_id", &boot).map(|()| bare)
    })?;
    make_again(store, bare, &on_disk)?;
    dead.bury()
}

/// Ends the work of the workers that are `gone`.
fn end_work(tx: &Transaction<'_>, gone: &[String]) -> Result<(), Failed> {
    for (row, state, worker) in rows::in_work(tx)? {
        if !gone.contains(&worker) {
            continue;
        }
        match state {
            State::Creating | State::Reserved => rows::discard(tx, row)?,
            State::Committing | State::Ready => rows::set_state(tx, row, State::Ready, None)?,
        }
    }
    Ok(())
}

/// After a boot: what nobody waited for may be incomplete, and so is all that stands on it.
fn drop_lost(tx: &Transaction<'_>) -> Result<(), Failed> {
    // Parents may go before their children within this transaction.
    tx.pragma_update(None, "defer_foreign_keys", true)?;
    for row in rows::lost(tx)? {
        super::image::drop_over(tx, row)?;
        rows::discard(tx, row)?;
    }
    Ok(())
}

/// Makes the directories again that a power cut took: strategies that publish an active snapshot without a sync rely on
/// it, for there was nothing acknowledged in them but the directory itself.
fn make_again(store: &Store, bare: Vec<i64>, on_disk: &[Id]) -> Result<()> {
    for row in bare {
        let found = store.meta.view(|tx| {
            let row = match rows::by_number(tx, row) {
                Err(Failed::Sqlite(rusqlite::Error::QueryReturnedNoRows)) => return Ok(None),
                row => row?,
            };
            let parents = rows::chain(tx, row.parent)?;
            Ok(Some((row, parents)))
        })?;
        let Some((row, parents)) = found else { continue };
        if on_disk.contains(&row.id) {
            continue;
        }
        if row.kind == Kind::Committed {
            tracing::error!(name = row.name, id = %row.id, "a committed snapshot is missing on disk");
            continue;
        }
        match store.backend.create(row.id, &parents) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    Ok(())
}

/// Frees what is left of one id that is in the trash.
pub(super) fn free(store: &Store, id: Id) -> Result<()> {
    store.backend.remove(id)?;
    store.meta.transact(Level::Relaxed, |tx| rows::forget(tx, id))
}

impl Store {
    /// Frees the space of removed snapshots, for at most `limit` (one is always finished), unless somebody is at it.
    ///
    /// # Errors
    /// The first failure; the others were tried all the same.
    pub fn drain(&self, limit: Option<Duration>) -> Result<Freed> {
        let started = Instant::now();
        let mut freed = Freed::default();
        let mut first = Ok(());
        let trash = self.meta.view(rows::trash)?;
        if trash.is_empty() {
            return Ok(freed);
        }
        let drainer = lock::drainer(&self.run())?;
        for id in trash {
            if drainer.is_none() || limit.is_some_and(|limit| freed.snapshots > 0 && started.elapsed() >= limit) {
                freed.waiting += 1;
                continue;
            }
            match free(self, id) {
                Ok(()) => freed.snapshots += 1,
                Err(error) => {
                    freed.waiting += 1;
                    first = first.and(Err(error.context(format!("freeing the space of the removed snapshot s/{id}"))));
                }
            }
        }
        first.map(|()| freed)
    }

    /// Removes the snapshots that images needed and nothing uses any more, and frees all space that can be freed. What a
    /// user or a client named stays.
    ///
    /// # Errors
    /// The first failure; the rest was tried all the same.
    pub fn gc(&self) -> Result<Freed> {
        self.collect()?;
        self.drain(None)
    }

    /// The first part of [`Store::gc`]: afterwards the space waits for [`Store::drain`].
    ///
    /// # Errors
    /// What the database reports.
    pub fn collect(&self) -> Result<()> {
        recover(self)?;
        self.begin()?;
        self.meta.transact(self.level(Flush::Now), |tx| {
            while let unused @ [_, ..] = rows::unused(tx, &self.owner)?.as_slice() {
                unused.iter().try_for_each(|row| rows::discard(tx, *row))?;
            }
            Ok::<_, Failed>(())
        })
    }
}
