//! Images from registries and into them.
//!
//! [`pull`] streams each blob from the socket into unpacking; [`push`] compresses layers into the upload. Neither
//! writes a blob to disk.
//!
//! # References
//! OCI distribution specification 1.1; docker's HTTP API V2.

mod agent;
mod blob;
mod credentials;
mod hosts;
mod http;
mod pull;
mod push;
mod reference;
#[cfg(test)]
mod strangers;

pub use hosts::HostSettings;
pub use pull::pull;
pub use push::{Pushed, push};
pub use reference::Reference;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use ureq::http::Method;

use self::credentials::Credentials;
use self::http::{Call, Client};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::task::Cancel;

/// Time between two looks at the cancellation, while a caller waits for an answer.
const POLL: Duration = Duration::from_millis(50);

/// Settings for reaching registries: endpoints, credentials, certificates, proxies. The command line takes them from
/// the machine's settings.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Settings of registries.
    pub hosts: HostSettings,
    /// Files with credentials. The first file with credentials for a registry is used.
    pub credentials: Vec<PathBuf>,
    /// Files of certificates to trust, instead of the machine's.
    pub authorities: Vec<PathBuf>,
    /// Address of the proxy for HTTPS.
    pub https_proxy: Option<String>,
    /// Address of the proxy for HTTP.
    pub http_proxy: Option<String>,
    /// Hosts that are asked without a proxy, separated by commas.
    pub no_proxy: Option<String>,
}

/// The clients for one image, one for each endpoint. Drop makes their requests stop.
struct Connections {
    clients: Vec<Arc<Client>>,
    abandoned: Cancel,
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.abandoned.request();
    }
}

impl Connections {
    fn new(reference: &Reference, access: &Access, cancel: &Cancel) -> Result<Self> {
        let credentials = credentials::find(reference, &access.credentials)?;
        Self::with(reference, access, cancel, credentials)
    }

    fn with(reference: &Reference, access: &Access, cancel: &Cancel, credentials: Option<Credentials>) -> Result<Self> {
        let abandoned = Cancel::default();
        let client = |endpoint: hosts::Endpoint| {
            // A mirror does not get the credentials of the registry.
            let is_own = endpoint.takes_pushes;
            let credentials = credentials.clone().filter(|_| is_own);
            Client::new(endpoint, access, credentials, [cancel.clone(), abandoned.clone()]).map(Arc::new)
        };
        let endpoints = hosts::endpoints(reference, &access.hosts)?;
        let clients = endpoints.into_iter().map(client).collect::<Result<_>>()?;
        Ok(Self { clients, abandoned })
    }

    /// Returns the first answer and its client. Without an answer, returns the error that tells most: the last one that
    /// is not `Unavailable`, else the first.
    fn first<T: Send + 'static>(
        &self,
        cancel: &Cancel,
        ask: impl Fn(&Arc<Client>) -> Result<T> + Send + Sync + 'static,
    ) -> Result<(Arc<Client>, T)> {
        let clients = self.clients.clone();
        patiently(cancel, move || {
            let mut failed: Option<(&str, Error)> = None;
            for client in &clients {
                let is_done =
                    |(host, why): &(&str, Error)| *host == client.host() && why.kind() != ErrorKind::Unavailable;
                // If HTTPS of a host answers, or has a wrong certificate, plain HTTP of the same host is not tried.
                if failed.as_ref().is_some_and(is_done) {
                    continue;
                }
                match ask(client) {
                    Ok(answer) => return Ok((Arc::clone(client), answer)),
                    Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                    Err(error) if failed.is_none() || error.kind() != ErrorKind::Unavailable => {
                        failed = Some((client.host(), error));
                    }
                    Err(_) => {}
                }
            }
            let none = || Error::new(ErrorKind::FailedPrecondition, "the settings name no place to ask");
            Err(failed.map_or_else(none, |(_, why)| why))
        })
    }
}

/// Runs `work` on a thread of its own, because a connection can be silent for long. After a cancellation the call
/// returns without waiting for the thread.
fn patiently<T: Send + 'static>(cancel: &Cancel, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (give, take) = sync_channel(1);
    // The send fails if the caller has stopped waiting.
    let work = move || drop(give.send(work()));
    thread::Builder::new().name("registry".to_owned()).spawn(work).at("start a thread for", "a request")?;
    loop {
        cancel.check()?;
        match take.recv_timeout(POLL) {
            Ok(answer) => return answer,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Error::new(ErrorKind::Io, "a request ended early")),
        }
    }
}

/// Checks a name and a password with `registry`, and stores them in `file`.
///
/// # Errors
/// `PermissionDenied` if the registry does not accept them; as [`pull`] if the registry cannot be reached.
pub fn login(registry: &str, user: &str, password: &str, access: &Access, file: &Path, cancel: &Cancel) -> Result<()> {
    let reference: Reference = format!("{registry}/x").parse()?;
    let credentials = Credentials::Basic(user.to_owned(), password.to_owned());
    let connections = Connections::with(&reference, access, cancel, Some(credentials))?;
    connections.first(cancel, |client| {
        let url = format!("{}/", client.endpoint.base);
        client.succeed(&Call::new(Method::GET, url, "")).map(drop)
    })?;
    credentials::keep(file, &reference.registry, user, password)
}

/// Removes the credentials for `registry` from `file`. Returns false if there were none.
///
/// # Errors
/// `InvalidArgument` for a malformed file; errors of the file system or a credential helper.
pub fn logout(registry: &str, file: &Path) -> Result<bool> {
    let reference: Reference = format!("{registry}/x").parse()?;
    credentials::forget(file, &reference.registry)
}
