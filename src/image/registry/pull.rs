//! From a registry into a store.

use std::io::Read;
use std::sync::{Arc, OnceLock};

use ureq::http::{Method, header};

use super::blob::Downloads;
use super::http::{self, Call, Client};
use super::{Access, Connections, Reference, patiently};
use crate::changeset::pipeline::Blob;
use crate::error::{Error, Result};
use crate::id::Digest;
use crate::image::BlobDigest;
use crate::image::budget::Budget;
use crate::image::import::import_found;
use crate::image::resolve;
use crate::image::source::{ImageSource, reader_of};
use crate::image::{Found, Imported, Layer, Options, Progress};
use crate::oci::media_type::{INDEXES, MANIFESTS};
use crate::oci::{Descriptor, media_type_of};
use crate::task::Cancel;

/// Pulls the image of `reference` for this machine, or for the platform in `options`. Its name in the store is the name
/// in `options`, otherwise `reference`.
///
/// Layers that the store has are not downloaded. As with [`import`](crate::image::import), a layer is visible only
/// after it is verified, and a failed or cancelled pull leaves only finished layers.
///
/// # Errors
/// `NotFound` if the registry has no such image or tag, or none for the platform; `PermissionDenied` without the right
/// credentials, or for a certificate that no trusted authority has signed; `Unavailable` if the registry cannot be
/// reached; errors of [`import`](crate::image::import).
pub fn pull(
    store: &crate::store::Store,
    reference: &Reference,
    access: &Access,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Imported> {
    let cancel = &options.ingest.cancel;
    let pulling = |error: Error| error.context(format!("pulling {reference}"));
    let connections = Connections::new(reference, access, cancel).map_err(pulling)?;
    let (wanted, digest) = (reference.wanted(), reference.digest);
    let (client, top) = connections.first(cancel, move |client| top(client, &wanted, digest)).map_err(pulling)?;
    let (source, platform) = (
        Remote { client, top, cancel: cancel.clone(), downloads: OnceLock::new(), budget: Budget::default() },
        options.platform.clone(),
    );
    let find = move || {
        let found = resolve::image(&source, &source.top.0, platform.as_ref())?;
        found.check_platform(platform.as_ref())?;
        Ok((source, found))
    };
    let (source, found) = patiently(cancel, find).map_err(pulling)?;
    let found = Found { name: Some(reference.to_string()), ..found };
    import_found(store, &found, &source, options, progress)
}

/// Returns the manifest or index that the tag or digest `wanted` names, with its descriptor.
fn top(client: &Arc<Client>, wanted: &str, digest: Option<BlobDigest>) -> Result<(Descriptor, Vec<u8>)> {
    let answer = client.succeed(&manifest_call(client, wanted))?;
    let said = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let said = said.split(';').next().unwrap_or_default().trim().to_owned();
    let bytes = http::document(answer)?;
    let media_type = media_type_of(&bytes).unwrap_or(said);
    let found = digest.map_or_else(|| Digest::of(&bytes).into(), |digest| digest.like(&bytes));
    if let Some(digest) = digest.filter(|digest| *digest != found) {
        let host = client.host();
        return Err(Error::data_loss(format!("{host} answers with {found} when it is asked for {digest}")));
    }
    Ok((Descriptor::new(media_type, found, bytes.len() as u64), bytes))
}

fn manifest_call<'a>(client: &Client, wanted: &str) -> Call<'a> {
    let accept = INDEXES.iter().chain(&MANIFESTS).copied().collect::<Vec<_>>().join(", ");
    Call::new(Method::GET, client.url(&format!("manifests/{wanted}")), "pull").with(header::ACCEPT, accept)
}

/// An image of a registry.
struct Remote {
    client: Arc<Client>,
    /// The manifest or index of the image's name, which was read when the client was chosen.
    top: (Descriptor, Vec<u8>),
    cancel: Cancel,
    downloads: OnceLock<(Vec<usize>, Downloads)>,
    budget: Budget,
}

impl ImageSource for Remote {
    fn document_of(&self, entry: &Descriptor) -> Result<Vec<u8>> {
        let (top, bytes) = &self.top;
        if top.digest == entry.digest {
            return Ok(bytes.clone());
        }
        entry.check_length()?;
        self.budget.take(entry.size)?;
        let digest = entry.digest()?;
        let is_manifest = !entry.media_type.is_empty() && (entry.is_manifest() || entry.is_index());
        let call = if is_manifest {
            manifest_call(&self.client, &digest.to_string())
        } else {
            Call::new(Method::GET, self.client.url(&format!("blobs/{digest}")), "pull")
        };
        let bytes = self.client.succeed(&call).and_then(http::document);
        entry.verify(bytes.map_err(|error| error.context(format!("the document {digest}")))?)
    }

    fn prepare(&self, missing: &[&Layer]) -> Result<()> {
        let numbers = missing.iter().map(|layer| layer.number).collect();
        let downloads = Downloads::start(&self.client, missing, &self.cancel)?;
        let _ = self.downloads.set((numbers, downloads));
        Ok(())
    }

    fn open<'a>(&self, layer: &Layer, options: &Options) -> Result<Blob<'a>> {
        let (numbers, downloads) =
            self.downloads.get().ok_or_else(|| Error::data_loss("nobody said which layers are needed"))?;
        let place = numbers.iter().position(|number| *number == layer.number).unwrap_or_default();
        let queue = downloads.open(place, layer)?;
        let reader: Box<dyn Read + Send + 'a> = reader_of(layer, queue);
        options.ingest.detect(reader, format!("layer {}", layer.digest))
    }
}
