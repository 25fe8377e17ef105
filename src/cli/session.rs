//! The global options as commands use them: the store, the output and the log.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::output::Output;
use super::{Global, ROOT, stderr_is_terminal};
use crate::backend::StrategyOptions;
use crate::backends::{self, Config, Strategies};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::store::{Durability, Store};

/// The variable with a filter for the log, in the syntax of the `tracing-subscriber` crate.
const LOG_VARIABLE: &str = "STRATA_LOG";

/// Settings for opening a store, from the command line or from a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub root: Option<PathBuf>,
    /// Name of a strategy, or `auto`.
    pub backend: Option<String>,
    pub durability: Option<Durability>,
}

/// One run of the command.
#[derive(Debug)]
pub(super) struct Session {
    #[cfg(feature = "containerd")]
    said: Said,
    config: Config,
    quiet: bool,
    verbose: bool,
    pub output: Output,
    /// The exit status of a command that succeeds: 0, or that of a container.
    pub status: Cell<u8>,
    /// The exit status of a command that fails, if it is not the usual one.
    pub failure: Cell<Option<u8>>,
}

impl Session {
    pub fn new(global: Global, output: Output, strategies: Strategies) -> Result<Self> {
        let said = Said { root: global.root(), backend: global.backend, durability: global.durability };
        Ok(Self {
            config: config(&said, global.options, strategies)?,
            #[cfg(feature = "containerd")]
            said,
            quiet: global.quiet,
            verbose: global.verbose > 0,
            output,
            status: Cell::new(0),
            failure: Cell::new(None),
        })
    }

    /// Returns the configuration of the store: settings of the command line, and those in `otherwise` for the rest.
    #[cfg(feature = "containerd")]
    pub fn config_or(&self, otherwise: Said) -> Result<Config> {
        let Said { root, backend, durability } = self.said.clone();
        let said = Said {
            root: root.or(otherwise.root),
            backend: backend.or(otherwise.backend),
            durability: durability.or(otherwise.durability),
        };
        config(&said, self.config.options.clone(), self.config.strategies.clone())
    }

    /// Returns the configuration of the store.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the strategies that the program knows.
    pub fn strategies(&self) -> &Strategies {
        &self.config.strategies
    }

    /// Opens the store, or makes it: for commands that put something into it.
    pub fn make_store(&self) -> Result<Store> {
        check_privilege()?;
        backends::open(&self.config)
    }

    /// Opens the store, for commands that change it.
    pub fn store_to_change(&self) -> Result<Store> {
        let store = self.store()?;
        check_privilege().map(|()| store)
    }

    /// Opens the store if there is one, for commands that print nothing without a store.
    pub fn find_store(&self) -> Result<Option<Store>> {
        backends::find(&self.config)
    }

    /// Opens the store, for commands that read it.
    pub fn store(&self) -> Result<Store> {
        self.find_store()?.ok_or_else(|| no_store(&self.config.root))
    }

    /// Returns true if progress is drawn: on a terminal, without `--quiet`.
    pub fn draws(&self) -> bool {
        !self.quiet && stderr_is_terminal()
    }

    /// Returns true with `--quiet`.
    pub fn is_quiet(&self) -> bool {
        self.quiet || self.output.is_json()
    }

    /// Returns true if progress is printed as lines where it cannot be drawn.
    pub fn tells(&self) -> bool {
        self.verbose
    }
}

fn config(said: &Said, options: StrategyOptions, strategies: Strategies) -> Result<Config> {
    let root = said.root.as_deref().unwrap_or(Path::new(ROOT));
    let root = std::path::absolute(root).at("find the directory", root)?;
    let backend = said.backend.as_ref().map_or(Ok(None), |name| strategies.find(name))?;
    let durability = said.durability.unwrap_or_default();
    Ok(Config { backend, options, durability, strategies, ..Config::new(root) })
}

/// Fails unless the caller is root, at least in a user namespace: snapshots hold files of any owner.
pub(super) fn check_privilege() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let message = "strata changes a store as root only: run it as root, or as the root of a user namespace of your own \
                   (in one shell: unshare -rm --map-auto, then strata --root ~/strata ...)";
    Err(Error::new(ErrorKind::PermissionDenied, message))
}

fn no_store(root: &Path) -> Error {
    Error::not_found(format!(
        "there is no store at {}: strata prepare or strata import makes one; --root or STRATA_ROOT names another",
        root.display()
    ))
}

/// Level and form of the log without options.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    level: LevelFilter,
    json: bool,
    /// True if lines have a time. A service manager adds its own, a file does not.
    timed: bool,
}

impl Log {
    /// Returns the log of a command: warnings, if a person sees them.
    pub fn of_command() -> Self {
        let level = if stderr_is_terminal() { LevelFilter::WARN } else { LevelFilter::OFF };
        Self { level, json: false, timed: false }
    }

    /// Returns the log of a daemon: everything that it does.
    #[cfg(feature = "containerd")]
    pub fn of_daemon(json: bool) -> Self {
        Self { level: LevelFilter::INFO, json, timed: json || std::env::var_os("JOURNAL_STREAM").is_none() }
    }
}

/// Sends the log to standard error. The level is that in `STRATA_LOG`, else it follows from the number of `-v`, else
/// `usual` has it.
pub(super) fn start_logging(global: &Global, usual: Log) -> Result<()> {
    let level = match global.verbose {
        0 if global.quiet => LevelFilter::OFF,
        0 => usual.level,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(filter) if !filter.is_empty() => Some(EnvFilter::try_new(&filter).map_err(|error| {
            Error::invalid(format!("{LOG_VARIABLE}={filter:?} is no filter for logs: try info")).with_source(error)
        })?),
        _ if level == LevelFilter::OFF => return Ok(()),
        _ => None,
    };
    let named = filter.is_some();
    // The libraries below a daemon log much at each level.
    let filter = filter.unwrap_or_else(|| EnvFilter::new(format!("warn,strata={level}")));
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(stderr_is_terminal()).with_env_filter(filter);
    // A program that uses this as a library may have a log already, which stays.
    let _ = match (usual.json, usual.timed) {
        (true, _) => log.json().flatten_event(true).with_target(false).try_init(),
        (false, true) => log.with_target(named).try_init(),
        (false, false) => log.without_time().with_target(named).try_init(),
    };
    Ok(())
}
