//! The command that serves a store to containerd.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Deserialize;

use super::Done;
use super::limits::LayerLimits;
use super::session::{Said, Session, check_privilege};
use crate::backends;
use crate::containerd::plugin_config::{self, Version};
use crate::containerd::{self, Address, Options};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Platform;
use crate::store::Durability;
use crate::task::Cancel;

/// Default owner of the snapshots that a daemon serves.
const OWNER: &str = "containerd";

/// Where the settings say that the daemon listens if nobody says.
const SOCKET: &str = "/run/strata/strata.sock";

/// Serve the store to containerd, as a snapshotter
///
/// Answers on a unix socket until SIGTERM or SIGINT; makes the store if there is none. The snapshots are those of the
/// owner: the command line sees its own only, and can be used meanwhile. containerd collects as garbage what it does
/// not know, so each containerd needs an owner of its own.
///
/// The file of --config may say socket, owner, containerd, metrics, strict, root, backend and durability; what the
/// command line says wins. Logs go to standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  strata serve --socket /run/strata/strata.sock")]
pub(super) struct Serve {
    /// The socket: made with mode 0600, its directory, if it is missing, with 0700
    #[arg(long, value_name = "PATH", required_unless_present_any = ["config", "print_config"])]
    socket: Option<PathBuf>,
    /// The owner whose snapshots are served [default: containerd]
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// The socket of the containerd that is served: its content store is read and written, so that layers follow
    /// strata's rules
    #[arg(long, value_name = "ADDRESS")]
    containerd: Option<PathBuf>,
    /// Serve figures for Prometheus, at /metrics: on a port of this machine alone (127.0.0.1:9090) or a socket
    /// (/run/...)
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<Address>,
    /// Refuse a layer of an image that another differ than strata's wrote, instead of marking it as unverified. Not for
    /// containerd 1.6, which writes every layer itself
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    limits: LayerLimits,
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

/// The content of a file of settings.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    socket: Option<PathBuf>,
    owner: Option<String>,
    containerd: Option<PathBuf>,
    metrics: Option<String>,
    strict: Option<bool>,
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

    /// The file's settings of how the store is opened.
    fn store(&self) -> Result<Said> {
        let known = [Durability::Commit, Durability::None];
        let durability = |text: &String| {
            let found = known.into_iter().find(|known| known.as_str() == text);
            found.ok_or_else(|| Error::invalid(format!("{text:?} is no durability: commit, none")))
        };
        Ok(Said {
            root: self.root.clone(),
            backend: self.backend.clone(),
            durability: self.durability.as_ref().map(durability).transpose()?,
        })
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
            let root = session.config_or(settings.store()?)?.root;
            let platform = Platform::host().to_string();
            return Ok(session.output.text(&plugin_config::settings(version, &absolute(socket)?, &root, &platform))?);
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
        let strict = self.strict || settings.strict.unwrap_or_default();
        let limits = self.limits.options(&Cancel::default());
        let options = Options { socket: absolute(socket)?, containerd, metrics, strict, limits };
        let mut config = session.config_or(settings.store()?)?;
        config.owner = self.owner.clone().or(settings.owner).unwrap_or_else(|| OWNER.to_owned());
        check_privilege()?;
        let store = backends::open(&config)?;
        let (backend, durability) = (store.backend().capabilities().name, store.durability().as_str());
        let (root, owner, socket) = (config.root.display(), &config.owner, options.socket.display());
        containerd::serve(store, &options, || {
            tracing::info!(%root, backend, durability, owner, %socket, "serving");
            tell_ready()
        })?;
        Ok(())
    }
}

/// Tells the service manager, if one started this.
fn tell_ready() -> Result<()> {
    let failed = |error| Error::new(ErrorKind::Io, "telling the service manager").with_source(error);
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::backends::{COPY, Strategies};
    use crate::cli::output::Output;

    #[test]
    fn what_the_command_line_says_wins_even_where_it_is_the_default() {
        let file = Settings {
            root: Some("/elsewhere".into()),
            backend: Some("copy".to_owned()),
            durability: Some("none".to_owned()),
            ..Settings::default()
        };
        let opened = |line: &str| {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let parsed = crate::cli::parse(&arguments, &Strategies::default()).expect(line);
            let session = Session::new(parsed.global, Output::new(false), Strategies::default()).expect(line);
            session.config_or(file.store().expect("settings")).expect(line)
        };
        let by_file = opened("strata serve --config f");
        assert_eq!((by_file.backend, by_file.durability), (Some(COPY), Durability::None));
        let by_both = opened("strata serve --config f --backend auto");
        assert_eq!((by_both.backend, by_both.durability), (None, Durability::None));
        let by_line = opened("strata --root /var/lib/strata --backend auto --durability commit serve --config f");
        assert_eq!(by_line.root, Path::new(crate::cli::ROOT));
        assert_eq!((by_line.backend, by_line.durability), (None, Durability::Commit));
    }
}
