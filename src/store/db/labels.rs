//! Labels of snapshots, and the answers of `stat` and `walk`.

use rusqlite::{OptionalExtension as _, Row as SqlRow, Transaction, params};

use super::rows::{Answer, id_of, kind_of, now, timestamp};
use crate::id::Id;
use crate::snapshotter::{Info, Labels};

/// Replaces all labels of a row.
pub(in crate::store) fn set_labels(tx: &Transaction<'_>, row: i64, labels: &Labels) -> Answer<()> {
    tx.prepare_cached("DELETE FROM label WHERE snapshot = ?1")?.execute([row])?;
    add_labels(tx, row, labels)
}

/// Gives a row more labels.
pub(in crate::store) fn add_labels(tx: &Transaction<'_>, row: i64, labels: &Labels) -> Answer<()> {
    labels.iter().try_for_each(|(name, value)| set_label(tx, row, name, value))
}

/// Sets one label of a row, or removes it if the value is empty.
pub(in crate::store) fn set_label(tx: &Transaction<'_>, row: i64, name: &str, value: &str) -> Answer<()> {
    if value.is_empty() {
        tx.prepare_cached("DELETE FROM label WHERE snapshot = ?1 AND name = ?2")?.execute(params![row, name])?;
    } else {
        tx.prepare_cached("INSERT OR REPLACE INTO label VALUES (?1, ?2, ?3)")?.execute(params![row, name, value])?;
    }
    Ok(())
}

/// The bytes of all labels of a row, names and values together.
pub(in crate::store) fn bytes_of_labels(tx: &Transaction<'_>, row: i64) -> Answer<usize> {
    let text = "SELECT coalesce(sum(octet_length(name) + octet_length(value)), 0) FROM label WHERE snapshot = ?1";
    let bytes: i64 = tx.prepare_cached(text)?.query_row([row], |row| row.get(0))?;
    Ok(usize::try_from(bytes).unwrap_or_default())
}

/// One label of a row.
pub(in crate::store) fn label(tx: &Transaction<'_>, row: i64, name: &str) -> Answer<Option<String>> {
    let mut statement = tx.prepare_cached("SELECT value FROM label WHERE snapshot = ?1 AND name = ?2")?;
    Ok(statement.query_row(params![row, name], |row| row.get(0)).optional()?)
}

/// The ids of the committed snapshots, of all owners, that have the label `name`.
pub(in crate::store) fn labelled(tx: &Transaction<'_>, name: &str) -> Answer<Vec<Id>> {
    let mut statement = tx.prepare_cached(
        "SELECT s.id FROM label l JOIN snapshot s ON s.row = l.snapshot WHERE l.name = ?1 AND s.kind = 3 AND s.state IN (0, 2)",
    )?;
    let ids = statement.query_map([name], |row| row.get::<_, i64>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    ids.into_iter().map(id_of).collect()
}

/// Sets the time of the last change of labels to now.
pub(in crate::store) fn touch(tx: &Transaction<'_>, row: i64) -> Answer<()> {
    tx.prepare_cached("UPDATE snapshot SET updated = ?2 WHERE row = ?1")?.execute(params![row, now()])?;
    Ok(())
}

const INFO: &str = "SELECT s.row, s.kind, s.name, coalesce(p.name, ''), s.created, s.updated
    FROM snapshot s LEFT JOIN snapshot p ON p.row = s.parent";

/// The answer of `stat` for one visible snapshot.
pub(in crate::store) fn info(tx: &Transaction<'_>, row: i64) -> Answer<Info> {
    let mut statement = tx.prepare_cached(&format!("{INFO} WHERE s.row = ?1"))?;
    let (_, info) = statement.query_row([row], info_of)?;
    let mut info = info?;
    let mut statement = tx.prepare_cached("SELECT name, value FROM label WHERE snapshot = ?1")?;
    info.labels = statement.query_map([row], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    Ok(info)
}

/// Returns the owners of snapshots, sorted by name.
pub(in crate::store) fn owners(tx: &Transaction<'_>) -> Answer<Vec<String>> {
    let mut statement = tx.prepare_cached("SELECT DISTINCT owner FROM snapshot ORDER BY owner")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// The answers of `stat` for every visible snapshot of `owner`, by key.
pub(in crate::store) fn infos(tx: &Transaction<'_>, owner: &str) -> Answer<Vec<Info>> {
    let mut labels = tx.prepare_cached("SELECT name, value FROM label WHERE snapshot = ?1")?;
    let mut statement =
        tx.prepare_cached(&format!("{INFO} WHERE s.owner = ?1 AND s.state IN (0, 2) ORDER BY s.name"))?;
    let mut rows = statement.query([owner])?;
    let mut infos = Vec::new();
    while let Some(row) = rows.next()? {
        let (number, info) = info_of(row)?;
        let mut info = info?;
        info.labels =
            labels.query_map([number], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
        infos.push(info);
    }
    Ok(infos)
}

fn info_of(row: &SqlRow<'_>) -> rusqlite::Result<(i64, Answer<Info>)> {
    let (kind, created, updated) = (row.get(1)?, row.get(4)?, row.get(5)?);
    let (name, parent) = (row.get(2)?, row.get(3)?);
    let info = kind_of(kind).map(|kind| Info {
        kind,
        name,
        parent,
        labels: Labels::new(),
        created: timestamp(created),
        updated: timestamp(updated),
    });
    Ok((row.get(0)?, info))
}
