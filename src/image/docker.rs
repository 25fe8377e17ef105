//! Archives as `docker save` writes them: `manifest.json` names the config and the layers of each image.
//!
//! Such an archive has no manifest in the sense of a registry. The store keeps a manifest with every image, so this
//! module makes an OCI manifest of the config and the layers. It is the same for the same archive.
//!
//! # References
//! Docker's image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::Deserialize;

use super::files::Files;
use super::name::{has_tag, same_image};
use super::{Found, Layer, ask, check_layers, nth, unknown};
use crate::changeset::blob::{Compression, DigestReader};
use crate::door::IngestOptions;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::id::{ChainId, Digest};
use crate::oci::config::ConfigSummary;
use crate::oci::media_type::{self, OCI_CONFIG, OCI_MANIFEST};
use crate::oci::{Descriptor, Manifest, SCHEMA_VERSION, null_is_absent, parse};
use crate::task::{Cancel, Cancellable};

/// The file that names the images.
pub(super) const MANIFEST: &str = "manifest.json";

/// Maximum number of images in an archive: the config of each is read for its ID.
const IMAGES_MAX: usize = 1000;

/// Returns the tag of the image `name` for docker; `None` if docker accepts no such tag.
pub(super) fn tag(name: &str) -> Result<Option<String>> {
    let tagged = |has_tag| if has_tag { name.to_owned() } else { format!("{name}:latest") };
    Ok(has_tag(name)?.map(tagged))
}

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default, deserialize_with = "null_is_absent")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_absent")]
    layers: Vec<String>,
}

impl Saved {
    /// Returns the config and its digest, which is the image's ID. Most writers name the file by the digest, which is
    /// then checked.
    fn config(&self, files: &Files) -> Result<(Vec<u8>, Digest)> {
        let path = &self.config;
        let bytes = files.document(path)?.ok_or_else(|| Error::data_loss(format!("the config {path} is missing")))?;
        let found = Digest::of(&bytes);
        let stem = path.rsplit('/').next().map(|name| name.strip_suffix(".json").unwrap_or(name));
        match stem.map(|stem| format!("sha256:{stem}").parse::<Digest>()) {
            Some(Ok(said)) if said != found => {
                Err(Error::data_loss(format!("the config {path} is damaged: it has the digest {found}")))
            }
            _ => Ok((bytes, found)),
        }
    }
}

/// Finds the image that `reference` names, by a tag or its ID, or the only one.
///
/// # Errors
/// `InvalidArgument` if there are several and none is named; `NotFound` if there is none of that name; `DataLoss` for a
/// damaged or missing file; `ResourceExhausted` beyond a limit; `Cancelled`.
pub(super) fn find(files: &Files, reference: Option<&str>, options: &IngestOptions) -> Result<Found> {
    let list = files.document(MANIFEST)?.ok_or_else(|| Error::data_loss(format!("the archive has no {MANIFEST}")))?;
    let list: Vec<Saved> = parse(&list, MANIFEST)?;
    if list.len() > IMAGES_MAX {
        let found = list.len();
        let message = format!("{MANIFEST} names {found} images, {IMAGES_MAX} are the limit");
        return Err(Error::new(ErrorKind::ResourceExhausted, message));
    }
    let ids = list.iter().map(|saved| Ok(saved.config(files)?.1)).collect::<Result<Vec<_>>>()?;
    let images = || list.iter().zip(&ids);
    let shown: Vec<String> =
        images().map(|(saved, id)| saved.repo_tags.first().cloned().unwrap_or(id.to_string())).collect();
    let is_called = |saved: &Saved, id: &Digest, name: &str| {
        saved.repo_tags.iter().any(|tag| same_image(tag, name)) || id.to_string() == name
    };
    let chosen = match reference {
        None if ids.iter().any(|id| *id != ids[0]) => return Err(ask(&shown)),
        None => list.first().ok_or_else(|| Error::not_found("there is no image in the archive"))?,
        Some(reference) => images()
            .find(|(saved, id)| is_called(saved, id, reference))
            .map(|(saved, _)| saved)
            .or_else(|| list.get(nth(reference)?))
            .ok_or_else(|| unknown(reference, &shown))?,
    };
    let name = chosen.repo_tags.first().cloned();
    image(files, name, &chosen.layers, chosen.config(files)?.0, options)
}

/// Describes the image with the config `config` and the layers at `paths`.
pub(super) fn image(
    files: &Files,
    name: Option<String>,
    paths: &[String],
    config: Vec<u8>,
    options: &IngestOptions,
) -> Result<Found> {
    check_layers(paths.len(), options)?;
    let parsed = ConfigSummary::parse(&config, paths.len())?;
    let chain = ChainId::all(parsed.diff_ids());
    let mut layers = Vec::with_capacity(paths.len());
    let mut descriptors = Vec::with_capacity(paths.len());
    for (at, path) in paths.iter().enumerate() {
        let diff_id = parsed.diff_ids()[at];
        let place = || format!("layer {} of {} ({path})", at + 1, paths.len());
        let blob = describe(files, path, diff_id, &options.cancel).map_err(|error| error.context(place()))?;
        layers.push(Layer {
            number: at + 1,
            total: paths.len(),
            digest: blob.digest()?,
            size_bytes: blob.size,
            diff_id,
            chain_id: chain[at],
            path: path.clone(),
        });
        descriptors.push(blob);
    }
    let manifest = Manifest {
        schema_version: SCHEMA_VERSION,
        media_type: Some(OCI_MANIFEST.to_owned()),
        config: descriptor(OCI_CONFIG.to_owned(), Digest::of(&config), config.len() as u64),
        layers: descriptors,
        manifests: None,
    };
    let manifest = serde_json::to_vec(&manifest)
        .map_err(|error| Error::data_loss("cannot write a manifest").with_source(error))?;
    Ok(Found { name, config, manifest, layers, platform: parsed.platform() })
}

/// Returns the descriptor of the layer at `path` for a manifest. The digest of an uncompressed layer is its DiffID,
/// which the config has. A compressed layer, which docker itself never writes, is read to compute its digest.
fn describe(files: &Files, path: &str, diff_id: Digest, cancel: &Cancel) -> Result<Descriptor> {
    let blob = files.blob(path)?;
    let (size, compression) = (blob.size(), blob.compression()?);
    let digest =
        if compression == Compression::None { diff_id } else { digest_of(Cancellable::new(blob, cancel), path)? };
    Ok(descriptor(media_type::of_layer(compression), digest, size))
}

fn digest_of(blob: impl Read, path: &str) -> Result<Digest> {
    let mut reader = DigestReader::new(blob);
    io::copy(&mut reader, &mut io::sink()).at("read", path)?;
    Ok(reader.finish().0)
}

fn descriptor(media_type: String, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type, digest: digest.to_string(), size, annotations: BTreeMap::new(), platform: None }
}
