//! Descriptors, indexes and manifests, as far as strata reads them.
//!
//! They are kept as the bytes they came as, so nothing here is written back but the manifest that a docker archive does
//! not have.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use super::media_type::{self, CONFIGS, INDEXES, MANIFESTS};
use super::platform::platform_of;
use super::{BlobDigest, Platform, null_is_absent};
use crate::error::{Error, Result};

/// The longest document, in bytes: what registries accept for a manifest, and configs are shorter.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// The version of the schema of manifests.
pub const SCHEMA_VERSION: u32 = 2;

/// The marker of an attestation: the type of what it says about another manifest.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// The file `oci-layout`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayoutMarker {
    /// The version of the layout.
    pub image_layout_version: String,
}

/// `index.json`, or an index that another one names.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// The media type that the index says it has.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub media_type: Option<String>,
    /// Its entries.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
}

/// A descriptor: the reference of one document to another, or to a blob.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type; empty where a writer left it out.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub media_type: String,
    /// The digest as text. It is not parsed yet, so that a neighbour with another kind of digest does not matter.
    pub digest: String,
    /// The length in bytes.
    pub size: u64,
    /// The annotations that are texts.
    #[serde(default, deserialize_with = "texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform; `None` where the writer left out a part of it.
    #[serde(default, deserialize_with = "whole_platform", skip_serializing)]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Returns the descriptor of a blob.
    pub fn new(media_type: String, digest: BlobDigest, size: u64) -> Self {
        Self { media_type, digest: digest.to_string(), size, annotations: BTreeMap::new(), platform: None }
    }

    /// Parses the digest.
    ///
    /// # Errors
    /// `InvalidArgument` if its algorithm or its form is unknown.
    pub fn digest(&self) -> Result<BlobDigest> {
        self.digest.parse()
    }

    /// Checks that the document may be read: that it is not longer than documents are.
    ///
    /// # Errors
    /// `DataLoss`.
    pub fn check_length(&self) -> Result<()> {
        let Self { digest, size, .. } = self;
        if *size > DOCUMENT_BYTES_MAX {
            let message = format!("the document {digest} has {size} bytes: the limit is {DOCUMENT_BYTES_MAX}");
            return Err(Error::data_loss(message));
        }
        Ok(())
    }

    /// Returns the document `bytes`, if they have the size and digest of the descriptor.
    ///
    /// # Errors
    /// `DataLoss` if they have others; errors of [`Self::digest`].
    pub fn verify(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let Self { digest, size, .. } = self;
        let found = self.digest()?.like(&bytes);
        if bytes.len() as u64 != *size || found.to_string() != *digest {
            let length = bytes.len();
            return Err(Error::data_loss(format!(
                "the document {digest} of {size} bytes is damaged: it has {length} bytes and the digest {found}"
            )));
        }
        Ok(bytes)
    }

    /// Returns true if the descriptor names an index.
    pub fn is_index(&self) -> bool {
        INDEXES.contains(&self.media_type.as_str())
    }

    /// Returns true if the descriptor can name a manifest. One without a media type is taken for a manifest's, and
    /// parsing tells.
    pub fn is_manifest(&self) -> bool {
        self.media_type.is_empty() || MANIFESTS.contains(&self.media_type.as_str())
    }

    /// Returns true if the descriptor names a layer that its makers let nobody distribute: images name where it is
    /// instead of holding it.
    pub fn is_foreign(&self) -> bool {
        self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.")
    }

    /// Returns true if the descriptor names a statement about an image instead of an image.
    pub fn is_attestation(&self) -> bool {
        let unknown = |platform: &Platform| platform.os == "unknown" && platform.architecture == "unknown";
        self.annotations.contains_key(ATTESTATION) || self.platform.as_ref().is_some_and(unknown)
    }
}

/// The manifest of an image.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The version of the schema, [`SCHEMA_VERSION`].
    #[serde(default = "schema_version")]
    pub schema_version: u32,
    /// The media type that the manifest says it has.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub media_type: Option<String>,
    /// The image's config.
    pub config: Descriptor,
    /// The layers, the lowest first.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub layers: Vec<Descriptor>,
    /// The entries of an index, which a manifest must not have.
    #[serde(default, skip_serializing)]
    pub manifests: Option<IgnoredAny>,
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

fn schema_version() -> u32 {
    SCHEMA_VERSION
}

/// Returns the media type that a manifest or index says it has.
pub fn media_type_of(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: String,
    }
    let typed: Typed = serde_json::from_slice(bytes).ok()?;
    Some(typed.media_type).filter(|media_type| !media_type.is_empty())
}

/// Reads the document `bytes`, called `what` in errors.
///
/// # Errors
/// `DataLoss` if it is no such document.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::data_loss(format!("{what} is not what it should be")).with_source(error))
}

impl Index {
    /// Reads the index `bytes`.
    ///
    /// # Errors
    /// `DataLoss` if it is none, or could be taken for a manifest by other readers.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let index: Self = parse(bytes, what)?;
        let other = given(index.media_type.as_deref()).is_some_and(|own| !INDEXES.contains(&own));
        if other || index.layers.is_some() {
            return Err(Error::data_loss(format!("{what} should be an index and says that it is something else")));
        }
        Ok(index)
    }

    /// Returns the entries that can be images.
    pub fn images(&self) -> Vec<&Descriptor> {
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
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self> {
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
            media_type::check_layer(&layer.media_type).map_err(|error| error.context(place()))?;
        }
        Ok(manifest)
    }
}

/// `text`, unless it is empty, which Go programs write for absent.
fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}
