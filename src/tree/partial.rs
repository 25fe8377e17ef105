//! Files and directories outside the store, which appear under their names when they are complete and durable.
//!
//! The directory of a target may be one where other users write. So it is opened once, and everything happens by its
//! descriptor: the file or directory in the making has a random name, is made exclusively and through no link, and gets
//! its name by one rename. No device, pipe or link of another user is ever written to.
//!
//! # Crashes
//! A partial file or directory is locked while its process lives. One that can be locked is left over from a process
//! that was killed, and the next [`Partial`] in the same directory removes it. A leftover directory stays where another
//! user can rename entries: any directory of the caller could have been given the name of a leftover there.
//!
//! # References
//! `openat(2)`, `renameat(2)`, `fsync(2)`, `flock(2)`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType as RawType, FlockOperation, Mode, OFlags, flock, fstat, fsync};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::tree::{Dir, FileType, Stat, walk};

/// Beginning and end of the name of a partial file or directory, around a random number.
const PREFIX: &str = ".strata-";
const SUFFIX: &str = ".partial";

/// Number of attempts to make a partial: another process may remove it as a leftover before it is locked.
const MAKE_TRIES_MAX: u32 = 16;

/// Paths of the process's own descriptors. They are written to whatever they are, because the caller opened them.
const DESCRIPTORS: [&str; 4] = ["/dev/fd", "/proc/self/fd", "/dev/stdout", "/dev/stderr"];

/// Bit of a directory's mode: only the owner of an entry or of the directory may rename or remove the entry.
const STICKY: u32 = 0o1000;

/// The mode of a file that can hold private data.
pub const PRIVATE: u32 = 0o600;

/// A file or a directory in the making, locked. Dropped before [`Partial::keep`], it is removed.
#[derive(Debug)]
pub struct Partial {
    target: PathBuf,
    /// `None` once the target has its name, and where something is written to that is no regular file.
    made: Option<Unfinished>,
}

/// A file or directory that is not complete yet, in the directory of its target.
#[derive(Debug)]
struct Unfinished {
    parent: Dir,
    /// Name until [`Partial::keep`].
    name: OsString,
    /// Name after [`Partial::keep`].
    target: OsString,
    /// Descriptor that holds the lock, and is synced.
    content: Opened,
}

#[derive(Debug)]
enum Opened {
    File(File),
    Dir(Dir),
}

impl Partial {
    /// A file at `target` of the mode `mode`, in place of a regular file or a link that is there already.
    ///
    /// A path below `/dev/fd` is written to as it is. So is a pipe, a character device or a link to one, if it lies in
    /// a directory where no other user can write, or if it is a pipe of the caller.
    ///
    /// # Errors
    /// `FailedPrecondition` for another pipe or device; what the file system reports.
    pub fn file(target: &Path, mode: u32) -> Result<(Self, File)> {
        if DESCRIPTORS.iter().any(|descriptor| target.starts_with(descriptor)) {
            let file = File::options().write(true).open(target).at("open", target)?;
            return Ok((Self { target: target.to_owned(), made: None }, file));
        }
        let (parent, name) = place(target)?;
        if let Some(file) = special(&parent, &name, target)? {
            return Ok((Self { target: target.to_owned(), made: None }, file));
        }
        remove_leftovers(&parent);
        let (made, file) = Unfinished::file(parent, name)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).at("set the mode of", target)?;
        Ok((Self { target: target.to_owned(), made: Some(made) }, file))
    }

    /// A directory at `target`, where nothing or an empty directory is now, for the caller alone.
    ///
    /// # Errors
    /// `AlreadyExists` if something is in it; what the file system reports.
    pub fn dir(target: &Path) -> Result<(Self, Dir)> {
        let (parent, name) = place(target)?;
        if parent.open_dir(&name).and_then(|dir| dir.names()).is_ok_and(|names| !names.is_empty()) {
            let shown = target.display();
            return Err(Error::already_exists(format!("{shown} is not empty: choose a new or an empty directory")));
        }
        remove_leftovers(&parent);
        let (made, dir) = Unfinished::dir(parent, name)?;
        Ok((Self { target: target.to_owned(), made: Some(made) }, dir))
    }

    /// The path of the target, for messages.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives the file or directory the name of its target. Content and name are durable when the call returns. The
    /// caller syncs the content of a directory before.
    ///
    /// # Errors
    /// `FailedPrecondition` if another user exchanged the partial; errors of the file system, also for content that was
    /// written before. After an error the target is as it was, and the partial is removed, with two exceptions. If the
    /// sync of the directory around fails, the target is complete, but may be lost in a power cut. A user who may write
    /// to the directory can exchange the partial at the moment of the rename: then the target is that user's file.
    pub fn keep(mut self) -> Result<()> {
        let Some(made) = &self.made else { return Ok(()) };
        let Unfinished { parent, name, target, .. } = made;
        made.sync().at("sync", &self.target)?;
        made.check(name, &self.target)?;
        rustix::fs::renameat(parent, name, parent, target).at("create", &self.target)?;
        made.check(target, &self.target)?;
        let parent = parent.try_clone()?;
        self.made = None;
        fsync(&parent).at("sync", parent.shown())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let Some(made) = &self.made else { return };
        // The next partial in the directory removes what cannot be removed now.
        let _ = made.content.remove(&made.parent, &made.name);
    }
}

impl Opened {
    /// Removes the partial, called `name` in `parent`. A directory is emptied by its descriptor, because another user
    /// may have given the name to another directory. Only an empty directory is removed by name.
    fn remove(&self, parent: &Dir, name: &OsStr) -> Result<()> {
        let Self::Dir(dir) = self else { return parent.unlink(name) };
        for entry in dir.names()? {
            walk::remove_all(dir, &entry.name)?;
        }
        parent.remove_dir(name)
    }
}

impl Unfinished {
    fn file(parent: Dir, target: OsString) -> Result<(Self, File)> {
        for _ in 0..MAKE_TRIES_MAX {
            let name = random_name();
            let file = parent.create_file(&name)?;
            let copy = file.try_clone().at("duplicate the descriptor of", parent.shown_at(&name))?;
            let made = Self { parent: parent.try_clone()?, name, target: target.clone(), content: Opened::File(file) };
            if made.lock()? {
                return Ok((made, copy));
            }
        }
        Err(taken(&parent))
    }

    fn dir(parent: Dir, target: OsString) -> Result<(Self, Dir)> {
        for _ in 0..MAKE_TRIES_MAX {
            let name = random_name();
            parent.make_dir(&name)?;
            let dir = parent.open_dir(&name)?;
            if !is_unshared(&dir.stat("")?) || !dir.names()?.is_empty() {
                return Err(exchanged(&parent.shown_at(&target)));
            }
            let copy = dir.try_clone()?;
            let made = Self { parent: parent.try_clone()?, name, target: target.clone(), content: Opened::Dir(dir) };
            if made.lock()? {
                return Ok((made, copy));
            }
        }
        Err(taken(&parent))
    }

    /// Locks the partial; returns false if another process removed the partial before that.
    fn lock(&self) -> Result<bool> {
        let shown = self.parent.shown_at(&self.name);
        match &self.content {
            Opened::File(file) => flock(file, FlockOperation::LockExclusive).at("lock", &shown)?,
            Opened::Dir(dir) => flock(dir, FlockOperation::LockExclusive).at("lock", &shown)?,
        }
        self.is_at(&self.name)
    }

    fn sync(&self) -> Result<(), Errno> {
        match &self.content {
            Opened::File(file) => fsync(file),
            Opened::Dir(dir) => fsync(dir),
        }
    }

    /// Returns true if `name` is still the partial.
    fn is_at(&self, name: &OsStr) -> Result<bool> {
        let shown = self.parent.shown_at(name);
        let own = match &self.content {
            Opened::File(file) => fstat(file),
            Opened::Dir(dir) => fstat(dir),
        };
        let own = own.at("stat", &shown)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let there = match rustix::fs::openat(&self.parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(false),
            there => fstat(there.at("open", &shown)?).at("stat", &shown)?,
        };
        Ok((own.st_dev, own.st_ino) == (there.st_dev, there.st_ino))
    }

    fn check(&self, name: &OsStr, shown: &Path) -> Result<()> {
        if self.is_at(name)? {
            return Ok(());
        }
        Err(exchanged(shown))
    }
}

fn exchanged(shown: &Path) -> Error {
    Error::precondition(format!(
        "another process exchanged the file in the making of {}: choose a directory where no other user writes",
        shown.display()
    ))
}

/// The directory of `target`, opened, and the name in it.
fn place(target: &Path) -> Result<(Dir, OsString)> {
    let Some(name) = target.file_name() else {
        return Err(Error::invalid(format!("{} does not end in a name", target.display())));
    };
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((Dir::open(parent)?, name.to_owned()))
}

fn random_name() -> OsString {
    // Seeded by the kernel's random numbers; O_EXCL guards against a name that was guessed.
    let number = RandomState::new().build_hasher().finish();
    OsString::from(format!("{PREFIX}{number:016x}{SUFFIX}"))
}

fn taken(parent: &Dir) -> Error {
    Error::precondition(format!("files in the making are removed from {} again and again", parent.shown().display()))
}

/// Opens the pipe or device at `name` if it may be written to as it is; returns `None` for a file or link to replace.
fn special(parent: &Dir, name: &OsStr, shown: &Path) -> Result<Option<File>> {
    let Some(there) = parent.stat_if_any(name)? else { return Ok(None) };
    let is_trusted = is_private(&parent.stat("")?);
    let is_link = there.file_type == FileType::Symlink;
    if there.file_type == FileType::File || (is_link && !is_trusted) {
        // The rename replaces a file, and a link itself.
        return Ok(None);
    }
    let own_pipe = there.file_type == FileType::Fifo && is_own(&there);
    if !is_trusted && !own_pipe {
        return Err(refused(shown, "it is no regular file, and other users can write to its directory"));
    }
    let follow = if is_link { OFlags::empty() } else { OFlags::NOFOLLOW };
    open_special(parent, name, shown, OFlags::PATH | follow)
}

fn open_special(parent: &Dir, name: &OsStr, shown: &Path, flags: OFlags) -> Result<Option<File>> {
    let found = match rustix::fs::openat(parent, name, flags | OFlags::CLOEXEC, Mode::empty()) {
        // A link that leads nowhere is replaced.
        Err(Errno::NOENT) => return Ok(None),
        found => found.at("open", shown)?,
    };
    match RawType::from_raw_mode(fstat(&found).at("stat", shown)?.st_mode) {
        RawType::RegularFile => Ok(None),
        RawType::Fifo | RawType::CharacterDevice => {
            // Opens the file that was judged, not one that has taken its name since.
            use std::os::fd::AsRawFd as _;
            let path = format!("/proc/self/fd/{}", found.as_raw_fd());
            File::options().write(true).open(path).at("open", shown).map(Some)
        }
        RawType::Directory => Err(refused(shown, "it is a directory")),
        _ => Err(refused(shown, "it is a block device or a socket")),
    }
}

fn refused(shown: &Path, why: &str) -> Error {
    Error::precondition(format!("{} is not written to: {why}", shown.display()))
}

fn is_own(stat: &Stat) -> bool {
    stat.uid == rustix::process::geteuid().as_raw() && stat.nlink == 1
}

/// Returns true if no user but the caller and root can write to a directory.
fn is_private(stat: &Stat) -> bool {
    let owners = [0, rustix::process::geteuid().as_raw()];
    owners.contains(&stat.uid) && stat.mode & 0o022 == 0
}

/// Removes the partials of killed processes from `parent`. A failure only costs space until the next call.
fn remove_leftovers(parent: &Dir) {
    let is_partial = |name: &OsStr| {
        let name = name.as_bytes();
        name.starts_with(PREFIX.as_bytes()) && name.ends_with(SUFFIX.as_bytes())
    };
    let Ok(names) = parent.names() else { return };
    for entry in names.into_iter().filter(|entry| is_partial(&entry.name)) {
        if let Err(error) = remove_leftover(parent, &entry.name) {
            tracing::debug!(why = error.chain(), "a leftover stays");
        }
    }
}

/// Removes the partial `name` if it belongs to the caller and no process has it locked.
fn remove_leftover(parent: &Dir, name: &OsStr) -> Result<()> {
    let Some(there) = parent.stat_if_any(name)? else { return Ok(()) };
    let content = match there.file_type {
        FileType::File => open_leftover(parent, name).map(Opened::File)?,
        FileType::Dir if keeps_names(&parent.stat("")?) => Opened::Dir(parent.open_dir_unmounted(name)?),
        _ => return Ok(()),
    };
    let is_leftover = match &content {
        Opened::File(file) => is_callers(file, name)? && try_lock(file, name)?,
        Opened::Dir(dir) => is_unshared(&dir.stat("")?) && try_lock(dir, name)?,
    };
    if is_leftover { content.remove(parent, name) } else { Ok(()) }
}

fn open_leftover(parent: &Dir, name: &OsStr) -> Result<File> {
    // Without waiting, should a pipe have taken the name since.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, name, flags, Mode::empty()).at("open", parent.shown_at(name))?;
    Ok(File::from(opened))
}

fn is_callers(file: &File, name: &OsStr) -> Result<bool> {
    let uid = fstat(file).at("stat", Path::new(name))?.st_uid;
    Ok(uid == rustix::process::geteuid().as_raw())
}

/// Returns false if another process has the lock.
fn try_lock(file: impl AsFd, name: &OsStr) -> Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(false),
        locked => locked.at("lock", Path::new(name)).map(|()| true),
    }
}

/// Returns true if only the caller and root can rename the caller's entries of a directory.
fn keeps_names(stat: &Stat) -> bool {
    let owners = [0, rustix::process::geteuid().as_raw()];
    owners.contains(&stat.uid) && (stat.mode & 0o022 == 0 || stat.mode & STICKY != 0)
}

/// Returns true if a directory belongs to the caller and no other user may enter it.
fn is_unshared(stat: &Stat) -> bool {
    stat.uid == rustix::process::geteuid().as_raw() && stat.mode & 0o077 == 0
}

#[cfg(test)]
mod tests;
