//! Writes a blob: compressed, counted, and digested before and after compression, in one pass.
//!
//! Computing the DiffID and compressing happen on other threads. The caller's thread cuts the stream into blocks, and
//! writes and digests the compressed data.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use sha2::{Digest as _, Sha256};

use super::Compression;
use super::gzip::Members;
use super::thread::start;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::id::{DiffId, Digest};

/// Plain bytes of a block. A gzip member cannot refer to an earlier member, which costs about half a percent of the
/// size at this length, and twice that at a quarter of it.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// Number of blocks that may wait for their digest, so that a thread which is not scheduled at once blocks nothing.
const AHEAD_MAX: usize = 8;

/// Compression level for zstd: the library's default.
const ZSTD_LEVEL: i32 = 3;

/// Result of writing a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Digest of the blob.
    pub digest: Digest,
    /// Length of the blob.
    pub size_bytes: u64,
    /// Digest of the plain bytes.
    pub diff_id: DiffId,
    /// Length of the plain bytes.
    pub plain_bytes: u64,
}

/// Writes a blob. The same input gives the same output, with one version of the libraries and any number of cores.
///
/// gzip output is a series of members without name and time; zstd output is one frame with a checksum at the end.
pub struct BlobWriter<W: Write> {
    block: Vec<u8>,
    plain: Hashing,
    compressor: Compressor<W>,
}

enum Compressor<W: Write> {
    None(W),
    Gzip(Members, Digesting<W>),
    Zstd(zstd::Encoder<'static, Digesting<W>>),
}

impl<W: Write> BlobWriter<W> {
    /// Creates a writer whose output goes to `writer`, in pieces of up to a mebibyte.
    ///
    /// # Errors
    /// `Io` if there is no memory for a compressor, or no thread.
    pub fn new(writer: W, compression: Compression) -> Result<Self> {
        let compressor = match compression {
            Compression::None => Compressor::None(writer),
            Compression::Gzip => Compressor::Gzip(Members::start()?, Digesting::new(writer)),
            Compression::Zstd => Compressor::Zstd(zstd_encoder(Digesting::new(writer)).at("compress", "layer")?),
        };
        Ok(Self { block: Vec::new(), plain: Hashing::start()?, compressor })
    }

    /// Writes the end of the blob. Returns the writer, not flushed, and the digests and lengths.
    ///
    /// # Errors
    /// Errors of the writer. Without this call the blob is truncated.
    pub fn finish(mut self) -> Result<(W, Blob)> {
        self.pass_on().at("write", "layer")?;
        let Self { plain, compressor, .. } = self;
        let digesting = match compressor {
            Compressor::None(writer) => {
                let (diff_id, plain_bytes) = plain.finish()?;
                return Ok((writer, Blob { digest: diff_id, size_bytes: plain_bytes, diff_id, plain_bytes }));
            }
            Compressor::Gzip(members, mut writer) => {
                members.finish(&mut writer).at("write", "layer")?;
                writer
            }
            Compressor::Zstd(encoder) => encoder.finish().at("write", "layer")?,
        };
        let Digesting { writer, hasher, bytes } = digesting;
        let (diff_id, plain_bytes) = plain.finish()?;
        Ok((writer, Blob { digest: Digest::finish(hasher), size_bytes: bytes, diff_id, plain_bytes }))
    }

    /// Sends the block to the threads.
    fn pass_on(&mut self) -> io::Result<()> {
        // An empty input is compressed too: its blob is not empty.
        if self.block.is_empty() && self.plain.bytes > 0 {
            return Ok(());
        }
        let block = Arc::new(std::mem::take(&mut self.block));
        self.plain.push(Arc::clone(&block))?;
        match &mut self.compressor {
            Compressor::None(writer) => writer.write_all(&block),
            Compressor::Gzip(members, writer) => members.push(block, writer),
            Compressor::Zstd(encoder) => encoder.write_all(&block),
        }
    }
}

impl<W: Write> Write for BlobWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.capacity() == 0 {
            self.block.reserve_exact(BLOCK_BYTES);
        }
        let count = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..count]);
        if self.block.len() == BLOCK_BYTES {
            self.pass_on()?;
        }
        Ok(count)
    }

    /// Does nothing, so that block boundaries do not depend on the caller.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> fmt::Debug for BlobWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobWriter").field("plain_bytes", &self.plain.bytes).finish_non_exhaustive()
    }
}

/// Creates an encoder that uses the library's threads. The frame is the same for any number of threads.
fn zstd_encoder<W: Write>(writer: W) -> io::Result<zstd::Encoder<'static, W>> {
    let mut encoder = zstd::Encoder::new(writer, ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    encoder.multithread(u32::try_from(threads).unwrap_or(1))?;
    Ok(encoder)
}

/// A thread that digests blocks.
#[derive(Debug)]
struct Hashing {
    blocks: SyncSender<Arc<Vec<u8>>>,
    thread: JoinHandle<Digest>,
    bytes: u64,
}

impl Hashing {
    fn start() -> Result<Self> {
        let (blocks, todo): (_, Receiver<Arc<Vec<u8>>>) = mpsc::sync_channel(AHEAD_MAX);
        let thread = start("sha256", move || {
            let mut hasher = Sha256::new();
            todo.iter().for_each(|block| hasher.update(&block[..]));
            Digest::finish(hasher)
        })?;
        Ok(Self { blocks, thread, bytes: 0 })
    }

    fn push(&mut self, block: Arc<Vec<u8>>) -> io::Result<()> {
        self.bytes += block.len() as u64;
        self.blocks.send(block).map_err(|_| ended().into())
    }

    fn finish(self) -> Result<(Digest, u64)> {
        drop(self.blocks);
        Ok((self.thread.join().map_err(|_| ended())?, self.bytes))
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Io, "the thread that digests ended early")
}

/// A writer that digests and counts the bytes it forwards.
struct Digesting<W> {
    writer: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W> Digesting<W> {
    fn new(writer: W) -> Self {
        Self { writer, hasher: Sha256::new(), bytes: 0 }
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
