//! The results of steps of builds.

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::rows::Answer;
use crate::id::{DiffId, Digest};

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedStep {
    /// The committed snapshot after the step; `None` if neither the step nor one before it made a layer.
    pub top: Option<String>,
    /// The layer that the step made, and the length of its tar stream in bytes; `None` if the step changed nothing.
    pub layer: Option<(DiffId, u64)>,
}

/// Returns the result of the step `digest` of `owner`; `None` if the step is unknown or its layer has no DiffID.
pub(in crate::store) fn find(tx: &Transaction<'_>, owner: &str, digest: Digest) -> Answer<Option<CachedStep>> {
    let found = tx
        .prepare_cached(
            "SELECT s.name, s.diff_id, b.layer_bytes FROM step b LEFT JOIN snapshot s ON s.row = b.top
             WHERE b.owner = ?1 AND b.digest = ?2",
        )?
        .query_row(params![owner, digest.to_string()], |row| {
            Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?, row.get::<_, Option<i64>>(2)?))
        })
        .optional()?;
    let Some((top, diff_id, bytes)) = found else { return Ok(None) };
    let layer = match (bytes, diff_id) {
        (None, _) => None,
        (Some(bytes), Some(diff_id)) => Some((diff_id.parse::<DiffId>()?, bytes.unsigned_abs())),
        (Some(_), None) => return Ok(None),
    };
    Ok(Some(CachedStep { top, layer }))
}

/// Records the result of the step `digest` of `owner`; its snapshot is the row `top`.
pub(in crate::store) fn insert(
    tx: &Transaction<'_>,
    owner: &str,
    digest: Digest,
    top: Option<i64>,
    layer_bytes: Option<u64>,
) -> Answer<()> {
    // Every layer is shorter than the largest number.
    let layer_bytes = layer_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let mut statement = tx.prepare_cached("INSERT OR REPLACE INTO step VALUES (?1, ?2, ?3, ?4)")?;
    statement.execute(params![owner, digest.to_string(), top, layer_bytes])?;
    Ok(())
}
