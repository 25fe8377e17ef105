//! Owner, mode, extended attributes and times of a copy.
//!
//! The attributes of a new inode also depend on the umask, the group of a set-group-id directory and inherited ACLs.
//! They are not predicted but read: the one `statx` that the record of a copy needs anyway shows whether all attributes
//! are as wanted.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};

use rustix::fs::{AtFlags, Mode, StatxFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::tree::dir::stat_of;
use crate::tree::{Dir, FileType, Stat, Timestamp};

/// Buffer size that suffices for the attributes of nearly every file; the kernel allocates as much as it is offered.
const SMALL_BYTES: usize = 256;

/// Buffer size that always suffices: `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`.
const LARGE_BYTES: usize = 64 * 1024;

/// Owner and umask of this process: the attributes of a new inode, unless its directory decides otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maker {
    uid: u32,
    gid: u32,
    umask: u32,
}

impl Maker {
    pub(super) fn caller() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: umask().unwrap_or_default(),
        }
    }
}

/// Returns the umask of the process. The system call `umask` cannot report it without changing it for all threads.
fn umask() -> Option<u32> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

/// An inode, identified by its directory and name (empty for the directory itself); an open regular file is faster to
/// use.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyInode<'a> {
    pub dir: &'a Dir,
    pub name: &'a OsStr,
    pub file: Option<&'a File>,
}

impl CopyInode<'_> {
    /// Gives the new inode `self`, created with `asked_mode`, all attributes of `source`, and returns its resulting
    /// `stat`.
    pub(super) fn take_attributes(
        self,
        source: CopyInode<'_>,
        wanted: &Stat,
        asked_mode: u32,
        maker: Maker,
    ) -> Result<Stat> {
        let owned = (wanted.uid, wanted.gid) == (maker.uid, maker.gid);
        let made = self.set_attributes(source, wanted, !owned, wanted.mode != asked_mode & !maker.umask)?;
        let as_wanted = |made: &Stat| {
            let mode = made.mode == wanted.mode || wanted.file_type == FileType::Symlink;
            mode && (made.uid, made.gid) == (wanted.uid, wanted.gid)
        };
        if as_wanted(&made) { Ok(made) } else { self.set_attributes(source, wanted, true, true) }
    }

    /// Sets attributes in the order in which none undoes another: setting the owner clears set-id bits and
    /// capabilities, and an ACL changes the mode.
    fn set_attributes(self, source: CopyInode<'_>, wanted: &Stat, owner: bool, mode: bool) -> Result<Stat> {
        if owner {
            self.set_owner(wanted)?;
        }
        for attribute in source.xattr_names()? {
            self.take_xattr(source, &attribute)?;
        }
        if mode && wanted.file_type != FileType::Symlink {
            self.set_mode(wanted.mode)?;
        }
        self.set_time(wanted.mtime)?;
        self.stat()
    }

    fn set_owner(self, wanted: &Stat) -> Result<()> {
        self.dir.set_owner(self.name, wanted.uid, wanted.gid)
    }

    fn set_mode(self, mode: u32) -> Result<()> {
        match self.file {
            Some(file) => rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).at("chmod", self.dir.place(self.name)),
            None => self.dir.set_mode(self.name, mode),
        }
    }

    fn xattr_names(self) -> Result<Vec<CString>> {
        let Some(file) = self.file else { return self.dir.xattr_names(self.name) };
        let listed = match grow(|buffer| rustix::fs::flistxattr(file, buffer)) {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            listed => listed.at("list extended attributes of", self.dir.place(self.name))?,
        };
        let names = listed.split_inclusive(|byte| *byte == 0).filter_map(|raw| CStr::from_bytes_with_nul(raw).ok());
        Ok(names.map(CStr::to_owned).collect())
    }

    /// Copies one attribute, portable or not. A security label of the host's policy may be refused: the target has its
    /// own.
    fn take_xattr(self, source: CopyInode<'_>, attribute: &CStr) -> Result<()> {
        let Some(value) = source.dir.xattr(source.name, attribute)? else { return Ok(()) };
        match self.dir.set_xattr(self.name, attribute.to_bytes(), &value) {
            Err(error)
                if attribute == c"security.selinux"
                    && matches!(error.errno(), Some(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS)) =>
            {
                Ok(())
            }
            answer => answer,
        }
    }

    /// Sets only the mtime: with an atime older than the mtime, the first read would have to write the atime.
    fn set_time(self, mtime: Timestamp) -> Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
        };
        let done = match self.file {
            Some(file) => rustix::fs::futimens(file, &times),
            None if self.name.is_empty() => rustix::fs::futimens(self.dir, &times),
            None => rustix::fs::utimensat(self.dir, self.name, &times, AtFlags::SYMLINK_NOFOLLOW),
        };
        done.at("set the times of", self.dir.place(self.name))
    }

    pub(super) fn stat(self) -> Result<Stat> {
        let Some(file) = self.file else { return self.dir.stat(self.name) };
        rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
            .and_then(|statx| stat_of(&statx))
            .at("stat", self.dir.place(self.name))
    }
}

fn grow(mut list: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; SMALL_BYTES];
    match list(&mut small) {
        Ok(length) => Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; LARGE_BYTES];
            let length = list(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(errno) => Err(errno),
    }
}
