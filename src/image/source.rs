//! The source of an image: the files of a layout, or a registry. Sources differ in how documents and blobs are read;
//! the rules by which documents make an image, and the import, are the same for all sources.

use std::io::Read;

use super::files::Files;
use super::{BlobDigest, Layer, Options};
use crate::changeset::pipeline::Blob;
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Sha512Reader};

/// Reads the documents and the layers of an image.
pub(super) trait ImageSource: Sync {
    /// Returns the document of `entry`, after its size and digest were verified.
    fn document_of(&self, entry: &Descriptor) -> Result<Vec<u8>>;

    /// Fails if the layer of `entry` is known to be missing.
    fn check_layer(&self, entry: &Descriptor) -> Result<()> {
        let _ = entry;
        Ok(())
    }

    /// Gets ready to deliver the blobs of these layers, in their order. A layer that is known to be damaged or missing
    /// is reported here, before any layer is unpacked.
    fn prepare(&self, missing: &[&Layer]) -> Result<()>;

    /// Opens the blob of a layer.
    fn open<'a>(&self, layer: &Layer, options: &Options) -> Result<Blob<'a>>;
}

impl ImageSource for Files {
    fn document_of(&self, entry: &Descriptor) -> Result<Vec<u8>> {
        entry.check_length()?;
        let path = entry.digest()?.path();
        let missing = || Error::data_loss(format!("the document {} is missing ({path})", entry.digest));
        entry.verify(self.document(&path)?.ok_or_else(missing)?)
    }

    fn check_layer(&self, entry: &Descriptor) -> Result<()> {
        if entry.is_foreign() && self.find(&entry.digest()?.path())?.is_none() {
            let message = "it is a foreign layer: the image names an address for it and does not hold it";
            return Err(Error::unsupported(message));
        }
        Ok(())
    }

    fn prepare(&self, missing: &[&Layer]) -> Result<()> {
        for layer in missing {
            let (size, said) = (self.blob(&layer.path).map_err(|error| error.context(layer))?.size(), layer.size_bytes);
            if size != said {
                let message = format!("{layer} is damaged: its blob has {size} bytes, the manifest says {said}");
                return Err(Error::data_loss(message));
            }
        }
        Ok(())
    }

    fn open<'a>(&self, layer: &Layer, options: &Options) -> Result<Blob<'a>> {
        let blob = self.blob(&layer.path)?;
        let compression = blob.compression()?;
        Ok(options.ingest.blob(reader_of(layer, blob), compression, format!("layer {}", layer.digest)))
    }
}

/// Returns the reader of a layer's blob. The reader verifies a sha512 digest, because the pipeline computes sha256
/// only.
pub(super) fn reader_of<'a>(layer: &Layer, blob: impl Read + Send + 'a) -> Box<dyn Read + Send + 'a> {
    match layer.digest {
        BlobDigest::Sha256(_) => Box::new(blob),
        BlobDigest::Sha512(expected) => Box::new(Sha512Reader::new(blob, expected)),
    }
}
