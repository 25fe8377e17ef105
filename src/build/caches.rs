//! The caches of `RUN --mount=type=cache`: directories of the store that any build may use by their id.
//!
//! Invariants: each [`Cache`] in use holds a lock on its directory. `gc` keeps locked caches, and with `sharing=locked`
//! a command waits for the lock. A cache gets its name after its first content and its owner.
//!
//! # References
//! Dockerfile reference, "RUN --mount=type=cache"; `flock(2)`.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, RenameFlags, flock, mkdir, renameat_with};
use rustix::io::Errno;
use serde_json::json;

use super::mounts::{CacheMount, Ownership, Sharing};
use crate::container::Bind;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::id::{Digest, unique_key};
use crate::mount::Access;
use crate::store::Store;
use crate::store_files;
use crate::tree::copy::{self, CloneMode};
use crate::tree::{Dir, walk};

/// Maximum number of tries to open a cache, because `gc` can remove it at the same time.
const OPEN_TRIES_MAX: u32 = 16;

/// Maximum number of private caches of one id, and so of the commands that use the id at the same time.
const PRIVATE_MAX: u32 = 1024;

/// The pause between two tries to lock a cache.
const WAIT: Duration = Duration::from_millis(50);

/// The mode of a cache without the option `mode`.
const MODE: u32 = 0o755;

/// A cache in use.
#[derive(Debug)]
pub(super) struct Cache {
    /// The directory of the cache, with a descriptor that holds the lock.
    dir: Dir,
    name: String,
}

fn caches(store: &Store) -> PathBuf {
    store_files::build_caches(store.root())
}

/// The first content of a cache: the directory `dir` of the snapshot `name`. The cache's name depends on `name`.
pub(super) struct Seed<'a> {
    pub(super) name: String,
    pub(super) dir: &'a Dir,
}

impl Cache {
    /// Opens a cache, and makes it if it is missing. Waits while the lock of another command excludes this one. `held`
    /// are the caches that the command has open already.
    ///
    /// # Errors
    /// The error of `cancelled`; `Unavailable` if too many caches of the id are in use; errors of the file system.
    pub(super) fn open(
        store: &Store,
        mount: &CacheMount,
        seed: Option<&Seed<'_>>,
        held: &[Self],
        cancelled: &dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let name = name(mount, seed);
        // A command may mount one cache twice: the second mount must not wait for the lock of the first.
        if let Some(known) = held.iter().find(|cache| cache.name == name) {
            return Ok(Self { dir: known.dir.try_clone()?, name });
        }
        let open = |name: &str, lock| Self::try_open(store, name, mount.owner, seed, lock);
        match mount.sharing {
            Sharing::Shared => loop {
                cancelled()?;
                match open(&name, FlockOperation::NonBlockingLockShared)? {
                    Some(cache) => return Ok(cache),
                    None => std::thread::sleep(WAIT),
                }
            },
            Sharing::Locked => loop {
                cancelled()?;
                match open(&name, FlockOperation::NonBlockingLockExclusive)? {
                    Some(cache) => return Ok(cache),
                    None => std::thread::sleep(WAIT),
                }
            },
            Sharing::Private => {
                for number in 0..PRIVATE_MAX {
                    let own = Digest::of(format!("{name} {number}").as_bytes()).hex();
                    let own = if number == 0 { &name } else { &own };
                    if let Some(cache) = open(own, FlockOperation::NonBlockingLockExclusive)? {
                        return Ok(cache);
                    }
                }
                Err(Error::new(ErrorKind::Unavailable, format!("the cache {:?} is in use too often", mount.id)))
            }
        }
    }

    /// Opens and locks the cache `name`; `None` if another lock excludes `lock`.
    fn try_open(
        store: &Store,
        name: &str,
        owner: Ownership,
        seed: Option<&Seed<'_>>,
        lock: FlockOperation,
    ) -> Result<Option<Self>> {
        let above = caches(store);
        make_dir(&above, 0o700)?;
        let path = above.join(name);
        for _ in 0..OPEN_TRIES_MAX {
            let Ok(dir) = Dir::open(&path) else {
                make(&above, &path, owner, seed)?;
                continue;
            };
            match flock(&dir, lock) {
                Err(Errno::WOULDBLOCK) => return Ok(None),
                locked => locked.at("lock", &path)?,
            }
            // `gc` may have removed the directory before the lock was taken.
            let ours = dir.stat("")?.ino;
            if Dir::open(&above)?.stat_if_any(name)?.is_some_and(|stat| stat.ino == ours) {
                return Ok(Some(Self { dir, name: name.to_owned() }));
            }
        }
        Err(Error::new(ErrorKind::Unavailable, format!("the cache {name} is removed again and again")))
    }

    /// Returns the mount of the cache at `target` of a container.
    pub(super) fn bind(&self, target: String, read_only: bool) -> Result<Bind> {
        let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
        Bind::new(self.dir.as_fd(), self.dir.shown(), target, access)
    }
}

/// Returns the name of a cache's directory. The same id with another owner or first content is another cache.
fn name(mount: &CacheMount, seed: Option<&Seed<'_>>) -> String {
    if mount.owner == Ownership::default() && seed.is_none() {
        return Digest::of(mount.id.as_bytes()).hex();
    }
    let key = json!([mount.id, mount.owner, seed.map(|seed| &seed.name), mount.source]);
    Digest::of(key.to_string().as_bytes()).hex()
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    match mkdir(path, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => Ok(()),
        made => made.at("make directory", path),
    }
}

/// Makes a cache at `path`, unless another process makes it first.
fn make(above: &Path, path: &Path, owner: Ownership, seed: Option<&Seed<'_>>) -> Result<()> {
    let place = above.join(unique_key("new"));
    make_dir(&place, 0o700)?;
    let dir = Dir::open(&place)?;
    // `gc` removes only directories without a lock.
    flock(&dir, FlockOperation::LockShared).at("lock", &place)?;
    let filled = seed.map_or(Ok(()), |seed| copy::copy(seed.dir, &dir, copy::Options::new(CloneMode::Auto)).map(drop));
    let made = filled.and_then(|()| {
        if seed.is_none() || owner != Ownership::default() {
            dir.set_owner("", owner.uid.unwrap_or_default(), owner.gid.unwrap_or_default())?;
            dir.set_mode("", owner.mode.unwrap_or(MODE))?;
        }
        let cwd = rustix::fs::CWD;
        match renameat_with(cwd, &place, cwd, path, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Ok(false),
            renamed => renamed.at("rename", &place).map(|()| true),
        }
    });
    if !matches!(made, Ok(true)) {
        walk::remove_all(&Dir::open(above)?, place.file_name().unwrap_or_default())?;
    }
    made.map(drop)
}

/// Removes the caches that no build is using; returns their number.
///
/// # Errors
/// Errors of the file system.
pub fn free_caches(store: &Store) -> Result<u64> {
    let path = caches(store);
    if !path.try_exists().at("look for", &path)? {
        return Ok(0);
    }
    let above = Dir::open(&path)?;
    let mut freed = 0;
    for entry in above.names()? {
        let dir = above.open_dir(&entry.name)?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => continue,
            locked => locked.at("lock", above.shown_at(&entry.name))?,
        }
        walk::remove_all(&above, &entry.name)?;
        freed += 1;
    }
    Ok(freed)
}
