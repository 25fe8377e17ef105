//! Which strategy a store uses: the only file that names all backends.
//!
//! The choice is made once, when the store is made, and written into it. Afterwards the store knows, and another wish
//! is an error that names both.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::backend::Backend;
use crate::backend::btrfs::Btrfs;
use crate::backend::copy::Copy;
use crate::backend::overlay::Overlay;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::store::{Database, Durability, LOCAL, Store};
use crate::tree::copy::CloneMode;

/// A wish for a strategy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Choice {
    /// btrfs where the root lies on btrfs, else overlay where kernel and file system can, else copy.
    #[default]
    Auto,
    /// overlayfs.
    Overlay,
    /// btrfs subvolumes.
    Btrfs,
    /// Naive copies.
    Copy,
}

impl Choice {
    /// Every strategy, in the order in which `auto` prefers them.
    pub const STRATEGIES: [Self; 3] = [Self::Btrfs, Self::Overlay, Self::Copy];

    /// Its name on the command line and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Overlay => "overlay",
            Self::Btrfs => "btrfs",
            Self::Copy => "copy",
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Auto, Self::Overlay, Self::Btrfs, Self::Copy]
            .into_iter()
            .find(|choice| choice.as_str() == text)
            .ok_or_else(|| Error::invalid(format!("{text:?} is no backend: auto, overlay, btrfs, copy")))
    }
}

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its directory.
    pub root: PathBuf,
    /// The strategy, for a store that is yet to be made.
    pub backend: Choice,
    /// How the copy backend copies the bytes of files.
    pub clone: CloneMode,
    /// When it answers, for a store that is yet to be made.
    pub durability: Durability,
    /// Whose snapshots it shows.
    pub owner: String,
}

impl Config {
    /// The store at `root` as the command line opens it: what is not said is chosen.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            backend: Choice::Auto,
            clone: CloneMode::Auto,
            durability: Durability::Commit,
            owner: LOCAL.to_owned(),
        }
    }
}

/// Opens the store, or makes it.
///
/// # Errors
/// `FailedPrecondition` if it was made with another backend than the wished one, or the directory holds something else;
/// `Unsupported` with the reason if the strategy cannot work there; what [`Database::open`] reports.
pub fn open(config: &Config) -> Result<Store> {
    if let Some(store) = find(config)? {
        return Ok(store);
    }
    let fresh = !config.root.exists();
    std::fs::create_dir_all(&config.root).at("make the directory", &config.root)?;
    let root = config.root.canonicalize().at("open the directory", &config.root)?;
    // A backend begins by making a directory, and it must not do so in a stranger's.
    Database::check_root(&root)?;
    let made = backend(&root, config.backend, config.clone).inspect_err(|_| {
        if fresh {
            // Nothing was put into it; if it cannot be removed, an empty directory is left.
            let _ = std::fs::remove_dir(&root);
        }
    })?;
    Store::new(Database::create(&root, config.durability)?, made, &config.owner)
}

/// Opens the store if there is one.
///
/// # Errors
/// As [`open`].
pub fn find(config: &Config) -> Result<Option<Store>> {
    let Some(database) = Database::open(&config.root)? else { return Ok(None) };
    let Some(marker) = database.backend().map(str::to_owned) else { return Ok(None) };
    if config.backend != Choice::Auto && config.backend.as_str() != marker {
        return Err(Error::precondition(format!(
            "the store {} was made with the backend {marker}, and {} was asked for: leave --backend out, or choose \
             another --root",
            config.root.display(),
            config.backend
        )));
    }
    let choice = match marker.parse() {
        Ok(choice) if choice != Choice::Auto => choice,
        _ => {
            return Err(Error::unsupported(format!(
                "the store {} was made with the backend {marker:?}, which this strata does not have",
                config.root.display()
            )));
        }
    };
    let made = backend(database.root(), choice, config.clone)?;
    Store::new(database, made, &config.owner).map(Some)
}

/// The backend of `choice` for snapshots below `root`.
///
/// # Errors
/// `Unsupported` with the reason and the cure if it cannot work there.
pub fn backend(root: &Path, choice: Choice, clone: CloneMode) -> Result<Box<dyn Backend>> {
    Ok(match choice {
        Choice::Auto => return automatic(root, clone),
        Choice::Overlay => Box::new(Overlay::new(root)?),
        Choice::Btrfs => Box::new(Btrfs::new(root)?),
        Choice::Copy => Box::new(Copy::new(root, clone)?),
    })
}

fn automatic(root: &Path, clone: CloneMode) -> Result<Box<dyn Backend>> {
    let mut last = None;
    for choice in Choice::STRATEGIES {
        match backend(root, choice, clone) {
            Ok(made) => {
                tracing::info!(root = %root.display(), backend = choice.as_str(), "chosen");
                return Ok(made);
            }
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                tracing::info!(root = %root.display(), backend = choice.as_str(), why = error.chain(), "not chosen");
                last = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::unsupported("no strategy is available")))
}
