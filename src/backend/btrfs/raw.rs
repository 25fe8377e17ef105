//! Two ioctls without checks: the floor that benchmarks and `compare` measure the backend against.

use std::os::fd::AsFd as _;

use crate::error::{Context, Result};
use crate::sys::btrfs as sys;
use crate::tree::Dir;

/// Makes the snapshot `name` in `dir` of the subvolume with the root directory `source`.
///
/// # Errors
/// Errors of the ioctl.
pub fn snapshot(dir: &Dir, name: &str, source: &Dir, read_only: bool) -> Result<()> {
    sys::snapshot(dir.as_fd(), name.as_ref(), source.as_fd(), read_only).at("snapshot", dir.shown_at(name))
}

/// Destroys the subvolume `name` in `dir`.
///
/// # Errors
/// Errors of the ioctl.
pub fn destroy(dir: &Dir, name: &str) -> Result<()> {
    sys::destroy(dir.as_fd(), name.as_ref()).at("destroy the subvolume", dir.shown_at(name))
}
