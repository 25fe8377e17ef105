//! The results of build steps: the build cache.
//!
//! A step is known by a digest of everything that the step depends on. The result of a step is a committed snapshot,
//! which may be the snapshot that the step started from. An entry goes when its snapshot does.

use super::db::meta::Level;
use super::db::rows;
use super::db::steps::{self, CachedStep};
use super::{Kind, Store};
use crate::error::{Error, Result};
use crate::id::Digest;

impl Store {
    /// The result of the step `digest`, if it is known and still there.
    ///
    /// # Errors
    /// Errors of the database.
    pub fn step(&self, digest: Digest) -> Result<Option<CachedStep>> {
        // A recovery takes away what was not on disk when its writer ended.
        self.begin()?;
        self.meta.view(|tx| steps::find(tx, self.owner(), digest))
    }

    /// Notes what the step `digest` came to. A power cut may take the note.
    ///
    /// # Errors
    /// `NotFound` if its snapshot is gone; `InvalidArgument` if that is not committed.
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
