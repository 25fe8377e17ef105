use std::io::{Cursor, Read, Write};

use super::write::BLOCK_BYTES;
use super::*;

const BOTH: [Compression; 2] = [Compression::Gzip, Compression::Zstd];

fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    written(bytes, compression).0
}

fn written(bytes: &[u8], compression: Compression) -> (Vec<u8>, Blob) {
    let mut writer = BlobWriter::new(Vec::new(), compression).expect("threads");
    writer.write_all(bytes).expect("memory");
    writer.finish().expect("memory")
}

fn decompress(blob: &[u8], compression: Compression, limits: Expansion) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    Decompress::new(blob, compression, limits, "layer x")?.read_to_end(&mut plain).at("read", "layer x")?;
    Ok(plain)
}

/// Returns data that compresses well, but not trivially.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"snapshot"[(state >> 28) as usize & 7]
    })
    .take(length)
    .collect()
}

#[test]
fn round_trip_and_detection() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for length in [0, 1, 511, BUFFER_BYTES, BUFFER_BYTES * 5 + 3] {
            let plain = sample(length);
            let blob = compress(&plain, compression);
            assert_eq!(blob, compress(&plain, compression), "the same bytes each time");
            assert_eq!(Compression::detect(&blob).expect("known"), compression);
            assert_eq!(decompress(&blob, compression, Expansion::default()).expect("intact"), plain);
        }
    }
    assert_eq!(compress(b"", Compression::Gzip)[3..8], [0; 5], "no name, no time");
    for plain in [&b""[..], b"\x1f", b"\x28\xb5\x2f", b"not compressed", b"BZhello.txt\0"] {
        assert_eq!(Compression::detect(plain).expect("known"), Compression::None);
    }
    for (name, blob) in [("xz", &b"\xfd7zXZ\0\0\x04"[..]), ("bzip2", b"BZh91AY&SY"), ("zip", b"PK\x03\x04")] {
        let error = Compression::detect(blob).expect_err(name);
        assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains(name), "{error}");
    }
}

/// Lengths around the block size, written in pieces of varying length.
#[test]
fn what_is_written_is_read_back_with_both_digests() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for length in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 9 * BLOCK_BYTES + 7] {
            let plain = sample(length);
            let (blob, whole) = written(&plain, compression);
            let (digest, diff_id) = (Digest::of(&blob), Digest::of(&plain));
            let (size_bytes, plain_bytes) = (blob.len() as u64, length as u64);
            assert_eq!(whole, Blob { digest, size_bytes, diff_id, plain_bytes }, "{compression:?}, {length}");
            assert_eq!(decompress(&blob, compression, Expansion::default()).expect("intact"), plain);
            let mut pieces = BlobWriter::new(Vec::new(), compression).expect("threads");
            plain.chunks(70_001).for_each(|piece| pieces.write_all(piece).expect("memory"));
            assert!(pieces.finish().expect("memory") == (blob, whole), "{compression:?}, {length}");
        }
    }
}

/// `gzip -6` of the same bytes is longer, so cutting into blocks costs readers no space.
#[test]
fn a_gzip_blob_is_no_longer_than_gzips() {
    let plain: Vec<u8> = std::fs::read(std::env::current_exe().expect("a path")).expect("read");
    let plain = &plain[..plain.len().min(4 << 20)];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(plain).expect("memory");
    let (ours, gzips) = (compress(plain, Compression::Gzip).len(), gzip.finish().expect("memory").len());
    assert!(ours <= gzips, "{ours} bytes against {gzips}");
}

#[test]
fn a_writer_that_fails_ends_it() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0);
            self.0 -= count;
            if count == 0 { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(count) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let plain = sample(8 * BLOCK_BYTES);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut writer = BlobWriter::new(Full(1000), compression).expect("threads");
        let failed = writer.write_all(&plain).at("write", "layer").and_then(|()| writer.finish().map(drop));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::ResourceExhausted, "{compression:?}");
    }
}

/// Other programs read the members as one stream.
#[test]
fn outside_judges_read_what_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let plain = sample(3 * BLOCK_BYTES + 7);
    for (compression, program) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        let path = dir.path().join(compression.as_str());
        std::fs::write(&path, compress(&plain, compression)).expect("write");
        let run = std::process::Command::new(program).args(["-dc"]).arg(&path).output();
        let found = run.map_err(|error| error.to_string());
        let Ok(output) = &found else {
            crate::testing::require(program, found.map(drop));
            continue;
        };
        assert!(output.status.success() && output.stdout == plain, "{program}: {output:?}");
    }
}

#[test]
fn case_29_members_and_frames() {
    for compression in BOTH {
        let mut blob = [compress(b"one ", compression), compress(b"", compression)].concat();
        if compression == Compression::Zstd {
            blob.extend_from_slice(b"\x5a\x2a\x4d\x18\x03\0\0\0abc");
            blob.splice(..0, *b"\x50\x2a\x4d\x18\0\0\0\0");
            assert_eq!(Compression::detect(&blob).expect("known"), Compression::Zstd);
        }
        blob.extend(compress(b"two", compression));
        assert_eq!(decompress(&blob, compression, Expansion::default()).expect("intact"), b"one two");
        blob.extend_from_slice(b"garbage");
        let error = decompress(&blob, compression, Expansion::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        assert!(error.chain().contains("layer x: the"), "{}", error.chain());
    }
}

#[test]
fn cut_anywhere_is_an_error() {
    for compression in BOTH {
        let blob = compress(&sample(600), compression);
        for end in 0..blob.len() {
            let error = decompress(&blob[..end], compression, Expansion::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DataLoss, "{compression:?} cut at {end}: {}", error.chain());
        }
    }
}

#[test]
fn damage_is_an_error_or_without_effect() {
    for compression in BOTH {
        let plain = sample(600);
        let blob = compress(&plain, compression);
        for at in 0..blob.len() {
            let mut damaged = blob.clone();
            damaged[at] ^= 0x10;
            match decompress(&damaged, compression, Expansion::default()) {
                Ok(read) => assert_eq!(read, plain, "{compression:?} damaged at {at}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::DataLoss, "{}", error.chain()),
            }
        }
    }
}

#[test]
fn no_read_succeeds_after_an_error() {
    let mut blob = compress(&sample(600), Compression::Gzip);
    let length = blob.len();
    blob[length - 6] ^= 1;
    let mut reader = Decompress::new(&blob[..], Compression::Gzip, Expansion::default(), "layer x").expect("set up");
    reader.read_to_end(&mut Vec::new()).unwrap_err();
    reader.read(&mut [0; 8]).unwrap_err();
}

#[test]
fn zstd_window_limit() {
    let window = |log: u32| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("set up");
        encoder.window_log(log).expect("known parameter");
        encoder.write_all(&[7; 1000]).expect("memory");
        encoder.finish().expect("memory")
    };
    decompress(&window(ZSTD_WINDOW_LOG_MAX), Compression::Zstd, Expansion::default()).expect("within the limit");
    decompress(&window(ZSTD_WINDOW_LOG_MAX + 1), Compression::Zstd, Expansion::default()).unwrap_err();
}

#[test]
fn expansion_limits() {
    let plain = sample(100_000);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let blob = compress(&plain, compression);
        let limits = |bytes| Expansion { bytes, ..Expansion::default() };
        decompress(&blob, compression, limits(100_000)).expect("exactly the limit");
        let error = decompress(&blob, compression, limits(99_999)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert!(error.chain().contains("layer x"), "{}", error.chain());
    }
}

/// A decompression bomb is detected soon after the free bytes, not at its end.
#[test]
fn ratio_limit() {
    const FREE: u64 = 8 << 20;
    let limits = Expansion { ratio_free_bytes: FREE, ..Expansion::default() };
    let one_byte = compress(&vec![b'1'; FREE as usize], Compression::Zstd);
    decompress(&one_byte, Compression::Zstd, limits).expect("exactly what is free");
    let bomb = one_byte.repeat(1000);
    let mut reader = Decompress::new(&bomb[..], Compression::Zstd, limits, "layer x").expect("set up");
    let error = io::copy(&mut reader, &mut io::sink()).at("read", "layer x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(reader.plain_bytes() < 2 * FREE, "{}", reader.plain_bytes());
}

/// Exports of sparse files have them, and strata reads its own exports.
#[test]
fn runs_of_zeros_are_not_hostile() {
    let limits = Expansion { ratio: 2, ratio_free_bytes: 1 << 20, ..Expansion::default() };
    for compression in [Compression::Gzip, Compression::Zstd] {
        let sparse = [sample(100_000), vec![0; 20 << 20], sample(100_000)].concat();
        let blob = compress(&sparse, compression);
        assert!(sparse.len() / blob.len() > 50, "{}", blob.len());
        assert!(decompress(&blob, compression, limits).expect("sparse") == sparse);
        // Runs without an aligned block of 64 KiB take space on disk.
        for (run, count) in [(500, 20_000), (60 << 10, 300)] {
            let interrupted = compress(&[vec![0; run], vec![1]].concat().repeat(count), compression);
            let error = decompress(&interrupted, compression, limits).unwrap_err();
            assert!(error.chain().contains("--limit ratio="), "{run}: {}", error.chain());
        }
    }
}

#[test]
fn failures_below_pass_unchanged() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(libc::EIO))
        }
    }
    for compression in BOTH {
        let half = compress(&sample(600), compression);
        let broken = Cursor::new(half[..half.len() / 2].to_vec()).chain(Broken);
        let mut reader = Decompress::new(broken, compression, Expansion::default(), "layer x").expect("set up");
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    }
}

#[test]
fn digests_and_counts() {
    let mut reader = DigestReader::new(&b"abcdef"[..]);
    reader.read_exact(&mut [0; 3]).expect("three bytes");
    assert_eq!(reader.finish(), (Digest::of(b"abc"), 3));
}

#[test]
fn verified_names_both_values() {
    let verify = |bytes: &[u8], size| {
        let mut read = Vec::new();
        let mut reader = Verified::new(bytes, Digest::of(b"abc"), size, "layer x");
        reader.read_to_end(&mut read).at("read", "layer x").map(|_| read)
    };
    assert_eq!(verify(b"abc", Some(3)).expect("as promised"), b"abc");
    assert_eq!(verify(b"abc", None).expect("as promised"), b"abc");
    for (bytes, size, expected) in [
        (&b"abd"[..], Some(3), Digest::of(b"abd").to_string()),
        (b"abd", None, Digest::of(b"abc").to_string()),
        (b"ab", Some(3), "should have 3 bytes and has 2".to_owned()),
        (b"abcd", Some(3), "should have 3 bytes and has at least 4".to_owned()),
        (b"", Some(3), "should have 3 bytes and has 0".to_owned()),
    ] {
        let error = verify(bytes, size).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        assert!(error.chain().contains(&expected), "{}", error.chain());
    }
    let mut unread = Verified::new(&b"abc"[..], Digest::of(b"abc"), Some(3), "layer x");
    unread.read_exact(&mut [0]).expect("a byte");
    assert_eq!(unread.finish().expect("as promised"), 3);
    Verified::new(&b"abd"[..], Digest::of(b"abc"), Some(3), "layer x").finish().unwrap_err();
}
