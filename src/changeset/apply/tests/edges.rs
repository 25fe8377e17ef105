//! Places that a layer must not reach, missing abilities of file systems, and counters.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::super::Applier;
use super::{scratch, tree};
use crate::changeset::notation::{apply, show};
use crate::changeset::{Change, Sink};
use crate::error::ErrorKind;
use crate::mount::scratch::{FsType, Scratch};
use crate::testing;
use crate::tree::{Dir, Meta, Node, Timestamp};

#[test]
fn nothing_is_inherited_from_a_default_acl() {
    // Version 2; user, named user 1000, group, mask, others.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions, id) in
        [(1_u16, 7_u16, u32::MAX), (2, 7, 1000), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)]
    {
        acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    let Some(scratch) = scratch() else { return };
    let root = tree(&scratch.path().join("t"), &["d d", "d d/lower"]);
    for dir in ["d", "d/lower"] {
        let dir = Dir::open(scratch.path().join("t").join(dir)).expect("open");
        dir.set_xattr("", b"system.posix_acl_default", &acl).expect("acl");
        dir.set_mtime("", Timestamp::EPOCH).expect("time");
    }
    let layer = ["f d/f \"x\"", "p d/p", "d d/e 700", "f d/e/f \"x\"", "f d/i/f \"x\"", "l d/l -> x"];
    apply(&root, &layer).expect("apply");
    let lines = show(&root);
    let expected = ["d d/e 700", "f d/e/f \"x\"", "f d/f \"x\"", "d d/i", "f d/i/f \"x\"", "l d/l -> x"];
    assert_eq!(lines[1..7], expected);
    assert!(lines[0].contains("posix_acl_default") && lines[7].contains("posix_acl_default"), "{lines:?}");
    assert_eq!(lines[8], "p d/p");
}

#[test]
fn the_mode_of_an_entry_wins_over_its_acl() {
    // Version 2; user rwx, group rwx, mask rwx, others ---.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions) in [(1_u16, 7_u16), (4, 7), (16, 7), (32, 0)] {
        acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        acl.extend(u32::MAX.to_le_bytes());
    }
    let Some(scratch) = scratch() else { return };
    let root = tree(&scratch.path().join("t"), &[]);
    let mut applier = Applier::new(root.try_clone().expect("clone"));
    for (path, node) in [("f", Node::File { size: 0 }), ("d", Node::Dir), ("p", Node::Fifo)] {
        let xattrs = [(b"system.posix_acl_access".to_vec(), acl.clone())].into();
        let meta = Meta { node, mode: 0o640, xattrs, ..Meta::implied_dir() };
        applier.change(&Change::Put { path: path.into(), existed: false, meta }, &mut std::io::empty()).expect("put");
    }
    applier.finish().expect("finish");
    for path in ["f", "d", "p"] {
        assert_eq!(root.stat(path).expect("stat").mode, 0o640, "{path}");
    }
}

#[test]
fn a_layer_reaches_nothing_outside() {
    let Some(scratch) = scratch() else { return };
    let outside = scratch.path().join("outside");
    tree(&outside, &["f victim \"safe\" @5", "d dir @5", "f dir/f \"safe\""]);
    let before = show(&Dir::open(&outside).expect("open"));
    let absolute = outside.to_str().expect("utf-8");
    let links =
        ["../outside", "../../../../../../..", absolute, "/proc/self/root", "/proc/self/cwd", "d/../../outside", "."];
    for target in links {
        for by_layer in [false, true] {
            let place = scratch.path().join("root");
            let link = format!("l l -> {target}");
            let root = tree(&place, &["d d", if by_layer { "d d" } else { &link }]);
            let start = if by_layer { &link } else { "d d" };
            let victims = ["l/victim", "l/dir/f", "l/outside/victim"].map(str::to_owned);
            let deep = format!("l{absolute}/victim");
            for victim in victims.iter().chain([&deep]) {
                let above = victim.rsplit_once('/').expect("parent").0;
                for attack in [
                    format!("f {victim} \"evil\""),
                    format!("l {victim} -> evil"),
                    format!("d {victim} 700"),
                    format!("c {victim} dev=1:3"),
                    format!("- {victim}"),
                    format!("! {above}"),
                    format!("! {victim}"),
                    format!("d {above} 700 1:2"),
                    format!("h {victim} -> d/f"),
                    format!("h stolen -> {victim}"),
                ] {
                    // An error is as good: nothing may happen outside.
                    drop(apply(&root, &[start, "f d/f \"x\"", &attack]));
                    assert_eq!(show(&Dir::open(&outside).expect("open")), before, "{link}, then {attack}");
                    assert_ne!(fs::read(place.join("stolen")).unwrap_or_default(), b"safe", "{link}, then {attack}");
                }
            }
            fs::remove_dir_all(place).expect("remove");
        }
    }
}

#[test]
fn the_last_component_is_never_followed() {
    let Some(scratch) = scratch() else { return };
    tree(&scratch.path().join("outside"), &["f f \"safe\" 600 @5", "d d 700 @5"]);
    let root = tree(&scratch.path().join("root"), &[]);
    for (link, line) in
        [("f", "f l \"x\" 4755 1:2"), ("d", "d l 1777 1:2"), ("f", "p l 666"), ("f", "- l"), ("d", "- l")]
    {
        let target = scratch.path().join("outside").join(link);
        drop(fs::remove_dir(scratch.path().join("root/l")));
        drop(fs::remove_file(scratch.path().join("root/l")));
        symlink(&target, scratch.path().join("root/l")).expect("link");
        apply(&root, &[line]).expect("apply");
        let outside = show(&Dir::open(scratch.path().join("outside")).expect("open"));
        assert_eq!(outside, ["d d 700 @5", "f f \"safe\" 600 @5"], "{line}");
    }
}

/// Applies one file of `size` bytes that `data` yields.
fn put(root: &Dir, path: &str, size: u64, mut data: &[u8]) -> crate::Result<()> {
    let meta = Meta { node: Node::File { size }, ..Meta::implied_dir() };
    let mut applier = Applier::new(root.try_clone().expect("clone"));
    applier.change(&Change::Put { path: path.into(), existed: false, meta }, &mut data)?;
    applier.finish().map(drop)
}

#[test]
fn zeros_become_holes() {
    for fs_type in FsType::ALL {
        let Some(scratch) = testing::scratch(fs_type) else { continue };
        let root = Dir::open(scratch.path()).expect("open");
        const BLOCK: usize = 64 * 1024;
        for (number, (length, bytes)) in [
            (20 * BLOCK, vec![]),
            (20 * BLOCK, vec![0, 20 * BLOCK - 1]),
            (20 * BLOCK + 1, vec![7 * BLOCK]),
            (20 * BLOCK + 1, vec![20 * BLOCK]),
            (4 * BLOCK, vec![4 * BLOCK - 1]),
            (9 * BLOCK, vec![3 * BLOCK - 1, 3 * BLOCK, 4 * BLOCK]),
            (100, vec![]),
            (0, vec![]),
        ]
        .into_iter()
        .enumerate()
        {
            let mut data = vec![0; length];
            bytes.iter().for_each(|at| data[*at] = 1);
            let name = number.to_string();
            put(&root, &name, length as u64, &data).expect("put");
            assert!(fs::read(scratch.path().join(&name)).expect("read") == data, "{fs_type}: {number}");
            let allocated = root.stat(&name).expect("stat").allocated;
            // Twice: xfs allocates ahead of a file that grows.
            assert!(allocated <= (2 * bytes.len() * BLOCK) as u64, "{fs_type}: {number}: {allocated}");
        }
    }
}

#[test]
fn data_that_ends_early_is_an_error_that_names_the_file() {
    let Some(scratch) = scratch() else { return };
    let root = Dir::open(scratch.path()).expect("open");
    let error = put(&root, "d/short", 10, b"123").expect_err("short");
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.to_string().contains("d/short"), "{error}");
}

#[test]
fn a_full_disk_is_an_error_that_names_the_file() {
    let Some(scratch) = testing::gate("tmpfs", Scratch::new(FsType::Tmpfs, 1 << 20)) else { return };
    let root = Dir::open(scratch.path()).expect("open");
    let error = put(&root, "d/large", 2 << 20, &vec![1; 2 << 20]).expect_err("full");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.to_string().contains("d/large"), "{error}");
}

#[test]
fn case_32_too_many_links_are_an_error() {
    let Some(scratch) = testing::scratch(FsType::Ext4) else { return };
    let root = tree(&scratch.path().join("t"), &["f a \"x\""]);
    let at = |number: u32| format!("l{number}");
    let made = (0..70_000).take_while(|number| root.make_link(&root, "a", at(*number)).is_ok()).count();
    assert!((60_000..70_000).contains(&made), "{made}");
    let error = apply(&root, &["h one-more -> a"]).expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.to_string().contains("one-more"), "{error}");
}

#[test]
fn case_42_times_beyond_the_range_are_clamped_and_counted() {
    for (fs_type, clamped) in [(FsType::Ext4, 4), (FsType::Xfs, 4), (FsType::Btrfs, 0), (FsType::Tmpfs, 0)] {
        let Some(scratch) = testing::scratch(fs_type) else { continue };
        let root = tree(&scratch.path().join("t"), &[]);
        let layer = [
            "f f \"x\" @99999999999",
            "d d @99999999999",
            "p p @99999999999",
            "l l -> x @-99999999999",
            "f g \"x\" @4000000000",
        ];
        assert_eq!(apply(&root, &layer).expect("apply").clamped_times, clamped, "{fs_type}");
        assert_eq!(root.stat("g").expect("stat").mtime.seconds, 4_000_000_000);
    }
}

/// containerd advisory GHSA-rp3h-jf77-q9p4: each mark of an opaque directory walked the directory again.
#[test]
fn saying_it_again_lists_nothing_again() {
    const FILES: usize = 200;
    const TIMES: usize = 100;
    let Some(scratch) = scratch() else { return };
    let lower: Vec<String> = (0..FILES).map(|number| format!("f d/e/{number} \"x\"")).collect();
    let layer: Vec<String> = (0..TIMES)
        .flat_map(|number| {
            [format!("f d/e/n{number} \"y\""), "! d".into(), "! d/e".into(), "- d".into(), "- d/e".into()]
        })
        .chain((0..TIMES).map(|_| "! l/e".into()))
        .collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).chain(["l l -> d"]).collect();
    let root = tree(&scratch.path().join("t"), &lower);
    let mut applier = Applier::new(root.try_clone().expect("clone"));
    for line in &layer {
        let (change, content) = crate::changeset::notation::parse(line);
        applier.change(&change, &mut content.as_slice()).expect("apply");
    }
    // All of the lower tree, and of the layer only what was there at the first time.
    let most = (FILES + 3) as u64;
    assert!(applier.listed <= most, "{} entries were listed, {most} are enough", applier.listed);
    applier.finish().expect("finish");
    assert_eq!(show(&root).len(), TIMES + 3);
}

#[test]
fn what_was_left_out_is_counted() {
    let Some(scratch) = scratch() else { return };
    let root = tree(&scratch.path().join("t"), &[]);
    let layer = ["l l -> x user.a=b user.c=d", "p p user.a=b", "f f \"x\" security.selinux=x user.a=b", "- l"];
    let applied = apply(&root, &layer).expect("apply");
    assert_eq!((applied.entries, applied.dropped_xattrs), (4, 4));
    assert_eq!((applied.skipped_devices, applied.clamped_times), (0, 0));
}

#[test]
fn devices_are_skipped_in_a_user_namespace() {
    const INSIDE: &str = "STRATA_TEST_IN_USER_NAMESPACE";
    if std::env::var_os(INSIDE).is_none() {
        let name = "changeset::apply::tests::edges::devices_are_skipped_in_a_user_namespace";
        let myself = std::env::current_exe().expect("myself");
        let output = Command::new("unshare").arg("-rm").arg(myself).args(["--exact", name]).env(INSIDE, "1").output();
        let output = match output {
            Ok(output) if output.status.success() => return,
            Ok(output) => output,
            Err(error) => {
                testing::require("user-namespace", Err(error.to_string()));
                return;
            }
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let forbidden = said.contains("unshare failed") || said.contains("uid_map");
        assert!(forbidden, "{said}{}", String::from_utf8_lossy(&output.stdout));
        testing::require("user-namespace", Err(said));
        return;
    }
    let scratch = Scratch::new(FsType::Tmpfs, 1 << 20).expect("scratch");
    let root = tree(&scratch.path().join("t"), &["f null \"x\"", "f zero \"x\""]);
    let layer =
        ["c null dev=1:3", "h d/null -> null", "h late -> zero2", "c zero2 dev=1:5", "c zero dev=1:5", "f zero \"y\""];
    let applied = apply(&root, &layer).expect("apply");
    assert_eq!(applied.skipped_devices, 5);
    assert_eq!(show(&root), ["d d", "f zero \"y\""]);
    let error = apply(&root, &["f a \"x\" 7:7"]).expect_err("owner");
    assert!(error.to_string().contains("7:7 is not mapped"), "{error}");
}

/// However many links wait for their targets, memory does not grow with them.
#[test]
fn links_that_wait_have_a_limit() {
    let Some(scratch) = scratch() else { return };
    let mut applier = Applier::new(tree(&scratch.path().join("t"), &[]));
    let target = std::path::PathBuf::from("missing/".repeat(500) + "x");
    let links = super::super::WAITING_BYTES_MAX / target.as_os_str().len();
    let answer = (0..=links).try_for_each(|number| {
        let link = Change::Link { path: format!("link{number}").into(), target: target.clone(), existed: false };
        applier.change(&link, &mut std::io::empty())
    });
    assert_eq!(answer.expect_err("too many").kind(), ErrorKind::ResourceExhausted);
}
