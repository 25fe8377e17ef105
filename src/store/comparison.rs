//! Two snapshots to compare. Their rows are read in one transaction.

use std::io::Write;

use super::db::durability;
use super::db::rows::{self, Row};
use super::{Store, tar_split_files};
use crate::changeset::{Candidates, tar_split};
use crate::error::Result;
use crate::id::{DiffId, Id, check_key};
use crate::snapshotter::Kind;
use crate::tree::Dir;

/// A snapshot and its base, which is another snapshot or empty.
#[derive(Debug)]
pub struct Comparison<'a> {
    store: &'a Store,
    new: Read,
    /// `None` for an empty base.
    base: Option<Read>,
    /// True if the base is the parent of the snapshot, or the snapshot has no parent and the base is empty.
    is_with_parent: bool,
}

/// A snapshot as the database has it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) row: Row,
    /// The snapshot and its ancestors, nearest first.
    pub(super) stack: Vec<Id>,
}

impl Store {
    /// Reads the snapshot `key`, of any kind, and its base from the database. The base is the snapshot with that name,
    /// empty for `""`, and the parent of `key` for `None`.
    ///
    /// # Errors
    /// `NotFound`; errors of the database.
    pub fn comparison(&self, key: &str, base: Option<&str>) -> Result<Comparison<'_>> {
        check_key(key)?;
        if let Some(base) = base.filter(|base| !base.is_empty()) {
            check_key(base)?;
        }
        self.meta.view(|tx| {
            let row = rows::visible(tx, &self.owner, key)?;
            let parent = row.parent;
            let base_row = match base {
                Some("") => None,
                Some(base) => Some(rows::visible(tx, &self.owner, base)?),
                None => parent.map(|parent| rows::by_number(tx, parent)).transpose()?.flatten(),
            };
            let is_with_parent = base_row.as_ref().map(|base| base.row) == parent;
            let read = |row: Row| durability::chain(tx, Some(row.row)).map(|stack| Read { row, stack });
            let (new, base) = (read(row)?, base_row.map(read).transpose()?);
            Ok(Comparison { store: self, new, base, is_with_parent })
        })
    }
}

impl Comparison<'_> {
    /// Opens the tree of the snapshot, read-only.
    ///
    /// # Errors
    /// Errors of the mount.
    pub fn open(&self) -> Result<Dir> {
        self.store.open_read(&self.new)
    }

    /// Opens the tree of the base, read-only; `None` if the base is empty.
    ///
    /// # Errors
    /// Errors of the mount.
    pub fn open_base(&self) -> Result<Option<Dir>> {
        self.base.as_ref().map(|base| self.store.open_read(base)).transpose()
    }

    /// Returns the DiffID that was recorded for the snapshot, if it is committed and compared with its parent.
    pub fn diff_id(&self) -> Option<DiffId> {
        self.new.row.diff_id.filter(|_| self.new.row.kind == Kind::Committed && self.is_with_parent)
    }

    /// Returns true if the snapshot is a view of the base: a view has no changes.
    pub fn is_view_of_base(&self) -> bool {
        self.new.row.kind == Kind::View && self.is_with_parent && self.base.is_some()
    }

    /// Returns the paths where the snapshot can differ from the base. A strategy knows these paths only for the parent
    /// as base.
    ///
    /// # Errors
    /// As [`Backend::candidates`](crate::backend::Backend::candidates).
    pub fn candidates(&self) -> Result<Candidates> {
        let Read { row, stack } = &self.new;
        match stack.get(1) {
            Some(parent) if self.is_with_parent && row.kind != Kind::View => {
                self.store.backend.candidates(row.id, *parent)
            }
            _ => {
                tracing::debug!(
                    key = row.name,
                    "changes are looked for everywhere: it is not compared with its parent"
                );
                Ok(Candidates::All)
            }
        }
    }

    /// Writes the archive that the snapshot was made from, byte for byte. Returns false if the store has no tar-split
    /// data.
    ///
    /// # Errors
    /// `DataLoss` for damaged tar-split data or a missing file; errors of `writer` and of the mount.
    pub fn write_original(&self, writer: &mut dyn Write) -> Result<bool> {
        let Some(stream) = tar_split_files::open(&self.store.root, self.new.row.id)? else { return Ok(false) };
        let run = self.store.run();
        tar_split::replay(&stream, &self.open()?, &mut || tar_split_files::spool(&run), writer)?;
        Ok(true)
    }
}
