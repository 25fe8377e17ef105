//! New file systems for tests and comparisons, invisible to other processes and removed at the end.
//!
//! A [`Scratch`] is in memory: a tmpfs, or a file system that its `mkfs` created in an anonymous file (`memfd`) behind
//! a loop device. It is mounted in a mount namespace of the calling thread ([`private_namespace`]).
//!
//! # Cleanup
//! Drop unmounts the file system. After a kill the kernel cleans up: the namespace ends with its last thread, which
//! unmounts everything; the loop device is configured to detach with its last user; and the anonymous file has no name.
//!
//! # Mount point
//! A private namespace has a small tmpfs over the first *empty* directory of `BASES`, where it hides nothing. Every
//! scratch has a numbered directory in it. Other threads of the process and other processes still see the empty
//! directory.
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
use crate::fs_type::FsMagic;
use crate::sys;

/// Directories that every system has by the file system hierarchy standard, and that most systems leave empty.
const BASES: [&str; 4] = ["/mnt", "/media", "/srv", "/opt"];

/// Directories where Debian keeps `mkfs.*`, which are not in every user's search path.
const SYSTEM_DIRS: [&str; 3] = ["", "/usr/sbin/", "/sbin/"];

/// Number of attempts to get a loop device: another process may take the free one first.
const LOOP_ATTEMPTS_MAX: u32 = 100;

/// Type of a [`Scratch`] file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FsType {
    /// ext4 with the defaults of `mkfs.ext4`.
    Ext4,
    /// xfs with reflinks; needs at least 300 MiB.
    Xfs,
    /// btrfs on one device; needs at least 110 MiB.
    Btrfs,
    /// tmpfs; needs no program and no loop device.
    Tmpfs,
}

impl FsType {
    /// All types.
    pub const ALL: [Self; 4] = [Self::Ext4, Self::Xfs, Self::Btrfs, Self::Tmpfs];

    /// Returns the kernel's name of the type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
        }
    }

    /// Returns the program that makes such a file system, its options, and its Debian package; `None` if no program is
    /// needed.
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

/// A new, empty file system. Drop unmounts it and everything mounted below it; its memory is freed when the last open
/// file in it is closed.
#[derive(Debug)]
pub struct Scratch {
    fs: FsType,
    path: PathBuf,
    /// Descriptor and path of the loop device. The open descriptor keeps the device attached while nothing is mounted.
    device: Option<(OwnedFd, String)>,
}

impl Scratch {
    /// Creates and mounts an empty `fs` of `size_bytes`; only written blocks use memory. The calling thread gets a
    /// [`private_namespace`] first. Threads that it starts afterwards see the file system, others do not.
    ///
    /// # Errors
    /// `Unsupported` if the kernel has no such file system or the program that makes it is not installed (the message
    /// names the package); `PermissionDenied` without root (in a user namespace only [`FsType::Tmpfs`] works);
    /// `InvalidArgument` if `mkfs` refuses, usually because of the size.
    pub fn new(fs: FsType, size_bytes: u64) -> Result<Self> {
        private_namespace()?;
        let (mount, device) = match fs.maker() {
            None => (tmpfs(size_bytes)?, None),
            Some((program, options, package)) => {
                let image = image(size_bytes)?;
                make_file_system(program, options, package, &image)?;
                // From here on the loop device keeps the image.
                let (device, device_path) = loop_device(&image)?;
                (attach::new(fs.as_str(), &[("source", Some(&device_path))])?, Some((device, device_path)))
            }
        };
        let path = mount_point()?;
        let attached = attach::place(&mount, &path).map(|()| Self { fs, path: path.clone(), device });
        if attached.is_err() {
            // A failure to remove the directory is ignored: it lies in a tmpfs of our own, and the mount error is
            // reported.
            let _ = rustix::fs::rmdir(&path);
        }
        attached
    }

    /// Returns the mount point, as seen by the thread that created it and the threads which that thread started.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the type.
    pub fn fs(&self) -> FsType {
        self.fs
    }

    /// Returns the path of the loop device's statistics in sysfs; `None` for a tmpfs.
    pub fn statistics(&self) -> Option<PathBuf> {
        let (_, device) = self.device.as_ref()?;
        Some(Path::new("/sys/class/block").join(Path::new(device).file_name()?).join("stat"))
    }

    /// Unmounts the file system and mounts it again, so that the caches hold none of its data. The loop device's data
    /// stays in memory.
    ///
    /// # Errors
    /// `FailedPrecondition` if a file in it is open or something is mounted in it; `Unsupported` for a tmpfs, which
    /// would lose its data.
    pub fn drop_caches(&self) -> Result<()> {
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
        // A lazy unmount: a process with an open file keeps the file system until it closes the file. If the unmount
        // fails, the end of the namespace unmounts it.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
        let _ = rustix::fs::rmdir(&self.path);
    }
}

/// Gives the calling thread a mount namespace of its own, from which no mount propagates to another, with a directory
/// for scratch file systems. Threads that it starts afterwards share the namespace. Does nothing if the thread already
/// has one.
///
/// Mount tables must then be read for the thread (`/proc/thread-self/mountinfo`, `listmount(2)`), because `/proc/self`
/// shows the table of the process's first thread.
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

/// Returns the directory over which the private namespaces of this process mount their tmpfs.
fn base() -> Result<&'static Path> {
    static BASE: OnceLock<Option<&'static str>> = OnceLock::new();
    let is_empty = |path: &&str| std::fs::read_dir(path).is_ok_and(|mut names| names.next().is_none());
    BASE.get_or_init(|| BASES.into_iter().find(is_empty)).map(Path::new).ok_or_else(|| {
        Error::unsupported(format!("no place for a scratch file system: none of {} is empty", BASES.join(", ")))
    })
}

/// Creates a directory in the private namespace.
fn mount_point() -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let base = base()?;
    // Without this check the directory would be created on the machine's own file system.
    if FsMagic::of_path(base)? != FsMagic::TMPFS {
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

/// Creates an empty sparse file in memory, without a name.
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

/// Attaches `image` to a loop device, and returns its descriptor and path. The device detaches when neither the
/// descriptor nor a mount uses it any more.
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
