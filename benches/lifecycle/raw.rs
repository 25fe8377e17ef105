//! The raw operations: the minimum of kernel and SQLite work that an operation of the store needs.
//!
//! Nothing here uses the store or a backend, except for the bare ioctls of btrfs.

#[allow(dead_code, unused_imports, reason = "two ioctls are measured; the backend uses the rest")]
#[path = "../../src/sys/btrfs.rs"]
mod btrfs;

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timestamps};
use rustix::io::Errno;
use strata::compare::image::Image;
use strata::compare::measure::Timer;
use strata::compare::workload;
use strata::mount::{Mount, Mounted, Upper};
use strata::snapshotter::{Labels, Snapshotter};
use strata::store::Store;
use strata::tree::Dir;

/// A failure of a raw operation ends the benchmark, because there is nothing to compare with.
pub type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// A separate database on the same file system, used as the store uses its own.
pub struct Database(rusqlite::Connection);

impl Database {
    pub fn new(dir: &Path) -> Result<Self> {
        let connection = rusqlite::Connection::open(dir.join("raw.db"))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.execute_batch("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")?;
        Ok(Self(connection))
    }

    /// Runs one durable transaction that adds a row: every operation of the store writes at least one row.
    pub fn transaction(&mut self) -> Result<()> {
        let transaction = self.0.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        transaction
            .prepare_cached("INSERT INTO t (name) SELECT 'name-' || (1 + coalesce(max(id), 0)) FROM t")?
            .execute([])?;
        Ok(transaction.commit()?)
    }
}

/// Returns the directory of the committed snapshot `name` of `store`.
pub fn source(store: &Store, name: &str) -> strata::Result<PathBuf> {
    let key = "where";
    let mounts = store.view(key, name, &Labels::new())?;
    store.remove(key)?;
    match mounts.as_slice() {
        [Mount::Bind { source, .. }] => Ok(source.clone()),
        other => Err(strata::Error::unsupported(format!("the parent is not one directory: {other:?}"))),
    }
}

/// The steps of a container's life as a shell script would make them: directories and a transaction.
pub struct Overlay {
    dir: PathBuf,
    target: PathBuf,
    lower: PathBuf,
    database: Database,
}

impl Overlay {
    /// Works in `dir`, over the layer `lower`, mounting at `target`.
    pub fn new(dir: PathBuf, target: PathBuf, lower: PathBuf) -> Result<Self> {
        Ok(Self { database: Database::new(&dir)?, dir, target, lower })
    }

    pub fn round(&mut self, image: &Image, round: u64, timer: &mut Timer) -> Result<()> {
        let top = self.dir.join(round.to_string());
        let upper = Upper { dir: top.join("fs"), work: top.join("work") };
        timer.time("prepare", || {
            rustix::fs::mkdir(&top, Mode::RWXU)?;
            rustix::fs::mkdir(&upper.work, Mode::RWXU)?;
            rustix::fs::mkdir(&upper.dir, Mode::RWXU)?;
            inherit(&self.lower, &upper.dir)?;
            self.database.transaction()
        })?;
        let mount = Mount::Overlay { lower: vec![self.lower.clone()], upper: Some(upper.clone()), userxattr: false };
        let mounted = Mounted::new(&[mount], &self.target)?;
        workload::write(&Dir::open(mounted.path())?, image, round)?;
        mounted.unmount()?;
        timer.time("commit", || {
            sync_tree(&upper.dir)?;
            sync(&top)?;
            sync(&self.dir)?;
            self.database.transaction()
        })?;
        timer.time("remove", || self.database.transaction())?;
        timer.time("free", || fs::remove_dir_all(&top))?;
        Ok(())
    }
}

/// Gives `dir` the mode, owner and times of `model`.
fn inherit(model: &Path, dir: &Path) -> Result<()> {
    let stat = rustix::fs::stat(model)?;
    rustix::fs::chown(dir, Some(rustix::fs::Uid::from_raw(stat.st_uid)), Some(rustix::fs::Gid::from_raw(stat.st_gid)))?;
    rustix::fs::chmod(dir, Mode::from_raw_mode(stat.st_mode))?;
    let mtime = rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 };
    let times = Timestamps { last_access: mtime, last_modification: mtime };
    Ok(rustix::fs::utimensat(CWD, dir, &times, AtFlags::empty())?)
}

fn sync(path: &Path) -> Result<()> {
    Ok(rustix::fs::fsync(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?)
}

/// Syncs every file and directory of a small tree.
fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            sync(&entry.path())?;
        }
    }
    sync(dir)
}

/// The steps of a container's life on btrfs: an ioctl and a transaction.
pub struct Btrfs {
    dir: PathBuf,
    source: PathBuf,
    database: Database,
}

impl Btrfs {
    /// Works in `dir`, on snapshots of the subvolume `source`.
    pub fn new(dir: PathBuf, source: PathBuf) -> Result<Self> {
        Ok(Self { database: Database::new(&dir)?, dir, source })
    }

    pub fn round(&mut self, image: &Image, round: u64, timer: &mut Timer) -> Result<()> {
        let (top, layer) = (format!("top{round}"), format!("layer{round}"));
        timer.time("prepare", || {
            snapshot(&self.dir, &top, &self.source, false)?;
            self.database.transaction()
        })?;
        let active = self.dir.join(&top);
        workload::write(&Dir::open(&active)?, image, round)?;
        timer.time("commit", || {
            snapshot(&self.dir, &layer, &active, true)?;
            self.database.transaction()
        })?;
        timer.time("remove", || self.database.transaction())?;
        timer.time("free", || destroy(&self.dir, &layer).and_then(|()| destroy(&self.dir, &top)))?;
        Ok(())
    }

    /// Creates an active snapshot whose usage is measured.
    pub fn active(&self, name: &str) -> Result<PathBuf> {
        snapshot(&self.dir, name, &self.source, false)?;
        Ok(self.dir.join(name))
    }

    /// Destroys a snapshot.
    pub fn destroy(&self, name: &str) -> Result<()> {
        destroy(&self.dir, name)
    }

    /// The ioctls that computing the usage of an active snapshot needs at least: a snapshot makes data in memory
    /// visible.
    pub fn usage(&self, active: &Path) -> Result<()> {
        snapshot(&self.dir, "now", active, true)?;
        destroy(&self.dir, "now")
    }
}

/// Converts the return value of a system call that [`btrfs`] makes by itself.
fn check(returned: i64) -> Result<usize, Errno> {
    usize::try_from(returned)
        .map_err(|_| std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
}

fn snapshot(dir: &Path, name: &str, source: &Path, read_only: bool) -> Result<()> {
    Ok(btrfs::snapshot(Dir::open(dir)?.as_fd(), name.as_ref(), Dir::open(source)?.as_fd(), read_only)?)
}

fn destroy(dir: &Path, name: &str) -> Result<()> {
    Ok(btrfs::destroy(Dir::open(dir)?.as_fd(), name.as_ref())?)
}
