//! The results of build steps: the build cache.
//!
//! A step is known by a digest of everything that the step depends on. The result of a step is a committed snapshot,
//! which may be the snapshot that the step started from. An entry is removed with its snapshot.

use super::db::meta::Level;
use super::db::rows;
use super::db::steps::{self, CachedStep};
use super::{Kind, Store};
use crate::error::{Error, Result};
use crate::id::Digest;

impl Store {
    /// Returns the result of the step `digest`, if there is an entry.
    ///
    /// # Errors
    /// Errors of the database.
    pub fn step(&self, digest: Digest) -> Result<Option<CachedStep>> {
        // A recovery first drops snapshots that were not on disk when their writer ended.
        self.begin()?;
        self.meta.view(|tx| steps::find(tx, self.owner(), digest))
    }

    /// Records the result of the step `digest`. A power cut may take the record.
    ///
    /// # Errors
    /// `NotFound` if the snapshot of the result is gone; `InvalidArgument` if the snapshot is not committed.
    pub fn note_step(&self, digest: Digest, step: &CachedStep) -> Result<()> {
        self.begin()?;
        self.meta.transact(Level::Relaxed, |tx| {
            let top = match &step.top {
                None => None,
                Some(name) => {
                    let row = rows::visible(tx, self.owner(), name)?;
                    if row.kind != Kind::Committed {
                        return Err(Error::invalid(format!("the snapshot {name:?} of a step is not committed")).into());
                    }
                    Some(row.row)
                }
            };
            steps::insert(tx, self.owner(), digest, top, step.layer.map(|(_, bytes)| bytes))
        })
    }
}
