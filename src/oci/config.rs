//! The config of an image: the documents that say what its layers are, how it was made and how a container starts.
//!
//! An import needs only the layers and the history ([`ConfigSummary`]), and must not refuse a config for the rest. A
//! build changes the whole config ([`Config`]) and keeps the fields that are unknown here.
//!
//! # References
//! OCI image specification: `config.md`; docker's image specification v1.2, for `Shell`, `Healthcheck` and `OnBuild`.

use std::collections::BTreeMap;

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::platform::platform_of;
use super::{Platform, null_is_absent, parse};
use crate::error::{Error, Result};
use crate::id::DiffId;

/// The type of a root file system that consists of layers. There is no other.
const LAYERS: &str = "layers";

/// The part of a config that says what the image's layers are.
#[derive(Debug, Deserialize)]
pub struct ConfigSummary {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    #[serde(default, deserialize_with = "null_is_absent")]
    rootfs: RootFs,
    /// The steps in the making of the image.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub history: Vec<HistoryEntry>,
}

/// A whole config.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Config {
    /// The time at which the image was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The author.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The processor that the image is for.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub architecture: String,
    /// The operating system that the image is for.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub os: String,
    /// The variant of the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The settings of a container.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub config: Settings,
    /// The layers.
    pub rootfs: RootFs,
    /// The steps in the making of the image.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub history: Vec<HistoryEntry>,
    /// Other fields.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The settings of a container of the image.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Settings {
    /// The user and group that the command runs as.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports that the image serves, as keys.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// The environment, as `NAME=VALUE`.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The beginning of the command.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The rest of the command, which users replace.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Directories for data of the container, as keys.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Value>,
    /// The working directory of the command.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels of the image.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that ends the command.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// The shell of a Dockerfile's commands.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// How the health of a container is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Value>,
    /// Instructions for builds on top of the image.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Settings {
    /// Returns their length as JSON.
    pub fn size_bytes(&self) -> usize {
        serde_json::to_vec(self).map(|text| text.len()).unwrap_or_default()
    }
}

/// `rootfs` of a config. It is written with the type `layers`: no other is read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RootFs {
    #[serde(default, rename = "type", deserialize_with = "null_is_absent")]
    kind: String,
    /// `None` in an artifact, which has no root file system.
    #[serde(default)]
    diff_ids: Option<Vec<DiffId>>,
}

impl Serialize for RootFs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("RootFs", 2)?;
        fields.serialize_field("type", LAYERS)?;
        fields.serialize_field("diff_ids", self.diff_ids())?;
        fields.end()
    }
}

impl RootFs {
    /// Returns the DiffIDs of the layers, the lowest first.
    pub fn diff_ids(&self) -> &[DiffId] {
        self.diff_ids.as_deref().unwrap_or_default()
    }

    /// Adds a layer on top.
    pub fn push(&mut self, diff_id: DiffId) {
        self.diff_ids.get_or_insert_default().push(diff_id);
    }
}

/// One entry of `history`: a step in the making of an image.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct HistoryEntry {
    /// The time of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// True if the step made no layer.
    #[serde(default, deserialize_with = "null_is_absent", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// The comment on the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl HistoryEntry {
    /// Returns the entry of a step.
    pub fn new(created: Option<String>, created_by: String, empty_layer: bool) -> Self {
        Self { created, created_by: Some(created_by), empty_layer, ..Self::default() }
    }
}

impl ConfigSummary {
    /// Reads the config `bytes` of an image with `layers` layers.
    ///
    /// # Errors
    /// `DataLoss` if it is none, or does not fit the number of layers; `Unsupported` if it names no layers at all, as
    /// an artifact's. The history is optional information: one that does not fit the layers is no error.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self> {
        let config: Self = parse(bytes, "the image's config")?;
        if config.rootfs.diff_ids.is_none() && layers > 0 {
            let message = "it is an artifact and no image: its config names no layers of a root file system";
            return Err(Error::unsupported(message));
        }
        if !["", LAYERS].contains(&config.rootfs.kind.as_str()) {
            let kind = &config.rootfs.kind;
            return Err(Error::data_loss(format!("the image's config has a rootfs of type {kind:?}, not \"layers\"")));
        }
        let ids = config.diff_ids().len();
        if ids != layers {
            return Err(Error::data_loss(format!("the image has {layers} layers, and its config DiffIDs for {ids}")));
        }
        Ok(config)
    }

    /// Returns the DiffIDs of the layers, the lowest first.
    pub fn diff_ids(&self) -> &[DiffId] {
        self.rootfs.diff_ids()
    }

    /// Returns the platform that the image was built for, if the config names one.
    pub fn platform(&self) -> Option<Platform> {
        platform_of(self.os.clone(), self.architecture.clone(), self.variant.clone())
    }
}

impl Config {
    /// Returns the config of an image without layers.
    pub fn empty(os: &str, architecture: &str) -> Self {
        Self { os: os.to_owned(), architecture: architecture.to_owned(), ..Self::default() }
    }

    /// Returns its bytes.
    ///
    /// # Errors
    /// `InvalidArgument` if it cannot be written as JSON.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| Error::invalid("the image's config cannot be written").with_source(error))
    }
}
