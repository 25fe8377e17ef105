//! The images of a store: names over snapshots, with the documents that an image leaves with.
//!
//! Config and manifest are kept byte for byte, in the database: so an image, its documents and the snapshot it stands
//! on appear and go in one transaction, and no half of them can be debris.

use rusqlite::{OptionalExtension as _, Row as SqlRow, Transaction, params};

use super::meta::{Failed, Level};
use super::rows::{self, Origin, Row, State};
use super::{Flush, Store};
use crate::error::{Error, Result};
use crate::id::{Digest, check_key};
use crate::snapshotter::Kind;
use crate::tree::Timestamp;

/// An image of the store.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// The digest of its config: the image ID.
    pub config: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The committed snapshot of its topmost layer; `None` if it has no layer.
    pub top: Option<String>,
    /// When the store got it.
    #[serde(skip)]
    pub created: Timestamp,
}

/// An image to record.
#[derive(Debug)]
pub struct NewImage<'a> {
    /// Its name; an existing image of that name is replaced.
    pub name: &'a str,
    /// The bytes of its config.
    pub config: &'a [u8],
    /// The bytes of its manifest.
    pub manifest: &'a [u8],
    /// The committed snapshot of its topmost layer.
    pub top: Option<&'a str>,
}

const COLUMNS: &str = "SELECT i.name, i.config, i.manifest, s.name, i.created
    FROM image i LEFT JOIN snapshot s ON s.row = i.top";

fn image_of(row: &SqlRow<'_>) -> rusqlite::Result<Result<Image, Failed>> {
    let (config, manifest): (String, String) = (row.get(1)?, row.get(2)?);
    let (name, top, created) = (row.get(0)?, row.get(3)?, row.get(4)?);
    let digest =
        |text: String| text.parse::<Digest>().map_err(|error| error.context("the store's database is damaged"));
    Ok((|| {
        Ok(Image { name, config: digest(config)?, manifest: digest(manifest)?, top, created: rows::timestamp(created) })
    })())
}

/// The answer of [`Store::hold_layer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nothing has the name.
    Missing,
    /// A call under way will give the name, or fail. (A commit in place is not seen before it is done.)
    InWork,
    /// A committed snapshot.
    Committed,
}

/// The name of an image whose topmost layer is `row`.
pub(super) fn using(tx: &Transaction<'_>, row: i64) -> Result<Option<String>, Failed> {
    Ok(tx
        .prepare_cached("SELECT name FROM image WHERE top = ?1 LIMIT 1")?
        .query_row([row], |row| row.get(0))
        .optional()?)
}

/// The names of all images whose topmost layer is `row`.
pub(super) fn all_using(tx: &Transaction<'_>, row: i64) -> Result<Vec<String>, Failed> {
    let mut statement = tx.prepare_cached("SELECT name FROM image WHERE top = ?1 ORDER BY name")?;
    Ok(statement.query_map([row], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Removes an image; answers whether it was there.
pub(super) fn forget(tx: &Transaction<'_>, owner: &str, name: &str) -> Result<bool, Failed> {
    let gone = tx.execute("DELETE FROM image WHERE owner = ?1 AND name = ?2", [owner, name])? > 0;
    drop_documents(tx).map(|()| gone)
}

/// Removes the images whose topmost layer is `row`.
pub(super) fn drop_over(tx: &Transaction<'_>, row: i64) -> Result<(), Failed> {
    tx.execute("DELETE FROM image WHERE top = ?1", [row])?;
    drop_documents(tx)
}

fn no_image(name: &str) -> Error {
    Error::not_found(format!("there is no image {name:?}: strata images lists them"))
}

fn drop_documents(tx: &Transaction<'_>) -> Result<(), Failed> {
    tx.execute(
        "DELETE FROM document
         WHERE digest NOT IN (SELECT config FROM image) AND digest NOT IN (SELECT manifest FROM image)",
        [],
    )?;
    Ok(())
}

fn keep_document(tx: &Transaction<'_>, bytes: &[u8]) -> Result<String, Failed> {
    let digest = Digest::of(bytes).to_string();
    tx.execute("INSERT OR IGNORE INTO document VALUES (?1, ?2)", params![digest, bytes])?;
    Ok(digest)
}

impl Store {
    /// Names an image; an older one of that name loses it. Durable when it returns, as are the snapshots below.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is no key or a layer that is not committed; `NotFound` if the topmost layer
    /// was removed meanwhile.
    pub fn set_image(&self, new: &NewImage<'_>) -> Result<()> {
        check_key(new.name)?;
        self.begin()?;
        self.sync_below(new.top)?;
        self.meta.transact(self.level(Flush::Now), |tx| {
            let top = match new.top {
                None => None,
                Some(name) => {
                    let row = rows::visible(tx, self.owner(), name)?;
                    if row.kind != Kind::Committed {
                        let kind = row.kind.phrase();
                        return Err(Error::invalid(format!("the layer {name:?} is not committed, it is {kind}")).into());
                    }
                    // Another one may have the name since.
                    self.check_durable(&rows::ancestry(tx, Some(row.row))?.not_durable)?;
                    rows::release(tx, row.row)?;
                    Some(row.row)
                }
            };
            let (config, manifest) = (keep_document(tx, new.config)?, keep_document(tx, new.manifest)?);
            tx.execute(
                "INSERT OR REPLACE INTO image VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![self.owner(), new.name, config, manifest, top, rows::now()],
            )?;
            drop_documents(tx)
        })
    }

    /// The images, by name.
    ///
    /// # Errors
    /// Errors of the database.
    pub fn images(&self) -> Result<Vec<Image>> {
        self.meta.view(|tx| {
            let mut statement = tx.prepare_cached(&format!("{COLUMNS} WHERE i.owner = ?1 ORDER BY i.name"))?;
            let images: Vec<_> = statement.query_map([self.owner()], image_of)?.collect::<rusqlite::Result<_>>()?;
            images.into_iter().collect()
        })
    }

    /// The image `name`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn image(&self, name: &str) -> Result<Image> {
        self.meta.view(|tx| {
            let mut statement = tx.prepare_cached(&format!("{COLUMNS} WHERE i.owner = ?1 AND i.name = ?2"))?;
            let image = statement.query_row([self.owner(), name], image_of).optional()?;
            image.ok_or_else(|| no_image(name))?
        })
    }

    /// Forgets the name of an image. Its layers stay until [`Store::gc`] finds them unused.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove_image(&self, name: &str) -> Result<()> {
        self.with_reserve(|| {
            self.begin_to_remove()?;
            self.meta.transact(self.level(Flush::Now), |tx| {
                if forget(tx, self.owner(), name)? { Ok(()) } else { Err(Failed::from(no_image(name))) }
            })
        })
    }

    /// The bytes of a config or manifest that an image of the store has.
    ///
    /// # Errors
    /// `NotFound`; `DataLoss` if they are not what the digest says.
    pub fn document(&self, digest: Digest) -> Result<Vec<u8>> {
        let bytes: Option<Vec<u8>> = self.meta.read(|connection| {
            connection
                .query_row("SELECT bytes FROM document WHERE digest = ?1", [digest.to_string()], |row| row.get(0))
                .optional()
        })?;
        let bytes =
            bytes.ok_or_else(|| Error::not_found(format!("no image of the store has the document {digest}")))?;
        if Digest::of(&bytes) != digest {
            return Err(Error::data_loss(format!("the document {digest} is damaged in the store's database")));
        }
        Ok(bytes)
    }

    /// Looks for the committed snapshot `name`, for an importer to build on. One that came with an image is this
    /// process's until it names its own or ends, and no collection takes it meanwhile; where another process has it
    /// already, it is that one's, and goes with that one's image.
    ///
    /// # Errors
    /// `AlreadyExists` if the name belongs to an active snapshot or a view; what the database reports.
    pub fn hold_layer(&self, name: &str) -> Result<Held> {
        let look = |tx: &Transaction<'_>| rows::holder(tx, self.owner(), name);
        let held = |row: &Row| match (row.state, row.kind) {
            (State::Creating | State::Reserved, _) => Ok(Held::InWork),
            (_, Kind::Committed) => Ok(Held::Committed),
            (_, kind) => {
                let kind = kind.phrase();
                Err(Error::already_exists(format!("{name:?} is the name of a snapshot that is {kind}")))
            }
        };
        let Some(row) = self.meta.view(look)? else { return Ok(Held::Missing) };
        if held(&row)? != Held::Committed || row.origin != Origin::Image {
            return held(&row);
        }
        let worker = self.begin()?;
        self.drop_nobodys(row.row)?;
        self.meta.transact(Level::Relaxed, |tx| match look(tx)? {
            None => Ok::<_, Failed>(Held::Missing),
            Some(row) => {
                if held(&row)? == Held::Committed {
                    rows::hold(tx, row.row, &worker)?;
                }
                Ok(held(&row)?)
            }
        })
    }
}
