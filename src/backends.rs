//! The table of strategies, and how a store is opened or made with one of them.
//!
//! This is the only file that names all strategies. The choice is made once, when the store is made, and the store's
//! database keeps it. A later wish for another strategy is an error that names both.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::backend::{Backend, Strategy, StrategyOption, StrategyOptions, Variant};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::scratch::FsType;
use crate::store::{Database, Durability, LOCAL, Store};

pub use crate::backend::btrfs::STRATEGY as BTRFS;
pub use crate::backend::copy::STRATEGY as COPY;
pub use crate::backend::overlay::STRATEGY as OVERLAY;

/// The strategies of this crate, in the order in which `auto` prefers them.
const STANDARD: [Strategy; 3] = [BTRFS, OVERLAY, COPY];

/// The strategies that a program knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strategies(Vec<Strategy>);

impl Default for Strategies {
    /// Returns the strategies of this crate.
    fn default() -> Self {
        Self(STANDARD.to_vec())
    }
}

impl Strategies {
    /// Returns these strategies and `strategy`, which `auto` prefers least. It replaces one of the same name.
    #[must_use]
    pub fn with(mut self, strategy: Strategy) -> Self {
        self.0.retain(|known| *known != strategy);
        self.0.push(strategy);
        self
    }

    /// Returns the strategies in the order in which `auto` prefers them.
    pub fn iter(&self) -> impl Iterator<Item = Strategy> {
        self.0.iter().copied()
    }

    /// Returns the strategy called `name`; `None` for `auto`.
    ///
    /// # Errors
    /// `InvalidArgument` that lists the names.
    pub fn find(&self, name: &str) -> Result<Option<Strategy>> {
        match self.iter().find(|strategy| strategy.name == name) {
            None if name != AUTO => {
                let known = self.names().join(", ");
                Err(Error::invalid(format!("{name:?} is no backend: {known}")))
            }
            found => Ok(found),
        }
    }

    /// Returns the names that [`Self::find`] knows.
    pub fn names(&self) -> Vec<&'static str> {
        [AUTO].into_iter().chain(self.iter().map(|strategy| strategy.name)).collect()
    }

    /// Returns the options that strategies have of their own, without repetitions.
    pub fn options(&self) -> Vec<StrategyOption> {
        let mut options: Vec<StrategyOption> = Vec::new();
        for option in self.iter().flat_map(|strategy| strategy.options) {
            if options.iter().all(|known| known.name != option.name) {
                options.push(*option);
            }
        }
        options
    }

    /// Returns the settings on `fs` that people use: each variant whose usual file systems include it.
    pub fn settings_on(&self, fs: FsType) -> Vec<Setting> {
        let all = self.variants().into_iter().map(|(strategy, variant)| Setting { strategy, variant, fs });
        all.filter(Setting::is_usual).collect()
    }

    /// Returns the variants of all strategies.
    pub fn variants(&self) -> Vec<(Strategy, Variant)> {
        let of_each = |strategy: Strategy| strategy.variants.iter().map(move |variant| (strategy, *variant));
        self.iter().flat_map(of_each).collect()
    }
}

/// A way of making snapshots on a type of file system: what is compared, judged, tested and measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The strategy.
    pub strategy: Strategy,
    /// The values of its options.
    pub variant: Variant,
    /// The file system that holds the store.
    pub fs: FsType,
}

impl Setting {
    /// Returns true if people use the variant on the file system.
    pub fn is_usual(&self) -> bool {
        self.variant.usual_file_systems.contains(&self.fs.as_str())
    }

    /// Returns why the variant cannot live on the file system; `None` if it can.
    pub fn impossible(&self) -> Option<&'static str> {
        self.variant.impossible_on(self.fs.as_str())
    }

    /// Returns its name in tables: `copy+reflink on xfs`.
    pub fn name(&self) -> String {
        self.to_string()
    }

    /// Opens the backend for the snapshots below `root`.
    ///
    /// # Errors
    /// Errors of [`Strategy::open`].
    pub fn backend(&self, root: &Path) -> Result<Box<dyn Backend>> {
        (self.strategy.open)(root, &self.variant.options())
    }

    /// Returns the configuration of a store of this setting at `root`.
    pub fn config(&self, root: impl Into<PathBuf>) -> Config {
        Config::of_variant(root, self.strategy, self.variant)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.variant.name, self.fs)
    }
}

/// The name by which the command line lets strata choose: btrfs where the root lies on btrfs, else overlay where the
/// kernel and the file system can, else copy.
pub const AUTO: &str = "auto";

/// Parameters for opening a store.
#[derive(Clone, Debug)]
pub struct Config {
    /// The store's directory.
    pub root: PathBuf,
    /// The strategy of a store that is yet to be made; `None` for the first that works.
    pub backend: Option<Strategy>,
    /// Values of the strategies' own options.
    pub options: StrategyOptions,
    /// Durability of a store that is created.
    pub durability: Durability,
    /// The owner whose snapshots the store shows.
    pub owner: String,
    /// The strategies to choose from.
    pub strategies: Strategies,
}

impl Config {
    /// Returns the configuration of the store at `root` as the command line opens it without options.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            backend: None,
            options: StrategyOptions::default(),
            durability: Durability::Commit,
            owner: LOCAL.to_owned(),
            strategies: Strategies::default(),
        }
    }

    /// Returns the configuration of a store at `root` that is made with this variant of `strategy`. The strategy may be
    /// another crate's.
    pub fn of_variant(root: impl Into<PathBuf>, strategy: Strategy, variant: Variant) -> Self {
        Self {
            backend: Some(strategy),
            options: variant.options(),
            strategies: Strategies::default().with(strategy),
            ..Self::new(root)
        }
    }
}

/// Opens the store, or makes it.
///
/// # Errors
/// `FailedPrecondition` if it was made with another backend than the wished one, or the directory holds something else;
/// `Unsupported` with the reason if the strategy cannot work there; what [`Database::open`] reports.
pub fn open(config: &Config) -> Result<Store> {
    if let Some(store) = find(config)? {
        return Ok(store);
    }
    let fresh = !config.root.exists();
    std::fs::create_dir_all(&config.root).at("make the directory", &config.root)?;
    let root = config.root.canonicalize().at("open the directory", &config.root)?;
    // A backend begins by making a directory, and it must not do so in a stranger's.
    Database::check_root(&root)?;
    let made = backend(&root, config).inspect_err(|_| {
        if fresh {
            // Nothing was put into it; if it cannot be removed, an empty directory is left.
            let _ = std::fs::remove_dir(&root);
        }
    })?;
    Store::new(Database::create(&root, config.durability)?, made, &config.owner)
}

/// Opens the store if there is one.
///
/// # Errors
/// As [`open`].
pub fn find(config: &Config) -> Result<Option<Store>> {
    let Some(database) = Database::open(&config.root)? else { return Ok(None) };
    let Some(marker) = database.backend().map(str::to_owned) else { return Ok(None) };
    if let Some(wished) = config.backend.filter(|wished| wished.name != marker) {
        return Err(Error::precondition(format!(
            "the store {} was made with the backend {marker}, and {wished} was asked for: leave --backend out, or choose \
             another --root",
            config.root.display()
        )));
    }
    let known = config.strategies.iter().find(|strategy| strategy.name == marker);
    let strategy = known.ok_or_else(|| {
        let root = config.root.display();
        Error::unsupported(format!(
            "the store {root} was made with the backend {marker:?}, which this strata does not have"
        ))
    })?;
    let made = (strategy.open)(database.root(), &config.options)?;
    Store::new(database, made, &config.owner).map(Some)
}

/// Opens the backend that `config` asks for, for the snapshots below `root`.
fn backend(root: &Path, config: &Config) -> Result<Box<dyn Backend>> {
    match config.backend {
        Some(strategy) => (strategy.open)(root, &config.options),
        None => automatic(root, config),
    }
}

fn automatic(root: &Path, config: &Config) -> Result<Box<dyn Backend>> {
    let mut last = None;
    for strategy in config.strategies.iter() {
        match (strategy.open)(root, &config.options) {
            Ok(made) => {
                tracing::info!(root = %root.display(), backend = strategy.name, "chosen");
                return Ok(made);
            }
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                tracing::info!(root = %root.display(), backend = strategy.name, why = error.chain(), "not chosen");
                last = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::unsupported("no strategy is available")))
}
