//! Decides which process may call a row durable, and removes the rows that no process may call durable any more.
//!
//! # What the kernel tells
//! A write that fails after `write(2)` returned is noted in the file (`mapping->wb_err`) and in the file system
//! (`sb->s_wb_err`); `fsync` and `syncfs` (since Linux 5.8) report it. Each open descriptor remembers the state that it
//! saw when it was opened and reports each later error once. A descriptor that is opened after an error reports the
//! error only if no descriptor has reported it yet. The page stays in memory and counts as clean, so a second sync
//! succeeds while the disk has other data. If ext4, xfs or btrfs cannot write its own structures, it stops all writing
//! until the next mount (the journal is aborted, the file system shut down, the transaction aborted). A failure to
//! write a file's content is reported in the way described here only.
//!
//! # The rule
//! A successful `syncfs` shows that the data is on disk which was written after its descriptor was opened. It shows
//! nothing about older data, because another descriptor may already have reported an error of older data. So a row that
//! is not durable carries a *voucher*: the worker that wrote the row, and the id at which the worker wrote. This worker
//! may mark the row durable, and so may a handle that was opened before the id was given.
//!
//! If a sync fails, [`NOBODY`] replaces the voucher of every row that the failure can concern, before the call returns:
//! all rows that are not durable, and all active snapshots, whose content is never durable. A row whose writer has died
//! has no voucher either. A row without a voucher is never marked durable. The next recovery drops such layers, and the
//! next import writes them again. A commit refuses such an active snapshot until the next boot; after the boot, the
//! snapshot shows what is on disk.
//!
//! The change of the vouchers needs no sync: only processes of this boot need the new vouchers, and these processes
//! read the database from the page cache. A boot removes every row that is not durable in any case.
//!
//! # References
//! The Linux kernel, `Documentation/core-api/errseq.rst`, `fs/sync.c`, `mm/filemap.c`; `syncfs(2)`, `fsync(2)`.

use std::os::fd::AsFd as _;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::db::Transaction;
use super::db::durability::{self, Unvouched};
use super::db::images;
use super::db::meta::{self, Failed, Level};
use super::db::rows;
use super::{Durability, Flush, Store, lock, tar_split_files};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::id::Id;
use crate::snapshotter::Kind;
use crate::store_files;
use crate::tree::Dir;
use crate::tree::walk::Inodes;

/// The voucher of a row that no process may mark durable.
pub(super) const NOBODY: &str = "";

/// Maximum time to wait until another process has brought a parent to disk: the other process finishes its image first.
const OTHERS_WAIT: Duration = Duration::from_secs(120);

/// Pause between two looks at the parent.
const OTHERS_POLL: Duration = Duration::from_millis(20);

/// Fails if a sync has failed since `row` was made: then the row must not be published.
pub(super) fn check(tx: &Transaction<'_>, row: i64, name: &str) -> Result<(), Failed> {
    if durability::is_doubtful(tx, row)? { Err(doubtful(name).into()) } else { Ok(()) }
}

fn doubtful(name: &str) -> Error {
    Error::data_loss(format!(
        "a sync of the disk failed before {name:?} was on it, and what of it was lost cannot be known before the next \
         boot: look at the disk (dmesg), then write it again (strata diff {name} --tar FILE shows what can be read)"
    ))
}

/// Returns the error for rows that the caller may not mark durable.
fn not_mine(not_durable: &[Unvouched]) -> Error {
    let ids: Vec<String> = not_durable.iter().map(|row| format!("s/{}", row.id)).collect();
    let ids = ids.join(", ");
    if not_durable.iter().any(|row| row.worker().is_none()) {
        let why = "a sync of the disk failed before it was on it: look at the disk (dmesg), then import or build again";
        return Error::new(ErrorKind::Io, format!("{ids}: {why}"));
    }
    let why = "another process has not brought it to disk: try again when that is done";
    Error::new(ErrorKind::Unavailable, format!("{ids}: {why}"))
}

/// Drops `rows`, which have no voucher, with their descendants. A row stays if a living process needs it or one of its
/// descendants, or if a descendant is mounted.
pub(super) fn drop_unvouched(
    store: &Store,
    tx: &Transaction<'_>,
    rows: &[Unvouched],
    gone: &Gone<'_>,
) -> Result<(), Failed> {
    // Parents may go before their children within this transaction.
    tx.pragma_update(None, "defer_foreign_keys", true)?;
    for row in rows {
        let Some(row) = rows::by_id(tx, Id(row.id.unsigned_abs()))? else { continue };
        let tree = rows::with_descendants(tx, row.row)?;
        let needed = |row: &rows::Row| -> Result<bool, Failed> {
            let mounted = row.kind == Kind::Active && store.check_not_mounted(row.id, "").is_err();
            Ok(mounted || durability::worker_of(tx, row.row)?.is_some_and(|worker| !gone(&worker, row)))
        };
        let needed = tree.iter().map(needed).collect::<Result<Vec<_>, _>>()?.contains(&true);
        for row in tree.iter().filter(|_| !needed) {
            tracing::warn!(name = row.name, id = %row.id, "it was not on disk when a sync failed or its writer ended");
            images::drop_over(tx, row.row)?;
            rows::discard(tx, row.row)?;
        }
    }
    Ok(())
}

/// Returns true if a worker no longer needs a row.
type Gone<'a> = dyn Fn(&str, &rows::Row) -> bool + 'a;

impl Store {
    /// Returns the voucher of a row that `worker`, this process, writes at `id`. Only this process may mark the row
    /// durable, after it has brought the row's data to disk.
    pub(super) fn voucher(worker: &str, id: Id) -> String {
        format!("{worker} {id}")
    }

    /// Returns true if this handle may mark `row` durable after a successful sync.
    fn may_vouch(&self, row: &Unvouched) -> bool {
        let own = |worker: &str| self.worker_name().as_deref() == Some(worker);
        let seen_whole = |id: u64| id >= self.since.load(Ordering::Relaxed);
        self.durability == Durability::None || row.writer().is_some_and(|(worker, id)| seen_whole(id) || own(worker))
    }

    /// Returns true if no process may ever mark `row` durable; `dead` returns true for workers that have died.
    pub(super) fn is_nobodys(&self, row: &Unvouched, dead: &dyn Fn(&str) -> Result<bool>) -> Result<bool> {
        match row.worker() {
            _ if self.durability == Durability::None => Ok(false),
            Some(worker) => dead(worker),
            None => Ok(true),
        }
    }

    /// Fails if this handle may not mark all of `not_durable` durable. The rows are the ancestors of a snapshot that
    /// shall be durable.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) fn check_vouchable(&self, not_durable: &[Unvouched]) -> Result<()> {
        if not_durable.iter().all(|row| self.may_vouch(row)) { Ok(()) } else { Err(not_mine(not_durable)) }
    }

    /// Fails if `not_durable` is not empty and the store waits for the disk.
    ///
    /// # Errors
    /// `Unavailable`, or `Io` where a sync failed.
    pub(super) fn check_durable(&self, not_durable: &[Unvouched]) -> Result<()> {
        if not_durable.is_empty() || !self.waits(Flush::Now) { Ok(()) } else { Err(not_mine(not_durable)) }
    }

    /// Records that `not_durable`, ancestors of `row`, are on disk. Fails if one of them has lost its voucher
    /// meanwhile.
    pub(super) fn vouch_below(&self, tx: &Transaction<'_>, row: i64, not_durable: &[Unvouched]) -> Result<(), Failed> {
        if not_durable.is_empty() {
            return Ok(());
        }
        durability::vouch(tx, not_durable)?;
        match durability::ancestry(tx, Some(row))?.not_durable.as_slice() {
            left if left.iter().any(|row| not_durable.iter().any(|below| below.id == row.id)) => {
                Err(not_mine(left).into())
            }
            _ => Ok(()),
        }
    }

    /// Brings every snapshot that this process made with [`Flush::Later`] to disk: one `syncfs`, one durable
    /// transaction. Other processes bring their own snapshots to disk.
    ///
    /// # Errors
    /// Errors of the file system: then none of the rows is ever marked durable.
    pub fn sync(&self) -> Result<()> {
        // The sync covers only rows that were there before it began.
        let mut known = self.meta.view(durability::unvouched)?;
        known.retain(|row| self.may_vouch(row));
        // `owes_sync` is looked at even if the table lists no row of ours: another process may have marked our rows
        // durable without having seen our write error.
        if !self.owes_sync.swap(false, Ordering::SeqCst) && known.is_empty() {
            return Ok(());
        }
        if self.waits(Flush::Now) {
            self.sync_file_system().inspect_err(|_| self.owes_sync.store(true, Ordering::SeqCst))?;
        }
        self.vouch(&known)
    }

    /// Records that `known` are on disk.
    pub(super) fn vouch(&self, known: &[Unvouched]) -> Result<()> {
        self.meta.transact(self.level(Flush::Now), |tx| durability::vouch(tx, known))
    }

    /// As [`Store::sync`], and waits for other processes that are about to bring `top` or ancestors of it to disk.
    ///
    /// # Errors
    /// As [`Store::sync`]; `Unavailable` if no process has marked `top` and its ancestors durable.
    pub(super) fn sync_below(&self, top: Option<&str>) -> Result<()> {
        let started = Instant::now();
        loop {
            self.sync()?;
            let not_durable = match top {
                Some(name) => self.meta.view(|tx| {
                    let row = rows::visible(tx, self.owner(), name)?;
                    durability::ancestry(tx, Some(row.row)).map(|ancestry| ancestry.not_durable)
                })?,
                None => return Ok(()),
            };
            let Err(refusal) = self.check_durable(&not_durable) else { return Ok(()) };
            let living = lock::living(&self.run())?;
            let is_awaited =
                |row: &Unvouched| row.worker().is_some_and(|worker| living.iter().any(|name| name == worker));
            if !not_durable.iter().all(is_awaited) || started.elapsed() >= OTHERS_WAIT {
                return Err(refusal);
            }
            thread::sleep(OTHERS_POLL);
        }
    }

    /// Ends an import or a build that failed. The finished layers are brought to disk, so that the next import finds
    /// them; if that fails, they are dropped. The caller reports its own error, not one of this function.
    pub fn settle(&self) {
        if !self.owes_sync.load(Ordering::SeqCst) {
            return;
        }
        // No process can vouch later for data that this sync cannot bring to disk.
        let synced = self.sync();
        if let Err(error) = self.drop_own().and(synced) {
            tracing::warn!(error = error.chain(), "layers that are not on disk are left to the next process");
        }
    }

    /// Drops the layers that have lost their voucher because a sync failed.
    fn drop_own(&self) -> Result<()> {
        self.owes_sync.store(false, Ordering::SeqCst);
        let mine = self.worker_name();
        self.meta.transact(Level::Relaxed, |tx| {
            let mut rows = durability::unvouched(tx)?;
            rows.retain(|row| row.worker().is_none());
            // A layer that is held for an image is not needed once the image gets no name. An active snapshot in which
            // a layer is put together is still needed.
            let gone = |worker: &str, row: &rows::Row| mine.as_deref() == Some(worker) && row.kind == Kind::Committed;
            drop_unvouched(self, tx, &rows, &gone)
        })
    }

    /// Brings the data of `id` to disk: its `inodes`, or else the whole file system of the store.
    ///
    /// # Errors
    /// Only errors of a sync. If a directory cannot be opened for `fsync`, the whole file system is synced instead.
    pub(super) fn bring_to_disk(&self, id: Id, inodes: Option<Inodes>) -> Result<()> {
        match inodes {
            Some(inodes) if self.sync_inodes(id, &inodes)? => Ok(()),
            _ => self.sync_file_system(),
        }
    }

    /// Syncs the `inodes` of `id`, and the directories above them. Returns false if a `syncfs` is needed instead.
    fn sync_inodes(&self, id: Id, inodes: &Inodes) -> Result<bool> {
        let Some(layer) = self.backend.layer(id) else { return Ok(false) };
        let dirs = [&layer.dir, &self.dir_of(id), &store_files::snapshots(&self.root)].map(Dir::open);
        let [Ok(dir), Ok(snapshot), Ok(snapshots)] = dirs else { return Ok(false) };
        if !inodes.sync(&dir)? {
            return Ok(false);
        }
        let synced = |dir: &Dir| rustix::io::retry_on_intr(|| rustix::fs::fsync(dir)).at("fsync", dir.shown());
        [snapshot, snapshots].iter().try_for_each(synced)?;
        Ok(true)
    }

    /// Brings the tar-split data of `id` to disk.
    pub(super) fn sync_stream(&self, id: Id) -> Result<()> {
        if tar_split_files::sync(&self.root, id)? { Ok(()) } else { self.sync_file_system() }
    }

    /// Syncs the store's file system. A failure is noted in the database before the function returns. If the note
    /// fails, this handle marks no row durable until the note has succeeded.
    pub(super) fn sync_file_system(&self) -> Result<()> {
        let mut unnoted = self.lost_writes.lock().unwrap_or_else(PoisonError::into_inner);
        if *unnoted {
            self.note_lost_writes().map_err(|error| {
                error.context("an earlier write to the disk failed (dmesg tells more), which cannot be noted")
            })?;
            *unnoted = false;
        }
        let synced = rustix::io::retry_on_intr(|| rustix::fs::syncfs(self.root_fd.as_fd())).at("syncfs", &self.root);
        if synced.is_err() {
            *unnoted = self.note_lost_writes().inspect_err(tell).is_err();
        }
        synced
    }

    /// Notes that all data which was not on disk before this call may be lost.
    pub(super) fn note_lost_writes(&self) -> Result<()> {
        // On btrfs a sync can fail with `ENOSPC`. Then the database's log may have no room for the note.
        self.with_reserve(|| {
            self.meta.transact(Level::Relaxed, |tx| {
                meta::doubt_log(tx)?;
                durability::doubt_all(tx)
            })
        })
    }

    /// Removes the voucher of `row` after a sync of its data failed with `error`.
    pub(super) fn doubt(&self, row: i64, error: &Error) {
        if error.errno().is_none() {
            return;
        }
        let noted = self.with_reserve(|| self.meta.transact(Level::Relaxed, |tx| durability::doubt(tx, row)));
        if let Err(error) = noted {
            tell(&error);
            *self.lost_writes.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
    }
}

/// Logs that a failed sync could not be noted, because the file system is full or takes no more writes.
fn tell(error: &Error) {
    tracing::error!(error = error.chain(), "a failed sync could not be noted in the database");
}
