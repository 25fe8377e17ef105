//! How a layer is applied, case by case. The numbers are those of the project's checklist of layer semantics.

use std::fs;
use std::path::Path;

use super::{Applied, Applier};
use crate::changeset::Candidates;
use crate::changeset::diff::diff;
use crate::changeset::notation::{apply, apply_by, fresh, show};
use crate::error::{ErrorKind, Result};
use crate::mount::scratch::{FsType, Scratch};
use crate::mount::{self, Mount, Upper};
use crate::testing;
use crate::tree::{Dir, Meta};

mod deep;
mod edges;
mod random;

/// Where a table of cases runs: each on trees of its own.
fn scratch() -> Option<Scratch> {
    testing::scratch(FsType::Tmpfs)
}

/// A fresh tree made of lines.
fn tree(path: &Path, lines: &[&str]) -> Dir {
    let root = fresh(path);
    root.set_meta("", &Meta::implied_dir()).expect("root");
    apply(&root, lines).unwrap_or_else(|error| panic!("{}: {}", path.display(), error.chain()));
    root
}

/// Applies `layer` over `lower`, once in a plain directory and once in a merged view of overlayfs, and compares the
/// tree, or the error if `expected` is `error: ...`. Directories that get what is due to them after each entry are no
/// different; and what changed in the plain directory, applied to another copy of `lower`, has to give the same tree.
fn check(scratch: &Scratch, case: &str, lower: &[&str], layer: &[&str], expected: &[&str]) {
    let place = scratch.path().join(case.replace([' ', '/'], "-"));
    fs::create_dir(&place).expect("mkdir");
    let plain = tree(&place.join("plain"), lower);
    check_one(&plain, case, layer, expected);
    let hasty = tree(&place.join("hasty"), lower);
    let mut applier = Applier::new(hasty.try_clone().expect("clone"));
    applier.ledger.due_bytes_max = 0;
    check_answer(&hasty, &format!("{case}: settled at once"), apply_by(applier, layer), expected);
    if !expected.first().is_some_and(|line| line.starts_with("error: ")) {
        let mut copy = Applier::new(tree(&place.join("copy"), lower));
        diff(Some(&tree(&place.join("lower"), lower)), &plain, Candidates::All, &mut copy).expect("diff");
        copy.finish().expect("finish");
        assert_eq!(show(&Dir::open(place.join("copy")).expect("open")), expected, "{case}: the changes, applied");
    }
    if let Some(merged) = merged(&place, lower) {
        check_one(&merged, &format!("{case}: overlay"), layer, expected);
    }
    fs::remove_dir_all(place).expect("remove");
}

fn check_one(root: &Dir, case: &str, layer: &[&str], expected: &[&str]) {
    check_answer(root, case, apply(root, layer), expected);
}

fn check_answer(root: &Dir, case: &str, answer: Result<Applied>, expected: &[&str]) {
    match (answer, expected) {
        (Err(error), [wanted]) if wanted.starts_with("error: ") => {
            let wanted = wanted.trim_start_matches("error: ");
            assert!(error.chain().contains(wanted), "{case}: {}", error.chain());
            assert_eq!(error.kind() == ErrorKind::Unsupported, wanted == "nonsense.a", "{case}: {}", error.kind());
        }
        (Err(error), _) => panic!("{case}: {}", error.chain()),
        (Ok(_), _) => assert_eq!(show(root), expected, "{case}"),
    }
}

/// A merged view of `lower`.
fn merged(place: &Path, lines: &[&str]) -> Option<Dir> {
    let [lower, upper, work] = ["lower-layer", "upper", "work"].map(|name| place.join(name));
    let below = tree(&lower, lines);
    let above = fresh(&upper);
    above.set_meta("", &below.meta("", &below.stat("").expect("stat")).expect("meta")).expect("root");
    drop(fresh(&work));
    let overlay = Mount::Overlay { lower: vec![lower], upper: Some(Upper { dir: upper, work }), userxattr: false };
    let mount = testing::gate("overlay", mount::detached(&[overlay]))?;
    // A descriptor that can be read: that of a mount is only a place.
    Some(Dir::from_fd(mount, "merged").open_dir(".").expect("open"))
}

type Case = (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

fn check_all(cases: &[Case]) {
    let Some(scratch) = scratch() else { return };
    for (case, lower, layer, expected) in cases {
        check(&scratch, case, lower, layer, expected);
    }
}

#[test]
fn whiteouts() {
    check_all(&[
        ("1 removes a file", &["f a \"x\"", "f b \"y\""], &["- a"], &["f b \"y\""]),
        ("1 removes a directory with all in it", &["f d/e/a \"x\"", "f b \"y\""], &["- d"], &["f b \"y\""]),
        ("1 removes a link and not its target", &["d d", "f d/a \"x\"", "l l -> d"], &["- l"], &["d d", "f d/a \"x\""]),
        ("1 removes a device", &["c null dev=1:3"], &["- null"], &[]),
        ("2 of nothing", &["f a \"x\""], &["- b"], &["f a \"x\""]),
        ("3 below nothing", &["f a \"x\""], &["- b/c/d"], &["f a \"x\""]),
        ("3 below a file", &["f a \"x\""], &["- a/b"], &["f a \"x\""]),
        ("4 entry, then its whiteout", &["f a \"old\""], &["f a \"new\"", "- a"], &["f a \"new\""]),
        ("5 whiteout, then a file", &["f a \"old\" 600 1:2"], &["- a", "f a \"new\""], &["f a \"new\""]),
        (
            "5 whiteout, then a directory",
            &["d d 700 1:2", "f d/old \"x\""],
            &["- d", "d d 750", "f d/new \"y\""],
            &["d d 750", "f d/new \"y\""],
        ),
        (
            "5 directory, then its whiteout",
            &["d d 700 1:2", "f d/old \"x\"", "f d/e/old \"x\""],
            &["d d 750", "f d/new \"y\"", "f d/e/new \"y\"", "- d"],
            &["d d 750", "d d/e", "f d/e/new \"y\"", "f d/new \"y\""],
        ),
        ("6 whiteout below a whiteout", &["f d/a \"x\"", "f b \"y\""], &["- d", "- d/a"], &["f b \"y\""]),
        ("6 whiteout above a whiteout", &["f d/a \"x\"", "f b \"y\""], &["- d/a", "- d"], &["f b \"y\""]),
        (
            "7 whiteout, then below without the directory",
            &["d d 700 1:2 @9 user.a=b", "f d/old \"x\""],
            &["- d", "f d/new \"y\""],
            &["d d", "f d/new \"y\""],
        ),
        (
            "7 below without the directory, then whiteout",
            &["d d 700 1:2 @9 user.a=b", "f d/old \"x\""],
            &["f d/new \"y\"", "- d"],
            &["d d", "f d/new \"y\""],
        ),
        (
            "7 whiteout of a kept directory in a removed one",
            &["d d/e 700 1:2 @9", "f d/e/old \"x\"", "f d/f/old \"x\""],
            &["d d/e 711", "- d"],
            &["d d", "d d/e 711"],
        ),
        ("17 whiteouts in a base layer", &[], &["- a", "! d", "f b \"x\""], &["f b \"x\"", "d d"]),
    ]);
}

#[test]
fn opaque_directories() {
    check_all(&[
        ("8 first", &["d d 700 @3", "f d/old \"x\""], &["! d", "f d/new \"y\""], &["d d 700 @3", "f d/new \"y\""]),
        ("8 last", &["d d 700 @3", "f d/old \"x\""], &["f d/new \"y\"", "! d"], &["d d 700 @3", "f d/new \"y\""]),
        (
            "8 in the middle",
            &["d d 700 @3", "f d/old \"x\""],
            &["f d/a \"y\"", "! d", "f d/b \"y\""],
            &["d d 700 @3", "f d/a \"y\"", "f d/b \"y\""],
        ),
        (
            "8 keeps what the layer has below",
            &["f d/e/old \"x\"", "d d/e 700 1:2 @3", "f d/g/old \"x\""],
            &["f d/e/new \"y\"", "! d"],
            &["d d", "d d/e", "f d/e/new \"y\""],
        ),
        (
            "8 nested",
            &["f d/e/old \"x\"", "f d/old \"x\""],
            &["f d/e/new \"y\"", "! d/e", "! d", "! d/e"],
            &["d d", "d d/e", "f d/e/new \"y\""],
        ),
        ("8 over nothing", &[], &["! d"], &["d d"]),
        ("8 over a file", &["f d \"x\""], &["! d"], &["d d"]),
        (
            "8 over a link to a directory",
            &["d e 700 @3", "f e/old \"x\"", "l d -> e"],
            &["! d"],
            &["l d -> e", "d e 700 @3"],
        ),
        ("8 over a link to a file", &["f e \"x\"", "l d -> e"], &["! d"], &["d d", "f e \"x\""]),
        ("8 at the root", &["f a \"x\"", "d d 700", "f d/b \"x\""], &["f d/c \"y\"", "! ."], &["d d", "f d/c \"y\""]),
        ("9 whiteout in an opaque directory", &["f d/a \"x\"", "f d/b \"x\""], &["! d", "- d/a"], &["d d"]),
        (
            "10 whiteouts of one directory, again and again",
            &["f d/old \"x\""],
            &["f d/new \"y\"", "! d", "! d", "- d", "- d", "! d"],
            &["d d", "f d/new \"y\""],
        ),
    ]);
}

#[test]
fn parents() {
    check_all(&[
        (
            "15 whiteout through a link",
            &["f usr/bin/sh \"x\"", "l bin -> usr/bin"],
            &["- bin/sh"],
            &["l bin -> usr/bin", "d usr", "d usr/bin"],
        ),
        (
            "15 an entry of the layer, whited out by its other path",
            &["f usr/bin/sh \"x\"", "l bin -> usr/bin"],
            &["f usr/bin/sh \"y\"", "- bin/sh"],
            &["l bin -> usr/bin", "d usr", "d usr/bin", "f usr/bin/sh \"y\""],
        ),
        ("18 missing", &[], &["f a/b/c \"x\" 600 1:2 @7"], &["d a", "d a/b", "f a/b/c \"x\" 600 1:2 @7"]),
        (
            "18 existing keep everything",
            &["d t 1777 5:6 @9 user.a=b", "d t/u 2750 7:8 @8"],
            &["f t/u/new \"x\""],
            &["d t 1777 5:6 @9 user.a=b", "d t/u 2750 7:8 @8", "f t/u/new \"x\""],
        ),
        ("18 described later", &[], &["f a/b \"x\"", "d a 700 @5"], &["d a 700 @5", "f a/b \"x\""]),
        ("19 over a file", &["f a \"x\""], &["f a/b \"y\""], &["d a", "f a/b \"y\""]),
        ("19 over a file of the layer", &[], &["f a \"x\"", "f a/b \"y\""], &["d a", "f a/b \"y\""]),
        (
            "19 over a link to a file",
            &["f f \"x\"", "l a -> f"],
            &["f a/b \"y\""],
            &["d a", "f a/b \"y\"", "f f \"x\""],
        ),
        ("19 over a dangling link", &["l a -> nowhere"], &["f a/b \"y\""], &["d a", "f a/b \"y\""]),
        (
            "19 over a link through a file",
            &["f f \"x\"", "l a -> f/.."],
            &["f a/b \"y\""],
            &["d a", "f a/b \"y\"", "f f \"x\""],
        ),
        ("19 over a fifo", &["p a"], &["f a/b/c \"y\""], &["d a", "d a/b", "f a/b/c \"y\""]),
        (
            "20 through a link",
            &["d usr/lib 700 @4", "l lib -> usr/lib"],
            &["f lib/x \"y\"", "d lib/d/e"],
            &["l lib -> usr/lib", "d usr", "d usr/lib 700 @4", "d usr/lib/d", "d usr/lib/d/e", "f usr/lib/x \"y\""],
        ),
        (
            "20 through absolute links and dots",
            &["d a/b", "l l1 -> /a/./b", "l a/l2 -> ../../../l1//", "l a/b/l3 -> ..", "l l4 -> a/b/l3/b"],
            &["f l1/1 \"\"", "f a/l2/2 \"\"", "f a/b/l3/3 \"\"", "f l4/4 \"\""],
            &[
                "d a",
                "f a/3 \"\"",
                "d a/b",
                "f a/b/1 \"\"",
                "f a/b/2 \"\"",
                "f a/b/4 \"\"",
                "l a/b/l3 -> ..",
                "l a/l2 -> ../../../l1//",
                "l l1 -> /a/./b",
                "l l4 -> a/b/l3/b",
            ],
        ),
        ("20 loop", &["l a -> b", "l b -> a"], &["f a/c \"x\""], &["error: more than 40"]),
        (
            "21 directory over a link to one",
            &["f d/x \"x\"", "l l -> d"],
            &["d l 700", "f l/y \"y\""],
            &["d d", "f d/x \"x\"", "d l 700", "f l/y \"y\""],
        ),
        (
            "21 a link of the layer, replaced: what comes later goes to the new directory",
            &["d d"],
            &["l l -> d", "f l/1 \"x\"", "d l", "f l/2 \"y\""],
            &["d d", "f d/1 \"x\"", "d l", "f l/2 \"y\""],
        ),
    ]);
}

/// One of each type that a layer can hold, at `path`.
fn each_type(path: &str) -> [String; 7] {
    [
        format!("f {path} \"x\""),
        format!("d {path} 711 @5"),
        format!("l {path} -> other"),
        format!("c {path} dev=1:3"),
        format!("b {path} dev=7:0"),
        format!("p {path} 600"),
        format!("h {path} -> other"),
    ]
}

#[test]
fn case_22_every_type_over_every_type() {
    let Some(scratch) = scratch() else { return };
    for (number, old) in each_type("a").iter().enumerate() {
        for new in each_type("a") {
            let lower = ["f other \"o\"", old, if number == 1 { "f a/below \"z\"" } else { "d z" }];
            let mut expected = vec![match new.as_str() {
                "h a -> other" => "f a \"o\"".to_owned(),
                new => new.to_owned(),
            }];
            if number == 1 && new.starts_with('d') {
                expected.push("f a/below \"z\"".to_owned());
            }
            expected.push(if new.starts_with('h') { "h other -> a" } else { "f other \"o\"" }.to_owned());
            if number != 1 {
                expected.push("d z".to_owned());
            }
            let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
            check(&scratch, &format!("22 {old} {new}").replace('"', ""), &lower, &[&new], &expected);
        }
    }
}

#[test]
fn paths_and_types() {
    check_all(&[
        ("23 root", &["f a \"x\""], &["d . 700 3:4 @5 user.a=b"], &["d . 700 3:4 @5 user.a=b", "f a \"x\""]),
        (
            "23 root keeps its attributes",
            &["d . 711 3:4 @5 user.a=b"],
            &["f a \"x\"", "- b"],
            &["d . 711 3:4 @5 user.a=b", "f a \"x\""],
        ),
        ("23 root is a link", &[], &["l . -> /etc"], &["error: the root of a layer"]),
        ("23 root is a file", &[], &["f . \"x\""], &["error: the root of a layer"]),
        ("23 root is a hard link", &["f a \"x\""], &["h . -> a"], &["error: the root of a layer"]),
        ("23 root is removed", &[], &["- ."], &["error: the root of a layer"]),
        ("24 absolute", &[], &["f /a \"x\""], &["error: relative"]),
        ("24 upwards", &[], &["f a/../../b \"x\""], &["error: relative"]),
        ("24 link target upwards", &[], &["h a -> ../b"], &["error: relative"]),
        ("27 later file wins", &[], &["f a \"1\"", "f a \"2\" 600"], &["f a \"2\" 600"]),
        ("27 later file wins over a directory", &[], &["f a/b \"1\"", "d a", "f a \"2\""], &["f a \"2\""]),
        ("27 later directory wins", &[], &["f a \"1\"", "d a 711", "f a/b \"2\""], &["d a 711", "f a/b \"2\""]),
        (
            "27 later directory wins over a file that won over a directory",
            &[],
            &["f a/b \"1\"", "f a \"2\"", "f a/c \"3\""],
            &["d a", "f a/c \"3\""],
        ),
        ("27 later attributes win", &[], &["d a 711 user.a=b", "d a 700 user.c=d"], &["d a 700 user.c=d"]),
        ("34 major", &[], &["c a dev=4096:0"], &["error: no device number"]),
        ("34 minor", &[], &["b a dev=1:1048576"], &["error: no device number"]),
        ("34 whiteout device", &[], &["c a dev=0:0"], &["error: 0:0"]),
        ("34 largest", &[], &["b a dev=4095:1048575", "b b dev=0:0"], &["b a dev=4095:1048575", "b b dev=0:0"]),
        ("34 socket", &[], &["s a"], &["error: socket"]),
        ("names", &[], &["f .wh.a \"x\"", "f .wh..wh..opq \"x\""], &["f .wh..wh..opq \"x\"", "f .wh.a \"x\""]),
    ]);
}

#[test]
fn hard_links() {
    check_all(&[
        ("30 to an earlier entry", &[], &["f a \"x\" 600 @3", "h b -> a"], &["f a \"x\" 600 @3", "h b -> a"]),
        (
            "30 to a lower entry",
            &["f a \"x\" 600 1:2 @3"],
            &["h d/b -> a"],
            &["f a \"x\" 600 1:2 @3", "d d", "h d/b -> a"],
        ),
        ("30 to a later entry", &[], &["h a -> b", "f b \"x\""], &["f a \"x\"", "h b -> a"]),
        (
            "30 to a later entry in a later directory",
            &[],
            &["h a -> d/b", "d d 700 @3", "f d/b \"x\""],
            &["f a \"x\"", "d d 700 @3", "h d/b -> a"],
        ),
        (
            "30 chain of later entries",
            &[],
            &["h d/a -> d/b", "h d/b -> d/c", "d d @7", "f d/c \"x\""],
            &["d d @7", "f d/a \"x\"", "h d/b -> d/a", "h d/c -> d/a"],
        ),
        (
            "30 to a later entry through a link",
            &["d usr 711 @2", "l l -> usr"],
            &["h a -> l/b", "f l/b \"x\""],
            &["f a \"x\"", "l l -> usr", "d usr 711 @2", "h usr/b -> a"],
        ),
        (
            "30 chain of later entries through a link",
            &["d usr", "l l -> usr"],
            &["h z -> l/b", "h usr/b -> c", "f c \"x\""],
            &["f c \"x\"", "l l -> usr", "d usr", "h usr/b -> c", "h z -> c"],
        ),
        ("30 to a link", &["f f \"x\""], &["l a -> f @4", "h b -> a"], &["l a -> f @4", "h b -> a", "f f \"x\""]),
        ("30 to a dangling link", &[], &["l a -> /nowhere", "h b -> a"], &["l a -> /nowhere", "h b -> a"]),
        ("30 to a fifo", &[], &["p a", "h b -> a"], &["p a", "h b -> a"]),
        ("30 to nothing", &[], &["h a -> b"], &["error: no such entry"]),
        ("30 to nothing below nothing", &[], &["h a -> d/b"], &["error: no such entry"]),
        ("30 to itself", &["f a \"x\""], &["h a -> a"], &["error: its own target"]),
        ("30 to itself, which is nothing", &[], &["h a -> a"], &["error: its own target"]),
        ("30 to itself in a circle", &[], &["h a -> b", "h b -> a"], &["error: no such entry"]),
        ("30 to itself through a link", &["f d/a \"x\"", "l l -> d"], &["h l/a -> d/a"], &["error: its own target"]),
        ("30 to what it replaces", &["f d/a \"x\""], &["h d -> d/a"], &["error: its own target"]),
        ("30 to a directory", &["d d"], &["h a -> d"], &["error: is a directory"]),
        ("30 to a later directory", &[], &["h a -> d", "d d"], &["error: is a directory"]),
        ("30 to a whited-out name", &["f a \"x\""], &["- a", "h b -> a"], &["error: no such entry"]),
        ("30 to a name in an opaque directory", &["f d/a \"x\""], &["! d", "h b -> d/a"], &["error: no such entry"]),
        (
            "30 to a name that is replaced",
            &["f a \"x\""],
            &["- a", "h b -> a", "f a \"y\""],
            &["f a \"y\"", "h b -> a"],
        ),
        ("30 over a file", &["f a \"x\"", "f b \"y\""], &["h b -> a"], &["f a \"x\"", "h b -> a"]),
        ("30 over a directory", &["f a \"x\"", "f b/c \"y\""], &["h b -> a"], &["f a \"x\"", "h b -> a"]),
        ("30 over another name of the same", &["f a \"x\"", "h b -> a"], &["h b -> a"], &["f a \"x\"", "h b -> a"]),
        ("30 late over a directory", &["f a/c \"y\""], &["h a -> b", "f b \"x\""], &["f a \"x\"", "h b -> a"]),
        (
            "30 and 27: a late link, then a file",
            &[],
            &["h a -> b", "f a \"1\"", "f b \"2\""],
            &["f a \"1\"", "f b \"2\""],
        ),
        ("30 and 27: a late link, then a directory", &[], &["h a -> b", "d a", "f b \"2\""], &["d a", "f b \"2\""]),
        (
            "30 and 27: a late link, then below it",
            &[],
            &["h a -> b", "f a/c \"1\"", "f b \"2\""],
            &["d a", "f a/c \"1\"", "f b \"2\""],
        ),
        (
            "30 and 27: a late link, then over its directory",
            &[],
            &["h d/a -> b", "f d \"1\"", "f b \"2\""],
            &["f b \"2\"", "f d \"1\""],
        ),
        (
            "30 and 4: a late link and its whiteout",
            &["f a \"0\""],
            &["h a -> b", "- a", "f b \"2\""],
            &["f a \"2\"", "h b -> a"],
        ),
        (
            "31 through a link that leads outside",
            &["l out -> /../../etc", "d etc"],
            &["f etc/passwd \"x\"", "h a -> out/passwd"],
            &["f a \"x\"", "d etc", "h etc/passwd -> a", "l out -> /../../etc"],
        ),
    ]);
}

/// Removals apply to the lower tree first, wherever they stand: so they reach the targets of links, too.
#[test]
fn hard_links_to_what_is_removed_later() {
    check_all(&[
        (
            "30 to a directory that makes room for a file",
            &["d d", "d d/a"],
            &["h b -> d/a", "! d", "f d/a \"x\""],
            &["f b \"x\"", "d d", "h d/a -> b"],
        ),
        ("30 to a name whited out later", &["f a \"x\""], &["h b -> a", "- a"], &["error: no such entry"]),
        ("30 to a name in a directory whited out later", &["f d/a \"x\""], &["h b -> d/a", "- d"], &["error: no such"]),
        ("30 to a name in a directory opaque later", &["f d/a \"x\""], &["h b -> d/a", "! d"], &["error: no such"]),
        (
            "30 to a name whited out later, through a link",
            &["f usr/a \"x\"", "l l -> usr"],
            &["h b -> l/a", "- usr/a"],
            &["error: no such entry"],
        ),
        (
            "30 to a name that is whited out and replaced later",
            &["f a \"x\""],
            &["h b -> a", "- a", "f a \"y\""],
            &["f a \"y\"", "h b -> a"],
        ),
        (
            "30 to a name that is replaced and whited out later, by a chain",
            &["f a \"x\""],
            &["h b -> a", "h c -> b", "f a \"y\"", "- a"],
            &["f a \"y\"", "h b -> a", "h c -> a"],
        ),
        (
            "30 to a link to a name whited out later, which is a file by then",
            &["f d/e/a \"x\""],
            &["h b -> d/e/a", "h d/a -> b", "f b \"y\"", "- d/e"],
            &["f b \"y\"", "d d", "h d/a -> b"],
        ),
        (
            "30 and 27: a link to a name whited out later, replaced before",
            &["f a \"x\""],
            &["h b -> a", "f b \"y\"", "h d/b -> a", "f d \"z\"", "- a"],
            &["f b \"y\"", "f d \"z\""],
        ),
        (
            "30 to a name that is replaced later",
            &["f a \"x\""],
            &["h b -> a", "f a \"y\""],
            &["f a \"y\"", "f b \"x\""],
        ),
    ]);
}

#[test]
fn attributes() {
    check_all(&[
        (
            "35 set-id bits with an owner",
            &[],
            &["f a \"x\" 6755 1:2", "p p 4600 1:2"],
            &["f a \"x\" 6755 1:2", "p p 4600 1:2"],
        ),
        (
            "36 user attributes on links and special files",
            &[],
            &["l a -> b user.a=b", "p p user.a=b", "c c dev=1:3 user.a=b"],
            &["l a -> b", "c c dev=1:3", "p p"],
        ),
        (
            "36 trusted attributes anywhere",
            &[],
            &["l a -> b trusted.a=b", "p p trusted.a=b", "f f \"x\" trusted.a=b user.c=d"],
            &["l a -> b trusted.a=b", "f f \"x\" trusted.a=b user.c=d", "p p trusted.a=b"],
        ),
        ("36 an attribute that cannot be", &[], &["f a \"x\" nonsense.a=b"], &["error: nonsense.a"]),
        ("36 an attribute of a directory that cannot be", &[], &["d a nonsense.a=b"], &["error: nonsense.a"]),
        ("37 attributes are a set", &["d d user.a=b user.c=d"], &["d d user.c=e"], &["d d user.c=e"]),
        ("39 overlay state", &[], &["d d trusted.overlay.opaque=y"], &["error: trusted.overlay.opaque"]),
        ("39 overlay state of users", &[], &["f d \"\" user.overlay.redirect=y"], &["error: user.overlay.redirect"]),
        ("39 labels of the host are dropped", &[], &["f a \"x\" security.selinux=l"], &["f a \"x\""]),
        ("43 times of parents of whiteouts", &["d d @9", "f d/a \"x\"", "d . @8"], &["- d/a"], &["d . @8", "d d @9"]),
        (
            "43 times of parents of everything",
            &["d d @9", "d d/e @8"],
            &["f d/e/a \"x\"", "d d @7", "p d/p"],
            &["d d @7", "d d/e @8", "f d/e/a \"x\"", "p d/p"],
        ),
        (
            "43 times of parents of links",
            &["d d @9", "f a \"x\""],
            &["h d/b -> a", "l d/l -> x"],
            &["f a \"x\"", "d d @9", "h d/b -> a", "l d/l -> x"],
        ),
        ("44 garbage in a mode", &[], &["f a \"x\" 107644", "d d 41777"], &["f a \"x\" 7644", "d d 1777"]),
        (
            "44 what set-gid directories give",
            &["d d 2755 0:9"],
            &["f d/a \"x\"", "d d/e", "f d/e/b \"x\"", "p d/p", "l d/l -> x"],
            &["d d 2755 0:9", "f d/a \"x\"", "d d/e", "f d/e/b \"x\"", "l d/l -> x", "p d/p"],
        ),
        (
            "44 set-gid directories of the layer",
            &[],
            &["d d 2755 0:9", "f d/a \"x\"", "d d/e", "f d/f/b \"x\""],
            &["d d 2755 0:9", "f d/a \"x\"", "d d/e", "d d/f", "f d/f/b \"x\""],
        ),
        ("45 owner", &[], &["f a \"x\" 4294967294:4294967294"], &["f a \"x\" 4294967294:4294967294"]),
        ("45 no owner", &[], &["f a \"x\" 4294967295:0"], &["error: no owner"]),
        ("45 no owner of a directory", &[], &["d a 0:4294967295"], &["error: no owner"]),
        (
            "42 times",
            &[],
            &["f a \"x\" @-5.999999999", "l l -> a @12345678901.1", "d d @-1"],
            &["f a \"x\" @-5.999999999", "d d @-1", "l l -> a @12345678901.1"],
        ),
        ("42 nanoseconds", &[], &["f a \"x\" @1.1073741823"], &["error: nanoseconds"]),
    ]);
}
