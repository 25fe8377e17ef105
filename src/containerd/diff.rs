//! The service `containerd.services.diff.v1.Diff`: layers by strata's own rules, from and into containerd's content
//! store.
//!
//! A request names snapshots by their mounts, which clients spell in their own ways: [`super::mounted`] finds the
//! snapshots. containerd asks its next differ after `Unimplemented` only. So that is the answer for mounts of other
//! snapshotters, and never for those of strata: another differ would write into the store by rules of its own.
//!
//! A layer is on disk before the answer to Apply, since containerd commits inside a transaction of its own database.
//!
//! # References
//! containerd, `api/services/diff/v1/diff.proto`, `core/diff/{apply,walking}`; OCI image specification, `layer.md`.

use std::path::Path;
use std::sync::Arc;

use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::content::{self, ContentStore};
use super::metrics::Metrics;
use super::pool::{Call, Pool};
use super::proto::diff::diff_server::Diff;
use super::proto::diff::{ApplyRequest, ApplyResponse, DiffRequest, DiffResponse};
use super::proto::types::{Descriptor, Mount};
use super::{convert, mounted};
use crate::changeset::blob::{Blob, Compression};
use crate::door::{EmitOptions, emit};
use crate::door::{Expected, Filled, IngestOptions, Record, ingest};
use crate::error::{Error, ErrorKind, Result};
use crate::id::unique_key;
use crate::oci::media_type::{self, OCI_LAYER};
use crate::store::Store;
use crate::task::Cancel;

/// How many layers are read or written at once: each keeps a processor busy, and memory for its buffers.
const LAYERS_MAX: usize = 4;

/// Default compression of a new layer, the same as containerd's.
const DEFAULT: Compression = Compression::Gzip;

/// A store's layers, served.
#[derive(Clone, Debug)]
pub(super) struct Differ {
    store: Arc<Store>,
    /// Where blobs are; without it, nothing can be done.
    containerd: Option<Channel>,
    /// Limits of layers that are applied.
    limits: IngestOptions,
    pool: Pool,
}

impl Differ {
    /// Serves the layers of `store`, with blobs in the content store of the containerd that listens at `containerd`.
    /// Call it within a runtime.
    pub fn new(store: Arc<Store>, containerd: Option<&Path>, metrics: &Arc<Metrics>) -> Result<Self> {
        let containerd = containerd.map(content::connect).transpose()?;
        Ok(Self { store, containerd, limits: IngestOptions::default(), pool: Pool::new(LAYERS_MAX, metrics) })
    }

    /// The same with other limits.
    pub fn within(self, limits: IngestOptions) -> Self {
        Self { limits, ..self }
    }

    /// The content store for a call with `headers`, if the daemon knows one.
    fn content(&self, headers: &MetadataMap) -> Option<ContentStore> {
        self.containerd.as_ref().map(|channel| ContentStore::new(channel, headers))
    }
}

#[tonic::async_trait]
impl Diff for Differ {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let content = self.content(request.metadata());
        let ApplyRequest { diff, mounts, .. } = request.into_inner();
        let layer = diff.ok_or_else(|| Status::invalid_argument("the request does not say what to apply"))?;
        let (store, cancel) = (Arc::clone(&self.store), Cancel::default());
        let _guard = cancel.on_drop();
        let options = IngestOptions { cancel, ..self.limits.clone() };
        let call = Call::new("Apply", &layer.digest);
        let applied = self
            .pool
            .run(call, move || {
                let key = mounted::written(&store, &mounts)?.name;
                apply(&store, content, &layer, &key, &options).map_err(for_nobody_else)
            })
            .await?;
        Ok(Response::new(ApplyResponse { applied: Some(applied) }))
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        let content = self.content(request.metadata());
        let request = request.into_inner();
        let (store, cancel) = (Arc::clone(&self.store), Cancel::default());
        let _guard = cancel.on_drop();
        let call = Call::new("Diff", &request.r#ref);
        let made = self
            .pool
            .run(call, move || {
                let (base, key) = sides(&store, &request.left, &request.right)?;
                diff(&store, content, request, &base, &key, &cancel).map_err(for_nobody_else)
            })
            .await?;
        Ok(Response::new(DiffResponse { diff: Some(made) }))
    }
}

/// An error about snapshots of strata, by a code that keeps other differs from them.
fn for_nobody_else(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unsupported => {
            Error::precondition("strata cannot do this, and no other differ may").with_source(error)
        }
        _ => error,
    }
}

/// The content store as the owner of the snapshot `key` sees it.
fn seen_by(content: Option<ContentStore>, key: &str) -> Result<ContentStore> {
    let missing = || Error::precondition("strata serve was not told where containerd is: add --containerd ADDRESS");
    content.ok_or_else(missing)?.seen_by(key)
}

fn apply(
    store: &Store,
    content: Option<ContentStore>,
    layer: &Descriptor,
    key: &str,
    options: &IngestOptions,
) -> Result<Descriptor> {
    media_type::compression_of(&layer.media_type)?;
    let content = seen_by(content, key)?;
    let open = || options.detect(content.read(&layer.digest, &options.cancel)?, format!("layer {}", layer.digest));
    // Digests of other algorithms are left to containerd, which checked the blob when it got it.
    let expected = Expected { blob: layer.digest.parse().ok(), diff_id: None };
    let Filled { verified, applied } = ingest::fill(store, key, open, &expected, Record::TarSplit, options)?;
    if applied.skipped_devices + applied.clamped_times + applied.dropped_xattrs > 0 {
        tracing::warn!(key, ?applied, "a layer has what cannot be kept here");
    }
    Ok(Descriptor {
        media_type: OCI_LAYER.to_owned(),
        digest: verified.diff_id.to_string(),
        size: i64::try_from(verified.plain_bytes).unwrap_or(i64::MAX),
        annotations: layer.annotations.clone(),
    })
}

/// The names of the snapshots that a layer is the difference of: what it is compared with (nothing for no mounts, as
/// containerd's own differ has it), and what it holds.
fn sides(store: &Store, left: &[Mount], right: &[Mount]) -> Result<(String, String)> {
    let name = |mounts| mounted::shown(store, mounts).map(|info| info.name);
    let (base, key) = (if left.is_empty() { Ok(String::new()) } else { name(left) }, name(right));
    match (base, key) {
        (Ok(base), Ok(key)) => Ok((base, key)),
        // Another differ takes both sides or none.
        (Err(base), Err(key)) if [&base, &key].iter().all(|error| error.kind() == ErrorKind::Unsupported) => Err(key),
        (Ok(base), Err(error)) if base.is_empty() => Err(error),
        (Err(error), _) | (_, Err(error)) => Err(for_nobody_else(error)),
    }
}

fn diff(
    store: &Store,
    content: Option<ContentStore>,
    request: DiffRequest,
    base: &str,
    key: &str,
    cancel: &Cancel,
) -> Result<Descriptor> {
    let DiffRequest { media_type, r#ref: mut reference, labels, source_date_epoch, .. } = request;
    let media_type = if media_type.is_empty() { media_type::of_layer(DEFAULT) } else { media_type };
    let compression = media_type::compression_of(&media_type)?;
    let content = seen_by(content, key)?;
    if reference.is_empty() {
        reference = unique_key(content::PURPOSE);
    }
    let options = EmitOptions {
        base: Some(base),
        compression,
        epoch: source_date_epoch.map(convert::timestamp_of),
        cancel: cancel.clone(),
        ..EmitOptions::default()
    };
    let mut writer = content.write(&reference)?;
    let Blob { digest, diff_id, .. } = emit(store, key, &options, &mut writer)?;
    content.commit(writer, &media_type, digest, diff_id, labels)
}

#[cfg(test)]
mod tests;
