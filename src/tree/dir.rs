//! An open directory, and operations on one name in it.

use std::cell::OnceCell;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::names::Names;
use super::{Device, FileType, MODE_MASK, Stat, Timestamp};
use crate::error::{Context, Error, ErrorKind, Result};

/// Buffer size for `getdents64`: a directory of a thousand names takes one or two calls.
const READ_DIR_BYTES: usize = 64 * 1024;

/// Maximum length of a path in one system call: `PATH_MAX` without the final NUL.
const PATH_BYTES_MAX: usize = 4095;

/// Number of attempts of an `openat2` that renames or mounts elsewhere disturb; each takes microseconds.
const OPEN_TRIES_MAX: u32 = 1000;

/// An open directory. Operations take one name and never follow a link.
///
/// The path by which the directory was reached is kept for error messages only.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    shown: PathBuf,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Path for the error message of an operation, joined only if the operation fails.
#[derive(Debug)]
pub(crate) struct LazyPath<'a> {
    dir: &'a Path,
    name: &'a OsStr,
    joined: OnceCell<PathBuf>,
}

impl AsRef<Path> for LazyPath<'_> {
    fn as_ref(&self) -> &Path {
        self.joined.get_or_init(|| if self.name.is_empty() { self.dir.to_path_buf() } else { self.dir.join(self.name) })
    }
}

/// Converts a name for a system call.
pub(super) fn c_name(name: &OsStr) -> std::result::Result<CString, Errno> {
    CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)
}

impl Dir {
    /// Opens the directory at `path`. This is a path of the machine and not one inside a tree: links in it are
    /// followed.
    ///
    /// # Errors
    /// `NotFound`; `Io` with `ENOTDIR` if it is not a directory.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .at("open directory", path)?;
        Ok(Self::from_fd(fd, path))
    }

    /// Wraps a descriptor; `shown` is its path in error messages.
    pub fn from_fd(fd: OwnedFd, shown: impl Into<PathBuf>) -> Self {
        Self { fd, shown: shown.into() }
    }

    /// Returns a second descriptor of the same directory.
    ///
    /// # Errors
    /// `ResourceExhausted` if the process may open no more descriptors.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).at("duplicate descriptor of", &self.shown)?;
        Ok(Self { fd, shown: self.shown.clone() })
    }

    /// Returns the descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Returns the path by which the directory was reached, for messages.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// Returns the path of `name` in this directory, for messages.
    pub fn shown_at(&self, name: impl AsRef<OsStr>) -> PathBuf {
        if name.as_ref().is_empty() { self.shown.clone() } else { self.shown.join(name.as_ref()) }
    }

    /// Opens the directory `name`.
    ///
    /// # Errors
    /// `NotFound`; `Io` with `ENOTDIR` if it is not a directory, including a link to one.
    pub fn open_dir(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|errno| if errno == Errno::LOOP { Errno::NOTDIR } else { errno })
            .at("open directory", self.place(name))?;
        Ok(Self { fd, shown: self.shown.join(name) })
    }

    /// Opens the directory `name` unless something is mounted on it. Subvolumes are not mounts.
    ///
    /// # Errors
    /// As [`Self::open_dir`]; `FailedPrecondition` for a mount point.
    pub fn open_dir_unmounted(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let shown = self.shown.join(name);
        match rustix::fs::openat2(&self.fd, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
            Err(Errno::XDEV) => {
                Err(Error::precondition(format!("{} is a mount point: unmount it first", shown.display()))
                    .with_source(Errno::XDEV))
            }
            Err(Errno::LOOP) => Err(Errno::NOTDIR).at("open directory", shown),
            fd => fd.at("open directory", &shown).map(|fd| Self { fd, shown }),
        }
    }

    /// Opens the directory at `path` below this one; the path may be longer than `PATH_MAX`. No component may be a
    /// link.
    ///
    /// # Errors
    /// `NotFound`; `Io` with `ENOTDIR` or `ELOOP` if a component is not a directory.
    pub fn open_beneath(&self, path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let mut at: Option<OwnedFd> = None;
        let mut rest = path.as_os_str().as_bytes();
        while !rest.is_empty() {
            let (part, after) = split_path(rest);
            let from = at.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            let opened = rustix::fs::openat2(from, OsStr::from_bytes(part), flags, Mode::empty(), resolve);
            at = Some(opened.at("open directory", self.place(path.as_os_str()))?);
            rest = after;
        }
        match at {
            Some(fd) => Ok(Self { fd, shown: self.shown.join(path) }),
            None => self.try_clone(),
        }
    }

    /// Opens `path` below this directory with `openat2`; `resolve` decides whether links that stay below are followed.
    ///
    /// A path with `..`, also in a link, is tried again if something was moved or mounted on the machine meanwhile: the
    /// kernel then cannot tell whether the path left the directory.
    pub(crate) fn open_within(
        &self,
        path: &Path,
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> std::result::Result<OwnedFd, Errno> {
        let open = || rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        let mut opened = open();
        for _ in 1..OPEN_TRIES_MAX {
            if !matches!(opened, Err(Errno::AGAIN)) {
                break;
            }
            opened = open();
        }
        opened
    }

    /// Opens the parent directory, which must be `expected` (device and inode), so that a walk may close directories
    /// and return to them.
    ///
    /// # Errors
    /// `Unavailable` if the directory was moved since.
    pub(crate) fn open_parent(&self, expected: ((u32, u32), u64)) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, c"..", flags, Mode::empty()).at("open the parent of", &self.shown)?;
        let parent = Self { fd, shown: self.shown.parent().unwrap_or(&self.shown).to_path_buf() };
        let found = parent.stat("")?;
        if (found.dev, found.ino) == expected {
            Ok(parent)
        } else {
            let message = format!("{} was moved while its tree was walked", self.shown.display());
            Err(Error::new(ErrorKind::Unavailable, message))
        }
    }

    /// Opens the regular file `name` for reading, without blocking if a fifo or device is in its place.
    ///
    /// # Errors
    /// `NotFound`; `Io` with `ELOOP` for a link.
    pub fn open_file(&self, name: impl AsRef<OsStr>) -> Result<File> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(open_quietly(self.as_fd(), name, flags).at("open", self.place(name))?))
    }

    /// Returns all names, sorted by their bytes.
    ///
    /// # Errors
    /// Errors of `getdents64`.
    pub fn names(&self) -> Result<Names> {
        // A new descriptor, because reading a directory moves the file offset, which duplicated descriptors share.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open_quietly(self.as_fd(), OsStr::new("."), flags).at("open directory", &self.shown)?;
        let mut buffer = Vec::with_capacity(READ_DIR_BYTES);
        let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
        let mut names = Names::default();
        while let Some(entry) = entries.next() {
            let entry = entry.at("read directory", &self.shown)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let file_type = FileType::of_mode(entry.file_type().as_raw_mode());
            names.push(name, file_type);
        }
        names.sort();
        Ok(names)
    }

    /// Returns the `statx` of `name`, or of the directory itself if the name is empty.
    ///
    /// # Errors
    /// `NotFound`; other errors of `statx`.
    pub fn stat(&self, name: impl AsRef<OsStr>) -> Result<Stat> {
        let name = name.as_ref();
        self.try_stat(name).at("stat", self.place(name))
    }

    /// Like [`Self::stat`]; returns `None` if the name does not exist.
    ///
    /// # Errors
    /// Errors of `statx` except `ENOENT`.
    pub fn stat_if_any(&self, name: impl AsRef<OsStr>) -> Result<Option<Stat>> {
        let name = name.as_ref();
        match self.try_stat(name) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).at("stat", self.place(name)),
        }
    }

    /// Returns the path of `name` for [`Context::at`], joined only if something fails.
    pub(crate) fn place<'a>(&'a self, name: &'a OsStr) -> LazyPath<'a> {
        LazyPath { dir: &self.shown, name, joined: OnceCell::new() }
    }

    fn try_stat(&self, name: &OsStr) -> std::result::Result<Stat, Errno> {
        let statx = rustix::fs::statx(&self.fd, name, no_follow(name), StatxFlags::BASIC_STATS)?;
        stat_of(&statx)
    }

    /// Returns the target of the symbolic link `name`.
    ///
    /// # Errors
    /// `NotFound`; `Io` with `EINVAL` if it is not a link.
    pub fn read_link(&self, name: impl AsRef<OsStr>) -> Result<Vec<u8>> {
        let name = name.as_ref();
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new()).at("read link", self.place(name))?;
        Ok(target.into_bytes())
    }

    /// Creates the directory `name` with mode 0700 until its attributes are set.
    ///
    /// # Errors
    /// `AlreadyExists`; other errors of `mkdirat`.
    pub fn make_dir(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU).at("make directory", self.place(name))
    }

    /// Creates the empty file `name` with mode 0600 until its attributes are set, open for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists`; other errors of `openat`.
    pub fn create_file(&self, name: impl AsRef<OsStr>) -> Result<File> {
        let name = name.as_ref();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR).at("create", self.place(name))?;
        Ok(File::from(fd))
    }

    /// Creates the symbolic link `name`.
    ///
    /// # Errors
    /// `AlreadyExists`; other errors of `symlinkat`.
    pub fn make_symlink(&self, target: &[u8], name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        rustix::fs::symlinkat(OsStr::from_bytes(target), &self.fd, name).at("make link", self.place(name))
    }

    /// Creates the hard link `name` to the inode `source_name` in `source`; a symbolic link is linked, not followed.
    ///
    /// # Errors
    /// `AlreadyExists`; `ResourceExhausted` at the file system's maximum link count; other errors of `linkat`.
    pub fn make_link(&self, source: &Self, source_name: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        rustix::fs::linkat(&source.fd, source_name.as_ref(), &self.fd, name, AtFlags::empty())
            .at("make hard link", self.place(name))
    }

    /// Creates the device, fifo or socket `name` with mode 0600 until its attributes are set.
    ///
    /// # Errors
    /// `AlreadyExists`; `PermissionDenied` for a device in a user namespace; other errors of `mknodat`.
    pub fn make_node(&self, file_type: FileType, device: Device, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        let (raw_type, device) = match file_type {
            FileType::Char => (rustix::fs::FileType::CharacterDevice, device),
            FileType::Block => (rustix::fs::FileType::BlockDevice, device),
            FileType::Fifo => (rustix::fs::FileType::Fifo, Device::default()),
            FileType::Socket => (rustix::fs::FileType::Socket, Device::default()),
            FileType::File | FileType::Dir | FileType::Symlink => {
                return Err(Error::invalid(format!("a {file_type} is not made by mknod")));
            }
        };
        let number = rustix::fs::makedev(device.major, device.minor);
        rustix::fs::mknodat(&self.fd, name, raw_type, Mode::RUSR | Mode::WUSR, number).at("make node", self.place(name))
    }

    /// Removes `name`, which must not be a directory.
    ///
    /// # Errors
    /// `NotFound`; other errors of `unlinkat`.
    pub fn unlink(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).at("unlink", self.place(name))
    }

    /// Removes the empty directory `name`.
    ///
    /// # Errors
    /// `NotFound`; other errors of `unlinkat`.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).at("remove directory", self.place(name))
    }
}

/// Opens for reading without changing the atime, if the caller has permission for that.
fn open_quietly(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        opened => opened,
    }
}

/// Splits a relative path at a slash if it is too long for one system call.
fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PATH_BYTES_MAX {
        return (path, &[]);
    }
    match path[..=PATH_BYTES_MAX].iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (path, &[]),
    }
}

/// Flags by which an empty name means the directory itself, and no link is followed.
pub(super) fn no_follow(name: &OsStr) -> AtFlags {
    if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW }
}

/// Converts a `statx` result.
pub(crate) fn stat_of(statx: &rustix::fs::Statx) -> std::result::Result<Stat, Errno> {
    let mode = u32::from(statx.stx_mode);
    Ok(Stat {
        file_type: FileType::of_mode(mode).ok_or(Errno::INVAL)?,
        mode: mode & MODE_MASK,
        uid: statx.stx_uid,
        gid: statx.stx_gid,
        size: statx.stx_size,
        allocated: statx.stx_blocks * 512,
        mtime: Timestamp { seconds: statx.stx_mtime.tv_sec, nanos: statx.stx_mtime.tv_nsec },
        ctime: Timestamp { seconds: statx.stx_ctime.tv_sec, nanos: statx.stx_ctime.tv_nsec },
        device: Device { major: statx.stx_rdev_major, minor: statx.stx_rdev_minor },
        dev: (statx.stx_dev_major, statx.stx_dev_minor),
        ino: statx.stx_ino,
        nlink: statx.stx_nlink,
    })
}
