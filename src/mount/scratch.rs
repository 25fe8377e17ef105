//! Fresh file systems to test and compare on, which nobody else sees and which leave nothing behind.
//!
//! A [`Scratch`] lies in memory: a tmpfs, or a file system made by its `mkfs` in an anonymous file (`memfd`) behind a
//! loop device. It is mounted in a mount namespace of the calling thread ([`private_namespace`]).
//!
//! # What cleans up
//! Dropping unmounts it. After a kill the kernel does the rest: the namespace goes with its last thread and unmounts
//! everything, the loop device was told to let go with its last user, and the anonymous file has no name.
//!
//! # Where it is mounted
//! A private namespace starts with a small tmpfs over the first *empty* directory of `BASES`, which hides nothing,
//! and every scratch has a directory of its own in it, numbered in the process. Other threads of the process and
//! other processes go on seeing the empty directory.
//!
//! # References
//! `unshare(2)`, `mount_namespaces(7)`, `loop(4)`, `memfd_create(2)`, `mkfs.ext4(8)`, `mkfs.xfs(8)`, `mkfs.btrfs(8)`.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::{attach, namespace};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;

/// Directories that every system has by the file hierarchy standard and that most leave empty.
const BASES: [&str; 4] = ["/mnt", "/media", "/srv", "/opt"];

/// Where Debian keeps `mkfs.*`, which is not in everybody's search path.
const SYSTEM_DIRS: [&str; 3] = ["", "/usr/sbin/", "/sbin/"];

/// How often another process may take the loop device that was free a moment ago.
const LOOP_ATTEMPTS_MAX: u32 = 100;

/// A file system that a [`Scratch`] can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FsType {
    /// ext4 as `mkfs.ext4` makes it.
    Ext4,
    /// xfs with reflinks; at least 300 MiB.
    Xfs,
    /// btrfs on one device; at least 110 MiB.
    Btrfs,
    /// tmpfs; needs no program and no loop device.
    Tmpfs,
}

impl FsType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ext4, Self::Xfs, Self::Btrfs, Self::Tmpfs];

    /// The kernel's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
        }
    }

    /// The program that makes one, its options, and Debian's package; `None` where none is needed.
    fn maker(self) -> Option<(&'static str, &'static [&'static str], &'static str)> {
        match self {
            Self::Ext4 => Some(("mkfs.ext4", &["-q", "-F"], "e2fsprogs")),
            Self::Xfs => Some(("mkfs.xfs", &["-q", "-f", "-m", "reflink=1"], "xfsprogs")),
            Self::Btrfs => Some(("mkfs.btrfs", &["-q", "-f"], "btrfs-progs")),
            Self::Tmpfs => None,
        }
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A fresh, empty file system. Dropping it unmounts it, with everything that is mounted below; its memory is free as
/// soon as nobody has a file in it open.
#[derive(Debug)]
pub struct Scratch {
    fs: FsType,
    path: PathBuf,
    /// The loop device: open, so that it keeps its file while nothing is mounted; and its path.
    device: Option<(OwnedFd, String)>,
}

impl Scratch {
    /// Makes and mounts an empty `fs` of `size_bytes`, of which only what is written takes memory. The calling thread
    /// gets a [`private_namespace`] first; threads that it starts afterwards see the scratch, others do not.
    ///
    /// # Errors
    /// `Unsupported` where the kernel has no such file system or the program that makes it is not installed (the
    /// message names the package); `PermissionDenied` without root (in a user namespace: only [`FsType::Tmpfs`]);
    /// `InvalidArgument` when `mkfs` refuses, usually for the size.
    pub fn new(fs: FsType, size_bytes: u64) -> Result<Self> {
        private_namespace()?;
        let (mount, device) = match fs.maker() {
            None => (tmpfs(size_bytes)?, None),
            Some((program, options, package)) => {
                let image = image(size_bytes)?;
                make_file_system(program, options, package, &image)?;
                // From here on the device keeps the image.
                let (device, device_path) = loop_device(&image)?;
                (attach::new(fs.as_str(), &[("source", Some(&device_path))])?, Some((device, device_path)))
            }
        };
        let path = mount_point()?;
        let attached = attach::place(&mount, &path).map(|()| Self { fs, path: path.clone(), device });
        if attached.is_err() {
            // The directory is in a tmpfs of our own; the error to report is the other one.
            let _ = rustix::fs::rmdir(&path);
        }
        attached
    }

    /// Where it is mounted, as the thread that made it and the threads that this one starts see it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub fn fs(&self) -> FsType {
        self.fs
    }

    /// The kernel's statistics of the disk that it lies on, as a file of sysfs; none for a tmpfs.
    pub fn statistics(&self) -> Option<PathBuf> {
        let (_, device) = self.device.as_ref()?;
        Some(Path::new("/sys/class/block").join(Path::new(device).file_name()?).join("stat"))
    }

    /// Unmounts it and mounts it again, so that nothing of it is in the caches of file systems. Its bytes stay in
    /// memory.
    ///
    /// # Errors
    /// `FailedPrecondition` if something in it is open or mounted; `Unsupported` for a tmpfs, which would be empty
    /// then.
    pub fn chill(&self) -> Result<()> {
        let Some((_, device)) = &self.device else {
            return Err(Error::unsupported("a tmpfs is nothing but a cache: it cannot be cold"));
        };
        super::unmount(&self.path)?;
        let mount = attach::new(self.fs.as_str(), &[("source", Some(device))])?;
        attach::place(&mount, &self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Lazily: who still has a file open keeps the file system until it is closed. A failure is repaired by the end
        // of the namespace.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
        let _ = rustix::fs::rmdir(&self.path);
    }
}

/// Gives the calling thread a mount namespace of its own, in which nothing that is mounted propagates to any other, and
/// a place for scratch file systems. Threads that it starts afterwards share it. Where it has one already, nothing
/// happens.
///
/// Mount tables must then be read for the thread (`/proc/thread-self/mountinfo`, `listmount(2)`): `/proc/self` is that
/// of the first thread.
///
/// # Errors
/// `PermissionDenied` without root and outside a user namespace; `Unsupported` if none of the directories that the
/// scratch file systems could lie in is empty.
pub fn private_namespace() -> Result<()> {
    if namespace::is_own()? {
        return Ok(());
    }
    let base = base()?;
    let places = attach::new("tmpfs", &[("source", Some("strata-scratch")), ("mode", Some("0755"))])?;
    namespace::make_own()?;
    attach::place(&places, base)
}

/// The directory of which the private namespaces of this process have their own version.
fn base() -> Result<&'static Path> {
    static BASE: OnceLock<Option<&'static str>> = OnceLock::new();
    let is_empty = |path: &&str| std::fs::read_dir(path).is_ok_and(|mut names| names.next().is_none());
    BASE.get_or_init(|| BASES.into_iter().find(is_empty)).map(Path::new).ok_or_else(|| {
        Error::unsupported(format!("no place for a scratch file system: none of {} is empty", BASES.join(", ")))
    })
}

/// A fresh directory in the private namespace.
fn mount_point() -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let base = base()?;
    // Otherwise the directory would be made on the machine's own file system.
    if rustix::fs::statfs(base).at("stat", base)?.f_type != libc::TMPFS_MAGIC {
        return Err(Error::precondition(format!("{}: this thread's namespace has no scratch place", base.display())));
    }
    let path = base.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)).at("make directory", &path)?;
    Ok(path)
}

fn tmpfs(size_bytes: u64) -> Result<OwnedFd> {
    let size = size_bytes.to_string();
    attach::new("tmpfs", &[("source", Some("strata-scratch")), ("size", Some(&size)), ("mode", Some("0755"))])
}

/// An empty sparse file in memory, without a name.
fn image(size_bytes: u64) -> Result<OwnedFd> {
    let image = rustix::fs::memfd_create("strata-scratch", MemfdFlags::CLOEXEC).at("make", "a file in memory")?;
    rustix::fs::ftruncate(&image, size_bytes).at("resize", "a file in memory")?;
    Ok(image)
}

fn make_file_system(program: &str, options: &[&str], package: &str, image: &OwnedFd) -> Result<()> {
    let target = format!("/proc/{}/fd/{}", std::process::id(), image.as_raw_fd());
    for dir in SYSTEM_DIRS {
        let output = match Command::new(format!("{dir}{program}")).args(options).arg(&target).output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            output => output.at("run", program)?,
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        return Err(Error::invalid(format!("{program} failed, {}: {said}", output.status)));
    }
    Err(Error::unsupported(format!("{program} is not installed: install the package {package}")))
}

/// A loop device that shows `image`, and its path. It lets go of the image when neither the descriptor nor a mount
/// uses it any more.
fn loop_device(image: &OwnedFd) -> Result<(OwnedFd, String)> {
    let control_path = "/dev/loop-control";
    let control = match rustix::fs::open(control_path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Err(Error::unsupported("no loop devices: /dev/loop-control is missing")),
        control => control.at("open", control_path)?,
    };
    for _ in 0..LOOP_ATTEMPTS_MAX {
        let number = sys::mount::loop_free_number(control.as_fd()).at("find a free loop device by", control_path)?;
        let path = format!("/dev/loop{number}");
        let device = match rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::BUSY) => continue,
            device => device.at("open", &path)?,
        };
        match sys::mount::loop_configure(device.as_fd(), image.as_fd()) {
            Err(Errno::BUSY) => {}
            answer => return answer.at("set up", &path).map(|()| (device, path)),
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "other processes took every loop device that was free"))
}

#[cfg(test)]
mod tests;
