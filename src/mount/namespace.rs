//! A mount namespace of the calling thread.
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

/// Whether the calling thread has a namespace of its own ([`make_own`]), or one of a thread that started it.
pub(super) fn is_own() -> Result<bool> {
    /// The namespace of the first caller. Kept open, so that its number stands for no other while the process lives.
    static ORIGINAL: OnceLock<(OwnedFd, u64)> = OnceLock::new();

    let current = "/proc/thread-self/ns/mnt";
    let own = rustix::fs::open(current, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", current)?;
    let number = rustix::fs::fstat(&own).at("stat", current)?.st_ino;
    Ok(ORIGINAL.get_or_init(|| (own, number)).1 != number)
}

/// Gives the calling thread a mount namespace of its own, in which nothing that is mounted propagates to any other.
/// Threads and processes that it starts afterwards share it.
///
/// Mount tables must then be read for the thread (`/proc/thread-self/mountinfo`, `listmount(2)`): `/proc/self` is that
/// of the first thread.
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

/// Makes the calling process root of a user namespace of its own, and of a mount namespace in it. Its own user and
/// group are the only ones that it has there. It must have a single thread.
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
