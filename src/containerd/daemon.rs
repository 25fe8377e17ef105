//! The daemon: serves a store on a socket until a signal asks it to stop.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

use super::connections::{self, Connection, Connections, GREETING, Patience};
use super::diff::Differ;
use super::metrics::{self, Address, Metrics};
use super::middleware::{self, MESSAGE_BYTES_MAX};
use super::proto::diff::diff_server::DiffServer;
use super::proto::snapshots::snapshots_server::SnapshotsServer;
use super::server::Service;
use super::socket;
use crate::door::IngestOptions;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::store::{LOCAL, Store};

/// Time that calls get to end once the daemon is asked to stop: less than supervisors wait before they kill.
const GRACE: Duration = Duration::from_secs(20);

/// Maximum number of calls of snapshots that run at once. They wait for the disk more than they compute, and a call
/// that copies a large tree must not make the others wait.
const CALLS_MAX: usize = 32;

/// Threads beside those of calls: for layers ([`super::diff`]), one for figures, and a few spare ones.
const OTHER_THREADS: usize = 8;

/// Maximum number of calls of one connection that are under way.
const CALLS_A_CONNECTION_MAX: u32 = 128;

/// Pause between two pings of a silent client, and the time that the client has to answer.
const ASK_SILENT: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(20);

/// Pause before the next attempt to free space that could not be freed.
const FREE_AGAIN: Duration = Duration::from_secs(60);

/// Pause after a removal before space is freed, because more removals often follow.
const GATHER: Duration = Duration::from_millis(50);

/// Time that the thread that frees space gets to end.
const LEAVE: Duration = Duration::from_millis(200);

/// Difference of the nice value of the thread that frees space to the daemon's.
const NICENESS: i32 = 10;

/// Pause if a connection cannot be accepted: descriptors may be used up.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Options of a daemon besides its store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Absolute path of the socket.
    pub socket: PathBuf,
    /// The socket of the containerd whose content store layers are read from and written to. Without it only snapshots
    /// are served.
    pub containerd: Option<PathBuf>,
    /// Address for Prometheus' figures.
    pub metrics: Option<Address>,
    /// If true, a commit under the name of a layer is refused unless strata's differ wrote the layer.
    pub strict: bool,
    /// Limits of layers that are applied.
    pub limits: IngestOptions,
}

/// Serves `store` until SIGTERM or SIGINT, and calls `ready` when clients can connect. The function takes over both
/// signals for the whole process. After the first signal the daemon takes no new calls. Calls under way have `GRACE` to
/// end, or until the second signal. Calls that have not ended by then end with the process, as by a crash, and the next
/// start recovers.
///
/// # Errors
/// `InvalidArgument` if the owner of the store is `local`, whose snapshots containerd would collect as garbage;
/// `FailedPrecondition` if another daemon serves this owner or this socket (the message names the process); errors of
/// opening the socket.
pub fn serve(store: Store, options: &Options, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    if store.owner() == LOCAL {
        return Err(Error::invalid(format!(
            "the owner {LOCAL:?} is the command line's: containerd removes every snapshot of an owner that it does not \
             know; choose another --owner"
        )));
    }
    let (pid, shown) = (std::process::id(), options.socket.display());
    let _daemon_lock = store.become_daemon(&format!("process {pid}, which listens at {shown}"))?;
    let (listener, _socket) = socket::listen(&options.socket)?;
    let (store, (freeable, removals)) = (Arc::new(store), sync_channel(1));
    let freeing = free(Arc::clone(&store), removals)?;
    let runtime = runtime()?;
    let served = runtime.block_on(run(store, options, listener, freeable, ready));
    // The daemon waits a moment for the work under way, so that the store is left in good order.
    runtime.shutdown_background();
    let _ = freeing.recv_timeout(LEAVE);
    served
}

fn runtime() -> Result<Runtime> {
    let threads = CALLS_MAX + OTHER_THREADS;
    let runtime = Builder::new_current_thread().max_blocking_threads(threads).enable_all().build();
    runtime.at("start the threads of", "the daemon")
}

async fn run(
    store: Arc<Store>,
    options: &Options,
    listener: UnixListener,
    freeable: SyncSender<()>,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut signals = Signals::watch()?;
    let metrics = Arc::new(Metrics::new());
    let service = Service::new(Arc::clone(&store), CALLS_MAX, freeable, &metrics).strict(options.strict);
    let service = SnapshotsServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let differ = Differ::new(Arc::clone(&store), options.containerd.as_deref(), &metrics)?;
    let differ = differ.within(options.limits.clone());
    let differ = DiffServer::new(differ).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<SnapshotsServer<Service>>().await;

    let _figures = match &options.metrics {
        Some(address) => metrics::serve(address, metrics, Arc::clone(&store)).await?,
        None => None,
    };
    let listener = tokio::net::UnixListener::from_std(listener).at("listen at", "the socket")?;
    let (accepted, incoming) = mpsc::channel(1);
    let connections = Connections::new(connections::callers_max(), Patience::ForFirstCall(GREETING));
    let accepting = tokio::spawn(accept(listener, connections, accepted));
    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    let routes = Routes::new(health).add_service(service).add_service(differ).into_axum_router();
    let routes = routes.layer(axum::middleware::from_fn(middleware::pass));
    let serving = Server::builder()
        .max_concurrent_streams(CALLS_A_CONNECTION_MAX)
        .http2_keepalive_interval(Some(ASK_SILENT))
        .http2_keepalive_timeout(Some(ANSWER))
        .add_routes(routes.into());
    let serving = serving.serve_with_incoming_shutdown(ReceiverStream::new(incoming), async move {
        stopped.notified().await;
    });
    let mut serving = std::pin::pin!(serving);
    ready()?;
    let done = tokio::select! {
        done = &mut serving => done,
        () = signals.next() => {
            tracing::info!("stopping");
            accepting.abort();
            stop.notify_one();
            tokio::select! {
                done = &mut serving => done,
                () = tokio::time::sleep(GRACE) => Ok(()),
                () = signals.next() => Ok(()),
            }
        }
    };
    done.map_err(|error| Error::new(ErrorKind::Io, "serving").with_source(error))
}

/// Signals that ask a daemon to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn watch() -> Result<Self> {
        let watch = |kind| signal(kind).at("watch for", "signals");
        Ok(Self { terminate: watch(SignalKind::terminate())?, interrupt: watch(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Takes connections of the daemon's own user and of root, and drops others.
async fn accept(
    listener: tokio::net::UnixListener,
    connections: Arc<Connections>,
    accepted: mpsc::Sender<io::Result<Connection<UnixStream>>>,
) {
    let own = rustix::process::geteuid().as_raw();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == own || peer.uid() == 0 => {}
            peer => {
                tracing::warn!(?peer, "a connection of another user was refused");
                continue;
            }
        }
        let Some(connection) = connections.admit(stream) else {
            tracing::warn!("a connection was refused: every other one has a call under way");
            continue;
        };
        if accepted.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}

/// Frees the space of removed snapshots, at the start and after each message of `removals`, on a thread of low
/// priority. The thread ends when all senders of `removals` are dropped; then the returned receiver is disconnected.
fn free(store: Arc<Store>, removals: Receiver<()>) -> Result<Receiver<()>> {
    let (running, ended) = channel();
    let work = move || {
        // If the priority cannot be lowered, other threads wait longer.
        let _ = rustix::process::nice(NICENESS);
        loop {
            match store.drain(None, None) {
                Ok(freed) if freed.snapshots > 0 => tracing::info!(snapshots = freed.snapshots, "space was freed"),
                Ok(_) => {}
                Err(error) => tracing::error!(why = error.chain(), "space could not be freed"),
            }
            // A pass begins without a message too: failed removals are tried again, and the command line removes
            // snapshots as well.
            if removals.recv_timeout(FREE_AGAIN) == Err(RecvTimeoutError::Disconnected) {
                break;
            }
            // A client that removes one snapshot often removes more: their space is freed together.
            thread::sleep(GATHER);
        }
        drop(store);
        drop(running);
    };
    thread::Builder::new().name("free".into()).spawn(work).at("start the thread that frees", "space")?;
    Ok(ended)
}
