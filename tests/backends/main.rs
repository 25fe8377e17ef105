//! The matrix: every strategy on its usual file systems, compared with the contract and with the other strategies.

#[path = "../support/random.rs"]
mod random;
#[path = "../support/settings.rs"]
mod settings;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tally.rs"]
mod tally;

mod check;
mod damage;
mod faults;
mod hostile;
mod large;
mod layers;
mod lifecycle;
mod lock_step;
mod mapped;
mod narrow;
mod processes;
mod race;
mod sharing;
mod store;

use std::path::PathBuf;

use strata::backend::Backend;
use strata::backends::Setting;
use strata::mount::scratch::Scratch;
use strata::store::{Database, Durability, LOCAL, Store};

use settings::settings;

/// A strategy on a file system of its own.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) setting: Setting,
    pub(crate) scratch: Scratch,
}

impl Bench {
    /// Returns `None` if the machine lacks something that is not required.
    pub(crate) fn new(setting: Setting) -> Option<Self> {
        Some(Self { setting, scratch: support::scratch(setting.fs)? })
    }

    pub(crate) fn root(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Opens or creates the store `name`, with a backend that `wrap` may change.
    pub(crate) fn store_with(
        &self,
        name: &str,
        durability: Durability,
        wrap: impl FnOnce(Box<dyn Backend>) -> Box<dyn Backend>,
    ) -> strata::Result<Store> {
        let root = self.root(name);
        std::fs::create_dir_all(&root).expect("make the root");
        let backend = self.setting.backend(&root)?;
        let database = Database::create(&root, durability)?;
        Store::new(database, wrap(backend), LOCAL)
    }

    /// Opens or creates the store `name` with the default settings.
    pub(crate) fn store(&self, name: &str) -> Store {
        let store = self.store_with(name, Durability::Commit, |backend| backend);
        store.unwrap_or_else(|error| panic!("{}: {}", self.setting, error.chain()))
    }
}

/// Runs `case` on each setting that this machine supports.
pub(crate) fn on_each(case: impl Fn(&Bench)) {
    for bench in settings().into_iter().filter_map(Bench::new) {
        case(&bench);
    }
}
