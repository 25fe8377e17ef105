//! Which strategies are measured where.

use std::fmt;
use std::path::Path;

use crate::compare::{Label, Role};
use crate::error::{Context, Error, Result};
use crate::mount::scratch::FsType;
use crate::registry::Choice;
use crate::tree::copy::CloneMode;

/// A way to make snapshots, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// overlayfs.
    Overlay,
    /// btrfs subvolumes.
    Btrfs,
    /// Copies of every byte.
    Copy,
    /// Copies that share blocks until somebody writes.
    Reflink,
    /// None: the floor.
    Plain,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Overlay, Self::Btrfs, Self::Copy, Self::Reflink, Self::Plain];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Btrfs => "btrfs",
            Self::Copy => "copy",
            Self::Reflink => "copy+reflink",
            Self::Plain => "plain directory",
        }
    }

    /// How a store uses it.
    pub fn backend(self) -> Option<(Choice, CloneMode)> {
        match self {
            Self::Overlay => Some((Choice::Overlay, CloneMode::Auto)),
            Self::Btrfs => Some((Choice::Btrfs, CloneMode::Auto)),
            Self::Copy => Some((Choice::Copy, CloneMode::Bytes)),
            Self::Reflink => Some((Choice::Copy, CloneMode::Reflink)),
            Self::Plain => None,
        }
    }

    /// The strategy called `name` on the command line.
    ///
    /// # Errors
    /// `InvalidArgument` that names those that there are.
    pub fn parse(name: &str) -> Result<Self> {
        let known = [Self::Overlay, Self::Btrfs, Self::Copy, Self::Reflink];
        known
            .into_iter()
            .find(|strategy| strategy.as_str() == name)
            .ok_or_else(|| Error::invalid(format!("{name:?} is no strategy: {}", known.map(Self::as_str).join(", "))))
    }

    /// Whether each snapshot holds all bytes of its parent.
    pub fn copies(self) -> bool {
        self == Self::Copy
    }
}

/// The file system called `name` on the command line.
///
/// # Errors
/// `InvalidArgument` that names those that there are.
pub(super) fn parse_fs(name: &str) -> Result<FsType> {
    FsType::ALL.into_iter().find(|fs| fs.as_str() == name).ok_or_else(|| {
        Error::invalid(format!("{name:?} is no file system: {}", FsType::ALL.map(FsType::as_str).join(", ")))
    })
}

/// The kernel's name for the file system of `dir`.
///
/// # Errors
/// What the system call reports.
pub(super) fn fs_of(dir: &Path) -> Result<String> {
    let magic = rustix::fs::statfs(dir).at("stat the file system of", dir)?.f_type;
    Ok(match magic {
        libc::EXT4_SUPER_MAGIC => "ext4".to_owned(),
        libc::XFS_SUPER_MAGIC => "xfs".to_owned(),
        libc::BTRFS_SUPER_MAGIC => "btrfs".to_owned(),
        libc::TMPFS_MAGIC => "tmpfs".to_owned(),
        libc::OVERLAYFS_SUPER_MAGIC => "overlay".to_owned(),
        other => format!("file system {other:#x}"),
    })
}

/// A strategy on a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contender {
    pub strategy: Strategy,
    /// What is made for it; none for a directory of the user's.
    pub fresh: Option<FsType>,
    /// The name of the file system.
    pub fs: String,
}

impl Contender {
    /// Whether the file system can do at all what the strategy needs.
    pub fn can_be(&self) -> bool {
        match self.strategy {
            Strategy::Overlay | Strategy::Copy | Strategy::Plain => true,
            Strategy::Btrfs => self.fs == "btrfs",
            Strategy::Reflink => self.fs == "btrfs" || self.fs == "xfs",
        }
    }

    /// What its results are shown under.
    pub fn label(&self) -> Label {
        let role = if self.strategy == Strategy::Plain { Role::Floor } else { Role::Strategy };
        Label::new(self.strategy.as_str(), &self.fs, role)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.strategy.as_str(), self.fs)
    }
}

/// Those that a short run has time for.
const QUICK: [(Strategy, FsType); 4] = [
    (Strategy::Overlay, FsType::Ext4),
    (Strategy::Btrfs, FsType::Btrfs),
    (Strategy::Copy, FsType::Ext4),
    (Strategy::Reflink, FsType::Xfs),
];

/// Those of `strategies` and `fs` (all where none is named), with the floor of each file system. Copies of every byte,
/// where blocks can be shared, are left out unless they are named or `full` asks for all.
pub(super) fn contenders(strategies: &[Strategy], fs: &[FsType], quick: bool, full: bool) -> Vec<Contender> {
    let named = !strategies.is_empty() || !fs.is_empty();
    let wanted = |strategy: Strategy, kind: FsType| {
        let by_name =
            (strategies.is_empty() || strategies.contains(&strategy)) && (fs.is_empty() || fs.contains(&kind));
        let chosen = !quick || QUICK.contains(&(strategy, kind));
        let sensible = full || strategy != Strategy::Copy || !matches!(kind, FsType::Xfs | FsType::Btrfs);
        by_name && (named || (chosen && sensible))
    };
    let mut all = Vec::new();
    for kind in FsType::ALL {
        let fitting = Strategy::ALL.into_iter().filter(|s| *s != Strategy::Plain && wanted(*s, kind));
        let here = fitting.map(|strategy| Contender { strategy, fresh: Some(kind), fs: kind.to_string() });
        let before = all.len();
        all.extend(here);
        if all.len() > before {
            all.push(Contender { strategy: Strategy::Plain, fresh: Some(kind), fs: kind.to_string() });
        }
    }
    // Like beside like: the floor of each file system comes last.
    all.sort_by_key(|contender| Strategy::ALL.iter().position(|strategy| *strategy == contender.strategy));
    all
}

/// All strategies in a directory of the user's, on the file system `fs`.
pub(super) fn contenders_on(strategies: &[Strategy], fs: &str) -> Vec<Contender> {
    let wanted =
        |strategy: &Strategy| *strategy == Strategy::Plain || strategies.is_empty() || strategies.contains(strategy);
    let all = Strategy::ALL.into_iter().filter(wanted);
    all.map(|strategy| Contender { strategy, fresh: None, fs: fs.to_owned() }).collect()
}
