//! Documents of the images that builds make: a config made from that of a base image, and its manifest.
//!
//! # References
//! OCI image specification: `config.md`, `manifest.md`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::id::{DiffId, Digest};
use crate::oci::config::{Config, HistoryEntry};
use crate::oci::media_type::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use crate::oci::{SCHEMA_VERSION, null_is_absent};

/// Fields of a base image's config that describe how that image was made. A child image does not have them.
const OF_THE_BASE: [&str; 6] = ["container", "container_config", "docker_version", "id", "parent", "parent_id"];

/// Reads the config `bytes` of a base image.
///
/// # Errors
/// `DataLoss` if `bytes` is no config.
pub(super) fn of_base(bytes: &[u8]) -> Result<Config> {
    let mut config: Config = serde_json::from_slice(bytes)
        .map_err(|error| Error::data_loss("the base image's config is not what it should be").with_source(error))?;
    config.other.retain(|name, _| !OF_THE_BASE.contains(&name.as_str()));
    // Some builders write no history. Other tools refuse an image whose history does not fit the layers.
    let layers = config.history.iter().filter(|entry| !entry.empty_layer).count();
    if layers != config.rootfs.diff_ids().len() {
        config.history = config.rootfs.diff_ids().iter().map(|_| HistoryEntry::default()).collect();
    }
    Ok(config)
}

/// Completes the times in the history from the entry `first` on: an entry without a time gets that of the first entry
/// with one, or else that of the base image. The image gets the time of the last entry.
pub(super) fn date(config: &mut Config, first: usize) {
    let steps = config.history.get_mut(first..).unwrap_or_default();
    let next = steps.iter().find_map(|step| step.created.clone()).or_else(|| config.created.clone());
    steps.iter_mut().filter(|step| step.created.is_none()).for_each(|step| step.created.clone_from(&next));
    config.created = steps.last().map_or(next, |step| step.created.clone());
}

/// The descriptor of a layer as it stands in a manifest, with all its fields.
pub(super) type LayerDescriptor = Value;

/// Returns the layers that the manifest `bytes` of a base image names.
///
/// # Errors
/// `DataLoss` if `bytes` is no manifest.
pub(super) fn layers_of(bytes: &[u8]) -> Result<Vec<LayerDescriptor>> {
    #[derive(Deserialize)]
    struct Manifest {
        #[serde(default, deserialize_with = "null_is_absent")]
        layers: Vec<LayerDescriptor>,
    }
    serde_json::from_slice(bytes)
        .map(|manifest: Manifest| manifest.layers)
        .map_err(|error| Error::data_loss("the base image's manifest is not what it should be").with_source(error))
}

/// Returns the descriptor of a layer that strata made: its blob is the uncompressed tar itself.
pub(super) fn layer(diff_id: DiffId, bytes: u64) -> LayerDescriptor {
    json!({"mediaType": OCI_LAYER, "digest": diff_id, "size": bytes})
}

/// Returns the manifest of an image with these layers.
pub(super) fn manifest(config: &[u8], layers: &[LayerDescriptor]) -> Vec<u8> {
    let manifest = json!({
        "schemaVersion": SCHEMA_VERSION,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": Digest::of(config), "size": config.len()},
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
        let config = of_base(base.to_string().as_bytes()).expect("a config");
        let mut expected = base;
        expected.as_object_mut().expect("an object").remove("container");
        expected["config"].as_object_mut().expect("an object").remove("Env");
        assert_eq!(serde_json::from_slice::<Value>(&config.bytes().expect("bytes")).expect("JSON"), expected);
    }

    #[test]
    fn steps_without_a_time() {
        let dated = |times: &[Option<&str>], base: Option<&str>| {
            let step = |time: &Option<&str>| HistoryEntry::new(time.map(str::to_owned), "step".to_owned(), true);
            let history = [HistoryEntry::default()].into_iter().chain(times.iter().map(step)).collect();
            let mut config = Config { created: base.map(str::to_owned), history, ..Config::default() };
            date(&mut config, 1);
            let times = config.history.iter().map(|step| step.created.clone()).collect::<Vec<_>>();
            assert_eq!(times[0], None, "what the base has is the base's");
            (times[1..].iter().map(|time| time.clone().unwrap_or_default()).collect::<Vec<_>>(), config.created)
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
        assert_eq!(of_base(base.to_string().as_bytes()).expect("a config").history.len(), 2);
    }
}
