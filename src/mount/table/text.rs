//! The text of the table, which is read again only where it has changed.
//!
//! The kernel writes it anew for every reader, a line for each mount of the machine, while `poll(2)` tells at once
//! whether there was a change.
//!
//! # Invariants
//! - Every thread has its own, for it may have a mount namespace of its own; the descriptor keeps a namespace no longer
//!   than its thread does, or than the thread's next look from another one.
//! - A change is looked for before what was read is believed. One that is under way is seen the next time: the kernel
//!   counts it while it holds the lock that a reader of the table waits for.
//! - Only mounts and unmounts are changes: the text may show a directory by the name that it had before it was renamed,
//!   or as if it were not removed.
//!
//! # References
//! `proc_pid_mounts(5)` (since Linux 2.6.15); kernel: `mounts_poll` in `fs/proc_namespace.c`.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read as _;
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use crate::error::{Context, Result};

const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// Whose inode number tells one mount namespace from another while somebody has it open.
const NAMESPACE: &str = "/proc/thread-self/ns/mnt";

/// Room for the tables of most machines, so that few reads are needed.
const TEXT_BYTES: usize = 16 << 10;

thread_local! {
    static LAST: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// The table, as it was read.
#[derive(Debug)]
struct Seen {
    namespace: u64,
    /// Open since before it was read.
    file: File,
    text: Rc<[u8]>,
}

impl Seen {
    fn now(namespace: u64) -> Result<Self> {
        let mut file = File::open(MOUNTINFO).at("open", MOUNTINFO)?;
        let mut text = Vec::with_capacity(TEXT_BYTES);
        file.read_to_end(&mut text).at("read", MOUNTINFO)?;
        Ok(Self { namespace, file, text: text.into() })
    }

    fn has_changed(&self) -> Result<bool> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ask = || poll(&mut [PollFd::new(&self.file, PollFlags::PRI)], Some(&at_once));
        Ok(retry_on_intr(ask).at("poll", MOUNTINFO)? > 0)
    }
}

/// The table of the calling thread's mount namespace.
///
/// # Errors
/// What the system calls report.
pub(super) fn read() -> Result<Rc<[u8]>> {
    let namespace = rustix::fs::stat(NAMESPACE).at("stat", NAMESPACE)?.st_ino;
    LAST.with_borrow_mut(|last| {
        if let Some(seen) = last
            && seen.namespace == namespace
            && !seen.has_changed()?
        {
            return Ok(Rc::clone(&seen.text));
        }
        *last = None;
        Ok(Rc::clone(&last.insert(Seen::now(namespace)?).text))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nix::sched::{CloneFlags, unshare};
    use rustix::mount::{UnmountFlags, unmount};

    use super::*;
    use crate::mount::scratch::FsType;
    use crate::mount::{Access, Mount, Mounted};
    use crate::testing;

    fn is_shown(point: &Path) -> bool {
        let point = format!(" {} ", point.display());
        String::from_utf8_lossy(&read().expect("the table")).contains(&point)
    }

    #[test]
    fn every_change_is_seen_and_without_one_nothing_is_read() {
        let Some(scratch) = testing::scratch(FsType::Tmpfs) else { return };
        let point = scratch.path().join("point");
        std::fs::create_dir(&point).expect("mkdir");
        for _ in 0..100 {
            assert!(!is_shown(&point));
            let source = Mount::Bind { source: point.clone(), access: Access::ReadWrite };
            let mounted = Mounted::new(&[source], &point).expect("mount");
            assert!(is_shown(&point));
            drop(mounted);
        }
        let (first, second) = (read().expect("the table"), read().expect("the table"));
        assert!(Rc::ptr_eq(&first, &second), "it was read again");
    }

    #[test]
    fn a_namespace_has_its_own() {
        let Some(scratch) = testing::scratch(FsType::Tmpfs) else { return };
        assert!(is_shown(scratch.path()));
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
        unmount(scratch.path(), UnmountFlags::DETACH).expect("umount");
        assert!(!is_shown(scratch.path()));
    }
}
