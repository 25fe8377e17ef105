//! A strategy of one's own: snapshots as full copies, in the smallest form that keeps the contract.
//!
//! The program is the whole `strata` command with one strategy more. It is registered from outside the crate, and
//! everything works on it: images, builds, the daemon, `conformance` and `compare`.
//!
//! ```sh
//! cargo run --example custom_backend -- conformance --strategy mirror --fs ext4,tmpfs
//! cargo run --example custom_backend -- compare --quick --strategy mirror,overlay
//! cargo run --example custom_backend -- --root /tmp/s --backend mirror prepare work
//! ```
//!
//! A snapshot is the directory `<root>/s/<id>`. It is made as `<root>/s/<id>.new` and renamed, so that it is complete if
//! it is there, whenever the program dies.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use strata::backend::{Backend, Capabilities, Chain, Strategy, Survey, Usage, Variant};
use strata::backends::Strategies;
use strata::changeset::{Format, Layer};
use strata::error::Context as _;
use strata::id::Id;
use strata::mount::{Access, Mount};
use strata::tree::copy::{CloneMode, Options, copy};
use strata::tree::{Dir, Meta, walk};
use strata::{Error, Result};

/// Entry of the table of strategies.
pub const MIRROR: Strategy = Strategy {
    name: "mirror",
    summary: "an example: a snapshot is a copy of its parent, and nothing is remembered of it",
    open: |root, _| Ok(Box::new(Mirror::open(root)?)),
    options: &[],
    variants: &[Variant {
        name: "mirror",
        options: &[],
        file_systems: &[],
        usual_file_systems: &["ext4", "tmpfs"],
        why_not_others: "",
        copies_all_bytes: true,
    }],
};

/// The ending of an unfinished snapshot's name.
const UNFINISHED: &str = ".new";

fn main() -> ExitCode {
    strata::cli::run(std::env::args_os(), Strategies::default().with(MIRROR))
}

/// Snapshots below `<root>/s`.
#[derive(Debug)]
struct Mirror {
    path: PathBuf,
    dir: Dir,
}

impl Mirror {
    /// Opens the snapshots below `root`; makes their directory if it is missing.
    fn open(root: &Path) -> Result<Self> {
        let above = Dir::open(root)?;
        if above.stat_if_any("s")?.is_none() {
            above.make_dir("s")?;
        }
        Ok(Self { path: root.join("s"), dir: above.open_dir("s")? })
    }

    /// Opens the tree of `id`.
    fn tree(&self, id: Id) -> Result<Dir> {
        self.dir.open_dir(id.to_string())
    }
}

impl Backend for Mirror {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: MIRROR.name,
            seals_to_fresh_id: false,
            // The store brings a sealed snapshot to disk before it publishes it, and a copied one before it names it.
            seal_is_durable: false,
            seal_hides_errors: false,
            create_needs_sync: true,
            // A copy takes long: the store makes it outside a transaction.
            create_is_brief: false,
            layers_max: None,
        }
    }

    fn create(&self, id: Id, parents: &Chain) -> Result<()> {
        let (name, unfinished) = (id.to_string(), format!("{id}{UNFINISHED}"));
        if self.dir.stat_if_any(&name)?.is_some() {
            return Err(Error::already_exists(format!("{} is there already", self.dir.shown_at(&name).display())));
        }
        self.dir.make_dir(&unfinished)?;
        let made = self.dir.open_dir(&unfinished)?;
        match parents.first() {
            Some(parent) => copy(&self.tree(*parent)?, &made, Options::new(CloneMode::Auto)).map(drop)?,
            None => made.set_meta("", &Meta::implied_dir())?,
        }
        std::fs::rename(self.path.join(unfinished), self.path.join(&name)).at("make the snapshot", self.path.join(name))
    }

    fn mounts(&self, stack: &Chain, access: Access) -> Result<Vec<Mount>> {
        let top = stack.first().ok_or_else(|| Error::invalid("the stack to mount is empty"))?;
        Ok(vec![Mount::Bind { source: self.path.join(top.to_string()), access }])
    }

    fn seal(&self, active: Id, _sealed: Id) -> Result<()> {
        self.tree(active).map(drop)
    }

    fn remove(&self, id: Id) -> Result<()> {
        walk::remove_all(&self.dir, format!("{id}{UNFINISHED}"))?;
        walk::remove_all(&self.dir, id.to_string())
    }

    fn usage(&self, id: Id, _parents: &Chain) -> Result<Usage> {
        let walk::Space { size_bytes, inodes } = walk::usage(&self.tree(id)?)?;
        Ok(Usage { size_bytes, inodes })
    }

    /// The tree of a sealed snapshot at rest, which tells the store what to bring to disk.
    fn survey(&self, id: Id, _parents: &Chain) -> Result<Survey> {
        Survey::of_layer(&self.tree(id)?)
    }

    fn inventory(&self) -> Result<Vec<Id>> {
        let id = |name: &str| name.strip_suffix(UNFINISHED).unwrap_or(name).parse().ok();
        Ok(self.dir.names()?.iter().filter_map(|name| id(name.to_str()?)).collect())
    }

    /// A layer is the complete tree. The answer lets the store write an imported layer into it without a mount.
    fn layer(&self, id: Id) -> Option<Layer> {
        Some(Layer { dir: self.path.join(id.to_string()), format: Format::Tree })
    }
}
