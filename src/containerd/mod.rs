//! strata as a snapshotter of containerd, and any snapshotter of containerd as a [`crate::Snapshotter`].
//!
//! containerd reaches a snapshotter of another process by a *proxy plugin*: a unix socket on which
//! `containerd.services.snapshots.v1.Snapshots` is served. [`serve`] serves a store there; [`Client`] speaks to such a
//! socket, or to containerd's own, and is itself a snapshotter.
//!
//! ```text
//! containerd -- gRPC --> Service -- threads --> Store      Client: &dyn Snapshotter <-- gRPC
//! ```
//!
//! Beside it, on the same socket, stands the service of containerd's differs: layers by strata's own rules.
//!
//! # Invariants
//! - The core stays synchronous: this module alone knows tokio and tonic. Every call runs on a thread that may block,
//!   and there is a bound to those.
//! - A call of snapshots that was begun runs to its end, whatever becomes of its caller: what is half done would only
//!   have to be cleared up. One that still waits for a thread goes with its caller, and so does the work on a layer.
//! - Nothing of a request is trusted: keys are checked by the store, labels here, and only the user who runs the
//!   daemon, and root, may connect.
//!
//! # References
//! containerd, `docs/PLUGINS.md` (proxy plugins), `api/services/snapshots/v1/snapshots.proto`,
//! `contrib/snapshotservice`; gRPC, `doc/statuscodes.md`.

mod client;
mod connections;
mod content;
mod convert;
mod daemon;
mod diff;
pub mod inspect;
mod metrics;
mod middleware;
mod mounted;
mod names;
pub mod plugin_config;
mod pool;
mod proto;
mod server;
mod settings;
mod socket;
#[cfg(test)]
mod strangers;

pub use client::{Client, Plugin};
pub use daemon::{Options, serve};
pub use metrics::Address;
