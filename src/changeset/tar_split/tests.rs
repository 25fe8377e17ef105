//! Tar-split data that was damaged, or made by a stranger, is an error or an archive, within limits.

use std::fs::{self, File};
use std::io::Write as _;

use super::*;
use crate::strangers::try_each;

/// Data of all kinds of records, about the files `a` and `d/b`.
fn seed() -> Vec<u8> {
    let mut bytes = named(BYTES, Path::new("eleven bytes"));
    bytes.extend(named(CONTENT, Path::new("a")));
    bytes.extend([2, 0, 3, 10, 2]);
    bytes.extend(named(RESCUED, Path::new("d/b")));
    bytes.extend([4, b'o', b'l', b'd', b'!']);
    bytes.extend(named(CONTENT, Path::new("d/b")));
    bytes.extend([1, 0, 4, END]);
    bytes
}

#[test]
fn data_of_strangers() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("d")).expect("mkdir");
    for name in ["a", "d/b"] {
        fs::write(dir.path().join(name), "some content of a file").expect("write");
    }
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).expect("link");
    let tree = Dir::open(dir.path()).expect("open");
    let raw = |bytes: &[u8]| [&[0][..], bytes].concat();
    let frame = zstd::encode_all(&[MAGIC, &seed()[..]].concat()[..], 1).expect("compress");
    let seeds = [raw(&seed()), [&[1][..], &frame[..]].concat()];
    let words = [
        "\u{0}",
        "\u{1}",
        "\u{2}\u{1}a\u{1}\u{0}\u{7f}",
        "\u{3}\u{1}a\u{1}x",
        "\u{7f}",
        "\u{2}\u{4}link\u{1}\u{0}\u{1}",
        "\u{2}\u{1}a\u{0}",
        "\u{3}\u{1}a\u{0}",
        "../",
        "strata recording 1\n",
    ];
    try_each(concat!(module_path!(), "::data_of_strangers"), &seeds, &words, |input| {
        let (kind, bytes) = input.split_first().unwrap_or((&0, &[]));
        let bytes = match kind {
            0 => zstd::encode_all(&[MAGIC, bytes].concat()[..], 1).expect("compress"),
            _ => bytes.to_vec(),
        };
        let mut data = tempfile::tempfile().expect("a file");
        data.write_all(&bytes).expect("write");
        let mut spool = || Ok(tempfile::tempfile().expect("a file"));
        // Damaged data may name much of a real file; nothing of it is kept.
        let _ = replay(&data, &tree, &mut spool, &mut io::sink());
    });
}

/// A layer that has one path 100,000 times has as many rescued contents of it. Each was found by looking at all.
#[test]
fn many_contents_of_one_path() {
    const COUNT: u64 = if cfg!(debug_assertions) { 30_000 } else { 130_000 };
    let mut bytes = MAGIC.to_vec();
    for _ in 0..COUNT {
        bytes.extend(named(CONTENT, Path::new("a")));
        bytes.extend([1, 0, 1]);
        bytes.extend(named(RESCUED, Path::new("a")));
        bytes.extend([1, b'x']);
    }
    bytes.push(END);
    let frame = zstd::encode_all(&bytes[..], 1).expect("compress");
    let dir = tempfile::tempdir().expect("a directory");
    let tree = Dir::open(dir.path()).expect("open");
    try_each(concat!(module_path!(), "::many_contents_of_one_path"), &[frame], &[], |input| {
        if input.len() < 1000 {
            return;
        }
        let mut data: File = tempfile::tempfile().expect("a file");
        data.write_all(input).expect("write");
        let mut archive = Vec::new();
        let replayed = replay(&data, &tree, &mut || Ok(tempfile::tempfile().expect("a file")), &mut archive);
        assert!(replayed.is_err() || archive.len() as u64 == COUNT);
    });
}
