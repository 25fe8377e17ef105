//! Where a contestant is measured: a store, or a plain directory, on a file system of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::backend::{Strategy, Usage, Variant};
use crate::backends::{self, Config, Strategies};
use crate::changeset::Sink;
use crate::changeset::apply::Applied;
use crate::compare::cost::Place;
use crate::error::{Context, Error, Result};
use crate::mount::Mount;
use crate::mount::scratch::{FsType, Scratch, private_namespace};
use crate::snapshotter::{Info, Labels, Snapshotter};
use crate::store::{Durability, Store};
use crate::tree::{Dir, walk};

/// Room on each file system in memory. Only what is written takes memory.
const SCRATCH_BYTES: u64 = 12 << 30;

/// The name of a store's directory on its ground.
const STORE: &str = "store";

/// A directory on some file system for one contestant.
#[derive(Debug)]
pub(super) struct Ground {
    dir: PathBuf,
    scratch: Option<Scratch>,
}

impl Ground {
    /// On a fresh `fs` in memory.
    pub fn fresh(fs: FsType) -> Result<Self> {
        let scratch = Scratch::new(fs, SCRATCH_BYTES)?;
        Ok(Self { dir: scratch.path().to_owned(), scratch: Some(scratch) })
    }

    /// The new directory `name` in `above`, a directory of the user's.
    pub fn within(above: &Path, name: &str) -> Result<Self> {
        private_namespace()?;
        let dir = above.join(name);
        fs::create_dir(&dir).at("make the directory", &dir)?;
        Ok(Self { dir, scratch: None })
    }

    /// A new directory in it.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).at("make the directory", &dir)?;
        Ok(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// What can be weighed: others may write to a disk of the user's at the same time.
    pub fn place(&self) -> Option<Place> {
        let scratch = self.scratch.as_ref()?;
        Some(Place { dir: self.dir.clone(), disk: scratch.statistics() })
    }

    /// Makes it cold.
    pub fn chill(&self) -> Result<()> {
        match &self.scratch {
            Some(scratch) => scratch.chill(),
            None => Err(Error::unsupported("a directory of the user's stays mounted, so nothing can be cold")),
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if self.scratch.is_none()
            && let Err(error) = clear(&self.dir)
        {
            tracing::warn!(dir = %self.dir.display(), why = error.chain(), "a directory is left");
        }
    }
}

fn clear(dir: &Path) -> Result<()> {
    let above = Dir::open(dir.parent().unwrap_or(Path::new("/")))?;
    walk::remove_all(&above, dir.file_name().unwrap_or_default())
}

/// A store on its ground, and a directory to mount at.
#[derive(Debug)]
pub(super) struct Stage {
    store: Mutex<Option<Store>>,
    config: Config,
    target: PathBuf,
    /// Last: what is mounted on it or open goes first.
    ground: Ground,
}

impl Stage {
    pub fn new(ground: Ground, strategy: Strategy, variant: Variant, durability: Durability) -> Result<Self> {
        let target = ground.dir("mount")?;
        let (backend, options, root) = (Some(strategy), variant.options(), ground.path().join(STORE));
        let strategies = Strategies::default().with(strategy);
        let config = Config { backend, options, durability, strategies, ..Config::new(root) };
        let store = Mutex::new(Some(backends::open(&config)?));
        Ok(Self { store, config, target, ground })
    }

    pub fn target(&self) -> &Path {
        &self.target
    }

    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// Closes the store and makes its file system cold.
    pub fn chill(&self) -> Result<()> {
        drop(self.store.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.ground.chill()
    }

    /// Uses the store, opened if it is closed.
    fn with<T>(&self, work: impl FnOnce(&Store) -> Result<T>) -> Result<T> {
        let mut held = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let store = match held.take() {
            Some(store) => store,
            None => backends::open(&self.config)?,
        };
        work(held.insert(store))
    }
}

impl Drop for Stage {
    /// Empties a store in a directory of the user's. Only the store's strategy can: subvolumes cannot be unlinked.
    fn drop(&mut self) {
        if self.ground.scratch.is_none()
            && let Err(error) = self.with(empty)
        {
            tracing::warn!(root = %self.config.root.display(), why = error.chain(), "snapshots are left");
        }
    }
}

/// Removes every snapshot from the disk.
fn empty(store: &Store) -> Result<()> {
    let backend = store.backend();
    backend.inventory()?.into_iter().try_for_each(|id| backend.remove(id))
}

/// The store's answers.
impl Snapshotter for Stage {
    fn stat(&self, key: &str) -> Result<Info> {
        self.with(|store| store.stat(key))
    }

    fn update(&self, info: &Info, fieldpaths: &[&str]) -> Result<Info> {
        self.with(|store| store.update(info, fieldpaths))
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        self.with(|store| store.usage(key))
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.with(|store| store.mounts(key))
    }

    fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        self.with(|store| store.prepare(key, parent, labels))
    }

    fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        self.with(|store| store.view(key, parent, labels))
    }

    fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<()> {
        self.with(|store| store.commit(name, key, labels))
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.with(|store| store.remove(key))
    }

    fn walk(&self, filters: &[&str], visit: &mut dyn FnMut(&Info) -> Result<()>) -> Result<()> {
        self.with(|store| store.walk(filters, visit))
    }

    fn cleanup(&self) -> Result<()> {
        self.with(Store::cleanup)
    }

    fn changes(&self, key: &str, base: Option<&str>, sink: &mut dyn Sink) -> Result<()> {
        self.with(|store| store.changes(key, base, sink))
    }

    fn apply(&self, key: &str, produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Applied> {
        self.with(|store| store.apply(key, produce))
    }
}
