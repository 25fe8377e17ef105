//! A snapshotter that does nothing, behind containerd like strata. The time of a call is containerd's own work plus the
//! way into another process and back; no proxy plugin can take less.
//!
//! It stores only what containerd asks for again. Every mount shows one directory, so that mounting and writing work.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::proto::containerd::services::snapshots::v1::snapshots_server::{Snapshots, SnapshotsServer};
use crate::proto::containerd::services::snapshots::v1::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, ListSnapshotsResponse, MountsRequest,
    MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest, StatSnapshotRequest,
    StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest, UsageResponse,
    ViewSnapshotRequest, ViewSnapshotResponse,
};
use crate::proto::containerd::types::Mount;

/// A running plugin. Drop stops it and removes its socket, which would keep the file system busy.
pub struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking(), "the floor panicked");
    }
}

/// Serves at `socket` on a thread of its own; every mount shows `dir`.
pub fn serve(socket: &Path, dir: &Path) -> Serving {
    std::fs::create_dir_all(dir).expect("mkdir");
    let listener = std::os::unix::net::UnixListener::bind(socket).expect("bind");
    listener.set_nonblocking(true).expect("a socket that does not block");
    let floor = Floor { dir: dir.to_owned(), infos: Mutex::default() };
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let incoming = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener).expect("a listener"));
            let server = tonic::transport::Server::builder().add_service(SnapshotsServer::new(floor));
            tokio::select! {
                served = server.serve_with_incoming(incoming) => served.expect("serve"),
                _ = stopped => {}
            }
        });
    });
    Serving { stop: Some(stop), thread: Some(thread) }
}

/// The stored state: containerd asks for the name and the parent of every snapshot again.
struct Floor {
    dir: PathBuf,
    infos: Mutex<BTreeMap<String, Info>>,
}

impl Floor {
    fn mounts(&self) -> Vec<Mount> {
        vec![Mount {
            r#type: "bind".into(),
            source: self.dir.display().to_string(),
            target: String::new(),
            options: vec!["rbind".into(), "rw".into()],
        }]
    }

    fn infos(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Info>> {
        self.infos.lock().expect("nobody panics")
    }

    fn add(&self, kind: Kind, name: String, parent: String) {
        let info = Info { name: name.clone(), parent, kind: kind.into(), ..Info::default() };
        self.infos().insert(name, info);
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Snapshots for Floor {
    async fn prepare(&self, request: Request<PrepareSnapshotRequest>) -> Answer<PrepareSnapshotResponse> {
        let PrepareSnapshotRequest { key, parent, .. } = request.into_inner();
        self.add(Kind::Active, key, parent);
        Ok(Response::new(PrepareSnapshotResponse { mounts: self.mounts() }))
    }

    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Answer<ViewSnapshotResponse> {
        let ViewSnapshotRequest { key, parent, .. } = request.into_inner();
        self.add(Kind::View, key, parent);
        Ok(Response::new(ViewSnapshotResponse { mounts: self.mounts() }))
    }

    async fn mounts(&self, _: Request<MountsRequest>) -> Answer<MountsResponse> {
        Ok(Response::new(MountsResponse { mounts: self.mounts() }))
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Answer<()> {
        let CommitSnapshotRequest { name, key, .. } = request.into_inner();
        let active = self.infos().remove(&key).unwrap_or_default();
        self.add(Kind::Committed, name, active.parent);
        Ok(Response::new(()))
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Answer<()> {
        self.infos().remove(&request.into_inner().key);
        Ok(Response::new(()))
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Answer<StatSnapshotResponse> {
        let info = self.infos().get(&request.into_inner().key).cloned();
        let info = info.ok_or_else(|| Status::not_found("no such snapshot"))?;
        Ok(Response::new(StatSnapshotResponse { info: Some(info) }))
    }

    async fn update(&self, request: Request<UpdateSnapshotRequest>) -> Answer<UpdateSnapshotResponse> {
        Ok(Response::new(UpdateSnapshotResponse { info: request.into_inner().info }))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<ListSnapshotsResponse, Status>> + Send>>;

    async fn list(&self, _: Request<ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let info = self.infos().values().cloned().collect();
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(ListSnapshotsResponse { info })]))))
    }

    async fn usage(&self, _: Request<UsageRequest>) -> Answer<UsageResponse> {
        Ok(Response::new(UsageResponse::default()))
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Answer<()> {
        Ok(Response::new(()))
    }
}
