//! OCI image layouts: which image is meant, and what it consists of.
//!
//! # References
//! OCI image specification: `image-layout.md`, `annotations.md`; containerd's name for the whole name of an image where
//! `ref.name` is only its tag.

use super::document::{Config, DOCUMENT_BYTES_MAX, Descriptor, Index, Manifest, Marker, parse};
use super::files::Files;
use super::{Found, Layer, Platform, ask, unknown};
use crate::error::{Error, Result};
use crate::id::{ChainId, Digest};

/// The file that makes a directory a layout.
pub(super) const MARKER: &str = "oci-layout";

pub(super) const INDEX: &str = "index.json";

/// The version that the marker must name: there has been no other.
pub(super) const VERSION: &str = "1.0.0";

pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// How many indexes may stand between a layout's and a manifest: tools nest one, rarely two.
const INDEX_DEPTH_MAX: usize = 4;

/// Where the blob of `digest` is.
pub(super) fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Finds the image that `reference` names, or the only one.
///
/// # Errors
/// `InvalidArgument` if there are several and none is named; `NotFound` if there is none of that name or platform;
/// `Unsupported` for another version, or documents of another type; `DataLoss` for what is damaged or missing.
pub(super) fn find(files: &Files, reference: Option<&str>, platform: Option<&Platform>) -> Result<Found> {
    let missing = |path| Error::data_loss(format!("the image layout has no {path}"));
    let marker = files.document(MARKER)?.ok_or_else(|| missing(MARKER))?;
    let marker: Marker = parse(&marker, MARKER)?;
    if marker.image_layout_version != VERSION {
        let version = marker.image_layout_version;
        return Err(Error::unsupported(format!("the image layout has version {version:?}, only {VERSION} is known")));
    }
    let index = Index::parse(&files.document(INDEX)?.ok_or_else(|| missing(INDEX))?, INDEX)?;
    let top = choose(&index, reference, platform)?;
    let name = name_of(top).map(str::to_owned);
    let mut chosen = top.clone();
    for _ in 0..INDEX_DEPTH_MAX {
        if !chosen.is_index() {
            return image(files, &chosen, name);
        }
        let what = format!("the index {}", chosen.digest);
        let nested = Index::parse(&verified(files, &chosen)?, &what)?;
        let images: Vec<&Descriptor> = nested.manifests.iter().filter(|entry| !entry.is_attestation()).collect();
        chosen = for_platform(&images, platform).map_err(|error| error.context(what))?.clone();
    }
    Err(Error::data_loss(format!("more than {INDEX_DEPTH_MAX} indexes name each other")))
}

/// What a layout calls the image of an entry of its index.
fn name_of(entry: &Descriptor) -> Option<&str> {
    let name = |key: &str| entry.annotations.get(key).map(String::as_str).filter(|name| !name.is_empty());
    match (name(REF_NAME), name(CONTAINERD_NAME)) {
        (Some(own), Some(whole)) if !own.contains(['/', ':', '@']) => Some(whole),
        (own, whole) => own.or(whole),
    }
}

/// Whether a user means `entry` by `reference`.
fn is_named(entry: &Descriptor, reference: &str) -> bool {
    let names = [REF_NAME, CONTAINERD_NAME].map(|key| entry.annotations.get(key));
    entry.digest == reference || names.iter().flatten().any(|name| *name == reference)
}

fn choose<'i>(index: &'i Index, reference: Option<&str>, platform: Option<&Platform>) -> Result<&'i Descriptor> {
    let images = index.manifests.iter().filter(|entry| !entry.is_attestation());
    let shown = |images: &[&Descriptor]| -> Vec<String> {
        images.iter().map(|entry| name_of(entry).unwrap_or(&entry.digest).to_owned()).collect()
    };
    let all: Vec<&Descriptor> = images.collect();
    let Some(reference) = reference else {
        return match all[..] {
            [] => Err(Error::not_found("there is no image in the layout")),
            // Names of one image, or one name for an image of each platform.
            [first, ..] if all.iter().all(|entry| entry.digest == first.digest) => Ok(first),
            [first, ..] if all.iter().all(|entry| entry.platform.is_some() && name_of(entry) == name_of(first)) => {
                for_platform(&all, platform)
            }
            _ => Err(ask(&shown(&all))),
        };
    };
    let named: Vec<&Descriptor> = all.iter().copied().filter(|entry| is_named(entry, reference)).collect();
    match named[..] {
        [] => Err(unknown(reference, &shown(&all))),
        [only] => Ok(only),
        _ => for_platform(&named, platform),
    }
}

/// The one for the wished platform, or for this machine's; of several variants the usual one, else the first.
fn for_platform<'i>(images: &[&'i Descriptor], platform: Option<&Platform>) -> Result<&'i Descriptor> {
    if let [only @ Descriptor { platform: None, .. }] = images {
        return Ok(only);
    }
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let suits = |entry: &&&Descriptor| entry.platform.as_ref().is_some_and(|have| have.suits(wanted));
    let usual = |entry: &&&Descriptor| entry.platform.as_ref().is_some_and(Platform::is_usual);
    let found = images.iter().filter(suits).find(usual).or_else(|| images.iter().find(suits));
    found.copied().ok_or_else(|| {
        let have: Vec<String> = images.iter().filter_map(|entry| Some(entry.platform.as_ref()?.to_string())).collect();
        let have = if have.is_empty() { "none that says what it is for".to_owned() } else { have.join(", ") };
        Error::not_found(format!("there is no image for {wanted} (--platform chooses another); there is {have}"))
    })
}

/// The document that `entry` names, with the size and digest that it names.
fn verified(files: &Files, entry: &Descriptor) -> Result<Vec<u8>> {
    let Descriptor { digest, size, .. } = entry;
    let path = blob_path(entry.digest()?);
    if *size > DOCUMENT_BYTES_MAX {
        return Err(Error::data_loss(format!(
            "the document {digest} has {size} bytes: the limit is {DOCUMENT_BYTES_MAX}"
        )));
    }
    let bytes =
        files.document(&path)?.ok_or_else(|| Error::data_loss(format!("the document {digest} is missing ({path})")))?;
    let found = Digest::of(&bytes);
    if bytes.len() as u64 != *size || found.to_string() != *digest {
        let length = bytes.len();
        return Err(Error::data_loss(format!(
            "the document {digest} of {size} bytes is damaged: it has {length} bytes and the digest {found}"
        )));
    }
    Ok(bytes)
}

fn image(files: &Files, entry: &Descriptor, name: Option<String>) -> Result<Found> {
    if !entry.is_manifest() {
        let (digest, media_type) = (&entry.digest, &entry.media_type);
        return Err(Error::unsupported(format!("{digest} has the media type {media_type:?}, which is no image's")));
    }
    let manifest = verified(files, entry)?;
    let read = Manifest::parse(&manifest, &entry.media_type, &format!("the manifest {}", entry.digest))?;
    let config = verified(files, &read.config)?;
    let parsed = Config::parse(&config, read.layers.len())?;
    let chain = ChainId::all(&parsed.rootfs.diff_ids);
    let mut layers = Vec::with_capacity(read.layers.len());
    for (at, blob) in read.layers.iter().enumerate() {
        let digest = blob.digest()?;
        layers.push(Layer {
            number: at + 1,
            total: read.layers.len(),
            digest,
            size_bytes: blob.size,
            diff_id: parsed.rootfs.diff_ids[at],
            chain_id: chain[at],
            path: blob_path(digest),
        });
    }
    let platform = entry.platform.clone().or_else(|| parsed.platform());
    Ok(Found { name, config, manifest, layers, platform })
}
