//! Random small trees for tests, as values and written to disk by simple means.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

use super::memory::{Inode, Tree};
use super::*;
use crate::id::Digest;

/// Range of times that ext4, xfs, btrfs and tmpfs all can store: 1906 to 2286.
const SECONDS: std::ops::Range<i64> = -2_000_000_000..10_000_000_000;

/// Content of a tree, parents first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Inodes at their first names, with the content of regular files.
    pub entries: Vec<(PathBuf, Meta, Vec<u8>)>,
    /// Further names of inodes in `entries`.
    pub links: Vec<(PathBuf, PathBuf)>,
}

impl Sample {
    /// Returns the tree as a value.
    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        for (path, meta, bytes) in &self.entries {
            let content = matches!(meta.node, Node::File { .. }).then(|| Digest::of(bytes));
            tree.put(path, Inode { meta: meta.clone(), content }).unwrap();
        }
        for (path, target) in &self.links {
            tree.link(path, target).unwrap();
        }
        tree
    }

    /// Writes the tree into the empty directory `root`, whose attributes become the sample's. Needs root.
    pub(crate) fn write(&self, root: &Dir) {
        let place = |path: &Path| {
            let parent = root.open_beneath(path.parent().unwrap_or(Path::new(""))).unwrap();
            (parent, path.file_name().unwrap_or_default().to_owned())
        };
        for (path, meta, bytes) in &self.entries {
            let (dir, name) = place(path);
            match &meta.node {
                Node::Dir if path.as_os_str().is_empty() => {}
                Node::Dir => dir.make_dir(&name).unwrap(),
                Node::File { .. } => dir.create_file(&name).unwrap().write_all(bytes).unwrap(),
                Node::Symlink { target } => dir.make_symlink(target, &name).unwrap(),
                Node::Char(device) | Node::Block(device) => {
                    dir.make_node(meta.node.file_type(), *device, &name).unwrap();
                }
                Node::Fifo | Node::Socket => {
                    dir.make_node(meta.node.file_type(), Device::default(), &name).unwrap();
                }
            }
        }
        for (path, target) in &self.links {
            let ((dir, name), (target_dir, target_name)) = (place(path), place(target));
            dir.make_link(&target_dir, target_name, name).unwrap();
        }
        for (path, meta, _) in self.entries.iter().rev() {
            let (dir, name) = place(path);
            dir.set_meta(&name, meta).unwrap();
        }
    }
}

/// Generates trees with a root and up to `inodes_max` inodes.
pub(crate) fn samples(inodes_max: usize) -> impl Strategy<Value = Sample> {
    (attributes(), prop::collection::vec(step(), 0..inodes_max)).prop_map(|(root, steps)| {
        let mut sample = Sample::default();
        sample.entries.push((PathBuf::new(), with_node(Node::Dir, root), Vec::new()));
        steps.into_iter().for_each(|step| sample.add(step));
        sample
    })
}

#[derive(Clone, Debug)]
struct Step {
    parent: Index,
    name: OsString,
    kind: Kind,
    attributes: Attributes,
}

#[derive(Clone, Debug)]
enum Kind {
    Node(Node, Vec<u8>),
    Link(Index),
}

type Attributes = (u32, (u32, u32), Timestamp, Xattrs);

impl Sample {
    fn add(&mut self, Step { parent, name, kind, attributes }: Step) {
        let dirs: Vec<&PathBuf> =
            self.entries.iter().filter(|(_, meta, _)| meta.node == Node::Dir).map(|(path, ..)| path).collect();
        let path = dirs[parent.index(dirs.len())].join(name);
        let taken = self.entries.iter().map(|(path, ..)| path).chain(self.links.iter().map(|(path, _)| path));
        if taken.into_iter().any(|taken| *taken == path) {
            return;
        }
        match kind {
            Kind::Node(node, bytes) => self.entries.push((path, with_node(node, attributes), bytes)),
            Kind::Link(target) => {
                let targets: Vec<&PathBuf> =
                    self.entries.iter().filter(|(_, meta, _)| meta.node != Node::Dir).map(|(path, ..)| path).collect();
                if !targets.is_empty() {
                    let target = targets[target.index(targets.len())].clone();
                    self.links.push((path, target));
                }
            }
        }
    }
}

/// Returns the attributes that an inode of this type can have on disk.
fn with_node(node: Node, (mode, (uid, gid), mtime, mut xattrs): Attributes) -> Meta {
    let file_type = node.file_type();
    let mode = if file_type == FileType::Symlink { 0o777 } else { mode };
    if !matches!(file_type, FileType::File | FileType::Dir) {
        xattrs.retain(|name, _| name.starts_with(b"trusted."));
    }
    Meta { node, mode, uid, gid, mtime, xattrs }
}

fn step() -> impl Strategy<Value = Step> {
    (any::<Index>(), name(), kind(), attributes()).prop_map(|(parent, name, kind, attributes)| Step {
        parent,
        name,
        kind,
        attributes,
    })
}

/// Generates short names that sort unexpectedly (`a-b` and `a/b`) or need escaping.
fn name() -> impl Strategy<Value = OsString> {
    prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "a-b", "a.b", "A", "-", ".wh.x", "..x", "a b", "a,b=c", "a\\x20", "\n"])
            .prop_map(OsString::from),
        1 => prop::collection::vec(1_u8.., 1..6).prop_map(OsString::from_vec),
        1 => Just(OsString::from("n".repeat(255))),
    ]
    .prop_filter("a file name", |name| {
        let bytes = name.as_bytes();
        !bytes.contains(&b'/') && bytes != b"." && bytes != b".."
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    let file = prop_oneof![
        2 => Just(Vec::new()),
        3 => prop::collection::vec(any::<u8>(), 1..200),
        1 => (any::<u8>(), 4000..200_000_usize).prop_map(|(byte, size)| vec![byte; size]),
    ]
    .prop_map(|bytes| Kind::Node(Node::File { size: bytes.len() as u64 }, bytes));
    let target = prop::collection::vec(1_u8.., 1..40);
    // xfs has 9 bits for the major and 18 bits for the minor number.
    let device = (0..512_u32, 0..262_144_u32).prop_map(|(major, minor)| Device { major, minor: minor | 1 });
    let bare = |node| Kind::Node(node, Vec::new());
    prop_oneof![
        8 => Just(bare(Node::Dir)),
        8 => file,
        3 => any::<Index>().prop_map(Kind::Link),
        3 => target.prop_map(move |target| bare(Node::Symlink { target })),
        1 => device.clone().prop_map(move |device| bare(Node::Char(device))),
        1 => device.prop_map(move |device| bare(Node::Block(device))),
        1 => Just(bare(Node::Fifo)),
        1 => Just(bare(Node::Socket)),
    ]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let id = prop_oneof![4 => Just(0_u32), 1 => Just(1000), 1 => Just(70_000), 1 => Just(u32::MAX - 1)];
    let mode = prop_oneof![2 => Just(0o644_u32), 2 => Just(0o755), 1 => 0..=MODE_MASK];
    let nanos = prop_oneof![1 => Just(0_u32), 1 => Just(999_999_999), 2 => 0..1_000_000_000_u32];
    let time = (SECONDS, nanos).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos });
    let attribute = prop::sample::select(vec!["user.a", "user.b=c,d e", "trusted.x", "user.\u{e9}"])
        .prop_map(|name| name.as_bytes().to_vec());
    let value = prop::collection::vec(any::<u8>(), 0..30);
    let xattrs = prop_oneof![4 => Just(Xattrs::new()), 1 => prop::collection::btree_map(attribute, value, 0..3)];
    (mode, (id.clone(), id), time, xattrs)
}
