//! Files and directories outside the store, which appear under their names when they are complete and durable.
//!
//! The directory of a target may be one where other users write. So it is opened once, and everything happens by its
//! descriptor: the file or directory in the making has a random name, is made exclusively and through no link, and gets
//! its name by one rename. No device, pipe or link of another user is ever written to.
//!
//! # Crashes
//! A partial file or directory is locked while its process lives. One that can be locked is left over from a process
//! that was killed, and the next [`Partial`] in the same directory removes it.
//!
//! # References
//! `openat(2)`, `renameat(2)`, `fsync(2)`, `flock(2)`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType as RawType, FlockOperation, Mode, OFlags, flock, fstat, fsync};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::tree::{Dir, FileType, Stat, walk};

/// How the name of a partial file or directory begins and ends. In between stands a random number.
const PREFIX: &str = ".strata-";
const SUFFIX: &str = ".partial";

/// How often a partial is made anew that a cleaner took before it was locked.
const MAKE_TRIES_MAX: u32 = 16;

/// The process's own descriptors as paths: writing to them was asked for, whatever they are.
const DESCRIPTORS: [&str; 4] = ["/dev/fd", "/proc/self/fd", "/dev/stdout", "/dev/stderr"];

/// The mode of a file that can hold private data.
pub const PRIVATE: u32 = 0o600;

/// A file or a directory in the making, locked. Dropped before [`Partial::keep`], it is removed.
#[derive(Debug)]
pub struct Partial {
    target: PathBuf,
    /// `None` once the target has its name, and where something is written to that is no regular file.
    made: Option<Made>,
}

/// What is in the making, in the directory of its target.
#[derive(Debug)]
struct Made {
    parent: Dir,
    /// Until it is kept.
    name: OsString,
    /// Afterwards.
    target: OsString,
    /// The file or directory itself: what holds the lock, and what is synced.
    content: Content,
}

#[derive(Debug)]
enum Content {
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
        let (made, file) = Made::file(parent, name)?;
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
        let (made, dir) = Made::dir(parent, name)?;
        Ok((Self { target: target.to_owned(), made: Some(made) }, dir))
    }

    /// The path of the target, for messages.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives it its name. Content and name are durable when the call returns; of a directory, what is in it must be
    /// already.
    ///
    /// # Errors
    /// `FailedPrecondition` if another user exchanged it; what the file system reports, also for what was written
    /// before. Nothing is left then, unless only the sync of the directory around failed.
    pub fn keep(mut self) -> Result<()> {
        let Some(made) = &self.made else { return Ok(()) };
        let Made { parent, name, target, .. } = made;
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
        let _ = walk::remove_all(&made.parent, &made.name);
    }
}

impl Made {
    fn file(parent: Dir, target: OsString) -> Result<(Self, File)> {
        for _ in 0..MAKE_TRIES_MAX {
            let name = random_name();
            let file = parent.create_file(&name)?;
            let copy = file.try_clone().at("duplicate the descriptor of", parent.shown_at(&name))?;
            let made = Self { parent: parent.try_clone()?, name, target: target.clone(), content: Content::File(file) };
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
            let copy = dir.try_clone()?;
            let made = Self { parent: parent.try_clone()?, name, target: target.clone(), content: Content::Dir(dir) };
            if made.lock()? {
                return Ok((made, copy));
            }
        }
        Err(taken(&parent))
    }

    /// Locks it; `false` if a cleaner was faster.
    fn lock(&self) -> Result<bool> {
        let shown = self.parent.shown_at(&self.name);
        match &self.content {
            Content::File(file) => flock(file, FlockOperation::LockExclusive).at("lock", &shown)?,
            Content::Dir(dir) => flock(dir, FlockOperation::LockExclusive).at("lock", &shown)?,
        }
        self.is_at(&self.name)
    }

    fn sync(&self) -> Result<(), Errno> {
        match &self.content {
            Content::File(file) => fsync(file),
            Content::Dir(dir) => fsync(dir),
        }
    }

    /// Whether `name` is what was made.
    fn is_at(&self, name: &OsStr) -> Result<bool> {
        let shown = self.parent.shown_at(name);
        let own = match &self.content {
            Content::File(file) => fstat(file),
            Content::Dir(dir) => fstat(dir),
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
        Err(Error::precondition(format!(
            "another process exchanged the file in the making of {}: choose a directory where no other user writes",
            shown.display()
        )))
    }
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

/// Opens what is at `name` if it is no regular file and may be written to as it is.
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
            // What was judged is opened, and nothing that has taken its name since.
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

/// Whether no user but the caller and root can write to a directory.
fn is_private(stat: &Stat) -> bool {
    let owners = [0, rustix::process::geteuid().as_raw()];
    owners.contains(&stat.uid) && stat.mode & 0o022 == 0
}

/// Removes from `parent` what processes left that were killed. A failure costs space only, and is left to the next try.
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

/// Removes a partial of the caller's, unless its process lives.
fn remove_leftover(parent: &Dir, name: &OsStr) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let shown = parent.shown_at(name);
    let opened = rustix::fs::openat(parent, name, flags, Mode::empty()).at("open", &shown)?;
    if fstat(&opened).at("stat", &shown)?.st_uid != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(()),
        locked => locked.at("lock", &shown).and_then(|()| walk::remove_all(parent, name)),
    }
}

#[cfg(test)]
mod tests;
