//! Targets that cases run on: stores created for the run, or a snapshotter behind a socket.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::backend::{Strategy, Variant};
use crate::backends::{self, Config, Setting};
use crate::conformance::suite::Subject;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::scratch::{self, Scratch};
use crate::snapshotter::Snapshotter;
use crate::store::{Durability, Store};

/// Size of each file system. Only written blocks use memory.
const SCRATCH_BYTES: u64 = 1 << 30;

/// Prefix of keys on a snapshotter with other users.
#[cfg(feature = "containerd")]
const PREFIX: &str = "strata-conformance/";

/// containerd namespace to use: one that always exists.
#[cfg(feature = "containerd")]
const NAMESPACE: &str = "default";

/// A snapshotter to check, and its location.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// A variant of a strategy on a fresh file system.
    Fresh(Setting),
    /// A variant of a strategy in a directory.
    In { strategy: Strategy, variant: Variant, dir: PathBuf },
    /// A snapshotter behind a socket.
    #[cfg(feature = "containerd")]
    Served { socket: PathBuf, name: Option<String> },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh(setting) => setting.fmt(f),
            Self::In { variant, dir, .. } => write!(f, "{} in {}", variant.name, dir.display()),
            #[cfg(feature = "containerd")]
            Self::Served { socket, name: Some(name) } => write!(f, "{name} at {}", socket.display()),
            #[cfg(feature = "containerd")]
            Self::Served { socket, name: None } => write!(f, "{}", socket.display()),
        }
    }
}

impl Target {
    /// Returns the names of the strategy and the file system, if there are any.
    pub fn names(&self) -> [Option<&'static str>; 2] {
        match self {
            Self::Fresh(Setting { variant, fs, .. }) => [Some(variant.name), Some(fs.as_str())],
            Self::In { variant, .. } => [Some(variant.name), None],
            #[cfg(feature = "containerd")]
            Self::Served { .. } => [None, None],
        }
    }

    /// Returns true if one of `required` names the target.
    pub fn is_required(&self, required: &[&str]) -> bool {
        let is = |name: &str| required.contains(&name) || (name == "copy+reflink" && required.contains(&"reflink"));
        match self {
            Self::In { .. } | Self::Fresh(_) => self.names().into_iter().flatten().any(is),
            #[cfg(feature = "containerd")]
            Self::Served { .. } => true,
        }
    }
}

/// Reason why a target cannot be checked.
#[derive(Debug)]
pub(super) enum Absent {
    /// The strategy cannot use the file system on any machine.
    Impossible(&'static str),
    /// The machine lacks something.
    Lacking(Error),
    /// Another error.
    Broken(Error),
}

impl From<Error> for Absent {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Unsupported | ErrorKind::PermissionDenied => Self::Lacking(error),
            _ => Self::Broken(error),
        }
    }
}

/// An open target.
pub(super) enum OpenTarget {
    /// A store that is removed after the cases.
    Own { store: Store, root: PathBuf, _scratch: Option<Scratch> },
    /// The snapshotter of another process.
    #[cfg(feature = "containerd")]
    Served(crate::containerd::Client),
}

impl OpenTarget {
    pub fn new(wanted: &Target, durability: Durability) -> std::result::Result<Self, Absent> {
        // No other process sees the mounts of cases.
        scratch::private_namespace()?;
        match wanted {
            Target::Fresh(setting) => {
                if let Some(why) = setting.impossible() {
                    return Err(Absent::Impossible(why));
                }
                let scratch = Scratch::new(setting.fs, SCRATCH_BYTES)?;
                let root = scratch.path().join("store");
                let store = store(setting.config(&root), durability)?;
                Ok(Self::Own { store, root, _scratch: Some(scratch) })
            }
            Target::In { strategy, variant, dir } => {
                let root = own_directory(dir)?;
                let config = Config::of_variant(&root, *strategy, *variant);
                let store = store(config, durability).inspect_err(|_| {
                    // The new directory is empty. If it cannot be removed, an empty directory is left.
                    let _ = std::fs::remove_dir(&root);
                })?;
                Ok(Self::Own { store, root, _scratch: None })
            }
            #[cfg(feature = "containerd")]
            Target::Served { socket, name } => {
                use crate::containerd::{Client, Plugin};
                let plugin = name.as_ref().map(|name| Plugin { name: name.clone(), namespace: NAMESPACE.to_owned() });
                Ok(Self::Served(Client::connect(socket, plugin.unwrap_or_default())?))
            }
        }
    }

    /// Returns the subject for the cases.
    pub fn subject(&self) -> Result<Subject<'_>> {
        match self {
            Self::Own { store, .. } => Subject::new(store, ""),
            #[cfg(feature = "containerd")]
            Self::Served(client) => {
                let prefix = format!("{PREFIX}{}/", std::process::id());
                Subject::new(client, &prefix).map(Subject::with_any_root_times)
            }
        }
    }

    /// Removes the store.
    pub fn clear(self) -> Result<()> {
        match self {
            Self::Own { store, root, _scratch } => {
                let emptied = empty(&store);
                drop(store);
                std::fs::remove_dir_all(&root).at("remove", &root).and(emptied)
            }
            #[cfg(feature = "containerd")]
            Self::Served(_) => Ok(()),
        }
    }
}

fn store(config: Config, durability: Durability) -> Result<Store> {
    backends::open(&Config { durability, ..config })
}

/// Creates a new directory in `dir`.
fn own_directory(dir: &Path) -> Result<PathBuf> {
    let dir = dir.canonicalize().at("open the directory", dir)?;
    let made = nix::unistd::mkdtemp(&dir.join("strata-conformance-XXXXXX"));
    made.map_err(std::io::Error::from).at("make a directory in", &dir)
}

/// Removes all snapshots, children first, and frees their space.
fn empty(store: &Store) -> Result<()> {
    loop {
        let (mut all, mut parents) = (Vec::new(), Vec::new());
        store.walk(&[], &mut |info| {
            all.push(info.name.clone());
            parents.push(info.parent.clone());
            Ok(())
        })?;
        if all.is_empty() {
            return store.cleanup();
        }
        all.iter().filter(|name| !parents.contains(name)).try_for_each(|name| store.remove(name))?;
    }
}
