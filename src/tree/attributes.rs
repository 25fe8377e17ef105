//! Attributes of one name in an open directory: owner, mode, times, extended attributes.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::dir::{Dir, c_name, no_follow};
use super::{FileType, MODE_MASK, Meta, Node, Stat, Timestamp, Xattrs, xattr_is_portable};
use crate::error::{Context, Error, Result};
use crate::sys;

/// Part of the message about an owner that the caller's user namespace does not map.
pub(crate) const NOT_MAPPED: &str = "is not mapped in this user namespace";

impl Dir {
    /// Returns the portable extended attributes of `name`, or of the directory itself if the name is empty. The result
    /// is empty on a file system without attributes.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub fn xattrs(&self, name: impl AsRef<OsStr>) -> Result<Xattrs> {
        let name = name.as_ref();
        let mut all = Xattrs::new();
        for attribute in self.xattr_names(name)? {
            if !xattr_is_portable(attribute.to_bytes()) {
                continue;
            }
            if let Some(value) = self.xattr(name, &attribute)? {
                all.insert(attribute.into_bytes(), value);
            }
        }
        Ok(all)
    }

    /// Returns the names of all extended attributes of `name`, including those that are not portable.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub fn xattr_names(&self, name: impl AsRef<OsStr>) -> Result<Vec<CString>> {
        let name = name.as_ref();
        let listed = c_name(name).and_then(|name| sys::xattr::list(self.as_fd(), &name));
        let listed = match listed {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            listed => listed.at("list extended attributes of", self.place(name))?,
        };
        Ok(listed
            .split_inclusive(|byte| *byte == 0)
            .filter_map(|raw| CStr::from_bytes_with_nul(raw).ok())
            .map(CStr::to_owned)
            .collect())
    }

    /// Returns the value of one extended attribute of `name`, if it exists.
    ///
    /// # Errors
    /// Errors of the system call except `ENODATA`.
    pub fn xattr(&self, name: impl AsRef<OsStr>, attribute: &CStr) -> Result<Option<Vec<u8>>> {
        let name = name.as_ref();
        match c_name(name).and_then(|name| sys::xattr::get(self.as_fd(), &name, attribute)) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA) => Ok(None),
            Err(errno) => Err(errno).at("get an extended attribute of", self.place(name)),
        }
    }

    /// Returns the node and attributes of `name` (of the directory itself if the name is empty), given its `stat`.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub fn meta(&self, name: impl AsRef<OsStr>, stat: &Stat) -> Result<Meta> {
        let name = name.as_ref();
        let node = match stat.file_type {
            FileType::File => Node::File { size: stat.size },
            FileType::Dir => Node::Dir,
            FileType::Symlink => Node::Symlink { target: self.read_link(name)? },
            FileType::Char => Node::Char(stat.device),
            FileType::Block => Node::Block(stat.device),
            FileType::Fifo => Node::Fifo,
            FileType::Socket => Node::Socket,
        };
        let xattrs = self.xattrs(name)?;
        Ok(Meta { node, mode: stat.mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, xattrs })
    }

    /// Sets owner, mode, extended attributes and mtime of `name` (of the directory itself if the name is empty). The
    /// order is owner, attributes, mode, times, because then no step undoes another. Portable attributes that `meta`
    /// does not have are removed. The atime becomes the mtime.
    ///
    /// # Errors
    /// `PermissionDenied`, `Unsupported`, `ResourceExhausted` (no space for an attribute).
    pub fn set_meta(&self, name: impl AsRef<OsStr>, meta: &Meta) -> Result<()> {
        let name = name.as_ref();
        self.set_owner(name, meta.uid, meta.gid)?;
        self.set_xattrs(name, &meta.xattrs)?;
        if meta.node.file_type() != FileType::Symlink {
            self.set_mode(name, meta.mode)?;
        }
        self.set_mtime(name, meta.mtime)
    }

    /// Sets the owner of `name`.
    ///
    /// # Errors
    /// `InvalidArgument` for an ID outside the caller's user namespace, with a message that names the ID;
    /// `PermissionDenied`.
    pub fn set_owner(&self, name: impl AsRef<OsStr>, uid: u32, gid: u32) -> Result<()> {
        let name = name.as_ref();
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Error::invalid(format!("{}: {uid}:{gid} is no owner", self.shown_at(name).display())));
        }
        let owner = rustix::fs::Uid::from_raw(uid);
        let group = rustix::fs::Gid::from_raw(gid);
        match rustix::fs::chownat(self.as_fd(), name, Some(owner), Some(group), no_follow(name)) {
            Err(Errno::INVAL) => Err(Error::invalid(format!(
                "{}: the owner {uid}:{gid} {NOT_MAPPED}: map more ids (unshare --map-auto)",
                self.shown_at(name).display()
            ))
            .with_source(Errno::INVAL)),
            answer => answer.at("chown", self.place(name)),
        }
    }

    /// Makes the portable extended attributes of `name` exactly `wanted`.
    ///
    /// # Errors
    /// Errors of the system calls; the message names the attribute.
    pub fn set_xattrs(&self, name: impl AsRef<OsStr>, wanted: &Xattrs) -> Result<()> {
        let name = name.as_ref();
        for attribute in self.xattr_names(name)? {
            if xattr_is_portable(attribute.to_bytes()) && !wanted.contains_key(attribute.to_bytes()) {
                self.remove_xattr(name, &attribute)?;
            }
        }
        wanted.iter().try_for_each(|(attribute, value)| self.set_xattr(name, attribute, value))
    }

    /// Sets one extended attribute of `name`.
    ///
    /// # Errors
    /// Errors of the system call; the message names the attribute.
    pub fn set_xattr(&self, name: impl AsRef<OsStr>, attribute: &[u8], value: &[u8]) -> Result<()> {
        let name = name.as_ref();
        c_name(name)
            .and_then(|name| sys::xattr::set(self.as_fd(), &name, &c_name(OsStr::from_bytes(attribute))?, value))
            .at(&format!("set the attribute {} of", String::from_utf8_lossy(attribute)), self.place(name))
    }

    fn remove_xattr(&self, name: &OsStr, attribute: &CStr) -> Result<()> {
        match c_name(name).and_then(|name| sys::xattr::remove(self.as_fd(), &name, attribute)) {
            Err(Errno::NODATA) => Ok(()),
            answer => answer.at(&format!("remove the attribute {} of", attribute.to_string_lossy()), self.place(name)),
        }
    }

    /// Sets the mode of `name`, which must not be a symbolic link.
    ///
    /// # Errors
    /// `Unsupported` for a link; `PermissionDenied`.
    pub fn set_mode(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<()> {
        let name = name.as_ref();
        self.try_set_mode(name, mode & MODE_MASK).at("chmod", self.place(name))
    }

    fn try_set_mode(&self, name: &OsStr, mode: u32) -> std::result::Result<(), Errno> {
        if name.is_empty() {
            return rustix::fs::fchmod(self.as_fd(), Mode::from_raw_mode(mode));
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.as_fd(), name, flags, Mode::empty())?;
        match sys::chmod_fd(fd.as_fd(), mode) {
            Err(Errno::NOSYS) => chmod_through_proc(&fd, mode),
            answer => answer,
        }
    }

    /// Sets the mtime and the atime of `name`.
    ///
    /// # Errors
    /// Errors of `utimensat`.
    pub fn set_mtime(&self, name: impl AsRef<OsStr>, mtime: Timestamp) -> Result<()> {
        let name = name.as_ref();
        let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        let done = if name.is_empty() {
            rustix::fs::futimens(self.as_fd(), &times)
        } else {
            rustix::fs::utimensat(self.as_fd(), name, &times, AtFlags::SYMLINK_NOFOLLOW)
        };
        done.at("set the times of", self.place(name))
    }
}

/// Sets the mode on kernels before 6.6: the magic link of an `O_PATH` descriptor leads to exactly that inode, unless
/// the inode is itself a link.
fn chmod_through_proc(fd: &OwnedFd, mode: u32) -> std::result::Result<(), Errno> {
    let statx = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    if FileType::of_mode(statx.stx_mode.into()) == Some(FileType::Symlink) {
        return Err(Errno::OPNOTSUPP);
    }
    rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(mode))
}
