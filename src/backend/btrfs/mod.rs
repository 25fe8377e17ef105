//! btrfs: every snapshot is a subvolume, and the kernel's snapshots do the work.
//!
//! `s/<id>` is the subvolume itself, so the root may be any directory on btrfs. Making, sealing and removing cost the
//! same whatever the size of the tree; only what changed is ever looked at.
//!
//! # Sealing
//! A committed snapshot is a read-only snapshot of the active one under a fresh id: the state of one moment, on disk
//! when the call returns. Setting the read-only flag instead would be neither: whoever has a file open goes on writing,
//! and nothing is flushed.
//!
//! # Subvolumes inside a snapshot
//! Who may write in an active snapshot may make subvolumes in it. A snapshot of it has empty placeholders in their
//! stead, which are not quite directories; so sealing makes plain directories of empty ones and refuses others, and
//! removal destroys them first. See `nested.rs`.
//!
//! # What a crash leaves
//! Beside `<id>` there can be `<id>.new`, which was not finished, `<id>.now`, which was looked at, and `<id>.gone`, in
//! which it was being destroyed (see `aside.rs`): they are listed by [`Backend::inventory`] under their id and go with
//! it. `s/<id>` itself is complete if it is there, but for the attributes of an empty one, which [`Backend::mend`]
//! gives it again after a power cut.
//!
//! # References
//! `btrfs-subvolume(8)`; `sys::btrfs` for the ioctls.

mod aside;
mod generation;
mod nested;
pub mod raw;
mod usage;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;

use self::generation::Generation;
use super::{Backend, Capabilities, Chain, Strategy, Usage, Variant};
use crate::changeset::{Candidates, Format, Layer};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::id::Id;
use crate::mount::{Access, Mount};
use crate::sys::btrfs as sys;
use crate::tree::{Dir, Meta, walk};

/// The directory of the snapshots in the root.
const SNAPSHOTS: &str = "s";

/// What a snapshot can have beside it while a call is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// A snapshot that takes more than one step to make.
    New,
    /// A read-only copy of an active snapshot, of which the usage is taken or the changes are looked for.
    Now,
    /// A directory in which a large one is destroyed.
    Gone,
}

impl Beside {
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
    /// `<root>/s`, by its path.
    path: PathBuf,
    /// The same, open.
    snapshots: Dir,
}

impl Btrfs {
    /// Opens the snapshots below `root`, an absolute path of a directory on btrfs; makes their directory if it is
    /// missing.
    ///
    /// # Errors
    /// `Unsupported` if `root` is not on btrfs; `PermissionDenied` without `CAP_SYS_ADMIN` in the first user namespace,
    /// which btrfs demands for searching its trees and destroying subvolumes; `InvalidArgument` for a relative path;
    /// `NotFound` if there is no `root`.
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
        Ok(Self { path: root.join(SNAPSHOTS), snapshots: dir.open_dir(SNAPSHOTS)? })
    }

    /// Opens the subvolume of `id`.
    fn open(&self, id: Id) -> Result<Dir> {
        let dir = self.snapshots.open_dir(id.to_string())?;
        // Older kernels take a plain directory for the subvolume around it.
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

    /// Makes an empty snapshot, under its name from the start. Giving it a name by a rename would keep a power cut from
    /// leaving it without its attributes ([`Backend::mend`] does that), but after the rename of a subvolume the next
    /// fsync of anybody commits the whole file system: 2.3 ms instead of 0.4, and as long as a large writer takes
    /// beside one.
    fn create_empty(&self, id: Id) -> Result<()> {
        let name = OsString::from(id.to_string());
        let shown = || self.snapshots.shown_at(&name);
        match sys::create_subvolume(self.snapshots.as_fd(), &name) {
            Err(Errno::EXIST) => Err(Error::already_exists(format!("{} is there already", shown().display()))),
            made => made.at("make the subvolume", shown()),
        }?;
        describe_empty(&self.snapshots.open_dir(&name)?)
    }

    /// Removes whatever is called `name`.
    fn clear(&self, name: &OsString) -> Result<()> {
        clear(&self.snapshots, name)
    }

    /// The transaction after which whatever `parents` do not hold came into being.
    fn origin(&self, parents: &Chain) -> Result<u64> {
        let Some(parent) = parents.first() else { return Ok(0) };
        let dir = self.open(*parent)?;
        Ok(sys::subvolume(dir.as_fd()).at("get the generation of", dir.shown())?.made_in)
    }

    /// A read-only snapshot of the active snapshot `id` as it is now, in which nothing is in memory only.
    fn now(&self, id: Id, active: &Dir) -> Result<Now> {
        let name = Beside::Now.of(id);
        let alone = self.alone()?;
        self.clear(&name)?;
        let now = Now { snapshots: self.snapshots.try_clone()?, name, _alone: alone };
        self.snapshot(active, &now.name, true)?;
        Ok(now)
    }

    /// A subvolume of which all is on disk: `dir`, the root of `id`, or a copy of it that goes with the second value.
    fn at_rest(&self, id: Id, dir: Dir) -> Result<(Dir, Option<Now>)> {
        if sys::is_read_only(dir.as_fd()).at("get the flags of", dir.shown())? {
            return Ok((dir, None));
        }
        let now = self.now(id, &dir)?;
        Ok((self.snapshots.open_dir(&now.name)?, Some(now)))
    }

    /// Waits until nobody else, in whatever process, looks at an active snapshot. The lock is on the directory of all
    /// snapshots: one on a snapshot could be held for ever by who uses it.
    fn alone(&self) -> Result<Dir> {
        let dir = Dir::open(&self.path)?;
        rustix::fs::flock(&dir, FlockOperation::LockExclusive).at("lock", &self.path)?;
        Ok(dir)
    }

    /// Seals a snapshot that has subvolumes inside: a copy of it gets directories in their stead, and is sealed.
    fn seal_flat(&self, active: &Dir, inside: &[sys::Nested], sealed: Id) -> Result<()> {
        nested::require_empty(active, inside)?;
        let name = Beside::New.of(sealed);
        self.snapshot(active, &name, false)?;
        let flat = self.snapshots.open_dir(&name)?;
        // Once more: what was put into them before the copy was made must not be lost in silence.
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

    /// The file system may have been committed between the making of an empty subvolume and its attributes, for which a
    /// transaction cannot be held open. One that is still empty, and unchanged since the transaction that made it, gets
    /// them again.
    fn mend(&self, id: Id, parents: &Chain) -> Result<()> {
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

    /// Point in time and durable. An empty subvolume inside becomes a plain directory with its attributes.
    ///
    /// # Errors
    /// `FailedPrecondition` for a subvolume inside that is not empty; `Unavailable` if subvolumes inside come or go
    /// meanwhile; `AlreadyExists` if something is at `sealed`.
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
        for beside in [Beside::New, Beside::Now] {
            self.clear(&beside.of(id))?;
        }
        aside::remove(&self.snapshots, id)
    }

    /// Exact at the moment of the call, in time proportional to what changed. See `usage.rs` for what is counted. For an
    /// active snapshot a read-only one is made and destroyed, which flushes its data and commits a transaction.
    fn usage(&self, id: Id, parents: &Chain) -> Result<Usage> {
        let since = self.origin(parents)?;
        let (dir, _now) = self.at_rest(id, self.open(id)?)?;
        usage::since(&dir, since)
    }

    fn inventory(&self) -> Result<Vec<Id>> {
        let mut ids: Vec<Id> = self.snapshots.names()?.iter().filter_map(|entry| id_of(entry.name.to_str()?)).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn layer(&self, id: Id) -> Option<Layer> {
        Some(Layer { dir: self.path.join(id.to_string()), format: Format::Tree })
    }

    /// For an active snapshot a read-only one is made, as for [`Self::usage`]; it goes with the answer, and until then
    /// others who look at an active snapshot wait.
    fn candidates(&self, id: Id, parent: Id) -> Result<Candidates> {
        let base = self.open(parent)?;
        let (dir, now) = self.at_rest(id, self.open(id)?)?;
        let hold = now.map(|now| Box::new(now) as Box<_>);
        Ok(Candidates::Hint(Box::new(Generation::new(dir, base, hold)?)))
    }
}

/// A read-only snapshot that goes with the value. Nobody else makes one meanwhile.
#[derive(Debug)]
struct Now {
    snapshots: Dir,
    name: OsString,
    _alone: Dir,
}

impl Drop for Now {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.snapshots, &self.name) {
            // It is listed with its snapshot, and goes with that or when the next one is made.
            tracing::warn!(why = error.chain(), "a snapshot that was made to be looked at is left");
        }
    }
}

/// Removes whatever is called `name` in `snapshots`.
fn clear(snapshots: &Dir, name: &OsString) -> Result<()> {
    match sys::destroy(snapshots.as_fd(), name) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTEMPTY | Errno::PERM) => nested::destroy(snapshots, name),
        Err(Errno::INVAL | Errno::NOTDIR) => walk::remove_all(snapshots, name),
        Err(errno) => Err(errno).at("destroy the subvolume", snapshots.shown_at(name)),
    }
}

/// Gives the root directory of a new subvolume the attributes of one that nobody described.
fn describe_empty(root: &Dir) -> Result<()> {
    let meta = Meta::implied_dir();
    root.set_owner("", meta.uid, meta.gid)?;
    // The umask was applied. Extended attributes stay: they are properties inherited from the directory around.
    root.set_mode("", meta.mode)?;
    root.set_mtime("", meta.mtime)
}

/// The snapshot to which the directory entry `name` belongs.
fn id_of(name: &str) -> Option<Id> {
    let stem = Beside::ALL.iter().find_map(|beside| name.strip_suffix(beside.suffix())).unwrap_or(name);
    stem.parse().ok()
}

fn require_btrfs(root: &Dir) -> Result<()> {
    let magic = rustix::fs::fstatfs(root).at("stat the file system of", root.shown())?.f_type;
    if magic == libc::BTRFS_SUPER_MAGIC {
        return Ok(());
    }
    let found = match magic {
        libc::EXT4_SUPER_MAGIC => "ext4".to_owned(),
        libc::XFS_SUPER_MAGIC => "xfs".to_owned(),
        libc::TMPFS_MAGIC => "tmpfs".to_owned(),
        libc::OVERLAYFS_SUPER_MAGIC => "overlay".to_owned(),
        other => format!("a file system of type {other:#x}"),
    };
    Err(Error::unsupported(format!(
        "{} is on {found}, not on btrfs: put the root on a btrfs file system, or choose the overlay or copy backend",
        root.shown().display()
    )))
}

/// Searching is what needs the most; the kernel says no before it looks at anything.
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
