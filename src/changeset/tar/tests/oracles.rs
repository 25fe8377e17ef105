//! Other programs read our archives and we read theirs; the trees must be equal.

use std::fs;
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, FileType as RawType, Mode, Timespec, Timestamps, mknodat, utimensat};

use super::*;
use crate::changeset::apply::Applier;
use crate::mount::scratch::FsType;
use crate::testing;
use crate::tree::Dir;
use crate::tree::memory::Tree;

/// Returns true if `program` is installed; otherwise the test must return.
fn installed(program: &str, package: &str) -> bool {
    let answer = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let missing = |_| format!("{program} is not installed: apt-get install {package}");
    testing::require(program, answer.map(drop).map_err(missing))
}

/// Returns a tree with one entry of each type that every program here can express; all times but one are whole seconds.
fn sample() -> Stream {
    let owned = |node, mode, uid| Meta { mode, uid, ..meta(node) };
    let device = |major, minor| Device { major, minor };
    let mut fine = meta(Node::File { size: 4 });
    fine.mtime = Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 };
    fine.xattrs.insert(b"user.bytes".to_vec(), b"line\nbreak\0=nul".to_vec());
    let mut old = meta(Node::File { size: 0 });
    old.mtime = Timestamp { seconds: -2, nanos: 500_000_000 };
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let mut capable = owned(Node::File { size: 2 }, 0o755, 0);
    capable.xattrs.insert(b"security.capability".to_vec(), capability);
    let long = format!("{}/{}", "d".repeat(120), "n".repeat(200));
    let with = |path: &str, meta: Meta, content: &str| (put(path, meta).0, content.as_bytes().to_vec());
    vec![
        put("", dir(0o755)),
        put("block", meta(Node::Block(device(7, 300)))),
        with("capable", capable, "hi"),
        put("char", owned(Node::Char(device(1, 3)), 0o666, 0)),
        put("d", owned(Node::Dir, 0o1777, 5)),
        file("d/content", "x".repeat(1500)),
        link("d/link", "d/content"),
        put("d/symlink", owned(Node::Symlink { target: b"../content".to_vec() }, 0o777, 1)),
        put("d".repeat(120), dir(0o700)),
        file(&long, "deep"),
        put("fifo", meta(Node::Fifo)),
        with("fine", fine, "fine"),
        link("linked", &long),
        with("old", old, ""),
        put("suid", owned(Node::File { size: 0 }, 0o4755, 3_000_000_000)),
        put("to", owned(Node::Symlink { target: vec![b't'; 300] }, 0o777, 1)),
    ]
}

fn apply(archive: &[u8], root: &Path) {
    let mut applier = Applier::new(Dir::open(root).expect("open"));
    let decoded = decode(&mut &archive[..], &Limits::default(), &mut applier);
    decoded.unwrap_or_else(|error| panic!("{}", error.chain()));
    applier.finish().unwrap_or_else(|error| panic!("{}", error.chain()));
}

fn tree(root: &Path) -> Tree {
    Tree::read(&Dir::open(root).expect("open")).unwrap_or_else(|error| panic!("{}", error.chain()))
}

/// Runs `program` in `dir` with `input`; it must succeed. Returns its standard output.
fn run(dir: &Path, program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect(program);
    let mut stdin = child.stdin.take().expect("piped");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().expect(program)
    });
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Checks that the trees are equal except for `known`: pairs of a path (`*` for every path) and an attribute.
#[track_caller]
fn assert_same(what: &str, left: &Tree, right: &Tree, known: &[(&str, &str)]) {
    let mut differences = left.differences(right);
    differences.retain(|difference| {
        let is_here = |path: &str| path == "*" || difference.path == Path::new(path);
        !known.iter().any(|(path, aspect)| is_here(path) && *aspect == difference.aspect)
    });
    assert!(differences.is_empty(), "{what}: {differences:#?}");
}

/// Creates the named directories on an ext4 file system.
fn directories(names: &[&str]) -> Option<(crate::mount::scratch::Scratch, Vec<PathBuf>)> {
    let scratch = testing::scratch(FsType::Ext4)?;
    let dirs: Vec<PathBuf> = names.iter().map(|name| scratch.path().join(name)).collect();
    for dir in &dirs {
        fs::create_dir(dir).expect("mkdir");
    }
    Some((scratch, dirs))
}

#[test]
fn gnu_tar_and_bsdtar_extract_what_is_written() {
    if !installed("tar", "tar") || !installed("bsdtar", "libarchive-tools") {
        return;
    }
    let Some((_scratch, dirs)) = directories(&["ours", "gnu", "bsd"]) else { return };
    let archive = write(&sample()).expect("memory");
    apply(&archive, &dirs[0]);
    let ours = tree(&dirs[0]);
    assert_eq!(ours.iter().count(), sample().len());
    let xattrs = ["--xattrs", "--xattrs-include=*"];
    run(&dirs[1], "tar", &[&["-xpf", "-", "--numeric-owner"], &xattrs[..]].concat(), &archive);
    assert_same("GNU tar", &ours, &tree(&dirs[1]), &[]);
    run(&dirs[2], "bsdtar", &["-xpf", "-", "--numeric-owner", "--xattrs"], &archive);
    // bsdtar does not set the time of `.`, also not from its own archives, and reads the fraction of -1.5 as positive.
    assert_same("bsdtar", &ours, &tree(&dirs[2]), &[("", "time"), ("old", "time")]);
}

#[test]
fn what_gnu_tar_and_bsdtar_write_is_read() {
    if !installed("tar", "tar") || !installed("bsdtar", "libarchive-tools") {
        return;
    }
    type Known = [(&'static str, &'static str)];
    let writers: [(&str, &[&str], &Known); 5] = [
        ("tar", &["--format=pax", "--xattrs", "--xattrs-include=*"], &[]),
        ("tar", &["--format=pax", "--sparse", "--xattrs", "--xattrs-include=*"], &[]),
        // GNU's format has whole seconds and no attributes.
        ("tar", &["--format=gnu"], &[("*", "time"), ("*", "xattrs")]),
        ("tar", &["--format=gnu", "--sparse"], &[("*", "time"), ("*", "xattrs")]),
        // bsdtar writes -1.5 as -2.5, because its fraction counts forward.
        ("bsdtar", &["--format=pax", "--xattrs"], &[("old", "time")]),
    ];
    let Some((scratch, dirs)) = directories(&["source"]) else { return };
    let source = &dirs[0];
    apply(&write(&sample()).expect("memory"), source);
    add_sparse_file(source);
    let expected = tree(source);
    for (at, (program, options, known)) in writers.into_iter().enumerate() {
        let archive = run(source, program, &[options, &["-cf", "-", "--numeric-owner", "."]].concat(), b"");
        let target = scratch.path().join(at.to_string());
        fs::create_dir(&target).expect("mkdir");
        apply(&archive, &target);
        assert_same(&format!("{program} {options:?}"), &expected, &tree(&target), known);
    }
}

/// Adds a file with holes at many positions, and more segments than a header's own map can hold.
fn add_sparse_file(dir: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(dir.join("sparse")).expect("create");
    for at in 1..40_u64 {
        file.write_all_at(&[b's'; 100], at * 65536).expect("write");
    }
    file.set_len(50 * 65536).expect("truncate");
    fs::File::create(dir.join("hole")).expect("create").set_len(1 << 20).expect("truncate");
    mknodat(CWD, dir.join("second"), RawType::Fifo, Mode::RUSR, 0).expect("mkfifo");
    let time = Timespec { tv_sec: 5, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    for name in ["sparse", "hole", "second", ""] {
        utimensat(CWD, dir.join(name), &times, AtFlags::empty()).expect("utimens");
    }
}

/// GNU tar's other sparse forms must give the same file.
#[test]
fn case_46_sparse_versions_of_gnu_tar() {
    if !installed("tar", "tar") {
        return;
    }
    let Some((scratch, dirs)) = directories(&["source"]) else { return };
    add_sparse_file(&dirs[0]);
    let expected = tree(&dirs[0]);
    for version in ["0.0", "0.1", "1.0"] {
        let option = format!("--sparse-version={version}");
        let archive = run(&dirs[0], "tar", &["--format=pax", "--sparse", &option, "-cf", "-", "."], b"");
        assert!(archive.len() < 1 << 20, "{version}: {} bytes are not sparse", archive.len());
        let target = scratch.path().join(version);
        fs::create_dir(&target).expect("mkdir");
        apply(&archive, &target);
        assert_same(version, &expected, &tree(&target), &[]);
    }
}

/// The `tar` crate lists the same paths, targets, sizes and owners.
#[test]
fn the_tar_crate_lists_what_is_written() {
    let archive = write(&sample()).expect("memory");
    let mut crates = ::tar::Archive::new(&archive[..]);
    let listed = crates.entries().expect("readable").map(|entry| {
        let entry = entry.expect("well-formed");
        let path = entry.path_bytes().into_owned();
        let link = entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
        (path, link, entry.size(), u32::from(entry.header().entry_type().as_byte()))
    });
    assert_eq!(listed.collect::<Vec<_>>(), listing());
}

/// The `tar-core` crate lists the same, with the attributes.
#[test]
fn tar_core_lists_what_is_written() {
    use tar_core::parse::{ParseEvent, Parser};
    let archive = write(&sample()).expect("memory");
    let mut parser = Parser::with_defaults();
    // `tar-core` refuses archives with negative times unless PAX errors are ignored.
    parser.set_ignore_pax_errors(true);
    let (mut at, mut listed) = (0, Vec::new());
    loop {
        match parser.parse(&archive[at..]).expect("well-formed") {
            ParseEvent::End { .. } => break,
            ParseEvent::Entry { consumed, entry } => {
                let link = entry.link_target.clone().map(std::borrow::Cow::into_owned).unwrap_or_default();
                let kind = u32::from(entry.entry_type.to_byte());
                listed.push((entry.path.to_vec(), link, entry.size, kind));
                if entry.path.as_ref() == b"fine" {
                    assert_eq!(entry.xattrs[0].1.as_ref(), b"line\nbreak\0=nul");
                }
                at += consumed + usize::try_from(entry.padded_size()).expect("small");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(listed, listing());
}

/// Returns path, link target, size and type letter of each entry of the sample, as written in the archive.
fn listing() -> Vec<(Vec<u8>, Vec<u8>, u64, u32)> {
    use std::os::unix::ffi::OsStrExt;
    let line = |(change, content): (Change, Vec<u8>)| {
        let path = change.path().as_os_str().as_bytes().to_vec();
        let (link, kind) = match &change {
            Change::Link { target, .. } => (target.as_os_str().as_bytes().to_vec(), b'1'),
            Change::Put { meta, .. } => match &meta.node {
                Node::Dir if path.is_empty() => return (b"./".to_vec(), Vec::new(), 0, b'5'.into()),
                Node::Dir => return ([&path[..], b"/"].concat(), Vec::new(), 0, b'5'.into()),
                Node::Symlink { target } => (target.clone(), b'2'),
                Node::Char(_) => (Vec::new(), b'3'),
                Node::Block(_) => (Vec::new(), b'4'),
                Node::Fifo => (Vec::new(), b'6'),
                _ => (Vec::new(), b'0'),
            },
            other => panic!("{other:?}"),
        };
        (path, link, content.len() as u64, kind.into())
    };
    sample().into_iter().map(line).collect()
}
