//! Compares the pipeline with the same stages run one after the other on one thread.

use std::io::Write as _;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;

use super::*;
use crate::changeset::blob::BlobWriter;

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

/// Length greater than the capacity of all queues.
const LONG: usize = PLAIN_BYTES * (PLAIN_QUEUE + DIGEST_QUEUE + 4) + RAW_BYTES * RAW_QUEUE;

fn compressed(plain: &[u8], compression: Compression) -> Vec<u8> {
    let mut writer = BlobWriter::new(Vec::new(), compression).expect("a writer");
    writer.write_all(plain).expect("memory");
    writer.finish().expect("memory").0
}

/// Returns data that compresses well, but not trivially.
fn sample(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"pipeline"[(state >> 28) as usize & 7]
    })
    .take(length)
    .collect()
}

/// Returns a long blob, made once.
fn long(compression: Compression) -> &'static [u8] {
    static LONG_BLOBS: [OnceLock<Vec<u8>>; 3] = [const { OnceLock::new() }; 3];
    let at = COMPRESSIONS.iter().position(|known| *known == compression).expect("known");
    LONG_BLOBS[at].get_or_init(|| compressed(&sample(LONG, 3), compression))
}

fn blob(bytes: &[u8], compression: Compression) -> Blob<'_> {
    Blob { reader: Box::new(bytes), compression, expansion: Expansion::default(), shown: "layer x".into() }
}

/// Result of one blob: its plain bytes, its error, its digests.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    plain: Vec<u8>,
    error: Option<ErrorKind>,
    digest: Option<Digest>,
    diff_id: Option<DiffId>,
}

/// Runs the stages on one thread.
fn sequential(bytes: &[u8], compression: Compression) -> Outcome {
    let mut raw = DigestReader::new(bytes);
    let mut plain = Vec::new();
    let mut stream =
        DigestReader::new(Decompress::new(&mut raw, compression, Expansion::default(), "layer x").expect("set up"));
    let error = stream.read_to_end(&mut plain).err().map(|error| read_failure(error).kind());
    let (diff_id, _) = stream.finish();
    io::copy(&mut raw, &mut io::sink()).expect("memory");
    Outcome { plain, diff_id: error.is_none().then_some(diff_id), error, digest: Some(raw.finish().0) }
}

fn piped(stream: &mut Stream<'_>) -> Outcome {
    let mut plain = Vec::new();
    let error = stream.read_to_end(&mut plain).err().map(|error| read_failure(error).kind());
    let end = stream.finish().expect("memory can be read");
    Outcome { plain, diff_id: error.is_none().then_some(end.diff_id), error, digest: end.blob }
}

#[test]
fn several_blobs_are_as_on_one_thread() {
    let lengths = [0, 1, RAW_BYTES, PLAIN_BYTES - 1, PLAIN_BYTES, PLAIN_BYTES + 1, LONG, 3];
    let blobs: Vec<(Vec<u8>, Compression)> = lengths
        .iter()
        .zip(COMPRESSIONS.iter().cycle())
        .map(|(length, compression)| (compressed(&sample(*length, 7), *compression), *compression))
        .collect();
    let sources = blobs.iter().map(|(bytes, compression)| Ok(blob(bytes, *compression)));
    ahead(sources, |stream| {
        for (bytes, compression) in &blobs {
            let piped = piped(stream);
            assert!(piped == sequential(bytes, *compression), "{compression:?}, {} bytes", piped.plain.len());
            assert_eq!(stream.compressed_bytes(), 0, "the next has not begun");
        }
        assert!(stream.read(&mut [0]).is_err(), "there is no other");
        Ok(())
    })
    .expect("intact");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For damage or truncation at any position, the error and the digests are the same as on one thread, and the bytes
    /// are the same up to the buffer in which the decompressor found the damage.
    #[test]
    fn damage_is_as_on_one_thread(
        compression in proptest::sample::select(COMPRESSIONS.to_vec()),
        length in 0_usize..3 * PLAIN_BYTES,
        flip: Option<(prop::sample::Index, u8)>,
        cut: Option<prop::sample::Index>,
        seed: u32,
    ) {
        let mut bytes = compressed(&sample(length, seed), compression);
        if let (Some((at, bits)), false) = (flip, bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        if let (Some(at), false) = (cut, bytes.is_empty()) {
            bytes.truncate(at.index(bytes.len()));
        }
        let mut piped = ahead(std::iter::once(Ok(blob(&bytes, compression))), |stream| Ok(piped(stream))).expect("runs");
        let mut expected = sequential(&bytes, compression);
        if expected.error.is_some() {
            let both = piped.plain.len().min(expected.plain.len());
            piped.plain.truncate(both);
            expected.plain.truncate(both);
        }
        prop_assert!(piped == expected, "{:?} and {:?}", piped.error, expected.error);
    }

    /// A caller that stops at any point, in any way, is not blocked, and can get the digest of the blob.
    #[test]
    fn a_caller_may_stop_anywhere(
        compression in proptest::sample::select(COMPRESSIONS.to_vec()),
        read in prop_oneof![0..LONG, Just(0)],
        finishes: bool,
    ) {
        let bytes = long(compression);
        let both = [Ok(blob(bytes, compression)), Ok(blob(bytes, compression))];
        let stopped: Result<()> = ahead(both.into_iter(), |stream| {
            stream.read_exact(&mut vec![0; read]).expect("intact");
            if finishes {
                assert_eq!(stream.finish()?.blob, Some(Digest::of(bytes)));
            }
            Err(Error::invalid("enough"))
        });
        prop_assert_eq!(stopped.expect_err("passed on").kind(), ErrorKind::InvalidArgument);
    }
}

/// A reader that returns `good` bytes and then fails; counts its reads.
struct Failing {
    good: usize,
    error: fn() -> io::Error,
    reads: Arc<AtomicUsize>,
}

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.good == 0 {
            return Err((self.error)());
        }
        let count = self.good.min(buffer.len());
        self.good -= count;
        Ok(count)
    }
}

#[test]
fn what_a_blob_reports_comes_through() {
    let errors: [(fn() -> io::Error, ErrorKind); 3] = [
        (|| Error::new(ErrorKind::Cancelled, "stop").into(), ErrorKind::Cancelled),
        (|| Error::data_loss("shorter").into(), ErrorKind::DataLoss),
        (|| io::Error::from_raw_os_error(libc::EIO), ErrorKind::Io),
    ];
    for (error, kind) in errors {
        let failing = Failing { good: 10, error, reads: Arc::default() };
        let failing = Blob { reader: Box::new(failing), ..blob(b"", Compression::None) };
        ahead([Ok(failing), Ok(blob(b"never", Compression::None))].into_iter(), |stream| {
            let mut plain = Vec::new();
            let error = read_failure(stream.read_to_end(&mut plain).expect_err("fails"));
            assert_eq!((plain.len(), error.kind()), (10, kind));
            assert_eq!(stream.finish()?.blob, None, "nobody knows its digest");
            assert!(stream.read(&mut [0]).is_err(), "nothing follows");
            Ok(())
        })
        .expect("runs");
    }
    let missing = std::iter::once(Err(Error::not_found("no such blob")));
    ahead(missing, |stream| {
        let error = read_failure(stream.read(&mut [0]).expect_err("cannot be opened"));
        assert_eq!(error.kind(), ErrorKind::NotFound);
        Ok(())
    })
    .expect("runs");
}

/// The digest of the blob is requested although its content is invalid; a read error behind that point is the result.
#[test]
fn a_failure_behind_the_callers_own() {
    let failing = Failing { good: LONG, error: || io::Error::from_raw_os_error(libc::EIO), reads: Arc::default() };
    let failing = Blob { reader: Box::new(failing), ..blob(b"", Compression::None) };
    ahead(std::iter::once(Ok(failing)), |stream| {
        stream.read_exact(&mut [0; 512]).expect("good so far");
        assert_eq!(stream.finish().expect_err("cannot be read").errno(), Some(rustix::io::Errno::IO));
        Ok(())
    })
    .expect("runs");
}

/// Beyond a limit nothing more is read, also not for the digest.
#[test]
fn a_bomb_is_not_read_to_its_end() {
    let bytes = compressed(&vec![0; LONG], Compression::Gzip);
    let expansion = Expansion { bytes: 1000, ..Expansion::default() };
    ahead(std::iter::once(Ok(Blob { expansion, ..blob(&bytes, Compression::Gzip) })), |stream| {
        let error = read_failure(stream.read_to_end(&mut Vec::new()).expect_err("too much"));
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert_eq!(stream.finish()?.blob, None);
        Ok(())
    })
    .expect("runs");
}

/// The queues bound the amount that is read ahead.
#[test]
fn what_is_read_ahead_is_bounded() {
    let most = PLAIN_BYTES * (PLAIN_QUEUE + DIGEST_QUEUE + 4) + RAW_BYTES * (RAW_QUEUE + 4);
    let reads = Arc::new(AtomicUsize::new(0));
    let endless = Failing { good: usize::MAX, error: || io::Error::other("never"), reads: Arc::clone(&reads) };
    let endless = Blob { reader: Box::new(endless), ..blob(b"", Compression::None) };
    ahead(std::iter::once(Ok(endless)), |stream| {
        stream.read_exact(&mut [0]).expect("zeros");
        let mut before = usize::MAX;
        while before != reads.load(Ordering::Relaxed) {
            before = reads.load(Ordering::Relaxed);
            thread::sleep(std::time::Duration::from_millis(100));
        }
        assert!(before * RAW_BYTES <= most, "{before} reads of {RAW_BYTES} bytes");
        Ok(())
    })
    .expect("runs");
}
