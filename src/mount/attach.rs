//! Creates mounts from [`Mount`] values: each mount is created detached, and then attached where the caller says.
//!
//! Every mount is created with the mount API of Linux 5.2 and later; [`legacy`] creates overlays of more than a few
//! layers on kernels before 6.8. The kernel writes the reason of most refusals to its log only, so [`explain`] checks
//! the possible reasons.
//!
//! Invariant: a call that fails leaves nothing mounted.

mod description;
mod explain;
mod legacy;
mod mapped;
mod options;
mod overlay;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux_raw_sys::general::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, fstatvfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use self::description::Overlay;
use self::options::{Attributes, Plan};
pub(super) use self::overlay::layers_one_by_one;
use super::{Access, Mount, Upper};
use crate::error::{Context, Error, Result};
use crate::sys;

/// First wait for a busy mount; each further wait is twice as long.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// Longest single wait. All waits together last a quarter of a second: much longer than a fork, and still acceptable to
/// a user.
const BUSY_PAUSE_MAX: Duration = Duration::from_millis(128);

/// Attaches `mounts` at the directory `target`, in order, each on top of the one before. The mounts stay after the
/// process ends.
///
/// # Errors
/// `NotFound` if `target` or a directory of a mount is missing; `InvalidArgument` for a mount that can never be made
/// (the message names what is wrong with which directory); `FailedPrecondition` if a directory's state forbids it, or
/// if what should be writable is not; `PermissionDenied` without root and outside a user namespace; `Unsupported` where
/// the kernel or the file system cannot do it.
pub fn attach(mounts: &[Mount], target: &Path) -> Result<()> {
    attach_each(mounts, target, make)
}

/// Attaches `mounts` like [`attach`], with volatile overlays: no write to an overlay and no unmount waits for the disk,
/// so written data may not survive a power cut. The kernel leaves a mark in the work directory, which prevents mounting
/// the upper again.
pub(super) fn attach_volatile(mounts: &[Mount], target: &Path) -> Result<()> {
    attach_each(mounts, target, |mount| match mount {
        Mount::Overlay { lower, upper: Some(upper), userxattr } => volatile(lower, upper, *userxattr),
        other => make(other),
    })
}

fn attach_each(mounts: &[Mount], target: &Path, make: impl Fn(&Mount) -> Result<OwnedFd>) -> Result<()> {
    check_target(target)?;
    check_any(mounts)?;
    for (done, mount) in mounts.iter().enumerate() {
        let placed = make(mount).and_then(|made| place(&made, target));
        if let Err(error) = placed {
            for _ in 0..done {
                // A failure to unmount is ignored, because the first error is reported.
                let _ = unmount(target);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Creates `mounts` without attaching them to a directory, and returns the root directory of the last one, which covers
/// the others. The mount goes away with the last descriptor of it, even if the process is killed.
///
/// # Errors
/// As [`attach`].
pub fn detached(mounts: &[Mount]) -> Result<OwnedFd> {
    let (top, covered) = mounts.split_last().ok_or_else(nothing_to_mount)?;
    for mount in covered {
        make(mount)?;
    }
    let mount = make(top)?;
    // The mount's own descriptor is `O_PATH`: names can be resolved from it, but it cannot be read, and no attributes
    // can be set through it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&mount, c".", flags, Mode::empty()).at("open the mount of", top.source())
}

/// Copies the mount of the open file or directory `source`, with everything that is mounted below, without attaching
/// the copy. Devices and set-user-ID bits have no effect in the copy; `shown` is the path for messages. The mount of
/// `source` must be one of the mount namespace of the calling thread.
///
/// # Errors
/// `PermissionDenied` without root and outside a user namespace; what the kernel reports.
pub fn detached_copy(source: BorrowedFd<'_>, shown: &Path, access: Access) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let copy = match open_tree(source, "", flags) {
        Err(Errno::PERM) => Err(Errno::PERM).at("bind (root is needed, or a user namespace: unshare -rm)", shown)?,
        copy => copy.at("bind", shown)?,
    };
    let set = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID;
    change(&copy, &Attributes { access, set, ..Attributes::default() }, shown)?;
    Ok(copy)
}

/// Attaches a mount of [`detached_copy`] at `target`: a directory for a directory, else a file. A mount can be attached
/// once.
///
/// # Errors
/// `NotFound`; what the kernel reports.
pub fn attach_copy(copy: &OwnedFd, target: &Path) -> Result<()> {
    place(copy, target)
}

/// Creates a detached volatile overlay: unmounting it does not wait for the disk.
pub(super) fn volatile(lower: &[PathBuf], upper: &Upper, userxattr: bool) -> Result<OwnedFd> {
    let mut overlay = Overlay::own(lower, Some(upper), userxattr);
    overlay.options.push("volatile".to_owned());
    overlay::make(&overlay, &Attributes::default())
}

/// Unmounts the topmost mount at `target`. If the mount is busy, retries for a quarter of a second.
///
/// # Errors
/// `NotFound`; `FailedPrecondition` if nothing is mounted there, or if it is in use; `PermissionDenied`.
pub fn unmount(target: &Path) -> Result<()> {
    let shown = target.display();
    match unmount_patiently(target) {
        Err(Errno::INVAL) => Err(Error::precondition(format!(
            "{shown} is not a mount point of this mount namespace, or cannot be unmounted in it"
        ))
        .with_source(Errno::INVAL)),
        Err(Errno::BUSY) => Err(Error::precondition(format!(
            "{shown} is busy: end the processes that work in it (fuser -vm {shown}) and unmount what is mounted below"
        ))
        .with_source(Errno::BUSY)),
        Err(Errno::PERM) => {
            Err(Errno::PERM).at("unmount (root is needed, or the user namespace that mounted it)", target)
        }
        answer => answer.at("unmount", target),
    }
}

/// Retries while the mount is busy. A child that another thread forks has copies of all descriptors until it executes
/// its program, including descriptors of files in the mount.
fn unmount_patiently(target: &Path) -> Result<(), Errno> {
    let mut pause = BUSY_PAUSE;
    loop {
        match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) if pause <= BUSY_PAUSE_MAX => std::thread::sleep(pause),
            answer => return answer,
        }
        pause *= 2;
    }
}

fn nothing_to_mount() -> Error {
    Error::invalid("there is nothing to mount: the list of mounts is empty")
}

fn check_any(mounts: &[Mount]) -> Result<()> {
    if mounts.is_empty() { Err(nothing_to_mount()) } else { Ok(()) }
}

fn check_target(target: &Path) -> Result<()> {
    let stat = rustix::fs::stat(target).at("mount at", target)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        Ok(())
    } else {
        Err(Error::invalid(format!("mount at {}: it is not a directory", target.display())))
    }
}

pub(super) fn place(mount: &OwnedFd, target: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(mount, "", CWD, target, flags).at("mount at", target)
}

/// Creates one mount, detached.
fn make(mount: &Mount) -> Result<OwnedFd> {
    match mount {
        Mount::Bind { source, access } => bind(source, true, &Attributes::of(*access)),
        Mount::Overlay { lower, upper, userxattr } => {
            overlay::make(&Overlay::own(lower, upper.as_ref(), *userxattr), &Attributes::default())
        }
        Mount::Mapped { mount, ids, part } => mapped::make(mount, ids, *part),
        Mount::Other { fstype, source, options } => match options::parse(fstype, source, options)? {
            Plan::Bind { source, recursive, attributes } => bind(&source, recursive, &attributes),
            Plan::Overlay { overlay, attributes } => overlay::make(&overlay, &attributes),
            Plan::New { options, attributes } => {
                let options: Vec<_> = options.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
                let mount = new(fstype, &options)?;
                change(&mount, &attributes, Path::new(source))?;
                Ok(mount)
            }
        },
    }
}

/// Creates a detached bind mount of the directory `source`; later mounts in one of the two do not appear in the other.
fn bind(source: &Path, recursive: bool, attributes: &Attributes) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let mount = match open_tree(CWD, source, flags) {
        Err(Errno::PERM) => Err(Errno::PERM).at("bind (root is needed, or a user namespace: unshare -rm)", source)?,
        mount => mount.at("bind", source)?,
    };
    change(&mount, attributes, source)?;
    if attributes.access == Access::ReadWrite {
        check_writable(&mount, || {
            Error::precondition(format!("bind {}: its file system is mounted read-only", source.display()))
        })?;
    }
    Ok(mount)
}

/// Sets the attributes of a detached mount and makes it private, so that mounts below it do not propagate.
fn change(mount: &OwnedFd, attributes: &Attributes, shown: &Path) -> Result<()> {
    let read_only = if attributes.access == Access::ReadOnly { MOUNT_ATTR_RDONLY } else { 0 };
    sys::mount::set_attributes(mount.as_fd(), attributes.set | read_only, attributes.clear)
        .at("set the attributes of the mount of", shown)
}

/// Checks that the mount is writable: in some cases the kernel mounts read-only instead of refusing.
fn check_writable(mount: &OwnedFd, why: impl FnOnce() -> Error) -> Result<()> {
    let flags = fstatvfs(mount).at("stat", "a new mount")?.f_flag;
    if flags.contains(StatVfsMountFlags::RDONLY) { Err(why()) } else { Ok(()) }
}

/// Creates a detached mount of a new instance of the file system `fs`. An option without a value is a flag.
pub(super) fn new(fs: &str, options: &[(&str, Option<&str>)]) -> Result<OwnedFd> {
    let context = context(fs)?;
    for (key, value) in options {
        let set = match value {
            Some(value) => fsconfig_set_string(&context, *key, *value),
            None => fsconfig_set_flag(&context, *key),
        };
        set.or_else(|errno| {
            Err(errno).at(&explain::logged(&context, &format!("set the option {key:?} of a new")), fs)
        })?;
    }
    fsconfig_create(&context).or_else(|errno| Err(errno).at(&explain::logged(&context, "mount a new"), fs))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).at("mount a new", fs)
}

pub(super) fn context(fs: &str) -> Result<OwnedFd> {
    match fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NODEV) => Err(Error::unsupported(format!("this kernel has no {fs}: modprobe {fs}"))),
        Err(Errno::PERM) => Err(Errno::PERM).at("mount (root is needed, or a user namespace: unshare -rm) a new", fs),
        context => context.at("mount a new", fs),
    }
}

#[cfg(test)]
mod tests;
