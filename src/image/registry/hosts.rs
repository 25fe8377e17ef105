//! The endpoints of a registry: mirrors, plain HTTP and certificates, from the settings files of other tools.
//!
//! # References
//! containerd's `docs/hosts.md` (`hosts.toml`); `containers-registries.conf(5)`; docker's `certs.d`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::reference::Reference;
use crate::error::{Context, Error, ErrorKind, Result};

/// The host of the registry `docker.io`.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// Directories and files of settings, in the order in which they are searched.
#[derive(Clone, Debug, Default)]
pub struct HostSettings {
    /// Directories with one directory for each registry, in which `hosts.toml` and certificates (`*.crt`) lie.
    pub dirs: Vec<PathBuf>,
    /// Files in the form of `registries.conf`, and directories of such files.
    pub registries: Vec<PathBuf>,
}

/// One address of a registry or mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The address up to the repository: `https://host/v2`.
    pub(super) base: String,
    /// The path of the image there.
    pub(super) repository: String,
    /// Certificates of authorities to trust, in addition to the machine's.
    pub(super) authorities: Vec<PathBuf>,
    /// True if certificates are not verified.
    pub(super) is_insecure: bool,
    /// True if images can be pushed to this endpoint.
    pub(super) takes_pushes: bool,
}

impl Endpoint {
    fn new(scheme: &str, host: &str, repository: &str) -> Self {
        Self {
            base: format!("{scheme}://{host}/v2"),
            repository: repository.to_owned(),
            authorities: Vec::new(),
            is_insecure: false,
            takes_pushes: true,
        }
    }
}

/// Returns the endpoints for `reference`, mirrors first.
///
/// # Errors
/// `InvalidArgument` for a malformed settings file; `FailedPrecondition` for a registry that the settings block.
pub(super) fn endpoints(reference: &Reference, settings: &HostSettings) -> Result<Vec<Endpoint>> {
    let (host, repository) = (&reference.registry, &reference.repository);
    for dir in &settings.dirs {
        let dirs = [dir.join(host), dir.join(host.replace(':', "_")), dir.join("_default")];
        if let Some(dir) = dirs.iter().find(|dir| dir.is_dir()) {
            return from_dir(dir, host, repository);
        }
    }
    if let Some(found) = from_registries(reference, settings)? {
        return Ok(found);
    }
    Ok(usual(host, repository))
}

/// Returns the endpoints without settings: HTTPS, and plain HTTP if the host is this machine.
fn usual(host: &str, repository: &str) -> Vec<Endpoint> {
    let mut all = vec![Endpoint::new("https", service_of(host), repository)];
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if name == "localhost" || name == "[::1]" || name.starts_with("127.") {
        all.push(Endpoint::new("http", host, repository));
    }
    all
}

fn service_of(host: &str) -> &str {
    if host == crate::image::name::DEFAULT_REGISTRY { DOCKER_HUB } else { host }
}

/// `hosts.toml`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Hosts {
    server: Option<String>,
    host: toml::Table,
    ca: Option<toml::Value>,
    skip_verify: bool,
}

/// One `host` table of `hosts.toml`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<toml::Value>,
    skip_verify: bool,
    override_path: bool,
}

fn from_dir(dir: &Path, host: &str, repository: &str) -> Result<Vec<Endpoint>> {
    let certificates = certificates(dir)?;
    let with = |endpoint: Endpoint| Endpoint { authorities: certificates.clone(), ..endpoint };
    let path = dir.join("hosts.toml");
    let Some(text) = read(&path)? else {
        return Ok(usual(host, repository).into_iter().map(with).collect());
    };
    let hosts: Hosts = parse(&text, &path)?;
    let mut all = Vec::new();
    // Hosts are tried in their order in the file, which the parsed table does not keep.
    let mut places: Vec<_> = hosts.host.iter().map(|(at, host)| (text.find(at.as_str()), at, host)).collect();
    places.sort_by_key(|(at, ..)| *at);
    for (_, address, host) in places {
        let host: Host = host.clone().try_into().map_err(|error| wrong(&path, &error))?;
        let can = |what: &str| host.capabilities.as_ref().is_none_or(|all| all.iter().any(|own| own == what));
        if can("pull") || can("push") {
            let endpoint = at_address(address, host.override_path, repository);
            let authorities = [authorities(dir, host.ca.as_ref()), certificates.clone()].concat();
            let (is_insecure, takes_pushes) = (host.skip_verify, can("push"));
            all.push(Endpoint { authorities, is_insecure, takes_pushes, ..endpoint });
        }
    }
    let server =
        hosts.server.map_or_else(|| usual(host, repository), |server| vec![at_address(&server, false, repository)]);
    let own = authorities(dir, hosts.ca.as_ref());
    all.extend(server.into_iter().map(|endpoint| Endpoint {
        authorities: [own.clone(), certificates.clone()].concat(),
        is_insecure: hosts.skip_verify,
        ..endpoint
    }));
    Ok(all)
}

/// Returns the endpoint at an address in settings. The address may lack its scheme.
fn at_address(address: &str, is_whole: bool, repository: &str) -> Endpoint {
    let address = address.trim_end_matches('/');
    let address = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let ending = if is_whole || address.ends_with("/v2") { "" } else { "/v2" };
    Endpoint { base: format!("{address}{ending}"), ..Endpoint::new("https", "", repository) }
}

/// Returns the files that `ca` names. `ca` is one name or a list.
fn authorities(dir: &Path, ca: Option<&toml::Value>) -> Vec<PathBuf> {
    let texts = match ca {
        Some(toml::Value::Array(all)) => all.iter().filter_map(toml::Value::as_str).collect(),
        Some(one) => one.as_str().into_iter().collect(),
        None => Vec::new(),
    };
    texts.into_iter().map(|path| dir.join(path)).collect()
}

fn certificates(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in dir.read_dir().at("read", dir)? {
        let path = entry.at("read", dir)?.path();
        if path.extension().is_some_and(|ending| ending == "crt") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The fields of `registries.conf` that determine endpoints.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Registries {
    registry: Vec<Registry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Registry {
    prefix: Option<String>,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirror: Vec<Registry>,
}

impl Registry {
    fn prefix(&self) -> &str {
        self.prefix.as_deref().or(self.location.as_deref()).unwrap_or_default()
    }
}

fn from_registries(reference: &Reference, settings: &HostSettings) -> Result<Option<Vec<Endpoint>>> {
    let whole = format!("{}/{}", reference.registry, reference.repository);
    let mut best: Option<Registry> = None;
    for path in files(&settings.registries)? {
        let Some(text) = read(&path)? else { continue };
        for registry in parse::<Registries>(&text, &path)?.registry {
            let is_better = best.as_ref().is_none_or(|best| registry.prefix().len() >= best.prefix().len());
            if is_better && is_below(&whole, registry.prefix()) {
                best = Some(registry);
            }
        }
    }
    let Some(best) = best else { return Ok(None) };
    if best.blocked {
        let message = format!("the settings of this machine block the registry {}", best.prefix());
        return Err(Error::new(ErrorKind::FailedPrecondition, message));
    }
    let rest = &whole[best.prefix().len().min(whole.len())..];
    let place = |location: Option<&str>, is_insecure, takes_pushes| {
        let whole = location.map_or_else(|| whole.clone(), |location| format!("{location}{rest}"));
        let (host, repository) = whole.split_once('/').unwrap_or((&whole, ""));
        let mut found = if is_insecure {
            vec![Endpoint::new("https", service_of(host), repository), Endpoint::new("http", host, repository)]
        } else {
            usual(host, repository)
        };
        for endpoint in &mut found {
            (endpoint.is_insecure, endpoint.takes_pushes) = (is_insecure, takes_pushes);
        }
        found
    };
    let mirrors = best.mirror.iter().flat_map(|mirror| place(mirror.location.as_deref(), mirror.insecure, false));
    Ok(Some(mirrors.chain(place(best.location.as_deref(), best.insecure, true)).collect()))
}

/// Returns true if `name` is `prefix` or below it.
fn is_below(name: &str, prefix: &str) -> bool {
    if let Some(domain) = prefix.strip_prefix("*.") {
        let host = name.split(['/', ':']).next().unwrap_or_default();
        return host.ends_with(&format!(".{domain}"));
    }
    !prefix.is_empty() && name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':']))
}

/// Returns the files in `paths`, and the files in directories of `paths` sorted by name.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = path.read_dir().at("read", path)?.filter_map(|entry| Some(entry.ok()?.path()));
            let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "conf")).collect();
            found.sort();
            all.extend(found);
        } else {
            all.push(path.clone());
        }
    }
    Ok(all)
}

/// Returns the text of a file; `None` if the file is missing.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some).at("read", path),
    }
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    toml::from_str(text).map_err(|error| wrong(path, &error))
}

fn wrong(path: &Path, error: &toml::de::Error) -> Error {
    Error::invalid(format!("the settings in {} are wrong: {}", path.display(), error.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(text: &str, settings: &HostSettings) -> Vec<String> {
        let all = endpoints(&text.parse().expect(text), settings).unwrap_or_else(|error| panic!("{}", error.chain()));
        all.iter().map(|endpoint| format!("{}/{}", endpoint.base, endpoint.repository)).collect()
    }

    #[test]
    fn without_settings() {
        let none = HostSettings::default();
        assert_eq!(bases("debian", &none), ["https://registry-1.docker.io/v2/library/debian"]);
        assert_eq!(bases("registry.test:1/a/b", &none), ["https://registry.test:1/v2/a/b"]);
        assert_eq!(bases("localhost:5000/x", &none), ["https://localhost:5000/v2/x", "http://localhost:5000/v2/x"]);
    }

    #[test]
    fn hosts_toml() {
        let dir = tempfile::tempdir().expect("dir");
        let settings = HostSettings { dirs: vec![dir.path().to_owned()], ..HostSettings::default() };
        let own = dir.path().join("registry.test:1");
        fs::create_dir(&own).expect("mkdir");
        let hosts = "server = \"https://upstream.test\"\n[host.\"http://z.test\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
                     [host.\"https://a.test/prefix\"]\noverride_path = true\nca = \"own.pem\"\nskip_verify = true\n";
        fs::write(own.join("hosts.toml"), hosts).expect("write");
        fs::write(own.join("ca.crt"), "").expect("write");
        let all = endpoints(&"registry.test:1/x".parse().expect("name"), &settings).expect("settings");
        let bases: Vec<&str> = all.iter().map(|endpoint| endpoint.base.as_str()).collect();
        assert_eq!(bases, ["http://z.test/v2", "https://a.test/prefix", "https://upstream.test/v2"]);
        assert_eq!(
            all.iter().map(|one| (one.is_insecure, one.takes_pushes)).collect::<Vec<_>>(),
            [(false, false), (true, true), (false, true)]
        );
        assert_eq!(all[1].authorities, [own.join("own.pem"), own.join("ca.crt")]);
        fs::write(own.join("hosts.toml"), "server = [").expect("write");
        let error = endpoints(&"registry.test:1/x".parse().expect("name"), &settings).expect_err("no TOML");
        assert!(error.chain().contains("hosts.toml"), "{}", error.chain());
    }

    #[test]
    fn registries_conf() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let text = "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nprefix = \"docker.io\"\n\
                    [[registry.mirror]]\nlocation = \"mirror.test/hub\"\n[[registry]]\nlocation = \"plain.test\"\ninsecure = true\n\
                    [[registry]]\nprefix = \"plain.test/other\"\nlocation = \"other.test/deep\"\n\
                    [[registry]]\nprefix = \"*.bad.test\"\nblocked = true\n";
        fs::write(file.path(), text).expect("write");
        let settings = HostSettings { registries: vec![file.path().to_owned()], ..HostSettings::default() };
        let hub = ["https://mirror.test/v2/hub/library/debian", "https://registry-1.docker.io/v2/library/debian"];
        assert_eq!(bases("debian", &settings), hub);
        assert_eq!(bases("plain.test/x", &settings), ["https://plain.test/v2/x", "http://plain.test/v2/x"]);
        assert_eq!(bases("plain.test/other/x", &settings), ["https://other.test/v2/deep/x"]);
        assert_eq!(bases("plain.tester/x", &settings), ["https://plain.tester/v2/x"]);
        let error = endpoints(&"a.bad.test/x".parse().expect("name"), &settings).expect_err("blocked");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    }
}
