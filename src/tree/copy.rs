//! Copies a tree with all of its attributes; the copy backend makes snapshots with it.
//!
//! Kept: content with its holes, type, mode, owner, mtime in nanoseconds (also of directories), hard links, device
//! numbers, sockets, and every extended attribute that can be set. Not kept: atime and inode flags (`chattr`).
//!
//! The work is divided by directory. A worker creates all direct entries of a directory, queues its subdirectories, and
//! sets the directory's attributes last, after all of its entries were created. Source and target directory are opened
//! from the two roots each time, so that the queue holds paths and no descriptors.
//!
//! Invariants: no link is followed on either side. The source is only read, and its atimes stay unchanged where the
//! caller has permission for that. The first error stops all workers.

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

use self::attributes::{CopyInode, Maker};
use self::data::Contents;
use super::{Dir, FileType, Name, Stat, Timestamp, Xattrs};
use crate::error::{Context, Error, ErrorKind, Result};

/// Maximum number of workers: more only wait for each other, because creating files takes locks of the file system.
const WORKERS_MAX: usize = 4;

/// Difference of the workers' nice value to the caller's.
const NICENESS: i32 = 10;

/// Permission bits that a new file is created with; set-id and sticky bits are set after the owner.
const CREATE_MODE_MASK: u32 = 0o777;

/// Mode of a directory until its attributes are set.
const DIR_CREATE_MODE: u32 = 0o700;

/// Mode of a device, fifo or socket until its attributes are set.
const NODE_CREATE_MODE: u32 = 0o600;

/// Way of copying file content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CloneMode {
    /// Share blocks if the file system can, otherwise copy.
    #[default]
    Auto,
    /// Share blocks, or fail.
    Reflink,
    /// Copy all bytes, never share.
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

/// Options of a copy.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Way of copying file content.
    pub clone: CloneMode,
    /// Number of threads that copy while the caller waits.
    pub workers: NonZeroUsize,
    /// True if [`Copied::dirs`] is to be filled.
    pub record: bool,
}

impl Options {
    /// Returns options with as many workers as the machine can use, without a record.
    pub fn new(clone: CloneMode) -> Self {
        let available = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { clone, workers: available.min(NonZeroUsize::MIN.saturating_add(WORKERS_MAX - 1)), record: false }
    }
}

/// Result of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Number of created inodes, including the root.
    pub inodes: u64,
    /// Number of device nodes left out because a user namespace may not create them.
    pub skipped_devices: u64,
    /// Every created directory, in canonical order, if [`Options::record`] is set.
    pub dirs: Vec<CopiedDir>,
}

/// A directory of the copy, as it was when the copy was complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedDir {
    /// Path below the root of the copy.
    pub path: PathBuf,
    /// Stamp of the directory's inode.
    pub stamp: Stamp,
    /// Entries of the directory, ordered by the bytes of the names.
    pub entries: Vec<CopiedEntry>,
}

/// One name in a directory of the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedEntry {
    /// The name.
    pub name: OsString,
    /// Stamp of the named inode.
    pub stamp: Stamp,
}

/// Inode number and change time: if both are unchanged later, so are content and attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Inode number.
    pub ino: u64,
    /// Change time.
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

/// Copies the content and the attributes of `source` into the existing, empty directory `target`. The source must not
/// change meanwhile.
///
/// # Errors
/// The first error of any worker, with its path; then `target` holds a part of the copy. `Unsupported` with
/// [`CloneMode::Reflink`] if the file system cannot share blocks, or for an extended attribute that the target cannot
/// hold; `ResourceExhausted` if space, inodes or the names of one inode are used up; `InvalidArgument` for an owner
/// outside the caller's user namespace.
pub fn copy(source: &Dir, target: &Dir, options: Options) -> Result<Copied> {
    // A default ACL that the target inherited would apply to everything created in it.
    target.set_xattrs("", &Xattrs::new())?;
    let state = CopyState {
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
            // If a thread cannot be started, fewer threads do the work.
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, || state.work_behind_others()).ok())
            .collect();
        let mut copied = if workers.is_empty() { state.work() } else { Copied::default() };
        for worker in workers {
            match worker.join() {
                Ok(part) => copied.add(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        copied
    });
    match lock(&state.queue).failure.take() {
        Some(error) => Err(error),
        None => state.complete(copied),
    }
}

impl Copied {
    fn add(&mut self, part: Self) {
        self.inodes += part.inodes;
        self.skipped_devices += part.skipped_devices;
        self.dirs.extend(part.dirs);
    }
}

/// State shared by the workers.
struct CopyState<'a> {
    source: &'a Dir,
    target: &'a Dir,
    options: Options,
    maker: Maker,
    queue: Mutex<Queue>,
    /// Signalled when a path was queued, or when no more will be.
    changed: Condvar,
    stopped: AtomicBool,
    /// Inodes of the source with several names, each with its first name in the target.
    links: Mutex<HashMap<Identity, Linked>>,
}

/// Device and inode number.
type Identity = ((u32, u32), u64);

struct Queue {
    /// Paths of directories to copy. The last is taken first, which keeps the list short.
    jobs: Vec<PathBuf>,
    busy: usize,
    failure: Option<Error>,
}

struct Linked {
    first: PathBuf,
    /// True if the inode got a second name, which changed its ctime.
    again: bool,
}

/// Locks ignoring poison: a panic leaves none of the locked values half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CopyState<'_> {
    /// Copies directories at a lower priority: a copy takes seconds and all cores.
    fn work_behind_others(&self) -> Copied {
        // The nice value is that of this thread, which ends after the work. If it cannot be set, the copy is still
        // correct.
        let _ = rustix::process::nice(NICENESS);
        self.work()
    }

    /// Copies directories until the queue is empty and no worker is busy.
    fn work(&self) -> Copied {
        let mut worker = Worker { state: self, contents: Contents::new(self.options.clone), copied: Copied::default() };
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

    /// Sorts the record and updates ctimes that changed after an entry was recorded: the attributes of directories were
    /// set, and inodes got further names.
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
    state: &'a CopyState<'a>,
    contents: Contents,
    copied: Copied,
}

impl Worker<'_> {
    /// Creates the direct entries of the directory at `path`, queues its subdirectories, and sets its attributes.
    fn copy_dir(&mut self, path: PathBuf) -> Result<()> {
        let (source, target) = (self.state.source.open_beneath(&path)?, self.state.target.open_beneath(&path)?);
        let mut entries = Vec::new();
        for Name { name, file_type } in source.names()? {
            if self.state.stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            let stamp = match file_type {
                Some(FileType::File) => Some(self.copy_file(&path, &source, &target, &name)?),
                Some(FileType::Dir) => Some(self.make_dir(&path, &target, &name)?),
                _ => self.copy_other(&path, &source, &target, &name)?,
            };
            if let (Some(stamp), true) = (stamp, self.state.options.record) {
                entries.push(CopiedEntry { name, stamp });
            }
        }
        let [from, to] = [&source, &target].map(|dir| CopyInode { dir, name: OsStr::new(""), file: None });
        let made = to.take_attributes(from, &from.stat()?, DIR_CREATE_MODE, self.state.maker)?;
        self.copied.inodes += 1;
        if self.state.options.record {
            self.copied.dirs.push(CopiedDir { path, stamp: Stamp::from(&made), entries });
        }
        Ok(())
    }

    fn make_dir(&mut self, path: &Path, target: &Dir, name: &OsStr) -> Result<Stamp> {
        target.make_dir(name)?;
        // Read before the directory is queued, because its ctime changes whenever something is created in it.
        let stamp = Stamp::from(&target.stat(name)?);
        self.state.add(path.join(name));
        Ok(stamp)
    }

    fn copy_file(&mut self, path: &Path, source: &Dir, target: &Dir, name: &OsStr) -> Result<Stamp> {
        let file = source.open_file(name)?;
        let from = CopyInode { dir: source, name, file: Some(&file) };
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
            let to = CopyInode { dir: target, name, file: Some(&made) };
            to.take_attributes(from, &stat, asked_mode, worker.state.maker)
        })
    }

    /// Copies an entry that is neither a file nor a directory, or whose type the directory does not report; returns
    /// `None` for a device that may not be created.
    fn copy_other(&mut self, path: &Path, source: &Dir, target: &Dir, name: &OsStr) -> Result<Option<Stamp>> {
        let from = CopyInode { dir: source, name, file: None };
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
            let to = CopyInode { dir: target, name, file: None };
            to.take_attributes(from, &stat, NODE_CREATE_MODE, worker.state.maker)
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

    /// Creates an inode, or a further name of an inode that has several. The map stays locked while an inode with
    /// several names is created, so that a worker with the next name finds it complete.
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
        let state = self.state;
        let mut links = lock(&state.links);
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
                let first_dir = state.target.open_beneath(linked.first.parent().unwrap_or(Path::new("")))?;
                target.make_link(&first_dir, first_name, name)?;
                Ok(Stamp::from(&target.stat(name)?))
            }
        }
    }
}

#[cfg(test)]
mod tests;
