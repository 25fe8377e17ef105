use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::mount::scratch::FsType;
use crate::testing;
use crate::tree::memory::Tree;
use crate::tree::sample::samples;
use crate::tree::walk::{self, remove_all};
use crate::tree::{Device, Timestamp};

/// The ACL `user::rw-, user:1000:rwx, group::r--, mask::rwx, other::r--`, as the kernel takes it.
const ACL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x07\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\
\x10\0\x07\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";

/// `cap_net_raw=ep`.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn options(clone: CloneMode, workers: usize) -> Options {
    Options { clone, workers: NonZeroUsize::new(workers).unwrap(), record: true }
}

fn fresh(root: &Dir, name: &str) -> Dir {
    remove_all(root, name).unwrap();
    root.make_dir(name).unwrap();
    root.open_dir(name).unwrap()
}

fn assert_same(source: &Dir, target: &Dir, what: impl fmt::Display) {
    let differences = Tree::read(source).unwrap().differences(&Tree::read(target).unwrap());
    let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
}

fn write(dir: &Dir, name: impl AsRef<OsStr>, bytes: &[u8]) {
    dir.create_file(name).unwrap().write_all(bytes).unwrap();
}

/// Writes a file of 256 KiB with 4 KiB of data in the middle and 5 bytes at the end.
fn write_sparse(dir: &Dir, name: &str) {
    let mut file = dir.create_file(name).unwrap();
    file.seek(SeekFrom::Start(128 << 10)).unwrap();
    file.write_all(&[7; 4096]).unwrap();
    file.seek(SeekFrom::Start((256 << 10) - 5)).unwrap();
    file.write_all(b"tail!").unwrap();
}

/// Creates a tree with attributes that are easily lost.
fn nasty(dir: &Dir) {
    for path in ["a", "a/b", "z"] {
        dir.open_beneath(Path::new(path).parent().unwrap())
            .unwrap()
            .make_dir(Path::new(path).file_name().unwrap())
            .unwrap();
    }
    let (a, b, z) =
        (dir.open_dir("a").unwrap(), dir.open_beneath(Path::new("a/b")).unwrap(), dir.open_dir("z").unwrap());
    write(&a, "plain", b"hello");
    write(&a, "empty", b"");
    write(&b, OsStr::from_bytes(b"\xff\xfe\n \\"), b"name");
    write(&b, "n".repeat(255), b"long");
    write_sparse(&a, "sparse");
    let hole = a.create_file("hole").unwrap();
    hole.set_len(300 << 10).unwrap();
    write(&z, "large", &vec![42; 200_001]);
    // Hard links across directories, for every type that can have them.
    a.make_symlink(b"../nowhere", "link").unwrap();
    a.make_symlink(&[b'x'; 300], "long link").unwrap();
    a.make_node(FileType::Fifo, Device::default(), "fifo").unwrap();
    a.make_node(FileType::Socket, Device::default(), "socket").unwrap();
    a.make_node(FileType::Char, Device { major: 1, minor: 3 }, "null").unwrap();
    a.make_node(FileType::Block, Device { major: 259, minor: 70_000 }, "disk").unwrap();
    for name in ["plain", "link", "fifo", "socket", "null"] {
        z.make_link(&a, name, name).unwrap();
        b.make_link(&a, name, name).unwrap();
    }
    // Attributes are set in the order in which none undoes another.
    a.set_owner("sparse", 1000, 70_000).unwrap();
    a.set_owner("link", 12, 13).unwrap();
    a.set_owner("null", 0, 5).unwrap();
    a.set_xattr("plain", b"security.capability", CAPABILITY).unwrap();
    a.set_xattr("empty", b"system.posix_acl_access", ACL).unwrap();
    dir.set_xattr("z", b"system.posix_acl_default", ACL).unwrap();
    dir.set_xattr("", b"user.root", b"\0\xff").unwrap();
    a.set_xattr("link", b"trusted.link", b"1").unwrap();
    a.set_xattr("sparse", b"user.empty", b"").unwrap();
    a.set_xattr("sparse", b"user.large", &[3; 3000]).unwrap();
    for (name, mode) in [("sparse", 0o6755), ("null", 0o666), ("fifo", 0o000), ("hole", 0o000), ("socket", 0o777)] {
        a.set_mode(name, mode).unwrap();
    }
    for (name, seconds, nanos) in
        [("plain", -1, 1), ("link", 1, 999_999_999), ("fifo", 5_000_000_000, 0), ("hole", 0, 0)]
    {
        a.set_mtime(name, Timestamp { seconds, nanos }).unwrap();
    }
    z.set_mode("", 0o2000).unwrap();
    b.set_mode("", 0o1777).unwrap();
    for (at, seconds) in [(&z, 1), (&b, 2), (&a, 3), (dir, 4)] {
        at.set_mtime("", Timestamp { seconds, nanos: 7 }).unwrap();
    }
}

#[test]
fn everything_is_kept_on_every_file_system() {
    for fs in FsType::ALL {
        let Some(scratch) = testing::scratch(fs) else { continue };
        let root = Dir::open(scratch.path()).unwrap();
        let source = fresh(&root, "source");
        nasty(&source);
        let before = walk::usage(&source).unwrap();
        for clone in [CloneMode::Auto, CloneMode::Bytes] {
            for workers in [1, 4] {
                let what = format!("{fs}, {clone}, {workers} workers");
                let target = fresh(&root, "target");
                let copied = copy(&source, &target, options(clone, workers)).unwrap();
                assert_same(&source, &target, &what);
                assert_eq!(copied.inodes, before.inodes, "{what}");
                assert_eq!(copied.skipped_devices, 0, "{what}");
                check_record(&target, &copied);
                for name in ["sparse", "hole"] {
                    let allocated = |dir: &Dir| dir.open_dir("a").unwrap().stat(name).unwrap().allocated;
                    assert!(allocated(&target) <= allocated(&source), "{what}: {name} grew");
                }
                // A copy can itself be copied.
                copy(&target, &fresh(&root, "again"), options(clone, workers)).unwrap();
                assert_same(&source, &root.open_dir("again").unwrap(), &what);
            }
        }
    }
}

/// Checks that the record describes every entry as it is now.
fn check_record(target: &Dir, copied: &Copied) {
    let mut recorded = Vec::new();
    for dir in &copied.dirs {
        assert!(dir.entries.is_sorted_by(|a, b| a.name < b.name));
        if dir.path.as_os_str().is_empty() {
            recorded.push((dir.path.clone(), dir.stamp));
        }
        recorded.extend(dir.entries.iter().map(|entry| (dir.path.join(&entry.name), entry.stamp)));
    }
    recorded.sort();
    let mut found = Vec::new();
    walk::walk(target, |entry| {
        found.push((entry.path.to_path_buf(), Stamp::from(&entry.stat)));
        Ok(())
    })
    .unwrap();
    assert_eq!(recorded, found);
    assert!(copied.dirs.is_sorted_by(|a, b| a.path < b.path));
}

#[test]
fn agrees_with_cp() {
    for fs in FsType::ALL {
        let Some(scratch) = testing::scratch(fs) else { continue };
        let root = Dir::open(scratch.path()).unwrap();
        let source = fresh(&root, "source");
        nasty(&source);
        copy(&source, &fresh(&root, "ours"), options(CloneMode::Auto, 2)).unwrap();
        let cp = Command::new("cp").args(["-aT", "source", "theirs"]).current_dir(scratch.path()).status().unwrap();
        assert!(cp.success());
        assert_same(&root.open_dir("ours").unwrap(), &root.open_dir("theirs").unwrap(), fs);
    }
}

#[test]
fn random_trees_are_kept() {
    for fs in FsType::ALL {
        let Some(scratch) = testing::scratch(fs) else { continue };
        let root = Dir::open(scratch.path()).unwrap();
        proptest!(ProptestConfig::with_cases(16), |(sample in samples(30), workers in 1..5_usize)| {
            let source = fresh(&root, "source");
            sample.write(&source);
            let target = fresh(&root, "target");
            let copied = copy(&source, &target, options(CloneMode::Auto, workers)).unwrap();
            assert_same(&source, &target, fs);
            check_record(&target, &copied);
        });
    }
}

#[test]
fn deep_trees_take_few_descriptors() {
    const DEPTH: usize = 400;
    let temp = tempfile::tempdir().unwrap();
    let root = Dir::open(temp.path()).unwrap();
    let source = fresh(&root, "source");
    let name = "d".repeat(20);
    let mut path = PathBuf::new();
    for _ in 0..DEPTH {
        let at = source.open_beneath(&path).unwrap();
        at.make_dir(&name).unwrap();
        write(&at, "f", b"x");
        path.push(&name);
    }
    let target = fresh(&root, "target");
    let copied = copy(&source, &target, options(CloneMode::Auto, 2)).unwrap();
    assert_eq!(copied.inodes, 1 + 2 * DEPTH as u64);
    assert_same(&source, &target, "deep");
    remove_all(&root, "source").unwrap();
    remove_all(&root, "target").unwrap();
}

#[test]
fn reflinks_share_and_say_where_they_cannot() {
    for fs in FsType::ALL {
        let Some(scratch) = testing::scratch(fs) else { continue };
        let root = Dir::open(scratch.path()).unwrap();
        let source = fresh(&root, "source");
        write(&source, "f", &vec![1; 16 << 20]);
        write_sparse(&source, "sparse");
        let free = || {
            rustix::fs::syncfs(&root).unwrap();
            let stat = rustix::fs::statvfs(scratch.path()).unwrap();
            stat.f_bfree * stat.f_frsize
        };
        let before = free();
        let copied = copy(&source, &fresh(&root, "target"), options(CloneMode::Reflink, 2));
        if matches!(fs, FsType::Xfs | FsType::Btrfs) {
            probe_reflink(&root).unwrap();
            copied.unwrap();
            assert_same(&source, &root.open_dir("target").unwrap(), fs);
            assert!(before - free() < 4 << 20, "{fs}: reflinks took space");
            copy(&source, &fresh(&root, "bytes"), options(CloneMode::Bytes, 1)).unwrap();
            assert!(before - free() > 15 << 20, "{fs}: copied bytes are shared");
        } else {
            for error in [copied.unwrap_err(), probe_reflink(&root).unwrap_err()] {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains(fs.as_str()), "{error}");
            }
        }
        assert!(!scratch.path().join("f").exists());
    }
}

#[test]
fn between_file_systems_bytes_are_copied_and_reflinks_refused() {
    let (Some(from), Some(to)) = (testing::scratch(FsType::Btrfs), testing::scratch(FsType::Ext4)) else { return };
    let (from, to) = (Dir::open(from.path()).unwrap(), Dir::open(to.path()).unwrap());
    let source = fresh(&from, "source");
    nasty(&source);
    let target = fresh(&to, "target");
    copy(&source, &target, options(CloneMode::Auto, 2)).unwrap();
    assert_same(&source, &target, "btrfs to ext4");
    let error = copy(&source, &fresh(&to, "reflink"), options(CloneMode::Reflink, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.chain());
}

#[test]
fn the_first_error_stops_all_and_names_its_path() {
    let Some(scratch) = testing::scratch(FsType::Ext4) else { return };
    let root = Dir::open(scratch.path()).unwrap();
    let source = fresh(&root, "source");
    for dir in 0..20 {
        source.make_dir(dir.to_string()).unwrap();
        write(&source.open_dir(dir.to_string()).unwrap(), "f", b"x");
    }
    let target = fresh(&root, "target");
    target.make_dir("7").unwrap();
    let error = copy(&source, &target, options(CloneMode::Auto, 4)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().ends_with("target/7"), "{error}");
}

#[test]
fn an_inherited_acl_or_group_is_not_kept() {
    for fs in [FsType::Ext4, FsType::Xfs, FsType::Btrfs] {
        let Some(scratch) = testing::scratch(fs) else { continue };
        let root = Dir::open(scratch.path()).unwrap();
        let source = fresh(&root, "source");
        write(&source, "f", b"x");
        source.make_dir("d").unwrap();
        let target = fresh(&root, "target");
        target.set_xattr("", b"system.posix_acl_default", ACL).unwrap();
        target.set_owner("", 0, 1000).unwrap();
        target.set_mode("", 0o2700).unwrap();
        copy(&source, &target, options(CloneMode::Auto, 1)).unwrap();
        assert_same(&source, &target, fs);
    }
}

#[test]
fn the_source_keeps_its_atimes() {
    let temp = tempfile::tempdir().unwrap();
    let root = Dir::open(temp.path()).unwrap();
    let source = fresh(&root, "source");
    write(&source, "f", b"x");
    // The atime is older than the mtime, so a read would update it even with relatime.
    let old = fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH);
    fs::File::open(temp.path().join("source/f")).unwrap().set_times(old).unwrap();
    copy(&source, &fresh(&root, "target"), options(CloneMode::Auto, 1)).unwrap();
    let accessed = fs::metadata(temp.path().join("source/f")).unwrap().accessed().unwrap();
    assert_eq!(accessed, std::time::UNIX_EPOCH);
}
