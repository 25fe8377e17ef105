//! Commands that bring images from registries and into them, and the machine's settings for it.

use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::image::{platform, progress};
use super::interrupt::Interrupt;
use super::layer::{compression, tell_losses};
use super::limits::LayerLimits;
use super::names;
use super::output::shown;
use super::session::Session;
use super::{Done, FREE_LIMIT, stderr_is_terminal};
use crate::changeset::blob::Compression;
use crate::door::IngestOptions;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::registry::{self, Access, HostSettings, Reference};
use crate::image::{ExportOptions, Options, Platform};
use crate::store::Store;

/// Directories with settings of registries, as containerd and docker have them.
const HOST_DIRS: [&str; 2] = ["/etc/containerd/certs.d", "/etc/docker/certs.d"];

/// Files with settings of registries, as podman has them.
const REGISTRIES: [&str; 2] = ["/etc/containers/registries.conf", "/etc/containers/registries.conf.d"];

/// Bring an image from a registry into the store
///
/// Layers are unpacked while they are downloaded; those that the store has are not downloaded. A broken connection is
/// resumed where it broke. Mirrors, plain HTTP and certificates are set as for containerd (/etc/containerd/certs.d) or
/// podman (/etc/containers/registries.conf), credentials by strata login, docker login or podman login. Prints the
/// image's name and ID.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata pull debian:13")]
pub(super) struct Pull {
    /// The image: [REGISTRY/]PATH[:TAG|@DIGEST]; without a registry, docker.io
    #[arg(value_name = "NAME")]
    reference: String,
    /// Its name in the store, instead of NAME
    #[arg(long)]
    name: Option<String>,
    /// Which one of an image for several platforms, instead of this machine's: linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = platform)]
    platform: Option<Platform>,
    #[command(flatten)]
    limits: LayerLimits,
}

/// Bring an image of the store into a registry
///
/// Layers that the registry has are not uploaded. The others leave as they came, compressed anew. Prints the image's
/// name there and the digest of its manifest.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata push app:1 localhost:5000/app:1")]
pub(super) struct Push {
    /// The image's name, or the beginning of its ID
    image: String,
    /// Its name in the registry: [REGISTRY/]PATH[:TAG]
    #[arg(value_name = "NAME")]
    reference: String,
    /// Compress the layers
    #[arg(long, value_name = "HOW", default_value = "gzip", value_parser = compression())]
    compress: Compression,
}

/// Keep a name and a password for a registry
///
/// They are checked with the registry, and kept where docker and podman look, too: in ~/.docker/config.json, in the
/// file that REGISTRY_AUTH_FILE names, or in the credential helper that the file names.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata login localhost:5000 --username me < password")]
pub(super) struct Login {
    /// The registry
    #[arg(value_name = "REGISTRY")]
    registry: String,
    /// The user; otherwise it is asked for on a terminal
    #[arg(short, long)]
    username: Option<String>,
    /// Read the password from standard input, as is done anyway where that is no terminal
    #[arg(long)]
    password_stdin: bool,
}

/// Forget the name and the password for a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata logout localhost:5000")]
pub(super) struct Logout {
    /// The registry
    #[arg(value_name = "REGISTRY")]
    registry: String,
}

/// How this machine reaches registries: its settings and the environment.
pub(super) fn access() -> Access {
    let variable = |names: [&str; 2]| names.iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let user = home().map(|home| home.join(".config/containers/registries.conf"));
    let file = std::env::var_os("CONTAINERS_REGISTRIES_CONF").map(PathBuf::from).or(user.filter(|path| path.exists()));
    Access {
        hosts: HostSettings {
            dirs: HOST_DIRS.map(PathBuf::from).to_vec(),
            registries: file.map_or_else(|| REGISTRIES.map(PathBuf::from).to_vec(), |file| vec![file]),
        },
        credentials: credential_files(),
        authorities: std::env::var_os("SSL_CERT_FILE").map(PathBuf::from).into_iter().collect(),
        https_proxy: variable(["HTTPS_PROXY", "https_proxy"]),
        http_proxy: variable(["http_proxy", "HTTP_PROXY"]),
        no_proxy: variable(["NO_PROXY", "no_proxy"]),
    }
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// Where credentials can be; what is said by a variable counts alone.
fn credential_files() -> Vec<PathBuf> {
    if let Some(file) = std::env::var_os("REGISTRY_AUTH_FILE") {
        return vec![PathBuf::from(file)];
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let run = runtime.unwrap_or_else(|| format!("/run/containers/{}", rustix::process::getuid().as_raw()).into());
    let in_run = [run.join("containers/auth.json"), run.join("auth.json")];
    let in_home = home().map(|home| home.join(".config/containers/auth.json"));
    in_run.into_iter().chain(in_home).chain([docker_config()]).collect()
}

/// Docker's file, which all others read, too.
fn docker_config() -> PathBuf {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| home().map(|home| home.join(".docker")));
    dir.unwrap_or_else(|| PathBuf::from("/root/.docker")).join("config.json")
}

/// The file that a login is kept in.
fn login_file() -> PathBuf {
    std::env::var_os("REGISTRY_AUTH_FILE").map_or_else(docker_config, PathBuf::from)
}

/// Pulls `reference` as `name`, or as it is called.
pub(super) fn pull(
    session: &Session,
    store: &Store,
    reference: &str,
    options: Options,
    interrupt: &Interrupt,
) -> Result<crate::image::Imported> {
    let parsed: Reference = reference.parse()?;
    let name = options.name.clone().or_else(|| parsed.digest.is_none().then(|| reference.to_owned()));
    let options = Options { name, ..options };
    let progress = progress(session, "downloading and unpacking");
    let imported = registry::pull(store, &parsed, &access(), &options, progress.as_ref()).inspect_err(|_| {
        // The layer that it was at takes space still.
        let _ = store.drain(Some(FREE_LIMIT), Some(interrupt.cancel()));
    })?;
    drop(progress);
    tell_losses(session, &imported.name, imported.losses);
    Ok(imported)
}

/// When a build pulls an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum When {
    /// Images that the store does not have
    #[default]
    Missing,
    /// Every image: where it did not change, nothing is downloaded
    Always,
    /// None
    Never,
}

impl When {
    /// Brings the image that a Dockerfile calls `name`, if it has to.
    pub fn bring(self, session: &Session, store: &Store, name: &str, interrupt: &Interrupt) -> Result<()> {
        let is_there = || match store.image(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            found => found.map(|_| true),
        };
        // A name that no registry can have is the store's own.
        if self == Self::Never || name.parse::<Reference>().is_err() || (self == Self::Missing && is_there()?) {
            return Ok(());
        }
        let ingest = IngestOptions { cancel: interrupt.cancel().clone(), ..IngestOptions::default() };
        let pulled = pull(session, store, name, Options { ingest, ..Options::default() }, interrupt);
        pulled.map(drop).map_err(|error| match error.kind() {
            ErrorKind::Unavailable | ErrorKind::PermissionDenied if self == Self::Missing => {
                Error::not_found("it is not in the store, and cannot be pulled").with_source(error)
            }
            _ => error,
        })
    }
}

impl Pull {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        self.reference.parse::<Reference>()?;
        let store = session.make_store()?;
        let options = Options {
            name: self.name.clone(),
            platform: self.platform.clone(),
            ingest: self.limits.options(interrupt.cancel()),
            ..Options::default()
        };
        let pulled = pull(session, &store, &self.reference, options, &interrupt)?;
        Ok(session.output.either(&pulled, || format!("{} {}\n", shown(&pulled.name), pulled.id))?)
    }
}

impl Push {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let reference: Reference = self.reference.parse()?;
        let store = session.store()?;
        let name = names::image(&store, &self.image)?;
        let options = ExportOptions { compression: self.compress, cancel: interrupt.cancel().clone() };
        let progress = progress(session, "uploading");
        let pushed = registry::push(&store, &name, &reference, &access(), &options, progress.as_ref())?;
        drop(progress);
        Ok(session.output.either(&pushed, || format!("{} {}\n", shown(&pushed.name), pushed.manifest))?)
    }
}

impl Login {
    pub fn run(&self, session: &Session) -> Done {
        let interrupt = Interrupt::watch(session)?;
        let user = match &self.username {
            Some(user) => user.clone(),
            None if stdin_is_terminal() && !self.password_stdin => ask("User: ")?,
            None => return Err(Error::invalid("whose password is it? --username says").into()),
        };
        let password = match stdin_is_terminal() && !self.password_stdin {
            true => ask_silently("Password: ")?,
            false => line()?,
        };
        let file = login_file();
        registry::login(&self.registry, &user, &password, &access(), &file, interrupt.cancel())?;
        let answer = json!({"registry": self.registry, "user": user, "file": file});
        Ok(session.output.either(&answer, || format!("{} {}\n", shown(&self.registry), shown(&user)))?)
    }
}

impl Logout {
    pub fn run(&self, session: &Session) -> Done {
        let mut files = credential_files();
        files.push(login_file());
        files.dedup();
        let forget = |file: &PathBuf| registry::logout(&self.registry, file);
        let forgotten = files.iter().filter(|file| file.exists()).map(forget).collect::<Result<Vec<_>>>()?;
        if !forgotten.contains(&true) {
            return Err(Error::not_found(format!("no login is kept for {}", self.registry)).into());
        }
        let answer = json!({"registry": self.registry});
        Ok(session.output.either(&answer, || format!("{}\n", shown(&self.registry)))?)
    }
}

fn stdin_is_terminal() -> bool {
    rustix::termios::isatty(io::stdin())
}

/// One line of standard input.
fn line() -> Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).at("read", "standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn ask(question: &str) -> Result<String> {
    if stderr_is_terminal() {
        let _ = io::stderr().write_all(question.as_bytes());
    }
    line()
}

/// Asks for a line that the terminal does not show.
fn ask_silently(question: &str) -> Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let terminal = Path::new("the terminal");
    let usual = tcgetattr(io::stdin()).at("read the settings of", terminal)?;
    let mut silent = usual.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(io::stdin(), OptionalActions::Now, &silent).at("change the settings of", terminal)?;
    let answer = ask(question);
    let restored = tcsetattr(io::stdin(), OptionalActions::Now, &usual).at("restore the settings of", terminal);
    let _ = io::stderr().write_all(b"\n");
    answer.and_then(|answer| restored.map(|()| answer))
}
