//! A snapshotter behind a socket: strata's own daemon, any other proxy plugin, or one that is built into containerd.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::convert;
use super::proto::snapshots::snapshots_client::SnapshotsClient;
use super::proto::snapshots::{
    CleanupRequest, CommitSnapshotRequest, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest, ViewSnapshotRequest,
};
use crate::backend::Usage;
use crate::changeset::apply::{Applied, Applier};
use crate::changeset::{Candidates, Sink, diff};
use crate::error::{Context, Error, Result};
use crate::mount::{self, Mount};
use crate::snapshotter::{Info, Kind, Labels, Snapshotter};
use crate::tree::Dir;

/// How long a connection may take. Calls have no limit: a copy of a large tree takes its time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest message that is read: what containerd's own clients take.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The label that keeps a snapshot from containerd's garbage collector.
const GC_ROOT: &str = "containerd.io/gc.root";

/// Which snapshotter behind a socket.
#[derive(Clone, Debug, Default)]
pub struct Plugin {
    /// Its name among containerd's plugins; empty on the socket of a proxy plugin itself.
    pub name: String,
    /// The namespace of containerd in which its snapshots are; empty on the socket of a proxy plugin itself.
    pub namespace: String,
}

/// A snapshotter behind a socket.
///
/// Its mounts are made by this process, so it must be on the same machine, and see the same directories. `changes` and
/// `apply` are done here, on what is mounted; a committed snapshot is seen by a view that goes again.
///
/// Its methods wait, and must not be called from asynchronous code.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    stub: SnapshotsClient<InterceptedService<Channel, Headers>>,
    plugin: Plugin,
}

/// The headers of every request.
#[derive(Clone, Debug)]
struct Headers(Option<MetadataValue<Ascii>>);

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(namespace) = &self.0 {
            request.metadata_mut().insert("containerd-namespace", namespace.clone());
        }
        Ok(request)
    }
}

impl Client {
    /// Connects to `plugin` behind the socket at `path`.
    ///
    /// # Errors
    /// `Unavailable` if nobody listens there; `InvalidArgument` for a namespace that is no header.
    pub fn connect(path: &Path, plugin: Plugin) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.at("start the thread of a client of", path)?;
        let wrong = |what: &str| Error::invalid(format!("{what} of {} cannot be used", path.display()));
        let namespace = match plugin.namespace.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|error| wrong("the namespace").with_source(error))?),
        };
        let address = format!("unix://{}", path.display());
        let endpoint = Endpoint::from_shared(address).map_err(|error| wrong("the address").with_source(error))?;
        let channel = runtime.block_on(endpoint.connect_timeout(CONNECT_TIMEOUT).connect()).map_err(|error| {
            let message = format!("nobody serves at {}: is the daemon running?", path.display());
            Error::new(crate::ErrorKind::Unavailable, message).with_source(error)
        })?;
        let stub =
            SnapshotsClient::with_interceptor(channel, Headers(namespace)).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { runtime, stub, plugin })
    }

    fn stub(&self) -> SnapshotsClient<InterceptedService<Channel, Headers>> {
        self.stub.clone()
    }

    fn name(&self) -> String {
        self.plugin.name.clone()
    }

    /// Waits for the answer to a call.
    fn wait<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T> {
        self.runtime.block_on(call).map(Response::into_inner).map_err(|status| convert::error(&status))
    }

    /// Does `work` with what `key` shows, mounted nowhere. A view of what is committed stays until then: btrfs takes
    /// what a mount shows away with its snapshot.
    fn look(&self, key: &str, work: &mut dyn FnMut(&Dir) -> Result<()>) -> Result<()> {
        let open = |mounts: &[Mount]| mount::detached(mounts).map(|mount| Dir::from_fd(mount, key));
        if self.stat(key)?.kind != Kind::Committed {
            return work(&open(&self.mounts(key)?)?);
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let view = format!("strata-view-{}-{number} {key}", std::process::id());
        let mounts = self.view(&view, key, &[(GC_ROOT.to_owned(), "strata".to_owned())].into())?;
        let done = open(&mounts).and_then(|dir| work(&dir));
        // The error to report is the first one.
        done.and(self.remove(&view))
    }
}

impl Snapshotter for Client {
    fn stat(&self, key: &str) -> Result<Info> {
        let request = StatSnapshotRequest { snapshotter: self.name(), key: key.to_owned() };
        let answer = self.wait(self.stub().stat(request))?;
        Ok(convert::info_of(answer.info.unwrap_or_default()))
    }

    fn update(&self, info: &Info, fieldpaths: &[&str]) -> Result<Info> {
        let paths = fieldpaths.iter().map(|path| (*path).to_owned()).collect();
        let request = UpdateSnapshotRequest {
            snapshotter: self.name(),
            info: Some(convert::info(info)),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let answer = self.wait(self.stub().update(request))?;
        Ok(convert::info_of(answer.info.unwrap_or_default()))
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        let request = UsageRequest { snapshotter: self.name(), key: key.to_owned() };
        self.wait(self.stub().usage(request)).map(convert::usage_of)
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let request = MountsRequest { snapshotter: self.name(), key: key.to_owned() };
        convert::mounts_of(self.wait(self.stub().mounts(request))?.mounts)
    }

    fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        let (key, parent, labels) = (key.to_owned(), parent.to_owned(), labels.clone().into_iter().collect());
        let request = PrepareSnapshotRequest { snapshotter: self.name(), key, parent, labels };
        convert::mounts_of(self.wait(self.stub().prepare(request))?.mounts)
    }

    fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>> {
        let (key, parent, labels) = (key.to_owned(), parent.to_owned(), labels.clone().into_iter().collect());
        let request = ViewSnapshotRequest { snapshotter: self.name(), key, parent, labels };
        convert::mounts_of(self.wait(self.stub().view(request))?.mounts)
    }

    fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<()> {
        let (name, key, labels) = (name.to_owned(), key.to_owned(), labels.clone().into_iter().collect());
        let parent = String::new();
        let request = CommitSnapshotRequest { snapshotter: self.name(), name, key, labels, parent };
        self.wait(self.stub().commit(request))
    }

    fn remove(&self, key: &str) -> Result<()> {
        let request = RemoveSnapshotRequest { snapshotter: self.name(), key: key.to_owned() };
        self.wait(self.stub().remove(request))
    }

    fn walk(&self, filters: &[&str], visit: &mut dyn FnMut(&Info) -> Result<()>) -> Result<()> {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = ListSnapshotsRequest { snapshotter: self.name(), filters };
        let mut stream = self.wait(self.stub().list(request))?;
        let mut next = || self.runtime.block_on(stream.message()).map_err(|status| convert::error(&status));
        while let Some(message) = next()? {
            message.info.into_iter().map(convert::info_of).try_for_each(|info| visit(&info))?;
        }
        Ok(())
    }

    fn cleanup(&self) -> Result<()> {
        self.wait(self.stub().cleanup(CleanupRequest { snapshotter: self.name() }))
    }

    fn changes(&self, key: &str, base: Option<&str>, sink: &mut dyn Sink) -> Result<()> {
        let base = match base {
            Some(base) => base.to_owned(),
            None => self.stat(key)?.parent,
        };
        self.look(key, &mut |new| match base.as_str() {
            "" => diff::diff(None, new, Candidates::All, sink),
            base => self.look(base, &mut |old| diff::diff(Some(old), new, Candidates::All, sink)),
        })
    }

    fn apply(&self, key: &str, produce: &mut dyn FnMut(&mut dyn Sink) -> Result<()>) -> Result<Applied> {
        let kind = self.stat(key)?.kind;
        if kind != Kind::Active {
            let kind = kind.phrase();
            return Err(Error::precondition(format!("cannot apply to {key:?}: it is {kind}, not active")));
        }
        let mounted = mount::detached(&self.mounts(key)?)?;
        let mut applier = Applier::new(Dir::from_fd(mounted, key));
        produce(&mut applier)?;
        applier.finish()
    }
}
