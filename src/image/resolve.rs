//! From a descriptor to an image: an index leads to the manifest for the platform, the manifest to the config and the
//! layers.
//!
//! The steps are the same for an archive and a registry, which differ only in how a document is read.
//!
//! # References
//! OCI image specification: `image-index.md`, `manifest.md`, `config.md`.

use super::source::ImageSource;
use super::{Found, Layer, Platform};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ChainId;
use crate::oci::config::ConfigSummary;
use crate::oci::{Descriptor, Index, Manifest};

/// Maximum number of indexes between the first descriptor and a manifest: tools nest one, rarely two.
const INDEX_DEPTH_MAX: usize = 4;

/// Finds the image of `entry`, which is a manifest or an index.
///
/// # Errors
/// `NotFound` if there is no image for the platform; `Unsupported` for other documents than images; `DataLoss` for a
/// damaged or missing document.
pub(super) fn image(source: &dyn ImageSource, entry: &Descriptor, platform: Option<&Platform>) -> Result<Found> {
    let mut chosen = entry.clone();
    for _ in 0..INDEX_DEPTH_MAX {
        if !chosen.is_index() {
            return manifest(source, &chosen);
        }
        let what = format!("the index {}", chosen.digest);
        let nested = Index::parse(&source.document_of(&chosen)?, &what)?;
        let images: Vec<&Descriptor> = nested.images();
        chosen = for_platform(source, &images, platform).map_err(|error| error.context(what))?.clone();
    }
    Err(Error::data_loss(format!("more than {INDEX_DEPTH_MAX} indexes name each other")))
}

/// Chooses the image for `platform`, or for this machine. Of several variants the usual one is chosen, otherwise the
/// first.
pub(super) fn for_platform<'i>(
    source: &dyn ImageSource,
    images: &[&'i Descriptor],
    platform: Option<&Platform>,
) -> Result<&'i Descriptor> {
    if let [only @ Descriptor { platform: None, .. }] = images {
        return Ok(only);
    }
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let mut known = Vec::new();
    for entry in images {
        known.extend(platform_of(source, entry)?.map(|platform| (*entry, platform)));
    }
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
/// has no platform.
///
/// # Errors
/// `ResourceExhausted` if no more documents may be read.
pub(super) fn platform_of(source: &dyn ImageSource, entry: &Descriptor) -> Result<Option<Platform>> {
    if entry.platform.is_some() || !entry.is_manifest() {
        return Ok(entry.platform.clone());
    }
    match manifest(source, entry) {
        Err(error) if error.kind() == ErrorKind::ResourceExhausted => Err(error),
        found => Ok(found.ok().and_then(|found| found.platform)),
    }
}

fn manifest(source: &dyn ImageSource, entry: &Descriptor) -> Result<Found> {
    if !entry.is_manifest() {
        let (digest, media_type) = (&entry.digest, &entry.media_type);
        return Err(Error::unsupported(format!("{digest} has the media type {media_type:?}, which is no image's")));
    }
    let bytes = source.document_of(entry)?;
    let read = Manifest::parse(&bytes, &format!("the manifest {}", entry.digest))?;
    let config = source.document_of(&read.config)?;
    let parsed = ConfigSummary::parse(&config, read.layers.len())?;
    let chain = ChainId::all(parsed.diff_ids());
    let mut layers = Vec::with_capacity(read.layers.len());
    for (at, blob) in read.layers.iter().enumerate() {
        let digest = blob.digest()?;
        source.check_layer(blob).map_err(|error| error.context(format!("layer {} ({digest})", at + 1)))?;
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
