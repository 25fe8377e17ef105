//! A private tmpfs that only this process and its children see.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::{attach, namespace};
use crate::error::{Context, Result};

/// A small tmpfs, mounted over a directory in a new mount namespace of the calling thread. Several threads may each
/// have one at the same directory. Mounts below it do not affect other processes, and end with the last process of the
/// namespace, even if that process is killed.
#[derive(Debug)]
pub struct Workplace {
    path: PathBuf,
}

impl Workplace {
    /// Mounts the tmpfs at `path`. The directory is created if it is missing, and stays empty for all other processes.
    /// The calling thread moves into a new mount namespace and stays in it.
    ///
    /// # Errors
    /// `PermissionDenied` without root and outside a user namespace; errors of the file system.
    pub fn new(path: PathBuf) -> Result<Self> {
        match rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => made.at("make directory", &path)?,
        }
        // Records the thread's original namespace before the thread leaves it, so that `is_own` returns true
        // afterwards.
        namespace::is_own()?;
        namespace::make_own()?;
        let place = attach::new("tmpfs", &[("source", Some("strata")), ("mode", Some("0700"))])?;
        attach::place(&place, &path)?;
        Ok(Self { path })
    }

    /// Returns the path of the tmpfs, as the calling thread and its children see it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // A lazy unmount, including everything below: no other process sees the mounts. If it fails, the end of the
        // namespace unmounts them.
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
    }
}
