//! Cases about files shared by programs and users: locks, mappings, sticky directories.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{Uid, setfsuid};
use rustix::fs::{AtFlags, OFlags, renameat, unlinkat};
use rustix::io::Errno;

use super::fixture::{self, USERS};
use super::{Case, append, open, read, same, write};
use crate::conformance::case::{Fault, Verdict, ensure, refuses};
use crate::error::Context as _;
use crate::sys::memory::Mapping;
use crate::tree::Dir;

/// All cases of this module.
pub(super) const CASES: [Case; 7] = [
    Case {
        name: "process-locks-hold-across-copy-up",
        source: "POSIX fcntl: F_SETLK; kernel overlayfs.rst: Non-standard behavior",
        meaning: "two programs have the same lock: a database of an image is damaged",
        run: process_locks_hold,
    },
    Case {
        name: "descriptor-locks-hold-across-copy-up",
        source: "fcntl_locking(2): open file description locks",
        meaning: "two threads or programs have the same lock",
        run: descriptor_locks_hold,
    },
    Case {
        name: "mapped-writes-are-read",
        source: "POSIX mmap: MAP_SHARED, msync; kernel overlayfs.rst: Non-standard behavior",
        meaning: "what a database writes through memory is not in its file",
        run: mapped_writes_are_read,
    },
    Case {
        name: "mapping-for-writing-sees-writes",
        source: "POSIX mmap: MAP_SHARED",
        meaning: "programs that share memory by a file of an image do not see each other's writes",
        run: mapping_sees_writes,
    },
    Case {
        name: "mapping-outlives-replacement",
        source: "POSIX mmap, rename: references to the old file last",
        meaning: "programs crash when their libraries are upgraded",
        run: mapping_outlives_replacement,
    },
    Case {
        name: "sticky-directory-protects",
        source: "POSIX sys/stat.h: S_ISVTX; unlink(2), rename(2): EPERM",
        meaning: "any user of a container removes the files of others in /tmp",
        run: sticky_directory_protects,
    },
    Case {
        name: "sticky-directory-stays-sticky",
        source: "POSIX sys/stat.h: S_ISVTX; kernel overlayfs.rst: Directories",
        meaning: "the /tmp of an image no longer protects its files once a file was created in it",
        run: sticky_directory_stays_sticky,
    },
];

/// Returns a lock of that kind on a whole file.
fn whole(kind: libc::c_int) -> libc::flock {
    let [kind, from_start] = [kind, libc::SEEK_SET].map(|number| number as libc::c_short);
    libc::flock { l_type: kind, l_whence: from_start, l_start: 0, l_len: 0, l_pid: 0 }
}

fn control(file: &File, how: FcntlArg<'_>) -> Result<(), Errno> {
    fcntl(file, how).map(drop).map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// Takes or releases a lock that belongs to the process.
fn by_process(file: &File, kind: libc::c_int) -> Result<(), Errno> {
    control(file, FcntlArg::F_SETLK(&whole(kind)))
}

/// Takes or releases a lock that belongs to the open file description.
fn by_descriptor(file: &File, kind: libc::c_int) -> Result<(), Errno> {
    control(file, FcntlArg::F_OFD_SETLK(&whole(kind)))
}

/// A process lock and an open-file-description lock exclude each other as the locks of two processes do, so one process
/// can test both.
fn process_locks_hold(root: &Dir) -> Verdict {
    let reader = open(root, "file", OFlags::RDONLY)?;
    by_process(&reader, libc::F_RDLCK).at("lock", "file")?;
    let writer = open(root, "file", OFlags::RDWR)?;
    refuses("locking what another reads", by_descriptor(&writer, libc::F_WRLCK), Errno::AGAIN)?;
    by_process(&reader, libc::F_UNLCK).at("unlock", "file")?;
    by_descriptor(&writer, libc::F_WRLCK).at("lock again", "file")?;
    refuses("locking what another writes", by_process(&reader, libc::F_RDLCK), Errno::AGAIN)
}

fn descriptor_locks_hold(root: &Dir) -> Verdict {
    let reader = open(root, "file", OFlags::RDONLY)?;
    by_descriptor(&reader, libc::F_RDLCK).at("lock", "file")?;
    append(root, "file", b"more")?;
    let writer = open(root, "file", OFlags::RDWR)?;
    refuses("locking what another reads", by_descriptor(&writer, libc::F_WRLCK), Errno::AGAIN)?;
    let second = open(root, "file", OFlags::RDONLY)?;
    by_descriptor(&second, libc::F_RDLCK).at("lock for a second reader", "file")?;
    drop((reader, second));
    by_descriptor(&writer, libc::F_WRLCK).at("lock again", "file")?;
    Ok(())
}

/// Offset in the file's second page that the cases write to, and the written bytes.
const AT: usize = 5000;
const NEW: &[u8] = b"NEW";

fn written() -> Vec<u8> {
    let mut bytes = fixture::bytes();
    bytes[AT..AT + NEW.len()].copy_from_slice(NEW);
    bytes
}

fn mapped_writes_are_read(root: &Dir) -> Verdict {
    let mut early = open(root, "file", OFlags::RDONLY)?;
    let file = open(root, "file", OFlags::RDWR)?;
    let mapping = Mapping::writable(file.as_fd(), fixture::bytes().len()).at("map", "file")?;
    mapping.write(AT, NEW).at("write through the mapping of", "file")?;
    mapping.sync().at("sync the mapping of", "file")?;
    ensure(read(root, "file")? == written(), || "who opens it then reads others".to_owned())?;
    let mut bytes = Vec::new();
    early.read_to_end(&mut bytes).at("read", "file")?;
    ensure(bytes == written(), || "who had it open reads others".to_owned())
}

fn mapping_sees_writes(root: &Dir) -> Verdict {
    let file = open(root, "file", OFlags::RDWR)?;
    let mapping = Mapping::writable(file.as_fd(), fixture::bytes().len()).at("map", "file")?;
    open(root, "file", OFlags::WRONLY)?.write_all_at(NEW, AT as u64).at("write", "file")?;
    let found = mapping.read().at("read the mapping of", "file")?;
    ensure(found == written(), || "what it shows is something else".to_owned())
}

fn mapping_outlives_replacement(root: &Dir) -> Verdict {
    let file = open(root, "file", OFlags::RDONLY)?;
    let mapping = Mapping::new(file.as_fd(), fixture::bytes().len()).at("map", "file")?;
    drop(file);
    write(root, "file.new", b"new")?;
    renameat(root, "file.new", root, "file").at("rename", "file.new")?;
    let found = mapping.read().at("read the mapping of", "file")?;
    ensure(found == fixture::bytes(), || "what it shows is something else".to_owned())?;
    same("the new file", read(root, "file")?, b"new".to_vec())
}

/// Runs `work` with the file system rights of `user`, in a separate thread, because those rights belong to a thread.
fn as_user(user: u32, work: impl FnOnce() -> Verdict + Send) -> Verdict {
    let user = Uid::from_raw(user);
    let switched = || {
        setfsuid(user);
        // `setfsuid` does not report failure. Called with an invalid user, it changes nothing and returns the current
        // one.
        let now = setfsuid(Uid::from_raw(u32::MAX));
        if now == user { work() } else { Err(Fault::Skip(format!("this user namespace has no user {user}"))) }
    };
    let done = std::thread::scope(|scope| scope.spawn(switched).join());
    done.unwrap_or_else(|_| Err(Fault::Broken("the thread of the other user panicked".to_owned())))
}

fn sticky_directory_protects(root: &Dir) -> Verdict {
    let rename = |from: &str, to: &str| renameat(root, from, root, to);
    as_user(USERS[0], || {
        let unlink = unlinkat(root, "shared/theirs", AtFlags::empty());
        refuses("removing another's file", unlink, Errno::PERM)?;
        refuses("moving another's file", rename("shared/theirs", "shared/taken"), Errno::PERM)?;
        refuses("replacing another's file", rename("shared/mine", "shared/theirs"), Errno::PERM)?;
        rename("shared/mine", "shared/moved").at("rename", "shared/mine")?;
        unlinkat(root, "shared/moved", AtFlags::empty()).at("unlink", "shared/moved")?;
        Ok(())
    })?;
    same("what another has", read(root, "shared/theirs")?, b"theirs".to_vec())
}

fn sticky_directory_stays_sticky(root: &Dir) -> Verdict {
    as_user(USERS[0], || write(root, "shared/new", b"new"))?;
    same("the mode", root.stat("shared")?.mode, 0o1777)?;
    same("whose it is", root.stat("shared/new")?.uid, USERS[0])?;
    as_user(USERS[1], || {
        refuses("removing another's file", unlinkat(root, "shared/new", AtFlags::empty()), Errno::PERM)
    })
}
