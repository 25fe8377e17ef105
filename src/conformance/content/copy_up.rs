//! Cases about changing files of lower layers, which overlayfs copies up first.

use std::io::Write as _;

use rustix::fs::{FallocateFlags, OFlags};

use super::fixture::{
    self, CAPABILITY, CAPABILITY_VALUE, ISLAND, ISLAND_BYTES, NOTE_VALUE, SPARSE_BYTES, TIME, access_list, note,
};
use super::{Case, append, open, read, same};
use crate::conformance::case::{Verdict, ensure};
use crate::conformance::ops::ACL;
use crate::error::Context as _;
use crate::tree::{Dir, Stat, Timestamp};

const COPY_UP: &str = "kernel overlayfs.rst: Non-directories";

/// All cases of this module.
pub(super) const CASES: [Case; 22] = [
    Case {
        name: "append-keeps-data",
        source: COPY_UP,
        meaning: "a log file of an image loses its lines when a container writes to it",
        run: append_keeps_data,
    },
    Case {
        name: "append-keeps-mode-and-owner",
        source: COPY_UP,
        meaning: "a file of an image changes hands when a container writes to it",
        run: append_keeps_mode_and_owner,
    },
    Case {
        name: "append-keeps-attributes",
        source: COPY_UP,
        meaning: "extended attributes are lost when a file is written to",
        run: append_keeps_attributes,
    },
    Case {
        name: "append-keeps-access-list",
        source: COPY_UP,
        meaning: "access control lists are lost when a file is written to",
        run: append_keeps_access_list,
    },
    Case {
        name: "append-changes-time",
        source: "POSIX write",
        meaning: "make and backups do not see that a file changed",
        run: append_changes_time,
    },
    Case {
        name: "chmod-keeps-time",
        source: "POSIX chmod; kernel overlayfs.rst: Non-directories",
        meaning: "files look new that only changed their mode: make and backups do their work again",
        run: chmod_keeps_time,
    },
    Case {
        name: "chmod-keeps-capabilities",
        source: "capabilities(7); POSIX chmod",
        meaning: "ping and others lose their privilege",
        run: chmod_keeps_capabilities,
    },
    Case {
        name: "write-drops-capabilities",
        source: "capabilities(7): file capabilities",
        meaning: "a replaced program keeps the privilege of the old one",
        run: write_drops_capabilities,
    },
    Case {
        name: "chown-drops-set-user-id",
        source: "chown(2), Linux since 2.2.13",
        meaning: "a program runs with the rights of another owner",
        run: chown_drops_set_user_id,
    },
    Case {
        name: "chown-keeps-the-rest",
        source: "POSIX chown; moby#20240",
        meaning: "a change of owner loses data or attributes",
        run: chown_keeps_the_rest,
    },
    Case {
        name: "times-are-set",
        source: "POSIX utimensat",
        meaning: "tar and rsync cannot give files their times",
        run: times_are_set,
    },
    Case {
        name: "chmod-keeps-holes",
        source: "lseek(2): SEEK_DATA; kernel overlayfs.rst: Non-directories",
        meaning: "a sparse disk image fills the disk when its mode is changed",
        run: chmod_keeps_holes,
    },
    Case {
        name: "holes-are-reported",
        source: "lseek(2): SEEK_HOLE",
        meaning: "copies of sparse files are not sparse",
        run: holes_are_reported,
    },
    Case {
        name: "truncate-shortens",
        source: "POSIX ftruncate",
        meaning: "the end of a file stays",
        run: truncate_shortens,
    },
    Case {
        name: "truncate-lengthens-with-zeros",
        source: "POSIX ftruncate",
        meaning: "old bytes appear in a file that grew",
        run: truncate_lengthens,
    },
    Case {
        name: "open-truncating-keeps-mode-and-owner",
        source: "POSIX open: O_TRUNC",
        meaning: "a file that a shell redirects into changes hands",
        run: open_truncating,
    },
    Case {
        name: "punched-hole-is-zero",
        source: "fallocate(2): FALLOC_FL_PUNCH_HOLE",
        meaning: "discarded blocks of a disk image come back",
        run: punched_hole,
    },
    Case {
        name: "allocation-lengthens",
        source: "fallocate(2)",
        meaning: "databases cannot reserve space in files of an image",
        run: allocation,
    },
    Case {
        name: "inode-number-stays",
        source: "kernel overlayfs.rst: Inode properties; moby#12327",
        meaning: "tail -F and others take a file that was written to for another one",
        run: inode_number_stays,
    },
    Case {
        name: "one-device",
        source: "kernel overlayfs.rst: Inode properties",
        meaning: "find -xdev, du and hard link detection stop half-way",
        run: one_device,
    },
    Case {
        name: "new-file-keeps-its-directories",
        source: "kernel overlayfs.rst: Directories",
        meaning: "directories change hands when something is made in them",
        run: new_file_keeps_its_directories,
    },
    Case {
        name: "renamed-file-is-whole",
        source: "POSIX rename; kernel overlayfs.rst: Non-directories",
        meaning: "a file loses something on its way",
        run: renamed_file_is_whole,
    },
];

fn append_keeps_data(root: &Dir) -> Verdict {
    append(root, "file", b"more")?;
    let expected = [fixture::bytes(), b"more".to_vec()].concat();
    ensure(read(root, "file")? == expected, || "the bytes are others".to_owned())
}

fn attributes(stat: Stat) -> (u32, u32, u32) {
    (stat.mode, stat.uid, stat.gid)
}

fn append_keeps_mode_and_owner(root: &Dir) -> Verdict {
    append(root, "file", b"more")?;
    same("mode and owner", attributes(root.stat("file")?), (0o640, 1, 2))
}

fn append_keeps_attributes(root: &Dir) -> Verdict {
    append(root, "file", b"more")?;
    same("the attribute", note(root, "file")?.as_deref(), Some(NOTE_VALUE))
}

fn append_keeps_access_list(root: &Dir) -> Verdict {
    append(root, "listed", b"more")?;
    same("the list", root.xattrs("listed")?.get(ACL), Some(&access_list()))?;
    same("the mode", root.stat("listed")?.mode, 0o664)
}

fn append_changes_time(root: &Dir) -> Verdict {
    append(root, "file", b"more")?;
    let found = root.stat("file")?.mtime;
    ensure(found > TIME, || format!("it still is {found:?}"))
}

fn chmod_keeps_time(root: &Dir) -> Verdict {
    root.set_mode("file", 0o600)?;
    same("the mode", root.stat("file")?.mode, 0o600)?;
    same("the time", root.stat("file")?.mtime, TIME)
}

fn chmod_keeps_capabilities(root: &Dir) -> Verdict {
    root.set_mode("capable", 0o711)?;
    same("capabilities", root.xattrs("capable")?.get(CAPABILITY).map(Vec::as_slice), Some(&CAPABILITY_VALUE[..]))
}

fn write_drops_capabilities(root: &Dir) -> Verdict {
    append(root, "capable", b"more")?;
    same("capabilities", root.xattrs("capable")?.get(CAPABILITY), None)
}

fn chown_drops_set_user_id(root: &Dir) -> Verdict {
    root.set_owner("suid", 7, 7)?;
    same("mode and owner", attributes(root.stat("suid")?), (0o755, 7, 7))
}

fn chown_keeps_the_rest(root: &Dir) -> Verdict {
    root.set_owner("file", 8, 9)?;
    same("mode and owner", attributes(root.stat("file")?), (0o640, 8, 9))?;
    same("the time", root.stat("file")?.mtime, TIME)?;
    same("the attribute", note(root, "file")?.as_deref(), Some(NOTE_VALUE))?;
    ensure(read(root, "file")? == fixture::bytes(), || "the bytes are others".to_owned())
}

fn times_are_set(root: &Dir) -> Verdict {
    let time = Timestamp { seconds: 1_000_000_001, nanos: 987_654_321 };
    for path in ["file", "dir", "link"] {
        root.set_mtime(path, time)?;
        same(path, root.stat(path)?.mtime, time)?;
    }
    Ok(())
}

fn chmod_keeps_holes(root: &Dir) -> Verdict {
    root.set_mode("sparse", 0o600)?;
    let stat = root.stat("sparse")?;
    same("the length", stat.size, SPARSE_BYTES)?;
    ensure(stat.allocated < SPARSE_BYTES / 4, || format!("{} bytes are allocated", stat.allocated))?;
    let bytes = read(root, "sparse")?;
    let island = ISLAND as usize..(ISLAND + ISLAND_BYTES) as usize;
    ensure(bytes[island].iter().all(|byte| *byte == 7), || "its data are others".to_owned())
}

fn holes_are_reported(root: &Dir) -> Verdict {
    let file = open(root, "sparse", OFlags::RDONLY)?;
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).at("look for data in", "sparse")?;
    let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data)).at("look for a hole in", "sparse")?;
    // The file system's blocks may be larger than the written data.
    ensure((1..=ISLAND).contains(&data) && (ISLAND + ISLAND_BYTES..SPARSE_BYTES).contains(&hole), || {
        format!("data from {data} to {hole}, and not from {ISLAND}")
    })
}

fn truncate_shortens(root: &Dir) -> Verdict {
    open(root, "file", OFlags::WRONLY)?.set_len(10_000).at("truncate", "file")?;
    ensure(read(root, "file")? == fixture::bytes()[..10_000], || "the bytes are others".to_owned())
}

fn truncate_lengthens(root: &Dir) -> Verdict {
    let file = open(root, "file", OFlags::WRONLY)?;
    file.set_len(10).and_then(|()| file.set_len(20_000)).at("truncate", "file")?;
    let mut expected = fixture::bytes()[..10].to_vec();
    expected.resize(20_000, 0);
    ensure(read(root, "file")? == expected, || "the bytes are others".to_owned())
}

fn open_truncating(root: &Dir) -> Verdict {
    open(root, "file", OFlags::WRONLY | OFlags::TRUNC)?.write_all(b"new").at("write", "file")?;
    same("the bytes", read(root, "file")?, b"new".to_vec())?;
    same("mode and owner", attributes(root.stat("file")?), (0o640, 1, 2))
}

fn punched_hole(root: &Dir) -> Verdict {
    let file = open(root, "file", OFlags::RDWR)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 8192, 16_384).at("punch a hole into", "file")?;
    let mut expected = fixture::bytes();
    expected[8192..8192 + 16_384].fill(0);
    ensure(read(root, "file")? == expected, || "the bytes are others".to_owned())
}

fn allocation(root: &Dir) -> Verdict {
    let file = open(root, "other", OFlags::RDWR)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 100_000).at("allocate", "other")?;
    let bytes = read(root, "other")?;
    same("the length", bytes.len(), 100_000)?;
    ensure(bytes.starts_with(b"other\0"), || "the bytes are others".to_owned())
}

fn inode_number_stays(root: &Dir) -> Verdict {
    let number = |path: &str| root.stat(path).map(|stat| (stat.dev, stat.ino));
    for path in ["file", "dir/sub/deep/leaf"] {
        let before = number(path)?;
        append(root, path, b"more")?;
        same(path, number(path)?, before)?;
    }
    Ok(())
}

fn one_device(root: &Dir) -> Verdict {
    super::write(root, "made", b"")?;
    let dev = root.stat("")?.dev;
    for path in ["file", "made", "dir", "dir/second", "link", "opaque/new"] {
        same(path, root.stat(path)?.dev, dev)?;
    }
    Ok(())
}

fn new_file_keeps_its_directories(root: &Dir) -> Verdict {
    super::write(root, "dir/sub/deep/new", b"")?;
    same("the directory", attributes(root.stat("dir")?), (0o750, 3, 4))?;
    same("its time", root.stat("dir")?.mtime, TIME)?;
    same("what is in it", super::list(root, "dir/sub/deep")?, vec!["leaf".to_owned(), "new".to_owned()])
}

fn renamed_file_is_whole(root: &Dir) -> Verdict {
    let before = root.stat("file")?;
    rustix::fs::renameat(root, "file", root, "dir/moved").at("rename", "file")?;
    let after = root.stat("dir/moved")?;
    same("what it is", (attributes(after), after.mtime, after.ino), (attributes(before), before.mtime, before.ino))?;
    same("the attribute", note(root, "dir/moved")?.as_deref(), Some(NOTE_VALUE))?;
    ensure(root.stat_if_any("file")?.is_none(), || "its old name is there".to_owned())?;
    ensure(read(root, "dir/moved")? == fixture::bytes(), || "the bytes are others".to_owned())
}
