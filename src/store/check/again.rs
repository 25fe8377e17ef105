//! Applying a layer once more, beside the snapshot that was made from it, to compare the two trees.
//!
//! A layer that can be written again byte for byte proves only the contents of its files, because its headers come from
//! the tar-split data. Modes, owners, times, attributes, links, and additional files of the tree are compared with a
//! new tree, which the layer makes on the same parent.

use std::collections::BTreeSet;
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::path::PathBuf;
use std::thread;

use rustix::io::Errno;

use super::super::db::meta::Level;
use super::super::db::rows::{self, Listed, New, Origin, State};
use super::super::{Access, Store};
use crate::changeset::apply::Applier;
use crate::changeset::diff::diff;
use crate::changeset::tar::{Limits, decode};
use crate::changeset::{Candidates, Change, Sink as _};
use crate::error::{Context as _, Error, Result};
use crate::id::Id;
use crate::mount;
use crate::snapshotter::Kind;
use crate::task::Cancel;
use crate::tree::Dir;

/// Bytes of a layer that are written at once.
const BUFFER_BYTES: usize = 128 << 10;

/// A layer that matches its digest needs no limits: the import had limits.
const NO_LIMITS: Limits = Limits {
    layers: usize::MAX,
    entries: u64::MAX,
    total_bytes: u64::MAX,
    pax_bytes: usize::MAX,
    xattr_bytes: usize::MAX,
    path_bytes: usize::MAX,
    path_depth: usize::MAX,
    sparse_segments: usize::MAX,
    trailing_bytes: u64::MAX,
    padding_bytes: u64::MAX,
};

/// The tree of a layer that was applied once more. The tree is removed when the value is dropped, or with the process.
#[must_use = "it goes when it is dropped"]
pub(super) struct AppliedAgain<'a> {
    store: &'a Store,
    listed: &'a Listed,
    row: i64,
    /// Ids of the tree and its ancestors, nearest first.
    stack: Vec<Id>,
}

impl Drop for AppliedAgain<'_> {
    fn drop(&mut self) {
        self.store.let_go(&[self.row]);
    }
}

impl Store {
    /// Applies the layer of `listed`, the topmost of `stack`, once more on the other snapshots of `stack`.
    ///
    /// # Errors
    /// Errors of the file system about the new files, which say nothing about the old ones.
    pub(super) fn apply_again<'a>(
        &'a self,
        listed: &'a Listed,
        stack: &[Id],
        cancel: &Cancel,
    ) -> Result<AppliedAgain<'a>> {
        let made = self.make_beside(listed, &stack[1..])?;
        let mounts = self.backend.mounts(&made.stack, Access::ReadWrite)?;
        let mut applier = Applier::new(Dir::from_fd(mount::detached(&mounts)?, &listed.row.name));
        let mut sink = |change: &Change, data: &mut dyn Read| {
            cancel.check()?;
            applier.change(change, data)
        };
        let (reader, writer) = io::pipe().at("make", "a pipe")?;
        thread::scope(|scope| {
            let replay = scope.spawn(move || {
                let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
                self.replay(listed, stack, &mut writer)?;
                writer.flush().at("write to", "a pipe")
            });
            // The reader is dropped after `decode`: a writer that still has data then fails with `EPIPE` and does not
            // block.
            let decoded = decode(&mut BufReader::with_capacity(BUFFER_BYTES, reader), &NO_LIMITS, &mut sink).map(drop);
            let replayed = replay.join().unwrap_or_else(|_| Err(Error::data_loss("the layer could not be written")));
            match replayed {
                Err(error) if error.errno() != Some(Errno::PIPE) => Err(error),
                _ => decoded,
            }
        })?;
        applier.finish()?;
        Ok(made)
    }

    /// Makes an empty snapshot on `parents`. Its row stays in [`State::Creating`], so that no call sees it.
    fn make_beside<'a>(&'a self, listed: &'a Listed, parents: &[Id]) -> Result<AppliedAgain<'a>> {
        let worker = self.begin()?;
        let name = format!("the layer of {:?} once more, by {worker}", listed.row.name);
        let (row, id) = self.meta.transact(Level::Relaxed, |tx| {
            let id = rows::next_id(tx)?;
            let new = New {
                id,
                owner: &listed.owner,
                name: &name,
                kind: Kind::Active,
                state: State::Creating,
                parent: listed.row.parent,
                worker: Some(&worker),
                durable: false,
                voucher: None,
                origin: Origin::Image,
                id_map: None,
            };
            rows::insert(tx, &new).map(|row| (row, id))
        })?;
        let mut made = AppliedAgain { store: self, listed, row, stack: parents.to_vec() };
        let id = self.make_at_free_id(row, id, |id| self.backend.create(id, parents))?;
        made.stack.insert(0, id);
        Ok(made)
    }
}

impl AppliedAgain<'_> {
    /// Returns the paths at which the topmost snapshot of `stack` differs from this tree.
    pub(super) fn differences(&self, stack: &[Id], cancel: &Cancel) -> Result<BTreeSet<PathBuf>> {
        let (made, found) = (self.store.layers(self.listed, &self.stack)?, self.store.layers(self.listed, stack)?);
        let mut paths = BTreeSet::new();
        let compare = |old: &Dir, new: &Dir, candidates: Candidates, paths: &mut BTreeSet<PathBuf>| {
            let mut sink = |change: &Change, _: &mut dyn Read| {
                cancel.check()?;
                paths.insert(change.path().to_owned());
                Ok(())
            };
            diff(Some(old), new, candidates, &mut sink)
        };
        let candidates = self.on_disk(stack)?;
        let whole = matches!(candidates, Candidates::All);
        compare(&made, &found, candidates, &mut paths)?;
        // The trees are compared in the other direction too: a path that only the new tree has is not in the hint of
        // the old tree, and one direction does not name all links of a file.
        if !whole || !paths.is_empty() {
            compare(&found, &made, self.on_disk(&self.stack)?, &mut paths)?;
        }
        Ok(paths)
    }

    /// Returns the paths at which the topmost of `stack` can differ from its parent. A hint that was noted when the
    /// snapshot was made misses later damage, so it is not used.
    fn on_disk(&self, stack: &[Id]) -> Result<Candidates> {
        let &[id, parent, ..] = stack else { return Ok(Candidates::All) };
        Ok(match self.store.backend.candidates(id, parent)? {
            Candidates::Hint(hint) if !hint.selects_damaged_files() => Candidates::All,
            candidates => candidates,
        })
    }
}
