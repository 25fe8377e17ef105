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

/// Pushes changes into a sink, and answers with the digest of the layer that they come from, where it knows one.
type Produce<'a> = dyn FnMut(&mut dyn Sink) -> Result<Option<DiffId>> + 'a;

impl Store {
    /// Writes the layer that `produce` decodes ([`crate::changeset::tar::decode`]) into `key`, a snapshot of
    /// [`Store::prepare_layer`] which nothing else was written into, and keeps its tar-split data: committed with its
    /// DiffID, the snapshot can be written as that layer again, byte for byte.
    ///
    /// # Errors
    /// As [`Snapshotter::apply`](crate::Snapshotter::apply).
    pub fn apply_layer(&self, key: &str, produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Applied> {
        self.apply_with(key, true, &mut |sink| produce(sink).map(|()| None))
    }

    /// As [`Store::apply_layer`], into a snapshot of which others may have the mounts. `produce` answers with the
    /// DiffID. The committed snapshot has that DiffID only if the committer says that it is this layer and nothing else
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
            // The first error is the one to report; the stream goes with the snapshot at the latest.
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
        // An importer syncs this layer together with the others.
        if row.origin == Origin::Named && self.waits(Flush::Now) {
            // Where sealing needs no list of inodes there is none.
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

    /// Forgets what was applied to an active snapshot that this process has claimed, and its tar-split data: the digest
    /// first, for without the stream it would promise what cannot be written again.
    pub(super) fn forget_layer(&self, row: &Row) -> Result<()> {
        if row.diff_id.is_some() {
            self.note_layer(row, None)?;
        }
        tar_split_files::remove(&self.root, row.id)
    }

    /// Notes what was applied to an active snapshot: a power cut may take the note, and then nothing is known.
    fn note_layer(&self, row: &Row, diff_id: Option<DiffId>) -> Result<()> {
        self.meta.transact(Level::Relaxed, |tx| rows::set_diff_id(tx, row.row, diff_id))
    }
}
