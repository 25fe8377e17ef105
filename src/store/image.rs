//! The images of a store: each has a name, its topmost snapshot, and the documents that an export writes.
//!
//! Config and manifest are kept byte for byte in the database, so that an image and its documents are added and removed
//! in one transaction, and a crash cannot leave one without the other.

use super::db::Transaction;
use super::db::durability;
use super::db::images::{self, Image, NewImage};
use super::db::meta::{Failed, Level};
use super::db::rows::{self, Origin, Row, State};
use super::{Flush, Store};
use crate::error::{Error, Result};
use crate::id::{Digest, check_key};
use crate::snapshotter::Kind;

/// The answer of [`Store::hold_layer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// No snapshot has the name.
    Missing,
    /// Another call is making a snapshot with the name. (A commit in place does not show its name before it is done.)
    InWork,
    /// A committed snapshot.
    Committed,
}

fn no_image(name: &str) -> Error {
    Error::not_found(format!("there is no image {name:?}: strata images lists them"))
}

impl Store {
    /// Records an image, and replaces an older image of the same name. The image and its snapshots are durable when the
    /// call returns.
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
                    // Another snapshot may have got the name after `sync_below`.
                    self.check_durable(&durability::ancestry(tx, Some(row.row))?.not_durable)?;
                    rows::release(tx, row.row)?;
                    Some(row.row)
                }
            };
            images::insert(tx, self.owner(), new, top)
        })
    }

    /// The images, by name.
    ///
    /// # Errors
    /// Errors of the database.
    pub fn images(&self) -> Result<Vec<Image>> {
        self.meta.view(|tx| images::all(tx, self.owner()))
    }

    /// The image `name`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn image(&self, name: &str) -> Result<Image> {
        self.meta.view(|tx| images::find(tx, self.owner(), name)?.ok_or_else(|| no_image(name).into()))
    }

    /// Forgets the name of an image. Its layers stay until [`Store::gc`] finds them unused.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove_image(&self, name: &str) -> Result<()> {
        self.with_reserve(|| {
            self.begin_to_remove()?;
            self.meta.transact(self.level(Flush::Now), |tx| {
                if images::forget(tx, self.owner(), name)? { Ok(()) } else { Err(Failed::from(no_image(name))) }
            })
        })
    }

    /// The bytes of a config or manifest that an image of the store has.
    ///
    /// # Errors
    /// `NotFound`; `DataLoss` if the bytes do not match the digest.
    pub fn document(&self, digest: Digest) -> Result<Vec<u8>> {
        let bytes = self.meta.read(|connection| images::document(connection, &digest.to_string()))?;
        let bytes =
            bytes.ok_or_else(|| Error::not_found(format!("no image of the store has the document {digest}")))?;
        if Digest::of(&bytes) != digest {
            return Err(Error::data_loss(format!("the document {digest} is damaged in the store's database")));
        }
        Ok(bytes)
    }

    /// Looks for the committed snapshot `name`, for an importer to build on. If the snapshot came with an image, this
    /// process holds it until it records its own image or ends, so that no `gc` removes the snapshot meanwhile. A
    /// snapshot that another process holds stays with that process.
    ///
    /// # Errors
    /// `AlreadyExists` if the name belongs to an active snapshot or a view; errors of the database.
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
