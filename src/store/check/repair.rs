//! Applying the remedies of findings.

use super::super::db::Transaction;
use super::super::db::images;
use super::super::db::meta::Failed;
use super::super::db::rows::{self, State};
use super::super::{Flush, Store, recover};
use super::{Finding, Problem, Remedy, Subject};
use crate::error::Result;
use crate::id::Id;

/// The result of a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Repaired {
    /// The images that were removed.
    pub images: Vec<String>,
    /// The layers that were removed.
    pub snapshots: Vec<String>,
    /// How many empty snapshots have a directory again.
    pub made_again: u64,
    /// How many snapshots' space was freed.
    pub freed: u64,
}

impl Store {
    /// Applies the remedies of `findings`. A snapshot is looked up again by its id: if it was removed since the check,
    /// a new snapshot of the same name stays. After a crash only some of the remedies are applied.
    ///
    /// # Errors
    /// Errors of the database or the file system; the rest of the findings is left alone then.
    pub fn repair(&self, findings: &[Finding]) -> Result<Repaired> {
        let mut repaired = Repaired::default();
        self.with_reserve(|| {
            self.begin_to_remove()?;
            recover::recover(self)
        })?;
        for finding in findings {
            match (&finding.remedy, &finding.problem) {
                (Remedy::MakeAgain, Problem::Missing(Subject { id: Some(id), .. })) => {
                    recover::make_again(self, Id(*id))?;
                    repaired.made_again += 1;
                }
                (Remedy::ImportAgain { .. }, Problem::Top(image) | Problem::Document { image, .. }) => {
                    self.remove_damaged_image(image, &mut repaired)?;
                }
                (
                    Remedy::ImportAgain { .. },
                    Problem::Missing(snapshot)
                    | Problem::Content { snapshot, .. }
                    | Problem::Tree { snapshot, .. }
                    | Problem::Unreadable { snapshot, .. },
                ) => self.remove_damaged_layer(snapshot, &mut repaired)?,
                _ => {}
            }
        }
        self.with_reserve(|| recover::discard_rowless(self))?;
        repaired.freed = self.drain(None, None)?.snapshots;
        Ok(repaired)
    }

    fn remove_damaged_image(&self, image: &Subject, repaired: &mut Repaired) -> Result<()> {
        let forget = || self.meta.transact(self.level(Flush::Now), |tx| images::forget(tx, &image.owner, &image.name));
        let gone = self.with_reserve(forget)?;
        repaired.images.extend(gone.then(|| image.name.clone()));
        Ok(())
    }

    /// Removes a layer, its descendants and their images, if all of these snapshots came with images and are ready.
    fn remove_damaged_layer(&self, snapshot: &Subject, repaired: &mut Repaired) -> Result<()> {
        let Some(id) = snapshot.id else { return Ok(()) };
        let take = |tx: &Transaction<'_>| {
            let (mut images, mut snapshots) = (Vec::new(), Vec::new());
            let Some(row) = rows::by_id(tx, Id(id))? else { return Ok::<_, Failed>((images, snapshots)) };
            let tree = rows::with_descendants(tx, row.row)?;
            if tree.iter().all(|row| row.origin == rows::Origin::Image && row.state == State::Ready) {
                for row in tree {
                    images.extend(images::all_using(tx, row.row)?);
                    images::drop_over(tx, row.row)?;
                    rows::discard(tx, row.row)?;
                    snapshots.push(row.name);
                }
            }
            Ok((images, snapshots))
        };
        let (images, snapshots) = self.with_reserve(|| self.meta.transact(self.level(Flush::Now), take))?;
        repaired.images.extend(images);
        repaired.snapshots.extend(snapshots);
        Ok(())
    }
}
