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

/// Length of one piece of an upload: lost at most when a connection breaks.
const PIECE_BYTES: usize = 8 << 20;

/// How often an upload may be resumed at one place.
const RESUMES_MAX: u32 = 5;

/// The actions that a token for a push must allow.
const ACTIONS: &str = "pull,push";

/// An image that is in a registry now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Pushed {
    /// The name of the image in the registry.
    pub name: String,
    /// The digest of its config: the image ID.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// How many layers it has.
    pub layers: usize,
    /// How many of them were uploaded; the registry had the others.
    pub uploaded: usize,
}

/// Pushes the image `name` of the store as `reference`.
///
/// A layer that the registry has, in a form in which an image of the store came with it, stays as it is; also one in
/// another repository of the registry by which an image of the store is called. The others are compressed into the
/// upload. An image of which every layer stays keeps its manifest, byte for byte.
///
/// # Errors
/// `NotFound`; `PermissionDenied` without the right credentials; `Unavailable` if the registry cannot be reached;
/// `InvalidArgument` for a name with a digest; `DataLoss` if a layer does not come out as it went in; `Cancelled`.
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

/// A form of a layer that a registry may have: compressed, as an image of the store came with it.
struct Form {
    descriptor: Value,
    /// The repository of the same registry that the image is called by.
    repository: Option<String>,
}

/// The forms of the layers of all images of the store: a base image came with what a build names by its content only.
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
            // A build names its layers by their content: no registry has that.
            if descriptor["digest"] != json!(diff_id) {
                forms.entry(*diff_id).or_default().push(Form { descriptor, repository: repository.clone() });
            }
        }
    }
    Ok(forms)
}

/// A layer that is in the registry now.
enum Sent {
    /// In a form that it had, by its descriptor.
    Kept(Value),
    /// Compressed anew.
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
            // Compressed as before, it is what the manifest names already.
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

    /// Brings one layer there.
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

    /// Takes the blob of that digest from another repository. If the registry cannot do that, it begins an upload,
    /// which `upload` then is.
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

    /// The manifest with other layers, which are OCI's, and so is it then.
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

/// A blob on its way into a registry.
struct Upload<'a> {
    client: &'a Client,
    /// Where the next piece goes.
    location: String,
    /// How many bytes the registry has.
    at: u64,
    piece: Vec<u8>,
    /// Whether the registry took the blob from another repository.
    is_mounted: bool,
}

impl<'a> Upload<'a> {
    /// Begins an upload, unless the registry can take the blob of that digest from that repository.
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

    /// Sends the piece, from the byte on that the registry lacks.
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

    /// Asks how much of the upload is there.
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

    /// Ends the upload of the blob with that digest.
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

/// Where an answer says that the upload goes on; `otherwise` if it does not say.
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

/// The error that a writer of uploads passed through.
fn own(error: io::Error) -> Error {
    error.downcast().unwrap_or_else(|error| Error::new(ErrorKind::Io, "write the upload").with_source(error))
}
