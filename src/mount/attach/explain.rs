//! Finds the reason why the kernel refused a mount.
//!
//! overlayfs returns one of a few error numbers and writes the reason into the kernel log, which most users cannot
//! read. So after a failure the conditions that overlayfs checks are checked again here, in the same order.
//!
//! # References
//! Kernel document `filesystems/overlayfs.rst`; `fs/overlayfs/super.c` and `params.c` (which conditions there are).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::description::Overlay;
use crate::error::{Context, Error, Result};
use crate::fs_type::FsMagic;
use crate::mount::Upper;

/// Maximum length of one message of a file system context.
const LOG_BYTES: usize = 1024;

/// Returns the messages that the kernel logged into the context, joined; empty if there are none.
fn log(context: &OwnedFd) -> String {
    let mut messages = Vec::new();
    let mut buffer = [0; LOG_BYTES];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..length]);
        // Each message begins with a letter for its severity and a space.
        messages.push(message.get(2..).unwrap_or(&message).trim_end().to_owned());
    }
    messages.join("; ")
}

/// Returns `operation` with the kernel's messages in brackets.
pub(super) fn logged(context: &OwnedFd, operation: &str) -> String {
    match log(context) {
        said if said.is_empty() => operation.to_owned(),
        said => format!("({said}) {operation}"),
    }
}

/// Returns the error for an overlay that the kernel mounted read-only. The kernel does so if it could not create a file
/// in the work directory, for example without free space or inodes.
pub(super) fn read_only(Upper { dir, work }: &Upper) -> Error {
    let mounted = format!("the kernel mounted the overlay of {} read-only", dir.display());
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(work, flags, Mode::empty()) {
        Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => {
            match Err::<(), _>(errno).at(&format!("{mounted}: make something in its work directory"), work) {
                Err(error) => error,
                Ok(()) => Error::precondition(mounted),
            }
        }
        _ => Error::precondition(format!(
            "{mounted}: its work directory {} cannot be used (another owner, a file system mounted read-only, or \
             something left in it: remove what is in it)",
            work.display()
        )),
    }
}

/// Returns the error for a refused overlay.
pub(super) fn overlay(overlay: &Overlay, errno: Errno, context: &OwnedFd) -> Error {
    overlay_errno(overlay, errno, &log(context))
}

/// Returns the error for a refused overlay about which the kernel logged `said`.
pub(super) fn overlay_errno(overlay: &Overlay, errno: Errno, said: &str) -> Error {
    match find(overlay, errno) {
        Err(reason) => reason.with_source(errno),
        Ok(()) => {
            let doing = match said {
                "" => "mount the overlay (the kernel's log says why: dmesg) of".to_owned(),
                said => format!("mount the overlay ({said}) of"),
            };
            match Err::<(), _>(errno).at(&doing, overlay.shown()) {
                Err(error) => error,
                Ok(()) => Error::unsupported(doing),
            }
        }
    }
}

/// Returns the first condition that does not hold, as an error.
fn find(overlay: &Overlay, errno: Errno) -> Result<()> {
    for (role, dir) in overlay.dirs() {
        match fs::metadata(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::not_found(format!("the {role} directory {} does not exist", dir.display())));
            }
            Err(error) => return Err(error).at(&format!("look at the {role} directory"), dir),
            Ok(metadata) if !metadata.is_dir() => {
                return Err(Error::invalid(format!("the {role} directory {} is not a directory", dir.display())));
            }
            Ok(_) => {}
        }
    }
    if errno == Errno::LOOP {
        overlaps(overlay)?;
    }
    match &overlay.upper {
        Some(upper) => writable_part(upper, errno),
        None => Ok(()),
    }
}

fn overlaps(overlay: &Overlay) -> Result<()> {
    let real: Vec<(&Path, PathBuf)> = overlay
        .dirs()
        .filter(|(role, _)| *role != "work")
        .filter_map(|(_, dir)| Some((dir, fs::canonicalize(dir).ok()?)))
        .collect();
    for (number, (dir, one)) in real.iter().enumerate() {
        for (other_dir, other) in &real[number + 1..] {
            if one.starts_with(other) || other.starts_with(one) {
                return Err(Error::invalid(format!(
                    "the layers {} and {} of an overlay overlap: one is, or is inside, the other",
                    dir.display(),
                    other_dir.display()
                )));
            }
        }
    }
    Ok(())
}

fn writable_part(Upper { dir, work }: &Upper, errno: Errno) -> Result<()> {
    let (shown, work_shown) = (dir.display(), work.display());
    if errno == Errno::BUSY {
        return Err(Error::precondition(format!("the upper directory {shown} is in use by another overlay mount")));
    }
    let device = fs::metadata(dir).at("stat", dir)?.dev();
    if device != fs::metadata(work).at("stat", work)?.dev() {
        return Err(Error::invalid(format!(
            "the upper {shown} and the work directory {work_shown} lie on different file systems"
        )));
    }
    let real = fs::canonicalize(dir).at("resolve", dir)?;
    let real_work = fs::canonicalize(work).at("resolve", work)?;
    if real.starts_with(&real_work) || real_work.starts_with(&real) {
        return Err(Error::invalid(format!(
            "of the upper {shown} and the work directory {work_shown} one is, or is inside, the other"
        )));
    }
    if work.join("work/incompat/volatile").exists() {
        return Err(Error::precondition(format!(
            "{shown} was mounted volatile before, and may have lost data: check it, then remove {work_shown}/work/incompat"
        )));
    }
    if FsMagic::of_path(dir)? == FsMagic::OVERLAY {
        return Err(Error::unsupported(format!(
            "the upper directory {shown} lies on an overlay, which cannot hold one: put it on another file system, in a \
             container on a volume or a tmpfs"
        )));
    }
    Ok(())
}
