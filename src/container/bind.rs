//! Files and directories of the machine, opened once and bound into a container by descriptor.
//!
//! A file whose path is checked first and given to the runtime afterwards can be replaced by a link in between. A
//! [`Bind`] is a detached copy of the mount of an open file, so no path of the machine is resolved again: the copy is
//! attached in the workplace, which no other user can reach, and the runtime gets the path there.
//!
//! # References
//! `open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, fstat};

use super::Volume;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::{self, Access};

/// A file or directory of the machine, opened, and the place where one container sees it.
///
/// The access decides whether the mount is read-only, with all mounts below it. Devices and set-user-ID bits never have
/// an effect in it. Only [`crate::container::run`] attaches the mount, and can do so once. The kernel removes the mount
/// with the last clone of the value.
#[derive(Clone, Debug)]
pub struct Bind {
    tree: Arc<OwnedFd>,
    pub(super) is_file: bool,
    pub(super) target: String,
    pub(super) access: Access,
}

impl Bind {
    /// Opens the source of `volume`. Links on the way to it are followed, once.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` if the source cannot be opened; as [`Bind::new`].
    pub fn open(volume: &Volume) -> Result<Self> {
        let Volume { source, target, access } = volume;
        let opened = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
            let kind = if errno == rustix::io::Errno::NOENT { ErrorKind::NotFound } else { ErrorKind::InvalidArgument };
            Error::new(kind, format!("the volume {}", source.display())).with_source(errno)
        })?;
        Self::new(&opened, source, target.clone(), *access)
    }

    /// Copies the mount of the open file or directory `source`, with all mounts below; `shown` is its path in messages.
    /// The mount of `source` must be one of the mount namespace of the calling thread.
    ///
    /// # Errors
    /// `PermissionDenied` without root and outside a user namespace; errors of the kernel.
    pub fn new(source: impl AsFd, shown: &Path, target: String, access: Access) -> Result<Self> {
        let mode = fstat(&source).at("stat", shown)?.st_mode;
        let is_file = !FileType::from_raw_mode(mode).is_dir();
        let tree = Arc::new(mount::detached_copy(source.as_fd(), shown, access)?);
        Ok(Self { tree, is_file, target, access })
    }

    /// Returns the mount point, as an absolute path of the container.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Makes the mount point `point`, and attaches the mount there.
    pub(super) fn attach(&self, point: PathBuf) -> Result<PathBuf> {
        if self.is_file {
            super::write(&point, b"", 0o600)?;
        } else {
            rustix::fs::mkdir(&point, Mode::RWXU).at("make directory", &point)?;
        }
        mount::attach_copy(&self.tree, &point).map(|()| point)
    }
}
