//! The store after power cuts, after the death of a process at any system call, and on disks that fail.

#[path = "../support/archive.rs"]
mod archive;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tally.rs"]
mod tally;

mod calls;
#[cfg(target_arch = "x86_64")]
mod commands;
mod disk;
mod failing;
mod full;
mod power;
mod replay;
mod script;
#[cfg(target_arch = "x86_64")]
mod syncs;
#[cfg(target_arch = "x86_64")]
mod tracer;
mod trouble;

use std::path::Path;
use std::time::Duration;

use strata::backend::Backend;
use strata::backends::{Setting, Strategies};
use strata::mount::scratch::FsType;
use strata::store::{Database, Durability, LOCAL, Store};

/// How long each random suite goes on where nothing else is said.
const BUDGET_S: u64 = 6;

/// Opens stores of a setting.
pub(crate) trait OpenStore {
    /// The store at `root`, made if it is not there, with a backend that `wrap` may change.
    fn store_with(
        &self,
        root: &Path,
        durability: Durability,
        wrap: impl FnOnce(Box<dyn Backend>) -> Box<dyn Backend>,
    ) -> strata::Result<Store>;

    /// The store at `root` as users have it.
    fn store(&self, root: &Path) -> strata::Result<Store> {
        self.store_with(root, Durability::Commit, |backend| backend)
    }
}

impl OpenStore for Setting {
    fn store_with(
        &self,
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
        Store::new(database, wrap(self.backend(root)?), LOCAL)
    }
}

/// The settings that are used on `fs`.
pub(crate) fn settings(fs: FsType) -> Vec<Setting> {
    Strategies::default().settings_on(fs)
}

/// A number from the environment.
pub(crate) fn wanted(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// How long a random suite goes on.
pub(crate) fn budget() -> Duration {
    Duration::from_secs(wanted("STRATA_BUDGET_S").unwrap_or(BUDGET_S))
}
