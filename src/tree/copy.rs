//! Copying a tree with everything it has: the copy backend makes snapshots with it.
//!
//! Kept: content with its holes, type, mode, owner, mtime in nanoseconds (also of directories), hard links, device
//! numbers, sockets, every extended attribute that can be set. Not kept: atime, inode flags (`chattr`).
//!
//! The work is divided by directory: whoever takes a directory makes all that is directly in it, queues its
//! subdirectories, and sets its attributes last, when nothing will be made in it any more. Both sides of a directory
//! are opened anew from the two roots, so that the queue holds paths and no descriptors.
//!
//! Invariants: no link is followed on either side; the source is only read, and its atimes stay where the caller may
//! keep them; the first error stops all workers.

mod attributes;
mod data;

use std::collections::HashMap;
use std::collections::hash_map;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::{Mode, OFlags};

use self::attributes::{Maker, Place};
use self::data::Contents;
use super::{Dir, FileType, Name, Stat, Timestamp, Xattrs};
use crate::error::{Context, Error, ErrorKind, Result};

/// More workers than this only wait for each other: creating files takes the file system's own locks.
const WORKERS_MAX: usize = 4;

/// How much the workers' nice value is above the caller's.
const NICENESS: i32 = 10;

/// The permission bits that creating a file may be asked for; set-id bits and the like come when it has its owner.
const CREATE_MODE_MASK: u32 = 0o777;

/// What a directory is made with until its attributes are set.
const DIR_CREATE_MODE: u32 = 0o700;

/// What a device, fifo or socket is made with until its attributes are set.
const NODE_CREATE_MODE: u32 = 0o600;

/// How the bytes of files are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CloneMode {
    /// Shared where the file system can, else copied.
    #[default]
    Auto,
    /// Shared, or an error.
    Reflink,
    /// Copied, never shared.
    Bytes,
}

impl fmt::Display for CloneMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Reflink => "reflink",
            Self::Bytes => "bytes",
        })
    }
}

impl FromStr for CloneMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "reflink" => Ok(Self::Reflink),
            "bytes" => Ok(Self::Bytes),
            _ => Err(Error::invalid(format!("{text:?} is no clone mode: auto, reflink or bytes"))),
        }
    }
}

/// How to copy.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How the bytes of files are copied.
    pub clone: CloneMode,
    /// How many threads copy, while the caller's waits.
    pub workers: NonZeroUsize,
    /// Whether [`Copied::dirs`] is wanted.
    pub record: bool,
}

impl Options {
    /// As many workers as the machine has use for, no record.
    pub fn new(clone: CloneMode) -> Self {
        let available = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { clone, workers: available.min(NonZeroUsize::MIN.saturating_add(WORKERS_MAX - 1)), record: false }
    }
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Inodes made, the root's included.
    pub inodes: u64,
    /// Device nodes left out because a user namespace may not make them.
    pub skipped_devices: u64,
    /// Every directory made, in canonical order, if [`Options::record`] asked for them.
    pub dirs: Vec<CopiedDir>,
}

/// A directory of the copy as it was when the copy was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedDir {
    /// Its path below the root of the copy.
    pub path: PathBuf,
    /// Its inode.
    pub stamp: Stamp,
    /// What is in it, by the bytes of the names.
    pub entries: Vec<CopiedEntry>,
}

/// One name in a directory of the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedEntry {
    /// The name.
    pub name: OsString,
    /// The inode it names.
    pub stamp: Stamp,
}

/// An inode and when it changed last: if both are the same later, so are its content and attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// The inode's number.
    pub ino: u64,
    /// Its change time.
    pub ctime: Timestamp,
}

impl From<&Stat> for Stamp {
    fn from(stat: &Stat) -> Self {
        Self { ino: stat.ino, ctime: stat.ctime }
    }
}

/// Checks that files in `dir` can be copied with [`CloneMode::Reflink`]; leaves nothing behind.
///
/// # Errors
/// `Unsupported` that names the file system and the cure.
pub fn probe_reflink(dir: &Dir) -> Result<()> {
    data::probe(dir)
}

/// Copies what is in `source`, and its attributes, into the existing and empty directory `target`. The source must rest
/// meanwhile.
///
/// # Errors
/// The first error of any worker, with its path; then `target` holds a part. `Unsupported` with
/// [`CloneMode::Reflink`] where the file system cannot, or for an extended attribute that it cannot hold;
/// `ResourceExhausted` when disk, inodes or names of one inode are used up; `InvalidArgument` for an owner outside the
/// caller's user namespace.
pub fn copy(source: &Dir, target: &Dir, options: Options) -> Result<Copied> {
    // A default ACL that the target inherited would go to everything that is made in it.
    target.set_xattrs("", &Xattrs::new())?;
    let crew = Crew {
        source,
        target,
        options,
        maker: Maker::caller(),
        queue: Mutex::new(Queue { jobs: vec![PathBuf::new()], busy: 0, failure: None }),
        changed: Condvar::new(),
        stopped: AtomicBool::new(false),
        links: Mutex::new(HashMap::new()),
    };
    let copied = thread::scope(|scope| {
        let workers: Vec<_> = (0..options.workers.get())
            // Without another thread the work is done by fewer.
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, || crew.work_behind_others()).ok())
            .collect();
        let mut copied = if workers.is_empty() { crew.work() } else { Copied::default() };
        for worker in workers {
            match worker.join() {
                Ok(part) => copied.add(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        copied
    });
    match lock(&crew.queue).failure.take() {
        Some(error) => Err(error),
        None => crew.complete(copied),
    }
}

impl Copied {
    fn add(&mut self, part: Self) {
        self.inodes += part.inodes;
        self.skipped_devices += part.skipped_devices;
        self.dirs.extend(part.dirs);
    }
}

/// What the workers share.
struct Crew<'a> {
    source: &'a Dir,
    target: &'a Dir,
    options: Options,
    maker: Maker,
    queue: Mutex<Queue>,
    /// A job was queued, or there will be none any more.
    changed: Condvar,
    stopped: AtomicBool,
    /// Inodes of the source that have several names, and their first name in the target.
    links: Mutex<HashMap<Identity, Linked>>,
}

/// A device and an inode number.
type Identity = ((u32, u32), u64);

struct Queue {
    /// Directories to be copied, by their paths. The last is taken first, which keeps the list short.
    jobs: Vec<PathBuf>,
    busy: usize,
    failure: Option<Error>,
}

struct Linked {
    first: PathBuf,
    /// Whether it got a second name, which changed its ctime.
    again: bool,
}

/// Nothing that is locked here is left half-changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crew<'_> {
    /// Copies directories, and lets whoever has less to do go first: a copy takes seconds and all cores.
    fn work_behind_others(&self) -> Copied {
        // The kernel's priority is one of this thread, which ends with its work. Without it the copy is no other.
        let _ = rustix::process::nice(NICENESS);
        self.work()
    }

    /// Copies directories until there are no more.
    fn work(&self) -> Copied {
        let mut worker = Worker { crew: self, contents: Contents::new(self.options.clone), copied: Copied::default() };
        while let Some(path) = self.take() {
            let done = worker.copy_dir(path);
            let mut queue = lock(&self.queue);
            queue.busy -= 1;
            if let Err(error) = done {
                self.stopped.store(true, Ordering::Relaxed);
                queue.failure.get_or_insert(error);
            }
            if queue.failure.is_some() || queue.busy == 0 && queue.jobs.is_empty() {
                self.changed.notify_all();
            }
        }
        worker.copied
    }

    fn take(&self) -> Option<PathBuf> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.failure.is_some() {
                return None;
            }
            if let Some(path) = queue.jobs.pop() {
                queue.busy += 1;
                return Some(path);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, path: PathBuf) {
        lock(&self.queue).jobs.push(path);
        self.changed.notify_one();
    }

    /// Sorts the record and brings it up to what happened after an entry was noted: attributes of directories were
    /// set, and inodes got more names.
    fn complete(&self, mut copied: Copied) -> Result<Copied> {
        let mut changed = HashMap::new();
        for linked in lock(&self.links).values().filter(|linked| self.options.record && linked.again) {
            let name = linked.first.file_name().unwrap_or_default();
            let stat = self.target.open_beneath(linked.first.parent().unwrap_or(Path::new("")))?.stat(name)?;
            changed.insert(stat.ino, stat.ctime);
        }
        changed.extend(copied.dirs.iter().map(|dir| (dir.stamp.ino, dir.stamp.ctime)));
        for entry in copied.dirs.iter_mut().flat_map(|dir| &mut dir.entries) {
            if let Some(ctime) = changed.get(&entry.stamp.ino) {
                entry.stamp.ctime = *ctime;
            }
        }
        copied.dirs.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(copied)
    }
}

struct Worker<'a> {
    crew: &'a Crew<'a>,
    contents: Contents,
    copied: Copied,
}

impl Worker<'_> {
    /// Makes what is directly in the directory at `path`, queues its subdirectories, and sets its attributes.
    fn copy_dir(&mut self, path: PathBuf) -> Result<()> {
        let (source, target) = (self.crew.source.open_beneath(&path)?, self.crew.target.open_beneath(&path)?);
        let mut entries = Vec::new();
        for Name { name, file_type } in source.names()? {
            if self.crew.stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            let stamp = match file_type {
                Some(FileType::File) => Some(self.copy_file(&path, &source, &target, &name)?),
                Some(FileType::Dir) => Some(self.make_dir(&path, &target, &name)?),
                _ => self.copy_other(&path, &source, &target, &name)?,
            };
            if let (Some(stamp), true) = (stamp, self.crew.options.record) {
                entries.push(CopiedEntry { name, stamp });
            }
        }
        let [from, to] = [&source, &target].map(|dir| Place { dir, name: OsStr::new(""), file: None });
        let made = to.take_attributes(from, &from.stat()?, DIR_CREATE_MODE, self.crew.maker)?;
        self.copied.inodes += 1;
        if self.crew.options.record {
            self.copied.dirs.push(CopiedDir { path, stamp: Stamp::from(&made), entries });
        }
        Ok(())
    }

    fn make_dir(&mut self, path: &Path, target: &Dir, name: &OsStr) -> Result<Stamp> {
        target.make_dir(name)?;
        // Before it is queued: its ctime changes with everything that is made in it.
        let stamp = Stamp::from(&target.stat(name)?);
        self.crew.add(path.join(name));
        Ok(stamp)
    }

    fn copy_file(&mut self, path: &Path, source: &Dir, target: &Dir, name: &OsStr) -> Result<Stamp> {
        let file = source.open_file(name)?;
        let from = Place { dir: source, name, file: Some(&file) };
        let stat = from.stat()?;
        if stat.file_type != FileType::File {
            let message = format!("{} changed while it was copied", source.shown_at(name).display());
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        self.make_or_link(path, target, name, &stat, |worker| {
            let asked_mode = stat.mode & CREATE_MODE_MASK;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(target, name, flags, Mode::from_raw_mode(asked_mode))
                .at("create", target.place(name))?;
            let made = std::fs::File::from(made);
            worker.contents.copy(&file, &made, &stat, target.place(name))?;
            let to = Place { dir: target, name, file: Some(&made) };
            to.take_attributes(from, &stat, asked_mode, worker.crew.maker)
        })
    }

    /// Copies what is neither a file nor a directory, or of which the directory does not say what it is; `None` for a
    /// device that may not be made.
    fn copy_other(&mut self, path: &Path, source: &Dir, target: &Dir, name: &OsStr) -> Result<Option<Stamp>> {
        let from = Place { dir: source, name, file: None };
        let stat = from.stat()?;
        match stat.file_type {
            FileType::File => return self.copy_file(path, source, target, name).map(Some),
            FileType::Dir => return self.make_dir(path, target, name).map(Some),
            _ => {}
        }
        let made = self.make_or_link(path, target, name, &stat, |worker| {
            match stat.file_type {
                FileType::Symlink => target.make_symlink(&source.read_link(name)?, name)?,
                file_type => target.make_node(file_type, stat.device, name)?,
            }
            let to = Place { dir: target, name, file: None };
            to.take_attributes(from, &stat, NODE_CREATE_MODE, worker.crew.maker)
        });
        match made {
            Err(error)
                if error.kind() == ErrorKind::PermissionDenied
                    && matches!(stat.file_type, FileType::Char | FileType::Block)
                    && target.stat_if_any(name)?.is_none() =>
            {
                self.copied.skipped_devices += 1;
                Ok(None)
            }
            made => made.map(Some),
        }
    }

    /// Makes an inode, or the next name of one that has several. The map stays locked while such an inode is made:
    /// whoever comes with its next name must find it complete.
    fn make_or_link(
        &mut self,
        path: &Path,
        target: &Dir,
        name: &OsStr,
        stat: &Stat,
        make: impl FnOnce(&mut Self) -> Result<Stat>,
    ) -> Result<Stamp> {
        if stat.nlink == 1 {
            let made = make(self)?;
            self.copied.inodes += 1;
            return Ok(Stamp::from(&made));
        }
        let crew = self.crew;
        let mut links = lock(&crew.links);
        match links.entry((stat.dev, stat.ino)) {
            hash_map::Entry::Vacant(vacant) => {
                let made = make(self)?;
                vacant.insert(Linked { first: path.join(name), again: false });
                self.copied.inodes += 1;
                Ok(Stamp::from(&made))
            }
            hash_map::Entry::Occupied(mut occupied) => {
                let linked = occupied.get_mut();
                linked.again = true;
                let first_name = linked.first.file_name().unwrap_or_default();
                let first_dir = crew.target.open_beneath(linked.first.parent().unwrap_or(Path::new("")))?;
                target.make_link(&first_dir, first_name, name)?;
                Ok(Stamp::from(&target.stat(name)?))
            }
        }
    }
}

#[cfg(test)]
mod tests;
