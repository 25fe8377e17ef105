//! overlayfs: a snapshot is the upper directory in which the kernel collects what was written, over those of its
//! parents.
//!
//! ```text
//! s/<id>/fs     the upper directory: a layer as soon as the snapshot is committed
//! s/<id>/work   overlayfs's own, empty while nothing is mounted but for a directory of the kernel's
//! s/<id>.new/   the same, not finished
//! s/userxattr   an empty file: the layers are spelled with user.overlay.*, for the store was made in a user namespace
//! ```
//!
//! Nothing moves when a snapshot is sealed, so the path of a layer is the same for ever.
//!
//! # Invariants
//! - `s/<id>` is complete if it is there: it is made under another name and renamed. A power cut can take it back; on
//!   btrfs, where an fsync in the upper brings nothing but the way to it to disk, it can take `work` alone, which
//!   [`Backend::mend`] makes again.
//! - How deletions are spelled is a property of the store, whoever opens it: read in the other spelling, deleted files
//!   come back.
//! - The root of `fs` has the mode, owner, times and attributes of the parent's: overlayfs shows those of the topmost
//!   layer as those of the mount.
//!
//! # References
//! Kernel document `filesystems/overlayfs.rst`.

mod upper;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use self::upper::UpperHint;
use super::shelf::{SNAPSHOTS, Shelf};
use super::{Backend, Capabilities, Chain, Strategy, Survey, Usage, Variant};
use crate::changeset::{Candidates, Format, Layer};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::mount::{Access, LOWER_MAX, Mount, Upper, probe};
use crate::tree::{Dir, Meta, walk};

/// A snapshot's upper directory.
const UPPER: &str = "fs";

/// A snapshot's work directory.
const WORK: &str = "work";

/// The mark of a store whose layers are spelled with `user.overlay.*`.
const USER_MARK: &str = "userxattr";

/// Bytes that a path in an option string of overlayfs cannot have, as containerd and others split it.
const UNPRINTABLE: &[u8] = b",:\\\n";

/// Entry of the table of strategies.
pub const STRATEGY: Strategy = Strategy {
    name: "overlay",
    summary: "overlayfs: a layer is the upper directory in which the kernel collects what was written",
    open: |root, _| Ok(Box::new(Overlay::new(root)?)),
    options: &[],
    variants: &[Variant {
        name: "overlay",
        options: &[],
        file_systems: &[],
        usual_file_systems: &["ext4", "xfs", "btrfs", "tmpfs"],
        why_not_others: "",
        copies_all_bytes: false,
    }],
};

/// Snapshots as the upper directories of overlay mounts.
#[derive(Debug)]
pub struct Overlay {
    snapshots: Shelf,
    /// Whether overlayfs keeps its state in `user.overlay.*`.
    userxattr: bool,
}

impl Overlay {
    /// Opens the snapshots below `root`, an absolute path; makes their directory if it is missing, after a try whether
    /// the file system can hold the upper directory of an overlay.
    ///
    /// # Errors
    /// `Unsupported` if it cannot, or if mount options cannot carry the path of `root`; `PermissionDenied` where the
    /// user may not mount; `FailedPrecondition` in a user namespace if the layers were made outside; `InvalidArgument`
    /// for a relative path; `NotFound` if there is no `root`.
    pub fn new(root: &Path) -> Result<Self> {
        check_root(root)?;
        let dir = Dir::open(root)?;
        if dir.stat_if_any(SNAPSHOTS)?.is_none() {
            probe::upper(root)?;
        }
        let snapshots = Shelf::open(root, &dir)?;
        let userxattr = spelled_for_users(&snapshots, probe::in_user_namespace()?)?;
        Ok(Self { snapshots, userxattr })
    }

    /// What the root directory of a snapshot on top of `parents` begins with.
    fn root_meta(&self, parents: &Chain) -> Result<Meta> {
        let Some(parent) = parents.first() else { return Ok(Meta::implied_dir()) };
        let dir = self.upper(*parent)?;
        dir.meta("", &dir.stat("")?)
    }

    /// The upper directory of `id`, open.
    fn upper(&self, id: Id) -> Result<Dir> {
        self.snapshots.snapshot(id)?.open_dir(UPPER)
    }
}

fn make_upper(snapshot: &Dir, root_meta: &Meta) -> Result<()> {
    snapshot.make_dir(UPPER)?;
    snapshot.open_dir(UPPER)?.set_meta("", root_meta)
}

/// Whether the layers are spelled with `user.overlay.*`. A user namespace can read and write nothing else, so a store
/// without a layer that is opened there is marked; everybody else takes what there is.
fn spelled_for_users(snapshots: &Shelf, in_user_namespace: bool) -> Result<bool> {
    let marked = snapshots.dir().stat_if_any(USER_MARK)?.is_some();
    if marked || !in_user_namespace {
        return Ok(marked);
    }
    if !snapshots.inventory()?.is_empty() {
        return Err(Error::precondition(format!(
            "the layers in {} were made outside this user namespace, where overlayfs marks deletions in trusted.overlay.*, \
             which cannot be read here: open the store as root, or use another --root",
            snapshots.dir().shown().display()
        )));
    }
    match snapshots.dir().create_file(USER_MARK) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(true),
    }
}

/// Refuses a root whose path would mean something else in a list of mount options.
fn check_root(root: &Path) -> Result<()> {
    if !root.is_absolute() {
        return Err(Error::invalid(format!("the root {:?} is not an absolute path", root.display())));
    }
    let bytes = root.as_os_str().as_bytes();
    if root.to_str().is_some() && !bytes.iter().any(|byte| UNPRINTABLE.contains(byte)) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "mount options cannot carry the path {:?}, which has a comma, colon, backslash, newline or a byte that is not \
         UTF-8 in it: choose another root, or the copy backend",
        root.display()
    )))
}

impl Backend for Overlay {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: STRATEGY.name,
            seals_to_fresh_id: false,
            seal_is_durable: false,
            create_needs_sync: false,
            create_is_brief: true,
            layers_max: Some(LOWER_MAX),
        }
    }

    fn create(&self, id: Id, parents: &Chain) -> Result<()> {
        let meta = self.root_meta(parents)?;
        self.snapshots.make(id, |unfinished| {
            unfinished.make_dir(WORK)?;
            make_upper(unfinished, &meta)
        })
    }

    fn mend(&self, id: Id, parents: &Chain) -> Result<()> {
        let snapshot = self.snapshots.snapshot(id)?;
        if snapshot.stat_if_any(WORK)?.is_none() {
            snapshot.make_dir(WORK)?;
        }
        match snapshot.stat_if_any(UPPER)? {
            Some(_) => Ok(()),
            None => make_upper(&snapshot, &self.root_meta(parents)?),
        }
    }

    fn mounts(&self, stack: &Chain, access: Access) -> Result<Vec<Mount>> {
        let (top, parents) = stack.split_first().ok_or_else(|| Error::invalid("the stack to mount is empty"))?;
        let lower_ids = if access == Access::ReadWrite { parents } else { stack };
        if lower_ids.len() > LOWER_MAX {
            return Err(Error::precondition(format!(
                "a stack of {} layers is higher than the {LOWER_MAX} that overlayfs can mount: build on fewer layers",
                lower_ids.len()
            )));
        }
        let lower: Vec<PathBuf> = lower_ids.iter().map(|id| self.snapshots.path(*id, UPPER)).collect();
        Ok(vec![match (access, parents) {
            // One directory is not merged with anything, and overlayfs does not take it alone.
            (_, []) => Mount::Bind { source: self.snapshots.path(*top, UPPER), access },
            (Access::ReadOnly, _) => Mount::Overlay { lower, upper: None, userxattr: self.userxattr },
            (Access::ReadWrite, _) => {
                let upper = Upper { dir: self.snapshots.path(*top, UPPER), work: self.snapshots.path(*top, WORK) };
                Mount::Overlay { lower, upper: Some(upper), userxattr: self.userxattr }
            }
        }])
    }

    fn seal(&self, active: Id, sealed: Id) -> Result<()> {
        if active != sealed {
            return Err(Error::invalid(format!("overlay seals {active} in place, not as {sealed}")));
        }
        self.upper(active).map(drop)
    }

    fn remove(&self, id: Id) -> Result<()> {
        self.remove_until(id, &|| false).map(drop)
    }

    fn remove_until(&self, id: Id, stop: &dyn Fn() -> bool) -> Result<bool> {
        self.snapshots.remove_until(id, stop)
    }

    fn usage(&self, id: Id, _parents: &Chain) -> Result<Usage> {
        let walk::Space { size_bytes, inodes } = walk::usage(&self.upper(id)?)?;
        Ok(Usage { size_bytes, inodes })
    }

    fn survey(&self, id: Id, _parents: &Chain) -> Result<Survey> {
        Survey::of_layer(&self.upper(id)?)
    }

    fn inventory(&self) -> Result<Vec<Id>> {
        self.snapshots.inventory()
    }

    fn layer(&self, id: Id) -> Option<Layer> {
        let format = if self.userxattr { Format::OverlayUserXattr } else { Format::Overlay };
        Some(Layer { dir: self.snapshots.path(id, UPPER), format })
    }

    fn candidates(&self, id: Id, _parent: Id) -> Result<Candidates> {
        Ok(self.layer(id).map_or(Candidates::All, |upper| Candidates::Hint(Box::new(UpperHint(upper)))))
    }
}

#[cfg(test)]
mod tests;
