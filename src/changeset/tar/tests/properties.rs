//! Properties of all streams and of arbitrary bytes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::error::ErrorKind;

/// A directory of a random stream: its attributes, and the changes in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    meta: Option<Meta>,
    opaque: bool,
    entries: BTreeMap<OsString, StreamEntry>,
}

#[derive(Clone, Debug)]
pub(super) enum StreamEntry {
    Removed,
    Leaf(Meta, Vec<u8>),
    /// A hard link to the first file of the stream.
    Link,
    Dir(Directory),
}

/// Generates names at the limits of ustar's fields, of file systems, of PAX and of whiteouts.
fn name() -> impl Strategy<Value = OsString> {
    let length = select(vec![1, 54, 55, 99, 100, 101, 154, 155, 156, 250, 251]);
    prop_oneof![
        8 => select(vec![&b"a"[..], b"b", b"a-", b"a.b", b"\xff\xfe", b"new\nline", b".wh", b"...", b" ", b"=", b"%41"])
            .prop_map(<[u8]>::to_vec),
        2 => length.prop_map(|length| vec![b'n'; length]),
        1 => vec(any::<u8>().prop_filter("a name", |byte| !matches!(byte, 0 | b'/')), 1..20),
    ]
    .prop_filter("a name", |name| !name.starts_with(b".wh.") && name != b"." && name != b"..")
    .prop_map(OsString::from_vec)
}

fn time() -> impl Strategy<Value = Timestamp> {
    let edges = vec![i64::MIN, -1, 0, 1_700_000_000, 0o77_777_777_777, 0o100_000_000_000, i64::MAX];
    (prop_oneof![4 => select(edges), 1 => any::<i64>()], select(vec![0, 1, 500_000_000, 999_999_999]))
        .prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
}

fn xattrs() -> impl Strategy<Value = Xattrs> {
    let names = vec![&b"user.a"[..], b"user.b=c", b"security.capability", b"user.\n", b"user.%3D", b"trusted.\xff"];
    btree_map(select(names).prop_map(<[u8]>::to_vec), vec(select(b"\n\0=a \xff".to_vec()), 0..12), 0..3)
}

fn attributes(node: impl Strategy<Value = Node>) -> impl Strategy<Value = Meta> {
    let id = || select(vec![0, 1, 0o7_777_777, 0o10_000_000, 1 << 31, u32::MAX - 1]);
    (node, 0..=0o7777_u32, id(), id(), time(), xattrs()).prop_map(|(node, mode, uid, gid, mtime, xattrs)| Meta {
        node,
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    })
}

fn leaf() -> impl Strategy<Value = StreamEntry> {
    let target = select(vec![1, 99, 100, 101, 300]).prop_flat_map(|length| vec(1..=255_u8, length));
    let device = (0..=0xfff_u32, 1..=0xf_ffff_u32).prop_map(|(major, minor)| Device { major, minor });
    let special = prop_oneof![
        target.prop_map(|target| Node::Symlink { target }),
        device.clone().prop_map(Node::Char),
        device.prop_map(Node::Block),
        Just(Node::Fifo),
    ];
    let length = select(vec![0_usize, 1, 511, 512, 513, 1500]);
    prop_oneof![
        3 => attributes(special).prop_map(|meta| StreamEntry::Leaf(meta, Vec::new())),
        3 => length.prop_flat_map(|length| (
            attributes(Just(Node::File { size: length as u64 })),
            vec(any::<u8>(), length),
        )).prop_map(|(meta, content)| StreamEntry::Leaf(meta, content)),
        2 => Just(StreamEntry::Removed),
        2 => Just(StreamEntry::Link),
        2 => (attributes(Just(Node::Dir)), any::<bool>()).prop_map(|(meta, opaque)| {
            StreamEntry::Dir(Directory { meta: Some(meta), opaque, entries: BTreeMap::new() })
        }),
    ]
}

/// Generates a tree of changes; most are flat, some are deeper than a hundred names.
pub(super) fn directory() -> impl Strategy<Value = Directory> {
    const DEEP: usize = 110;
    let shallow = vec(name(), 1..5);
    let deep = (vec(name().prop_filter("a short name", |name| name.len() < 100), 4), name())
        .prop_map(|(parents, last)| parents.into_iter().cycle().take(DEEP).chain([last]).collect::<Vec<OsString>>());
    let path = prop_oneof![20 => shallow, 1 => deep];
    let root = proptest::option::of(attributes(Just(Node::Dir)));
    (root, vec((path, leaf()), 0..12)).prop_map(|(meta, changes)| {
        let mut root = Directory { meta, ..Directory::default() };
        for (path, entry) in changes {
            root.insert(&path, entry);
        }
        root
    })
}

impl Directory {
    /// Inserts `entry` at `path` unless another entry is in the way.
    fn insert(&mut self, path: &[OsString], entry: StreamEntry) {
        let Some((name, below)) = path.split_first() else { return };
        if below.is_empty() {
            self.entries.entry(name.clone()).or_insert(entry);
        } else if let StreamEntry::Dir(dir) =
            self.entries.entry(name.clone()).or_insert_with(|| StreamEntry::Dir(Directory::default()))
        {
            dir.insert(below, entry);
        }
    }

    /// Returns the stream in canonical order; with `ancestors`, including the entries that the encoder adds.
    pub(super) fn stream(&self, ancestors: bool) -> Stream {
        let mut stream = Stream::new();
        self.push(&mut stream, Path::new(""), ancestors);
        if stream.len() == 1 && self.meta.is_none() && ancestors { Stream::new() } else { stream }
    }

    fn push(&self, stream: &mut Stream, path: &Path, ancestors: bool) {
        match &self.meta {
            Some(meta) => stream.push(put(path, meta.clone())),
            None if ancestors => stream.push(put(path, dir(0o1777))),
            None => {}
        }
        if self.opaque {
            stream.push(opaque(path));
        }
        for (name, _) in self.entries.iter().filter(|(_, entry)| matches!(entry, StreamEntry::Removed)) {
            stream.push(remove(path.join(name)));
        }
        for (name, entry) in &self.entries {
            let path = path.join(name);
            match entry {
                StreamEntry::Removed => {}
                StreamEntry::Leaf(meta, content) => {
                    stream.push((Change::Put { path, existed: false, meta: meta.clone() }, content.clone()));
                }
                StreamEntry::Link => {
                    let first = stream.iter().find_map(|(change, _)| match change {
                        Change::Put { path, meta, .. } if meta.node != Node::Dir => Some(path.clone()),
                        _ => None,
                    });
                    stream.push(first.map_or_else(|| put(&path, meta(Node::Fifo)), |target| link(&path, target)));
                }
                StreamEntry::Dir(dir) => dir.push(stream, &path, ancestors),
            }
        }
    }
}

/// Generates an archive of headers of every kind, valid and invalid, with parts of extended headers.
pub(super) fn soup() -> impl Strategy<Value = Vec<u8>> {
    let kind = select(b"0000\x00123455677xxxxgLKSSVMX?".to_vec());
    let name = select(vec![
        &b"a"[..],
        b"b/",
        b"./",
        b"../a",
        b"/a/../b",
        b".wh.a",
        b".wh..wh..opq",
        b".wh..wh.plnk/1",
        b".wh.",
        b"",
    ]);
    let records = select(vec![
        &b"8 path=a\n"[..],
        b"13 size=512\n\n",
        b"12 size=1024\n",
        b"22 GNU.sparse.major=1\n",
        b"22 GNU.sparse.minor=0\n",
        b"27 GNU.sparse.realsize=900\n",
        b"24 GNU.sparse.size=1000\n",
        b"27 GNU.sparse.map=0,5,10,5\n",
        b"24 GNU.sparse.offset=10\n",
        b"24 GNU.sparse.numbytes=5\n",
        b"2\n0\n5\n10\n5\n",
        b"13 mtime=-1.5\n",
        b"26 SCHILY.xattr.user.a=\n\0\n",
        b"\0\0",
        b"999999 a=b\n",
    ]);
    let content = vec(records, 0..5).prop_map(|parts| parts.concat());
    let damage = proptest::option::weighted(0.3, (0..BLOCK_BYTES, any::<u8>()));
    let piece = (kind, name, content, damage, prop::bool::weighted(0.3), prop::bool::weighted(0.97));
    vec(piece, 0..8).prop_map(|pieces| {
        let archive = pieces.into_iter().fold(Archive::default(), |archive, piece| {
            let (kind, name, content, damage, gnu, sealed) = piece;
            let start = archive.0.len();
            let mut archive = archive.edited(kind, name, &content, |block| {
                if gnu {
                    block[257..265].copy_from_slice(b"ustar  \0");
                    block[386..410].copy_from_slice(b"00000000000\x0000000000005\0");
                    block[483..495].copy_from_slice(b"00000001000\0");
                }
                block[157] = if kind == b'1' || kind == b'2' { b't' } else { 0 };
                if let Some((at, byte)) = damage {
                    block[at] = byte;
                }
            });
            if !sealed {
                archive.0[start + 150] ^= 1;
            }
            archive
        });
        archive.end()
    })
}

/// Limits that a small archive can reach.
const TIGHT: Limits = Limits {
    layers: 1,
    entries: 20,
    total_bytes: 1 << 20,
    pax_bytes: 4096,
    xattr_bytes: 100,
    path_bytes: 1000,
    path_depth: 50,
    sparse_segments: 100,
    trailing_bytes: 2048,
    padding_bytes: 4096,
};

/// Reads hostile bytes and checks that the result is an error, or a stream within the limits and valid for a sink.
fn check_sane(archive: &[u8]) -> Result<(), TestCaseError> {
    let Ok((stream, decoded)) = read_within(archive, &TIGHT) else { return Ok(()) };
    prop_assert!(decoded.entries <= TIGHT.entries && stream.len() as u64 <= decoded.entries);
    prop_assert_eq!(decoded.bytes, archive.len() as u64);
    let trailing = &archive[archive.len() - usize::try_from(decoded.trailing_bytes).expect("within the archive")..];
    let others = trailing.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    prop_assert!(others as u64 <= TIGHT.trailing_bytes);
    prop_assert!(stream.iter().map(|(_, content)| content.len() as u64).sum::<u64>() <= TIGHT.total_bytes);
    for (change, content) in &stream {
        for path in paths(change) {
            let bytes = path.as_os_str().as_bytes();
            let clean = bytes.is_empty()
                || bytes
                    .split(|byte| *byte == b'/')
                    .all(|name| !matches!(name, b"" | b"." | b"..") && name.len() <= 255);
            prop_assert!(clean && !bytes.contains(&0), "{:?}", path);
            prop_assert!(!super::super::names::is_reserved(path), "{:?}", path);
        }
        let Change::Put { path, meta, existed: false } = change else { continue };
        prop_assert!(
            meta.mode <= 0o7777 && meta.uid != u32::MAX && meta.gid != u32::MAX && meta.mtime.nanos < 1_000_000_000
        );
        prop_assert!(meta.node == Node::Dir || !path.as_os_str().is_empty());
        match meta.node {
            Node::File { size } => prop_assert_eq!(size, content.len() as u64),
            Node::Char(device) | Node::Block(device) => prop_assert_ne!(device, Device::default()),
            _ => prop_assert!(content.is_empty()),
        }
    }
    Ok(())
}

fn paths(change: &Change) -> Vec<&Path> {
    match change {
        Change::Link { path, target, .. } => vec![path, target],
        change => vec![change.path()],
    }
}

proptest! {
    /// A written stream is read back with its ancestors added; writing the result again gives the same bytes.
    #[test]
    fn round_trip(tree in directory()) {
        let stream = tree.stream(false);
        let archive = write(&stream).map_err(|error| TestCaseError::fail(error.chain()))?;
        let back = read(&archive).map_err(|error| TestCaseError::fail(error.chain()))?;
        prop_assert_eq!(&back, &tree.stream(true));
        prop_assert_eq!(write(&back).map_err(|error| TestCaseError::fail(error.chain()))?, archive);
    }

    /// The stream does not depend on how much the sink reads.
    #[test]
    fn a_lazy_sink_sees_the_same(tree in directory(), taken in 0..600_u64) {
        let archive = write(&tree.stream(false)).map_err(|error| TestCaseError::fail(error.chain()))?;
        let mut changes = Vec::new();
        let mut sink = |change: &Change, data: &mut dyn Read| {
            changes.push(change.clone());
            io::copy(&mut data.take(taken), &mut io::sink()).expect("memory");
            Ok(())
        };
        decode(&mut &archive[..], &Limits::default(), &mut sink).expect("ours");
        let expected: Vec<Change> = tree.stream(true).into_iter().map(|(change, _)| change).collect();
        prop_assert_eq!(changes, expected);
    }

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..3000)) {
        check_sane(&bytes)?;
    }

    #[test]
    fn random_headers(archive in soup()) {
        check_sane(&archive)?;
    }

    /// Changes bytes at any position, with and without correcting the checksums.
    #[test]
    fn mutated_archives(
        tree in directory(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in proptest::option::of(any::<prop::sample::Index>()),
        sealed in any::<bool>(),
    ) {
        let mut archive = write(&tree.stream(false)).map_err(|error| TestCaseError::fail(error.chain()))?;
        for (at, byte) in edits {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        if sealed {
            for block in archive.chunks_exact_mut(BLOCK_BYTES).filter(|block| block[257..].starts_with(b"ustar")) {
                seal(block.try_into().expect("a block"));
            }
        }
        if let Some(end) = end {
            let end = end.index(archive.len());
            archive.truncate(end);
        }
        check_sane(&archive)?;
    }

    /// A truncated archive gives an error, or the part that was complete before the cut.
    #[test]
    fn cut_archives(tree in directory(), end in any::<prop::sample::Index>()) {
        let archive = write(&tree.stream(false)).map_err(|error| TestCaseError::fail(error.chain()))?;
        let whole = tree.stream(true);
        let end = end.index(archive.len());
        match read(&archive[..end]) {
            Ok(stream) => {
                prop_assert!(whole.starts_with(&stream));
                let rest_of_block = &archive[end..end.next_multiple_of(BLOCK_BYTES)];
                prop_assert!(rest_of_block.iter().all(|byte| *byte == 0), "content is missing");
            }
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::DataLoss, "{}", error.chain()),
        }
    }
}
