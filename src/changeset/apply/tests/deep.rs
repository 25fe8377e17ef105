//! Paths that are longer than one system call takes, and links far down.

use std::path::PathBuf;

use super::{scratch, tree};
use crate::changeset::apply::Applier;
use crate::changeset::apply::ledger::Ledger;
use crate::changeset::{Change, Segment, Sink};
use crate::error::ErrorKind;
use crate::tree::{Dir, Meta, Node, walk};

fn put(path: impl Into<PathBuf>, node: Node) -> Change {
    Change::Put { path: path.into(), existed: false, meta: Meta { node, ..Meta::implied_dir() } }
}

fn apply(root: &Dir, changes: &[Change]) -> crate::Result<()> {
    let mut applier = Applier::new(root.try_clone()?);
    changes.iter().try_for_each(|change| applier.change(change, &mut std::io::empty()))?;
    applier.finish().map(drop)
}

/// Four times what a system call takes, made, gone through again, replaced and removed.
#[test]
fn paths_longer_than_a_system_call_takes() {
    let Some(scratch) = scratch() else { return };
    let root = tree(&scratch.path().join("t"), &[]);
    let name = "n".repeat(200);
    let deep: PathBuf = std::iter::repeat_n(name.as_str(), 80).collect();
    let file = || put(deep.join("f"), Node::File { size: 0 });
    apply(&root, &[file(), put(deep.join("g"), Node::Fifo)]).expect("make");
    let link = put(deep.join("l"), Node::Symlink { target: b"../x".to_vec() });
    let through = put(deep.join("l/new/h"), Node::File { size: 0 });
    let beside = put(deep.parent().expect("a parent").join("x"), Node::Dir);
    apply(&root, &[beside, link, through, file(), Change::Remove { path: deep.join("g") }]).expect("change");
    let dir = root.open_beneath(&deep).expect("open");
    let names: Vec<_> = dir.names().expect("names").into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["f", "l"]);
    assert!(root.open_beneath(&deep.parent().expect("a parent").join("x/new")).is_ok());
    apply(&root, &[Change::Remove { path: name.into() }]).expect("remove");
    let mut entries = 0;
    walk::walk(&root, |_| {
        entries += 1;
        Ok(())
    })
    .expect("walk");
    assert_eq!(entries, 1);
}

/// A link whose `..` lead up and down a deep tree again and again is no more work than its bytes.
#[test]
fn links_that_go_up_and_down_have_a_limit() {
    let Some(scratch) = scratch() else { return };
    let root = tree(&scratch.path().join("t"), &[]);
    let deep = PathBuf::from("d/".repeat(1500));
    let turns = |count: usize| format!("{}x", "../d/".repeat(count)).into_bytes();
    let attempt = |target: Vec<u8>| {
        let changes = [put(deep.join("x"), Node::Dir), put(deep.join("l"), Node::Symlink { target })];
        apply(&root, &changes).expect("make");
        apply(&root, &[put(deep.join("l/f"), Node::File { size: 0 })])
    };
    attempt(turns(20)).expect("a few");
    assert_eq!(attempt(turns(200)).expect_err("many").kind(), ErrorKind::InvalidArgument);
}

#[test]
fn an_ancestor_is_known_at_any_depth() {
    let mut ledger = Ledger::default();
    let deep = PathBuf::from("d/".repeat(50));
    ledger.note_used(&deep);
    assert!(deep.ancestors().all(|dir| ledger.holds(dir)));
    assert!(!ledger.holds(&deep.join("d")));
    assert!(ledger.purge(&PathBuf::from("d/".repeat(20))));
    assert!(ledger.is_purged(&deep) && !ledger.is_purged(&PathBuf::from("d/".repeat(19))));
    assert!(!ledger.is_purged(&PathBuf::from("dd/".repeat(40))));
}

/// Segments come without the zeros between them; a segment behind the end is refused, and the next file is whole again.
#[test]
fn segments_of_a_sparse_file() {
    let Some(scratch) = scratch() else { return };
    let root = tree(&scratch.path().join("t"), &["f there \"x\""]);
    let mut applier = Applier::new(root.try_clone().expect("clone"));
    let segments = [Segment { offset: 3, length: 2 }, Segment { offset: 8, length: 1 }];
    for name in ["new", "there"] {
        assert!(applier.sparse(&segments));
        applier.change(&put(name, Node::File { size: 10 }), &mut &b"abc"[..]).expect("a sparse file");
    }
    applier.change(&put("whole", Node::File { size: 3 }), &mut &b"abc"[..]).expect("a whole file");
    assert!(applier.sparse(&segments));
    applier.change(&put("short", Node::File { size: 8 }), &mut &b"abc"[..]).expect_err("a segment behind the end");
    for (name, content) in [("new", &b"\0\0\0ab\0\0\0c\0"[..]), ("there", b"\0\0\0ab\0\0\0c\0"), ("whole", b"abc")] {
        assert_eq!(std::fs::read(scratch.path().join("t").join(name)).expect("read"), content, "{name}");
    }
}
