//! Mounts as values, and how they are made.
//!
//! A [`Mount`] says what a snapshot looks like to whoever mounts it. [`Mount::options`] prints it in containerd's form,
//! which is an API: BuildKit and others parse it. Our own mounts are made from the value itself.
//!
//! Invariant: nothing here changes the propagation of an existing mount, and nothing is mounted anywhere but where the
//! caller said, or detached from every tree.
//!
//! # References
//! `fsopen(2)`, `fsconfig(2)`, `open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`; kernel document
//! `filesystems/overlayfs.rst`.

mod attach;
mod guard;
mod namespace;
pub mod probe;
pub mod scratch;
pub mod table;
mod workplace;

pub use attach::{attach, detached, unmount};
pub use guard::Mounted;
pub use namespace::become_root;
pub use workplace::Workplace;

use std::path::{Path, PathBuf};

/// Overlay options that every overlay mount of strata has, whatever a kernel's build-time defaults are: the index and
/// redirects put state into the upper that a layer cannot carry.
pub const OVERLAY_OPTIONS: [&str; 2] = ["index=off", "redirect_dir=nofollow"];

/// The most lower directories of one overlay mount: `OVL_MAX_STACK` of the kernel.
pub const LOWER_MAX: usize = 500;

/// Whether a mount may be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reading only.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// One mount: what `mount(8)` would be given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mount {
    /// The directory `source`, bound.
    Bind {
        /// An absolute path.
        source: PathBuf,
        /// Whether it may be written to.
        access: Access,
    },
    /// A stack of directories, merged.
    Overlay {
        /// Read-only layers, the nearest to the top first; at least one, and at least two without `upper`.
        lower: Vec<PathBuf>,
        /// Where changes go; without it the mount is read-only.
        upper: Option<Upper>,
        /// Whether overlayfs keeps its state in `user.overlay.*`: the only way inside a user namespace.
        userxattr: bool,
    },
    /// What another snapshotter handed out: made by `mount(2)` as it stands.
    Other {
        /// The file system type.
        fstype: String,
        /// The device or directory.
        source: String,
        /// Options of `mount(8)`.
        options: Vec<String>,
    },
}

/// The writable part of an overlay mount. Both lie on one file system, neither inside the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upper {
    /// The directory that takes the changes.
    pub dir: PathBuf,
    /// overlayfs's own scratch directory, empty at first.
    pub work: PathBuf,
}

impl Mount {
    /// The file system type in containerd's form: `bind`, `overlay`, ...
    pub fn fstype(&self) -> &str {
        match self {
            Self::Bind { .. } => "bind",
            Self::Overlay { .. } => "overlay",
            Self::Other { fstype, .. } => fstype,
        }
    }

    /// The source in containerd's form: a path for a bind, `overlay` for an overlay.
    pub fn source(&self) -> String {
        match self {
            Self::Bind { source, .. } => source.display().to_string(),
            Self::Overlay { .. } => "overlay".to_owned(),
            Self::Other { source, .. } => source.clone(),
        }
    }

    /// The options in containerd's form: stable, and parseable by BuildKit, which knows `workdir`, `upperdir`, one
    /// `lowerdir=a:b:c`, `index=off`, `userxattr` and `redirect_dir` and nothing else.
    pub fn options(&self) -> Vec<String> {
        match self {
            Self::Bind { access: Access::ReadOnly, .. } => vec!["rbind".into(), "ro".into()],
            Self::Bind { access: Access::ReadWrite, .. } => vec!["rbind".into(), "rw".into()],
            Self::Overlay { lower, upper, userxattr } => {
                let mut options: Vec<String> = Vec::new();
                if let Some(upper) = upper {
                    options.push(format!("workdir={}", upper.work.display()));
                    options.push(format!("upperdir={}", upper.dir.display()));
                }
                let lower: Vec<String> = lower.iter().map(|dir| dir.display().to_string()).collect();
                options.push(format!("lowerdir={}", lower.join(":")));
                options.extend(OVERLAY_OPTIONS.map(str::to_owned));
                if *userxattr {
                    options.push("userxattr".to_owned());
                }
                options
            }
            Self::Other { options, .. } => options.clone(),
        }
    }

    /// The directories that are seen, the topmost first. `Other` says nothing of them.
    pub fn layers(&self) -> Vec<&Path> {
        match self {
            Self::Bind { source, .. } => vec![source],
            Self::Overlay { lower, upper, .. } => {
                upper.iter().map(|upper| &upper.dir).chain(lower).map(PathBuf::as_path).collect()
            }
            Self::Other { .. } => Vec::new(),
        }
    }

    /// Whether what is mounted may be written to.
    pub fn access(&self) -> Access {
        match self {
            Self::Bind { access, .. } => *access,
            Self::Overlay { upper: Some(_), .. } => Access::ReadWrite,
            Self::Overlay { upper: None, .. } => Access::ReadOnly,
            Self::Other { options, .. } if options.iter().any(|option| option == "ro") => Access::ReadOnly,
            Self::Other { fstype, options, .. }
                if fstype == "overlay" && !options.iter().any(|option| option.starts_with("upperdir=")) =>
            {
                Access::ReadOnly
            }
            Self::Other { .. } => Access::ReadWrite,
        }
    }
}
