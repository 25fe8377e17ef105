//! Removing: one durable transaction moves the rows of all snapshots to remove into the trash. Their space is freed
//! later.

use super::db::Transaction;
use super::db::images;
use super::db::meta::Failed;
use super::db::rows::{self, Row, State};
use super::{Flush, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Id, check_key};

/// The snapshots that a removal takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveScope {
    /// The snapshot alone. A snapshot with children is refused.
    Alone,
    /// The snapshot and all its descendants.
    WithDescendants,
}

impl Store {
    /// Removes the snapshots of `scope`, or none of them. Returns the names of the removed snapshots, children first.
    ///
    /// # Errors
    /// As [`crate::Snapshotter::remove`], with the name of the snapshot that cannot be removed; `Unavailable` if the
    /// descendants of `key` changed meanwhile.
    pub fn remove_with(&self, key: &str, scope: RemoveScope) -> Result<Vec<String>> {
        check_key(key)?;
        self.with_reserve(|| self.try_to_remove(key, scope))
    }

    fn try_to_remove(&self, key: &str, scope: RemoveScope) -> Result<Vec<String>> {
        self.begin_to_remove()?;
        let found = self.meta.view(|tx| self.removable(tx, key, scope))?;
        for row in &found {
            self.check_not_mounted(row.id, &format!("cannot remove {:?}", row.name))?;
        }
        let ids = |rows: &[Row]| rows.iter().map(|row| row.id).collect::<Vec<Id>>();
        self.meta.transact(self.level(Flush::Now), |tx| {
            let rows = self.removable(tx, key, scope)?;
            if ids(&rows) != ids(&found) {
                let message = format!("cannot remove {key:?}: what stands on it changed meanwhile: try again");
                return Err(Error::new(ErrorKind::Unavailable, message).into());
            }
            rows.iter().try_for_each(|row| rows::discard(tx, row.row))?;
            Ok::<_, Failed>(rows.into_iter().map(|row| row.name).collect())
        })
    }

    /// Returns the rows that a removal of `key` takes, children first. Fails if one of the rows is needed.
    fn removable(&self, tx: &Transaction<'_>, key: &str, scope: RemoveScope) -> Result<Vec<Row>, Failed> {
        let row = rows::visible(tx, &self.owner, key)?;
        let rows = match scope {
            RemoveScope::Alone if rows::has_children(tx, row.row)? => {
                let why = match image_above(tx, &row)? {
                    Some(image) => {
                        format!("it has children, which the image {image:?} needs: strata rmi {image} first")
                    }
                    None => "it has children; remove them first (rm -r does)".to_owned(),
                };
                return Err(Error::precondition(format!("cannot remove {key:?}: {why}")).into());
            }
            RemoveScope::Alone => vec![row],
            RemoveScope::WithDescendants => rows::with_descendants(tx, row.row)?,
        };
        rows.iter().try_for_each(|row| check_unused(tx, row))?;
        Ok(rows)
    }
}

/// Returns the name of an image that needs `row` or one of its descendants.
fn image_above(tx: &Transaction<'_>, row: &Row) -> Result<Option<String>, Failed> {
    for above in rows::with_descendants(tx, row.row)? {
        if let Some(image) = images::using(tx, above.row)? {
            return Ok(Some(image));
        }
    }
    Ok(None)
}

/// Refuses a row that an image or another call needs.
fn check_unused(tx: &Transaction<'_>, row: &Row) -> Result<(), Failed> {
    let cannot = format!("cannot remove {:?}", row.name);
    if row.state != State::Ready {
        return Err(Error::precondition(format!("{cannot}: another call works on it")).into());
    }
    match images::using(tx, row.row)? {
        Some(image) => {
            let message = format!("{cannot}: the image {image:?} needs it: strata rmi {image} first");
            Err(Error::precondition(message).into())
        }
        None => Ok(()),
    }
}
