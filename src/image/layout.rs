//! OCI image layouts: finding the image that a user means.
//!
//! # References
//! OCI image specification: `image-layout.md`, `annotations.md`; containerd's name for the whole name of an image where
//! `ref.name` is only its tag.

use std::collections::HashSet;

use super::files::Files;
use super::name::same_image;
use super::resolve;
use super::{Found, Platform, ask, nth, unknown};
use crate::error::{Error, Result};
use crate::id::Digest;
use crate::oci::{Descriptor, Index, LayoutMarker, parse};

/// The file that makes a directory a layout.
pub(super) const MARKER: &str = "oci-layout";

pub(super) const INDEX: &str = "index.json";

/// The version in the marker. There has been no other version.
pub(super) const VERSION: &str = "1.0.0";

pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Returns the path of the blob `digest`.
pub(super) fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Returns true if `files` are a layout.
pub(super) fn is_there(files: &Files) -> Result<bool> {
    Ok(files.find(MARKER)?.is_some() || files.find(INDEX)?.is_some())
}

/// Finds the image that `reference` names, or the only one.
///
/// # Errors
/// `InvalidArgument` if there are several and none is named; `NotFound` if there is none of that name or platform;
/// `Unsupported` for another version, or documents of another type; `DataLoss` for a damaged or missing document.
pub(super) fn find(files: &Files, reference: Option<&str>, platform: Option<&Platform>) -> Result<Found> {
    // The marker is optional here: other readers do not need it, so some writers leave it out.
    if let Some(marker) = files.document(MARKER)? {
        check_version(&parse(&marker, MARKER)?)?;
    }
    let missing = || Error::data_loss(format!("the image layout has no {INDEX}"));
    let index = Index::parse(&files.document(INDEX)?.ok_or_else(missing)?, INDEX)?;
    let top = choose(files, &index, reference, platform)?;
    let found = resolve::image(files, top, platform)?;
    Ok(Found { name: name_of(top).map(str::to_owned), ..found })
}

fn check_version(marker: &LayoutMarker) -> Result<()> {
    let version = &marker.image_layout_version;
    if version == VERSION {
        return Ok(());
    }
    Err(Error::unsupported(format!("the image layout has version {version:?}, only {VERSION} is known")))
}

/// Returns the name of the image in an entry of a layout's index.
fn name_of(entry: &Descriptor) -> Option<&str> {
    let name = |key: &str| entry.annotations.get(key).map(String::as_str).filter(|name| !name.is_empty());
    match (name(REF_NAME), name(CONTAINERD_NAME)) {
        (Some(own), Some(whole)) if !own.contains(['/', ':', '@']) => Some(whole),
        (own, whole) => own.or(whole),
    }
}

/// Returns true if `reference` is the digest or a name of `entry`.
fn is_named(entry: &Descriptor, reference: &str) -> bool {
    let names = [REF_NAME, CONTAINERD_NAME].map(|key| entry.annotations.get(key));
    entry.digest == reference || names.iter().flatten().any(|name| same_image(name, reference))
}

fn choose<'i>(
    files: &Files,
    index: &'i Index,
    reference: Option<&str>,
    platform: Option<&Platform>,
) -> Result<&'i Descriptor> {
    let all = index.images();
    let shown: Vec<String> = all.iter().map(|entry| name_of(entry).unwrap_or(&entry.digest).to_owned()).collect();
    let Some(reference) = reference else {
        return match all[..] {
            [] => Err(none_in(index)),
            // All entries are one image under several names. The next arm is one name with an image for each platform.
            [first, ..] if all.iter().all(|entry| entry.digest == first.digest) => Ok(first),
            _ if are_one_image(files, &all)? => resolve::for_platform(files, &all, platform),
            _ => Err(ask(&shown)),
        };
    };
    let mut named: Vec<&Descriptor> = all.iter().copied().filter(|entry| is_named(entry, reference)).collect();
    if named.is_empty() {
        named.extend(nth(reference).and_then(|at| all.get(at)));
    }
    match named[..] {
        [] => Err(unknown(reference, &shown)),
        [only] => Ok(only),
        _ => resolve::for_platform(files, &named, platform),
    }
}

/// Returns true if all entries have one name and each has another platform. If entries name no platform, their configs
/// are read.
fn are_one_image(files: &Files, all: &[&Descriptor]) -> Result<bool> {
    if all.iter().any(|entry| name_of(entry) != name_of(all[0])) {
        return Ok(false);
    }
    if all.iter().all(|entry| entry.platform.is_some()) {
        return Ok(true);
    }
    let platforms = all.iter().map(|entry| resolve::platform_of(files, entry)).collect::<Result<HashSet<_>>>()?;
    Ok(platforms.len() == all.len() && !platforms.contains(&None))
}

fn none_in(index: &Index) -> Error {
    match index.manifests.iter().find(|entry| !entry.is_attestation()) {
        Some(other) => {
            Error::unsupported(format!("there is no image in the layout, only a document of {:?}", other.media_type))
        }
        None => Error::not_found("there is no image in the layout"),
    }
}
