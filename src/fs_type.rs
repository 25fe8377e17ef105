//! The types of file systems, by their magic numbers.
//!
//! # References
//! `linux/magic.h`, `statfs(2)`.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::FsWord;

use crate::error::{Context, Result};

/// Type of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsMagic(FsWord);

impl FsMagic {
    /// btrfs.
    pub const BTRFS: Self = Self(libc::BTRFS_SUPER_MAGIC);
    /// ext4, and its predecessors.
    pub const EXT4: Self = Self(libc::EXT4_SUPER_MAGIC);
    /// nfs.
    pub const NFS: Self = Self(libc::NFS_SUPER_MAGIC);
    /// overlayfs.
    pub const OVERLAY: Self = Self(libc::OVERLAYFS_SUPER_MAGIC);
    /// tmpfs.
    pub const TMPFS: Self = Self(libc::TMPFS_MAGIC);
    /// xfs.
    pub const XFS: Self = Self(libc::XFS_SUPER_MAGIC);

    const NAMES: [(Self, &str); 6] = [
        (Self::BTRFS, "btrfs"),
        (Self::EXT4, "ext4"),
        (Self::NFS, "nfs"),
        (Self::OVERLAY, "overlay"),
        (Self::TMPFS, "tmpfs"),
        (Self::XFS, "xfs"),
    ];

    /// Returns the type of the file system that holds `fd`, which errors call `shown`.
    ///
    /// # Errors
    /// Errors of the system call.
    pub fn of(fd: impl AsFd, shown: impl AsRef<Path>) -> Result<Self> {
        rustix::fs::fstatfs(fd).map(|stat| Self(stat.f_type)).at("stat the file system of", shown)
    }

    /// Returns the type of the file system that holds `path`.
    ///
    /// # Errors
    /// Errors of the system call.
    pub fn of_path(path: &Path) -> Result<Self> {
        rustix::fs::statfs(path).map(|stat| Self(stat.f_type)).at("stat the file system of", path)
    }

    /// Returns the kernel's name of the file system, or a description with the number.
    pub fn name(self) -> String {
        match Self::NAMES.iter().find(|(known, _)| *known == self) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("a file system of type {:#x}", self.0),
        }
    }
}
