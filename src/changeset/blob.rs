//! The bytes of a layer on their way in and out: compressed, counted, digested, verified.
//!
//! Everything streams. A reader here stands between others: what fails below it passes through unchanged, what it finds
//! itself names the blob by the words that the caller gave it (`layer sha256:...`).
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

/// What decompressors read at a time.
const BUFFER_BYTES: usize = 128 << 10;

/// The widest zstd window that is accepted, as a power of two: 64 MiB, eight times what RFC 8878 asks of every decoder.
/// Memory use is bounded by it, whatever a frame asks for.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 26;

/// [`Expansion::bytes`]: more than a single machine's image.
pub const DECOMPRESSED_BYTES_MAX: u64 = 1 << 40;

/// [`Expansion::ratio`]: layers of software shrink to a third or a fourth, text to a twentieth.
pub const RATIO_MAX: u64 = 250;

/// [`Expansion::ratio_free_bytes`]: a file of zeros is legitimate, and shrinks a thousandfold.
pub const RATIO_FREE_BYTES: u64 = 1 << 30;

/// How many bytes tell how a blob is compressed.
pub const MAGIC_BYTES: usize = 10;

/// How a blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Tells the compression by the first [`MAGIC_BYTES`] of a blob, or by all there are. What is not known to be
    /// compressed is taken for plain.
    ///
    /// # Errors
    /// `Unsupported` for what other tools compress with.
    pub fn detect(magic: &[u8]) -> Result<Self> {
        let unsupported = |name: &str| {
            Err(Error::unsupported(format!("it is compressed with {name}, and only gzip and zstd can be read")))
        };
        Ok(match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return unsupported("xz"),
            // All of it, for a plain archive begins with the name of its first file.
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..] => return unsupported("bzip2"),
            [b'P', b'K', 3, 4, ..] => return unsupported("zip"),
            _ => Self::None,
        })
    }

    /// Tells the compression by the media type of a layer: OCI's (`...tar+gzip`) or Docker's (`...tar.gzip`).
    ///
    /// # Errors
    /// `Unsupported` for anything that is no layer, or compressed otherwise.
    pub fn of_media_type(media_type: &str) -> Result<Self> {
        let unsupported = || Error::unsupported(format!("the media type {media_type:?} is no layer that can be read"));
        let is_layer = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."]
            .iter()
            .any(|prefix| media_type.starts_with(prefix));
        let (_, compression) = media_type.rsplit_once("tar").filter(|_| is_layer).ok_or_else(unsupported)?;
        match compression {
            "" => Ok(Self::None),
            "+gzip" | ".gzip" => Ok(Self::Gzip),
            "+zstd" | ".zstd" => Ok(Self::Zstd),
            _ => Err(unsupported()),
        }
    }
}

/// How much a blob may grow. Everything beyond is `ResourceExhausted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// Decompressed bytes.
    pub bytes: u64,
    /// Decompressed bytes for each compressed one.
    pub ratio: u64,
    /// How many may come out before the ratio counts.
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
/// behind them is an error. Errors are `DataLoss` for a damaged or cut stream, `ResourceExhausted` beyond the limits;
/// after one, every further read fails.
pub struct Decompress<R: Read> {
    decoder: Decoder<R>,
    plain: u64,
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
    /// A reader of what `reader` yields, which is compressed with `compression`. Errors call it `blob`.
    ///
    /// # Errors
    /// `Io` if a decompressor cannot be set up for want of memory.
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
        Ok(Self { decoder, plain: 0, limits, blob, failed: false })
    }

    /// How many bytes came out so far.
    pub fn plain_bytes(&self) -> u64 {
        self.plain
    }

    /// How many compressed bytes these came from.
    pub fn compressed_bytes(&self) -> u64 {
        match &self.decoder {
            Decoder::None(counted) => counted.bytes,
            Decoder::Gzip(decoder) => used(decoder.get_ref()),
            Decoder::Zstd(decoder) => used(decoder.get_ref()),
        }
    }

    /// Tells the decompressor's own complaints from what the reader below reported.
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
        if self.plain > self.limits.bytes {
            return exhausted(format!("longer than {} bytes when decompressed", self.limits.bytes));
        }
        let compressed = self.compressed_bytes().max(1);
        if self.plain > self.limits.ratio_free_bytes && self.plain / compressed > self.limits.ratio {
            return exhausted(format!("more than {} times its size when decompressed", self.limits.ratio));
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

/// What was read ahead does not count.
fn used<R: Read>(reader: &BufReader<Counted<R>>) -> u64 {
    reader.get_ref().bytes - reader.buffer().len() as u64
}

/// Counts what is read.
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

/// A reader that digests and counts what passes.
#[derive(Debug)]
pub struct DigestReader<R> {
    reader: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R> DigestReader<R> {
    /// Starts at nothing.
    pub fn new(reader: R) -> Self {
        Self { reader, hasher: Sha256::new(), bytes: 0 }
    }

    /// The digest and the number of the bytes that were read.
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

/// A reader that yields its last byte's end only if the bytes are those that were promised.
///
/// A longer blob fails as soon as it is longer; a shorter or different one where it ends.
#[derive(Debug)]
pub struct Verified<R> {
    inner: DigestReader<R>,
    digest: Digest,
    size: Option<u64>,
    blob: String,
}

impl<R: Read> Verified<R> {
    /// Expects `digest`, and `size` bytes where the size is known. Errors call the bytes `blob`.
    pub fn new(reader: R, digest: Digest, size: Option<u64>, blob: impl Into<String>) -> Self {
        Self { inner: DigestReader::new(reader), digest, size, blob: blob.into() }
    }

    /// Reads what the consumer left, to the end, and answers how many bytes there were in all.
    ///
    /// # Errors
    /// `DataLoss` that names what was expected and what was found; what the reader reports.
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
