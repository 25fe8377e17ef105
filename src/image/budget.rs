//! How much is read to find one image.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// The most bytes that the documents may have together which are read to find one image. To know which image is meant,
/// every image of an archive or index may have to be looked at, and one document can have many names.
const DOCUMENTS_BYTES_MAX: u64 = 64 << 20;

/// How long a document counts at least: each is a request to a registry.
const COUNTED_BYTES_MIN: u64 = 4 << 10;

/// The rest of [`DOCUMENTS_BYTES_MAX`].
#[derive(Debug)]
pub(super) struct Budget(AtomicU64);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU64::new(DOCUMENTS_BYTES_MAX))
    }
}

impl Budget {
    /// Takes `bytes` of a document.
    ///
    /// # Errors
    /// `ResourceExhausted` if there are no more.
    pub(super) fn take(&self, bytes: u64) -> Result<()> {
        let take = |left: u64| Some(left.saturating_sub(bytes.max(COUNTED_BYTES_MIN)));
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(left) if left > bytes => Ok(()),
            _ => Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "the documents that say which image is meant are longer than {DOCUMENTS_BYTES_MAX} bytes together"
                ),
            )),
        }
    }
}
