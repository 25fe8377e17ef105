//! Names and passwords for registries, in the files of docker and podman.
//!
//! # References
//! `containers-auth.json(5)`; docker's `config.json` and its protocol of credential helpers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::hosts::read;
use super::reference::Reference;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::name::DEFAULT_REGISTRY;

/// The key under which docker keeps the credentials for its own registry.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";

/// The user name with which a helper marks a password as an identity token.
const TOKEN_USER: &str = "<token>";

/// The credentials of a user.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// A name and a password.
    Basic(String, String),
    /// A token that the registry gave at a login.
    Identity(String),
}

impl Credentials {
    /// Returns the value of the header for basic authentication; `None` for a token.
    pub(super) fn basic(&self) -> Option<String> {
        match self {
            Self::Basic(user, password) => Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))),
            Self::Identity(_) => None,
        }
    }
}

/// The fields that are read of a file with credentials.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Stored {
    auths: BTreeMap<String, AuthEntry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// Finds the credentials for `reference` in the first of `files` that has credentials for it.
///
/// # Errors
/// `InvalidArgument` for a malformed file; errors of a credential helper.
pub(super) fn find(reference: &Reference, files: &[PathBuf]) -> Result<Option<Credentials>> {
    for path in files {
        let Some(text) = read(path)? else { continue };
        let stored: Stored = parse(&text, path)?;
        let keys = keys(reference);
        let helper = keys.iter().find_map(|key| stored.cred_helpers.get(key)).or(stored.creds_store.as_ref());
        if let Some(helper) = helper
            && let Some(found) = ask(helper, &reference.registry)?
        {
            return Ok(Some(found));
        }
        let entry = keys.iter().find_map(|key| stored.auths.iter().find(|(own, _)| normal(own) == normal(key)));
        if let Some(found) = entry.and_then(|(_, entry)| entry.credentials()) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    let wrong = |error| Error::invalid(format!("{} holds no credentials", path.display())).with_source(error);
    serde_json::from_str(text).map_err(wrong)
}

impl AuthEntry {
    fn credentials(&self) -> Option<Credentials> {
        if let Some(token) = self.identitytoken.clone().filter(|token| !token.is_empty()) {
            return Some(Credentials::Identity(token));
        }
        if let (Some(user), Some(password)) = (self.username.clone(), self.password.clone()) {
            return Some(Credentials::Basic(user, password));
        }
        let plain = String::from_utf8(STANDARD.decode(self.auth.as_ref()?.trim()).ok()?).ok()?;
        let (user, password) = plain.split_once(':')?;
        Some(Credentials::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }
}

/// Returns the keys under which a file can have credentials for `reference`, the most specific first. The files of
/// podman have paths as keys too.
fn keys(reference: &Reference) -> Vec<String> {
    let whole = format!("{}/{}", reference.registry, reference.repository);
    let mut keys: Vec<String> = whole.match_indices('/').map(|(at, _)| whole[..at].to_owned()).collect();
    keys.push(whole);
    keys.reverse();
    if reference.registry == DEFAULT_REGISTRY {
        keys.push(DOCKER_KEY.to_owned());
    }
    keys
}

/// Returns the key without its scheme and API version, which old files have.
fn normal(key: &str) -> &str {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2")
}

/// Returns the address of a registry for a credential helper.
fn server_of(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { DOCKER_KEY } else { registry }
}

/// Asks the program `docker-credential-NAME`. Returns `None` if the program has no credentials for the registry.
fn ask(helper: &str, registry: &str) -> Result<Option<Credentials>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let output = run(helper, "get", server_of(registry))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("not found") || said.contains("no credentials") {
            return Ok(None);
        }
        return Err(failed(helper, said.trim()));
    }
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|error| failed(helper, "no JSON").with_source(error))?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credentials::Identity(answer.secret),
        _ => Credentials::Basic(answer.username, answer.secret),
    }))
}

fn failed(helper: &str, why: &str) -> Error {
    Error::new(ErrorKind::PermissionDenied, format!("the credential helper docker-credential-{helper} failed: {why}"))
}

fn run(helper: &str, verb: &str, input: &str) -> Result<std::process::Output> {
    let is_name = helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !is_name {
        return Err(Error::invalid(format!("{helper:?} is no name of a credential helper")));
    }
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program);
    let child = child.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = child.spawn().at("start", &program)?;
    if let Some(mut stdin) = child.stdin.take() {
        // The write fails if the helper has ended. Its exit status then tells the error.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().at("wait for", &program)
}

/// Stores a name and a password for `registry` in `file`, or in the helper that the file names.
///
/// # Errors
/// `InvalidArgument` for a malformed file; errors of the file system or the helper.
pub(super) fn keep(file: &Path, registry: &str, user: &str, password: &str) -> Result<()> {
    edit(file, |stored, document| {
        if let Some(helper) = stored.cred_helpers.get(registry).or(stored.creds_store.as_ref()) {
            let secret = json!({"ServerURL": server_of(registry), "Username": user, "Secret": password});
            let output = run(helper, "store", &secret.to_string())?;
            return if output.status.success() { Ok(false) } else { Err(failed(helper, "it keeps nothing")) };
        }
        let auth = STANDARD.encode(format!("{user}:{password}"));
        document["auths"][server_of(registry)] = json!({"auth": auth});
        Ok(true)
    })
}

/// Removes the stored credentials for `registry`. Returns false if there were none.
///
/// # Errors
/// As [`keep`].
pub(super) fn forget(file: &Path, registry: &str) -> Result<bool> {
    let mut was_there = false;
    edit(file, |stored, document| {
        if let Some(helper) = stored.cred_helpers.get(registry).or(stored.creds_store.as_ref()) {
            was_there = run(helper, "erase", server_of(registry))?.status.success();
        }
        let Some(auths) = document["auths"].as_object_mut() else { return Ok(false) };
        let before = auths.len();
        auths.retain(|key, _| normal(key) != normal(server_of(registry)) && normal(key) != registry);
        was_there |= auths.len() < before;
        Ok(auths.len() < before)
    })?;
    Ok(was_there)
}

/// Changes a file of credentials, and replaces the file if `change` returns true. Unknown fields of the file are kept.
fn edit(file: &Path, change: impl FnOnce(&Stored, &mut Value) -> Result<bool>) -> Result<()> {
    let text = read(file)?.unwrap_or_else(|| "{}".to_owned());
    let (stored, mut document): (Stored, Value) = (parse(&text, file)?, parse(&text, file)?);
    if !change(&stored, &mut document)? {
        return Ok(());
    }
    let dir = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).at("make the directory", dir)?;
    let new = file.with_extension("json.new");
    let mut options = File::options();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&new).at("make", &new)?;
    let text = serde_json::to_string_pretty(&document).unwrap_or_default();
    out.write_all(text.as_bytes()).and_then(|()| out.sync_all()).at("write", &new)?;
    fs::rename(&new, file).at("replace", file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn of(text: &str, name: &str) -> Option<Credentials> {
        let file = tempfile::NamedTempFile::new().expect("file");
        fs::write(file.path(), text).expect("write");
        let missing = PathBuf::from("/nonexistent/config.json");
        find(&name.parse().expect(name), &[missing, file.path().to_owned()]).expect("credentials")
    }

    fn basic(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Basic(user.to_owned(), password.to_owned()))
    }

    #[test]
    fn files_of_docker_and_podman() {
        let auth = |plain: &str| STANDARD.encode(plain);
        let text = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": auth("hub:a:b")},
            "registry.test:5000": {"auth": auth("host:1")},
            "registry.test:5000/team/app": {"auth": auth("app:2")},
            "https://old.test/v2/": {"username": "old", "password": "3"},
            "token.test": {"auth": auth("x:y"), "identitytoken": "t"},
            "empty.test": {},
        }})
        .to_string();
        assert!(of(&text, "debian") == basic("hub", "a:b"));
        assert!(of(&text, "registry.test:5000/x") == basic("host", "1"));
        assert!(of(&text, "registry.test:5000/team/app:1") == basic("app", "2"));
        assert!(of(&text, "registry.test:5000/team/apple") == basic("host", "1"));
        assert!(of(&text, "old.test/x") == basic("old", "3"));
        assert!(of(&text, "token.test/x") == Some(Credentials::Identity("t".into())));
        assert!(of(&text, "empty.test/x").is_none() && of(&text, "other.test/x").is_none() && of("{}", "x").is_none());
    }

    #[test]
    fn what_a_login_leaves() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("new/config.json");
        keep(&file, "registry.test", "me", "a:b").expect("login");
        fs::write(&file, fs::read_to_string(&file).expect("text").replacen('{', "{\"other\": 1,", 1)).expect("write");
        keep(&file, "docker.io", "hub", "c").expect("login");
        assert_eq!(file.metadata().expect("stat").permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&file).expect("text");
        assert!(of(&text, "registry.test/x") == basic("me", "a:b") && of(&text, "debian") == basic("hub", "c"));
        assert!(forget(&file, "registry.test").expect("logout") && !forget(&file, "registry.test").expect("again"));
        let text = fs::read_to_string(&file).expect("text");
        assert!(of(&text, "registry.test/x").is_none() && of(&text, "debian").is_some() && text.contains("\"other\""));
    }
}
