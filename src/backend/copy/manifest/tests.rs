use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;
use crate::mount::scratch::FsType;
use crate::testing;

fn stamp() -> impl Strategy<Value = Stamp> {
    (any::<u64>(), any::<i64>(), 0..1_000_000_000_u32)
        .prop_map(|(ino, seconds, nanos)| Stamp { ino, ctime: Timestamp { seconds, nanos } })
}

fn name() -> impl Strategy<Value = OsString> {
    prop::collection::vec(1_u8.., 0..200).prop_map(OsString::from_vec)
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let entry = (name(), stamp()).prop_map(|(name, stamp)| CopiedEntry { name, stamp });
    let dir = (name(), stamp(), prop::collection::vec(entry, 0..5)).prop_map(|(path, stamp, entries)| CopiedDir {
        path: PathBuf::from(path),
        stamp,
        entries,
    });
    (any::<BootId>(), any::<u64>(), stamp(), prop::collection::vec(dir, 0..5))
        .prop_map(|(boot, parent, stamp, dirs)| Manifest { boot, parent: Id(parent), complete: stamp.ctime, dirs })
}

#[test]
fn the_layout_is_what_it_was() {
    let time = |nanos| Timestamp { seconds: 1, nanos };
    let entry = CopiedEntry { name: "f".into(), stamp: Stamp { ino: 301, ctime: time(3) } };
    let manifest = Manifest {
        boot: *b"0123456789abcdef",
        parent: Id(7),
        complete: time(258),
        dirs: vec![CopiedDir {
            path: PathBuf::new(),
            stamp: Stamp { ino: 300, ctime: Timestamp { seconds: 0, nanos: 2 } },
            entries: vec![entry],
        }],
    };
    let body = b"strata-m\x01\0\0\x000123456789abcdef\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\x01\0\0\
        \0\xd8\x04\x01\x02\x01\x01f\x02\x02\x03";
    let bytes = manifest.encode();
    assert_eq!(&bytes[..bytes.len() - DIGEST_BYTES], body);
    assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
}

#[test]
fn another_version_is_not_damage() {
    let manifest = Manifest { boot: [0; 16], parent: Id(1), complete: Timestamp::EPOCH, dirs: Vec::new() };
    let mut bytes = manifest.encode();
    bytes.truncate(bytes.len() - DIGEST_BYTES);
    bytes[8] = 2;
    bytes.extend_from_slice(Digest::of(&bytes.clone()).as_bytes());
    assert_eq!(Manifest::decode(&bytes).unwrap_err().kind(), ErrorKind::Unsupported);
}

proptest! {
    #[test]
    fn decode_undoes_encode(manifest in manifest()) {
        prop_assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    }

    #[test]
    fn damage_is_found(manifest in manifest(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut bytes = manifest.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert_eq!(Manifest::decode(&bytes).unwrap_err().kind(), ErrorKind::DataLoss);
        bytes[at] ^= 1 << bit;
        prop_assert!(Manifest::decode(&bytes[..at]).is_err());
    }

    #[test]
    fn nonsense_with_a_right_digest_is_no_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = [MAGIC, &VERSION.to_le_bytes()[..], &body].concat();
        bytes.extend_from_slice(Digest::of(&bytes.clone()).as_bytes());
        drop(Manifest::decode(&bytes));
    }
}

#[test]
fn a_clock_that_stepped_back_and_a_change_within_a_tick_are_seen() {
    let Some(scratch) = testing::scratch(FsType::Tmpfs) else { return };
    let root = Dir::open(scratch.path()).unwrap();
    for name in ["a", "b"] {
        root.create_file(name).unwrap();
    }
    let stamp = |name: &str| Stamp::from(&root.stat(name).unwrap());
    let record = |complete| {
        let entries = ["a", "b"].map(|name| CopiedEntry { name: name.into(), stamp: stamp(name) }).to_vec();
        let dirs = vec![CopiedDir { path: PathBuf::new(), stamp: stamp(""), entries }];
        Manifest { boot: [0; 16], parent: Id(1), complete, dirs }
    };
    let names = |manifest: &Manifest| {
        let selection = manifest.select(&root).unwrap();
        ["a", "b"].into_iter().filter(|name| selection.selects(Path::new(name))).collect::<Vec<_>>()
    };
    let tomorrow = Timestamp { seconds: stamp("a").ctime.seconds + 86_400, nanos: 0 };
    let before = record(tomorrow);
    assert!(names(&before).is_empty());
    root.set_mode("a", 0o640).unwrap();
    assert_eq!(names(&before), ["a"], "changed when the clock was behind");
    let within = record(stamp("a").ctime);
    assert!(names(&within).contains(&"a"), "changed once more, and nothing tells");
}
