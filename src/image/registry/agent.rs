//! Connections: certificates, proxies and timeouts.

use std::sync::Arc;
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};

use super::Access;
use super::hosts::Endpoint;
use crate::error::{Context, Error, Result};

/// Maximum time to make a connection.
const CONNECT: Duration = Duration::from_secs(15);

/// Maximum time without a byte within an answer.
const SILENCE: Duration = Duration::from_secs(30);

/// Maximum time until an answer begins. Some registries read a whole upload before they answer.
const ANSWER: Duration = Duration::from_secs(120);

/// Maximum number of redirections of a request.
const REDIRECTIONS_MAX: u32 = 5;

/// Files in which distributions keep the certificates that they trust. The first existing file is used.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Returns the agent for connections to `endpoint`. Credentials do not follow a redirection to another host.
pub(super) fn of(endpoint: &Endpoint, access: &Access) -> Result<Agent> {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(trusted(endpoint, access)?)))
        .disable_verification(endpoint.is_insecure)
        .build();
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(REDIRECTIONS_MAX)
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .user_agent(concat!("strata/", env!("CARGO_PKG_VERSION")))
        .proxy(proxy(endpoint, access)?)
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(SILENCE))
        .timeout_recv_response(Some(ANSWER))
        .tls_config(tls);
    Ok(Agent::new_with_config(config.build()))
}

fn trusted(endpoint: &Endpoint, access: &Access) -> Result<Vec<Certificate<'static>>> {
    let mut all = Vec::new();
    let usual = AUTHORITIES.iter().map(std::path::PathBuf::from).find(|path| path.exists());
    let system = if access.authorities.is_empty() { usual.as_slice() } else { &access.authorities[..] };
    for path in system.iter().chain(&endpoint.authorities) {
        let text = std::fs::read(path).at("read the certificates", path)?;
        for item in parse_pem(&text) {
            match item {
                Ok(PemItem::Certificate(certificate)) => all.push(certificate),
                Ok(_) => {}
                Err(error) => {
                    let message = format!("{} holds no certificates", path.display());
                    return Err(Error::invalid(message).with_source(error));
                }
            }
        }
    }
    Ok(all)
}

fn proxy(endpoint: &Endpoint, access: &Access) -> Result<Option<Proxy>> {
    let wanted = if endpoint.base.starts_with("https:") { &access.https_proxy } else { &access.http_proxy };
    let Some(address) = wanted.as_deref().filter(|address| !address.is_empty()) else { return Ok(None) };
    let wrong = |error| Error::invalid(format!("{address:?} is no address of a proxy")).with_source(error);
    let plain = Proxy::new(address).map_err(wrong)?;
    let mut proxy = Proxy::builder(plain.protocol()).host(plain.host()).port(plain.port());
    if let (Some(user), password) = (plain.username(), plain.password()) {
        proxy = proxy.username(user).password(password.unwrap_or_default());
    }
    for host in access.no_proxy.iter().flat_map(|list| list.split(',')) {
        proxy = proxy.no_proxy(host.trim());
    }
    proxy.build().map(Some).map_err(wrong)
}
