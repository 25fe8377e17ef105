//! Naive copy: a snapshot is a full copy of its parent, of which the file system may share the bytes.
//!
//! ```text
//! s/<id>/fs         the tree: a layer as soon as the snapshot is committed
//! s/<id>/manifest   what the copy was when it was made: see `manifest.rs`
//! s/<id>.new/       the same, not finished
//! ```
//!
//! It needs nothing of the kernel or the file system, and what it makes needs nothing of its parent.
//!
//! # Invariants
//! - `s/<id>` is complete if it is there: it is made under another name and renamed. That is so after a power cut only
//!   for what was synced before ([`Capabilities::create_needs_sync`]).
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
use super::shelf::Shelf;
use super::{Backend, Capabilities, Chain, Strategy, StrategyOption, StrategyOptions, Survey, Usage, Variant};
use crate::changeset::{Candidates, Format, Layer};
use crate::error::{Context, Error, Result};
use crate::id::Id;
use crate::mount::{Access, Mount};
use crate::tree::copy::{CloneMode, CopiedDir, Options, copy, probe_reflink};
use crate::tree::{Dir, Meta, Timestamp, walk};

/// A snapshot's tree.
const TREE: &str = "fs";

/// The manifest of a snapshot that has a parent.
const MANIFEST: &str = "manifest";

/// For how long the usage of a snapshot is not taken anew.
const USAGE_KEPT: Duration = Duration::from_secs(60);

/// Where the kernel says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The option for how the bytes of files are copied: the names of [`CloneMode`].
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

/// Copies of every byte.
const BYTES: Variant = Variant {
    name: "copy",
    options: &[(CLONE.name, "bytes")],
    file_systems: &[],
    usual_file_systems: &["ext4", "tmpfs"],
    why_not_others: "",
    copies_all_bytes: true,
};

/// Copies that share blocks with their parent until somebody writes to them.
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
    snapshots: Shelf,
    mode: CloneMode,
    /// What was answered when.
    usages: Mutex<HashMap<Id, (Instant, Usage)>>,
}

impl Copy {
    /// Opens the snapshots below `root`, an absolute path; makes their directory if it is missing.
    ///
    /// # Errors
    /// `Unsupported` if `mode` is [`CloneMode::Reflink`] and the file system has none; `InvalidArgument` for a relative
    /// path; `NotFound` if there is no `root`.
    pub fn new(root: &Path, mode: CloneMode) -> Result<Self> {
        if !root.is_absolute() {
            return Err(Error::invalid(format!("the root {:?} is not an absolute path", root.display())));
        }
        let dir = Dir::open(root)?;
        if mode == CloneMode::Reflink {
            probe_reflink(&dir)?;
        }
        Ok(Self { snapshots: Shelf::open(root, &dir)?, mode, usages: Mutex::default() })
    }

    /// The answers that are young enough to be given again.
    fn kept(&self) -> MutexGuard<'_, HashMap<Id, (Instant, Usage)>> {
        let mut kept = self.usages.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (taken, _)| taken.elapsed() < USAGE_KEPT);
        kept
    }

    /// The tree of `id`, open.
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
            // It tells what became of the copy, which no longer is all that differs from the parent.
            return Ok(());
        }
        if let Err(error) = write_manifest(unfinished, parent, copied.dirs) {
            // It only narrows a later comparison; half of one is found damaged and does not.
            tracing::warn!(%parent, error = error.chain(), "changes will be looked for everywhere: no manifest");
        }
        Ok(())
    }

    /// The manifest of `id`, if it tells what differs from `parent`; else why not.
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

/// The id of this boot, which the kernel draws at random.
fn boot_id() -> Result<BootId> {
    let text = fs::read_to_string(BOOT_ID).at("read", BOOT_ID)?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    match u128::from_str_radix(&digits, 16) {
        Ok(number) => Ok(number.to_be_bytes()),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)).at("understand", BOOT_ID),
    }
}

impl Backend for Copy {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: STRATEGY.name,
            seals_to_fresh_id: false,
            seal_is_durable: false,
            create_needs_sync: true,
            create_is_brief: false,
            layers_max: None,
        }
    }

    /// In time and space proportional to the nearest parent, which must rest meanwhile; the others are not read.
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

    /// The whole tree, since it stands alone. Shared extents count in full, as `st_blocks` says: what the removal of
    /// one of those that share them frees depends on the others. An answer is kept for `USAGE_KEPT`, for whoever
    /// watches many snapshots would walk all of them all the time.
    fn usage(&self, id: Id, _parents: &Chain) -> Result<Usage> {
        if let Some((_, usage)) = self.kept().get(&id) {
            return Ok(*usage);
        }
        // Nobody else waits for the walk.
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
