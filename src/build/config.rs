//! Documents of the images that strata makes: a config made from that of a base image, and its manifest.
//!
//! Fields that are not known here stay as they are.
//!
//! # References
//! OCI image specification: `config.md`, `manifest.md`; docker's image specification v1.2, for `Shell`, `Healthcheck`
//! and `OnBuild`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::id::{DiffId, Digest};

/// Fields of a base image's config that are about how that image was made.
const OF_THE_BASE: [&str; 6] = ["container", "container_config", "docker_version", "id", "parent", "parent_id"];

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The config of an image.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) author: Option<String>,
    #[serde(default, deserialize_with = "null_is_absent")]
    pub(super) architecture: String,
    #[serde(default, deserialize_with = "null_is_absent")]
    pub(super) os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) variant: Option<String>,
    #[serde(default, deserialize_with = "null_is_absent")]
    pub(super) config: Settings,
    pub(super) rootfs: RootFs,
    #[serde(default, deserialize_with = "null_is_absent")]
    pub(super) history: Vec<Entry>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// The settings of a container of the image.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Settings {
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "String::is_empty")]
    pub(super) user: String,
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) exposed_ports: BTreeMap<String, Value>,
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    pub(super) env: Vec<String>,
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    pub(super) entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    pub(super) cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) volumes: BTreeMap<String, Value>,
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "String::is_empty")]
    pub(super) working_dir: String,
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "String::is_empty")]
    pub(super) stop_signal: String,
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    pub(super) shell: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) healthcheck: Option<Value>,
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    pub(super) on_build: Vec<String>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Settings {
    /// Returns how long they are as JSON.
    pub(super) fn size_bytes(&self) -> usize {
        serde_json::to_vec(self).map(|text| text.len()).unwrap_or_default()
    }
}

/// `rootfs` of a config.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "null_is_absent")]
    pub(super) diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// One entry of `history`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created_by: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) empty_layer: bool,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Entry {
    pub(super) fn new(created: Option<String>, created_by: String, empty_layer: bool) -> Self {
        Self { created, created_by: Some(created_by), empty_layer, other: Map::new() }
    }
}

fn null_is_absent<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Document {
    /// The config of an image that stands on nothing.
    pub(super) fn empty(os: &str, architecture: &str) -> Self {
        Self { os: os.to_owned(), architecture: architecture.to_owned(), ..Self::default() }
    }

    /// Reads the config `bytes` of a base image.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut document: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::data_loss("the base image's config is not what it should be").with_source(error))?;
        document.other.retain(|name, _| !OF_THE_BASE.contains(&name.as_str()));
        // Some builders write no history; one that does not fit the layers would make an image that others refuse.
        let layers = document.history.iter().filter(|entry| !entry.empty_layer).count();
        if layers != document.rootfs.diff_ids.len() {
            document.history = document.rootfs.diff_ids.iter().map(|_| Entry::default()).collect();
        }
        Ok(document)
    }

    /// Gives the entries from `first` on that have no time the next one's that has, or the base image's; the image is
    /// as old as the last of them.
    pub(super) fn date(&mut self, first: usize) {
        let steps = self.history.get_mut(first..).unwrap_or_default();
        let next = steps.iter().find_map(|step| step.created.clone()).or_else(|| self.created.clone());
        steps.iter_mut().filter(|step| step.created.is_none()).for_each(|step| step.created.clone_from(&next));
        self.created = steps.last().map_or(next, |step| step.created.clone());
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| Error::invalid("the image's config cannot be written").with_source(error))
    }
}

/// The descriptor of a layer, as it stands in a manifest.
pub(super) type Descriptor = Value;

/// The layers that the manifest `bytes` of a base image names.
pub(super) fn layers_of(bytes: &[u8]) -> Result<Vec<Descriptor>> {
    #[derive(Deserialize)]
    struct Manifest {
        #[serde(default, deserialize_with = "null_is_absent")]
        layers: Vec<Descriptor>,
    }
    serde_json::from_slice(bytes)
        .map(|manifest: Manifest| manifest.layers)
        .map_err(|error| Error::data_loss("the base image's manifest is not what it should be").with_source(error))
}

/// The descriptor of a layer that strata made: its blob is the stream itself.
pub(super) fn layer(diff_id: DiffId, bytes: u64) -> Descriptor {
    json!({"mediaType": LAYER, "digest": diff_id, "size": bytes})
}

/// A manifest.
pub(super) fn manifest(config: &[u8], layers: &[Descriptor]) -> Vec<u8> {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": Digest::of(config), "size": config.len()},
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_stays() {
        let id = Digest::of(b"a");
        let base = json!({
            "architecture": "amd64", "os": "linux", "os.features": ["x"], "container": "gone",
            "config": {"Env": null, "Cmd": ["a"], "ArgsEscaped": true, "Healthcheck": {"Test": ["NONE"]}},
            "rootfs": {"type": "layers", "diff_ids": [id]},
            "history": [{"created_by": "x", "comment": "y"}],
        });
        let document = Document::parse(base.to_string().as_bytes()).expect("a config");
        let mut expected = base;
        expected.as_object_mut().expect("an object").remove("container");
        expected["config"].as_object_mut().expect("an object").remove("Env");
        assert_eq!(serde_json::from_slice::<Value>(&document.bytes().expect("bytes")).expect("JSON"), expected);
    }

    #[test]
    fn steps_without_a_time() {
        let dated = |times: &[Option<&str>], base: Option<&str>| {
            let step = |time: &Option<&str>| Entry::new(time.map(str::to_owned), "step".to_owned(), true);
            let history = [Entry::default()].into_iter().chain(times.iter().map(step)).collect();
            let mut document = Document { created: base.map(str::to_owned), history, ..Document::default() };
            document.date(1);
            let times = document.history.iter().map(|step| step.created.clone()).collect::<Vec<_>>();
            assert_eq!(times[0], None, "what the base has is the base's");
            (times[1..].iter().map(|time| time.clone().unwrap_or_default()).collect::<Vec<_>>(), document.created)
        };
        assert_eq!(
            dated(&[None, Some("b"), Some("c")], Some("a")),
            (vec!["b".into(), "b".into(), "c".into()], Some("c".into()))
        );
        assert_eq!(dated(&[None], Some("a")), (vec!["a".into()], Some("a".into())));
        assert_eq!(dated(&[], Some("a")), (vec![], Some("a".into())));
        assert_eq!(dated(&[None], None), (vec![String::new()], None));
    }

    #[test]
    fn a_history_fits_the_layers() {
        let base = json!({"rootfs": {"type": "layers", "diff_ids": [Digest::of(b"a"), Digest::of(b"b")]}});
        assert_eq!(Document::parse(base.to_string().as_bytes()).expect("a config").history.len(), 2);
    }
}
