//! Commands that change snapshots: making, committing, removing, labelling them.

use std::time::Duration;

use serde_json::json;

use super::interrupt::Interrupt;
use super::listing::describe;
use super::names;
use super::output::counted;
use super::session::{Session, check_privilege};
use super::{Done, FREE_LIMIT, Failures};
use crate::build;
use crate::error::{ErrorKind, Result};
use crate::id::check_key;
use crate::snapshotter::{Kind, Labels, Snapshotter};
use crate::store::{Freed, RemoveScope, Store};

/// Pause between two looks at whether another process has freed all space.
const FREE_POLL: Duration = Duration::from_millis(200);

/// Make a writable snapshot
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata prepare work alpine   # then: strata mount work /mnt")]
pub(super) struct Prepare {
    /// Its key
    key: String,
    /// The committed snapshot to stand on, or an image; without it the snapshot starts empty
    #[arg(default_value = "", hide_default_value = true)]
    parent: String,
    /// A label for it
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// Make a read-only view of a committed snapshot
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata view look alpine   # then: strata mount look /mnt")]
pub(super) struct View {
    /// Its key
    key: String,
    /// The committed snapshot to look at, or an image; without it the view is empty
    #[arg(default_value = "", hide_default_value = true)]
    parent: String,
    /// A label for it
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// Turn a writable snapshot into a committed one
///
/// Its key is free afterwards. It must not be mounted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata commit edited work   # others can stand on edited now")]
pub(super) struct Commit {
    /// The name of the committed snapshot
    name: String,
    /// The key of the writable one
    key: String,
    /// A label for it; those that the key had are dropped
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// Remove snapshots
///
/// They are gone when the command returns. Space is freed for a second; the rest by the next rm or gc.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata rm -r base   # base and everything that stands on it")]
pub(super) struct Rm {
    /// Keys or names, or beginnings of digests
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// And all that stands on them
    #[arg(short, long)]
    recursive: bool,
    /// Wait until their space is free
    #[arg(long)]
    wait: bool,
}

/// Set labels of a snapshot
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata label work role=test owner=   # sets role, removes owner")]
pub(super) struct Label {
    /// The snapshot's key or name
    key: String,
    /// Name and value; a label with an empty value is removed
    #[arg(required = true, value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// Remove layers that no image needs any more, and caches of builds, and free space
///
/// Snapshots that prepare, view or commit made stay.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata gc --json")]
pub(super) struct Gc {}

fn label(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is NAME=VALUE"),
    }
}

fn labels(pairs: &[(String, String)]) -> Labels {
    pairs.iter().filter(|(_, value)| !value.is_empty()).cloned().collect()
}

impl Prepare {
    pub fn run(&self, session: &Session) -> Done {
        make(session, Kind::Active, &self.key, &self.parent, &labels(&self.labels))
    }
}

impl View {
    pub fn run(&self, session: &Session) -> Done {
        make(session, Kind::View, &self.key, &self.parent, &labels(&self.labels))
    }
}

/// Makes a snapshot. A copy may take long and cannot be stopped half-way: after a signal the complete snapshot is
/// removed.
fn make(session: &Session, kind: Kind, key: &str, parent: &str, labels: &Labels) -> Done {
    let interrupt = Interrupt::watch(session)?;
    check_key(key)?;
    // A parent can only be in an existing store.
    let store = if parent.is_empty() { session.make_store()? } else { session.store_to_change()? };
    let parent = parent_of(&store, parent)?;
    match kind {
        Kind::View => store.view(key, &parent, labels)?,
        Kind::Active | Kind::Committed => store.prepare(key, &parent, labels)?,
    };
    if let Err(stopped) = interrupt.check() {
        store.remove(key)?;
        store.drain(Some(FREE_LIMIT), None)?;
        return Err(stopped.context(format!("{key:?} was not made")).into());
    }
    if session.output.is_json() {
        session.output.document(&describe(&store.stat(key)?))?;
    }
    Ok(())
}

/// Returns the snapshot that `word` names as a parent. An empty word stays as it is, and the store reports an unknown
/// parent.
fn parent_of(store: &Store, word: &str) -> Result<String> {
    if word.is_empty() {
        return Ok(String::new());
    }
    match names::snapshot(store, word) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(word.to_owned()),
        named => named,
    }
}

impl Commit {
    pub fn run(&self, session: &Session) -> Done {
        // The first signal does not stop the commit, which is nearly done.
        let _interrupt = Interrupt::watch(session)?;
        let store = session.store_to_change()?;
        store.commit(&self.name, &names::key(&store, &self.key)?, &labels(&self.labels))?;
        if session.output.is_json() {
            session.output.document(&describe(&store.stat(&self.name)?))?;
        }
        Ok(())
    }
}

impl Rm {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let store = session.store_to_change()?;
        let mut removed = Vec::new();
        let mut failures = Vec::new();
        for key in &self.keys {
            match self.remove(&store, key, &removed, &interrupt) {
                Ok(gone) => removed.extend(gone),
                Err(error) => failures.push(error),
            }
        }
        let freed = self.free(&store, &interrupt).unwrap_or_else(|error| {
            failures.push(error);
            None
        });
        if session.output.is_json() && (failures.is_empty() || !removed.is_empty()) {
            let (snapshots, waiting) = freed.map(|freed| (freed.snapshots, freed.waiting)).unzip();
            let document = json!({"removed": removed, "freed": snapshots, "waiting": waiting});
            if let Err(error) = session.output.document(&document) {
                failures.push(error);
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(Failures(failures)) }
    }

    /// Removes the snapshot that one argument names. Returns the names of the snapshots that were removed.
    fn remove(&self, store: &Store, key: &str, gone: &[String], interrupt: &Interrupt) -> Result<Vec<String>> {
        interrupt.check().map_err(|stopped| stopped.context(format!("{key:?} was not removed")))?;
        let took_along = || self.recursive && gone.iter().any(|name| names::can_name(key, name));
        let name = match names::key(store, key) {
            // An earlier argument removed the snapshot.
            Err(error) if error.kind() == ErrorKind::NotFound && took_along() => return Ok(Vec::new()),
            named => named?,
        };
        store.remove_with(&name, if self.recursive { RemoveScope::WithDescendants } else { RemoveScope::Alone })
    }

    /// Frees space. Returns `None` if that failed, which is no failure of the removal.
    fn free(&self, store: &Store, interrupt: &Interrupt) -> Result<Option<Freed>> {
        if self.wait {
            return drain(store, interrupt).map(Some);
        }
        store.drain(Some(FREE_LIMIT), Some(interrupt.cancel())).map(Some).or_else(|error| {
            // The snapshots are removed, and the next process that drains the trash tries again.
            tracing::warn!(why = error.chain(), "space was not freed");
            Ok(None)
        })
    }
}

/// Frees all space of removed snapshots. Waits for another process that does so.
fn drain(store: &Store, interrupt: &Interrupt) -> Result<Freed> {
    let mut freed = Freed::default();
    loop {
        let now = store.drain(None, Some(interrupt.cancel()))?;
        freed = Freed { snapshots: freed.snapshots + now.snapshots, waiting: now.waiting };
        if freed.waiting == 0 {
            return Ok(freed);
        }
        interrupt.check().map_err(|stopped| {
            let waiting = counted(freed.waiting, "removed snapshot");
            let take = if freed.waiting == 1 { "takes" } else { "take" };
            stopped.context(format!("{waiting} still {take} space: strata gc goes on"))
        })?;
        // Another process frees space.
        std::thread::sleep(FREE_POLL);
    }
}

impl Label {
    pub fn run(&self, session: &Session) -> Done {
        let store = session.store_to_change()?;
        let mut info = store.stat(&names::key(&store, &self.key)?)?;
        info.labels = self.labels.iter().cloned().collect();
        let paths: Vec<String> = self.labels.iter().map(|(name, _)| format!("labels.{name}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let info = store.update(&info, &paths)?;
        if session.output.is_json() {
            session.output.document(&describe(&info))?;
        }
        Ok(())
    }
}

impl Gc {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let freed = match session.find_store()? {
            None => Freed::default(),
            Some(store) => {
                check_privilege()?;
                store.collect()?;
                build::free_caches(&store)?;
                drain(&store, &interrupt)?
            }
        };
        Ok(session.output.either(&json!({"freed": freed.snapshots, "waiting": freed.waiting}), || {
            format!("freed {}\n", counted(freed.snapshots, "snapshot"))
        })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_a_name() {
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(label("a="), Ok(("a".to_owned(), String::new())));
        assert!(label("a").is_err() && label("=b").is_err());
    }
}
