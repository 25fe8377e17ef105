//! The JSON documents of an image, as far as strata reads them.
//!
//! They are kept as the bytes they came as, so nothing here is written back but the manifest that a docker archive does
//! not have. A field that is `null` counts as absent: Go programs write empty lists like that.
//!
//! # References
//! OCI image specification: `descriptor.md`, `image-index.md`, `manifest.md`, `config.md`, `media-types.md`; the image
//! manifest of docker, version 2, schema 2.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use super::{BlobDigest, Platform};
use crate::changeset::blob::Compression;
use crate::error::{Error, Result};
use crate::id::DiffId;

/// The longest document, in bytes: what registries accept for a manifest, and configs are shorter.
pub(super) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

pub(super) const INDEXES: [&str; 2] = [OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"];

/// The media types of the manifest that strata writes, and of what it names.
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The media type of the index that strata writes.
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The media type of a layer.
pub(super) fn layer_type(compression: Compression) -> String {
    match compression {
        Compression::None => OCI_LAYER.to_owned(),
        Compression::Gzip | Compression::Zstd => format!("{OCI_LAYER}+{}", compression.as_str()),
    }
}

pub(super) const MANIFESTS: [&str; 2] = [OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"];

const CONFIGS: [&str; 2] = [OCI_CONFIG, "application/vnd.docker.container.image.v1+json"];

/// The version of the schema of manifests.
pub(super) const SCHEMA_VERSION: u32 = 2;

/// The end of the media type of an encrypted layer.
const ENCRYPTED: &str = "+encrypted";

/// The marker of an attestation: the type of what it says about another manifest.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// `oci-layout`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Marker {
    pub(super) image_layout_version: String,
}

/// `index.json`, or an index that another one names.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    #[serde(default, deserialize_with = "null_is_absent")]
    pub(super) media_type: Option<String>,
    #[serde(default, deserialize_with = "null_is_absent")]
    pub(super) manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
}

/// A descriptor: the reference of one document to another, or to a blob.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    /// Empty where a writer left it out.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub(super) media_type: String,
    /// Not parsed yet, so that a neighbour with another kind of digest does not matter.
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, deserialize_with = "texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "whole_platform", skip_serializing)]
    pub(super) platform: Option<Platform>,
}

impl Descriptor {
    #[cfg(feature = "registry")]
    pub(super) fn new(media_type: String, digest: BlobDigest, size: u64) -> Self {
        Self { media_type, digest: digest.to_string(), size, annotations: BTreeMap::new(), platform: None }
    }

    pub(super) fn digest(&self) -> Result<BlobDigest> {
        self.digest.parse()
    }

    pub(super) fn is_index(&self) -> bool {
        INDEXES.contains(&self.media_type.as_str())
    }

    /// A descriptor without a media type is taken for a manifest's, which is parsed and so found out.
    pub(super) fn is_manifest(&self) -> bool {
        self.media_type.is_empty() || MANIFESTS.contains(&self.media_type.as_str())
    }

    /// Whether it names a layer that its makers let nobody distribute: images name where it is instead of holding it.
    pub(super) fn is_foreign(&self) -> bool {
        self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.")
    }

    /// Whether it names a statement about an image instead of an image.
    pub(super) fn is_attestation(&self) -> bool {
        let unknown = |platform: &Platform| platform.os == "unknown" && platform.architecture == "unknown";
        self.annotations.contains_key(ATTESTATION) || self.platform.as_ref().is_some_and(unknown)
    }
}

/// The manifest of an image.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    #[serde(default = "schema_version")]
    pub(super) schema_version: u32,
    #[serde(default, deserialize_with = "null_is_absent")]
    pub(super) media_type: Option<String>,
    pub(super) config: Descriptor,
    #[serde(default, deserialize_with = "null_is_absent")]
    pub(super) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing)]
    pub(super) manifests: Option<Other>,
}

/// A field that must not be there.
pub(super) type Other = IgnoredAny;

/// The config of an image, the part that says what its layers are.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) os: Option<String>,
    pub(super) architecture: Option<String>,
    pub(super) variant: Option<String>,
    #[serde(default, deserialize_with = "null_is_absent")]
    rootfs: RootFs,
    #[serde(default, deserialize_with = "null_is_absent")]
    pub(super) history: Vec<Step>,
}

/// `rootfs` of a config.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RootFs {
    #[serde(default, rename = "type", deserialize_with = "null_is_absent")]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<DiffId>>,
}

/// One entry of `history`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Step {
    pub(super) created: Option<String>,
    pub(super) created_by: Option<String>,
    pub(super) comment: Option<String>,
    #[serde(default, deserialize_with = "null_is_absent")]
    pub(super) empty_layer: bool,
}

fn null_is_absent<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Accepts any object, and keeps the members that are texts.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let all: BTreeMap<String, serde_json::Value> = null_is_absent(deserializer)?;
    let text = |(key, value)| match value {
        serde_json::Value::String(text) => Some((key, text)),
        _ => None,
    };
    Ok(all.into_iter().filter_map(text).collect())
}

/// Reads a platform; one that lacks a part says nothing, and the image's config is asked instead.
fn whole_platform<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Platform>, D::Error> {
    #[derive(Default, Deserialize)]
    struct Parts {
        os: Option<String>,
        architecture: Option<String>,
        variant: Option<String>,
    }
    let Parts { os, architecture, variant } = null_is_absent(deserializer)?;
    Ok(platform_of(os, architecture, variant))
}

fn platform_of(os: Option<String>, architecture: Option<String>, variant: Option<String>) -> Option<Platform> {
    let given = |part: Option<String>| part.filter(|part| !part.is_empty());
    Some(Platform { os: given(os)?, architecture: given(architecture)?, variant: given(variant) })
}

fn schema_version() -> u32 {
    SCHEMA_VERSION
}

/// The media type that a manifest or index says it has.
#[cfg(feature = "registry")]
pub(super) fn media_type_of(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: String,
    }
    let typed: Typed = serde_json::from_slice(bytes).ok()?;
    Some(typed.media_type).filter(|media_type| !media_type.is_empty())
}

/// Reads the document `bytes`, called `what` in errors.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::data_loss(format!("{what} is not what it should be")).with_source(error))
}

impl Index {
    /// Reads the index `bytes`.
    ///
    /// # Errors
    /// `DataLoss` if it is none, or could be taken for a manifest by other readers.
    pub(super) fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let index: Self = parse(bytes, what)?;
        let other = given(index.media_type.as_deref()).is_some_and(|own| !INDEXES.contains(&own));
        if other || index.layers.is_some() {
            return Err(Error::data_loss(format!("{what} should be an index and says that it is something else")));
        }
        Ok(index)
    }

    /// The entries that can be images.
    pub(super) fn images(&self) -> Vec<&Descriptor> {
        let can_be = |entry: &&Descriptor| entry.is_manifest() || entry.is_index();
        self.manifests.iter().filter(|entry| !entry.is_attestation()).filter(can_be).collect()
    }
}

impl Manifest {
    /// Reads the manifest `bytes`, which may call itself OCI's or docker's, whichever its descriptor says.
    ///
    /// # Errors
    /// `DataLoss` if it is none, or could be taken for an index by other readers; `Unsupported` if it is not an
    /// image's, or has layers of an unknown type.
    pub(super) fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let manifest: Self = parse(bytes, what)?;
        let other = given(manifest.media_type.as_deref()).is_some_and(|own| !MANIFESTS.contains(&own));
        if other || manifest.manifests.is_some() {
            return Err(Error::data_loss(format!("{what} should be a manifest and says that it is something else")));
        }
        let config = &manifest.config.media_type;
        if !config.is_empty() && !CONFIGS.contains(&config.as_str()) {
            return Err(Error::unsupported(format!(
                "{what} is an artifact's and not an image's: its config has the media type {config:?}"
            )));
        }
        for (at, layer) in manifest.layers.iter().enumerate() {
            let place = || format!("layer {} of {}", at + 1, manifest.layers.len());
            check_layer_type(&layer.media_type).map_err(|error| error.context(place()))?;
        }
        Ok(manifest)
    }
}

/// `text`, unless it is empty, which Go programs write for absent.
fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn check_layer_type(media_type: &str) -> Result<()> {
    if media_type.ends_with(ENCRYPTED) {
        let message = format!("it is encrypted ({media_type}): decrypt the image first (skopeo copy --decryption-key)");
        return Err(Error::unsupported(message));
    }
    // How it is compressed shows in its content.
    if media_type.is_empty() { Ok(()) } else { Compression::of_media_type(media_type).map(drop) }
}

impl Config {
    /// Reads the config `bytes` of an image with `layers` layers.
    ///
    /// # Errors
    /// `DataLoss` if it is none, or does not fit the number of layers; `Unsupported` if it names no layers at all, as
    /// an artifact's. The history is optional information: one that does not fit the layers is no error.
    pub(super) fn parse(bytes: &[u8], layers: usize) -> Result<Self> {
        let config: Self = parse(bytes, "the image's config")?;
        if config.rootfs.diff_ids.is_none() && layers > 0 {
            let message = "it is an artifact and no image: its config names no layers of a root file system";
            return Err(Error::unsupported(message));
        }
        if !["", "layers"].contains(&config.rootfs.kind.as_str()) {
            let kind = &config.rootfs.kind;
            return Err(Error::data_loss(format!("the image's config has a rootfs of type {kind:?}, not \"layers\"")));
        }
        let ids = config.diff_ids().len();
        if ids != layers {
            return Err(Error::data_loss(format!("the image has {layers} layers, and its config DiffIDs for {ids}")));
        }
        Ok(config)
    }

    /// The DiffIDs of its layers, the lowest first.
    pub(super) fn diff_ids(&self) -> &[DiffId] {
        self.rootfs.diff_ids.as_deref().unwrap_or_default()
    }

    /// The platform that the image was built for, if the config names one.
    pub(super) fn platform(&self) -> Option<Platform> {
        platform_of(self.os.clone(), self.architecture.clone(), self.variant.clone())
    }
}
