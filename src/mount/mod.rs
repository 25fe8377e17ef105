//! Mounts as values, and their creation.
//!
//! A [`Mount`] describes how a snapshot is mounted. [`Mount::options`] prints it in containerd's form, which is an API:
//! BuildKit and others parse it. Our own mounts are created from the value itself.
//!
//! Invariants: nothing here changes the propagation of an existing mount. Nothing is mounted except where the caller
//! said, or detached.
//!
//! # References
//! `fsopen(2)`, `fsconfig(2)`, `open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`; kernel document
//! `filesystems/overlayfs.rst`.

mod attach;
mod guard;
mod id_map;
mod namespace;
pub mod probe;
pub mod scratch;
pub mod table;
mod workplace;

pub use attach::{attach, attach_copy, detached, detached_copy, unmount};
pub use guard::Mounted;
pub use id_map::IdMap;
pub use namespace::become_root;
pub use workplace::Workplace;

use std::path::{Path, PathBuf};

/// Overlay options that every overlay mount of strata has, whatever the defaults of the kernel are: an index or a
/// redirect would put state into the upper that a layer cannot contain.
pub const OVERLAY_OPTIONS: [&str; 2] = ["index=off", "redirect_dir=nofollow"];

/// Maximum number of lower directories of one overlay mount: the kernel's `OVL_MAX_STACK`.
pub const LOWER_MAX: usize = 500;

/// Access that a mount permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reading only.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// One mount: the arguments of `mount(8)`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mount {
    /// A bind mount of the directory `source`.
    Bind {
        /// Absolute path of the directory.
        source: PathBuf,
        /// Access that the mount permits.
        access: Access,
    },
    /// An overlay mount of several directories.
    Overlay {
        /// Read-only layers, the topmost first: at least one, or at least two without `upper`.
        lower: Vec<PathBuf>,
        /// The writable part; without it the mount is read-only.
        upper: Option<Upper>,
        /// True if overlayfs keeps its state in `user.overlay.*` attributes, which is the only way in a user namespace.
        userxattr: bool,
    },
    /// A bind or overlay mount that shows the owners of files translated. Permissions, access control lists and file
    /// capabilities follow. The result of writing depends on [`MappedPart`].
    Mapped {
        /// The mount without the translation.
        mount: Box<Mount>,
        /// The translation: files with an inside id are shown with the outside id.
        ids: IdMap,
        /// The directories whose files are translated.
        part: MappedPart,
    },
    /// A mount of another snapshotter, created from the arguments of `mount(8)`.
    Other {
        /// Type of the file system.
        fstype: String,
        /// The device or directory.
        source: String,
        /// Options of `mount(8)`.
        options: Vec<String>,
    },
}

/// The directories of a [`Mount::Mapped`] whose files are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappedPart {
    /// The source of a bind mount, in which written files get the inside id back; or all lower directories of an
    /// overlay. The kernel cannot translate an upper, so the upper gets outside ids.
    Lower,
    /// The topmost lower directory of an overlay without an upper.
    Top,
}

/// The writable part of an overlay mount. Both directories lie on one file system, neither inside the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upper {
    /// Directory that receives the changes.
    pub dir: PathBuf,
    /// Work directory of overlayfs, initially empty.
    pub work: PathBuf,
}

impl Mount {
    /// Returns the file system type in containerd's form: `bind`, `overlay` or another.
    pub fn fstype(&self) -> &str {
        match self {
            Self::Bind { .. } => "bind",
            Self::Overlay { .. } => "overlay",
            Self::Mapped { mount, .. } => mount.fstype(),
            Self::Other { fstype, .. } => fstype,
        }
    }

    /// Returns the source in containerd's form: a path for a bind mount, `overlay` for an overlay.
    pub fn source(&self) -> String {
        match self {
            Self::Bind { source, .. } => source.display().to_string(),
            Self::Overlay { .. } => "overlay".to_owned(),
            Self::Mapped { mount, .. } => mount.source(),
            Self::Other { source, .. } => source.clone(),
        }
    }

    /// Returns the options in containerd's form. The form is stable, and BuildKit can parse it: it accepts `workdir`,
    /// `upperdir`, one `lowerdir=a:b:c`, `index=off`, `userxattr` and `redirect_dir`, and nothing else. A translation
    /// of [`MappedPart::Lower`] is two pseudo options of containerd's in front; one of [`MappedPart::Top`] has no form.
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
            Self::Mapped { mount, ids, part: MappedPart::Lower } => {
                ids.options().into_iter().chain(mount.options()).collect()
            }
            Self::Mapped { mount, part: MappedPart::Top, .. } => mount.options(),
            Self::Other { options, .. } => options.clone(),
        }
    }

    /// Returns the directories that the mount shows, the topmost first; empty for [`Mount::Other`], whose directories
    /// are not known.
    pub fn layers(&self) -> Vec<&Path> {
        match self {
            Self::Bind { source, .. } => vec![source],
            Self::Overlay { lower, upper, .. } => {
                upper.iter().map(|upper| &upper.dir).chain(lower).map(PathBuf::as_path).collect()
            }
            Self::Mapped { mount, .. } => mount.layers(),
            Self::Other { .. } => Vec::new(),
        }
    }

    /// Returns the writable part of an overlay.
    pub fn upper(&self) -> Option<&Upper> {
        match self {
            Self::Overlay { upper, .. } => upper.as_ref(),
            Self::Mapped { mount, .. } => mount.upper(),
            Self::Bind { .. } | Self::Other { .. } => None,
        }
    }

    /// Returns the mount with the owners of its files translated.
    #[must_use]
    pub fn mapped(self, ids: IdMap, part: MappedPart) -> Self {
        Self::Mapped { mount: Box::new(self), ids, part }
    }

    /// Returns the access that the mount permits.
    pub fn access(&self) -> Access {
        match self {
            Self::Bind { access, .. } => *access,
            Self::Overlay { upper: Some(_), .. } => Access::ReadWrite,
            Self::Overlay { upper: None, .. } => Access::ReadOnly,
            Self::Mapped { mount, .. } => mount.access(),
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
