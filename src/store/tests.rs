//! The store over a backend of plain directories. It needs neither root nor mounts, and a test can act in the middle of
//! any call of the backend, as another process would.

mod check;
mod claims;
mod format;
mod images;
mod labels;
mod recovery;
mod vouchers;
mod work;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tempfile::TempDir;

use super::{Database, Durability, Flush, LOCAL, Store};
use crate::backend::{Backend, Capabilities, Chain, Usage};
use crate::changeset::{Format, Layer};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::id::Id;
use crate::mount::{Access, Mount};
use crate::snapshotter::{Labels, Snapshotter};
use crate::tree::{Dir, walk};

const NONE: &Labels = &BTreeMap::new();

/// Code of a test that runs at the end of every call of the backend, with the name and the id of the call.
#[derive(Clone)]
struct During(Arc<Act>);

type Act = dyn Fn(&str, Id) -> Result<()> + Send + Sync;

impl During {
    fn new(act: impl Fn(&str, Id) -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(act))
    }

    fn nothing() -> Self {
        Self::new(|_, _| Ok(()))
    }

    /// Calls `act` at the first call of `method`, and makes that call fail.
    fn failing(method: &'static str, act: impl Fn(Id) + Send + Sync + 'static) -> Self {
        let done = Mutex::new(false);
        Self::new(move |called, id| {
            let mut done = done.lock().expect("lock");
            if called != method || *done {
                return Ok(());
            }
            *done = true;
            act(id);
            Err(Error::new(ErrorKind::Io, "the test lets it fail"))
        })
    }
}

impl fmt::Debug for During {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("During")
    }
}

/// A backend with directories `s/<id>`, whose content no test reads.
#[derive(Debug)]
struct Plain {
    snapshots: PathBuf,
    seals_to_fresh_id: bool,
    create_is_brief: bool,
    during: During,
}

impl Plain {
    fn dir(&self, id: Id) -> PathBuf {
        self.snapshots.join(id.to_string())
    }
}

impl Backend for Plain {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "plain",
            seals_to_fresh_id: self.seals_to_fresh_id,
            seal_is_durable: false,
            seal_hides_errors: false,
            create_needs_sync: false,
            create_is_brief: self.create_is_brief,
            layers_max: None,
        }
    }

    fn create(&self, id: Id, _parents: &Chain) -> Result<()> {
        fs::create_dir(self.dir(id)).at("make directory", self.dir(id))?;
        (self.during.0)("create", id)
    }

    fn complete_create(&self, id: Id, _parents: &Chain) -> Result<()> {
        (self.during.0)("complete_create", id)
    }

    fn mounts(&self, stack: &Chain, access: Access) -> Result<Vec<Mount>> {
        (self.during.0)("mounts", stack[0])?;
        Ok(vec![Mount::Bind { source: self.dir(stack[0]), access }])
    }

    fn seal(&self, active: Id, sealed: Id) -> Result<()> {
        if active != sealed {
            fs::create_dir(self.dir(sealed)).at("make directory", self.dir(sealed))?;
        }
        (self.during.0)("seal", active)
    }

    fn remove(&self, id: Id) -> Result<()> {
        self.remove_until(id, &|| false).map(drop)
    }

    fn remove_until(&self, id: Id, stop: &dyn Fn() -> bool) -> Result<bool> {
        let is_gone = walk::remove_all_until(&Dir::open(&self.snapshots)?, id.to_string(), stop)?;
        (self.during.0)("remove", id).map(|()| is_gone)
    }

    fn usage(&self, id: Id, _parents: &Chain) -> Result<Usage> {
        (self.during.0)("usage", id).map(|()| Usage::default())
    }

    fn inventory(&self) -> Result<Vec<Id>> {
        (self.during.0)("inventory", Id(0)).map(|()| on_disk(&self.snapshots))
    }

    fn layer(&self, id: Id) -> Option<Layer> {
        Some(Layer { dir: self.dir(id), format: Format::Tree })
    }
}

fn on_disk(snapshots: &Path) -> Vec<Id> {
    let entries = fs::read_dir(snapshots).expect("list the snapshots");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("entry").file_name();
    let mut ids: Vec<Id> =
        entries.map(name).map(|name| name.to_str().expect("UTF-8").parse().expect("an id")).collect();
    ids.sort_unstable();
    ids
}

/// A temporary root, and handles of its store as separate processes would have them.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temporary directory") }
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn plain(&self, during: During) -> Plain {
        let snapshots = self.root().canonicalize().expect("the root").join("s");
        Plain { snapshots, seals_to_fresh_id: false, create_is_brief: false, during }
    }

    fn open(&self, durability: Durability, backend: Plain, owner: &str) -> Store {
        let database = Database::create(self.root(), durability).expect("the database");
        Store::new(database, Box::new(backend), owner).expect("the store")
    }

    fn store(&self) -> Store {
        self.store_during(During::nothing())
    }

    fn store_during(&self, during: During) -> Store {
        self.open(Durability::Commit, self.plain(during), LOCAL)
    }

    /// The store over a backend that seals to a fresh id.
    fn moving(&self, during: During) -> Store {
        self.open(Durability::Commit, Plain { seals_to_fresh_id: true, ..self.plain(during) }, LOCAL)
    }

    /// The store over a backend whose directories are made in the transaction that publishes them.
    fn brief(&self, during: During) -> Store {
        self.open(Durability::Commit, Plain { create_is_brief: true, ..self.plain(during) }, LOCAL)
    }

    /// Opens the database without strata.
    fn sql(&self) -> Connection {
        Connection::open(self.root().join("strata.db")).expect("open the database")
    }

    fn execute(&self, statement: &str) {
        self.sql().execute_batch(statement).expect(statement);
    }

    fn count(&self, table: &str) -> i64 {
        let query = format!("SELECT count(*) FROM {table}");
        self.sql().query_row(&query, [], |row| row.get(0)).expect(table)
    }

    fn ids(&self) -> Vec<Id> {
        on_disk(&self.root().join("s"))
    }

    /// Makes the next recovery find that the machine was booted since.
    fn reboot(&self) {
        self.execute("UPDATE setting SET value = 'another boot' WHERE name = 'boot_id'");
    }
}

fn names(store: &Store) -> Vec<String> {
    let mut names = Vec::new();
    let mut visit = |info: &crate::snapshotter::Info| {
        names.push(info.name.clone());
        Ok(())
    };
    store.walk(&[], &mut visit).expect("walk");
    names
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// Makes the committed snapshot `name` on `parent`.
fn committed(store: &Store, name: &str, parent: &str, flush: Flush) {
    store.prepare_with("making", parent, NONE, flush).expect("prepare");
    let options = super::CommitOptions { flush, ..super::CommitOptions::PLAIN };
    store.commit_with(name, "making", NONE, options).expect("commit");
}
