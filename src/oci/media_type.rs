//! Media types of an image's documents and layers.
//!
//! # References
//! OCI image specification, `media-types.md`; docker's image manifest, version 2, schema 2.

use crate::changeset::blob::Compression;
use crate::error::{Error, Result};

/// The index that strata writes.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The manifest that strata writes.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The config that strata writes.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A layer without compression.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Indexes that strata reads.
pub const INDEXES: [&str; 2] = [OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"];

/// Manifests that strata reads.
pub const MANIFESTS: [&str; 2] = [OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"];

/// Configs that strata reads.
pub const CONFIGS: [&str; 2] = [OCI_CONFIG, "application/vnd.docker.container.image.v1+json"];

/// Beginnings of the types of layers that strata reads.
const LAYERS: [&str; 2] = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];

/// The end of the type of an encrypted layer.
const ENCRYPTED: &str = "+encrypted";

/// Returns the type of a layer that strata writes with `compression`.
pub fn of_layer(compression: Compression) -> String {
    match compression {
        Compression::None => OCI_LAYER.to_owned(),
        Compression::Gzip | Compression::Zstd => format!("{OCI_LAYER}+{}", compression.as_str()),
    }
}

/// Returns the compression that a layer's type names: OCI's (`...tar+gzip`) or Docker's (`...tar.gzip`).
///
/// # Errors
/// `Unsupported` if the type is not a layer's, or has another compression.
pub fn compression_of(media_type: &str) -> Result<Compression> {
    let unsupported = || Error::unsupported(format!("the media type {media_type:?} is no layer that can be read"));
    let is_layer = LAYERS.iter().any(|prefix| media_type.starts_with(prefix));
    let (_, compression) = media_type.rsplit_once("tar").filter(|_| is_layer).ok_or_else(unsupported)?;
    match compression {
        "" => Ok(Compression::None),
        "+gzip" | ".gzip" => Ok(Compression::Gzip),
        "+zstd" | ".zstd" => Ok(Compression::Zstd),
        _ => Err(unsupported()),
    }
}

/// Checks that a layer of this type can be read. An empty type is that of a writer that left it out: the compression
/// of a layer shows in its content.
pub(super) fn check_layer(media_type: &str) -> Result<()> {
    if media_type.ends_with(ENCRYPTED) {
        let message = format!("it is encrypted ({media_type}): decrypt the image first (skopeo copy --decryption-key)");
        return Err(Error::unsupported(message));
    }
    if media_type.is_empty() { Ok(()) } else { compression_of(media_type).map(drop) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn media_types() {
        for (media_type, expected) in [
            ("application/vnd.oci.image.layer.v1.tar", Some(Compression::None)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Compression::Zstd)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Compression::None)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(Compression::Zstd)),
            ("application/vnd.oci.image.layer.v1.tar+encrypted", None),
            ("application/vnd.oci.image.layer.v1.tar+bzip2", None),
            ("application/vnd.oci.image.config.v1+json", None),
            ("text/plain; charset=tar", None),
            ("", None),
        ] {
            let found = compression_of(media_type);
            assert_eq!(found.as_ref().ok(), expected.as_ref(), "{media_type}");
            if let Err(error) = found {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
            }
        }
    }
}
