//! Snapshots for containers in user namespaces, whose ids stand for other ids of the machine.
//!
//! A client asks for such a snapshot by the labels [`UIDS`] and [`GIDS`]. The mounts of the snapshot show the files of
//! the parents with the machine's ids, translated by the kernel; nothing is copied. Layers always have the ids that the
//! container sees: the same edits give the same layer with and without a user namespace.
//!
//! The kernel translates the ids of files that are written through a bind mount back. It cannot translate the upper of
//! an overlay. So an upper has the machine's ids until the commit, which writes the changes anew to a fresh id. Every
//! other reader sees such an upper through a translation in the other direction.
//!
//! # References
//! containerd, `core/snapshots/snapshotter.go` (the labels) and `core/mount` (the mounts).

use super::Store;
use super::db::rows::Row;
use crate::changeset::apply::Applier;
use crate::changeset::diff;
use crate::error::{Error, Result};
use crate::id::Id;
use crate::mount::{self, Access, IdMap, MappedPart, Mount};
use crate::snapshotter::{Kind, Labels};
use crate::tree::{Dir, Stat};

/// Label with the user ids of the user namespace that a snapshot is made for.
const UIDS: &str = "containerd.io/snapshot/uidmapping";

/// Label with the group ids.
const GIDS: &str = "containerd.io/snapshot/gidmapping";

/// Label of a snapshot that a layer is unpacked into.
const REF: &str = "containerd.io/snapshot.ref";

/// Returns the ids of the user namespace that `labels` ask for. Labels of a snapshot that a layer is unpacked into can
/// come from the annotations of an image, so this function ignores them.
///
/// # Errors
/// `InvalidArgument` for a malformed list, and for one label without the other.
pub(super) fn requested(labels: &Labels) -> Result<Option<IdMap>> {
    match (labels.get(UIDS), labels.get(GIDS)) {
        _ if labels.contains_key(REF) => Ok(None),
        (None, None) => Ok(None),
        (Some(uids), Some(gids)) => IdMap::parse(uids, gids).map(Some),
        (Some(_), None) => Err(Error::invalid(format!("the label {UIDS} needs the label {GIDS} beside it"))),
        (None, Some(_)) => Err(Error::invalid(format!("the label {GIDS} needs the label {UIDS} beside it"))),
    }
}

fn with_ids(mounts: Vec<Mount>, ids: &IdMap, part: MappedPart) -> Vec<Mount> {
    mounts.into_iter().map(|mount| mount.mapped(ids.clone(), part)).collect()
}

impl Store {
    /// The mounts of a snapshot of `kind`, for a client.
    pub(super) fn handed_out(&self, kind: Kind, ids: Option<&IdMap>, stack: &[Id]) -> Result<Vec<Mount>> {
        let mounts = self.mounts_of(kind, stack)?;
        Ok(match ids {
            Some(ids) => with_ids(mounts, ids, MappedPart::Lower),
            None => mounts,
        })
    }

    /// Returns the mounts that show the content of `row` read-only, with the ids of its layer.
    pub(super) fn mounts_to_read(&self, row: &Row, stack: &[Id]) -> Result<Vec<Mount>> {
        let kind = if row.kind == Kind::View { Kind::View } else { Kind::Committed };
        let mounts = self.mounts_of(kind, stack)?;
        Ok(match &row.id_map {
            Some(ids) if self.has_outside_ids(row, &stack[1..])? => with_ids(mounts, &ids.inverse(), MappedPart::Top),
            _ => mounts,
        })
    }

    /// Returns true if the files that were written into the active snapshot `row` have the machine's ids.
    pub(super) fn has_outside_ids(&self, row: &Row, parents: &[Id]) -> Result<bool> {
        if row.id_map.is_none() || row.kind != Kind::Active {
            return Ok(false);
        }
        let stack: Vec<Id> = [row.id].into_iter().chain(parents.iter().copied()).collect();
        let mounts = self.backend.mounts(&stack, Access::ReadWrite)?;
        Ok(mounts.iter().any(|mount| mount.upper().is_some()))
    }

    /// Tries the translated `mounts` of a new snapshot on `parents`, and gives the root directory of an upper the ids
    /// of the machine.
    ///
    /// # Errors
    /// `InvalidArgument` if the owner of the root directory is not mapped; `FailedPrecondition` if the kernel, the file
    /// system or this user cannot translate ids.
    pub(super) fn map_root(&self, mounts: &[Mount], ids: &IdMap, parents: &[Id]) -> Result<()> {
        if !parents.is_empty() {
            let Stat { uid, gid, .. } = self.parent_root(parents, None)?.stat("")?;
            if ids.outside_uid(uid).is_none() || ids.outside_gid(gid).is_none() {
                let message = format!("the owner {uid}:{gid} of the root directory is not in the map {ids}");
                return Err(Error::invalid(message));
            }
        }
        let root = Dir::from_fd(mount::detached(mounts)?, "the root directory");
        if mounts.iter().all(|mount| mount.upper().is_none()) {
            return Ok(());
        }
        let parent = self.parent_root(parents, Some(ids))?;
        root.set_meta("", &parent.meta("", &parent.stat("")?)?)
    }

    /// Opens the root directory of the tree of `parents`, with its ids translated by `ids`.
    fn parent_root(&self, parents: &[Id], ids: Option<&IdMap>) -> Result<Dir> {
        let mounts = self.backend.mounts(parents, Access::ReadOnly)?;
        let mounts = ids.map_or_else(|| mounts.clone(), |ids| with_ids(mounts.clone(), ids, MappedPart::Lower));
        Ok(Dir::from_fd(mount::detached(&mounts)?, "the root directory"))
    }

    /// Calls [`Store::map_root`] for the active snapshot `row`, whose directory was made again.
    pub(super) fn map_root_again(&self, row: &Row, parents: &[Id]) -> Result<()> {
        let Some(ids) = &row.id_map else { return Ok(()) };
        let stack: Vec<Id> = [row.id].into_iter().chain(parents.iter().copied()).collect();
        self.map_root(&self.handed_out(row.kind, Some(ids), &stack)?, ids, parents)
    }

    /// Makes the committed snapshot `sealed` from the changes in `active`, with the ids of the user namespace.
    pub(super) fn seal_with_inside_ids(&self, active: &Row, parents: &[Id], sealed: Id) -> Result<()> {
        let parent = *parents.first().ok_or_else(|| Error::invalid("an upper without a parent"))?;
        self.backend.create(sealed, parents)?;
        let at = |id: Id| -> Vec<Id> { [id].into_iter().chain(parents.iter().copied()).collect() };
        let open = |mounts: &[Mount]| Ok(Dir::from_fd(mount::detached(mounts)?, &active.name));
        let old = open(&self.backend.mounts(parents, Access::ReadOnly)?)?;
        let new = open(&self.mounts_to_read(active, &at(active.id))?)?;
        let mut applier = Applier::new(open(&self.backend.mounts(&at(sealed), Access::ReadWrite)?)?);
        diff::diff(Some(&old), &new, self.backend.candidates(active.id, parent)?, &mut applier)?;
        applier.finish()?;
        self.backend.seal(sealed, sealed)
    }
}
