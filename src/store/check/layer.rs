//! Reading layers, to compare them with their digests.

use std::io::{self, Write};
use std::path::Path;

use super::super::db::durability;
use super::super::db::meta::Level;
use super::super::db::rows::{self, Listed, Origin};
use super::super::{Store, tar_split_files};
use super::{CheckOptions, Checked, Ground, Problem, Remedy, subject};
use crate::changeset::blob::{BlobWriter, Compression};
use crate::changeset::diff::{Ancestors, diff};
use crate::changeset::tar::{Encoder, MtimePrecision};
use crate::changeset::{Candidates, tar_split};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{DiffId, Id};
use crate::mount;
use crate::snapshotter::Kind;
use crate::task::{Cancel, Cancellable};
use crate::tree::Dir;

/// The remedy where no import brings a layer again.
const BUILD_AGAIN: Remedy = Remedy::none("it was built here: strata rmi its images, and build them again");

impl Store {
    /// Reads the committed snapshots that are whole on disk, and adds a finding for each one that does not match its
    /// digest.
    pub(super) fn check_layers(&self, ground: &Ground, options: &CheckOptions, checked: &mut Checked) -> Result<()> {
        for listed in ground.rows.iter().filter(|listed| listed.is_finished() && listed.row.kind == Kind::Committed) {
            if !options.deep && listed.row.diff_id.is_some() {
                continue;
            }
            if !options.record && listed.row.diff_id.is_none() {
                if !ground.unverified.contains(&listed.row.id) {
                    let remedy = Remedy::none("check --record computes its digest");
                    checked.add(Problem::Unknown(subject(listed)), remedy);
                }
                continue;
            }
            let stack = self.meta.view(|tx| durability::chain(tx, Some(listed.row.row)))?;
            // The row number may belong to another row by now.
            if stack.first() != Some(&listed.row.id) || !stack.iter().all(|id| ground.present.contains(id)) {
                // The snapshot was removed meanwhile, or its missing directory is a finding already.
                continue;
            }
            self.check_layer(listed, &stack, options, checked)?;
        }
        Ok(())
    }

    fn check_layer(&self, listed: &Listed, stack: &[Id], options: &CheckOptions, checked: &mut Checked) -> Result<()> {
        let found = match self.layer_digest(listed, stack, &options.cancel) {
            Ok(found) => found,
            Err(error) => return self.note_unreadable(listed, error, checked),
        };
        match listed.row.diff_id {
            None => {
                self.meta.transact(Level::Durable, |tx| rows::record(tx, listed.row.id, found))?;
                checked.recorded += 1;
            }
            // An imported layer has tar-split data. A layer without tar-split data was built here.
            Some(recorded) if recorded == found => match tar_split_files::open(&self.root, listed.row.id)? {
                Some(_) => self.check_tree(listed, stack, options, checked)?,
                None => checked.verified += 1,
            },
            Some(recorded) => {
                let built =
                    listed.row.origin == Origin::Image && tar_split_files::open(&self.root, listed.row.id)?.is_none();
                let remedy = if built { BUILD_AGAIN } else { self.remedy_for_damaged(listed)? };
                checked.add(Problem::Content { snapshot: subject(listed), recorded, found }, remedy);
            }
        }
        Ok(())
    }

    /// Checks that the tree of `stack` is the one that its topmost layer makes on the parent.
    fn check_tree(&self, listed: &Listed, stack: &[Id], options: &CheckOptions, checked: &mut Checked) -> Result<()> {
        let made = match self.apply_again(listed, stack, &options.cancel) {
            Ok(made) => made,
            Err(error) if ends_the_check(&error) => return Err(error),
            Err(_) if self.is_gone(listed)? => return Ok(()),
            Err(error) => {
                let why = Remedy::none("a comparison of the rest needs space for the layer once more");
                checked.add(Problem::Uncompared { snapshot: subject(listed), why: error.chain() }, why);
                return Ok(());
            }
        };
        match made.differences(stack, &options.cancel) {
            Err(error) => self.note_unreadable(listed, error, checked)?,
            Ok(paths) if paths.is_empty() => checked.verified += 1,
            Ok(paths) => {
                let remedy = self.remedy_for_damaged(listed)?;
                checked.add(Problem::Tree { snapshot: subject(listed), paths }, remedy);
            }
        }
        Ok(())
    }

    fn note_unreadable(&self, listed: &Listed, error: Error, checked: &mut Checked) -> Result<()> {
        if ends_the_check(&error) {
            return Err(error);
        }
        if !self.is_gone(listed)? {
            let remedy = self.remedy_for_damaged(listed)?;
            checked.add(Problem::Unreadable { snapshot: subject(listed), why: error.chain() }, remedy);
        }
        Ok(())
    }

    /// Returns true if the snapshot was removed meanwhile.
    fn is_gone(&self, listed: &Listed) -> Result<bool> {
        Ok(self.meta.view(|tx| rows::by_id(tx, listed.row.id))?.is_none())
    }

    /// Returns the DiffID of the layer of the topmost snapshot of `stack`. The layer is encoded by its tar-split data
    /// if there is one, otherwise as strata encodes layers. Trees are read as a whole, because a check does not rely on
    /// the hints of a strategy.
    fn layer_digest(&self, listed: &Listed, stack: &[Id], cancel: &Cancel) -> Result<DiffId> {
        let writer = &mut io::sink();
        let mut blob = BlobWriter::new(Cancellable::new(writer, cancel), Compression::None)?;
        if listed.row.diff_id.is_none() || !self.replay(listed, stack, &mut blob)? {
            let new = self.layers(listed, stack)?;
            let old = if stack.len() > 1 { Some(self.layers(listed, &stack[1..])?) } else { None };
            let mut ancestors = Ancestors::new(old.as_ref(), &new);
            let mut describe = |path: &Path| ancestors.meta(path);
            let mut encoder = Encoder::new(&mut blob, MtimePrecision::Nanoseconds, &mut describe);
            diff(old.as_ref(), &new, Candidates::All, &mut encoder)?;
            encoder.finish()?;
        }
        Ok(blob.finish()?.1.diff_id)
    }

    /// Writes the layer that the topmost of `stack` was made from, if the store has its tar-split data. Returns false
    /// otherwise.
    pub(super) fn replay(&self, listed: &Listed, stack: &[Id], writer: &mut dyn Write) -> Result<bool> {
        let Some(data) = tar_split_files::open(&self.root, listed.row.id)? else { return Ok(false) };
        let run = self.run();
        tar_split::replay(&data, &self.layers(listed, stack)?, &mut || tar_split_files::spool(&run), writer)?;
        Ok(true)
    }

    /// The root of `stack`, mounted read-only.
    pub(super) fn layers(&self, listed: &Listed, stack: &[Id]) -> Result<Dir> {
        Ok(Dir::from_fd(mount::detached(&self.mounts_of(Kind::Committed, stack)?)?, &listed.row.name))
    }
}

/// Returns true for an error that the layer did not cause.
fn ends_the_check(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::PermissionDenied)
}
