//! The command that serves a store to containerd.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Deserialize;

use super::Done;
use super::session::{Session, check_privilege};
use crate::containerd::advice::{self, Version};
use crate::containerd::{self, Address, Options};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Platform;
use crate::registry::{self, Choice, Config};
use crate::store::Durability;

/// Whose snapshots a daemon serves if nobody says.
const OWNER: &str = "containerd";

/// Where the settings say that the daemon listens if nobody says.
const SOCKET: &str = "/run/strata/strata.sock";

/// Serve the store to containerd, as a snapshotter
///
/// Answers on a unix socket until SIGTERM or SIGINT; makes the store if there is none. The snapshots are those of the
/// owner: the command line sees its own only, and can be used meanwhile. containerd collects as garbage what it does not
/// know, so each containerd needs an owner of its own.
///
/// The file of --config may say socket, owner, containerd, metrics, root, backend and durability; what the command line says wins. Logs go to
/// standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata serve --socket /run/strata/strata.sock")]
pub(super) struct Serve {
    /// The socket: made with mode 0600, its directory, if it is missing, with 0700
    #[arg(long, value_name = "PATH", required_unless_present_any = ["config", "print_config"])]
    socket: Option<PathBuf>,
    /// Whose snapshots are served [default: containerd]
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// The socket of the containerd that is served: its content store is read and written, so that layers follow strata's
    /// rules
    #[arg(long, value_name = "ADDRESS")]
    containerd: Option<PathBuf>,
    /// Serve figures for Prometheus, at /metrics: on a port of this machine alone (127.0.0.1:9090) or a socket (/run/...)
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<Address>,
    /// Settings, as TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve nothing, and print what has to be in the settings of containerd
    #[arg(long, value_name = "PROGRAM", requires = "for_version", value_parser = ["containerd"])]
    print_config: Option<String>,
    /// For which version of it: 1.7, 2.1.4
    #[arg(long = "for", id = "for_version", value_name = "VERSION", requires = "print_config", value_parser = version)]
    for_version: Option<Version>,
    /// How the log is written
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = log_format())]
    log_format: LogFormat,
}

/// How the log of a daemon is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

fn version(text: &str) -> Result<Version> {
    text.parse()
}

fn log_format() -> impl TypedValueParser<Value = LogFormat> {
    PossibleValuesParser::new(["text", "json"])
        .map(|name| if name == "json" { LogFormat::Json } else { LogFormat::Text })
}

/// What a file of settings may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    socket: Option<PathBuf>,
    owner: Option<String>,
    containerd: Option<PathBuf>,
    metrics: Option<String>,
    root: Option<PathBuf>,
    backend: Option<String>,
    durability: Option<String>,
}

impl Settings {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).at("read the settings", path)?;
        toml::from_str(&text).map_err(|error| {
            let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            Error::invalid(format!("the settings {} cannot be used: {line}", path.display()))
        })
    }

    /// How the store is opened: `config` is what the command line says, and what that leaves at its default is said here.
    fn store(&self, mut config: Config) -> Result<Config> {
        let default = Config::new(super::ROOT);
        if let (Some(root), true) = (&self.root, config.root == default.root) {
            config.root = absolute(root)?;
        }
        if let (Some(backend), true) = (&self.backend, config.backend == default.backend) {
            config.backend = backend.parse::<Choice>()?;
        }
        if let (Some(durability), true) = (&self.durability, config.durability == default.durability) {
            config.durability = [Durability::Commit, Durability::None]
                .into_iter()
                .find(|known| known.as_str() == durability)
                .ok_or_else(|| Error::invalid(format!("{durability:?} is no durability: commit, none")))?;
        }
        Ok(config)
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).at("find", path)
}

impl Serve {
    /// How the log is written.
    pub fn log_format(&self) -> LogFormat {
        self.log_format
    }

    pub fn run(&self, session: &Session) -> Done {
        let settings = self.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        let socket = self.socket.as_ref().or(settings.socket.as_ref());
        if let Some(version) = self.for_version {
            let socket = socket.map_or(Path::new(SOCKET), PathBuf::as_path);
            let root = settings.store(session.config().clone())?.root;
            let platform = Platform::host().to_string();
            return Ok(session.output.text(&advice::settings(version, &absolute(socket)?, &root, &platform))?);
        }
        let socket = socket.ok_or_else(|| {
            Error::invalid(format!("the settings say no socket: add socket = \"{SOCKET}\", or use --socket"))
        })?;
        let containerd = self.containerd.as_ref().or(settings.containerd.as_ref());
        let containerd = containerd.map(|address| absolute(address)).transpose()?;
        let metrics = match (&self.metrics, &settings.metrics) {
            (None, Some(address)) => Some(address.parse()?),
            (address, _) => address.clone(),
        };
        let options = Options { socket: absolute(socket)?, containerd, metrics };
        let mut config = settings.store(session.config().clone())?;
        config.owner = self.owner.clone().or(settings.owner).unwrap_or_else(|| OWNER.to_owned());
        check_privilege()?;
        let store = registry::open(&config)?;
        let (backend, durability) = (store.backend().capabilities().name, store.durability().as_str());
        let (root, owner) = (config.root.display(), &config.owner);
        tracing::info!(%root, backend, durability, owner, socket = %options.socket.display(), "serving");
        containerd::serve(store, &options, tell_ready)?;
        Ok(())
    }
}

/// Tells the service manager, if one started this.
fn tell_ready() -> Result<()> {
    let failed = |error| Error::new(ErrorKind::Io, "telling the service manager").with_source(error);
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).map_err(failed)
}
