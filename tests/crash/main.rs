//! The store after power cuts, after the death of a process at any system call, and on disks that fail.

#[path = "../support/archive.rs"]
mod archive;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/mod.rs"]
mod support;

mod calls;
mod disk;
mod failing;
mod full;
mod power;
mod replay;
mod script;
mod trouble;

use std::path::Path;
use std::time::Duration;

use strata::backend::Backend;
use strata::backend::{Strategy, StrategyOptions};
use strata::backends::{BTRFS, COPY, OVERLAY};
use strata::mount::scratch::FsType;
use strata::store::{Database, Durability, LOCAL, Store};
use strata::tree::copy::CloneMode;

/// How long each random suite goes on where nothing else is said.
const BUDGET_S: u64 = 6;

/// A strategy and the file system that it is on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) strategy: Strategy,
    pub(crate) fs: FsType,
    pub(crate) clone: CloneMode,
}

impl Setting {
    const fn new(strategy: Strategy, fs: FsType, clone: CloneMode) -> Self {
        Self { strategy, fs, clone }
    }

    /// The store at `root`, made if it is not there, with a backend that `wrap` may change.
    pub(crate) fn store_with(
        self,
        root: &Path,
        durability: Durability,
        wrap: impl FnOnce(Box<dyn Backend>) -> Box<dyn Backend>,
    ) -> strata::Result<Store> {
        if !root.exists() {
            std::fs::create_dir(root).expect("make the root");
        }
        let database = match Database::open(root)? {
            Some(database) if database.backend().is_some() => database,
            _ => Database::create(root, durability)?,
        };
        let backend = (self.strategy.open)(root, &StrategyOptions::from(self.clone))?;
        Store::new(database, wrap(backend), LOCAL)
    }

    /// The store at `root` as users have it.
    pub(crate) fn store(self, root: &Path) -> strata::Result<Store> {
        self.store_with(root, Durability::Commit, |backend| backend)
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.strategy, self.fs)
    }
}

/// The strategies that are used on `fs`.
pub(crate) fn settings(fs: FsType) -> Vec<Setting> {
    let reflinks = matches!(fs, FsType::Xfs | FsType::Btrfs);
    let copy = if reflinks { CloneMode::Reflink } else { CloneMode::Bytes };
    let mut settings = vec![Setting::new(OVERLAY, fs, CloneMode::Auto), Setting::new(COPY, fs, copy)];
    if fs == FsType::Btrfs {
        settings.push(Setting::new(BTRFS, fs, CloneMode::Auto));
    }
    settings
}

/// A number from the environment.
pub(crate) fn wanted(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// How long a random suite goes on.
pub(crate) fn budget() -> Duration {
    Duration::from_secs(wanted("STRATA_BUDGET_S").unwrap_or(BUDGET_S))
}
