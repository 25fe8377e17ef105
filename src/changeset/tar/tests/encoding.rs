//! Bytes that the encoder writes, and changes that it refuses.

use super::*;
use crate::error::ErrorKind;
use crate::id::Digest;

/// Returns a field of the header at `block` as text.
fn field(archive: &[u8], block: usize, range: std::ops::Range<usize>) -> String {
    archive[block * BLOCK_BYTES..][range].escape_ascii().to_string()
}

#[track_caller]
fn refuse(stream: Stream, kind: ErrorKind, words: &[&str]) {
    let error = write(&stream).unwrap_err();
    assert_eq!(error.kind(), kind, "{}", error.chain());
    for word in words {
        assert!(error.chain().contains(word), "{word:?} is not in {}", error.chain());
    }
}

/// Writes and reads `stream`, and checks that it is unchanged after the root entry in front.
#[track_caller]
fn survives(stream: Stream) -> Vec<u8> {
    let archive = write(&stream).unwrap_or_else(|error| panic!("{}", error.chain()));
    let back = read(&archive).unwrap_or_else(|error| panic!("{}", error.chain()));
    let expected: Stream = [put("", dir(0o1777))].into_iter().chain(stream).collect();
    assert_eq!(back, expected);
    archive
}

/// 1,024 zero bytes: the empty layer, with the digest that every tool uses for it.
#[test]
fn no_change() {
    let archive = write(&vec![]).expect("memory");
    assert_eq!(archive, [0; 1024]);
    assert_eq!(
        Digest::of(&archive).to_string(),
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
    );
}

#[test]
fn a_plain_file_byte_for_byte() {
    let archive = survives(vec![file("name", "content")]);
    assert_eq!(archive.len(), 2 * 512 + 512 + 1024, "the root, header, content, end");
    for (range, expected) in [
        (0..100, format!("name{}", "\\x00".repeat(96))),
        (100..108, "0000644\\x00".into()),
        (108..116, "0000001\\x00".into()),
        (116..124, "0000002\\x00".into()),
        (124..136, "00000000007\\x00".into()),
        (136..148, "00000000003\\x00".into()),
        (156..157, "0".into()),
        (157..257, "\\x00".repeat(100)),
        (257..265, "ustar\\x0000".into()),
        (265..329, "\\x00".repeat(64)),
        (329..345, "0000000\\x000000000\\x00".into()),
        (345..512, "\\x00".repeat(167)),
    ] {
        assert_eq!(field(&archive, 1, range.clone()), expected, "{range:?}");
    }
    assert_eq!(field(&archive, 0, 0..3), "./\\x00");
    assert_eq!(field(&archive, 0, 100..108), "0001777\\x00");
}

#[test]
fn each_pax_record_where_it_is_needed() {
    let mut attributes = meta(Node::Symlink { target: vec![b't'; 101] });
    attributes.uid = 0o10_000_000;
    attributes.gid = 4_000_000_000;
    attributes.mtime = Timestamp { seconds: -2, nanos: 500_000_000 };
    for (name, value) in [(&b"user.z"[..], &b"1"[..]), (b"user.a=", b"2"), (b"security.capability", b"\n\0")] {
        attributes.xattrs.insert(name.to_vec(), value.to_vec());
    }
    let name = "n".repeat(101);
    let archive = survives(vec![put(&*name, attributes)]);
    let expected = format!(
        "111 path={name}\n115 linkpath={}\n15 uid=2097152\n18 gid=4000000000\n14 mtime=-1.5\n\
         39 SCHILY.xattr.security.capability=\n\0\n35 LIBARCHIVE.xattr.user.a%3D=Mg==\n25 SCHILY.xattr.user.z=1\n",
        "t".repeat(101)
    );
    let records = &archive[2 * BLOCK_BYTES..][..expected.len() + 1];
    assert_eq!(records.escape_ascii().to_string(), [expected.as_bytes(), b"\0"].concat().escape_ascii().to_string());
    assert_eq!(field(&archive, 1, 0..17), "././@PaxHeader\\x00\\x00\\x00");
    assert_eq!(field(&archive, 3, 108..124), "0000000\\x000000000\\x00");
}

#[test]
fn limits_of_the_ustar_header() {
    let at = |seconds| Meta { mtime: Timestamp { seconds, nanos: 0 }, ..meta(Node::Fifo) };
    let owned = |uid| Meta { uid, ..meta(Node::Fifo) };
    let to = |length| meta(Node::Symlink { target: vec![b't'; length] });
    let names = |lengths: &[usize]| PathBuf::from_iter(lengths.iter().map(|length| "n".repeat(*length)));
    for (what, change, pax) in [
        ("mtime", put("x", at(0o77_777_777_777)), false),
        ("mtime", put("x", at(0o100_000_000_000)), true),
        ("mtime", put("x", at(-1)), true),
        ("uid", put("x", owned(2_097_151)), false),
        ("uid", put("x", owned(2_097_152)), true),
        ("target", put("x", to(100)), false),
        ("target", put("x", to(101)), true),
        ("name", put(names(&[100]), at(0)), false),
        ("name", put(names(&[101]), at(0)), true),
    ] {
        let archive = survives(vec![change]);
        assert_eq!(archive[BLOCK_BYTES + 156] == b'x', pax, "{what}");
    }
    let depth = |archive: &[u8]| archive.chunks(BLOCK_BYTES).filter(|block| block[156] == b'x').count();
    for (lengths, pax) in [
        (&[155, 100][..], 1),
        (&[155, 101], 2),
        (&[77, 77, 100], 0),
        (&[78, 77, 100], 1),
        (&[77, 77, 99], 0),
        (&[77, 78, 99], 1),
    ] {
        let archive = write(&vec![put(names(lengths), at(0))]).expect("memory");
        assert_eq!(depth(&archive), pax, "{lengths:?}");
        assert_eq!(read(&archive).expect("ours").last().expect("one").0.path(), names(lengths), "{lengths:?}");
    }
}

#[test]
fn seconds_for_parity() {
    let fine = Meta { mtime: Timestamp { seconds: -2, nanos: 999_999_999 }, ..meta(Node::Fifo) };
    let archive = written(&vec![put("x", fine)], MtimePrecision::Seconds).expect("memory");
    let Change::Put { meta, .. } = &read(&archive).expect("ours")[1].0 else { panic!("a put") };
    assert_eq!(meta.mtime, Timestamp { seconds: -2, nanos: 0 });
}

#[test]
fn deletions() {
    let archive = survives(vec![remove("a"), put("d", dir(0o700)), opaque("d"), file("d/x", "y")]);
    assert_eq!(field(&archive, 1, 0..6), ".wh.a\\x00");
    assert_eq!(field(&archive, 3, 0..15), "d/.wh..wh..opq\\x00");
    for block in [1, 3] {
        assert_eq!(field(&archive, block, 100..124), "0000000\\x00".repeat(3), "mode, uid, gid");
        assert_eq!(field(&archive, block, 124..148), "00000000000\\x00".repeat(2), "size, mtime");
    }
}

#[test]
fn case_14_whiteouts_that_would_be_too_long() {
    survives(vec![remove("n".repeat(251))]);
    refuse(vec![remove("n".repeat(252))], ErrorKind::InvalidArgument, &["too long for a whiteout", "opaque"]);
}

#[test]
fn case_55_names_that_mean_deletions() {
    for stream in [
        vec![file(".wh.x", "")],
        vec![file("d/.wh.x", "")],
        vec![put(".wh.d", dir(0)), file(".wh.d/x", "")],
        vec![remove(".wh.x")],
        vec![opaque(".wh.x")],
        vec![link("a", ".wh.x")],
    ] {
        refuse(stream, ErrorKind::InvalidArgument, &[".wh.", "means a deletion"]);
    }
    survives(vec![file(".wh", "x"), file(".what", "y")]);
}

#[test]
fn hard_links_carry_the_attributes_of_their_inode() {
    let inode = Meta { mode: 0o4755, uid: 7, ..meta(Node::File { size: 0 }) };
    let archive = survives(vec![put("a", inode), link("b", "a")]);
    assert_eq!(field(&archive, 2, 100..116), "0004755\\x000000007\\x00");
    assert_eq!(field(&archive, 2, 156..159), "1a\\x00");
    refuse(vec![put("a", dir(0)), link("b", "a")], ErrorKind::InvalidArgument, &["\"a\", a directory"]);
    refuse(vec![link("b", "b")], ErrorKind::InvalidArgument, &["itself"]);
}

#[test]
fn devices_and_sockets() {
    let device = |major, minor| meta(Node::Char(Device { major, minor }));
    survives(vec![put("a", device(0xfff, 0xf_ffff)), put("b", meta(Node::Block(Device { major: 0, minor: 1 })))]);
    for (major, minor) in [(0, 0), (0x1000, 0), (0, 0x10_0000)] {
        refuse(vec![put("a", device(major, minor))], ErrorKind::InvalidArgument, &["\"a\"", "device"]);
    }
    assert_eq!(write(&vec![put("d/s", meta(Node::Socket))]).expect("skipped"), [0; 1024]);
}

/// Ancestors precede their first descendant, once, unless the stream contains them.
#[test]
fn ancestors() {
    let stream = vec![
        put("a", dir(0o711)),
        file("a/b/c/x", ""),
        file("a/b/c/y", ""),
        file("a/b/z", ""),
        file("a/d/x", ""),
        remove("e/gone"),
        put("e/f", dir(0o700)),
        file("e/f/x", ""),
        opaque("g"),
    ];
    let archive = write(&stream).expect("memory");
    let paths: Vec<String> =
        read(&archive).expect("ours").iter().map(|(change, _)| change.path().display().to_string()).collect();
    assert_eq!(
        paths,
        [
            "", "a", "a/b", "a/b/c", "a/b/c/x", "a/b/c/y", "a/b/z", "a/d", "a/d/x", "e", "e/gone", "e/f", "e/f/x", "g",
            "g"
        ]
    );
    let stream = read(&archive).expect("ours");
    assert_eq!(stream[1], put("a", dir(0o711)));
    assert_eq!(stream[2], put("a/b", dir(0o1777)));
}

#[test]
fn an_ancestor_that_is_no_directory() {
    let mut describe = |_: &Path| Ok(meta(Node::Fifo));
    let mut encoder = Encoder::new(Vec::new(), MtimePrecision::Nanoseconds, &mut describe);
    let (change, _) = file("a/b", "");
    let error = encoder.change(&change, &mut io::empty()).unwrap_err();
    assert!(error.chain().contains("is a fifo"), "{}", error.chain());
}

#[test]
fn the_order_is_checked() {
    for stream in [
        vec![file("b", ""), file("a", "")],
        vec![file("a", ""), file("a", "")],
        vec![file("a", ""), remove("b")],
        vec![remove("a"), put("a", dir(0))],
        vec![file("a/b", ""), remove("a")],
        vec![file("a", ""), file("a/b", "")],
        vec![remove("a"), remove("a/b")],
        vec![file("a/x", ""), put("a", dir(0))],
        vec![file("a/x", ""), file("b", ""), file("a/y", "")],
        vec![put("a", dir(0)), file("a/x", ""), opaque("a")],
        vec![opaque("a"), put("a", dir(0))],
        vec![file("a", ""), put("", dir(0))],
    ] {
        refuse(stream, ErrorKind::InvalidArgument, &["after that of"]);
    }
    survives(vec![remove("z"), file("a-b", ""), put("a.d", dir(0)), file("a.d/x", ""), file("a.d.x", "")]);
}

#[test]
fn paths_that_are_not_clean() {
    for path in ["/a", "a/", "a//b", "./a", "a/.", "a/../b", "..", "a\0b"] {
        refuse(vec![file(path, "")], ErrorKind::InvalidArgument, &["not relative and clean"]);
    }
    refuse(vec![remove("")], ErrorKind::InvalidArgument, &["root"]);
    refuse(vec![file("", "")], ErrorKind::InvalidArgument, &["root"]);
}

/// The reader and the writer have the same limits, so everything written can be read.
#[test]
fn paths_beyond_the_limits() {
    let path = |names: usize, bytes: usize| PathBuf::from_iter(vec!["n".repeat(bytes); names]);
    let mut deepest: Stream = path(64, 255).ancestors().map(|path| put(path, dir(0o700))).collect();
    deepest.reverse();
    assert_eq!(read(&write(&deepest).expect("16,383 bytes")).expect("and a slash"), deepest);
    for path in [path(65, 255), path(2049, 1)] {
        refuse(vec![file(path, "")], ErrorKind::ResourceExhausted, &["deep"]);
    }
}

#[test]
fn case_57_content_of_another_length() {
    for content in ["abc", "abcde", ""] {
        let (change, _) = file("f", "abcd");
        refuse(vec![(change, content.into())], ErrorKind::DataLoss, &["\"f\"", "4"]);
    }
}

#[test]
fn attributes_that_no_reader_accepts() {
    let mut attributes = meta(Node::File { size: 0 });
    attributes.xattrs.insert(b"user.a".to_vec(), vec![0; 1 << 20]);
    refuse(vec![put("f", attributes)], ErrorKind::ResourceExhausted, &["\"f\"", "1048576"]);
}

#[test]
fn unportable_attributes_stay() {
    let mut attributes = meta(Node::Fifo);
    attributes.xattrs.insert(b"security.selinux".to_vec(), b"label".to_vec());
    attributes.xattrs.insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
    let archive = write(&vec![put("p", attributes)]).expect("memory");
    assert_eq!(read(&archive).expect("ours")[1], put("p", meta(Node::Fifo)));
}

/// A file of more than 8 GiB that is never held in memory.
#[test]
fn case_47_huge_files() {
    struct Head(Vec<u8>, u64);
    impl io::Write for Head {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(&bytes[..bytes.len().min(4096_usize.saturating_sub(self.0.len()))]);
            self.1 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    const SIZE: u64 = (8 << 30) + 1;
    let mut describe = |_: &Path| Ok(dir(0o755));
    let mut encoder = Encoder::new(Head(Vec::new(), 0), MtimePrecision::Nanoseconds, &mut describe);
    let (change, _) = put("huge", meta(Node::File { size: SIZE }));
    encoder.change(&change, &mut Anything(SIZE)).expect("memory");
    let Head(head, total) = encoder.finish().expect("memory");
    assert_eq!(total, 4 * 512 + SIZE.next_multiple_of(512) + 1024);
    assert!(head[1024..].starts_with(b"19 size=8589934593\n\0"));
    assert_eq!(field(&head, 3, 124..136), "00000000000\\x00");
}
