//! Writing a stream of changes into an active snapshot, and the tar-split data of the archive beside it.

use super::db::meta::Level;
use super::db::rows::{self, Row};
use super::{Claim, Flush, Origin, Store, tar_split_files};
use crate::changeset::Sink;
use crate::changeset::apply::{Applied, Applier};
use crate::error::Result;
use crate::id::DiffId;
use crate::mount;
use crate::tree::Dir;

/// Pushes changes into a sink. Returns the DiffID of the layer that the changes come from, if it is known.
type Produce<'a> = dyn FnMut(&mut dyn Sink) -> Result<Option<DiffId>> + 'a;

impl Store {
    /// Writes the layer that `produce` decodes ([`crate::changeset::tar::decode`]) into `key`, an empty snapshot of
    /// [`Store::prepare_layer`], and keeps the tar-split data of the layer. If the snapshot is committed with the
    /// DiffID of the layer, the store can write that layer again, byte for byte.
    ///
    /// # Errors
    /// As [`Snapshotter::apply`](crate::Snapshotter::apply).
    pub fn apply_layer(&self, key: &str, produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Applied> {
        self.apply_with(key, true, &mut |sink| produce(sink).map(|()| None))
    }

    /// As [`Store::apply_layer`], into a snapshot whose mounts a client may have. `produce` returns the DiffID. The
    /// committed snapshot has that DiffID only if the committer says that its content is exactly this layer
    /// ([`Store::commit_judged`]).
    ///
    /// # Errors
    /// As [`Snapshotter::apply`](crate::Snapshotter::apply).
    pub fn apply_named_layer(
        &self,
        key: &str,
        produce: &mut dyn FnMut(&mut dyn Sink) -> Result<DiffId>,
    ) -> Result<Applied> {
        self.apply_with(key, true, &mut |sink| produce(sink).map(Some))
    }

    pub(super) fn apply_with(&self, key: &str, record: bool, produce: &mut Produce<'_>) -> Result<Applied> {
        let claim = self.claim(key, &format!("cannot apply to {key:?}"))?;
        let applied = self.apply_to(&claim, record, produce);
        if applied.is_err() && record {
            // The first error is the one to report. The tar-split data is removed with the snapshot at the latest.
            let _ = tar_split_files::remove(&self.root, claim.row.id);
        }
        applied
    }

    fn apply_to(&self, claim: &Claim<'_>, record: bool, produce: &mut Produce<'_>) -> Result<Applied> {
        let (row, root) = (&claim.row, Dir::from_fd(mount::detached(claim.mounts())?, &claim.row.name));
        // The digest of a layer that was applied before does not describe the snapshot any more.
        self.forget_layer(row)?;
        let mut applier = if record {
            Applier::with_tar_split(root, tar_split_files::record(&self.root, row.id)?)
        } else {
            Applier::new(root)
        };
        let diff_id = produce(&mut applier)?;
        let applied = applier.finish()?;
        // An importer (`Origin::Image`) syncs this layer together with the others.
        if row.origin == Origin::Named && self.waits(Flush::Now) {
            // A backend whose sealing is durable lists no inodes.
            let listed = !self.backend.capabilities().seal_is_durable;
            let survey = listed.then(|| self.backend.survey(row.id, &claim.stack[1..])).transpose()?;
            let synced = self.bring_to_disk(row.id, survey.and_then(|survey| survey.inodes));
            synced.and_then(|()| self.sync_stream(row.id)).inspect_err(|error| self.doubt(row.row, error))?;
        }
        if diff_id.is_some() {
            self.note_layer(row, diff_id)?;
        }
        Ok(applied)
    }

    /// Forgets the DiffID and the tar-split data of the layer that was applied to an active snapshot. This process has
    /// claimed the snapshot. The DiffID goes first: without tar-split data it would promise a layer that cannot be
    /// written again.
    pub(super) fn forget_layer(&self, row: &Row) -> Result<()> {
        if row.diff_id.is_some() {
            self.note_layer(row, None)?;
        }
        tar_split_files::remove(&self.root, row.id)
    }

    /// Notes the DiffID of the layer that was applied to an active snapshot. A power cut may take the note.
    fn note_layer(&self, row: &Row, diff_id: Option<DiffId>) -> Result<()> {
        self.meta.transact(Level::Relaxed, |tx| rows::set_diff_id(tx, row.row, diff_id))
    }
}
