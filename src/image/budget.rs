//! The limit of bytes that are read to find one image.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Maximum bytes of all documents that are read to find one image. To find it, every image of an archive or index may
/// have to be read, and an index can name one document many times.
const DOCUMENTS_BYTES_MAX: u64 = 64 << 20;

/// Minimum bytes that a document counts, because each document is a request to a registry.
const COUNTED_BYTES_MIN: u64 = 4 << 10;

/// The bytes of [`DOCUMENTS_BYTES_MAX`] that are left.
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
    /// `ResourceExhausted` if fewer bytes are left.
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
