//! Claims: the right to write to an active snapshot, which no other call can commit or remove meanwhile.

use super::db::durability;
use super::db::labels as stored_labels;
use super::db::meta::{Failed, Level};
use super::db::rows::{self, Row, State};
use super::{Access, Flush, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Id, check_key};
use crate::mount::{self, Mount};
use crate::snapshotter::{Kind, Snapshotter};
use crate::tree::{Dir, mount_points};

/// The label with the mount points that were made for a container in an active snapshot. They are no part of the
/// snapshot's layer.
pub(super) const MOUNT_POINTS: &str = "strata/mount-points";

/// The right to write to an active snapshot, until the value is dropped. After a crash, recovery ends the claim.
#[derive(Debug)]
#[must_use = "dropping it lets others commit and remove the snapshot"]
pub struct Claim<'a> {
    store: &'a Store,
    pub(super) row: Row,
    /// Ids of the snapshot and its ancestors.
    pub(super) stack: Vec<Id>,
    mounts: Vec<Mount>,
}

impl Store {
    /// Claims the active snapshot `key`; `cannot` begins the message of a refusal. Only the claim protects a writer
    /// with detached mounts, or in another mount namespace: the check for mounts sees neither.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` if `key` is not active, is mounted, was made for a user namespace, or another
    /// call works on it.
    pub fn claim(&self, key: &str, cannot: &str) -> Result<Claim<'_>> {
        check_key(key)?;
        let worker = self.begin()?;
        let (row, stack) = self.meta.transact(Level::Relaxed, |tx| {
            let row = rows::visible(tx, &self.owner, key)?;
            if row.kind != Kind::Active {
                let kind = row.kind.phrase();
                return Err(Error::precondition(format!("{cannot}: it is {kind}, not active")).into());
            }
            if row.state != State::Ready {
                return Err(Error::precondition(format!("{cannot}: another call works on it")).into());
            }
            if row.id_map.is_some() {
                return Err(Error::precondition(format!("{cannot}: it was made for a user namespace")).into());
            }
            rows::set_state(tx, row.row, State::Claimed, Some(&worker))?;
            let stack = durability::chain(tx, Some(row.row))?;
            Ok::<_, Failed>((row, stack))
        })?;
        let mut claim = Claim { store: self, row, stack, mounts: Vec::new() };
        self.check_not_mounted(claim.row.id, cannot)?;
        claim.mounts = self.backend.mounts(&claim.stack, Access::ReadWrite)?;
        Ok(claim)
    }
}

impl Store {
    /// Removes the active snapshot `key` of a caller that has failed. A snapshot of [`Store::prepare_layer`] is removed
    /// without a wait for the disk, because a power cut takes it in any case.
    ///
    /// # Errors
    /// As [`Snapshotter::remove`].
    pub fn take_back(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.begin()?;
        let (row, _) = self.stack(key)?;
        if !row.is_unfinished_layer() || row.state != State::Ready {
            return self.remove(key);
        }
        self.check_not_mounted(row.id, &format!("cannot remove {key:?}"))?;
        let taken = self.meta.transact(Level::Relaxed, |tx| match rows::visible(tx, &self.owner, key)? {
            same if same.row == row.row && same.state == State::Ready => rows::discard(tx, same.row),
            _ => Err(Error::precondition(format!("cannot remove {key:?}: another call works on it")).into()),
        });
        match taken {
            // The directory is removed first, because the database may need its space. No other process touches it.
            Err(error) if error.kind() == ErrorKind::ResourceExhausted => {
                self.backend.remove(row.id)?;
                self.meta.transact(Level::Relaxed, |tx| rows::delete(tx, row.row))
            }
            taken => taken,
        }
    }
}

impl Claim<'_> {
    /// Returns the mounts through which the snapshot is written.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// Notes mount points that will be made in the snapshot (`tree::mount_points`), until the claim is dropped. The
    /// note is durable when the function returns: if this process dies, recovery removes the mount points.
    ///
    /// # Errors
    /// Errors of the database.
    pub fn note(&self, points: &str) -> Result<()> {
        let level = self.store.level(Flush::Now);
        self.store.meta.transact(level, |tx| stored_labels::set_label(tx, self.row.row, MOUNT_POINTS, points))
    }
}

/// Removes the mount points that [`Claim::note`] noted for `row`, whose process has died. No other process touches the
/// row as long as it is claimed.
pub(super) fn take_away_mount_points(store: &Store, row: &Row) -> Result<()> {
    let found = store.meta.view(|tx| match stored_labels::label(tx, row.row, MOUNT_POINTS)? {
        None => Ok(None),
        Some(note) => durability::chain(tx, Some(row.row)).map(|stack| Some((note, stack))),
    })?;
    let Some((note, stack)) = found else { return Ok(()) };
    let mounts = store.backend.mounts(&stack, Access::ReadWrite)?;
    mount_points::take_away(&Dir::from_fd(mount::detached(&mounts)?, &row.name), &note)
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.store.let_go(&[self.row.row]);
    }
}
