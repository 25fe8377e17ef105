//! Cases about open files: changes seen through other descriptors.

use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::fixture;
use super::{Case, append, list, open, read, same, write};
use crate::conformance::case::{Fault, Verdict, ensure, refuses};
use crate::error::{Context as _, ErrorKind};
use crate::sys::memory::Mapping;
use crate::tree::{Dir, walk};

/// All cases of this module.
pub(super) const CASES: [Case; 16] = [
    Case {
        name: "reader-sees-later-writes",
        source: "POSIX read; kernel overlayfs.rst: Non-standard behavior",
        meaning: "a program that has a file of an image open never sees later writes to it",
        run: reader_sees_later_writes,
    },
    Case {
        name: "mapping-sees-later-writes",
        source: "POSIX mmap; kernel overlayfs.rst: Non-standard behavior",
        meaning: "a mapped file of an image goes on showing what was in it before it was written to",
        run: mapping_sees_later_writes,
    },
    Case {
        name: "fstat-and-stat-agree",
        source: "POSIX fstat; moby#12327: OpenFileInodeStability",
        meaning: "programs believe that their file was replaced when it was written to",
        run: fstat_and_stat_agree,
    },
    Case {
        name: "unlinked-file-stays-open",
        source: "POSIX unlink",
        meaning: "programs lose the files that they have open",
        run: unlinked_file_stays_open,
    },
    Case {
        name: "unlinked-file-can-be-written",
        source: "POSIX unlink",
        meaning: "temporary files without a name do not work",
        run: unlinked_file_can_be_written,
    },
    Case {
        name: "removed-directory-stays-open",
        source: "POSIX rmdir; moby#19082: GetCWD",
        meaning: "things can be made in directories that are gone",
        run: removed_directory_stays_open,
    },
    Case {
        name: "locks-hold-across-copy-up",
        source: "flock(2); kernel overlayfs.rst: Non-standard behavior",
        meaning: "two programs have the same lock",
        run: locks_hold,
    },
    Case {
        name: "unnamed-file-gets-a-name",
        source: "open(2): O_TMPFILE; linkat(2)",
        meaning: "programs that write files whole or not at all do not work",
        run: unnamed_file,
    },
    Case {
        name: "exclusive-creation",
        source: "POSIX open: O_EXCL",
        meaning: "lock files do not lock",
        run: exclusive_creation,
    },
    Case {
        name: "creation-finds-what-is-there",
        source: "POSIX open: O_CREAT",
        meaning: "a file of an image is lost when a program opens it for appending",
        run: creation_finds,
    },
    Case {
        name: "types-are-checked",
        source: "open(2): O_DIRECTORY, O_NOFOLLOW",
        meaning: "programs follow links that they must not follow",
        run: types_are_checked,
    },
    Case {
        name: "copy-between-files",
        source: "copy_file_range(2)",
        meaning: "cp fails or copies something else",
        run: copy_between_files,
    },
    Case {
        name: "sync-succeeds",
        source: "POSIX fsync",
        meaning: "databases and package managers stop with an error",
        run: sync_succeeds,
    },
    Case {
        name: "directory-positions-stay",
        source: "POSIX telldir, seekdir",
        meaning: "servers for NFS and Samba list names twice or never",
        run: directory_positions,
    },
    Case {
        name: "names-vanish-while-read",
        source: "POSIX readdir",
        meaning: "rm -r leaves something, or fails",
        run: names_vanish_while_read,
    },
    Case {
        name: "writers-share-a-file",
        source: "POSIX write: O_APPEND",
        meaning: "two writers of a log overwrite each other",
        run: writers_share_a_file,
    },
];

fn reader_sees_later_writes(root: &Dir) -> Verdict {
    let mut reader = open(root, "other", OFlags::RDONLY)?;
    append(root, "other", b", more")?;
    let mut text = String::new();
    reader.read_to_string(&mut text).at("read", "other")?;
    same("what the reader sees", text.as_str(), "other, more")
}

fn mapping_sees_later_writes(root: &Dir) -> Verdict {
    let reader = open(root, "file", OFlags::RDONLY)?;
    let length = fixture::bytes().len();
    let mapping = Mapping::new(reader.as_fd(), length).at("map", "file")?;
    let before = mapping.read().at("read the mapping of", "file")?;
    ensure(before == fixture::bytes(), || "it shows something else from the beginning".to_owned())?;
    open(root, "file", OFlags::RDWR)?.write_all_at(b"NEW", 5000).at("write", "file")?;
    let after = mapping.read().at("read the mapping of", "file")?;
    same("what the mapping shows", &after[5000..5003], b"NEW")
}

fn fstat_and_stat_agree(root: &Dir) -> Verdict {
    let reader = open(root, "file", OFlags::RDONLY)?;
    append(root, "file", b"more")?;
    root.set_mode("file", 0o604)?;
    let stat = rustix::fs::fstat(&reader).at("stat", "file")?;
    let named = root.stat("file")?;
    let found = (stat.st_ino, stat.st_size as u64, stat.st_mode & 0o7777);
    same("inode, size and mode", found, (named.ino, named.size, named.mode))
}

fn unlinked_file_stays_open(root: &Dir) -> Verdict {
    let mut reader = open(root, "file", OFlags::RDONLY)?;
    root.unlink("file")?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).at("read", "file")?;
    ensure(bytes == fixture::bytes(), || "the bytes are others".to_owned())?;
    ensure(root.stat_if_any("file")?.is_none(), || "its name is there".to_owned())
}

fn unlinked_file_can_be_written(root: &Dir) -> Verdict {
    let mut file = open(root, "other", OFlags::RDWR)?;
    root.unlink("other")?;
    let mut text = String::new();
    file.write_all(b"OT").and_then(|()| file.rewind()).at("write", "other")?;
    file.read_to_string(&mut text).at("read", "other")?;
    same("what is in it", text.as_str(), "OTher")?;
    same("its names", rustix::fs::fstat(&file).at("stat", "other")?.st_nlink, 0)
}

fn removed_directory_stays_open(root: &Dir) -> Verdict {
    let dir = root.open_dir("dir")?;
    walk::remove_all(root, "dir")?;
    // Linux fails to list a removed directory (`ENOENT`); the C library turns that into an empty list.
    match dir.names() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        names => same("how much is in it", names?.len(), 0)?,
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&dir, "new", flags, Mode::from_raw_mode(0o644));
    refuses("making a file in a removed directory", made, Errno::NOENT)
}

fn locks_hold(root: &Dir) -> Verdict {
    let reader = open(root, "file", OFlags::RDONLY)?;
    flock(&reader, FlockOperation::LockExclusive).at("lock", "file")?;
    let writer = open(root, "file", OFlags::RDWR)?;
    let second = flock(&writer, FlockOperation::NonBlockingLockExclusive);
    refuses("a second lock", second, Errno::WOULDBLOCK)?;
    drop(reader);
    flock(&writer, FlockOperation::NonBlockingLockExclusive).at("lock again", "file")?;
    Ok(())
}

fn unnamed_file(root: &Dir) -> Verdict {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut file = match rustix::fs::openat(root, "dir", flags, Mode::from_raw_mode(0o644)) {
        Err(Errno::OPNOTSUPP) => return Err(Fault::Skip("this kernel makes no unnamed files here".to_owned())),
        file => std::fs::File::from(file.at("make an unnamed file in", "dir")?),
    };
    file.write_all(b"whole").at("write", "an unnamed file")?;
    same("the names", list(root, "dir")?, ["inner", "second", "sub"].map(str::to_owned).to_vec())?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(rustix::fs::CWD, &path, root, "dir/named", AtFlags::SYMLINK_FOLLOW).at("name", "dir/named")?;
    same("the bytes", read(root, "dir/named")?, b"whole".to_vec())
}

fn exclusive_creation(root: &Dir) -> Verdict {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let create = |path: &str| rustix::fs::openat(root, path, flags, Mode::from_raw_mode(0o644));
    for path in ["file", "dir/second", "dangling", "null", "dir"] {
        refuses(&format!("making {path} again"), create(path), Errno::EXIST)?;
    }
    root.unlink("file")?;
    create("file").at("make", "file")?;
    create("gone").at("make", "gone")?;
    same("the length", root.stat("file")?.size, 0)
}

fn creation_finds(root: &Dir) -> Verdict {
    open(root, "file", OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND)?.write_all(b"more").at("append to", "file")?;
    same("the length", root.stat("file")?.size, fixture::bytes().len() as u64 + 4)?;
    same("the mode", root.stat("file")?.mode, 0o640)
}

fn types_are_checked(root: &Dir) -> Verdict {
    let open = |path: &str, flags: OFlags| rustix::fs::openat(root, path, flags | OFlags::CLOEXEC, Mode::empty());
    refuses("opening a file as a directory", open("file", OFlags::DIRECTORY), Errno::NOTDIR)?;
    refuses("opening a link that must not be followed", open("link", OFlags::NOFOLLOW), Errno::LOOP)?;
    refuses("opening a directory for writing", open("dir", OFlags::WRONLY), Errno::ISDIR)?;
    refuses("a path through a file", open("file/x", OFlags::RDONLY), Errno::NOTDIR)
}

fn copy_between_files(root: &Dir) -> Verdict {
    let from = open(root, "file", OFlags::RDONLY)?;
    let to = open(root, "copy", OFlags::WRONLY | OFlags::CREATE)?;
    let length = fixture::bytes().len();
    let mut done = 0;
    while done < length {
        match rustix::fs::copy_file_range(&from, None, &to, None, length - done).at("copy", "file")? {
            0 => break,
            copied => done += copied,
        }
    }
    ensure(read(root, "copy")? == fixture::bytes(), || format!("{done} bytes, and others"))
}

fn sync_succeeds(root: &Dir) -> Verdict {
    let sync = |path: &str, flags: OFlags| -> Verdict {
        rustix::fs::fsync(open(root, path, flags)?).at("sync", path)?;
        Ok(())
    };
    sync("file", OFlags::RDONLY)?;
    sync("dir", OFlags::RDONLY | OFlags::DIRECTORY)?;
    append(root, "file", b"more")?;
    sync("file", OFlags::RDWR)?;
    sync("dir", OFlags::RDONLY | OFlags::DIRECTORY)?;
    rustix::fs::syncfs(root).at("sync the file system of", "the root")?;
    Ok(())
}

/// Returns the names after a position in the directory, each with the position that follows it.
fn names_from(dir: &std::fs::File, position: u64) -> Verdict<Vec<(String, u64)>> {
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(position)).at("seek in", "a directory")?;
    let mut buffer = Vec::with_capacity(8192);
    let mut entries = rustix::fs::RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.at("read", "a directory")?;
        names.push((entry.file_name().to_string_lossy().into_owned(), entry.next_entry_cookie()));
    }
    Ok(names)
}

fn directory_positions(root: &Dir) -> Verdict {
    for number in 0..50 {
        write(root, &format!("dir/new{number}"), b"")?;
    }
    let dir = open(root, "dir", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let all = names_from(&dir, 0)?;
    same("how many there are", all.len(), 2 + 3 + 50)?;
    for (at, (_, position)) in all.iter().enumerate().filter(|(at, _)| at % 7 == 0) {
        let names: Vec<String> = names_from(&dir, *position)?.into_iter().map(|(name, _)| name).collect();
        let expected: Vec<String> = all[at + 1..].iter().map(|(name, _)| name.clone()).collect();
        same(&format!("what is behind the name {at}"), names, expected)?;
    }
    Ok(())
}

fn names_vanish_while_read(root: &Dir) -> Verdict {
    for number in 0..500 {
        write(root, &format!("full/{number}"), b"")?;
    }
    let dir = root.open_dir("full")?;
    // The buffer is small, so that the kernel is asked repeatedly while names are removed.
    let mut buffer = Vec::with_capacity(1024);
    let reader = open(root, "full", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut entries = rustix::fs::RawDir::new(&reader, buffer.spare_capacity_mut());
    let mut seen = std::collections::BTreeSet::new();
    while let Some(entry) = entries.next() {
        let entry = entry.at("read", "full")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        dir.unlink(&name)?;
        ensure(seen.insert(name.clone()), || format!("{name} was listed twice"))?;
    }
    same("how many were listed", seen.len(), 503)?;
    same("what is left", list(root, "full")?, Vec::new())?;
    root.remove_dir("full")?;
    Ok(())
}

fn writers_share_a_file(root: &Dir) -> Verdict {
    let flags = OFlags::WRONLY | OFlags::APPEND;
    let (mut one, mut two) = (open(root, "other", flags)?, open(root, "other", flags)?);
    for _ in 0..2 {
        one.write_all(b"1").and_then(|()| two.write_all(b"2")).at("append to", "other")?;
    }
    same("what is in it", read(root, "other")?, b"other1212".to_vec())
}
