//! Archives of docker from before version 1.10: a directory for each layer, and `repositories` with the names.
//!
//! ```text
//! repositories         {"app": {"1": "<ID of the topmost layer>"}}
//! <ID>/VERSION         1.0
//! <ID>/json            description of the layer: its parent, its command, the config of the image with this top
//! <ID>/layer.tar       its files
//! ```
//!
//! Docker wrote this form beside that of `manifest.json` until version 25. Such an image has no config of the present
//! form, so this module makes one. It is the same for the same archive.
//!
//! # References
//! Docker's image specification v1.0, "Combined Image JSON + Filesystem Changeset Format".

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::Deserialize;
use serde_json::{Value, json};

use super::files::Files;
use super::name::same_image;
use super::{Found, Platform, ask, check_layers, docker, unknown};
use crate::changeset::blob::{Decompress, DigestReader, Expansion};
use crate::door::IngestOptions;
use crate::error::{Context, Error, Result};
use crate::id::Digest;
use crate::oci::parse;
use crate::task::{Cancel, Cancellable};

/// The file with the names.
const REPOSITORIES: &str = "repositories";

/// Maximum number of layers of an image: layers that name each other as parents would otherwise be read for ever.
const LAYERS_MAX: usize = 1000;

/// The fields of a layer's `json` that the config or the chain of layers needs.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Described {
    parent: Option<String>,
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    os: Option<String>,
    architecture: Option<String>,
    docker_version: Option<String>,
    config: Option<Value>,
    container_config: Option<Value>,
}

/// Returns true if `files` have this form.
pub(super) fn is_there(files: &Files) -> Result<bool> {
    Ok(files.find(REPOSITORIES)?.is_some() || !files.dirs_with("json")?.is_empty())
}

/// Finds the image that `reference` names, or the only one.
///
/// # Errors
/// `InvalidArgument` if there are several and none is named; `NotFound` if there is none of that name; `DataLoss` for a
/// damaged or missing file; `ResourceExhausted` beyond a limit; `Cancelled`.
pub(super) fn find(files: &Files, reference: Option<&str>, options: &IngestOptions) -> Result<Found> {
    let names = names(files)?;
    let shown: Vec<String> = names.iter().map(|(name, id)| name.clone().unwrap_or_else(|| id.clone())).collect();
    let is_called = |name: &Option<String>, id: &str, reference: &str| {
        id == reference || name.as_ref().is_some_and(|name| same_image(name, reference))
    };
    let chosen = match reference {
        None if names.iter().any(|(_, id)| *id != names[0].1) => return Err(ask(&shown)),
        None => names.first().ok_or_else(|| Error::not_found("there is no image in the archive"))?,
        Some(reference) => {
            names.iter().find(|(name, id)| is_called(name, id, reference)).ok_or_else(|| unknown(reference, &shown))?
        }
    };
    let (name, top) = chosen;
    let (ids, described) = chain(files, top)?;
    check_layers(ids.len(), options)?;
    let paths: Vec<String> = ids.iter().map(|id| format!("{id}/layer.tar")).collect();
    let diff_ids = paths.iter().map(|path| diff_id(files, path, &options.cancel)).collect::<Result<Vec<_>>>()?;
    docker::image(files, name.clone(), &paths, config(&described, &diff_ids), options)
}

/// Returns the names of the images with the IDs of their topmost layers. Without names, the layers without children are
/// taken.
fn names(files: &Files) -> Result<Vec<(Option<String>, String)>> {
    if let Some(list) = files.document(REPOSITORIES)? {
        let list: BTreeMap<String, BTreeMap<String, String>> = parse(&list, REPOSITORIES)?;
        let named = |(name, tags): (String, BTreeMap<String, String>)| {
            tags.into_iter().map(move |(tag, id)| (Some(format!("{name}:{tag}")), id))
        };
        let names: Vec<_> = list.into_iter().flat_map(named).collect();
        if !names.is_empty() {
            return Ok(names);
        }
    }
    let all = files.dirs_with("json")?;
    let mut parents = BTreeSet::new();
    for id in &all {
        parents.extend(read(files, id)?.parent);
    }
    Ok(all.into_iter().filter(|id| !parents.contains(id)).map(|id| (None, id)).collect())
}

fn read(files: &Files, id: &str) -> Result<Described> {
    let path = format!("{id}/json");
    let bytes = files.document(&path)?.ok_or_else(|| Error::data_loss(format!("the layer's {path} is missing")))?;
    parse(&bytes, &path)
}

/// Returns the IDs of the layers from the lowest to `top`, and their descriptions.
fn chain(files: &Files, top: &str) -> Result<(Vec<String>, Vec<Described>)> {
    let (mut ids, mut all) = (Vec::new(), Vec::new());
    let mut next = Some(top.to_owned());
    while let Some(id) = next.filter(|id| !id.is_empty()) {
        if ids.len() == LAYERS_MAX {
            return Err(Error::data_loss(format!(
                "the image has more than {LAYERS_MAX} layers, or they go in circles"
            )));
        }
        let described = read(files, &id)?;
        next = described.parent.clone();
        ids.push(id);
        all.push(described);
    }
    ids.reverse();
    all.reverse();
    Ok((ids, all))
}

fn diff_id(files: &Files, path: &str, cancel: &Cancel) -> Result<Digest> {
    let blob = files.blob(path)?;
    let compression = blob.compression()?;
    let plain = Decompress::new(Cancellable::new(blob, cancel), compression, Expansion::default(), path)?;
    let mut reader = DigestReader::new(plain);
    io::copy(&mut reader, &mut io::sink()).at("read", path)?;
    Ok(reader.finish().0)
}

/// Returns the config that docker makes of such layers. The topmost layer gives the fields of the image, every layer a
/// step of the history.
fn config(layers: &[Described], diff_ids: &[Digest]) -> Vec<u8> {
    let host = Platform::host();
    let top = layers.last();
    let of_top = |part: fn(&Described) -> &Option<String>| top.and_then(|top| part(top).clone());
    let history: Vec<Value> = layers.iter().map(step).collect();
    let mut config = json!({
        "architecture": of_top(|top| &top.architecture).unwrap_or(host.architecture),
        "os": of_top(|top| &top.os).unwrap_or(host.os),
        "config": top.and_then(|top| top.config.clone()).unwrap_or_else(|| json!({})),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    });
    let optional = [
        ("created", of_top(|top| &top.created)),
        ("author", of_top(|top| &top.author)),
        ("docker_version", of_top(|top| &top.docker_version)),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            config[key] = value.into();
        }
    }
    config.to_string().into_bytes()
}

fn step(layer: &Described) -> Value {
    let words = |config: &Value| {
        let words: Vec<&str> = config["Cmd"].as_array()?.iter().filter_map(Value::as_str).collect();
        Some(words.join(" "))
    };
    let mut step = json!({});
    let parts = [
        ("created", layer.created.clone()),
        ("created_by", layer.container_config.as_ref().and_then(words)),
        ("author", layer.author.clone()),
        ("comment", layer.comment.clone().filter(|comment| !comment.is_empty())),
    ];
    for (key, value) in parts {
        if let Some(value) = value {
            step[key] = value.into();
        }
    }
    step
}
