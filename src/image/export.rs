//! From a store into a layout: one image, with its original config, and layers with the same DiffIDs.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::output::Output;
use super::{Layer, Progress, docker, layout};
use crate::changeset::blob::{Blob, Compression};
use crate::door::{EmitOptions, emit};
use crate::error::{Error, Result};
use crate::id::{ChainId, DiffId, Digest};
use crate::oci::config::ConfigSummary;
use crate::oci::media_type::{self, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::oci::{Manifest, parse};
use crate::snapshotter::Snapshotter as _;
use crate::store::Store;
use crate::task::Cancel;

/// Prefixes of annotations that describe the bytes of one blob. Such annotations are wrong for the same layer in
/// another compression.
const OF_THE_BLOB: [&str; 2] = ["containerd.io/snapshot/", "io.github.containers.zstd-chunked"];

/// The place and the form of an exported image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `oci:DIR[:TAG]`: an OCI layout in a new or empty directory.
    Oci {
        /// The directory.
        path: PathBuf,
        /// Name of the image in the layout, instead of its name in the store.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: the same as an archive.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// Name of the image in the layout, instead of its name in the store.
        tag: Option<String>,
    },
    /// `docker-archive:FILE`: an archive that `docker load` reads.
    DockerArchive(PathBuf),
}

impl Destination {
    /// Reads `FORM:PATH[:TAG]`, as users write it for strata and skopeo. A tag begins after the first colon of the
    /// path. A docker archive has no tag, and its path may have colons.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown form, an empty path or a tag that no layout can have.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let (form, rest) = split_at_colon(bytes).unwrap_or_default();
        let as_path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        let (path, tag) = match split_at_colon(rest) {
            Some((path, tag)) => (path, Some(check_tag(tag).ok_or_else(|| wrong(text)))),
            None => (rest, None),
        };
        match form {
            b"docker-archive" if !rest.is_empty() => Ok(Self::DockerArchive(as_path(rest))),
            b"oci" if !path.is_empty() => Ok(Self::Oci { path: as_path(path), tag: tag.transpose()? }),
            b"oci-archive" if !path.is_empty() => Ok(Self::OciArchive { path: as_path(path), tag: tag.transpose()? }),
            _ => Err(wrong(text)),
        }
    }

    fn open(&self) -> Result<Output> {
        match self {
            Self::Oci { path, .. } => Output::dir(path),
            Self::OciArchive { path, .. } | Self::DockerArchive(path) => Output::archive(path),
        }
    }
}

/// Splits at the first colon.
fn split_at_colon(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b':')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Returns `tag` if it is valid as `ref.name` in the index of a layout.
fn check_tag(tag: &[u8]) -> Option<String> {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:@+/".contains(byte);
    let is_good = tag.first().is_some_and(u8::is_ascii_alphanumeric) && tag.iter().all(is_allowed);
    is_good.then(|| String::from_utf8_lossy(tag).into_owned())
}

fn wrong(text: &OsStr) -> Error {
    let text = text.display();
    Error::invalid(format!("{text} is no destination: oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE"))
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (form, path, tag) = match self {
            Self::Oci { path, tag } => ("oci", path, tag.as_deref()),
            Self::OciArchive { path, tag } => ("oci-archive", path, tag.as_deref()),
            Self::DockerArchive(path) => ("docker-archive", path, None),
        };
        write!(f, "{form}:{}", path.display())?;
        tag.map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

/// How to export.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The compression of the layers.
    pub compression: Compression,
    /// Stops the export, which then ends with `Cancelled`.
    pub cancel: Cancel,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { compression: Compression::Gzip, cancel: Cancel::default() }
    }
}

/// An image that was exported.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Exported {
    /// The name of the image in the store.
    pub name: String,
    /// The digest of the config: the image ID, unchanged by the export.
    pub id: Digest,
    /// The digest of the manifest, which depends on the compression. A docker archive has no manifest.
    pub manifest: Option<Digest>,
    /// How many layers the image has.
    pub layers: usize,
    /// The length of all blobs of layers.
    pub size_bytes: u64,
}

/// Writes the image `name` to `destination`: its config byte for byte, and layers with the DiffIDs in the config. Other
/// members of the manifest are kept. The destination gets its name when it is complete.
///
/// # Errors
/// `NotFound`; `DataLoss` if a layer cannot be written as it was imported; `AlreadyExists` for a directory that is not
/// empty; `Cancelled`; errors of the file system. After an error nothing is left at the destination.
pub fn export(
    store: &Store,
    name: &str,
    destination: &Destination,
    options: &ExportOptions,
    progress: &dyn Progress,
) -> Result<Exported> {
    let found = Outgoing::find(store, name)?;
    let written = || {
        let mut output = destination.open()?;
        let blobs = found.write_layers(&mut output, destination, options, progress)?;
        let manifest = match destination {
            Destination::DockerArchive(_) => found.write_docker(&mut output, &blobs)?,
            Destination::Oci { tag, .. } | Destination::OciArchive { tag, .. } => {
                Some(found.write_oci(&mut output, &blobs, options, tag.as_deref())?)
            }
        };
        output.finish().map(|()| (manifest, blobs))
    };
    let (manifest, blobs) = written().map_err(|error| error.context(format!("exporting {name:?} to {destination}")))?;
    let size_bytes = blobs.iter().map(|blob| blob.size_bytes).sum();
    Ok(Exported { name: name.to_owned(), id: found.id, manifest, layers: blobs.len(), size_bytes })
}

/// An image of the store that is being exported or pushed.
pub(super) struct Outgoing<'a> {
    pub(super) store: &'a Store,
    name: &'a str,
    pub(super) id: Digest,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
    pub(super) layers: Vec<Layer>,
    /// The snapshots of the layers, the lowest first.
    pub(super) snapshots: Vec<String>,
}

impl<'a> Outgoing<'a> {
    pub(super) fn find(store: &'a Store, name: &'a str) -> Result<Self> {
        let image = store.image(name)?;
        let (config, manifest) = (store.document(image.config)?, store.document(image.manifest)?);
        let read: Manifest = parse(&manifest, "the image's manifest")?;
        let parsed = ConfigSummary::parse(&config, read.layers.len())?;
        let diff_ids = parsed.diff_ids();
        let snapshots = snapshots(store, image.top)?;
        let recorded: Vec<_> = snapshots.iter().map(|name| store.diff_id(name)).collect::<Result<_>>()?;
        if !recorded.iter().flatten().eq(diff_ids) || snapshots.len() != diff_ids.len() {
            return Err(Error::data_loss(format!(
                "the snapshots of {name:?} are not those of the layers in its config"
            )));
        }
        let chain = ChainId::all(diff_ids);
        let layers = (0..diff_ids.len()).map(|at| Layer {
            number: at + 1,
            total: diff_ids.len(),
            digest: diff_ids[at].into(),
            size_bytes: read.layers[at].size,
            diff_id: diff_ids[at],
            chain_id: chain[at],
            path: String::new(),
        });
        Ok(Self { store, name, id: image.config, layers: layers.collect(), config, manifest, snapshots })
    }

    /// Writes the blobs of the layers. A layer that is in the image several times is written once.
    fn write_layers(
        &self,
        output: &mut Output,
        destination: &Destination,
        options: &ExportOptions,
        progress: &dyn Progress,
    ) -> Result<Vec<Blob>> {
        let mut written: HashMap<DiffId, Blob> = HashMap::new();
        let mut blobs = Vec::with_capacity(self.layers.len());
        for (layer, snapshot) in self.layers.iter().zip(&self.snapshots) {
            if let Some(blob) = written.get(&layer.diff_id) {
                blobs.push(*blob);
                continue;
            }
            progress.started(layer);
            let (compression, cancel) = (options.compression, options.cancel.clone());
            let how = EmitOptions { compression, cancel, ..EmitOptions::default() };
            let name = |blob: &Blob| match destination {
                Destination::DockerArchive(_) => docker_layer(blob.diff_id),
                Destination::Oci { .. } | Destination::OciArchive { .. } => layout::blob_path(blob.digest),
            };
            let blob =
                output.blob(name, |writer| emit(self.store, snapshot, &how, &mut Watched { writer, layer, progress }));
            let blob = blob.map_err(|error| error.context(layer))?;
            progress.done(layer);
            written.insert(layer.diff_id, blob);
            blobs.push(blob);
        }
        Ok(blobs)
    }

    fn write_oci(
        &self,
        output: &mut Output,
        blobs: &[Blob],
        options: &ExportOptions,
        tag: Option<&str>,
    ) -> Result<Digest> {
        let manifest = self.oci_manifest(blobs, options.compression)?;
        let digest = Digest::of(&manifest);
        output.file(&layout::blob_path(self.id), &self.config)?;
        output.file(&layout::blob_path(digest), &manifest)?;
        output.file(layout::MARKER, &bytes_of(&json!({"imageLayoutVersion": layout::VERSION})))?;
        let annotations = json!({layout::REF_NAME: tag.unwrap_or(self.name), layout::CONTAINERD_NAME: self.name});
        let entry =
            json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": manifest.len(), "annotations": annotations});
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
        output.file(layout::INDEX, &bytes_of(&index)).map(|()| digest)
    }

    /// Returns the stored manifest if it is an OCI manifest of the same blobs; otherwise the stored manifest with new
    /// descriptors of the layers.
    fn oci_manifest(&self, blobs: &[Blob], compression: Compression) -> Result<Vec<u8>> {
        let mut manifest: Value = parse(&self.manifest, "the image's manifest")?;
        let known = |at: usize| manifest["layers"][at]["digest"] == json!(blobs[at].digest);
        if manifest["mediaType"] == OCI_MANIFEST && (0..blobs.len()).all(known) {
            return Ok(self.manifest.clone());
        }
        let layers = blobs.iter().enumerate().map(|(at, blob)| descriptor(&manifest["layers"][at], blob, compression));
        let layers: Vec<Value> = layers.collect();
        manifest["schemaVersion"] = 2.into();
        manifest["mediaType"] = OCI_MANIFEST.into();
        manifest["config"]["mediaType"] = OCI_CONFIG.into();
        manifest["config"]["digest"] = json!(self.id);
        manifest["layers"] = layers.into();
        Ok(bytes_of(&manifest))
    }

    fn write_docker(&self, output: &mut Output, blobs: &[Blob]) -> Result<Option<Digest>> {
        let config = format!("{}.json", self.id.hex());
        output.file(&config, &self.config)?;
        let layers: Vec<String> = blobs.iter().map(|blob| docker_layer(blob.diff_id)).collect();
        let tags: Vec<String> = docker::tag(self.name)?.into_iter().collect();
        let list = json!([{"Config": config, "RepoTags": tags, "Layers": layers}]);
        output.file(docker::MANIFEST, &bytes_of(&list)).map(|()| None)
    }
}

/// Returns the snapshots from the lowest up to `top`.
fn snapshots(store: &Store, top: Option<String>) -> Result<Vec<String>> {
    let mut snapshots = Vec::new();
    let mut next = top.unwrap_or_default();
    while !next.is_empty() {
        let parent = store.stat(&next)?.parent;
        snapshots.push(std::mem::replace(&mut next, parent));
    }
    snapshots.reverse();
    Ok(snapshots)
}

/// Returns the descriptor `before` of a layer with the digest and size of another blob.
pub(super) fn descriptor(before: &Value, blob: &Blob, compression: Compression) -> Value {
    let mut descriptor = before.clone();
    if before["digest"] != json!(blob.digest)
        && let Some(fields) = descriptor.as_object_mut()
    {
        fields.retain(|name, _| name != "urls" && name != "data");
        if let Some(annotations) = fields.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|name, _| !OF_THE_BLOB.iter().any(|prefix| name.starts_with(prefix)));
        }
    }
    descriptor["mediaType"] = media_type::of_layer(compression).into();
    descriptor["digest"] = json!(blob.digest);
    descriptor["size"] = blob.size_bytes.into();
    descriptor
}

/// Returns the path of the layer `diff_id` in a docker archive.
fn docker_layer(diff_id: DiffId) -> String {
    format!("{}.tar", diff_id.hex())
}

fn bytes_of(document: &Value) -> Vec<u8> {
    document.to_string().into_bytes()
}

/// A writer that reports the bytes of a blob to `progress`.
pub(super) struct Watched<'a> {
    pub(super) writer: &'a mut dyn Write,
    pub(super) layer: &'a Layer,
    pub(super) progress: &'a dyn Progress,
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.progress.written(self.layer, count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
