//! Archives and their meanings, by the numbers of the checklist of layer semantics.

use super::*;
use crate::error::ErrorKind;

/// Checks that the archive is read as `expected`.
#[track_caller]
fn check(name: &str, archive: Archive, expected: Stream) {
    match read(&archive.end()) {
        Ok(stream) => assert_eq!(stream, expected, "{name}"),
        Err(error) => panic!("{name}: {}", error.chain()),
    }
}

/// Checks that the archive is refused with an error of `kind` that contains `words`.
#[track_caller]
fn refuse(archive: Archive, kind: ErrorKind, words: &[&str]) {
    refuse_bytes(&archive.end(), kind, words);
}

#[track_caller]
fn refuse_bytes(archive: &[u8], kind: ErrorKind, words: &[&str]) {
    let error = read(archive).unwrap_err();
    assert_eq!(error.kind(), kind, "{}", error.chain());
    for word in words {
        assert!(error.chain().contains(word), "{word:?} is not in {}", error.chain());
    }
}

fn new() -> Archive {
    Archive::default()
}

#[test]
fn case_11_whiteouts_of_any_type() {
    check(
        "by name",
        new()
            .file("d/.wh.a", "")
            .file("d/.wh.b", "content")
            .dir("d/.wh.c/")
            .link(b'1', "d/.wh.d", "elsewhere")
            .link(b'2', "d/.wh.e", "")
            .entry(b'3', "d/.wh.f", b"")
            .file("d/.wh..wh..opq", "content"),
        vec![remove("d/a"), remove("d/b"), remove("d/c"), remove("d/d"), remove("d/e"), remove("d/f"), opaque("d")],
    );
    check("at the root", new().file(".wh..wh..opq", "").file("./.wh.x", ""), vec![opaque(""), remove("x")]);
}

#[test]
fn case_12_whiteouts_of_nothing() {
    for name in [".wh.", "a/.wh..", "a/.wh..."] {
        refuse(new().file(name, ""), ErrorKind::InvalidArgument, &[name, "at byte 0", "whiteout of no name"]);
    }
    refuse(new().file(".wh.d/f", ""), ErrorKind::InvalidArgument, &["below the whiteout"]);
}

#[test]
fn case_13_files_of_aufs() {
    check(
        "skipped, content and all",
        new().dir(".wh..wh.plnk").file(".wh..wh.plnk/12.34", "content").file("a/.wh..wh.aufs", "").file("b", "c"),
        vec![file("b", "c")],
    );
    refuse(new().link(b'1', "a", ".wh..wh.plnk/12.34"), ErrorKind::InvalidArgument, &["\"a\"", "hard link"]);
}

#[test]
fn case_14_whiteouts_of_odd_names() {
    let long = "n".repeat(255);
    check(
        "255 bytes",
        new().pax(&[("path", format!("d/.wh.{long}").as_bytes())]).file("x", ""),
        vec![remove(format!("d/{long}"))],
    );
    check("newline", new().file("d/.wh.a\nb", ""), vec![remove("d/a\nb")]);
    refuse(
        new().pax(&[("path", format!("d/.wh.{long}n").as_bytes())]).file("x", ""),
        ErrorKind::InvalidArgument,
        &["256 bytes"],
    );
}

#[test]
fn case_23_the_root() {
    for name in ["./", ".", "/", "a/.."] {
        check(name, new().dir(name), vec![put("", dir(0o644))]);
    }
    for archive in [new().file("./.", "x"), new().link(b'2', "/.", "x"), new().link(b'1', "a/..", "x")] {
        refuse(archive, ErrorKind::InvalidArgument, &["the root can only be a directory"]);
    }
}

#[test]
fn case_24_names_that_leave_the_root() {
    check(
        "resolved by text",
        new().file("/a/../b", "x").link(b'1', "//c", "/./d/../b"),
        vec![file("b", "x"), link("c", "b")],
    );
    for archive in
        [new().file("../a", ""), new().file("/a/../../b", ""), new().dir(".."), new().link(b'1', "a", "../b")]
    {
        refuse(archive, ErrorKind::InvalidArgument, &["leaves the root"]);
    }
}

#[test]
fn case_25_odd_names() {
    check(
        "slashes",
        new().file("a//b", "x").file("c/", "").file("d/", "content").entry(0, "e/", b"").file("f", "x"),
        vec![file("a/b", "x"), put("c", dir(0o644)), put("d", dir(0o644)), put("e", dir(0o644)), file("f", "x")],
    );
    refuse(new().file("", "x"), ErrorKind::InvalidArgument, &["empty path"]);
    refuse(new().pax(&[("path", b"a\0b")]).file("x", ""), ErrorKind::InvalidArgument, &["NUL"]);
    refuse(new().pax(&[("path", &[b'n'; 256])]).file("x", ""), ErrorKind::InvalidArgument, &["256 bytes"]);
    let prefixed = new().edited(b'0', b"name", b"x", |block| block[345..350].copy_from_slice(b"a/b/c"));
    check("prefix", prefixed, vec![file("a/b/c/name", "x")]);
    let gnu = new().edited(b'0', b"name", b"x", |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..350].copy_from_slice(b"00000");
    });
    check("GNU's headers have no prefix", gnu, vec![file("name", "x")]);
    let old = new().edited(b'0', b"name", b"x", |block| block[257..].fill(0));
    check("nor have old ones", old, vec![file("name", "x")]);
}

#[test]
fn case_26_names_that_are_no_text() {
    use std::os::unix::ffi::OsStringExt;
    let name = PathBuf::from(std::ffi::OsString::from_vec(b"\xff\xfe/\x80".to_vec()));
    check("header", new().edited(b'0', b"\xff\xfe/\x80", b"x", |_| {}), vec![file(&name, "x")]);
    check("PAX", new().pax(&[("path", b"\xff\xfe/\x80")]).file("n", "x"), vec![file(&name, "x")]);
    check("GNU", new().entry(b'L', "", b"\xff\xfe/\x80\0").file("n", "x"), vec![file(&name, "x")]);
}

#[test]
fn case_27_duplicates_are_passed_on() {
    check("in order", new().file("a", "1").file("a", "2"), vec![file("a", "1"), file("a", "2")]);
}

#[test]
fn case_28_types() {
    check(
        "skipped and taken",
        new()
            .entry(b'g', "global", b"20 path=everywhere\n\n")
            .entry(b'V', "label", b"")
            .entry(b'7', "a", b"x")
            .entry(0, "b", b"y"),
        vec![file("a", "x"), file("b", "y")],
    );
    for kind in *b"MXNDAZ89\xff" {
        refuse(new().entry(kind, "strange", b""), ErrorKind::InvalidArgument, &["\"strange\" at byte 0", "type"]);
    }
}

#[test]
fn case_29_ends() {
    let entry = || new().file("a", "x");
    let length = entry().0.len() as u64;
    for (what, archive, bytes, trailing) in [
        ("no zero block", entry().0, length, 0),
        ("one", entry().raw(&[0; 512]).0, length + 512, 0),
        ("two", entry().end(), length + 1024, 0),
        ("a record", entry().raw(&[0; 10240]).0, length + 10240, 10240 - 1024),
        ("garbage", [entry().end(), b"garbage".to_vec()].concat(), length + 1024 + 7, 7),
        ("two MiB of zeros", [entry().end(), vec![0; 2 << 20]].concat(), length + 1024 + (2 << 20), 2 << 20),
        ("a MiB", [entry().end(), vec![1; 1 << 20]].concat(), length + 1024 + (1 << 20), 1 << 20),
    ] {
        let (stream, decoded) = read_within(&archive, &Limits::default()).expect(what);
        assert_eq!(stream, vec![file("a", "x")], "{what}");
        assert_eq!(decoded, Decoded { entries: 1, bytes, trailing_bytes: trailing }, "{what}");
    }
    assert_eq!(read(&new().end()).expect("1,024 zero bytes are an empty archive"), vec![]);
    for zeros in [0, BLOCK_BYTES, 2 * BLOCK_BYTES, 20 * BLOCK_BYTES] {
        assert_eq!(read(&vec![0; zeros]).expect("a layer without changes"), [], "{zeros} bytes");
    }
    refuse_bytes(&[entry().end(), vec![1; (1 << 20) + 1]].concat(), ErrorKind::ResourceExhausted, &["1048576"]);
    let behind_zeros = [entry().end(), vec![0; 1 << 20], vec![1]].concat();
    refuse_bytes(&behind_zeros, ErrorKind::ResourceExhausted, &["1048576"]);
    refuse_bytes(&entry().raw(&[0; 512]).file("b", "").end(), ErrorKind::DataLoss, &["single zero block", "byte 1024"]);
}

/// A digesting reader below sees every byte, whatever the sink reads.
#[test]
fn case_29_all_bytes_are_read() {
    use crate::changeset::blob::DigestReader;
    let archive = [new().file("a", &"x".repeat(2000)).end(), b"trailing".to_vec()].concat();
    let mut reader = DigestReader::new(&archive[..]);
    decode(&mut reader, &Limits::default(), &mut ignore()).expect("well-formed");
    assert_eq!(reader.finish(), (crate::id::Digest::of(&archive), archive.len() as u64));
}

#[test]
fn case_29_cut_at_every_byte() {
    let parts = [
        new().dir("d"),
        new().pax(&[("path", b"d/long"), ("SCHILY.xattr.user.a", b"\n")]).file("x", &"y".repeat(700)),
        new().entry(b'L', "././@LongLink", b"d/longer\0").entry(b'K', "././@LongLink", b"to\0").link(b'2', "x", "y"),
        new().file("d/.wh.z", ""),
    ];
    // The padding of the last entry may be missing; only content of 700 bytes has padding.
    let padding = [0, 2 * BLOCK_BYTES - 700, 0, 0];
    let ends: Vec<_> = parts
        .iter()
        .zip(padding)
        .scan(0, |end, (part, padding)| {
            *end += part.0.len();
            Some(*end - padding..=*end)
        })
        .collect();
    let archive = Archive(parts.into_iter().flat_map(|part| part.0).collect()).end();
    let whole = read(&archive).expect("well-formed");
    for end in 1..archive.len() {
        let cut = read(&archive[..end]);
        let complete = ends.iter().filter(|entry| *entry.start() <= end).count();
        if ends.iter().any(|entry| entry.contains(&end)) || end >= ends[3].end() + BLOCK_BYTES {
            assert_eq!(cut.expect("a boundary"), whole[..complete], "cut at {end}");
        } else {
            assert_eq!(cut.unwrap_err().kind(), ErrorKind::DataLoss, "cut at {end}");
        }
    }
}

#[test]
fn case_30_hard_links() {
    check(
        "attributes and size of its own are not read",
        new().file("a", "x").edited(b'1', b"b", b"", |block| {
            block[157] = b'a';
            block[100..108].copy_from_slice(b"garbage\0");
            block[108..116].copy_from_slice(b"garbage\0");
            block[124..136].copy_from_slice(b"00000001000\0");
        }),
        vec![file("a", "x"), link("b", "a")],
    );
    check("to a later entry", new().link(b'1', "b", "a").file("a", "x"), vec![link("b", "a"), file("a", "x")]);
    refuse(new().link(b'1', "d/a", "./d//a"), ErrorKind::InvalidArgument, &["itself"]);
    refuse(new().link(b'1', "a", "/"), ErrorKind::InvalidArgument, &["to the root"]);
    refuse(new().link(b'1', "a", ""), ErrorKind::InvalidArgument, &["empty path"]);
    refuse(new().link(b'1', "a", "d/.wh.b"), ErrorKind::InvalidArgument, &["no file of a tree"]);
}

#[test]
fn case_34_devices() {
    let device = |major, minor| Device { major, minor };
    check(
        "in range",
        new()
            .device(b'3', "null", "0000001", "0000003")
            .device(b'4', "most", "0007777", "3777777")
            .entry(b'6', "p", b""),
        vec![
            put("null", meta(Node::Char(device(1, 3)))),
            put("most", meta(Node::Block(device(0xfff, 0xf_ffff)))),
            put("p", meta(Node::Fifo)),
        ],
    );
    for (major, minor) in [("0000000", "0000000"), ("0010000", "0000000"), ("0000000", "4000000"), ("\u{7f}", "0")] {
        read(&new().device(b'3', "d", major, minor).end()).unwrap_err();
    }
    refuse(new().entry(b'3', "d", b""), ErrorKind::InvalidArgument, &["0:0"]);
    refuse(new().device(b'4', "d", "0010000", "0"), ErrorKind::InvalidArgument, &["4096:0", "range"]);
}

#[test]
fn case_38_xattrs() {
    let xattrs: Xattrs = [
        (&b"user.a"[..], &b"line\nbreak\0=nul"[..]),
        (b"user.empty", b""),
        (b"trusted.other", b"kept"),
        (b"user.b c", b"base"),
    ]
    .map(|(name, value)| (name.to_vec(), value.to_vec()))
    .into();
    check(
        "all that travels",
        new()
            .pax(&[
                ("SCHILY.xattr.user.a", b"line\nbreak\0=nul"),
                ("SCHILY.xattr.user.empty", b""),
                ("SCHILY.xattr.trusted.other", b"kept"),
                ("SCHILY.xattr.security.selinux", b"dropped"),
                ("SCHILY.acl.access", b"dropped"),
                ("LIBARCHIVE.xattr.user.a", b"bG9zZXM="),
                ("LIBARCHIVE.xattr.user.b%20c", b"YmFzZQ"),
            ])
            .entry(b'6', "p", b""),
        vec![put("p", Meta { xattrs, ..meta(Node::Fifo) })],
    );
}

#[test]
fn case_39_attributes_of_overlayfs() {
    for key in [
        "SCHILY.xattr.trusted.overlay.opaque",
        "SCHILY.xattr.user.overlay.redirect",
        "LIBARCHIVE.xattr.trusted.overlay.overlay.opaque",
    ] {
        for archive in [new().pax(&[(key, b"eQ==")]).dir("d"), new().pax(&[(key, b"eQ==")]).file("d/.wh.x", "")] {
            refuse(archive, ErrorKind::InvalidArgument, &["belongs to overlayfs", "\"d"]);
        }
    }
}

#[test]
fn case_42_times() {
    let at = |seconds, nanos| Meta { mtime: Timestamp { seconds, nanos }, ..meta(Node::Fifo) };
    check(
        "PAX before the header",
        new()
            .pax(&[("mtime", b"-1.25"), ("atime", b"garbage")])
            .entry(b'6', "a", b"")
            .edited(b'6', b"b", b"", |block| {
                block[136..148].copy_from_slice(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe")
            })
            .edited(b'6', b"c", b"", |block| block[136..148].copy_from_slice(b"\x80\0\0\0\0\0\0\x02\0\0\0\0")),
        vec![put("a", at(-2, 750_000_000)), put("b", at(-2, 0)), put("c", at(1 << 33, 0))],
    );
    refuse(new().pax(&[("mtime", b"NaN")]).entry(b'6', "a", b""), ErrorKind::DataLoss, &["mtime", "NaN"]);
}

#[test]
fn case_44_and_45_modes_and_owners() {
    let base_256 = |value: u32| [&[0x80, 0, 0, 0][..], &value.to_be_bytes()].concat();
    check(
        "masked, and as large as there are",
        new()
            .edited(b'6', b"a", b"", |block| {
                block[100..108].copy_from_slice(b"0107777\0");
                block[108..116].copy_from_slice(&base_256(u32::MAX - 1));
            })
            .pax(&[("uid", b"3000000000"), ("gid", b"4294967294")])
            .entry(b'6', "b", b""),
        vec![
            put("a", Meta { mode: 0o7777, uid: u32::MAX - 1, ..meta(Node::Fifo) }),
            put("b", Meta { uid: 3_000_000_000, gid: u32::MAX - 1, ..meta(Node::Fifo) }),
        ],
    );
    refuse(
        new().edited(b'6', b"a", b"", |block| block[108..116].copy_from_slice(&base_256(u32::MAX))),
        ErrorKind::InvalidArgument,
        &["uid 4294967295"],
    );
    for id in ["4294967295", "4294967296", "18446744073709551615"] {
        refuse(new().pax(&[("gid", id.as_bytes())]).entry(b'6', "a", b""), ErrorKind::InvalidArgument, &["gid", id]);
    }
    refuse(
        new().edited(b'6', b"a", b"", |block| block[116..124].fill(0xff)),
        ErrorKind::DataLoss,
        &["gid is negative"],
    );
}

/// Returns the content of the maps in `S` headers and PAX: 5 bytes at 3, 2 at 600, the end at 1000.
fn sparse_content() -> Vec<u8> {
    let mut content = vec![0; 1000];
    content[3..8].copy_from_slice(b"hello");
    content[600..602].copy_from_slice(b"yo");
    content
}

pub(super) fn gnu_sparse(pairs: &[(u64, u64)], size: u64, stored: &[u8]) -> Archive {
    let number = |value: u64| format!("{value:011o}\0").into_bytes();
    let pair = |(offset, length): &(u64, u64)| [number(*offset), number(*length)].concat();
    let (first, more) = pairs.split_at(pairs.len().min(4));
    let archive = new().edited(b'S', b"s", b"", |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[124..136].copy_from_slice(&number(stored.len() as u64));
        let map: Vec<u8> = first.iter().flat_map(pair).collect();
        block[386..386 + map.len()].copy_from_slice(&map);
        block[482] = u8::from(!more.is_empty());
        block[483..495].copy_from_slice(&number(size));
    });
    let chunks = more.chunks(21).enumerate();
    let last = more.len().div_ceil(21);
    let archive = chunks.fold(archive, |archive, (at, pairs)| {
        let mut block: Vec<u8> = pairs.iter().flat_map(pair).collect();
        block.resize(BLOCK_BYTES, 0);
        block[504] = u8::from(at + 1 < last);
        archive.raw(&block)
    });
    archive.raw(stored)
}

#[test]
fn case_46_sparse_files() {
    let content = sparse_content();
    let expected = || vec![file("s", &content), file("after", "x")];
    check("S", gnu_sparse(&[(3, 5), (600, 2), (1000, 0)], 1000, b"helloyo").file("after", "x"), expected());
    check(
        "0.0",
        new()
            .pax(&[
                ("GNU.sparse.size", b"1000"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"3"),
                ("GNU.sparse.numbytes", b"5"),
                ("GNU.sparse.offset", b"600"),
                ("GNU.sparse.numbytes", b"2"),
            ])
            .file("s", "helloyo")
            .file("after", "x"),
        expected(),
    );
    check(
        "0.1",
        new()
            .pax(&[("GNU.sparse.size", b"1000"), ("GNU.sparse.name", b"s"), ("GNU.sparse.map", b"3,5,600,2")])
            .file("GNUSparseFile.1/s", "helloyo")
            .file("after", "x"),
        expected(),
    );
    let map = [&b"2\n3\n5\n600\n2\n"[..], &[0; 500], b"helloyo"].concat();
    let one = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", b"1000"),
    ];
    check("1.0", new().pax(&one).entry(b'0', "x/s", &map).file("after", "x"), expected());
}

#[test]
fn case_46_sparse_extension_blocks() {
    let pairs: Vec<(u64, u64)> = (0..60).map(|at| (at * 10 + 1, 1)).collect();
    let stored: Vec<u8> = (0..60).collect();
    let mut content = vec![0; 700];
    for (at, byte) in stored.iter().enumerate() {
        content[at * 10 + 1] = *byte;
    }
    check("S", gnu_sparse(&pairs, 700, &stored).file("after", "x"), vec![file("s", &content), file("after", "x")]);
    let tight = Limits { sparse_segments: 59, ..Limits::default() };
    let error = read_within(&gnu_sparse(&pairs, 700, &stored).end(), &tight).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
}

#[test]
fn case_46_sparse_files_cut_at_every_byte() {
    let pairs: Vec<(u64, u64)> = (0..60).map(|at| (at * 10, 1)).collect();
    let one = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"1000")];
    let map = [&b"1\n3\n5\n"[..], &[0; 506], b"hello"].concat();
    let stored = [60, 5];
    let archives = [gnu_sparse(&pairs, 700, &[b'x'; 60]).0, new().pax(&one).entry(b'0', "s", &map).0];
    for (archive, stored) in archives.into_iter().zip(stored) {
        read(&archive).expect("whole");
        for end in 1..archive.len() - (BLOCK_BYTES - stored) {
            refuse_bytes(&archive[..end], ErrorKind::DataLoss, &["ends at byte"]);
        }
    }
}

#[test]
fn case_46_sparse_maps_that_lie() {
    for (pairs, size, stored) in [
        (&[(600, 2), (3, 5)][..], 1000, &b"yohello"[..]),
        (&[(3, 5), (7, 2)], 1000, b"helloyo"),
        (&[(3, 5), (600, 2)], 601, b"helloyo"),
        (&[(3, 5), (600, 3)], 1000, b"helloyo"),
        (&[(3, 5)], 1000, b"helloyo"),
    ] {
        refuse(gnu_sparse(pairs, size, stored), ErrorKind::DataLoss, &["\"s\"", "map of a sparse file"]);
    }
    let one = |size: &'static [u8]| {
        new().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", size)])
    };
    let block = |map: &[u8]| [map, &[b'0'; BLOCK_BYTES][map.len()..]].concat();
    for map in [&b""[..], b"1\n", b"x\n", b"123456789012345678901\n", b"1\n18446744073709551615\n1\n"] {
        refuse(one(b"10").entry(b'0', "s", map), ErrorKind::DataLoss, &["\"s\""]);
        refuse(one(b"10").entry(b'0', "s", &block(map)), ErrorKind::DataLoss, &["\"s\""]);
    }
    let endless = one(b"10").entry(b'0', "s", &block(b"18446744073709551615\n"));
    refuse(endless, ErrorKind::ResourceExhausted, &["stretches"]);
    refuse(new().pax(&[("GNU.sparse.major", b"1")]).file("s", ""), ErrorKind::DataLoss, &["real size"]);
    refuse(
        new().pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.size", b"0")]).file("s", ""),
        ErrorKind::InvalidArgument,
        &["2.0"],
    );
    refuse(new().edited(b'S', b"s", b"", |_| {}), ErrorKind::DataLoss, &["not in GNU's format"]);
}

/// A sparse bomb costs nothing: its size is checked before a byte is delivered.
#[test]
fn case_46_sparse_bomb() {
    let bomb = new().pax(&[("GNU.sparse.size", b"9000000000000000000"), ("GNU.sparse.map", b"")]).file("s", "").end();
    let mut seen = 0;
    let mut sink = |_: &Change, _: &mut dyn Read| {
        seen += 1;
        Ok(())
    };
    let error = decode(&mut &bomb[..], &Limits::default(), &mut sink).unwrap_err();
    assert_eq!((error.kind(), seen), (ErrorKind::ResourceExhausted, 0), "{}", error.chain());
}

/// The PAX size applies to the file only: not to a GNU long name in between, not to a link.
#[test]
fn case_47_sizes() {
    let desync = new()
        .pax(&[("size", b"600")])
        .entry(b'L', "././@LongLink", b"long\0")
        .edited(b'0', b"x", b"", |block| block[124..136].copy_from_slice(b"00000000000\0"))
        .raw(&[b'y'; 600])
        .file("after", "z");
    check("RUSTSEC-2026-0068", desync, vec![file("long", [b'y'; 600]), file("after", "z")]);
    for (kind, node) in [(b'5', Node::Dir), (b'6', Node::Fifo)] {
        let sized =
            new().pax(&[("size", b"512")]).edited(kind, b"x", b"", |block| block[134] = b'7').file("after", "z");
        check("no content, whatever it says", sized, vec![put("x", meta(node)), file("after", "z")]);
    }
    refuse(new().pax(&[("size", b"-1")]).file("x", ""), ErrorKind::DataLoss, &["size"]);
    refuse(new().pax(&[("size", b"99999999999")]).file("x", ""), ErrorKind::DataLoss, &["\"x\"", "ends at byte"]);
    refuse(
        new().edited(b'0', b"x", b"", |block| block[124..136].fill(0xff)),
        ErrorKind::DataLoss,
        &["\"x\"", "size is negative"],
    );
}

#[test]
fn two_names_for_one_entry() {
    let both =
        |long: &[u8]| new().pax(&[("path", b"a"), ("linkpath", b"t")]).entry(b'L', "", long).link(b'2', "x", "y");
    check("agreeing", both(b"a\0"), vec![put("a", meta(Node::Symlink { target: b"t".to_vec() }))]);
    check("padded", both(b"a\0\0\0"), vec![put("a", meta(Node::Symlink { target: b"t".to_vec() }))]);
    refuse(both(b"b\0"), ErrorKind::InvalidArgument, &["different path"]);
    refuse(new().pax(&[]).pax(&[]).file("x", ""), ErrorKind::InvalidArgument, &["two extended headers"]);
    refuse(new().entry(b'K', "", b"a\0").entry(b'K', "", b"a\0").file("x", ""), ErrorKind::InvalidArgument, &["two"]);
}

/// Found by the fuzz target `differential`: the tar crate takes bytes after the NUL as part of the name.
#[test]
fn a_nul_inside_a_gnu_long_name() {
    for kind in [b'L', b'K'] {
        let archive = new().entry(kind, "", b"a\0b\0").link(b'2', "x", "y");
        refuse(archive, ErrorKind::InvalidArgument, &["a NUL byte inside a GNU long name"]);
    }
}

#[test]
fn symlink_targets() {
    check(
        "any bytes",
        new().link(b'2', "a", "/../x//y/"),
        vec![put("a", meta(Node::Symlink { target: b"/../x//y/".into() }))],
    );
    refuse(new().link(b'2', "a", ""), ErrorKind::InvalidArgument, &["empty path"]);
    refuse(new().pax(&[("linkpath", b"a\0b")]).link(b'2', "a", ""), ErrorKind::InvalidArgument, &["NUL"]);
}

#[test]
fn limits() {
    let archive =
        new().pax(&[("SCHILY.xattr.user.a", b"123456")]).file("a/b", "0123456789").file("c", "0123456789").end();
    let all = Limits::default();
    for (name, limits) in [
        ("entries", Limits { entries: 1, ..all }),
        ("total bytes of files", Limits { total_bytes: 19, ..all }),
        ("total bytes", Limits { total_bytes: archive.len() as u64 - 1, ..all }),
        ("PAX", Limits { pax_bytes: 10, ..all }),
        ("xattrs", Limits { xattr_bytes: 10, ..all }),
        ("path", Limits { path_bytes: 2, ..all }),
        ("depth", Limits { path_depth: 1, ..all }),
    ] {
        assert_eq!(read_within(&archive, &limits).unwrap_err().kind(), ErrorKind::ResourceExhausted, "{name}");
    }
    let exact = Limits {
        entries: 2,
        total_bytes: archive.len() as u64,
        xattr_bytes: 12,
        path_bytes: 3,
        path_depth: 2,
        trailing_bytes: 0,
        padding_bytes: 0,
        ..all
    };
    read_within(&archive, &exact).expect("exactly the limits");
    let long = new().entry(b'L', "", &[b'n'; 5]).file("x", "").end();
    assert_eq!(read_within(&long, &exact).unwrap_err().kind(), ErrorKind::ResourceExhausted, "GNU name");
}

#[test]
fn damage_names_the_place() {
    let mut archive = new().file("a", "x").file("b", "y").end();
    archive[1024] ^= 1;
    refuse_bytes(&archive, ErrorKind::DataLoss, &["header at byte 1024", "checksum"]);
    refuse_bytes(&[b'x'; 1024], ErrorKind::DataLoss, &["header at byte 0"]);
    refuse(new().file("a", "x").pax(&[("mtime", b"x")]).file("b", "y"), ErrorKind::DataLoss, &["header at byte 1024"]);
}

/// An error of the sink keeps its kind, and names the entry.
#[test]
fn errors_of_the_sink() {
    let mut sink = |_: &Change, _: &mut dyn Read| Err(crate::Error::new(ErrorKind::PermissionDenied, "no"));
    let error = decode(&mut &new().file("a", "x").end()[..], &Limits::default(), &mut sink).unwrap_err();
    assert_eq!((error.kind(), error.chain()), (ErrorKind::PermissionDenied, "entry \"a\" at byte 0: no".to_owned()));
}

/// A file of more than 8 GiB, generated by a reader.
#[test]
fn case_47_huge_files() {
    const SIZE: u64 = (8 << 30) + 513;
    let head = new().pax(&[("size", SIZE.to_string().as_bytes())]).file("huge", "").0;
    let head = &head[..];
    let padding = SIZE.next_multiple_of(512) - SIZE;
    let tail = new().file("after", "x").end();
    let mut reader = head.chain(Anything(SIZE + padding)).chain(&tail[..]);
    let mut seen = Vec::new();
    let mut sink = |change: &Change, _: &mut dyn Read| {
        seen.push(change.clone());
        Ok(())
    };
    decode(&mut reader, &Limits::default(), &mut sink).expect("well-formed");
    assert_eq!(seen, [put("huge", meta(Node::File { size: SIZE })).0, file("after", "x").0]);
}
