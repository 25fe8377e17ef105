//! Changes and their order, as lines of text.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::{Ancestors, diff};
use crate::changeset::notation::{apply, changes, fresh, show};
use crate::changeset::{Candidates, Change};
use crate::error::ErrorKind;
use crate::mount::scratch::{FsType, Scratch};
use crate::testing;
use crate::tree::{Dir, FileType, Meta, Timestamp};

/// Two trees side by side on one file system.
struct Pair {
    old: Dir,
    new: Dir,
    scratch: Scratch,
}

impl Pair {
    fn new(old: &[&str], new: &[&str]) -> Option<Self> {
        let scratch = testing::scratch(FsType::Tmpfs)?;
        let [old, new] = [("old", old), ("new", new)].map(|(name, lines)| {
            let root = fresh(scratch.path().join(name));
            root.set_meta("", &Meta::implied_dir()).expect("root");
            apply(&root, lines).expect("apply");
            root
        });
        Some(Self { old, new, scratch })
    }

    fn changes(&self) -> Vec<String> {
        changes(Some(&self.old), &self.new).expect("diff")
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.scratch.path().join(path)
    }
}

fn check(old: &[&str], new: &[&str], expected: &[&str]) {
    let Some(pair) = Pair::new(old, new) else { return };
    assert_eq!(pair.changes(), expected, "\nfrom {old:?}\nto {new:?}");
    let same = changes(Some(&pair.new), &pair.new).expect("diff");
    assert!(same.is_empty(), "against itself: {same:?}");
}

#[test]
fn what_is_a_change() {
    let lower = ["d d 700 1:2 @5 user.a=b", "f d/f \"x\" @6 user.a=b", "l d/l -> t @7", "c d/c dev=1:3 @8"];
    let with = |number: usize, line: &'static str| {
        let mut new = lower;
        new[number] = line;
        new
    };
    check(&lower, &lower, &[]);
    check(&lower, &with(0, "d d 711 1:2 @5 user.a=b"), &["~ d d 711 1:2 @5 user.a=b"]);
    check(&lower, &with(0, "d d 700 1:3 @5 user.a=b"), &["~ d d 700 1:3 @5 user.a=b"]);
    check(&lower, &with(0, "d d 700 1:2 @5 user.a=c"), &["~ d d 700 1:2 @5 user.a=c"]);
    check(&lower, &with(0, "d d 700 1:2 @5"), &["~ d d 700 1:2 @5"]);
    check(&lower, &with(0, "d d 700 1:2 @9 user.a=b"), &[]);
    check(&lower, &with(1, "f d/f \"y\" @6 user.a=b"), &["~ f d/f \"y\" @6 user.a=b"]);
    check(&lower, &with(1, "f d/f \"x\" @9 user.a=b"), &["~ f d/f \"x\" @9 user.a=b"]);
    check(&lower, &with(1, "f d/f \"x\" @6.1 user.a=b"), &["~ f d/f \"x\" @6.1 user.a=b"]);
    check(&lower, &with(1, "f d/f \"x\" 4644 @6 user.a=b"), &["~ f d/f \"x\" 4644 @6 user.a=b"]);
    check(&lower, &with(1, "f d/f \"x\" @6 user.b=b"), &["~ f d/f \"x\" @6 user.b=b"]);
    check(&lower, &with(2, "l d/l -> u @7"), &["~ l d/l -> u @7"]);
    check(&lower, &with(2, "l d/l -> t @9"), &["~ l d/l -> t @9"]);
    check(&lower, &with(2, "l d/l -> t 0:1 @7"), &["~ l d/l -> t 0:1 @7"]);
    check(&lower, &with(3, "c d/c dev=1:5 @8"), &["~ c d/c dev=1:5 @8"]);
    check(&lower, &with(3, "b d/c dev=1:3 @8"), &["~ b d/c dev=1:3 @8"]);
    check(&["f a \"x\""], &["d . 700", "f a \"x\""], &["~ d . 700"]);
}

#[test]
fn a_directory_is_emitted_for_its_time_only_with_an_entry_directly_inside() {
    check(&["d d @1", "f d/a \"x\""], &["d d @2"], &["~ d d @2", "- d/a"]);
    check(&["d d @1", "d d/e @1"], &["d d @2", "d d/e @1", "f d/e/a \"x\""], &["+ f d/e/a \"x\""]);
    // A directory that is emitted for its time is an entry, too.
    check(
        &["d . @1", "d d @1", "d d/e @1"],
        &["d . @2", "d d @2", "d d/e @2", "f d/e/a \"x\""],
        &["~ d . @2", "~ d d @2", "~ d d/e @2", "+ f d/e/a \"x\""],
    );
    // And so is a name that is emitted for its group alone.
    check(
        &["d d @1", "f d/a \"x\"", "h d/b -> d/a"],
        &["d d @2", "f d/a \"x\"", "h d/b -> d/a", "h c -> d/a"],
        &["+ f c \"x\"", "~ d d @2", "~ h d/a -> c", "~ h d/b -> c"],
    );
}

#[test]
fn order_is_depth_first_and_removes_come_first() {
    check(
        &["f a/z \"\"", "f a/b/c \"\"", "f a/b/y \"\"", "f z \"\"", "d e/f", "f a.b \"\""],
        &["f a/a \"\"", "f a/b/d \"\"", "f a/b/y \"1\"", "f b \"\"", "d e/f", "f a-b \"\""],
        &[
            "- a.b",
            "- z",
            "- a/z",
            "+ f a/a \"\"",
            "- a/b/c",
            "+ f a/b/d \"\"",
            "~ f a/b/y \"1\"",
            "+ f a-b \"\"",
            "+ f b \"\"",
        ],
    );
}

#[test]
fn types_are_replaced_by_one_entry() {
    check(&["f a/b/c \"x\""], &["f a \"x\""], &["~ f a \"x\""]);
    check(&["f a \"x\""], &["d a 700", "d a/b", "f a/b/c \"x\""], &["~ d a 700", "+ d a/b", "+ f a/b/c \"x\""]);
    check(&["l a -> b"], &["d a"], &["~ d a"]);
    check(&["f a/b/c \"x\""], &[], &["- a"]);
    check(&["f a/b \"x\"", "f a/c \"x\""], &["d a 700", "f a/c \"y\""], &["~ d a 700", "- a/b", "~ f a/c \"y\""]);
}

#[test]
fn without_an_old_tree_everything_is_new_but_an_undescribed_root() {
    let tree = ["d .  700 1:2 @3", "d a", "f a/b \"x\"", "l a/c -> b", "h d -> a/b"];
    let Some(pair) = Pair::new(&[], &tree) else { return };
    let all = changes(None, &pair.new).expect("diff");
    assert_eq!(all, ["~ d . 700 1:2 @3", "+ d a", "+ f a/b \"x\"", "+ l a/c -> b", "+ h d -> a/b"]);
}

#[test]
fn without_an_old_tree_an_undescribed_root_is_no_change() {
    let Some(pair) = Pair::new(&[], &["d . 755 0:0 @0"]) else { return };
    assert_eq!(changes(None, &pair.new).expect("diff"), [""; 0]);
    let Some(pair) = Pair::new(&[], &["d . 755 0:0 @7"]) else { return };
    assert_eq!(changes(None, &pair.new).expect("diff"), [""; 0], "a time alone, and nothing in it");
    let Some(pair) = Pair::new(&[], &["d . 755 0:0 @7", "d a"]) else { return };
    assert_eq!(changes(None, &pair.new).expect("diff").len(), 2);
}

#[test]
fn hard_links_are_emitted_all_or_none() {
    let old = ["f a \"x\"", "h b -> a", "h d/c -> a", "f e \"x\""];
    check(&old, &old, &[]);
    // A new name, a lost name, a split without another difference.
    check(
        &old,
        &["f a \"x\"", "h b -> a", "h d/c -> a", "f e \"x\"", "h d/a -> a"],
        &["~ f a \"x\"", "~ h b -> a", "+ h d/a -> a", "~ h d/c -> a"],
    );
    check(&old, &["f a \"x\"", "h d/c -> a", "f e \"x\""], &["- b"]);
    check(&old, &["f a \"x\"", "h b -> a", "f d/c \"x\"", "f e \"x\""], &[]);
    // Joined without a difference: no name is new.
    check(&old, &["f a \"x\"", "h b -> a", "h d/c -> a", "h e -> a"], &[]);
    check(&old, &["f a \"y\"", "h b -> a", "h d/c -> a", "f e \"x\""], &["~ f a \"y\"", "~ h b -> a", "~ h d/c -> a"]);
    // A group with a name in a directory that is new as a whole.
    check(
        &["f a \"x\"", "d d"],
        &["d b", "h b/c -> d/z", "h b/d -> d/z", "f d/z \"x\"", "f a \"x\""],
        &["+ d b", "+ f b/c \"x\"", "+ h b/d -> b/c", "+ h d/z -> b/c"],
    );
    // Links of links and of fifos.
    check(&["l a -> x"], &["l a -> x", "h b -> a"], &["~ l a -> x", "+ h b -> a"]);
    check(&["p a"], &["p a", "h b -> a"], &["~ p a", "+ h b -> a"]);
}

#[test]
fn swapped_directories_with_equal_names_are_told_apart_by_bytes() {
    check(
        &["f a/f \"1\" @5", "f a/same \"s\" @5", "f b/f \"2\" @5", "f b/same \"s\" @5"],
        &["f a/f \"2\" @5", "f a/same \"s\" @5", "f b/f \"1\" @5", "f b/same \"s\" @5"],
        &["~ f a/f \"2\" @5", "~ f b/f \"1\" @5"],
    );
}

#[test]
fn large_and_sparse_files() {
    let Some(pair) = Pair::new(&[], &[]) else { return };
    let size = 8 << 30;
    let make = |path: &str, byte: u8, at: u64| {
        let file = fs::File::create(pair.path(path)).expect("create");
        file.set_len(size).expect("resize");
        file.write_all_at(&[byte], at).expect("write");
        file.write_all_at(&[7], 300_000).expect("write");
    };
    let stamp = |root: &Dir| {
        root.set_mtime("f", Timestamp::EPOCH).expect("time");
        root.set_mtime("", Timestamp::EPOCH).expect("time");
    };
    make("old/f", 1, size - 1);
    for (byte, at, equal) in [(1, size - 1, true), (2, size - 1, false), (1, size - 2, false), (0, size - 1, false)] {
        make("new/f", byte, at);
        stamp(&pair.old);
        stamp(&pair.new);
        let mut count = 0;
        let mut sink = |_: &Change, _: &mut dyn Read| {
            count += 1;
            Ok(())
        };
        diff(Some(&pair.old), &pair.new, Candidates::All, &mut sink).expect("diff");
        assert_eq!(count == 0, equal, "{byte} at {at}");
    }
    // One byte where the other has a hole.
    make("new/f", 1, size - 1);
    stamp(&pair.new);
    assert!(pair.changes().is_empty());
    for path in ["old/f", "new/f"] {
        let file = fs::OpenOptions::new().write(true).open(pair.path(path)).expect("open");
        for (byte, equal) in [(1, false), (0, true)] {
            file.write_all_at(&[byte], 1 << 30).expect("write");
            stamp(&pair.old);
            stamp(&pair.new);
            let mut answer = Ok(());
            let mut sink = |_: &Change, _: &mut dyn Read| {
                answer = Err(());
                Ok(())
            };
            diff(Some(&pair.old), &pair.new, Candidates::All, &mut sink).expect("diff");
            assert_eq!(answer.is_ok(), equal, "{byte} in {path}");
        }
    }
    // Written zeros are what a hole reads as.
    let file = fs::OpenOptions::new().write(true).open(pair.path("new/f")).expect("open");
    file.write_all_at(&[1], size - 1).expect("write");
    file.write_all_at(&[0; 100_000], 1 << 20).expect("write");
    stamp(&pair.new);
    assert!(pair.changes().is_empty());
}

#[test]
fn sockets_are_nothing() {
    let Some(pair) = Pair::new(
        &["f was-file \"x\"", "d d @1", "d e"],
        &["f is-file \"x\"", "d is-dir", "f is-dir/a \"x\"", "d d @1", "d e"],
    ) else {
        return;
    };
    let socket = |path: &str| drop(UnixListener::bind(pair.path(path)).expect("socket"));
    for path in ["old/is-file", "old/is-dir", "old/gone", "old/d/gone", "new/was-file", "new/e/new", "new/is-dir/s"] {
        socket(path);
    }
    let root = |root: &Dir| root.set_mtime("", Timestamp::EPOCH).expect("time");
    root(&pair.old);
    root(&pair.new);
    root(&pair.new.open_dir("is-dir").expect("open"));
    assert_eq!(pair.changes(), ["- was-file", "+ d is-dir", "+ f is-dir/a \"x\"", "+ f is-file \"x\""]);
}

#[test]
fn whiteouts_of_overlayfs_are_refused() {
    for in_old in [false, true] {
        let Some(pair) = Pair::new(&["d d"], &["d d"]) else { return };
        let root = if in_old { &pair.old } else { &pair.new };
        let dir = root.open_dir("d").expect("open");
        let made = dir.make_node(FileType::Char, crate::tree::Device::default(), "w");
        let Some(()) = testing::gate("root", made) else { return };
        let error = changes(Some(&pair.old), &pair.new).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("d/w"), "{error}");
    }
}

#[test]
fn a_vanished_name_that_no_whiteout_can_spell_makes_its_directory_opaque() {
    let long = "l".repeat(252);
    let gone = format!("f d/{long} \"x\"");
    let spelled = format!("f d/{} \"x\"", &long[..251]);
    let new = ["d d 700", "f d/a \"x\"", "d d/e", "f d/e/b \"y\"", "f d/new \"z\"", "d f", "f f/g \"x\""];
    let old = |line| ["d d 700", "f d/a \"x\"", "d d/e", "f d/e/b \"x\"", "d f", "f f/g \"x\"", line];
    check(&old(&spelled), &new, &[&format!("- d/{}", &long[..251]), "~ f d/e/b \"y\"", "+ f d/new \"z\""]);
    check(&old(&gone), &new, &["~ d d 700", "! d", "~ f d/a \"x\"", "~ d d/e", "~ f d/e/b \"y\"", "+ f d/new \"z\""]);
    // Replaced is not vanished, and what vanishes with its directory needs no whiteout of its own.
    check(&[&gone], &[&format!("d d/{long}")], &[&format!("~ d d/{long}")]);
    check(&[&gone], &[], &["- d"]);
    // In the root, and with a group that reaches out of the directory.
    let at_root = format!("f {long} \"x\"");
    check(&[&at_root, "f a \"x\""], &["f a \"x\""], &["~ d .", "! .", "~ f a \"x\""]);
    check(
        &[&gone, "f a \"x\"", "h d/b -> a"],
        &["d d", "f a \"x\"", "h d/b -> a"],
        &["~ f a \"x\"", "~ d d", "! d", "~ h d/b -> a"],
    );
    // Applying the emitted changes gives the new tree.
    let Some(pair) = Pair::new(&old(&gone), &new) else { return };
    let copy = fresh(pair.path("copy"));
    copy.set_meta("", &Meta::implied_dir()).expect("root");
    apply(&copy, &old(&gone)).expect("apply");
    let mut applier = crate::changeset::apply::Applier::new(copy.try_clone().expect("clone"));
    diff(Some(&pair.old), &pair.new, Candidates::All, &mut applier).expect("diff");
    applier.finish().expect("finish");
    assert_eq!(show(&copy), show(&pair.new));
}

#[test]
fn deep_trees_need_few_descriptors() {
    const DEPTH: usize = 1500;
    let Some(pair) = Pair::new(&[], &[]) else { return };
    let added = [1400, 700, 30, 29, 3];
    for (root, is_new) in [(&pair.old, false), (&pair.new, true)] {
        let mut dir = root.try_clone().expect("clone");
        for depth in 0..DEPTH {
            if is_new && added.contains(&depth) {
                dir.create_file("z").expect("create");
            }
            dir.make_dir("d").expect("mkdir");
            dir = dir.open_dir("d").expect("open");
        }
    }
    let files: Vec<usize> = pair
        .changes()
        .iter()
        .filter_map(|line| line.strip_prefix("+ f "))
        .map(|line| line.split(' ').next().expect("path").matches("d/").count())
        .collect();
    // Those further down come first.
    assert_eq!(files, added);
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let Some(pair) = Pair::new(&[], &["f a \"12345678\""]) else { return };
    let path = pair.path("new/a");
    let mut sink = |change: &Change, data: &mut dyn Read| {
        if change.path() == Path::new("a") {
            fs::File::create(&path).expect("truncate");
            let error = data.read_to_end(&mut Vec::new()).expect_err("short");
            return Err(error.downcast().expect("our own"));
        }
        Ok(())
    };
    let error = diff(None, &pair.new, Candidates::All, &mut sink).expect_err("shrank");
    assert!(error.to_string().contains("a became shorter"), "{error}");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn links_are_not_followed() {
    let Some(pair) = Pair::new(&["f d/a \"x\""], &[]) else { return };
    symlink(pair.path("old/d"), pair.path("new/d")).expect("link");
    pair.new.set_mtime("", Timestamp::EPOCH).expect("time");
    let changes = pair.changes();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(changes[0].starts_with("~ l d -> "), "{changes:?}");
}

#[test]
fn ancestors_have_the_new_attributes_and_the_old_time() {
    let old = ["d . 711 @1", "d d 700 1:2 @3 user.a=b", "d d/e @4", "f d/z \"x\""];
    let new = ["d . 711 @2", "d d 750 1:2 @5 user.a=c", "d d/e @6", "d d/n @7", "d d/z @8"];
    let Some(pair) = Pair::new(&old, &new) else { return };
    let mut ancestors = Ancestors::new(Some(&pair.old), &pair.new);
    let mut mtime = |path: &str| ancestors.meta(Path::new(path)).expect("meta").mtime.seconds;
    assert_eq!(["", "d", "d/e", "d/n", "d/z", "d/e", ""].map(&mut mtime), [1, 3, 4, 7, 8, 4, 1]);
    let meta = ancestors.meta(Path::new("d")).expect("meta");
    assert_eq!((meta.mode, meta.uid, meta.gid), (0o750, 1, 2));
    assert_eq!(meta.xattrs.values().next().expect("one"), b"c");
    assert_eq!(ancestors.meta(Path::new("nothing")).expect_err("none").kind(), ErrorKind::NotFound);
    assert_eq!(Ancestors::new(None, &pair.new).meta(Path::new("d/e")).expect("meta").mtime.seconds, 6);
}
