//! The service `containerd.services.snapshots.v1.Snapshots` over a store.
//!
//! The field `snapshotter` of requests names the proxy plugin; a socket has one snapshotter, so it is not looked at.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use prost::Message as _;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::metrics::Metrics;
use super::pool::{Call, Pool};
use super::proto::snapshots::snapshots_server::Snapshots;
use super::proto::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info, ListSnapshotsRequest, ListSnapshotsResponse, MountsRequest,
    MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest, StatSnapshotRequest,
    StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest, UsageResponse,
    ViewSnapshotRequest, ViewSnapshotResponse,
};
use super::{convert, names};
use crate::error::{Error, ErrorKind, Result};
use crate::id::DiffId;
use crate::snapshotter::{Kind, Labels, Snapshotter};
use crate::store::{Judged, Store};

/// The most snapshots in one message of `List`.
const INFOS_MAX: usize = 100;

/// The most bytes in one message of `List`, but for a single snapshot: labels may be long, and a reader takes 16 MiB.
const INFOS_BYTES_MAX: usize = 1 << 20;

/// A store, served.
#[derive(Clone)]
pub(super) struct Service {
    store: Arc<Store>,
    /// If true, a commit under the name of a layer is refused unless strata's differ wrote the layer.
    strict: bool,
    pool: Pool,
    /// Threads that free space, apart from those of calls, because freeing can take long.
    cleanups: Pool,
    /// Gets a message when there may be space to free.
    freeable: SyncSender<()>,
}

impl Service {
    /// Serves `store` with at most `threads` calls at a time.
    pub fn new(store: Arc<Store>, threads: usize, freeable: SyncSender<()>, metrics: &Arc<Metrics>) -> Self {
        let (pool, cleanups) = (Pool::new(threads, metrics), Pool::new(1, metrics));
        Self { store, strict: false, pool, cleanups, freeable }
    }

    /// If `strict` is true, refuses commits under the name of a layer that strata's differ did not write.
    #[must_use]
    pub fn strict(self, strict: bool) -> Self {
        Self { strict, ..self }
    }

    /// Sends the message that there may be space to free, unless an earlier message has not been received yet.
    fn tell_freer(&self) {
        let _ = self.freeable.try_send(());
    }

    async fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        key: String,
        work: impl FnOnce(&Store, &str) -> Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let store = Arc::clone(&self.store);
        self.pool.run(Call::new(name, &key), move || work(&store, &key)).await
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Snapshots for Service {
    async fn prepare(&self, request: Request<PrepareSnapshotRequest>) -> Answer<PrepareSnapshotResponse> {
        let PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let prepare = move |on: &Store, key: &str| on.prepare(key, &parent, &convert::labels(labels)?);
        let mounts = self.run("Prepare", key, prepare).await?;
        Ok(Response::new(PrepareSnapshotResponse { mounts: convert::mounts(&mounts) }))
    }

    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Answer<ViewSnapshotResponse> {
        let ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let view = move |on: &Store, key: &str| on.view(key, &parent, &convert::labels(labels)?);
        let mounts = self.run("View", key, view).await?;
        Ok(Response::new(ViewSnapshotResponse { mounts: convert::mounts(&mounts) }))
    }

    async fn mounts(&self, request: Request<MountsRequest>) -> Answer<MountsResponse> {
        let mounts = self.run("Mounts", request.into_inner().key, |on, key| on.mounts(key)).await?;
        Ok(Response::new(MountsResponse { mounts: convert::mounts(&mounts) }))
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Answer<()> {
        let CommitSnapshotRequest { name, key, labels, parent, .. } = request.into_inner();
        let strict = self.strict;
        let commit = move |on: &Store, key: &str| {
            check_parent(on, &name, key, &parent)?;
            commit(on, &name, key, &convert::labels(labels)?, strict)
        };
        self.run("Commit", key, commit).await?;
        self.tell_freer();
        Ok(Response::new(()))
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Answer<()> {
        self.run("Remove", request.into_inner().key, |on, key| on.remove(key)).await?;
        self.tell_freer();
        Ok(Response::new(()))
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Answer<StatSnapshotResponse> {
        let info = self.run("Stat", request.into_inner().key, |on, key| on.stat(key)).await?;
        Ok(Response::new(StatSnapshotResponse { info: Some(convert::info(&info)) }))
    }

    async fn update(&self, request: Request<UpdateSnapshotRequest>) -> Answer<UpdateSnapshotResponse> {
        let UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let mut wanted = info.ok_or_else(|| Status::invalid_argument("the request does not say what to update"))?;
        let key = std::mem::take(&mut wanted.name);
        let update = move |on: &Store, key: &str| {
            convert::labels(wanted.labels.clone())?;
            let wanted = crate::snapshotter::Info { name: key.to_owned(), ..convert::info_of(wanted) };
            let paths = update_mask.map(|mask| mask.paths).unwrap_or_default();
            on.update(&wanted, &paths.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let info = self.run("Update", key, update).await?;
        Ok(Response::new(UpdateSnapshotResponse { info: Some(convert::info(&info)) }))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<ListSnapshotsResponse, Status>> + Send>>;

    async fn list(&self, request: Request<ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let ListSnapshotsRequest { filters, .. } = request.into_inner();
        let list = move |on: &Store, _: &str| {
            let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
            let mut messages = Messages::default();
            on.walk(&filters, &mut |info| {
                messages.push(convert::info(info));
                Ok(())
            })?;
            Ok(messages.messages)
        };
        let messages = self.run("List", String::new(), list).await?;
        Ok(Response::new(Box::pin(tokio_stream::iter(messages.into_iter().map(Ok)))))
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Answer<UsageResponse> {
        let usage = self.run("Usage", request.into_inner().key, |on, key| on.usage(key)).await?;
        Ok(Response::new(convert::usage(usage)))
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Answer<()> {
        let store = Arc::clone(&self.store);
        self.cleanups.run(Call::new("Cleanup", ""), move || store.cleanup()).await?;
        Ok(Response::new(()))
    }
}

/// Commits. A snapshot with the name of a layer is marked as unverified unless strata's differ wrote that layer into
/// it.
fn commit(store: &Store, name: &str, key: &str, labels: &Labels, strict: bool) -> Result<()> {
    let judge = |applied: Option<DiffId>, parent: Option<&str>| {
        let layer = applied.filter(|layer| names::says(*layer, name, parent));
        let unverified = layer.is_none() && names::is_layer(name);
        if unverified && strict {
            return Err(Error::precondition(format!(
                "cannot commit {key:?} as the layer {name:?}: another differ than strata's wrote it (strata serve --strict)"
            )));
        }
        Ok(Judged { layer, unverified })
    };
    if store.commit_judged(name, key, labels, &judge)?.unverified {
        tracing::warn!(name, "another differ than strata's wrote this layer: nothing says that it is right");
    }
    Ok(())
}

/// Refuses a commit onto another parent than that of `key`, after the checks that come first in containerd's order: the
/// changes in `key` are relative to its own parent.
fn check_parent(on: &dyn Snapshotter, name: &str, key: &str, parent: &str) -> Result<()> {
    if parent.is_empty() {
        return Ok(());
    }
    let active = on.stat(key)?;
    if active.parent == parent {
        return Ok(());
    }
    match on.stat(name) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => return other.and_then(|_| Err(Error::already_exists(format!("the name {name:?} is in use")))),
    }
    if active.kind != Kind::Active {
        return Err(Error::precondition(format!("cannot commit {key:?}: it is {}, not active", active.kind.phrase())));
    }
    Err(Error::invalid(format!(
        "cannot commit {key:?} onto {parent:?}, for it was prepared on {:?}: strata does not move a snapshot to another \
         parent, and its plugin entry must not say that it can (capability \"rebase\")",
        active.parent
    )))
}

/// The messages of a `List` under way.
#[derive(Default)]
struct Messages {
    messages: Vec<ListSnapshotsResponse>,
    /// The length of the last message.
    bytes: usize,
}

impl Messages {
    fn push(&mut self, info: Info) {
        let Self { messages, bytes } = self;
        let more = info.encoded_len();
        match messages.last_mut() {
            Some(last) if last.info.len() < INFOS_MAX && *bytes + more <= INFOS_BYTES_MAX => {
                *bytes += more;
                last.info.push(info);
            }
            _ => {
                *bytes = more;
                messages.push(ListSnapshotsResponse { info: vec![info] });
            }
        }
    }
}

#[cfg(test)]
mod tests;
