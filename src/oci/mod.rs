//! The documents of an image as values: descriptors, indexes, manifests and configs, by OCI's rules and docker's.
//!
//! A field that is `null` counts as absent: Go programs write empty lists like that. Media types stand in
//! [`media_type`] only.
//!
//! # References
//! OCI image specification: `descriptor.md`, `image-index.md`, `manifest.md`, `config.md`, `media-types.md`; the image
//! manifest of docker, version 2, schema 2.

pub mod config;
mod digest;
mod document;
pub mod media_type;
mod platform;

pub use digest::{BlobDigest, Sha512Reader};
pub use document::{
    DOCUMENT_BYTES_MAX, Descriptor, Index, LayoutMarker, Manifest, SCHEMA_VERSION, media_type_of, parse,
};
pub use platform::Platform;

use serde::{Deserialize, Deserializer};

/// Reads a field that has the default value where it is `null`; for `deserialize_with`.
///
/// # Errors
/// Errors of the field's own type.
pub fn null_is_absent<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
