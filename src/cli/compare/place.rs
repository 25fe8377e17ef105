//! Locations where a subject is measured: a store or a plain directory, on a file system of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::backend::{Strategy, Usage, Variant};
use crate::backends::{self, Config};
use crate::changeset::Sink;
use crate::changeset::apply::Applied;
use crate::compare::cost::MeasuredFs;
use crate::error::{Context, Error, Result};
use crate::mount::Mount;
use crate::mount::scratch::{FsType, Scratch, private_namespace};
use crate::snapshotter::{Info, Labels, Snapshotter};
use crate::store::{Durability, Store};
use crate::tree::{Dir, walk};

/// Size of each file system in memory. Only written blocks use memory.
const SCRATCH_BYTES: u64 = 12 << 30;

/// Name of a store's directory on its [`MeasuredDir`].
const STORE: &str = "store";

/// A directory for one subject, on a new file system or in a directory of the user.
#[derive(Debug)]
pub(super) struct MeasuredDir {
    dir: PathBuf,
    scratch: Option<Scratch>,
}

impl MeasuredDir {
    /// Creates a new file system of type `fs` in memory.
    pub fn fresh(fs: FsType) -> Result<Self> {
        let scratch = Scratch::new(fs, SCRATCH_BYTES)?;
        Ok(Self { dir: scratch.path().to_owned(), scratch: Some(scratch) })
    }

    /// Creates the directory `name` in `above`, a directory of the user.
    pub fn within(above: &Path, name: &str) -> Result<Self> {
        private_namespace()?;
        let dir = above.join(name);
        fs::create_dir(&dir).at("make the directory", &dir)?;
        Ok(Self { dir, scratch: None })
    }

    /// Creates a directory in it.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).at("make the directory", &dir)?;
        Ok(dir)
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Returns the file system whose usage can be measured: only one of our own, because other processes may write to
    /// the user's disk at the same time.
    pub fn measured_fs(&self) -> Option<MeasuredFs> {
        let scratch = self.scratch.as_ref()?;
        Some(MeasuredFs { dir: self.dir.clone(), disk: scratch.statistics() })
    }

    /// Drops all cached data of the file system.
    pub fn drop_caches(&self) -> Result<()> {
        match &self.scratch {
            Some(scratch) => scratch.drop_caches(),
            None => Err(Error::unsupported("a directory of the user's stays mounted, so nothing can be cold")),
        }
    }
}

impl Drop for MeasuredDir {
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

/// A store on its [`MeasuredDir`], and a directory to mount at.
#[derive(Debug)]
pub(super) struct MeasuredStore {
    store: Mutex<Option<Store>>,
    config: Config,
    target: PathBuf,
    /// Declared last, so that it is dropped after everything that is mounted or open on it.
    measured_dir: MeasuredDir,
}

impl MeasuredStore {
    pub fn new(
        measured_dir: MeasuredDir,
        strategy: Strategy,
        variant: Variant,
        durability: Durability,
    ) -> Result<Self> {
        let target = measured_dir.dir("mount")?;
        let config = Config::of_variant(measured_dir.path().join(STORE), strategy, variant);
        let config = Config { durability, ..config };
        let store = Mutex::new(Some(backends::open(&config)?));
        Ok(Self { store, config, target, measured_dir })
    }

    pub fn target(&self) -> &Path {
        &self.target
    }

    pub fn measured_dir(&self) -> &MeasuredDir {
        &self.measured_dir
    }

    /// Closes the store and drops all cached data of its file system.
    pub fn drop_caches(&self) -> Result<()> {
        drop(self.store.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.measured_dir.drop_caches()
    }

    /// Calls `work` with the store, opening the store first if it is closed.
    fn with<T>(&self, work: impl FnOnce(&Store) -> Result<T>) -> Result<T> {
        let mut held = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let store = match held.take() {
            Some(store) => store,
            None => backends::open(&self.config)?,
        };
        work(held.insert(store))
    }
}

impl Drop for MeasuredStore {
    /// Removes the snapshots of a store in the user's directory through the strategy, because subvolumes cannot be
    /// removed by `unlink`.
    fn drop(&mut self) {
        if self.measured_dir.scratch.is_none()
            && let Err(error) = self.with(empty)
        {
            tracing::warn!(root = %self.config.root.display(), why = error.chain(), "snapshots are left");
        }
    }
}

/// Removes every snapshot of the store from the disk.
fn empty(store: &Store) -> Result<()> {
    let backend = store.backend();
    backend.inventory()?.into_iter().try_for_each(|id| backend.remove(id))
}

/// Each method forwards to the store.
impl Snapshotter for MeasuredStore {
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
