use std::fs;

use proptest::prelude::*;

use super::*;
use crate::mount::scratch::FsType;
use crate::testing;
use crate::tree::difference::Difference;
use crate::tree::sample::samples;
use crate::tree::walk::remove_all;

fn file(bytes: &[u8]) -> Inode {
    let node = Node::File { size: bytes.len() as u64 };
    Inode { meta: Meta { node, ..Meta::implied_dir() }, content: Some(Digest::of(bytes)) }
}

fn dir() -> Inode {
    Inode { meta: Meta::implied_dir(), content: None }
}

fn paths(tree: &Tree) -> Vec<&str> {
    tree.iter().map(|named| named.path.to_str().unwrap()).collect()
}

#[test]
fn put_replaces_and_remove_takes_what_is_below() {
    let mut tree = Tree::default();
    tree.put("d", dir()).unwrap();
    tree.put("d/e", dir()).unwrap();
    tree.put("d/e/f", file(b"1")).unwrap();
    tree.put("d-e", file(b"2")).unwrap();
    tree.put("d", dir()).unwrap();
    assert_eq!(paths(&tree), ["", "d", "d/e", "d/e/f", "d-e"]);
    tree.put("d", file(b"3")).unwrap();
    assert_eq!(paths(&tree), ["", "d", "d-e"]);
    assert!(tree.remove("d") && !tree.remove("d"));
    assert!(tree.remove(""));
    assert_eq!(tree, Tree::default());
}

#[test]
fn a_link_group_outlives_its_first_name() {
    let mut tree = Tree::default();
    tree.put("b", file(b"1")).unwrap();
    tree.link("a", "b").unwrap();
    tree.link("c", "a").unwrap();
    tree.link("c", "c").unwrap();
    assert!(tree.get("a").unwrap().is_first());
    tree.remove("a");
    let b = tree.get("b").unwrap();
    assert!(b.is_first());
    assert_eq!(b.names.len(), 2);
    tree.put("c", file(b"1")).unwrap();
    assert_eq!(tree.get("b").unwrap().names.len(), 1);
    let mut other = Tree::default();
    other.put("b", file(b"1")).unwrap();
    other.link("c", "b").unwrap();
    assert_ne!(tree, other);
    let lines: Vec<String> = tree.differences(&other).iter().map(Difference::to_string).collect();
    assert_eq!(lines, ["b: links: - in the first, c in the second", "c: links: - in the first, b in the second"]);
}

#[test]
fn refuses_what_no_tree_can_be() {
    let mut tree = Tree::default();
    tree.put("d", dir()).unwrap();
    tree.put("d/f", file(b"")).unwrap();
    for path in ["/a", "a/", "a//b", ".", "d/..", "d/./f", "a\0"] {
        assert_eq!(tree.put(path, dir()).unwrap_err().kind(), ErrorKind::InvalidArgument, "{path:?}");
        assert_eq!(tree.link(path, "d/f").unwrap_err().kind(), ErrorKind::InvalidArgument, "{path:?}");
    }
    assert_eq!(tree.put("d/f/x", dir()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(tree.put("x/y", dir()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(tree.put("", file(b"")).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(tree.put("x", Inode { content: None, ..file(b"") }).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(tree.link("x", "d").unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(tree.link("d", "d/f").unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(tree.link("x", "y").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(paths(&tree), ["", "d", "d/f"]);
}

#[test]
fn differences_name_the_aspect() {
    let mut left = Tree::default();
    left.put("f", file(b"1")).unwrap();
    left.put("gone", dir()).unwrap();
    let mut right = Tree::default();
    let mut changed = file(b"2");
    changed.meta.mode = 0o600;
    changed.meta.xattrs.insert(b"user.a".to_vec(), b"1".to_vec());
    right.put("f", changed).unwrap();
    right.put("new name", dir()).unwrap();
    let differences = left.differences(&right);
    let aspects: Vec<_> = differences.iter().map(|difference| difference.aspect).collect();
    assert_eq!(aspects, ["mode", "content", "xattrs", "entry", "entry"]);
    assert_eq!(differences[0].to_string(), "f: mode: 0755 in the first, 0600 in the second");
    assert_eq!(differences[3].to_string(), "gone: entry: directory, only in the first");
    assert_eq!(differences[4].to_string(), r"new\x20name: entry: directory, only in the second");
    assert!(left.differences(&left).is_empty());
}

#[test]
fn a_file_that_never_rests_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("f");
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                fs::write(&path, vec![1; 1 << 20]).unwrap();
            }
        });
        for _ in 0..3 {
            let read = Tree::read(&Dir::open(temp.path()).unwrap());
            if let Err(error) = read {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn read_gives_what_was_written() {
    for fs in FsType::ALL {
        let Some(scratch) = testing::scratch(fs) else { continue };
        let root = Dir::open(scratch.path()).unwrap();
        proptest!(ProptestConfig::with_cases(24), |(sample in samples(24))| {
            root.make_dir("t").unwrap();
            let dir = root.open_dir("t").unwrap();
            sample.write(&dir);
            let differences = Tree::read(&dir).unwrap().differences(&sample.tree());
            remove_all(&root, "t").unwrap();
            prop_assert!(differences.is_empty(), "{}: {:#?}", fs, differences);
        });
    }
}
