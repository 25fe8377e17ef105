//! Removing: one durable transaction puts what goes into the trash, all of it or nothing. The space is freed later.

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
    /// The snapshot alone: one that has children stays.
    Alone,
    /// And all that stands on it.
    WithDescendants,
}

impl Store {
    /// Removes the snapshot `key`, and what `scope` says besides; all or nothing. Answers with the names of what is
    /// gone, children first.
    ///
    /// # Errors
    /// As [`crate::Snapshotter::remove`], naming what stays and why; `Unavailable` if something new stands on it
    /// meanwhile.
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

    /// The snapshots that a removal of `key` takes, children first, if nothing speaks against it.
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

/// The name of an image that needs `row` or something that stands on it.
fn image_above(tx: &Transaction<'_>, row: &Row) -> Result<Option<String>, Failed> {
    for above in rows::with_descendants(tx, row.row)? {
        if let Some(image) = images::using(tx, above.row)? {
            return Ok(Some(image));
        }
    }
    Ok(None)
}

/// Refuses what an image or another call needs.
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
