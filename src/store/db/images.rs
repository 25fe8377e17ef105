//! The images and their documents.

use rusqlite::{Connection, OptionalExtension as _, Row as SqlRow, Transaction, params};

use super::rows::{self, Answer};
use crate::id::Digest;
use crate::snapshotter::Kind;
use crate::tree::Timestamp;

/// An image of the store.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Image {
    /// The name of the image.
    pub name: String,
    /// The digest of the config: the image ID.
    pub config: Digest,
    /// The digest of the manifest.
    pub manifest: Digest,
    /// The committed snapshot of the topmost layer; `None` if the image has no layer.
    pub top: Option<String>,
    /// The time at which the store recorded the image.
    #[serde(skip)]
    pub created: Timestamp,
}

/// An image to record.
#[derive(Debug)]
pub struct NewImage<'a> {
    /// The name of the image. An existing image of that name is replaced.
    pub name: &'a str,
    /// The bytes of the config.
    pub config: &'a [u8],
    /// The bytes of the manifest.
    pub manifest: &'a [u8],
    /// The committed snapshot of the topmost layer.
    pub top: Option<&'a str>,
}

const COLUMNS: &str = "SELECT i.name, i.config, i.manifest, s.name, i.created
    FROM image i LEFT JOIN snapshot s ON s.row = i.top";

fn image_of(row: &SqlRow<'_>) -> rusqlite::Result<Answer<Image>> {
    let (config, manifest): (String, String) = (row.get(1)?, row.get(2)?);
    let (name, top, created) = (row.get(0)?, row.get(3)?, row.get(4)?);
    let digest =
        |text: String| text.parse::<Digest>().map_err(|error| error.context("the store's database is damaged"));
    Ok((|| {
        Ok(Image { name, config: digest(config)?, manifest: digest(manifest)?, top, created: rows::timestamp(created) })
    })())
}

/// The name of an image whose topmost layer is `row`.
pub(in crate::store) fn using(tx: &Transaction<'_>, row: i64) -> Answer<Option<String>> {
    Ok(tx
        .prepare_cached("SELECT name FROM image WHERE top = ?1 LIMIT 1")?
        .query_row([row], |row| row.get(0))
        .optional()?)
}

/// The names of all images whose topmost layer is `row`.
pub(in crate::store) fn all_using(tx: &Transaction<'_>, row: i64) -> Answer<Vec<String>> {
    let mut statement = tx.prepare_cached("SELECT name FROM image WHERE top = ?1 ORDER BY name")?;
    Ok(statement.query_map([row], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Removes an image. Returns false if there was none.
pub(in crate::store) fn forget(tx: &Transaction<'_>, owner: &str, name: &str) -> Answer<bool> {
    let gone = tx.execute("DELETE FROM image WHERE owner = ?1 AND name = ?2", [owner, name])? > 0;
    drop_documents(tx).map(|()| gone)
}

/// Removes the images whose topmost layer is `row`.
pub(in crate::store) fn drop_over(tx: &Transaction<'_>, row: i64) -> Answer<()> {
    tx.execute("DELETE FROM image WHERE top = ?1", [row])?;
    drop_documents(tx)
}

fn drop_documents(tx: &Transaction<'_>) -> Answer<()> {
    tx.execute(
        "DELETE FROM document
         WHERE digest NOT IN (SELECT config FROM image) AND digest NOT IN (SELECT manifest FROM image)",
        [],
    )?;
    Ok(())
}

fn keep_document(tx: &Transaction<'_>, bytes: &[u8]) -> Answer<String> {
    let digest = Digest::of(bytes).to_string();
    tx.execute("INSERT OR IGNORE INTO document VALUES (?1, ?2)", params![digest, bytes])?;
    Ok(digest)
}

/// Records an image, whose topmost layer is the row `top`. An image of the same name is replaced.
pub(in crate::store) fn insert(tx: &Transaction<'_>, owner: &str, new: &NewImage<'_>, top: Option<i64>) -> Answer<()> {
    let (config, manifest) = (keep_document(tx, new.config)?, keep_document(tx, new.manifest)?);
    tx.execute(
        "INSERT OR REPLACE INTO image VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![owner, new.name, config, manifest, top, rows::now()],
    )?;
    drop_documents(tx)
}

/// The images of `owner`, by name.
pub(in crate::store) fn all(tx: &Transaction<'_>, owner: &str) -> Answer<Vec<Image>> {
    let mut statement = tx.prepare_cached(&format!("{COLUMNS} WHERE i.owner = ?1 ORDER BY i.name"))?;
    let images: Vec<_> = statement.query_map([owner], image_of)?.collect::<rusqlite::Result<_>>()?;
    images.into_iter().collect()
}

/// The image `name` of `owner`.
pub(in crate::store) fn find(tx: &Transaction<'_>, owner: &str, name: &str) -> Answer<Option<Image>> {
    let mut statement = tx.prepare_cached(&format!("{COLUMNS} WHERE i.owner = ?1 AND i.name = ?2"))?;
    statement.query_row([owner, name], image_of).optional()?.transpose()
}

/// The bytes of the document `digest`, if an image has it.
pub(in crate::store) fn document(connection: &Connection, digest: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut statement = connection.prepare_cached("SELECT bytes FROM document WHERE digest = ?1")?;
    statement.query_row([digest], |row| row.get(0)).optional()
}

/// An image for a check of the store.
pub(in crate::store) struct ListedImage {
    pub owner: String,
    pub name: String,
    pub config: String,
    pub manifest: String,
    /// True if the snapshot of the topmost layer is gone or not committed.
    pub top_is_lost: bool,
}

/// The images of all owners, by owner and name.
pub(in crate::store) fn listed(tx: &Transaction<'_>) -> Answer<Vec<ListedImage>> {
    let mut statement = tx.prepare_cached(
        "SELECT i.owner, i.name, i.config, i.manifest,
             i.top IS NOT NULL AND NOT EXISTS (SELECT 1 FROM snapshot s WHERE s.row = i.top AND s.kind = ?1)
         FROM image i ORDER BY i.owner, i.name",
    )?;
    let image = |row: &SqlRow<'_>| {
        let (owner, name, config, manifest) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        Ok(ListedImage { owner, name, config, manifest, top_is_lost: row.get(4)? })
    };
    Ok(statement.query_map([Kind::Committed as i64], image)?.collect::<rusqlite::Result<_>>()?)
}
