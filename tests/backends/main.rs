//! The matrix: every strategy on its usual file systems, compared with the contract and with the other strategies.

#[path = "../support/random.rs"]
mod random;
#[path = "../support/mod.rs"]
mod support;

mod check;
mod damage;
mod faults;
mod hostile;
mod large;
mod layers;
mod lifecycle;
mod lock_step;
mod narrow;
mod processes;
mod race;
mod sharing;
mod store;

use std::path::{Path, PathBuf};

use strata::backend::Backend;
use strata::backend::{Strategy, StrategyOptions};
use strata::backends::{BTRFS, COPY, OVERLAY};
use strata::mount::scratch::{FsType, Scratch};
use strata::store::{Database, Durability, LOCAL, Store};
use strata::tree::copy::CloneMode;

/// A strategy and the file system it is tested on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// Name in tables.
    pub(crate) name: &'static str,
    pub(crate) strategy: Strategy,
    pub(crate) fs: FsType,
    pub(crate) clone: CloneMode,
}

impl Setting {
    /// Opens the strategy for the snapshots below `root`.
    pub(crate) fn backend(&self, root: &Path) -> strata::Result<Box<dyn Backend>> {
        (self.strategy.open)(root, &StrategyOptions::from(self.clone))
    }
}

/// All settings.
pub(crate) const MATRIX: [Setting; 5] = [
    Setting { name: "overlay on ext4", strategy: OVERLAY, fs: FsType::Ext4, clone: CloneMode::Auto },
    Setting { name: "overlay on xfs", strategy: OVERLAY, fs: FsType::Xfs, clone: CloneMode::Auto },
    Setting { name: "btrfs", strategy: BTRFS, fs: FsType::Btrfs, clone: CloneMode::Auto },
    Setting { name: "copy on ext4", strategy: COPY, fs: FsType::Ext4, clone: CloneMode::Bytes },
    Setting { name: "copy with reflinks on xfs", strategy: COPY, fs: FsType::Xfs, clone: CloneMode::Reflink },
];

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
        self.store_with(name, Durability::Commit, |backend| backend).expect(self.setting.name)
    }
}

/// Runs `case` on each setting that this machine supports.
pub(crate) fn on_each(case: impl Fn(&Bench)) {
    for bench in MATRIX.into_iter().filter_map(Bench::new) {
        case(&bench);
    }
}
