//! From a store into a registry.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Value, json};
use ureq::Body;
use ureq::http::{Method, Response, StatusCode, header};

use super::http::{Call, Client, escaped};
use super::{Access, Connections, Reference};
use crate::changeset::blob::Blob;
use crate::door::emit::{EmitOptions, emit};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{DiffId, Digest};
use crate::image::export::{ExportOptions, Outgoing, Watched, descriptor};
use crate::image::{BlobDigest, Layer, Progress};
use crate::oci::config::ConfigSummary;
use crate::oci::media_type::{self, OCI_CONFIG, OCI_MANIFEST};
use crate::oci::{media_type_of, parse};
use crate::store::Store;

/// Length of one piece of an upload: a broken connection loses at most one piece.
const PIECE_BYTES: usize = 8 << 20;

/// Maximum number of resumptions of one piece.
const RESUMES_MAX: u32 = 5;

/// The actions that a token for a push must allow.
const ACTIONS: &str = "pull,push";

/// An image that was pushed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Pushed {
    /// The name of the image in the registry.
    pub name: String,
    /// The digest of the config: the image ID.
    pub id: Digest,
    /// The digest of the manifest.
    pub manifest: Digest,
    /// How many layers the image has.
    pub layers: usize,
    /// How many layers were uploaded. The registry had the others.
    pub uploaded: usize,
}

/// Pushes the image `name` of the store as `reference`.
///
/// The manifests in the store name compressed blobs of a layer. If the registry has one of these blobs, in this
/// repository or in one that names an image of the store, the layer is not uploaded. Other layers are compressed into
/// the upload. If the digest of no layer changes, the manifest is kept byte for byte.
///
/// # Errors
/// `NotFound`; `PermissionDenied` without the right credentials; `Unavailable` if the registry cannot be reached;
/// `InvalidArgument` for a name with a digest; `DataLoss` if a layer cannot be written as it was imported; `Cancelled`.
pub fn push(
    store: &Store,
    name: &str,
    reference: &Reference,
    access: &Access,
    options: &ExportOptions,
    progress: &dyn Progress,
) -> Result<Pushed> {
    let pushing = |error: Error| error.context(format!("pushing {name:?} to {reference}"));
    let Some(tag) = reference.tag.as_deref().filter(|_| reference.digest.is_none()) else {
        return Err(pushing(Error::invalid(
            "an image is pushed to a tag: what digest it has follows from its content",
        )));
    };
    let image = Outgoing::find(store, name)?;
    let mut connections = Connections::new(reference, access, &options.cancel)?;
    connections.clients.retain(|client| client.endpoint.takes_pushes);
    let ping = |client: &Arc<Client>| client.succeed(&Call::new(Method::GET, format!("{}/", client.endpoint.base), ""));
    let (client, _) = connections.first(&options.cancel, ping).map_err(pushing)?;
    let push = Push { client: &client, image: &image, forms: known_forms(store, reference)?, options, progress };
    push.run(tag).map_err(pushing).map(|pushed| Pushed { name: reference.to_string(), ..pushed })
}

/// A compressed blob of a layer that a registry may have, from the manifest of an image in the store.
struct Form {
    descriptor: Value,
    /// The repository in the name of that image, if it is another one of the same registry.
    repository: Option<String>,
}

/// Returns the forms of the layers of all images. A built image names its layers by DiffID, but the base image has
/// forms of the layers that it shares with the built one.
fn known_forms(store: &Store, reference: &Reference) -> Result<HashMap<DiffId, Vec<Form>>> {
    let mut forms: HashMap<DiffId, Vec<Form>> = HashMap::new();
    for image in store.images()? {
        let other = image.name.parse::<Reference>().ok();
        let other = other.filter(|other| other.registry == reference.registry);
        let repository = other.map(|other| other.repository).filter(|other| *other != reference.repository);
        let manifest: Value = parse(&store.document(image.manifest)?, "an image's manifest")?;
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        let config = ConfigSummary::parse(&store.document(image.config)?, layers.len())?;
        for (descriptor, diff_id) in layers.into_iter().zip(config.diff_ids()) {
            // A build names its layers by DiffID, and no registry has an uncompressed blob.
            if descriptor["digest"] != json!(diff_id) {
                forms.entry(*diff_id).or_default().push(Form { descriptor, repository: repository.clone() });
            }
        }
    }
    Ok(forms)
}

/// A layer that is in the registry now.
enum Sent {
    /// The registry had a form of the layer, with this descriptor.
    Kept(Value),
    /// The layer was compressed and uploaded.
    Uploaded(Blob),
}

/// A push under way.
struct Push<'a> {
    client: &'a Client,
    image: &'a Outgoing<'a>,
    forms: HashMap<DiffId, Vec<Form>>,
    options: &'a ExportOptions,
    progress: &'a dyn Progress,
}

impl<'a> Push<'a> {
    fn run(&self, tag: &str) -> Result<Pushed> {
        let mut manifest: Value = parse(&self.image.manifest, "the image's manifest")?;
        let mut uploaded: HashMap<DiffId, Blob> = HashMap::new();
        let mut is_same = manifest["config"]["digest"] == json!(self.image.id);
        for (at, layer) in self.image.layers.iter().enumerate() {
            self.options.cancel.check()?;
            let known = &manifest["layers"][at];
            let sent = match uploaded.get(&layer.diff_id) {
                Some(blob) => Sent::Uploaded(*blob),
                None => self.layer(at, layer, known).map_err(|error| error.context(layer))?,
            };
            let now = match sent {
                Sent::Kept(descriptor) => descriptor,
                Sent::Uploaded(blob) => {
                    uploaded.insert(layer.diff_id, blob);
                    descriptor(known, &blob, self.options.compression)
                }
            };
            // If the layer was compressed as before, the manifest has its digest already.
            if known["digest"] != now["digest"] {
                manifest["layers"][at] = now;
                is_same = false;
            }
        }
        let id = BlobDigest::from(self.image.id);
        if !self.has(&id)? {
            let mut upload = Upload::start(self.client, None)?;
            upload.write_all(&self.image.config).map_err(own)?;
            upload.finish(self.image.id)?;
        }
        let manifest = if is_same { self.image.manifest.clone() } else { self.rewritten(manifest) };
        let (id, layers, digest) = (self.image.id, self.image.layers.len(), self.put_manifest(tag, &manifest)?);
        Ok(Pushed { name: String::new(), id, manifest: digest, layers, uploaded: uploaded.len() })
    }

    /// Finds one layer in the registry, or uploads it.
    fn layer(&self, at: usize, layer: &Layer, known: &Value) -> Result<Sent> {
        let other = self.forms.get(&layer.diff_id).into_iter().flatten();
        let own = Form { descriptor: known.clone(), repository: None };
        let mut asked = HashSet::new();
        let mut upload = None;
        for form in std::iter::once(&own).chain(other) {
            let digest = form.descriptor["digest"].as_str().unwrap_or_default();
            let (is_new, from) = (asked.insert(digest.to_owned()), form.repository.as_deref());
            if (is_new && self.has(&digest.parse::<BlobDigest>()?)?) || self.is_mounted(digest, from, &mut upload)? {
                self.progress.present(layer);
                return Ok(Sent::Kept(form.descriptor.clone()));
            }
        }
        let mut upload = upload.map_or_else(|| Upload::start(self.client, None), Ok)?;
        self.progress.started(layer);
        let (compression, cancel) = (self.options.compression, self.options.cancel.clone());
        let how = EmitOptions { compression, cancel, ..EmitOptions::default() };
        let mut writer = Watched { writer: &mut upload, layer, progress: self.progress };
        let blob = emit(self.image.store, &self.image.snapshots[at], &how, &mut writer)?;
        upload.finish(blob.digest)?;
        self.progress.done(layer);
        Ok(Sent::Uploaded(blob))
    }

    /// Asks the registry to take the blob `digest` from the repository `from`. A registry that cannot do that begins an
    /// upload, which is kept in `upload`.
    fn is_mounted(&self, digest: &str, from: Option<&str>, upload: &mut Option<Upload<'a>>) -> Result<bool> {
        let Some(from) = from.filter(|_| upload.is_none()) else { return Ok(false) };
        let started = Upload::start(self.client, Some((digest, from)))?;
        let is_mounted = started.is_mounted;
        *upload = (!is_mounted).then_some(started);
        Ok(is_mounted)
    }

    fn has(&self, digest: &BlobDigest) -> Result<bool> {
        let url = self.client.url(&format!("blobs/{digest}"));
        let answer = self.client.send(&Call::new(Method::HEAD, url, ACTIONS))?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(self.client.complaint(answer)),
        }
    }

    /// Returns the manifest with OCI's media types, because its new layers have them.
    fn rewritten(&self, mut manifest: Value) -> Vec<u8> {
        manifest["schemaVersion"] = 2.into();
        manifest["mediaType"] = OCI_MANIFEST.into();
        manifest["config"]["mediaType"] = OCI_CONFIG.into();
        manifest["config"]["digest"] = json!(self.image.id);
        for layer in manifest["layers"].as_array_mut().into_iter().flatten() {
            let known = layer["mediaType"].as_str().and_then(|text| media_type::compression_of(text).ok());
            if let Some(compression) = known {
                layer["mediaType"] = media_type::of_layer(compression).into();
            }
        }
        manifest.to_string().into_bytes()
    }

    fn put_manifest(&self, tag: &str, manifest: &[u8]) -> Result<Digest> {
        let media_type = media_type_of(manifest).unwrap_or_else(|| OCI_MANIFEST.to_owned());
        let url = self.client.url(&format!("manifests/{tag}"));
        let mut call = Call::new(Method::PUT, url, ACTIONS).with(header::CONTENT_TYPE, media_type);
        call.body = manifest;
        self.client.succeed(&call)?;
        Ok(Digest::of(manifest))
    }
}

/// An upload of a blob.
struct Upload<'a> {
    client: &'a Client,
    /// The address for the next piece.
    location: String,
    /// How many bytes the registry has.
    at: u64,
    piece: Vec<u8>,
    /// True if the registry took the blob from another repository.
    is_mounted: bool,
}

impl<'a> Upload<'a> {
    /// Begins an upload, unless the registry can take the blob from `neighbour`: a digest and a repository.
    fn start(client: &'a Client, neighbour: Option<(&str, &str)>) -> Result<Self> {
        let query = neighbour.map(|(digest, from)| format!("?mount={digest}&from={}", escaped(from)));
        let url = client.url(&format!("blobs/uploads/{}", query.unwrap_or_default()));
        let mut call = Call::new(Method::POST, url, ACTIONS);
        call.also = neighbour.map(|(_, from)| from);
        let answer = client.succeed(&call)?;
        let is_mounted = neighbour.is_some() && answer.status() == StatusCode::CREATED;
        let location = location(client, &answer, "");
        if location.is_empty() && !is_mounted {
            let host = client.host();
            return Err(Error::data_loss(format!("{host} does not say where the upload goes")));
        }
        Ok(Self { client, location, at: 0, piece: Vec::with_capacity(PIECE_BYTES), is_mounted })
    }

    /// Sends the piece, without the bytes that the registry has already.
    fn send(&mut self) -> Result<()> {
        let end = self.at + self.piece.len() as u64;
        let mut resumes = 0;
        while self.at < end {
            let piece = &self.piece[self.piece.len() - usize::try_from(end - self.at).unwrap_or_default()..];
            let range = format!("{}-{}", self.at, end - 1);
            let call = Call::new(Method::PATCH, self.location.clone(), ACTIONS);
            let mut call =
                call.with(header::CONTENT_TYPE, "application/octet-stream").with(header::CONTENT_RANGE, range);
            call.body = piece;
            let answer = self.client.send(&call)?;
            if answer.status().is_success() {
                self.location = location(self.client, &answer, &self.location);
                self.at = end;
            } else if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE && resumes < RESUMES_MAX {
                resumes += 1;
                self.resume(end)?;
            } else {
                return Err(self.client.complaint(answer));
            }
        }
        self.piece.clear();
        Ok(())
    }

    /// Asks the registry how many bytes of the upload it has.
    fn resume(&mut self, end: u64) -> Result<()> {
        let answer = self.client.succeed(&Call::new(Method::GET, self.location.clone(), ACTIONS))?;
        let range = answer.headers().get(header::RANGE).and_then(|range| range.to_str().ok());
        let last = range.and_then(|range| range.trim_start_matches("bytes=").split_once('-')?.1.parse::<u64>().ok());
        let there = last.map(|last| if last == 0 { 0 } else { last.saturating_add(1) });
        let Some(there) = there.filter(|there| (self.at..=end).contains(there)) else {
            let message = format!("{} lost a part of the upload: it has {range:?}", self.client.host());
            return Err(Error::new(ErrorKind::Unavailable, message));
        };
        self.location = location(self.client, &answer, &self.location);
        self.at = there;
        Ok(())
    }

    /// Ends the upload of the blob `digest`.
    fn finish(&mut self, digest: Digest) -> Result<()> {
        self.send()?;
        let separator = if self.location.contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}digest={digest}", self.location);
        self.client.succeed(&Call::new(Method::PUT, url, ACTIONS)).map(drop)
    }
}

impl Write for Upload<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the address in an answer at which the upload continues; `otherwise` if the answer has none.
pub(super) fn location(client: &Client, answer: &Response<Body>, otherwise: &str) -> String {
    let said = answer.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    match said {
        Some(path) if path.starts_with('/') => {
            let scheme = client.endpoint.base.split("://").next().unwrap_or("https");
            format!("{scheme}://{}{path}", client.host())
        }
        said => said.unwrap_or(otherwise).to_owned(),
    }
}

/// Returns the strata error inside the error of a writer, if there is one.
fn own(error: io::Error) -> Error {
    error.downcast().unwrap_or_else(|error| Error::new(ErrorKind::Io, "write the upload").with_source(error))
}
