//! Committing: claim the snapshot (for a commit to a fresh id, reserve the name too), seal, bring to disk, publish.

use std::sync::atomic::Ordering;

use super::db::Transaction;
use super::db::durability::{self, Ancestry, Unvouched};
use super::db::labels as stored_labels;
use super::db::meta::{Failed, Level};
use super::db::rows::{self, New, Origin, Published, Row, State};
use super::labels::check_labels;
use super::vouch;
use super::{Durability, Flush, Store, UNVERIFIED, tar_split_files};
use crate::backend::{Capabilities, Survey};
use crate::error::{Error, Result};
use crate::id::{DiffId, Id, check_key};
use crate::snapshotter::{Kind, Labels};
use crate::tree::walk::Inodes;

/// Properties of a commit besides the name and the labels.
#[derive(Clone, Copy, Debug)]
pub struct CommitOptions {
    /// Whether the commit waits for the disk.
    pub flush: Flush,
    /// The origin of the snapshot.
    pub origin: Origin,
    /// The digest of the layer that the snapshot was made from.
    pub diff_id: Option<DiffId>,
}

impl CommitOptions {
    /// Options of [`crate::Snapshotter::commit`]: durable, named by a user, of unknown digest.
    pub const PLAIN: Self = Self { flush: Flush::Now, origin: Origin::Named, diff_id: None };
}

/// An active snapshot that is being sealed. No other call may work on it.
#[derive(Debug)]
struct Claimed {
    active: Row,
    below: Ancestry,
    /// The row that reserves the name, and the id of the sealed snapshot; `None` if the snapshot is sealed in place.
    /// Then a crash leaves nothing to clear up, and of two commits to one name the first to publish gets the name.
    fresh: Option<(i64, Id)>,
    /// True if the written files have the ids of the machine: the sealed snapshot gets those of the user namespace.
    translates: bool,
    judged: Judged,
}

impl Claimed {
    /// Returns the rows that a failed commit gives back.
    fn rows(&self) -> Vec<i64> {
        self.fresh.iter().map(|(row, _)| *row).chain([self.active.row]).collect()
    }
}

/// Judges the content of an active snapshot. The arguments are the DiffID of the layer that
/// [`Store::apply_named_layer`] applied last, if there is one, and the name of the parent.
type Judge<'a> = dyn Fn(Option<DiffId>, Option<&str>) -> Result<Judged> + 'a;

/// Statements of a committer about the content of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// The snapshot is exactly this layer.
    pub layer: Option<DiffId>,
    /// True if the name is that of a layer but the content is not proved to be the layer. The snapshot then gets the
    /// label [`UNVERIFIED`].
    pub unverified: bool,
}

impl Store {
    /// Commits as [`crate::Snapshotter::commit`] does, with `options` of an import or a build.
    ///
    /// # Errors
    /// As [`crate::Snapshotter::commit`].
    pub fn commit_with(&self, name: &str, key: &str, labels: &Labels, options: CommitOptions) -> Result<()> {
        self.commit_by(name, key, labels, options, &|_, _| Ok(Judged::default())).map(drop)
    }

    /// Commits as [`crate::Snapshotter::commit`] does. `judge` tells whether the content is a layer.
    ///
    /// # Errors
    /// As [`crate::Snapshotter::commit`]; errors of `judge`: then `key` stays active.
    pub fn commit_judged(&self, name: &str, key: &str, labels: &Labels, judge: &Judge<'_>) -> Result<Judged> {
        self.commit_by(name, key, labels, CommitOptions::PLAIN, judge)
    }

    fn commit_by(
        &self,
        name: &str,
        key: &str,
        labels: &Labels,
        options: CommitOptions,
        judge: &Judge<'_>,
    ) -> Result<Judged> {
        check_key(name)?;
        check_key(key)?;
        check_labels(labels)?;
        let worker = self.begin()?;
        let claimed = self.meta.transact(Level::Relaxed, |tx| self.claim_for(tx, name, key, &worker, judge))?;
        self.seal(name, &claimed, labels, options, &worker).inspect_err(|_| self.let_go(&claimed.rows()))?;
        Ok(claimed.judged)
    }

    fn claim_for(
        &self,
        tx: &Transaction<'_>,
        name: &str,
        key: &str,
        worker: &str,
        judge: &Judge<'_>,
    ) -> Result<Claimed, Failed> {
        let active = rows::visible(tx, &self.owner, key)?;
        self.check_free(tx, name)?;
        if active.kind != Kind::Active {
            let kind = active.kind.phrase();
            return Err(Error::precondition(format!("cannot commit {key:?}: it is {kind}, not active")).into());
        }
        if active.state != State::Ready {
            return Err(Error::precondition(format!("cannot commit {key:?}: another call works on it")).into());
        }
        if self.durability == Durability::Commit {
            vouch::check(tx, active.row, key)?;
        }
        let parent = match (active.diff_id, active.parent) {
            (Some(_), Some(row)) => rows::by_number(tx, row)?,
            _ => None,
        };
        let judged = judge(active.diff_id, parent.as_ref().map(|row| row.name.as_str()))?;
        let below = durability::ancestry(tx, active.parent)?;
        let translates = self.has_outside_ids(&active, &below.ids)?;
        let fresh = match translates || self.backend.capabilities().seals_to_fresh_id {
            true => Some(self.reserve_name(tx, name, active.parent, worker)?),
            false => None,
        };
        rows::set_state(tx, active.row, State::Claimed, Some(worker))?;
        Ok(Claimed { active, below, fresh, translates, judged })
    }

    fn check_free(&self, tx: &Transaction<'_>, name: &str) -> Result<(), Failed> {
        match rows::holder(tx, &self.owner, name)? {
            None => Ok(()),
            Some(_) => Err(Error::already_exists(format!("the name {name:?} is in use")).into()),
        }
    }

    /// Adds a row that reserves `name` for the snapshot that will be made at its id.
    fn reserve_name(
        &self,
        tx: &Transaction<'_>,
        name: &str,
        parent: Option<i64>,
        worker: &str,
    ) -> Result<(i64, Id), Failed> {
        let (id, owner, worker) = (rows::next_id(tx)?, self.owner.as_str(), Some(worker));
        let (kind, state, durable, origin) = (Kind::Committed, State::Reserved, false, Origin::Named);
        let (voucher, id_map) = (None, None);
        let new = New { id, owner, name, kind, state, parent, worker, durable, voucher, origin, id_map };
        let row = rows::insert(tx, &new)?;
        Ok((row, id))
    }

    fn seal(&self, name: &str, claimed: &Claimed, labels: &Labels, options: CommitOptions, worker: &str) -> Result<()> {
        let Claimed { active, below: Ancestry { ids: parents, not_durable }, fresh, translates, judged } = claimed;
        self.check_not_mounted(active.id, &format!("cannot commit {:?}", active.name))?;
        if self.waits(options.flush) {
            self.check_vouchable(not_durable)?;
        }
        let sealed = match *fresh {
            Some((row, id)) if *translates => {
                self.make_at_free_id(row, id, |id| self.seal_with_inside_ids(active, parents, id))?
            }
            Some((row, id)) => self.make_at_free_id(row, id, |id| self.backend.seal(active.id, id))?,
            None => self.backend.seal(active.id, active.id).map(|()| active.id)?,
        };
        let Survey { usage, inodes } = self.backend.survey(sealed, parents)?;
        let diff_id = options.diff_id.or(judged.layer);
        match diff_id {
            Some(_) if sealed != active.id => tar_split_files::share(&self.root, active.id, sealed)?,
            Some(_) => {}
            // The caller does not say that the content is exactly the applied layer.
            None => self.forget_layer(active)?,
        }
        if self.waits(options.flush) {
            self.wait_for(sealed, not_durable, inodes).inspect_err(|error| self.doubt(active.row, error))?;
        }
        let durable = options.flush == Flush::Now;
        self.owes_sync.fetch_or(!durable, Ordering::SeqCst);
        let held_by = (options.origin == Origin::Image).then_some(worker);
        let voucher = (!durable).then(|| Self::voucher(worker, active.id));
        let voucher = voucher.as_deref();
        let published = Published { name, usage, durable, voucher, origin: options.origin, diff_id, held_by };
        self.meta.transact(self.level(options.flush), |tx| self.publish(tx, claimed, &published, labels))
    }

    /// Brings the sealed snapshot `id` to disk. Syncs the whole file system if a parent is not on disk yet, or if the
    /// sealing hides lost writes.
    fn wait_for(&self, id: Id, not_durable: &[Unvouched], inodes: Option<Inodes>) -> Result<()> {
        let Capabilities { seal_is_durable, seal_hides_errors, .. } = self.backend.capabilities();
        match (seal_is_durable, not_durable) {
            (true, []) if !seal_hides_errors => {}
            (true, _) => self.sync_file_system()?,
            (false, not_durable) => self.bring_to_disk(id, inodes.filter(|_| not_durable.is_empty()))?,
        }
        self.sync_stream(id)
    }

    fn publish(
        &self,
        tx: &Transaction<'_>,
        claimed: &Claimed,
        published: &Published<'_>,
        labels: &Labels,
    ) -> Result<(), Failed> {
        // An active snapshot without a voucher becomes a layer without a voucher.
        let doubtful = durability::is_doubtful(tx, claimed.active.row)?;
        if doubtful && self.durability == Durability::Commit && published.durable {
            vouch::check(tx, claimed.active.row, &claimed.active.name)?;
        }
        let voucher = if doubtful { published.voucher.map(|_| vouch::NOBODY) } else { published.voucher };
        let row = match claimed.fresh {
            Some((row, _)) => rows::discard(tx, claimed.active.row).map(|()| row)?,
            None => self.check_free(tx, published.name).map(|()| claimed.active.row)?,
        };
        rows::publish(tx, row, &Published { voucher, ..*published })?;
        if published.durable {
            self.vouch_below(tx, row, &claimed.below.not_durable)?;
        }
        stored_labels::set_labels(tx, row, labels)?;
        if claimed.judged.unverified { stored_labels::set_label(tx, row, UNVERIFIED, "true") } else { Ok(()) }
    }
}
