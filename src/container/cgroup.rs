//! Control groups of a container, which limit the number of its processes and the devices that it can open.
//!
//! strata makes the groups itself, and the process of the runtime enters them before it executes the runtime. So the
//! limits hold for every runtime, and strata knows the groups to remove. The runtime sees control groups read-only and
//! makes none.
//!
//! A group is locked while its container lives. A killed strata leaves empty groups without a lock, which the next
//! container removes.
//!
//! The container has no limit if strata may not make groups, or if the machine lacks the controller.
//!
//! # References
//! Kernel documents `admin-guide/cgroup-v1/{pids,devices}.rst`, `admin-guide/cgroup-v2.rst`; `cgroups(7)`.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::error::{Context, ErrorKind, Result};

/// The mount point of control groups, by convention.
const ROOT: &str = "/sys/fs/cgroup";

/// The prefix of the names of groups.
const PREFIX: &str = "strata-";

/// The controllers whose limits are set.
const CONTROLLERS: [&str; 2] = ["pids", "devices"];

/// The devices that every container has, by number: null, zero, full, random, urandom, tty, console, ptmx, and
/// terminals. The runtime makes their nodes.
const DEVICES: [&str; 9] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rw",
];

/// Maximum number of tries to remove a group, and their pause: killed processes leave the group with a delay.
const EMPTY_TRIES_MAX: u32 = 200;
const EMPTY_PAUSE: Duration = Duration::from_millis(5);

/// The groups of one container. Dropping the value removes them.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    path: PathBuf,
    /// The descriptor of the directory, which holds the lock.
    _lock: OwnedFd,
}

impl Groups {
    /// Makes a group called by `id` for each controller that strata can use, for at most `pids_max` processes.
    pub(super) fn new(id: &str, pids_max: Option<u32>) -> Self {
        let mut made = Self::default();
        for (controller, above) in parents() {
            remove_left(&above);
            match Group::new(&above.join(format!("{PREFIX}{id}")), controller, pids_max) {
                Ok(group) => made.groups.extend(group),
                Err(error) => tracing::info!(controller, why = error.chain(), "the container has no such limit"),
            }
        }
        made
    }

    /// Opens the files `cgroup.procs`. The runtime's process enters a group by a write to its file.
    pub(super) fn entries(&self) -> Result<Vec<OwnedFd>> {
        let open = |group: &Group| {
            let path = group.path.join("cgroup.procs");
            rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).at("open", path)
        };
        self.groups.iter().map(open).collect()
    }
}

impl Group {
    /// Makes the group `path` with the limit of `controller`; `None` if the controller is not enabled there.
    fn new(path: &Path, controller: &str, pids_max: Option<u32>) -> Result<Option<Self>> {
        let group = Self { path: path.to_owned(), _lock: make_locked(path)? };
        let limit = match controller {
            "pids" => path.join("pids.max"),
            _ => path.join("devices.deny"),
        };
        if !limit.exists() {
            return Ok(None);
        }
        if controller == "pids" {
            let most = pids_max.map_or_else(|| "max".to_owned(), |most| most.to_string());
            write(&limit, &most)?;
        } else {
            write(&limit, "a")?;
            DEVICES.iter().try_for_each(|device| write(&path.join("devices.allow"), device))?;
        }
        Ok(Some(group))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..EMPTY_TRIES_MAX {
            match rustix::fs::rmdir(&self.path) {
                // Killed processes are still in the group.
                Err(Errno::BUSY) => thread::sleep(EMPTY_PAUSE),
                Err(errno) if errno != Errno::NOENT => {
                    tracing::warn!(group = %self.path.display(), %errno, "a control group is left");
                    return;
                }
                _ => return,
            }
        }
        tracing::warn!(group = %self.path.display(), "a control group is left: processes are in it");
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).at("write", path)
}

/// Makes the group `path` and locks it. Another strata can remove the group before it is locked; then the group is made
/// again.
fn make_locked(path: &Path) -> Result<OwnedFd> {
    loop {
        rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)).at("make the control group", path)?;
        match lock(path, FlockOperation::LockShared) {
            // A lock can also be that of a group which was removed after it was opened.
            Ok(group) if is_at(&group, path)? => return Ok(group),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

/// Returns whether `path` leads to the open directory `dir`.
fn is_at(dir: &OwnedFd, path: &Path) -> Result<bool> {
    let open = rustix::fs::fstat(dir).at("stat", path)?;
    match rustix::fs::lstat(path) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (open.st_dev, open.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).at("stat", path),
    }
}

fn lock(path: &Path, how: FlockOperation) -> Result<OwnedFd> {
    let dir = OwnedFd::from(File::open(path).at("open", path)?);
    flock(&dir, how).at("lock", path)?;
    Ok(dir)
}

/// Removes the groups in `above` that a killed strata left: they have no lock and no process.
fn remove_left(above: &Path) {
    let Ok(entries) = fs::read_dir(above) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_ours = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
        if !is_ours {
            continue;
        }
        // The lock is kept until the group is removed: whoever made the group waits, and then makes it again.
        if let Ok(_lock) = lock(&path, FlockOperation::NonBlockingLockExclusive) {
            let _ = rustix::fs::rmdir(&path);
        }
    }
}

/// Returns each controller with the directory for new groups: in version 1, the group of this process.
fn parents() -> Vec<(&'static str, PathBuf)> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut parents = Vec::new();
    for controller in CONTROLLERS {
        let inner = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
            let is_it = names.split(',').any(|name| name == controller) || (number == "0" && names.is_empty());
            is_it.then(|| (names.is_empty(), path.trim_start_matches('/').to_owned()))
        });
        match inner {
            Some((false, path)) => parents.push((controller, Path::new(ROOT).join(controller).join(path))),
            // Version 2 has one tree, and no controller for devices.
            Some((true, path)) if controller == "pids" => {
                parents.extend(version_2(&path).map(|above| (controller, above)));
            }
            _ => {}
        }
    }
    parents
}

/// Returns the group of this process, or its nearest ancestor, whose children have the controller `pids` of version 2.
fn version_2(own: &str) -> Option<PathBuf> {
    let own = Path::new(ROOT).join(own);
    let passes_on = |group: &&Path| {
        let controllers = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
        controllers.split_whitespace().any(|name| name == "pids")
    };
    own.ancestors().take_while(|group| group.starts_with(ROOT)).find(passes_on).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// How many groups are made while another thread removes those without a lock.
    const GROUPS: usize = 3000;

    #[test]
    fn a_locked_group_is_there() {
        let above = tempfile::tempdir().expect("a directory");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    remove_left(above.path());
                }
            });
            for number in 0..GROUPS {
                let path = above.path().join(format!("{PREFIX}{number}"));
                let group = make_locked(&path);
                let is_there = group.as_ref().is_ok_and(|group| is_at(group, &path).is_ok_and(|there| there));
                drop(group);
                done.fetch_or(!is_there, Ordering::Relaxed);
                assert!(is_there, "group {number}");
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
