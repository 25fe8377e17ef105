//! Lock files in `run/`: one for each process that changes the store, one for recovery, one for the drain, and one for
//! each daemon.
//!
//! A process that changes the store makes an unnamed file, locks it, and only then gives it a name. So a named file
//! without a lock belongs to a process that has died. A pid could be used again, while a lock ends with its process,
//! however the process dies. The name is the file's inode number and the time. No other file in the directory has the
//! inode number at the same time; the time tells files apart whose inode number was used again, because rows may
//! outlive the file that they name.
//!
//! # References
//! `fcntl_locking(2)`, open file description locks; `open(2)`, `O_TMPFILE`.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::db::rows;
use crate::error::{Context, Error, Result};
use crate::id::Digest;
use crate::tree::Dir;

/// The lock that one drainer of the trash holds.
const DRAIN: &str = "drain";

/// Beginning of the name of the lock that the daemon of an owner holds. A digest of the owner follows, because an owner
/// can be any string and a file name cannot.
const DAEMON: &str = "daemon-";

/// The lock that one recovery holds.
const RECOVER: &str = "recover";

/// The named lock file that announces this process. Drop removes the file.
#[derive(Debug)]
pub(super) struct Worker {
    file: PathBuf,
    name: String,
    _lock: OwnedFd,
}

impl Worker {
    /// Announces this process in the directory `run`.
    pub(super) fn announce(run: &Path) -> Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let lock = rustix::fs::open(run, flags, Mode::RUSR | Mode::WUSR).at("make a lock file in", run)?;
        try_lock(&lock).at("lock a new file in", run)?;
        let inode = rustix::fs::fstat(&lock).at("stat a lock file in", run)?.st_ino;
        let name = format!("{inode}-{}", rows::now());
        let file = run.join(&name);
        let magic = format!("/proc/self/fd/{}", lock.as_raw_fd());
        rustix::fs::linkat(rustix::fs::CWD, magic, rustix::fs::CWD, &file, AtFlags::SYMLINK_FOLLOW)
            .at("name the lock file", &file)?;
        Ok(Self { file, name, _lock: lock })
    }

    /// Returns the name by which rows in work refer to this process.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // If the removal fails, the next recovery finds the file of a process that has ended, and removes it.
        let _ = std::fs::remove_file(&self.file);
    }
}

/// The write lock on a whole file of any length.
const WHOLE: libc::flock = libc::flock {
    l_type: libc::F_WRLCK as libc::c_short,
    l_whence: libc::SEEK_SET as libc::c_short,
    l_start: 0,
    l_len: 0,
    l_pid: 0,
};

/// Takes the lock; `EAGAIN` if another process has it.
fn try_lock(file: impl AsFd) -> Result<(), Errno> {
    lock_by(file, FcntlArg::F_OFD_SETLK(&WHOLE))
}

fn lock_by(file: impl AsFd, how: FcntlArg<'_>) -> Result<(), Errno> {
    fcntl(file, how).map(drop).map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// Opens an existing lock file and takes its lock. `None` if another process holds it, or the file is gone.
fn seize(file: &Path) -> Result<Option<OwnedFd>> {
    let opened = match rustix::fs::open(file, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.at("open the lock file", file)?,
    };
    match try_lock(&opened) {
        Ok(()) => Ok(Some(opened)),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(None),
        Err(errno) => Err(errno).at("lock", file),
    }
}

/// Workers whose process has died. Their locks are held, so that no other recovery handles them at the same time.
#[derive(Debug, Default)]
pub(super) struct Dead {
    workers: Vec<(PathBuf, OwnedFd)>,
}

impl Dead {
    /// Finds the dead workers in `run`, and takes their locks.
    pub(super) fn find(run: &Path) -> Result<Self> {
        let mut workers = Vec::new();
        for file in worker_files(run)? {
            if let Some(lock) = seize(&file)? {
                workers.push((file, lock));
            }
        }
        Ok(Self { workers })
    }

    /// Returns true if no dead worker was found.
    pub(super) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Returns true if the worker `name` has died, or has ended without a crash, which removes its file.
    pub(super) fn includes(&self, run: &Path, name: &str) -> Result<bool> {
        let file = run.join(name);
        Ok(self.workers.iter().any(|(dead, _)| *dead == file) || !file.try_exists().at("look for", &file)?)
    }

    /// Removes the files of the dead workers. The caller does so once no row refers to them.
    pub(super) fn bury(self) -> Result<()> {
        for (file, _lock) in &self.workers {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.at("remove the lock file", file)?,
            }
        }
        Ok(())
    }
}

/// Returns the names of the workers that are alive.
pub(super) fn living(run: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in worker_files(run)? {
        if file.try_exists().at("look for", &file)? && seize(&file)?.is_none() {
            names.extend(file.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    Ok(names)
}

fn worker_files(run: &Path) -> Result<Vec<PathBuf>> {
    let names = Dir::open(run)?.names()?;
    let is_worker = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    Ok(names
        .into_iter()
        .filter(|entry| entry.name.to_str().is_some_and(is_worker))
        .map(|entry| run.join(entry.name))
        .collect())
}

/// Makes the lock files that are never removed, so that a drain or recovery on a full disk does not need room for them.
pub(super) fn make_standing(run: &Path) -> Result<()> {
    [DRAIN, RECOVER].iter().try_for_each(|name| standing(&run.join(name)).map(drop))
}

/// Takes the right to drain the trash; `None` if another process has it.
pub(super) fn drainer(run: &Path) -> Result<Option<OwnedFd>> {
    let file = run.join(DRAIN);
    let opened = standing(&file)?;
    match try_lock(&opened) {
        Ok(()) => Ok(Some(opened)),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(None),
        Err(errno) => Err(errno).at("lock", file),
    }
}

/// Waits for the right to drain the trash.
pub(super) fn drainer_in_turn(run: &Path) -> Result<OwnedFd> {
    in_turn(run.join(DRAIN))
}

/// Waits for the right to recover the store.
pub(super) fn recovery(run: &Path) -> Result<OwnedFd> {
    in_turn(run.join(RECOVER))
}

fn in_turn(file: PathBuf) -> Result<OwnedFd> {
    let opened = standing(&file)?;
    lock_by(&opened, FcntlArg::F_OFD_SETLKW(&WHOLE)).at("lock", file)?;
    Ok(opened)
}

/// The right to be the only daemon of an owner, until the value is dropped or the process ends.
#[derive(Debug)]
pub struct DaemonLock {
    _lock: OwnedFd,
}

/// Takes the right to be the daemon of `owner`. The text `holder` goes into the file, for the error of a later daemon.
///
/// # Errors
/// `FailedPrecondition` with the text of the daemon that has the right.
pub(super) fn daemon(run: &Path, owner: &str, holder: &str) -> Result<DaemonLock> {
    let file = run.join(format!("{DAEMON}{}", Digest::of(owner.as_bytes()).hex()));
    let lock = standing(&file)?;
    match try_lock(&lock) {
        Ok(()) => {}
        Err(Errno::AGAIN | Errno::ACCESS) => {
            let told = std::fs::read_to_string(&file).at("read", &file)?;
            let who = if told.is_empty() { "a process that is about to start" } else { &told };
            return Err(Error::precondition(format!(
                "{who} serves the owner {owner:?} of this store already: stop it, or choose another --owner"
            )));
        }
        Err(errno) => return Err(errno).at("lock", file),
    }
    std::fs::write(&file, holder).at("write", &file)?;
    Ok(DaemonLock { _lock: lock })
}

/// Opens a lock file that is never removed, and makes it if it is missing.
fn standing(file: &Path) -> Result<OwnedFd> {
    let opened = File::options().create(true).truncate(false).write(true).open(file);
    opened.at("open the lock file", file).map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_outlives_nothing_but_its_holder() {
        let run = tempfile::tempdir().expect("temporary directory");
        let worker = Worker::announce(run.path()).expect("announce");
        assert_eq!(living(run.path()).expect("living"), [worker.name()]);
        assert!(Dead::find(run.path()).expect("dead").is_empty());
        // SIGKILL leaves such a file: the descriptor is closed, the file stays.
        let Worker { file, .. } = &worker;
        std::fs::copy(file, run.path().join("12345")).expect("copy");
        assert_eq!(living(run.path()).expect("living"), [worker.name()]);
        let dead = Dead::find(run.path()).expect("dead");
        assert!(!dead.is_empty());
        assert!(Dead::find(run.path()).expect("dead").is_empty(), "two recoveries both took it");
        dead.bury().expect("bury");
        assert!(!run.path().join("12345").exists());
        drop(worker);
        assert_eq!(worker_files(run.path()).expect("files"), Vec::<PathBuf>::new());
    }

    #[test]
    fn no_name_is_used_twice() {
        let run = tempfile::tempdir().expect("temporary directory");
        let names: std::collections::BTreeSet<_> =
            (0..50).map(|_| Worker::announce(run.path()).expect("announce").name().to_owned()).collect();
        assert_eq!(names.len(), 50, "{names:?}");
    }

    #[test]
    fn one_daemon_an_owner() {
        let run = tempfile::tempdir().expect("temporary directory");
        let first = daemon(run.path(), "k8s.io/a", "process 1").expect("the first");
        let error = daemon(run.path(), "k8s.io/a", "process 2").expect_err("the second");
        assert!(error.to_string().starts_with("process 1 serves the owner \"k8s.io/a\""), "{error}");
        let _other = daemon(run.path(), "other", "process 2").expect("another owner");
        drop(first);
        let _next = daemon(run.path(), "k8s.io/a", "process 3").expect("after the first");
        let error = daemon(run.path(), "k8s.io/a", "process 4").expect_err("held again");
        assert!(error.to_string().starts_with("process 3 "), "{error}");
        assert_eq!(worker_files(run.path()).expect("files"), Vec::<PathBuf>::new(), "a daemon's lock is no worker");
    }

    #[test]
    fn one_drainer() {
        let run = tempfile::tempdir().expect("temporary directory");
        let first = drainer(run.path()).expect("lock");
        assert!(first.is_some());
        assert!(drainer(run.path()).expect("lock").is_none());
        drop(first);
        assert!(drainer(run.path()).expect("lock").is_some());
    }
}
