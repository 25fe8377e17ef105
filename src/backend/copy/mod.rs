//! Naive copy: a snapshot is a full copy of its parent. The file system may share the bytes.
//!
//! ```text
//! s/<id>/fs         the tree: a layer as soon as the snapshot is committed
//! s/<id>/manifest   what the copy was when it was made: see `manifest.rs`
//! s/<id>.new/       the same, not finished
//! ```
//!
//! The strategy has no requirements on kernel or file system, and a snapshot does not depend on its parent.
//!
//! # Invariants
//! - `s/<id>` is complete if it exists: it is made under another name and renamed. After a power cut that holds only if
//!   the snapshot was synced before ([`Capabilities::create_needs_sync`]).
//! - Nothing moves when a snapshot is sealed.

mod manifest;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::ClockId;

use self::manifest::{BootId, Manifest};
use super::snapshots_dir::SnapshotsDir;
use super::{Backend, Capabilities, Chain, Strategy, StrategyOption, StrategyOptions, Survey, Usage, Variant};
use crate::changeset::{Candidates, Format, Layer};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::id::Id;
use crate::mount::{Access, Mount};
use crate::tree::copy::{CloneMode, CopiedDir, Options, copy, probe_reflink};
use crate::tree::{Dir, Meta, Timestamp, walk};

/// Name of a snapshot's tree.
const TREE: &str = "fs";

/// Name of the manifest of a snapshot with a parent.
const MANIFEST: &str = "manifest";

/// Time for which the usage of a snapshot is cached.
const USAGE_KEPT: Duration = Duration::from_secs(60);

/// File in which the kernel shows the ID of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Option that selects how file content is copied; the values are the names of [`CloneMode`].
pub const CLONE: StrategyOption = StrategyOption {
    name: "clone",
    help: "How the copy backend copies file contents",
    values: &["auto", "reflink", "bytes"],
};

/// Entry of the table of strategies.
pub const STRATEGY: Strategy = Strategy {
    name: "copy",
    summary: "naive copy: a snapshot is a full copy of its parent, of which the file system may share the bytes",
    open: |root, options| Ok(Box::new(Copy::new(root, options.get(&CLONE)?.parse()?)?)),
    options: &[CLONE],
    variants: &[BYTES, REFLINK],
};

/// Copies of all bytes.
const BYTES: Variant = Variant {
    name: "copy",
    options: &[(CLONE.name, "bytes")],
    file_systems: &[],
    usual_file_systems: &["ext4", "tmpfs"],
    why_not_others: "",
    copies_all_bytes: true,
};

/// Copies that share blocks with their parent until they are written to.
const REFLINK: Variant = Variant {
    name: "copy+reflink",
    options: &[(CLONE.name, "reflink")],
    file_systems: &["xfs", "btrfs"],
    usual_file_systems: &["xfs", "btrfs"],
    why_not_others: "files there cannot share blocks",
    copies_all_bytes: false,
};

impl From<CloneMode> for StrategyOptions {
    /// Returns the options with [`CLONE`] set to `mode`.
    fn from(mode: CloneMode) -> Self {
        Self::default().with(CLONE.name, &mode.to_string())
    }
}

/// Snapshots as full copies.
#[derive(Debug)]
pub struct Copy {
    snapshots: SnapshotsDir,
    mode: CloneMode,
    /// Cached usages, each with the time of its computation.
    usages: Mutex<HashMap<Id, (Instant, Usage)>>,
}

impl Copy {
    /// Opens the snapshots below `root`, an absolute path; creates their directory if it is missing.
    ///
    /// # Errors
    /// `Unsupported` if `mode` is [`CloneMode::Reflink`] and the file system cannot share blocks; `InvalidArgument` for
    /// a relative path; `NotFound` if `root` does not exist.
    pub fn new(root: &Path, mode: CloneMode) -> Result<Self> {
        if !root.is_absolute() {
            return Err(Error::invalid(format!("the root {:?} is not an absolute path", root.display())));
        }
        let dir = Dir::open(root)?;
        if mode == CloneMode::Reflink {
            require_reflink(&dir)?;
        }
        Ok(Self { snapshots: SnapshotsDir::open(root, &dir)?, mode, usages: Mutex::default() })
    }

    /// Returns the cache after removing expired usages.
    fn kept(&self) -> MutexGuard<'_, HashMap<Id, (Instant, Usage)>> {
        let mut kept = self.usages.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (taken, _)| taken.elapsed() < USAGE_KEPT);
        kept
    }

    /// Opens the tree of `id`.
    fn tree(&self, id: Id) -> Result<Dir> {
        self.snapshots.snapshot(id)?.open_dir(TREE)
    }

    /// Copies the tree of `parent` into the unfinished snapshot `unfinished`.
    fn fill(&self, unfinished: &Dir, parent: Id) -> Result<()> {
        let options = Options { record: true, ..Options::new(self.mode) };
        let copied = copy(&self.tree(parent)?, &unfinished.open_dir(TREE)?, options)?;
        if copied.skipped_devices > 0 {
            let skipped = copied.skipped_devices;
            tracing::warn!(%parent, skipped, "device nodes were left out: a user namespace cannot make them");
            // No manifest is written: it describes the copy, and the copy lacks the devices of the parent.
            return Ok(());
        }
        if let Err(error) = write_manifest(unfinished, parent, copied.dirs) {
            // The error is not returned: a manifest only narrows a later comparison, and an incomplete one is
            // recognised as damaged.
            tracing::warn!(%parent, error = error.chain(), "changes will be looked for everywhere: no manifest");
        }
        Ok(())
    }

    /// Returns the manifest of `id` if it describes a copy of `parent` made in this boot, else the reason as an error.
    fn manifest(&self, id: Id, parent: Id) -> Result<Manifest> {
        let mut bytes = Vec::new();
        let dir = self.snapshots.snapshot(id)?;
        dir.open_file(MANIFEST)?.read_to_end(&mut bytes).at("read", dir.shown_at(MANIFEST))?;
        let manifest = Manifest::decode(&bytes)?;
        if manifest.parent != parent {
            return Err(Error::precondition(format!("it is a copy of {}", manifest.parent)));
        }
        if manifest.boot != boot_id()? {
            return Err(Error::precondition("it was made before the machine was started"));
        }
        Ok(manifest)
    }
}

fn write_manifest(unfinished: &Dir, parent: Id, dirs: Vec<CopiedDir>) -> Result<()> {
    let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
    let complete = Timestamp {
        seconds: now.tv_sec,
        nanos: u32::try_from(now.tv_nsec).map_err(|_| Error::data_loss("the clock is broken"))?,
    };
    let manifest = Manifest { boot: boot_id()?, parent, complete, dirs };
    unfinished.create_file(MANIFEST)?.write_all(&manifest.encode()).at("write", unfinished.shown_at(MANIFEST))
}

/// Returns the ID of this boot, which the kernel draws at random.
fn boot_id() -> Result<BootId> {
    let text = fs::read_to_string(BOOT_ID).at("read", BOOT_ID)?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    match u128::from_str_radix(&digits, 16) {
        Ok(number) => Ok(number.to_be_bytes()),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)).at("understand", BOOT_ID),
    }
}

/// Refuses a file system without reflinks. A full one has no room for the files to try it with; what is there can be
/// read and removed all the same, and a copy that finds no reflinks says so.
fn require_reflink(root: &Dir) -> Result<()> {
    match probe_reflink(root) {
        Err(error) if error.kind() == ErrorKind::ResourceExhausted => {
            tracing::debug!(why = error.chain(), "no room to try reflinks");
            Ok(())
        }
        probed => probed,
    }
}

impl Backend for Copy {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: STRATEGY.name,
            seals_to_fresh_id: false,
            seal_is_durable: false,
            seal_hides_errors: false,
            create_needs_sync: true,
            create_is_brief: false,
            layers_max: None,
        }
    }

    /// Takes time and space proportional to the nearest parent, which must not change meanwhile; the other parents are
    /// not read.
    fn create(&self, id: Id, parents: &Chain) -> Result<()> {
        self.snapshots.make(id, |unfinished| {
            unfinished.make_dir(TREE)?;
            match parents.first() {
                Some(parent) => self.fill(unfinished, *parent),
                None => unfinished.open_dir(TREE)?.set_meta("", &Meta::implied_dir()),
            }
        })
    }

    fn mounts(&self, stack: &Chain, access: Access) -> Result<Vec<Mount>> {
        let top = stack.first().ok_or_else(|| Error::invalid("the stack to mount is empty"))?;
        Ok(vec![Mount::Bind { source: self.snapshots.path(*top, TREE), access }])
    }

    fn seal(&self, active: Id, sealed: Id) -> Result<()> {
        if active != sealed {
            return Err(Error::invalid(format!("copy seals {active} in place, not as {sealed}")));
        }
        self.tree(active).map(drop)
    }

    fn remove(&self, id: Id) -> Result<()> {
        self.remove_until(id, &|| false).map(drop)
    }

    fn remove_until(&self, id: Id, stop: &dyn Fn() -> bool) -> Result<bool> {
        self.snapshots.remove_until(id, stop)
    }

    /// Returns the space of the whole tree, because it depends on no parent. Shared extents count in full, as
    /// `st_blocks` reports them: the space that a removal frees depends on the other users of the extents. The result
    /// is cached for `USAGE_KEPT`, because a program that watches many snapshots would otherwise walk all of them
    /// continually.
    fn usage(&self, id: Id, _parents: &Chain) -> Result<Usage> {
        if let Some((_, usage)) = self.kept().get(&id) {
            return Ok(*usage);
        }
        // The lock is not held during the walk.
        let walk::Space { size_bytes, inodes } = walk::usage(&self.tree(id)?)?;
        let usage = Usage { size_bytes, inodes };
        self.kept().insert(id, (Instant::now(), usage));
        Ok(usage)
    }

    fn survey(&self, id: Id, _parents: &Chain) -> Result<Survey> {
        self.kept().remove(&id);
        Survey::of_layer(&self.tree(id)?)
    }

    fn inventory(&self) -> Result<Vec<Id>> {
        self.snapshots.inventory()
    }

    fn layer(&self, id: Id) -> Option<Layer> {
        Some(Layer { dir: self.snapshots.path(id, TREE), format: Format::Tree })
    }

    fn candidates(&self, id: Id, parent: Id) -> Result<Candidates> {
        Ok(self.manifest(id, parent).map_or_else(
            |why| {
                tracing::debug!(%id, %parent, why = why.chain(), "changes are looked for everywhere: no manifest");
                Candidates::All
            },
            |manifest| Candidates::Hint(Box::new(manifest)),
        ))
    }
}

#[cfg(test)]
mod tests;
