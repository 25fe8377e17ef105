//! overlayfs: a snapshot is the upper directory of an overlay mount over the upper directories of its parents.
//!
//! ```text
//! s/<id>/fs     the upper directory: a layer as soon as the snapshot is committed
//! s/<id>/work   overlayfs's own, empty while nothing is mounted but for a directory of the kernel's
//! s/<id>.new/   the same, not finished
//! s/userxattr   an empty file: the layers use user.overlay.*, for the store was made in a user namespace
//! ```
//!
//! Nothing moves when a snapshot is sealed, so the path of a layer never changes.
//!
//! # Invariants
//! - `s/<id>` is complete if it exists: it is made under another name and renamed. A power cut can undo that. On btrfs
//!   a cut can remove `work` alone, because an fsync in the upper brings only the path to that file to disk;
//!   [`Backend::complete_create`] then creates `work` again.
//! - The format of whiteouts is a property of the store and not of the user who opens it: a layer that is read in the
//!   other format shows deleted files again.
//! - The root of `fs` has the mode, owner, times and attributes of the parent's root, because overlayfs shows those of
//!   the topmost layer as those of the mount.
//!
//! # References
//! Kernel document `filesystems/overlayfs.rst`.

mod upper;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use self::upper::UpperHint;
use super::snapshots_dir::SnapshotsDir;
use super::{Backend, Capabilities, Chain, Strategy, Survey, Usage, Variant};
use crate::changeset::{Candidates, Format, Layer};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use crate::mount::{Access, LOWER_MAX, Mount, Upper, probe};
use crate::store_files::SNAPSHOTS;
use crate::tree::{Dir, Meta, walk};

/// Name of a snapshot's upper directory.
const UPPER: &str = "fs";

/// Name of a snapshot's work directory.
const WORK: &str = "work";

/// Name of the file that marks a store whose whiteouts use `user.overlay.*`.
const USER_MARK: &str = "userxattr";

/// Bytes that a path in an overlayfs option string cannot contain, as containerd and other programs split the string.
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
    snapshots: SnapshotsDir,
    /// True if overlayfs keeps its state in `user.overlay.*` attributes.
    userxattr: bool,
}

impl Overlay {
    /// Opens the snapshots below `root`, an absolute path. If their directory is missing, tests whether the file system
    /// can hold the upper directory of an overlay, and creates it.
    ///
    /// # Errors
    /// `Unsupported` if the file system cannot, or if the path of `root` cannot be written in mount options;
    /// `PermissionDenied` if the user may not mount; `FailedPrecondition` in a user namespace if the layers were made
    /// outside of one; `InvalidArgument` for a relative path; `NotFound` if `root` does not exist.
    pub fn new(root: &Path) -> Result<Self> {
        check_root(root)?;
        let dir = Dir::open(root)?;
        if dir.stat_if_any(SNAPSHOTS)?.is_none() {
            probe::upper(root)?;
        }
        let snapshots = SnapshotsDir::open(root, &dir)?;
        let userxattr = uses_user_xattrs(&snapshots, probe::in_user_namespace()?)?;
        Ok(Self { snapshots, userxattr })
    }

    /// Returns the initial attributes of the root directory of a snapshot on top of `parents`.
    fn root_meta(&self, parents: &Chain) -> Result<Meta> {
        let Some(parent) = parents.first() else { return Ok(Meta::implied_dir()) };
        let dir = self.upper(*parent)?;
        dir.meta("", &dir.stat("")?)
    }

    /// Opens the upper directory of `id`.
    fn upper(&self, id: Id) -> Result<Dir> {
        self.snapshots.snapshot(id)?.open_dir(UPPER)
    }
}

fn make_upper(snapshot: &Dir, root_meta: &Meta) -> Result<()> {
    snapshot.make_dir(UPPER)?;
    snapshot.open_dir(UPPER)?.set_meta("", root_meta)
}

/// Returns true if the layers use `user.overlay.*`. A user namespace can use no other format, so a store
/// without a layer is marked when it is opened there. Outside of one, both formats can be read, and the mark decides.
fn uses_user_xattrs(snapshots: &SnapshotsDir, in_user_namespace: bool) -> Result<bool> {
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

/// Refuses a root whose path would have another meaning in a list of mount options.
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
            seal_hides_errors: false,
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

    fn complete_create(&self, id: Id, parents: &Chain) -> Result<()> {
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
            // A single directory is bind-mounted: overlayfs does not accept one lower directory without an upper.
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
