//! Figures for Prometheus: how many calls, how they ended, how long they took, what is under way, what the store holds.
//!
//! They are served by HTTP on a loopback address or a unix socket, so that nobody but the machine's own collector sees
//! them.
//!
//! | name | kind | labels |
//! |---|---|---|
//! | `strata_calls_total` | counter | `call`, `code` (`ok`, or the kind of error) |
//! | `strata_call_seconds` | histogram | `call` |
//! | `strata_calls_in_flight` | gauge | `call` |
//! | `strata_snapshots` | gauge | `kind` |
//! | `strata_trash_snapshots` | gauge | |
//! | `strata_trash_bytes` | gauge | |
//!
//! # References
//! OpenMetrics 1.0; Prometheus, "Metric and label naming".

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use super::connections::{Connections, Limited, Patience};
use super::socket::{self, Socket};
use crate::error::{Context, Error, Result};
use crate::id::Id;
use crate::snapshotter::Kind;
use crate::store::Store;

/// The bounds of the histogram, in seconds: from a look into the database to a copy of a large tree.
const BOUNDS_S: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0];

/// Media type of the answer: OpenMetrics, as text.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The most connections: every user of the machine can connect to a loopback address.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may last: as long as the longest scrape, also if it asks or reads slowly.
const CONNECTION: Duration = Duration::from_secs(60);

/// Where figures are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A port of the loopback interface.
    Loopback(SocketAddr),
    /// A unix socket, an absolute path.
    Socket(PathBuf),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with('/') {
            return Ok(Self::Socket(text.into()));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Loopback(address)),
            Ok(_) => Err(Error::invalid(format!("{text} is not of this machine alone: use 127.0.0.1 or a socket"))),
            Err(_) => Err(Error::invalid(format!("{text:?} is neither an address (127.0.0.1:9090) nor a path"))),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    call: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCall {
    call: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: String,
}

/// The figures of a daemon.
#[derive(Debug)]
pub(super) struct Metrics {
    calls: Family<Outcome, Counter>,
    seconds: Family<ByCall, Histogram, fn() -> Histogram>,
    in_flight: Family<ByCall, Gauge>,
    /// The snapshots in the trash, with the bytes that they took when they were first seen: each is walked once.
    trash: Mutex<BTreeMap<Id, u64>>,
}

impl Metrics {
    /// Nothing was called yet.
    pub fn new() -> Self {
        let seconds = Family::new_with_constructor((|| Histogram::new(BOUNDS_S)) as fn() -> Histogram);
        Self { calls: Family::default(), seconds, in_flight: Family::default(), trash: Mutex::default() }
    }

    /// Counts a call that came.
    pub fn begin(&self, call: &'static str) {
        self.in_flight.get_or_create(&ByCall { call }).inc();
    }

    /// Counts a call that ended with `code` after `time`.
    pub fn end(&self, call: &'static str, code: &'static str, time: Duration) {
        self.in_flight.get_or_create(&ByCall { call }).dec();
        self.calls.get_or_create(&Outcome { call, code }).inc();
        self.seconds.get_or_create(&ByCall { call }).observe(time.as_secs_f64());
    }

    /// The bytes of the removed snapshots `trash` of `store`. Those who ask at the same time take turns.
    fn trash_bytes(&self, store: &Store, trash: &[Id]) -> Result<u64> {
        let mut known = self.trash.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id, _| trash.contains(id));
        for id in trash {
            if !known.contains_key(id) {
                known.insert(*id, store.bytes_of_removed(*id)?);
            }
        }
        Ok(known.values().sum())
    }

    /// All figures, with those of `store` as of now.
    fn text(&self, store: &Store) -> Result<String> {
        let counts = store.counts()?;
        let snapshots = Family::<ByKind, Gauge>::default();
        let (trash, trash_bytes) = (Gauge::<i64>::default(), Gauge::<i64>::default());
        for kind in [Kind::View, Kind::Active, Kind::Committed] {
            let count = counts.snapshots.get(&kind).copied().unwrap_or_default();
            snapshots.get_or_create(&ByKind { kind: kind.to_string() }).set(gauge(count));
        }
        trash.set(gauge(counts.trash.len() as u64));
        trash_bytes.set(gauge(self.trash_bytes(store, &counts.trash)?));
        let mut registry = Registry::with_prefix("strata");
        registry.register("calls", "Calls that ended, by how", self.calls.clone());
        registry.register("call_seconds", "How long calls took", self.seconds.clone());
        registry.register("calls_in_flight", "Calls under way or waiting", self.in_flight.clone());
        registry.register("snapshots", "Snapshots of this owner", snapshots);
        registry.register("trash_snapshots", "Removed snapshots whose space is not free yet", trash);
        registry.register("trash_bytes", "What those took when they were removed", trash_bytes);
        let mut said = String::new();
        text::encode(&mut said, &registry).map_err(|error| Error::data_loss("writing figures").with_source(error))?;
        Ok(said)
    }
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Serves the figures at `address` until the runtime ends. What it answers removes the socket when it is dropped.
///
/// # Errors
/// Errors of opening the address.
pub(super) async fn serve(address: &Address, metrics: Arc<Metrics>, store: Arc<Store>) -> Result<Option<Socket>> {
    let turns = Arc::new(Semaphore::new(1));
    let answer = move || {
        let (metrics, store, turns) = (Arc::clone(&metrics), Arc::clone(&store), Arc::clone(&turns));
        async move {
            // One at a time: those that wait for a walk through the trash would have the threads that calls need.
            let Ok(turn) = turns.acquire_owned().await else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
            let said = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                metrics.text(&store)
            });
            respond(said.await)
        }
    };
    let router = Router::new().route("/metrics", get(answer));
    let connections = Connections::new(CONNECTIONS_MAX, Patience::InAll(CONNECTION));
    match address {
        Address::Loopback(address) => {
            let listener =
                tokio::net::TcpListener::bind(address).await.at("listen for Prometheus at", address.to_string())?;
            tokio::spawn(axum::serve(Limited { listener, connections }, router).into_future());
            Ok(None)
        }
        Address::Socket(path) => {
            let (listener, socket) = socket::listen(path)?;
            let listener = tokio::net::UnixListener::from_std(listener).at("listen for Prometheus at", path)?;
            tokio::spawn(axum::serve(Limited { listener, connections }, router).into_future());
            Ok(Some(socket))
        }
    }
}

fn respond(said: Result<Result<String>, tokio::task::JoinError>) -> Response {
    match said {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.chain()).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_this_machine() {
        assert!(matches!("127.0.0.1:9090".parse(), Ok(Address::Loopback(_))));
        assert!(matches!("[::1]:9090".parse(), Ok(Address::Loopback(_))));
        assert_eq!("/run/m".parse::<Address>().expect("a path"), Address::Socket("/run/m".into()));
        for wrong in ["0.0.0.0:9090", "192.0.2.1:80", "localhost", "", "run/m"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
