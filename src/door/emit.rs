//! Writes the changes in a snapshot as a layer: a tar archive, compressed and digested.
//!
//! The rows of both snapshots are read in one transaction, and each of the two trees is mounted once.

use std::io::{Read, Write};
use std::path::Path;

use crate::changeset::blob::{Blob, BlobWriter, Compression};
use crate::changeset::diff::{Ancestors, diff};
use crate::changeset::tar::{Encoder, MtimePrecision, TOTAL_BYTES_MAX};
use crate::changeset::{Change, Sink};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Comparison, Store};
use crate::task::{Cancel, Cancellable};
use crate::tree::{Meta, Node, Timestamp};

/// Encoding of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The encoding of the layer that the snapshot was made from, byte for byte. A snapshot that was not made from a
    /// layer gets the canonical encoding in nanoseconds.
    Original,
    /// The encoding that [`Encoder`] gives the changes.
    Canonical(MtimePrecision),
}

/// Options of an emitted layer.
#[derive(Clone, Debug)]
pub struct EmitOptions<'a> {
    /// Snapshot to compare with; `""` for an empty one, `None` for the parent. With a base the encoding is canonical.
    pub base: Option<&'a str>,
    /// Encoding of the layer.
    pub encoding: Encoding,
    /// Compression of the layer.
    pub compression: Compression,
    /// Latest time in a canonical layer (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<Timestamp>,
    /// Maximum bytes of files in a canonical layer. Holes are written as zeros, so a sparse file of a few blocks could
    /// take hours.
    pub content_bytes_max: u64,
    /// Stops the call, which then ends with `Cancelled`.
    pub cancel: Cancel,
}

impl Default for EmitOptions<'_> {
    fn default() -> Self {
        let (encoding, compression) = (Encoding::Original, Compression::None);
        let content_bytes_max = TOTAL_BYTES_MAX;
        Self { base: None, encoding, compression, epoch: None, content_bytes_max, cancel: Cancel::default() }
    }
}

/// Writes the changes of the snapshot `key`, of any kind, against its parent or another base as a layer.
///
/// # Errors
/// `NotFound`; `DataLoss` if the snapshot was made from a layer that cannot be written again byte for byte; errors of
/// [`Encoder`]; `ResourceExhausted` beyond `content_bytes_max`; `Cancelled`; errors of `writer`. After an error the
/// written bytes are no layer.
pub fn emit(store: &Store, key: &str, options: &EmitOptions<'_>, writer: &mut dyn Write) -> Result<Blob> {
    let comparison = store.comparison(key, options.base)?;
    let recorded = match (options.encoding, options.base) {
        (Encoding::Original, None) => comparison.diff_id(),
        _ => None,
    };
    let mut blob = BlobWriter::new(Cancellable::new(writer, &options.cancel), options.compression)?;
    let place = |error: Error| error.context(format!("writing the layer that {key:?} was made from"));
    if recorded.is_none() || !comparison.write_original(&mut blob).map_err(place)? {
        write_canonical(&comparison, options, &mut blob)?;
    }
    let (_, written) = blob.finish()?;
    match recorded {
        Some(recorded) if recorded != written.diff_id => Err(Error::data_loss(format!(
            "{key:?} was made from the layer {recorded}, which does not come out byte for byte; what changed is {} in \
             the canonical encoding (strata diff --tar FILE --canonical)",
            written.diff_id
        ))),
        _ => Ok(written),
    }
}

fn write_canonical(comparison: &Comparison<'_>, options: &EmitOptions<'_>, writer: &mut dyn Write) -> Result<()> {
    let precision = match options.encoding {
        Encoding::Original => MtimePrecision::Nanoseconds,
        Encoding::Canonical(precision) => precision,
    };
    let (old, new) = (comparison.open_base()?, comparison.open()?);
    let mut ancestors = Ancestors::new(old.as_ref(), &new);
    let mut describe = |path: &Path| ancestors.meta(path).map(|meta| not_after(options.epoch, meta));
    let mut encoder = Encoder::new(writer, precision, &mut describe);
    let mut left = options.content_bytes_max;
    let mut sink = |change: &Change, data: &mut dyn Read| {
        options.cancel.check()?;
        left = left.checked_sub(content_bytes(change)).ok_or_else(|| too_long(change, options))?;
        match (change, options.epoch) {
            (Change::Put { path, meta, existed }, epoch @ Some(_)) => {
                let meta = not_after(epoch, meta.clone());
                encoder.change(&Change::Put { path: path.clone(), meta, existed: *existed }, data)
            }
            _ => encoder.change(change, data),
        }
    };
    if !comparison.is_view_of_base() {
        diff(old.as_ref(), &new, comparison.candidates()?, &mut sink)?;
    }
    encoder.finish().map(drop)
}

/// Returns the length of the file that a change writes.
fn content_bytes(change: &Change) -> u64 {
    match change {
        Change::Put { meta: Meta { node: Node::File { size }, .. }, .. } => *size,
        _ => 0,
    }
}

fn too_long(change: &Change, options: &EmitOptions<'_>) -> Error {
    let (path, bytes, most) = (change.path().display(), content_bytes(change), options.content_bytes_max);
    Error::new(
        ErrorKind::ResourceExhausted,
        format!(
            "the layer has more than {most} bytes with /{path} of {bytes} bytes; holes count, for they are written as zeros"
        ),
    )
}

fn not_after(epoch: Option<Timestamp>, meta: Meta) -> Meta {
    Meta { mtime: epoch.map_or(meta.mtime, |epoch| meta.mtime.min(epoch)), ..meta }
}

#[cfg(test)]
mod tests;
