//! Checking a store: its database against the disk, against its images, and layers against their digests.
//!
//! Findings are values: each has the problem, its severity, and the remedy that [`Store::repair`] would apply. A check
//! changes nothing, except that [`CheckOptions::record`] adds missing digests. A check of layers needs, while it runs,
//! the space of the largest imported layer ([`again`]).
//!
//! # Beside others at work
//! A check locks no other process out. It lists the disk before and after it reads the rows, so that a snapshot that is
//! made or removed meanwhile is no finding.
//!
//! # References
//! SQLite: `PRAGMA integrity_check`, `PRAGMA foreign_key_check`. OCI image specification: `config.md`, "Layer DiffID".

mod again;
mod layer;
mod problem;
mod repair;

use std::collections::BTreeSet;

use super::db::Transaction;
use super::db::durability;
use super::db::images;
use super::db::labels as stored_labels;

use super::db::meta::{Failed, Level};
use super::db::rows::{self, Listed, Origin, State};
use super::recover;
use super::{Store, lock};
use crate::error::Result;
use crate::id::{Digest, Id};
use crate::task::Cancel;

pub use problem::{Finding, Problem, Remedy, Severity, Subject};
pub use repair::Repaired;

/// The label of a committed snapshot that has the name of a layer although another program than strata wrote it.
pub const UNVERIFIED: &str = "strata/unverified";

/// How a store is checked.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Whether every layer is read, and compared with its DiffID.
    pub deep: bool,
    /// Whether a layer without a DiffID gets that of its present content. Such a layer is read, others only if `deep`
    /// says so.
    pub record: bool,
    /// Becomes true when the caller wants the check to stop. The check then fails with `Cancelled`.
    pub cancel: Cancel,
}

/// The remedy for a layer that another program wrote.
const WRITE_AGAIN: Remedy =
    Remedy::none("remove the images that use it, and pull them again: strata's differ writes it then");

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many snapshots there are, of all owners.
    pub snapshots: u64,
    /// How many images there are, of all owners.
    pub images: u64,
    /// How many layers were read and match their DiffID.
    pub verified: u64,
    /// How many layers got a DiffID.
    pub recorded: u64,
    /// The findings.
    pub findings: Vec<Finding>,
}

impl Checked {
    /// How many findings mean that something is lost.
    pub fn damaged(&self) -> usize {
        self.findings.iter().filter(|finding| finding.problem.severity() == Severity::Damaged).count()
    }

    fn add(&mut self, problem: Problem, remedy: Remedy) {
        self.findings.push(Finding { problem, remedy });
    }
}

/// The state of the store that a check looks at.
struct Ground {
    rows: Vec<Listed>,
    /// The ids that are on disk.
    present: BTreeSet<Id>,
    /// The snapshots with the label [`UNVERIFIED`].
    unverified: BTreeSet<Id>,
}

impl Store {
    /// Checks the snapshots and images of all owners.
    ///
    /// # Errors
    /// `DataLoss` for a database that cannot be read; `Cancelled`; `PermissionDenied` if layers are to be read and the
    /// caller may not mount; errors of the file system outside of layers. An error inside a layer is a finding.
    pub fn check(&self, options: &CheckOptions) -> Result<Checked> {
        let mut checked = Checked::default();
        self.check_database(&mut checked)?;
        if checked.damaged() > 0 {
            // The rest of a damaged database cannot be relied on.
            return Ok(checked);
        }
        let ground = self.check_directories(&mut checked)?;
        for listed in ground.rows.iter().filter(|listed| ground.unverified.contains(&listed.row.id)) {
            checked.add(Problem::Unverified(subject(listed)), WRITE_AGAIN);
        }
        self.check_workers(&ground, &mut checked)?;
        self.check_vouchers(&ground, &mut checked)?;
        self.check_images(&mut checked)?;
        if options.deep || options.record {
            self.check_layers(&ground, options, &mut checked)?;
        }
        Ok(checked)
    }

    /// Checks that SQLite finds its file sound, and that every reference leads to a row.
    fn check_database(&self, checked: &mut Checked) -> Result<()> {
        let reports = self.meta.integrity()?;
        let strays: Vec<(String, Option<i64>, String)> = self.meta.read(|connection| {
            let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
        })?;
        let why = "restore strata.db from a backup, or import into a new store";
        for report in reports.into_iter().filter(|report| report != "ok") {
            checked.add(Problem::Database { report }, Remedy::none(why));
        }
        // The snapshots of images are checked with the images.
        for (table, row, parent) in strays.into_iter().filter(|(table, ..)| table != "image") {
            let row = row.map_or_else(String::new, |row| format!(" {row}"));
            let report = format!("the row{row} of {table} refers to a row of {parent} that is not there");
            checked.add(Problem::Database { report }, Remedy::none(why));
        }
        Ok(())
    }

    /// Checks that every snapshot has a directory, and that every directory belongs to a snapshot.
    fn check_directories(&self, checked: &mut Checked) -> Result<Ground> {
        let before = self.backend.inventory()?;
        let (rows, rowless) = self.meta.view(|tx| Ok((rows::listed(tx)?, rows::without_row(tx, &before)?)))?;
        let trash = self.meta.view(rows::trash)?;
        let present: BTreeSet<Id> = self.backend.inventory()?.into_iter().collect();
        checked.snapshots = rows.iter().filter(|listed| listed.is_finished()).count() as u64;
        for listed in rows.iter().filter(|listed| listed.is_finished() && listed.has_directory()) {
            let still = || self.meta.view(|tx| rows::by_id(tx, listed.row.id)).map(|row| row.is_some());
            if !present.contains(&listed.row.id) && still()? {
                let remedy = self.remedy_for_missing(listed)?;
                checked.add(Problem::Missing(subject(listed)), remedy);
            }
        }
        for id in self.still_rowless(rowless)?.into_iter().filter(|id| present.contains(id)) {
            checked.add(Problem::Debris { id: id.0 }, Remedy::Collect);
        }
        for id in trash {
            checked.add(Problem::Waiting { id: id.0 }, Remedy::Collect);
        }
        let unverified = self.meta.view(|tx| stored_labels::labelled(tx, UNVERIFIED))?.into_iter().collect();
        Ok(Ground { rows, present, unverified })
    }

    /// Returns those of `ids` that still have no row in a write transaction. The write transaction waits for processes
    /// that make a directory and its row in one transaction.
    fn still_rowless(&self, ids: Vec<Id>) -> Result<Vec<Id>> {
        if ids.is_empty() {
            return Ok(ids);
        }
        self.with_reserve(|| self.meta.transact(Level::Relaxed, |tx| rows::without_row(tx, &ids)))
    }

    fn remedy_for_missing(&self, listed: &Listed) -> Result<Remedy> {
        let parents = self.meta.view(|tx| durability::chain(tx, listed.row.parent))?;
        if recover::may_be_missing(self, &listed.row, &parents) {
            return Ok(Remedy::MakeAgain);
        }
        self.remedy_for_damaged(listed)
    }

    /// The remedy for a damaged layer. A layer that came with an image can be removed, since an import brings it again,
    /// but only if every snapshot on it came with an image too.
    fn remedy_for_damaged(&self, listed: &Listed) -> Result<Remedy> {
        if listed.row.origin != Origin::Image {
            return Ok(Remedy::none("no image brings it again: strata rm removes it"));
        }
        self.meta.view(|tx| {
            let tree = rows::with_descendants(tx, listed.row.row)?;
            let own = |row: &rows::Row| row.origin != Origin::Image || row.state != State::Ready;
            if let Some(row) = tree.iter().find(|row| own(row)) {
                let name = &row.name;
                let why = format!("the snapshot {name:?}, which is no image's, stands on it: strata rm {name} first");
                return Ok(Remedy::None(why.into()));
            }
            let mut images = BTreeSet::new();
            for row in &tree {
                images.extend(images::all_using(tx, row.row)?);
            }
            let snapshots = tree.into_iter().map(|row| row.name).collect();
            Ok(Remedy::ImportAgain { images: images.into_iter().collect(), snapshots })
        })
    }

    /// Checks that every row in work belongs to a living process.
    fn check_workers(&self, ground: &Ground, checked: &mut Checked) -> Result<()> {
        let living = lock::living(&self.run())?;
        let mine = self.worker_name();
        for listed in &ground.rows {
            let Some(worker) = &listed.worker else { continue };
            let lives = living.contains(worker) || mine.as_ref() == Some(worker);
            if !lives && self.meta.view(|tx| rows::by_id(tx, listed.row.id))?.is_some() {
                checked.add(Problem::Abandoned(subject(listed)), Remedy::Collect);
            }
        }
        Ok(())
    }

    /// Checks that every row is durable, or has a process that may mark it durable.
    fn check_vouchers(&self, ground: &Ground, checked: &mut Checked) -> Result<()> {
        checked.findings.extend(self.doubts_of(&ground.rows)?);
        Ok(())
    }

    /// Finds the snapshots, of all owners, that may not be on disk, and that no process may mark durable: layers that
    /// the next recovery drops, and active snapshots whose commit is refused until the next boot.
    ///
    /// # Errors
    /// Errors of the database or the file system.
    pub fn doubts(&self) -> Result<Vec<Finding>> {
        let rows = self.meta.view(rows::listed)?;
        self.doubts_of(&rows)
    }

    fn doubts_of(&self, rows: &[Listed]) -> Result<Vec<Finding>> {
        let (unvouched, doubtful) =
            self.meta.view(|tx| Ok((durability::unvouched(tx)?, durability::doubtful_ids(tx)?)))?;
        let mut findings = Vec::new();
        let living = lock::living(&self.run())?;
        let is_dead = |worker: &str| Ok(!living.iter().any(|name| name == worker));
        let listed = |id: i64| rows.iter().find(|listed| i64::try_from(listed.row.id.0) == Ok(id));
        for row in unvouched {
            if let Some(listed) = listed(row.id)
                && self.is_nobodys(&row, &is_dead)?
            {
                findings.push(Finding { problem: Problem::Unvouched(subject(listed)), remedy: Remedy::Collect });
            }
        }
        let doubted = |listed: &Listed| {
            let name = &listed.row.name;
            let mend = format!(
                "the next boot ends the doubt: what the snapshot shows then is on disk. Before that write it again: \
                 strata diff {name} --tar FILE saves what can be read"
            );
            Finding { problem: Problem::Doubtful(subject(listed)), remedy: Remedy::None(mend.into()) }
        };
        findings.extend(doubtful.into_iter().filter_map(listed).map(doubted));
        Ok(findings)
    }

    /// Checks that every image has its documents, unchanged, and its topmost layer.
    fn check_images(&self, checked: &mut Checked) -> Result<()> {
        let images = self.meta.view(images::listed)?;
        checked.images = images.len() as u64;
        for image in images {
            let remedy = || Remedy::ImportAgain { images: vec![image.name.clone()], snapshots: Vec::new() };
            let subject = || Subject { owner: image.owner.clone(), name: image.name.clone(), id: None };
            if image.top_is_lost {
                checked.add(Problem::Top(subject()), remedy());
            }
            for digest in [&image.config, &image.manifest] {
                if let Some(why) = self.meta.view(|tx| document_is_damaged(tx, digest))? {
                    let document = digest.clone();
                    checked.add(Problem::Document { image: subject(), document, why }, remedy());
                }
            }
        }
        Ok(())
    }
}

fn subject(listed: &Listed) -> Subject {
    Subject { owner: listed.owner.clone(), name: listed.row.name.clone(), id: Some(listed.row.id.0) }
}

/// The fault of the document `digest`, if there is one.
fn document_is_damaged(tx: &Transaction<'_>, digest: &str) -> Result<Option<&'static str>, Failed> {
    Ok(match images::document(tx, digest)? {
        None => Some("is missing"),
        Some(bytes) if Digest::of(&bytes).to_string() != digest => Some("has another content"),
        Some(_) => None,
    })
}
