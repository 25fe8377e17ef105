//! Finding, making and recognising a store. The database is opened before the backend, because it names the backend.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use super::db::Transaction;
use super::db::meta::{self, Failed, Meta};
use super::{Durability, lock, reserve, rows};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::probe;
use crate::store_files::{self, FRESH, SNAPSHOTS, TAR_SPLIT};
use crate::tree::Dir;

/// Mode bits that let the group or others write.
const OTHERS_WRITE: u32 = 0o022;

/// The open database of a store whose backend is not open yet.
#[derive(Debug)]
pub struct Database {
    pub(super) root: PathBuf,
    pub(super) meta: Meta,
    pub(super) backend: Option<String>,
    pub(super) durability: Durability,
}

impl Database {
    /// Opens the store at `root`; `None` if there is none, but could be.
    ///
    /// # Errors
    /// `DataLoss` for a damaged database or one that is gone, `Unsupported` for a newer format, `PermissionDenied`;
    /// `FailedPrecondition` if the directory holds something else, belongs to another user or lets others write.
    pub fn open(root: &Path) -> Result<Option<Self>> {
        if !meta::exists(&store_files::database(root))? {
            return match Self::check_root(root) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                checked => checked.map(|()| None),
            };
        }
        let root = root.canonicalize().at("open the store", root)?;
        check_owner(&root, true)?;
        Self::load(root, false).map(Some)
    }

    /// Makes the store at `root`, or opens it if another process was faster. A missing directory is made. An existing
    /// one must be empty, and becomes private (mode 0700).
    ///
    /// # Errors
    /// As [`Database::check_root`]; `FailedPrecondition` if the directory belongs to another user; `PermissionDenied`;
    /// `ResourceExhausted`.
    pub fn create(root: &Path, durability: Durability) -> Result<Self> {
        std::fs::create_dir_all(root).at("make the directory", root)?;
        let root = root.canonicalize().at("open the directory", root)?;
        check_owner(&root, false)?;
        Self::check_root(&root)?;
        rustix::fs::chmod(&root, Mode::RWXU).at("make private", &root)?;
        let run = store_files::run(&root);
        for dir in [&store_files::snapshots(&root), &run] {
            match rustix::fs::mkdir(dir, Mode::RWXU) {
                Err(rustix::io::Errno::EXIST) => {}
                made => made.at("make directory", dir)?,
            }
        }
        lock::make_standing(&run)?;
        let mut database = Self::load(root, true)?;
        if database.backend.is_none() {
            database.durability = durability;
        }
        Ok(database)
    }

    /// Checks that `root` holds a store, or only entries that a fresh file system or an interrupted first start leaves.
    ///
    /// # Errors
    /// `FailedPrecondition` that names another entry of the directory; `DataLoss` if there are snapshots without a
    /// database; errors of the file system.
    pub fn check_root(root: &Path) -> Result<()> {
        let database = store_files::database(root);
        if meta::exists(&database)? {
            return Ok(());
        }
        match check_fresh(root, &Dir::open(root)?) {
            // Another process made the store meanwhile, and the first snapshots in it.
            Err(_) if meta::exists(&database)? => Ok(()),
            checked => checked,
        }
    }

    fn load(root: PathBuf, create: bool) -> Result<Self> {
        let run = store_files::run(&root);
        let others = || Ok(lock::living(&run)?.into_iter().next().map(|name| format!("the process of run/{name}")));
        let path = store_files::database(&root);
        // Reading the database takes space too: SQLite makes the file of its index in shared memory.
        let open = || {
            let meta = Meta::open(&path, create, others)?;
            meta.view(marker).map(|marker| (meta, marker))
        };
        let (meta, (backend, durability)) = reserve::with(&root, open)?;
        Ok(Self { root, meta, backend, durability })
    }

    /// Returns the name of the backend that the store was made with; `None` if the store was never used.
    pub fn backend(&self) -> Option<&str> {
        self.backend.as_deref()
    }

    /// Returns the store's directory, absolute and without links.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Refuses a root in which another user can exchange files: a directory of another owner, or, if `private` is true, one
/// that others may write to.
fn check_owner(root: &Path, private: bool) -> Result<()> {
    let stat = rustix::fs::stat(root).at("stat", root)?;
    let (owner, caller) = (stat.st_uid, rustix::process::geteuid().as_raw());
    let shown = root.display();
    if owner != caller {
        return Err(Error::precondition(format!(
            "the store {shown} belongs to user {owner}, who could exchange its files, and not to user {caller}: run \
             strata as user {owner}, or choose another directory"
        )));
    }
    if private && stat.st_mode & OTHERS_WRITE != 0 {
        return Err(Error::precondition(format!(
            "other users can write to the store {shown}: chmod 0700 {shown}, after a look at what is in it"
        )));
    }
    Ok(())
}

/// Checks that a store can be made in `dir` at `root`, which has no database.
fn check_fresh(root: &Path, dir: &Dir) -> Result<()> {
    let names: Vec<OsString> = dir.names()?.into_iter().map(|entry| entry.name).collect();
    if has_snapshots(dir, &names)? {
        return Err(Error::data_loss(format!(
            "{} holds snapshots, but their database strata.db is gone: restore it from a backup, or remove the \
             directory",
            root.display()
        )));
    }
    // Another process may be trying out the file system at this moment.
    let is_trial = |name: &OsString| name.as_encoded_bytes().starts_with(probe::TRIAL_PREFIX.as_bytes());
    match names.iter().find(|name| !is_trial(name) && !FRESH.iter().any(|known| name == known)) {
        None => Ok(()),
        Some(stranger) => Err(Error::precondition(format!(
            "{} is no store and not empty (it holds {}): choose an empty or a new directory",
            root.display(),
            stranger.display()
        ))),
    }
}

/// Returns true if there is an entry that only a store with a database makes: a snapshot's directory, whose name begins
/// with a digit, or the directory of tar-split data. Other names in `s` do not count, because a backend may make such
/// files first.
fn has_snapshots(dir: &Dir, names: &[OsString]) -> Result<bool> {
    let has = |name: &str| names.iter().any(|known| known == name);
    if !has(SNAPSHOTS) {
        return Ok(false);
    }
    let is_numbered = |name: &OsStr| name.as_encoded_bytes().first().is_some_and(u8::is_ascii_digit);
    Ok(has(TAR_SPLIT) || dir.open_dir(SNAPSHOTS)?.names()?.iter().any(is_numbered))
}

/// Returns the backend and the durability that were noted when the store was made.
fn marker(tx: &Transaction<'_>) -> Result<(Option<String>, Durability), Failed> {
    let durability = rows::setting(tx, "durability")?;
    let durability = if durability.as_deref() == Some("none") { Durability::None } else { Durability::Commit };
    Ok((rows::setting(tx, "backend")?, durability))
}

/// Brings the directory entries of a new store to disk. SQLite also syncs directories when it makes its files, but
/// ignores a failure (`unixSync` in its `os_unix.c`). The store is noted as made only after this, so the next process
/// repeats it after a failure.
pub(super) fn sync_directories(root: &Path) -> Result<()> {
    let dirs = [store_files::snapshots(root), store_files::run(root), root.to_owned()];
    dirs.iter().try_for_each(|dir| rustix::fs::fsync(&Dir::open(dir)?).at("fsync", dir))
}

/// Notes the backend and the durability of a new store. Returns them, or those that another process noted before.
pub(super) fn note(tx: &Transaction<'_>, backend: &str, wish: Durability) -> Result<(String, Durability), Failed> {
    if let (Some(made), durability) = marker(tx)? {
        return Ok((made, durability));
    }
    rows::set_setting(tx, "backend", backend)?;
    rows::set_setting(tx, "durability", wish.as_str())?;
    Ok((backend.to_owned(), wish))
}
