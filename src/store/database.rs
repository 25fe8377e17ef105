//! The database of a store before it is known which backend it needs: how a store is found, made and recognised.

use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use super::meta::{self, Meta};
use super::{Durability, lock, rows};
use crate::error::{Context, Error, Result};
use crate::tree::Dir;

/// The database of a store, open, before it is known which backend it needs.
#[derive(Debug)]
pub struct Database {
    pub(super) root: PathBuf,
    pub(super) meta: Meta,
    pub(super) backend: Option<String>,
    pub(super) durability: Durability,
}

impl Database {
    /// Opens the store at `root`; `None` if there is none.
    ///
    /// # Errors
    /// `DataLoss` for a damaged database, `Unsupported` for a newer format, `PermissionDenied`.
    pub fn open(root: &Path) -> Result<Option<Self>> {
        if !meta::exists(&root.join("strata.db"))? {
            return Ok(None);
        }
        let root = root.canonicalize().at("open the store", root)?;
        Self::load(root, false).map(Some)
    }

    /// Makes the store at `root`, or opens it if somebody was faster. The directory is made if it is missing; one that
    /// exists must be empty, and becomes private (mode 0700).
    ///
    /// # Errors
    /// `FailedPrecondition` if the directory holds something else; `PermissionDenied`; `ResourceExhausted`.
    pub fn create(root: &Path, durability: Durability) -> Result<Self> {
        std::fs::create_dir_all(root).at("make the directory", root)?;
        let root = root.canonicalize().at("open the directory", root)?;
        if !meta::exists(&root.join("strata.db"))? {
            Self::check_free(&root)?;
        }
        rustix::fs::chmod(&root, Mode::RWXU).at("make private", &root)?;
        for name in ["s", "run"] {
            match rustix::fs::mkdir(root.join(name), Mode::RWXU) {
                Err(rustix::io::Errno::EXIST) => {}
                made => made.at("make directory", root.join(name))?,
            }
        }
        let mut database = Self::load(root, true)?;
        database.durability = durability;
        Ok(database)
    }

    fn load(root: PathBuf, create: bool) -> Result<Self> {
        let run = root.join("run");
        let others = || Ok(lock::living(&run)?.into_iter().next().map(|name| format!("the process of run/{name}")));
        let meta = Meta::open(&root.join("strata.db"), create, others)?;
        let (backend, durability) =
            meta.view(|tx| Ok((rows::setting(tx, "backend")?, rows::setting(tx, "durability")?)))?;
        let durability = if durability.as_deref() == Some("none") { Durability::None } else { Durability::Commit };
        Ok(Self { root, meta, backend, durability })
    }

    /// The name of the backend that the store was made with; `None` if it was never used.
    pub fn backend(&self) -> Option<&str> {
        self.backend.as_deref()
    }

    /// The store's directory, absolute and without links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Checks that `root` may become a store: that it holds nothing but what a fresh file system or an interrupted first
    /// start leaves.
    ///
    /// # Errors
    /// `FailedPrecondition` that names what is there.
    pub fn check_free(root: &Path) -> Result<()> {
        const KNOWN: [&str; 6] = ["lost+found", "s", "run", "strata.db", "strata.db-wal", "strata.db-shm"];
        let stranger =
            Dir::open(root)?.names()?.into_iter().find(|entry| !KNOWN.iter().any(|name| entry.name == *name));
        match stranger {
            None => Ok(()),
            Some(entry) => Err(Error::precondition(format!(
                "{} is no store and not empty (it holds {}): choose an empty or a new directory",
                root.display(),
                entry.name.display()
            ))),
        }
    }
}
