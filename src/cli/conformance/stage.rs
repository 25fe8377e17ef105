//! Where cases are tried: stores of their own, or a snapshotter behind a socket.

use std::fmt;
use std::path::{Path, PathBuf};

use super::report::{Result as Tried, Word};
use crate::conformance::suite::Subject;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::scratch::{self, FsType, Scratch};
use crate::registry::{self, Choice, Config};
use crate::snapshotter::Snapshotter;
use crate::store::{Durability, Store};
use crate::tree::copy::CloneMode;

/// Room on each file system. Only what is written takes memory.
const SCRATCH_BYTES: u64 = 1 << 30;

/// What the keys begin with on a snapshotter that others use, too.
#[cfg(feature = "containerd")]
const PREFIX: &str = "strata-conformance/";

/// In which namespace of a containerd: one that is there.
#[cfg(feature = "containerd")]
const NAMESPACE: &str = "default";

/// What can be judged. "copy" copies every byte; "copy+reflink" shares them with the parent until somebody writes.
pub(super) const STRATEGIES: [Strategy; 4] = [
    Strategy { name: "overlay", choice: Choice::Overlay, clone: CloneMode::Auto },
    Strategy { name: "btrfs", choice: Choice::Btrfs, clone: CloneMode::Auto },
    Strategy { name: "copy", choice: Choice::Copy, clone: CloneMode::Bytes },
    Strategy { name: "copy+reflink", choice: Choice::Copy, clone: CloneMode::Reflink },
];

/// A strategy, and how it copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Strategy {
    /// Its name on the command line.
    pub name: &'static str,
    choice: Choice,
    clone: CloneMode,
}

impl Strategy {
    /// Why it cannot be on a file system of this type, wherever that is.
    fn impossible_on(self, fs: FsType) -> Option<&'static str> {
        match (self.choice, self.clone, fs) {
            (Choice::Btrfs, _, FsType::Ext4 | FsType::Xfs | FsType::Tmpfs) => Some("subvolumes are btrfs's"),
            (Choice::Copy, CloneMode::Reflink, FsType::Ext4 | FsType::Tmpfs) => Some("files there cannot share blocks"),
            _ => None,
        }
    }
}

/// Who is to be judged, and where.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// A strategy on a fresh file system.
    Fresh { strategy: Strategy, fs: FsType },
    /// A strategy in a directory.
    In { strategy: Strategy, dir: PathBuf },
    /// A snapshotter behind a socket.
    #[cfg(feature = "containerd")]
    Served { socket: PathBuf, name: Option<String> },
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh { strategy, fs } => write!(f, "{} on {fs}", strategy.name),
            Self::In { strategy, dir } => write!(f, "{} in {}", strategy.name, dir.display()),
            #[cfg(feature = "containerd")]
            Self::Served { socket, name: Some(name) } => write!(f, "{name} at {}", socket.display()),
            #[cfg(feature = "containerd")]
            Self::Served { socket, name: None } => write!(f, "{}", socket.display()),
        }
    }
}

impl Wanted {
    /// The names of the strategy and the file system, as far as there are any.
    pub fn names(&self) -> [Option<&'static str>; 2] {
        match self {
            Self::Fresh { strategy, fs } => [Some(strategy.name), Some(fs.as_str())],
            Self::In { strategy, .. } => [Some(strategy.name), None],
            #[cfg(feature = "containerd")]
            Self::Served { .. } => [None, None],
        }
    }

    /// Whether one of `required` names it.
    pub fn is_required(&self, required: &[&str]) -> bool {
        let is = |name: &str| required.contains(&name) || (name == "copy+reflink" && required.contains(&"reflink"));
        match self {
            Self::In { .. } | Self::Fresh { .. } => self.names().into_iter().flatten().any(is),
            #[cfg(feature = "containerd")]
            Self::Served { .. } => true,
        }
    }
}

/// Why somebody cannot be judged.
#[derive(Debug)]
pub(super) enum Absent {
    /// Nobody could, anywhere.
    Impossible(&'static str),
    /// This machine lacks something.
    Lacking(Error),
    /// Something else went wrong.
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

impl Absent {
    /// The line of a report that says so; what is missing and `required` has failed.
    pub fn result(self, required: bool) -> Tried {
        match self {
            Self::Impossible(why) => Tried::setup(Word::Skipped, why.to_owned()),
            Self::Lacking(error) if !required => Tried::setup(Word::Skipped, error.chain()),
            Self::Lacking(error) | Self::Broken(error) => Tried::setup(Word::Failed, error.chain()),
        }
    }
}

/// A snapshotter, and what it lies on.
pub(super) enum Stage {
    /// A store that goes when the cases are through.
    Own { store: Store, root: PathBuf, _scratch: Option<Scratch> },
    /// Somebody's.
    #[cfg(feature = "containerd")]
    Served(crate::containerd::Client),
}

impl Stage {
    pub fn new(wanted: &Wanted, durability: Durability) -> std::result::Result<Self, Absent> {
        // Mounts of cases are seen by nobody else.
        scratch::private_namespace()?;
        match wanted {
            Wanted::Fresh { strategy, fs } => {
                if let Some(why) = strategy.impossible_on(*fs) {
                    return Err(Absent::Impossible(why));
                }
                let scratch = Scratch::new(*fs, SCRATCH_BYTES)?;
                let root = scratch.path().join("store");
                Ok(Self::Own { store: store(*strategy, durability, &root)?, root, _scratch: Some(scratch) })
            }
            Wanted::In { strategy, dir } => {
                let root = own_directory(dir)?;
                let store = store(*strategy, durability, &root).inspect_err(|_| {
                    // Nothing was put into it; if it cannot be removed, an empty directory is left.
                    let _ = std::fs::remove_dir(&root);
                })?;
                Ok(Self::Own { store, root, _scratch: None })
            }
            #[cfg(feature = "containerd")]
            Wanted::Served { socket, name } => {
                use crate::containerd::{Client, Plugin};
                let plugin = name.as_ref().map(|name| Plugin { name: name.clone(), namespace: NAMESPACE.to_owned() });
                Ok(Self::Served(Client::connect(socket, plugin.unwrap_or_default())?))
            }
        }
    }

    /// Who is judged.
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

fn store(strategy: Strategy, durability: Durability, root: &Path) -> Result<Store> {
    let Strategy { choice: backend, clone, .. } = strategy;
    registry::open(&Config { backend, clone, durability, ..Config::new(root) })
}

/// A fresh directory in `dir`.
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
