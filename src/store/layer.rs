//! Writing what a snapshot holds as a layer.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use super::{Store, streams};
use crate::changeset::blob::{Blob, BlobWriter, Compression};
use crate::changeset::diff::Ancestors;
use crate::changeset::tar::{Encoder, MtimePrecision};
use crate::changeset::{Change, Sink, recording};
use crate::error::{Error, Result};
use crate::snapshotter::Snapshotter;
use crate::task::{Cancel, Cancellable};
use crate::tree::{Meta, Timestamp};

/// Which spelling of a layer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// Byte for byte that of the layer which the snapshot was made from; for one that was not made from a layer, the
    /// canonical one in nanoseconds.
    Recorded,
    /// The one that [`Encoder`] gives to what changed.
    Canonical(MtimePrecision),
}

/// How a layer is written.
#[derive(Clone, Debug)]
pub struct LayerOptions<'a> {
    /// The snapshot to compare with: the parent if `None`, an empty tree if the text is empty. With a base the spelling
    /// is the canonical one.
    pub base: Option<&'a str>,
    /// Its spelling.
    pub spelling: Spelling,
    /// Its compression.
    pub compression: Compression,
    /// No time in a canonical layer is after this one (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<Timestamp>,
    /// Stops it: it then ends with `Cancelled`.
    pub cancel: Cancel,
}

impl Default for LayerOptions<'_> {
    fn default() -> Self {
        let (spelling, compression) = (Spelling::Recorded, Compression::None);
        Self { base: None, spelling, compression, epoch: None, cancel: Cancel::default() }
    }
}

impl Store {
    /// Writes what the snapshot `key`, of any kind, adds to its parent (or to another base) as a layer.
    ///
    /// # Errors
    /// `NotFound`; `DataLoss` if the snapshot was made from a layer that does not come out again, byte for byte; what
    /// [`Encoder`] refuses; `Cancelled`; what `writer` reports. What was written is no layer then: throw it away.
    pub fn write_layer(&self, key: &str, options: &LayerOptions<'_>, writer: &mut dyn Write) -> Result<Blob> {
        let (precision, recorded) = match (options.spelling, options.base) {
            (Spelling::Recorded, None) => (MtimePrecision::Nanoseconds, self.diff_id(key)?),
            (Spelling::Recorded, Some(_)) => (MtimePrecision::Nanoseconds, None),
            (Spelling::Canonical(precision), _) => (precision, None),
        };
        let stream = match recorded {
            Some(_) => streams::open(&self.root, self.stack(key)?.0.id)?,
            None => None,
        };
        let mut blob = BlobWriter::new(Cancellable::new(writer, &options.cancel), options.compression)?;
        match stream {
            Some(stream) => self.write_again(key, &stream, &mut blob)?,
            None => self.write_canonical(key, options, precision, &mut blob)?,
        }
        let (_, written) = blob.finish()?;
        match recorded {
            Some(recorded) if recorded != written.diff_id => Err(Error::data_loss(format!(
                "{key:?} was made from the layer {recorded}, which does not come out byte for byte; what changed is {} in \
                 our spelling (strata diff --tar FILE --canonical)",
                written.diff_id
            ))),
            _ => Ok(written),
        }
    }

    /// Writes the archive that `key` was made from.
    fn write_again(&self, key: &str, stream: &File, writer: &mut dyn Write) -> Result<()> {
        let run = self.run();
        let mut spool = || streams::spool(&run);
        recording::replay(stream, &self.open_tree(key)?, &mut spool, writer)
            .map_err(|error| error.context(format!("writing the layer that {key:?} was made from")))
    }

    fn write_canonical(
        &self,
        key: &str,
        options: &LayerOptions<'_>,
        precision: MtimePrecision,
        writer: &mut dyn Write,
    ) -> Result<()> {
        let new = self.open_tree(key)?;
        let parent = self.stat(key)?.parent;
        let base = options.base.unwrap_or(&parent);
        let old = if base.is_empty() { None } else { Some(self.open_tree(base)?) };
        let mut ancestors = Ancestors::new(old.as_ref(), &new);
        let mut describe = |path: &Path| ancestors.meta(path).map(|meta| not_after(options.epoch, meta));
        let mut encoder = Encoder::new(writer, precision, &mut describe);
        let mut sink = |change: &Change, data: &mut dyn Read| {
            options.cancel.check()?;
            match (change, options.epoch) {
                (Change::Put { path, meta, existed }, epoch @ Some(_)) => {
                    let meta = not_after(epoch, meta.clone());
                    encoder.change(&Change::Put { path: path.clone(), meta, existed: *existed }, data)
                }
                _ => encoder.change(change, data),
            }
        };
        self.changes(key, Some(base), &mut sink)?;
        encoder.finish().map(drop)
    }
}

fn not_after(epoch: Option<Timestamp>, meta: Meta) -> Meta {
    Meta { mtime: epoch.map_or(meta.mtime, |epoch| meta.mtime.min(epoch)), ..meta }
}
