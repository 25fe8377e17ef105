//! Writing a stream of changes into an active snapshot, and the spelling of the archive that it comes from beside it.

use super::meta::{Failed, Level};
use super::rows::{self, Row, State};
use super::{Flush, Origin, Store, streams};
use crate::changeset::Sink;
use crate::changeset::apply::{Applied, Applier};
use crate::error::{Error, Result};
use crate::id::{Id, check_key};
use crate::mount::{self, Access};
use crate::snapshotter::Kind;
use crate::tree::Dir;

impl Store {
    /// Writes the layer that `produce` decodes ([`crate::changeset::tar::decode`]) into `key`, a snapshot of
    /// [`Store::prepare_layer`] which nothing else was written into, and keeps how it is spelled: committed with its
    /// DiffID, the snapshot can be written as that layer again, byte for byte.
    ///
    /// # Errors
    /// As [`Snapshotter::apply`](crate::Snapshotter::apply).
    pub fn apply_layer(&self, key: &str, produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Applied> {
        self.apply_with(key, true, produce)
    }

    pub(super) fn apply_with(
        &self,
        key: &str,
        record: bool,
        produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>,
    ) -> Result<Applied> {
        check_key(key)?;
        let worker = self.begin()?;
        let cannot = format!("cannot apply to {key:?}");
        let (row, stack) = self.claim(key, &cannot, &worker)?;
        let mut write = || {
            self.check_not_mounted(row.id, &cannot)?;
            let mounts = self.backend.mounts(&stack, Access::ReadWrite)?;
            let root = Dir::from_fd(mount::detached(&mounts)?, key);
            // What an earlier layer left here is not all that is in the snapshot now.
            streams::remove(&self.root, row.id)?;
            let mut applier = if record {
                Applier::recording(root, streams::record(&self.root, row.id)?)
            } else {
                Applier::new(root)
            };
            produce(&mut applier)?;
            let applied = applier.finish()?;
            // What an importer writes, it syncs with the other layers.
            if row.origin == Origin::Named && self.waits(Flush::Now) {
                self.bring_applied_to_disk(row.id, &stack[1..])?;
            }
            Ok(applied)
        };
        let applied = write();
        if applied.is_err() && record {
            // The first error is the one to report; the stream goes with the snapshot at the latest.
            let _ = streams::remove(&self.root, row.id);
        }
        self.let_go(&[row.row]);
        applied
    }

    /// Sees to it that nobody commits or removes `key` meanwhile.
    fn claim(&self, key: &str, cannot: &str, worker: &str) -> Result<(Row, Vec<Id>)> {
        self.meta.transact(Level::Relaxed, |tx| {
            let row = rows::visible(tx, &self.owner, key)?;
            if row.kind != Kind::Active {
                let kind = row.kind;
                return Err(Error::precondition(format!("{cannot}: it is {kind}, not active")).into());
            }
            if row.state != State::Ready {
                return Err(Error::precondition(format!("{cannot}: another call works on it")).into());
            }
            rows::set_state(tx, row.row, State::Claimed, Some(worker))?;
            let stack = rows::chain(tx, Some(row.row))?;
            Ok::<_, Failed>((row, stack))
        })
    }

    fn bring_applied_to_disk(&self, id: Id, parents: &[Id]) -> Result<()> {
        // Where sealing needs no list of inodes there is none.
        let listed = !self.backend.capabilities().seal_is_durable;
        let survey = listed.then(|| self.backend.survey(id, parents)).transpose()?;
        self.bring_to_disk(id, survey.and_then(|survey| survey.inodes))
    }
}
