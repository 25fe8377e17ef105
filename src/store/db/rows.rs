//! The rows of the snapshot table, as values, and the statements that read and write them.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension as _, Row as SqlRow, Transaction, named_params, params};

use super::meta::Failed;
use crate::backend::Usage;
use crate::error::{Error, Result};
use crate::id::{DiffId, Id};
use crate::mount::IdMap;
use crate::snapshotter::Kind;
use crate::tree::Timestamp;

/// The state of a row, which decides what may be done with it: see the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum State {
    Ready = 0,
    Creating = 1,
    Claimed = 2,
    Reserved = 3,
}

/// The reason for a snapshot: it decides whether `gc` may remove the unused snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A user or a client named the snapshot: only they remove it.
    Named = 0,
    /// The snapshot is a layer of an image.
    Image = 1,
}

/// One snapshot.
#[derive(Clone, Debug)]
pub(in crate::store) struct Row {
    pub row: i64,
    pub id: Id,
    pub name: String,
    pub kind: Kind,
    pub state: State,
    pub parent: Option<i64>,
    pub usage: Usage,
    pub diff_id: Option<DiffId>,
    pub origin: Origin,
    /// The ids of the user namespace that the snapshot was made for.
    pub id_map: Option<IdMap>,
}

impl Row {
    /// Returns true if a process puts a layer together in the snapshot. No other process uses such a snapshot.
    pub(in crate::store) fn is_unfinished_layer(&self) -> bool {
        self.kind == Kind::Active && self.origin == Origin::Image
    }
}

/// A row with further columns, for looking at all rows of a store.
#[derive(Clone, Debug)]
pub(in crate::store) struct Listed {
    pub row: Row,
    pub owner: String,
    /// The process that works on the row, or holds it.
    pub worker: Option<String>,
}

impl Listed {
    /// True if a call has reported the snapshot to its caller.
    pub(in crate::store) fn is_finished(&self) -> bool {
        matches!(self.row.state, State::Ready | State::Claimed)
    }

    /// Returns true if the snapshot has a directory: all but views of a committed snapshot.
    pub(in crate::store) fn has_directory(&self) -> bool {
        self.row.kind != Kind::View || self.row.parent.is_none()
    }
}

/// The content of a new row.
#[derive(Debug)]
pub(in crate::store) struct New<'a> {
    pub id: Id,
    pub owner: &'a str,
    pub name: &'a str,
    pub kind: Kind,
    pub state: State,
    pub parent: Option<i64>,
    pub worker: Option<&'a str>,
    pub durable: bool,
    /// The worker that may mark the row durable, and the id of its write: see `vouch.rs`.
    pub voucher: Option<&'a str>,
    pub origin: Origin,
    pub id_map: Option<&'a IdMap>,
}

const COLUMNS: &str = "row, id, name, kind, state, parent, size_bytes, inodes, diff_id, origin, id_map";

/// A result of the database, or why the transaction failed.
pub(in crate::store) type Answer<T> = Result<T, Failed>;

/// Returns the error for a value that no version of strata writes.
pub(super) fn damaged(what: &str) -> Error {
    Error::data_loss(format!("the store's database holds a wrong {what}: it is damaged, or something else wrote to it"))
}

pub(super) fn kind_of(number: i64) -> Answer<Kind> {
    match number {
        1 => Ok(Kind::View),
        2 => Ok(Kind::Active),
        3 => Ok(Kind::Committed),
        _ => Err(damaged("kind").into()),
    }
}

fn row_of(row: &SqlRow<'_>) -> rusqlite::Result<Answer<Row>> {
    let (kind, state): (i64, i64) = (row.get(3)?, row.get(4)?);
    let (diff_id, id_map): (Option<String>, Option<String>) = (row.get(8)?, row.get(10)?);
    let (id, size, inodes): (i64, i64, i64) = (row.get(1)?, row.get(6)?, row.get(7)?);
    let (number, name, parent, origin) = (row.get(0)?, row.get(2)?, row.get(5)?, row.get::<_, i64>(9)?);
    Ok((|| {
        let state = match state {
            0 => State::Ready,
            1 => State::Creating,
            2 => State::Claimed,
            3 => State::Reserved,
            _ => return Err(damaged("state").into()),
        };
        let usage = Usage { size_bytes: size.unsigned_abs(), inodes: inodes.unsigned_abs() };
        let diff_id = diff_id.map(|text| text.parse()).transpose().map_err(|_| damaged("DiffID"))?;
        let origin = if origin == Origin::Image as i64 { Origin::Image } else { Origin::Named };
        let id_map = id_map.map(|text| text.parse()).transpose().map_err(|_| damaged("id map"))?;
        let (id, kind) = (id_of(id)?, kind_of(kind)?);
        Ok(Row { row: number, id, name, kind, state, parent, usage, diff_id, origin, id_map })
    })())
}

pub(super) fn id_of(number: i64) -> Answer<Id> {
    u64::try_from(number).map(Id).map_err(|_| damaged("id").into())
}

fn sql_id(id: Id) -> Answer<i64> {
    i64::try_from(id.0).map_err(|_| damaged("id").into())
}

/// Returns the time in nanoseconds since 1970, as the tables have it.
pub(in crate::store) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

pub(in crate::store) fn timestamp(nanos: i64) -> Timestamp {
    const SECOND: i64 = 1_000_000_000;
    let rest = u32::try_from(nanos.rem_euclid(SECOND)).unwrap_or(0);
    Timestamp { seconds: nanos.div_euclid(SECOND), nanos: rest }
}

/// Returns the row that holds `name`, in any state.
pub(in crate::store) fn holder(tx: &Transaction<'_>, owner: &str, name: &str) -> Answer<Option<Row>> {
    let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM snapshot WHERE owner = ?1 AND name = ?2"))?;
    statement.query_row(params![owner, name], row_of).optional()?.transpose()
}

/// Returns the row that `key` names for a caller. A row that is being created is `NotFound`.
pub(in crate::store) fn visible(tx: &Transaction<'_>, owner: &str, key: &str) -> Answer<Row> {
    match holder(tx, owner, key)? {
        Some(row) if matches!(row.state, State::Ready | State::Claimed) => Ok(row),
        _ => Err(Error::not_found(format!("there is no snapshot {key:?}: strata ls lists them")).into()),
    }
}

/// Returns the row `row`. The number of a removed row may be given again.
pub(in crate::store) fn by_number(tx: &Transaction<'_>, number: i64) -> Answer<Option<Row>> {
    let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM snapshot WHERE row = ?1"))?;
    statement.query_row([number], row_of).optional()?.transpose()
}

/// Returns the row with the id `id`. Ids are never given again.
pub(in crate::store) fn by_id(tx: &Transaction<'_>, id: Id) -> Answer<Option<Row>> {
    let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM snapshot WHERE id = ?1"))?;
    statement.query_row([sql_id(id)?], row_of).optional()?.transpose()
}

/// Returns the number of visible snapshots of `owner`, by kind.
pub(in crate::store) fn count(tx: &Transaction<'_>, owner: &str) -> Answer<BTreeMap<Kind, u64>> {
    let mut statement = tx.prepare_cached(
        "SELECT kind, count(*) FROM snapshot WHERE owner = ?1 AND state IN (0, 2) GROUP BY kind ORDER BY kind",
    )?;
    let rows = statement.query_map([owner], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    let rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    rows.into_iter().map(|(kind, count)| Ok((kind_of(kind)?, count.unsigned_abs()))).collect()
}

/// Returns true if `row` has children, including those that are being created.
pub(in crate::store) fn has_children(tx: &Transaction<'_>, row: i64) -> Answer<bool> {
    Ok(tx.prepare_cached("SELECT 1 FROM snapshot WHERE parent = ?1 LIMIT 1")?.exists([row])?)
}

/// Returns `row` and its descendants, including those that are being created; children come first.
pub(in crate::store) fn with_descendants(tx: &Transaction<'_>, row: i64) -> Answer<Vec<Row>> {
    let mut statement = tx.prepare_cached(&format!(
        "WITH RECURSIVE tree (number, depth) AS (
             SELECT ?1, 0
             UNION ALL SELECT s.row, depth + 1 FROM snapshot s JOIN tree ON s.parent = tree.number
         ) SELECT {COLUMNS} FROM snapshot JOIN tree ON row = number ORDER BY depth DESC, row DESC"
    ))?;
    let rows: Vec<Answer<Row>> = statement.query_map([row], row_of)?.collect::<rusqlite::Result<_>>()?;
    rows.into_iter().collect()
}

/// Takes the next id.
pub(in crate::store) fn next_id(tx: &Transaction<'_>) -> Answer<Id> {
    let mut statement = tx.prepare_cached("SELECT value FROM setting WHERE name = 'next_id'")?;
    let number = statement.query_row([], |row| row.get::<_, i64>(0)).optional()?;
    let id = id_of(number.ok_or_else(|| damaged("next_id"))?)?;
    tx.prepare_cached("UPDATE setting SET value = value + 1 WHERE name = 'next_id'")?.execute([])?;
    Ok(id)
}

/// Returns the id that [`next_id`] would take.
pub(in crate::store) fn first_free_id(tx: &Transaction<'_>) -> Answer<Id> {
    id_of(tx.query_row("SELECT value FROM setting WHERE name = 'next_id'", [], |row| row.get(0))?)
}

/// Makes sure that `id` and smaller ids are never given.
pub(in crate::store) fn skip_ids(tx: &Transaction<'_>, id: Id) -> Answer<()> {
    tx.execute("UPDATE setting SET value = max(value, ?1 + 1) WHERE name = 'next_id'", [sql_id(id)?])?;
    Ok(())
}

/// Adds a row, and returns its number.
pub(in crate::store) fn insert(tx: &Transaction<'_>, new: &New<'_>) -> Answer<i64> {
    tx.prepare_cached(
        "INSERT INTO snapshot (id, owner, name, kind, state, parent, worker, created, updated, durable, voucher, origin,
                               id_map)
         VALUES (:id, :owner, :name, :kind, :state, :parent, :worker, :now, :now, :durable, :voucher, :origin, :id_map)",
    )?
    .execute(named_params! {
        ":id": sql_id(new.id)?, ":owner": new.owner, ":name": new.name, ":kind": new.kind as i64,
        ":state": new.state as i64, ":parent": new.parent, ":worker": new.worker, ":now": now(),
        ":durable": new.durable, ":voucher": new.voucher, ":origin": new.origin as i64,
        ":id_map": new.id_map.map(ToString::to_string),
    })?;
    Ok(tx.last_insert_rowid())
}

/// Gives another id to a row that is being created.
pub(in crate::store) fn renumber(tx: &Transaction<'_>, row: i64, id: Id) -> Answer<()> {
    tx.execute("UPDATE snapshot SET id = ?2 WHERE row = ?1", params![row, sql_id(id)?])?;
    Ok(())
}

/// Sets a row's state, and the worker that has the row in work.
pub(in crate::store) fn set_state(tx: &Transaction<'_>, row: i64, state: State, worker: Option<&str>) -> Answer<()> {
    tx.prepare_cached("UPDATE snapshot SET state = ?2, worker = ?3 WHERE row = ?1")?.execute(params![
        row,
        state as i64,
        worker
    ])?;
    Ok(())
}

/// Sets the DiffID of the layer that was applied to an active snapshot.
pub(in crate::store) fn set_diff_id(tx: &Transaction<'_>, row: i64, diff_id: Option<DiffId>) -> Answer<()> {
    tx.prepare_cached("UPDATE snapshot SET diff_id = ?2 WHERE row = ?1 AND kind = 2")?
        .execute(params![row, diff_id.map(|digest| digest.to_string())])?;
    Ok(())
}

/// Makes a row ready. Its worker goes on to hold it.
pub(in crate::store) fn unclaim(tx: &Transaction<'_>, row: i64) -> Answer<()> {
    tx.prepare_cached("UPDATE snapshot SET state = ?2 WHERE row = ?1")?.execute(params![row, State::Ready as i64])?;
    Ok(())
}

/// The content of a row after a commit.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Published<'a> {
    pub name: &'a str,
    pub usage: Usage,
    pub durable: bool,
    /// The voucher of a row that is not durable yet.
    pub voucher: Option<&'a str>,
    pub origin: Origin,
    pub diff_id: Option<DiffId>,
    /// The worker that goes on to hold the row.
    pub held_by: Option<&'a str>,
}

/// Makes `row` a committed snapshot, created now.
pub(in crate::store) fn publish(tx: &Transaction<'_>, row: i64, published: &Published<'_>) -> Answer<()> {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    tx.prepare_cached(
        "UPDATE snapshot SET name = :name, kind = 3, state = 0, worker = :worker, created = :now, updated = :now,
             size_bytes = :size, inodes = :inodes, durable = :durable, voucher = :voucher, origin = :origin, diff_id = :diff_id,
             id_map = NULL
         WHERE row = :row",
    )?
    .execute(named_params! {
        ":row": row, ":name": published.name, ":now": now(), ":size": signed(published.usage.size_bytes),
        ":inodes": signed(published.usage.inodes), ":durable": published.durable, ":voucher": published.voucher,
        ":origin": published.origin as i64, ":worker": published.held_by, ":diff_id": published.diff_id.map(|digest| digest.to_string()),
    })?;
    Ok(())
}

/// Moves a row into the trash. The next drain frees its space.
pub(in crate::store) fn discard(tx: &Transaction<'_>, row: i64) -> Answer<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO trash SELECT id FROM snapshot WHERE row = ?1")?.execute([row])?;
    delete(tx, row)
}

/// Removes a row without a directory.
pub(in crate::store) fn delete(tx: &Transaction<'_>, row: i64) -> Answer<()> {
    tx.prepare_cached("DELETE FROM snapshot WHERE row = ?1")?.execute([row])?;
    Ok(())
}

/// Puts an id into the trash whose directory is debris.
pub(in crate::store) fn discard_id(tx: &Transaction<'_>, id: Id) -> Answer<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO trash VALUES (?1)")?.execute([sql_id(id)?])?;
    Ok(())
}

/// Returns the ids in the trash.
pub(in crate::store) fn trash(tx: &Transaction<'_>) -> Answer<Vec<Id>> {
    let mut statement = tx.prepare_cached("SELECT id FROM trash ORDER BY id")?;
    let ids: Vec<i64> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    ids.into_iter().map(id_of).collect()
}

/// Removes `id` from the trash: its directory is gone.
pub(in crate::store) fn forget(tx: &Transaction<'_>, id: Id) -> Answer<()> {
    tx.prepare_cached("DELETE FROM trash WHERE id = ?1")?.execute([sql_id(id)?])?;
    Ok(())
}

/// Records that a row's content is on disk.
pub(in crate::store) fn set_durable(tx: &Transaction<'_>, row: i64) -> Answer<()> {
    tx.prepare_cached("UPDATE snapshot SET durable = 1, voucher = NULL WHERE row = ?1")?.execute([row])?;
    Ok(())
}

/// Returns every row that a worker has in work, or holds for an image without a name yet, with the worker.
pub(in crate::store) fn in_work(tx: &Transaction<'_>) -> Answer<Vec<(Row, String)>> {
    let mut statement =
        tx.prepare_cached(&format!("SELECT {COLUMNS}, worker FROM snapshot WHERE worker IS NOT NULL"))?;
    let rows: Vec<(Answer<Row>, String)> =
        statement.query_map([], |row| Ok((row_of(row)?, row.get(11)?)))?.collect::<rusqlite::Result<_>>()?;
    rows.into_iter().map(|(row, worker)| row.map(|row| (row, worker))).collect()
}

/// Returns every row, by owner and name.
pub(in crate::store) fn listed(tx: &Transaction<'_>) -> Answer<Vec<Listed>> {
    let mut statement =
        tx.prepare_cached(&format!("SELECT {COLUMNS}, owner, worker FROM snapshot ORDER BY owner, name"))?;
    let rows: Vec<(Answer<Row>, String, Option<String>)> = statement
        .query_map([], |row| Ok((row_of(row)?, row.get(11)?, row.get(12)?)))?
        .collect::<rusqlite::Result<_>>()?;
    rows.into_iter().map(|(row, owner, worker)| row.map(|row| Listed { row, owner, worker })).collect()
}

/// Sets the DiffID of the committed snapshot `id`, if it has none.
pub(in crate::store) fn record(tx: &Transaction<'_>, id: Id, diff_id: DiffId) -> Answer<()> {
    tx.prepare_cached("UPDATE snapshot SET diff_id = ?2 WHERE id = ?1 AND kind = 3 AND diff_id IS NULL")?
        .execute(params![sql_id(id)?, diff_id.to_string()])?;
    Ok(())
}

/// Lets `worker` hold a finished row, so that the row is not collected while the worker lives. A row that another
/// worker holds stays with that worker.
pub(in crate::store) fn hold(tx: &Transaction<'_>, row: i64, worker: &str) -> Answer<()> {
    tx.prepare_cached("UPDATE snapshot SET worker = ?2 WHERE row = ?1 AND state = 0 AND worker IS NULL")?
        .execute(params![row, worker])?;
    Ok(())
}

/// Ends the hold of a worker on `row` and on all below it.
pub(in crate::store) fn release(tx: &Transaction<'_>, row: i64) -> Answer<()> {
    tx.prepare_cached(
        "UPDATE snapshot SET worker = NULL WHERE state = 0 AND worker IS NOT NULL AND row IN (
             WITH RECURSIVE chain (row, parent) AS (
                 SELECT row, parent FROM snapshot WHERE row = ?1
                 UNION ALL SELECT s.row, s.parent FROM snapshot s JOIN chain ON s.row = chain.parent
             ) SELECT row FROM chain)",
    )?
    .execute([row])?;
    Ok(())
}

/// Returns the rows that are not durable, and their descendants, in any order.
pub(in crate::store) fn lost(tx: &Transaction<'_>) -> Answer<Vec<i64>> {
    let mut statement = tx.prepare_cached(
        "WITH RECURSIVE lost (row) AS (
             SELECT row FROM snapshot WHERE durable = 0
             UNION SELECT s.row FROM snapshot s JOIN lost ON s.parent = lost.row
         ) SELECT row FROM lost",
    )?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Returns those of `ids` that are in no row and not in the trash.
pub(in crate::store) fn without_row(tx: &Transaction<'_>, ids: &[Id]) -> Answer<Vec<Id>> {
    let mut known =
        tx.prepare_cached("SELECT 1 FROM snapshot WHERE id = ?1 UNION SELECT 1 FROM trash WHERE id = ?1")?;
    let mut rowless = Vec::new();
    for id in ids {
        if !known.exists([sql_id(*id)?])? {
            rowless.push(*id);
        }
    }
    Ok(rowless)
}

/// Returns the finished snapshots that must have a directory: all but views of a committed snapshot.
pub(in crate::store) fn with_own_directory(tx: &Transaction<'_>) -> Answer<Vec<Id>> {
    let mut statement =
        tx.prepare_cached("SELECT id FROM snapshot WHERE state IN (0, 2) AND (kind != 1 OR parent IS NULL)")?;
    let ids: Vec<i64> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    ids.into_iter().map(id_of).collect()
}

/// Returns the committed layers of images of `owner` that no image, child or worker needs.
pub(in crate::store) fn unused(tx: &Transaction<'_>, owner: &str) -> Answer<Vec<i64>> {
    let mut statement = tx.prepare_cached(
        "SELECT row FROM snapshot s WHERE owner = ?1 AND kind = 3 AND state = 0 AND origin = 1 AND worker IS NULL
             AND NOT EXISTS (SELECT 1 FROM snapshot c WHERE c.parent = s.row)
             AND NOT EXISTS (SELECT 1 FROM image i WHERE i.top = s.row)",
    )?;
    Ok(statement.query_map([owner], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Returns a setting of the store.
pub(in crate::store) fn setting(tx: &Transaction<'_>, name: &str) -> Answer<Option<String>> {
    Ok(tx
        .prepare_cached("SELECT value FROM setting WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?)
}

/// Changes a setting of the store.
pub(in crate::store) fn set_setting(tx: &Transaction<'_>, name: &str, value: &str) -> Answer<()> {
    tx.execute("INSERT OR REPLACE INTO setting VALUES (?1, ?2)", params![name, value])?;
    Ok(())
}
