//! The results of build steps: the build cache.
//!
//! A step is known by a digest of everything that the step depends on. The result of a step is a committed snapshot,
//! which may be the snapshot that the step started from. An entry goes when its snapshot does.

use rusqlite::{OptionalExtension as _, params};

use super::meta::{Failed, Level};
use super::rows;
use super::{Kind, Store};
use crate::error::{Error, Result};
use crate::id::{DiffId, Digest};

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The committed snapshot after it; `None` if there is none yet and it changed nothing.
    pub top: Option<String>,
    /// The layer that it made, and the length of its tar stream in bytes; `None` if it changed nothing.
    pub layer: Option<(DiffId, u64)>,
}

impl Store {
    /// The result of the step `digest`, if it is known and still there.
    ///
    /// # Errors
    /// Errors of the database.
    pub fn step(&self, digest: Digest) -> Result<Option<Step>> {
        // A recovery takes away what was not on disk when its writer ended.
        self.begin()?;
        self.meta.view(|tx| {
            let found = tx
                .prepare_cached(
                    "SELECT s.name, s.diff_id, b.layer_bytes FROM step b LEFT JOIN snapshot s ON s.row = b.top
                     WHERE b.owner = ?1 AND b.digest = ?2",
                )?
                .query_row(params![self.owner(), digest.to_string()], |row| {
                    Ok((
                        row.get::<_, Option<String>>(0)?,
                        row.get::<_, Option<String>>(1)?,
                        row.get::<_, Option<i64>>(2)?,
                    ))
                })
                .optional()?;
            let Some((top, diff_id, bytes)) = found else { return Ok(None) };
            let layer = match (bytes, diff_id) {
                (None, _) => None,
                (Some(bytes), Some(diff_id)) => Some((diff_id.parse::<DiffId>()?, bytes.unsigned_abs())),
                (Some(_), None) => return Ok(None),
            };
            Ok::<_, Failed>(Some(Step { top, layer }))
        })
    }

    /// Notes what the step `digest` came to. A power cut may take the note.
    ///
    /// # Errors
    /// `NotFound` if its snapshot is gone; `InvalidArgument` if that is not committed.
    pub fn note_step(&self, digest: Digest, step: &Step) -> Result<()> {
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
            tx.prepare_cached("INSERT OR REPLACE INTO step VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                self.owner(),
                digest.to_string(),
                top,
                // No layer is so long that it does not fit.
                step.layer.map(|(_, bytes)| i64::try_from(bytes).unwrap_or(i64::MAX)),
            ])?;
            Ok::<_, Failed>(())
        })
    }
}
