//! Reading layers, to compare them with their digests.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::super::layer::Cancelling;
use super::super::meta::Level;
use super::super::rows::{self, Listed, Origin};
use super::super::{Store, streams};
use super::{CheckOptions, Checked, Ground, Problem, Remedy, subject};
use crate::changeset::blob::{BlobWriter, Compression};
use crate::changeset::diff::{Ancestors, diff};
use crate::changeset::tar::{Encoder, MtimePrecision};
use crate::changeset::{Candidates, recording};
use crate::error::{ErrorKind, Result};
use crate::id::{DiffId, Id};
use crate::mount;
use crate::snapshotter::Kind;
use crate::tree::Dir;

/// What helps where no import brings a layer again.
const BUILD_AGAIN: Remedy = Remedy::None("it was built here: strata rmi its images, and build them again");

impl Store {
    /// Reads the committed snapshots that are whole on disk, and says which are not what their digests say.
    pub(super) fn check_layers(
        &self,
        ground: &Ground,
        options: &CheckOptions<'_>,
        checked: &mut Checked,
    ) -> Result<()> {
        for listed in ground.rows.iter().filter(|listed| listed.is_finished() && listed.row.kind == Kind::Committed) {
            if !options.deep && listed.row.diff_id.is_some() {
                continue;
            }
            if !options.record && listed.row.diff_id.is_none() {
                checked.add(Problem::Unknown(subject(listed)), Remedy::None("check --record computes its digest"));
                continue;
            }
            let stack = self.meta.view(|tx| rows::chain(tx, Some(listed.row.row)))?;
            if stack.is_empty() || !stack.iter().all(|id| ground.present.contains(id)) {
                // Removed meanwhile, or its loss was told.
                continue;
            }
            self.check_layer(listed, &stack, options, checked)?;
        }
        Ok(())
    }

    fn check_layer(
        &self,
        listed: &Listed,
        stack: &[Id],
        options: &CheckOptions<'_>,
        checked: &mut Checked,
    ) -> Result<()> {
        let found = match self.layer_digest(listed, stack, options.cancel) {
            Ok(found) => found,
            Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::PermissionDenied) => {
                return Err(error);
            }
            Err(_) if self.meta.view(|tx| rows::by_id(tx, listed.row.id))?.is_none() => return Ok(()),
            Err(error) => {
                let remedy = self.remedy_for_damaged(listed)?;
                checked.add(Problem::Unreadable { snapshot: subject(listed), why: error.chain() }, remedy);
                return Ok(());
            }
        };
        match listed.row.diff_id {
            None => {
                self.meta.transact(Level::Durable, |tx| rows::record(tx, listed.row.id, found))?;
                checked.recorded += 1;
            }
            Some(recorded) if recorded == found => checked.verified += 1,
            Some(recorded) => {
                // What came with an import has its spelling recorded; what has none was built here.
                let built = listed.row.origin == Origin::Image && !self.is_recorded(listed)?;
                let remedy = if built { BUILD_AGAIN } else { self.remedy_for_damaged(listed)? };
                checked.add(Problem::Content { snapshot: subject(listed), recorded, found }, remedy);
            }
        }
        Ok(())
    }

    fn is_recorded(&self, listed: &Listed) -> Result<bool> {
        Ok(streams::open(&self.root, listed.row.id)?.is_some())
    }

    /// The DiffID of what the topmost snapshot of `stack` adds to the others: in the spelling of the layer that it was made
    /// from where that was recorded, else in ours. Trees are read as a whole: a check does not rely on what a strategy
    /// knows of itself.
    fn layer_digest(&self, listed: &Listed, stack: &[Id], cancel: Option<&AtomicBool>) -> Result<DiffId> {
        let open = |stack: &[Id]| -> Result<Dir> {
            Ok(Dir::from_fd(mount::detached(&self.mounts_of(Kind::Committed, stack)?)?, &listed.row.name))
        };
        let new = open(stack)?;
        let writer = Cancelling { writer: &mut io::sink(), cancel };
        let mut blob = BlobWriter::new(writer, Compression::None)?;
        let recording = match listed.row.diff_id {
            Some(_) => streams::open(&self.root, listed.row.id)?,
            None => None,
        };
        if let Some(recording) = recording {
            let run = self.run();
            recording::replay(&recording, &new, &mut || streams::spool(&run), &mut blob)?;
        } else {
            let old = if stack.len() > 1 { Some(open(&stack[1..])?) } else { None };
            let mut ancestors = Ancestors::new(old.as_ref(), &new);
            let mut describe = |path: &Path| ancestors.meta(path);
            let mut encoder = Encoder::new(&mut blob, MtimePrecision::Nanoseconds, &mut describe);
            diff(old.as_ref(), &new, Candidates::All, &mut encoder)?;
            encoder.finish()?;
        }
        Ok(blob.finish()?.1.diff_id)
    }
}
