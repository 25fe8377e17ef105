//! Reading and writing the bytes of a layer: compression, counts, digests, verification.
//!
//! Everything is streamed. Errors of an underlying reader pass through a reader of this module unchanged; its own
//! errors name the blob by the caller's description (`layer sha256:...`).
//!
//! # References
//! RFC 1952 (gzip; a blob may hold several members), RFC 8878 (zstd; frames and skippable frames), OCI image
//! specification, `descriptor.md` and `layer.md`.

mod gzip;
mod thread;
mod write;

pub use write::{Blob, BlobWriter};

use std::fmt;
use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::id::Digest;

/// Buffer size of decompressors.
const BUFFER_BYTES: usize = 128 << 10;

/// Largest accepted zstd window, as a power of two: 64 MiB, eight times what RFC 8878 requires of every decoder. The
/// limit bounds the memory that a frame can demand.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 26;

/// Default of [`Expansion::bytes`]: more than the image of a single machine.
pub const DECOMPRESSED_BYTES_MAX: u64 = 1 << 40;

/// Default of [`Expansion::ratio`]: layers of software shrink to a third or a fourth, text to a twentieth.
pub const RATIO_MAX: u64 = 250;

/// Default of [`Expansion::ratio_free_bytes`]: a file of one repeated line is legitimate, and shrinks a thousandfold.
pub const RATIO_FREE_BYTES: u64 = 1 << 30;

/// Length of a run of zeros beyond which further zeros do not count for the ratio. Applying a layer makes holes of
/// aligned blocks of 64 KiB; a run of this length has such a block wherever it begins. Shorter runs take space on disk.
const ZERO_RUN_BYTES: u64 = 128 << 10;

/// Number of bytes that are compared with zero at a time.
const CHUNK_BYTES: usize = 512;

/// Number of bytes that identify the compression of a blob.
pub const MAGIC_BYTES: usize = 10;

/// Compression of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Uncompressed.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Returns the name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Detects the compression from the first [`MAGIC_BYTES`] of a blob, or from all of a shorter blob. Unknown bytes
    /// are taken as uncompressed.
    ///
    /// # Errors
    /// `Unsupported` for other known compression formats.
    pub fn detect(magic: &[u8]) -> Result<Self> {
        let unsupported = |name: &str| {
            Err(Error::unsupported(format!("it is compressed with {name}, and only gzip and zstd can be read")))
        };
        Ok(match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return unsupported("xz"),
            // The full signature is compared, because an uncompressed archive begins with the name of its first file.
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..] => return unsupported("bzip2"),
            [b'P', b'K', 3, 4, ..] => return unsupported("zip"),
            _ => Self::None,
        })
    }
}

/// Limits of the decompressed size. A blob that exceeds one is refused with `ResourceExhausted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// Maximum number of decompressed bytes.
    pub bytes: u64,
    /// Maximum number of decompressed bytes for each compressed byte. Long runs of zeros do not count: they become
    /// holes of sparse files, which take no space.
    pub ratio: u64,
    /// Number of such decompressed bytes before the ratio is checked.
    pub ratio_free_bytes: u64,
}

impl Default for Expansion {
    fn default() -> Self {
        Self { bytes: DECOMPRESSED_BYTES_MAX, ratio: RATIO_MAX, ratio_free_bytes: RATIO_FREE_BYTES }
    }
}

/// A reader of the plain bytes of a blob.
///
/// A gzip blob may have any number of members, a zstd blob any number of frames and skippable frames; anything else
/// after them is an error. Errors are `DataLoss` for a damaged or truncated stream and `ResourceExhausted` beyond the
/// limits. After an error, every further read fails.
pub struct Decompress<R: Read> {
    decoder: Decoder<R>,
    plain: u64,
    substance: Substance,
    limits: Expansion,
    blob: String,
    failed: bool,
}

enum Decoder<R: Read> {
    None(Counted<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Counted<R>>>>),
    Zstd(zstd::Decoder<'static, BufReader<Counted<R>>>),
}

impl<R: Read> Decompress<R> {
    /// Creates a reader of the content of `reader`, which is compressed with `compression`. Errors name it `blob`.
    ///
    /// # Errors
    /// `Io` if there is no memory for a decompressor.
    pub fn new(reader: R, compression: Compression, limits: Expansion, blob: impl Into<String>) -> Result<Self> {
        let blob = blob.into();
        let counted = Counted { reader, bytes: 0 };
        let decoder = match compression {
            Compression::None => Decoder::None(counted),
            Compression::Gzip => {
                Decoder::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, counted))))
            }
            Compression::Zstd => {
                let buffered = BufReader::with_capacity(BUFFER_BYTES, counted);
                let mut decoder = zstd::Decoder::with_buffer(buffered).at("decompress", &blob)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).at("decompress", &blob)?;
                Decoder::Zstd(decoder)
            }
        };
        Ok(Self { decoder, plain: 0, substance: Substance::default(), limits, blob, failed: false })
    }

    /// Returns the number of decompressed bytes so far.
    pub fn plain_bytes(&self) -> u64 {
        self.plain
    }

    /// Returns the number of compressed bytes that they came from.
    pub fn compressed_bytes(&self) -> u64 {
        match &self.decoder {
            Decoder::None(counted) => counted.bytes,
            Decoder::Gzip(decoder) => used(decoder.get_ref()),
            Decoder::Zstd(decoder) => used(decoder.get_ref()),
        }
    }

    /// Distinguishes errors of the decompressor from errors of the underlying reader.
    fn explain(&self, error: io::Error) -> io::Error {
        let is_ours = error.get_ref().is_some_and(|inner| inner.is::<Error>());
        if is_ours || error.raw_os_error().is_some() {
            return error;
        }
        let format = match self.decoder {
            Decoder::None(_) => return error,
            Decoder::Gzip(_) => "gzip",
            Decoder::Zstd(_) => "zstd",
        };
        let message = format!("{}: the {format} stream is damaged or cut after {} plain bytes", self.blob, self.plain);
        Error::data_loss(message).with_source(error).into()
    }

    fn check_growth(&self) -> Result<()> {
        let exhausted = |what: String| Err(Error::new(ErrorKind::ResourceExhausted, format!("{}: {what}", self.blob)));
        let Expansion { bytes, ratio, ratio_free_bytes } = self.limits;
        if self.plain > bytes {
            return exhausted(format!(
                "longer than {bytes} bytes when decompressed (--limit bytes=NUMBER allows more)"
            ));
        }
        let compressed = self.compressed_bytes().max(1);
        if self.substance.bytes > ratio_free_bytes && self.substance.bytes / compressed > ratio {
            return exhausted(format!(
                "more than {ratio} times its size when decompressed (--limit ratio=NUMBER allows more)"
            ));
        }
        Ok(())
    }
}

impl<R: Read> Read for Decompress<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(Error::data_loss(format!("{}: read again after an error", self.blob)).into());
        }
        let answer = match &mut self.decoder {
            Decoder::None(counted) => counted.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        };
        let count = match answer {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                self.failed = true;
                return Err(self.explain(error));
            }
            Ok(count) => count,
        };
        self.plain += count as u64;
        self.substance.add(&buffer[..count]);
        if let Err(error) = self.check_growth() {
            self.failed = true;
            return Err(error.into());
        }
        Ok(count)
    }
}

impl<R: Read> fmt::Debug for Decompress<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompress").field("blob", &self.blob).field("plain", &self.plain).finish_non_exhaustive()
    }
}

/// Counts the bytes of a stream without those in long runs of zeros.
#[derive(Default)]
struct Substance {
    bytes: u64,
    /// Length of the run of zeros at the end of the stream so far.
    zeros: u64,
}

impl Substance {
    fn add(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            let is_zero = *chunk == [0; CHUNK_BYTES][..chunk.len()];
            self.zeros = if is_zero { self.zeros + chunk.len() as u64 } else { 0 };
            if self.zeros <= ZERO_RUN_BYTES {
                self.bytes += chunk.len() as u64;
            }
        }
    }
}

/// Bytes that were only read ahead do not count.
fn used<R: Read>(reader: &BufReader<Counted<R>>) -> u64 {
    reader.get_ref().bytes - reader.buffer().len() as u64
}

/// Counts the bytes read.
struct Counted<R> {
    reader: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

/// A reader that digests and counts the bytes it forwards.
#[derive(Debug)]
pub struct DigestReader<R> {
    reader: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R> DigestReader<R> {
    /// Creates a reader with a count of zero.
    pub fn new(reader: R) -> Self {
        Self { reader, hasher: Sha256::new(), bytes: 0 }
    }

    /// Returns the digest and the number of the bytes read.
    pub fn finish(self) -> (Digest, u64) {
        (Digest::finish(self.hasher), self.bytes)
    }
}

impl<R: Read> Read for DigestReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// A reader that reports the end of its data only if the bytes match the expected digest and size.
///
/// Data that is too long fails at once; data that is shorter or different fails at its end.
#[derive(Debug)]
pub struct Verified<R> {
    inner: DigestReader<R>,
    digest: Digest,
    size: Option<u64>,
    blob: String,
}

impl<R: Read> Verified<R> {
    /// Expects `digest`, and `size` bytes if the size is known. Errors name the data `blob`.
    pub fn new(reader: R, digest: Digest, size: Option<u64>, blob: impl Into<String>) -> Self {
        Self { inner: DigestReader::new(reader), digest, size, blob: blob.into() }
    }

    /// Reads the bytes that the consumer left, and returns the total number of bytes.
    ///
    /// # Errors
    /// `DataLoss` that names the expected and the found value; errors of the reader.
    pub fn finish(mut self) -> Result<u64> {
        io::copy(&mut self, &mut io::sink()).at("read", self.blob.clone())?;
        Ok(self.inner.bytes)
    }

    fn check(&self, at_end: bool) -> Result<()> {
        let Self { inner, digest, size, blob } = self;
        if let Some(size) = *size
            && (inner.bytes > size || (at_end && inner.bytes < size))
        {
            let found = if at_end { "has" } else { "has at least" };
            return Err(Error::data_loss(format!("{blob} should have {size} bytes and {found} {}", inner.bytes)));
        }
        if at_end {
            let found = Digest::finish(inner.hasher.clone());
            if found != *digest {
                return Err(Error::data_loss(format!("{blob} should have the digest {digest} and has {found}")));
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.check(count == 0 && !buffer.is_empty())?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
