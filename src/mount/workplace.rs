//! A place in memory that only this process and its children see, and that goes with them.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::{attach, namespace};
use crate::error::{Context, Result};

/// A small tmpfs, mounted over a directory in a fresh mount namespace of the calling thread: several threads may have
/// one at the same directory. Whatever is mounted below it later is in nobody else's way, and goes with the last
/// process of the namespace, however that dies.
#[derive(Debug)]
pub struct Workplace {
    path: PathBuf,
}

impl Workplace {
    /// Makes one at `path`, a directory that is made if it is not there and stays empty for all others. The calling
    /// thread gets a mount namespace of its own first, and stays in it.
    ///
    /// # Errors
    /// `PermissionDenied` without root and outside a user namespace; what the file system reports.
    pub fn new(path: PathBuf) -> Result<Self> {
        match rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => made.at("make directory", &path)?,
        }
        // So that the thread is known to have one, by the first look at where it comes from.
        namespace::is_own()?;
        namespace::make_own()?;
        let place = attach::new("tmpfs", &[("source", Some("strata")), ("mode", Some("0700"))])?;
        attach::place(&place, &path)?;
        Ok(Self { path })
    }

    /// Where it is, as the calling thread and its children see it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // With everything below, and lazily: nobody else sees it. A failure is repaired by the end of the namespace.
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
    }
}
