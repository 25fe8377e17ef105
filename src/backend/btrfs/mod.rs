//! btrfs: every snapshot is a subvolume, made by the file system's own snapshots.
//!
//! `s/<id>` is the subvolume itself, so the root may be any directory on btrfs. Making, sealing and removing take the
//! same time whatever the size of the tree. Finding changes only reads the changed parts.
//!
//! # Sealing
//! A committed snapshot is a read-only snapshot of the active one under a new id: the state at one point in time, on
//! disk when the call returns. Setting the read-only flag instead would give neither: a process with an open file could
//! go on writing, and nothing would be flushed.
//!
//! # Subvolumes inside a snapshot
//! A user who may write in an active snapshot may create subvolumes in it. A snapshot of it has empty placeholders in
//! their place, which are not ordinary directories. So sealing turns empty subvolumes into plain directories and
//! refuses others, and removal destroys them first. See `nested.rs`.
//!
//! # State after a crash
//! Besides `<id>` there can be `<id>.new`, which was not finished, `<id>.now`, a read-only copy for reading, and
//! `<id>.gone`, in which a subvolume was being destroyed (see `aside.rs`). [`Backend::inventory`] lists them under
//! their id, and they are removed with it. `s/<id>` itself is complete if it exists, except for the attributes of an
//! empty one, which [`Backend::complete_create`] sets again after a power cut.
//!
//! # References
//! `btrfs-subvolume(8)`; `sys::btrfs` for the ioctls.

mod aside;
mod generation;
mod nested;
mod usage;

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;

use self::generation::Generation;
use super::{Backend, Capabilities, Chain, Strategy, Usage, Variant};
use crate::changeset::{Candidates, Format, Layer};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::fs_type::FsMagic;
use crate::id::Id;
use crate::mount::{Access, Mount};
use crate::store_files::{self, SNAPSHOTS};
use crate::sys::btrfs as sys;
use crate::tree::{Dir, Meta, walk};

/// A file system of which less than one part in so many is left is nearly full.
const NEARLY_FULL_SHARE: u64 = 64;

/// Suffix of a name beside a snapshot while a call is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TemporaryName {
    /// A snapshot that takes more than one step to make.
    New,
    /// A read-only copy of an active snapshot, for computing usage or changes.
    Now,
    /// A directory in which a large subvolume is destroyed.
    Gone,
}

impl TemporaryName {
    const ALL: [Self; 3] = [Self::New, Self::Now, Self::Gone];

    fn suffix(self) -> &'static str {
        match self {
            Self::New => ".new",
            Self::Now => ".now",
            Self::Gone => ".gone",
        }
    }

    fn of(self, id: Id) -> OsString {
        format!("{id}{}", self.suffix()).into()
    }
}

/// Entry of the table of strategies.
pub const STRATEGY: Strategy = Strategy {
    name: "btrfs",
    summary: "btrfs: a snapshot is a subvolume, made and sealed by the file system in constant time",
    open: |root, _| Ok(Box::new(Btrfs::new(root)?)),
    options: &[],
    variants: &[Variant {
        name: "btrfs",
        options: &[],
        file_systems: &["btrfs"],
        usual_file_systems: &["btrfs"],
        why_not_others: "subvolumes are btrfs's",
        copies_all_bytes: false,
    }],
};

/// Snapshots as subvolumes of one btrfs.
#[derive(Debug)]
pub struct Btrfs {
    /// Path of `<root>/s`.
    path: PathBuf,
    /// The open directory `<root>/s`.
    snapshots: Dir,
}

impl Btrfs {
    /// Opens the snapshots below `root`, an absolute path of a directory on btrfs; creates their directory if it is
    /// missing.
    ///
    /// # Errors
    /// `Unsupported` if `root` is not on btrfs; `PermissionDenied` without `CAP_SYS_ADMIN` in the initial user
    /// namespace, which btrfs requires for searching its trees and destroying subvolumes; `InvalidArgument` for a
    /// relative path; `NotFound` if `root` does not exist.
    pub fn new(root: &Path) -> Result<Self> {
        if !root.is_absolute() {
            return Err(Error::invalid(format!("the root {root:?} is not an absolute path")));
        }
        let dir = Dir::open(root)?;
        require_btrfs(&dir)?;
        require_privilege(&dir)?;
        match rustix::fs::mkdirat(&dir, SNAPSHOTS, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).at("make directory", dir.shown_at(SNAPSHOTS)),
        }
        Ok(Self { path: store_files::snapshots(root), snapshots: dir.open_dir(SNAPSHOTS)? })
    }

    /// Opens the subvolume of `id`.
    fn open(&self, id: Id) -> Result<Dir> {
        let dir = self.snapshots.open_dir(id.to_string())?;
        // Older kernels accept a plain directory and act on the subvolume that contains it.
        if dir.stat("")?.ino != sys::ROOT_INODE {
            return Err(Error::data_loss(format!("{} is no subvolume", dir.shown().display())));
        }
        Ok(dir)
    }

    /// Makes `name` a snapshot of `source`.
    fn snapshot(&self, source: &Dir, name: &OsString, frozen: bool) -> Result<()> {
        sys::snapshot(self.snapshots.as_fd(), name, source.as_fd(), frozen)
            .at("make the snapshot", self.snapshots.shown_at(name))
    }

    /// Creates an empty snapshot directly under its final name. Creating it under another name and renaming it would
    /// prevent a power cut from leaving it without its attributes ([`Backend::complete_create`] sets them again). But
    /// after the rename of a subvolume, the next fsync by any process commits the whole file system: 2.3 ms instead of
    /// 0.4, and much longer beside a process that writes a lot.
    fn create_empty(&self, id: Id) -> Result<()> {
        let name = OsString::from(id.to_string());
        let shown = || self.snapshots.shown_at(&name);
        match sys::create_subvolume(self.snapshots.as_fd(), &name) {
            Err(Errno::EXIST) => Err(Error::already_exists(format!("{} is there already", shown().display()))),
            made => made.at("make the subvolume", shown()),
        }?;
        describe_empty(&self.snapshots.open_dir(&name)?)
    }

    /// Removes the entry `name`, whatever its type.
    fn clear(&self, name: &OsString) -> Result<()> {
        clear(&self.snapshots, name)
    }

    /// On a file system that is nearly full, has the kernel free at once what was destroyed. It would begin up to 30 s
    /// later by itself, and a call that needs the space would fail until then.
    fn hasten_if_full(&self) -> Result<()> {
        let shown = || self.snapshots.shown();
        let stat = rustix::fs::fstatvfs(&self.snapshots).at("stat the file system of", shown())?;
        if stat.f_bavail >= stat.f_blocks / NEARLY_FULL_SHARE {
            return Ok(());
        }
        sys::start_commit(self.snapshots.as_fd()).at("begin to commit the file system of", shown())
    }

    /// Returns the transaction after which everything that `parents` do not contain was made.
    fn origin(&self, parents: &Chain) -> Result<u64> {
        let Some(parent) = parents.first() else { return Ok(0) };
        let dir = self.open(*parent)?;
        Ok(sys::subvolume(dir.as_fd()).at("get the generation of", dir.shown())?.made_in)
    }

    /// Makes a read-only snapshot of the active snapshot `id` in its current state, with all data on disk.
    fn now(&self, id: Id, active: &Dir) -> Result<FrozenCopy> {
        let name = TemporaryName::Now.of(id);
        let alone = self.alone()?;
        self.clear(&name)?;
        let now = FrozenCopy { snapshots: self.snapshots.try_clone()?, name, _alone: alone };
        self.snapshot(active, &now.name, true)?;
        Ok(now)
    }

    /// Returns a subvolume with all data on disk: `dir`, the root of `id`, if it is read-only, otherwise a copy, which
    /// is removed when the second value is dropped.
    fn at_rest(&self, id: Id, dir: Dir) -> Result<(Dir, Option<FrozenCopy>)> {
        if sys::is_read_only(dir.as_fd()).at("get the flags of", dir.shown())? {
            return Ok((dir, None));
        }
        let now = self.now(id, &dir)?;
        Ok((self.snapshots.open_dir(&now.name)?, Some(now)))
    }

    /// Waits until no other process or thread reads a copy of an active snapshot. The lock is on the directory of all
    /// snapshots, because a user of a snapshot could hold a lock on the snapshot itself for ever.
    fn alone(&self) -> Result<Dir> {
        let dir = Dir::open(&self.path)?;
        rustix::fs::flock(&dir, FlockOperation::LockExclusive).at("lock", &self.path)?;
        Ok(dir)
    }

    /// Seals a snapshot that contains subvolumes: in a copy of it, the subvolumes are replaced with directories, and
    /// the copy is sealed.
    fn seal_flat(&self, active: &Dir, inside: &[sys::Nested], sealed: Id) -> Result<()> {
        nested::require_empty(active, inside)?;
        let name = TemporaryName::New.of(sealed);
        self.snapshot(active, &name, false)?;
        let flat = self.snapshots.open_dir(&name)?;
        // Checked again, so that files written into them before the copy was made are not lost silently.
        nested::require_empty(active, inside)?;
        nested::flatten(&flat, inside)?;
        self.snapshot(&flat, &sealed.to_string().into(), true)?;
        self.clear(&name)
    }
}

impl Backend for Btrfs {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: STRATEGY.name,
            seals_to_fresh_id: true,
            seal_is_durable: true,
            seal_hides_errors: true,
            create_needs_sync: false,
            create_is_brief: false,
            layers_max: None,
        }
    }

    fn create(&self, id: Id, parents: &Chain) -> Result<()> {
        match parents.first() {
            Some(parent) => self.snapshot(&self.open(*parent)?, &id.to_string().into(), false),
            None => self.create_empty(id),
        }
    }

    /// A commit of the file system may have come between the creation of an empty subvolume and the setting of its
    /// attributes; btrfs cannot hold a transaction open over both. A subvolume that is still empty, and unchanged since
    /// the transaction that made it, gets the attributes again.
    fn complete_create(&self, id: Id, parents: &Chain) -> Result<()> {
        if !parents.is_empty() {
            return Ok(());
        }
        let dir = self.open(id)?;
        let sys::Subvolume { made_in, changed_in, .. } =
            sys::subvolume(dir.as_fd()).at("get the generation of", dir.shown())?;
        if changed_in > made_in || !dir.names()?.is_empty() {
            return Ok(());
        }
        describe_empty(&dir)
    }

    fn mounts(&self, stack: &Chain, access: Access) -> Result<Vec<Mount>> {
        let top = stack.first().ok_or_else(|| Error::invalid("nothing to mount: no snapshot was named"))?;
        Ok(vec![Mount::Bind { source: self.path.join(top.to_string()), access }])
    }

    /// Seals at one point in time, durably. An empty subvolume inside becomes a plain directory with its attributes.
    ///
    /// # Errors
    /// `FailedPrecondition` for a subvolume inside that is not empty; `Unavailable` if subvolumes inside appear or
    /// vanish meanwhile; `AlreadyExists` if something exists at `sealed`.
    fn seal(&self, active: Id, sealed: Id) -> Result<()> {
        let dir = self.open(active)?;
        let inside = nested::list(&dir)?;
        if inside.is_empty() {
            self.snapshot(&dir, &sealed.to_string().into(), true)?;
        } else {
            self.seal_flat(&dir, &inside, sealed)?;
        }
        if nested::list(&dir)? == inside {
            return Ok(());
        }
        self.remove(sealed)?;
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("{}: subvolumes inside came or went while it was committed: try again", dir.shown().display()),
        ))
    }

    fn remove(&self, id: Id) -> Result<()> {
        for temporary in [TemporaryName::New, TemporaryName::Now] {
            self.clear(&temporary.of(id))?;
        }
        aside::remove(&self.snapshots, id)?;
        self.hasten_if_full()
    }

    /// Exact at the time of the call, in time proportional to the changes. See `usage.rs` for the definition. For an
    /// active snapshot a read-only copy is made and destroyed, which flushes its data and commits a transaction.
    fn usage(&self, id: Id, parents: &Chain) -> Result<Usage> {
        let since = self.origin(parents)?;
        let (dir, _now) = self.at_rest(id, self.open(id)?)?;
        usage::since(&dir, since)
    }

    fn inventory(&self) -> Result<Vec<Id>> {
        let mut ids: Vec<Id> = self.snapshots.names()?.iter().filter_map(|name| id_of(name.to_str()?)).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn layer(&self, id: Id) -> Option<Layer> {
        Some(Layer { dir: self.path.join(id.to_string()), format: Format::Tree })
    }

    /// For an active snapshot a read-only copy is made, as for [`Self::usage`]. It is removed when the result is
    /// dropped; until then other readers of active snapshots wait.
    fn candidates(&self, id: Id, parent: Id) -> Result<Candidates> {
        let base = self.open(parent)?;
        let (dir, now) = self.at_rest(id, self.open(id)?)?;
        let hold = now.map(|now| Box::new(now) as Box<_>);
        Ok(Candidates::Hint(Box::new(Generation::new(dir, base, hold)?)))
    }
}

/// A read-only snapshot that is destroyed on drop. It holds a lock, so there is only one at a time.
#[derive(Debug)]
struct FrozenCopy {
    snapshots: Dir,
    name: OsString,
    _alone: Dir,
}

impl Drop for FrozenCopy {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.snapshots, &self.name) {
            // The copy is listed under its snapshot's id, and removed with the snapshot or before the next copy is
            // made.
            tracing::warn!(why = error.chain(), "a snapshot that was made to be looked at is left");
        }
    }
}

/// Removes the entry `name` in `snapshots`, whatever its type.
fn clear(snapshots: &Dir, name: &OsStr) -> Result<()> {
    match sys::destroy(snapshots.as_fd(), name) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTEMPTY | Errno::PERM) => nested::destroy(snapshots, name),
        Err(Errno::INVAL | Errno::NOTDIR) => walk::remove_all(snapshots, name),
        Err(errno) => Err(errno).at("destroy the subvolume", snapshots.shown_at(name)),
    }
}

/// Sets the attributes of an empty snapshot on the root directory of a new subvolume.
fn describe_empty(root: &Dir) -> Result<()> {
    let meta = Meta::implied_dir();
    root.set_owner("", meta.uid, meta.gid)?;
    // The mode is set because the umask was applied. Extended attributes stay: they are properties inherited from the
    // parent directory.
    root.set_mode("", meta.mode)?;
    root.set_mtime("", meta.mtime)
}

/// Returns the id of the snapshot that the directory entry `name` belongs to.
fn id_of(name: &str) -> Option<Id> {
    let stem = TemporaryName::ALL.iter().find_map(|temporary| name.strip_suffix(temporary.suffix())).unwrap_or(name);
    stem.parse().ok()
}

fn require_btrfs(root: &Dir) -> Result<()> {
    let found = FsMagic::of(root, root.shown())?;
    if found == FsMagic::BTRFS {
        return Ok(());
    }
    let found = found.name();
    Err(Error::unsupported(format!(
        "{} is on {found}, not on btrfs: put the root on a btrfs file system, or choose the overlay or copy backend",
        root.shown().display()
    )))
}

/// Checks the privilege with a search, the operation with the highest requirement; the kernel refuses it before looking
/// at anything.
fn require_privilege(root: &Dir) -> Result<()> {
    match sys::nested(root.as_fd(), sys::ROOT_INODE) {
        Err(Errno::PERM) => Err(Error::new(
            ErrorKind::PermissionDenied,
            "btrfs needs CAP_SYS_ADMIN in the first user namespace to search its trees: run as root, or choose the \
             overlay or copy backend, which work in a user namespace",
        )
        .with_source(Errno::PERM)),
        answer => answer.at("search the trees of", root.shown()).map(drop),
    }
}

#[cfg(test)]
mod tests;
