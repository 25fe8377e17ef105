//! Which rows are durable, the ancestors of a row, and which process may mark a row durable.

use rusqlite::{OptionalExtension as _, Row as SqlRow, Transaction, params};

use super::rows::{Answer, damaged, id_of};
use crate::id::Id;

/// A finished row that is not durable. Id and kind identify it: ids are never used twice, and the kind changes when an
/// active snapshot is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Unvouched {
    pub id: i64,
    pub kind: i64,
    pub voucher: String,
}

impl Unvouched {
    /// Reads the row whose id, kind and voucher are in `columns`.
    pub(in crate::store) fn of(row: &SqlRow<'_>, columns: [usize; 3]) -> rusqlite::Result<Self> {
        let voucher: Option<String> = row.get(columns[2])?;
        Ok(Self { id: row.get(columns[0])?, kind: row.get(columns[1])?, voucher: voucher.unwrap_or_default() })
    }

    /// Returns the worker that wrote the row, and the id at which it wrote; `None` without a voucher.
    pub(in crate::store) fn writer(&self) -> Option<(&str, u64)> {
        let (worker, id) = self.voucher.split_once(' ')?;
        Some((worker, id.parse().ok()?))
    }

    /// Returns the worker that wrote the row.
    pub(in crate::store) fn worker(&self) -> Option<&str> {
        self.writer().map(|(worker, _)| worker)
    }
}

/// The ancestors of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Ancestry {
    /// Ids, nearest first.
    pub ids: Vec<Id>,
    /// The rows that are not durable.
    pub not_durable: Vec<Unvouched>,
}

/// Returns `row` and its ancestors; nothing if `row` is not there any more. The rows are read one by one: a recursive
/// query makes tables of its own, which takes longer than everything else that a commit does in the database.
pub(in crate::store) fn ancestry(tx: &Transaction<'_>, row: Option<i64>) -> Answer<Ancestry> {
    let mut statement = tx.prepare_cached("SELECT id, parent, durable, kind, voucher FROM snapshot WHERE row = ?1")?;
    let (mut found, mut next) = (Ancestry::default(), row);
    while let Some(row) = next {
        let below = statement
            .query_row([row], |row| {
                let unvouched = if row.get(2)? { None } else { Some(Unvouched::of(row, [0, 3, 4])?) };
                Ok((row.get(0)?, row.get(1)?, unvouched))
            })
            .optional()?;
        let (id, parent, unvouched): (_, Option<i64>, _) = match below {
            Some(below) => below,
            None if found.ids.is_empty() => break,
            None => return Err(damaged("parent").into()),
        };
        found.ids.push(id_of(id)?);
        found.not_durable.extend(unvouched);
        // A child has a larger row number than its parent. Without this check, a chain in a damaged table might never
        // end.
        if parent.is_some_and(|parent| parent >= row) {
            return Err(damaged("parent").into());
        }
        next = parent;
    }
    Ok(found)
}

/// Returns the ids of `row` and its ancestors, nearest first; none if `row` is not there any more.
pub(in crate::store) fn chain(tx: &Transaction<'_>, row: Option<i64>) -> Answer<Vec<Id>> {
    ancestry(tx, row).map(|ancestry| ancestry.ids)
}

/// Returns the finished rows that are not durable, of every owner.
pub(in crate::store) fn unvouched(tx: &Transaction<'_>) -> Answer<Vec<Unvouched>> {
    let mut statement =
        tx.prepare_cached("SELECT id, kind, voucher FROM snapshot WHERE durable = 0 AND state IN (0, 2)")?;
    Ok(statement.query_map([], |row| Unvouched::of(row, [0, 1, 2]))?.collect::<rusqlite::Result<_>>()?)
}

/// Returns the row `row`, if it is not durable.
pub(in crate::store) fn unvouched_row(tx: &Transaction<'_>, row: i64) -> Answer<Option<Unvouched>> {
    let mut statement = tx.prepare_cached("SELECT id, kind, voucher FROM snapshot WHERE row = ?1 AND durable = 0")?;
    Ok(statement.query_row([row], |row| Unvouched::of(row, [0, 1, 2])).optional()?)
}

/// Marks `known` durable, except rows whose voucher was taken away meanwhile because a sync failed.
pub(in crate::store) fn vouch(tx: &Transaction<'_>, known: &[Unvouched]) -> Answer<()> {
    let mut statement = tx.prepare_cached(
        "UPDATE snapshot SET durable = 1, voucher = NULL
         WHERE id = ?1 AND kind = ?2 AND durable = 0 AND coalesce(voucher, '') = ?3",
    )?;
    known.iter().try_for_each(|row| statement.execute(params![row.id, row.kind, row.voucher]).map(drop))?;
    Ok(())
}

/// Returns true if a sync has failed since `row` was made, so that its data may be lost.
pub(in crate::store) fn is_doubtful(tx: &Transaction<'_>, row: i64) -> Answer<bool> {
    Ok(tx.prepare_cached("SELECT 1 FROM snapshot WHERE row = ?1 AND voucher = ''")?.exists([row])?)
}

/// Returns the ids of the active snapshots whose data may be lost because a sync failed.
pub(in crate::store) fn doubtful_ids(tx: &Transaction<'_>) -> Answer<Vec<i64>> {
    let mut statement = tx.prepare_cached("SELECT id FROM snapshot WHERE durable = 1 AND voucher = ''")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Forgets failed syncs after a boot. From then on an active snapshot shows the content that is on disk.
pub(in crate::store) fn forget_doubts(tx: &Transaction<'_>) -> Answer<()> {
    tx.execute("UPDATE snapshot SET voucher = NULL WHERE durable = 1 AND voucher IS NOT NULL", [])?;
    Ok(())
}

/// Returns the worker that has `row` in work, or holds it.
pub(in crate::store) fn worker_of(tx: &Transaction<'_>, row: i64) -> Answer<Option<String>> {
    let mut statement = tx.prepare_cached("SELECT worker FROM snapshot WHERE row = ?1")?;
    Ok(statement.query_row([row], |row| row.get(0))?)
}

/// Takes away the vouchers of all rows that are not durable, and of all active snapshots, because a sync failed and
/// their data may be lost.
pub(in crate::store) fn doubt_all(tx: &Transaction<'_>) -> Answer<()> {
    tx.execute("UPDATE snapshot SET voucher = '' WHERE durable = 0 OR kind = 2", [])?;
    Ok(())
}

/// Takes away the voucher of `row`, whose data may be lost.
pub(in crate::store) fn doubt(tx: &Transaction<'_>, row: i64) -> Answer<()> {
    tx.execute("UPDATE snapshot SET voucher = '' WHERE row = ?1", [row])?;
    Ok(())
}
