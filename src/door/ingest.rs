//! Reads layers, verifies them and writes them into a store.
//!
//! Blobs are read, decompressed and digested on threads of their own ([`pipeline`]), while the caller's thread decodes
//! the tar stream and writes the files.
//!
//! - [`layers`] commits the layers of an image, each named by its ChainID.
//! - [`fill`] writes a layer into an active snapshot.
//! - [`decode`] passes the changes of an archive to a sink.
//!
//! # Invariants
//! - A snapshot named by its ChainID appears only after the digest of the blob and the DiffID are verified.
//! - A failed or cancelled call leaves no active snapshot that it made.
//! - Every call obeys the same [`IngestOptions`].

use std::fmt;
use std::io::{self, Cursor, Read};
use std::iter;

use super::publish::{LayerName, commit_layer};
use crate::changeset::Sink;
use crate::changeset::apply::Applied;
use crate::changeset::blob::{Compression, Expansion, MAGIC_BYTES};
use crate::changeset::pipeline::{self, Blob, Stream, may_be_damage};
use crate::changeset::tar::{self, Limits};
use crate::error::{Context, Error, Result};
use crate::id::{DiffId, Digest, unique_key};
use crate::snapshotter::{Labels, Snapshotter as _};
use crate::store::Store;
use crate::task::{Cancel, Cancellable};

/// Label of a snapshot that lacks a part of its layer. The value says which part.
pub const INCOMPLETE: &str = "strata/incomplete";

/// Limits and cancellation of an ingest.
#[derive(Clone, Debug, Default)]
pub struct IngestOptions {
    /// Limits of the archive.
    pub limits: Limits,
    /// Limits of the decompressed size of a blob.
    pub expansion: Expansion,
    /// Stops the ingest, which then ends with `Cancelled`.
    pub cancel: Cancel,
}

impl IngestOptions {
    /// Returns the blob that `reader` reads; errors call it `shown`.
    pub fn blob<'a>(&self, reader: impl Read + Send + 'a, compression: Compression, shown: String) -> Blob<'a> {
        let reader = Box::new(Cancellable::new(reader, &self.cancel));
        Blob { reader, compression, expansion: self.expansion, shown }
    }

    /// Returns the blob that `reader` reads, with the compression that its first bytes show; errors call it `shown`.
    ///
    /// # Errors
    /// `Unsupported` for a compression that strata does not read; errors of `reader`.
    pub fn detect<'a>(&self, reader: impl Read + Send + 'a, shown: String) -> Result<Blob<'a>> {
        let mut reader = Cancellable::new(reader, &self.cancel);
        let mut magic = Vec::new();
        reader.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut magic).at("read", &shown)?;
        let compression = Compression::detect(&magic).map_err(|error| error.context(shown.clone()))?;
        Ok(self.blob(Cursor::new(magic).chain(reader), compression, shown))
    }
}

/// Digests that a blob must have; `None` for any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Digest of the blob.
    pub blob: Option<Digest>,
    /// DiffID: the digest of the decompressed stream.
    pub diff_id: Option<DiffId>,
}

impl Expected {
    /// Checks the digests of a blob that was read; `cause` is the error that ended the reading of its content.
    fn check(&self, end: &pipeline::End, cause: Option<Error>) -> Result<()> {
        if self.blob.is_some_and(|expected| end.blob != Some(expected)) {
            return Err(damaged(end.blob, cause));
        }
        if let Some(cause) = cause {
            return Err(cause);
        }
        match self.diff_id {
            Some(expected) if end.diff_id != expected => {
                let found = end.diff_id;
                Err(Error::data_loss(format!("its content has the DiffID {found}, the config says {expected}")))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the error for a damaged blob with the digest `found`; `None` for a blob that was not read to its end.
fn damaged(found: Option<Digest>, cause: Option<Error>) -> Error {
    match (found, cause) {
        (None, Some(cause)) => cause,
        (None, None) => Error::data_loss("the blob was not read to its end"),
        (Some(digest), cause) => {
            let damaged = Error::data_loss(format!("the blob is damaged: it has the digest {digest}"));
            cause.into_iter().fold(damaged, Error::with_source)
        }
    }
}

/// The stream of a blob that was read and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// DiffID of the stream.
    pub diff_id: DiffId,
    /// Length of the stream.
    pub plain_bytes: u64,
}

/// The result of [`fill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// The layer.
    pub verified: Verified,
    /// Statistics of the layer's application.
    pub applied: Applied,
}

/// Information that the store keeps of a layer beside its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Nothing, because the snapshot may have other changes.
    Nothing,
    /// The DiffID, and the encoding of the archive, so that the snapshot can be written as the same layer again.
    TarSplit,
}

/// Reads `blobs` in order, and lets `work` commit each of them with [`Intake::commit`]. The blobs are opened ahead of
/// the work, on another thread.
///
/// # Errors
/// `ResourceExhausted` if no thread can be started; errors of `work`.
pub fn layers<'a, T>(
    store: &Store,
    blobs: impl Iterator<Item = Result<Blob<'a>>> + Send,
    options: &IngestOptions,
    work: impl FnOnce(&mut Intake<'_, '_>) -> Result<T>,
) -> Result<T> {
    store.writing_back(|written| {
        pipeline::ahead(blobs, |stream| work(&mut Intake { store, source: Source { stream, options, written } }))
    })
}

/// Writes a blob into the active snapshot `key`. `open` is called when the snapshot is claimed. The content is on disk
/// when the call returns.
///
/// # Errors
/// As [`Snapshotter::apply`](crate::Snapshotter::apply); `DataLoss` if the blob is damaged or has other digests than
/// `expected`; `ResourceExhausted` beyond a limit of `options`; `Cancelled`; errors of `open`. After an error the
/// snapshot may hold a part of the blob, unless `open` was not called.
pub fn fill<'a>(
    store: &Store,
    key: &str,
    open: impl FnOnce() -> Result<Blob<'a>>,
    expected: &Expected,
    record: Record,
    options: &IngestOptions,
) -> Result<Filled> {
    let (mut open, mut verified) = (Some(open), None);
    let applied = store.writing_back(|written| {
        let mut produce = |sink: &mut dyn Sink| {
            let open = open.take().ok_or_else(|| Error::data_loss("the blob can be read only once"))?;
            let blob = open()?;
            let read = pipeline::ahead(iter::once(Ok(blob)), |stream| {
                Source { stream, options, written }.decode(expected, &|_| {}, sink)
            })?;
            verified = Some(read);
            Ok(read.diff_id)
        };
        match record {
            Record::Nothing => store.apply(key, &mut |sink| produce(sink).map(drop)),
            Record::TarSplit => store.apply_named_layer(key, &mut produce),
        }
    })?;
    let verified = verified.ok_or_else(|| Error::data_loss("the blob was not read"))?;
    Ok(Filled { verified, applied })
}

/// Passes the changes of the archive in `blob` to `sink`.
///
/// # Errors
/// `DataLoss` if the blob is damaged or has other digests than `expected`; `ResourceExhausted` beyond a limit of
/// `options`; `Cancelled`; errors of `sink`.
pub fn decode(blob: Blob<'_>, expected: &Expected, options: &IngestOptions, sink: &mut dyn Sink) -> Result<Verified> {
    pipeline::ahead(iter::once(Ok(blob)), |stream| {
        Source { stream, options, written: &|_| {} }.decode(expected, &|_| {}, sink)
    })
}

/// Commits the blobs of [`layers`].
pub struct Intake<'a, 's> {
    store: &'a Store,
    source: Source<'a, 's>,
}

impl fmt::Debug for Intake<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("stream", &self.source.stream).finish_non_exhaustive()
    }
}

impl Intake<'_, '_> {
    /// Commits the next blob, whose digest must be `blob`, as the snapshot of `layer`, whose parent must be committed.
    /// `on_read` is called with the number of compressed bytes of each read. The snapshot is durable after
    /// [`Store::sync`].
    ///
    /// # Errors
    /// `DataLoss` if the blob is damaged or has another DiffID; `ResourceExhausted` beyond a limit; errors of
    /// [`commit_layer`] and of the store. After an error nothing of the layer is left, and no other blob can be
    /// committed.
    pub fn commit(&mut self, layer: &LayerName, blob: Option<Digest>, on_read: &dyn Fn(u64)) -> Result<Applied> {
        let key = format!("{} {}", unique_key("import"), layer.chain_id());
        let parent = layer.parent.map(|parent| parent.to_string());
        self.store.prepare_layer(&key, parent.as_deref().unwrap_or(""))?;
        self.commit_as(&key, layer, blob, on_read).inspect_err(|_| {
            // The first error is the one to report. If this fails too, gc removes the snapshot.
            let _ = self.store.take_back(&key);
        })
    }

    fn commit_as(
        &mut self,
        key: &str,
        layer: &LayerName,
        blob: Option<Digest>,
        on_read: &dyn Fn(u64),
    ) -> Result<Applied> {
        let expected = Expected { blob, diff_id: Some(layer.diff_id) };
        let source = &mut self.source;
        let mut produce = |sink: &mut dyn Sink| source.decode(&expected, on_read, sink).map(drop);
        let applied = self.store.apply_layer(key, &mut produce)?;
        let mut labels = Labels::new();
        if applied.skipped_devices > 0 {
            labels.insert(INCOMPLETE.to_owned(), format!("{} devices were left out", applied.skipped_devices));
        }
        commit_layer(self.store, key, layer, &labels, &self.source.options.cancel).map(|()| applied)
    }
}

/// The blob that is read now.
struct Source<'a, 's> {
    stream: &'a mut Stream<'s>,
    options: &'a IngestOptions,
    /// Is called with the number of decompressed bytes of each read, which is about the number of bytes that will be
    /// written.
    written: &'a dyn Fn(u64),
}

impl Source<'_, '_> {
    /// Passes the changes of the next blob to `sink`, and verifies its digests.
    fn decode(&mut self, expected: &Expected, on_read: &dyn Fn(u64), sink: &mut dyn Sink) -> Result<Verified> {
        let Self { stream, options, written } = self;
        let mut plain = Watched { stream, cancel: &options.cancel, reported_bytes: 0, on_read, written: *written };
        let decoded = tar::decode(&mut plain, &options.limits, sink);
        // A damaged blob mostly fails as an invalid archive. The blob is then read to its end, so that a wrong digest
        // can explain the error.
        let explains = |error: &Error| expected.blob.is_some() && may_be_damage(error);
        let decoded = match decoded {
            Err(error) if !explains(&error) => return Err(error),
            decoded => decoded,
        };
        let end = self.stream.finish()?;
        let plain_bytes = decoded.as_ref().map_or(0, |decoded| decoded.bytes);
        expected.check(&end, decoded.err())?;
        Ok(Verified { diff_id: end.diff_id, plain_bytes })
    }
}

/// The plain bytes of a blob. The reader reports progress and obeys the cancellation.
struct Watched<'a, 's> {
    stream: &'a mut Stream<'s>,
    cancel: &'a Cancel,
    /// Number of compressed bytes that were reported to `on_read`.
    reported_bytes: u64,
    on_read: &'a dyn Fn(u64),
    written: &'a dyn Fn(u64),
}

impl Read for Watched<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check()?;
        let count = self.stream.read(buffer)?;
        (self.written)(count as u64);
        let read_bytes = self.stream.compressed_bytes();
        if read_bytes > self.reported_bytes {
            (self.on_read)(read_bytes - self.reported_bytes);
            self.reported_bytes = read_bytes;
            self.cancel.check()?;
        }
        Ok(count)
    }
}
