//! The global options: which store is used, what is printed, what is logged.

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

/// Settings of how a store is opened, from the command line or from a file.
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
    /// The exit status of a command that fails, if it is not that of most.
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

    /// How the store is opened where `otherwise` says what the command line does not.
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

    /// How the store is opened.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The strategies that the program knows.
    pub fn strategies(&self) -> &Strategies {
        &self.config.strategies
    }

    /// The store, made if there is none: for commands that put something into it.
    pub fn make_store(&self) -> Result<Store> {
        check_privilege()?;
        backends::open(&self.config)
    }

    /// The store, for commands that change what is in it.
    pub fn store_to_change(&self) -> Result<Store> {
        let store = self.store()?;
        check_privilege().map(|()| store)
    }

    /// The store, if there is one: for commands that answer emptily without.
    pub fn find_store(&self) -> Result<Option<Store>> {
        backends::find(&self.config)
    }

    /// The store, for commands that look at something in it.
    pub fn store(&self) -> Result<Store> {
        self.find_store()?.ok_or_else(|| no_store(&self.config.root))
    }

    /// Whether progress may be drawn: on a terminal, unless it was asked to be quiet.
    pub fn draws(&self) -> bool {
        !self.quiet && stderr_is_terminal()
    }

    /// Whether a command is to be silent about what it does.
    pub fn is_quiet(&self) -> bool {
        self.quiet || self.output.is_json()
    }

    /// Whether progress is told in lines where it cannot be drawn.
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

/// Snapshots hold files of any owner: that takes root, be it of a user namespace only.
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

/// How much is logged where nobody says, and in which form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    level: LevelFilter,
    json: bool,
    /// Whether lines have a time: a service manager adds its own, a file does not.
    timed: bool,
}

impl Log {
    /// A command warns a person, and nobody else.
    pub fn of_command() -> Self {
        let level = if stderr_is_terminal() { LevelFilter::WARN } else { LevelFilter::OFF };
        Self { level, json: false, timed: false }
    }

    /// A daemon says what it does.
    #[cfg(feature = "containerd")]
    pub fn of_daemon(json: bool) -> Self {
        Self { level: LevelFilter::INFO, json, timed: json || std::env::var_os("JOURNAL_STREAM").is_none() }
    }
}

/// Sends the log to standard error: what `STRATA_LOG` says, else by the number of `-v`, else what `usual` says.
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
    // The libraries below a daemon have much to say at each level.
    let filter = filter.unwrap_or_else(|| EnvFilter::new(format!("warn,strata={level}")));
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(stderr_is_terminal()).with_env_filter(filter);
    // Somebody who runs this as a library may have a log already: theirs stays.
    let _ = match (usual.json, usual.timed) {
        (true, _) => log.json().flatten_event(true).with_target(false).try_init(),
        (false, true) => log.with_target(named).try_init(),
        (false, false) => log.without_time().with_target(named).try_init(),
    };
    Ok(())
}
