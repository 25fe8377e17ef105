//! A strategy as an entry of the table of strategies: all that the rest of the program knows of it besides its
//! [`Backend`].
//!
//! The command line, `compare`, `conformance`, the tests and the benchmarks read these entries and name no strategy
//! themselves. A strategy of another crate has such an entry too.

use std::fmt;
use std::path::Path;

use super::Backend;
use crate::error::{Error, Result};

/// A strategy that stores can be made with. Two entries are equal if their names are.
#[derive(Clone, Copy)]
pub struct Strategy {
    /// Name on the command line and in the store's database, such as `overlay`.
    pub name: &'static str,
    /// One line about it for people.
    pub summary: &'static str,
    /// Opens the snapshots below a root directory, an absolute path.
    ///
    /// The function answers `Unsupported`, with the reason and the cure, where the kernel or the file system cannot do
    /// what the strategy needs.
    pub open: fn(&Path, &StrategyOptions) -> Result<Box<dyn Backend>>,
    /// Options of its own.
    pub options: &'static [StrategyOption],
    /// Ways of using it that are compared and judged one by one, the usual one first.
    pub variants: &'static [Variant],
}

/// An option that a strategy has of its own. The command line offers it as `--NAME VALUE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrategyOption {
    /// Name, such as `clone`.
    pub name: &'static str,
    /// One line about it for people.
    pub help: &'static str,
    /// The values that it can have, the default first.
    pub values: &'static [&'static str],
}

/// A strategy with certain values of its own options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Name in tables and on the command line of `compare` and `conformance`, such as `copy+reflink`.
    pub name: &'static str,
    /// Values of the strategy's options, by name. The others have their defaults.
    pub options: &'static [(&'static str, &'static str)],
    /// The kernel's names of the file systems that it can live on; empty if it can live on any.
    pub file_systems: &'static [&'static str],
    /// The file systems that people use it on, the most usual first.
    pub usual_file_systems: &'static [&'static str],
    /// Why it cannot live on others than `file_systems`.
    pub why_not_others: &'static str,
    /// True if each snapshot takes the space of its whole tree.
    pub copies_all_bytes: bool,
}

impl Variant {
    /// Returns why the variant cannot live on the file system that the kernel calls `fs`; `None` if it can.
    pub fn impossible_on(&self, fs: &str) -> Option<&'static str> {
        (!self.file_systems.is_empty() && !self.file_systems.contains(&fs)).then_some(self.why_not_others)
    }

    /// Returns its options.
    pub fn options(&self) -> StrategyOptions {
        self.options.iter().fold(StrategyOptions::default(), |all, (name, value)| all.with(name, value))
    }
}

impl PartialEq for Strategy {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Strategy {}

impl fmt::Debug for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Strategy").field(&self.name).finish()
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// Values of strategies' own options, by name. An option that is not named has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StrategyOptions(Vec<(String, String)>);

impl StrategyOptions {
    /// Returns the options with `name` set to `value`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns the value of `option`, or its default.
    ///
    /// # Errors
    /// `InvalidArgument` for a value that the option cannot have.
    pub fn get(&self, option: &StrategyOption) -> Result<&str> {
        let given = self.0.iter().find(|(name, _)| name == option.name).map(|(_, value)| value.as_str());
        let value = given.or(option.values.first().copied()).unwrap_or_default();
        if option.values.contains(&value) {
            return Ok(value);
        }
        let (name, known) = (option.name, option.values.join(", "));
        Err(Error::invalid(format!("{value:?} is no value of --{name}: {known}")))
    }
}
