//! Mount namespaces of threads.
//!
//! # References
//! `unshare(2)`, `mount_namespaces(7)`.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use nix::sched::CloneFlags;
use nix::unistd::{getegid, geteuid};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};

use crate::error::{Context, Result};

/// Returns true if the calling thread has a mount namespace created by [`make_own`], or inherited one from the thread
/// that started it.
pub(super) fn is_own() -> Result<bool> {
    /// Mount namespace of the first caller. The descriptor stays open, so that the kernel cannot give the inode number
    /// to another namespace.
    static ORIGINAL: OnceLock<(OwnedFd, u64)> = OnceLock::new();

    let current = "/proc/thread-self/ns/mnt";
    let own = rustix::fs::open(current, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", current)?;
    let number = rustix::fs::fstat(&own).at("stat", current)?.st_ino;
    Ok(ORIGINAL.get_or_init(|| (own, number)).1 != number)
}

/// Moves the calling thread into a new mount namespace, from which no mount propagates to another. Threads and
/// processes that it starts afterwards share the namespace.
///
/// Mount tables must then be read for the thread (`/proc/thread-self/mountinfo`, `listmount(2)`), because `/proc/self`
/// shows the table of the process's first thread.
///
/// # Errors
/// `PermissionDenied` without root and outside a user namespace.
pub(super) fn make_own() -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
        .at("make a mount namespace (root is needed, or a user namespace: unshare -rm) for", "/")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .at("make private the mounts of the new namespace at", "/")
}

/// Makes the calling process root of a new user namespace, with a new mount namespace. Only the caller's user and group
/// are mapped there. The process must have a single thread.
///
/// # Errors
/// `PermissionDenied` where users may not make such namespaces; `InvalidArgument` with several threads.
pub fn become_root() -> Result<()> {
    let (user, group) = (geteuid(), getegid());
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
        .at("make a user namespace for", "the caller")?;
    for (file, text) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {user} 1")), ("gid_map", format!("0 {group} 1"))]
    {
        let path = format!("/proc/self/{file}");
        std::fs::write(&path, text).at("write", &path)?;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .at("make private the mounts of the new namespace at", "/")
}
