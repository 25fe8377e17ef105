//! From a descriptor to an image: through indexes, by the platform, to the manifest, the config and the layers.
//!
//! An archive and a registry differ only in where the documents come from.
//!
//! # References
//! OCI image specification: `image-index.md`, `manifest.md`, `config.md`.

use super::document::{Config, DOCUMENT_BYTES_MAX, Descriptor, Index, Manifest};
use super::{Found, Layer, Platform};
use crate::error::{Error, Result};
use crate::id::ChainId;

/// Maximum number of indexes between the first descriptor and a manifest: tools nest one, rarely two.
const INDEX_DEPTH_MAX: usize = 4;

/// The place that documents come from.
pub(super) trait Documents {
    /// Returns the document that `entry` names, with the size and digest that it names.
    fn document(&self, entry: &Descriptor) -> Result<Vec<u8>>;

    /// Fails if the layer that `entry` names is known to be missing.
    fn check_layer(&self, entry: &Descriptor) -> Result<()> {
        let _ = entry;
        Ok(())
    }
}

/// Checks `bytes` against the size and digest in `entry`.
pub(super) fn verify(entry: &Descriptor, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let Descriptor { digest, size, .. } = entry;
    let found = entry.digest()?.like(&bytes);
    if bytes.len() as u64 != *size || found.to_string() != *digest {
        let length = bytes.len();
        return Err(Error::data_loss(format!(
            "the document {digest} of {size} bytes is damaged: it has {length} bytes and the digest {found}"
        )));
    }
    Ok(bytes)
}

/// Checks that a document of the length in `entry` may be read.
pub(super) fn check_length(entry: &Descriptor) -> Result<()> {
    let Descriptor { digest, size, .. } = entry;
    if *size > DOCUMENT_BYTES_MAX {
        let message = format!("the document {digest} has {size} bytes: the limit is {DOCUMENT_BYTES_MAX}");
        return Err(Error::data_loss(message));
    }
    Ok(())
}

/// Finds the image that `entry` names, itself or by an index.
///
/// # Errors
/// `NotFound` if there is none for the platform; `Unsupported` for what is no image; `DataLoss` for what is damaged or
/// missing.
pub(super) fn image(documents: &dyn Documents, entry: &Descriptor, platform: Option<&Platform>) -> Result<Found> {
    let mut chosen = entry.clone();
    for _ in 0..INDEX_DEPTH_MAX {
        if !chosen.is_index() {
            return manifest(documents, &chosen);
        }
        let what = format!("the index {}", chosen.digest);
        let nested = Index::parse(&documents.document(&chosen)?, &what)?;
        let images: Vec<&Descriptor> = nested.images();
        chosen = for_platform(documents, &images, platform).map_err(|error| error.context(what))?.clone();
    }
    Err(Error::data_loss(format!("more than {INDEX_DEPTH_MAX} indexes name each other")))
}

/// Chooses the image for the wished platform, or for this machine's; of several variants the usual one, else the first.
pub(super) fn for_platform<'i>(
    documents: &dyn Documents,
    images: &[&'i Descriptor],
    platform: Option<&Platform>,
) -> Result<&'i Descriptor> {
    if let [only @ Descriptor { platform: None, .. }] = images {
        return Ok(only);
    }
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let known: Vec<_> = images.iter().filter_map(|entry| Some((*entry, platform_of(documents, entry)?))).collect();
    let suits = |(_, have): &&(&Descriptor, Platform)| have.suits(wanted);
    let usual = |(_, have): &&(&Descriptor, Platform)| have.is_usual();
    let found = known.iter().filter(suits).find(usual).or_else(|| known.iter().find(suits));
    found.map(|(entry, _)| *entry).ok_or_else(|| {
        let have: Vec<String> = known.iter().map(|(_, platform)| platform.to_string()).collect();
        let have = if have.is_empty() { "none that says what it is for".to_owned() } else { have.join(", ") };
        Error::not_found(format!("there is no image for {wanted} (--platform chooses another); there is {have}"))
    })
}

/// Returns the platform that `entry` names, else the one that the image's own config names. An entry that is no image
/// has none.
pub(super) fn platform_of(documents: &dyn Documents, entry: &Descriptor) -> Option<Platform> {
    if entry.platform.is_some() || !entry.is_manifest() {
        return entry.platform.clone();
    }
    manifest(documents, entry).ok()?.platform
}

fn manifest(documents: &dyn Documents, entry: &Descriptor) -> Result<Found> {
    if !entry.is_manifest() {
        let (digest, media_type) = (&entry.digest, &entry.media_type);
        return Err(Error::unsupported(format!("{digest} has the media type {media_type:?}, which is no image's")));
    }
    let bytes = documents.document(entry)?;
    let read = Manifest::parse(&bytes, &format!("the manifest {}", entry.digest))?;
    let config = documents.document(&read.config)?;
    let parsed = Config::parse(&config, read.layers.len())?;
    let chain = ChainId::all(parsed.diff_ids());
    let mut layers = Vec::with_capacity(read.layers.len());
    for (at, blob) in read.layers.iter().enumerate() {
        let digest = blob.digest()?;
        documents.check_layer(blob).map_err(|error| error.context(format!("layer {} ({digest})", at + 1)))?;
        layers.push(Layer {
            number: at + 1,
            total: read.layers.len(),
            digest,
            size_bytes: blob.size,
            diff_id: parsed.diff_ids()[at],
            chain_id: chain[at],
            path: digest.path(),
        });
    }
    let platform = entry.platform.clone().or_else(|| parsed.platform());
    Ok(Found { name: None, config, manifest: bytes, layers, platform })
}
