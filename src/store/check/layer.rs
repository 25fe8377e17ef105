//! Reading layers, to compare them with their digests.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::Store;
use super::super::meta::Level;
use super::super::rows::{self, Listed, Origin};
use super::{CheckOptions, Checked, Ground, Problem, Remedy, subject};
use crate::changeset::blob::DigestWriter;
use crate::changeset::diff::{Ancestors, diff};
use crate::changeset::tar::{Encoder, MtimePrecision};
use crate::changeset::{Candidates, Change, Sink};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{DiffId, Id};
use crate::mount;
use crate::snapshotter::Kind;
use crate::tree::Dir;

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
        let found = match self.layer_digest(&listed.row.name, stack, options.cancel) {
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
            // Of a layer that came with an image only the archive's digest is known.
            Some(recorded) if listed.row.origin == Origin::Image => {
                let problem = Problem::Foreign { snapshot: subject(listed), recorded, canonical: found };
                checked.add(problem, Remedy::None("import the image anew to be sure"));
            }
            Some(recorded) => {
                let remedy = self.remedy_for_damaged(listed)?;
                checked.add(Problem::Content { snapshot: subject(listed), recorded, found }, remedy);
            }
        }
        Ok(())
    }

    /// The DiffID of what the topmost snapshot of `stack` adds to the others. Both trees are read as a whole: a check does
    /// not rely on what a strategy knows of itself.
    fn layer_digest(&self, name: &str, stack: &[Id], cancel: Option<&AtomicBool>) -> Result<DiffId> {
        let open = |stack: &[Id]| -> Result<Dir> {
            Ok(Dir::from_fd(mount::detached(&self.mounts_of(Kind::Committed, stack)?)?, name))
        };
        let new = open(stack)?;
        let old = if stack.len() > 1 { Some(open(&stack[1..])?) } else { None };
        let mut ancestors = Ancestors::new(old.as_ref(), &new);
        let mut describe = |path: &std::path::Path| ancestors.meta(path);
        let mut encoder = Encoder::new(DigestWriter::new(io::sink()), MtimePrecision::Nanoseconds, &mut describe);
        let mut sink = |change: &Change, data: &mut dyn Read| {
            check_cancelled(cancel)?;
            encoder.change(change, data)
        };
        diff(old.as_ref(), &new, Candidates::All, &mut sink)?;
        let (_, digest, _) = encoder.finish()?.finish();
        Ok(digest)
    }
}

fn check_cancelled(cancel: Option<&AtomicBool>) -> Result<()> {
    match cancel {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::new(ErrorKind::Cancelled, "the check was cancelled")),
        _ => Ok(()),
    }
}
