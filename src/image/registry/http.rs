//! Requests to a registry: authentication, repetition while the registry is busy, and errors that tell the user what to
//! do.
//!
//! # References
//! OCI distribution specification; RFC 9110 (`Retry-After`, `WWW-Authenticate`, ranges); "Token Authentication
//! Specification" of the distribution project.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use ureq::{Agent, Body};

use super::credentials::Credentials;
use super::hosts::Endpoint;
use super::{Access, agent};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::DOCUMENT_BYTES_MAX;
use crate::task::Cancel;

/// Maximum number of repetitions of a request that failed for a temporary reason.
const REPEATS_MAX: u32 = 5;

/// The same for a registry that has never answered.
const FIRST_REPEATS_MAX: u32 = 2;

/// The first pause before a repetition. Each later pause is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest pause that a registry can ask for.
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// Time between two looks at the cancellation.
const POLL: Duration = Duration::from_millis(50);

/// Maximum length of the body of an error, in bytes.
const COMPLAINT_BYTES_MAX: u64 = 64 << 10;

/// A client of one endpoint of a registry.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) endpoint: Endpoint,
    agent: Agent,
    credentials: Option<Credentials>,
    /// The `Authorization` header for each scope.
    granted: Mutex<HashMap<String, String>>,
    has_answered: AtomicBool,
    /// Two reasons to stop: the caller's cancellation, and the drop of [`Connections`](super::Connections).
    stop: [Cancel; 2],
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

/// A request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: String,
    /// The actions that a token must allow, as `pull` or `pull,push`.
    pub(super) actions: &'a str,
    /// Another repository that a token must allow to read.
    pub(super) also: Option<&'a str>,
    pub(super) headers: Vec<(header::HeaderName, String)>,
    pub(super) body: &'a [u8],
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, url: String, actions: &'a str) -> Self {
        Self { method, url, actions, also: None, headers: Vec::new(), body: &[] }
    }

    pub(super) fn with(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Client {
    pub(super) fn new(
        endpoint: Endpoint,
        access: &Access,
        credentials: Option<Credentials>,
        stop: [Cancel; 2],
    ) -> Result<Self> {
        let agent = agent::of(&endpoint, access)?;
        let (granted, has_answered) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self { endpoint, agent, credentials, granted, has_answered, stop })
    }

    /// The host, for messages.
    pub(super) fn host(&self) -> &str {
        host_of(&self.endpoint.base)
    }

    /// Returns the address of `rest` in the repository.
    pub(super) fn url(&self, rest: &str) -> String {
        format!("{}/{}/{rest}", self.endpoint.base, self.endpoint.repository)
    }

    /// Sends a request, and returns the answer whatever its status is. Logs in if the registry asks for that, and
    /// repeats the request while the registry is busy.
    ///
    /// # Errors
    /// `PermissionDenied` without the right credentials; `Unavailable` if the registry cannot be reached or stays busy;
    /// `Cancelled`.
    pub(super) fn send(&self, call: &Call<'_>) -> Result<Response<Body>> {
        let scope = self.scope(call);
        let (mut repeats, mut has_renewed) = (0, false);
        loop {
            self.check_stop()?;
            let answer = self.once(call, &scope);
            self.has_answered.fetch_or(answer.is_ok(), Ordering::Relaxed);
            let (why, wait) = match answer {
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED && !has_renewed => {
                    has_renewed = true;
                    self.log_in(answer.headers(), &scope)?;
                    continue;
                }
                Ok(answer) if is_busy(answer.status()) => {
                    let wait = retry_after(answer.headers());
                    (self.complaint(answer), wait)
                }
                Ok(answer) => return Ok(answer),
                Err(error) if is_passing(&error) => (self.explain(error), None),
                Err(error) => return Err(self.explain(error)),
            };
            let has_answered = self.has_answered.load(Ordering::Relaxed);
            if repeats == if has_answered { REPEATS_MAX } else { FIRST_REPEATS_MAX } {
                return Err(why);
            }
            tracing::debug!(why = why.chain(), "repeating a request");
            self.pause(wait.unwrap_or(PAUSE * 2_u32.pow(repeats)))?;
            repeats += 1;
        }
    }

    /// As [`Client::send`], but any answer other than a success is an error.
    pub(super) fn succeed(&self, call: &Call<'_>) -> Result<Response<Body>> {
        let answer = self.send(call)?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.complaint(answer)) }
    }

    fn once(&self, call: &Call<'_>, scope: &str) -> Result<Response<Body>, ureq::Error> {
        let mut request = Request::builder().method(call.method.clone()).uri(&call.url);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let granted = self.granted().get(scope).cloned();
        if let Some(granted) = granted.filter(|_| host_of(&call.url) == self.host()) {
            request = request.header(header::AUTHORIZATION, granted);
        }
        if call.body.is_empty() && [Method::GET, Method::HEAD].contains(&call.method) {
            return self.agent.run(request.body(())?);
        }
        self.agent.run(request.body(call.body)?)
    }

    fn granted(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scope(&self, call: &Call<'_>) -> String {
        if call.actions.is_empty() {
            return String::new();
        }
        let own = format!("repository:{}:{}", self.endpoint.repository, call.actions);
        call.also.map_or(own.clone(), |other| format!("{own} repository:{other}:pull"))
    }

    /// Gets the `Authorization` header that the registry asks for in `headers`.
    fn log_in(&self, headers: &HeaderMap, scope: &str) -> Result<()> {
        let challenges = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<Challenge> = challenges.filter_map(Challenge::parse).collect();
        let bearer = challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"));
        let basic = challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case("basic"));
        let granted = match (bearer, basic) {
            (Some(bearer), _) => format!("Bearer {}", self.token(bearer, scope)?),
            (None, Some(_)) => {
                let basic = self.credentials.as_ref().and_then(Credentials::basic);
                basic.ok_or_else(|| self.unauthorized())?
            }
            (None, None) => return Err(self.unauthorized()),
        };
        self.granted().insert(scope.to_owned(), granted);
        Ok(())
    }

    fn unauthorized(&self) -> Error {
        let host = self.host();
        let message = match &self.credentials {
            Some(_) => format!("{host} does not accept the user or the password that is kept for it (401)"),
            None => format!("{host} wants a login (401): strata login {host}"),
        };
        Error::new(ErrorKind::PermissionDenied, message)
    }

    /// Asks the server that the registry names for a token.
    fn token(&self, challenge: &Challenge, scope: &str) -> Result<String> {
        let realm = challenge.get("realm").ok_or_else(|| self.unauthorized())?;
        if self.endpoint.base.starts_with("https:") && !realm.starts_with("https:") && self.credentials.is_some() {
            let message = format!("{} wants the password sent to {realm}, which everybody could read", self.host());
            return Err(Error::new(ErrorKind::PermissionDenied, message));
        }
        let mut form: Vec<(&str, &str)> =
            challenge.get("service").map(|service| ("service", service)).into_iter().collect();
        form.extend(scope.split(' ').filter(|scope| !scope.is_empty()).map(|scope| ("scope", scope)));
        let request = Request::builder();
        let answer = match &self.credentials {
            Some(Credentials::Identity(token)) => {
                form.extend([("grant_type", "refresh_token"), ("client_id", "strata"), ("refresh_token", token)]);
                let request = request.method(Method::POST).uri(realm);
                let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                request.body(encoded(&form)).map_err(ureq::Error::from).and_then(|request| self.agent.run(request))
            }
            credentials => {
                let separator = if realm.contains('?') { '&' } else { '?' };
                let mut request = request.method(Method::GET).uri(format!("{realm}{separator}{}", encoded(&form)));
                if let Some(basic) = credentials.as_ref().and_then(Credentials::basic) {
                    request = request.header(header::AUTHORIZATION, basic);
                }
                request.body(()).map_err(ureq::Error::from).and_then(|request| self.agent.run(request))
            }
        };
        let answer = answer.map_err(|error| self.explain(error))?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            return Err(self.unauthorized());
        }
        if !answer.status().is_success() {
            return Err(self.complaint(answer));
        }
        token_in(&document(answer)?, realm)
    }

    /// Waits, unless the caller stops.
    pub(super) fn pause(&self, wait: Duration) -> Result<()> {
        let end = Instant::now() + wait.min(PAUSE_MAX);
        while Instant::now() < end {
            self.check_stop()?;
            thread::sleep(POLL);
        }
        Ok(())
    }

    pub(super) fn check_stop(&self) -> Result<()> {
        self.stop.iter().try_for_each(Cancel::check)
    }

    /// Returns the error for an answer with an error status.
    pub(super) fn complaint(&self, answer: Response<Body>) -> Error {
        let (status, host, path) = (answer.status(), self.host(), &self.endpoint.repository);
        let said = said(answer);
        match status {
            StatusCode::UNAUTHORIZED => self.unauthorized(),
            StatusCode::FORBIDDEN => {
                let message = format!("{host} does not allow this user what is asked of {path} (403){said}");
                Error::new(ErrorKind::PermissionDenied, message)
            }
            StatusCode::NOT_FOUND => Error::not_found(format!("{host} has no such image or tag in {path} (404){said}")),
            status if is_busy(status) => {
                Error::new(ErrorKind::Unavailable, format!("{host} is busy ({}){said}", status.as_u16()))
            }
            status => Error::new(ErrorKind::Io, format!("{host} answers {status}{said}")),
        }
    }

    /// Returns the error for a request without an answer.
    pub(super) fn explain(&self, error: ureq::Error) -> Error {
        let host = self.host();
        let text = error.to_string();
        let unavailable = |message: String| Error::new(ErrorKind::Unavailable, message);
        let explained = match &error {
            ureq::Error::HostNotFound => unavailable(format!("the name of {host} cannot be resolved")),
            _ if text.contains("certificate") || text.contains("UnknownIssuer") => Error::new(
                ErrorKind::PermissionDenied,
                format!(
                    "nobody whom this machine trusts vouches for {host}: a file NAME.crt in /etc/containerd/certs.d/{host} names an authority"
                ),
            ),
            ureq::Error::Timeout(_) => unavailable(format!("{host} does not answer in time")),
            _ => unavailable(format!("cannot speak with {host}")),
        };
        explained.with_source(error)
    }
}

/// Returns the token in `answer`, which the server `realm` sent.
fn token_in(answer: &[u8], realm: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    let none = || Error::data_loss(format!("{realm} answers with no token"));
    let token: Token = serde_json::from_slice(answer).map_err(|error| none().with_source(error))?;
    token.token.or(token.access_token).filter(|token| !token.is_empty()).ok_or_else(none)
}

/// The host and port of an address.
pub(super) fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502..=504)
}

/// Returns true for a temporary error: a repetition can help.
fn is_passing(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Timeout(_) => true,
        ureq::Error::Io(error) => {
            let never = [std::io::ErrorKind::ConnectionRefused, std::io::ErrorKind::InvalidData];
            !never.contains(&error.kind())
        }
        ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Returns the registry's own message about an error, to be appended to ours.
fn said(answer: Response<Body>) -> String {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Complaints {
        errors: Vec<Complaint>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Complaint {
        code: String,
        message: String,
    }
    let mut bytes = Vec::new();
    // The error stands without the registry's message if the body cannot be read.
    let _ = answer.into_body().into_reader().take(COMPLAINT_BYTES_MAX).read_to_end(&mut bytes);
    let all: Complaints = serde_json::from_slice(&bytes).unwrap_or_default();
    all.errors.first().map_or_else(String::new, |one| format!(": {} {}", one.code, one.message))
}

/// Returns the body of an answer that is a document.
pub(super) fn document(answer: Response<Body>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut reader = answer.into_body().into_reader().take(DOCUMENT_BYTES_MAX + 1);
    reader
        .read_to_end(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Unavailable, "the answer was cut").with_source(error))?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(Error::data_loss(format!("a document of more than {DOCUMENT_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// Returns `form` encoded as a query or a form.
fn encoded(form: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = form.iter().map(|(key, value)| format!("{key}={}", escaped(value))).collect();
    pairs.join("&")
}

/// Returns `text` escaped for a query.
pub(super) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:,".contains(&byte);
    let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

/// The authentication that a registry asks for: `Bearer realm="...",service="..."`.
#[derive(Debug)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = Vec::new();
        while let Some((key, value)) = rest.trim_start_matches([' ', ',']).split_once('=') {
            let (value, after) = match value.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => value.split_once(',').unwrap_or((value, "")),
            };
            parameters.push((key.trim().to_ascii_lowercase(), value.to_owned()));
            rest = after;
        }
        Some(Self { scheme: scheme.to_owned(), parameters })
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(own, _)| own == key).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let text =
            "Bearer realm=\"https://auth.test/token\",service=\"registry, own\", scope=\"repository:a:pull,push\"";
        let challenge = Challenge::parse(text).expect("a challenge");
        assert_eq!(challenge.get("realm"), Some("https://auth.test/token"));
        assert_eq!(challenge.get("service"), Some("registry, own"));
        assert_eq!(challenge.get("scope"), Some("repository:a:pull,push"));
        assert_eq!(Challenge::parse("Basic realm=x").expect("a challenge").get("realm"), Some("x"));
        for odd in ["", "Basic", "Bearer realm=\"", "Bearer =,=,="] {
            let _ = Challenge::parse(odd);
        }
    }

    #[test]
    fn queries() {
        assert_eq!(
            encoded(&[("service", "a b&c"), ("scope", "repository:a/b:pull")]),
            "service=a%20b%26c&scope=repository:a/b:pull"
        );
        assert_eq!(host_of("https://registry.test:5000/v2/x"), "registry.test:5000");
    }

    /// Generated answers of an untrusted registry: headers, challenges, tokens and error bodies.
    #[test]
    fn answers_of_strangers() {
        let seeds = [
            "\u{1}www-authenticate: Bearer realm=\"https://auth.test/token\",service=\"a, b\",scope=x\nretry-after: 3\n\n\
             {\"token\":\"t\",\"access_token\":null}",
            "\u{2}www-authenticate: Basic realm=x\nlocation: /v2/x?y\nlocation: https://else.test\n\n\
             {\"errors\":[{\"code\":\"DENIED\",\"message\":\"no\"}]}",
            "\u{3}content-range: bytes 5-9/10\ncontent-type: application/json; charset=x\n\n{\"mediaType\":\"a\"}",
        ];
        let words = [
            "\"",
            ",",
            "=",
            " ",
            "\n",
            "\n\n",
            "Bearer ",
            "Basic ",
            "realm=",
            "{",
            "[",
            "\\u0000",
            "99999999999999999999",
            ":",
        ];
        let endpoint = super::super::hosts::endpoints(
            &"registry.test/a".parse().expect("a name"),
            &super::super::HostSettings::default(),
        );
        let endpoint = endpoint.expect("an endpoint").remove(0);
        let client = Client::new(endpoint, &Access::default(), None, Default::default()).expect("a client");
        let test = concat!(module_path!(), "::answers_of_strangers");
        crate::strangers::try_each(test, &seeds.map(|seed| seed.as_bytes().to_vec()), &words, |input| {
            let (status, rest) = input.split_first().unwrap_or((&0, &[]));
            let text = String::from_utf8_lossy(rest);
            let (headers, body) = text.split_once("\n\n").unwrap_or((&text, ""));
            let answer = || {
                let mut answer = Response::builder().status(200 + 10 * u16::from(*status % 39));
                let fields = headers.lines().filter_map(|line| line.split_once(": "));
                for (name, value) in fields.take(100) {
                    let known = header::HeaderName::from_bytes(name.as_bytes()).ok();
                    if let (Some(name), Ok(value)) = (known, header::HeaderValue::from_str(value)) {
                        answer = answer.header(name, value);
                    }
                }
                answer.body(Body::builder().data(body)).expect("an answer")
            };
            retry_after(answer().headers());
            for challenge in headers.lines().filter_map(Challenge::parse) {
                challenge.get("realm").map(host_of);
            }
            let _ = (document(answer()), token_in(body.as_bytes(), "realm"), encoded(&[("scope", &text)]));
            client.complaint(answer());
            super::super::push::location(&client, &answer(), "");
            crate::oci::media_type_of(body.as_bytes());
            let _ = text.parse::<super::super::Reference>();
        });
    }
}
