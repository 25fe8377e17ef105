//! The text of the mount table, read again only after a change.
//!
//! The kernel generates the text for every reader, with one line for each mount of the machine. `poll(2)` reports at
//! once whether the table has changed.
//!
//! # Invariants
//! - Every thread has its own copy, because it may have its own mount namespace. The cached descriptor keeps a
//!   namespace alive until the thread ends, or until the thread reads the table from another namespace.
//! - The cached text is used only after `poll` reported no change. A change that is still under way is reported next
//!   time: the kernel counts it while holding the lock that a reader of the table waits for.
//! - Only mounts and unmounts count as changes: the text may show the old name of a renamed directory, or a removed
//!   directory as if it still existed.
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

/// Link whose inode number identifies the mount namespace as long as a descriptor of the namespace is open.
const NAMESPACE: &str = "/proc/thread-self/ns/mnt";

/// Initial capacity, enough for the tables of most machines.
const TEXT_BYTES: usize = 16 << 10;

thread_local! {
    static LAST: RefCell<Option<CachedTable>> = const { RefCell::new(None) };
}

/// The table as last read.
#[derive(Debug)]
struct CachedTable {
    namespace: u64,
    /// Descriptor that was opened before the text was read, so that `poll` reports changes since then.
    file: File,
    text: Rc<[u8]>,
}

impl CachedTable {
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

/// Returns the mount table of the calling thread's namespace.
///
/// # Errors
/// Errors of the system calls.
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
        Ok(Rc::clone(&last.insert(CachedTable::now(namespace)?).text))
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
