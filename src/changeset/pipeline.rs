//! Reads, decompresses and digests blobs on threads of their own, ahead of the caller that applies them.
//!
//! ```text
//! read, digest the blob | decompress | digest the plain stream | the caller: parse, write
//! ```
//!
//! Blobs are delivered in order. The stages do not wait until the caller has finished a blob; they run ahead as far as
//! the queues between them allow.
//!
//! # Invariants
//! - Memory is bounded by the queues, for any blobs: buffers are reused, and there are never more of them than a queue
//!   holds plus those in use by two stages.
//! - Each blob ends with one [`End`] that has the results of all stages, and nothing of that blob follows.
//! - No stage waits for a stage that has ended: one end of a queue fails once the other end is dropped. So when the
//!   caller stops for any reason, the threads end, and they have ended before [`ahead`] returns.

use std::fmt;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, Scope};

use sha2::{Digest as _, Sha256};

use super::blob::{Compression, Decompress, DigestReader, Expansion};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::id::{DiffId, Digest};

/// Size of one read of a blob.
const RAW_BYTES: usize = 128 << 10;

/// Number of buffers that may wait for decompression: 1 MiB.
const RAW_QUEUE: usize = 8;

/// Size of a decompressed buffer: small enough to remain in the processor's cache until it is digested and written.
const PLAIN_BYTES: usize = 256 << 10;

/// Number of buffers that may wait to be digested.
const DIGEST_QUEUE: usize = 2;

/// Number of buffers that may wait for the caller: 8 MiB, about the amount that is decompressed while a small layer is
/// committed.
const PLAIN_QUEUE: usize = 32;

/// A blob to read.
pub struct Blob<'a> {
    /// Reader of the blob's bytes.
    pub reader: Box<dyn Read + Send + 'a>,
    /// Compression of the blob.
    pub compression: Compression,
    /// Limits of the decompressed size.
    pub expansion: Expansion,
    /// Name of the blob in error messages.
    pub shown: String,
}

impl fmt::Debug for Blob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("shown", &self.shown).finish_non_exhaustive()
    }
}

/// Results for a blob whose stream has ended.
#[derive(Debug)]
pub struct End {
    /// Digest of the blob; `None` if it was not read to its end.
    pub blob: Option<Digest>,
    /// Digest of the plain stream, as far as it was delivered.
    pub diff_id: DiffId,
}

/// Returns true if the error may come from a damaged blob. Then the digest of the blob shows whether it is damaged;
/// [`Stream::finish`] computes it.
pub fn may_be_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::DataLoss | ErrorKind::InvalidArgument)
}

/// Reads `blobs` ahead of `consume`, which gets the plain bytes of each blob in order.
///
/// # Errors
/// `ResourceExhausted` if the threads cannot be started; errors of `consume`.
pub fn ahead<'a, T>(
    blobs: impl Iterator<Item = Result<Blob<'a>>> + Send,
    consume: impl FnOnce(&mut Stream<'_>) -> Result<T>,
) -> Result<T> {
    let abandoned = AtomicBool::new(false);
    thread::scope(|scope| {
        let (spent_raw, free_raw) = channel();
        let (spent, free) = channel();
        let (read_out, raw) = sync_channel(RAW_QUEUE);
        let (plain_out, plain) = sync_channel(DIGEST_QUEUE);
        let (digest_out, digested) = sync_channel(PLAIN_QUEUE);
        let raw = RawReader { queue: raw, cursor: Cursor::new(spent_raw), ended: None, bytes: 0 };
        let abandoned = &abandoned;
        start(scope, "read", move || read(blobs, &free_raw, &read_out))?;
        start(scope, "decompress", move || decompress(raw, &free, &plain_out, abandoned))?;
        start(scope, "digest", move || digest(&plain, &digest_out))?;
        let cursor = Cursor::new(spent);
        consume(&mut Stream { queue: digested, cursor, compressed: 0, ended: None, abandoned })
    })
}

fn start<'scope>(scope: &'scope Scope<'scope, '_>, name: &str, stage: impl FnOnce() + Send + 'scope) -> Result<()> {
    let started = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, stage);
    started.map(drop).at("start a thread for", format!("the stage {name:?} of an import"))
}

/// The next stage has ended.
struct Gone;

fn send<P>(queue: &SyncSender<P>, packet: P) -> Result<(), Gone> {
    queue.send(packet).map_err(|_| Gone)
}

/// Message from the reading stage to the decompressing stage.
enum Raw {
    /// A blob begins, or could not be opened; in the latter case no other message about it follows.
    Begin(Result<Start>),
    Bytes(Vec<u8>),
    /// The blob was read to its end, or failed.
    End(io::Result<Digest>),
}

/// Properties of a blob that the decompressor needs.
struct Start {
    compression: Compression,
    expansion: Expansion,
    shown: String,
}

/// Message from the decompressing stage through the digesting stage to the caller.
enum Plain {
    /// Plain bytes, and the number of compressed bytes read so far.
    Bytes(Vec<u8>, u64),
    End(Box<Ended>),
}

/// End of a stream.
struct Ended {
    /// Error that the reader gets instead of more bytes.
    failure: Option<io::Error>,
    /// Digest of the blob, if known.
    blob: io::Result<Option<Digest>>,
    blob_bytes: u64,
    diff_id: Option<DiffId>,
}

fn read<'a>(blobs: impl Iterator<Item = Result<Blob<'a>>>, free: &Receiver<Vec<u8>>, out: &SyncSender<Raw>) {
    for blob in blobs {
        if read_blob(blob, free, out).is_err() {
            return;
        }
    }
}

fn read_blob(blob: Result<Blob<'_>>, free: &Receiver<Vec<u8>>, out: &SyncSender<Raw>) -> Result<(), Gone> {
    let Blob { reader, compression, expansion, shown } = match blob {
        Ok(blob) => blob,
        Err(error) => return send(out, Raw::Begin(Err(error))),
    };
    send(out, Raw::Begin(Ok(Start { compression, expansion, shown })))?;
    let mut reader = DigestReader::new(reader);
    loop {
        let (bytes, more) = fill(&mut reader, free, RAW_BYTES);
        if !bytes.is_empty() {
            send(out, Raw::Bytes(bytes))?;
        }
        match more {
            Ok(true) => {}
            Ok(false) => return send(out, Raw::End(Ok(reader.finish().0))),
            Err(error) => return send(out, Raw::End(Err(error))),
        }
    }
}

fn decompress(mut raw: RawReader, free: &Receiver<Vec<u8>>, out: &SyncSender<Plain>, abandoned: &AtomicBool) {
    while let Some(start) = raw.begin() {
        let ended =
            match start.and_then(|start| Decompress::new(&mut raw, start.compression, start.expansion, start.shown)) {
                Ok(plain) => decompress_blob(plain, free, out, abandoned),
                Err(error) => Ok(Some(error.into())),
            };
        let Ok(failure) = ended else { return };
        let is_last = failure.is_some() || abandoned.load(Ordering::Relaxed);
        let blob = raw.rest(failure.as_ref());
        let ended = Ended { failure, blob, blob_bytes: raw.bytes, diff_id: None };
        if send(out, Plain::End(Box::new(ended))).is_err() || is_last {
            return;
        }
    }
}

/// Returns the error that ended the stream early, if any.
fn decompress_blob(
    mut plain: Decompress<&mut RawReader>,
    free: &Receiver<Vec<u8>>,
    out: &SyncSender<Plain>,
    abandoned: &AtomicBool,
) -> Result<Option<io::Error>, Gone> {
    while !abandoned.load(Ordering::Relaxed) {
        let (bytes, more) = fill(&mut plain, free, PLAIN_BYTES);
        if !bytes.is_empty() {
            send(out, Plain::Bytes(bytes, plain.compressed_bytes()))?;
        }
        match more {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => return Ok(Some(error)),
        }
    }
    Ok(None)
}

fn digest(plain: &Receiver<Plain>, out: &SyncSender<Plain>) {
    let mut hasher = Sha256::new();
    for mut packet in plain {
        match &mut packet {
            Plain::Bytes(bytes, _) => hasher.update(bytes),
            Plain::End(ended) => ended.diff_id = Some(Digest::finish(std::mem::take(&mut hasher))),
        }
        if out.send(packet).is_err() {
            return;
        }
    }
}

/// Fills a free or new buffer of `length`; also returns true if there may be more.
fn fill(reader: &mut dyn Read, free: &Receiver<Vec<u8>>, length: usize) -> (Vec<u8>, io::Result<bool>) {
    let mut buffer = free.try_recv().unwrap_or_default();
    buffer.resize(length, 0);
    let mut filled = 0;
    let more = loop {
        if filled == length {
            break Ok(true);
        }
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break Ok(false),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    buffer.truncate(filled);
    (buffer, more)
}

/// The buffer that is being read; it is returned for reuse afterwards.
struct Cursor {
    bytes: Vec<u8>,
    at: usize,
    spent: Sender<Vec<u8>>,
}

impl Cursor {
    fn new(spent: Sender<Vec<u8>>) -> Self {
        Self { bytes: Vec::new(), at: 0, spent }
    }

    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn refill(&mut self, bytes: Vec<u8>) {
        let spent = std::mem::replace(&mut self.bytes, bytes);
        self.at = 0;
        if spent.capacity() > 0 {
            // If the other stage has ended, it needs no buffer.
            let _ = self.spent.send(spent);
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(self.bytes.len() - self.at);
        buffer[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        count
    }
}

/// The bytes of one blob after the other, for the decompressor.
struct RawReader {
    queue: Receiver<Raw>,
    cursor: Cursor,
    /// Set once the blob has ended: its digest, or `None` after a failure that was reported.
    ended: Option<Option<Digest>>,
    /// Number of bytes received.
    bytes: u64,
}

impl RawReader {
    /// Waits for the next blob.
    fn begin(&mut self) -> Option<Result<Start>> {
        match self.queue.recv().ok()? {
            Raw::Begin(start) => {
                self.ended = start.is_err().then_some(None);
                self.bytes = 0;
                Some(start)
            }
            Raw::Bytes(_) | Raw::End(_) => Some(Err(stage_gone())),
        }
    }

    /// Reads the bytes that the decompressor left, unless the decompressor failed with an error that the digest of the
    /// blob cannot explain.
    fn rest(&mut self, failure: Option<&io::Error>) -> io::Result<Option<Digest>> {
        let ours =
            |error: &io::Error| error.get_ref().and_then(|inner| inner.downcast_ref()).is_some_and(may_be_damage);
        if self.ended.is_none() && failure.is_none_or(ours) {
            io::copy(self, &mut io::sink())?;
        }
        Ok(self.ended.flatten())
    }
}

impl Read for RawReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.cursor.is_empty() && self.ended.is_none() && !buffer.is_empty() {
            match self.queue.recv() {
                Ok(Raw::Bytes(bytes)) => {
                    self.bytes += bytes.len() as u64;
                    self.cursor.refill(bytes);
                }
                Ok(Raw::End(ended)) => {
                    self.ended = Some(None);
                    self.ended = Some(Some(ended?));
                }
                Ok(Raw::Begin(_)) | Err(_) => return Err(stage_gone().into()),
            }
        }
        Ok(self.cursor.read(buffer))
    }
}

/// The plain bytes of one blob after the other.
pub struct Stream<'a> {
    queue: Receiver<Plain>,
    cursor: Cursor,
    compressed: u64,
    ended: Option<Box<Ended>>,
    abandoned: &'a AtomicBool,
}

impl Stream<'_> {
    /// Returns the approximate number of the blob's bytes that the bytes read so far came from.
    pub fn compressed_bytes(&self) -> u64 {
        self.compressed
    }

    /// Ends the blob and continues with the next. If the stream was not read to its end, the blob is only read for its
    /// digest, and is the last one.
    ///
    /// # Errors
    /// The error that kept the blob from being read to its end, unless a read has returned it.
    pub fn finish(&mut self) -> Result<End> {
        let mut ended = match self.ended.take() {
            Some(ended) => ended,
            None => self.abandon()?,
        };
        self.compressed = 0;
        self.cursor.refill(Vec::new());
        let blob = ended.blob.map_err(read_failure)?;
        Ok(End { blob, diff_id: ended.diff_id.take().ok_or_else(stage_gone)? })
    }

    fn abandon(&mut self) -> Result<Box<Ended>> {
        self.abandoned.store(true, Ordering::Relaxed);
        loop {
            match self.queue.recv() {
                Ok(Plain::Bytes(bytes, _)) => self.cursor.refill(bytes),
                Ok(Plain::End(ended)) => return Ok(ended),
                Err(_) => return Err(stage_gone()),
            }
        }
    }
}

impl fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("compressed", &self.compressed).finish_non_exhaustive()
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.cursor.is_empty() && !buffer.is_empty() {
            if let Some(ended) = &mut self.ended {
                return ended.failure.take().map_or(Ok(0), Err);
            }
            match self.queue.recv() {
                Ok(Plain::Bytes(bytes, compressed)) => {
                    self.cursor.refill(bytes);
                    self.compressed = compressed;
                }
                Ok(Plain::End(ended)) => {
                    self.compressed = ended.blob_bytes;
                    self.ended = Some(ended);
                }
                Err(_) => return Err(stage_gone().into()),
            }
        }
        Ok(self.cursor.read(buffer))
    }
}

fn read_failure(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => Error::new(ErrorKind::Io, "read the blob").with_source(error),
    }
}

/// Returned only if a thread panicked; the panic is propagated when the thread is joined.
fn stage_gone() -> Error {
    Error::new(ErrorKind::Io, "a thread that reads ahead is gone")
}

#[cfg(test)]
mod tests;
