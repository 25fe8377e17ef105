//! Connections of clients: how many there are, and how long one may keep its place without a call.
//!
//! A client can open connections as fast as it likes, and say nothing or half a request. Each costs a descriptor, which
//! calls need for the files that they open. So there are at most so many connections. For one more, that connection is
//! ended which has no call under way and was silent longest, first among those that never made a call. A client that
//! keeps to the protocol connects again.
//!
//! # References
//! `getrlimit(2)` (`RLIMIT_NOFILE`).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tonic::transport::server::Connected;

/// The most connections to the socket of calls: containerd has one, and each command of `ctr` one more.
const CALLERS_MAX: usize = 256;

/// The fewest, also where descriptors are scarce.
const CALLERS_MIN: usize = 16;

/// Descriptors that the daemon asks for: what 32 calls can have open at once, some hundred each, several times.
const DESCRIPTORS: u64 = 16_384;

/// Descriptors that connections leave to calls at least.
const DESCRIPTORS_FOR_CALLS: u64 = 256;

/// How long the first complete request of a connection may take.
pub(super) const GREETING: Duration = Duration::from_secs(10);

/// Takes as many descriptors as the daemon is allowed and can use, and tells how many connections it may have.
pub(super) fn callers_max() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let have = limit.current.unwrap_or(DESCRIPTORS);
    let wanted = limit.maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS);
    let more = Rlimit { current: Some(wanted), maximum: limit.maximum };
    let have = if have < wanted && setrlimit(Resource::Nofile, more).is_ok() { wanted } else { have };
    let spare = usize::try_from(have.saturating_sub(DESCRIPTORS_FOR_CALLS) / 2).unwrap_or(CALLERS_MAX);
    spare.clamp(CALLERS_MIN, CALLERS_MAX)
}

/// How long a connection may last.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    /// So long without a call; as long as it likes after its first one.
    ForFirstCall(Duration),
    /// So long in all.
    InAll(Duration),
}

/// The connections of one socket.
#[derive(Debug)]
pub(super) struct Connections {
    places: Mutex<Vec<Arc<ConnectionState>>>,
    max: usize,
    patience: Patience,
}

/// The state of one connection.
#[derive(Debug)]
struct ConnectionState {
    /// When bytes came or went last.
    active: Mutex<Instant>,
    /// Calls under way.
    calls: AtomicUsize,
    /// Whether a call was made.
    called: AtomicBool,
    /// Told when the connection has to end.
    leave: Notify,
}

impl ConnectionState {
    fn active(&self) -> MutexGuard<'_, Instant> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    /// At most `max` connections.
    pub(super) fn new(max: usize, patience: Patience) -> Arc<Self> {
        Arc::new(Self { places: Mutex::default(), max, patience })
    }

    fn places(&self) -> MutexGuard<'_, Vec<Arc<ConnectionState>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `stream` a place, and ends another connection for it if there is none left. `None` if each of the others
    /// has a call under way.
    pub(super) fn admit<S>(self: &Arc<Self>, stream: S) -> Option<Connection<S>> {
        let mut places = self.places();
        if places.len() >= self.max {
            let idle = |place: &Arc<ConnectionState>| place.calls.load(Ordering::Relaxed) == 0;
            let longest = |place: &Arc<ConnectionState>| (place.called.load(Ordering::Relaxed), *place.active());
            let silent =
                places.iter().enumerate().filter(|(_, place)| idle(place)).min_by_key(|(_, place)| longest(place));
            let silent = silent.map(|(at, _)| at)?;
            places.swap_remove(silent).leave.notify_one();
        }
        let place = Arc::new(ConnectionState {
            active: Mutex::new(Instant::now()),
            calls: AtomicUsize::new(0),
            called: AtomicBool::new(false),
            leave: Notify::new(),
        });
        places.push(Arc::clone(&place));
        let end = Box::pin(end(Arc::clone(&place), self.patience));
        Some(Connection { stream, place, connections: Arc::clone(self), end, has_ended: false })
    }
}

/// Ready when the connection has to end.
async fn end(place: Arc<ConnectionState>, patience: Patience) {
    let out_of_patience = async {
        match patience {
            Patience::InAll(limit) => tokio::time::sleep(limit).await,
            Patience::ForFirstCall(limit) => {
                tokio::time::sleep(limit).await;
                if place.called.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            }
        }
    };
    tokio::select! {
        () = place.leave.notified() => {}
        () = out_of_patience => {}
    }
}

/// A connection that has a place. Every read and write fails once it has to end.
pub(super) struct Connection<S> {
    stream: S,
    place: Arc<ConnectionState>,
    connections: Arc<Connections>,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    has_ended: bool,
}

impl<S> Connection<S> {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.has_ended |= !self.has_ended && self.end.as_mut().poll(context).is_ready();
        if self.has_ended { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Notes that bytes came or went.
    fn moved<T>(&self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(done, Poll::Ready(Ok(_))) {
            *self.place.active() = Instant::now();
        }
        done
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        self.connections.places().retain(|place| !Arc::ptr_eq(place, &self.place));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.moved(done)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.moved(done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The connection that a request came by.
#[derive(Clone, Debug)]
pub(super) struct Caller(Arc<ConnectionState>);

impl Caller {
    /// A call has begun, and ends when the value is dropped.
    pub(super) fn begin(&self) -> UnderWay {
        self.0.called.store(true, Ordering::Relaxed);
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(&self.0))
    }
}

/// A call that keeps its connection.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<ConnectionState>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller(Arc::clone(&self.place))
    }
}

/// A listener for [`axum::serve`] whose connections have places.
pub(super) struct Limited<L> {
    pub(super) listener: L,
    pub(super) connections: Arc<Connections>,
}

impl<L: axum::serve::Listener> axum::serve::Listener for Limited<L> {
    type Io = Connection<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await;
            if let Some(connection) = self.connections.admit(stream) {
                return (connection, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;
    use tokio::runtime::Builder;

    use super::*;

    /// Longer than a test takes.
    const HOUR: Duration = Duration::from_secs(3600);

    fn admit(connections: &Arc<Connections>) -> Option<(Connection<UnixStream>, UnixStream)> {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        connections.admit(ours).map(|connection| (connection, theirs))
    }

    /// Waits until a connection has to end.
    async fn ended(connection: &mut Connection<UnixStream>) {
        let mut bytes = [0];
        let read = std::future::poll_fn(|context| {
            Pin::new(&mut *connection).poll_read(context, &mut ReadBuf::new(&mut bytes))
        });
        assert_eq!(read.await.expect_err("nothing is written").kind(), io::ErrorKind::ConnectionAborted);
    }

    /// One that never called goes first, then the one that was silent longest, and none with a call under way.
    #[test]
    fn the_silent_make_room() {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let connections = Connections::new(2, Patience::ForFirstCall(HOUR));
            let (mut first, _one) = admit(&connections).expect("a place");
            let call = first.connect_info().begin();
            let (mut second, _two) = admit(&connections).expect("a place");
            drop(second.connect_info().begin());
            let (mut third, _three) = admit(&connections).expect("that of the second");
            ended(&mut second).await;
            let fourth = admit(&connections).expect("that of the third");
            ended(&mut third).await;
            let _busy = fourth.0.connect_info().begin();
            assert!(admit(&connections).is_none(), "all are at work");
            drop(call);
            let _fifth = admit(&connections).expect("that of the first");
            ended(&mut first).await;
            drop((first, second, third));
            assert_eq!(connections.places().len(), 2, "those that ended have no place");
        });
    }

    #[test]
    fn patience_ends() {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let short = Duration::from_millis(20);
            let connections = Connections::new(9, Patience::ForFirstCall(short));
            let (mut silent, _one) = admit(&connections).expect("a place");
            let (mut caller, _two) = admit(&connections).expect("a place");
            drop(caller.connect_info().begin());
            ended(&mut silent).await;
            let kept = tokio::time::timeout(5 * short, ended(&mut caller)).await;
            assert!(kept.is_err(), "it may be silent after a call");
            let connections = Connections::new(9, Patience::InAll(short));
            let (mut scraper, _three) = admit(&connections).expect("a place");
            drop(scraper.connect_info().begin());
            ended(&mut scraper).await;
        });
    }
}
